"""The registry: names and suggestions, options checked by type hint, variants, and plugins of third parties."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robench import registry
from robench.registry import Variant, parse_options
from tests.complaints import complaint

Install = Callable[..., None]

MINE = '''
from typing import Literal
from robench import Attack, Variant

class Mine(Attack):
    """An attack of one's own.

    And more about it."""

    def __init__(
        self, *, count: int = 3, size: float = 0.5, kind: Literal["a", "b"] = "a", loud: bool = False,
        width: int | None = None, name: str = "x",
    ) -> None:
        self.given = (count, size, kind, loud, width, name)

    def perturb(self, model, batch):
        return batch.x

mine_b = Variant(Mine, "The same with kind b.", {"kind": "b", "count": 7})
'''


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Install]:
    """Makes entry points from names and values, and module files from keywords."""
    monkeypatch.syspath_prepend(tmp_path)
    registry._loaded.cache_clear()

    def put(entries: dict[str, str], **modules: str) -> None:
        for module, text in modules.items():
            (tmp_path / f"{module}.py").write_text(text)
        made = {name: EntryPoint(name, value, "robench.attacks") for name, value in entries.items()}
        monkeypatch.setattr(registry, "_entries", lambda kind: made)

    yield put
    registry._loaded.cache_clear()
    for name in [name for name in sys.modules if name.startswith("third_")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        ("defense", "standrad", "standard"),
        ("defense", "paradise_pm", "paradise-pm"),
        ("defense", "DVIB", "dvib"),
        ("attack", "multitargeted", "multi-targeted"),
        ("attack", "pdg", "pgd"),
        ("attack", "FGSM", "fgsm"),
    ],
)
def test_unknown_name_suggests_the_nearest(kind: str, wrong: str, right: str) -> None:
    text = complaint(lambda: registry.load(kind, wrong))
    assert repr(wrong) in text
    assert f"did you mean {right!r}?" in text
    assert all(name in text for name in registry.names(kind))


def test_nothing_near_lists_all() -> None:
    text = complaint(lambda: registry.load("attack", "zzzzzz"))
    assert "did you mean" not in text
    assert "fgsm" in text


@pytest.fixture
def mine(install: Install) -> registry.Plugin:
    install({"mine": "third_mine:Mine"}, third_mine=MINE)
    return registry.load("attack", "mine")


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("count", "12", 12), ("count", 12, 12), ("count", "-1", -1),
        ("size", "1e-3", 1e-3), ("size", "2", 2.0), ("size", 1, 1.0),
        ("kind", "b", "b"),
        ("loud", "true", True), ("loud", "True", True), ("loud", "1", True),
        ("loud", "no", False), ("loud", "0", False),
        ("width", "9", 9), ("width", None, None),
        ("name", "12", "12"), ("name", "", ""), ("name", 12, "12"), ("name", 0.01, "0.01"),
        ("name", 2 / 255, "2/255"), ("name", Fraction(1, 4), "1/4"), ("name", np.float32(0.01), "0.01"),
        ("width", "none", None), ("size", Fraction(1, 4), 0.25), ("name", "none", "none"),
    ],
)  # fmt: skip
def test_option_is_read_by_its_type_hint(mine: registry.Plugin, option: str, text: Any, value: Any) -> None:
    found = mine.options({option: text})[option]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("count", "abc"), ("count", "1.5"), ("count", ""), ("count", None), ("count", "1e3"),
        ("size", "x"), ("size", "nan"), ("size", "inf"), ("size", "-inf"),
        ("kind", "c"), ("kind", "A"),
        ("loud", "perhaps"), ("loud", "2"),
        ("width", "wide"), ("width", "1.5"),
        ("name", True), ("name", None), ("count", "none"),
    ],
)  # fmt: skip
def test_option_of_the_wrong_type_is_refused(mine: registry.Plugin, option: str, text: Any) -> None:
    said = complaint(lambda: mine.options({option: text}))
    assert option in said
    assert repr(text) in said
    assert repr(mine.options({})[option]) in said


def test_defaults_and_built_plugin(mine: registry.Plugin) -> None:
    assert mine.options({}) == {"count": 3, "size": 0.5, "kind": "a", "loud": False, "width": None, "name": "x"}
    assert mine.build({"count": "5", "loud": "yes"}).given == (5, 0.5, "a", True, None, "x")


def test_unknown_option_suggests_the_nearest(mine: registry.Plugin) -> None:
    assert "did you mean 'count'?" in complaint(lambda: mine.options({"cuont": "1"}))
    assert "'mine'" in complaint(lambda: mine.options({"self": "1"}))


FAMILY = '''
import inspect
from robench import Attack

class Shades(Attack):
    """Attacks by shade."""

    family = True

    @classmethod
    def members(cls):
        return ["Dark", "Light", "Pale"]

    @classmethod
    def member_options(cls, member):
        option = inspect.Parameter("depth", inspect.Parameter.KEYWORD_ONLY, default=2, annotation=int)
        return {"depth": option if member != "Pale" else option.replace(default=inspect.Parameter.empty)}

    def __init__(self, member, **options):
        self.given = (member, options)

    def perturb(self, model, batch):
        return batch.x
'''


def test_a_family_serves_a_name_for_every_member(install: Install) -> None:
    install({"shades": "third_shades:Shades", "mine": "third_mine:Mine"}, third_shades=FAMILY, third_mine=MINE)
    registry.check_names("attack", ["shades:Dark", "shades:Anything", "mine"])
    plugin = registry.load("attack", "shades:Dark")
    assert (plugin.name, plugin.options({"depth": "5"})) == ("shades:Dark", {"depth": 5})
    assert plugin.build({}).given == ("Dark", {"depth": 2})
    assert "did you mean 'depth'?" in complaint(lambda: plugin.options({"deep": "1"}))
    assert "type int" in complaint(lambda: plugin.options({"depth": "x"}))
    pale = registry.load("attack", "shades:Pale")
    assert pale.options({}) == {}
    assert "-o depth=VALUE" in complaint(lambda: pale.build({}))
    assert pale.build({"depth": 1}).given == ("Pale", {"depth": 1})


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("shades", "such as shades:Dark"), ("shades:dark", "did you mean 'Dark'?"), ("shades:", "Dark, Light, Pale"),
        ("mine:Dark", "no attack named 'mine:Dark'"), ("hades:Dark", "no attack named 'hades:Dark'"),
    ],
)  # fmt: skip
def test_a_family_refuses_other_names(install: Install, name: str, says: str) -> None:
    install({"shades": "third_shades:Shades", "mine": "third_mine:Mine"}, third_shades=FAMILY, third_mine=MINE)
    assert says in complaint(lambda: registry.load("attack", name))


def test_variant_is_its_base_with_other_defaults(install: Install) -> None:
    install({"mine": "third_mine:Mine", "mine-b": "third_mine:mine_b"}, third_mine=MINE)
    base, variant = registry.load("attack", "mine"), registry.load("attack", "mine-b")
    assert variant.base is base.base
    assert variant.options({})["kind"] == "b"
    assert variant.options({"kind": "a"}) == {**base.options({}), "count": 7}
    assert variant.build({}).given[:3] == (7, 0.5, "b")


@pytest.mark.parametrize("name", ["dvib-pm", "paradise-pm"])
def test_posterior_matching_is_a_preset(name: str) -> None:
    plain, matched = (registry.load("defense", n) for n in (name.removesuffix("-pm"), name))
    assert matched.base is plain.base
    assert plain.options({})["gamma"] == 0.0
    assert matched.options({})["gamma"] == 25.0
    assert set(matched.options({})) == set(plain.options({}))


def test_a_variants_recipes_replace_the_bases() -> None:
    class Base:
        recipes = {"other": {"quick": 1}}

    assert Variant(Base, "x").recipes is None
    assert registry.load("defense", "dvib-pm").recipes is not registry.load("defense", "dvib").recipes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("third_absent:Mine", None),
        ("third_absent.inner:Mine", None),
        ("third_broken:Mine", "import third_not_there\n"),
        ("third_broken:Mine", "def f(:\n"),
        ("third_broken:Mine", "x = 1\n"),
        ("third_broken:Mine", "raise ValueError('no luck')\n"),
        ("third_broken:Mine", "print(undefined_name)\n"),
    ],
    ids=["no-module", "no-package", "its-import-fails", "syntax", "no-attribute", "raises", "undefined"],
)
def test_a_plugin_that_cannot_be_loaded_is_named(install: Install, value: str, text: str | None) -> None:
    install({"bad": value}, **({"third_broken": text} if text else {}))
    said = complaint(lambda: registry.load("attack", "bad"))
    assert "'bad'" in said
    assert value in said


@pytest.mark.parametrize(
    ("value", "text"),
    [("third_absent.inner:Mine", None), ("third_absent:Mine", None), ("third_broken:Mine", "def f(:\n")],
    ids=["no-package", "no-module", "syntax"],
)
def test_one_bad_plugin_does_not_hide_the_others(install: Install, value: str, text: str | None) -> None:
    install({"bad": value, "mine": "third_mine:Mine"}, third_mine=MINE, **({"third_broken": text} if text else {}))
    assert registry.summaries("attack")["mine"] == "An attack of one's own."


def test_summaries_import_nothing(install: Install) -> None:
    install(
        {"mine": "third_mine:Mine", "mine-b": "third_mine:mine_b"},
        third_mine=MINE + "\nraise RuntimeError('imported')\n",
    )
    assert registry.summaries("attack") == {"mine": "An attack of one's own.", "mine-b": "The same with kind b."}
    assert "third_mine" not in sys.modules


def test_summaries_of_the_installed_plugins_need_no_torch() -> None:
    code = (
        "import sys; from robench import registry\n"
        "found = {**registry.summaries('attack'), **registry.summaries('defense')}\n"
        "assert all(text.endswith('.') for text in found.values()), found\n"
        "assert set(found) == {*registry.names('attack'), *registry.names('defense')}\n"
        "print(sorted({'torch', 'robench_attacks.pgd', 'robench_defenses.dvib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_from_texts() -> None:
    assert parse_options(["a=1", "b-c = x ", "d=", "e=f=g"]) == {"a": "1", "b_c": "x", "d": "", "e": "f=g"}
    assert "'steps'" in complaint(lambda: parse_options(["steps"]))
    assert "'=3'" in complaint(lambda: parse_options(["=3"]))
    assert "'b_c'" in complaint(lambda: parse_options(["b-c=1", "b_c=2"]))


def test_a_set_may_have_other_members_in_a_norm() -> None:
    linf, l2 = registry.expand(["guess-first"], "linf"), registry.expand(["guess-first"], "l2")
    assert [name for name, _ in linf] == ["fgsm", "pgd"]
    assert [name for name, _ in l2] == ["cw"]
    reach = [options for name, options in registry.expand(["er"], "l2") if name == "pgd"]
    assert reach == [{"steps": 40}]  # 40 steps of 0.01 would end 0.4 away, whatever eps is
    assert registry.expand(["paradise"], "l2") == registry.expand(["paradise"], "linf")


def test_the_summary_of_a_plugin_that_cannot_be_read_says_who_tells_why() -> None:
    for module in ("nowhere_at_all", "robench.nothing"):
        told = registry._summary(EntryPoint("mine", f"{module}:Mine", "robench.attacks"))
        assert told == "cannot be read; 'robench test-plugin mine' says why"

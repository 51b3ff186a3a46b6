"""A stranger's package: docs/attack.md as written is accepted, and plugins that break a rule are told which."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import robench
from tests.forked import PATIENCE
from tests.integration.conftest import Outcome, assert_refused, run_forked

PAGES = [Path(robench.__file__).parents[1] / "docs" / f"{name}.md" for name in ("attack", "defense", "plugins")]
DOCS = "".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```(?:python|toml)\n(.*?)```", DOCS, re.DOTALL)

# what these pages show outside of its package, by the names they get here
SHOWN = {
    "attack": {"ten-steps": "TenSteps", "shades": "Shades"},
    "defense": {"smoothed": "Smoothed"},
    "detector": {"confidence": "Confidence"},
}

# those, and what the broken ones are made of
SOUND = ["ten-steps", "shades:Dark", "smoothed", "confidence", "plain", "mean"]

HEAD = """
import os
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from robench import Attack, Cost, Defense, Detector, Recipe, margin

RECIPES = {"other": {"quick": Recipe(epochs=1, lr=1e-3)}}


class Plain(Defense):
    recipes = RECIPES

    def __init__(self, data):
        super().__init__(data)
        self.head = nn.Linear(data.channels * data.height * data.width, data.classes)

    def forward(self, x):
        return self.head(x.flatten(1))

    def loss(self, x, y):
        return {"total": functional.cross_entropy(self(x), y)}


class Mean(Detector):
    def fit(self, model, train):
        self.keep("mean", train.pixels(slice(None)).mean(0))

    def features(self, model, x):
        return model(x), (x - self.mean).square().flatten(1).mean(1, keepdim=True)
"""

# kind, the rule it breaks, part of what is seen, its class
BROKEN: dict[str, tuple[str, str, str, str]] = {
    "flat": ("attack", "shape", "float32 [5, 64]", """
class Flat(Attack):
    def perturb(self, model, batch):
        return batch.x.flatten(1)
"""),
    "double": ("attack", "shape", "float64", """
class Double(Attack):
    def perturb(self, model, batch):
        return batch.x.double()
"""),
    "undefined": ("attack", "finite pixels", "not finite", """
class Undefined(Attack):
    def perturb(self, model, batch):
        return batch.x * (batch.x - batch.x) / 0
"""),
    "raises": ("attack", "shape", "AttributeError", """
class Raises(Attack):
    def perturb(self, model, batch):
        return batch.nothing
"""),
    "divides": ("attack", "no perturbation at eps 0", "not finite", """
class Divides(Attack):
    def perturb(self, model, batch):
        return batch.x + (batch.uniform("noise") - 0.5) * batch.threat.radius**2 / batch.threat.radius
"""),
    "restless": ("attack", "same seed same proposals", "two calls", """
class Restless(Attack):
    def perturb(self, model, batch):
        return batch.x + 0.1 * torch.rand_like(batch.x)
"""),
    "scribbler": ("attack", "input unchanged", "batch.x", """
class Scribbler(Attack):
    def perturb(self, model, batch):
        return batch.x.add_(0.1)
"""),
    "deaf": ("attack", "options kept", "share is 0.25", """
class Deaf(Attack):
    def __init__(self, *, share: float = 0.5):
        self.share = 0.5

    def perturb(self, model, batch):
        return batch.x + self.share * batch.uniform("noise")
"""),
    "rounding": ("attack", "options kept", "share is 0.25", """
class Rounding(Attack):
    def __init__(self, *, share: float = 0.25):
        self.share = round(share, 1)

    def perturb(self, model, batch):
        return batch.x + self.share * batch.uniform("noise")
"""),
    "elsewhere": ("attack", "options as json", "PosixPath", """
class Elsewhere(Attack):
    def __init__(self, *, folder: Path = Path("/tmp")):
        self.folder = folder

    def perturb(self, model, batch):
        return batch.x
"""),
    "untyped": ("attack", "options as text", "'0.5'", """
class Untyped(Attack):
    def __init__(self, *, share=0.5):
        self.share = share

    def perturb(self, model, batch):
        return batch.x
"""),
    "unnamed": ("attack", "options by keyword", "share", """
class Unnamed(Attack):
    def __init__(self, share: float = 0.5):
        self.share = share

    def perturb(self, model, batch):
        return batch.x
"""),
    "numbered": ("attack", "rebuilt from its record", "different images", """
class Numbered(Attack):
    made = 0

    def __init__(self):
        Numbered.made += 1
        self.number = Numbered.made

    def perturb(self, model, batch):
        return batch.x + 0.1 * batch.uniform(str(self.number))
"""),
    "modest": ("attack", "cost", "backward passes: it states at most 1", """
class Modest(Attack):
    def passes(self, threat, classes):
        return Cost(1, 1)

    def perturb(self, model, batch):
        x = batch.x
        for _ in range(3):
            x = x + 0.01 * model.gradient(x, lambda logits: margin(logits, batch.y))[1].sign()
        return x
"""),
    "guessing": ("attack", "access", "backward", """
class Guessing(Attack):
    kind = "query"

    def perturb(self, model, batch):
        return batch.x + 0.01 * model.gradient(batch.x, lambda logits: margin(logits, batch.y))[1].sign()
"""),
    "lonely": ("attack", "batch of one", "IndexError in", """
class Lonely(Attack):
    def perturb(self, model, batch):
        return batch.x + 0.1 * (batch.x[1] - batch.x)
"""),
    "cut": ("defense", "gradient reaches the pixels", "detached", """
class Cut(Plain):
    def forward(self, x):
        return super().forward(x.detach())
"""),
    "noisy": ("defense", "deterministic in eval mode", "two answers", """
class Noisy(Plain):
    def forward(self, x):
        return super().forward(x + 0.1 * torch.randn_like(x))
"""),
    "shares": ("defense", "logits", "sum to 1", """
class Shares(Plain):
    def forward(self, x):
        return super().forward(x).softmax(1)
"""),
    "neighbourly": ("defense", "independent of batch neighbours", "alone", """
class Neighbourly(Plain):
    def forward(self, x):
        return super().forward(x - 0.5 * x.mean(0))
"""),
    "forgetful": ("defense", "saved and loaded", "the copy", """
class Forgetful(Plain):
    def __init__(self, data):
        super().__init__(data)
        self.shift = torch.randn(data.classes)

    def forward(self, x):
        return super().forward(x) + self.shift
"""),
    "lost": ("defense", "loss", "without total", """
class Lost(Plain):
    def loss(self, x, y):
        return {"nll": super().loss(x, y)["total"]}
"""),
    "untrained": ("defense", "recipes", "no recipes", """
class Untrained(Plain):
    recipes = {}
"""),
    "blind": ("detector", "gradient reaches the pixels", "detached", """
class Blind(Mean):
    def features(self, model, x):
        logits, found = super().features(model, x)
        return logits, found.detach()
"""),
    "sociable": ("detector", "independent of batch neighbours", "alone", """
class Sociable(Mean):
    def features(self, model, x):
        return model(x), (x - x.mean(0)).square().flatten(1).mean(1, keepdim=True)
"""),
    "unkept": ("detector", "saved and restored", "AttributeError", """
class Unkept(Mean):
    def fit(self, model, train):
        self.average = train.pixels(slice(None)).mean(0)

    def features(self, model, x):
        return model(x), (x - self.average).square().flatten(1).mean(1, keepdim=True)
"""),
    "one-row": ("detector", "features", "float32 [16]", """
class OneRow(Mean):
    def features(self, model, x):
        logits, found = super().features(model, x)
        return logits, found[:, 0]
"""),
}  # fmt: skip

# one process for all of them: it prints each one's exit code and what it printed itself
ALL = """
import contextlib, io, json, sys
from robench.cli.app import main
found = {}
for name in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = main(["test-plugin", name, "--json"])
    found[name] = [code, out.getvalue()]
print(json.dumps(found))
"""


def install(site: Path, name: str, entries: dict[str, dict[str, str]]) -> None:
    """What pip leaves of a package's entry points, {kind: {name: value}}, in a folder that is on the path."""
    folder = site / f"{name.replace('-', '_')}-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
    groups = ["\n".join([f"[robench.{kind}s]", *(f"{k} = {v}" for k, v in of.items())]) for kind, of in entries.items()]
    (folder / "entry_points.txt").write_text("\n".join(groups) + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three packages: that of docs/attack.md, the pages' other plugins, and the broken ones."""
    site = tmp_path_factory.mktemp("site")
    for block in BLOCKS:
        if found := re.match(r"# robench-blur/(\S+)\n", block):
            (site / found[1]).write_text(block)
    project = tomllib.loads((site / "pyproject.toml").read_text())["project"]
    install(site, project["name"], {"attack": project["entry-points"]["robench.attacks"]})
    shown: dict[str, dict[str, str]] = {}
    for kind, names in SHOWN.items():
        for name, symbol in names.items():
            (block,) = [each for each in BLOCKS if f"class {symbol}(" in each]
            (site / f"shown_{symbol.lower()}.py").write_text(block)
            shown.setdefault(kind, {})[name] = f"shown_{symbol.lower()}:{symbol}"
    install(site, "shown", shown)
    (site / "broken.py").write_text(HEAD + "\n".join(text for *_, text in BROKEN.values()))
    broken: dict[str, dict[str, str]] = {}
    for name, (kind, _, _, text) in BROKEN.items():
        symbol = re.findall(r"class (\w+)\(", text)[0]
        broken.setdefault(kind, {})[name] = f"broken:{symbol}"
    broken["defense"]["plain"], broken["detector"]["mean"] = "broken:Plain", "broken:Mean"
    install(site, "broken", broken)
    return site


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "OMP_NUM_THREADS": "1"}


def rules_of(site: Path, *arguments: str) -> Outcome:
    return run_forked("test-plugin", *arguments, environment=environment(site), folder=site)


@pytest.fixture(scope="module")
def answers(site: Path) -> dict[str, tuple[int, dict[str, Any]]]:
    """The exit code and the JSON of `robench test-plugin` for every plugin but the package's own."""
    names = [*BROKEN, *SOUND]
    done = run_forked(*names, program=ALL, environment=environment(site), folder=site)
    assert done.code == 0, done.err
    return {name: (code, json.loads(out)) for name, (code, out) in json.loads(done.out).items()}


def test_the_package_of_the_docs_is_known_by_name_and_keeps_every_rule(site: Path) -> None:
    listed = run_forked("list", "attacks", environment=environment(site))
    assert re.search(r"^blur +Mix every image with its own mean\.$", listed.out, re.MULTILINE)
    done = rules_of(site, "blur")
    assert done.code == 0, done.out + done.err
    lines = done.out.splitlines()
    assert len(lines) > 15
    assert all(line.endswith("  ok") for line in lines), done.out


def test_the_test_file_of_the_docs_passes(site: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_blur.py"]
    done = subprocess.run(
        command, env=environment(site), cwd=site, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_plugin_keeps_every_rule(answers: dict[str, tuple[int, dict[str, Any]]], name: str) -> None:
    code, found = answers[name]
    assert [rule for rule in found["rules"] if rule["status"] != "ok"] == []
    assert code == 0


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_told_which_rule_it_breaks(
    answers: dict[str, tuple[int, dict[str, Any]]], name: str
) -> None:
    kind, rule, seen, _ = BROKEN[name]
    code, found = answers[name]
    assert code == 1
    assert (found["kind"], found["name"]) == (kind, name)
    broken = {each["rule"]: each["sentence"] for each in found["rules"] if each["status"] == "broken"}
    assert rule in broken, broken
    sentence = broken[rule]
    assert sentence.startswith(f"The {kind} {name!r} breaks the rule {rule!r} (")
    assert seen in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_broken_rule_ends_with_exit_code_1_and_founds_no_others(site: Path) -> None:
    done = rules_of(site, "flat")
    assert done.code == 1
    lines = done.out.splitlines()
    assert [line for line in lines if "breaks the rule 'shape'" in line]
    assert lines[-1].endswith("left out because the rule 'shape' is broken")


def test_names_and_kinds_that_there_are_not(site: Path) -> None:
    assert_refused(rules_of(site, "blurr"), ("'blurr'", "did you mean 'blur'?"))
    assert_refused(rules_of(site, "blur", "--kind", "defense"), ("no defense named 'blur'",))
    assert_refused(rules_of(site, "blur", "--kind", "sets"), ("'sets'", "attack, defense, detector"))


def test_a_name_of_two_kinds_wants_its_kind(site: Path, tmp_path: Path) -> None:
    install(tmp_path, "twice", {"attack": {"twice": "robench_blur:Blur"}, "detector": {"twice": "broken:Blind"}})
    both = {**environment(site), "PYTHONPATH": f"{tmp_path}{os.pathsep}{site}"}
    assert_refused(run_forked("test-plugin", "twice", environment=both), ("attack, detector", "--kind attack"))
    done = run_forked("test-plugin", "twice", "--kind", "attack", "-o", "share=0.8", "--json", environment=both)
    assert done.json["kind"] == "attack"


def test_the_rules_need_no_pytest(site: Path) -> None:
    code = (
        "import sys; sys.modules['pytest'] = None; from robench.testing import check_attack, check_detector; "
        "import broken, robench_blur; check_attack(robench_blur.Blur, options={'share': 0.2}); "
        "check_detector('blind', rules=['gradient reaches the pixels'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(site), capture_output=True, text=True, check=False
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("robench.errors.CheckFailed: The detector 'blind' breaks the rule"), done.stderr

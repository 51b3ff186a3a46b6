"""The code of robench's own plugins is recorded under their versions: who changes one raises its version, or says that
its figures are what they were."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robench import registry
from robench.errors import BadInput
from robench.store import modules, reach
from robench.store.reach import plugin_digest
from robench.store.released import Release, place_of, recorded, text_of, unreleased
from robench.testing import digests, harness

PACKAGES = ("robench_attacks", "robench_defenses")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_plugin_s_code_is_recorded_under_its_version(package: str) -> None:
    moved = [str(Release.of(base)) for base in registry.classes(package) if unreleased(base)]
    assert not moved, "raise the version of these, or say that figures are the same; then run 'make digests'"


def test_robench_s_own_code_is_recorded_under_the_number_that_speaks_for_it() -> None:
    """HARNESS for the loop, the judge and norms; TRAININGS for networks and training."""
    known = recorded(harness.place())
    moved = [str(release) for release, digest in harness.parts().items() if digest not in known.get(release, ())]
    assert not moved, "raise HARNESS or TRAININGS, or say that figures are the same; then run 'make digests'"
    assert harness.place().read_text() == text_of(known)


def test_what_figures_come_out_of_is_seen_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network, the judge and a step rule count; how often progress is told does not."""
    before = harness.parts()

    def edited(module: str, old: str, new: str) -> list[str]:
        """The parts that are other ones where a module says something else."""
        origin, copy = modules.origin_of(module), tmp_path / f"{module}.py"
        assert origin is not None
        assert old in origin.read_text()
        copy.write_text(origin.read_text().replace(old, new))
        with monkeypatch.context() as patch:
            patch.setattr(reach, "read", lambda name, place: modules.read(name, copy if name == module else place))
            now = harness.parts()
        return [release.plugin.partition(":")[2] for release, digest in now.items() if digest != before[release]]

    assert edited("robench.defense.networks", "nn.ReLU", "nn.GELU") == ["trainings"]
    assert edited("robench.attack.judge", "self.standing = members.clone()", "self.standing = members") == [
        "evaluations"
    ]
    assert "evaluations" in edited("robench.attack.step_rules", "keep, rho = 0.75, 0.75", "keep, rho = 0.75, 0.5")
    assert "evaluations" in edited("robench.randomness", "def uniform(", "@cache\ndef uniform(")
    assert edited("robench.progress", "QUIET = 30.0", "QUIET = 60.0") == []


@pytest.mark.parametrize("package", PACKAGES)
def test_the_record_is_as_it_is_written(package: str) -> None:
    """And holds no plugin that is not there."""
    bases = registry.classes(package)
    place = place_of(bases[0])
    assert place is not None
    assert place.read_text() == text_of(recorded(place))
    assert {release.plugin for release in recorded(place)} == {Release.of(base).plugin for base in bases}


PLUGIN = "class One:\n    version = 1\n    def f(self):\n        return 1\n"


class Kept:
    """A package of one plugin, which can be edited."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.text = folder / "kept", PLUGIN
        self.folder.mkdir()

    def edited(self, old: str = "", new: str = "") -> type:
        """The plugin's class in a new process."""
        self.text = self.text.replace(old, new) if old else self.text
        (self.folder / "__init__.py").write_text(self.text)
        sys.modules.pop("kept", None)
        found: type = __import__("kept").One
        return found


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    """The package, importable."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Kept(tmp_path)
    sys.modules.pop("kept", None)
    recorded.cache_clear()


def test_recorded_code_is_known_by_its_version(kept: Kept) -> None:
    base = kept.edited()
    assert unreleased(base) == plugin_digest(base)
    assert digests.record([base]) == 1
    assert unreleased(base) is None
    assert digests.record([base]) == 0
    assert unreleased(kept.edited("return 1", "return 1  # a comment")) is None
    edited = kept.edited("return 1", "return 2")
    assert unreleased(edited) == plugin_digest(edited)


def test_other_code_is_not_added_to_a_version_by_the_way(kept: Kept) -> None:
    digests.record([kept.edited()])
    edited = kept.edited("return 1", "return 2")
    before = (kept.folder / "digests.txt").read_text()
    with pytest.raises(BadInput, match=r"kept:One \(version 1\).*raise its version, or"):
        digests.record([edited])
    assert (kept.folder / "digests.txt").read_text() == before
    assert digests.record([edited], same=["kept:One"]) == 1
    assert unreleased(edited) is None
    assert unreleased(kept.edited("return 2", "return 1")) is None
    assert digests.record([kept.edited("version = 1\n    def f(self):\n        return 1", "version = 2")]) == 1


def test_a_damaged_record_is_refused(kept: Kept) -> None:
    (kept.folder / "digests.txt").write_text("kept:One one 00\n")
    with pytest.raises(BadInput, match=r"Line 1 of .*digests.txt.*restore the file from git"):
        unreleased(kept.edited())


def test_the_command_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert digests.main(["robench_attacks"]) == 0
    assert capsys.readouterr().out == "Every plugin's code is recorded under its version.\n"
    assert digests.main(["robench_attakcs"]) == 2
    assert "robench_attakcs" in (told := capsys.readouterr().out)
    assert "robench_attacks" in told
    assert digests.main(["robench_attacks", "--same", "robench_attacks.pgd:PDG"]) == 2
    assert "robench_attacks.pgd:PGD" in capsys.readouterr().out

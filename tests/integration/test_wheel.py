"""The wheel holds what the tree holds, no more and no less: an author's data files do not get lost."""

from __future__ import annotations

from email.message import Message
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.integration.conftest import PACKAGES

ROOT = Path(__file__).parents[2]
LIBRARIES = {
    "foolbox": "foolbox", "art": "adversarial-robustness-toolbox", "autoattack": "pyautoattack", "ray": "ray",
}  # fmt: skip
DATA = (
    "robench/py.typed",
    "robench/__init__.pyi",
    "robench/models/__init__.pyi",
    "robench/testing/__init__.pyi",
    "attacks/digests.txt",
    "defenses/digests.txt",
    "robench/digests.txt",
    "robench/page/assets/*",
    "robench/page/vendor/*",
    "robench/suites/bundled/*.toml",
    "robench/tables/templates/*.j2",
)


@pytest.fixture(scope="module")
def wheel(wheel_file: Path) -> ZipFile:
    return ZipFile(wheel_file)


@pytest.fixture(scope="module")
def metadata(wheel: ZipFile) -> Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_the_tree(wheel: ZipFile) -> None:
    sources = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    sources += [path for pattern in DATA for path in ROOT.glob(pattern)]
    expected = set()
    for path in sources:
        folder, *rest = path.relative_to(ROOT).parts
        expected.add("/".join([PACKAGES[folder], *rest]))
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected
    assert all(len(list(ROOT.glob(pattern))) >= 1 for pattern in DATA)


def test_the_wheel_has_its_licence_and_commands(wheel: ZipFile) -> None:
    about = {name.partition(".dist-info/")[2] for name in wheel.namelist() if ".dist-info/" in name}
    assert about >= {"METADATA", "entry_points.txt", "licenses/LICENSE"}
    (entry_points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "robench = robench.cli.app:main" in wheel.read(entry_points).decode()


def test_the_wheel_is_for_the_pythons_that_are_named(metadata: Message) -> None:
    allowed = SpecifierSet(str(metadata["Requires-Python"]))
    assert [minor for minor in range(8, 16) if f"3.{minor}.4" in allowed] == [11, 12, 13]
    named = [str(each).rpartition(" ")[2] for each in metadata.get_all("Classifier", []) if "Python :: 3." in each]
    assert named == ["3.11", "3.12", "3.13"]


def test_what_only_some_features_need_is_in_extras(metadata: Message) -> None:
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist", [])]
    core = {each.name for each in wanted if each.marker is None}
    assert {"torch", "torchvision", "numpy", "pandas"} <= core
    for extra, package in LIBRARIES.items():
        (found,) = (each for each in wanted if each.name == package and each.marker and "extra" in str(each.marker))
        assert found.marker is not None
        assert found.marker.evaluate({"extra": extra})
        assert package not in core
    assert {*LIBRARIES, "all", "dev"} <= set(metadata.get_all("Provides-Extra", []))

"""The wheel holds what the tree holds, no more and no less: an author's data files do not get lost."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"robench": "robench", "defenses": "robench_defenses", "attacks": "robench_attacks"}
DATA = (
    "robench/py.typed",
    "robench/__init__.pyi",
    "robench/testing/__init__.pyi",
    "attacks/digests.txt",
    "defenses/digests.txt",
    "robench/suites/bundled/*.toml",
    "robench/tables/templates/*.j2",
)
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """The wheel, built from a copy, since the builder leaves its own folders in the tree."""
    copy = tmp_path_factory.mktemp("tree")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(copy / "out")], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "absent from the `packages`" not in done.stderr
    return ZipFile(copy / "out" / done.stdout.split()[-1])


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

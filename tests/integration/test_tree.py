"""What the tree says about itself in two places agrees: the hooks and `make lint`, the packages and their folders."""

from __future__ import annotations

import ast
import itertools
import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
# extras that bring many packages of their own, or pin others, which is why the tests do without them
APART = ("hf", "hf-data", "medmnist", "robustbench", "wandb")
FOLDERS = {"robench_defenses": "defenses", "robench_attacks": "attacks"}
ROOMS = sorted(path for path in (ROOT / "robench").rglob("*/") if list(path.glob("*.py")))


def test_the_hooks_are_what_make_lint_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    lint = re.search(r"^lint:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert lint
    commands = [line.strip().removeprefix("$(BIN)/") for line in lint[1].splitlines()]
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in local["hooks"]] == commands
    assert all(hook["language"] == "system" and not hook["pass_filenames"] for hook in local["hooks"])


def test_every_development_tool_is_pinned() -> None:
    """By name and version: a fresh environment is the one that the tests passed in."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"], *itertools.chain.from_iterable(extras.values())]
    names = [name for name in wanted if not name.startswith("robench[")]
    names = [name for name in names if not any(name in extras[apart] for apart in APART)]
    assert len(names) > 20
    for name in names:
        assert re.split(r"[<>=\[;]", name)[0].strip().lower() in pins


def test_every_extra_is_in_all_and_all_of_them_in_dev() -> None:
    """A line each, so that an extra that is added is also what `pip install 'robench[all]'` and the tests have."""
    extras = PROJECT["project"]["optional-dependencies"]
    apart = {"all", "dev", "docs", *APART}
    assert sorted(extras["all"]) == sorted(f"robench[{name}]" for name in extras if name not in apart)
    assert {"robench[all]", "robench[docs]"} <= set(extras["dev"])


def test_the_packages_are_the_folders() -> None:
    rooms = [".".join(path.relative_to(ROOT).parts) for path in [ROOT / "robench", *ROOMS]]
    assert sorted(PROJECT["tool"]["setuptools"]["packages"]) == sorted([*rooms, *FOLDERS])
    assert PROJECT["tool"]["setuptools"]["package-dir"] == {"robench": "robench", **FOLDERS}


FACES = ("testing", "models")


@pytest.mark.parametrize("room", [room for room in ROOMS if room.name not in FACES], ids=lambda path: path.name)
def test_a_room_s_init_is_one_docstring(room: Path) -> None:
    """Importing a room imports nothing: names are taken from the module that they live in. The faces, `robench` and
    these, have theirs in a stub, and load them on first use."""
    (only,) = ast.parse((room / "__init__.py").read_text()).body
    assert isinstance(only, ast.Expr)
    assert isinstance(only.value, ast.Constant)
    assert isinstance(only.value.value, str)

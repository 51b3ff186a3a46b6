"""robench as `pip install robench` leaves it, without any extra: what works, and what says which command brings it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tests.integration.conftest import ROOT, Outcome, Run

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SMALL = ("--dataset", "digits", "-n", "8", "--eps", "0.1")
NET = """
import torch
from torch import nn

def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""
IMPORTS = """
import importlib, pkgutil, robench
for module in pkgutil.walk_packages(robench.__path__, "robench."):
    try:
        module.name == "robench.__main__" or importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        print(module.name, error.name)
"""
SUITE = """
title = "A table of one"
source = "Nobody, 2026"
[scales.smoke]
dataset = "digits"
count = 8
epochs = 1
[[rows]]
name = "Plain"
defense = "standard"
[[columns]]
name = "Ours"
attack = "fgsm"
eps = 0.1
[[columns]]
name = "Theirs"
attack = ["fgsm", "foolbox:LinfPGD"]
eps = 0.1
"""
MISSING = [
    ("autoattack", "pyautoattack", "autoattack"),
    ("library:square", "pyautoattack", "autoattack"),
    ("foolbox:LinfPGD", "foolbox", "foolbox"),
    ("art:ProjectedGradientDescent", "adversarial-robustness-toolbox", "art"),
]


def reached(wanted: list[str]) -> list[Distribution]:
    """The installed packages that some requirements bring, and what those require, without any extra."""
    found: dict[tuple[str, ...], Distribution] = {}
    left = [Requirement(text) for text in wanted]
    while left:
        need = left.pop()
        try:
            package = distribution(need.name)
        except PackageNotFoundError:  # one of another platform
            continue
        key = (package.name, *sorted(need.extras))
        if key in found:
            continue
        found[key] = package
        for text in package.requires or ():
            each = Requirement(text)
            if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in need.extras or {""}):
                left.append(each)
    return list(found.values())


@pytest.fixture(scope="module")
def site(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages: the wheel's, and links to those that it asks for."""
    folder = tmp_path_factory.mktemp("site")
    ZipFile(wheel_file).extractall(folder)
    for package in reached(PROJECT["dependencies"]):
        for name in {file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}:
            here, there = folder / name, Path(str(package.locate_file(name)))
            if not here.exists() and there.exists() and there.suffix != ".pth":
                here.symlink_to(there)
    return folder


@pytest.fixture
def light(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs Python in a folder of its own, with those packages and no others."""
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NET)

    def run(*arguments: str) -> Outcome:
        command = [sys.executable, "-S", *arguments]
        settings = {**os.environ, "PYTHONPATH": str(site), "PYTHONNOUSERSITE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=settings)
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


def test_nothing_of_the_core_imports_what_it_does_not_ask_for(light: Callable[..., Outcome]) -> None:
    """But for what a plugin's author runs under pytest."""
    outcome = light("-c", IMPORTS)
    assert outcome.code == 0, outcome.err
    assert {tuple(line.split()) for line in outcome.out.splitlines()} <= {("robench.pytest_plugin", "pytest")}


@pytest.mark.parametrize(("attack", "package", "extra"), MISSING)
def test_a_missing_library_is_one_sentence_with_the_command(
    attack: str, package: str, extra: str, light: Callable[..., Outcome]
) -> None:
    outcome = light("-m", "robench", "evaluate", "net.py:load", "-a", f"fgsm,{attack}", *SMALL)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.endswith(
        f"The attack {attack!r} needs {package}, which is not installed; install it with: "
        f"pip install 'robench[{extra}]', or choose another."
    )
    assert not Path("runs/evaluations").exists()
    shown = light("-m", "robench", "show", attack)
    assert shown.code == 2
    assert f"pip install 'robench[{extra}]'" in shown.err


def test_missing_ray_is_one_sentence_with_the_command(light: Callable[..., Outcome]) -> None:
    outcome = light("-m", "robench", "evaluate", "net.py:load", "-a", "fgsm", *SMALL, "--executor", "ray")
    assert outcome.code == 2
    assert "pip install 'robench[ray]'" in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err


def test_a_suite_says_it_before_anything_of_it_is_run(light: Callable[..., Outcome]) -> None:
    Path("mine.toml").write_text(SUITE)
    outcome = light("-m", "robench", "reproduce", "mine.toml", "--scale", "smoke")
    assert outcome.code == 2
    assert "column 'Theirs'" in outcome.err
    assert "pip install 'robench[foolbox]'" in outcome.err
    assert not Path("runs/models").exists()


def test_the_list_of_attacks_says_what_each_needs(light: Callable[..., Outcome], robench: Run) -> None:
    outcome = light("-m", "robench", "list", "attacks", "--json")
    items = {item["name"]: item for item in json.loads(outcome.out)["attacks"]}
    lacking = {name: (item["needs"], item["install"]) for name, item in items.items() if "install" in item}
    expected = {attack.partition(":")[0]: ([package], extra) for attack, package, extra in MISSING}
    assert lacking == {name: (needs, f"pip install 'robench[{extra}]'") for name, (needs, extra) in expected.items()}
    here = {item["name"]: item for item in robench("list", "attacks", "--json").json["attacks"]}
    assert {name for name, item in here.items() if "needs" in item} == set(lacking)
    assert not any("install" in item for item in here.values())  # the tests' environment has them all


def test_the_core_s_own_attacks_run(light: Callable[..., Outcome]) -> None:
    """Every attack that needs nothing, in the norm that it has, and the table of them."""
    listed = light("-m", "robench", "list", "attacks", "--json")
    own = [item["name"] for item in json.loads(listed.out)["attacks"] if "needs" not in item]
    assert len(own) >= 19
    own.remove("cw")  # of L2 alone
    own.remove("imported")  # by its name and what was imported under it
    short = ("-o", "steps=2", "-o", "restarts=1", "-o", "queries=5", "--effort", "quick")
    for attacks, *words in ((",".join(own), *short), ("cw", "--norm", "l2", "-o", "steps=2")):
        outcome = light("-m", "robench", "evaluate", "net.py:load", "-a", attacks, *SMALL, *words)
        assert outcome.code == 0, outcome.err
        assert all(name in outcome.out for name in attacks.split(","))


def test_what_a_library_found_is_read_without_it(light: Callable[..., Outcome], robench: Run, tmp_path: Path) -> None:
    assert robench("evaluate", "net.py:load", "-a", "foolbox:LinfPGD", "-o", "steps=2", *SMALL).code == 0
    for words in (("list", "evaluations"), ("leaderboard",)):
        outcome = light("-m", "robench", *words)
        assert outcome.code == 0, outcome.err
        assert "foolbox:LinfPGD" in outcome.out + outcome.err
    outcome = light("-m", "robench", "verify", "--trust")  # holds the record to the attack that it names
    assert outcome.code == 2
    assert "pip install 'robench[foolbox]'" in outcome.err.splitlines()[-1]


def test_attacking_a_model_of_one_s_own_loads_no_trainer(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    code = (
        "import sys; from robench.cli.app import main; "
        f"code = main(['evaluate', 'net.py:load', '-a', 'fgsm', '--runs', 'runs', *{SMALL!r}]); "
        "print(code, sorted({'pytorch_lightning', 'lightning_fabric', 'torchmetrics'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"

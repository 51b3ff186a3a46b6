"""What the integration tests share: the command line in process, a folder of its own per test, a trained model."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from robench.cli.app import main
from robench.models import load_model
from robench.store.runs import Store
from tests import forked
from tests.plain_net import tensors_of

ROOT = Path(__file__).parents[2]
CHROMIUM = Path(os.environ.get("CHROMIUM") or "/usr/bin/chromium")
PACKAGES = {"robench": "robench", "defenses": "robench_defenses", "attacks": "robench_attacks"}
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line left: exit code, stdout and stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON object and nothing else."""
        assert self.code == 0, self.err
        lines = self.out.splitlines()
        assert len(lines) == 1, self.out
        found = json.loads(lines[0])
        assert isinstance(found, dict)
        return found


Run = Callable[..., Outcome]
Process = subprocess.Popen[str] | forked.Forked


def run_module(*arguments: str | Path, **settings: Any) -> Outcome:
    """`python -m robench ...` in a process of its own."""
    command = [sys.executable, "-m", "robench", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=forked.PATIENCE, check=False, **settings)
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_forked(*arguments: str | Path, **settings: Any) -> Outcome:
    """The same, forked from a process that has the libraries loaded, see `forked`."""
    return Outcome(*forked.run(*arguments, **settings))


def start_forked(*arguments: str | Path) -> forked.Forked:
    """The same, left running."""
    return forked.Forked(*arguments)


def start_module(*arguments: str | Path) -> subprocess.Popen[str]:
    """`python -m robench ...` in a process of its own, left running."""
    command = [sys.executable, "-m", "robench", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(condition: Callable[[], object], process: Process, seconds: float = forked.PATIENCE) -> None:
    """Wait until `condition` holds; it must do so while the process is still running."""
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"ended too early: {process.communicate()}"
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


def finished(root: Path) -> set[str]:
    """The marks of finished work under a folder."""
    return {str(path.relative_to(root)) for name in ("DONE", "result.json") for path in root.rglob(name)}


def assert_refused(outcome: Outcome, names: tuple[str, ...], code: int = 2) -> None:
    """One sentence on stderr that names what is wrong, nothing on stdout, and the exit code."""
    assert "Traceback" not in outcome.err
    assert outcome.code == code, outcome.err
    lines = [line for line in outcome.err.splitlines() if "Second verdict on" not in line]
    assert len(lines) == 1, outcome.err
    assert re.fullmatch(r"robench: .{10,}[.)]", lines[0]), lines[0]
    for name in names:
        assert name in lines[0], f"{name!r} is not in {lines[0]!r}"
    assert outcome.out == ""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test works in a folder of its own, with nothing of the user's in reach."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBENCH_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBENCH_RUNS", raising=False)


@pytest.fixture
def robench(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process."""

    def run(*arguments: str | Path) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def _store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("store") / "runs"
    with contextlib.redirect_stdout(io.StringIO()):
        assert main(["train", "standard", "--epochs", "3", "--name", "plain", "--runs", str(root)]) == 0
        evaluate = ["evaluate", "plain", "-a", "fgsm", "-n", "20", "--eps", "0.1", "--runs", str(root)]
        assert main(evaluate) == 0
    torch.save(tensors_of(load_model("plain", Store(root)).module), root.with_name("plain.pt"))
    yield root
    shutil.rmtree(root)


@pytest.fixture
def store(_store: Path, tmp_path: Path) -> Path:
    """A runs folder, runs/ in the working folder, with the model "plain" on digits and one evaluation of it.

    Beside it is plain.pt, of which `plain_net` makes the same model.
    """
    shutil.copytree(_store, tmp_path / "runs")
    shutil.copy(_store.with_name("plain.pt"), tmp_path)
    return tmp_path / "runs"


@pytest.fixture
def evaluation(store: Path) -> Path:
    """The folder of the store's evaluation."""
    return next((store / "evaluations").iterdir())


MODELS = """
import torch
from torch import nn


class Flat(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        torch.manual_seed(0)
        self.head = nn.Linear(64, classes)

    def forward(self, x):
        return self.head(x.flatten(1))


class Confused(Flat):
    def forward(self, x):
        raise TypeError("no such thing")


class Fragile(Flat):
    def forward(self, x):
        if ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            raise TypeError("cannot take a perturbed image")
        return super().forward(x)


def load(): return Flat().eval()
def training(): return Flat().train()
def nine(): return Flat(9).eval()
def probabilities(): return nn.Sequential(Flat(), nn.Softmax(1)).eval()
def confused(): return Confused().eval()
def fragile(): return Fragile().eval()
def raises(): raise RuntimeError("weights went missing")
def leaves(): raise SystemExit(3)
def number(): return 7
def needs(path): return Flat().eval()
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """my_model.py in the working folder: a factory that works, and many that do not."""
    (tmp_path / "my_model.py").write_text(MODELS)
    (tmp_path / "syntax.py").write_text("def load(:\n")
    (tmp_path / "imports.py").write_text("import not_installed_anywhere\n")
    return tmp_path / "my_model.py"


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
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
    return copy / "out" / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, in which the page is looked at."""
    if not CHROMIUM.exists():
        pytest.fail(
            f"The page is tested in Chromium, which is not at {CHROMIUM}: run 'apt-get install chromium', or set "
            "CHROMIUM to where it is."
        )
    with sync_playwright() as started:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = started.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield found
        found.close()

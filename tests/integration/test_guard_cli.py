"""Models that quit, replace or set things, through the commands: a sentence and an exit code, or a flagged figure."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

import robench as program
from robench import BadInput
from robench.detector.score import Guarded
from tests.forked import PATIENCE
from tests.integration.conftest import Run, assert_refused

FILE = """
import os
import sys

import torch
from torch import nn


class Honest(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)
        images = torch.eye(10).repeat(1, 7)[:, :64]
        with torch.no_grad():
            self.head.weight.copy_(images)
            self.head.bias.copy_(-images.sum(1) / 2)
        self.eval()

    def forward(self, x):
        return self.head(x.flatten(1))


class Leaves(Honest):
    def __init__(self, leave, at_once=False):
        super().__init__()
        self.leave, self.at_once = leave, at_once

    def forward(self, x):
        if self.at_once or ((x * 255 - (x * 255).round()).abs() > 0.01).any():
            self.leave()
        return super().forward(x)


class Odd(BaseException):
    pass


def odd():
    raise Odd


def interrupt():
    raise KeyboardInterrupt


def honest(): return Honest()
def exits(): return Leaves(sys.exit)
def exits_at_once(): return Leaves(sys.exit, True)
def odd_one(): return Leaves(odd)
def interrupts(): return Leaves(interrupt)
def leaving_factory(): sys.exit()


def patched():
    torch.clamp = lambda x, *a, **k: x
    torch.set_default_dtype(torch.float64)
    model = Honest().float()
    return model


def elsewhere():
    os.chdir("/")
    torch.manual_seed(0)
    return Honest()


def frozen(): return torch.jit.freeze(torch.jit.script(Honest()))


def exported():
    batch = torch.export.Dim("batch")
    made = torch.export.export(Honest(), (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    return made.module()


def quantised():
    return torch.ao.quantization.quantize_dynamic(Honest(), {nn.Linear}, dtype=torch.qint8).eval()
"""
COMMAND = ("--dataset", "digits", "-a", "pgd", "--steps", "3", "-n", "40", "--eps", "0.1")


@pytest.fixture
def _models(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(FILE)


pytestmark = pytest.mark.usefixtures("_models")


@pytest.mark.parametrize("name", ["exits", "odd_one", "interrupts"])
def test_a_model_that_quits_leaves_its_evaluation_incomplete(robench: Run, name: str) -> None:
    done = robench("evaluate", f"models.py:{name}", *COMMAND, "--json")
    assert done.code == 3
    assert "tried to end the process" in done.err
    assert [row["status"] for row in json.loads(done.out)["rows"]] == ["incomplete"]


@pytest.mark.parametrize("name", ["exits_at_once", "leaving_factory"])
def test_one_that_quits_before_anything_is_bad_input(robench: Run, name: str) -> None:
    assert_refused(
        robench("evaluate", f"models.py:{name}", *COMMAND), ("exit" if name == "exits_at_once" else "SystemExit",)
    )


def test_a_check_of_a_model_that_quits_has_a_report(robench: Run) -> None:
    assert robench("evaluate", "models.py:honest", *COMMAND).code == 0
    assert robench("baseline", "models.py:honest", "-o", "b.json").code == 0
    done = robench("check", "b.json", "--model", "models.py:exits", "--junit", "j.xml")
    assert done.code == 3
    assert "<error" in Path("j.xml").read_text()


def test_code_that_quits_anywhere_else_is_no_success(robench: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robench.registry.summaries", lambda *_: sys.exit(0))
    assert_refused(robench("list", "attacks"), ("no result",), code=3)


def test_what_a_factory_changes_is_undone_and_told(robench: Run) -> None:
    rows = [
        robench("evaluate", f"models.py:{name}", *COMMAND, "--runs", name, "--json").json["rows"][0]
        for name in ("honest", "patched")
    ]
    assert rows[1]["robust_accuracy"] == rows[0]["robust_accuracy"]
    assert rows[0]["flags"] == []
    assert rows[1]["flags"] == ["changes-global-state (default dtype)", "changes-torch (torch.clamp)"]
    assert torch.get_default_dtype() is torch.float32


def test_a_factory_that_moves_elsewhere_takes_nobody_along(robench: Run) -> None:
    here = Path.cwd()
    assert robench("evaluate", "models.py:elsewhere", *COMMAND, "--json").json["rows"][0]["flags"] == []
    assert Path.cwd() == here
    assert list((here / "runs" / "evaluations").iterdir())


@pytest.mark.parametrize("name", ["frozen", "exported"])
def test_frozen_and_exported_models_are_evaluated(robench: Run, name: str) -> None:
    figures = [
        robench("evaluate", f"models.py:{each}", *COMMAND, "--json").json["rows"][0]["robust_accuracy"]
        for each in ("honest", name)
    ]
    assert figures[0] == figures[1]


def test_a_quantised_model_has_no_gradient_and_that_is_told(robench: Run) -> None:
    command = ("--dataset", "digits", "-a", "apgd-ce", "-n", "20", "--eps", "0.1", "--json")
    (row,) = robench("evaluate", "models.py:quantised", *command).json["rows"]
    assert row["status"] == "complete"
    assert "zero-gradient 100%" in row["flags"]


@contextmanager
def default(dtype: torch.dtype | None = None, device: str | None = None) -> Iterator[None]:
    torch.set_default_dtype(dtype or torch.float32)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


AROUND = {
    "no_grad": torch.no_grad,
    "inference mode": torch.inference_mode,
    "float64": lambda: default(dtype=torch.float64),
    "device": lambda: default(device="meta"),
    "autocast": lambda: torch.autocast("cpu"),
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(64, 10)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits


@pytest.fixture(scope="module")
def small() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small()


@pytest.mark.parametrize("name", AROUND)
def test_what_a_program_has_set_changes_no_figure(small: nn.Module, tmp_path: Path, name: str) -> None:
    found = []
    for place, around in enumerate((nullcontext, AROUND[name])):
        with around():
            before = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
            report = program.evaluate(
                small, dataset="digits", attacks=["pgd", "square"], eps="0.05", count=40,
                options={"steps": 3, "queries": 20}, runs=tmp_path / str(place),
            )  # fmt: skip
            assert (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()) == before
        found.append([(row["robust_accuracy"], row["flags"], row["status"]) for row in report.rows])
    assert found[0] == found[1]


def test_a_model_made_under_inference_mode_is_refused(tmp_path: Path) -> None:
    with torch.inference_mode():
        model = Small()
    with pytest.raises(BadInput, match="inference_mode"):
        program.evaluate(model, dataset="digits", attacks="pgd", eps="0.1", count=10, runs=tmp_path)


def test_a_detector_of_ones_own_making_is_refused(tmp_path: Path) -> None:
    made = Guarded(Small(), nn.Identity()).eval()  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="rejects images"):
        program.evaluate(made, dataset="digits", attacks="pgd", eps="0.1", count=10, runs=tmp_path)


def test_leaving_for_good_is_for_the_caller_to_see(tmp_path: Path) -> None:
    """os._exit cannot be caught, as the guide says: no figure is printed and none is kept."""
    text = FILE + "\ndef gone(): return Leaves(lambda: os._exit(0))\n"
    (tmp_path / "models.py").write_text(text)
    command = [sys.executable, "-m", "robench", "evaluate", "models.py:gone", *COMMAND, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.stdout == ""
    assert not list((tmp_path / "runs").rglob("result.json"))

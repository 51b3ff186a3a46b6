"""With --json, stdout holds one object and nothing else, whatever a model and what it starts print."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.conftest import Outcome, Run, run_forked, run_module

NOISY = """
import atexit, ctypes, os, subprocess, sys
from sys import stdout
import torch
from torch import nn

libc = ctypes.CDLL(None)
libc.puts(b"noise of C at import")
print("noise at import")
atexit.register(lambda: print("noise at the end", file=sys.__stdout__))
atexit.register(lambda: libc.puts(b"noise of C at the end"))


def noise(where):
    print("noise in", where)
    print("noise through a name kept", file=stdout)
    print("noise through the first stream", file=sys.__stdout__)
    os.write(1, b"noise to the number\\n")
    libc.puts(b"noise of C")
    subprocess.run(["echo", "noise of a process"])


class Loud(nn.Sequential):
    def forward(self, x):
        noise("forward")
        return super().forward(x)


def load():
    noise("the factory")
    torch.manual_seed(0)
    return Loud(nn.Flatten(), nn.Linear(64, 10)).eval()


def fails():
    noise("a factory that fails")
    raise RuntimeError("no weights")
"""
SMALL = ("-a", "fgsm", "-n", "2", "--eps", "0.1", "--dataset", "digits")


@pytest.fixture(autouse=True)
def _noisy(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(NOISY)


def alone(outcome: Outcome, code: int = 0) -> dict[str, object]:
    """The object on stdout, which is all there is; the noise is on stderr."""
    assert outcome.code == code, outcome.err
    (line,) = outcome.out.splitlines()
    found = json.loads(line)
    assert isinstance(found, dict)
    assert "noise" in outcome.err
    return found


def test_a_noisy_model_under_every_command_in_a_process_of_its_own() -> None:
    """Python's streams, the file's number, C's buffer that is written at the end, child processes, and atexit."""
    found = run_module("evaluate", "loud.py:load", *SMALL, "--json")
    assert alone(found)["rows"]
    for kind in ("at import", "in the factory", "in forward", "through a name kept", "through the first stream",
                 "to the number", "of C", "of a process", "at the end", "of C at the end"):  # fmt: skip
        assert f"noise {kind}" in found.err
    assert run_forked("baseline", "loud.py:load", "-o", "b.json").code == 0
    for command in (("verify",), ("check", "b.json"), ("diagnose", "loud.py:load", "--dataset", "digits", "-n", "2")):
        eps = ("--eps", "0.1", "--attack", "fgsm") if command[0] == "diagnose" else ()
        outcome = run_forked(*command, *eps, "--json")
        assert alone(outcome, outcome.code)
        assert outcome.code in (0, 1)


def test_a_noisy_model_on_workers() -> None:
    pytest.importorskip("ray")
    outcome = run_module("evaluate", "loud.py:load", *SMALL, "--json", "--executor", "ray", "--workers", "1")
    assert alone(outcome)["rows"]


def test_a_refused_model_leaves_stdout_empty() -> None:
    outcome = run_module("evaluate", "loud.py:fails", *SMALL, "--json")
    assert outcome.code == 2
    assert outcome.out == ""
    assert "no weights" in outcome.err


def test_stdout_is_everybodys_again_after_a_command(robench: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert alone(robench("evaluate", "loud.py:load", *SMALL, "--json"))["rows"]
    assert robench("evaluate", "loud.py:load", "-a", "nothing", "--json").code == 2
    print("after")
    assert capfd.readouterr().out == "after\n"


def test_without_json_a_models_prints_stay_where_they_are(robench: Run) -> None:
    assert "noise in the factory" in robench("evaluate", "loud.py:load", *SMALL).out


def test_control_characters_in_json_are_escaped(robench: Run, tmp_path: Path) -> None:
    name = "del\x7f\x1b\x9b\u202e\udcff"
    (tmp_path / f"{name}.py").write_text(NOISY)
    outcome = robench("evaluate", f"{name}.py:load", *SMALL, "--json")
    assert outcome.out.rstrip("\n").isprintable()
    assert outcome.out.isascii()
    assert json.loads(outcome.out)["rows"][0]["model"] == f"{name}.py:load"

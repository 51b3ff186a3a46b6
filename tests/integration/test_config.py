"""robench evaluate --config and --save-config: options in a file, which the command line overrules."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robench.cli.app import main

MODEL = """
import torch
from torch import nn


def load():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(capfd: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    capfd.readouterr()
    assert main(["evaluate", *words, "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capfd.readouterr().out)["rows"]
    return found


def test_a_saved_file_makes_the_same_evaluations_from_anywhere(
    place: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["net.py:load", "--dataset", "digits", "-a", "pgd,fgsm", "--eps", "0.02,0.04", "-n", "30", "--runs", "runs"]
    made = rows(capfd, *given, "-o", "step=0.01", "--steps", "3", "--seed", "0,1", "--save-config", "sub/c.toml")
    assert len(made) == 8
    text = (place / "sub" / "c.toml").read_text()
    assert 'models = ["../net.py:load"]' in text
    assert 'runs = "../runs"' in text
    monkeypatch.chdir(place / "sub")
    again = rows(capfd, "--config", "c.toml")
    assert [row["evaluation"] for row in again] == [row["evaluation"] for row in made]
    less = rows(capfd, "--config", "c.toml", "--eps", "0.04", "--seed", "1", "-a", "pgd")
    assert [(row["eps"], row["seed"], row["attack"]) for row in less] == [("0.04", 1, "pgd")]


def test_natural_types_and_options_one_by_one(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Path("b.toml").write_text(
        'models = "net.py:load"\ndataset = "digits"\nattack = ["pgd"]\neps = [0.02, 0.04]\nn = 20\nfresh = false\n'
        "[options]\nsteps = 5\nstep = 0.01\nrandom-start = false\n"
    )
    found = rows(capfd, "--config", "b.toml", "-o", "steps=6")
    assert [row["eps"] for row in found] == ["0.04", "0.02"]
    assert found[0]["options"] == {"steps": 6, "step": "0.01", "random_start": False}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('epss = "0.1"', "did you mean 'eps'?"),
        ("cascade = 1", "true or false"),
        ("eps = ", "cannot be read"),
        ("n = 5\ncount = 5", "twice"),
        ("[eps]\na = 1", "must be a value or a list"),
        ("eps = 2020-01-01", "must be text, a number"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_files_that_cannot_be_used(place: Path, capfd: pytest.CaptureFixture[str], text: str | None, says: str) -> None:
    if text is not None:
        Path("x.toml").write_text(text)
    assert main(["evaluate", "--config", "x.toml"]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert says in said
    assert not Path("runs").exists()


def test_a_file_of_another_kind_is_not_written(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "net.py:load", "--dataset", "digits", "-a", "fgsm", "--save-config", "net.py"]) == 2
    assert "ends in .toml" in capfd.readouterr().err
    assert (place / "net.py").read_text() == MODEL

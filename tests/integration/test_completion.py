"""What a shell is told when it completes a line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def completed(line: str) -> list[str]:
    """What bash would offer for the last word of a line."""
    words = line.split(" ")
    told = {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_ROBENCH_COMPLETE": "complete_bash"}
    code = "import sys; from robench.cli.app import main; sys.argv = ['robench']; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | told, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("robench evaluate pla", ["plain"]),
        ("robench evaluate plain -a pgd,fab", ["pgd,fab-t"]),
        ("robench evaluate plain --norm l", ["linf", "l2"]),
        ("robench evaluate plain --eff", ["--effort"]),
        ("robench list data", ["datasets"]),
        ("robench reproduce guess-first-m", ["guess-first-mnist"]),
        ("robench train paradise-p", ["paradise-pm"]),
        ("robench diagnose nothing-begins-so", []),
    ],
)
def test_names_are_completed(line: str, offered: list[str], store: Path) -> None:
    del store
    assert completed(line) == offered


def test_an_evaluation_is_completed_by_its_beginning(store: Path) -> None:
    (evaluation,) = [path.name for path in (store / "evaluations").iterdir()]
    assert completed(f"robench show {evaluation[:5]}") == [evaluation]


def test_a_damaged_store_is_no_reason_to_say_anything(store: Path) -> None:
    for path in (store / "models").iterdir():
        (path / "model.json").write_text("{")
    completed("robench evaluate pla")

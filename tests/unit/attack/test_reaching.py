"""What a model does outside of its process while it answers is told; what code needs to run is not."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from robench.attack.guard import Guard


def flags(action: Callable[[], object]) -> list[str]:
    """The flags of a guard in which something is done."""
    guard = Guard()
    with guard:
        action()
    return guard.flags(randomised=False)


def test_files_programs_and_connections_are_told(tmp_path: Path) -> None:
    kept = tmp_path / "memory.pt"
    torch.save(torch.zeros(2), kept)
    assert flags(lambda: torch.load(kept)) == ["reaches-outside (memory.pt)"]
    assert flags(lambda: kept.write_bytes(b"")) == ["reaches-outside (memory.pt)"]
    assert flags(lambda: os.close(os.open(kept, os.O_RDONLY))) == ["reaches-outside (memory.pt)"]
    assert flags(lambda: os.listdir(tmp_path)) == ["reaches-outside (a folder)"]
    assert "a program" in flags(lambda: subprocess.run([sys.executable, "-c", ""], check=True))[0]


def test_code_that_is_looked_for_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needed_later.py").write_text("A = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert flags(lambda: importlib.import_module("needed_later")) == []
    assert flags(lambda: print("seen")) == []


def test_nobody_listens_before_and_after_or_to_others(tmp_path: Path) -> None:
    kept = tmp_path / "a.txt"
    kept.write_text("a")

    def elsewhere() -> None:
        thread = threading.Thread(target=kept.read_text)
        thread.start()
        thread.join()

    assert flags(elsewhere) == []
    guard = Guard()
    kept.read_text()
    with guard:
        pass
    kept.read_text()
    assert guard.flags(randomised=False) == []

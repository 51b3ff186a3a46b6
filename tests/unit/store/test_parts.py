"""Half-written files: no two writers share one, whatever their processes' numbers, and a writer that lives is known."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from safetensors.torch import save

from robench.errors import DiskError
from robench.store.files import write_file
from robench.store.parts import abandoned, aside_of, part_of, written

WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda aside: aside.write_text("x"),
    "rows": lambda aside: pd.DataFrame({"a": [1]}).to_parquet(aside),
    "images": lambda aside: aside.write_bytes(save({"a": torch.zeros(1)})),
    "checkpoint": lambda aside: torch.save({"a": 1}, aside),
    "picture": lambda aside: Figure().savefig(aside, format="png"),
}


def test_two_writers_of_one_number_do_not_share_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in two containers, where every first process has the number 1: each writes, and the last one's is there."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    path = tmp_path / "result.json"

    def slow(aside: Path) -> None:
        aside.write_text("the first's")
        write_file(path, lambda other: other.write_text("the second's"))
        assert aside.read_text() == "the first's"
        assert path.read_text() == "the second's"

    write_file(path, slow)
    assert path.read_text() == "the first's"
    assert [each.name for each in tmp_path.iterdir()] == ["result.json"]
    assert aside_of(path) != aside_of(path)
    assert written(aside_of(path)) == "result.json"


@pytest.mark.parametrize("kind", WRITERS)
def test_a_writer_holds_its_file_to_the_end(kind: str, tmp_path: Path) -> None:
    """Whatever it writes with, since what it wrote to is what is locked."""

    def write(aside: Path) -> None:
        WRITERS[kind](aside)
        assert not abandoned(aside)

    write_file(tmp_path / "x", write)
    with part_of(tmp_path / "y") as aside:
        WRITERS[kind](aside)
    assert abandoned(aside)


def test_files_of_earlier_writers_are_given_time(tmp_path: Path) -> None:
    gone = 2**22 + 1  # more than any process's number
    path = tmp_path / f".result.json.{gone}.part"
    path.write_text("half")
    assert not abandoned(path), "its writer may be in another container"
    os.utime(path, (1e9, 1e9))
    assert abandoned(path)
    mine = tmp_path / f".result.json.{os.getpid()}.part"
    mine.write_text("half")
    os.utime(mine, (1e9, 1e9))
    assert not abandoned(mine)
    assert not abandoned(tmp_path / "result.json")


def test_a_full_disk_that_a_writer_hides_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.save says "unexpected pos" where the disk is full."""

    def fails(aside: Path) -> None:
        aside.unlink()
        aside.symlink_to("/dev/full")
        with aside.open("wb") as stream:
            torch.save({"a": torch.zeros(100_000)}, stream)

    with pytest.raises(DiskError, match=r"No space left to write .*last\.ckpt; free some space"):
        write_file(tmp_path / "last.ckpt", fails)
    assert list(tmp_path.iterdir()) == []


def test_another_error_of_a_writer_is_its_own(tmp_path: Path) -> None:
    def fails(aside: Path) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        write_file(tmp_path / "x", fails)
    assert list(tmp_path.iterdir()) == []

"""What leads to a folder's leaderboards: a line each, with the model on top."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robench.store.files import write_text
from robench.tables.board import Board
from robench.tables.cells import ELSEWHERE, Line
from robench.tables.rendering import render
from robench.text import escaping
from robench.threat import ThreatModel

KINDS = ("md", "html")


@dataclass(frozen=True)
class Entry:
    """A leaderboard in the index: its files' name, its title, how many models it has, and the most robust one."""

    file: str
    title: str
    models: int
    top: str
    worst: str

    @classmethod
    def of(cls, board: Board, boards: Sequence[Board] = ()) -> Entry:
        """A board's entry; on top is a known worst case of more than single steps that no flag speaks against, with a
        model of another of the boards that is more robust and was not attacked in this one, if there is one."""
        first = next(_trusted(board), None)
        name, known = escaping.file_name(board.name), [row for row in board.rows if row.worst.figure]
        if first:
            top = f"{first.model}{_beyond(board, first, boards)}"
            return cls(name, board.title, len(board.rows), top, first.worst.text)
        notes = [row.worst.note for row in known if not row.searched]
        alone = "images from elsewhere alone" if any(ELSEWHERE in note for note in notes) else "single steps alone"
        why = alone if notes else "none without a flag"
        return cls(name, board.title, len(board.rows), why if known else "", "")


def _trusted(board: Board) -> Iterator[Line]:
    """Models whose worst case counts, from the top."""
    return (row for row in board.rows if row.worst.figure and row.searched and not row.worst.flags)


def _beyond(board: Board, first: Line, boards: Sequence[Board]) -> str:
    """That a model which was not attacked within the board's eps keeps more within a larger one than the first of the
    board does here, so that it keeps as much here at least; "" where none does."""
    radius, here = _radius(board), {setting.model_digest for setting in board.settings}
    most, told = _value(first), ""
    for other in boards:
        if (other.dataset, other.norm) != (board.dataset, board.norm) or _radius(other) <= radius:
            continue
        digests = {setting.model: setting.model_digest for setting in other.settings}
        for row in _trusted(other):
            if digests.get(row.model) not in here and _value(row) > most:
                most = _value(row)
                told = f" (of those here; {row.model} keeps {row.worst.text} within the larger eps {other.eps})"
    return told


def _radius(board: Board) -> float:
    return ThreatModel.of(board.norm, board.eps).radius


def _value(row: Line) -> float:
    return row.worst.figure.value if row.worst.figure else 0.0


def write_index(boards: Sequence[Board], folder: Path, page: str = "") -> list[Path]:
    """Write index.md and index.html beside the leaderboards; returns their paths. Raises DiskError.

    page: the file's name of the page that is written beside them, "" for none.
    """
    entries = sorted((Entry.of(board, boards) for board in boards), key=lambda entry: entry.title)
    for kind in KINDS:
        write_text(folder / f"index.{kind}", render(f"index.{kind}.j2", entries=entries, page=page))
    return [folder / f"index.{kind}" for kind in KINDS]

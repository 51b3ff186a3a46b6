"""What leads to a folder's leaderboards: a line each, with the model on top."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robench.store.files import write_text
from robench.tables.board import Board
from robench.tables.cells import ELSEWHERE
from robench.tables.rendering import render
from robench.text import escaping

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
    def of(cls, board: Board) -> Entry:
        """A board's entry; on top is a known worst case of more than single steps that no flag speaks against."""
        first = next((row for row in board.rows if row.worst.figure and row.searched and not row.worst.flags), None)
        name, known = escaping.file_name(board.name), [row for row in board.rows if row.worst.figure]
        if first:
            return cls(name, board.title, len(board.rows), first.model, first.worst.text)
        notes = [row.worst.note for row in known if not row.searched]
        alone = "images from elsewhere alone" if any(ELSEWHERE in note for note in notes) else "single steps alone"
        why = alone if notes else "none without a flag"
        return cls(name, board.title, len(board.rows), why if known else "", "")


def write_index(boards: Sequence[Board], folder: Path, page: str = "") -> list[Path]:
    """Write index.md and index.html beside the leaderboards; returns their paths. Raises DiskError.

    page: the file's name of the page that is written beside them, "" for none.
    """
    entries = sorted(map(Entry.of, boards), key=lambda entry: entry.title)
    for kind in KINDS:
        write_text(folder / f"index.{kind}", render(f"index.{kind}.j2", entries=entries, page=page))
    return [folder / f"index.{kind}" for kind in KINDS]

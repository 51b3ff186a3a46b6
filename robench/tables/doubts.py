"""What speaks against the worst cases of leaderboards beside the flags of the evaluations behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from robench.store.runs import EvaluationFolder, Store
from robench.tables.board import Board
from robench.tables.cells import Line, Setting
from robench.threat import ThreatModel
from robench.trust.diagnosis import findings
from robench.trust.flags import LESS_WITHIN, advice
from robench.trust.gates import Finding


@dataclass(frozen=True)
class _Within:
    """A model's worst case on the images of a board: share, eps as a number and as text."""

    value: float
    radius: float
    eps: str


def doubted(store: Store, boards: Sequence[Board]) -> list[Board]:
    """The boards with flags on the worst cases of models that a gate fired about, and on those above what the same
    model keeps of the same images within a smaller eps, which is a worst case of the larger one, too."""
    known: dict[tuple[Any, ...], list[_Within]] = {}
    for board in boards:
        radius = ThreatModel.of(board.norm, board.eps).radius
        for line, first in _lines(board):
            if first and line.worst.figure and not line.damaged:
                within = _Within(line.worst.figure.value, radius, board.eps)
                known.setdefault(_images(board, first), []).append(within)
    return [_doubted(store, board, known) for board in boards]


def fired(store: Store, folder: EvaluationFolder, flags: Iterable[str]) -> list[Finding]:
    """The gates that fired about the model of an evaluation, but those that one of the flags tells already."""
    told = [advice(flag) for flag in flags]
    found = findings(store, folder.about.model, folder)
    return [each for each in found if each.fired and not any(text.startswith(each.gate) for text in told)]


def _doubted(store: Store, board: Board, known: dict[tuple[Any, ...], list[_Within]]) -> Board:
    radius, rows, told = ThreatModel.of(board.norm, board.eps).radius, [], []
    for line, first in _lines(board):
        flags = dict[str, str]()
        if first and line.worst.figure:
            found = fired(store, store.evaluation(first.evaluation), line.worst.flags)
            flags |= {each.gate: f"{each.evidence}; {each.advice}" for each in found}
            smaller = (each for each in known.get(_images(board, first), ()) if each.radius < radius)
            least = min(smaller, key=lambda each: each.value, default=None)
            if least and least.value < line.worst.figure.value:
                name = f"{LESS_WITHIN}{least.eps}"
                flags[name] = f"{100 * least.value:.1f} % there; {advice(name)}"
        told += [(line.model, name, words) for name, words in flags.items()]
        rows.append(replace(line, worst=replace(line.worst, flags=(*line.worst.flags, *flags))) if flags else line)
    return replace(board, rows=tuple(rows), doubts=tuple(told))


def _lines(board: Board) -> Iterable[tuple[Line, Setting | None]]:
    """Each line, and what made one of its cells."""
    first = {setting.model: setting for setting in reversed(board.settings)}
    return ((line, first.get(line.model)) for line in board.rows)


def _images(board: Board, setting: Setting) -> tuple[Any, ...]:
    """What two boards share where a model of theirs was asked about the same images."""
    return setting.model_digest, setting.data_digest, board.norm, board.start, board.count, board.draw

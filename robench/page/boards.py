"""A leaderboard as the page has it: the table's lines, and behind each what made it and its images."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from robench.page.models import hardware_of
from robench.page.pictures import bits
from robench.page.sheets import AMONG, Attacked, Sheet, sheet_of
from robench.results import rows as of
from robench.results.accuracy import Measure, entering, standing
from robench.results.paired import Paired
from robench.results.rows import COUNTED, Marks
from robench.store.files import Damaged
from robench.store.runs import Store
from robench.tables.board import Board
from robench.tables.cells import Cell, Column, Line, Setting
from robench.tables.comparison import CLEAN as OF_CLEAN
from robench.tables.comparison import WORST as OF_WORST
from robench.threat import ThreatModel

# models of a board up to which pairs are also compared under every single attack
SINGLE = 16
# where the page says what to do about flags
FLAGGED = "open the line for which, and what to do"


@dataclass(frozen=True)
class Heading:
    """A column: its name, what its attack was up against, and whether a lower figure speaks for the defense."""

    name: str
    access: str
    lower: bool


@dataclass(frozen=True)
class Made:
    """What made one cell, and what that ran on."""

    setting: Setting
    hardware: str
    access: str


@dataclass(frozen=True)
class Row:
    """A model's line: cells by the columns' order; the digest leads to the model and its findings.

    right: which images are right, in base64, None where nobody knows; standing: the same under each column's attack;
    searched: whether an attack of several steps tried it.
    """

    model: str
    digest: str
    cells: list[dict[str, Any]]
    strongest: str
    partial: bool
    damaged: bool
    searched: bool
    made: list[Made]
    right: str | None
    standing: list[str | None]


@dataclass(frozen=True)
class Pair:
    """Two lines by their places, compared; shared: the columns over which the worst case is taken."""

    a: int
    b: int
    shared: list[int]
    paired: list[dict[str, Any]]


@dataclass(frozen=True)
class Shown:
    """A board with all that the page shows of it; radius: its eps as a number; attacks: those that its models share and
    other boards of the same images lack, in words."""

    name: str
    title: str
    dataset: str
    norm: str
    eps: str
    radius: float
    start: int
    count: int
    attacks: str
    note: str
    columns: list[Heading]
    rows: list[Row]
    pairs: list[Pair]
    sheet: Sheet | None


def shown(board: Board, store: Store, data: Path | None, count: int) -> Shown:
    """A board of the store with its images, at most `count` of each model."""
    attacked = [_attacked(board, line, store) for line in board.rows]
    rows = [_row(board, line, each, store) for line, each in zip(board.rows, attacked, strict=True)]
    return Shown(
        board.name, board.title, board.dataset, board.norm, board.eps, ThreatModel.of(board.norm, board.eps).radius,
        board.start, board.count, board.attacks, board.told(FLAGGED), [_heading(each) for each in board.columns], rows,
        _pairs(board, attacked), sheet_of(attacked, data, count),
    )  # fmt: skip


def _heading(column: Column) -> Heading:
    return Heading(column.name, column.access, bool(column.metric) and Measure(column.metric).lower_is_better)


def _settings(board: Board, line: Line) -> list[Setting]:
    return [setting for setting in board.settings if setting.model == line.model]


def _attacked(board: Board, line: Line, store: Store) -> list[Attacked]:
    """A model's complete evaluations."""
    columns = {column.name: i for i, column in enumerate(board.columns)}
    mine = {setting.column: setting for setting in _settings(board, line)}
    named = [column for column in board.columns if column.name in mine]
    counted = {column.name for column in entering(named)}
    found = []
    for column in named:
        figure = column.cell(line).figure
        if figure is None:
            continue
        folder = store.evaluation(mine[column.name].evaluation)
        with contextlib.suppress(Damaged):  # said already
            rows = folder.rows((*COUNTED, "clean_pred", board.norm))
            rejected = folder.about.classes if folder.spec.get("detector") else None
            right, stands = of.correct(rows), standing([rows], rejected)
            place, counts = columns[column.name], column.name in counted
            found.append(Attacked(place, counts, folder, rows.head(AMONG).copy(), right, stands, figure.value))
    return found


def _row(board: Board, line: Line, attacked: Sequence[Attacked], store: Store) -> Row:
    mine, made = _settings(board, line), []
    access = {column.name: column.access for column in board.columns}
    for setting in mine:
        made.append(Made(setting, hardware_of(store.evaluation(setting.evaluation).about), access[setting.column]))
    marks = {each.column: bits(each.standing) for each in attacked}
    right = bits(_right(attacked)) if attacked else None
    cells = [_cell(column.cell(line)) for column in board.columns]
    return Row(
        line.model, mine[0].model_digest if mine else "", cells, line.strongest, line.partial, line.damaged,
        line.searched, made, right, [marks.get(i) for i in range(len(board.columns))],
    )  # fmt: skip


def _cell(cell: Cell) -> dict[str, Any]:
    return {"text": cell.text, "value": None, "flags": [], "note": ""} | (cell.to_json() or {})


def _right(attacked: Sequence[Attacked]) -> Marks:
    """Which clean images are right, as an evaluation of the model alone says it if there is one."""
    alone = [each for each in attacked if not each.folder.spec.get("detector")]
    return (alone or attacked)[0].right


def _pairs(board: Board, attacked: Sequence[Sequence[Attacked]]) -> list[Pair]:
    """Every two models that were both attacked, compared on clean images, in the worst case and, of few models, under
    every attack that both have."""
    found = []
    for a, b in combinations(range(len(attacked)), 2):
        ours, theirs = ({each.column: each.standing for each in attacked[i]} for i in (a, b))
        both = sorted(ours.keys() & theirs.keys())
        if not both:
            continue
        shared = [board.columns.index(column) for column in entering([board.columns[i] for i in both])]
        paired = [Paired.of(OF_CLEAN, _right(attacked[a]), _right(attacked[b]))]
        if shared:
            worst = [np.logical_and.reduce([side[i] for i in shared]) for side in (ours, theirs)]
            paired.append(Paired.of(OF_WORST, *worst))
        if len(attacked) <= SINGLE and len(both) > 1:
            paired += [Paired.of(board.columns[i].name, ours[i], theirs[i]) for i in both]
        found.append(Pair(a, b, shared, [_rounded(each) for each in paired]))
    return found


def _rounded(pair: Paired) -> dict[str, Any]:
    """What is said of a pairing, with as many digits as anybody reads."""
    told = pair.to_json()
    ends = [float(f"{end:.5g}") for end in told["interval"]]
    return told | {"difference": float(f"{told['difference']:.5g}"), "interval": ends, "p": float(f"{told['p']:.3g}")}

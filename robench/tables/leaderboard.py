"""Rows to tables: one leaderboard per data, threat model and set of examples, in csv, markdown, LaTeX and html."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from robench.errors import BadInput
from robench.evaluation.recorded_command import command_of
from robench.results.accuracy import (
    WHITE_BOX,
    Figure,
    Measure,
    attack_figure,
    clean_figure,
    entering,
    enters,
    worst_case,
)
from robench.results.rows import COUNTED
from robench.results.summary import COMPLETE, INCOMPLETE
from robench.store.runs import EvaluationFolder, Store
from robench.tables.rendering import Grid, grid
from robench.text.escaping import file_name
from robench.threat import ThreatModel

ABSENT = "absent"
NOTE = (
    "Percent of all n images, with 95% Wilson intervals. Robust accuracy unless the column says otherwise; the worst "
    "case is taken image by image over the white-box attacks shown. * flags fired: see the settings."
)
TERMINAL_NOTE = (
    "Percent of all n images. The worst case is taken image by image over the white-box attacks; the strongest is the "
    "one that alone comes closest to it. * flags fired: see the files."
)


@dataclass(frozen=True)
class Cell:
    """One figure of a table, or None where it is missing or its evaluation incomplete; and the flags that fired."""

    figure: Figure | None
    status: str = COMPLETE
    flags: tuple[str, ...] = ()
    note: str = ""

    @property
    def text(self) -> str:
        """Percent with interval, "incomplete", or a dash; an asterisk says that flags fired."""
        if self.figure is None:
            return INCOMPLETE if self.status == INCOMPLETE else "-"
        return self.figure.text() + ("*" if self.flags else "") + self.note

    def to_json(self) -> dict[str, Any] | None:
        """Value, interval, n, status and flags."""
        if self.figure is None:
            return None if self.status != INCOMPLETE else {"status": INCOMPLETE}
        return {"value": self.figure.value, "interval": list(self.figure.interval), "n": self.figure.n,
                "status": self.status, "flags": list(self.flags), "note": self.note}  # fmt: skip

    def numbers(self, name: str) -> dict[str, str]:
        """The figure as a fraction and the ends of its interval, by the columns of a csv file."""
        parts = [f"{name} {part}" for part in ("value", "low", "high")]
        if self.figure is None:
            return dict.fromkeys(parts, self.text if self.status == INCOMPLETE else "")
        ends = (self.figure.value, *self.figure.interval)
        return {part: f"{value:.6g}" for part, value in zip(parts, ends, strict=True)}


@dataclass(frozen=True)
class Scored:
    """An evaluation as a table sees it: the column it belongs to, and what `entering` asks."""

    column: str
    access: str
    metric: str
    folder: EvaluationFolder

    @classmethod
    def of(cls, folder: EvaluationFolder, label: str) -> Scored:
        """An evaluation under its label, which names what it counts where that is not robust accuracy."""
        about = folder.about
        name = label if about.metric == Measure.ROBUST else f"{label} ({about.metric})"
        return cls(name, about.access, about.metric, folder)

    @property
    def whole(self) -> bool:
        """Whether every image was attacked."""
        folder = self.folder
        return folder.result is not None and sum(b - a for a, b in folder.ranges()) == folder.spec["count"]

    @property
    def ranks(self) -> bool:
        """Whether its own figure says how robust the model is, so that a model without it is ranked lower."""
        return bool(entering([self]))


@dataclass(frozen=True)
class Line:
    """One model: its clean accuracy, its worst case, and a cell per attack by the column's name.

    partial: it lacks attacks that others of the table have. strongest: the attack that alone comes nearest to the worst
    case.
    """

    model: str
    clean: Cell
    worst: Cell
    attacks: dict[str, Cell]
    strongest: str = ""
    partial: bool = False

    @property
    def flagged(self) -> bool:
        """Whether any flag fired."""
        return any(cell.flags for cell in (self.worst, *self.attacks.values()))

    @property
    def rank(self) -> tuple[bool, float, str]:
        """What the table is sorted by: complete lines first, the most robust on top."""
        return self.partial, -self.worst.figure.value if self.worst.figure else 1.0, self.model


@dataclass(frozen=True)
class Column:
    """A column: its name, the cell that a line has in it, what its attack was up against, and what it counts."""

    name: str
    cell: Callable[[Line], Cell]
    access: str = ""
    metric: str = ""
    strong: bool = False  # whether pages print it in bold


def _attack_cell(name: str, line: Line) -> Cell:
    return line.attacks.get(name, Cell(None, ABSENT))


CLEAN = Column("clean", lambda line: line.clean)
WORST = Column("worst case", lambda line: line.worst, strong=True)


@dataclass(frozen=True)
class Setting:
    """What made one cell of an attack's column."""

    model: str
    column: str
    attack: str
    options: dict[str, Any]
    seed: int
    n: int
    gradients: int
    seconds: float
    flags: list[str]
    evaluation: str
    model_digest: str
    data_digest: str
    command: str
    commit: str
    torch: str


@dataclass(frozen=True)
class Board:
    """A table: a line per model, the most robust first; columns clean, worst case, then one per attack."""

    name: str
    dataset: str
    norm: str
    eps: str
    start: int
    count: int
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    settings: tuple[Setting, ...] = field(default=())

    template = "leaderboard"
    note = NOTE

    @property
    def title(self) -> str:
        """Data, threat model and examples in words."""
        last = self.start + self.count - 1
        return f"{self.dataset}, {self.norm} eps {self.eps}, test images {self.start}-{last} (n = {self.count:,})"

    @property
    def headers(self) -> list[str]:
        """Names of the columns."""
        return ["model", *(column.name for column in self.columns)]

    def texts(self, row: Line) -> list[str]:
        """A row's cells as text."""
        return [row.model, *(column.cell(row).text for column in self.columns)]

    def to_json(self) -> dict[str, Any]:
        """The table with accuracies as fractions."""
        rows = [{"model": r.model, **{each.name: each.cell(r).to_json() for each in self.columns}} for r in self.rows]
        return {
            "name": self.name,
            "title": self.title,
            "columns": self.headers,
            "rows": rows,
            "settings": [asdict(setting) for setting in self.settings],
        }

    def records(self) -> list[dict[str, Any]]:
        """The csv file's lines: figures as fractions with the ends of their intervals, then what made them."""
        found = []
        for row in self.rows:
            mine = [setting for setting in self.settings if setting.model == row.model]
            record: dict[str, Any] = {"model": row.model, "n": self.count}
            for column in self.columns:
                record |= column.cell(row).numbers(column.name)
            flags = sorted({f"{s.column}: {flag}" for s in mine for flag in s.flags})
            found.append(record | {
                "flags": "; ".join(flags),
                "evaluations": " ".join(s.evaluation for s in mine),
                "commands": "; ".join(dict.fromkeys(s.command for s in mine)),
                "commits": " ".join(dict.fromkeys(s.commit for s in mine)),
            })  # fmt: skip
        return found

    def table(self) -> Grid:
        """The ranking for a terminal: a line per model; the files have every attack's column."""
        shown = grid(self.title, TERMINAL_NOTE)
        for name in ("model", "clean %", "worst case %", "95% interval", "strongest attack"):
            figures = "%" in name
            width = len(name) if figures else None  # names give way before figures do
            shown.add_column(
                name, justify="right" if figures else "left", no_wrap=figures, min_width=width, overflow="fold"
            )
        for row in self.rows:
            worst, clean = row.worst.figure, row.clean.figure
            low, high = worst.interval if worst else (0.0, 0.0)
            shown.add_row(
                row.model,
                f"{100 * clean.value:.1f}" if clean else row.clean.text,
                f"{100 * worst.value:.1f}{'*' if row.flagged else ''}" if worst else row.worst.text,
                f"{100 * low:.1f} - {100 * high:.1f}" if worst else "",
                row.strongest + row.worst.note,
            )
        return shown


def build(store: Store) -> list[Board]:
    """Every table that the store's evaluations fill. Raises BadInput where there is none."""
    groups: dict[tuple[Any, ...], list[EvaluationFolder]] = defaultdict(list)
    trained = {name: store.model_digest(name) for name in store.model_names()}
    folders = [store.evaluation(job_id) for job_id in store.evaluation_ids()]
    overtaken = {folder.spec.get("after") for folder in folders}
    shared = ("data_digest", "split", "start", "count", "norm", "eps", "seed")
    for folder in folders:
        spec, name = folder.spec, folder.about.model
        if folder.job_id in overtaken and spec.get("after"):
            continue  # the last one of a cascade has the finds of all before it
        if trained.get(name, spec["model_digest"]) != spec["model_digest"]:
            continue  # of an earlier model by the same name
        groups[tuple(spec[each] for each in shared)].append(folder)
    if not groups:
        raise BadInput(f"There is no evaluation in {store.evaluations}; run 'robench evaluate' first.")
    ordered = sorted(groups, key=str)
    boards = [_board(groups[key]) for key in ordered]
    names = Counter(board.name for board in boards)
    return [
        replace(board, name=f"{board.name}-{digest[:6]}") if names[board.name] > 1 else board
        for board, (digest, *_) in zip(boards, ordered, strict=True)
    ]


def _board(folders: list[EvaluationFolder]) -> Board:
    """The table of evaluations on the same images within one threat model."""
    labels = _labels(folders)
    newest = sorted(folders, key=lambda f: (f.spec["harness"], f.spec["attack_version"], f.job_id))
    models: dict[tuple[str, str], dict[str, Scored]] = defaultdict(dict)
    columns: dict[str, Column] = {}
    for folder in newest:  # the last one of a column is that of the newest version of its attack
        scored = Scored.of(folder, labels[folder.job_id])
        name = scored.column
        columns[name] = Column(name, partial(_attack_cell, name), scored.access, scored.metric)
        models[folder.about.model, folder.spec["model_digest"]][name] = scored
    shared = {name for name, count in Counter(name for name, _ in models).items() if count > 1}
    named = {f"{name}#{digest[:6]}" if name in shared else name: cells for (name, digest), cells in models.items()}
    order = sorted(columns.values(), key=lambda c: (c.access != WHITE_BOX, c.metric != Measure.ROBUST, c.name))
    ranks = {each.column for cells in named.values() for each in cells.values() if each.ranks}
    ranking = [column.name for column in order if column.name in ranks]
    rows = sorted((_line(model, cells, ranking) for model, cells in named.items()), key=lambda line: line.rank)
    settings = [_setting(model, each) for model, cells in named.items() for each in cells.values()]
    spec, dataset = newest[-1].spec, newest[-1].about.dataset
    eps = ThreatModel.of(spec["norm"], spec["eps"]).eps_text
    return Board(
        _name(dataset, spec, eps), dataset, spec["norm"], eps, spec["start"], spec["count"], (CLEAN, WORST, *order),
        tuple(rows), tuple(sorted(settings, key=lambda s: (s.model, s.column))),
    )  # fmt: skip


def _name(dataset: str, spec: dict[str, Any], eps: str) -> str:
    """The files' name."""
    parts = [
        Path(dataset.partition(":")[2]).stem if ":" in dataset else dataset,
        spec["norm"],
        eps,
        f"n{spec['count']}",
    ]
    parts += [f"from{spec['start']}"] if spec["start"] else []
    parts += [f"s{spec['seed']}"] if spec["seed"] else []
    return file_name("-".join(parts).replace("_", "-"))


def _labels(folders: Sequence[EvaluationFolder]) -> dict[str, str]:
    """Every evaluation's label: attack, options and what it was up against, with a digest where names are shared."""
    found = {folder.job_id: folder.label for folder in folders}
    behind = {f.job_id: str(f.spec.get("detector") or f.spec.get("surrogate") or "") for f in folders}
    several: dict[str, set[str]] = defaultdict(set)
    for job_id, name in found.items():
        several[name].add(behind[job_id])
    return {i: f"{name} #{behind[i][:6]}" if len(several[name]) > 1 else name for i, name in found.items()}


def _line(model: str, cells: dict[str, Scored], ranking: Sequence[str]) -> Line:
    """One model's line. Its worst case needs every evaluation that enters it to be complete; a line that lacks some of
    the table's `ranking` attacks says so and is ranked last."""
    attacks: dict[str, Cell] = {}
    clean, tables = Cell(None, INCOMPLETE), {}
    for name, each in cells.items():
        if not each.whole or (result := each.folder.result) is None:
            attacks[name] = Cell(None, INCOMPLETE)
            continue
        tables[name] = each.folder.rows(COUNTED)
        attacks[name] = Cell(attack_figure(tables[name], each.metric), flags=result.flags)
        if each.access != "detector" or clean.figure is None:  # behind one, clean images may be rejected
            clean = Cell(clean_figure(tables[name]))
    group = [each.column for each in entering(cells.values())]
    complete = all(each.column in tables for each in cells.values() if enters(each.access))
    here = [name for name in ranking if name in group]
    note = "" if len(here) == len(ranking) else f" ({len(here)}/{len(ranking)} attacks)"
    flags = tuple(sorted({flag for name in here for flag in attacks[name].flags}))
    figure = worst_case([tables[name] for name in group]) if group and complete else None
    worst = Cell(figure, COMPLETE if figure else ABSENT if complete else INCOMPLETE, flags, note)
    values = {name: figure.value for name in here if (figure := attacks[name].figure)}
    strongest = min(values, key=lambda name: values[name]) if values else ""
    return Line(model, clean, worst, attacks, strongest, partial=bool(note))


def _setting(model: str, scored: Scored) -> Setting:
    """What made one cell."""
    folder = scored.folder
    spec, about, result = folder.spec, folder.about, folder.result
    return Setting(
        model=model,
        column=scored.column,
        attack=f"{spec['attack']} v{spec['harness']}.{spec['attack_version']}",
        options=spec["attack_options"],
        seed=spec["seed"],
        n=result.n if result else 0,
        gradients=(result.backwards or 0) if result else 0,
        seconds=(result.seconds or 0.0) if result else 0.0,
        flags=list(result.flags) if result else [INCOMPLETE],
        evaluation=folder.job_id,
        model_digest=spec["model_digest"],
        data_digest=spec["data_digest"],
        command=command_of(folder),
        commit=about.commit,
        torch=about.torch,
    )

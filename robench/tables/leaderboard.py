"""Rows to tables: one leaderboard per data, threat model and set of examples, in csv, markdown, LaTeX and html."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from robench.errors import BadInput
from robench.evaluation.recorded_command import command_of
from robench.results.accuracy import COUNTED, Figure, attack_figure, clean_figure, worst_case
from robench.results.summary import label
from robench.store.files import write_text
from robench.store.runs import EvaluationFolder, Store
from robench.tables.rendering import render
from robench.threat import ThreatModel

INCOMPLETE = "incomplete"


@dataclass(frozen=True)
class Cell:
    """One figure of a table, or None where it is missing or its evaluation incomplete; and the flags that fired."""

    figure: Figure | None
    status: str = "complete"
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


@dataclass(frozen=True)
class Board:
    """A table: rows sorted by worst case, best first; columns clean, worst case, then one per attack."""

    name: str
    dataset: str
    norm: str
    eps: str
    start: int
    count: int
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    settings: list[dict[str, Any]]

    @property
    def title(self) -> str:
        """Data, threat model and examples in words."""
        last = self.start + self.count - 1
        return f"{self.dataset}, {self.norm} eps {self.eps}, test images {self.start}-{last} (n = {self.count:,})"

    @property
    def headers(self) -> list[str]:
        """Names of the columns."""
        return ["model", "clean", "worst case", *self.columns]

    def texts(self, row: dict[str, Any]) -> list[str]:
        """A row's cells as text."""
        return [row["model"], *(row["cells"][name].text for name in self.headers[1:])]

    def to_json(self) -> dict[str, Any]:
        """The table with accuracies as fractions."""
        rows = [{"model": r["model"], **{name: cell.to_json() for name, cell in r["cells"].items()}} for r in self.rows]
        return {
            "name": self.name,
            "title": self.title,
            "columns": self.headers,
            "rows": rows,
            "settings": self.settings,
        }

    def table(self) -> Table:
        """The ranking for a terminal: a line per model; the files have every attack's column."""
        shown = Table(
            title=self.title, title_justify="left", title_style="bold", caption=TERMINAL_NOTE, caption_justify="left",
            box=box.SIMPLE_HEAD, pad_edge=False,
        )  # fmt: skip
        for name in ("model", "clean %", "worst case %", "95% interval", "strongest attack"):
            figures = "%" in name
            width = len(name) if figures else None  # names give way before figures do
            shown.add_column(
                name, justify="right" if figures else "left", no_wrap=figures, min_width=width, overflow="fold"
            )
        for row in self.rows:
            worst, clean = row["cells"]["worst case"], row["cells"]["clean"]
            low, high = worst.figure.interval if worst.figure else (0.0, 0.0)
            shown.add_row(
                row["model"],
                f"{100 * clean.figure.value:.1f}" if clean.figure else clean.text,
                f"{100 * worst.figure.value:.1f}{'*' if row['flagged'] else ''}" if worst.figure else worst.text,
                f"{100 * low:.1f} - {100 * high:.1f}" if worst.figure else "",
                row["strongest"] + worst.note,
            )
        return shown


NOTE = (
    "Percent of all n images, with 95% Wilson intervals. Robust accuracy unless the column says otherwise; the worst "
    "case is taken image by image over the white-box attacks shown. * flags fired: see the settings."
)


TERMINAL_NOTE = (
    "Percent of all n images. The worst case is taken image by image over the white-box attacks; the strongest is the "
    "one that alone comes closest to it. * flags fired: see the files."
)


def build(store: Store) -> list[Board]:
    """Every table that the store's evaluations fill. Raises BadInput where there is none."""
    groups: dict[tuple[Any, ...], list[EvaluationFolder]] = defaultdict(list)
    trained = {name: store.model_digest(name) for name in store.model_names()}
    folders = [store.evaluation(job_id) for job_id in store.evaluation_ids()]
    overtaken = {folder.spec.get("after") for folder in folders}
    for folder in folders:
        spec, name = folder.spec, folder.about["model"]
        if folder.job_id in overtaken and spec.get("after"):
            continue  # the last one of a cascade has the finds of all before it
        if trained.get(name, spec["model_digest"]) != spec["model_digest"]:
            continue  # of an earlier model by the same name
        key = (
            spec["data_digest"],
            spec["split"],
            spec["start"],
            spec["count"],
            spec["norm"],
            spec["eps"],
            spec["seed"],
        )
        groups[key].append(folder)
    if not groups:
        raise BadInput(f"There is no evaluation in {store.evaluations}; run 'robench evaluate' first.")
    boards = [_board(key, folders) for key, folders in sorted(groups.items(), key=lambda item: str(item[0]))]
    names = Counter(board.name for board in boards)
    digests = [key[0] for key in sorted(groups, key=str)]
    return [
        replace(board, name=f"{board.name}-{digest[:6]}") if names[board.name] > 1 else board
        for board, digest in zip(boards, digests, strict=True)
    ]


def write(board: Board, folder: Path) -> list[Path]:
    """Write the table's four files into `folder`; returns their paths."""
    paths = [folder / f"{board.name}.{kind}" for kind in ("csv", "md", "tex", "html")]
    write_text(paths[0], _csv(board))
    for path in paths[1:]:
        write_text(path, render(f"leaderboard{path.suffix}.j2", board=board, note=NOTE))
    return paths


def _board(key: tuple[Any, ...], folders: list[EvaluationFolder]) -> Board:
    _, _, start, count, norm, exact, seed = key
    eps = ThreatModel.of(norm, exact).eps_text
    models: dict[tuple[str, str], dict[str, EvaluationFolder]] = defaultdict(dict)
    columns: dict[str, str] = {}
    about: dict[str, Any] = {}
    labels = _labels(folders)
    for folder in sorted(folders, key=lambda f: (f.spec["harness"], f.spec["attack_version"], f.job_id)):
        about = folder.about
        column = labels[folder.job_id]
        if about["metric"] != "robust accuracy":
            column += f" ({about['metric']})"
        columns[column] = about["access"]
        models[about["model"], folder.spec["model_digest"]][column] = folder  # the newest version of an attack
    shared = {name for name, count in Counter(name for name, _ in models).items() if count > 1}
    named = {f"{name}#{digest[:6]}" if name in shared else name: cells for (name, digest), cells in models.items()}
    white = [column for column, access in columns.items() if access == "white-box" and "(attack" not in column]
    rows = [_row(model, cells, white) for model, cells in named.items()]
    rows.sort(key=lambda row: (row["partial"], -row["rank"], row["model"]))
    dataset = about["dataset"]
    parts = [Path(dataset.partition(":")[2]).stem if ":" in dataset else dataset, norm, eps, f"n{count}"]
    parts += [f"from{start}"] if start else []
    parts += [f"s{seed}"] if seed else []
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts)).strip("-")
    order = tuple(sorted(columns, key=lambda c: (columns[c] != "white-box", "rate" in c, c)))
    settings = [_setting(model, folder, column) for model, cells in named.items() for column, folder in cells.items()]
    settings.sort(key=lambda s: (s["model"], s["column"]))
    return Board(name, dataset, norm, eps, start, count, order, rows, settings)


def _labels(folders: list[EvaluationFolder]) -> dict[str, str]:
    """Every evaluation's column: attack, options and what it was up against, with a digest where names are shared."""
    found, behind = {}, {}
    for folder in folders:
        spec, about = folder.spec, folder.about
        found[folder.job_id] = label(spec["attack"], about["given_options"], about.get("against", ""))
        behind[folder.job_id] = str(spec.get("detector") or spec.get("surrogate") or "")
    several: dict[str, set[str]] = defaultdict(set)
    for job_id, name in found.items():
        several[name].add(behind[job_id])
    return {i: f"{name} #{behind[i][:6]}" if len(several[name]) > 1 else name for i, name in found.items()}


def _row(model: str, cells: dict[str, EvaluationFolder], columns: list[str]) -> dict[str, Any]:
    """One model's cells. The worst case needs every white-box attack of the row to be complete, and one of `columns`
    (the table's white-box attacks) at least; a row that lacks some of them says so and is ranked last."""
    found: dict[str, Cell] = defaultdict(lambda: Cell(None, "absent"))
    white, complete, clean = [], True, Cell(None, INCOMPLETE)
    for column, folder in cells.items():
        result, about = folder.result, folder.about
        if result is None or sum(b - a for a, b in folder.ranges()) != folder.spec["count"]:
            found[column] = Cell(None, INCOMPLETE)
            complete &= about["access"] != "white-box"
            continue
        rows = folder.rows(COUNTED)
        found[column] = Cell(attack_figure(rows, about["metric"]), flags=tuple(result["flags"]))
        if about["access"] != "detector" or clean.figure is None:  # behind one, clean images may be rejected
            clean = Cell(clean_figure(rows))
        if about["access"] == "white-box":
            white.append(rows)
    here = [column for column in columns if column in cells]
    worst = worst_case(white) if here and complete else None
    note = "" if len(here) == len(columns) else f" ({len(here)}/{len(columns)} attacks)"
    found["clean"] = clean
    status = "complete" if worst else "absent" if complete else INCOMPLETE
    flags = tuple(sorted({flag for column in here for flag in found[column].flags}))
    found["worst case"] = Cell(worst, status, flags, note)
    figures = {column: found[column].figure for column in here}
    values = {column: figure.value for column, figure in figures.items() if figure is not None}
    return {
        "model": model,
        "cells": found,
        "rank": worst.value if worst else -1.0,
        "partial": bool(note),
        "strongest": min(values, key=lambda column: values[column]) if values else "",
        "flagged": any(cell.flags for cell in found.values()),
    }


def _setting(model: str, folder: EvaluationFolder, column: str) -> dict[str, Any]:
    """What made one cell."""
    spec, about, result = folder.spec, folder.about, folder.result or {}
    return {
        "model": model,
        "column": column,
        "attack": f"{spec['attack']} v{spec['harness']}.{spec['attack_version']}",
        "options": spec["attack_options"],
        "seed": spec["seed"],
        "n": result.get("n", 0),
        "gradients": result.get("backwards", 0),
        "seconds": result.get("seconds", 0.0),
        "flags": result.get("flags", [INCOMPLETE]),
        "evaluation": folder.job_id,
        "model_digest": spec["model_digest"],
        "data_digest": spec["data_digest"],
        "command": command_of(folder),
        "commit": about["environment"]["commit"],
        "torch": about["environment"]["packages"]["torch"],
    }


def _csv(board: Board) -> str:
    """One line per model: figures as fractions with interval ends, then what made them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    figures = board.headers[1:]
    ends = [f"{name} {part}" for name in figures for part in ("value", "low", "high")]
    writer.writerow(["model", "n", *ends, "flags", "evaluations", "commands", "commits"])
    for row in board.rows:
        mine = [s for s in board.settings if s["model"] == row["model"]]
        numbers: list[Any] = []
        for name in figures:
            cell = row["cells"][name]
            absent = [cell.text] * 3 if cell.status == INCOMPLETE else [""] * 3
            numbers += (
                absent
                if cell.figure is None
                else [f"{cell.figure.value:.6g}", *(f"{v:.6g}" for v in cell.figure.interval)]
            )
        flags = sorted({f"{s['column']}: {flag}" for s in mine for flag in s["flags"]})
        writer.writerow([
            row["model"], board.count, *numbers, "; ".join(flags), " ".join(s["evaluation"] for s in mine),
            "; ".join(dict.fromkeys(s["command"] for s in mine)), " ".join(dict.fromkeys(s["commit"] for s in mine)),
        ])  # fmt: skip
    return out.getvalue()

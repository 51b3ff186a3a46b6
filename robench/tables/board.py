"""A leaderboard as it is read: a line per model, in a terminal and in files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from robench.data.draw import images_told
from robench.tables.cells import ELSEWHERE, ONE_STEP, UNWALKED, UPPER, WORST, Column, Line, Setting
from robench.tables.rendering import Grid, grid

NOTE = (
    "Percent of all n images, with 95% Wilson intervals. Robust accuracy unless the column says otherwise; the worst "
    "case is taken image by image over the white-box attacks shown. * flags fired: "
)
TERMINAL_NOTE = (
    "Percent of all n images. The worst case is taken image by image over the white-box attacks; the strongest is the "
    "one that alone comes closest to it. * flags fired: see the files."
)


@dataclass(frozen=True)
class Board:
    """A table: a line per model, the most robust first; columns clean, worst case, then one per attack.

    doubts: a model, what speaks against its worst case beside the flags of its attacks, and what to do about it.
    """

    name: str
    dataset: str
    norm: str
    eps: str
    start: int
    count: int
    columns: tuple[Column, ...]
    rows: tuple[Line, ...]
    settings: tuple[Setting, ...] = field(default=())
    attacks: str = ""
    absent: str = ""
    drawn: str = ""
    draw: str | None = None
    shared: tuple[str, ...] = ()
    doubts: tuple[tuple[str, str, str], ...] = ()

    template = "leaderboard"

    @property
    def note(self) -> str:
        """What is to be known of the figures, in files."""
        return self.told("see the settings")

    def told(self, flags: str) -> str:
        """The same where something else is said of what to do about flags."""
        return f"{NOTE}{flags}.{self._said}"

    @property
    def _said(self) -> str:
        cells = [column.cell(row) for row in self.rows for column in self.columns]
        found = f" {UNWALKED}" if any(UPPER in cell.note for cell in cells) else ""
        weak = "so that the figure can say that a model is weak, not that it is robust."
        if any(ONE_STEP in cell.note for cell in cells):
            found += f" One step: no attack took a second one, {weak}"
        if any(ELSEWHERE in cell.note for cell in cells):
            found += f" Images from elsewhere: no attack of this model was run here, {weak}"
        if any(row.partial for row in self.rows):
            shared = f"{', '.join(self.shared)}, which all have" if self.shared else "nothing that all have"
            found += f" A model that lacks attacks is ranked by {shared}: below every model that is as robust there."
        if any(row.damaged for row in self.rows):
            found += " One of which damaged evaluations are left out stands last."
        if any("size " in column.name for column in self.columns):
            found += " A library's attack depends on the sizes of batches and shards, which its column names."
        return found

    @property
    def title(self) -> str:
        """Data, threat model and examples in words."""
        last = self.start + self.count - 1
        images = images_told(self.start, last, self.count, self.draw, self.drawn, self.absent)
        attacks = f", under {self.attacks}" if self.attacks else ""
        return f"{self.dataset}, {self.norm} eps {self.eps}, {images}{attacks}"

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
            "doubts": [dict(zip(("model", "flag", "advice"), each, strict=True)) for each in self.doubts],
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
            flags += [f"{WORST.name}: {name}" for model, name, _ in self.doubts if model == row.model]
            found.append(record | {
                "flags": "; ".join(flags),
                "evaluations": " ".join(s.evaluation for s in mine),
                "commands": "; ".join(dict.fromkeys(s.command for s in mine)),
                "commits": " ".join(dict.fromkeys(s.commit for s in mine)),
            })  # fmt: skip
        return found

    def table(self) -> Grid:
        """The ranking for a terminal: a line per model; the files have every attack's column."""
        whom: dict[str, list[str]] = {}
        for model, name, _ in self.doubts:
            whom.setdefault(name, []).append(model)
        against = [f"Before it is trusted, explain {name}: {', '.join(models)}." for name, models in whom.items()]
        shown = grid(self.title, (TERMINAL_NOTE + self._said, *against))
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

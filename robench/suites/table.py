"""A suite's table: measured beside printed, a line per defense, in the terminal and in files."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from robench.results.accuracy import Figure
from robench.results.rows import Marks
from robench.results.summary import label
from robench.suites.provenance import HEADERS, Made, Provenance, command
from robench.suites.readings import Readings, readings_of, way
from robench.suites.schema import Column
from robench.suites.suite import ScaledSuite
from robench.tables.cells import UNWALKED, UPPER
from robench.tables.rendering import Grid, grid
from robench.trust.gates import Finding, together

NOTE = (
    "Percent with 95% Wilson intervals; over several seeds the mean and, after ±, the standard deviation. In round "
    "brackets what the paper prints, for its own data, network and settings. * flags or warnings: see below."
)


@dataclass(frozen=True)
class Entry:
    """One figure for one seed, None while it is incomplete, the evaluations behind it, and what is said beside it.

    stood: which images the figure counts, bool [n], where it counts images. made: the training and the attacks. drawn:
    which images they are, in words behind their number.
    """

    row: str
    seed: int
    model: str
    column: str
    figure: Figure | None
    status: str
    evaluations: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    gradients: int = 0
    metric: str = ""
    note: str = ""
    stood: Marks | None = field(default=None, compare=False, repr=False)
    made: tuple[Made, ...] = ()
    drawn: str = ""


@dataclass(frozen=True)
class SuiteTable:
    """A line per row of the suite, a column per column of it."""

    suite: ScaledSuite
    entries: tuple[Entry, ...]
    warnings: tuple[Finding, ...] = field(default=())

    template = "suite"
    made_headers = HEADERS

    @classmethod
    def of(cls, suite: ScaledSuite, entries: Sequence[Entry], findings: Sequence[Finding]) -> SuiteTable:
        """The table of all entries, with those findings that fired."""
        fired = (replace(finding, evidence="; ".join(lines)) for finding, lines in together(findings).items())
        return cls(suite, tuple(entries), tuple(fired))

    @property
    def note(self) -> str:
        """What is to be known of the figures."""
        return NOTE + (f" {UNWALKED}" if any(UPPER in entry.note for entry in self.entries) else "")

    @property
    def name(self) -> str:
        """The files' name."""
        return f"{self.suite.name}-{self.suite.scale}"

    @property
    def title(self) -> str:
        """Suite and scale in words."""
        return f"{self.suite.title} [{self.suite.scale}]"

    @property
    def headers(self) -> list[str]:
        """Names of the columns."""
        return ["defense", *(column.name for column in self.suite.columns)]

    def lines(self) -> list[list[str]]:
        """The cells as text, row by row."""
        return [
            [row.name, *(self.text(row.name, column) for column in self.headers[1:])]
            for row in self.suite.rows
            if row.shown
        ]

    def settings(self) -> list[str]:
        """A line per column: what its figures were made with, and on how many images of what."""
        return [f"{column.name}: {self._made(column)}, n = {self._count(column)}" for column in self.suite.columns]

    @property
    def command(self) -> str:
        """What makes the table again."""
        return command(self.suite)

    def provenance(self) -> list[Provenance]:
        """What made each row, in the rows' order."""
        return [Provenance.of(row.name, self.entries) for row in self.suite.rows if row.shown]

    def readings(self) -> list[Readings]:
        """Which of several readings of a printed column comes nearer to it."""
        return readings_of(self.suite, self._measured)

    def _measured(self, row: str, column: str) -> float | None:
        """The figure of a place in percent, the mean over its seeds; None while one of them is incomplete."""
        figures = [entry.figure for entry in self.entries if (entry.row, entry.column) == (row, column)]
        values = [100 * figure.value for figure in figures if figure is not None]
        return statistics.mean(values) if values and len(values) == len(figures) else None

    def _made(self, column: Column) -> str:
        if not column.attacks:
            given = f" in place of {self.suite.instead_of}" if self.suite.instead_of else ""
            watched = any(row.detector for row in self.suite.rows if row.shown)
            alone = ", of models without their detectors" if watched else ""
            return f"clean accuracy on {self.suite.dataset}{given}{alone}"
        several = " + ".join(column.attacks)
        if column.combine == "minimum" and len(column.attacks) > 1:
            several = f"the lesser figure of {' and '.join(column.attacks)}"
        parts = [f"{label(several, column.options)}, {column.norm} eps {column.eps}"]
        parts += [way(column)] if column.surrogate or column.guide else []
        parts += [f"another reading of {column.reading_of}"] if column.reading_of else []
        parts += self._behind(column)
        parts += [f"{column.figure}"] if column.figure else []
        parts += [f"eot {column.eot}"] if column.eot > 1 else []
        parts += [f"bpda {', '.join(column.bpda)}"] if column.bpda else []
        return ", ".join(parts)

    def _behind(self, column: Column) -> list[str]:
        """Which detectors its rows are behind, by their names where rows differ; nothing where none is."""
        rows: dict[str | None, list[str]] = {}
        for row in self.suite.rows:
            if row.shown:
                rows.setdefault(self.suite.cell(row, column).detector, []).append(row.name)
        alone, watched = rows.pop(None, []), sorted((str(name), names) for name, names in rows.items())
        if len(watched) == 1 and not alone:
            return [f"behind {watched[0][0]}"]
        told = [f"behind {name} for {' and '.join(names)}" for name, names in watched]
        return [*told, f"without a detector for {' and '.join(alone)}"] if told and alone else told

    def _count(self, column: Column) -> str:
        """How many images its figures are over, and which; where rows differ, most rows' first and then whose others
        are."""
        rows: dict[tuple[int, str], dict[str, None]] = {}
        for entry in self.entries:
            if entry.figure is not None and entry.column == column.name:
                rows.setdefault((entry.figure.n, entry.drawn), {})[entry.row] = None
        if not rows:
            return "?"
        (usual, _), *others = sorted(rows.items(), key=lambda each: (-len(each[1]), -each[0][0], each[0][1]))
        more = [f"{count:,}{drawn} for {' and '.join(names)}" for (count, drawn), names in others]
        return "; ".join([f"{usual[0]:,}{usual[1]}", *more])

    def text(self, row: str, column: str) -> str:
        """One cell: "91.4 [89.5, 93.0] (71.2)", "incomplete", or a dash."""
        printed = self.suite.printed_in(row, column)
        beside = "" if printed is None else f" ({printed:g})"
        found = [entry for entry in self.entries if (entry.row, entry.column) == (row, column)]
        figures = [entry.figure for entry in found if entry.figure is not None]
        if len(figures) < len(found) or not found:
            return f"{next((e.status for e in found if e.figure is None), '-')}{beside}"
        warned = {w.model for w in self.warnings} & {e.model for e in found} if found[0].evaluations else set()
        mark = "*" if warned or any(entry.flags for entry in found) else ""
        said = next((f" ({entry.note.partition(':')[0]})" for entry in found if entry.note), "")
        mark += said
        if len(figures) == 1:
            return f"{figures[0].text()}{mark}{beside}"
        values = [100 * figure.value for figure in figures]
        return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}{mark}{beside}"

    def table(self) -> Grid:
        """The table for a terminal."""
        shown = grid(self.title, (self.note, *map(str, self.readings()), *self.settings()))
        shown.add_column(self.headers[0], overflow="fold")
        for name in self.headers[1:]:
            shown.add_column(name, justify="right", overflow="fold", min_width=min(12, len(name)))
        for name, *cells in self.lines():
            shown.add_row(name, *(_lines(cell) for cell in cells))
        return shown

    def to_json(self) -> dict[str, Any]:
        """Every entry with its figure as a fraction, and what the paper prints in percent."""
        return {
            "suite": self.suite.name,
            "scale": self.suite.scale,
            "title": self.suite.title,
            "rows": [self._record(entry) for entry in self.entries],
            "warnings": [warning.to_json() for warning in self.warnings],
            **({"readings": [each.to_json() for each in found]} if (found := self.readings()) else {}),
        }

    def _record(self, entry: Entry) -> dict[str, Any]:
        figure = entry.figure
        return {
            "row": entry.row,
            "column": entry.column,
            "seed": entry.seed,
            "model": entry.model,
            "metric": entry.metric,
            "n": figure.n if figure else None,
            "value": figure.value if figure else None,
            "interval": list(figure.interval) if figure else None,
            "printed": self.suite.printed_in(entry.row, entry.column),
            "status": entry.status,
            "gradients": entry.gradients,
            "flags": list(entry.flags),
            **({"note": entry.note} if entry.note else {}),
            "commits": " ".join(dict.fromkeys(made.commit for made in entry.made)),
            "hours": round(sum(made.seconds for made in entry.made) / 3600, 2),
            "hardware": "; ".join(dict.fromkeys(made.machine for made in entry.made)),
            "evaluations": list(entry.evaluations),
        }

    def records(self) -> list[dict[str, Any]]:
        """The csv file's lines, one per figure."""
        found = []
        for entry in self.entries:
            record = self._record(entry)
            low, high = record.pop("interval") or ("", "")
            texts = {**record, "flags": "; ".join(entry.flags), "evaluations": " ".join(entry.evaluations)}
            found.append({name: "" if v is None else v for name, v in texts.items()} | {"low": low, "high": high})
        return found


def _lines(cell: str) -> list[str]:
    """A cell with its interval on a line of its own, since a terminal is narrower than a page."""
    first, *rest = cell.split(" [")
    return [first, *(f"[{part}" for part in rest)]

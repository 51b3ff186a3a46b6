"""Tables in every format: the terminal's grid, csv, and what fills the templates. Each escapes whatever enters it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import jinja2
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Column, Table
from rich.text import Text

from robench.store.files import write_text
from robench.text import escaping

# the formats beside csv, each with a template per kind of table, and what escapes every value that enters one
FORMATS: dict[str, Callable[[object], str]] = {
    "md": escaping.markdown,
    "tex": escaping.latex,
    "html": escaping.html,
}

# columns whose words may be folded are no narrower than this, or than their words
FOLDED = 16


class Tabular(Protocol):
    """A table that can be written: the files' name, the templates' name, a note below it, and the csv file's lines."""

    template: str

    @property
    def note(self) -> str:
        """What stands below the table."""

    @property
    def name(self) -> str:
        """What the files are called."""

    def records(self) -> list[dict[str, Any]]:
        """The csv file's lines by the names of its columns."""


def write(table: Tabular, folder: Path) -> list[Path]:
    """Write a table's files, one per format, into `folder`; returns their paths. Raises DiskError."""
    name = escaping.file_name(table.name)
    texts = {"csv": csv_text(table.records())}
    texts |= {kind: render(f"{table.template}.{kind}.j2", table=table) for kind in FORMATS}
    for kind, text in texts.items():
        write_text(folder / f"{name}.{kind}", text)
    return [folder / f"{name}.{kind}" for kind in texts]


def csv_text(records: list[dict[str, Any]]) -> str:
    """Lines as a csv file; the first one has the names of all their columns."""
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([escaping.csv(name) for name in names])
    for record in records:
        writer.writerow([escaping.csv(record.get(name)) for name in names])
    return out.getvalue()


class Grid(Table):
    """A table for a terminal whose texts are shown as they are: no markup, nothing that moves the cursor.

    A cell of several lines is a sequence of them. What is wider than the terminal stands in several parts below each
    other, all of which begin with the first column: rich would drop columns and cut figures.
    """

    def add_column(self, header: RenderableType = "", *more: Any, **how: Any) -> None:
        """A column, with its heading."""
        super().add_column(_shown(header), *more, **how)

    def add_row(self, *cells: Any, **how: Any) -> None:
        """A row of texts, sequences of lines, or what rich makes of something else."""
        super().add_row(*map(_shown, cells), **how)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The whole table, or its parts."""
        parts = self._parts(console, options)
        for part in parts:
            yield from Table.__rich_console__(part, console, options)
        if len(parts) > 1 and self.caption is not None:  # below all, as wide as the terminal
            yield from console.render(self.caption, options)

    def _parts(self, console: Console, options: ConsoleOptions) -> list[Grid]:
        """Tables of the first column and as many others as fit beside it at their least widths, in their order."""
        widths = [self._least(console, options, column) for column in self.columns]
        groups: list[list[int]] = [[]]
        for place in range(1, len(widths)):
            taken = sum(widths[each] for each in (0, *groups[-1], place)) + len(groups[-1]) + 3  # lines between, edges
            if groups[-1] and taken > options.max_width:
                groups.append([])
            groups[-1].append(place)
        if len(groups) == 1:
            return [self]
        parts = []
        for number, group in enumerate(groups):
            part = copy(self)
            part.columns = [replace(self.columns[each], _index=at) for at, each in enumerate((0, *group))]
            part.title = self.title if number == 0 else None
            part.caption = None
            parts.append(part)
        return parts

    def _least(self, console: Console, options: ConsoleOptions, column: Column) -> int:
        measured = self._measure_column(console, options, column)
        if column.no_wrap:
            return measured.maximum
        folds = column.overflow == "fold"  # long words too, of which nothing is lost
        return max(column.min_width or 0, min(measured.minimum, FOLDED) if folds else measured.minimum)


def _shown(cell: Any) -> Any:
    if isinstance(cell, str):
        return lines(cell)
    return lines(*cell) if isinstance(cell, list | tuple) else cell


def lines(*told: str | tuple[str, str]) -> Text:
    """Lines for a terminal, each a text or a text with its style."""
    found = Text()
    for i, line in enumerate(told):
        text, style = (line, "") if isinstance(line, str) else line
        found.append("\n" * (i > 0)).append(escaping.visible(text), style=style or None)
    return found


def grid(title: str, caption: str | tuple[str, ...] | None = None, **style: Any) -> Grid:
    """An empty table for a terminal, with its title above and its caption, of one line or more, below on the left."""
    told = (caption,) if isinstance(caption, str) else caption
    return Grid(
        title=lines((title, "bold")) if title else None,
        title_justify="left",
        caption=lines(*((line, "table.caption") for line in told)) if told else None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        **style,
    )


def percent(value: float | None) -> str:
    """A share in percent, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


class _Escaped(str):
    """Text that is escaped for its place already."""


def render(template: str, **values: Any) -> str:
    """One of the templates, filled; every value that enters it is escaped for its format."""
    kind = template.split(".")[-2]
    escape = FORMATS[kind]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robench.tables"),
        finalize=lambda value: value if isinstance(value, _Escaped) else escape(value),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "option": _option,
        "cell": lambda value: _Escaped(escaping.markdown(value, cell=True)),
        "comment": lambda value: _Escaped(escaping.latex_comment(value)),
        "code": lambda value: _Escaped(escaping.visible(value)),
    }
    return environment.get_template(template).render(**values)


def _option(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items())

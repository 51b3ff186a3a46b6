"""Tables in every format: the terminal's grid, csv, and what fills the templates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import jinja2
import pandas as pd
from rich import box
from rich.table import Table

from robench.store.files import write_text

# the formats beside csv, each with a template per kind of table
FORMATS = ("md", "tex", "html")


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
    records = pd.DataFrame.from_records(table.records())
    texts = {"csv": records.to_csv(index=False, lineterminator="\n")}
    texts |= {kind: render(f"{table.template}.{kind}.j2", table=table) for kind in FORMATS}
    for kind, text in texts.items():
        write_text(folder / f"{table.name}.{kind}", text)
    return [folder / f"{table.name}.{kind}" for kind in texts]


def grid(title: str, caption: str | None = None, **style: Any) -> Table:
    """An empty table for a terminal, with its title above and its caption below on the left."""
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption=caption,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        **style,
    )


def percent(value: float | None) -> str:
    """A share in percent, a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def render(template: str, **values: Any) -> str:
    """One of the templates, filled."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("robench.tables"),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["tex"] = _tex
    environment.filters["option"] = _option
    return environment.get_template(template).render(**values)


def _option(options: dict[str, Any]) -> str:
    return ", ".join(f"{k}={v}" for k, v in options.items())


def _tex(text: object) -> str:
    """Text with LaTeX's special characters escaped."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(special.get(c, f"\\{c}" if c in "&%$#_{}" else c) for c in str(text))

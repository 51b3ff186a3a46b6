"""Tables of a terminal as HTML, for a notebook."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from robench.tables.rendering import Grid
from robench.text.escaping import html

LEFT, RIGHT = "text-align:left", "text-align:right"


def html_of(shown: RenderableType) -> str:
    """Tables and texts, alone or in a group, as HTML whose every text is escaped."""
    return "\n".join(_parts(shown))


def _parts(shown: RenderableType) -> Iterable[str]:
    if isinstance(shown, Group):
        for each in shown.renderables:
            yield from _parts(each)
    elif isinstance(shown, Grid):
        yield _table(shown)
    else:
        yield f"<pre>{html(_plain(shown))}</pre>"


def _table(table: Grid) -> str:
    sides = [RIGHT if column.justify == "right" else LEFT for column in table.columns]
    heads = _row([column.header for column in table.columns], sides, "th")
    cells = zip(*(list(column.cells) for column in table.columns), strict=True)
    bold = [str(row.style or "") == "bold" for row in table.rows]
    body = "".join(
        _row(row, [f"{side};font-weight:bold" if strong else side for side in sides], "td")
        for row, strong in zip(cells, bold, strict=True)
    )
    caption = f'<caption style="{LEFT}">{_lines(table.title)}</caption>' if table.title else ""
    below = f"<p>{_lines(table.caption)}</p>" if table.caption else ""
    return f"<table>{caption}<thead>{heads}</thead><tbody>{body}</tbody></table>{below}"


def _row(cells: Iterable[RenderableType], styles: Iterable[str], tag: str) -> str:
    texts = (f'<{tag} style="{style}">{_lines(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True))
    return f"<tr>{''.join(texts)}</tr>"


def _lines(shown: RenderableType) -> str:
    return "<br>".join(html(line) for line in _plain(shown).split("\n"))


def _plain(shown: RenderableType) -> str:
    return shown.plain if isinstance(shown, Text) else str(shown)

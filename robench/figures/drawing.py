"""A figure: a picture as PNG or SVG, its data as csv, and what keeps pictures readable in black and white."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.errors import BadInput, shown
from robench.store.files import write_file, write_text
from robench.tables.rendering import csv_text
from robench.text.escaping import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure as Picture
    from matplotlib.text import Text

PICTURES = (".png", ".svg")
ENDINGS = (*PICTURES, ".csv")
# lines and bars that no colour needs to tell apart
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "++++", "oo", "**")
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00", "#56b4e9", "#8b4513", "#808000")
GREYS = ("#ffffff", "#bdbdbd", "#8c8c8c", "#d9d9d9", "#737373", "#f0f0f0")
# letters of a caption on an inch, inches for a line of it, and inches around what is drawn
LETTERS, LINE, AROUND = 16, 0.15, 0.45
SMALL = 7


@dataclass(frozen=True)
class Drawing:
    """A figure before it is written.

    title: one line above; caption: what it is of, a line or more each; records: the csv file's lines by column; size:
    width and height in inches without the caption; paint: draws on an empty picture.
    """

    title: str
    caption: tuple[str, ...]
    records: list[dict[str, Any]]
    size: tuple[float, float]
    paint: Callable[[Picture], None]


def places(out: Path | None) -> list[Path]:
    """The files that --out names: one with an ending of `ENDINGS`, or one of each for a name without an ending.

    Raises BadInput where it is not given or ends otherwise.
    """
    if out is None:
        raise BadInput(
            "--out is not given; say where to write, such as --out figure.png, or --out figure for PNG, SVG and csv."
        )
    if out.suffix.lower() in ENDINGS:
        return [out]
    if out.suffix or not out.name:
        raise BadInput(
            f"--out is {shown(str(out))}, but must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}, or have no "
            "ending for all of them."
        )
    return [out.with_name(f"{out.name}{ending}") for ending in ENDINGS]


def write(drawing: Drawing, paths: Sequence[Path]) -> None:
    """Write the figure to every one of `paths`, as their endings say. Raises DiskError."""
    wanted = [path for path in paths if path.suffix.lower() in PICTURES]
    picture = draw(drawing) if wanted else None
    for path in paths:
        if picture is None or path not in wanted:
            write_text(path, csv_text(drawing.records))
        else:
            save(picture, path)


def save(picture: Picture, path: Path) -> None:
    """Write a picture as its ending says; the same picture makes the same bytes. Raises DiskError."""
    from matplotlib import rc_context

    kind = path.suffix.lower()[1:]
    told: dict[str, Any] = {"metadata": {"Date": None}} if kind == "svg" else {}
    with warnings.catch_warnings(), rc_context({"svg.hashsalt": "robench"}):
        warnings.filterwarnings("ignore", "Glyph")  # a letter that the font lacks is a box
        warnings.filterwarnings("ignore", "constrained_layout")
        write_file(path, lambda aside: picture.savefig(aside, format=kind, dpi=150, **told))


def draw(drawing: Drawing) -> Picture:
    """The picture with its title and caption."""
    width, height = drawing.size
    lines = [line for told in drawing.caption for line in textwrap.wrap(visible(told), int(width * LETTERS))]
    picture = empty(width, height + LINE * len(lines) + AROUND)
    drawing.paint(picture)
    title = textwrap.wrap(visible(drawing.title), int(width * LETTERS * SMALL / 10))
    as_is(picture.suptitle("", x=0.01, ha="left", fontsize=10), *title)
    as_is(picture.supxlabel("", x=0.01, ha="left", fontsize=SMALL), *lines)
    return picture


def empty(width: float, height: float) -> Picture:
    """An empty picture, in inches, of no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(picture)
    return picture


def as_is(text: Text, *lines: str) -> Text:
    """Let a text of a picture say something as it is, in lines: "$" begins no formula."""
    text.set_parse_math(False)
    text.set_text("\n".join(map(visible, lines)))
    return text


def titled(axes: Axes, said: str, size: float = 8) -> None:
    """A title above axes, on the left."""
    as_is(axes.set_title("", loc="left", fontsize=size), said)


def named_ticks(axis: Axis, names: Sequence[str], rotation: float = 0, size: float = SMALL) -> None:
    """Ticks at 0, 1, ... with names that others wrote."""
    axis.set_ticks(range(len(names)), labels=[visible(name) for name in names])
    for text in axis.get_ticklabels():
        text.set_parse_math(False)
        text.set_fontsize(size)
        text.set_rotation(rotation)


def whole_ticks(axis: Axis) -> None:
    """Ticks at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True))


def legend(axes: Axes, handles: Iterable[Any], names: Sequence[str], **how: Any) -> None:
    """A legend whose names others wrote: one that begins with "_" is left out otherwise."""
    drawn = axes.legend(list(handles), [str(i) for i in range(len(names))], fontsize=SMALL, **how)
    for text, name in zip(drawn.get_texts(), names, strict=True):
        as_is(text, name)


def style(place: int) -> dict[str, Any]:
    """How the line of that place looks: a colour, and a line that differs without it."""
    return {"color": COLORS[place % len(COLORS)], "linestyle": LINES[place % len(LINES)]}


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """A csv file's line with its fractions in six digits."""
    return {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in record.items()}

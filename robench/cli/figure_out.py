"""What every figure's command shares: where it is written, and what is said then."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.figures.drawing import Drawing

Out = Annotated[
    Path | None,
    typer.Option("--out", help="A file that ends in .png, .svg or .csv; without an ending all three are written."),
]


def finish(kind: str, drawing: Drawing, paths: list[Path], as_json: bool) -> int:
    """Write a figure and say where."""
    from robench.figures.drawing import write

    write(drawing, paths)
    if as_json:
        told = {"figure": kind, "title": drawing.title, "caption": list(drawing.caption)}
        tell_json({**told, "files": [str(path) for path in paths]})
    else:
        for line in drawing.caption:
            tell(line)
        tell(f"Wrote {', '.join(map(str, paths))}.")
    return 0

"""robench figure: curves from the rows of stored evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.text.terminal import show, tell, tell_json

app = typer.Typer(help="Draw figures.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def group() -> None:
    """Draw figures from the rows of stored evaluations."""


@app.command("curve")
def curve(
    evaluations: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings.")
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Instead of ids: every complete evaluation of this model.")
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help=f"Only those in {', or only those in '.join(norms.NORMS)}.")
    ] = None,
    points: Annotated[
        str | None, typer.Option("--points", help="Values of eps with commas between, such as 0,0.05,8/255.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Also write a picture (.png) or a table (.csv).")] = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Accuracy against eps: what every stored evaluation says about each eps up to its own."""
    from robench.store.runs import Store, runs_root
    from robench.tables import curves

    if out is not None:
        curves.check_out(out)
    chosen = None if points is None else curves.parse_points(points)
    found = curves.collect(Store(runs_root(runs)), evaluations or [], model, norm)
    chosen = chosen or curves.default_points(found)
    if out is not None:
        curves.write(found, chosen, out)
    if as_json:
        told = {"curves": [each.to_json(chosen) for each in found], "files": [str(out)] if out else []}
        tell_json(told)
    else:
        show(curves.table(found, chosen))
        if out is not None:
            tell(f"Wrote {out}.")
    return 0

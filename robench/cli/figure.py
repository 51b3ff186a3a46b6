"""robench figure: pictures, each with its data, of stored evaluations, trainings and models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from robench import norms
from robench.cli import figure_models, figure_stored
from robench.cli import options as shared
from robench.cli.figure_out import Out
from robench.cli.panels import Command
from robench.text.terminal import show, tell, tell_json

app = typer.Typer(
    help="Draw figures, as PNG or SVG with their data as csv.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def group() -> None:
    """Draw figures of stored evaluations, of trainings and of models: PNG or SVG, with their data as csv."""


def curve(
    evaluations: Annotated[
        list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", help="Instead of ids: every complete evaluation of this model; repeatable."),
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help=f"Only those in {', or only those in '.join(norms.NORMS)}.")
    ] = None,
    points: Annotated[
        str | None, typer.Option("--points", help="Values of eps with commas between, such as 0,0.05,8/255.")
    ] = None,
    out: Out = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Accuracy against eps, from stored evaluations.

    Each says what it can about every eps up to its own.
    """
    from robench.figures import curves
    from robench.figures.drawing import places
    from robench.store.runs import Store, runs_root

    paths = [] if out is None else places(out)
    chosen = None if points is None else curves.parse_points(points)
    found = curves.collect(Store(runs_root(runs)), evaluations or [], model or [], norm)
    chosen = chosen or curves.default_points(found)
    if out is not None:
        curves.write(found, chosen, out)
    if as_json:
        told = {"curves": [each.to_json(chosen) for each in found], "files": [str(path) for path in paths]}
        tell_json(told)
    else:
        show(curves.table(found, chosen))
        if paths:
            tell(f"Wrote {', '.join(map(str, paths))}.")
    return 0


KINDS: tuple[Callable[..., int], ...] = (
    curve,
    figure_stored.classes,
    figure_stored.confusion,
    figure_stored.examples,
    figure_stored.passes,
    figure_stored.restarts,
    figure_stored.training,
    figure_models.surface,
    figure_models.steps,
    figure_models.gradients,
    figure_models.angles,
    figure_models.ellipses,
    figure_models.codes,
)
for kind in KINDS:
    app.command(kind.__name__, cls=Command)(kind)

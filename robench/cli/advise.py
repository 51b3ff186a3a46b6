"""robench advise: the cheapest order of attacks to a model's worst case, learnt from what was run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.text.terminal import show, tell, tell_json

if TYPE_CHECKING:
    from robench.evaluation.advice import Advice
    from robench.tables.rendering import Grid


def advise(
    model: Annotated[
        str, typer.Argument(help="A trained model, file.py:factory, package.module:factory or torchvision:NAME.")
    ],
    eps: Annotated[
        str | None, typer.Option("--eps", help="Only evaluations at this eps (default: a table each).")
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help=f"Only {norms.any_of(norms.NORMS)} (default: a table each).")
    ] = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Say in which order the attacks that were run reach the same worst case cheapest, and the command for it."""
    from robench.evaluation.advice import advise as learn
    from robench.models import load_model
    from robench.store.runs import Store, runs_root

    store = Store(runs_root(runs))
    places = [word for flag, path in (("--runs", runs), ("--data", data)) if path for word in (flag, str(path))]
    found = learn(store, model, load_model(model, store).digest, norm=norm, eps=eps, places=places)
    if as_json:
        tell_json({"model": model, "advice": [each.to_json() for each in found]})
        return 0
    for each in found:
        show(_table(model, each))
        for sentence in each.notes:
            tell(sentence)
        for command in each.commands:
            tell(f"  {command}")
    return 0


def _table(model: str, advice: Advice) -> Grid:
    from robench.tables.rendering import grid

    worst, n = advice.worst, advice.worst.n
    title = f"{model}, {advice.dataset}, {advice.norm} eps {advice.eps}, n = {n:,}{advice.apart}"
    order = f"about {advice.expected:,.0f} per image in this order, " if advice.steps else ""
    caption = (
        f"Of {advice.clean.count:,} images classified correctly {worst.count:,} stand ({100 * worst.value:.1f}% of n). "
        f"Passes are forward passes, a backward one counted as two: {order}{advice.spent:,.0f} "
        f"{'' if advice.steps else 'per image '}in all stored evaluations."
    )
    shown = grid(title, caption)
    shown.add_column("attack", overflow="fold")
    for name in ("images", "newly broken", "passes per image", "left standing"):
        shown.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    for step in advice.steps:
        cells = (step.images, step.broken, round(step.passes), step.standing)
        shown.add_row(step.attack.name, *(f"{cell:,}" for cell in cells))
    return shown

"""robench figure: the kinds that are drawn from what is stored, of evaluations and of trainings."""

from __future__ import annotations

from typing import Annotated

import typer

from robench.cli import options as shared
from robench.cli.figure_out import Out, finish
from robench.errors import unknown

WHICH = ("broken", "standing", "all")
Evaluation = Annotated[str, typer.Argument(metavar="EVALUATION", help="An evaluation's id, or its beginning.")]
Evaluations = Annotated[
    list[str] | None, typer.Argument(metavar="[EVALUATION]...", help="Ids or their beginnings; several side by side.")
]


def examples(
    evaluation: Evaluation,
    count: Annotated[
        int, typer.Option("-n", "--count", parser=shared.whole, metavar="N", help="Images, up to 64.")
    ] = 8,
    which: Annotated[str, typer.Option("--which", help="broken, standing or all.")] = "broken",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Clean, adversarial and perturbation, as a sheet."""
    if which not in WHICH:
        raise unknown("choice of examples", which, WHICH)
    from robench.figures.drawing import places
    from robench.figures.stored import examples as drawn
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("examples", drawn(Store(runs_root(runs)), evaluation, count, which, data), paths, as_json)  # type: ignore[arg-type]


def confusion(evaluation: Evaluation, out: Out = None, runs: shared.Runs = None, as_json: shared.Json = False) -> int:
    """Class before against class after the attack."""
    from robench.figures.classes import confusion as drawn
    from robench.figures.drawing import places
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("confusion", drawn(Store(runs_root(runs)), evaluation), paths, as_json)


def classes(
    evaluations: Evaluations = None, out: Out = None, runs: shared.Runs = None, as_json: shared.Json = False
) -> int:
    """Robust accuracy by class, with intervals."""
    from robench.figures.classes import per_class
    from robench.figures.drawing import places
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("classes", per_class(Store(runs_root(runs)), evaluations or []), paths, as_json)


def passes(
    evaluations: Evaluations = None, out: Out = None, runs: shared.Runs = None, as_json: shared.Json = False
) -> int:
    """Robust accuracy against passes per image."""
    from robench.figures.drawing import places
    from robench.figures.spending import passes as drawn
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("passes", drawn(Store(runs_root(runs)), evaluations or []), paths, as_json)


def restarts(
    evaluations: Evaluations = None, out: Out = None, runs: shared.Runs = None, as_json: shared.Json = False
) -> int:
    """Robust accuracy against random restarts."""
    from robench.figures.drawing import places
    from robench.figures.spending import restarts as drawn
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("restarts", drawn(Store(runs_root(runs)), evaluations or []), paths, as_json)


def training(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL]...", help="Trained models, by name.")] = None,
    out: Out = None,
    runs: shared.Runs = None,
    as_json: shared.Json = False,
) -> int:
    """Training curves of every term of the loss."""
    from robench.figures.drawing import places
    from robench.figures.learning import training as drawn
    from robench.store.runs import Store, runs_root

    paths = places(out)
    return finish("training", drawn(Store(runs_root(runs)), models or []), paths, as_json)

"""robench figure: the kinds that ask models about images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.cli.figure_out import Out, finish
from robench.errors import unknown

if TYPE_CHECKING:
    from robench.figures.subjects import Subjects

METHODS = ("auto", "pca", "tsne")
Models = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODEL]...", help="Trained models, file.py:factory, ... ('robench list sources')."),
]
Dataset = Annotated[str | None, typer.Option("--dataset", help="Data (default: the first model's own).")]


def _count(default: int) -> typer.models.OptionInfo:
    found: typer.models.OptionInfo = typer.Option(
        "-n", "--count", parser=shared.whole, metavar="N", help=f"First N test images (default: {default})."
    )
    return found


def _opened(
    models: list[str] | None, dataset: str | None, count: int | None, usual: int, seed: int, device: str,
    runs: Path | None, data: Path | None,
) -> Subjects:  # fmt: skip
    from robench.figures.subjects import Wanted, open_subjects
    from robench.store.runs import Store, runs_root

    return open_subjects(Store(runs_root(runs)), models or [], Wanted(dataset, count, usual, data, seed, device))


def surface(
    models: Models = None,
    reach: Annotated[
        str, typer.Option("--reach", metavar="PIXELS", help="How far along each direction, such as 8/255.")
    ] = "0.3",
    points: Annotated[
        int, typer.Option("--points", parser=shared.whole, metavar="N", help="Along each direction, an odd number.")
    ] = 41,
    unclipped: Annotated[
        bool, typer.Option("--unclipped", help="Leave pixels outside [0, 1], where no image is.")
    ] = False,
    count: Annotated[int | None, _count(1)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Loss surface and decision regions around images.

    Along the signed gradient, and a random direction that is orthogonal to it.
    """
    from robench.figures.drawing import places
    from robench.figures.surfaces import surfaces

    paths = places(out)
    subjects = _opened(models, dataset, count, 1, seed, device, runs, data)
    return finish("surface", surfaces(subjects, reach, points, clip=not unclipped), paths, as_json)


def angles(
    models: Models = None,
    count: Annotated[int | None, _count(1000)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Angles between two models' input gradients."""
    from robench.figures.drawing import places
    from robench.figures.gradients import angles as drawn

    paths = places(out)
    return finish("angles", drawn(_opened(models, dataset, count, 1000, seed, device, runs, data)), paths, as_json)


def gradients(
    models: Models = None,
    count: Annotated[int | None, _count(8)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Input gradients as pictures.

    Clipped at 3 standard deviations around their mean.
    """
    from robench.figures.drawing import places
    from robench.figures.gradients import pictures

    paths = places(out)
    return finish("gradients", pictures(_opened(models, dataset, count, 8, seed, device, runs, data)), paths, as_json)


def ellipses(
    models: Models = None,
    count: Annotated[int | None, _count(500)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Posteriors of 2-d codes as ellipses.

    Each holds 95% of the posterior of an image.
    """
    from robench.figures.codes import ellipses as drawn
    from robench.figures.drawing import places

    paths = places(out)
    return finish("ellipses", drawn(_opened(models, dataset, count, 500, seed, device, runs, data)), paths, as_json)


def codes(
    models: Models = None,
    method: Annotated[
        str, typer.Option("--method", help="pca, tsne, or auto: as it is of two dimensions, else pca.")
    ] = "auto",
    count: Annotated[int | None, _count(1000)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Codes of images on a plane, by PCA or t-SNE."""
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    from robench.figures.codes import codes as drawn
    from robench.figures.drawing import places

    paths = places(out)
    subjects = _opened(models, dataset, count, 1000, seed, device, runs, data)
    return finish("codes", drawn(subjects, method), paths, as_json)  # type: ignore[arg-type]


def steps(
    models: Models = None,
    attack: Annotated[str, typer.Option("-a", "--attack", help="A gradient attack.")] = "pgd",
    eps: Annotated[str | None, typer.Option("--eps", help=f"Perturbation in pixels; {norms.default_eps()}.")] = None,
    norm: Annotated[str, typer.Option("--norm", help=f"{norms.any_of(norms.NORMS)}.")] = norms.DEFAULT,
    option: shared.Options = None,
    count: Annotated[int | None, _count(100)] = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    out: Out = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Loss against the step of a gradient attack."""
    from robench.figures.drawing import places
    from robench.figures.steps import steps as drawn
    from robench.registry import check_attacks, parse_options
    from robench.threat import ThreatModel

    paths, options = places(out), parse_options(option or [])
    check_attacks([attack])
    threat = ThreatModel.of(norm, eps)
    subjects = _opened(models, dataset, count, 100, seed, device, runs, data)
    return finish("steps", drawn(subjects, attack, options, threat), paths, as_json)

"""robench import: adversarial images made elsewhere, judged under the same rules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.errors import BadInput
from robench.text.terminal import show, tell, tell_json

if TYPE_CHECKING:
    from robench.exchange.importing import ImportedReport


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pt, .npz or .npy file, or the folder of an export.")],
    model: Annotated[
        str | None, typer.Option("--model", help="The model that the images are to fool, as for robench evaluate.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="What tables call them: imported:NAME (default: the file's name).")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Data whose test images were perturbed (default: the model's own).")
    ] = None,
    norm: Annotated[
        str | None, typer.Option("--norm", help=f"{norms.any_of(norms.NORMS)} (default: the file's, or linf).")
    ] = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="Perturbation in pixels of [0, 1] (default: the file's, or the norm's).")
    ] = None,
    classes: shared.Classes = None,
    batch_size: shared.BatchSize = 250,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Judge adversarial images made elsewhere, and add them to the worst case as the attack imported:NAME.

    The file holds them as "adversarial", float in [0, 1] or uint8, [n, C, H, W], with their places in the test set as
    "example_id"; without those they are taken for the first n.
    """
    if model is None:
        raise BadInput("--model is not given; name the model that the images are to fool.")
    from robench.cli.data import named_data
    from robench.evaluation.address import How
    from robench.exchange.importing import Source, import_images
    from robench.progress import say
    from robench.store.runs import Store, runs_root

    dataset, number = named_data(dataset, classes)
    source = Source(file, model, name, dataset, norm, eps, number)
    how = How(batch_size=batch_size, device=device, data_root=data)
    done = import_images(source, Store(runs_root(runs)), how)
    report = done.report
    if as_json:
        together = {"together": done.together.to_json()} if done.together else {}
        tell_json({**report.to_json(), "outside": done.outside.count, **together})
    else:
        show(report.tables())
        _tell(done)
    for sentence in report.refused:
        say(sentence)
    return 2 if report.refused else 0 if report.complete else 3


def _tell(done: ImportedReport) -> None:
    if done.together is not None:
        together = done.together
        without = f" (without them {100 * together.without.value:.1f}%)" if together.without else ""
        tell(
            f"Worst case on these {together.figure.n:,} images over {', '.join(together.attacks)}: "
            f"{together.figure.text()}%{without}."
        )

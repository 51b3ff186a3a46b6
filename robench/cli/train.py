"""robench train: one defense on one dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from robench.cli import options as shared
from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.defense.recipe import Precision


def train(
    defense: Annotated[str, typer.Argument(help="A defense's name; see 'robench list defenses'.")],
    dataset: Annotated[str, typer.Option("--dataset", help="A dataset's name or reference.")] = "digits",
    classes: shared.Classes = None,
    labels_from: shared.LabelsFrom = None,
    one_hot: shared.OneHot = False,
    layout: shared.Layout = None,
    range_: shared.Reach = None,
    option: shared.Options = None,
    recipe: Annotated[str, typer.Option("--recipe", help="quick, paper, or another the defense has.")] = "quick",
    backbone: Annotated[str | None, typer.Option("--backbone", help="A network's name, such as resnet-20.")] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", parser=shared.whole, metavar="N", help="Instead of the recipe's.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", parser=shared.whole, metavar="N", help="Instead of the recipe's.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float32 or bfloat16, of the networks while they are trained: twice as fast."),
    ] = None,
    watch: Annotated[
        str | None,
        typer.Option(
            "--watch",
            metavar="EPS[,EPS...]",
            help="Measure after every epoch how many of 200 validation images stand 20 steps of PGD in linf.",
        ),
    ] = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again what is trained already.")] = False,
    name: Annotated[str | None, typer.Option("--name", help="The model's name (default: defense-dataset).")] = None,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Train a defense; a run that was killed goes on from its last epoch."""
    from robench.registry import check_names, parse_options

    check_names("defense", [defense])  # before the seconds it takes to import what trains
    from robench.store.runs import Store, runs_root
    from robench.training.jobs import TrainRequest
    from robench.training.jobs import train as run

    options: dict[str, Any] = dict(parse_options(option or []))
    if backbone is not None:
        options["backbone"] = backbone
    from robench.cli.data import named_data

    named, number = named_data(dataset, classes, labels_from, one_hot, layout, range_)
    request = TrainRequest(
        defense,
        named or dataset,
        recipe,
        options,
        epochs,
        batch_size,
        seed,
        device,
        name,
        data,
        number,
        fresh,
        cast("Precision | None", precision),
        tuple(each.strip() for each in watch.split(",")) if watch is not None else (),
    )
    card = run(request, Store(runs_root(runs)))
    if as_json:
        tell_json(card, sort=True)
    else:
        tell(_sentence(card))
    return 0


def _sentence(card: dict[str, Any]) -> str:
    accuracy = card["accuracy"]
    low, high = accuracy["test_interval"]
    done = (
        f"Trained {card['name']} in {card['seconds']:.0f} s" if card["fresh"] else f"{card['name']} is trained already"
    )
    resumed = (
        f" (resumed from epoch {card['resumed_from_epoch']})" if card["fresh"] and card["resumed_from_epoch"] else ""
    )
    copies = accuracy.get("test_among_training")
    beside = f", {copies:,} of which are training images" if copies else ""
    return (
        f"{done}{resumed}: clean accuracy {100 * accuracy['test']:.2f}% [{100 * low:.2f}, {100 * high:.2f}] on "
        f"{accuracy['test_count']:,} test images of {card['data']['name']}{beside}."
    )

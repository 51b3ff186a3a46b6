"""robench evaluate: attack models and judge the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared

if TYPE_CHECKING:
    from robench.report import Report

Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Trained models, file.py:factory, package.module:factory or torchvision:NAME; none: all trained.",
    ),
]
Attacks = Annotated[
    list[str] | None, typer.Option("-a", "--attack", help="Attacks' names, with commas between or repeated.")
]
Eps = Annotated[str | None, typer.Option("--eps", help="Perturbation in pixels of [0, 1]; 8/255 by default in linf.")]
Norm = Annotated[str, typer.Option("--norm", help="linf or l2.")]
Dataset = Annotated[str | None, typer.Option("--dataset", help="Data to attack on (default: the model's own).")]
Count = Annotated[
    int | None,
    typer.Option("-n", "--count", parser=shared.whole, metavar="N", help="First N test images (default: all)."),
]
Restarts = Annotated[
    int | None,
    typer.Option("--restarts", parser=shared.whole, metavar="N", help="Random starts; short for -o restarts=N."),
]
Steps = Annotated[
    int | None, typer.Option("--steps", parser=shared.whole, metavar="N", help="Steps; short for -o steps=N.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", parser=shared.whole, metavar="N", help="Rows per batch; changes speed only.")
]
ShardSize = Annotated[
    int, typer.Option("--shard-size", parser=shared.whole, metavar="N", help="Images between saves; speed only.")
]


def evaluate(
    models: Models = None,
    attack: Attacks = None,
    eps: Eps = None,
    norm: Norm = "linf",
    count: Count = None,
    restarts: Restarts = None,
    steps: Steps = None,
    option: shared.Options = None,
    dataset: Dataset = None,
    seed: shared.Seed = 0,
    batch_size: BatchSize = 250,
    shard_size: ShardSize = 250,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Attack models and judge the result; what is in the store already is not computed again."""
    from robench.registry import check_names, parse_options

    attacks = [name.strip() for text in attack or [] for name in text.split(",") if name.strip()]
    check_names("attack", attacks)  # before the seconds it takes to import what attacks
    from robench.report import Report
    from robench.scheduler import Request
    from robench.scheduler import evaluate as run
    from robench.store import Store, runs_root
    from robench.threat import ThreatModel

    short = {"restarts": restarts, "steps": steps}
    request = Request(
        models=models or [],
        attacks=attacks,
        threat=ThreatModel.of(norm, eps),
        dataset=dataset,
        count=count,
        options={**parse_options(option or []), **{k: v for k, v in short.items() if v is not None}},
        seed=seed,
        batch_size=batch_size,
        shard_size=shard_size,
        device=device,
        data_root=data,
    )
    store = Store(runs_root(runs))
    done = run(request, store)
    return _print(Report.of(done.rows, store, done.refused), as_json)


def _print(report: Report, as_json: bool) -> int:
    """Print the report and what was refused; returns the exit code."""
    from robench.progress import say

    if as_json:
        import json

        print(json.dumps(report.to_json()))
    else:
        from rich.console import Console

        Console().print(report.table())
    for sentence in report.refused:
        say(sentence)
    return 2 if report.refused else 0 if report.complete else 3

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.text.terminal import reserve


def whole(text: str) -> int:
    """An integer from text; the parser adds which option it belongs to."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number") from None


def number(text: str) -> float:
    """A number from text; the parser adds which option it belongs to."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number") from None


def _reserve(wanted: bool) -> bool:
    """Keep stdout for the object, whatever models, attacks and the processes they start print."""
    if wanted:
        reserve()
    return wanted


Runs = Annotated[
    Path | None, typer.Option("--runs", help="Folder of models and evaluations (default: ROBENCH_RUNS or runs/).")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of datasets (default: ROBENCH_DATA or the user's cache).")
]
Options = Annotated[
    list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE", help="A plugin's option; may be repeated.")
]
Seed = Annotated[int, typer.Option("--seed", parser=whole, metavar="S", help="Seed of all randomness.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Trust = Annotated[
    bool,
    typer.Option("--trust", help="Run model code that only a file names: code that you have not run here before."),
]
Json = Annotated[
    bool, typer.Option("--json", callback=_reserve, help="Print one JSON object and nothing else on stdout.")
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", parser=whole, metavar="N", help="Rows per batch; changes speed only.")
]
ShardSize = Annotated[
    int, typer.Option("--shard-size", parser=whole, metavar="N", help="Images between saves; speed only.")
]
ExecutorName = Annotated[str, typer.Option("--executor", help="inline (this process) or ray (several workers).")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", parser=whole, metavar="N", help="Tasks at once (default: what Ray has).")
]
Cpus = Annotated[float, typer.Option("--cpus-per-task", help="Cores that a Ray task reserves; may be a fraction.")]
Gpus = Annotated[float, typer.Option("--gpus-per-task", help="GPUs that a Ray task reserves; may be a fraction.")]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster (default: RAY_ADDRESS, or one of its own).")
]

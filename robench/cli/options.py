"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.errors import shown
from robench.ranges import read_number, read_whole
from robench.text.terminal import reserve


def whole(text: str) -> int:
    """An integer from text; the parser adds which option it belongs to."""
    try:
        return read_whole(str(text))  # the parser brings defaults along, too
    except ValueError:
        raise typer.BadParameter(f"{shown(text)} is not a whole number") from None


def number(text: str) -> float:
    """A number from text; the parser adds which option it belongs to."""
    try:
        return read_number(str(text))
    except ValueError:
        raise typer.BadParameter(f"{shown(text)} is not a number") from None


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
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", metavar="N|NAMES",
        help="How many classes your data have, if not as labelled, or their names in order, with commas between.",
    ),
]  # fmt: skip
LabelsFrom = Annotated[
    int | None,
    typer.Option("--labels-from", parser=whole, metavar="N", help="The first class of your data's labels, if not 0."),
]
OneHot = Annotated[bool, typer.Option("--one-hot", help="Your data's labels are one-hot.")]
Layout = Annotated[str | None, typer.Option("--layout", help="Your images' layout: chw or hwc.")]
Reach = Annotated[
    str | None, typer.Option("--range", metavar="LOW..HIGH", help="What your images reach, such as 0..255 or -1..1.")
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
    int,
    typer.Option(
        "--batch-size", parser=whole, metavar="N",
        help="Rows per batch; speed only, but part of an evaluation under a library's attack, whose figures it moves.",
    ),
]  # fmt: skip
ShardSize = Annotated[
    int,
    typer.Option(
        "--shard-size",
        parser=whole,
        metavar="N",
        help="Images between saves; speed only, but for libraries' attacks.",
    ),
]
Probes = Annotated[bool, typer.Option("--probes", help="Also what was run for robench diagnose alone.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute anew what is in the store already.")]
ExecutorName = Annotated[str, typer.Option("--executor", help="inline (this process) or ray (several workers).")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", parser=whole, metavar="N", help="Tasks at once (default: what Ray has).")
]
Cpus = Annotated[
    float,
    typer.Option(
        "--cpus-per-task", parser=number, metavar="X", help="Cores that a Ray task reserves; may be a fraction."
    ),
]
Gpus = Annotated[
    float,
    typer.Option(
        "--gpus-per-task", parser=number, metavar="X", help="GPUs that a Ray task reserves; may be a fraction."
    ),
]
Address = Annotated[
    str | None, typer.Option("--address", help="A running Ray cluster (default: RAY_ADDRESS, or one of its own).")
]

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Runs = Annotated[
    Path | None, typer.Option("--runs", help="Folder of models and evaluations (default: ROBENCH_RUNS or runs/).")
]
Data = Annotated[
    Path | None, typer.Option("--data", help="Folder of datasets (default: ROBENCH_DATA or the user's cache).")
]
Options = Annotated[
    list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE", help="A plugin's option; may be repeated.")
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of all randomness.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]

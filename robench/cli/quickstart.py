"""robench quickstart: train, attack and rank two defenses on bundled data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import note, show, tell

DEFENSES = ("standard", "paradise-pm")
ATTACKS = ("fgsm", "multi-targeted")
EPS = "0.1"
# beside the models, which git ignores: leaderboards/ holds the tables that are kept
TABLES = "tables"


def quickstart(
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder to write the tables into (default: tables in the runs folder).")
    ] = None,
    runs: shared.Runs = None,
) -> int:
    """Train two defenses on digits, attack them, print the ranked table and write it; about a minute on two cores."""
    from robench.evaluation.request import Request
    from robench.evaluation.scheduler import evaluate
    from robench.store.runs import Store, runs_root
    from robench.tables.leaderboard import build
    from robench.tables.rendering import write
    from robench.tables.report import Report
    from robench.threat import ThreatModel
    from robench.training.jobs import TrainRequest, train

    store = Store(runs_root(runs))
    names = []
    for defense in DEFENSES:
        card = train(TrainRequest(defense, "digits"), store)
        names.append(card["name"])
        note(f"{card['name']}: {100 * card['accuracy']['test']:.1f}% clean")
    request = Request(models=names, attacks=ATTACKS, threat=ThreatModel.of("linf", EPS))
    report = Report.of(evaluate(request, store), store)
    show(report.table())
    boards = [board for board in build(store) if {row.model for row in board.rows} >= set(names)]
    paths = [path for board in boards for path in write(board, out or store.root / TABLES)]
    tell(f"Wrote {', '.join(str(path) for path in paths)}.")
    return 0 if report.complete else 3

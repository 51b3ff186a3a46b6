"""robench reproduce: a table end to end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import show, tell, tell_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robench.evaluation.wanted import Wanted
    from robench.suites.estimate import Step
    from robench.suites.reproduce import Reproduced


def reproduce(
    suite: Annotated[str, typer.Argument(help="A suite's name (see 'robench list suites') or its toml file.")],
    scale: Annotated[
        str, typer.Option("--scale", help="How much of it: smoke, cpu, paper, or another it has.")
    ] = "cpu",
    fresh: Annotated[bool, typer.Option("--fresh", help="Attack anew; trained models stay as they are.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and its cost, then stop.")] = False,
    out: Annotated[Path, typer.Option("--out", help="Folder to write the table into.")] = Path("leaderboards"),
    executor: shared.ExecutorName = "inline",
    workers: shared.WorkerCount = None,
    cpus_per_task: shared.Cpus = 1.0,
    gpus_per_task: shared.Gpus = 0.0,
    address: shared.Address = None,
    batch_size: shared.BatchSize = 250,
    shard_size: shared.ShardSize = 250,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Train, attack and tabulate all that a suite asks for; what is in the store already is not done again."""
    from robench.suites.suite import load

    scaled = load(suite).at(scale)  # before the seconds it takes to import what trains
    from robench.evaluation.bench import Bench
    from robench.executors.workers import Workers
    from robench.store.runs import Store, runs_root
    from robench.suites.estimate import estimate
    from robench.suites.plan import Setup, plan
    from robench.suites.precheck import check
    from robench.suites.reproduce import reproduce as run

    check(scaled)
    who = Workers(executor, workers, cpus_per_task, gpus_per_task, address)
    store = Store(runs_root(runs))
    found = plan(scaled, Setup(data, device, batch_size, shard_size, who, fresh), store)
    bench = Bench(store)
    opened: dict[str, Wanted] = {}
    steps = estimate(found, bench, opened)
    if dry_run:
        _print_plan(scaled.title, scaled.note, steps, as_json)
        return 0
    _announce(steps)
    return _print(run(found, bench, opened), out, as_json)


def _announce(steps: Sequence[Step]) -> None:
    """One line before it starts."""
    from robench.progress import say

    trainings = [step for step in steps if step.what.startswith("train ")]
    left = sum(step.state != "done" for step in trainings)
    attacks = [step for step in steps if step not in trainings and step.state != "done"]
    known = sum(step.gradients or 0 for step in steps)
    unknown = sum(step.gradients is None for step in steps)
    say(
        f"{left} of {len(trainings)} models to train, {len(attacks)} attacks to run; at most "
        f"{known:,} gradients of one image each"
        f"{f', and {unknown} steps of unknown cost' if unknown else ''}; --dry-run shows the plan."
    )


def _print_plan(title: str, note: str, steps: Sequence[Step], as_json: bool) -> None:
    total = sum(step.gradients or 0 for step in steps)
    unknown = [step.what for step in steps if step.gradients is None]
    if as_json:
        from dataclasses import asdict

        tell_json({"steps": [asdict(s) for s in steps], "gradients": total, "unknown": unknown})
        return
    from robench.tables.rendering import grid

    caption = (
        f"At most {total:,} gradients in all, each of one image through one model. An attack leaves an image as "
        "soon as it is broken, so this is what models cost that no attack breaks."
        f"{f' {len(unknown)} steps are of unknown cost.' if unknown else ''}{f' {note}' if note else ''}"
    )
    shown = grid(title, caption)
    shown.add_column("step", overflow="fold")
    for name in ("state", "size", "gradients"):
        shown.add_column(name, justify="right")
    for step in steps:
        cost = "unknown" if step.gradients is None else f"{step.gradients:,}"
        shown.add_row(step.what, step.state, step.size, cost)
    show(shown)


def _print(done: Reproduced, out: Path, as_json: bool) -> int:
    """Print and write the table; returns the exit code."""
    from robench.progress import say
    from robench.tables.rendering import write

    paths = write(done.table, out)
    if as_json:
        tell_json({**done.table.to_json(), "refused": done.refused})
    else:
        from robench.tables.report import findings_text

        show(done.table.table(), whole=True)
        if done.table.warnings:
            show(findings_text(done.table.warnings, "Warnings: do not trust these figures yet"))
        tell(f"Wrote {', '.join(str(path) for path in paths)}.")
    for sentence in done.refused:
        say(sentence)
    if done.failed:
        return 1
    return 2 if done.refused else 0 if done.complete else 3

"""robench reproduce: a table end to end, or all of them, and what they make of the papers' claims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.errors import BadInput, DiskError, shown, unknown
from robench.ranges import read_whole
from robench.text.terminal import show, tell, tell_json

if TYPE_CHECKING:
    from robench.evaluation.bench import Bench
    from robench.evaluation.wanted import Wanted
    from robench.suites.claims import Claim
    from robench.suites.estimate import Step
    from robench.suites.plan import Setup
    from robench.suites.reproduce import Reproduced
    from robench.suites.suite import ScaledSuite
    from robench.suites.table import SuiteTable


def reproduce(
    suite: Annotated[
        str | None, typer.Argument(help="A suite's name (see 'robench list suites') or its toml file.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Every bundled suite that has the scale, and what became of their claims.")
    ] = False,
    scale: Annotated[
        str,
        typer.Option("--scale", help="How much: smoke, cpu, paper, or another it has; several with --all."),
    ] = "cpu",
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N[,SUITE=N]",
            help="At most N seeds of each row; in one suite another number, as 1,mnist-linf=3.",
        ),
    ] = None,
    count: Annotated[
        str | None,
        typer.Option(
            "-n",
            "--count",
            metavar="N[,SUITE=N]",
            help="At most N test images under each attack; in one suite another number, as 1000,mnist-linf=500.",
        ),
    ] = None,
    copies: Annotated[
        list[str] | None,
        typer.Option(
            "--dataset", metavar="NAME=REF", help="Your own copy of a suite's data, such as cifar10=npz:FILE."
        ),
    ] = None,
    beside: Annotated[
        list[str] | None,
        typer.Option("--beside", metavar="NAME=MODEL", help="A model of your own as a further row, by its reference."),
    ] = None,
    stored: Annotated[
        bool, typer.Option("--stored", help="Tabulate what is in the store; train and attack nothing.")
    ] = False,
    keep: Annotated[
        Path | None,
        typer.Option(
            "--keep", metavar="CLAIMS.csv", help="With --all: claims of another store, kept where this one tests none."
        ),
    ] = None,
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
    if stored and fresh:
        raise BadInput("--stored computes nothing and --fresh everything anew; leave one of them out.")
    if keep is not None and not every:
        raise BadInput(f"--keep {keep} is about the claims of all tables; give --all with it.")
    earlier = _claims(keep) if keep is not None else []
    scaled = _scaled(suite, every, [part.strip() for part in scale.split(",")])
    names = [each.name for each in scaled]
    trained = _numbers("--seeds", seeds, names, "1 or 1,mnist-linf=3")
    counts = _numbers("-n", count, names, "1000 or 1000,mnist-linf=500")
    scaled = [each.within(_of(each, trained), _of(each, counts)) for each in scaled]
    scaled = _on(scaled, copies or ())  # before the seconds it takes to import what trains
    from robench.evaluation.bench import Bench
    from robench.executors.workers import Workers
    from robench.store.runs import Store, runs_root
    from robench.suites.plan import Setup
    from robench.suites.precheck import check

    for each in scaled:
        check(each)
    if beside and every:
        raise BadInput("--beside adds your models to one suite; name it instead of --all.")
    scaled = [each.beside(_named("--beside", beside or (), "mine=model.py:load")) for each in scaled]
    who = Workers(executor, workers, cpus_per_task, gpus_per_task, address)
    setup = Setup(data, device, batch_size, shard_size, who, fresh)
    run = _Run(setup, Bench(Store(runs_root(runs))), out, stored, as_json, earlier)
    if dry_run:
        return run.plan(scaled)
    return run.all(scaled) if every else _print(run.done(scaled[0]), out, as_json)


def _scaled(suite: str | None, every: bool, scales: Sequence[str]) -> list[ScaledSuite]:
    """The suites that are asked for, each at those of the scales that it has. Raises BadInput where there is none."""
    from robench.suites.suite import load, names

    if every == (suite is not None):
        told = f"the suite {suite!r} and --all" if suite is not None else "no suite"
        raise BadInput(f"You gave {told}; name one suite (see 'robench list suites'), or give --all alone.")
    if suite is not None:
        return [load(suite).at(",".join(scales))]
    suites = [load(name) for name in names()]
    known = dict.fromkeys(scale for each in suites for scale in each.scales)
    for scale in scales:
        if scale not in known:
            raise unknown("scale of any suite", scale, known)
    return [each.at(scale) for each in suites for scale in scales if scale in each.scales]


def _numbers(option: str, text: str | None, names: Sequence[str], such: str) -> dict[str, int]:
    """How many at most, of suites by name, of all others under "". Raises BadInput for anything else."""
    found: dict[str, int] = {}
    for part in text.split(",") if text is not None else ():
        name, given, number = ("", "", part) if "=" not in part else part.strip().partition("=")
        if given and name not in names:
            raise unknown("suite of what is to be reproduced", name, names)
        if name in found:
            raise BadInput(f"{option} {shown(text)} says twice how many; give one number, and one for a suite.")
        try:
            found[name] = read_whole(number.strip())
        except ValueError:
            raise BadInput(f"{option} {shown(text)} is not a whole number; give such as {such}.") from None
    return found


def _of(suite: ScaledSuite, numbers: dict[str, int]) -> int | None:
    return numbers.get(suite.name, numbers.get(""))


def _on(scaled: Sequence[ScaledSuite], copies: Sequence[str]) -> list[ScaledSuite]:
    """The suites on the user's own copies of their data. Raises BadInput for data that none of them is about."""
    found = _named("--dataset", copies, "cifar10=npz:cifar10.npz")
    for name in found:
        if name not in (known := {each.dataset for each in scaled}):
            raise unknown("dataset of what is to be reproduced", name, known)
    return [each.on(found) for each in scaled]


def _claims(path: Path) -> list[Claim]:
    """The claims of another store. Raises BadInput where they cannot be read, or contradict themselves."""
    from robench.page.claims import read
    from robench.suites.schema import inside

    found = read(path, "--keep")
    with inside(f"--keep {path}"):
        return [claim.measured() for claim in found]


def _named(option: str, texts: Sequence[str], such: str) -> dict[str, str]:
    """References by the names that an option gives them. Raises BadInput for one without a name or a reference."""
    found: dict[str, str] = {}
    for text in texts:
        name, given, reference = text.partition("=")
        if not (name and given and reference):
            raise BadInput(f"{option} {shown(text)} is no name with a reference; give such as {such}.")
        found[name] = reference
    return found


@dataclass(frozen=True)
class _Run:
    """How suites are run: on what, into which folder of tables, whether from the store alone, and how they are told;
    `earlier`: claims of another store, which are kept where this one tests none."""

    setup: Setup
    bench: Bench
    out: Path
    stored: bool
    as_json: bool
    earlier: Sequence[Claim]

    def plan(self, scaled: Sequence[ScaledSuite]) -> int:
        """Show what is to be done; returns the exit code."""
        from robench.suites.estimate import estimate
        from robench.suites.plan import plan

        steps = [estimate(plan(each, self.setup, self.bench.store), self.bench) for each in scaled]
        if self.as_json:
            _tell_plans([step for found in steps for step in found])
        else:
            for each, found in zip(scaled, steps, strict=True):
                _print_plan(each.title + (f" [{each.scale}]" if len(scaled) > 1 else ""), each.note, found)
        return 0

    def done(self, scaled: ScaledSuite) -> Reproduced:
        """A suite's table, with all that it lacks computed unless the store alone is asked for."""
        from robench.suites.estimate import estimate
        from robench.suites.plan import plan
        from robench.suites.reproduce import reproduce as run
        from robench.suites.reproduce import stored

        opened: dict[str, Wanted] = {}
        found = plan(scaled, self.setup, self.bench.store)
        steps = estimate(found, self.bench, opened)
        if self.stored:
            return stored(found, self.bench, opened)
        _announce(steps)
        return run(found, self.bench, opened)

    def all(self, scaled: Sequence[ScaledSuite]) -> int:
        """All of them, one after another, then their claims; a suite that cannot be used leaves the others alone."""
        from robench.progress import say
        from robench.suites.claims import Claims
        from robench.suites.kept import keeping
        from robench.suites.suite import at_all_scales
        from robench.tables.rendering import write

        codes: list[int] = []
        tables: list[SuiteTable] = []
        told: list[dict[str, object]] = []
        for i, each in enumerate(scaled, 1):
            say(f"Suite {i} of {len(scaled)}: {each.name} [{each.scale}].")
            try:
                done = self.done(each)
            except DiskError:
                raise
            except BadInput as error:
                say(f"{each.name} [{each.scale}]: {error}")
                codes.append(2)
                continue
            tables.append(done.table)
            if self.stored and not any(entry.figure for entry in done.table.entries):
                say(f"The store has nothing of {each.name} [{each.scale}], so no table of it is written.")
                codes.append(_code(done))
            elif self.as_json:
                write(done.table, self.out)
                told.append({**done.table.to_json(), "refused": done.refused})
                codes.append(_code(done))
            else:
                codes.append(_print(done, self.out, False))
        claims = keeping(Claims.of(tables), self.earlier, at_all_scales()) if self.earlier else Claims.of(tables)
        paths = write(claims, self.out)
        if self.as_json:
            tell_json({"suites": told, "claims": claims.records()})
        else:
            show(claims.table(), whole=True)
            tell(f"Wrote {', '.join(str(path) for path in paths)}.")
        return max(codes, key=_gravity)


def _gravity(code: int) -> int:
    """How bad an exit code is: a failure before bad input, that before what is incomplete."""
    return [0, 3, 2, 1].index(code)


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


def _tell_plans(steps: Sequence[Step]) -> None:
    from dataclasses import asdict

    total = sum(step.gradients or 0 for step in steps)
    unclear = [step.what for step in steps if step.gradients is None]
    tell_json({"steps": [asdict(s) for s in steps], "gradients": total, "unknown": unclear})


def _print_plan(title: str, note: str, steps: Sequence[Step]) -> None:
    from robench.tables.rendering import grid

    total = sum(step.gradients or 0 for step in steps)
    unclear = sum(step.gradients is None for step in steps)
    caption = (
        f"At most {total:,} gradients in all, each of one image through one model. An attack leaves an image as "
        "soon as it is broken, so this is what models cost that no attack breaks."
        f"{f' {unclear} steps are of unknown cost.' if unclear else ''}{f' {note}' if note else ''}"
    )
    shown = grid(title, caption)
    shown.add_column("step", overflow="fold")
    for name in ("state", "size", "gradients"):
        shown.add_column(name, justify="right")
    for step in steps:
        cost = "unknown" if step.gradients is None else f"{step.gradients:,}"
        shown.add_row(step.what, step.state, step.size, cost)
    show(shown)


def _code(done: Reproduced) -> int:
    """The exit code of a suite that was run."""
    if done.failed:
        return 1
    return 2 if done.refused else 0 if done.complete else 3


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
    return _code(done)

"""Jobs through the store: what is missing is computed shard by shard, what is there is checked and summarised."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from robench.detector.measuring import measure
from robench.errors import BadInput, DiskError
from robench.evaluation.jobs import (
    Job,
    NamedAttack,
    Request,
    Target,
    attacks_of,
    check_cascade,
    detector_options,
    make_job,
    references,
    watched,
)  # fmt: skip
from robench.evaluation.same_answers import Recall
from robench.evaluation.tasks import Bench, Task, begin
from robench.executors.graph import Ended, Node, Run
from robench.executors.workers import Outcome, Workers
from robench.progress import Bar, display, say
from robench.results.accuracy import summarise
from robench.store.runs import Store
from robench.trust.gates import record


@dataclass
class Evaluated:
    """One summary per evaluation, as in `result.json`, one per detector and evaluation, what the diagnostics found
    about each model, and a sentence per model that could not be used."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    findings: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """An evaluation that is wanted: the job, and the request that makes this job alone wherever it is computed.

    behind: whether a detector is attacked too. stored: whether it was all in the store when it was asked for.
    """

    job: Job
    request: Request
    behind: bool = False
    stored: bool = False

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The ranges of examples still to compute."""
        spec = self.job.spec
        return self.job.folder.missing(spec.start, spec.start + spec.count, self.request.shard_size)


@dataclass(frozen=True)
class Wanted:
    """Everything that was asked for about one model: plain cells first, then those behind its detector."""

    target: Target
    behind: Target | None
    cells: tuple[Cell, ...]


def evaluate(request: Request, store: Store, workers: Workers | None = None) -> Evaluated:
    """Compute what is missing of every (model, attack).

    A shard that fails makes its evaluation "incomplete"; a model that cannot be used does not keep the others from
    being evaluated. Raises BadInput for input that cannot be used, and where no model can.
    """
    attacks, bench, recall = attacks_of(request), Bench(store), Recall()
    if request.cascade:
        check_cascade(attacks)
    sources = [bench.target(reference, request) for reference in request.surrogates]
    refused, everything = [], []
    for reference in references(request, store):
        try:
            wanted = want(reference, attacks, sources, request, bench)
            for cell in wanted.cells:
                recall.check(cell.job, cell.request)
            everything.append(wanted)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    ended = run([node for i, wanted in enumerate(everything) for node in nodes(wanted.cells, str(i))], bench, workers)
    found = Evaluated()
    for i, wanted in enumerate(everything):
        try:
            if str(i) in ended.refused:
                raise ended.refused[str(i)]
            _collect(wanted, request, store, found)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    if refused and not found.rows:
        raise refused[0]
    found.refused = [str(error) for error in refused]
    return found


def want(
    reference: str | nn.Module,
    attacks: Sequence[NamedAttack],
    sources: Sequence[Target],
    request: Request,
    bench: Bench,
) -> Wanted:
    """The cells of one model under the attacks: by themselves or from every source, then behind the detector."""
    store, target = bench.store, bench.target(reference, request)
    cells: list[Cell] = []
    places: Sequence[Target | None] = sources or [None]
    for source in places:
        cells += _cells(target, attacks, replace(request, models=[reference], surrogates=[]), store, source)
    behind = watched(target, request, store)  # before the attacks: what it refuses costs nothing to find
    if behind is not None and request.guard and request.guard.adaptive:
        cells += _cells(behind, attacks, replace(request, models=[reference]), store, None)
    return Wanted(target, behind, tuple(cells))


def _cells(
    target: Target, attacks: Sequence[NamedAttack], request: Request, store: Store, source: Target | None
) -> list[Cell]:
    """A cell per attack; each with a request for it alone, and in a cascade for what the one before left standing."""
    cells: list[Cell] = []
    of_detector = {k: request.options[k] for k in detector_options(request)}
    for named in attacks:
        alone = replace(
            request,
            attacks=[named.name],
            options={**of_detector, **named.given},
            surrogates=[source.model.handle] if source else [],
            after=(cells[-1].job.spec.job_id, ", ".join(cell.job.spec.attack for cell in cells))
            if request.cascade and cells
            else request.after,
        )
        job = make_job(alone, store, target, named, source)
        if job.folder.path.is_dir():
            begin(job)  # makes a damaged record anew
        cell = Cell(job, alone, behind=target.watch is not None)
        cells.append(replace(cell, stored=not cell.missing))
    return cells


def nodes(cells: Iterable[Cell], subject: str) -> Iterator[Node]:
    """The missing shards of cells of one model as nodes, with the crafting or the earlier attack that each needs."""
    made: dict[str, list[tuple[int, int]]] = {}
    for cell in cells:
        spec, root = cell.job.spec, cell.job.folder.path.parent.parent
        missing = made[spec.job_id] = [] if cell.stored else cell.missing
        for start, stop in missing:
            place = f"{start:06d}-{stop:06d}"
            task = Task("shard", f"{spec.job_id}-{place}", root, cell.request, start, stop, spec.job_id, cell.behind)
            needs = {
                f"{spec.after}-{a:06d}-{b:06d}" for a, b in made.get(spec.after or "", []) if a < stop and b > start
            }
            craft = cell.job.craft
            if craft is not None and craft.folder.missing(start, stop, stop - start):
                crafting = replace(task, kind="craft", key=f"craft-{craft.spec.job_id}-{place}")
                yield Node(crafting.key, crafting, subject=subject, cell=crafting.key)
                needs.add(crafting.key)
            yield Node(task.key, task, frozenset(needs), subject=subject, cell=spec.job_id)


def run(wanted: Iterable[Node], bench: Bench, workers: Workers | None = None) -> Ended:
    """Run nodes and say what failed. Raises DiskError where results cannot be kept."""
    wanted, view = list(wanted), View()
    if not wanted:
        return Ended()
    with display():
        executor = (workers or Workers()).start(bench.store, bench, view.share)
        try:
            graph = Run(executor, view)
            graph.add(wanted)
            return graph.finish()
        finally:
            executor.close()
            view.close()


class View:
    """Progress: a bar per evaluation under way, in images, and one for everything where there are several."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.bars: dict[str, Bar] = {}
        self.began: dict[str, float] = {}
        self.overall: Bar | None = None

    def expect(self, wanted: Iterable[Node]) -> None:
        """Count what there will be to do."""
        for node in wanted:
            if node.task is not None:
                self.total[node.cell] += node.task.stop - node.task.start
        if len(self.total) > 1 and self.overall is None:
            self.overall = Bar("all")

    def share(self, task: Task, share: float) -> None:
        """A running task has come so far."""
        cell = task.job if task.kind == "shard" else task.key
        images = self.done[cell] + share * (task.stop - task.start)
        bar = self._bar(cell, task)
        if bar is not None:
            rate = images / max(time.monotonic() - self.began[cell], 1e-9)
            bar.update(images / max(self.total[cell], 1), f"{images:,.0f} images  {rate:,.1f}/s")

    def told(self, node: Node, outcome: Outcome) -> None:
        """A task has ended."""
        task = outcome.task
        if outcome.error is not None and not isinstance(outcome.error, BadInput):
            what = f"Examples {task.start}-{task.stop} of {title(task)}" if task.stop else f"Training {title(task)}"
            say(f"{what} failed: {type(outcome.error).__name__}: {outcome.error}")
        if not task.stop:
            return
        self.share(task, 1.0)
        self.done[node.cell] += task.stop - task.start
        if self.done[node.cell] >= self.total[node.cell] and node.cell in self.bars:
            self.bars.pop(node.cell).close()
        if self.overall:
            done, total = sum(self.done.values()), sum(self.total.values())
            self.overall.update(done / max(total, 1), f"{done:,} of {total:,} images")

    def close(self) -> None:
        """Take everything off the display."""
        for bar in [*self.bars.values(), *([self.overall] if self.overall else [])]:
            bar.close()

    def _bar(self, cell: str, task: Task) -> Bar | None:
        if cell not in self.bars and task.stop:
            self.bars[cell], self.began[cell] = Bar(title(task)), time.monotonic()
        return self.bars.get(cell)


def title(task: Task) -> str:
    """What a task works on, in words."""
    request = task.request
    if not isinstance(request, Request):
        return task.key.removeprefix("train-")
    name, attack = request.models[0], request.attacks[0]
    name = name if isinstance(name, str) else type(name).__name__
    source = request.surrogates[0] if request.surrogates else ""
    source = source if isinstance(source, str) else type(source).__name__
    if task.kind == "craft":
        return f"{source}  {attack}"
    detector = f" + {request.guard.detector}" if task.behind and request.guard else ""
    return f"{name}  {attack}{detector}{f' from {source}' if source else ''}"


def _collect(wanted: Wanted, request: Request, store: Store, found: Evaluated) -> None:
    """Add to `found` what became of a model's cells."""
    plain = [cell for cell in wanted.cells if not cell.behind]
    rows = [summary(cell, tell=True) for cell in plain]
    done = [cell.job for cell, row in zip(plain, rows, strict=True) if row["status"] == "complete"]
    detections: list[dict[str, Any]] = []
    if wanted.behind is not None and wanted.behind.watch is not None:
        watch, subject = wanted.behind.watch, wanted.target.subject
        detections = [measure(watch, subject, job.folder, request.settings) for job in done]
    rows += [summary(cell, tell=True) for cell in wanted.cells if cell.behind]
    found.rows += rows
    found.detections += detections
    found.findings += record(store, wanted.target.model.name, done[0].folder) if done else []
    if wanted.target.model.data is not None:
        wanted.target.model.release()


def summary(cell: Cell, *, tell: bool = False) -> dict[str, Any]:
    """The summary of a cell, written to its folder once it is complete; with `tell`, says if it was in the store."""
    job, folder = cell.job, cell.job.folder
    if cell.missing:
        figure = "robust_accuracy" if job.attack.metric == "robust accuracy" else "attack_success_rate"
        unknown = dict.fromkeys(("clean_accuracy", figure, "interval", "forwards", "backwards", "seconds"))
        return _row(job, {**unknown, "n": len(folder.rows()), "status": "incomplete", "flags": []})
    result = folder.result or summarise(folder.rows(), job.attack.metric, folder.notes())
    if cell.stored and tell:
        say(f"{job.title} ({folder.job_id}) was in the store.")
    folder.finish(result)
    return _row(job, result)


def _row(job: Job, result: dict[str, Any]) -> dict[str, Any]:
    """A summary with the names a reader needs."""
    about = job.about
    return {
        "model": about["model"],
        "dataset": about["dataset"],
        "attack": job.spec.attack,
        "options": about["given_options"],
        "metric": about["metric"],
        "access": about["access"],
        "against": about["against"],
        "surrogate": about["surrogate"],
        "kind": about["kind"],
        "surrogate_digest": about["surrogate_digest"],
        "norm": job.spec.norm,
        "eps": about["eps"],
        "model_digest": job.spec.model_digest,
        **result,
        "evaluation": job.spec.job_id,
    }

"""From models and attacks to the evaluations that are wanted, and the nodes of a graph that are missing of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from robench.evaluation.jobs import Job, NamedAttack, Target, detector_options, make_job, watched
from robench.evaluation.request import Request
from robench.evaluation.tasks import Bench, Task, begin
from robench.executors.graph import Node
from robench.store.runs import Store


@dataclass(frozen=True)
class PlannedEvaluation:
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
    """Everything that was asked for about one model: plain evaluations first, then those behind its detector."""

    target: Target
    behind: Target | None
    evaluations: tuple[PlannedEvaluation, ...]


def want(
    reference: str | nn.Module,
    attacks: Sequence[NamedAttack],
    sources: Sequence[Target],
    request: Request,
    bench: Bench,
) -> Wanted:
    """The evaluations of one model under the attacks: by themselves or from every source, then behind the detector."""
    store, target = bench.store, bench.target(reference, request)
    evaluations: list[PlannedEvaluation] = []
    places: Sequence[Target | None] = sources or [None]
    for source in places:
        evaluations += _planned(target, attacks, replace(request, models=[reference], surrogates=[]), store, source)
    behind = watched(target, request, store)  # before the attacks: what it refuses costs nothing to find
    if behind is not None and request.guard and request.guard.adaptive:
        evaluations += _planned(behind, attacks, replace(request, models=[reference]), store, None)
    return Wanted(target, behind, tuple(evaluations))


def _planned(
    target: Target, attacks: Sequence[NamedAttack], request: Request, store: Store, source: Target | None
) -> list[PlannedEvaluation]:
    """One per attack; each with a request for it alone, and in a cascade for what the one before left standing."""
    evaluations: list[PlannedEvaluation] = []
    of_detector = {k: request.options[k] for k in detector_options(request)}
    for named in attacks:
        alone = replace(
            request,
            attacks=[named.name],
            options={**of_detector, **named.given},
            surrogates=[source.model.handle] if source else [],
            after=(evaluations[-1].job.spec.job_id, ", ".join(planned.job.spec.attack for planned in evaluations))
            if request.cascade and evaluations
            else request.after,
        )
        job = make_job(alone, store, target, named, source)
        if job.folder.path.is_dir():
            begin(job)  # makes a damaged record anew
        planned = PlannedEvaluation(job, alone, behind=target.watch is not None)
        evaluations.append(replace(planned, stored=not planned.missing))
    return evaluations


def nodes(
    evaluations: Iterable[PlannedEvaluation], subject: str, ranks: Mapping[str, float] | None = None
) -> Iterator[Node]:
    """The missing shards of evaluations of one model, each with the crafting or the earlier attack that it needs.

    ranks: by attack, what is to be done first among what is ready.
    """
    made: dict[str, list[tuple[int, int]]] = {}
    for planned in evaluations:
        spec, root = planned.job.spec, planned.job.folder.root
        rank = (ranks or {}).get(spec.attack, 0.0)
        missing = made[spec.job_id] = [] if planned.stored else planned.missing
        for start, stop in missing:
            place = f"{start:06d}-{stop:06d}"
            key = f"{spec.job_id}-{place}"
            task = Task("shard", key, root, planned.request, start, stop, spec.job_id, planned.behind)
            needs = {
                f"{spec.after}-{a:06d}-{b:06d}" for a, b in made.get(spec.after or "", []) if a < stop and b > start
            }
            craft = planned.job.craft
            if craft is not None and craft.folder.missing(start, stop, stop - start):
                crafting = replace(task, kind="craft", key=f"craft-{craft.spec.job_id}-{place}")
                yield Node(crafting.key, crafting, rank=rank, subject=subject, cell=crafting.key)
                needs.add(crafting.key)
            yield Node(task.key, task, frozenset(needs), rank, subject, spec.job_id)

"""From models and attacks to the evaluations that are wanted, and the nodes of a graph that are missing of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from robench.data.repeated import repeated_told
from robench.device import choose_device
from robench.evaluation.address import Address, After, Below
from robench.evaluation.attacks import Resolved
from robench.evaluation.bench import Bench
from robench.evaluation.jobs import Job, Target, make_job, watched
from robench.evaluation.recorded_command import train_command_of
from robench.evaluation.request import Request
from robench.evaluation.rungs import apart
from robench.evaluation.tasks import Task, begin
from robench.executors.graph import Node
from robench.models.pixels import Asking
from robench.progress import say
from robench.training.jobs import outdated


@dataclass(frozen=True)
class PlannedEvaluation:
    """An evaluation that is wanted: the job, and the address that makes this job wherever it is computed.

    stored: whether it was all in the store when it was asked for.
    """

    job: Job
    address: Address
    stored: bool = False

    @property
    def missing(self) -> list[tuple[int, int]]:
        """The ranges of examples still to compute."""
        spec = self.job.spec
        return self.job.folder.missing(spec.start, spec.start + spec.count, self.address.how.shard_size)

    def tell_begun(self) -> None:
        """Say what is there already of an evaluation that another run has begun."""
        count = self.job.spec.count
        there = count - sum(stop - start for start, stop in self.missing)
        if 0 < there < count:
            say(f"{self.job.title} ({self.job.folder.job_id}) goes on from {there:,} of {count:,} images in the store.")


@dataclass(frozen=True)
class Wanted:
    """Everything that was asked for about one model: plain evaluations first, then those behind its detector."""

    target: Target
    behind: Target | None
    evaluations: tuple[PlannedEvaluation, ...]


def want(
    reference: str | nn.Module,
    asked: Resolved,
    sources: Sequence[Target],
    bench: Bench,
    smaller: Sequence[Resolved] = (),
    guide: Target | None = None,
) -> Wanted:
    """The evaluations of one model under the attacks: by themselves or from every source, then behind the detector.

    smaller: the same within smaller eps, the next smaller one first, each of which goes by what the one before it left
    standing. guide: whose gradients are followed. Raises BadInput for a model, data or a detector that cannot be used.
    """
    request = asked.request
    target = bench.target(reference, request.dataset, request.data_root, request.classes)
    target.dataset.tell()
    if target.defense and outdated(target.name, bench.store):
        say(
            f"The model {target.name!r} was trained by another source of the defense {target.defense!r} than is "
            f"installed; train it again with {train_command_of(bench.store.card(target.name))!r}."
        )
    evaluations: list[PlannedEvaluation] = []
    places: Sequence[Target | None] = sources or [None]
    for source in places:
        evaluations += _planned(reference, target, asked, bench, source, guide=guide)
    above = evaluations
    for each in smaller:
        above = _planned(reference, target, each, bench, above=above)
        evaluations = [*evaluations, *above]
    _doubt(target, evaluations, request, bench)
    _tell_repeated(evaluations)
    behind = None
    if asked.guard is not None:  # before the attacks: what it refuses costs nothing to find
        behind = watched(target, asked.guard, request.threat, request.settings, bench.store, anew=request.fresh)
        evaluations += _planned(reference, behind, asked, bench) if asked.guard.adaptive else []
    return Wanted(target, behind, tuple(evaluations))


def _doubt(target: Target, evaluations: Sequence[PlannedEvaluation], request: Request, bench: Bench) -> None:
    """Say where a stranger's model looks as if it wanted other pixels, before anything is computed of it."""
    if target.model.data is not None or all(planned.stored for planned in evaluations):
        return
    threats = {id(each): each for planned in evaluations for each in (planned.address.threat, planned.job.threat)}
    kept = (request.threat, *threats.values())
    found = bench.doubt(target, Asking(choose_device(request.device), request.batch_size, kept))
    if found is not None:
        say(found.told)


def _tell_repeated(evaluations: Sequence[PlannedEvaluation]) -> None:
    """Say where many of the images are copies of others, once for all evaluations on them."""
    jobs = [planned.job for planned in evaluations if not planned.stored]
    for sentence in dict.fromkeys(repeated_told(job.split, job.spec.start, job.spec.count) for job in jobs):
        if sentence:
            say(sentence)


def want_one(address: Address, bench: Bench) -> Wanted:
    """The evaluation at one address. Raises BadInput as `want`."""
    planned = _plan(address, bench.make(address), bench)
    target = bench.target(address.model, address.dataset, address.how.data_root, address.classes)
    target.dataset.tell()
    return Wanted(target, None, (planned,))


def _planned(
    reference: str | nn.Module,
    target: Target,
    asked: Resolved,
    bench: Bench,
    source: Target | None = None,
    above: Sequence[PlannedEvaluation] = (),
    guide: Target | None = None,
) -> list[PlannedEvaluation]:
    """One per attack, each at an address of its own, which in a cascade says what the one before left standing.

    above: the same attacks' within the next larger eps.
    """
    evaluations: list[PlannedEvaluation] = []
    surrogate, behind, after = source.model.handle if source else None, target.watch is not None, None
    follows = guide.model.handle if guide else None
    for i, named in enumerate(asked.attacks):
        if asked.request.cascade and evaluations:
            names = ", ".join(planned.job.spec.attack for planned in evaluations)
            after = After(evaluations[-1].job.spec.job_id, names)
        address = asked.address(reference, named, surrogate=surrogate, guide=follows, behind=behind, after=after)
        if above and not apart(named, asked.request):
            address = replace(address, below=Below(above[i].job.spec.job_id, above[i].job.threat.eps_text))
        evaluations.append(_plan(address, make_job(address, bench.store, target, named, source, guide), bench))
    return evaluations


def _plan(address: Address, job: Job, bench: Bench) -> PlannedEvaluation:
    """An evaluation whose job is made, and need not be made again on this bench."""
    bench.take(address, job)
    if job.folder.path.is_dir():
        begin(job)  # makes a damaged record anew
    shape = job.split.images(slice(0, 1)).shape[1:]
    for folder in (job.folder, *([job.craft.folder] if job.craft else [])):
        for sentence in folder.discard_unsound(shape):
            say(sentence)
    planned = PlannedEvaluation(job, address)
    return replace(planned, stored=not planned.missing)


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
            task = Task("shard", key, root, planned.address, start, stop, spec.job_id)
            earlier = spec.after or spec.below or ""
            needs = {f"{earlier}-{a:06d}-{b:06d}" for a, b in made.get(earlier, []) if a < stop and b > start}
            craft = planned.job.craft
            if craft is not None and craft.folder.missing(start, stop, stop - start):
                crafting = replace(task, kind="craft", key=f"craft-{craft.spec.job_id}-{place}")
                yield Node(crafting.key, crafting, rank=rank, subject=subject, cell=crafting.key)
                needs.add(crafting.key)
            yield Node(task.key, task, frozenset(needs), rank, subject, spec.job_id)

"""A suite at a scale, planned: its trainings and the places of its table, what is missing, and what that will cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from robench.attack.base import Cost
from robench.detector.fitting import Subject, fitting
from robench.detector.request import Guard
from robench.errors import BadInput
from robench.evaluation.jobs import Job, NamedAttack, Request, attacks_of, detector_options
from robench.evaluation.scheduler import Cell, Wanted, want
from robench.evaluation.tasks import Bench
from robench.executors.workers import Workers
from robench.store.runs import Store
from robench.suites.cost import training_cost
from robench.suites.suite import Column, RowPlan, ScaledSuite
from robench.threat import ThreatModel
from robench.training.jobs import TrainJob, TrainRequest, finished
from robench.training.jobs import plan as plan_training


@dataclass(frozen=True)
class Setup:
    """How a suite is run: where its data are, on what device, in what portions; none of it changes a figure."""

    data_root: Path | None = None
    device: str = "auto"
    batch_size: int = 250
    shard_size: int = 250
    workers: Workers = field(default_factory=Workers)


@dataclass(frozen=True)
class Training:
    """A model the table needs: one row's defense under one seed."""

    row: RowPlan
    seed: int
    request: TrainRequest
    job: TrainJob
    done: bool

    @property
    def name(self) -> str:
        """The model's name in the store."""
        return self.job.name


@dataclass(frozen=True)
class Place:
    """One figure of the table for one seed: the model, the column, the models that must be trained before, and what
    is asked of the scheduler; no request where the column is clean accuracy."""

    training: Training
    column: Column
    needs: tuple[Training, ...]
    request: Request | None

    @property
    def key(self) -> str:
        """A name for the place among the nodes of the graph."""
        return f"open {self.training.row.name} {self.training.name} {self.column.name}"


@dataclass(frozen=True)
class Plan:
    """What a suite needs at a scale."""

    suite: ScaledSuite
    trainings: tuple[Training, ...]
    places: tuple[Place, ...]
    setup: Setup


@dataclass(frozen=True)
class Step:
    """A line of the plan: what is to be done how often, and its cost in gradient evaluations, None if unknown."""

    what: str
    state: str
    size: str
    gradients: int | None


def plan(suite: ScaledSuite, setup: Setup, store: Store) -> Plan:
    """Resolve a suite into trainings and places. Raises BadInput for anything in it that cannot be used."""
    trainings: dict[tuple[str, int], Training] = {}
    for row in suite.rows:
        for seed in row.seeds:
            request = TrainRequest(
                row.defense, row.dataset, row.recipe, row.options, row.epochs, row.batch_size, seed, setup.device,
                data_root=setup.data_root,
            )  # fmt: skip
            job = plan_training(request)
            if suite.count is not None and suite.count > len(job.dataset.test):
                raise BadInput(
                    f"The suite {suite.name!r} at scale {suite.scale} wants {suite.count} test images, but "
                    f"{row.dataset} has {len(job.dataset.test)}; give at most that as its count."
                )
            same = next((t for t in trainings.values() if t.job.name == job.name and t.job.spec != job.spec), None)
            if same is not None:
                raise BadInput(
                    f"The rows {same.row.name!r} and {row.name!r} of suite {suite.name!r} would both train a model "
                    f"named {job.name!r}; change an option of one."
                )
            trainings[row.name, seed] = Training(row, seed, request, job, finished(job, store) is not None)
    shown = [t for t in trainings.values() if t.row.shown]
    places = [_place(suite, setup, t, column, trainings) for t in shown for column in suite.columns]
    return Plan(suite, tuple(trainings.values()), tuple(places), setup)


def _place(
    suite: ScaledSuite, setup: Setup, training: Training, column: Column, trainings: dict[tuple[str, int], Training]
) -> Place:
    column = suite.cell(training.row, column)
    if not column.attacks:
        return Place(training, column, (training,), None)
    surrogate = [trainings[column.surrogate, suite.row(column.surrogate).seeds[0]]] if column.surrogate else []
    guard = None
    if column.detector is not None:
        guard = Guard(
            column.detector, column.detector_options, column.trained_on, column.trained_options, column.fpr,
            column.detector_images, adaptive=column.figure is None,
        )  # fmt: skip
    alone = guard is None and not surrogate and column.combine == "worst case"
    request = Request(
        models=[training.name],
        attacks=column.attacks,
        threat=ThreatModel.of(column.norm, column.eps),
        count=suite.count,
        options={**column.options, **(column.detector_options if column.detector else {})},
        batch_size=setup.batch_size,
        shard_size=setup.shard_size,
        device=setup.device,
        data_root=setup.data_root,
        surrogates=[t.name for t in surrogate],
        guard=guard,
        eot=column.eot,
        bpda=column.bpda,
    )
    attacks = attacks_of(request) if alone else []
    if len(attacks) > 1 and all(named.attack.metric == "robust accuracy" for named in attacks):
        request = replace(request, cascade=True)
    return Place(training, column, (training, *surrogate), request)


def estimate(found: Plan, store: Store, opened: dict[str, Wanted] | None = None) -> list[Step]:
    """What is to be done, each thing once, and what it costs at most: an example that is broken early costs less.

    opened: takes in the places that were opened for it, so that `reproduce` need not.
    """
    steps: dict[Any, Step] = {}
    for t in found.trainings:
        data, images = t.job.dataset.info, len(t.job.dataset.train)
        cost = 0 if t.done else training_cost(t.job.spec.defense, t.job.spec.options, t.job.recipe, data, images)
        size = f"{t.job.recipe.epochs} epochs of {images:,} images"
        steps[t.name] = Step(f"train {t.name}", "done" if t.done else "to do", size, cost)
    bench = Bench(store)
    for place in found.places:
        if place.request is not None:
            for key, step in _attack_steps(place, place.request, bench, {} if opened is None else opened):
                steps.setdefault(key, step)
    return list(steps.values())


def _attack_steps(
    place: Place, request: Request, bench: Bench, opened: dict[str, Wanted]
) -> Iterator[tuple[Any, Step]]:
    """What a place needs beside its models, each step with what tells it from others."""
    trained, cells = all(t.done for t in place.needs), list[Cell]()
    if request.guard is not None:
        there, step = _fitting(place, request, bench, trained)
        yield step.what, step
        if trained and not there:  # the model may have been attacked by itself
            options = {k: v for k, v in request.options.items() if k not in detector_options(request)}
            cells += open_place(place, replace(request, guard=None, options=options), bench).cells
        trained &= there
    if trained:
        opened[place.key] = open_place(place, request, bench)
        cells += opened[place.key].cells
    attacks = _cheap_first(attacks_of(request), request.threat, place.training.job.dataset.classes)
    for behind in [False, True] if request.guard is not None and request.guard.adaptive else [False]:
        found = [cell.job for cell in cells if cell.behind == behind]
        before: tuple[str, ...] = ()
        for i, named in enumerate(attacks):
            yield from _attack_step(place, request, named, found[i] if found else None, before, behind=behind)
            before += (named.name,) if request.cascade else ()


def _attack_step(
    place: Place, request: Request, named: NamedAttack, job: Job | None, before: tuple[str, ...], *, behind: bool
) -> Iterator[tuple[Any, Step]]:
    """An attack on a place's model, or on its surrogate and then the judging of what was crafted there."""
    dataset, source, target = place.training.job.dataset, place.needs[-1].name, place.training.name
    count = len(dataset.test) if request.count is None else request.count
    guard = f" behind {request.guard.detector}" if request.guard is not None and behind else ""
    after = f" after {before[-1]}" if before else ""
    cost = cost_of(named, request, dataset.classes).backwards
    folders = (job.craft.folder if job and job.craft else None, job.folder if job else None)
    steps = [(f"{named.name} on {target}{guard}{after}", folders[1], cost)]
    if request.surrogates:
        steps = [(f"{named.name} on {source}, crafted for others", folders[0], cost),
                 (f"{named.name} from {source} on {target}, judged", folders[1], 0)]  # fmt: skip
    given = tuple(sorted((k, str(v)) for k, v in named.given.items()))
    for what, folder, each in steps:
        left = count if folder is None else sum(b - a for a, b in folder.missing(0, count, request.shard_size))
        key = (what, given, request.threat, before, str(request.guard) if guard else "", request.eot, *request.bpda)
        state = "done" if not left else "to do" if left == count else f"{left:,} left"
        yield key, Step(what, state, f"{count:,} images", None if each is None else each * left)


def _fitting(place: Place, request: Request, bench: Bench, trained: bool) -> tuple[bool, Step]:
    """Whether a place's detector is there, and the step that fits it."""
    guard, dataset = request.guard, place.training.job.dataset
    assert guard is not None
    asked = replace(guard, options={k: request.options[k] for k in detector_options(request)})
    untrained = Subject(place.training.name, nn.Identity(), "", dataset)
    subject = bench.target(place.training.name, request).subject if trained else untrained
    there, images, cost = fitting(asked, subject, request.threat, request.settings, bench.store)
    what = f"fit {guard.detector} on {place.training.name} ({guard.trained_on})"
    return there, Step(what, "done" if there else "to do", f"{images:,} images", 0 if there else cost)


def cost_of(named: NamedAttack, request: Request, classes: int) -> Cost:
    """The most passes that an attack of a request takes per example, over all draws of a random model."""
    return named.attack.cost(request.threat, classes).times(request.eot)


def _cheap_first(attacks: Sequence[NamedAttack], threat: ThreatModel, classes: int) -> list[NamedAttack]:
    """In the order of cost, those of unknown cost last: what a cheap attack breaks costs the others nothing."""

    def cost(named: NamedAttack) -> tuple[bool, int]:
        found = named.attack.cost(threat, classes)
        return found.forwards is None, (found.forwards or 0) + 2 * (found.backwards or 0)

    return sorted(attacks, key=cost)


def open_place(place: Place, request: Request, bench: Bench) -> Wanted:
    """The evaluations of a place whose models are there, cheap attacks first."""
    attacks = _cheap_first(attacks_of(request), request.threat, place.training.job.dataset.classes)
    sources = [bench.target(name, request) for name in request.surrogates]
    return want(place.training.name, attacks, sources, request, bench)

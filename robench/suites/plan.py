"""A suite at a scale, planned: its trainings and the places of its table, what is missing, and what that will cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from robench.attack.base import Cost
from robench.data.dataset import Dataset, open_dataset
from robench.data_names import apart
from robench.detector.request import DetectorRequest
from robench.device import check_device
from robench.errors import BadInput
from robench.evaluation.attacks import NamedAttack, Resolved, cascade_fault, resolve
from robench.evaluation.bench import Bench
from robench.evaluation.request import Request
from robench.evaluation.wanted import Wanted, want
from robench.executors.workers import Workers
from robench.ranges import hold
from robench.store.runs import Store
from robench.suites.schema import Column
from robench.suites.suite import RowPlan, ScaledSuite
from robench.threat import ThreatModel
from robench.training.jobs import TrainJob, TrainRequest, finished
from robench.training.jobs import plan as plan_training


@dataclass(frozen=True)
class Setup:
    """How a suite is run: where its data are, on what device, in what portions, and whether it attacks anew."""

    data_root: Path | None = None
    device: str = "auto"
    batch_size: int = 250
    shard_size: int = 250
    workers: Workers = field(default_factory=Workers)
    fresh: bool = False

    def __post_init__(self) -> None:
        hold(self, batch_size="--batch-size", shard_size="--shard-size")
        check_device(self.device)


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

    @property
    def dataset(self) -> Dataset:
        """The data it is trained on and attacked on."""
        return self.job.dataset


@dataclass(frozen=True)
class Brought:
    """A model of the user's own beside the suite's rows: its reference, and the data it is attacked on."""

    row: RowPlan
    name: str
    dataset: Dataset
    seed: int = 0
    done: bool = True


@dataclass(frozen=True)
class Place:
    """One figure of the table for one seed: the model, the column, the models that must be there before, and what is
    asked of the scheduler, cheap attacks first; nothing where the column is clean accuracy."""

    training: Training | Brought
    column: Column
    needs: tuple[Training | Brought, ...]
    asked: Resolved | None

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
    brought: tuple[Brought, ...] = ()


def plan(suite: ScaledSuite, setup: Setup, store: Store) -> Plan:
    """Resolve a suite into trainings and places. Raises BadInput for anything in it that cannot be used."""
    trainings: dict[tuple[str, int], Training] = {}
    opened = cache(open_dataset)  # held once, however many rows are trained on it
    for row in suite.rows:
        for seed in () if row.brought else row.seeds:
            request = TrainRequest(
                row.defense, apart(row.dataset)[0], row.recipe, row.options, row.epochs, row.batch_size, seed,
                setup.device, data_root=setup.data_root,
            )  # fmt: skip
            job = plan_training(request, opened)
            suite = suite.of(len(job.dataset.test))
            _check_count(suite, job.dataset)
            same = next((t for t in trainings.values() if t.job.name == job.name and t.job.spec != job.spec), None)
            if same is not None:
                raise BadInput(
                    f"The rows {same.row.name!r} and {row.name!r} of suite {suite.name!r} would both train a model "
                    f"named {job.name!r}; change an option of one."
                )
            trainings[row.name, seed] = Training(row, seed, request, job, finished(job, store) is not None)
    own = [row for row in suite.rows if row.brought]
    dataset = open_dataset(suite.dataset, setup.data_root) if own else None
    brought = [Brought(row, row.brought, dataset) for row in own if dataset is not None]
    shown: list[Training | Brought] = [*(t for t in trainings.values() if t.row.shown), *brought]
    places = [_place(suite, setup, t, column, trainings) for t in shown for column in suite.columns]
    return Plan(suite, tuple(trainings.values()), tuple(places), setup, tuple(brought))


def _check_count(suite: ScaledSuite, dataset: Dataset) -> None:
    """Raise BadInput where a column wants more images than there are."""
    most = max((count for each in suite.columns if (count := suite.images(each)) is not None), default=0)
    if most > len(dataset.test):
        raise BadInput(
            f"The suite {suite.name!r} at scale {suite.scale} wants {most} test images, but "
            f"{suite.dataset} has {len(dataset.test)}; give at most that as its count."
        )


def _place(
    suite: ScaledSuite,
    setup: Setup,
    training: Training | Brought,
    column: Column,
    trainings: dict[tuple[str, int], Training],
) -> Place:
    column = suite.cell(training.row, column)
    if not column.attacks:
        return Place(training, column, (training,), None)
    surrogate = [trainings[column.surrogate, suite.row(column.surrogate).seeds[0]]] if column.surrogate else []
    guide = [trainings[column.guide, suite.row(column.guide).seeds[0]]] if column.guide else []
    guard = None
    if column.detector is not None:
        guard = DetectorRequest(
            column.detector, column.detector_options, column.trained_on, column.trained_options, column.fpr,
            column.detector_images, adaptive=column.figure is None,
        )  # fmt: skip
    alone = guard is None and not surrogate and not guide and column.combine == "worst case"
    request = Request(
        models=[training.name],
        dataset=suite.dataset if isinstance(training, Brought) else apart(suite.dataset)[1],
        attacks=column.attacks,
        threat=ThreatModel.of(column.norm, column.eps),
        count=suite.images(column),
        options={**column.options, **(column.detector_options if column.detector else {})},
        batch_size=setup.batch_size,
        shard_size=setup.shard_size,
        device=setup.device,
        data_root=setup.data_root,
        surrogates=[t.name for t in surrogate],
        guide=guide[0].name if guide else None,
        guard=guard,
        eot=column.eot,
        bpda=column.bpda,
    )
    asked = resolve(request)
    if alone and len(asked.attacks) > 1 and not cascade_fault(asked.attacks):
        asked = replace(asked, request=replace(request, cascade=True))
    attacks = _cheap_first(asked.attacks, request.threat, training.dataset.classes)
    return Place(training, column, (training, *surrogate, *guide), replace(asked, attacks=attacks))


def cost_of(named: NamedAttack, request: Request, classes: int) -> Cost:
    """The most passes that an attack of a request takes per example, over all draws of a random model."""
    return named.attack.cost(request.threat, classes).times(request.eot)


def _cheap_first(attacks: Sequence[NamedAttack], threat: ThreatModel, classes: int) -> tuple[NamedAttack, ...]:
    """In the order of cost, those of unknown cost last: what a cheap attack breaks costs the others nothing."""

    def cost(named: NamedAttack) -> tuple[bool, int]:
        found = named.attack.cost(threat, classes)
        return found.forwards is None, (found.forwards or 0) + 2 * (found.backwards or 0)

    return tuple(sorted(attacks, key=cost))


def open_place(place: Place, asked: Resolved, bench: Bench) -> Wanted:
    """The evaluations of a place whose models are there."""
    request = asked.request
    sources = [bench.target(name, request.dataset, request.data_root) for name in request.surrogates]
    guide = None if request.guide is None else bench.target(request.guide, request.dataset, request.data_root)
    return want(place.training.name, asked, sources, bench, guide=guide)

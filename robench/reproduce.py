"""A suite at a scale: its trainings and evaluations as one graph, what they will cost, and the table they fill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from robench import registry
from robench.attack import Cost
from robench.cost import training_cost
from robench.detection import measure
from robench.diagnostics import record
from robench.errors import BadInput, CheckFailed, DiskError
from robench.executors import Workers
from robench.graph import Ended, Node
from robench.guard import Guard
from robench.jobs import NamedAttack, Request, attacks_of
from robench.results import Figure, worst_case
from robench.scheduler import Wanted, nodes, run, summary, want
from robench.store import EvaluationFolder, Store
from robench.suite import Column, RowPlan, ScaledSuite
from robench.suite_table import Entry, SuiteTable
from robench.threat import ThreatModel
from robench.trained import TrainJob, TrainRequest, claim_of, finished
from robench.trained import plan as plan_training
from robench.work import Bench, Task


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


@dataclass
class Reproduced:
    """The table, a sentence per model that could not be used or trained, what the diagnostics found, and whether a
    training went wrong."""

    table: SuiteTable
    refused: list[str]
    findings: list[dict[str, Any]]
    failed: bool

    @property
    def complete(self) -> bool:
        """Whether every place of the table has its figure."""
        return all(entry.status == "complete" for entry in self.table.entries)


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
        cascade=alone and len(registry.expand(column.attacks)) > 1,
    )
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
    """The attacks of a place: crafting on its surrogate, or on its model; each with what tells it from others."""
    dataset = place.training.job.dataset
    count = len(dataset.test) if request.count is None else request.count
    known = all(t.done for t in place.needs) and request.guard is None  # then the store tells what is left
    if known:
        opened[place.key] = _opened(place, request, bench)
    cells = opened[place.key].cells if known else ()
    before: tuple[str, ...] = ()
    for i, named in enumerate(_cheap_first(attacks_of(request), request.threat, dataset.classes)):
        crafting = bool(request.surrogates)
        what = f"{named.name} on {place.needs[-1].name}" + (", crafted for others" if crafting else "")
        job = cells[i].job if known else None
        left = count if job is None else _left(job.craft.folder if job.craft else job.folder, count, request.shard_size)
        cost = _cost(named, request, dataset.classes).backwards
        options = tuple(sorted((k, str(v)) for k, v in named.given.items()))
        chain = before if request.cascade else ()
        guard = str(request.guard) if request.guard else ""
        key = (what, options, request.threat, chain, guard, request.eot, tuple(request.bpda))
        state = "done" if not left else "to do" if left == count else f"{left:,} left"
        yield key, Step(f"{what}{f' after {chain[-1]}' if chain else ''}", state, f"{count:,} images",
                        None if cost is None else cost * left)  # fmt: skip
        before = (*before, named.name)


def _left(folder: EvaluationFolder, count: int, shard_size: int) -> int:
    return sum(stop - start for start, stop in folder.missing(0, count, shard_size))


def _cost(named: NamedAttack, request: Request, classes: int) -> Cost:
    return named.attack.cost(request.threat, classes).times(request.eot)


def _cheap_first(attacks: Sequence[NamedAttack], threat: ThreatModel, classes: int) -> list[NamedAttack]:
    """In the order of cost, those of unknown cost last: what a cheap attack breaks costs the others nothing."""

    def cost(named: NamedAttack) -> tuple[bool, int]:
        found = named.attack.cost(threat, classes)
        return found.forwards is None, (found.forwards or 0) + 2 * (found.backwards or 0)

    return sorted(attacks, key=cost)


def reproduce(found: Plan, store: Store, opened: dict[str, Wanted] | None = None) -> Reproduced:
    """Do what is missing of a plan and fill its table; opened: what `estimate` opened.

    A model that cannot be used or trained leaves its places incomplete and the others alone. Raises DiskError where
    results cannot be kept.
    """
    bench, opened = Bench(store), {} if opened is None else opened
    graph = [_training_node(t, store) for t in found.trainings if not t.done]
    graph += [_opening_node(place, bench, opened) for place in found.places if place.request is not None]
    ended = run(graph, bench, found.setup.workers)
    entries, findings = [], list[dict[str, Any]]()
    for place in found.places:
        try:
            entries.append(_entry(place, opened.get(place.key), store))
        except DiskError:
            raise
        except BadInput as error:  # what was stored is damaged, or cannot be measured
            ended.refused.setdefault(place.training.name, error)
            entries.append(_empty(place))
    for training in found.trainings:
        wanted = [opened[p.key] for p in found.places if p.training is training and p.key in opened]
        findings += _findings(training.name, wanted, store)
    table = SuiteTable.of(found.suite, entries, findings)
    return Reproduced(
        table, _sentences(ended), findings, any(isinstance(e, CheckFailed) for e in ended.failed.values())
    )


def evaluations(found: Plan, store: Store) -> list[str]:
    """The ids of a plan's evaluations of one white-box attack each, which is what can be compared image by image later.

    Raises BadInput where the suite is not done.
    """
    bench, ids = Bench(store), dict[str, None]()
    for place in found.places:
        request = place.request
        if request is None or request.guard or request.surrogates or request.cascade:
            continue
        wanted = _opened(place, request, bench) if place.training.done else None
        if wanted is None or any(cell.missing for cell in wanted.cells):
            raise BadInput(
                f"The suite {found.suite.name!r} at scale {found.suite.scale} is not done ({place.training.name}, "
                f"{place.column.name}); run 'robench reproduce' with the suite and --scale {found.suite.scale} first."
            )
        ids |= dict.fromkeys(cell.job.spec.job_id for cell in wanted.cells)
    if not ids:
        raise BadInput(f"The suite {found.suite.name!r} has no column of a single white-box attack; name evaluations.")
    return list(ids)


def _training_node(training: Training, store: Store) -> Node:
    key = claim_of(training.name)
    return Node(key, Task("train", key, store.root, training.request), rank=-1.0, subject=training.name, cell=key)


def _opening_node(place: Place, bench: Bench, opened: dict[str, Wanted]) -> Node:
    """Once the models are there, their digests are known, and with them the evaluations and what is missing of them."""
    needs = frozenset(claim_of(t.name) for t in place.needs if not t.done)
    then = partial(_open, place, bench, opened)
    return Node(place.key, None, needs, rank=-0.5, subject=place.training.name, then=then)


def _open(place: Place, bench: Bench, opened: dict[str, Wanted]) -> list[Node]:
    request, classes = place.request, place.training.job.dataset.classes
    assert request is not None
    wanted = opened[place.key] = opened.get(place.key) or _opened(place, request, bench)
    ranks = {a.name: float(_cost(a, request, classes).backwards or 0) for a in attacks_of(request)}
    return [
        replace(node, rank=ranks[node.task.request.attacks[0]])
        for node in nodes(wanted.cells, place.training.name)
        if node.task is not None and isinstance(node.task.request, Request)
    ]


def _opened(place: Place, request: Request, bench: Bench) -> Wanted:
    """The evaluations of a place whose models are there, cheap attacks first."""
    attacks = _cheap_first(attacks_of(request), request.threat, place.training.job.dataset.classes)
    sources = [bench.target(name, request) for name in request.surrogates]
    return want(place.training.name, attacks, sources, request, bench)


def _sentences(ended: Ended) -> list[str]:
    told = {str(error): None for error in ended.refused.values()}
    told |= {str(error): None for error in ended.failed.values() if isinstance(error, CheckFailed)}
    return list(told)


def _empty(place: Place) -> Entry:
    return Entry(
        place.training.row.name, place.training.seed, place.training.name, place.column.name, None, "incomplete"
    )


def _entry(place: Place, wanted: Wanted | None, store: Store) -> Entry:
    """The figure of a place, or an incomplete one. Raises BadInput where what is stored is damaged."""
    empty = _empty(place)
    if place.request is None:
        return _clean(empty, store)
    if wanted is None:
        return empty
    rows = [summary(cell) for cell in wanted.cells]
    done = all(row["status"] == "complete" for row in rows)
    found = replace(
        empty,
        evaluations=tuple(row["evaluation"] for row in rows),
        flags=tuple(sorted({flag for row in rows for flag in row["flags"]})),
        gradients=sum(row["backwards"] or 0 for row in rows),
        metric=rows[-1]["metric"],
    )
    if not done:
        return found
    figure = _figure(place, wanted, rows)
    return replace(found, figure=figure, status="complete" if figure else "unmeasurable")


def _figure(place: Place, wanted: Wanted, rows: list[dict[str, Any]]) -> Figure | None:
    """The figure of a place whose cells are complete."""
    if place.column.figure is not None:
        return _detected(place, wanted)
    behind = wanted.behind is not None  # then the attacks on model and detector together count
    shown = [i for i, cell in enumerate(wanted.cells) if cell.behind == behind]
    figures = [attack_figure_of(rows[i]) for i in shown]
    if place.column.combine == "minimum":
        return min(figures, key=lambda figure: figure.value)
    if len(shown) > 1 and place.request is not None and not place.request.cascade:
        return worst_case([wanted.cells[i].job.folder.rows() for i in shown])
    return figures[-1]  # the last attack of a cascade has the finds of all before it


def attack_figure_of(row: dict[str, Any]) -> Figure:
    """The figure of a complete evaluation's summary."""
    value = row.get("robust_accuracy", row.get("attack_success_rate"))
    return Figure(round(value * row["n"]), row["n"])


def _clean(empty: Entry, store: Store) -> Entry:
    """Clean accuracy on the whole test set, as the model's card has it."""
    if empty.model not in store.model_names():
        return empty
    accuracy = store.card(empty.model)["accuracy"]
    figure = Figure(round(accuracy["test"] * accuracy["test_count"]), accuracy["test_count"])
    return replace(empty, figure=figure, status="complete", metric="clean accuracy")


def _detected(place: Place, wanted: Wanted) -> Figure | None:
    """The column's figure of a detector, from the first attack's images."""
    assert wanted.behind is not None
    assert wanted.behind.watch is not None
    assert place.request is not None
    assert place.column.figure is not None
    found = measure(wanted.behind.watch, wanted.target.subject, wanted.cells[0].job.folder, place.request.settings)
    value, n = found[place.column.figure], found[f"{place.column.figure}_n"]
    return None if value is None else Figure(round(value * n), n)


def _findings(name: str, wanted: Sequence[Wanted], store: Store) -> list[dict[str, Any]]:
    """What the gates make of a model's plain white-box runs, where any is new; otherwise what they made of them."""
    found: list[dict[str, Any]] = []
    seen: set[tuple[Any, ...]] = set()
    for cell in (cell for one in wanted for cell in one.cells if not cell.behind):
        spec = cell.job.spec
        key = (spec.model_digest, spec.data_digest, spec.norm, spec.count)
        if key in seen or spec.surrogate or spec.after or cell.missing:
            continue
        seen.add(key)
        found += record(store, name, cell.job.folder)
    return found

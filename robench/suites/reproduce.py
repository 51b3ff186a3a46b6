"""A planned suite as one graph of trainings and evaluations, and the table they fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from robench.detector.measuring import measure
from robench.errors import BadInput, Changed, CheckFailed, DiskError, Permanent
from robench.evaluation.attacks import Resolved
from robench.evaluation.bench import Bench
from robench.evaluation.renewal import Renewal
from robench.evaluation.same_answers import Recall
from robench.evaluation.scheduler import run
from robench.evaluation.sealing import seal
from robench.evaluation.summaries import Result, conclude
from robench.evaluation.tasks import TrainTask
from robench.evaluation.wanted import Wanted, nodes
from robench.executors.graph import Ended, Node
from robench.models import load_model
from robench.results.accuracy import WHITE_BOX, Figure, Measure, clean_figure, counted, entering, standing
from robench.results.rows import COUNTED, Marks
from robench.store.runs import Store
from robench.store.specs import access_of
from robench.suites.plan import Brought, Place, Plan, Training, cost_of, open_place
from robench.suites.provenance import Made
from robench.suites.table import Entry, SuiteTable
from robench.training.fit import accuracy
from robench.training.jobs import claim_of, finished, outdated
from robench.trust.bounds import upper_bound
from robench.trust.diagnosis import record
from robench.trust.gates import Finding

# what a detector's figures say of images that nobody attacked, which no attack bounds
OF_CLEAN = ("acc_nadv", "false_positive_rate", "clean_accuracy")


@dataclass
class Reproduced:
    """The table, a sentence per model that could not be used or trained, what the diagnostics found, and whether a
    training went wrong."""

    table: SuiteTable
    refused: list[str]
    findings: list[Finding]
    failed: bool

    @property
    def complete(self) -> bool:
        """Whether every place of the table has its figure."""
        return all(entry.status == "complete" for entry in self.table.entries)


def reproduce(found: Plan, bench: Bench, planned: Mapping[str, Wanted] | None = None) -> Reproduced:
    """Do what is missing of a plan and fill its table; planned: what `estimate` opened on this bench.

    A model that cannot be used or trained leaves its places incomplete and the others alone. Raises DiskError where
    results cannot be kept.
    """
    found.setup.workers.check()
    opening = _Opening(bench, planned or {}, renewal=Renewal(found.setup.fresh))
    graph = [_training_node(t, bench.store) for t in found.trainings if not t.done]
    graph += [_opening_node(place, opening) for place in found.places if place.asked is not None]
    return _tabulated(found, run(graph, bench, found.setup.workers), opening)


def stored(found: Plan, bench: Bench, planned: Mapping[str, Wanted]) -> Reproduced:
    """The plan's table of what the store has, nothing trained or attacked.

    planned: what `estimate` opened on this bench. A place that lacks anything is incomplete. Raises DiskError where a
    summary cannot be kept.
    """
    opening, ended = _Opening(bench, planned), Ended()
    for place in found.places:
        if place.asked is not None and place.key in planned:
            try:
                opening.open(place, place.asked)
            except DiskError:
                raise
            except BadInput as error:
                ended.refused.setdefault(place.training.name, error)
    return _tabulated(found, ended, opening)


def _tabulated(found: Plan, ended: Ended, opening: _Opening) -> Reproduced:
    """The table of all places, those that are opened with their figures."""
    store, opened = opening.bench.store, opening.opened
    entries, findings = [], list[Finding]()
    owner = {place.key: place.training for place in found.places}
    for place in found.places:
        try:
            changed = isinstance(ended.refused.get(place.training.name), Changed)
            entry = _empty(place) if changed else _entry(place, opened.get(place.key), store)
            if place.asked is None and isinstance(place.training, Brought) and entry.figure is None:
                entry = _clean_of(entry, [w for key, w in opened.items() if owner.get(key) is place.training])
            entries.append(replace(entry, made=(*_trained(place.training, store), *entry.made)))
        except DiskError:
            raise
        except BadInput as error:  # what was stored is damaged, or cannot be measured
            ended.refused.setdefault(place.training.name, error)
            entries.append(_empty(place))
    models: list[Training | Brought] = [*found.trainings, *found.brought]
    for model in models:
        wanted = [opened[p.key] for p in found.places if p.training is model and p.key in opened]
        findings += _findings(model.name, wanted, store)
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
        asked = place.asked
        if asked is None or asked.guard or asked.request.cascade or asked.request.surrogates or asked.request.guide:
            continue
        wanted = open_place(place, asked, bench) if place.training.done else None
        if wanted is None or any(planned.missing for planned in wanted.evaluations):
            raise BadInput(
                f"The suite {found.suite.name!r} at scale {found.suite.scale} is not done ({place.training.name}, "
                f"{place.column.name}); run 'robench reproduce' with the suite and --scale {found.suite.scale} first."
            )
        ids |= dict.fromkeys(planned.job.spec.job_id for planned in wanted.evaluations)
    if not ids:
        raise BadInput(f"The suite {found.suite.name!r} has no column of a single white-box attack; name evaluations.")
    return list(ids)


def _training_node(training: Training, store: Store) -> Node:
    key = claim_of(training.name)
    return Node(key, TrainTask(key, store.root, training.request), rank=-1.0, subject=training.name, cell=key)


@dataclass
class _Opening:
    """Places on their way from planned to opened, which those are whose models answer as stored rows say."""

    bench: Bench
    planned: Mapping[str, Wanted]
    opened: dict[str, Wanted] = field(default_factory=dict)
    renewal: Renewal = field(default_factory=Renewal)
    recall: Recall = field(default_factory=Recall)

    def open(self, place: Place, asked: Resolved) -> Wanted:
        """The evaluations of a place. Raises BadInput where its model answers other than stored rows say."""
        wanted = self.renewal.of(self.planned.get(place.key) or open_place(place, asked, self.bench))
        for planned in wanted.evaluations:
            self.recall.check(planned.job, planned.address.how)
        wanted.target.model.release()
        self.opened[place.key] = wanted
        return wanted


def _opening_node(place: Place, opening: _Opening) -> Node:
    """Once the models are there, their digests are known, and with them the evaluations and what is missing of them."""
    needs = frozenset(claim_of(t.name) for t in place.needs if not t.done)
    then = partial(_open, place, opening)
    return Node(place.key, None, needs, rank=-0.5, subject=place.training.name, then=then)


def _open(place: Place, opening: _Opening) -> list[Node]:
    asked, classes = place.asked, place.training.dataset.classes
    assert asked is not None
    wanted = opening.open(place, asked)
    ranks = {each.name: float(cost_of(each, asked.request, classes).backwards or 0) for each in asked.attacks}
    return list(nodes(wanted.evaluations, place.training.name, ranks))


def _sentences(ended: Ended) -> list[str]:
    told = {str(error): None for error in ended.refused.values()}
    told |= {str(error): None for error in ended.failed.values() if isinstance(error, CheckFailed | Permanent)}
    return list(told)


def _empty(place: Place) -> Entry:
    return Entry(
        place.training.row.name, place.training.seed, place.training.name, place.column.name, None, "incomplete"
    )


def _entry(place: Place, wanted: Wanted | None, store: Store) -> Entry:
    """The figure of a place, or an incomplete one. Raises BadInput where what is stored is damaged."""
    empty = _empty(place)
    if place.asked is None:
        return _clean(empty, place.training, store)
    if wanted is None:
        return empty
    seal(wanted)
    results = [conclude(planned) for planned in wanted.evaluations]
    done = all(result.summary.complete for result in results)
    folders = (planned.job.folder for planned in wanted.evaluations)
    begun = [(result, folder) for result, folder in zip(results, folders, strict=True) if folder.path.exists()]
    found = replace(
        empty,
        evaluations=tuple(result.evaluation for result in results),
        flags=tuple(sorted({flag for result in results for flag in result.summary.flags})),
        gradients=sum(result.summary.backwards or 0 for result in results),
        metric=_metric(place, results),
        made=tuple(Made.of_result(result, folder) for result, folder in begun),
        drawn=results[-1].drawn,
    )
    boundary = any(result.boundary for result in results)
    if place.column.figure not in OF_CLEAN:
        found = replace(found, note=upper_bound(results[-1].norm, results[-1].metric, boundary))
    if not done:
        return found
    stood = _stood(place, wanted, results)
    figure = _figure(place, wanted, results) if stood is None else Figure(int(stood.sum()), len(stood))
    return replace(found, figure=figure, stood=stood, status="complete" if figure else "unmeasurable")


def _metric(place: Place, results: Sequence[Result]) -> str:
    """What the figure of a place counts: several attacks that are taken together count what none of them broke."""
    if place.column.figure is not None:
        return place.column.figure
    together = place.column.combine == "worst case" and place.asked is not None and len(place.asked.attacks) > 1
    return Measure.ROBUST if together else results[-1].metric


def _figure(place: Place, wanted: Wanted, results: Sequence[Result]) -> Figure | None:
    """The figure of a place whose evaluations are complete and that counts no images of its own."""
    if place.column.figure is not None:
        return _detected(place, wanted)
    if place.column.combine == "minimum":
        figures = (result.summary.figure for result in _shown(wanted, results))
        return min((figure for figure in figures if figure), key=lambda figure: figure.value)
    return None


def _shown(wanted: Wanted, results: Sequence[Result]) -> list[Result]:
    """The results that a place is about: behind a detector, those of the attacks on model and detector together."""
    behind = wanted.behind is not None
    pairs = zip(wanted.evaluations, results, strict=True)
    return [result for planned, result in pairs if planned.address.behind == behind]


def _stood(place: Place, wanted: Wanted, results: Sequence[Result]) -> Marks | None:
    """Which images the figure of a place counts, None where it is no count of images or none enters it."""
    if not place.column.by_image or place.asked is None:
        return None
    behind, shown = wanted.behind is not None, _shown(wanted, results)
    folders = {planned.job.spec.job_id: planned.job.folder for planned in wanted.evaluations}
    if len(shown) > 1 and not place.asked.request.cascade:
        request = place.asked.request
        access = access_of(behind, bool(request.surrogates), request.guide is not None) or WHITE_BOX
        tables = [folders[result.evaluation].rows(COUNTED) for result in entering(shown, access)]
        return standing(tables, wanted.target.dataset.classes if behind else None) if tables else None
    last = shown[-1]  # the last attack of a cascade has the finds of all before it
    return counted(folders[last.evaluation].rows(COUNTED), last.metric)


def _clean(empty: Entry, training: Training | Brought, store: Store) -> Entry:
    """Clean accuracy on the whole test set, as the model's card has it, or measured where the card's was another.

    A model of the user's own has a card where it was trained here; one of other data, of other code of its defense than
    today's, or from elsewhere is left empty.
    """
    if not _there(training, store) or (isinstance(training, Brought) and outdated(training.name, store)):
        return empty
    known, test = store.card(empty.model)["accuracy"], training.dataset.test
    share = known["test"]
    if known.get("test_digest") != test.digest:
        if isinstance(training, Brought):
            return empty
        share = accuracy(load_model(empty.model, store).module, test, training.job.device)
    figure = Figure(round(share * len(test)), len(test))
    return replace(empty, figure=figure, status="complete", metric="clean accuracy")


def _clean_of(empty: Entry, opened: Sequence[Wanted]) -> Entry:
    """Clean accuracy of a model of the user's own, on the images that it was attacked on."""
    for planned in (planned for wanted in opened for planned in wanted.evaluations):
        if not planned.missing and not planned.address.behind:
            figure = clean_figure(planned.job.folder.rows(COUNTED))
            return replace(empty, figure=figure, status="complete", metric="clean accuracy")
    return empty


def _there(model: Training | Brought, store: Store) -> bool:
    """Whether the store has a row's model as today's code trains it; one of the user's own, as it is."""
    if isinstance(model, Brought):
        return model.name in store.model_names()
    return finished(model.job, store) is not None


def _trained(model: Training | Brought, store: Store) -> tuple[Made, ...]:
    """What the training of a model took, nothing where it is not there."""
    return (Made.of_model(model.name, store.card(model.name)),) if _there(model, store) else ()


def _detected(place: Place, wanted: Wanted) -> Figure | None:
    """The column's figure of a detector, from the first attack's images."""
    assert wanted.behind is not None
    assert wanted.behind.watch is not None
    assert place.column.figure is not None
    first = wanted.evaluations[0]
    found = measure(wanted.behind.watch, wanted.target, first.job.folder, first.address.settings)
    figure = found.figures.shares[place.column.figure]
    return figure if figure.n else None


def _findings(name: str, wanted: Sequence[Wanted], store: Store) -> list[Finding]:
    """What the gates make of a model's plain white-box runs, where any is new; otherwise what they made of them."""
    found: list[Finding] = []
    seen: set[tuple[Any, ...]] = set()
    for planned in (planned for one in wanted for planned in one.evaluations if not planned.address.behind):
        spec = planned.job.spec
        key = (spec.model_digest, spec.data_digest, spec.norm, spec.count)
        if key in seen or spec.surrogate or spec.guide or spec.after or spec.below or planned.missing:
            continue
        seen.add(key)
        found += record(store, name, planned.job.folder)
    return found

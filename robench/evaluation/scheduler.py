"""Jobs through the store: what is missing is computed shard by shard, what is there is checked and summarised."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from robench.device import usual
from robench.errors import BadInput, DiskError
from robench.evaluation.address import Address
from robench.evaluation.attacks import check_cascade, resolve
from robench.evaluation.bench import Bench
from robench.evaluation.jobs import references
from robench.evaluation.progress_view import View
from robench.evaluation.renewal import Renewal
from robench.evaluation.request import Request
from robench.evaluation.same_answers import Recall
from robench.evaluation.sealing import lacks
from robench.evaluation.several import ladders
from robench.evaluation.summaries import Evaluated, collect
from robench.evaluation.tasks import executor_of
from robench.evaluation.wanted import Wanted, nodes, want, want_one
from robench.executors.graph import Ended, GraphRun, Node
from robench.executors.workers import Workers
from robench.progress import display
from robench.store.runs import Store
from robench.trust.seal import prepare


@usual()
def evaluate(
    request: Request, store: Store, workers: Workers | None = None, others: Sequence[Request] = ()
) -> Evaluated:
    """Compute what is missing of every (model, attack).

    others: the same request in other threat models and with other seeds, as `several.requests_of` makes them.

    A shard that fails makes its evaluation "incomplete"; a model that cannot be used does not keep the others from
    being evaluated. Raises BadInput for input that cannot be used, and where no model can.
    """
    bench = Bench(store)
    asked = [[resolve(each) for each in group] for group in ladders([request, *others])]
    if request.cascade:
        check_cascade(asked[0][0].attacks)
    if workers is not None:
        workers.check()
    place = request.dataset, request.data_root, request.classes
    sources = [bench.target(reference, *place) for reference in request.surrogates]
    guide = None if request.guide is None else bench.target(request.guide, *place)
    models = [
        partial(want, reference, group[0], sources, bench, group[1:], guide)
        for reference in references(request, store)
        for group in asked
    ]
    return _evaluate(models, bench, workers, Renewal(request.fresh))


@usual()
def evaluate_one(address: Address, store: Store) -> Evaluated:
    """Compute what is missing of the evaluation at one address. Raises BadInput as `evaluate`."""
    bench = Bench(store)
    return _evaluate([partial(want_one, address, bench)], bench)


def _evaluate(
    models: Iterable[Callable[[], Wanted]],
    bench: Bench,
    workers: Workers | None = None,
    renewal: Renewal | None = None,
) -> Evaluated:
    """models: what opens each, and says what is wanted of it."""
    renewal = renewal or Renewal()
    recall, refused, everything = Recall(), list[BadInput](), list[Wanted]()
    for opened in models:
        try:
            wanted = renewal.of(opened())
            for planned in wanted.evaluations:
                recall.check(planned.job, planned.address.how)
                planned.tell_begun()
            everything.append(wanted)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    prepare(wanted.target.model for wanted in everything if lacks(wanted))
    ended = run(
        [node for i, wanted in enumerate(everything) for node in nodes(wanted.evaluations, str(i))], bench, workers
    )
    found = Evaluated()
    for i, wanted in enumerate(everything):
        try:
            if str(i) in ended.refused:
                raise ended.refused[str(i)]
            collect(wanted, bench.store, found)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    if refused and not found.rows:
        raise refused[0]
    found.refused = list(dict.fromkeys(map(str, [*refused, *ended.hopeless.values()])))
    return found


def run(wanted: Iterable[Node], bench: Bench, workers: Workers | None = None) -> Ended:
    """Run nodes and say what failed. Raises DiskError where results cannot be kept."""
    wanted, view = list(wanted), View()
    if not wanted:
        return Ended()
    with display():
        executor = executor_of(workers or Workers(), bench, view.share)
        try:
            graph = GraphRun(executor, view)
            graph.add(wanted)
            return graph.finish()
        finally:
            executor.close()
            view.close()

"""Jobs through the store: what is missing is computed shard by shard, what is there is checked and summarised."""

from __future__ import annotations

from collections.abc import Iterable

from robench.errors import BadInput, DiskError
from robench.evaluation.jobs import (
    attacks_of,
    check_cascade,
    references,
)
from robench.evaluation.progress_view import View
from robench.evaluation.request import Request
from robench.evaluation.same_answers import Recall
from robench.evaluation.summaries import Evaluated, collect
from robench.evaluation.tasks import Bench, executor_of
from robench.evaluation.wanted import nodes, want
from robench.executors.graph import Ended, GraphRun, Node
from robench.executors.workers import Workers
from robench.progress import display
from robench.store.runs import Store


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
            for planned in wanted.evaluations:
                recall.check(planned.job, planned.request)
            everything.append(wanted)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    ended = run(
        [node for i, wanted in enumerate(everything) for node in nodes(wanted.evaluations, str(i))], bench, workers
    )
    found = Evaluated()
    for i, wanted in enumerate(everything):
        try:
            if str(i) in ended.refused:
                raise ended.refused[str(i)]
            collect(wanted, request, store, found)
        except DiskError:
            raise
        except BadInput as error:
            refused.append(error)
    if refused and not found.rows:
        raise refused[0]
    found.refused = [str(error) for error in refused]
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

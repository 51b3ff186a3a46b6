"""The evaluations that gradient-masking diagnostics rest on: attacks, transfer, larger eps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robench import registry
from robench.errors import BadInput
from robench.evaluation.bench import Bench
from robench.evaluation.imitation import imitation
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Evaluated, Result
from robench.progress import say
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.diagnosis import pixels_of, wider
from robench.trust.gates import Finding


def battery(request: Request, store: Store, surrogates: Sequence[str] = ()) -> tuple[list[Result], list[Finding]]:
    """What `robench diagnose` runs on a request's model: its attacks, transfer from each surrogate, larger eps.

    Where no surrogate is given, a small network learns the model's answers and is one. Returns the results of all
    evaluations and what the gates make of them; stops where one is incomplete.
    """
    done = _whole(evaluate(request, store))
    results = done.results
    steps = [replace(request, attacks=_transferred(request.threat), surrogates=[source]) for source in surrogates]
    if done.complete:
        steps = steps or _imitated(request, store)
        larger = wider(request.threat, pixels_of(store.evaluation(results[0].evaluation)))
        steps += [replace(request, attacks=["diagnosis-wide"], threat=threat) for threat in larger]
    for step in steps:
        if done.complete:
            done = _whole(evaluate(step, store))
            results = results + done.results
    return results, done.findings


def _imitated(request: Request, store: Store) -> list[Request]:
    """Transfer from a network that learnt the answers of the request's model, unless there are no training images."""
    target = Bench(store).target(request.models[0], request.dataset, request.data_root)
    try:
        source = imitation(target, request.settings.device, request.batch_size)
    except BadInput as error:
        say(f"No substitute learns the answers of {target.name}: {error}")
        return []
    return [replace(request, attacks=_transferred(request.threat), surrogates=[source], dataset=target.dataset.name)]


def _transferred(threat: ThreatModel) -> list[str]:
    """The attacks of the set "transfer" that there are in a norm; one at least, for pgd knows every norm."""
    plugins = [registry.load("attack", name) for name, _ in registry.expand(["transfer"])]
    return [plugin.name for plugin in plugins if threat.norm in plugin.build({}).norms] or ["pgd"]


def _whole(done: Evaluated) -> Evaluated:
    """What was evaluated. Raises BadInput where something cannot be, now or later."""
    if done.refused:
        raise BadInput(done.refused[0])
    return done

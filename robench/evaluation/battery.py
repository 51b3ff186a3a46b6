"""What gradient-masking diagnostics rest on: attacks, transfer, larger eps, and examples that are planted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from robench import registry
from robench.attack.gradient import kind_of
from robench.attack.judge import Examples
from robench.errors import BadInput
from robench.evaluation.attacks import resolve
from robench.evaluation.bench import Bench
from robench.evaluation.imitation import imitation
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Evaluated, Result
from robench.progress import bar, say
from robench.results.accuracy import Measure
from robench.results.rows import absent_classes
from robench.results.summary import label
from robench.store.runs import Store
from robench.threat import ThreatModel
from robench.trust.diagnosis import pixels_of, wider
from robench.trust.gates import Finding
from robench.trust.planted import IMAGES, planted

# test images among which those are that something is planted near: the first that are classified correctly
TRIED = 2 * IMAGES


def battery(request: Request, store: Store, surrogates: Sequence[str] = ()) -> tuple[list[Result], list[Finding]]:
    """What `robench diagnose` runs on a request's model: its attacks, transfer from each surrogate, larger eps.

    Where no surrogate is given, a small network learns the model's answers and is one. Returns the results of all
    evaluations and what the gates make of them, those that fired first; stops where one is incomplete. Whether attacks
    find what is planted is found out anew each time, and not kept in the store.
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
    found = done.findings + (_planted(request, store) if done.complete else [])
    return results, sorted(found, key=lambda finding: not finding.fired)


def _planted(request: Request, store: Store) -> list[Finding]:
    """Whether the request's attacks along gradients find what is planted in its model, if it has such attacks."""
    named = [each for each in resolve(request).attacks if Measure(each.metric) is Measure.ROBUST]
    climbing = [each for each in named if kind_of(each.attack, request.threat, each.access) == "iterative"]
    attacks = [(label(each.name, each.given), each.attack) for each in climbing]
    if not attacks:
        return []
    target = Bench(store).target(request.models[0], request.dataset, request.data_root, request.classes)
    count = min(request.count or TRIED, TRIED)
    test, part = target.dataset.drawn(target.dataset.way(count)), slice(0, count)
    examples = Examples(test.pixels(part), test.labels[part], test.ids[part])
    settings = request.settings
    module = target.module.to(settings.device)
    with bar("Planting examples") as shown:
        found = planted(module, target.dataset.classes, attacks, request.threat, examples, settings, shown.update)
    absent = absent_classes(pd.DataFrame({"label": test.labels[part].tolist()}), target.dataset.classes)
    also = f"; of these images {absent}" if absent else ""
    return [
        replace(each, evidence=each.evidence + also, model=target.name, model_digest=target.digest) for each in found
    ]


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
    plugins = [registry.load("attack", name) for name, _ in registry.expand(["transfer"], threat.norm)]
    return [plugin.name for plugin in plugins if threat.norm in plugin.build({}).norms] or ["pgd"]


def _whole(done: Evaluated) -> Evaluated:
    """What was evaluated. Raises BadInput where something cannot be, now or later."""
    if done.refused:
        raise BadInput(done.refused[0])
    return done

"""The evaluations that gradient-masking diagnostics rest on: attacks, transfer, larger eps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Result
from robench.store.runs import Store
from robench.trust.diagnosis import pixels_of, wider
from robench.trust.gates import Finding


def battery(request: Request, store: Store, surrogates: Sequence[str] = ()) -> tuple[list[Result], list[Finding]]:
    """What `robench diagnose` runs on a request's model: its attacks, transfer from each surrogate, larger eps.

    Returns the results of all evaluations and what the gates make of them; stops where one is incomplete.
    """
    done = evaluate(request, store)
    results = done.results
    steps = [replace(request, attacks=["transfer"], surrogates=[source]) for source in surrogates]
    if done.complete:
        larger = wider(request.threat, pixels_of(store.evaluation(results[0].evaluation)))
        steps += [replace(request, attacks=["diagnosis-wide"], threat=threat) for threat in larger]
    for step in steps:
        if done.complete:
            done = evaluate(step, store)
            results = results + done.results
    return results, done.findings

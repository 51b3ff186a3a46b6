"""The evaluations that gradient-masking diagnostics rest on: attacks, transfer, larger eps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def battery(
    request: Any, store: Any, surrogates: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What the command runs on the one model of a Request: its attacks, transfer from each surrogate, larger eps.

    Returns the summaries of all evaluations and what the gates make of them; stops where one is incomplete.
    """
    from dataclasses import replace

    from robench.evaluation.scheduler import evaluate
    from robench.trust.diagnosis import pixels_of, wider

    done = evaluate(request, store)
    rows = done.rows
    steps = [replace(request, attacks=["transfer"], surrogates=[source]) for source in surrogates]
    if all(row["status"] == "complete" for row in rows):
        larger = wider(request.threat, pixels_of(store.evaluation(rows[0]["evaluation"])))
        steps += [replace(request, attacks=["diagnosis-wide"], threat=threat) for threat in larger]
    for step in steps:
        if all(row["status"] == "complete" for row in rows):
            done = evaluate(step, store)
            rows = rows + done.rows
    return rows, done.findings

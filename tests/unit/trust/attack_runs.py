"""Runs of attacks made by hand, and what the gates say of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from robench import ThreatModel
from robench.trust.gates import AttackRun, Finding, diagnose

N, CLASSES = 200, 10  # 1% is two images; the gates want more than that


def rows_of(broken: Iterable[int], n: int = N) -> pd.DataFrame:
    """All images classified correctly before the attack, some misclassified after it, with honest gradients."""
    labels = [i % CLASSES for i in range(n)]
    hit = set(broken)
    return pd.DataFrame(
        {
            "example_id": range(n),
            "label": labels,
            "clean_correct": [True] * n,
            "adv_pred": [(y + 1) % CLASSES if i in hit else y for i, y in enumerate(labels)],
            "backwards": [7] * n,
            "zero_pixels": [0.1] * n,
            "flags": [""] * n,
        }
    )


def run(broken: Iterable[int], kind: str = "iterative", eps: str = "0.1", **given: Any) -> AttackRun:
    """A run that broke these images."""
    attack = given.get("attack", {"iterative": "pgd", "single-step": "fgsm", "query": "square"}.get(kind, kind))
    options, threat = given.get("options", {}), ThreatModel.of(given.get("norm", "linf"), eps)
    name = " ".join([attack, *(f"{key}={value}" for key, value in options.items())])
    rows = given.get("rows", rows_of(broken))
    more = given.get("pixels", 0), "", given.get("boundary", False)
    return AttackRun(name, attack, kind, options, threat, rows, given.get("flags", ()), *more)


def walk(broken: Iterable[int], kind: str = "iterative", **given: Any) -> AttackRun:
    """A run along the decision boundary that broke these images."""
    return run(broken, kind, **{"attack": "fab-t", "boundary": True, **given})


def fired(*runs: AttackRun) -> set[str]:
    return {finding.gate for finding in diagnose(runs) if finding.fired}


def found(gate: str, *runs: AttackRun) -> list[Finding]:
    return [finding for finding in diagnose(runs) if finding.gate == gate]


def honest() -> list[AttackRun]:
    """What `robench diagnose --surrogate` leaves of a model without secrets."""
    return [
        run(range(80), "single-step"),
        run(range(100), options={"steps": 40}),
        run(range(101), options={"steps": 80, "restarts": 2}),
        walk(range(2, 103)),
        run([0, 1], "noise"),
        run(range(30), "transfer", attack="pgd"),
        run(range(60), "query", options={"queries": 500}),
        run(range(170), eps="0.2", options={"steps": 40}),
        run(range(N), eps="0.5", options={"steps": 40}),
    ]

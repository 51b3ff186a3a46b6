"""robench diagnose: what smells of gradient masking in a model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from robench.cli import options as shared

Model = Annotated[
    str, typer.Argument(help="A trained model, file.py:factory, package.module:factory or torchvision:NAME.")
]
Attacks = Annotated[
    str | None,
    typer.Option("--attack", help="Attacks to run at --eps, with commas between (default: a small battery)."),
]
Surrogate = Annotated[
    list[str] | None, typer.Option("--surrogate", metavar="MODEL", help="Also transfer from this model; repeatable.")
]
Count = Annotated[int, typer.Option("-n", "--count", parser=shared.whole, metavar="N", help="First N test images.")]


def diagnose(
    model: Model,
    eps: Annotated[str | None, typer.Option("--eps", help="Perturbation in pixels; 8/255 by default in linf.")] = None,
    norm: Annotated[str, typer.Option("--norm", help="linf or l2.")] = "linf",
    attack: Attacks = None,
    count: Count = 200,
    surrogate: Surrogate = None,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Data (default: the model's own).")] = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Attack a model in ways that a sound figure must survive, and say which gates fired; exit code 1 if any did."""
    from robench.registry import check_attacks

    names = [name.strip() for name in (attack or "diagnosis").split(",") if name.strip()]
    check_attacks(names)
    from robench.jobs import Request
    from robench.scheduler import evaluate
    from robench.store import Store, runs_root
    from robench.threat import ThreatModel

    store, threat = Store(runs_root(runs)), ThreatModel.of(norm, eps)
    common: dict[str, Any] = {"dataset": dataset, "count": count, "seed": seed, "device": device, "data_root": data}
    evaluate(Request([model], names, threat, **common), store)
    for source in surrogate or []:
        evaluate(Request([model], ["transfer"], threat, surrogates=[source], **common), store)
    for wider in _wider(threat):
        done = evaluate(Request([model], ["diagnosis-wide"], wider, **common), store)
    if any(row["status"] != "complete" for row in done.rows):
        return 3
    return _print(done.findings, as_json)


def _wider(threat: Any) -> list[Any]:
    """Twice the eps, and in linf one that makes every image grey, as far as they differ."""
    from dataclasses import replace
    from fractions import Fraction

    if threat.norm != "linf":
        return [replace(threat, eps=2 * threat.eps)]
    half = Fraction(1, 2)
    return [replace(threat, eps=eps) for eps in sorted({min(2 * threat.eps, half), half})]


def _print(findings: list[dict[str, Any]], as_json: bool) -> int:
    if as_json:
        import json

        print(json.dumps({"diagnostics": findings}))
    else:
        from rich.console import Console

        from robench.report import findings_text

        Console().print(findings_text(findings, "Gradient masking"))
    return 1 if any(finding["fired"] for finding in findings) else 0

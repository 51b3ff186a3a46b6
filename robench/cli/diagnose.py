"""robench diagnose: what smells of gradient masking in a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from robench import norms
from robench.cli import options as shared
from robench.text.terminal import show, tell_json

if TYPE_CHECKING:
    from robench.trust.gates import Finding

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
    eps: Annotated[str | None, typer.Option("--eps", help=f"Perturbation in pixels; {norms.default_eps()}.")] = None,
    norm: Annotated[str, typer.Option("--norm", help=f"{norms.any_of(norms.NORMS)}.")] = norms.DEFAULT,
    attack: Attacks = None,
    count: Count = 200,
    surrogate: Surrogate = None,
    fresh: shared.Fresh = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Data (default: the model's own).")] = None,
    classes: shared.Classes = None,
    labels_from: shared.LabelsFrom = None,
    one_hot: shared.OneHot = False,
    layout: shared.Layout = None,
    range_: shared.Reach = None,
    seed: shared.Seed = 0,
    device: shared.Device = "auto",
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Attack a model in ways that a sound figure must survive, and say which gates fired; exit code 1 if any did.

    It also changes the last layer so that images near 30 tested ones are adversarial, and asks the attacks to find
    them: 300 forward passes for each, and what the attacks need.
    """
    from robench.registry import read_attacks

    names = read_attacks([attack or "diagnosis"])
    from robench.cli.data import named_data
    from robench.evaluation.battery import battery
    from robench.evaluation.request import Request
    from robench.store.runs import Store, runs_root
    from robench.threat import ThreatModel

    dataset, number = named_data(dataset, classes, labels_from, one_hot, layout, range_)
    request = Request(
        [model],
        names,
        ThreatModel.of(norm, eps),
        dataset=dataset,
        classes=number,
        count=count,
        seed=seed,
        device=device,
        data_root=data,
        fresh=fresh,
        probe=True,
    )
    results, findings = battery(request, Store(runs_root(runs)), surrogate or [])
    if not all(result.summary.complete for result in results):
        return 3
    about, n = results[0].about, results[0].summary.n
    where = f"{model}, {about.dataset}, {norm} eps {about.eps} and larger, n = {n:,}"
    where += f", {results[0].absent}" if results[0].absent else ""
    return _print(findings, f"Gradient masking: {where}", as_json)


def _print(findings: list[Finding], title: str, as_json: bool) -> int:
    if as_json:
        tell_json({"diagnostics": [finding.to_json() for finding in findings]})
    else:
        from robench.tables.report import findings_text

        show(findings_text(findings, title))
    return 1 if any(finding.fired for finding in findings) else 0

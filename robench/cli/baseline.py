"""robench baseline: keep outcomes in a file, for later checks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as shared
from robench.text.terminal import tell, tell_json

if TYPE_CHECKING:
    from robench.store.runs import Store


def baseline(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="EVALUATION...",
            help="Ids or their beginnings; a model's or a suite's name: all white-box ones of it.",
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE", help="The file to write.")],
    scale: Annotated[str, typer.Option("--scale", help="Of a suite: smoke, cpu, paper, or another it has.")] = "cpu",
    probes: shared.Probes = False,
    runs: shared.Runs = None,
    data: shared.Data = None,
    as_json: shared.Json = False,
) -> int:
    """Keep the outcomes of finished evaluations, example by example, in a small file to be checked against later."""
    from robench.regression.baseline import make, write
    from robench.regression.masking import unwitnessed
    from robench.store.runs import Store, runs_root
    from robench.trust.diagnosis import run_of

    store = Store(runs_root(runs))
    given = [each for name in names for each in _evaluations(name, scale, store, data)]
    made = make(given, store, out.name, probes=probes)
    write(made, out)
    held = [(each, run_of(store.evaluation(each.evaluation))) for each in made.kept]
    notes = list(unwitnessed(held).values())
    if as_json:
        kept = [{"evaluation": each.evaluation, "model": each.model, "attack": each.label, "n": each.spec.count}
                for each in made.kept]  # fmt: skip
        tell_json({"file": str(out), "evaluations": kept, "notes": notes})
    else:
        count = len(made.kept)
        what = f"{count} evaluation{'s' if count > 1 else ''} of {', '.join(made.models)}"
        tell(f"Wrote {out} ({out.stat().st_size / 1000:.1f} kB): {what}.")
        for sentence in notes:
            tell(sentence)
    return 0


def _evaluations(name: str, scale: str, store: Store, data: Path | None) -> list[str]:
    """The evaluations of a suite, or the name as it is."""
    from robench.suites.suite import load
    from robench.suites.suite import names as suites

    if name in store.model_names() or not (name in suites() or name.endswith(".toml")):
        return [name]
    from robench.suites.plan import Setup, plan
    from robench.suites.reproduce import evaluations

    return evaluations(plan(load(name).at(scale), Setup(data), store), store)

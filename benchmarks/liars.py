"""Classifiers broken on purpose, and honest ones, through what `robench evaluate --attack standard` or `robench
diagnose` runs. Example:

python benchmarks/liars.py standard-mnist --honest standard-mnist,madry-mnist --data ~/datasets --eps 0.2 -n 200

Every liar of tests/liars/zoo.py, and every player of tests/liars/players.py and cheats.py, which play against the
judge, is made from the trained MODEL. It must end within 5 points of the truth, be found or be refused; the honest
models must raise no false alarm. The sealed verdict is what a process that knows nothing of the attacks leaves of the
same images.

What an honest model is truly worth nobody knows: it is at most what AutoAttack and the battery leave together, which
`<=` says. Lines are printed in markdown as they are done. Runs against liars are thrown away, those against honest
models kept in the runs folder, whose runs count when it is used again.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from robench import BadInput, ThreatModel
from robench.evaluation.battery import battery
from robench.evaluation.request import Request
from robench.evaluation.scheduler import evaluate
from robench.evaluation.summaries import Evaluated, Result
from robench.models import load_model
from robench.results.summary import DIFFERS, NOT_SEALED
from robench.store.runs import Store, runs_root
from robench.tables.report import Report
from tests.liars.cheats import CHEATS, Keeping, KeepingInAFile
from tests.liars.players import PLAYERS, Remembering, ToDisk
from tests.liars.zoo import SCALES, TRUTH, ZOO

HEADERS = ("model", "clean", "truly robust", "PGD", "final", "sealed", "outcome", "gates and flags")
MARGIN = 0.05


def measure(
    reference: str | nn.Module,
    dataset: str | None,
    store: Store,
    arguments: argparse.Namespace,
    *,
    honest: bool = False,
) -> dict[str, Any]:
    """Clean accuracy, robust accuracy under PGD and in the worst case at eps, and what fired. May raise BadInput.

    For an honest model also the least that the battery and AutoAttack leave together.
    """
    threat = ThreatModel.of(arguments.norm, arguments.eps)
    request = Request(
        [reference], ["diagnosis"], threat, dataset=dataset, count=arguments.n, data_root=arguments.data,
        device=arguments.device,
    )  # fmt: skip
    if arguments.evaluate:
        attacks = ["standard"] if arguments.alone else ["pgd", "standard"]
        done = evaluate(replace(request, attacks=attacks), store)
        if done.refused or not done.complete:
            raise BadInput(done.refused[0] if done.refused else "incomplete")
        results, findings = done.results, done.findings
    else:
        results, findings = battery(request, store)
    at_eps = [result for result in results if result.about.eps == threat.eps_text]
    more = evaluate(replace(request, attacks=["autoattack"]), store).results if honest else []
    marks = {finding.gate: None for finding in findings if finding.fired}
    flags = [flag for result in results for flag in result.summary.flags]
    marks |= dict.fromkeys(flag if flag in (DIFFERS, NOT_SEALED) else flag.partition(" ")[0] for flag in flags)
    pgd = next((each for each in at_eps if each.attack == "pgd"), at_eps[0])
    return {
        "clean": pgd.summary.clean_accuracy,
        "alone": pgd.summary.value,
        "final": Report.of(Evaluated(at_eps), store).worst[0]["robust_accuracy"],
        "sealed": sealed(at_eps, store),
        "bound": Report.of(Evaluated(at_eps + more), store).worst[0]["robust_accuracy"],
        "fired": any(finding.fired for finding in findings) or any(result.summary.flags for result in results),
        "marks": ", ".join(marks),
    }


def sealed(results: list[Result], store: Store) -> str:
    """What the sealed process alone leaves of the images of all attacks, in percent; "none" without such a verdict."""
    standing = None
    for result in results:
        rows = store.evaluation(result.evaluation).rows()
        if "sealed_adv" not in rows:
            return "none"
        stands = (rows["sealed_adv"] == rows["label"]) & (rows["sealed_clean"] == rows["label"])
        standing = stands.to_numpy() if standing is None else standing & stands.to_numpy()
    return "none" if standing is None else _percent(float(np.mean(standing)))


def line(name: str, truth: str, found: dict[str, Any] | str, *, honest: bool = False) -> str:
    """One line of the table; `found` is a sentence where the model was refused."""
    if isinstance(found, str):
        return _joined([name, "-", truth, "-", "-", "-", "refused", found])
    close = honest or truth == "-" or 100 * found["final"] <= float(truth) + 100 * MARGIN
    outcome = ("true, " if close else "") + ("found" if found["fired"] else "unflagged" if close else "MISSED")
    if honest:
        outcome, truth = "alarm: look into it" if found["fired"] else "no alarm", f"<= {_percent(found['bound'])}"
    figures = (_percent(found[key]) for key in ("alone", "final"))
    return _joined([name, _percent(found["clean"]), truth, *figures, found["sealed"], outcome, found["marks"] or "-"])


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _joined(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Print the table of liars, then of honest models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a trained model, which the liars are made from")
    parser.add_argument("--honest", default="", metavar="NAMES", help="trained models to look at too, commas between")
    parser.add_argument("--only", action="append", metavar="LIAR", help="this liar, and others given so, and no more")
    parser.add_argument("--evaluate", action="store_true", help="what evaluate runs, not what diagnose runs")
    parser.add_argument("--alone", action="store_true", help="with --evaluate: standard without pgd beside it")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--eps", default="0.2")
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--device", default="auto")
    parser.add_argument("-n", type=int, default=200)
    arguments = parser.parse_args()
    store = Store(runs_root(arguments.runs))
    model = load_model(arguments.model, store)
    dataset = model.data.name if model.data else None
    print(f"{arguments.norm} eps {arguments.eps}, the first {arguments.n:,} test images of {dataset}; percent.\n")
    print(_joined(list(HEADERS)), _joined(["---"] * len(HEADERS)), sep="\n", flush=True)
    base = measure(arguments.model, None, store, arguments, honest=True)
    print(line(f"{arguments.model} (the base)", "", base, honest=True), flush=True)
    liars = ZOO | PLAYERS | CHEATS
    for name in arguments.only or liars:
        liar, _, scale = name.partition(" / ")
        if liar not in liars or scale not in {"", *SCALES}:
            parser.error(f"liar {name!r} is not known; there are {', '.join(map(repr, liars))}")
        try:
            with tempfile.TemporaryDirectory() as folder:
                module = liars[liar](model.module)
                module = SCALES[scale](module) if scale else module
                found: dict[str, Any] | str = measure(module, dataset, Store(Path(folder)), arguments)
        except BadInput as error:
            found = str(error)
        finally:  # what players keep on their classes and on disk
            Remembering.seen.clear()
            ToDisk.kept.unlink(missing_ok=True)
            Keeping.first = None
            KeepingInAFile.kept.unlink(missing_ok=True)
        truth = TRUTH.get(name, base["bound"])
        if truth == "clean":
            truth = found["clean"] if isinstance(found, dict) else None
        print(line(name, "-" if truth is None else _percent(truth), found), flush=True)
    for name in [each.strip() for each in arguments.honest.split(",") if each.strip()]:
        if name != arguments.model:
            print(line(name, "", measure(name, None, store, arguments, honest=True), honest=True), flush=True)


if __name__ == "__main__":
    main()

"""The MNIST table of the guess-first paper (Zhu, An & Niu, arXiv 2001.03311, Table 1) for our models. Example:

python benchmarks/guess_first.py c-dv-mnist c-js-mnist --surrogate standard-lenet5 --data ~/datasets --out leaderboards

Accuracy in percent under FGSM and PGD (40 steps of eps/30: 0.01 at 0.3) in linf and C&W in l2, white-box (_w) and
black-box (_b: crafted on the surrogate, whatever the target makes of it; with several surrogates, image by image the
worst). A line of the paper's printed values stands below each model it has.

The paper's attacks look for the nearest image and count it at every larger eps. --minimal does the same for FGSM and
PGD in the white-box columns, both eps from one run; the others attack at each eps by itself. A nearest image for a
surrogate seldom fools another model, so C&W crafted on one is a weak attack. The paper's black box is stronger there
(63.4 for its CNN) and says only that a substitute "guides" the attack, which may mean a search on the target along the
substitute's gradients.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import robench
from robench.errors import RobenchError
from robench.figures.curves import standing
from robench.progress import say
from robench.results.accuracy import Figure
from robench.store.files import write_text
from robench.store.runs import Store, runs_root

QUICK_CW = {"steps": 200, "search_steps": 5, "lr": 0.05, "initial_c": 0.01}
PAPER_CW = {"steps": 1000, "search_steps": 5, "lr": 0.005, "initial_c": 0.01}  # foolbox 2's defaults
EPS = ("0.15", "0.3")
COLUMNS = (
    "FGSM_b@0.15", "FGSM_b@0.3", "PGD_b@0.15", "PGD_b@0.3", "CW_b@2",
    "FGSM_w@0.15", "FGSM_w@0.3", "PGD_w@0.15", "PGD_w@0.3", "CW_w@2",
)  # fmt: skip
# defense -> the paper's name for it, clean accuracy and the columns above, Table 1
PRINTED: dict[str, tuple[str, tuple[float, ...]]] = {
    "standard": ("CNN", (98.8, 65.6, 16.0, 53.7, 8.4, 63.4, 40.8, 13.4, 4.4, 0.0, 1.5)),
    "c-dv": ("C-DV", (98.9, 84.7, 32.8, 84.1, 24.0, 76.0, 54.0, 23.8, 26.2, 4.8, 34.6)),
    "c-js": ("C-JS", (99.0, 88.0, 26.8, 85.0, 13.1, 74.4, 75.6, 74.4, 69.8, 29.7, 7.7)),
    "c-dv-ie": ("C-DV-IE", (98.9, 91.1, 44.6, 87.2, 27.7, 79.3, 58.7, 31.9, 38.0, 7.4, 38.8)),
    "c-js-ie": ("C-JS-IE", (99.0, 89.8, 40.6, 87.6, 27.0, 74.8, 82.8, 81.1, 78.0, 50.0, 9.6)),
    "alemi-cnn": ("Alemi et al.", (99.0, 83.6, 27.3, 74.3, 15.5, 66.7, 50.7, 19.1, 11.4, 1.0, 6.7)),
}


@dataclass(frozen=True)
class Run:
    """One evaluation, and the columns it fills: from name to eps."""

    attack: str
    options: dict[str, Any]
    norm: str
    eps: str
    columns: dict[str, str]
    transfer: bool = False


def plan(minimal: str | None, cw: dict[str, Any], surrogates: bool) -> list[Run]:
    """The evaluations of one model. `minimal` is the eps of the minimal-norm attacks, None for fixed ones."""
    runs = []
    for name, fixed, options in (("FGSM", "fgsm", {}), ("PGD", "pgd", {"steps": 40, "step": "eps/30"})):
        if surrogates:
            runs += [Run(fixed, options, "linf", eps, {f"{name}_b@{eps}": eps}, True) for eps in EPS]
        if minimal is None:
            runs += [Run(fixed, options, "linf", eps, {f"{name}_w@{eps}": eps}) for eps in EPS]
        else:
            runs.append(Run(f"min-{fixed}", {}, "linf", minimal, {f"{name}_w@{eps}": eps for eps in EPS}))
    if surrogates:
        runs.append(Run("cw", cw, "l2", "2", {"CW_b@2": "2"}, True))
    return [*runs, Run("cw", cw, "l2", "2", {"CW_w@2": "2"})]


def measure(model: str, run: Run, arguments: argparse.Namespace) -> dict[str, Figure]:
    """The figures of the run's columns, and clean accuracy."""
    report = robench.evaluate(
        model, attacks=run.attack, eps=run.eps, norm=run.norm, options=run.options, count=arguments.n,
        runs=arguments.runs, data=arguments.data, surrogates=arguments.surrogate if run.transfer else [],
    )  # fmt: skip
    if not report.complete:
        raise RobenchError(f"{run.attack} on {model} is incomplete; run the same command again.")
    store = Store(runs_root(arguments.runs))
    tables: list[pd.DataFrame] = [store.evaluation(row["evaluation"]).rows() for row in report.rows]
    found = {"Clean": Figure(int(tables[0]["clean_correct"].sum()), len(tables[0]))}
    for column, eps in run.columns.items():
        left = np.logical_and.reduce([standing(rows, run.norm, float(eps)) for rows in tables])
        found[column] = Figure(int(left.sum()), len(left))
    return found


def printed(model: str, store: Store) -> tuple[str, tuple[float, ...]] | None:
    """What the paper prints for a model's defense, if it is one of the paper's on MNIST."""
    if model not in store.model_names():
        return None
    card = store.card(model)
    return PRINTED.get(card["defense"]) if card["data"]["name"] == "mnist" else None


def write(out: Path, lines: list[list[str]], rows: list[tuple[str, dict[str, Figure]]]) -> None:
    """The table as markdown with the paper's lines, and ours as csv with 95% Wilson intervals."""
    text = "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])
    write_text(out / "guess-first-mnist.md", f"# Guess first on MNIST\n\n{__doc__}\n{text}\n")
    with (out / "guess-first-mnist.csv").open("w", newline="") as handle:
        table = csv.writer(handle, lineterminator="\n")
        table.writerow(["model", "column", "n", "accuracy", "low", "high"])
        for model, found in rows:
            for column, figure in found.items():
                ends = [f"{value:.6g}" for value in (figure.value, *figure.interval)]
                table.writerow([model, column, figure.n, *ends])


def main() -> None:
    """Measure model by model, print each line as it is done, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--surrogate", nargs="+", action="extend", default=[], metavar="MODEL")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument(
        "--minimal", nargs="?", const="1", metavar="EPS", help="min-fgsm and min-pgd up to EPS (1), white-box"
    )
    parser.add_argument("--paper", action="store_true", help="C&W with 1000 steps per value of c, as in foolbox 2")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    lines, rows = [["model", "Clean", *COLUMNS]], []
    print(" | ".join(lines[0]), flush=True)
    for model in arguments.models:
        found: dict[str, Figure] = {}
        for run in plan(arguments.minimal, PAPER_CW if arguments.paper else QUICK_CW, bool(arguments.surrogate)):
            try:
                found |= measure(model, run, arguments)
            except RobenchError as error:
                say(f"{model} {run.attack}: {error}")
        rows.append((model, found))
        ours = [f"{100 * found[name].value:.1f}" if name in found else "-" for name in lines[0][1:]]
        theirs = printed(model, Store(runs_root(arguments.runs)))
        new = [[model, *ours]]
        new += [[f"printed: {theirs[0]}", *map(str, theirs[1])]] if theirs else []
        print("\n".join(" | ".join(line) for line in new), flush=True)
        lines += new
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        write(arguments.out, lines, rows)


if __name__ == "__main__":
    main()

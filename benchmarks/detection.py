"""Detectors on MNIST as in the ER-Classifier paper's supplement (Li et al., 2021), beside its printed values. Example:

python benchmarks/detection.py er-classifier-mnist --data ~/datasets --out leaderboards

Each detector learns from attacked validation images (FGSM, PGD or C&W) and is tested on attacked test images. The
paper does not say what its ER1 and ER2 are, so both are printed as a band and ours goes under its own name.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import robench
from robench.detector.request import DetectorRequest
from robench.errors import RobenchError
from robench.progress import say

QUICK_CW = {"steps": 200, "search_steps": 5, "lr": 0.05, "initial_c": 0.01}
LEARNT = {
    "FGSM": ("fgsm@linf:0.3", {}),
    "PGD": ("pgd@linf:0.3", {"steps": 40, "step": "0.01"}),
    "C&W": ("cw@l2:5", QUICK_CW),
}
# test attack -> attack, options, norm, eps, images
TESTED: dict[str, tuple[str, dict[str, Any], str, str, int]] = {
    "FGSM": ("fgsm", {}, "linf", "0.3", 1000),
    "PGD": ("pgd", {"steps": 40, "step": "0.01"}, "linf", "0.3", 1000),
    "C&W": ("cw", QUICK_CW, "l2", "5", 100),
    "C&W kappa 9": ("cw", {**QUICK_CW, "kappa": 9.0}, "l2", "5", 100),
}
# (detector, learnt from, tested on) -> printed ACC-NADV and ACC-COM, in percent: supplement, Tables 3 to 6, MNIST
PRINTED = {
    ("kd", "FGSM", "C&W kappa 9"): "63.5 / 11.0",
    ("lid", "FGSM", "C&W kappa 9"): "57.0 / 11.0",
    ("er-kde", "FGSM", "C&W kappa 9"): "80.0-83.0 / 100.0",
    ("kd", "PGD", "C&W kappa 9"): "74.0 / 11.0",
    ("lid", "PGD", "C&W kappa 9"): "83.0 / 11.0",
    ("er-kde", "PGD", "C&W kappa 9"): "73.0-80.5 / 100.0",
    ("kd", "C&W", "C&W kappa 9"): "69.5 / 11.0",
    ("lid", "C&W", "C&W kappa 9"): "98.5 / 11.0",
    ("er-kde", "C&W", "C&W kappa 9"): "87.0-89.5 / 11.0-100.0",
    ("er-kde", "PGD", "PGD"): "97.4-97.9 / 44.1-63.8",
    ("er-kde", "FGSM", "FGSM"): "94.8-96.5 / 76.7-81.2",
    ("er-kde", "C&W", "C&W"): "96.0-98.7 / 99.9-100.0",
}
HEADERS = (
    "model", "detector", "learnt from", "tested on", "attacked", "broken", "acc_nadv", "acc_com", "auc",
    "detection_rate", "false_positive_rate", "robust_accuracy", "printed nadv / com",
)  # fmt: skip


def measure(model: str, detector: str, learnt: str, tested: str, arguments: argparse.Namespace) -> list[object]:
    """One line of the table."""
    attack, options, norm, eps, n = TESTED[tested]
    source, source_options = LEARNT[learnt]
    guard = DetectorRequest(detector, {}, source, source_options, images=arguments.images, adaptive=False)
    report = robench.evaluate(
        model, attacks=[attack], eps=eps, norm=norm, options=options, count=n, detector=guard, runs=arguments.runs,
        data=arguments.data,
    )  # fmt: skip
    found = report.detections[0]
    printed = PRINTED.get((detector, learnt, tested), "")
    return [model, detector, learnt, tested, *(found[name] for name in HEADERS[4:-1]), printed]


def cell(name: str, value: object) -> str:
    """A share in percent, anything else as it is."""
    if not isinstance(value, float):
        return "-" if value is None else str(value)
    return f"{value:.3f}" if name == "auc" else f"{100 * value:.1f}"


def main() -> None:
    """Measure every combination, print the table as it grows, and write it as csv and markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--detectors", default="er-kde,kd,lid")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--images", type=int, default=500, help="validation images attacked to fit a detector")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for model in arguments.models:
        for detector in arguments.detectors.split(","):
            for learnt in LEARNT:
                for tested in (learnt, "C&W kappa 9"):
                    try:
                        rows.append(measure(model, detector, learnt, tested, arguments))
                        print(" | ".join(map(cell, HEADERS, rows[-1])), flush=True)
                    except RobenchError as error:
                        say(f"{model} {detector} {learnt} {tested}: {error}")
    if arguments.out:
        with (arguments.out / "detection-mnist.csv").open("w", newline="") as handle:
            csv.writer(handle, lineterminator="\n").writerows([HEADERS, *rows])
        lines = [HEADERS, ["---"] * len(HEADERS), *(map(cell, HEADERS, row) for row in rows)]
        text = "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
        (arguments.out / "detection-mnist.md").write_text(f"# Detectors on MNIST\n\n{__doc__}\n{text}\n")


if __name__ == "__main__":
    main()

"""From rows to figures: shares with intervals, the per-example worst case, and the flags that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from robench.results.statistics import wilson

# flags of single images, each shown where more than this share of the attacked images has it
SHOWN_SHARE = {"zero-gradient": 0.05, "borderline": 0.01, "non-finite": 0.0, "invalid-proposal": 0.0}
# a model with one of these flags gives other rows in the next run, or in other batches
UNSTABLE = ("randomised", "batch-dependent", "changes-its-state", "changes-its-answers")
# the columns of rows that clean accuracy, an attack's figure and the worst case are computed from
COUNTED = ("example_id", "label", "adv_pred", "clean_correct", "success")


@dataclass(frozen=True)
class Figure:
    """A share of n examples with its 95% Wilson interval."""

    count: int
    n: int

    @property
    def value(self) -> float:
        """The share as a fraction."""
        return self.count / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the 95% Wilson interval."""
        return wilson(self.count, self.n)

    def text(self) -> str:
        """Percent, such as "91.4 [89.5, 93.0]"."""
        low, high = self.interval
        return f"{100 * self.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def label(attack: str, options: dict[str, Any], against: str = "") -> str:
    """An attack's name with the options that were given and what it was up against: "pgd (steps=40) + er-kde"."""
    given = ", ".join(f"{k}={v}" for k, v in sorted(options.items()))
    return (f"{attack} ({given})" if given else attack) + against


def clean_figure(rows: pd.DataFrame) -> Figure:
    """Clean accuracy over all rows."""
    return Figure(int(rows["clean_correct"].sum()), len(rows))


def attack_figure(rows: pd.DataFrame, metric: str) -> Figure:
    """Robust accuracy (correct and not broken), or attack success rate (success), over all rows."""
    counted = rows["success"] if metric == "attack success rate" else rows["clean_correct"] & ~rows["success"]
    return Figure(int(counted.sum()), len(rows))


def worst_case(tables: list[pd.DataFrame], rejected: int | None = None) -> Figure:
    """The share of examples classified correctly that no attack broke, example by example.

    The tables are rows of several attacks on the same examples in the same order; a ValueError says where they differ.
    An example is broken by an attack when its adversarial image is misclassified, whatever class was aimed at; behind a
    detector, whose class for what it rejects is `rejected`, only when it is accepted too.
    """
    first = tables[0]
    standing = first["clean_correct"].to_numpy(dtype=bool).copy()
    for rows in tables:
        if not np.array_equal(rows["example_id"].to_numpy(), first["example_id"].to_numpy()):
            raise ValueError("worst case over attacks needs the same examples for each")
        answers = rows["adv_pred"].to_numpy()
        stood = answers == rows["label"].to_numpy()
        standing &= stood if rejected is None else stood | (answers == rejected)  # an answer of -1 was not finite
    return Figure(int(standing.sum()), len(first))


def evaluation_flags(rows: pd.DataFrame, shard_flags: list[list[str]]) -> list[str]:
    """The model's flags in any shard, and those of single images where enough of them have it."""
    flags = {flag for flags in shard_flags for flag in flags}
    attacked = int((rows["trial"] >= 0).sum())
    texts = rows["flags"].fillna("").astype(str)
    for name, least in SHOWN_SHARE.items():
        share = int(texts.str.contains(name, regex=False).sum()) / max(attacked, 1)
        if share > least:
            flags.add(f"{name} {share:.0%}" if share >= 0.005 else f"{name} <1%")
    return sorted(flags)


def _mixed(notes: list[dict[str, Any]]) -> list[str]:
    """A flag where shards were made with different versions or on different kinds of devices."""
    known = [note["made_with"] for note in notes if "made_with" in note]
    return ["mixed-environments"] if any(each != known[0] for each in known) else []


def summarise(rows: pd.DataFrame, metric: str, notes: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of a finished evaluation as JSON types, accuracies as fractions."""
    clean, figure = clean_figure(rows), attack_figure(rows, metric)
    return {
        "n": figure.n,
        "clean_accuracy": clean.value,
        "clean_interval": list(clean.interval),
        "robust_accuracy" if metric == "robust accuracy" else "attack_success_rate": figure.value,
        "interval": list(figure.interval),
        "forwards": int(rows["forwards"].sum()),
        "backwards": int(rows["backwards"].sum()),
        "seconds": round(sum(float(note.get("seconds", 0)) for note in notes), 2),
        "flags": evaluation_flags(rows, [*(list(note.get("flags", [])) for note in notes), _mixed(notes)]),
        "status": "complete",
    }

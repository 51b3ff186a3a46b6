"""From rows to figures: shares with intervals, the per-example worst case, and the flags that go with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from robench.results.statistics import wilson

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

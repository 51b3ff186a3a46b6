"""From rows to figures: shares with intervals, and the worst case, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from robench.results import rows as of
from robench.results.statistics import wilson

if TYPE_CHECKING:  # takes its time to load, and what is intact needs none of it
    import pandas as pd


class Measure(StrEnum):
    """What an attack's figure counts, by its name in records and tables."""

    ROBUST = "robust accuracy"
    SUCCESS = "attack success rate"

    @property
    def key(self) -> str:
        """The figure's name in JSON."""
        return self.replace(" ", "_")

    @property
    def lower_is_better(self) -> bool:
        """Whether a lower figure speaks for the defense."""
        return self is Measure.SUCCESS

    @property
    def mark(self) -> str:
        """What stands behind the figure where both kinds share a column."""
        return " †" if self.lower_is_better else ""


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
    return Figure(int(of.correct(rows).sum()), len(rows))


def counted(rows: pd.DataFrame, measure: str) -> of.Marks:
    """Which images an attack's figure counts, bool [n]: those it succeeded on, or those that stood."""
    won = of.succeeded(rows)
    return won if Measure(measure) is Measure.SUCCESS else of.correct(rows) & ~won


def attack_figure(rows: pd.DataFrame, measure: str) -> Figure:
    """Robust accuracy (correct and not broken), or attack success rate (success), over all rows."""
    return Figure(int(counted(rows, measure).sum()), len(rows))


# what an attack that enters the worst case of a model alone is up against
WHITE_BOX = "white-box"


class Judged(Protocol):
    """What a worst case asks of an evaluation: what the attack was up against, and what its figure counts."""

    @property
    def access(self) -> str:
        """ "white-box", "noise", "transfer", "guided" or "detector"."""

    @property
    def metric(self) -> str:
        """The name of its `Measure`."""


J = TypeVar("J", bound=Judged)


def enters(access: str, of: str = WHITE_BOX) -> bool:
    """Whether what an attack is up against lets it into the worst case of a model alone, or into that `of` others."""
    return access == of


def entering(evaluations: Iterable[J], access: str = WHITE_BOX) -> list[J]:
    """Those evaluations of one model on the same images that its worst case within one threat model is taken over.

    They are the white-box ones: transfer, another model's gradients, detectors and noise have figures of their own, all
    but the last with a worst case of their own `access`. A targeted attack counts with every image that it broke,
    whatever class it aimed at; but where no attack is there whose own figure is robust accuracy, nothing was meant to
    find the worst case, and none enters.
    """
    found = [each for each in evaluations if enters(each.access, access)]
    return found if any(each.metric == Measure.ROBUST for each in found) else []


def standing(tables: Sequence[pd.DataFrame], rejected: int | None = None) -> of.Marks:
    """Which examples are classified correctly and broken by no attack, example by example, bool [n].

    The tables are rows of several attacks on the same examples in the same order; a ValueError says where they differ.
    rejected: behind a detector, its class for what it rejects.
    """
    first = tables[0]
    found = of.correct(first).copy()
    for rows in tables:
        if not np.array_equal(rows["example_id"].to_numpy(), first["example_id"].to_numpy()):
            raise ValueError("worst case over attacks needs the same examples for each")
        found &= ~of.misled(rows, rejected)
    return found


def worst_case(tables: Sequence[pd.DataFrame], rejected: int | None = None) -> Figure:
    """The share of examples that are left `standing`."""
    return Figure(int(standing(tables, rejected).sum()), len(tables[0]))

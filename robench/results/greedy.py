"""The cheapest order of attacks that breaks what all of them break together, from what each broke at what cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robench.results.rows import Marks


@dataclass(frozen=True)
class Tried:
    """What is known of one attack on n images: which it tried, which of those it broke (bool [n]), and the passes that
    it spent on each (int64 [n], forward passes and twice the backward ones)."""

    name: str
    tried: Marks
    broke: Marks
    passes: NDArray[np.int64]

    def cost(self, standing: Marks) -> float:
        """What it would take on the images of `standing`, bool [n]: by its means over those that it broke and those
        that it left standing. One that it never tried is taken for one that it would leave."""
        wins = standing & self.broke
        left = self.tried & ~self.broke
        won, lost = self._mean(self.broke), self._mean(left if left.any() else self.tried)
        return won * int(wins.sum()) + lost * int((standing & ~wins).sum())

    def _mean(self, which: Marks) -> float:
        return float(self.passes[which].mean()) if which.any() else 0.0

    def beside(self, other: Tried) -> Tried:
        """The same attack as seen in two evaluations; the first one counts where both tried an image."""
        more = other.tried & ~self.tried
        return Tried(
            self.name, self.tried | more, self.broke | (more & other.broke), np.where(more, other.passes, self.passes)
        )


@dataclass(frozen=True)
class Step:
    """One attack of an order: on how many images, how many of them it breaks, how many it leaves, the passes that are
    expected in all, and how many of the images it has never tried."""

    attack: Tried
    images: int
    broken: int
    standing: int
    cost: float
    unknown: int

    @property
    def passes(self) -> float:
        """Passes per image that it is shown."""
        return self.cost / self.images if self.images else 0.0


def greedy(attacks: Sequence[Tried], correct: Marks) -> list[Step]:
    """The order: again and again the attack that breaks most per pass of what still stands, until none breaks more.

    correct: the images that count, bool [n]. An attack that the later ones make needless is left out again where that
    is cheaper.
    """
    order: list[Tried] = []
    standing, left = correct.copy(), list(attacks)
    while left:
        gains = [int((standing & each.broke).sum()) for each in left]
        rates = [gain / max(each.cost(standing), 1e-9) for gain, each in zip(gains, left, strict=True)]
        best = max(range(len(left)), key=lambda i: (rates[i], gains[i], left[i].name))
        if not gains[best]:
            break
        order.append(left.pop(best))
        standing &= ~order[-1].broke
    return _steps(_pruned(order, correct), correct)


def _pruned(order: list[Tried], correct: Marks) -> list[Tried]:
    for each in list(order):
        without = [other for other in order if other is not each]
        if _final(without, correct) == _final(order, correct) and _total(without, correct) < _total(order, correct):
            order = without
    return order


def _final(order: Sequence[Tried], correct: Marks) -> int:
    return _steps(order, correct)[-1].standing if order else int(correct.sum())


def _total(order: Sequence[Tried], correct: Marks) -> float:
    return sum(step.cost for step in _steps(order, correct))


def _steps(order: Sequence[Tried], correct: Marks) -> list[Step]:
    found, standing = [], correct
    for each in order:
        after = standing & ~each.broke
        shown, unknown = int(standing.sum()), int((standing & ~each.tried).sum())
        found.append(Step(each, shown, shown - int(after.sum()), int(after.sum()), each.cost(standing), unknown))
        standing = after
    return found

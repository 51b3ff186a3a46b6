"""Intervals for shares of examples, and tests of whether a share changed between two runs on the same examples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share count/n (Wilson, 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    interval = _binomial(count, n).proportion_ci(confidence_level=confidence, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_ends(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The same by its formula, to about ten digits, for checking what is stored: scipy takes its time to load."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n)


def mcnemar(fell: int, rose: int) -> float:
    """The exact two-sided p of McNemar's test (McNemar, 1947): examples that changed did so at even odds.

    fell, rose: how many examples changed one way and the other; those that stayed say nothing. 1.0 where none changed.
    """
    return float(_binomial(fell, fell + rose, 0.5).pvalue) if fell + rose else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """The p values adjusted for being several (Holm, 1979), in the same order: rejecting those below alpha keeps the
    chance of any false alarm among them below alpha."""
    adjusted, least = [1.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = least
    return adjusted


def paired_interval(fell: int, rose: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the change of a share on the same n examples, (rose - fell)/n; (-1, 1) where n is 0.

    The adjusted Wald interval of Bonett and Price (2012): one more example is counted among those that fell, and one
    among those that rose.
    """
    if n == 0:
        return -1.0, 1.0
    down, up = (fell + 1) / (n + 2), (rose + 1) / (n + 2)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    half = z * math.sqrt((down + up - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def _binomial(count: int, n: int, share: float = 0.5) -> Any:
    """scipy's binomial test, loaded on use: it takes longer than most commands."""
    from scipy.stats import binomtest

    return binomtest(count, n, share)

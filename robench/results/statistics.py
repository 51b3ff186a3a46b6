"""Intervals for shares of examples, and tests of whether a share changed between two runs on the same examples."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from statistics import NormalDist


def wilson(count: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a share count/n (Wilson, 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    low, high = wilson_ends(count / n, n, confidence)
    return 0.0 if count == 0 else low, 1.0 if count == n else high


def wilson_ends(share: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """The same of a share, up to rounding: at a share of 0 or 1 an end may miss it by a little."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    center, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return (center - half) / (1 + z * z / n), (center + half) / (1 + z * z / n)


def mcnemar(fell: int, rose: int) -> float:
    """The exact two-sided p of McNemar's test (McNemar, 1947): examples that changed did so at even odds.

    fell, rose: how many examples changed one way and the other; those that stayed say nothing. 1.0 where none changed.
    """
    return min(1.0, 2 * at_most(min(fell, rose), fell + rose, 0.5)) if fell + rose else 1.0


def at_most(count: int, n: int, share: float) -> float:
    """The chance that at most so many of n independent draws succeed, each at that share: the binomial's lower tail."""
    # on use, and not scipy.stats, which takes longer to load than most commands take
    from scipy.special import bdtr

    return float(bdtr(count, n, share)) if count >= 0 else 0.0


def at_least(count: int, n: int, share: float) -> float:
    """The chance that at least so many of them succeed."""
    from scipy.special import bdtrc

    return float(bdtrc(count - 1, n, share)) if count > 0 else 1.0


def most_by_luck(confidence: float, n: int, share: float) -> int:
    """The smallest number that at most so many succeed with that confidence or more: the binomial's quantile."""
    return bisect_left(range(n), confidence, key=lambda count: at_most(count, n, share))


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

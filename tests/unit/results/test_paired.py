"""Pairs of outcomes: the counts, scipy's and the binomial's own p, and an interval that covers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from robench.results.paired import Paired


def by_hand(b: int, c: int) -> float:
    """McNemar's exact p from the binomial's definition: twice the smaller tail of b of b + c at even odds."""
    n = b + c
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    return min(1.0, 2 * tail)


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (0, 7), (5, 13), (30, 30), (120, 80), (3, 900)])
def test_p_is_mcnemars_exact_one(b: int, c: int) -> None:
    pair = Paired("clean", 10, b, c, 4)
    assert pair.p == pytest.approx(by_hand(b, c), rel=1e-9)
    if b + c:
        assert pair.p == pytest.approx(binomtest(b, b + c, 0.5).pvalue, rel=1e-12)


def test_counts_come_from_marks_and_add_up() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(500) < 0.7, rng.random(500) < 0.5
    pair = Paired.of("pgd", a, b)
    assert pair.n == 500
    assert pair.shares == (a.mean(), b.mean())
    assert pair.difference == pytest.approx(a.mean() - b.mean())
    low, high = pair.interval
    assert low < pair.difference < high
    flipped = Paired.of("pgd", b, a)
    assert flipped.p == pair.p
    assert flipped.interval == pytest.approx((-high, -low))


def test_the_interval_covers_the_true_difference_about_as_often_as_it_says() -> None:
    rng, n, covered = np.random.default_rng(1), 200, 0
    for _ in range(400):  # both right 50%, only a 20%, only b 10%, neither 20%: the true difference is 10 points
        drawn = rng.multinomial(n, [0.5, 0.2, 0.1, 0.2])
        low, high = Paired("x", *map(int, drawn)).interval
        covered += low <= 0.1 <= high
    assert 0.92 <= covered / 400 <= 0.985

"""Our intervals and tails beside scipy.stats, which takes too long to load for every command."""

from __future__ import annotations

import pytest
from scipy.stats import binom, binomtest

from robench.results.statistics import at_least, at_most, mcnemar, most_by_luck, wilson

SHARES = (0.001, 0.1, 0.5, 0.93, 1.0)


@pytest.mark.parametrize("n", [1, 2, 17, 1000, 10_000])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_s_interval(n: int, confidence: float) -> None:
    for count in {0, 1, n // 3, n - 1, n}:
        right = binomtest(count, n).proportion_ci(confidence, method="wilson")
        assert wilson(count, n, confidence) == pytest.approx((right.low, right.high), rel=1e-12, abs=1e-15)
    assert (wilson(0, n)[0], wilson(n, n)[1]) == (0.0, 1.0)


@pytest.mark.parametrize("n", [1, 2, 17, 1000, 10_000])
@pytest.mark.parametrize("share", SHARES)
def test_the_binomial_s_tails_and_quantiles(n: int, share: float) -> None:
    for count in {0, 1, n // 100, n // 3, n - 1, n}:
        assert at_most(count, n, share) == pytest.approx(binom.cdf(count, n, share), rel=1e-9, abs=1e-300)
        assert at_least(count, n, share) == pytest.approx(binom.sf(count - 1, n, share), rel=1e-9, abs=1e-300)
    assert (at_most(-1, n, share), at_least(0, n, share), at_least(n + 1, n, share)) == (0.0, 1.0, 0.0)
    for confidence in (0.01, 0.5, 0.99, 0.9999):
        assert most_by_luck(confidence, n, share) == binom.ppf(confidence, n, share)


def test_mcnemar_s_exact_p() -> None:
    for fell in range(0, 40, 3):
        for rose in (0, 1, 2, fell, 5 * fell + 7):
            right = binomtest(fell, fell + rose, 0.5).pvalue if fell + rose else 1.0
            assert mcnemar(fell, rose) == pytest.approx(right, rel=1e-12)

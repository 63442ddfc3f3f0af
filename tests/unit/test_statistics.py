"""Intervals against SciPy and by their definition."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from spikeproof.errors import InputError
from spikeproof.statistics import wilson


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (8, 10), (0, 50), (50, 50), (997, 1000)])
def test_whole_counts_agree_with_scipy(k, n, confidence):
    wanted = binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_the_bounds_hold_the_share_and_lie_one_quantile_away(case):
    k, n = case
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    for bound in (low, high):  # the definition: |p - bound| = z sqrt(bound (1 - bound) / n)
        distance = norm.ppf(0.975) * math.sqrt(bound * (1 - bound) / n)
        assert abs(k / n - bound) == pytest.approx(distance, abs=1e-6)


@pytest.mark.parametrize(
    ("k", "n", "confidence"),
    [(1, 0, 0.95), (-1, 5, 0.95), (6, 5, 0.95), (math.nan, 5, 0.95), (1, 5, 0.0), (1, 5, 1.0)],
)
def test_what_is_no_share_is_refused(k, n, confidence):
    with pytest.raises(InputError, match=r"wilson\(\)"):
        wilson(k, n, confidence)

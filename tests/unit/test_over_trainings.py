"""Means and differences over trainings and images, against SciPy and by their coverage in simulations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.statistics import (
    bootstrap_difference,
    bootstrap_mean,
    compare_trainings,
    over_seeds,
    over_trainings,
    wilson,
)


def random(m, n, seed=0, chance=0.6):
    return (np.random.default_rng(seed).random((m, n)) < chance).astype(float)


def test_the_interval_over_trainings_is_that_of_students_t():
    found = over_trainings(random(5, 40))
    mean, ends = over_seeds(random(5, 40).mean(1))
    assert found.mean == pytest.approx(mean)
    assert found.trainings == pytest.approx(ends)


def test_where_trainings_agree_what_remains_is_the_interval_over_images():
    row, z2 = random(1, 4000), stats.norm.ppf(0.975) ** 2
    found = over_trainings(np.repeat(row, 40, 0))
    share = (row.sum() + z2 / 2) / (4000 + z2)
    half = stats.t.ppf(0.975, 3999) * (share * (1 - share) / (4000 + z2)) ** 0.5
    assert found.interval == pytest.approx((share - half, share + half), abs=1e-5)
    assert found.interval == pytest.approx(wilson(row.sum(), 4000), abs=1e-4)


def test_where_images_agree_what_remains_is_the_t_test_over_trainings():
    shift = np.array([[0.1], [0.3], [0.2], [0.5]])
    found = compare_trainings(np.repeat(shift, 10_000, 1), np.zeros((4, 10_000)), paired=True)
    wanted = stats.ttest_1samp(shift[:, 0], 0)
    assert found.p_value == pytest.approx(wanted.pvalue, rel=1e-2)
    assert found.interval == pytest.approx(tuple(wanted.confidence_interval()), abs=1e-3)


@given(
    st.integers(2, 4),
    st.integers(1, 60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 99),
    st.booleans(),
    st.sampled_from([0.5, 0.95, 0.999]),
)
def test_no_finite_sample_has_an_interval_without_width(m, n, first, second, seed, paired, confidence):
    """Whatever the outcomes, also where all agree: neither kind of chance is ever known to be nothing."""
    a, b = random(m, n, seed, first), random(m, n, seed + 100, second)
    for found in (
        over_trainings(a, confidence),
        over_trainings(np.repeat(a[:1], m, 0), confidence),
        compare_trainings(a, b, paired=paired, confidence=confidence),
        compare_trainings(a, a, paired=paired, confidence=confidence),
    ):
        assert found.interval.low <= found.mean <= found.interval.high
        wider = found.interval.high - found.interval.low
        assert wider > found.trainings.high - found.trainings.low > 0.1 / (m * n)
        assert wider > 0.3 / (n + 12)
    low, high = bootstrap_difference(a[0], b[0], Key.of(seed), confidence)
    same = bootstrap_difference(a[0], a[0], Key.of(seed), 0.95)
    error = bootstrap_mean(a[0], Key.of(seed), 0.95)
    assert low <= (a[0] - b[0]).mean() <= high
    assert same.low < 0 < same.high
    assert error.low <= a[0].mean() <= error.high
    assert error.low < error.high


@pytest.mark.parametrize("m", [2, 3, 10])
@pytest.mark.parametrize("n", [50, 100, 300])
def test_one_disagreement_hardly_changes_what_no_disagreement_says(m, n):
    a, b = np.ones((m, n)), np.ones((m, n))
    none = compare_trainings(a, b, paired=True)
    b[0, 0] = 0
    one = compare_trainings(a, b, paired=True)
    width = none.interval.high - none.interval.low
    assert none.interval == pytest.approx((-width / 2, width / 2))
    assert one.interval == pytest.approx(none.interval, abs=0.2 * width)
    share = one.interval.high - one.interval.low
    assert share == pytest.approx(width, rel=0.2)
    alone, joined = np.zeros(n), np.zeros(n)
    alone[0] = 1
    was, now = (bootstrap_difference(x, np.zeros(n), Key.of(0)) for x in (joined, alone))
    assert now == pytest.approx(was, abs=1.6 / n)


def test_agreement_says_less_of_few_trainings_and_of_few_images():
    def width(m, n):
        low, high = compare_trainings(np.ones((m, n)), np.ones((m, n)), paired=True).interval
        return high - low

    assert width(2, 100) > width(3, 100) > width(10, 100) > width(10, 300)
    z2 = stats.norm.ppf(0.975) ** 2
    assert width(1000, 300) / 2 == pytest.approx(
        z2 / (300 + z2), rel=0.01
    )  # the bound of Wilson for 0 of 300
    assert width(1000, 300) / 2 == pytest.approx(wilson(0, 300).high, rel=0.01)


@pytest.mark.parametrize("kind", ["by image", "by outcome", "by training"])
@pytest.mark.parametrize(
    ("only_first", "only_second"), [(0.01, 0.0), (0.03, 0.0), (0.037, 0.0), (0.05, 0.01)]
)
@pytest.mark.parametrize("m", [3, 5])
def test_rare_differences_are_covered_for_other_trainings_on_other_images(m, only_first, only_second, kind):
    rng, times, n, covered = np.random.default_rng(5), 250, 100, 0
    for _ in range(times):
        one, two = (
            np.full((m, 1), p) if kind != "by training" or not p else rng.beta(2, 2 / p - 2, (m, 1))
            for p in (only_first, only_second)
        )
        chance = rng.random((1 if kind == "by image" else m, n))
        a = np.broadcast_to(chance < one, (m, n)).astype(float)
        b = np.broadcast_to((chance >= one) & (chance < one + two), (m, n)).astype(float)
        low, high = compare_trainings(a, b, paired=True).interval
        covered += low <= only_first - only_second <= high
    assert covered / times >= 0.935


@pytest.mark.parametrize(("only_first", "only_second"), [(0.01, 0.0), (0.037, 0.0), (0.05, 0.01)])
def test_rare_differences_of_two_models_are_covered_for_other_images(only_first, only_second):
    rng, times, n, covered = np.random.default_rng(6), 400, 100, 0
    for trial in range(times):
        chance = rng.random(n)
        a, b = chance < only_first, (chance >= only_first) & (chance < only_first + only_second)
        low, high = bootstrap_difference(a, b, Key.of(trial), resamples=400)
        covered += low <= only_first - only_second <= high
    assert covered / times >= 0.935


def test_equal_accuracies_of_trainings_have_a_spread_only_where_their_resolution_is_known():
    assert over_seeds([0.9, 0.9, 0.9])[1] is None
    low, high = over_seeds([0.9, 0.9, 0.9], n=100)[1]
    assert low < 0.9 < high
    assert over_seeds([0.1, 0.5, 0.9], n=100) == over_seeds([0.1, 0.5, 0.9])
    found = over_trainings(np.repeat(random(1, 100), 3, 0)).trainings
    assert over_seeds([random(1, 100).mean()] * 3, n=100)[1] == pytest.approx(found)


def test_a_p_value_is_the_level_whose_interval_ends_at_zero():
    a, b = random(3, 60, 1, 0.8), random(3, 60, 2, 0.5)
    found = compare_trainings(a, b, paired=True)
    low = compare_trainings(a, b, paired=True, confidence=1 - found.p_value).interval.low
    assert low == pytest.approx(0, abs=1e-6)


def test_unpaired_trainings_need_not_be_as_many_and_the_order_turns_the_sign():
    a, b = random(2, 30, 1), random(4, 30, 2)
    one, other = compare_trainings(a, b, paired=False), compare_trainings(b, a, paired=False)
    assert one.mean == pytest.approx(-other.mean)
    assert one.p_value == pytest.approx(other.p_value)
    assert one.seeds == 2


def test_one_seed_has_no_interval():
    found = over_trainings(random(1, 30))
    assert (found.trainings, found.interval, found.p_value) == (None, None, None)


@pytest.mark.parametrize(("m", "spread"), [(2, 0.1), (2, 0.0), (3, 0.1), (3, 0.02), (6, 0.05)])
def test_intervals_cover_for_other_trainings_on_other_images(m, spread):
    rng, covered, times = np.random.default_rng(3), 0, 400
    for _ in range(times):
        parts = [(spread, (m, 1)), (0.15, (1, 50)), (0.15, (m, 50))]
        x = np.clip(0.5 + sum(size * rng.normal(size=shape) for size, shape in parts), 0, 1)
        low, high = over_trainings(x).interval
        covered += low <= 0.5 <= high
    assert covered / times >= 0.935  # 95 % less what 400 repetitions leave open


@pytest.mark.parametrize(
    "call",
    [
        lambda: over_trainings([]),
        lambda: over_trainings([1, 0]),
        lambda: over_trainings([[2, 0]]),
        lambda: over_trainings([[-1, 0]]),
        lambda: over_seeds([0.5], n=0),
        lambda: bootstrap_mean([], Key.of(0)),
        lambda: bootstrap_mean([1.5], Key.of(0)),
        lambda: over_trainings([[1, 0]], confidence=1),
        lambda: compare_trainings([[1, 0]], [[1]], paired=False),
        lambda: compare_trainings([[1, 0]], [[1, 0]] * 2, paired=True),
    ],
)
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(InputError):
        call()

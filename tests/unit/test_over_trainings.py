"""Means and differences over trainings and images, against SciPy and by their coverage in simulations."""

import numpy as np
import pytest
from scipy import stats

from spikeproof.errors import InputError
from spikeproof.statistics import compare_trainings, over_seeds, over_trainings


def random(m, n, seed=0, chance=0.6):
    return (np.random.default_rng(seed).random((m, n)) < chance).astype(float)


def test_the_interval_over_trainings_is_that_of_students_t():
    found = over_trainings(random(5, 40))
    mean, ends = over_seeds(random(5, 40).mean(1))
    assert found.mean == pytest.approx(mean)
    assert found.trainings == pytest.approx(ends)


def test_where_trainings_agree_what_remains_is_the_interval_over_images():
    row = random(1, 40)
    found = over_trainings(np.repeat(row, 4, 0))
    half = stats.t.ppf(0.975, 39) * row.std(ddof=1) / 40**0.5
    assert found.interval == pytest.approx((row.mean() - half, row.mean() + half))
    assert found.p_value == pytest.approx(stats.ttest_1samp(row[0], 0).pvalue, abs=1e-11)


def test_where_images_agree_what_remains_is_the_t_test_over_trainings():
    shift = np.array([[0.1], [0.3], [0.2], [0.5]])
    found = compare_trainings(np.repeat(shift, 9, 1), np.zeros((4, 9)), paired=True)
    wanted = stats.ttest_1samp(shift[:, 0], 0)
    assert found.p_value == pytest.approx(wanted.pvalue)
    assert found.interval == pytest.approx(tuple(wanted.confidence_interval()))


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
        x = np.clip(sum(size * rng.normal(size=shape) for size, shape in parts), -1, 1)
        low, high = over_trainings(x).interval
        covered += low <= 0 <= high
    assert covered / times >= 0.935  # 95 % less what 400 repetitions leave open


@pytest.mark.parametrize(
    "call",
    [
        lambda: over_trainings([]),
        lambda: over_trainings([1, 0]),
        lambda: over_trainings([[2, 0]]),
        lambda: over_trainings([[1, 0]], confidence=1),
        lambda: compare_trainings([[1, 0]], [[1]], paired=False),
        lambda: compare_trainings([[1, 0]], [[1, 0]] * 2, paired=True),
    ],
)
def test_what_cannot_be_compared_is_refused(call):
    with pytest.raises(InputError):
        call()

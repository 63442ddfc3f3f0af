"""Intervals and comparisons against SciPy and statsmodels, by their definition, and in simulations."""

import gc
import math
from collections import Counter
from itertools import combinations, product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm, t
from statsmodels.stats.contingency_tables import mcnemar as peer_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.statistics import (
    bootstrap_difference,
    clopper_pearson,
    compare,
    difference_test,
    difference_tests,
    draws_needed,
    draws_wanted,
    holm,
    majority_vote,
    mcnemar,
    median,
    over_seeds,
    over_trainings,
    wilson,
    worst_of_draws,
)


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
def test_counts_beyond_the_sample_and_levels_beyond_one_are_refused(k, n, confidence):
    with pytest.raises(InputError, match=r"wilson\(\)"):
        wilson(k, n, confidence)


RIGHT, OTHER = [1.0, 1.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0]
SURE = {
    "wilson": lambda c: wilson(3, 4, c),
    "median": lambda c: median([1.0, 2.0, 3.0], c),
    "clopper_pearson": lambda c: clopper_pearson(3, 4, c),
    "bootstrap_difference": lambda c: bootstrap_difference(RIGHT, OTHER, Key.of(0), c),
    "compare": lambda c: compare(RIGHT, OTHER, Key.of(0), c),
    "over_seeds": lambda c: over_seeds([0.5, 0.6], c),
    "over_trainings": lambda c: over_trainings([RIGHT, OTHER], c),
    "draws_needed": lambda c: draws_needed([RIGHT, OTHER], 0.1, c),
    "draws_wanted": lambda c: draws_wanted(10, 0.1, c),
}


@pytest.mark.parametrize("name", SURE)
def test_nothing_is_said_with_no_confidence_or_with_certainty(name):
    SURE[name](0.5)
    for confidence in (0, 1, -0.5, 1.5, math.nan):
        with pytest.raises(InputError, match="confidence"):
            SURE[name](confidence)


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
@pytest.mark.parametrize(("k", "n"), [(0, 1), (1, 1), (8, 10), (0, 50), (50, 50), (997, 1000)])
def test_the_exact_interval_agrees_with_scipy_and_statsmodels(k, n, confidence):
    wanted = binomtest(k, n).proportion_ci(confidence, method="exact")
    assert clopper_pearson(k, n, confidence) == pytest.approx((wanted.low, wanted.high), abs=1e-12)
    beta = proportion_confint(k, n, alpha=1 - confidence, method="beta")
    assert clopper_pearson(k, n, confidence) == pytest.approx(beta, abs=1e-9)


@pytest.mark.parametrize(("n", "p"), [(20, 0.05), (50, 0.3), (100, 0.5), (200, 0.97)])
def test_intervals_cover_the_truth_as_often_as_they_say(n, p):
    """Exactly, by summing the binomial over all outcomes: no simulation noise."""
    probability = binom.pmf(np.arange(n + 1), n, p)
    cover = {
        f: sum(q for k, q in enumerate(probability) if f(k, n).low <= p <= f(k, n).high)
        for f in (wilson, clopper_pearson)
    }
    assert cover[clopper_pearson] >= 0.95
    assert 0.90 <= cover[wilson] <= 0.99
    widths = [clopper_pearson(k, n).high - clopper_pearson(k, n).low for k in range(n + 1)]
    assert all(w > wilson(k, n).high - wilson(k, n).low for k, w in enumerate(widths) if 0 < k < n)


outcomes = st.integers(2, 40).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 1), min_size=n, max_size=n) for _ in range(2)])
)


@given(outcomes)
def test_mcnemar_agrees_with_statsmodels_and_knows_no_order(pair):
    a, b = map(np.array, pair)
    table = [
        [int((a & b).sum()), int((a & ~b & 1).sum())],
        [int((~a & b & 1).sum()), int((1 - (a | b)).sum())],
    ]
    assert mcnemar(a, b) == pytest.approx(peer_mcnemar(table, exact=True).pvalue, abs=1e-12)
    assert mcnemar(a, b) == mcnemar(b, a)


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_agrees_with_statsmodels(p):
    with patch.object(gc, "collect"):  # which the peer calls every time, and which takes longer than the test
        wanted = multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(list(wanted), abs=1e-12)


def test_the_bootstrap_interval_covers_the_true_difference():
    """600 experiments with a known difference; at 95 % a correct interval misses 30 of them, give or take."""
    generator, truth, hits = np.random.default_rng(0), 0.08, 0
    for trial in range(600):
        common = generator.random(120)
        a, b = (common < 0.6).astype(float), (common < 0.6 - truth).astype(float)
        swap = generator.random(120) < 0.15  # disagreements in both directions
        a[swap], b[swap] = generator.integers(0, 2, (2, int(swap.sum())))
        low, high = bootstrap_difference(a, b, Key.of(trial), resamples=400)
        hits += low <= 0.85 * truth <= high
    assert 0.92 <= hits / 600 <= 0.98


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0]), min_size=30, max_size=30), max_size=4), st.booleans())
def test_pairs_are_tested_together_as_one_by_one(rights, stochastic):
    rights = [np.array(right) * 0.5 + 0.25 if stochastic else right for right in rights]
    pairs = combinations(range(len(rights)), 2)
    expected = {(i, k): difference_test(rights[i], rights[k], Key.of(1)) for i, k in pairs}
    assert difference_tests(rights, Key.of(1)) == expected


@pytest.mark.parametrize("rights", [[[], []], [[1.0], [1.0, 0.0]], [[[1.0]], [[0.0]]]], ids=str)
def test_what_is_no_pair_of_outcomes_is_none_among_many(rights):
    with pytest.raises(InputError, match="the same examples"):
        difference_tests(rights, Key.of(0))


def test_no_difference_is_claimed_more_often_than_the_level_where_there_is_none():
    generator, claims = np.random.default_rng(1), 0
    for trial in range(400):
        a, b = generator.integers(0, 2, (2, 60))
        p = difference_test(a, b, Key.of(trial))
        if p <= 0.05:  # without which nothing is claimed
            shown = compare(a, b, Key.of(trial))
            assert shown.p_value == p
            claims += shown.holds()
    assert claims / 400 <= 0.07


def test_shares_over_draws_are_compared_by_sign_flips():
    generator = np.random.default_rng(2)
    b = generator.random(50) * 0.5
    assert compare(b + 0.3, b, Key.of(0)).holds()
    p = [difference_test(*generator.random((2, 10)), Key.of(i)) for i in range(200)]
    assert abs(np.mean(np.array(p) <= 0.2) - 0.2) < 0.1  # p-values of no difference are uniform
    exact = wilcoxon_free_sign_flips(np.array([0.5, 0.25, 0.125, 0.25, 0.5, 0.3]))
    measured = compare([0.5, 0.25, 0.125, 0.25, 0.5, 0.3], [0.0] * 6, Key.of(0)).p_value
    assert measured == pytest.approx(exact, abs=0.01)


def wilcoxon_free_sign_flips(differences):
    """All sign patterns, one by one."""
    sums = [abs(np.dot(signs, differences)) for signs in product((-1, 1), repeat=len(differences))]
    return np.mean(np.array(sums) >= abs(differences.sum()) - 1e-12)


def test_a_comparison_is_said_in_words_that_follow_the_numbers():
    shown = compare([1] * 40, [0] * 30 + [1] * 10, Key.of(0))
    assert shown.sentence("A", "B").startswith("A is more robust than B (n = 40")
    assert compare([0] * 30 + [1] * 10, [1] * 40, Key.of(0)).sentence("A", "B").startswith("B is more robust")
    assert shown.sentence("A", "B", adjusted=0.2).startswith("no difference shown between A and B (n = 40")


def test_seeds_agree_with_scipy_and_one_seed_tells_no_spread():
    values = [0.9, 0.93, 0.88, 0.91]
    _, interval = over_seeds(values)
    wanted = t.interval(0.95, 3, np.mean(values), np.std(values, ddof=1) / 2)
    assert interval == pytest.approx(wanted)
    assert over_seeds([0.9]) == (0.9, None)


@given(st.integers(1, 7), st.integers(1, 5), st.integers(0, 10_000))
def test_votes_are_counted_as_by_hand(draws, examples, seed):
    generator = np.random.default_rng(seed)
    predictions, labels = generator.integers(-1, 3, (draws, examples)), generator.integers(0, 3, examples)
    wanted = []
    for i, label in enumerate(labels):
        votes = Counter(p for p in predictions[:, i] if p >= 0)
        wanted.append(votes[label] > max((v for c, v in votes.items() if c != label), default=0))
    assert majority_vote(predictions, labels).tolist() == wanted
    right = predictions == labels
    assert worst_of_draws(right).tolist() == right.all(0).tolist()


def test_the_draws_asked_for_give_the_interval_wanted():
    generator = np.random.default_rng(3)
    p = generator.random(50)
    pilot = generator.random((200, 50)) < p
    draws = draws_needed(pilot, half_width=0.02)
    means = [(generator.random((draws, 50)) < p).mean() for _ in range(500)]
    assert 0.92 <= np.mean(np.abs(np.array(means) - p.mean()) <= 0.02) <= 0.98
    assert draws_needed(np.ones((2, 50)), half_width=0.02) == 1


@pytest.mark.parametrize("n", [1, 37, 100, 1000])
def test_draws_wanted_are_those_of_coins_and_enough_for_them(n):
    draws = draws_wanted(n, half_width=0.05)
    deviation = math.sqrt(0.25 / (n * draws))
    assert norm.ppf(0.975) * deviation <= 0.05 + 1e-9
    assert draws == 1 or norm.ppf(0.975) * math.sqrt(0.25 / (n * (draws - 1))) > 0.05
    assert draws >= draws_needed(np.random.default_rng(n).integers(0, 2, (400, n)) * [1], 0.05) * 0.9


@pytest.mark.parametrize(
    "call",
    [
        lambda: clopper_pearson(1.5, 5),
        lambda: clopper_pearson(6, 5),
        lambda: mcnemar([0.5], [1]),
        lambda: mcnemar([1, 0], [1]),
        lambda: compare([], [], Key.of(0)),
        lambda: compare([math.nan], [1.0], Key.of(0)),
        lambda: compare([1.0], [math.nan], Key.of(0)),
        lambda: bootstrap_difference([1], [1], Key.of(0), resamples=5),
        lambda: holm([0.5, 1.5]),
        lambda: over_seeds([]),
        lambda: over_seeds([math.inf]),
        lambda: majority_vote([1, 2], [1, 2]),
        lambda: draws_needed([[1, 0]], 0.1),
        lambda: draws_wanted(0),
        lambda: draws_wanted(10, 1.5),
        lambda: draws_needed([[1, 0], [1, 0]], 0.0),
        lambda: draws_needed([[1, 0], [1, 0]], 1.0),
        lambda: draws_wanted(10, 1.0),
    ],
)
def test_unpaired_outcomes_and_counts_shares_or_p_values_out_of_range_are_refused(call):
    with pytest.raises(InputError):
        call()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9))
def test_the_median_is_that_of_numpy(values):
    assert median(values)[0] == pytest.approx(float(np.median(values)), rel=1e-12, abs=1e-12)


def test_a_median_between_infinite_distances_is_infinite():
    assert median([1.0, math.inf, math.inf])[0] == math.inf
    assert median([1.0, math.inf])[0] == math.inf
    assert median([math.inf, math.inf])[0] == math.inf

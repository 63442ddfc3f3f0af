"""The uncertainty of a measured accuracy: intervals, comparisons, seeds and draws.

An outcome is one number per example, the share of draws that the model answers rightly: 0 or 1 for a
deterministic model. Two models are compared on the same examples, and `compare` states that one is better
only if the difference is shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = [
    "Comparison",
    "Interval",
    "OverTrainings",
    "bootstrap_difference",
    "bootstrap_mean",
    "clopper_pearson",
    "compare",
    "compare_trainings",
    "difference_test",
    "difference_tests",
    "draws_needed",
    "draws_wanted",
    "holm",
    "majority_vote",
    "mcnemar",
    "median",
    "over_seeds",
    "over_trainings",
    "wilson",
    "worst_of_draws",
]

Column = NDArray[np.float64]


class Interval(NamedTuple):
    """A closed interval, of shares in [0, 1] or of differences in [-1, 1]."""

    low: float
    high: float


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    r"""The Wilson score interval of a share.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    For stochastic models `successes` is a sum of per-example shares, so it need not be whole; treating such a
    sum as a count of successes is conservative, because a share in (0, 1) varies less than an outcome of 0 or
    1.

    Args:
        successes: number of successes, in [0, n].
        n: number of trials, at least 1.
        confidence: coverage, in (0, 1).

    Raises:
        InputError: `n` is below 1, or an argument is out of its range.

    Example:
        >>> low, high = wilson(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4902, 0.9433)

    Source:
        Wilson 1927, J. Am. Stat. Assoc. 22; Brown, Cai & DasGupta 2001, eq. (4).
    """
    _check("wilson", successes, n, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


class _Mean(NamedTuple):
    """The estimate of a mean, the variance of that estimate, and its degrees of freedom."""

    centre: float
    variance: float
    freedom: int


def _with_unseen(outcomes: Column, lowest: float, confidence: float) -> _Mean:
    """The mean of outcomes in [lowest, 1] and z^2 / 2 more at either end, which no sample excludes."""
    squared, ends = _squared(confidence), np.array([lowest, 1.0])
    weight, total = squared / 2, len(outcomes) + squared
    centre = float(outcomes.sum() + weight * ends.sum()) / total
    square = float(((outcomes - centre) ** 2).sum() + weight * ((ends - centre) ** 2).sum())
    return _Mean(centre, square / total**2, max(len(outcomes) - 1, 1))


def median(values: Sequence[float], confidence: float = 0.95) -> tuple[float, Interval]:
    r"""The median, and the interval between two of the values that covers it whatever their distribution.

    .. math:: [x_{(k)}, x_{(n-k+1)}], \quad k = \max\{k : B(k-1; n, 1/2) \le \alpha/2\}

    where `B` is the distribution function of the binomial. Values may be infinite, such as the distance where
    no adversarial example was found. At a confidence of 95 %, fewer than 6 values give an unbounded interval.

    Args:
        values: the numbers, at least one and none of them NaN.
        confidence: coverage `1 - alpha`, in (0, 1).

    Raises:
        InputError: no values, NaN, or a confidence out of its range.

    Example:
        >>> median([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, float("inf")])
        (4.0, Interval(low=1.0, high=inf))

    Source:
        Conover 1999, Practical Nonparametric Statistics, section 3.2.
    """
    if not len(values) or any(math.isnan(value) for value in values) or not 0 < confidence < 1:
        raise InputError(
            "median() needs numbers and a confidence in (0, 1)",
            f"{len(values)} values, confidence={confidence}",
            "Leave out values that were not measured.",
        )
    from scipy.stats import binom  # here, because SciPy takes longer to import than all of this package

    ordered, n = sorted(values), len(values)
    low, high = ordered[(n - 1) // 2], ordered[n // 2]
    middle = low if low == high else (low + high) / 2
    rank = int(binom.ppf((1 - confidence) / 2, n, 0.5))
    rank = rank if binom.cdf(rank, n, 0.5) <= (1 - confidence) / 2 else rank - 1  # values below, at most
    if rank < 0:
        return middle, Interval(-math.inf, math.inf)
    return middle, Interval(ordered[rank], ordered[n - 1 - rank])


def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> Interval:
    r"""The exact interval of a share: it covers the truth at least as often as stated, for every share.

    .. math:: [\,B^{-1}(\alpha/2;\, k, n-k+1),\; B^{-1}(1-\alpha/2;\, k+1, n-k)\,]

    where `B^{-1}` are quantiles of the beta distribution. The interval is wider than Wilson's; use it where a
    guarantee is needed, as in certificates.

    Args:
        successes: number `k` of successes, a whole number in [0, n].
        n: number of trials, at least 1.
        confidence: coverage `1 - alpha`, in (0, 1).

    Raises:
        InputError: `n` is below 1, an argument is out of its range, or `successes` is not whole.

    Example:
        >>> low, high = clopper_pearson(8, 10)
        >>> round(low, 4), round(high, 4)
        (0.4439, 0.9748)

    Source:
        Clopper & Pearson 1934, Biometrika 26.
    """
    _check("clopper_pearson", successes, n, confidence)
    if successes != int(successes):
        raise InputError("clopper_pearson() counts whole successes", f"{successes}", "Use wilson().")
    from scipy.special import betaincinv

    alpha = 1 - confidence
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha / 2))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - alpha / 2))
    return Interval(low, high)


def mcnemar(right_a: ArrayLike, right_b: ArrayLike) -> float:
    r"""The exact McNemar test: the probability that chance splits the disagreements at least so unevenly.

    .. math:: p = \min\!\left(1,\; 2\sum_{i \le \min(b, c)} \binom{b+c}{i} 2^{-(b+c)}\right)

    where `b` and `c` count the examples that only the one or only the other model answers rightly.

    Args:
        right_a: outcome of each example under one model, 0 or 1.
        right_b: outcome of each example under the other model, 0 or 1.

    Returns:
        The two-sided p-value, 1 where the models never disagree.

    Raises:
        InputError: the arguments are not two columns of 0 and 1 of equal length.

    Example:
        >>> mcnemar([1, 1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0, 0])
        0.03125

    Source:
        McNemar 1947, Psychometrika 12; Edwards 1948 (exact form).
    """
    a, b = _pair("mcnemar", right_a, right_b)
    if not (_binary(a) and _binary(b)):
        raise InputError("mcnemar() compares outcomes of 0 and 1", "shares between them", "Use compare().")
    return _evenly(int((a > b).sum()), int((b > a).sum()))


def _binary(outcomes: Column) -> bool:
    return bool(((outcomes == 0) | (outcomes == 1)).all())


@lru_cache(maxsize=65536)
def _evenly(only_a: int, only_b: int) -> float:
    """The p-value of so many disagreements of each kind; many pairs of models have the same numbers."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0


def bootstrap_difference(
    right_a: ArrayLike, right_b: ArrayLike, key: Key, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    r"""The paired bootstrap interval of the difference in accuracy, over examples drawn with replacement.

    Beside the `n` examples, :math:`z^2/2` on which only the one model is right and as many on which only the
    other is are in the urn, because no sample excludes such examples. Without them, two models that agree on
    every example seen would have the interval [0, 0], and those that disagree on a few one that is too
    narrow: all resamples would lie between what was seen. Where the models agree everywhere, the interval is
    about :math:`\pm z^2/(n + z^2)`, which is Wilson's bound of a share that was never seen. Both ends are
    moved outwards by the factor sqrt(n / (n - 1)), by which a bootstrap of few examples is too narrow.

    Args:
        right_a: share of draws answered rightly, per example, in [0, 1].
        right_b: the same examples under the other model.
        key: decides the resamples.
        confidence: coverage, in (0, 1).
        resamples: number of resamples, at least 100.

    Returns:
        Interval of mean(a) - mean(b), in [-1, 1], never of width zero.

    Raises:
        InputError: the columns differ in length, there are too few resamples, or the confidence is out of
            range.

    Example:
        >>> low, high = bootstrap_difference([1] * 100, [1] * 100, Key.of(0))
        >>> round(low, 2), round(high, 2)
        (-0.04, 0.04)

    Source:
        Efron & Tibshirani 1993, sections 13.3 (percentile interval) and 12.2 (the factor); Agresti & Coull
        1998, Am. Stat. 52, and Bonett & Price 2012, J. Educ. Behav. Stat. 37 (outcomes added to a share and
        to a difference of matched shares).
    """
    a, b = _pair("bootstrap_difference", right_a, right_b)
    return _bootstrap("bootstrap_difference", a - b, -1.0, key, confidence, resamples)


def bootstrap_mean(
    outcomes: ArrayLike, key: Key, confidence: float = 0.95, resamples: int = 10_000
) -> Interval:
    """The bootstrap interval of a mean of shares, over examples drawn with replacement.

    As in `bootstrap_difference`, the urn holds a few examples of outcome 0 and of outcome 1 more.

    Args:
        outcomes: one share per example, in [0, 1].
        key: decides the resamples.
        confidence: coverage, in (0, 1).
        resamples: number of resamples, at least 100.

    Returns:
        Interval of the mean, in [0, 1], never of width zero.

    Raises:
        InputError: there is no outcome or one outside [0, 1], there are too few resamples, or the confidence
            is out of range.

    Example:
        >>> low, high = bootstrap_mean([0.0] * 100, Key.of(0))
        >>> low, round(high, 2)
        (0.0, 0.05)

    Source:
        As `bootstrap_difference`.
    """
    shares = np.asarray(outcomes, dtype=float)
    if shares.ndim != 1 or not shares.size or not bool(((shares >= 0) & (shares <= 1)).all()):
        raise InputError(
            "bootstrap_mean() takes shares in [0, 1], one per example", str(shares.shape), "Check them."
        )
    return _bootstrap("bootstrap_mean", shares, 0.0, key, confidence, resamples)


def _bootstrap(
    name: str, outcomes: Column, lowest: float, key: Key, confidence: float, resamples: int
) -> Interval:
    """The bootstrap interval of a mean of outcomes in [lowest, 1]."""
    if resamples < 100 or not 0 < confidence < 1:
        raise InputError(
            f"{name}() needs at least 100 resamples and a confidence in (0, 1)",
            f"resamples={resamples}, confidence={confidence}",
            "Try the defaults.",
        )
    # A resample is a multinomial count of each distinct outcome, which is far fewer than the examples.
    values, counts = np.unique(np.append(outcomes, [lowest, 1.0]), return_counts=True)
    weights = counts + np.where((values == lowest) | (values == 1.0), _squared(confidence) / 2 - 1.0, 0.0)
    n, seed = len(outcomes), key.fold("bootstrap").seed()
    mean, widen = float(outcomes.mean()), math.sqrt(n / max(n - 1, 1))
    centre = float(weights @ values / weights.sum())
    low, high = _resampled(tuple(values.tolist()), tuple(weights.tolist()), n, seed, confidence, resamples)
    low, high = centre + (low - centre) * widen, centre + (high - centre) * widen
    return Interval(max(lowest, min(mean, low)), min(1.0, max(mean, high)))


def _squared(confidence: float) -> float:
    """The square of the normal quantile of a two-sided interval."""
    return NormalDist().inv_cdf((1 + confidence) / 2) ** 2


@lru_cache(maxsize=4096)
def _resampled(
    values: tuple[float, ...],
    weights: tuple[float, ...],
    n: int,
    seed: int,
    confidence: float,
    resamples: int,
) -> tuple[float, float]:
    """The quantiles of the means of resamples; many pairs of models have the same differences."""
    generator, chances = np.random.default_rng(seed), np.array(weights)
    means = generator.multinomial(n, chances / chances.sum(), size=resamples) @ np.array(values) / n
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction: p-values that are valid when several comparisons are made at once.

    Args:
        p_values: one per comparison, each in [0, 1].

    Returns:
        Adjusted values in the same order; those at or below a level are rejected at that family-wise level.

    Raises:
        InputError: a value outside [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]

    Source:
        Holm 1979, Scand. J. Statist. 6.
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise InputError("holm() takes p-values in [0, 1]", str(list(p_values)), "Check the tests.")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models on the same examples.

    Args:
        difference: mean outcome of the first model less the mean outcome of the second, in [-1, 1].
        interval: interval of the difference, at the given confidence.
        p_value: two-sided p-value of no difference, before any correction.
        n: number of examples.
    """

    difference: float
    interval: Interval
    p_value: float
    n: int

    def holds(self, level: float = 0.05, adjusted: float | None = None) -> bool:
        """Whether a difference is shown: the interval excludes zero, and the p-value is at most the level.

        Args:
            level: level of the test, in (0, 1).
            adjusted: the p-value after a correction for many comparisons, such as `holm` gives.
        """
        p = self.p_value if adjusted is None else adjusted
        return p <= level and not self.interval.low <= 0 <= self.interval.high

    def sentence(self, first: str, second: str, adjusted: float | None = None) -> str:
        """The comparison in words, which state a difference only if it is shown.

        Args:
            first: name of the first model.
            second: name of the second.
            adjusted: the p-value after a correction for many comparisons.
        """
        p = self.p_value if adjusted is None else adjusted
        low, high = (f"{100 * end:+.1f}" for end in self.interval)
        numbers = f"n = {self.n}, difference {100 * self.difference:+.1f} points [{low}, {high}], p = {p:.2g}"
        if not self.holds(adjusted=adjusted):
            return f"no difference shown between {first} and {second} ({numbers})"
        better, worse = (first, second) if self.difference > 0 else (second, first)
        return f"{better} is more robust than {worse} ({numbers})"


def compare(right_a: ArrayLike, right_b: ArrayLike, key: Key, confidence: float = 0.95) -> Comparison:
    """Two models on the same examples: paired difference, its bootstrap interval, and a test.

    Outcomes of 0 and 1 are tested exactly (McNemar); shares over draws by the sign-flip permutation test.

    Args:
        right_a: share of draws answered rightly, per example, in [0, 1].
        right_b: the same examples under the other model.
        key: decides resamples and permutations.
        confidence: coverage of the interval, in (0, 1).

    Raises:
        InputError: the columns differ in length, or hold values outside [0, 1].

    Example:
        >>> compare([1] * 40, [0] * 30 + [1] * 10, Key.of(0)).sentence("A", "B")
        'A is more robust than B (n = 40, difference +75.0 points [+49.8, +85.2], p = 1.9e-09)'
        >>> compare([1, 0, 1, 0], [1, 0, 0, 1], Key.of(0)).sentence("A", "B")[:38]
        'no difference shown between A and B (n'

    Source:
        McNemar 1947; Efron & Tibshirani 1993, section 13.3; Good 2005, section 3.2 (sign flips).
    """
    a, b = _pair("compare", right_a, right_b)
    return Comparison(
        difference=float((a - b).mean()),
        interval=bootstrap_difference(a, b, key, confidence),
        p_value=difference_test(a, b, key),
        n=len(a),
    )


def difference_test(right_a: ArrayLike, right_b: ArrayLike, key: Key) -> float:
    """The two-sided p-value of no difference between two models on the same examples.

    Args:
        right_a: share of draws answered rightly, per example, in [0, 1].
        right_b: the same examples under the other model.
        key: decides the sign flips, which only shares other than 0 and 1 need.

    Raises:
        InputError: the columns differ in length, or hold values outside [0, 1].

    Example:
        >>> difference_test([1, 1, 1, 0], [1, 0, 1, 0], Key.of(0))
        1.0

    Source:
        McNemar 1947, exact; Good 2005, section 3.2 (sign flips).
    """
    a, b = _pair("difference_test", right_a, right_b)
    if _binary(a) and _binary(b):
        return _evenly(int((a > b).sum()), int((b > a).sum()))
    return _sign_flips(a - b, key.fold("flips"))


def difference_tests(rights: Sequence[ArrayLike], key: Key) -> dict[tuple[int, int], float]:
    """The p-values of `difference_test` for all pairs of models on the same examples, the lower number first.

    Args:
        rights: of each model, the share of draws answered rightly, per example, in [0, 1].
        key: decides the sign flips, which only shares other than 0 and 1 need.

    Raises:
        InputError: the columns differ in length, or hold values outside [0, 1].

    Example:
        >>> difference_tests([[1, 1, 1, 0], [1, 0, 1, 0]], Key.of(0))
        {(0, 1): 1.0}
    """
    pairs = list(combinations(range(len(rights)), 2))
    columns = [np.asarray(right, dtype=float) for right in rights]
    if not pairs:
        return {}
    alike = len({column.shape for column in columns}) == 1 and columns[0].ndim == 1 and len(columns[0])
    if not alike or not all(map(_binary, columns)):
        return {(i, k): difference_test(columns[i], columns[k], key) for i, k in pairs}
    outcomes = np.stack(columns)
    only = (outcomes @ (1 - outcomes).T).round().astype(int).tolist()  # that only the first answers rightly
    return {(i, k): _evenly(only[i][k], only[k][i]) for i, k in pairs}


def _sign_flips(differences: Column, key: Key, flips: int = 10_000) -> float:
    """Share of random sign flips whose sum is at least as far from zero, never below 1 / (flips + 1)."""
    moved = differences[differences != 0]
    if not len(moved):
        return 1.0
    generator = np.random.default_rng(key.seed())
    reached, seen = 1, abs(float(moved.sum()))
    for block in range(0, flips, 500):
        size = min(500, flips - block)
        signs = generator.integers(0, 2, (size, len(moved))) * 2 - 1
        reached += int((np.abs(signs @ moved) >= seen - 1e-12 * max(1.0, seen)).sum())
    return reached / (flips + 1)


def over_seeds(
    values: Sequence[float], confidence: float = 0.95, n: int | None = None
) -> tuple[float, Interval | None]:
    r"""Mean over models trained under several seeds, with the interval of Student's t.

    .. math:: \bar x \pm t_{m-1}\, s / \sqrt{m}

    The interval covers another training under another seed, not other test images. Values that happen to
    agree show no spread: where `n` is given, `s` is at least what `over_trainings` takes for it, and
    otherwise there is no interval.

    Args:
        values: one per seed, at least one.
        confidence: coverage, in (0, 1).
        n: number of examples behind each value, where the values are shares of examples.

    Returns:
        The mean, and its interval; None for a single seed or for equal values of unknown `n`, which do not
        show the spread.

    Raises:
        InputError: there is no value, a value is not finite, `n` is below 1, or the confidence is out of
            range.

    Example:
        >>> mean, (low, high) = over_seeds([0.90, 0.91, 0.92])
        >>> round(mean, 3), round(low, 3), round(high, 3)
        (0.91, 0.885, 0.935)
        >>> over_seeds([0.9, 0.9, 0.9])
        (0.9..., None)

    Source:
        Student 1908.
    """
    x = np.asarray(values, dtype=float)
    if not x.size or not np.isfinite(x).all() or not 0 < confidence < 1 or (n is not None and n < 1):
        raise InputError(
            "over_seeds() needs finite values, n >= 1 and a confidence in (0, 1)",
            f"{values!r}, n={n}, confidence={confidence}",
            "Check them.",
        )
    mean = float(x.mean())
    if x.size == 1 or (n is None and bool((x == x[0]).all())):
        return mean, None
    spread = float(x.var(ddof=1)) if n is None else _spread(x, n, confidence)
    half = _margin([_Mean(mean, spread / x.size, x.size - 1)], confidence)
    return mean, Interval(mean - half, mean + half)


def _spread(means: Column, n: int, confidence: float) -> float:
    """The variance of means of `n` outcomes each, and at least that by outcomes not seen to differ.

    If the trainings differ on a share `q` of all outcomes, one image here and another there, their means have
    the variance `q / n`; a share never seen in `m n` outcomes may be as large as Wilson's bound of it.
    """
    squared = _squared(confidence)
    return max(float(means.var(ddof=1)), squared / (n * (len(means) * n + squared)))


class OverTrainings(NamedTuple):
    """A mean over trainings and images, or a difference of two such means.

    Args:
        mean: over trainings and images, in [-1, 1].
        trainings: interval for another training under other seeds, on the same images; None for one seed.
        interval: interval for another training on other images; None for one seed.
        p_value: two-sided p-value of a mean of zero for other trainings and images; None for one seed.
        seeds: number of trainings; of two kinds of models the smaller one.
        n: number of images.
    """

    mean: float
    trainings: Interval | None
    interval: Interval | None
    p_value: float | None
    seeds: int
    n: int


def over_trainings(outcomes: ArrayLike, confidence: float = 0.95) -> OverTrainings:
    r"""The mean of outcomes of several trainings on the same images, with what both kinds of chance add.

    .. math:: \tilde x \pm \sqrt{t_{m-1}^2\,\frac{s_S^2}{m} + t_{n-1}^2\,\frac{\tilde s_I^2}{n + z^2}}

    where :math:`s_S^2` is the variance of the means of the `m` trainings, and :math:`\tilde s_I^2` that of
    the means of the `n` images. Every training is measured on the same images, so an interval over images
    alone holds for these weights only, and one over trainings alone for these images only. Each variance has
    the quantile of its own degrees of freedom: with one quantile for both, two or three trainings whose means
    happen to agree would make the interval too narrow.

    No finite sample shows a variance of zero. :math:`\tilde x` and :math:`\tilde s_I^2` are those of the
    images together with :math:`z^2/2` more that are always answered wrongly and as many that are always
    answered rightly: over images, the interval is that of Agresti and Coull with Wilson's centre.
    :math:`s_S^2` is at least :math:`z^2/(n (m n + z^2))`, the variance by outcomes that differ between
    trainings on single images, at the largest rate that Wilson's bound leaves if none of `m n` does. In
    simulations of 2 to 10 trainings on 100 and 300 images the interval covered in 95 to 100 % of cases.

    Args:
        outcomes: share of draws answered rightly `[M, N]`, in [0, 1], one row per training.
        confidence: coverage, in (0, 1).

    Raises:
        InputError: there are no trainings or no images, or a value is not within [0, 1].

    Example:
        >>> found = over_trainings([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]])
        >>> round(found.mean, 3), [round(end, 3) for end in found.trainings]
        (0.667, [0.055, 1.278])
        >>> over_trainings([[1, 0]]).interval is None
        True

    Source:
        Cornfield & Tukey 1956, Ann. Math. Statist. 27 (crossed variances); Graybill & Wang 1980, J. Am. Stat.
        Assoc. 75, and Zou & Donner 2008, Stat. Med. 27 (the interval of a sum from those of its parts);
        Agresti & Coull 1998, Am. Stat. 52 (the outcomes added); Wilson 1927.
    """
    rows = _rows("over_trainings", outcomes)
    return _crossed([rows], rows.mean(0), 0.0, confidence)


def compare_trainings(
    first: ArrayLike, second: ArrayLike, *, paired: bool, confidence: float = 0.95
) -> OverTrainings:
    r"""The difference between two kinds of models, each trained under several seeds, on the same images.

    The interval is that of `over_trainings`, with :math:`z^2/2` images added on which only the first kind is
    right and as many on which only the second is. Where the two kinds agree on every image after every
    training, this is what the `n` images and `m` trainings leave open: over images about
    :math:`\pm z^2/(n + z^2)`, the share on which they may differ by Wilson's interval though they were not
    seen to, and over trainings about :math:`\pm t_{m-1} z/(m n)`. One disagreement changes the interval by a
    fraction of its width.

    Args:
        first: outcomes of the first kind `[M, N]`, one row per training.
        second: outcomes of the second kind `[L, N]`.
        paired: whether row `i` of both was trained under the same seed; the spread is then that of the
            differences, and otherwise the sum of both.
        confidence: coverage, in (0, 1).

    Raises:
        InputError: the numbers of images differ, or of paired trainings, or a value is not within [0, 1].

    Example:
        >>> a, b = [[1, 1, 1, 0], [1, 1, 1, 1]], [[0, 1, 0, 0], [0, 1, 1, 0]]
        >>> compare_trainings(a, b, paired=True).mean
        0.5
        >>> same = compare_trainings([[1] * 300] * 3, [[1] * 300] * 3, paired=True)
        >>> [round(end, 3) for end in same.interval]
        [-0.016, 0.016]

    Source:
        As `over_trainings`; Bonett & Price 2012, J. Educ. Behav. Stat. 37 (outcomes added to the difference
        of matched shares, there one each).
    """
    a, b = _rows("compare_trainings", first), _rows("compare_trainings", second)
    if a.shape[1] != b.shape[1] or (paired and len(a) != len(b)):
        raise InputError(
            "compare_trainings() takes the same images, and as many trainings where they are paired",
            f"shapes {a.shape} and {b.shape}",
            "Pair them by example first.",
        )
    groups = [a - b] if paired else [a, b]
    return _crossed(groups, a.mean(0) - b.mean(0), -1.0, confidence)


def _crossed(groups: Sequence[Column], by_image: Column, lowest: float, confidence: float) -> OverTrainings:
    """A mean over images in [lowest, 1], whose trainings have the spread of each of these groups of them."""
    if not 0 < confidence < 1:
        raise InputError("A confidence lies in (0, 1)", str(confidence), "Try 0.95.")
    n, seeds = len(by_image), min(map(len, groups))
    mean = float(by_image.mean())
    if seeds == 1:
        return OverTrainings(mean, None, None, None, 1, n)

    def over(level: float, *, images: bool) -> Interval:
        parts = [_Mean(mean, _spread(rows.mean(1), n, level) / len(rows), len(rows) - 1) for rows in groups]
        if images:
            parts.append(_with_unseen(by_image, lowest, level))
        centre, half = parts[-1].centre, _margin(parts, level)
        return Interval(min(mean, centre - half), max(mean, centre + half))

    return OverTrainings(
        mean,
        over(confidence, images=False),
        over(confidence, images=True),
        _level_of(lambda level: over(level, images=True)),
        seeds,
        n,
    )


def _margin(parts: Sequence[_Mean], confidence: float) -> float:
    """Half the width of the interval of a sum, from the variance and the freedom of each of its parts."""
    from scipy.special import stdtrit

    quantiles = (float(stdtrit(part.freedom, (1 + confidence) / 2)) for part in parts)
    return math.hypot(*(q * math.sqrt(part.variance) for q, part in zip(quantiles, parts, strict=True)))


SMALLEST_P = 1e-12


def _level_of(interval: Callable[[float], Interval]) -> float:
    """The level at which an interval just reaches zero, which is the two-sided p-value of a mean of zero."""

    def reaches(log_level: float) -> bool:
        low, high = interval(1 - math.exp(log_level))
        return low <= 0 <= high

    low, high = math.log(SMALLEST_P), math.log(1 - 1e-9)
    if reaches(high):
        return 1.0
    if not reaches(low):
        return SMALLEST_P
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return math.exp(high)


def _rows(name: str, outcomes: ArrayLike) -> Column:
    rows = np.asarray(outcomes, dtype=float)
    if rows.ndim != 2 or not rows.size or not bool(((rows >= 0) & (rows <= 1)).all()):
        raise InputError(
            f"{name}() takes outcomes [M, N] within [0, 1], one row per training",
            str(rows.shape),
            "Stack them.",
        )
    return rows


def majority_vote(predictions: ArrayLike, labels: ArrayLike) -> Column:
    """Outcome of each example when the draws vote: 1 where the label has more votes than any other class.

    Args:
        predictions: class of each draw and example `[R, N]`; -1 is no decision and casts no vote.
        labels: label of each example `[N]`.

    Returns:
        `[N]` of 0 and 1; a tied vote counts as an error.

    Raises:
        InputError: the shapes do not fit.

    Example:
        >>> majority_vote([[0, 1], [0, -1], [1, 0]], [0, 1]).tolist()
        [1.0, 0.0]
    """
    votes, y = np.asarray(predictions), np.asarray(labels)
    if votes.ndim != 2 or votes.shape[1:] != y.shape or not len(votes):
        raise InputError(
            "majority_vote() takes predictions [R, N] and labels [N]", f"{votes.shape}, {y.shape}", "Reshape."
        )
    classes = max(int(votes.max(initial=0)), int(y.max(initial=0))) + 1
    counts = (votes[:, :, None] == np.arange(classes)).sum(0)
    own = np.take_along_axis(counts, y[:, None], 1)[:, 0]
    np.put_along_axis(counts, y[:, None], -1, 1)
    won: Column = (own > np.maximum(counts.max(1), 0)).astype(float)
    return won


def worst_of_draws(right: ArrayLike) -> Column:
    """Outcome of each example when the worst draw counts: 1 only if every draw is right.

    The outcome falls with the number of draws, so report the number of draws with it.

    Args:
        right: outcome of each draw and example `[R, N]`, 0 or 1.

    Example:
        >>> worst_of_draws([[1, 1], [1, 0]]).tolist()
        [1.0, 0.0]
    """
    worst: Column = np.asarray(right, dtype=float).min(0)
    return worst


def draws_needed(right: ArrayLike, half_width: float, confidence: float = 0.95) -> int:
    r"""Draws per example with which the randomness of draws moves the accuracy by at most a half width.

    .. math:: R = \left\lceil \frac{z^2}{h^2 N}
              \;\frac{1}{N}\sum_i \hat p_i (1-\hat p_i)\,\frac{r}{r-1} \right\rceil

    The examples are taken as fixed here; their number limits the precision as well, whatever `R` is.

    Args:
        right: outcome of each draw and example of a pilot `[r, N]`, 0 or 1, with r at least 2.
        half_width: largest half width `h` allowed, in (0, 1).
        confidence: coverage, in (0, 1).

    Raises:
        InputError: the pilot has fewer than two draws, or an argument is out of range.

    Example:
        >>> draws_needed([[1, 0], [0, 1]], half_width=0.1)
        97

    Source:
        The normal interval of a stratified mean; Cochran 1977, section 5.3.
    """
    pilot = np.asarray(right, dtype=float)
    if (
        pilot.ndim != 2
        or len(pilot) < 2
        or not pilot.size
        or not 0 < half_width < 1
        or not 0 < confidence < 1
    ):
        raise InputError(
            "draws_needed() takes a pilot [r, N] with r >= 2 and half_width, confidence in (0, 1)",
            f"shape {pilot.shape}, half_width={half_width}, confidence={confidence}",
            "Measure at least two draws per example.",
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    spread, n = float(pilot.var(0, ddof=1).mean()), int(pilot.shape[1])
    return max(1, math.ceil(z * z * spread / (half_width**2 * n) - 1e-9))


def draws_wanted(examples: int, half_width: float = 0.02, confidence: float = 0.95) -> int:
    r"""Draws per example that suffice for any model: `draws_needed` if every answer were a fair coin flip.

    .. math:: R = \left\lceil \frac{z^2}{4 h^2 N} \right\rceil

    Args:
        examples: number `N` of examples, at least 1.
        half_width: largest half width `h` that the randomness of draws may cause, in (0, 1).
        confidence: coverage, in (0, 1).

    Raises:
        InputError: an argument is out of its range.

    Example:
        >>> draws_wanted(100), draws_wanted(1000)
        (25, 3)

    Source:
        The normal interval of a stratified mean; Cochran 1977, section 5.3.
    """
    if examples < 1 or not 0 < half_width < 1 or not 0 < confidence < 1:
        raise InputError(
            "draws_wanted() takes examples >= 1 and half_width, confidence in (0, 1)",
            f"examples={examples}, half_width={half_width}, confidence={confidence}",
            "Try draws_wanted(100).",
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return max(1, math.ceil(z * z / (4 * half_width**2 * examples) - 1e-9))


def _check(name: str, successes: float, n: int, confidence: float) -> None:
    if n < 1 or not 0 <= successes <= n or not 0 < confidence < 1:
        raise InputError(
            f"{name}() needs 0 <= successes <= n, n >= 1 and a confidence in (0, 1)",
            f"successes={successes}, n={n}, confidence={confidence}",
            "Pass the number of successes and the number of trials.",
        )


def _pair(name: str, right_a: ArrayLike, right_b: ArrayLike) -> tuple[Column, Column]:
    a, b = np.asarray(right_a, dtype=float), np.asarray(right_b, dtype=float)
    shares = a.ndim == 1 and a.shape == b.shape and a.size and bool(((a >= 0) & (a <= 1)).all())
    if not shares or not bool(((b >= 0) & (b <= 1)).all()):
        raise InputError(
            f"{name}() takes the outcomes of the same examples under two models, in [0, 1]",
            f"shapes {a.shape} and {b.shape}",
            "Pair them by example first.",
        )
    return a, b

"""Intervals for shares: how far a measured accuracy can be trusted."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

from spikeproof.errors import InputError

__all__ = ["Interval", "wilson"]


class Interval(NamedTuple):
    """A closed interval of shares, each in [0, 1]."""

    low: float
    high: float


def wilson(successes: float, n: int, confidence: float = 0.95) -> Interval:
    r"""The Wilson score interval of a share.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n}

    For stochastic models `successes` is a sum of per-example shares, so it need not be whole; treating
    such a sum as a count of successes is conservative, since a share in (0, 1) varies less than a coin.

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
    if n < 1 or not 0 <= successes <= n or not 0 < confidence < 1:
        raise InputError(
            "wilson() needs 0 <= successes <= n, n >= 1 and a confidence in (0, 1)",
            f"successes={successes}, n={n}, confidence={confidence}",
            "Pass the number of successes and the number of trials.",
        )
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Interval(max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))

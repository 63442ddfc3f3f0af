"""How irregular spike trains are: coefficients of variation of their intervals, and the Fano factor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spikeproof.analysis.trains.spiketrains import SpikeTrains
from spikeproof.errors import InputError

__all__ = ["fano_factor", "interval_variation", "local_interval_variation", "local_variation"]

Numbers = NDArray[np.float64]


def interval_variation(trains: SpikeTrains) -> Numbers:
    r"""The coefficient of variation of inter-spike intervals, NaN for trains of fewer than two intervals.

    .. math:: CV = \frac{\sqrt{\langle I^2 \rangle - \langle I \rangle^2}}{\langle I \rangle}

    A Poisson process has 1, a regular train 0.

    Args:
        trains: N spike trains.

    Shapes:
        -> `[N]`

    Example:
        >>> interval_variation(SpikeTrains.of([[1.0, 2.0, 3.0], [1.0, 2.0, 5.0], [1.0]], 8.0)).tolist()
        [0.0, 0.5, nan]

    Source:
        Softky & Koch 1993, J. Neuroscience 13; the standard deviation is divided by n, not by n - 1.
    """
    intervals = trains.intervals()
    mean, square = _mean(intervals), _mean(intervals**2)
    several = np.isfinite(intervals).sum(1) > 1
    spread = np.sqrt(np.maximum(square - mean**2, 0.0))
    found: Numbers = np.divide(spread, mean, out=np.full(len(mean), np.nan), where=several)
    return found


def local_interval_variation(trains: SpikeTrains) -> Numbers:
    r"""CV2, the mean relative difference of neighbouring intervals, NaN for trains of fewer than two.

    .. math:: CV_2 = \Big\langle \frac{2 |I_{k+1} - I_k|}{I_{k+1} + I_k} \Big\rangle_k

    A Poisson process has 1, a regular train 0; slow changes of the rate do not count.

    Args:
        trains: N spike trains.

    Shapes:
        -> `[N]`

    Example:
        >>> local_interval_variation(SpikeTrains.of([[1.0, 2.0, 5.0]], 8.0)).tolist()
        [1.0]

    Source:
        Holt et al. 1996, J. Neurophysiology 75.
    """
    return 2 * _mean(np.abs(_contrast(trains)))


def local_variation(trains: SpikeTrains) -> Numbers:
    r"""LV, three times the mean squared relative difference of neighbouring intervals.

    .. math:: LV = 3 \Big\langle \Big(\frac{I_{k+1} - I_k}{I_{k+1} + I_k}\Big)^2 \Big\rangle_k

    A Poisson process has 1, a regular train 0. NaN for trains of fewer than two intervals.

    Args:
        trains: N spike trains.

    Shapes:
        -> `[N]`

    Example:
        >>> local_variation(SpikeTrains.of([[1.0, 2.0, 5.0]], 8.0)).tolist()
        [0.75]

    Source:
        Shinomoto, Shima & Tanji 2003, Neural Computation 15.
    """
    return 3 * _mean(_contrast(trains) ** 2)


def fano_factor(counts: Numbers) -> Numbers:
    r"""The variance of spike counts over trials, relative to their mean; NaN for neurons that never fire.

    .. math:: F = \frac{\mathrm{Var}(N)}{\mathrm{E}(N)}

    A Poisson process has 1, a deterministic code 0. The variance is the unbiased one.

    Args:
        counts: spikes of each neuron in each trial, at least two trials.

    Shapes:
        counts `[R, *N]` -> `[*N]`

    Raises:
        InputError: there are fewer than two trials.

    Example:
        >>> fano_factor(np.array([[1.0, 2.0], [3.0, 2.0]])).tolist()
        [1.0, 0.0]

    Source:
        Fano 1947, Phys. Rev. 72.
    """
    if len(counts) < 2:
        raise InputError(
            "fano_factor() needs spike counts of at least two trials", f"{len(counts)}", "Repeat the trial."
        )
    mean = counts.mean(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Numbers = np.where(mean > 0, counts.var(0, ddof=1) / mean, np.nan)
    return found


def _contrast(trains: SpikeTrains) -> Numbers:
    """Differences of neighbouring intervals relative to their sum, NaN where there are none."""
    found = trains.intervals()
    contrast: Numbers = (found[:, 1:] - found[:, :-1]) / (found[:, 1:] + found[:, :-1])
    return contrast


def _mean(values: Numbers) -> Numbers:
    """The mean of each row without its NaN, NaN for rows of nothing else."""
    count = np.isfinite(values).sum(1)
    total = np.where(np.isfinite(values), values, 0.0).sum(1)
    found: Numbers = np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)
    return found

"""How far two spike trains are apart: distances of spike trains, for pairs and for every pair of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spikeproof.analysis.trains.spiketrains import SpikeTrains
from spikeproof.errors import InputError

__all__ = ["TrainDistance", "VanRossum", "VictorPurpura", "pairwise"]

Numbers = NDArray[np.float64]

BLOCK = 1 << 22
"""Most numbers of one intermediate array."""


class TrainDistance:
    """A distance between two spike trains, computed for many pairs at once."""

    @property
    def title(self) -> str:
        """What tables call it."""
        raise NotImplementedError(f"{type(self).__name__} has no title")

    def __call__(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        """The distance of each train of `a` to the train of `b` in the same place.

        Args:
            a: spike trains.
            b: as many spike trains, of the same duration.

        Shapes:
            N and N trains -> `[N]`

        Raises:
            InputError: the numbers of trains or the durations differ.
        """
        if len(a) != len(b) or a.duration != b.duration:
            raise InputError(
                f"{type(self).__name__} compares trains in pairs, of one duration",
                f"{len(a)} trains of {a.duration:g} and {len(b)} of {b.duration:g}",
                "Use pairwise() for every pair.",
            )
        size = max(1, BLOCK // max(1, self.room(a.times.shape[1], b.times.shape[1])))
        blocks = [self.between(a[i : i + size], b[i : i + size]) for i in range(0, len(a), size)]
        return np.concatenate(blocks) if blocks else np.zeros(0)

    def room(self, left: int, right: int) -> int:
        """Numbers that one pair takes in the largest array, for trains of so many spikes."""
        return left * right

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        """The distances of a block of pairs, `[N]`."""
        raise NotImplementedError(f"{type(self).__name__} is no distance")


def pairwise(distance: TrainDistance, a: SpikeTrains, b: SpikeTrains | None = None) -> Numbers:
    """The distance of every train of `a` to every train of `b`.

    Args:
        distance: which distance.
        a: spike trains.
        b: spike trains, or None for those of `a`.

    Shapes:
        N and M trains -> `[N, M]`

    Example:
        >>> trains = SpikeTrains.of([[1.0], [3.0], []], duration=8.0)
        >>> pairwise(VictorPurpura(cost=0.5), trains).tolist()
        [[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]
    """
    if b is None:
        rows, columns = np.triu_indices(len(a), 1)
        found = np.zeros((len(a), len(a)))
        found[rows, columns] = found[columns, rows] = distance(a[rows], a[columns])
        return found
    rows, columns = (grid.ravel() for grid in np.indices((len(a), len(b))))
    return distance(a[rows], b[columns]).reshape(len(a), len(b))


@dataclass(frozen=True)
class VictorPurpura(TrainDistance):
    r"""The least total cost of turning one spike train into another by adding, removing and moving spikes.

    .. math:: G_{ij} = \min(G_{i-1,j} + 1,\; G_{i,j-1} + 1,\; G_{i-1,j-1} + q |t_i - s_j|)

    Adding or removing a spike costs 1, and moving it costs `q` per unit of time. At a cost of 0 the distance
    is the difference of the spike counts; at a large cost it is the number of spikes that do not coincide.

    Args:
        cost: q, per unit of the spike times, at least 0.

    Shapes:
        N and N trains -> `[N]`

    Raises:
        InputError: the cost is negative or not a number.

    Example:
        >>> a, b = SpikeTrains.of([[1.0, 5.0]], 8.0), SpikeTrains.of([[1.5]], 8.0)
        >>> VictorPurpura(cost=1.0)(a, b).tolist()
        [1.5]

    Source:
        Victor & Purpura 1996, J. Neurophysiology 76; 1997, Network 8.
    """

    cost: float = 1.0

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and math.isfinite(self.cost)):
            raise InputError(
                "VictorPurpura needs a cost of at least 0", f"cost={self.cost}", "Try cost=1.0 per time step."
            )

    @property
    def title(self) -> str:
        return f"Victor-Purpura, q = {self.cost:g}"

    def room(self, left: int, right: int) -> int:
        return 3 * (min(left, right) + 1)  # three diagonals at a time

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        """Dynamic programming along anti-diagonals, whose cells are independent, for all pairs at once."""
        if a.times.shape[1] > b.times.shape[1]:
            a, b = b, a
        n, m = a.times.shape[1], b.times.shape[1]
        left, right = a.count, b.count
        pairs = len(a)
        rows = np.arange(n + 1)
        before = np.full((pairs, n + 1), np.inf)  # diagonal k - 2, by row
        last = np.full((pairs, n + 1), np.inf)
        last[:, 0] = 0
        answer = np.where(left + right == 0, 0.0, np.nan)
        for k in range(1, n + m + 1):
            here = np.full((pairs, n + 1), np.inf)
            low, high = max(0, k - m), min(n, k)
            inside = slice(low, high + 1)
            here[:, inside] = last[:, inside] + 1  # a spike of b alone
            first = max(low, 1)
            upper = slice(first, high + 1)
            here[:, upper] = np.minimum(here[:, upper], last[:, first - 1 : high] + 1)
            both = slice(first, min(high, k - 1) + 1)
            if both.stop > both.start:
                i = rows[both]
                with np.errstate(invalid="ignore"):
                    moved = self.cost * np.abs(a.times[:, i - 1] - b.times[:, k - i - 1])
                moved = np.where(np.isfinite(moved), moved, np.inf)  # beyond the end of a train
                here[:, both] = np.minimum(here[:, both], before[:, both.start - 1 : both.stop - 1] + moved)
            ends = left + right == k
            answer[ends] = here[ends, left[ends]]
            before, last = last, here
        return answer


@dataclass(frozen=True)
class VanRossum(TrainDistance):
    r"""The distance of two spike trains after filtering with a causal exponential.

    .. math:: D^2 = \frac{1}{\tau} \int_0^\infty (f - g)^2 dt,
        \quad f(t) = \sum_i H(t - t_i)\, e^{-(t - t_i)/\tau}

    One spike alone has the distance :math:`\sqrt{1/2}` to silence. Some libraries leave out the factor 1/2.

    Args:
        tau: time constant of the filter, in the unit of the spike times, positive.

    Shapes:
        N and N trains -> `[N]`

    Raises:
        InputError: the time constant is not positive.

    Example:
        >>> a, b = SpikeTrains.of([[1.0]], 8.0), SpikeTrains.of([[]], 8.0)
        >>> round(float(VanRossum(tau=2.0)(a, b)[0]) ** 2, 12)
        0.5

    Source:
        van Rossum 2001, Neural Computation 13, eq. (2.3); closed form of Houghton & Kreuz 2012.
    """

    tau: float = 1.0

    def __post_init__(self) -> None:
        if not (self.tau > 0 and math.isfinite(self.tau)):
            raise InputError(
                "VanRossum needs a positive tau", f"tau={self.tau}", "Try tau=1.0, one time step."
            )

    @property
    def title(self) -> str:
        return f"van Rossum, tau = {self.tau:g}"

    def room(self, left: int, right: int) -> int:
        return max(left, right) ** 2

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        squared = (self._overlap(a, a) + self._overlap(b, b)) / 2 - self._overlap(a, b)
        return np.sqrt(np.maximum(squared, 0.0))

    def _overlap(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        with np.errstate(invalid="ignore"):
            apart = np.abs(a.times[:, :, None] - b.times[:, None, :]) / self.tau
        overlap: Numbers = np.where(np.isfinite(apart), np.exp(-apart), 0.0).sum(
            (1, 2)
        )  # the rest is padding
        return overlap

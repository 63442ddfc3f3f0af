"""Distances of spike trains without a parameter: inter-spike intervals, spike times, and coincidences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spikeproof.analysis.trains.dissimilarity import TrainDistance
from spikeproof.analysis.trains.spiketrains import SpikeTrains

__all__ = ["ISIDistance", "SPIKEDistance", "SPIKESynchronisation"]

Numbers = NDArray[np.float64]


class Gaps(NamedTuple):
    """The gaps between spikes of one train, of which gap k ends at spike k; gaps before and after count.

    The gap before the first spike is taken to be as long as the one after that spike, if that is longer, and
    likewise at the end, so that the edges of the recording do not look like a burst.
    """

    length: Numbers  # [N, L + 1]
    start: Numbers  # [N, L + 1], the spike that begins the gap
    end: Numbers  # [N, L + 1]


def gaps(trains: SpikeTrains) -> Gaps:
    """The gaps of every train; a train without spikes counts as one with a spike at either edge."""
    times, total = padded(trains), trains.duration
    count = np.isfinite(times).sum(1)
    rows = np.arange(len(times))
    start = np.concatenate([np.full((len(times), 1), -np.inf), times], 1)
    end = np.concatenate([times, np.full((len(times), 1), np.inf)], 1)
    with np.errstate(invalid="ignore"):
        length = end - start
    several = count > 1
    second = np.where(several, length[:, 1] if length.shape[1] > 1 else np.nan, 0.0)
    length[:, 0] = np.maximum(times[:, 0], second)
    previous = np.where(several, length[rows, np.maximum(count - 1, 0)], 0.0)
    length[rows, count] = np.maximum(total - times[rows, count - 1], previous)
    return Gaps(length, start, end)


def padded(trains: SpikeTrains) -> Numbers:
    """Spike times, of which no train is empty: silence has a spike at either edge of the recording."""
    times = trains.times
    if times.shape[1] < 2:
        times = np.concatenate([times, np.full((len(times), 2 - times.shape[1]), np.inf)], 1)
    silence = np.full(times.shape[1], np.inf)
    silence[:2] = 0.0, trains.duration
    return np.where(np.isfinite(times[:, :1]), times, silence)


class Stretches(NamedTuple):
    """The stretches of time between two spikes of either train."""

    begin: Numbers  # [N, S]
    stop: Numbers  # [N, S]
    left: NDArray[np.int64]  # the gap of the first train that it lies in
    right: NDArray[np.int64]


def stretches(a: SpikeTrains, b: SpikeTrains) -> Stretches:
    """The recording, cut at every spike of both trains."""
    x, y, n = padded(a), padded(b), len(a)
    edges = np.concatenate([np.zeros((n, 1)), x, y, np.full((n, 1), a.duration)], 1)
    edges = np.sort(np.minimum(edges, a.duration), 1)
    begin, stop = edges[:, :-1], edges[:, 1:]
    middle = (begin + stop)[..., None] / 2
    return Stretches(begin, stop, (x[:, None] < middle).sum(-1), (y[:, None] < middle).sum(-1))


def mean_over_time(values: Numbers, cut: Stretches, duration: float) -> Numbers:
    """The mean of a profile over the recording, of which each stretch has one value."""
    width = cut.stop - cut.begin
    total: Numbers = (np.where(width > 0, values, 0.0) * width).sum(1)
    return total / duration


@dataclass(frozen=True)
class ISIDistance(TrainDistance):
    r"""The relative difference of the inter-spike intervals that two trains are in, averaged over time.

    .. math:: D = \frac{1}{T} \int_0^T \frac{|x_1(t) - x_2(t)|}{\max(x_1(t), x_2(t))}\, dt

    `x(t)` is the inter-spike interval at time t. It compares local rates and ignores coincidences.

    Shapes:
        N and N trains -> `[N]`, in [0, 1)

    Example:
        >>> a, b = SpikeTrains.of([[2.0, 4.0, 6.0]], 8.0), SpikeTrains.of([[4.0]], 8.0)
        >>> ISIDistance()(a, b).tolist()
        [0.5]

    Source:
        Kreuz et al. 2007, J. Neuroscience Methods 165; edges as in Mulansky & Kreuz 2016 (PySpike).
    """

    @property
    def title(self) -> str:
        return "ISI"

    def room(self, left: int, right: int) -> int:
        return (left + right + 5) * (max(left, right) + 2)

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        cut = stretches(a, b)
        x, y = _at(gaps(a).length, cut.left), _at(gaps(b).length, cut.right)
        with np.errstate(invalid="ignore", divide="ignore"):
            profile = np.abs(x - y) / np.maximum(x, y)
        return mean_over_time(profile, cut, a.duration)


@dataclass(frozen=True)
class SPIKEDistance(TrainDistance):
    r"""How far spikes are from the nearest spike of the other train, relative to the local intervals.

    .. math:: D = \frac{1}{T} \int_0^T \frac{S_1 x_2 + S_2 x_1}{2 \langle x \rangle^2}\, dt, \quad
        S_1(t) = \frac{d_P x_F + d_F x_P}{x_1}

    `x` are the inter-spike intervals at time t and :math:`\langle x \rangle` their mean; `d_P` and `d_F` are
    the distances of the previous and the following spike of the train to the nearest spike of the other, and
    `x_P` and `x_F` the times to these spikes.

    Shapes:
        N and N trains -> `[N]`, in [0, 1]

    Example:
        >>> a = SpikeTrains.of([[2.0, 4.0, 6.0]], 8.0)
        >>> SPIKEDistance()(a, a).tolist()
        [0.0]

    Source:
        Kreuz et al. 2013, J. Neurophysiology 109, eqs. (15)-(19); edges as in
        Mulansky & Kreuz 2016 (PySpike).
    """

    @property
    def title(self) -> str:
        return "SPIKE"

    def room(self, left: int, right: int) -> int:
        return (left + right + 5) * (max(left, right) + 3)

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        cut, first, second = stretches(a, b), gaps(a), gaps(b)
        x, y = _at(first.length, cut.left), _at(second.length, cut.right)
        near, nearer = _nearest(a, b), _nearest(b, a)
        ends = []
        for moment in (cut.begin, cut.stop):
            s, r = _weighted(first, near, cut.left, moment), _weighted(second, nearer, cut.right, moment)
            with np.errstate(invalid="ignore", divide="ignore"):
                ends.append(2 * (s * y + r * x) / (x + y) ** 2)
        return mean_over_time((ends[0] + ends[1]) / 2, cut, a.duration)  # linear within a stretch


@dataclass(frozen=True)
class SPIKESynchronisation(TrainDistance):
    r"""The share of spikes that do not coincide with a spike of the other train.

    .. math:: D = 1 - \frac{C}{n_1 + n_2}, \quad
        \tau_{ij} = \tfrac12 \min(\text{the intervals before and after } t_i \text{ and } s_j)

    Spikes coincide where they are closer than :math:`\tau_{ij}`; C counts the coincident spikes of both
    trains. Two silent trains have the distance 0.

    Shapes:
        N and N trains -> `[N]`, in [0, 1]

    Example:
        >>> a, b = SpikeTrains.of([[1.0, 5.0]], 8.0), SpikeTrains.of([[1.5]], 8.0)
        >>> round(float(SPIKESynchronisation()(a, b)[0]), 6)
        0.333333

    Source:
        Kreuz, Mulansky & Bozanic 2015, J. Neurophysiology 113, eqs. (3)-(6).
    """

    @property
    def title(self) -> str:
        return "SPIKE synchronisation"

    def between(self, a: SpikeTrains, b: SpikeTrains) -> Numbers:
        with np.errstate(invalid="ignore"):
            apart = np.abs(a.times[:, :, None] - b.times[:, None, :])
        window = np.minimum(_half(a)[:, :, None], _half(b)[:, None, :])
        meet = (apart < window) | (apart == 0)  # inf - inf is NaN, and neither
        together = meet.any(2).sum(1) + meet.any(1).sum(1)
        total = a.count + b.count
        return np.where(total > 0, 1 - together / np.maximum(total, 1), 0.0)


def _at(values: Numbers, index: NDArray[np.int64]) -> Numbers:
    return np.take_along_axis(values, index, 1)


def _half(trains: SpikeTrains) -> Numbers:
    """Half of the shorter interval beside each spike, at most half of the recording."""
    edge = np.full((len(trains), 1), trains.duration)
    apart = np.nan_to_num(trains.intervals(), nan=trains.duration)
    before, after = np.concatenate([edge, apart], 1), np.concatenate([apart, edge], 1)
    nearer: Numbers = np.minimum(np.minimum(before, after), trains.duration)
    return nearer[:, : trains.times.shape[1]] / 2


def _nearest(a: SpikeTrains, b: SpikeTrains) -> Numbers:
    """Distance of each spike of `a` to the nearest of `b`, to which a spike beyond either edge is added."""
    x, y, total = padded(a), padded(b), b.duration
    count = np.isfinite(y).sum(1)
    rows = np.arange(len(y))
    several = count > 1
    first, last = y[:, 0], y[rows, count - 1]
    lead = np.where(several, y[:, 1] - first, 0.0)
    tail = np.where(several, last - y[rows, np.maximum(count - 2, 0)], 0.0)
    beyond = np.stack(
        [
            np.where(several, np.minimum(0.0, first - lead), 0.0),
            np.where(several, np.maximum(total, last + tail), total),
        ],
        1,
    )
    others = np.concatenate([y, beyond], 1)
    with np.errstate(invalid="ignore"):
        apart = np.abs(x[:, :, None] - others[:, None, :])
    near: Numbers = np.where(np.isnan(apart), np.inf, apart).min(2)
    return near


def _weighted(own: Gaps, near: Numbers, index: NDArray[np.int64], moment: Numbers) -> Numbers:
    """The distance to the other train at a moment, between those of the spikes before and after it."""
    count = np.isfinite(own.end).sum(1, keepdims=True)  # the last gap has no end
    before = _at(near, np.clip(index - 1, 0, count - 1))
    after = _at(near, np.clip(index, 0, count - 1))
    inner = (index > 0) & (index < count)
    start, end = _at(own.start, index), _at(own.end, index)
    with np.errstate(invalid="ignore", divide="ignore"):
        between = (before * (end - moment) + after * (moment - start)) / (end - start)
    value: Numbers = np.where(inner, between, np.where(index == 0, after, before))
    return value

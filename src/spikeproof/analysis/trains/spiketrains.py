"""Spike trains as lists of spike times, made from spikes per time step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from spikeproof.errors import InputError

__all__ = ["SpikeTrains", "spike_trains"]

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class SpikeTrains:
    """Spike trains of the same duration, as sorted spike times with padding at the end.

    Args:
        times: spike times in [0, duration], sorted, and infinity after the last spike of a train.
        duration: length of the recording, in the unit of the times, positive.

    Shapes:
        times `[N, L]`, where L is the largest number of spikes

    Raises:
        InputError: the times are not sorted, lie outside the recording, or are not numbers.

    Example:
        >>> trains = SpikeTrains.of([[1.0, 4.0], []], duration=8.0)
        >>> trains.count.tolist(), trains[0].times.tolist()
        ([2, 0], [[1.0, 4.0]])
    """

    times: Numbers
    duration: float

    def __post_init__(self) -> None:
        if not (self.duration > 0 and math.isfinite(self.duration)):
            raise InputError(
                "Spike trains need a positive duration", f"duration={self.duration}", "Give the time T dt."
            )
        times = self.times
        if times.ndim != 2 or np.isnan(times).any():
            raise InputError(
                "Spike trains need spike times [N, L] that are numbers",
                f"shape {list(times.shape)}" if times.ndim != 2 else "NaN",
                "Use SpikeTrains.of for lists of spike times.",
            )
        if (times[:, 1:] < times[:, :-1]).any():
            raise InputError("Spike trains need sorted spike times", "unsorted ones", "Sort each train.")
        spikes = times[np.isfinite(times)]
        if spikes.size and (spikes.min() < 0 or spikes.max() > self.duration):
            raise InputError(
                f"Spike times of a recording lie in [0, {self.duration:g}]",
                f"times from {spikes.min():g} to {spikes.max():g}",
                "Subtract the start of the recording, or give its whole duration.",
            )

    @classmethod
    def of(cls, trains: Sequence[Sequence[float]], duration: float) -> SpikeTrains:
        """Spike trains from one list of times for each.

        Args:
            trains: sorted spike times of each train; a list may be empty.
            duration: length of the recording, positive.
        """
        width = max((len(train) for train in trains), default=0)
        times = np.full((len(trains), width), np.inf)
        for row, train in zip(times, trains, strict=True):
            row[: len(train)] = train
        return cls(times, duration)

    @property
    def count(self) -> NDArray[np.int64]:
        """Number of spikes of each train, `[N]`."""
        found: NDArray[np.int64] = np.isfinite(self.times).sum(1)
        return found

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, chosen: int | slice | NDArray[np.int64] | NDArray[np.bool_]) -> SpikeTrains:
        rows = slice(chosen, chosen + 1 or None) if isinstance(chosen, int) else chosen
        return SpikeTrains(self.times[rows], self.duration)

    def intervals(self) -> Numbers:
        """Inter-spike intervals `[N, L - 1]`, and NaN where a train has none."""
        if self.times.shape[1] < 2:
            return np.full((len(self), 0), np.nan)
        with np.errstate(invalid="ignore"):
            found = np.diff(self.times, axis=1)
        return np.where(np.isfinite(found), found, np.nan)


def spike_trains(spikes: Float[Tensor, "T *N"], dt: float = 1.0) -> SpikeTrains:
    r"""The spike trains that spikes per time step are, a spike of step t at the middle of its step.

    .. math:: t_i = (t + 1/2)\, dt, \quad duration = T\, dt

    A value other than 0 is one spike, whatever its amplitude.

    Args:
        spikes: spikes per time step, of any number of neurons.
        dt: length of one time step, in any unit of time, positive.

    Shapes:
        spikes `[T, *N]` -> as many trains as N has elements, in the order of `spikes[0].flatten()`

    Raises:
        InputError: there is no time step, `dt` is not positive, or a value is NaN.

    Example:
        >>> import torch
        >>> spike_trains(torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])).times.tolist()
        [[0.5, 2.5], [inf, inf]]
    """
    if spikes.ndim < 1 or not len(spikes) or not (dt > 0 and math.isfinite(dt)):
        raise InputError(
            "spike_trains() needs at least one time step of positive length",
            f"shape {list(spikes.shape)}, dt={dt}",
            "Give spikes [T, ...] and dt in your unit of time.",
        )
    if bool(spikes.isnan().any()):
        raise InputError(
            "spike_trains() needs spikes that are numbers", "NaN", "Look for the layer that made them."
        )
    fired = spikes.detach().reshape(len(spikes), spikes.shape[1:].numel()).ne(0).cpu().numpy().T
    width = int(fired.sum(1).max()) if fired.size else 0
    steps = np.where(fired, (np.arange(len(spikes)) + 0.5) * dt, np.inf)
    return SpikeTrains(np.sort(steps, axis=1)[:, :width], len(spikes) * dt)

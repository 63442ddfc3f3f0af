"""What an attack changes in the spikes of each layer: their number, and their times."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from spikeproof.analysis.trains.dissimilarity import VictorPurpura
from spikeproof.analysis.trains.spiketrains import spike_trains
from spikeproof.errors import InputError

__all__ = ["Change", "spike_change"]


class Change(NamedTuple):
    """The distance between the spikes of a layer for two inputs, in spikes added or removed per neuron."""

    counts: float  # spikes that were added or removed, whatever their times
    times: float  # what remains: the spikes that moved
    rate: float  # mean spikes per neuron for the first input


def spike_change(
    before: Float[Tensor, "T B *F"], after: Float[Tensor, "T B *F"], cost: float = 1.0
) -> Change:
    r"""The mean distance of the spike trains of a layer, split into a part of counts and a part of times.

    .. math:: D_q = \underbrace{D_0}_{counts} + \underbrace{(D_q - D_0)}_{times}

    `D_q` is the Victor-Purpura distance at a cost of q per time step, averaged over neurons and examples;
    `D_0` is the mean difference of spike counts.

    Args:
        before: the spikes of a layer, such as for clean images.
        after: the spikes of the same neurons, such as for attacked images.
        cost: q, of moving a spike by one time step; from 2 on a moved spike is one removed and one added.

    Shapes:
        `[T, B, *F]` and `[T, B, *F]`

    Raises:
        InputError: the shapes differ.

    Example:
        >>> import torch
        >>> early, late = torch.eye(4)[[0]].T.reshape(4, 1, 1), torch.eye(4)[[2]].T.reshape(4, 1, 1)
        >>> spike_change(early, late, cost=0.5)
        Change(counts=0.0, times=1.0, rate=1.0)

    Source:
        Victor & Purpura 1997, Network 8; the split is the usual one of D at q = 0 against q > 0.
    """
    if before.shape != after.shape or before.ndim < 2:
        raise InputError(
            "spike_change() compares spikes [T, B, ...] of the same neurons",
            f"shapes {list(before.shape)} and {list(after.shape)}",
            "Give the spikes of one layer, for two inputs.",
        )
    moved = (before != 0) != (after != 0)
    rate = float((before != 0).sum(0).double().mean()) if before.numel() else 0.0
    total = max(1, moved[0].numel())
    differ = moved.any(0).flatten()  # equal trains have the distance 0, and most are equal
    if not bool(differ.any()):
        return Change(0.0, 0.0, rate)
    chosen = [spikes.flatten(1)[:, differ] for spikes in (before, after)]
    a, b = (spike_trains(spikes) for spikes in chosen)
    counts = float(np.abs(a.count - b.count).sum()) / total
    whole = float(VictorPurpura(cost)(a, b).sum()) / total
    return Change(counts, max(0.0, whole - counts), rate)

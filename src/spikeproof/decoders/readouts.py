"""Decoders that weigh all time steps alike or read first spikes, and the decision made from scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["UNDECIDED", "Count", "Earliest", "FirstSpike", "MeanPotential", "decide", "silent"]

UNDECIDED = -1


@dataclass(frozen=True)
class Count:
    r"""Spike count: the class whose output neuron fires most often.

    .. math:: y_k = \sum_t o_k[t]

    Shapes:
        outputs `[T, B, K]` in {0, 1} -> logits `[B, K]` in 0..T

    Example:
        >>> Count()(torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]]])).tolist()
        [[2.0, 1.0]]

    Source:
        Ding et al. 2023 (`spike_count`); Diehl & Cook 2015.
    """

    reads_spikes: ClassVar[bool] = True

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return outputs.sum(0)


@dataclass(frozen=True)
class MeanPotential:
    r"""Mean membrane potential of output neurons that integrate and never fire.

    .. math:: y_k = \frac{1}{T}\sum_t v_k[t]

    Shapes:
        outputs `[T, B, K]` -> logits `[B, K]`

    Example:
        >>> MeanPotential()(torch.tensor([[[1.0, 0.0]], [[2.0, 1.0]]])).tolist()
        [[1.5, 0.5]]

    Source:
        SNN-RAT and its successors, `net(x).mean(0)`.
    """

    reads_spikes: ClassVar[bool] = False

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return outputs.mean(0)


@dataclass(frozen=True)
class FirstSpike:
    r"""First spike: the class whose output neuron fires first.

    .. math:: y_k = -t_k, \quad t_k = \sum_{t=0}^{T-1} \prod_{u \le t} (1 - o_k[u])

    `t_k` is the number of time steps before the first spike, and T for a neuron that stays silent. It is
    written as a polynomial in the spikes, whose derivative with respect to each `o_k[u]` is exactly the
    change of `t_k` when this one spike is added or removed. Silent neurons therefore receive a gradient at
    every step, and no arg-max has to choose a step for them.

    Shapes:
        outputs `[T, B, K]` in {0, 1} -> logits `[B, K]` in -T..0

    Example:
        >>> FirstSpike()(torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])).tolist()
        [[-1.0, -2.0]]

    Source:
        Decision as in Ding et al. 2023 (first-spike decoding); the multilinear form of the time is ours.
    """

    reads_spikes: ClassVar[bool] = True

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return -torch.cumprod(1 - outputs, 0).sum(0)


@dataclass(frozen=True)
class Earliest:
    r"""Earliest spike, for networks of spike times: the class whose output neuron spikes first.

    .. math:: y_k = e_k = horizon - t_k

    with 0 for an output neuron that stays silent. Equal times give no decision, and neither does silence of
    all output neurons. The published code of S4NN counts a tie as correct if the label is among the earliest
    classes, which raises every accuracy and hides the effect of an attack.

    Shapes:
        earliness `[1, B, K]` -> logits `[B, K]`

    Example:
        >>> Earliest()(torch.tensor([[[0.0, 2.5, 1.0]]])).tolist()
        [[0.0, 2.5, 1.0]]

    Source:
        Goeltz et al. 2021; Kheradpisheh & Masquelier 2020 (S4NN), section 2.4, without its rule for ties.
    """

    timed: ClassVar[bool] = True
    reads_spikes: ClassVar[bool] = True

    def __call__(self, outputs: Float[Tensor, "1 B K"]) -> Float[Tensor, "B K"]:
        return outputs.sum(0)


def decide(logits: Float[Tensor, "B K"]) -> Int64[Tensor, "B"]:
    """The class with the unique best score, or -1 where there is none.

    Infinite scores are compared as they are: a class at minus infinity never wins, and two at plus infinity
    tie. A score that is no number is no decision.

    Example:
        >>> inf, nan = float("inf"), float("nan")
        >>> decide(torch.tensor([[1.0, 3.0], [2.0, 2.0], [nan, 1.0], [2.0, -inf], [inf, inf]])).tolist()
        [1, -1, -1, 0, -1]
    """
    best, choice = logits.max(-1)
    unique = (logits == best[:, None]).sum(-1) == 1
    usable = unique & ~logits.isnan().any(-1)
    return torch.where(usable, choice, UNDECIDED)


def silent(outputs: Float[Tensor, "T B K"]) -> Bool[Tensor, "B"]:
    """Whether the outputs are zero at all time steps and for all classes.

    Example:
        >>> silent(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])).tolist()
        [True, False]
    """
    return (outputs == 0).all(-1).all(0)

"""Decoders that read counts, means and first spikes, and the decision made from scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["UNDECIDED", "Count", "Earliest", "FirstSpike", "MeanCurrent", "MeanPotential", "decide", "silent"]

UNDECIDED = -1


@dataclass(frozen=True)
class Count:
    r"""Spike count: the class whose output neuron fires most often.

    .. math:: y_k = \sum_t o_k[t]

    Weight of a step: 1 for an output spike at any step. A current has no fixed weight, because it stays in
    the potential of an output neuron until this fires: what arrives at the last steps may never be counted.

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
class MeanCurrent:
    r"""Mean current into the output layer, which has no neurons; all time steps weigh the same.

    .. math:: y_k = \frac{1}{T}\sum_t I_k[t]

    Weight of a step: 1/T for the current at any step. Comparisons of codes that differ in when they spike
    need this decoder, because a decoder that favours some steps favours the codes that use them, or exposes
    them. The logits do not depend on the kind of neuron other than through the hidden layers. For an ANN twin
    they are those of `mean-potential`.

    Shapes:
        currents `[T, B, K]` -> logits `[B, K]`

    Example:
        >>> MeanCurrent()(torch.tensor([[[1.0, 0.0]], [[2.0, 1.0]]])).tolist()
        [[1.5, 0.5]]

    Source:
        The published code of SNN-RAT, RGA, HART, FEEL-SNN and PDSG, `net(x).mean(0)` of a last linear layer.
    """

    reads_spikes: ClassVar[bool] = False
    reads_current: ClassVar[bool] = True

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return outputs.mean(0)


@dataclass(frozen=True)
class MeanPotential:
    r"""Mean membrane potential of output neurons that integrate and never fire; early steps weigh more.

    .. math:: y_k = \frac{1}{T}\sum_t v_k[t]

    Weight of a step: 1/T for the potential at any step. A current stays in the potential and is read again at
    every later step. With the share d of a potential that is left after a step, the current at step s of a
    neuron such as LIF weighs

    .. math:: w[s] = \frac{1}{T}\sum_{t=s}^{T-1} d^{t-s} = \frac{1 - d^{T-s}}{T (1 - d)},

    and `(T - s) / T` for IF, where d = 1. The first of 4, 8 and 16 steps outweighs the last 2.9, 3.9 and 4.4
    times with the default LIF, and T times with IF. Use `mean-current` to compare codes.

    Shapes:
        outputs `[T, B, K]` -> logits `[B, K]`

    Example:
        >>> MeanPotential()(torch.tensor([[[1.0, 0.0]], [[2.0, 1.0]]])).tolist()
        [[1.5, 0.5]]

    Source:
        Customary for networks whose output neurons only integrate, e.g. Bellec et al. 2018. The published
        `net(x).mean(0)` of SNN-RAT and its successors is `mean-current`.
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

    Weight of a step: T - t for the first spike, at step t, and 0 for all later spikes, whatever they are.

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

    Weight of a time: `horizon - t` for a spike at time t, so that the weight falls linearly.

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
    best, choice = logits.max(-1)  # NaN where a score is NaN, which equals none
    unique = (logits == best[:, None]).sum(-1) == 1
    return torch.where(unique, choice, UNDECIDED)


def silent(outputs: Float[Tensor, "T B K"]) -> Bool[Tensor, "B"]:
    """Whether the outputs are zero at all time steps and for all classes.

    Example:
        >>> silent(torch.tensor([[[0.0, 0.0], [0.0, 1.0]]])).tolist()
        [True, False]
    """
    return (outputs == 0).all(-1).all(0)

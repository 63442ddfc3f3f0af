"""Decoders that weigh every time step: from the spike count to the first spike."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError

__all__ = ["Geometric", "Weighted"]


@dataclass(frozen=True)
class Weighted:
    r"""Temporally weighted activity: the score of a class is the weighted sum of its activity over time.

    .. math:: y_k = \sum_t w[t]\, o_k[t]

    If all weights are 1, this is the spike count; falling weights make early spikes count more. If there are
    fewer steps than weights, the first weights apply, so an early exit reads a partial sum of the whole
    decoder.

    Weight of a step: `w[t]` for a spike or a potential at step t. With potentials, a current at step s is
    read again at every later step and weighs `sum_{t >= s} w[t] d^(t - s)`, with the share d of a potential
    that is left after a step; uniform weights favour early currents.

    Args:
        weights: one finite weight per time step, at least as many as the encoder has steps.
        spikes: whether output neurons fire; otherwise their potential is weighted.

    Shapes:
        outputs `[T, B, K]` -> logits `[B, K]`

    Raises:
        InputError: there are no weights, a weight is not finite, or there are more steps than weights.

    Example:
        >>> Weighted((3.0, 2.0, 1.0))(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])).tolist()
        [[3.0, 3.0]]

    Source:
        Rueckauer & Liu 2018 and the customary decoders that favour early spikes; any weights are ours.
    """

    weights: tuple[float, ...]
    spikes: bool = True

    def __post_init__(self) -> None:
        if not self.weights or not all(map(math.isfinite, self.weights)):
            raise InputError(
                "Weighted needs one finite weight per step",
                f"weights={self.weights}",
                "Try (1.0, 0.5, 0.25).",
            )

    @property
    def reads_spikes(self) -> bool:
        """Whether output neurons fire."""
        return self.spikes

    def check(self, steps: int) -> None:
        """Refuse more steps than weights."""
        if steps > len(self.weights):
            raise InputError(
                f"Weighted has weights for {len(self.weights)} steps",
                f"{steps} steps",
                "Give a weight for every step of the encoder.",
            )

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        self.check(len(outputs))
        return _weighted(outputs, self.weights)


@dataclass(frozen=True)
class Geometric:
    r"""Geometrically weighted activity, between the spike count and the first spike.

    .. math:: y_k = \sum_t \gamma^t\, o_k[t]

    With `gamma = 1` this is the spike count. With 1/2, spike trains are ordered as binary fractions: the
    earlier first spike wins whatever comes later, equal first spikes are decided by the second spike, and so
    on, so that only equal spike trains tie. Single precision resolves 24 steps of such a fraction; trains
    that differ only in later steps tie.

    Weight of a step: `gamma^t` for a spike or a potential at step t. With potentials, a current at step s
    weighs `gamma^s (1 - (gamma d)^(T - s)) / (1 - gamma d)`, with the share d of a potential that is left
    after a step, which favours early currents still more.

    Args:
        gamma: weight of a step relative to the one before, in (0, 1].
        spikes: whether output neurons fire; otherwise their potential is weighted.

    Shapes:
        outputs `[T, B, K]` -> logits `[B, K]`

    Raises:
        InputError: gamma is out of range.

    Example:
        >>> Geometric(0.5)(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])).tolist()
        [[1.0, 0.75]]

    Source:
        The weights `gamma^t` and `2^-t` that are customary between rate and latency.
    """

    gamma: float = 0.5
    spikes: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.gamma <= 1:
            raise InputError("Geometric needs gamma in (0, 1]", f"gamma={self.gamma}", "Try 0.5.")

    @property
    def reads_spikes(self) -> bool:
        """Whether output neurons fire."""
        return self.spikes

    def __call__(self, outputs: Float[Tensor, "T B K"]) -> Float[Tensor, "B K"]:
        return _weighted(outputs, [self.gamma**t for t in range(len(outputs))])


def _weighted(outputs: Float[Tensor, "T B K"], weights: tuple[float, ...] | list[float]) -> Tensor:
    column = torch.tensor(weights[: len(outputs)], dtype=outputs.dtype, device=outputs.device)
    return (column[:, None, None] * outputs).sum(0)

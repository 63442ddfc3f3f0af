r"""Early exits: decoders that decide before the last time step.

The decision is made by the inner decoder on the outputs up to the exit; later outputs have no influence on
it. The exit time is a step function of the outputs and has no derivative, so gradients are taken of the
logits at the exit that was reached. They are right as long as the exit time stays the same, they do not show
that a perturbation could make the exit earlier or later, and they are exactly zero with respect to all later
outputs. An attack that follows these gradients alone may be weak. Before a robust accuracy is believed, the
model should also be attacked with the objective `prefix-mean`, which depends on every exit, and with a search
without gradients.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.decoders.wrapping import Wrapping, prefixes, refuse
from spikeproof.errors import InputError

__all__ = ["ConfidenceExit", "FirstSpikeExit", "FixedExit", "MarginExit"]


@dataclass(frozen=True)
class _EarlyExit(Wrapping):
    """A decoder that decides at the first step at which its criterion is met, or else at the last step."""

    dynamic: ClassVar[bool] = True
    """Whether the exit time depends on the outputs."""

    def __post_init__(self) -> None:
        refuse(self, self.decoder)

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        """Whether the criterion is met after each step, given the logits of all prefixes of the outputs."""
        raise NotImplementedError(f"{type(self).__name__} defines no exit")

    def exits(self, outputs: Float[Tensor, "T B N"]) -> Int64[Tensor, "B"]:
        """Number of steps used, 1..T."""
        with torch.no_grad():
            return self._exits(prefixes(self.decoder, outputs), outputs)

    def _exits(self, logits: Tensor, outputs: Tensor) -> Int64[Tensor, "B"]:
        good = self.enough(logits.detach(), outputs.detach())
        first = good.to(torch.uint8).argmax(0)  # the first of equal values
        return torch.where(good.any(0), first + 1, len(outputs))

    def __call__(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "B K"]:
        logits = prefixes(self.decoder, outputs)
        last = (self._exits(logits, outputs) - 1)[None, :, None].expand(1, *logits.shape[1:])
        return logits.gather(0, last)[0]


@dataclass(frozen=True)
class FixedExit(_EarlyExit):
    r"""Fixed early exit: the decision is made after a fixed number of time steps.

    .. math:: y = D(o[0..t_e-1])

    If the outputs have fewer steps, all of them are read.

    Weight of a step: that of the inner decoder for `t_e` steps, and 0 from step `t_e` on.

    Args:
        decoder: the inner decoder.
        steps: number of time steps before the decision, at least 1 and at most the encoder's number of steps.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: no step, more steps than the encoder has, or an inner decoder that exits early itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> FixedExit(Count(), 1)(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).tolist()
        [[1.0, 0.0]]

    Source:
        The early-exit decoding of spiking networks whose decoder is cut off after so many steps.
    """

    dynamic: ClassVar[bool] = False
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError("FixedExit needs at least one step", f"steps={self.steps}", "Try 2.")

    def check(self, steps: int) -> None:
        """Refuse an exit after the last time step, and whatever the inner decoder refuses."""
        super().check(steps)
        if self.steps > steps:
            raise InputError(
                f"FixedExit needs an exit within the {steps} steps of the encoder",
                f"steps={self.steps}",
                "Exit earlier.",
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        steps = torch.arange(1, len(outputs) + 1, device=outputs.device)
        return (steps >= self.steps)[:, None].expand(outputs.shape[:2])


@dataclass(frozen=True)
class ConfidenceExit(_EarlyExit):
    r"""Early exit by confidence: the decision is made as soon as the softmax of one class is large enough.

    .. math:: t^* = \min\{t : \max_k \mathrm{softmax}(y^{(t)} / \vartheta)_k \ge \theta\}

    where `y^(t)` are the logits of the first t steps; the exit is T if there is no such step. Scores that are
    NaN never reach the threshold.

    Weight of a step: that of the inner decoder for `t^*` steps, and 0 afterwards.

    Args:
        decoder: the inner decoder.
        threshold: smallest confidence at which a decision is made, in (0, 1].
        temperature: scale of the logits, in their unit, positive.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: a setting is out of range, or the inner decoder exits early itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> spikes = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> ConfidenceExit(Count(), 0.8).exits(spikes).tolist()
        [2]

    Source:
        Teerapittayanon et al. 2016 (BranchyNet), over time steps in place of layers; Li et al. 2023 (SEENN).
    """

    threshold: float = 0.9
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.threshold <= 1 and 0 < self.temperature < math.inf):
            raise InputError(
                "ConfidenceExit needs a threshold in (0, 1] and a positive temperature",
                f"threshold={self.threshold}, temperature={self.temperature}",
                "Try 0.9 and 1.0.",
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        return (logits / self.temperature).softmax(-1).amax(-1) >= self.threshold


@dataclass(frozen=True)
class MarginExit(_EarlyExit):
    r"""Early exit by margin: the decision is made as soon as the best class leads the second by enough.

    .. math:: t^* = \min\{t : y^{(t)}_{\pi_1} - y^{(t)}_{\pi_2} \ge \theta\}

    where `y^(t)` are the logits of the first t steps; the exit is T if there is no such step.

    Weight of a step: that of the inner decoder for `t^*` steps, and 0 afterwards.

    Args:
        decoder: the inner decoder.
        threshold: smallest lead at which a decision is made, in the unit of the logits, positive, so that a
            tie never causes an exit.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: the threshold is out of range, or the inner decoder exits early itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> spikes = torch.tensor([[[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> MarginExit(Count(), 1.0).exits(spikes).tolist()
        [2]

    Source:
        Chen et al. 2023 and others: the gap between the two best outputs as the criterion to stop.
    """

    threshold: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold < math.inf:
            raise InputError(
                "MarginExit needs a positive threshold", f"threshold={self.threshold}", "Try 2.0."
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        top = logits.topk(2, -1).values
        return top[..., 0] - top[..., 1] >= self.threshold


@dataclass(frozen=True)
class FirstSpikeExit(_EarlyExit):
    r"""Early exit by first spike: the decision is made at the step in which the first output neuron fires.

    .. math:: t_e = \min\{t : \max_k o_k[t] > 0\}, \quad y = D(o[0..t_e])

    If several neurons fire first, the inner decoder decides between them or reports a tie. If none fires, the
    exit is the last step.

    Weight of a step: that of the inner decoder up to the first spike of any class, and 0 afterwards.

    Args:
        decoder: the inner decoder, which must read spikes.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: the inner decoder reads potentials only, or exits early itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> spikes = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]]])
        >>> FirstSpikeExit(Count()).exits(spikes).tolist(), FirstSpikeExit(Count())(spikes).tolist()
        ([2], [[1.0, 0.0]])

    Source:
        Time-to-first-spike decisions, e.g. Kheradpisheh & Masquelier 2020, as a rule to stop.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.decoder.reads_spikes:
            raise InputError(
                "FirstSpikeExit needs a decoder of spikes", repr(self.decoder), "Try count or first-spike."
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        return (self.activity(outputs) != 0).any(-1)

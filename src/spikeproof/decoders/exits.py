r"""Early exits: read-outs that decide before the last step.

The decision is that of the read-out inside on the outputs until the exit, and no later output has a part in
it. When an exit happens is a step function of the outputs and has no derivative. The gradient is that of the
logits at the exit really taken: right for a decision that stays where it is, blind to one that could be made
to come earlier or later, and exactly zero by all later outputs. An attack that follows it alone may be weak.
Put one with the objective `prefix-mean`, which sees every exit, and a search without gradients beside it
before a robust accuracy is believed.
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
    """A read-out that decides at the first step that is good enough, or else at the last."""

    dynamic: ClassVar[bool] = True
    """Whether outputs have a say in when."""

    def __post_init__(self) -> None:
        refuse(self, self.decoder)

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        """Whether to decide after each step, from the logits of all prefixes."""
        raise NotImplementedError(f"{type(self).__name__} knows no exit")

    def exits(self, outputs: Float[Tensor, "T B N"]) -> Int64[Tensor, "B"]:
        """Number of steps used, 1..T."""
        with torch.no_grad():
            return self._exits(prefixes(self.decoder, outputs), outputs)

    def _exits(self, logits: Tensor, outputs: Tensor) -> Int64[Tensor, "B"]:
        good = self.enough(logits.detach(), outputs.detach())
        first = good.to(torch.uint8).argmax(0)  # of equals the first
        return torch.where(good.any(0), first + 1, len(outputs))

    def __call__(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "B K"]:
        logits = prefixes(self.decoder, outputs)
        last = (self._exits(logits, outputs) - 1)[None, :, None].expand(1, *logits.shape[1:])
        return logits.gather(0, last)[0]


@dataclass(frozen=True)
class FixedExit(_EarlyExit):
    r"""Fixed early exit: the decision after a number of steps.

    .. math:: y = D(o[0..t_e-1])

    Outputs of fewer steps are read as far as they go.

    Args:
        decoder: the read-out.
        steps: number of steps before the decision, at least 1 and at most that of the code.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: no step, more steps than the code has, or a read-out that exits itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> FixedExit(Count(), 1)(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).tolist()
        [[1.0, 0.0]]

    Source:
        The early-exit decoding of spiking networks whose read-out is cut off after so many steps.
    """

    dynamic: ClassVar[bool] = False
    steps: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise InputError("FixedExit needs at least one step", f"steps={self.steps}", "Try 2.")

    def check(self, steps: int) -> None:
        """Refuse an exit that would never come, and what the read-out inside refuses."""
        super().check(steps)
        if self.steps > steps:
            raise InputError(
                f"FixedExit after at most the {steps} steps of the code", f"{self.steps}", "Exit earlier."
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        steps = torch.arange(1, len(outputs) + 1, device=outputs.device)
        return (steps >= self.steps)[:, None].expand(outputs.shape[:2])


@dataclass(frozen=True)
class ConfidenceExit(_EarlyExit):
    r"""Confident early exit: the decision as soon as one class has a large share of the soft-max.

    .. math:: t^* = \min\{t : \max_k \mathrm{softmax}(y^{(t)} / \vartheta)_k \ge \theta\}

    with the logits of the first t steps; T where there is no such step. Scores that are not numbers give no
    confidence.

    Args:
        decoder: the read-out.
        threshold: least confidence, in (0, 1].
        temperature: scale of the logits, in their unit, positive.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: a setting out of range, or a read-out that exits itself.

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
    r"""Early exit by margin: the decision as soon as the best class leads the second by enough.

    .. math:: t^* = \min\{t : y^{(t)}_{\pi_1} - y^{(t)}_{\pi_2} \ge \theta\}

    with the logits of the first t steps; T where there is no such step.

    Args:
        decoder: the read-out.
        threshold: least lead, in the unit of the logits, positive: a tie never ends the wait.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: a threshold out of range, or a read-out that exits itself.

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
    r"""Early exit by the first output spike: the decision in the step in which any output neuron fires first.

    .. math:: t_e = \min\{t : \max_k o_k[t] > 0\}, \quad y = D(o[0..t_e])

    Where several fire first the read-out inside decides, or nothing does; silence lasts to the last step.

    Args:
        decoder: the read-out, one of spikes.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: a read-out of potentials alone, or one that exits itself.

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
                "FirstSpikeExit needs a read-out of spikes", repr(self.decoder), "Try count or first-spike."
            )

    def enough(self, logits: Float[Tensor, "T B K"], outputs: Float[Tensor, "T B N"]) -> Bool[Tensor, "T B"]:
        return (self.activity(outputs) != 0).any(-1)

"""Rate coding: the larger the value of an input, the more often it spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import LevelCode, SpikeCode, tolerance
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["Bernoulli", "ThetaPhase"]


@dataclass(frozen=True)
class Bernoulli(SpikeCode):
    r"""Rate coding: each input spikes at each step with probability `x` (often called Poisson coding).

    .. math:: s[t] \sim \mathrm{Bernoulli}(x), \quad t = 0..T-1, \text{ independent}

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `StraightThrough()` (the gradient of the expectation) or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Without a key the draws come from PyTorch's global generator, as a foreign attack library expects;
    spikeproof itself always passes a key.

    Example:
        >>> Bernoulli(4)(torch.tensor([[0.0, 1.0]]), Key.of(0)).mean(0).tolist()
        [[0.0, 1.0]]

    Source:
        Ding et al. 2023 (`poisson`); Sharmin et al. 2020, section 3.1.
    """

    stochastic: ClassVar[bool] = True

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        shape = (self.steps, *x.shape)
        draws = torch.rand(shape, device=x.device) if key is None else key.uniform(shape, 1, x.device)
        return (draws < x).to(x.dtype)


@dataclass(frozen=True)
class ThetaPhase(LevelCode):
    r"""Theta-phase rate coding: an input spikes whenever its value exceeds an oscillating inhibition.

    .. math:: s[t] = 1[x > I(t)], \quad I(t) = \tfrac{1}{2}\left(1 + \cos\frac{2\pi(t+1/2)}{P}\right)

    A rate becomes a phase: the brighter the input, the earlier its first spike in each cycle and the more
    spikes it sends. Values below the smallest inhibition stay silent.

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.
        period: steps per cycle `P`, at least 2.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> ThetaPhase(8)(torch.tensor([[0.1, 0.5, 1.0]])).int()[:, 0].T.tolist()
        [[0, 0, 0, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1]]

    Source:
        Mehta, Lee & Wilson 2002, Nature 417, figure 1 (excitation against oscillating inhibition).
    """

    period: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.period < 2:
            raise InputError(
                "ThetaPhase needs a period of at least 2 steps", f"period={self.period}", "Try 8."
            )

    def phases(self) -> list[int]:
        """For each step its distance from the crest of inhibition, in whole steps."""
        return [min(t % self.period, self.period - 1 - t % self.period) for t in range(self.steps)]

    def thresholds(self) -> list[tuple[float, int]]:
        """Every level of inhibition that occurs, in rising order, with its distance from the crest."""
        crest = sorted(set(self.phases()), reverse=True)
        return [((1 + math.cos(2 * math.pi * (d + 0.5) / self.period)) / 2, d) for d in crest]

    @property
    def levels(self) -> int:
        return len(self.thresholds())

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Number of levels of inhibition that the value exceeds."""
        edges = torch.tensor([edge for edge, _ in self.thresholds()], dtype=torch.float64, device=x.device)
        return torch.bucketize((x.double() - tolerance(x)).clamp(min=0), edges)

    def value(self, level: Tensor) -> Tensor:
        edges = [edge for edge, _ in self.thresholds()]
        upper = torch.tensor([*edges, 1.0], dtype=torch.float64, device=level.device)
        return torch.where(level > 0, upper[level], 0.0)

    def pattern(self, level: Tensor) -> Tensor:
        order = {distance: rank for rank, (_, distance) in enumerate(self.thresholds())}
        rank = torch.tensor([order[d] for d in self.phases()], device=level.device)
        return rank.view(-1, *[1] * level.ndim) < level

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        phases = self.phases()
        first = [phases.index(distance) for _, distance in self.thresholds()]
        return (spikes[first] != 0).sum(0)

"""Codes of spike times: the brighter, the earlier or the longer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import LevelCode, at, clock
from spikeproof.keys import Key


@dataclass(frozen=True)
class Latency(LevelCode):
    r"""Time-to-first-spike coding: one spike per input, the brighter the earlier, none for black.

    .. math:: s[t] = 1[t = \lfloor (1-x)T \rfloor] = 1[t = T - n], \quad n = \lceil xT \rceil

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> import torch
        >>> Latency(4)(torch.tensor([[1.0, 0.5, 0.1, 0.0]])).int()[:, 0].tolist()
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]

    Source:
        Ding et al. 2023 (`latency`); Thorpe, Delorme & Van Rullen 2001.
    """

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (clock(self.steps, x) == self.steps - self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        now = self.steps - level
        return at(grad, now - 1) - at(grad, now)


@dataclass(frozen=True)
class EarlyBurst(LevelCode):
    r"""A burst that starts at the first step and lasts the longer the brighter the input.

    .. math:: s[t] = 1[t/T < x] = 1[t < n], \quad n = \lceil xT \rceil

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> import torch
        >>> EarlyBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`pre`).
    """

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (clock(self.steps, x) < self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        return at(grad, level)


@dataclass(frozen=True)
class LateBurst(LevelCode):
    r"""A burst that ends at the last step and starts the earlier the brighter the input.

    .. math:: s[t] = 1 - 1[t/T \le 1-x] = 1[t > T - n], \quad n = \lceil xT \rceil

    It has one spike fewer than `EarlyBurst` and at most T - 1. For a comparison of early and late with equal
    spike counts use `Reversed(EarlyBurst())`.

    Args:
        steps: number of time steps `T`, at least 2 (with one step it would never spike).
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> import torch
        >>> LateBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`post`).
    """

    least: ClassVar[int] = 2

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (clock(self.steps, x) > self.steps - self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        # Levels 0 and 1 are both silent; black looks ahead to level 2, the first with a spike.
        return at(grad, self.steps - level.clamp(min=1))

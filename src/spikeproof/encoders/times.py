"""Temporal coding: the brighter an input, the earlier its spike or the longer its burst."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.encoders.codes import LevelCode, NestedCode, at, clock, tolerance
from spikeproof.errors import InputError

__all__ = [
    "EarlyBurst",
    "LateBurst",
    "Latency",
    "LogLatency",
    "RankOrder",
    "RelativeLatency",
    "first_spike_level",
    "one_spike",
]


def spikes_where(
    test: Callable[..., Tensor], steps: int, bound: Int64[Tensor, "*F"]
) -> Float[Tensor, "T *F"]:
    """A spike at every step whose number compares with a bound as the test says.

    Whole numbers are exact in single precision, in which they are compared several times faster.

    Example:
        >>> spikes_where(torch.lt, 3, torch.tensor([2])).flatten().tolist()
        [1.0, 1.0, 0.0]
    """
    out = torch.empty((steps, *bound.shape), device=bound.device)
    return test(clock(steps, bound).float(), bound.float(), out=out)


def one_spike(steps: int, level: Int64[Tensor, "*F"]) -> Float[Tensor, "T *F"]:
    """A single spike at step T - n for level n, and none for level 0."""
    return spikes_where(torch.eq, steps, steps - level)


def first_spike_level(spikes: Float[Tensor, "T B *F"]) -> Tensor:
    """The level n whose only spike comes at step T - n."""
    fired = spikes != 0
    return torch.where(fired.any(0), spikes.shape[0] - fired.int().argmax(0), 0)


@dataclass(frozen=True)
class Latency(NestedCode):
    r"""Time-to-first-spike coding: brighter inputs spike earlier, once each, and black inputs do not spike.

    .. math:: s[t] = 1[t = \lfloor (1-x)T \rfloor] = 1[t = T - n], \quad n = \lceil xT \rceil

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> Latency(4)(torch.tensor([[1.0, 0.5, 0.1, 0.0]])).int()[:, 0].tolist()
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]

    Source:
        Ding et al. 2023 (`latency`); Thorpe, Delorme & Van Rullen 2001.
    """

    def pattern(self, level: Tensor) -> Tensor:
        return one_spike(self.steps, level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        return first_spike_level(spikes)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        now = self.steps - level
        return at(grad, now - 1) - at(grad, now)


@dataclass(frozen=True)
class EarlyBurst(NestedCode):
    r"""Early-burst coding: a burst starts at the first step, and brighter inputs have longer bursts.

    .. math:: s[t] = 1[t/T < x] = 1[t < n], \quad n = \lceil xT \rceil

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> EarlyBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`pre`).
    """

    def pattern(self, level: Tensor) -> Tensor:
        return spikes_where(torch.lt, self.steps, level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        return (spikes != 0).sum(0)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        return at(grad, level)


@dataclass(frozen=True)
class LateBurst(NestedCode):
    r"""Late-burst coding: a burst ends at the last step, and brighter inputs have longer bursts.

    .. math:: s[t] = 1 - 1[t/T \le 1-x] = 1[t > T - n], \quad n = \lceil xT \rceil

    It has one spike fewer than `EarlyBurst` and at most T - 1. To compare early and late bursts with equal
    spike counts, use `Reversed(EarlyBurst())`.

    Args:
        steps: number of time steps `T`, at least 2 (with one step it would never spike).
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> LateBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`post`).
    """

    least: ClassVar[int] = 2

    def pattern(self, level: Tensor) -> Tensor:
        return spikes_where(torch.gt, self.steps, self.steps - level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        count = (spikes != 0).sum(0)
        return count + (count > 0)  # level 1 is as silent as black

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        # Levels 0 and 1 are both silent; the gradient of black uses level 2, the first with a spike.
        return at(grad, self.steps - level.clamp(min=1))


@dataclass(frozen=True)
class LogLatency(LevelCode):
    r"""Logarithmic latency coding: each input spikes once, and its time falls with the log of its brightness.

    .. math:: s[t] = 1[t = T - n], \quad n = \left\lceil T\,\frac{\ln(1+\alpha x)}{\ln(1+\alpha)} \right\rceil

    Dark values are told apart more finely than bright ones; for small `alpha` this is `Latency`. Black stays
    silent. The published code rounds to T - 1 bins, of which the first and the last are half as wide, lets
    black spike at the last step, and ties `alpha` to T (e^(T-1) - 1), so that another number of steps is
    another coding.

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.
        alpha: how strongly brightness is compressed, positive; 255 resolves one grey level.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> code = LogLatency(8)
        >>> code.level(torch.tensor([[0, 1, 3, 15, 16, 255]]) / 255).tolist()
        [[0, 1, 2, 4, 5, 8]]

    Source:
        SpikingJelly (`LatencyEncoder`, function log); for the logarithm VanRullen & Thorpe 2001, section 2.
    """

    alpha: float = 255.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.alpha <= 1e6:
            raise InputError(
                "LogLatency needs alpha above 0 and at most 1e6", f"alpha={self.alpha}", "Try 255."
            )

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Number of edges below the value; an edge within rounding error of the value is not below it."""
        edges = self.value(torch.arange(self.steps, device=x.device))
        return torch.bucketize((x.double() - tolerance(x)).clamp(min=0), edges)

    def value(self, level: Tensor) -> Tensor:
        return ((level.double() / self.steps * math.log1p(self.alpha)).expm1() / self.alpha).clamp(max=1)

    def pattern(self, level: Tensor) -> Tensor:
        return one_spike(self.steps, level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        return first_spike_level(spikes)


@dataclass(frozen=True)
class RelativeLatency(NestedCode):
    r"""Latency coding relative to the image's first spike: a brightness added to all inputs has no effect.

    .. math:: s_i[t] = 1[t = k_i - \min_j k_j], \quad k_i = T - \lceil x_i T \rceil, \text{ none for } x_i = 0

    The first spike of every image comes at step 0. The spikes of an image do not depend on the other images
    of the batch; in the published code of snnTorch (`normalize`) they do, because it takes the extreme over
    the whole batch. The gradient treats the time of the image's first spike as constant.

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> RelativeLatency(4)(torch.tensor([[0.5, 0.2, 0.0]])).int()[:, 0].tolist()
        [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]

    Source:
        Gollisch & Meister 2008 (relative spike latencies of retinal ganglion cells).
    """

    local: ClassVar[bool] = False

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        level = super().level(x)
        first = level.flatten(1).amax(1).view(-1, *[1] * (x.ndim - 1))
        return torch.where(level > 0, level + self.steps - first, 0)

    def pattern(self, level: Tensor) -> Tensor:
        return one_spike(self.steps, level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        return first_spike_level(spikes)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        now = self.steps - level
        return at(grad, now - 1) - at(grad, now)


@dataclass(frozen=True)
class RankOrder(NestedCode):
    r"""Rank-order coding: inputs spike in the order of their brightness, whatever its scale.

    .. math:: s_i[t] = 1[t = \lfloor r_i T/N \rfloor], \quad r_i = |\{j : x_j > x_i\}|,
              \text{ none for } x_i = 0

    A monotonically increasing transform of all values leaves the spikes unchanged. Equal values share a rank:
    ties broken by pixel position, as in published code, would make a uniform area spike row by row. The
    gradient keeps the ranks of all other inputs fixed and takes one bin as 1/T of brightness.

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Example:
        >>> RankOrder(2)(torch.tensor([[0.5, 0.2, 0.9, 0.0]])).int()[:, 0].tolist()
        [[1, 0, 1, 0], [0, 1, 0, 0]]

    Source:
        Thorpe & Gautrais 1998; Thorpe, Delorme & Van Rullen 2001, section 3.
    """

    local: ClassVar[bool] = False

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        flat = x.detach().flatten(1)
        rank = flat.shape[1] - torch.searchsorted(flat.sort(1).values, flat.contiguous(), right=True)
        level = self.steps - rank * self.steps // flat.shape[1]
        return torch.where(flat > 0, level, 0).view(x.shape)

    def pattern(self, level: Tensor) -> Tensor:
        return one_spike(self.steps, level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        return first_spike_level(spikes)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        now = self.steps - level
        return at(grad, now - 1) - at(grad, now)

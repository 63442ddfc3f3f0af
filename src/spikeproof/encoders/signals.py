"""Encoders of inputs that already vary in time: events and signals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import SpikeCode, check_steps, tolerance
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Context, Shape

__all__ = ["Delta", "Events", "LevelCrossing", "SignalCode"]


class _Any(torch.autograd.Function):
    """1 where there was any event in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Context, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> Tensor:
        return grads[0]


@dataclass(frozen=True)
class Events:
    r"""Event input: the numbers of events per time step are passed on unchanged or as 0 and 1.

    .. math:: s[t, b] = x[b, t] \quad\text{or, binary,}\quad s[t, b] = 1[x[b, t] > 0]

    The first axis of a batch indexes the examples, as in all other data; the encoder puts time first. The
    gradient of counts is exact; binary spikes have the straight-through gradient.

    Args:
        steps: number of time steps `T` of the data, at least 1.
        binary: whether several events in one step count as one spike.

    Shapes:
        `x [B, T, *F]`, whole numbers of at least 0 -> `[T, B, *F]`

    Raises:
        InputError: negative values, fractions or NaN, or another number of steps.

    Example:
        >>> x = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])  # one example, two steps, two inputs
        >>> Events(2)(x)[:, 0].tolist(), Events(2, binary=True)(x)[:, 0].tolist()
        ([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])

    Source:
        The customary event frames, e.g. Fang et al. 2021 (PLIF), section 4; both grids in Spike-Retiming
        Attacks (2026).
    """

    steps: int = 10
    binary: bool = False
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True
    events: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self, self.steps)

    @property
    def counts(self) -> bool:
        """Whether a value may stand for several spikes."""
        return not self.binary

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """The shape of one example that the model takes: time, then channels, height and width."""
        return (self.steps, *shape)

    def __call__(self, x: Float[Tensor, "B T *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        if x.ndim < 2 or x.shape[1] != self.steps:
            raise InputError(
                f"Events expects {self.steps} steps on the second axis, [B, {self.steps}, ...]",
                f"shape {list(x.shape)}",
                "Give the encoder the number of steps that the data were binned to.",
            )
        values = x.detach()
        if not bool(((values >= 0) & (values == values.round()) & values.isfinite()).all()):
            raise InputError(
                "Events expects whole numbers of events, at least 0",
                f"min {values.min().item():.4g}, max {values.max().item():.4g}, or fractions or NaN",
                "Attack events with a threat on spikes such as flips, not on pixels.",
            )
        x = x if x.is_floating_point() else x.float()
        spikes: Tensor = _Any.apply(x) if self.binary else x  # type: ignore[no-untyped-call]
        return spikes.transpose(0, 1)


@dataclass(frozen=True)
class SignalCode(SpikeCode):
    """An encoder of a signal in two blocks of channels: spikes for rises, then spikes for falls.

    Both channels pass their gradient on, whichever of them spiked, because a larger rise is a smaller fall.
    """

    threshold: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.threshold <= 1:
            raise InputError(
                f"{type(self).__name__} needs a threshold in (0, 1]",
                f"threshold={self.threshold}",
                "Try 0.1.",
            )

    def output_shape(self, shape: Shape) -> Shape:
        """Twice the channels."""
        return (2 * shape[0], *shape[1:])

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """The shape of one example that the model takes: time, then channels, height and width."""
        return (self.steps, *shape)

    def emit(self, x: Float[Tensor, "B T C *F"], key: Key | None) -> Float[Tensor, "T B D *F"]:
        if x.ndim < 3 or x.shape[1] != self.steps:
            raise InputError(
                f"{type(self).__name__} expects signals of {self.steps} steps, [B, {self.steps}, C, ...]",
                f"shape {list(x.shape)}",
                "Give the encoder the number of steps of the data.",
            )
        rises, falls = self.crossings(x.detach().double().transpose(0, 1), tolerance(x))
        return torch.cat([rises, falls], 2).to(x.dtype)

    def crossings(self, x: Float[Tensor, "T B C *F"], slack: float) -> tuple[Tensor, Tensor]:
        """Rises and falls at each step."""
        raise NotImplementedError(f"{type(self).__name__} has no crossings")

    def straight(self, grad: Float[Tensor, "T B D *F"]) -> Float[Tensor, "B T C *F"]:
        rises, falls = grad.chunk(2, 2)
        change = (rises - falls) / self.threshold
        later = torch.cat([change[1:], torch.zeros_like(change[:1])])
        return (self.reference(change) - later).transpose(0, 1)

    def reference(self, change: Tensor) -> Tensor:
        """The gradient on each change of the signal; the first change leads to its first step."""
        return change


@dataclass(frozen=True)
class Delta(SignalCode):
    r"""Delta modulation: a signal spikes where it rose or fell by the threshold since the previous step.

    .. math:: s_{on}[t] = 1[x[t] - x[t-1] \ge \theta], \quad s_{off}[t] = 1[x[t-1] - x[t] \ge \theta], \quad
              x[-1] = x[0]

    Slow changes send no spikes, however far the signal drifts; `LevelCrossing` registers them. Falls have
    their own channels, whereas the published code of snnTorch sends spikes of -1.

    Args:
        steps: number of time steps `T` of the data, at least 1.
        backward: `StraightThrough()` or `SpikeGated()`.
        threshold: the change `theta`, in value, in (0, 1].

    Shapes:
        `x [B, T, C, *F]` in [0, 1] -> spikes `[T, B, 2 C, *F]` in {0, 1}, rises first

    Example:
        >>> Delta(4)(torch.tensor([0.1, 0.3, 0.35, 0.0]).view(1, 4, 1))[:, 0].T.tolist()
        [[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]

    Source:
        snnTorch (`spikegen.delta`); Corradi & Indiveri 2015 for its use in neuromorphic front ends.
    """

    def crossings(self, x: Float[Tensor, "T B C *F"], slack: float) -> tuple[Tensor, Tensor]:
        change = x - torch.cat([x[:1], x[:-1]])
        return change >= self.threshold - slack, change <= slack - self.threshold

    def reference(self, change: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(change[:1]), change[1:]])


@dataclass(frozen=True)
class LevelCrossing(SignalCode):
    r"""Level-crossing coding: spikes count the levels that a signal crossed, up or down, since the last step.

    .. math:: s_{on}[t] = \max(0, \lfloor x[t]/\theta - m[t-1] \rfloor), \quad
              s_{off}[t] = \max(0, \lfloor m[t-1] - x[t]/\theta \rfloor), \quad
              m[t] = m[t-1] + s_{on}[t] - s_{off}[t], \quad m[-1] = 0

    The spikes sent so far determine the signal to within one level: :math:`|x[t] - \theta m[t]| < \theta`.

    Args:
        steps: number of time steps `T` of the data, at least 1.
        backward: `StraightThrough()` or `SpikeGated()`.
        threshold: distance `theta` of the levels, in value, in (0, 1].

    Shapes:
        `x [B, T, C, *F]` in [0, 1] -> numbers of spikes `[T, B, 2 C, *F]`, rises first

    Example:
        >>> LevelCrossing(4)(torch.tensor([0.05, 0.32, 0.25, 0.0]).view(1, 4, 1))[:, 0].T.tolist()
        [[0.0, 3.0, 0.0, 0.0], [0.0, 0.0, 0.0, 3.0]]

    Source:
        Miskowicz 2006, Sensors 6 (send-on-delta); Sayiner, Sorensen & Viswanathan 1996 (level crossing).
    """

    counts: ClassVar[bool] = True

    def crossings(self, x: Float[Tensor, "T B C *F"], slack: float) -> tuple[Tensor, Tensor]:
        sent, rises, falls = torch.zeros_like(x[0]), [], []
        for now in x / self.threshold:
            rises.append((now - sent + slack / self.threshold).floor().clamp(min=0))
            falls.append((sent - now + slack / self.threshold).floor().clamp(min=0))
            sent = sent + rises[-1] - falls[-1]
        return torch.stack(rises), torch.stack(falls)

    def decode(self, spikes: Float[Tensor, "T B D *F"]) -> Float[Tensor, "B T C *F"]:
        """The signal, to within one level."""
        rises, falls = spikes.chunk(2, 2)
        return (self.threshold * (rises - falls).cumsum(0)).transpose(0, 1)

"""Parts that all spiking encoders share: exchangeable backward rules, time steps, and integer levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Context, check_range

__all__ = [
    "BackwardRule",
    "LevelCode",
    "NestedCode",
    "SpikeCode",
    "SpikeGated",
    "StraightThrough",
    "TimeShift",
    "at",
    "check_steps",
    "clock",
    "tolerance",
]


class BackwardRule:
    """A backward rule turns the gradient on the spikes into a gradient on the image."""

    def gradient(
        self,
        code: SpikeCode,
        x: Float[Tensor, "B *F"],
        spikes: Float[Tensor, "T B *F"],
        grad: Float[Tensor, "T B *F"],
    ) -> Float[Tensor, "B *F"]:
        """The gradient with respect to `x`."""
        raise NotImplementedError(f"{type(self).__name__} defines no gradient")


@dataclass(frozen=True)
class StraightThrough(BackwardRule):
    r"""Every step passes its gradient on, whether the input spiked or not.

    .. math:: \partial L/\partial x = \sum_t w[t]\,\partial L/\partial s[t]

    where `w[t]` is the amplitude of a spike at step `t`, which is 1 for most encoders. For Bernoulli coding
    this is the gradient of the expected spikes.

    Source:
        Bengio, Leonard & Courville 2013, arXiv 1308.3432, section 4.
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        return code.straight(grad)


@dataclass(frozen=True)
class SpikeGated(BackwardRule):
    r"""Only steps at which the input spiked pass their gradient on.

    .. math:: \partial L/\partial x = \sum_t 1[s[t] \ne 0]\,w[t]\,\partial L/\partial s[t]

    Silent inputs get a gradient of exactly zero, so an attack that starts at the clean image cannot touch a
    black background. This backward rule is provided because published results were measured with it; do not
    rely on it alone.

    Source:
        The public code of Ding et al. 2023 (`enc_func_differential`).
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        return code.straight(grad * (spikes != 0))


@dataclass(frozen=True)
class TimeShift(BackwardRule):
    r"""The slope of the loss over the grey level, from the next darker to the next brighter spike pattern.

    .. math:: \partial L/\partial x = \sum_t \frac{\partial L}{\partial s[t]}
              \frac{s_{n+1}[t] - s_{n-1}[t]}{x_{n+1} - x_{n-1}}

    where `x_n` is the value that level `n` stands for. For latency coding with spike time `k` this is
    :math:`T\,(g[k-1]-g[k+1])/2`, where `g[T] = 0` stands for silence. Both neighbours count, because the
    direction in which a pixel should change depends on the loss on either side. At the darkest and the
    brightest level one neighbour is missing, and the difference is one-sided.

    Source:
        Ours: the central difference of the linearised loss over the level.
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        if not isinstance(code, LevelCode):
            raise InputError(
                "TimeShift needs an encoder whose spikes move with the grey level",
                repr(code),
                "Use StraightThrough(), or one of Latency, EarlyBurst, LateBurst.",
            )
        return code.slope(x, grad)


class _Kept(Context, Protocol):
    code: SpikeCode


class _Emit(torch.autograd.Function):
    """The encoder's spikes in the forward pass, and its own backward rule in the backward pass."""

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, code: SpikeCode, key: Key | None) -> Tensor:
        spikes = code.emit(x, key)
        ctx.save_for_backward(x, spikes)
        ctx.code = code
        return spikes

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, spikes = ctx.saved_tensors
        return ctx.code.backward.gradient(ctx.code, x, spikes, grads[0]), None, None


def check_steps(code: object, steps: int, least: int = 1) -> None:
    if steps < least:
        raise InputError(
            f"{type(code).__name__} needs at least {least} time step{'s' if least > 1 else ''}",
            f"steps={steps}",
            "Try steps=8.",
        )


@dataclass(frozen=True)
class SpikeCode:
    """An encoder of spikes, of amplitude 1 unless stated otherwise, with an exchangeable backward rule."""

    steps: int = 8
    backward: BackwardRule = StraightThrough()
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        check_steps(self, self.steps, self.least)
        if isinstance(self.backward, TimeShift) and not isinstance(self, LevelCode):
            raise InputError(
                f"{type(self).__name__} has no level, which TimeShift needs",
                f"backward={self.backward!r}",
                "Use backward=StraightThrough() or SpikeGated().",
            )

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        if not torch.is_grad_enabled():
            return self.emit(x, key)
        spikes: Tensor = _Emit.apply(x, self, key)  # type: ignore[no-untyped-call]
        return spikes

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        """The spikes, without a gradient."""
        raise NotImplementedError(f"{type(self).__name__} emits no spikes")

    def straight(self, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """The gradient on the input as if every step were the input itself, times a spike's amplitude."""
        return grad.sum(0)


@dataclass(frozen=True)
class LevelCode(SpikeCode):
    """A deterministic encoder of integer levels, each of which has its own spike pattern."""

    backward: BackwardRule = TimeShift()
    local: ClassVar[bool] = True  # a pixel's level rises with the pixel and depends on no other

    @property
    def levels(self) -> int:
        """The highest level; the lowest is 0."""
        return self.steps

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Integer levels `n = ceil(x T)` in 0..T, as int64.

        A value within one rounding error of single precision above an edge counts as on the edge, so the 256
        grey levels k/255 get exactly `ceil(k T / 255)`.
        """
        scaled = (x.double() - tolerance(x)).mul_(self.steps)
        return scaled.ceil_().clamp_(0, self.steps).long()

    def pattern(self, level: Tensor) -> Tensor:
        """The spikes of a level, amplitudes included; time comes first."""
        raise NotImplementedError(f"{type(self).__name__} has no patterns")

    def value(self, level: Tensor) -> Tensor:
        """The value that a level stands for, in float64: the upper edge of its bin."""
        return level.double() / self.steps

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        """The level that spikes stand for."""
        raise NotImplementedError(f"{type(self).__name__} cannot be read")

    def decode(self, spikes: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """The values that spikes stand for: the inverse of the encoder, up to the width of one level."""
        return self.value(self.read(spikes)).to(spikes.dtype)

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return self.pattern(self.level(x)).to(x.dtype)

    def slope(self, x: Float[Tensor, "B *F"], grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """Linearised change of the loss per change of value, from the level below to the level above."""
        level = self.level(x)
        low, high = (level - 1).clamp(min=0), (level + 1).clamp(max=self.levels)
        change = ((self.pattern(high).to(grad.dtype) - self.pattern(low).to(grad.dtype)) * grad).sum(0)
        return change / (self.value(high) - self.value(low)).to(grad.dtype)


@dataclass(frozen=True)
class NestedCode(LevelCode):
    """An encoder of T + 1 equal levels `n = ceil(x T)`; neighbours differ in at most one spike."""

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """Linearised change of the loss from `level` to `level + 1`, given the gradient on the spikes."""
        raise NotImplementedError(f"{type(self).__name__} has no neighbouring patterns")

    def slope(self, x: Float[Tensor, "B *F"], grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        level = self.level(x)
        brighter = self.swap(level.clamp(max=self.steps - 1), grad)
        darker = self.swap((level - 1).clamp(min=0), grad)
        return self.steps * (brighter + darker) / 2


def tolerance(x: Tensor) -> float:
    """The rounding error of a value in [0, 1], in single precision or in a coarser one."""
    return float(max(torch.finfo(x.dtype).eps, 2.0**-23))


def clock(steps: int, like: Tensor) -> Tensor:
    """Step numbers 0..T-1 along a new first axis."""
    return torch.arange(steps, device=like.device).view(-1, *[1] * like.ndim)


def at(grad: Float[Tensor, "T B *F"], step: Tensor) -> Float[Tensor, "B *F"]:
    """`grad[step]`, and zero where `step` lies outside 0..T-1."""
    inside = (step >= 0) & (step < grad.shape[0])
    picked = grad.gather(0, step.clamp(0, grad.shape[0] - 1)[None])[0]
    return picked * inside

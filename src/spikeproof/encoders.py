"""Codes: how an image becomes spikes over time, and which gradient the way back carries.

Every code is a frozen dataclass, called with images in [0, 1]. Codes of single spikes and bursts are defined
on integer levels, `n = ceil(x T)`, so that a grey level on the edge of a bin always falls on the same side.
The spikes of a deterministic code have no useful derivative: the true one is zero almost everywhere. What is
used instead is a part, `backward`, that an attack may exchange without changing a single spike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, check_range

__all__ = [
    "BackwardRule",
    "Bernoulli",
    "Direct",
    "EarlyBurst",
    "LateBurst",
    "Latency",
    "QuantisedDirect",
    "Reversed",
    "SpikeGated",
    "StraightThrough",
    "TimeShift",
    "with_backward",
]


class BackwardRule:
    """How a gradient on the spikes becomes a gradient on the image."""

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

    .. math:: \partial L/\partial x = \sum_t \partial L/\partial s[t]

    For the Bernoulli code this is the gradient of the expected spikes.

    Source:
        Bengio, Leonard & Courville 2013, arXiv 1308.3432, section 4.
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        return grad.sum(0)


@dataclass(frozen=True)
class SpikeGated(BackwardRule):
    r"""Only steps at which the input spiked pass their gradient on.

    .. math:: \partial L/\partial x = \sum_t s[t]\,\partial L/\partial s[t]

    Silent inputs get a gradient of exactly zero, so an attack that starts at the clean image cannot touch a
    black background. Kept because published results were measured with it; do not rely on it alone.

    Source:
        The public code of Ding et al. 2023 (`enc_func_differential`).
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        return (grad * spikes).sum(0)


@dataclass(frozen=True)
class TimeShift(BackwardRule):
    r"""The slope of the loss over the level, from the next darker pattern to the next brighter one.

    .. math:: \partial L/\partial x = \frac{T}{2}\sum_t \frac{\partial L}{\partial s[t]}
              \left(s_{n+1}[t] - s_{n-1}[t]\right)

    For latency with spike time `k` this is :math:`T\,(g[k-1]-g[k+1])/2`, with `g[T] = 0` for silence.
    Both neighbours count: which way a pixel should go depends on what the loss does either way. At the
    darkest and the brightest level, where one neighbour is missing, the difference is one-sided.

    Source:
        Ours: the central difference of the linearised loss over the level.
    """

    def gradient(self, code: SpikeCode, x: Tensor, spikes: Tensor, grad: Tensor) -> Tensor:
        if not isinstance(code, LevelCode):
            raise InputError(
                "TimeShift needs a code whose spikes move with the grey level",
                repr(code),
                "Use StraightThrough(), or one of Latency, EarlyBurst, LateBurst.",
            )
        level = code.level(x)
        brighter = code.swap(level.clamp(max=code.steps - 1), grad)
        darker = code.swap((level - 1).clamp(min=0), grad)
        return code.steps * (brighter + darker) / 2


class _Emit(torch.autograd.Function):
    """Spikes forward, the code's own rule backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, code: SpikeCode, key: Key | None) -> Tensor:
        spikes = code.emit(x, key)
        ctx.save_for_backward(x, spikes)
        ctx.code = code
        return spikes

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, spikes = ctx.saved_tensors
        return ctx.code.backward.gradient(ctx.code, x, spikes, grads[0]), None, None


class _Round(torch.autograd.Function):
    """Rounding to levels of 1/steps forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return ((x * steps + 0.5).floor() / steps).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def _check_steps(code: object, steps: int, least: int = 1) -> None:
    if steps < least:
        raise InputError(
            f"{type(code).__name__} needs at least {least} time step{'s' if least > 1 else ''}",
            f"steps={steps}",
            "Try steps=8.",
        )


@dataclass(frozen=True)
class Direct:
    """Direct current: the image itself, at every step; its gradient is exact.

    .. math:: s[t] = x

    Args:
        steps: number of time steps `T`, at least 1.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]` in [0, 1], one tensor seen T times (no copy)

    Example:
        >>> Direct(3)(torch.tensor([[0.25]])).flatten().tolist()
        [0.25, 0.25, 0.25]

    Source:
        Ding et al. 2023 (`const`); Rueckauer et al. 2017, section 2.2.
    """

    steps: int = 8
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_steps(self, self.steps)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        return x.expand(self.steps, *x.shape)


@dataclass(frozen=True)
class QuantisedDirect:
    r"""Direct current rounded to the T + 1 levels that a spike code of T steps can tell apart.

    .. math:: s[t] = \lfloor xT + 1/2 \rfloor / T

    The control that separates timing from quantisation: what this code resists, latency resists without any
    help of time. Backward: the identity, summed over steps.

    Args:
        steps: number of time steps `T`, at least 1; also the number of levels less one.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]` in {0, 1/T, ..., 1}

    Example:
        >>> QuantisedDirect(4)(torch.tensor([[0.3, 0.4]]))[0].tolist()
        [[0.25, 0.5]]

    Source:
        Ding et al. 2023 (`quantize`), with a gradient where the published code has none.
    """

    steps: int = 8
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_steps(self, self.steps)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        levels: Tensor = _Round.apply(x, self.steps)  # type: ignore[no-untyped-call]
        return levels.expand(self.steps, *x.shape)


@dataclass(frozen=True)
class SpikeCode:
    """A code of spikes in {0, 1} with an exchangeable backward rule."""

    steps: int = 8
    backward: BackwardRule = StraightThrough()
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True
    least: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _check_steps(self, self.steps, self.least)
        if isinstance(self.backward, TimeShift) and not isinstance(self, LevelCode):
            raise InputError(
                f"{type(self).__name__} has no level that could move a spike in time",
                f"backward={self.backward!r}",
                "Use backward=StraightThrough() or SpikeGated().",
            )

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        spikes: Tensor = _Emit.apply(x, self, key)  # type: ignore[no-untyped-call]
        return spikes

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        """The spikes, without a gradient."""
        raise NotImplementedError(f"{type(self).__name__} emits no spikes")


@dataclass(frozen=True)
class Bernoulli(SpikeCode):
    r"""Rate coding: at each step a spike with probability `x` (often called Poisson coding).

    .. math:: s[t] \sim \mathrm{Bernoulli}(x), \quad t = 0..T-1, \text{ independent}

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `StraightThrough()` (the gradient of the expectation) or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Without a key the draws come from PyTorch's global generator, as a foreign attack library expects; inside
    spikeproof a key is always given.

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
class LevelCode(SpikeCode):
    """A deterministic spike code of T + 1 levels, `n = ceil(x T)`: nested patterns, one change per level."""

    backward: BackwardRule = TimeShift()

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Integer levels `n = ceil(x T)` in 0..T, as int64.

        A value within one rounding error of single precision above an edge counts as on the edge, so the 256
        grey levels k/255 get exactly `ceil(k T / 255)`.
        """
        tolerance = max(torch.finfo(x.dtype).eps, 2.0**-23)
        return ((x.double() - tolerance) * self.steps).ceil().clamp(0, self.steps).long()

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """Linearised change of the loss from `level` to `level + 1`, given the gradient on the spikes."""
        raise NotImplementedError(f"{type(self).__name__} has no neighbouring patterns")


def _clock(steps: int, like: Tensor) -> Tensor:
    """Step numbers 0..T-1 along a new first axis."""
    return torch.arange(steps, device=like.device).view(-1, *[1] * like.ndim)


def _at(grad: Float[Tensor, "T B *F"], step: Tensor) -> Float[Tensor, "B *F"]:
    """`grad[step]`, and zero where `step` lies outside 0..T-1."""
    inside = (step >= 0) & (step < grad.shape[0])
    picked = grad.gather(0, step.clamp(0, grad.shape[0] - 1)[None])[0]
    return picked * inside


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
        >>> Latency(4)(torch.tensor([[1.0, 0.5, 0.1, 0.0]])).int()[:, 0].tolist()
        [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]

    Source:
        Ding et al. 2023 (`latency`); Thorpe, Delorme & Van Rullen 2001.
    """

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (_clock(self.steps, x) == self.steps - self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        now = self.steps - level
        return _at(grad, now - 1) - _at(grad, now)


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
        >>> EarlyBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`pre`).
    """

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (_clock(self.steps, x) < self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        return _at(grad, level)


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
        >>> LateBurst(4)(torch.tensor([[1.0, 0.5, 0.0]])).int()[:, 0].T.tolist()
        [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]

    Source:
        Ding et al. 2023 (`post`).
    """

    least: ClassVar[int] = 2

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        return (_clock(self.steps, x) > self.steps - self.level(x)).to(x.dtype)

    def swap(self, level: Tensor, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        # Levels 0 and 1 are both silent; black looks ahead to level 2, the first with a spike.
        return _at(grad, self.steps - level.clamp(min=1))


@dataclass(frozen=True)
class Reversed:
    """Another code played backwards in time: same spikes per input, opposite order.

    .. math:: s[t] = s_{code}[T-1-t]

    Args:
        code: the code to reverse; its backward rule is reversed with it.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]`, as the code reversed

    Example:
        >>> Reversed(EarlyBurst(4))(torch.tensor([[0.5]])).int().flatten().tolist()
        [0, 0, 1, 1]

    Source:
        Ours: the rate-matched control for `EarlyBurst` against `LateBurst`.
    """

    code: Encoder = EarlyBurst()

    @property
    def steps(self) -> int:
        return self.code.steps

    @property
    def stochastic(self) -> bool:
        return self.code.stochastic

    @property
    def spiking(self) -> bool:
        return self.code.spiking

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        return self.code(x, key).flip(0)


def with_backward(encoder: Encoder, rule: BackwardRule) -> Encoder:
    """The same code with another backward rule; a code whose gradient is exact stays as it is.

    Raises:
        InputError: the rule does not fit the code.

    Example:
        >>> with_backward(Latency(4), SpikeGated())
        Latency(steps=4, backward=SpikeGated())
    """
    if isinstance(encoder, Reversed):
        return replace(encoder, code=with_backward(encoder.code, rule))
    return replace(encoder, backward=rule) if isinstance(encoder, SpikeCode) else encoder

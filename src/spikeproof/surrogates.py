"""Spike functions: the step at threshold in the forward pass, a surrogate derivative in the backward pass.

In the forward pass every surrogate is the Heaviside step, 1 where `x >= 0`, with `x = v - threshold`. In the
backward pass its derivative is g(x), the derivative of a smooth function; each g integrates to 1 unless its
docstring says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.protocols import Context

__all__ = [
    "ATan",
    "Exponential",
    "FastSigmoid",
    "Gaussian",
    "Rectangle",
    "Scaled",
    "Sigmoid",
    "StraightThroughSpike",
    "Surrogate",
    "Triangle",
    "in_units",
    "unit_of",
]


class _Kept(Context, Protocol):
    surrogate: Surrogate


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Kept, x: Tensor, surrogate: Surrogate) -> Tensor:
        ctx.save_for_backward(x)
        ctx.surrogate = surrogate
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        return grads[0] * ctx.surrogate.derivative(x), None


class Surrogate:
    """The Heaviside step, 1 where x >= 0, differentiated as `self.derivative(x)`."""

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        spikes: Tensor = _Step.apply(x, self)  # type: ignore[no-untyped-call]
        return spikes

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """g(x), the value that stands for the derivative of the step."""
        raise NotImplementedError(f"{type(self).__name__} defines no derivative")


@dataclass(frozen=True)
class Scaled(Surrogate):
    r"""Another surrogate whose argument is measured in a unit of its own, such as a layer's threshold.

    .. math:: g(x) = g_1(x/u) / u

    Weights and threshold that are multiplied by one number leave every spike as it is; with the threshold for
    a unit they leave the direction of every gradient as it is, too.

    Args:
        surrogate: `g_1`, of unit 1.
        unit: `u`, in units of potential, positive.

    Example:
        >>> Scaled(ATan(2.0), 4.0).derivative(torch.tensor(0.0)).item()
        0.25

    Source:
        Ours.
    """

    surrogate: Surrogate
    unit: float

    def __post_init__(self) -> None:
        _positive(self, unit=self.unit)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.surrogate.derivative(x / self.unit) / self.unit


def in_units(surrogate: Surrogate, unit: float) -> Surrogate:
    """The surrogate with its argument in a unit; itself where the unit is 1.

    Example:
        >>> in_units(ATan(2.0), 1.0), in_units(ATan(2.0), 4.0).unit
        (ATan(alpha=2.0), 4.0)
    """
    return surrogate if unit == 1 else Scaled(surrogate, unit)


def unit_of(surrogate: Surrogate) -> float:
    """The unit of a surrogate's argument, in units of potential.

    Example:
        >>> unit_of(ATan(2.0)), unit_of(in_units(ATan(2.0), 4.0))
        (1.0, 4.0)
    """
    return surrogate.unit if isinstance(surrogate, Scaled) else 1.0


def _positive(part: object, **values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{type(part).__name__} needs a positive {name}", f"{name}={value}", "Try the default."
            )


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    r"""The derivative of a logistic sigmoid.

    .. math:: g(x) = a\,\sigma(ax)\,(1-\sigma(ax))

    Args:
        alpha: slope `a`, per unit of potential, positive; height at 0 is a/4.

    Example:
        >>> Sigmoid(4.0).derivative(torch.tensor(0.0)).item()
        1.0

    Source:
        Ding et al. 2023 use a = 5; SpikingJelly's default is 4.
    """

    alpha: float = 4.0

    def __post_init__(self) -> None:
        _positive(self, alpha=self.alpha)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        s = torch.sigmoid(self.alpha * x)
        return self.alpha * s * (1 - s)


@dataclass(frozen=True)
class ATan(Surrogate):
    r"""The derivative of an arctangent, with heavy tails.

    .. math:: g(x) = \frac{a/2}{1+(\pi a x/2)^2}

    Args:
        alpha: twice the height at 0, per unit of potential, positive.

    Example:
        >>> ATan(2.0).derivative(torch.tensor(0.0)).item()
        1.0

    Source:
        Fang et al. 2021 (PLIF), section 3.3.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _positive(self, alpha=self.alpha)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (math.pi / 2 * self.alpha * x).square().add(1).reciprocal() * (self.alpha / 2)


@dataclass(frozen=True)
class Triangle(Surrogate):
    r"""A triangle of area 1 that is zero beyond `width` on either side.

    .. math:: g(x) = \max(0,\ w-|x|)/w^2

    Args:
        width: half of the base `w`, in units of potential, positive.

    Example:
        >>> Triangle(2.0).derivative(torch.tensor([0.0, 1.0, 2.0])).tolist()
        [0.5, 0.25, 0.0]

    Source:
        Bellec et al. 2018; SNN-RAT uses w = 1.
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, width=self.width)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (self.width - x.abs()).clamp(min=0) / self.width**2


@dataclass(frozen=True)
class Rectangle(Surrogate):
    r"""A rectangle of area 1.

    .. math:: g(x) = 1[|x| < w/2]/w

    Args:
        width: full width `w`, in units of potential, positive.

    Example:
        >>> Rectangle(2.0).derivative(torch.tensor([0.0, 0.9, 1.0])).tolist()
        [0.5, 0.5, 0.0]

    Source:
        Wu et al. 2018 (STBP), eq. (24).
    """

    width: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, width=self.width)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return (x.abs() < self.width / 2).to(x.dtype) / self.width


@dataclass(frozen=True)
class Gaussian(Surrogate):
    r"""The density of a normal distribution.

    .. math:: g(x) = \exp(-x^2/2\sigma^2)/(\sqrt{2\pi}\,\sigma)

    Args:
        sigma: standard deviation, in units of potential, positive.

    Example:
        >>> round(Gaussian(1.0).derivative(torch.tensor(0.0)).item(), 4)
        0.3989

    Source:
        Wu et al. 2018 (STBP), eq. (27).
    """

    sigma: float = 0.4

    def __post_init__(self) -> None:
        _positive(self, sigma=self.sigma)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.exp(-0.5 * (x / self.sigma) ** 2) / (math.sqrt(2 * math.pi) * self.sigma)


@dataclass(frozen=True)
class FastSigmoid(Surrogate):
    r"""The derivative of a fast sigmoid.

    .. math:: g(x) = \frac{a/2}{(1+a|x|)^2}

    Args:
        alpha: slope `a`, per unit of potential, positive. SuperSpike omits the factor a/2.

    Example:
        >>> FastSigmoid(2.0).derivative(torch.tensor([0.0, 0.5])).tolist()
        [1.0, 0.25]

    Source:
        Zenke & Ganguli 2018 (SuperSpike), section 2.
    """

    alpha: float = 2.0

    def __post_init__(self) -> None:
        _positive(self, alpha=self.alpha)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.alpha / 2 / (1 + self.alpha * x.abs()) ** 2


@dataclass(frozen=True)
class Exponential(Surrogate):
    r"""An exponential that falls on either side of the threshold and has the area 2 height / decay.

    .. math:: g(x) = h\,e^{-b|x|}

    Args:
        height: value `h` at 0, positive.
        decay: rate `b` of the fall, per unit of potential, positive.

    Example:
        >>> Exponential().derivative(torch.tensor(0.0)).item()
        1.0

    Source:
        Shrestha & Orchard 2018 (SLAYER), section 3.1; h = 1, b = 3 as in Kim, Kim & Kim 2020 (ANTLR).
    """

    height: float = 1.0
    decay: float = 3.0

    def __post_init__(self) -> None:
        _positive(self, height=self.height, decay=self.decay)

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return self.height * torch.exp(-self.decay * x.abs())


@dataclass(frozen=True)
class StraightThroughSpike(Surrogate):
    r"""The identity in the backward pass, at every distance from threshold; its area is infinite.

    .. math:: g(x) = 1

    Example:
        >>> StraightThroughSpike().derivative(torch.tensor([-9.0, 9.0])).tolist()
        [1.0, 1.0]

    Source:
        Bengio, Leonard & Courville 2013; a member of Oezdenizci & Legenstein's 2024 attack ensemble.
    """

    def derivative(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.ones_like(x)

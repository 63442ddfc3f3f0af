"""Threats: the set of images an attacker may choose from, around each clean image, in the box [0, 1].

A threat knows its set (`start`, `project`, `contains`, `distance`) and the direction in which a linear
function rises fastest within it (`steepest`). Its size is `epsilon`, in units of pixel value: 8/255 is
8/255, never 8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["L2", "Linf", "parse_epsilon"]

TOLERANCE = 1e-6  # of a budget: the rounding of x + delta in single precision


def parse_epsilon(text: str | float) -> float:
    """A perturbation size, written as a number or as a fraction.

    Raises:
        InputError: not a number, negative, infinite, or a division by zero.

    Example:
        >>> parse_epsilon("8/255") == 8 / 255, parse_epsilon(0.03)
        (True, 0.03)
    """
    try:
        if isinstance(text, bool):
            raise ValueError
        above, slash, below = str(text).partition("/")
        value = float(above) / (float(below) if slash else 1.0)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            "An epsilon is a number of at least 0",
            repr(text),
            "Write 8/255 or 0.03, in units of pixel value.",
        ) from error
    return value


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Ball:
    """A ball of some norm, cut by the box [0, 1]."""

    epsilon: float

    def __post_init__(self) -> None:
        parse_epsilon(self.epsilon)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        raise NotImplementedError(f"{type(self).__name__} defines no distance")

    def contains(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether each image is finite, within epsilon and within the box, up to 1e-6 for rounding."""
        flat = _flat(x_adv)
        boxed = ((flat >= 0) & (flat <= 1)).all(1)
        return boxed & (self.distance(x_adv, x) <= self.epsilon + TOLERANCE)


@dataclass(frozen=True)
class Linf(Ball):
    r"""Every pixel may change by at most epsilon.

    .. math:: \{x' \in [0,1]^n : \max_i |x'_i - x_i| \le \epsilon\}

    Args:
        epsilon: largest change of a pixel, in pixel value, at least 0.

    Example:
        >>> Linf(0.1).project(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.5, 0.05]])).tolist()
        [[0.6000000238418579, 0.0]]

    Source:
        Madry et al. 2018, section 2.
    """

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Uniform in the cube, then cut by the box."""
        noise = key.uniform(x.shape, 0, x.device).to(x.dtype) * 2 - 1
        return self.project(x + self.epsilon * noise, x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The nearest member."""
        return torch.clamp(x_adv, x - self.epsilon, x + self.epsilon).clamp(0, 1)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """Largest change of a pixel."""
        return _flat(x_adv - x).abs().amax(1)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient."""
        return grad.sign()


@dataclass(frozen=True)
class L2(Ball):
    r"""The image as a whole may move by at most epsilon in Euclidean distance.

    .. math:: \{x' \in [0,1]^n : \|x' - x\|_2 \le \epsilon\}

    Args:
        epsilon: largest distance, in pixel value, at least 0.

    Example:
        >>> L2(0.5).project(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.1, 0.6]])).tolist()
        [[0.4999..., 0.3000...]]

    Source:
        Madry et al. 2018, section 2; the projection onto ball and box is the usual one-dimensional dual.
    """

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Uniform in the ball, then cut by the box."""
        noise = key.fold("direction").normal(x.shape, 0, x.device).to(x.dtype)
        radius = key.fold("radius").uniform((x.shape[0],), 0, x.device).to(x.dtype) ** (1 / _flat(x).shape[1])
        return self.project(x + self.epsilon * _per_example(radius, x) * self.steepest(noise), x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The nearest member of ball and box together, found by bisection on the ball's multiplier."""
        step = x_adv - x

        def member(shrink: Tensor) -> Tensor:
            return (x + _per_example(shrink, x) * step).clamp(0, 1)

        low, high = torch.zeros_like(_flat(x)[:, 0]), torch.ones_like(_flat(x)[:, 0])
        if bool((self.distance(member(high), x) <= self.epsilon).all()):
            return member(high)
        for _ in range(30):
            middle = (low + high) / 2
            inside = self.distance(member(middle), x) <= self.epsilon
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        whole = self.distance(member(torch.ones_like(low)), x) <= self.epsilon
        return member(torch.where(whole, torch.ones_like(low), low))

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """Euclidean distance."""
        length: Tensor = torch.linalg.vector_norm(_flat(x_adv - x), dim=1)
        return length

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The gradient at unit length; zero stays zero."""
        tiny = torch.finfo(grad.dtype).tiny
        grad = grad / _per_example(_flat(grad).abs().amax(1).clamp(min=tiny), grad)  # its square would vanish
        return grad / _per_example(_flat(grad).norm(dim=1).clamp(min=tiny), grad)

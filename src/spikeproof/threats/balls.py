"""Balls in the norms Linf, L2 and L1 around each clean image, intersected with the box [0, 1].

A threat describes its set (`start`, `project`, `contains`, `distance`) and the direction in which a linear
function rises fastest within the set (`steepest`). Its size is `epsilon`, in units of pixel value: a budget
of 8/255 is written 8/255, never 8.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["L1", "L2", "Ball", "Linf", "check_budget", "parse_epsilon"]

TOLERANCE = 1e-6  # allowed excess over a budget: the rounding of x + delta in single precision


_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""A number as study files write it: no underscores, no infinities, no digits of other scripts."""


def parse_epsilon(text: str | float) -> float:
    """Read a perturbation size that is written as a number or as a fraction.

    Raises:
        InputError: the text is not a number, is negative or infinite, or divides by zero.

    Example:
        >>> parse_epsilon("8/255") == 8 / 255, parse_epsilon(0.03)
        (True, 0.03)
    """
    try:
        if isinstance(text, bool):
            raise ValueError
        above, slash, below = (part.strip(" ") for part in str(text).partition("/"))
        if not (_NUMBER.fullmatch(above) and (_NUMBER.fullmatch(below) or not slash)):
            raise ValueError
        value = float(above) / (float(below) if slash else 1.0)
        if not (value >= 0 and math.isfinite(value)):
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(
            "An epsilon is a number of at least 0",
            f"{text!r:.80}",
            "Write 8/255 or 0.03, in units of pixel value.",
        ) from error
    return value


def check_budget(threat: object, shape: Sequence[int] | None = None) -> None:
    """Refuse a budget that exceeds the whole box [0, 1]: it allows every image and is probably a mistake.

    The whole box (epsilon 1 for Linf) is itself a valid budget: it is the control experiment in which every
    attack must succeed.

    Args:
        threat: any threat; a threat that is not a ball has no largest size.
        shape: channels, height, width; None where they are not known, and then only Linf has a largest size.

    Raises:
        InputError: epsilon is larger than the largest distance between two images.

    Example:
        >>> check_budget(Linf(8))
        Traceback (most recent call last):
        spikeproof.errors.InputError: Linf reaches every image at epsilon 1: got epsilon=8. Pixel values lie
        in [0, 1]: write 8/255 for 8 of 255 levels, or 1 for the whole box.
    """
    if not isinstance(threat, Ball) or (shape is None and not isinstance(threat, Linf)):
        return
    most = threat.whole(shape or ())
    if threat.epsilon > most + TOLERANCE:
        levels = f"write {threat.epsilon:g}/255 for {threat.epsilon:g} of 255 levels, or"
        raise InputError(
            f"{type(threat).__name__} reaches every image at epsilon {most:g}",
            f"epsilon={threat.epsilon:g}",
            f"Pixel values lie in [0, 1]: {levels} {most:g} for the whole box."
            if isinstance(threat, Linf)
            else f"Pixel values lie in [0, 1]: write at most {most:g}, the whole box.",
        )


def need_pairs(threat: object, x_adv: Tensor, x: Tensor) -> None:
    """Refuse inputs that are not one for one beside their clean inputs, and would be broadcast.

    Raises:
        InputError: the two have different shapes.

    Example:
        >>> Linf(0.1).contains(torch.zeros(1, 3), torch.zeros(4, 3))
        Traceback (most recent call last):
        spikeproof.errors.InputError: Linf compares every input with one clean input of its shape: got shapes
        [1, 3] and [4, 3]. Give one clean input for each input, in the same order.
    """
    if x_adv.shape != x.shape:
        raise InputError(
            f"{type(threat).__name__} compares every input with one clean input of its shape",
            f"shapes {list(x_adv.shape)} and {list(x.shape)}",
            "Give one clean input for each input, in the same order.",
        )


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.ndim > 1 else x[:, None]


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True)
class Ball:
    """A ball in some norm, intersected with the box [0, 1]."""

    epsilon: float

    def __post_init__(self) -> None:
        value, given = parse_epsilon(self.epsilon), self.epsilon  # type: float, object
        if isinstance(given, str):  # numbers stay as they are, and with them the identity of a threat
            object.__setattr__(self, "epsilon", value)

    def whole(self, shape: Sequence[int]) -> float:
        """The smallest epsilon at which the set holds every image of this shape `[C, H, W]`."""
        raise NotImplementedError(f"{type(self).__name__} has no largest size")

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        raise NotImplementedError(f"{type(self).__name__} defines no start")

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        raise NotImplementedError(f"{type(self).__name__} defines no projection")

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        raise NotImplementedError(f"{type(self).__name__} defines no direction")

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        raise NotImplementedError(f"{type(self).__name__} defines no distance")

    def contains(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether each image is finite, within epsilon and within the box, up to 1e-6 for rounding."""
        need_pairs(self, x_adv, x)
        flat = _flat(x_adv)
        boxed = ((flat >= 0) & (flat <= 1)).all(1)
        return boxed & (self.distance(x_adv, x) <= self.epsilon + TOLERANCE)

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member of ball and box at which a linear function with this gradient is largest."""
        raise NotImplementedError(f"{type(self).__name__} defines no extreme member")


def room(grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
    """How far each value may move along its gradient before it leaves the box."""
    return torch.where(grad > 0, 1 - x, torch.where(grad < 0, x, 0 * x))


@dataclass(frozen=True)
class Linf(Ball):
    r"""Every pixel value may change by at most epsilon.

    .. math:: \{x' \in [0,1]^n : \max_i |x'_i - x_i| \le \epsilon\}

    Args:
        epsilon: largest change of a pixel value, in units of pixel value, at least 0.

    Example:
        >>> Linf(0.1).project(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.5, 0.05]])).tolist()
        [[0.6000000238418579, 0.0]]

    Source:
        Madry et al. 2018, section 2.
    """

    def whole(self, shape: Sequence[int]) -> float:
        return 1.0

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """A uniform sample of the cube, clipped to the box."""
        noise = key.uniform(x.shape, 0, x.device).to(x.dtype) * 2 - 1
        return self.project(x + self.epsilon * noise, x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member nearest to `x_adv` in Euclidean distance."""
        need_pairs(self, x_adv, x)
        return torch.clamp(x_adv, x - self.epsilon, x + self.epsilon).clamp(0, 1)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The largest absolute change of a pixel value."""
        need_pairs(self, x_adv, x)
        return _flat(x_adv - x).abs().amax(1)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient."""
        return grad.sign()

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The corner of the cube to which the gradient points, clipped to the box."""
        need_pairs(self, grad, x)
        return self.project(x + self.epsilon * grad.sign(), x)


@dataclass(frozen=True)
class L2(Ball):
    r"""The image as a whole may move by at most epsilon in Euclidean distance.

    .. math:: \{x' \in [0,1]^n : \|x' - x\|_2 \le \epsilon\}

    Distances are summed in double precision, because the rounding errors of many pixels add up.

    Args:
        epsilon: largest Euclidean distance, in units of pixel value, at least 0.

    Example:
        >>> L2(0.5).project(torch.tensor([[0.9, 0.0]]), torch.tensor([[0.1, 0.6]])).tolist()
        [[0.4999..., 0.3000...]]

    Source:
        Madry et al. 2018, section 2. The projection onto the intersection of ball and box solves the usual
        one-dimensional dual problem.
    """

    def whole(self, shape: Sequence[int]) -> float:
        return math.sqrt(math.prod(shape))

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """A uniform sample of the ball, projected onto ball and box."""
        noise = key.fold("direction").normal(x.shape, 0, x.device).to(x.dtype)
        radius = key.fold("radius").uniform((x.shape[0],), 0, x.device).to(x.dtype) ** (1 / _flat(x).shape[1])
        return self.project(x + self.epsilon * _per_example(radius, x) * self.steepest(noise), x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The nearest member of the intersection of ball and box, by bisection on the ball's multiplier."""
        need_pairs(self, x_adv, x)
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
        """The Euclidean distance."""
        need_pairs(self, x_adv, x)
        length: Tensor = torch.linalg.vector_norm(_flat(x_adv.double() - x.double()), dim=1)
        return length

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The gradient scaled to unit length; a zero gradient stays zero."""
        tiny = torch.finfo(grad.dtype).tiny
        # Without this scaling, the square of a very small gradient would underflow to zero.
        grad = grad / _per_example(_flat(grad).abs().amax(1).clamp(min=tiny), grad)
        return grad / _per_example(_flat(grad).norm(dim=1).clamp(min=tiny), grad)

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """`x + t g`, clipped to the box, with the largest `t` that stays within the ball."""
        need_pairs(self, grad, x)
        reach = room(grad, x)
        unit = self.steepest(grad)
        # The step at which each value reaches the box
        far = reach / unit.abs().clamp(min=torch.finfo(grad.dtype).tiny)
        high = torch.where(unit != 0, far, 0 * far).flatten(1).amax(1).clamp(max=1e6)
        low = torch.zeros_like(high)

        def member(t: Tensor) -> Tensor:
            return (x + _per_example(t, x) * unit).clamp(0, 1)

        whole = self.distance(member(high), x) <= self.epsilon
        low = torch.where(whole, high, low)
        for _ in range(60):
            middle = (low + high) / 2
            inside = self.distance(member(middle), x) <= self.epsilon
            low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
        return member(low)


@dataclass(frozen=True)
class L1(Ball):
    r"""The absolute changes of all pixel values may sum to at most epsilon.

    .. math:: \{x' \in [0,1]^n : \sum_i |x'_i - x_i| \le \epsilon\}

    Distances are summed in double precision, and the projection stops at the last image that is inside
    after rounding, because the rounding errors of thousands of pixels add up.

    Args:
        epsilon: largest sum of absolute changes, in units of pixel value, at least 0.

    Example:
        >>> L1(0.5).project(torch.tensor([[0.75, 0.0]]), torch.tensor([[0.25, 0.5]])).tolist()
        [[0.5, 0.25]]

    Source:
        Croce & Hein 2021 ("Mind the box"), proposition 2.1: the projection is onto the intersection of ball
        and box. Clipping after the projection of Duchi et al. 2008 does not give the nearest member.
    """

    def whole(self, shape: Sequence[int]) -> float:
        return float(math.prod(shape))

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """A uniform sample of the ball, projected onto ball and box."""
        size = _flat(x).shape[1]
        shape = (x.shape[0], size)
        waits = -torch.log1p(-key.fold("direction").uniform(shape, 0, x.device).double())
        signs = (key.fold("sign").uniform(shape, 0, x.device) < 0.5).double() * 2 - 1
        radius = key.fold("radius").uniform((x.shape[0],), 0, x.device).double() ** (1 / size)
        direction = signs * waits / waits.sum(1, keepdim=True).clamp(min=1e-300)
        delta = (self.epsilon * radius[:, None] * direction).view(x.shape)
        return self.project(x + delta.to(x.dtype), x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The nearest member of ball and box: soft thresholding and clipping, its threshold by bisection."""
        need_pairs(self, x_adv, x)
        step = x_adv - x

        def member(threshold: Tensor) -> Tensor:
            shrunk = (step.abs() - _per_example(threshold, x)).clamp(min=0)
            return torch.where(shrunk > 0, (x + step.sign() * shrunk).clamp(0, 1), x)

        boxed = x_adv.clamp(0, 1)
        within = self.distance(boxed, x) <= self.epsilon
        if bool(within.all()):
            return boxed
        high = _flat(step).abs().amax(1)
        low = torch.zeros_like(high)
        for _ in range(60):
            middle = (low + high) / 2
            inside = self.distance(member(middle), x) <= self.epsilon
            low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
        return torch.where(_per_example(within, x), boxed, member(high))

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The sum of absolute changes."""
        need_pairs(self, x_adv, x)
        return _flat(x_adv.double() - x.double()).abs().sum(1)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient at its first largest absolute component; zero elsewhere."""
        flat = _flat(grad)
        step = torch.zeros_like(flat)
        if flat.numel():
            where = flat.abs().argmax(1, keepdim=True)
            step.scatter_(1, where, flat.gather(1, where).sign())
        return step.view(grad.shape)

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """Pixel values moved to the edge of the box, largest gradients first, until the budget is spent."""
        need_pairs(self, grad, x)
        flat, limits = _flat(grad), _flat(room(grad, x)).double()
        order = flat.abs().argsort(dim=1, descending=True, stable=True)
        sorted_limits = limits.gather(1, order)
        spent = sorted_limits.cumsum(1) - sorted_limits
        move = torch.minimum(sorted_limits, (self.epsilon - spent).clamp(min=0))
        delta = torch.zeros_like(limits).scatter_(1, order, move).view(x.shape)
        return self.project((x.double() + delta * grad.sign()).to(x.dtype), x)

"""Threats that limit where an image may change: in a few pixels, in one square, or in a region.

A pixel of an image `[B, C, H, W]` comprises all channels at one position and counts once. In inputs of any
other shape, every value counts as a pixel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import L1, L2, Ball, Linf, need_pairs, room

__all__ = ["L0", "Region", "SquarePatch", "boxed"]


def _pixels(x: Float[Tensor, "B *F"]) -> Float[Tensor, "B N"]:
    """Sum over the channels of each pixel."""
    return x.sum(1).flatten(1) if x.ndim == 4 else x.reshape(len(x), -1)


def _spread(chosen: Bool[Tensor, "B N"], like: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
    """Expand a choice of pixels to a mask over all values."""
    if like.ndim == 4:
        return chosen.view(len(like), 1, *like.shape[2:]).expand_as(like)
    return chosen.view(like.shape)


def _gain(x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B N"]:
    """By how much changing each pixel reduces the squared distance between the member and `x_adv`."""
    goal = x_adv.double()
    kept, left = goal - goal.clamp(0, 1), goal - x.double()
    return _pixels(left.square() - kept.square())


def _rise(grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B N"]:
    """By how much a linear function rises when a pixel moves to the edge of the box."""
    return _pixels(grad.double().abs() * room(grad, x).double())


def _whole(epsilon: float, what: str) -> None:
    if not (epsilon >= 0 and math.isfinite(epsilon) and float(epsilon).is_integer()):
        raise InputError(f"{what} is a whole number of pixels", f"epsilon={epsilon}", "Try epsilon=5.")


@dataclass(frozen=True)
class _Places(Ball):
    """A set that limits which pixels may change; each of them may take any value in [0, 1]."""

    def choose(self, worth: Float[Tensor, "B N"], like: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The allowed pixels of the largest total worth, as a mask of values."""
        raise NotImplementedError(f"{type(self).__name__} chooses no pixels")

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Random pixels, filled with uniform noise."""
        worth = key.fold("places").uniform(_pixels(x).shape, 0, x.device).double()
        content = key.fold("content").uniform(x.shape, 0, x.device).to(x.dtype)
        return torch.where(self.choose(worth, x), content, x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The exact nearest member; among equally near members, the one that changes the first pixels."""
        need_pairs(self, x_adv, x)
        return torch.where(self.choose(_gain(x_adv, x), x), x_adv.clamp(0, 1), x)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient at the allowed pixels with the largest total absolute gradient."""
        return torch.where(self.choose(_pixels(grad.double().abs()), grad), grad.sign(), 0 * grad)

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The pixels that gain most from moving to the edge of the box are moved there."""
        need_pairs(self, grad, x)
        edge = torch.where(grad > 0, torch.ones_like(x), torch.where(grad < 0, torch.zeros_like(x), x))
        return torch.where(self.choose(_rise(grad, x), x), edge, x)


@dataclass(frozen=True)
class L0(_Places):
    r"""At most epsilon pixels may change, each in all its channels and to any value.

    .. math:: \{x' \in [0,1]^{C \times N} : |\{p : x'_{\cdot p} \ne x_{\cdot p}\}| \le \epsilon\}

    Args:
        epsilon: largest number of changed pixels, a whole number of at least 0.

    Raises:
        InputError: epsilon is not a whole number.

    Example:
        >>> L0(1).project(torch.tensor([[0.9, 0.4, 0.2]]), torch.tensor([[0.5, 0.5, 0.5]]))
        tensor([[0.9000, 0.5000, 0.5000]])

    Source:
        Croce & Hein 2019 ("Sparse and imperceivable adversarial attacks"), section 4.1. Published tools
        that count each channel separately may allow only a third of the pixels that they state.
    """

    def __post_init__(self) -> None:
        _whole(self.epsilon, "The budget of L0")

    def whole(self, shape: Sequence[int]) -> float:
        return float(math.prod(shape[-2:]))

    def choose(self, worth: Float[Tensor, "B N"], like: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        count = min(int(self.epsilon), worth.shape[1])
        order = worth.argsort(dim=1, descending=True, stable=True)[:, :count]
        chosen = torch.zeros(worth.shape, dtype=torch.bool, device=worth.device)
        return _spread(chosen.scatter_(1, order, True), like)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The number of changed pixels."""
        need_pairs(self, x_adv, x)
        return (_pixels((x_adv != x).to(x.dtype)) > 0).sum(1).to(x.dtype)


@dataclass(frozen=True)
class SquarePatch(_Places):
    """The pixels of one square, anywhere in the image, may take any values.

    Args:
        epsilon: side of the square in pixels, a whole number of at least 0.

    Raises:
        InputError: epsilon is not a whole number, or the inputs are not images `[B, C, H, W]`.

    Example:
        >>> x = torch.zeros(1, 1, 2, 3)
        >>> goal = torch.tensor([[[[0.0, 0.0, 1.0], [0.4, 0.0, 1.0]]]])
        >>> SquarePatch(2).project(goal, x)[0, 0].tolist()
        [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]

    Source:
        Brown et al. 2017, section 2, without printability; the position is free for each image.
    """

    def __post_init__(self) -> None:
        _whole(self.epsilon, "The side of a square patch")

    def whole(self, shape: Sequence[int]) -> float:
        return float(max(shape[-2:]))

    def choose(self, worth: Float[Tensor, "B N"], like: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        batch, height, width = len(like), *_image(like)
        side = int(self.epsilon)
        if not side or not batch:
            return torch.zeros(like.shape, dtype=torch.bool, device=like.device)
        tall, wide = min(side, height), min(side, width)
        total = torch.nn.functional.pad(worth.view(batch, height, width), (1, 0, 1, 0)).cumsum(1).cumsum(2)
        sums = (
            total[:, tall:, wide:]
            - total[:, :-tall, wide:]
            - total[:, tall:, :-wide]
            + total[:, :-tall, :-wide]
        )
        best = sums.flatten(1).argmax(1)
        top = (best // sums.shape[2]).view(-1, 1, 1)
        left = (best % sums.shape[2]).view(-1, 1, 1)
        i = torch.arange(height, device=like.device).view(1, -1, 1)
        j = torch.arange(width, device=like.device).view(1, 1, -1)
        chosen = (i >= top) & (i < top + tall) & (j >= left) & (j < left + wide)
        return _spread(chosen.flatten(1), like)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The side of the smallest square that covers all changed pixels."""
        need_pairs(self, x_adv, x)
        _image(x)
        changed = (x_adv != x).any(1)
        return torch.maximum(_extent(changed.any(2)), _extent(changed.any(1))).to(x.dtype)


def _image(x: Tensor) -> tuple[int, int]:
    if x.ndim != 4:
        raise InputError(
            "A square patch needs images [B, C, H, W]", f"shape {list(x.shape)}", "Use L0 for these inputs."
        )
    return x.shape[2], x.shape[3]


def _extent(changed: Bool[Tensor, "B N"]) -> Tensor:
    """The length from the first to the last changed position, both included."""
    place = torch.arange(changed.shape[1], device=changed.device)
    last = torch.where(changed, place, -1).amax(1)
    first = torch.where(changed, place, changed.shape[1]).amin(1)
    return (last - first + 1).clamp(min=0)


_BALLS: dict[str, type[Ball]] = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}


@dataclass(frozen=True)
class Region(Ball):
    """Only a rectangle of the image may change, and only within a ball.

    Args:
        epsilon: size of the ball, in the unit of its norm.
        norm: norm of the ball: linf, l2, l1 or l0.
        top: first row of the rectangle.
        left: first column of the rectangle.
        height: number of rows, at least 1.
        width: number of columns, at least 1.
        outside: whether everything except the rectangle may change, and the rectangle may not.

    Raises:
        InputError: a setting is out of range, or the inputs are not images `[B, C, H, W]`.

    Example:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> Region(0.25, "linf", height=1, width=2).project(x + 1, x)[0, 0].tolist()
        [[0.25, 0.25], [0.0, 0.0]]
    """

    norm: Literal["linf", "l2", "l1", "l0"] = "linf"
    top: int = 0
    left: int = 0
    height: int = 8
    width: int = 8
    outside: bool = False

    def __post_init__(self) -> None:
        if self.norm not in _BALLS or min(self.top, self.left) < 0 or min(self.height, self.width) < 1:
            raise InputError(
                f"A region needs a norm of {', '.join(_BALLS)}, a corner and a size of at least 1",
                repr(self),
                "Try norm='linf', top=0, left=0, height=8, width=8.",
            )
        _ = self.ball

    def whole(self, shape: Sequence[int]) -> float:
        return self.ball.whole((*shape[:-2], self.height, self.width))

    @property
    def ball(self) -> Ball:
        """The ball without the restriction to the region."""
        return _BALLS[self.norm](self.epsilon)

    def mask(self, like: Float[Tensor, "B C H W"]) -> Bool[Tensor, "H W"]:
        """The mask of the pixels that may change."""
        if like.ndim != 4:
            raise InputError(
                "A region needs images [B, C, H, W]", f"shape {list(like.shape)}", f"Use {self.ball!r}."
            )
        mask = torch.zeros(like.shape[2:], dtype=torch.bool, device=like.device)
        mask[self.top : self.top + self.height, self.left : self.left + self.width] = True
        return ~mask if self.outside else mask

    def start(self, x: Float[Tensor, "B C H W"], key: Key) -> Float[Tensor, "B C H W"]:
        """A random member of the ball inside the region; the clean image outside it."""
        return torch.where(self.mask(x), self.ball.start(x, key), x)

    def project(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The nearest member; the projection onto the ball does not move values that equal the clean ones."""
        need_pairs(self, x_adv, x)
        return self.ball.project(torch.where(self.mask(x), x_adv, x), x)

    def contains(self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Bool[Tensor, "B"]:
        """Whether each image is within the ball and equals the clean image outside the region."""
        need_pairs(self, x_adv, x)
        kept = ((x_adv == x) | self.mask(x)).flatten(1).all(1)
        return kept & self.ball.contains(x_adv, x)

    def distance(self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
        """The distance in the ball's norm; infinite where a value changed outside the region."""
        need_pairs(self, x_adv, x)
        kept = ((x_adv == x) | self.mask(x)).flatten(1).all(1)
        return torch.where(kept, self.ball.distance(x_adv, x).to(x.dtype), torch.inf)

    def steepest(self, grad: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The ball's steepest direction for the gradient within the region."""
        return self.ball.steepest(torch.where(self.mask(grad), grad, 0 * grad))

    def extreme(
        self, grad: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The ball's extreme member for the gradient within the region."""
        need_pairs(self, grad, x)
        return self.ball.extreme(torch.where(self.mask(x), grad, 0 * grad), x)


def boxed(threat: object) -> bool:
    """Whether a threat bounds every pixel value separately, as Linf and a region of Linf do.

    Example:
        >>> boxed(Linf(0.1)), boxed(Region(0.1)), boxed(Region(0.1, "l2"))
        (True, True, False)
    """
    return isinstance(threat, Linf) or (isinstance(threat, Region) and isinstance(threat.ball, Linf))

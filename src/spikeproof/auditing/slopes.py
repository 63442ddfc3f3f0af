"""Does the loss move as its gradient says? A test along random directions, from clean and attacked images.

The test compares the gradient with answers alone, so that no change of the gradient escapes it. The
gradients of spiking networks come from surrogates and hold for no small step; hence the steps are as long
as those of attacks, and the gradient is held to what the answers themselves allow: to how far the change
along a direction is the sum of the changes along its two halves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.keys import Key

__all__ = ["FEW", "LENGTHS", "Slopes", "look"]

LENGTHS = (1 / 64, 1 / 16, 1 / 8)
"""Changes of every pixel, in units of the range of values, along which the loss is asked for."""
DIRECTIONS = 16
"""Random directions per image, place and length."""
REACH, STEPS = 0.1, 4
"""The attack on whose way it looks: steps along the sign of the gradient, within this of the clean image."""
LEAST = 0.15
"""Below this cosine of a change and the sum of its halves, nothing can be said of a slope."""

FEW = 9
"""So many different losses are enough."""

Loss = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor], Tensor]


class Slopes(NamedTuple):
    r"""How changes of the loss compare with what the gradient says.

    Along a random direction d of signs and with g the gradient, the change :math:`m = (L(x + h d) - L(x - h
    d)) / 2` is compared with :math:`p = h\, g \cdot d`, and with the sum a of the changes along d on a
    random half of the pixels and on the other half; all on images cut to [0, 1].

    Args:
        follows: mean cosine of m and p over the images, at the clean image, half-way and at the end of an
            attack, each at the length at which it compares best with `steady`.
        steady: mean cosine of m and a at the same places and lengths.
        factor: median of the factor by which the loss moves more than the gradient says, at the clean image.
        flat: share of the images around which no direction of the greatest length changes the loss.
        hidden: share of the change of the loss, squared, that pixels of gradient exactly zero make; mean over
            images.
        values: number of different losses, counted up to `FEW`.
    """

    follows: tuple[float, ...]
    steady: tuple[float, ...]
    factor: float | None
    flat: float
    hidden: float
    values: int


def look(
    loss: Loss, gradient: Gradient, x: Float[Tensor, "B *F"], key: Key, *, directions: int = DIRECTIONS
) -> Slopes:
    """Compare slopes with changes around images.

    Args:
        loss: images to losses `[B]`, without a gradient and without chance.
        gradient: of the loss on images, zero where there is none.
        x: images in [0, 1].
        key: of the directions, with a stream per image.
        directions: per image, place and length, at least 1.

    Example:
        >>> x, key = torch.full((4, 6), 0.5), Key.of(0).for_rows(range(4))
        >>> seen = look(lambda z: z.square().sum(1), lambda z: -2 * z, x, key)
        >>> [round(value, 2) for value in seen.follows], [round(value, 2) for value in seen.steady]
        ([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0])
    """
    follows, steady, factor, flat, hidden = [], [], None, 0.0, 0.0
    loss = counted = _Counted(loss)
    for place, here in enumerate(_way(gradient, x)):
        slope, now = gradient(here), key.fold("place", place)
        seen = [_compared(loss, here, slope, length, now, directions) for length in LENGTHS]
        usable = [each for each in seen if each.steady >= LEAST]
        if usable:
            best = max(usable, key=lambda each: each.follows / each.steady)
            follows.append(best.follows)
            steady.append(best.steady)
        flat = max(flat, seen[-1].flat)
        hidden = max(hidden, _hidden(loss, here, slope, now, directions))
        if place == 0 and usable:
            factor = best.factor
    return Slopes(tuple(follows), tuple(steady), factor, flat, hidden, len(counted.values))


class _Counted:
    """A loss that notes which values it takes, up to a few."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.values = loss, set[float]()

    def __call__(self, images: Tensor) -> Tensor:
        losses = self.loss(images)
        if len(self.values) < FEW:
            told = {float(f"{value:.5g}") for value in losses.tolist()}
            self.values |= set(sorted(told - self.values)[: FEW - len(self.values)])
        return losses


def _way(gradient: Gradient, x: Tensor) -> list[Tensor]:
    """The clean image, and an attack half-way and at its end."""
    places = [x]
    for step in range(STEPS):
        moved = places[-1] if step else x
        moved = moved + 1.5 * REACH / STEPS * gradient(moved).sign()
        places.append(torch.maximum(torch.minimum(moved, x + REACH), x - REACH).clamp(0, 1))
    return [places[0], places[STEPS // 2], places[STEPS]]


class _Compared(NamedTuple):
    follows: float
    steady: float
    factor: float
    flat: float


def _signs(x: Tensor, key: Key) -> Tensor:
    return (key.uniform(x.shape, 0, x.device) - 0.5).sign().to(x.dtype)


def _change(loss: Loss, x: Tensor, move: Tensor) -> Tensor:
    return (loss((x + move).clamp(0, 1)) - loss((x - move).clamp(0, 1))) / 2


def _compared(loss: Loss, x: Tensor, slope: Tensor, length: float, key: Key, directions: int) -> _Compared:
    changes, said, sums = [], [], []
    for i in range(directions):
        now = key.fold(i)
        move = length * _signs(x, now)
        half = (key.fold("half", i).uniform(x.shape, 0, x.device) < 0.5).to(x.dtype)
        changes.append(_change(loss, x, move))
        sums.append(_change(loss, x, move * half) + _change(loss, x, move * (1 - half)))
        shift = ((x + move).clamp(0, 1) - (x - move).clamp(0, 1)) / 2
        said.append((slope * shift).flatten(1).sum(1))
    m, p, a = (torch.stack(each).double() for each in (changes, said, sums))
    moving = m.abs().amax(0) > 0
    if not bool(moving.any()):
        return _Compared(0.0, 0.0, 0.0, 1.0)
    m, p, a = m[:, moving], p[:, moving], a[:, moving]
    factor = (m * p).sum(0) / p.square().sum(0).clamp(min=1e-300)
    return _Compared(_cosine(m, p), _cosine(m, a), float(factor.median()), 1 - float(moving.double().mean()))


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean over columns; 0 for a column that is zero."""
    size = a.norm(dim=0) * b.norm(dim=0)
    return float(((a * b).sum(0) / size.clamp(min=1e-300)).mean())


def _hidden(loss: Loss, x: Tensor, slope: Tensor, key: Key, directions: int) -> float:
    """What pixels without gradient do to the loss, as a share of what all do."""
    blind = (slope == 0).to(x.dtype)
    some = (blind.flatten(1).amax(1) > 0) & (blind.flatten(1).amin(1) < 1)
    if not bool(some.any()):
        return 0.0
    blinds, others = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for i in range(directions):
        move = LENGTHS[-1] * _signs(x, key.fold("hidden", i))
        blinds += _change(loss, x, move * blind).double().square().cpu()
        others += _change(loss, x, move * (1 - blind)).double().square().cpu()
    share = blinds / (blinds + others).clamp(min=1e-300)
    return float((share * some.cpu()).mean())

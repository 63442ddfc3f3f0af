"""Does the loss change as its gradient predicts? A test along random directions around images.

The test compares the gradient with changes of the loss in forward passes, so it needs no assumption about the
cause of a fault. The gradients of spiking networks come from surrogates and do not describe infinitesimal
steps. The test therefore takes steps as long as the steps of attacks. It also measures how nearly linear the
loss is at this length, as the agreement between the change along a direction and the sum of the changes along
its two halves, and expects no better agreement of the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.keys import Key

__all__ = ["FEW", "LENGTHS", "Slopes", "compare"]

LENGTHS = (1 / 64, 1 / 16, 1 / 8)
"""Lengths of the steps along a direction: the change of every pixel, in units of pixel value."""
DIRECTIONS = 16
"""Number of random directions per image, point and length."""
REACH, STEPS = 0.1, 4
"""Budget in the maximum norm, and number of sign-gradient steps, of the attack whose points are tested."""
LEAST = 0.15
"""Below this cosine between a change and the sum of its halves, the loss has no slope to compare with."""

FAINTEST = 1e-3
"""Share of the squared change of the loss that pixels of the faintest gradients are predicted to cause."""
SPREAD = 2.0
"""Share of the change that is no sum over pixels, per pixel of faint gradient and in units of that of all."""

NEGLIGIBLE = 0.01
"""Share of the squared change of the loss that pixels without a gradient may cause anyway."""
APART, SHORT = 1 / 32, (1 / 1024, 1 / 4096)
"""Largest change of a pixel that makes all pixels different, and lengths of steps that are short to it."""

FEW = 10
"""Number of different losses after which they are no longer counted."""

AT_ONCE = 2**18
"""Pixels that one call of the loss gets at most, where the images alone are fewer."""

Loss = Callable[[Tensor], Tensor]
Gradient = Callable[[Tensor], Tensor]


class Slopes(NamedTuple):
    r"""How changes of the loss compare with the changes that the gradient predicts.

    For a random direction d of signs and the gradient g, the change :math:`m = (L(x + h d) - L(x - h d)) / 2`
    is compared with the prediction :math:`p = h\, g \cdot d`, and with the sum a of the changes along d
    restricted to a random half of the pixels and to the other half. All images are clipped to [0, 1].

    Args:
        follows: mean cosine between m and p over the images, at the clean image, half-way through an attack
            and at its end; each at the length at which it is largest relative to `steady`.
        steady: mean cosine between m and a, at the same points and lengths.
        factor: median factor by which the loss changes more than the gradient predicts, at the clean image.
        flat: share of the images around which no direction of the largest length changes the loss.
        hidden: share of the squared change of the loss that comes from pixels whose gradient is exactly zero,
            though they matter in short steps as well; or from those of the faintest gradients, above what
            they cause where the loss is no sum over pixels; mean over images.
        values: number of different losses, counted up to `FEW`.
    """

    follows: tuple[float, ...]
    steady: tuple[float, ...]
    factor: float | None
    flat: float
    hidden: float
    values: int


def compare(
    loss: Loss, gradient: Gradient, x: Float[Tensor, "B *F"], key: Key, *, directions: int = DIRECTIONS
) -> Slopes:
    """Compare the gradient with changes of the loss around images.

    Args:
        loss: maps images `[k B, ...]`, the B images changed in k ways one after the other, to losses `[k B]`;
            deterministic and not recorded for gradients.
        gradient: maps images to the gradient of the loss; zero where there is none.
        x: images in [0, 1].
        key: key of the random directions, with one stream per image.
        directions: number of directions per image, point and length, at least 1.

    Example:
        >>> x, key = torch.full((4, 6), 0.5), Key.of(0).for_rows(range(4))
        >>> seen = compare(lambda z: z.square().sum(1), lambda z: -2 * z, x, key)
        >>> [round(value, 2) for value in seen.follows], [round(value, 2) for value in seen.steady]
        ([-1.0, -1.0, -1.0], [1.0, 1.0, 1.0])
    """
    follows, steady, factor, flat, hidden = [], [], None, 0.0, 0.0
    loss = counted = _Counted(loss)
    for i, point in enumerate(_points(gradient, x)):
        slope, now = gradient(point), key.fold("place", i)
        drawn = [_drawn(x, now, direction) for direction in range(directions)]  # the same at every length
        seen = [_compared(loss, point, slope, length, drawn) for length in LENGTHS]
        usable = [each for each in seen if each.steady >= LEAST]
        if usable:
            best = max(usable, key=lambda each: each.follows / each.steady)
            follows.append(best.follows)
            steady.append(best.steady)
        flat = max(flat, seen[-1].flat)
        hidden = max(hidden, _hidden(loss, gradient, point, slope, now, directions, _zero, 0.0))
        if usable:
            unsteady = 1 - best.steady**2
            hidden = max(hidden, _hidden(loss, gradient, point, slope, now, directions, _faint, unsteady))
        if i == 0 and usable:
            factor = best.factor
    return Slopes(tuple(follows), tuple(steady), factor, flat, hidden, len(counted.values))


class _Counted:
    """A loss that records which values it takes, up to `FEW` of them."""

    def __init__(self, loss: Loss) -> None:
        self.loss, self.values = loss, set[float]()

    def __call__(self, images: Tensor) -> Tensor:
        losses = self.loss(images)
        if len(self.values) < FEW:
            found = {float(f"{value:.5g}") for value in losses.tolist()}
            self.values |= set(sorted(found - self.values)[: FEW - len(self.values)])
        return losses


def _points(gradient: Gradient, x: Tensor) -> list[Tensor]:
    """The clean images, the images half-way through an attack, and those at its end."""
    points = [x]
    for _ in range(STEPS):
        moved = points[-1]
        moved = moved + 1.5 * REACH / STEPS * gradient(moved).sign()
        points.append(torch.maximum(torch.minimum(moved, x + REACH), x - REACH).clamp(0, 1))
    return [points[0], points[STEPS // 2], points[STEPS]]


class _Compared(NamedTuple):
    follows: float
    steady: float
    factor: float
    flat: float


def _signs(x: Tensor, key: Key) -> Tensor:
    return (key.uniform(x.shape, 0, x.device) - 0.5).sign().to(x.dtype)


def _changes(loss: Loss, x: Tensor, moves: list[Tensor]) -> list[Tensor]:
    """Half the difference of the losses after every move and after its opposite."""
    ends = [(x + move).clamp(0, 1) for move in moves] + [(x - move).clamp(0, 1) for move in moves]
    count = max(1, AT_ONCE // max(1, x.numel()))
    losses = torch.cat([loss(torch.cat(ends[i : i + count])) for i in range(0, len(ends), count)])
    up, down = losses.view(2, len(moves), len(x))
    return list((up - down) / 2)


def _drawn(x: Tensor, key: Key, direction: int) -> tuple[Tensor, Tensor]:
    """A direction of signs, and which pixels belong to its first half."""
    half = key.fold("half", direction).uniform(x.shape, 0, x.device) < 0.5
    return _signs(x, key.fold(direction)), half.to(x.dtype)


def _compared(
    loss: Loss, x: Tensor, slope: Tensor, length: float, drawn: list[tuple[Tensor, Tensor]]
) -> _Compared:
    moves, first, second, predicted = [], [], [], []
    for signs, half in drawn:
        move = length * signs
        moves.append(move)
        first.append(move * half)
        second.append(move * (1 - half))
        shift = ((x + move).clamp(0, 1) - (x - move).clamp(0, 1)) / 2
        predicted.append((slope * shift).flatten(1).sum(1))
    whole, one, other = torch.stack(_changes(loss, x, [*moves, *first, *second])).chunk(3)
    m, p, a = whole.double(), torch.stack(predicted).double(), (one + other).double()
    moving = m.abs().amax(0) > 0
    if not bool(moving.any()):
        return _Compared(0.0, 0.0, 0.0, 1.0)
    m, p, a = m[:, moving], p[:, moving], a[:, moving]
    factor = (m * p).sum(0) / p.square().sum(0).clamp(min=1e-300)
    return _Compared(_cosine(m, p), _cosine(m, a), float(factor.median()), 1 - float(moving.double().mean()))


def _cosine(a: Tensor, b: Tensor) -> float:
    """Mean cosine over columns; a column that is zero has the cosine 0."""
    size = a.norm(dim=0) * b.norm(dim=0)
    return float(((a * b).sum(0) / size.clamp(min=1e-300)).mean())


class _Without(NamedTuple):
    """The squared change of the loss by pixels without a gradient and by the others, for each image.

    Args:
        hidden: by pixels without a gradient; 0 where there are none, or none but those.
        others: by the other pixels.
        expected: share that they cause anyway.
        some: whether an image has pixels of both kinds.
    """

    hidden: Tensor
    others: Tensor
    expected: Tensor
    some: Tensor

    @property
    def share(self) -> float:
        share = self.hidden / (self.hidden + self.others).clamp(min=1e-300)
        return max(0.0, float(((share - self.expected) * self.some).mean()))


Masked = Callable[[Float[Tensor, "B *F"]], Bool[Tensor, "B *F"]]


def _zero(slope: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
    return slope == 0


def _faint(slope: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
    """The pixels of the smallest gradients but zero, which together predict almost no change of the loss.

    Example:
        >>> _faint(torch.tensor([[0.0, 1e-3, -1.0, 2.0]])).tolist()
        [[False, True, False, False]]
    """
    rising, order = slope.flatten(1).double().square().sort(1)
    few = rising.cumsum(1) <= FAINTEST * rising.sum(1, keepdim=True)
    return torch.zeros_like(few).scatter(1, order, few).view(slope.shape) & (slope != 0)


def _without_gradient(
    loss: Loss,
    x: Tensor,
    masked: Bool[Tensor, "B *F"],
    unsteady: float,
    length: float,
    key: Key,
    directions: int,
) -> _Without:
    without = masked.to(x.dtype)
    some = ((without.flatten(1).amax(1) > 0) & (without.flatten(1).amin(1) < 1)).cpu()
    expected = SPREAD * unsteady * without.flatten(1).double().mean(1).cpu()
    if not bool(some.any()):
        nothing = torch.zeros(len(x), dtype=torch.float64)
        return _Without(nothing, nothing, expected, some)
    moves = [length * _signs(x, key.fold("hidden", i)) for i in range(directions)]
    parts = [move * share for share in (without, 1 - without) for move in moves]
    hidden, others = (
        part.double().square().sum(0).cpu() for part in torch.stack(_changes(loss, x, parts)).chunk(2)
    )
    return _Without(hidden, others, expected, some)


def _hidden(
    loss: Loss,
    gradient: Gradient,
    x: Tensor,
    slope: Tensor,
    key: Key,
    directions: int,
    masked: Masked,
    unsteady: float,
) -> float:
    """The share of the squared change of the loss that comes from pixels without a gradient.

    It is compared with what such pixels cause where a share `unsteady` of the change is no sum over pixels.

    A pixel may rightly have no gradient and yet matter in large steps: a median changes with the pixel in the
    middle alone until another one is there, and a maximum with the largest. Such pixels are told from masked
    ones by ever shorter steps, in which they do not matter and masked pixels do, next to the images, where no
    two pixels are equal. The loss has to be as steep and to change everywhere in these steps; one that
    changes by spikes says nothing in steps so short.
    """
    seen = _without_gradient(loss, x, masked(slope), unsteady, LENGTHS[-1], key, directions)
    if seen.share <= NEGLIGIBLE:
        return seen.share
    away = 2 * APART * (key.fold("apart").uniform(x.shape, 0, x.device) - 0.5).to(x.dtype)
    near = 1 - (1 - (x + away).abs()).abs()  # reflected at 0 and 1, where pixels would be equal again
    now = masked(gradient(near))
    far, short, shorter = (
        _without_gradient(loss, near, now, unsteady, length, key, directions)
        for length in (LENGTHS[-1], *SHORT)
    )
    moving = min(float(((each.hidden + each.others) > 0).double().mean()) for each in (short, shorter))
    steep = ((short.hidden + short.others) / (far.hidden + far.others).clamp(min=1e-300)).sqrt()
    as_steep = float(steep.median()) * LENGTHS[-1] / SHORT[0] >= 1 / 4
    vanishes = max(short.share, shorter.share) <= seen.share / 4
    alike = far.share >= seen.share / (2 if masked is _zero else 4)  # the faintest are fewer, and vary more
    if moving >= 0.95 and as_steep and vanishes and alike:
        return max(short.share, shorter.share)
    return seen.share

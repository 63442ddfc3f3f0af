"""Threats on spikes: which entries of a grid of events may gain or lose events, and how many in total.

Examples have the batch axis first and hold whole numbers of events: `[B, T, C, H, W]`, `[B, T, N]` or any
other shape. Every entry counts the events of one input in one time bin. Members hold whole numbers too, so
`project` rounds every step of gradient ascent, and steps that are small compared with one spike change
nothing. Attacks on spikes therefore ask for the member that maximises a linear function (`extreme`) and for
members close to the current one (`neighbours`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import Ball, need_pairs

__all__ = ["Additions", "EventThreat", "Flips", "Removals"]


def rows_of(x: Tensor) -> Tensor:
    """Flatten every example to one row."""
    return x.reshape(len(x), -1)


@dataclass(frozen=True)
class EventThreat(Ball):
    """A set of event grids around each clean one, with the grid and the entries that may change."""

    discrete: ClassVar[bool] = True

    most: int = 1
    polarity: int | None = None
    region: tuple[int, int, int, int] | None = None

    def __post_init__(self) -> None:
        size: object = self.epsilon
        if not isinstance(size, (int, float)) or not (math.isfinite(size) and size >= 0 == size % 1):
            raise InputError("A budget of spikes is a whole number", f"epsilon={size}", "Try 5.")
        if self.most < 1 or (self.polarity is not None and self.polarity < 0):
            raise InputError(
                "An entry of a grid must be able to hold one event, and polarities are numbered from 0",
                f"most={self.most}, polarity={self.polarity}",
                "Try most=1 for a binary grid.",
            )
        if self.region is not None and (min(self.region[:2]) < 0 or min(self.region[2:]) < 1):
            raise InputError(
                "A region is top, left, height and width, in pixels", repr(self.region), "Try (0, 0, 8, 8)."
            )

    def whole(self, shape: Sequence[int]) -> float:
        """Infinity: a budget of events is not compared with the size of the grid."""
        return math.inf

    def neighbours(
        self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"], grad: Float[Tensor, "B *F"], many: int
    ) -> Float[Tensor, "M B *F"]:
        """Members that differ from `x_adv` by one change, or by one change undone and another one made.

        They are ordered by how much they raise a linear function with the gradient `grad`, the best first.
        Where there are fewer than `many`, copies of `x_adv` fill the remaining rows.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no neighbours")

    def open(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "*F"]:
        """The entries of an example that polarity and region allow to change.

        Raises:
            InputError: the inputs lack the axis of polarities or the axes of the region.
        """
        inside = torch.ones(x.shape[1:], dtype=torch.bool, device=x.device)
        if self.polarity is not None:
            if x.ndim < 3 or self.polarity >= x.shape[2]:
                raise InputError(
                    f"The polarity {self.polarity} is a channel of events [B, T, C, ...]",
                    f"shape {list(x.shape)}",
                    "Leave out polarity, or name a channel that exists.",
                )
            inside &= torch.zeros_like(inside).index_fill_(
                1, torch.tensor(self.polarity, device=x.device), True
            )
        if self.region is not None:
            if x.ndim != 5:
                raise InputError(
                    "A region needs events [B, T, C, H, W]", f"shape {list(x.shape)}", "Leave out region."
                )
            top, left, height, width = self.region
            here = torch.zeros_like(inside)
            here[:, :, top : top + height, left : left + width] = True
            inside &= here
        return inside

    def on_grid(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether each example holds only whole numbers from 0 to `most`."""
        rows = rows_of(x)
        return ((rows >= 0) & (rows <= self.most) & (rows == rows.round())).all(1)

    def check(self, x: Float[Tensor, "B *F"]) -> None:
        """Refuse clean inputs that are not on the grid.

        Raises:
            InputError: an entry is not a whole number, or holds more events than `most`.
        """
        if not bool(self.on_grid(x).all()):
            highest = x.nan_to_num().max().item()
            raise InputError(
                f"{type(self).__name__} needs clean inputs of whole numbers of events from 0 to {self.most}",
                f"clean inputs with other values, the largest of them {highest:g}",
                f"Set most={int(highest)}."
                if highest > self.most and bool((x == x.round()).all())
                else "Use Linf, L2, L1 or L0 on images and real values.",
            )


@dataclass(frozen=True)
class Flips(EventThreat):
    r"""At most epsilon events in total may be added to a grid or removed from it.

    .. math:: \{x' \in \{0, \dots, m\}^n : \sum_i |x'_i - x_i| \le \epsilon\}

    On a binary grid, `most=1`, each change turns a spike into silence or silence into a spike.

    Args:
        epsilon: largest number of changes, a whole number of at least 0.
        most: events that an entry of the grid can hold, `m`, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.

    Shapes:
        Events `[B, ...]`, whole numbers from 0 to `most`; `[B, T, C, H, W]` for polarity and region.

    Raises:
        InputError: a setting is out of range, or the clean events are not on the grid.

    Example:
        >>> Flips(1).project(torch.tensor([[0.9, 0.4, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[1., 0., 1.]])
        >>> Flips(2, most=9).project(torch.tensor([[4.0, 0.8]]), torch.tensor([[1.0, 0.0]]))
        tensor([[3., 0.]])

    Source:
        The Hamming ball of the binary cube and, on integer grids, its counterpart in the 1-norm. The
        projection makes single changes in the order of their gain, which is exact because each further
        change of an entry gains less than the one before.
    """

    def up(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """How many events each entry may gain."""
        return (self.most - x) * self.open(x)

    def down(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """How many events each entry may lose."""
        return x * self.open(x)

    def allowed(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The entries that may change."""
        return (self.up(x) + self.down(x)) > 0

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Epsilon random entries, each changed by one event; all entries where there are fewer."""
        self.check(x)
        up, down = self.up(x) > 0, self.down(x) > 0
        coin = key.fold("side").uniform(x.shape, 0, x.device) < 0.5
        side = torch.where(up & (coin | ~down), 1.0, -1.0).to(x.dtype) * (up | down)
        order = (1 - key.uniform(x.shape, 0, x.device).double()) * (up | down)
        return x + side * self._first(order).to(x.dtype)

    def _first(self, worth: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The epsilon entries with the largest positive worth."""
        rows = rows_of(worth)
        order = _leading(rows, int(self.epsilon))
        chosen = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True)
        return (chosen & (rows > 0)).view(worth.shape)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The exact nearest member in Euclidean distance; entries that are NaN keep their clean values."""
        need_pairs(self, x_adv, x)
        self.check(x)
        away = rows_of(x_adv.double() - x.double()).nan_to_num(0.0)
        room = rows_of(torch.where(away.view(x.shape) > 0, self.up(x), self.down(x))).double()
        far = torch.where(room > 0, away.abs(), torch.zeros_like(away))
        few = min(int(self.epsilon), far.shape[1])
        order = _leading(far, few)
        units = torch.arange(1, min(int(self.epsilon), self.most) + 1, device=x.device).double()
        # Gain of each further event, in squared distance
        gain = 2 * far.gather(1, order)[..., None] - (2 * units - 1)
        gain = torch.where(units <= room.gather(1, order)[..., None], gain, -torch.inf).flatten(1)
        best = gain.argsort(dim=1, descending=True, stable=True)[:, : int(self.epsilon)]
        taken = (
            (torch.zeros_like(gain).scatter_(1, best, 1.0) * (gain > 0)).view(*order.shape, len(units)).sum(2)
        )
        moved = torch.zeros_like(far).scatter_(1, order, taken) * away.sign()
        return x + moved.view(x.shape).to(x.dtype)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The number of events added and removed; infinite where an entry changed that may not change."""
        need_pairs(self, x_adv, x)
        moved = x_adv.double() - x.double()
        barred = (moved > self.up(x)) | (-moved > self.down(x))
        count = rows_of(moved).abs().sum(1)
        return torch.where(rows_of(barred).any(1), count + math.inf, count)

    def contains(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether each example is on the grid and within the budget, without any tolerance."""
        need_pairs(self, x_adv, x)
        return self.on_grid(x_adv) & (self.distance(x_adv, x) <= self.epsilon)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient at its epsilon largest absolute values; zero elsewhere."""
        grad = grad * self.open(grad)
        return grad.sign() * self._first(grad.abs())

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member at which a linear function with this gradient is largest."""
        need_pairs(self, grad, x)
        self.check(x)
        slope = rows_of(grad.double()).nan_to_num(0.0)
        room = rows_of(torch.where(slope.view(x.shape) > 0, self.up(x), self.down(x))).double()
        room = torch.where(slope != 0, room, 0 * room)
        worth = torch.where(room > 0, slope.abs(), 0 * slope)
        order = _leading(worth, int(self.epsilon))
        there = room.gather(1, order)
        taken = torch.minimum(there, (self.epsilon - (there.cumsum(1) - there)).clamp(min=0))
        moved = torch.zeros_like(slope).scatter_(1, order, taken) * slope.sign()
        return x + moved.view(x.shape).to(x.dtype)

    def neighbours(
        self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"], grad: Float[Tensor, "B *F"], many: int
    ) -> Float[Tensor, "M B *F"]:
        """Members that differ by one event, or by one change undone and one made elsewhere, best first."""
        need_pairs(self, x_adv, x)
        need_pairs(self, grad, x)
        slope, moved = rows_of(grad.double()).nan_to_num(0.0), rows_of(x_adv - x)
        up, down = moved < rows_of(self.up(x)), -moved < rows_of(self.down(x))
        size = slope.shape[1]
        gain, possible = torch.cat([slope, -slope], 1), torch.cat([up, down], 1)
        outward = torch.cat([moved >= 0, moved <= 0], 1)
        spare = moved.abs().sum(1, keepdim=True) < self.epsilon
        spend, cost = _best(gain, possible & outward, many + 1)  # one of them may be the change undone
        back, undone = _best(gain, possible & ~outward, many)
        either, other = back.repeat_interleave(spend.shape[1], 1), spend.repeat(1, back.shape[1])
        both = (cost[:, None] + undone[:, :, None]).flatten(1)
        both = torch.where(either % size == other % size, -torch.inf, both)
        worth = torch.cat([torch.where(spare, cost, -torch.inf), undone, both], 1)
        first = torch.cat([spend, back, either], 1)
        second = torch.cat([torch.full_like(torch.cat([spend, back], 1), -1), other], 1)
        best = worth.argsort(dim=1, descending=True, stable=True)[:, :many]
        found = []
        for place in best.T:
            pick = place[:, None]
            real = worth.gather(1, pick) > -torch.inf
            changed = moved + _unit(first.gather(1, pick), real, moved)
            last = second.gather(1, pick)
            changed = changed + _unit(last.clamp(min=0), real & (last >= 0), moved)
            found.append(x + changed.view(x.shape))
        return torch.stack(found) if found else x_adv[None][:0]


def _leading(worth: Float[Tensor, "B N"], many: int) -> Int64[Tensor, "B M"]:
    """The places of the `many` largest values of each row, falling; equal positive ones in their order."""
    top = worth.topk(min(many, worth.shape[1]), dim=1)
    places = top.indices.sort(dim=1).values
    found = places.gather(1, worth.gather(1, places).argsort(dim=1, descending=True, stable=True))
    if top.values.shape[1]:  # the last value may have equals beyond
        last = top.values[:, -1:]
        more = ((worth >= last).sum(1) > top.values.shape[1]) & (last[:, 0] > 0)
        if more.any():
            whole = worth[more].argsort(dim=1, descending=True, stable=True)
            found[more] = whole[:, : found.shape[1]]
    return found


def _best(gain: Tensor, possible: Tensor, many: int) -> tuple[Tensor, Tensor]:
    """The entries with the largest gains among the possible ones, and their gains.

    Where fewer are possible, the remaining gains are minus infinity.
    """
    values = torch.where(possible, gain, -torch.inf)
    top = values.topk(min(many, values.shape[1]), dim=1)
    return top.indices, top.values


def _unit(place: Tensor, real: Tensor, like: Tensor) -> Tensor:
    """One more event at an entry, or one event fewer where the index lies beyond the last entry."""
    size = like.shape[1]
    sign = torch.where(place < size, 1.0, -1.0) * real
    return torch.zeros_like(like).scatter_(1, place % size, sign.to(like.dtype))


@dataclass(frozen=True)
class Additions(Flips):
    """At most epsilon events may be added to a grid; none may be removed.

    Args:
        epsilon: largest number of added events, a whole number of at least 0.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.

    Example:
        >>> Additions(2).project(torch.tensor([[0.9, 0.7, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[1., 1., 1.]])
    """

    def down(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """No event may be removed."""
        return torch.zeros_like(x)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """One at the epsilon largest positive gradients; zero elsewhere."""
        return super().steepest(grad.clamp(min=0))


@dataclass(frozen=True)
class Removals(Flips):
    """At most epsilon events may be removed from a grid; none may be added.

    Args:
        epsilon: largest number of removed events, a whole number of at least 0.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.

    Example:
        >>> Removals(1).project(torch.tensor([[0.9, 0.4, 0.2]]), torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([[0., 1., 0.]])
    """

    def up(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """No event may be added."""
        return torch.zeros_like(x)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """Minus one at the epsilon most negative gradients; zero elsewhere."""
        return super().steepest(grad.clamp(max=0))

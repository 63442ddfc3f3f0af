"""The inputs of a batch that hold events, each over time: all that shifts of events have to look at."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

__all__ = ["Account", "Lines", "account", "flat", "leaders", "origins"]


class Lines(NamedTuple):
    """Some inputs over time, out of a batch of grids `[B, T, *F]`, in the order of examples and inputs.

    Args:
        row: the example of each.
        place: its number among the inputs of the example.
        clean: its content in the clean grids.
    """

    row: Int64[Tensor, "N"]
    place: Int64[Tensor, "N"]
    clean: Float[Tensor, "N T"]

    @classmethod
    def of(cls, x: Float[Tensor, "B T *F"], chosen: Bool[Tensor, "B L"]) -> Lines:
        """The chosen inputs of clean grids."""
        row, place = chosen.nonzero(as_tuple=True)
        return cls(row, place, flat(x)[row, :, place])

    def read(self, grid: Float[Tensor, "B T *F"]) -> Float[Tensor, "N T"]:
        """The same inputs of other grids."""
        return flat(grid)[self.row, :, self.place]

    def write(self, values: Float[Tensor, "N T"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The grids with other content of these inputs."""
        found = x.clone(memory_format=torch.contiguous_format)
        flat(found)[self.row, :, self.place] = values.to(x.dtype)
        return found

    def total(self, cost: Float[Tensor, "*K N"], batch: int) -> Float[Tensor, "*K B"]:
        """The sums over the inputs of each example."""
        return cost.new_zeros(*cost.shape[:-1], batch).index_add_(-1, self.row, cost)

    def taken(self, these: Tensor) -> Lines:
        """Some of these lines."""
        return Lines(*(column[these] for column in self))


def flat(grid: Shaped[Tensor, "B T *F"]) -> Shaped[Tensor, "B T L"]:
    """The grids with all inputs on one axis; there is one where no axis follows time."""
    return grid.reshape(*grid.shape[:2], grid.shape[2:].numel())


def leaders(
    value: Float[Tensor, "E"], owner: Int64[Tensor, "E"], batch: int, many: int
) -> tuple[Int64[Tensor, "B M"], Bool[Tensor, "B M"]]:
    """The places of the largest values of each example, the largest first and equal ones in their order.

    Minus infinity counts as absent; where an example has fewer values than `many`, the mask is false.

    Args:
        value: what is compared.
        owner: the example of each value, never falling.
        batch: number of examples.
        many: number of values that are wanted of each example.
    """
    there = (value > -torch.inf).nonzero().flatten()
    value, owner = value[there], owner[there]
    count = owner.bincount(minlength=batch)
    width = int(count.max()) if len(there) else 0
    if 0 < many < width:  # what lies below the last value that counts need not be sorted
        table = value.new_full((batch, width), -torch.inf)
        table[owner, _within(owner, count)] = value
        kept = value >= table.topk(many, dim=1).values[owner, -1]
        there, value, owner = there[kept], value[kept], owner[kept]
        count = owner.bincount(minlength=batch)
    order = value.argsort(descending=True, stable=True)
    order = order[owner[order].argsort(stable=True)]
    rank = _within(owner, count)
    first = rank < many
    index = torch.zeros(batch, many, dtype=torch.int64, device=value.device)
    index[owner[first], rank[first]] = there[order][first]
    real = torch.arange(many, device=value.device) < count[:, None]
    return index, real


def _within(owner: Int64[Tensor, "E"], count: Int64[Tensor, "B"]) -> Int64[Tensor, "E"]:
    """The place of each value among those of its example."""
    return torch.arange(len(owner), device=owner.device) - (count.cumsum(0) - count)[owner]


class Account(NamedTuple):
    """The cost of the cheapest shifts that turn one line into another; infinite where none do."""

    moved: Float[Tensor, "*N"]
    delay: Float[Tensor, "*N"]
    jitter: Float[Tensor, "*N"]


def account(found: Float[Tensor, "*N T"], clean: Float[Tensor, "*N T"]) -> Account:
    """Match equal events in their order, which minimises both the total and the largest shift."""
    before, first = clean.double().sort(dim=-1, descending=True, stable=True)
    after, second = found.double().sort(dim=-1, descending=True, stable=True)
    known = (before == after).all(-1)
    shift = (first - second).abs() * (before > 0)
    moved = ((clean > 0) & (found != clean)).sum(-1)
    costs = (moved, shift.sum(-1), shift.amax(-1))
    return Account(*(torch.where(known, cost.double(), torch.inf) for cost in costs))


def origins(found: Float[Tensor, "N T"], clean: Float[Tensor, "N T"]) -> Int64[Tensor, "N T"]:
    """The time from which each event came, with equal events in their order."""
    first = clean.sort(dim=1, descending=True, stable=True).indices
    second = found.sort(dim=1, descending=True, stable=True).indices
    return torch.zeros_like(first).scatter_(1, second, first)

"""A budget over all lines of an example: one price for every unit of it, halved until the budget lasts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.threats.lines import Lines, leaders

__all__ = ["Ration", "Rises", "rationed"]

HALVINGS = 16
"""Number of times that the interval around the price of a budget is halved."""
Best = Callable[[Tensor, Tensor, Tensor], Tensor]
"""`(weights, clean, price) -> content` of the best lines where each unit of cost has a price."""
Spent = Callable[[Tensor, Tensor], Tensor]
"""`(content, clean) -> cost` of each line."""


class Rises(NamedTuple):
    """What single events gain by going elsewhere in their line, and what that costs, collisions aside."""

    line: Int64[Tensor, "E"]
    gain: Float[Tensor, "E T"]
    cost: Float[Tensor, "E T"]
    empty: Bool[Tensor, "E T"]

    @classmethod
    def of(
        cls, weights: Float[Tensor, "N T"], clean: Float[Tensor, "N T"], cost: Callable[[Tensor], Tensor]
    ) -> Rises:
        line, time = clean.nonzero(as_tuple=True)
        shift = (torch.arange(clean.shape[1], device=clean.device) - time[:, None]).abs()
        value, slope = clean[line, time].double(), weights[line]
        gain = value[:, None] * (slope - weights[line, time][:, None])
        return cls(line, gain, cost(shift).double(), clean[line] == 0)

    def highest(self, lines: int) -> Float[Tensor, "N"]:
        """The price from which on nothing in a line moves."""
        return self._most((self.gain / self.cost.clamp(min=1)).amax(1), lines, 0.0)

    def certain(self, lines: int) -> Bool[Tensor, "N"]:
        """Lines in which an event gains by going to an empty entry: without a price, it does not stay."""
        return self._most((self.empty & (self.gain > 0)).any(1).double(), lines, 0.0) > 0

    def loss(self, price: Float[Tensor, "N"]) -> Float[Tensor, "N"]:
        """What a line loses at least at a price if anything in it moves."""
        value = self.gain - price[self.line][:, None] * self.cost
        away = torch.where(self.cost > 0, value, -torch.inf).amax(1)
        return (-self._most(away, len(price), -torch.inf)).clamp(min=0)

    def _most(self, value: Float[Tensor, "E"], lines: int, floor: float) -> Float[Tensor, "N"]:
        return value.new_full((lines,), floor).scatter_reduce_(0, self.line, value, "amax")


class Ration(NamedTuple):
    """What a budget buys.

    Args:
        found: the content of the lines.
        price: the lowest price tried at which the budget suffices, per example.
        gap: how much more than what was found any content within the budget can be worth at most; zero where
            the budget suffices without a price.
    """

    found: Float[Tensor, "N T"]
    price: Float[Tensor, "B"]
    gap: Float[Tensor, "B"]


def rationed(
    weights: Float[Tensor, "N T"],
    lines: Lines,
    rises: Rises,
    best: Best,
    spent: Spent,
    *,
    budget: float,
    high: float,
    tried: int,
    batch: int,
) -> Ration:
    """The content of the lowest price at which the budget suffices; the rest is spent at the next lower one.

    The lines that gain most per unit of budget are taken at the lower price first. Between two prices only
    those lines are solved that differ at the two, and of these only the ones in which a single event gains
    more than the price; all others are known.

    Args:
        weights: of the linear function, at most 1 in absolute value.
        lines: the lines of all examples.
        rises: what single events gain under these weights.
        best: of each line at a price.
        spent: by each line.
        budget: of each example.
        high: a price at which nothing moves.
        tried: prices tried at once.
        batch: number of examples.
    """
    clean, row, many = lines.clean, lines.row, len(lines.row)
    ceiling, certain = rises.highest(many), rises.certain(many)
    may_fit = lines.total(certain.double(), batch) <= budget
    cheap, dear = clean.clone(), clean.clone()
    cost = torch.zeros(2, many, dtype=torch.float64, device=row.device)  # of the cheap and of the dear lines
    known = torch.zeros(many, dtype=torch.bool, device=row.device)

    def free(chosen: Tensor) -> None:
        """Solve some lines without a price."""
        these = (chosen & (ceiling > 0)).nonzero().flatten()
        cheap[these] = best(weights[these], clean[these], weights.new_zeros(len(these)))
        cost[0, these] = spent(cheap[these], clean[these])
        known[chosen] = True

    free(may_fit[row])
    fits = may_fit & (lines.total(cost[0], batch) <= budget)
    low, upper = weights.new_zeros(batch), weights.new_full((batch,), high)
    share = torch.arange(1, tried + 1, device=row.device).double() / (tried + 1)
    everyone = torch.arange(batch, device=row.device)
    for _ in range(math.ceil(HALVINGS / math.log2(tried + 1))):
        price = low + share[:, None] * (upper - low)
        open_ = ~fits[row] & (~known | (cheap != dear).any(1))
        nth, line = (open_ & (price[:, row] < ceiling)).nonzero(as_tuple=True)
        content = torch.where(open_[:, None], clean, dear).expand(tried, *clean.shape).clone()
        content[nth, line] = best(weights[line], clean[line], price[nth, row[line]])
        paid = torch.where(open_, 0.0, cost[1]).expand(tried, many).clone()
        paid[nth, line] = spent(content[nth, line], clean[line])
        lasts = lines.total(paid, batch) <= budget
        first = torch.where(lasts.any(0), lasts.long().argmax(0), tried)
        ends = torch.cat([low[None], price, upper[None]])
        low, upper = ends[first, everyone], ends[first + 1, everyone]
        at, each = first[row], torch.arange(many, device=row.device)
        lower, lasting = at > 0, at < tried
        cheap[lower], cost[0, lower] = content[at - 1, each][lower], paid[at - 1, each][lower]
        known |= lower
        at = at.clamp(max=tried - 1)
        dear[lasting], cost[1, lasting] = content[at, each][lasting], paid[at, each][lasting]
    free(~known)
    found = _filled(weights, lines, dear, cheap, cost, budget, batch)
    missed = (weights * (dear - found)).sum(1) - upper[row] * cost[1]  # weak duality at the price
    gap = (upper * budget + lines.total(missed, batch)).clamp(min=0)
    found = torch.where(fits[row][:, None], cheap, found)
    return Ration(found, upper, torch.where(fits, 0.0, gap))


def _filled(
    weights: Tensor, lines: Lines, dear: Tensor, cheap: Tensor, cost: Tensor, budget: float, batch: int
) -> Float[Tensor, "N T"]:
    """The dear lines, and cheap ones as long as the budget lasts."""
    gain, more = (weights * (cheap - dear)).sum(1), cost[0] - cost[1]
    pays = gain > 0
    rate = torch.where(pays, gain / more.clamp(min=1e-9), -torch.inf)
    count = lines.row[pays].bincount(minlength=batch)
    order, real = leaders(rate, lines.row, batch, int(count.max()) if batch else 0)
    left, found = budget - lines.total(cost[1], batch), dear.clone()
    for line, there in zip(order.T, real.T, strict=True):
        taken = there & (more[line] <= left)
        found[line[taken]] = cheap[line[taken]]
        left = left - torch.where(taken, more[line], 0.0)
    return found

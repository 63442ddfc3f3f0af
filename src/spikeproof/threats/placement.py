"""Where the events of one line are best placed: with a price on every shift, or with a total delay to spend.

Every function treats many lines at once and each line for itself.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

__all__ = ["Delayed", "assigned", "divided", "exchanged", "ordered"]


def exchanged(
    weights: Float[Tensor, "N T"], clean: Float[Tensor, "N T"]
) -> tuple[Float[Tensor, "N T"], Int64[Tensor, "N T"], Int64[Tensor, "N T"]]:
    """The gains of moving equal events from the worst entries to the best empty ones, one after the other.

    Returns:
        gains, falling along each line and minus infinity where nothing can move; the entry that each move
        leaves; the entry that it enters.
    """
    gone, leave = torch.where(clean > 0, weights, torch.inf).sort(dim=1, stable=True)
    come, enter = torch.where(clean == 0, weights, -torch.inf).sort(dim=1, descending=True, stable=True)
    return torch.where(gone.isfinite() & come.isfinite(), come - gone, -torch.inf), leave, enter


def ordered(
    weights: Float[Tensor, "N T"], busy: Bool[Tensor, "N T"], price: Float[Tensor, "N"], bound: int
) -> Bool[Tensor, "N T"]:
    """The best entries for equal events, each at most `bound` time steps from its own entry.

    Each step of a shift costs the price. Dynamic programming treats one event after the other in time.
    """
    length = busy.shape[1]
    counts = busy.sum(1)
    many = int(counts.max()) if len(busy) else 0
    time = torch.arange(length, device=busy.device)
    sources = torch.where(busy, time, length).sort(dim=1).values[:, :many]
    best = weights.new_zeros(len(busy), length + 1)  # [t]: best value with all events so far before t
    picks = []
    for i in range(many):
        shift = (time - sources[:, i, None]).abs()
        value = best[:, :-1] + weights - price[:, None] * shift
        value = torch.where(shift <= bound, value, -torch.inf)
        high, pick = value.cummax(dim=1)
        missing = weights.new_full((len(busy), 1), -torch.inf)
        here = (i < counts)[:, None]
        best = torch.where(here, torch.cat([missing, high], 1), best)
        picks.append(pick)
    found = torch.zeros_like(busy)
    before = torch.full_like(counts, length)  # the entry of the next event
    for i in reversed(range(many)):
        here = i < counts
        place = picks[i].gather(1, (before - 1).clamp(min=0)[:, None])[:, 0]
        found[here, place[here]] = True
        before = torch.where(here, place, before)
    return found


def assigned(value: Float[Tensor, "N S T"]) -> Int64[Tensor, "N S"]:
    """A different entry for each of `S` events so that the sum of their values is largest.

    Minus infinity bars an entry; there must be one assignment of finite value. The Hungarian method adds one
    event after the other along the cheapest path of exchanges, for all lines at once.

    Source:
        Kuhn 1955; in the form with shortest augmenting paths of Jonker & Volgenant 1987.
    """
    lines, many, length = value.shape
    root = length  # a column beside the entries, from which every path begins
    every = torch.arange(lines, device=value.device)
    dual, column = value.new_zeros(lines, many), value.new_zeros(lines, length + 1)
    owner = torch.full((lines, length + 1), -1, dtype=torch.int64, device=value.device)
    for event in range(many):
        owner[:, root] = event
        here = torch.full_like(every, root)
        least = value.new_full((lines, length), torch.inf)
        way = torch.zeros(lines, length, dtype=torch.int64, device=value.device)
        used = torch.zeros_like(owner, dtype=torch.bool)
        live = every
        while len(live):
            at = here[live]
            used[live, at] = True
            looking, inside = owner[live, at], used[live]
            cost = -value[live, looking] - dual[live, looking][:, None] - column[live, :length]
            shorter = (cost < least[live]) & ~inside[:, :length]
            near = torch.where(shorter, cost, least[live])
            way[live] = torch.where(shorter, at[:, None], way[live])
            step, here[live] = torch.where(inside[:, :length], torch.inf, near).min(1)
            paid = inside * step[:, None]
            dual[live] = dual[live].scatter_add(1, owner[live].clamp(min=0), paid)
            column[live] -= paid
            least[live] = torch.where(inside[:, :length], near, near - step[:, None])
            live = live[owner[live, here[live]] >= 0]
        live = every
        while len(live):
            at = here[live]
            before = way[live, at]
            owner[live, at] = owner[live, before]
            here[live] = before
            live = live[before != root]
    taken = owner[:, :length]
    line, entry = (taken >= 0).nonzero(as_tuple=True)
    found = torch.zeros(lines, many, dtype=torch.int64, device=value.device)
    found[line, taken[line, entry]] = entry
    return found


class Delayed:
    """The best entries for equal spikes under every total delay.

    Dynamic programming treats one spike after the other in time.
    """

    def __init__(self, weights: Float[Tensor, "N T"], lines: Float[Tensor, "N T"], size: int) -> None:
        rows, length = lines.shape
        self.lines, self.counts = lines, lines.sum(1).long()
        many = int(self.counts.max()) if rows else 0
        self.time = torch.arange(length, device=lines.device)
        self.sources = torch.where(lines > 0, self.time, length).sort(dim=1).values[:, :many]
        left = torch.arange(size + 1, device=lines.device)
        # best[t, d]: the best value with all spikes so far before t and a total delay of d
        best = weights.new_full((rows, length + 1, size + 1), -torch.inf)
        best[..., 0] = 0
        nothing = weights.new_full((rows, 1, size + 1), -torch.inf)
        self.picks = []
        for i in range(many):
            before = left - self._shift(i, self.time)[..., None]
            value = best[:, :-1].gather(2, before.clamp(min=0)) + weights[..., None]
            high, pick = torch.where(before >= 0, value, -torch.inf).cummax(dim=1)
            here = (i < self.counts)[:, None, None]
            best = torch.where(here, torch.cat([nothing, high], 1), best)
            self.picks.append(pick)
        home = (weights * lines).sum(1, keepdim=True)
        self.gain = best[:, -1] - home

    def _shift(self, i: int, time: Tensor) -> Tensor:
        return (time - self.sources[:, i, None]).abs()

    def within(self, delay: Int64[Tensor, "N"]) -> Float[Tensor, "N T"]:
        """The best spike trains with exactly these total delays."""
        found, before = torch.zeros_like(self.lines), torch.full_like(self.counts, self.lines.shape[1])
        row = torch.arange(len(found), device=found.device)
        for i in reversed(range(len(self.picks))):
            here = i < self.counts
            place = self.picks[i][row, (before - 1).clamp(min=0), delay]
            found[here, place[here]] = 1
            delay = torch.where(here, delay - self._shift(i, place[:, None])[:, 0], delay).clamp(min=0)
            before = torch.where(here, place, before)
        return found


def divided(gain: Float[Tensor, "B L D"]) -> Int64[Tensor, "B L"]:
    """How much of a budget each line gets, given its gain for every whole share from 0.

    A line gets nothing where all shares gain the same.
    """
    size = gain.shape[2]
    best = gain.new_full((len(gain), size), -torch.inf)
    best[:, 0] = 0
    share = torch.arange(size, device=gain.device)
    left = share[:, None] - share  # what remains of a total after a share
    choices = []
    for line in gain.transpose(0, 1):
        value = best[:, left.clamp(min=0)] + line[:, None]
        best, choice = torch.where(left >= 0, value, -torch.inf).max(2)
        choices.append(choice)
    total, given = best.argmax(1), []
    for choice in reversed(choices):
        given.append(choice.gather(1, total[:, None])[:, 0])
        total = total - given[-1]
    return torch.stack(given[::-1], 1) if given else gain.new_zeros(gain.shape[:2], dtype=torch.int64)

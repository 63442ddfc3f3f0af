"""Shifts of events by looking at every entry of the grid: slow, and what the fast threat is compared with.

`Shifts` looks at lines with events alone, at few prices, and solves the assignment of unequal events for all
lines at once. Here nothing is left out. `benchmarks/events.py` takes the time of both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.threats import Shifts
from spikeproof.threats.shifts import Measure

__all__ = ["DenseShifts"]

HALVINGS = 16
"""Number of times that the interval around the price of a budget is halved."""
PRICES = 15
"""Number of prices that are tried at once."""
PAIRS = 32
"""Number of moves that save budget, and of moves that spend it, that are tried in pairs."""
ENTRIES = 5_000_000
"""Largest number of grid entries that are processed at once."""
BATCH = 100
"""Batch size that is assumed when grids are grouped, so that the grouping does not depend on the batch."""


class _Account(NamedTuple):
    """The cost of the cheapest shifts that turn one line into another; infinite where none do."""

    moved: Float[Tensor, "B L"]
    delay: Float[Tensor, "B L"]
    jitter: Float[Tensor, "B L"]


class DenseShifts(Shifts):
    """Shifts by the whole grid: every line, whether it holds events or not, and every offset.

    Lines whose entries hold different numbers of events are left to SciPy, one after the other.
    """

    def project(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The exact nearest member in Euclidean distance; entries that are NaN count as clean.

        All members have the same Euclidean norm, so the nearest one is the one whose inner product with
        `x_adv` is largest.
        """
        goal = torch.where(x_adv.isnan(), x, x_adv).nan_to_num().double()
        found = self.extreme(goal, x)
        if self._closed(x):
            return found
        weights, lines, landed = _lines(goal), _lines(x), _lines(found).clone()
        for row in (~self.contains(x_adv, x)).nonzero().flatten().tolist():
            landed[row] = self._whole(weights[row], lines[row], _lines(self.open(x)[None])[0, :, 0])
        return torch.where(_wide(self.contains(x_adv, x), x), x_adv, _grid(landed, x))

    def _closed(self, x: Float[Tensor, "B T *F"]) -> bool:
        """Whether the maximum of a linear function is found exactly without integer programming."""
        if self.bound is Measure.DELAY:
            return self.most == 1 and x[0].numel() * x.shape[1] * (self.epsilon + 1) <= ENTRIES
        return self.bound is Measure.JITTER or self.most == 1

    def extreme(self, grad: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The member at which a linear function with this gradient is largest.

        The result is exact for jitter. On a binary grid it is exact for moved spikes too, and for total
        delays unless examples and budget are very large. Otherwise one price per example rations total
        delays and numbers of moved events, which may leave a small part of the budget unspent.
        """
        self.check(x)
        weights, lines = _lines(grad.double().nan_to_num(0.0)), _lines(x)
        free = _lines(self.open(x)[None])[:, :, 0]
        if self.epsilon == 0 or not x.numel():
            return x.clone()
        if self.bound is Measure.JITTER:
            found = self._priced(weights, lines, lines.new_zeros(len(x)).double())
        elif self._closed(x):
            exact = self._exchanged if self.bound is Measure.MOVED else self._allotted
            found = exact(weights, lines, free)
        else:
            found = self._rationed(weights, lines, free)
        return _grid(torch.where(free[..., None], found, lines), x)

    def _exchanged(
        self, weights: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"], free: Bool[Tensor, "1 L"]
    ) -> Float[Tensor, "B L T"]:
        """Move spikes from the worst entries to the best empty ones while moves gain and the budget lasts."""
        busy = (lines > 0) & free[..., None]
        gone, leave = torch.where(busy, weights, torch.inf).sort(dim=2, stable=True)
        come, enter = torch.where(
            (lines == 0) & free[..., None], weights, -torch.inf
        ).sort(dim=2, descending=True, stable=True)  # fmt: skip
        gain = torch.where(gone.isfinite() & come.isfinite(), come - gone, -torch.inf)
        flat = gain.flatten(1)
        order = flat.argsort(dim=1, descending=True, stable=True)[:, : int(self.epsilon)]
        paid = torch.zeros_like(flat, dtype=torch.bool).scatter_(1, order, True) & (flat > 0)
        paid = paid.view(gain.shape)
        change = torch.zeros_like(gain).scatter_add_(2, enter, paid.double())
        change.scatter_add_(2, leave, -paid.double())
        return lines + change.to(lines.dtype)

    def _allotted(
        self, weights: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"], free: Bool[Tensor, "1 L"]
    ) -> Float[Tensor, "B L T"]:
        """The best entries under a total delay.

        Each line is solved for every share of the delay; then the delay is divided among the lines.
        """
        size, found = int(self.epsilon), lines.clone()
        together = max(1, ENTRIES // max(lines[0].numel() * (size + 1), 1))
        for rows in torch.split(torch.arange(len(lines), device=lines.device), together):
            goal = torch.where(free[..., None], weights[rows], 0 * weights[rows])
            trains = _Delayed(goal.flatten(0, 1), lines[rows].flatten(0, 1), size)
            share = _divided(trains.gain.view(len(rows), -1, size + 1))
            found[rows] = trains.within(share.flatten()).view(lines[rows].shape)
        return found

    def _priced(
        self, weights: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"], price: Float[Tensor, "B"]
    ) -> Float[Tensor, "B L T"]:
        """The exact best entries of each line where every shift costs a price."""
        if self.most > 1:
            return self._assigned(weights, lines, price)
        busy = lines.flatten(0, 1).sum(1) > 0
        found = lines.flatten(0, 1).clone()
        cost = price[:, None].expand(lines.shape[:2]).flatten()[busy]
        bound = int(self.epsilon) if self.bound is Measure.JITTER else lines.shape[2]
        found[busy] = _ordered(weights.flatten(0, 1)[busy], found[busy], cost, bound)
        return found.view(lines.shape)

    def _assigned(self, weights: Tensor, lines: Tensor, price: Tensor) -> Tensor:
        """The best entries as `_priced` finds them, for entries that hold different numbers of events.

        Such events may change their order.
        """
        from scipy.optimize import (
            linear_sum_assignment,  # SciPy takes longer to import than this whole package
        )

        found = lines.clone()
        place = np.arange(lines.shape[2])
        for b, i in (lines.sum(2) > 0).nonzero().tolist():
            line, weight = lines[b, i].double().cpu().numpy(), weights[b, i].cpu().numpy()
            source = line.nonzero()[0]
            shift = np.abs(place - source[:, None])
            value = line[source][:, None] * weight - float(price[b]) * self._cost(shift)
            if self.bound is Measure.JITTER:
                value = np.where(shift <= self.epsilon, value, -1e30)
            rows, columns = linear_sum_assignment(value, maximize=True)
            line[:] = 0
            line[columns] = lines[b, i].double().cpu().numpy()[source[rows]]
            found[b, i] = torch.from_numpy(line).to(found)
        return found

    def _cost(self, shift: np.ndarray) -> np.ndarray:
        cost: np.ndarray = (shift > 0) * 1.0 if self.bound is Measure.MOVED else shift * 1.0
        return cost

    def _rationed(self, weights: Tensor, lines: Tensor, free: Tensor) -> Tensor:
        """Find the lowest price at which the budget suffices, and spend the rest at the next lower price.

        The lines that gain most per unit of budget are taken at the lower price first.
        """
        weights = torch.where(free[..., None], weights, 0 * weights)
        top = weights.flatten(1).abs().amax(1).clamp(min=torch.finfo(weights.dtype).tiny)
        weights = weights / top[:, None, None]  # prices are relative, so that small gradients are resolved
        low = weights.new_zeros(len(lines))
        high = 2 * self.most * weights.flatten(1).abs().amax(1) + 1
        dear, cheap = lines, self._priced(weights, lines, low)
        cheap = torch.where(free[..., None], cheap, lines)
        fits = self._spent(cheap, lines).sum(1) <= self.epsilon
        dear, unpriced = torch.where(fits[:, None, None], cheap, dear), cheap
        if bool(fits.all()):
            return dear
        tried = min(_at_once(lines), PRICES if self.most == 1 else 1)
        share = torch.arange(1, tried + 1, device=lines.device).double() / (tried + 1)
        for _ in range(math.ceil(HALVINGS / math.log2(tried + 1))):
            price = low + share[:, None] * (high - low)
            many = (lines.repeat(tried, 1, 1), weights.repeat(tried, 1, 1))
            found = self._priced(many[1], many[0], price.flatten())
            found = torch.where(free[..., None], found, many[0])
            lasts = self._spent(found, many[0]).sum(1).view(tried, -1) <= self.epsilon
            found = torch.cat([cheap[None], found.view(tried, *lines.shape), dear[None]])
            # The lowest price at which the budget suffices
            first = torch.where(lasts.any(0), lasts.long().argmax(0), tried)
            rows = torch.arange(len(lines), device=lines.device)
            ends = torch.cat([low[None], price, high[None]])
            dear, cheap = found[first + 1, rows], found[first, rows]
            low, high = ends[first, rows], ends[first + 1, rows]
        dear = torch.where(fits[:, None, None], unpriced, dear)
        cheap = torch.where(fits[:, None, None], unpriced, cheap)
        return self._filled(weights, lines, dear, cheap)

    def _filled(self, weights: Tensor, lines: Tensor, dear: Tensor, cheap: Tensor) -> Tensor:
        gain = (weights * (cheap - dear)).sum(2)
        more = self._spent(cheap, lines) - self._spent(dear, lines)
        left = self.epsilon - self._spent(dear, lines).sum(1)
        pays = gain > 0
        order = torch.where(pays, gain / more.clamp(min=1e-9), -torch.inf).argsort(dim=1, descending=True)
        found = dear.clone()
        rows = torch.arange(len(lines), device=lines.device)
        for place in order[:, : int(pays.sum(1).max())].T:
            taken = pays[rows, place] & (more[rows, place] <= left)
            found[rows[taken], place[taken]] = cheap[rows[taken], place[taken]]
            left = left - torch.where(taken, more[rows, place], 0 * left)
        return found

    def _whole(self, weights: Tensor, lines: Tensor, free: Tensor) -> Tensor:
        """The best entries for one example under its budget, found by integer programming."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        values = lines.double().cpu().numpy() * free.cpu().numpy()[:, None]
        length = values.shape[1]
        line, source = values.nonzero()
        found = lines.clone()
        if not len(line):
            return found
        target = np.tile(np.arange(length), len(line))
        spike = np.repeat(np.arange(len(line)), length)
        shift = np.abs(target - source[spike])
        kept = (shift <= self.epsilon) if self.bound is Measure.DELAY else np.full(len(shift), True)
        target, spike, shift = target[kept], spike[kept], shift[kept]
        gain = values[line, source][spike] * weights.cpu().numpy()[line[spike], target]
        cell = line[spike] * length + target
        one, number = np.ones(len(spike)), np.arange(len(spike))
        each = coo_array((one, (spike, number)), shape=(len(line), len(spike)))
        once = coo_array((one, (cell, number)), shape=(values.size, len(spike)))
        budget = coo_array((self._cost(shift), (0 * spike, number)), shape=(1, len(spike)))
        solved = milp(
            -gain,
            integrality=one,
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(each, 1, 1),
                LinearConstraint(once, -np.inf, 1),
                LinearConstraint(budget, -np.inf, self.epsilon),
            ],
            options={"mip_rel_gap": 0.0},
        )
        picked = solved.x > 0.5
        placed = np.where(free.cpu().numpy()[:, None], 0.0, lines.double().cpu().numpy())
        placed[line[spike[picked]], target[picked]] = values[line, source][spike[picked]]
        return torch.from_numpy(placed).to(found)

    def _spent(self, found: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"]) -> Float[Tensor, "B L"]:
        if self.most == 1 and self.bound is Measure.DELAY:
            # Equal spikes keep their order, so the total delay is the earth mover's distance.
            ahead = (found.double().cumsum(2) - lines.double().cumsum(2)).abs()
            known = ((found == 0) | (found == 1)).all(2) & (found.sum(2) == lines.sum(2))
            return torch.where(known, ahead.sum(2), torch.inf)
        spent: Tensor = getattr(_account(found, lines), self.measure)
        return spent

    def distance(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B"]:
        """The cost of the cheapest shifts; infinite where no shifts explain the change."""
        spent = self._spent(_lines(x_adv), _lines(x))
        spent = torch.where(_lines(self.open(x)[None])[:, :, 0] | (spent == 0), spent, torch.inf)
        if not spent.shape[1]:
            return spent.sum(1)
        return spent.amax(1) if self.bound is Measure.JITTER else spent.sum(1)

    def neighbours(
        self,
        x_adv: Float[Tensor, "B T *F"],
        x: Float[Tensor, "B T *F"],
        grad: Float[Tensor, "B T *F"],
        many: int,
    ) -> Float[Tensor, "M B T *F"]:
        """Members that differ by one move, or by one move that saves budget and one that spends it.

        The search covers the moves of each kind that raise a linear function with the gradient `grad` most,
        and the best members come first. Where there are fewer than `many`, copies of `x_adv` fill the
        remaining rows.
        """
        lines, here = _lines(x), _lines(x_adv)
        moves = self._moves(
            here, lines, _lines(grad.double().nan_to_num(0.0)), _lines(self.open(x)[None]), many
        )
        few = min(many, PAIRS)
        back, level, spend = moves
        first = _Moves.joined([*moves, back.cut(few).repeated(few)])
        nothing = _Moves.joined([back, level, spend]).without()
        second = _Moves.joined([nothing, spend.cut(few).tiled(few)])
        again = (first.line == second.line) & (first.place == second.place) & (second.offset != 0)
        gain = torch.where(again, -torch.inf, first.gain + second.gain)
        order = gain.argsort(dim=1, descending=True, stable=True)[:, : 8 * many]
        first, second = first.taken(order), second.taken(order)
        same = first.line == second.line
        one = first.on(here)
        other = second.on(torch.where(same[..., None], one, _rows(here, second.line)), given=True)
        one = torch.where(same[..., None], other, one)
        base = self._spent(here, lines)
        new = [
            getattr(_account(after, _rows(lines, at.line)), self.measure)
            for after, at in ((one, first), (other, second))
        ]
        if self.bound is Measure.JITTER:
            total = torch.maximum(*new)
        else:
            total = base.sum(1, keepdim=True) - base.gather(1, first.line) + new[0]
            total = total + torch.where(same, 0 * total, new[1] - base.gather(1, second.line))
        member = (total <= self.epsilon) & (gain.gather(1, order) > -torch.inf)
        rank = torch.where(member, member.cumsum(1), 0)
        places = rank == torch.arange(1, many + 1, device=x.device)[:, None, None]
        pick, real = places.long().argmax(2), places.any(2)[..., None]
        nth = torch.arange(many, device=x.device)[:, None].expand(pick.shape)
        row = torch.arange(len(x), device=x.device).expand(pick.shape)
        found = here.expand(many, *here.shape).clone()
        for after, at in ((other, second), (one, first)):
            line = at.line[row, pick]
            found[nth, row, line] = torch.where(real, after[row, pick], found[nth, row, line])
        return found.transpose(2, 3).reshape(many, *x.shape)

    def _moves(self, here: Tensor, lines: Tensor, slope: Tensor, free: Tensor, many: int) -> list[_Moves]:
        """The steepest moves that save budget, that leave the spent budget unchanged, and that spend it."""
        kinds = {side: _Moves.none(len(here), 2 * many, here.device) for side in (-1, 0, 1)}
        length = lines.shape[2]
        reach = torch.full_like(lines[:, :, 0], length - 1)
        if self.bound is not Measure.MOVED:
            reach.clamp_(max=2 * int(self.epsilon))
        if self.bound is Measure.JITTER:
            # Each spike of a run may move by one entry, which looks like one spike that leaps over the run.
            reach = reach * (lines > 0).sum(2)
        furthest = min(int(reach.max()), length - 1) if reach.numel() else 0
        offsets = [d for d in range(-furthest, furthest + 1) if d]
        together = _at_once(here)
        for first in range(0, len(offsets), together):
            these = torch.tensor(offsets[first : first + together], device=here.device)
            target = torch.arange(length, device=here.device) + these[:, None]
            inside, target = (target >= 0) & (target < length), target.clamp(0, length - 1)
            near = these.abs()[:, None, None] <= reach[:, None, :, None]
            possible = (here > 0)[:, None] & (_at(here, target) == 0) & inside[:, None] & free[:, None] & near
            gain = here.double()[:, None] * (_at(slope, target) - slope[:, None])
            gain = torch.where(possible, gain, -torch.inf)
            side = self._price(here, lines, target, these).sign()
            for sign, kind in kinds.items():
                kinds[sign] = kind.with_more(torch.where(side == sign, gain, -torch.inf), these)
        return list(kinds.values())

    def _price(
        self, here: Tensor, lines: Tensor, target: Int64[Tensor, "O T"], offset: Int64[Tensor, "O"]
    ) -> Tensor:
        """What moves by an offset add to the distance: exact on binary grids, else a value for ranking."""
        later = (offset > 0)[:, None, None]
        if self.bound is Measure.MOVED:
            entered, value = _at(lines, target), here[:, None]
            left = (lines > 0) & (lines == here)
            return left[:, None].long() - ((entered > 0) & (entered == value)).long()
        if self.bound is Measure.JITTER:  # 0: certainly within the bound; 1: to be checked
            shift = target[:, None] - _origins(here, lines)[:, None]
            count = (here > 0).long().cumsum(2)
            between = _at(count, target) - count[:, None] + (~later).long()
            return 1 - ((between == 0) & (shift.abs() <= self.epsilon)).long()
        ahead = ((here > 0).double() - (lines > 0).double()).cumsum(2)
        up, down = (
            torch.nn.functional.pad(((ahead - way).abs() - ahead.abs()).cumsum(2), (1, 0)) for way in (1, -1)
        )
        forth = _at(up, target) - up[:, None, :, :-1]
        return torch.where(later, forth, down[:, None, :, :-1] - _at(down, target))


class _Moves(NamedTuple):
    """Moves of single events, several per example; a gain of minus infinity marks an empty row."""

    gain: Float[Tensor, "B M"]
    line: Int64[Tensor, "B M"]
    place: Int64[Tensor, "B M"]
    offset: Int64[Tensor, "B M"]

    @classmethod
    def none(cls, batch: int, many: int, device: torch.device) -> _Moves:
        whole = torch.zeros((batch, many), dtype=torch.int64, device=device)
        return cls(
            torch.full(whole.shape, -torch.inf, dtype=torch.float64, device=device), whole, whole, whole
        )

    @classmethod
    def joined(cls, parts: list[_Moves]) -> _Moves:
        return cls(*(torch.cat(columns, 1) for columns in zip(*parts, strict=True)))

    def with_more(self, gain: Float[Tensor, "B O L T"], offset: Int64[Tensor, "O"]) -> _Moves:
        """The best of these moves and of all moves by the given offsets, as many as before."""
        many, (lines, length) = self.gain.shape[1], gain.shape[2:]
        top = gain.flatten(1).topk(min(many, gain[0].numel()), dim=1)
        line = top.indices // length % lines
        which = offset[top.indices // (length * lines)]
        whole = _Moves.joined([self, _Moves(top.values, line, top.indices % length, which)])
        return whole.taken(whole.gain.argsort(dim=1, descending=True, stable=True)[:, :many])

    def taken(self, order: Int64[Tensor, "B M"]) -> _Moves:
        return _Moves(*(column.gather(1, order) for column in self))

    def cut(self, many: int) -> _Moves:
        return _Moves(*(column[:, :many] for column in self))

    def repeated(self, times: int) -> _Moves:
        return _Moves(*(column.repeat_interleave(times, 1) for column in self))

    def tiled(self, times: int) -> _Moves:
        return _Moves(*(column.repeat(1, times) for column in self))

    def without(self) -> _Moves:
        """The same lines, in which nothing moves."""
        return self._replace(gain=0 * self.offset.double(), offset=0 * self.offset)

    def on(self, here: Tensor, given: bool = False) -> Float[Tensor, "B M T"]:
        """The lines after the moves: the lines of `here` that the moves name, or one given line per move."""
        after = _rows(here, self.line).clone() if not given else here.clone()
        real = (self.gain > -torch.inf)[..., None]
        value = torch.where(real, after.gather(2, self.place[..., None]), 0)
        after.scatter_add_(2, self.place[..., None], -value)
        return after.scatter_add_(2, (self.place + self.offset)[..., None], value)


def _at_once(lines: Float[Tensor, "B L T"]) -> int:
    """How many copies of the grids are processed at once; it assumes a full batch of `BATCH` examples.

    Therefore the number does not depend on the batch.
    """
    return max(1, ENTRIES // (BATCH * max(lines.shape[1:].numel(), 1)))


def _at(lines: Float[Tensor, "B L T"], target: Int64[Tensor, "O T"]) -> Float[Tensor, "B O L T"]:
    """The lines at other times, once per row of target times."""
    return lines[:, :, target].transpose(1, 2)


def _rows(lines: Float[Tensor, "B L T"], index: Int64[Tensor, "B M"]) -> Float[Tensor, "B M T"]:
    return lines.gather(1, index[..., None].expand(*index.shape, lines.shape[2]))


def _lines(x: Tensor) -> Tensor:
    """Reorder a grid to one line per input, `[B, L, T]`."""
    return x.reshape(*x.shape[:2], -1).transpose(1, 2)


def _grid(lines: Tensor, like: Tensor) -> Tensor:
    return lines.transpose(1, 2).reshape(like.shape).contiguous()


def _wide(rows: Tensor, like: Tensor) -> Tensor:
    return rows.view(-1, *[1] * (like.ndim - 1))


def _account(found: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"]) -> _Account:
    """Match equal events in their order, which minimises both the total and the largest shift."""
    before, first = lines.double().sort(dim=2, descending=True, stable=True)
    after, second = found.double().sort(dim=2, descending=True, stable=True)
    known = (before == after).all(2)
    shift = (first - second).abs() * (before > 0)
    moved = ((lines > 0) & (found != lines)).sum(2)
    costs = (moved, shift.sum(2), shift.amax(2) if shift.shape[2] else shift.sum(2))
    return _Account(*(torch.where(known, cost.double(), torch.inf) for cost in costs))


def _origins(found: Float[Tensor, "B L T"], lines: Float[Tensor, "B L T"]) -> Int64[Tensor, "B L T"]:
    """The time from which each event came, with equal events in their order."""
    first = lines.sort(dim=2, descending=True, stable=True).indices
    second = found.sort(dim=2, descending=True, stable=True).indices
    return torch.zeros_like(first).scatter_(2, second, first)


def _ordered(
    weights: Float[Tensor, "R T"], lines: Float[Tensor, "R T"], price: Float[Tensor, "R"], bound: int
) -> Float[Tensor, "R T"]:
    """The best entries for equal spikes, each at most `bound` time steps from its own entry.

    Dynamic programming treats one spike after the other in time.
    """
    length = lines.shape[1]
    counts = lines.sum(1).long()
    many = int(counts.max()) if len(lines) else 0
    time = torch.arange(length, device=lines.device)
    sources = torch.where(lines > 0, time, length).sort(dim=1).values[:, :many]
    best = weights.new_zeros(len(lines), length + 1)  # [t]: best value with all spikes so far before t
    picks = []
    for i in range(many):
        shift = (time - sources[:, i, None]).abs()
        value = best[:, :-1] + weights - price[:, None] * shift
        value = torch.where(shift <= bound, value, -torch.inf)
        high, pick = value.cummax(dim=1)
        missing = weights.new_full((len(lines), 1), -torch.inf)
        here = (i < counts)[:, None]
        best = torch.where(here, torch.cat([missing, high], 1), best)
        picks.append(pick)
    found = torch.zeros_like(lines)
    before = torch.full_like(counts, length)  # the entry of the next spike
    for i in reversed(range(many)):
        here = i < counts
        place = picks[i].gather(1, (before - 1).clamp(min=0)[:, None])[:, 0]
        found[here, place[here]] = 1
        before = torch.where(here, place, before)
    return found


class _Delayed:
    """The best entries for equal spikes under every total delay.

    Dynamic programming treats one spike after the other in time.
    """

    def __init__(self, weights: Float[Tensor, "R T"], lines: Float[Tensor, "R T"], size: int) -> None:
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

    def within(self, delay: Int64[Tensor, "R"]) -> Float[Tensor, "R T"]:
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


def _divided(gain: Float[Tensor, "B L D"]) -> Int64[Tensor, "B L"]:
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

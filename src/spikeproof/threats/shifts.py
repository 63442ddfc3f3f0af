"""Threats that move spikes in time: no spike is removed or added, so every input keeps its spike count.

A line is one input over time, `x[b, :, i]`. The content of an entry moves as a whole, and an entry receives
the content of at most one other: a spike on a binary grid, all events of one time bin on an integer grid.
The moved train does not show which spike went where, so distances assume the cheapest matching of spikes
before and after, which preserves the order of equal spikes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import need_pairs
from spikeproof.threats.lines import Account, Lines, account, flat, leaders, origins
from spikeproof.threats.placement import Delayed, assigned, divided, exchanged, ordered
from spikeproof.threats.rationing import Ration, Rises, rationed
from spikeproof.threats.spikes import EventThreat

__all__ = ["Measure", "Shifts"]

PRICES = 15
"""Number of prices that are tried at once."""
PAIRS = 32
"""Number of moves that save budget, and of moves that spend it, that are tried in pairs."""
ENTRIES = 5_000_000
"""Largest number of grid entries that are processed at once."""
BATCH = 100
"""Batch size that is assumed when prices are grouped, so that the grouping does not depend on the batch."""


class Measure(Enum):
    """What a budget of shifts bounds: the number of moved spikes, the total shift, or the largest shift."""

    MOVED = "moved"
    DELAY = "delay"
    JITTER = "jitter"


@dataclass(frozen=True)
class Shifts(EventThreat):
    r"""Spikes may move in time; their number, their total shift or their largest shift is bounded.

    .. math:: x'_{\pi(t), i} = x_{t, i} \text{ for one-to-one } \pi_i, \quad
              \sum_{t, i} 1[\pi_i(t) \ne t] \le \epsilon \;\text{ or }\;
              \sum_{t, i} |\pi_i(t) - t| \le \epsilon \;\text{ or }\; \max_{t, i} |\pi_i(t) - t| \le \epsilon

    over the entries with events. An entry holds at most one moved spike. Firing rates are preserved exactly,
    so this threat tests how much a model depends on timing.

    Args:
        epsilon: the bound, a whole number of at least 0: a number of spikes, or of time steps for the total
            shift or for each spike.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel in which spikes may move, from 0; None for all.
        region: the only pixels at which spikes may move, as top, left, height, width; None for all.
        measure: what is bounded: `moved` (number of moved spikes), `delay` (total shift, in time steps) or
            `jitter` (largest shift, in time steps).

    Shapes:
        Events `[B, T, ...]`, whole numbers from 0 to `most`.

    Raises:
        InputError: a setting is out of range, or the clean events are not on the grid.

    Example:
        >>> x = torch.tensor([[[1.0], [1.0], [0.0], [0.0]]])
        >>> goal = torch.tensor([[[0.1], [0.2], [0.9], [0.8]]])
        >>> [Shifts(1, measure=m).project(goal, x).flatten().tolist() for m in ("moved", "delay", "jitter")]
        [[0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0]]

    Source:
        Spike-Retiming Attacks 2026 (budgets B0, B1 and Binf). The published projection is greedy and stops at
        the first shift that exceeds the budget; this one is exact.
    """

    measure: Literal["moved", "delay", "jitter"] = "moved"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.measure not in Account._fields:
            raise InputError(
                f"Shifts are measured by {', '.join(Account._fields)}", repr(self.measure), "Try moved."
            )

    @property
    def bound(self) -> Measure:
        """The quantity that epsilon bounds."""
        return Measure(self.measure)

    def start(self, x: Float[Tensor, "B T *F"], key: Key) -> Float[Tensor, "B T *F"]:
        """The member that maximises a linear function with random weights."""
        return self.extreme(key.normal(x.shape, 0, x.device).double(), x)

    def project(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The exact nearest member in Euclidean distance; entries that are NaN count as clean.

        All members have the same Euclidean norm, so the nearest one is the one whose inner product with
        `x_adv` is largest.
        """
        need_pairs(self, x_adv, x)
        goal = torch.where(x_adv.isnan(), x, x_adv).nan_to_num().double()
        if self._closed(x):
            return self.extreme(goal, x)
        self.check(x)
        inside = self.contains(x_adv, x)
        landed = torch.where(inside.view(-1, *[1] * (x.ndim - 1)), x_adv, x)
        for row in (~inside).nonzero().flatten().tolist():
            lines = self._open(x[row : row + 1])
            best = self._whole(lines.read(goal[row : row + 1]), lines.clean)
            landed[row : row + 1] = lines.write(best, x[row : row + 1])
        return landed

    def _open(self, x: Float[Tensor, "B T *F"]) -> Lines:
        """The inputs whose events may move."""
        return Lines.of(x, flat(x > 0).any(1) & self.open(x)[0].flatten())

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
        need_pairs(self, grad, x)
        self.check(x)
        if self.epsilon == 0 or not x.numel():
            return x.clone()
        parts = zip(_parts(grad), _parts(x), strict=True)
        return torch.cat([self._extreme(slope, clean) for slope, clean in parts])

    def _extreme(self, grad: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        lines = self._open(x)
        if not len(lines.row):
            return x.clone()
        weights = lines.read(grad).double().nan_to_num(0.0)
        if self.bound is Measure.JITTER:
            found = self._priced(weights, lines.clean, weights.new_zeros(len(weights)))
        elif self.bound is Measure.MOVED and self.most == 1:
            found = self._exchanged(weights, lines, len(x))
        else:
            open_ = grad.double().nan_to_num(0.0) * self.open(x)
            top = open_.flatten(1).abs().amax(1).clamp(min=torch.finfo(weights.dtype).tiny)
            relative = weights / top[lines.row, None]  # so that small gradients are resolved
            rises = Rises.of(relative, lines.clean, self._cost)
            bought = rationed(
                relative,
                lines,
                rises,
                self._priced,
                self._spent,
                budget=self.epsilon,
                high=2.0 * self.most + 1,
                tried=min(_at_once(x), PRICES if self.most == 1 else 1),
                batch=len(x),
            )
            found = bought.found
            if self._closed(x):
                found = self._allotted(weights, lines, rises, bought)
        return lines.write(found, x)

    def _exchanged(self, weights: Tensor, lines: Lines, batch: int) -> Float[Tensor, "N T"]:
        """Move spikes from the worst entries to the best empty ones while moves gain and the budget lasts."""
        gain, leave, enter = exchanged(weights, lines.clean)
        line, nth = (gain > 0).nonzero(as_tuple=True)
        pick, real = leaders(gain[line, nth], lines.row[line], batch, int(self.epsilon))
        line, nth = line[pick[real]], nth[pick[real]]
        found = lines.clean.clone()
        found[line, leave[line, nth]] = 0
        found[line, enter[line, nth]] = 1
        return found

    def _allotted(self, weights: Tensor, lines: Lines, rises: Rises, bought: Ration) -> Float[Tensor, "N T"]:
        """The best entries under a total delay, exactly, where a price has not found them already.

        Lines that lose more by any move than could be gained beyond what was bought stay as they are. The
        others are solved for every share of the delay, which then is divided among them.
        """
        row, size = lines.row, int(self.epsilon)
        unsure = bought.gap > 1e-9
        kept = (unsure[row] & (rises.loss(bought.price[row]) <= bought.gap[row] + 1e-9)).nonzero().flatten()
        found = torch.where(unsure[row][:, None], lines.clean, bought.found)
        if not len(kept):
            return found
        trains, count = Delayed(weights[kept], lines.clean[kept], size), row[kept].bincount()
        index, real = leaders(trains.gain[:, 0], row[kept], len(count), int(count.max()))
        gain = torch.where(real[..., None], trains.gain[index], -torch.inf)
        gain[..., 0] = 0  # a line that stays
        share = torch.zeros_like(kept)
        share[index[real]] = divided(gain)[real]
        found[kept] = trains.within(share)
        return found

    def _priced(
        self, weights: Float[Tensor, "N T"], clean: Float[Tensor, "N T"], price: Float[Tensor, "N"]
    ) -> Float[Tensor, "N T"]:
        """The exact best entries of each line where every shift costs a price."""
        value = clean.amax(1)
        busy, found = clean > 0, clean.clone()
        alike = ((clean == value[:, None]) | ~busy).all(1)
        even, odd = alike.nonzero().flatten(), (~alike).nonzero().flatten()
        goal = value[even, None].double() * weights[even]
        if self.bound is Measure.MOVED:
            gain, leave, enter = exchanged(goal, clean[even])
            paid = (gain > price[even, None]).double()
            placed = busy[even].double().scatter_add_(1, leave, -paid).scatter_add_(1, enter, paid)
        else:
            bound = int(self.epsilon) if self.bound is Measure.JITTER else clean.shape[1]
            placed = ordered(goal, busy[even], price[even], bound)
        found[even] = placed.to(clean) * value[even, None]
        counts = busy.sum(1)
        for many in sorted(set(counts[odd].tolist())):  # events of different size may change their order
            these = odd[counts[odd] == many]
            source = busy[these].nonzero(as_tuple=True)[1].view(-1, many)
            event = clean[these].gather(1, source)
            shift = (torch.arange(clean.shape[1], device=clean.device) - source[..., None]).abs()
            gain = event[..., None] * weights[these][:, None]
            gain = gain - price[these, None, None] * self._cost(shift)
            if self.bound is Measure.JITTER:
                gain = torch.where(shift <= self.epsilon, gain, -torch.inf)
            found[these] = torch.zeros_like(clean[these]).scatter_(1, assigned(gain), event)
        return found

    def _cost(self, shift: Int64[Tensor, "*N"]) -> Int64[Tensor, "*N"]:
        """What the shift of one event costs."""
        return (shift > 0).long() if self.bound is Measure.MOVED else shift

    def _whole(self, weights: Float[Tensor, "N T"], clean: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
        """The best entries for the lines of one example under its budget, found by integer programming."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import coo_array

        values = clean.double().cpu().numpy()
        length = values.shape[1]
        line, source = values.nonzero()
        if not len(line):
            return clean.clone()
        target = np.tile(np.arange(length), len(line))
        spike = np.repeat(np.arange(len(line)), length)
        shift = np.abs(target - source[spike])
        kept = (shift <= self.epsilon) if self.bound is Measure.DELAY else np.full(len(shift), True)
        target, spike, shift = target[kept], spike[kept], shift[kept]
        gain = values[line, source][spike] * weights.cpu().numpy()[line[spike], target]
        cell = line[spike] * length + target
        one, number = np.ones(len(spike)), np.arange(len(spike))
        cost = self._cost(torch.from_numpy(shift)).double().numpy()
        each = coo_array((one, (spike, number)), shape=(len(line), len(spike)))
        once = coo_array((one, (cell, number)), shape=(values.size, len(spike)))
        budget = coo_array((cost, (0 * spike, number)), shape=(1, len(spike)))
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
        placed = np.zeros_like(values)
        placed[line[spike[picked]], target[picked]] = values[line, source][spike[picked]]
        return torch.from_numpy(placed).to(clean)

    def _spent(self, found: Float[Tensor, "*N T"], clean: Float[Tensor, "*N T"]) -> Float[Tensor, "*N"]:
        """What the cheapest shifts from one content of each line to another cost."""
        if self.most == 1 and self.bound is Measure.DELAY:
            # Equal spikes keep their order, so the total delay is the earth mover's distance.
            ahead = (found.double().cumsum(-1) - clean.double().cumsum(-1)).abs()
            known = ((found == 0) | (found == 1)).all(-1) & (found.sum(-1) == clean.sum(-1))
            return torch.where(known, ahead.sum(-1), torch.inf)
        spent: Tensor = getattr(account(found, clean), self.measure)
        return spent

    def distance(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B"]:
        """The cost of the cheapest shifts; infinite where no shifts explain the change."""
        need_pairs(self, x_adv, x)
        lines = Lines.of(x, flat(x_adv != x).any(1))
        spent = self._spent(lines.read(x_adv), lines.clean)
        spent = torch.where(self.open(x)[0].flatten()[lines.place], spent, torch.inf)
        if self.bound is Measure.JITTER:
            return spent.new_zeros(len(x)).scatter_reduce_(0, lines.row, spent, "amax")
        return lines.total(spent, len(x))

    def contains(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Bool[Tensor, "B"]:
        """Whether each example is on the grid and within the budget, without any tolerance."""
        return self.on_grid(x_adv) & (self.distance(x_adv, x) <= self.epsilon)

    def steepest(self, grad: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """One spike from the smallest to the largest entry, in the epsilon lines where these differ most."""
        lines = flat(grad * self.open(grad))
        step = torch.zeros_like(lines)
        step.scatter_(1, lines.argmin(1, keepdim=True), -1).scatter_(1, lines.argmax(1, keepdim=True), 1)
        rank = (lines.amax(1) - lines.amin(1)).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        differ = (lines.amax(1) > lines.amin(1)) & (rank < self.epsilon)
        return torch.where(differ[:, None], step, 0 * step).view(grad.shape)

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
        need_pairs(self, x_adv, x)
        need_pairs(self, grad, x)
        if not many or not x.numel():
            return x_adv.expand(many, *x.shape).clone()
        parts = zip(_parts(x_adv), _parts(x), _parts(grad), strict=True)
        return torch.cat([self._neighbours(*part, many) for part in parts], 1)

    def _neighbours(self, x_adv: Tensor, x: Tensor, grad: Tensor, many: int) -> Float[Tensor, "M B T *F"]:
        found = x_adv.expand(many, *x.shape).clone()
        lines = self._open(x)
        if not len(lines.row):
            return found
        here, clean = lines.read(x_adv), lines.clean
        slope = lines.read(grad).double().nan_to_num(0.0)
        moves = self._moves(here, lines, slope, len(x), many)
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
        one = first.on(here[first.line])
        other = second.on(torch.where(same[..., None], one, here[second.line]))
        one = torch.where(same[..., None], other, one)
        base = self._spent(here, clean)
        new = [self._spent(after, clean[at.line]) for after, at in ((one, first), (other, second))]
        if self.bound is Measure.JITTER:
            total = torch.maximum(*new)
        else:
            total = lines.total(base, len(x))[:, None] - base[first.line] + new[0]
            total = total + torch.where(same, 0 * total, new[1] - base[second.line])
        member = (total <= self.epsilon) & (gain.gather(1, order) > -torch.inf)
        rank = torch.where(member, member.cumsum(1), 0)
        places = rank == torch.arange(1, many + 1, device=x.device)[:, None, None]
        pick, real = places.long().argmax(2), places.any(2)
        nth, row = real.nonzero(as_tuple=True)
        pick = pick[nth, row]
        for after, at in ((other, second), (one, first)):
            place = lines.place[at.line[row, pick]]
            found.view(many, *x.shape[:2], x.shape[2:].numel())[nth, row, :, place] = after[row, pick]
        return found

    def _moves(
        self, here: Float[Tensor, "N T"], lines: Lines, slope: Float[Tensor, "N T"], batch: int, many: int
    ) -> list[_Moves]:
        """The steepest moves that save budget, that leave the spent budget unchanged, and that spend it."""
        clean, length = lines.clean, here.shape[1]
        reach = torch.full_like(lines.row, length - 1)
        if self.bound is not Measure.MOVED:
            reach.clamp_(max=2 * int(self.epsilon))
        if self.bound is Measure.JITTER:
            # Each spike of a run may move by one entry, which looks like one spike that leaps over the run.
            reach = reach * (clean > 0).sum(1)
        line, time = (here > 0).nonzero(as_tuple=True)
        target = torch.arange(length, device=here.device)
        near = (target - time[:, None]).abs() <= reach[line][:, None]
        event, target = ((here[line] == 0) & near).nonzero(as_tuple=True)
        line, time = line[event], time[event]
        gain = here[line, time].double() * (slope[line, target] - slope[line, time])
        side = self._price(here, clean, line, time, target).sign()
        found = []
        for sign in (-1, 0, 1):
            best, real = leaders(
                torch.where(side == sign, gain, -torch.inf), lines.row[line], batch, 2 * many
            )
            worth = torch.where(real, gain[best], -torch.inf) if len(gain) else real.double() - torch.inf
            found.append(_Moves(worth, *(_picked(c, best, real) for c in (line, time, target - time))))
        return found

    def _price(
        self,
        here: Float[Tensor, "N T"],
        clean: Float[Tensor, "N T"],
        line: Int64[Tensor, "E"],
        time: Int64[Tensor, "E"],
        target: Int64[Tensor, "E"],
    ) -> Tensor:
        """What moves add to the distance: exact on binary grids, else a value for ranking."""
        later = target > time
        if self.bound is Measure.MOVED:
            value, entered, left = here[line, time], clean[line, target], clean[line, time]
            left_home = (left > 0) & (left == value)
            return left_home.long() - ((entered > 0) & (entered == value)).long()
        if self.bound is Measure.JITTER:  # 0: certainly within the bound; 1: to be checked
            shift = target - origins(here, clean)[line, time]
            count = (here > 0).long().cumsum(1)
            between = count[line, target] - count[line, time] + (~later).long()
            return 1 - ((between == 0) & (shift.abs() <= self.epsilon)).long()
        ahead = ((here > 0).double() - (clean > 0).double()).cumsum(1)
        up, down = (
            torch.nn.functional.pad(((ahead - way).abs() - ahead.abs()).cumsum(1), (1, 0)) for way in (1, -1)
        )
        forth = up[line, target] - up[line, time]
        return torch.where(later, forth, down[line, time] - down[line, target])


class _Moves(NamedTuple):
    """Moves of single events, several per example; a gain of minus infinity marks an empty row."""

    gain: Float[Tensor, "B M"]
    line: Int64[Tensor, "B M"]
    place: Int64[Tensor, "B M"]
    offset: Int64[Tensor, "B M"]

    @classmethod
    def joined(cls, parts: list[_Moves]) -> _Moves:
        return cls(*(torch.cat(columns, 1) for columns in zip(*parts, strict=True)))

    def taken(self, order: Int64[Tensor, "B K"]) -> _Moves:
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

    def on(self, after: Float[Tensor, "B M T"]) -> Float[Tensor, "B M T"]:
        """The lines after the moves, one line per move."""
        real = (self.gain > -torch.inf)[..., None]
        value = torch.where(real, after.gather(2, self.place[..., None]), 0)
        after = after.scatter_add(2, self.place[..., None], -value)
        return after.scatter_add_(2, (self.place + self.offset)[..., None], value)


def _picked(column: Tensor, index: Int64[Tensor, "B M"], real: Bool[Tensor, "B M"]) -> Int64[Tensor, "B M"]:
    """Values at the places that count, zero at the others."""
    found = torch.zeros_like(index)
    found[real] = column[index[real]]
    return found


def _parts(grid: Float[Tensor, "B T *F"]) -> tuple[Tensor, ...]:
    """The examples in groups of few enough entries; the group of an example changes nothing about it."""
    return torch.split(grid, max(1, ENTRIES // max(grid[0].numel(), 1))) if len(grid) else (grid,)


def _at_once(x: Float[Tensor, "B T *F"]) -> int:
    """How many prices are tried at once; it assumes a full batch, so that it does not depend on the batch."""
    return max(1, ENTRIES // (BATCH * max(x.shape[1:].numel(), 1)))

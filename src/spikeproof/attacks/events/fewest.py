"""The fewest changes of a spike train that fool the model: SpikeFool and the sparse dynamic attack.

Both ask through a `Hunt`, so that they serve within a budget and, without one, for distances. A search of
flips ends at a train from which no single change that was tried can be taken back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.nearest.minimum import Hunt, SlopeRecipe, per_row
from spikeproof.errors import InputError
from spikeproof.losses import Margin
from spikeproof.threats import Additions, Flips, Removals, Shifts
from spikeproof.threats.shifts import Measure

__all__ = ["SDA", "SpikeFool"]

CHUNK = 512
"""Trains asked about at a time."""


def undo(hunt: Hunt, worth: Float[Tensor, "B *F"], singles: int, name: str) -> None:
    """Take changes of the nearest trains back: as many of the weakest as can go, and then one by one.

    Args:
        hunt: the search; what was found so far is where this begins.
        worth: of the change at each entry, per example of the batch.
        singles: tries of one change, per example.
        name: of these looks.
    """
    rows = hunt.rows[hunt.distance[hunt.rows].isfinite()]
    if not len(rows):
        return
    x, start = hunt.x[rows], hunt.near[rows].clone()
    rank = _rank(worth[rows], start != x)
    low, high = torch.zeros_like(rows), rank.flatten(1).amax(1)
    turn = 0
    while True:
        going = hunt.left(rows) & (low < high)
        if not going.any():
            break
        middle = (low + high + 1) // 2
        tried = torch.where((rank > 0) & (rank <= per_row(middle, rank)), x, start)
        good = torch.zeros_like(going)
        good[going] = hunt.offer(rows[going], tried[going], name, "weakest", turn)
        low, high = torch.where(good, middle, low), torch.where(going & ~good, middle - 1, high)
        turn += 1
    tested = torch.zeros_like(start, dtype=torch.bool)
    for turn in range(singles):
        rank = _rank(worth[rows], (hunt.near[rows] != x) & ~tested)
        going = hunt.left(rows) & (rank == 1).flatten(1).any(1)
        if not going.any():
            return
        tested |= rank == 1
        tried = torch.where(rank == 1, x, hunt.near[rows])
        hunt.offer(rows[going], tried[going], name, "single", turn)


def _rank(worth: Float[Tensor, "R *F"], among: Bool[Tensor, "R *F"]) -> Int64[Tensor, "R *F"]:
    """Places of the entries in the order of their worth, the weakest first from 1; 0 for those not among."""
    values = torch.where(among, worth, torch.inf).flatten(1)
    order = values.argsort(dim=1, stable=True)
    rank = torch.zeros_like(order).scatter_(
        1, order, torch.arange(1, order.shape[1] + 1, device=order.device).expand_as(order)
    )
    return torch.where(among, rank.view(worth.shape), 0)


@dataclass(frozen=True, kw_only=True)
class SpikeFool(SlopeRecipe):
    r"""SpikeFool: the fewest changes that cross the nearest boundary of the model, linear at a train.

    .. math:: \min_{z \in S_k(x)} k \quad f_c(u) - f_y(u) + \nabla(f_c - f_y)(u) \cdot (z - u) \ge
        (\lambda - 1)\, |f_c(u) - f_y(u)|

    at the train `u` where the search stands, with the members :math:`S_k(x)` that `k` changes of the clean
    train lead to. Where the model is not fooled there, it is linearised again and the plane put further;
    where it is, sizes are halved between success and failure, and the next plane stands where failure was.

    The published search linearises at fractional trains, which no model of events is given, and rounds at the
    end; here every iterate is a train of whole events.

    Args:
        steps: number of planes, at least 0.
        lam: how far beyond the boundary the plane is put at first, in distances to it; at least 1.
        candidates: number of classes that are considered, at least 1.
        singles: changes that are tried to be taken back one by one, at least 0; not of shifts.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: None; events have no rule of an encoder.

    Raises:
        InputError: settings out of range, or a threat on images.

    Example:
        >>> from spikeproof.attacks.nearest.minimum import MinimumNorm
        >>> from spikeproof.keys import Key
        >>> model = lambda x, key=None: torch.stack([1.5 - 0 * x[:, 0, 0], x.flatten(1).sum(1)], 1)
        >>> x, y = torch.zeros(1, 3, 2), torch.tensor([0])
        >>> MinimumNorm(Flips(6), SpikeFool(), stop=False).search(model, x, y, Key.of(0)).distance.item()
        2.0

    Source:
        Büchel et al. 2022, "Adversarial attacks on spiking convolutional neural networks for event-based
        vision" (SparseFool of Modas et al. 2019 on spikes); ours in how the plane is reached.
    """

    norms: ClassVar[tuple[type, ...]] = (Flips, Additions, Removals, Shifts)
    steps: int = 20
    lam: float = 1.02
    candidates: int = 9
    singles: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or not self.lam >= 1 or self.candidates < 1 or self.singles < 0:
            raise InputError(
                "SpikeFool needs steps >= 0, lam >= 1, candidates >= 1 and singles >= 0",
                repr(self),
                "Try the defaults.",
            )

    def run(self, hunt: Hunt) -> None:
        rows = hunt.rows
        others, _ = hunt.classes(rows)
        others, here = others[:, : self.candidates], hunt.x[rows].clone()
        lead = torch.full((len(rows),), self.lam, dtype=torch.float64, device=rows.device)
        worth = torch.zeros_like(hunt.x)
        for step in range(self.steps):
            left = hunt.left(rows)
            rows, others, here, lead = rows[left], others[left], here[left], lead[left]
            if not len(rows):
                break
            dual = _Single(_events(hunt), hunt.x[rows])
            face = hunt.face(rows, here, others, dual, "face", step)
            goal, size = self._crossing(hunt, rows, here, face.w, lead * face.gap.double().abs())
            moves = (goal != here).flatten(1).any(1)
            if not moves.any():
                break
            rows, others, here, lead = rows[moves], others[moves], here[moves], lead[moves]
            goal, size, w = goal[moves], size[moves], face.w[moves]
            fooled = hunt.offer(rows, goal, "plane", step)
            worth[rows[fooled]] = w[fooled].abs()
            here = torch.where(per_row(fooled, goal) > 0, here, goal)
            lead = torch.where(fooled, self.lam, 1.5 * lead)
            here[fooled] = self._smaller(hunt, rows[fooled], w[fooled], size[fooled], step)
        if isinstance(hunt.threat, Flips):
            undo(hunt, worth, self.singles, "undo")

    def _crossing(
        self, hunt: Hunt, rows: Tensor, here: Tensor, w: Tensor, wanted: Float[Tensor, "R"]
    ) -> tuple[Tensor, Int64[Tensor, "R"]]:
        """The smallest member, on a ladder, that the linearised model takes across; else the largest."""
        x = hunt.x[rows]
        best = torch.where(hunt.distance[rows].isfinite(), hunt.distance[rows] - 1, torch.inf)
        goal, size, limit = here.clone(), torch.zeros_like(rows), _limits(hunt, x)
        going = limit > 0
        for k in _ladder(int(limit.max())):
            sizes = limit.clamp(max=k)  # its own ladder for each example, whatever its company
            member = _members(_events(hunt), x, w, sizes)
            rise = (w.double() * (member - here).double()).flatten(1).sum(1)
            may = going & (hunt.threat.distance(member, x).double() <= best)
            grows = may & (member != x).flatten(1).any(1)
            goal = torch.where(per_row(grows, goal) > 0, member, goal)
            size = torch.where(grows, sizes, size)
            going = may & ~(rise >= wanted) & (sizes < limit)
            if not going.any():
                break
        return goal, size

    def _smaller(
        self, hunt: Hunt, rows: Tensor, w: Tensor, size: Int64[Tensor, "R"], step: int
    ) -> Float[Tensor, "R *F"]:
        """Halve between sizes that fool and sizes that do not; the largest member that does not."""
        x, low, high = hunt.x[rows], torch.zeros_like(size), size
        here, turn = x.clone(), 0
        while len(rows):
            going = hunt.left(rows) & (high - low > 1)
            if not going.any():
                break
            middle = (low + high) // 2
            member = _members(_events(hunt), x, w, middle)
            fooled = torch.zeros_like(going)
            fooled[going] = hunt.offer(rows[going], member[going], "size", step, turn)
            here = torch.where(per_row(going & ~fooled, here) > 0, member, here)
            high, low = torch.where(fooled, middle, high), torch.where(going & ~fooled, middle, low)
            turn += 1
        return here


@dataclass(frozen=True)
class _Single:
    """How far one change leads along a slope: the dual norm of a budget of one."""

    threat: Flips | Shifts
    x: Tensor

    def __call__(self, w: Float[Tensor, "R *F"]) -> Float[Tensor, "R"]:
        member = _members(self.threat, self.x, w, torch.ones(len(w), dtype=torch.int64, device=w.device))
        return (w * (member - self.x)).flatten(1).sum(1)


def _members(
    threat: Flips | Shifts, x: Float[Tensor, "R *F"], w: Float[Tensor, "R *F"], size: Int64[Tensor, "R"]
) -> Float[Tensor, "R *F"]:
    """The best members of a linear function, each of its own size."""
    found = x.clone()
    for k in sorted(set(size.tolist())):
        these = size == k
        found[these] = replace(threat, epsilon=k).extreme(w[these], x[these])
    return found


def _events(hunt: Hunt) -> Flips | Shifts:
    """The threat of a search among events, which `check_threat` has seen."""
    return cast(Flips | Shifts, hunt.threat)


def _limits(hunt: Hunt, x: Float[Tensor, "R *F"]) -> Int64[Tensor, "R"]:
    """The largest size that is looked at, of each example."""
    threat = _events(hunt)
    if hunt.stop:
        return torch.full((len(x),), int(threat.epsilon), dtype=torch.int64, device=x.device)
    if isinstance(threat, Shifts):
        steps, spikes = max(x.shape[1], 1), (x > 0).flatten(1).sum(1)
        far = (steps - 1) * torch.ones_like(spikes)
        return {Measure.JITTER: far, Measure.MOVED: spikes, Measure.DELAY: spikes * far}[threat.bound]
    room: Tensor = threat.up(x) + threat.down(x)
    return room.flatten(1).sum(1).long()


def _ladder(limit: int) -> list[int]:
    """Sizes that grow by half.

    Example:
        >>> _ladder(10)
        [1, 2, 3, 4, 6, 9, 10]
    """
    sizes, k = [], 1
    while k < limit:
        sizes.append(k)
        k = max(k + 1, k * 3 // 2)
    return [*sizes, limit] if limit else []


@dataclass(frozen=True, kw_only=True)
class SDA(SlopeRecipe):
    r"""Sparse dynamic attack: the flips that the gradient ranks first, each tried alone, all that help made.

    Round `n` looks at the :math:`10 n` steepest flips that can be made and were not looked at before, asks
    the model about each of them alone, and makes those after which the margin is no worse. Once the model is
    fooled, as many flips as can go are taken back, those that did least first, and then single ones.

    The published search returns the clean train where it fails, which looks like robustness, and knows only
    batches of one and no budget. This one returns the train of the largest margin within the budget and says
    that it fooled nobody, asks about as many of the best flips as the budget allows, too, and looks again at
    flips that did not help where all were looked at. An entry of an integer grid is changed by one at most.

    Args:
        steps: number of rounds, at least 0; the published cap is 500.
        first: flips looked at in the first round, at least 1; as many more in each round that follows.
        singles: flips that are tried to be taken back one by one, at least 0.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: None; events have no rule of an encoder.

    Raises:
        InputError: settings out of range, or a threat other than flips, additions and removals.

    Example:
        >>> SDA()(Flips(5)).recipe.first
        10

    Source:
        Lun et al. 2025, "Towards effective and sparse adversarial attack on spiking neural networks via
        breaking invisible surrogate gradients" (PDSG-SDA), section 4.3.
    """

    norms: ClassVar[tuple[type, ...]] = (Flips, Additions, Removals)
    steps: int = 20
    first: int = 10
    singles: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or self.first < 1 or self.singles < 0:
            raise InputError(
                "SDA needs steps >= 0, first >= 1 and singles >= 0", repr(self), "Try the defaults."
            )

    def run(self, hunt: Hunt) -> None:
        here, worth = hunt.x.clone(), torch.zeros_like(hunt.x)
        seen = torch.zeros_like(hunt.x, dtype=torch.bool)
        fallen = torch.zeros(len(hunt.x), dtype=torch.bool, device=hunt.x.device)
        for step in range(self.steps):
            rows = hunt.rows[~fallen[hunt.rows]]
            if not len(rows):
                break
            _, slope, _ = hunt.slope(rows, here[rows], Margin(), "slope", step)
            value, _ = hunt.trial(
                rows, here[rows], "base", step
            )  # of the model itself, whoever gave the slope
            entries, sign = self._steepest(hunt, rows, slope, seen[rows], step)
            over = (sign == 0).all(1)  # every flip was looked at: those not made may help by now
            seen[rows[over]] = here[rows[over]] != hunt.x[rows[over]]
            if over.any():
                entries, sign = self._steepest(hunt, rows, slope, seen[rows], step)
            real = (sign != 0).any(1)
            if not real.any():
                break
            fallen[rows[~real]] = True  # nothing is left to look at, in whatever company
            rows, value, entries, sign = rows[real], value[real], entries[real], sign[real]
            gain = self._alone(hunt, rows, here[rows], entries, sign, step) - value[:, None].double()
            flat, many = (each[rows].flatten(1) for each in (seen, worth))
            seen[rows] = flat.scatter(1, entries, (sign != 0) | flat.gather(1, entries)).view_as(here[rows])
            made = (sign != 0) & (gain >= 0)
            worth[rows] = many.scatter(
                1, entries, torch.where(made, gain, many.gather(1, entries)).to(many.dtype)
            ).view_as(here[rows])
            change = torch.zeros_like(many).scatter_add(1, entries, (sign * made).to(many.dtype))
            here[rows] += change.view_as(here[rows])
            self._within(hunt, rows, here[rows], worth[rows], step)
            fallen[rows] = hunt.offer(rows, here[rows], "all", step)
        undo(hunt, worth, self.singles, "undo")

    def _steepest(
        self, hunt: Hunt, rows: Tensor, slope: Tensor, seen: Tensor, step: int
    ) -> tuple[Int64[Tensor, "R M"], Float[Tensor, "R M"]]:
        """Entries of the largest slopes among flips not looked at, and their signs; zero for none."""
        threat = cast(Flips, hunt.threat)
        key, x = hunt.key.fold("tie", step).take(rows), hunt.x[rows]
        noise = 1e-12 * key.normal(slope.shape, 0, slope.device).to(slope.dtype)
        slope = torch.where(slope == 0, noise, slope)
        room = torch.where(slope > 0, threat.up(x), threat.down(x)) > 0
        size = torch.where(room & ~seen, slope.abs(), torch.zeros_like(slope)).flatten(1)
        top = size.topk(min(self.first * (step + 1), size.shape[1]), dim=1)
        sign = slope.flatten(1).gather(1, top.indices).sign() * (top.values > 0)
        return top.indices, sign

    def _alone(
        self, hunt: Hunt, rows: Tensor, here: Tensor, entries: Tensor, sign: Tensor, step: int
    ) -> Float[Tensor, "R M"]:
        """Margins after each flip alone; a flip that fools alone is offered."""
        values = torch.full(entries.shape, -torch.inf, dtype=torch.float64, device=rows.device)
        fools = torch.zeros_like(entries, dtype=torch.bool)
        for part in torch.split((sign != 0).nonzero(), CHUNK):
            r, m = part.T
            flat = here[r].flatten(1)
            flat.scatter_add_(1, entries[r, m][:, None], sign[r, m][:, None].to(flat.dtype))
            value, fooled = hunt.trial(rows[r], flat.view_as(here[r]), "alone", step)
            values[r, m], fools[r, m] = value.double().nan_to_num(torch.inf), fooled
        one = fools.any(1).nonzero().flatten()
        if len(one):
            m = fools[one].long().argmax(1, keepdim=True)
            flat = (
                here[one]
                .flatten(1)
                .scatter_add(1, entries[one].gather(1, m), sign[one].gather(1, m).to(here.dtype))
            )
            hunt.offer(rows[one], flat.view_as(here[one]), "single", step)
        return values

    def _within(self, hunt: Hunt, rows: Tensor, here: Tensor, worth: Tensor, step: int) -> None:
        """Where the budget is the goal, the flips that did most, as many as it allows, are asked about."""
        threat = _events(hunt)
        far = threat.distance(here, hunt.x[rows]) > threat.epsilon
        if not hunt.stop or not far.any():
            return
        rows, x, here = rows[far], hunt.x[rows[far]], here[far]
        rank = _rank(-worth[far], here != x)
        hunt.offer(rows, torch.where((rank > 0) & (rank <= threat.epsilon), here, x), "within", step)

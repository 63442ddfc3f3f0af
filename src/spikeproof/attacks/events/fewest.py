"""Searches for the fewest changes of a spike train that fool the model: SpikeFool and SDA.

Both evaluate the model through a `SearchState`, so that they serve as attacks within a budget and as
searches for distances. A search over flips ends at a train of which no single change that was tried can be
undone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, cast

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.nearest.minimum import SearchState, SlopeRecipe, per_row
from spikeproof.errors import InputError
from spikeproof.losses import Margin
from spikeproof.threats import (
    Additions,
    Flips,
    Removals,
    Shifts,
    WindowAdditions,
    WindowFlips,
    WindowRemovals,
    WindowShifts,
)
from spikeproof.threats.shifts import Measure

__all__ = ["SDA", "SpikeFool"]

CHUNK = 128
"""Batch size of the forward passes, in spike trains."""

FLIPPING = (Flips, Additions, Removals, WindowFlips, WindowAdditions, WindowRemovals)
"""Threats that add and remove events one by one."""


def undo(state: SearchState, worth: Float[Tensor, "B *F"], singles: int, name: str) -> None:
    """Undo changes of the nearest trains: first as many of the weakest changes as possible, then single ones.

    Args:
        state: the search, whose nearest trains so far this begins at.
        worth: worth of the change at each entry, for each example of the batch.
        singles: number of single changes that are tried, per example.
        name: name of these evaluations, from which their randomness follows.
    """
    rows = state.rows[state.distance[state.rows].isfinite()]
    if not len(rows):
        return
    x, start = state.x[rows], state.near[rows].clone()
    rank = _rank(worth[rows], start != x)
    low, high = torch.zeros_like(rows), rank.flatten(1).amax(1)
    turn = 0
    while True:
        going = state.left(rows) & (low < high)
        if not going.any():
            break
        middle = (low + high + 1) // 2
        tried = torch.where((rank > 0) & (rank <= per_row(middle, rank)), x, start)
        good = torch.zeros_like(going)
        good[going] = state.offer(rows[going], tried[going], name, "weakest", turn)
        low, high = torch.where(good, middle, low), torch.where(going & ~good, middle - 1, high)
        turn += 1
    tested = torch.zeros_like(start, dtype=torch.bool)
    for turn in range(singles):
        rank = _rank(worth[rows], (state.near[rows] != x) & ~tested)
        going = state.left(rows) & (rank == 1).flatten(1).any(1)
        if not going.any():
            return
        tested |= rank == 1
        tried = torch.where(rank == 1, x, state.near[rows])
        state.offer(rows[going], tried[going], name, "single", turn)


def _rank(worth: Float[Tensor, "R *F"], among: Bool[Tensor, "R *F"]) -> Int64[Tensor, "R *F"]:
    """Ranks of the entries among `among` by their worth, from 1 for the weakest; 0 for all other entries."""
    values = torch.where(among, worth, torch.inf).flatten(1)
    order = values.argsort(dim=1, stable=True)
    rank = torch.zeros_like(order).scatter_(
        1, order, torch.arange(1, order.shape[1] + 1, device=order.device).expand_as(order)
    )
    return torch.where(among, rank.view(worth.shape), 0)


@dataclass(frozen=True, kw_only=True)
class SpikeFool(SlopeRecipe):
    r"""SpikeFool: the fewest changes that cross the nearest boundary of the linearised model.

    .. math:: \min_{z \in S_k(x)} k \quad f_c(u) - f_y(u) + \nabla(f_c - f_y)(u) \cdot (z - u) \ge
        (\lambda - 1)\, |f_c(u) - f_y(u)|

    at the current train `u`, with the set :math:`S_k(x)` of trains that `k` changes of the clean train reach.
    Where the resulting train does not fool the model, the model is linearised there and the plane is moved
    further away. Where it does, the number of changes is bisected between success and failure, and the model
    is linearised at the last train that did not fool it.

    The published search linearises at fractional trains, which are no inputs of a model of events, and rounds
    at the end; here every iterate is a train of whole events.

    Args:
        steps: number of planes, at least 0.
        lam: initial distance of the plane, as a multiple of the distance of the boundary, at least 1.
        candidates: number of the most likely other classes to consider, at least 1.
        singles: number of single changes that are tried to be undone at the end, at least 0; not for shifts.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: None, since events pass through no encoder that has a backward rule.

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
        vision" (SparseFool of Modas et al. 2019 on spikes); the way in which the plane is reached is ours.
    """

    norms: ClassVar[tuple[type, ...]] = (*FLIPPING, Shifts, WindowShifts)
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

    def run(self, state: SearchState) -> None:
        rows = state.rows
        others, _ = state.classes(rows)
        others, here = others[:, : self.candidates], state.x[rows].clone()
        lead = torch.full((len(rows),), self.lam, dtype=torch.float64, device=rows.device)
        worth = torch.zeros_like(state.x)
        for step in range(self.steps):
            left = state.left(rows)
            rows, others, here, lead = rows[left], others[left], here[left], lead[left]
            if not len(rows):
                break
            dual = _Single(_events(state), state.x[rows])
            face = state.face(rows, here, others, dual, "face", step)
            goal, size = self._crossing(state, rows, here, face.w, lead * face.gap.double().abs())
            moves = (goal != here).flatten(1).any(1)
            if not moves.any():
                break
            rows, others, here, lead = rows[moves], others[moves], here[moves], lead[moves]
            goal, size, w = goal[moves], size[moves], face.w[moves]
            fooled = state.offer(rows, goal, "plane", step)
            worth[rows[fooled]] = w[fooled].abs()
            here = torch.where(per_row(fooled, goal) > 0, here, goal)
            lead = torch.where(fooled, self.lam, 1.5 * lead)
            here[fooled] = self._smaller(state, rows[fooled], w[fooled], size[fooled], step)
        if isinstance(state.threat, Flips):
            undo(state, worth, self.singles, "undo")

    def _crossing(
        self, state: SearchState, rows: Tensor, here: Tensor, w: Tensor, wanted: Float[Tensor, "R"]
    ) -> tuple[Tensor, Int64[Tensor, "R"]]:
        """The member of fewest changes, out of a ladder of sizes, across the plane; else the largest."""
        x = state.x[rows]
        best = torch.where(state.distance[rows].isfinite(), state.distance[rows] - 1, torch.inf)
        goal, size, limit = here.clone(), torch.zeros_like(rows), _limits(state, x)
        going = limit > 0
        for k in _ladder(int(limit.max())):
            sizes = limit.clamp(max=k)  # each example has a ladder of its own
            member = _members(_events(state), x, w, sizes)
            rise = (w.double() * (member - here).double()).flatten(1).sum(1)
            may = going & (state.threat.distance(member, x).double() <= best)
            grows = may & (member != x).flatten(1).any(1)
            goal = torch.where(per_row(grows, goal) > 0, member, goal)
            size = torch.where(grows, sizes, size)
            going = may & ~(rise >= wanted) & (sizes < limit)
            if not going.any():
                break
        return goal, size

    def _smaller(
        self, state: SearchState, rows: Tensor, w: Tensor, size: Int64[Tensor, "R"], step: int
    ) -> Float[Tensor, "R *F"]:
        """Bisect between sizes that fool the model and sizes that do not; the largest of the latter."""
        x, low, high = state.x[rows], torch.zeros_like(size), size
        here, turn = x.clone(), 0
        while len(rows):
            going = state.left(rows) & (high - low > 1)
            if not going.any():
                break
            middle = (low + high) // 2
            member = _members(_events(state), x, w, middle)
            fooled = torch.zeros_like(going)
            fooled[going] = state.offer(rows[going], member[going], "size", step, turn)
            here = torch.where(per_row(going & ~fooled, here) > 0, member, here)
            high, low = torch.where(fooled, middle, high), torch.where(going & ~fooled, middle, low)
            turn += 1
        return here


@dataclass(frozen=True)
class _Single:
    """The dual norm of a budget of one change: the largest rise of a linear function by one change."""

    threat: Flips | Shifts
    x: Tensor

    def __call__(self, w: Float[Tensor, "R *F"]) -> Float[Tensor, "R"]:
        member = _members(self.threat, self.x, w, torch.ones(len(w), dtype=torch.int64, device=w.device))
        return (w * (member - self.x)).flatten(1).sum(1)


def _members(
    threat: Flips | Shifts, x: Float[Tensor, "R *F"], w: Float[Tensor, "R *F"], size: Int64[Tensor, "R"]
) -> Float[Tensor, "R *F"]:
    """The best members for a linear function, each with a size of its own."""
    found = x.clone()
    for k in sorted(set(size.tolist())):
        these = size == k
        found[these] = replace(threat, epsilon=k).extreme(w[these], x[these])
    return found


def _events(state: SearchState) -> Flips | Shifts:
    """The threat of a search over events, which `check_threat` has checked."""
    return cast(Flips | Shifts, state.threat)


def _limits(state: SearchState, x: Float[Tensor, "R *F"]) -> Int64[Tensor, "R"]:
    """The largest size that is tried for each example."""
    threat = _events(state)
    if state.stop:
        return torch.full((len(x),), int(threat.epsilon), dtype=torch.int64, device=x.device)
    if isinstance(threat, Shifts):
        steps, spikes = max(x.shape[1], 1), (x > 0).flatten(1).sum(1)
        far = (steps - 1) * torch.ones_like(spikes)
        return {Measure.JITTER: far, Measure.MOVED: spikes, Measure.DELAY: spikes * far}[threat.bound]
    room: Tensor = threat.up(x) + threat.down(x)
    return room.flatten(1).sum(1).long()


def _ladder(limit: int) -> list[int]:
    """Sizes up to a limit, each larger than the one before it by half.

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
    r"""Sparse dynamic attack: flips ranked by the gradient are tried one by one, and all that help are made.

    Round `n` takes the :math:`10 n` flips with the largest gradient that are possible and were not tried
    before. It evaluates the model after each of them alone, and makes all flips after which the margin does
    not fall. Once the model is fooled, as many flips as possible are undone, those with the smallest effect
    first, and then single ones.

    The published search returns the clean train where it fails, which looks like robustness; it takes one
    example at a time and has no budget. This one returns the train of the largest margin within the budget
    and reports that it does not fool the model. Within a budget it also evaluates the train with only the
    best flips, as many as the budget allows. Once all flips were tried, it tries those that did not help
    again. An entry of an integer grid changes by one at most.

    Args:
        steps: number of rounds, at least 0; the published cap is 500.
        first: number of flips tried in the first round, at least 1; each later round tries as many more.
        singles: number of single flips that are tried to be undone at the end, at least 0.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: None, since events pass through no encoder that has a backward rule.

    Raises:
        InputError: settings out of range, or a threat other than flips, additions and removals.

    Example:
        >>> SDA()(Flips(5)).recipe.first
        10

    Source:
        Lun et al. 2025, "Towards effective and sparse adversarial attack on spiking neural networks via
        breaking invisible surrogate gradients" (PDSG-SDA), section 4.3.
    """

    norms: ClassVar[tuple[type, ...]] = FLIPPING
    steps: int = 20
    first: int = 10
    singles: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or self.first < 1 or self.singles < 0:
            raise InputError(
                "SDA needs steps >= 0, first >= 1 and singles >= 0", repr(self), "Try the defaults."
            )

    def run(self, state: SearchState) -> None:
        here, worth = state.x.clone(), torch.zeros_like(state.x)
        seen = torch.zeros_like(state.x, dtype=torch.bool)
        fallen = torch.zeros(len(state.x), dtype=torch.bool, device=state.x.device)
        for step in range(self.steps):
            rows = state.rows[~fallen[state.rows]]
            if not len(rows):
                break
            _, slope, _ = state.slope(rows, here[rows], Margin(), "slope", step)
            value, _ = state.trial(rows, here[rows], "base", step)  # margin of the attacked model itself
            entries, sign = self._steepest(state, rows, slope, seen[rows], step)
            over = (sign == 0).all(1)  # every flip was tried; those that were not made may help now
            seen[rows[over]] = here[rows[over]] != state.x[rows[over]]
            if over.any():
                entries, sign = self._steepest(state, rows, slope, seen[rows], step)
            real = (sign != 0).any(1)
            if not real.any():
                break
            fallen[rows[~real]] = True  # no flip is left to try, whatever the rest of the batch
            rows, value, entries, sign = rows[real], value[real], entries[real], sign[real]
            gain = self._alone(state, rows, here[rows], entries, sign, step) - value[:, None].double()
            flat, many = (each[rows].flatten(1) for each in (seen, worth))
            seen[rows] = flat.scatter(1, entries, (sign != 0) | flat.gather(1, entries)).view_as(here[rows])
            made = (sign != 0) & (gain >= 0)
            worth[rows] = many.scatter(
                1, entries, torch.where(made, gain, many.gather(1, entries)).to(many.dtype)
            ).view_as(here[rows])
            change = torch.zeros_like(many).scatter_add(1, entries, (sign * made).to(many.dtype))
            here[rows] += change.view_as(here[rows])
            self._within(state, rows, here[rows], worth[rows], step)
            fallen[rows] = state.offer(rows, here[rows], "all", step)
        undo(state, worth, self.singles, "undo")

    def _steepest(
        self, state: SearchState, rows: Tensor, slope: Tensor, seen: Tensor, step: int
    ) -> tuple[Int64[Tensor, "R M"], Float[Tensor, "R M"]]:
        """The entries with the largest slopes among flips not yet tried, and their signs; 0 for none."""
        threat = cast(Flips, state.threat)
        key, x = state.key.fold("tie", step).take(rows), state.x[rows]
        noise = 1e-12 * key.normal(slope.shape, 0, slope.device).to(slope.dtype)
        slope = torch.where(slope == 0, noise, slope)
        room = torch.where(slope > 0, threat.up(x), threat.down(x)) > 0
        size = torch.where(room & ~seen, slope.abs(), torch.zeros_like(slope)).flatten(1)
        top = size.topk(min(self.first * (step + 1), size.shape[1]), dim=1)
        sign = slope.flatten(1).gather(1, top.indices).sign() * (top.values > 0)
        return top.indices, sign

    def _alone(
        self, state: SearchState, rows: Tensor, here: Tensor, entries: Tensor, sign: Tensor, step: int
    ) -> Float[Tensor, "R M"]:
        """The margins after each flip alone; a single flip that fools the model is kept as a result."""
        values = torch.full(entries.shape, -torch.inf, dtype=torch.float64, device=rows.device)
        fools = torch.zeros_like(entries, dtype=torch.bool)
        for part in torch.split((sign != 0).nonzero(), CHUNK):
            r, m = part.T
            flat = here[r].flatten(1)
            flat.scatter_add_(1, entries[r, m][:, None], sign[r, m][:, None].to(flat.dtype))
            value, fooled = state.trial(rows[r], flat.view_as(here[r]), "alone", step)
            values[r, m], fools[r, m] = value.double().nan_to_num(torch.inf), fooled
        one = fools.any(1).nonzero().flatten()
        if len(one):
            m = fools[one].long().argmax(1, keepdim=True)
            flat = (
                here[one]
                .flatten(1)
                .scatter_add(1, entries[one].gather(1, m), sign[one].gather(1, m).to(here.dtype))
            )
            state.offer(rows[one], flat.view_as(here[one]), "single", step)
        return values

    def _within(self, state: SearchState, rows: Tensor, here: Tensor, worth: Tensor, step: int) -> None:
        """Within a budget, evaluate only the flips of the largest effect, as many as it allows, together."""
        threat = _events(state)
        far = threat.distance(here, state.x[rows]) > threat.epsilon
        if not state.stop or not far.any():
            return
        rows, x, here = rows[far], state.x[rows[far]], here[far]
        rank = _rank(-worth[far], here != x)
        state.offer(rows, torch.where((rank > 0) & (rank <= threat.epsilon), here, x), "within", step)

"""Search over spike trains: a gradient with respect to the spikes ranks changes, forward passes decide.

A gradient describes small changes of a spike train, and a train of whole spikes has none. So the gradient
only ranks candidates: the members of the set with the largest value of the linearised objective, and members
one change away. A forward pass of the model decides between them. The search works for every threat that
gives the best member for a linear function (`extreme`) and `neighbours`: added, removed and flipped spikes,
and shifts, on binary and integer grids.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.queries import random_search
from spikeproof.attacks.parts.objectives import answers_margin
from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.attacks.search import Best, Result, check_batch, check_mode, check_threat, evaluator, judge
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin, Objective
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats.spikes import EventThreat

__all__ = ["SpikeSearch", "SpikeSearchAttack", "SpikeWalk", "SpikeWalkSearch", "event_threat"]

SHARES = (1.0, 0.5, 0.25, 0.1)
"""Shares of the budget at which the best member for the linearised objective is tried."""
CHUNK = 128
"""Batch size of the forward passes, in spike trains."""
FURTHER = 2
"""Number of neighbours tried in a round of refinement, as a multiple of those tried in a step."""
STRAYS = 2
"""Number of random changes of the best train where no proposal is better."""


def event_threat(threat: Threat, attack: str, instead: str = "pgd") -> EventThreat:
    """The threat, once it is known to be a threat on spikes.

    Raises:
        InputError: a threat on images.
    """
    if isinstance(threat, EventThreat):
        return threat
    raise InputError(
        f"{attack} is defined for the threats flips, additions, removals and shifts",
        repr(threat),
        f"Use {instead}.",
    )


@dataclass(frozen=True)
class SpikeSearchAttack:
    """Search over spike trains: greedy steps, then refinement by single changes.

    Args:
        threat: a threat on spikes.
        steps: gradients per run, at least 1.
        restarts: number of runs, at least 1. The first starts at the clean spikes and maximises the
            objective; each other run starts at a random member and maximises the lead of one other class over
            the label.
        width: neighbours tried per step, half of them by gradient and half at random, at least 2.
        refine: rounds over the neighbours of the best train at the end of each run, at least 0.
        objective: the objective whose gradient the first run uses.

    Raises:
        InputError: a threat on images, or settings out of range.

    Source:
        Ours; the greedy choice by gradient follows the sparse dynamic attack (Lun et al. 2025) without its
        cap, the linear oracle follows Frank & Wolfe 1956.
    """

    threat: Threat
    steps: int = 20
    restarts: int = 3
    width: int = 16
    refine: int = 10
    objective: Objective = Margin()

    def __post_init__(self) -> None:
        event_threat(self.threat, "The spike search")
        if self.steps < 1 or self.restarts < 1 or self.width < 2 or self.refine < 0:
            raise InputError(
                "The spike search needs steps >= 1, restarts >= 1, width >= 2 and refine >= 0",
                f"steps={self.steps}, restarts={self.restarts}, width={self.width}, refine={self.refine}",
                "Try the defaults.",
            )

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B T *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; gradients may come from `through`, margins and verdicts never do.

        Raises:
            InputError: labels that do not fit the examples, or a model that does not take spikes.
        """
        check_batch(x, y)
        check_mode(model)
        check_threat(model, self.threat)
        event_threat(self.threat, "The spike search").check(x)
        run = _Run(self, model, through or model, x.detach(), y)
        for restart in range(self.restarts):
            now = key.fold("restart", restart)
            if restart == 1:
                run.answer(key.fold("clean"))
            rows = run.standing()
            if len(rows):
                run.pad(restart * (1 + self.steps + self.refine))
                run.climb(rows, restart, now)
                run.refine(now.fold("refine"))
        success = judge(model, run.best.x, y, key.fold("verdict"))
        losses = torch.stack(run.losses) if run.losses else x.new_zeros(0, len(x))
        zero = run.zero.to(x.dtype) / run.backward.clamp(min=1)
        return Result(run.best.x, success, losses, run.forward + 1, run.backward, zero, run.best.fell)


class _Run:
    """The search on one batch, with its counts and its trace."""

    def __init__(
        self, attack: SpikeSearchAttack, model: Model, gradient_source: Model, x: Tensor, y: Tensor
    ) -> None:
        self.attack, self.model, self.gradient_source, self.x, self.y = attack, model, gradient_source, x, y
        self.threat = event_threat(attack.threat, "The spike search")
        self.best = Best(x)
        self.forward, self.backward, self.zero = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
        self.losses: list[Tensor] = []
        self.clean = x.new_zeros(0, 0)
        self.early = not getattr(model, "stochastic", False)
        many, random = x.shape[1:].numel(), Key(("marks",)).generator(x.device)
        self.weights = torch.randint(-(2**62), 2**62, (many,), generator=random, device=x.device)
        self.visited = self.marks(x)[None]

    def standing(self) -> Tensor:
        """The rows of the examples that are still attacked."""
        left = self.best.fooled <= 0 if self.early else torch.ones_like(self.best.fooled, dtype=torch.bool)
        return left.nonzero().flatten()

    def climb(self, rows: Tensor, restart: int, key: Key) -> None:
        """Step to the best of the proposals, or jump where no proposal is better."""
        here = self.x[rows].clone()
        if restart:
            here = self.threat.start(self.x[rows], key.fold("start").take(rows))
        height = self.margins(here[None], rows, key.fold("first"))[0]
        for step in range(self.attack.steps):
            left = self.best.fooled[rows] <= 0 if self.early else torch.ones_like(rows, dtype=torch.bool)
            rows, here, height = rows[left], here[left], height[left]
            if not len(rows):
                return
            now = key.fold("step", step).take(rows)
            grad = self.slope(here, rows, restart, now)
            proposals = torch.cat([*self.leaps(grad, rows), *self.steps(here, grad, rows, now)])
            values = self.margins(proposals, rows, now)
            value, pick = values.max(0)
            found = proposals[pick, torch.arange(len(rows), device=rows.device)]
            better = value > height
            jumped = self.stray(rows, now) if step % 3 == 2 else self.jump(grad, rows, now)
            here = torch.where(better.view(-1, *[1] * (here.ndim - 1)), found, jumped)
            height = torch.where(better, value, torch.full_like(value, -torch.inf))

    def leaps(self, grad: Tensor, rows: Tensor) -> Iterator[Tensor]:
        """The best members for the linearised objective, within the budget and within parts of it."""
        whole = self.threat.epsilon
        for size in dict.fromkeys(max(round(share * whole), min(1, whole)) for share in SHARES):
            yield replace(self.threat, epsilon=size).extreme(grad, self.x[rows])[None]

    def steps(self, here: Tensor, grad: Tensor, rows: Tensor, key: Key, times: int = 1) -> Iterator[Tensor]:
        """Members one change away, half of them ranked by the gradient and half at random."""
        width = times * self.attack.width
        half = width // 2
        noise = key.fold("noise").normal(grad.shape, 0, grad.device).to(grad.dtype)
        yield self.threat.neighbours(here, self.x[rows], grad, width - half)
        yield self.threat.neighbours(here, self.x[rows], noise, half)

    def jump(self, grad: Tensor, rows: Tensor, key: Key) -> Tensor:
        """The best member for the gradient plus noise of the same root mean square."""
        noise = key.fold("jump").normal(grad.shape, 0, grad.device).to(grad.dtype)
        flat = grad.flatten(1)
        scale = flat.square().mean(1).sqrt().view(-1, *[1] * (grad.ndim - 1))
        return self.threat.extreme(grad + scale * noise, self.x[rows])

    def stray(self, rows: Tensor, key: Key) -> Tensor:
        """A few random changes of the best train so far."""
        here = self.best.x[rows]
        for turn in range(STRAYS):
            noise = key.fold("stray", turn).normal(here.shape, 0, here.device).to(here.dtype)
            here = self.threat.neighbours(here, self.x[rows], noise, 1)[0]
        return here

    def refine(self, key: Key) -> None:
        """Walk from the best train to its best neighbour, again and again, without visiting a train twice.

        The walk may step to a neighbour of smaller margin. Otherwise it would end on a plateau, and at trains
        that only two changes at once improve.
        """
        rows = self.standing()
        here = self.best.x[rows].clone()
        for turn in range(self.attack.refine):
            left = self.best.fooled[rows] <= 0 if self.early else torch.ones_like(rows, dtype=torch.bool)
            rows, here = rows[left], here[left]
            if not len(rows):
                return
            self.visit(rows, here)
            now = key.fold("turn", turn).take(rows)
            grad = self.slope(here, rows, 0, now)
            trains = torch.cat([*self.steps(here, grad, rows, now, FURTHER)])
            known = torch.stack([(self.marks(train) == self.visited[:, rows]).any(0) for train in trains])
            value, pick = torch.where(known, -torch.inf, self.margins(trains, rows, now)).max(0)
            rows, pick = rows[value > -torch.inf], pick[value > -torch.inf]
            here = trains[:, value > -torch.inf][pick, torch.arange(len(rows), device=rows.device)]

    def visit(self, rows: Tensor, here: Tensor) -> None:
        """Record the trains that walks visit; other examples repeat the clean train, which is recorded."""
        marks = self.visited[0].clone()
        marks[rows] = self.marks(here)
        self.visited = torch.cat([self.visited, marks[None]])

    def marks(self, trains: Float[Tensor, "R *F"]) -> Int64[Tensor, "R"]:
        """A hash of each train: the same number for equal trains, and almost never for different ones."""
        marks: Tensor = (trains.flatten(1).long() * self.weights).sum(1)
        return marks

    def slope(self, here: Tensor, rows: Tensor, restart: int, key: Key) -> Tensor:
        """The gradient with respect to the spikes, with a little noise that breaks ties between entries."""
        objective = self.attack.objective if restart == 0 else _Lead(self.others(rows, restart))
        found = Exact()(evaluator(self.gradient_source, objective, self.y[rows]), here, key)
        self.forward[rows] += 1
        self.backward[rows] += 1
        self.zero[rows] += (found.grad.flatten(1) == 0).all(1).long()
        noise = key.fold("tie").normal(here.shape, 0, here.device).double()
        grad = found.grad.double()  # in single precision the noise would round to new ties
        largest = grad.flatten(1).abs().amax(1)
        scale = torch.where(largest > 0, 1e-6 * largest, torch.ones_like(largest))
        return grad + scale.view(-1, *[1] * (here.ndim - 1)) * noise

    def pad(self, length: int) -> None:
        """Fill the trace with empty rows, so that later row numbers do not depend on other examples."""
        nothing = self.x.new_full((len(self.x),), torch.nan)
        self.losses += [nothing] * (length - len(self.losses))

    def answer(self, key: Key) -> None:
        """Evaluate the clean spikes, whose logits rank the other classes."""
        with torch.no_grad():
            self.clean = self.model(self.x, key).nan_to_num()
        self.forward += 1

    def others(self, rows: Tensor, restart: int) -> Tensor:
        """The target class of a run, the most likely other class first."""
        logits = self.clean[rows].scatter(1, self.y[rows, None], -torch.inf)
        rank = (restart - 1) % max(logits.shape[1] - 1, 1)
        return logits.argsort(dim=1, descending=True, stable=True)[:, rank]

    def margins(self, trains: Float[Tensor, "M R *F"], rows: Tensor, key: Key) -> Float[Tensor, "M R"]:
        """Margins by forward passes of the attacked model; the best train of each example is kept."""
        many, flat = len(trains), trains.flatten(0, 1)
        index = torch.arange(len(rows), device=rows.device).repeat(many)
        values, fooled, margin = [], [], answers_margin(self.model)
        for part in torch.split(torch.arange(len(flat), device=rows.device), CHUNK):
            at = index[part]
            with torch.no_grad():
                answers = evaluator(self.model, margin, self.y[rows[at]])(flat[part], key.take(at))
            values.append(answers[0])
            fooled.append(answers[1])
        value, missed = torch.cat(values).view(many, -1), torch.cat(fooled).view(many, -1)
        for m in range(many):
            self.best.offer(rows, trains[m], missed[m], value[m])
        trace = self.x.new_full((len(self.x),), torch.nan)
        trace[rows] = self.best.value[rows]
        self.losses.append(trace)
        self.best.fall(rows, missed.amax(0), len(self.losses) - 1)
        self.forward[rows] += many
        return value.nan_to_num(torch.inf)


@dataclass(frozen=True)
class _Lead(Objective):
    """The logit of one class minus the logit of the label."""

    other: Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return Margin().towards(logits, y, self.other)


@dataclass(frozen=True, kw_only=True)
class SpikeSearch(GradientRecipe):
    """Spike search: changes ranked by a gradient with respect to the spikes, tried by forward passes.

    Args:
        steps: gradients per run, at least 1.
        restarts: number of runs, at least 1.
        width: neighbours tried per step, at least 2.
        refine: rounds of single changes at the end of each run, at least 0.
        objective: the objective whose gradient the first run uses.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: None, since events pass through no encoder that has a backward rule.

    Example:
        >>> from spikeproof.threats import Flips
        >>> SpikeSearch(steps=5)(Flips(3)).width
        16

    Source:
        Ours.
    """

    steps: int = 20
    restarts: int = 3
    width: int = 16
    refine: int = 10
    objective: Objective = Margin()

    def __call__(self, threat: Threat) -> SpikeSearchAttack:
        return SpikeSearchAttack(
            threat, self.steps, self.restarts, self.width, self.refine, objective=self.objective
        )


@dataclass(frozen=True)
class SpikeWalk:
    """A random walk over the members of a threat on spikes, whose margin never falls.

    Args:
        threat: a threat on spikes.
        queries: forward passes per example, at least 1.

    Raises:
        InputError: a threat on images, or no queries.

    Source:
        Ours; it checks attacks on spikes that use gradients, as the Square attack does for images.
    """

    threat: Threat
    queries: int = 500

    def __post_init__(self) -> None:
        event_threat(self.threat, "The spike walk", "square")
        if self.queries < 1:
            raise InputError(
                "The spike walk needs at least one query", f"queries={self.queries}", "Try queries=500."
            )

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B T *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; `through` is ignored, since the attack uses no gradient."""
        check_batch(x, y)
        check_threat(model, self.threat)
        threat, best = event_threat(self.threat, "The spike walk"), Best(x.detach())

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            if query == 0:
                return threat.start(x[rows], now.fold("start"))
            noise = now.fold("noise").normal(x[rows].shape, 0, x.device).to(x.dtype)
            return threat.neighbours(best.x[rows], x[rows], noise, 1)[0]

        return random_search(
            model, x.detach(), y, key, best, self.queries, propose, objective=answers_margin(model)
        )


@dataclass(frozen=True, kw_only=True)
class SpikeWalkSearch(Recipe):
    """Spike walk: random changes of spikes, kept unless the margin falls; without gradients.

    Args:
        queries: forward passes per example, at least 1.

    Source:
        Ours.
    """

    gradient_free: ClassVar[bool] = True
    queries: int = 500

    def __call__(self, threat: Threat) -> SpikeWalk:
        return SpikeWalk(threat, self.queries)

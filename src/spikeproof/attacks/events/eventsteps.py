"""Steps between trains of whole events, and the attacks that use them.

A gradient with respect to spikes moves fractions of events; these steps turn it into changes of whole events.
One step draws changes with probabilities proportional to the gradient. The other keeps, for every spike, a
distribution over the times that it may move to, and projects the sum of these distributions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.events.spikesearch import event_threat
from spikeproof.attacks.parts.steps import Memory, Position, Step, per_example
from spikeproof.attacks.recipe import GradientRecipe
from spikeproof.attacks.search import GradientAttack
from spikeproof.errors import InputError
from spikeproof.protocols import Extreme, Threat
from spikeproof.threats import Shifts
from spikeproof.threats.shifts import Measure

__all__ = ["MaskedFlips", "Retiming", "SoftShifts", "SpikeCompatible"]

CROWD = 20.0
"""Weight of the penalty on more than one event in an entry."""
MOST = 10.0
"""The largest logit."""


@dataclass(frozen=True)
class MaskedFlips(Step):
    r"""Draw entries with probabilities proportional to the gradient, and change the best of them.

    .. math:: m_i \sim \mathrm{Bernoulli}(|g_i| / \max |g|),\quad
        x' = \arg\max_{z \in S} z \cdot (g \odot (m \lor \Delta))

    with the entries :math:`\Delta` that have changed already, which may stay changed as long as the gradient
    at the iterate is in their favour. Where the gradient is zero everywhere, random entries are drawn with
    probability `flip`.

    Args:
        flip: probability of a change where the gradient is zero everywhere, in (0, 1].

    Raises:
        InputError: a probability out of range.

    Source:
        Liang et al. 2020, section III (gradient-to-spike converter and restricted spike flipper), within a
        budget.
    """

    whole: ClassVar[bool] = True
    flip: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.flip <= 1:
            raise InputError("A probability is above 0 and at most 1", f"flip={self.flip}", "Try 0.05.")

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        threat = cast(Extreme, position.threat)
        draw = position.key.fold("mask").uniform(grad.shape, 0, grad.device).to(grad.dtype)
        noise = position.key.fold("flip").normal(grad.shape, 0, grad.device).to(grad.dtype)
        top = per_example(grad.flatten(1).abs().amax(1), grad)
        share = torch.where(top > 0, grad.abs() / top.clamp(min=torch.finfo(grad.dtype).tiny), self.flip)
        slope = torch.where(top > 0, grad, noise)
        kept = (draw < share) | ((position.here != position.x) & (top > 0))
        return threat.extreme(torch.where(kept, slope, 0 * slope), position.x), memory


@dataclass(frozen=True)
class SoftShifts(Step):
    r"""A distribution over times for every event; the iterate is the member nearest to the sum of all.

    .. math:: \pi_s = \mathrm{softmax}(\phi_s / \kappa),\quad \tilde x_t = \sum_s x_s\, \pi_s(t),\quad
        x' = \Pi(\tilde x),\quad \phi \leftarrow \phi + \frac{d}{\max |d|},\quad d = \nabla_\phi
        \bigl(g \cdot \tilde x - 20\, \overline{(o - 1)_+^2}\bigr)

    with the gradient `g` at the projected train, passed straight through the projection and scaled to a
    largest value of one, and the expected occupancy `o` of the entries. The logits :math:`\phi` begin at 1 at
    the time of the event and one step before and after it, and at 0 elsewhere. Shifts beyond a jitter have
    probability zero. All members have the same L2 norm, so the nearest member has the largest inner product
    with the sum.

    Args:
        temperature: temperature of the distributions, positive.

    Raises:
        InputError: a temperature out of range.

    Source:
        Spike-Retiming Attacks 2026, and their published code.
    """

    whole: ClassVar[bool] = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise InputError(
                "A temperature is positive", f"temperature={self.temperature}", "Try temperature=1."
            )

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        threat = cast(Shifts, position.threat)
        events = _Events(threat, position.x)
        phi = memory.get("phi")
        phi = events.logits_at(position.here) if phi is None else phi[:, : events.origin.shape[1]]
        if not phi.numel():
            return position.here, memory
        top = per_example(grad.flatten(1).abs().amax(1), grad)
        slope = grad / top.clamp(min=torch.finfo(grad.dtype).tiny)
        with torch.enable_grad():
            leaf = phi.detach().requires_grad_()
            _, value = events.worth(leaf / self.temperature, slope)
            (rise,) = torch.autograd.grad(value.sum(), leaf)
        largest = per_example(rise.flatten(1).abs().amax(1), rise)
        phi = (phi + rise / largest.clamp(min=torch.finfo(rise.dtype).tiny)).clamp(-MOST, MOST)
        soft, _ = events.worth(phi / self.temperature, slope)
        return threat.extreme(soft.detach(), position.x), {**memory, "phi": phi}


class _Events:
    """The events of each example that may move, and the entries that they may move to."""

    def __init__(self, threat: Shifts, x: Float[Tensor, "B T *F"]) -> None:
        self.x, self.steps = x, x.shape[1]
        free = (x > 0) & threat.open(x)
        flat = free.flatten(1)
        count = flat.sum(1)
        many = int(count.max()) if flat.numel() else 0
        self.real = torch.arange(many, device=x.device) < count[:, None]
        order = torch.zeros(self.real.shape, dtype=torch.int64, device=x.device)
        order[self.real] = flat.nonzero()[:, 1]
        self.origin = order
        self.width = max(flat.shape[1] // max(self.steps, 1), 1)
        self.value = x.flatten(1).gather(1, order)
        self.rest = (x * ~free).flatten(1)
        time = torch.arange(self.steps, device=x.device)
        self.line = order % self.width
        shift = (time - (order // self.width)[..., None]).abs()
        reach = threat.open(x).reshape(self.steps, -1)  # which times each line may use
        self.may = self.real[..., None] & reach.T[self.line]
        if threat.bound is Measure.JITTER:
            self.may = self.may & (shift <= threat.epsilon)
        self.entry: Int64[Tensor, "B S T"] = time * self.width + self.line[..., None]

    def logits_at(self, here: Float[Tensor, "B T *F"]) -> Float[Tensor, "B S T"]:
        """Logits that put the events of each line at the times that they have now, in their order."""
        lines, before = (x.reshape(*x.shape[:2], -1).transpose(1, 2) for x in (here, self.x))
        at = before.sort(dim=2, descending=True, stable=True).indices
        to = lines.sort(dim=2, descending=True, stable=True).indices
        now = torch.zeros_like(at).scatter_(2, at, to).transpose(1, 2).flatten(1).gather(1, self.origin)
        time = torch.arange(self.steps, device=here.device)
        return ((time - now[..., None]).abs() <= 1).to(here.dtype)

    def worth(
        self, logits: Float[Tensor, "B S T"], slope: Float[Tensor, "B T *F"]
    ) -> tuple[Float[Tensor, "B T *F"], Float[Tensor, "B"]]:
        """The sum of all distributions, and the objective for it, penalty included."""
        shares = torch.where(self.may, logits, -torch.inf).softmax(2)
        shares = torch.where(self.may, shares, torch.zeros_like(shares))
        entry = self.entry.flatten(1)
        soft = self.rest.scatter_add(1, entry, (self.value[..., None] * shares).flatten(1))
        crowd = (self.rest > 0).to(shares.dtype).scatter_add(1, entry, shares.flatten(1))
        value = (slope.flatten(1) * soft).sum(1) - CROWD * (crowd - 1).clamp(min=0).square().mean(1)
        return soft.view(self.x.shape), value


@dataclass(frozen=True, kw_only=True)
class SpikeCompatible(GradientRecipe):
    """Spike-compatible gradient: changes drawn in proportion to the gradient of the spikes, within a budget.

    The published attack has no budget on spikes and counts a single successful draw of the encoder as
    success. Here every iterate is a member of the threat, the best iterate is returned, and verdicts are
    answers of the attacked model. The threshold of the last hidden layer may be raised while gradients are
    computed, and only then.

    Args:
        steps: number of steps, at least 1.
        restarts: number of runs, each from a random member, at least 1.
        flip: probability of a change where the gradient is zero everywhere, in (0, 1].
        raised: factor on the threshold of the last hidden layer while gradients are computed, at least 1; the
            paper raises it from 0.3 to 1.0, a factor of 10/3.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: None, since events pass through no encoder that has a backward rule.

    Raises:
        InputError: a threat on images, or settings out of range.

    Source:
        Liang et al. 2020, "Exploring adversarial attack in spiking neural networks with spike-compatible
        gradient".
    """

    steps: int = 25
    restarts: int = 1
    flip: float = 0.05
    raised: float = 1.0

    def __post_init__(self) -> None:
        if not self.raised >= 1:
            raise InputError("The factor on a threshold is at least 1", f"raised={self.raised}", "Try 10/3.")

    def __call__(self, threat: Threat) -> GradientAttack:
        event_threat(threat, "The spike-compatible gradient")
        return GradientAttack(
            threat,
            self.steps,
            1.0,
            objective=self.objective,
            restarts=self.restarts,
            step=MaskedFlips(self.flip),
        )


@dataclass(frozen=True, kw_only=True)
class Retiming(GradientRecipe):
    """Spike retiming: every spike has a distribution over times, and their projected sum is the iterate.

    The published projection is greedy over the whole batch at once, so that it needs batches of one, and it
    stops at the first shift that exceeds the budget; under a jitter it is relaxed within the loop and strict
    only at the end. Here the projection is that of the threat, for each example by itself, within the loop
    and at the end, and the best train is returned instead of the last one. The published penalty on
    distributions that exceed the budget is left out, because under small budgets it moves every spike back to
    its original time. Published steps are signs of the gradient, which discard how much each spike matters.

    Args:
        steps: number of steps, at least 1; published are 20 under a jitter and 40 otherwise.
        restarts: number of runs, each from a random member, at least 1.
        temperature: temperature of the distributions, positive.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: None, since events pass through no encoder that has a backward rule.

    Raises:
        InputError: a threat other than shifts, or settings out of range.

    Example:
        >>> Retiming(restarts=3)(Shifts(1, measure="jitter")).restarts
        3

    Source:
        Spike-Retiming Attacks 2026, and their published code.
    """

    steps: int = 40
    restarts: int = 1
    temperature: float = 1.0

    def __call__(self, threat: Threat) -> GradientAttack:
        if not isinstance(threat, Shifts):
            raise InputError(
                "Spike retiming is defined for the threat shifts",
                repr(threat),
                "Use spike-search for flips, additions and removals, pgd for pixels.",
            )
        return GradientAttack(
            threat,
            self.steps,
            1.0,
            objective=self.objective,
            restarts=self.restarts,
            step=SoftShifts(self.temperature),
        )

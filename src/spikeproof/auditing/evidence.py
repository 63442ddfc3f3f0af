"""What an audit looks at: plain numbers, recorded while a model was attacked or measured by probes.

A field that was not measured is None. No check is raised by what is missing, but a number for which a check
could not be made is not called supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from spikeproof.statistics import Interval

__all__ = ["VOTES", "AttackEvidence", "CurvePoint", "Evidence", "ProbeEvidence"]

VOTES = 16
"""Gradients in each of the two estimates that a probe compares."""


@dataclass(frozen=True, kw_only=True)
class AttackEvidence:
    """One attack at one budget.

    Args:
        name: as it is shown.
        accuracy: robust accuracy under it alone, in [0, 1].
        gradient_free: whether it looks at answers only.
        steps: gradient steps, 0 for a gradient-free attack.
        source: where gradients come from: `model`, `substitute` or `transfer`.
        zero_gradients: share of looks whose gradient was zero everywhere, in [0, 1].
        losses: mean objective per step, over the attacked examples.
        violations: share of returned images outside budget or box, in [0, 1].
        unmoved: share of the examples still standing that the attack returned unchanged, in [0, 1].
        silent_success: share of examples that were fooled on the way but not by the image returned.
        eight_bit_accuracy: accuracy after rounding the returned images to 8 bits.
        draws: draws per gradient, for a stochastic model.
        target: what was attacked, where that is not the model that was measured.
        every_exit: whether its objective sees all exits, not those alone that are taken.
        objectives: names of what it maximises.
        sources: names of the gradients that it follows.
        queries: looks at answers per example, of an attack without gradients.
        broke: share of the examples that it was the first to break, as a member of a suite; None outside.
    """

    name: str
    accuracy: float
    gradient_free: bool = False
    steps: int = 0
    source: str = "model"
    zero_gradients: float | None = None
    losses: Sequence[float] | None = None
    violations: float | None = None
    unmoved: float | None = None
    silent_success: float | None = None
    eight_bit_accuracy: float | None = None
    draws: int | None = None
    target: str | None = None
    every_exit: bool = False
    objectives: Sequence[str] = ()
    sources: Sequence[str] = ()
    queries: float = 0.0
    broke: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Worst-case accuracy at one budget of the same threat."""

    epsilon: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class ProbeEvidence:
    """What a few extra looks at the model showed; shares and cosines, None where not applicable.

    Args:
        failed: what an answer looked like that is no row of finite logits, or None.
        again: what a model raised that had answered once, or None.
        training: whether the model was in training mode.
        state_leak: share of examples answered otherwise after other images were shown in between, while
            gradients were recorded, or at the end of all looks.
        order_leak: share of examples answered otherwise in the opposite order.
        copy_leak: share of examples, or of images that are almost others, answered otherwise than by a copy
            that was made before the first look; None where no copy can be made.
        companions: share of examples answered otherwise alone than in a batch.
        randomness: share of examples answered otherwise under one key twice, or, by a model that says it
            draws nothing, under two keys.
        differentiable: whether a gradient reaches the image at all.
        zero_gradients: share of examples with a gradient of zero everywhere.
        zero_by_layer: per spiking layer, share of neurons and steps without gradient.
        masked_inputs: share of black pixels that matter to the answer and have a gradient of exactly zero.
        probabilities: whether the answers are probabilities instead of logits.
        ties: share of examples without one best class.
        silent_decided: share of examples that are decided although the output layer did nothing.
        unstable: mean relative change of the loss under noise, capped at 1.
        gradient_agreement: mean cosine of two independent estimates of the gradient, `VOTES` draws each.
        slope_follows: mean cosine of what the loss does along random directions and what the gradient says,
            at the clean image, half-way and at the end of an attack; as `slopes.Slopes` has it.
        slope_steady: the same of what the loss does and what it does along two halves of the direction.
        slope_factor: median factor by which the loss moves more than the gradient says.
        flat: share of examples around which no direction changes the loss.
        hidden_inputs: share of the loss's change that is made by pixels without gradient.
        values: number of different margins in all looks at the loss, counted up to `slopes.FEW`.
    """

    failed: str | None = None
    again: str | None = None
    training: bool = False
    state_leak: float | None = None
    order_leak: float | None = None
    copy_leak: float | None = None
    companions: float | None = None
    randomness: float | None = None
    differentiable: bool | None = None
    zero_gradients: float | None = None
    zero_by_layer: Sequence[float] = ()
    masked_inputs: float | None = None
    probabilities: bool | None = None
    ties: float | None = None
    silent_decided: float | None = None
    unstable: float | None = None
    gradient_agreement: float | None = None
    slope_follows: Sequence[float] = ()
    slope_steady: Sequence[float] = ()
    slope_factor: float | None = None
    flat: float | None = None
    hidden_inputs: float | None = None
    values: int | None = None

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on what was asked before."""
        return bool(self.again or self.state_leak or self.order_leak or self.copy_leak)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known about one headline number: a model's robust accuracy under one threat and budget.

    Args:
        accuracy: the number, in [0, 1].
        interval: its confidence interval.
        n: number of examples.
        clean_accuracy: accuracy without an attack.
        classes: number of classes.
        epsilon: the budget.
        unbounded: whether the threat allows every image at this budget.
        stochastic: whether the model draws random numbers.
        attacks: what was run at this budget.
        curve: worst cases of all budgets of this threat, this one included.
        probe: of the model, or None.
        chosen_on: the part of the data on which settings were chosen: `nothing`, `validation` or `test`.
        contradicted: share of examples that an attack broke although a certificate holds for them.
        margin_claimed: least difference that is claimed to matter, in accuracy; None for no such claim.
        dynamic_exit: whether the model decides sooner or later, as its outputs have it.
        nearer: share of examples left standing for which a search knows an adversarial image within epsilon.
        nested: whether every attack began with what was found within a smaller budget.
        suites: levels of the suites that were run at this budget.
        other_gradients: whether the model has gradients besides its own, as spiking networks have.
        tie_share: share of attacked images without one best class, in [0, 1].
        argmax_accuracy: the number if the first of the best classes were the answer.
    """

    accuracy: float
    interval: Interval
    n: int
    clean_accuracy: float
    classes: int
    epsilon: float
    unbounded: bool = False
    stochastic: bool = False
    attacks: Sequence[AttackEvidence] = ()
    curve: Sequence[CurvePoint] = ()
    probe: ProbeEvidence | None = field(default=None)
    chosen_on: str = "nothing"
    contradicted: float = 0.0
    margin_claimed: float | None = None
    dynamic_exit: bool = False
    nearer: float = 0.0
    nested: bool = False
    suites: Sequence[str] = ()
    other_gradients: bool = False
    tie_share: float | None = None
    argmax_accuracy: float | None = None

    def white_box(self) -> list[AttackEvidence]:
        """Attacks that follow gradients of the model or of a substitute with the same spikes."""
        return [a for a in self.attacks if not a.gradient_free and a.source != "transfer"]

"""The evidence that an audit reads: plain numbers, recorded by attacks and by diagnostics of the model.

A field that was not measured is None. No check is raised by a missing field, but a number for which a check
could not be made is not called supported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from spikeproof.statistics import Interval

__all__ = [
    "VOTES",
    "AttackEvidence",
    "ChosenOn",
    "CurvePoint",
    "Diagnostics",
    "Evidence",
    "GradientSource",
]

VOTES = 16
"""Number of gradients in each of the two estimates that the diagnostics compare."""


class GradientSource(StrEnum):
    """What an attack takes its gradients from."""

    MODEL = "model"
    """The model itself."""

    SUBSTITUTE = "substitute"
    """A twin with the same weights and the same spikes, and other gradients."""

    TRANSFER = "transfer"
    """A model that answers otherwise; the images are only judged on the model that is measured."""


class ChosenOn(StrEnum):
    """The part of the data on which settings of a model or an attack were chosen."""

    NOTHING = "nothing"
    VALIDATION = "validation"
    TEST = "test"


@dataclass(frozen=True, kw_only=True)
class AttackEvidence:
    """One attack at one budget.

    Args:
        name: name of the attack, as it is shown.
        accuracy: robust accuracy under this attack alone, in [0, 1].
        gradient_free: whether the attack uses answers of the model only, and no gradient.
        steps: number of gradient steps; 0 for a gradient-free attack.
        gradient_source: what the attack takes its gradients from.
        zero_gradients: share of backward passes whose gradient was zero everywhere, in [0, 1].
        losses: mean objective after each step, over the attacked examples.
        violations: share of returned images outside the budget or the box, in [0, 1].
        unmoved: share of the attacked examples that the attack returned unchanged, in [0, 1].
        silent_success: share of examples that the model misclassified at some step of the attack, but not on
            the image that the attack returned.
        eight_bit_accuracy: accuracy after the returned images are rounded to 8 bits.
        draws: number of draws per gradient, for a stochastic model.
        target: the model that was attacked, in words, if it is not the model that was measured.
        every_exit: whether the objective includes all exits, not only the exit that is taken.
        repeats: whether it is the search of an earlier member of a suite once more, perhaps for longer.
        objectives: names of the objectives that the attack maximises.
        gradient_names: names of the gradients that the attack follows.
        queries: forward passes per example, of an attack without gradients.
        passes: forward passes per example that it attacked; 0 where they are not known.
        broke: share of the examples that the attack was the first to break, as a member of a suite; None
            outside a suite.
    """

    name: str
    accuracy: float
    gradient_free: bool = False
    steps: int = 0
    gradient_source: GradientSource = GradientSource.MODEL
    zero_gradients: float | None = None
    losses: Sequence[float] | None = None
    violations: float | None = None
    unmoved: float | None = None
    silent_success: float | None = None
    eight_bit_accuracy: float | None = None
    draws: int | None = None
    target: str | None = None
    every_exit: bool = False
    repeats: bool = False
    objectives: Sequence[str] = ()
    gradient_names: Sequence[str] = ()
    queries: float = 0.0
    passes: float = 0.0
    broke: float | None = None


@dataclass(frozen=True)
class CurvePoint:
    """Worst-case accuracy at one budget of the same threat."""

    epsilon: float
    accuracy: float


@dataclass(frozen=True, kw_only=True)
class Diagnostics:
    """What some hundred forward passes show about the model itself; None where a value is not applicable.

    Args:
        failed: what is wrong with an answer that is not one row of finite logits per image, or None.
        again: the error that the model raised on a later call although it had answered an earlier one, or
            None.
        training: whether the model was in training mode.
        state_leak: share of examples whose answer changed after forward passes on other images, while
            gradients were recorded, or at the end of all diagnostics.
        order_leak: share of examples whose answer changed when the batch came in the opposite order.
        copy_leak: share of examples, or of images close to them, on which the answer differed from that of a
            copy made before the first forward pass; None where the model cannot be copied.
        companions: share of examples whose answer depended on the other examples of the batch.
        randomness: share of examples whose answer differed between two forward passes under one key or, for a
            model that declares itself deterministic, under two keys.
        differentiable: whether a gradient reaches the image at all.
        zero_gradients: share of examples with a gradient that is zero everywhere.
        zero_by_layer: per spiking layer, share of neurons and time steps without a gradient.
        masked_inputs: share of the black pixels that matter to the answer and have a gradient of exactly
            zero.
        probabilities: whether the answers are probabilities instead of logits.
        ties: share of examples for which two or more classes share the largest logit.
        silent_decided: share of examples that get a class although the output layer is silent.
        unstable: mean relative change of the loss under noise, capped at 1.
        gradient_agreement: mean cosine of two independent estimates of the gradient, each from `VOTES` draws.
        slope_follows: mean cosine between the change of the loss along random directions and the change that
            the gradient predicts, at the clean image, half-way through an attack and at its end; as in
            `slopes.Slopes`.
        slope_steady: mean cosine between the change of the loss along these directions and the sum of its
            changes along two halves of each direction.
        slope_factor: median factor by which the loss changes more than the gradient predicts.
        flat: share of examples around which no direction changes the loss.
        hidden_inputs: share of the change of the loss that comes from pixels with next to no gradient.
        values: number of different margins in all forward passes for slopes, counted up to `slopes.FEW`.
        levels_found: whether the answers of a model of unknown code show levels that all pixels have in
            common; None where the code is known, or the model is stochastic.
        shared_steps: where no such levels were found, the share of the jumps of the answers along single
            pixels that lie at the same pixel value on another image; as in `pixelsteps.shared_steps`.
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
    levels_found: bool | None = None
    shared_steps: float | None = None

    @property
    def remembers(self) -> bool:
        """Whether an answer depends on earlier forward passes."""
        return bool(self.again or self.state_leak or self.order_leak or self.copy_leak)


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """All that is known about one headline number: robust accuracy under one threat at one budget.

    Args:
        accuracy: the number, in [0, 1].
        interval: its confidence interval.
        n: number of examples.
        clean_accuracy: accuracy without an attack.
        classes: number of classes.
        epsilon: the budget.
        unbounded: whether the threat allows every image at this budget.
        stochastic: whether the model draws random numbers.
        attacks: the attacks that ran at this budget.
        curve: worst cases at all budgets of this threat, this one included.
        diagnostics: of the model, or None where they were not measured.
        chosen_on: the part of the data on which settings were chosen.
        contradicted: share of examples that an attack broke although a certificate holds for them.
        margin_claimed: smallest difference in accuracy that is claimed to matter; None for no such claim.
        dynamic_exit: whether the time of the model's decision depends on its outputs.
        nearer: share of examples that survived all attacks although a search for the nearest adversarial
            image found one within epsilon.
        nested: whether every attack began with the images found within a smaller budget.
        suites: levels of the suites that ran at this budget.
        other_gradients: whether the model has gradients besides its own, as spiking networks have.
        tie_share: share of attacked images for which two or more classes share the largest logit, in [0, 1].
        argmax_accuracy: the number if the first of the best classes were the answer.
        missing_attacks: planned attacks, smaller budgets and searches for the nearest image without a result,
            each in words and with the reason.
        missing_safeguards: planned diagnostics and certificates without a result, in the same form.
        different: number of independent examples that these are worth, where some are nearly the same; None
            where it is not known.
        commonest: share of the examples that have the commonest label, in [0, 1]; None where it is not known.
        by_call: whether the model is one of ours of which nothing but its call is measured.
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
    diagnostics: Diagnostics | None = field(default=None)
    chosen_on: ChosenOn = ChosenOn.NOTHING
    contradicted: float = 0.0
    margin_claimed: float | None = None
    dynamic_exit: bool = False
    nearer: float = 0.0
    nested: bool = False
    suites: Sequence[str] = ()
    other_gradients: bool = False
    tie_share: float | None = None
    argmax_accuracy: float | None = None
    missing_attacks: Sequence[str] = ()
    missing_safeguards: Sequence[str] = ()
    different: int | None = None
    commonest: float | None = None
    by_call: bool = False

    def white_box(self) -> list[AttackEvidence]:
        """The attacks that follow gradients of the model, or of a twin with the same spikes."""
        return [
            a for a in self.attacks if not a.gradient_free and a.gradient_source != GradientSource.TRANSFER
        ]

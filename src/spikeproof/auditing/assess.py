"""Evidence from the metrics of attacks, and robust accuracies with a verdict from a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.gradient.universal import Universal
from spikeproof.attacks.made_of.composite import (
    RateTwin,
    gradient_sources_of,
    members_of,
    objectives_of,
    queries_of,
    sees_every_exit,
    steps_of,
)
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.auditing.checks import Verdict, audit
from spikeproof.auditing.diagnostics import diagnose
from spikeproof.auditing.evidence import AttackEvidence, CurvePoint, Diagnostics, Evidence, GradientSource
from spikeproof.datasets.intake.copies import effective, groups_of
from spikeproof.decoders import dynamic_exit
from spikeproof.evaluation.asking.callables import by_call
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import Attacked, Clean, evaluate_attack, evaluate_clean
from spikeproof.interop.peers import Peer
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import Substitutable
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.statistics import wilson
from spikeproof.threats import Linf

__all__ = [
    "DIAGNOSED",
    "Assessed",
    "assess",
    "attack_evidence",
    "disguise",
    "exits",
    "other_gradients",
    "suite_evidence",
]

DIAGNOSED = 48
"""Number of examples on which the diagnostics of a model are measured."""


class Assessed(NamedTuple):
    """Robust accuracy at one budget, with its evidence and its verdict."""

    threat: Threat
    accuracy: float
    evidence: Evidence
    verdict: Verdict


def attack_evidence(
    name: str, recipe: Recipe, metrics: Mapping[str, Any], model: object = None, through: object = None
) -> AttackEvidence:
    """The evidence that the metrics of an attack give to the audit.

    Args:
        name: name of the attack, as it is shown.
        recipe: the attack.
        metrics: the result of `Attacked.metrics()`, fresh or stored.
        model: the model that was measured; needed if `through` is given.
        through: the gradient source of the attack, if it is not the one that the recipe names.
    """
    own = isinstance(recipe, Peer) or all(
        isinstance(each, GradientRecipe) and each.surrogate is None and each.backward is None
        for each in members_of([recipe])
    )
    elsewhere = isinstance(recipe, Transfer | StoredImages | Universal)
    other = elsewhere or isinstance(recipe, RateTwin)  # a rate twin answers otherwise than the model
    attacked = metrics.get("attacked") or 0
    return AttackEvidence(
        name=name,
        accuracy=metrics["robust_accuracy"],
        gradient_free=recipe.gradient_free,
        steps=steps_of(recipe),
        gradient_source=_gradient_source(own or recipe.gradient_free, other),
        zero_gradients=_number(metrics.get("zero_gradient_share")),
        losses=[loss for loss in metrics.get("losses") or () if loss is not None and loss == loss],
        violations=metrics["budget_violations"] / metrics["n"],
        unmoved=None if not attacked else 1 - (_number(metrics.get("moved_share")) or 0.0),
        silent_success=_number(metrics.get("silent_success_share")),
        eight_bit_accuracy=_number(metrics.get("eight_bit_accuracy")),
        draws=getattr(recipe, "draws", 1),
        every_exit=sees_every_exit(recipe),
        target="another model" if elsewhere else disguise(model, through),
        objectives=objectives_of(recipe),
        gradient_names=() if other else gradient_sources_of(recipe),
        queries=queries_of(recipe, metrics.get("forward_queries") or 0, attacked),
    )


def _gradient_source(own: bool, elsewhere: bool) -> GradientSource:
    """What an attack takes its gradients from; for a gradient-free attack, the model itself.

    Args:
        own: whether the gradients are those of the model itself.
        elsewhere: whether they are gradients of a model that answers otherwise.
    """
    if own:
        return GradientSource.MODEL
    return GradientSource.TRANSFER if elsewhere else GradientSource.SUBSTITUTE


def disguise(model: object, through: object) -> str | None:
    """How a gradient source of the same weights differs from the measured model; None if it does not.

    A gradient source with another gradient rule does not differ, because its spikes are the same. One with
    another encoder, number of time steps, decoder or input scaling does, and images made on it are only
    transferred. A model with other weights is another model, and attacks on it are transfer attacks, so the
    result is None as well.
    """
    if not (isinstance(model, Classifier) and isinstance(through, Classifier)):
        return None
    ours, theirs = model.state_dict(), through.state_dict()
    if ours.keys() != theirs.keys() or not all(_equal(ours[name], theirs[name]) for name in ours):
        return None
    parts = [
        (part, repr(_forward(getattr(through.spec, part))))
        for part in ("encoder", "decoder", "neuron", "normalise")
        if _forward(getattr(model.spec, part)) != _forward(getattr(through.spec, part))
    ]
    return "the model with " + " and ".join(f"{part} {what}" for part, what in parts) if parts else None


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.device), b)


def _forward(part: object) -> object:
    """A part of a model without the options that change its gradients only."""
    if isinstance(part, tuple | list):
        return tuple(map(_forward, part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    options = {f.name: _forward(getattr(part, f.name)) for f in fields(part) if f.name not in _BACKWARD}
    return type(part).__name__, options


_BACKWARD = ("backward", "detach_reset")


def suite_evidence(metrics: Mapping[str, Any]) -> list[AttackEvidence]:
    """The evidence that the members of a suite give to the audit.

    The accuracy of a member is the accuracy in the worst case over this member and the members before it.

    Args:
        metrics: the result of `Suited.metrics()`, fresh or stored.
    """
    members = metrics["members"]
    found = [
        _member_evidence(member, metrics["n"], zeros=member.get("own_gradient", True)) for member in members
    ]
    rounded = _number(metrics.get("eight_bit_accuracy"))
    if found and rounded is not None:  # measured on the worst case, whichever member found each image
        found[-1] = replace(found[-1], eight_bit_accuracy=rounded)
    return found


def _member_evidence(member: Mapping[str, Any], n: int, zeros: bool) -> AttackEvidence:
    seen, on = member.get("evidence", {}), member["attacked"]
    free, own = member["gradient_free"], member.get("own_gradient", True)
    return AttackEvidence(
        name=member["name"],
        accuracy=member["left"],
        gradient_free=free,
        steps=member["steps"],
        gradient_source=_gradient_source(own or free, elsewhere=False),
        draws=member["draws"],
        # gradients of a narrow surrogate in a sweep may be zero where gradients of a wider one are not
        zero_gradients=_number(seen.get("zero_gradient_share")) if zeros else None,
        losses=[loss for loss in seen.get("losses") or () if loss is not None and loss == loss],
        violations=seen.get("budget_violations", 0) / n,
        unmoved=1 - (_number(seen.get("moved_share")) or 0.0) if seen.get("attacked") else None,
        silent_success=_share_of_all(seen.get("silent_success_share"), on, n),
        every_exit=member.get("every_exit", False),
        repeats=member.get("repeats", False),
        objectives=tuple(member.get("objectives", ())),
        gradient_names=tuple(member.get("sources", ())),
        queries=member.get("queries", 0.0),
        passes=member.get("forward_queries", 0) / max(on, 1),
        broke=member["broke"] / n,
    )


def _share_of_all(share: float | None, on: int, n: int) -> float | None:
    """A share of the examples that a member attacked, as a share of all examples."""
    number = _number(share)
    return None if number is None else number * on / n


def _number(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)


def assess(
    model: Model,
    recipes: Sequence[Recipe],
    threats: Iterable[Threat],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    key: Key,
    *,
    classes: int,
    batch_size: int = 100,
    draws: int = 4,
) -> list[Assessed]:
    """The worst case over recipes at each budget, with diagnostics of the model and the verdict of the audit.

    Args:
        model: maps images to logits; in evaluation mode.
        recipes: the attacks.
        threats: one threat at several budgets.
        x: images in [0, 1].
        y: labels.
        key: key of all randomness.
        classes: number of classes.
        batch_size: examples per forward pass; does not change any number.
        draws: forward passes per verdict on a stochastic model.
    """
    threats = list(threats)
    events = any(map(moves_events, threats))
    seen = diagnose(model, x[:DIAGNOSED], y[:DIAGNOSED], key.fold("probe"), events=events)
    if seen.failed is not None or seen.again is not None or seen.training:
        return [_unmeasured(threat, len(x), classes, seen) for threat in threats]
    found = []
    try:
        clean = evaluate_clean(model, x, y, key.fold("evaluation"), batch_size=batch_size, draws=draws)
        for threat in threats:
            outcomes = [
                evaluate_attack(
                    model, recipe(threat), threat, x, y, clean, key.fold("attack"),
                    through=through(model, recipe), batch_size=batch_size, draws=draws,
                )
                for recipe in recipes
                if recipe.suits(model)
            ]  # fmt: skip
            found.append((threat, outcomes, float(_worst(clean, outcomes).mean())))
    except LeakError:  # the number would depend on the order of the forward passes
        return [_unmeasured(threat, len(x), classes, seen) for threat in threats]
    curve = [CurvePoint(threat.epsilon, accuracy) for threat, _, accuracy in found]
    different = effective(groups_of(x))
    return [
        _judged(threat, recipes, outcomes, accuracy, clean, classes, curve, seen, model, different)
        for threat, outcomes, accuracy in found
    ]


def _judged(
    threat: Threat,
    recipes: Sequence[Recipe],
    outcomes: Sequence[Attacked],
    accuracy: float,
    clean: Clean,
    classes: int,
    curve: Sequence[CurvePoint],
    seen: Diagnostics,
    model: Model,
    different: int,
) -> Assessed:
    stochastic = bool(getattr(model, "stochastic", False))
    used = [recipe for recipe in recipes if recipe.suits(model)]
    n = len(clean.right)
    evidence = Evidence(
        accuracy=accuracy,
        interval=wilson(accuracy * different, different),
        n=n,
        clean_accuracy=float(clean.right.mean()),
        classes=classes,
        epsilon=threat.epsilon,
        unbounded=isinstance(threat, Linf) and threat.epsilon >= 1,
        stochastic=stochastic,
        attacks=[
            attack_evidence(type(recipe).__name__, recipe, outcome.metrics())
            for recipe, outcome in zip(used, outcomes, strict=True)
        ],
        curve=curve,
        diagnostics=seen,
        dynamic_exit=exits(model),
        other_gradients=other_gradients(model),
        tie_share=float(_of_worst(clean, outcomes, "tie").mean()),
        argmax_accuracy=float(_of_worst(clean, outcomes, "right_argmax").mean()),
        by_call=by_call(model),
        different=different,
    )
    return Assessed(threat, accuracy, evidence, audit(evidence))


def exits(model: Model) -> bool:
    """Whether the model may decide before the last time step."""
    if isinstance(model, Classifier):
        return dynamic_exit(model.spec.decoder)
    return isinstance(model, Substitutable) and dynamic_exit(model.decoder)


def other_gradients(model: Model) -> bool:
    """Whether there are other gradients of the same spikes."""
    if isinstance(model, Classifier):
        return model.spec.neuron.spiking
    return isinstance(model, Substitutable) and model.spiking


def _unmeasured(threat: Threat, n: int, classes: int, seen: Diagnostics) -> Assessed:
    """A verdict without a number, for a model that cannot be measured."""
    evidence = Evidence(
        accuracy=float("nan"),
        interval=wilson(0, n),
        n=n,
        clean_accuracy=float("nan"),
        classes=classes,
        epsilon=threat.epsilon,
        diagnostics=seen,
    )
    return Assessed(threat, float("nan"), evidence, audit(evidence))


def _worst(clean: Clean, outcomes: Sequence[Attacked]) -> Tensor:
    """Per example, accuracy under the attack that was chosen on the selection draws."""
    return _of_worst(clean, outcomes, "right")


def _of_worst(clean: Clean, outcomes: Sequence[Attacked], column: str) -> Tensor:
    """Per example, a column of the attack that was chosen on the selection draws."""
    selection = torch.stack([clean.right_selection, *(o.right_selection for o in outcomes)])
    measured = torch.stack([getattr(clean, column), *(getattr(o, column) for o in outcomes)])
    return measured.gather(0, selection.min(0).indices[None])[0]

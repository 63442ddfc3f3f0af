"""From recipes and measurements to evidence, and from a model to numbers with a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.composite import RateTwin, members_of
from spikeproof.attacks.objectives import sees_every_exit
from spikeproof.attacks.recipes import GradientRecipe, Recipe
from spikeproof.attacks.transfer import Transfer
from spikeproof.audit.checks import Verdict, audit
from spikeproof.audit.evidence import AttackEvidence, CurvePoint, Evidence, ProbeEvidence
from spikeproof.audit.probes import probe
from spikeproof.decoders import dynamic_exit
from spikeproof.evaluation import Attacked, Clean, evaluate_attack, evaluate_clean
from spikeproof.interop.peers import Peer
from spikeproof.keys import Key
from spikeproof.network import Classifier
from spikeproof.protocols import Model, Threat
from spikeproof.sources import through
from spikeproof.statistics import wilson
from spikeproof.threats import Linf

__all__ = ["PROBED", "Assessed", "assess", "attack_evidence", "suite_evidence"]

PROBED = 48
"""Examples that the probes look at."""


class Assessed(NamedTuple):
    """Robust accuracy at one budget, with what it rests on."""

    threat: Threat
    accuracy: float
    evidence: Evidence
    verdict: Verdict


def attack_evidence(name: str, recipe: Recipe, metrics: Mapping[str, Any]) -> AttackEvidence:
    """What the metrics of an attack say to the audit.

    Args:
        name: as it is shown.
        recipe: the attack.
        metrics: as `Attacked.metrics()` gives them, stored or fresh.
    """
    own = isinstance(recipe, Peer) or (
        isinstance(recipe, GradientRecipe) and recipe.surrogate is None and recipe.backward is None
    )
    elsewhere = isinstance(recipe, Transfer)
    other = elsewhere or isinstance(recipe, RateTwin)  # answers otherwise: no gradient of the model itself
    attacked = metrics.get("attacked") or 0
    return AttackEvidence(
        name=name,
        accuracy=metrics["robust_accuracy"],
        gradient_free=recipe.gradient_free,
        steps=_steps(recipe),
        source="model" if own or recipe.gradient_free else "transfer" if other else "substitute",
        zero_gradients=_number(metrics.get("zero_gradient_share")),
        losses=[loss for loss in metrics.get("losses") or () if loss is not None and loss == loss],
        violations=metrics["budget_violations"] / metrics["n"],
        unmoved=None if not attacked else 1 - (_number(metrics.get("moved_share")) or 0.0),
        silent_success=_number(metrics.get("silent_success_share")),
        eight_bit_accuracy=_number(metrics.get("eight_bit_accuracy")),
        draws=getattr(recipe, "draws", 1),
        target="another model" if elsewhere else None,
        every_exit=sees_every_exit(recipe),
    )


def suite_evidence(metrics: Mapping[str, Any]) -> list[AttackEvidence]:
    """What the members of a suite say to the audit; the accuracy of each is what it and those before left.

    Args:
        metrics: as `Suited.metrics()` gives them, stored or fresh.
    """
    return [
        AttackEvidence(
            name=member["name"],
            accuracy=member["left"],
            gradient_free=member["gradient_free"],
            steps=member["steps"],
            draws=member["draws"],
            zero_gradients=_number(member.get("evidence", {}).get("zero_gradient_share"))
            if member.get("own_gradient", True)  # a narrow surrogate of a sweep has none, and others do
            else None,
            violations=member.get("evidence", {}).get("budget_violations", 0) / metrics["n"],
            silent_success=_number(member.get("evidence", {}).get("silent_success_share")),
            every_exit=member.get("every_exit", False),
        )
        for member in metrics["members"]
    ]


def _steps(recipe: Recipe) -> int:
    """Gradient steps of the longest attack that the recipe is made of."""
    inner = [
        member if isinstance(member, Peer) else getattr(member, "attack", member)
        for member in members_of([recipe])
    ]
    return max(0 if each.gradient_free else getattr(each, "steps", 1) for each in inner)


def _number(value: Any) -> float | None:
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
    """The worst case over recipes at each budget, probed and audited.

    Args:
        model: images to logits, in evaluation mode.
        recipes: the attacks.
        threats: one threat at several budgets.
        x: images in [0, 1].
        y: labels.
        key: all randomness.
        classes: number of classes.
        batch_size: examples at a time; changes no number.
        draws: draws per verdict of a stochastic model.
    """
    seen = probe(model, x[:PROBED], y[:PROBED], key.fold("probe"))
    if seen.failed is not None or seen.training:
        return [_unmeasured(threat, len(x), classes, seen) for threat in threats]
    clean = evaluate_clean(model, x, y, key.fold("evaluation"), batch_size=batch_size, draws=draws)
    found = []
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
    curve = [CurvePoint(threat.epsilon, accuracy) for threat, _, accuracy in found]
    return [
        _judged(threat, recipes, outcomes, accuracy, clean, classes, curve, seen, model)
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
    seen: ProbeEvidence,
    model: Model,
) -> Assessed:
    stochastic = bool(getattr(model, "stochastic", False))
    used = [recipe for recipe in recipes if recipe.suits(model)]
    n = len(clean.right)
    evidence = Evidence(
        accuracy=accuracy,
        interval=wilson(accuracy * n, n),
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
        probe=seen,
        dynamic_exit=isinstance(model, Classifier) and dynamic_exit(model.spec.decoder),
    )
    return Assessed(threat, accuracy, evidence, audit(evidence))


def _unmeasured(threat: Threat, n: int, classes: int, seen: ProbeEvidence) -> Assessed:
    """A model that cannot be measured at all has a verdict and no number."""
    evidence = Evidence(
        accuracy=float("nan"),
        interval=wilson(0, n),
        n=n,
        clean_accuracy=float("nan"),
        classes=classes,
        epsilon=threat.epsilon,
        probe=seen,
    )
    return Assessed(threat, float("nan"), evidence, audit(evidence))


def _worst(clean: Clean, outcomes: Sequence[Attacked]) -> Tensor:
    """Per example, accuracy under the attack chosen on the draws for choosing."""
    selection = torch.stack([clean.right_selection, *(o.right_selection for o in outcomes)])
    measured = torch.stack([clean.right, *(o.right for o in outcomes)])
    chosen = selection.min(0).indices
    return measured.gather(0, chosen[None])[0]

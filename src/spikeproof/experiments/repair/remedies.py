"""The further attacks on a number: the standard suite first, then those that the raised checks ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypedDict, Unpack

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.iterated import APGDDLR
from spikeproof.attacks.gradient.plain import EOTPGD, PGD
from spikeproof.attacks.made_of.composite import Composite, RateTwin, WidthSweep
from spikeproof.attacks.parts.objectives import PrefixMean
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import check_threat
from spikeproof.encoders import BackwardRule, StraightThrough, TimeShift
from spikeproof.errors import InputError
from spikeproof.evaluation.levels import LEVELS, Level
from spikeproof.evaluation.suites import Member, Suite, plan
from spikeproof.experiments.study.applicable import check_on
from spikeproof.losses import Margin, Objective
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.surrogates import ATan, Surrogate

__all__ = ["ENOUGH", "UNSEARCHED", "Remedy", "longer", "remedies", "strongest"]

ENOUGH = 100
"""The number of examples at which the 95 % interval of an accuracy reaches at most ±10 points from it."""

UNSEARCHED = "no standard suite"
"""The reason that is noted for the standard suite if no check was raised."""

MOST_STEPS, MOST_DRAWS = 1000, 256
"""The largest numbers of steps and of draws per gradient that a further attack takes."""


class Remedy(NamedTuple):
    """A further attack, with the name of the check that it answers."""

    check: str
    recipe: Recipe


class _Options(TypedDict, total=False):
    steps: int
    restarts: int
    reach: float
    objective: Objective


@dataclass(frozen=True)
class _Case:
    """What the choice of further attacks depends on: properties of the model, and the attacks tried."""

    stochastic: bool
    spiking: bool
    strongest: Recipe | None
    tried: Sequence[Recipe]

    def pgd(
        self,
        surrogate: Surrogate | None = None,
        backward: BackwardRule | None = None,
        **options: Unpack[_Options],
    ) -> PGD:
        if self.stochastic:
            return EOTPGD(draws=8, surrogate=surrogate, backward=backward, **options)
        return PGD(surrogate=surrogate, backward=backward, **options)


def _other_gradients(case: _Case) -> list[Recipe]:
    options: _Options = {"steps": 20, "reach": 5.0, "objective": Margin()}
    if not case.spiking:
        return [case.pgd(**options)]
    if case.stochastic:  # a whole sweep with gradients in expectation would be too expensive
        sources: list[Recipe] = [case.pgd(surrogate=ATan(alpha), **options) for alpha in (1.0, 6.0)]
    else:
        sources = [WidthSweep(attack=PGD(**options))]
    return [*sources, EncoderAwareSearch()]


def _other_backward_rules(case: _Case) -> list[Recipe]:
    rules = (TimeShift(), StraightThrough())
    return [*(case.pgd(steps=40, backward=rule) for rule in rules), EncoderAwareSearch()]


def _other_objectives(case: _Case) -> list[Recipe]:
    return [case.pgd(steps=40, objective=Margin()), APGDDLR(steps=50, draws=8 if case.stochastic else 1)]


def _more_steps(case: _Case) -> list[Recipe]:
    more = None if case.strongest is None else longer(case.strongest)
    return [] if more is None else [more]


def _more_draws(case: _Case) -> list[Recipe]:
    most = max((getattr(recipe, "draws", 1) for recipe in case.tried), default=1)
    draws = 4 * max(16, most)
    return [EOTPGD(steps=20, draws=draws)] if draws <= MOST_DRAWS else []


TOO_FEW_ATTACKS = "attacks too few"

_ANSWERS: dict[str, Callable[[_Case], list[Recipe]]] = {
    "zero gradients": _other_gradients,
    "layer without gradient": _other_gradients,
    "training rule weaker than substitutes": _other_gradients,
    "gradient-free beats gradient": _other_gradients,
    "transfer beats white-box": _other_gradients,
    "unbounded attack fails": _other_gradients,
    "masked encoder gradient": _other_backward_rules,
    "probabilities instead of logits": _other_objectives,
    "unstable predictions": lambda case: [EncoderAwareSearch(), SquareSearch(queries=2000)],
    "gradient is no slope": lambda case: [EncoderAwareSearch(), SquareSearch(queries=2000)],
    "one exit attacked": lambda case: [case.pgd(steps=50, objective=PrefixMean(Margin()))],
    "one step beats many": lambda case: [case.pgd(steps=40, restarts=3, reach=10.0)],
    "accuracy rises with epsilon": lambda case: [
        *_more_steps(case),
        case.pgd(steps=100, restarts=3, objective=Margin()),
    ],
    "loss still rising": _more_steps,
    "expectation too small": _more_draws,
    "silent success": lambda case: [],
    "search still finding": lambda case: [],
    "few values": lambda case: [],
    TOO_FEW_ATTACKS: lambda case: [],
    "nearer image known": lambda case: [],
    "nested budgets": lambda case: [],
}
"""Check -> the attacks that may settle it; where none is listed or all were tried, the next larger suite."""


def longer(recipe: Recipe) -> Recipe | None:
    """The same attack with four times as many steps of the same size; None if it takes no steps, or too many.

    Example:
        >>> more = longer(PGD(steps=20))
        >>> more.steps, more.reach
        (80, 10.0)
    """
    inner = getattr(recipe, "attack", None)
    if inner is not None:
        more = longer(inner)
        changes: dict[str, object] = {"attack": more}
        return None if more is None else replace(recipe, **changes)  # type: ignore[type-var]
    steps = getattr(recipe, "steps", None)
    if recipe.gradient_free or isinstance(recipe, Composite) or steps is None or 4 * steps > MOST_STEPS:
        return None
    changes = {"steps": 4 * steps}
    if hasattr(recipe, "reach"):
        changes["reach"] = 4 * recipe.reach
    return replace(recipe, **changes)  # type: ignore[type-var]


def strongest(recipes: Sequence[tuple[Recipe, float]]) -> Recipe | None:
    """The iterated gradient attack under which the accuracy is lowest; None if no such attack was run.

    Args:
        recipes: the attacks, each with the accuracy of the model under it.
    """
    iterated = [
        (accuracy, -getattr(getattr(recipe, "attack", recipe), "steps", 0), index)
        for index, (recipe, accuracy) in enumerate(recipes)
        if not recipe.gradient_free
        and not isinstance(recipe, (RateTwin, Suite))
        and getattr(getattr(recipe, "attack", recipe), "steps", 0) > 1
    ]
    return recipes[min(iterated)[2]][0] if iterated else None


def remedies(
    checks: Sequence[str],
    model: Model | ModelSpec,
    threat: Threat,
    tried: Sequence[Recipe],
    strongest: Recipe | None = None,
) -> list[Remedy]:
    """The attacks to run next on a number; none of them was run before.

    A number that no standard suite was run on gets that suite first, whatever its verdict, so that an audit
    attacks a model no less than an evaluation does. Afterwards each raised check asks for attacks of its own.

    Args:
        checks: names of the checks that were raised.
        model: any model, or the spec of a classifier.
        threat: with its budget.
        tried: the attacks that the number already rests on.
        strongest: the strongest iterated attack among them.

    Returns:
        The standard suite alone if no suite of that level was tried. Otherwise the attacks that the checks
        ask for, or the next larger suite if all of those were tried. Empty if no attack can settle a check.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Latency
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.networks.classifier import ModelSpec
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.threats import Linf
        >>> spec = ModelSpec(Latency(4), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
        >>> remedies([], spec, Linf(0.1), [PGD(steps=20)])
        [Remedy(check='no standard suite', recipe=Suite(level='standard'))]
        >>> tried = [PGD(steps=20), Suite(level="standard")]
        >>> [each.recipe.steps for each in remedies(["loss still rising"], spec, Linf(0.1), tried, tried[0])]
        [80]
        >>> remedies(["effect lost at 8 bits"], spec, Linf(0.1), tried)
        []
    """
    spec = model.spec if isinstance(model, Classifier) else model
    standard = Suite(level=Level.STANDARD)
    done = any(isinstance(recipe, Suite) and recipe.level != Level.QUICK for recipe in tried)
    if not done and threat.epsilon > 0 and _fits(standard, spec, threat):
        return [Remedy(TOO_FEW_ATTACKS if TOO_FEW_ATTACKS in checks else UNSEARCHED, standard)]
    answerable = [check for check in checks if check in _ANSWERS]
    if not answerable:
        return []
    encoder = getattr(spec, "encoder", None)
    stochastic = bool(getattr(encoder, "stochastic", False) or getattr(model, "stochastic", False))
    tried = [
        *tried,
        *(m.recipe for each in tried if isinstance(each, Suite) for m in _members(each, model, threat)),
    ]
    case = _Case(stochastic, isinstance(spec, ModelSpec) and spec.neuron.spiking, strongest, tried)
    found: dict[Recipe, Remedy] = {}
    for check in answerable:
        recipes = [] if moves_events(threat) else _ANSWERS[check](case)
        new = [r for r in recipes if r not in tried and _fits(r, spec, threat)]
        if not new and (suite := _next_suite(tried)) is not None and _fits(suite, spec, threat):
            new = [suite] if suite not in tried else []
        for recipe in new:
            found.setdefault(recipe, Remedy(check, recipe))
    targeted = [each for each in found.values() if not isinstance(each.recipe, Suite)]
    suites = [each for each in found.values() if isinstance(each.recipe, Suite)]
    return [*targeted, *suites]


def _members(suite: Suite, model: Model | ModelSpec, threat: Threat) -> list[Member]:
    try:
        return plan(suite.level, model, threat)
    except InputError:
        return []


def _next_suite(tried: Sequence[Recipe]) -> Suite | None:
    """The suite above the largest that was tried, at least the standard one."""
    done = [LEVELS.index(recipe.level) for recipe in tried if isinstance(recipe, Suite)]
    higher = max([*done, 0]) + 1
    return Suite(level=LEVELS[higher]) if higher < len(LEVELS) else None


def _fits(recipe: Recipe, spec: Model | ModelSpec, threat: Threat) -> bool:
    """Whether the attack is defined within this threat on a model, or on models of a spec."""
    try:
        check_threat(spec, threat)
        if isinstance(recipe, Suite):
            plan(recipe.level, spec, threat)
            return True
        check_on(spec, recipe)
        recipe(threat)
    except InputError:
        return False
    return recipe.suits(spec)

"""Attacks made of attacks: the worst of several per example, and sweeps over where gradients come from.

Each member attacks what still stands, with gradients from a model of its own. An image counts as fallen when
the model itself says so, whichever member found it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.noise import GaussianNoiseSearch, NoiseSearch, SaltAndPepperSearch
from spikeproof.attacks.gradient.iterated import RFGSM
from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.attacks.parts.objectives import PrefixMean
from spikeproof.attacks.recipe import Attack, GradientRecipe, Recipe
from spikeproof.attacks.search import (
    UNRECORDED,
    Best,
    Result,
    check_batch,
    check_mode,
    evaluator,
    judge,
    smallest_batch,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin, Watching
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.surrogates import Exponential, Rectangle, StraightThroughSpike, Surrogate, Triangle

__all__ = [
    "Chosen",
    "Ensemble",
    "GradientSources",
    "RateTwin",
    "WidthSweep",
    "WorstOf",
    "gradient_sources_of",
    "members_of",
    "objectives_of",
    "queries_of",
    "sees_every_exit",
    "steps_of",
]


@dataclass(frozen=True)
class GradientSources:
    """What an ensemble takes for `through`: one source of gradients per member, None for the model itself."""

    models: tuple[Model | GradientSources | None, ...]


@dataclass(frozen=True)
class Ensemble:
    """The worst of several attacks, example by example.

    An example that a deterministic model gets wrong is left alone by the members that follow. Where nothing
    fooled the model, the image of the least margin is returned. On a stochastic model every member attacks
    every example, and the image is chosen that fooled it most often over `draws` fresh draws, a choice that
    the verdict does not look at.

    Args:
        attacks: the members, at least one.
        draws: looks per member and example at a stochastic model, at least 1.
        stop_when_fooled: leave an example to no further member once one of them has changed its answer.
    """

    attacks: tuple[Attack, ...]
    draws: int = 32
    stop_when_fooled: bool = True

    def __post_init__(self) -> None:
        if not self.attacks or self.draws < 1:
            raise InputError(
                "An ensemble needs at least one attack and one draw",
                f"{len(self.attacks)} attacks, draws={self.draws}",
                "Name its members.",
            )

    @property
    def batch(self) -> int | None:
        """Examples at a time, where some member's images depend on that."""
        return smallest_batch(*self.attacks)

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | GradientSources | None = None,
    ) -> Result:
        """Attack `model`; `through` is one source for all members, or `GradientSources` with one for each.

        Raises:
            InputError: another number of sources than of members.
        """
        check_batch(x, y)
        check_mode(model)
        x = x.detach().contiguous()
        gradient_sources = (
            through.models if isinstance(through, GradientSources) else (through,) * len(self.attacks)
        )
        if len(gradient_sources) != len(self.attacks):
            raise InputError(
                f"{len(self.attacks)} attacks take as many sources of gradients",
                f"{len(gradient_sources)}",
                "Make them with spikeproof.evaluation.through.through(model, recipe).",
            )
        random = bool(getattr(model, "stochastic", False))
        best, rows = Best(x), torch.arange(len(x), device=x.device)
        counts = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
        zeros = x.new_zeros(len(x))
        losses: list[Tensor] = []
        for i, (attack, gradient_source) in enumerate(zip(self.attacks, gradient_sources, strict=True)):
            if not len(rows):
                break
            now = key.fold("member", i).take(rows)
            found = attack(model, x[rows], y[rows], now, through=gradient_source)
            value, fooled = self._score(model, found.x_adv, y[rows], now.fold("choice"), random)
            best.offer(rows, found.x_adv, fooled, value)
            counts[0, rows] += found.queries + (self.draws if random else 1)
            counts[1, rows] += found.backward_queries
            zeros[rows] += found.zero_gradients * found.backward_queries
            fell = torch.full_like(rows, UNRECORDED) if found.fell is None else found.fell
            best.fell[rows[(fell == UNRECORDED) & (best.fell[rows] < 0)]] = UNRECORDED
            first = (fell >= 0) & (best.fell[rows] == -1)
            best.fell[rows[first]] = len(losses) + fell[first]
            for row in found.losses:
                trace = x.new_full((len(x),), torch.nan)
                trace[rows] = row.to(x.dtype)
                losses.append(trace)
            if self.stop_when_fooled and not random:
                rows = rows[fooled == 0]
        success = judge(model, best.x, y, key.fold("verdict"))
        trace = torch.stack(losses) if losses else x.new_zeros(0, len(x))
        share = zeros / counts[1].clamp(min=1)
        return Result(best.x, success, trace, counts[0] + 1, counts[1], share, best.fell)

    @torch.no_grad()
    def _score(self, model: Model, x: Tensor, y: Tensor, key: Key, random: bool) -> tuple[Tensor, Tensor]:
        """Mean margin and share of looks that fooled the model."""
        evaluate = evaluator(model, Margin(), y)
        answers = [evaluate(x, key.fold("draw", i)) for i in range(self.draws if random else 1)]
        value, fooled = (sum(part[1:], part[0]) / len(answers) for part in zip(*answers, strict=True))
        return value, fooled


class Composite(Recipe):
    """A recipe made of recipes, its `members`."""

    @property
    def members(self) -> tuple[Recipe, ...]:
        """The recipes it runs, in their order."""
        raise NotImplementedError(f"{type(self).__name__} has no members")

    @property
    def gradient_free(self) -> bool:  # type: ignore[override]
        return all(member.gradient_free for member in self.members)

    def suits(self, model: object) -> bool:
        return any(member.suits(model) for member in self.members) and self.reads(model)

    def reads(self, model: object) -> bool:
        return all(member.reads(model) for member in self.members)

    def check(self, model: object) -> None:
        for member in self.members:
            member.check(model)

    def __call__(self, threat: Threat) -> Attack:
        return Ensemble(tuple(member(threat) for member in self.members))


@dataclass(frozen=True, kw_only=True)
class WorstOf(Composite):
    """Worst of several attacks, example by example: each attacks what the ones before it left standing.

    Members that add nothing on a model still run on it; name those for stochastic codes separately.

    Args:
        attacks: the members, at least one.

    Raises:
        InputError: no members.

    Example:
        >>> from spikeproof.threats import Linf
        >>> len(WorstOf(attacks=(PGD(), PGD(surrogate=Triangle(2.0))))(Linf(0.1)).attacks)
        2

    Source:
        Croce & Hein 2020 (AutoAttack), section 5.
    """

    attacks: tuple[Recipe, ...]

    def __post_init__(self) -> None:
        if not self.attacks:
            raise InputError("WorstOf needs at least one attack", "none", "Write attacks: [pgd, square].")

    @property
    def members(self) -> tuple[Recipe, ...]:
        return self.attacks


@dataclass(frozen=True, kw_only=True)
class Chosen(Composite):
    """The strongest of several attacks on validation images: one strength or width, chosen before the test.

    Chosen on the images that it is then measured on, an attack would look stronger than it is. Attacks that
    do not suit the model are no candidates. In Python the choice is made by `spikeproof.strongest`.

    Args:
        attacks: the candidates, at least one.
        images: number of validation images, at least 1.

    Raises:
        InputError: no candidates or no images.

    Example:
        >>> from spikeproof.attacks.gradient.plain import Through
        >>> from spikeproof.gradients import ASSG
        >>> strengths = (0.35, 0.39, 0.43, 0.47)
        >>> len(Chosen(attacks=tuple(Through(gradient=ASSG(a)) for a in strengths)).members)
        4

    Source:
        The published evaluation of ASSG (arXiv 2512.22522) searches the strength on the test images.
    """

    attacks: tuple[Recipe, ...]
    images: int = 100

    def __post_init__(self) -> None:
        if not self.attacks or self.images < 1:
            raise InputError(
                "A choice needs at least one attack and one image",
                f"{len(self.attacks)} attacks, images={self.images}",
                "Write attacks: [pgd, apgd-ce].",
            )

    @property
    def members(self) -> tuple[Recipe, ...]:
        return self.attacks

    def __call__(self, threat: Threat) -> Attack:
        for member in self.attacks:
            member(threat)  # refuses what none of them is defined on
        return _unsettled


def _unsettled(*_: object, **__: object) -> Result:
    raise InputError(
        "A choice is made on validation images, which an attack does not have",
        "a call of its own",
        "Use spikeproof.evaluation.through.settled(), or the attack in a study.",
    )


@dataclass(frozen=True, kw_only=True)
class WidthSweep(Composite):
    """Sweep over surrogates and their widths: the worst case, example by example, of one attack through each.

    How wide a surrogate lets the strongest gradient through depends on model and image, and the one used in
    training is often too narrow. The default is the published ensemble: triangles, exponentials, rectangles
    and the straight-through spike; its other two members are `through` with the gradient `bptr`, and
    `rate-twin`.

    Args:
        attack: a gradient attack without a surrogate of its own.
        surrogates: what to take gradients through, one after the other.

    Raises:
        InputError: the attack uses no gradient or names a surrogate, or there are no surrogates.

    Example:
        >>> len(WidthSweep(attack=PGD(steps=10)).members)
        17

    Source:
        Oezdenizci & Legenstein 2024, section 4.3 (ensemble attacks).
    """

    attack: Recipe = PGD()
    surrogates: tuple[Surrogate, ...] = (
        Triangle(1.0),
        Triangle(2.0),
        Triangle(3.0),
        Triangle(0.5),
        Triangle(0.25),
        *(Exponential(h, b) for h in (0.3, 1.0) for b in (0.5, 1.0, 2.0)),
        Rectangle(0.25),
        Rectangle(0.5),
        Rectangle(1.0),
        Rectangle(2.0),
        Rectangle(4.0),
        StraightThroughSpike(),
    )

    def __post_init__(self) -> None:
        check_own(self, self.attack)
        if not self.surrogates:
            raise InputError("A sweep needs at least one surrogate", "none", "Leave out surrogates.")

    @property
    def members(self) -> tuple[Recipe, ...]:
        attack: Any = self.attack
        return tuple(replace(attack, surrogate=surrogate) for surrogate in self.surrogates)


@dataclass(frozen=True, kw_only=True)
class RateTwin(Recipe):
    """A gradient attack with the gradients of the rate twin: an ANN of the same weights, on mean inputs.

    Verdicts are the model's own. Where the code tells pixels by times alone, their means say little. Studies
    leave it out for an ANN, which is its own twin.

    Args:
        attack: a gradient attack without a surrogate of its own, of which the twin has none.

    Raises:
        InputError: the attack uses no gradient, names a surrogate or has an objective over time.

    Source:
        Ding et al. 2022 (SNN-RAT) and its published code (`Act`).
    """

    attack: Recipe = PGD()

    def __post_init__(self) -> None:
        check_own(self, self.attack)
        if isinstance(getattr(self.attack, "objective", None), Watching):
            raise InputError(
                "A rate twin has no time steps to look at", repr(self.attack), "Use an objective of logits."
            )

    @property
    def for_stochastic(self) -> bool:  # type: ignore[override]
        return self.attack.for_stochastic

    def suits(self, model: object) -> bool:
        neuron = getattr(getattr(model, "spec", model), "neuron", None)
        return super().suits(model) and bool(getattr(neuron, "spiking", True))  # an ANN is its own twin

    def check(self, model: object) -> None:
        self.attack.check(model)

    def __call__(self, threat: Threat) -> Attack:
        return self.attack(threat)


def check_own(recipe: Recipe, attack: Recipe) -> None:
    """Refuse attacks that have no gradient, or a surrogate of their own."""
    if not isinstance(attack, GradientRecipe) or attack.surrogate is not None:
        raise InputError(
            f"{type(recipe).__name__} takes a gradient attack without a surrogate of its own",
            repr(attack),
            "Try pgd.",
        )


def members_of(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes, and in place of composites their members."""
    return [
        leaf
        for recipe in recipes
        for leaf in (members_of(recipe.members) if isinstance(recipe, Composite) else [recipe])
    ]


def steps_of(recipe: Recipe) -> int:
    """Gradient steps of the longest attack that a recipe is made of; 2 for several that it does not tell.

    Example:
        >>> steps_of(WidthSweep(attack=PGD(steps=7))), steps_of(FGSM()), steps_of(NoiseSearch())
        (7, 1, 0)
    """
    return max(map(_steps, members_of([recipe])))


def _steps(leaf: Recipe) -> int:
    inner = getattr(leaf, "attack", leaf)
    each = inner if isinstance(inner, Recipe) else leaf
    if each.gradient_free:
        return 0
    return 1 if isinstance(each, (FGSM, RFGSM)) else int(getattr(each, "steps", 2))


def queries_of(recipe: Recipe, forward: float, attacked: int) -> float:
    """Queries per example of a search without gradients; 0 for gradients, and for noise, which is no search.

    Args:
        recipe: the attack.
        forward: forward passes that it took, over all examples.
        attacked: examples that it was run on.

    Example:
        >>> queries_of(NoiseSearch(draws=2000), 2000, 1), queries_of(PGD(), 20, 1)
        (0.0, 0.0)
    """
    leaves = members_of([recipe])
    noise = (NoiseSearch, GaussianNoiseSearch, SaltAndPepperSearch)
    if not recipe.gradient_free or all(isinstance(leaf, noise) for leaf in leaves):
        return 0.0
    named = max(getattr(leaf, "queries", 0) for leaf in leaves)
    return max(float(named), forward / attacked if attacked else 0.0)


def objectives_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of what a recipe maximises; an attack with an objective of its own is named itself.

    Example:
        >>> objectives_of(WorstOf(attacks=(PGD(), PGD(objective=Margin()), PGD(steps=5))))
        ('LogitCrossEntropy', 'Margin')
    """
    leaves = [getattr(leaf, "attack", leaf) for leaf in members_of([recipe]) if not leaf.gradient_free]
    return tuple(dict.fromkeys(type(getattr(leaf, "objective", leaf)).__name__ for leaf in leaves))


def gradient_sources_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the gradients that a recipe follows, `own` for the model's as it is.

    Example:
        >>> members = PGD(), PGD(surrogate=Triangle(2.0)), PGD(objective=Margin())
        >>> gradient_sources_of(WorstOf(attacks=members))
        ('own', 'Triangle(width=2.0)')
    """
    leaves = [leaf for leaf in members_of([recipe]) if not leaf.gradient_free]
    return tuple(dict.fromkeys(map(_gradient_source, leaves)))


def _gradient_source(leaf: Recipe) -> str:
    parts = [getattr(leaf, name, None) for name in ("surrogate", "backward", "gradient")]
    named = [repr(part) for part in parts if part is not None]
    rate = ["rate twin"] if isinstance(leaf, RateTwin) else []
    return ", ".join([*named, *rate]) or "own"


def sees_every_exit(recipe: Recipe) -> bool:
    """Whether a recipe, or one that it is made of, has the objective of all exits.

    Margins of first spikes see all steps too, but say little about exits by count.

    Example:
        >>> from spikeproof.attacks.parts.objectives import AtExit
        >>> [sees_every_exit(PGD(objective=o)) for o in (AtExit(), PrefixMean(), PrefixMean(until_exit=True))]
        [False, True, False]
    """
    objectives = [getattr(getattr(leaf, "attack", leaf), "objective", None) for leaf in members_of([recipe])]
    return any(isinstance(each, PrefixMean) and not each.until_exit for each in objectives)

"""Attacks made of attacks: the worst of several for each example, and sweeps over gradient sources.

Each member attacks the examples that no earlier member has fooled, with a gradient source of its own. An
example has fallen when the attacked model itself misclassifies an image, whichever member found the image.
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
    """Gradient sources for the members of an ensemble, its argument `through`; None is the model itself."""

    models: tuple[Model | GradientSources | None, ...]


@dataclass(frozen=True)
class Ensemble:
    """The worst of several attacks, example by example.

    On a deterministic model, an example that one member has fooled is not attacked by later members. Where no
    member fooled the model, the image of the largest margin is returned. On a stochastic model every member
    attacks every example. The returned image is the one that fooled the model most often over `draws` new
    draws, and the verdict uses other draws than this choice.

    Args:
        attacks: the members, at least one.
        draws: forward passes per member and example on a stochastic model, at least 1.
        stop_when_fooled: whether later members skip the examples that an earlier member has fooled.
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
        """The batch size that the images of some member depend on; None where they do not."""
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
        """Attack `model`; `through` is one gradient source, or `GradientSources` with one for each member.

        Raises:
            InputError: the number of gradient sources is not the number of members.
        """
        check_batch(x, y)
        check_mode(model)
        x = x.detach().contiguous()
        gradient_sources = (
            through.models if isinstance(through, GradientSources) else (through,) * len(self.attacks)
        )
        if len(gradient_sources) != len(self.attacks):
            raise InputError(
                f"{len(self.attacks)} attacks take as many gradient sources",
                f"{len(gradient_sources)}",
                "Make them with spikeproof.evaluation.through.through(model, recipe).",
            )
        random = bool(getattr(model, "stochastic", False))
        best, rows = Best(x), torch.arange(len(x), device=x.device)
        counts = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
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
            counts[2, rows] += 0 if found.outside is None else found.outside
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
        return Result(best.x, success, trace, counts[0] + 1, counts[1], share, best.fell, counts[2])

    @torch.no_grad()
    def _score(self, model: Model, x: Tensor, y: Tensor, key: Key, random: bool) -> tuple[Tensor, Tensor]:
        """The mean margin, and the share of forward passes in which the image fooled the model."""
        evaluate = evaluator(model, Margin(), y)
        answers = [evaluate(x, key.fold("draw", i)) for i in range(self.draws if random else 1)]
        value, fooled = (sum(part[1:], part[0]) / len(answers) for part in zip(*answers, strict=True))
        return value, fooled


class Composite(Recipe):
    """A recipe made of other recipes, its `members`."""

    @property
    def members(self) -> tuple[Recipe, ...]:
        """The recipes that it runs, in their order."""
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
    """Worst of several attacks, example by example: each attacks the examples that have not fallen yet.

    Members that add nothing on a model run nevertheless; so name attacks for stochastic encoders separately.

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
    """The strongest of several attacks on validation images, such as one strength or width of a surrogate.

    An attack that was chosen on the test images would seem stronger on them than it is. Attacks that add
    nothing on the model are left out of the choice. In Python, `spikeproof.strongest` makes the choice.

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
        The published evaluation of ASSG (arXiv 2512.22522), which searches the strength on the test images.
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
            member(threat)  # refuses a threat that some candidate is not defined for
        return _unsettled


def _unsettled(*_: object, **__: object) -> Result:
    raise InputError(
        "An attack of the kind chosen is chosen on validation images first",
        "a call without a choice",
        "Use spikeproof.evaluation.through.settled(), or the attack in a study.",
    )


@dataclass(frozen=True, kw_only=True)
class WidthSweep(Composite):
    """Sweep over surrogates and their widths: one attack through each, and the worst case of each example.

    Which width of the surrogate gives the strongest attack depends on model and image, and the surrogate used
    in training is often too narrow. The default is the published ensemble of triangles, exponentials,
    rectangles and the straight-through spike. Two more members of that ensemble are attacks of their own
    here: `through` with the gradient `bptr`, and `rate-twin`.

    Args:
        attack: a gradient attack that names no surrogate.
        surrogates: the surrogates to take gradients through, one after the other.

    Raises:
        InputError: the attack uses no gradient or names a surrogate, or the list of surrogates is empty.

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
            raise InputError("A sweep needs at least one surrogate", "none", "Leave out the option.")

    @property
    def members(self) -> tuple[Recipe, ...]:
        attack: Any = self.attack
        return tuple(replace(attack, surrogate=surrogate) for surrogate in self.surrogates)


@dataclass(frozen=True, kw_only=True)
class RateTwin(Recipe):
    """A gradient attack with the gradients of the rate twin: an ANN of the same weights on mean inputs.

    Verdicts are the answers of the attacked model itself. Where an encoder carries pixel values in spike
    times alone, the mean inputs hold little information. Studies leave the attack out for an ANN, which is
    its own twin.

    Args:
        attack: a gradient attack that names no surrogate, since the rate twin has none.

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
                "A rate twin, which has no time steps, needs an objective of logits",
                repr(self.attack),
                "Use cross-entropy or margin.",
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
    """Refuse an attack that uses no gradient or names a surrogate."""
    if not isinstance(attack, GradientRecipe) or attack.surrogate is not None:
        raise InputError(
            f"{type(recipe).__name__} takes a gradient attack that names no surrogate",
            repr(attack),
            "Try pgd.",
        )


def members_of(recipes: Sequence[Recipe]) -> list[Recipe]:
    """The recipes, with every composite replaced by its members."""
    return [
        leaf
        for recipe in recipes
        for leaf in (members_of(recipe.members) if isinstance(recipe, Composite) else [recipe])
    ]


def steps_of(recipe: Recipe) -> int:
    """The number of gradient steps of the longest attack in a recipe.

    It is 2 where an attack takes several steps but has no option that states their number.

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
    """Queries per example of a gradient-free search; 0 for gradient attacks and for noise.

    Args:
        recipe: the attack.
        forward: number of forward passes that the attack took, over all examples.
        attacked: number of examples that it was run on.

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
    """Names of the objectives of a recipe; an attack without a field `objective` is listed by its own name.

    Example:
        >>> objectives_of(WorstOf(attacks=(PGD(), PGD(objective=Margin()), PGD(steps=5))))
        ('LogitCrossEntropy', 'Margin')
    """
    leaves = [getattr(leaf, "attack", leaf) for leaf in members_of([recipe]) if not leaf.gradient_free]
    return tuple(dict.fromkeys(type(getattr(leaf, "objective", leaf)).__name__ for leaf in leaves))


def gradient_sources_of(recipe: Recipe) -> tuple[str, ...]:
    """Names of the gradient sources of a recipe; `own` is the model itself.

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
    """Whether a recipe, or one of its members, has an objective over all exits.

    The margin of first spikes also uses all time steps, but it says little about exits by spike count.

    Example:
        >>> from spikeproof.attacks.parts.objectives import AtExit
        >>> [sees_every_exit(PGD(objective=o)) for o in (AtExit(), PrefixMean(), PrefixMean(until_exit=True))]
        [False, True, False]
    """
    objectives = [getattr(getattr(leaf, "attack", leaf), "objective", None) for leaf in members_of([recipe])]
    return any(isinstance(each, PrefixMean) and not each.until_exit for each in objectives)

"""Attacks by the names of the papers: each a frozen dataclass that, given a threat, names its parts.

A recipe knows nothing of a model. `surrogate` and `backward` ask for gradients through a substitute of the
model with that spike function or that backward rule of the encoder, and `Through` for those of another
gradient rule; whoever runs the recipe makes the twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from spikeproof.attacks.oracles import Exact, Expectation
from spikeproof.attacks.queries import Patches, Square, UniformNoise
from spikeproof.attacks.reachable import EncoderAware, level_code
from spikeproof.attacks.search import GradientAttack, Result
from spikeproof.attacks.steps import best_step
from spikeproof.encoders import BackwardRule, with_backward
from spikeproof.errors import InputError
from spikeproof.gradients import GradientRule
from spikeproof.losses import LogitCrossEntropy, Objective, Watching
from spikeproof.protocols import Threat
from spikeproof.surrogates import Surrogate

__all__ = [
    "BIM",
    "EOTPGD",
    "FGSM",
    "PGD",
    "Attack",
    "EncoderAwareSearch",
    "GradientRecipe",
    "NoiseSearch",
    "PatchSearch",
    "Recipe",
    "SquareSearch",
    "Through",
]

Attack = Callable[..., Result]
"""`attack(model, x, y, key, *, through=None) -> Result`."""


class Recipe:
    """A named attack, waiting for its threat."""

    gradient_free: ClassVar[bool] = False
    for_stochastic: ClassVar[bool] = False  # adds nothing on a model without randomness

    def suits(self, model: Any) -> bool:
        """Whether it can add anything on this model, or on a candidate with this `encoder`."""
        encoder = getattr(model, "encoder", model)
        return (not self.for_stochastic or bool(getattr(encoder, "stochastic", False))) and self.reads(model)

    def reads(self, model: Any) -> bool:
        """Whether its objective has anything to say about this model, or a candidate with this `decoder`."""
        return True

    def check(self, model: Any) -> None:
        """Whether it is defined on this model, or on a candidate with these parts.

        Raises:
            InputError: it is not.
        """

    def __call__(self, threat: Threat) -> Attack:
        """The attack within this threat."""
        raise NotImplementedError(f"{type(self).__name__} names no attack")


@dataclass(frozen=True, kw_only=True)
class GradientRecipe(Recipe):
    """A gradient attack; its gradients may be taken through a substitute of the model."""

    objective: Objective = LogitCrossEntropy()
    surrogate: Surrogate | None = None
    backward: BackwardRule | None = None

    def reads(self, model: Any) -> bool:
        decoder = getattr(getattr(model, "spec", model), "decoder", None)
        if decoder is None:
            return not isinstance(self.objective, Watching)
        return self.objective.suits(decoder)

    def check(self, model: Any) -> None:
        if self.backward is not None:
            with_backward(getattr(model, "spec", model).encoder, self.backward)


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientRecipe):
    """Fast gradient sign method: one step of full size from the clean image.

    Args:
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Example:
        >>> from spikeproof.threats import Linf
        >>> FGSM()(Linf(0.1)).step_size
        0.1

    Source:
        Goodfellow, Shlens & Szegedy 2015, section 4.
    """

    def __call__(self, threat: Threat) -> GradientAttack:
        rule = best_step(threat)
        return GradientAttack(
            threat, 1, threat.epsilon, objective=self.objective, random_start=False, rule=rule
        )


@dataclass(frozen=True, kw_only=True)
class BIM(GradientRecipe):
    """Basic iterative method: small steps from the clean image.

    Args:
        steps: number of steps, at least 1.
        reach: steps times step size, in epsilons.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.2.
    """

    steps: int = 20
    reach: float = 2.5

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        rule = best_step(threat)
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, rule=rule
        )


@dataclass(frozen=True, kw_only=True)
class PGD(GradientRecipe):
    """Projected gradient descent: small steps from random starts.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        reach: steps times step size, in epsilons.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Example:
        >>> from spikeproof.threats import Linf
        >>> PGD(steps=20)(Linf(0.08)).step_size
        0.01

    Source:
        Madry et al. 2018, section 2.1.
    """

    steps: int = 40
    restarts: int = 1
    reach: float = 2.5

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        rule, many = best_step(threat), self.restarts
        return GradientAttack(threat, self.steps, size, objective=self.objective, restarts=many, rule=rule)


@dataclass(frozen=True, kw_only=True)
class EOTPGD(PGD):
    """Projected gradient descent with each gradient averaged over draws of the model's randomness.

    On a deterministic model it would repeat PGD at many times the cost, so studies leave it out there.

    Args:
        draws: gradients per step, at least 1.
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        reach: steps times step size, in epsilons.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Athalye, Carlini & Wagner 2018, section 4.2.
    """

    for_stochastic: ClassVar[bool] = True
    draws: int = 10

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        return GradientAttack(
            threat,
            self.steps,
            size,
            oracle=Expectation(self.draws) if self.draws != 1 else Exact(),
            objective=self.objective,
            restarts=self.restarts,
            rule=best_step(threat),
        )


@dataclass(frozen=True, kw_only=True)
class Through(Recipe):
    """A gradient attack with the gradients of another rule for the spikes, such as that of TSSL-BP.

    A network that was trained by one rule may look robust to the gradients of another, so it is attacked by
    those of its own rule as well as by surrogate gradients; the worst case counts.

    Args:
        gradient: the gradient rule.
        attack: a gradient attack without a surrogate of its own, which the rule would not use.

    Raises:
        InputError: the attack uses no gradient, or names a surrogate.

    Example:
        >>> from spikeproof.gradients import TSSL
        >>> Through(gradient=TSSL(), attack=PGD(steps=5)).attack.steps
        5

    Source:
        Ding et al. 2023, part 2, attack networks with the gradients of the rule that trained them.
    """

    gradient: GradientRule
    attack: Recipe = PGD()

    def __post_init__(self) -> None:
        if not isinstance(self.attack, GradientRecipe):
            raise InputError("Through takes a gradient attack", repr(self.attack), "Use it as it is.")
        if self.attack.surrogate is not None:
            raise InputError(
                "Through takes an attack without a surrogate of its own",
                repr(self.attack),
                "Give the surrogate to the gradient rule.",
            )

    @property
    def for_stochastic(self) -> bool:  # type: ignore[override]
        return self.attack.for_stochastic

    def reads(self, model: Any) -> bool:
        return self.attack.reads(model)

    def check(self, model: Any) -> None:
        spec = getattr(model, "spec", model)
        for neuron in (spec.neuron, spec.network.neuron(spec.neuron)):
            self.gradient.check(neuron)
        self.attack.check(model)

    def __call__(self, threat: Threat) -> Attack:
        return self.attack(threat)


@dataclass(frozen=True, kw_only=True)
class NoiseSearch(Recipe):
    """Uniform noise: the worst of several random members of the threat's set.

    Args:
        draws: number of random images per example, at least 1.

    Source:
        The sanity check of Athalye, Carlini & Wagner 2018, section 3.1 (random sampling).
    """

    gradient_free: ClassVar[bool] = True
    draws: int = 20

    def __call__(self, threat: Threat) -> UniformNoise:
        return UniformNoise(threat, self.draws)


@dataclass(frozen=True, kw_only=True)
class SquareSearch(Recipe):
    """Square attack: random search with square patches, without gradients.

    Args:
        queries: forward passes per example, at least 1.
        p_init: share of pixels in the first patch, in (0, 1].

    Source:
        Andriushchenko et al. 2020, algorithms 1-3.
    """

    gradient_free: ClassVar[bool] = True
    queries: int = 500
    p_init: float = 0.8

    def __call__(self, threat: Threat) -> Square:
        return Square(threat, self.queries, self.p_init)


@dataclass(frozen=True, kw_only=True)
class PatchSearch(Recipe):
    """Random search for the place and the content of one square, without gradients; for square-patch.

    Args:
        queries: forward passes per example, at least 1.
        run: queries after which the search begins anew, at least 1.

    Source:
        Croce et al. 2022 (Sparse-RS), section 4.2; beginning anew is ours.
    """

    gradient_free: ClassVar[bool] = True
    queries: int = 500
    run: int = 250

    def __call__(self, threat: Threat) -> Patches:
        return Patches(threat, self.queries, self.run)


@dataclass(frozen=True, kw_only=True)
class EncoderAwareSearch(Recipe):
    """Encoder-aware attack: a search over the spike patterns that pixels can reach; for codes of levels.

    Args:
        steps: gradients per restart, at least 1.
        restarts: number of runs, at least 1.
        refine: single pixels tried at the end of each run, at least 0.
        grid: changed pixels are multiples of 1/grid where that gives the same spikes; 0 for no grid.

    Source:
        Ours.
    """

    steps: int = 20
    restarts: int = 3
    refine: int = 20
    grid: int = 255

    def suits(self, model: Any) -> bool:
        encoder = getattr(model, "encoder", None)
        return encoder is not None and level_code(encoder) is not None

    def __call__(self, threat: Threat) -> EncoderAware:
        return EncoderAware(threat, self.steps, self.restarts, self.refine, grid=self.grid)

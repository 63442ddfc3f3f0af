"""Plain projected gradient steps: FGSM, BIM, PGD, and PGD with other gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spikeproof.attacks.parts.oracles import Exact, Expectation
from spikeproof.attacks.parts.steps import best_step
from spikeproof.attacks.recipe import Attack, GradientRecipe, Recipe
from spikeproof.attacks.search import GradientAttack
from spikeproof.errors import InputError
from spikeproof.gradients import Admitting, GradientRule
from spikeproof.protocols import Threat

__all__ = ["BIM", "EOTPGD", "FGSM", "PGD", "Through"]


@dataclass(frozen=True, kw_only=True)
class FGSM(GradientRecipe):
    """Fast gradient sign method: one step of full size from the clean image.

    Args:
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Example:
        >>> from spikeproof.threats import Linf
        >>> FGSM()(Linf(0.1)).step_size
        0.1

    Source:
        Goodfellow, Shlens & Szegedy 2015, section 4.
    """

    def __call__(self, threat: Threat) -> GradientAttack:
        step = best_step(threat)
        return GradientAttack(
            threat, 1, threat.epsilon, objective=self.objective, random_start=False, step=step
        )


@dataclass(frozen=True, kw_only=True)
class BIM(GradientRecipe):
    """Basic iterative method: small steps from the clean image.

    Args:
        steps: number of steps, at least 1.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.2.
    """

    steps: int = 20
    reach: float = 2.5

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        step = best_step(threat)
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, step=step
        )


@dataclass(frozen=True, kw_only=True)
class PGD(GradientRecipe):
    """Projected gradient descent: small steps from random starts.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

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
        step, many = best_step(threat), self.restarts
        return GradientAttack(threat, self.steps, size, objective=self.objective, restarts=many, step=step)


@dataclass(frozen=True, kw_only=True)
class EOTPGD(PGD):
    """Projected gradient descent with each gradient averaged over draws of the model's randomness.

    On a deterministic model the attack would repeat PGD at a multiple of its cost, so studies leave it out.

    Args:
        draws: gradients per step, at least 1.
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

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
            step=best_step(threat),
        )


@dataclass(frozen=True, kw_only=True)
class Through(Recipe):
    """A gradient attack with the gradients of another gradient rule, such as TSSL-BP.

    A network that was trained by one learning rule may seem robust to attacks with the gradients of another.
    So attack it with the gradients of its own rule and with surrogate gradients; the worst case counts.

    Args:
        gradient: the gradient rule.
        attack: a gradient attack that names no surrogate, since the gradient rule would not use it.

    Raises:
        InputError: the attack uses no gradient, or it names a surrogate.

    Example:
        >>> from spikeproof.gradients import TSSL
        >>> Through(gradient=TSSL(), attack=PGD(steps=5)).attack.steps
        5

    Source:
        Ding et al. 2023, part 2, who attack networks with the gradients of the rule that trained them.
    """

    gradient: GradientRule
    attack: Recipe = PGD()

    def __post_init__(self) -> None:
        if not isinstance(self.attack, GradientRecipe):
            raise InputError("Through takes a gradient attack", repr(self.attack), "Use this attack alone.")
        if self.attack.surrogate is not None:
            raise InputError(
                "Through takes an attack that names no surrogate",
                repr(self.attack),
                "Give the surrogate to the gradient rule.",
            )

    @property
    def for_stochastic(self) -> bool:  # type: ignore[override]
        return self.attack.for_stochastic

    def reads(self, model: object) -> bool:
        return self.attack.reads(model)

    def check(self, model: object) -> None:
        spec: Any = getattr(model, "spec", model)  # a candidate of a study is its own spec
        if isinstance(model, Admitting):
            model.admits(self.gradient)
        else:
            for neuron in (spec.neuron, spec.network.neuron(spec.neuron)):
                self.gradient.check(neuron)
        self.attack.check(model)

    def __call__(self, threat: Threat) -> Attack:
        return self.attack(threat)

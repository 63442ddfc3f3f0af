"""Named gradient attacks beyond plain projected steps: random jumps, momentum, and steps that adapt.

Each is a few lines that name its parts: start, step, schedule, objective and oracle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.attacks.parts.oracles import Expectation
from spikeproof.attacks.parts.schedules import AdaptiveSparsity, Halving, Oscillation
from spikeproof.attacks.parts.steps import (
    HeavyBall,
    Momentum,
    Nesterov,
    StableAdaptive,
    Steepest,
    TopShare,
    best_step,
)
from spikeproof.attacks.parts.targets import EveryOther, Targets
from spikeproof.attacks.recipe import GradientRecipe
from spikeproof.attacks.search import GradientAttack, Jump, instead
from spikeproof.errors import InputError
from spikeproof.losses import DLR, Objective
from spikeproof.protocols import Threat
from spikeproof.threats import L1

__all__ = ["APGD", "APGDDLR", "APGDT", "EOTFGSM", "MIM", "NIFGSM", "RFGSM", "SAPGD", "TargetedPGD"]


def _steep(recipe: object, threat: Threat, other: str = "PGD") -> None:
    """Refuse threats whose steepest step is no good one."""
    if best_step(threat) != Steepest():
        raise InputError(
            f"{type(recipe).__name__} knows the threats Linf and L2, and regions of them",
            repr(threat),
            instead(threat, f"Use {other}."),
        )


def _share(recipe: object, share: float) -> None:
    if not 0 < share < 1:
        raise InputError(
            f"The jump of {type(recipe).__name__} is a share in (0, 1)", f"jump={share}", "Try 0.5."
        )


@dataclass(frozen=True, kw_only=True)
class EOTFGSM(FGSM):
    """Fast gradient sign method with the gradient averaged over draws of the model's randomness.

    Args:
        draws: gradients, at least 1.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Athalye, Carlini & Wagner 2018, section 4.2. The published step is not always projected; this one is.
    """

    for_stochastic: ClassVar[bool] = True
    draws: int = 10

    def __call__(self, threat: Threat) -> GradientAttack:
        return GradientAttack(
            threat,
            1,
            threat.epsilon,
            oracle=Expectation(self.draws),
            objective=self.objective,
            random_start=False,
            rule=best_step(threat),
        )


@dataclass(frozen=True, kw_only=True)
class RFGSM(GradientRecipe):
    r"""Fast gradient sign method after a random jump, which leaves a masked neighbourhood of the image.

    .. math:: x' = x + j\epsilon\,d(\xi),\quad x_{adv} = x' + (1 - j)\,\epsilon\,d(\nabla L(x')),\quad
        \xi \sim N(0, 1)

    Args:
        jump: length of the jump, in epsilons, in (0, 1).
        restarts: number of jumps, at least 1.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Raises:
        InputError: a jump out of range, or a threat that knows no steepest direction.

    Source:
        Tramèr et al. 2018, eq. (7).
    """

    jump: float = 0.5
    restarts: int = 1

    def __post_init__(self) -> None:
        _share(self, self.jump)

    def __call__(self, threat: Threat) -> GradientAttack:
        _steep(self, threat, "FGSM")
        return GradientAttack(
            threat,
            1,
            (1 - self.jump) * threat.epsilon,
            objective=self.objective,
            restarts=self.restarts,
            start=Jump(self.jump),
        )


@dataclass(frozen=True, kw_only=True)
class MIM(GradientRecipe):
    """Momentum iterative method: steps along a decaying sum of normalised gradients, from the clean image.

    Args:
        steps: number of steps, at least 1.
        decay: weight of the past, at least 0.
        reach: steps times step size, in epsilons.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Example:
        >>> from spikeproof.threats import Linf
        >>> MIM(steps=20)(Linf(0.08)).rule
        Momentum(decay=1.0, step=Steepest())

    Source:
        Dong et al. 2018 (MI-FGSM), algorithm 1, where the reach is 1.
    """

    steps: int = 20
    decay: float = 1.0
    reach: float = 2.5

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        rule = Momentum(self.decay, best_step(threat))
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, rule=rule
        )


@dataclass(frozen=True, kw_only=True)
class NIFGSM(GradientRecipe):
    """Nesterov iterative method: momentum, with the gradient asked for where momentum alone would lead.

    Args:
        steps: number of steps, at least 1.
        decay: weight of the past, at least 0.
        reach: steps times step size, in epsilons.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Raises:
        InputError: a threat that knows no steepest direction.

    Source:
        Lin et al. 2020, algorithm 1 without its copies of the image at other scales.
    """

    steps: int = 20
    decay: float = 1.0
    reach: float = 1.0

    def __call__(self, threat: Threat) -> GradientAttack:
        _steep(self, threat, "MIM")
        size = self.reach * threat.epsilon / max(self.steps, 1)
        rule = Nesterov(self.decay)
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, rule=rule
        )


@dataclass(frozen=True, kw_only=True)
class APGD(GradientRecipe):
    """Auto-PGD on cross-entropy: steps that halve by themselves and go back to the best point found.

    Under L1 it takes sparse steps whose sparsity follows the best perturbation so far; the published run
    that begins in larger balls is left out.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, above 1 for stochastic models, at least 1.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Raises:
        InputError: a threat other than Linf, L2, regions of these, and L1.

    Example:
        >>> from spikeproof.threats import Linf
        >>> APGD()(Linf(0.1)).step_size, APGD()(Linf(0.1)).schedule
        (0.2, Oscillation(rho=0.75))

    Source:
        Croce & Hein 2020 (AutoAttack), algorithm 1; Croce & Hein 2021 ("Mind the box"), section 4 for L1.
    """

    steps: int = 100
    restarts: int = 1
    draws: int = 1

    def __call__(self, threat: Threat) -> GradientAttack:
        sparse = isinstance(threat, L1)
        if not sparse:
            _steep(self, threat)
        return GradientAttack(
            threat,
            self.steps,
            (1 if sparse else 2) * threat.epsilon,
            oracle=Expectation(self.draws),
            objective=self.objective,
            restarts=self.restarts,
            rule=TopShare() if sparse else HeavyBall(),
            schedule=AdaptiveSparsity() if sparse else Oscillation(),
        )


@dataclass(frozen=True, kw_only=True)
class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio, which the scale of the logits cannot mask.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, above 1 for stochastic models, at least 1.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Croce & Hein 2020 (AutoAttack), section 4.
    """

    objective: Objective = DLR()


@dataclass(frozen=True, kw_only=True)
class SAPGD(GradientRecipe):
    """SA-PGD: steps along normalised moments of the gradients, halved at the checkpoints of Auto-PGD.

    Published together with the adaptive surrogate ASSG: `through` with the gradient `assg` is that pair.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, above 1 for stochastic models, at least 1.
        objective: what is maximised.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Raises:
        InputError: a threat that knows no steepest direction.

    Source:
        Published code of ASSG, `attack.py`, whose output is the last image that fooled; here it is the best.
    """

    steps: int = 100
    restarts: int = 1
    draws: int = 1

    def __call__(self, threat: Threat) -> GradientAttack:
        _steep(self, threat)
        return GradientAttack(
            threat,
            self.steps,
            threat.epsilon,
            oracle=Expectation(self.draws),
            objective=self.objective,
            restarts=self.restarts,
            rule=StableAdaptive(),
            schedule=Halving(),
        )


@dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """Auto-PGD towards one other class after the other, on the targeted difference of logits ratio.

    An example is left alone once it has fallen, so most see few of the targets. With three classes or fewer
    the objective is to be `margin`.

    Args:
        targets: classes to aim at.
        steps: number of steps towards each target, at least 1.
        restarts: number of random starts per target, at least 1.
        draws: gradients per step, above 1 for stochastic models, at least 1.
        objective: what is maximised, in its targeted form.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Croce & Hein 2020 (AutoAttack), section 5.
    """

    objective: Objective = DLR()
    targets: Targets = EveryOther()

    def __call__(self, threat: Threat) -> GradientAttack:
        return replace(super().__call__(threat), targets=self.targets)


@dataclass(frozen=True, kw_only=True)
class TargetedPGD(PGD):
    """Projected gradient descent towards other classes: a given one, the least likely, or all in turn.

    Args:
        targets: classes to aim at.
        steps: number of steps towards each target, at least 1.
        restarts: number of random starts per target, at least 1.
        reach: steps times step size, in epsilons.
        objective: what is maximised, in its targeted form.
        surrogate: spike function to take gradients through, or None for the model's own.
        backward: encoder rule to take gradients through, or None for the model's own.

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.3; Gowal et al. 2019 (MultiTargeted), for all in turn.
    """

    targets: Targets = EveryOther()

    def __call__(self, threat: Threat) -> GradientAttack:
        return replace(super().__call__(threat), targets=self.targets)

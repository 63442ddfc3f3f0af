"""Gradient attacks beyond plain projected steps: random jumps, momentum, and adaptive step sizes.

Each recipe names its start, step, schedule, objective and oracle, and the search loop does the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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
from spikeproof.attacks.search import GradientAttack, Jump, Result, instead
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import DLR, Objective
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats import L1, Region

__all__ = ["APGD", "APGDDLR", "APGDL1", "APGDT", "EOTFGSM", "MIM", "NIFGSM", "RFGSM", "SAPGD", "TargetedPGD"]


def _steep(recipe: object, threat: Threat, other: str = "PGD") -> None:
    """Refuse threats under which a steepest step is weak."""
    if best_step(threat) != Steepest():
        raise InputError(
            f"{type(recipe).__name__} is defined for the threats Linf and L2, and regions of them",
            repr(threat),
            instead(threat, f"Use {other}."),
        )


def _share(recipe: object, share: float) -> None:
    if not 0 < share < 1:
        raise InputError(
            f"{type(recipe).__name__} needs a jump in (0, 1), in epsilons", f"jump={share}", "Try 0.5."
        )


@dataclass(frozen=True, kw_only=True)
class EOTFGSM(FGSM):
    """Fast gradient sign method with the gradient averaged over draws of the model's randomness.

    Args:
        draws: gradients, at least 1.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Source:
        Athalye, Carlini & Wagner 2018, section 4.2. The published step is not always projected; here it is.
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
            step=best_step(threat),
        )


@dataclass(frozen=True, kw_only=True)
class RFGSM(GradientRecipe):
    r"""Fast gradient sign method after a random jump out of a region of masked gradients around the image.

    .. math:: x' = x + j\epsilon\,d(\xi),\quad x_{adv} = x' + (1 - j)\,\epsilon\,d(\nabla L(x')),\quad
        \xi \sim N(0, 1)

    Args:
        jump: length of the jump, in epsilons, in (0, 1).
        restarts: number of random jumps, at least 1.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a jump out of range, or a threat other than Linf, L2 and regions of them.

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
        decay: weight of the sum so far, at least 0.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Example:
        >>> from spikeproof.threats import Linf
        >>> MIM(steps=20)(Linf(0.08)).step
        Momentum(decay=1.0, step=Steepest())

    Source:
        Dong et al. 2018 (MI-FGSM), algorithm 1, where the reach is 1.
    """

    steps: int = 20
    decay: float = 1.0
    reach: float = 2.5

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        step = Momentum(self.decay, best_step(threat))
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, step=step
        )


@dataclass(frozen=True, kw_only=True)
class NIFGSM(GradientRecipe):
    """Nesterov iterative method: momentum, with the gradient evaluated where momentum alone would lead.

    Args:
        steps: number of steps, at least 1.
        decay: weight of the sum so far, at least 0.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a threat other than Linf, L2 and regions of them.

    Source:
        Lin et al. 2020, algorithm 1, without the copies of the image at other scales.
    """

    steps: int = 20
    decay: float = 1.0
    reach: float = 1.0

    def __call__(self, threat: Threat) -> GradientAttack:
        _steep(self, threat, "MIM")
        size = self.reach * threat.epsilon / max(self.steps, 1)
        step = Nesterov(self.decay)
        return GradientAttack(
            threat, self.steps, size, objective=self.objective, random_start=False, step=step
        )


@dataclass(frozen=True, kw_only=True)
class APGD(GradientRecipe):
    """Auto-PGD on cross-entropy: the step size adapts, and the run goes back to its best iterate.

    Under L1 the steps are sparse, and their sparsity follows the best perturbation so far; `APGDL1` is the
    published version, whose runs begin in larger balls.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, averaged; at least 1, and more for stochastic models.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

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
            step=TopShare() if sparse else HeavyBall(),
            schedule=AdaptiveSparsity() if sparse else Oscillation(),
        )


@dataclass(frozen=True)
class Shrinking:
    """A chain of searches in shrinking sets, each of which starts from the best images of the previous one.

    Only the last search is within the threat. The searches before it continue after they fool the model.

    Args:
        attacks: the searches, from the largest set down to the set of the threat; at least one.
        restarts: number of chains, at least 1; an example that has fallen keeps its first image.
    """

    attacks: tuple[GradientAttack, ...]
    restarts: int = 1

    def __post_init__(self) -> None:
        if not self.attacks or self.restarts < 1:
            raise InputError(
                "Shrinking needs at least one attack and one restart", f"restarts={self.restarts}", "Try 1."
            )

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`, with gradients from `through`."""
        counts = torch.zeros(2, len(x), dtype=torch.int64, device=x.device)
        zeros = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        losses, kept, fell = list[Tensor](), x.detach().clone(), torch.full_like(y, -1)
        success = torch.zeros_like(y, dtype=torch.bool)
        for restart in range(self.restarts):
            start: _StartAt | None = None
            for i, attack in enumerate(self.attacks):
                last = i == len(self.attacks) - 1
                begun = replace(attack, stop_when_fooled=last, start=start)
                found = begun(model, x, y, key.fold("set", restart, i), through=through)
                start = _StartAt(found.x_adv)
                counts[0] += found.queries
                counts[1] += found.backward_queries
                zeros += found.zero_gradients * found.backward_queries
                if last and found.fell is not None:
                    fell = torch.where((fell < 0) & (found.fell >= 0), found.fell + len(losses), fell)
                losses += list(found.losses)
            new = ~success if restart == 0 else ~success & found.success
            kept[new], success = found.x_adv[new], success | found.success
        trace = torch.stack(losses) if losses else x.new_zeros(0, len(x))
        share = zeros / counts[1].clamp(min=1)
        return Result(kept, success, trace, counts[0], counts[1], share, fell)


@dataclass(frozen=True, eq=False)
class _StartAt:
    """A start at given images, projected onto the set."""

    images: Tensor

    def __call__(self, threat: Threat, x: Tensor, key: Key) -> Tensor:
        return threat.project(self.images, x)


@dataclass(frozen=True, kw_only=True)
class APGDL1(APGD):
    r"""Auto-PGD under L1 as in AutoAttack: in balls of three times, two times and one times the budget.

    .. math:: x^{(3)} \in B_{3\epsilon} \to x^{(2)} \in B_{2\epsilon} \to x' \in B_\epsilon,\quad
        \text{with } 0.3,\ 0.3,\ 0.4 \text{ of the steps}

    Each run takes the sparse steps of `APGD` and begins at the best image of the larger ball, projected.
    AutoAttack has 5 restarts, and in addition targeted runs towards other classes.

    Args:
        steps: number of steps in all three balls, at least 3.
        restarts: number of random starts, each in all three balls, at least 1.
        draws: gradients per step, averaged; at least 1, and more for stochastic models.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a threat other than L1 and regions of it.

    Example:
        >>> [(run.threat.epsilon, run.steps) for run in APGDL1(steps=100)(L1(2.0)).attacks]
        [(6.0, 30), (4.0, 30), (2.0, 40)]

    Source:
        Croce & Hein 2021 ("Mind the box"), section 4 and its published code (`decr_eps_pgd`).
    """

    def __call__(self, threat: Threat) -> Shrinking:  # type: ignore[override]
        ball = threat.ball if isinstance(threat, Region) else threat
        if not isinstance(ball, L1):
            raise InputError(
                "APGDL1 is defined for the threat L1",
                repr(threat),
                instead(threat, "Use apgd-ce for this one."),
            )
        first, second = (max(int(0.3 * self.steps), 1) for _ in range(2))
        runs = ((3, first), (2, second), (1, max(self.steps - first - second, 1)))
        sized: Any = threat
        return Shrinking(
            tuple(
                GradientAttack(
                    larger := replace(sized, epsilon=times * threat.epsilon),
                    steps,
                    larger.epsilon,
                    oracle=Expectation(self.draws),
                    objective=self.objective,
                    step=TopShare(),
                    schedule=AdaptiveSparsity(),
                )
                for times, steps in runs
            ),
            self.restarts,
        )


@dataclass(frozen=True, kw_only=True)
class APGDDLR(APGD):
    """Auto-PGD on the difference of logits ratio, which the scale of the logits cannot mask.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, averaged; at least 1, and more for stochastic models.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Source:
        Croce & Hein 2020 (AutoAttack), section 4.
    """

    objective: Objective = DLR()


@dataclass(frozen=True, kw_only=True)
class SAPGD(GradientRecipe):
    """SA-PGD: steps along normalised moments of the gradients, halved at the checkpoints of Auto-PGD.

    It was published together with the adaptive surrogate ASSG; `through` with the gradient `assg` and this
    attack is that pair.

    Args:
        steps: number of steps, at least 1.
        restarts: number of random starts, at least 1.
        draws: gradients per step, averaged; at least 1, and more for stochastic models.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a threat other than Linf, L2 and regions of them.

    Source:
        Published code of ASSG, `attack.py`, which returns the last image that fooled; here the best image is
        returned.
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
            step=StableAdaptive(),
            schedule=Halving(),
        )


@dataclass(frozen=True, kw_only=True)
class APGDT(APGD):
    """Auto-PGD towards one other class after the other, on the targeted difference of logits ratio.

    An example is not attacked further once it has fallen, so most examples need few of the targets. With
    three classes or fewer, use the objective `margin`.

    Args:
        targets: the target classes.
        steps: number of steps towards each target, at least 1.
        restarts: number of random starts per target, at least 1.
        draws: gradients per step, averaged; at least 1, and more for stochastic models.
        objective: the function that the attack maximises, in its targeted form.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

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
        targets: the target classes.
        steps: number of steps towards each target, at least 1.
        restarts: number of random starts per target, at least 1.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises, in its targeted form.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.3; Gowal et al. 2019 (MultiTargeted), for all in turn.
    """

    targets: Targets = EveryOther()

    def __call__(self, threat: Threat) -> GradientAttack:
        return replace(super().__call__(threat), targets=self.targets)

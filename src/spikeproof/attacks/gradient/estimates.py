"""Gradients estimated from logits alone: finite differences, SPSA and NES, and the attacks named after them.

All estimates compare the objective at pairs of images and need no backward pass, so a masked gradient does
not stop them. Images stay within [0, 1]: a pair that would leave this box is clipped to it, and the estimate
uses the real distance of the two images:

.. math:: \\hat g = \\sum_k (L(x_k^+) - L(x_k^-))\\,u_k \\Big/ \\sum_k (x_k^+ - x_k^-)\\,u_k

pixel by pixel. Inside the box this is the published estimator. At the edge of the box the published estimator
is too small by up to a half, while this one remains an estimate of the gradient.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.parts.oracles import Evaluate, Oracle, OracleAnswer
from spikeproof.attacks.parts.steps import best_step
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import GradientAttack
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin, Objective
from spikeproof.protocols import Threat

__all__ = ["NES", "SPSA", "FiniteDifferences", "GaussianEstimate", "RademacherEstimate"]


class _Pairs(Oracle):
    """An oracle that compares the objective at `x + radius u` and `x - radius u` for several directions u."""

    estimates: ClassVar[bool] = True  # type: ignore[misc]
    radius: float

    def directions(self, x: Float[Tensor, "B *F"], key: Key, pair: int) -> Float[Tensor, "B *F"]:
        """The direction of one pair, for each example."""
        raise NotImplementedError(f"{type(self).__name__} defines no directions")

    def pairs(self, x: Float[Tensor, "B *F"]) -> int:
        """The number of pairs per call."""
        raise NotImplementedError(f"{type(self).__name__} defines no pairs")

    def passes(self, x: Float[Tensor, "B *F"]) -> tuple[int, int]:
        return 1 + 2 * self.pairs(x), 0

    @torch.no_grad()
    def __call__(self, evaluate: Evaluate, x: Float[Tensor, "B *F"], key: Key) -> OracleAnswer:
        x = x.detach()
        rise, run = torch.zeros_like(x), torch.zeros_like(x)
        value, fooled = evaluate(x, key.fold("centre"))
        for pair in range(self.pairs(x)):
            u = self.directions(x, key.fold("direction", pair), pair)
            up, down = ((x + sign * self.radius * u).clamp(0, 1) for sign in (1, -1))
            high, low = (
                evaluate(each, key.fold("look", 2 * pair + i))[0] for i, each in enumerate((up, down))
            )
            change = (high - low).nan_to_num(0.0, 0.0, 0.0)
            rise += change.view(-1, *[1] * (x.ndim - 1)) * u
            run += (up - down) * u
        return OracleAnswer(value, torch.where(run > 0, rise / run, 0.0), fooled)


def _checked(part: object, radius: float, pairs: int | None) -> None:
    if not 0 < radius < math.inf or (pairs is not None and pairs < 1):
        raise InputError(
            f"{type(part).__name__} needs a positive radius and at least one pair",
            f"radius={radius}, pairs={pairs}",
            "Try the default.",
        )


@dataclass(frozen=True)
class FiniteDifferences(_Pairs):
    """Central differences, one pixel after the other: the gradient itself where the objective is smooth.

    On spiking networks, whose logits are step functions of the image, it is the mean slope over an interval
    of twice the radius.

    Args:
        radius: half the distance between the two images of a pair, in pixel value, positive.

    Example:
        >>> evaluate = lambda x, key: ((x**2).sum(1), torch.zeros(len(x)))
        >>> FiniteDifferences(0.1)(evaluate, torch.tensor([[0.25, 0.5]]), Key.of(0)).grad
        tensor([[0.5000, 1.0000]])

    Source:
        Chen et al. 2017 (ZOO), eq. (6).
    """

    radius: float = 1e-2

    def __post_init__(self) -> None:
        _checked(self, self.radius, None)

    def pairs(self, x: Float[Tensor, "B *F"]) -> int:
        return math.prod(x.shape[1:])

    def directions(self, x: Float[Tensor, "B *F"], key: Key, pair: int) -> Float[Tensor, "B *F"]:
        unit = torch.zeros_like(x).flatten(1)
        unit[:, pair] = 1
        return unit.view_as(x)


class _Sampled(_Pairs):
    samples: int

    def pairs(self, x: Float[Tensor, "B *F"]) -> int:
        return self.samples


@dataclass(frozen=True)
class RademacherEstimate(_Sampled):
    """Simultaneous perturbation: all pixels change at once, each up or down at random.

    Args:
        samples: pairs per estimate, at least 1.
        radius: change of every pixel, in pixel value, positive.

    Source:
        Spall 1992 (SPSA), section 2.
    """

    samples: int = 32
    radius: float = 1e-2

    def __post_init__(self) -> None:
        _checked(self, self.radius, self.samples)

    def directions(self, x: Float[Tensor, "B *F"], key: Key, pair: int) -> Float[Tensor, "B *F"]:
        return torch.where(key.uniform(x.shape, device=x.device) < 0.5, -1.0, 1.0).to(x.dtype)


@dataclass(frozen=True)
class GaussianEstimate(_Sampled):
    """Natural evolution strategies: antithetic pairs of normal directions.

    Args:
        samples: pairs per estimate, at least 1.
        radius: standard deviation of the change of a pixel, in pixel value, positive.

    Source:
        Salimans et al. 2017, section 2; Ilyas et al. 2018, section 2.1.
    """

    samples: int = 25
    radius: float = 1e-3

    def __post_init__(self) -> None:
        _checked(self, self.radius, self.samples)

    def directions(self, x: Float[Tensor, "B *F"], key: Key, pair: int) -> Float[Tensor, "B *F"]:
        return key.normal(x.shape, device=x.device).to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class _Estimated(Recipe):
    """Projected steps along an estimated gradient."""

    gradient_free: ClassVar[bool] = True
    steps: int = 20
    samples: int = 32
    radius: float = 0.05
    reach: float = 2.5
    objective: Objective = Margin()

    def oracle(self) -> Oracle:
        """The oracle that estimates gradients."""
        raise NotImplementedError(f"{type(self).__name__} estimates nothing")

    def __call__(self, threat: Threat) -> GradientAttack:
        size = self.reach * threat.epsilon / max(self.steps, 1)
        return GradientAttack(
            threat,
            self.steps,
            size,
            oracle=self.oracle(),
            objective=self.objective,
            random_start=False,
            step=best_step(threat),
        )


@dataclass(frozen=True, kw_only=True)
class SPSA(_Estimated):
    """SPSA: steps along a gradient estimated from pairs of images, all of whose pixels differ at random.

    The paper uses the steps of Adam; here each step suits the threat. The logits of a spiking network are
    step functions of the image, so with a small radius, such as the paper's 0.01, they often do not change at
    all.

    Args:
        steps: number of steps, at least 1.
        samples: pairs of images per step, at least 1.
        radius: change of every pixel of a pair, in pixel value, positive.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.

    Example:
        >>> from spikeproof.threats import Linf
        >>> SPSA(steps=5)(Linf(0.1)).oracle
        RademacherEstimate(samples=32, radius=0.05)

    Source:
        Uesato et al. 2018, section 4.
    """

    def oracle(self) -> RademacherEstimate:
        return RademacherEstimate(self.samples, self.radius)


@dataclass(frozen=True, kw_only=True)
class NES(_Estimated):
    """NES: steps along a gradient estimated from antithetic pairs of images with normal noise.

    With the paper's radius of 0.001 the logits of a spiking network often do not change at all.

    Args:
        steps: number of steps, at least 1.
        samples: pairs of images per step, at least 1.
        radius: standard deviation of the noise, in pixel value, positive.
        reach: number of steps times step size, in epsilons.
        objective: the function that the attack maximises.

    Example:
        >>> from spikeproof.threats import Linf
        >>> NES(samples=25)(Linf(0.1)).oracle
        GaussianEstimate(samples=25, radius=0.05)

    Source:
        Ilyas et al. 2018, sections 2.1 and 2.2 (NES and projected steps).
    """

    def oracle(self) -> GaussianEstimate:
        return GaussianEstimate(self.samples, self.radius)

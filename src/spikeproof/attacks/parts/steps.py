"""Steps of gradient attacks: from an iterate and its gradient to the next iterate, within the threat's set.

A step keeps no state of its own. What it needs from earlier calls, such as momentum, is a `Memory` that the
search passes from call to call: a dictionary of tensors whose first axis is the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Extreme, Threat
from spikeproof.threats import L2, Linf, Region, boxed
from spikeproof.threats.balls import room

__all__ = [
    "Adam",
    "FrankWolfe",
    "HeavyBall",
    "Memory",
    "Momentum",
    "Nesterov",
    "Position",
    "StableAdaptive",
    "Steepest",
    "Step",
    "TopShare",
    "best_step",
]

Memory = dict[str, Tensor]
"""What a step or a schedule keeps between its calls; the first axis of every tensor is the batch."""


class Position(NamedTuple):
    """The position that a step starts from, and the size of the step."""

    threat: Threat
    x: Float[Tensor, "B *F"]  # clean images
    here: Float[Tensor, "B *F"]  # the current iterate, a member of the threat's set
    size: Float[Tensor, "B"]  # length of the step, in units of epsilon (pixel value)
    share: Float[Tensor, "B"]  # share of values that a sparse step moves; NaN: the share of the step itself
    key: Key = Key.of(0)  # randomness of the step


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """One value per example, in a shape that broadcasts over images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _mean(values: Tensor) -> Tensor:
    """The mean over the values of each example, in a shape that broadcasts over images."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    return per_example(flat.mean(1), values)


def _over(values: Tensor, scale: Tensor) -> Tensor:
    """The quotient, which is zero where numerator and denominator are zero."""
    return values / scale.clamp(min=torch.finfo(values.dtype).tiny)


class Step:
    """The map from an iterate and its gradient to the next iterate."""

    whole: ClassVar[bool] = False  # whether every iterate holds whole events
    draws: ClassVar[bool] = True  # whether a step may draw from the key of its position

    def begin(self, x: Float[Tensor, "B *F"]) -> Memory:
        """The memory before the first step."""
        return {}

    def gradient_point(self, position: Position, memory: Memory) -> Float[Tensor, "B *F"]:
        """The member of the set at which the gradient is evaluated; by default the iterate itself."""
        return position.here

    def __call__(
        self, position: Position, grad: Float[Tensor, "B *F"], memory: Memory
    ) -> tuple[Float[Tensor, "B *F"], Memory]:
        """The next iterate, and the new memory."""
        raise NotImplementedError(f"{type(self).__name__} defines no step")


@dataclass(frozen=True)
class Steepest(Step):
    r"""A step in the steepest direction of the threat, projected: signs under Linf, unit vectors under L2.

    .. math:: x_{i+1} = \Pi\,(x_i + \alpha\, d(\nabla_x L(x_i)))

    Source:
        Madry et al. 2018, section 2.1.
    """

    draws: ClassVar[bool] = False

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        moved = position.here + per_example(position.size, grad) * position.threat.steepest(grad)
        return position.threat.project(moved, position.x), memory


@dataclass(frozen=True)
class TopShare(Step):
    r"""A step along the signs of the largest gradient components, of length alpha in L1, then projected.

    .. math:: x_{i+1} = \Pi\,(x_i + \alpha\, s / \|s\|_1),\quad
        s = \mathrm{sign}(g) \cdot 1[|g| \text{ among the largest}]

    The gradient of a value counts as zero where the value lies at the edge of the box and the gradient points
    outwards. The published steps spend part of their length on such values.

    Args:
        share: share of the values that change, in (0, 1], where the schedule sets no share.

    Raises:
        InputError: a share out of range.

    Source:
        Tramèr & Boneh 2019, section 4.1 (SLIDE); Croce & Hein 2021 ("Mind the box"), section 4.
    """

    draws: ClassVar[bool] = False

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError("A share of values is above 0 and at most 1", f"share={self.share}", "Try 0.05.")

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        free = torch.where(room(grad, position.here) > 0, grad, 0 * grad)
        if isinstance(position.threat, Region):
            free = torch.where(position.threat.mask(grad), free, 0 * free)
        flat = free.flatten(1) if free.ndim > 1 else free[:, None]
        if not flat.numel():
            return position.here, memory
        share = torch.where(position.share.isnan(), self.share, position.share)
        count = (share * flat.shape[1]).ceil().clamp(1, flat.shape[1]).long()
        ordered = flat.abs().sort(dim=1, descending=True).values
        least = ordered.gather(1, count[:, None] - 1)
        sign = torch.where(flat.abs() >= least, flat.sign(), 0 * flat)
        sign = _over(sign, sign.abs().sum(1, keepdim=True)).view(grad.shape)
        moved = position.here + per_example(position.size, grad) * sign
        return position.threat.project(moved, position.x), memory


@dataclass(frozen=True)
class FrankWolfe(Step):
    r"""A step towards the member of the set, box included, at which the linearised objective is largest.

    .. math:: x_{i+1} = \Pi\,(x_i + \gamma_i\,(\arg\max_{s \in S} g \cdot s - x_i)),\quad
        \gamma_i = \frac{2}{i + 2}

    The first step goes all the way, which is optimal on a linear model. In a convex set the projection
    changes nothing; in sets of few changed pixels the projection decides which pixels stay changed. The step
    has the length given above and ignores the size that the schedule sets.

    Source:
        Frank & Wolfe 1956; step sizes of Jaggi 2013, algorithm 1.
    """

    draws: ClassVar[bool] = False

    def begin(self, x: Tensor) -> Memory:
        return {"age": torch.zeros(len(x), dtype=x.dtype, device=x.device)}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        threat = cast(Extreme, position.threat)
        goal = threat.extreme(grad, position.x)
        still = (grad == 0).flatten(1).all(1)  # without a slope there is no goal
        gamma = torch.where(still, 0.0, 2 / (memory["age"] + 2))
        gamma = per_example(gamma, grad)
        moved = torch.where(gamma == 1, goal, position.here + gamma * (goal - position.here))
        return threat.project(moved, position.x), {**memory, "age": memory["age"] + 1}


@dataclass(frozen=True)
class HeavyBall(Step):
    r"""A steepest step, averaged with the previous step.

    .. math:: z = \Pi\,(x_i + \alpha\, d(g)),\quad
        x_{i+1} = \Pi\,(x_i + a\,(z - x_i) + (1 - a)(x_i - x_{i-1}))

    Args:
        weight: weight `a` of the new step, in (0, 1]; the first step has weight 1.

    Raises:
        InputError: a weight out of range.

    Source:
        Croce & Hein 2020 (AutoAttack), algorithm 1.
    """

    draws: ClassVar[bool] = False

    weight: float = 0.75

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise InputError("A weight is above 0 and at most 1", f"weight={self.weight}", "Try 0.75.")

    def begin(self, x: Tensor) -> Memory:
        return {"before": x.clone(), "age": torch.zeros(len(x), dtype=x.dtype, device=x.device)}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        here, threat = position.here, position.threat
        ahead = threat.project(here + per_example(position.size, grad) * threat.steepest(grad), position.x)
        first = memory["age"] == 0
        weight = per_example(torch.where(first, 1.0, self.weight).to(here.dtype), grad)
        before = torch.where(per_example(first, grad), here, memory["before"])
        moved = here + weight * (ahead - here) + (1 - weight) * (here - before)
        return threat.project(moved, position.x), {"before": here, "age": memory["age"] + 1}


@dataclass(frozen=True)
class Momentum(Step):
    r"""Steps along a decaying sum of gradients, each scaled to a mean absolute value of one.

    .. math:: m_{i+1} = \mu\, m_i + g / \overline{|g|}

    Args:
        decay: weight `mu` of the sum so far, at least 0.
        step: the step along the sum.

    Raises:
        InputError: a negative decay.

    Source:
        Dong et al. 2018 (MI-FGSM), eq. (6). The paper divides by the sum of absolute values; the mean differs
        by a constant factor, which changes no direction.
    """

    decay: float = 1.0
    step: Step = Steepest()

    def __post_init__(self) -> None:
        if not self.decay >= 0:
            raise InputError("A decay is at least 0", f"decay={self.decay}", "Try 1.0.")

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.step.draws

    def begin(self, x: Tensor) -> Memory:
        return {"momentum": torch.zeros_like(x), **self.step.begin(x)}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        total = _over(grad, _mean(grad.abs())) + self.decay * memory["momentum"]
        moved, kept = self.step(position, total, memory)
        return moved, {**kept, "momentum": total}


@dataclass(frozen=True)
class Nesterov(Momentum):
    r"""Momentum, with the gradient evaluated where the momentum alone would lead, projected into the set.

    .. math:: g = \nabla_x L(\Pi\,(x_i + \alpha \mu\, m_i))

    Args:
        decay: weight `mu` of the sum so far, at least 0.
        step: the step along the sum.

    Source:
        Lin et al. 2020 (NI-FGSM), eq. (6)-(8), with gradients scaled to a mean absolute value of one. Scaled
        to a sum of one, as printed, the look-ahead would be shorter than a step by a factor of the number of
        pixels. Published code evaluates the gradient outside the box, where encoders are not defined.
    """

    def gradient_point(self, position: Position, memory: Memory) -> Tensor:
        ahead = position.here + per_example(self.decay * position.size, position.here) * memory["momentum"]
        return position.threat.project(ahead, position.x)


@dataclass(frozen=True)
class Adam(Step):
    r"""Steps along the ratio of the first and second moments of the gradients, with bias correction.

    .. math:: u = \frac{\hat m}{\sqrt{\hat v} + 10^{-12}},\quad x_{i+1} = \Pi\,(x_i + \alpha\,u)

    Under Linf the direction is `u` clipped to [-1, 1], so that no value changes by more than `alpha`; under
    other threats the step is the steepest step for `u`. Gradients are first scaled to a mean absolute value
    of one, so that their scale does not matter.

    Args:
        first: decay rate of the mean, in [0, 1).
        second: decay rate of the mean square, in [0, 1).

    Raises:
        InputError: a decay rate out of range.

    Source:
        Kingma & Ba 2015, algorithm 1.
    """

    draws: ClassVar[bool] = False

    first: float = 0.9
    second: float = 0.999

    def __post_init__(self) -> None:
        if not (0 <= self.first < 1 and 0 <= self.second < 1):
            raise InputError(
                "A decay rate is at least 0 and below 1",
                f"first={self.first}, second={self.second}",
                "Try first=0.9, second=0.999.",
            )

    def begin(self, x: Tensor) -> Memory:
        age = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x), "age": age}

    def moments(self, grad: Tensor, memory: Memory) -> tuple[Memory, Tensor]:
        """The new memory, and the direction of the step."""
        grad, age = _over(grad, _mean(grad.abs())), memory["age"] + 1
        mean = self.first * memory["mean"] + (1 - self.first) * grad
        square = self.second * memory["square"] + (1 - self.second) * grad.square()
        now = per_example(age, grad)
        true_mean, true_square = mean / (1 - self.first**now), square / (1 - self.second**now)
        return {"mean": mean, "square": square, "age": age}, true_mean / (true_square.sqrt() + 1e-12)

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        memory, direction = self.moments(grad, memory)
        unit = direction.clamp(-1, 1) if boxed(position.threat) else position.threat.steepest(direction)
        return position.threat.project(
            position.here + per_example(position.size, grad) * unit, position.x
        ), memory


@dataclass(frozen=True)
class StableAdaptive(Adam):
    r"""The step of SA-PGD: the moments of normalised gradients are decaying sums.

    .. math:: m_{i+1} = \beta_1 m_i + g / \overline{|g|},\quad v_{i+1} = \beta_2 v_i + g^2 / \overline{g^2}
        ,\quad u = m / (\sqrt{v} + 10^{-12})

    Args:
        first: decay rate of the sum of gradients, in [0, 1).
        second: decay rate of the sum of squares, in [0, 1).

    Source:
        Published code of SA-PGD (ASSG), `attack.py`.
    """

    first: float = 0.5
    second: float = 0.8

    def moments(self, grad: Tensor, memory: Memory) -> tuple[Memory, Tensor]:
        # scaled to a largest value of one, because squares of small gradients underflow
        grad = _over(grad, grad.abs().flatten(1).amax(1).view(-1, *[1] * (grad.ndim - 1)))
        mean = self.first * memory["mean"] + _over(grad, _mean(grad.abs()))
        square = self.second * memory["square"] + _over(grad.square(), _mean(grad.square()))
        return {"mean": mean, "square": square, "age": memory["age"] + 1}, mean / (square.sqrt() + 1e-12)


def best_step(threat: Threat) -> Step:
    """The step that suits the geometry of a threat.

    Under Linf and L2 it is the steepest step. A steepest step under L1 changes a single value, and a steepest
    step among few changed pixels ignores the box. Where a threat gives the extreme member of its set for a
    linear function, the step is Frank-Wolfe.

    Example:
        >>> from spikeproof.threats import L0
        >>> best_step(Linf(0.1)), best_step(L0(3))
        (Steepest(), FrankWolfe())
    """
    ball = threat.ball if isinstance(threat, Region) else threat
    if isinstance(ball, (Linf, L2)) or not hasattr(threat, "extreme"):
        return Steepest()
    return FrankWolfe()

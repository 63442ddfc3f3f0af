"""Steps of gradient attacks: from an iterate and a gradient to the next member of the threat's set.

A step keeps no state of its own. What it remembers between calls, such as momentum, is a `Memory` that the
search hands from call to call: tensors whose first axis is the batch.
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
"""What a step or a schedule remembers; the first axis of every tensor is the batch."""


class Position(NamedTuple):
    """Where a step starts from."""

    threat: Threat
    x: Float[Tensor, "B *F"]  # clean
    here: Float[Tensor, "B *F"]  # a member of the threat's set
    size: Float[Tensor, "B"]  # length of the step, in units of epsilon (pixel value)
    share: Float[Tensor, "B"]  # share of the values that a sparse step moves, NaN where it is the step's own
    key: Key = Key.of(0)  # randomness of the step


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """One value per example, to be multiplied with images."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _mean(values: Tensor) -> Tensor:
    """Mean of each example, in the axes of images."""
    flat = values.flatten(1) if values.ndim > 1 else values[:, None]
    return per_example(flat.mean(1), values)


def _over(values: Tensor, scale: Tensor) -> Tensor:
    """The quotient; zero where both are zero."""
    return values / scale.clamp(min=torch.finfo(values.dtype).tiny)


class Step:
    """A way from a gradient to the next iterate."""

    whole: ClassVar[bool] = False  # whether it leads from one train of whole events to another

    def begin(self, x: Float[Tensor, "B *F"]) -> Memory:
        """What is remembered before the first step."""
        return {}

    def gradient_point(self, position: Position, memory: Memory) -> Float[Tensor, "B *F"]:
        """The member at which the gradient is asked for."""
        return position.here

    def __call__(
        self, position: Position, grad: Float[Tensor, "B *F"], memory: Memory
    ) -> tuple[Float[Tensor, "B *F"], Memory]:
        """The next member, and what is remembered."""
        raise NotImplementedError(f"{type(self).__name__} goes nowhere")


@dataclass(frozen=True)
class Steepest(Step):
    r"""Along the steepest direction of the threat, then projected: signs under Linf, unit vectors under L2.

    .. math:: x_{i+1} = \Pi\,(x_i + \alpha\, d(\nabla_x L(x_i)))

    Source:
        Madry et al. 2018, section 2.1.
    """

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        moved = position.here + per_example(position.size, grad) * position.threat.steepest(grad)
        return position.threat.project(moved, position.x), memory


@dataclass(frozen=True)
class TopShare(Step):
    r"""The sign of the largest components of the gradient, at length alpha in L1, then projected.

    .. math:: x_{i+1} = \Pi\,(x_i + \alpha\, s / \|s\|_1),\quad
        s = \mathrm{sign}(g) \cdot 1[|g| \text{ among the largest}]

    Values at the wall of the box that the gradient pushes outwards count as zero. The published steps spend
    their length on them, too.

    Args:
        share: share of the values that move, in (0, 1], where the schedule sets none.

    Raises:
        InputError: a share out of range.

    Source:
        Tramèr & Boneh 2019, section 4.1 (SLIDE); Croce & Hein 2021 ("Mind the box"), section 4.
    """

    share: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError("A share is above 0 and at most 1", f"share={self.share}", "Try 0.05.")

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
    r"""Towards the member at which the linearised objective is largest; the box is seen before the step.

    .. math:: x_{i+1} = \Pi\,(x_i + \gamma_i\,(\arg\max_{s \in S} g \cdot s - x_i)),\quad
        \gamma_i = \frac{2}{i + 2}

    The first step goes all the way, so that a linear model falls as far as it can. In a set that is convex
    nothing is left to project; in sets of few pixels the projection decides which pixels stay.
    The length of the step is its own, and the schedule's is not used.

    Source:
        Frank & Wolfe 1956; step sizes of Jaggi 2013, algorithm 1.
    """

    def begin(self, x: Tensor) -> Memory:
        return {"age": torch.zeros(len(x), dtype=x.dtype, device=x.device)}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        threat = cast(Extreme, position.threat)
        goal = threat.extreme(grad, position.x)
        still = (grad == 0).flatten(1).all(1)  # no slope, no goal
        gamma = torch.where(still, 0.0, 2 / (memory["age"] + 2))
        gamma = per_example(gamma, grad)
        moved = torch.where(gamma == 1, goal, position.here + gamma * (goal - position.here))
        return threat.project(moved, position.x), {**memory, "age": memory["age"] + 1}


@dataclass(frozen=True)
class HeavyBall(Step):
    r"""A steepest step mixed with the one before it.

    .. math:: z = \Pi\,(x_i + \alpha\, d(g)),\quad
        x_{i+1} = \Pi\,(x_i + a\,(z - x_i) + (1 - a)(x_i - x_{i-1}))

    Args:
        weight: weight `a` of the new step, in (0, 1]; 1 in the first step.

    Raises:
        InputError: a weight out of range.

    Source:
        Croce & Hein 2020 (AutoAttack), algorithm 1.
    """

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
    r"""Steps along a sum of past gradients, each of mean size one.

    .. math:: m_{i+1} = \mu\, m_i + g / \overline{|g|}

    Args:
        decay: weight `mu` of the past, at least 0.
        step: the step along the sum.

    Raises:
        InputError: a negative decay.

    Source:
        Dong et al. 2018 (MI-FGSM), eq. (6). The paper divides by the sum of absolute values; the mean differs
        by a constant factor, which no direction sees.
    """

    decay: float = 1.0
    step: Step = Steepest()

    def __post_init__(self) -> None:
        if not self.decay >= 0:
            raise InputError("A decay is at least 0", f"decay={self.decay}", "Try 1.0.")

    def begin(self, x: Tensor) -> Memory:
        return {"momentum": torch.zeros_like(x), **self.step.begin(x)}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        total = _over(grad, _mean(grad.abs())) + self.decay * memory["momentum"]
        moved, kept = self.step(position, total, memory)
        return moved, {**kept, "momentum": total}


@dataclass(frozen=True)
class Nesterov(Momentum):
    r"""Momentum whose gradient is asked for where the momentum alone would lead, projected into the set.

    .. math:: g = \nabla_x L(\Pi\,(x_i + \alpha \mu\, m_i))

    Args:
        decay: weight `mu` of the past, at least 0.
        step: the step along the sum.

    Source:
        Lin et al. 2020 (NI-FGSM), eq. (6)-(8), with gradients of mean size one: of sum one, as printed, the
        look ahead would be shorter than a step by the number of pixels. Published code looks outside the
        box, where encoders are not defined.
    """

    def gradient_point(self, position: Position, memory: Memory) -> Tensor:
        ahead = position.here + per_example(self.decay * position.size, position.here) * memory["momentum"]
        return position.threat.project(ahead, position.x)


@dataclass(frozen=True)
class Adam(Step):
    r"""Steps along first over second moment of the gradients, with the correction for their start.

    .. math:: u = \frac{\hat m}{\sqrt{\hat v} + 10^{-12}},\quad x_{i+1} = \Pi\,(x_i + \alpha\,u)

    Under Linf the step is `u`, no value beyond `alpha`; under other threats it is the steepest one for `u`.
    Gradients are first brought to mean size one, so that their scale does not matter.

    Args:
        first: memory of the mean, in [0, 1).
        second: memory of the mean square, in [0, 1).

    Raises:
        InputError: a memory out of range.

    Source:
        Kingma & Ba 2015, algorithm 1.
    """

    first: float = 0.9
    second: float = 0.999

    def __post_init__(self) -> None:
        if not (0 <= self.first < 1 and 0 <= self.second < 1):
            raise InputError(
                "A memory is at least 0 and below 1",
                f"first={self.first}, second={self.second}",
                "Try first=0.9, second=0.999.",
            )

    def begin(self, x: Tensor) -> Memory:
        age = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return {"mean": torch.zeros_like(x), "square": torch.zeros_like(x), "age": age}

    def moments(self, grad: Tensor, memory: Memory) -> tuple[Memory, Tensor]:
        """The new memory and the direction."""
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
    r"""The step of SA-PGD: moments of normalised gradients as decaying sums.

    .. math:: m_{i+1} = \beta_1 m_i + g / \overline{|g|},\quad v_{i+1} = \beta_2 v_i + g^2 / \overline{g^2}
        ,\quad u = m / (\sqrt{v} + 10^{-12})

    Args:
        first: memory of the mean, in [0, 1).
        second: memory of the mean square, in [0, 1).

    Source:
        Published code of SA-PGD (ASSG), `attack.py`.
    """

    first: float = 0.5
    second: float = 0.8

    def moments(self, grad: Tensor, memory: Memory) -> tuple[Memory, Tensor]:
        grad = _over(grad, grad.abs().flatten(1).amax(1).view(-1, *[1] * (grad.ndim - 1)))  # squares vanish
        mean = self.first * memory["mean"] + _over(grad, _mean(grad.abs()))
        square = self.second * memory["square"] + _over(grad.square(), _mean(grad.square()))
        return {"mean": mean, "square": square, "age": memory["age"] + 1}, mean / (square.sqrt() + 1e-12)


def best_step(threat: Threat) -> Step:
    """The step that suits the geometry of a threat.

    Under Linf and L2 it is the steepest one. A steepest step of L1 moves one value, and one among few free
    pixels forgets the box; where a threat knows its extreme member, the step goes there.

    Example:
        >>> from spikeproof.threats import L0
        >>> best_step(Linf(0.1)), best_step(L0(3))
        (Steepest(), FrankWolfe())
    """
    ball = threat.ball if isinstance(threat, Region) else threat
    if isinstance(ball, (Linf, L2)) or not hasattr(threat, "extreme"):
        return Steepest()
    return FrankWolfe()

"""Schedules of gradient attacks: how the step size changes, and when a run goes back to its best iterate.

A schedule receives an `Observation` at every step. It returns the iterate that the run continues from and
keeps the relative size of the next step in its memory, as `scale`; a schedule of sparse steps also sets their
`share`.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.parts.steps import Memory, per_example
from spikeproof.errors import InputError

__all__ = ["AdaptiveSparsity", "Constant", "Cosine", "Halving", "Observation", "Oscillation", "Schedule"]


class Observation(NamedTuple):
    """One evaluation of the objective and its gradient during a run."""

    step: int  # number of the step, 0 at the start
    steps: int  # number of steps of the whole run
    x: Float[Tensor, "B *F"]  # clean images
    here: Float[Tensor, "B *F"]  # the iterate
    value: Float[Tensor, "B"]  # objective
    grad: Float[Tensor, "B *F"]


class Schedule:
    """The sizes of the steps, relative to the step size of the attack."""

    def begin(self, x: Float[Tensor, "B *F"]) -> Memory:
        """The memory before the first step, with `scale` and `share`."""
        ones = torch.ones(len(x), dtype=x.dtype, device=x.device)
        return {"scale": ones, "share": ones * torch.nan}

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        """The iterate that the run continues from, the gradient there, and the new memory."""
        return observation.here, observation.grad, memory


@dataclass(frozen=True)
class Constant(Schedule):
    """Every step has the same size.

    Source:
        Madry et al. 2018, section 2.1.
    """


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""The step size falls along half a cosine, from its full value to zero.

    .. math:: \alpha_i = \alpha\,(1 + \cos(\pi i / n)) / 2

    Source:
        Loshchilov & Hutter 2017, eq. (5), without restarts.
    """

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        scale = (1 + math.cos(math.pi * observation.step / max(observation.steps, 1))) / 2
        return (
            observation.here,
            observation.grad,
            {**memory, "scale": torch.full_like(memory["scale"], scale)},
        )


@functools.cache
def checkpoints(steps: int) -> tuple[int, ...]:
    """The steps at which APGD checks its progress.

    The first interval is 22 % of all steps, and each interval is shorter than the one before it by 3 % of all
    steps, down to 6 %.

    Example:
        >>> checkpoints(100)[:5]
        (22, 41, 57, 70, 80)
    """
    window, less, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    found, at = [], 0
    while at + window <= steps:
        at += window
        found.append(at)
        window = max(window - less, least)
    return tuple(found)


@dataclass(frozen=True)
class Halving(Schedule):
    """The step size is halved at every checkpoint of APGD; the run never goes back to an earlier iterate.

    Source:
        Published code of SA-PGD (ASSG), `attack.py`.
    """

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        scale = memory["scale"] / 2 if observation.step in checkpoints(observation.steps) else memory["scale"]
        return observation.here, observation.grad, {**memory, "scale": scale}


def _remembered(observation: Observation, memory: Memory) -> tuple[Memory, Tensor]:
    """The memory with the best iterate so far, and whether that is the current one."""
    # at a tie the newer iterate counts as better, so that a run moves on a plateau, too
    better = observation.value >= memory["best"]
    pick = per_example(better, observation.here)
    return {
        **memory,
        "best": torch.where(better, observation.value, memory["best"]),
        "best_here": torch.where(pick, observation.here, memory["best_here"]),
        "best_grad": torch.where(pick, observation.grad, memory["best_grad"]),
    }, better


def _back(where: Tensor, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor]:
    """Iterate and gradient: the best so far for some examples, the current ones for the others."""
    pick = per_example(where, observation.here)
    return (
        torch.where(pick, memory["best_here"], observation.here),
        torch.where(pick, memory["best_grad"], observation.grad),
    )


@dataclass(frozen=True)
class Oscillation(Schedule):
    r"""The schedule of APGD: where progress has stopped, halve the step size and go back to the best iterate.

    Progress is checked at the checkpoints. It has stopped where the objective rose in at most a share `rho`
    of the steps since the last checkpoint, or where the step size was not halved there and the best value has
    not changed since.

    Args:
        rho: share of the steps in which the objective has to rise, in [0, 1].

    Raises:
        InputError: a share out of range.

    Source:
        Croce & Hein 2020 (AutoAttack), section 3. The published code compares the first value after the start
        with an uninitialised entry, zero, instead of the value before it; here it is compared as in the
        paper. Among iterates of equal value the newest counts as best, because spike counts have plateaus,
        and so do cross-entropies that were rounded to zero.
    """

    rho: float = 0.75

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise InputError("rho is a share in [0, 1]", f"rho={self.rho}", "Try 0.75.")

    def begin(self, x: Tensor) -> Memory:
        plain = super().begin(x)
        none, low = torch.zeros_like(plain["scale"]), torch.full_like(plain["scale"], -torch.inf)
        return {
            **plain,
            **{"last": low, "rises": none, "checked": low, "halved": none + 1},
            **{"best": low, "best_here": x.clone(), "best_grad": torch.zeros_like(x)},
        }

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        rises = memory["rises"] + (observation.value > memory["last"]) * (observation.step > 0)
        memory, _ = _remembered(observation, {**memory, "rises": rises, "last": observation.value})
        if observation.step == 0:
            return observation.here, observation.grad, {**memory, "checked": memory["best"]}
        marks = (0, *checkpoints(observation.steps))
        if observation.step not in marks:
            return observation.here, observation.grad, memory
        window = observation.step - marks[marks.index(observation.step) - 1]
        stuck = (memory["halved"] == 0) & (memory["checked"] >= memory["best"])
        halve = (rises <= self.rho * window) | stuck
        here, grad = _back(halve, observation, memory)
        return here, grad, {
            **memory,
            "scale": torch.where(halve, memory["scale"] / 2, memory["scale"]),
            "rises": torch.zeros_like(rises),
            "checked": memory["best"],
            "halved": halve.to(rises.dtype),
        }  # fmt: skip


@dataclass(frozen=True)
class AdaptiveSparsity(Schedule):
    r"""The schedule of APGD under L1: the sparsity of the steps follows that of the best perturbation so far.

    A step changes as many values as the best perturbation so far, divided by `factor`. Progress is checked
    after every 4 % of the steps. Where the best perturbation has become sparser by more than 5 %, the run
    goes back to it at full step size; elsewhere the step size is divided by `factor`, down to a tenth.

    Args:
        first: share of the values that change before the first check, in (0, 1].
        factor: divisor of the step size and of the number of changed values, above 1.

    Raises:
        InputError: settings out of range.

    Source:
        Croce & Hein 2021 ("Mind the box"), section 4.2 and its published code.
    """

    first: float = 0.2
    factor: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.first <= 1 or not self.factor > 1:
            raise InputError(
                "AdaptiveSparsity needs a first share in (0, 1] and a factor above 1",
                f"first={self.first}, factor={self.factor}",
                "Try first=0.2, factor=1.5.",
            )

    def begin(self, x: Tensor) -> Memory:
        plain = super().begin(x)
        low = torch.full_like(plain["scale"], -torch.inf)
        return {
            **plain,
            "share": torch.full_like(low, self.first),
            "support": torch.full_like(low, x[0].numel() if len(x) else 1),
            **{"best": low, "best_here": x.clone(), "best_grad": torch.zeros_like(x)},
        }

    def __call__(self, observation: Observation, memory: Memory) -> tuple[Tensor, Tensor, Memory]:
        memory, _ = _remembered(observation, memory)
        if observation.step == 0 or observation.step % max(int(0.04 * observation.steps), 1):
            return observation.here, observation.grad, memory
        support = (memory["best_here"] != observation.x).flatten(1).sum(1).to(observation.value.dtype)
        sparser = support < 0.95 * memory["support"]
        here, grad = _back(sparser, observation, memory)
        scale = torch.where(sparser, 1.0, memory["scale"] / self.factor).clamp(0.1, 1.0)
        size = max(observation.x[0].numel(), 1) if len(observation.x) else 1
        share = (support / size / self.factor).clamp(1 / size, 1.0)
        return here, grad, {**memory, "scale": scale, "share": share, "support": support.clamp(min=1)}

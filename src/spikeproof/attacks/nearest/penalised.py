"""Searches with a penalty on the distance: C&W for L2 and EAD for L1, with the weight found by bisection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.nearest.minimum import SearchState, SlopeRecipe, per_row
from spikeproof.errors import InputError
from spikeproof.losses import Margin
from spikeproof.threats import L1, L2

__all__ = ["EAD", "CarliniWagner"]


@dataclass(frozen=True, kw_only=True)
class _Priced(SlopeRecipe):
    """Minimise the distance plus `c` times the margin that misclassification still lacks, for several `c`."""

    steps: int = 100
    searches: int = 9
    step_size: float = 0.01
    initial: float = 1e-3
    confidence: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.steps < 0
            or self.searches < 1
            or not (self.step_size > 0 and self.initial > 0 and self.confidence >= 0)
        ):
            raise InputError(
                f"{type(self).__name__} needs steps >= 0, searches >= 1, a positive step_size and initial, "
                "and confidence >= 0",
                repr(self),
                "Leave out what you do not need to change.",
            )

    def run(self, state: SearchState) -> None:
        n, device = len(state.x), state.x.device
        price = torch.full((n,), self.initial, dtype=torch.float64, device=device)
        low, high = torch.zeros_like(price), torch.full_like(price, torch.inf)
        for search in range(self.searches):
            if not len(state.rows):
                return
            hit = self.descend(state, price.to(state.x.dtype), search)
            high = torch.where(hit, price, high)
            low = torch.where(hit, low, price)
            price = torch.where(high.isinf(), price * 10, (low + high) / 2).clamp(max=1e10)

    def descend(self, state: SearchState, price: Tensor, search: int) -> Tensor:
        """One minimisation; returns whether it met an adversarial image."""
        raise NotImplementedError(f"{type(self).__name__} defines no minimisation")

    def missing(
        self, state: SearchState, rows: Tensor, x: Tensor, search: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """The gradient of the margin that is missing to a misclassification, and whether none is missing."""
        value, grad, fooled = state.slope(rows, x, Margin(), "step", search, step)
        unit = state.unit[rows]
        value, grad = value / unit, grad / per_row(unit, grad)
        short = self.confidence - value > 0
        return torch.where(per_row(short, grad) > 0, -grad, 0 * grad), fooled & (value >= self.confidence)


def _each(function: Callable[[Tensor], Tensor], values: Float[Tensor, "R *F"]) -> Float[Tensor, "R *F"]:
    """An elementwise function, applied to one example after the other.

    Vectorised code rounds differently at the ends of a vector, and their position depends on the batch size.
    """
    return torch.stack([function(one.clone()) for one in values])


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(_Priced):
    r"""C&W L2: gradient descent on the sum of squared distance and weighted margin, in the space of `tanh`.

    .. math:: \min_w \|x'(w) - x\|_2^2 + c \max(z_y - \max_{k \ne y} z_k + \kappa, 0),\quad
        x' = \tfrac12(\tanh w + 1)

    with Adam, whose step size falls linearly to zero: large steps bring pixels back from the saturated ends
    of `tanh`, small steps find the boundary. The weight `c` grows tenfold until an adversarial image is
    found, and is then bisected. Libraries that keep `c` at 1 find no image where margins are small compared
    with distances, and distant images where margins are large. Margins are measured in units of the margin of
    the clean image, so that neither `c` nor the result depends on the scale of the logits.

    Args:
        steps: number of steps for each `c`, at least 0. A black or white pixel starts far out in the space of
            `tanh`, and may stay there if `steps * step_size` is below 4.
        searches: number of values of `c`, at least 1.
        step_size: step size of the first step of Adam, in the space of `tanh`, positive. The published 0.01
            at every step is meant for 10,000 steps.
        initial: the first `c`, positive.
        confidence: margin `kappa` beyond the boundary, in units of the clean margin, at least 0.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than L2.

    Example:
        >>> CarliniWagner(steps=20)(L2(1.0)).recipe.searches
        9

    Source:
        Carlini & Wagner 2017, sections V.A-V.D (f6); binary search as in VI.A.
    """

    norms: ClassVar[tuple[type, ...]] = (L2,)
    steps: int = 200
    step_size: float = 0.05

    def descend(self, state: SearchState, price: Tensor, search: int) -> Tensor:
        w = _each(torch.atanh, (2 * state.x - 1) * 0.999999)
        first, second = torch.zeros_like(w), torch.zeros_like(w)
        hit = torch.zeros(len(w), dtype=torch.bool, device=w.device)
        for step in range(self.steps + 1):
            rows = state.rows
            if not len(rows):
                break
            tanh = _each(torch.tanh, w[rows])
            x = (tanh + 1) / 2
            if step == self.steps:
                hit[rows] |= state.offer(rows, x, "last", search)
                break
            grad, done = self.missing(state, rows, x, search, step)
            if step >= self.steps // 2:  # the first steps of Adam have the same length for every weight
                hit[rows] |= done
            grad = (2 * (x - state.x[rows]) + per_row(price[rows], x) * grad) * (1 - tanh.square()) / 2
            first[rows] = 0.9 * first[rows] + 0.1 * grad
            second[rows] = 0.999 * second[rows] + 0.001 * grad.square()
            mean, square = first[rows] / (1 - 0.9 ** (step + 1)), second[rows] / (1 - 0.999 ** (step + 1))
            size = self.step_size * (1 - step / self.steps)
            w[rows] = w[rows] - size * mean / (square.sqrt() + 1e-8)
        return hit


@dataclass(frozen=True, kw_only=True)
class EAD(_Priced):
    r"""Elastic-net attack: a weighted sum of squared L2 distance, L1 distance and margin, by shrinkage.

    .. math:: \min_{x' \in [0,1]^n} c \max(z_y - \max_{k \ne y} z_k + \kappa, 0) + \|x' - x\|_2^2
        + \beta \|x' - x\|_1

    The steps are accelerated proximal steps, whose shrinkage by `beta` sets small changes to zero; the step
    size falls with the square root of the number of steps left. As in the paper the shrinkage is `beta`
    itself, not `beta` times the step size, so that `beta` is a threshold in pixel value. Margins are measured
    in units of the margin of the clean image.

    Args:
        beta: threshold below which changes are undone, in pixel value, at least 0.
        steps: number of steps for each `c`, at least 0.
        searches: number of values of `c`, at least 1.
        step_size: step size of the first step, positive.
        initial: the first `c`, positive.
        confidence: margin `kappa` beyond the boundary, in units of the clean margin, at least 0.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than L1.

    Source:
        Chen et al. 2018, eqs. (4)-(7) and algorithm 1; of the adversarial images the nearest in L1 is kept.
    """

    norms: ClassVar[tuple[type, ...]] = (L1,)
    beta: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta >= 0:
            raise InputError("EAD needs beta of at least 0", f"beta={self.beta}", "Try 0.01.")

    def descend(self, state: SearchState, price: Tensor, search: int) -> Tensor:
        clean = state.x
        x, ahead = clean.clone(), clean.clone()
        hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for step in range(self.steps):
            rows = state.rows
            if not len(rows):
                break
            grad, _ = self.missing(state, rows, ahead[rows], search, step)
            here, start = ahead[rows], clean[rows]
            size = self.step_size * (1 - step / self.steps) ** 0.5
            moved = here - size * (per_row(price[rows], here) * grad + 2 * (here - start))
            change = moved - start
            new = (start + change.sign() * (change.abs() - self.beta).clamp(min=0)).clamp(0, 1)
            new = torch.where(change.abs() > self.beta, new, start)
            ahead[rows] = (new + step / (step + 3) * (new - x[rows])).clamp(0, 1)
            x[rows] = new
            hit[rows] |= state.offer(rows, new, "new", search, step)
        return hit

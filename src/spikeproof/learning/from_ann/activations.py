"""Units of an ANN that is to be converted: rectifiers that behave like firing rates."""

from __future__ import annotations

from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.protocols import Context

__all__ = ["Quantised", "RateNorm"]


class Quantised(nn.Module):
    r"""Quantisation clip-floor-shift: a rectifier with `L` steps below a learned bound.

    .. math:: y = \frac{\theta}{L} \left\lfloor L\,\mathrm{clip}(x / \theta, 0, 1) + \frac12 \right\rfloor

    The floor is differentiated as the identity.

    Args:
        levels: number of steps `L`, at least 1.
        bound: `theta` before training.

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]` in 0..theta
    """

    def __init__(self, levels: int, bound: float) -> None:
        super().__init__()
        self.levels = levels
        self.bound = nn.Parameter(torch.tensor(bound))

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        y: Tensor = _Quantise.apply(x, self.bound, self.levels)  # type: ignore[no-untyped-call]
        return y


class _Kept(Context, Protocol):
    dtype: torch.dtype


class _Quantise(torch.autograd.Function):
    """Quantisation with its gradient written out, which saves passes over memory."""

    @staticmethod
    def forward(ctx: _Kept, x: Tensor, bound: Tensor, levels: int) -> Tensor:
        share = x / bound
        steps = share.clamp(0, 1).mul_(levels).add_(0.5).floor_().div_(levels)
        ctx.save_for_backward(share, steps)
        ctx.dtype = bound.dtype
        return steps * bound

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        share, steps = ctx.saved_tensors
        g = grads[0]
        by_x = g * ((share >= 0) & (share <= 1))
        by_bound = torch.addcmul(g * steps, by_x, share, value=-1).sum(dtype=ctx.dtype)
        return by_x, by_bound, None


class RateNorm(nn.Module):
    r"""The rate norm layer: a rectifier whose output corresponds to a firing rate in [0, 1].

    .. math:: y = \theta\,\mathrm{clip}(x / \theta, 0, 1), \quad \theta = p\,m

    where `m` is the running maximum of `x` over batches (momentum 0.1), and `p` is a learned share of it. The
    paper's layer passes on the rate itself, without the factor `theta`, which the next layer's weights
    contain instead; without normalisation such a network learns slowly.

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]` in 0..theta
    """

    running_max: Tensor
    momentum = 0.1
    keeps_statistics = True
    """Its threshold is a statistic of the batches that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.share: nn.Parameter | None = None  # the logit of p; p is 1 until it is tuned
        self.register_buffer("running_max", torch.ones(()))

    @property
    def bound(self) -> Tensor:
        """The threshold `theta` that corresponds to this unit."""
        return self.running_max if self.share is None else self.running_max * self.share.sigmoid()

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        if self.training:
            with torch.no_grad():
                self.running_max.lerp_(x.amax().clamp(min=0).to(self.running_max.dtype), self.momentum)
        bound = self.bound.clone()  # layers that share this unit change the maximum before the backward pass
        return bound * (x / bound).clamp(0, 1)

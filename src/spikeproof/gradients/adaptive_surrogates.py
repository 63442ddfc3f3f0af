"""Gradient rules whose surrogate fits itself to the potentials that it sees.

How wide a surrogate must be depends on how far potentials stay from threshold, which differs between layers,
neurons and images. These rules measure it in the same pass, per example, and keep nothing when it ends.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.gradients.rate_based import check_fires
from spikeproof.gradients.temporal import GradientRule
from spikeproof.neurons import Neuron, SomeState
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate

__all__ = ["ASSG", "PDSG"]


Remembered = Any
"""What a rule knows of the steps before: each rule has a form of its own, and None at the first step."""


class _Sloped(torch.autograd.Function):
    """The step at 0 with a given derivative."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None


class _Fitting(Surrogate):
    """The spike function of one pass: asked at each step, it knows what it was asked at the steps before.

    A layer of several kinds of neurons asks several times per step; each gets a memory of its own.
    """

    def __init__(self, rule: _Fitted) -> None:
        self.rule, self.memories, self.turn = rule, [], 0

    memories: list[Remembered]

    def __call__(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        if self.turn == len(self.memories):
            self.memories.append(None)
        with torch.no_grad():
            slope, self.memories[self.turn] = self.rule.slope(x, self.memories[self.turn])
        self.turn += 1
        z: Tensor = _Sloped.apply(x, slope)  # type: ignore[no-untyped-call]
        return z


class _Fitted(GradientRule):
    """Backpropagation through time with a surrogate that fits itself."""

    def check(self, neuron: Neuron) -> None:
        check_fires(self, neuron)

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        """The derivative at this step, and what to remember of it; the memory is None at the first step."""
        raise NotImplementedError(f"{type(self).__name__} defines no slope")

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        self.check(neuron)
        spikes, fitting = [], _Fitting(self)
        for i in current:
            fitting.turn = 0
            z, state = neuron.step(i, state, fitting)
            spikes.append(z)
        return torch.stack(spikes), state


@dataclass(frozen=True)
class PDSG(_Fitted):
    r"""Potential-dependent surrogate gradient: a normal density as wide as the potentials are spread.

    .. math:: g_t(x) = \frac{1}{\sqrt{2\pi}\,\sigma_t}
              \exp\left(-\frac{(x-\sigma_t/2)^2}{2\sigma_t^2}\right), \quad x = v[t] - \theta

    with :math:`\sigma_t` the standard deviation of the potentials, before any reset, of all neurons of the
    layer (of the channel, for maps) at the steps up to t. Each example has its own: pooled over a batch, as
    in published code, an example's gradient would depend on its neighbours.

    Args:
        least: lower bound of :math:`\sigma_t`, in units of potential, positive; potentials that are all alike
            would make the density infinite.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.5, 1.5]]], requires_grad=True)  # spread by 0.5 around threshold
        >>> z, _ = PDSG()(current, State(torch.zeros(1, 2)), IF(), ATan())
        >>> z.sum().backward(); [round(g, 3) for g in current.grad.flatten().tolist()]
        [0.259, 0.704]

    Source:
        Lun et al. 2025, section 4 (PDSG-SDA).
    """

    least: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 < self.least < math.inf:
            raise InputError("PDSG needs a positive least spread", f"least={self.least}", "Try 0.01.")

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        axes = tuple(range(2, x.ndim)) or (1,)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        if memory is None:
            memory = (1, mean, variance)
        else:  # groups of equal size: their variances, and the variance of their means
            before, old, spread = memory
            count = before + 1
            both = (before * spread + variance) / count + before / count**2 * (mean - old) ** 2
            memory = (count, old + (mean - old) / count, both)
        sigma = memory[2].sqrt().clamp(min=self.least)
        return torch.exp(-0.5 * (x / sigma - 0.5) ** 2) / (math.sqrt(2 * math.pi) * sigma), memory


@dataclass(frozen=True)
class ASSG(_Fitted):
    r"""Adaptive sharpness: an arctangent as wide as each neuron's potential is away from threshold.

    With :math:`x_t = v[t] - \theta`, per neuron and example,

    .. math::

        M_t &= \beta M_{t-1} + (1-\beta)|x_t|, \quad
        D_t = \beta D_{t-1} + (1-\beta)\,\bigl||x_t| - M_t\bigr| \\
        \alpha_t &= \frac{2}{\pi}\tan(\pi A)\,\frac{1}{M_t + \rho D_t + 10^{-4}}, \quad
        g_t(x) = \frac{\alpha_t/2}{1 + (\pi\alpha_t x/2)^2}

    A is half the share of the surrogate's area that lies, on average, between -\|x\| and \|x\|: small A, wide
    and weak. The mean of a concave function is at most the function of the mean, hence the bound.

    The published statistics run over the iterations of an attack, from M = 1 and D = 0, and must be reset
    by hand before the next batch. Here they run over the time steps of one pass, from the first one's M = |x|
    and D = 0, and nothing is left over.

    Args:
        strength: area `A`, between 0 and 0.5; the published search covers 0.35 to 0.49. Choose it on
            validation images (`spikeproof.evaluation.through.strongest`), not on those that are attacked.
        memory: share :math:`\beta` of the past in the running means, from 0 up to but without 1.
        relax: weight :math:`\rho` of the deviation, at least 0.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.5, 0.9]]], requires_grad=True)
        >>> z, _ = ASSG(0.25)(current, State(torch.zeros(1, 2)), IF(), ATan())
        >>> z.sum().backward(); [round(g, 2) for g in current.grad.flatten().tolist()]
        [0.32, 1.59]

    Source:
        Section 4 of the paper (arXiv 2512.22522); constants of the published code.
    """

    strength: float = 0.425
    memory: float = 0.9
    relax: float = 1.5

    def __post_init__(self) -> None:
        if not (0 < self.strength < 0.5 and 0 <= self.memory < 1 and 0 <= self.relax < math.inf):
            raise InputError(
                "ASSG needs a strength between 0 and 0.5, a memory in [0, 1) and relax of at least 0",
                f"strength={self.strength}, memory={self.memory}, relax={self.relax}",
                "Try 0.425, 0.9 and 1.5.",
            )

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        size = x.abs()
        if memory is None:
            mean, deviation = size, torch.zeros_like(size)
        else:
            mean = self.memory * memory[0] + (1 - self.memory) * size
            deviation = self.memory * memory[1] + (1 - self.memory) * (size - mean).abs()
        width = mean + self.relax * deviation + 1e-4
        alpha = 2 / math.pi * math.tan(math.pi * self.strength) / width
        return alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2), (mean, deviation)

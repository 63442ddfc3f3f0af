"""Gradient rules that differentiate the firing rates of neurons, and use little or nothing of spike times.

A single spike is a coarse rounding of the potential, and a surrogate that is too narrow loses the gradient
there. The rate is less coarse, and these rules differentiate it. They are meant for attacks. In training,
parameters of neurons other than weights, such as time constants, get no gradient from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.gradients.temporal import GradientRule
from spikeproof.neurons import IntegrateAndFire, Neuron, SomeState, lif_unroll
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate, Triangle, in_units, unit_of

__all__ = ["BPTR", "HART", "RGA", "RateRule", "check_fires"]


def check_fires(rule: GradientRule, neuron: Neuron) -> None:
    """Refuse neurons that do not spike, and neurons whose output is a spike time."""
    if not neuron.spiking or getattr(neuron, "timed", False):
        raise InputError(
            f"The gradient rule {type(rule).__name__} is defined for neurons such as integrate-and-fire, "
            "which fire step by step",
            repr(neuron),
            "Use a neuron such as lif, or attack the model with its own gradients.",
        )


class _Gained(torch.autograd.Function):
    """The given spikes, whose gradient with respect to the current is `gain` times their own gradient."""

    @staticmethod
    def forward(ctx: Context, current: Tensor, spikes: Tensor, gain: Tensor) -> Tensor:
        ctx.save_for_backward(gain)
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gain,) = ctx.saved_tensors
        return grads[0] * gain, None, None


class _Averaged(torch.autograd.Function):
    """The identity, whose gradient is averaged over time."""

    @staticmethod
    def forward(ctx: Context, current: Tensor) -> Tensor:
        return current.view_as(current)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (grads[0].mean(0, keepdim=True).expand_as(grads[0]),)


class RateRule(GradientRule):
    """A gradient rule that gives every neuron one derivative for all time steps.

    Such a rule also serves layers of other frameworks, from the currents and the spikes of one forward pass.
    """

    by_equation: ClassVar[bool] = False
    """Whether the derivative depends on the constants of the neuron, besides its currents and spikes."""

    def gain(
        self, current: Float[Tensor, "T B *F"], spikes: Float[Tensor, "T B *F"], neuron: Neuron | None
    ) -> Float[Tensor, "B *F"]:
        """The derivative of each neuron.

        Args:
            current: the current of each neuron over time.
            spikes: the spikes that it leads to.
            neuron: the neuron; None where its equation is unknown and the derivative does not depend on it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no gain")

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        self.check(neuron)
        with torch.no_grad():
            spikes, end = lif_unroll(current, state, neuron, spike)
            gain = self.gain(current, spikes, neuron)
        z: Tensor = _Gained.apply(current, spikes, gain)  # type: ignore[no-untyped-call]
        return z, end


@dataclass(frozen=True)
class BPTR(RateRule):
    r"""Backward pass through rate: straight through neurons that fired, and no gradient through silent ones.

    .. math:: \frac{\partial L}{\partial I[t]} = \frac{\partial L}{\partial s[t]}\,
              1\left[\tfrac{1}{T}\sum_{t'} s[t'] > 0\right]

    The rule needs no surrogate, and its gradients do not vanish with depth or time. Every step passes its
    gradient to the same step of the layer below, as in the published code. Where the input and the weights of
    the decoder are constant over time, this is the gradient of the rates.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.6, 0.1]], [[0.6, 0.1]]], requires_grad=True)
        >>> z, _ = BPTR()(current, State(torch.zeros(1, 2)), IF(), ATan())
        >>> z.sum().backward(); current.grad.flatten().tolist()
        [1.0, 0.0, 1.0, 0.0]

    Source:
        Ding et al. 2022 (SNN-RAT), section 3.3.
    """

    def check(self, neuron: Neuron) -> None:
        check_fires(self, neuron)

    def gain(
        self, current: Float[Tensor, "T B *F"], spikes: Float[Tensor, "T B *F"], neuron: Neuron | None
    ) -> Float[Tensor, "B *F"]:
        return (spikes != 0).any(0).to(current.dtype)


@dataclass(frozen=True)
class RGA(RateRule):
    r"""Rate gradient approximation: the slope of a piecewise linear function from mean current to rate.

    With the mean current :math:`\bar I` in units of the threshold and the decay :math:`\lambda` of the
    neuron,

    .. math:: \frac{\partial L}{\partial I[t]} = \frac{\partial L}{\partial s[t]}\,\frac{1}{\theta}
        \begin{cases}
            \gamma & 0 \le \bar I \le 1-\lambda \\
            \dfrac{1-\gamma(1-\lambda)}{e+\lambda} & 1-\lambda < \bar I \le 1+e \\
            0 & \text{else}
        \end{cases}

    The function rises with slope :math:`\gamma` where the current is too weak for a spike, and from there to
    a rate of 1 at :math:`\bar I = 1 + e`. The published formula is the case of a threshold of 1. Scaling
    current and threshold together changes no spike, and here no gradient with respect to the scaled current
    either. The extension to other thresholds in published code leaves :math:`\gamma` unscaled.

    Args:
        gamma: slope below the smallest current that leads to spikes, in (0, 1].
        extension: mean current `e` beyond the threshold at which the rate reaches 1, in thresholds, at least
            0.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.6, -0.1, 2.5]]], requires_grad=True)
        >>> z, _ = RGA()(current, State(torch.zeros(1, 3)), IF(), ATan())
        >>> z.sum().backward(); current.grad.flatten().tolist()
        [0.5, 0.0, 0.0]

    Source:
        Bu et al. 2023 (rate gradient approximation attack), section 4; constants of the published code.
    """

    by_equation: ClassVar[bool] = True

    gamma: float = 0.2
    extension: float = 1.0

    def __post_init__(self) -> None:
        if not (0 < self.gamma <= 1 and 0 <= self.extension < math.inf):
            raise InputError(
                "RGA needs gamma in (0, 1] and an extension of at least 0",
                f"gamma={self.gamma}, extension={self.extension}",
                "Try 0.2 and 1.0.",
            )

    def gain(
        self, current: Float[Tensor, "T B *F"], spikes: Float[Tensor, "T B *F"], neuron: Neuron | None
    ) -> Float[Tensor, "B *F"]:
        assert isinstance(neuron, IntegrateAndFire)
        mean, weak = current.mean(0) / neuron.threshold, 1 - neuron.decay
        steep = (1 - self.gamma * weak) / (self.extension + neuron.decay)
        low = self.gamma * ((mean >= 0) & (mean <= weak)).to(current.dtype)
        high = steep * ((mean > weak) & (mean <= 1 + self.extension)).to(current.dtype)
        return (low + high) / neuron.threshold


@dataclass(frozen=True)
class HART(GradientRule):
    r"""Hybrid adversarial attack on rate and timing: no gradient from step to step, and a mean over steps.

    .. math:: \frac{\partial L}{\partial I[t]} =
              \frac{1}{T}\sum_{t'} \frac{\partial L}{\partial s[t']}\, g(v[t']-\theta)

    Potentials, and with them the order of spikes, enter through the surrogate. The state that one step passes
    on to the next is not differentiated. The published attack chooses the width that is strongest on the test
    images. Choose it on validation images instead (`spikeproof.strongest`), or attack with several widths and
    take the worst case.

    Args:
        surrogate: the surrogate derivative g; in the paper a triangle of width 0.1 to 2.45.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan, Rectangle
        >>> current = torch.tensor([[[0.75]], [[5.0]]], requires_grad=True)
        >>> z, _ = HART(Rectangle(1.0))(current, State(torch.zeros(1, 1)), IF(), ATan())
        >>> z.sum().backward(); current.grad.flatten().tolist()
        [0.5, 0.5]

    Source:
        Hao et al. 2024, section 4; constants of the published code.
    """

    surrogate: Surrogate = Triangle()

    def check(self, neuron: Neuron) -> None:
        check_fires(self, neuron)
        if neuron.looks_ahead:
            raise InputError(
                "HART cuts the gradient between time steps, on which few-spikes neurons depend entirely",
                repr(neuron),
                "Use BPTR, PDSG or ASSG.",
            )

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        self.check(neuron)
        spikes, surrogate = [], in_units(self.surrogate, unit_of(spike))
        for i in _Averaged.apply(current):  # type: ignore[no-untyped-call]
            z, state = neuron.step(i, _cut(state), surrogate)
            spikes.append(z)
        return torch.stack(spikes), state


def _cut(state: SomeState) -> SomeState:
    """The same state, without its gradient."""
    return state.detach() if isinstance(state, Tensor) else type(state)(*map(_cut, state))

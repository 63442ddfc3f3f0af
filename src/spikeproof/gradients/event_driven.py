"""Event-driven backpropagation: gradients flow from each output spike to the input spikes that caused it.

The weights get the gradient with respect to the amplitudes of events, the inputs the gradient with respect to
their times. So a layer is replaced together with the connections before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from spikeproof.errors import InputError
from spikeproof.gradients.temporal import GradientRule
from spikeproof.neurons import Neuron, Renewal, SomeState, Spiking
from spikeproof.neurons.layers import unit
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate, unit_of

__all__ = ["EventDriven"]


@dataclass(frozen=True)
class EventDriven(GradientRule):
    r"""Event-driven backpropagation: every output spike is attributed to the inputs since the previous one.

    For an output spike at step `t`, an input at step `t - k` after the previous output spike, and `G[t]` the
    rise of the loss when that output spike comes earlier,

    .. math::

        \frac{\partial L}{\partial I[t-k]} &= G[t] \min\!\left(\frac{1}{r[t]}, b\right) \epsilon[k] \\
        G_{in}[t-k] &= w\,G[t] \min\!\left(\frac{1}{r'[t]}, b\right) \epsilon'[k]

    The first gradient trains the weights, and the second is passed on to the layer below. `r` is the rise of
    the potential in a step, and :math:`\epsilon` the kernel of an input. With `tau_grad`, the kernel is
    :math:`\epsilon'[k] = e^{-(k+1)dt/\tau_{grad}}`, and `r'` is the sum of the inputs since the last spike,
    weighted by this kernel, which is never small where all inputs are positive. Without `tau_grad`,
    :math:`\epsilon'` is the first difference of :math:`\epsilon`, and `r' = r`. Either way, a shift of all
    inputs shifts the output spike equally far. A slope that is negative at a spike gives no gradient.

    A neuron that stays silent gets no gradient. At the output layer the gradient with respect to the presence
    of a spike stands for the effect of an earlier spike, as in the published code (which reverses the sign of
    its loss for this). The inputs of the first layer have amplitudes: the encoder gets
    :math:`\partial L/\partial I` through the weights. The published weight standardisation and the search for
    initial weights belong to the network and are not part of this gradient rule.

    Args:
        tau_grad: time constant of the timing gradient [s], positive, or None for the kernel's own slope.
        steepest: upper bound `b` of the inverse slope, per unit of potential, positive.

    Example:
        >>> EventDriven()
        EventDriven(tau_grad=0.0025, steepest=4.0)

    Source:
        Zhu et al. 2022, section 3; constants of the published code.
    """

    tau_grad: float | None = 2.5e-3
    steepest: float = 4.0

    def __post_init__(self) -> None:
        for name, value in (("tau_grad", self.tau_grad), ("steepest", self.steepest)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InputError(
                    f"EventDriven needs a positive {name}", f"{name}={value}", "Try the default."
                )

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, Renewal):
            raise InputError(
                "Event-driven gradients are defined for neurons that every spike resets to rest",
                repr(neuron),
                "Use the neuron renewal.",
            )

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        """The loop over time for inputs with amplitudes: weights and inputs get the same gradient."""
        self.check(neuron)
        spikes, *end = _Events.apply(current, None, *state, neuron, self, unit_of(spike))  # type: ignore[no-untyped-call]
        return spikes, type(state)(*end)

    def install(self, network: nn.Module) -> None:
        """Replace every spiking layer but the first together with the connections before it."""
        layers = getattr(network, "layers", None)
        where = [i for i, layer in enumerate(layers or ()) if isinstance(layer, Spiking)]
        if layers is None or len(where) != sum(isinstance(layer, Spiking) for layer in network.modules()):
            raise InputError(
                "Event-driven gradients are defined for a network of layers in sequence",
                type(network).__name__,
                "Use the network mlp or convnet.",
            )
        for i in where[1:]:
            layers[i] = _Caused(layers[i - 1], layers[i].neuron, self)
            layers[i - 1] = nn.Identity()
        for i in where[:1]:
            layers[i].unroll = self

    def kernels(self, neuron: Renewal, steps: int) -> tuple[list[float], list[float]]:
        """The effect of an input on the potential k steps later, and the effect of a shift of the input."""
        a, b = neuron.decays
        kernel = [neuron.scale * (a ** (k + 1) - b ** (k + 1)) for k in range(steps)]
        if self.tau_grad is None:
            return kernel, [one - before for one, before in zip(kernel, [0.0, *kernel], strict=False)]
        return kernel, [math.exp(-(k + 1) * neuron.dt / self.tau_grad) for k in range(steps)]


class _Caused(nn.Module):
    """Connections and the neurons behind them, with one gradient for weights and another for inputs."""

    def __init__(self, connections: nn.Module, neuron: Neuron, rule: EventDriven) -> None:
        super().__init__()
        self.connections, self.neuron, self.rule = connections, neuron, rule

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *G"]:
        self.rule.check(self.neuron)
        frozen = {name: p.detach() for name, p in self.connections.named_parameters()}
        by_weights = _in_full(self.connections(x.detach()))
        by_inputs = _in_full(functional_call(self.connections, frozen, x))
        rest = self.neuron.rest(by_weights.detach())
        measure = 1.0 if self.training else unit(self.neuron)  # as in `Spiking`
        spikes: Tensor = _Events.apply(by_weights, by_inputs, *rest, self.neuron, self.rule, measure)[0]  # type: ignore[no-untyped-call]
        return spikes


def _in_full(current: Tensor) -> Tensor:
    return (current.float() if current.dtype in (torch.bfloat16, torch.float16) else current).contiguous()


class _Kept(Context, Protocol):
    neuron: Renewal
    rule: EventDriven
    unit: float
    both: bool  # whether there are two currents, one for each path of the gradient


class _Events(torch.autograd.Function):
    """The loop of `unroll`. The state carries no gradient, since layers start at rest."""

    @staticmethod
    def forward(
        ctx: _Kept,
        current: Tensor,
        again: Tensor | None,
        v: Tensor,
        slow: Tensor,
        fast: Tensor,
        neuron: Renewal,
        rule: EventDriven,
        unit: float,
    ) -> tuple[Tensor, ...]:
        state = neuron.rest(current)._replace(v=v, slow=slow, fast=fast)
        rises, slopes, spikes = (torch.empty_like(current) for _ in range(3))
        recent = torch.zeros_like(v)
        for i, rise, slope, z in zip(current, rises, slopes, spikes, strict=True):
            charged = neuron.charge(i, state)
            torch.ge(charged.v, neuron.threshold, out=z)
            torch.sub(charged.v, state.v, out=rise)
            if rule.tau_grad is None:
                slope.copy_(rise)
            else:
                slope.copy_(math.exp(-neuron.dt / rule.tau_grad) * (recent + i))
            recent = slope * (1 - z)
            state = type(state)(*(part * (1 - z) for part in charged))
        ctx.save_for_backward(rises, slopes, spikes)
        ctx.neuron, ctx.rule, ctx.both, ctx.unit = neuron, rule, again is not None, unit
        ctx.mark_non_differentiable(*state)
        return spikes, *state

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rises, slopes, spikes = ctx.saved_tensors
        rule, g = ctx.rule, grads[0]
        kernel, moved = (
            torch.tensor(values, dtype=g.dtype, device=g.device)
            for values in rule.kernels(ctx.neuron, len(g))
        )
        own, others = (
            g * spikes * (by >= 0) / by.clamp(min=ctx.unit / rule.steepest) for by in (rises, slopes)
        )
        steps = torch.zeros_like(g[0], dtype=torch.long)  # number of steps from here to the next spike
        amplitude, timing = torch.zeros_like(g[0]), torch.zeros_like(g[0])
        for t in range(len(g) - 1, -1, -1):
            fired = spikes[t].bool()
            steps = torch.where(fired, 0, (steps + 1).clamp(max=len(g) - 1))
            amplitude, timing = torch.where(fired, own[t], amplitude), torch.where(fired, others[t], timing)
            own[t], others[t] = amplitude * kernel[steps], timing * moved[steps]
        return own, others if ctx.both else None, *[None] * 6

"""What a gradient rule is, and the gradient rules that differentiate spikes over time.

The gradient that reaches a layer, `g[t] = dL/ds[t]`, has been propagated back through the synapse after the
layer. So it is the effect of the presence of a spike on the loss. The effect of a shift of the spike in time
is modelled by each gradient rule in its own way.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.neurons import (
    IntegrateAndFire,
    Integrator,
    Neuron,
    Spiking,
    State,
    Synapse,
    lif_unroll,
    psp_filter,
)
from spikeproof.protocols import Context
from spikeproof.surrogates import Exponential, Rectangle, Sigmoid, Surrogate, in_units, unit_of

__all__ = ["ANTLR", "TSSL", "Admitting", "Fit", "GradientRule", "SurrogateGradient", "Trace", "Truncated"]


class Fit(Protocol):
    """The derivatives of a rule in one forward pass of one layer, computed from potentials step by step."""

    def step(self) -> None:
        """A new time step begins."""

    def slope(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The derivative of spikes by potentials at this distance from the threshold."""

    def next_step(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The same at a new time step."""

    def end(self) -> None:
        """The pass is over."""


class GradientRule:
    """The same spikes as the loop over time of the neuron, with a backward pass of its own.

    Members are frozen dataclasses.
    """

    def check(self, neuron: Neuron) -> None:
        """Check that the rule is defined for this neuron.

        Raises:
            InputError: it is not.
        """
        if not (isinstance(neuron, IntegrateAndFire) and type(neuron).step is IntegrateAndFire.step):
            raise InputError(
                f"The gradient rule {type(self).__name__} is defined for integrate-and-fire neurons",
                repr(neuron),
                "Use the neuron lif or if, or the learning rule bptt.",
            )

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: State, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], State]:
        """The loop over time; the surrogate of the rule replaces `spike`, in the unit of `spike`."""
        self.check(neuron)
        spikes, end = _Ruled.apply(current, state.v, neuron, self, unit_of(spike))  # type: ignore[no-untyped-call]
        return spikes, State(end)

    def fit(self, layer: int, batch: int, unit: float | Tensor) -> Fit:
        """The derivatives for a layer of another framework, from distances between potential and threshold.

        Args:
            layer: the place of the layer in its network.
            batch: number of examples.
            unit: the threshold.

        Raises:
            InputError: the rule needs more than these distances.
        """
        raise InputError(
            f"The gradient rule {type(self).__name__} needs neurons of spikeproof",
            "neurons of another framework",
            "Use pdsg, assg, bptr or rga, or wrap the network with convert=True.",
        )

    def install(self, network: nn.Module) -> None:
        """Differentiate the spiking layers of a network by this rule; the network is a twin made for it."""
        for layer in network.modules():
            if isinstance(layer, Spiking):
                layer.unroll = self

    def backward(
        self, trace: Trace, neuron: IntegrateAndFire, g: Float[Tensor, "T B *F"]
    ) -> Float[Tensor, "T B *F"]:
        """The gradient with respect to the current, from the gradient `g` with respect to the spikes."""
        raise NotImplementedError(f"{type(self).__name__} defines no gradient")


@runtime_checkable
class Admitting(Protocol):
    """A model with neurons of another framework, which checks whether a gradient rule is defined for them."""

    def admits(self, rule: GradientRule) -> None:
        """Check that the rule is defined for its neurons.

        Raises:
            InputError: it is not.
        """


class Trace(NamedTuple):
    """The record of the forward pass that a backward pass may use."""

    v: Float[Tensor, "T B *F"]
    """Potentials before the reset."""

    rise: Float[Tensor, "T B *F"]
    """The rise of the potential in each step, from after the last reset to before the next one."""

    spikes: Float[Tensor, "T B *F"]

    unit: float = 1.0
    """The unit of the constants of the rule, in units of potential: the threshold, in attacks."""


class _Kept(Context, Protocol):
    neuron: IntegrateAndFire
    rule: GradientRule
    unit: float


class _Ruled(torch.autograd.Function):
    """The loop of `unroll`, differentiated by a rule; the state, which starts at rest, has no gradient."""

    @staticmethod
    def forward(
        ctx: _Kept, current: Tensor, v: Tensor, neuron: IntegrateAndFire, rule: GradientRule, unit: float
    ) -> tuple[Tensor, Tensor]:
        potentials, rises, spikes = (torch.empty_like(current) for _ in range(3))
        for i, before, rise, z in zip(current, potentials, rises, spikes, strict=True):
            torch.add(neuron.decay * v, i, out=before)
            torch.ge(before, neuron.threshold, out=z)
            torch.sub(before, v, out=rise)
            v = neuron.reset(before, z, neuron.threshold)
        ctx.save_for_backward(potentials, rises, spikes)
        ctx.neuron, ctx.rule, ctx.unit = neuron, rule, unit
        ctx.mark_non_differentiable(v)
        return spikes, v

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, rise, spikes = ctx.saved_tensors
        return ctx.rule.backward(Trace(v, rise, spikes, ctx.unit), ctx.neuron, grads[0]), *[None] * 4


@dataclass(frozen=True)
class SurrogateGradient(GradientRule):
    r"""Surrogate gradients with a given surrogate, and with the reset differentiated or detached.

    .. math:: \frac{\partial L}{\partial v[t]} = \left(\frac{\partial L}{\partial s[t]}
              + \frac{\partial L}{\partial v'[t]}\,\frac{\partial v'[t]}{\partial s[t]}\right) g(v[t]-\theta)
              + \frac{\partial L}{\partial v'[t]}\,\frac{\partial v'[t]}{\partial v[t]}

    with v' the potential after the reset; the middle term is absent where the reset is detached. Published
    implementations differ in this term without stating it, and an attack may be strong with it and weak
    without.

    Args:
        surrogate: the surrogate derivative g.
        detach_reset: whether the gradient stops at the reset.

    Example:
        >>> from spikeproof.neurons import LIF
        >>> current = torch.tensor([[[1.2]]], requires_grad=True)
        >>> z, _ = SurrogateGradient(Rectangle(2.0))(current, State(torch.zeros(1, 1)), LIF(), Sigmoid())
        >>> z.sum().backward(); z.item(), current.grad.item()
        (1.0, 0.5)

    Source:
        Wu et al. 2018 (STBP), eq. (6)-(13) and (24): the rectangle, the reset not detached.
    """

    surrogate: Surrogate = Rectangle()
    detach_reset: bool = False

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: State, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], State]:
        self.check(neuron)
        assert isinstance(neuron, IntegrateAndFire)
        neuron = dataclasses.replace(neuron, detach_reset=self.detach_reset)
        return lif_unroll(current, state, neuron, in_units(self.surrogate, unit_of(spike)))


@dataclass(frozen=True)
class Truncated(GradientRule):
    r"""Truncated backpropagation through time: gradients flow back to the start of a part of the sequence.

    .. math:: \frac{\partial v[t]}{\partial v'[t-1]} := 0 \text{ where a part starts at } t

    The time steps are split into parts as FPTT splits them in training; where the parts cannot be equally
    long, the first ones are longer by one step. At the start of a part the gradients of potentials, of
    synapses and of an integrating output layer are cut; the forward pass is unchanged. Within a part the
    gradients are those of the model's own surrogate. With one part nothing is cut.

    FPTT cuts gradients in this way in training. FPTT also has a loss after every part; the corresponding
    objective of an attack is `prefix-mean`.

    Args:
        parts: number of parts, at least 1; if there are fewer time steps, every step is a part.

    Example:
        >>> from spikeproof.neurons import LIF
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.full((2, 1, 1), 0.6, requires_grad=True)
        >>> z, _ = Truncated(2)(current, State(torch.zeros(1, 1)), LIF(), ATan())
        >>> torch.autograd.grad(z[1].sum(), current)[0][0].item()  # a step before the last part
        0.0

    Source:
        Williams & Peng 1990; Kag & Saligrama 2021, algorithm 1 (FPTT).
    """

    parts: int = 2

    def __post_init__(self) -> None:
        if self.parts < 1:
            raise InputError("Truncated needs at least one part", f"parts={self.parts}", "Try 2.")

    def split(self, x: Float[Tensor, "T *F"]) -> tuple[Tensor, ...]:
        """The parts of a sequence, none of them empty."""
        return x.tensor_split(max(1, min(self.parts, len(x))))

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: State, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], State]:
        self.check(neuron)
        spikes = []
        for i, part in enumerate(self.split(current)):
            z, state = lif_unroll(part, State(state.v.detach()) if i else state, neuron, spike)
            spikes.append(z)
        return torch.cat(spikes), state

    def install(self, network: nn.Module) -> None:
        super().install(network)
        for module in list(network.modules()):
            for name, layer in list(module.named_children()):
                if isinstance(layer, (Synapse, Integrator)):
                    setattr(module, name, _InParts(layer, self))


class _InParts(nn.Module):
    """The output of a linear filter, with the gradient of a filter that starts at rest in every part."""

    def __init__(self, layer: Synapse | Integrator, rule: Truncated) -> None:
        super().__init__()
        self.layer, self.rule = layer, rule

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        with torch.no_grad():
            whole = self.layer(x)
        parts = torch.cat([self.layer(part) for part in self.rule.split(x)])
        answer: Tensor = _Answered.apply(parts, whole)  # type: ignore[no-untyped-call]
        return answer


class _Answered(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Context, followed: Tensor, answer: Tensor) -> Tensor:
        return answer.clone()

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


@dataclass(frozen=True)
class TSSL(GradientRule):
    r"""Temporal spike sequence learning: spikes move in time, neurons without recent spikes get a surrogate.

    Backward in time, with `p` the trace of the spikes at the synapse and `r` the rise of the potential,

    .. math::

        q[t] &= s[t] \min(1/r[t], b) \quad (0\ \text{where}\ r[t] < 0) \\
        e[t] &= q[t]\,g[t] + e[t+1]\left((1-\lambda)\,\Delta[t]\,q[t] + \lambda\,(1-s[t])\right) \\
        \frac{\partial L}{\partial I[t]} &= e[t] \text{ where } p[t] \ge h/4,
            \text{ else } g[t]\,\sigma'(v[t]-\theta)

    :math:`\lambda` is the decay of the potential, :math:`\Delta` is what a reset subtracts (the potential or
    the threshold), and h is the amount by which a spike raises its trace at once. The synapse must decay
    exponentially. Only then is the time derivative of its kernel, :math:`-a[k]/\tau_s`, proportional to the
    kernel itself, so that g[t] equals the sum over later steps that the published code computes for each
    spike in O(T^2).

    A neuron without a synapse is the case of a trace that lasts one step. Published code uses the kernel of
    the first layer for all layers, which is wrong for layers with another one; here each layer has its own.
    Two properties of the paper are kept. The derivative of the kernel leaves out the jump of the kernel at 0,
    and so points to earlier spikes wherever g favours spikes; and it is measured in units of the synaptic
    time constant.

    The published rule is this one with neurons that are reset to zero, `LIF(reset=ToZero(), synapse=PSP())`,
    and with these defaults; with reset by subtraction the gradient is another one. Published neurons fire
    above the threshold, those here at or above it; gradients differ only where a potential equals the
    threshold.

    Args:
        surrogate: derivative for neurons without recent spikes.
        steepest: upper bound `b` of the inverse rise, per unit of potential, positive.
        farthest: distance from the threshold, in units of potential, beyond which the derivative of the
            surrogate stays what it is there, so that no neuron is out of reach; positive, or None for no
            bound. The published bound is an argument of 8 of the logistic function, which is 1.6 here.

    Example:
        >>> from spikeproof.neurons import IF
        >>> current = torch.tensor([[[0.75]], [[0.5]]], requires_grad=True)
        >>> z, _ = TSSL()(current, State(torch.zeros(1, 1)), IF(), Sigmoid())
        >>> z.sum().backward(); z.flatten().tolist(), current.grad[1].item()  # the inverse of the rise
        ([0.0, 1.0], 2.0)

    Source:
        Zhang & Li 2020 (TSSL-BP), section 3; constants of the published code.
    """

    surrogate: Surrogate = Sigmoid(5.0)
    steepest: float = 8.0
    farthest: float | None = 1.6

    def __post_init__(self) -> None:
        _positive(self, "steepest", self.steepest)
        if self.farthest is not None:
            _positive(self, "farthest", self.farthest)

    def backward(
        self, trace: Trace, neuron: IntegrateAndFire, g: Float[Tensor, "T B *F"]
    ) -> Float[Tensor, "T B *F"]:
        v, rise, spikes, unit = trace
        synapse = neuron.synapse
        recent = spikes if synapse is None else psp_filter(spikes, synapse)
        jump = 1.0 if synapse is None else 1 - math.exp(-synapse.dt / synapse.tau)
        inverse = spikes * (rise >= 0) / rise.clamp(min=unit / self.steepest)
        taken = v - neuron.reset(v, torch.ones_like(v), neuron.threshold)
        kept = neuron.decay * (1 - spikes) + (1 - neuron.decay) * taken * inverse
        timing = _backwards(inverse * g, kept)
        above = v - neuron.threshold
        if self.farthest is not None:
            above = above.clamp(-unit * self.farthest, unit * self.farthest)
        slope = in_units(self.surrogate, unit).derivative(above)
        return torch.where(recent < jump / 4, g * slope, timing)


@dataclass(frozen=True)
class ANTLR(GradientRule):
    r"""Activation-based and timing-based gradients together: whether a neuron fires, and when.

    .. math:: \frac{\partial L}{\partial v[t]} =
              \alpha\,\sigma'(v[t]-\theta)\,\frac{\partial L}{\partial s[t]}
              - \beta\,\frac{s[t]}{\max(r[t], r_0)}\,\frac{\partial L}{\partial T}[t]
              + \lambda\,\frac{\partial L}{\partial v[t+1]}\,\frac{\partial v'[t]}{\partial v[t]}

    with `r` the rise of the potential in a step. The derivative with respect to the time of a spike is the
    change of the loss if the spike moved: the slope of `dL/ds` over time, by central differences, one-sided
    at both ends. This holds for any synapse, the jump of its kernel included, whereas the paper writes out
    the derivative of one kernel. The dependence of the reset on the spike is part of the activation-based
    term, unless the neuron has `detach_reset`.

    `ANTLR(timing=0)` is plain surrogate-gradient backpropagation, `ANTLR(activation=0)` purely timing-based.

    Args:
        activation: weight `alpha` of the activation-based part, at least 0.
        timing: weight `beta` of the timing-based part, at least 0.
        surrogate: derivative of the activation-based part.
        least_rise: lower bound r_0 of the rise, in units of potential, positive.

    Example:
        >>> ANTLR(timing=0.0)
        ANTLR(activation=1.0, timing=0.0, surrogate=Exponential(height=1.0, decay=3.0), least_rise=0.01)

    Source:
        Kim, Kim & Kim 2020 (ANTLR), section 3; constants of the published code.
    """

    activation: float = 1.0
    timing: float = 1.0
    surrogate: Surrogate = Exponential()
    least_rise: float = 0.01

    def __post_init__(self) -> None:
        _positive(self, "least_rise", self.least_rise)
        if not (min(self.activation, self.timing) >= 0 and 0 < self.activation + self.timing < math.inf):
            raise InputError(
                "ANTLR needs weights of at least 0, one of them positive",
                f"activation={self.activation}, timing={self.timing}",
                "Try 1.0 and 1.0.",
            )

    def backward(
        self, trace: Trace, neuron: IntegrateAndFire, g: Float[Tensor, "T B *F"]
    ) -> Float[Tensor, "T B *F"]:
        v, rise, spikes, unit = trace
        later = torch.gradient(g, dim=0)[0] if len(g) > 1 else torch.zeros_like(g)
        slope = self.activation * in_units(self.surrogate, unit).derivative(v - neuron.threshold)
        by_v, by_z = neuron.reset.slope(v, spikes, neuron.threshold)
        kept = by_v if neuron.detach_reset else by_v + by_z * slope
        own = slope * g - self.timing * spikes * later / rise.clamp(min=unit * self.least_rise)
        return _backwards(own, neuron.decay * (kept + torch.zeros_like(v)))


def _backwards(own: Float[Tensor, "T *N"], kept: Float[Tensor, "T *N"]) -> Float[Tensor, "T *N"]:
    """The recursion e[t] = own[t] + kept[t] e[t+1] from the last step to the first."""
    sums = own.clone()
    for t in range(len(own) - 2, -1, -1):
        sums[t].addcmul_(kept[t], sums[t + 1])
    return sums


def _positive(part: object, name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(
            f"{type(part).__name__} needs a positive {name}", f"{name}={value}", "Try the default."
        )

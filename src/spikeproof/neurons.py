"""Spiking neurons: a pure step, the loop over time, and a thin layer that holds neither weights nor state.

A neuron is a frozen dataclass with a `step`: (current, state, spike function) -> (spikes, state).
`unroll` repeats it. `lif_unroll` computes the same spikes and the same gradient for leaky and
non-leaky integrate-and-fire neurons with one hand-written backward pass, faster (`benchmarks`). `Spiking` is
the layer; its parts `spike` and `unroll` are what `spikeproof.network.substitute` exchanges.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.surrogates import ATan, Surrogate

__all__ = [
    "IF",
    "LIF",
    "PSP",
    "Analogue",
    "BySubtraction",
    "Integrator",
    "Neuron",
    "ReLU",
    "Reset",
    "Softplus",
    "Spiking",
    "State",
    "Synapse",
    "ToZero",
    "lif_unroll",
    "psp_filter",
    "unroll",
]


class State(NamedTuple):
    """What a neuron carries from one step to the next."""

    v: Float[Tensor, "B *F"]


class Reset:
    """What a spike does to the membrane potential."""

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        """The potential after the spikes `z`."""
        raise NotImplementedError(f"{type(self).__name__} defines no reset")

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        """Derivatives of the result by `v` (with `z` held) and by `z`."""
        raise NotImplementedError(f"{type(self).__name__} defines no slope")


@dataclass(frozen=True)
class ToZero(Reset):
    """Reset to zero, `v (1 - z)`; whatever exceeded the threshold is lost.

    Source:
        Wu et al. 2018 (STBP), eq. (5).
    """

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.mul(v, 1 - z, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1 - z, -v


@dataclass(frozen=True)
class BySubtraction(Reset):
    """Reset by subtraction of the threshold, `v - threshold z`; the excess is kept.

    Source:
        Rueckauer et al. 2017, section 2.1.
    """

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.sub(v, z, alpha=threshold, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, -threshold


def _check(part: object, name: str, value: float, *, least: float = 0.0) -> None:
    if not (value > least and math.isfinite(value)):
        raise InputError(
            f"{type(part).__name__} needs {name} above {least}", f"{name}={value}", "Try the default."
        )


@dataclass(frozen=True)
class PSP:
    r"""The postsynaptic potential: spikes seen through a decaying exponential of unit area.

    .. math:: p[t] = d\,p[t-1] + (1-d)\,s[t], \quad d = e^{-dt/\tau}

    Args:
        tau: synaptic time constant [s], positive.
        dt: length of one step [s], positive.

    Source:
        Ding et al. 2023 and TSSL-BP (`psp`), with d = 1 - 1/tau_s there and tau_s in steps.
    """

    tau: float = 3e-3
    dt: float = 1e-3

    def __post_init__(self) -> None:
        _check(self, "tau", self.tau)
        _check(self, "dt", self.dt)


def psp_filter(spikes: Float[Tensor, "T B *F"], psp: PSP) -> Float[Tensor, "T B *F"]:
    """The trace that spikes leave at the synapse, from rest.

    Example:
        >>> psp_filter(torch.tensor([[1.0], [0.0]]), PSP(tau=1.0, dt=1.0)).flatten()
        tensor([0.6321, 0.2325])
    """
    decay = math.exp(-psp.dt / psp.tau)
    trace, traces = torch.zeros_like(spikes[0]), []
    for s in spikes:
        trace = decay * trace + (1 - decay) * s
        traces.append(trace)
    return torch.stack(traces)


class Neuron:
    """An equation for one step; members are frozen dataclasses."""

    synapse: PSP | None = None

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        """One step: spikes and the next state."""
        raise NotImplementedError(f"{type(self).__name__} defines no step")

    def integrate(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        """The potential of a neuron that never fires, for read-out."""
        raise NotImplementedError(f"{type(self).__name__} defines no potential")


@dataclass(frozen=True)
class IntegrateAndFire(Neuron):
    """Integrate, compare, reset: what leaky and non-leaky neurons share."""

    threshold: float = 1.0
    reset: Reset = BySubtraction()
    detach_reset: bool = False
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        _check(self, "threshold", self.threshold)

    @property
    def decay(self) -> float:
        """Share of the potential that is left after one step."""
        return 1.0

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        v = self.decay * state.v + current
        z = spike(v - self.threshold)
        return z, State(self.reset(v, z.detach() if self.detach_reset else z, self.threshold))

    def integrate(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        v, potentials = torch.zeros_like(current[0]), []
        for i in current:
            v = self.decay * v + i
            potentials.append(v)
        return torch.stack(potentials)


@dataclass(frozen=True)
class IF(IntegrateAndFire):
    r"""The integrate-and-fire neuron, without leak.

    .. math:: v[t] = v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta], \quad v[t] \leftarrow reset(v[t], z[t])

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.

    Source:
        Gerstner et al. 2014, section 1.3, without leak; Cao et al. 2015.
    """


@dataclass(frozen=True)
class LIF(IntegrateAndFire):
    r"""The leaky integrate-and-fire neuron.

    .. math:: v[t] = e^{-dt/\tau}\,v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta],
              \quad v[t] \leftarrow reset(v[t], z[t])

    A potential equal to the threshold fires. The reset is part of the gradient unless `detach_reset`.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant [s], positive.
        dt: length of one step [s], positive.

    Source:
        Gerstner et al. 2014, eq. (1.9), integrated exactly over one step; input not scaled by 1/tau.
    """

    tau: float = 4e-3
    dt: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, "tau", self.tau)
        _check(self, "dt", self.dt)

    @property
    def decay(self) -> float:
        return math.exp(-self.dt / self.tau)


class Analogue(Neuron):
    """A unit of an artificial network: no state, no spikes, one real number per step."""

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """What the unit answers to a current."""
        raise NotImplementedError(f"{type(self).__name__} defines no activation")

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        return self.activation(current), state

    def integrate(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        return current


@dataclass(frozen=True)
class ReLU(Analogue):
    """The rectified linear unit of the ANN twin: no state, no spikes, one real number per step.

    Source:
        Fukushima 1975.
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return current.relu()


@dataclass(frozen=True)
class Softplus(Analogue):
    r"""The softplus unit, a smooth ReLU for an ANN twin whose gradient is nowhere zero.

    .. math:: a = \ln(1 + e^I)

    Computed without overflow: above a current of 20 the answer is the current itself, to rounding.

    Source:
        Dugas et al. 2001; Ding et al. 2023 (`forward_softplus`).
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return torch.nn.functional.softplus(current)


def unroll(
    current: Float[Tensor, "T B *F"], state: State, neuron: Neuron, spike: Surrogate
) -> tuple[Float[Tensor, "T B *F"], State]:
    """The step repeated: the definition every faster version is measured against.

    Example:
        >>> z, end = unroll(torch.full((3, 1), 0.6), State(torch.zeros(1)), IF(), ATan())
        >>> z.flatten().tolist(), round(end.v.item(), 4)
        ([0.0, 1.0, 0.0], 0.8)
    """
    spikes = []
    for i in current:
        z, state = neuron.step(i, state, spike)
        spikes.append(z)
    return torch.stack(spikes), state


BLOCK = 1 << 17  # neurons per pass of the fused loop: their state stays in the processor's cache


class _IntegrateAndFire(torch.autograd.Function):
    """The loop of `unroll`, block by block, with the gradient recursion written out instead of recorded."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, v: Tensor, neuron: IntegrateAndFire, spike: Surrogate) -> Any:
        shape, current = current.shape, current.flatten(1)
        potentials, spikes, end = torch.empty_like(current), torch.empty_like(current), v.flatten().clone()
        for block in _blocks(current):
            v = end[block]
            for i, before, z in zip(current[:, block], potentials[:, block], spikes[:, block], strict=True):
                torch.add(v.mul_(neuron.decay), i, out=before)
                torch.ge(before, neuron.threshold, out=z)
                neuron.reset(before, z, neuron.threshold, out=v)
        ctx.save_for_backward(potentials, spikes)
        ctx.neuron, ctx.spike = neuron, spike
        return spikes.view(shape), end.view(shape[1:])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (potentials, spikes), neuron = ctx.saved_tensors, ctx.neuron
        g_spikes, g_end = grads[0].flatten(1), grads[1].flatten().clone()
        g_current = torch.empty_like(potentials)
        for block in _blocks(potentials):
            slope = ctx.spike.derivative(potentials[:, block] - neuron.threshold)
            carried = g_end[block]
            for t in range(potentials.shape[0] - 1, -1, -1):
                by_v, by_z = neuron.reset.slope(potentials[t, block], spikes[t, block], neuron.threshold)
                g_z = g_spikes[t, block] if neuron.detach_reset else g_spikes[t, block] + carried * by_z
                g = torch.addcmul(carried.mul_(by_v), g_z, slope[t], out=g_current[t, block])
                torch.mul(g, neuron.decay, out=carried)
        return g_current.view(grads[0].shape), g_end.view(grads[1].shape), None, None


def _blocks(x: Float[Tensor, "T N"]) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, x.shape[1], BLOCK)]


def lif_unroll(
    current: Float[Tensor, "T B *F"], state: State, neuron: Neuron, spike: Surrogate
) -> tuple[Float[Tensor, "T B *F"], State]:
    """`unroll` for integrate-and-fire neurons, with a hand-written backward pass; other neurons fall through.

    Spikes equal those of `unroll` to the bit, gradients to rounding. It cannot be differentiated twice.

    Example:
        >>> z, end = lif_unroll(torch.full((3, 1), 0.6), State(torch.zeros(1)), IF(), ATan())
        >>> z.flatten().tolist(), round(end.v.item(), 4)
        ([0.0, 1.0, 0.0], 0.8)
    """
    if not isinstance(neuron, IntegrateAndFire):
        return unroll(current, state, neuron, spike)
    spikes, v = _IntegrateAndFire.apply(current, state.v, neuron, spike)  # type: ignore[no-untyped-call]
    return spikes, State(v)


Unroll = Callable[[Tensor, State, Neuron, Surrogate], tuple[Tensor, State]]


def _in_full(current: Tensor) -> Tensor:
    """Potentials are summed in single precision, even where autocast computes products in half."""
    mixed = torch.is_autocast_enabled(current.device.type) and current.dtype in (
        torch.bfloat16,
        torch.float16,
    )
    return (current.float() if mixed else current).contiguous()


class Spiking(nn.Module):
    """A layer of neurons; every call starts at rest and nothing is left when it returns.

    Args:
        neuron: the equation of one step.
        spike: the spike function, exchangeable by `substitute`.
        unroll: the loop over time, exchangeable by `substitute`.

    Shapes:
        current `[T, B, *F]` -> spikes `[T, B, *F]`

    Example:
        >>> Spiking(IF())(torch.full((3, 1), 0.6)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self, neuron: Neuron = LIF(), spike: Surrogate = ATan(), unroll: Unroll = lif_unroll
    ) -> None:
        super().__init__()
        self.neuron, self.spike, self.unroll = neuron, spike, unroll

    def forward(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        current = _in_full(current)
        rest = State(torch.zeros_like(current[0]))
        return self.unroll(current, rest, self.neuron, self.spike)[0]

    def extra_repr(self) -> str:
        return f"{self.neuron!r}, spike={self.spike!r}"


class Synapse(nn.Module):
    """Spikes on their way to the next layer, as a postsynaptic trace.

    Shapes:
        spikes `[T, B, *F]` -> trace `[T, B, *F]`
    """

    def __init__(self, psp: PSP) -> None:
        super().__init__()
        self.psp = psp

    def forward(self, spikes: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        return psp_filter(spikes, self.psp)

    def extra_repr(self) -> str:
        return repr(self.psp)


class Integrator(nn.Module):
    """A read-out layer whose neurons integrate and never fire.

    Shapes:
        current `[T, B, K]` -> potential `[T, B, K]`

    Example:
        >>> Integrator(IF())(torch.ones(3, 1, 1)).flatten().tolist()
        [1.0, 2.0, 3.0]
    """

    def __init__(self, neuron: Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, current: Float[Tensor, "T B K"]) -> Float[Tensor, "T B K"]:
        return self.neuron.integrate(_in_full(current))

    def extra_repr(self) -> str:
        return repr(self.neuron)

"""Integrate-and-fire neurons, and their loop over time with a hand-written backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.parts.loops import (
    Kind,
    compiled_filter,
    compiled_loop,
    compiles,
    has_channels_last,
)
from spikeproof.neurons.parts.neuron import (
    NOTHING,
    Learned,
    Neuron,
    Repeated,
    Resetting,
    SomeState,
    State,
    Unroll,
    unroll,
)
from spikeproof.neurons.parts.traced import traced_loop, traces
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate

__all__ = ["IF", "IntegrateAndFire", "PrimedIF", "fused_unroll", "lif_unroll"]


@dataclass(frozen=True)
class IntegrateAndFire(Resetting):
    """Integration, threshold and reset, which leaky and non-leaky neurons share."""

    @property
    def decay(self) -> float:
        """Share of the potential that is left after one step."""
        return 1.0

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        z, v = self.fire(self.decay * state.v + current, spike)
        return z, State(v)

    def compiled(
        self, current: Float[Tensor, "T B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], State]:
        spikes, v, _ = compiled_loop(current, self.form(Kind.INTEGRATING, self.decay), spike, state.v)
        return spikes, State(v)

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        v, potentials = torch.zeros_like(current[0]), []
        if not torch.is_grad_enabled() and compiles(current):
            return compiled_filter(current, self.decay, 1.0, v)
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
class PrimedIF(IF):
    r"""The integrate-and-fire neuron whose potential starts between rest and threshold.

    .. math:: v[-1] = \rho\,\theta, \quad v[t] = v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta]

    Starting at zero, a neuron rounds the rate of a constant current `I` down, to `floor(T I) / T`; starting
    at half the threshold, it rounds to the nearest. An output layer that integrates and never fires starts at
    zero, as with `IF`.

    Args:
        threshold: firing threshold `theta`, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        initial: potential before the first step `rho`, as a share of the threshold, in [0, 1).

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(PrimedIF())(torch.full((4, 1, 1), 0.25)).flatten().tolist()
        [0.0, 1.0, 0.0, 0.0]

    Source:
        Bu et al. 2022, theorem 2.
    """

    initial: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.initial < 1:
            raise InputError("PrimedIF needs initial in [0, 1)", f"initial={self.initial}", "Try 0.5.")

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> State:
        return State(torch.full_like(current[0], self.initial * self.threshold))


BLOCK = 1 << 17  # neurons per pass of the loop, so that their state stays in the processor's cache


class _Kept(Context, Protocol):
    neuron: IntegrateAndFire
    spike: Surrogate


def _fired(
    current: Float[Tensor, "T N"], v: Float[Tensor, "N"], neuron: IntegrateAndFire, goes_back: bool
) -> tuple[Float[Tensor, "S N"], Float[Tensor, "T N"], Float[Tensor, "N"]]:
    """Potentials before the reset, at every step or at the last alone; spikes; potentials at the end."""
    steps = len(current) if goes_back else min(len(current), 1)  # else one row serves all steps
    potentials, spikes = current.new_empty(steps, current.shape[1]), torch.empty_like(current)
    end, decay, threshold = v.clone(), neuron.decay, neuron.threshold
    for block in _blocks(current):
        v = end[block]
        rows = potentials[:, block].expand(len(current), -1)
        for i, before, z in zip(current[:, block], rows, spikes[:, block], strict=True):
            torch.add(v.mul_(decay), i, out=before)
            torch.ge(before, threshold, out=z)
            neuron.reset(before, z, threshold, out=v)
    return potentials, spikes, end


class _IntegrateAndFire(torch.autograd.Function):
    """The loop of `unroll`, block by block, with a hand-written instead of a recorded gradient recursion."""

    @staticmethod
    def forward(
        ctx: _Kept, current: Tensor, v: Tensor, neuron: IntegrateAndFire, spike: Surrogate
    ) -> tuple[Tensor, Tensor]:
        shape, goes_back = current.shape, any(ctx.needs_input_grad)
        potentials, spikes, end = _fired(current.flatten(1), v.flatten(), neuron, goes_back)
        if goes_back:
            ctx.save_for_backward(potentials, spikes)
            ctx.neuron, ctx.spike = neuron, spike
        return spikes.view(shape), end.view(shape[1:])

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (potentials, spikes), neuron = ctx.saved_tensors, ctx.neuron
        g_spikes, g_end = grads[0].flatten(1), grads[1].flatten().clone()
        g_current, decay = torch.empty_like(potentials), neuron.decay
        for block in _blocks(potentials):
            slope = ctx.spike.derivative(potentials[:, block] - neuron.threshold)
            carried = g_end[block]
            for t in range(potentials.shape[0] - 1, -1, -1):
                by_v, by_z = neuron.reset.slope(potentials[t, block], spikes[t, block], neuron.threshold)
                g_z = g_spikes[t, block] if neuron.detach_reset else g_spikes[t, block] + carried * by_z
                g = torch.addcmul(carried.mul_(by_v), g_z, slope[t], out=g_current[t, block])
                torch.mul(g, decay, out=carried)
        return g_current.view(grads[0].shape), g_end.view(grads[1].shape), None, None


def _blocks(x: Float[Tensor, "T N"]) -> list[slice]:
    """Blocks that fit a processor's cache; on an accelerator a single block, to launch few kernels."""
    size = BLOCK if x.device.type == "cpu" else max(1, x.shape[1])
    return [slice(start, start + size) for start in range(0, x.shape[1], size)]


def has_compiled(neuron: Neuron) -> bool:
    """Whether a neuron has a compiled loop, and no class below the loop's changes its equation.

    Example:
        >>> has_compiled(IF()), has_compiled(Neuron())
        (True, False)
    """
    return _belongs(type(neuron).__mro__)


@cache
def _belongs(lineage: tuple[type, ...]) -> bool:
    loop, step, fire = (
        next((cls for cls in lineage if name in vars(cls)), None) for name in ("compiled", "step", "fire")
    )
    return loop is step and loop is not Neuron and fire in (Resetting, None)


def lif_unroll(
    current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
) -> tuple[Float[Tensor, "T B *F"], SomeState]:
    """`unroll` with a hand-written backward pass for integrate-and-fire neurons; others use `unroll` itself.

    Where other loops are chosen (`spikeproof.compiled.using_loops`), those of IF, LIF, PLIF, ALIF and
    CuBaLIF run in machine code or in programs of `torch.compile`. The spikes equal those of `unroll` to the
    bit, the gradients up to rounding. The loop cannot be differentiated twice.

    Example:
        >>> from spikeproof.surrogates import ATan
        >>> z, end = lif_unroll(torch.full((3, 1), 0.6), State(torch.zeros(1)), IF(), ATan())
        >>> z.flatten().tolist(), round(end.v.item(), 4)
        ([0.0, 1.0, 0.0], 0.8)
    """
    if has_compiled(neuron) and compiles(current, spike, getattr(neuron, "reset", None)):
        return neuron.compiled(current, state, spike)
    if has_compiled(neuron) and traces(current, spike):
        found = traced_loop(Repeated(neuron, spike, type(state)), current, state)
        if found is not None:
            return found.outputs, type(state)(*found.state)
    if type(neuron).step is not IntegrateAndFire.step:  # a subclass with its own equation
        return unroll(current, state, neuron, spike)
    assert isinstance(neuron, IntegrateAndFire)
    if last := has_channels_last(current):  # in the order of memory
        current, state = current.movedim(2, -1), State(state.v.movedim(1, -1))
    if torch.is_grad_enabled():
        spikes, v = _IntegrateAndFire.apply(current, state.v, neuron, spike)  # type: ignore[no-untyped-call]
    else:
        _, spikes, v = _fired(current.flatten(1), state.v.flatten(), neuron, goes_back=False)
        spikes, v = spikes.view(current.shape), v.view(state.v.shape)
    return (spikes.movedim(-1, 2), State(v.movedim(-1, 1))) if last else (spikes, State(v))


@cache
def fused_unroll() -> Unroll:
    """`unroll`, fused by `torch.compile` into one program per shape: fast on a GPU, for training.

    On a CPU its spikes equal those of `unroll` to the bit; a GPU may round a product and a sum together.
    """
    return torch.compile(unroll, dynamic=False)

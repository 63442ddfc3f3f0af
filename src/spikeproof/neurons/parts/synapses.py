"""Synapses, which filter spikes on their way to the next layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.neurons.parts.constants import positive
from spikeproof.neurons.parts.loops import compiled_filter, compiles
from spikeproof.neurons.parts.traced import traced_loop, traces

__all__ = ["PSP", "Filter", "Synapse", "psp_filter"]


@dataclass(frozen=True)
class PSP:
    r"""The postsynaptic potential: spikes filtered by a decaying exponential of unit area.

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
        positive(self, tau=self.tau, dt=self.dt)


@dataclass(frozen=True)
class Filter:
    """The loop of an exponential filter, `v[t] = decay v[t-1] + gain I[t]`."""

    decay: float
    gain: float

    def __call__(self, current: Float[Tensor, "T *N"], v: Float[Tensor, "*N"]) -> tuple[Tensor, Tensor]:
        traces = []
        for i in current:
            v = self.decay * v + self.gain * i
            traces.append(v)
        return torch.stack(traces), v


def psp_filter(
    spikes: Float[Tensor, "T B *F"], psp: PSP, start: Float[Tensor, "B *F"] | None = None
) -> Float[Tensor, "T B *F"]:
    """The trace that spikes leave at the synapse, from an earlier trace or, where there is none, from rest.

    Example:
        >>> psp_filter(torch.tensor([[1.0], [0.0]]), PSP(tau=1.0, dt=1.0)).flatten()
        tensor([0.6321, 0.2325])
    """
    decay = math.exp(-psp.dt / psp.tau)
    trace, loop = torch.zeros_like(spikes[0]) if start is None else start, Filter(decay, 1 - decay)
    if compiles(spikes):
        return compiled_filter(spikes, loop.decay, loop.gain, trace)
    if traces(spikes) and (found := traced_loop(loop, spikes, (trace,))):
        return found.outputs
    return loop(spikes, trace)[0]


class Synapse(nn.Module):
    """A synapse, which turns spikes into a postsynaptic trace for the next layer.

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

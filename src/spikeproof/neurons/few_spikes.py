"""Neurons that wait for their input and then send a number in few spikes, each step with its own weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.parts.constants import positive
from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron
from spikeproof.surrogates import Surrogate

__all__ = ["FS", "ConvertedT2FSNN", "FSState", "KernelState"]


SHORTEST = 0.1
"""Shortest time constant of a kernel, in steps, whatever a layer learns."""


class FSState(NamedTuple):
    """The remaining potential, and the thresholds, falls and weights of the remaining steps."""

    v: Float[Tensor, "B *F"]
    thresholds: Float[Tensor, "T"]
    falls: Float[Tensor, "T"]
    weights: Float[Tensor, "T"]


@dataclass(frozen=True)
class FS(Neuron):
    r"""The few-spikes neuron, whose spikes are the binary digits of its rectified summed input.

    .. math:: v[1] = \sum_t I[t], \quad z[t] = 1[v[t] \ge T[t]], \quad v[t+1] = v[t] - h[t]\,z[t]

    where a spike at step t has the weight `d[t]`. Initially `T[t] = h[t] = d[t] = scale 2^{-t}` for t = 1..K,
    and the weighted spikes sum to the input, rectified, clipped to [0, scale) and rounded down to a multiple
    of `scale 2^{-K}`. A neuron receives its whole input before its first spike, so layers are computed one
    after the other; the encoder `few-spikes` sends spikes of the same kind. The bias of a layer is added once
    per step.

    Args:
        steps: number of time steps `K`, the same as in the encoder.
        scale: the smallest number that is too large to be sent, in units of potential, positive.
        learn: whether each layer learns T, h and d, starting from these values.

    Raises:
        InputError: the current has another number of steps.

    Shapes:
        learns `thresholds`, `falls`, `weights`, each `[steps]`, or nothing; current `[B, *F]` -> weighted
        spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(FS(steps=3))(torch.tensor([[0.7], [0.0], [0.0]])).flatten().tolist()
        [0.5, 0.0, 0.125]

    Source:
        Stoeckl & Maass 2021, eq. (1) to (3); the constants are those for ReLU.
    """

    binary: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = True

    steps: int = 8
    scale: float = 1.0
    learn: bool = False

    def __post_init__(self) -> None:
        positive(self, steps=self.steps, scale=self.scale)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        names = ("thresholds", "falls", "weights") if self.learn else ()
        return {name: self._digits() for name in names}

    def _digits(self) -> Float[Tensor, "T"]:
        return torch.tensor([math.ldexp(self.scale, -t) for t in range(1, self.steps + 1)])

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> FSState:
        if len(current) != self.steps:
            raise InputError(
                f"FS needs a current of {self.steps} time steps",
                f"{len(current)} time steps",
                "Give it as many steps as the encoder has.",
            )
        names = ("thresholds", "falls", "weights")
        rows = [(learned[name] if learned else self._digits()).to(current) for name in names]
        return FSState(current.sum(0), *rows)

    def step(
        self, current: Float[Tensor, "B *F"], state: FSState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], FSState]:
        z = spike(state.v - state.thresholds[0])
        rest = (state.thresholds[1:], state.falls[1:], state.weights[1:])
        return state.weights[0] * z, FSState(state.v - state.falls[0] * z, *rest)


class KernelState(NamedTuple):
    """The potential, what is still to arrive, whether neurons fired, and the kernel at remaining steps."""

    v: Float[Tensor, "B *F"]
    later: Float[Tensor, "E B *F"]
    fired: Float[Tensor, "B *F"]
    kernel: Float[Tensor, "T"]
    fires: Float[Tensor, "T"]


@dataclass(frozen=True)
class ConvertedT2FSNN(Neuron):
    r"""The neuron of a converted T2FSNN: its potential in one spike, the earlier the larger it is.

    .. math:: V = \sum_t I[t], \quad t_s = \min\{t \in 0..T-2 : V \ge \theta\,\varepsilon(t)\}, \quad
              z[t_s] = \varepsilon(t_s), \quad \varepsilon(t) = e^{-(t - t_d)/\tau}

    The spike has the value of the kernel at its time, which is what the dendrites of the next layer make of
    it. A potential between the last and the first threshold is sent with a relative error below
    :math:`1 - e^{-1/\tau}`, a smaller one not at all, and a larger one as the first. Every layer has its own
    `tau` and `t_d`. The last step is silent, so that the current of this step is the bias of the layer, which
    is added once per step.

    With the surrogate for the step, the gradient is that of
    :math:`\sum_t (\varepsilon(t) - \varepsilon(t+1))\,1[V \ge \theta\,\varepsilon(t)]`. Its slope is near 1
    wherever a potential has a spike, because a spike at one step takes the place of those at later steps.

    A neuron fires in the phase after the one in which its inputs fire. With `early` steps of early firing
    the phases overlap: at its step t a neuron has received the inputs of the steps before
    :math:`t + T - early` and all of the bias. An input that comes later changes a spike only if it comes
    before this spike.

    Args:
        steps: length of a phase `T`, at least 2, the same as in the encoder.
        tau: time constant of the kernel before a conversion, in steps, positive.
        delay: `t_d` before a conversion, in steps, at least 0.
        early: by how many steps firing begins before the phase of the inputs ends, 0 to T - 1.
        threshold: `theta`, in units of potential, positive.

    Raises:
        InputError: the current has another number of steps.

    Shapes:
        learns `tau` and `delay`, one of each per layer; current `[B, *F]` -> weighted spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> current = torch.tensor([[0.6], [0.1], [0.0], [0.0]])
        >>> Spiking(ConvertedT2FSNN(steps=4, tau=2.0))(current).flatten().tolist()
        [0.0, 0.6065306663513184, 0.0, 0.0]

    Source:
        Park et al. 2020 (T2FSNN), with the early firing of the paper. The neuron `t2fsnn` is the one for
        networks of spike times, which are trained directly.
    """

    binary: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = True

    steps: int = 80
    tau: float = 20.0
    delay: float = 0.0
    early: int = 0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        positive(self, tau=self.tau, threshold=self.threshold)
        if self.steps < 2 or not 0 <= self.early < self.steps or not 0 <= self.delay < math.inf:
            raise InputError(
                "ConvertedT2FSNN needs two steps or more, early below that number and a delay of at least 0",
                f"steps={self.steps}, early={self.early}, delay={self.delay}",
                "Try steps=80, early=0 or 40, delay=0.0.",
            )

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        return {"tau": torch.tensor(self.tau), "delay": torch.tensor(self.delay)}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> KernelState:
        if len(current) != self.steps:
            raise InputError(
                f"ConvertedT2FSNN needs a current of {self.steps} time steps",
                f"{len(current)} time steps",
                "Give it as many steps as the encoder has.",
            )
        constants = learned or self.parameters()
        tau, delay = (constants[name].to(current) for name in ("tau", "delay"))
        steps = torch.arange(self.steps, device=current.device, dtype=current.dtype)
        kernel = torch.exp((delay - steps) / tau.clamp(min=SHORTEST))
        fires = (steps < self.steps - 1).to(current.dtype)
        if not self.early:
            v, later = current.sum(0), current[:0]
        else:
            bias, heard = current[-1], self.steps - self.early
            v = (current[:heard] - bias).sum(0) + self.steps * bias
            later = current[heard:] - bias
        return KernelState(v, later, torch.zeros_like(v), kernel, fires)

    def step(
        self, current: Float[Tensor, "B *F"], state: KernelState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], KernelState]:
        reached = spike(state.v - self.threshold * state.kernel[0]) * state.fires[0]
        fired = torch.where(reached >= state.fired, reached, state.fired)
        v = state.v + state.later[0] if len(state.later) else state.v
        rest = (state.later[1:], fired, state.kernel[1:], state.fires[1:])
        return state.kernel[0] * (fired - state.fired), KernelState(v, *rest)

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        """The potential after all of the input, at every step."""
        return current.sum(0).expand_as(current)

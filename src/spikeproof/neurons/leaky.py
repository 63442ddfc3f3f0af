"""Leaky neurons: the LIF neuron, and neurons with learned constants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.integrate import IntegrateAndFire
from spikeproof.neurons.parts.constants import falls_by, positive, share_lost
from spikeproof.neurons.parts.loops import Kind, compiled_loop
from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron, Resetting, per_feature
from spikeproof.neurons.parts.resets import Reset, ToZero
from spikeproof.neurons.parts.synapses import PSP
from spikeproof.surrogates import Surrogate

__all__ = [
    "DLIF",
    "LIF",
    "PLIF",
    "SNU",
    "DLIFState",
    "EvolutionaryLeak",
    "EvolutionaryState",
    "Leaky",
    "PLIFState",
    "SNUState",
]


@dataclass(frozen=True)
class Leaky(Resetting):
    """A leaky membrane, which all neurons with a membrane time constant share."""

    tau: float = 4e-3
    dt: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, tau=self.tau, dt=self.dt)

    @property
    def decay(self) -> float:
        """Share of the potential that is left after one step."""
        return falls_by(self.dt, self.tau)


@dataclass(frozen=True)
class LIF(Leaky, IntegrateAndFire):
    r"""The leaky integrate-and-fire neuron.

    .. math:: v[t] = e^{-dt/\tau}\,v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta],
              \quad v[t] \leftarrow reset(v[t], z[t])

    A neuron whose potential equals the threshold fires. The reset is part of the gradient unless
    `detach_reset`.

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


class PLIFState(NamedTuple):
    """Potential, and the share of it that is lost in one step."""

    v: Float[Tensor, "B *F"]
    lost: Float[Tensor, ""]


@dataclass(frozen=True)
class PLIF(Leaky):
    r"""The parametric leaky integrate-and-fire neuron: each layer learns its time constant.

    .. math:: v[t] = (1-k)\,v[t-1] + k\,I[t], \quad k = \sigma(a), \quad z[t] = 1[v[t] \ge \theta]

    and the reset follows. Each layer learns one number `a`, which initially makes `1 - k = exp(-dt/tau)`. The
    paper starts from the first-order approximation `k = 1/tau0`, with tau0 in steps; its tau0 = 2 is
    `tau = dt / ln 2` here.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`, the paper's.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant before training [s], positive.
        dt: length of one step [s], positive.
        scale_input: whether the current enters as `k I`, as in the paper, or as `I`.

    Shapes:
        learns `leak []`; current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> import math
        >>> neuron = PLIF(tau=1e-3 / math.log(2))
        >>> neuron.integrate(torch.tensor([[1.0], [0.0]])).flatten()
        tensor([0.5000, 0.2500])

    Source:
        Fang et al. 2021, eq. (9) and (10).
    """

    scale_input: bool = True

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        return {"leak": torch.tensor(share_lost(self.dt, self.tau))}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> PLIFState:
        leak = (learned or self.parameters())["leak"]
        return PLIFState(torch.zeros_like(current[0]), leak.to(current).sigmoid())

    def step(
        self, current: Float[Tensor, "B *F"], state: PLIFState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], PLIFState]:
        gained = state.lost * current if self.scale_input else current
        z, v = self.fire(state.v - state.lost * state.v + gained, spike)
        return z, PLIFState(v, state.lost)

    def compiled(
        self, current: Float[Tensor, "T B *F"], state: PLIFState, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], PLIFState]:
        form = replace(self.form(Kind.PARAMETRIC), scales_input=self.scale_input)
        spikes, v, _ = compiled_loop(current, form, spike, state.v, None, state.lost)
        return spikes, PLIFState(v, state.lost)


class DLIFState(NamedTuple):
    """Potential, and the gains of the remaining steps."""

    v: Float[Tensor, "B *F"]
    gains: Float[Tensor, "T"]


@dataclass(frozen=True)
class DLIF(Leaky):
    r"""The dynamic leaky integrate-and-fire neuron: each layer learns one gain for every time step.

    .. math:: v[t] = e^{-dt/\tau}\,v[t-1] + p[t]\,I[t], \quad z[t] = 1[v[t] \ge \theta]

    and the reset follows. Each layer learns one gain `p[t]` per time step, which is 1 initially.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant [s], positive; the paper's decay of 0.99 is `tau = 0.1` for the default
            `dt`.
        dt: length of one step [s], positive.
        steps: number of time steps that have a gain, at least as many as the encoder has.

    Raises:
        InputError: the current has more than `steps` steps.

    Shapes:
        learns `gains [steps]`; current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> DLIF(tau=0.1, steps=2).integrate(torch.ones(2, 1)).flatten()
        tensor([1.0000, 1.9900])

    Source:
        Ding et al. 2024 (robust stable SNNs).
    """

    tau: float = 0.1
    steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, steps=self.steps)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        return {"gains": torch.ones(self.steps)}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> DLIFState:
        if len(current) > self.steps:
            raise InputError(
                f"DLIF has gains for {self.steps} time steps",
                f"{len(current)} time steps",
                "Give it as many steps as the encoder has.",
            )
        gains = (learned or self.parameters())["gains"]
        return DLIFState(torch.zeros_like(current[0]), gains.to(current))

    def step(
        self, current: Float[Tensor, "B *F"], state: DLIFState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], DLIFState]:
        z, v = self.fire(self.decay * state.v + state.gains[0] * current, spike)
        return z, DLIFState(v, state.gains[1:])


class EvolutionaryState(NamedTuple):
    """Potential, and the leaks of the remaining steps."""

    v: Float[Tensor, "B *F"]
    leaks: Float[Tensor, "T *G"]


@dataclass(frozen=True)
class EvolutionaryLeak(Resetting):
    r"""The neuron of FEEL-SNN: each feature learns how much of its potential is left at every time step.

    .. math:: v[t] = \lambda[t]\,v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta]

    and the reset follows. Every neuron of a fully connected layer, and every channel of a convolutional one,
    learns one `lambda[t]` per time step; the published code has one per pixel of a channel as well. Leaks are
    not bounded: training may make them negative or larger than 1, as in that code, whose rate-based gradient
    ignores them. With the encoder `low-pass` this is FEEL-SNN.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `ToZero()`, the paper's, or `BySubtraction()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        steps: number of time steps that have a leak, at least as many as the encoder has.
        initial: share of the potential that is left at every step before training, in [0, 1].

    Raises:
        InputError: the current has more than `steps` steps, or a setting is out of range.

    Shapes:
        learns `leaks [steps, F]`; current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> EvolutionaryLeak(steps=2, initial=0.5).integrate(torch.ones(2, 1)).flatten()
        tensor([1.0000, 1.5000])

    Source:
        Xu et al. 2024 (FEEL-SNN), section 4.3, and its published code.
    """

    reset: Reset = ToZero()
    steps: int = 8
    initial: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, steps=self.steps)
        if not 0 <= self.initial <= 1:
            raise InputError(
                "EvolutionaryLeak needs an initial leak in [0, 1]", f"initial={self.initial}", "Try 1.0."
            )

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        size = (self.steps,) if features is None else (self.steps, features)
        return {"leaks": torch.full(size, self.initial)}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> EvolutionaryState:
        if len(current) > self.steps:
            raise InputError(
                f"EvolutionaryLeak has leaks for {self.steps} time steps",
                f"{len(current)} time steps",
                "Give it as many steps as the encoder has.",
            )
        leaks = (learned or self.parameters())["leaks"].to(current)
        lined_up = leaks.view(*leaks.shape, *[1] * (current.ndim - 3)) if leaks.ndim > 1 else leaks
        return EvolutionaryState(torch.zeros_like(current[0]), lined_up)

    def step(
        self, current: Float[Tensor, "B *F"], state: EvolutionaryState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], EvolutionaryState]:
        z, v = self.fire(state.leaks[0] * state.v + current, spike)
        return z, EvolutionaryState(v, state.leaks[1:])


class SNUState(NamedTuple):
    """Potential, last spikes, and the bias of the threshold."""

    v: Float[Tensor, "B *F"]
    z: Float[Tensor, "B *F"]
    bias: Float[Tensor, "..."]


@dataclass(frozen=True)
class SNU(Neuron):
    r"""The spiking neural unit: a rectified leaky membrane with a learned threshold.

    .. math:: s[t] = \max(0,\ I[t] + e^{-dt/\tau}\,s[t-1]\,(1 - y[t-1])), \quad y[t] = 1[s[t] + b \ge 0]

    Each feature learns a bias `b`, which is initially minus the threshold. An output layer that does not fire
    is not rectified either, so its logits may be negative.

    Args:
        threshold: firing threshold before training, in units of potential, positive.
        tau: membrane time constant [s], positive.
        dt: length of one step [s], positive.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.

    Shapes:
        learns `bias [F]`; current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(SNU())(torch.tensor([[0.6], [-9.0], [1.0], [0.5]])).flatten().tolist()
        [0.0, 0.0, 1.0, 0.0]

    Source:
        Wozniak et al. 2020, eq. (3) and (4).
    """

    threshold: float = 1.0
    tau: float = 4e-3
    dt: float = 1e-3
    detach_reset: bool = False
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        positive(self, threshold=self.threshold, tau=self.tau, dt=self.dt)

    @property
    def decay(self) -> float:
        """Share of the potential that is left after one step without a spike."""
        return falls_by(self.dt, self.tau)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        return {"bias": torch.full(() if features is None else (features,), -self.threshold)}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> SNUState:
        zeros, bias = torch.zeros_like(current[0]), (learned or self.parameters())["bias"]
        return SNUState(zeros, zeros, per_feature(bias, current[0]))

    def step(
        self, current: Float[Tensor, "B *F"], state: SNUState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], SNUState]:
        fired = state.z.detach() if self.detach_reset else state.z
        v = torch.relu(current + self.decay * state.v * (1 - fired))
        z = spike(v + state.bias)
        return z, SNUState(v, z, state.bias)

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        v, potentials = torch.zeros_like(current[0]), []
        for i in current:
            v = self.decay * v + i
            potentials.append(v)
        return torch.stack(potentials)

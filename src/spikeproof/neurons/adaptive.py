"""Neurons that adapt to their own spikes: adaptive thresholds and after-hyperpolarisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.neurons.leaky import Leaky
from spikeproof.neurons.parts.constants import falls_by, positive, share_lost
from spikeproof.neurons.parts.loops import Kind, compiled_loop
from spikeproof.neurons.parts.neuron import NOTHING, Learned, per_feature
from spikeproof.surrogates import Surrogate

__all__ = ["AHP", "ALIF", "AHPState", "ALIFState"]


class ALIFState(NamedTuple):
    """Potential, trace of past spikes, and the share of each that is left after one step."""

    v: Float[Tensor, "B *F"]
    trace: Float[Tensor, "B *F"]
    decay: Float[Tensor, "..."]
    trace_decay: Float[Tensor, "..."]


@dataclass(frozen=True)
class ALIF(Leaky):
    r"""The leaky integrate-and-fire neuron with an adaptive threshold, which every spike raises for a while.

    .. math:: v[t] = \alpha\,v[t-1] + I[t], \quad z[t] = 1[v[t] \ge \theta + \beta\,a[t]],
              \quad a[t+1] = \rho\,a[t] + z[t]

    with `alpha = exp(-dt/tau)`, `rho = exp(-dt/tau_adapt)`; the reset follows, with the constant threshold.
    If the trace has unit area instead, `eta <- rho eta + (1-rho) z`, the same neuron has the constant
    `beta / (1-rho)`.

    Args:
        threshold: firing threshold without spikes, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset; it always passes through the adaptation.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant [s], positive.
        dt: length of one step [s], positive.
        tau_adapt: time constant of the adaptation [s], positive.
        beta: how much one spike raises the threshold, in units of potential, positive.
        learn: whether every feature learns its two time constants, starting from these values.

    Shapes:
        learns `leak [F]`, `adaptation [F]` or nothing; current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(ALIF(beta=0.5))(torch.full((6, 1), 1.0)).flatten().tolist()
        [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]

    Source:
        Bellec et al. 2020, eq. (8) to (10); Yin, Corradi & Bohte 2021 for learned time constants, whose
        reset takes away the raised threshold instead.
    """

    tau: float = 20e-3
    tau_adapt: float = 200e-3
    beta: float = 0.2
    learn: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, tau_adapt=self.tau_adapt, beta=self.beta)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        shape = () if features is None else (features,)
        constants = {"leak": self.tau, "adaptation": self.tau_adapt} if self.learn else {}
        return {name: torch.full(shape, share_lost(self.dt, tau)) for name, tau in constants.items()}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> ALIFState:
        zeros = torch.zeros_like(current[0])
        if not self.learn:
            constants = (zeros.new_tensor(falls_by(self.dt, tau)) for tau in (self.tau, self.tau_adapt))
            return ALIFState(zeros, zeros, *constants)
        learned = learned or self.parameters()
        lost = (per_feature(learned[name], zeros) for name in ("leak", "adaptation"))
        return ALIFState(zeros, zeros, *(torch.sigmoid(-x) for x in lost))

    def step(
        self, current: Float[Tensor, "B *F"], state: ALIFState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], ALIFState]:
        z, v = self.fire(state.decay * state.v + current, spike, self.beta * state.trace)
        return z, state._replace(v=v, trace=state.trace_decay * state.trace + z)

    def compiled(
        self, current: Float[Tensor, "T B *F"], state: ALIFState, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], ALIFState]:
        form = replace(self.form(Kind.ADAPTIVE), strength=self.beta)
        spikes, v, trace = compiled_loop(current, form, spike, *state)
        assert trace is not None
        return spikes, state._replace(v=v, trace=trace)


class AHPState(NamedTuple):
    """Potential, and the after-hyperpolarising current."""

    v: Float[Tensor, "B *F"]
    ahp: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class AHP(Leaky):
    r"""The leaky integrate-and-fire neuron with a slow after-hyperpolarising current.

    .. math:: v[t] = \alpha\,v[t-1] + I[t] - c[t], \quad z[t] = 1[v[t] \ge \theta],
              \quad c[t+1] = \rho\,c[t] + \beta\,z[t]

    with `alpha = exp(-dt/tau)`, `rho = exp(-dt/tau_ahp)`; the reset follows.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset; it always passes through the slow current.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant [s], positive.
        dt: length of one step [s], positive.
        tau_ahp: time constant of the slow current [s], positive.
        beta: how much current one spike adds, in units of potential per step, positive.

    Shapes:
        current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(AHP(beta=0.5))(torch.full((5, 1), 1.0)).flatten().tolist()
        [1.0, 0.0, 0.0, 1.0, 0.0]

    Source:
        Plank, Rao, Wild & Maass 2021 (LSTM by AHP neurons).
    """

    tau: float = 20e-3
    tau_ahp: float = 200e-3
    beta: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, tau_ahp=self.tau_ahp, beta=self.beta)

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> AHPState:
        zeros = torch.zeros_like(current[0])
        return AHPState(zeros, zeros)

    def step(
        self, current: Float[Tensor, "B *F"], state: AHPState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], AHPState]:
        z, v = self.fire(self.decay * state.v + current - state.ahp, spike)
        return z, AHPState(v, falls_by(self.dt, self.tau_ahp) * state.ahp + self.beta * z)

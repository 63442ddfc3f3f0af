"""Neurons whose response to an input rises before it falls: synaptic currents and double exponentials."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.leaky import Leaky
from spikeproof.neurons.parts.constants import falls_by, positive
from spikeproof.neurons.parts.loops import Kind, compiled_loop
from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron
from spikeproof.neurons.parts.synapses import PSP
from spikeproof.surrogates import Surrogate

__all__ = ["SRM", "CuBaLIF", "CuBaState", "Renewal", "RenewalState", "SRMState"]


class CuBaState(NamedTuple):
    """Potential and synaptic current."""

    v: Float[Tensor, "B *F"]
    i: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class CuBaLIF(Leaky):
    r"""The current-based leaky integrate-and-fire neuron, whose synaptic current decays exponentially.

    .. math:: i[t] = \beta\,i[t-1] + (1-\beta)\,I[t], \quad v[t] = \alpha\,v[t-1] + i[t],
              \quad z[t] = 1[v[t] \ge \theta]

    with `alpha = exp(-dt/tau)`, `beta = exp(-dt/tau_syn)`; the reset follows and changes the potential only.
    Because of the factor `1 - beta` an input carries the same charge for every `tau_syn`, as it does with
    `LIF`.

    Args:
        threshold: firing threshold, in units of potential, positive.
        reset: `BySubtraction()` or `ToZero()`.
        detach_reset: whether the gradient stops at the reset.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.
        tau: membrane time constant [s], positive.
        dt: length of one step [s], positive.
        tau_syn: synaptic time constant [s], positive.

    Shapes:
        current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> CuBaLIF(tau_syn=1e-3).integrate(torch.tensor([[1.0], [0.0], [0.0]])).flatten()
        tensor([0.6321, 0.7248, 0.6501])

    Source:
        Gerstner et al. 2014, section 1.3 with eq. (3.1); Davies et al. 2018.
    """

    tau_syn: float = 2e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, tau_syn=self.tau_syn)

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> CuBaState:
        zeros = torch.zeros_like(current[0])
        return CuBaState(zeros, zeros)

    def step(
        self, current: Float[Tensor, "B *F"], state: CuBaState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], CuBaState]:
        beta = falls_by(self.dt, self.tau_syn)
        i = beta * state.i + (1 - beta) * current
        z, v = self.fire(self.decay * state.v + i, spike)
        return z, CuBaState(v, i)

    def compiled(
        self, current: Float[Tensor, "T B *F"], state: CuBaState, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], CuBaState]:
        beta = falls_by(self.dt, self.tau_syn)
        form = replace(self.form(Kind.CURRENT_BASED, self.decay), second_decay=beta, gain=1 - beta)
        spikes, v, i = compiled_loop(current, form, spike, *state)
        assert i is not None
        return spikes, CuBaState(v, i)


class SRMState(NamedTuple):
    """Potential, the two exponentials of the input kernel, and the refractory kernel."""

    v: Float[Tensor, "B *F"]
    slow: Float[Tensor, "B *F"]
    fast: Float[Tensor, "B *F"]
    refractory: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class SRM(Neuron):
    r"""The spike response model with a double exponential kernel for input and an exponential one for spikes.

    .. math:: v[t] = \sum_{s \le t} \epsilon((t-s+1)dt)\,I[s] - \sum_{s<t} \eta\,e^{-(t-s)dt/\tau_r}\,z[s],
              \quad z[t] = 1[v[t] \ge \theta]
    .. math:: \epsilon(x) = (e^{-x/\tau} - e^{-x/\tau_s}) / \max_x(e^{-x/\tau} - e^{-x/\tau_s})

    The kernel is evaluated at the end of each step, so an input acts in the step in which it arrives. A
    single input of 1 raises the potential to 1 at its peak. Spikes do not change the response to the input;
    the second kernel keeps the neuron from firing again. With `tau_refractory = tau` and
    `strength = threshold` it acts as a reset by subtraction.

    Args:
        threshold: firing threshold, in units of potential, positive.
        tau: membrane time constant, with which the kernel falls [s], positive.
        tau_syn: synaptic time constant, with which the kernel rises [s], positive and below `tau`.
        tau_refractory: time constant of refractoriness [s], positive.
        strength: depth `eta` of refractoriness at a spike, in units of potential, positive.
        dt: length of one step [s], positive.
        detach_reset: whether the gradient stops at the refractory kernel.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.

    Raises:
        InputError: a constant is not positive, or `tau_syn` is not below `tau`.

    Shapes:
        current `[B, *F]` -> spikes `[B, *F]`

    Example:
        >>> SRM(tau=4e-3, tau_syn=1e-3).integrate(torch.tensor([[1.0], [0.0], [0.0]])).flatten()
        tensor([0.8697, 0.9973, 0.8944])

    Source:
        Gerstner et al. 2014, section 6.4, with the kernel of section 3.1.3 and no dynamic threshold.
    """

    threshold: float = 1.0
    tau: float = 8e-3
    tau_syn: float = 2e-3
    tau_refractory: float = 4e-3
    strength: float = 1.0
    dt: float = 1e-3
    detach_reset: bool = False
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        positive(self, threshold=self.threshold, tau=self.tau, tau_syn=self.tau_syn, dt=self.dt)
        positive(self, tau_refractory=self.tau_refractory, strength=self.strength)
        if self.tau_syn >= self.tau:
            raise InputError(
                "SRM needs tau_syn below tau",
                f"tau_syn={self.tau_syn}, tau={self.tau}",
                "The kernel rises with tau_syn and falls with tau.",
            )

    @property
    def scale(self) -> float:
        """The factor that makes the peak of the kernel 1."""
        peak = self.tau * self.tau_syn / (self.tau - self.tau_syn) * math.log(self.tau / self.tau_syn)
        return 1 / (falls_by(peak, self.tau) - falls_by(peak, self.tau_syn))

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> SRMState:
        zeros = torch.zeros_like(current[0])
        return SRMState(zeros, zeros, zeros, zeros)

    def step(
        self, current: Float[Tensor, "B *F"], state: SRMState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], SRMState]:
        slow = falls_by(self.dt, self.tau) * (state.slow + current)
        fast = falls_by(self.dt, self.tau_syn) * (state.fast + current)
        v = self.scale * (slow - fast) - state.refractory
        z = spike(v - self.threshold)
        fired = z.detach() if self.detach_reset else z
        refractory = falls_by(self.dt, self.tau_refractory) * (state.refractory + self.strength * fired)
        return z, SRMState(v, slow, fast, refractory)


class RenewalState(NamedTuple):
    """Potential, and the two exponentials of which it is the difference."""

    v: Float[Tensor, "B *F"]
    slow: Float[Tensor, "B *F"]
    fast: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class Renewal(Neuron):
    r"""A spike response neuron with a double exponential kernel, which a spike resets completely.

    .. math:: m[t] = a\,(m[t-1] + I[t]), \quad n[t] = b\,(n[t-1] + I[t]), \quad
              v[t] = \frac{1-b}{a-b}\,(m[t] - n[t]), \quad z[t] = 1[v[t] \ge \theta]

    with :math:`a = e^{-dt/\tau}`, :math:`b = e^{-dt/\tau_{syn}}`; a spike sets m, n and v to zero, so only
    inputs since the last spike contribute to the next one.

    Args:
        threshold: firing threshold, in units of potential, positive.
        tau: membrane time constant, with which the kernel falls [s], positive.
        tau_syn: synaptic time constant, with which the kernel rises [s], positive and below `tau`.
        dt: length of one step [s], positive.
        detach_reset: whether the gradient stops at the reset.

    Raises:
        InputError: a constant is not positive, or `tau_syn` is not below `tau`.

    Example:
        >>> from spikeproof.neurons import unroll
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.full((4, 1), 1.0)
        >>> unroll(current, Renewal().rest(current), Renewal(), ATan())[0].flatten().tolist()
        [0.0, 0.0, 1.0, 0.0]

    Source:
        Zhu et al. 2022, section 3.1, with 1 - 1/tau there for a and b, tau in steps.
    """

    threshold: float = 1.0
    tau: float = 4.5e-3
    tau_syn: float = 2.5e-3
    dt: float = 1e-3
    detach_reset: bool = False

    def __post_init__(self) -> None:
        positive(self, threshold=self.threshold, tau=self.tau, tau_syn=self.tau_syn, dt=self.dt)
        if self.tau_syn >= self.tau:
            raise InputError(
                "Renewal needs tau_syn below tau",
                f"tau_syn={self.tau_syn}, tau={self.tau}",
                "The kernel rises with tau_syn and falls with tau.",
            )

    @property
    def decays(self) -> tuple[float, float]:
        """Shares of the slow and the fast exponential that are left after one step."""
        return falls_by(self.dt, self.tau), falls_by(self.dt, self.tau_syn)

    @property
    def scale(self) -> float:
        """The factor of the difference of the exponentials."""
        slow, fast = self.decays
        return (1 - fast) / (slow - fast)

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> RenewalState:
        zeros = torch.zeros_like(current[0])
        return RenewalState(zeros, zeros, zeros)

    def charge(self, current: Float[Tensor, "B *F"], state: RenewalState) -> RenewalState:
        """The state after the input of a step, before its spike."""
        a, b = self.decays
        slow, fast = a * (state.slow + current), b * (state.fast + current)
        return RenewalState(self.scale * (slow - fast), slow, fast)

    def step(
        self, current: Float[Tensor, "B *F"], state: RenewalState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], RenewalState]:
        charged = self.charge(current, state)
        z = spike(charged.v - self.threshold)
        stays = 1 - (z.detach() if self.detach_reset else z)
        return z, RenewalState(*(part * stays for part in charged))

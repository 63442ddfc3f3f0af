"""A neuron that forgets: input rises before it falls, and a spike clears all of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.constants import falls_by, positive
from spikeproof.neurons.steps import NOTHING, Learned, Neuron
from spikeproof.surrogates import Surrogate

__all__ = ["Renewal", "RenewalState"]


class RenewalState(NamedTuple):
    """Potential, and the two exponentials of which it is the difference."""

    v: Float[Tensor, "B *F"]
    slow: Float[Tensor, "B *F"]
    fast: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class Renewal(Neuron):
    r"""A spike response neuron with a double exponential kernel, which a spike sets back to rest entirely.

    .. math:: m[t] = a\,(m[t-1] + I[t]), \quad n[t] = b\,(n[t-1] + I[t]), \quad
              v[t] = \frac{1-b}{a-b}\,(m[t] - n[t]), \quad z[t] = 1[v[t] \ge \theta]

    with :math:`a = e^{-dt/\tau}`, :math:`b = e^{-dt/\tau_{syn}}`; a spike sets m, n and v to zero, so only
    inputs since the last spike count for the next.

    Args:
        threshold: firing threshold, in units of potential, positive.
        tau: membrane time constant, that of the fall [s], positive.
        tau_syn: synaptic time constant, that of the rise [s], positive and below `tau`.
        dt: length of one step [s], positive.
        detach_reset: whether the gradient stops at the reset.

    Raises:
        InputError: a constant that is not positive, or `tau_syn` not below `tau`.

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

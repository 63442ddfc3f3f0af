"""The definition of a neuron: constants, learned tensors, a resting state and the equation of one step.

The state, a named tuple of tensors, holds everything that changes over time. It also holds the learned
tensors, which `rest` puts there. A step and a loop over time therefore depend on current, state and spike
function only, and every loop that replaces `unroll` works for neurons with and without parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.neurons.parts.constants import positive
from spikeproof.neurons.parts.loops import Kind, Membrane
from spikeproof.neurons.parts.resets import BySubtraction, Reset
from spikeproof.neurons.parts.synapses import PSP
from spikeproof.surrogates import Surrogate

__all__ = [
    "NOTHING",
    "Learned",
    "Neuron",
    "Never",
    "Repeated",
    "Resetting",
    "SomeState",
    "State",
    "Unroll",
    "per_feature",
    "unroll",
]

Learned = Mapping[str, Tensor]
"""Name -> tensor that training changes, as `Neuron.parameters` names them."""

NOTHING: Learned = MappingProxyType({})

SomeState = Any
"""The state of any neuron: a named tuple of tensors, whose fields only this neuron uses."""


class State(NamedTuple):
    """The state of a neuron that carries only its potential from one step to the next."""

    v: Float[Tensor, "B *F"]


class Never(Surrogate):
    """The spike function of a neuron that never fires."""

    def __call__(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return torch.zeros_like(x)


class Neuron:
    """A neuron: the equation of one time step; members are frozen dataclasses.

    The state is a named tuple of tensors, one field of which is the potential `v` unless a member defines
    `integrate` itself.
    """

    spiking: ClassVar[bool] = True
    """Whether the outputs are spikes, which can be counted, and not real numbers at every step."""

    binary: ClassVar[bool] = True
    """Whether every spike is a 1, before a synapse filters it."""

    looks_ahead: ClassVar[bool] = False
    """Whether a spike may depend on input of later steps, because a layer waits for all of its input."""

    synapse: PSP | None = None

    @property
    def output(self) -> Neuron:
        """The same neuron for the output layer, where no synapse filters the spikes."""
        neuron: Any = self
        return self if self.synapse is None else replace(neuron, synapse=None)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        """Initial values of what training may change, from PyTorch's current generator.

        Args:
            features: size of the first axis of features (neurons, or channels of a map); None if unknown, in
                which case neurons have one value per layer instead of one per feature.
        """
        return {}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> SomeState:
        """The state before the first step of `current`; it holds the tensors of `learned` that steps need."""
        return State(torch.zeros_like(current[0]))

    def step(
        self, current: Float[Tensor, "B *F"], state: SomeState, spike: Surrogate
    ) -> tuple[Tensor, SomeState]:
        """One step: spikes and the next state."""
        raise NotImplementedError(f"{type(self).__name__} defines no step")

    def compiled(
        self, current: Float[Tensor, "T B *F"], state: SomeState, spike: Surrogate
    ) -> tuple[Tensor, SomeState]:
        """All steps in machine code: the spikes of repeated steps to the bit, and the last state.

        It belongs to the `step` that stands in the same class; a class with another step does not use it.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no compiled loop")

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        """The potential of a neuron that never fires, for decoders of potentials."""
        state, potentials = self.rest(current, learned), []
        for i in current:
            _, state = self.step(i, state, Never())
            potentials.append(state.v)
        return torch.stack(potentials)


@dataclass(frozen=True)
class Resetting(Neuron):
    """Threshold and reset, which all neurons share that are reset after firing."""

    threshold: float = 1.0
    reset: Reset = BySubtraction()
    detach_reset: bool = False
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        positive(self, threshold=self.threshold)

    def fire(
        self, v: Float[Tensor, "B *F"], spike: Surrogate, raised: Tensor | None = None
    ) -> tuple[Float[Tensor, "B *F"], Float[Tensor, "B *F"]]:
        """Spikes of `v` at a threshold `raised` above the constant one, and the potential after the reset."""
        above = v - self.threshold
        z = spike(above if raised is None else above - raised)
        return z, self.reset(v, z.detach() if self.detach_reset else z, self.threshold)

    def form(self, kind: Kind, decay: float = 1.0) -> Membrane:
        """The constants of the neuron for a compiled loop."""
        return Membrane(kind, self.threshold, self.reset, self.detach_reset, decay)


Unroll = Callable[[Tensor, SomeState, Neuron, Surrogate], tuple[Tensor, SomeState]]
"""A loop over time: current, state, neuron and spike function to spikes and the last state."""


def per_feature(value: Tensor, current: Float[Tensor, "B *F"]) -> Tensor:
    """A learned tensor `[]` or `[C]` in the precision of `current` and lined up with its first feature axis.

    Example:
        >>> per_feature(torch.ones(3), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([3, 1, 1])
    """
    value = value.to(current)
    return value.view(-1, *[1] * (current.ndim - 2)) if value.ndim else value


def unroll(
    current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
) -> tuple[Float[Tensor, "T B *F"], SomeState]:
    """The step, repeated over time: the definition with which every faster version must agree.

    Example:
        >>> from spikeproof.neurons import IF
        >>> from spikeproof.surrogates import ATan
        >>> z, end = unroll(torch.full((3, 1), 0.6), State(torch.zeros(1)), IF(), ATan())
        >>> z.flatten().tolist(), round(end.v.item(), 4)
        ([0.0, 1.0, 0.0], 0.8)
    """
    spikes = []
    for i in current:
        z, state = neuron.step(i, state, spike)
        spikes.append(z)
    return torch.stack(spikes), state


@dataclass(frozen=True)
class Repeated:
    """`unroll` of one neuron and spike function, with the fields of a state as tensors of their own.

    Example:
        >>> from spikeproof.neurons import IF
        >>> from spikeproof.surrogates import ATan
        >>> z, v = Repeated(IF(), ATan(), State)(torch.full((3, 1), 0.5), torch.zeros(1))
        >>> z.flatten().tolist(), v.item()
        ([0.0, 1.0, 0.0], 0.5)
    """

    neuron: Neuron
    spike: Surrogate
    kind: Callable[..., SomeState]

    def __call__(self, current: Float[Tensor, "T *N"], *state: Tensor) -> tuple[Tensor, ...]:
        z, end = unroll(current, self.kind(*state), self.neuron, self.spike)
        return z, *end

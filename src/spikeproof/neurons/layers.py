"""Layers of neurons: thin modules that hold the learned tensors and no state."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.neurons.analogue import Analogue
from spikeproof.neurons.integrate import IntegrateAndFire, lif_unroll
from spikeproof.neurons.leaky import LIF, SNU
from spikeproof.neurons.parts.loops import has_channels_last
from spikeproof.neurons.parts.neuron import Learned, Neuron, Never, SomeState, Unroll
from spikeproof.surrogates import ATan, Surrogate, in_units

__all__ = ["Integrator", "Spiking", "integrated", "potentials"]


def _in_full(current: Tensor) -> Tensor:
    """Potentials are summed in single precision, even where autocast computes products in half.

    Every step lies in one piece of memory, in rows or with channels last as it came; one that is repeated
    over time stays one.
    """
    mixed = torch.is_autocast_enabled(current.device.type) and current.dtype in (
        torch.bfloat16,
        torch.float16,
    )
    current = current.float() if mixed else current
    if current.is_contiguous() or has_channels_last(current):
        return current
    return current if current.stride(0) == 0 and current[0].is_contiguous() else current.contiguous()


def unit(neuron: Neuron) -> float:
    """What potentials are measured in: the threshold, of the first kind of neuron where there are several.

    Example:
        >>> from spikeproof.neurons import IF, FS
        >>> unit(IF(threshold=0.5)), unit(FS(scale=2.0))
        (0.5, 2.0)
    """
    for name in ("threshold", "scale"):
        if isinstance(value := getattr(neuron, name, None), (int, float)):
            return float(value)
    inner = getattr(neuron, "neuron", None) or getattr(neuron, "first", None)
    return unit(inner) if isinstance(inner, Neuron) else 1.0


class _Neurons(nn.Module):
    """The tensors that a layer of neurons learns, each a parameter under its own name."""

    def __init__(self, neuron: Neuron, features: int | None) -> None:
        super().__init__()
        self.neuron = neuron
        initial = neuron.parameters(features)
        self.names = tuple(initial)
        for name, value in initial.items():
            self.register_parameter(name, nn.Parameter(value))

    @property
    def learned(self) -> Learned:
        return {name: self.get_parameter(name) for name in self.names}

    def integrate(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
        """The potential that the neurons would have if they never fired."""
        return self.neuron.integrate(_in_full(current), self.learned)


class Spiking(_Neurons):
    """A layer of neurons; every call starts at rest and leaves no state behind.

    In training the surrogate's width is in units of potential. In evaluation mode, in which a model is
    attacked, it is in units of the neuron's threshold, so that no attack depends on the unit in which
    potentials are measured. With a threshold of 1 both are the same.

    Args:
        neuron: the equation of one step.
        spike: the spike function, exchangeable by `substitute`.
        unroll: the loop over time, exchangeable by `substitute`.
        features: size of the first axis of features, for neurons that learn one value per feature; None for
            one value per layer.

    Shapes:
        current `[T, B, *F]` -> spikes `[T, B, *F]`

    Example:
        >>> from spikeproof.neurons import IF
        >>> Spiking(IF())(torch.full((3, 1), 0.6)).flatten().tolist()
        [0.0, 1.0, 0.0]
    """

    def __init__(
        self,
        neuron: Neuron = LIF(),
        spike: Surrogate = ATan(),
        unroll: Unroll = lif_unroll,
        features: int | None = None,
    ) -> None:
        super().__init__(neuron, features)
        self.spike, self.unroll = spike, unroll

    def forward(self, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *G"]:
        return self.resumed(current, None)[0]

    def resumed(
        self, current: Float[Tensor, "T B *F"], state: SomeState | None
    ) -> tuple[Float[Tensor, "T B *G"], SomeState]:
        """Spikes from the state that earlier steps have left, or from rest, and the last state."""
        current = _in_full(current)
        state = self.neuron.rest(current, self.learned) if state is None else state
        return self.unroll(current, state, self.neuron, self.measured)

    @property
    def measured(self) -> Surrogate:
        """The spike function, in the unit of potential or, in evaluation mode, of the threshold."""
        return self.spike if self.training else in_units(self.spike, unit(self.neuron))

    def extra_repr(self) -> str:
        return f"{self.neuron!r}, spike={self.spike!r}"


def potentials(layer: Spiking, current: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *F"]:
    """The potential of a layer's neurons at every step, after input and leak and before spike and reset.

    Raises:
        InputError: the state of the neurons has no potential.

    Example:
        >>> from spikeproof.neurons import IF
        >>> potentials(Spiking(IF()), torch.full((3, 1), 0.75)).flatten().tolist()
        [0.75, 1.5, 1.25]
    """
    current, neuron = _in_full(current), layer.neuron
    state, found = neuron.rest(current, layer.learned), []
    for i in current:
        _, before = neuron.step(i, state, Never())
        if not hasattr(before, "v"):
            raise InputError(
                "Reading potentials needs neurons that have a potential", repr(neuron), "Use lif or if."
            )
        found.append(before.v)
        _, state = neuron.step(i, state, layer.measured)
    return torch.stack(found)


def integrated(neuron: Neuron) -> bool:
    """Whether the potentials of an output layer can be integrated one step after the other.

    Example:
        >>> from spikeproof.neurons import FS, IF
        >>> integrated(IF()), integrated(FS(steps=4))
        (True, False)
    """
    known = (Neuron.integrate, IntegrateAndFire.integrate, SNU.integrate, Analogue.integrate)
    return type(neuron).integrate in known and not neuron.looks_ahead


class Integrator(_Neurons):
    """An output layer whose neurons integrate and never fire.

    Args:
        neuron: the equation of one step, without its spikes; with a unit of the ANN twin the output is the
            current itself.
        features: number of neurons, for neurons that learn one value each; None for one value per layer.

    Shapes:
        current `[T, B, K]` -> potential `[T, B, K]`

    Example:
        >>> from spikeproof.neurons import IF
        >>> Integrator(IF())(torch.ones(3, 1, 1)).flatten().tolist()
        [1.0, 2.0, 3.0]
    """

    def __init__(self, neuron: Neuron, features: int | None = None) -> None:
        super().__init__(neuron, features)

    def forward(self, current: Float[Tensor, "T B K"]) -> Float[Tensor, "T B K"]:
        return self.integrate(current)

    def resumed(
        self, current: Float[Tensor, "T B K"], state: SomeState | None
    ) -> tuple[Float[Tensor, "T B K"], SomeState]:
        """Potentials and the last state, from the state that earlier steps have left or from none.

        It is defined for neurons for which `integrated` holds.
        """
        neuron, potentials = self.neuron, []
        if isinstance(neuron, Analogue):
            return self.integrate(current), None
        current = _in_full(current)
        if isinstance(neuron, (IntegrateAndFire, SNU)):  # without spikes their potential alone is the state
            v = torch.zeros_like(current[0]) if state is None else state
            for i in current:
                v = neuron.decay * v + i
                potentials.append(v)
            return torch.stack(potentials), v
        state = neuron.rest(current, self.learned) if state is None else state
        for i in current:
            _, state = neuron.step(i, state, Never())
            potentials.append(state.v)
        return torch.stack(potentials), state

    def extra_repr(self) -> str:
        return repr(self.neuron)

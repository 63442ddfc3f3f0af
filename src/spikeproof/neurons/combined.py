"""Neurons made of other neurons: recurrent layers, mixed layers, and plastic synapses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.leaky import LIF
from spikeproof.neurons.parts.constants import falls_by, positive
from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron, SomeState
from spikeproof.neurons.parts.synapses import PSP
from spikeproof.surrogates import Surrogate

__all__ = ["Mixture", "MixtureState", "Plastic", "PlasticState", "Recurrent", "RecurrentState"]


def _split(learned: Learned) -> tuple[Learned, Tensor | None]:
    """What the neuron inside learns, and the recurrent weights; None where they are missing."""
    inner = dict(learned)
    weight = inner.pop("recurrent", None)
    return inner, weight


def _inner(part: object, neuron: Neuron) -> None:
    """Refuse neurons that cannot be the inner neuron of `part`."""
    if not neuron.spiking or neuron.looks_ahead:
        raise InputError(
            f"{type(part).__name__} needs a neuron that fires step by step",
            repr(neuron),
            "Try lif.",
        )
    if neuron.synapse is not None:
        raise InputError(
            f"{type(part).__name__} needs an inner neuron without synapse",
            repr(neuron),
            f"Give the synapse to {type(part).__name__} itself.",
        )


class RecurrentState(NamedTuple):
    """State of the neurons, their last spikes, and the weights between them."""

    inner: SomeState
    z: Float[Tensor, "B N"]
    weight: Float[Tensor, "N N"]


@dataclass(frozen=True)
class Recurrent(Neuron):
    r"""Recurrent neurons, which also receive each other's last spikes through all-to-all weights.

    .. math:: I'[t] = I[t] + R\,z[t-1]

    The weights `R` are learned. Initially they are normal with standard deviation `gain / sqrt(N)`, so that N
    neurons that all fire change each other's potentials by about `gain`. Output layers have no recurrent
    weights.

    Args:
        neuron: the neuron that fires.
        gain: scale of the initial weights, in units of potential, positive.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None; `R` receives them
            unfiltered.

    Raises:
        InputError: the neuron does not fire step by step, or has a synapse.

    Shapes:
        learns `recurrent [N, N]` besides what `neuron` learns; current `[B, N]` -> spikes `[B, N]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(Recurrent(), features=3).recurrent.shape
        torch.Size([3, 3])

    Source:
        Bellec et al. 2020; Yin, Corradi & Bohte 2021.
    """

    neuron: Neuron = LIF()
    gain: float = 1.0
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        _inner(self, self.neuron)
        positive(self, gain=self.gain)

    @property
    def output(self) -> Neuron:
        return self.neuron.output

    @property
    def binary(self) -> bool:  # type: ignore[override]
        return self.neuron.binary

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        if features is None:
            raise InputError(
                "Recurrent neurons need a fully connected layer of known size",
                "a convolutional layer, or one of unknown size",
                "Use them in the networks mlp and lsnn.",
            )
        weight = torch.randn(features, features) * (self.gain / math.sqrt(features))
        return {**self.neuron.parameters(features), "recurrent": weight}

    def rest(self, current: Float[Tensor, "T B N"], learned: Learned = NOTHING) -> RecurrentState:
        inner, weight = _split(learned)
        if current.ndim != 3 or weight is None:
            raise InputError(
                "Recurrent neurons need weights and a fully connected layer, [T, B, N]",
                f"current {list(current.shape)}, learned {sorted(learned)}",
                "Use them in the networks mlp and lsnn.",
            )
        rest = self.neuron.rest(current, inner)
        return RecurrentState(rest, torch.zeros_like(current[0]), weight.to(current))

    def step(
        self, current: Float[Tensor, "B N"], state: RecurrentState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B N"], RecurrentState]:
        z, inner = self.neuron.step(current + F.linear(state.z, state.weight), state.inner, spike)
        return z, RecurrentState(inner, z, state.weight)

    def integrate(
        self, current: Float[Tensor, "T B N"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B N"]:
        return self.neuron.integrate(current, _split(learned)[0])


class MixtureState(NamedTuple):
    """States of the two groups of neurons."""

    first: SomeState
    second: SomeState


@dataclass(frozen=True)
class Mixture(Neuron):
    r"""A layer of two kinds of neurons: the last features are of the second kind, the others of the first.

    .. math:: s_j = a(I_j) \text{ for } j < F - n, \quad s_j = b(I_j) \text{ from there on}, \quad
              n = \mathrm{round}(share \cdot F)

    The second kind has `round(share F)` of F features. Output layers have the first kind only.

    Args:
        first: the neuron of the first features, and of output layers.
        second: the neuron of the last features.
        share: share of the second kind, between 0 and 1.
        synapse: a `PSP` that filters the output spikes of hidden layers, or None.

    Raises:
        InputError: the share is outside [0, 1], the neurons differ in `dt`, or a neuron does not fire step by
            step or has a synapse.

    Shapes:
        learns what the two learn, as `first_...` and `second_...`; current `[B, F, ...]` -> spikes

    Example:
        >>> from spikeproof.neurons import IF, Spiking
        >>> mixed = Mixture(IF(), IF(threshold=3.0), share=0.5)
        >>> Spiking(mixed)(torch.ones(1, 1, 4)).flatten().tolist()
        [1.0, 1.0, 0.0, 0.0]

    Source:
        Bellec et al. 2020: LSNNs, part of whose neurons adapt.
    """

    first: Neuron = LIF()
    second: Neuron = LIF()
    share: float = 0.5
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        for neuron in (self.first, self.second):
            _inner(self, neuron)
        lengths = [getattr(n, "dt", None) for n in (self.first, self.second)]
        if None not in lengths and lengths[0] != lengths[1]:
            raise InputError(
                "The neurons of one layer need the same dt",
                f"{lengths[0]} and {lengths[1]}",
                "Make them equal.",
            )
        if not 0 <= self.share <= 1:
            raise InputError("Mixture needs a share between 0 and 1", f"share={self.share}", "Try 0.5.")

    @property
    def output(self) -> Neuron:
        return self.first.output

    @property
    def binary(self) -> bool:  # type: ignore[override]
        return self.first.binary and self.second.binary

    def _sizes(self, features: int) -> tuple[int, int]:
        second = round(self.share * features)
        return features - second, second

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        sizes = (None, None) if features is None else self._sizes(features)
        groups = {"first": self.first.parameters(sizes[0]), "second": self.second.parameters(sizes[1])}
        return {f"{group}_{name}": x for group, tensors in groups.items() for name, x in tensors.items()}

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> MixtureState:
        first, second = _halves(current, self._sizes(current.shape[2]), 2)
        return MixtureState(
            self.first.rest(first, _group(learned, "first_")),
            self.second.rest(second, _group(learned, "second_")),
        )

    def step(
        self, current: Float[Tensor, "B *F"], state: MixtureState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], MixtureState]:
        i, j = _halves(current, self._sizes(current.shape[1]), 1)
        z, first = self.first.step(i, state.first, spike)
        y, second = self.second.step(j, state.second, spike)
        return torch.cat([z, y], dim=1), MixtureState(first, second)

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        first, second = _halves(current, self._sizes(current.shape[2]), 2)
        return torch.cat(
            [
                self.first.integrate(first, _group(learned, "first_")),
                self.second.integrate(second, _group(learned, "second_")),
            ],
            dim=2,
        )


def _halves(x: Tensor, sizes: tuple[int, int], axis: int) -> tuple[Tensor, Tensor]:
    return x.narrow(axis, 0, sizes[0]), x.narrow(axis, *sizes)


def _group(learned: Learned, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in learned.items() if name.startswith(prefix)}


class PlasticState(NamedTuple):
    """State of the neurons, and resources and use of their synapses."""

    inner: SomeState
    resources: Float[Tensor, "B *F"]
    use: Float[Tensor, "B *F"]


@dataclass(frozen=True)
class Plastic(Neuron):
    r"""Neurons with short-term plasticity: the weight of a spike depends on the spikes before it.

    Between spikes the resources `x` recover to 1 and the additional use `u` decays to 0. At a spike

    .. math:: u^+ = u + U(1-u), \quad w = u^+ x / U, \quad x \leftarrow x (1 - u^+), \quad u \leftarrow u^+

    and the spike is transmitted with the weight `w`, which is 1 after a long rest. With large `U` and
    `tau_recovery` synapses depress; with small `U` and large `tau_facilitation` they facilitate. Output
    layers have no plasticity.

    Args:
        neuron: the neuron that fires.
        use: share `U` of its resources that a rested synapse uses, above 0 and at most 1.
        tau_recovery: time constant of recovery [s], positive.
        tau_facilitation: time constant of facilitation [s], positive.
        dt: length of one step [s], positive.
        synapse: a `PSP` that filters the weighted spikes of hidden layers, or None.

    Raises:
        InputError: a constant is out of range, or the neuron does not fire step by step or has a synapse.

    Shapes:
        learns what `neuron` learns; current `[B, *F]` -> weighted spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import IF, Spiking
        >>> depressing = Plastic(IF(), use=0.5, tau_recovery=1e9, tau_facilitation=1e-9)
        >>> Spiking(depressing)(torch.ones(3, 1)).flatten()
        tensor([1.0000, 0.5000, 0.2500])

    Source:
        Markram, Wang & Tsodyks 1998, eq. (1) to (3); Maass & Zador 1999.
    """

    binary: ClassVar[bool] = False

    neuron: Neuron = LIF()
    use: float = 0.5
    tau_recovery: float = 50e-3
    tau_facilitation: float = 5e-3
    dt: float = 1e-3
    synapse: PSP | None = None

    def __post_init__(self) -> None:
        _inner(self, self.neuron)
        positive(self, use=self.use, tau_recovery=self.tau_recovery, dt=self.dt)
        positive(self, tau_facilitation=self.tau_facilitation)
        if self.use > 1:
            raise InputError("Plastic needs a use of at most 1", f"use={self.use}", "Try 0.5.")
        if getattr(self.neuron, "dt", self.dt) != self.dt:
            raise InputError(
                "Neuron and synapse need the same dt", f"{self.neuron!r} and dt={self.dt}", "Make them equal."
            )

    @property
    def output(self) -> Neuron:
        return self.neuron.output

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        return self.neuron.parameters(features)

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> PlasticState:
        zeros = torch.zeros_like(current[0])
        return PlasticState(self.neuron.rest(current, learned), zeros + 1, zeros)

    def step(
        self, current: Float[Tensor, "B *F"], state: PlasticState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], PlasticState]:
        z, inner = self.neuron.step(current, state.inner, spike)
        used = state.use + self.use * (1 - state.use)
        left = state.resources * (1 - used * z)
        use = state.use + (used - state.use) * z
        recovered = 1 - (1 - left) * falls_by(self.dt, self.tau_recovery)
        relaxed = use * falls_by(self.dt, self.tau_facilitation)
        return z * used * state.resources / self.use, PlasticState(inner, recovered, relaxed)

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        return self.neuron.integrate(current, learned)

"""Recurrent networks for sequences: spiking LSNNs, and the ANN twins GRU and LSTM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from spikeproof.errors import InputError
from spikeproof.networks.architecture import Architecture, OverTime, Parts, SpikingNetwork
from spikeproof.neurons import ALIF, Analogue, Mixture, Neuron, Recurrent, Spiking
from spikeproof.neurons.analogue import Gated, GatedRecurrent, LongShortTerm

__all__ = ["GRU", "LSNN", "LSTM", "is_recurrent"]


def is_recurrent(network: Architecture, neuron: Neuron) -> bool:
    """Whether layers receive their own past output.

    Args:
        network: the architecture.
        neuron: of its hidden layers.

    Example:
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.neurons import LIF
        >>> is_recurrent(MLP(), LIF()), is_recurrent(LSNN(), LIF()), is_recurrent(MLP(), Recurrent(LIF()))
        (False, True, True)
    """
    return isinstance(neuron, Recurrent) or network.remembers


def _sizes(part: object, hidden: tuple[int, ...]) -> None:
    if not hidden or min(hidden) < 1:
        raise InputError(
            f"{type(part).__name__} needs hidden layers of at least one neuron",
            f"hidden={hidden}",
            "Try (128,).",
        )


@dataclass(frozen=True)
class LSNN(Architecture):
    """Long short-term memory spiking network: recurrent hidden layers in which some neurons adapt.

    In each hidden layer the last `round(share N)` of its N neurons are of the kind `adaptive`; the other
    neurons and the output layer are of the model's own kind. Recurrent weights connect all neurons of a
    layer.

    Args:
        hidden: neurons per hidden layer, each at least 1.
        share: share of adaptive neurons, between 0 and 1.
        adaptive: the neuron that adapts, such as `ALIF` or `AHP`, with the same dt as the model's neuron.
        recurrent: whether layers have recurrent weights.
        gain: scale of the initial recurrent weights, normal with standard deviation `gain / sqrt(N)`,
            positive.

    Raises:
        InputError: a size, share or gain is out of range, or the neurons cannot share a layer.

    Example:
        >>> from spikeproof.neurons import LIF
        >>> LSNN((100,), share=1.0).neuron(LIF())
        Recurrent(neuron=ALIF(...), gain=1.0, synapse=None)

    Source:
        Bellec et al. 2018 and 2020 (LSNN); Yin, Corradi & Bohte 2021 for share = 1, learned.
    """

    hidden: tuple[int, ...] = (128,)
    share: float = 0.5
    adaptive: Neuron = ALIF()
    recurrent: bool = True
    gain: float = 1.0
    remembers: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _sizes(self, self.hidden)
        Recurrent(Mixture(self.adaptive, self.adaptive, self.share), self.gain)

    def check(self, neuron: Neuron) -> None:
        self.neuron(neuron)

    def neuron(self, own: Neuron) -> Neuron:
        """The neurons of a hidden layer, for a model with the neuron `own`."""
        mixed = Mixture(own.output, self.adaptive, self.share)
        alone: dict[float, Neuron] = {0.0: mixed.first, 1.0: mixed.second}
        part = alone.get(self.share, mixed)
        if self.recurrent:
            return Recurrent(part, self.gain, own.synapse)
        return Mixture(mixed.first, mixed.second, self.share, own.synapse)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        hidden = parts._replace(neuron=self.neuron(parts.neuron))
        size, layers = inputs[0] * inputs[1] * inputs[2], list[nn.Module]()
        for i, neurons in enumerate(self.hidden):
            linear = OverTime(*[nn.Flatten()][i:], nn.Linear(size, neurons))
            layers += [linear, *hidden.hidden(neurons)]
            size = neurons
        return SpikingNetwork([*layers, OverTime(nn.Linear(size, classes)), parts.output_layer(classes)])


@dataclass(frozen=True)
class _Cells(Architecture):
    """Layers of gated cells; the input weights of all gates of a layer are one linear layer before it."""

    hidden: tuple[int, ...] = (128,)
    remembers: ClassVar[bool] = True

    @property
    def cell(self) -> Gated:
        """The cell of every layer."""
        raise NotImplementedError(f"{type(self).__name__} defines no cell")

    def __post_init__(self) -> None:
        _sizes(self, self.hidden)

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, Analogue):
            raise InputError(
                f"{type(self).__name__} has its own cells and a linear output layer, which needs an ANN",
                repr(neuron),
                "Use the neuron relu and the decoder mean-potential.",
            )

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        self.check(parts.neuron)
        size, layers = inputs[0] * inputs[1] * inputs[2], list[nn.Module]()
        for i, cells in enumerate(self.hidden):
            gates = nn.Linear(size, self.cell.gates * cells)
            layers += [OverTime(*[nn.Flatten()][i:], gates), Spiking(self.cell, parts.spike, features=cells)]
            size = cells
        return SpikingNetwork([*layers, OverTime(nn.Linear(size, classes)), parts.output_layer(classes)])


@dataclass(frozen=True)
class GRU(_Cells):
    """Gated recurrent units, an ANN twin for sequences, used with relu and mean-potential.

    A layer has the weights and both biases of `torch.nn.GRU`, which are `3 (n h + h h + 2 h)` numbers for n
    inputs and h cells. The network gives an output at every time step, and the decoder averages these
    outputs.

    Args:
        hidden: cells per hidden layer, each at least 1.
        remember: initial bias of the update gate; with 0, as in PyTorch, half of the memory is lost at every
            step, and dependencies over many steps are learned late or never.

    Source:
        Cho et al. 2014.
    """

    remember: float = 1.0

    @property
    def cell(self) -> Gated:
        return GatedRecurrent(self.remember)


@dataclass(frozen=True)
class LSTM(_Cells):
    """Long short-term memory cells, an ANN twin for sequences, used with relu and mean-potential.

    A layer has the weights and both biases of `torch.nn.LSTM`, which are `4 (n h + h h + 2 h)` numbers for n
    inputs and h cells. The network gives an output at every time step, and the decoder averages these
    outputs.

    Args:
        hidden: cells per hidden layer, each at least 1.

    Source:
        Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000.
    """

    @property
    def cell(self) -> Gated:
        return LongShortTerm()

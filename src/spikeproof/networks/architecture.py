"""Architectures, the layers over time that they build, and the two small architectures MLP and ConvNet.

An architecture is a frozen dataclass. With a spiking neuron it builds a spiking network; with the neuron
`ReLU()` or `Softplus()` it builds the exact ANN twin, which has the same layers and equally many weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.networks.lean.maps import convolved, mapped
from spikeproof.networks.pooling import GatedMaxPool, Pool, Window
from spikeproof.neurons import Integrator, LinearUnit, Neuron, Spiking, Synapse, potentials
from spikeproof.surrogates import Surrogate

__all__ = [
    "MLP",
    "Architecture",
    "ConvNet",
    "Observed",
    "OverTime",
    "Parts",
    "PooledConv2d",
    "SpikingNetwork",
    "check_pool",
    "halved",
]


class OverTime(nn.Sequential):
    """Layers without memory, applied to all time steps at once by merging time and batch.

    If the input is one image repeated T times (direct coding), the layers are computed once.

    Shapes:
        `[T, B, *F]` -> `[T, B, *G]`
    """

    def forward(self, x: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B *G"]:
        steps = x.shape[0]
        constant = steps > 1 and x.stride(0) == 0
        merged = x[0] if constant else x.flatten(0, 1)
        out = merged
        for layer in self:
            out = mapped(layer, out)
        return out.expand(steps, *out.shape) if constant else out.view(steps, -1, *out.shape[1:])


class PooledConv2d(nn.Conv2d):
    """A 3x3 convolution and a 2x2 average pooling, computed as one 4x4 convolution of stride 2.

    Both are linear, so averaging the kernel over the four shifts of a pooling window gives the same result
    (to rounding) without ever computing the large feature map, and is several times faster on a CPU.

    Shapes:
        `[B, C, H, W]` -> `[B, channels, H // 2, W // 2]`
    """

    def __init__(self, inputs: int, channels: int, *, bias: bool) -> None:
        super().__init__(inputs, channels, 3, padding=1, bias=bias)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D I J"]:
        padded = F.pad(self.weight, (1, 1, 1, 1))
        kernel = F.avg_pool2d(padded, 2, stride=1)
        return convolved(x, self, kernel, stride=2, padding=1)


class SpikingNetwork(nn.Module):
    """Layers one after the other, each over all time steps; a network may be a layer of another network.

    Shapes:
        `[T, B, *F]` -> outputs `[T, B, *G]`
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self, spikes: Float[Tensor, "T B *F"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B *G"]:
        """Outputs; spikes per step and example of every spiking layer, `[T, B]`, are appended to `tally`."""
        x = spikes
        for layer in self.layers:
            x = layer(x, tally) if isinstance(layer, SpikingNetwork) else layer(x)
            if tally is not None and isinstance(layer, Spiking) and layer.neuron.spiking:
                tally.append((x.detach() != 0).flatten(2).sum(2))
        return x

    def watch(self, spikes: Float[Tensor, "T B *F"]) -> tuple[Tensor, Tensor]:
        """Outputs, and the potentials that output neurons would have if they never fired.

        Raises:
            InputError: the output neurons have no potential, as in networks of spike times.
        """
        x = spikes
        *hidden, last = self.layers
        for layer in hidden:
            x = layer(x)
        output = last.layers[0] if isinstance(last, Observed) else last
        if not isinstance(output, (Spiking, Integrator)):
            raise InputError(
                "Reading potentials needs output neurons that have a potential",
                type(output).__name__,
                "Use the objective margin.",
            )
        return last(x), output.integrate(x)


class Observed(SpikingNetwork):
    """Output neurons that return their potentials beside their spikes.

    The spikes come from the inner layer, with its loop over time or gradient rule. The potentials and their
    gradient come from the neuron's own step, so no substitution changes them.

    Shapes:
        current `[T, B, K]` -> spikes and then potentials before the reset `[T, B, 2K]`
    """

    def __init__(self, neurons: Spiking) -> None:
        super().__init__([neurons])

    def forward(
        self, spikes: Float[Tensor, "T B K"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "T B N"]:
        layer = self.layers[0]
        assert isinstance(layer, Spiking)
        return torch.cat([super().forward(spikes, tally), potentials(layer, spikes)], -1)


def _of_each_step(window: Window, spiking: bool) -> nn.Module:
    return OverTime(nn.MaxPool2d(*window))


def _of_counts(window: Window, spiking: bool) -> nn.Module:
    """Real numbers, which have no counts, are compared step by step."""
    return GatedMaxPool(*window) if spiking else _of_each_step(window, spiking)


POOLS: dict[Pool, Callable[[Window, bool], nn.Module] | None] = {
    "average": None,
    "max": _of_each_step,
    "gated-max": _of_counts,
}
"""How the outputs of neurons, which spike or not, are pooled; None where currents are pooled before them."""


def check_pool(part: object, kind: str) -> None:
    """Refuse a pooling that is none.

    Raises:
        InputError: there is no pooling of this name.
    """
    if kind not in POOLS:
        raise InputError(
            f"{type(part).__name__} pools by {', '.join(POOLS)}", f"pool={kind!r}", "Try pool: average."
        )


class Parts(NamedTuple):
    """The parts of every layer of a network."""

    neuron: Neuron
    spike: Surrogate
    reads_spikes: bool
    reads_potential: bool = False
    reads_current: bool = False

    def hidden(self, features: int | None = None) -> list[nn.Module]:
        """Neurons after a linear layer with `features` outputs or channels, and their synapses if any.

        If `features` is None, neurons learn one value per layer instead of one value per feature.
        """
        spiking = Spiking(self.neuron, self.spike, features=features)
        return [spiking] if self.neuron.synapse is None else [spiking, Synapse(self.neuron.synapse)]

    def pooled(self, features: int | None, kind: Pool, window: Window = Window()) -> list[nn.Module]:
        """Neurons with max pooling of their spikes, which comes before their synapses if they have any."""
        maker = POOLS[kind]
        neurons, *synapse = self.hidden(features)
        pool = [] if maker is None else [maker(window, self.neuron.spiking)]
        return [neurons, *pool, *synapse]

    def output_layer(self, classes: int | None = None) -> nn.Module:
        """The output layer: its neurons fire or only integrate, or it has none, as the decoder requires."""
        if self.reads_current:
            return Integrator(LinearUnit(), classes)
        neuron = self.neuron.output
        if self.reads_spikes:
            spiking = Spiking(neuron, self.spike, features=classes)
            return Observed(spiking) if self.reads_potential else spiking
        return Integrator(neuron, classes)


class Architecture:
    """An architecture: layer sizes, from which it builds a network for a kind of neuron."""

    remembers: ClassVar[bool] = False
    """Whether layers carry a state from step to step even if the neurons have none."""

    def check(self, neuron: Neuron) -> None:
        """Check that the network can be built with this neuron.

        Raises:
            InputError: the network has layers that this neuron does not fit.
        """

    def neuron(self, own: Neuron) -> Neuron:
        """The neurons of a hidden layer, for a model with the neuron `own`."""
        return own

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        """A network with new weights, drawn from PyTorch's current generator."""
        raise NotImplementedError(f"{type(self).__name__} builds nothing")


def _widths(part: object, name: str, widths: tuple[int, ...]) -> None:
    if not all(width >= 1 for width in widths):
        raise InputError(
            f"{type(part).__name__} needs positive layer sizes", f"{name}={widths}", "Try (400,)."
        )


@dataclass(frozen=True)
class MLP(Architecture):
    """Fully connected layers.

    Args:
        hidden: neurons per hidden layer, each at least 1; empty for a linear classifier.

    Source:
        Ding et al. 2023, part 1 (one hidden layer of 100); TSSL-BP (400-400).
    """

    hidden: tuple[int, ...] = (400,)

    def __post_init__(self) -> None:
        _widths(self, "hidden", self.hidden)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        channels, height, width = inputs
        layers: list[nn.Module] = []
        size = channels * height * width
        for i, hidden in enumerate(self.hidden):
            layers += [OverTime(*[nn.Flatten()][i:], nn.Linear(size, hidden)), *parts.hidden(hidden)]
            size = hidden
        flatten = [nn.Flatten()][len(self.hidden) :]
        layers += [OverTime(*flatten, nn.Linear(size, classes)), parts.output_layer(classes)]
        return SpikingNetwork(layers)


def halved(inputs: int, channels: int, batch_norm: bool, kind: Pool) -> list[nn.Module]:
    """A 3x3 convolution before neurons, with 2x2 average pooling unless their spikes are pooled."""
    bias, norm = not batch_norm, [nn.BatchNorm2d(channels)] if batch_norm else []
    if POOLS[kind] is None:
        return [OverTime(PooledConv2d(inputs, channels, bias=bias), *norm)]
    return [OverTime(nn.Conv2d(inputs, channels, 3, padding=1, bias=bias), *norm)]


@dataclass(frozen=True)
class ConvNet(Architecture):
    """Blocks of 3x3 convolution, neurons and 2x2 pooling, then fully connected layers.

    Average pooling comes before the neurons and max pooling after them, so each block passes spikes on.

    Args:
        channels: output channels of each block, each at least 1.
        hidden: neurons per fully connected hidden layer, each at least 1.
        batch_norm: normalise convolutions over the merged axes of time and batch.
        pool: `average`; `max` for the largest spike of each step, as in direct training (Fang et al. 2021,
            PLIF); `gated-max` for the spikes of the neuron that has fired most often so far, as in
            conversions (Rueckauer et al. 2017).

    Source:
        The customary small convolutional SNN (e.g. TSSL-BP's 15C5-P2-40C5-P2-300, with 3x3 kernels).
    """

    channels: tuple[int, ...] = (16, 32)
    hidden: tuple[int, ...] = ()
    batch_norm: bool = True
    pool: Pool = "average"

    def __post_init__(self) -> None:
        check_pool(self, self.pool)
        _widths(self, "channels", self.channels)
        _widths(self, "hidden", self.hidden)

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        depth, height, width = inputs
        layers: list[nn.Module] = []
        for channels in self.channels:
            if min(height, width) < 2:
                raise InputError(
                    "ConvNet needs images that it can halve once per block",
                    f"{len(self.channels)} blocks for images {inputs}",
                    "Use fewer entries in channels.",
                )
            layers += halved(depth, channels, self.batch_norm, self.pool)
            layers += parts.pooled(channels, self.pool)
            depth, height, width = channels, height // 2, width // 2
        head = MLP(self.hidden).build((depth, height, width), classes, parts)
        return SpikingNetwork([*layers, *head.layers])

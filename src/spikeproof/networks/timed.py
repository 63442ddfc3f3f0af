"""Networks of spike times: each layer maps one spike time per input to one spike time per neuron.

They work on earliness (`spikeproof.neurons.spiketimes`), with a time axis of length one, `[1, B, *F]`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.networks.architecture import Architecture, OverTime, Parts, SpikingNetwork
from spikeproof.neurons.spiketimes import Timed

__all__ = ["TimedLayer", "TimedMLP", "TimedNetwork"]


class TimedLayer(nn.Module):
    """A fully connected layer of neurons that spike once, with or without a bias spike.

    Args:
        inputs: number of inputs.
        outputs: number of neurons.
        neuron: the equation of the spike time.
        bias: earliness of the bias spike, 0 for none.
        mean: mean of the sum of a neuron's initial weights, in thresholds.
        std: standard deviation of this sum.

    Shapes:
        earliness `[1, B, inputs]` -> earliness `[1, B, outputs]`
    """

    def __init__(
        self, inputs: int, outputs: int, neuron: Timed, bias: float, mean: float, std: float
    ) -> None:
        super().__init__()
        self.neuron, self.bias = neuron, bias
        size = inputs + (bias > 0)
        self.weight = nn.Parameter(mean / size + std / math.sqrt(size) * torch.randn(outputs, size))

    def forward(self, early: Float[Tensor, "1 B N"]) -> Float[Tensor, "1 B O"]:
        x = early[0].to(self.weight.dtype)
        if self.bias > 0:
            x = torch.cat([x, x.new_full((len(x), 1), self.bias)], 1)
        with torch.autocast(x.device.type, enabled=False):  # times are differences of close numbers
            return self.neuron.fire(x, self.weight)[None]

    def extra_repr(self) -> str:
        return f"{self.neuron!r}, bias={self.bias}, weight={list(self.weight.shape)}"


class TimedNetwork(SpikingNetwork):
    """Layers of spike times one after the other."""

    def forward(
        self, spikes: Float[Tensor, "1 B *F"], tally: list[Tensor] | None = None
    ) -> Float[Tensor, "1 B O"]:
        x = spikes
        for layer in self.layers:
            x = layer(x)
            if tally is not None and isinstance(layer, TimedLayer):
                tally.append((x.detach() != 0).flatten(2).sum(2))
        return x


@dataclass(frozen=True)
class TimedMLP(Architecture):
    """Fully connected layers of neurons that spike once, from spike times to spike times.

    Initial weights are drawn such that the sum of a neuron's weights has the mean `mean` and the standard
    deviation `std`. They are mostly positive, because a neuron learns its spike time only if it spikes.

    Args:
        hidden: neurons per hidden layer, each at least 1; empty for a single layer.
        bias: earliness of the bias spike that every layer receives, at least 0; 0 for none.
        mean: mean of the sum of a neuron's weights, in hidden layers and in the output layer.
        std: standard deviation of this sum, in hidden layers and in the output layer, at least 0.

    Raises:
        InputError: when built for a neuron without spike times.

    Source:
        Goeltz et al. 2021 (yin-yang: 120 hidden neurons, bias spike); S4NN (400 hidden neurons).
    """

    timed: ClassVar[bool] = True
    hidden: tuple[int, ...] = (120,)
    bias: float = 0.0
    mean: tuple[float, float] = (7.5, 60.0)
    std: tuple[float, float] = (2.0, 9.0)

    def __post_init__(self) -> None:
        if not all(width >= 1 for width in self.hidden):
            raise InputError("TimedMLP needs positive layer sizes", f"hidden={self.hidden}", "Try (120,).")
        if not 0 <= self.bias < math.inf:
            raise InputError("TimedMLP needs a bias of at least 0", f"bias={self.bias}", "Try 0.0.")
        if not (all(map(math.isfinite, self.mean)) and all(0 <= s < math.inf for s in self.std)):
            raise InputError(
                "TimedMLP needs finite mean, and std of at least 0",
                f"mean={self.mean}, std={self.std}",
                "Try the defaults.",
            )

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        if not isinstance(parts.neuron, Timed):
            raise InputError(
                "TimedMLP is made of neurons that spike once",
                repr(parts.neuron),
                "Use fast-and-deep, mostafa, s4nn or t2fsnn, or the network mlp.",
            )
        sizes: Sequence[int] = (math.prod(inputs), *self.hidden, classes)
        layers: list[nn.Module] = [OverTime(nn.Flatten())]
        for i, (before, after) in enumerate(itertools.pairwise(sizes)):
            last = i == len(self.hidden)
            layers.append(TimedLayer(before, after, parts.neuron, self.bias, self.mean[last], self.std[last]))
        return TimedNetwork(layers)

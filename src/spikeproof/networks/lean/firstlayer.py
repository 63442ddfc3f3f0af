"""The first linear layer of a network apart from the rest, so that currents are updated, not computed anew.

Where an input differs from another one in few places, its currents differ by the weights of these places, at
the steps at which they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.compiled import chosen_span
from spikeproof.keys import Key
from spikeproof.networks.architecture import OverTime, SpikingNetwork
from spikeproof.protocols import BLOCK, Decoder, Watched

__all__ = ["FirstLayer", "Rest", "first_layer"]


@dataclass(frozen=True)
class Rest:
    """The network after its first linear layer, as a model of currents `[B, T, H]`.

    Args:
        network: the layers.
        decoder: the decoder.
    """

    network: SpikingNetwork
    decoder: Decoder

    def __call__(self, currents: Float[Tensor, "B T H"], key: Key | None = None) -> Float[Tensor, "B K"]:
        return self.decoder(self.network(currents.transpose(0, 1)))

    def watch(
        self, currents: Float[Tensor, "B T H"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        """Activity of the output layer, for objectives that depend on more than logits."""
        over_time = currents.transpose(0, 1)
        if not potential:
            return Watched(self.network(over_time), self.decoder)
        outputs, potentials = self.network.watch(over_time)
        return Watched(outputs, self.decoder, potentials)


@dataclass(frozen=True)
class FirstLayer:
    """The first linear layer of a network, and the rest of it.

    Args:
        linear: the layer.
        rest: what follows it, as a model of its currents.
    """

    linear: nn.Linear
    rest: Rest

    @cached_property
    def weights(self) -> Float[Tensor, "P H"]:
        """The weights of each place of the input."""
        return self.linear.weight.detach().T.contiguous()

    def currents(self, encoded: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B H"]:
        """The currents of whole inputs."""
        spikes = encoded.flatten(2).to(self.weights.dtype)
        short = -spikes.shape[1] % BLOCK
        whole = torch.cat([spikes, spikes[:, -1:].expand(-1, short, -1)], 1)
        found: Tensor = self.linear(whole.flatten(0, 1)).view(*whole.shape[:2], -1)
        return found[:, : spikes.shape[1]]

    def updated(
        self,
        currents: Float[Tensor, "T B H"],
        base: Int64[Tensor, "N"],
        image: Int64[Tensor, "C"],
        pixel: Int64[Tensor, "C"],
        change: Float[Tensor, "T C"],
    ) -> Float[Tensor, "T N H"]:
        """The currents of inputs that differ from others in some places.

        Args:
            currents: of the others.
            base: for each input, the position of the one that it is a change of.
            image: for each change, the number of its input, in ascending order.
            pixel: for each change, the place.
            change: for each change, by how much the input differs at each step.
        """
        steps, images = len(currents), len(base)
        step, entry = change.nonzero(as_tuple=True)
        bag = step * images + image[entry]
        update = F.embedding_bag(
            pixel[entry],
            self.weights,
            torch.searchsorted(bag, torch.arange(steps * images, device=bag.device)),
            mode="sum",
            per_sample_weights=change[step, entry].to(self.weights.dtype),
        )
        return currents.index_select(1, base).add_(update.view(steps, images, -1))


def first_layer(network: nn.Module, decoder: Decoder, places: int) -> FirstLayer | None:
    """The first layer of a network, or None where it is not linear, is altered or is computed in spans.

    Args:
        network: the network.
        decoder: what reads its output layer.
        places: pixels of its input at every step.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.neurons import LIF, Spiking
        >>> linear = OverTime(nn.Flatten(), nn.Linear(4, 3))
        >>> found = first_layer(SpikingNetwork([linear, Spiking(LIF())]), Count(), 4)
        >>> before, change = torch.zeros(2, 1, 4), torch.tensor([[1.0], [0.0]])  # a spike at the first step
        >>> currents = found.currents(before)
        >>> at = torch.zeros(1, dtype=torch.int64)
        >>> after = found.updated(currents, at, at, at + 2, change)
        >>> torch.allclose(after[0] - currents[0], linear[1].weight[:, 2]), torch.equal(after[1], currents[1])
        (True, True)
    """
    if type(network) is not SpikingNetwork or chosen_span() is not None:
        return None
    first, *rest = network.layers
    flatten, linear = [*first.children(), None, None][:2]
    if type(first) is not OverTime or type(flatten) is not nn.Flatten or type(linear) is not nn.Linear:
        return None
    if len(first) != 2 or linear.in_features != places:
        return None
    for layer in (network, first, flatten, linear):
        if layer._forward_hooks or layer._forward_pre_hooks or "forward" in vars(layer):
            return None
    others = SpikingNetwork(rest)
    others.training = network.training  # of the container alone: its layers belong to the network
    return FirstLayer(linear, Rest(others, decoder))

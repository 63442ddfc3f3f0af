"""Layers in a conversion: affine maps between activations, with batch normalisation folded in.

Weights are rescaled in double precision and written back in the precision of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import OverTime, SpikingNetwork
from spikeproof.networks.classifier import Classifier

__all__ = ["Affine", "Stage", "activity", "seen", "stages"]


@dataclass(frozen=True)
class Affine:
    """Weight and bias of one layer, in double precision.

    Args:
        weight: `[out, in]` of a fully connected layer, `[out, in, 3, 3]` of a convolution.
        bias: one per output.
    """

    weight: Float[Tensor, "out *in"]
    bias: Float[Tensor, "out"]

    def scaled(self, weight: float, bias: float) -> Affine:
        """The map with weight and bias multiplied, each by its own factor."""
        return Affine(self.weight * weight, self.bias * bias)

    def bound(self, largest: float) -> float:
        """An upper bound of all outputs if every input lies between 0 and `largest`."""
        positive = self.weight.clamp(min=0).flatten(1).sum(1) * largest + self.bias
        return float(positive.max())


@dataclass(frozen=True)
class Stage:
    """One layer with weights, and the normalisation after it."""

    layer: nn.Linear | nn.Conv2d
    norm: nn.BatchNorm2d | None

    def folded(self) -> Affine:
        r"""The affine map of layer and normalisation together, with running statistics.

        .. math:: W' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} W, \quad
                  b' = \beta + \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu)

        Source:
            Rueckauer et al. 2017, section 2.2.2.
        """
        weight = self.layer.weight.detach().double()
        none = torch.zeros(len(weight), dtype=torch.float64, device=weight.device)
        bias = none if self.layer.bias is None else self.layer.bias.detach().double()
        if self.norm is None:
            return Affine(weight, bias)
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        mean, variance = self.norm.running_mean.double(), self.norm.running_var.double()
        gain = self.norm.weight.detach().double() / (variance + self.norm.eps).sqrt()
        shift = self.norm.bias.detach().double() + gain * (bias - mean)
        return Affine(weight * gain.view(-1, *[1] * (weight.ndim - 1)), shift)

    @torch.no_grad()
    def write(self, affine: Affine) -> None:
        """Write this map into the layer; a normalisation then only adds the bias."""
        self.layer.weight.copy_(affine.weight)
        if self.norm is None:
            assert self.layer.bias is not None
            self.layer.bias.copy_(affine.bias)
            return
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        if self.layer.bias is not None:
            self.layer.bias.zero_()
        self.norm.running_mean.zero_()
        self.norm.running_var.fill_(1 - self.norm.eps)
        self.norm.weight.fill_(1)
        self.norm.bias.copy_(affine.bias)


def stages(network: SpikingNetwork) -> list[Stage]:
    """The layers with weights, from the input to the output layer.

    Raises:
        InputError: the network is not a sequence of layers, each followed by neurons.
    """
    maps, others = network.layers[::2], network.layers[1::2]
    if len(maps) != len(others) or not all(isinstance(layer, OverTime) for layer in maps):
        raise _refused(network)
    found = []
    for layer in maps:
        parts = [part for part in layer.children() if not isinstance(part, nn.Flatten)]
        match parts:
            case [(nn.Linear() | nn.Conv2d()) as weights]:
                found.append(Stage(weights, None))
            case [nn.Conv2d() as weights, nn.BatchNorm2d() as norm]:
                found.append(Stage(weights, norm))
            case _:
                raise _refused(network)
    return found


def _refused(network: SpikingNetwork) -> InputError:
    return InputError(
        "Conversion needs layers one after the other, each followed by neurons",
        f"a network with {', '.join(dict.fromkeys(type(layer).__name__ for layer in network.layers))}",
        "Use mlp, convnet or a vgg with neurons that have no synapse.",
    )


def activity(ann: Classifier, images: Float[Tensor, "N C H W"]) -> Iterator[Float[Tensor, "M"]]:
    """The activations of each layer of units in turn, output layer included, in no particular order."""
    chunks: Sequence[Tensor] = [seen(ann, chunk) for chunk in torch.split(images, 100)]
    for i, layer in enumerate(ann.network.layers):
        chunks = [layer(chunk) for chunk in chunks]
        if i % 2:
            yield torch.cat([chunk.flatten() for chunk in chunks])


def seen(model: Classifier, images: Float[Tensor, "N C H W"], key: Key | None = None) -> Tensor:
    """The input of the network's first layer over time."""
    encoded = model.encoder(images, key).to(next(model.network.parameters()).dtype)
    return model.spec.normalise(encoded) if model.spec.normalise else encoded

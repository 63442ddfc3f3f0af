"""Layers in a conversion: affine maps between activations, with batch normalisation folded in.

Weights are rescaled in double precision and written back in the precision of the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.networks.deep import Residual

__all__ = ["Affine", "Identity", "Stage", "Weights"]


@dataclass(frozen=True)
class Affine:
    """Weight and bias of one layer, in double precision.

    Args:
        weight: `[out, in]` of a fully connected layer, `[out, in, 3, 3]` of a convolution, `[1, 1]` of an
            identity that is multiplied by a number.
        bias: one per output, or a single one.
    """

    weight: Float[Tensor, "out *in"]
    bias: Float[Tensor, "out"]

    def scaled(self, weight: float, bias: float) -> Affine:
        """The map with weight and bias multiplied, each by its own factor."""
        return Affine(self.weight * weight, self.bias * bias)

    def bounds(self, largest: float) -> Float[Tensor, "out"]:
        """An upper bound of each output if every input lies between 0 and `largest`."""
        return self.weight.clamp(min=0).flatten(1).sum(1) * largest + self.bias


class Weights(Protocol):
    """What a conversion reads from the ANN and writes into the spiking network."""

    def folded(self) -> Affine:
        """The affine map, with running statistics of a normalisation."""

    def write(self, affine: Affine) -> None:
        """Replace the affine map."""


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


@dataclass(frozen=True)
class Identity:
    """A shortcut without weights, which a conversion gives one weight: a scaled 1x1 convolution.

    Source:
        Hu, Tang & Pan 2018 (Spiking deep residual networks), for shortcuts of converted networks.
    """

    block: Residual

    def folded(self) -> Affine:
        """The weight of the shortcut, 1 unless it was converted before, and no bias."""
        gain = torch.ones(()) if self.block.gain is None else self.block.gain
        weight = gain.double().view(1, 1)
        return Affine(weight, torch.zeros_like(weight[0]))

    def write(self, affine: Affine) -> None:
        """Write the weight of the shortcut."""
        self.block.weigh(float(affine.weight))

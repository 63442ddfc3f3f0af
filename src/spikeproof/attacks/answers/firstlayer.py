"""What a change of few pixels does to the first layer: its currents are updated, not computed anew.

Searches over the levels of pixels ask for thousands of images that differ from one image in few pixels. Where
the network begins with a linear layer, the currents into its neurons change by the weights of these pixels
alone, at the few steps at which the spikes of the two levels differ. The rest of the network is computed as
always.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.attacks.search import evaluator
from spikeproof.compiled import chosen_span
from spikeproof.encoders import LevelCode, Reversed
from spikeproof.keys import Key
from spikeproof.losses import Objective
from spikeproof.networks.architecture import OverTime, SpikingNetwork
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Decoder, Model, Watched

__all__ = ["Changed", "FirstLayer", "first_layer"]

BLOCK = 32
"""A batch of whole blocks fills every vector register, and then each row is rounded alike."""
TOGETHER = 128
"""Images whose currents are computed at once; more of them leave the processor's cache."""
LEAST = 256
"""Smallest number of pixels for which an update costs less than a whole layer."""
TRIED = 16
"""Random images on which the updated answers are compared with those of the model."""
CLOSE = 1e-4
"""Largest relative difference of logits that counts as rounding."""


class Changed(NamedTuple):
    """Levels of pixels that differ from those of a base image; entries of one image follow each other."""

    image: Int64[Tensor, "C"]
    pixel: Int64[Tensor, "C"]
    before: Int64[Tensor, "C"]
    after: Int64[Tensor, "C"]


@dataclass(frozen=True)
class _Rest:
    """The network without its first linear layer, as a model of currents `[B, T, H]`."""

    network: SpikingNetwork
    decoder: Decoder

    def __call__(self, currents: Float[Tensor, "B T H"], key: Key | None = None) -> Float[Tensor, "B K"]:
        return self.decoder(self.network(currents.transpose(0, 1)))

    def watch(
        self, currents: Float[Tensor, "B T H"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        over_time = currents.transpose(0, 1)
        if not potential:
            return Watched(self.network(over_time), self.decoder)
        outputs, potentials = self.network.watch(over_time)
        return Watched(outputs, self.decoder, potentials)


@dataclass(frozen=True)
class FirstLayer:
    """The first linear layer of a network, and the answers that its currents lead to.

    Args:
        code: the encoder, or the one that is reversed in time.
        reversed_in_time: whether it is.
        linear: the layer.
        rest: the network after it.
    """

    code: LevelCode
    reversed_in_time: bool
    linear: nn.Linear
    rest: _Rest

    @cached_property
    def weights(self) -> Float[Tensor, "P H"]:
        """The weights of each pixel."""
        return self.linear.weight.detach().T.contiguous()

    def patterns(self, levels: Int64[Tensor, "*F"]) -> Float[Tensor, "T *F"]:
        """The spikes of levels."""
        found = self.code.pattern(levels).to(self.linear.weight.dtype)
        return found.flip(0) if self.reversed_in_time else found

    def currents(self, levels: Int64[Tensor, "B *F"]) -> Float[Tensor, "T B H"]:
        """The currents of whole images."""
        spikes = self.patterns(levels).flatten(2)
        short = -spikes.shape[1] % BLOCK
        whole = torch.cat([spikes, spikes[:, -1:].expand(-1, short, -1)], 1)
        found: Tensor = self.linear(whole.flatten(0, 1)).view(*whole.shape[:2], -1)
        return found[:, : spikes.shape[1]]

    def moved(
        self, currents: Float[Tensor, "T B H"], base: Int64[Tensor, "N"], changed: Changed
    ) -> Float[Tensor, "T N H"]:
        """The currents of images that differ from others, whose positions in the batch are `base`."""
        steps, images = len(currents), len(base)
        change = self.patterns(changed.after) - self.patterns(changed.before)
        step, entry = change.nonzero(as_tuple=True)
        bag = step * images + changed.image[entry]
        update = F.embedding_bag(
            changed.pixel[entry],
            self.weights,
            torch.searchsorted(bag, torch.arange(steps * images, device=bag.device)),
            mode="sum",
            per_sample_weights=change[step, entry],
        )
        return currents.index_select(1, base).add_(update.view(steps, images, -1))

    def answers(
        self,
        currents: Float[Tensor, "T B H"],
        base: Int64[Tensor, "N"],
        changed: Changed,
        objective: Objective,
        y: Int64[Tensor, "N"],
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        """The objective, and whether the model is fooled, for images that differ from others."""
        rows = torch.arange(len(y) + -len(y) % BLOCK, device=y.device).clamp_(max=len(y) - 1)
        there = self.moved(currents, base[rows], changed).transpose(0, 1)
        value, fooled = evaluator(self.rest, objective, y[rows])(there, Key(("deterministic",)))
        return value[: len(y)], fooled[: len(y)]


@torch.no_grad()
def first_layer(model: Model, code: LevelCode, like: Float[Tensor, "B *F"]) -> FirstLayer | None:
    """The first layer of a model, or None where updates are not known to give its answers, or cost more.

    Whether they do is tried on random images, which depend on the model alone and not on the batch: a
    wrapper may change what the model inside answers.

    Args:
        model: the attacked model, or a wrapper with the field `model`.
        code: its encoder, or the one that is reversed in time.
        like: images of the shape and type that the model takes.
    """
    inner = getattr(model, "model", model)
    if not isinstance(inner, Classifier) or inner.spec.normalise is not None or chosen_span() is not None:
        return None
    network, pixels = inner.network, like[0].numel()
    if type(network) is not SpikingNetwork or type(network.layers[0]) is not OverTime or pixels < LEAST:
        return None
    first, *rest = network.layers
    flatten, linear = [*first.children(), None, None][:2]
    if type(flatten) is not nn.Flatten or type(linear) is not nn.Linear or linear.in_features != pixels:
        return None
    found = FirstLayer(
        code,
        isinstance(inner.encoder, Reversed),
        linear,
        _Rest(SpikingNetwork(rest).eval(), inner.spec.decoder),
    )
    key = Key(("first layer",))
    images = key.uniform((TRIED, *like.shape[1:])).to(like.device, like.dtype)
    levels = code.level(images)
    base, changed = torch.zeros_like(levels[:1]), levels.flatten(1)
    image, pixel = changed.nonzero(as_tuple=True)
    entries = Changed(image, pixel, torch.zeros_like(image), changed[image, pixel])
    currents = found.moved(found.currents(base), image.new_zeros(TRIED), entries)
    ours = found.rest(currents.transpose(0, 1))
    theirs = model(images, key)
    scale = torch.maximum(ours.abs(), theirs.abs()).amax()
    return found if bool(((ours - theirs).abs() <= CLOSE * scale).all()) else None

"""Images that differ from others in the levels of few pixels, and the answers to them.

Searches over the levels of pixels ask for thousands of such images. Where the network begins with a linear
layer, only the changes of its currents are computed; the rest of the network is computed as always.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.search import evaluator
from spikeproof.encoders import LevelCode, Reversed
from spikeproof.keys import Key
from spikeproof.losses import Objective
from spikeproof.protocols import BLOCK, Model

__all__ = ["TOGETHER", "Changed", "Updates", "updates_of"]

TOGETHER = 128
"""Images whose currents are computed at once; more of them leave the processor's cache."""
LEAST = 256
"""Smallest number of pixels for which an update costs less than a whole layer."""
TRIED = 16
"""Random images on which the updated answers are compared with those of the model."""
CLOSE = 1e-4
"""Largest relative difference of logits that counts as rounding."""


class Changed(NamedTuple):
    """Levels of pixels that differ from those of other images, image after image."""

    image: Int64[Tensor, "C"]
    pixel: Int64[Tensor, "C"]
    before: Int64[Tensor, "C"]
    after: Int64[Tensor, "C"]


class Layer(Protocol):
    """The first layer of a model apart from the rest."""

    @property
    def rest(self) -> Model:
        """What follows, as a model of currents `[B, T, H]`."""

    def currents(self, encoded: Float[Tensor, "T B *F"]) -> Float[Tensor, "T B H"]:
        """The currents of whole inputs."""

    def updated(
        self, currents: Tensor, base: Tensor, image: Tensor, pixel: Tensor, change: Tensor
    ) -> Float[Tensor, "T N H"]:
        """The currents of inputs that differ from others in some places."""


@dataclass(frozen=True)
class Updates:
    """The answers to changed images, from updates of the first layer.

    Args:
        code: the encoder, or the one that is reversed in time.
        turned: whether it is reversed in time.
        layer: the first layer.
    """

    code: LevelCode
    turned: bool
    layer: Layer

    def patterns(self, levels: Int64[Tensor, "*F"]) -> Float[Tensor, "T *F"]:
        """The spikes of levels."""
        found = self.code.pattern(levels)
        found = found if found.is_floating_point() else found.float()
        return found.flip(0) if self.turned else found

    def currents(self, levels: Int64[Tensor, "B *F"]) -> Float[Tensor, "T B H"]:
        """The currents of whole images."""
        return self.layer.currents(self.patterns(levels))

    def moved(
        self, currents: Float[Tensor, "T B H"], base: Int64[Tensor, "N"], changed: Changed
    ) -> Float[Tensor, "T N H"]:
        """The currents of images that differ from others, whose positions in the batch are `base`."""
        change = self.patterns(changed.after) - self.patterns(changed.before)
        return self.layer.updated(currents, base, changed.image, changed.pixel, change)

    def answers(
        self,
        currents: Float[Tensor, "T B H"],
        base: Int64[Tensor, "N"],
        changed: Changed,
        objective: Objective,
        y: Int64[Tensor, "N"],
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        """The objective, and whether the model is fooled, for images that differ from others.

        Args:
            currents: of the others.
            base: for each image, the position of the one that it is a change of.
            changed: the changes.
            objective: the objective.
            y: labels.
        """
        rows = torch.arange(len(y) + -len(y) % BLOCK, device=y.device).clamp_(max=len(y) - 1)
        there = self.moved(currents, base[rows], changed)
        asked = evaluator(self.layer.rest, objective, y[rows])
        value, fooled = asked(there.transpose(0, 1), Key(("deterministic",)))
        return value[: len(y)], fooled[: len(y)]


@torch.no_grad()
def updates_of(model: Model, code: LevelCode, like: Float[Tensor, "B *F"]) -> Updates | None:
    """The updates of a model's first layer, or None where they are not its answers, or cost more.

    Whether they are its answers is tried on random images, which depend on the model alone and not on the
    batch. A wrapper may change what the model inside answers, on some images only, so it must say that it
    does not.

    Args:
        model: the attacked model, or a `transparent` wrapper with the field `model`.
        code: its encoder, or the one that is reversed in time.
        like: images of the shape and type that the model takes.
    """
    inner = getattr(model, "model", model) if getattr(model, "transparent", False) else model
    known = getattr(inner, "first_layer", None)
    layer: Layer | None = known() if known is not None and like[0].numel() >= LEAST else None
    if layer is None:
        return None
    found = Updates(code, isinstance(getattr(inner, "encoder", None), Reversed), layer)
    key = Key(("first layer",))
    images = key.uniform((TRIED, *like.shape[1:])).to(like.device, like.dtype)
    levels = code.level(images)
    image, pixel = levels.flatten(1).nonzero(as_tuple=True)
    after = levels.flatten(1)[image, pixel]
    dark, base = found.currents(torch.zeros_like(levels[:1])), image.new_zeros(TRIED)
    currents = found.moved(dark, base, Changed(image, pixel, torch.zeros_like(after), after))
    ours, theirs = layer.rest(currents.transpose(0, 1)), model(images, key)
    scale = torch.maximum(ours.abs(), theirs.abs()).amax()
    return found if bool(((ours - theirs).abs() <= CLOSE * scale).all()) else None

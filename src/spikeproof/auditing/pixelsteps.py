"""Do single pixels have levels? A test by answers alone, along single pixels of unrelated images.

A network of spikes answers in steps in any case. Along one pixel, the steps of a network that receives exact
pixel values lie elsewhere for each image, because they depend on all pixels. The steps of a code that rounds
each pixel lie at the same values of this pixel, whatever the others are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.keys import Key
from spikeproof.protocols import Model

__all__ = ["shared_steps"]

IMAGES = 4
"""Unrelated images, on which the answers are followed along the same pixels."""
CANDIDATES, PIXELS = 24, 5
"""Pixels that are tried, and those with the most influence, along which the answers are followed."""
POINTS = 129
"""Values of a pixel."""
CLOSE = 1e-6
"""Largest relative difference of logits that counts as none."""
LEAST = 8
"""Fewest jumps that say anything."""


@torch.no_grad()
def shared_steps(model: Model, like: Float[Tensor, "B *F"], key: Key) -> float | None:
    """The share of the jumps of the answers along single pixels that lie at the same value on another image.

    The share is corrected for chance: it is 0 if jumps coincide as often as jumps that lie anywhere, and 1 if
    all coincide.

    Args:
        model: deterministic; maps images to logits.
        like: images of the shape and type that the model takes.
        key: of the images and the pixels.

    Returns:
        None where the answers change along (nearly) all of a line or along hardly any pixel.

    Example:
        >>> images = torch.zeros(1, 1, 3, 3)
        >>> shared_steps(lambda x, key=None: (x * 4).floor().flatten(1), images, Key.of(0))
        1.0
        >>> shared_steps(lambda x, key=None: x.flatten(1), images, Key.of(0)) is None
        True
    """
    images = key.fold("images").uniform((IMAGES, *like.shape[1:])).to(like.device, like.dtype)
    size = like[0].numel()
    order = key.fold("pixels").uniform((size,)).argsort().tolist()[:CANDIDATES]
    moved = [[_along(model, image, pixel, 2) for image in images] for pixel in order]
    influence = [sum(bool(_jumps(answers).any()) for answers in each) for each in moved]
    ranked = sorted(range(len(order)), key=lambda i: -influence[i])[:PIXELS]
    same, chance, total = 0.0, 0.0, 0
    for pixel in (order[i] for i in ranked if influence[i] > 1):
        jumps = torch.stack([_jumps(_along(model, image, pixel, POINTS)) for image in images])
        if bool((jumps.float().mean(1) > 0.5).any()):
            return None  # the answers follow the pixel everywhere
        for row, other in ((i, j) for i in range(IMAGES) for j in range(IMAGES) if i != j):
            fewer = min(int(jumps[row].sum()), int(jumps[other].sum()))
            same += float((jumps[row] & jumps[other]).sum())
            chance += float(jumps[row].sum() * jumps[other].sum()) / (POINTS - 1)
            total += fewer
    if total < LEAST * (IMAGES - 1) or total <= chance:
        return None
    return max(0.0, (same - chance) / (total - chance))


def _along(model: Model, image: Tensor, pixel: int, points: int) -> Tensor:
    """The answers along one pixel of an image."""
    grey = torch.linspace(0, 1, points, dtype=image.dtype, device=image.device)
    lines = image.flatten().repeat(points, 1)
    lines[:, pixel] = grey
    answers: Tensor = model(lines.view(-1, *image.shape), Key(("deterministic",)))
    return answers


def _jumps(answers: Tensor) -> Tensor:
    """Between which neighbours the answers differ by more than rounding."""
    scale = torch.maximum(answers[1:].abs(), answers[:-1].abs()).amax(1)
    return (answers[1:] - answers[:-1]).abs().amax(1) > CLOSE * scale

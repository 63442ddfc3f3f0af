"""Images outside [0, 1], which attacks of other libraries evaluate on their way, and how many there were."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Outside", "nearest"]


def nearest(images: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
    """The nearest images in [0, 1], with the gradient passed straight through the clipping; NaN stays NaN.

    Example:
        >>> images = torch.tensor([[-0.5, 0.5, 1.25]], requires_grad=True)
        >>> inside = nearest(images)
        >>> inside.sum().backward(); inside.tolist(), images.grad.tolist()
        ([[0.0, 0.5, 1.0]], [[1.0, 1.0, 1.0]])
    """
    inside = images.detach().clamp(0, 1)
    return images if torch.equal(inside, images) else inside + (images - images.detach()).nan_to_num(0.0)


@dataclass
class Outside:
    """What a model was asked about that is no image: a record, on which no answer depends.

    Args:
        images: images of which a value was outside [0, 1] or NaN, over all calls.
        values: their values outside [0, 1] or NaN.
        farthest: the largest distance of a value from [0, 1], in pixel value.

    Example:
        >>> outside = Outside()
        >>> images = torch.tensor([[-0.5, 0.5], [0.0, 1.0]])
        >>> outside.answer(images, lambda inside: inside).tolist(), outside
        ([[0.0, 0.5], [0.0, 1.0]], Outside(images=1, values=1, farthest=0.5))
    """

    images: int = 0
    values: int = 0
    farthest: float = 0.0

    def answer(self, images: Float[Tensor, "B *F"], call: Callable[[Tensor], Tensor]) -> Float[Tensor, "B K"]:
        """The logits for the nearest images in [0, 1], once it is counted what lies outside.

        An image with NaN, which a search of another library may evaluate, gets the logits NaN.

        Args:
            images: of any values.
            call: images in [0, 1] to logits.
        """
        inside = nearest(images)
        if inside is images:
            return call(images)
        with torch.no_grad():
            far = (images - inside).abs()
            beyond, broken = (far != 0).flatten(1), images.isnan().flatten(1)
            self.images += int(beyond.any(1).sum())
            self.values += int(beyond.sum())
            self.farthest = max(self.farthest, float(far.nan_to_num(0.0).max()))
        logits = call(inside.nan_to_num(0.0))
        return logits.masked_fill(broken.any(1, keepdim=True), torch.nan)

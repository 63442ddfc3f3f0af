"""Training on altered views of the images, drawn anew in every epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT

__all__ = ["AugmentedBPTT", "shifted"]


@dataclass(frozen=True)
class AugmentedBPTT(BPTT):
    """Backpropagation through time on randomly shifted and mirrored images.

    Each image of a batch is surrounded by `pad` black pixels and cut to its size again at a random place,
    then mirrored left to right with probability 1/2. All draws come from the training's key.
    Perturbations, as in adversarial training, are made from what has been altered. Nothing is altered in
    validation.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: what is minimised.
        pad: largest shift [pixels], at least 0.
        mirror: whether images are mirrored; not for digits or text.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> AugmentedBPTT(epochs=2).pad
        4

    Source:
        He et al. 2016, section 4.2 (4 pixels and horizontal flips for CIFAR).
    """

    pad: int = 4
    mirror: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pad < 0:
            raise InputError("AugmentedBPTT needs pad to be at least 0", f"pad={self.pad}", "Try 4.")

    def views(self, images: Float[torch.Tensor, "B *F H W"], key: Key) -> Float[torch.Tensor, "B *F H W"]:
        drawn = key.uniform((len(images), 3))
        places = (drawn[:, :2] * (2 * self.pad + 1)).long()
        moved = shifted(images, places[:, 0] - self.pad, places[:, 1] - self.pad)
        if not self.mirror:
            return moved
        chosen = (drawn[:, 2] < 0.5).to(images.device).view(-1, *[1] * (images.ndim - 1))
        return torch.where(chosen, moved.flip(-1), moved)


def shifted(
    images: Float[torch.Tensor, "B *F H W"], down: torch.Tensor, right: torch.Tensor
) -> Float[torch.Tensor, "B *F H W"]:
    """Each image moved by its own whole number of pixels; what comes in from outside is black.

    Example:
        >>> shifted(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([1]), torch.tensor([0])).tolist()
        [[[0.0, 0.0], [1.0, 2.0]]]
    """
    height, width = images.shape[-2:]
    pad = int(torch.stack([down, right]).abs().amax()) if len(images) else 0  # before the accelerator waits
    down, right = down.to(images.device), right.to(images.device)
    framed = F.pad(images.flatten(1, -3) if images.ndim > 3 else images[:, None], (pad,) * 4)
    rows = torch.arange(height, device=images.device) + pad - down[:, None]
    columns = torch.arange(width, device=images.device) + pad - right[:, None]
    batch = torch.arange(len(images), device=images.device)
    found = framed[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, H, W, F]
    return found.movedim(-1, 1).reshape(images.shape)

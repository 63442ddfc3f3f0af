"""Training with data augmentation, which is drawn anew in every epoch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import fused_unroll

__all__ = ["AugmentedBPTT", "shifted"]


@dataclass(frozen=True)
class AugmentedBPTT(BPTT):
    """Backpropagation through time on randomly shifted and mirrored images.

    Each image of a batch is surrounded by `pad` black pixels and cropped to its size at a random position,
    then mirrored left to right with probability 1/2; with `cutout`, a square around a random pixel then turns
    black. All draws come from the training's key. Perturbations, as in adversarial training, are made from
    the augmented images. Validation images are not augmented.

    With `fused` the loop over time is compiled, in training only, into one pass over memory for the forward
    pass and one for the backward pass; the trained model keeps its own loop. On a GPU sums may differ in the
    last bit, and the first batch of each size takes half a minute longer.

    With `mixed` training computes layers in bfloat16 on a CPU too, as it does on CUDA, with images in the
    channels-last memory format. This is several times faster on a CPU with matrix units for bfloat16 (AMX),
    and may be slower on another CPU.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.
        pad: largest shift [pixels], at least 0.
        mirror: whether images are mirrored; not for digits or text.
        cutout: side of the square that turns black [pixels], at least 0; clipped where it leaves the image.
        fused: whether `torch.compile` fuses the loop over time in training; needs a compiler on the machine.
        mixed: whether layers compute in bfloat16 on a CPU too.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> AugmentedBPTT(epochs=2).pad
        4

    Source:
        He et al. 2016, section 4.2 (4 pixels and horizontal flips for CIFAR); DeVries & Taylor 2017 (cutout).
    """

    pad: int = 4
    mirror: bool = True
    cutout: int = 0
    fused: bool = False
    mixed: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("pad", "cutout"):
            if getattr(self, name) < 0:
                raise InputError(
                    f"AugmentedBPTT needs {name} to be at least 0", f"{name}={getattr(self, name)}", "Try 4."
                )

    def twin(self, model: Classifier) -> Classifier:
        return substitute(model, unroll=fused_unroll()) if self.fused else model

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        if self.mixed and device.type == "cpu":
            return torch.autocast("cpu", torch.bfloat16)
        return super().precision(device)

    def views(self, images: Float[torch.Tensor, "B *F H W"], key: Key) -> Float[torch.Tensor, "B *F H W"]:
        drawn = key.uniform((len(images), 5))
        offsets = (drawn[:, :2] * (2 * self.pad + 1)).long()
        moved = shifted(images, offsets[:, 0] - self.pad, offsets[:, 1] - self.pad)
        if self.mirror:
            chosen = (drawn[:, 2] < 0.5).to(images.device).view(-1, *[1] * (images.ndim - 1))
            moved = torch.where(chosen, moved.flip(-1), moved)
        if self.cutout:
            centres = (drawn[:, 3:] * torch.tensor(images.shape[-2:])).long().to(images.device)
            moved = moved * ~squares(centres, self.cutout, *images.shape[-2:]).view(
                -1, *[1] * (images.ndim - 3), *images.shape[-2:]
            )
        lies_last = self.mixed and moved.ndim == 4 and moved.is_cpu
        return moved.contiguous(memory_format=torch.channels_last) if lies_last else moved


def squares(
    centres: Int64[torch.Tensor, "B 2"], side: int, height: int, width: int
) -> Bool[torch.Tensor, "B H W"]:
    """The mask of a square around each centre; if its side is even, the centre is the upper left of four.

    Example:
        >>> squares(torch.tensor([[0, 1]]), 2, 3, 3).int().tolist()
        [[[0, 1, 1], [0, 1, 1], [0, 0, 0]]]
    """
    rows, columns = (
        torch.arange(size, device=centres.device) - centres[:, axis, None] + (side - 1) // 2
        for axis, size in enumerate((height, width))
    )
    inside = [(along >= 0) & (along < side) for along in (rows, columns)]
    return inside[0][:, :, None] & inside[1][:, None, :]


def shifted(
    images: Float[torch.Tensor, "B *F H W"], down: torch.Tensor, right: torch.Tensor
) -> Float[torch.Tensor, "B *F H W"]:
    """Each image moved by its own whole number of pixels; what comes in from outside is black.

    Example:
        >>> shifted(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([1]), torch.tensor([0])).tolist()
        [[[0.0, 0.0], [1.0, 2.0]]]
    """
    height, width = images.shape[-2:]
    pad = int(torch.stack([down, right]).abs().amax()) if len(images) else 0  # on the CPU, without a wait
    down, right = down.to(images.device), right.to(images.device)
    framed = F.pad(images.flatten(1, -3) if images.ndim > 3 else images[:, None], (pad,) * 4)
    rows = torch.arange(height, device=images.device) + pad - down[:, None]
    columns = torch.arange(width, device=images.device) + pad - right[:, None]
    batch = torch.arange(len(images), device=images.device)
    found = framed[batch[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # [B, H, W, F]
    return found.movedim(-1, 1).reshape(images.shape)

"""Compression and resolution: JPEG, and larger pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.corruption import ImageCorruption, Levels, misfit
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["JPEG", "Pixelation"]


@dataclass(frozen=True)
class JPEG(ImageCorruption):
    """JPEG compression: the image as a JPEG file of low quality gives it back.

    Pixel values are rounded to 8 bits first. An image of three channels is written in colour, with the
    customary subsampling, and an image of one channel in grey. The file is written and read by Pillow, and
    versions of its JPEG library may differ by one level of 255.

    Args:
        levels: quality of the file at each severity, a whole number in [1, 100]; less is more severe.

    Shapes:
        `[B, C, H, W]` with 1 or 3 channels -> `[B, C, H, W]`

    Raises:
        InputError: levels that rise, lie outside [1, 100] or are no whole numbers; images of another number
            of channels; Pillow is not installed.

    Example:
        >>> x = torch.rand(1, 3, 16, 16)
        >>> JPEG()(x, 3, Key.of(0)).shape
        torch.Size([1, 3, 16, 16])

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 25, 18, 15, 10
        and 7.
    """

    LEAST: ClassVar[float] = 1.0
    MOST: ClassVar[float] = 100.0
    FALLS: ClassVar[bool] = True
    levels: Levels = (80.0, 65.0, 58.0, 50.0, 40.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(float(level).is_integer() for level in self.levels):
            raise InputError(
                "The quality of a JPEG file is a whole number", f"levels={list(self.levels)}", "Try 50."
            )

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[0] not in (1, 3):
            raise misfit(shape, "A JPEG file has 1 or 3 channels", "Leave out jpeg.")

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        try:
            from PIL import Image
        except ImportError as error:
            raise InputError(
                "JPEG files are written by Pillow", "no package Pillow", "Try pip install spikeproof[study]."
            ) from error
        levels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        found = []
        for image in levels:
            file = io.BytesIO()
            grey = image.shape[2] == 1
            Image.fromarray(image[:, :, 0] if grey else image).save(
                file, "JPEG", quality=int(self.level(severity))
            )
            read = torch.from_numpy(np.array(Image.open(file))).double() / 255
            found.append(read[None] if grey else read.permute(2, 0, 1))
        return torch.stack(found)


@dataclass(frozen=True)
class Pixelation(ImageCorruption):
    r"""Pixelation: the image is reduced by means over boxes and enlarged again by its nearest pixels.

    The reduced image has :math:`\max(1, \lfloor a H \rfloor)` rows, and columns likewise. A pixel belongs to
    the box in which its centre lies, so that boxes have different numbers of pixels. On images of few pixels,
    neighbouring severities have equally many boxes, or differ in where the boxes lie more than in their size.

    Args:
        levels: resolution `a` that is left at each severity, in (0, 1]; less is more severe.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that rise or lie outside (0, 1]; inputs that are no images in [0, 1].

    Example:
        >>> Pixelation(levels=(0.5,) * 5)(torch.tensor([0.0, 0.5, 1.0, 1.0]).view(1, 1, 1, 4), 1, Key.of(0))
        tensor([[[[0.2500, 0.2500, 1.0000, 1.0000]]]])

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 0.6, 0.5, 0.4, 0.3
        and 0.25.
    """

    LEAST: ClassVar[float] = 1e-6
    MOST: ClassVar[float] = 1.0
    FALLS: ClassVar[bool] = True
    levels: Levels = (0.95, 0.9, 0.85, 0.75, 0.65)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        return _boxes(_boxes(x, self.level(severity), 3), self.level(severity), 2)


def _boxes(x: Float[Tensor, "B C H W"], share: float, axis: int) -> Float[Tensor, "B C H W"]:
    """Means over boxes along one axis, at the places of the boxes that are nearest to each pixel."""
    size = x.shape[axis]
    boxes = max(1, int(size * share))
    edges = (2 * size * torch.arange(boxes + 1) + boxes) // (2 * boxes)  # pixels whose centre lies before
    sums = torch.cat([torch.zeros_like(x.narrow(axis, 0, 1)), x.cumsum(axis)], axis)
    many = (edges[1:] - edges[:-1]).double().view(-1, *[1] * (3 - axis))
    means = (sums.index_select(axis, edges[1:]) - sums.index_select(axis, edges[:-1])) / many
    nearest = (2 * torch.arange(size) + 1) * boxes // (2 * size)
    return means.index_select(axis, nearest)

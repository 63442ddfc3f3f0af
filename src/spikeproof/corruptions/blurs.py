"""Blur: a lens out of focus, and a camera that moves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.corruptions.corruption import ImageCorruption, Levels
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["DefocusBlur", "MotionBlur"]

LONGEST = 512.0
"""The largest length of a blur, in pixels."""


def reflected(places: Int64[Tensor, "*N"], size: int) -> Int64[Tensor, "*N"]:
    """Places on a line of `size` pixels, mirrored at the centres of its first and its last pixel.

    Example:
        >>> reflected(torch.arange(-3, 6), 3).tolist()
        [1, 2, 1, 0, 1, 2, 1, 0, 1]
    """
    if size == 1:
        return torch.zeros_like(places)
    period = 2 * (size - 1)
    folded = places % period
    return torch.minimum(folded, period - folded)


def weighed(x: Float[Tensor, "B C H W"], weights: Float[Tensor, "K"], axis: int) -> Float[Tensor, "B C H W"]:
    """A filter along one axis, with an odd number of weights and mirrored edges."""
    size, reach = x.shape[axis], len(weights) // 2
    total = torch.zeros_like(x)
    for step, weight in zip(range(-reach, reach + 1), weights.tolist(), strict=True):
        total += weight * x.index_select(axis, reflected(torch.arange(size) + step, size))
    return total


def bell(width: float, reach: int) -> Float[Tensor, "K"]:
    """The weights of a Gaussian of this standard deviation at `2 reach + 1` pixels; they sum to 1."""
    places = torch.arange(-reach, reach + 1).double()
    weights = torch.exp(-(places**2) / (2 * width**2))
    return weights / weights.sum()


@dataclass(frozen=True)
class DefocusBlur(ImageCorruption):
    r"""Defocus blur: every point becomes a disk, whose edge is smoothed a little.

    .. math:: x' = x * (D_r * G_s), \quad D_r(i, j) \propto 1[i^2 + j^2 \le r^2]

    `G` is a Gaussian over 3 pixels a side, over 5 for a radius above 8. Edges are mirrored.

    Args:
        levels: radius `r` of the disk at each severity, in pixels, in [0, 512].
        edges: standard deviation `s` of the smoothing at each severity, in pixels, above 0.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or are negative, an edge that is not above 0, or inputs that are no
            images in [0, 1].

    Example:
        >>> point = torch.zeros(1, 1, 9, 9); point[..., 4, 4] = 1
        >>> DefocusBlur()(point, 5, Key.of(0))[0, 0, 4].mul(100).round().int().tolist()
        [0, 0, 0, 11, 11, 11, 0, 0, 0]

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C, which are made for images of 32 pixels;
        those of ImageNet-C are radii of 3, 4, 6, 8 and 10 with edges of 0.1, 0.5, 0.5, 0.5 and 0.5. The
        published code leaves a disk of radius 8 or more no room to be smoothed and mirrors it at its border;
        here it has room.
    """

    MOST: ClassVar[float] = LONGEST
    levels: Levels = (0.3, 0.4, 0.5, 1.0, 1.5)
    edges: Levels = (0.4, 0.5, 0.6, 0.2, 0.1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 < edge <= LONGEST for edge in self.edges):
            raise InputError(
                f"The smoothing of a disk is above 0 and at most {LONGEST:g} pixels",
                f"edges={list(self.edges)}",
                "Leave out edges for the customary ones.",
            )

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        kernel = self.kernel(severity)
        reach, (height, width) = len(kernel) // 2, x.shape[2:]
        total = torch.zeros_like(x)
        for down, weights in enumerate(kernel.tolist()):
            rows = x.index_select(2, reflected(torch.arange(height) + down - reach, height))
            for right, weight in enumerate(weights):
                if weight:
                    columns = reflected(torch.arange(width) + right - reach, width)
                    total += weight * rows.index_select(3, columns)
        return total

    def kernel(self, severity: int) -> Float[Tensor, "K K"]:
        """The image of a point; its values sum to 1."""
        radius, blur = self.level(severity), 1 if self.level(severity) <= 8 else 2
        reach = math.floor(radius) + 2 * blur  # wide enough for the smoothing to mirror nothing but zeros
        places = torch.arange(-reach, reach + 1).double()
        disk = (places[:, None] ** 2 + places**2 <= radius**2).double()
        smooth = (disk / disk.sum())[None, None]
        weights = bell(self.edges[severity - 1], blur)
        return weighed(weighed(smooth, weights, 2), weights, 3)[0, 0]


@dataclass(frozen=True)
class MotionBlur(ImageCorruption):
    r"""Motion blur: every point becomes a streak that fades in one direction, within 45 degrees of a row.

    .. math:: x' = \sum_{i=0}^{2 r} w_i \, S_{i, \theta} x, \quad w_i \propto e^{-i^2 / 2 \sigma^2},
              \quad \theta \sim U[-45°, 45°)

    `S` shifts the image by `i` pixels in the direction of `theta`, rounded to whole pixels, and repeats the
    pixels at the edges.

    Args:
        levels: length `sigma` of the streak at each severity, in pixels, in (0, 512].
        radii: half of the length `r` at which the streak is cut off, in pixels, at least 1.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or are not above 0, a radius below 1, or inputs that are no images in
            [0, 1].

    Example:
        >>> point = torch.zeros(1, 1, 9, 9); point[..., 4, 4] = 1
        >>> streak = MotionBlur()(point, 5, Key.of(0))
        >>> bool(streak[0, 0].any(0).sum() >= 4)
        True

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 3, 5, 8, 12 and 15
        with radii of 10, 15, 15, 15 and 20.
    """

    LEAST: ClassVar[float] = 1e-3
    MOST: ClassVar[float] = LONGEST
    levels: Levels = (1.0, 1.5, 2.0, 2.0, 2.5)
    radii: tuple[int, int, int, int, int] = (6, 6, 6, 8, 9)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= radius <= LONGEST for radius in self.radii):
            raise InputError(
                f"A streak is cut off after 1 to {LONGEST:g} pixels",
                f"radii={list(self.radii)}",
                "Leave out radii for the customary ones.",
            )

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        angle = torch.deg2rad(90 * key.uniform((len(x),)).double() - 45)
        places = torch.arange(2 * self.radii[severity - 1] + 1).double()
        weights = torch.exp(-(places**2) / (2 * self.level(severity) ** 2))
        total = torch.zeros_like(x)
        for place, weight in zip(places.tolist(), (weights / weights.sum()).tolist(), strict=True):
            down, right = (
                -torch.ceil(place * part - 0.5).long() for part in (torch.sin(angle), torch.cos(angle))
            )
            total += weight * shifted(x, down, right)
        return total


def shifted(
    x: Float[Tensor, "B C H W"], down: Int64[Tensor, "B"], right: Int64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """Images moved by whole pixels, each by its own; pixels at the edges are repeated."""
    height, width = x.shape[2:]
    rows = (torch.arange(height) - down[:, None]).clamp(0, height - 1)
    columns = (torch.arange(width) - right[:, None]).clamp(0, width - 1)
    batch, channel = torch.arange(len(x)), torch.arange(x.shape[1])
    return x[
        batch[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]

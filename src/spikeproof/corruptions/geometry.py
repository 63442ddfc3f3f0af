"""Geometry: elastic deformation, rotation, translation, scaling and occlusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.blurs import bell, weighed
from spikeproof.corruptions.corruption import ImageCorruption, Levels
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["Elastic", "Occlusion", "Rotation", "Scaling", "Translation"]


def resampled(
    x: Float[Tensor, "B C H W"], rows: Float[Tensor, "B H W"], columns: Float[Tensor, "B H W"]
) -> Float[Tensor, "B C H W"]:
    """Images read between their pixels, linearly in both directions; pixels at the edges are repeated.

    Args:
        x: images.
        rows: the row, counted from 0, that every pixel is read from.
        columns: the column that every pixel is read from.
    """
    height, width = x.shape[2:]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    top, left = rows.floor(), columns.floor()
    down, right = (rows - top)[:, None], (columns - left)[:, None]
    above, before = top.long(), left.long()
    below, after = (above + 1).clamp(max=height - 1), (before + 1).clamp(max=width - 1)
    batch, channel = torch.arange(len(x)).view(-1, 1, 1, 1), torch.arange(x.shape[1]).view(1, -1, 1, 1)

    def at(row: Tensor, column: Tensor) -> Tensor:
        return x[batch, channel, row[:, None], column[:, None]]

    upper = at(above, before) * (1 - right) + at(above, after) * right
    lower = at(below, before) * (1 - right) + at(below, after) * right
    return upper * (1 - down) + lower * down


def _grid(x: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
    """Row and column of every pixel, from the centre of the image."""
    height, width = x.shape[2:]
    rows = (torch.arange(height).double() - (height - 1) / 2).view(1, -1, 1).expand(len(x), height, width)
    columns = (torch.arange(width).double() - (width - 1) / 2).view(1, 1, -1).expand(len(x), height, width)
    return rows, columns


def _centred(x: Float[Tensor, "B C H W"], rows: Tensor, columns: Tensor) -> Float[Tensor, "B C H W"]:
    """Images read at places that are counted from the centre."""
    height, width = x.shape[2:]
    return resampled(x, rows + (height - 1) / 2, columns + (width - 1) / 2)


@dataclass(frozen=True)
class Rotation(ImageCorruption):
    r"""Rotation about the centre of the image, to the left or to the right at random.

    Args:
        levels: angle at each severity, in degrees, in [0, 180].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`, read linearly between pixels, with repeated edges

    Raises:
        InputError: levels that fall or lie outside [0, 180]; inputs that are no images in [0, 1].

    Example:
        >>> x = torch.rand(2, 1, 5, 5)
        >>> half = Rotation(levels=(180.0,) * 5)(x, 1, Key.of(0))
        >>> torch.allclose(half, x.flip(2, 3), atol=1e-6)
        True

    Source:
        Engstrom et al. 2019 for rotations and translations as natural corruptions; the levels are our own.
    """

    MOST: ClassVar[float] = 180.0
    levels: Levels = (5.0, 10.0, 15.0, 22.5, 30.0)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        angle = math.radians(self.level(severity)) * _sign(key, len(x))
        rows, columns = _grid(x)
        return _centred(
            x,
            angle.cos() * rows - angle.sin() * columns,
            angle.sin() * rows + angle.cos() * columns,
        )


@dataclass(frozen=True)
class Translation(ImageCorruption):
    r"""Translation by a share of the size of the image, in a random direction.

    Args:
        levels: distance at each severity, as a share of the shorter side, in [0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`, read linearly between pixels, with repeated edges

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no images in [0, 1].

    Example:
        >>> point = torch.zeros(1, 1, 11, 11); point[..., 5, 5] = 1
        >>> bool(Translation()(point, 5, Key.of(0))[..., 5, 5] == 0)
        True

    Source:
        Engstrom et al. 2019 for rotations and translations as natural corruptions; the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.04, 0.08, 0.12, 0.16, 0.2)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        far = self.level(severity) * min(x.shape[2:])
        direction = (2 * math.pi * key.uniform((len(x),)).double()).view(-1, 1, 1)
        rows, columns = _grid(x)
        return _centred(x, rows - far * direction.sin(), columns - far * direction.cos())


@dataclass(frozen=True)
class Scaling(ImageCorruption):
    r"""Scaling about the centre of the image, larger or smaller at random.

    Args:
        levels: factor at each severity by which sizes grow or shrink, in [1, 100].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`, read linearly between pixels, with repeated edges

    Raises:
        InputError: levels that fall or lie outside [1, 100]; inputs that are no images in [0, 1].

    Example:
        >>> x = torch.full((1, 3, 8, 8), 0.25)
        >>> torch.equal(Scaling()(x, 5, Key.of(0)), x)
        True

    Source:
        The levels are our own.
    """

    LEAST: ClassVar[float] = 1.0
    MOST: ClassVar[float] = 100.0
    levels: Levels = (1.08, 1.16, 1.25, 1.4, 1.6)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        factor = self.level(severity) ** _sign(key, len(x))
        rows, columns = _grid(x)
        return _centred(x, rows * factor, columns * factor)


@dataclass(frozen=True)
class Occlusion(ImageCorruption):
    r"""Occlusion: a grey square at a random place hides a part of the image.

    The side of the square is :math:`\max(1, \mathrm{round}(a \min(H, W)))` pixels.

    Args:
        levels: side of the square at each severity, as a share `a` of the shorter side, in [0, 1].
        grey: pixel value of the square, in [0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or lie outside [0, 1], a grey outside [0, 1], or inputs that are no
            images in [0, 1].

    Example:
        >>> hidden = Occlusion()(torch.zeros(1, 1, 10, 10), 5, Key.of(0))
        >>> int((hidden == 0.5).sum())
        25

    Source:
        DeVries & Taylor 2017 and Zhong et al. 2020 hide squares in training; the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.15, 0.25, 0.33, 0.42, 0.5)
    grey: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.grey <= 1:
            raise InputError("A grey is a pixel value in [0, 1]", f"grey={self.grey}", "Try 0.5.")

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        height, width = x.shape[2:]
        side = max(1, round(self.level(severity) * min(height, width)))
        draws = key.uniform((len(x), 2)).double()
        top = (draws[:, 0] * (height - side + 1)).floor().view(-1, 1, 1, 1)
        left = (draws[:, 1] * (width - side + 1)).floor().view(-1, 1, 1, 1)
        row, column = torch.arange(height).view(-1, 1), torch.arange(width)
        hidden = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
        return torch.where(hidden, self.grey, x)


@dataclass(frozen=True)
class Elastic(ImageCorruption):
    r"""Elastic deformation: pixels move by a smooth random field.

    .. math:: x'(p) = x(p + d(p)), \quad d = a\,\frac{G_s * u}{\mathrm{rms}(G_s * u)}, \quad u \sim U[-1, 1)

    The root mean square is taken over both components of the field, so that `a` is how far pixels move.

    Args:
        levels: root mean square of the displacement at each severity, as a share `a` of the shorter side, in
            [0, 1].
        smoothness: standard deviation `s` of the Gaussian, as a share of the shorter side, in (0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`, read linearly between pixels, with repeated edges

    Raises:
        InputError: levels that fall or lie outside [0, 1], a smoothness outside (0, 1], or inputs that are no
            images in [0, 1].

    Example:
        >>> x = torch.full((1, 3, 8, 8), 0.25)
        >>> torch.allclose(Elastic()(x, 5, Key.of(0)), x)
        True

    Source:
        Simard, Steinkraus & Platt 2003. The levels are our own: those of CIFAR-10-C mix the field with an
        affine map that grows weaker with the severity, and their distance is not monotone in it.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.02, 0.03, 0.04, 0.055, 0.07)
    smoothness: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.smoothness <= 1:
            raise InputError(
                "The smoothness of a field is a share of the side in (0, 1]",
                f"smoothness={self.smoothness}",
                "Try 0.1.",
            )

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        side = min(x.shape[2:])
        width = self.smoothness * side
        draws = 2 * key.uniform((len(x), 2, *x.shape[2:])).double() - 1
        weights = bell(width, max(1, math.ceil(3 * width)))
        field = weighed(weighed(draws, weights, 2), weights, 3)
        size = field.square().sum(1, keepdim=True).mean((2, 3), keepdim=True).sqrt().clamp(min=1e-12)
        moved = self.level(severity) * side * field / size
        rows, columns = _grid(x)
        return _centred(x, rows + moved[:, 0], columns + moved[:, 1])


def _sign(key: Key, many: int) -> Float[Tensor, "B 1 1"]:
    """One of the two directions of a change for each image."""
    return torch.where(key.uniform((many,)) < 0.5, -1.0, 1.0).double().view(-1, 1, 1)

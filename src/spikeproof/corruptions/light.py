"""Light and weather: fog, brightness and contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.corruption import ImageCorruption, Levels
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["Brightness", "Contrast", "Fog"]


@dataclass(frozen=True)
class Fog(ImageCorruption):
    r"""Fog: a random cloud is added to the image, and the sum is scaled back to the image's range.

    .. math:: x' = (x + a\,p) \frac{m}{m + a}, \quad m = \max x

    The cloud `p` in [0, 1] is a plasma fractal: random midpoints on ever finer grids, whose amplitude falls
    with the square of `decay` from one grid to the next. An image that is black everywhere stays black.

    Args:
        levels: thickness `a` at each severity, in units of pixel value, at least 0.
        decays: factor by which finer structure is weaker, at each severity, at least 1.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or are negative, a decay below 1, or inputs that are no images in [0, 1].

    Example:
        >>> x = torch.zeros(1, 1, 8, 8); x[..., 4] = 1
        >>> foggy = Fog()(x, 3, Key.of(0))
        >>> bool(foggy[..., 4].min() > foggy[..., :4].min()), bool(foggy.max() <= 1)
        (True, True)

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are thicknesses of 1.5,
        2, 2.5, 2.5 and 3 with decays of 2, 2, 1.7, 1.5 and 1.4.
    """

    levels: Levels = (0.2, 0.5, 0.75, 1.0, 1.5)
    decays: Levels = (3.0, 3.0, 2.5, 2.0, 1.75)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(1 <= decay <= 100 for decay in self.decays):
            raise InputError(
                "The structure of fog decays by a factor from 1 to 100",
                f"decays={list(self.decays)}",
                "Leave out decays for the customary ones.",
            )

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        thick, (height, width) = self.level(severity), x.shape[2:]
        cloud = plasma(max(height, width), self.decays[severity - 1], key)[:, None, :height, :width]
        most = x.amax((1, 2, 3), keepdim=True)
        return (x + thick * cloud) * most / (most + thick).clamp(min=1e-12)


def plasma(size: int, decay: float, key: Key) -> Float[Tensor, "B S S"]:
    """Plasma fractals in [0, 1] by the diamond-square algorithm, one for each row of the key.

    Args:
        size: of the side in pixels, rounded up to a power of two.
        decay: factor by which the amplitude's root falls from one grid to the next.
        key: has one row per fractal.

    Source:
        Fournier, Fussell & Carpenter 1982; the order of midpoints and the wrapped edges are those of
        ImageNet-C.
    """
    assert key.rows is not None
    side = 2 ** max((size - 1).bit_length(), 1)
    field = torch.zeros(len(key.rows), side, side, dtype=torch.float64)
    step, amplitude = side, 100.0**2

    def midpoint(total: Tensor, name: str) -> Tensor:
        draws = key.fold(name, step).uniform(total.shape).double()
        return total / 4 + amplitude * (2 * draws - 1)

    while step >= 2:
        half = step // 2
        corners = field[:, ::step, ::step]
        below = corners + corners.roll(-1, 1)
        field[:, half::step, half::step] = midpoint(below + below.roll(-1, 2), "centre")
        centres = field[:, half::step, half::step]
        beside = centres + centres.roll(1, 1) + corners + corners.roll(-1, 2)
        field[:, ::step, half::step] = midpoint(beside, "row")
        above = centres + centres.roll(1, 2) + corners + corners.roll(-1, 1)
        field[:, half::step, ::step] = midpoint(above, "column")
        step, amplitude = half, amplitude / decay**2
    field -= field.amin((1, 2), keepdim=True)
    return field / field.amax((1, 2), keepdim=True).clamp(min=1e-12)


@dataclass(frozen=True)
class Brightness(ImageCorruption):
    r"""Brightness: the value of every pixel in the sense of HSV rises, and hue and saturation stay.

    .. math:: x'_c = x_c \frac{\min(v + a, 1)}{v}, \quad v = \max_c x_c, \quad x'_c = a \text{ where } v = 0

    With one channel this is :math:`\min(x + a, 1)`.

    Args:
        levels: rise `a` at each severity, in units of pixel value, in [0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no images in [0, 1].

    Example:
        >>> Brightness()(torch.tensor([0.5, 0.9]).view(1, 1, 1, 2), 5, Key.of(0)).flatten()
        tensor([0.8000, 1.0000])

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 0.1 to 0.5 in steps
        of 0.1.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.05, 0.1, 0.15, 0.2, 0.3)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        value = x.amax(1, keepdim=True)
        raised = (value + self.level(severity)).clamp(max=1)
        return torch.where(value > 0, x * raised / value.clamp(min=1e-300), raised)


@dataclass(frozen=True)
class Contrast(ImageCorruption):
    r"""Contrast: every channel of an image shrinks towards its mean.

    .. math:: x' = \bar x_c + a (x - \bar x_c)

    Args:
        levels: contrast `a` that is left at each severity, in [0, 1]; less is more severe.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that rise or lie outside [0, 1]; inputs that are no images in [0, 1].

    Example:
        >>> Contrast()(torch.tensor([0.0, 1.0]).view(1, 1, 1, 2), 2, Key.of(0)).flatten()
        tensor([0.2500, 0.7500])

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 0.4, 0.3, 0.2, 0.1
        and 0.05.
    """

    MOST: ClassVar[float] = 1.0
    FALLS: ClassVar[bool] = True
    levels: Levels = (0.75, 0.5, 0.4, 0.3, 0.15)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        mean = x.mean((2, 3), keepdim=True)
        return mean + self.level(severity) * (x - mean)

"""Noise in the values of pixels: Gaussian, uniform, shot and impulse noise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.corruption import ImageCorruption, Levels, generators
from spikeproof.keys import Key

__all__ = ["GaussianCorruption", "ImpulseNoise", "ShotNoise", "UniformCorruption"]


@dataclass(frozen=True)
class GaussianCorruption(ImageCorruption):
    r"""Gaussian noise: every pixel value gets an independent normal error.

    .. math:: x' = \mathrm{clip}_{[0,1]}(x + \sigma z), \quad z \sim N(0, 1)

    Args:
        levels: standard deviation `sigma` at each severity, in units of pixel value, at least 0.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or are negative; inputs that are no images in [0, 1].

    Example:
        >>> noisy = GaussianCorruption()(torch.full((1, 1, 64, 64), 0.5), 5, Key.of(0))
        >>> round(float(noisy.std()), 2)
        0.1

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 0.08, 0.12, 0.18,
        0.26 and 0.38.
    """

    levels: Levels = (0.04, 0.06, 0.08, 0.09, 0.10)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        return x + self.level(severity) * key.normal(x.shape).double()


@dataclass(frozen=True)
class UniformCorruption(ImageCorruption):
    r"""Uniform noise: every pixel value gets an independent error of limited size.

    .. math:: x' = \mathrm{clip}_{[0,1]}(x + a u), \quad u \sim U[-1, 1)

    With `a` as the epsilon of an Linf attack, it is the control that an attack within this epsilon must beat.

    Args:
        levels: largest error `a` at each severity, in units of pixel value, at least 0.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or are negative; inputs that are no images in [0, 1].

    Example:
        >>> noisy = UniformCorruption()(torch.full((1, 1, 64, 64), 0.5), 1, Key.of(0))
        >>> round(float((noisy - 0.5).abs().max()), 2)
        0.07

    Source:
        The levels are those of `GaussianCorruption` times the square root of 3, and so have its standard
        deviations.
    """

    levels: Levels = (
        0.04 * math.sqrt(3),
        0.06 * math.sqrt(3),
        0.08 * math.sqrt(3),
        0.09 * math.sqrt(3),
        0.10 * math.sqrt(3),
    )

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        return x + self.level(severity) * (2 * key.uniform(x.shape).double() - 1)


@dataclass(frozen=True)
class ShotNoise(ImageCorruption):
    r"""Shot noise: the number of photons that a pixel counts is a Poisson number.

    .. math:: x' = \mathrm{clip}_{[0,1]}(n / c), \quad n \sim \mathrm{Poisson}(c x)

    Args:
        levels: photons `c` that a white pixel counts on average, at each severity, above 0; fewer photons are
            more severe.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that rise or are not above 0; inputs that are no images in [0, 1].

    Example:
        >>> noisy = ShotNoise()(torch.full((1, 1, 64, 64), 0.5), 5, Key.of(0))
        >>> round(float(noisy.var()), 2)  # 0.5 / 50
        0.01

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 60, 25, 12, 5
        and 3.
    """

    LEAST: ClassVar[float] = 1e-3
    FALLS: ClassVar[bool] = True
    levels: Levels = (500.0, 250.0, 100.0, 75.0, 50.0)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        photons = self.level(severity)
        counted = [
            torch.poisson(image * photons, generator=generator)
            for image, generator in zip(x, generators(key), strict=True)
        ]
        return torch.stack(counted) / photons


@dataclass(frozen=True)
class ImpulseNoise(ImageCorruption):
    r"""Impulse noise: a share of all pixel values is replaced, one half by 0 and the other by 1.

    .. math:: x' = 0 \text{ if } u < p / 2, \quad 1 \text{ if } u \ge 1 - p / 2, \quad x \text{ otherwise},
              \quad u \sim U[0, 1)

    Args:
        levels: probability `p` that a value is replaced, at each severity, in [0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no images in [0, 1].

    Example:
        >>> noisy = ImpulseNoise()(torch.full((1, 1, 100, 100), 0.5), 5, Key.of(0))
        >>> round(float((noisy != 0.5).float().mean()), 2)
        0.07

    Source:
        Hendrycks & Dietterich 2019 with the levels of CIFAR-10-C; those of ImageNet-C are 0.03, 0.06, 0.09,
        0.17 and 0.27.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.01, 0.02, 0.03, 0.05, 0.07)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        half, coin = self.level(severity) / 2, key.uniform(x.shape).double()
        return torch.where(coin < half, 0.0, torch.where(coin >= 1 - half, 1.0, x))

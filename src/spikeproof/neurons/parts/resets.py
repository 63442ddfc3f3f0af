"""The reset of the membrane potential after a spike."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BySubtraction", "Reset", "ToZero"]


class Reset:
    """The reset of the membrane potential after a spike."""

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        """The potential after the spikes `z`."""
        raise NotImplementedError(f"{type(self).__name__} defines no reset")

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        """Derivatives of the result by `v` (with `z` held) and by `z`."""
        raise NotImplementedError(f"{type(self).__name__} defines no slope")


@dataclass(frozen=True)
class ToZero(Reset):
    """Reset to zero, `v (1 - z)`; the excess over the threshold is lost.

    Source:
        Wu et al. 2018 (STBP), eq. (5).
    """

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.mul(v, 1 - z, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1 - z, -v


@dataclass(frozen=True)
class BySubtraction(Reset):
    """Reset by subtraction of the threshold, `v - threshold z`; the excess is kept.

    Source:
        Rueckauer et al. 2017, section 2.1.
    """

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.sub(v, z, alpha=threshold, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, -threshold

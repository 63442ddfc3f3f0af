"""Encoders without spikes: an analogue current at every time step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import check_steps
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Context, check_range

__all__ = ["Direct", "LowPass", "QuantisedDirect"]


class _Round(torch.autograd.Function):
    """Rounding to levels of 1/steps in the forward pass, the identity in the backward pass."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, steps: int) -> Tensor:
        return ((x * steps + 0.5).floor() / steps).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0], None


@dataclass(frozen=True)
class Direct:
    """Direct coding: the image itself is the input current at every time step; its gradient is exact.

    .. math:: s[t] = x

    Args:
        steps: number of time steps `T`, at least 1.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]` in [0, 1], one tensor expanded T times (no copy)

    Example:
        >>> Direct(3)(torch.tensor([[0.25]])).flatten().tolist()
        [0.25, 0.25, 0.25]

    Source:
        Ding et al. 2023 (`const`); Rueckauer et al. 2017, section 2.2.
    """

    steps: int = 8
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(self, self.steps)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        return x.expand(self.steps, *x.shape)


@dataclass(frozen=True)
class QuantisedDirect:
    r"""Direct coding, rounded to the T + 1 levels that a spiking encoder of T steps can tell apart.

    .. math:: s[t] = \lfloor xT + 1/2 \rfloor / T

    This control separates the effect of timing from the effect of quantisation: robustness that it shares
    with latency coding does not come from spike times. The backward pass is the identity, summed over time
    steps.

    Args:
        steps: number of time steps `T`, at least 1; also the number of levels less one.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]` in {0, 1/T, ..., 1}

    Example:
        >>> QuantisedDirect(4)(torch.tensor([[0.3, 0.4]]))[0].tolist()
        [[0.25, 0.5]]

    Source:
        Ding et al. 2023 (`quantize`), with a gradient where the published code has none.
    """

    steps: int = 8
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(self, self.steps)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        levels: Tensor = _Round.apply(x, self.steps)  # type: ignore[no-untyped-call]
        return levels.expand(self.steps, *x.shape)


@dataclass(frozen=True)
class LowPass:
    r"""Frequency encoding: the image passes a low-pass filter that narrows from step to step.

    .. math:: s[t] = \left|\mathcal{F}^{-1}\left(M_{r(t)}\,\mathcal{F}(x)\right)\right|, \quad
              r(t) = \max(r_0 - d\,t,\ 1)

    :math:`M_r` keeps the frequencies -r..r-1 of both axes. With the default radius the first step passes the
    whole image; for 32 x 32 pixels the radii are 16, 14, 12, ... as published. The published code shifts all
    axes of the spectrum, batch and channels among them, and is right only because it shifts them back; here
    nothing but height and width is filtered. The gradient is exact.

    Args:
        steps: number of time steps `T`, at least 1.
        radius: `r_0`, in frequencies, at least 1; None for half of the larger side.
        drop: frequencies `d` lost per step, at least 0.

    Shapes:
        `x [B, *F, H, W]` in [0, 1] -> `[T, B, *F, H, W]`, at least 0

    Example:
        >>> out = LowPass(4)(torch.rand(1, 1, 8, 8))
        >>> out.shape, LowPass(4).radii(32, 32)
        (torch.Size([4, 1, 1, 8, 8]), [16, 14, 12, 10])

    Source:
        FEEL-SNN (Xu, Ma, Tang, Zheng & Pan 2024), section 3.2 and its public code (`FE`).
    """

    steps: int = 8
    radius: int | None = None
    drop: int = 2
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_steps(self, self.steps)
        if self.drop < 0 or (self.radius is not None and self.radius < 1):
            raise InputError(
                "LowPass needs a radius of at least 1 and a drop of at least 0",
                f"radius={self.radius}, drop={self.drop}",
                "Try radius=None, drop=2.",
            )

    def radii(self, height: int, width: int) -> list[int]:
        """The radius of each step for images of this size."""
        first = (max(height, width) + 1) // 2 if self.radius is None else self.radius
        return [max(first - self.drop * t, 1) for t in range(self.steps)]

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        check_range(x, type(self).__name__)
        if x.ndim < 3:
            raise InputError("LowPass expects images", f"shape {list(x.shape)}", "Give [B, C, H, W].")
        height, width = x.shape[-2:]
        rows, columns = (torch.fft.fftfreq(n, 1 / n, device=x.device).round() for n in (height, width))
        spectrum = torch.fft.fft2(x if x.dtype == torch.float64 else x.float())
        steps = []
        for radius in self.radii(height, width):
            low = ((rows >= -radius) & (rows < radius))[:, None] & ((columns >= -radius) & (columns < radius))
            steps.append(torch.fft.ifft2(spectrum * low).abs())
        return torch.stack(steps).to(x.dtype)

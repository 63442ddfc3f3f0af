"""Codes without spikes: an analogue current at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import check_steps
from spikeproof.keys import Key
from spikeproof.protocols import check_range


class _Round(torch.autograd.Function):
    """Rounding to levels of 1/steps forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return ((x * steps + 0.5).floor() / steps).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


@dataclass(frozen=True)
class Direct:
    """Direct current: the image itself, at every step; its gradient is exact.

    .. math:: s[t] = x

    Args:
        steps: number of time steps `T`, at least 1.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]` in [0, 1], one tensor seen T times (no copy)

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
    r"""Direct current rounded to the T + 1 levels that a spike code of T steps can tell apart.

    .. math:: s[t] = \lfloor xT + 1/2 \rfloor / T

    The control that separates timing from quantisation: what this code resists, latency resists without any
    help of time. Backward: the identity, summed over steps.

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

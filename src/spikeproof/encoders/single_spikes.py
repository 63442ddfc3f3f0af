"""Encoders for networks of spike times: one number per input says how early its single spike is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Context, check_range

__all__ = ["KernelTimes", "SpikeTimes", "WholeSpikeTimes"]


@dataclass(frozen=True)
class SpikeTimes:
    r"""Continuous spike times: brighter inputs spike earlier, and every input spikes once, black ones too.

    .. math:: t = t_{late} - x\,(t_{late} - t_{early}), \quad e = horizon - t

    The gradient is exact.

    Args:
        early: spike time of the value 1, in the unit of the neurons' time constants, at least 0.
        late: spike time of the value 0, at least `early`.
        horizon: when the trial ends and neurons that have not spiked count as silent, after `late`.

    Shapes:
        `x [B, *F]` in [0, 1] -> earliness `[1, B, *F]`

    Example:
        >>> SpikeTimes(0.0, 2.0, horizon=5.0)(torch.tensor([[1.0, 0.25, 0.0]]))
        tensor([[[5.0000, 3.5000, 3.0000]]])

    Source:
        Goeltz et al. 2021 (early 0.15, late 2 time constants).
    """

    timed: ClassVar[bool] = True
    early: float = 0.15
    late: float = 2.0
    horizon: float = 6.0
    steps: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.early <= self.late < self.horizon < math.inf:
            raise InputError(
                "SpikeTimes needs 0 <= early <= late < horizon",
                f"early={self.early}, late={self.late}, horizon={self.horizon}",
                "Try early=0.15, late=2.0, horizon=6.0.",
            )

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "1 B *F"]:
        check_range(x, type(self).__name__)
        return (x * (self.late - self.early) + (self.horizon - self.late))[None]


class _Whole(torch.autograd.Function):
    """Whole numbers in the forward pass, a given slope in the backward pass."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, whole: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return whole

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.saved_tensors[0], None, None


def _straight(x: Tensor, whole: Tensor, slope: Tensor) -> Tensor:
    out: Tensor = _Whole.apply(x, whole, slope)  # type: ignore[no-untyped-call]
    return out[None]


def _steps(part: object, steps: int) -> None:
    if steps < 1:
        raise InputError(
            f"{type(part).__name__} needs at least 1 step until the horizon", f"horizon={steps}", "Try 256."
        )


@dataclass(frozen=True)
class WholeSpikeTimes:
    r"""Spike times in whole steps: brighter inputs spike earlier, once each, and black inputs do not spike.

    .. math:: t = \lfloor (1-x)T \rfloor, \quad e = T - t = \lceil xT \rceil

    The backward pass uses the slope `T` of the straight line, also for black.

    Args:
        horizon: number of steps `T`, at least 1; an input whose time is `T` sends no spike.

    Shapes:
        `x [B, *F]` in [0, 1] -> whole earliness `[1, B, *F]` in 0..T

    Example:
        >>> WholeSpikeTimes(4)(torch.tensor([[1.0, 0.3, 0.0]]))
        tensor([[[4., 2., 0.]]])

    Source:
        Kheradpisheh & Masquelier 2020, section 2.1 (T = 256).
    """

    timed: ClassVar[bool] = True
    horizon: int = 256
    steps: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _steps(self, self.horizon)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "1 B *F"]:
        check_range(x, type(self).__name__)
        tolerance = max(torch.finfo(x.dtype).eps, 2.0**-23)  # grey levels on an edge are on the edge
        level = ((x.detach().double() - tolerance).clamp(min=0) * self.horizon).ceil()
        whole = level.clamp(max=self.horizon).to(x.dtype)
        return _straight(x, whole, x.new_full((), self.horizon))


@dataclass(frozen=True)
class KernelTimes:
    r"""Spike times under a decaying threshold: an input spikes when the threshold has fallen to its value.

    .. math:: t = \min\{t \in 0..T-1 : x \ge \theta e^{-t/\tau}\}, \quad e = T - t

    A value that stays below the threshold until the end sends no spike. The backward pass uses the slope
    :math:`\tau/x` of the logarithm; darker values use the slope at the last step.

    Args:
        horizon: number of steps `T`, at least 1; the `steps` of the neuron `t2fsnn`.
        tau: time constant of the threshold, in steps, positive.
        threshold: `theta`, in pixel value, positive.

    Shapes:
        `x [B, *F]` in [0, 1] -> whole earliness `[1, B, *F]` in 0..T

    Example:
        >>> KernelTimes(8, tau=4.0)(torch.tensor([[1.0, 0.5, 0.1]]))
        tensor([[[8., 5., 0.]]])

    Source:
        Park et al. 2020 (T2FSNN), eq. (6), (7).
    """

    timed: ClassVar[bool] = True
    horizon: int = 80
    tau: float = 20.0
    threshold: float = 1.0
    steps: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _steps(self, self.horizon)
        for name in ("tau", "threshold"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(
                    f"KernelTimes needs {name} above 0", f"{name}={getattr(self, name)}", "Try the default."
                )

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "1 B *F"]:
        check_range(x, type(self).__name__)
        last = self.threshold * math.exp(-(self.horizon - 1) / self.tau)
        value = x.detach().double()
        late = self.tau * (self.threshold / value.clamp(min=last)).log()
        whole = (self.horizon - (late - 1e-6).ceil()).clamp(1, self.horizon)
        whole = torch.where(value >= last * (1 - 1e-9), whole, 0.0).to(x.dtype)
        return _straight(x, whole, self.tau / x.detach().clamp(min=last))

"""Codes for what varies in time already: events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import check_steps
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Shape


class _Any(torch.autograd.Function):
    """Whether there was any event forward, the identity backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0]


@dataclass(frozen=True)
class Events:
    r"""Input that is spikes already: numbers of events per step, given on as they are or as 0 and 1.

    .. math:: s[t, b] = x[b, t] \quad\text{or, binary,}\quad s[t, b] = 1[x[b, t] > 0]

    The batch comes with examples first, as everything else that indexes examples expects it; the code puts
    time first. The gradient of counts is exact; binary spikes pass it straight through.

    Args:
        steps: number of time steps `T` of the data, at least 1.
        binary: whether several events in one step count as one spike.

    Shapes:
        `x [B, T, *F]`, whole numbers of at least 0 -> `[T, B, *F]`

    Raises:
        InputError: negative values, fractions or NaN, or another number of steps.

    Example:
        >>> x = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]])  # one example, two steps, two inputs
        >>> Events(2)(x)[:, 0].tolist(), Events(2, binary=True)(x)[:, 0].tolist()
        ([[0.0, 2.0], [1.0, 0.0]], [[0.0, 1.0], [1.0, 0.0]])

    Source:
        The customary event frames, e.g. Fang et al. 2021 (PLIF), section 4; both grids in Spike-Retiming
        Attacks (2026).
    """

    steps: int = 10
    binary: bool = False
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_steps(self, self.steps)

    @property
    def counts(self) -> bool:
        """Whether a value may stand for several spikes."""
        return not self.binary

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """What one example looks like to the model: time, then channels, height and width."""
        return (self.steps, *shape)

    def __call__(self, x: Float[Tensor, "B T *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        if x.ndim < 2 or x.shape[1] != self.steps:
            raise InputError(
                f"Events expects {self.steps} steps after the examples, [B, {self.steps}, ...]",
                f"shape {list(x.shape)}",
                "Give the code the number of steps that the data were binned to.",
            )
        values = x.detach()
        if not bool(((values >= 0) & (values == values.round()) & values.isfinite()).all()):
            raise InputError(
                "Events expects numbers of events, which are whole and at least 0",
                f"min {values.min().item():.4g}, max {values.max().item():.4g}, with fractions or NaN",
                "Attack events with a threat on spikes, not on pixels.",
            )
        x = x if x.is_floating_point() else x.float()
        spikes: Tensor = _Any.apply(x) if self.binary else x  # type: ignore[no-untyped-call]
        return spikes.transpose(0, 1)

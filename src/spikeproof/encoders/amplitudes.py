"""Encoders whose spikes have amplitudes: binary digits, growing bursts, and single spikes of a kernel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import BackwardRule, LevelCode, SpikeCode, StraightThrough, clock, tolerance
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["Burst", "DigitCode", "FewSpikes", "KernelCode", "Phase"]


@dataclass(frozen=True)
class DigitCode(LevelCode):
    """An encoder that sends the binary digits of a level with their weights, the most significant first."""

    backward: BackwardRule = StraightThrough()

    @property
    def digits(self) -> int:
        """Number of binary digits."""
        return self.steps

    @property
    def levels(self) -> int:
        return int(2**self.digits - 1)

    def place(self, like: Tensor) -> Tensor:
        """The digit that each step sends, counted from 1 for the most significant."""
        return clock(self.steps, like) % self.digits + 1

    def pattern(self, level: Tensor) -> Tensor:
        place = self.place(level)
        return (level >> (self.digits - place) & 1) * torch.pow(2.0, -place)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        digits = (spikes[: self.digits] != 0).long()
        return (digits << (self.digits - self.place(spikes[0])[: self.digits])).sum(0)

    def straight(self, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        return (grad * torch.pow(2.0, -self.place(grad[0])).to(grad.dtype)).sum(0)


@dataclass(frozen=True)
class Phase(DigitCode):
    r"""Phase coding: every period sends the binary digits of a value, in spikes of falling weight.

    .. math:: s[t] = 2^{-p}\,b_p(n), \quad p = 1 + (t \bmod P), \quad n = \lfloor x\,(2^P - 1) + 1/2 \rfloor

    with the digits `b_1` (most significant) to `b_P` of `n`. With a period of 8 the 256 grey levels are sent
    exactly. The published code of SpikingJelly refuses values above 1 - 2^-P, white among them; here all
    digits of white are ones.

    Args:
        steps: number of time steps `T`, at least the period.
        backward: `StraightThrough()`, `TimeShift()` or `SpikeGated()`.
        period: steps per oscillation `P`, which is also the number of digits, 1 to 16.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1/2, 1/4, ...}

    Example:
        >>> Phase(3, period=3)(torch.tensor([[0.0, 5 / 7, 1.0]]))[:, 0].T.tolist()
        [[0.0, 0.0, 0.0], [0.5, 0.0, 0.125], [0.5, 0.25, 0.125]]

    Source:
        Kim, Kim, Huh, Lee & Choi 2018, Neurocomputing 311, section 3.1.
    """

    period: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.period <= min(self.steps, 16):
            raise InputError(
                "Phase needs a period of 1 to 16 steps that is not longer than the number of time steps",
                f"period={self.period}, steps={self.steps}",
                "Try steps=8, period=8.",
            )

    @property
    def digits(self) -> int:
        return self.period

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Integer levels, rounded to the nearest."""
        return (x.double() * self.levels + 0.5).floor().long()

    def value(self, level: Tensor) -> Tensor:
        return level.double() / self.levels


@dataclass(frozen=True)
class FewSpikes(DigitCode):
    r"""Few-spikes coding: a neuron halves its threshold at every step and subtracts each spike that it sends.

    .. math:: z[t] = 1[v[t] \ge h[t]], \quad v[t+1] = v[t] - h[t] z[t], \quad s[t] = d[t] z[t], \quad v[0] = x

    with :math:`h[t] = d[t] = 2^{-(t+1)}`, the paper's closed form for rectified values, which lie in [0, 1]
    here. The spikes are therefore the first T binary digits of x, and white is sent as 1 - 2^-T.

    Args:
        steps: number of time steps `T`, at least 1 and at most 16; also the number of digits.
        backward: `StraightThrough()`, `TimeShift()` or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1/2, 1/4, ...}

    Example:
        >>> FewSpikes(3)(torch.tensor([[0.3, 0.8, 1.0]]))[:, 0].T.tolist()
        [[0.0, 0.25, 0.0], [0.5, 0.25, 0.0], [0.5, 0.25, 0.125]]

    Source:
        Stöckl & Maass 2021, Nature Machine Intelligence 3, equations 1-3 and the section on the ReLU.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps > 16:
            raise InputError("FewSpikes resolves at most 16 digits", f"steps={self.steps}", "Try 8.")

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Integer levels, `floor(x 2^T)`."""
        return (x.double() * float(2**self.steps)).floor().clamp(0, self.levels).long()

    def value(self, level: Tensor) -> Tensor:
        return level.double() / float(2**self.steps)


@dataclass(frozen=True)
class Burst(SpikeCode):
    r"""Burst coding: the value drives a neuron, whose spikes grow as long as it keeps firing.

    .. math:: v \leftarrow v + x, \quad z[t] = 1[v \ge \theta g[t]], \quad s[t] = \theta g[t] z[t], \quad
              v \leftarrow v - s[t], \quad g[t+1] = \beta g[t] \text{ if } z[t] \text{ else } 1

    with `g[0] = 1` and `v` at rest 0. The amplitudes sum to `x T`, less the potential that is left in the
    membrane, so every step passes its gradient on. Do not confuse this encoder with `EarlyBurst` and
    `LateBurst`, in which the length of a burst carries the value.

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `StraightThrough()` or `SpikeGated()`.
        beta: growth within a burst, at least 1; with 1 this is an integrate-and-fire neuron.
        threshold: amplitude `theta` of the first spike of a burst, in value, positive.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, theta, theta beta, ...}

    Example:
        >>> Burst(5, threshold=0.25)(torch.tensor([[0.5]])).flatten().tolist()
        [0.25, 0.5, 0.0, 0.25, 0.5]

    Source:
        Park, Kim, Choe & Yoon 2019, DAC, equations 6-9 (theta = 0.125, beta = 2).
    """

    beta: float = 2.0
    threshold: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (1 <= self.beta <= 16 and 0 < self.threshold <= 1):
            raise InputError(
                "Burst needs beta in [1, 16] and a threshold in (0, 1]",
                f"beta={self.beta}, threshold={self.threshold}",
                "Try beta=2, threshold=0.125.",
            )

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        drive, slack = x.detach().double(), tolerance(x) * self.steps  # rounding of T additions of x
        membrane, size = torch.zeros_like(drive), torch.full_like(drive, self.threshold)
        out = []
        for _ in range(self.steps):
            membrane = membrane + drive
            fired = membrane + slack >= size
            out.append(size * fired)
            membrane = membrane - out[-1]
            size = torch.where(fired, self.beta * size, self.threshold)
        return torch.stack(out).to(x.dtype)

    def decode(self, spikes: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        """The mean amplitude: x less the potential that is left in the membrane, divided by T."""
        return spikes.mean(0)


@dataclass(frozen=True)
class KernelCode(LevelCode):
    r"""Kernel coding: one spike at the step at which a decaying threshold has fallen to the value.

    .. math:: t = \min\{t \in 0..T-2 : x \ge e^{-t/\tau}\}, \quad s[t] = e^{-t/\tau}

    The amplitude is the value that the spike stands for, so the spikes sum to x with a relative error below
    :math:`1 - e^{-1/\tau}`. A value below the last threshold sends no spike, and the last step never has one,
    for which reason the neurons of a converted T2FSNN can tell the bias of a layer from its spikes.

    Args:
        steps: number of time steps `T`, at least 2.
        backward: `TimeShift()`, `StraightThrough()` or `SpikeGated()`.
        tau: time constant of the threshold, in steps, positive.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1, e^(-1/tau), ...}

    Example:
        >>> KernelCode(4, tau=2.0)(torch.tensor([[1.0, 0.5, 0.1]])).sum(1).T
        tensor([[1.0000, 0.0000, 0.0000, 0.0000],
                [0.0000, 0.0000, 0.3679, 0.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])

    Source:
        Park et al. 2020 (T2FSNN), for the input layer.
    """

    least: ClassVar[int] = 2

    steps: int = 80
    tau: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.tau < math.inf:
            raise InputError("KernelCode needs a positive tau", f"tau={self.tau}", "Try 20.0.")

    @property
    def levels(self) -> int:
        return self.steps - 1

    def level(self, x: Float[Tensor, "B *F"]) -> Tensor:
        """Steps from the spike to the end of the phase; 0 for no spike."""
        late = -self.tau * x.double().log() - self.tau * tolerance(x)
        return (self.levels - late.ceil().clamp(0, self.levels)).long()

    def kernel(self, level: Tensor) -> Tensor:
        """The value of the kernel at the spike of a level, also where there is none."""
        return torch.exp((level.double() - self.levels) / self.tau)

    def pattern(self, level: Tensor) -> Tensor:
        fires = (clock(self.steps, level) == self.levels - level) & (level > 0)
        return fires * self.kernel(level)

    def read(self, spikes: Float[Tensor, "T B *F"]) -> Tensor:
        fired = spikes != 0
        return torch.where(fired.any(0), self.levels - fired.int().argmax(0), 0)

    def value(self, level: Tensor) -> Tensor:
        return torch.where(level > 0, self.kernel(level), 0.0)

    def straight(self, grad: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"]:
        weights = torch.exp(-clock(self.steps, grad[0]).double() / self.tau)
        return (grad * weights.to(grad.dtype)).sum(0)

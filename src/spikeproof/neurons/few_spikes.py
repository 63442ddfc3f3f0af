"""Few-spikes neurons: spikes are the digits of a number, and each time step has its own weight."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.parts.constants import positive
from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron
from spikeproof.surrogates import Surrogate

__all__ = ["FS", "FSState"]


class FSState(NamedTuple):
    """The remaining potential, and the thresholds, falls and weights of the remaining steps."""

    v: Float[Tensor, "B *F"]
    thresholds: Float[Tensor, "T"]
    falls: Float[Tensor, "T"]
    weights: Float[Tensor, "T"]


@dataclass(frozen=True)
class FS(Neuron):
    r"""The few-spikes neuron, whose spikes are the binary digits of its rectified summed input.

    .. math:: v[1] = \sum_t I[t], \quad z[t] = 1[v[t] \ge T[t]], \quad v[t+1] = v[t] - h[t]\,z[t]

    where a spike at step t has the weight `d[t]`. Initially `T[t] = h[t] = d[t] = scale 2^{-t}` for t = 1..K,
    and the weighted spikes sum to the input, rectified, clipped to [0, scale) and rounded down to a multiple
    of `scale 2^{-K}`. A neuron receives its whole input before its first spike, so layers are computed one
    after the other; the encoder `few-spikes` sends spikes of the same kind. The bias of a layer is added once
    per step.

    Args:
        steps: number of time steps `K`, the same as in the encoder.
        scale: the smallest number that is too large to be sent, in units of potential, positive.
        learn: whether each layer learns T, h and d, starting from these values.

    Raises:
        InputError: the current has another number of steps.

    Shapes:
        learns `thresholds`, `falls`, `weights`, each `[steps]`, or nothing; current `[B, *F]` -> weighted
        spikes `[B, *F]`

    Example:
        >>> from spikeproof.neurons import Spiking
        >>> Spiking(FS(steps=3))(torch.tensor([[0.7], [0.0], [0.0]])).flatten().tolist()
        [0.5, 0.0, 0.125]

    Source:
        Stoeckl & Maass 2021, eq. (1) to (3); the constants are those for ReLU.
    """

    binary: ClassVar[bool] = False
    looks_ahead: ClassVar[bool] = True

    steps: int = 8
    scale: float = 1.0
    learn: bool = False

    def __post_init__(self) -> None:
        positive(self, steps=self.steps, scale=self.scale)

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        names = ("thresholds", "falls", "weights") if self.learn else ()
        return {name: self._digits() for name in names}

    def _digits(self) -> Float[Tensor, "T"]:
        return torch.tensor([math.ldexp(self.scale, -t) for t in range(1, self.steps + 1)])

    def rest(self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING) -> FSState:
        if len(current) != self.steps:
            raise InputError(
                f"FS needs a current of {self.steps} time steps",
                f"{len(current)} time steps",
                "Give it as many steps as the encoder has.",
            )
        names = ("thresholds", "falls", "weights")
        rows = [(learned[name] if learned else self._digits()).to(current) for name in names]
        return FSState(current.sum(0), *rows)

    def step(
        self, current: Float[Tensor, "B *F"], state: FSState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], FSState]:
        z = spike(state.v - state.thresholds[0])
        rest = (state.thresholds[1:], state.falls[1:], state.weights[1:])
        return state.weights[0] * z, FSState(state.v - state.falls[0] * z, *rest)

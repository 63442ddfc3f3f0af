"""Few-spikes neurons: numbers written in spikes, each step with a weight of its own."""

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
    """What is still to be said, and thresholds, falls and weights of the steps that are still to come."""

    v: Float[Tensor, "B *F"]
    thresholds: Float[Tensor, "T"]
    falls: Float[Tensor, "T"]
    weights: Float[Tensor, "T"]


@dataclass(frozen=True)
class FS(Neuron):
    r"""The few-spikes neuron: it says its whole input in the binary digits of a rectified number.

    .. math:: v[1] = \sum_t I[t], \quad z[t] = 1[v[t] \ge T[t]], \quad v[t+1] = v[t] - h[t]\,z[t]

    and a spike at step t weighs `d[t]`. At first `T[t] = h[t] = d[t] = scale 2^{-t}`, t = 1..K: the weighted
    spikes add up to the input, rectified, cut to [0, scale) and rounded down to a multiple of
    `scale 2^{-K}`. The input is complete before the first spike, so layers speak one after the other; the
    code `few-spikes` speaks the same language. The bias of a layer enters once per step.

    Args:
        steps: number of steps `K`, the same as those of the code.
        scale: the number that is too large to be said, in units of potential, positive.
        learn: whether each layer learns T, h and d, from these onwards.

    Raises:
        InputError: a current with another number of steps.

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
                f"FS speaks in {self.steps} time steps",
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

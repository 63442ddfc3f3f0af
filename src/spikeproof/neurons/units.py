"""Units of the ANN twins: real numbers in place of spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.neurons.steps import NOTHING, Learned, Neuron, State
from spikeproof.surrogates import Surrogate

__all__ = ["Analogue", "ReLU", "Softplus"]


class Analogue(Neuron):
    """A unit of an artificial network: no state, no spikes, one real number per step."""

    spiking: ClassVar[bool] = False
    binary: ClassVar[bool] = False

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """What the unit answers to a current."""
        raise NotImplementedError(f"{type(self).__name__} defines no activation")

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        return self.activation(current), state

    def integrate(
        self, current: Float[Tensor, "T B *F"], learned: Learned = NOTHING
    ) -> Float[Tensor, "T B *F"]:
        return current


@dataclass(frozen=True)
class ReLU(Analogue):
    r"""The rectified linear unit of the ANN twin: no state, no spikes, one real number per step.

    .. math:: a = \max(0, I)

    Shapes:
        current `[B, *F]` -> activation `[B, *F]`

    Example:
        >>> ReLU().activation(torch.tensor([-1.0, 2.0])).tolist()
        [0.0, 2.0]

    Source:
        Fukushima 1975.
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return current.relu()


@dataclass(frozen=True)
class Softplus(Analogue):
    r"""The softplus unit, a smooth ReLU for an ANN twin whose gradient is nowhere zero.

    .. math:: a = \ln(1 + e^I)

    Computed without overflow: above a current of 20 the answer is the current itself, to rounding.

    Source:
        Dugas et al. 2001; Ding et al. 2023 (`forward_softplus`).
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return torch.nn.functional.softplus(current)

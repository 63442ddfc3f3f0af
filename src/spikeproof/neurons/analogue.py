"""Units of the ANN twins: rectifiers and gated cells, with real numbers in place of spikes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.neurons.parts.neuron import NOTHING, Learned, Neuron, State
from spikeproof.surrogates import Surrogate

__all__ = [
    "Analogue",
    "Gated",
    "GatedRecurrent",
    "GatedState",
    "LinearUnit",
    "LongShortTerm",
    "ReLU",
    "Softplus",
]


class Analogue(Neuron):
    """A unit of an artificial neural network, without state or spikes: one real number per step."""

    spiking: ClassVar[bool] = False
    binary: ClassVar[bool] = False

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The activation of the unit for a current."""
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
    r"""The rectified linear unit of the ANN twin, without state or spikes: one real number per step.

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

    It is computed without overflow: above a current of 20 the activation equals the current, up to rounding.

    Source:
        Dugas et al. 2001; Ding et al. 2023 (`forward_softplus`).
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return torch.nn.functional.softplus(current)


@dataclass(frozen=True)
class LinearUnit(Analogue):
    r"""The linear unit, whose activation is its current: an output layer that is read by its current.

    .. math:: a = I

    Example:
        >>> LinearUnit().activation(torch.tensor([-1.0, 2.0])).tolist()
        [-1.0, 2.0]

    Source:
        Widrow & Hoff 1960 (Adaline).
    """

    def activation(self, current: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        return current


class GatedState(NamedTuple):
    """Output, memory cell, and the recurrent weights and biases."""

    v: Float[Tensor, "B N"]
    cell: Float[Tensor, "B N"]
    weight: Float[Tensor, "G N"]
    bias: Float[Tensor, "G"]


@dataclass(frozen=True)
class Gated(Neuron):
    """Cells whose current holds the inputs of all their gates, one after the other: `[B, gates N]`.

    The initial recurrent weights are orthogonal, gate by gate.
    """

    spiking: ClassVar[bool] = False
    binary: ClassVar[bool] = False
    gates: ClassVar[int] = 1
    keeps: ClassVar[int] = 1
    """Index of the gate that keeps the memory; this gate starts open."""
    remember = 1.0
    """Initial bias of this gate."""

    def parameters(self, features: int | None = None) -> dict[str, Tensor]:
        assert features is not None
        blocks = [nn.init.orthogonal_(torch.empty(features, features)) for _ in range(self.gates)]
        biases = [torch.full((features,), self.remember * (gate == self.keeps)) for gate in range(self.gates)]
        return {"recurrent": torch.cat(blocks), "recurrent_bias": torch.cat(biases)}

    def rest(self, current: Float[Tensor, "T B G"], learned: Learned = NOTHING) -> GatedState:
        zeros = current.new_zeros(current.shape[1], current.shape[2] // self.gates)
        weight, bias = (learned[name].to(current) for name in ("recurrent", "recurrent_bias"))
        return GatedState(zeros, zeros, weight, bias)


@dataclass(frozen=True)
class GatedRecurrent(Gated):
    r"""The gated recurrent unit.

    .. math:: r = \sigma(I_r + R_r h + b_r), \quad u = \sigma(I_u + R_u h + b_u), \quad
              n = \tanh(I_n + r\,(R_n h + b_n)), \quad h \leftarrow (1-u)\,n + u\,h

    The update gate `u` starts open, with a bias of `remember`; with a bias of 0, half of the memory would be
    lost at every step.

    Args:
        remember: initial bias of the update gate.

    Source:
        Cho et al. 2014, with the reset gate after the product, as in cuDNN and PyTorch; the open gate after
        Gers, Schmidhuber & Cummins 2000.
    """

    gates: ClassVar[int] = 3
    remember: float = 1.0

    def step(
        self, current: Float[Tensor, "B G"], state: GatedState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B N"], GatedState]:
        (i_r, i_u, i_n), (h_r, h_u, h_n) = (
            x.chunk(3, dim=1) for x in (current, F.linear(state.v, state.weight, state.bias))
        )
        update = torch.sigmoid(i_u + h_u)
        new = torch.tanh(i_n + torch.sigmoid(i_r + h_r) * h_n)
        h = new + update * (state.v - new)
        return h, state._replace(v=h)


@dataclass(frozen=True)
class LongShortTerm(Gated):
    r"""The long short-term memory cell, with forget gate.

    .. math:: i, f, o = \sigma(I + R h + b), \quad g = \tanh(I_g + R_g h + b_g), \quad
              c \leftarrow f c + i g, \quad h \leftarrow o \tanh c

    The forget gate starts open, with a bias of 1.

    Source:
        Hochreiter & Schmidhuber 1997; Gers, Schmidhuber & Cummins 2000 for the forget gate.
    """

    gates: ClassVar[int] = 4

    def step(
        self, current: Float[Tensor, "B G"], state: GatedState, spike: Surrogate
    ) -> tuple[Float[Tensor, "B N"], GatedState]:
        total = current + F.linear(state.v, state.weight, state.bias)
        i, f, g, o = total.chunk(4, dim=1)
        cell = torch.sigmoid(f) * state.cell + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(cell)
        return h, state._replace(v=h, cell=cell)

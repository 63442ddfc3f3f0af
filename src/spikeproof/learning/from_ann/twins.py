"""The ANN of a conversion, and what it sees in place of a code over time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from spikeproof.decoders import MeanPotential
from spikeproof.encoders import Direct
from spikeproof.keys import Key
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import ReLU
from spikeproof.protocols import Encoder, Shape, encoded_shape, example_shape, takes_events

__all__ = ["Averaged", "analogue"]


@dataclass(frozen=True)
class Averaged:
    r"""The mean over time of another encoder's output, in a single step: what the ANN of this code sees.

    .. math:: s[0] = \frac{1}{T} \sum_t s_{code}[t]

    Args:
        code: the encoder; the gradient is that of its own backward rule.

    Shapes:
        `x [B, *F]` -> `[1, B, *G]`, in the shape of the other encoder

    Example:
        >>> import torch
        >>> from spikeproof.encoders import Fused, Latency
        >>> code = Fused((Direct(4), Latency(4)))
        >>> Averaged(code)(torch.tensor([[[[0.5]], [[0.0]]]])).flatten().tolist()
        [0.5, 0.0, 0.25, 0.0]
    """

    code: Encoder
    steps: ClassVar[int] = 1
    spiking: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        return self.code.stochastic

    @property
    def events(self) -> bool:
        """Whether examples are whole events."""
        return takes_events(self.code)

    def output_shape(self, shape: Shape) -> Shape:
        """As the other encoder declares it."""
        return encoded_shape(self.code, shape)

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """As the other encoder declares it."""
        return example_shape(self.code, shape)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "1 B *G"]:
        return self.code(x, key).mean(0, keepdim=True)


def analogue(spec: ModelSpec) -> ModelSpec:
    """The ANN twin: the same layers, on the image itself or on the mean over time of a code of another shape.

    Example:
        >>> from spikeproof import IF
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.surrogates import ATan
        >>> analogue(ModelSpec(Direct(8), MLP((4,)), IF(), ATan(), Count(), (1, 8, 8), 10)).neuron
        ReLU()
    """
    shape = spec.input_shape
    plain = encoded_shape(spec.encoder, shape) == shape and example_shape(spec.encoder, shape) == shape
    encoder: Encoder = Direct(1) if plain else Averaged(spec.encoder)
    return replace(spec, encoder=encoder, neuron=ReLU(), decoder=MeanPotential())

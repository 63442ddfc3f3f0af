"""Codes made of other codes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import BackwardRule, SpikeCode
from spikeproof.encoders.times import EarlyBurst
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, Shape, encoded_shape, example_shape


@dataclass(frozen=True)
class Reversed:
    """Another code played backwards in time: same spikes per input, opposite order.

    .. math:: s[t] = s_{code}[T-1-t]

    Args:
        code: the code to reverse; its backward rule is reversed with it.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]`, as the code reversed

    Example:
        >>> import torch
        >>> Reversed(EarlyBurst(4))(torch.tensor([[0.5]])).int().flatten().tolist()
        [0, 0, 1, 1]

    Source:
        Ours: the rate-matched control for `EarlyBurst` against `LateBurst`.
    """

    code: Encoder = EarlyBurst()

    @property
    def steps(self) -> int:
        return self.code.steps

    @property
    def stochastic(self) -> bool:
        return self.code.stochastic

    @property
    def spiking(self) -> bool:
        return self.code.spiking

    @property
    def counts(self) -> bool:
        """Whether a value may stand for several spikes."""
        return bool(getattr(self.code, "counts", False))

    def output_shape(self, shape: Shape) -> Shape:
        """As the code's."""
        return encoded_shape(self.code, shape)

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """As the code's."""
        return example_shape(self.code, shape)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        return self.code(x, key).flip(0)


def with_backward(encoder: Encoder, rule: BackwardRule) -> Encoder:
    """The same code with another backward rule; a code whose gradient is exact stays as it is.

    Raises:
        InputError: the rule does not fit the code.

    Example:
        >>> from spikeproof.encoders import Latency, SpikeGated
        >>> with_backward(Latency(4), SpikeGated())
        Latency(steps=4, backward=SpikeGated())
    """
    if isinstance(encoder, Reversed):
        return replace(encoder, code=with_backward(encoder.code, rule))
    return replace(encoder, backward=rule) if isinstance(encoder, SpikeCode) else encoder

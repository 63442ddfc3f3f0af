"""Encoders made of other encoders."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import BackwardRule, SpikeCode
from spikeproof.encoders.currents import Direct
from spikeproof.encoders.times import EarlyBurst, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, Shape, check_range, encoded_shape, example_shape

__all__ = ["Fused", "Population", "Reversed", "with_backward"]


@dataclass(frozen=True)
class Reversed:
    """Another encoder reversed in time: each input sends the same number of spikes in reverse order.

    .. math:: s[t] = s_{code}[T-1-t]

    Args:
        code: the encoder to reverse; its backward rule is reversed with it.

    Shapes:
        `x [B, *F]` in [0, 1] -> `[T, B, *F]`, in the shape of the reversed encoder

    Example:
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
        """As the reversed encoder declares it."""
        return encoded_shape(self.code, shape)

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """As the reversed encoder declares it."""
        return example_shape(self.code, shape)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        return self.code(x, key).flip(0)


@dataclass(frozen=True)
class Population:
    r"""Population coding: each value drives neurons with Gaussian tuning curves, whose responses are encoded.

    .. math:: r_i = \exp\left(-\frac{(x-\mu_i)^2}{2\sigma^2}\right), \quad
              \mu_i = \frac{2i-3}{2(M-2)}, \quad \sigma = \frac{1}{\beta(M-2)}, \quad i = 1..M

    Responses below `cutoff` are set to zero. The gradient is the encoder's gradient times the slope of the
    tuning curve, also for responses that were cut off.

    Args:
        code: the encoder of the responses; with latency coding, the best fitting neuron spikes first.
        neurons: neurons per input `M`, at least 3.
        beta: sharpness of tuning, positive.
        cutoff: responses below this value are silent, in [0, 1).

    Shapes:
        `x [B, C, *F]` in [0, 1] -> `[T, B, M C, *F]`, one block of channels per neuron

    Example:
        >>> code = Population(Latency(4), neurons=3)
        >>> code.centres(), code(torch.tensor([[0.5]])).int()[:, 0].T.tolist()
        ([-0.5, 0.5, 1.5], [[0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 1, 0]])

    Source:
        Bohte, Kok & La Poutré 2002, section 4.1 (beta = 1.5, answers below 0.1 do not fire).
    """

    code: Encoder = Latency()
    neurons: int = 8
    beta: float = 1.5
    cutoff: float = 0.1

    def __post_init__(self) -> None:
        _for_images(self, self.code)
        if not (self.neurons >= 3 and self.beta > 0 and 0 <= self.cutoff < 1):
            raise InputError(
                "Population needs 3 neurons or more, a positive beta and a cutoff in [0, 1)",
                f"neurons={self.neurons}, beta={self.beta}, cutoff={self.cutoff}",
                "Try neurons=8, beta=1.5, cutoff=0.1.",
            )

    @property
    def steps(self) -> int:
        return self.code.steps

    @property
    def stochastic(self) -> bool:
        return self.code.stochastic

    @property
    def spiking(self) -> bool:
        return self.code.spiking

    def output_shape(self, shape: Shape) -> Shape:
        """The shape that the inner encoder gives to one block of channels per neuron."""
        return encoded_shape(self.code, (self.neurons * shape[0], *shape[1:]))

    def centres(self) -> list[float]:
        """The value to which each neuron responds most strongly."""
        return [(2 * i - 3) / (2 * (self.neurons - 2)) for i in range(1, self.neurons + 1)]

    def answers(self, x: Float[Tensor, "B C *F"]) -> Float[Tensor, "B D *F"]:
        """The responses of the neurons, in [0, 1]."""
        check_range(x, type(self).__name__)
        sharpness = self.beta * (self.neurons - 2)
        tuned = torch.cat([(-(((x - c) * sharpness) ** 2) / 2).exp() for c in self.centres()], 1)
        return tuned - torch.where(tuned < self.cutoff, tuned, 0).detach()

    def __call__(self, x: Float[Tensor, "B C *F"], key: Key | None = None) -> Float[Tensor, "T B D *F"]:
        return self.code(self.answers(x), key)


@dataclass(frozen=True)
class Fused:
    r"""Fused coding: several encoders encode the same image, each into its own block of channels.

    .. math:: s[t] = (s_1[t], s_2[t], \dots)

    Each encoder keeps its own backward rule and its own random draws; the published code has no gradient
    here. The fused encoder counts as spiking if all of its encoders do.

    Args:
        codes: the encoders, at least one, all with the same number of steps.

    Shapes:
        `x [B, C, *F]` in [0, 1] -> `[T, B, D, *F]`, the channels of all encoders one after the other

    Example:
        >>> Fused((Latency(4), Direct(4)))(torch.tensor([[0.5]]))[:, 0].T.tolist()
        [[0.0, 0.0, 1.0, 0.0], [0.5, 0.5, 0.5, 0.5]]

    Source:
        The public code of Ding et al. 2023 (`mix_encode`), with a gradient.
    """

    codes: tuple[Encoder, ...] = (Direct(), Latency())

    def __post_init__(self) -> None:
        for code in self.codes:
            _for_images(self, code)
        if len({code.steps for code in self.codes}) != 1:
            raise InputError(
                "Fused needs encoders with the same number of steps",
                f"steps {[code.steps for code in self.codes]}",
                "Give every encoder the same steps.",
            )

    @property
    def steps(self) -> int:
        return self.codes[0].steps

    @property
    def stochastic(self) -> bool:
        return any(code.stochastic for code in self.codes)

    @property
    def spiking(self) -> bool:
        return all(code.spiking for code in self.codes)

    def output_shape(self, shape: Shape) -> Shape:
        """The channels of all encoders together."""
        return (sum(encoded_shape(code, shape)[0] for code in self.codes), *shape[1:])

    def __call__(self, x: Float[Tensor, "B C *F"], key: Key | None = None) -> Float[Tensor, "T B D *F"]:
        keys = [None if key is None else key.fold("code", i) for i in range(len(self.codes))]
        return torch.cat([code(x, key) for code, key in zip(self.codes, keys, strict=True)], 2)


def _for_images(whole: object, code: Encoder) -> None:
    if hasattr(code, "example_shape") and example_shape(code, (1, 1, 1)) != (1, 1, 1):
        raise InputError(
            f"{type(whole).__name__} is made of encoders of images",
            repr(code),
            "Use, for example, Latency().",
        )


def with_backward(encoder: Encoder, rule: BackwardRule) -> Encoder:
    """The same encoder with another backward rule; an encoder with an exact gradient stays as it is.

    Raises:
        InputError: the backward rule does not fit the encoder, or one of the encoders inside it.

    Example:
        >>> from spikeproof.encoders import SpikeGated
        >>> with_backward(Latency(4), SpikeGated())
        Latency(steps=4, backward=SpikeGated())
    """
    if isinstance(encoder, (Reversed, Population)):
        return replace(encoder, code=with_backward(encoder.code, rule))
    if isinstance(encoder, Fused):
        return replace(encoder, codes=tuple(with_backward(code, rule) for code in encoder.codes))
    return replace(encoder, backward=rule) if isinstance(encoder, SpikeCode) else encoder

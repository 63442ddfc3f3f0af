"""Decoders that combine scores: potentials that break ties, groups of neurons that vote, stacked decoders."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.decoders.readouts import Count, FirstSpike
from spikeproof.decoders.wrapping import Wrapping, activity, refuse
from spikeproof.errors import InputError
from spikeproof.protocols import Decoder, output_width, reads_current

__all__ = ["MembraneTies", "Stacked", "Voting"]


@dataclass(frozen=True)
class MembraneTies(Wrapping):
    r"""Ties are broken by membrane potential: among equal counts or first spikes the higher potential wins.

    .. math:: y_k = y'_k + \frac{1}{4} \frac{v_k}{1 + |v_k|}

    where `y'` is the score of the inner decoder, a whole number, and `v_k` is the membrane potential before
    the reset. With `first-spike` it is read at the neuron's first spike, or at the last step if the neuron
    stays silent; with `count` it is read at the last step. The added term lies between -1/4 and 1/4, so it
    neither reverses the order of different scores nor makes them equal by rounding. Silent outputs are
    decided by potential as well, and are still reported as silent. Potentials that are equal, or too close
    for single precision, remain a tie.

    Weight of a step: that of the inner decoder. Among ties the potential of a single step decides, in which a
    current at step s is left with a share of at most `d^(t - s)` at step t.

    Args:
        decoder: `count` or `first-spike`.

    Shapes:
        outputs `[T, B, 2K]`, spikes and then potentials before the reset -> logits `[B, K]`

    Raises:
        InputError: the inner decoder's scores are not whole numbers.

    Example:
        >>> outputs = torch.tensor([[[1.0, 1.0, 1.2, 1.1]], [[0.0, 0.0, 0.0, 1.0]]])
        >>> MembraneTies(Count())(outputs).tolist(), MembraneTies(FirstSpike())(outputs).argmax(-1).tolist()
        ([[1.0, 1.125]], [0])

    Source:
        The customary remedy for ties of spike counts and first spikes; published code of first-spike decoding
        takes the lowest class among equals instead, and class 0 for silence.
    """

    def __post_init__(self) -> None:
        if type(self.decoder) not in (Count, FirstSpike):
            raise InputError(
                "MembraneTies needs the decoder count or first-spike", repr(self.decoder), "Use one of these."
            )

    @property
    def reads_potential(self) -> bool:
        """Whether outputs hold potentials beside spikes."""
        return True

    def activity(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
        """The spikes."""
        return outputs.chunk(2, -1)[0]

    def __call__(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "B K"]:
        spikes, potential = outputs.chunk(2, -1)
        step = torch.full(spikes.shape[1:], len(spikes) - 1, dtype=torch.int64, device=spikes.device)
        if isinstance(self.decoder, FirstSpike):
            fired = spikes != 0
            step = torch.where(fired.any(0), fired.to(torch.uint8).argmax(0), step)
        v = potential.gather(0, step[None])[0]
        scores: Tensor = self.decoder(spikes)
        return scores + 0.25 * v / (1 + v.abs())


@dataclass(frozen=True)
class Voting(Wrapping):
    r"""Population voting: the score of a class is the mean score of its several output neurons.

    .. math:: y_k = \frac{1}{n} \sum_{i=1}^{n} y'_{k,i}

    where `y'` are the scores of the inner decoder, as if every neuron were a class. The neurons of a class
    are adjacent.

    Weight of a step: that of the inner decoder, divided by n for one neuron.

    Args:
        decoder: the decoder of each neuron.
        neurons: output neurons per class, at least 1.

    Shapes:
        outputs `[T, B, K * neurons]` -> logits `[B, K]`

    Raises:
        InputError: there are no neurons, or the inner decoder exits early (an early exit can be put around
            the vote) or reads potentials beside spikes.

    Example:
        >>> Voting(Count(), 2)(torch.tensor([[[1.0, 0.0, 1.0, 1.0]]])).tolist()
        [[0.5, 1.0]]

    Source:
        Diehl & Cook 2015 (classes answered by groups of neurons); Fang et al. 2021 (voting layer).
    """

    neurons: int = 10

    def __post_init__(self) -> None:
        refuse(self, self.decoder, potential=True)
        if self.neurons < 1:
            raise InputError("Voting needs at least one neuron per class", f"{self.neurons}", "Try 10.")

    def width(self, classes: int) -> int:
        """Number of output neurons."""
        return output_width(self.decoder, classes * self.neurons)

    def activity(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
        """Mean over the neurons of each class."""
        return _means(activity(self.decoder, outputs), self.neurons)

    def __call__(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "B K"]:
        return _means(self.decoder(outputs), self.neurons)


def _means(x: Float[Tensor, "... N"], members: int) -> Float[Tensor, "... K"]:
    return x.reshape(*x.shape[:-1], -1, members).mean(-1)


@dataclass(frozen=True)
class Stacked:
    r"""Several decoders read the same outputs, and their scores are added with weights.

    .. math:: y_k = \sum_i w_i\, y^{(i)}_k

    Weight of a step: the sum of the weights that it has in the decoders, each times `w_i`.

    Args:
        decoders: the decoders, at least one; all of them read spikes, or all read potentials, or all read
            currents, and they need equally many output neurons.
        weights: one finite weight per decoder; if empty, each weight is 1.

    Shapes:
        outputs `[T, B, N]` -> logits `[B, K]`

    Raises:
        InputError: there are no decoders, the numbers of weights and decoders differ, or the decoders do not
            fit together.

    Example:
        >>> spikes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
        >>> Stacked((Count(), FirstSpike()), (1.0, 0.5))(spikes).tolist()
        [[1.0, 1.5]]

    Source:
        Wolpert 1992 (stacked generalisation), with given weights at the second level.
    """

    decoders: tuple[Decoder, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.decoders:
            raise InputError("Stacked needs at least one decoder", "none", "Try count and first-spike.")
        for decoder in self.decoders:
            refuse(self, decoder, potential=True)
        read = {(each.reads_spikes, reads_current(each), output_width(each, 60)) for each in self.decoders}
        if len(read) > 1:
            raise InputError(
                "Stacked needs decoders that read the same output neurons",
                ", ".join(map(repr, self.decoders)),
                "Stack decoders of spikes only, of potentials only or of currents only, with equally many "
                "neurons per class.",
            )
        if self.weights and len(self.weights) != len(self.decoders):
            raise InputError(
                f"Stacked needs {len(self.decoders)} weights", f"{self.weights}", "Give one per decoder."
            )
        if not all(map(math.isfinite, self.weights)):
            raise InputError("Stacked needs finite weights", f"{self.weights}", "Try 1.0.")

    @property
    def reads_spikes(self) -> bool:
        """Whether output neurons fire."""
        return self.decoders[0].reads_spikes

    @property
    def reads_current(self) -> bool:
        """Whether outputs are the current into the output layer."""
        return reads_current(self.decoders[0])

    def width(self, classes: int) -> int:
        """Number of output neurons."""
        return output_width(self.decoders[0], classes)

    def check(self, steps: int) -> None:
        """Refuse whatever one of the decoders refuses."""
        for decoder in self.decoders:
            inner = getattr(decoder, "check", None)
            if inner is not None:
                inner(steps)

    def activity(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "T B K"]:
        """One value per class and step."""
        return activity(self.decoders[0], outputs)

    def __call__(self, outputs: Float[Tensor, "T B N"]) -> Float[Tensor, "B K"]:
        weights = self.weights or (1.0,) * len(self.decoders)
        logits: Tensor = sum(
            (weight * decoder(outputs) for weight, decoder in zip(weights, self.decoders, strict=True)),
            outputs.new_zeros(()),
        )
        return logits

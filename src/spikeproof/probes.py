"""Timing probes: changes of spike trains that keep some of their information and destroy the rest.

A timing probe acts between the encoder and the network. The accuracy that a trained model loses under it
shows on what the model's decisions depend: shuffling spikes in time keeps every spike count, so the accuracy
that is lost then depended on timing. Timing probes are not attacks: they do not search for the worst case,
and have no budget on pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, Shape, encoded_shape, example_shape

__all__ = ["Deletion", "Jitter", "Probe", "Probed", "Reversal", "Shuffle", "SynchronousShuffle"]


class Probe:
    """A timing probe: a change of spike trains before they reach the network."""

    random: ClassVar[bool] = True

    def __call__(
        self, spikes: Float[Tensor, "T B *F"], key: Key | None = None, *, counts: bool = False
    ) -> Float[Tensor, "T B *F"]:
        """The changed spike trains.

        Args:
            spikes: the output of the encoder, amplitudes included.
            key: decides the draws.
            counts: whether a value stands for that many spikes.

        Raises:
            InputError: the timing probe is random and there is no key.
        """
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


class StepPermutation(Probe):
    """A timing probe that permutes the time steps of each input, and neither adds nor removes spikes."""

    def order(self, spikes: Float[Tensor, "T B *F"], key: Key | None) -> Int64[Tensor, "T B *F"]:
        """For every step and input, the step whose spikes it gets."""
        raise NotImplementedError(f"{type(self).__name__} has no order")

    def __call__(
        self, spikes: Float[Tensor, "T B *F"], key: Key | None = None, *, counts: bool = False
    ) -> Float[Tensor, "T B *F"]:
        order = self.order(spikes, key)
        constant = spikes.shape[0] > 1 and spikes.stride(0) == 0  # the same at every step, whatever the order
        return spikes if constant else spikes.gather(0, order.expand_as(spikes))


@dataclass(frozen=True)
class Jitter(StepPermutation):
    r"""Every spike moves at random by at most a few steps, and each input keeps its spike count.

    .. math:: s'[t] = s[\pi(t)], \quad |\pi(t) - t| \le steps

    For each input, time is divided into windows of `steps + 1` steps with a random offset, and the steps
    within a window are put into a random order. Two spikes of an input therefore never fall on the same step,
    as they could if each moved freely.

    Args:
        steps: the furthest that a spike moves, in time steps, at least 1.

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]`

    Example:
        >>> spikes = torch.zeros(8, 1, 1000); spikes[4] = 1
        >>> Jitter(1)(spikes, Key.of(0)).mean(2).flatten()[[2, 6]].tolist()
        [0.0, 0.0]

    Source:
        Date, Bienenstock & Geman 1998; Amarasingham, Harrison, Hatsopoulos & Geman 2012 (interval jitter).
    """

    steps: int = 1

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise InputError("Jitter moves spikes by at least 1 step", f"steps={self.steps}", "Try steps=1.")

    def order(self, spikes: Float[Tensor, "T B *F"], key: Key | None) -> Int64[Tensor, "T B *F"]:
        time, width = len(spikes), self.steps + 1
        draws = _uniform(self, key, (time + 1, *spikes.shape[1:]), spikes)
        clock = torch.arange(time, device=spikes.device).view(-1, *[1] * (spikes.ndim - 1))
        window = (clock + (draws[:1] * width).floor()) // width
        return (window + draws[1:]).argsort(stable=True, dim=0)


@dataclass(frozen=True)
class Shuffle(StepPermutation):
    r"""The spikes of every input are shuffled in time independently, so that only spike counts are kept.

    .. math:: s'_i[t] = s_i[\pi_i(t)], \quad \pi_i \text{ a random order of all steps}

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]`

    Example:
        >>> spikes = torch.zeros(4, 1, 3); spikes[0] = 1
        >>> Shuffle()(spikes, Key.of(0)).sum(0).tolist()
        [[1.0, 1.0, 1.0]]

    Source:
        The customary spike-time shuffle, e.g. Grün 2009, J. Neurophysiology 101, on surrogates.
    """

    def order(self, spikes: Float[Tensor, "T B *F"], key: Key | None) -> Int64[Tensor, "T B *F"]:
        return _uniform(self, key, spikes.shape, spikes).argsort(stable=True, dim=0)


@dataclass(frozen=True)
class SynchronousShuffle(StepPermutation):
    r"""All inputs of an example are shuffled in time together: counts and synchrony are kept, order is not.

    .. math:: s'_i[t] = s_i[\pi(t)], \quad \pi \text{ one random order of all steps}

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]`

    Example:
        >>> spikes = torch.eye(4).view(4, 1, 4).expand(4, 1, 4)
        >>> SynchronousShuffle()(spikes, Key.of(0)).sum(2).flatten().tolist()
        [1.0, 1.0, 1.0, 1.0]

    Source:
        Grün 2009, J. Neurophysiology 101 (surrogates that keep synchrony).
    """

    def order(self, spikes: Float[Tensor, "T B *F"], key: Key | None) -> Int64[Tensor, "T B *F"]:
        order = _uniform(self, key, spikes.shape[:2], spikes).argsort(stable=True, dim=0)
        return order.view(*order.shape, *[1] * (spikes.ndim - 2))


@dataclass(frozen=True)
class Reversal(StepPermutation):
    r"""Spike trains are reversed in time: counts, synchrony and intervals are kept, order is not.

    .. math:: s'[t] = s[T-1-t]

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]`

    Example:
        >>> Reversal()(torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)).flatten().tolist()
        [0.0, 0.0, 1.0]

    Source:
        The time-reversed control of sequence analyses; Srivastava et al. 2017 on order in spike patterns.
    """

    random: ClassVar[bool] = False

    def order(self, spikes: Float[Tensor, "T B *F"], key: Key | None) -> Int64[Tensor, "T B *F"]:
        order = torch.arange(len(spikes) - 1, -1, -1, device=spikes.device)
        return order.view(-1, *[1] * (spikes.ndim - 1))


@dataclass(frozen=True)
class Deletion(Probe):
    r"""Every spike is deleted independently with some probability: a control that changes counts, not timing.

    .. math:: s'[t] = s[t]\,1[u[t] \ge share], \quad u[t] \sim U[0, 1)

    If the encoder gives a current, the values of time steps are deleted.

    Args:
        share: probability that a spike is deleted, in (0, 1].

    Shapes:
        `[T, B, *F]` -> `[T, B, *F]`

    Example:
        >>> Deletion(1.0)(torch.ones(2, 1, 1), Key.of(0)).flatten().tolist()
        [0.0, 0.0]

    Source:
        Schuman et al. 2020 and others, as failing synapses; Bernoulli thinning of a point process.
    """

    share: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError("Deletion needs a share in (0, 1]", f"share={self.share}", "Try share=0.1.")

    def __call__(
        self, spikes: Float[Tensor, "T B *F"], key: Key | None = None, *, counts: bool = False
    ) -> Float[Tensor, "T B *F"]:
        if not counts:
            return spikes * (_uniform(self, key, spikes.shape, spikes) >= self.share)
        left = spikes
        for i in range(int(spikes.max()) if spikes.numel() else 0):
            lost = _uniform(self, key and key.fold("event", i), spikes.shape, spikes) < self.share
            left = left - (lost & (spikes.detach() > i)).to(spikes.dtype)
        return left


def _uniform(probe: Probe, key: Key | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Draws in float64, so that a window's number can be added without rounding up to the next."""
    if key is None:
        raise InputError(
            f"{type(probe).__name__} needs a key, because it is random", "no key", "Pass a Key to the model."
        )
    return key.uniform(shape, 1, like.device).double()


@dataclass(frozen=True)
class Probed:
    """An encoder whose spikes a timing probe changes before they reach the network.

    Args:
        encoder: the encoder, whose random draws are the same as without the timing probe.
        probe: the timing probe.
    """

    encoder: Encoder
    probe: Probe

    @property
    def steps(self) -> int:
        return self.encoder.steps

    @property
    def stochastic(self) -> bool:
        return self.encoder.stochastic or self.probe.random

    @property
    def spiking(self) -> bool:
        return self.encoder.spiking

    @property
    def counts(self) -> bool:
        """Whether a value may stand for several spikes."""
        return bool(getattr(self.encoder, "counts", False))

    def output_shape(self, shape: Shape) -> Shape:
        """As the inner encoder declares it."""
        return encoded_shape(self.encoder, shape)

    def example_shape(self, shape: Shape) -> tuple[int, ...]:
        """As the inner encoder declares it."""
        return example_shape(self.encoder, shape)

    def __call__(self, x: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *F"]:
        return self.probe(
            self.encoder(x, key), None if key is None else key.fold("probe"), counts=self.counts
        )

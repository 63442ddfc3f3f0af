r"""Objectives on the output layer over time: times of first spikes, potentials, and the logits of every exit.

The plain objectives use the logits alone, which are those of the exit really taken where a decoder exits
early. The verdict rests on these logits. But the time of an exit has no derivative, so their gradient does
not show that a perturbation could make the decision come earlier or later. Nor do the logits of spikes show
how near a silent neuron is to its threshold. Verdicts are always the answers of the model, whatever the
objective.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.decoders import FirstSpike, MeanPotential, activity, exit_steps, inside, prefixes
from spikeproof.errors import InputError
from spikeproof.losses import KL, LogitCrossEntropy, Margin, Objective, Watching
from spikeproof.protocols import Decoder, Watched, reads_potential

__all__ = ["AtExit", "FirstSpikeMargin", "PotentialMargin", "PrefixMean", "TieBrokenMargin", "answers_margin"]


@dataclass(frozen=True)
class FirstSpikeMargin(Watching):
    r"""First-spike-time margin: by how many steps another class fires before the label does.

    .. math:: t_y - \min_{k \ne y} t_k

    over all time steps, whichever decoder the model has, with the times and the gradient of the decoder
    `first-spike`: the time is T for a neuron that stays silent, and the gradient is defined at every step.
    The margin is positive where another class fires first, and 0 at a tie. The time of a population is the
    mean over its neurons. Networks of spike times use their own times, in their own unit.

    Raises:
        InputError: the output neurons do not fire.

    Example:
        >>> from spikeproof.decoders import Count
        >>> spikes = torch.tensor([[[0.0, 1.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
        >>> FirstSpikeMargin().over_time(Watched(spikes, Count()), torch.tensor([0])).item()
        2.0

    Source:
        The margin of Carlini & Wagner 2017, section V.A (f6), on first-spike times.
    """

    def suits(self, decoder: Decoder) -> bool:
        return decoder.reads_spikes

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        decoder, neurons = seen.decoder, seen.outputs
        if not decoder.reads_spikes:
            raise InputError(
                "A margin of first-spike times needs output neurons that fire", repr(decoder), "Use margin."
            )
        if reads_potential(decoder):
            neurons = activity(decoder, neurons)
        early = decoder(neurons) if getattr(decoder, "timed", False) else FirstSpike()(neurons)
        return _margin(_classes(early, seen), y, target)


@dataclass(frozen=True)
class PotentialMargin(Watching):
    r"""Potential margin: the largest mean potential of another class, minus the mean potential of the label.

    .. math:: \max_{k \ne y} \bar u_k - \bar u_y, \quad \bar u = \frac{1}{t^*}\sum_{t < t^*} u[t]

    where `u` is the potential that an output neuron would have if it never fired, over the time steps until
    the exit really taken. No surrogate lies between this potential and the weights of the last layer, so the
    margin has a gradient where output neurons are silent, tied or saturated. With the decoder
    mean-potential it is the margin of the logits, and so it is with mean-current, whose output layer has no
    neurons: `u` is then the current.

    Raises:
        InputError: the output neurons have no potential, as in networks of spike times.

    Example:
        >>> spikes, u = torch.zeros(2, 1, 2), torch.tensor([[[0.5, 0.25]], [[0.5, 0.75]]])
        >>> from spikeproof.decoders import Count
        >>> PotentialMargin().over_time(Watched(spikes, Count(), u), torch.tensor([1])).item()
        0.0

    Source:
        The margin of Carlini & Wagner 2017, section V.A (f6), on membrane potentials.
    """

    wants_potential: ClassVar[bool] = True

    def suits(self, decoder: Decoder) -> bool:
        return not getattr(decoder, "timed", False)

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        means = prefixes(MeanPotential(), _potentials(seen))
        return _margin(_taken(means, seen), y, target)


@dataclass(frozen=True)
class TieBrokenMargin(Watching):
    r"""Margin of the logits, and where it does not change, the lead of the potentials.

    .. math:: \max_{k \ne y} z_k - z_y + w \frac{\bar u_m - \bar u_y}{|\bar u_m| + |\bar u_y|},
              \quad m = \arg\max_{k \ne y} \bar u_k

    with logits `z` and the mean potentials of `PotentialMargin`. Counts and times of first spikes are whole
    numbers and many images share one, so a search by answers cannot tell which of them is nearer to the
    boundary. The second term can, and with `w` below 1/2 it never reverses the order of two images with
    different margins of whole numbers. It is a ratio, so weights and thresholds on another scale do not
    change it.

    Args:
        weight: `w`, in spikes or time steps, above 0.

    Raises:
        InputError: a weight of 0 or less, or output neurons without a potential.

    Example:
        >>> from spikeproof.decoders import Count
        >>> spikes, u = torch.zeros(2, 1, 2), torch.tensor([[[0.5, 0.25]], [[0.5, 0.75]]])
        >>> round(TieBrokenMargin().over_time(Watched(spikes, Count(), 2 * u), torch.tensor([1])).item(), 3)
        0.0
        >>> round(TieBrokenMargin().over_time(Watched(spikes, Count(), u**2), torch.tensor([1])).item(), 3)
        -0.05

    Source:
        The margin of Carlini & Wagner 2017, section V.A (f6); the second term is ours.
    """

    weight: float = 0.45

    wants_potential: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise InputError("TieBrokenMargin needs a weight above 0", repr(self.weight), "Try 0.45.")

    def suits(self, decoder: Decoder) -> bool:
        return PotentialMargin().suits(decoder)

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        potentials = _potentials(seen)
        exits = hasattr(seen.decoder, "exits")
        u = _taken(prefixes(MeanPotential(), potentials), seen) if exits else potentials.mean(0)
        own = u.gather(1, y[:, None])[:, 0]
        if target is None:
            other = u.scatter(1, y[:, None], -torch.inf).amax(1)
        else:
            other = u.gather(1, target[:, None])[:, 0]
        size = other.abs() + own.abs()
        lead = (other - own) / torch.where(size > 0, size, 1)
        return _margin(seen.decoder(seen.outputs), y, target) + self.weight * lead


def answers_margin(model: object) -> Objective:
    """The margin that a search by answers maximises: with ties broken where spikes are read.

    Args:
        model: the attacked model, or a wrapper whose `watch` shows that of the `model` inside. A module that
            keeps a network under this name and does not show its output layer has the plain margin.
    """
    inner = getattr(model, "model", model)
    decoder = getattr(getattr(inner, "spec", None), "decoder", None)
    shown = hasattr(model, "watch") and hasattr(inner, "watch")
    if not shown or decoder is None or not decoder.reads_spikes or reads_potential(decoder):
        return Margin()
    broken = TieBrokenMargin()
    return broken if broken.suits(decoder) else Margin()


@dataclass(frozen=True)
class AtExit(Watching):
    r"""The objective at the exit really taken, that is, on the logits that the decision rests on.

    .. math:: L(y^{(t^*)})

    Value and gradient are the same as those of the plain objective on the logits of the model. Studies leave
    it out for decoders without an early exit.

    Args:
        objective: an objective of logits and labels.

    Raises:
        InputError: an objective that needs more than logits and labels.

    Example:
        >>> from spikeproof.decoders import Count, FixedExit
        >>> spikes = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]])
        >>> AtExit(Margin()).over_time(Watched(spikes, FixedExit(Count(), 1)), torch.tensor([0])).item()
        -1.0

    Source:
        Athalye, Carlini & Wagner 2018, section 5: attack what is really evaluated.
    """

    objective: Objective = LogitCrossEntropy()

    def __post_init__(self) -> None:
        _plain(self, self.objective)

    def suits(self, decoder: Decoder) -> bool:
        return hasattr(decoder, "exits")

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        return _of(self.objective, _taken(prefixes(inside(seen.decoder), seen.outputs), seen), y, target)


@dataclass(frozen=True)
class PrefixMean(Watching):
    r"""The mean of an objective over prefixes: over the logits that every exit would give, taken or not.

    .. math:: \frac{1}{T} \sum_{t=1}^{T} L(y^{(t)})

    with the logits :math:`y^{(t)}` of the first t steps. It has a gradient at all exits at once, those before
    and after the exit taken included, so an attack may make the decision come later or earlier. Studies leave
    it out for decoders without an early exit.

    Args:
        objective: an objective of logits and labels.
        until_exit: whether the mean ends at the exit really taken instead of the last step.

    Raises:
        InputError: an objective that needs more than logits and labels.

    Example:
        >>> from spikeproof.decoders import Count, FixedExit
        >>> seen = Watched(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]], [[0.0, 1.0]]]), FixedExit(Count(), 2))
        >>> y = torch.tensor([0])
        >>> [PrefixMean(Margin(), until).over_time(seen, y).item() for until in (False, True)]
        [0.0, -0.5]

    Source:
        Athalye, Carlini & Wagner 2018, section 5, for attacks on the whole defence; the mean over steps is
        ours.
    """

    objective: Objective = LogitCrossEntropy()
    until_exit: bool = False

    def __post_init__(self) -> None:
        _plain(self, self.objective)

    def suits(self, decoder: Decoder) -> bool:
        return hasattr(decoder, "exits")

    def over_time(
        self, seen: Watched, y: Int64[Tensor, "B"], target: Int64[Tensor, "B"] | None = None
    ) -> Float[Tensor, "B"]:
        logits = prefixes(inside(seen.decoder), seen.outputs)
        values = torch.stack([_of(self.objective, each, y, target) for each in logits])
        if not self.until_exit:
            return values.mean(0)
        steps = exit_steps(seen.decoder, seen.outputs)
        used = torch.arange(len(values), device=values.device)[:, None] < steps
        return torch.where(used, values, 0).sum(0) / steps


def _plain(part: object, objective: Objective) -> None:
    if isinstance(objective, (KL, Watching)):
        raise InputError(
            f"{type(part).__name__} needs an objective of logits and labels", repr(objective), "Try margin."
        )


def _of(objective: Objective, logits: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    return objective(logits, y) if target is None else objective.towards(logits, y, target)


def _margin(scores: Tensor, y: Tensor, target: Tensor | None) -> Tensor:
    return _of(Margin(), scores, y, target)


def _classes(neurons: Float[Tensor, "... N"], seen: Watched) -> Float[Tensor, "... K"]:
    """The mean over the neurons of each class."""
    classes = activity(seen.decoder, seen.outputs).shape[-1]
    members = neurons.shape[-1] // classes
    return neurons if members == 1 else neurons.reshape(*neurons.shape[:-1], classes, members).mean(-1)


def _potentials(seen: Watched) -> Float[Tensor, "T B K"]:
    """The potentials of the output layer over time, by class.

    Raises:
        InputError: the model shows none.
    """
    if seen.potential is None:
        raise InputError(
            "A margin of potentials needs output neurons with a membrane potential",
            "a model that shows none",
            "Use margin.",
        )
    return _classes(seen.potential, seen)


def _taken(values: Float[Tensor, "T B K"], seen: Watched) -> Float[Tensor, "B K"]:
    """The values at the exit really taken, out of the values after every step."""
    last = exit_steps(seen.decoder, seen.outputs) - 1
    return values.gather(0, last[None, :, None].expand(1, *values.shape[1:]))[0]

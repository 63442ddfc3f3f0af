"""Noise of event cameras: background activity, hot and dead pixels, and events of the wrong polarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.corruptions.corruption import EventCorruption, Levels, counted, misfit, places

__all__ = ["BackgroundActivity", "DeadPixels", "HotPixels", "PolarityFlips"]


@dataclass(frozen=True)
class BackgroundActivity(EventCorruption):
    r"""Background activity: events without a cause appear everywhere, in proportion to the recording's own.

    .. math:: x' = x + n, \quad n \sim \mathrm{Poisson}(a \bar x)

    Args:
        levels: background events per event of the recording `a`, at each severity, at least 0.

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or are negative; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> quiet = torch.zeros(1, 4, 2, 8, 8)
        >>> torch.equal(BackgroundActivity()(quiet, 5, Key.of(0)), quiet)
        True

    Source:
        Lichtsteiner, Posch & Delbruck 2008 on background activity; the levels are our own.
    """

    levels: Levels = (0.1, 0.2, 0.4, 0.8, 1.6)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        return events + torch.poisson(torch.full_like(events, level) * events.mean(), generator=generator)


def pixels(events: Float[Tensor, "T *F"], share: float, generator: torch.Generator) -> Bool[Tensor, "*F"]:
    """A share of the pixels, at least one, with all their polarities; inputs without pixels one by one."""
    shape = events.shape[1:]
    plane = shape[-2:] if len(shape) == 3 else shape
    many = math.prod(plane)
    chosen = torch.randperm(many, generator=generator)[: math.ceil(share * many)]
    found = torch.zeros(many, dtype=torch.bool)
    found[chosen] = True
    return found.view(plane).expand(shape)


@dataclass(frozen=True)
class HotPixels(EventCorruption):
    r"""Hot pixels: a share of the pixels sends an event of one polarity at every time step.

    Args:
        levels: share of hot pixels at each severity, in [0, 1]; the number of pixels is rounded up.

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> HotPixels()(torch.zeros(1, 4, 2, 8, 8), 1, Key.of(0)).sum()
        tensor(4.)

    Source:
        A known fault of event cameras (Gallego et al. 2022, section 2); the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.005, 0.01, 0.02, 0.04, 0.08)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        hot = pixels(events, level, generator)
        if hot.ndim == 3:
            polarity = torch.randint(len(hot), hot.shape[1:], generator=generator)
            hot = hot & (torch.arange(len(hot)).view(-1, 1, 1) == polarity)
        return events + hot


@dataclass(frozen=True)
class DeadPixels(EventCorruption):
    r"""Dead pixels: a share of the pixels sends no event.

    Args:
        levels: share of dead pixels at each severity, in [0, 1]; the number of pixels is rounded up.

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> DeadPixels(levels=(0.25,) * 5)(torch.ones(1, 1, 2, 8, 8), 1, Key.of(0)).sum()
        tensor(96.)

    Source:
        A known fault of event cameras (Gallego et al. 2022, section 2); the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.05, 0.1, 0.2, 0.35, 0.5)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        return events * ~pixels(events, level, generator)


@dataclass(frozen=True)
class PolarityFlips(EventCorruption):
    r"""Polarity flips: every event takes the other polarity with some probability.

    Args:
        levels: probability at each severity, in [0, 1]; at 0.5 the polarity says nothing more.

    Shapes:
        `[B, T, 2, *F]` -> `[B, T, 2, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events of two
            polarities.

    Example:
        >>> from spikeproof.keys import Key
        >>> flipped = PolarityFlips(levels=(1.0,) * 5)(torch.tensor([[[2.0, 0.0]]]), 1, Key.of(0))
        >>> flipped.tolist()
        [[[0.0, 2.0]]]

    Source:
        The binomial thinning of each polarity into the other; the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.05, 0.1, 0.2, 0.3, 0.5)

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[1] != 2:
            raise misfit(
                shape, "PolarityFlips needs two polarities [B, T, 2, ...]", "Leave out polarity-flips."
            )

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        lost = thinned(events, level, generator)
        return events - lost + lost.flip(1)


def thinned(events: Float[Tensor, "T *F"], share: float, generator: torch.Generator) -> Float[Tensor, "T *F"]:
    """How many events of each entry are among those that are chosen one by one, each with a probability."""
    place = places(events)
    chosen = torch.rand(len(place), generator=generator, dtype=torch.float64) < share
    return counted(place[chosen], events)

"""Events that are lost: here and there, for a while, in an area, or of one polarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.corruption import EventCorruption, Levels, misfit
from spikeproof.corruptions.eventnoise import thinned

__all__ = ["AreaDrops", "EventDrops", "PolarityDrops", "TimeDrops"]


@dataclass(frozen=True)
class EventDrops(EventCorruption):
    r"""Events are lost one by one, each with the same probability.

    Args:
        levels: probability at each severity, in [0, 1].

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> left = EventDrops()(torch.ones(1, 10, 2, 20, 20), 5, Key.of(0))
        >>> round(float(left.mean()), 1)
        0.2

    Source:
        Gu et al. 2021 (EventDrop, random drop); the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.1, 0.2, 0.4, 0.6, 0.8)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        return events - thinned(events, level, generator)


@dataclass(frozen=True)
class TimeDrops(EventCorruption):
    r"""All events of a stretch of time are lost; it begins at random and lies within the recording.

    Args:
        levels: length of the stretch at each severity, as a share of the recording, in [0, 1]; it is rounded
            up to whole time steps.

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> int(TimeDrops()(torch.ones(1, 10, 1), 3, Key.of(0)).sum())
        7

    Source:
        Gu et al. 2021 (EventDrop, drop by time); the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.1, 0.2, 0.3, 0.45, 0.6)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        steps = len(events)
        long = math.ceil(level * steps)
        first = math.floor(_draw(generator) * (steps - long + 1))
        left = events.clone()
        left[first : first + long] = 0
        return left


@dataclass(frozen=True)
class AreaDrops(EventCorruption):
    r"""All events of a rectangle are lost; it lies at a random place and has the proportions of the image.

    Args:
        levels: area of the rectangle at each severity, as a share of the image, in [0, 1]; its sides are
            rounded up to whole pixels.

    Shapes:
        `[B, T, C, H, W]` -> `[B, T, C, H, W]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events of pixels.

    Example:
        >>> from spikeproof.keys import Key
        >>> int(AreaDrops(levels=(0.25,) * 5)(torch.ones(1, 1, 1, 8, 8), 1, Key.of(0)).sum())
        48

    Source:
        Gu et al. 2021 (EventDrop, drop by area); the levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.05, 0.1, 0.2, 0.35, 0.5)

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if len(shape) != 4:
            raise misfit(shape, "AreaDrops needs pixels [B, T, C, H, W]", "Leave out area-drops.")

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        height, width = (math.ceil(math.sqrt(level) * side) for side in events.shape[2:])
        top = math.floor(_draw(generator) * (events.shape[2] - height + 1))
        left = math.floor(_draw(generator) * (events.shape[3] - width + 1))
        found = events.clone()
        found[:, :, top : top + height, left : left + width] = 0
        return found


@dataclass(frozen=True)
class PolarityDrops(EventCorruption):
    r"""Events of one polarity, drawn for each recording, are lost one by one with the same probability.

    Args:
        levels: probability at each severity, in [0, 1].

    Shapes:
        `[B, T, C, *F]` with 2 or more channels -> `[B, T, C, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events of several
            polarities.

    Example:
        >>> from spikeproof.keys import Key
        >>> left = PolarityDrops()(torch.ones(1, 4, 2, 3, 3), 5, Key.of(0))
        >>> sorted(left.sum((0, 1, 3, 4)).tolist())
        [0.0, 36.0]

    Source:
        The levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.2, 0.4, 0.6, 0.8, 1.0)

    def check(self, shape: Sequence[int]) -> None:
        super().check(shape)
        if shape[1] < 2:
            raise misfit(
                shape, "PolarityDrops needs several polarities [B, T, C, ...]", "Leave out polarity-drops."
            )

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        polarity = math.floor(_draw(generator) * events.shape[1])
        left = events.clone()
        left[:, polarity] -= thinned(events[:, polarity], level, generator)
        return left


def _draw(generator: torch.Generator) -> float:
    """A number from U[0, 1)."""
    return float(torch.rand(1, generator=generator, dtype=torch.float64))

"""Errors of time stamps: jitter, a clock that drifts, and time that runs unevenly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.corruptions.corruption import EventCorruption, Levels, counted, places

__all__ = ["ClockDrift", "TimeWarp", "TimestampJitter"]


class Retiming(EventCorruption):
    """A corruption that gives events other time stamps; events that leave the recording are lost.

    The time of an event within its time step is drawn uniformly.
    """

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        steps, entries = len(events), math.prod(events.shape[1:])
        place = places(events)
        within = torch.rand(len(place), generator=generator, dtype=torch.float64)
        stamp = (place // entries + within) / steps
        moved = (self.stamps(stamp, level, generator) * steps).floor().long()
        stays = (moved >= 0) & (moved < steps)
        there = moved * entries + place % entries
        return counted(there[stays], events)

    def stamps(
        self, stamp: Float[Tensor, "N"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "N"]:
        """The new time stamps of all events, where the recording lasts from 0 to 1."""
        raise NotImplementedError(f"{type(self).__name__} moves nothing")


@dataclass(frozen=True)
class TimestampJitter(Retiming):
    r"""Time-stamp jitter: the time of every event gets an independent normal error.

    .. math:: t' = t + \sigma T z, \quad z \sim N(0, 1)

    Events that would leave the recording are put on its first or last time step.

    Args:
        levels: standard deviation `sigma` at each severity, as a share of the recording, at least 0.

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or are negative; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> counts = torch.full((1, 10, 2, 4, 4), 3.0)
        >>> TimestampJitter()(counts, 5, Key.of(0)).sum() == counts.sum()
        tensor(True)

    Source:
        The levels are our own. A jitter that keeps every spike train free of collisions is the timing probe
        `Jitter`.
    """

    levels: Levels = (0.02, 0.05, 0.1, 0.15, 0.25)

    def stamps(
        self, stamp: Float[Tensor, "N"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "N"]:
        error = level * torch.randn(len(stamp), generator=generator, dtype=torch.float64)
        return (stamp + error).clamp(0, 1 - 1e-12)


@dataclass(frozen=True)
class ClockDrift(Retiming):
    r"""Clock drift: the clock of the camera runs fast or slow, at random, by a constant factor.

    .. math:: t' = t (1 \pm d)

    Events beyond the end of the recording are lost; a slow clock leaves its end empty.

    Args:
        levels: drift `d` at each severity, in [0, 1].

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> late = ClockDrift()(torch.ones(1, 10, 1), 5, Key.of(0)).flatten()
        >>> len(late), bool((late != 1).any())
        (10, True)

    Source:
        The levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.05, 0.1, 0.2, 0.3, 0.4)

    def stamps(
        self, stamp: Float[Tensor, "N"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "N"]:
        return stamp * (1 + level * _direction(generator))


@dataclass(frozen=True)
class TimeWarp(Retiming):
    r"""Time warp: time runs faster in one half of the recording and slower in the other, and its ends stay.

    .. math:: t' = t \pm \frac{a T}{2 \pi} \sin\frac{2 \pi t}{T}

    The order of events is kept, because time always runs forward.

    Args:
        levels: strength `a` at each severity, in [0, 1].

    Shapes:
        `[B, T, *F]` -> `[B, T, *F]`, numbers of events

    Raises:
        InputError: levels that fall or lie outside [0, 1]; inputs that are no numbers of events.

    Example:
        >>> from spikeproof.keys import Key
        >>> TimeWarp()(torch.full((1, 20, 2), 3.0), 5, Key.of(0)).sum()
        tensor(120.)

    Source:
        The levels are our own.
    """

    MOST: ClassVar[float] = 1.0
    levels: Levels = (0.2, 0.4, 0.6, 0.8, 0.95)

    def stamps(
        self, stamp: Float[Tensor, "N"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "N"]:
        turn = 2 * math.pi
        return stamp + level * _direction(generator) * torch.sin(turn * stamp) / turn


def _direction(generator: torch.Generator) -> float:
    """One of the two directions of a change."""
    return -1.0 if float(torch.rand(1, generator=generator)) < 0.5 else 1.0

"""Threats on events that are limited in time: outside a window of time steps, nothing changes.

A member of a threat of this module is a member of the plain threat of the same kind on the steps of the
window, and equal to the clean events on all others. The window of all steps gives exactly the plain threat.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import need_pairs
from spikeproof.threats.shifts import Shifts
from spikeproof.threats.spikes import Additions, EventThreat, Flips, Removals

__all__ = ["WindowAdditions", "WindowFlips", "WindowRemovals", "WindowShifts", "Windowed"]


@dataclass(frozen=True)
class Windowed(EventThreat):
    """A threat on events, of which only the steps from `first` to before `stop` may change."""

    PLAIN: ClassVar[type[EventThreat]]

    first: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first < 0 or (self.stop is not None and self.stop <= self.first):
            raise InputError(
                "A window is a first time step, from 0, and a later one before which it ends",
                f"first={self.first}, stop={self.stop}",
                "Try first=0, stop=4.",
            )

    @property
    def inner(self) -> EventThreat:
        """The threat without its window."""
        return self.PLAIN(**{each.name: getattr(self, each.name) for each in fields(self.PLAIN)})

    def window(self, steps: int) -> slice:
        """The steps of the window.

        Args:
            steps: number of time steps of the events.

        Raises:
            InputError: the window reaches beyond them.
        """
        last = steps if self.stop is None else self.stop
        if self.first >= steps or last > steps:
            raise InputError(
                f"A window lies within the {steps} time steps of the events",
                f"first={self.first}, stop={self.stop}",
                "Leave out stop for a window that reaches to the end.",
            )
        return slice(self.first, last)

    def cut(self, x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B W *F"]:
        """The events of the window."""
        return x[:, self.window(x.shape[1])]

    def put(self, part: Float[Tensor, "B W *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The events of the window beside the clean ones outside."""
        whole = x.clone(memory_format=torch.contiguous_format)
        whole[:, self.window(x.shape[1])] = part
        return whole

    def kept(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Bool[Tensor, "B"]:
        """Whether nothing changed outside the window."""
        window = self.window(x.shape[1])
        same = (x_adv == x).flatten(2).all(2) if x.ndim > 2 else x_adv == x
        return same[:, : window.start].all(1) & same[:, window.stop :].all(1)

    def check(self, x: Float[Tensor, "B T *F"]) -> None:
        """Refuse clean events that are not on the grid, or shorter than the window.

        Raises:
            InputError: an entry is not a whole number or too large, or the window reaches beyond the events.
        """
        super().check(x)
        self.window(x.shape[1])

    def open(self, x: Float[Tensor, "B T *F"]) -> Bool[Tensor, "T *F"]:
        """The entries of an example that window, polarity and region allow to change."""
        inside = self.inner.open(x)
        there = torch.zeros_like(inside)
        there[self.window(x.shape[1])] = True
        return inside & there

    def start(self, x: Float[Tensor, "B T *F"], key: Key) -> Float[Tensor, "B T *F"]:
        """A random member, as the plain threat draws it on the window."""
        self.check(x)
        return self.put(self.inner.start(self.cut(x), key), x)

    def project(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The nearest member in Euclidean distance: projected within the window, clean outside."""
        need_pairs(self, x_adv, x)
        self.check(x)
        return self.put(self.inner.project(self.cut(x_adv), self.cut(x)), x)

    def distance(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B"]:
        """The distance within the window; infinite where something changed outside."""
        need_pairs(self, x_adv, x)
        far = self.inner.distance(self.cut(x_adv), self.cut(x))
        return torch.where(self.kept(x_adv, x), far, far + math.inf)

    def contains(self, x_adv: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Bool[Tensor, "B"]:
        """Whether each example is on the grid, within the budget, and clean outside the window."""
        return self.on_grid(x_adv) & (self.distance(x_adv, x) <= self.epsilon)

    def steepest(self, grad: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The unit step of the plain threat within the window; zero outside."""
        return self.put(self.inner.steepest(self.cut(grad)), torch.zeros_like(grad))

    def extreme(self, grad: Float[Tensor, "B T *F"], x: Float[Tensor, "B T *F"]) -> Float[Tensor, "B T *F"]:
        """The member at which a linear function with this gradient is largest."""
        need_pairs(self, grad, x)
        self.check(x)
        return self.put(self.inner.extreme(self.cut(grad), self.cut(x)), x)

    def neighbours(
        self,
        x_adv: Float[Tensor, "B T *F"],
        x: Float[Tensor, "B T *F"],
        grad: Float[Tensor, "B T *F"],
        many: int,
    ) -> Float[Tensor, "M B T *F"]:
        """The neighbours of the plain threat within the window."""
        need_pairs(self, x_adv, x)
        need_pairs(self, grad, x)
        found = self.inner.neighbours(self.cut(x_adv), self.cut(x), self.cut(grad), many)
        whole = x_adv.expand(len(found), *x_adv.shape).clone(memory_format=torch.contiguous_format)
        whole[:, :, self.window(x.shape[1])] = found
        return whole


@dataclass(frozen=True)
class WindowFlips(Windowed, Flips):
    r"""At most epsilon events may be added or removed, all of them within a window of time steps.

    .. math:: \{x' \in \mathrm{Flips}_\epsilon(x) : x'_t = x_t \text{ for } t < a \text{ and } t \ge b\}

    Args:
        epsilon: largest number of changes, a whole number of at least 0.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.
        first: the first time step `a` that may change, from 0.
        stop: the time step `b` before which the window ends; None for the end of the events.

    Shapes:
        Events `[B, T, ...]`, whole numbers from 0 to `most`.

    Raises:
        InputError: a setting is out of range; at use, the window reaches beyond the events, or the clean
            events are not on the grid.

    Example:
        >>> goal = torch.tensor([[0.9, 0.8, 0.9]])
        >>> WindowFlips(1, first=1).project(goal, torch.zeros(1, 3))
        tensor([[0., 0., 1.]])

    Source:
        `Flips` on a part of the time axis.
    """

    PLAIN: ClassVar[type[EventThreat]] = Flips


@dataclass(frozen=True)
class WindowAdditions(Windowed, Additions):
    """At most epsilon events may be added, all of them within a window of time steps.

    Args:
        epsilon: largest number of added events, a whole number of at least 0.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.
        first: the first time step that may change, from 0.
        stop: the time step before which the window ends; None for the end of the events.

    Example:
        >>> WindowAdditions(2, stop=2).project(torch.tensor([[0.9, 0.7, 0.9]]), torch.zeros(1, 3))
        tensor([[1., 1., 0.]])
    """

    PLAIN: ClassVar[type[EventThreat]] = Additions


@dataclass(frozen=True)
class WindowRemovals(Windowed, Removals):
    """At most epsilon events may be removed, all of them within a window of time steps.

    Args:
        epsilon: largest number of removed events, a whole number of at least 0.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel that may change, from 0; None for all.
        region: the only pixels that may change, as top, left, height, width; None for all.
        first: the first time step that may change, from 0.
        stop: the time step before which the window ends; None for the end of the events.

    Example:
        >>> WindowRemovals(2, first=1, stop=2).project(torch.zeros(1, 3), torch.ones(1, 3))
        tensor([[1., 0., 1.]])
    """

    PLAIN: ClassVar[type[EventThreat]] = Removals


@dataclass(frozen=True)
class WindowShifts(Windowed, Shifts):
    """Spikes may move in time within a window of time steps; none enters or leaves it.

    Args:
        epsilon: the bound, a whole number of at least 0: a number of spikes, or of time steps for the total
            shift or for each spike.
        most: events that an entry of the grid can hold, at least 1; a binary grid holds 1.
        polarity: the only channel in which spikes may move, from 0; None for all.
        region: the only pixels at which spikes may move, as top, left, height, width; None for all.
        measure: what is bounded: `moved` (number of moved spikes), `delay` (total shift, in time steps) or
            `jitter` (largest shift, in time steps).
        first: the first time step of the window, from 0.
        stop: the time step before which the window ends; None for the end of the events.

    Example:
        >>> x = torch.tensor([[[1.0], [1.0], [0.0], [0.0]]])
        >>> goal = torch.tensor([[[0.1], [0.2], [0.8], [0.9]]])
        >>> WindowShifts(2, first=1, stop=3).project(goal, x).flatten().tolist()
        [1.0, 0.0, 1.0, 0.0]
    """

    PLAIN: ClassVar[type[EventThreat]] = Shifts

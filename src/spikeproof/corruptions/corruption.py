"""What a corruption is: a change of the input that happens in the world, at one of five severities.

A corruption is not an attack: it does not see the model and does not look for the worst case. Its draws
belong to the examples, through the rows of the key, and it is computed on the processor in double precision,
wherever the examples live. The corrupted example therefore depends neither on the batch nor on the device.
The five severities share their draws, so that a higher severity is more of the same change; only Poisson
numbers (`ShotNoise`, `BackgroundActivity`) are drawn anew at each severity.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import check_key, check_range, check_tensors

__all__ = ["SEVERITIES", "Corruption", "EventCorruption", "ImageCorruption", "Levels", "check_severity"]

SEVERITIES = (1, 2, 3, 4, 5)
"""The severities of every corruption, the mildest first."""

Levels = tuple[float, float, float, float, float]
"""One amount for each severity."""


def check_severity(severity: object) -> None:
    """Refuse what is no severity.

    Raises:
        InputError: the value is not a whole number from 1 to 5.

    Example:
        >>> check_severity(0)
        Traceback (most recent call last):
        spikeproof.errors.InputError: A severity is a whole number from 1 to 5: got 0. Try severity 3.
    """
    if isinstance(severity, bool) or not isinstance(severity, int) or severity not in SEVERITIES:
        raise InputError("A severity is a whole number from 1 to 5", repr(severity)[:80], "Try severity 3.")


@dataclass(frozen=True)
class Corruption:
    """A change of examples at five severities.

    Args:
        levels: the amount at each severity, from the mildest to the most severe.
    """

    levels: Levels

    LEAST: ClassVar[float] = 0.0  # the smallest level
    MOST: ClassVar[float] = 1e6  # the largest level
    FALLS: ClassVar[bool] = False  # whether a smaller level is the more severe one
    EVENTS: ClassVar[bool] = False  # whether examples are recordings of events, and not images

    def __post_init__(self) -> None:
        ordered = sorted(self.levels, reverse=self.FALLS)
        if list(self.levels) != ordered or not all(self.LEAST <= each <= self.MOST for each in self.levels):
            order = "that never rise" if self.FALLS else "that never fall"
            raise InputError(
                f"{type(self).__name__} takes five levels from {self.LEAST:g} to {self.MOST:g} {order}",
                f"levels={list(self.levels)}",
                "Leave out levels for the customary ones.",
            )

    def check(self, shape: Sequence[int]) -> None:
        """Refuse examples of a shape that the corruption is not defined for.

        Args:
            shape: of one example.

        Raises:
            InputError: the corruption is not defined there.
        """
        raise NotImplementedError(f"{type(self).__name__} changes nothing")

    def __call__(self, x: Float[Tensor, "B *F"], severity: int, key: Key) -> Float[Tensor, "B *F"]:
        """The corrupted examples, of the same shape and type.

        Args:
            x: examples.
            severity: from 1, the mildest, to 5.
            key: decides the draws. Without rows, the examples are numbered from 0.

        Raises:
            InputError: the severity is not one of the five, or the corruption is not defined for examples of
                this shape or with these values.
        """
        raise NotImplementedError(f"{type(self).__name__} changes nothing")

    def level(self, severity: int) -> float:
        """The amount at a severity."""
        return self.levels[severity - 1]

    def admit(self, x: Tensor, severity: int, key: Key) -> Key:
        """Check the arguments of a call; returns the key with one row per example."""
        check_tensors(examples=x)
        check_key(key)
        check_severity(severity)
        self.check(x.shape[1:])
        if key.rows is None:
            return key.for_rows(range(len(x)))
        if len(key.rows) != len(x):
            raise InputError(
                "A key with rows needs one identity per example",
                f"{len(key.rows)} identities for {len(x)} examples",
                "Pass key.for_rows(ids) with the ids of these very examples.",
            )
        return key


def misfit(shape: Sequence[int], expected: str, try_: str) -> InputError:
    """The error for examples of a shape that a corruption is not defined for."""
    return InputError(expected, f"examples of {list(shape)}", try_)


class ImageCorruption(Corruption):
    """A corruption of images `[B, C, H, W]` with values in [0, 1]."""

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) != 3:
            raise misfit(
                shape,
                f"{type(self).__name__} changes images [B, C, H, W]",
                "For recordings of events, try background-activity or event-drops.",
            )

    def __call__(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        rows = self.admit(x, severity, key)
        check_range(x, type(self).__name__)
        if not len(x):
            return x.clone()
        changed = self.corrupted(x.detach().cpu().double(), severity, rows)
        return changed.clamp(0, 1).to(x.device, x.dtype)

    def corrupted(self, x: Float[Tensor, "B C H W"], severity: int, key: Key) -> Float[Tensor, "B C H W"]:
        """The corrupted images in double precision, before they are clipped to [0, 1].

        Args:
            x: images in double precision, on the processor.
            severity: from 1 to 5.
            key: has one row per image.
        """
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


class EventCorruption(Corruption):
    """A corruption of recordings `[B, T, C, H, W]` or `[B, T, F]` that hold numbers of events.

    A recording in which no entry holds more than one event stays one: where two events fall on one entry, one
    of them is lost.
    """

    EVENTS: ClassVar[bool] = True

    def check(self, shape: Sequence[int]) -> None:
        if len(shape) not in (2, 4):
            raise misfit(
                shape,
                f"{type(self).__name__} changes recordings of events [B, T, C, H, W] or [B, T, F]",
                "For images, try gaussian-noise or occlusion.",
            )

    def __call__(self, x: Float[Tensor, "B T *F"], severity: int, key: Key) -> Float[Tensor, "B T *F"]:
        rows = self.admit(x, severity, key)
        if x.numel() and not bool(((x >= 0) & (x == x.round()) & x.isfinite()).all()):
            raise InputError(
                f"{type(self).__name__} changes whole numbers of events",
                f"values from {x.min().item():g} to {x.max().item():g}, some of them fractions",
                "For images, try gaussian-noise or occlusion.",
            )
        level = self.level(severity)
        changed = [
            self.one(events, level, generator)
            for events, generator in zip(x.detach().cpu().double(), generators(rows), strict=True)
        ]
        if not changed:
            return x.clone()
        found = torch.stack(changed).to(x.device, x.dtype)
        binary = (x <= 1).flatten(1).all(1).view(-1, *[1] * (x.ndim - 1))
        return torch.where(binary, found.clamp(max=1), found)

    def one(
        self, events: Float[Tensor, "T *F"], level: float, generator: torch.Generator
    ) -> Float[Tensor, "T *F"]:
        """One corrupted recording."""
        raise NotImplementedError(f"{type(self).__name__} changes nothing")


def generators(key: Key) -> Iterator[torch.Generator]:
    """One generator for each row of a key."""
    assert key.rows is not None
    for row in key.rows:
        yield torch.Generator().manual_seed(key.seed(row))


def places(events: Float[Tensor, "T *F"]) -> Int64[Tensor, "N"]:
    """The entry that each event of a recording lies on, numbered as in the flattened recording."""
    return torch.arange(events.numel()).repeat_interleave(events.flatten().long())


def counted(place: Int64[Tensor, "N"], like: Float[Tensor, "T *F"]) -> Float[Tensor, "T *F"]:
    """The recording, of the same shape, that has one event for each of these entries."""
    return torch.bincount(place, minlength=like.numel()).to(like.dtype).view(like.shape)

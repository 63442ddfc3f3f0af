"""Events in EVT 2.1 of Prophesee: words of 64 bits, each with the events of up to 32 pixels of a row."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np

from spikeproof.errors import InputError

__all__ = ["Halves", "vectors"]


class Halves(Enum):
    """The order of the two halves of a word, each little-endian; the value is what headers call it."""

    LITTLE = "little"
    """The pixels come first, as GenX320 writes them."""

    LEGACY = "legacy"
    """The pixels come last, as IMX636 writes them."""


OFF, ON, HIGH = 0x0, 0x1, 0x8
"""Kinds of words: changes of either polarity, and the upper bits of the time."""

KINDS = np.array([OFF, ON, HIGH, 0xA, 0xE, 0xF])
"""All kinds that are published; the others are triggers, counters and their continuation."""

PIXELS = 32
LOW_BITS, HIGH_BITS = 6, 28
MOST = 1 << 25
"""The largest number of events of one recording."""


def vectors(content: bytes, halves: Halves | None, path: Path) -> dict[str, np.ndarray]:
    r"""The events of words in EVT 2.1, as columns x, y, t and p.

    The half with the kind has, from the highest bit, 4 bits of kind, 6 of time, 11 of column and 11 of row;
    bit i of the other half stands for the pixel at this column plus i. Times are :math:`64 h + l`
    microseconds with h the 28 bits of the last word of upper bits, which wrap around and are unwrapped, and l
    the 6 bits. Words before the first upper bits have no time and are left out, as in the vendor's decoder.

    Args:
        content: the words.
        halves: their order, or None for the one in which all words are of a known kind.
        path: the file, for messages.

    Raises:
        InputError: words of unknown kinds, or none with the upper bits of a time.

    Example:
        >>> words = np.array([[0, 0x8 << 28 | 2], [0b101, 0x1 << 28 | 3 << 22 | 10 << 11 | 7]], "<u4")
        >>> found = vectors(words.tobytes(), Halves.LITTLE, Path("x.raw"))
        >>> {name: values.tolist() for name, values in found.items()}
        {'x': [10, 12], 'y': [7, 7], 't': [131, 131], 'p': [1, 1]}

    Source:
        Prophesee, EVT 2.1 format (docs.prophesee.ai); the decoder in OpenEB 5.
    """
    words = np.frombuffer(content, "<u4").reshape(-1, 2)
    orders = tuple(Halves) if halves is None else (halves,)
    fitting = [order for order in orders if _fits(words, order)]
    if not fitting:
        names = " or ".join(order.value for order in orders)
        raise InputError(
            f"{path} should be a complete recording in EVT 2.1",
            f"words that are of unknown kinds, or without the upper bits of a time, in the order {names}",
            "Replace it by a good copy, or convert it with metavision_file_to_hdf5.",
        )
    head, mask = _halves(words, fitting[0])
    kind = head >> 28
    timed = np.flatnonzero(kind == HIGH)
    high = (head[timed] & ((1 << HIGH_BITS) - 1)).astype(np.int64)
    high += np.cumsum(np.diff(high, prepend=high[:1]) < -(1 << (HIGH_BITS - 1))) << HIGH_BITS
    changes = np.flatnonzero(kind <= ON)
    changes = changes[changes > timed[0]]
    place, offset = _pixels(mask[changes], path)
    rows = changes[place]
    last = np.searchsorted(timed, rows) - 1
    found = head[rows].astype(np.int64)
    return {
        "x": (found >> 11 & 0x7FF) + offset,
        "y": found & 0x7FF,
        "t": (high[last] << LOW_BITS) + (found >> 22 & 0x3F),
        "p": found >> 28,
    }


def _halves(words: np.ndarray, order: Halves) -> tuple[np.ndarray, np.ndarray]:
    """The half of each word with its kind, and the one with its pixels."""
    head = 1 if order is Halves.LITTLE else 0
    return words[:, head], words[:, 1 - head]


def _fits(words: np.ndarray, order: Halves) -> bool:
    kind = _halves(words, order)[0] >> 28
    return bool(np.isin(kind, KINDS).all() and (kind == HIGH).any())


def _pixels(mask: np.ndarray, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The word and the bit of every set bit, in the order of words."""
    found = [np.flatnonzero(mask >> bit & 1) for bit in range(PIXELS)]
    if sum(map(len, found)) > MOST:
        raise InputError(f"{path} has at most {MOST} events", "more", "Cut the recording into several.")
    place = np.concatenate(found)
    offset = np.repeat(np.arange(PIXELS), [len(each) for each in found])
    order = np.argsort(place, kind="stable")
    return place[order], offset[order]

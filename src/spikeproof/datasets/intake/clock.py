"""The clock of a recording: unwrapped if it wraps, refused if it was reset, without left-over events."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from spikeproof.errors import InputError

__all__ = ["DISORDER", "Clocked", "clocked"]

DISORDER = 10_000
"""The largest delay of an event behind a later one, in microseconds; sensors write events in bursts."""

PAUSE = 1_000_000
"""The pause in microseconds that may separate two recordings."""

FEW = 100
"""Left-over events are at most one in `FEW`, or a single event."""

LEAST = 10
"""The number of events up to which none is regarded as left over."""

MOST = 10_000
"""The largest number of wraps, or of pauses, in one recording."""

LATE = "events up to 10 ms late were put in order"
LEFT = "left-over events from before or after the recording were left out"


class Clocked(NamedTuple):
    """The times that belong to one recording.

    Args:
        time: the times of the events that are kept, in the order of the file, in microseconds on one clock.
        kept: which events are kept.
        remark: what was changed; empty if nothing was.
    """

    time: Int64[np.ndarray, "M"]
    kept: Bool[np.ndarray, "N"]
    remark: str


def clocked(time: Int64[np.ndarray, "N"], path: Path, period: int | None = None) -> Clocked:
    """The times of all events of a recording on one clock.

    A clock that falls by more than half its period has wrapped, and is unwrapped. A smaller fall of more than
    10 ms means that the clock was reset, so that the events before and after it belong to two recordings. If
    one of the two is at most one event in a hundred, or a single event among more than ten, it is left over
    from another recording and is left out with a remark; otherwise the file is refused. The same holds for
    events that are separated from the rest by more than a second and by more than the rest lasts.

    Args:
        time: the times of the events, in the order of the file, in microseconds.
        path: the file, for messages.
        period: the number of microseconds after which the clock wraps to 0, or None if it never does.

    Raises:
        InputError: the clock was reset in the middle of the file, or the file holds two recordings.

    Example:
        >>> clocked(np.array([250, 255, 3, 9]) * 1000, Path("x"), 256_000).time.tolist()
        [250000, 255000, 259000, 265000]
    """
    if period is not None:
        time = time + _turns(time, path, period) * period
    everything = np.ones(len(time), bool)
    step = np.diff(time)
    late = LATE if (step < 0).any() else ""
    falls = np.flatnonzero(step < -DISORDER) + 1
    cuts = np.flatnonzero((step < -DISORDER) | (step > PAUSE)) + 1
    if not len(cuts):
        return Clocked(time, everything, late)
    edges = np.concatenate([[0], cuts, [len(time)]])
    low, high = _main(time, edges, falls) if len(cuts) <= MOST else (0, 0)
    few = len(time) - (high - low)
    if 0 < few <= max(len(time) // FEW, 1) and len(time) > LEAST:
        kept = np.zeros(len(time), bool)
        kept[low:high] = True
        time = time[kept]
        late = LATE if (np.diff(time) < 0).any() else ""
        return Clocked(time, kept, f"{LEFT} and {late}" if late else LEFT)
    if len(falls):
        i = int(falls[0])
        raise InputError(
            f"{path} should be one recording, whose clock does not go back",
            f"{time[i]} microseconds at event {i} after {time[i - 1]}",
            "Cut the file where its clock was set back, or replace it by a good copy.",
        )
    if few and len(time) > LEAST:
        i = int(step.argmax())
        raise InputError(
            f"{path} should be one recording, which pauses no longer than it lasts",
            f"no event for {step[i] / 1e6:g} s after event {i} of {len(time)}",
            "Cut the file where it pauses, or replace it by a good copy.",
        )
    return Clocked(time, everything, late)


def _turns(time: Int64[np.ndarray, "N"], path: Path, period: int) -> Int64[np.ndarray, "N"]:
    """The number of wraps of the clock before each event; a delayed event may precede a wrap."""
    step = np.diff(time)
    wraps = np.flatnonzero(np.abs(step) > period // 2)
    if len(wraps) > MOST:
        raise InputError(
            f"{path} should be one recording, whose clock wraps at times",
            f"{len(wraps)} times among {len(time)} events",
            "Replace the file by a good copy.",
        )
    change = np.zeros(len(time), np.int64)
    turns = 0
    for i in wraps.tolist():
        turn = 1 if step[i] < 0 else -1 if turns else 0
        turns += turn
        change[i + 1] = turn
    return np.cumsum(change)


def _main(
    time: Int64[np.ndarray, "N"], edges: Int64[np.ndarray, "E"], falls: Int64[np.ndarray, "F"]
) -> tuple[int, int]:
    """The longest section of events, extended as long as pauses are short and time never falls."""
    first = int(np.diff(edges).argmax())
    last = first + 1
    back = set(falls.tolist())

    def near(cut: int) -> bool:
        span = int(time[edges[last] - 1] - time[edges[first]])
        return cut not in back and int(time[cut] - time[cut - 1]) <= max(span, PAUSE)

    grown = True
    while grown:
        grown = False
        if first > 0 and near(int(edges[first])):
            first, grown = first - 1, True
        if last < len(edges) - 1 and near(int(edges[last])):
            last, grown = last + 1, True
    return int(edges[first]), int(edges[last])

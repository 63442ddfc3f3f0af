"""Spiking Heidelberg Digits and Spiking Speech Commands: spikes of a model of the ear, in HDF5 files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from spikeproof.datasets.recordings import Events, Recording, Recordings, bad
from spikeproof.errors import InputError

__all__ = ["SHD", "SSC"]

UNITS = 700
MOST_EXAMPLES = 200_000
MOST_SPIKES = 1 << 20  # of one example


@dataclass(frozen=True)
class Cochlea(Recordings):
    """Spikes of 700 units of an artificial cochlea."""

    steps: int = 100
    duration: float | None = 1.4
    size: int | None = None
    prefix: ClassVar[str]
    parts: ClassVar[dict[str, str]]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and not 1 <= self.size <= UNITS:
            raise InputError(
                f"{type(self).__name__} joins {UNITS} units to 1 to {UNITS} of them",
                f"size={self.size}",
                "Try 140, or None for all.",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        return 1, self.size or UNITS, 1

    def recordings(self, folder: Path) -> list[Recording]:
        paths = {part: folder / f"{self.prefix}_{name}.h5" for part, name in self.parts.items()}
        if not all(path.is_file() for path in paths.values()):
            return []
        return [Recording(path, part) for part, path in paths.items()]

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        size = self.size or UNITS
        for time, unit, label in read_spikes(recording.path):
            events = Events.sorted(time, 0, unit, 0)
            events.check((1, UNITS, 1), recording.path)
            yield Events(events.time, events.channel, events.row * size // UNITS, events.column), label


@dataclass(frozen=True)
class SHD(Cochlea):
    """10,420 spoken digits, German and English, as spikes of 700 units of an artificial cochlea.

    Needs `pip install 'spikeproof[hdf5]'`.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several spikes at one place of a frame count as one.
        duration: seconds that are taken, or None for each recording's own span.
        hold_out: share of the training recordings set aside for validation, 0 to 0.5.
        size: units after joining neighbours, whose spikes add up, 1 to 700, or None for all.

    Shapes:
        examples `[N, T, 1, size, 1]`

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, doi 10.1109/TNNLS.2020.3044364.
    """

    folder: ClassVar[str] = "shd"
    layouts: ClassVar[tuple[str, ...]] = ("SHD", "hdspikes")
    prefix: ClassVar[str] = "shd"
    parts: ClassVar[dict[str, str]] = {"train": "train", "test": "test"}
    names: ClassVar[tuple[str, ...]] = (
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "null",
        "eins",
        "zwei",
        "drei",
        "vier",
        "fünf",
        "sechs",
        "sieben",
        "acht",
        "neun",
    )
    advice: ClassVar[str] = (
        "Get shd_train.h5.gz and shd_test.h5.gz from https://zenkelab.org/datasets/ and unpack them with "
        "gunzip."
    )


@dataclass(frozen=True)
class SSC(Cochlea):
    """105,829 spoken words of 35 kinds, as spikes of 700 units of an artificial cochlea.

    The authors name a validation part. Needs `pip install 'spikeproof[hdf5]'`.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several spikes at one place of a frame count as one.
        duration: seconds that are taken, or None for each recording's own span.
        hold_out: without effect, since the authors' validation part is used.
        size: units after joining neighbours, whose spikes add up, 1 to 700, or None for all.

    Shapes:
        examples `[N, T, 1, size, 1]`

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, doi 10.1109/TNNLS.2020.3044364.
    """

    duration: float | None = 1.0
    size: int | None = 140
    folder: ClassVar[str] = "ssc"
    layouts: ClassVar[tuple[str, ...]] = ("SSC", "hdspikes")
    prefix: ClassVar[str] = "ssc"
    parts: ClassVar[dict[str, str]] = {"train": "train", "validation": "valid", "test": "test"}
    names: ClassVar[tuple[str, ...]] = (
        "yes",
        "no",
        "up",
        "down",
        "left",
        "right",
        "on",
        "off",
        "stop",
        "go",
        "backward",
        "forward",
        "follow",
        "learn",
        "bed",
        "bird",
        "cat",
        "dog",
        "happy",
        "house",
        "marvin",
        "sheila",
        "tree",
        "visual",
        "wow",
        "zero",
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
    )
    advice: ClassVar[str] = (
        "Get ssc_train.h5.gz, ssc_valid.h5.gz and ssc_test.h5.gz from https://zenkelab.org/datasets/ and "
        "unpack them with gunzip."
    )


def read_spikes(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Times in microseconds, units and label of each example of an HDF5 file.

    The file holds `spikes/times` in seconds and `spikes/units`, lists of any length, and `labels`. Nothing
    that lies in another file is followed.

    Raises:
        InputError: the file is something else, or h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise InputError(
            "Reading HDF5 files needs h5py", "no such package", "Run pip install 'spikeproof[hdf5]'."
        ) from error
    try:
        with h5py.File(path, "r") as file:
            names = ("spikes/times", "spikes/units", "labels")
            times, units, labels = (_array(h5py, file, name, path) for name in names)
            if not len(times) == len(units) == len(labels) <= MOST_EXAMPLES:
                lengths = f"{len(times)} lists of times, {len(units)} of units and {len(labels)} labels"
                raise bad(path, lengths)
            if labels.dtype.kind not in "iu" or {_kind(h5py, times), _kind(h5py, units)} - set("fiu"):
                raise bad(path, f"times {times.dtype}, units {units.dtype} and labels {labels.dtype}")
            for i, label in enumerate(labels[:].tolist()):
                time, unit = np.asarray(times[i], np.float64), np.asarray(units[i], np.int64)
                if time.shape != unit.shape or time.ndim != 1 or len(time) > MOST_SPIKES:
                    raise bad(path, f"times {time.shape} and units {unit.shape} of example {i}")
                if not (np.isfinite(time) & (time >= 0) & (time < 1e6)).all():
                    raise bad(path, f"times {time.min()} to {time.max()} s in example {i}")
                yield np.round(time * 1e6).astype(np.int64), unit, label
    except (OSError, KeyError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise bad(path, f"no such HDF5 file ({type(error).__name__}, {str(error)[:200]})") from error


def _array(h5py: Any, file: Any, name: str, path: Path) -> Any:
    """An array that lies in the file itself and claims no more than it may."""
    group: Any = file
    for step in name.split("/"):
        link = group.get(step, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise bad(path, f"{name} as a {type(link).__name__}, which is not followed")
        group = group[step]
    if not isinstance(group, h5py.Dataset) or group.ndim != 1 or group.external or group.is_virtual:
        raise bad(path, f"{name}, which is no list within the file")
    chunk = group.chunks[0] if group.chunks else 0
    if max(group.size, chunk) > MOST_EXAMPLES:
        raise bad(path, f"{name} of {group.size} entries in chunks of {chunk}")
    return group


def _kind(h5py: Any, array: Any) -> str:
    """The kind of number in lists of any length."""
    inner = h5py.check_vlen_dtype(array.dtype)
    return str(np.dtype(inner).kind) if inner is not None else "?"

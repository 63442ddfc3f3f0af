"""Spiking Heidelberg Digits and Spiking Speech Commands: spikes of a model of the inner ear, in HDF5."""

from __future__ import annotations

import gzip
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from spikeproof.datasets.intake.files import CHUNK, first_line, is_compressed
from spikeproof.datasets.recordings import Events, Recording, Recordings, bad
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["SHD", "SSC"]

HDF5: TypeAlias = Any
"""The module, a file, a group, an array or a type of h5py, which declares no types."""

UNITS = 700
INTEGERS = frozenset("iu")
"""The kinds of integers, as NumPy abbreviates them."""

NUMBERS = INTEGERS | {"f"}
"""The kinds of real numbers."""

MOST_EXAMPLES = 200_000
MOST_SPIKES = 1 << 20  # of one example
UNPACKED = 1 << 34  # bytes of a file after decompression


@dataclass(frozen=True)
class Cochlea(Recordings):
    """A data set of spikes of 700 units of an artificial cochlea."""

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
        found = {part: self._file(folder, part) for part in self.parts}
        files = [Recording(path, part) for part, path in found.items() if path is not None]
        return files if len(files) == len(self.parts) else []

    def _file(self, folder: Path, part: str) -> Path | None:
        """The uncompressed file of a part if there is one, else the compressed file."""
        names = [f"{self.prefix}_{self.parts[part]}.h5{end}" for end in ("", ".gz")]
        return next((folder / name for name in names if (folder / name).is_file()), None)

    def wanting(self, folder: Path) -> str:
        lacking = [
            f"{self.prefix}_{name}.h5" for part, name in self.parts.items() if not self._file(folder, part)
        ]
        return f"lacks {' and '.join(lacking)}" if len(lacking) < len(self.parts) else ""

    def labels(self, recording: Recording) -> Sequence[int] | None:
        if is_compressed(recording.path):
            return None
        labels = read_labels(recording.path)
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.names):
            found = f"label {labels.max()}" if labels.min() >= 0 else f"label {labels.min()}"
            raise bad(recording.path, f"{found} where there are {len(self.names)} classes")
        return [int(label) for label in labels]

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
        binary: whether several spikes of one unit in a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: share of the training recordings set aside for validation, 0 to 0.5.
        size: number of units after neighbours are joined, whose spikes add up, 1 to 700, or None for all.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 800, test: 200}`.
        blank: whether examples without spikes are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 1, size, 1]`

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, doi 10.1109/TNNLS.2020.3044364.
    """

    published: ClassVar[Mapping[str, int]] = {"train": 8_156, "test": 2_264}
    lasting: ClassVar[float | None] = 0.8
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
        "Get shd_train.h5.gz and shd_test.h5.gz from https://zenkelab.org/datasets/; unpacked with gunzip "
        "they are read sooner."
    )


@dataclass(frozen=True)
class SSC(Cochlea):
    """105,829 spoken words of 35 kinds, as spikes of 700 units of an artificial cochlea.

    The authors name a validation part. Needs `pip install 'spikeproof[hdf5]'`.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several spikes of one unit in a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: without effect, since the authors' validation part is used.
        size: number of units after neighbours are joined, whose spikes add up, 1 to 700, or None for all.
        subset: numbers of examples in the files if they are incomplete, such as
            `{train: 800, validation: 100, test: 200}`.
        blank: whether examples without spikes are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 1, size, 1]`

    Source:
        Cramer, Stradmann, Schemmel & Zenke 2020, doi 10.1109/TNNLS.2020.3044364.
    """

    duration: float | None = 1.0
    size: int | None = 140
    published: ClassVar[Mapping[str, int]] = {"train": 75_466, "validation": 9_981, "test": 20_382}
    lasting: ClassVar[float | None] = 0.8
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
        "Get ssc_train.h5.gz, ssc_valid.h5.gz and ssc_test.h5.gz from https://zenkelab.org/datasets/; "
        "unpacked with gunzip they are read sooner."
    )


def read_labels(path: Path) -> np.ndarray:
    """The label of each example of an HDF5 file.

    Raises:
        InputError: the file has another format, or h5py is not installed.
    """
    with opened_hdf5(path) as (h5py, file):
        labels: np.ndarray = _arrays(h5py, file, path)[2][:]
        return labels


def read_spikes(path: Path) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """The times in microseconds, the units and the label of each example of an HDF5 file.

    The file, which may be compressed by gzip, holds `spikes/times` in seconds and `spikes/units`, lists of
    any length, and `labels`. Links to other files are not followed. A list takes as much space in the file as
    its entries do, so lists that together exceed the size of the file repeat the same data; they are refused.

    Raises:
        InputError: the file has another format, or h5py is not installed.
    """
    with opened_hdf5(path) as (h5py, file):
        times, units, labels = _arrays(h5py, file, path)
        room = file.id.get_filesize()
        for i, label in enumerate(labels[:].tolist()):
            stored = times[i], units[i]
            room -= sum(np.asarray(numbers).nbytes for numbers in stored)
            if room < 0:
                raise bad(path, f"lists up to example {i} that are larger than the file")
            time, unit = np.asarray(stored[0], np.float64), np.asarray(stored[1], np.int64)
            if time.shape != unit.shape or time.ndim != 1 or len(time) > MOST_SPIKES:
                raise bad(path, f"times {time.shape} and units {unit.shape} of example {i}")
            if not (np.isfinite(time) & (time >= 0) & (time < 1e6)).all():
                raise bad(path, f"times {time.min()} to {time.max()} s in example {i}")
            yield np.round(time * 1e6).astype(np.int64), unit, label


@contextmanager
def opened_hdf5(path: Path) -> Iterator[tuple[HDF5, HDF5]]:
    """The module h5py and the opened file; errors on reading it become messages that name it."""
    try:
        import h5py
    except (ImportError, AttributeError, RuntimeError, ValueError) as error:
        raise InputError(
            "Reading HDF5 files needs an h5py that can be imported",
            first_line(error) or "none",
            "Run pip install 'spikeproof[hdf5]'.",
        ) from error
    try:
        open_regular(path).close()
        with _plain(path) as plain, h5py.File(plain, "r") as file:
            yield h5py, file
    except (
        OSError,
        KeyError,
        RuntimeError,
        ValueError,
        TypeError,
        AttributeError,
        OverflowError,
        MemoryError,
        EOFError,
        zlib.error,
    ) as error:
        if isinstance(error, InputError):
            raise
        raise bad(path, f"no such HDF5 file ({type(error).__name__}, {str(error)[:200]})") from error


@contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """The file itself, or a temporary copy without compression."""
    if not is_compressed(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="spikeproof-") as folder:
        copy = Path(folder) / path.stem
        with open_regular(path) as packed, gzip.open(packed) as content, copy.open("wb") as file:
            size = 0
            while chunk := content.read(CHUNK):
                size += len(chunk)
                if size > UNPACKED:
                    raise bad(path, f"more than {UNPACKED} bytes once it is unpacked")
                file.write(chunk)
        yield copy


def _arrays(h5py: HDF5, file: HDF5, path: Path) -> tuple[HDF5, HDF5, HDF5]:
    """The arrays of times, units and labels, whose lengths and types are checked."""
    times, units, labels = (
        _array(h5py, file, name, path) for name in ("spikes/times", "spikes/units", "labels")
    )
    if not len(times) == len(units) == len(labels) <= MOST_EXAMPLES:
        lengths = f"{len(times)} lists of times, {len(units)} of units and {len(labels)} labels"
        raise bad(path, lengths)
    if not INTEGERS.issuperset(labels.dtype.kind) or not NUMBERS.issuperset(
        (_kind(h5py, times), _kind(h5py, units))
    ):
        raise bad(path, f"times {times.dtype}, units {units.dtype} and labels {labels.dtype}")
    return times, units, labels


def _array(h5py: HDF5, file: HDF5, name: str, path: Path) -> HDF5:
    """An array that is stored in the file itself and is not larger than allowed."""
    group: HDF5 = file
    for step in name.split("/"):
        if not isinstance(group, h5py.Group):
            raise bad(path, f"{name}, whose group is an array")
        link = group.get(step, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise bad(path, f"{name} as a {type(link).__name__}, which is not followed")
        group = group[step]
    if not isinstance(group, h5py.Dataset) or group.ndim != 1 or group.external or group.is_virtual:
        raise bad(path, f"{name}, which is not a list within the file")
    chunk = group.chunks[0] if group.chunks else 0
    if max(group.size, chunk) > MOST_EXAMPLES:
        raise bad(path, f"{name} of {group.size} entries in chunks of {chunk}")
    return group


def _kind(h5py: HDF5, array: HDF5) -> str:
    """The kind of number in an array of lists of any length, as NumPy abbreviates it."""
    inner = h5py.check_vlen_dtype(array.dtype)
    return str(np.dtype(inner).kind) if inner is not None else "?"

"""Files of recorded events in the formats of cameras and libraries, one recording each."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import BinaryIO, NamedTuple

import numpy as np

from spikeproof.datasets.cameras import read_aedat2, read_aedat3, read_bin
from spikeproof.datasets.cochlea import HDF5, opened_hdf5
from spikeproof.datasets.intake.clock import clocked
from spikeproof.datasets.intake.files import first_line
from spikeproof.datasets.intake.vectors import Halves, vectors
from spikeproof.datasets.owned.arrays import read_npy, read_npz
from spikeproof.datasets.owned.layouts import content_of
from spikeproof.datasets.recordings import LARGEST, Events
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["READERS", "Columns", "Seen", "columns_of", "label_of_hdf5", "read_events"]

MOST = 1 << 25
"""The largest number of events of one recording."""

ALIASES: Mapping[str, frozenset[str]] = {
    "x": frozenset({"x", "xs", "col", "column", "x_position"}),
    "y": frozenset({"y", "ys", "row", "y_position"}),
    "t": frozenset({"t", "ts", "time", "times", "timestamp", "timestamps"}),
    "p": frozenset({"p", "ps", "pol", "polarity", "polarities", "on", "payload"}),
}
"""Column of an event, and the names it has in files."""

POLARITIES = ({0, 1}, {-1, 1})
"""The two ways to write OFF and ON."""


@dataclass(frozen=True)
class Columns:
    """How the numbers of a file are to be understood, where the file does not say it.

    Args:
        order: the order of the columns without names, such as `xytp`, or None to refuse them.
        tick: seconds of one unit of time.
    """

    order: str | None = None
    tick: float = 1e-6

    def __post_init__(self) -> None:
        if self.order is not None and sorted(self.order) != sorted(ALIASES):
            raise InputError(
                "The order of columns has each of x, y, t and p once", repr(self.order), "Try xytp or txyp."
            )
        if not 1e-9 <= self.tick <= 1:
            raise InputError(
                "One unit of time lasts 1e-9 to 1 s", f"tick={self.tick}", "Try 1e-6 for microseconds."
            )


class Seen(NamedTuple):
    """The events of a recording, and the height and width of the sensor if the file states them."""

    events: Events
    sensor: tuple[int, int] | None = None


def read_events(path: Path, columns: Columns = Columns()) -> Seen:
    """The events of a file, by its suffix.

    Raises:
        InputError: the file is not a complete recording in its format, or the package that reads it is not
            installed.
    """
    return READERS[path.suffix.lower()](path, columns)


def _npy(path: Path, columns: Columns) -> Seen:
    return _seen(_named(read_npy(content_of(path, LARGEST), str(path)), path, columns), path, columns)


def _npz(path: Path, columns: Columns) -> Seen:
    arrays = read_npz(path, LARGEST)
    if len(arrays) == 1:
        return _seen(_named(next(iter(arrays.values())), path, columns), path, columns)
    return _seen(arrays, path, columns)


def _hdf5(path: Path, columns: Columns) -> Seen:
    """HDF5 as Prophesee, DSEC and tonic's caches write it: one table of events, or a group of columns."""
    with opened_hdf5(path) as (h5py, file):
        for name in ("CD/events", "events", "data/0"):
            found = _inside(h5py, file, name)
            if found is not None:
                break
        else:
            raise _bad(path, "no CD/events, events or data/0 in it")
        if isinstance(found, h5py.Group):
            arrays = {key: _array(h5py, _inside(h5py, found, key), path) for key in found if _column(key)}
        else:
            arrays = _named(_array(h5py, found, path), path, columns)
        return Seen(_seen(arrays, path, columns).events, _geometry(file.attrs))


def label_of_hdf5(path: Path) -> int:
    """The label that tonic's cache stores beside the events.

    Raises:
        InputError: there is none.
    """
    with opened_hdf5(path) as (h5py, file):
        found = _inside(h5py, file, "target/0")
        if found is None or found.shape not in ((), (1,)) or found.dtype.kind not in INTEGERS:
            raise _bad(path, "no label target/0")
        return int(np.asarray(found[()]).ravel()[0])


def _inside(h5py: HDF5, file: HDF5, name: str) -> HDF5:
    """What a file has under this name itself, or None; links to other files are not followed."""
    here = file
    for step in name.split("/"):
        if not isinstance(here, h5py.Group) or not isinstance(here.get(step, getlink=True), h5py.HardLink):
            return None
        here = here[step]
    return here


def _array(h5py: HDF5, found: HDF5, path: Path) -> np.ndarray:
    if not isinstance(found, h5py.Dataset) or found.external or found.is_virtual:
        raise _bad(path, "events that are no array within the file")
    chunk = math.prod(found.chunks or ()) * found.dtype.itemsize
    if max(found.nbytes, chunk) > LARGEST:
        raise _bad(path, f"an array of {found.nbytes} bytes in chunks of {chunk}")
    array: np.ndarray = found[()]
    return array


def _geometry(attributes: HDF5) -> tuple[int, int] | None:
    """Height and width from the attribute `geometry`, `1280x720`, that Prophesee writes."""
    width, by, height = str(attributes.get("geometry", "")).partition("x")
    return (int(height), int(width)) if by and width.isdecimal() and height.isdecimal() else None


def _aedat4(path: Path, columns: Columns) -> Seen:
    """AEDAT 4 of iniVation, by the package aedat."""
    with _foreign("aedat", path) as aedat:
        decoder = aedat.Decoder(path)
        streams = {number: each for number, each in decoder.id_to_stream().items() if each["type"] in EVENTS}
        if len(streams) != 1:
            raise _bad(path, f"{len(streams)} streams of events")
        ((number, stream),) = streams.items()
        packets = (packet["events"] for packet in decoder if packet["stream_id"] == number)
        return _of_packets(packets, (stream["height"], stream["width"]), path)


EVENTS = frozenset({"events"})


def _dat(path: Path, columns: Columns) -> Seen:
    """DAT of Prophesee, by the package faery."""
    _check_words(path, {b"": 8}, 2)
    with _foreign("faery", path) as faery, faery.dat.Decoder(path, UNSTATED, None) as decoder:
        if decoder.event_type != CHANGES:
            raise _bad(path, f"events of kind {decoder.event_type} instead of {CHANGES}")
        return _of_packets(decoder, _stated(decoder.dimensions), path)


def _raw(path: Path, columns: Columns) -> Seen:
    """RAW of Prophesee: EVT 2 and 3 by the package faery, EVT 2.1 by a reader of ours."""
    header, content = _check_words(path, WORDS, 0)
    if _bytes_of_a_word(header, WORDS) == VECTOR:
        found = vectors(content_of(path, LARGEST)[content:], _halves(header, path), path)
        if not len(found["t"]):
            raise _bad(path, "no events")
        return Seen(_seen(found, path, Columns()).events, _of_header(header))
    with _foreign("faery", path) as faery, faery.evt.Decoder(path, UNSTATED, None) as decoder:
        packets = (packet["events"] for packet in decoder if packet.get("events") is not None)
        return _of_packets(packets, _stated(decoder.dimensions), path)


def _halves(header: bytes, path: Path) -> Halves | None:
    """The order of the halves of a word, which a header states as `endianness`; None if it does not.

    Raises:
        InputError: an order that no camera writes to files.
    """
    stated = re.search(rb"endianness[ =]+(\w+)", header)
    if stated is None:
        return None
    known = {each.value: each for each in Halves}
    name = stated[1].decode("ascii", "replace")
    if name not in known:
        raise _bad(path, f"words of EVT 2.1 in the order {name!r} instead of {' or '.join(known)}")
    return known[name]


def _of_header(header: bytes) -> tuple[int, int] | None:
    """Height and width of the sensor, from `geometry 1280x720` or `height=720;width=1280`."""
    if stated := re.search(rb"geometry[ =]+(\d{1,5})x(\d{1,5})", header):
        return int(stated[2]), int(stated[1])
    sides = [re.search(name + rb"=(\d{1,5})", header) for name in (b"height", b"width")]
    return (int(sides[0][1]), int(sides[1][1])) if sides[0] and sides[1] else None


CHANGES = "cd"
"""Changes of contrast, as Prophesee abbreviates them."""

UNSTATED = (1 << 14, 1 << 14)
"""The width and height of a sensor whose file does not state them: the largest that the formats have."""

VECTOR = 8
"""The bytes of a word that has the events of 32 pixels."""

WORDS: Mapping[bytes, int] = {b"evt 2.1": VECTOR, b"EVT21": VECTOR, b"evt 3": 2, b"EVT3": 2, b"": 4}
"""A phrase of the header of a RAW file, and the bytes of each word of such a file."""


def _stated(size: tuple[int, int] | None) -> tuple[int, int] | None:
    """Height and width of a header, which has width and height."""
    return (size[1], size[0]) if size and size != UNSTATED else None


def _bytes_of_a_word(header: bytes, words: Mapping[bytes, int]) -> int:
    return next(count for phrase, count in words.items() if phrase in header)


def _check_words(path: Path, words: Mapping[bytes, int], before: int) -> tuple[bytes, int]:
    """The header of a file and the place of its first word.

    Args:
        path: the file, with a header of lines that begin with `%`.
        words: phrase of the header -> bytes of a word; the first phrase that is found counts.
        before: bytes between the header and the words.

    Raises:
        InputError: the content ends within a word, as half a copy does.
    """
    with _opened(path) as file:
        header = b""
        while (line := file.readline(LONGEST_LINE)).startswith(b"%"):
            header += line
            if line.strip() == END or len(header) > LONGEST_HEADER:
                line = b""
                break
        start = file.tell() - len(line)
        size = file.seek(0, 2) - start - before
    word = _bytes_of_a_word(header, words)
    if size <= 0 or size % word:
        raise _bad(path, f"{size} bytes of events after the header, no whole number of words of {word}")
    return header, start + before


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file; errors on reading it become messages that name it."""
    try:
        with open_regular(path) as file:
            yield file
    except OSError as error:
        raise _bad(path, f"an unreadable file ({error.strerror or error})") from error


END = b"% end"
LONGEST_LINE = 1 << 12
LONGEST_HEADER = 1 << 16


@contextmanager
def _foreign(package: str, path: Path) -> Iterator[ModuleType]:
    """A package that decodes a format; its errors become messages that name the file."""
    try:
        module = import_module(package)
    except ImportError as error:
        raise InputError(
            f"Reading {path.suffix} files needs {package}",
            first_line(error),
            f"Run pip install 'spikeproof[cameras]', or pip install {package}.",
        ) from error
    try:
        open_regular(path).close()
        yield module
    except (InputError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a package in another language may raise anything about a damaged file
        raise _bad(path, f"a damaged file ({type(error).__name__}, {first_line(error)})") from error


def _of_packets(packets: Iterable[np.ndarray], sensor: tuple[int, int] | None, path: Path) -> Seen:
    """Events that come in packets of structured arrays with the fields t, x, y and on (or p)."""
    found, count = list[np.ndarray](), 0
    for packet in packets:
        found.append(packet.copy())
        count += len(packet)
        if count > MOST:
            raise _bad(path, f"more than {MOST} events")
    if not count:
        raise _bad(path, "no events")
    return Seen(_seen(_named(np.concatenate(found), path, Columns()), path, Columns()).events, sensor)


def _named(array: np.ndarray, path: Path, columns: Columns) -> dict[str, np.ndarray]:
    """Column -> values, of a structured array, or of one with four columns or rows without names."""
    if array.dtype.names is not None:
        return {name: array[name].ravel() for name in array.dtype.names}
    if array.ndim != 2 or FOUR not in array.shape:
        raise _bad(path, f"an array of shape {list(array.shape)} without names of columns")
    if columns.order is None:
        raise InputError(
            f"{path} has columns without names, whose order has to be given",
            f"an array of shape {list(array.shape)}",
            "Write columns: xytp, or another order of the four letters.",
        )
    table = array.T if array.shape[1] == FOUR else array
    return dict(zip(columns.order, table, strict=True))


FOUR = len(ALIASES)
INTEGERS = frozenset("iub")
NUMBERS = INTEGERS | {"f"}


def _column(name: str) -> str | None:
    return next((column for column, names in ALIASES.items() if name.lower() in names), None)


def _seen(arrays: Mapping[str, np.ndarray], path: Path, columns: Columns) -> Seen:
    """Events from columns of any names and types, in order of time."""
    found: dict[str, np.ndarray] = {}
    for name, values in arrays.items():
        column = _column(name)
        if column is not None and column not in found:
            found[column] = values
    lacking = [column for column in ALIASES if column not in found]
    if lacking:
        raise _bad(path, f"no column {' or '.join(lacking)} among {', '.join(sorted(arrays)[:9])}")
    lengths = {values.shape for values in found.values()}
    kinds = {values.dtype.kind for values in found.values()}
    if len(lengths) != 1 or len(next(iter(lengths))) != 1 or not NUMBERS.issuperset(kinds):
        raise _bad(path, f"columns of shapes {sorted(lengths)} and kinds {', '.join(sorted(kinds))}")
    if len(found["t"]) > MOST:
        raise _bad(path, f"more than {MOST} events")
    whole = {column: _whole(found[column], column, path) for column in ("x", "y", "p")}
    time = _microseconds(found["t"], columns.tick, path)
    polarity = whole["p"]
    if not any(set(np.unique(polarity).tolist()) <= allowed for allowed in POLARITIES):
        raise _bad(path, f"polarities {polarity.min()} to {polarity.max()} instead of 0 and 1, or -1 and 1")
    time, kept, remark = clocked(time, path)
    if len(time):
        time = time - time.min()
    rows, places = whole["y"][kept], whole["x"][kept]
    return Seen(Events.sorted(time, (polarity[kept] > 0).astype(np.int64), rows, places, remark))


def _whole(values: np.ndarray, column: str, path: Path) -> np.ndarray:
    whole: np.ndarray = values.astype(np.int64) if values.dtype.kind in INTEGERS else np.rint(values)
    if values.dtype.kind not in INTEGERS and not np.array_equal(whole, values):
        raise _bad(path, f"{column} with fractions, or values that are not finite")
    return whole.astype(np.int64)


def _microseconds(values: np.ndarray, tick: float, path: Path) -> np.ndarray:
    """Times in whole microseconds from the first one."""
    if values.dtype.kind in INTEGERS and tick == MICROSECOND:
        if len(values) and int(values.max()) > np.iinfo(np.int64).max:
            raise _bad(path, f"a time of {values.max()}")
        return values.astype(np.int64)
    seconds = values.astype(np.float64) * (tick / MICROSECOND)
    if not np.isfinite(seconds).all() or (len(seconds) and np.abs(seconds).max() > 2.0**62):
        raise _bad(path, "times that are not finite")
    if tick == MICROSECOND and not np.array_equal(np.rint(values), values):
        raise InputError(
            f"{path} has times in whole microseconds, as tick: 1e-6 says",
            f"times from {values.min()} to {values.max()}",
            "Write tick: 1 if they are in seconds, or tick: 1e-3 for milliseconds.",
        )
    return np.rint(seconds).astype(np.int64)


MICROSECOND = 1e-6


def _bin(path: Path, columns: Columns) -> Seen:
    """The files of N-MNIST and N-Caltech101: 40 bits an event."""
    return Seen(read_bin(path))


def _aedat(path: Path, columns: Columns) -> Seen:
    """AEDAT 2 or 3.1, as the first line says."""
    with _opened(path) as file:
        third = file.read(len(AEDAT3)) == AEDAT3
    events = read_aedat3(path) if third else read_aedat2(path)
    first = events.time[0] if len(events) else 0
    return Seen(Events(events.time - first, events.channel, events.row, events.column, events.remark), None)


AEDAT3 = b"#!AER-DAT3"

READERS: Mapping[str, Callable[[Path, Columns], Seen]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".bin": _bin,
    ".aedat": _aedat,
    ".aedat4": _aedat4,
    ".dat": _dat,
    ".raw": _raw,
}
"""Suffix of a file, and the function that reads its events."""


def columns_of(arrays: Mapping[str, np.ndarray], path: Path) -> Events:
    """Events from columns x, y, t and p in microseconds; y and p are 0 where they are missing.

    Args:
        arrays: name of a column -> its values.
        path: the recording, for messages.

    Raises:
        InputError: x or t is missing, or values cannot be those of events.
    """
    length = len(next(iter(arrays.values()), ()))
    zeros = {column: np.zeros(length, np.int64) for column in ("y", "p") if column not in arrays}
    return _seen({**arrays, **zeros}, path, Columns()).events


def _bad(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} should be a complete recording of events with x, y, t and p",
        got,
        "Replace it by a good copy, convert it, or remove it.",
    )

"""Recordings of events: binned by time or by count, with a cache that is safe to kill and to share."""

from __future__ import annotations

import hashlib
import json
import math
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Int, Int64

from spikeproof.datasets.intake.census import Subset, admitted
from spikeproof.datasets.intake.files import (
    CHUNK,
    Base,
    bases,
    first_usable,
    layouts_of,
    missing_variable,
    take,
    user_cache,
)
from spikeproof.datasets.intake.nearmisses import nested, sighted
from spikeproof.datasets.parts import Dataset, Source, Split, content_digest, shuffled
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular
from spikeproof.specs import address

__all__ = ["Events", "Recording", "Recordings", "frames", "read_whole"]

LARGEST = 1 << 29  # bytes of one file's content that a reader is willing to hold
LONGEST_LIST = 1 << 20  # bytes of a list of files or labels
MOST = 1 << 33  # bytes of all frames of a data set
CACHE_VERSION = 2
"""Raised whenever a change of the code alters the frames that the same files and options give."""


@dataclass(frozen=True, eq=False)
class Events:
    """What a sensor reported, in order of time.

    Args:
        time: microseconds from the start of the recording, never falling.
        channel: polarity or another kind of event, from 0.
        row: place from the top, or number of a frequency band.
        column: place from the left.
        remark: what was done to them that their reader has to know, or nothing.
        what: which part of its file they are, if not all of it.
    """

    time: Int64[np.ndarray, "N"]
    channel: Int64[np.ndarray, "N"]
    row: Int64[np.ndarray, "N"]
    column: Int64[np.ndarray, "N"]
    remark: str = ""
    what: str = ""

    @classmethod
    def sorted(
        cls,
        time: np.ndarray,
        channel: np.ndarray | int,
        row: np.ndarray,
        column: np.ndarray | int,
        remark: str = "",
    ) -> Events:
        """Events in order of time; equal times stay in their order."""
        columns = [
            np.broadcast_to(np.asarray(a), time.shape).astype(np.int64) for a in (channel, row, column)
        ]
        if (np.diff(time) < 0).any():
            order = np.argsort(time, kind="stable")
            time, columns = time[order], [a[order] for a in columns]
        channels, rows, places = columns
        return cls(time.astype(np.int64), channels, rows, places, remark)

    def __len__(self) -> int:
        return len(self.time)

    def check(self, shape: tuple[int, int, int], path: Path) -> None:
        """Refuse events outside the sensor, and times below zero.

        Raises:
            InputError: there are some.
        """
        for name, values, bound in zip(
            ("channel", "row", "column"), (self.channel, self.row, self.column), shape, strict=True
        ):
            if len(values) and not 0 <= values.min() <= values.max() < bound:
                raise bad(path, f"events at {name} {values.min()} to {values.max()} of {bound}")
        if len(self.time) and self.time.min() < 0:
            raise bad(path, f"an event at {self.time.min()} microseconds")


@dataclass(frozen=True)
class Recording:
    """One file of a data set.

    Args:
        path: the file.
        part: `train`, `validation` or `test`.
        label: the class, where the file holds one example; -1 where it says so itself.
        others: further files that it is read with.
    """

    path: Path
    part: str
    label: int = -1
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Recordings(Source):
    """Recordings of events, binned to frames."""

    steps: int = 10
    by: Literal["time", "count"] = "time"
    binary: bool = False
    duration: float | None = None
    hold_out: float = 0.1
    subset: Subset | None = field(default=None, kw_only=True)
    blank: Literal["leave-out", "keep"] | None = field(default=None, kw_only=True)
    published: ClassVar[Mapping[str, int]] = {}
    lasting: ClassVar[float | None] = None
    """Seconds that an example of the data set lasts, about; None where nobody knows."""
    folder: ClassVar[str]
    layouts: ClassVar[tuple[str, ...]] = ()
    names: ClassVar[tuple[str, ...]]
    advice: ClassVar[str]

    def __post_init__(self) -> None:
        for name, valid, bound in (
            ("steps", 1 <= self.steps <= 10_000, "from 1 to 10000"),
            ("hold_out", 0 <= self.hold_out <= 0.5, "from 0 to 0.5"),
            (
                "duration",
                self.duration is None or 0 < self.duration <= 10_000,
                "positive, in seconds, or None",
            ),
        ):
            if not valid:
                raise InputError(
                    f"{type(self).__name__} needs {name} {bound}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame."""
        raise NotImplementedError(f"{type(self).__name__} has no frames")

    def recordings(self, folder: Path) -> list[Recording]:
        """The files of the data set in a folder, in a fixed order; none where they are not there."""
        raise NotImplementedError(f"{type(self).__name__} has no files")

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        """Events in the coordinates of a frame, and label, of each example of a file."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")

    def labels(self, recording: Recording) -> Sequence[int] | None:
        """The class of each example of a file, as far as it can be told without reading the events.

        None stands for a file that has to be unpacked first.
        """
        return (recording.label,)

    def wanting(self, folder: Path) -> str:
        """What a folder lacks that has some of the files, or nothing."""
        return ""

    def load(self, root: Path | None = None) -> Dataset:
        """Read and bin the files, or take the frames from the cache.

        Args:
            root: a directory that holds the files as they are handed out, itself or a folder lower; looked
                into before the others.

        Raises:
            InputError: files that are not what they should be, or no files.
        """
        found = self._find(root)
        if not found:
            tried = "\n".join(f"  - {line}" for line in self._tried(root))
            raise InputError(
                f"The recordings of {self.folder}",
                f"no place that has them:\n{tried}",
                f"{self.advice} Then give their directory with --data or SPIKEPROOF_DATA.",
            )
        data, passed = first_usable(found, self._read, lambda place: place[0])
        return replace(data, notes=(*missing_variable(), *passed, *data.notes))

    def locate(self, root: Path | None = None) -> str:
        found = self._find(root)
        return str(found[0][0]) if found else "not found"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        found = self._find(root)
        if not found:
            return ()
        notes, passed = first_usable(found, self._counted, lambda place: place[0])
        return (*missing_variable(), *passed, *notes)

    def _read(self, found: tuple[Path, list[Recording]]) -> Dataset:
        """The data set from the files of a folder."""
        folder, files = found
        self._counted(found)
        cache = user_cache()
        name = self._address(folder, files)
        kept = None if cache is None else cache / "frames" / f"{name}.safetensors"
        taken = _from_cache(kept)
        if taken is None:
            taken = self._binned(files)
            _to_cache(kept, *taken)
        return self._dataset(*taken, str(folder))

    def _counted(self, found: tuple[Path, list[Recording]]) -> tuple[str, ...]:
        """What is to be said of the number of examples, told before events are read.

        Raises:
            InputError: parts or classes are missing, or the frames would take too much memory.
        """
        folder, files = found
        labels: dict[str, list[int]] = {}
        for recording in files:
            told = self.labels(recording)
            if told is None:
                return (f"{recording.path.name} is compressed, and its examples are counted when it is read",)
            labels.setdefault(recording.part, []).extend(told)
        for part in ("train", "test"):
            if not labels.get(part):
                raise self._incomplete(part, str(folder))
        notes = self._admitted(labels, self.subset, str(folder))
        self._check_room(sum(map(len, labels.values())) * self.steps * math.prod(self.shape))
        return notes

    def _admitted(
        self, labels: Mapping[str, Sequence[int] | np.ndarray], subset: Subset | None, where: str
    ) -> tuple[str, ...]:
        return admitted(self.folder, labels, self.names, self.published, subset, where)

    def _incomplete(self, part: str, where: str) -> InputError:
        return InputError(
            f"{self.folder} has a training and a test part",
            f"no recordings of the {part} part in {where}",
            "Check that the files are complete.",
        )

    def _check_room(self, size: int) -> None:
        if size > MOST:
            raise InputError(
                f"The frames of {self.folder} fit into {MOST >> 30} GiB",
                f"{self.steps} steps of {self.shape}",
                "Ask for fewer steps or a smaller size.",
            )

    def _below(self, base: Base) -> Iterator[Path]:
        """Places below a base, the usual ones first."""
        usual = layouts_of(base, self.folder, self.layouts)
        yield from dict.fromkeys((*usual, *nested(base, (self.folder, type(self).__name__, *self.layouts))))

    def _tried(self, root: Path | None) -> Iterator[str]:
        """Every place that was looked into, with what it lacks of the files it has some of."""
        found = bases(root, self.folder)
        for place in (place for base in found for place in self._below(base)):
            try:
                wanting = self.wanting(place)
            except PermissionError:
                wanting = "may not be read"
            yield f"{place}: {wanting}" if wanting else str(place)
        yield from sighted(base.path for base in found if base.open)
        yield from missing_variable()

    def _find(self, root: Path | None) -> list[tuple[Path, list[Recording]]]:
        """Folders with files below the first base that has any."""
        for base in bases(root, self.folder):
            found = []
            for place in self._below(base):
                with suppress(PermissionError):
                    if place.is_dir() and (files := self.recordings(place)):
                        found.append((place, files))
            if found:
                return found
        return []

    def _address(self, folder: Path, files: Sequence[Recording]) -> str:
        """What the frames depend on: the files' content, how they are read, and how they are binned."""
        digest = hashlib.sha256()
        for path in dict.fromkeys(path for r in files for path in (r.path, *r.others)):
            digest.update(repr(str(path.relative_to(folder))).encode())
            digest.update(_file_digest(path))
        aside = ("hold_out", "subset")
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in aside}
        listed = [(str(r.path.relative_to(folder)), r.part, r.label) for r in files]
        return address(
            {
                "reader": type(self).__name__,
                "options": options,
                "files": digest.hexdigest(),
                "listed": listed,
                "version": CACHE_VERSION,
            }
        )

    def _binned(self, files: Sequence[Recording]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        """Frames and labels of every part, and what was found on the way."""
        parts: dict[str, _Growing] = {}
        remarks, size = _Remarks(), 0
        for recording in files:
            part = parts.setdefault(recording.part, _Growing((self.steps, *self.shape)))
            for events, label in self.examples(recording):
                events.check(self.shape, recording.path)
                if not 0 <= label < len(self.names):
                    raise bad(recording.path, f"label {label} where there are {len(self.names)} classes")
                if events.remark:
                    remarks.add(events.remark, recording.path)
                example = frames(events, self.shape, self.steps, self.by, self.binary, self.duration)
                part.lasted(events)
                if not example.any():
                    part.blanks += 1
                    if self.blank is None:
                        raise self._blank(events, recording.path)
                    remarks.add(f"examples without events were {BLANK[self.blank]}", recording.path)
                    if self.blank == "leave-out":
                        continue
                size += part.append(example, label)
                self._check_room(size)
        for name, part in parts.items():
            self._check_part(name, part)
        arrays = {
            f"{name}.{kind}": array
            for name, part in sorted(parts.items())
            for kind, array in (("images", part.images), ("labels", part.labels))
        }
        return arrays, tuple(f"{self.folder}: {note}" for note in remarks.sentences())

    def _blank(self, events: Events, path: Path) -> InputError:
        """The message about an example without events."""
        if len(events):
            first, last = events.time[0] / 1e6, events.time[-1] / 1e6
            span = f"none within {self.duration} s; there are some from {first:g} to {last:g} s"
        else:
            span = "none"
        return InputError(
            f"Every example of {self.folder} has events",
            f"{span} in {f'{events.what} of ' if events.what else ''}{path}",
            "Check the file and its times; or write blank: leave-out, or blank: keep, and it is counted.",
        )

    def _check_part(self, name: str, part: _Growing) -> None:
        """Refuse a part of blank examples alone, or whose times are in another unit."""
        if part.spans and part.blanks == len(part.spans):
            raise InputError(
                f"The {name} part of {self.folder} has examples with events",
                f"{part.blanks} examples, all blank",
                "Check the duration and the unit of the times.",
            )
        if self.lasting is None or not part.spans:
            return
        span, count = float(np.median(part.spans)) / 1e6, float(np.median(part.counts))
        if span > OFF * self.lasting or (count >= MANY and span < self.lasting / OFF):
            raise InputError(
                f"Examples of {self.folder} last about {self.lasting:g} s",
                f"{span:g} s for half of those of the {name} part",
                "Check the unit of the times; events are counted in microseconds, HDF5 files in seconds.",
            )

    def _dataset(self, arrays: Mapping[str, np.ndarray], notes: tuple[str, ...], source: str) -> Dataset:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for part in ("train", "test"):
            if f"{part}.images" not in tensors or not len(tensors[f"{part}.images"]):
                raise self._incomplete(part, source)
        train = _split(tensors, "train", torch.arange(len(tensors["train.labels"])))
        if "validation.images" in tensors:
            validation = _split(tensors, "validation", torch.arange(len(tensors["validation.labels"])))
        else:
            order = torch.from_numpy(shuffled(len(train)))
            cut = len(train) - round(self.hold_out * len(train))
            train, validation = (_split(tensors, "train", rows) for rows in (order[:cut], order[cut:]))
        test = _split(tensors, "test", torch.arange(len(tensors["test.labels"])))
        digest = content_digest(*(arrays[name] for name in sorted(arrays)))
        labels = {
            name.removesuffix(".labels"): array for name, array in arrays.items() if name.endswith(".labels")
        }
        held = None if self.blank == "leave-out" else self.subset  # the files were held to it before
        notes += self._admitted(labels, held, source)
        return Dataset(self.folder, train, validation, test, self.names, digest, source, notes)


BLANK = {"leave-out": "left out", "keep": "kept"}

OFF = 30
"""How many times as long or as short as usual examples may last; units of time differ by a thousand."""

MANY = 100
"""Events from which on an example can be called too short."""


class _Remarks:
    """Remarks about examples, each said once with their number and the first file."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: dict[str, Path] = {}

    def add(self, remark: str, path: Path) -> None:
        self.counts[remark] += 1
        self.first.setdefault(remark, path)

    def sentences(self) -> Iterator[str]:
        for remark, count in self.counts.items():
            path = self.first[remark]
            times = "once, in" if count == 1 else f"{count:,} times, first in"
            yield f"{remark} ({times} {path.parent.name}/{path.name})"


def frames(
    events: Events,
    shape: tuple[int, int, int],
    steps: int,
    by: Literal["time", "count"],
    binary: bool,
    duration: float | None,
) -> Int[np.ndarray, "{steps} C H W"]:
    """Numbers of events in each frame.

    By time, frame `k` of `T` takes the events of the `k`-th part of the span, `floor(T (t - t_0) / span)`;
    the last event of the example's own span belongs to the last frame. By count, frame `k` takes event `i`
    of `n` where `k = floor(T i / n)`, so that frames hold equally many events, but for one.

    Args:
        events: in order of time, within the shape.
        shape: channels, height and width.
        steps: number of frames `T`.
        by: `"time"` or `"count"`.
        binary: whether several events at one place of a frame count as one.
        duration: the span in seconds, from time 0, later events being left out; or None for the example's
            own, from its first event to its last.

    Example:
        >>> zero = np.zeros(4, np.int64)
        >>> events = Events(np.array([0, 1, 2, 99]), zero, zero, zero)
        >>> [frames(events, (1, 1, 1), 2, by, False, None).ravel().tolist() for by in ("time", "count")]
        [[3, 1], [2, 2]]
    """
    time, kept = events.time, slice(None)
    if duration is not None:
        kept = slice(0, int(np.searchsorted(time, round(duration * 1e6), side="left")))
        time = time[kept]
    count = len(time)
    if by == "count":
        step = np.arange(count) * steps // max(count, 1)
    elif duration is not None:
        step = time * steps // round(duration * 1e6)
    elif count:
        step = np.minimum((time - time[0]) * steps // max(int(time[-1] - time[0]), 1), steps - 1)
    else:
        step = time
    channels, height, width = shape
    place = ((step * channels + events.channel[kept]) * height + events.row[kept]) * width + events.column[
        kept
    ]
    numbers = np.bincount(place, minlength=steps * channels * height * width)
    if binary:
        numbers = np.minimum(numbers, 1)
    return numbers.reshape(steps, *shape)


class _Growing:
    """Frames of one part, in bytes as long as all of them fit into bytes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.kind: np.dtype[np.uint8 | np.int16] = np.dtype(np.uint8)
        self.content, self.classes = bytearray(), list[int]()
        self.blanks, self.spans, self.counts = 0, list[int](), list[int]()

    def lasted(self, events: Events) -> None:
        """Take note of how long an example lasts, and of how many events it has."""
        self.spans.append(int(events.time[-1] - events.time[0]) if len(events) else 0)
        self.counts.append(len(events))

    def append(self, example: Int[np.ndarray, "T C H W"], label: int) -> int:
        """Take one more example; how many bytes that took."""
        most = int(example.max(initial=0))
        if most > np.iinfo(np.int16).max:
            raise InputError(
                "A frame counts up to 32767 events at one place",
                str(most),
                "Ask for more steps, or binary: true.",
            )
        if most > 255 and self.kind == np.uint8:
            self.kind = np.dtype(np.int16)
            self.content = bytearray(np.frombuffer(self.content, np.uint8).astype(np.int16).tobytes())
        self.content += example.astype(self.kind).tobytes()
        self.classes.append(label)
        return example.size * self.kind.itemsize

    @property
    def images(self) -> Int[np.ndarray, "N T C H W"]:
        return np.frombuffer(self.content, self.kind).reshape(-1, *self.shape)

    @property
    def labels(self) -> Int64[np.ndarray, "N"]:
        return np.array(self.classes, np.int64)


def read_whole(path: Path, most: int | None = None) -> bytes:
    """The content of one recording, or of a list of up to so many bytes.

    Raises:
        InputError: it cannot be read, or is larger than any recording.
    """
    most = LARGEST if most is None else most
    try:
        with open_regular(path) as file:
            content = bytes(take(file, most + 1))
    except OSError as error:
        raise bad(path, f"an unreadable file ({error.strerror or error})") from error
    if len(content) > most:
        raise bad(path, f"more than {most} bytes")
    return content


def bad(path: Path, got: str) -> InputError:
    """The message about a file that is not what it should be."""
    return InputError(
        f"{path} should be a recording as published", got, "Replace it by a good copy, or remove it."
    )


def _split(tensors: Mapping[str, torch.Tensor], part: str, rows: torch.Tensor) -> Split:
    images, labels = tensors[f"{part}.images"], tensors[f"{part}.labels"]
    if not torch.equal(rows, torch.arange(len(labels))):
        images, labels = images[rows], labels[rows]
    return Split(images, labels, rows)


def _file_digest(path: Path) -> bytes:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise bad(path, f"an unreadable file ({error.strerror or error})") from error
    return digest.digest()


def _from_cache(path: Path | None) -> tuple[dict[str, np.ndarray], tuple[str, ...]] | None:
    """Frames and remarks written before, or None where there are none or they are damaged."""
    if path is None or not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            sha256, *notes = json.loads((file.metadata() or {})["kept"])
    except (OSError, safetensors.SafetensorError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return (arrays, tuple(notes)) if _frames_digest(arrays, tuple(notes)) == sha256 else None


def _to_cache(path: Path | None, arrays: dict[str, np.ndarray], notes: tuple[str, ...]) -> None:
    """Put frames in place in one step; a disk that is full or not ours costs only time."""
    if path is None:
        return
    staged = path.with_name(f".tmp-{uuid.uuid4().hex}")
    note = {"kept": json.dumps([_frames_digest(arrays, notes), *notes])}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(arrays, staged, note)
        staged.replace(path)
    except (OSError, safetensors.SafetensorError):
        pass
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)


def _frames_digest(arrays: Mapping[str, np.ndarray], notes: tuple[str, ...]) -> str:
    words = np.frombuffer(repr(notes).encode(), np.uint8)
    return content_digest(*(arrays[name] for name in sorted(arrays)), words)

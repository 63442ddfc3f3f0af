"""Recordings of events, which are binned to frames by time or by count, with a cache of the frames."""

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
from typing import ClassVar, Literal, NamedTuple

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
from spikeproof.datasets.parts import Dataset, DatasetSpec, Split, content_digest, shuffled
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular
from spikeproof.specs import address

__all__ = ["Events", "Recording", "Recordings", "frames", "read_whole"]

LARGEST = 1 << 29
"""The largest recording that is read, in bytes."""

LONGEST_LIST = 1 << 20
"""The largest list of files or labels that is read, in bytes."""

MOST = 1 << 33
"""The largest total size of the frames of a data set, in bytes."""

CACHE_VERSION = 2
"""Raised whenever a change of the code alters the frames that the same files and options give."""


@dataclass(frozen=True, eq=False)
class Events:
    """The events of one recording, in order of time.

    Args:
        time: microseconds from the start of the recording; it never decreases.
        channel: polarity or another kind of event, from 0.
        row: index of the pixel from the top, or of the frequency band.
        column: index of the pixel from the left.
        remark: how the reader changed the events, for the notes of the data set; empty if it did not.
        what: which section of the file the events are; empty if they are the whole file.
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
        """Events sorted by time; events of equal time keep their order."""
        axes = [np.broadcast_to(np.asarray(a), time.shape).astype(np.int64) for a in (channel, row, column)]
        if (np.diff(time) < 0).any():
            order = np.argsort(time, kind="stable")
            time, axes = time[order], [a[order] for a in axes]
        channels, rows, columns = axes
        return cls(time.astype(np.int64), channels, rows, columns, remark)

    def __len__(self) -> int:
        return len(self.time)

    def check(self, shape: tuple[int, int, int], path: Path) -> None:
        """Refuse events outside the sensor and events before time 0.

        Args:
            shape: channels, height and width of the sensor.
            path: the file, for messages.

        Raises:
            InputError: there are such events.
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
        label: the class of a file that holds one example; -1 if the file itself holds the labels.
        others: further files that are needed to read it, such as a list of labels.
    """

    path: Path
    part: str
    label: int = -1
    others: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Recordings(DatasetSpec):
    """A data set of recordings, whose events are binned to frames."""

    steps: int = 10
    by: Literal["time", "count"] = "time"
    binary: bool = False
    duration: float | None = None
    hold_out: float = 0.1
    subset: Subset | None = field(default=None, kw_only=True)
    blank: Literal["leave-out", "keep"] | None = field(default=None, kw_only=True)
    published: ClassVar[Mapping[str, int]] = {}
    lasting: ClassVar[float | None] = None
    """The typical duration of an example in seconds; None if it is not known."""
    layouts: ClassVar[tuple[str, ...]] = ()
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
    def folder(self) -> str:
        """The name of the data set, and of a folder that may hold it."""
        raise NotImplementedError(f"{type(self).__name__} does not define folder")

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the labels."""
        raise NotImplementedError(f"{type(self).__name__} does not define names")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one frame."""
        raise NotImplementedError(f"{type(self).__name__} does not define shape")

    def recordings(self, folder: Path) -> list[Recording]:
        """The files of the data set in a folder, in a fixed order; empty if the folder has none."""
        raise NotImplementedError(f"{type(self).__name__} does not define recordings")

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        """The events of each example of a file, in the coordinates of a frame, and the label."""
        raise NotImplementedError(f"{type(self).__name__} does not define examples")

    def labels(self, recording: Recording) -> Sequence[int] | None:
        """The class of each example of a file, read without its events.

        None stands for a file that has to be decompressed first.
        """
        return (recording.label,)

    def wanting(self, folder: Path) -> str:
        """The files that are missing from an incomplete folder, in words; empty if it has none or all."""
        return ""

    def load(self, root: Path | None = None) -> Dataset:
        """Read and bin the files, or take the frames from the cache.

        Args:
            root: the directory that is searched before all others; the files lie in it as they are published,
                or in a folder inside it.

        Raises:
            InputError: there are no files, or they cannot be used.
        """
        found = self._find(root)
        if not found:
            tried = "\n".join(f"  - {line}" for line in self._tried(root))
            raise InputError(
                f"The recordings of {self.folder}",
                f"no folder that has them:\n{tried}",
                f"{self.advice} Then give their directory with --data or SPIKEPROOF_DATA.",
            )
        data, passed = first_usable(found, self._read, lambda candidate: candidate[0])
        return replace(data, notes=(*missing_variable(), *passed, *data.notes))

    def locate(self, root: Path | None = None) -> str:
        found = self._find(root)
        return str(found[0][0]) if found else "not found"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        found = self._find(root)
        if not found:
            return ()
        notes, passed = first_usable(found, self._counted, lambda candidate: candidate[0])
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
        """The notes on the number of examples, which need only the labels.

        Raises:
            InputError: parts or classes are missing, or the frames would take too much memory.
        """
        folder, files = found
        labels: dict[str, list[int]] = {}
        for recording in files:
            classes = self.labels(recording)
            if classes is None:
                return (f"{recording.path.name} is compressed, and its examples are counted when it is read",)
            labels.setdefault(recording.part, []).extend(classes)
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
        """The folders below a base where the files may lie, the usual ones first."""
        usual = layouts_of(base, self.folder, self.layouts)
        yield from dict.fromkeys((*usual, *nested(base, (self.folder, type(self).__name__, *self.layouts))))

    def _tried(self, root: Path | None) -> Iterator[str]:
        """Every folder that was searched, and what is missing from those that are incomplete."""
        found = bases(root, self.folder)
        for folder in (folder for base in found for folder in self._below(base)):
            try:
                wanting = self.wanting(folder)
            except PermissionError:
                wanting = "may not be read"
            yield f"{folder}: {wanting}" if wanting else str(folder)
        yield from sighted(base.path for base in found if base.open)
        yield from missing_variable()

    def _find(self, root: Path | None) -> list[tuple[Path, list[Recording]]]:
        """The folders that have the files, below the first base that has any such folder."""
        for base in bases(root, self.folder):
            found = []
            for folder in self._below(base):
                with suppress(PermissionError):
                    if folder.is_dir() and (files := self.recordings(folder)):
                        found.append((folder, files))
            if found:
                return found
        return []

    def _address(self, folder: Path, files: Sequence[Recording]) -> str:
        """The digest of all that determines the frames: the content of the files, the reader, its options."""
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
        """The frames and labels of every part, and the remarks of the reader in sentences."""
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
                    blank = BLANK[self.blank]
                    remarks.add(f"examples without events were {blank.done}", recording.path)
                    if not blank.kept:
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
        """The error about an example without events."""
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
        """Refuse a part whose examples are all blank, or whose times are in another unit."""
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

    def _dataset(self, arrays: Mapping[str, np.ndarray], notes: tuple[str, ...], origin: str) -> Dataset:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for part in ("train", "test"):
            if f"{part}.images" not in tensors or not len(tensors[f"{part}.images"]):
                raise self._incomplete(part, origin)
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
        complete = self.blank is None or BLANK[self.blank].kept
        subset = self.subset if complete else None  # it was compared with the files before
        notes += self._admitted(labels, subset, origin)
        return Dataset(self.folder, train, validation, test, self.names, digest, origin, notes)


class _Blank(NamedTuple):
    """What is done with an example without events: the word for it, and whether the example is kept."""

    done: str
    kept: bool


BLANK = {"leave-out": _Blank("left out", False), "keep": _Blank("kept", True)}

OFF = 30
"""The factor by which the typical duration may be exceeded or missed; units of time differ by 1000."""

MANY = 100
"""The number of events from which on an example can be judged too short."""


class _Remarks:
    """Remarks about examples, each with the number of examples and the first file."""

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
    """The number of events in each frame at each pixel.

    If frames have equal time, an event at time `t` belongs to frame `floor(T (t - t_0) / span)`, and the last
    event of an example's own span to the last frame. If frames have equal counts, event `i` of `n` belongs to
    frame `floor(T i / n)`, so that the sizes of two frames differ by at most one event.

    Args:
        events: in order of time, within the shape.
        shape: channels, height and width.
        steps: number of frames `T`.
        by: `"time"` for frames of equal time, `"count"` for frames of equally many events.
        binary: whether several events at one pixel of a frame count as one.
        duration: the span in seconds from time 0, after which events are left out; or None for the span from
            the first event of the example to its last.

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
    step = BINNINGS[by](time, steps, duration)
    channels, height, width = shape
    plane = (step * channels + events.channel[kept]) * height + events.row[kept]
    numbers = np.bincount(plane * width + events.column[kept], minlength=steps * channels * height * width)
    if binary:
        numbers = np.minimum(numbers, 1)
    return numbers.reshape(steps, *shape)


def _by_time(time: Int64[np.ndarray, "N"], steps: int, duration: float | None) -> Int64[np.ndarray, "N"]:
    """The frame of each event, where all frames last equally long."""
    if duration is not None:
        return time * steps // round(duration * 1e6)
    if not len(time):
        return time
    last = max(int(time[-1] - time[0]), 1)
    step: np.ndarray = np.minimum((time - time[0]) * steps // last, steps - 1)
    return step


def _by_count(time: Int64[np.ndarray, "N"], steps: int, duration: float | None) -> Int64[np.ndarray, "N"]:
    """The frame of each event, where all frames hold equally many events."""
    return np.arange(len(time)) * steps // max(len(time), 1)


BINNINGS = {"time": _by_time, "count": _by_count}
"""The name of a binning, and the function that gives the frame of each event."""


class _Growing:
    """The frames of one part, stored as bytes as long as every number fits into a byte."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.kind: np.dtype[np.uint8 | np.int16] = np.dtype(np.uint8)
        self.content, self.classes = bytearray(), list[int]()
        self.blanks, self.spans, self.counts = 0, list[int](), list[int]()

    def lasted(self, events: Events) -> None:
        """Record the duration of an example and its number of events."""
        self.spans.append(int(events.time[-1] - events.time[0]) if len(events) else 0)
        self.counts.append(len(events))

    def append(self, example: Int[np.ndarray, "T C H W"], label: int) -> int:
        """Append one example, and return the number of bytes that it takes."""
        most = int(example.max(initial=0))
        if most > np.iinfo(np.int16).max:
            raise InputError(
                "A frame counts up to 32767 events at one pixel",
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
    """The content of one file.

    Args:
        path: the file.
        most: the largest size in bytes, or None for the largest size of a recording.

    Raises:
        InputError: the file cannot be read, or is larger.
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
    """The error about a recording that cannot be used."""
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
    """The frames and remarks from the cache, or None if they are missing or damaged."""
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
    """Write the frames to the cache in one atomic step; after a failure they are binned again."""
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

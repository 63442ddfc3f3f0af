"""Recordings of events: binned by time or by count, with a cache that is safe to kill and to share."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import safetensors
import safetensors.numpy
import torch
from jaxtyping import Int, Int64

from spikeproof.datasets.files import CHUNK, places, take, user_cache
from spikeproof.datasets.parts import Dataset, Source, Split, content_digest, shuffled
from spikeproof.errors import InputError
from spikeproof.specs import address

__all__ = ["Events", "Recording", "Recordings", "frames", "read_whole"]

LARGEST = 1 << 29  # bytes of one file's content that a reader is willing to hold
MOST = 1 << 33  # bytes of all frames of a data set
CACHE_VERSION = 1
"""Raised whenever a change of the code alters the frames that the same files and options give."""


@dataclass(frozen=True, eq=False)
class Events:
    """What a sensor reported, in order of time.

    Args:
        time: microseconds from the start of the recording, never falling.
        channel: polarity or another kind of event, from 0.
        row: place from the top, or number of a frequency band.
        column: place from the left.
    """

    time: Int64[np.ndarray, "N"]
    channel: Int64[np.ndarray, "N"]
    row: Int64[np.ndarray, "N"]
    column: Int64[np.ndarray, "N"]

    @classmethod
    def sorted(
        cls, time: np.ndarray, channel: np.ndarray | int, row: np.ndarray, column: np.ndarray | int
    ) -> Events:
        """Events in order of time; equal times stay in their order."""
        columns = [
            np.broadcast_to(np.asarray(a), time.shape).astype(np.int64) for a in (channel, row, column)
        ]
        if (np.diff(time) < 0).any():
            order = np.argsort(time, kind="stable")
            time, columns = time[order], [a[order] for a in columns]
        return cls(time.astype(np.int64), *columns)

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

    def load(self, root: Path | None = None) -> Dataset:
        """Read and bin the files, or take the frames from the cache.

        Args:
            root: a directory that holds the files as they are handed out; looked into before the others.

        Raises:
            InputError: files that are not what they should be, or no files.
        """
        folder, files = self._find(root)
        if folder is None:
            tried = "\n".join(f"  - {place}" for place in self._places(root))
            raise InputError(
                f"The recordings of {self.folder}",
                f"no place that has them:\n{tried}",
                f"{self.advice} Then give their directory with --data or SPIKEPROOF_DATA.",
            )
        cache = user_cache()
        name = self._address(folder, files)
        kept = None if cache is None else cache / "frames" / f"{name}.safetensors"
        arrays = _from_cache(kept)
        if arrays is None:
            arrays = self._binned(files)
            _to_cache(kept, arrays)
        return self._dataset(arrays, str(folder))

    def locate(self, root: Path | None = None) -> str:
        folder, _ = self._find(root)
        return str(folder) if folder else "not found"

    def _places(self, root: Path | None) -> Iterator[Path]:
        return places(root, self.folder, self.layouts)

    def _find(self, root: Path | None) -> tuple[Path | None, list[Recording]]:
        for place in self._places(root):
            with suppress(PermissionError):
                if place.is_dir() and (files := self.recordings(place)):
                    return place, files
        return None, []

    def _address(self, folder: Path, files: Sequence[Recording]) -> str:
        """What the frames depend on: the files' content, how they are read, and how they are binned."""
        digest = hashlib.sha256()
        for path in dict.fromkeys(path for r in files for path in (r.path, *r.others)):
            digest.update(repr(str(path.relative_to(folder))).encode())
            digest.update(_file_digest(path))
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "hold_out"}
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

    def _binned(self, files: Iterable[Recording]) -> dict[str, np.ndarray]:
        """Frames and labels of every part."""
        parts: dict[str, _Growing] = {}
        room = MOST
        for recording in files:
            part = parts.setdefault(recording.part, _Growing((self.steps, *self.shape)))
            for events, label in self.examples(recording):
                events.check(self.shape, recording.path)
                if not 0 <= label < len(self.names):
                    raise bad(recording.path, f"label {label} where there are {len(self.names)} classes")
                room -= part.append(
                    frames(events, self.shape, self.steps, self.by, self.binary, self.duration), label
                )
                if room < 0:
                    raise InputError(
                        f"The frames of {self.folder} fit into {MOST >> 30} GiB",
                        f"{self.steps} steps of {self.shape}",
                        "Ask for fewer steps or a smaller size.",
                    )
        return {
            f"{name}.{kind}": array
            for name, part in sorted(parts.items())
            for kind, array in (("images", part.images), ("labels", part.labels))
        }

    def _dataset(self, arrays: Mapping[str, np.ndarray], source: str) -> Dataset:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        for part in ("train", "test"):
            if f"{part}.images" not in tensors or not len(tensors[f"{part}.images"]):
                raise InputError(
                    f"{self.folder} has a training and a test part",
                    f"no recordings of the {part} part in {source}",
                    "Check that the files are complete.",
                )
        train = _split(tensors, "train", torch.arange(len(tensors["train.labels"])))
        if "validation.images" in tensors:
            validation = _split(tensors, "validation", torch.arange(len(tensors["validation.labels"])))
        else:
            order = torch.from_numpy(shuffled(len(train)))
            cut = len(train) - round(self.hold_out * len(train))
            train, validation = (_split(tensors, "train", rows) for rows in (order[:cut], order[cut:]))
        test = _split(tensors, "test", torch.arange(len(tensors["test.labels"])))
        digest = content_digest(*(arrays[name] for name in sorted(arrays)))
        return Dataset(self.folder, train, validation, test, self.names, digest, source)


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


def read_whole(path: Path) -> bytes:
    """The content of one recording.

    Raises:
        InputError: it cannot be read, or is larger than any recording.
    """
    try:
        with path.open("rb") as file:
            content = bytes(take(file, LARGEST + 1))
    except OSError as error:
        raise bad(path, f"an unreadable file ({error.strerror or error})") from error
    if len(content) > LARGEST:
        raise bad(path, f"more than {LARGEST} bytes")
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
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise bad(path, f"an unreadable file ({error.strerror or error})") from error
    return digest.digest()


def _from_cache(path: Path | None) -> dict[str, np.ndarray] | None:
    """Frames written before, or None where there are none or they are damaged."""
    if path is None:
        return None
    try:
        with safetensors.safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            expected = (file.metadata() or {}).get("sha256")
    except (OSError, safetensors.SafetensorError):
        return None
    return arrays if content_digest(*(arrays[name] for name in sorted(arrays))) == expected else None


def _to_cache(path: Path | None, arrays: dict[str, np.ndarray]) -> None:
    """Put frames in place in one step; a disk that is full or not ours costs only time."""
    if path is None:
        return
    staged = path.with_name(f".tmp-{uuid.uuid4().hex}")
    note = {"sha256": content_digest(*(arrays[name] for name in sorted(arrays)))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.numpy.save_file(arrays, staged, note)
        staged.replace(path)
    except (OSError, safetensors.SafetensorError):
        pass
    finally:
        with suppress(OSError):
            staged.unlink(missing_ok=True)

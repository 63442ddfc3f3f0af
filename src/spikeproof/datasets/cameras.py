"""Recordings of event cameras: N-MNIST, DVS128 Gesture and CIFAR10-DVS."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from spikeproof.datasets.intake.clock import clocked
from spikeproof.datasets.intake.files import listed
from spikeproof.datasets.recordings import LONGEST_LIST, Events, Recording, Recordings, bad, read_whole
from spikeproof.errors import InputError

__all__ = ["CIFAR10DVS", "NMNIST", "DVS128Gesture", "read_aedat2", "read_aedat3", "read_bin"]


@dataclass(frozen=True)
class Camera(Recordings):
    """Recordings of a square event camera with two polarities."""

    size: int | None = None
    pixels: ClassVar[int]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size is not None and not 1 <= self.size <= self.pixels:
            raise InputError(
                f"{type(self).__name__} pools its pixels to 1 to {self.pixels} a side",
                f"size={self.size}",
                "Try 32, or None for all pixels.",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        side = self.size or self.pixels
        return 2, side, side

    def pooled(self, events: Events, path: Path) -> Events:
        """The same events on fewer, larger pixels, where the events of joined pixels add up."""
        events.check((2, self.pixels, self.pixels), path)
        if self.size is None:
            return events
        row, column = (axis * self.size // self.pixels for axis in (events.row, events.column))
        return replace(events, row=row, column=column)


@dataclass(frozen=True)
class NMNIST(Camera):
    """70,000 handwritten digits, recorded by an event camera that made three saccades, 34x34 pixels.

    The files hold 40 bits per event and lie in the folders `Train/0` to `Test/9`.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several events at one pixel of a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: share of the training recordings set aside for validation, 0 to 0.5.
        size: pixels a side after pooling, 1 to 34, or None for all.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 1000, test: 100}`.
        blank: whether recordings without events are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 2, size, size]`; channel 0 is OFF, 1 is ON.

    Source:
        Orchard, Jayawant, Cohen & Thakor 2015, doi 10.3389/fnins.2015.00437.
    """

    published: ClassVar[Mapping[str, int]] = {"train": 60_000, "test": 10_000}
    lasting: ClassVar[float | None] = 0.3
    folder: ClassVar[str] = "n-mnist"
    layouts: ClassVar[tuple[str, ...]] = ("NMNIST", "N-MNIST", "nmnist")
    pixels: ClassVar[int] = 34
    names: ClassVar[tuple[str, ...]] = tuple("0123456789")
    advice: ClassVar[str] = (
        "Get Train.zip and Test.zip from https://www.garrickorchard.com/datasets/n-mnist, unpack them."
    )

    def recordings(self, folder: Path) -> list[Recording]:
        return [
            Recording(path, part.lower(), digit)
            for part in ("Train", "Test")
            for digit in range(10)
            for path in listed(self._part(folder, part) / str(digit), ".bin")
        ]

    @staticmethod
    def _part(folder: Path, part: str) -> Path:
        """The folder of a part, which some programs unpack into another folder of the same name."""
        twice = folder / part / part
        return twice if twice.is_dir() else folder / part

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        yield self.pooled(read_bin(recording.path), recording.path), recording.label


@dataclass(frozen=True)
class DVS128Gesture(Camera):
    """1,464 hand gestures of 29 people in 11 classes, 128x128 pixels.

    The data are AEDAT 3.1 files, a CSV file for each of them with the class, start and end of every gesture,
    and two lists of the files of the training and the test part.

    Every row of a CSV file is an example. There are 12 rows in each of 98 training and 24 test files, hence
    1,176 and 288 examples, because people rolled their arms forwards and backwards and both rows have one
    class. The paper counts 1,342 instances, 11 in each of 122 files. A version that keeps one file for each
    class of a recording has 1,077 and 264 examples, 1,341 in all. Accuracies on these versions are not over
    the same examples.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several events at one pixel of a frame count as one.
        duration: seconds of each gesture that are used, or None for its whole span.
        hold_out: share of the training gestures set aside for validation, 0 to 0.5.
        size: pixels a side after pooling, 1 to 128, or None for all.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 1000, test: 100}`.
        blank: whether gestures without events are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 2, size, size]`; channel 0 is OFF, 1 is ON.

    Source:
        Amir et al. 2017, A Low Power, Fully Event-Based Gesture Recognition System, CVPR.
    """

    steps: int = 20
    size: int | None = 32
    published: ClassVar[Mapping[str, int]] = {"train": 1_176, "test": 288}
    lasting: ClassVar[float | None] = 6
    folder: ClassVar[str] = "dvs128-gesture"
    layouts: ClassVar[tuple[str, ...]] = (
        "DvsGesture",
        "DVSGesture/DvsGesture",
        "DVS128Gesture/extract/DvsGesture",
    )
    pixels: ClassVar[int] = 128
    names: ClassVar[tuple[str, ...]] = (
        "hand clapping",
        "right hand wave",
        "left hand wave",
        "right arm clockwise",
        "right arm counter clockwise",
        "left arm clockwise",
        "left arm counter clockwise",
        "arm roll",
        "air drums",
        "air guitar",
        "other gestures",
    )
    advice: ClassVar[str] = (
        "Get DvsGesture.tar.gz from https://research.ibm.com/interactive/dvsgesture/ and unpack it."
    )

    def recordings(self, folder: Path) -> list[Recording]:
        found = []
        for part in ("train", "test"):
            names = folder / f"trials_to_{part}.txt"
            if not names.is_file():
                return []
            for line in read_whole(names, LONGEST_LIST).decode("utf-8-sig", "replace").split():
                path = folder / Path(line).name
                labels = path.with_name(f"{path.stem}_labels.csv")
                found.append(Recording(path, part, others=(labels,)))
        return found

    def labels(self, recording: Recording) -> Sequence[int]:
        if not recording.path.is_file():
            raise bad(recording.path, "no such file")
        return [label - 1 for label, _, _ in read_gestures(recording.others[0])]

    def wanting(self, folder: Path) -> str:
        lists = [f"trials_to_{part}.txt" for part in ("train", "test")]
        lacking = [name for name in lists if not (folder / name).is_file()]
        if len(lacking) == 2:
            files = listed(folder, ".aedat")
            return f"has {len(files)} recordings, and lacks {' and '.join(lists)}" if files else ""
        return f"lacks {lacking[0]}" if lacking else ""

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        events = self.pooled(read_aedat3(recording.path), recording.path)
        for label, start, end in read_gestures(recording.others[0]):
            low, high = np.searchsorted(events.time, (start, end))
            rows = slice(int(low), int(high))
            rest = (events.channel[rows], events.row[rows], events.column[rows])
            what = f"{self.names[label - 1]} from {start} to {end} microseconds"
            remark = events.remark
            if len(events) and start <= events.time[-1] < end - (end - start) // 10:
                remark = "gestures end more than a tenth of their time after their recording"
            yield Events(events.time[rows] - start, *rest, remark=remark, what=what), label - 1


@dataclass(frozen=True)
class CIFAR10DVS(Camera):
    """10,000 images of CIFAR-10, moved in front of an event camera, 128x128 pixels.

    The data are AEDAT 2.0 files in one folder per class. The authors define no test part; as is customary,
    the test part is the last tenth of each class in the order of the numbers of the files.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several events at one pixel of a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: share of the training recordings set aside for validation, 0 to 0.5.
        size: pixels a side after pooling, 1 to 128, or None for all.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 1000, test: 100}`.
        blank: whether recordings without events are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 2, size, size]`; channel 0 is OFF, 1 is ON.

    Source:
        Li, Liu, Ji, Li & Shi 2017, doi 10.3389/fnins.2017.00309.
    """

    size: int | None = 32
    published: ClassVar[Mapping[str, int]] = {"train": 9_000, "test": 1_000}
    lasting: ClassVar[float | None] = 1.3
    folder: ClassVar[str] = "cifar10-dvs"
    layouts: ClassVar[tuple[str, ...]] = ("CIFAR10DVS", "CIFAR10DVS/extract")
    pixels: ClassVar[int] = 128
    names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
    advice: ClassVar[str] = (
        "Get the ten archives from https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671 and unpack "
        "them side by side."
    )

    def recordings(self, folder: Path) -> list[Recording]:
        found = []
        for label, name in enumerate(self.names):
            paths = sorted(listed(folder / name, ".aedat"), key=lambda path: (_number(path), path.name))
            cut = len(paths) - -(-len(paths) // 10)
            found += [Recording(path, "train" if i < cut else "test", label) for i, path in enumerate(paths)]
        return found

    def wanting(self, folder: Path) -> str:
        there = [name for name in self.names if (folder / name).is_dir()]
        return f"has folders without .aedat files: {', '.join(there)}" if there else ""

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        yield self.pooled(read_aedat2(recording.path), recording.path), recording.label


def read_bin(path: Path) -> Events:
    """Events of 40 bits: 8 of column, 8 of row, 1 of polarity and 23 of microseconds, the highest bit first.

    An entry in row 240 is not an event; it marks that a clock of 13 bits has wrapped once more. The clock of
    23 bits is unwrapped.

    Raises:
        InputError: the file has another format.
    """
    content = read_whole(path)
    if not content or len(content) % 5:
        raise bad(path, f"{len(content)} bytes, no whole number of events of 5")
    column, row, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).T.astype(np.int64)
    time = (high & 0x7F) << 16 | middle << 8 | low
    turned = row == 240
    time += np.cumsum(turned) << 13
    real = ~turned
    time, kept, remark = clocked(time[real], path, 1 << 23)
    channel, row, column = ((high >> 7)[real], row[real], column[real])
    return Events.sorted(time, channel[kept], row[kept], column[kept], remark)


def read_aedat2(path: Path) -> Events:
    """Events of a DVS128 in AEDAT 2.0: a header of `#` lines, then address and time of 32 bits, big-endian.

    Bit 0 of the address is set for OFF events, bits 1 to 7 count pixels from bottom to top, bits 8 to 14 from
    right to left. Entries with a higher bit do not come from a pixel and are skipped. Times are microseconds;
    the clock of 32 bits is unwrapped and counted from the first event that is not left over from another
    recording.

    Raises:
        InputError: the file has another format.
    """
    content = read_whole(path)
    offset, lines = _header(content, path)
    if not lines or not lines[0].startswith(b"#!AER-DAT2"):
        raise bad(path, f"a file beginning with {bytes(content[:12])!r} instead of #!AER-DAT2.0")
    if len(content) == offset or (len(content) - offset) % 8:
        raise bad(path, f"{len(content) - offset} bytes of data, no whole number of events of 8")
    address, time = np.frombuffer(content, ">u4", offset=offset).reshape(-1, 2).T.astype(np.int64)
    pixels = address < 1 << 15
    address, time = address[pixels], time[pixels]
    if not len(time):
        raise bad(path, "no events of pixels")
    time, kept, remark = clocked(time, path, 1 << 32)
    address = address[kept]
    return Events.sorted(
        time - time.min(), 1 - (address & 1), 127 - (address >> 1 & 127), 127 - (address >> 8 & 127), remark
    )


PACKET = struct.Struct("<HHIIIIII")
POLARITY = 1
MOST_PACKETS = 1 << 20  # of one file
MOST_LINES = 10_000  # of a header
COLUMNS = ("class", "startTime_usec", "endTime_usec")


def read_aedat3(path: Path) -> Events:
    """Polarity events in AEDAT 3.1: a header of `#` lines up to `#!END-HEADER`, then little-endian packets.

    A packet is a header of 28 bytes (type, device, size of an event, offset of its time, number of wraps of
    the clock, capacity, number of events and of valid events) and as many events. A polarity event has 32
    bits of data and 31 of time in microseconds: bit 0 of the data is set for valid events, bit 1 for ON
    events, bits 2 to 16 are the row and bits 17 to 31 the column. Other packets and invalid events are
    skipped. A clock of 31 bits that wraps without being counted in the headers is unwrapped.

    Raises:
        InputError: the file has another format.
    """
    content = read_whole(path)
    offset, lines = _header(content, path)
    if not lines or not lines[0].startswith(b"#!AER-DAT3"):
        raise bad(path, f"a file beginning with {bytes(content[:12])!r} instead of #!AER-DAT3.1")
    parts, packets = [], 0
    while offset < len(content):
        packets += 1
        if packets > MOST_PACKETS:
            raise bad(path, f"more than {MOST_PACKETS} packets")
        if offset + PACKET.size > len(content):
            raise bad(path, f"{len(content) - offset} bytes where a packet's header needs {PACKET.size}")
        kind, _, size, _, turns, capacity, number, _ = PACKET.unpack_from(content, offset)
        offset += PACKET.size
        room = size * capacity
        if number > capacity or (kind == POLARITY and size != 8) or offset + size * number > len(content):
            raise bad(
                path,
                f"a packet of {number} events of {size} bytes with room for {capacity}, "
                f"where {len(content) - offset} bytes are left",
            )
        if kind == POLARITY and number:
            pairs = np.frombuffer(content, "<u4", 2 * number, offset).reshape(-1, 2).astype(np.int64)
            if (pairs[:, 1] >> 31).any():
                raise bad(path, "an event before time 0")
            parts.append((pairs[:, 0], pairs[:, 1] + (turns << 31)))
        offset += min(room, size * number)
    if not parts:
        raise bad(path, "no polarity events")
    data, time = (np.concatenate(column) for column in zip(*parts, strict=True))
    kept = data & 1 == 1
    time, own, remark = clocked(time[kept], path, 1 << 31)
    data = data[kept][own]
    return Events.sorted(time, data >> 1 & 1, data >> 2 & 0x7FFF, data >> 17 & 0x7FFF, remark)


def read_gestures(path: Path) -> list[tuple[int, int, int]]:
    """The class, start and end in microseconds of each line of a CSV file, which may begin with a header.

    Raises:
        InputError: the file has another format.
    """
    text = read_whole(path, LONGEST_LIST).decode("utf-8-sig", "replace")
    lines = [[word.strip() for word in line.split(",")] for line in text.splitlines() if line.strip()]
    order = [0, 1, 2]
    if lines and not any(word.isdecimal() for word in lines[0]):
        names = [word.lower() for word in lines.pop(0)]
        if sorted(names) != sorted(name.lower() for name in COLUMNS):
            raise bad(path, f"the columns {','.join(names)[:80]!r} instead of {','.join(COLUMNS)}")
        order = [names.index(name.lower()) for name in COLUMNS]
    rows = []
    for words in lines:
        if len(words) != 3 or not all(word.isdecimal() and len(word) < 16 for word in words):
            raise bad(path, f"the line {','.join(words)[:80]!r} instead of {','.join(COLUMNS)}")
        label, start, end = (int(words[i]) for i in order)
        if start >= end or not 1 <= label <= len(DVS128Gesture.names):
            raise bad(path, f"class {label} from {start} to {end}")
        rows.append((label, start, end))
    if not rows:
        raise bad(path, "no gestures")
    return rows


def _header(content: bytes, path: Path) -> tuple[int, list[bytes]]:
    """The offset at which the lines that begin with `#` end, and these lines."""
    stream = io.BytesIO(content)
    lines: list[bytes] = []
    while (offset := stream.tell()) < len(content):
        line = stream.readline()
        if not line.startswith(b"#"):
            return offset, lines
        lines.append(line)
        if len(lines) > MOST_LINES:
            raise bad(path, f"a header of more than {MOST_LINES} lines")
        if line.startswith(b"#!END-HEADER"):
            break
    return stream.tell(), lines


def _number(path: Path) -> int:
    digits = "".join(c for c in path.stem.rpartition("_")[2] if c in "0123456789")
    return int(digits[:9] or 0)

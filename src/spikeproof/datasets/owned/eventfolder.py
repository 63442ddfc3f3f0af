"""Recordings of the user, one folder per class, in any of the formats that `eventfiles` reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from spikeproof.datasets.intake.census import Subset
from spikeproof.datasets.intake.files import listed
from spikeproof.datasets.owned.division import Division, counted, one_after_the_other
from spikeproof.datasets.owned.eventfiles import READERS, Columns, label_of_hdf5, read_events
from spikeproof.datasets.owned.layouts import (
    ClassFolders,
    class_folders,
    described,
    found_at,
    needs,
    part_folders,
)
from spikeproof.datasets.parts import Dataset
from spikeproof.datasets.recordings import Events, Recording, Recordings
from spikeproof.errors import InputError

__all__ = ["EventFolder", "OwnEvents"]

LARGEST_SENSOR = 1 << 14


@dataclass(frozen=True)
class OwnEvents(Recordings):
    """Recordings of the user, in a layout that a subclass reads."""

    path: str = field(default="", kw_only=True)
    test: float = field(default=0.2, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.division  # noqa: B018, refuses what cannot be

    @property
    def division(self) -> Division:
        """The rule that divides the recordings into parts, where the files do not."""
        return Division(self.test, self.hold_out, self.seed)

    def locate(self, root: Path | None = None) -> str:
        return described(self.path, root)

    def _admitted(
        self, labels: Mapping[str, Sequence[int] | np.ndarray], subset: Subset | None, where: str
    ) -> tuple[str, ...]:
        return counted(self.folder, *one_after_the_other(labels), self.names, subset, where)

    def _dataset(self, arrays: Mapping[str, np.ndarray], notes: tuple[str, ...], origin: str) -> Dataset:
        data = super()._dataset(arrays, notes, origin)
        if "validation.labels" not in arrays:
            return data
        held = data.validation
        return replace(data, validation=replace(held, ids=held.ids + len(data.train)))


@dataclass(frozen=True)
class EventFolder(OwnEvents):
    """Recordings of the user in a folder for each class, in the formats of event cameras and libraries.

    The files are `PATH/CLASS/FILE`, or `PATH/train/CLASS/FILE` and `PATH/test/CLASS/FILE` (and, if there is
    one, `val`) if they define the parts. Each file is one example:

    - `.npy`, `.npz`: a structured array with the fields x, y, t and p in any order, four arrays of these
      names, or one array of four columns, whose order `columns` gives;
    - `.h5`, `.hdf5`: `CD/events` as Prophesee writes it, `events` as DSEC does, or `data/0` of tonic's cache;
      tonic's files may also lie in one folder without class folders, since they hold their labels. Needs `pip
      install 'spikeproof[hdf5]'`;
    - `.bin`: 40 bits an event, as in N-MNIST; `.aedat`: AEDAT 2 of a DVS128, AEDAT 3.1;
    - `.aedat4`: AEDAT 4, and `.dat`, `.raw`: Prophesee. Need `pip install 'spikeproof[cameras]'`.

    Times are counted from the first event of each recording. Without parts in the folder, parts are divided
    by class and seed.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several events at one pixel of a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: share of the recordings outside the test part in the validation part, if the folder has
            none, 0 to 0.5.
        path: the folder, absolute or below the directory given with `--data`.
        classes: the names of the class folders in the order of the labels; empty for all, sorted by name.
        test: share of the recordings in the test part, if the folder defines no parts, 0 to 0.5.
        seed: seed of the division, at least 0.
        sensor: height and width of the sensor in pixels, or None for those in the files or, if they do not
            state them, the smallest that hold all events, with a note.
        size: pixels a side after pooling, which must not exceed the sensor, or None for all.
        columns: the order of columns without names, such as `xytp` or `txyp`, or None to refuse them.
        tick: seconds of one unit of time in `.npy`, `.npz` and HDF5 files, 1e-9 to 1.
        subset: numbers of recordings in the files, which are then checked, such as `{train: 80, test: 20}`.
        blank: whether recordings without events are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, 2, H, W]`; channel 0 is OFF, 1 is ON.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> EventFolder(path="my-recordings", sensor=(128, 128)).shape
        (2, 128, 128)

    Source:
        the formats' own descriptions: numpy.lib.format; Prophesee, EVT and DAT; iniVation, AEDAT 2 to 4.
    """

    path: str = field(default="event-folder", kw_only=True)
    classes: tuple[str, ...] = field(default=(), kw_only=True)
    sensor: tuple[int, int] | None = field(default=None, kw_only=True)
    size: int | None = field(default=None, kw_only=True)
    columns: str | None = field(default=None, kw_only=True)
    tick: float = field(default=1e-6, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        Columns(self.columns, self.tick)
        if self.sensor is not None and not all(1 <= side <= LARGEST_SENSOR for side in self.sensor):
            raise InputError(
                f"A sensor has 1 to {LARGEST_SENSOR} pixels a side",
                f"{self.sensor}",
                "Write [height, width].",
            )
        if self.size is not None and not 1 <= self.size <= min(self.sensor or (LARGEST_SENSOR,)):
            raise InputError(
                "Pixels are pooled to at least 1 and at most as many as the sensor has",
                f"size={self.size}",
                "Try half the shorter side of the sensor, or None.",
            )

    @property
    def folder(self) -> str:
        return Path(self.path).name or self.path

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width = self.sensor or (0, 0)
        return (2, self.size, self.size) if self.size and self.sensor else (2, height, width)

    def load(self, root: Path | None = None) -> Dataset:
        needs("EventFolder needs a folder", self.path, root)
        return super().load(root)

    def recordings(self, folder: Path) -> list[Recording]:
        found = self._files(folder)
        rows = self.division.divide(found.labels)
        part_of_row = {int(row): part for part, each in rows.items() for row in each}
        files = [path for each in found.files.values() for path in each]
        labels = np.concatenate(list(found.labels.values()))
        return [
            Recording(path, part_of_row[i], int(label))
            for i, (path, label) in enumerate(zip(files, labels, strict=True))
        ]

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        events = self._of_sensor(recording.path)
        if self.size is not None:
            height, width = self.sensor or (1, 1)
            rows, columns = events.row * self.size // height, events.column * self.size // width
            events = replace(events, row=rows, column=columns)
        yield events, recording.label

    def _of_sensor(self, path: Path) -> Events:
        """The events of a file, all of which lie within the sensor."""
        seen = read_events(path, Columns(self.columns, self.tick))
        if seen.sensor is not None and seen.sensor != self.sensor:
            raise InputError(
                f"All recordings of {self.folder} are of a sensor of {self.sensor} pixels, height and width",
                f"{seen.sensor} in {path}",
                "Give sensor: [height, width] as in the files, and keep other sensors in another folder.",
            )
        seen.events.check((2, *(self.sensor or (1, 1))), path)
        return seen.events

    def _files(self, folder: Path) -> ClassFolders:
        """The files in class folders, or those of tonic's cache, which hold their labels."""
        parts, others = part_folders(folder)
        flat = {part: [*listed(home, ".hdf5"), *listed(home, ".h5")] for part, home in parts.items()}
        if not all(flat.values()):
            return class_folders(folder, READERS, self.classes)
        labels = {
            part: np.array([label_of_hdf5(path) for path in paths], np.int64) for part, paths in flat.items()
        }
        count = 1 + max(int(each.max()) for each in labels.values())
        names = self.classes or tuple(str(i) for i in range(count))
        return ClassFolders(flat, labels, names, 0, tuple(other.name for other in others))

    def _find(self, root: Path | None) -> list[tuple[Path, list[Recording]]]:
        folder = found_at(self.path, root)
        return [(folder, self.recordings(folder))] if folder is not None else []

    def _read(self, found: tuple[Path, list[Recording]]) -> Dataset:
        files = self._files(found[0])
        data = super(EventFolder, replace(self, classes=files.classes))._read(found)
        return replace(data, notes=(*data.notes, *files.notes))

    def _counted(self, found: tuple[Path, list[Recording]]) -> tuple[str, ...]:
        named = self if self.classes else replace(self, classes=self._files(found[0]).classes)
        return super(EventFolder, named)._counted(found)

    def _binned(self, files: Sequence[Recording]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
        if self.sensor is not None:
            return super()._binned(files)
        sensor, stated = self._sensor(files)
        arrays, notes = replace(self, sensor=sensor)._binned(files)
        if not stated:
            height, width = sensor
            guess = f"{self.folder}: no size of the sensor is given, {height}x{width} pixels hold all events"
            notes = (*notes, guess)
        return arrays, notes

    def _sensor(self, files: Sequence[Recording]) -> tuple[tuple[int, int], bool]:
        """Height and width that the files state, or that hold all events, and whether they are stated."""
        height = width = 1
        for recording in files:
            seen = read_events(recording.path, Columns(self.columns, self.tick))
            if seen.sensor is not None:
                return seen.sensor, True
            height = max(height, 1 + int(seen.events.row.max(initial=0)))
            width = max(width, 1 + int(seen.events.column.max(initial=0)))
        return (min(height, LARGEST_SENSOR), min(width, LARGEST_SENSOR)), False

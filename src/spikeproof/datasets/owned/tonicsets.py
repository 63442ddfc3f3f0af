"""The data sets of the package tonic, as tonic reads them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Int64

from spikeproof.datasets.intake.files import first_line
from spikeproof.datasets.owned.eventfiles import columns_of
from spikeproof.datasets.owned.eventfolder import OwnEvents
from spikeproof.datasets.owned.layouts import found_at, needs
from spikeproof.datasets.parts import Dataset, content_digest
from spikeproof.datasets.recordings import Events, Recording, bad
from spikeproof.errors import InputError, suggest

__all__ = ["TonicEvents"]

Tonic: TypeAlias = Any
"""A data set of tonic or its class, which declare no types."""


@dataclass(frozen=True)
class TonicEvents(OwnEvents):
    """A data set of the package tonic, which reads the files, with its own training and test part.

    Every classification data set of `tonic.datasets` whose recordings are of one sensor can be named, such as
    `NMNIST`, `DVSGesture`, `POKERDVS` or `SHD`. If it defines no test part, as `CIFAR10DVS`, parts are
    divided by class and seed. Tonic downloads files that are missing. Frames are not cached. Needs `pip
    install 'spikeproof[tonic]'`, or `pip install --no-deps tonic importRosbag expelliarmus`.

    Args:
        steps: number of frames `T`, 1 to 10,000.
        by: whether a frame takes equal time, `"time"`, or equally many events, `"count"`.
        binary: whether several events at one pixel of a frame count as one.
        duration: seconds of each recording that are used, or None for its whole span.
        hold_out: share of the training recordings in the validation part, 0 to 0.5.
        dataset: the name of the class in `tonic.datasets`.
        path: the directory that tonic calls `save_to`, absolute or below the one given with `--data`.
        test: share of the recordings in the test part, if tonic defines none, 0 to 0.5.
        seed: seed of the division, at least 0.
        subset: numbers of recordings in the files, which are then checked, such as `{train: 80, test: 20}`.
        blank: whether recordings without events are left out, `"leave-out"`, or kept, `"keep"`; a note gives
            their number. None refuses them.

    Shapes:
        examples `[N, T, C, H, W]`, with `C`, `H` and `W` as tonic's `sensor_size` gives them.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> TonicEvents(dataset="POKERDVS", path="tonic-data").locate()
        'not found'

    Source:
        Lenz et al. 2021, Tonic, doi 10.5281/zenodo.5079802.
    """

    dataset: str = field(default="NMNIST", kw_only=True)
    path: str = field(default="tonic", kw_only=True)

    @property
    def folder(self) -> str:
        return self.dataset

    def load(self, root: Path | None = None) -> Dataset:
        path = needs("TonicEvents needs the directory of tonic's files", self.path, root)
        return _Loaded.of(self, path).whole()

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return ("tonic reads it",) if found_at(self.path, root) else ()


@dataclass(frozen=True)
class _Loaded(TonicEvents):
    """A data set of tonic with the objects that tonic made of its parts, for as long as they are read."""

    objects: Mapping[str, Tonic] = field(default_factory=dict, kw_only=True)
    """Part -> tonic's data set."""

    @classmethod
    def of(cls, wanted: TonicEvents, path: Path) -> _Loaded:
        """The objects of the parts that tonic defines; `train` alone where it defines none."""
        kind = _kind(wanted.dataset)
        options = inspect.signature(kind).parameters
        if "train" in options:
            asked: dict[str, dict[str, object]] = {"train": {"train": True}, "test": {"train": False}}
        elif "split" in options:
            asked = {part: {"split": word} for part, word in SPLITS.items()}
        else:
            asked = {"train": {}}
        try:
            objects = {part: kind(save_to=str(path), **each) for part, each in asked.items()}
        except Exception as error:  # tonic may download, unpack and read in any way
            raise InputError(
                f"tonic reads {wanted.dataset} from {path}",
                f"{type(error).__name__}, {first_line(error)}",
                "Check the directory that tonic calls save_to, and the network.",
            ) from error
        values = {each.name: getattr(wanted, each.name) for each in fields(wanted)}
        return cls(**values, objects=objects)

    @property
    def names(self) -> tuple[str, ...]:
        names = getattr(self.objects["train"], "classes", None)
        count = 1 + max(int(np.max(self.targets(part))) for part in self.objects)
        if names is None or len(names) < count:
            return tuple(str(i) for i in range(count))
        return tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)

    @property
    def shape(self) -> tuple[int, int, int]:
        size = getattr(self.objects["train"], "sensor_size", None)
        if size is None or len(size) != 3:
            raise InputError(
                "Recordings of one sensor, whose size tonic knows",
                f"{self.dataset}, whose sensor_size is {size}",
                "Choose another data set of tonic.",
            )
        width, height, channels = (int(side) for side in size)
        return channels, height, width

    def targets(self, part: str) -> Int64[np.ndarray, "N"]:
        """The labels of a part that tonic defines."""
        found = np.asarray(self.objects[part].targets)
        if found.ndim != 1 or found.dtype.kind not in INTEGERS or not len(found):
            raise InputError(
                "A data set of tonic with one class per recording",
                f"{self.dataset}, whose targets are {found.dtype} of shape {list(found.shape)}",
                "Choose another data set of tonic.",
            )
        return found.astype(np.int64)

    def order(self, part: str) -> list[int]:
        """The indices of a part in an order that does not depend on how a disk lists its files."""
        count, data = len(self.targets(part)), getattr(self.objects[part], "data", None)
        if not isinstance(data, list) or len(data) != count:
            return list(range(count))
        keys = [each if isinstance(each, str) else _digest(each) for each in data]
        return sorted(range(count), key=keys.__getitem__)

    def whole(self) -> Dataset:
        """The data set with all its frames."""
        labels, found = {part: self.targets(part) for part in self.objects}, list[Recording]()
        for part, numbers in labels.items():
            order = self.order(part)
            labels[part] = numbers[order]
            found += [
                Recording(Path(self.dataset, part, str(index)), part, int(numbers[index])) for index in order
            ]
        wanted = [
            replace(found[row], part=part)
            for part, rows in self.division.divide(labels).items()
            for row in rows.tolist()
        ]
        arrays, notes = self._binned(wanted)
        return self._dataset(arrays, notes, f"tonic, {self.path}")

    def examples(self, recording: Recording) -> Iterator[tuple[Events, int]]:
        given, index = recording.path.parts[-2:]
        events, label = self.objects[given][int(index)]
        if int(label) != recording.label:
            raise bad(recording.path, f"label {label} where targets have {recording.label}")
        names = getattr(events.dtype, "names", None) or ()
        read = columns_of({name: events[name] for name in names}, recording.path)
        if self.shape[0] == 1:
            read = replace(read, channel=np.zeros_like(read.channel))
        yield read, recording.label


SPLITS = {"train": "train", "validation": "valid", "test": "test"}
"""Part -> tonic's word for it."""

INTEGERS = frozenset("iu")


def _digest(events: object) -> str:
    return content_digest(events) if isinstance(events, np.ndarray) else ""


def _kind(name: str) -> Tonic:
    """The class of this name."""
    try:
        from tonic import datasets
    except ImportError as error:
        raise InputError(
            "Reading data sets of tonic needs tonic",
            first_line(error),
            "Run pip install 'spikeproof[tonic]', or pip install --no-deps tonic importRosbag expelliarmus.",
        ) from error
    known = [each for each in datasets.__all__ if isinstance(getattr(datasets, each, None), type)]
    if name not in known:
        raise InputError("The name of a data set of tonic", repr(name), suggest(name, known))
    return getattr(datasets, name)

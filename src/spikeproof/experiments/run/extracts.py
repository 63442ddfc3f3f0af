"""Extracts: what readers need of every finished cell, in a few files instead of some thousands.

A cell is verified once, file by file, when it is finished or first read. What was read is then kept as one
line of a file in the folder `extracts`: its numbers, its provenance and the columns of its table, with the
size and the times of change of every file. A line is believed as long as all of these are what they were; a
cell without such a line is read and verified again. Extracts save time and decide nothing: they may be
deleted, and a line that does not fit is passed over. Several processes may write them at once, each
into a file of its own.

A change of a file that keeps its size and both its times is not noticed here. `status --verify` reads every
byte.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import uuid
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from pydantic_core import from_json
from typing_extensions import TypedDict

from spikeproof.errors import DamagedError, InputError
from spikeproof.evaluation.columns import columns
from spikeproof.experiments.run.parquet import OUTCOMES, Array, read_columns
from spikeproof.experiments.run.shapes import check_numbers, columns_wanted
from spikeproof.experiments.run.store import MANIFEST, Store, Stored
from spikeproof.experiments.study.cells import CellRecord
from spikeproof.plainfiles import read_json
from spikeproof.regularfiles import digest_of_stamps, open_regular, stamps

__all__ = ["FOLDER", "Cells", "Known", "extract", "verified"]

FOLDER = "extracts"
"""The folder of an output directory that holds them."""

LAYOUT = 2
"""Of a line; lines of another layout are passed over."""

KEPT = frozenset(
    {
        "certified",
        "example",
        "exit",
        "fell",
        "label",
        "prediction",
        "right",
        "right_argmax",
        "right_clean",
        "right_selection",
        "silent",
        "tie",
        "voted",
    }
)
"""Columns that tables and reports read; any other column is read from the table of its cell."""

WEIGHTS = ("weights", "source_weights")
"""Metrics that say on which weights a cell was measured."""

MOST_VALUES = 256
"""Most different values of a column that is kept."""

MOST_FILES = 32
"""Beyond this number of files, their lines are copied into one."""

Stamps = Mapping[str, Sequence[int]]
"""Name of a file of a cell -> its size in bytes, and its times of change in nanoseconds."""

Count = Annotated[int, Field(strict=True, ge=0)]
Values = Annotated[list[float], Field(max_length=MOST_VALUES)]


class _Head(TypedDict):
    """What a line says first: what decides whether it is believed, and what is asked of every cell."""

    layout: int
    plan: str
    format: int
    n: Count | None
    weights: dict[str, str]
    files: dict[str, list[int]]


class _Body(TypedDict):
    """The numbers of a cell, and the columns of its table (`_Kept`)."""

    metrics: dict[str, Any]
    rows: Count
    columns: dict[str, tuple[bool, Values, Count]]
    numbers: str
    others: list[str]


_HEAD, _BODY = TypeAdapter(_Head), TypeAdapter(_Body)


class _Open:
    """An open file, which is closed with the last line that is read from it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def read(self, length: int, offset: int) -> bytes:
        if hasattr(os, "pread"):
            return os.pread(self.number, length, offset)
        os.lseek(self.number, offset, os.SEEK_SET)
        return os.read(self.number, length)

    def __del__(self) -> None:
        os.close(self.number)


class _Place(NamedTuple):
    """Where a line is: in memory, or in a file."""

    line: bytes
    file: _Open | None = None
    offset: int = 0
    length: int = 0

    def read(self) -> bytes:
        """The line."""
        return self.line if self.file is None else self.file.read(self.length, self.offset)


class Known(NamedTuple):
    """What is said of a finished cell without reading its numbers.

    Args:
        n: number of examples, or None.
        weights: digests of weights, by the names of the metrics that hold them.
        files: names of its files beside the manifest.
        format: of its documents.
        stamps: digest of the stamps of its files, the manifest among them.
    """

    n: int | None
    weights: Mapping[str, str]
    files: frozenset[str]
    format: int
    stamps: str


@dataclass(frozen=True)
class Cells(Mapping[str, Stored]):
    """Finished cells of a store by their addresses; the numbers of a cell are read when it is asked for.

    Args:
        store: that they are in.
        records: kind, spec and address of every cell, as the plan has them.
        known: what is known of every cell beforehand.
        places: where their extracts are.
        damaged: address -> what is wrong with a cell that cannot be trusted and is not among these.
    """

    store: Store
    records: Mapping[str, CellRecord]
    known: Mapping[str, Known]
    places: Mapping[str, _Place] = field(repr=False)
    damaged: Mapping[str, str]

    def __getitem__(self, address: str) -> Stored:
        """The cell at an address.

        Raises:
            KeyError: there is none.
            DamagedError: its extract cannot be read, and its files have changed since they were verified.
        """
        place, record = self.places[address], self.records[address]
        line = place.read()
        try:
            return self._stored(record, line, self.known[address])
        except (ValueError, InputError):  # nobody here wrote this line
            anew = _line(self.store, record)
            if anew is None:
                raise DamagedError(f"{self.store.path(address)} has been removed") from None
            return self._stored(record, anew, _known(_HEAD.validate_json(_Parts.of(anew).head)))

    def _stored(self, record: CellRecord, line: bytes, known: Known) -> Stored:
        """The cell in a line whose head is known.

        Raises:
            ValueError, InputError: the line holds no cell of this kind.
        """
        body = _BODY.validate_json(_Parts.of(line).body)
        path, metrics = self.store.path(record["address"]), body["metrics"]
        check_numbers(record["kind"], metrics, record["address"])
        wanted, there = columns_wanted(record["kind"], metrics), {*body["columns"], *body["others"]}
        if not there.issuperset(wanted) or (wanted and body["rows"] != metrics.get("n")):
            raise ValueError("the columns are not those of the examples")
        return Stored(
            path,
            {"kind": record["kind"], "spec": record["spec"], "address": record["address"]},
            metrics,
            known.files,
            known.format,
            _Kept(
                path,
                record["kind"],
                body["rows"],
                body["columns"],
                body["numbers"],
                frozenset(body["others"]),
            ),
        )

    def provenance(self, address: str) -> Mapping[str, object]:
        """What explains the numbers of a cell; empty where that cannot be read.

        Args:
            address: of the cell.
        """
        try:
            found = from_json(_Parts.of(self.places[address].read()).provenance)
        except ValueError:  # nobody here wrote this line
            found = None
        return found if isinstance(found, dict) else _provenance(self.store.path(address))

    def __contains__(self, address: object) -> bool:
        return address in self.places

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def only(self, addresses: Iterable[str]) -> Cells:
        """Some of these cells.

        Args:
            addresses: of the cells that stay.
        """
        chosen = {address: self.places[address] for address in addresses}
        return Cells(self.store, self.records, self.known, chosen, self.damaged)


@dataclass(frozen=True)
class _Kept(Mapping[str, Array]):
    """The columns of a table, unpacked when they are asked for.

    Args:
        path: directory of the cell.
        kind: of the cell.
        rows: number of examples.
        packed: column -> whether its steps are kept, its different values, and its place among the numbers.
        numbers: of the values, one column after the other.
        others: columns of the table that are not kept here.
        unpacked: those that were asked for before.
    """

    path: Path
    kind: str
    rows: int
    packed: Mapping[str, tuple[bool, Sequence[float], int]]
    numbers: str
    others: frozenset[str]
    unpacked: dict[str, Array] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Array:
        if (found := self.unpacked.get(name)) is not None:
            return found
        if name in self.packed:
            try:
                self.unpacked[name] = self._column(*self.packed[name])
            except (ValueError, IndexError, zlib.error):  # nobody here wrote this line
                self.unpacked.update(read_columns(self.path, self.kind))
        elif name in self.others:
            self.unpacked.update(read_columns(self.path, self.kind))
        else:
            self.unpacked[name] = np.full(self.rows, _absent(self.kind)[name])
        return self.unpacked[name]

    def _column(self, summed: bool, different: Sequence[float], place: int) -> Array:
        """A column from its different values.

        Raises:
            ValueError, IndexError: they are not one for every example.
        """
        numbers = self._numbers[place * self.rows : (place + 1) * self.rows]
        if len(numbers) != self.rows:
            raise ValueError("a column has one number per example")
        values = np.array(different, float)[numbers]
        return np.cumsum(values) if summed else values

    @cached_property
    def _numbers(self) -> NDArray[np.uint8]:
        return np.frombuffer(zlib.decompress(base64.b64decode(self.numbers)), np.uint8)

    def __contains__(self, name: object) -> bool:
        return name in self.packed or name in self.others or name in _absent(self.kind)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self.packed, *self.others, *_absent(self.kind)]))

    def __len__(self) -> int:
        return len(list(iter(self)))


@cache
def _absent(kind: str) -> Mapping[str, float]:
    """Columns that an older version did not write -> what stands for their values."""
    declared = columns(OUTCOMES[kind]) if kind in OUTCOMES else {}
    return {name: column.absent for name, column in declared.items() if column.absent is not None}


def verified(store: Store, planned: Iterable[CellRecord]) -> Cells:
    """The finished cells that a plan names; each is, or was before, compared with its checksums and its plan.

    Extracts that are missing or do not fit are made anew, where the directory can be written.

    Args:
        store: that holds them.
        planned: records of the cells.

    Raises:
        InputError: a later version of spikeproof wrote a cell.
    """
    there, files = store.addresses(), _Files.of(store.root / FOLDER)
    records, known = dict[str, CellRecord](), dict[str, Known]()
    places, damaged, grown = dict[str, _Place](), dict[str, str](), _Grown(store.root / FOLDER)
    for record in planned:
        address = record["address"]
        if address not in there:
            continue
        place = files.places.get(address)
        head = None if place is None else _fitting(store, record, place)
        if head is None or place is None:
            try:
                line = _line(store, record)
            except DamagedError as error:
                damaged[address] = str(error)
                continue
            if line is None:
                continue
            place, head = grown.add(line), _HEAD.validate_json(_Parts.of(line).head)
        records[address], places[address] = record, place
        known[address] = _known(head)
    files.gather({**files.places, **places})
    return Cells(store, records, known, places, damaged)


def extract(store: Store, record: CellRecord, writer: str) -> None:
    """Keep the extract of a cell that was just finished, where that is possible: it only saves time.

    Args:
        store: that holds the cell.
        record: its kind, spec and address.
        writer: name of the process, which no other process has.
    """
    with suppress(DamagedError, InputError, OSError):
        line = _line(store, record)
        folder = store.root / FOLDER
        folder.mkdir(exist_ok=True)
        with (folder / f"{hashlib.sha256(writer.encode()).hexdigest()[:32]}.lines").open("ab") as file:
            file.write(line or b"")


@dataclass(frozen=True)
class _Files:
    """The files of extracts as they were when they were opened.

    Args:
        folder: that holds them.
        places: address of a cell -> its last line.
        read: the files with their sizes.
        lines: number of lines in all of them.
    """

    folder: Path
    places: Mapping[str, _Place]
    read: Mapping[Path, int]
    lines: int

    @classmethod
    def of(cls, folder: Path) -> _Files:
        places, read, lines = dict[str, _Place](), dict[Path, int](), 0
        try:
            paths = sorted(folder.glob("*.lines"), key=lambda path: path.stat().st_mtime_ns)
        except OSError:
            paths = []
        for path in paths:
            with suppress(OSError), open_regular(path) as file:
                number, offset = _Open(os.dup(file.fileno())), 0
                for line in file:
                    if (address := _address(line)) is not None:
                        places[address] = _Place(b"", number, offset, len(line))
                        lines += 1
                    offset += len(line)
                read[path] = offset
        return cls(folder, places, read, lines)

    def gather(self, places: Mapping[str, _Place]) -> None:
        """Copy all lines into one file, where they are in many files or most are of no use any more.

        Args:
            places: address of a cell -> the line that counts.
        """
        if len(self.read) < MOST_FILES and self.lines <= 2 * len(places) + MOST_FILES:
            return
        grown = _Grown(self.folder)
        if all(grown.add(place.read()).file for place in places.values()):
            for path, size in self.read.items():
                with suppress(OSError):
                    if path.stat().st_size == size:  # nobody has written into it since
                        path.unlink()


class _Grown:
    """A new file of extracts, made with its first line; where it cannot be written, lines stay in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.size, self.failed = folder, 0, False
        self.file: _Open | None = None

    def add(self, line: bytes) -> _Place:
        """Write a line; where it is."""
        if not self.failed:
            with suppress(OSError):
                if self.file is None:
                    self.folder.mkdir(exist_ok=True)
                    path = self.folder / f"{uuid.uuid4().hex}.lines"
                    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0)
                    self.file = _Open(os.open(path, flags, 0o666))
                if os.write(self.file.number, line) == len(line):
                    self.size += len(line)
                    return _Place(b"", self.file, self.size - len(line), len(line))
            self.failed = True  # a directory that cannot be written, or a full disk
        return _Place(line)


def _line(store: Store, record: CellRecord) -> bytes | None:
    """The extract of a cell, which is read and verified; None where there is none.

    Raises:
        DamagedError: the cell is not what was written, or another than the plan names.
        InputError: a later version of spikeproof wrote it.
    """
    path = store.path(record["address"])
    found = stamps(path, _names(path))  # before the files are read, so that a later change is seen
    opened = store.opened(record)
    if opened is None:
        return None
    stored, table = opened
    head = {
        "layout": LAYOUT,
        "plan": _digest(record),
        "format": stored.format,
        "n": stored.metrics.get("n"),
        "weights": {name: stored.metrics[name] for name in WEIGHTS if name in stored.metrics},
        "files": {name: found.get(name, [-1, 0, 0]) for name in (*sorted(stored.files), MANIFEST)},
    }
    packed, numbers, others = _packed(table)
    body = {
        "metrics": stored.metrics,
        "rows": 0 if table is None else table.num_rows,
        "columns": packed,
        "numbers": numbers,
        "others": others,
    }
    parts = (head, body, _provenance(path))
    content = b"\t".join(json.dumps(part, separators=(",", ":")).encode() for part in parts)
    content = f"{record['address']} ".encode() + content
    return hashlib.sha256(content).hexdigest()[:16].encode() + b" " + content + b"\n"


def _known(head: _Head) -> Known:
    files = head["files"]
    return Known(head["n"], head["weights"], _names_in(tuple(files)), head["format"], digest_of_stamps(files))


@cache
def _names_in(names: tuple[str, ...]) -> frozenset[str]:
    """The names of the files of a cell, of which many cells have the same, without the manifest."""
    return frozenset(names) - {MANIFEST}


def _provenance(path: Path) -> Mapping[str, object]:
    try:
        found: dict[str, object] = read_json(path / "provenance.json", dict[str, object])
    except InputError:
        return {}
    return found


class _Parts(NamedTuple):
    """The parts of a line behind its address, each a JSON document; a part that is missing is empty."""

    head: bytes
    body: bytes
    provenance: bytes

    @classmethod
    def of(cls, line: bytes) -> _Parts:
        start, _, rest = line[17:].partition(b"\t")
        body, _, provenance = rest.partition(b"\t")
        return cls(start.partition(b" ")[2], body, provenance)


def _address(line: bytes) -> str | None:
    """The address of a whole line; None of one that was cut off or changed."""
    if hashlib.sha256(line[17:-1]).hexdigest()[:16].encode() != line[:16] or line[-1:] != b"\n":
        return None
    address, space, _ = line[17:].partition(b" ")
    return address.decode("ascii", "replace") if space else None


def _fitting(store: Store, record: CellRecord, place: _Place) -> _Head | None:
    """The head of a line, if the cell is the planned one and its files are those that were read."""
    try:
        head = _HEAD.validate_json(_Parts.of(place.read()).head)
    except ValueError:  # nobody here wrote this line
        return None
    files = head["files"]
    if head["layout"] != LAYOUT or head["plan"] != _digest(record) or MANIFEST not in files:
        return None
    return head if stamps(store.path(record["address"]), files) == files else None


def _digest(record: CellRecord) -> str:
    """Of kind and spec, as the plan names them."""
    text = json.dumps([record["kind"], record["spec"]], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _names(path: Path) -> list[str]:
    try:
        return os.listdir(path)  # noqa: PTH208
    except OSError:
        return []


def _packed(table: pa.Table | None) -> tuple[dict[str, tuple[bool, list[float], int]], str, list[str]]:
    """The columns of a table that are kept, the numbers of their values as text, and the other columns."""
    packed, others = dict[str, tuple[bool, list[float], int]](), list[str]()
    numbers = list[bytes]()
    if table is None:
        return packed, "", others
    for name in table.column_names:
        found = _pack(table.column(name).to_numpy().astype(float)) if name in KEPT else None
        if found is None:
            others.append(name)
        else:
            summed, different, each = found
            packed[name] = summed, different.tolist(), len(numbers)
            numbers.append(each.astype(np.uint8).tobytes())
    return packed, base64.b64encode(zlib.compress(b"".join(numbers), 1)).decode(), others


def _pack(values: Array) -> tuple[bool, Array, NDArray[np.intp]] | None:
    """The different values of a column and their numbers, or those of its steps; None if they are many."""
    steps = np.diff(values, prepend=0.0)
    for summed, each in ((False, values), (True, steps)):
        different, numbers = np.unique(each, return_inverse=True)
        if len(different) <= MOST_VALUES and (not summed or np.array_equal(np.cumsum(steps), values)):
            return summed, different, numbers
    return None

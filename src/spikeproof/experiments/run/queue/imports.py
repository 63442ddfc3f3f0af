"""Cells that another machine has computed: verified, and copied where this output directory lacks them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.run.plans import Plan, Repair, note_repairs, read_plan
from spikeproof.experiments.run.queue.listing import LARGEST_PLAN, PLAN
from spikeproof.experiments.run.queue.recount import contradictions
from spikeproof.experiments.run.shapes import Manifest
from spikeproof.experiments.run.store import (
    LARGEST_FILE,
    MANIFEST,
    TABLE,
    Store,
    Stored,
    write_atomically,
    writing,
)
from spikeproof.experiments.study.cells import Cell, CellRecord, needed
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import bytes_of, read_json

__all__ = ["Imported", "import_cells"]

TELLING = ("provenance.json", "seconds.json")
"""Files of a cell that say how it was computed; equal outcomes may differ in them."""

TIMES = ("seconds", "processor_seconds")
"""Keys of metrics that hold times, in which equal outcomes may differ too."""

METRICS = "metrics.json"


@dataclass(frozen=True)
class Imported:
    """What came of an import, in addresses of cells and, where something is wrong, in words.

    Args:
        copied: cells that were copied.
        known: cells that were there with the same outcome.
        conflicts: cells that were there with another outcome, which was kept.
        damaged: cells of the other directory that cannot be trusted.
        unasked: cells that the study here does not ask for.
        begun: whether this directory had no study and took over that of the other one.
    """

    copied: tuple[str, ...]
    known: tuple[str, ...]
    conflicts: tuple[str, ...]
    damaged: tuple[str, ...]
    unasked: tuple[str, ...]
    begun: bool


def import_cells(directory: Path, other: Path) -> Imported:
    """Copy the cells of a study that another directory has and this one lacks.

    Every file is compared with its checksum, every cell with the plan of the study and with its address,
    headline numbers with the rows for single examples, and every measurement with the weights of the model
    here. What is there is never overwritten: an outcome that
    differs is reported. A directory without a study takes over that of the other one, and cells that an audit
    there added for models of the study here are taken over with their reasons.

    Args:
        directory: the output directory that cells are copied into.
        other: the output directory that they come from.

    Raises:
        InputError: the other directory holds no study, or this one cannot be written.
    """
    if directory.resolve() == other.resolve():
        raise InputError("Two output directories", f"{directory} twice", "Name the directory to copy from.")
    theirs = read_plan(other)
    begun = not (directory / PLAN).exists()
    Store(directory).prepare()
    if begun:
        with writing(directory):
            write_atomically(directory / PLAN, bytes_of(other / PLAN, LARGEST_PLAN))
    source = Store(other)
    audited = _audited(read_plan(directory), theirs, source.addresses())
    if audited:
        note_repairs(directory, audited)
    plan = read_plan(directory)
    asked = {record["address"] for record in (*plan["plan"], *plan["repairs"])}
    found = {each for each in source.addresses() if each in asked}
    arrival = _Arrival(Store(directory), source)
    for record in (*plan["plan"], *plan["repairs"]):  # models come before what was measured on them
        if record["address"] in found:
            arrival.take(record)
    return Imported(
        tuple(arrival.copied),
        tuple(arrival.known),
        tuple(arrival.conflicts),
        tuple(arrival.damaged),
        tuple(sorted(source.addresses() - asked)),
        begun,
    )


def _audited(plan: Plan, theirs: Plan, there: set[str]) -> list[Repair]:
    """The cells that an audit of the other directory added for models of the study here."""
    asked = {record["address"] for record in (*plan["plan"], *plan["repairs"])}
    models = {record["address"] for record in plan["plan"] if record["kind"] == CellKind.TRAIN}
    return [
        repair
        for repair in theirs["repairs"]
        if repair["address"] in there - asked and repair["spec"].get("train") in models
    ]


class _Arrival:
    def __init__(self, here: Store, there: Store) -> None:
        self.here, self.there = here, there
        self.copied, self.known = list[str](), list[str]()
        self.conflicts, self.damaged = list[str](), list[str]()

    def take(self, record: CellRecord) -> None:
        """Copy the cell that the plan names, or note why not."""
        address, kind = record["address"], record["kind"]
        try:
            opened = self.there.opened(record)
            if opened is None:
                raise DamagedError(f"{self.there.path(address)} was removed meanwhile")
            stored, table = opened
            if wrong := contradictions(kind, stored.metrics, table):
                raise DamagedError(f"{stored.path} contradicts itself: {'; '.join(wrong)}")
            if Cell.of(stored.cell["kind"], stored.cell["spec"]).address != address:
                raise DamagedError(f"{stored.path} holds a cell that belongs elsewhere")
        except (DamagedError, InputError, KeyError, TypeError) as error:
            self.damaged.append(str(error))
            return
        try:
            mine = self.here.find(address)
        except DamagedError:
            self.here.discard(address)
            mine = None
        if mine is not None:
            self.compare(mine, stored, kind)
        elif model := next(self.other_weights(stored), None):
            self.conflicts.append(f"{kind} {address}: it was measured on other weights of {model}")
        else:
            self.here.put(address, _files(stored))
            self.copied.append(address)

    def compare(self, mine: Stored, theirs: Stored, kind: str) -> None:
        """Note whether two outcomes of one cell are the same."""
        files = _differing(_manifest(mine), _manifest(theirs))
        differing = sorted(name for name in files if not _same_content(name, mine, theirs))
        if differing:
            self.conflicts.append(f"{kind} {mine.address}: {', '.join(differing)} differ")
        else:
            self.known.append(mine.address)

    def other_weights(self, stored: Stored) -> Iterator[str]:
        """The models here whose weights are not those that a cell was measured on."""
        for address, name in needed(stored.cell["spec"]):
            try:
                model = self.here.find(address)
            except DamagedError:
                model = None
            if model is not None and model.metrics.get("weights") != stored.metrics.get(name):
                yield f"the {CellKind.TRAIN} cell {address}"


def _manifest(stored: Stored) -> Mapping[str, str]:
    found: Mapping[str, str] = read_json(stored.path / MANIFEST, Manifest)
    return found


def _differing(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    """Files that differ or that only one cell has, except those that tell how it was computed."""
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)} - {*TELLING}


def _same_content(name: str, mine: Stored, theirs: Stored) -> bool:
    """Whether a file of other bytes says the same: numbers without times, or a table written otherwise."""
    if name == METRICS:
        return bool(_timeless(mine.metrics) == _timeless(theirs.metrics))
    if name != TABLE or not {TABLE} <= mine.files & theirs.files:
        return False
    tables = [pq.ParquetFile(each.path / TABLE).read(use_threads=False) for each in (mine, theirs)]
    return bool(tables[0].equals(tables[1]))


def _timeless(data: object) -> object:
    """Plain data without times."""
    if isinstance(data, Mapping):
        return {name: _timeless(value) for name, value in data.items() if name not in TIMES}
    return [_timeless(each) for each in data] if isinstance(data, list) else data


def _files(stored: Stored) -> dict[str, bytes]:
    """The content of a verified cell, read once more and compared once more.

    Raises:
        DamagedError: it has changed since.
    """
    digests, files = _manifest(stored), dict[str, bytes]()
    for name, digest in digests.items():
        files[name] = bytes_of(stored.path / name, LARGEST_FILE)
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise DamagedError(f"{stored.path / name} changed while it was copied")
    return files

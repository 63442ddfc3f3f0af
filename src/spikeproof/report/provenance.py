"""Provenance: the spec and the environment of every number, and the cells that failed, as stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from spikeproof.errors import InputError
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.record import data_notes
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.extracts import Cells
from spikeproof.experiments.run.store import Metrics
from spikeproof.experiments.study.cells import Plain
from spikeproof.plainfiles import read_json

__all__ = ["Failed", "Origin", "Sources", "sources"]

PER_CELL = ("seconds", "finished")

MOST_NAMED = 50
"""Cells that are not computed yet and that a report names, the first in the order of the study."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One finished cell.

    Args:
        address: name of the cell in the store.
        kind: kind of the cell, such as `train`, `clean`, `probe` or `attack`.
        train: address of the model that the cell trained or measured.
        settings: everything that can change the numbers of the cell.
        seconds: computing time.
        finished: time at which the cell was finished.
        environment: index of the environment in which the cell was computed.
        cells: the finished cells of the study.
    """

    address: str
    kind: str
    train: str
    settings: Plain
    seconds: float | None
    finished: str
    environment: int
    cells: Cells = field(repr=False, compare=False)

    @property
    def title(self) -> str:
        """A short description of what was measured."""
        return _title(self.kind, self.settings)

    @property
    def spec(self) -> str:
        """Everything that can change the numbers of the cell, as JSON."""
        return _compact(self.settings)

    @property
    def metrics(self) -> Metrics:
        """The numbers of the cell."""
        return self.cells[self.address].metrics


_TITLES: Mapping[str, Callable[[Plain], str]] = {
    "attack": lambda spec: f"{spec['attack']['name']} · {spec['threat']['name']} {spec['epsilon']:.4g}",
    "distance": lambda spec: f"distance · {spec['attack']['name']} · {spec['threat']['name']}",
    "probe": lambda spec: f"probe · {spec['probe']['name']}",
    "corrupt": lambda spec: f"{spec['corruption']['name']} {spec['severity']}",
}
"""Kind of cell -> function that describes its spec in a few words; any other kind is called by its name."""


def _title(kind: str, spec: Plain) -> str:
    words = _TITLES.get(kind)
    return kind if words is None else words(spec)


@dataclass(frozen=True)
class Failed:
    """One cell that could not be computed."""

    address: str
    kind: str
    spec: str
    error: str
    trace: str


@dataclass(frozen=True)
class Sources:
    """Where the numbers of a study come from.

    Args:
        plan: what `run` recorded about the study.
        origins: the finished cells of the study, in order.
        environments: every combination of versions, machine and command line once, as JSON.
        failed: the cells that failed.
        damaged: for each damaged cell, what is wrong with it.
        missing: number of cells that have not been computed yet.
        waiting: the first of them, by what they measure and their addresses.
    """

    plan: Plain
    origins: tuple[Origin, ...]
    environments: tuple[str, ...]
    failed: tuple[Failed, ...]
    damaged: tuple[str, ...]
    missing: int
    waiting: tuple[str, ...] = ()

    @property
    def data_notes(self) -> tuple[str, ...]:
        """The notes on the files of the data set, each sentence once."""
        trained = (origin for origin in self.origins if origin.address == origin.train)
        notes = (note for origin in trained for note in data_notes(origin.metrics))
        return tuple(dict.fromkeys(notes))


def sources(directory: Path | Opened) -> Sources:
    """Where the numbers of a study come from.

    Args:
        directory: the output directory of a run, or the study in it; files that are missing are left out.
    """
    try:
        opened = Opened.of(directory)
    except InputError:
        if isinstance(directory, Path) and not _holds_study(directory):
            empty = {"study": directory.name, "cells": [], "plan": [], "repairs": []}
            return Sources(empty, (), (), (), (), 0)
        raise
    environments: dict[str, int] = {}
    origins = [_origin(address, opened.whole, environments) for address in opened.whole]
    damaged = [text.replace(f"{opened.directory}/", "") for text in opened.whole.damaged.values()]
    planned = opened.plan["cells"]
    unread = {*planned} - {origin.address for origin in origins}
    failed = _failures(opened.directory, unread)
    missing = len(planned) - len(origins) - len(damaged) - len(failed)
    left = unread - opened.whole.damaged.keys() - {failure.address for failure in failed}
    records = (*opened.plan["plan"], *opened.plan["repairs"])
    named = islice((record for record in records if record["address"] in left), MOST_NAMED)
    waiting = tuple(f"{_title(each['kind'], each['spec'])} ({each['address']})" for each in named)
    return Sources(
        {**opened.plan}, tuple(origins), tuple(environments), failed, tuple(damaged), missing, waiting
    )


def _holds_study(directory: Path) -> bool:
    try:
        read_plan(directory)
    except InputError:
        return False
    return True


def _origin(address: str, cells: Cells, environments: dict[str, int]) -> Origin:
    explained, record = cells.provenance(address), cells.records[address]
    shared = _compact({name: value for name, value in explained.items() if name not in PER_CELL})
    return Origin(
        address,
        record["kind"],
        record["spec"].get("train", address),
        record["spec"],
        _seconds(explained.get("seconds")),
        str(explained.get("finished", "not recorded")),
        environments.setdefault(shared, len(environments)),
        cells,
    )


def _seconds(noted: object) -> float | None:
    return float(noted) if isinstance(noted, (int, float)) and not isinstance(noted, bool) else None


def _failures(directory: Path, addresses: Iterable[str]) -> tuple[Failed, ...]:
    """The failures of cells that the study still includes."""
    found = []
    for address in sorted(addresses):
        path = directory / "failures" / f"{address}.json"
        if path.exists():
            note = _read(path)
            error = str(note.get("error", f"no reason was recorded in {path.name}"))
            kind, trace = str(note.get("kind", "cell")), str(note.get("trace", ""))
            found.append(Failed(address, kind, _compact(note.get("spec", {})), error, trace))
    return tuple(found)


def _read(path: Path) -> dict[str, object]:
    """The JSON object in a file, or an empty one if there is none."""
    try:
        content: dict[str, object] = read_json(path, dict[str, object])
    except InputError:
        return {}
    return content


def _compact(data: object) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False)

"""The files of a report: writing them, deleting those of an earlier one, and whether they are up to date."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spikeproof.errors import InputError
from spikeproof.experiments.read.ranking import Pair, Ranking
from spikeproof.experiments.read.record import (
    CorruptionError,
    CorruptionRecord,
    DistanceRecord,
    ProbeRecord,
    Record,
    SpikeRecord,
    TransferGrid,
)
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.run.queue.listing import LARGEST_PLAN
from spikeproof.experiments.run.store import MANIFEST, Store, as_json, write_atomically
from spikeproof.plainfiles import LARGEST_DOCUMENT, bytes_of, read_json
from spikeproof.report.tables import NO_ATTACK
from spikeproof.version import __version__

__all__ = [
    "NUMBERS",
    "PAGE",
    "Numbers",
    "is_current",
    "kept_numbers",
    "made_from",
    "numbers_file",
    "put",
    "report_files",
]

PAGE = "report.html"
"""Name of the page."""

NUMBERS = "figures/numbers.json"
"""The file that holds what a terminal shows, so that the cells of an unchanged study are not read again."""

WRITTEN = "figures/written.json"
"""The file that lists the files of a report with their digests, so that the next report can remove them."""


def put(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of a report, and delete files of an earlier report that have not been changed since."""
    (directory / "figures").mkdir(parents=True, exist_ok=True)
    for name in _earlier(directory):
        if name not in files:
            (directory / name).unlink()
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    digests[MADE_FROM] = made_from(directory)
    for name, content in files.items():
        write_atomically(directory / name, content)
    write_atomically(directory / WRITTEN, as_json(digests))


def _earlier(directory: Path) -> list[str]:
    """The files of an earlier report that have not been changed since."""
    noted = _noted(directory)
    names = [name for name in noted if PLACES.fullmatch(name)]
    return [name for name in names if _digest(directory / name) == noted[name]]


def _noted(directory: Path) -> dict[str, str]:
    try:
        noted: dict[str, str] = read_json(directory / WRITTEN, dict[str, str])
    except InputError:
        return {}
    return noted


LAYOUT = 6
"""Number of the layout of reports; raised when a report of the same cells would look otherwise."""

MADE_FROM = "made from"
"""The entry beside the files of a report that holds the digest of its inputs."""


def made_from(directory: Path) -> str:
    """The digest of everything that a report of this directory covers: plan, repairs, cells and failures.

    Of a cell, that is its manifest, by its size and the time of its last change.

    Args:
        directory: the output directory of a run.
    """
    digest = hashlib.sha256(f"{__version__} {LAYOUT} ".encode())
    noted = [directory / "study.json", directory / "repairs.json"]
    for path in (*noted, *sorted(directory.glob("failures/*.json"))):
        content = bytes_of(path, LARGEST_PLAN) if path.is_file() else b""
        digest.update(f"{path.relative_to(directory)} {len(content)} ".encode() + content)
    store = Store(directory)
    cells = str(store.cells)
    for address in sorted(store.addresses()):
        with suppress(OSError):
            found = os.stat(f"{cells}/{address}/{MANIFEST}")  # noqa: PTH116  # a Path takes longer than the call
            digest.update(f"{address} {found.st_size} {found.st_mtime_ns} ".encode())
    return digest.hexdigest()


def is_current(directory: Path) -> bool:
    """Whether the report in a directory covers the cells there and has not been changed since it was written.

    Args:
        directory: the output directory of a run.
    """
    noted = _noted(directory)
    if noted.pop(MADE_FROM, None) != made_from(directory) or PAGE not in noted:
        return False
    plain = all(OWN.fullmatch(name) for name in noted)
    return plain and all(_digest(directory / name) == digest for name, digest in noted.items())


def report_files(directory: Path) -> dict[str, str]:
    """The files of the report in a directory with their digests, the list of them among these.

    Args:
        directory: the output directory of a run.
    """
    own = hashlib.sha256(bytes_of(directory / WRITTEN, LARGEST_DOCUMENT)).hexdigest()
    return {**{name: digest for name, digest in _noted(directory).items() if name != MADE_FROM}, WRITTEN: own}


CSV = "probes|corruptions|corruption-errors|transfers|distances|spikes|trainings|across-seeds|training-curves"
TEX = "trainings|across-seeds"
PLACES = re.compile(
    rf"figures/[\w-]+\.(svg|pdf)|figures/numbers\.json|({CSV})\.csv|({TEX})\.tex|spikes\.html"
)
OWN = re.compile(r"(figures/)?[\w-]+\.(svg|pdf|csv|tex|html|json)")


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


@dataclass(frozen=True)
class Numbers:
    """The numbers of a study that a terminal shows.

    Args:
        records: the headline numbers.
        probes: the results of timing probes.
        corruptions: accuracies under natural corruptions.
        errors: mean corruption errors.
        grids: accuracies on images that were made on every other model.
        distances: distances of the nearest adversarial images.
        spikes: what an attack does to the spikes of each layer.
        ranked: the order of the models at every budget.
    """

    records: Sequence[Record] = ()
    probes: Sequence[ProbeRecord] = ()
    corruptions: Sequence[CorruptionRecord] = ()
    errors: Sequence[CorruptionError] = ()
    grids: Sequence[TransferGrid] = ()
    distances: Sequence[DistanceRecord] = ()
    spikes: Sequence[SpikeRecord] = ()
    ranked: Sequence[Ranking] = ()


_KINDS: Mapping[str, type] = {
    "records": Record,
    "probes": ProbeRecord,
    "corruptions": CorruptionRecord,
    "errors": CorruptionError,
    "grids": TransferGrid,
    "distances": DistanceRecord,
    "spikes": SpikeRecord,
}
"""List of a `Numbers` -> kind of its records."""

_PATHS = ("model", "cell", "train_cell", "clean_cell")


def numbers_file(numbers: Numbers) -> bytes | None:
    """The numbers that a terminal shows, as JSON; None if they do not fit into a document.

    A terminal shows worst cases and the warnings of single attacks, which are kept without their evidence.

    Args:
        numbers: with paths relative to the directory of the report.
    """
    kept = [_brief(row) for row in numbers.records if row["attack"] in _WITHOUT_ATTACK or row["warnings"]]
    if len(kept) * len(as_json(next(iter(kept), {}), indent=None)) > LARGEST_DOCUMENT:
        return None
    places = {_name(row): place for place, row in enumerate(kept)}
    document = {name: list(getattr(numbers, name)) for name in _KINDS}
    document["records"] = kept
    document["ranked"] = [
        {
            "threat": each.threat,
            "epsilon": each.epsilon,
            "rows": [places[_name(row)] for row in each.rows],
            "pairs": each.pairs,
            "withheld": each.withheld,
        }
        for each in numbers.ranked
    ]
    content = as_json(document, indent=None)
    return content if len(content) <= LARGEST_DOCUMENT else None


_WITHOUT_ATTACK = (WORST_CASE, NO_ATTACK)
"""What records of no single attack have for their attack."""


def _brief(row: Record) -> Record:
    """A record without evidence."""
    return {**row, "effort": None, "broken_by": [], "accuracy_by_step": []}


def _name(row: Record) -> tuple[str, str, str, float]:
    return row["model"], row["attack"], row["threat"], row["epsilon"]


def kept_numbers(directory: Path) -> Numbers | None:
    """The numbers that the report of a directory kept; None if it kept none or they cannot be read.

    They are those of the cells only if the report is up to date.

    Args:
        directory: the output directory of a run.
    """
    try:
        document: dict[str, list[dict[str, Any]]] = read_json(
            directory / NUMBERS, dict[str, list[dict[str, Any]]]
        )
        lists = {name: document[name] for name in _KINDS}
        for name, kind in _KINDS.items():
            for row in lists[name]:
                if row.keys() != kind.__annotations__.keys():
                    return None
                row |= {path: str(directory / row[path]) for path in _PATHS if path in row}
        found: Any = lists
        ranked = [
            Ranking(
                each["threat"],
                each["epsilon"],
                [found["records"][place] for place in each["rows"]],
                [Pair(*pair) for pair in each["pairs"]],
                each["withheld"],
            )
            for each in document["ranked"]
        ]
        return Numbers(**found, ranked=ranked)
    except (InputError, KeyError, IndexError, TypeError):
        return None

"""The files of a report: writing them, deleting those of an earlier one, and whether they are up to date."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

from spikeproof.errors import InputError
from spikeproof.experiments.run.store import as_json, write_atomically
from spikeproof.plainfiles import LARGEST_DOCUMENT, bytes_of, read_json
from spikeproof.version import __version__

__all__ = ["PAGE", "is_current", "made_from", "put"]

PAGE = "report.html"
"""Name of the page."""

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


LAYOUT = 2
"""Number of the layout of reports; raised when a report of the same cells would look otherwise."""

MADE_FROM = "made from"
"""The entry beside the files of a report that holds the digest of its inputs."""


def made_from(directory: Path) -> str:
    """The digest of everything that a report of this directory covers: plan, repairs, cells and failures.

    Args:
        directory: the output directory of a run.
    """
    digest = hashlib.sha256(f"{__version__} {LAYOUT} ".encode())
    noted = [directory / "study.json", directory / "repairs.json"]
    for path in (*noted, *sorted(directory.glob("failures/*.json")), *sorted(directory.glob(MANIFESTS))):
        content = bytes_of(path, LARGEST_DOCUMENT) if path.is_file() else b""
        digest.update(f"{path.relative_to(directory)} {len(content)} ".encode() + content)
    return digest.hexdigest()


MANIFESTS = "cells/[!.]*/MANIFEST.json"


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


CSV = "probes|corruptions|corruption-errors|transfers|distances|spikes"
PLACES = re.compile(rf"figures/[\w-]+\.(svg|pdf)|({CSV})\.csv|spikes\.html")
OWN = re.compile(r"(figures/)?[\w-]+\.(svg|pdf|csv|tex|html)")


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None

"""The cells of a study by address and kind, read from an index beside the plan, without anything heavy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from spikeproof.errors import InputError
from spikeproof.experiments.run.shapes import is_address
from spikeproof.experiments.run.store import write_atomically
from spikeproof.plainfiles import bytes_of, printable

__all__ = ["LARGEST_PLAN", "PLAN", "REPAIRS", "Listed", "indexed", "write_index"]

LARGEST_PLAN = 1 << 30
"""Most bytes of a plan, which has up to a thousand for every cell."""

PLAN, REPAIRS, INDEX = "study.json", "repairs.json", "cells.index"
"""Files of an output directory: the cells of the study, those that an audit added, and one line for each."""


class Listed(NamedTuple):
    """The cells of a study without their specs, which is all that a count needs.

    Args:
        study: its name.
        kinds: address of a cell -> its kind, in the order of the plan; cells that an audit added come last.
    """

    study: str
    kinds: Mapping[str, str]


def write_index(directory: Path, cells: Listed) -> None:
    """Write the index of the plan that is there, where that is possible: it only saves time.

    Args:
        directory: the output directory.
        cells: of the plan.
    """
    lines = [*_digests(directory), cells.study, *(f"{a} {kind}" for a, kind in cells.kinds.items()), ""]
    with suppress(OSError):
        write_atomically(directory / INDEX, "\n".join(lines).encode())


def indexed(directory: Path) -> Listed | None:
    """The cells of the plan that is there; None where no index was made from it.

    Args:
        directory: the output directory.
    """
    try:
        lines = bytes_of(directory / INDEX, LARGEST_PLAN).decode().split("\n")
        study, kinds = printable(lines[2]), dict(_pair(line) for line in lines[3:-1])
    except (InputError, ValueError, IndexError):
        return None
    return Listed(study, kinds) if lines[:2] == _digests(directory) and lines[0] else None


def _pair(line: str) -> tuple[str, str]:
    address, kind = line.split(" ")
    if not (is_address(address) and is_address(kind)):
        raise ValueError("an index has plain names")
    return address, kind


def _digests(directory: Path) -> Sequence[str]:
    """The SHA-256 of the plan and of the list of repairs; nothing where there is none."""
    return [_digest(directory / PLAN), _digest(directory / REPAIRS)]


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(bytes_of(path, LARGEST_PLAN)).hexdigest()
    except InputError:
        return ""

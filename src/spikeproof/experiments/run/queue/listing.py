"""The cells of a study as its output directory names them, read without anything heavy.

The plan has the spec of every cell. Who only counts needs addresses and kinds, which an index beside it has.
"""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict, cast

from spikeproof.errors import InputError
from spikeproof.experiments.run.shapes import (
    Note,
    PlanDocument,
    check_cell,
    check_format,
    format_of,
    is_address,
)
from spikeproof.experiments.run.store import write_atomically
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.records import CellRecord, CellSpec, Plain
from spikeproof.plainfiles import bytes_of, from_json, printable, shaped
from spikeproof.specs import canonical

__all__ = [
    "LARGEST_PLAN",
    "PLAN",
    "REPAIRS",
    "Budget",
    "Listed",
    "Plan",
    "Repair",
    "budget_of",
    "indexed",
    "models_of",
    "noted_repairs",
    "read_plan",
    "write_index",
]

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


class Repair(CellRecord):
    """A cell that an audit added to a study; `because` is the check that asked for it in that `round`."""

    because: str
    round: int


class Plan(TypedDict):
    """The description of a study in its output directory, written before any cell is computed.

    `cells` are the addresses of all cells, `plan` the records of the cells of the study itself, and `repairs`
    the records of the cells that an audit added; `replanned` are the addresses of repairs by suites that have
    changed since.
    """

    study: str
    spec: Plain
    cells: list[str]
    plan: list[CellRecord]
    replanned: NotRequired[list[str]]
    created: str
    spikeproof: str
    repairs: list[Repair]


class Budget(NamedTuple):
    """A threat at one size, with the threat as text.

    Args:
        threat: canonical text, or its name where one is shown.
        epsilon: size of the set.
    """

    threat: str
    epsilon: float


def noted_repairs(directory: Path) -> list[Repair]:
    """All repairs in the list, including repairs of a study that was changed afterwards.

    Args:
        directory: the output directory.

    Raises:
        InputError: the list cannot be read.
    """
    path = directory / REPAIRS
    if not path.exists():
        return []
    try:
        content = from_json(bytes_of(path, LARGEST_PLAN), str(path))
        check_format(format_of(content), str(path))
        noted = cast(list[Repair], shaped(content, Note, str(path))["repairs"])
        for cell in noted:
            check_cell(cell, str(path))
            cell["spec"]["train"], cell["spec"]["examples"]
        return noted
    except (InputError, KeyError) as error:
        raise InputError(
            "Expected a list of repairs",
            f"{path}, which cannot be read ({error})",
            "Remove it: finished cells stay, and `spikeproof audit` plans the repairs again.",
        ) from error


def _repairs(directory: Path, plan: Plan) -> list[Repair]:
    """The cells that an audit added for models and budgets of this study.

    Cells of the study itself are left out, and so are cells that were measured by an earlier version, with
    another number of draws, or with a suite whose members have changed.
    """
    if not (noted := noted_repairs(directory)):
        return []
    aside = {*plan["cells"], *plan.get("replanned", ())}
    clean = {
        cell["spec"].get("train"): cell["spec"] for cell in plan["plan"] if cell["kind"] == CellKind.CLEAN
    }
    budgets = {budget_of(cell["spec"]) for cell in plan["plan"] if cell["kind"] == CellKind.ATTACK} | {None}
    return [
        cell
        for cell in noted
        if cell["address"] not in aside
        and cell["because"]
        and cell["spec"]["train"] in clean
        and budget_of(cell["spec"]) in budgets
        and _how(cell["spec"]) == _how(clean[cell["spec"]["train"]])
    ]


def _how(spec: CellSpec) -> tuple[int | None, int | None, int | None]:
    """The version and the numbers of draws with which a cell was measured."""
    return spec.get("code_version"), spec.get("draws"), spec.get("choosing")


def models_of(plan: Sequence[CellRecord]) -> dict[str, Plain]:
    """The spec of every model of a plan, by the address of its train cell."""
    return {cell["address"]: cell["spec"]["model"] for cell in plan if cell["kind"] == CellKind.TRAIN}


def budget_of(spec: CellSpec) -> Budget | None:
    """The threat and epsilon of a cell; None where it has none."""
    epsilon = spec.get("epsilon")
    return None if epsilon is None else Budget(canonical(spec["threat"]), epsilon)


def read_plan(directory: Path) -> Plan:
    """The plan of the study in an output directory; `repairs` holds the cells that an audit added.

    The addresses of repairs are among `cells`, and their records are not in `plan`.

    Raises:
        InputError: the directory holds no study, or its plan is damaged.
    """
    path = directory / PLAN
    try:
        with _without_search_for_garbage():
            content = from_json(bytes_of(path, LARGEST_PLAN), str(path))
            check_format(format_of(content), str(path))
            plan = cast(Plan, shaped(content, PlanDocument, str(path)))
            for cell in plan["plan"]:
                check_cell(cell, str(path))
    except InputError as error:
        raise InputError(
            "Expected the output directory of a study",
            f"{directory}, which has no {'readable ' if path.exists() else ''}study.json ({error})",
            "Name the directory that `spikeproof run` printed, or run the study again.",
        ) from error
    plan["repairs"] = _repairs(directory, plan)
    plan["cells"] = [*plan["cells"], *(cell["address"] for cell in plan["repairs"])]
    return plan


@contextmanager
def _without_search_for_garbage() -> Iterator[None]:
    """Do not search for cycles while a plan is read: it has none, and a search would go through all of it."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

"""The plan of a study in its output directory: its own cells, and those that an audit added."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict, cast

from spikeproof.errors import InputError
from spikeproof.experiments.run.queue.listing import LARGEST_PLAN, PLAN, REPAIRS, Listed, write_index
from spikeproof.experiments.run.shapes import FORMAT, Note, PlanDocument, check_cell, check_format, format_of
from spikeproof.experiments.run.store import as_json, write_atomically, writing
from spikeproof.experiments.study.cells import (
    MEASURING_VERSION,
    TRAINING_VERSION,
    Cell,
    CellRecord,
    CellSpec,
    Plain,
    planned,
)
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import bytes_of, from_json, shaped
from spikeproof.specs import canonical
from spikeproof.version import __version__

__all__ = [
    "Budget",
    "Plan",
    "Repair",
    "budget_of",
    "cells_of_plan",
    "models_of",
    "note_repairs",
    "read_plan",
    "write_plan",
]


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


def write_plan(out: Path, name: str, spec: Plain, cells: Sequence[Cell]) -> None:
    """Write the plan of a study, unless the one that is there says the same.

    Args:
        out: the output directory.
        name: of the study.
        spec: the study as plain data.
        cells: all its cells.
    """
    records = [cell.record() for cell in cells]
    plan = {
        "format": FORMAT,
        "study": name,
        "spec": spec,
        "cells": [cell.address for cell in cells],
        "plan": records,
        "replanned": _replanned(_noted(out), models_of(records)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spikeproof": __version__,
    }
    path = out / PLAN
    if not _says_the_same(path, plan):
        write_atomically(path, as_json(plan))
        if not (out / REPAIRS).exists():
            write_index(out, Listed(name, {record["address"]: record["kind"] for record in records}))


_WHEN = re.compile(rb'"created": "[\w:+-]*",\s*"spikeproof": "[\w.+-]*"\s*\}\s*')
"""The end of a plan as `write_plan` writes it: what two plans that say the same may differ in."""


def _says_the_same(path: Path, plan: Mapping[str, object]) -> bool:
    """Whether the stored plan equals this one, apart from its date and the version that wrote it."""
    when = ("created", "spikeproof")
    try:
        content = bytes_of(path, LARGEST_PLAN)
        whole = as_json(plan)
        start = whole[: whole.rindex(b'"created"')]
        if content.startswith(start) and _WHEN.fullmatch(content, len(start)):
            return True
        noted = from_json(content, str(path))
    except InputError:
        return False
    wanted = from_json(as_json({name: value for name, value in plan.items() if name not in when}), str(path))
    return isinstance(noted, dict) and wanted == {k: v for k, v in noted.items() if k not in when}


def note_repairs(out: Path, added: Sequence[Repair]) -> None:
    """Append the cells that an audit adds to the list of repairs, before any of them is computed.

    Args:
        out: the output directory.
        added: records of the cells.

    Raises:
        InputError: the output directory cannot be written, or its list of repairs cannot be read.
    """
    with writing(out):
        note = {"format": FORMAT, "repairs": [*_noted(out), *added], "spikeproof": __version__}
        write_atomically(out / REPAIRS, as_json(note))


def _noted(directory: Path) -> list[Repair]:
    """All repairs in the list, including repairs of a study that was changed afterwards."""
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
    if not (noted := _noted(directory)):
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


def _replanned(noted: Sequence[Repair], models: Mapping[str, Plain]) -> list[str]:
    """The addresses of repairs by a suite whose members have changed since."""
    return [
        cell["address"]
        for cell in noted
        if cell["spec"]["train"] in models and not planned(cell["spec"], models[cell["spec"]["train"]])
    ]


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


def cells_of_plan(directory: Path) -> list[Cell]:
    """The cells of a study and of its repairs, as its output directory names them.

    Args:
        directory: the output directory.

    Raises:
        InputError: the directory holds no study, or one of another version.
    """
    plan = read_plan(directory)
    cells, models = [], models_of(plan["plan"])
    for record in (*plan["plan"], *plan["repairs"]):
        cell = Cell.of(record["kind"], record["spec"])
        version = TRAINING_VERSION if cell.kind is CellKind.TRAIN else MEASURING_VERSION
        same = cell.spec.get("code_version") == version and cell.address == record["address"]
        if not same or not planned(cell.spec, models.get(str(cell.spec.get("train")), {})):
            raise InputError(
                "Expected a study of this version of spikeproof",
                f"{directory}, whose {cell.kind} cells are of another",
                "Run the study again, or add --verdicts to print its verdicts.",
            )
        cells.append(cell)
    return cells

"""The plan of a study in its output directory: its own cells, and those that an audit added."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from spikeproof.errors import InputError
from spikeproof.experiments.run.queue.listing import (
    LARGEST_PLAN,
    PLAN,
    REPAIRS,
    Budget,
    Listed,
    Plan,
    Repair,
    budget_of,
    models_of,
    noted_repairs,
    read_plan,
    write_index,
)
from spikeproof.experiments.run.shapes import FORMAT
from spikeproof.experiments.run.store import as_json, write_atomically, writing
from spikeproof.experiments.study.cells import MEASURING_VERSION, TRAINING_VERSION, Cell, Plain, planned
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import bytes_of, from_json
from spikeproof.version import __version__

__all__ = [
    "Budget",
    "Plan",
    "Repair",
    "budget_of",
    "cells_of_plan",
    "is_planned",
    "models_of",
    "note_repairs",
    "read_plan",
    "write_plan",
]


def write_plan(out: Path, name: str, spec: Plain, cells: Sequence[Cell]) -> None:
    """Write the plan of a study, unless the one that is there says the same.

    Args:
        out: the output directory.
        name: of the study.
        spec: the study as plain data.
        cells: all its cells.
    """
    plan, path = _plan(out, name, spec, cells), out / PLAN
    if not _says_the_same(path, plan):
        write_atomically(path, as_json(plan))
        if not (out / REPAIRS).exists():
            write_index(out, Listed(name, {record["address"]: record["kind"] for record in plan["plan"]}))


def is_planned(out: Path, name: str, spec: Plain, cells: Sequence[Cell]) -> bool:
    """Whether the plan that is there is that of this study, so that `write_plan` would write nothing.

    Args:
        out: the output directory.
        name: of the study.
        spec: the study as plain data.
        cells: all its cells.

    Raises:
        InputError: the list of repairs that is there cannot be read.
    """
    return _says_the_same(out / PLAN, _plan(out, name, spec, cells))


def _plan(out: Path, name: str, spec: Plain, cells: Sequence[Cell]) -> dict[str, Any]:
    """The content of a plan, as of now."""
    records = [cell.record() for cell in cells]
    return {
        "format": FORMAT,
        "study": name,
        "spec": spec,
        "cells": [cell.address for cell in cells],
        "plan": records,
        "replanned": _replanned(noted_repairs(out), models_of(records)),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "spikeproof": __version__,
    }


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
        note = {"format": FORMAT, "repairs": [*noted_repairs(out), *added], "spikeproof": __version__}
        write_atomically(out / REPAIRS, as_json(note))


def _replanned(noted: Sequence[Repair], models: Mapping[str, Plain]) -> list[str]:
    """The addresses of repairs by a suite whose members have changed since."""
    return [
        cell["address"]
        for cell in noted
        if cell["spec"]["train"] in models and not planned(cell["spec"], models[cell["spec"]["train"]])
    ]


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

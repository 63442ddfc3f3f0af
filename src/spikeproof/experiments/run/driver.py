"""Running a study: every cell that the store lacks is computed and stored as soon as it is finished."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.run.executors import Executor, Failure, Progress
from spikeproof.experiments.run.shapes import FORMAT, Note, PlanDocument, check_cell, check_format, format_of
from spikeproof.experiments.run.store import Store, Stored, as_json, write_atomically, writing
from spikeproof.experiments.study.cells import Cell, CellRecord, CellSpec, Plain, needed, planned
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import LARGEST_DOCUMENT, bytes_of, from_json, read_json, shaped
from spikeproof.specs import canonical
from spikeproof.version import __version__

__all__ = [
    "Budget",
    "Listener",
    "Plan",
    "Repair",
    "Status",
    "Summary",
    "budget_of",
    "compute",
    "note_repairs",
    "read_plan",
    "run",
    "status",
]

Work = Callable[[Cell, Callable[[Progress], None]], Mapping[str, bytes]]


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


class Listener:
    """Receives the events of a run; a subclass overrides the methods that it needs."""

    def planned(self, cells: Sequence[Cell]) -> None:
        """The cells of the study are known."""

    def kept(self, cell: Cell) -> None:
        """A cell was finished before."""

    def damaged(self, message: str) -> None:
        """A stored cell cannot be trusted and is computed again."""

    def noted(self, message: str) -> None:
        """There is a message for the user about the output directory."""

    def progress(self, cell: Cell, progress: Progress) -> None:
        """A cell is being computed."""

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        """The computation of a cell has ended, with a failure or without."""


@dataclass
class Summary:
    """The result of a run, in numbers of cells.

    Args:
        total: number of cells of the study.
        computed: cells that this run finished.
        failed: cells whose computation failed.
        blocked: cells whose model could not be trained.
    """

    total: int
    computed: int = 0
    failed: int = 0
    blocked: int = 0

    @property
    def kept(self) -> int:
        """Cells that were finished before."""
        return self.total - self.computed - self.failed - self.blocked


def run(
    name: str,
    spec: Plain,
    cells: Sequence[Cell],
    work: Work,
    executor: Executor,
    out: Path,
    listener: Listener,
) -> Summary:
    """Compute the cells of a study that the store lacks, and store each as soon as it is finished.

    Args:
        name: of the study.
        spec: the study as plain data, for the record.
        cells: all its cells.
        work: computes the files of one cell.
        executor: where work is done.
        out: the output directory.
        listener: hears how it goes.

    Raises:
        InputError: the output directory cannot be written.
    """
    Store(out).prepare()
    with writing(out):
        _write_plan(out, name, spec, cells)
    return compute(cells, work, executor, out, listener)


def compute(cells: Sequence[Cell], work: Work, executor: Executor, out: Path, listener: Listener) -> Summary:
    """Compute the cells that the store lacks, each after the cells that it needs.

    Args:
        cells: those wanted; what they need is among them.
        work: computes the files of one cell.
        executor: where work is done.
        out: the output directory.
        listener: hears how it goes.

    Raises:
        InputError: the output directory cannot be written.
    """
    store = Store(out)
    if (note := store.prepare()) is not None:
        listener.noted(note)
    return _Run(store, cells, listener).go(work, executor)


def _write_plan(out: Path, name: str, spec: Plain, cells: Sequence[Cell]) -> None:
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
    path = out / "study.json"
    if not _says_the_same(path, plan):
        write_atomically(path, as_json(plan))


def _says_the_same(path: Path, plan: Mapping[str, object]) -> bool:
    """Whether the stored plan equals this one, apart from its date and the version that wrote it."""
    when = ("created", "spikeproof")
    try:
        noted = from_json(bytes_of(path, LARGEST_DOCUMENT), str(path))
    except InputError:
        return False
    wanted = from_json(as_json({name: value for name, value in plan.items() if name not in when}), str(path))
    return isinstance(noted, dict) and wanted == {k: v for k, v in noted.items() if k not in when}


@dataclass
class _Run:
    store: Store
    cells: Sequence[Cell]
    listener: Listener
    finished: dict[str, Stored] = field(default_factory=dict)
    following: dict[str, list[Cell]] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)

    def go(self, work: Work, executor: Executor) -> Summary:
        self.listener.planned(self.cells)
        self.needed = {address for cell in self.cells for address in cell.needs}
        summary, ready = Summary(len(self.cells)), []
        known = {cell for cell in self.cells if not cell.needs and self.usable(cell)}
        for cell in self.cells:
            if not self.waits(cell) and cell not in known and not self.usable(cell):
                ready.append(cell)
        for cell, outcome in executor.run(work, ready, then=self.then, heard=self.listener.progress):
            if isinstance(outcome, Failure):
                self.fail(cell, outcome)
                summary.failed += 1
            else:
                self.keep(cell, outcome)
                summary.computed += 1
            self.listener.finished(cell, outcome if isinstance(outcome, Failure) else None)
        summary.blocked = sum(map(len, self.following.values()))
        return summary

    def waits(self, cell: Cell) -> bool:
        """Whether this cell needs an unfinished cell; it is then queued behind the first of these."""
        missing = next((address for address in cell.needs if address not in self.finished), None)
        if missing is not None:
            self.following.setdefault(missing, []).append(cell)
        return missing is not None

    def usable(self, cell: Cell) -> bool:
        """Whether the store has this cell undamaged, measured on the current weights of its model."""
        try:
            stored = self.store.planned(cell.record())
            if stored is None:
                return False
            self.check_weights(cell, stored)
        except DamagedError as error:
            self.listener.damaged(f"{error}; computing it again")
            self.store.discard(cell.address)
            return False
        self.finished[cell.address] = stored
        self.listener.kept(cell)
        return True

    def check_weights(self, cell: Cell, stored: Stored) -> None:
        for address, weights in needed(cell.spec):
            if stored.metrics.get(weights) != self.finished[address].metrics.get("weights"):
                raise DamagedError(f"{stored.path} was measured on other weights than its model now has")

    def then(self, cell: Cell, outcome: object) -> list[Cell]:
        """The cells that wait for this one and are not stored yet."""
        if isinstance(outcome, Failure) or cell.address not in self.needed:
            return []
        self.finished[cell.address] = self.store.read(cell.address)
        freed = [each for each in self.following.pop(cell.address, []) if not self.waits(each)]
        return [each for each in freed if not self.usable(each)]

    def keep(self, cell: Cell, files: Mapping[str, bytes]) -> None:
        self.store.put(cell.address, files)
        for leftover in (
            _failure_path(self.store.root, cell.address),
            checkpoint(self.store.root, cell.address),
        ):
            leftover.unlink(missing_ok=True)

    def fail(self, cell: Cell, failure: Failure) -> None:
        path = _failure_path(self.store.root, cell.address)
        record = {"kind": cell.kind, "spec": cell.spec, "error": failure.error, "trace": failure.trace}
        with writing(self.store.root):
            path.parent.mkdir(exist_ok=True)
            write_atomically(path, as_json(record))


def checkpoint(root: Path, address: str) -> Path:
    """The file that holds the state of an unfinished training or suite."""
    return root / "checkpoints" / address


def _failure_path(root: Path, address: str) -> Path:
    return root / "failures" / f"{address}.json"


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


REPAIRS = "repairs.json"


def _noted(directory: Path) -> list[Repair]:
    """All repairs in the list, including repairs of a study that was changed afterwards."""
    path = directory / REPAIRS
    if not path.exists():
        return []
    try:
        content = from_json(bytes_of(path, LARGEST_DOCUMENT), str(path))
        check_format(format_of(content), str(path))
        noted: list[Repair] = shaped(content, Note, str(path))["repairs"]
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
    path = directory / "study.json"
    try:
        content = from_json(bytes_of(path, LARGEST_DOCUMENT), str(path))
        check_format(format_of(content), str(path))
        plan: Plan = shaped(content, PlanDocument, str(path))
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


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Args:
        study: its name.
        total: number of cells by kind.
        finished: number of undamaged cells by kind.
        damaged: what is wrong with cells that cannot be trusted.
        failed: what went wrong with cells that failed.
    """

    study: str
    total: Mapping[str, int]
    finished: Mapping[str, int]
    damaged: tuple[str, ...]
    failed: tuple[str, ...]


def status(directory: Path) -> Status:
    """The progress of the study in an output directory; every finished cell is verified.

    Raises:
        InputError: the directory holds no study.
    """
    plan, store = read_plan(directory), Store(directory)
    finished: Counter[str] = Counter()
    damaged, failed = [], []
    planned = [*plan["plan"], *plan["repairs"]]
    for cell in planned:
        try:
            found = store.planned(cell) is not None
        except DamagedError as error:
            damaged.append(str(error))
            continue
        if found:
            finished[cell["kind"]] += 1
        elif (path := _failure_path(directory, cell["address"])).exists():
            failed.append(f"{cell['kind']} {cell['address']}: {_error(path)}")
    total = Counter(cell["kind"] for cell in planned)
    return Status(plan["study"], total, finished, tuple(damaged), tuple(failed))


def _error(path: Path) -> str:
    try:
        return str(read_json(path, dict[str, object])["error"])
    except (InputError, KeyError):
        return f"see {path}"

"""Repairing a study: compute missing cells, run a suite on every number, attack doubtful numbers again.

Every repair is a cell like the cells of the study, with an address of its own, so it is computed once, even
if a run is killed. The added cells and their reasons are written to `repairs.json` before they are computed;
the study itself stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing.checks import DOUBTFUL, WITHHELD
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.saved import load
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import MEASURED, TOO_FEW, WORST_CASE, records, restated
from spikeproof.experiments.repair.remedies import ENOUGH, remedies, strongest
from spikeproof.experiments.run.driver import (
    Listener,
    Repair,
    Summary,
    Work,
    budget_of,
    cells_of_plan,
    compute,
    note_repairs,
    read_plan,
)
from spikeproof.experiments.run.executors import Executor
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import (
    Cell,
    CellRecord,
    CellSpec,
    Plain,
    with_plan,
)
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, Threat
from spikeproof.specs import build, describe

__all__ = ["Repaired", "repair_study", "repaired"]

Models = Callable[[Stored], Model]
"""From a stored train cell to its model."""

NOT_PROBED = "not probed"
"""The check of the audit that a number fails whose model has no diagnostics."""

Available = Callable[[Plain], int]
"""Number of test images of a data set, by its description in a train cell."""


class Tried(TypedDict):
    """An attack that an audit added, or more images, and the accuracy under it alone."""

    attack: str
    because: str
    accuracy: float | None


class Repaired(TypedDict):
    """The record of a worst case that an audit tried again, and what was tried."""

    record: Record
    tried: list[Tried]


def repair_study(
    directory: Path,
    work: Work,
    executor: Executor,
    listener: Listener,
    available: Available,
    rounds: int = 3,
    models: Models = lambda train: load(train.path),
) -> Summary:
    """Compute the missing cells of a study, and the attacks that may settle the checks raised by its audit.

    Every number without a standard suite gets one first, whatever its verdict; then follow the attacks that
    its raised checks ask for, and finally the next larger suite. A second repair of as many rounds adds
    nothing. A withheld number is wrong, and no attack can repair it.

    Args:
        directory: the output directory of a run.
        work: computes the files of one cell.
        executor: where work is done.
        listener: hears how it goes.
        available: number of test images of a data set, by its description in a train cell.
        rounds: most rounds for each number, counting the rounds of earlier calls; 0 computes only the missing
            cells.
        models: the model of a train cell.

    Returns:
        What was computed and what failed, of study and repairs.

    Raises:
        InputError: the directory holds no study, or one of another version.
    """
    done = _compute(directory, work, executor, listener)
    changed = True
    while changed:  # a repair at one budget may raise a check at another; the rounds of each are limited
        changed = False
        for turn in range(1, rounds + 1):
            added = _plan_round(directory, turn, available, models)
            if added:
                note_repairs(directory, added)
                done = _sum(done, _compute(directory, work, executor, listener))
                changed = True
    return done


def _compute(directory: Path, work: Work, executor: Executor, listener: Listener) -> Summary:
    return compute(cells_of_plan(directory), work, executor, directory, listener)


def _sum(first: Summary, second: Summary) -> Summary:
    return Summary(second.total, first.computed + second.computed, second.failed, second.blocked)


def _plan_round(directory: Path, turn: int, available: Available, models: Models) -> list[Repair]:
    """The cells that this round adds; images are added before attacks, which then run on all of them."""
    plan, rows = read_plan(directory), records(directory)
    audited = [row for row in rows if row["attack"] == WORST_CASE and row["verdict"] != WITHHELD]
    doubtful = [row for row in audited if row["verdict"] == DOUBTFUL]
    known = {*plan["cells"]}
    tried = {
        (cell["spec"]["train"], budget_of(cell["spec"])) for cell in plan["repairs"] if cell["round"] >= turn
    }
    cells = [*plan["plan"], *plan["repairs"]]
    added: dict[str, Repair] = {}

    def add(cell: Cell, because: str) -> None:
        if cell.address not in known:
            added.setdefault(cell.address, {**cell.record(), "because": because, "round": turn})

    if any(TOO_FEW in _checks(row) for row in doubtful):
        for cell in _on_more_images(cells, available):
            add(cell, TOO_FEW)
    size = {cell["spec"]["train"]: cell["spec"]["examples"] for cell in added.values()}
    for row in audited:
        train = Path(row["train_cell"]).name
        for cell, because in _attacks_on(directory, row, rows, cells, models):
            if (train, budget_of(cell.spec)) in tried:
                continue
            add(restated(cell.record(), size.get(train, cell.spec["examples"])), because)
        if NOT_PROBED in _checks(row):
            measured = _measured(Path(row["clean_cell"]).name, cells)
            add(
                Cell.of(CellKind.INSPECT, {**measured, "examples": size.get(train, measured["examples"])}),
                NOT_PROBED,
            )
    return list(added.values())


def _checks(row: Record) -> list[str]:
    return [warning.split(":")[0] for warning in row["warnings"]]


def _on_more_images(cells: Sequence[CellRecord], available: Available) -> list[Cell]:
    """Every measured cell, repairs included, on as many images as the interval needs and the data set has."""
    datasets = [cell["spec"]["dataset"] for cell in cells if cell["kind"] == CellKind.TRAIN]
    wanted = min(ENOUGH, *(available(dataset) for dataset in datasets))
    measured = [cell for cell in cells if cell["kind"] in MEASURED]
    return [restated(cell, wanted) for cell in measured if cell["spec"]["examples"] < wanted]


def _measured(clean: str, cells: Sequence[CellRecord]) -> CellSpec:
    return next(cell["spec"] for cell in cells if cell["address"] == clean)


def _attacks_on(
    directory: Path,
    row: Record,
    rows: Sequence[Record],
    cells: Sequence[CellRecord],
    models: Models,
) -> list[tuple[Cell, str]]:
    """The attacks that may settle the checks raised for one number, each with its check."""
    train = next(cell for cell in cells if cell["address"] == Path(row["train_cell"]).name)
    here = [each for each in rows if each["attack"] != WORST_CASE and _same_number(each, row)]
    store = Store(directory)
    model = models(store.read(train["address"]))
    stored = [store.read(Path(each["cell"]).name) for each in here]
    ball = {**stored[0].cell["spec"]["threat"], "epsilon": row["epsilon"]}
    threat: Threat = build(Threat, ball, PARTS)
    ran: list[Recipe] = [build(Recipe, cell.cell["spec"]["attack"], PARTS) for cell in stored]
    found = [(recipe, each["robust_accuracy"]) for recipe, each in zip(ran, here, strict=True)]
    budget = budget_of(stored[0].cell["spec"])
    tried = [  # those that failed as well: they are run again as they are
        build(Recipe, cell["spec"]["attack"], PARTS)
        for cell in cells
        if cell["kind"] == CellKind.ATTACK
        and cell["spec"]["train"] == train["address"]
        and budget_of(cell["spec"]) == budget
    ]
    measured = _measured(Path(row["clean_cell"]).name, cells)
    asked = model.spec if isinstance(model, Classifier) else model
    base: CellSpec = {
        **measured,
        "threat": stored[0].cell["spec"]["threat"],
        "epsilon": stored[0].cell["spec"]["epsilon"],
        "seed": train["spec"]["seed"],
    }
    return [
        (
            Cell.of(CellKind.ATTACK, with_plan({**base, "attack": describe(each.recipe, PARTS)}, asked)),
            each.check,
        )
        for each in remedies(_checks(row), model, threat, tried, strongest(found))
    ]


def _same_number(row: Record, other: Record) -> bool:
    """Whether two records are about one model at one budget."""
    mine, theirs = ((each["train_cell"], each["threat"], each["epsilon"]) for each in (row, other))
    return mine == theirs


def repaired(rows: Sequence[Record]) -> list[Repaired]:
    """Every headline number that an audit tried again, with the attempts and their reasons.

    Args:
        rows: all records of a study.
    """
    found = list[Repaired]()
    for row in rows:
        if row["attack"] != WORST_CASE or row["before_verdict"] is None:
            continue
        tried: list[Tried] = [
            {"attack": each["attack"], "because": each["because"], "accuracy": each["robust_accuracy"]}
            for each in rows
            if each["because"] is not None and _same_number(each, row)
        ]
        if row["before_n"] != row["n"]:
            tried.insert(0, {"attack": f"{row['n']} images", "because": TOO_FEW, "accuracy": None})
        found.append({"record": row, "tried": tried})
    return found

"""The cells of a study that can be read, and the warnings about numbers whose evidence cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from spikeproof.auditing.checks import GRAVITY, MISSING_ATTACKS, MISSING_SAFEGUARDS
from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.read.labels import Names
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import CellRecord
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import read_json

__all__ = ["finished", "mark_missing"]


def finished(store: Store, planned: Iterable[CellRecord]) -> dict[str, Stored]:
    """Address -> cell, of the cells that are undamaged, agree with the plan and belong to the same weights.

    `status` reports the other cells, and `run` computes them again.

    Args:
        store: of the study.
        planned: records of its cells.

    Raises:
        InputError: a later version of spikeproof wrote a cell.
    """
    found = dict[str, Stored]()
    for record in planned:
        try:
            stored = store.planned(record)
        except DamagedError:
            continue
        if stored is not None:
            found[stored.address] = stored
    sizes = {
        _train(cell): cell.metrics["n"] for cell in found.values() if cell.cell["kind"] == CellKind.CLEAN
    }
    return {address: cell for address, cell in found.items() if _belongs(cell, found, sizes)}


def _train(cell: Stored) -> str:
    return str(cell.cell["spec"].get("train", cell.address))


def _belongs(cell: Stored, found: Mapping[str, Stored], sizes: Mapping[str, int]) -> bool:
    """Whether a cell was measured on the weights of its model, and on as many examples as the plan says."""
    spec, metrics, model = cell.cell["spec"], cell.metrics, found.get(_train(cell))
    if model is not None and metrics.get("weights") != model.metrics.get("weights"):
        return False
    n = metrics.get("n")
    return n is None or n == spec.get("examples", sizes.get(_train(cell), n))


def mark_missing(
    worst: Sequence[Record],
    wanted: Iterable[CellRecord],
    cells: Mapping[str, Stored],
    names: Names,
    directory: Path,
) -> None:
    """Add a warning to each worst case for every planned cell that cannot be read, and adjust its verdict.

    Diagnostics of the model and certificates can withhold a number, so a number without them is withheld. A
    search for the nearest image, an attack that an audit added and a smaller budget can make a number
    doubtful, so a number without them is doubtful. A planned attack at the budget itself is also named in
    `missing`; the worst case is then taken over the other attacks.

    Args:
        worst: the worst cases of one model.
        wanted: records of all its cells, including those that an audit added.
        cells: the cells that can be read.
        names: names of the attacks and threats of the study.
        directory: the output directory of the run, which contains a note on each cell that failed.
    """
    for record in wanted:
        if record["address"] in cells:
            continue
        kind, spec = record["kind"], record["spec"]
        for row in worst:
            here = spec.get("threat") is None or names.threat(spec) == row["threat"]
            at = spec.get("epsilon", row["epsilon"])
            match kind:
                case CellKind.INSPECT:
                    check = MISSING_SAFEGUARDS
                case CellKind.CERTIFY if here and at == row["epsilon"]:
                    check = MISSING_SAFEGUARDS
                case CellKind.DISTANCE if here:
                    check = MISSING_ATTACKS
                case CellKind.ATTACK if here and at <= row["epsilon"]:
                    check = MISSING_ATTACKS
                case _:
                    continue
            row["verdict"] = min(str(row["verdict"]), check.verdict, key=GRAVITY.index)
            what = f"the {kind} cell {record['address']}"
            if kind == CellKind.ATTACK:
                attack = names.attack(spec, row["seed"])
                what = f"the attack {attack} at {at:.4g}, cell {record['address']},"
                row["missing"] += [attack] if at == row["epsilon"] else []
            row["warnings"].append(f"{check.name}: {what} {_why_missing(directory, record['address'])}")


def _why_missing(directory: Path, address: str) -> str:
    """The error with which a cell failed, or that the cell cannot be read."""
    try:
        note: dict[str, object] = read_json(directory / "failures" / f"{address}.json", dict[str, object])
    except InputError:
        return "is not there or cannot be read; `spikeproof run` computes it"
    return f"failed: {note.get('error', 'no reason was noted')}"

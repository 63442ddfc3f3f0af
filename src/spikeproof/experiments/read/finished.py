"""The cells of a study that can be read, and what becomes of a number when its evidence cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from spikeproof.auditing.checks import DOUBTFUL, WITHHELD
from spikeproof.errors import DamagedError
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import CellRecord, CellSpec

__all__ = ["LOST", "finished", "mark_lost"]

LOST = "evidence missing"
"""The reason of a number whose evidence cannot be read."""


def finished(store: Store, planned: Iterable[CellRecord]) -> dict[str, Stored]:
    """Address -> cell, of those that are whole, stand for what the plan says and belong to each other.

    What is left out here, `status` names and `run` computes again.

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
    sizes = {_train(cell): cell.metrics["n"] for cell in found.values() if cell.cell["kind"] == "clean"}
    return {address: cell for address, cell in found.items() if _belongs(cell, found, sizes)}


def _train(cell: Stored) -> str:
    return str(cell.cell["spec"].get("train", cell.address))


def _belongs(cell: Stored, found: Mapping[str, Stored], sizes: Mapping[str, int]) -> bool:
    """Whether a cell was measured on the weights of its model, and on as many examples as the plan says."""
    spec, metrics, model = cell.cell["spec"], cell.metrics, found.get(_train(cell))
    if model is not None and metrics.get("weights") != model.metrics.get("weights"):
        return False
    return "n" not in metrics or metrics["n"] == spec.get("examples", sizes.get(_train(cell), metrics["n"]))


def mark_lost(
    worst: Sequence[Record],
    wanted: Iterable[CellRecord],
    cells: Mapping[str, Stored],
    threat: Callable[[CellSpec], str],
) -> None:
    """Say beside each worst case what it should rest on and cannot be read.

    A probe of the model and a certificate can withhold a number, so without them it is withheld. A search for
    the nearest image, an attack that was added and a smaller budget can make it doubtful, so it is that.

    Args:
        worst: the worst cases of one model.
        wanted: records of all its cells, those that an audit added included.
        cells: those that can be read.
        threat: the name of the threat of a spec.
    """
    for record in wanted:
        if record["address"] in cells:
            continue
        kind, spec = record["kind"], record["spec"]
        for row in worst:
            here = "threat" not in spec or threat(spec) == row["threat"]
            at = spec.get("epsilon", row["epsilon"])
            if kind == "inspect" or (kind == "certify" and here and at == row["epsilon"]):
                row["verdict"] = WITHHELD
            elif here and (kind == "distance" or (kind == "attack" and at <= row["epsilon"])):
                row["verdict"] = row["verdict"] if row["verdict"] == WITHHELD else DOUBTFUL
            else:
                continue
            row["warnings"].append(
                f"{LOST}: the {kind} cell {record['address']} is not there or cannot be read; "
                "`spikeproof run` makes it"
            )

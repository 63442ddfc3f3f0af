"""The cells of a study that can be read, and the warnings about numbers whose evidence cannot be read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikeproof.auditing.checks import GRAVITY, MISSING_ATTACKS, MISSING_SAFEGUARDS
from spikeproof.errors import InputError
from spikeproof.experiments.read.labels import Names
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.run.driver import Plan, read_plan
from spikeproof.experiments.run.extracts import Cells, verified
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import CellRecord
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.plainfiles import read_json

__all__ = ["Opened", "finished", "mark_missing"]


@dataclass(frozen=True)
class Opened:
    """A study with its finished cells, read once for everything that is made of it.

    Args:
        directory: the output directory.
        plan: of the study.
        whole: the undamaged cells that the plan names.
        cells: those of them that were measured on the weights of their models.
        names: of all members of the study.
    """

    directory: Path
    plan: Plan
    whole: Cells
    cells: Cells
    names: Names

    @classmethod
    def of(cls, directory: Path | Opened) -> Opened:
        """The study in an output directory; one that is open already is returned.

        Args:
            directory: the output directory.

        Raises:
            InputError: the directory holds no study, or a later version of spikeproof wrote a cell.
        """
        if isinstance(directory, Opened):
            return directory
        plan = read_plan(directory)
        whole = verified(Store(directory), [*plan["plan"], *plan["repairs"]])
        return cls(directory, plan, whole, _belonging(whole), Names.of(plan["plan"], plan["repairs"]))

    def cell(self, path: str) -> Stored:
        """The cell in a directory, as records name it.

        Args:
            path: the directory.

        Raises:
            InputError: there is no such cell among those of the study.
        """
        try:
            return self.cells[Path(path).name]
        except KeyError as error:
            raise InputError("Expected a finished cell of the study", path, "Run the study again.") from error


def finished(store: Store, planned: Iterable[CellRecord]) -> Cells:
    """The cells that are undamaged, agree with the plan and belong to the same weights.

    `status` reports the other cells, and `run` computes them again.

    Args:
        store: of the study.
        planned: records of its cells.

    Raises:
        InputError: a later version of spikeproof wrote a cell.
    """
    return _belonging(verified(store, planned))


def _belonging(found: Cells) -> Cells:
    sizes = {
        _train(record): found.known[address].n
        for address, record in found.records.items()
        if record["kind"] == CellKind.CLEAN
    }
    return found.only(address for address in found if _belongs(address, found, sizes))


def _train(record: CellRecord) -> str:
    return str(record["spec"].get("train", record["address"]))


def _belongs(address: str, found: Cells, sizes: Mapping[str, int | None]) -> bool:
    """Whether a cell was measured on the weights of its model, and on as many examples as the plan says."""
    record, known = found.records[address], found.known[address]
    model = found.known.get(_train(record))
    if model is not None and known.weights.get(WEIGHTS) != model.weights.get(WEIGHTS):
        return False
    return known.n is None or known.n == record["spec"].get("examples", sizes.get(_train(record), known.n))


WEIGHTS = "weights"
"""The metric that holds the digest of the weights on which a cell was measured."""


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

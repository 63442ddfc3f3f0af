"""The trained models of a study, each with its parts and the directory that it is loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from spikeproof.experiments.read.finished import finished
from spikeproof.experiments.read.labels import Names
from spikeproof.experiments.read.record import Parts
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["Trained", "models_of"]


class _Placed(TypedDict):
    model: str
    trained: bool


class Trained(_Placed, Parts):
    """One model of a study with its parts.

    `model` is the directory of its weights, as `evaluate`, `audit` and `spikeproof.load` take it, or the one
    that they will have; `trained` says whether they are there and whole. `validation_accuracy` is that after
    training, or None.
    """

    validation_accuracy: float | None


def models_of(directory: Path) -> list[Trained]:
    """Every model of a study, in the order of the study.

    Args:
        directory: the output directory of a run.

    Raises:
        InputError: the directory holds no study.
    """
    plan, store = read_plan(directory), Store(directory)
    cells = [cell for cell in plan["plan"] if cell["kind"] == CellKind.TRAIN]
    names, whole = Names.of(plan["plan"], plan["repairs"]), finished(store, cells)
    found = []
    for cell in cells:
        spec, stored = cell["spec"], whole.get(cell["address"])
        found.append(
            Trained(
                model=str(store.path(cell["address"])),
                trained=stored is not None,
                **names.parts(spec),
                validation_accuracy=None if stored is None else stored.metrics.get("validation_accuracy"),
            )
        )
    return found

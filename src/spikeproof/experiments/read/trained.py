"""The trained models of a study, each with its parts and the directory that it is loaded from."""

from __future__ import annotations

from collections.abc import Sequence
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
    training, or None. `processor_seconds` is the processor time of an epoch of the training, on average, and
    `overfitted` the first epoch that a watch for catastrophic overfitting marked; both may be None.
    """

    validation_accuracy: float | None
    processor_seconds: float | None
    overfitted: int | None


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
                processor_seconds=None if stored is None else _cost(stored.metrics.get("epochs", ())),
                overfitted=None if stored is None else _overfitted(stored.metrics.get("epochs", ())),
            )
        )
    return found


class _Watch(TypedDict, total=False):
    overfitted: bool


class _Epoch(TypedDict, total=False):
    """What is read of an epoch in the metrics of a train cell."""

    epoch: int
    processor_seconds: float | None
    watch: _Watch | None


def _cost(epochs: Sequence[_Epoch]) -> float | None:
    """The mean processor time of the epochs; None where an older version did not measure it."""
    spent = [epoch.get("processor_seconds") for epoch in epochs]
    known = [float(each) for each in spent if each is not None]
    return sum(known) / len(known) if known else None


def _overfitted(epochs: Sequence[_Epoch]) -> int | None:
    """The first epoch that a watch marked."""
    return next((epoch["epoch"] for epoch in epochs if (epoch.get("watch") or {}).get("overfitted")), None)

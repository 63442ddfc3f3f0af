"""The trained models of a study, each with its parts and the directory that it is loaded from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypedDict

from spikeproof.experiments.read.finished import Opened, finished
from spikeproof.experiments.read.labels import Names
from spikeproof.experiments.read.record import Parts
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["Curve", "Epoch", "Trained", "models_of", "training_curves"]


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


class Epoch(NamedTuple):
    """One epoch of a training; what was not measured is None.

    Args:
        number: from 1.
        loss: mean loss on the training examples.
        validation_accuracy: after the epoch, in [0, 1].
        seconds: on the clock.
        processor_seconds: of processor time.
    """

    number: int
    loss: float | None
    validation_accuracy: float | None
    seconds: float | None
    processor_seconds: float | None


@dataclass(frozen=True)
class Curve:
    """The course of one training.

    Args:
        address: of its cell.
        parts: of the model, with the seed.
        parameters: number of parameters, if it is known.
        overfitted: first epoch that a watch for catastrophic overfitting marked, or None.
        epochs: in their order.
    """

    address: str
    parts: Parts
    parameters: int | None
    overfitted: int | None
    epochs: Sequence[Epoch]


def training_curves(directory: Path | Opened) -> list[Curve]:
    """The course of every finished training of a study, in the order of the study.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    opened, found = Opened.of(directory), []
    for cell in opened.plan["plan"]:
        if cell["kind"] == CellKind.TRAIN and cell["address"] in opened.cells:
            metrics = opened.cells[cell["address"]].metrics
            epochs = metrics.get("epochs") or ()
            parameters, overfitted = metrics.get("parameters"), _overfitted(epochs)
            measured = [each for number, epoch in enumerate(epochs, 1) if (each := _epoch(number, epoch))]
            found.append(
                Curve(cell["address"], opened.names.parts(cell["spec"]), parameters, overfitted, measured)
            )
    return found


def _epoch(number: int, noted: Mapping[str, object]) -> Epoch:
    return Epoch(number, *(_number(noted.get(name)) for name in Epoch._fields[1:]))


def _number(value: object) -> float | None:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if known else None  # type: ignore[arg-type]


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

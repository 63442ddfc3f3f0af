"""The trained models of a study, each with its parts and the directory that it is loaded from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from spikeproof.experiments.read.finished import finished
from spikeproof.experiments.read.labels import AXES, Names, text_of
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["Trained", "models_of"]


class Trained(NamedTuple):
    """One model of a study.

    Args:
        model: the directory of its weights, as `evaluate`, `audit` and `spikeproof.load` take it; before the
            training, the directory where the weights will be stored.
        trained: whether its weights exist and are undamaged.
        network: its architecture.
        neuron: its neuron.
        encoder: its encoder.
        decoder: its decoder.
        surrogate: its surrogate.
        rule: the learning rule that trains it.
        seed: the seed of its training.
        validation_accuracy: after training, or None.
    """

    model: str
    trained: bool
    network: str
    neuron: str
    encoder: str
    decoder: str
    surrogate: str
    rule: str
    seed: int
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
        parts = {axis: names.axes[axis][text_of(spec["model"][axis])] for axis in AXES}
        found.append(
            Trained(
                model=str(store.path(cell["address"])),
                trained=stored is not None,
                **parts,
                rule=names.axes["rule"][text_of(spec["rule"])],
                seed=spec["seed"],
                validation_accuracy=None if stored is None else stored.metrics.get("validation_accuracy"),
            )
        )
    return found

"""The grid of transfers: one attack made on every model of a study and judged on every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import NamedTuple

from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.labels import labels, text_of
from spikeproof.experiments.read.record import TransferGrid
from spikeproof.experiments.run.store import Stored
from spikeproof.experiments.study.cells import CellRecord, Plain
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["transfer_grids"]


class _Setting(NamedTuple):
    """What all entries of a grid share: the attack and the threat as text, the budget and the seed."""

    attack: str
    threat: str
    epsilon: float
    seed: int


@dataclass
class _Grid:
    """The planned cells of a grid, by the addresses of the model that images are made on and of the judge."""

    cells: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def models(self) -> list[str]:
        """Every model that makes or judges images, in the order of the study."""
        return list(dict.fromkeys(judge for _, judge in self.cells))

    @property
    def is_whole(self) -> bool:
        """Whether images of every model are judged on every other one."""
        sources = {source for source, _ in self.cells}
        many = len(self.models) > 1 and sources == set(self.models)
        return many and all(pair in self.cells for pair in permutations(self.models, 2))


def transfer_grids(directory: Path | Opened) -> list[TransferGrid]:
    """The grids of a study in which images of every model are judged on every other one.

    The diagonal holds the same attack on the model itself, where the study has it.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    opened = Opened.of(directory)
    plan, names = opened.plan, opened.names
    grids = _planned(plan["plan"])
    if not grids:
        return []
    wanted = {address for grid in grids.values() for address in grid.cells.values()}
    kinds = (CellKind.TRAIN, CellKind.CLEAN)
    asked = {c["address"] for c in plan["plan"] if c["kind"] in kinds} | wanted
    cells = {address: opened.cells[address] for address in asked & opened.cells.keys()}
    clean = {
        cell.cell["spec"]["train"]: cell
        for cell in cells.values()
        if cell.cell["kind"] == CellKind.CLEAN and cell.cell["spec"]["train"] in cells
    }
    attacks = labels(_attack(cell) for cell in plan["plan"] if "source" in cell["spec"])
    dataset = {c["address"]: c["spec"]["dataset"]["name"] for c in plan["plan"] if "dataset" in c["spec"]}
    return [
        {
            "study": plan["study"],
            "dataset": dataset[grid.models[0]],
            "attack": attacks[setting.attack],
            "threat": names.threats[setting.threat],
            "epsilon": setting.epsilon,
            "seed": setting.seed,
            "n": max((clean[model].metrics["n"] for model in grid.models if model in clean), default=0),
            "models": [names.models[model][0] for model in grid.models],
            "clean": [_accuracy(clean.get(model), "clean_accuracy") for model in grid.models],
            "accuracy": [
                [_judged(cells, grid.cells.get((source, judge))) for judge in grid.models]
                for source in grid.models
            ],
        }
        for setting, grid in grids.items()
        if any(model in clean for model in grid.models)
    ]


def _planned(plan: Sequence[CellRecord]) -> dict[_Setting, _Grid]:
    """The whole grids of a plan, with the attacks on the models themselves."""
    seeds = {cell["address"]: cell["spec"]["seed"] for cell in plan if cell["kind"] == CellKind.TRAIN}
    attacks = [cell for cell in plan if cell["kind"] == CellKind.ATTACK]
    grids: dict[_Setting, _Grid] = {}
    for cell in attacks:
        source, judge = cell["spec"].get("source"), cell["spec"]["train"]
        if isinstance(source, str) and seeds.get(source) == seeds[judge] and source != judge:
            grids.setdefault(_setting(cell), _Grid()).cells[source, judge] = cell["address"]
    grids = {setting: grid for setting, grid in grids.items() if grid.is_whole}
    for cell in attacks:
        judge = cell["spec"]["train"]
        if "source" not in cell["spec"] and (grid := grids.get(_setting(cell))) is not None:
            grid.cells[judge, judge] = cell["address"]
    return grids


def _setting(cell: CellRecord) -> _Setting:
    spec = cell["spec"]
    return _Setting(text_of(_attack(cell)), text_of(spec["threat"]), spec["epsilon"], spec.get("seed", 0))


def _attack(cell: CellRecord) -> Plain:
    """The attack that makes the images of a cell."""
    attack = cell["spec"]["attack"]
    inside: Plain = attack["attack"] if PARTS[Recipe].get(attack["name"]) is Transfer else attack
    return inside


def _judged(cells: Mapping[str, Stored], address: str | None) -> float | None:
    """The accuracy of a cell; None where it is not planned, not finished, or has images beyond the budget."""
    cell = None if address is None else cells.get(address)
    return None if cell is None or cell.metrics["budget_violations"] else _accuracy(cell, "robust_accuracy")


def _accuracy(cell: Stored | None, name: str) -> float | None:
    return None if cell is None else float(cell.metrics[name])

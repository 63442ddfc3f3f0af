"""Cells as plain data, as plans and stores have them; nothing heavy is imported to read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

__all__ = ["CellRecord", "CellSpec", "Plain", "SavedSource"]

Plain = Mapping[str, Any]
"""A part as `describe` writes it: its name and options, which differ from part to part."""


class SavedSource(TypedDict):
    """A saved model that the images of a transfer are made on."""

    saved: str
    sha256: str


class CellSpec(TypedDict, total=False):
    """Everything that can change the numbers of a cell; each kind of cell has some of these keys.

    A train cell has `dataset`, `model`, `rule`, `seed` and `code_version`. A cell that measures has the
    address of its `train` cell, `examples`, `draws` and `code_version`; for a stochastic model it also has
    `choosing`, the number of draws by which the worst attack is chosen, and where not the whole test part is
    measured, the `sample`. Attacks, certificates, analyses and distances add what is tried and the `threat`,
    all but distances also `epsilon`. `source` is the model that the images of a transfer are made on,
    `smaller` the address of the cell with the next smaller budget in a nested sweep, and `plan` the digest of
    the members of a suite. `normalised` stands where a current is normalised once for all steps.
    """

    dataset: Plain
    model: Plain
    rule: Plain
    seed: int
    train: str
    examples: int
    draws: int
    code_version: int
    choosing: int
    normalised: str
    sample: Plain
    probe: Plain
    corruption: Plain
    severity: int
    attack: Plain
    certificate: Plain
    analysis: Plain
    threat: Plain
    epsilon: float
    source: str | SavedSource
    smaller: str | None
    plan: str


class CellRecord(TypedDict):
    """A cell as plain data, as plans and stores have it."""

    kind: str
    address: str
    spec: CellSpec

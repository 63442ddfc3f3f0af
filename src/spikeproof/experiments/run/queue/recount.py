"""Headline numbers, counted again from the table of a cell with its row for every example."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spikeproof.experiments.run.store import Metrics
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.statistics import wilson

__all__ = ["contradictions"]

_PREFIX: Mapping[str, str] = {
    CellKind.CLEAN: "clean_",
    CellKind.ATTACK: "robust_",
    CellKind.PROBE: "",
    CellKind.CORRUPT: "",
}
"""Kind of cell -> what the names of its accuracies begin with."""

_MEANS = {
    "accuracy": "right",
    "argmax": "right_argmax",
    "vote": "voted",
}
"""Name of an accuracy without its prefix -> column whose mean it is."""

_SHARES = {"tie_share": "tie", "silent_share": "silent", "mean_exit": "exit", "certified": "certified"}
"""Name of another number -> column whose mean it is."""

_ROUNDING = 1e-5
"""Largest difference; means were taken in single precision."""


def contradictions(kind: str, metrics: Metrics, table: pa.Table | None) -> list[str]:
    """Numbers of a cell that do not follow from its table, in words.

    Args:
        kind: of the cell.
        metrics: its numbers; those that it does not have are left out.
        table: with a row for every example, or None for a cell without one.

    Example:
        >>> rows = pa.table({"right": [1.0, 0.0], "tie": [0.0, 0.0]})
        >>> contradictions("attack", {"robust_accuracy": 0.5, "tie_share": 0.5}, rows)
        ['tie_share is 0.5, and its table gives 0']
    """
    if table is None:
        return []
    columns = {name: table.column(name).to_numpy().astype(float) for name in table.column_names}
    return [
        f"{name} is {metrics[name]:.6g}, and its table gives {value:.6g}"
        for name, value in _counted(kind, columns)
        if metrics.get(name) is not None
        and math.isfinite(value)
        and not abs(metrics[name] - value) <= _ROUNDING
    ]


def _counted(kind: str, columns: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, float]]:
    """The numbers that a table gives."""
    if (prefix := _PREFIX.get(kind)) is not None and (right := columns.get("right")) is not None:
        yield f"{prefix}all_draws", float((right == 1).mean())
        yield from zip(("ci_low", "ci_high"), wilson(float(right.sum()), len(right)), strict=True)
        named = {f"{prefix}{name}": column for name, column in _MEANS.items()}
    else:
        named = {}
    for name, column in {**named, **_SHARES}.items():
        if column in columns:
            yield name, float(columns[column].mean())
    if (within := columns.get("within")) is not None:
        yield "budget_violations", float((within == 0).sum())

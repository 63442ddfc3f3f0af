"""Headline numbers and distances, counted again from the table of a cell with its row for every example."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from spikeproof.experiments.run.store import Metrics
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.statistics import median, wilson

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
"""Largest difference of a mean; means were taken in single precision."""


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
    found = [
        (name, metrics[name], value)
        for name, value in _counted(kind, columns)
        if metrics.get(name) is not None
        and math.isfinite(value)
        and not abs(metrics[name] - value) <= _ROUNDING
    ]
    if kind == CellKind.DISTANCE:
        found += [
            (name, metrics[name], value)
            for name, value in _nearest(columns)
            if name in metrics and not _same(metrics[name], value)
        ]
    return [
        f"{name} is {_said(claimed)}, and its table gives {_said(value)}" for name, claimed, value in found
    ]


def _same(claimed: float | None, value: float) -> bool:
    """Whether a number is the one of the table; a number that is not finite is stored as null."""
    if claimed is None or not math.isfinite(value):
        return claimed is None and not math.isfinite(value)
    return math.isclose(claimed, value, rel_tol=_ROUNDING, abs_tol=_ROUNDING)


def _said(value: float | None) -> str:
    return "missing" if value is None or not math.isfinite(value) else f"{value:.6g}"


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


def _nearest(columns: Mapping[str, NDArray[np.float64]]) -> Iterator[tuple[str, float]]:
    """The numbers of a search for the nearest adversarial images, over the examples that it counts.

    Those are the examples that the model answers rightly in at least half of the draws without an attack.
    """
    right, distance = columns.get("right_clean"), columns.get("distance")
    if right is None or distance is None:
        return
    counts, nothing = right >= 0.5, (math.nan,) * 2
    here = distance[counts]
    n, found = len(here), int(np.isfinite(here).sum())
    yield "counted", n
    yield "found", found / n if n else math.nan
    yield from zip(("found_low", "found_high"), wilson(found, n) if n else nothing, strict=True)
    middle, (low, high) = median(here.tolist()) if n else (math.nan, nothing)
    yield "median_distance", middle
    yield "median_low", max(0.0, low) if n else low
    yield "median_high", high
    if (claimed := columns.get("claimed")) is not None:
        lost = np.isfinite(claimed[counts]) & ~np.isfinite(here)
        yield "unconfirmed_share", float(lost.mean()) if n else math.nan
    for name, column in (("forward_queries", "queries"), ("backward_queries", "backward_queries")):
        if column in columns:
            yield name, float(columns[column].sum())

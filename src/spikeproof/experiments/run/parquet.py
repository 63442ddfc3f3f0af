"""Per-example columns as Parquet: the table that a cell holds, and the columns that are read from it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch import Tensor

from spikeproof.evaluation.columns import columns
from spikeproof.evaluation.distances import Nearest
from spikeproof.evaluation.outcomes import Attacked, Clean
from spikeproof.experiments.run.store import TABLE

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["TABLE", "Array", "Columns", "read_columns", "table"]

Array = NDArray[np.float64]
"""One value per example."""

Columns = Mapping[str, Array]
"""The columns of one cell, by the names under which they are declared."""

OUTCOMES: Mapping[str, type[DataclassInstance]] = {
    "clean": Clean,
    "probe": Clean,
    "corrupt": Clean,
    "attack": Attacked,
    "distance": Nearest,
}
"""Kind of cell -> the outcome that its table holds."""


def table(columns: Mapping[str, Tensor]) -> bytes:
    """Columns of one value per example, in their order."""
    file = io.BytesIO()
    pq.write_table(pa.table({name: column.cpu().numpy() for name, column in columns.items()}), file)
    return file.getvalue()


def read_columns(cell: Path, kind: str) -> Columns:
    """The columns of a stored cell.

    What an older version did not measure is read as its declaration says: as NaN, or not at all.

    Args:
        cell: its directory.
        kind: of the cell.
    """
    stored = pq.ParquetFile(cell / TABLE).read(use_threads=False)
    found = {name: stored.column(name).to_numpy().astype(float) for name in stored.column_names}
    known = columns(OUTCOMES[kind]) if kind in OUTCOMES else {}
    for name, column in known.items():
        if column.absent is not None and name not in found:
            found[name] = np.full(stored.num_rows, column.absent)
    return found

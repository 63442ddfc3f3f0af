"""A whole study as two tables in Parquet: one row per record, and one row per example of every cell."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spikeproof.experiments.read.finished import finished
from spikeproof.experiments.read.labels import Names, text_of
from spikeproof.experiments.read.record import Parts, Record, value_of
from spikeproof.experiments.read.results import WORST_CASE, outcomes
from spikeproof.experiments.read.worst import columns_of
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.parquet import TABLE, Columns
from spikeproof.experiments.run.store import Store, Stored
from spikeproof.experiments.study.cells import CellSpec
from spikeproof.experiments.study.kinds import CellKind

__all__ = ["write_examples", "write_records"]

NO_ATTACK = "none"
"""The attack of an example that was not attacked."""

NAMES = (*Parts.__annotations__, "model", "cell", "kind", "attack", "threat", "epsilon", "severity")
"""Columns of the table of examples that say what a row belongs to."""

_TEXT = pa.dictionary(pa.int32(), pa.string())


def write_records(records: Sequence[Record], file: IO[bytes]) -> int:
    """Write one row per record; its columns are the fields of a record, and the number of rows is returned.

    Lists of text stay lists; what has further fields inside (`effort`, `proofs`, `broken_by`) is JSON.

    Args:
        records: the headline numbers of a study.
        file: opened for writing.
    """
    columns = {name: _column([value_of(row, name) for row in records]) for name in Record.__annotations__}
    pq.write_table(pa.table(columns), file)
    return len(records)


def _column(values: Sequence[object]) -> pa.Array:
    plain = all(value is None or isinstance(value, str | bool | int | float) for value in values)
    lists = all(
        isinstance(value, list) and all(isinstance(each, str | float) for each in value) for value in values
    )
    if plain or lists:
        return pa.array(values)
    return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())


def write_examples(directory: Path, records: Sequence[Record], file: IO[bytes]) -> int:
    """Write one row per example of every finished cell that has a table, and of every worst case.

    The first columns say what a row belongs to: the parts of the model, its seed and address, the cell, its
    kind, the attack (`none` for examples as they are), the threat and its epsilon, the severity of a
    corruption. The others are the columns of all cells; what a cell does not have is null.

    Args:
        directory: the output directory of a run.
        records: its headline numbers.
        file: opened for writing.

    Returns:
        The number of rows.

    Raises:
        InputError: the directory holds no study.
    """
    plan, store = read_plan(directory), Store(directory)
    planned = [*plan["plan"], *plan["repairs"]]
    cells, names = finished(store, planned), Names.of(plan["plan"], plan["repairs"])
    models = {c["address"]: c["spec"] for c in plan["plan"] if c["kind"] == CellKind.TRAIN}
    tabled = [cell for cell in cells.values() if TABLE in cell.files and _train(cell) in models]
    found = sorted({name for cell in tabled for name in pq.read_schema(cell.path / TABLE).names})
    schema = pa.schema([*(pa.field(name, _TYPES.get(name, _TEXT)) for name in NAMES), *map(_number, found)])
    rows = 0
    with pq.ParquetWriter(file, schema) as writer:
        for words, columns in chain(_stored(tabled, models, names), _worst(directory, records)):
            count = len(columns["example"])
            arrays = [_repeated(words.get(name), schema.field(name).type, count) for name in NAMES]
            arrays += [_values(columns.get(name), count) for name in found]
            writer.write_table(pa.table(arrays, schema=schema))
            rows += count
    return rows


_TYPES: Mapping[str, pa.DataType] = {"seed": pa.int64(), "epsilon": pa.float64(), "severity": pa.int64()}


def _train(cell: Stored) -> str:
    return str(cell.cell["spec"].get("train", ""))


def _number(name: str) -> pa.Field:
    return pa.field(name, pa.float64())


def _stored(
    cells: Iterable[Stored], models: Mapping[str, CellSpec], names: Names
) -> Iterator[tuple[Mapping[str, object], Columns]]:
    for cell in cells:
        spec, train = cell.cell["spec"], models[_train(cell)]
        words: dict[str, object] = {
            **names.parts(train),
            "model": _train(cell),
            "cell": cell.address,
            "kind": cell.cell["kind"],
            "attack": _tried(spec, names, train["seed"]),
            "threat": names.threat(spec) if "threat" in spec else None,
            "epsilon": spec.get("epsilon"),
            "severity": spec.get("severity"),
        }
        yield words, columns_of(cell)


def _tried(spec: CellSpec, names: Names, seed: int) -> str:
    """What was done to the examples of a cell."""
    if "attack" in spec:
        return names.attack(spec, seed)
    if "probe" in spec:
        return names.probes[text_of(spec["probe"])]
    if "corruption" in spec:
        return names.corruptions[text_of(spec["corruption"])]
    if "certificate" in spec:
        return names.certificates[text_of(spec["certificate"])]
    return NO_ATTACK


def _worst(directory: Path, records: Sequence[Record]) -> Iterator[tuple[Mapping[str, object], Columns]]:
    for row in records:
        if row["attack"] == WORST_CASE:
            right, examples = outcomes(directory, row, records)
            words: dict[str, object] = {name: value_of(row, name) for name in Parts.__annotations__}
            words |= {"model": Path(row["train_cell"]).name, "kind": CellKind.ATTACK.value}
            words |= {name: value_of(row, name) for name in ("attack", "threat", "epsilon")}
            yield words, {"example": examples, "right": right}


def _repeated(value: object, kind: pa.DataType, count: int) -> pa.Array:
    if kind == _TEXT:
        indices = pa.array(np.zeros(count, np.int32), mask=np.full(count, value is None))
        return pa.DictionaryArray.from_arrays(indices, pa.array([str(value)], pa.string()))
    return pa.array([value] * count, kind)


def _values(column: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None, count: int) -> pa.Array:
    if column is None:
        return pa.nulls(count, pa.float64())
    return pa.array(column.astype(float))

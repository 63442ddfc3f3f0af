"""Numbers from elsewhere, with their uncertainty: tables in CSV, records in JSON, the data of a report."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from spikeproof.auditing.checks import WITHHELD
from spikeproof.errors import InputError
from spikeproof.experiments.read.gathered.across_seeds import CLEAN, PARTS, Group
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.plainfiles import bytes_of, from_json, printable, shaped
from spikeproof.statistics import wilson
from spikeproof.threats import parse_epsilon

__all__ = ["Figure", "read_csv", "read_records", "read_report"]

LARGEST = 64 * 1024 * 1024
"""Most bytes of a table."""

VALUES = ("accuracy", "robust_accuracy", "mean")
LOWS, HIGHS = ("low", "ci_low"), ("high", "ci_high")
"""Columns that hold an accuracy and the ends of its interval; the first of them that a table has counts."""

NAMED = ("dataset", *PARTS)


@dataclass(frozen=True)
class Figure:
    """One accuracy, with what is known of its uncertainty.

    Args:
        names: part of the model -> its name; a published table may leave some out.
        threat: its name; `none` for clean accuracy.
        epsilon: size of the budget.
        value: the accuracy, in [0, 1]; None where it is withheld.
        low: lower end of its 95 % interval, or None.
        high: upper end, or None.
        verdict: of the audit, or None.
        where: line or file, for messages.
        spec: text that is equal for equal models, data and threats; empty where that is not known.
        data: digest of the data, empty where that is not known.
        group: outcomes per image, or None.
    """

    names: Mapping[str, str]
    threat: str
    epsilon: float
    value: float | None
    low: float | None = None
    high: float | None = None
    verdict: str | None = None
    where: str = ""
    spec: str = ""
    data: str = ""
    group: Group | None = None


def read_csv(path: Path) -> list[Figure]:
    """The accuracies in a CSV file whose first line names its columns.

    A line has an accuracy (`accuracy`, `robust_accuracy` or `mean`: a share, or per cent with a sign), the
    name of any part of the model (`dataset`, `encoder`, `decoder`, `rule`, `neuron`, `network`, `surrogate`),
    and under attack `epsilon` with `threat` (`linf` where it is left out). Its uncertainty is an interval
    (`low` and `high`, or `ci_low` and `ci_high`) or follows from the number of images `n`; without either the
    accuracy is taken to be exact. Of a table with the column `attack` only worst cases are read, and other
    columns are passed over.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, or a line does not say what it should; the message names the line.
    """
    try:
        text = bytes_of(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected UTF-8 text", "other bytes", "Save the table as UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        columns = reader.fieldnames or []
        value = next((name for name in VALUES if name in columns), None)
        if value is None:
            raise InputError(
                f"{path}:1: expected a column with accuracies, such as {VALUES[0]!r}",
                ", ".join(map(repr, columns))[:200] or "nothing",
                "Name the columns in the first line.",
            )
        return [
            _figure(row, value, f"{printable(path.name)}:{reader.line_num}")
            for row in reader
            if (row.get("attack") or WORST_CASE) == WORST_CASE
        ]
    except csv.Error as error:
        raise InputError(
            f"{path}:{reader.line_num}: expected a table in CSV", str(error)[:200], "Correct this line."
        ) from error


def _figure(row: Mapping[str, str | None], column: str, where: str) -> Figure:
    threat, epsilon = _budget(row, where)
    names = {part: printable(str(row[part])) for part in NAMED if row.get(part)}
    verdict = row.get("verdict") or None
    if verdict == WITHHELD:
        return Figure(names, threat, epsilon, None, verdict=verdict, where=where)
    value = _share(row, column, where)
    if value is None:
        raise InputError(f"{where}: expected an accuracy", "none", f"Write one under {column!r}.")
    low, high = (_share(row, _first(row, names), where) for names in (LOWS, HIGHS))
    if (low is None or high is None) and row.get("n"):
        low, high = wilson(value * (n := _count(row, where)), n)
    if low is not None and high is not None and not low - 1e-9 <= value <= high + 1e-9:
        raise InputError(
            f"{where}: expected an accuracy within its interval", f"{value} in [{low}, {high}]", "Correct it."
        )
    return Figure(names, threat, epsilon, value, low, high, verdict, where)


def _budget(row: Mapping[str, str | None], where: str) -> tuple[str, float]:
    threat, epsilon = row.get("threat") or "", row.get("epsilon") or ""
    if threat == CLEAN or not (threat or epsilon):
        return CLEAN, 0.0
    try:
        return printable(threat) or "linf", parse_epsilon(epsilon)
    except InputError as error:
        raise InputError(f"{where}: {error.expected}", error.got, error.try_) from error


def _first(row: Mapping[str, str | None], names: Sequence[str]) -> str:
    return next((name for name in names if row.get(name)), names[0])


def _share(row: Mapping[str, str | None], column: str, where: str) -> float | None:
    """A share, written as such or in per cent."""
    text = (row.get(column) or "").strip()
    if not text:
        return None
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(
            f"{where}: expected a share between 0 and 1 under {column!r}",
            repr(text)[:80],
            "Write 0.34, or 34% with its sign.",
        )
    return value


def _count(row: Mapping[str, str | None], where: str) -> int:
    text = str(row["n"]).strip()
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 10 and int(text)):
        raise InputError(f"{where}: expected a number of images under 'n'", repr(text)[:80], "Write 1000.")
    return int(text)


def read_records(path: Path) -> list[Figure]:
    """The worst cases and clean accuracies among records in JSON, as `spikeproof show --json` prints them.

    Args:
        path: the file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    content = from_json(bytes_of(path, LARGEST), str(path))
    if isinstance(content, Mapping):  # several tables, as `show` prints them with more than one option
        content = content.get("numbers", content.get("records"))
    if not isinstance(content, list) or not all(isinstance(row, Mapping) for row in content):
        raise InputError(
            f"{path}: expected a list of records",
            "something else",
            "Write it with spikeproof show DIR --json.",
        )
    found, models = list[Figure](), set[object]()
    for i, row in enumerate(content):
        where = f"{printable(path.name)}: record {i}"
        plain = {name: None if value is None else str(value) for name, value in row.items()}
        if plain.get("model") not in models and "clean_accuracy" in plain:
            models.add(plain.get("model"))
            ends = {"low": plain.get("clean_ci_low"), "high": plain.get("clean_ci_high")}
            same = {part: plain.get(part) for part in NAMED}
            found.append(_figure({**same, "accuracy": plain["clean_accuracy"], **ends}, "accuracy", where))
        if plain.get("attack") == WORST_CASE:
            found.append(_figure(plain, "robust_accuracy", where))
    return found


START, END = b'<script type="application/json" id="data">', b"</script>"
"""Between these stand the data of a report; no text in them can hold the end."""

Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Place = Annotated[int, Field(strict=True, ge=0)]
Words = Annotated[str, Field(strict=True, max_length=1000)]


class _Model(TypedDict):
    axes: list[Words]
    clean: Share | None
    low: Share | None
    high: Share | None


class _Rows(TypedDict):
    model: list[Place]
    budget: list[Place]
    attack: list[Place]
    verdict: list[Place]
    accuracy: list[Share | None]
    low: list[Share | None]
    high: list[Share | None]


class _Report(TypedDict):
    """What is read of the data of a report; `shared` are the parts that all of its models have."""

    axes: list[Words]
    budgets: list[tuple[Words, Annotated[float, Field(ge=0, allow_inf_nan=False)], Words]]
    worst: Words
    withheld: Words
    models: list[_Model]
    rows: _Rows
    texts: list[Annotated[str, Field(strict=True)]]
    shared: NotRequired[dict[Words, Words]]


def read_report(path: Path) -> list[Figure]:
    """The clean accuracies and worst cases that the page of a report holds.

    Args:
        path: the page, as `spikeproof report` writes it.

    Raises:
        InputError: it cannot be read, is cut off, or holds no data of a report.
    """
    content = bytes_of(path, LARGEST)
    start = content.find(START)
    end = content.find(END, start)
    if start < 0 or end < 0:
        raise InputError(
            f"{path}: expected a report of spikeproof with its data",
            "another page" if start < 0 else "a page that is cut off",
            "Write it with spikeproof report DIR.",
        )
    report: _Report = shaped(from_json(content[start + len(START) : end], str(path)), _Report, str(path))
    try:
        return _reported(report, printable(path.name))
    except (IndexError, ValueError) as error:
        raise InputError(
            f"{path}: expected numbers of the models, budgets and texts of the report",
            "a number that names none of them",
            "Write the report again with spikeproof report DIR.",
        ) from error


def _reported(report: _Report, name: str) -> list[Figure]:
    """The numbers of a report.

    Raises:
        IndexError, ValueError: a row names what the report does not have.
    """
    rows, models = report["rows"], report["models"]
    shared = {part: words for part, words in report.get("shared", {}).items() if part in NAMED}
    names = []
    for model in models:
        own = dict(zip(report["axes"], model["axes"], strict=True))
        names.append(shared | {part: words for part, words in own.items() if part in NAMED})
    found = [
        Figure(names[place], CLEAN, 0.0, model["clean"], model["low"], model["high"], where=name)
        for place, model in enumerate(models)
        if model["clean"] is not None
    ]
    columns = (rows["model"], rows["budget"], rows["attack"], rows["verdict"])
    numbers = (rows["accuracy"], rows["low"], rows["high"])
    for model_at, budget, attack, verdict, value, low, high in zip(*columns, *numbers, strict=True):
        if report["texts"][attack] != report["worst"]:
            continue
        threat, epsilon, _ = report["budgets"][budget]
        judged = report["texts"][verdict] or None
        if value is None or judged == WITHHELD:
            found.append(Figure(names[model_at], threat, epsilon, None, verdict=WITHHELD, where=name))
        else:
            found.append(Figure(names[model_at], threat, epsilon, value, low, high, judged, name))
    return found

"""Natural corruptions: the accuracy under each, and the mean corruption error of every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.labels import Names, text_of
from spikeproof.experiments.read.record import Base, CorruptionError, CorruptionRecord
from spikeproof.experiments.read.results import of_kind
from spikeproof.experiments.read.worst import columns_of
from spikeproof.experiments.run.parquet import Array
from spikeproof.experiments.run.store import Stored
from spikeproof.experiments.study.cells import CellRecord, Plain
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.keys import Key
from spikeproof.statistics import bootstrap_mean

__all__ = ["corruption_errors", "corruption_records"]

KEY = Key.of(0).fold("corruption-errors")
"""Randomness of bootstrap intervals."""


def corruption_records(directory: Path | Opened) -> list[CorruptionRecord]:
    """The accuracy of every model of a study under every natural corruption, from the finished cells.

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.
    """
    return [_record(base, names, cell) for base, names, cell in of_kind(directory, CellKind.CORRUPT)]


def _record(base: Base, names: Names, cell: Stored) -> CorruptionRecord:
    metrics, spec, known = cell.metrics, cell.cell["spec"], dict[str, object](base)
    wanted = CorruptionRecord.__annotations__
    record = {
        **{name: known[name] for name in wanted if name in known},
        **{name: metrics[name] for name in wanted if name in metrics},
        "corruption": names.corruptions[text_of(spec["corruption"])],
        "severity": spec["severity"],
        "cell": str(cell.path),
    }
    return cast(CorruptionRecord, record)


@dataclass(frozen=True)
class _Errors:
    """The errors of one model.

    Args:
        base: its parts and its results on clean images.
        clean: its error on clean images.
        found: the error of each example, by corruption and severity.
        missing: planned corruptions and severities without a finished cell.
    """

    base: Base
    clean: float
    found: Mapping[tuple[str, int], Array]
    missing: Sequence[tuple[str, int]]

    def over_severities(self) -> dict[str, float]:
        """The mean error of every corruption that is complete."""
        lacking = {name for name, _ in self.missing}
        means: dict[str, list[float]] = {name: [] for name, _ in self.found if name not in lacking}
        for (name, _), errors in self.found.items():
            if name in means:
                means[name].append(float(errors.mean()))
        return {name: float(np.mean(each)) for name, each in means.items()}


def corruption_errors(directory: Path | Opened) -> list[CorruptionError]:
    r"""The mean corruption error of every model of a study, divided by the baseline's where there is one.

    .. math:: mCE = \frac{1}{|C|} \sum_c \frac{\sum_s E_{s,c}}{\sum_s E^{base}_{s,c}}

    Args:
        directory: the output directory of a run, or the study in it.

    Raises:
        InputError: the directory holds no study.

    Source:
        Hendrycks & Dietterich 2019, section 4: mean and relative mean corruption error.
    """
    opened = Opened.of(directory)
    plan = opened.plan
    wanted = [cell for cell in plan["plan"] if cell["kind"] == CellKind.CORRUPT]
    if not wanted:
        return []
    names, bases, cells = opened.names, dict[str, Base](), dict[str, Stored]()
    for base, _, cell in of_kind(opened, CellKind.CORRUPT):
        bases[cell.cell["spec"]["train"]] = base
        cells[cell.address] = cell
    found = {train: _errors(base, train, wanted, cells, names) for train, base in bases.items()}
    parts = plan["spec"].get("baseline")
    chosen = {
        cell["spec"]["seed"]: found.get(cell["address"])
        for cell in plan["plan"]
        if cell["kind"] == CellKind.TRAIN and parts is not None and _has(cell, parts)
    }
    return [_summary(errors, chosen, named=parts is not None) for errors in found.values()]


def _has(train: CellRecord, parts: Plain) -> bool:
    """Whether a train cell has these parts."""
    own = {**train["spec"]["model"], "rule": train["spec"]["rule"]}
    return all(own.get(axis) == part for axis, part in parts.items())


def _errors(
    base: Base, train: str, wanted: Sequence[CellRecord], cells: Mapping[str, Stored], names: Names
) -> _Errors:
    found, missing = dict[tuple[str, int], Array](), list[tuple[str, int]]()
    for cell in wanted:
        spec = cell["spec"]
        if spec["train"] != train:
            continue
        name, severity = names.corruptions[text_of(spec["corruption"])], spec["severity"]
        if cell["address"] in cells:
            found[name, severity] = 1 - columns_of(cells[cell["address"]])["right"]
        else:
            missing.append((name, severity))
    return _Errors(base, 1 - base["clean_accuracy"], found, missing)


def _summary(errors: _Errors, baselines: Mapping[int, _Errors | None], *, named: bool) -> CorruptionError:
    base, known = errors.base, dict[str, object](errors.base)
    rows, complete = list(errors.found.values()), not errors.missing
    mean = np.mean(rows, axis=0) if rows and complete else None
    interval = None if mean is None else bootstrap_mean(mean, KEY)
    baseline = baselines.get(base["seed"])
    missing = [f"{name} {severity}" for name, severity in errors.missing]
    if named and baseline is None:
        missing.append("the baseline")
    elif baseline is not None and baseline is not errors:
        missing += [f"the baseline under {name} {severity}" for name, severity in baseline.missing]
    comparable = baseline is not None and complete and not baseline.missing
    record = {
        **{name: known[name] for name in CorruptionError.__annotations__ if name in known},
        "corruptions": len({name for name, _ in errors.found}),
        "severities": len({severity for _, severity in errors.found}),
        "error": None if mean is None else float(mean.mean()),
        "error_low": None if interval is None else interval.low,
        "error_high": None if interval is None else interval.high,
        "by_corruption": errors.over_severities(),
        "baseline": None if baseline is None else _called(baseline.base),
        "normalised": _ratio(errors, baseline, clean=False) if baseline and comparable else None,
        "relative": _ratio(errors, baseline, clean=True) if baseline and comparable else None,
        "missing": missing,
    }
    return cast(CorruptionError, record)


def _called(base: Base) -> str:
    return f"{base['network']}, {base['neuron']}, {base['encoder']}"


def _ratio(errors: _Errors, baseline: _Errors, *, clean: bool) -> float | None:
    """The mean over corruptions of a model's error by the baseline's; with `clean`, beyond clean errors."""
    own, others = errors.over_severities(), baseline.over_severities()
    less, least = (errors.clean, baseline.clean) if clean else (0.0, 0.0)
    below = [others[name] - least for name in own]
    if not below or min(below) <= 0:
        return None
    return float(np.mean([(own[name] - less) / there for name, there in zip(own, below, strict=True)]))

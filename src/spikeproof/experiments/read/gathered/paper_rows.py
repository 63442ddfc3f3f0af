"""The numbers of a study as papers print them: one per architecture and budget, with mean and interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypedDict

from spikeproof.auditing.checks import GRAVITY, WITHHELD
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered.across_seeds import CLEAN, PARTS, SeedMean, seed_means
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import WORST_CASE

__all__ = ["Covers", "PaperRow", "paper_rows"]


class Covers(StrEnum):
    """What else an interval holds for."""

    IMAGES = "other images"
    BOTH = "other trainings and other images"
    NOTHING = "nothing"


class PaperRow(TypedDict):
    """One number for a table.

    `threat` is `none` for clean accuracy; under attack the accuracy is that of the worst case over all
    attacks of the study. `low` and `high` are the ends of a 95 % interval, which `covers` other images
    (Wilson, one training) or other trainings and other images (several). `verdict` is the gravest of the
    seeds; a withheld number has no mean.
    """

    dataset: str
    network: str
    neuron: str
    encoder: str
    decoder: str
    surrogate: str
    rule: str
    threat: str
    epsilon: float
    seeds: int
    n: int
    mean: float | None
    low: float | None
    high: float | None
    covers: str
    verdict: str | None


def paper_rows(
    directory: Path | Opened, records: Sequence[Record], known: Sequence[SeedMean] | None = None
) -> list[PaperRow]:
    """One row per architecture and budget, clean accuracy first, in the order of the study.

    Args:
        directory: the output directory of a run.
        records: its headline numbers.
        known: means over its trainings, if they are known; otherwise they are read.

    Raises:
        DamagedError: a cell is not what was stored.
    """
    over_seeds = seed_means(directory, records) if known is None else known
    means = {(*_architecture(row), row["threat"], row["epsilon"]): row for row in over_seeds}
    worst: dict[tuple[object, ...], dict[tuple[str, float], list[Record]]] = {}
    clean: dict[tuple[object, ...], dict[str, Record]] = {}
    for record in records:
        architecture, budget = _architecture(record), (record["threat"], record["epsilon"])
        clean.setdefault(architecture, {}).setdefault(record["model"], record)
        if record["attack"] == WORST_CASE:
            worst.setdefault(architecture, {}).setdefault(budget, []).append(record)
    rows = []
    for architecture, models in clean.items():
        own = worst.get(architecture, {})
        rows.append(_clean_row([*models.values()], means.get((*architecture, CLEAN, 0.0))))
        rows += [_worst_row(found, means.get((*architecture, *budget))) for budget, found in own.items()]
    return rows


def _architecture(row: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(row[part] for part in ("dataset", *PARTS))


def _clean_row(models: Sequence[Record], mean: SeedMean | None) -> PaperRow:
    first = models[0]
    row = _row(first, CLEAN, 0.0, len(models))
    if mean is not None:
        return _with_mean(row, mean)
    if len(models) > 1:
        return row
    ends = {"mean": first["clean_accuracy"], "low": first["clean_ci_low"], "high": first["clean_ci_high"]}
    return {**row, **ends, "covers": Covers.IMAGES}  # type: ignore[typeddict-item]


def _worst_row(found: Sequence[Record], mean: SeedMean | None) -> PaperRow:
    first = found[0]
    verdict = min((str(row["verdict"]) for row in found), key=GRAVITY.index)
    row: PaperRow = {**_row(first, first["threat"], first["epsilon"], len(found)), "verdict": verdict}
    if mean is not None:
        return _with_mean(row, mean)
    if len(found) > 1 or verdict == WITHHELD:
        return row
    ends = {"mean": first["robust_accuracy"], "low": first["ci_low"], "high": first["ci_high"]}
    return {**row, **ends, "covers": Covers.IMAGES}  # type: ignore[typeddict-item]


def _row(record: Record, threat: str, epsilon: float, seeds: int) -> PaperRow:
    return {
        "dataset": record["dataset"],
        "network": record["network"],
        "neuron": record["neuron"],
        "encoder": record["encoder"],
        "decoder": record["decoder"],
        "surrogate": record["surrogate"],
        "rule": record["rule"],
        "threat": threat,
        "epsilon": epsilon,
        "seeds": seeds,
        "n": record["n"],
        "mean": None,
        "low": None,
        "high": None,
        "covers": Covers.NOTHING,
        "verdict": None,
    }


def _with_mean(row: PaperRow, mean: SeedMean) -> PaperRow:
    known: PaperRow = {**row, "n": mean["n"], "mean": mean["mean"], "low": mean["low"], "high": mean["high"]}
    return {**known, "covers": Covers.BOTH}

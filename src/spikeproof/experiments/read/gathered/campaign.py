"""What trackers of experiments show of a study: one run per training, with its curves and final numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

from spikeproof.auditing.checks import WITHHELD
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.experiments.run.store import Metrics
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.specs import address

__all__ = ["Point", "TrainingRun", "training_runs"]


class Point(NamedTuple):
    """One value of a training curve, after an epoch, counted from 1."""

    name: str
    epoch: int
    value: float


class TrainingRun(TypedDict):
    """One trained model of a study with all that is known of it.

    `label` names the model by the parts in which models of the study differ, `parts` has all of them. `curve`
    are the numbers of every epoch of its training, such as its loss. `numbers` are `accuracy`, `low` and
    `high` of `clean` and of the worst case at every budget, such as `robust/linf/0.1/accuracy`; a withheld
    number is left out. `verdicts` has the verdict of each worst case, and `digest` changes whenever any of
    this does.
    """

    study: str
    label: str
    cell: str
    parts: dict[str, str]
    curve: list[Point]
    numbers: dict[str, float]
    verdicts: dict[str, str]
    digest: str


def training_runs(directory: Path | Opened, records: Sequence[Record]) -> list[TrainingRun]:
    """Every finished training of a study, in the order of the study.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.

    Raises:
        InputError: the directory holds no study.
    """
    opened = Opened.of(directory)
    plan, cells, names = opened.plan, opened.cells, opened.names
    trains = [cell for cell in plan["plan"] if cell["kind"] == CellKind.TRAIN]
    parts = {cell["address"]: {k: str(v) for k, v in names.parts(cell["spec"]).items()} for cell in trains}
    telling = [
        axis for axis in next(iter(parts.values()), {}) if len({each[axis] for each in parts.values()}) > 1
    ] or ["encoder"]
    rows = defaultdict[str, list[Record]](list)
    for row in records:
        rows[Path(row["train_cell"]).name].append(row)
    found = []
    for cell in trains:
        if cell["address"] not in cells:
            continue
        own = rows[cell["address"]]
        named = parts[cell["address"]]
        numbers, verdicts = _numbers(own)
        words = [f"seed {named[axis]}" if axis == "seed" else named[axis] for axis in telling]
        run: TrainingRun = {
            "study": plan["study"],
            "label": ", ".join(words),
            "cell": cell["address"],
            "parts": {**named, **({"dataset": own[0]["dataset"]} if own else {})},
            "curve": _curve(cells[cell["address"]].metrics),
            "numbers": numbers,
            "verdicts": verdicts,
            "digest": "",
        }
        found.append({**run, "digest": address({**run, "curve": [[*point] for point in run["curve"]]})})
    return found  # type: ignore[return-value]


def _curve(metrics: Metrics) -> list[Point]:
    """Every number of every epoch; what was not measured is left out."""
    epochs: Sequence[Mapping[str, object]] = metrics.get("epochs") or ()
    return [
        Point(name, int(number), float(value))
        for epoch in epochs
        if isinstance(number := epoch.get("epoch"), int)
        for name, value in epoch.items()
        if name != "epoch" and isinstance(value, int | float) and not isinstance(value, bool)
    ]


def _numbers(records: Sequence[Record]) -> tuple[dict[str, float], dict[str, str]]:
    numbers, verdicts = dict[str, float](), dict[str, str]()
    for row in records:
        clean = (row["clean_accuracy"], row["clean_ci_low"], row["clean_ci_high"])
        numbers |= {f"clean/{end}": value for end, value in zip(_ENDS, clean, strict=True)}
        if row["attack"] != WORST_CASE:
            continue
        name = f"robust/{row['threat']}/{row['epsilon']:.6g}"
        verdicts[name] = str(row["verdict"])
        if row["verdict"] != WITHHELD:
            worst = (row["robust_accuracy"], row["ci_low"], row["ci_high"])
            numbers |= {f"{name}/{end}": value for end, value in zip(_ENDS, worst, strict=True)}
    return numbers, verdicts


_ENDS = ("accuracy", "low", "high")

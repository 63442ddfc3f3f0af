"""Models of a study against each other on the same images: who is more robust, and whether that is shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypedDict

from spikeproof.auditing.checks import DOUBTFUL, PRELIMINARY, WITHHELD
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.record import Record, value_of, values_of
from spikeproof.experiments.read.results import WORST_CASE, Outcome, outcomes
from spikeproof.keys import Key
from spikeproof.statistics import compare, difference_tests, holm

__all__ = ["KEY", "MOST_COMPARED", "Compared", "comparisons", "stated", "worst_cases"]

AXES = ("encoder", "decoder", "rule", "neuron", "network", "surrogate")

_BEFORE = {"seed": "seed "}
"""Axis -> what a name says before its value."""

MOST_COMPARED = 2_000
"""Comparisons that a report rests on, the first in the order of the study."""

ALL_PAIRS = 4
"""Groups up to this size are compared pair by pair, larger ones with their most robust member."""


class Compared(TypedDict):
    """Two models that differ in one part, under one budget, as `show --comparisons --json` prints it.

    `difference` is the robust accuracy of the first minus the robust accuracy of the second, in the worst
    case over the attacks of the study and on the same images, with its 95 % paired bootstrap interval.
    `p_value` belongs to the exact McNemar test (a sign-flip test for stochastic models), and `adjusted` is
    the p-value after Holm's correction for every pair that could have been printed. `shown` says whether the
    difference holds.
    """

    threat: str
    epsilon: float
    part: str
    first: str
    second: str
    others: str
    n: int
    difference: float
    ci_low: float
    ci_high: float
    p_value: float
    adjusted: float
    shown: bool
    doubtful: list[str]
    preliminary: list[str]
    sentence: str


@dataclass(frozen=True)
class _Pair:
    part: str
    first: Outcome
    second: Outcome
    printed: bool
    p_value: float


def comparisons(
    directory: Path | Opened,
    records: Sequence[Record],
    worst: Sequence[Outcome] | None = None,
    most: int | None = None,
) -> list[Compared]:
    """Comparisons of models that differ in one part, the most robust first; withheld numbers are left out.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
        worst: its worst cases, if they are known; otherwise they are read.
        most: largest number of comparisons, the first in the order of the study; the correction is for all.
    """
    budgets: dict[tuple[str, float, int], list[Outcome]] = defaultdict(list)
    for each in worst_cases(directory, records) if worst is None else worst:
        row = each.record
        budgets[row["threat"], row["epsilon"], row["seed"]].append(each)
    pairs = [pair for models in budgets.values() for pair in _pairs(models)]
    adjusted = holm([pair.p_value for pair in pairs])
    varying = [axis for axis in (*AXES, "seed") if len(values_of(records, axis)) > 1]
    printed = [(pair, p) for pair, p in zip(pairs, adjusted, strict=True) if pair.printed]
    found = [_compared(pair, p, varying) for pair, p in printed[:most]]
    order = list(dict.fromkeys((row["part"], row["threat"], row["epsilon"]) for row in found))
    return sorted(found, key=lambda row: order.index((row["part"], row["threat"], row["epsilon"])))


def stated(worst: Iterable[Outcome]) -> list[Outcome]:
    """Those worst cases whose numbers may be stated: they are there and not withheld.

    Args:
        worst: the worst cases of a study.
    """
    return [each for each in worst if _stated(each.record)]


def _stated(row: Record) -> bool:
    return row["verdict"] != WITHHELD and row["robust_accuracy"] is not None


def worst_cases(directory: Path | Opened, records: Sequence[Record]) -> list[Outcome]:
    """Every worst case that is not withheld, with its outcomes per image, which are read again.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
    """
    alike: dict[tuple[str, str, float], list[Record]] = defaultdict(list)
    for row in records:
        alike[row["train_cell"], row["threat"], row["epsilon"]].append(row)
    opened = Opened.of(directory)
    return [
        Outcome(row, *outcomes(opened, row, alike[row["train_cell"], row["threat"], row["epsilon"]]))
        for row in records
        if row["attack"] == WORST_CASE and _stated(row)
    ]


def _pairs(models: Sequence[Outcome]) -> Iterator[_Pair]:
    """Pairs of models that differ in one part and were measured on the same images."""
    for part in AXES:
        groups: dict[tuple[object, ...], list[Outcome]] = defaultdict(list)
        for model in models:
            parts: Mapping[str, object] = model.record
            same = tuple(parts[axis] for axis in AXES if axis != part)
            groups[(*same, model.examples.tobytes())].append(model)
        for group in groups.values():
            ranked = sorted(group, key=lambda each: -float(each.right.mean()))
            tested = difference_tests([each.right for each in ranked], KEY)
            for (i, first), (k, second) in combinations(enumerate(ranked), 2):
                printed = i == 0 or len(group) <= ALL_PAIRS
                yield _Pair(part, first, second, printed, tested[i, k])


KEY = Key.of(0)
"""The key of resampling and sign flips, fixed so that every report gives the same intervals."""


def _compared(pair: _Pair, adjusted: float, varying: Sequence[str]) -> Compared:
    first, second = pair.first.record, pair.second.record
    names = (str(value_of(first, pair.part)), str(value_of(second, pair.part)))
    result = compare(pair.first.right, pair.second.right, KEY)
    verdicts = list(zip(names, (first["verdict"], second["verdict"]), strict=True))
    doubtful = [name for name, verdict in verdicts if verdict == DOUBTFUL]
    preliminary = [name for name, verdict in verdicts if verdict == PRELIMINARY]
    sentence = result.sentence(names[0], names[1], adjusted)
    if doubtful:
        sentence += f"; doubtful: {' and '.join(doubtful)}"
    if preliminary:
        sentence += f"; preliminary: {' and '.join(preliminary)}"
    return {
        "threat": first["threat"],
        "epsilon": first["epsilon"],
        "part": pair.part,
        "first": names[0],
        "second": names[1],
        "others": ", ".join(
            f"{_BEFORE.get(axis, '')}{value_of(first, axis)}" for axis in varying if axis != pair.part
        ),
        "n": result.n,
        "difference": result.difference,
        "ci_low": result.interval.low,
        "ci_high": result.interval.high,
        "p_value": result.p_value,
        "adjusted": adjusted,
        "shown": result.holds(adjusted=adjusted),
        "doubtful": doubtful,
        "preliminary": preliminary,
        "sentence": sentence,
    }

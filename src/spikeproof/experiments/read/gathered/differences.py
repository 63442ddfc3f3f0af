"""Two studies, or a study and a published table: which numbers moved by more than their uncertainty."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from statistics import NormalDist, fmean
from typing import TypedDict

import numpy as np

from spikeproof.auditing.checks import WITHHELD
from spikeproof.errors import InputError
from spikeproof.experiments.read.comparisons import KEY
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered.across_seeds import CLEAN, Group, groups
from spikeproof.experiments.read.gathered.published import (
    NAMED,
    Figure,
    read_csv,
    read_records,
    read_report,
)
from spikeproof.experiments.read.record import value_of
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.study.cells import CellRecord
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.specs import canonical
from spikeproof.statistics import Interval, compare, compare_trainings, holm, over_seeds, over_trainings

__all__ = ["Difference", "Differences", "How", "differences", "figures"]

LEVEL = 0.05


class How(StrEnum):
    """By what two numbers were compared."""

    IMAGES = "paired by image"
    TRAININGS = "over trainings and images"
    INTERVALS = "by their intervals"
    VERDICT = "by their verdicts"


class Difference(TypedDict):
    """One number on both sides, as `spikeproof diff --json` prints it.

    `difference` is the second accuracy minus the first, with its 95 % interval; `adjusted` is the p-value of
    no difference after Holm's correction for all numbers that were compared. `moved` says that the difference
    is larger than its uncertainty, or that the number is withheld on one side only. `how` names the test:
    `paired by image` where both sides have the answers of one training each to the same images (McNemar, or
    sign flips for stochastic models; bootstrap interval), `over trainings and images` where both have several
    trainings, and `by their intervals` elsewhere. `by_name` says that the models were matched by the names of
    their parts, and not by all their options.
    """

    label: str
    threat: str
    epsilon: float
    first: float | None
    second: float | None
    first_verdict: str | None
    second_verdict: str | None
    difference: float | None
    low: float | None
    high: float | None
    p_value: float | None
    adjusted: float | None
    n: int | None
    how: str
    by_name: bool
    moved: bool


class Differences(TypedDict):
    """What moved between two sides; `only_first` and `only_second` are numbers that one side lacks."""

    first: str
    second: str
    differences: list[Difference]
    only_first: list[str]
    only_second: list[str]
    moved: int


def differences(first: Path, second: Path) -> Differences:
    """The numbers that two sides share, each with the test of whether it moved.

    Args:
        first: the output directory of a study, or a table in CSV or JSON.
        second: the same.

    Raises:
        InputError: a side cannot be read, or the two share no number.
    """
    one, other = figures(first), figures(second)
    pairs, left, right = _matched(one, other)
    if not pairs:
        raise InputError(
            "Expected two sides that share at least one number",
            f"{len(one)} and {len(other)} numbers of other models, threats or budgets",
            "Compare tables whose parts of models have the same names.",
        )
    every = (*one, *other)
    telling = [part for part in NAMED if len({f.names[part] for f in every if part in f.names}) > 1]
    compared = [_compared(a, b, by_name, telling) for a, b, by_name in pairs]
    tested = [row for row in compared if row["p_value"] is not None]
    for row, p in zip(tested, holm([row["p_value"] or 0.0 for row in tested]), strict=True):
        apart = row["low"] is not None and not row["low"] <= 0 <= (row["high"] or 0)
        row["adjusted"], row["moved"] = p, p <= LEVEL and apart
    return {
        "first": str(first),
        "second": str(second),
        "differences": compared,
        "only_first": [_words(figure, telling) for figure in left],
        "only_second": [_words(figure, telling) for figure in right],
        "moved": sum(row["moved"] for row in compared),
    }


def figures(side: Path) -> list[Figure]:
    """Clean accuracies and worst cases of one side, several trainings of one model as one number.

    Args:
        side: the output directory of a study, or a table or report that ends in `.csv`, `.json` or
            `.html`.

    Raises:
        InputError: it is none of these, or cannot be read.
    """
    reader = READERS.get(side.suffix.lower())
    return _of_study(side) if reader is None or side.is_dir() else _pooled(reader(side))


READERS: Mapping[str, Callable[[Path], list[Figure]]] = {
    ".csv": read_csv,
    ".json": read_records,
    ".html": read_report,
}
"""End of the name of a file -> how its numbers are read."""


def _of_study(directory: Path) -> list[Figure]:
    opened = Opened.of(directory)
    found, plan = records(opened), opened.plan
    models = {cell["address"]: cell for cell in plan["plan"] if cell["kind"] == CellKind.TRAIN}
    threats = _threats(plan["plan"], directory)
    withheld = [row for row in found if row["attack"] == WORST_CASE and row["verdict"] == WITHHELD]
    figures, known = list[Figure](), set[tuple[str, str, float]]()
    for group in groups(opened, found):
        figure = _figure(group, models, threats)
        aside = [row for row in withheld if (row["threat"], row["epsilon"]) == (group.threat, group.epsilon)]
        if any(
            _spec(models, row["train_cell"]) == figure.spec.removesuffix(threats[group.threat])
            for row in aside
        ):
            figure = replace(figure, value=None, low=None, high=None, verdict=WITHHELD, group=None)
        known.add((figure.spec, figure.threat, figure.epsilon))
        figures.append(figure)
    for row in withheld:
        budget = row["threat"], row["epsilon"]
        spec = _spec(models, row["train_cell"]) + threats[row["threat"]]
        if (spec, *budget) not in known:
            known.add((spec, *budget))
            names = {part: str(value_of(row, part)) for part in NAMED}
            figures.append(Figure(names, *budget, None, verdict=WITHHELD, where=str(directory), spec=spec))
    return figures


def _threats(plan: Sequence[CellRecord], directory: Path) -> dict[str, str]:
    """Name of a threat in the records -> its text with all options."""
    from spikeproof.experiments.read.labels import Names

    names = Names.of(plan, ())
    found = {
        names.threat(cell["spec"]): canonical(cell["spec"]["threat"])
        for cell in plan
        if "threat" in cell["spec"]
    }
    return {**found, CLEAN: ""}


def _spec(models: Mapping[str, CellRecord], train_cell: str) -> str:
    """What makes two models of studies equal: data, parts and learning rule, with all options."""
    spec = models[Path(train_cell).name]["spec"]
    return canonical({name: spec.get(name) for name in ("dataset", "model", "rule")})


def _figure(group: Group, models: Mapping[str, CellRecord], threats: Mapping[str, str]) -> Figure:
    rows = [each.record for each in group.trained]
    clean = group.threat == CLEAN
    first = rows[0]
    low, high = (
        (first["clean_ci_low"], first["clean_ci_high"]) if clean else (first["ci_low"], first["ci_high"])
    )
    mean = first["clean_accuracy"] if clean else first["robust_accuracy"]
    if len(rows) > 1 and len(group.examples):
        over = over_trainings(group.outcomes(group.examples))
        mean, (low, high) = over.mean, over.interval or (0.0, 1.0)
    verdicts = [] if clean else sorted({str(row["verdict"]) for row in rows})
    return Figure(
        {part: str(group.model[part]) for part in NAMED},
        group.threat,
        group.epsilon,
        mean,
        low,
        high,
        " and ".join(verdicts) or None,
        spec=_spec(models, first["train_cell"]) + threats[group.threat],
        data=str(models[Path(first["train_cell"]).name]["spec"]["dataset"]["sha256"]),
        group=group,
    )


def _pooled(found: Iterable[Figure]) -> list[Figure]:
    """Figures of one model under several seeds as one, for other trainings and, if known, other images.

    The interval joins that of Student's t over the seeds with the mean interval of a single seed.
    """
    alike: dict[tuple[object, ...], list[Figure]] = defaultdict(list)
    for figure in found:
        alike[(*sorted(figure.names.items()), figure.threat, figure.epsilon)].append(figure)
    pooled = []
    for each in alike.values():
        values = [figure.value for figure in each if figure.value is not None]
        if len(each) == 1:
            pooled += each
        elif len(values) < len(each):
            pooled.append(replace(each[0], value=None, low=None, high=None, verdict=WITHHELD))
        else:
            mean, ends = over_seeds(values)
            low, high = ends or (mean, mean)
            below = [value - f.low for value, f in zip(values, each, strict=True) if f.low is not None]
            above = [f.high - value for value, f in zip(values, each, strict=True) if f.high is not None]
            low = mean - math.hypot(mean - low, fmean(below or [0.0]))
            high = mean + math.hypot(high - mean, fmean(above or [0.0]))
            pooled.append(replace(each[0], value=mean, low=low, high=high))
    return pooled


def _matched(
    one: Sequence[Figure], other: Sequence[Figure]
) -> tuple[list[tuple[Figure, Figure, bool]], list[Figure], list[Figure]]:
    """Pairs of the same number, by all options where both sides have them and otherwise by names."""
    pairs, left, right = list[tuple[Figure, Figure, bool]](), list(one), list(other)
    for by_name, same in ((False, _same_spec), (True, _same_names)):
        for figure in tuple(left):
            found = [each for each in right if _same_budget(each, figure) and same(each, figure)]
            if len(found) != 1:
                continue
            rivals = [each for each in left if _same_budget(each, found[0]) and same(each, found[0])]
            if len(rivals) == 1:
                left.remove(figure)
                right.remove(found[0])
                pairs.append((figure, found[0], by_name))
    return pairs, left, right


def _same_spec(a: Figure, b: Figure) -> bool:
    """Whether two models agree in all options, data and threat."""
    return bool(a.spec) and a.spec == b.spec


def _same_budget(a: Figure, b: Figure) -> bool:
    return a.threat == b.threat and math.isclose(a.epsilon, b.epsilon, rel_tol=1e-4, abs_tol=1e-12)


def _same_names(a: Figure, b: Figure) -> bool:
    """Whether two models agree in every part that both name, and there is one; or one of them names none."""
    shared = a.names.keys() & b.names.keys()
    return all(a.names[part] == b.names[part] for part in shared) and bool(
        shared or not (a.names and b.names)
    )


def _label(figure: Figure, telling: Sequence[str]) -> str:
    """The model by the parts in which models of the two sides differ."""
    words = [figure.names[part] for part in telling or ("encoder",) if part in figure.names]
    return ", ".join(words) or "the model"


def _words(figure: Figure, telling: Sequence[str]) -> str:
    budget = "clean" if figure.threat == CLEAN else f"{figure.threat} {figure.epsilon:.4g}"
    return f"{_label(figure, telling)}, {budget}"


@dataclass(frozen=True)
class _Test:
    difference: float
    interval: Interval
    p_value: float
    n: int | None
    how: How


def _compared(a: Figure, b: Figure, by_name: bool, telling: Sequence[str]) -> Difference:
    row: Difference = {
        "label": _label(a if len(a.names) >= len(b.names) else b, telling),
        "threat": a.threat,
        "epsilon": a.epsilon,
        "first": a.value,
        "second": b.value,
        "first_verdict": a.verdict,
        "second_verdict": b.verdict,
        "difference": None,
        "low": None,
        "high": None,
        "p_value": None,
        "adjusted": None,
        "n": None,
        "how": How.VERDICT,
        "by_name": by_name,
        "moved": (a.value is None) != (b.value is None),
    }
    if a.value is None or b.value is None:
        return row
    test = _tested(a, b, a.value, b.value)
    return {
        **row,
        "difference": test.difference,
        "low": test.interval.low,
        "high": test.interval.high,
        "p_value": test.p_value,
        "n": test.n,
        "how": test.how,
    }


def _tested(a: Figure, b: Figure, first: float, second: float) -> _Test:
    """The test that the knowledge of both sides allows."""
    if a.group is not None and b.group is not None and a.data == b.data:
        examples = np.intersect1d(a.group.examples, b.group.examples)
        seeds = len(a.group.trained), len(b.group.trained)
        if len(examples) and min(seeds) > 1:
            paired = a.group.seeds == b.group.seeds
            found = compare_trainings(b.group.outcomes(examples), a.group.outcomes(examples), paired=paired)
            interval = found.interval or Interval(-1.0, 1.0)
            return _Test(found.mean, interval, found.p_value or 0.0, found.n, How.TRAININGS)
        if len(examples) and seeds == (1, 1):
            by_image = compare(b.group.outcomes(examples)[0], a.group.outcomes(examples)[0], KEY)
            return _Test(by_image.difference, by_image.interval, by_image.p_value, by_image.n, How.IMAGES)
    return _by_intervals(a, b, first, second)


def _by_intervals(a: Figure, b: Figure, first: float, second: float) -> _Test:
    r"""The difference of two independent accuracies, from the intervals of both.

    .. math:: d - \sqrt{(p_b - l_b)^2 + (u_a - p_a)^2} \quad\text{to}\quad
              d + \sqrt{(u_b - p_b)^2 + (p_a - l_a)^2}

    The p-value is that of the normal law whose interval this is on the side of zero.

    Source:
        Newcombe 1998, Stat. Med. 17 (method 10).
    """
    a_low, a_high = (first if end is None else end for end in (a.low, a.high))
    b_low, b_high = (second if end is None else end for end in (b.low, b.high))
    difference = second - first
    below = math.hypot(second - b_low, a_high - first)
    above = math.hypot(b_high - second, first - a_low)
    side = below if difference > 0 else above
    deviation = side / NormalDist().inv_cdf(0.975)
    p_value = 1.0 if difference == 0 else 0.0
    if deviation > 0:
        p_value = 2 * NormalDist().cdf(-abs(difference) / deviation)
    return _Test(difference, Interval(difference - below, difference + above), p_value, None, How.INTERVALS)

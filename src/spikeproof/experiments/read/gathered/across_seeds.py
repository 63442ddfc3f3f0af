"""Models trained under several seeds: their means, and what holds for other trainings and other images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from itertools import combinations
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np

from spikeproof.auditing.checks import DOUBTFUL, PRELIMINARY, SUPPORTED
from spikeproof.experiments.read.comparisons import worst_cases
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.record import Record, value_of, values_of
from spikeproof.experiments.read.results import Outcome
from spikeproof.experiments.read.worst import columns_of
from spikeproof.experiments.run.parquet import Array
from spikeproof.statistics import OverTrainings, compare_trainings, holm, over_trainings

__all__ = [
    "CLEAN",
    "PARTS",
    "Group",
    "SeedComparison",
    "SeedMean",
    "SeedRanking",
    "Trainings",
    "groups",
    "seed_comparisons",
    "seed_means",
    "seed_rankings",
    "several_seeds",
]

PARTS = ("encoder", "decoder", "rule", "neuron", "network", "surrogate")
"""The fields of a record by which architectures differ."""

CLEAN = "none"
"""The threat of clean accuracies."""

LEVEL = 0.05


class SeedMean(TypedDict):
    """The accuracy of one architecture over several trainings, under one budget.

    `threat` is `none` for clean accuracy, and otherwise the accuracy is that of the worst case. `mean` is
    taken over seeds and over the images that all of them share; `training_low` and `training_high` are the 95
    % interval for another training on these images (Student's t over seeds), `low` and `high` that for
    another training on other images, which is what a claim about the architecture needs. `lowest` and
    `highest` are the accuracies of single seeds. `doubtful` and `preliminary` say that one of the numbers is
    so, `nested` that the attack behind one of them began from images found at a smaller budget.
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
    seeds: list[int]
    n: int
    mean: float
    training_low: float | None
    training_high: float | None
    low: float | None
    high: float | None
    lowest: float
    highest: float
    doubtful: bool
    preliminary: bool
    nested: bool


class SeedComparison(TypedDict):
    """Two architectures that differ in one part, over several trainings, as `show --trainings --json` has it.

    `difference` is the mean accuracy of the first minus that of the second, `training_low` and
    `training_high` its interval for other trainings on the same images, `ci_low` and `ci_high` the interval
    for other trainings on other images, and `p_value` the two-sided p-value that belongs to the latter.
    `adjusted` is corrected by Holm's method for all pairs. `shown` says that the difference holds across
    seeds and images. `agreeing` counts the seeds whose own difference has the sign of the mean; it is null
    where the two were trained under different seeds.
    """

    threat: str
    epsilon: float
    part: str
    first: str
    second: str
    others: str
    seeds: int
    n: int
    difference: float
    training_low: float | None
    training_high: float | None
    ci_low: float | None
    ci_high: float | None
    p_value: float
    adjusted: float
    shown: bool
    agreeing: int | None
    doubtful: bool
    preliminary: bool
    sentence: str


@dataclass(frozen=True)
class SeedRanking:
    """The architectures of a study under one budget by their mean over trainings, the highest first.

    Args:
        threat: name of the threat.
        epsilon: size of the budget.
        rows: the mean of each architecture.
        first: of each architecture, the record of its training with the smallest seed.
        below: whether an architecture is shown to be less robust than the first, over trainings and images,
            after Holm's correction for all architectures at all budgets; None where nothing can be tested.
    """

    threat: str
    epsilon: float
    rows: Sequence[SeedMean]
    first: Sequence[Record]
    below: Sequence[bool | None]

    @property
    def shown(self) -> int:
        """Number of architectures that are shown to be less robust than the first."""
        return sum(below is True for below in self.below)

    @property
    def spread(self) -> float:
        """The highest mean minus the lowest, in [0, 1]."""
        return self.rows[0]["mean"] - self.rows[-1]["mean"]


class Trained(NamedTuple):
    """One training: its record, the share of draws answered rightly for each image, and the images' ids."""

    record: Record
    right: Array
    examples: Array


@dataclass(frozen=True)
class Group:
    """The trainings of one architecture under one budget, in the order of their seeds.

    Args:
        threat: its name; `none` for clean accuracies.
        epsilon: size of the budget.
        trained: one per seed, at least one.
        whole: whether no seed of the architecture is missing or withheld.
    """

    threat: str
    epsilon: float
    trained: Sequence[Trained]
    whole: bool

    @cached_property
    def model(self) -> Mapping[str, object]:
        return {**self.trained[0].record}

    @cached_property
    def seeds(self) -> list[int]:
        return [each.record["seed"] for each in self.trained]

    @cached_property
    def examples(self) -> Array:
        """The images that all trainings were measured on."""
        first, *others = (each.examples for each in self.trained)
        different = (other for other in others if not np.array_equal(other, first))
        return reduce(np.intersect1d, different, np.unique(first)) if others else first

    def outcomes(self, examples: Array) -> Array:
        """One row per training, one column per image."""
        rows = []
        for each in self.trained:
            if np.array_equal(each.examples, examples):  # as almost always
                rows.append(each.right)
                continue
            order = np.argsort(each.examples)
            rows.append(each.right[order[np.searchsorted(each.examples[order], examples)]])
        return np.stack(rows)

    @property
    def nested(self) -> bool:
        """Whether an attack behind one of the numbers began from images found at a smaller budget."""
        return self.threat != CLEAN and any(each.record["nested"] for each in self.trained)

    def any(self, verdict: str) -> bool:
        """Whether a number of one of the seeds has this verdict; clean accuracies have none."""
        return self.threat != CLEAN and any(each.record["verdict"] == verdict for each in self.trained)


def seed_means(
    directory: Path | Opened, records: Sequence[Record], several: Sequence[Group] | None = None
) -> list[SeedMean]:
    """The mean accuracy of every architecture with several seeds, on clean images and at every budget.

    A budget at which the number of one seed is withheld or missing is left out.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
        several: architectures with several seeds, if they are known; otherwise they are read.

    Raises:
        DamagedError: a cell is not what was stored.
    """
    known = several_seeds(directory, records) if several is None else several
    return [_mean(group) for group in known if len(group.examples)]


def _mean(group: Group) -> SeedMean:
    outcomes, model = group.outcomes(group.examples), group.trained[0].record
    found = over_trainings(outcomes)
    trainings, both = found.trainings or (None, None), found.interval or (None, None)
    return {
        "dataset": model["dataset"],
        "network": model["network"],
        "neuron": model["neuron"],
        "encoder": model["encoder"],
        "decoder": model["decoder"],
        "surrogate": model["surrogate"],
        "rule": model["rule"],
        "threat": group.threat,
        "epsilon": group.epsilon,
        "seeds": group.seeds,
        "n": found.n,
        "mean": found.mean,
        "training_low": _share(trainings[0]),
        "training_high": _share(trainings[1]),
        "low": _share(both[0]),
        "high": _share(both[1]),
        "lowest": float(outcomes.mean(1).min()),
        "highest": float(outcomes.mean(1).max()),
        "doubtful": group.any(DOUBTFUL),
        "preliminary": group.any(PRELIMINARY) and not group.any(DOUBTFUL),
        "nested": group.nested,
    }


def _share(end: float | None) -> float | None:
    return None if end is None else min(max(end, 0.0), 1.0)


def seed_rankings(several: Sequence[Group]) -> list[SeedRanking]:
    """One ranking of the architectures for each budget, smaller budgets first; clean accuracies are left out.

    Args:
        several: architectures with several seeds.
    """
    budgets: dict[tuple[str, float], list[tuple[SeedMean, Group]]] = defaultdict(list)
    for group in several:
        if group.threat != CLEAN and len(group.examples):
            budgets[group.threat, group.epsilon].append((_mean(group), group))
    ranked = {
        budget: sorted(found, key=lambda each: -each[0]["mean"]) for budget, found in sorted(budgets.items())
    }
    tests = {
        (budget, place): compared
        for budget, found in ranked.items()
        for place, (_, group) in enumerate(found)
        if place and (compared := _compared(found[0][1], group)) is not None
    }
    adjusted = dict(zip(tests, holm([float(test.p_value or 0) for test in tests.values()]), strict=True))

    def below(place: tuple[tuple[str, float], int]) -> bool | None:
        test = tests.get(place)
        if test is None or test.interval is None:
            return None
        return adjusted[place] <= LEVEL and test.interval.low > 0

    return [
        SeedRanking(
            *budget,
            [mean for mean, _ in found],
            [group.trained[0].record for _, group in found],
            [below((budget, place)) for place in range(len(found))],
        )
        for budget, found in ranked.items()
    ]


def seed_comparisons(
    directory: Path | Opened, records: Sequence[Record], several: Sequence[Group] | None = None
) -> list[SeedComparison]:
    """Every pair of architectures that differ in one part, compared over their trainings, clean and attacked.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
        several: architectures with several seeds, if they are known; otherwise they are read.

    Raises:
        DamagedError: a cell is not what was stored.
    """
    pairs = [
        (part, first, second, compared)
        for part, first, second in _pairs(several_seeds(directory, records) if several is None else several)
        if (compared := _compared(first, second)) is not None
    ]
    adjusted = holm([float(compared.p_value or 0) for _, _, _, compared in pairs])
    varying = [part for part in PARTS if len({*map(str, values_of(records, part))}) > 1]
    return [_row(*pair, p, varying) for pair, p in zip(pairs, adjusted, strict=True)]


def several_seeds(
    directory: Path | Opened, records: Sequence[Record], worst: Sequence[Outcome] | None = None
) -> list[Group]:
    """Architectures with several seeds, at budgets that all of their seeds have.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
        worst: its worst cases, if they are known; otherwise they are read.
    """
    if len({row["seed"] for row in records}) < 2:
        return []
    found = groups(directory, records, worst)
    return [group for group in found if len(group.trained) > 1 and group.whole]


def groups(
    directory: Path | Opened, records: Sequence[Record], known: Sequence[Outcome] | None = None
) -> list[Group]:
    """The trainings of every architecture, clean and at every budget; withheld numbers are left out.

    Args:
        directory: the output directory of a run, or the study in it.
        records: its headline numbers.
        known: its worst cases, if they are known; otherwise they are read.

    Raises:
        DamagedError: a cell is not what was stored.
    """
    found: dict[tuple[str, float], dict[tuple[object, ...], list[Trained]]] = defaultdict(
        lambda: defaultdict(list)
    )
    counts: dict[tuple[object, ...], int] = defaultdict(int)
    for each in _clean(directory, records):
        counts[_architecture(each.record)] += 1
        found[CLEAN, 0.0][_architecture(each.record)].append(each)
    for worst in worst_cases(directory, records) if known is None else known:
        budget = worst.record["threat"], worst.record["epsilon"]
        found[budget][_architecture(worst.record)].append(Trained(*worst))
    return [
        Group(
            threat,
            epsilon,
            sorted(trained, key=lambda each: each.record["seed"]),
            len(trained) == counts[architecture],
        )
        for threat, epsilon in sorted(found, key=lambda budget: (budget[0] != CLEAN, budget))
        for architecture, trained in found[threat, epsilon].items()
    ]


def _clean(directory: Path | Opened, records: Sequence[Record]) -> Iterator[Trained]:
    opened = Opened.of(directory)
    for row in {row["model"]: row for row in records}.values():
        columns = columns_of(opened.cell(row["clean_cell"]))
        yield Trained(row, columns["right"], columns["example"])


def _architecture(record: Record | SeedMean) -> tuple[object, ...]:
    return tuple(value_of(record, field) for field in ("dataset", *PARTS))


def _pairs(groups: Sequence[Group]) -> Iterator[tuple[str, Group, Group]]:
    """Groups that differ in one part, the better one first."""
    alike = defaultdict[tuple[object, ...], list[int]](list)
    for number, group in enumerate(groups):
        for part in PARTS:
            shared = (group.model[name] for name in ("dataset", *PARTS) if name != part)
            alike[part, group.threat, group.epsilon, *shared].append(number)
    means = [float(np.mean([each.right.mean() for each in group.trained])) for group in groups]
    pairs = ((*pair, str(key[0])) for key, found in alike.items() for pair in combinations(found, 2))
    for one, other, part in sorted(pairs):
        first, second = (one, other) if means[one] >= means[other] else (other, one)
        yield part, groups[first], groups[second]


def _compared(first: Group, second: Group) -> OverTrainings | None:
    """The comparison of two groups on the images that they share; None where they share none."""
    examples = np.intersect1d(first.examples, second.examples)
    if not len(examples):
        return None
    paired = first.seeds == second.seeds
    return compare_trainings(first.outcomes(examples), second.outcomes(examples), paired=paired)


def _row(
    part: str, first: Group, second: Group, found: OverTrainings, adjusted: float, varying: Sequence[str]
) -> SeedComparison:
    trainings, both = found.trainings or (None, None), found.interval or (None, None)
    shown = both[0] is not None and adjusted <= LEVEL and not both[0] <= 0 <= (both[1] or 0)
    agreeing = None
    if first.seeds == second.seeds:
        examples = np.intersect1d(first.examples, second.examples)
        each = (first.outcomes(examples) - second.outcomes(examples)).mean(1)
        agreeing = int((np.sign(each) == np.sign(found.mean)).sum())
    row: SeedComparison = {
        "threat": first.threat,
        "epsilon": first.epsilon,
        "part": part,
        "first": str(first.model[part]),
        "second": str(second.model[part]),
        "others": ", ".join(str(first.model[axis]) for axis in varying if axis != part),
        "seeds": found.seeds,
        "n": found.n,
        "difference": found.mean,
        "training_low": trainings[0],
        "training_high": trainings[1],
        "ci_low": both[0],
        "ci_high": both[1],
        "p_value": float(found.p_value or 0),
        "adjusted": adjusted,
        "shown": shown,
        "agreeing": agreeing,
        "doubtful": first.any(DOUBTFUL) or second.any(DOUBTFUL),
        "preliminary": first.any(PRELIMINARY) or second.any(PRELIMINARY),
        "sentence": "",
    }
    return {**row, "sentence": _sentence(row)}


def _sentence(row: SeedComparison) -> str:
    """The comparison in words, which state a difference only if it is shown."""
    ends = f"[{100 * (row['ci_low'] or 0):+.1f}, {100 * (row['ci_high'] or 0):+.1f}]"
    numbers = f"difference {100 * row['difference']:+.1f} points {ends}, p = {row['adjusted']:.2g}"
    how = f"{row['seeds']} seeds, n = {row['n']}, {numbers}"
    if row["agreeing"] is not None:
        how += f", the same sign in {row['agreeing']} of {row['seeds']} seeds"
    marks = [word for word in ("doubtful", "preliminary") if row[word]]
    how += f"; {' and '.join(marks)}" if marks else ""
    if not row["shown"]:
        return f"no difference shown across seeds between {row['first']} and {row['second']} ({how})"
    better = "more accurate" if row["threat"] == CLEAN else "more robust"
    return f"{row['first']} is {better} than {row['second']} across seeds ({how})"


@dataclass(frozen=True)
class Trainings:
    """What the trainings of architectures with several seeds show together.

    Args:
        means: of every architecture, clean and at every budget.
        compared: architectures that differ in one part.
        ranked: the order of the architectures at every budget.
    """

    means: Sequence[SeedMean] = ()
    compared: Sequence[SeedComparison] = ()
    ranked: Sequence[SeedRanking] = ()

    @classmethod
    def of(
        cls, study: Opened, records: Sequence[Record], worst: Sequence[Outcome] | None = None
    ) -> Trainings:
        """Those of a study.

        Args:
            study: with its finished cells.
            records: its headline numbers.
            worst: its worst cases, if they are known; otherwise they are read.
        """
        several = several_seeds(study, records, worst)
        compared = seed_comparisons(study, records, several)
        return cls(seed_means(study, records, several), compared, seed_rankings(several))

    @property
    def top(self) -> SeedRanking | None:
        """The ranking at the budget that separates architectures best; None without two of them."""
        several = [each for each in self.ranked if len(each.rows) > 1]
        return max(several, key=lambda each: (each.shown, each.spread), default=None)

    def record(self, mean: SeedMean, first: Record) -> Record:
        """The mean of an architecture in the form of a record of its first training.

        Args:
            mean: of the architecture, at a budget.
            first: the record of one of its trainings there.
        """
        clean = self.clean.get(_architecture(mean))
        verdict = DOUBTFUL if mean["doubtful"] else PRELIMINARY if mean["preliminary"] else SUPPORTED
        return {
            **first,
            "robust_accuracy": mean["mean"],
            "ci_low": mean["low"] if mean["low"] is not None else mean["mean"],
            "ci_high": mean["high"] if mean["high"] is not None else mean["mean"],
            "clean_accuracy": first["clean_accuracy"] if clean is None else clean["mean"],
            "verdict": verdict,
            "certified": None,
        }

    @cached_property
    def clean(self) -> Mapping[tuple[object, ...], SeedMean]:
        """The mean clean accuracy of every architecture."""
        return {_architecture(row): row for row in self.means if row["threat"] == CLEAN}

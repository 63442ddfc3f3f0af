"""What the records of a study show: every finding as data, with the records that it rests on.

A finding whose condition does not hold is None. `trust` puts each of them into a sentence.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from spikeproof.auditing.checks import CHECKS, DOUBTFUL, GRAVITY, PRELIMINARY, SUPPORTED, WITHHELD, Check
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.record import ProbeRecord, Record
from spikeproof.report.tables import (
    ARCHITECTURE,
    Budget,
    attacks_of,
    budget_of,
    budgets,
    label,
    proof_words,
    seeds,
    without_seed,
)

__all__ = [
    "Advisable",
    "BestSupported",
    "Broken",
    "Conclusion",
    "DoubtfulNumbers",
    "Elsewhere",
    "Fallen",
    "FewSeeds",
    "Limit",
    "Measured",
    "NoAttacks",
    "NoBounds",
    "NoPlan",
    "NoProbes",
    "NoRobustness",
    "OneSeed",
    "PreliminaryNumbers",
    "Proved",
    "Raised",
    "Ranks",
    "SeedSpread",
    "ShownDifferences",
    "SpikeTimesUsed",
    "StudyRecords",
    "TooFewExamples",
    "Unfinished",
    "Unproved",
    "Unsupported",
    "Verdicts",
    "WithheldNumbers",
    "advisable",
    "conclusions",
    "limits",
    "raised",
]

_KEEP_COUNTS = frozenset({"shuffle", "synchronous-shuffle"})
_BOUNDED = frozenset({"linf", "l2"})
_WIDE = 0.05
_ALPHA = 0.05
_SEEDS = 3


@dataclass(frozen=True)
class StudyRecords:
    """The records of one study, and the selections of them from which findings are made.

    Args:
        records: the records of one study.
        probes: the results of its timing probes.
        compared: the comparisons between its models.
        axes: the axes on which its models differ.
        unfinished: number of cells that are missing, failed or damaged.
        programs: that make models of the study, which run only where they are named.
    """

    records: Sequence[Record]
    probes: Sequence[ProbeRecord]
    compared: Sequence[Compared]
    axes: Sequence[str]
    unfinished: int
    programs: Sequence[str] = ()

    @cached_property
    def audited(self) -> list[Record]:
        """The worst cases that have a verdict."""
        return [row for row in self.records if row["verdict"] is not None]

    def judged(self, *verdicts: str) -> list[Record]:
        """The worst cases with one of these verdicts."""
        return [row for row in self.audited if row["verdict"] in verdicts]

    @cached_property
    def attacks(self) -> list[Record]:
        """The records of single attacks and of suites."""
        return attacks_of(self.records)

    @property
    def architecture(self) -> list[str]:
        """The axes on which models differ, apart from the seed."""
        return without_seed(self.axes)


def _kind(name: str) -> str:
    """The name of a part without its options."""
    return name.partition("(")[0]


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _half(row: Record) -> float:
    """Half the width of the wider interval of a record."""
    widths = [(row["ci_low"], row["ci_high"]), (row["clean_ci_low"], row["clean_ci_high"])]
    return max(
        ((high - low) / 2 for low, high in widths if low is not None and high is not None), default=0.0
    )


# --- what was measured ---


@dataclass(frozen=True)
class Verdicts:
    """How many audited numbers have each verdict, and whether a doubtful one is above zero."""

    supported: int
    preliminary: int
    doubtful: int
    withheld: int
    doubtful_above_zero: bool

    @classmethod
    def of(cls, study: StudyRecords) -> Verdicts:
        """The verdicts on a study."""
        doubtful = study.judged(DOUBTFUL)
        return cls(
            len(study.judged(SUPPORTED)),
            len(study.judged(PRELIMINARY)),
            len(doubtful),
            len(study.judged(WITHHELD)),
            any(row["robust_accuracy"] > 0 for row in doubtful),
        )

    @property
    def total(self) -> int:
        """Number of audited worst cases."""
        return self.supported + self.preliminary + self.doubtful + self.withheld


@dataclass(frozen=True)
class Measured:
    """What a study measured, on what, and by which attacks.

    Args:
        models: number of models, where several seeds of one architecture count once.
        examples: numbers of test examples, in ascending order.
        datasets: names of the data sets.
        seeds: number of seeds.
        half_width: half the width of the widest 95 % interval, in [0, 1].
        threats: every threat with its epsilons.
        by_gradients, without_gradients, in_sequences: names of gradient attacks, of attacks without
            gradients, and of suites.
        forward, backward: numbers of queries of all attacks together.
        drawn: encoders of stochastic models.
        draws: draws per example of stochastic models, 0 if there are none.
        probes: names of timing probes, if the models run over several time steps.
    """

    models: int
    examples: list[int]
    datasets: list[str]
    seeds: int
    half_width: float
    threats: dict[str, list[float]]
    by_gradients: list[str]
    without_gradients: list[str]
    in_sequences: list[str]
    forward: int
    backward: int
    drawn: list[str]
    draws: int
    probes: list[str]

    @classmethod
    def of(cls, study: StudyRecords) -> Measured | None:
        """What a study measured; None if no number is finished."""
        records, attacks = study.records, study.attacks
        if not records:
            return None
        single = [row for row in attacks if not row["broken_by"]]
        efforts = [row["effort"] for row in attacks if row["effort"] is not None]
        drawn = [row for row in records if row["stochastic"]]
        return cls(
            models=len({label(row, ARCHITECTURE) for row in records}),
            examples=sorted({row["n"] for row in records}),
            datasets=_unique(row["dataset"] for row in records),
            seeds=len({row["seed"] for row in records}),
            half_width=max(map(_half, records)),
            threats={
                threat: [budget.epsilon for budget in budgets(records) if budget.threat == threat]
                for threat in _unique(row["threat"] for row in attacks)
            },
            by_gradients=_unique(row["attack"] for row in single if not row["gradient_free"]),
            without_gradients=_unique(row["attack"] for row in single if row["gradient_free"]),
            in_sequences=_unique(row["attack"] for row in attacks if row["broken_by"]),
            forward=sum(effort["forward_queries"] or 0 for effort in efforts),
            backward=sum(effort["backward_queries"] or 0 for effort in efforts),
            drawn=_unique(row["encoder"] for row in drawn),
            draws=max((row["draws"] for row in drawn), default=0),
            probes=_unique(row["probe"] for row in study.probes) if records[0]["steps"] > 1 else [],
        )


# --- why numbers are not supported ---


@dataclass(frozen=True)
class Raised:
    """A check that was raised.

    Args:
        name: name of the check.
        check: the check itself, if this version still has it.
        records: the records for which it was raised, each once.
        example: its warning about the first of them.
    """

    name: str
    check: Check | None
    records: list[Record]
    example: str

    @property
    def verdict(self) -> str:
        """The verdict that the check gives to a number."""
        return self.check.verdict if self.check else DOUBTFUL


def raised(study: StudyRecords) -> list[Raised]:
    """Every check that was raised, the gravest and most frequent first."""
    groups: dict[str, list[tuple[Record, str]]] = {}
    for row in study.audited:
        for text in row["warnings"]:
            groups.setdefault(text.partition(":")[0], []).append((row, text.partition(": ")[2]))
    checks = {check.name: check for check in CHECKS}
    found = [
        Raised(
            name,
            checks.get(name),
            list({(row["model"], budget_of(row)): row for row, _ in items}.values()),
            items[0][1],
        )
        for name, items in groups.items()
    ]
    return sorted(found, key=lambda each: (GRAVITY.index(each.verdict), -len(each.records)))


# --- what may be concluded ---


@dataclass(frozen=True)
class BestSupported:
    """The highest supported number of each threat, at its largest epsilon, and how many others there are."""

    tops: list[Record]
    others: int

    @classmethod
    def of(cls, study: StudyRecords) -> BestSupported | None:
        """The finding, where a number is supported."""
        supported = study.judged(SUPPORTED)
        tops = [
            max(
                (row for row in supported if row["threat"] == threat),
                key=lambda row: (row["robust_accuracy"] > 0, row["epsilon"], row["robust_accuracy"]),
            )
            for threat in _unique(row["threat"] for row in supported)
        ]
        return cls(tops, len(supported) - len(tops)) if tops else None


@dataclass(frozen=True)
class Fallen:
    """A budget at which attacks break more than half of what models get right.

    Args:
        first: a record at this budget.
        models: number of models of which attacks break that many examples.
        judged: number of models with a number at this budget.
    """

    first: Record
    models: int
    judged: int


@dataclass(frozen=True)
class Broken:
    """The budgets at which models fall to less than half of their clean accuracy."""

    at: list[Fallen]

    @classmethod
    def of(cls, study: StudyRecords) -> Broken | None:
        """The finding, where there is such a budget."""
        at = []
        for budget in budgets(study.records):
            rows = [
                row
                for row in study.judged(SUPPORTED, PRELIMINARY, DOUBTFUL)
                if budget_of(row) == budget and row["clean_accuracy"] > 0
            ]
            if fallen := sum(row["ci_high"] < row["clean_ci_low"] / 2 for row in rows):
                at.append(Fallen(rows[0], fallen, len(rows)))
        return cls(at) if at else None


@dataclass(frozen=True)
class Proved:
    """The largest share of examples that a certificate proves, and how many other numbers have a proof."""

    top: Record
    others: int

    @classmethod
    def of(cls, study: StudyRecords) -> Proved | None:
        """The finding, where something is proved."""
        rows = [row for row in study.judged(SUPPORTED, PRELIMINARY, DOUBTFUL) if (row["certified"] or 0) > 0]
        return cls(max(rows, key=lambda row: row["certified"] or 0), len(rows) - 1) if rows else None


@dataclass(frozen=True)
class ShownDifferences:
    """Comparisons that show a difference between supported numbers, and the largest of them."""

    top: Compared
    shown: int
    compared: int

    @classmethod
    def of(cls, study: StudyRecords) -> ShownDifferences | None:
        """The finding, where a comparison shows a difference."""
        sound = [
            pair for pair in study.compared if pair["shown"] and not pair["doubtful"] + pair["preliminary"]
        ]
        if not sound:
            return None
        return cls(max(sound, key=lambda pair: abs(pair["difference"])), len(sound), len(study.compared))


@dataclass(frozen=True)
class SpikeTimesUsed:
    """The model that loses most when spike times change and spike counts stay."""

    top: ProbeRecord

    @classmethod
    def of(cls, study: StudyRecords) -> SpikeTimesUsed | None:
        """The finding, where such a loss is significant."""
        lost = [
            row
            for row in study.probes
            if row["lost_low"] > 0 and row["p_value"] <= _ALPHA and _kind(row["probe"]) in _KEEP_COUNTS
        ]
        return cls(max(lost, key=lambda row: row["lost"])) if lost else None


Conclusion = BestSupported | Broken | Proved | ShownDifferences | SpikeTimesUsed
"""What may be concluded from a study."""


# --- what may not be concluded ---


@dataclass(frozen=True)
class DoubtfulNumbers:
    """The highest doubtful number above zero, and how many others there are."""

    top: Record
    others: int

    @classmethod
    def of(cls, study: StudyRecords) -> DoubtfulNumbers | None:
        """The finding, where a doubtful number is above zero."""
        high = [row for row in study.judged(DOUBTFUL) if row["robust_accuracy"] > 0]
        return cls(max(high, key=lambda row: row["robust_accuracy"]), len(high) - 1) if high else None


@dataclass(frozen=True)
class PreliminaryNumbers:
    """The preliminary numbers: no check was raised, and neither a standard suite nor as much ran."""

    records: list[Record]

    @classmethod
    def of(cls, study: StudyRecords) -> PreliminaryNumbers | None:
        """The finding, where a number is preliminary."""
        rows = study.judged(PRELIMINARY)
        return cls(rows) if rows else None


@dataclass(frozen=True)
class WithheldNumbers:
    """The numbers that are withheld."""

    records: list[Record]

    @classmethod
    def of(cls, study: StudyRecords) -> WithheldNumbers | None:
        """The finding, where a number is withheld."""
        rows = study.judged(WITHHELD)
        return cls(rows) if rows else None


@dataclass(frozen=True)
class Ranks:
    """Numbers of comparisons: all, those that show a difference, and those of them with a doubtful number."""

    compared: int
    shown: int
    doubtful: int

    @classmethod
    def of(cls, study: StudyRecords) -> Ranks | None:
        """The finding, where there are several models to rank."""
        if len({row["model"] for row in study.audited}) < 2:
            return None
        shown = [pair for pair in study.compared if pair["shown"]]
        return cls(len(study.compared), len(shown), sum(bool(pair["doubtful"]) for pair in shown))


@dataclass(frozen=True)
class OneSeed:
    """No architecture was trained with several seeds."""


@dataclass(frozen=True)
class SeedSpread:
    """The architecture and budget whose worst cases differ most between seeds, by `spread` in [0, 1]."""

    model: Record
    trainings: int
    budget: Budget
    spread: float


def _over_seeds(study: StudyRecords) -> OneSeed | SeedSpread | None:
    if not study.records:
        return None
    rows = seeds(study.records)
    if not rows:
        return OneSeed()
    axes = study.architecture
    measured = defaultdict[tuple[Budget, str], list[float]](list)
    for found in study.judged(SUPPORTED, PRELIMINARY, DOUBTFUL):
        measured[budget_of(found), label(found, axes)].append(found["robust_accuracy"])
    spreads = []
    for row in rows:
        for budget in row.worst:
            if values := measured[budget, label(row.model, axes)]:
                spreads.append(SeedSpread(row.model, row.trainings, budget, max(values) - min(values)))
    return max(spreads, key=lambda each: each.spread, default=None)


@dataclass(frozen=True)
class Unproved:
    """Nothing is proved: whether certificates were asked for, and why those that failed do not apply."""

    asked: bool
    failures: list[str]

    @classmethod
    def of(cls, study: StudyRecords) -> Unproved | None:
        """The finding, where there are worst cases and none has a proof."""
        rows = study.audited
        if not rows or any((row["certified"] or 0) > 0 for row in rows):
            return None
        proofs = [proof for row in rows for proof in row["proofs"]]
        failures = _unique(proof_words(proof) for proof in proofs if proof["certified"] is None)
        return cls(bool(proofs), failures)


@dataclass(frozen=True)
class NoRobustness:
    """The study has numbers but no attacks."""


@dataclass(frozen=True)
class Elsewhere:
    """The limits of what the study attacked: its threats, its largest epsilon and its data sets."""

    threats: list[str]
    largest: float
    datasets: list[str]


def _outside(study: StudyRecords) -> NoRobustness | Elsewhere | None:
    if not study.attacks:
        return NoRobustness() if study.records else None
    return Elsewhere(
        _unique(row["threat"] for row in study.attacks),
        max(row["epsilon"] for row in study.attacks),
        _unique(row["dataset"] for row in study.records),
    )


Limit = (
    DoubtfulNumbers
    | PreliminaryNumbers
    | WithheldNumbers
    | Ranks
    | OneSeed
    | SeedSpread
    | Unproved
    | NoRobustness
    | Elsewhere
)
"""What may not be concluded from a study."""


# --- what to do next ---


@dataclass(frozen=True)
class Unfinished:
    """The study has cells that are missing, failed or damaged."""

    cells: int

    @classmethod
    def of(cls, study: StudyRecords) -> Unfinished | None:
        """The finding, where a cell is missing."""
        return cls(study.unfinished) if study.unfinished else None


@dataclass(frozen=True)
class NoAttacks:
    """Models were measured but not attacked."""

    @classmethod
    def of(cls, study: StudyRecords) -> NoAttacks | None:
        """The finding, where there are records and none of an attack."""
        return cls() if study.records and not study.attacks else None


@dataclass(frozen=True)
class NoPlan:
    """Single attacks ran, but no suite."""

    @classmethod
    def of(cls, study: StudyRecords) -> NoPlan | None:
        """The finding, where attacks ran and none of them is a suite."""
        attacks = study.attacks
        return cls() if attacks and not any(row["broken_by"] for row in attacks) else None


@dataclass(frozen=True)
class Unsupported:
    """The gravest number that is not supported: a withheld one before a doubtful one, the highest first."""

    worst: Record
    programs: Sequence[str] = ()

    @classmethod
    def of(cls, study: StudyRecords) -> Unsupported | None:
        """The finding, where a number is not supported."""
        rows = study.judged(PRELIMINARY, DOUBTFUL, WITHHELD)
        if not rows:
            return None
        worst = min(rows, key=lambda row: (GRAVITY.index(str(row["verdict"])), -row["robust_accuracy"]))
        return cls(worst, study.programs)


@dataclass(frozen=True)
class TooFewExamples:
    """The widest interval is too wide; with `wanted` examples, every interval would be within ±3 points."""

    wanted: int

    @classmethod
    def of(cls, study: StudyRecords) -> TooFewExamples | None:
        """The finding, where the widest interval is wider than ±5 points."""
        rows = study.audited or study.records
        if max((_half(row) for row in rows), default=0.0) <= _WIDE:
            return None
        return cls(math.ceil(1.96**2 * 0.25 / 0.03**2 / 10) * 10)


@dataclass(frozen=True)
class FewSeeds:
    """The models were trained with fewer than three seeds."""

    @classmethod
    def of(cls, study: StudyRecords) -> FewSeeds | None:
        """The finding, where there are models with fewer than three seeds."""
        found = {row["seed"] for row in study.records}
        return cls() if 0 < len(found) < _SEEDS else None


@dataclass(frozen=True)
class NoBounds:
    """Pixels were attacked in a norm for which certificates exist, but the study asked for none."""

    @classmethod
    def of(cls, study: StudyRecords) -> NoBounds | None:
        """The finding, where a certificate could apply."""
        rows = study.audited
        pixels = any(_kind(row["threat"]) in _BOUNDED for row in rows)
        return cls() if pixels and not any(row["proofs"] for row in rows) else None


@dataclass(frozen=True)
class NoProbes:
    """Models run over several time steps, but the study asked for no timing probe."""

    @classmethod
    def of(cls, study: StudyRecords) -> NoProbes | None:
        """The finding, where a model runs over several time steps."""
        return cls() if not study.probes and any(row["steps"] > 1 for row in study.records) else None


Advisable = Unfinished | NoAttacks | NoPlan | Unsupported | TooFewExamples | FewSeeds | NoBounds | NoProbes
"""A finding about which something can be done."""


_Finding = TypeVar("_Finding")


def _present(study: StudyRecords, *seekers: Callable[[StudyRecords], _Finding | None]) -> list[_Finding]:
    return [found for seek in seekers if (found := seek(study)) is not None]


def conclusions(study: StudyRecords) -> list[Conclusion]:
    """What may be concluded."""
    return _present(
        study,
        BestSupported.of,
        Broken.of,
        Proved.of,
        ShownDifferences.of,
        SpikeTimesUsed.of,
    )


def limits(study: StudyRecords) -> list[Limit]:
    """What may not be concluded."""
    return _present(
        study,
        DoubtfulNumbers.of,
        PreliminaryNumbers.of,
        WithheldNumbers.of,
        Ranks.of,
        _over_seeds,
        Unproved.of,
        _outside,
    )


def advisable(study: StudyRecords) -> list[Advisable]:
    """The findings about which something can be done, in the order in which to do it."""
    return _present(
        study,
        Unfinished.of,
        NoAttacks.of,
        NoPlan.of,
        Unsupported.of,
        TooFewExamples.of,
        FewSeeds.of,
        NoBounds.of,
        NoProbes.of,
    )

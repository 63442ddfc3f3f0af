"""The models of a study in order of robust accuracy, and the differences that paired tests show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spikeproof.auditing.checks import WITHHELD
from spikeproof.errors import InputError
from spikeproof.experiments.read.comparisons import KEY, worst_cases
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.record import Record
from spikeproof.experiments.read.results import Outcome
from spikeproof.statistics import compare, difference_test, holm

__all__ = ["Pair", "Ranking", "most_separating", "rankings"]

ALL_PAIRS = 16
"""Up to this number of models every pair is tested; beyond it, only the pairs with the first model."""


class Pair(NamedTuple):
    """The ranks of two models, counted from 0, and whether the paired test shows a difference."""

    first: int
    second: int
    shown: bool


@dataclass(frozen=True)
class Ranking:
    """The models of a study under one budget, the highest robust accuracy first.

    Args:
        threat: name of the threat.
        epsilon: size of the budget.
        rows: the worst case of each model, highest robust accuracy first; withheld numbers are left out.
        pairs: the pairs of ranks that were tested on the same images. A difference is shown if the exact
            McNemar test (a sign-flip test for stochastic models) is significant at 5 % after Holm's
            correction over all pairs of all budgets, and the 95 % paired bootstrap interval of the
            difference excludes 0.
        withheld: number of models whose robust accuracy at this budget is withheld.

    Raises:
        InputError: there is no model, the rows are not in falling order, or a pair names a rank that does not
            exist.
    """

    threat: str
    epsilon: float
    rows: Sequence[Record]
    pairs: Sequence[Pair]
    withheld: int = 0

    def __post_init__(self) -> None:
        values = [row["robust_accuracy"] for row in self.rows]
        if not values or values != sorted(values, reverse=True):
            raise InputError(
                "A ranking lists models in falling order of robust accuracy", str(values), "Sort the rows."
            )
        if not all(0 <= pair.first < pair.second < len(values) for pair in self.pairs):
            raise InputError(
                f"A pair of a ranking names two ranks, the lower number first, below {len(values)}",
                str(self.pairs),
                "Count ranks from 0.",
            )

    @property
    def shown(self) -> int:
        """Number of pairs of models between which a difference is shown."""
        return sum(pair.shown for pair in self.pairs)

    @property
    def spread(self) -> float:
        """The highest robust accuracy minus the lowest, in [0, 1]."""
        return self.rows[0]["robust_accuracy"] - self.rows[-1]["robust_accuracy"]

    @property
    def below_first(self) -> frozenset[int]:
        """The ranks of the models that are shown to be less robust than the first."""
        return frozenset(pair.second for pair in self.pairs if pair.shown and pair.first == 0)

    @property
    def alike(self) -> int:
        """The number of models at the top of the ranking among which no test shows a difference."""
        return min((pair.second for pair in self.pairs if pair.shown), default=len(self.rows))

    @property
    def all_tested(self) -> bool:
        """Whether every pair of the models that `alike` counts was tested."""
        return sum(pair.second < self.alike for pair in self.pairs) == self.alike * (self.alike - 1) // 2


def rankings(
    directory: Path | Opened, records: Sequence[Record], worst: Sequence[Outcome] | None = None
) -> list[Ranking]:
    """One ranking of the models for each budget, smaller budgets first.

    Args:
        directory: the output directory of a run, or the study in it.
        records: the headline numbers of the run.
        worst: its worst cases, if they are known; otherwise they are read.
    """
    budgets: dict[tuple[str, float], list[Outcome]] = defaultdict(list)
    for each in worst_cases(directory, records) if worst is None else worst:
        budgets[each.record["threat"], each.record["epsilon"]].append(each)
    ranked = {
        budget: sorted(budgets[budget], key=lambda each: -each.record["robust_accuracy"])
        for budget in sorted(budgets)
    }
    pairs = [
        (budget, i, k)
        for budget, models in ranked.items()
        for i, k in combinations(range(len(models)), 2)
        if (i == 0 or len(models) <= ALL_PAIRS) and np.array_equal(models[i].examples, models[k].examples)
    ]
    adjusted = holm([difference_test(ranked[b][i].right, ranked[b][k].right, KEY) for b, i, k in pairs])
    tested: dict[tuple[str, float], list[Pair]] = defaultdict(list)
    for (budget, i, k), p in zip(pairs, adjusted, strict=True):
        models = ranked[budget]
        shown = p <= LEVEL and compare(models[i].right, models[k].right, KEY).holds(LEVEL, p)
        tested[budget].append(Pair(i, k, shown))
    withheld = [(row["threat"], row["epsilon"]) for row in records if row["verdict"] == WITHHELD]
    return [
        Ranking(*budget, [each.record for each in models], tested[budget], withheld.count(budget))
        for budget, models in ranked.items()
    ]


LEVEL = 0.05


def most_separating(by_budget: Sequence[Ranking]) -> Ranking | None:
    """The ranking at the budget that separates the models best; None if no budget has two models.

    That is the budget at which a difference is shown between the most pairs of models. Among equal budgets
    the one with the largest spread is taken, and after that the smallest.

    Args:
        by_budget: the rankings of a study, as `rankings` returns them.
    """
    several = [each for each in by_budget if len(each.rows) > 1]
    return max(several, key=lambda each: (each.shown, each.spread), default=None)

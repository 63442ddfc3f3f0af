"""How far to trust a study: what its numbers show, what they do not show, and what to run next.

The module `findings` holds what the records show as data; this module puts every finding into a sentence.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from spikeproof.auditing.checks import GRAVITY, MARKS, SUPPORTED
from spikeproof.catalogue.names import members
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.gathered.across_seeds import SeedRanking
from spikeproof.experiments.read.ranking import Ranking, most_separating
from spikeproof.experiments.read.record import ProbeRecord, Record
from spikeproof.plainfiles import printable
from spikeproof.report import findings as f
from spikeproof.report.tables import (
    Budget,
    budget_of,
    budgets,
    epsilon_text,
    interval,
    label,
    percent,
    without_seed,
)

__all__ = ["Advice", "Reason", "Trust", "noun", "over_trainings_words", "ranking_words", "threat_words"]

MOST_PLACES = 6

AUDIT = ("spikeproof", "audit", "DIR")
"""The command that attacks the numbers of a study again, with the directory as the page names it."""


class Reason(NamedTuple):
    """A check that was raised, and the numbers that it keeps from being supported.

    Args:
        check: name of the check.
        verdict: verdict that the check gives to a number.
        why: why the check matters, in words.
        remedy: what to do about it.
        numbers: how many numbers the check was raised for.
        places: the models of these numbers with their budgets.
        example: the warning about one of these numbers.
    """

    check: str
    verdict: str
    why: str
    remedy: str
    numbers: int
    places: str
    example: str


class Advice(NamedTuple):
    """A recommended next action, with the command or the setting for it."""

    words: str
    command: str


@dataclass(frozen=True)
class Trust:
    """How far the headline numbers of a study can be trusted.

    Args:
        lead: summary in a few sentences.
        measured: what was measured, on which data and under which attacks.
        supported: the numbers that are supported.
        reasons: why the other numbers are not, the gravest and most frequent reasons first.
        may: what may be concluded.
        may_not: what may not be concluded.
        advice: what to run next.
        numbers: the audited worst cases, those with the gravest verdicts first.
        left_out: how many of these did not fit.
    """

    lead: str
    measured: Sequence[str]
    supported: str
    reasons: Sequence[Reason]
    may: Sequence[str]
    may_not: Sequence[str]
    advice: Sequence[Advice]
    numbers: Sequence[Record]
    left_out: int

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        probes: Sequence[ProbeRecord],
        compared: Sequence[Compared],
        axes: Sequence[str],
        most: int,
        unfinished: int = 0,
        programs: Sequence[str] = (),
    ) -> Trust:
        """Judge a study by its own records.

        Args:
            records: the records of one study.
            probes: the results of its timing probes.
            compared: the comparisons between its models.
            axes: the axes on which its models differ.
            most: largest number of worst cases to list.
            unfinished: number of cells that are missing, failed or damaged.
            programs: that make models of the study, which run only where they are named.
        """
        study = f.StudyRecords(records, probes, compared, axes, unfinished, programs)
        names = _Names(noun(records), budgets(records), study.axes, study.architecture)
        audited = sorted(study.audited, key=lambda r: GRAVITY.index(str(r["verdict"])))
        return cls(
            _lead(study, names),
            _measured(f.Measured.of(study), names),
            names.places(study.judged(SUPPORTED), 2 * MOST_PLACES),
            [_reason(each, names) for each in f.raised(study)],
            [_conclusion(each, names) for each in f.conclusions(study)],
            [_limit(each, names) for each in f.limits(study)],
            [_advice(each, names) for each in f.advisable(study)],
            audited[:most],
            len(audited[most:]),
        )


def noun(records: Iterable[Record]) -> str:
    """The noun for the examples of the test part."""
    return "recordings" if all(row["encoder"].startswith("events") for row in records) else "images"


def threat_words(threat: str) -> str:
    """The sentence that says what an attacker may change.

    Example:
        >>> threat_words("flips")
        'At most epsilon events in total may be added to a grid or removed from it.'
    """
    return members("threats").get(threat.partition("(")[0], "")


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


@dataclass(frozen=True)
class _Names:
    """The names of the models, budgets and examples of one study in its sentences.

    Args:
        examples: the noun for test examples.
        budgets: every budget of the study.
        axes: the axes on which models differ.
        architecture: the same axes without the seed.
    """

    examples: str
    budgets: Sequence[Budget]
    axes: Sequence[str]
    architecture: Sequence[str]

    def model(self, record: Record | ProbeRecord) -> str:
        return label(record, self.axes)

    def over_seeds(self, record: Record) -> str:
        """The name of an architecture, without its seed."""
        return label(record, self.architecture or ["encoder"])

    def places(self, records: Sequence[Record], most: int = MOST_PLACES) -> str:
        """The models of records, each with its budgets."""
        groups: dict[str, list[Budget]] = {}
        for row in records:
            groups.setdefault(self.model(row), []).append(budget_of(row))
        texts = []
        for name, found in groups.items():
            every = len(found) == len(self.budgets) > 1
            where = "every epsilon" if every else ", ".join(map(_budget, found))
            texts.append(f"{name} ({where})")
        left = len(texts) - most
        return "; ".join(texts[:most]) + (f"; and {_count(left, 'model')} more" if left > 0 else "")


def _budget(budget: Budget) -> str:
    return f"{budget.threat} {epsilon_text(budget.epsilon)}"


def _place(record: Record) -> str:
    return _budget(budget_of(record))


def _number(record: Record) -> str:
    """A robust accuracy with its interval."""
    return f"{percent(record['robust_accuracy'])} % {interval(record['ci_low'], record['ci_high'])}"


# --- what it is about ---


def _lead(study: f.StudyRecords, names: _Names) -> str:
    if not study.records:
        return "No number is finished yet."
    if not study.attacks:
        return (
            f"This study has no attacks. Its accuracies are measured on clean {names.examples} and say "
            "nothing about robustness."
        )
    if not study.audited:
        return "No worst case has a verdict, so the study states no robust accuracy yet."
    return _verdicts(f.Verdicts.of(study))


def _verdicts(found: f.Verdicts) -> str:
    if found.supported < found.total:
        words = (
            f"Of {_count(found.total, 'robust accuracy', 'robust accuracies')}, {found.supported} "
            f"{'is' if found.supported == 1 else 'are'} supported, {found.preliminary} preliminary, "
            f"{found.doubtful} doubtful and {found.withheld} withheld. "
        )
    elif found.total > 1:
        words = (
            f"All {found.total} robust accuracies are supported: the attacks searched as much as a standard "
            "suite, and no check was raised. "
        )
    else:
        words = (
            "The only robust accuracy is supported: the attacks searched as much as a standard suite, and no "
            "check was raised. "
        )
    words += (
        "Every robust accuracy is an upper bound: the share of examples that the model still classifies "
        "correctly after these attacks. "
    )
    if found.preliminary:
        words += (
            "Where a number is preliminary, no check was raised, but the attacks searched less than a "
            "standard suite. "
        )
    if found.doubtful_above_zero:
        words += "Where a number is doubtful, there are signs that a stronger attack would lower it. "
    elif found.doubtful:
        words += "The doubtful numbers are zero and cannot be lower. "
    if found.withheld:
        words += "Where a number is withheld, the evaluation is wrong, and the number is not shown. "
    return words.rstrip()


def _measured(found: f.Measured | None, names: _Names) -> list[str]:
    if found is None:
        return []
    what = f"{' or '.join(f'{n:,}' for n in found.examples)} test {names.examples}"
    trained = "" if found.seeds == 1 else f", each trained with {found.seeds} seeds"
    words = [
        f"The study measured {_count(found.models, 'model')} on {what} of "
        f"{_listed(found.datasets)}{trained}.",
        f"With {found.examples[0]:,} {names.examples}, the choice of {names.examples} alone changes an "
        f"accuracy by up to ±{100 * found.half_width:.1f} points (95 % intervals).",
    ]
    for threat, epsilons in found.threats.items():
        sizes = _listed([epsilon_text(epsilon) for epsilon in epsilons])
        words.append(f"The threat was {threat}: {threat_words(threat)} Epsilon was {sizes}.")
    words += _attacks(found)
    if found.drawn:
        words.append(
            f"The accuracy of stochastic models ({_listed(found.drawn)}) is the mean over {found.draws} "
            "fresh draws."
        )
    if found.probes:
        words.append(f"The timing probes were {_listed(found.probes)}.")
    return words


def _attacks(found: f.Measured) -> list[str]:
    kinds = {
        "with gradients": found.by_gradients,
        "without gradients": found.without_gradients,
        "in suites": found.in_sequences,
    }
    named = [f"{kind} ({_listed(attacks)})" for kind, attacks in kinds.items() if attacks]
    if not named:
        return []
    words = f"Attacks ran {', '.join(named)}."
    if found.forward:
        words += (
            f" Together they made {found.forward:,} forward passes and took {found.backward:,} gradients."
        )
    return [words]


# --- why not ---


def _reason(found: f.Raised, names: _Names) -> Reason:
    return Reason(
        found.name,
        found.verdict,
        found.check.matters if found.check else "",
        found.check.remedy if found.check else "",
        len(found.records),
        names.places(found.records),
        found.example,
    )


# --- what follows ---


def _conclusion(found: f.Conclusion, names: _Names) -> str:
    match found:
        case f.BestSupported():
            return _best(found, names)
        case f.Broken():
            return _broken(found, names)
        case f.Proved():
            return _proved(found, names)
        case f.ShownDifferences():
            return _differences(found)
        case f.SpikeTimesUsed(top):
            return (
                f"{names.model(top)} uses the times of spikes: under the probe {top['probe']}, which keeps "
                f"the spike count of every input, it loses {percent(top['lost'])} points of accuracy "
                f"{interval(top['lost_low'], top['lost_high'])}."
            )
        case _:
            assert_never(found)


def _best(found: f.BestSupported, names: _Names) -> str:
    words = [f"{_number(top)} for {names.model(top)} at {_place(top)}" for top in found.tops]
    return (
        f"The highest supported robust accuracy under these attacks, on {names.examples} like these, is "
        f"{_listed(words)}. A supported number is still an upper bound: a stronger attack may lower it"
        + (f" ({_count(found.others, 'more supported number')})." if found.others else ".")
    )


def _broken(found: f.Broken, names: _Names) -> str:
    shown = [_fallen(at, names) for at in found.at[: MOST_PLACES // 2]]
    return (
        f"The attacks break more than half of the {names.examples} that a model classifies correctly, for "
        f"{_listed(shown)}"
        + (", and at other epsilons too" if len(found.at) > len(shown) else "")
        + ". This holds whatever the verdict, because the model itself misclassified every broken example."
    )


def _fallen(at: f.Fallen, names: _Names) -> str:
    if at.judged == 1:
        which = names.model(at.first)
    elif at.models == at.judged:
        which = "every model"
    else:
        which = f"{at.models} of {at.judged} models"
    return f"{which} at {_place(at.first)}"


def _proved(found: f.Proved, names: _Names) -> str:
    top = found.top
    ends = interval(top["certified_low"], top["certified_high"])
    return (
        f"A certificate proves that, at {_place(top)}, no attack can lower the robust accuracy of "
        f"{names.model(top)} below {percent(top['certified'])} % {ends}. The true value lies between this "
        f"bound and the {percent(top['robust_accuracy'])} % under these attacks"
        + (f" ({_count(found.others, 'more number')} with a proof)." if found.others else ".")
    )


def _differences(found: f.ShownDifferences) -> str:
    top = found.top
    where = f" at {_budget(Budget(top['threat'], top['epsilon']))}"
    where += f" ({top['others']})" if top["others"] else ""
    return (
        f"{_count(found.shown, 'comparison')} of {found.compared} show a difference between two numbers "
        f"that are both supported. The largest difference{where}: {top['sentence']}."
    )


# --- what does not follow ---


def _limit(found: f.Limit, names: _Names) -> str:
    match found:
        case f.DoubtfulNumbers(top, others):
            return (
                "A doubtful number does not show how robust a model is: the robust accuracy of "
                f"{names.model(top)} at {_place(top)} is at most {percent(top['robust_accuracy'])} % and may "
                "be far lower"
                + (f" (the same holds for {_count(others, 'more number')})." if others else ".")
            )
        case f.PreliminaryNumbers(records):
            return (
                "A preliminary number does not show how robust a model is, because the attacks searched less "
                f"than a standard suite ({names.places(records)})."
            )
        case f.WithheldNumbers(records):
            return f"Nothing follows from the numbers that are withheld: {names.places(records)}."
        case f.Ranks():
            return _ranks(found)
        case f.OneSeed():
            return (
                "The study does not show how results vary between trainings: every model comes from one "
                "training, and the intervals do not cover this variation."
            )
        case f.SeedSpread(model, trainings, budget, spread):
            return (
                "Another training need not give the same number: the worst case of "
                f"{names.over_seeds(model)} at {_budget(budget)} differs by {100 * spread:.1f} points "
                f"between {trainings} seeds."
            )
        case f.Unproved(asked, failures):
            what = "No model is shown to be robust to attacks that the study did not run"
            if not asked:
                return f"{what}: the study asked for no certificate."
            return f"{what}: its certificates prove nothing" + (
                f" ({'; '.join(failures[:2])})." if failures else "."
            )
        case f.NoRobustness():
            return "The study shows nothing about robustness."
        case f.Elsewhere(threats, largest, datasets):
            return (
                f"The study shows nothing about threats other than {_listed(threats)}, epsilons larger than "
                f"{epsilon_text(largest)}, data other than {_listed(datasets)}, or an attacker who designs "
                "an attack for one of these models."
            )
        case _:
            assert_never(found)


def _ranks(found: f.Ranks) -> str:
    if not found.shown:
        return "No model is shown to be more robust than another: no comparison shows a difference."
    return (
        "A higher number alone does not show that a model is more robust than another: "
        f"{found.compared - found.shown} of {found.compared} comparisons show no difference"
        + (f", and {found.doubtful} of the others involve a doubtful number." if found.doubtful else ".")
    )


# --- what to do ---


def _advice(found: f.Advisable, names: _Names) -> Advice:
    match found:
        case f.Unfinished(cells):
            return Advice(
                f"Finish the study, which lacks {_count(cells, 'cell')}.",
                "spikeproof run STUDY",
            )
        case f.NoAttacks():
            return Advice(
                "Add a suite and budgets to the study, so that the models are attacked.",
                "suite: standard, epsilons: [8/255]",
            )
        case f.NoPlan():
            return Advice(
                "Add a suite, which searches for adversarial examples that these attacks missed.",
                "suite: standard",
            )
        case f.Unsupported(worst, programs):
            return Advice(
                "Have the audit attack the numbers again that are not supported, first "
                f"{names.model(worst)} at {_place(worst)}: "
                f"{worst['warnings'][0] if worst['warnings'] else 'see above'}.",
                shlex.join([*AUDIT, *(part for each in programs for part in ("--make", printable(each)))]),
            )
        case f.TooFewExamples(wanted):
            return Advice(
                f"Measure more {names.examples}: with about {wanted:,}, if the test part has that many, "
                "every interval is within ±3 points.",
                f"examples: {wanted}",
            )
        case f.FewSeeds():
            return Advice(
                "Train the models with other seeds too, which shows how much results vary between trainings.",
                "seeds: [0, 1, 2]",
            )
        case f.NoBounds():
            return Advice(
                "Add certificates, which give a lower bound of the robust accuracy.",
                "certificates: [bins, ibp]",
            )
        case f.NoProbes():
            return Advice(
                "Add timing probes, which show whether the models use spike times.",
                "probes: [shuffle, reversal, {jitter: {steps: 1}}]",
            )
        case _:
            assert_never(found)


# --- which model is the most robust ---


def ranking_words(found: Sequence[Ranking], axes: Sequence[str]) -> list[str]:
    """Which budget separates the models and what the paired tests show there; then the other budgets.

    A model is named as the most robust only if the tests show it. Without two models to compare there is
    nothing to say.

    Args:
        found: the rankings of a study.
        axes: the axes on which its models differ.
    """
    top = most_separating(found)
    if top is None:
        return []
    where = _budget(Budget(top.threat, top.epsilon))
    if top.shown:
        words = f"The budget that separates the models most is {where}: {_spread(top)}. {_first(top, axes)}"
    else:
        words = (
            "At no budget do the paired tests show a difference between two models, so none is named as the "
            f"most robust. The numbers lie furthest apart at {where}: {_spread(top)}."
        )
    others = [each for each in found if each is not top and len(each.rows) > 1]
    if others:
        places = [f"{_budget(Budget(each.threat, each.epsilon))}: {_spread(each)}" for each in others]
        return [words, f"At the other budgets: {'; '.join(places)}."]
    return [words]


def over_trainings_words(top: SeedRanking | None, axes: Sequence[str]) -> list[str]:
    """What the trainings of several seeds show together at the budget that separates architectures most.

    Args:
        top: the ranking of the architectures there; None where there are no two of them.
        axes: the axes on which the models of the study differ.
    """
    if top is None:
        return []
    where, others = _budget(Budget(top.threat, top.epsilon)), len(top.rows) - 1
    high, low = (percent(top.rows[place]["mean"]) for place in (0, -1))
    name = label(top.first[0], without_seed(axes) or ["encoder"])
    first = top.rows[0]
    number = f"{high} % {interval(first['low'], first['high'])}, mean over {len(first['seeds'])} trainings"
    marks = [word for word in ("doubtful", "preliminary") if first[word]]
    number += f", {marks[0]}" if marks else ""
    if not top.shown:
        return [
            f"Over several trainings, no difference from the first is shown at any budget. The means lie "
            f"furthest apart at {where}: {low} to {high} %."
        ]
    some = f"{top.shown} of the {others} others" if top.shown < others else f"all {others} others"
    some = "the other one" if others == 1 else some
    return [
        f"Over several trainings and at {where}, {name} ({number}) is shown to be more robust than {some}; "
        f"the means of {len(top.rows)} models go down to {low} %."
    ]


def _spread(found: Ranking) -> str:
    """The range of a ranking, and how many pairs differ."""
    high, low = (percent(found.rows[place]["robust_accuracy"]) for place in (0, -1))
    words = f"robust accuracy {low} to {high} %" if low != high else f"robust accuracy {low} %"
    words += f", a difference shown in {found.shown} of {_count(len(found.pairs), 'pair')} of models"
    return words + (f", {_count(found.withheld, 'number')} withheld" if found.withheld else "")


def _first(found: Ranking, axes: Sequence[str]) -> str:
    """What the tests show about the first of a ranking, where they show a difference between some models."""
    first, others = found.rows[0], len(found.rows) - 1
    below, alike = len(found.below_first), found.alike
    name = f"{label(first, axes)} ({_number(first)}{', ' + str(first['verdict']) if _marked(first) else ''})"
    doubt = ""
    if _marked(first):
        doubt = f" That number is {first['verdict']}, and a stronger attack may still reverse this order."
    if below == others:
        every = f"each of the {others} other models" if others > 1 else "the other model"
        return f"Under these attacks {name} is shown to be more robust than {every}.{doubt}"
    some = f"more robust than {below} of the {others} other models"
    if alike == 1:
        return f"Under these attacks {name} is shown to be {some}.{doubt}"
    shown = f" The first is shown to be {some}.{doubt}"
    names = [label(row, axes) for row in found.rows[1 : min(alike, 3)]]
    names += [f"{alike - 3} more"] if alike > 3 else []
    between = f"the first {_cardinal(alike)}" if found.all_tested else f"the first and the next {alike - 1}"
    return f"No difference is shown between {between}: {_listed([name, *names])}.{shown if below else ''}"


def _marked(record: Record) -> bool:
    return record["verdict"] in MARKS


def _cardinal(n: int) -> str:
    """A small count as a word.

    Example:
        >>> _cardinal(3), _cardinal(12)
        ('three', '12')
    """
    words = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
    return words[n - 1] if 1 <= n <= len(words) else str(n)

"""How far to trust a study: what its numbers say, what they do not, and what to run next, in plain words.

`findings` says what the records show; here every finding becomes a sentence.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, assert_never

from spikeproof.auditing.checks import GRAVITY, SUPPORTED
from spikeproof.catalogue.names import members
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.record import ProbeRecord, Record
from spikeproof.report import findings as f
from spikeproof.report.tables import Budget, budget_of, budgets, epsilon_text, interval, label, percent

__all__ = ["Advice", "Reason", "Trust", "noun", "threat_words"]

MOST_PLACES = 6


class Reason(NamedTuple):
    """Why numbers are not supported, all that a check was raised for.

    Args:
        check: its name.
        verdict: what it makes of a number.
        why: what it means, in words.
        remedy: what to do about it.
        numbers: how many numbers it was raised for.
        places: which, models with their budgets.
        example: its sentence about one of them.
    """

    check: str
    verdict: str
    why: str
    remedy: str
    numbers: int
    places: str
    example: str


class Advice(NamedTuple):
    """Something to do next, with the command or setting for it."""

    words: str
    command: str


@dataclass(frozen=True)
class Trust:
    """What to make of the headline numbers of a study.

    Args:
        lead: in a few sentences.
        measured: what was measured, on what, by which attacks.
        supported: which numbers passed every check.
        reasons: why the others did not, the gravest and most frequent first.
        may: what may be concluded.
        may_not: what may not.
        advice: what to run next.
        numbers: the audited worst cases, the gravest first.
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
    ) -> Trust:
        """What a study's own records say.

        Args:
            records: of one study.
            probes: of the same.
            compared: of the same.
            axes: on which its models differ.
            most: numbers to list.
            unfinished: number of cells that are missing, failed or damaged.
        """
        study = f.StudyRecords(records, probes, compared, axes, unfinished)
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
    """What the test part consists of."""
    return "recordings" if all(row["encoder"].startswith("events") for row in records) else "images"


def threat_words(threat: str) -> str:
    """What an attacker may do.

    Example:
        >>> threat_words("flips")
        'At most epsilon events may be added to a grid or taken from it, all changes counted together.'
    """
    return members("threats").get(threat.partition("(")[0], "")


def _count(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _listed(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


@dataclass(frozen=True)
class _Names:
    """What the models, budgets and examples of one study are called in its sentences.

    Args:
        examples: the noun for test examples.
        budgets: every budget of the study.
        axes: on which models differ.
        architecture: the same without the seed.
    """

    examples: str
    budgets: Sequence[Budget]
    axes: Sequence[str]
    architecture: Sequence[str]

    def model(self, record: Record | ProbeRecord) -> str:
        return label(record, self.axes)

    def over_seeds(self, record: Record) -> str:
        """An architecture, whatever its seed."""
        return label(record, self.architecture or ["encoder"])

    def places(self, records: Sequence[Record], most: int = MOST_PLACES) -> str:
        """Models with their budgets."""
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
    """A worst case in words."""
    return f"{percent(record['robust_accuracy'])} % {interval(record['ci_low'], record['ci_high'])}"


# --- what it is about ---


def _lead(study: f.StudyRecords, names: _Names) -> str:
    if not study.records:
        return "No number is finished, so there is nothing to trust yet."
    if not study.attacks:
        return (
            "This study has no attacks. Its accuracies are those on unchanged "
            f"{names.examples}; they say nothing about robustness."
        )
    if not study.audited:
        return "Attacks ran, but no model has been through all of them, so no robust accuracy is stated yet."
    return _verdicts(f.Verdicts.of(study))


def _verdicts(found: f.Verdicts) -> str:
    if found.supported < found.total:
        words = (
            f"Of {_count(found.total, 'robust accuracy', 'robust accuracies')}, {found.supported} "
            f"{'is' if found.supported == 1 else 'are'} supported, {found.preliminary} preliminary, "
            f"{found.doubtful} doubtful and {found.withheld} withheld. "
        )
    elif found.total > 1:
        words = f"All {found.total} robust accuracies were searched and passed every check. "
    else:
        words = "It was searched and passed every check. "
    words += "Every one is an upper bound: it says what these attacks left standing. "
    if found.preliminary:
        words += "A preliminary one is a first look: no check was raised, and no search followed. "
    if found.doubtful_above_zero:
        words += "Where one is doubtful, there are signs that a better attack would leave less. "
    elif found.doubtful:
        words += "The doubtful ones are zero, and cannot be lower. "
    if found.withheld:
        words += "Where one is withheld, the evaluation itself is wrong, and the number is not shown. "
    return words.rstrip()


def _measured(found: f.Measured | None, names: _Names) -> list[str]:
    if found is None:
        return []
    what = f"the first {' or '.join(f'{n:,}' for n in found.examples)} test {names.examples}"
    trained = "" if found.seeds == 1 else f", each trained under {found.seeds} seeds"
    words = [
        f"{_count(found.models, 'model')} on {what} of {_listed(found.datasets)}{trained}.",
        f"With {found.examples[0]:,} {names.examples}, chance in the choice of {names.examples} alone moves "
        f"an accuracy by up to ±{100 * found.half_width:.1f} points (95 % intervals).",
    ]
    for threat, epsilons in found.threats.items():
        sizes = _listed([epsilon_text(epsilon) for epsilon in epsilons])
        words.append(f"The attacker ({threat}): {threat_words(threat)} Epsilon was {sizes}.")
    words += _attacks(found)
    if found.drawn:
        words.append(
            f"What is answered at random ({_listed(found.drawn)}) is the mean over {found.draws} fresh draws."
        )
    if found.probes:
        words.append(f"Probes of timing: {_listed(found.probes)}.")
    return words


def _attacks(found: f.Measured) -> list[str]:
    kinds = {
        "by gradients": found.by_gradients,
        "without gradients": found.without_gradients,
        "in planned sequences": found.in_sequences,
    }
    named = [f"{kind} {_listed(attacks)}" for kind, attacks in kinds.items() if attacks]
    if not named:
        return []
    words = f"Attacks: {'; '.join(named)}."
    if found.forward:
        words += (
            f" Together they asked the models {found.forward:,} times and took {found.backward:,} gradients."
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
                f"{names.model(top)} uses the times of spikes: {top['probe']}, which keeps how often every "
                f"input spikes, costs it {percent(top['lost'])} points "
                f"{interval(top['lost_low'], top['lost_high'])}."
            )
        case _:
            assert_never(found)


def _best(found: f.BestSupported, names: _Names) -> str:
    words = [f"at {_place(top)} they leave {names.model(top)} {_number(top)}" for top in found.tops]
    return (
        f"What these attacks leave right of {names.examples} like these: {_listed(words)}. Such a number "
        "passed every check and is an upper bound all the same: a better attack may leave less"
        + (f" ({_count(found.others, 'supported number')} more)." if found.others else ".")
    )


def _broken(found: f.Broken, names: _Names) -> str:
    shown = [_fallen(at, names) for at in found.at[: MOST_PLACES // 2]]
    return (
        f"Attacks break more than half of what these get right: {_listed(shown)}"
        + (", and at other epsilons too" if len(found.at) > len(shown) else "")
        + ". That holds whatever the verdict, for the model itself got each fallen example wrong."
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
        f"Whatever the attack, at {_place(top)} {names.model(top)} stands on at least "
        f"{percent(top['certified'])} % {ends}: that is proved. Between this and the "
        f"{percent(top['robust_accuracy'])} % that these attacks leave, nothing is known"
        + (f" ({_count(found.others, 'number')} more with a proof)." if found.others else ".")
    )


def _differences(found: f.ShownDifferences) -> str:
    top = found.top
    where = f" at {_budget(Budget(top['threat'], top['epsilon']))}"
    where += f" ({top['others']})" if top["others"] else ""
    return (
        f"{_count(found.shown, 'comparison')} of {found.compared} show a difference between two numbers "
        f"that are both supported; the largest{where}: {top['sentence']}."
    )


# --- what does not follow ---


def _limit(found: f.Limit, names: _Names) -> str:
    match found:
        case f.DoubtfulNumbers(top, others):
            return (
                f"That a model is as robust as a doubtful number says: {names.model(top)} at {_place(top)} "
                f"is at most {percent(top['robust_accuracy'])} % robust and may be far less"
                + (f" (likewise {_count(others, 'number')} more)." if others else ".")
            )
        case f.PreliminaryNumbers(records):
            return (
                "That a preliminary number is what a model withstands: it says what a first look left "
                f"({names.places(records)})."
            )
        case f.WithheldNumbers(records):
            return f"Anything from the numbers that are withheld: {names.places(records)}."
        case f.Ranks():
            return _ranks(found)
        case f.OneSeed():
            return "How another training would end: there is one seed, and intervals leave it out."
        case f.SeedSpread(model, trainings, budget, spread):
            return (
                f"That another training gives the same: the worst case of {names.over_seeds(model)} at "
                f"{_budget(budget)} differs by {100 * spread:.1f} points between {trainings} seeds."
            )
        case f.Unproved(asked, failures):
            what = "That anything is safe from attacks nobody has tried"
            if not asked:
                return f"{what}: no certificate was asked for."
            return f"{what}: nothing is proved here" + (f" ({'; '.join(failures[:2])})." if failures else ".")
        case f.NoRobustness():
            return "Anything about robustness."
        case f.Elsewhere(threats, largest, datasets):
            return (
                f"Anything about changes other than {_listed(threats)}, larger ones than "
                f"{epsilon_text(largest)}, other data than {_listed(datasets)}, or an attacker who studies "
                "one of these models and writes an attack for it."
            )
        case _:
            assert_never(found)


def _ranks(found: f.Ranks) -> str:
    if not found.shown:
        return "That one of these models is more robust than another: no comparison shows a difference."
    return (
        "That one model is more robust than another because its number is higher: "
        f"{found.compared - found.shown} of {found.compared} comparisons show no difference"
        + (f", and {found.doubtful} that do rest on a doubtful number." if found.doubtful else ".")
    )


# --- what to do ---


def _advice(found: f.Advisable, names: _Names) -> Advice:
    match found:
        case f.Unfinished(cells):
            return Advice(
                f"Finish the study: {_count(cells, 'part')} of it is not there.", "spikeproof run STUDY"
            )
        case f.NoAttacks():
            return Advice(
                "Attack the models: add a suite and budgets to the study.",
                "suite: standard, epsilons: [8/255]",
            )
        case f.NoPlan():
            return Advice(
                "Let a planned sequence of attacks look for what these missed; add it to the study.",
                "suite: standard",
            )
        case f.Unsupported(worst):
            return Advice(
                f"Look into what is not supported, first {names.model(worst)} at {_place(worst)}: "
                f"{worst['warnings'][0] if worst['warnings'] else 'see above'}. The audit tries such numbers "
                "again.",
                "spikeproof audit DIR",
            )
        case f.TooFewExamples(wanted):
            return Advice(
                f"Measure more {names.examples}: about {wanted:,}, if there are as many, bring every "
                "interval within ±3 points.",
                f"examples: {wanted}",
            )
        case f.FewSeeds():
            return Advice(
                "Train again under other seeds, so that one can tell luck from design.", "seeds: [0, 1, 2]"
            )
        case f.NoBounds():
            return Advice(
                "Ask for lower bounds, so that the truth is between two numbers.", "certificates: [bins, ibp]"
            )
        case f.NoProbes():
            return Advice(
                "Find out whether the models use spike times at all.",
                "probes: [shuffle, reversal, {jitter: {steps: 1}}]",
            )
        case _:
            assert_never(found)

"""How far to trust a study: what its numbers say, what they do not, and what to run next, in plain words.

Every sentence is made from the records of the study at hand; one whose condition does not hold is not there.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from spikeproof.audit.checks import CHECKS, DOUBTFUL, SUPPORTED, WITHHELD
from spikeproof.catalogue.names import members
from spikeproof.experiments.read.comparisons import Compared
from spikeproof.experiments.read.record import ProbeRecord, Record
from spikeproof.experiments.read.results import WORST_CASE
from spikeproof.report import tables
from spikeproof.report.tables import (
    Budget,
    budgets,
    epsilon_text,
    interval,
    label,
    percent,
    proof_words,
    seeds,
)

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
        told = _Told(records, probes, compared, axes, unfinished)
        audited = sorted(told.audited, key=lambda r: (WITHHELD, DOUBTFUL, SUPPORTED).index(str(r["verdict"])))
        return cls(
            told.lead(),
            told.measured(),
            told.places(told.of(SUPPORTED), 2 * MOST_PLACES),
            told.reasons(),
            told.may(),
            told.may_not(),
            told.advice(),
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
class _Told:
    """The records of a study, asked for sentences."""

    records: Sequence[Record]
    probes: Sequence[ProbeRecord]
    compared: Sequence[Compared]
    axes: Sequence[str]
    unfinished: int

    @property
    def audited(self) -> list[Record]:
        return [row for row in self.records if row["verdict"] is not None]

    def of(self, *verdicts: str) -> list[Record]:
        return [row for row in self.audited if row["verdict"] in verdicts]

    @property
    def attacks(self) -> list[Record]:
        return [row for row in self.records if row["attack"] not in (WORST_CASE, "none")]

    @property
    def noun(self) -> str:
        return noun(self.records)

    def name(self, record: Record) -> str:
        return label(record, self.axes)

    def number(self, record: Record) -> str:
        """A worst case in words."""
        ends = interval(record["ci_low"], record["ci_high"])
        return f"{percent(record['robust_accuracy'])} % {ends}"

    def place(self, record: Record) -> str:
        return f"{record['threat']} {epsilon_text(record['epsilon'])}"

    def places(self, records: Sequence[Record], most: int = MOST_PLACES) -> str:
        """Models with their budgets."""
        every, groups = budgets(self.records), dict[str, list[Budget]]()
        for row in records:
            groups.setdefault(self.name(row), []).append(Budget(row["threat"], row["epsilon"]))
        texts = []
        for name, found in groups.items():
            where = ", ".join(f"{threat} {epsilon_text(epsilon)}" for threat, epsilon in found)
            texts.append(f"{name} ({'every epsilon' if len(found) == len(every) > 1 else where})")
        left = len(texts) - most
        return "; ".join(texts[:most]) + (f"; and {_count(left, 'model')} more" if left > 0 else "")

    # --- what it is about ---

    def lead(self) -> str:
        if not self.records:
            return "No number is finished, so there is nothing to trust yet."
        if not self.attacks:
            return (
                "This study has no attacks. Its accuracies are those on unchanged "
                f"{self.noun}; they say nothing about robustness."
            )
        if not self.audited:
            return (
                "Attacks ran, but no model has been through all of them, so no robust accuracy is stated yet."
            )
        counts, total = Counter(row["verdict"] for row in self.audited), len(self.audited)
        if counts[SUPPORTED] == total:
            words = (
                f"All {total} robust accuracies passed every check. "
                if total > 1
                else "It passed every check. "
            )
        else:
            words = (
                f"Of {_count(total, 'robust accuracy', 'robust accuracies')}, {counts[SUPPORTED]} "
                f"{'is' if counts[SUPPORTED] == 1 else 'are'} supported, {counts[DOUBTFUL]} doubtful and "
                f"{counts[WITHHELD]} withheld. "
            )
        words += "Every one is an upper bound: it says what these attacks left standing. "
        if any(row["robust_accuracy"] > 0 for row in self.of(DOUBTFUL)):
            words += "Where one is doubtful, there are signs that a better attack would leave less. "
        elif counts[DOUBTFUL]:
            words += "The doubtful ones are zero, and cannot be lower. "
        if counts[WITHHELD]:
            words += "Where one is withheld, the evaluation itself is wrong, and the number is not shown. "
        return words.rstrip()

    def measured(self) -> list[str]:
        if not self.records:
            return []
        first, seeds_ = self.records[0], len({row["seed"] for row in self.records})
        axes = [axis for axis in tables.AXES if axis not in ("seed", "n")]
        models = len({label(row, axes) for row in self.records})
        images = sorted({row["n"] for row in self.records})
        what = f"the first {' or '.join(f'{n:,}' for n in images)} test {self.noun}"
        sets = _listed(list(dict.fromkeys(row["dataset"] for row in self.records)))
        trained = "" if seeds_ == 1 else f", each trained under {seeds_} seeds"
        words = [f"{_count(models, 'model')} on {what} of {sets}{trained}."]
        widest = max(map(_half, self.records))
        words.append(
            f"With {images[0]:,} {self.noun}, chance in the choice of {self.noun} alone moves an accuracy "
            "by up "
            f"to ±{100 * widest:.1f} points (95 % intervals)."
        )
        for threat in dict.fromkeys(row["threat"] for row in self.attacks):
            sizes = [epsilon_text(b.epsilon) for b in budgets(self.records) if b.threat == threat]
            words.append(f"The attacker ({threat}): {threat_words(threat)} Epsilon was {_listed(sizes)}.")
        words += self._attack_words()
        random = list(dict.fromkeys(row["encoder"] for row in self.records if row["stochastic"]))
        if random:
            draws = max(row["draws"] for row in self.records if row["stochastic"])
            words.append(
                f"What is answered at random ({_listed(random)}) is the mean over {draws} fresh draws."
            )
        if first["steps"] > 1 and self.probes:
            names = list(dict.fromkeys(row["probe"] for row in self.probes))
            words.append(f"Probes of timing: {_listed(names)}.")
        return words

    def _attack_words(self) -> list[str]:
        if not self.attacks:
            return []
        kinds: dict[str, dict[str, None]] = {
            "by gradients": {},
            "without gradients": {},
            "in planned sequences": {},
        }
        for row in self.attacks:
            kind = "without gradients" if row["gradient_free"] else "by gradients"
            kinds["in planned sequences" if row["broken_by"] else kind][row["attack"]] = None
        named = [f"{kind} {_listed(list(names))}" for kind, names in kinds.items() if names]
        efforts = [row["effort"] for row in self.attacks if row["effort"] is not None]
        forward, backward = (
            sum(effort[name] or 0 for effort in efforts) for name in ("forward_queries", "backward_queries")
        )
        words = f"Attacks: {'; '.join(named)}."
        if forward:
            words += f" Together they asked the models {forward:,} times and took {backward:,} gradients."
        return [words]

    # --- why not ---

    def reasons(self) -> list[Reason]:
        groups: dict[str, list[tuple[Record, str]]] = {}
        for row in self.audited:
            for text in row["warnings"]:
                groups.setdefault(text.partition(":")[0], []).append((row, text.partition(": ")[2]))
        checks = {check.name: check for check in CHECKS}
        found = []
        for name, items in groups.items():
            check = checks.get(name)
            rows = list({(r["model"], r["threat"], r["epsilon"]): r for r, _ in items}.values())
            found.append(
                Reason(
                    name,
                    check.verdict if check else DOUBTFUL,
                    check.matters if check else "",
                    check.remedy if check else "",
                    len(rows),
                    self.places(rows),
                    items[0][1],
                )
            )
        return sorted(found, key=lambda reason: (reason.verdict != WITHHELD, -reason.numbers))

    # --- what follows ---

    def may(self) -> list[str]:
        said = [self._best, self._broken, self._proved, self._differences, self._timing]
        return [words for sentence in said if (words := sentence())]

    def _best(self) -> str:
        supported = self.of(SUPPORTED)
        if not supported:
            return ""
        words = []
        for threat in dict.fromkeys(row["threat"] for row in supported):
            rows = [row for row in supported if row["threat"] == threat]
            top = max(
                rows, key=lambda row: (row["robust_accuracy"] > 0, row["epsilon"], row["robust_accuracy"])
            )
            words.append(f"at {self.place(top)} they leave {self.name(top)} {self.number(top)}")
        others = len(supported) - len(words)
        return (
            f"What these attacks leave right of {self.noun} like these: {_listed(words)}. Such a number "
            "passed "
            "every check and is an upper bound all the same: a better attack may leave less"
            + (f" ({_count(others, 'supported number')} more)." if others else ".")
        )

    def _broken(self) -> str:
        words = []
        for budget in budgets(self.records):
            rows = [
                row
                for row in self.of(SUPPORTED, DOUBTFUL)
                if (row["threat"], row["epsilon"]) == budget and row["clean_accuracy"] > 0
            ]
            fallen = [row for row in rows if row["ci_high"] < row["clean_ci_low"] / 2]
            if fallen:
                which = "every model" if len(fallen) == len(rows) else f"{len(fallen)} of {len(rows)} models"
                words.append(f"{which if len(rows) > 1 else self.name(rows[0])} at {self.place(rows[0])}")
        if not words:
            return ""
        shown = words[: MOST_PLACES // 2]
        return (
            f"Attacks break more than half of what these get right: {_listed(shown)}"
            + (", and at other epsilons too" if len(words) > len(shown) else "")
            + ". That holds whatever the verdict, for the model itself got each fallen example wrong."
        )

    def _proved(self) -> str:
        rows = [row for row in self.of(SUPPORTED, DOUBTFUL) if (row["certified"] or 0) > 0]
        if not rows:
            return ""
        top = max(rows, key=lambda row: row["certified"] or 0)
        ends = interval(top["certified_low"], top["certified_high"])
        return (
            f"Whatever the attack, at {self.place(top)} {self.name(top)} stands on at least "
            f"{percent(top['certified'])} % {ends}: that is proved. Between this and the "
            f"{percent(top['robust_accuracy'])} % that these attacks leave, nothing is known"
            + (f" ({_count(len(rows) - 1, 'number')} more with a proof)." if rows[1:] else ".")
        )

    def _differences(self) -> str:
        sound = [pair for pair in self.compared if pair["shown"] and not pair["doubtful"]]
        if not sound:
            return ""
        top = max(sound, key=lambda pair: abs(pair["difference"]))
        place = f"{top['threat']} {epsilon_text(top['epsilon'])}"
        where = f" at {place}" + (f" ({top['others']})" if top["others"] else "")
        return (
            f"{_count(len(sound), 'comparison')} of {len(self.compared)} show a difference between two "
            "numbers "
            f"that are both supported; the largest{where}: {top['sentence']}."
        )

    def _timing(self) -> str:
        lost = [row for row in self.probes if row["lost_low"] > 0 and row["p_value"] <= 0.05]
        keeping = [
            row for row in lost if row["probe"].partition("(")[0] in ("shuffle", "synchronous-shuffle")
        ]
        if not keeping:
            return ""
        top = max(keeping, key=lambda row: row["lost"])
        return (
            f"{label(top, self.axes)} uses the times of spikes: {top['probe']}, which keeps how often "
            "every input "
            f"spikes, costs it {percent(top['lost'])} points {interval(top['lost_low'], top['lost_high'])}."
        )

    def may_not(self) -> list[str]:
        said: list[Callable[[], str]] = [
            self._doubtful,
            self._withheld,
            self._ranks,
            self._training,
            self._unproved,
            self._elsewhere,
        ]
        return [words for sentence in said if (words := sentence())]

    def _doubtful(self) -> str:
        rows = self.of(DOUBTFUL)
        high = [row for row in rows if row["robust_accuracy"] > 0]
        if not high:
            return ""
        top = max(high, key=lambda row: row["robust_accuracy"])
        return (
            f"That a model is as robust as a doubtful number says: {self.name(top)} at {self.place(top)} "
            "is at "
            f"most {percent(top['robust_accuracy'])} % robust and may be far less"
            + (f" (likewise {_count(len(high) - 1, 'number')} more)." if high[1:] else ".")
        )

    def _withheld(self) -> str:
        rows = self.of(WITHHELD)
        return f"Anything from the numbers that are withheld: {self.places(rows)}." if rows else ""

    def _ranks(self) -> str:
        if len({row["model"] for row in self.audited}) < 2:
            return ""
        shown = [pair for pair in self.compared if pair["shown"]]
        if not shown:
            return "That one of these models is more robust than another: no comparison shows a difference."
        words = "That one model is more robust than another because its number is higher: "
        silent = len(self.compared) - len(shown)
        words += f"{silent} of {len(self.compared)} comparisons show no difference"
        unsound = sum(bool(pair["doubtful"]) for pair in shown)
        return words + (f", and {unsound} that do rest on a doubtful number." if unsound else ".")

    def _training(self) -> str:
        if not self.records:
            return ""
        rows = seeds(self.records)
        if not rows:
            return "How another training would end: there is one seed, and intervals leave it out."
        spreads = [
            (max(values) - min(values), row, budget)
            for row in rows
            for budget in row.worst
            if (values := self._over_seeds(row.model, budget))
        ]
        if not spreads:
            return ""
        spread, row, budget = max(spreads, key=lambda each: each[0])
        axes = [axis for axis in self.axes if axis != "seed"] or ["encoder"]
        return (
            f"That another training gives the same: the worst case of {label(row.model, axes)} at "
            f"{budget.threat} "
            f"{epsilon_text(budget.epsilon)} differs by {100 * spread:.1f} points between {row.trainings} "
            "seeds."
        )

    def _over_seeds(self, model: Record, budget: Budget) -> list[float]:
        axes = [axis for axis in self.axes if axis != "seed"]
        return [
            row["robust_accuracy"]
            for row in self.of(SUPPORTED, DOUBTFUL)
            if (row["threat"], row["epsilon"]) == budget and label(row, axes) == label(model, axes)
        ]

    def _unproved(self) -> str:
        if not self.audited:
            return ""
        tried = {
            words: None
            for row in self.audited
            for proof in row["proofs"]
            if (words := _failed(proof_words(proof)))
        }
        if any((row["certified"] or 0) > 0 for row in self.audited):
            return ""
        if any(row["proofs"] for row in self.audited):
            reasons = f" ({'; '.join(list(tried)[:2])})" if tried else ""
            return f"That anything is safe from attacks nobody has tried: nothing is proved here{reasons}."
        return "That anything is safe from attacks nobody has tried: no certificate was asked for."

    def _elsewhere(self) -> str:
        if not self.attacks:
            return "Anything about robustness." if self.records else ""
        names = list(dict.fromkeys(row["threat"] for row in self.attacks))
        sets = list(dict.fromkeys(row["dataset"] for row in self.records))
        largest = max(row["epsilon"] for row in self.attacks)
        return (
            f"Anything about changes other than {_listed(names)}, larger ones than "
            f"{epsilon_text(largest)}, other data "
            f"than {_listed(sets)}, or an attacker who studies one of these models and writes an attack "
            "for it."
        )

    # --- what to do ---

    def advice(self) -> list[Advice]:
        said = [
            self._finish,
            self._attack,
            self._plan,
            self._repair,
            self._enlarge,
            self._retrain,
            self._prove,
            self._probe,
        ]
        return [advice for suggest in said if (advice := suggest()) is not None]

    def _finish(self) -> Advice | None:
        if not self.unfinished:
            return None
        return Advice(
            f"Finish the study: {_count(self.unfinished, 'part')} of it is not there.", "spikeproof run STUDY"
        )

    def _attack(self) -> Advice | None:
        if self.attacks or not self.records:
            return None
        return Advice(
            "Attack the models: add a suite and budgets to the study.", "suite: standard, epsilons: [8/255]"
        )

    def _plan(self) -> Advice | None:
        if not self.attacks or any(row["broken_by"] for row in self.attacks):
            return None
        return Advice(
            "Let a planned sequence of attacks look for what these missed; add it to the study.",
            "suite: standard",
        )

    def _repair(self) -> Advice | None:
        rows = self.of(DOUBTFUL, WITHHELD)
        if not rows:
            return None
        worst = max(rows, key=lambda row: (row["verdict"] == WITHHELD, row["robust_accuracy"]))
        return Advice(
            f"Look into what is not supported, first {self.name(worst)} at {self.place(worst)}: "
            f"{worst['warnings'][0] if worst['warnings'] else 'see above'}. The audit tries such numbers "
            "again.",
            "spikeproof audit DIR",
        )

    def _enlarge(self) -> Advice | None:
        rows = self.audited or self.records
        widest = max((_half(row) for row in rows), default=0.0)
        if widest <= 0.05:
            return None
        wanted = math.ceil(1.96**2 * 0.25 / 0.03**2 / 10) * 10
        return Advice(
            f"Measure more {self.noun}: about {wanted:,}, if there are as many, bring every interval "
            "within ±3 points.",
            f"examples: {wanted}",
        )

    def _retrain(self) -> Advice | None:
        count = len({row["seed"] for row in self.records})
        if not self.records or count >= 3:
            return None
        return Advice(
            "Train again under other seeds, so that one can tell luck from design.", "seeds: [0, 1, 2]"
        )

    def _prove(self) -> Advice | None:
        pixels = any(row["threat"].partition("(")[0] in ("linf", "l2") for row in self.audited)
        if not pixels or any(row["proofs"] for row in self.audited):
            return None
        return Advice(
            "Ask for lower bounds, so that the truth is between two numbers.", "certificates: [bins, ibp]"
        )

    def _probe(self) -> Advice | None:
        if self.probes or not any(row["steps"] > 1 for row in self.records):
            return None
        return Advice(
            "Find out whether the models use spike times at all.",
            "probes: [shuffle, reversal, {jitter: {steps: 1}}]",
        )


def _half(row: Record) -> float:
    """Half the width of the widest interval of a record."""
    widths = [(row["ci_low"], row["ci_high"]), (row["clean_ci_low"], row["clean_ci_high"])]
    return max(
        ((high - low) / 2 for low, high in widths if low is not None and high is not None), default=0.0
    )


def _failed(words: str) -> str:
    return words if "does not apply" in words else ""

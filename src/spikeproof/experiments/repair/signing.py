"""Signing off a saved model: a suite at several budgets, an audit, certificates, and what repairs changed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeproof.audit.assess import PROBED, suite_evidence
from spikeproof.audit.checks import DOUBTFUL, Verdict, audit
from spikeproof.audit.diagnostics import probe
from spikeproof.audit.evidence import CurvePoint, Evidence, ProbeEvidence
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.saved import load
from spikeproof.datasets import Dataset, Source, floats
from spikeproof.decoders import dynamic_exit
from spikeproof.errors import InputError
from spikeproof.evaluation.certificates import IBP, Bins, Certificate
from spikeproof.evaluation.suites import Member, Suite, Suited, evaluate_suite, plan
from spikeproof.evaluation.verdicts import Clean, evaluate_clean
from spikeproof.experiments.repair.remedies import ENOUGH, Remedy, remedies
from spikeproof.experiments.run.compute import in_full, one_thread
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Threat
from spikeproof.specs import build, describe
from spikeproof.statistics import Interval, wilson
from spikeproof.threats import Linf

__all__ = ["Attempt", "Mended", "Question", "SignedOff", "dataset_of", "repair", "sign_off"]

CERTIFICATES: tuple[Certificate, ...] = (Bins(), IBP())


@dataclass(frozen=True)
class Question:
    """What is asked about a model.

    Args:
        level: of the suite.
        threats: one threat at several budgets.
        examples: number of test images.
        seed: of attacks and draws.
        draws: per verdict of a stochastic model.
        batch_size: examples at a time; changes no number.
    """

    level: str
    threats: tuple[Threat, ...]
    examples: int = 200
    seed: int = 0
    draws: int = 4
    batch_size: int = 100


@dataclass(frozen=True)
class SignedOff:
    """One robust accuracy with all that it rests on.

    Args:
        threat: with its budget.
        level: of the suite.
        clean_accuracy: without an attack.
        accuracy: in the worst case over the suite; an upper bound of the robust accuracy.
        interval: its 95 % Wilson interval.
        certified: share of examples proved robust, a lower bound; None where no certificate applies.
        verdict: of the audit.
        members: what each attack contributed.
        n: number of examples.
        suited: per example.
    """

    threat: Threat
    level: str
    clean_accuracy: float
    accuracy: float
    interval: Interval
    certified: float | None
    verdict: Verdict
    members: Sequence[dict[str, Any]]
    n: int
    suited: Suited

    @property
    def threat_name(self) -> str:
        """As studies call it; that of its class where it is none of ours."""
        own = type(self.threat)
        return next((name for name, cls in PARTS[Threat].items() if cls is own), own.__name__.lower())

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "threat": self.threat_name,
            "epsilon": self.threat.epsilon,
            "suite": self.level,
            "n": self.n,
            "clean_accuracy": self.clean_accuracy,
            "robust_accuracy": self.accuracy,
            "ci_low": self.interval.low,
            "ci_high": self.interval.high,
            "certified": self.certified,
            "verdict": self.verdict.verdict,
            "reasons": [f"{finding.check}: {finding.why}" for finding in self.verdict.findings],
            "members": [{k: v for k, v in member.items() if k != "evidence"} for member in self.members],
        }


def dataset_of(path: Path, name: str | None, data: Path | None) -> Dataset:
    """The data to measure a model on: those it was trained on where it lies in a study, else by name.

    Args:
        path: of the saved model.
        name: of a data set, or None.
        data: the directory that holds data sets, or None.

    Raises:
        InputError: there is no name and the model does not tell.
    """
    if name is not None:
        source: Source = build(Source, name, PARTS)
        return source.load(data)
    cell = path / "cell.json"
    try:
        spec = json.loads(cell.read_bytes())["spec"]["dataset"]
        source = build(Source, {key: value for key, value in spec.items() if key != "sha256"}, PARTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "A data set to measure the model on", f"none, and no {cell}", "Add --dataset fashion-mnist."
        ) from error
    return source.load(data)


@dataclass(frozen=True)
class Attempt:
    """One attack more on a doubtful number.

    Args:
        check: that asked for it.
        name: of the attack, or what else was tried.
        accuracy: in the worst case with all before it.
    """

    check: str
    name: str
    accuracy: float


@dataclass(frozen=True)
class Mended:
    """A number, what was tried on it, and what it is now.

    Args:
        first: as the suite gave it.
        attempts: what was tried, in order.
        last: with all attempts; the first where there were none.
    """

    first: SignedOff
    attempts: Sequence[Attempt]
    last: SignedOff

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        tried = [{"because": a.check, "attack": a.name, "robust_accuracy": a.accuracy} for a in self.attempts]
        return {"before": self.first.plain(), "tried": tried, "after": self.last.plain()}


@dataclass(frozen=True)
class _Subject:
    """A model with the examples it is measured on, and what is known of it before any attack."""

    model: Classifier
    images: Tensor
    labels: Tensor
    question: Question
    clean: Clean
    seen: ProbeEvidence

    @classmethod
    def of(cls, path: Path, data: Dataset, question: Question, device: str) -> _Subject:
        model, images, labels = _subject(path, data, question, device)
        key = Key.of(question.seed)
        seen = probe(model, images[:PROBED], labels[:PROBED], key.fold("inspect"))
        if seen.failed is not None:
            raise InputError(
                "A model that answers one row of finite logits per image",
                seen.failed,
                "Mend the model, or train it again: nothing can be measured on such answers.",
            )
        clean = evaluate_clean(
            model,
            images,
            labels,
            key.fold("evaluation"),
            batch_size=question.batch_size,
            draws=question.draws,
        )
        return cls(model, images, labels, question, clean, seen)

    def attacked(
        self, threat: Threat, members: Sequence[Member] | None = None, after: Suited | None = None
    ) -> Suited:
        return evaluate_suite(
            self.model,
            self.question.level,
            threat,
            self.images,
            self.labels,
            self.clean,
            Key.of(self.question.seed).fold("attack"),
            batch_size=self.question.batch_size,
            draws=self.question.draws,
            members=members,
            after=after,
        )

    def signed(self, threat: Threat, suited: Suited, curve: Sequence[CurvePoint]) -> SignedOff:
        metrics = suited.metrics()
        accuracy, n = metrics["robust_accuracy"], metrics["n"]
        interval = wilson(accuracy * n, n)
        key = Key.of(self.question.seed).fold("certify")
        proved = proved_by(self.model, threat, self.images, self.labels, key)
        evidence = Evidence(
            accuracy=accuracy,
            interval=interval,
            n=n,
            clean_accuracy=self.clean.metrics()["clean_accuracy"],
            classes=self.model.spec.classes,
            epsilon=threat.epsilon,
            unbounded=isinstance(threat, Linf) and threat.epsilon >= 1,
            stochastic=self.model.stochastic,
            attacks=suite_evidence(metrics),
            curve=curve,
            probe=self.seen,
            contradicted=0.0
            if proved is None
            else float((proved & (suited.attacked.right < 1)).double().mean()),
            dynamic_exit=dynamic_exit(self.model.spec.decoder),
        )
        certified = None if proved is None else float(proved.double().mean())
        return SignedOff(
            threat,
            self.question.level,
            evidence.clean_accuracy,
            accuracy,
            interval,
            certified,
            audit(evidence),
            metrics["members"],
            n,
            suited,
        )


@one_thread()
@in_full()
def sign_off(path: Path, data: Dataset, question: Question, device: str = "cpu") -> list[SignedOff]:
    """Robust accuracy, certificate and verdict at every budget, computed as the cells of a study are.

    Args:
        path: of the saved model.
        data: its test part is measured.
        question: what is asked.
        device: where to compute.

    Raises:
        InputError: the model and the data do not fit, there are no examples, or the model answers no logits.
    """
    subject = _Subject.of(path, data, question, device)
    found = [(threat, subject.attacked(threat)) for threat in question.threats]
    curve = _curve(found)
    return [subject.signed(threat, suited, curve) for threat, suited in found]


def _curve(found: Iterable[tuple[Threat, Suited]]) -> list[CurvePoint]:
    return [CurvePoint(t.epsilon, s.metrics()["robust_accuracy"]) for t, s in found]


@one_thread()
@in_full()
def repair(
    path: Path,
    data: Dataset,
    question: Question,
    found: Sequence[SignedOff],
    device: str = "cpu",
    rounds: int = 2,
) -> list[Mended]:
    """Attack each doubtful number again, as the reasons ask; at the end with the next larger suite.

    Where the interval is too wide, all numbers are measured on more of the test images first. A withheld
    number is wrong and stays as it is.

    Args:
        path: of the saved model.
        data: its test part is measured.
        question: what was asked.
        found: the answers.
        device: where to compute.
        rounds: most rounds; a later one goes on where doubt is left.
    """
    larger = min(ENOUGH, len(data.test.labels))
    wide = any("too few examples" in _checks(each) for each in found) and question.examples < larger
    if rounds and wide:
        question = replace(question, examples=larger)
        start = sign_off(path, data, question, device)
    else:
        start = list(found)
    doubtful = [each for each in start if each.verdict.verdict == DOUBTFUL]
    subject = _Subject.of(path, data, question, device) if rounds and doubtful else None
    attempts: dict[Threat, list[Attempt]] = {each.threat: [] for each in start}
    if wide and rounds:
        for each in start:
            attempts[each.threat].append(Attempt("too few examples", f"{larger} images", each.accuracy))
    now = {each.threat: each for each in start}
    tried: dict[Threat, list[Any]] = {threat: [Suite(level=question.level)] for threat in now}
    for _ in range(rounds if subject is not None else 0):
        assert subject is not None
        changed = False
        for threat, each in now.items():
            if each.verdict.verdict != DOUBTFUL:
                continue
            for remedy in remedies(_checks(each), subject.model, threat, tried[threat]):
                suited = subject.attacked(threat, _members(remedy, subject.model, threat), now[threat].suited)
                tried[threat].append(remedy.recipe)
                accuracy = suited.metrics()["robust_accuracy"]
                attempts[threat].append(Attempt(remedy.check, _named(remedy), accuracy))
                now[threat] = replace(now[threat], suited=suited)
                changed = True
        curve = _curve((threat, each.suited) for threat, each in now.items())
        now = {threat: subject.signed(threat, each.suited, curve) for threat, each in now.items()}
        if not changed:
            break
    return [Mended(first, attempts[first.threat], now[first.threat]) for first in found]


def _checks(signed: SignedOff) -> list[str]:
    return [finding.check for finding in signed.verdict.findings]


def _members(remedy: Remedy, model: Classifier, threat: Threat) -> list[Member]:
    """What a remedy runs: the members of a suite, or itself."""
    if isinstance(remedy.recipe, Suite):
        level = remedy.recipe.level
        return [
            Member(f"{level} {name}", recipe, None if after is None else f"{level} {after}")
            for name, recipe, after in plan(level, model, threat)
        ]
    return [Member(_named(remedy), remedy.recipe)]


def _named(remedy: Remedy) -> str:
    spec: dict[str, Any] = describe(remedy.recipe, PARTS)
    simple = {option: value for option, value in spec.items() if isinstance(value, (int, float, str))}
    name = str(simple.pop("name"))
    return f"{name}({', '.join(f'{option}={value}' for option, value in simple.items())})" if simple else name


def _subject(path: Path, data: Dataset, question: Question, device: str) -> tuple[Classifier, Tensor, Tensor]:
    model = load(path).to(device)
    if model.spec.classes != len(data.classes):
        raise InputError(
            f"A model for the {len(data.classes)} classes of the data",
            f"one for {model.spec.classes}",
            "Choose the data set that the model was trained on.",
        )
    test = data.test
    if question.examples > len(test.labels):
        raise InputError(
            f"At most {len(test.labels)} examples, the test part", f"{question.examples}", "Ask for fewer."
        )
    images = floats(test.images[: question.examples].to(device))
    return model, images, test.labels[: question.examples].to(device)


def proved_by(
    model: Classifier,
    threat: Threat,
    x: Tensor,
    y: Tensor,
    key: Key,
    certificates: Iterable[Certificate] = CERTIFICATES,
) -> Tensor | None:
    """Which examples some certificate proves; None where none applies."""
    proved = [c(model, x, y, threat, key).certified for c in certificates if c.reason(model, threat) is None]
    return torch.stack(proved).any(0) if proved else None

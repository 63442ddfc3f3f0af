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
from spikeproof.audit.checks import SUPPORTED, Verdict, audit
from spikeproof.audit.evidence import CurvePoint, Evidence, ProbeEvidence
from spikeproof.audit.probes import probe
from spikeproof.certificates import IBP, Bins, Certificate
from spikeproof.datasets import Dataset, Source, floats
from spikeproof.decoders import dynamic_exit
from spikeproof.errors import InputError
from spikeproof.evaluation import Clean, evaluate_clean
from spikeproof.experiments.catalogue import PARTS
from spikeproof.keys import Key
from spikeproof.models import load
from spikeproof.network import Classifier
from spikeproof.protocols import Threat
from spikeproof.specs import build
from spikeproof.statistics import Interval, wilson
from spikeproof.suites import LEVELS, Suited, evaluate_suite
from spikeproof.threats import Linf

__all__ = ["Question", "SignedOff", "dataset_of", "repair", "sign_off"]

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

    def plain(self) -> dict[str, Any]:
        """As plain data."""
        return {
            "threat": type(self.threat).__name__.lower(),
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


def sign_off(path: Path, data: Dataset, question: Question, device: str = "cpu") -> list[SignedOff]:
    """Robust accuracy, certificate and verdict at every budget.

    Args:
        path: of the saved model.
        data: its test part is measured.
        question: what is asked.
        device: where to compute.

    Raises:
        InputError: the model and the data do not fit, or there are no examples.
    """
    model, images, labels = _subject(path, data, question, device)
    key = Key.of(question.seed)
    seen = probe(model, images[:PROBED], labels[:PROBED], key.fold("inspect"))
    clean = evaluate_clean(
        model, images, labels, key.fold("evaluation"), batch_size=question.batch_size, draws=question.draws
    )
    found = [
        (threat, _suited(model, question.level, threat, images, labels, clean, question))
        for threat in question.threats
    ]
    curve = [CurvePoint(t.epsilon, s.metrics()["robust_accuracy"]) for t, s in found]
    return [
        _signed(model, threat, suited, images, labels, clean, question, seen, curve)
        for threat, suited in found
    ]


def repair(
    path: Path, data: Dataset, question: Question, found: Sequence[SignedOff], device: str = "cpu"
) -> list[tuple[SignedOff, SignedOff | None]]:
    """Try each number that is not supported again with the next larger suite.

    Args:
        path: of the saved model.
        data: its test part is measured.
        question: what was asked.
        found: the answers.
        device: where to compute.

    Returns:
        Each number with its second try, None where none was needed or no larger suite exists.
    """
    place = LEVELS.index(question.level)
    again = [f.threat for f in found if f.verdict.verdict != SUPPORTED]
    if not again or place + 1 == len(LEVELS):
        return [(each, None) for each in found]
    wider = replace(question, level=LEVELS[place + 1], threats=tuple(again))
    second = {each.threat: each for each in sign_off(path, data, wider, device)}
    return [(each, second.get(each.threat)) for each in found]


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


def _suited(
    model: Classifier, level: str, threat: Threat, x: Tensor, y: Tensor, clean: Clean, question: Question
) -> Suited:
    key = Key.of(question.seed).fold("attack")
    return evaluate_suite(
        model, level, threat, x, y, clean, key, batch_size=question.batch_size, draws=question.draws
    )


def _signed(
    model: Classifier,
    threat: Threat,
    suited: Suited,
    images: Tensor,
    labels: Tensor,
    clean: Clean,
    question: Question,
    seen: ProbeEvidence,
    curve: Sequence[CurvePoint],
) -> SignedOff:
    metrics = suited.metrics()
    accuracy, n = metrics["robust_accuracy"], metrics["n"]
    interval = wilson(accuracy * n, n)
    evidence = Evidence(
        accuracy=accuracy,
        interval=interval,
        n=n,
        clean_accuracy=clean.metrics()["clean_accuracy"],
        classes=model.spec.classes,
        epsilon=threat.epsilon,
        unbounded=isinstance(threat, Linf) and threat.epsilon >= 1,
        stochastic=model.stochastic,
        attacks=suite_evidence(metrics),
        curve=curve,
        probe=seen,
        dynamic_exit=dynamic_exit(model.spec.decoder),
    )
    certified = certified_share(model, threat, images, labels, Key.of(question.seed).fold("certify"))
    return SignedOff(
        threat,
        question.level,
        evidence.clean_accuracy,
        accuracy,
        interval,
        certified,
        audit(evidence),
        metrics["members"],
        n,
    )


def certified_share(
    model: Classifier,
    threat: Threat,
    x: Tensor,
    y: Tensor,
    key: Key,
    certificates: Iterable[Certificate] = CERTIFICATES,
) -> float | None:
    """Share of examples that some certificate proves; None where none applies."""
    proved = [c(model, x, y, threat, key).certified for c in certificates if c.reason(model, threat) is None]
    return float(torch.stack(proved).any(0).double().mean()) if proved else None

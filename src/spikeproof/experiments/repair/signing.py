"""Signing off a saved model: a suite at several budgets, an audit, certificates and repairs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing.checks import WITHHELD
from spikeproof.auditing.evidence import CurvePoint
from spikeproof.auditing.signoff import CERTIFICATES, Report, Subject
from spikeproof.catalogue.given import check_classes
from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import ClassProportional, Dataset, DatasetSpec, Sample, floats
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Member, Suite, Suited, plan
from spikeproof.experiments.read.results import TOO_FEW
from spikeproof.experiments.repair.remedies import ENOUGH, Remedy, remedies
from spikeproof.experiments.run.compute import in_full, one_thread
from spikeproof.experiments.study.cells import data_of
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.study import Candidate, Study
from spikeproof.interop.frameworks.adapters import modules_inside
from spikeproof.keys import Key
from spikeproof.plainfiles import read_json, shaped
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.specs import build, describe
from spikeproof.threats import check_budget

__all__ = ["Attempt", "Mended", "Question", "as_study", "data_spec_of", "dataset_of", "repair", "sign_off"]


@dataclass(frozen=True)
class Question:
    """The measurement that is requested of a saved model.

    Args:
        level: of the suite.
        threats: one threat at several budgets.
        examples: number of test images.
        seed: of attacks and draws.
        draws: per verdict of a stochastic model.
        batch_size: examples per forward pass; changes no number.
        sample: which test images.
    """

    level: str
    threats: tuple[Threat, ...]
    examples: int = 200
    seed: int = 0
    draws: int = 4
    batch_size: int = 100
    sample: Sample = ClassProportional()


def dataset_of(path: Path, name: str | None, data: Path | None) -> Dataset:
    """The data set to measure a model on: the named one, or else the one that it was trained on.

    Args:
        path: of the saved model.
        name: of a data set, or None.
        data: the directory that holds data sets, or None.

    Raises:
        InputError: no name is given, and the model does not belong to a study.
    """
    return data_spec_of(path, name).load(data)


def data_spec_of(path: Path, name: object) -> DatasetSpec:
    """The description of the data to measure a model on: the named one, or else that of the model's study.

    Args:
        path: of the saved model.
        name: of a data set, with options as in a study or without, or None.

    Raises:
        InputError: there is no name and the model does not tell.
    """
    if name is not None:
        named: DatasetSpec = build(DatasetSpec, name, PARTS)
        return named
    cell = path / "cell.json"
    try:
        spec = shaped(read_json(cell, dict[str, object])["spec"], dict[str, object], str(cell))
        found = data_of(shaped(spec["dataset"], dict[str, object], str(cell)))
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            "A data set to measure the model on", f"none, and no {cell}", "Add --dataset fashion-mnist."
        ) from error
    return found


@dataclass(frozen=True)
class Attempt:
    """A further attack on a number.

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
    """A number before and after repairs, with the attacks that were tried on it.

    Args:
        first: as the suite gave it.
        attempts: what was tried, in order.
        last: with all attempts; the first where there were none.
    """

    first: Report
    attempts: Sequence[Attempt]
    last: Report

    def plain(self) -> dict[str, object]:
        """As plain data."""
        tried = [{"because": a.check, "attack": a.name, "robust_accuracy": a.accuracy} for a in self.attempts]
        return {"before": self.first.plain(), "tried": tried, "after": self.last.plain()}


def as_study(name: str, model: Candidate | Owned, data: DatasetSpec, question: Question) -> Study:
    """A question about one model as a study, which is stored, goes on where it was killed, and has a report.

    Args:
        name: of the study.
        model: saved, or made by a program.
        data: the data set to measure it on.
        question: what is asked.
    """
    return Study(
        name=name,
        data=data,
        models=(model,),
        attacks=(Suite(level=question.level),),
        threats=question.threats,
        seeds=(question.seed,),
        examples=question.examples,
        sample=question.sample,
        draws=question.draws,
        normalise=model.normalise if isinstance(model, Candidate) else None,
        certificates=CERTIFICATES if isinstance(model, Candidate) else (),
    )


def _subject(model: Model, data: Dataset, question: Question, device: str) -> Subject:
    """The model with a sample of the test part.

    Raises:
        InputError: the model and the data do not fit, there are too few examples, or it answers no logits.
    """
    shape = tuple(data.test.images.shape[1:])
    check_classes(model, shape, len(data.classes), type(model).__name__)
    for net in modules_inside(model):
        net.to(device)
    if question.examples > len(data.test):
        raise InputError(
            f"At most {len(data.test)} examples, the test part of {data.name}",
            f"{question.examples}",
            "Ask for fewer.",
        )
    part = question.sample(data.test, question.examples)
    for threat in question.threats:
        check_budget(threat, shape[-3:])
    images, labels = floats(part.images.to(device)), part.labels.to(device)
    key, events = Key.of(question.seed), any(map(moves_events, question.threats))
    return Subject.of(model, images, labels, key, question.draws, question.batch_size, events=events)


@one_thread()
@in_full()
def sign_off(model: Model, data: Dataset, question: Question, device: str = "cpu") -> list[Report]:
    """Robust accuracy, certificate and verdict at every budget, computed as the cells of a study are.

    Args:
        model: any, in evaluation mode.
        data: its test part is measured.
        question: the measurement.
        device: where to compute.

    Raises:
        InputError: the model and the data do not fit, there are no examples, or the model answers no logits.
    """
    subject = _subject(model, data, question, device)
    found = [(threat, subject.attacked(threat, question.level)) for threat in question.threats]
    curve = _curve(found)
    return [subject.report(threat, question.level, suited, curve) for threat, suited in found]


def _curve(found: Iterable[tuple[Threat, Suited]]) -> list[CurvePoint]:
    return [CurvePoint(threat.epsilon, suited.accuracy) for threat, suited in found]


@one_thread()
@in_full()
def repair(
    model: Model,
    data: Dataset,
    question: Question,
    found: Sequence[Report],
    device: str = "cpu",
    rounds: int = 3,
) -> list[Mended]:
    """Run the standard suite where none has run, then the attacks that the raised checks ask for.

    Where the interval is too wide, all numbers are measured on more of the test images first. A withheld
    number is wrong and stays as it is.

    Args:
        model: any, in evaluation mode.
        data: its test part is measured.
        question: the measurement.
        found: the answers.
        device: where to compute.
        rounds: most rounds; each attacks the numbers that are still doubtful.
    """
    larger = min(ENOUGH, len(data.test.labels))
    wide = any(TOO_FEW in _checks(each) for each in found) and question.examples < larger
    if rounds and wide:
        question = replace(question, examples=larger)
        start = sign_off(model, data, question, device)
    else:
        start = list(found)
    reported = [each for each in start if each.verdict.verdict != WITHHELD]
    subject = _subject(model, data, question, device) if rounds and reported else None
    attempts: dict[Threat, list[Attempt]] = {each.threat: [] for each in start}
    if wide and rounds:
        for each in start:
            attempts[each.threat].append(Attempt(TOO_FEW, f"{larger} images", each.accuracy))
    now = {each.threat: each for each in start}
    suited = {each.threat: each.suited for each in start if each.suited is not None}
    tried: dict[Threat, list[Recipe]] = {threat: [Suite(level=question.level)] for threat in now}
    for _ in range(rounds if subject is not None else 0):
        assert subject is not None
        changed = False
        for threat, each in now.items():
            if each.verdict.verdict == WITHHELD:
                continue
            for remedy in remedies(_checks(each), subject.model, threat, tried[threat]):
                members = _members(remedy, subject.model, threat)
                suited[threat] = subject.attacked(threat, question.level, members, suited[threat])
                tried[threat].append(remedy.recipe)
                accuracy = suited[threat].accuracy
                attempts[threat].append(Attempt(remedy.check, _named(remedy), accuracy))
                changed = True
        curve = _curve(suited.items())
        now = {
            t: subject.report(t, question.level, found, curve, _levels(tried[t]))
            for t, found in suited.items()
        }
        if not changed:
            break
    return [Mended(first, attempts[first.threat], now[first.threat]) for first in found]


def _levels(tried: Sequence[Recipe]) -> list[str]:
    return [recipe.level for recipe in tried if isinstance(recipe, Suite)]


def _checks(signed: Report) -> list[str]:
    return [finding.check for finding in signed.verdict.findings]


def _members(remedy: Remedy, model: Model, threat: Threat) -> list[Member]:
    """The members that a remedy runs: the members of its suite, or its attack alone."""
    if isinstance(remedy.recipe, Suite):
        level = remedy.recipe.level
        return [
            member._replace(
                name=f"{level} {member.name}",
                after=None if member.after is None else f"{level} {member.after}",
            )
            for member in plan(level, model, threat)
        ]
    return [Member(_named(remedy), remedy.recipe)]


def _named(remedy: Remedy) -> str:
    spec = describe(remedy.recipe, PARTS)
    simple = {option: value for option, value in spec.items() if isinstance(value, (int, float, str))}
    name = str(simple.pop("name"))
    return f"{name}({', '.join(f'{option}={value}' for option, value in simple.items())})" if simple else name

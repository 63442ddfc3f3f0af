"""Cells: the smallest units of a study that are computed and stored, each with an address of its own.

A `train` cell trains a model, and every other cell measures one. A `clean` cell measures the accuracy on
clean images, and an `inspect` cell holds the diagnostics that the audit reads, such as leaking state and
vanishing gradients. A `probe` cell measures the accuracy on clean images whose spike trains are changed by a
timing probe, and a `corrupt` cell the accuracy on images that a natural corruption has changed. An `attack`
cell measures the accuracy under one attack with one budget, a `distance` cell the distances to the nearest
adversarial images, a `certify` cell the certified accuracy within one budget, and an `analyse` cell compares
the spikes for clean images with those for attacked ones.

The spec of a cell holds everything that can change its numbers, and the address of the cell is the digest of
its kind and its spec. Batch size, device, number of workers and machine are not part of the spec. A suite is
named by its level, and its members change from version to version, so the spec of its cell also holds a
digest of the members, `plan`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from typing import Any

import torch

from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.others import Saved, fingerprint, read_saved
from spikeproof.datasets import Dataset, DatasetSpec
from spikeproof.errors import InputError, located, suggest
from spikeproof.evaluation.suites import Member, Suite, plan
from spikeproof.evaluation.through import validated
from spikeproof.evaluation.verdicts import CHOOSING
from spikeproof.experiments.study.applicable import analysable, is_defined, knows, others, suits
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.owned import TAKEN, Owned, is_owned
from spikeproof.experiments.study.records import CellRecord, CellSpec, Plain, SavedSource
from spikeproof.experiments.study.rehearsal import rehearse
from spikeproof.experiments.study.study import AXES, Candidate, Study, Sweep
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.specs import address, build, canonical, describe
from spikeproof.statistics import draws_wanted
from spikeproof.threats import check_budget

__all__ = [
    "MEASURING_VERSION",
    "TRAINING_VERSION",
    "Cell",
    "CellRecord",
    "CellSpec",
    "Plain",
    "SavedSource",
    "cells_of",
    "data_of",
    "is_nested",
    "plan_digest",
    "planned",
    "with_plan",
]

TRAINING_VERSION = 4
"""Raised whenever a change of the code alters the model that a train cell with the same spec makes."""

MEASURING_VERSION = 17
"""Raised whenever a change of the code alters what a cell of another kind with the same spec measures.

The members of a suite, with all their options, are part of the spec and may change without raising it.
"""

LEAST_DRAWS = 4
"""Fewest draws of a stochastic model, however many examples are measured."""


@dataclass(frozen=True)
class Cell:
    """One unit of work.

    Args:
        kind: what the cell computes.
        text: the canonical JSON of its spec.

    Example:
        >>> cell = Cell.of("clean", {"train": "ab12", "examples": 100, "draws": 1})
        >>> cell.spec["examples"], cell == Cell.of("clean", {"draws": 1, "examples": 100, "train": "ab12"})
        (100, True)
    """

    kind: CellKind
    text: str

    @classmethod
    def of(cls, kind: str, spec: Mapping[str, object]) -> Cell:
        """The cell with this spec.

        Raises:
            InputError: there is no such kind of cell.
        """
        if kind not in list(CellKind):
            raise InputError(
                "Expected a kind of cell", repr(kind), suggest(kind, [each.value for each in CellKind])
            )
        return cls(CellKind(kind), canonical(spec))

    @property
    def spec(self) -> CellSpec:
        """Everything that can change its numbers."""
        spec: CellSpec = json.loads(self.text)
        return spec

    @cached_property
    def address(self) -> str:
        """The name under which its result is stored: the `address` of its kind and spec.

        Example:
            >>> cell = Cell.of("inspect", {"train": "ab"})
            >>> cell.address == address({"kind": "inspect", "spec": cell.spec})
            True
        """
        text = f'{{"kind":{canonical(self.kind)},"spec":{self.text}}}'
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def needs(self) -> tuple[str, ...]:
        """The addresses of the cells that must be finished first; see `needed`."""
        return tuple(address for address, _ in needed(self.spec))

    def record(self) -> CellRecord:
        """The cell as plain data."""
        return {"kind": self.kind, "address": self.address, "spec": self.spec}


def needed(spec: CellSpec) -> list[tuple[str, str]]:
    """The cells that must be finished before this one: model, source of a transfer, smaller budget.

    Each address comes with the name of the metric that repeats the digest of the weights of that cell.

    Args:
        spec: of a cell.

    Example:
        >>> needed({"train": "ab12", "smaller": None, "examples": 100})
        [('ab12', 'weights')]
    """
    named = (
        (spec.get("train"), "weights"),
        (spec.get("source"), "source_weights"),
        (spec.get("smaller"), "weights"),
    )
    return [(address, weights) for address, weights in named if isinstance(address, str)]


def is_nested(spec: CellSpec) -> bool:
    """Whether a cell belongs to a nested sweep, at its smallest budget too, where `smaller` is null.

    Args:
        spec: of the cell.
    """
    return "smaller" in spec


def data_of(spec: Plain) -> DatasetSpec:
    """The data set that the spec of a train cell names, which has its digest beside its options.

    Args:
        spec: `dataset` of a train cell.

    Raises:
        InputError: this version does not know the data set or one of its options.
    """
    options = dict(spec)
    options.pop("sha256", None)
    source: DatasetSpec = build(DatasetSpec, options, PARTS)
    return source


def cells_of(study: Study, data: Dataset) -> list[Cell]:
    """Every cell of a study, ordered by model.

    Raises:
        InputError: the test part has fewer examples than the study measures, the validation part has fewer
            than an attack is chosen on, or a model does not fit the data.
    """
    examples = len(data.test.labels) if study.examples is None else study.examples
    if examples > len(data.test.labels):
        with located(study.lines.get("examples")):
            raise InputError(
                f"The test part of {data.name} has {len(data.test.labels)} images",
                f"examples={examples}",
                "Ask for fewer, or write examples: all.",
            )
    _check_data(study, data)
    return list(
        dict.fromkeys(cell for model in study.models for cell in _cells(study, data, model, examples))
    )


def _check_data(study: Study, data: Dataset) -> None:
    """Refuse models, rules, budgets and attacks that do not fit the data, before any training.

    Raises:
        InputError: with file and line.
    """
    for recipe in study.attacks:
        if (wanted := validated(recipe)) > len(data.validation.labels):
            with located(study.lines.get(recipe)):
                raise InputError(
                    f"An attack is chosen on {wanted} images of the validation part, never on those reported",
                    f"{data.name} with {len(data.validation.labels)}",
                    "Hold out as many, as {fashion-mnist: {hold_out: 5000}}, or choose on fewer (images).",
                )
    for model in study.models:
        if isinstance(model, Owned):
            with located(study.lines.get(model)):
                model.check(tuple(data.test.images.shape[1:]), len(data.classes))
            continue
        with located(study.lines.get(model)):
            built = _weightless(model_spec(study, data, model))
        with located(study.lines.get((model, "rule"))):
            model.rule.check_model(built)
    shape = tuple(data.test.images.shape[-3:])
    for threat in study.threats:
        with located(study.lines.get(threat)):
            check_budget(threat, shape)
            if moves_events(threat):  # a window, a region or a polarity may lie beyond the recordings
                threat.start(torch.zeros(1, *data.test.images.shape[1:]), Key.of(0))
    for corruption in study.fitting(data.test.images.shape[1:]):
        with located(study.lines.get(corruption)):
            corruption.check(data.test.images.shape[1:])
    for recipe, threat in product(study.attacks, {type(t): t for t in study.threats}.values()):
        with located(study.lines.get(recipe)):
            rehearse(recipe, threat, shape, len(data.classes))


@lru_cache(maxsize=256)
def _weightless(spec: ModelSpec) -> Classifier:
    """A model whose weights take no memory.

    Raises:
        InputError: its network does not fit the images.
    """
    try:
        with torch.device("meta"):
            return spec.build(Key.of(0))
    except RuntimeError as error:
        raise InputError(
            f"The network {describe(spec.network, PARTS)['name']} does not fit images of this size",
            f"{list(spec.input_shape)} ({str(error).splitlines()[0][:120]})",
            "Use a smaller network, or larger images.",
        ) from error


def _cells(study: Study, data: Dataset, model: Candidate | Owned, examples: int) -> Iterator[Cell]:
    stochastic = model.stochastic if isinstance(model, Owned) else model.encoder.stochastic
    draws = max(LEAST_DRAWS, draws_wanted(examples)) if study.draws is None else study.draws
    for seed in study.seeds:
        train = _train(study, data, model, seed)
        measured: CellSpec = {
            "train": train.address,
            "examples": examples,
            "draws": draws if stochastic else 1,
            "code_version": MEASURING_VERSION,
        }
        if examples < len(data.test.labels):
            measured["sample"] = describe(study.sample, PARTS)
        if stochastic:
            measured["choosing"] = max(draws, CHOOSING)
        if isinstance(model, Candidate):
            measured |= _normalised(model_spec(study, data, model))
        yield train
        yield Cell.of(CellKind.CLEAN, measured)
        if study.attacks:
            yield Cell.of(CellKind.INSPECT, measured)
        timed = isinstance(model, Candidate) and model.encoder.steps > 1
        for probe in study.probes if timed else ():
            under: CellSpec = {
                "draws": draws if stochastic or probe.random else 1,
                "probe": describe(probe, PARTS),
            }
            yield Cell.of(CellKind.PROBE, {**measured, **under})
        for corruption, severity in product(study.fitting(data.test.images.shape[1:]), study.severities):
            changed: CellSpec = {"corruption": describe(corruption, PARTS), "severity": severity}
            yield Cell.of(CellKind.CORRUPT, {**measured, **changed})
        for norm, search in product(study.norms, study.distances):
            if suits(model, search) and is_defined(model, search) and knows(search, norm):
                ball = describe(norm, PARTS)
                ball.pop("epsilon")
                far: CellSpec = {"attack": describe(search, PARTS), "threat": ball, "seed": seed}
                yield Cell.of(CellKind.DISTANCE, {**measured, **far})
        own = model.model if isinstance(model, Owned) else model_spec(study, data, model)
        last: dict[str, Cell] = {}
        for threat in study.threats:
            ball = describe(threat, PARTS)
            epsilon = ball.pop("epsilon")
            for recipe in study.attacks:
                if not (suits(model, recipe) and is_defined(model, recipe)):
                    continue
                attack: CellSpec = {
                    "attack": describe(recipe, PARTS),
                    "threat": ball,
                    "epsilon": epsilon,
                    "seed": seed,
                }
                attack = with_plan(attack, own)
                if isinstance(recipe, Transfer):
                    attack["attack"] = {**attack["attack"], "made_on": None}
                    for source in _sources(study, data, model, seed, recipe):
                        yield _attack({**measured, **attack, "source": source}, study, recipe, last)
                else:
                    yield _attack({**measured, **attack}, study, recipe, last)
            for certificate in study.certificates:
                proof: CellSpec = {
                    "certificate": describe(certificate, PARTS),
                    "threat": ball,
                    "epsilon": epsilon,
                    "seed": seed,
                }
                yield Cell.of(CellKind.CERTIFY, {**measured, **proof})
            for analysis in study.analyses:
                if not (isinstance(model, Candidate) and analysable(model, analysis)):
                    continue
                asked: CellSpec = {
                    "analysis": describe(analysis, PARTS),
                    "threat": ball,
                    "epsilon": epsilon,
                    "seed": seed,
                }
                yield Cell.of(CellKind.ANALYSE, {**measured, **asked})


def _attack(spec: CellSpec, study: Study, recipe: Recipe, last: dict[str, Cell]) -> Cell:
    """An attack cell; in a nested sweep it names the cell of the next smaller budget, if there is one.

    Two transfers may name the same model; within one budget they then share one cell.
    """
    if study.sweep is Sweep.AFRESH or isinstance(recipe, Suite):  # a suite attacks every budget afresh
        return Cell.of(CellKind.ATTACK, spec)
    same = dict(spec)
    epsilon = same.pop("epsilon")
    curve = canonical(same)
    before = last.get(curve)
    if before is None or before.spec["epsilon"] != epsilon:
        smaller = before.address if before else None
        last[curve] = Cell.of(CellKind.ATTACK, {**spec, "smaller": smaller})
    return last[curve]


def plan_digest(members: Sequence[Member]) -> str:
    """The digest of the members of a suite: names, attacks with all their options, order and conditions.

    Example:
        >>> from spikeproof.attacks.gradient.plain import PGD
        >>> plans = [[Member("pgd", PGD(steps=steps))] for steps in (10, 10, 20)]
        >>> first, same, other = map(plan_digest, plans)
        >>> first == same, first == other
        (True, False)
    """
    return _digest(tuple(members))


@lru_cache(maxsize=256)
def _digest(members: tuple[Member, ...]) -> str:
    few = ((m.few,) if m.few else () for m in members)  # only where it is told, so that other addresses stay
    return address(
        [(m.name, describe(m.recipe, PARTS), m.after, m.share, *n) for m, n in zip(members, few, strict=True)]
    )


def with_plan(spec: CellSpec, model: Model | ModelSpec) -> CellSpec:
    """The spec of a cell; for a suite, with the digest of the members that this version plans for the model.

    Args:
        spec: of a cell.
        model: what is measured.

    Raises:
        InputError: there is no suite for this model and threat.
    """
    if not _is_suite(spec):
        return spec
    threat: Threat = build(Threat, {**spec["threat"], "epsilon": spec["epsilon"]}, PARTS)
    recipe: Suite = build(Recipe, spec["attack"], PARTS)
    return {**spec, "plan": plan_digest(plan(recipe.level, model, threat))}


def planned(spec: CellSpec, model: Plain) -> bool:
    """Whether a stored suite cell has the members that this version plans; true of every other cell.

    Args:
        spec: of the cell.
        model: the spec of its model, as plain data.
    """
    if not _is_suite(spec):
        return True
    if is_owned(model):  # only its program says what it is, and it is not run here; whoever runs it compares
        return True
    try:
        return with_plan(spec, build(ModelSpec, model, PARTS)) == spec
    except InputError:  # it has parts that this version does not know
        return False


def _is_suite(spec: CellSpec) -> bool:
    return PARTS[Recipe].get(spec.get("attack", {}).get("name", "")) is Suite


def _train(study: Study, data: Dataset, model: Candidate | Owned, seed: int) -> Cell:
    more: CellSpec = {}
    if isinstance(model, Owned):
        spec, rule = model.spec(len(data.classes)), TAKEN
    else:
        own = model_spec(study, data, model)
        spec, rule, more = describe(own, PARTS), describe(model.rule, PARTS), _normalised(own)
    return Cell.of(
        CellKind.TRAIN,
        {
            "dataset": {**_asked(describe(study.data, PARTS)), "sha256": data.sha256},
            "model": spec,
            "rule": rule,
            "seed": seed,
            "code_version": TRAINING_VERSION,
            **more,
        },
    )


def _normalised(spec: ModelSpec) -> CellSpec:
    """What tells cells of models that normalise a current once for all steps from those of older versions.

    Their logits are the same, and the last digits of their gradients are not.
    """
    return {"normalised": "once"} if spec.normalise is not None and not spec.encoder.spiking else {}


_LATER = ("subset", "blank")
"""Options of data sets that cells without them were stored before."""


def _asked(source: dict[str, Any]) -> dict[str, Any]:
    """The data set of a train cell, without newer options that the study does not set.

    So the address of a cell that was stored before an option existed stays the same.
    """
    kept = {name: value for name, value in source.items() if name not in _LATER or value is not None}
    return {name: _asked(value) if isinstance(value, dict) else value for name, value in kept.items()}


def _sources(
    study: Study, data: Dataset, model: Candidate | Owned, seed: int, recipe: Transfer
) -> Iterator[str | SavedSource]:
    """The models that the images of a transfer are made on: addresses of train cells, or a saved model."""
    if isinstance(recipe.made_on, Saved):
        other = read_saved(recipe.made_on)
        shape, classes = tuple(data.test.images.shape[1:]), len(data.classes)
        if (other.spec.example_shape, other.spec.classes) != (shape, classes):
            raise InputError(
                f"Images of {list(shape)} in {classes} classes are made on a model of these",
                f"{recipe.made_on.path}, a model of {list(other.spec.example_shape)} in {other.spec.classes}",
                "Name a model of the same data.",
            )
        yield {"saved": recipe.made_on.path, "sha256": fingerprint(other)}
        return
    for other_model, other_seed in others(study, model, seed, recipe):
        yield _train(study, data, other_model, other_seed).address


def model_spec(study: Study, data: Dataset, model: Candidate) -> ModelSpec:
    """A candidate with the sizes of the data."""
    channels, height, width = data.test.images.shape[-3:]
    parts = {axis: getattr(model, axis) for axis in AXES if axis != "rule"}
    spec = ModelSpec(
        **parts,
        input_shape=(channels, height, width),
        classes=len(data.classes),
        normalise=model.normalise or study.normalise,
    )
    found = tuple(data.test.images.shape[1:])
    if spec.example_shape != found:
        raise InputError(
            f"The encoder {describe(model.encoder, PARTS)} takes examples of {list(spec.example_shape)}",
            f"{data.name} with examples of {list(found)}",
            f"Use the encoder events with steps: {found[0]}."
            if len(found) == 4
            else "Use a code for images; events is for data that are spikes already.",
        )
    return spec

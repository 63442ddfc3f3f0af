"""A study: which data, models, attacks, budgets and seeds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from spikeproof.analysis.spike_analysis import Analysis
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.others import Saved, read_saved
from spikeproof.corruptions import (
    SEVERITIES,
    Corruption,
)
from spikeproof.datasets import ClassProportional, DatasetSpec, Sample
from spikeproof.errors import InputError
from spikeproof.evaluation.certificates import Certificate
from spikeproof.experiments.study.owned import Owned
from spikeproof.learning.checkpoints import AsSaved
from spikeproof.learning.rule import Rule
from spikeproof.networks.architecture import Architecture
from spikeproof.networks.classifier import Normalise
from spikeproof.neurons import Neuron
from spikeproof.probes import Probe
from spikeproof.protocols import Decoder, Encoder, Threat
from spikeproof.specs import describe
from spikeproof.surrogates import Surrogate
from spikeproof.tensorfiles import read as read_bytes

__all__ = ["AXES", "Candidate", "Study", "Sweep", "saved_candidate"]


AXES: Mapping[str, tuple[type, str | None]] = {
    "encoder": (Encoder, None),
    "network": (Architecture, "mlp"),
    "neuron": (Neuron, "lif"),
    "surrogate": (Surrogate, "arctangent"),
    "decoder": (Decoder, "count"),
    "rule": (Rule, "bptt"),
}
"""Axis of a block of models -> kind and default."""


class Sweep(StrEnum):
    """Where the attacks of a larger budget begin."""

    AFRESH = "afresh"
    """Every budget is attacked on its own."""
    NESTED = "nested"
    """Attacks begin with what they found within the smaller budget."""


@dataclass(frozen=True)
class Candidate:
    """One model of a study before the data gave it its input and output sizes."""

    encoder: Encoder
    network: Architecture
    neuron: Neuron
    surrogate: Surrogate
    decoder: Decoder
    rule: Rule
    normalise: Normalise | None = None  # of a saved model; that of the study otherwise


@dataclass(frozen=True)
class Study:
    """What is to be measured.

    Args:
        name: of the study; also of its default output directory.
        data: where images come from.
        models: the models, in order and without repetition.
        attacks: the recipes; none for clean accuracy only.
        threats: every threat with each of its budgets.
        seeds: each model is trained once per seed.
        examples: how many of the test part, or None for all.
        sample: which of the test part, where not all; the same for every model.
        draws: draws per example for stochastic models and random probes, at least 1; None for the smallest
            number that limits the random error of an accuracy to ±2 points, at least 4.
        normalise: input normalisation inside every model, or None.
        batch_size: images per evaluation batch; changes no result.
        probes: timing probes, which change the spike trains between encoder and network; they need no threat.
        corruptions: natural corruptions, measured on every model; they need no threat.
        severities: of the corruptions, from 1 to 5.
        baseline: the model by whose errors mean corruption errors are divided, or None.
        certificates: lower bounds of robust accuracy, tried at every budget on every model.
        distances: searches for the nearest adversarial image, in the norm of every threat that they support.
        analyses: what is found out about every model at every budget beside its accuracy.
        norms: every threat once, without its budgets; `distances` are measured in these norms.
        sweep: `afresh`, or `nested` where attacks begin with what they found within the smaller budget.
        grouped: those corruptions that a word for all of a kind stands for; any of them that is not defined
            on the data is left out.
        lines: the lines of the file that name attacks, threats, models and `examples`, for messages.
        files: the files that it was read from -> the SHA-256 of their content.
    """

    name: str
    data: DatasetSpec
    models: tuple[Candidate | Owned, ...]
    attacks: tuple[Recipe, ...]
    threats: tuple[Threat, ...]
    seeds: tuple[int, ...] = (0,)
    examples: int | None = None
    sample: Sample = ClassProportional()
    draws: int | None = None
    normalise: Normalise | None = None
    batch_size: int = 128
    probes: tuple[Probe, ...] = ()
    corruptions: tuple[Corruption, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    baseline: Candidate | None = None
    certificates: tuple[Certificate, ...] = ()
    distances: tuple[Recipe, ...] = ()
    norms: tuple[Threat, ...] = ()
    analyses: tuple[Analysis, ...] = ()
    sweep: Sweep = Sweep.AFRESH
    grouped: frozenset[Corruption] = field(default=frozenset(), compare=False, repr=False)
    lines: Mapping[object, str] = field(default_factory=dict, compare=False, repr=False)
    files: Mapping[Path, str] = field(default_factory=dict, compare=False, repr=False)

    def fitting(self, shape: Sequence[int]) -> tuple[Corruption, ...]:
        """The corruptions without those of a group that are not defined on examples of this shape.

        A group of which no corruption is defined there stays, so that the reason can be said.

        Args:
            shape: of one example.
        """
        fits = {each: _fits(each, shape) for each in self.corruptions}
        some = any(fits[each] for each in self.grouped)
        return tuple(each for each in self.corruptions if fits[each] or not (some and each in self.grouped))

    def spec(self) -> dict[str, object]:
        """The study as plain data."""
        return {
            "name": self.name,
            "data": describe(self.data, PARTS),
            "models": [_axes(model) for model in self.models],
            "attacks": [describe(attack, PARTS) for attack in self.attacks],
            "probes": [describe(probe, PARTS) for probe in self.probes],
            "corruptions": [describe(corruption, PARTS) for corruption in self.corruptions],
            "severities": list(self.severities),
            "baseline": None if self.baseline is None else _axes(self.baseline),
            "certificates": [describe(certificate, PARTS) for certificate in self.certificates],
            "threats": [describe(threat, PARTS) for threat in self.threats],
            "distances": [describe(search, PARTS) for search in self.distances],
            "analyses": [describe(analysis, PARTS) for analysis in self.analyses],
            "sweep": self.sweep,
            "seeds": list(self.seeds),
            "examples": self.examples,
            "sample": describe(self.sample, PARTS),
            "draws": self.draws,
            "normalise": describe(self.normalise, PARTS) if self.normalise else None,
            "batch_size": self.batch_size,
        }


def _axes(model: Candidate | Owned) -> dict[str, object]:
    if isinstance(model, Owned):
        return {"given": {"make": model.given.make, "weights": model.given.weights, **dict(model.digests)}}
    parts: dict[str, object] = {axis: describe(getattr(model, axis), PARTS) for axis in AXES}
    return parts if model.normalise is None else {**parts, "normalise": describe(model.normalise, PARTS)}


def saved_candidate(chosen: Saved) -> Candidate:
    """The parts of a saved model, with its weights in the place of a learning rule.

    Raises:
        InputError: there is no saved model.
        DamagedError: its weights are not those that were saved.
    """
    spec, found = read_saved(chosen).spec, AsSaved(path=chosen.path, sha256="")
    rule = replace(found, sha256=hashlib.sha256(read_bytes(found.weights)).hexdigest())
    parts = {axis: getattr(spec, axis) for axis in AXES if axis != "rule"}
    return Candidate(**parts, rule=rule, normalise=spec.normalise)


def _fits(corruption: Corruption, shape: Sequence[int]) -> bool:
    try:
        corruption.check(shape)
    except InputError:
        return False
    return True

"""A study: which data, models, attacks, budgets and seeds, read from a YAML file.

    name: example
    data: digits
    models:
      - encoder: [direct, {latency: {steps: 8}}]     # every combination of the members of a block
        neuron: lif
        network: {mlp: {hidden: [100]}}
        decoder: [count, first-spike]
        rule: {bptt: {epochs: 5}}
    certificates: [ibp]                               # what can be proved, beside what attacks leave
    analyses: [spikes]                                # what an attack does to the spikes of each layer
    probes: [shuffle, {jitter: {steps: 1}}]           # how much of the accuracy lives in timing?
    corruptions: [gaussian-noise, fog]                # what is left without an attacker?
    attacks: [fgsm, {pgd: {steps: 20}}, {square: {queries: 100}}]
    epsilons: [8/255, 0.1]
    examples: 200

Every error message names the file and the line.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from spikeproof.analysis.spike_analysis import Analysis, SpikeAnalysis
from spikeproof.attacks.made_of.composite import Composite, RateTwin, members_of
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import check_threat
from spikeproof.catalogue.given import Given
from spikeproof.catalogue.names import PARTS, studies
from spikeproof.catalogue.others import AmongModels, EveryOtherModel, Saved, read_saved
from spikeproof.corruptions import (
    SEVERITIES,
    Corruption,
    EventCorruption,
    ImageCorruption,
    check_severity,
)
from spikeproof.datasets import ClassProportional, DatasetSpec, Sample
from spikeproof.encoders import Direct
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.certificates import Certificate
from spikeproof.evaluation.distances import check_search
from spikeproof.evaluation.suites import Suite
from spikeproof.evaluation.through import check_rates
from spikeproof.experiments.study.documents import Document, KeyPath, Written, read
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.settings import assign
from spikeproof.learning.checkpoints import AsSaved
from spikeproof.learning.rule import Rule
from spikeproof.networks.architecture import Architecture
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.recurrent import is_recurrent
from spikeproof.neurons import Neuron
from spikeproof.probes import Probe
from spikeproof.protocols import Decoder, Encoder, Model, Threat, takes_events
from spikeproof.specs import build, describe
from spikeproof.surrogates import Surrogate
from spikeproof.tensorfiles import read as read_bytes
from spikeproof.threats import check_budget, parse_epsilon

__all__ = ["Candidate", "Study", "Sweep", "load", "study_of"]

Item = TypeVar("Item")


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
        lines: the lines of the file that name attacks, threats, models and `examples`, for messages.
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
    lines: Mapping[object, str] = field(default_factory=dict, compare=False, repr=False)

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


MOST_STEPS = 1_000_000
"""Most time steps of an encoder in a study."""

MOST_CELLS = 100_000
"""Most cells of a study unless `--limit` allows more."""


def load(study: str, settings: Iterable[str] = (), limit: int = MOST_CELLS) -> Study:
    """The built-in study of this name, or the study in the file of this name.

    Args:
        study: a name or a path.
        settings: changes such as `examples=100`.
        limit: most cells that the study may have.

    Raises:
        InputError: there is no such study, or a value in it is invalid.

    Example:
        >>> load("quickstart", ["examples=20"]).examples
        20
    """
    known = studies()
    path = Path(study)
    if study not in known and not path.exists():
        try_ = "Check the path." if path.suffix or len(path.parts) > 1 else suggest(study, known)
        raise InputError("Expected a study file or the name of a built-in study", repr(study), try_)
    document = read(known.get(study, path))
    for setting in settings:
        assign(document, setting)
    return study_of(document, limit)


AXES: Mapping[str, tuple[type, str | None]] = {
    "encoder": (Encoder, None),
    "network": (Architecture, "mlp"),
    "neuron": (Neuron, "lif"),
    "surrogate": (Surrogate, "arctangent"),
    "decoder": (Decoder, "count"),
    "rule": (Rule, "bptt"),
}
"""Axis of a block of models -> kind and default."""

KEYS = (
    "name",
    "data",
    "models",
    "probes",
    "corruptions",
    "severities",
    "baseline",
    "attacks",
    "suite",
    "certificates",
    "distances",
    "analyses",
    "threat",
    "epsilons",
    "sweep",
    "seeds",
    "examples",
    "sample",
    "draws",
    "normalise",
    "batch_size",
)


GROUPS: Mapping[str, type[Corruption]] = {"images": ImageCorruption, "events": EventCorruption}
"""Word in the place of a corruption -> every corruption of this class, with its customary levels."""


GRID = "transfer-grid"
"""In the list of attacks: one attack on every model, and its images judged on every other model."""


def study_of(document: Document, limit: int = MOST_CELLS) -> Study:
    """The study that a document describes.

    Args:
        document: of the study.
        limit: most cells that the study may have.

    Raises:
        InputError: a value of the document is invalid; the message names file and line.
    """
    return _Reader(document, limit).study()


@dataclass(frozen=True)
class _Reader:
    document: Document
    limit: int

    def study(self) -> Study:
        data = self.document.data
        self.keys((), data, KEYS, required=("name", "data", "models"))
        attacks = [self.part(Recipe, path, item) for path, item in self.attacks()]
        analyses = [self.part(Analysis, path, item) for path, item in self.listed("analyses", [])]
        threats = self.threats() if attacks or analyses or self.listed("certificates", []) else ()
        paths = self.models()
        models = list(paths)
        asked = [each.model if isinstance(each, Owned) else each for each in models]
        searches, norms = self.distances(models)
        for model, threat in product(asked, (*threats, *norms)):
            self.located(("threat",), lambda model=model, threat=threat: check_threat(model, threat))  # type: ignore[misc]
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            self.check_attack(path, attack, models)
            for threat in threats:
                self.located(path, lambda attack=attack, threat=threat: attack(threat))  # type: ignore[misc]
        for (path, _), analysis in zip(self.listed("analyses", []), analyses, strict=True):
            self.check_analysis(path, analysis, models, threats)
        self.check_transfers(attacks, models, len(threats))
        corruptions = self.corruptions()
        return Study(
            name=self.name(),
            data=self.part(DatasetSpec, ("data",), data["data"]),
            models=tuple(dict.fromkeys(models)),
            attacks=tuple(dict.fromkeys(attacks)),
            threats=threats,
            seeds=self.seeds(),
            examples=self.whole_or("examples", "all"),
            sample=self.part(Sample, ("sample",), data.get("sample", "class-proportional")),
            draws=self.whole_or("draws", "auto"),
            normalise=self.normalise(),
            batch_size=self.whole_of("batch_size", 128),
            probes=tuple(dict.fromkeys(self.part(Probe, p, item) for p, item in self.listed("probes", []))),
            corruptions=tuple(each for each in corruptions if isinstance(each, Corruption)),
            severities=self.severities(),
            baseline=self.baseline(models),
            certificates=tuple(
                dict.fromkeys(self.part(Certificate, p, item) for p, item in self.listed("certificates", []))
            ),
            distances=searches,
            norms=norms,
            analyses=tuple(dict.fromkeys(analyses)),
            sweep=self.sweep(),
            lines={
                **self.lines(attacks, threats),
                **corruptions,
                **{model: self.document.where(axes["network"]) for model, axes in paths.items()},
                **{(model, "rule"): self.document.where(axes["rule"]) for model, axes in paths.items()},
                "examples": self.document.where(("examples",)),
            },
        )

    def lines(self, attacks: Sequence[Recipe], threats: Sequence[Threat]) -> dict[object, str]:
        """Attacks and budgets -> the lines of the file that name them."""
        found: dict[object, str] = {}
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            found[attack] = self.document.where(path)
        for path, item in self.listed("epsilons", []):
            size = parse_epsilon(item)
            found |= {threat: self.document.where(path) for threat in threats if threat.epsilon == size}
        return found

    def corruptions(self) -> dict[object, str]:
        """The corruptions, each with the line that names it; a word may stand for a group of them."""
        found: dict[object, str] = {}
        for path, item in self.listed("corruptions", []):
            group = GROUPS.get(item) if isinstance(item, str) else None
            if group is None:
                members = [self.part(Corruption, path, item)]
            else:
                names = (name for name, each in PARTS[Corruption].items() if issubclass(each, group))
                members = [self.part(Corruption, path, name) for name in names]
            found |= {member: self.document.where(path) for member in members if member not in found}
        return found

    def severities(self) -> tuple[int, ...]:
        """The severities in rising order."""
        found = set()
        for path, item in self.listed("severities", list(SEVERITIES)):
            self.located(path, lambda item=item: check_severity(item))  # type: ignore[misc]
            found.add(item)
        if not found:
            raise self.error(("severities",), "at least one severity", "none", "Leave it out for all five.")
        return tuple(sorted(found))

    def baseline(self, models: Sequence[Candidate | Owned]) -> Candidate | None:
        """The one model that has the parts of the key `baseline`, by which corruption errors are divided."""
        value = self.document.data.get("baseline")
        if value is None:
            return None
        self.keys(("baseline",), value, AXES, required=list(value) if isinstance(value, Mapping) else AXES)
        parts = {axis: self.part(AXES[axis][0], ("baseline", axis), item) for axis, item in value.items()}
        found = [
            model
            for model in dict.fromkeys(models)
            if isinstance(model, Candidate)
            and all(getattr(model, axis) == part for axis, part in parts.items())
        ]
        if len(found) != 1:
            raise self.error(
                ("baseline",),
                "parts that one model of the study has, such as neuron: relu",
                f"parts of {len(found)} models",
                "Name more parts, or the parts as the block of models has them.",
            )
        return found[0]

    def attacks(self) -> list[tuple[KeyPath, Written]]:
        """The attacks; `suite: standard` is short for the attack `{suite: {level: standard}}`."""
        suites = [(path, {"name": "suite", "level": level}) for path, level in self.listed("suite", [])]
        named = [each for path, item in self.listed("attacks", []) for each in self.spread(path, item)]
        return [*named, *suites]

    def spread(self, path: KeyPath, item: Written) -> list[tuple[KeyPath, Written]]:
        """The attacks that one item stands for: a grid is its attack on each model and on all others."""
        written = {"name": item} if isinstance(item, str) else item
        if not isinstance(written, Mapping):
            return [(path, item)]
        if written.get("name") == GRID:
            options: Written = {key: value for key, value in written.items() if key != "name"}
        elif GRID in written:
            options = written[GRID]
        else:
            return [(path, item)]
        if options is None:
            options = {}
        self.keys((*path, GRID), options, ("attack",), required=() if options == {} else ("attack",))
        attack = options.get("attack", "pgd")
        return [(path, attack), (path, {"transfer": {"attack": attack}})]

    def distances(self, models: Sequence[Candidate | Owned]) -> tuple[tuple[Recipe, ...], tuple[Threat, ...]]:
        """Searches for the nearest image, and the norms that they are asked for."""
        items = self.listed("distances", [])
        norms = self.sized([1.0]) if items else ()
        searches = []
        for path, item in items:
            search = self.part(Recipe, path, item)
            self.check_attack(path, search, models)
            if not any(knows(search, norm) for norm in norms):
                self.located(path, lambda search=search: check_search(search, norms[0]))  # type: ignore[misc]
            searches.append(search)
        return tuple(dict.fromkeys(searches)), norms

    def sweep(self) -> Sweep:
        value = self.document.data.get("sweep", Sweep.AFRESH)
        if not isinstance(value, str) or value not in list(Sweep):
            raise self.error(("sweep",), " or ".join(Sweep), repr(value), "Leave it out for afresh.")
        return Sweep(value)

    def name(self) -> str:
        name = self.document.data["name"]
        if not (
            isinstance(name, str) and name.replace("-", "").replace("_", "").isalnum() and len(name) <= 64
        ):
            raise self.error(
                ("name",), "a name of letters, digits, - and _", repr(name), "Try name: my-study."
            )
        return name

    def models(self) -> dict[Candidate | Owned, Mapping[str, KeyPath]]:
        """The models, each with the paths of its parts."""
        found: dict[Candidate | Owned, Mapping[str, KeyPath]] = {}
        for path, block in self.listed("models", []):
            if isinstance(block, Mapping) and "model" in block:
                self.keys(path, block, ("model",), required=("model",))
                for where, item in self.items((*path, "model"), block["model"]):
                    found.setdefault(self.given(where, item), {"network": where, "rule": where})
                continue
            self.keys(path, block, AXES, required=("encoder",))
            axes = [self.axis(path, block, name) for name in AXES]
            self.check_size(path, len(found) + math.prod(map(len, axes)))
            for combination in product(*axes):
                paths = [where for where, _ in combination]
                model, by_axis = Candidate(*(p for _, p in combination)), dict(zip(AXES, paths, strict=True))
                self.check(model, by_axis)
                found.setdefault(model, by_axis)
        if not found:
            raise self.error(
                ("models",), "at least one model", "none", "Write, for example, - encoder: latency."
            )
        return found

    def given(self, path: KeyPath, item: Written) -> Candidate | Owned:
        """A model that is not trained: saved, or made by a program."""
        if isinstance(item, Mapping):
            self.keys(path, item, ("foreign", "saved"), required=())
        if not isinstance(item, Mapping) or len(item) != 1:
            raise self.error(
                path,
                "one given model",
                f"{item!r:.200}",
                "Write {saved: {path: DIR}} or {foreign: {make: FILE.py:FUNCTION}}.",
            )
        ((name, options),) = item.items()
        where = (*path, name)
        kind = {"saved": Saved, "foreign": Given}[name]
        chosen = build(kind, options, PARTS, lambda below: self.document.where((*where, *below)))
        if isinstance(chosen, Given):
            found = self.located(where, lambda: Owned.of(chosen))
            self.located(where, lambda: found.model)
            return found
        return self.located(where, lambda: saved_candidate(chosen))

    def check_size(self, path: KeyPath, models: int) -> None:
        """Refuse a product of lists with more cells than a study may have, before anything is made of it."""
        tried = ("certificates", "analyses")
        count = {name: len(self.listed(name, [])) for name in (*tried, "probes")}
        per_budget = len(self.attacks()) + sum(count[name] for name in tried)
        threats = len(self.listed("threat", ["linf"]))
        budgets = threats * len(self.listed("epsilons", []))
        searches = threats * len(self.listed("distances", []))
        named = [item for _, item in self.listed("corruptions", [])]
        groups = sum(isinstance(item, str) and item in GROUPS for item in named)
        corruptions = len(named) + groups * len(PARTS[Corruption])
        corrupted = corruptions * len(self.listed("severities", list(SEVERITIES)))
        each = 2 + (per_budget > 0) + count["probes"] + corrupted + searches + budgets * per_budget
        cells = models * len(self.listed("seeds", [0])) * each
        if cells > self.limit:
            raise self.error(
                path,
                f"a study of at most {self.limit} cells",
                f"{models} models and {cells} cells",
                "Shorten a list, or allow more with --limit.",
            )

    def check_transfers(
        self, attacks: Sequence[Recipe], models: Sequence[Candidate | Owned], budgets: int
    ) -> None:
        """Refuse transfers between more pairs of models than a study may have cells."""
        cells, models, seeds = 0, list(dict.fromkeys(models)), len(self.listed("seeds", [0]))
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            if not isinstance(attack, Transfer):
                continue
            choice, pairs = attack.made_on or EveryOtherModel(), len(models)
            if isinstance(choice, AmongModels) and choice.other_seeds:
                pairs = len(models) * (seeds - 1)
            elif isinstance(choice, AmongModels):
                trained = [model for model in models if isinstance(model, Candidate)]
                pairs = (len(models) - 1) * sum(map(choice.takes, trained))
            cells += pairs * seeds * budgets
            if cells > self.limit:
                raise self.error(
                    path,
                    f"a study of at most {self.limit} cells",
                    f"{cells} cells of transfers between {len(models)} models",
                    "Name the models that images are made on (made_on), or allow more with --limit.",
                )

    def axis(self, path: KeyPath, block: Mapping[str, Written], name: str) -> list[tuple[KeyPath, Any]]:
        kind, default = AXES[name]
        items = self.items((*path, name), block.get(name, default))
        if not items:
            raise self.error((*path, name), f"at least one {name}", "none", "Name one, or leave out the key.")
        return [(where, self.part(kind, where, item)) for where, item in items]

    def check(self, model: Candidate, paths: Mapping[str, KeyPath]) -> None:
        if model.encoder.steps > MOST_STEPS:
            raise self.error(
                paths["encoder"], f"at most {MOST_STEPS} time steps", str(model.encoder.steps), "Try 8."
            )
        self.located(paths["network"], lambda: model.network.check(model.neuron))
        if not model.neuron.spiking:
            unit = describe(model.neuron, PARTS)["name"]
            if model.encoder != Direct(1) and not model.network.remembers:
                raise self.error(
                    paths["encoder"],
                    f"the encoder direct with steps: 1 for the neuron {unit}, which knows no time",
                    _short(model.encoder),
                    "Give the ANN a block of models of its own.",
                )
            if model.decoder.reads_spikes:
                raise self.error(
                    paths["decoder"],
                    f"the decoder mean-current for the neuron {unit}, which has no spikes to read",
                    _short(model.decoder),
                    "Give the ANN a block of models of its own.",
                )
        self.located(paths["rule"], lambda: model.rule.check(model.neuron))

    def check_attack(self, path: KeyPath, attack: Recipe, models: Sequence[Candidate | Owned]) -> None:
        """An attack is left out for models that it is not defined on, but not for all of them."""
        if isinstance(attack, Composite) and any(
            isinstance(member, Suite) for member in members_of([attack])
        ):
            raise InputError(
                "A suite is a worst case already", "one inside worst-of", "Name it beside worst-of."
            )
        if isinstance(attack, Composite) and any(
            isinstance(member, Transfer | StoredImages) for member in members_of([attack])
        ):
            raise self.error(
                path, "attacks on the model itself", "images made elsewhere", "Name them beside worst-of."
            )
        if isinstance(attack, Transfer):
            self.located(path, lambda: self.check_transfer(attack, models))
        refused = None
        for model in models:
            try:
                check_on(model, attack)
            except InputError as error:
                refused = refused or error
            else:
                return
        if refused is not None:
            raise InputError(f"{self.document.where(path)}: {refused.expected}", refused.got, refused.try_)

    def check_analysis(
        self,
        path: KeyPath,
        analysis: Analysis,
        models: Sequence[Candidate | Owned],
        threats: Sequence[Threat],
    ) -> None:
        """An analysis is left out for models that it is not defined on, but not for all of them."""
        if not any(isinstance(model, Candidate) and analysable(model, analysis) for model in models):
            raise self.error(
                path,
                "a feed-forward model of ours in steps of time, on which the attack is defined",
                "none",
                "Name another attack: {spikes: {attack: pgd}}, or leave the analysis out.",
            )
        if isinstance(analysis, SpikeAnalysis):
            if any(isinstance(member, Suite | Transfer) for member in members_of([analysis.attack])):
                raise self.error(path, "one attack on the model itself", "a suite or a transfer", "Try pgd.")
            for threat in threats:
                self.located(path, lambda threat=threat: analysis.attack(threat))  # type: ignore[misc]

    def check_transfer(self, attack: Transfer, models: Sequence[Candidate | Owned]) -> None:
        """There must be another model, and an attack that can be run on it alone."""
        if any(isinstance(member, Suite) for member in members_of([attack.attack])):
            raise InputError("Images are made by one attack", "a suite", "Try apgd-ce.")
        seeds = self.seeds()
        if not isinstance(attack.made_on, Saved) and not any(
            True for model in models for _ in _others(models, seeds, model, seeds[0], attack)
        ):
            raise InputError(
                "A transfer needs another model of the study on which its attack is defined",
                "none",
                "Add one, or name a saved model: made_on: {saved: {path: …}}.",
            )

    def threats(self) -> tuple[Threat, ...]:
        epsilons = []
        for path, item in self.listed("epsilons", []):
            if not isinstance(item, (str, int, float)) or _ENDLESS.search(str(item)):
                raise self.error(
                    path, "an epsilon such as 8/255 or 0.03", repr(item), "Write a list of numbers."
                )
            epsilons.append(self.located(path, lambda item=item: parse_epsilon(item)))  # type: ignore[misc]
        if not epsilons:
            raise self.error(
                ("epsilons",), "at least one epsilon for the attacks", "none", "Try [8/255, 0.1]."
            )
        threats = self.sized(sorted(set(epsilons)))
        for path, item in self.listed("epsilons", []):
            for threat in threats:
                if threat.epsilon == parse_epsilon(item):
                    self.located(path, lambda threat=threat: check_budget(threat))  # type: ignore[misc]
        return threats

    def sized(self, epsilons: Sequence[float]) -> tuple[Threat, ...]:
        """Every threat at each of these sizes."""
        threats = []
        for path, item in self.listed("threat", ["linf"]):
            name, options = item, dict[str, Written]()
            if isinstance(item, Mapping) and len(item) == 1:
                ((name, options),) = item.items()
            bare = isinstance(name, str) and isinstance(options, Mapping)
            if not bare or {"epsilon", "name"} & {*options}:
                raise self.error(
                    path,
                    "the name of a threat, with options other than epsilon",
                    repr(item),
                    "Write threat: linf.",
                )
            spec = [{"name": name, **options, "epsilon": epsilon} for epsilon in epsilons]
            threats += [self.part(Threat, path, each) for each in spec]
        if not threats:
            raise self.error(("threat",), "at least one threat", "none", "Write threat: linf.")
        return tuple(dict.fromkeys(threats))

    def normalise(self) -> Normalise | None:
        value = self.document.data.get("normalise")
        if value is None:
            return None
        self.keys(("normalise",), value, ("mean", "std"), required=("mean", "std"))
        numbers = {}
        for name in ("mean", "std"):
            items = self.items(("normalise", name), value[name])
            for path, item in items:
                if not isinstance(item, (int, float)) or isinstance(item, bool):
                    raise self.error(
                        path, "a number per channel", repr(item), "Write, for example, mean: [0.5]."
                    )
            numbers[name] = tuple(float(item) for _, item in items)
        return self.located(("normalise",), lambda: Normalise(numbers["mean"], numbers["std"]))

    def seeds(self) -> tuple[int, ...]:
        seeds = tuple(dict.fromkeys(self.whole(p, v, 0) for p, v in self.listed("seeds", [0])))
        if not seeds:
            raise self.error(("seeds",), "at least one seed", "none", "Leave it out for [0].")
        return seeds

    def whole_of(self, name: str, default: int) -> int:
        return self.whole((name,), self.document.data.get(name, default), 1)

    def whole_or(self, name: str, word: str) -> int | None:
        """A whole number of at least 1; None for the word, which is the default too."""
        value = self.document.data.get(name, word)
        return None if value == word else self.whole((name,), value, 1, f" or {word}")

    def whole(self, path: KeyPath, value: object, least: int, also: str = "") -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(
                path,
                f"a whole number of at least {least}{also}",
                repr(value),
                f"Write, for example, {least + 1}.",
            )
        return value

    def part(self, kind: type, path: KeyPath, item: Written) -> Any:
        """The part that an item stands for; its type is what the catalogue makes of that kind."""
        return build(kind, item, PARTS, lambda below: self.document.where((*path, *below)))

    def listed(self, name: str, default: list[Written]) -> list[tuple[KeyPath, Written]]:
        return self.items((name,), self.document.data.get(name, default))

    def items(self, path: KeyPath, value: Written) -> list[tuple[KeyPath, Written]]:
        """One thing or a list of things, each with its path."""
        if isinstance(value, list):
            return [((*path, i), item) for i, item in enumerate(value)]
        return [(path, value)]

    def keys(self, path: KeyPath, value: Written, known: Iterable[str], *, required: Iterable[str]) -> None:
        if not isinstance(value, Mapping):
            raise self.error(
                path, "keys and values", repr(value), f"Write, for example, {next(iter(required))}: …."
            )
        for key in value:
            if key not in known:
                raise self.error((*path, key), "a key that is known here", repr(key), suggest(key, known))
        for key in required:
            if value.get(key) is None:
                raise self.error((*path, key), f"the key {key!r}", "none", f"Add {key}: ….")

    def located(self, path: KeyPath, make: Callable[[], Item]) -> Item:
        """What `make` returns; the message of an error gets the line of `path`."""
        try:
            return make()
        except InputError as error:
            raise InputError(
                f"{self.document.where(path)}: {error.expected}", error.got, error.try_
            ) from error

    def error(self, path: KeyPath, expected: str, got: str, try_: str) -> InputError:
        return InputError(f"{self.document.where(path)}: expected {expected}", got, try_)


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


def check_on(model: Candidate | ModelSpec | Owned | Model, attack: Recipe) -> None:
    """Refuse a model that the attack, or one of its members, is not defined on."""
    asked = model.model if isinstance(model, Owned) else model
    attack.check(asked)
    for member in members_of([attack]):
        if isinstance(member, RateTwin) and member.suits(asked):
            if not isinstance(asked, (Candidate, ModelSpec)):
                raise InputError("The rate twin of a model of spikeproof", "a given model", "Leave it out.")
            check_rates(asked.network, asked.neuron)


def suits(model: Candidate | ModelSpec | Owned, attack: Recipe) -> bool:
    """Whether an attack has anything to do on a model."""
    return attack.suits(model.model if isinstance(model, Owned) else model)


def analysable(model: Candidate, analysis: Analysis) -> bool:
    """Whether an analysis has anything to say about a model.

    Args:
        model: of a study.
        analysis: that is asked for.
    """
    if not isinstance(analysis, SpikeAnalysis):
        return True
    counted = not (getattr(model.encoder, "timed", False) or is_recurrent(model.network, model.neuron))
    return counted and suits(model, analysis.attack) and _is_defined(model, analysis.attack)


def others(
    study: Study, model: Candidate | Owned, seed: int, recipe: Transfer
) -> list[tuple[Candidate, int]]:
    """The models, with their seeds, that the images of a transfer to this one are made on.

    Args:
        study: of which they are part.
        model: the judge.
        seed: of the judge.
        recipe: the transfer.
    """
    return list(_others(study.models, study.seeds, model, seed, recipe))


def _others(
    models: Sequence[Candidate | Owned],
    seeds: Sequence[int],
    model: Candidate | Owned,
    seed: int,
    recipe: Transfer,
) -> Iterator[tuple[Candidate, int]]:
    choice = recipe.made_on or EveryOtherModel()
    if not isinstance(choice, AmongModels):
        return
    trained = [each for each in dict.fromkeys(models) if isinstance(each, Candidate)]
    if choice.other_seeds:
        pairs = [(model, each) for each in seeds if each != seed] if isinstance(model, Candidate) else []
    else:
        pairs = [(each, seed) for each in trained if each != model and choice.takes(each)]
    for other, number in pairs:
        alike = isinstance(model, Owned) or takes_events(other.encoder) == takes_events(model.encoder)
        if alike and recipe.attack.suits(other) and _is_defined(other, recipe.attack):
            yield other, number


def knows(search: Recipe, norm: Threat) -> bool:
    """Whether a search for the nearest image looks in this norm."""
    try:
        check_search(search, norm)
    except InputError:
        return False
    return True


def _is_defined(model: Candidate, attack: Recipe) -> bool:
    try:
        check_on(model, attack)
    except InputError:
        return False
    return True


_ENDLESS = re.compile(r"[eE][-+]?\d{4}|.{64}")
"""A number that would take forever to write out."""


def _short(part: object) -> str:
    return str(describe(part, PARTS))

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

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from spikeproof.analysis.spike_analysis import Analysis
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import check_threat
from spikeproof.catalogue.names import PARTS, studies
from spikeproof.corruptions import (
    Corruption,
    check_severity,
)
from spikeproof.datasets import DatasetSpec, Sample
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.certificates import Certificate
from spikeproof.evaluation.distances import check_search
from spikeproof.experiments.study.applicable import knows
from spikeproof.experiments.study.documents import Document, Written, read
from spikeproof.experiments.study.files.attack_checks import AttackChecks
from spikeproof.experiments.study.files.composition import BLOCKS, INCLUDE, composed
from spikeproof.experiments.study.files.entries import Entries
from spikeproof.experiments.study.files.layout import GROUPS, LAYOUT
from spikeproof.experiments.study.files.model_blocks import ModelBlocks
from spikeproof.experiments.study.files.settings import assign
from spikeproof.experiments.study.owned import Owned
from spikeproof.experiments.study.study import Study, Sweep
from spikeproof.networks.classifier import Normalise
from spikeproof.probes import Probe
from spikeproof.protocols import Threat
from spikeproof.threats import check_budget, parse_epsilon

__all__ = ["MOST_CELLS", "load", "study_of"]


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
    file = known.get(study, path)
    document, settings = read(file), list(settings)
    for setting in settings:
        if _composes(setting):
            assign(document, setting)
    document = composed(document, file.parent)
    for setting in settings:
        if not _composes(setting):
            assign(document, setting)
    return study_of(document, limit)


def _composes(setting: str) -> bool:
    """Whether a setting changes what a study file is made of."""
    return re.split("[.=]", setting, maxsplit=1)[0] in (INCLUDE, BLOCKS)


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
class _Reader(Entries):
    limit: int

    def study(self) -> Study:
        data = self.document.data
        self.keys((), data, LAYOUT, required=("name", "data", "models"))
        attacks = [self.part(Recipe, path, item) for path, item in self.attacks()]
        analyses = [self.part(Analysis, path, item) for path, item in self.listed("analyses")]
        threats = self.threats() if attacks or analyses or self.listed("certificates") else ()
        blocks = ModelBlocks(self.document, self.limit)
        paths = blocks.models()
        models, seeds = list(paths), self.seeds()
        checks = AttackChecks(self.document, models, seeds, self.limit)
        asked = [each.model if isinstance(each, Owned) else each for each in models]
        searches, norms = self.distances(checks)
        for model, threat in product(asked, (*threats, *norms)):
            self.located(("threat",), lambda model=model, threat=threat: check_threat(model, threat))  # type: ignore[misc]
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            checks.attack(path, attack)
            for threat in threats:
                self.located(path, lambda attack=attack, threat=threat: attack(threat))  # type: ignore[misc]
        for (path, _), analysis in zip(self.listed("analyses"), analyses, strict=True):
            checks.analysis(path, analysis, threats)
        checks.transfers(attacks, len(threats))
        corruptions, grouped = self.corruptions()
        return Study(
            name=self.name(),
            data=self.part(DatasetSpec, ("data",), data["data"]),
            models=tuple(dict.fromkeys(models)),
            attacks=tuple(dict.fromkeys(attacks)),
            threats=threats,
            seeds=seeds,
            examples=self.whole_or("examples"),
            sample=self.part(Sample, ("sample",), self.value("sample")),
            draws=self.whole_or("draws"),
            normalise=self.normalise(),
            batch_size=self.whole_of("batch_size"),
            probes=tuple(dict.fromkeys(self.part(Probe, p, item) for p, item in self.listed("probes"))),
            corruptions=tuple(each for each in corruptions if isinstance(each, Corruption)),
            severities=self.severities(),
            grouped=grouped,
            baseline=blocks.baseline(models),
            certificates=tuple(
                dict.fromkeys(self.part(Certificate, p, item) for p, item in self.listed("certificates"))
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
            files=self.document.files,
        )

    def lines(self, attacks: Sequence[Recipe], threats: Sequence[Threat]) -> dict[object, str]:
        """Attacks and budgets -> the lines of the file that name them."""
        found: dict[object, str] = {}
        for (path, _), attack in zip(self.attacks(), attacks, strict=True):
            found[attack] = self.document.where(path)
        for path, item in self.listed("epsilons"):
            size = parse_epsilon(item)
            found |= {threat: self.document.where(path) for threat in threats if threat.epsilon == size}
        return found

    def corruptions(self) -> tuple[dict[object, str], frozenset[Corruption]]:
        """The corruptions, each with the line that names it, and those that a word for a group stands for."""
        found: dict[object, str] = {}
        named, grouped = set[Corruption](), set[Corruption]()
        for path, item in self.listed("corruptions"):
            group = GROUPS.get(item) if isinstance(item, str) else None
            if group is None:
                members = [self.part(Corruption, path, item)]
                named |= {*members}
            else:
                names = (name for name, each in PARTS[Corruption].items() if issubclass(each, group))
                members = [self.part(Corruption, path, name) for name in names]
                grouped |= {*members}
            found |= {member: self.document.where(path) for member in members if member not in found}
        return found, frozenset(grouped - named)

    def severities(self) -> tuple[int, ...]:
        """The severities in rising order."""
        found = set()
        for path, item in self.listed("severities"):
            self.located(path, lambda item=item: check_severity(item))  # type: ignore[misc]
            found.add(item)
        if not found:
            raise self.error(("severities",), "at least one severity", "none", "Leave it out for all five.")
        return tuple(sorted(found))

    def distances(self, checks: AttackChecks) -> tuple[tuple[Recipe, ...], tuple[Threat, ...]]:
        """Searches for the nearest image, and the norms that they are asked for."""
        items = self.listed("distances")
        norms = self.sized([1.0]) if items else ()
        searches = []
        for path, item in items:
            search = self.part(Recipe, path, item)
            checks.attack(path, search)
            if not any(knows(search, norm) for norm in norms):
                self.located(path, lambda search=search: check_search(search, norms[0]))  # type: ignore[misc]
            searches.append(search)
        return tuple(dict.fromkeys(searches)), norms

    def sweep(self) -> Sweep:
        value = self.value("sweep")
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

    def threats(self) -> tuple[Threat, ...]:
        epsilons = []
        for path, item in self.listed("epsilons"):
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
        for path, item in self.listed("epsilons"):
            for threat in threats:
                if threat.epsilon == parse_epsilon(item):
                    self.located(path, lambda threat=threat: check_budget(threat))  # type: ignore[misc]
        return threats

    def sized(self, epsilons: Sequence[float]) -> tuple[Threat, ...]:
        """Every threat at each of these sizes."""
        threats = []
        for path, item in self.listed("threat"):
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
        value = self.value("normalise")
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
        seeds = tuple(dict.fromkeys(self.whole(p, v, 0) for p, v in self.listed("seeds")))
        if not seeds:
            raise self.error(("seeds",), "at least one seed", "none", "Leave it out for [0].")
        return seeds


_ENDLESS = re.compile(r"[eE][-+]?\d{4}|.{64}")
"""A number that would take forever to write out."""

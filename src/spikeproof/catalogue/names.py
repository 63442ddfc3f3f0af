"""Every name that a study may use, by kind, with one sentence about each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spikeproof.attacks.made_of.transfer import Others
from spikeproof.attacks.parts.oracles import Oracle
from spikeproof.attacks.parts.schedules import Schedule
from spikeproof.attacks.parts.steps import Step
from spikeproof.attacks.parts.targets import Targets
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.catalogue.study_parts import STUDY_PARTS
from spikeproof.datasets import DatasetSpec, Sample
from spikeproof.encoders import BackwardRule
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.certificates import Certificate
from spikeproof.gradients import GradientRule
from spikeproof.interop.members import InFoolbox, InTorchattacks
from spikeproof.learning.rule import Rule
from spikeproof.losses import Loss, Objective
from spikeproof.networks.architecture import Architecture
from spikeproof.neurons import Neuron, Reset
from spikeproof.probes import Probe
from spikeproof.protocols import Decoder, Encoder, Threat
from spikeproof.specs import Catalogue, summary
from spikeproof.surrogates import Surrogate

__all__ = ["KINDS", "PARTS", "members", "studies"]

PARTS: Catalogue = {**MODEL_PARTS, **STUDY_PARTS}
"""Kind -> name -> class."""

KINDS: Mapping[str, Any] = {
    "encoders": Encoder,
    "backward-rules": BackwardRule,
    "decoders": Decoder,
    "neurons": Neuron,
    "resets": Reset,
    "surrogates": Surrogate,
    "gradients": GradientRule,
    "networks": Architecture,
    "rules": Rule,
    "losses": Loss,
    "attacks": Recipe,
    "torchattacks": InTorchattacks,
    "foolbox": InFoolbox,
    "transfer-models": Others,
    "objectives": Objective,
    "oracles": Oracle,
    "steps": Step,
    "schedules": Schedule,
    "targets": Targets,
    "probes": Probe,
    "certificates": Certificate,
    "threats": Threat,
    "datasets": DatasetSpec,
    "samples": Sample,
}
"""The name of each kind in `spikeproof list`, and the class that its members share."""


def members(kind: str) -> dict[str, str]:
    """Every member of a kind, name -> one-sentence description; `studies` is a kind too.

    Raises:
        InputError: there is no such kind.

    Example:
        >>> members("threats")["linf"]
        'Every pixel value may change by at most epsilon.'
    """
    if kind == "studies":
        return {name: _headline(path) for name, path in studies().items()}
    if kind not in KINDS:
        raise InputError("Expected a kind of part", repr(kind), suggest(kind, [*KINDS, "studies"]))
    return {name: summary(part) for name, part in PARTS[KINDS[kind]].items()}


def studies() -> dict[str, Path]:
    """Every built-in study, name -> file.

    Example:
        >>> "quickstart" in studies()
        True
    """
    folder = Path(__file__).with_name("studies")
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _headline(path: Path) -> str:
    """The comment in the first line of a study file."""
    return path.read_text("utf-8").split("\n", 1)[0].removeprefix("#").strip()

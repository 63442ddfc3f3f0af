"""The kinds of parts: the name of each in `spikeproof list`, and the class that its members share."""

from __future__ import annotations

from collections.abc import Mapping

from spikeproof.analysis.spike_analysis import Analysis
from spikeproof.analysis.trains.dissimilarity import TrainDistance
from spikeproof.attacks.made_of.transfer import Others
from spikeproof.attacks.parts.oracles import Oracle
from spikeproof.attacks.parts.schedules import Schedule
from spikeproof.attacks.parts.steps import Step
from spikeproof.attacks.parts.targets import Targets
from spikeproof.attacks.recipe import Recipe
from spikeproof.corruptions import Corruption
from spikeproof.datasets import DatasetSpec, Sample
from spikeproof.encoders import BackwardRule
from spikeproof.evaluation.certificates import Certificate
from spikeproof.gradients import GradientRule
from spikeproof.interop.members import InFoolbox, InTorchattacks
from spikeproof.learning.rule import Rule
from spikeproof.losses import Loss, Objective
from spikeproof.networks.architecture import Architecture
from spikeproof.neurons import Neuron, Reset
from spikeproof.poisoning.triggers import Trigger
from spikeproof.probes import Probe
from spikeproof.protocols import Decoder, Encoder, Threat
from spikeproof.surrogates import Surrogate

__all__ = ["KINDS"]

KINDS: Mapping[str, object] = {  # classes and protocols, which have no type in common
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
    "analyses": Analysis,
    "train-distances": TrainDistance,
    "corruptions": Corruption,
    "certificates": Certificate,
    "threats": Threat,
    "datasets": DatasetSpec,
    "samples": Sample,
    "triggers": Trigger,
}
"""The name of each kind in `spikeproof list`, and the class that its members share."""

"""The layout of a study file: what each key holds, its default, and what it means.

The reader takes its defaults from here, settings of the command line find here what a file leaves out, and
the JSON Schema of study files is made of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from spikeproof.analysis.spike_analysis import Analysis
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.given import Given
from spikeproof.catalogue.others import Saved
from spikeproof.corruptions import SEVERITIES, Corruption, EventCorruption, ImageCorruption
from spikeproof.datasets import DatasetSpec, Sample
from spikeproof.evaluation.certificates import Certificate
from spikeproof.evaluation.levels import Level
from spikeproof.experiments.study.documents import Written
from spikeproof.experiments.study.study import AXES, Sweep
from spikeproof.networks.classifier import Normalise
from spikeproof.probes import Probe
from spikeproof.protocols import Threat

__all__ = [
    "ALL",
    "AUTO",
    "BLOCK",
    "GIVEN",
    "GRID",
    "GRID_OPTIONS",
    "GROUPS",
    "LAYOUT",
    "MODEL",
    "Holds",
    "Key",
]

GROUPS: Mapping[str, type[Corruption]] = {"images": ImageCorruption, "events": EventCorruption}
"""Word in the place of a corruption -> every corruption of this class, with its customary levels."""

GRID = "transfer-grid"
"""In the list of attacks: one attack on every model, and its images judged on every other model."""

MODEL = "model"
"""In a block: a model that exists already, in place of its parts."""

ALL, AUTO = "all", "auto"
"""Words in the place of a number of examples, and of draws."""


Holds = object
"""A kind of part, another type, or a mapping of names to `Key`."""


@dataclass(frozen=True)
class Key:
    """What stands under one key of a study file.

    Args:
        holds: a kind of part, another type, or the keys of a mapping.
        many: whether a list of such things may stand there as well.
        default: what a file that leaves the key out means; None where nothing is meant.
        meaning: one sentence.
        word: text that may stand there instead, if any.
        without: options that a part does not take here.
    """

    holds: Holds
    many: bool = False
    default: Written = None
    meaning: str = ""
    word: str | None = None
    without: tuple[str, ...] = ()


GRID_OPTIONS: Mapping[str, Key] = {"attack": Key(Recipe, default="pgd", meaning="the attack")}

GIVEN: Mapping[str, Key] = {
    "saved": Key(Saved, meaning="what spikeproof.save wrote"),
    "foreign": Key(Given, meaning="what a function of yours returns"),
}
"""How a block names a model that exists already."""

_MEANINGS = {
    "encoder": "turns an image into spikes or currents over time",
    "network": "the layers between encoder and decoder",
    "neuron": "the equation of one time step",
    "surrogate": "the function whose derivative stands in for that of the spike",
    "decoder": "turns the activity of the output layer into logits",
    "rule": "how the weights are trained",
}

BLOCK: Mapping[str, Key] = {
    **{axis: Key(kind, True, default, _MEANINGS[axis]) for axis, (kind, default) in AXES.items()},
    MODEL: Key(GIVEN, True, None, "a model that exists already, in place of its parts"),
}
"""The keys of a block of models."""

LAYOUT: Mapping[str, Key] = {
    "name": Key(str, meaning="names the output directory runs/NAME"),
    "data": Key(DatasetSpec, meaning="the data set"),
    "models": Key(BLOCK, True, [], "blocks of models; each is the product of its axes"),
    "probes": Key(Probe, True, [], "timing probes, which change the spike trains of the input"),
    "corruptions": Key(Corruption, True, [], "natural corruptions, or images or events for all of them"),
    "severities": Key(int, True, list(SEVERITIES), "of the corruptions, from 1 to 5"),
    "baseline": Key(
        {axis: Key(kind, meaning=_MEANINGS[axis]) for axis, (kind, _) in AXES.items()},
        meaning="parts that one model has; mean corruption errors are divided by its errors",
    ),
    "attacks": Key(Recipe, True, [], "attacks; none for clean accuracy only"),
    "suite": Key(Level, True, [], "planned sequences of attacks"),
    "certificates": Key(Certificate, True, [], "lower bounds of robust accuracy, tried at every budget"),
    "distances": Key(Recipe, True, [], "searches for the distance of the nearest adversarial images"),
    "analyses": Key(Analysis, True, [], "what an attack does to the spikes of every layer"),
    "threat": Key(Threat, True, ["linf"], "what an attacker may change", without=("epsilon",)),
    "epsilons": Key(float, True, [], "budgets, such as 8/255 or 0.1"),
    "sweep": Key(Sweep, default=Sweep.AFRESH, meaning="where attacks of a larger budget begin"),
    "seeds": Key(int, True, [0], "every model is trained once with each"),
    "examples": Key(int, default=ALL, meaning="how many test images are measured", word=ALL),
    "sample": Key(Sample, default="class-proportional", meaning="which images, where not all"),
    "draws": Key(int, default=AUTO, meaning="forward passes per verdict on stochastic models", word=AUTO),
    "normalise": Key(Normalise, meaning="normalisation of the input, inside every model"),
    "batch_size": Key(int, default=128, meaning="images per forward pass; changes no number"),
}
"""The keys of a study file."""

"""The choice of the models on which a transfer attack makes its images."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path

from spikeproof.attacks.made_of.transfer import Others
from spikeproof.catalogue.saved import dump_model, load
from spikeproof.errors import InputError
from spikeproof.learning.rule import Rule
from spikeproof.networks.architecture import Architecture
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron
from spikeproof.protocols import Decoder, Encoder
from spikeproof.surrogates import Surrogate

__all__ = ["AmongModels", "EveryOtherModel", "OtherSeeds", "Saved", "ThoseWith", "fingerprint", "read_saved"]


class AmongModels(Others):
    """A choice among the models of a study."""

    other_seeds = False  # whether to choose the same model trained with other seeds, instead of other models

    def takes(self, model: object) -> bool:
        """Whether the attack makes images on this candidate, judging by its parts."""
        return True


@dataclass(frozen=True, kw_only=True)
class EveryOtherModel(AmongModels):
    """Every other model of the study, trained with the same seed."""


@dataclass(frozen=True, kw_only=True)
class OtherSeeds(AmongModels):
    """The same model, trained with the other seeds of the study."""

    other_seeds = True


@dataclass(frozen=True, kw_only=True)
class ThoseWith(AmongModels):
    """The other models of the study that have the named parts, trained with the same seed.

    Args:
        encoder: the encoder, or None for any.
        network: the architecture, or None for any.
        neuron: the neuron, or None for any.
        surrogate: the surrogate, or None for any.
        decoder: the decoder, or None for any.
        rule: the learning rule, or None for any.

    Raises:
        InputError: no part is named.

    Example:
        >>> from spikeproof.neurons import ReLU
        >>> ThoseWith(neuron=ReLU()).neuron
        ReLU()
    """

    encoder: Encoder | None = None
    network: Architecture | None = None
    neuron: Neuron | None = None
    surrogate: Surrogate | None = None
    decoder: Decoder | None = None
    rule: Rule | None = None

    def __post_init__(self) -> None:
        if all(getattr(self, part.name) is None for part in fields(self)):
            raise InputError(
                "A choice of models names at least one part that they have",
                "no part",
                "Write, for example, neuron: relu.",
            )

    def takes(self, model: object) -> bool:
        wanted = {part.name: getattr(self, part.name) for part in fields(self)}
        return all(getattr(model, name) == part for name, part in wanted.items() if part is not None)


@dataclass(frozen=True, kw_only=True)
class Saved(Others):
    """A saved model: a directory that `spikeproof.save` wrote, or a train cell of another study.

    Args:
        path: the directory of the model or of the cell.
    """

    path: str


def read_saved(choice: Saved) -> Classifier:
    """Load the saved model.

    Raises:
        InputError: there is no saved model at this path.
        DamagedError: the weights are not those that were saved.
    """
    return load(Path(choice.path))


def fingerprint(model: Classifier) -> str:
    """The digest of the description and the weights of a model, which determine its answers."""
    return hashlib.sha256(b"".join(content for _, content in sorted(dump_model(model).items()))).hexdigest()

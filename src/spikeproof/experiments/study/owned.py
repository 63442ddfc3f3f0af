"""Models of a study that are not trained in it: a saved model, or one that a program of the user makes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from spikeproof.auditing.assess import exits, other_gradients
from spikeproof.catalogue.given import Given, check_classes, fingerprint_of, made
from spikeproof.errors import DamagedError
from spikeproof.evaluation.certificates import Certificate
from spikeproof.networks.classifier import Classifier
from spikeproof.plainfiles import shaped
from spikeproof.protocols import Model, Threat

__all__ = [
    "OWN",
    "TAKEN",
    "UNTRAINED",
    "Owned",
    "is_owned",
    "named_programs",
    "owned",
    "programs",
    "reason",
]

OWN = {"name": "own"}
"""What stands in the place of a part that a given model does not show."""

TAKEN = {"name": "as-made"}
"""What stands in the place of the learning rule of a given model."""

UNTRAINED = (TAKEN["name"], "as-saved")
"""How the learning rules of models begin that were not trained in a study."""


_TENSORS = "tensors_sha256"
"""Name of the digest of the weights that a made model has, wherever its program took them from."""


@dataclass(frozen=True)
class Owned:
    """A given model as a model of a study.

    Args:
        given: the program that makes it, and its weights.
        digests: of the program and the weights, by name; and of the weights of the model that they made, once
            it is known.
    """

    given: Given
    digests: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, given: Given) -> Owned:
        """The model as its files are now.

        Raises:
            InputError: a file cannot be read.
        """
        return cls(given, tuple(sorted(given.digests().items())))

    @cached_property
    def made(self) -> tuple[Model, str]:
        """The model and the digest of its weights before any forward pass; the program is run once."""
        files = {name: each for name, each in self.digests if name != _TENSORS}
        model = made(self.given, files)
        tensors, before = fingerprint_of(model), dict(self.digests).get(_TENSORS)
        if before not in (None, tensors):
            raise DamagedError(
                f"{self.given.make} made another model than when it was first taken: its weights differ. "
                "Seed what it draws, and leave the files that it reads as they are while a command runs"
            )
        return model, tensors

    @property
    def model(self) -> Model:
        """The model itself; the program is run the first time that it is asked for.

        Raises:
            InputError: the program fails, or makes no model.
            DamagedError: a file changed, or the program made another model than when it was first taken.
        """
        return self.made[0]

    @property
    def stochastic(self) -> bool:
        """Whether equal examples can get different logits."""
        return bool(getattr(self.model, "stochastic", False))

    def check(self, shape: tuple[int, ...], classes: int) -> None:
        """Refuse a model that does not fit the data.

        Args:
            shape: of one example.
            classes: of the data.

        Raises:
            InputError: it does not take such examples, or gives another number of logits.
        """
        check_classes(self.model, shape, classes, self.given.make)

    def spec(self, classes: int) -> dict[str, object]:
        """The model as plain data, with the parts that every model of a study names."""
        given = {
            "make": self.given.make,
            "weights": self.given.weights,
            **dict(self.digests),
            _TENSORS: self.made[1],
        }
        return {
            "encoder": {"name": self.given.name, **dict(self.digests)},  # by which tables name a lone model
            **dict.fromkeys(("network", "neuron", "decoder", "surrogate"), OWN),
            "classes": classes,
            "given": given,
            "other_gradients": other_gradients(self.model),
            "dynamic_exit": exits(self.model),
        }


def programs(models: Iterable[object]) -> frozenset[str]:
    """The programs that make models of a study which is being run."""
    return frozenset(model.given.make for model in models if isinstance(model, Owned))


def is_owned(spec: Mapping[str, object]) -> bool:
    """Whether the model of a train cell, as plain data, is a given one."""
    return "given" in spec


def owned(spec: Mapping[str, object]) -> Owned:
    """The given model that a train cell names; nothing is run."""
    given: dict[str, str | None] = shaped(spec["given"], dict[str, str | None], "the given model of a cell")
    make, weights = given.pop("make", None), given.pop("weights", None)
    return Owned(Given(str(make), weights), tuple(sorted((n, str(each)) for n, each in given.items())))


def named_programs(models: Iterable[Mapping[str, object]]) -> list[str]:
    """The programs that make models of a stored study, each once; nothing is run.

    Args:
        models: of the train cells, as plain data.
    """
    return sorted({owned(model).given.make for model in models if is_owned(model)})


def reason(certificate: Certificate, model: Model, threat: Threat) -> str | None:
    """Why a certificate says nothing about a model; None where it does."""
    if not isinstance(model, Classifier):
        return "it needs the parts of the model, and this one shows nothing but its logits"
    return certificate.reason(model, threat)

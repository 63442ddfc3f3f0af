"""What all defences share: each is a learning rule around another one, which it makes train otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from spikeproof.datasets import Dataset
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.learning.rule import Defence, EpochReport, History, Perturb, Rule
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron

__all__ = ["Defended", "at_least", "evaluating"]


@dataclass(frozen=True)
class Defended(Rule, Defence):
    """A learning rule with a defence around it.

    Defences are nested by naming one as `of` of another. The outer one acts first: the inner one gets the
    images that the outer one has made, and the outer loss is made of the inner one.
    """

    of: Rule = BPTT()

    def __post_init__(self) -> None:
        self.of.admit(self)

    @property
    def epochs(self) -> int:
        """The epochs of the learning rule inside."""
        return int(getattr(self.of, "epochs"))  # noqa: B009  every rule that admits a defence has epochs

    def admit(self, defence: Defence) -> None:
        self.of.admit(defence)

    def check(self, neuron: Neuron) -> None:
        self.of.check(neuron)

    def check_model(self, model: Classifier) -> None:
        self.of.check_model(model)

    def train(
        self,
        model: Classifier,
        data: Dataset,
        key: Key,
        *,
        device: torch.device | str | None = None,
        checkpoint: Path | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
        perturb: Perturb | None = None,
        defences: Sequence[Defence] = (),
    ) -> History:
        """Train the model by the learning rule inside, with this defence after those given."""
        self.check_model(model)
        return self.of.train(
            model,
            data,
            key,
            device=device,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            on_batch=on_batch,
            perturb=perturb,
            defences=(*defences, self),
        )


@contextmanager
def evaluating(model: Classifier) -> Iterator[Classifier]:
    """The model in evaluation mode, in which it is attacked, and in its own mode again afterwards."""
    before = model.training
    try:
        yield model.eval()
    finally:
        model.train(before)


def at_least(part: object, least: float, **options: float) -> None:
    """Refuse an option of a defence that is below a bound or not finite.

    Raises:
        InputError: some option is.

    Example:
        >>> at_least(BPTT(), 0, beta=-1.0)
        Traceback (most recent call last):
        spikeproof.errors.InputError: BPTT needs beta to be at least 0: got beta=-1.0. Try the default.
    """
    for name, value in options.items():
        if not least <= value < math.inf:
            raise InputError(
                f"{type(part).__name__} needs {name} to be at least {least:g}",
                f"{name}={value}",
                "Try the default.",
            )

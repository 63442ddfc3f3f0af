"""What every learning rule is: a frozen dataclass that changes a model's weights and reports each epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from spikeproof.datasets import Dataset
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron

__all__ = ["EpochReport", "History", "Perturb", "Rule"]

Perturb = Callable[[Classifier, Tensor, Tensor, Key], Tensor]
"""(model in eval mode, images, labels, key) -> images to train on instead, as in adversarial training."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to.

    Args:
        epoch: number of the epoch, from 1.
        loss: mean training loss per example.
        validation_accuracy: share of the validation part decided rightly, in [0, 1], ties counting as errors;
            None where nothing was held out.
        seconds: how long it took; two reports are equal without it.
    """

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float = field(compare=False)


@dataclass(frozen=True)
class History:
    """The reports of a training from its first epoch, resumed or not."""

    epochs: tuple[EpochReport, ...]

    @property
    def validation_accuracy(self) -> float | None:
        """That of the last epoch, whose weights the model has."""
        return self.epochs[-1].validation_accuracy


class Rule:
    """How the weights of a model come about."""

    def check(self, neuron: Neuron) -> None:
        """Whether the rule is defined for models of this neuron, before anything is built.

        Raises:
            InputError: it is not.
        """

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
    ) -> History:
        """Change the model's weights; it is left in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

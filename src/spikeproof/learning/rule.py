"""Learning rules: frozen dataclasses that train a model's weights and report each epoch."""

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
    """The result of one epoch.

    Args:
        epoch: number of the epoch, from 1.
        loss: mean training loss per example.
        validation_accuracy: accuracy on the validation part, in [0, 1], with ties counted as errors; None if
            there is no validation part.
        seconds: duration of the epoch; the comparison of two reports ignores it.
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
        """The validation accuracy after the last epoch, which gave the weights; None without an epoch."""
        return self.epochs[-1].validation_accuracy if self.epochs else None


class Rule:
    """A learning rule: how the weights of a model are trained."""

    def check(self, neuron: Neuron) -> None:
        """Check that the learning rule is defined for models with this neuron, before anything is built.

        Raises:
            InputError: the learning rule is not defined for this neuron.
        """

    def check_model(self, model: Classifier) -> None:
        """Check that the learning rule can train this model, without training it.

        Args:
            model: a model whose weights are not read, so they may be on PyTorch's meta device.

        Raises:
            InputError: the learning rule is not defined for the model's parts.
        """
        self.check(model.spec.neuron)

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
        """Train the model's weights in place; the model stays in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

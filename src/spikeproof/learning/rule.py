"""Learning rules: frozen dataclasses that train a model's weights and report each epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.datasets import Dataset, Split
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron

__all__ = [
    "Defence",
    "EpochReport",
    "History",
    "Lesson",
    "LossOf",
    "Perturb",
    "Perturbed",
    "Rule",
    "Watch",
    "given",
]

Perturb = Callable[[Classifier, Tensor, Tensor, Key], Tensor]
"""(model in eval mode, images, labels, key) -> images to train on instead, as in adversarial training."""


@dataclass(frozen=True)
class Watch:
    """Accuracy on held-out images under the attack of the training and under a stronger one.

    Args:
        weak: accuracy under the attack that the training uses, in [0, 1].
        strong: accuracy under the stronger attack, in [0, 1].
        overfitted: whether they lie so far apart that the training counts as catastrophically overfitted.
    """

    weak: float
    strong: float
    overfitted: bool


@dataclass(frozen=True)
class EpochReport:
    """The result of one epoch.

    Args:
        epoch: number of the epoch, from 1.
        loss: mean training loss per example.
        validation_accuracy: accuracy on the validation part, in [0, 1], with ties counted as errors; None if
            there is no validation part.
        seconds: duration of the epoch; the comparison of two reports ignores it.
        processor_seconds: processor time of the epoch's training, over all threads and without measurements
            on held-out images; None in reports of versions that did not measure it. On a GPU it does not
            include the time of the GPU. The comparison of two reports ignores it.
        watch: what a watch for catastrophic overfitting saw after the epoch; None without a watch.
        discarded: whether the weights of this epoch were given up for those of the epoch before it.
    """

    epoch: int
    loss: float
    validation_accuracy: float | None
    seconds: float = field(compare=False)
    processor_seconds: float | None = field(default=None, compare=False)
    watch: Watch | None = None
    discarded: bool = False


@dataclass(frozen=True)
class History:
    """The reports of a training from its first epoch, resumed or not."""

    epochs: tuple[EpochReport, ...]

    @property
    def validation_accuracy(self) -> float | None:
        """The validation accuracy after the epoch that gave the weights; None without an epoch."""
        kept = [report for report in self.epochs if not report.discarded]
        return kept[-1].validation_accuracy if kept else None


class Lesson(NamedTuple):
    """What is learned from one batch: the examples, and the model that answers them."""

    model: Classifier  # the trained model; in training mode while a loss is computed
    images: Float[Tensor, "B *F"]  # to train on, as far as defences have changed them
    labels: Int64[Tensor, "B"]
    key: Key  # randomness of the forward pass on these images
    progress: float  # share of all iterations that are done, in [0, 1)
    twin: Classifier  # the model that is differentiated, whose layers a defence may look into
    respond: Callable[[Tensor, Key], Tensor]  # differentiable output over time, computed once per images

    def logits(self, images: Float[Tensor, "B *F"]) -> Float[Tensor, "B K"]:
        """Differentiable logits under the randomness of this batch."""
        return self.model.spec.decoder(self.respond(images, self.key))


LossOf = Callable[[Lesson], Tensor]
"""The mean loss of a batch, differentiable."""


class Defence:
    """What a defence changes in a training; every method changes nothing unless a member overrides it.

    Several defences may act in one training. Each sees the images as the one before it has left them, and the
    loss of the first one is made of the loss of the second one, and so on.
    """

    adds_loss: ClassVar[bool] = False
    """Whether the loss is another one, which the learning rule must be able to differentiate."""

    stops: bool = False
    """Whether an overfitted epoch ends the training with the weights of the epoch before it."""

    def begin(self, model: Classifier, data: Dataset) -> None:
        """Check, before the first epoch, that the defence can act on this model and these data.

        Raises:
            InputError: it cannot.
        """

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        """The images to train on in place of those of the lesson; the model is in evaluation mode."""
        return lesson.images

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        """The loss of a batch, made of the plain loss of the learning rule."""
        return plain(lesson)

    def settle(self, model: Classifier, key: Key) -> None:
        """Change the weights after the optimiser has learned from a batch."""

    def watched(self, model: Classifier, part: Split, key: Key) -> Watch | None:
        """What a watch sees on held-out images after an epoch; the model is in evaluation mode."""
        return None


@dataclass(frozen=True)
class Perturbed(Defence):
    """Training on images that a function makes.

    Args:
        perturb: gives the images to train on.
    """

    perturb: Perturb

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return self.perturb(lesson.model, lesson.images, lesson.labels, key)


def given(perturb: Perturb | None, defences: Sequence[Defence]) -> tuple[Defence, ...]:
    """The defences of a training, with the function that makes images as the last of them."""
    return (*defences, *([] if perturb is None else [Perturbed(perturb)]))


class Rule:
    """A learning rule: how the weights of a model are trained."""

    def admit(self, defence: Defence) -> None:
        """Check that trainings by this learning rule can have the defence.

        Raises:
            InputError: they cannot.
        """
        raise InputError(
            f"{type(defence).__name__} needs a learning rule that trains on batches of images",
            repr(self),
            "Use bptt.",
        )

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
        defences: Sequence[Defence] = (),
    ) -> History:
        """Train the model's weights in place; the model stays in eval mode."""
        raise NotImplementedError(f"{type(self).__name__} trains nothing")

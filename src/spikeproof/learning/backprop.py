"""Backpropagation through time with surrogate gradients.

One key decides the order of the examples and every draw of the encoder, so a training can be repeated. An
interrupted training resumes from its checkpoint, in the middle of a long epoch as well, and reaches the same
weights, bit for bit, on the same machine.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.datasets import Dataset, Split, floats
from spikeproof.decoders import activity, decide
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.checkpoints import SECONDS_AT_RISK, Begun, Counted, Training
from spikeproof.learning.on_fabric import Job, on_devices
from spikeproof.learning.rule import (
    Defence,
    EpochReport,
    History,
    Lesson,
    LossOf,
    Perturb,
    Perturbed,
    Rule,
    Watch,
    given,
)
from spikeproof.learning.shared import ALONE, Alone, chosen_devices
from spikeproof.losses import CrossEntropy, Loss
from spikeproof.networks.classifier import Classifier
from spikeproof.tensorfiles import digest

__all__ = ["BPTT", "Course", "accuracy"]


@dataclass(frozen=True)
class BPTT(Rule):
    r"""Surrogate-gradient backpropagation through time with AdamW and a cosine schedule.

    .. math:: \eta_i = \frac{\eta}{2}\left(1 + \cos\frac{\pi i}{I}\right), \quad i = 0..I-1

    where `I` is the number of iterations. Gradients are clipped to a global norm. Weight decay does not apply
    to biases and normalisation. On CUDA, layers compute in bfloat16 under PyTorch's autocast. A last batch of
    a single example is left out, because batch normalisation may not be able to use it.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate `eta`, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> BPTT(epochs=2, lr=0.01)
        BPTT(epochs=2, batch_size=64, lr=0.01, weight_decay=0.0001, clip_norm=1.0, loss=CrossEntropy(...))

    Source:
        Neftci, Mostafa & Zenke 2019 (surrogate gradients); Loshchilov & Hutter 2019 (AdamW), 2017 (cosine
        schedule, without restarts).
    """

    epochs: int = 10
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 1e-4
    clip_norm: float | None = 1.0
    loss: Loss = CrossEntropy()

    def __post_init__(self) -> None:
        for name, valid, bound in (
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("weight_decay", 0 <= self.weight_decay < math.inf, "at least 0"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive, or None"),
        ):
            if not valid:
                raise InputError(
                    f"{type(self).__name__} needs {name} to be {bound}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )

    def admit(self, defence: Defence) -> None:
        """Nothing is refused."""

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        self.twin(model)
        for steps in self.lengths(model.spec.encoder.steps):
            self.loss.check(steps, model.spec.classes)

    def lengths(self, steps: int) -> Sequence[int]:
        """The numbers of time steps that the loss is computed from, for inputs of `steps` time steps.

        Raises:
            InputError: the learning rule needs more time steps.
        """
        return [steps]

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
        """Train the model in place; it stays on `device` and in eval mode.

        Args:
            model: a freshly built model.
            data: the model is trained on its training part and measured on its validation part after every
                epoch.
            key: decides the order of examples and all draws; PyTorch's global generators are not used.
            device: the device to train on; None for the model's own.
            checkpoint: a file written after every epoch and, while one or its validation lasts, twice a
                minute, from which an interrupted training resumes.
            on_epoch: called after every epoch, with its report.
            on_batch: called after every iteration, with the number done and their total over all epochs.
            perturb: makes the images to train on from each batch, after all defences.
            defences: what else the training does on each batch, on each step and after each epoch.

        Raises:
            InputError: the learning rule cannot train the model, the data do not fit it, the checkpoint is of
                another training, a loss or weight is no longer finite, or there are not as many devices as
                `using_devices` asks for.
        """
        self.check_model(model)
        _check_fit(model, data)
        defences, shared = given(perturb, defences), chosen_devices()
        place = torch.device(device or next(model.parameters()).device)
        if shared.count == 1:
            return self.teach(model, data, key, ALONE, place, checkpoint, defences, on_epoch, on_batch)
        job = Job(self, model.cpu(), data, key, checkpoint, defences)
        with on_devices(shared.count, place, job) as together:
            mixed = isinstance(self.precision(place), torch.autocast)
            shared.precisions.append("bfloat16 in layers" if mixed else "float32")
            return self.teach(
                model, data, key, together, together.device, checkpoint, defences, on_epoch, on_batch
            )

    def teach(
        self,
        model: Classifier,
        data: Dataset,
        key: Key,
        share: Alone,
        device: torch.device,
        checkpoint: Path | None,
        defences: tuple[Defence, ...],
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> History:
        """Train the model as one of the devices that share the training.

        Args:
            share: what this device does with the others; `ALONE` without others.
            device: where this process computes.
        """
        for defence in defences:
            self.admit(defence)
            defence.begin(model, data)
        model.to(device)
        run = self._course(model, data, key, defences)
        run.checkpoint = checkpoint if share.first else None
        if share.count > 1:
            run.state.identity += f" on {share.count} devices"
        run.share = share
        if checkpoint is not None:
            run.state.resume(checkpoint)
            share.wait()
        try:
            with share.prepared(model, run.twin):
                self._teach(run, data, on_epoch, on_batch)
        finally:
            model.eval()
        return History(tuple(run.state.reports))

    def _teach(
        self,
        run: Course,
        data: Dataset,
        on_epoch: Callable[[EpochReport], None] | None,
        on_batch: Callable[[int, int], None] | None,
    ) -> None:
        """The epochs that are left."""
        for epoch in range(len(run.state.reports) + 1, self.epochs + 1):
            if run.state.reports and run.state.reports[-1].discarded:
                break
            report = run.report(epoch, data.validation, on_batch)
            run.state.reports.append(report)
            if run.checkpoint is not None:
                run.state.save(run.checkpoint)
                run.saved = time.perf_counter()
            if on_epoch is not None:
                on_epoch(report)

    def twin(self, model: Classifier) -> Classifier:
        """The model that is differentiated: the model itself, or a twin that shares its tensors and spikes.

        Raises:
            InputError: the learning rule is not defined for the model's neuron.
        """
        return model

    def views(self, images: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """The images to train on in place of a batch of training images; here the images themselves."""
        return images

    def precision(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision of layers in the forward pass: bfloat16 on CUDA, under PyTorch's autocast."""
        return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()

    def _course(self, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence]) -> Course:
        return Course(self, model, data, key, defences)


@torch.no_grad()
def accuracy(
    model: Classifier,
    part: Split,
    key: Key,
    batch_size: int,
    counted: Counted | None = None,
    on_batch: Callable[[], None] | None = None,
) -> float | None:
    """Accuracy, in [0, 1], with ties and silent outputs counted as errors; None if there are no examples.

    Each example draws under its own id, so the accuracy does not depend on the batches.

    Args:
        model: the model.
        part: the examples.
        key: decides all draws.
        batch_size: examples per forward pass, at least 1.
        counted: what is counted already, which is carried on.
        on_batch: called after every batch.
    """
    model.eval()
    if not len(part):
        return None
    device, counted = next(model.parameters()).device, counted or Counted()
    for start in range(counted.examples, len(part), batch_size):
        rows = slice(start, start + batch_size)
        logits = model(floats(part.images[rows].to(device)), key.for_rows(part.ids[rows]))
        counted.right += int((decide(logits) == part.labels[rows].to(device)).sum())
        counted.examples += len(part.labels[rows])
        if on_batch is not None:
            on_batch()
    return counted.right / len(part.labels)


class Course:
    """A training in progress, with its epochs and batches."""

    def __init__(
        self, rule: BPTT, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence] = ()
    ) -> None:
        self.rule, self.model, self.key, self.defences = rule, model, key, tuple(defences)
        self.progress = 0.0
        self.share = ALONE
        self.checkpoint: Path | None = None
        self.saved = time.perf_counter()
        self.twin = rule.twin(model)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.images = data.train.images.to(self.device)
        self.labels = data.train.labels.to(self.device)
        count, size = len(self.labels), rule.batch_size
        self.batches = count // size + (count % size > (1 if size > 1 else 0))
        if not self.batches:
            raise InputError(
                "Training needs at least two examples", str(count), "Use a larger training part."
            )
        self.state = Training(_identity(rule, model, data, key, self.defences), model, self._optimiser())

    def report(self, epoch: int, held_out: Split, on_batch: Callable[[int, int], None] | None) -> EpochReport:
        """Train for one epoch, measure the model on held-out images, and give up an overfitted epoch."""
        begun = self.state.begun or self._begin()
        loss = self.epoch(epoch, begun, on_batch)
        right = self._validated(begun, held_out)
        started = time.perf_counter()
        watch, discarded = self._watch(epoch, held_out)
        if discarded:
            self.model.load_state_dict(begun.before)
        self.state.begun = None
        seconds = begun.seconds + time.perf_counter() - started
        return EpochReport(epoch, loss, right, seconds, begun.processor_seconds, watch, discarded)

    def _validated(self, begun: Begun, held_out: Split) -> float | None:
        """The accuracy on held-out images, saved now and then while it is measured."""
        counted, lap = Counted(begun.validated, begun.right), time.perf_counter()

        def keep() -> None:
            nonlocal lap
            now = time.perf_counter()
            begun.seconds += now - lap
            begun.validated, begun.right, lap = counted.examples, counted.right, now
            self._keep(begun)

        key, size = self.key.fold("validation"), self.rule.batch_size
        return accuracy(self.model, held_out, key, size, counted, keep)

    def _keep(self, begun: Begun) -> None:
        """Save the epoch that has begun, if the last time is long enough ago."""
        if self.checkpoint is not None and time.perf_counter() - self.saved > SECONDS_AT_RISK:
            self.state.begun = begun
            self.state.save(self.checkpoint)
            self.saved = time.perf_counter()

    def _begin(self) -> Begun:
        stops = any(defence.stops for defence in self.defences)
        before = copy.deepcopy(self.model.state_dict()) if stops else {}
        return Begun(torch.zeros((), device=self.device), before)

    def _watch(self, epoch: int, held_out: Split) -> tuple[Watch | None, bool]:
        """What the watch of the first defence that has one saw, and whether to give up the epoch."""
        for defence in self.defences:
            watch = defence.watched(self.model, held_out, self.key.fold("watch", epoch))
            if watch is not None:
                return watch, watch.overfitted and defence.stops
        return None, False

    def epoch(self, epoch: int, begun: Begun, on_batch: Callable[[int, int], None] | None) -> float:
        """Mean loss per example of one pass over the training part.

        Args:
            epoch: its number, from 1.
            begun: how far the pass is, which is carried on and saved now and then.
            on_batch: called after every iteration.
        """
        self._set_mode(training=True)
        total = begun.loss = begun.loss.to(self.device)
        lap, spent = time.perf_counter(), time.process_time()
        for i, rows in enumerate(self._order(epoch)[begun.batches :], begun.batches):
            done = (epoch - 1) * self.batches + i
            total += self._iterate(rows, self.key.fold("epoch", epoch, "batch", i), done) * len(rows)
            begun.batches, begun.examples = i + 1, begun.examples + len(rows)
            now = time.perf_counter(), time.process_time()
            begun.seconds += now[0] - lap
            begun.processor_seconds += now[1] - spent
            lap, spent = now
            self._keep(begun)
            if on_batch is not None:
                on_batch(done + 1, self.batches * self.rule.epochs)
        loss = total.item() / begun.examples
        if not (math.isfinite(loss) and all(bool(p.isfinite().all()) for p in self.parameters)):
            raise InputError(
                f"Training needs a finite loss and finite weights (epoch {epoch})",
                f"a mean loss of {loss}",
                f"Lower lr={self.rule.lr}, set clip_norm, or try another surrogate.",
            )
        return loss

    def _order(self, epoch: int) -> tuple[Tensor, ...]:
        generator = self.key.fold("epoch", epoch, "order").generator()
        order = torch.randperm(len(self.labels), generator=generator).to(self.device)
        return torch.split(order, self.rule.batch_size)[: self.batches]

    def _iterate(self, rows: Tensor, key: Key, done: int) -> Float[Tensor, ""]:
        x, y = self.rule.views(floats(self.images[rows]), key.fold("views")), self.labels[rows]
        whole, (x, y, key) = key, self.share.take(x, y, key)
        self.progress = done / (self.batches * self.rule.epochs)
        if self.defences:
            self._set_mode(training=False)
            for i, defence in enumerate(self.defences):
                x = defence.moved(self._lesson(x, y, key), key.fold("perturb", i)).detach()
            self._set_mode(training=True)
        for group in self.state.optimiser.param_groups:
            group["lr"] = self.rule.lr * 0.5 * (1 + math.cos(math.pi * self.progress))
        loss = self.share.mean(self.learn(x, y, key))
        for defence in self.defences:
            defence.settle(self.model, whole.fold("settle"))
        return loss

    def _lesson(self, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> Lesson:
        return Lesson(self.model, x, y, key, self.progress, self.twin, _Once(self._respond))

    def _respond(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "T B N"]:
        with self.rule.precision(self.device):
            return self.twin.outputs(x, key).float()

    def _set_mode(self, *, training: bool) -> None:
        self.model.train(training)
        self.twin.train(training)

    def learn(self, x: Float[Tensor, "B C H W"], y: Int64[Tensor, "B"], key: Key) -> Float[Tensor, ""]:
        """Update the weights on one batch and return its mean loss."""
        return self.descend(self._loss(x, y, key))

    def descend(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Take one optimiser step on this loss, and return the loss."""
        self.state.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.share.average(self.parameters)
        if self.rule.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.rule.clip_norm)
        self.state.optimiser.step()
        return loss.detach()

    def _loss(self, x: Float[Tensor, "B C H W"], y: Int64[Tensor, "B"], key: Key) -> Float[Tensor, ""]:
        loss: LossOf = self._plain
        for defence in reversed(self.defences):
            loss = functools.partial(defence.loss, plain=loss)
        return loss(self._lesson(x, y, key))

    def _plain(self, lesson: Lesson) -> Float[Tensor, ""]:
        outputs, decoder = lesson.respond(lesson.images, lesson.key), self.model.spec.decoder
        return self.rule.loss(activity(decoder, outputs), decoder(outputs), lesson.labels).mean()

    def _optimiser(self) -> torch.optim.AdamW:
        groups = [
            {"params": [p for p in self.parameters if p.ndim > 1], "weight_decay": self.rule.weight_decay},
            {"params": [p for p in self.parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self.rule.lr, fused=self.device.type in ("cpu", "cuda"))


class _Once:
    """A forward pass that is not repeated for the same images, so that losses of one batch may share it."""

    def __init__(self, respond: Callable[[Tensor, Key], Tensor]) -> None:
        self.respond = respond
        self.known: list[tuple[Tensor, Key, Tensor]] = []

    def __call__(self, images: Tensor, key: Key) -> Tensor:
        for x, same, outputs in self.known:
            if x is images and same == key:
                return outputs
        self.known.append((images, key, self.respond(images, key)))
        return self.known[-1][2]


def _identity(rule: BPTT, model: Classifier, data: Dataset, key: Key, defences: tuple[Defence, ...]) -> str:
    named = [defence for defence in defences if not isinstance(defence, Perturbed)]
    parts = (rule, model.spec, data.sha256, len(data.train.labels), key, digest(model.state_dict()))
    text = repr((*parts, *named))
    return hashlib.sha256(text.encode()).hexdigest()


def _check_fit(model: Classifier, data: Dataset) -> None:
    if len(data.classes) != model.spec.classes:
        raise InputError(
            f"The data need a model with {len(data.classes)} classes",
            f"a model with {model.spec.classes} classes",
            f"Build it with classes={len(data.classes)}.",
        )
    if not len(data.train):
        raise InputError("The training part must hold examples", "none", "Check the data.")

"""Weights from disk: the state of a training between two batches, and those of a saved model."""

from __future__ import annotations

import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikeproof.datasets import Dataset
from spikeproof.errors import DamagedError, InputError
from spikeproof.keys import Key
from spikeproof.learning.rule import Defence, EpochReport, History, Perturb, Rule, Watch
from spikeproof.networks.classifier import Classifier
from spikeproof.specs import address
from spikeproof.tensorfiles import digest, dump, parse, read, write

__all__ = ["SECONDS_AT_RISK", "AsSaved", "Begun", "Counted", "Later", "Training"]

SECONDS_AT_RISK = 30.0
"""Seconds of work after which a training is saved between two batches."""

_VERSION, _WITHIN_AN_EPOCH = 1, 2
"""Of a state between two epochs, and of one within an epoch, which earlier versions cannot continue."""


@dataclasses.dataclass
class Counted:
    """An accuracy that is being measured batch by batch.

    Args:
        examples: number of those that are counted.
        right: number of those that were answered rightly.
    """

    examples: int = 0
    right: int = 0


@dataclasses.dataclass
class Begun:
    """An epoch that has begun.

    Args:
        loss: sum of the losses of all examples that were trained on.
        before: weights and buffers at its beginning, where the epoch may be given up.
        batches: number of those that are done.
        examples: number of those that were trained on.
        seconds: on the clock.
        processor_seconds: of processor time.
        validated: number of held-out examples that were counted after the last batch.
        right: number of those that were answered rightly.
    """

    loss: Tensor
    before: Mapping[str, Tensor]
    batches: int = 0
    examples: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    validated: int = 0
    right: int = 0


@dataclasses.dataclass
class Training:
    """The whole state of a training: a model, its optimiser and how far it is.

    Args:
        identity: a digest of everything that decides the course of this training.
        model: its weights and buffers are part of the state.
        optimiser: its moments and step counts are part of the state.
        reports: the finished epochs.
        begun: the epoch after them, if it has begun.
    """

    identity: str
    model: nn.Module
    optimiser: torch.optim.Optimizer
    reports: list[EpochReport] = dataclasses.field(default_factory=list)
    begun: Begun | None = None

    def save(self, path: Path) -> None:
        """Replace the checkpoint atomically.

        Raises:
            InputError: the directory cannot be written.
        """
        tensors = self._tensors()
        note = {
            "version": _VERSION,
            "identity": self.identity,
            "reports": [dataclasses.asdict(report) for report in self.reports],
            "tensors": digest(tensors),
        }
        if self.begun is not None:
            begun = {name: getattr(self.begun, name) for name in _COUNTED}
            note |= {"version": _WITHIN_AN_EPOCH, "begun": begun}
        write(path, dump(tensors, {**note, "address": address(note)}))

    def resume(self, path: Path) -> None:
        """Load the state from a checkpoint, if there is one.

        A damaged checkpoint is ignored with a warning, so it costs time but cannot change a result.

        Raises:
            InputError: the checkpoint is whole but belongs to another training.
        """
        if not path.exists():
            return
        try:
            tensors, note = _parsed(path)
            reports = [_report(report) for report in note["reports"]]
            begun = _begun(note.get("begun"), tensors)
        except (InputError, KeyError, TypeError, ValueError) as error:
            warnings.warn(f"{path} is damaged ({error}); training starts from its first epoch", stacklevel=3)
            return
        if note["version"] not in (_VERSION, _WITHIN_AN_EPOCH) or note["identity"] != self.identity:
            raise InputError(
                "A checkpoint resumes the training that wrote it: same learning rule, model, "
                "initial weights, data and key",
                f"{path}, which another training wrote",
                "Remove it, choose another path, or build the model afresh under the same key.",
            )
        self._restore(tensors)
        self.reports, self.begun = reports, begun

    def _tensors(self) -> dict[str, Tensor]:
        moments = {
            f"{_OPTIMISER}.{index}.{name}": value
            for index, state in self.optimiser.state_dict()["state"].items()
            for name, value in state.items()
        }
        found = {f"{_MODEL}.{name}": value for name, value in self.model.state_dict().items()} | moments
        if self.begun is not None:
            found |= {f"{_BEFORE}.{name}": value for name, value in self.begun.before.items()}
            found[_LOSS] = self.begun.loss
        return found

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        model: dict[str, Tensor] = {}
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            owner, rest = name.split(".", 1)
            if owner == _MODEL:
                model[rest] = value
            elif owner == _OPTIMISER:
                index, moment = rest.split(".", 1)
                state.setdefault(int(index), {})[moment] = value
        self.model.load_state_dict(model)
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": state})


_MODEL, _OPTIMISER, _BEFORE, _LATER, _LOSS = "model", "optimiser", "before", "later", "begun.loss"
"""What the names of tensors begin with; the last is a name."""

_COUNTED = ("batches", "examples", "seconds", "processor_seconds", "validated", "right")
"""The plain numbers of an epoch that has begun."""


def _parsed(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the note of a checkpoint.

    Raises:
        InputError, KeyError, TypeError, ValueError: it is damaged.
    """
    tensors, note = parse(read(path), str(path))
    if note.pop("address") != address(note) or note["tensors"] != digest(tensors):
        raise ValueError("its digests do not match its content")
    return tensors, note


@dataclasses.dataclass
class Later:
    """What follows the epochs of a training, kept in the same file: a second stage, and a measurement.

    Args:
        path: the checkpoint of the training, which has its last epoch; None if nothing is kept.
        identity: a digest of everything that decides the course of what follows.
        batches: number of those that the weights were tuned on.
        counted: the accuracy of the model that comes out.
    """

    path: Path | None
    identity: str
    batches: int = 0
    counted: Counted = dataclasses.field(default_factory=Counted)
    tuned: Training | None = None
    saved: float = dataclasses.field(default_factory=time.perf_counter)

    def resume(self, tuned: Training | None) -> None:
        """Take over what is in the file, if this stage wrote it.

        Args:
            tuned: the weights that are tuned, with their optimiser.
        """
        self.tuned = tuned
        if self.path is None or not self.path.exists():
            return
        try:
            tensors, note = _parsed(self.path)
            later = note.get(_LATER)
            if later is None or later["identity"] != self.identity:
                return
            counted, batches = Counted(**later["counted"]), int(later["batches"])
        except (InputError, KeyError, TypeError, ValueError):  # the training itself has warned
            return
        start = f"{_LATER}."
        own = {name.removeprefix(start): each for name, each in tensors.items() if name.startswith(start)}
        if tuned is not None and own:
            tuned._restore(own)
        self.batches, self.counted = batches, counted

    def keep(self) -> None:
        """Save, if the last time is long enough ago; called between two batches."""
        if self.path is not None and time.perf_counter() - self.saved > SECONDS_AT_RISK:
            self.save(self.path)
            self.saved = time.perf_counter()

    def save(self, path: Path) -> None:
        """Replace the checkpoint atomically by one that has this stage as well.

        Raises:
            InputError: it is not there any more or damaged, or the directory cannot be written.
        """
        tensors, note = parse(read(path), str(path))
        tensors = {name: each for name, each in tensors.items() if not name.startswith(f"{_LATER}.")}
        own = {} if self.tuned is None else self.tuned._tensors()
        tensors |= {f"{_LATER}.{name}": each for name, each in own.items()}
        counted = dataclasses.asdict(self.counted)
        note[_LATER] = {"identity": self.identity, "batches": self.batches, "counted": counted}
        note = {**note, "tensors": digest(tensors)}
        note.pop("address", None)
        write(path, dump(tensors, {**note, "address": address(note)}))


def _begun(written: Mapping[str, Any] | None, tensors: Mapping[str, Tensor]) -> Begun | None:
    """The epoch that a checkpoint was written in; None between two epochs."""
    if written is None:
        return None
    start = f"{_BEFORE}."
    before = {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}
    return Begun(tensors[_LOSS], before, **written)


def _report(written: Mapping[str, Any]) -> EpochReport:
    """A report as JSON has it; a version that knew no watch wrote none."""
    watch = written.get("watch")
    return EpochReport(**{**written, "watch": None if watch is None else Watch(**watch)})


@dataclasses.dataclass(frozen=True)
class AsSaved(Rule):
    """The weights of a saved model of the same parts, as they are; nothing is trained.

    Args:
        path: the directory of the saved model.
        sha256: of its file of weights, which it must still have.

    Raises:
        InputError: at training, where the weights are not there or do not fit the model.
        DamagedError: at training, where the weights are others.

    Example:
        >>> AsSaved("models/mine", "00" * 32).path
        'models/mine'

    Source:
        spikeproof.
    """

    path: str
    sha256: str

    @property
    def weights(self) -> Path:
        """The file of weights."""
        return Path(self.path) / "weights.safetensors"

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
        """Load the weights; neither the data nor the key is used."""
        content = read(self.weights)
        if hashlib.sha256(content).hexdigest() != self.sha256:
            raise DamagedError(f"{self.weights} changed since the study was read")
        tensors, _ = parse(content, str(self.weights))
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(
                f"{self.weights}: expected weights of this model",
                " ".join(str(error).split())[:200],
                "Name the saved model whose parts these are.",
            ) from error
        model.to(device).eval()
        return History(())

"""A model as it is asked: in whole blocks, so that no answer depends on the batch, and with draws by name.

Floating-point sums over the rows of an incomplete block run in another order than over those of a whole one.
Batches are therefore padded, also in passes with gradients.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.search import show
from spikeproof.errors import InputError, SpikeproofError, of_the_machine
from spikeproof.evaluation.outcomes import Answers
from spikeproof.keys import Key
from spikeproof.networks.classifier import Inference
from spikeproof.protocols import BLOCK, Encoder, Model, Watched

__all__ = ["Observable", "Steady", "answers_of", "batches", "is_stochastic", "whole"]


@runtime_checkable
class Observable(Protocol):
    """A model that returns its inner activity together with the logits."""

    def infer(self, images: Tensor, key: Key | None = None) -> Inference:
        """Logits, silent outputs and spikes."""


def _called(model: Model, images: Tensor, key: Key | None) -> Tensor:
    """The answer of a model.

    Raises:
        InputError: the model raises an error of its own.
    """
    try:
        return model(images, key)
    except SpikeproofError:
        raise
    except Exception as error:
        if of_the_machine(error):
            raise
        raise InputError(
            f"A model answers images {list(images.shape)} with logits [B, K]",
            f"{type(error).__name__}: {error}",
            f"The error is the model's own, {_place(error)}: mend it, or give it images that it takes.",
        ) from error


LIBRARIES = (Path(__file__).parents[2], Path(torch.__file__).parent)
"""Where the code of this package and of PyTorch lies, which is not the model's own."""


def _place(error: Exception) -> str:
    """The last line of the model's own code on the way to an error; that of a library where there is none."""
    frames = [(f.f_code.co_filename, line) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [each for each in frames if not any(map(Path(each[0]).is_relative_to, LIBRARIES))]
    if not frames:
        return "in its call"
    file, line = (own or frames)[-1]
    return f"in line {line} of {Path(file).name}"


@dataclass(frozen=True)
class Steady:
    """A model whose answers do not depend on the batch, not even in the last bit.

    Args:
        model: the model itself.
        most: examples of a pass; without gradients, more of them take several passes. None for any number.
    """

    model: Model
    most: int | None = None
    transparent: ClassVar[bool] = True
    """Every image gets the answer of the model inside."""

    @property
    def stochastic(self) -> bool:
        return is_stochastic(self.model)

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "B K"]:
        if self.most is not None and len(images) > self.most and not torch.is_grad_enabled():
            parts = [torch.arange(len(images))[rows] for rows in batches(len(images), self.most)]
            return torch.cat([self(images[part], None if key is None else key.take(part)) for part in parts])
        padded, key = _padded(images, key)
        logits: Tensor = _called(self.model, padded, key)
        if not isinstance(logits, Tensor) or logits.ndim < 1 or len(logits) != len(padded):
            raise InputError(
                "A model answers one row of logits per image",
                f"shape {list(getattr(logits, 'shape', []))} for {len(padded)} images",
                "Flatten or average over time inside the model.",
            )
        return logits[: len(images)]

    @property
    def encoder(self) -> Encoder:
        """The encoder, if the model has one."""
        encoder: Encoder = self.model.encoder  # type: ignore[attr-defined]
        return encoder

    def read(self, encoded: Float[Tensor, "T B *F"]) -> Float[Tensor, "B K"]:
        """Logits for an encoded input, if the model accepts one."""
        short = -encoded.shape[1] % BLOCK
        rest = encoded[:, -1:].detach().expand(-1, short, *encoded.shape[2:])
        logits: Tensor = self.model.read(torch.cat([encoded, rest], 1))  # type: ignore[attr-defined]
        return logits[: encoded.shape[1]]

    def watch(
        self, images: Float[Tensor, "B *F"], key: Key | None = None, *, potential: bool = False
    ) -> Watched:
        """The activity of the output layer, if the model returns it."""
        padded, key = _padded(images, key)
        outputs, decoder, v = show(self.model, padded, key, potential)
        return Watched(outputs[:, : len(images)], decoder, None if v is None else v[:, : len(images)])


def _padded(images: Tensor, key: Key | None) -> tuple[Tensor, Key | None]:
    """Pad a batch to whole blocks with copies of the last image, which share its randomness only."""
    short = -len(images) % BLOCK
    if not short:
        return images, key
    if key is not None and key.rows is not None:
        key = key.for_rows(key.rows + key.rows[-1:] * short)
    return torch.cat([images, images[-1:].detach().expand(short, *images.shape[1:])]), key


@torch.no_grad()
def answers_of(model: Model, x: Tensor, y: Tensor, key: Key, draws: int, clean: bool = False) -> Answers:
    """The answers of `draws` forward passes.

    An answer of NaN counts as an error of the model on an attacked image; on a clean image the model is
    refused.
    """
    inferences = [_infer(model, x, key.fold("draw", i)) for i in range(draws)]
    for answer in inferences:
        _check_answer(answer.logits, x, y, clean)
    return Answers(inferences, y)


def _infer(model: Model, x: Tensor, key: Key) -> Inference:
    if isinstance(model, Observable):
        answer = model.infer(*_padded(x, key))
        return Inference(*(part[: len(x)] for part in answer))
    logits = Steady(model)(x, key)
    if not logits.is_floating_point():
        raise InputError(
            "A model answers with logits in floating point",
            str(logits.dtype),
            "Return logits.float(), or the real part.",
        )
    unknown = logits.new_full((len(x),), torch.nan)
    nothing = logits.new_zeros((len(x), 0), dtype=torch.int64)
    return Inference(logits, (logits == 0).all(-1), unknown, unknown, nothing)


def _check_answer(logits: Tensor, x: Tensor, y: Tensor, clean: bool) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        raise InputError(
            f"A model answers {len(x)} images with logits [{len(x)}, K]",
            f"shape {list(getattr(logits, 'shape', []))}",
            "Flatten or average over time inside the model.",
        )
    if int(y.max()) >= logits.shape[1]:
        raise InputError(
            f"Labels below {logits.shape[1]}, the number of logits",
            f"label {int(y.max())}",
            "Check that model and data set have the same classes.",
        )
    if clean and (broken := int(logits.isnan().any(1).sum())):
        raise InputError(
            "A model answers with numbers",
            f"NaN on {broken} of {len(x)} clean images",
            "Mend the model; if its training diverged, lower the learning rate.",
        )


def is_stochastic(model: Model) -> bool:
    """Whether equal images can get different logits."""
    return bool(getattr(model, "stochastic", False))


def whole(size: int) -> int:
    """The size of batches that hold no padding: a batch of 100 would be padded to 128 in every pass.

    Example:
        >>> [whole(size) for size in (10, 32, 100)]
        [10, 32, 128]
    """
    return size if size < BLOCK else -(-size // BLOCK) * BLOCK


def batches(n: int, size: int) -> Iterator[slice]:
    """The rows of batches of one size; the last may be smaller.

    Example:
        >>> list(batches(5, 3))
        [slice(0, 3, None), slice(3, 6, None)]
    """
    return (slice(start, start + size) for start in range(0, n, size))

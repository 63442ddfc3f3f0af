"""A callable as a model: calls with images alone, and a check that equal calls give equal answers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, acting_as_in_training, exported, in_training

__all__ = [
    "ALIKE",
    "Called",
    "LeakError",
    "Plain",
    "Shaped",
    "answering",
    "by_call",
    "check_keeps_images",
    "check_repeats",
    "unlike",
]

ALIKE = 1e-3
"""Largest relative difference between logits that rounding can explain."""

_KEY = "key"
"""Name of the parameter of a call that takes a key."""

CHECKED = 4
"""Number of images on which a model is checked before it is measured."""


class LeakError(InputError):
    """A model whose answers depend on earlier forward passes, or on randomness that no key controls."""


@dataclass(frozen=True)
class Plain:
    """A callable of images alone as a `Model`; it is deterministic, so it ignores the key.

    Args:
        model: maps images to logits.

    Example:
        >>> Plain(lambda images: images.flatten(1))(torch.ones(2, 1, 1, 3), Key.of(0)).shape
        torch.Size([2, 3])
    """

    model: Any

    @property
    def training(self) -> bool:
        """Whether the callable is a module in training mode."""
        return in_training(self.model)

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None, /) -> Float[Tensor, "B K"]:
        logits: Tensor = self.model(images)
        return logits


class _Declaring:
    """What a model around another one declares is what that one declares."""

    model: Model

    @property
    def stochastic(self) -> bool:
        """Whether equal examples can get different logits."""
        return bool(getattr(self.model, "stochastic", False))

    @property
    def training(self) -> bool:
        """Whether the model is a module in training mode."""
        return in_training(self.model)


@dataclass(frozen=True)
class Called(_Declaring):
    """A model of which nothing but its call is known.

    Args:
        model: maps images and a key to logits.

    Example:
        >>> Called(lambda x, key=None: 2 * x)(torch.ones(1, 2)).tolist()
        [[2.0, 2.0]]
    """

    model: Model

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None, /) -> Float[Tensor, "B K"]:
        return self.model(images, key)


@dataclass(frozen=True)
class Shaped(_Declaring):
    """A model of examples of any shape as a model of images.

    Args:
        model: maps examples `[B, *shape]` to logits.
        shape: shape of one example.

    Shapes:
        images `[B, 1, H, W]` -> logits `[B, K]`

    Example:
        >>> Shaped(lambda x, key=None: x[:, :2], (3,))(torch.ones(4, 1, 1, 3)).shape
        torch.Size([4, 2])
    """

    model: Model
    shape: tuple[int, ...]

    def __call__(self, images: Float[Tensor, "B 1 H W"], key: Key | None = None, /) -> Float[Tensor, "B K"]:
        return self.model(images.reshape(-1, *self.shape), key)


def answering(model: Any) -> Model:
    """The model itself if its call takes a key; otherwise the callable wrapped as a `Model`.

    A call takes a key if its second positional parameter is called `key` or has no default. A `Classifier`
    with a hook, or with a method of its own in place of one of ours, is taken for a function: its layers are
    not what its call answers.

    Raises:
        InputError: the model cannot be called, or is an exported module that acts as in training or takes
            batches of one size only.

    Example:
        >>> answering(nn.Linear(3, 2))
        Plain(model=Linear(in_features=3, out_features=2, bias=True))
    """
    if not callable(model):
        raise InputError(
            "A model is a callable that maps images to logits",
            repr(model)[:80],
            "Pass a module or a function.",
        )
    if type(model).__module__.partition(".export")[0] == "torch" and hasattr(model, "module_call_graph"):
        raise InputError(
            "A model is a callable that maps images to logits",
            "a program of torch.export",
            "Pass its module: program.module().",
        )
    if exported(model):
        _check_exported(model)
    if isinstance(model, Classifier) and model.altered:
        return Called(model)
    found: Model = model if isinstance(model, Plain) or _takes_key(model) else Plain(model)
    return found


def _check_exported(model: torch.fx.GraphModule) -> None:
    """Refuse an exported module that acts as in training, or takes batches of one size only.

    Raises:
        InputError: it does.
    """
    if trained := acting_as_in_training(model):
        raise InputError(
            "Evaluation needs a model in evaluation mode",
            f"a module that was exported in training mode, with {' and '.join(sorted({*trained}))}",
            "Call model.eval() before torch.export.export.",
        )
    for node in model.graph.nodes:
        value = node.meta.get("val") if node.op == "placeholder" else None
        if isinstance(value, Tensor) and value.ndim and isinstance(value.shape[0], int):
            raise InputError(
                "A model takes batches of every size",
                f"a module that was exported for batches of {value.shape[0]}",
                'Export it with dynamic_shapes=({0: torch.export.Dim("batch")},).',
            )


def by_call(model: object) -> bool:
    """Whether a model is one of ours of which nothing but its call is measured, as its layers are altered.

    Example:
        >>> by_call(nn.Linear(3, 2))
        False
    """
    return isinstance(model, Called) or (isinstance(model, Classifier) and model.altered)


def _inside(model: nn.Module) -> object:
    """The module to which `DataParallel` or `torch.compile` hands its call on; None for others."""
    return getattr(model, "_orig_mod", model.module if isinstance(model, nn.DataParallel) else None)


def _takes_key(model: Callable[..., object]) -> bool:
    while isinstance(model, nn.Module) and isinstance(inner := _inside(model), nn.Module):
        model = inner
    try:
        signature = inspect.signature(model.forward if isinstance(model, nn.Module) else model)
    except (TypeError, ValueError):  # a callable written in C may have no signature
        return False
    positional = [
        p for p in signature.parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):
        return True
    if len(positional) < 2:
        return False
    second = positional[1]
    return second.name == _KEY or second.default is second.empty


def unlike(a: Float[Tensor, "B *K"], b: Float[Tensor, "B *K"]) -> Bool[Tensor, "B"]:
    """Which images have answers that differ by more than rounding, beside the largest finite one.

    Example:
        >>> unlike(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.1]])).tolist()
        [False, True]
        >>> low = -torch.inf
        >>> unlike(torch.tensor([[1.0, low], [1.0, low]]), torch.tensor([[1.0, low], [2.0, low]])).tolist()
        [False, True]
    """
    a, b = (answer.reshape(len(answer), -1) for answer in (a, b))
    size = torch.maximum(a.abs(), b.abs())
    scale = size.where(size.isfinite(), 0).amax().clamp(min=torch.finfo(torch.float32).tiny)
    apart = ((a - b).abs() > ALIKE * scale) | (a.isnan() != b.isnan())  # equal infinities have no difference
    return apart.any(1)


@torch.no_grad()
def check_keeps_images(model: Model, x: Float[Tensor, "B *F"], key: Key) -> None:
    """Refuse a model that changes its images in place, because it is then measured on other images.

    Raises:
        InputError: a call changes the images.

    Example:
        >>> check_keeps_images(lambda images, key=None: images.mul_(2), torch.ones(1, 2), Key.of(0))
        Traceback (most recent call last):
        spikeproof.errors.InputError: A model leaves its images as they are: got images that a call has
        changed in place. Work on a copy: `x = x - mean` in place of `x -= mean`, or `x.clone()` first.
    """
    few = x[:CHECKED].clone()
    try:
        model(few, key.fold("repeat", "kept").for_rows(range(len(few))))
    except Exception:  # the measurement itself reports what is wrong with the answers
        return
    if not torch.equal(few.nan_to_num(), x[:CHECKED].nan_to_num()):
        raise InputError(
            "A model leaves its images as they are",
            "images that a call has changed in place",
            "Work on a copy: `x = x - mean` in place of `x -= mean`, or `x.clone()` first.",
        )


@torch.no_grad()
def check_repeats(model: Model, x: Float[Tensor, "B *F"], key: Key) -> None:
    """Refuse a model that answers equal calls differently, because its numbers would depend on their order.

    A few images are passed forward twice under one key, with other images in between.

    Raises:
        LeakError: the second answer differs by more than rounding, or the second call fails.

    Example:
        >>> check_repeats(lambda images, key=None: images, torch.eye(3), Key.of(0))
    """
    few = x[:CHECKED]
    rows = key.fold("repeat").for_rows(range(len(few)))
    try:
        first = model(few, rows)
    except Exception:  # the measurement itself reports what is wrong with the answers
        return
    try:
        model(few.flip(0).roll(1, -1), rows)
        second = model(few, rows)
    except Exception as raised:  # a foreign model may raise any error
        error = raised.__cause__ or raised
        raise LeakError(
            "A model answers every call as if it were the first",
            f"{type(error).__name__} at the second call: {error}",
            "Reset its state at the beginning of every call.",
        ) from error
    if not isinstance(first, Tensor) or first.shape != second.shape or first.ndim < 1:
        return  # not logits, which the measurement itself refuses
    if differs := int(unlike(first, second).sum()):
        raise LeakError(
            "A model answers equal calls equally",
            f"different logits for {differs} of {len(few)} images in a second forward pass",
            "Reset its state (membrane potentials, running statistics, caches) at the start of every call. "
            "If it draws random numbers, let it take them from the key and declare `stochastic = True`.",
        )

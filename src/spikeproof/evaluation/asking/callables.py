"""A callable as a model: calls with images alone, and what is known of a callable from outside."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, acting_as_in_training, exported, in_training

__all__ = [
    "Called",
    "Plain",
    "Shaped",
    "answering",
    "by_call",
]

_KEY = "key"
"""Name of the parameter of a call that takes a key."""


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

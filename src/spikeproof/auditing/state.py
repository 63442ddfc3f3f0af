"""Does an answer depend on earlier forward passes? Comparisons of a model with itself and with fresh copies.

An answer may depend on the image and on nothing else. Hidden state changes the answers to the same images
after forward passes on other images, in another order of the batch, or while gradients are recorded. A cache
changes the answers to images close to those of earlier forward passes; a copy that was made before any
forward pass shows this.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from types import CellType, FunctionType
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

__all__ = ["NEAR", "Remembered", "copied", "remembered"]

NEAR = (1 / 255, 8 / 255, 1 / 16)
"""Changes of every pixel, in units of pixel value, that make images close to others."""

Answer = Callable[[Any, Tensor, Tensor], Tensor]
"""`answer(model, images, rows)`: the logits of a model for images, with the randomness of these rows."""
Differ = Callable[[Tensor, Tensor], Bool[Tensor, "B"]]


class Remembered(NamedTuple):
    """Shares of images whose answer differs from an earlier one, or from the answer of a fresh copy.

    Args:
        after: after forward passes on other images.
        order: in a batch in the opposite order.
        recording: while gradients are recorded.
        near: on images close to those of earlier forward passes, in comparison with a copy that has not
            processed these; None where there is no copy.
        later: after all other forward passes, in comparison with a fresh copy; None where there is no copy.
    """

    after: float
    order: float
    recording: float
    near: float | None
    later: float | None


def remembered(
    model: object,
    copies: tuple[object, object] | None,
    x: Float[Tensor, "B *F"],
    others: Float[Tensor, "B *F"],
    signs: Float[Tensor, "B *F"],
    answer: Answer,
    differ: Differ,
) -> Remembered:
    """Compare the answers of a model under several histories of forward passes.

    The comparison with a copy uses images close to the means of neighbouring images in `x`. The model
    processes these means first, and the copy does not.

    Args:
        model: called through `answer` only.
        copies: two copies of the model, made before any forward pass; None where the model cannot be copied.
        x: images in [0, 1].
        others: images that differ much from these.
        signs: a direction of -1 and 1 for each image; 0 where values cannot change by a small amount.
        answer: gives the logits of the model, or of a copy.
        differ: tells whether answers differ by more than rounding.

    Example:
        >>> def cached(kept):
        ...     def logits(z):
        ...         for old, known in kept:
        ...             if (z - old).abs().max() < 0.1:
        ...                 return known
        ...         kept.append((z, z))
        ...         return z
        ...     return logits
        >>> model, x = cached([]), torch.eye(3)
        >>> copies = copied(model), copied(model)
        >>> answer, differ = lambda m, z, rows: m(z), lambda a, b: (a != b).any(1)
        >>> seen = remembered(model, copies, x, 1 - x, torch.ones(3, 3), answer, differ)
        >>> seen.after, seen.near
        (0.0, 1.0)
    """
    rows = torch.arange(len(x))
    before = answer(model, x, rows)
    turned = answer(model, x.flip(0), rows.flip(0)).flip(0)
    answer(model, others, rows)
    again = answer(model, x, rows)
    with torch.enable_grad():
        recorded = answer(model, x.detach().clone().requires_grad_(), rows).detach()
    last = answer(model, x, rows)
    near, later = None, None
    if copies is not None:
        between = (x + x.roll(1, 0)) / 2 if bool(signs.any()) else x.roll(1, -1)
        nearly = [(between + length * signs).clamp(0, 1) for length in NEAR]
        answer(model, between, rows)
        cached = [answer(model, images, rows) for images in nearly]
        fresh = [answer(copies[0], images, rows) for images in reversed(nearly)][::-1]
        changed = torch.stack([differ(a, b) for a, b in zip(cached, fresh, strict=True)])
        near, later = _share(changed.any(0)), _share(differ(last, answer(copies[1], x, rows)))
    return Remembered(
        _share(differ(before, again) | differ(before, last)),
        _share(differ(before, turned)),
        _share(differ(before, recorded)),
        near,
        later,
    )


def _share(changed: Tensor) -> float:
    return float(changed.float().mean())


def copied(model: Any) -> Any:
    """A copy that shares no mutable state with the model; None where the model cannot be copied.

    Functions are copied with the variables that they close over.
    """
    try:
        return _copy(model, {})
    except Exception:  # a foreign model may refuse to be copied in any way
        return None


def _copy(model: Any, memo: dict[int, Any]) -> Any:
    if id(model) in memo:
        return memo[id(model)]
    if isinstance(model, FunctionType):
        return _function(model, memo)
    if isinstance(model, functools.partial):
        options = {name: _copy(value, memo) for name, value in model.keywords.items()}
        return functools.partial(_copy(model.func, memo), *(_copy(v, memo) for v in model.args), **options)
    for part in model.modules() if isinstance(model, nn.Module) else [model]:
        for value in list(getattr(part, "__dict__", {}).values()):
            if isinstance(value, FunctionType):
                _function(value, memo)  # deepcopy finds it in the memo
    if is_dataclass(model) and not isinstance(model, (type, nn.Module)) and hasattr(model, "model"):
        changes: dict[str, Any] = {"model": _copy(model.model, memo)}
        return replace(model, **changes)
    return copy.deepcopy(model, memo)


def _function(function: FunctionType, memo: dict[int, Any]) -> FunctionType:
    if id(function) in memo:
        kept: FunctionType = memo[id(function)]
        return kept
    cells = function.__closure__
    new = None if cells is None else tuple(CellType() for _ in cells)
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, new
    )
    made.__kwdefaults__ = function.__kwdefaults__
    memo[id(function)] = made
    for old, cell in zip(cells or (), new or (), strict=True):
        cell.cell_contents = _copy(old.cell_contents, memo)
    made.__defaults__ = _copy(function.__defaults__, memo)
    made.__kwdefaults__ = _copy(function.__kwdefaults__, memo)
    return made

"""Does an answer depend on what the model was asked before? Comparisons with itself and with a fresh copy.

An answer may depend on the image and on nothing else. Hidden state shows when the model is asked about the
same images again after others, in another order or while gradients are recorded, and when it is asked about
images that are almost those it has seen, beside a copy that was made before it had seen any.
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
"""Changes of every pixel by which images are almost others, in units of the range of values."""

Ask = Callable[[Any, Tensor, Tensor], Tensor]
"""`ask(model, images, rows)`: logits of images with the randomness of these rows."""
Differ = Callable[[Tensor, Tensor], Bool[Tensor, "B"]]


class Remembered(NamedTuple):
    """Shares of images that were answered otherwise than before, or than by a copy that had seen nothing.

    Args:
        after: asked again after other images.
        order: asked in the opposite order.
        recording: asked while gradients are recorded.
        near: images that are almost others, asked of the model after these and of a copy that has not seen
            these; None where there is no copy.
        later: asked of a copy that has seen nothing; None where there is no copy.
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
    ask: Ask,
    differ: Differ,
) -> Remembered:
    """Ask a model about images in several ways.

    The images that are almost others lie near the means of neighbours in `x`, which nobody has asked about.

    Args:
        model: asked through `ask` alone.
        copies: two copies of the model, made before it was asked; None where there can be none.
        x: images in [0, 1].
        others: quite different images.
        signs: a direction per image, -1 and 1; 0 where nothing lies between two values.
        ask: of this or another model, about images with the randomness of rows.
        differ: whether answers differ by more than rounding.

    Example:
        >>> def cached(kept):
        ...     def answer(z):
        ...         for old, known in kept:
        ...             if (z - old).abs().max() < 0.1:
        ...                 return known
        ...         kept.append((z, z))
        ...         return z
        ...     return answer
        >>> model, x = cached([]), torch.eye(3)
        >>> copies = copied(model), copied(model)
        >>> ask, differ = lambda m, z, rows: m(z), lambda a, b: (a != b).any(1)
        >>> seen = remembered(model, copies, x, 1 - x, torch.ones(3, 3), ask, differ)
        >>> seen.after, seen.near
        (0.0, 1.0)
    """
    rows = torch.arange(len(x))
    before = ask(model, x, rows)
    turned = ask(model, x.flip(0), rows.flip(0)).flip(0)
    ask(model, others, rows)
    again = ask(model, x, rows)
    with torch.enable_grad():
        recorded = ask(model, x.detach().clone().requires_grad_(), rows).detach()
    last = ask(model, x, rows)
    near, later = None, None
    if copies is not None:
        between = (x + x.roll(1, 0)) / 2 if bool(signs.any()) else x.roll(1, -1)
        nearly = [(between + length * signs).clamp(0, 1) for length in NEAR]
        ask(model, between, rows)
        told = [ask(model, images, rows) for images in nearly]
        fresh = [ask(copies[0], images, rows) for images in reversed(nearly)][::-1]
        changed = torch.stack([differ(a, b) for a, b in zip(told, fresh, strict=True)])
        near, later = _share(changed.any(0)), _share(differ(last, ask(copies[1], x, rows)))
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
    """A copy that shares nothing that could change; None where there can be none.

    Functions are copied with what they close over.
    """
    try:
        return _copy(model, {})
    except Exception:  # whatever a foreign model refuses to have copied
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
                _function(value, memo)  # deepcopy takes it from there
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

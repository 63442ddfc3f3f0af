"""The state that a network keeps from one call to the next: which attribute of which module has changed."""

from __future__ import annotations

from collections.abc import Iterable
from types import FunctionType

import torch
from torch import Tensor, nn

__all__ = ["changed", "contents"]

Contents = dict[str, object]
"""Name of an attribute, with its module, -> its value at one time."""

_DEPTH = 3  # of lists in lists, as recordings of spikes are


def contents(parts: Iterable[tuple[str, nn.Module]], call: object = None) -> Contents:
    """The values of all attributes that could hold a state.

    Args:
        parts: modules with their names.
        call: a function that may keep a state beside the modules, in what it closes over.

    Example:
        >>> net = nn.Module(); net.count = 3
        >>> contents([("net", net)])["net.count"]
        3
    """
    found: Contents = {}
    for name, module in parts:
        for attribute, value in (*vars(module).items(), *module._buffers.items()):
            if attribute.startswith("_"):
                continue
            found[f"{name}.{attribute}"] = _copied(value, _DEPTH)
    if isinstance(call, FunctionType):
        for variable, cell in zip(call.__code__.co_freevars, call.__closure__ or (), strict=True):
            found[f"{call.__name__}, variable {variable}"] = _copied(cell.cell_contents, _DEPTH)
    return found


def changed(before: Contents, after: Contents) -> list[str]:
    """Names whose value differs, in order.

    Example:
        >>> changed({"net.count": 3, "net.x": 1}, {"net.count": 4, "net.x": 1})
        ['net.count']
    """
    return [name for name, value in after.items() if not _same(before.get(name), value)]


def _copied(value: object, depth: int) -> object:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if depth and isinstance(value, (list, tuple)):
        return [_copied(part, depth - 1) for part in value]
    if depth and isinstance(value, dict):
        return {str(name): _copied(part, depth - 1) for name, part in value.items()}
    if depth and not isinstance(value, (type, nn.Module, FunctionType)) and hasattr(value, "__dict__"):
        return {name: _copied(part, depth - 1) for name, part in vars(value).items()}
    return None


def _same(a: object, b: object) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    return type(a) is type(b) and bool(a == b)

"""Does an answer depend on earlier forward passes? Comparisons of a model with itself and with fresh copies.

An answer may depend on the image and on nothing else. Hidden state changes the answers to the same images
after forward passes on other images, in another order of the batch, or while gradients are recorded. A cache
changes the answers to images close to those of earlier forward passes; a copy that was made before any
forward pass shows this.
"""

from __future__ import annotations

import collections
import copy
import functools
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
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

    Functions are copied with the variables that they close over and with the global variables that they use.
    Classes of a user's program are copied if they hold state or their methods use global state, as a cache
    or a counter may be at any of these places.

    Example:
        >>> def counted(calls):
        ...     return lambda images: calls.append(1) or images + len(calls)
        >>> model = counted([])
        >>> other = copied(model)
        >>> [float(call(torch.zeros(1))) for call in (model, model, other)]
        [1.0, 2.0, 1.0]
    """
    for copier in (_Copier(), _Copier(world=False)):
        try:
            return copier.copy(model)
        except Exception:  # a foreign model may refuse to be copied in any way
            continue
    return None


_STATE = (list, dict, set, bytearray, collections.deque, Tensor, nn.Module)
"""Values that a call can change in place, of which there may be one for all calls."""


class _Copier:
    """Copies one model with what belongs to it.

    Args:
        world: whether global variables, modules and classes of the user's program belong to it.
    """

    def __init__(self, world: bool = True) -> None:
        self.world = world
        self.memo: dict[int, Any] = {}
        self.searched: set[int] = set()
        self.kept: list[object] = []  # an identity is that of one object as long as the object exists

    def copy(self, model: Any) -> Any:
        """The model, a part of it, or a value that it uses."""
        if id(model) in self.memo:
            return self.memo[id(model)]
        self.kept.append(model)
        if isinstance(model, FunctionType):
            return self._function(model)
        if isinstance(model, MethodType):
            return MethodType(self.copy(model.__func__), self.copy(model.__self__))
        if isinstance(model, functools.partial):
            options = {name: self.copy(value) for name, value in model.keywords.items()}
            return functools.partial(self.copy(model.func), *map(self.copy, model.args), **options)
        if isinstance(model, type):
            return self._class(model)
        parts = list(model.modules()) if isinstance(model, nn.Module) else [model]
        for part in parts:
            self._within(part)
        if is_dataclass(model) and not isinstance(model, (type, nn.Module)) and hasattr(model, "model"):
            changes: dict[str, Any] = {"model": self.copy(model.model)}
            return replace(model, **changes)
        made = copy.deepcopy(model, self.memo)
        for part in parts:
            if (other := self._class(type(part))) is not type(part):
                self.memo.get(id(part), made).__class__ = other
        return made

    def _within(self, part: object) -> None:
        """Copy what an object holds that `deepcopy` shares or refuses, for it to find in the memo."""
        if id(part) in self.searched:
            return
        self.searched.add(id(part))
        for value in list(getattr(part, "__dict__", {}).values()):
            if isinstance(value, FunctionType):
                self.copy(value)
            elif isinstance(value, Tensor) and not value.is_leaf:
                self.memo[id(value)] = value.detach().clone()
            elif is_dataclass(value) and not isinstance(value, (type, nn.Module)):
                self._within(value)

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__
        new = None if cells is None else tuple(CellType() for _ in cells)
        own = self.world and _of_user(function.__globals__)
        variables = dict(function.__globals__) if own else function.__globals__
        made = FunctionType(function.__code__, variables, function.__name__, function.__defaults__, new)
        made.__kwdefaults__ = function.__kwdefaults__
        self.memo[id(function)] = made
        for old, cell in zip(cells or (), new or (), strict=True):
            cell.cell_contents = self.copy(old.cell_contents)
        made.__defaults__ = self.copy(function.__defaults__)
        made.__kwdefaults__ = self.copy(function.__kwdefaults__)
        for name, value in vars(function).items():
            vars(made)[name] = self._or_itself(value)
        if own:
            names = _names(function.__code__)
            variables.update(self._variables(function.__globals__, names))
        return made

    def _variables(self, namespace: dict[str, Any], names: set[str]) -> dict[str, Any]:
        """Copies of the variables of these names that hold state, or use it."""
        found = {}
        for name in names & namespace.keys():
            value = namespace[name]
            if isinstance(value, ModuleType):
                if _of_user(vars(value)):
                    found[name] = ModuleType(value.__name__)
                    vars(found[name]).update(vars(value) | self._variables(vars(value), names))
            elif isinstance(value, _STATE) or _is_users(value):
                found[name] = self._or_itself(value)
        return found

    def _or_itself(self, value: Any) -> Any:
        """A copy; the value itself if it cannot be copied."""
        before = dict(self.memo)
        try:
            return self.copy(value)
        except Exception:  # a foreign object may refuse to be copied in any way
            self.memo.clear()
            self.memo.update(before)  # without objects that are half copied
            return value

    def _class(self, kind: type) -> type:
        """A class of a user's program with its own state and the same bases; other classes themselves."""
        if id(kind) in self.memo:
            other: type = self.memo[id(kind)]
            return other
        if not self.world or not any(map(self._stateful, kind.__mro__)):
            return kind
        inside = {k: v for k, v in vars(kind).items() if k not in ("__dict__", "__weakref__")}
        made = type(kind.__name__, tuple(map(self._class, kind.__bases__)), {"__module__": kind.__module__})
        self.memo[id(kind)] = made
        self.kept.append(kind)
        for name, value in inside.items():
            if isinstance(value, (FunctionType, *_STATE)):
                setattr(made, name, self._or_itself(value))
            elif isinstance(value, property):
                parts = (value.fget, value.fset, value.fdel)
                setattr(made, name, property(*(part and self._or_itself(part) for part in parts)))
            elif isinstance(value, (staticmethod, classmethod)):
                setattr(made, name, type(value)(self._or_itself(value.__func__)))
            elif name != "__module__":
                setattr(made, name, value)
        return made

    def _stateful(self, kind: type) -> bool:
        """Whether a user's class holds state, or its methods use global variables that hold state."""
        if type(kind) is not type or "__slots__" in vars(kind) or not _is_users(kind):
            return False
        variables = _around(kind)
        for name, value in vars(kind).items():
            if isinstance(value, _STATE) and not name.startswith("__"):
                return True
            if isinstance(value, FunctionType) and any(
                isinstance(used, _STATE) or (isinstance(used, (FunctionType, ModuleType)) and _is_users(used))
                for used in map(variables.get, _names(value.__code__))
            ):
                return True
        return False


def _names(code: CodeType) -> set[str]:
    """The names of variables and attributes that a function uses, the functions inside it included."""
    inner = (_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def _is_users(value: object) -> bool:
    """Whether a module, a function, a class or an object belongs to a user's program."""
    if isinstance(value, ModuleType):
        return _of_user(vars(value))
    if isinstance(value, FunctionType):
        return _of_user(value.__globals__)
    kind = value if isinstance(value, type) else type(value)
    return _of_user(_around(kind))


def _around(kind: type) -> dict[str, Any]:
    """The global variables among which a class was defined; none if it is not known."""
    methods = (value for value in vars(kind).values() if isinstance(value, FunctionType))
    in_methods = next((m.__globals__ for m in methods if m.__module__ == kind.__module__), {})
    return getattr(sys.modules.get(kind.__module__), "__dict__", in_methods)


def _of_user(variables: dict[str, Any]) -> bool:
    """Whether global variables are those of a user's program, and not of a library or of spikeproof."""
    name, file = str(variables.get("__name__", "")), variables.get("__file__")
    if not name or name.partition(".")[0] in {"builtins", "torch", __name__.partition(".")[0]}:
        return False
    return file is None or not str(file).startswith(_LIBRARIES)


_LIBRARIES = tuple(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib"))

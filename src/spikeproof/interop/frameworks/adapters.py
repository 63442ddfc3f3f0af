"""Adapters of frameworks: which modules keep a state, how they are reset, and where spikes are computed.

Nothing here imports a framework. A module belongs to one if a class that it derives from was defined in the
framework's package, so a framework is used only if the network has imported it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from types import CellType, FunctionType, MethodType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from spikeproof.errors import InputError
from spikeproof.neurons import IF, LIF, IntegrateAndFire
from spikeproof.neurons.parts.resets import Reset

__all__ = [
    "Adapter",
    "Flow",
    "Layout",
    "NoTwinError",
    "Slope",
    "Spot",
    "Twin",
    "at_rest",
    "derives",
    "integrating",
    "modules_inside",
    "named_parts",
    "opaque",
    "refuse_training",
    "refuse_unfinished",
    "resting",
]


class Layout(Enum):
    """How a network is called, and where time is in what it takes."""

    INSIDE = "inside"
    """One call with images `[B, ...]`; time passes inside."""

    CALLS = "calls"
    """One call for each step with `[B, ...]`; the network, or the caller, keeps the state."""

    FIRST = "first"
    """One call with `[T, B, ...]`."""

    SECOND = "second"
    """One call with `[B, T, ...]`."""

    FLAT = "flat"
    """One call with `[B T, ...]`, the steps of an example one after the other."""


Slope = Callable[[Tensor], Tensor]
"""The distance of a potential from its threshold to the derivative that stands for that of the spike."""


@dataclass(frozen=True)
class Spot:
    """The spike function of one layer of neurons of another framework.

    Args:
        module: the layer of neurons.
        name: the attribute that holds the spike function, or the function that calls it.
        unit: the threshold, the unit of distances from it.
        with_slope: makes the attribute with the same spikes and another derivative.
        stepwise: whether a time step is one call of the module, and not one call of the spike function.
    """

    module: nn.Module
    name: str
    unit: float | Tensor
    with_slope: Callable[[Any, Slope], object]
    stepwise: bool = False


class Flow(Enum):
    """How a feed-forward layer of neurons takes its current in one call; its spikes have the same shape."""

    STEP = "step"
    """One time step, `[B, ...]`."""

    SEQUENCE = "sequence"
    """All time steps, `[T, B, ...]`."""

    EXAMPLES = "examples"
    """All time steps of each example, `[B, T, ...]`."""

    FLAT = "flat"
    """All time steps, `[B T, ...]`, those of an example one after the other."""


class Twin(NamedTuple):
    """A neuron of ours with the equation of a layer of another framework."""

    neuron: IntegrateAndFire
    gain: float
    """What the current of ours is, in currents of theirs."""


def integrating(decay: float, threshold: float, reset: Reset, detach: bool) -> IntegrateAndFire:
    """The neuron of ours whose potential keeps this share from one step to the next.

    Args:
        decay: the share, above 0 and up to 1.
        threshold: at which it fires.
        reset: what a spike does to the potential.
        detach: whether the gradient stops at the reset.

    Raises:
        NoTwinError: another share.

    Example:
        >>> from spikeproof.neurons.parts.resets import ToZero
        >>> integrating(1.0, 0.5, ToZero(), True)
        IF(threshold=0.5, reset=ToZero(), detach_reset=True, synapse=None)
    """
    if decay == 1:
        return IF(threshold, reset, detach)
    if not 0 < decay < 1:
        raise NoTwinError("neurons whose potential keeps a share between 0 and 1", f"a share of {decay}")
    return LIF(threshold, reset, detach, tau=-1.0 / math.log(decay), dt=1.0)


class NoTwinError(Exception):
    """A layer of neurons has no twin here.

    Args:
        expected: what it would have to be.
        got: what it is.
    """

    def __init__(self, expected: str, got: str) -> None:
        super().__init__(f"{expected}: got {got}")
        self.expected, self.got = expected, got


class Adapter:
    """The knowledge about one framework."""

    title: ClassVar[str]
    package: ClassVar[str]
    tested: ClassVar[str]
    """The version with which the tests run."""

    def holds(self, module: nn.Module) -> bool:
        """Whether a module of the framework keeps a state from one call to the next."""
        return False

    def reset(self, module: nn.Module) -> None:
        """Reset one module as the framework does; its dictionaries of state are copies and may be changed."""

    def spots(self, module: nn.Module) -> Iterator[Spot]:
        """The spike functions of a module; none for a module without neurons."""
        yield from ()

    def extent(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        """Number of time steps and of examples that a layer of neurons sees in one call; None for others."""
        return None

    def flow(self, module: nn.Module) -> Flow | None:
        """How current and spikes pass through a layer of neurons that fire step by step.

        None for others, and for neurons that receive their own past output or return something else.
        """
        return None

    def twin(self, module: nn.Module) -> Twin | None:
        """The neuron of ours with the equation of a layer; None for a module without neurons.

        Raises:
            NoTwinError: none has its equation.
        """
        return None

    def check(self, net: nn.Module) -> None:
        """Refuse a network whose settings contradict each other.

        Raises:
            InputError: they do.
        """

    def layouts(self) -> Sequence[Layout]:
        """How networks of the framework are usually called, the likeliest first."""
        return Layout.CALLS, Layout.FIRST, Layout.SECOND


def derives(module: object, package: str, *names: str) -> bool:
    """Whether a class of this package, with one of these names if any are given, is among the bases.

    Example:
        >>> derives(nn.ReLU(), "torch", "Module"), derives(nn.ReLU(), "torchvision")
        (True, False)
    """
    return any(
        cls.__module__.split(".")[0] == package and (not names or cls.__name__ in names)
        for cls in type(module).__mro__
    )


def opaque(module: nn.Module) -> bool:
    """Whether a module is a program of TorchScript, which shows neither its layers nor its calls."""
    return isinstance(module, torch.jit.ScriptModule)


def modules_inside(call: object) -> list[nn.Module]:
    """The networks that a callable calls: itself, or what it closes over, is bound to, names or holds.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> modules_inside(lambda x: net(x).mean(0)) == [net]
        True
    """
    found: dict[int, nn.Module] = {}
    _walk(call, found, set())
    outer = list(found.values())
    nested = {id(part) for module in outer for part in module.modules() if part is not module}
    return [module for module in outer if id(module) not in nested]


def _walk(value: object, found: dict[int, nn.Module], seen: set[int]) -> None:
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, nn.Module):
        found[id(value)] = value
    elif isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            _walk_cell(cell, found, seen)
        for name in value.__code__.co_names:
            inner = value.__globals__.get(name)
            near = isinstance(inner, FunctionType) and inner.__module__ == value.__module__
            if near or isinstance(inner, nn.Module):
                _walk(inner, found, seen)
        for default in (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()):
            _walk(default, found, seen)
    elif isinstance(value, MethodType):
        _walk(value.__self__, found, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *value.keywords.values()):
            _walk(part, found, seen)
    elif isinstance(value, (list, tuple)):
        for part in value:
            _walk(part, found, seen)
    elif isinstance(value, dict):
        for part in value.values():
            _walk(part, found, seen)
    elif not isinstance(value, (type, Tensor)) and hasattr(value, "__dict__") and callable(value):
        for part in vars(value).values():
            _walk(part, found, seen)


def _walk_cell(cell: CellType, found: dict[int, nn.Module], seen: set[int]) -> None:
    try:
        _walk(cell.cell_contents, found, seen)
    except ValueError:  # a name that has no value yet
        return


def named_parts(nets: Iterable[nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    """Every module inside some networks with its name, each once.

    Modules in plain lists, tuples, dictionaries and attributes, which PyTorch does not count among those of
    a network, are found too: `eval()` and a framework's own reset do not reach them. Left out are those there
    that neither hold nor draw anything, such as activations and losses.

    Example:
        >>> [name for name, _ in named_parts([nn.Sequential(nn.ReLU())])]
        ['Sequential', '0']
        >>> net = nn.Sequential(nn.ReLU()); net.more = [nn.Tanh(), nn.Dropout()]
        >>> [name for name, _ in named_parts([net])]
        ['Sequential', '0', 'Sequential.more[1]']
    """
    seen: set[int] = set()
    waiting = [("", net) for net in nets]
    while waiting:
        prefix, net = waiting.pop(0)
        for name, module in net.named_modules():
            if id(module) in seen:
                continue
            seen.add(id(module))
            place = ".".join(filter(None, (prefix, name))) or type(module).__name__
            yield place, module
            waiting += _unregistered(module, place)


_OWN_OF_MODULES = frozenset(vars(nn.Module()))
"""Attributes that PyTorch itself gives to a module."""


def _unregistered(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules in plain attributes of a module, and in lists, tuples and dictionaries there."""
    for name, value in vars(module).items():
        if name not in _OWN_OF_MODULES:
            yield from _within(value, f"{place}.{name}", 3)


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is one of PyTorch's that neither holds nor draws anything."""
    holds = any(True for each in (module.parameters(), module.buffers(), module.children()) for _ in each)
    draws = isinstance(module, (_DropoutNd, nn.RReLU))
    return type(module).__module__.split(".")[0] == "torch" and not holds and not draws


def _within(value: object, place: str, depth: int) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(value, nn.Module):
        if not _is_plain(value):
            yield place, value
    elif depth and isinstance(value, (list, tuple)):
        for i, each in enumerate(value):
            yield from _within(each, f"{place}[{i}]", depth - 1)
    elif depth and isinstance(value, dict):
        for key, each in value.items():
            yield from _within(each, f"{place}[{key!r}]", depth - 1)


_CONTAINERS = ("_buffers", "_memories")


@contextmanager
def at_rest(resting: Sequence[tuple[Adapter, nn.Module]]) -> Iterator[None]:
    """A context in which every module is in its resting state; afterwards its state of before is put back.

    Tensors of state are exchanged and never written to, so a recorded graph that needs them stays valid.

    Args:
        resting: modules that keep a state, each with the adapter that knows it.
    """
    kept = [(module, _shelved(module)) for _, module in resting]
    try:
        for adapter, module in resting:
            adapter.reset(module)
        yield
    finally:
        for module, shelf in kept:
            _put_back(module, shelf)


def _shelved(module: nn.Module) -> dict[str, object]:
    """What a module holds, whose containers of state are replaced by copies."""
    held = dict(vars(module))
    for name in _CONTAINERS:
        if name in held:
            vars(module)[name] = type(held[name])(held[name])
    return held


def _put_back(module: nn.Module, held: dict[str, object]) -> None:
    current = vars(module)
    for name in [name for name in current if name not in held]:
        del current[name]
    current.update(held)


def resting(nets: Iterable[nn.Module], adapters: Sequence[Adapter]) -> list[tuple[Adapter, nn.Module]]:
    """The modules that keep a state, each with the adapter that knows it."""
    return [(a, module) for _, module in named_parts(nets) for a in adapters if a.holds(module)]


def refuse_training(parts: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse networks of which a part is in training mode.

    Raises:
        InputError: some part is, which is named.
    """
    for name, module in parts:
        if module.training:
            raise InputError(
                "A network is measured in evaluation mode",
                f"{name} ({type(module).__name__}) in training mode",
                "Call net.eval() first; it reaches modules of a list if the list is an nn.ModuleList.",
            )


def refuse_unfinished(parts: Iterable[tuple[str, nn.Module]]) -> None:
    """Refuse weights that are no numbers.

    Raises:
        InputError: a parameter or buffer with NaN or infinite values, which is named.
    """
    for name, module in parts:
        for inner, tensor in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise InputError(
                    "A network whose weights are finite numbers",
                    f"NaN or infinity in {name}.{inner}",
                    "Load another checkpoint, or train again with a lower learning rate.",
                )

"""Norse: neurons as functions whose state is handed on; tested with version 1.1.0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeproof.interop.frameworks.adapters import (
    Adapter,
    Flow,
    NoTwinError,
    Slope,
    Spot,
    Twin,
    derives,
    integrating,
)
from spikeproof.interop.frameworks.exchange import fired, rebound
from spikeproof.neurons.parts.resets import BySubtraction, Reset, ToZero

__all__ = ["InNorse"]

_OVER_TIME = ("SNN", "SNNRecurrent")
_ONE_STEP = ("SNNCell", "SNNRecurrentCell")


class InNorse(Adapter):
    """Neurons that call `threshold(x, method, alpha)` in a function of one step, and keep no state."""

    title: ClassVar[str] = "Norse"
    package: ClassVar[str] = "norse"
    tested: ClassVar[str] = "1.1.0"

    def spots(self, module: nn.Module) -> Iterator[Spot]:
        step = getattr(module, "activation", None)
        fires = isinstance(step, FunctionType) and "threshold" in _names(step)
        if fires and derives(module, self.package, *_OVER_TIME, *_ONE_STEP):
            yield Spot(module, "activation", _unit(module), _with_slope)

    def extent(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        if derives(module, self.package, *_OVER_TIME):
            return (len(x), x.shape[1]) if x.ndim > 1 else (len(x), 0)
        return (1, len(x)) if derives(module, self.package, *_ONE_STEP) else None

    def flow(self, module: nn.Module) -> Flow | None:
        if derives(module, self.package, "SNN"):
            return Flow.SEQUENCE
        return Flow.STEP if derives(module, self.package, "SNNCell") else None

    def twin(self, module: nn.Module) -> Twin | None:
        return _twin(module) if derives(module, self.package, *_OVER_TIME, *_ONE_STEP) else None


def _names(step: FunctionType, depth: int = 3) -> set[str]:
    """Names that a function of the framework uses, and the functions of the framework that it calls."""
    names = set(step.__code__.co_names)
    for name in list(names) if depth else ():
        inner = step.__globals__.get(name)
        if isinstance(inner, FunctionType) and inner.__module__.startswith("norse."):
            names |= _names(inner, depth - 1)
    return names


def _unit(module: nn.Module) -> float | Tensor:
    parameters = getattr(module, "p", None)
    parameters = getattr(parameters, "lif", getattr(parameters, "lif_adex", parameters))
    threshold = getattr(parameters, "v_th", getattr(parameters, "v_thresh", 1.0))
    threshold = torch.as_tensor(threshold).detach()
    return torch.where(threshold > 0, threshold, 1.0)


def _with_slope(step: FunctionType, slope: Slope) -> object:
    theirs: Callable[..., Tensor] = sys.modules["norse.torch.functional.threshold"].threshold

    def threshold(x: Tensor, method: str, alpha: float) -> Tensor:
        return fired(lambda v: theirs(v, method, alpha), x, x, slope)

    return rebound(step, {theirs: threshold}, "norse")


def _twin(module: Any) -> Twin:
    norse, kind, p = sys.modules["norse.torch"], type(module), module.p
    if kind not in (norse.IAF, norse.IAFCell, norse.LIFBoxCell):
        raise NoTwinError(
            "neurons with a twin here", f"{kind.__name__} of Norse, whose current has a leak too"
        )
    theta, rest = (torch.as_tensor(value).detach().float() for value in (p.v_th, p.v_reset))
    if theta.numel() != 1 or rest.numel() != 1 or float(rest) or not float(theta) > 0:
        raise NoTwinError("neurons with one positive threshold that are reset to 0", repr(p))
    above = float(torch.nextafter(theta, torch.full_like(theta, torch.inf)))  # it fires above, ours at
    if kind is not norse.LIFBoxCell:
        return Twin(integrating(1.0, above, ToZero(), False), 1.0)
    methods = sys.modules["norse.torch.functional.reset"]
    resets: dict[object, Reset] = {
        methods.reset_value: ToZero(),
        methods.reset_subtract: BySubtraction(),
    }
    lost = module.dt * torch.as_tensor(p.tau_mem_inv).detach()
    if lost.numel() != 1 or float(torch.as_tensor(p.v_leak)) or p.reset_method not in resets:
        raise NoTwinError("neurons with a twin here", f"{kind.__name__} with such options")
    return Twin(integrating(1 - float(lost), above, resets[p.reset_method], False), float(lost))

"""SpikingJelly: modules with memories, in step mode `s` or `m`; tested with version 2.0.0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any, ClassVar

from torch import Tensor, nn

from spikeproof.errors import InputError
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
from spikeproof.interop.frameworks.exchange import Exchanged
from spikeproof.neurons.parts.resets import BySubtraction, ToZero

__all__ = ["InSpikingJelly"]

_NEURONS = ("BaseNode", "SimpleBaseNode")


class _StepMode(Enum):
    SINGLE = "s"
    MULTI = "m"

    @classmethod
    def of(cls, module: nn.Module) -> _StepMode | None:
        """The step mode of a layer, which a container need not state; None for a module without one."""
        mode = getattr(module, "step_mode", None)
        if isinstance(mode, str):
            return cls(mode)
        return cls.MULTI if derives(module, "spikingjelly", "MultiStepModule") else None


class InSpikingJelly(Adapter):
    """Neurons with `surrogate_function`, whose memories their own `reset` brings to rest."""

    title: ClassVar[str] = "SpikingJelly"
    package: ClassVar[str] = "spikingjelly"
    tested: ClassVar[str] = "2.0.0"

    def holds(self, module: nn.Module) -> bool:
        """Whether it has memories or, as in the framework's own reset of a network, a method `reset`."""
        return derives(module, self.package, "MemoryModule") or callable(getattr(module, "reset", None))

    def reset(self, module: nn.Module) -> None:
        memories: dict[str, object] = vars(module).get("_memories", {})
        for name in memories:
            memories[name] = None  # the framework would write into the tensor that a graph may still need
        reset: Callable[[], None] = module.reset  # type: ignore[assignment]
        reset()

    def spots(self, module: nn.Module) -> Iterator[Spot]:
        if derives(module, self.package) and hasattr(module, "surrogate_function"):
            yield Spot(module, "surrogate_function", _unit(module), _with_slope)

    def extent(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        if not any(self.spots(module)):
            return None
        if _StepMode.of(module) is _StepMode.SINGLE:
            return 1, len(x)
        return (len(x), x.shape[1]) if x.ndim > 1 else (len(x), 0)

    def flow(self, module: nn.Module) -> Flow | None:
        if not derives(module, self.package, *_NEURONS) or derives(module, self.package, "LIAFNode"):
            return None
        return Flow.STEP if _StepMode.of(module) is _StepMode.SINGLE else Flow.SEQUENCE

    def twin(self, module: nn.Module) -> Twin | None:
        return _twin(module) if derives(module, self.package, "BaseNode") else None

    def check(self, net: nn.Module) -> None:
        """Refuse layers of both step modes side by side; a container sets those inside as it needs them."""
        modes = dict(_modes(net, type(net).__name__))
        if len(set(modes.values())) > 1:
            some = {mode.value: name for name, mode in reversed(modes.items())}
            raise InputError(
                "SpikingJelly layers side by side have one step mode",
                " and ".join(f"{mode!r} in {name}" for mode, name in sorted(some.items())),
                "Call functional.set_step_mode(net, 'm'), or 's', before wrapping.",
            )


def _modes(module: nn.Module, name: str) -> Iterator[tuple[str, _StepMode]]:
    """Step modes of the outermost layers that have one."""
    for inner, child in module.named_children():
        mode = _StepMode.of(child)
        if mode is not None:
            yield f"{name}.{inner}", mode
        if mode is None or not derives(child, "spikingjelly"):
            yield from _modes(child, f"{name}.{inner}")


def _unit(module: nn.Module) -> float | Tensor:
    """The threshold; 1 where a neuron has none that is a positive number."""
    threshold = getattr(module, "v_threshold", 1.0)
    return threshold if isinstance(threshold, float) and threshold > 0 else 1.0


def _with_slope(spike: Callable[[Tensor], Tensor], slope: Slope) -> Exchanged:
    return Exchanged(spike, slope)


def _twin(module: Any) -> Twin:
    known = sys.modules["spikingjelly.activation_based.neuron"]
    kinds: dict[type, Callable[[], tuple[float, float]]] = {
        known.IFNode: lambda: (1.0, 1.0),
        known.LIFNode: lambda: _leak(1 / module.tau, module.decay_input),
        known.ParametricLIFNode: lambda: _leak(float(module.w.detach().sigmoid()), module.decay_input),
    }
    if type(module) not in kinds or module.v_reset not in (None, 0.0):
        raise NoTwinError("neurons with a twin here", f"{type(module).__name__}(v_reset={module.v_reset})")
    decay, gain = kinds[type(module)]()
    reset = BySubtraction() if module.v_reset is None else ToZero()
    return Twin(integrating(decay, module.v_threshold, reset, module.detach_reset), gain)


def _leak(lost: float, decay_input: bool) -> tuple[float, float]:
    """Decay of the potential, and gain of the input."""
    return 1 - lost, lost if decay_input else 1.0

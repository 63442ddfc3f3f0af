"""snnTorch: neurons whose potentials are hidden in buffers or handed on; tested with version 1.0.0."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from spikeproof.interop.frameworks.exchange import Exchanged
from spikeproof.neurons.parts.resets import Reset, ToZero

__all__ = ["ByAmount", "InSnnTorch"]

_FEED_FORWARD = ("Leaky", "Lapicque", "Synaptic", "Alpha")


class InSnnTorch(Adapter):
    """Neurons with `spike_grad`, whose state is in buffers that belong to no checkpoint.

    snnTorch resets what it finds one level below a network, and then all neurons of these classes in the
    process; here every neuron of this network is reset, however deep, and no other.
    """

    title: ClassVar[str] = "snnTorch"
    package: ClassVar[str] = "snntorch"
    tested: ClassVar[str] = "1.0.0"

    def holds(self, module: nn.Module) -> bool:
        return derives(module, self.package, "SpikingNeuron")

    def reset(self, module: nn.Module) -> None:
        for name in module._non_persistent_buffers_set:
            old = module._buffers.get(name)
            module._buffers[name] = torch.zeros(0) if old is None else old.new_zeros(0)
        reset: Callable[[], object] | None = getattr(module, "reset_mem", None)
        if reset is not None:
            reset()

    def spots(self, module: nn.Module) -> Iterator[Spot]:
        if derives(module, self.package) and "spike_grad" in {**vars(module), **module._modules}:
            stepwise = "mem" in module._buffers
            yield Spot(module, "spike_grad", _unit(module), _with_slope, stepwise)

    def extent(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        if not (self.holds(module) or any(self.spots(module))):
            return None
        return (1, len(x)) if "mem" in module._buffers else (len(x), x.shape[1])

    def flow(self, module: nn.Module) -> Flow | None:
        return Flow.STEP if derives(module, self.package, *_FEED_FORWARD) else None

    def twin(self, module: nn.Module) -> Twin | None:
        return _twin(module) if self.holds(module) else None


@dataclass(frozen=True)
class ByAmount(Reset):
    """Reset by subtraction of an amount that is not the threshold.

    snnTorch subtracts the threshold one step late, when the rest of the potential has leaked: with a decay
    `b` it is `threshold / b` that goes at once.

    Args:
        amount: in units of potential.

    Example:
        >>> ByAmount(2.0)(torch.tensor([3.0, 0.5]), torch.tensor([1.0, 0.0]), 1.0).tolist()
        [1.0, 0.5]
    """

    amount: float

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.sub(v, z, alpha=self.amount, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, -self.amount


def _unit(module: nn.Module) -> float | Tensor:
    """The threshold, of every neuron where each has its own; 1 where it is not positive."""
    threshold = getattr(module, "delta_threshold", getattr(module, "threshold", 1.0))
    if isinstance(threshold, Tensor):
        return torch.where(threshold.detach() > 0, threshold.detach(), 1.0)
    return float(threshold) if threshold > 0 else 1.0


def _with_slope(spike: Callable[[Tensor], Tensor], slope: Slope) -> object:
    return Exchanged(spike, slope)


def _twin(module: Any) -> Twin:
    kind = type(module).__name__
    if type(module) is not sys.modules["snntorch"].Leaky:
        raise NoTwinError("neurons with a twin here", kind)
    plain = module.threshold.numel() == module.beta.numel() == 1 and float(module.graded_spikes_factor) == 1
    if not plain or module.inhibition or module.state_quant:
        raise NoTwinError("neurons with a twin here", f"{kind} with such options")
    if not module.reset_delay:  # a potential twice above the threshold is reset before it is compared
        raise NoTwinError("neurons with a twin here", f"{kind}(reset_delay=False)")
    decay, theta = float(module.beta.detach().clamp(0, 1)), module.threshold.detach()
    if decay <= 0:
        raise NoTwinError("neurons with a memory", f"beta={decay}")
    above = float(torch.nextafter(theta, torch.full_like(theta, torch.inf)))  # it fires above, ours at
    resets: dict[str, Reset] = {
        "subtract": ByAmount(float(theta) / decay),
        "zero": ToZero(),
    }
    if module.reset_mechanism not in resets:
        raise NoTwinError("neurons that are reset", f"reset_mechanism={module.reset_mechanism!r}")
    return Twin(integrating(decay, above, resets[module.reset_mechanism], True), 1.0)

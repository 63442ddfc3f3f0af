"""snnTorch: neurons whose potentials are hidden in buffers or handed on; tested with version 1.0.0."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeproof.interop.frameworks.adapters import Adapter, Slope, Spot, derives
from spikeproof.interop.frameworks.exchange import Exchanged

__all__ = ["InSnnTorch"]


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

    def looks(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        if not (self.holds(module) or any(self.spots(module))):
            return None
        return (1, len(x)) if "mem" in module._buffers else (len(x), x.shape[1])


def _unit(module: nn.Module) -> float | Tensor:
    """The threshold, of every neuron where each has its own; 1 where it is not positive."""
    threshold: Any = getattr(module, "delta_threshold", getattr(module, "threshold", 1.0))
    if isinstance(threshold, Tensor):
        return torch.where(threshold.detach() > 0, threshold.detach(), 1.0)
    return float(threshold) if threshold > 0 else 1.0


def _with_slope(spike: Callable[[Tensor], Tensor], slope: Slope) -> object:
    return Exchanged(spike, slope)

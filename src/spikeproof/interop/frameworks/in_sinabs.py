"""sinabs: layers with buffers for a state, and time on the second axis; tested with version 3.1.3."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from spikeproof.interop.frameworks.adapters import (
    Adapter,
    Flow,
    Layout,
    NoTwinError,
    Slope,
    Spot,
    Twin,
    derives,
)
from spikeproof.interop.frameworks.exchange import fired

__all__ = ["InSinabs"]


class InSinabs(Adapter):
    """Layers whose buffers are their state, with a spike function and a derivative beside it.

    Several spikes at a step are the default of sinabs. The derivative is then taken at the threshold
    `k theta`, k = 1, 2, ..., that is nearest to the potential, with k up to the most spikes of a step.
    """

    title: ClassVar[str] = "sinabs"
    package: ClassVar[str] = "sinabs"
    tested: ClassVar[str] = "3.1.3"

    def holds(self, module: nn.Module) -> bool:
        return derives(module, self.package, "StatefulLayer")

    def reset(self, module: nn.Module) -> None:
        for name, buffer in module._buffers.items():
            if buffer is not None:  # of another batch size, the framework would draw states at random
                module._buffers[name] = buffer.new_zeros(0)

    def spots(self, module: nn.Module) -> Iterator[Spot]:
        if self.holds(module) and getattr(module, "spike_fn", None) is not None:
            yield Spot(module, "spike_fn", _unit(module), _with_slope)

    def extent(self, module: nn.Module, x: Tensor) -> tuple[int, int] | None:
        if not self.holds(module):
            return None
        if derives(module, self.package, "SqueezeMixin"):
            batch, steps = int(getattr(module, "batch_size", -1)), int(getattr(module, "num_timesteps", -1))
            return (len(x) // batch, batch) if batch > 0 else (steps, len(x) // steps)
        return (x.shape[1], len(x)) if x.ndim > 1 else (0, len(x))

    def flow(self, module: nn.Module) -> Flow | None:
        if not any(self.spots(module)) or hasattr(module, "rec_connect"):
            return None
        return Flow.FLAT if derives(module, self.package, "SqueezeMixin") else Flow.EXAMPLES

    def twin(self, module: nn.Module) -> Twin | None:
        if self.holds(module):
            raise NoTwinError("neurons with a twin here", f"{type(module).__name__} of sinabs")
        return None

    def layouts(self) -> Sequence[Layout]:
        return Layout.SECOND, Layout.FLAT


def _unit(module: nn.Module) -> float | Tensor:
    """The threshold; of a layer whose threshold adapts, the one at rest."""
    found = getattr(module, "b0", getattr(module, "spike_threshold", 1.0))
    threshold = torch.as_tensor(found).detach()
    return torch.where(threshold > 0, threshold, 1.0)


@dataclass(frozen=True)
class _Spikes:
    """A spike function of sinabs with another derivative."""

    theirs: Any
    slope: Slope

    @property
    def required_states(self) -> list[str]:
        """What the layer hands over, as its own spike function asks for it."""
        names: list[str] = self.theirs.required_states
        return names

    @property
    def most(self) -> float:
        """The most spikes of one step."""
        if self.theirs is sys.modules["sinabs.activation"].SingleSpike:
            return 1
        return getattr(self.theirs, "max_num_spikes_per_bin", None) or math.inf

    def apply(self, v: Tensor, threshold: Tensor, derivative: object) -> Tensor:
        """Spikes of potentials."""
        steps = (v.detach() / threshold).round().clamp(1, self.most)
        distance = v.detach() - steps * threshold
        return fired(lambda x: self.theirs.apply(x, threshold, derivative), v, distance, self.slope)


def _with_slope(spike: Any, slope: Slope) -> object:
    return _Spikes(spike, slope)

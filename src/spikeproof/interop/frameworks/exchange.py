"""Foreign neurons with other gradients: their own spikes forward, a derivative of ours backward.

The forward pass asks the network's own spike function, whatever it is, so that spikes are the same to the
bit. Nothing is left in the network afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.gradients import GradientRule
from spikeproof.interop.frameworks.adapters import Slope, Spot
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate

__all__ = ["Asked", "Exchanged", "exchanged", "fired", "rebound", "unknown_spikes"]


class _Given(torch.autograd.Function):
    """Given spikes, whose derivative by the potential is given as well."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, spikes: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


def fired(
    spike: Callable[[Tensor], Tensor], x: Float[Tensor, "..."], distance: Float[Tensor, "..."], slope: Slope
) -> Float[Tensor, "..."]:
    """The spikes of a foreign spike function with another derivative.

    Args:
        spike: the spike function.
        x: its argument.
        distance: of the potential from the threshold, which the derivative depends on.
        slope: the derivative by `x`.

    Example:
        >>> x = torch.tensor([0.5, -0.5], requires_grad=True)
        >>> z = fired(lambda v: (v > 0).float(), x, x, lambda d: 2 * torch.ones_like(d))
        >>> z.sum().backward(); z.tolist(), x.grad.tolist()
        ([1.0, 0.0], [2.0, 2.0])
    """
    with torch.no_grad():
        spikes, derivative = spike(x), slope(distance)
    z: Tensor = _Given.apply(x, spikes, derivative)  # type: ignore[no-untyped-call]
    return z


class Exchanged(nn.Module):
    """A spike function of one argument, the distance from the threshold, with another derivative.

    Args:
        spike: the spike function.
        slope: the derivative.
    """

    def __init__(self, spike: Callable[[Tensor], Tensor], slope: Slope) -> None:
        super().__init__()
        self.spike, self.slope = spike, slope
        self.spiking = getattr(spike, "spiking", True)

    def forward(self, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return fired(self.spike, x, x, self.slope)


def rebound(function: FunctionType, names: dict[object, object], package: str) -> FunctionType:
    """A function that calls others in place of some, and so do the functions of its package that it calls.

    Args:
        function: any, which stays as it is.
        names: what is replaced, and by what.
        package: where functions are looked into.

    Example:
        >>> def step(x): return inner(x)
        >>> step.__globals__["inner"] = abs
        >>> rebound(step, {abs: round}, "none")(-1.2)
        -1
    """
    found = dict(function.__globals__)
    for name in function.__code__.co_names:
        value = function.__globals__.get(name)
        if isinstance(value, FunctionType) or callable(value):
            if value in names:
                found[name] = names[value]
            elif isinstance(value, FunctionType) and value.__module__.split(".")[0] == package:
                found[name] = rebound(value, names, package)
    new = FunctionType(
        function.__code__, found, function.__name__, function.__defaults__, function.__closure__
    )
    new.__kwdefaults__ = function.__kwdefaults__
    return new


@dataclass(frozen=True)
class Asked:
    """The source of derivatives in one forward pass: one surrogate for all layers, or a gradient rule.

    Args:
        surrogate: the surrogate, in units of each threshold; None for the network's own.
        rule: a gradient rule that needs only distances from thresholds, or None.
    """

    surrogate: Surrogate | None = None
    rule: GradientRule | None = None

    def __bool__(self) -> bool:
        return self.surrogate is not None or self.rule is not None


@contextmanager
def exchanged(spots: Sequence[Spot], asked: Asked, batch: int) -> Iterator[None]:
    """A context in which these spike functions give the same spikes with other derivatives.

    Args:
        spots: the spike functions.
        asked: the source of derivatives.
        batch: number of examples.

    Raises:
        InputError: a rule that needs more than potentials.
    """
    if not asked:
        yield
        return
    with ExitStack() as stack:
        for layer, spot in enumerate(spots):
            slope = _slope(asked, spot, layer, batch, stack)
            modules: dict[str, Any] = spot.module._modules
            holder = modules if spot.name in modules else vars(spot.module)
            old = holder[spot.name]
            holder[spot.name] = spot.with_slope(old, slope)
            stack.callback(holder.__setitem__, spot.name, old)
        yield


def _slope(asked: Asked, spot: Spot, layer: int, batch: int, stack: ExitStack) -> Slope:
    unit = spot.unit.detach() if isinstance(spot.unit, Tensor) else spot.unit
    surrogate = asked.surrogate
    if asked.rule is None:
        assert surrogate is not None
        return lambda x: surrogate.derivative(x / unit) / unit
    fit = asked.rule.fit(layer, batch, unit)
    stack.callback(fit.end)
    if not spot.stepwise:
        return fit.next_step
    handle = spot.module.register_forward_pre_hook(lambda *_: fit.step())
    stack.callback(handle.remove)
    return fit.slope


def unknown_spikes(answer: Float[Tensor, "..."]) -> list[str]:
    """Names of functions with a backward pass of their own in the graph of an answer, ours left out.

    Example:
        >>> from spikeproof.surrogates import ATan
        >>> unknown_spikes(ATan()(torch.ones(2, requires_grad=True)).sum())
        ['_Step']
    """
    names, seen, waiting = set[str](), set[object](), [answer.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        cls = getattr(node, "_forward_cls", None)
        if cls is not None and cls is not _Given:
            names.add(cls.__name__)
        waiting += [inner for inner, _ in node.next_functions]
    return sorted(names)

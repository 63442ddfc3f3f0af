"""Foreign neurons with other gradients: their own spikes forward, a derivative of ours backward.

The forward pass asks the network's own spike function, whatever it is, so that spikes are the same to the
bit. Nothing is left in the network afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.gradients import GradientRule, RateRule
from spikeproof.interop.frameworks.adapters import Adapter, Flow, NoTwinError, Slope, Spot
from spikeproof.neurons import IntegrateAndFire
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
        rule: a gradient rule that needs only distances from thresholds, or currents and spikes; or None.
    """

    surrogate: Surrogate | None = None
    rule: GradientRule | None = None

    def __bool__(self) -> bool:
        return self.surrogate is not None or self.rule is not None


@contextmanager
def exchanged(layers: Sequence[tuple[Adapter, nn.Module]], asked: Asked, batch: int) -> Iterator[None]:
    """A context in which the spike functions of these layers give the same spikes with other derivatives.

    Args:
        layers: modules, each with the adapter that knows it.
        asked: the source of derivatives.
        batch: number of examples.

    Raises:
        InputError: a rule that needs more than potentials, or than currents and spikes.
    """
    if not asked:
        yield
        return
    if isinstance(asked.rule, RateRule):
        with _by_rates([pair for pair in layers if any(pair[0].spots(pair[1]))], asked.rule):
            yield
        return
    spots = [spot for adapter, module in layers for spot in adapter.spots(module)]
    with ExitStack() as stack:
        for layer, spot in enumerate(spots):
            slope = _slope(asked, spot, layer, batch, stack)
            modules = spot.module._modules
            holder: dict[str, Any] = modules if spot.name in modules else vars(spot.module)
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
    if spot.stepwise:
        handle = spot.module.register_forward_pre_hook(lambda *_: fit.step())
        stack.callback(handle.remove)

    def slope(x: Tensor) -> Tensor:
        if len(x) != batch:
            got = f"{type(spot.module).__name__} with those of {list(x.shape)} for {batch} examples"
            _refuse(asked.rule, "neurons that compute the spikes of one step after the other", got)
        return fit.slope(x) if spot.stepwise else fit.next_step(x)

    return slope


Answer = Tensor | tuple[Tensor, ...]
"""What a layer returns: spikes, or spikes and states."""


class _Layer:
    """Currents and spikes of a layer of neurons in one forward pass, which decide its derivative afterwards.

    Args:
        adapter: that of the framework.
        module: the layer.
        rule: the rule that differentiates rates.

    Raises:
        InputError: the rule is not defined for the layer.
    """

    def __init__(self, adapter: Adapter, module: nn.Module, rule: RateRule) -> None:
        flow, self.name, self.rule = adapter.flow(module), type(module).__name__, rule
        if flow is None:
            _refuse(rule, "feed-forward neurons that fire step by step", f"{self.name} of {adapter.title}")
        try:
            twin = adapter.twin(module)
        except NoTwinError as why:
            if rule.by_equation:
                _refuse(rule, why.expected, why.got)
            twin = None
        self.neuron: IntegrateAndFire | None = None if twin is None else twin.neuron
        self.scale = 1.0 if twin is None else twin.gain
        if self.neuron is not None:
            rule.check(self.neuron)
        self.adapter, self.flow = adapter, flow
        self.currents, self.spikes = list[Tensor](), list[Tensor]()
        self.known: Tensor | None = None

    def note(
        self, module: nn.Module, given: tuple[object, ...], named: dict[str, object], answer: Answer
    ) -> Answer | None:
        """The answer of the layer, whose spikes have the derivative of the rule."""
        spikes, *states = answer if isinstance(answer, tuple) else (answer,)
        current = [*given, *named.values(), None][0]
        if not isinstance(current, Tensor) or current.shape != spikes.shape:
            _refuse(self.rule, "layers whose spikes have the shape of their current", self.name)
        if not torch.is_grad_enabled():
            return None
        batch = (self.adapter.extent(module, current) or (1, len(current)))[1]
        for kept, tensor in ((self.currents, current.detach()), (self.spikes, spikes.detach())):
            kept.append(_over_time(tensor, self.flow, batch))
        if len({each.shape[1:] for each in self.currents}) > 1:
            _refuse(self.rule, "layers that serve in one place", f"{self.name} in several")
        z: Tensor = _Rated.apply(current, spikes.detach(), self)  # type: ignore[no-untyped-call]
        return (z, *states) if isinstance(answer, tuple) else z

    @property
    def steps(self) -> int:
        """The number of time steps so far."""
        return sum(map(len, self.currents))

    def gain(self) -> Tensor:
        """The derivative by the current of the layer, for all time steps."""
        if self.known is None:
            current, spikes = torch.cat(self.currents), torch.cat(self.spikes)
            gain = self.scale * self.rule.gain(self.scale * current, spikes, self.neuron)
            self.known = _of_calls(gain, self.flow, len(current))
        return self.known


def _over_time(x: Tensor, flow: Flow, batch: int) -> Tensor:
    """What a layer takes or gives in one call, as `[T, B, ...]`."""
    match flow:
        case Flow.STEP:
            return x[None]
        case Flow.SEQUENCE:
            return x
        case Flow.EXAMPLES:
            return x.transpose(0, 1)
        case Flow.FLAT:
            return x.reshape(batch, -1, *x.shape[1:]).transpose(0, 1)


def _of_calls(gain: Float[Tensor, "B *F"], flow: Flow, steps: int) -> Tensor:
    """A derivative of each neuron in the shape of calls of its layer."""
    match flow:
        case Flow.STEP | Flow.SEQUENCE:
            return gain
        case Flow.EXAMPLES:
            return gain[:, None]
        case Flow.FLAT:
            return gain.repeat_interleave(steps, 0)


class _Rated(torch.autograd.Function):
    """Given spikes, whose derivative by the current is known once the forward pass is over."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, spikes: Tensor, layer: _Layer) -> Tensor:
        ctx.layer = layer
        return spikes.view_as(spikes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * ctx.layer.gain(), None, None


@contextmanager
def _by_rates(layers: Sequence[tuple[Adapter, nn.Module]], rule: RateRule) -> Iterator[None]:
    """A context in which layers of neurons are differentiated by a rule for their rates."""
    rated = [_Layer(adapter, module, rule) for adapter, module in layers]
    with ExitStack() as stack:
        for (_, module), each in zip(layers, rated, strict=True):
            stack.callback(module.register_forward_hook(each.note, with_kwargs=True).remove)
        yield
    counts = {each.steps for each in rated} - {0}
    if len(counts) > 1:
        _refuse(rule, "layers that serve in one place", f"layers of {sorted(counts)} time steps")


def _refuse(rule: object, expected: str, got: str) -> NoReturn:
    raise InputError(
        f"The gradient rule {type(rule).__name__} needs {expected}",
        got,
        "Use another gradient rule, or surrogates, for this network.",
    )


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

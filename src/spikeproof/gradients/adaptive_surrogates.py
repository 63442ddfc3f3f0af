"""Gradient rules whose surrogate is fitted to the potentials of the forward pass.

The width that a surrogate needs depends on the distance of potentials from the threshold, which differs
between layers, neurons and images. PDSG and OnePassASSG measure this distance over the time steps of one
forward pass, for each example, and keep nothing when the pass ends. ASSG measures it over the iterations of
an attack, in a `Recollection` that belongs to one run of the attack.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.gradients.rate_based import check_fires
from spikeproof.gradients.temporal import Fit, GradientRule
from spikeproof.neurons import IntegrateAndFire, Neuron, SomeState, Spiking, State
from spikeproof.neurons.parts.loops import Kind, compiled_backward, compiled_forward, compiles
from spikeproof.protocols import Context
from spikeproof.surrogates import Surrogate, unit_of

__all__ = ["ASSG", "PDSG", "OnePassASSG", "Recollection"]


Remembered = Any
"""Statistics of the earlier time steps, in a form of each gradient rule's own; None at the first step."""


class _Sloped(torch.autograd.Function):
    """The Heaviside step at 0, with a given derivative."""

    @staticmethod
    def forward(ctx: Context, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None


class Recollection:
    """Statistics of adaptive gradient rules, kept from one iteration of a run to the next, for each example.

    A search has one recollection for each of its runs, and names the examples of every gradient computation
    with `serving`. Within one `serving`, the first forward pass of a layer updates the statistics of these
    examples. Further passes, such as other draws of a model's randomness, use them unchanged. The statistics
    end with the run.

    Args:
        examples: number of examples in the batch.

    Example:
        >>> memory = Recollection(3)
        >>> with memory.serving(torch.tensor([0, 2])):
        ...     Recollection.current() is memory
        True
        >>> Recollection.current() is None
        True
    """

    def __init__(self, examples: int) -> None:
        self.examples = examples
        self.last: dict[int, tuple[Tensor, tuple[Tensor, ...]]] = {}  # examples and values of a pass
        self.earlier: dict[int, tuple[Tensor, ...]] = {}  # of all examples, as of earlier passes
        self.filed: dict[int, Tensor] = {}  # which of all examples have such values
        self.rows, self.seen = torch.arange(examples), set[int]()

    @staticmethod
    def current() -> Recollection | None:
        """The recollection of the run that computes a gradient at the moment; None outside of any run."""
        return _CURRENT.get()

    @contextmanager
    def serving(self, rows: Int64[Tensor, "R"]) -> Iterator[None]:
        """Serve the forward passes inside the context, whose batch holds these examples in this order."""
        self.rows, self.seen = rows, set()
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)

    def of(self, layer: int, batch: int) -> tuple[Tensor, ...] | None:
        """The statistics `[S, B, ...]` of a layer for the examples of a pass; None before their first."""
        if layer not in self.last:
            return None
        rows, parts = self.last[layer]
        if parts[0].shape[1] == batch and torch.equal(rows, self.rows):
            return parts  # most passes have the examples of the pass before, whose values need no copy
        self._file(layer)
        if not self.filed[layer][self.rows].all():  # a pass of other examples came before
            return None
        return tuple(part[:, self._rows_of(batch)] for part in self.earlier[layer])

    def keep(self, layer: int, parts: tuple[Tensor, ...]) -> None:
        """Keep statistics `[S, B, ...]` of a layer for the examples of this pass."""
        self.seen.add(layer)
        if layer in self.last and not torch.equal(self.last[layer][0], self.rows):
            self._file(layer)
        self.last[layer] = self.rows, parts

    def _file(self, layer: int) -> None:
        """Enter the values of the last pass among those of all examples."""
        rows, parts = self.last[layer]
        if layer not in self.earlier:
            shapes = [(len(part), self.examples, *part.shape[2:]) for part in parts]
            self.earlier[layer] = tuple(
                part.new_zeros(shape) for part, shape in zip(parts, shapes, strict=True)
            )
            self.filed[layer] = torch.zeros(self.examples, dtype=torch.bool, device=rows.device)
        for whole, part in zip(self.earlier[layer], parts, strict=True):
            whole[:, rows] = part[:, : len(rows)]
        self.filed[layer][rows] = True

    def _rows_of(self, batch: int) -> Int64[Tensor, "B"]:
        """The examples of a pass; a batch that was padded to whole blocks repeats its last example."""
        short = batch - len(self.rows)
        return torch.cat([self.rows, self.rows[-1:].expand(short)]) if short > 0 else self.rows


_CURRENT: ContextVar[Recollection | None] = ContextVar("recollection", default=None)


class _Fitting(Surrogate):
    """The spike function of one pass, which keeps statistics from time step to time step.

    A layer with several kinds of neurons calls it several times per step; each kind has a memory of its own.
    """

    def __init__(self, rule: _Fitted, unit: float | Tensor) -> None:
        self.rule, self.unit, self.memories, self.turn = rule, unit, [], 0

    memories: list[Remembered]

    def __call__(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        with torch.no_grad():
            slope = self.slope(x)
        z: Tensor = _Sloped.apply(x, slope)  # type: ignore[no-untyped-call]
        return z

    def step(self) -> None:
        """A new time step begins."""
        self.turn = 0

    def slope(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The derivative at the next call of this time step."""
        if self.turn == len(self.memories):
            self.memories.append(None)
        slope, self.memories[self.turn] = self.rule.slope(x / self.unit, self.memories[self.turn])
        self.turn += 1
        return slope / self.unit

    def next_step(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The derivative at the only call of a new time step."""
        self.step()
        return self.slope(x)

    def end(self) -> None:
        """Nothing outlasts the pass."""


class _Fitted(GradientRule):
    """Backpropagation through time with a surrogate that is fitted during the forward pass."""

    def check(self, neuron: Neuron) -> None:
        check_fires(self, neuron)

    def fit(self, layer: int, batch: int, unit: float | Tensor) -> Fit:
        return _Fitting(self, unit)

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        """The derivative at this time step, and the new memory; the memory is None at the first step."""
        raise NotImplementedError(f"{type(self).__name__} defines no slope")

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        self.check(neuron)
        spikes, fitting = [], _Fitting(self, unit_of(spike))
        for i in current:
            fitting.step()
            z, state = neuron.step(i, state, fitting)
            spikes.append(z)
        return torch.stack(spikes), state


@dataclass(frozen=True)
class PDSG(_Fitted):
    r"""Potential-dependent surrogate gradient: a normal density as wide as the spread of the potentials.

    .. math:: g_t(x) = \frac{1}{\sqrt{2\pi}\,\sigma_t}
              \exp\left(-\frac{(x-\sigma_t/2)^2}{2\sigma_t^2}\right), \quad x = v[t] - \theta

    with :math:`\sigma_t` the standard deviation of the potentials before the reset, over all neurons of the
    layer (of the channel, for feature maps) and over the time steps up to t. Each example has its own.
    Published code pools over the batch, so that the gradient of an example depends on the other examples.

    Args:
        least: lower bound of :math:`\sigma_t`, in units of potential (of the threshold in attacks), positive;
            equal potentials would make the density infinite.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.5, 1.5]]], requires_grad=True)  # standard deviation 0.5
        >>> z, _ = PDSG()(current, State(torch.zeros(1, 2)), IF(), ATan())
        >>> z.sum().backward(); [round(g, 3) for g in current.grad.flatten().tolist()]
        [0.259, 0.704]

    Source:
        Lun et al. 2025, section 4 (PDSG-SDA).
    """

    least: float = 1e-2

    def __post_init__(self) -> None:
        if not 0 < self.least < math.inf:
            raise InputError("PDSG needs a positive least spread", f"least={self.least}", "Try 0.01.")

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        axes = tuple(range(2, x.ndim)) or (1,)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
        if memory is None:
            memory = (1, mean, variance)
        else:  # groups of equal size: their variances, and the variance of their means
            before, old, spread = memory
            count = before + 1
            both = (before * spread + variance) / count + before / count**2 * (mean - old) ** 2
            memory = (count, old + (mean - old) / count, both)
        sigma = memory[2].sqrt().clamp(min=self.least)
        return torch.exp(-0.5 * (x / sigma - 0.5) ** 2) / (math.sqrt(2 * math.pi) * sigma), memory


def _sharpness(strength: float, relax: float, mean: Tensor, deviation: Tensor) -> Tensor:
    """The parameter `alpha` of the arctangent surrogate of ASSG."""
    return 2 / math.pi * math.tan(math.pi * strength) / (mean + relax * deviation + 1e-4)


def _arctangent(alpha: Tensor, x: Tensor) -> Tensor:
    """The derivative of the arctangent surrogate with this `alpha`."""
    return alpha / (alpha * x).mul_(math.pi / 2).square_().add_(1).mul_(2)


@dataclass(frozen=True)
class _Adaptive(_Fitted):
    """The constants that the two adaptive sharpnesses share."""

    strength: float = 0.425
    memory: float = 0.9
    relax: float = 1.5

    def __post_init__(self) -> None:
        if not (0 < self.strength < 0.5 and 0 <= self.memory < 1 and 0 <= self.relax < math.inf):
            raise InputError(
                f"{type(self).__name__} needs a strength between 0 and 0.5, "
                "a memory in [0, 1) and relax of at least 0",
                f"strength={self.strength}, memory={self.memory}, relax={self.relax}",
                "Try 0.425, 0.9 and 1.5.",
            )

    def blend(self, old: Tensor, new: Tensor) -> Tensor:
        """The running mean after one more value."""
        return self.memory * old + (1 - self.memory) * new


@dataclass(frozen=True)
class ASSG(_Adaptive):
    r"""Adaptive sharpness, as published: an arctangent fitted to each potential over the attack's iterations.

    With :math:`x = (v[t] - \theta)/\theta` at time step t of iteration i, for each layer, neuron and example,

    .. math::

        M_i &= \beta M_{i-1} + (1-\beta)|x|, \quad
        D_i = \beta D_{i-1} + (1-\beta)\,\bigl||x| - M_i\bigr| \\
        \alpha &= \frac{2}{\pi}\tan(\pi A)\,\frac{1}{M_i + \rho D_i + 10^{-4}}, \quad
        g(x) = \frac{\alpha/2}{1 + (\pi\alpha x/2)^2}

    from :math:`M_0 = 1`, :math:`D_0 = 0`; every time step has statistics of its own. The area of the
    surrogate between 0 and \|x\|, out of 1/2 on either side, is A at the mean of \|x\| and therefore at most
    A on average, because it is a concave function of \|x\|. A small A means a wide, flat surrogate.

    The statistics belong to one run of a search (`Recollection`). They begin anew for each run and each
    example, and nothing is left when the run ends. Further draws within one iteration do not change them. A
    forward pass outside a search counts as the first iteration of a run. Published code keeps the statistics
    in the layers, where the user must reset them, and measures x in units of potential; here the unit of x is
    the threshold.

    Args:
        strength: area `A`, between 0 and 0.5; the published search covers 0.35 to 0.49. Choose it on
            validation images (`spikeproof.evaluation.through.strongest`), not on the attacked images.
        memory: decay rate :math:`\beta` of the running means, in [0, 1).
        relax: weight :math:`\rho` of the deviation, at least 0.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.5, 0.9]]], requires_grad=True)
        >>> z, _ = ASSG(0.25)(current, State(torch.zeros(1, 2)), IF(), ATan())  # widths near the initial 1
        >>> z.sum().backward(); [round(g, 2) for g in current.grad.flatten().tolist()]
        [0.25, 0.31]

    Source:
        Section 4 of the paper (arXiv 2512.22522); constants and initial values of the published code.
    """

    def install(self, network: nn.Module) -> None:
        layers = [layer for layer in network.modules() if isinstance(layer, Spiking)]
        for i, layer in enumerate(layers):
            layer.unroll = _AtLayer(self, i)

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        return self.at(0, current, state, neuron, spike, None)

    def at(
        self,
        layer: int,
        current: Float[Tensor, "T B *F"],
        state: SomeState,
        neuron: Neuron,
        spike: Surrogate,
        known: Recollection | None,
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        """The loop over time of one layer, with the statistics of a run, if there is one."""
        self.check(neuron)
        fitting = _Recalling(self, unit_of(spike), layer, current.shape[1], known)
        if isinstance(neuron, IntegrateAndFire) and type(neuron).step is IntegrateAndFire.step:
            spikes, v = _Fused.apply(current, state.v, neuron, fitting)  # type: ignore[no-untyped-call]
            state = State(v)
        else:
            steps = []
            for i in current:
                z, state = neuron.step(i, state, fitting)
                steps.append(z)
            spikes = torch.stack(steps)
        fitting.end()
        return spikes, state

    def fit(self, layer: int, batch: int, unit: float | Tensor) -> Fit:
        return _Recalling(self, unit, layer, batch, Recollection.current())


@dataclass(frozen=True)
class _AtLayer:
    """ASSG in one of several layers."""

    rule: ASSG
    layer: int

    def __call__(
        self, current: Float[Tensor, "T B *F"], state: SomeState, neuron: Neuron, spike: Surrogate
    ) -> tuple[Float[Tensor, "T B *F"], SomeState]:
        return self.rule.at(self.layer, current, state, neuron, spike, Recollection.current())


SPAN = 1 << 16
"""Neurons, over all time steps of a span, whose derivatives are computed together."""


class _Recalling(Surrogate):
    """The spike function of one pass of ASSG through a layer, called at one time step after the other."""

    def __init__(
        self, rule: ASSG, unit: float | Tensor, layer: int, batch: int, known: Recollection | None
    ) -> None:
        self.rule, self.unit, self.layer, self.known = rule, unit, layer, known
        self.kept = None if known is None else known.of(layer, batch)
        self.frozen = known is not None and layer in known.seen
        self.statistics = list[Tensor]()  # mean and deviation `[S, B, *F]` of one call after the other

    def __call__(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        with torch.no_grad():
            slope = self.slope(x)
        z: Tensor = _Sloped.apply(x, slope)  # type: ignore[no-untyped-call]
        return z

    def slope(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The derivative at the next time step, whose statistics are kept."""
        return self.slopes(x[None])[0]

    def slopes(self, x: Float[Tensor, "S B *F"]) -> Float[Tensor, "S B *F"]:
        """The derivatives at the next time steps, in spans of steps that stay in the processor's cache."""
        turn, span = len(self.statistics), max(1, SPAN // max(1, x[0].numel()))
        slopes, mean, deviation = (torch.empty_like(x) for _ in range(3))
        for start in range(0, len(x), span):
            few = slice(start, start + span)
            size = (x[few] / self.unit).abs_()
            if self.kept is None:
                mean[few], deviation[few] = 1, 0
            else:
                mean[few], deviation[few] = (part[few] for part in self.kept[turn : turn + 2])
            if not self.frozen:
                mean[few] = self.rule.blend(mean[few], size)
                deviation[few] = self.rule.blend(deviation[few], (size - mean[few]).abs_())
            alpha = _sharpness(self.rule.strength, self.rule.relax, mean[few], deviation[few])
            slopes[few] = _arctangent(alpha, size).div_(self.unit)
        self.statistics += [mean, deviation]
        return slopes

    def step(self) -> None:
        """Every call has statistics of its own, so that time steps need not be told apart."""

    def next_step(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The derivative at the only call of a time step."""
        return self.slope(x)

    def end(self) -> None:
        """The run, if there is one, takes over the statistics, unless this pass has given it some before."""
        if self.known is not None and not self.frozen:
            self.known.keep(self.layer, tuple(self.statistics))


class _Fused(torch.autograd.Function):
    """The loop of `unroll` for integrate-and-fire neurons, with the derivatives of an ASSG pass."""

    @staticmethod
    def forward(
        ctx: Any, current: Tensor, v: Tensor, neuron: IntegrateAndFire, fitting: _Recalling
    ) -> tuple[Tensor, Tensor]:
        decay, ctx.form = neuron.decay, None
        if compiles(current, None, neuron.reset) and current[0].is_contiguous():
            ctx.form = neuron.form(Kind.INTEGRATING, decay)
            potentials, spikes, v = compiled_forward(current, ctx.form, v)
        else:
            potentials, spikes, v = torch.empty_like(current), torch.empty_like(current), v.clone()
            for i, before, z in zip(current, potentials, spikes, strict=True):
                torch.add(v.mul_(decay), i, out=before)
                torch.ge(before, neuron.threshold, out=z)
                neuron.reset(before, z, neuron.threshold, out=v)
        slopes = fitting.slopes(potentials - neuron.threshold)
        ctx.save_for_backward(potentials, spikes, slopes)
        ctx.neuron = neuron
        ctx.mark_non_differentiable(v)
        return spikes, v

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (potentials, spikes, slopes), neuron = ctx.saved_tensors, ctx.neuron
        if ctx.form is not None:
            return compiled_backward(grads[0], ctx.form, potentials, slopes), None, None, None
        found, carried, decay = torch.empty_like(potentials), torch.zeros_like(potentials[0]), neuron.decay
        for t in range(len(potentials) - 1, -1, -1):
            by_v, by_z = neuron.reset.slope(potentials[t], spikes[t], neuron.threshold)
            by_spike = grads[0][t] if neuron.detach_reset else grads[0][t] + carried * by_z
            now = torch.addcmul(carried.mul_(by_v), by_spike, slopes[t], out=found[t])
            torch.mul(now, decay, out=carried)
        return found, None, None, None


@dataclass(frozen=True)
class OnePassASSG(_Adaptive):
    r"""Adaptive sharpness within one pass: an arctangent fitted to each potential over the time steps so far.

    With :math:`x_t = (v[t] - \theta)/\theta`, per neuron and example,

    .. math::

        M_t &= \beta M_{t-1} + (1-\beta)|x_t|, \quad
        D_t = \beta D_{t-1} + (1-\beta)\,\bigl||x_t| - M_t\bigr|

    from :math:`M_0 = |x_0|`, :math:`D_0 = 0`, and with the surrogate of `ASSG` for these statistics. Nothing
    is kept from one forward pass to the next, so the rule also works outside a search, as in training. As an
    attack it is weaker than `ASSG`.

    Args:
        strength: area `A`, between 0 and 0.5.
        memory: decay rate :math:`\beta` of the running means, in [0, 1).
        relax: weight :math:`\rho` of the deviation, at least 0.

    Example:
        >>> from spikeproof.neurons import IF, State
        >>> from spikeproof.surrogates import ATan
        >>> current = torch.tensor([[[0.5, 0.9]]], requires_grad=True)
        >>> z, _ = OnePassASSG(0.25)(current, State(torch.zeros(1, 2)), IF(), ATan())
        >>> z.sum().backward(); [round(g, 2) for g in current.grad.flatten().tolist()]
        [0.32, 1.59]

    Source:
        Ours, after section 4 of the paper on ASSG (arXiv 2512.22522).
    """

    def slope(self, x: Float[Tensor, "B *F"], memory: Remembered) -> tuple[Float[Tensor, "B *F"], Remembered]:
        size = x.abs()
        if memory is None:
            mean, deviation = size, torch.zeros_like(size)
        else:
            mean = self.blend(memory[0], size)
            deviation = self.blend(memory[1], (size - mean).abs())
        return _arctangent(_sharpness(self.strength, self.relax, mean, deviation), x), (mean, deviation)

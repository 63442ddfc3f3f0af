r"""Neurons that spike once: input spike times and weights determine the time of the output spike.

A time is written as *earliness* `e = horizon - t`: a larger value is an earlier spike, and 0 is a neuron that
stays silent. All equations here depend on differences of times only, so no neuron depends on the horizon.

Exact neurons have a continuous membrane potential :math:`V(t) = \sum_i w_i\,\epsilon(t - t_i)`. The first
crossing :math:`V(t) = \theta` has a closed form for each set of inputs that come before it. All sets are
tried in order of time, and the first set whose crossing lies within its own interval is the causal set. The
implicit function theorem gives the derivatives

.. math:: \frac{\partial t}{\partial w_i} = -\frac{\epsilon(t-t_i)}{\dot V(t)}, \quad
          \frac{\partial t}{\partial t_i} = \frac{w_i\,\dot\epsilon(t-t_i)}{\dot V(t)},

which are zero for inputs that come later and for neurons that stay silent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.neurons.parts.neuron import Neuron
from spikeproof.protocols import Context

__all__ = ["S4NN", "T2FSNN", "Exact", "FastAndDeep", "Mostafa", "Timed", "lambertw"]

BLOCK = 1 << 18
"""Pairs of an input and an output that are processed together: about as many as fit a processor's cache."""

LARGEST = 1 << 22
"""Values, over input times, examples and outputs, that are held in memory together."""

STEEP = 1e-3
"""Smallest slope at a crossing that derivatives divide by, in thresholds per time constant."""


def lambertw(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    r"""The main branch of Lambert's function, :math:`W e^W = x`, for x in [-1/e, 0]; NaN below -1/e.

    Halley's iteration starts from the series about the branch point.

    Example:
        >>> lambertw(torch.tensor([-0.2, 0.0], dtype=torch.float64))
        tensor([-0.2592,  0.0000], dtype=torch.float64)

    Source:
        Corless et al. 1996, sections 4 and 5.
    """
    p = (2 * (math.e * x + 1)).sqrt()  # NaN where there is no real solution
    w = -1 + p * (1 + p * (-1 / 3 + p * (11 / 72)))
    for _ in range(4 if x.dtype == torch.float64 else 2):
        grown = w.exp()
        miss = w * grown - x
        ahead = (w + 1).clamp(min=1e-12)
        w = w - miss / (grown * ahead - (w + 2) * miss / (2 * ahead))
    return w


@dataclass(frozen=True)
class Timed(Neuron):
    """A neuron that spikes at most once; its inputs and its output are spike times."""

    timed: ClassVar[bool] = True

    def fire(self, early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"]) -> Float[Tensor, "B O"]:
        """Earliness of the output spikes, 0 for none."""
        raise NotImplementedError(f"{type(self).__name__} defines no spike time")


def _positive(part: object, **values: float) -> None:
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{type(part).__name__} needs {name} above 0", f"{name}={value}", "Try the default."
            )


@dataclass(frozen=True)
class Exact(Timed):
    """A neuron whose spike time is the exact crossing of a continuous potential."""

    threshold: float = 1.0
    tau: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, threshold=self.threshold, tau=self.tau)

    def kernel(self, s: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        """The postsynaptic potential at a time `s >= 0` after the spike, and its slope by `s / tau`."""
        raise NotImplementedError(f"{type(self).__name__} defines no kernel")

    def crossing(self, times: Float[Tensor, "B N"], weight: Float[Tensor, "B N O"]) -> Float[Tensor, "B N O"]:
        """Times [tau] of the rising crossing if only the first n inputs counted, NaN where there is none."""
        raise NotImplementedError(f"{type(self).__name__} defines no crossing")

    def fire(self, early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"]) -> Float[Tensor, "B O"]:
        out: Tensor = _FirstCrossing.apply(early, weight, self)  # type: ignore[no-untyped-call]
        return out

    def first(self, early: Float[Tensor, "B N"], weight: Float[Tensor, "B N O"]) -> Float[Tensor, "B O"]:
        """Earliness of the first crossing, for inputs in order of time."""
        times = -early / self.tau
        found = self.crossing(times, weight)
        after = torch.cat([times[:, 1:], torch.zeros_like(times[:, :1])], 1)
        slack = 8 * torch.finfo(early.dtype).eps * (1 + times.abs())
        inside = (found >= (times - slack)[..., None]) & (found <= after[..., None])
        inside &= (early > 0)[..., None] & (found < 0)
        earliest = found.where(inside, torch.inf).amin(1)  # no two sets cross within their own intervals
        return torch.where(earliest < 0, -self.tau * earliest, 0.0)


SLOWER = {"equal": 1, "double": 2}
"""Time constant of the membrane -> its ratio to the time constant of the synapse."""


@dataclass(frozen=True)
class FastAndDeep(Exact):
    r"""The leaky neuron with current-based synapses, at its exact first spike time.

    With :math:`a_1 = \sum_C w_i e^{t_i/\tau}` over the causal set `C`, for equal time constants,

    .. math:: \epsilon(s) = \tfrac{s}{\tau} e^{-s/\tau}, \quad
              t = \tau\left(\tfrac{b}{a_1} - W_0\left(-\tfrac{\theta}{a_1} e^{b/a_1}\right)\right),
              \quad b = \sum_C w_i \tfrac{t_i}{\tau} e^{t_i/\tau}

    and for a membrane twice as slow as the synapse, with :math:`a_2 = \sum_C w_i e^{t_i/2\tau}`,

    .. math:: \epsilon(s) = e^{-s/2\tau} - e^{-s/\tau}, \quad
              t = 2\tau \ln\frac{2 a_1}{a_2 + \sqrt{a_2^2 - 4 a_1 \theta}}

    Args:
        threshold: firing threshold, in units of potential, positive.
        tau: synaptic time constant, in the unit of the spike times, positive.
        membrane: time constant of the membrane: `equal` to the synapse's, or `double`.

    Shapes:
        earliness `[B, N]`, weights `[O, N]` -> earliness `[B, O]`

    Example:
        >>> FastAndDeep().fire(torch.tensor([[5.0]]), torch.tensor([[4.0], [1.0]]))
        tensor([[4.6426, 0.0000]])

    Source:
        Goeltz et al. 2021, eq. (3) and (4). There a small constant keeps 0/0 away; here a set without a
        crossing is no candidate.
    """

    membrane: Literal["equal", "double"] = "equal"

    def kernel(self, s: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        s = s / self.tau
        fast = torch.exp(-s)
        if SLOWER[self.membrane] == 1:
            return s * fast, (1 - s) * fast
        slow = torch.exp(-s / 2)
        return slow - fast, fast - slow / 2

    def crossing(self, times: Float[Tensor, "B N"], weight: Float[Tensor, "B N O"]) -> Tensor:
        a1 = _sums(weight, times.exp())
        rising = a1.where(a1 > 0, torch.nan)
        if SLOWER[self.membrane] == 1:
            ratio = _sums(weight, times * times.exp()) / rising
            return ratio - lambertw(-self.threshold / rising * ratio.exp())
        a2 = _sums(weight, (times / 2).exp())
        return 2 * (2 * rising / (a2 + (a2.square() - 4 * rising * self.threshold).sqrt())).log()


@dataclass(frozen=True)
class Mostafa(Exact):
    r"""The non-leaky neuron with exponential synapses, linear in the z-domain.

    .. math:: \epsilon(s) = 1 - e^{-s/\tau}, \quad z = e^{t/\tau}, \quad
              z_{out} = \frac{\sum_C w_i z_i}{\sum_C w_i - \theta} \text{ where } \sum_C w_i > \theta

    Args:
        threshold: firing threshold, in units of potential, positive.
        tau: synaptic time constant, in the unit of the spike times, positive.

    Shapes:
        earliness `[B, N]`, weights `[O, N]` -> earliness `[B, O]`

    Example:
        >>> Mostafa().fire(torch.tensor([[5.0]]), torch.tensor([[4.0], [1.0]]))
        tensor([[4.7123, 0.0000]])

    Source:
        Mostafa 2017, eq. (6) and (7); Zhou et al. 2021 train deep networks of them directly.
    """

    def kernel(self, s: Float[Tensor, "..."]) -> tuple[Tensor, Tensor]:
        fast = torch.exp(-s / self.tau)
        return 1 - fast, fast

    def crossing(self, times: Float[Tensor, "B N"], weight: Float[Tensor, "B N O"]) -> Tensor:
        weights, a1 = weight.cumsum(1), _sums(weight, times.exp())
        return (a1.where((weights > self.threshold) & (a1 > 0), torch.nan) / (weights - self.threshold)).log()


def _sums(weight: Float[Tensor, "B N O"], factor: Float[Tensor, "B N"]) -> Float[Tensor, "B N O"]:
    """Sums over the first 1, 2, ..., N inputs."""
    return (weight * factor[..., None]).cumsum(1)


def _blocks(early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"]) -> list[slice]:
    rows = max(1, BLOCK // max(1, weight.numel()))
    return [slice(start, start + rows) for start in range(0, early.shape[0], rows)]


def _search(
    early: Float[Tensor, "B N"],
    weight: Float[Tensor, "O N"],
    first: Callable[[Tensor, Tensor], Tensor],
) -> Float[Tensor, "B O"]:
    """The result of `first` for inputs in order of time, block by block, without silent inputs."""
    out, columns = early.new_zeros(early.shape[0], weight.shape[0]), weight.T.contiguous()
    for block in _blocks(early, weight):
        ordered, order = early[block].sort(dim=1, descending=True, stable=True)
        active = int((ordered > 0).sum(1).max()) if ordered.numel() else 0
        if active:
            out[block] = first(ordered[:, :active], columns[order[:, :active]])
    return out


class _Kept(Context, Protocol):
    neuron: Exact


class _FirstCrossing(torch.autograd.Function):
    """The first crossing, and its exact derivatives."""

    @staticmethod
    def forward(ctx: _Kept, early: Tensor, weight: Tensor, neuron: Exact) -> Tensor:
        out = _search(early, weight, neuron.first)
        ctx.save_for_backward(early, weight, out)
        ctx.neuron = neuron
        return out

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor) -> tuple[Tensor | None, ...]:
        early, weight, out = ctx.saved_tensors
        neuron, by_early, by_weight = ctx.neuron, torch.zeros_like(early), torch.zeros_like(weight)
        for block in _blocks(early, weight):
            gap = early[block, None, :] - out[block, :, None]
            causal = (gap > 0) & (out[block, :, None] > 0)
            psp, slope = neuron.kernel(gap.clamp(min=0))
            psp, rise = psp * causal, slope * causal * weight
            steepness = rise.sum(-1).clamp(min=STEEP * neuron.threshold)
            share = grads[0][block] / steepness
            by_weight += neuron.tau * torch.einsum("bo,bon->on", share, psp)
            by_early[block] = torch.einsum("bo,bon->bn", share, rise)
        return by_early, by_weight, None


@dataclass(frozen=True)
class S4NN(Timed):
    r"""The non-leaky neuron in discrete time that spikes once, with a surrogate for the gradient.

    .. math:: t_{out} = 1 + \min\{t : \sum_{i: t_i \le t} w_i \ge \theta\}, \quad
              -\frac{\partial t_{out}}{\partial w_i} := 1[t_i < t_{out}], \quad
              \frac{\partial t_{out}}{\partial t_i} := w_i 1[t_i < t_{out}]

    A neuron that stays silent learns as if it had spiked at the horizon. The published neuron fires once its
    potential is above the threshold, this one once it has reached it; times differ only where a sum of
    weights equals the threshold.

    Args:
        threshold: firing threshold, in units of potential, positive.
        normalise: whether the backward pass scales gradients to unit length, per example and layer.

    Shapes:
        whole earliness `[B, N]`, weights `[O, N]` -> whole earliness `[B, O]`

    Example:
        >>> S4NN().fire(torch.tensor([[9.0, 4.0]]), torch.tensor([[0.6, 0.6], [1.0, 0.0], [0.3, 0.3]]))
        tensor([[3., 8., 0.]])

    Source:
        Kheradpisheh & Masquelier 2020, eq. (1)-(11), with weights in units of a threshold of 1 (there 100).
    """

    threshold: float = 1.0
    normalise: bool = True

    def __post_init__(self) -> None:
        _positive(self, threshold=self.threshold)

    def fire(self, early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"]) -> Float[Tensor, "B O"]:
        out: Tensor = _FirstStep.apply(early, weight, self)  # type: ignore[no-untyped-call]
        return out


class _KeptS4NN(Context, Protocol):
    neuron: S4NN


class _FirstStep(torch.autograd.Function):
    """The first step at which the summed weights of all inputs so far reach the threshold.

    Every input arrives once, so a step only adds the weights of the inputs that arrive in it.
    """

    @staticmethod
    def forward(ctx: _KeptS4NN, early: Tensor, weight: Tensor, neuron: S4NN) -> Tensor:
        levels: Tensor = early.unique()  # type: ignore[no-untyped-call]
        levels = levels[levels > 0]
        first = early.new_zeros(early.shape[0], weight.shape[0])
        for level, potential in _arrivals(early, weight, levels.flip(0)):
            first = first.maximum(((potential >= neuron.threshold) * level).amax(0))
            if bool((first > 0).all()):
                break
        out = (first - 1).clamp(min=0)
        ctx.save_for_backward(early, weight, out, levels)
        ctx.neuron = neuron
        return out

    @staticmethod
    def backward(ctx: _KeptS4NN, *grads: Tensor) -> tuple[Tensor | None, ...]:
        early, weight, out, levels = ctx.saved_tensors
        grad: Tensor = grads[0]
        if ctx.neuron.normalise:
            grad = torch.nn.functional.normalize(grad, dim=1, eps=1e-30)
        by_early = _told_inputs(early, weight, out, grad) if ctx.needs_input_grad[0] else None
        by_weight = _told_weights(early, levels, out, grad) if ctx.needs_input_grad[1] else None
        return by_early, by_weight, None


def _told_inputs(early: Tensor, weight: Tensor, out: Tensor, grad: Tensor) -> Float[Tensor, "B N"]:
    """The gradient on inputs earlier than a neuron's spike, or on all inputs that spike if it is silent."""
    summed = torch.zeros_like(early)
    for block in _blocks(early, weight):
        earlier = early[block, None, :] > out[block, :, None]
        summed[block] = (earlier * (grad[block, :, None] * weight)).sum(1)
    return summed


def _told_weights(early: Tensor, levels: Tensor, out: Tensor, grad: Tensor) -> Float[Tensor, "O N"]:
    """The gradient on the weights of inputs that are earlier than a neuron's spike, summed over examples."""
    summed = grad.new_zeros(early.shape[1], out.shape[1])
    rows = max(1, LARGEST // max(1, len(levels) * out.shape[1]))
    for start in range(0, len(early) if len(levels) else 0, rows):
        block = slice(start, start + rows)
        by_level = (levels.view(-1, 1, 1) > out[block]) * grad[block]
        example, position = early[block].nonzero(as_tuple=True)
        row = torch.searchsorted(levels, early[block][example, position]) * by_level.shape[1] + example
        position, order = position.sort(stable=True)
        starts = torch.searchsorted(position, torch.arange(len(summed), device=position.device))
        summed += _bags(row[order], by_level.flatten(0, 1), starts)
    return summed.T


def _arrivals(
    early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"], levels: Float[Tensor, "L"]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Levels in falling order `[l, 1, 1]`, and potentials `[l, B, O]` from all inputs at least as early."""
    batch, columns = early.shape[0], weight.T.contiguous()
    example, position = early.nonzero(as_tuple=True)
    step = len(levels) - 1 - torch.searchsorted(levels.flip(0), early[example, position])
    bag, order = (step * batch + example).sort(stable=True)
    position = position[order]
    starts = torch.searchsorted(bag, torch.arange(len(levels) * batch + 1, device=bag.device))
    many = max(1, BLOCK // max(1, batch * weight.shape[0]))
    carried = torch.zeros(batch, weight.shape[0], dtype=weight.dtype, device=weight.device)
    for i in range(0, len(levels), many):
        span = slice(i * batch, min(i + many, len(levels)) * batch)
        low, high = int(starts[span.start]), int(starts[span.stop])
        potential = _bags(position[low:high], columns, starts[span] - low).view(-1, *carried.shape)
        potential[0] += carried
        for before, after in itertools.pairwise(potential):
            after += before
        carried = potential[-1]
        yield levels[i : i + many].view(-1, 1, 1), potential


def _bags(rows: Tensor, table: Float[Tensor, "R O"], starts: Tensor) -> Float[Tensor, "S O"]:
    """Sums of the rows of a table between each start and the next."""
    return torch.nn.functional.embedding_bag(rows, table, starts, mode="sum")


@dataclass(frozen=True)
class T2FSNN(Timed):
    r"""The T2FSNN's neuron for direct training on spike times: it fires under a decaying threshold.

    .. math:: V = \sum_i w_i\,e^{-(t_i - t_d)/\tau}, \quad
              t_{out} = \min\{t \in 0..T-1 : V \ge \theta\,e^{-(t - t_d)/\tau}\}

    Times count from the start of each phase, `t = T - e`. The later the threshold falls below the potential,
    the smaller the value that the spike stands for, with a relative precision of :math:`e^{1/\tau}`. The
    gradient passes straight through the rounding to whole steps, and is zero for negative potentials.

    Args:
        steps: length `T` of a phase, in steps, at least 1.
        tau: time constant of kernel and threshold, in steps, positive.
        delay: `t_d`, by which kernel and threshold are shifted, in steps, at least 0.
        threshold: `theta`, in units of potential, positive.

    Shapes:
        whole earliness `[B, N]` in 0..T, weights `[O, N]` -> whole earliness `[B, O]` in 0..T

    Example:
        >>> T2FSNN(steps=8, tau=4.0).fire(torch.tensor([[8.0]]), torch.tensor([[1.0], [0.5], [0.01]]))
        tensor([[8., 5., 0.]])

    Source:
        Park et al. 2020 (T2FSNN), eq. (3)-(7), with constants per model and no early firing. The paper
        converts an ANN, as `t2fsnn-conversion` does with the neuron `t2fsnn-converted`.
    """

    steps: int = 80
    tau: float = 20.0
    delay: float = 0.0
    threshold: float = 1.0

    def __post_init__(self) -> None:
        _positive(self, steps=self.steps, tau=self.tau, threshold=self.threshold)
        if not 0 <= self.delay < math.inf:
            raise InputError("T2FSNN needs a delay of at least 0", f"delay={self.delay}", "Try 0.0.")

    def fire(self, early: Float[Tensor, "B N"], weight: Float[Tensor, "O N"]) -> Float[Tensor, "B O"]:
        kernel = torch.exp((early - self.steps + self.delay) / self.tau) * (early > 0)
        potential = kernel @ weight.T
        return self.encode(potential)

    def encode(self, potential: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Earliness of the spike for a potential at the end of integration."""
        late = self.threshold * math.exp((self.delay - self.steps + 1) / self.tau)
        exact = self.steps + self.tau * (potential.clamp(min=late) / self.threshold).log() - self.delay
        rounded = (exact.detach() + 1e-4).floor().clamp(1, self.steps)
        rounded = torch.where(potential.detach() >= late * (1 - 1e-6), rounded, 0.0)
        slope = self.tau / potential.detach().clamp(min=late) * (potential.detach() > 0)
        return rounded + (potential - potential.detach()) * slope

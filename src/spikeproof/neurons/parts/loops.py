"""Loops over time in machine code, for neurons that describe themselves as a `Membrane`.

A loop reads the current once and writes the spikes and, for the backward pass, the potentials before the
reset; spikes, traces and derivatives follow from these. A current that an encoder repeats at every step is
read from the one tensor that is repeated, and its gradient is summed over time in the same pass.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.compiled import Loops, chosen_loops, library
from spikeproof.neurons.parts.resets import BySubtraction, Reset, ToZero
from spikeproof.protocols import Context
from spikeproof.surrogates import (
    ATan,
    FastSigmoid,
    Rectangle,
    Scaled,
    StraightThroughSpike,
    Surrogate,
    Triangle,
)

__all__ = [
    "Kind",
    "Membrane",
    "compiled_backward",
    "compiled_filter",
    "compiled_forward",
    "compiled_loop",
    "compiles",
    "has_channels_last",
    "repeated",
]


class Kind(IntEnum):
    """The equation of a membrane before spike and reset; numbers as in membranes.cpp."""

    INTEGRATING = 0
    """v <- decay v + I"""

    CURRENT_BASED = 1
    """i <- second_decay i + gain I, v <- decay v + i"""

    ADAPTIVE = 2
    """v <- decays v + I, fires at threshold + strength a, a <- second_decays a + z"""

    PARAMETRIC = 3
    """v <- v - decays v + decays I"""

    FILTERING = 4
    """v <- decay v + gain I, which never fires"""


@dataclass(frozen=True)
class Membrane:
    """The constants of a neuron as a compiled loop computes it.

    Args:
        kind: its equation.
        threshold: firing threshold, in units of potential.
        reset: what a spike does to the potential.
        detach_reset: whether the gradient stops at the reset.
        decay: share of the potential that is left after a step.
        second_decay: the same of the second variable, the synaptic current.
        gain: factor of the input.
        strength: what a unit of the second variable adds to the threshold.
        scales_input: whether a parametric membrane scales its input.
    """

    kind: Kind
    threshold: float = 1.0
    reset: Reset = BySubtraction()
    detach_reset: bool = False
    decay: float = 1.0
    second_decay: float = 0.0
    gain: float = 1.0
    strength: float = 0.0
    scales_input: bool = True


NUMBERS = ("threshold", "decay", "second_decay", "gain", "strength")
WHOLE = ctypes.c_int64
FIELDS: tuple[tuple[str, Any], ...] = (
    *((name, WHOLE) for name in ("steps", "size", "threads", "kind", "reset", "detached", "scales_input")),
    *((name, WHOLE) for name in ("slope", "has_unit")),
    *((name, ctypes.c_double) for name in ("slope_a", "slope_b", "unit", *NUMBERS)),
    *((name, WHOLE) for name in ("current_stride", "gradient_stride", "summed", "interleaved_from")),
    *((name, ctypes.c_void_p) for name in ("current", "start", "second_start", "decays", "second_decays")),
    *((name, ctypes.c_void_p) for name in ("spikes", "potentials", "end", "second_end", "slopes")),
    *((name, ctypes.c_void_p) for name in ("by_spikes", "by_end", "by_second_end")),
    *((name, ctypes.c_void_p) for name in ("by_current", "by_start", "by_second_start")),
    *((name, ctypes.c_void_p) for name in ("by_decays", "by_second_decays")),
)


class Job(ctypes.Structure):
    """What a loop reads and writes; the fields of `Job` in membranes.cpp, in their order."""

    _fields_ = FIELDS


RESETS: dict[type[Reset], int] = {BySubtraction: 0, ToZero: 1}
SUFFIXES = {torch.float32: "single", torch.float64: "double"}


class Formula(NamedTuple):
    """A derivative that the compiled loop computes itself: its number in membranes.cpp, and two constants."""

    slope: int
    a: float = 0.0
    b: float = 0.0


GIVEN = Formula(0)
FORMULAS: dict[type[Surrogate], Callable[[Any], Formula]] = {
    ATan: lambda s: Formula(1, math.pi / 2 * s.alpha, s.alpha / 2),
    Triangle: lambda s: Formula(2, s.width, s.width**2),
    Rectangle: lambda s: Formula(3, s.width / 2, s.width),
    FastSigmoid: lambda s: Formula(4, s.alpha, s.alpha / 2),
    StraightThroughSpike: lambda s: Formula(5),
}
"""Surrogates of products and quotients only; others are computed by PyTorch, block by block."""


def formula(spike: Surrogate) -> tuple[Formula, float | None]:
    """The formula of a surrogate, and the unit of its argument if it has one."""
    inner, unit = (spike.surrogate, spike.unit) if type(spike) is Scaled else (spike, None)
    known = FORMULAS.get(type(inner))
    return (GIVEN, None) if known is None else (known(inner), unit)


def compiles(
    current: Float[Tensor, "T B *F"], spike: Surrogate | None = None, reset: Reset | None = None
) -> bool:
    """Whether compiled loops are chosen, and exist for this current, spike function and reset."""
    return (
        chosen_loops() is Loops.COMPILED
        and current.device.type == "cpu"
        and current.dtype in SUFFIXES
        and current.numel() > 0
        and (spike is None or type(spike).__call__ is Surrogate.__call__)
        and (reset is None or type(reset) in RESETS)
        and not torch.compiler.is_compiling()
        and library() is not None
    )


def repeated(current: Float[Tensor, "T B *F"]) -> Float[Tensor, "B *F"] | None:
    """The tensor that a current repeats at every step, through which gradients may flow instead; else None.

    Example:
        >>> once = torch.rand(2, 3)
        >>> repeated(once.expand(4, 2, 3)) is once, repeated(torch.rand(4, 2, 3))
        (True, None)
    """
    base = current._base
    if base is None or len(current) < 2 or current.stride(0):
        return None
    alike = (base.shape, base.stride()) == (current.shape[1:], current.stride()[1:])
    alike = alike and base.dtype == current.dtype and base.requires_grad == current.requires_grad
    return base if alike and base.data_ptr() == current.data_ptr() else None


def has_channels_last(current: Float[Tensor, "T B *F"]) -> bool:
    """Whether the channels of a pixel lie side by side at every step, as in `torch.channels_last`.

    Example:
        >>> rows = torch.rand(1, 3, 4, 4)
        >>> turned = rows.to(memory_format=torch.channels_last)
        >>> has_channels_last(rows[None]), has_channels_last(turned[None])
        (False, True)
    """
    if current.ndim != 5 or current[0].is_contiguous():
        return False
    step = current[0]
    return current.stride(0) in (0, step.numel()) and step.is_contiguous(memory_format=torch.channels_last)


def _strided(values: Float[Tensor, "T ..."]) -> tuple[Tensor, int]:
    """The tensor with each step in one piece, and the distance between steps: 0 if it is repeated."""
    if not values[0].is_contiguous():
        values = values.contiguous()
    if values.stride(0) not in (0, values[0].numel()):
        values = values.contiguous()
    return values, values.stride(0)


def _interleaved_from(values: Tensor) -> int:
    """The first of the neurons that do not fill four vectors, which `torch.sum` adds up in another order."""
    size, width = values.numel(), 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32
    vector = width // values.element_size()
    return size - size % (4 * vector)


def _run(
    name: str,
    dtype: torch.dtype,
    form: Membrane,
    spike: Surrogate | None,
    fields: dict[str, int | Tensor | None],
) -> None:
    known, unit = (GIVEN, None) if spike is None else formula(spike)
    job = Job.from_buffer_copy(_constants(form, known, unit, torch.get_num_threads()))
    for key, value in fields.items():
        if value is not None:
            setattr(job, key, value.data_ptr() if isinstance(value, Tensor) else value)
    loops = library()
    assert loops is not None
    getattr(loops, f"{name}_{SUFFIXES[dtype]}")(ctypes.byref(job))


@cache
def _constants(form: Membrane, known: Formula, unit: float | None, threads: int) -> bytes:
    """A job without tensors."""
    given: dict[str, object] = {
        **{name: getattr(form, name) for name in NUMBERS},
        "threads": threads,
        "kind": form.kind,
        "reset": RESETS[type(form.reset)],
        "detached": form.detach_reset,
        "scales_input": form.scales_input,
        "slope": known.slope,
        "slope_a": known.a,
        "slope_b": known.b,
        "has_unit": unit is not None,
        "unit": unit or 1.0,
    }
    return bytes(Job(**given))


class _Kept(Context, Protocol):
    form: Membrane
    spike: Surrogate | None
    steps: int
    once: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors."""

    def set_materialize_grads(self, value: bool) -> None:
        """Whether missing gradients come as zeros."""


class _Fired(NamedTuple):
    """What a loop has read and written."""

    current: Tensor
    potentials: Tensor | None
    spikes: Tensor
    end: Tensor
    second_end: Tensor | None


_Given = tuple[
    Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Membrane, Surrogate | None, int, bool
]
"""Current, start, start of a second variable, decays of both, membrane, surrogate, steps, and whether the
current of one step stands for all of them."""


def _fired(*given: *_Given, keeps: bool) -> _Fired:
    """Run a loop forward; it keeps the potentials of every step or none."""
    current, start, second, decays, second_decays, form, spike, steps, once = given
    seen, stride = (current, 0) if once else _strided(current)
    spikes = current.new_empty((steps, *start.shape))
    potentials = torch.empty_like(spikes) if keeps else None
    end, second_end = torch.empty_like(start), None if second is None else torch.empty_like(start)
    fields: dict[str, int | Tensor | None] = {
        "steps": steps,
        "size": start.numel(),
        "current": seen,
        "current_stride": stride,
        "start": start,
        "second_start": second,
        "decays": decays,
        "second_decays": second_decays,
        "spikes": spikes,
        "potentials": potentials,
        "end": end,
        "second_end": second_end,
    }
    _run("forward", start.dtype, form, spike, fields)
    return _Fired(seen, potentials, spikes, end, second_end)


class _Compiled(torch.autograd.Function):
    """A compiled loop and its compiled backward pass."""

    @staticmethod
    def forward(ctx: _Kept, *given: *_Given) -> tuple[Tensor, Tensor, Tensor | None]:
        _, start, second, decays, second_decays, form, spike, steps, once = given
        goes_back = any(ctx.needs_input_grad)
        seen, potentials, spikes, end, second_end = _fired(*given, keeps=goes_back and spike is not None)
        if goes_back:
            kept = seen if ctx.needs_input_grad[3] else None  # a learned leak needs the input
            ctx.save_for_backward(potentials, kept, start, second, decays, second_decays)
            ctx.form, ctx.spike, ctx.steps, ctx.once = form, spike, steps, once
            ctx.set_materialize_grads(False)
        return spikes, end, second_end

    @staticmethod
    def backward(ctx: _Kept, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():  # a gradient without this part would be wrong, and nothing would say so
            raise RuntimeError("A compiled loop has no gradient of its gradient, create_graph=True")
        potentials, current, start, second, decays, second_decays = ctx.saved_tensors
        by_spikes = start.new_zeros(()).expand(ctx.steps, *start.shape) if grads[0] is None else grads[0]
        by_end, by_second_end = (None if grad is None else grad.contiguous() for grad in grads[1:])
        given, stride = _strided(by_spikes)
        learns = [tensor is not None and ctx.needs_input_grad[3] for tensor in (decays, second_decays)]
        wanted = [second is not None, *learns]
        by_second, *by_decays = [torch.empty_like(start) if needed else None for needed in wanted]
        by_current = torch.empty_like(start) if ctx.once else start.new_empty((ctx.steps, *start.shape))
        by_start = torch.empty_like(start)
        fields: dict[str, int | Tensor | None] = {
            "steps": ctx.steps,
            "size": start.numel(),
            "potentials": potentials,
            "current": current,
            "current_stride": 0 if ctx.once or current is None else current.stride(0),
            "summed": ctx.once,
            "interleaved_from": _interleaved_from(start),
            "start": start,
            "second_start": second,
            "decays": decays,
            "second_decays": second_decays,
            "by_spikes": given,
            "gradient_stride": stride,
            "slopes": _slopes(ctx.form, ctx.spike, potentials, second, second_decays),
            "by_end": by_end,
            "by_second_end": by_second_end,
            "by_current": by_current,
            "by_start": by_start,
            "by_second_start": by_second,
            "by_decays": by_decays[0],
            "by_second_decays": by_decays[1],
        }
        _run("backward", start.dtype, ctx.form, ctx.spike, fields)
        return by_current, by_start, by_second, *by_decays, None, None, None, None


FEW = 64
"""Neurons below which a gradient is summed over time by PyTorch, in an order of its own."""

BLOCK = 1 << 17
"""Neurons for which PyTorch computes a derivative at once, as in the written loop."""


def _slopes(
    form: Membrane,
    spike: Surrogate | None,
    potentials: Float[Tensor, "T B *F"],
    second: Tensor | None,
    second_decays: Tensor | None,
) -> Float[Tensor, "T B *F"] | None:
    """The derivative of a surrogate without a formula, for all steps; None if the loop computes it."""
    if spike is None or formula(spike)[0] != GIVEN:
        return None
    slopes = torch.empty_like(potentials)
    if form.kind is not Kind.INTEGRATING:  # step by step, as recorded gradients have it
        raised = _raised(form, potentials, second, second_decays)
        for slope, v, more in zip(slopes, potentials, raised, strict=True):
            slope.copy_(spike.derivative(v - form.threshold - more))
        return slopes
    for start in range(0, potentials[0].numel(), BLOCK):
        block = slice(start, start + BLOCK)
        slopes.flatten(1)[:, block] = spike.derivative(potentials.flatten(1)[:, block] - form.threshold)
    return slopes


def _raised(
    form: Membrane, potentials: Float[Tensor, "T B *F"], trace: Tensor | None, decays: Tensor | None
) -> Iterator[Tensor | float]:
    """What the spikes so far have added to the threshold, step by step."""
    for v in potentials:
        if form.kind is Kind.ADAPTIVE:
            assert trace is not None
            assert decays is not None
            raised = form.strength * trace
            yield raised
            trace = decays * trace + (v - form.threshold - raised >= 0).to(v.dtype)
        else:
            yield 0.0


def compiled_loop(
    current: Float[Tensor, "T B *F"],
    form: Membrane,
    spike: Surrogate | None,
    start: Float[Tensor, "B *F"],
    second: Float[Tensor, "B *F"] | None = None,
    *learned: Tensor,
) -> tuple[Float[Tensor, "T B *F"], Tensor, Tensor | None]:
    """Spikes, the last potential and the last value of the second variable; where `compiles` says so.

    Args:
        current: input at every step.
        form: the constants of the neuron.
        spike: the spike function; None for a filter, which never fires.
        start: the potential before the first step.
        second: the second variable before the first step, of membranes that have one.
        learned: shares of the potential and of the second variable that are left after a step (that is lost,
            for a parametric membrane), as tensors that line up with `start`.
    """
    once = repeated(current) if start.numel() >= FEW else None
    decays = [share.expand(start.shape) for share in learned]
    parts: list[Tensor | None] = [once, start, second, *decays]
    last = has_channels_last(current)
    if last:  # in the order of memory, for the loop treats all neurons alike
        current = current.movedim(2, -1)
        parts = [None if part is None else part.movedim(1, -1) for part in parts]
    flat = [None if part is None else part.contiguous() for part in parts]
    base, first, other, leak, second_leak = (*flat, None, None)[:5]
    assert first is not None
    given = (current if base is None else base, first, other, leak, second_leak)
    constants = (form, spike, len(current), base is not None)
    if torch.is_grad_enabled():
        spikes, end, second_end = _Compiled.apply(*given, *constants)  # type: ignore[no-untyped-call]
    else:
        _, _, spikes, end, second_end = _fired(*given, *constants, keeps=False)
    if last:
        spikes, end = spikes.movedim(-1, 2), end.movedim(-1, 1)
        second_end = None if second_end is None else second_end.movedim(-1, 1)
    return spikes, end, second_end


def compiled_forward(
    current: Float[Tensor, "T B *F"], form: Membrane, start: Float[Tensor, "B *F"]
) -> tuple[Float[Tensor, "T B *F"], Float[Tensor, "T B *F"], Float[Tensor, "B *F"]]:
    """Potentials before the reset, spikes and the last potential, for a gradient by `compiled_backward`.

    It is defined for membranes with one variable, where `compiles` says so.
    """
    fired = _fired(current, start.contiguous(), None, None, None, form, None, len(current), False, keeps=True)
    assert fired.potentials is not None
    return fired.potentials, fired.spikes, fired.end


def compiled_backward(
    by_spikes: Float[Tensor, "T B *F"],
    form: Membrane,
    potentials: Float[Tensor, "T B *F"],
    slopes: Float[Tensor, "T B *F"],
) -> Float[Tensor, "T B *F"]:
    """The gradient on the current, where a rule gives the derivative of the spikes at every potential."""
    (given, stride), by_current = _strided(by_spikes), torch.empty_like(potentials)
    fields: dict[str, int | Tensor | None] = {
        "steps": len(potentials),
        "size": potentials[0].numel(),
        "potentials": potentials,
        "by_spikes": given,
        "gradient_stride": stride,
        "slopes": slopes.contiguous(),
        "by_current": by_current,
        "by_start": torch.empty_like(potentials[0]),
    }
    _run("backward", potentials.dtype, form, None, fields)
    return by_current


def compiled_filter(
    current: Float[Tensor, "T B *F"], decay: float, gain: float, start: Float[Tensor, "B *F"]
) -> Float[Tensor, "T B *F"]:
    """An exponential filter from a start, `v[t] = decay v[t-1] + gain I[t]`; where `compiles` says so."""
    form = Membrane(Kind.FILTERING, decay=decay, gain=gain)
    return compiled_loop(current, form, None, start)[0]

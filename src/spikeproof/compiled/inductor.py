"""Loops over time in programs that Inductor, the compiler of `torch.compile`, makes of the written ones.

On an accelerator the written loops start a small program for every operation of every time step; these start
one for every `LONGEST` steps. A program belongs to a loop, a number of steps, a precision and a kind of
device, and takes any number of neurons, so that no batch size and no length of a recording is compiled again.
Its first use is compared with the written loop on the same input, forward and backward. A program that fails
or gives another number is refused, with all others on such a device, and the written loops are used.
"""

from __future__ import annotations

import functools
import importlib.util
import itertools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.compiled.choice import Loops
from spikeproof.compiled.toolchain import cache_folder, compiler, why_not_built

__all__ = ["Loop", "program_steps", "through_programs", "why_not_compiled"]

Loop = Callable[..., tuple[Tensor, ...]]
"""A written loop: current `[T, N]` and tensors `[N]` to outputs `[T, N]` and the same tensors afterwards. It
is hashable, and equal loops compute the same."""

NEAR = 1e-5
"""How far gradients of a program may lie from those of the written loop, relative to the largest."""

LONGEST = 8
"""Most time steps of a program, a power of two. Twice as many take twice as long to compile."""

NUMERICS: Mapping[str, str | int | bool | Callable[..., Any]] = {
    "emulate_precision_casts": True,  # on CUDA also: a product and a sum are rounded apart
    "eager_numerics.division_rounding": True,
}
"""Options of Inductor that keep the digits of the written loops, where a version of PyTorch knows them."""

PROGRAMS_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Environment variable with the folder in which Inductor keeps what it has compiled."""

_numbers = itertools.count()

_refused: dict[str, str] = {}
"""Kind of device -> why its programs are not used."""


def why_not_compiled(loops: Loops = Loops.COMPILED, device: torch.device | str | None = None) -> str:
    """A sentence that says why a device of this machine does not have these loops; empty where it has them.

    Args:
        loops: the loops in question.
        device: where the neurons are computed; None for the processor.

    Example:
        >>> why_not_compiled(Loops.COMPILED, "meta")
        'Loops in C++ run on the processor and not on meta. Try SPIKEPROOF_LOOPS=inductor.'
    """
    kind = torch.device(device or "cpu").type
    if loops is Loops.WRITTEN:
        return ""
    if loops is Loops.COMPILED:
        if kind == "cpu":
            return why_not_built()
        return f"Loops in C++ run on the processor and not on {kind}. Try SPIKEPROOF_LOOPS=inductor."
    return _refused.get(kind) or _missing(kind)


@functools.cache
def _missing(kind: str) -> str:
    """What such a device of this machine lacks for programs of Inductor; empty if nothing."""
    if kind == "cpu":
        return (
            "" if compiler() else "This machine has no C++ compiler. Install g++, or name a compiler in CXX."
        )
    if kind != "cuda":
        return f"Programs of Inductor were never tried on {kind}."
    if importlib.util.find_spec("triton") is None:
        return "Programs for CUDA need Triton, which PyTorch for CUDA brings along: pip install triton."
    return ""


def refuse(device: torch.device, reason: str) -> None:
    """Use no program on such a device from now on."""
    _refused[device.type] = reason
    warnings.warn(f"{reason} The written loops are used.", stacklevel=2)


def program_steps(steps: int) -> list[int]:
    """Numbers of steps of the programs of a loop: `LONGEST` as often as it fits, then powers of two.

    Example:
        >>> program_steps(21)
        [8, 8, 4, 1]
    """
    powers = (1 << i for i in reversed(range(LONGEST.bit_length() - 1)))
    return [LONGEST] * (steps // LONGEST) + [power for power in powers if steps % LONGEST & power]


@dataclass
class _Program:
    """A loop over a fixed number of steps, compiled on its first call."""

    loop: Loop
    steps: int
    once: bool
    goes_back: bool
    compiled: Loop = field(init=False)
    checked: bool = False

    def __post_init__(self) -> None:
        os.environ.setdefault(PROGRAMS_VARIABLE, str(cache_folder() / "inductor"))
        known = set(torch._inductor.list_options())
        options = {name: value for name, value in NUMERICS.items() if name in known}

        def program(current: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            return self.written(current, *state)

        # PyTorch knows code by its name: it counts recompilations and makes variables of what has changed
        program.__code__ = program.__code__.replace(co_name=f"program_{next(_numbers)}")
        self.compiled = torch.compile(program, fullgraph=True, options=options)

    def written(self, current: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """The loop as it is written."""
        return self.loop(current.expand(self.steps, -1) if self.once else current, *state)

    def __call__(self, current: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        if self.checked:
            return self.compiled(current, *state)
        for each in (current, *state):
            torch._dynamo.mark_dynamic(each, each.ndim - 1)
        with warnings.catch_warnings():  # the compiler reads fields of tensors that warn of being read
            warnings.simplefilter("ignore")
            return self.compiled(current, *state)

    def differs(self, found: Sequence[Tensor], *given: Tensor) -> bool:
        """Whether what was found is not that of the written loop: to the bit, and its gradients to NEAR."""
        with torch.no_grad():
            pairs = zip(found, self.written(*given), strict=True)
            same = [torch.equal(*(each.nan_to_num(nan=7.0) for each in pair)) for pair in pairs]
        if not all(same):
            return True
        if not self.goes_back:
            return False
        with torch.autograd.graph.saved_tensors_hooks(_kept, _kept):  # no matter of a checkpoint around it
            one, other = (self._gradients(loop, given) for loop in (self, self.written))
        apart = [(a - b).abs().max() > NEAR * b.abs().max() for a, b in zip(one, other, strict=True)]
        return any(map(bool, apart))  # NaN is not above anything

    def _gradients(self, loop: Loop, given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the sum of what the loop gives."""
        leaves = [each.detach().requires_grad_() for each in given]
        total = torch.stack([each.sum() for each in loop(*leaves)]).sum()
        return torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)


def _kept(x: Tensor) -> Tensor:
    return x


@functools.cache
def _program(
    loop: Loop, steps: int, once: bool, dtype: torch.dtype, device: str, goes_back: bool
) -> _Program:
    """The program for such tensors, which is one and the same for all sizes of a layer."""
    return _Program(loop, steps, once, goes_back)


def through_programs(
    loop: Loop, steps: int, current: Float[Tensor, "T N"] | Float[Tensor, "N"], *state: Float[Tensor, "N"]
) -> tuple[Tensor, ...] | None:
    """What the loop gives, or None where a program fails or gives other numbers.

    Args:
        loop: the written loop.
        steps: number of time steps `T`.
        current: the input at every step, or one that all steps share.
        state: what the loop carries from step to step.
    """
    once, parts = current.ndim == 1, program_steps(steps)
    goes_back = torch.is_grad_enabled() and any(each.requires_grad for each in (current, *state))
    if goes_back:  # all of them, so that first and later programs of a loop are the same
        current, *rest = (
            each if each.requires_grad else each.detach().requires_grad_() for each in (current, *state)
        )
        state = tuple(rest)
    pieces = [current] * len(parts) if once or len(parts) == 1 else torch.split(current, parts)
    outputs = []
    for length, piece in zip(parts, pieces, strict=True):
        program = None
        try:
            program = _program(loop, length, once, current.dtype, current.device.type, goes_back)
            output, *after = found = program(piece, *state)
            differs = not program.checked and program.differs(found, piece, *state)
        except Exception as error:  # compilers fail in many ways, and the written loop remains
            known = program is not None and program.checked  # what it raises now is not the compiler's,
            full = type(error).__name__ == "FailOnRecompileLimitHit"  # but for this
            if (known and not full) or "memory" in str(error).lower():
                raise
            first = str(error).strip().partition("\n")[0]
            refuse(
                current.device, f"Inductor could not compile the loops for {current.device.type}: {first}."
            )
            return None
        if differs:
            name = type(loop).__name__
            refuse(current.device, f"A program of Inductor gave other numbers than the written loop {name}.")
            return None
        program.checked = True
        outputs.append(output)
        state = tuple(after)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), *state

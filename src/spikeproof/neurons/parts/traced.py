"""Written loops as programs of `torch.compile`: what a loop is, and how the tensors of a layer reach it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.compiled import Loop, Loops, chosen_loops, through_programs, why_not_compiled
from spikeproof.neurons.parts.loops import FEW, SUFFIXES, has_channels_last, repeated
from spikeproof.surrogates import (
    ATan,
    Exponential,
    FastSigmoid,
    Gaussian,
    Rectangle,
    Scaled,
    Sigmoid,
    StraightThroughSpike,
    Surrogate,
    Triangle,
)

__all__ = ["Traced", "traced_loop", "traces"]

SURROGATES = frozenset(
    {ATan, Exponential, FastSigmoid, Gaussian, Rectangle, Sigmoid, StraightThroughSpike, Triangle}
)
"""Those whose derivative depends on nothing but its argument, which is what a program may assume."""


class Traced(NamedTuple):
    """Outputs of all steps, and the tensors that a loop carries, after the last one."""

    outputs: Float[Tensor, "T B *F"]
    state: tuple[Tensor, ...]


def traces(current: Float[Tensor, "T B *F"], spike: Surrogate | None = None) -> bool:
    """Whether programs of Inductor are chosen, and exist for this current and spike function."""
    return (
        chosen_loops() is Loops.INDUCTOR
        and current.dtype in SUFFIXES
        and current.numel() >= FEW * len(current)
        and (spike is None or type(spike.surrogate if isinstance(spike, Scaled) else spike) in SURROGATES)
        and not torch.compiler.is_compiling()
        and not why_not_compiled(Loops.INDUCTOR, current.device)
    )


def traced_loop(loop: Loop, current: Float[Tensor, "T B *F"], state: tuple[Tensor, ...]) -> Traced | None:
    """What a written loop gives, by programs; None where it needs to be computed as written.

    Args:
        loop: the written loop, of neurons that do not depend on one another.
        current: input at every step.
        state: what the loop carries, each lined up with the neurons. What has another shape than they have,
            such as a constant that a layer learns, is handed back as it came.
    """
    base = repeated(current)
    seen = current if base is None else base[None]
    last = has_channels_last(seen)
    if last:  # in the order of memory, for the loop treats all neurons alike
        seen = seen.movedim(2, -1)
    shape = current.shape[1:]
    parts = [part.expand(shape) for part in state]
    flat = [(part.movedim(1, -1) if last else part).reshape(-1) for part in parts]
    rows = seen.flatten(1)
    found = through_programs(loop, len(current), rows if base is None else rows[0], *flat)
    if found is None:
        return None
    outputs, *after = (each.view(*each.shape[:-1], *seen.shape[1:]) for each in found)
    if last:
        outputs, after = outputs.movedim(-1, 2), [each.movedim(-1, 1) for each in after]
    carried = (new if old.shape == shape else old for new, old in zip(after, state, strict=True))
    return Traced(outputs, tuple(carried))

"""How layers are computed: the loops over time of neurons, and the backward passes of linear maps.

Loops can be chosen for a block of code or, by an environment variable, for a process, because the choice
changes no digit of an attack. Cells of studies that measure are computed with compiled loops unless others
are chosen. Backward passes of linear maps can be chosen for a block of code only: another choice is another
attack.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum

from spikeproof.errors import InputError

__all__ = [
    "LOOPS_VARIABLE",
    "Backward",
    "Loops",
    "chosen_backward",
    "chosen_loops",
    "chosen_span",
    "fixed_weights",
    "using_backward",
    "using_loops",
    "using_spans",
    "weights_are_fixed",
]

LOOPS_VARIABLE = "SPIKEPROOF_LOOPS"
"""Environment variable with the name of the loops of a process, which processes that it starts inherit."""


class Loops(Enum):
    """How layers of neurons are unrolled over time."""

    WRITTEN = "written"
    """In operations of PyTorch."""

    COMPILED = "compiled"
    """In one pass of machine code per layer, where the neuron, the device and a compiler allow it."""

    INDUCTOR = "inductor"
    """In programs that `torch.compile` makes of the written loops, one for several time steps."""


class Backward(Enum):
    """How a model in evaluation mode computes the gradient that a convolution or a linear layer passes back.

    Forward passes, and with them every verdict, are the same to the bit; gradients on weights are, too.
    """

    PLAIN = "plain"
    """As PyTorch does by default."""

    BFLOAT16 = "bfloat16"
    """In sums of products of bfloat16, of 8 significant bits, for which some processors have instructions."""


_chosen: ContextVar[Loops | None] = ContextVar("loops", default=None)
_backward: ContextVar[Backward] = ContextVar("backward", default=Backward.PLAIN)


def chosen_loops(otherwise: Loops = Loops.WRITTEN) -> Loops:
    """The loops of this block of code, else those that the environment names.

    Args:
        otherwise: what is used where neither names any.

    Raises:
        InputError: the environment names loops that do not exist.

    Example:
        >>> with using_loops(Loops.COMPILED):
        ...     chosen_loops()
        <Loops.COMPILED: 'compiled'>
    """
    if (loops := _chosen.get()) is not None:
        return loops
    if (name := os.environ.get(LOOPS_VARIABLE)) is None:
        return otherwise
    try:
        return Loops(name)
    except ValueError:
        names = ", ".join(loops.value for loops in Loops)
        raise InputError(
            f"{LOOPS_VARIABLE} needs to be one of {names}", repr(name), f"Try {Loops.WRITTEN.value}."
        ) from None


@contextmanager
def using_loops(loops: Loops) -> Iterator[None]:
    """Use these loops inside the block; a backward pass uses those of its forward pass.

    Args:
        loops: the loops to use.

    Example:
        >>> import torch
        >>> from spikeproof.neurons import Spiking
        >>> layer, current = Spiking(), torch.full((3, 1, 1), 0.6)
        >>> with using_loops(Loops.COMPILED):
        ...     layer(current).flatten().tolist()
        [0.0, 1.0, 0.0]
    """
    token = _chosen.set(loops)
    try:
        yield
    finally:
        _chosen.reset(token)


def chosen_backward() -> Backward:
    """The backward passes of linear maps in this block of code.

    Example:
        >>> chosen_backward()
        <Backward.PLAIN: 'plain'>
    """
    return _backward.get()


@contextmanager
def using_backward(backward: Backward) -> Iterator[None]:
    """Use these backward passes in models in evaluation mode, for forward passes inside the block.

    Args:
        backward: the backward passes to use.

    Example:
        >>> with using_backward(Backward.BFLOAT16):
        ...     chosen_backward()
        <Backward.BFLOAT16: 'bfloat16'>
    """
    token = _backward.set(backward)
    try:
        yield
    finally:
        _backward.reset(token)


_fixed: ContextVar[bool] = ContextVar("fixed", default=False)


def weights_are_fixed() -> bool:
    """Whether forward passes in this block of code are followed by gradients on their inputs alone.

    Example:
        >>> weights_are_fixed()
        False
    """
    return _fixed.get()


@contextmanager
def fixed_weights(fixed: bool = True) -> Iterator[None]:
    """Pass back no gradient on weights of linear maps in evaluation mode, whose inputs need not be kept then.

    The gradient on the input is the same to the bit. Attacks compute theirs so.

    Args:
        fixed: False for gradients on weights also inside such a block.

    Example:
        >>> with fixed_weights():
        ...     weights_are_fixed()
        True
    """
    token = _fixed.set(fixed)
    try:
        yield
    finally:
        _fixed.reset(token)


_span: ContextVar[int | None] = ContextVar("span", default=None)


def chosen_span() -> int | None:
    """The number of time steps that networks compute at a time in this block of code; None for all.

    Example:
        >>> chosen_span() is None
        True
    """
    return _span.get()


@contextmanager
def using_spans(span: int | None) -> Iterator[None]:
    """Compute networks in spans of time steps, so that memory hardly grows with the number of steps.

    Only the states between spans are kept for the backward pass, which computes every span a second time.
    Spikes are the same to the bit, gradients up to the order in which sums over time are added up. Networks
    whose layers need all time steps at once, and models of other frameworks, are computed as before.

    Args:
        span: time steps of a span, at least 1; None for all of them at once.

    Raises:
        InputError: no time step.

    Example:
        >>> with using_spans(32):
        ...     chosen_span()
        32
    """
    if span is not None and span < 1:
        raise InputError("A span holds at least one time step", f"span={span}", "Try 32.")
    token = _span.set(span)
    try:
        yield
    finally:
        _span.reset(token)

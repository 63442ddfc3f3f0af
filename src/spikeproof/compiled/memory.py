"""Memory that the allocator keeps for the next operation, where fetching it anew takes long."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["keeping_memory"]

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3): free bytes at the end of the heap, and size of a block, above which the
system gets memory back as soon as it is free."""

KEPT = 1 << 30
"""Bytes that are kept inside the block."""

USUAL = 1 << 25
"""Bytes that the C library of GNU arrives at by itself in a process with large tensors."""


def _allocator() -> tuple[Callable[[int, int], int], Callable[[int], int]] | None:
    """The functions mallopt and malloc_trim; None where the C library has none."""
    try:
        program = ctypes.CDLL(None)
        return program.mallopt, program.malloc_trim
    except (AttributeError, OSError, TypeError):  # not the C library of GNU
        return None


@contextmanager
def keeping_memory() -> Iterator[None]:
    """Let the allocator of this process keep up to 1 GiB of free memory inside the block.

    The C library of GNU otherwise gives tensors of some megabytes back to the system as soon as they are
    free, which clears every page of the next one: up to a third of the time of a gradient. Afterwards the
    memory goes back. No number changes; with another C library nothing happens.

    Example:
        >>> import torch
        >>> with keeping_memory():
        ...     torch.ones(2).sum().item()
        2.0
    """
    if (functions := _allocator()) is None:
        yield
        return
    set_limit, give_back = functions
    for limit in (TRIM_THRESHOLD, MMAP_THRESHOLD):
        set_limit(limit, KEPT)
    try:
        yield
    finally:
        for limit in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            set_limit(limit, USUAL)
        give_back(0)

"""Errors, whose messages have three parts: what was expected, what was given, and what to try."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

__all__ = [
    "DamagedError",
    "InputError",
    "SpikeproofError",
    "located",
    "of_the_machine",
    "out_of_memory",
    "suggest",
]

NO_MEMORY = ("out of memory", "can't allocate memory")
"""Words of PyTorch where memory does not suffice, which on a processor is a `RuntimeError` like any other."""

BROKEN = ("cuda error", "cudnn", "nccl")
"""Words of PyTorch where an accelerator or its libraries fail."""


class SpikeproofError(Exception):
    """An error that spikeproof reports to its user as one message instead of a traceback."""


class InputError(SpikeproofError, ValueError):
    """The user gave an input that cannot be used.

    Args:
        expected: what would have been accepted.
        got: what was given instead.
        try_: what to do next, a full sentence.

    Example:
        >>> print(InputError("Latency needs at least one time step", "steps=0", "Try steps=8."))
        Latency needs at least one time step: got steps=0. Try steps=8.
    """

    def __init__(self, expected: str, got: str, try_: str) -> None:
        super().__init__(f"{expected}: got {got}. {try_}")
        self.expected, self.got, self.try_ = expected, got, try_

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        return type(self), (self.expected, self.got, self.try_)


@contextmanager
def located(line: str | None) -> Iterator[None]:
    """Put a location, such as a file and its line, in front of the message of every error inside.

    Example:
        >>> with located("study.yaml:3"):
        ...     raise InputError("A number", "'x'", "Write 3.")
        Traceback (most recent call last):
        spikeproof.errors.InputError: study.yaml:3: A number: got 'x'. Write 3.
    """
    try:
        yield
    except InputError as error:
        if not line:
            raise
        raise InputError(f"{line}: {error.expected}", error.got, error.try_) from error


class DamagedError(SpikeproofError):
    """The content of a stored file differs from what was written to it."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory of the processor or of an accelerator did not suffice.

    Example:
        >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("sizes of tensors must match"))
        (True, False)
        >>> out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
        True
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in NO_MEMORY)


def of_the_machine(error: BaseException) -> bool:
    """Whether an error says something of the machine, and nothing of the model or of what it was asked.

    Such an error is handed on as it is, so that it is met where something can be done about it: cells are
    computed in smaller batches where memory does not suffice, and once more where an accelerator failed.

    Example:
        >>> of_the_machine(RuntimeError("CUDA error: unspecified launch failure"))
        True
    """
    broken = isinstance(error, RuntimeError) and any(part in str(error).lower() for part in BROKEN)
    return broken or out_of_memory(error)


def suggest(name: str, options: Iterable[str]) -> str:
    """A sentence that names the closest option, or all of them when none is close.

    Example:
        >>> suggest("latncy", ["direct", "latency"])
        "Did you mean 'latency'?"
        >>> suggest("x", ["direct", "latency"])
        "Choose one of 'direct', 'latency'."
    """
    options = sorted(options)
    close = difflib.get_close_matches(str(name), options, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return (
        f"Choose one of {', '.join(map(repr, options))}." if options else "There is no name to choose from."
    )

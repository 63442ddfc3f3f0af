"""Long measurements in blocks of examples, saved now and then, so that a kill costs a minute of work at most.

An example's outcome does not depend on the examples that are measured together with it. So the outcomes of
blocks, joined, are the outcome of all examples to the bit, whatever the size of the blocks.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from spikeproof.errors import InputError
from spikeproof.evaluation.columns import columns
from spikeproof.evaluation.distances import Nearest
from spikeproof.evaluation.outcomes import Attacked
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.tensorfiles import digest, dump, parse, read, write

__all__ = ["Blocks", "Outcome"]

SECONDS_OF_A_BLOCK = 10.0
"""About how long a block takes, once the first one has shown how long a batch does."""

SECONDS_AT_RISK = 15.0
"""Seconds of work after which the state is saved."""

_VERSION = 1
Outcome = TypeVar("Outcome", Attacked, Nearest)


@dataclass
class Blocks(Generic[Outcome]):
    """The measurement of all examples of a cell, block by block.

    Args:
        outcome: class of the outcome, which declares its columns.
        measure: gives the outcome of the examples from one row to another.
        batch: examples that are measured together; a block is a multiple of it.
        state: file in which the outcome of the first examples is saved.
        identity: digest of everything that the outcome depends on.
        device: of the tensors.
        tell: hears how far the measurement is.
    """

    outcome: type[Outcome]
    measure: Callable[[slice], Outcome]
    batch: int
    state: Path
    identity: str
    device: torch.device
    tell: Callable[[Progress], None]

    def all(self, examples: int) -> Outcome:
        """The outcome of so many examples, at least 1, continued where a killed run has stopped."""
        whole = self.resumed(examples)
        saved, batches = time.monotonic(), 1
        while (done := 0 if whole is None else len(whole.example)) < examples:
            began = time.monotonic()
            part = self.measure(slice(done, min(done + batches * self.batch, examples)))
            now = time.monotonic()
            batches = max(1, int(batches * min(SECONDS_OF_A_BLOCK / max(now - began, 1e-3), 100)))
            whole = part if whole is None else self.joined(whole, part)
            if len(whole.example) < examples:
                self.tell(Progress(len(whole.example), examples, "examples"))
                if now - saved > SECONDS_AT_RISK:
                    self.save(whole)
                    saved = now
        assert whole is not None
        return whole

    def joined(self, first: Outcome, second: Outcome) -> Outcome:
        """The outcome of the examples of both."""
        both: dict[str, Any] = {  # of the types that the columns of the outcome declare
            name: column.joined([getattr(first, name), getattr(second, name)])
            for name, column in columns(self.outcome).items()
        }
        return replace(first, **both)

    def save(self, whole: Outcome) -> None:
        """Write the outcome of the first examples, which replaces the one before in one step.

        Raises:
            InputError: the file cannot be written.
        """
        tensors = {name: getattr(whole, name) for name in columns(self.outcome)}
        note = {
            "version": _VERSION,
            "identity": self.identity,
            "tensors": digest(tensors),
            "beside": {name: getattr(whole, name) for name in self.beside()},
        }
        write(self.state, dump(tensors, note))

    def beside(self) -> list[str]:
        """The fields of the outcome that are no columns, which are the same for every block."""
        return [each.name for each in fields(self.outcome) if each.name not in columns(self.outcome)]

    def resumed(self, examples: int) -> Outcome | None:
        """What was saved; None where nothing was, or where it is damaged, which costs time only."""
        if not self.state.exists():
            return None
        try:
            tensors, note = parse(read(self.state), str(self.state))
            if note["tensors"] != digest(tensors):
                raise ValueError("its digest does not match its content")
            if (note["version"], note["identity"]) != (_VERSION, self.identity):
                return None
            named: dict[str, Any] = {name: tensor.to(self.device) for name, tensor in tensors.items()}
            whole = self.outcome(**named, **note["beside"])
            return whole if len(whole.example) <= examples else None
        except (InputError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{self.state} is damaged ({error}); the cell starts from its beginning", stacklevel=3
            )
            return None

"""Parts of an unfinished cell, kept beside the store, so that a kill costs a minute of work at most.

A long cell is computed part by part: by candidates, layers or draws, and by blocks of examples. No part
depends on when it was computed, and no example's outcome on the examples that are measured together with it.
What was kept of a killed process therefore gives the same cell to the bit, whatever the size of the blocks.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.evaluation.columns import columns, one_after_another
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.tensorfiles import digest, dump, parse, read, write

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["Unfinished"]

SECONDS_OF_A_BLOCK = 10.0
"""About how long a block of examples takes, once the first one has shown how long a batch does."""

SECONDS_AT_RISK = 15.0
"""Seconds of work after which the parts are saved."""

_VERSION = 3
_INDEX = "parts"
_ONE = "value"

Kept = TypeVar("Kept")
Outcome = TypeVar("Outcome", bound="DataclassInstance")
Join = Callable[[Sequence[Tensor]], Tensor]


class _Part(NamedTuple):
    """What is kept of a part: tensors by name, and plain data."""

    tensors: Mapping[str, Tensor]
    plain: Any = None


@dataclass
class Unfinished:
    """The parts of one cell that are computed, in memory and now and then in a file.

    Args:
        state: the file, which the caller removes when the cell is finished.
        identity: of the cell; a file of another one is left aside.
        device: of the tensors.
        tell: hears what is computed.
        weights: digests of the weights that the parts depend on, which are part of their names.
        stage: how far the cell is, while its examples are only a stage of it, so that they do not foretell
            its end: number of this stage and of all, or twice 0 where that is not known.
    """

    state: Path
    identity: str
    device: torch.device
    tell: Callable[[Progress], None]
    weights: tuple[str, ...] = ()
    stage: tuple[int, int] | None = None
    parts: dict[str, _Part] = field(default_factory=dict, repr=False)
    opened: bool = False
    saved: float = 0.0

    def keep(self, name: str, compute: Callable[[], Kept]) -> Kept:
        """A tensor, or plain data as JSON has them: computed now, or kept from an earlier process.

        Args:
            name: of the part, which no other part of the cell has.
            compute: gives it.
        """
        named = self._named(name)
        if named not in self.parts:
            self.tell(Progress(0, 0, name))
            value: Any = compute()
            tensors = {_ONE: value} if isinstance(value, Tensor) else {}
            self._add(named, _Part(tensors, None if tensors else json.loads(json.dumps(value))))
        part = self.parts[named]
        found: Any = part.tensors[_ONE] if part.tensors else part.plain
        return cast(Kept, found)

    def outcome(
        self,
        name: str,
        outcome: type[Outcome],
        measure: Callable[[slice], Outcome],
        batch: int,
        examples: int,
    ) -> Outcome:
        """The outcome of all examples, block by block.

        Args:
            name: of the part, which no other part of the cell has.
            outcome: the class, which declares the columns.
            measure: gives the outcome of the examples from one row to another.
            batch: examples that are measured together; a block is a multiple of it.
            examples: their number, at least 1.
        """
        known = columns(outcome)
        beside = [each.name for each in fields(outcome) if each.name not in known]

        def block(rows: slice) -> _Part:
            found = measure(rows)
            plain = {each: getattr(found, each) for each in beside}  # the same for every block
            return _Part({column: getattr(found, column) for column in known}, plain)

        joins = {column: each.joined for column, each in known.items()}
        whole = self._blocks(name, block, batch, examples, joins)
        return outcome(**whole.tensors, **whole.plain)

    def rows(
        self, name: str, measure: Callable[[slice], Mapping[str, Tensor]], batch: int, examples: int
    ) -> Mapping[str, Tensor]:
        """Tensors with a row for every example, block by block; see `outcome`.

        Args:
            name: of the part, which no other part of the cell has.
            measure: gives the tensors of the examples from one row to another.
            batch: examples that are measured together; a block is a multiple of it.
            examples: their number, at least 1.
        """
        return self._blocks(name, lambda rows: _Part(measure(rows)), batch, examples, {}).tensors

    def _blocks(
        self,
        name: str,
        measure: Callable[[slice], _Part],
        batch: int,
        examples: int,
        joins: Mapping[str, Join],
    ) -> _Part:
        named, batches = self._named(name), 1
        whole = self.parts.get(named)
        while (done := _length(whole)) < examples:
            share = f"{name}, {done} of {examples}"
            self.tell(Progress(*self.stage, share) if self.stage else Progress(done, examples, name))
            inner, began = set(self.parts), time.monotonic()
            part = measure(slice(done, min(done + batches * batch, examples)))
            batches = max(
                1, int(batches * min(SECONDS_OF_A_BLOCK / max(time.monotonic() - began, 1e-3), 100))
            )
            whole = part if whole is None else _joined(whole, part, joins)
            for spent in self.parts.keys() - inner - {named}:  # parts of this block
                del self.parts[spent]
            self._add(named, whole)
        assert whole is not None
        return whole

    def _named(self, name: str) -> str:
        if not self.opened:
            self.parts, self.opened, self.saved = self._resumed(), True, time.monotonic()
        return " ".join((name, *self.weights))

    def _add(self, name: str, part: _Part) -> None:
        self.parts[name] = part
        if time.monotonic() - self.saved > SECONDS_AT_RISK:
            self.save()
            self.saved = time.monotonic()

    def save(self) -> None:
        """Write the parts, which replace those in the file in one step.

        Raises:
            InputError: the file cannot be written.
        """
        index = [[name, part.plain, list(part.tensors)] for name, part in self.parts.items()]
        tensors = {
            f"{number} {column}": tensor
            for number, part in enumerate(self.parts.values())
            for column, tensor in part.tensors.items()
        }
        words = json.dumps(index).encode()  # NaN included, which a header cannot hold
        tensors[_INDEX] = torch.frombuffer(bytearray(words), dtype=torch.uint8)
        note = {"version": _VERSION, "identity": self.identity, "tensors": digest(tensors)}
        write(self.state, dump(tensors, note))

    def _resumed(self) -> dict[str, _Part]:
        """What was saved; nothing where nothing was, or where it is damaged, which costs time only."""
        if not self.state.exists():
            return {}
        try:
            tensors, note = parse(read(self.state), str(self.state))
            if note["tensors"] != digest(tensors):
                raise ValueError("its digest does not match its content")
            if (note["version"], note["identity"]) != (_VERSION, self.identity):
                return {}
            index = json.loads(bytes(tensors.pop(_INDEX).numpy()))
            return {
                name: _Part({each: tensors[f"{number} {each}"].to(self.device) for each in inside}, plain)
                for number, (name, plain, inside) in enumerate(index)  # a file has them in another order
            }
        except (InputError, KeyError, TypeError, ValueError) as error:
            warnings.warn(
                f"{self.state} is damaged ({error}); the cell starts from its beginning", stacklevel=4
            )
            return {}


def _length(part: _Part | None) -> int:
    """Number of examples: every outcome and every table of rows has a tensor of them that comes first."""
    return 0 if part is None else len(next(iter(part.tensors.values())))


def _joined(first: _Part, second: _Part, joins: Mapping[str, Join]) -> _Part:
    """The examples of both."""
    both = {
        name: joins.get(name, one_after_another)([tensor, second.tensors[name]])
        for name, tensor in first.tensors.items()
    }
    return _Part(both, first.plain)

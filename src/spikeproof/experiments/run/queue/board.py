"""The cells of a study as a worker sees them: which it may take next, and which have to wait for others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikeproof.experiments.run.queue.failures import Failure, Failures
from spikeproof.experiments.run.queue.leases import Holder, Leases
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import Cell, CellRecord

__all__ = ["Board", "News", "Task"]


@dataclass(frozen=True)
class Task:
    """A cell with what the order of work depends on, computed once.

    Args:
        cell: the cell.
        address: its address.
        needs: addresses of the cells that must be finished first.
        model: address of the train cell of the model that it measures or trains.
    """

    cell: Cell
    address: str
    needs: tuple[str, ...]
    model: str

    @classmethod
    def of(cls, cell: Cell) -> Task:
        """The task of computing a cell."""
        record: CellRecord = cell.record()
        return cls(cell, record["address"], cell.needs, record["spec"].get("train", record["address"]))


@dataclass(frozen=True)
class News:
    """What has changed in the output directory since the last look.

    Args:
        finished: addresses of cells that are stored now.
        failed: address -> failure, where a cell failed once more.
        held: address -> worker, for every cell that is held now.
    """

    finished: Sequence[str]
    failed: Mapping[str, Failure]
    held: Mapping[str, Holder | None]


class Board:
    """The cells of a study that remain, and the order in which one worker takes them.

    A cell comes after the cells that it needs. Cells of a model that the worker has in memory come first,
    then cells of models that no other worker measures, in the order of the study.

    Args:
        root: the output directory.
        tasks: the cells of the study, in its order.
        leases: as this worker observes them.
    """

    def __init__(self, root: Path, tasks: Sequence[Task], leases: Leases) -> None:
        self.store, self.failures, self.leases = Store(root), Failures(root), leases
        self.tasks = {task.address: task for task in tasks}
        self.done: set[str] = set()
        self.aside: dict[str, Failure] = {}
        self.held: Mapping[str, Holder | None] = {}
        self._stamps: dict[str, tuple[int, int]] = {}
        self._cooling: dict[str, float] = {}
        self._groups: dict[str, dict[str, Task]] = {}
        self._blocked: set[str] = set()
        self._missing: set[str] = set()
        self._needed: dict[str, list[str]] = {}
        for task in tasks:
            for address in task.needs:
                self._needed.setdefault(address, []).append(task.address)
        for address in self._needed.keys() - self.tasks.keys():  # cells of another study
            if self.store.has(address):
                self.done.add(address)
            else:
                self._missing.add(address)
        self._restore()

    @property
    def over(self) -> bool:
        """Whether every cell is finished, set aside, or needs one that is set aside."""
        return not self._groups

    @property
    def blocked(self) -> set[str]:
        """The addresses of the cells that need one that is set aside."""
        return self._blocked - self.done - self.aside.keys()

    @property
    def remaining(self) -> int:
        """Number of cells that are neither finished nor set aside nor blocked."""
        return sum(map(len, self._groups.values()))

    def refresh(self) -> News:
        """Look into the output directory; what has changed there."""
        self.held = {a: h for a, h in self.leases.observe().items() if a in self.tasks}
        failed = self._read_failures()
        stored = self.store.addresses() & self.tasks.keys()
        finished = stored - self.done
        for address in finished:
            self.finish(address)
        if gone := (self.done & self.tasks.keys()) - stored:  # damaged cells that another run discarded
            self.done -= gone
            self._restore()
        return News(sorted(finished), failed, self.held)

    def _read_failures(self) -> dict[str, Failure]:
        """The failures that have changed; cells whose failure was removed are waiting again."""
        stamps = {a: stamp for a, stamp in self.failures.stamps().items() if a in self.tasks}
        changed = [a for a, stamp in stamps.items() if self._stamps.get(a) != stamp and a not in self.done]
        found = {a: failure for a in changed if (failure := self.failures.read(a)) is not None}
        gone = self._stamps.keys() - stamps.keys()
        self._stamps = stamps
        for address in gone:
            self._cooling.pop(address, None)
        back = [a for a in (*gone, *found) if a in self.aside and a not in self.done]
        for address in back:
            del self.aside[address]
        if back:
            self._restore()
        for address, failure in found.items():
            self.fail(address, failure)
        return found

    def finish(self, address: str) -> None:
        """Note that a cell is stored."""
        self.done.add(address)
        self.aside.pop(address, None)
        self._drop(address)

    def fail(self, address: str, failure: Failure) -> None:
        """Note that a cell failed: it waits for a while, or is set aside with all that need it."""
        if not failure.aside:
            self._cooling[address] = time.monotonic() + failure.pause
            return
        self.aside[address] = failure
        self._drop(address)
        for each in self._followers(address):
            self._blocked.add(each)
            self._drop(each)

    def next(self, warm: Sequence[str] = ()) -> Task | None:
        """The cell to take now; None where there is none, or none yet.

        Args:
            warm: addresses of the models in memory, the most recent one last.
        """
        for model in reversed(warm):
            if (task := self._ready(model)) is not None:
                return task
        busy = {self.tasks[address].model for address in self.held}
        for free in (True, False):
            for model in self._groups:
                if (model not in busy) is free and (task := self._ready(model)) is not None:
                    return task
        return None

    def _ready(self, model: str) -> Task | None:
        group = self._groups.get(model, {})
        if model in group:  # the model has to be trained first
            group = {model: group[model]}
        now = time.monotonic()
        return next((task for task in group.values() if self._free(task, now)), None)

    def _free(self, task: Task, now: float) -> bool:
        return (
            task.address not in self.held
            and self._cooling.get(task.address, now) <= now
            and all(address in self.done for address in task.needs)
        )

    def taken(self, address: str, holder: Holder | None = None) -> None:
        """Note that another worker holds a cell."""
        self.held = {**self.held, address: holder}

    def _drop(self, address: str) -> None:
        model = self.tasks[address].model
        group = self._groups.get(model, {})
        group.pop(address, None)
        if not group:
            self._groups.pop(model, None)

    def _followers(self, address: str) -> Iterator[str]:
        """The cells that need this one, directly or through others, and are not stored."""
        waiting, seen = [address], {address}
        while waiting:
            for each in self._needed.get(waiting.pop(), ()):
                if each not in seen and each not in self.done:
                    seen.add(each)
                    waiting.append(each)
                    yield each

    def _restore(self) -> None:
        """Group the cells that remain by model, without those that need what is set aside or missing."""
        lacking = (*self.aside, *self._missing)
        self._blocked = {each for address in lacking for each in self._followers(address)}
        out = self.done | self.aside.keys() | self._blocked
        self._groups = {}
        for address, task in self.tasks.items():
            if address not in out:
                self._groups.setdefault(task.model, {})[address] = task

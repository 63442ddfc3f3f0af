"""What every worker does, wherever it runs: take a cell, compute it, store it, and take the next one."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from spikeproof.experiments.run.extracts import extract
from spikeproof.experiments.run.queue.board import Board, Task
from spikeproof.experiments.run.queue.failures import Failure, Failures
from spikeproof.experiments.run.queue.leases import HEARTBEAT, STALE, Holder, Lease, Leases, Progress, Pulse
from spikeproof.experiments.run.queue.survey import CHECKPOINTS, cell_of_state
from spikeproof.experiments.run.store import Store, refused
from spikeproof.experiments.study.cells import Cell

__all__ = [
    "Ended",
    "Event",
    "Labour",
    "Reported",
    "Terminated",
    "Work",
    "checkpoint",
    "forget_states",
    "terminable",
]

Work = Callable[[Cell, Callable[[Progress], None]], Mapping[str, bytes]]
"""Computes the files of one cell, and tells how far it is."""

GRACE = 2.0
"""Seconds that a cell has to finish after the signal to stop."""

KEPT_MODELS = 4
"""Models of which a worker prefers the cells, since it has them in memory."""

LEAST_PAUSE, LONGEST_PAUSE = 0.02, 1.0
"""Seconds between two looks of a worker that waits for cells of others."""

BETWEEN_LOOKS, SHARE_OF_LOOKING = 0.5, 0.05
"""Least seconds between two looks into the output directory, and the largest share of time spent on them."""

NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
FORBIDDEN = {errno.EACCES, errno.EPERM}


class Reported(NamedTuple):
    """A cell is being computed."""

    address: str
    progress: Progress


class Ended(NamedTuple):
    """The computation of a cell has ended, with a failure or without."""

    address: str
    failure: Failure | None


Event = Reported | Ended


class Terminated(SystemExit):
    """A signal asked this process to end; its cells were finished or given back."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


class _Halted(BaseException):
    """The time of a cell is over that was computed when the signal came."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise `Terminated` where SIGTERM meets the main thread of this process; elsewhere do nothing."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with _handling(signal.SIGTERM, end):
        yield


@contextmanager
def _handling(number: signal.Signals, handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@dataclass
class _Halt:
    """Whether SIGTERM came; the cell under way then has a short time to finish.

    Args:
        grace: seconds that it has.
    """

    grace: float
    asked: bool = False
    computing: bool = False

    @contextmanager
    def listening(self) -> Iterator[_Halt]:
        """Hear the signal."""
        with _handling(signal.SIGTERM, self._hear):
            if hasattr(signal, "setitimer"):
                with _handling(signal.SIGALRM, self._stop):
                    try:
                        yield self
                    finally:
                        if self.asked:
                            signal.setitimer(signal.ITIMER_REAL, 0)
            else:
                yield self

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Around the computation of a cell, the only place where the signal breaks in."""
        self.computing = True
        try:
            yield
        finally:
            self.computing = False

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if self.grace > 0 and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, self.grace)
        else:
            self._stop(number, frame)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.computing:
            self.computing = False
            raise _Halted


@dataclass(frozen=True)
class Labour:
    """The work of one worker on the cells of an output directory, until nothing remains to be done.

    Args:
        root: the output directory.
        work: computes the files of one cell.
        beat: seconds between two heartbeats of a lease.
        stale: seconds without a heartbeat after which a lease is taken over.
        grace: seconds that a cell has to finish after SIGTERM.
    """

    root: Path
    work: Work
    beat: float = HEARTBEAT
    stale: float = STALE
    grace: float = GRACE

    def __call__(
        self,
        tasks: Sequence[Task],
        owner: str,
        heard: Callable[[Event], None] = lambda event: None,
        pulse: Pulse | None = None,
    ) -> bool:
        """Compute cells until all are finished, set aside or blocked; False where SIGTERM came before.

        A worker without a cell of its own waits for those of others, as one may be lost or enable others.

        Args:
            tasks: the cells of the study.
            owner: name of this worker, which no other worker ever has.
            heard: hears how it goes.
            pulse: what keeps the leases alive; None for one of its own.

        Raises:
            InputError: the output directory cannot be written.
        """
        with _Halt(self.grace).listening() as halt, (pulse or Pulse(self.beat)).beating() as beating:
            board = Board(self.root, tasks, Leases(self.root, owner, self.stale))
            return _Worker(self, board, beating, halt, heard).go()


@dataclass
class _Worker:
    labour: Labour
    board: Board
    pulse: Pulse
    halt: _Halt
    heard: Callable[[Event], None]
    warm: list[str] = field(default_factory=list)
    looked: float = 0.0
    next_look: float = 0.0
    pause: float = LEAST_PAUSE

    @property
    def root(self) -> Path:
        return self.labour.root

    def go(self) -> bool:
        self.look()
        while not self.halt.asked:
            if time.monotonic() >= self.next_look:
                self.look()
            if (task := self.board.next(self.warm)) is not None:
                self.pause = LEAST_PAUSE
                self.attempt(task)
            elif self.board.over:
                return True
            else:  # others hold what is left, or a failed cell waits for its next try
                time.sleep(self.pause)
                self.pause = min(2 * self.pause, LONGEST_PAUSE)
                self.look()
        return False

    def look(self) -> None:
        began = time.monotonic()
        self.board.refresh()
        now = time.monotonic()
        self.next_look = now + max(BETWEEN_LOOKS, (now - began) / SHARE_OF_LOOKING)

    def attempt(self, task: Task) -> None:
        """Take a cell and compute it, unless somebody else has it or was faster."""
        lease = self.board.leases.take(task.address)
        if lease is None:
            self.board.taken(task.address)
            return
        with self.pulse.keeping(lease):
            if Store(self.root).has(task.address):
                self.board.finish(task.address)
            elif lease.after is None or not self.lost(task, lease.after).aside:
                self.compute(task, lease)

    def lost(self, task: Task, holder: Holder) -> Failure:
        """Note that the worker is gone that held a cell before."""
        words = f"the worker process died (process {holder.pid} on {holder.machine})"
        failure = Failures(self.root).note(task.cell.record(), Failure(words, tries=0, losses=1, aside=False))
        if failure.aside:
            self.end(task, failure)
        return failure

    def compute(self, task: Task, lease: Lease) -> None:
        self.warm = [*(model for model in self.warm if model != task.model), task.model][-KEPT_MODELS:]

        def tell(progress: Progress) -> None:
            lease.tell(progress)
            self.heard(Reported(task.address, progress))

        try:
            with self.halt.interruptible():
                files = self.labour.work(task.cell, tell)
        except _Halted:
            return
        except Exception as error:  # a failed cell does not stop the others
            if (reason := self.unwritable(error)) is not None:
                raise refused(self.root, reason) from error
            self.end(task, Failures(self.root).note(task.cell.record(), Failure.of(error)))
            return
        Store(self.root).put(task.address, files)
        extract(Store(self.root), task.cell.record(), self.board.leases.owner)
        Failures(self.root).forget(task.address)
        forget_states(self.root, task.address)
        self.end(task, None)

    def end(self, task: Task, failure: Failure | None) -> None:
        if failure is None:
            self.board.finish(task.address)
        else:
            self.board.fail(task.address, failure)
        self.heard(Ended(task.address, failure))

    def unwritable(self, error: BaseException | None) -> OSError | None:
        """The reason why no cell of this output directory can be stored, if an error has such a cause."""
        while error is not None:
            if isinstance(error, OSError):
                inside = str(error.filename or "").startswith(str(self.root))
                if error.errno in NO_ROOM or (error.errno in FORBIDDEN and inside):
                    return error
            error = error.__cause__ or error.__context__
        return None


def checkpoint(root: Path, address: str, part: str = "") -> Path:
    """The file that holds the state of an unfinished cell, or a part of it.

    Args:
        root: the output directory.
        address: of the cell.
        part: what tells several files of one cell apart.
    """
    return root / CHECKPOINTS / (f"{address}-{part}" if part else address)


def forget_states(root: Path, address: str) -> None:
    """Remove the files that hold the state of a cell, which is finished; one that stays does no harm."""
    with suppress(OSError):
        for name in os.listdir(root / CHECKPOINTS):  # noqa: PTH208
            if cell_of_state(name) == address:
                (root / CHECKPOINTS / name).unlink(missing_ok=True)

"""The seam behind which executors stand: where workers run, and how it becomes known that one was lost."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from spikeproof.errors import InputError
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.labour import Event, Labour
from spikeproof.experiments.run.store import Store

__all__ = ["Executor", "Heard", "Lost", "Patience", "deaf_to_interrupts", "named"]

Heard = Callable[[Event], None]

MOST_LOST_IN_A_ROW = 20
"""How many workers may be lost one after another, for each of those that run at a time."""


class Lost(NamedTuple):
    """A worker that ended before the work did.

    Args:
        owner: its name.
        reason: one line for the reader.
        blamed: whether the cell that it computed may be the reason; not so where its machine was lost.
    """

    owner: str
    reason: str
    blamed: bool = True


class Executor(Protocol):
    """Runs workers until nothing remains to be done; any number, any machine, the same set of outcomes.

    Args:
        tells: whether the events of workers arrive; otherwise they are read from the output directory.
    """

    tells: ClassVar[bool]

    def run(self, labour: Labour, tasks: Sequence[Task], heard: Heard) -> Generator[Lost | None, None, None]:
        """Let workers call `labour(tasks, owner, heard)`, and start another one for each that is lost.

        Args:
            labour: the work of one worker.
            tasks: the cells of the study.
            heard: hears the events of workers.

        Returns:
            Lost workers, and None at least once a second while nothing happens. Closing the iterator ends
            all workers.

        Raises:
            InputError: the output directory cannot be written, or workers are lost again and again.
            Terminated: SIGTERM came.
        """
        ...


def named() -> str:
    """A name for a worker that no other worker ever has."""
    return uuid.uuid4().hex


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Block Ctrl-C in a process that is started inside, also while it imports; here it is only delayed.

    The driver decides what an interrupt means, and no worker shows a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # it starts with the first process, and would unblock Ctrl-C
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Patience:
    """Counts the workers that are lost without any cell being stored in between.

    Args:
        root: the output directory.
        workers: number of workers that run at a time.
    """

    def __init__(self, root: Path, workers: int) -> None:
        self.store, self.limit = Store(root), MOST_LOST_IN_A_ROW * workers
        self.lost, self.stored = 0, set[str]()

    def lose(self, reason: str) -> None:
        """Count a lost worker.

        Raises:
            InputError: it was one too many.
        """
        stored = self.store.addresses()
        self.lost = self.lost + 1 if stored == self.stored else 1
        self.stored = stored
        if self.lost >= self.limit:
            raise InputError(
                "Workers that live long enough to finish a cell",
                f"{self.lost} that were lost one after another, the last one because {reason}",
                "Try --executor serial, which shows what goes wrong.",
            )

"""Executors run tasks in one or several processes; every executor gives the same set of outcomes.

A task that fails gives a `Failure`, and the other tasks go on. The outcome of a task may enable further
tasks: `then` returns them, and they run before the tasks that already wait.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Generic, NamedTuple, Protocol, TypeVar

from spikeproof.errors import InputError

__all__ = ["Executor", "Failure", "Processes", "Progress", "Serial", "Work"]

Task = TypeVar("Task")
Result = TypeVar("Result")


class Progress(NamedTuple):
    """The progress of a task: `done` of `total` parts, with a short note."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Failure:
    """What went wrong with one task.

    Args:
        error: one line for the reader.
        trace: the traceback, empty where there is none.
    """

    error: str
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure that describes an exception."""
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return cls(f"{type(error).__name__}: {words}", "".join(traceback.format_exception(error)))


Work = Callable[[Task, Callable[[Progress], None]], Result]
Then = Callable[[Task, object], Iterable[Task]]
Heard = Callable[[Task, Progress], None]


def nothing_follows(task: object, outcome: object) -> tuple[()]:
    """No outcome enables another task."""
    return ()


def nobody_listens(task: object, progress: Progress) -> None:
    """Progress is ignored."""


class Executor(Protocol):
    """Runs tasks: any order, any machine, the same set of outcomes."""

    def run(
        self,
        work: Work[Task, Result],
        tasks: Iterable[Task],
        *,
        then: Then[Task] = nothing_follows,
        heard: Heard[Task] = nobody_listens,
    ) -> Iterator[tuple[Task, Result | Failure]]:
        """Call `work(task, tell)` for every task and for the tasks that `then(task, outcome)` returns."""
        ...


class Serial:
    """One task after another, in this process.

    Example:
        >>> work = lambda task, tell: 10 / task
        >>> [outcome for task, outcome in Serial().run(work, [2, 5])]
        [5.0, 2.0]
    """

    def run(
        self,
        work: Work[Task, Result],
        tasks: Iterable[Task],
        *,
        then: Then[Task] = nothing_follows,
        heard: Heard[Task] = nobody_listens,
    ) -> Iterator[tuple[Task, Result | Failure]]:
        """See `Executor.run`."""
        waiting = deque(tasks)
        while waiting:
            task = waiting.popleft()
            outcome: Result | Failure
            try:
                outcome = work(task, lambda progress, task=task: heard(task, progress))  # type: ignore[misc]
            except Exception as error:  # a failed cell does not stop the others
                outcome = Failure.of(error)
            yield task, outcome
            waiting.extendleft(reversed(list(then(task, outcome))))


@dataclass(frozen=True)
class Processes:
    """Each task in one of several fresh processes of this machine.

    A process that dies takes only its current task with it. `work`, tasks and outcomes travel between
    processes, so `pickle` must be able to serialise them; the pickles are not stored.

    Args:
        workers: number of processes, at least 1; fewer are started when fewer tasks wait.
    """

    workers: int

    def run(
        self,
        work: Work[Task, Result],
        tasks: Iterable[Task],
        *,
        then: Then[Task] = nothing_follows,
        heard: Heard[Task] = nobody_listens,
    ) -> Iterator[tuple[Task, Result | Failure]]:
        """See `Executor.run`."""
        waiting = deque(tasks)
        crew: list[_Worker[Task, Result]] = []
        try:
            while waiting or any(worker.busy for worker in crew):
                _dispatch(work, waiting, crew, self.workers)
                for worker in _speaking(crew):
                    message = worker.receive()
                    task = worker.task[0]
                    if isinstance(message, Progress):
                        heard(task, message)
                        continue
                    worker.task.clear()
                    if not worker.alive:
                        crew.remove(worker)
                        worker.stop()
                    yield task, message
                    waiting.extendleft(reversed(list(then(task, message))))
        finally:
            for worker in crew:
                worker.stop()


def _dispatch(
    work: Work[Task, Result], waiting: deque[Task], crew: list[_Worker[Task, Result]], limit: int
) -> None:
    while waiting:
        idle = next((worker for worker in crew if not worker.busy), None)
        if idle is None:
            if len(crew) >= limit:
                return
            crew.append(idle := _Worker(work))
        idle.give(waiting.popleft())


def _speaking(crew: list[_Worker[Task, Result]]) -> list[_Worker[Task, Result]]:
    ready = wait([worker.pipe for worker in crew if worker.busy])
    return [worker for worker in crew if worker.pipe in ready]


class _Began(Enum):
    """The first message of a worker, which shows that its process has started."""

    BEGAN = 0


_BEGAN = _Began.BEGAN


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Block Ctrl-C in a process that is started inside, also while it imports; here it is only delayed."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Worker(Generic[Task, Result]):
    """One process and the task it holds, if any."""

    def __init__(self, work: Work[Task, Result]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(theirs, work), daemon=True)
        with _deaf_to_interrupts():
            self.process.start()
        theirs.close()
        self.task: list[Task] = []
        self.alive, self.began = True, False

    @property
    def busy(self) -> bool:
        return bool(self.task)

    def give(self, task: Task) -> None:
        self.task.append(task)
        with suppress(OSError):  # it died while idle; receive() will say so
            self.pipe.send(task)

    def receive(self) -> Result | Progress | Failure:
        """The next message of the process: progress, an outcome, or a failure if the process died.

        Raises:
            InputError: the process died before its first task, as when a script starts itself on import.
        """
        try:
            if not self.began:
                self.began = self.pipe.recv() is _BEGAN
            message: Result | Progress | Failure = self.pipe.recv()
            return message
        except (EOFError, OSError) as error:
            self.alive = False
            self.process.join(timeout=5)
            code = self.process.exitcode
            if self.began or code != 1:  # 1: Python could not even import what it was to run
                return Failure(f"the worker process died (exit code {code})")
            raise InputError(
                "A worker process begins by importing the script that started it",
                f"one that died of that (exit code {code})",
                "Put what the script does under: if __name__ == '__main__':, or use one worker.",
            ) from error

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Work[Task, Result]) -> None:
    """The loop of a worker process: receive a task and send its outcome, until the driver has exited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interrupt means
    pipe.send(_BEGAN)
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(_outcome(work, task, pipe.send))


def _outcome(work: Work[Task, Result], task: Task, tell: Callable[[Progress], None]) -> Result | Failure:
    try:
        return work(task, tell)
    except Exception as error:  # a failed cell does not stop the others
        return Failure.of(error)


def _die_with_the_driver() -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os._exit(1)

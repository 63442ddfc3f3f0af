"""Workers on this machine: in this process, or in several fresh ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, ClassVar

from spikeproof.errors import InputError, SpikeproofError
from spikeproof.experiments.run.executors.seam import Heard, Lost, Patience, deaf_to_interrupts, named
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.failures import Failure
from spikeproof.experiments.run.queue.labour import Ended, Event, Labour, Reported, Terminated, terminable
from spikeproof.experiments.run.queue.leases import Pulse

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

__all__ = ["Processes", "Serial"]

BETWEEN_SIGNS = 0.5
"""Most seconds between two signs of life of an executor."""

LAST_SECONDS = 5.0
"""Seconds that a worker has to end beyond the grace of its cell."""

START: SpawnContext | ForkServerContext = multiprocessing.get_context("spawn")
"""How worker processes start: afresh, so that no thread and no lock of this process is in them."""

POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
"""Variables that say how many threads a library may start."""


class Serial:
    """One worker, in this process."""

    tells: ClassVar[bool] = True

    def run(self, labour: Labour, tasks: Sequence[Task], heard: Heard) -> Generator[Lost | None, None, None]:
        """See `Executor.run`."""
        yield None
        if not labour(tasks, named(), heard):
            raise Terminated


@dataclass(frozen=True)
class Processes:
    """Several workers in fresh processes of this machine, which share its threads.

    A process that dies takes only its current cell with it, and another one takes its place. `labour` and
    cells travel to the processes, so `pickle` must be able to serialise them; the pickles are not stored.

    Args:
        workers: number of processes, at least 1; no more are started than there are cells.
    """

    workers: int
    tells: ClassVar[bool] = True

    def run(self, labour: Labour, tasks: Sequence[Task], heard: Heard) -> Generator[Lost | None, None, None]:
        """See `Executor.run`."""
        number = max(1, min(self.workers, len(tasks)))
        patience, crew = Patience(labour.root, number), list[_Process]()
        with terminable():
            try:
                while len(crew) < number:
                    crew.append(_Process(labour, tasks, number))
                yield None
                while crew:
                    ready = wait([process.pipe for process in crew], timeout=BETWEEN_SIGNS)
                    for process in [each for each in crew if each.pipe in ready]:
                        message = process.receive()
                        if isinstance(message, Reported | Ended):
                            heard(message)
                        elif message is _Sign.OVER:
                            crew.remove(process)
                            process.stop(labour.grace)
                        else:
                            crew.remove(process)
                            process.stop(labour.grace)
                            reason = process.last_words(message)
                            yield Lost(process.owner, reason, message is not _Sign.HALTED)
                            patience.lose(reason)
                            crew.append(_Process(labour, tasks, number))
                    yield None
            finally:
                _end(crew, labour.grace)


def _end(crew: Sequence[_Process], grace: float) -> None:
    """End worker processes, which have a short time to give their cells back; a second Ctrl-C ends it."""
    try:
        for process in crew:
            process.ask_to_end()
        for process in crew:
            process.stop(grace)
    except KeyboardInterrupt:
        for process in crew:
            process.kill()
        raise


class _Sign(Enum):
    """What a worker says beside its events: it runs, nothing remains to be done, or it was told to stop."""

    BEGAN = "began"
    OVER = "over"
    HALTED = "was told to stop"
    DIED = "died"


_Message = Event | Failure | SpikeproofError | _Sign


@contextmanager
def _sharing_threads(workers: int) -> Iterator[None]:
    """Let libraries in a process that is started inside use their share of the processor only."""
    share = str(max(1, (os.cpu_count() or 1) // workers))
    before = {name: os.environ.get(name) for name in POOLS}
    os.environ.update({name: before[name] or share for name in POOLS})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


class _Process:
    """One worker process."""

    def __init__(self, labour: Labour, tasks: Sequence[Task], workers: int) -> None:
        self.owner, self.began = named(), False
        self.pipe: Connection
        self.pipe, theirs = START.Pipe(duplex=False)
        self.process: BaseProcess = START.Process(
            target=_serve, args=(theirs, labour, tasks, self.owner), daemon=True
        )
        with deaf_to_interrupts(), _sharing_threads(workers):
            self.process.start()
        theirs.close()

    def receive(self) -> _Message:
        """The next message of the process, or that it died.

        Raises:
            SpikeproofError: the output directory cannot be written.
            InputError: the process died before its first cell, as when a script starts itself on import.
            RuntimeError: something else went wrong outside of any cell.
        """
        try:
            message: _Message = self.pipe.recv()
            if message is _Sign.BEGAN:
                self.began = True
                message = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join(timeout=LAST_SECONDS)
            if self.began or self.process.exitcode != 1:  # 1: Python could not import what it was to run
                return _Sign.DIED
            raise InputError(
                "A worker process begins by importing the script that started it",
                f"one that died of that (exit code {self.process.exitcode})",
                "Put what the script does under: if __name__ == '__main__':, or use one worker.",
            ) from error
        if isinstance(message, SpikeproofError):
            raise message
        if isinstance(message, Failure):
            raise RuntimeError(f"a worker failed outside of any cell:\n{message.trace}")
        return message

    def last_words(self, message: _Message) -> str:
        """Why the process ended."""
        if message is _Sign.HALTED:
            return "the worker process was told to stop"
        return f"the worker process died (exit code {self.process.exitcode})"

    def ask_to_end(self) -> None:
        """Ask the process to finish its cell or to give it back."""
        self.process.terminate()

    def stop(self, grace: float) -> None:
        """Wait until the process has ended, but not for ever."""
        self.process.join(grace + LAST_SECONDS)
        if self.process.is_alive():
            self.kill()
        self.pipe.close()

    def kill(self) -> None:
        """End the process at once."""
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, labour: Labour, tasks: Sequence[Task], owner: str) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what an interrupt means
    pulse = Pulse(labour.beat)
    threading.Thread(target=_die_with_the_driver, args=(pulse,), daemon=True).start()
    pipe.send(_Sign.BEGAN)

    def tell(event: Event) -> None:
        try:
            pipe.send(event)
        except OSError:  # the driver is gone
            pulse.release()
            os._exit(1)

    try:
        over = labour(tasks, owner, tell, pulse)
        pipe.send(_Sign.OVER if over else _Sign.HALTED)
    except SpikeproofError as error:
        pipe.send(error)
    except Exception as error:
        pipe.send(Failure.of(error))


def _die_with_the_driver(pulse: Pulse) -> None:
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        pulse.release()
        os._exit(1)

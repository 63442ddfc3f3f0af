"""Running a study: workers compute what the store lacks, and store each cell as soon as it is finished."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.run.executors.seam import Executor, Lost, named
from spikeproof.experiments.run.extracts import Cells, Known, verified
from spikeproof.experiments.run.plans import (
    Budget,
    Plan,
    Repair,
    budget_of,
    cells_of_plan,
    is_planned,
    models_of,
    note_repairs,
    read_plan,
    write_plan,
)
from spikeproof.experiments.run.queue.board import Board, News, Task
from spikeproof.experiments.run.queue.failures import Failure, Failures
from spikeproof.experiments.run.queue.forecast import Courses, Forecast, Underway
from spikeproof.experiments.run.queue.labour import (
    GRACE,
    Ended,
    Event,
    Labour,
    Reported,
    Terminated,
    Work,
    checkpoint,
)
from spikeproof.experiments.run.queue.leases import HEARTBEAT, STALE, Leases, Progress
from spikeproof.experiments.run.store import Store, writing
from spikeproof.experiments.study.cells import Cell, Plain, needed

__all__ = [
    "Alive",
    "Budget",
    "Busy",
    "Listener",
    "Pace",
    "Plan",
    "Repair",
    "Status",
    "Summary",
    "Work",
    "budget_of",
    "cells_of_plan",
    "checkpoint",
    "compute",
    "models_of",
    "note_repairs",
    "read_plan",
    "run",
    "status",
]

BETWEEN_LOOKS = 5.0
"""Seconds between two looks at what happens in the output directory."""

BETWEEN_LOOKS_INSTEAD_OF_EVENTS = 0.5
"""The same, where workers do not tell what they do."""

BETWEEN_SIGNS = 10.0
"""Seconds between two signs of life for the listener."""


class Busy(NamedTuple):
    """A cell that is computed now, by a worker of this run or of another one.

    Args:
        cell: the cell.
        seconds: since this run first saw that.
        progress: how far it was at the last heartbeat.
    """

    cell: Cell
    seconds: float
    progress: Progress


class Alive(NamedTuple):
    """The state of a run.

    Args:
        done: number of finished cells.
        total: number of cells.
        seconds_left: until all are finished, judged by the cells that are and by the progress of those under
            way; None before there are any.
        busy: cells that are computed now.
    """

    done: int
    total: int
    seconds_left: float | None
    busy: tuple[Busy, ...]


class Pace(NamedTuple):
    """The times by which workers go.

    Args:
        beat: seconds between two heartbeats of a lease.
        stale: seconds without a heartbeat after which a cell is taken over.
        grace: seconds that a cell has to finish after SIGTERM.
    """

    beat: float = HEARTBEAT
    stale: float = STALE
    grace: float = GRACE


class Listener:
    """Receives the events of a run; a subclass overrides the methods that it needs."""

    def planned(self, cells: Sequence[Cell]) -> None:
        """The cells of the study are known."""

    def kept(self, cell: Cell) -> None:
        """A cell was finished before."""

    def damaged(self, message: str) -> None:
        """A stored cell cannot be trusted and is computed again."""

    def noted(self, message: str) -> None:
        """There is a message for the user about the output directory."""

    def progress(self, cell: Cell, progress: Progress) -> None:
        """A cell is being computed."""

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        """A cell is stored, or set aside with a failure."""

    def retrying(self, cell: Cell, failure: Failure) -> None:
        """A cell failed, and is tried again after `failure.pause` seconds."""

    def alive(self, state: Alive) -> None:
        """The run goes on; called every few seconds, from a thread of its own."""


@dataclass
class Summary:
    """The result of a run, in numbers of cells.

    Args:
        total: number of cells of the study.
        computed: cells that this run finished.
        failed: cells whose computation failed.
        blocked: cells whose model could not be trained.
        finished: what is known of the cells that are there, undamaged and measured on the weights of their
            models.
        noted: whether the listener heard of something that it will hear of again.
        unwritten: whether the output directory cannot be written, and nothing had to be.
    """

    total: int
    computed: int = 0
    failed: int = 0
    blocked: int = 0
    finished: Mapping[str, Known] = field(default_factory=dict, repr=False)
    noted: bool = False
    unwritten: bool = False

    @property
    def kept(self) -> int:
        """Cells that were finished before."""
        return self.total - self.computed - self.failed - self.blocked


def run(
    name: str,
    spec: Plain,
    cells: Sequence[Cell],
    work: Work,
    executor: Executor,
    out: Path,
    listener: Listener,
    pace: Pace = Pace(),
) -> Summary:
    """Compute the cells of a study that the store lacks, and store each as soon as it is finished.

    Several runs may work on one output directory, on any number of machines that share it. Cells that were
    set aside with a failure are tried again. Where nothing has to be written, nothing has to be writable.

    Args:
        name: of the study.
        spec: the study as plain data, for the record.
        cells: all its cells.
        work: computes the files of one cell.
        executor: where work is done.
        out: the output directory.
        listener: hears how it goes.
        pace: the times by which workers go.

    Raises:
        InputError: the output directory cannot be written, and the study is not finished there.
        Terminated: SIGTERM came; the cells under way were finished or given back.
    """
    try:
        Store(out).prepare()
        with writing(out):
            write_plan(out, name, spec, cells)
    except InputError as error:
        summary = _finished(out, name, spec, cells, listener, pace)
        if summary is None:
            raise
        listener.noted(f"{error.got} cannot be written; all cells are finished, and nothing was written")
        return summary
    return compute(cells, work, executor, out, listener, pace)


def compute(
    cells: Sequence[Cell],
    work: Work,
    executor: Executor,
    out: Path,
    listener: Listener,
    pace: Pace = Pace(),
) -> Summary:
    """Compute the cells that the store lacks, each after the cells that it needs.

    Args:
        cells: those wanted; what they need is among them.
        work: computes the files of one cell.
        executor: where work is done.
        out: the output directory.
        listener: hears how it goes.
        pace: the times by which workers go.

    Raises:
        InputError: the output directory cannot be written.
        Terminated: SIGTERM came; the cells under way were finished or given back.
    """
    store = Store(out)
    if (note := store.prepare()) is not None:
        listener.noted(note)
    try:
        return replace(_Run(store, cells, listener, pace).go(work, executor), noted=note is not None)
    except Terminated:
        listener.noted("SIGTERM: cells under way were finished or given back; the same command goes on")
        raise


def _finished(
    out: Path, name: str, spec: Plain, cells: Sequence[Cell], listener: Listener, pace: Pace
) -> Summary | None:
    """The result of a run that has nothing to write; None where it has, or where that cannot be known."""
    try:
        if not is_planned(out, name, spec, cells):
            return None
        settled = _Run(Store(out), cells, listener, pace).settled()
    except (InputError, OSError):
        return None
    if len(settled) < len(cells):
        return None
    return Summary(len(cells), finished=settled, noted=True, unwritten=True)


class _Run:
    """One run: what is stored is verified, and the rest is left to workers."""

    def __init__(self, store: Store, cells: Sequence[Cell], listener: Listener, pace: Pace) -> None:
        self.store, self.listener, self.pace = store, listener, pace
        self.tasks = {task.address: task for task in map(Task.of, cells)}
        self.finished: dict[str, Known] = {}
        self.computed: set[str] = set()
        self.reported: set[str] = set()
        self.lock = threading.RLock()

    def go(self, work: Work, executor: Executor) -> Summary:
        self.listener.planned([task.cell for task in self.tasks.values()])
        labour = Labour(self.store.root, work, self.pace.beat, self.pace.stale, self.pace.grace)
        unsure = self.verify()
        self.try_again()
        watch = _Watch(self, executor)
        while tasks := [t for a, t in self.tasks.items() if a not in self.finished and a not in unsure]:
            with watch.watching():
                self.follow(executor, labour, tasks, watch)
            before, unsure = unsure, self.verify() if unsure else unsure
            if before == unsure:
                break
        watch.board.refresh()
        done, aside = watch.board.done & self.tasks.keys(), watch.board.aside
        blocked = len(self.tasks.keys() - done - aside.keys())
        return Summary(len(self.tasks), len(self.computed & done), len(aside), blocked, self.settled())

    def verify(self) -> set[str]:
        """Verify what is stored; the addresses of the cells of which nothing can be said yet.

        Stored cells of a model that has to be trained again are such cells: whether they were measured on the
        same weights is known only afterwards. What needs such a cell waits as well.
        """
        unsure: set[str] = set()
        wanted = [task for task in self.tasks.values() if task.address not in self.finished]
        cells = verified(self.store, (task.cell.record() for task in wanted))
        for address, message in cells.damaged.items():
            self.discard(address, message)
        for task in sorted(wanted, key=lambda task: bool(task.needs)):
            if all(address in self.finished for address in task.needs):
                self.keep(task, cells)
            elif self.store.has(task.address) or not unsure.isdisjoint(task.needs):
                unsure.add(task.address)
        return unsure

    def settled(self) -> Mapping[str, Known]:
        """What is known of the finished cells, the computed ones among them; nothing is removed."""
        wanted = [task for task in self.tasks.values() if task.address not in self.finished]
        cells, found = verified(self.store, (task.cell.record() for task in wanted)), dict(self.finished)
        for task in sorted(wanted, key=lambda task: bool(task.needs)):
            if task.address in cells and _same_weights(task, cells.known[task.address], found):
                found[task.address] = cells.known[task.address]
        return found

    def discard(self, address: str, message: str) -> None:
        """Remove a cell that cannot be trusted."""
        self.listener.damaged(f"{message}; computing it again")
        self.store.discard(address)

    def keep(self, task: Task, cells: Cells) -> None:
        """Note a cell as finished that the store has undamaged, measured on the weights of its model."""
        if task.address not in cells:
            return
        known = cells.known[task.address]
        if not _same_weights(task, known, self.finished):
            path = self.store.path(task.address)
            self.discard(task.address, f"{path} was measured on other weights than its model now has")
            return
        self.finished[task.address] = known
        if task.address not in self.reported:
            self.reported.add(task.address)
            self.listener.kept(task.cell)

    def try_again(self) -> None:
        """Forget the failures of cells that earlier runs set aside, and that nobody computes now."""
        failures = Failures(self.store.root)
        live = Leases(self.store.root, named(), self.pace.stale).observe()
        for address in failures.addresses() & self.tasks.keys() - live.keys():
            failure = failures.read(address)
            if failure is not None and failure.aside:
                failures.forget(address)

    def follow(self, executor: Executor, labour: Labour, tasks: Sequence[Task], watch: _Watch) -> None:
        """Let an executor work, and take care of the workers that it loses."""
        with closing(executor.run(labour, tasks, self.hear)) as signs:
            for lost in signs:
                if lost is not None:
                    self.lose(lost)
                watch.check()
                if watch.over and not executor.tells:
                    return

    def hear(self, event: Event) -> None:
        """Pass an event of a worker on."""
        cell = self.tasks[event.address].cell
        with self.lock:
            if isinstance(event, Reported):
                self.listener.progress(cell, event.progress)
            else:
                self.end(event)

    def end(self, event: Ended) -> None:
        """Report the end of a cell, once if it is stored."""
        cell, failure = self.tasks[event.address].cell, event.failure
        if failure is None:
            self.computed.add(event.address)
            if event.address in self.reported:
                return
            self.reported.add(event.address)
        if failure is None or failure.aside:
            self.listener.finished(cell, failure)
        else:
            self.listener.retrying(cell, failure)

    def lose(self, lost: Lost) -> None:
        """Take the cell of a lost worker back, and count that if it may be the fault of the cell."""
        leases = Leases(self.store.root, named(), self.pace.stale)
        for address in leases.expire(lost.owner):
            if lost.blamed and address in self.tasks and not self.store.has(address):
                failure = Failure(lost.reason, tries=0, losses=1, aside=False)
                counted = Failures(self.store.root).note(self.tasks[address].cell.record(), failure)
                with self.lock:
                    self.end(Ended(address, counted))


def _same_weights(task: Task, known: Known, finished: Mapping[str, Known]) -> bool:
    """Whether a cell was measured on the weights that the cells which it needs now have."""
    return all(
        address in finished and known.weights.get(weights) == finished[address].weights.get("weights")
        for address, weights in needed(task.cell.spec)
    )


class _Watch:
    """The thread that looks at the output directory while workers work, and shows that the run goes on."""

    def __init__(self, run: _Run, executor: Executor) -> None:
        self.run, self.silent = run, not executor.tells
        self.board = Board(
            run.store.root, [*run.tasks.values()], Leases(run.store.root, named(), run.pace.stale)
        )
        self.board.refresh()
        self.forecast, self.learnt = Forecast(run.store.root), set[str]()
        self.courses = Courses()
        self.reported: dict[str, Progress] = {}
        self.signed = time.monotonic()
        self.error: Exception | None = None

    @property
    def over(self) -> bool:
        return self.board.over

    def check(self) -> None:
        """Raise what went wrong in the thread."""
        if self.error is not None:
            raise self.error

    @contextmanager
    def watching(self) -> Iterator[_Watch]:
        ended = threading.Event()
        thread = threading.Thread(target=self.go, args=(ended,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
        self.look()
        self.check()

    def go(self, ended: threading.Event) -> None:
        try:
            while not ended.wait(BETWEEN_LOOKS_INSTEAD_OF_EVENTS if self.silent else BETWEEN_LOOKS):
                self.look()
        except Exception as error:  # such as that nobody reads what is printed
            self.error = error

    def look(self) -> None:
        """See what has changed, and tell the listener what it has not heard."""
        news, now = self.board.refresh(), time.monotonic()
        reported = {a: holder.progress if holder else Progress(0, 0) for a, holder in news.held.items()}
        underway = self.courses.see(reported, now)
        with self.run.lock:
            for address in news.finished:
                self.report(address)
            if self.silent:
                self.pass_on(news)
            if now - self.signed >= BETWEEN_SIGNS:
                self.signed = now
                self.run.listener.alive(self.state(reported, underway))

    def report(self, address: str) -> None:
        """Report a cell that is stored: of a worker that does not tell, or of another run."""
        if self.silent:
            self.run.end(Ended(address, None))
        elif address not in self.run.reported:
            self.run.reported.add(address)
            self.run.listener.finished(self.run.tasks[address].cell, None)

    def pass_on(self, news: News) -> None:
        """Report what workers have written into leases and failures."""
        for address, failure in news.failed.items():
            self.run.end(Ended(address, failure))
        for address, holder in news.held.items():
            if holder is not None and holder.progress != self.reported.get(address):
                self.reported[address] = holder.progress
                if holder.progress != Progress(0, 0):
                    self.run.listener.progress(self.run.tasks[address].cell, holder.progress)

    def state(self, reported: Mapping[str, Progress], underway: Mapping[str, Underway]) -> Alive:
        done = self.board.done & self.run.tasks.keys()
        self.forecast.learn(self.run.tasks[address] for address in done - self.learnt)
        self.learnt |= done
        left = [task for address, task in self.run.tasks.items() if address not in done]
        busy = tuple(Busy(self.run.tasks[a].cell, underway[a].spent, reported[a]) for a in reported)
        seconds = self.forecast.of(left, max(len(busy), 1), underway)
        return Alive(len(done), len(self.run.tasks), seconds, busy)


@dataclass(frozen=True)
class Status:
    """The progress of a study.

    Args:
        study: its name.
        total: number of cells by kind.
        finished: number of undamaged cells by kind.
        damaged: what is wrong with cells that cannot be trusted.
        failed: what went wrong with cells that failed.
    """

    study: str
    total: Mapping[str, int]
    finished: Mapping[str, int]
    damaged: tuple[str, ...]
    failed: tuple[str, ...]


def status(directory: Path) -> Status:
    """The progress of the study in an output directory; every finished cell is verified.

    Raises:
        InputError: the directory holds no study.
    """
    plan, store, failures = read_plan(directory), Store(directory), Failures(directory)
    finished: Counter[str] = Counter()
    damaged, failed = [], []
    planned = [*plan["plan"], *plan["repairs"]]
    for cell in planned:
        try:
            found = store.planned(cell) is not None
        except DamagedError as error:
            damaged.append(str(error))
            continue
        if found:
            finished[cell["kind"]] += 1
        elif (failure := failures.read(cell["address"])) is not None:
            failed.append(f"{cell['kind']} {cell['address']}: {failure.error}")
    total = Counter(cell["kind"] for cell in planned)
    return Status(plan["study"], total, finished, tuple(damaged), tuple(failed))

"""Executors: workers on the cells of a store, killed, refused, interrupted and told to stop."""

import errno
import itertools
import multiprocessing
import os
import runpy
import signal
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import pytest

import spikeproof.experiments.run.driver as running
import spikeproof.experiments.run.executors.pools as pools
from spikeproof.errors import InputError
from spikeproof.experiments.run.executors import Lost, Processes, Serial
from spikeproof.experiments.run.queue.failures import MOST_LOSSES, MOST_TRIES, Failure, Failures
from spikeproof.experiments.run.queue.labour import Terminated
from spikeproof.experiments.run.queue.leases import Leases, Progress
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import Cell

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import FORKING, QUICK, Heard, Work, cells_of_models, go, metrics_of, noted, shown_in

HERE = str(Path(__file__).parent)


@pytest.fixture
def root(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def _forked(monkeypatch):
    """Workers are forked; how they start is not what the test is about."""
    monkeypatch.setattr(pools, "START", FORKING)


def complete(root, cells):
    """Every cell is stored undamaged with the right numbers, and none was begun after it was finished."""
    store = Store(root)
    assert store.addresses() == {cell.address for cell in cells}
    for cell in cells:
        assert store.planned(cell.record()).metrics == metrics_of(cell)
    assert not [line for line in noted(root) if line[0] == "again"]
    assert not Leases(root, "").observe()


@dataclass(frozen=True)
class Telling(Work):
    """Tells whether Ctrl-C is blocked, as it is before a worker process begins, and its share of threads."""

    def __call__(self, cell, tell):
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        tell(Progress(int(blocked), 1, os.environ.get("OMP_NUM_THREADS", "")))
        return super().__call__(cell, tell)


@pytest.mark.parametrize(
    ("executor", "told"),
    [(Serial(), Progress(0, 1, "")), (Processes(2), Progress(1, 1, "4"))],
    ids=["serial", "processes"],
)
def test_every_executor_leaves_the_same_store(executor, told, root, monkeypatch):
    """A worker process never hears an interrupt, and has its share of the threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    heard, cells = Heard(), cells_of_models(2, 3)
    summary = go(root, cells, executor, heard, Telling(root))
    assert (summary.total, summary.computed, summary.kept, summary.failed) == (8, 8, 0, 0)
    complete(root, cells)
    assert sorted(cell.address for cell, _ in heard.ended) == sorted(cell.address for cell in cells)
    assert {progress for _, progress in heard.told} == {told, Progress(1, 2, "half")}
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert "OMP_NUM_THREADS" not in os.environ
    assert go(root, cells, executor, Heard()).kept == 8


def test_cells_of_one_model_run_where_it_is_in_memory(root):
    cells = cells_of_models(3, 4)
    go(root, cells, Serial())
    assert [address for _, address, _ in noted(root)] == [cell.address for cell in cells]


@dataclass(frozen=True)
class Raising(Work):
    """Raises an error at one of the cells, so many times."""

    cell: Cell | None = None
    error: Exception = OSError("busy")
    times: int = 99

    def __call__(self, cell, tell):
        files = super().__call__(cell, tell)
        if cell == self.cell and self.tries() <= self.times:
            raise self.error
        return files

    def tries(self):
        return len([word for word, address, _ in noted(self.root) if address == self.cell.address])


def test_an_error_that_may_pass_is_tried_again_and_then_set_aside(root, monkeypatch):
    monkeypatch.setattr(Failure, "pause", 0.0)
    heard, cells = Heard(), cells_of_models(1, 2)
    summary = go(root, cells, Serial(), heard, Raising(root, cell=cells[1], times=MOST_TRIES - 1))
    assert (summary.computed, summary.failed) == (3, 0)
    assert [failure.tries for _, failure in heard.tried] == [1, 2]
    assert not any((root / "failures").iterdir())
    other = root.with_name("other")
    heard = Heard()
    summary = go(other, cells, Serial(), heard, Raising(other, cell=cells[1]))
    assert (summary.computed, summary.failed) == (2, 1)
    ((cell, failure),) = [(cell, failure) for cell, failure in heard.ended if failure]
    assert cell == cells[1]
    assert (failure.error, failure.tries, failure.aside) == ("OSError: busy", MOST_TRIES, True)
    assert "raise self.error" in Failures(other).read(cell.address).trace


def test_an_error_that_stays_is_set_aside_at_once_with_all_that_need_the_cell(root):
    heard, cells = Heard(), cells_of_models(2, 3)
    summary = go(root, cells, Serial(), heard, Raising(root, cell=cells[0], error=ValueError("unlucky")))
    assert (summary.total, summary.computed, summary.failed, summary.blocked) == (8, 4, 1, 3)
    assert Raising(root, cell=cells[0]).tries() == 1
    assert "unlucky" in Failures(root).read(cells[0].address).trace


@dataclass(frozen=True)
class Dying(Work):
    """Ends its process at one of the cells."""

    cell: Cell | None = None

    def __call__(self, cell, tell):
        files = super().__call__(cell, tell)
        if cell == self.cell:
            os._exit(3)
        return files


@pytest.mark.usefixtures("_forked")
def test_a_worker_that_dies_takes_only_its_cell_with_it_which_is_then_set_aside(root):
    Failures(root).note(
        cells_of_models(1, 3)[1].record(), Failure("", tries=0, losses=MOST_LOSSES - 1, aside=False)
    )
    heard, cells = Heard(), cells_of_models(1, 3)
    summary = go(root, cells, Processes(1), heard, Dying(root, cell=cells[1]))
    assert (summary.computed, summary.failed) == (3, 1)
    ((cell, failure),) = [(cell, failure) for cell, failure in heard.ended if failure]
    assert cell == cells[1]
    assert failure.error == "the worker process died (exit code 3)"
    assert not Leases(root, "").observe()


class Losing:
    """Loses a worker after it has stored every cell, and before it has given the last one back."""

    tells = True

    def run(self, labour, tasks, heard):
        labour(tasks, "lost", heard)
        assert Leases(labour.root, "lost").take(tasks[-1].address)
        yield Lost("lost", "the worker process died", True)


def test_a_worker_that_dies_between_storing_a_cell_and_giving_it_back_is_no_failure_of_the_cell(root):
    heard, cells = Heard(), cells_of_models(1, 1)
    assert go(root, cells, Losing(), heard).computed == 2
    assert not heard.tried
    assert not Failures(root).addresses()
    complete(root, cells)


@pytest.mark.usefixtures("_forked")
def test_a_disk_that_is_full_stops_the_run_with_a_message_and_blames_no_cell(root):
    cells = cells_of_models(1, 2)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(InputError, match="No space left"):
        go(root, cells, Processes(1), None, Raising(root, cell=cells[1], error=full))
    assert Failures(root).addresses() == set()
    assert not Leases(root, "").observe()
    assert go(root, cells, Serial()).computed == 2


def test_a_disk_that_is_full_from_any_write_on_stops_the_run_and_leaves_what_goes_on(root, monkeypatch):
    cells, real = cells_of_models(1, 1), Path.open
    for last in itertools.count():
        here, writes = root / str(last), itertools.count()

        def full(path, mode="r", *rest, last=last, writes=writes, **options):
            if "r" not in mode and next(writes) >= last:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return real(path, mode, *rest, **options)

        said = None
        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", full)
            try:
                go(here, cells, Serial())
            except InputError as error:
                said = str(error)
        if said is None:
            break
        assert "No space left" in said
        assert not [*here.rglob(".tmp-*")]
        assert not Failures(here).addresses()
        assert go(here, cells, Serial()).failed == 0
        complete(here, cells)
    assert last > 8


def test_a_checkpoint_that_may_not_be_written_stops_the_run(root):
    cells = cells_of_models(1, 2)
    refused = PermissionError(errno.EACCES, "Permission denied", str(root / "checkpoints" / "x"))
    with pytest.raises(InputError, match="Permission denied"):
        go(root, cells, Serial(), None, Raising(root, cell=cells[1], error=refused))


@dataclass(frozen=True)
class Terminating(Work):
    """Sends SIGTERM to its own process at one of the cells, and waits."""

    cell: Cell | None = None
    patience: float = 0.0

    def __call__(self, cell, tell):
        files = super().__call__(cell, tell)
        if cell == self.cell:
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(self.patience)
        return files


@pytest.mark.parametrize(("seconds", "stored"), [(0.0, 2), (60.0, 1)])
def test_a_cell_under_way_finishes_or_is_given_back_when_the_process_is_told_to_stop(root, seconds, stored):
    cells, heard, before = cells_of_models(1, 3), Heard(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(Terminated) as told:
        go(root, cells, Serial(), heard, Terminating(root, cell=cells[1], patience=seconds))
    assert told.value.code == 143
    assert "SIGTERM" in heard.messages[0]
    assert len(Store(root).addresses()) == stored
    assert not any((root / "leases").iterdir())
    assert signal.getsignal(signal.SIGTERM) == before
    assert go(root, cells, Serial()).computed == 4 - stored
    complete(root, cells)


@dataclass(frozen=True)
class Forever(Work):
    """Writes the number of its process to a named pipe, which it leaves open, and never ends."""

    def __call__(self, cell, tell):
        super().__call__(cell, tell)
        pipe = os.open(pipe_of(self.root), os.O_WRONLY)
        os.write(pipe, b"%d\n" % os.getpid())
        time.sleep(60)


def pipe_of(root):
    return root.with_name("pipe")


def drive(root, start):
    pools.START = multiprocessing.get_context(start)
    go(root, cells_of_models(1, 2), Processes(1), work=Forever(root))


@contextmanager
def driver(root, start="forkserver"):
    """A driver whose first cell never ends, in a process of its own; and the process of that cell.

    At the end both must be gone.
    """
    os.mkfifo(pipe_of(root))
    process = FORKING.Process(target=shown_in, args=(root.with_name("shown"), drive, root, start))
    process.start()
    pipe = os.open(pipe_of(root), os.O_RDONLY)
    yield process, int(os.read(pipe, 32))
    process.join(timeout=60)
    assert wait([pipe], timeout=60)
    assert not os.read(pipe, 32)  # the pipe closes only when the worker is gone too
    os.close(pipe)


def test_workers_end_when_the_driver_is_killed_and_another_driver_goes_on(root):
    with driver(root, "spawn") as (process, worker):
        assert worker != process.pid
        process.kill()
    cells = cells_of_models(1, 2)
    assert go(root, cells, Serial()).computed == 3
    complete(root, cells)


def test_ctrl_c_shows_no_traceback_of_a_worker_and_gives_its_cell_back(root):
    with driver(root) as (process, worker):
        for each in (worker, process.pid):  # as a terminal does, which interrupts the whole group
            os.kill(each, signal.SIGINT)
    shown = root.with_name("shown").read_text()
    assert shown.count("Traceback") == shown.count("KeyboardInterrupt") == 1
    assert not any((root / "leases").iterdir())
    assert not Failures(root).addresses()


class Stubborn:
    """A worker process that the user does not want to wait for."""

    def __init__(self):
        self.heard = []

    def ask_to_end(self):
        self.heard.append("asked")

    def stop(self, grace):
        raise KeyboardInterrupt

    def kill(self):
        self.heard.append("killed")


def test_a_second_ctrl_c_ends_workers_at_once():
    crew = [Stubborn(), Stubborn()]
    with pytest.raises(KeyboardInterrupt):
        pools._end(crew, 2.0)
    assert [each.heard for each in crew] == [["asked", "killed"]] * 2


def test_a_driver_that_is_told_to_stop_ends_its_workers_and_gives_their_cells_back(root):
    with driver(root) as (process, _):
        process.terminate()
    assert (process.exitcode, root.with_name("shown").read_bytes()) == (143, b"")
    assert not any((root / "leases").iterdir())
    assert not Failures(root).addresses()


@pytest.mark.usefixtures("_forked")
def test_two_drivers_on_one_store_share_the_work(root):
    cells, summaries = cells_of_models(4, 5), []
    drivers = [
        threading.Thread(
            target=lambda: summaries.append(go(root, cells, Processes(1), work=Work(root, 0.05)))
        )
        for _ in range(2)
    ]
    for each in drivers:
        each.start()
    for each in drivers:
        each.join()
    assert sum(summary.computed for summary in summaries) == len(cells) == 24
    assert min(summary.computed for summary in summaries) > 0
    complete(root, cells)
    assert len(noted(root)) == len(cells)


def test_a_script_without_a_main_guard_gets_a_message_that_asks_for_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {HERE!r})\n"
        "from synthetic import *\n"
        "from spikeproof.errors import InputError\n"
        "from spikeproof.experiments.run.executors import Processes\n"
        f"root = Path({str(tmp_path / 'out')!r})\n"
        "try:\n    go(root, cells_of_models(1, 1), Processes(1))\n"
        "except InputError as error:\n    print(error)\n"
    )
    shown = tmp_path / "shown"
    process = FORKING.Process(target=shown_in, args=(shown, runpy.run_path, str(script), None, "__main__"))
    process.start()
    process.join(timeout=120)
    assert "if __name__ == '__main__'" in shown.read_text()


def test_a_run_shows_that_it_goes_on_with_what_it_does_and_a_forecast(root, monkeypatch):
    monkeypatch.setattr(running, "BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(running, "BETWEEN_SIGNS", 0.0)
    states, cells = [], cells_of_models(1, 3)

    class Watching(Heard):
        def alive(self, state):
            states.append(state)

    go(root, cells, Serial(), Watching(), Work(root, 0.1), QUICK)
    first, last = next(state for state in states if state.busy), states[-1]  # a look may come before the work
    assert (first.done, first.total, first.busy[0].cell) == (0, 4, cells[0])
    assert first.seconds_left is None
    assert last.seconds_left == pytest.approx(0.1 * (last.total - last.done))

"""Jobs of Slurm, as submitit runs them on this machine: warned before their time limit, and queued again."""

import errno
import gc
import os
import signal
import sys
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from spikeproof.errors import InputError
from spikeproof.experiments.run.executors.on_slurm import Slurm
from spikeproof.experiments.run.plans import write_plan
from spikeproof.experiments.run.queue.failures import Failures
from spikeproof.experiments.run.queue.leases import Leases
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import Cell

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import Work, cells_of_models, go, noted

submitit = pytest.importorskip("submitit")
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its processes


@pytest.fixture(autouse=True)
def collected():
    """What jobs leave behind is collected here, where its warnings are ignored, and not in another test."""
    yield
    gc.collect()


LOCAL = Slurm(1, {"timeout_min": 5}, "local")


@dataclass(frozen=True)
class Warned(Work):
    """Gets the signal that Slurm sends before the time limit, at the first try of one of the cells.

    Another study is written to the directory before, as another run does.
    """

    cell: Cell | None = None

    def __call__(self, cell, tell):
        files = super().__call__(cell, tell)
        if cell == self.cell and len([line for line in noted(self.root) if line[1] == cell.address]) == 1:
            write_plan(self.root, "other", {}, cells_of_models(3, 0))
            os.kill(os.getpid(), signal.SIGUSR2)
            threading.Event().wait(60)
        return files


@pytest.fixture
def importable(monkeypatch):
    """Jobs can import the synthetic cells."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, os.environ.get("PYTHONPATH", "")]))


def test_a_job_that_is_warned_gives_its_cell_back_and_is_queued_again(tmp_path, importable):
    root, cells = tmp_path / "out", cells_of_models(1, 2)
    summary = go(root, cells, LOCAL, work=Warned(root, cell=cells[1]))
    assert (summary.computed, summary.failed) == (3, 0)
    begun = Counter(address for word, address, _ in noted(root) if word == "begin")
    assert [begun[cell.address] for cell in cells] == [1, 2, 1]
    assert Store(root).addresses() == {cell.address for cell in cells}
    assert not Failures(root).addresses()
    assert not Leases(root, "").observe()
    assert not [*(root / "slurm").glob("cells-*")]


@dataclass(frozen=True)
class Blocked(Work):
    """Tells whether Ctrl-C is blocked in the job, as it is before the job begins."""

    def __call__(self, cell, tell):
        blocked = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        (self.root / "blocked").write_text(str(blocked))
        return super().__call__(cell, tell)


def test_a_job_never_hears_an_interrupt(tmp_path, importable):
    root = tmp_path / "out"
    go(root, cells_of_models(1, 0), LOCAL, work=Blocked(root))
    assert (root / "blocked").read_text() == "True"
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_parameters_that_submitit_does_not_know_are_refused(tmp_path):
    with pytest.raises(InputError, match="parameters that submitit knows"):
        go(tmp_path / "out", cells_of_models(1, 0), Slurm(1, {"nonsense": 3}, "local"))
    with pytest.raises(InputError, match="Slurm, and parameters"):
        go(tmp_path / "out", cells_of_models(1, 0), Slurm(1, {}, "elsewhere"))


def test_a_full_disk_where_jobs_are_written_stops_the_run_with_a_message(tmp_path, monkeypatch):
    def full(queue, *arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(submitit.AutoExecutor, "submit", full)
    with pytest.raises(InputError, match="No space left"):
        go(tmp_path / "out", cells_of_models(1, 0), LOCAL)

"""Workers as the elements of an array job of Slurm: submitit submits them, the store tells what they do."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from spikeproof.errors import InputError, SpikeproofError
from spikeproof.experiments.run.executors.seam import Heard, Lost, Patience, deaf_to_interrupts, named
from spikeproof.experiments.run.plans import read_plan, write_plan
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.labour import Labour, terminable
from spikeproof.experiments.run.queue.leases import Leases, Pulse
from spikeproof.experiments.run.store import writing
from spikeproof.experiments.study.cells import Cell

if TYPE_CHECKING:
    import submitit

__all__ = ["Slurm"]

BETWEEN_SIGNS = 0.5
"""Seconds between two looks at the jobs."""

LAST_SECONDS = 10.0
"""Seconds that workers have to end when nothing remains to be done."""

FOLDER = "slurm"
"""Folder of an output directory with the logs of the jobs."""

WARNING_SECONDS = 120
"""Seconds before the time limit at which a worker gives its cell back and its job is queued again."""

DEFAULTS = {
    "name": "spikeproof",
    "timeout_min": 60,
    "cpus_per_task": 1,
    "slurm_signal_delay_s": WARNING_SECONDS,
}


@dataclass(frozen=True)
class Slurm:
    """Several workers, each an element of an array job.

    A worker reads the cells of this run from a plan of its own in the output directory, which all machines
    share, so that another study there does not change what it works on. Before the time limit of its job, and
    when it is preempted, it gives its cell back, and the job is queued again.

    Args:
        workers: number of elements, at least 1.
        options: parameters of submitit, such as `timeout_min`, `mem_gb`, `gpus_per_node` or
            `slurm_partition`.
        cluster: `slurm`, or `local` for processes of this machine that are treated like jobs.
    """

    workers: int
    options: Mapping[str, object] = field(default_factory=dict)
    cluster: str = "slurm"
    tells: ClassVar[bool] = False

    def run(self, labour: Labour, tasks: Sequence[Task], heard: Heard) -> Generator[Lost | None, None, None]:
        """See `Executor.run`."""
        number = max(1, min(self.workers, len(tasks)))
        patience, queue = Patience(labour.root, number), self._queue(labour, number)
        jobs: list[submitit.Job[object]] = []
        plan = labour.root / FOLDER / f"cells-{named()}"
        with writing(labour.root):
            plan.mkdir(parents=True, exist_ok=True)
            write_plan(plan, "cells of a run", {}, [task.cell for task in tasks])
        try:
            with terminable():
                with writing(labour.root), deaf_to_interrupts(), queue.batch():
                    jobs += [queue.submit(_Element(labour, plan)) for _ in range(number)]
                while True:
                    for job in [each for each in jobs if each.done()]:
                        jobs.remove(job)
                        if (lost := _outcome(job)) is None:
                            _let_end(jobs)
                            return
                        yield lost
                        patience.lose(lost.reason)
                        with writing(labour.root), deaf_to_interrupts():
                            jobs.append(queue.submit(_Element(labour, plan)))
                    yield None
                    time.sleep(BETWEEN_SIGNS)
        finally:
            leases = Leases(labour.root, "", labour.stale)
            for job in jobs:
                _cancel(job)
                leases.expire(_owner(job.job_id))
            shutil.rmtree(plan, ignore_errors=True)

    def _queue(self, labour: Labour, number: int) -> submitit.AutoExecutor:
        import submitit

        try:
            queue = submitit.AutoExecutor(
                folder=labour.root / FOLDER / "%j", cluster=self.cluster, slurm_max_num_timeout=1000
            )
            queue.update_parameters(**{**DEFAULTS, "slurm_array_parallelism": number, **self.options})
        except (RuntimeError, ValueError, TypeError, NameError, KeyError) as error:
            raise InputError(
                "Slurm, and parameters that submitit knows",
                f"{dict(self.options)} ({str(error).splitlines()[0][:200]})",
                "Try --slurm timeout_min=60 --slurm slurm_partition=NAME on a machine that has sbatch.",
            ) from error
        return queue


class _Element:
    """One worker; `checkpoint` is what submitit calls before the time limit and when a job is preempted."""

    def __init__(self, labour: Labour, plan: Path) -> None:
        self.labour, self.plan, self.pulse = labour, plan, Pulse(labour.beat)

    def __call__(self) -> bool | SpikeproofError:
        import submitit

        try:
            records = read_plan(self.plan)["plan"]
            tasks = [Task.of(Cell.of(record["kind"], record["spec"])) for record in records]
            return self.labour(tasks, _owner(submitit.JobEnvironment().job_id), pulse=self.pulse)
        except SpikeproofError as error:  # whatever is raised arrives as text only
            return error

    def checkpoint(self) -> object:
        """Give the cell back, and ask for the same worker again."""
        import submitit

        self.pulse.release()
        return submitit.helpers.DelayedSubmission(_Element(self.labour, self.plan))

    def __getstate__(self) -> tuple[Labour, Path]:
        return self.labour, self.plan

    def __setstate__(self, state: tuple[Labour, Path]) -> None:
        self.__init__(*state)  # type: ignore[misc]


def _let_end(jobs: Sequence[submitit.Job[object]]) -> None:
    """Wait a little for workers that are about to see that nothing remains to be done."""
    until = time.monotonic() + LAST_SECONDS
    while time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(BETWEEN_SIGNS)


def _cancel(job: submitit.Job[object]) -> None:
    """End a job that has not ended."""
    import submitit

    if job.done():
        return
    if isinstance(job, submitit.LocalJob):  # whose `cancel` ends in a traceback on the terminal
        with suppress(OSError):
            os.kill(int(job.job_id), signal.SIGTERM)
    else:
        job.cancel(check=False)


def _owner(job: str) -> str:
    return f"job-{job}"


def _outcome(job: submitit.Job[object]) -> Lost | None:
    """How a worker ended: None where nothing remains to be done.

    Raises:
        SpikeproofError: the output directory cannot be written.
    """
    try:
        found = job.result()
    except Exception as error:  # submitit has many, and each means that the job gave no result
        reason = next((line for line in reversed(str(error).splitlines()) if line.strip()), "no result")
        return Lost(_owner(job.job_id), f"the job {job.job_id} ended: {reason.strip()[:200]}")
    if isinstance(found, SpikeproofError):
        raise found
    return None if found else Lost(_owner(job.job_id), f"the job {job.job_id} was told to stop", blamed=False)

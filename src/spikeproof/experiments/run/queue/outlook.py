"""What a run would do, without doing any of it: cells that are finished, that remain, and their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.failures import Failures
from spikeproof.experiments.run.queue.forecast import Forecast, sort_of
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import Cell

__all__ = ["Outlook", "outlook"]


@dataclass(frozen=True)
class Outlook:
    """What a run would do.

    Args:
        total: number of cells of each kind, in the order of the study.
        finished: number of those that are stored; they are not verified here.
        failed: number of those that failed before and would be tried again.
        seconds: of computation that remains for one worker, judged by finished cells; None where there are
            none.
        guessed: number of cells that remain of each kind and have no finished cell of their sort; their time
            is taken for that of an average finished cell.
    """

    total: Mapping[str, int]
    finished: Mapping[str, int]
    failed: Mapping[str, int]
    seconds: float | None
    guessed: Mapping[str, int]

    @property
    def cells(self) -> int:
        """Number of cells."""
        return sum(self.total.values())

    @property
    def done(self) -> int:
        """Number of finished cells."""
        return sum(self.finished.values())


def outlook(cells: Sequence[Cell], directory: Path) -> Outlook:
    """What a run of these cells into a directory would do; nothing is written.

    Args:
        cells: of the study.
        directory: the output directory, which need not exist.
    """
    tasks = [Task.of(cell) for cell in cells]
    stored, failed = Store(directory).addresses(), Failures(directory).addresses()
    done = [task for task in tasks if task.address in stored]
    left = [task for task in tasks if task.address not in stored]
    forecast = Forecast(directory)
    forecast.learn(done)
    known = {sort for sort, seconds in forecast.seconds.items() if seconds}
    return Outlook(
        Counter(task.cell.kind.value for task in tasks),
        Counter(task.cell.kind.value for task in done),
        Counter(task.cell.kind.value for task in left if task.address in failed),
        forecast.of(left) if left else 0.0,
        Counter(task.cell.kind.value for task in left if sort_of(task) not in known),
    )

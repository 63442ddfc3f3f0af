"""How long the cells that remain will take, judged by those that are finished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from spikeproof.errors import InputError
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.queue.leases import Progress
from spikeproof.experiments.run.shapes import ProvenanceDocument
from spikeproof.experiments.run.store import Store
from spikeproof.plainfiles import read_json

__all__ = ["Courses", "Forecast", "Underway", "sort_of"]

MOST_OF_A_SORT = 50
"""Most finished cells of one sort whose times are read."""

Sort = tuple[str, str]
"""What cells have in common that take about as long: kind, and name of the attack, rule or other part."""

PARTS = ("attack", "rule", "certificate", "analysis", "corruption", "probe")


def sort_of(task: Task) -> Sort:
    """The sort of a cell.

    Example:
        >>> from spikeproof.experiments.study.cells import Cell
        >>> spec = {"train": "ab12", "attack": {"name": "pgd", "steps": 40}, "epsilon": 0.1}
        >>> sort_of(Task.of(Cell.of("attack", spec)))
        ('attack', 'pgd')
    """
    spec: Mapping[str, object] = {**task.cell.spec}
    part = next((spec[name] for name in PARTS if name in spec), None)
    return task.cell.kind.value, str(part.get("name", "")) if isinstance(part, Mapping) else ""


class Underway(NamedTuple):
    """How far a cell is that is computed now.

    Args:
        spent: seconds since it was first seen.
        left: seconds until its present stage is over, judged by its progress; None where that is not known.
    """

    spent: float
    left: float | None


class Courses:
    """How fast the cells go that are computed now, judged by the progress that their workers tell."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}
        self._stages: dict[str, tuple[float, Progress]] = {}

    def see(self, reported: Mapping[str, Progress], now: float) -> dict[str, Underway]:
        """How far each cell is.

        Args:
            reported: address -> progress, for every cell that is computed now.
            now: by a clock that never goes back.
        """
        self._seen = {address: self._seen.get(address, now) for address in reported}
        stages = dict[str, tuple[float, Progress]]()
        for address, progress in reported.items():
            stage = self._stages.get(address, (now, progress))
            same = stage[1].total == progress.total and stage[1].done <= progress.done
            stages[address] = stage if same else (now, progress)
        self._stages = stages
        return {address: self._course(address, progress, now) for address, progress in reported.items()}

    def _course(self, address: str, progress: Progress, now: float) -> Underway:
        began, first = self._stages[address]
        done, left = progress.done - first.done, progress.total - progress.done
        seconds = (now - began) / done * left if done and progress.total else None
        return Underway(now - self._seen[address], seconds)


@dataclass
class Forecast:
    """The seconds that cells took, by their sort.

    Args:
        root: the output directory.
    """

    root: Path
    seconds: dict[Sort, list[float]] = field(default_factory=dict)

    def learn(self, tasks: Iterable[Task]) -> None:
        """Read how long finished cells took; of each sort only some are read."""
        for task in tasks:
            times = self.seconds.setdefault(sort_of(task), [])
            if len(times) >= MOST_OF_A_SORT:
                continue
            path = Store(self.root).path(task.address) / "provenance.json"
            try:
                noted: ProvenanceDocument = read_json(path, ProvenanceDocument)
            except InputError:
                continue
            times.append(noted["seconds"])

    def of(
        self, tasks: Iterable[Task], workers: int = 1, underway: Mapping[str, Underway] | None = None
    ) -> float | None:
        """The seconds that cells will take; None before any is finished or has come some way.

        A sort of which no cell is finished is judged by cells of it that are under way, and otherwise taken
        for an average one of its kind, or of all kinds.

        Args:
            tasks: the cells that remain, those under way among them.
            workers: number of workers that share them, at least 1.
            underway: address -> how far it is, for cells that are computed now.
        """
        tasks, underway = list(tasks), underway or {}
        known = {sort: fmean(times) for sort, times in self.seconds.items() if times}
        for task in tasks:
            course = underway.get(task.address)
            if course is not None and course.left is not None:
                known.setdefault(sort_of(task), course.spent + course.left)
        if not known:
            return None
        kinds = {kind: fmean(s for (k, _), s in known.items() if k == kind) for kind, _ in known}
        average = fmean(known.values())
        total = 0.0
        for task in tasks:
            sort = sort_of(task)
            seconds, course = known.get(sort, kinds.get(sort[0], average)), underway.get(task.address)
            if course is not None:
                seconds = max(seconds - course.spent, 0.0) if course.left is None else course.left
            total += seconds
        return total / max(workers, 1)

"""How long the cells that remain will take, judged by those that are finished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from spikeproof.errors import InputError
from spikeproof.experiments.run.queue.board import Task
from spikeproof.experiments.run.shapes import ProvenanceDocument
from spikeproof.experiments.run.store import Store
from spikeproof.plainfiles import read_json

__all__ = ["Forecast", "sort_of"]

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

    def of(self, tasks: Iterable[Task], workers: int = 1) -> float | None:
        """The seconds that cells will take; None before any cell is finished.

        A sort of which no cell is finished is taken for an average one of its kind, or of all kinds.

        Args:
            tasks: the cells that remain.
            workers: number of workers that share them, at least 1.
        """
        known = {sort: fmean(times) for sort, times in self.seconds.items() if times}
        if not known:
            return None
        kinds = {kind: fmean(s for (k, _), s in known.items() if k == kind) for kind, _ in known}
        average = fmean(known.values())
        total = 0.0
        for task in tasks:
            sort = sort_of(task)
            total += known.get(sort, kinds.get(sort[0], average))
        return total / max(workers, 1)

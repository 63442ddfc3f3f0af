"""What the command line shows: progress while a study runs, a summary and a table when it is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from spikeproof.experiments.cells import Cell
from spikeproof.experiments.executors import Failure, Progress
from spikeproof.experiments.results import WORST_CASE
from spikeproof.experiments.run import Listener, Summary

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from spikeproof.experiments.record import Record

__all__ = ["listener", "print_records", "print_summary"]

SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def listener() -> Iterator[Listener]:
    """Progress bars on a terminal, a plain line every few seconds elsewhere."""
    if not sys.stdout.isatty():
        yield Lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}"), transient=True) as bars:
        yield OnTerminal(bars)


class Lines(Listener):
    """Plain lines: what happens to be said, at most one every few seconds, and every failure."""

    def __init__(self) -> None:
        self.total = self.done = 0
        self.names: dict[str, str] = {}
        self.began = self.said = time.monotonic()

    def planned(self, cells: Sequence[Cell]) -> None:
        self.total = len(cells)
        self.names = cell_names(cells)

    def kept(self, cell: Cell) -> None:
        self.done += 1

    def damaged(self, message: str) -> None:
        self.line(f"damaged: {message}")

    def progress(self, cell: Cell, progress: Progress) -> None:
        self.say(f"{self.names[cell.address]}: {progress.done} of {progress.total}, {progress.note}")

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        self.done += 1
        if failure is not None:
            self.line(f"failed: {self.names[cell.address]}: {failure.error}")
        self.say(self.names[cell.address])

    def say(self, words: str) -> None:
        now = time.monotonic()
        if now - self.said > SECONDS_BETWEEN_LINES:
            self.said = now
            self.line(f"{self.done} of {self.total} cells, {now - self.began:.0f} s; {words}")

    def line(self, text: str) -> None:
        click.echo(text)
        sys.stdout.flush()


class OnTerminal(Lines):
    """One bar for the study and one for each model that is being trained."""

    def __init__(self, bars: Bars) -> None:
        super().__init__()
        self.bars = bars
        self.study = bars.add_task("cells", total=None, note="")
        self.training: dict[str, TaskID] = {}

    def planned(self, cells: Sequence[Cell]) -> None:
        super().planned(cells)
        self.bars.update(self.study, total=len(cells))

    def kept(self, cell: Cell) -> None:
        self.bars.advance(self.study)

    def progress(self, cell: Cell, progress: Progress) -> None:
        if cell.address not in self.training:
            name = self.names[cell.address]
            self.training[cell.address] = self.bars.add_task(name, total=progress.total, note="")
        self.bars.update(self.training[cell.address], completed=progress.done, note=progress.note)

    def finished(self, cell: Cell, failure: Failure | None) -> None:
        if cell.address in self.training:
            self.bars.remove_task(self.training.pop(cell.address))
        self.bars.update(self.study, advance=1, note=self.names[cell.address])
        if failure is not None:
            self.line(f"failed: {self.names[cell.address]}: {failure.error}")

    def line(self, text: str) -> None:
        self.bars.console.print(text, markup=False, highlight=False)


def cell_names(cells: Sequence[Cell]) -> dict[str, str]:
    """A few words for every cell, by address."""
    names: dict[str, str] = {}
    for cell in cells:
        spec: dict[str, Any] = cell.spec
        if cell.needs is None:
            model = spec["model"]
            parts = "/".join(model[axis]["name"] for axis in ("network", "neuron", "encoder", "decoder"))
            names[cell.address] = f"train {parts}"
        else:
            what = f"{spec['attack']['name']} {spec['epsilon']:.3g}" if "attack" in spec else cell.kind
            names[cell.address] = f"{what} on {names[cell.needs].removeprefix('train ')}"
    return names


def print_summary(summary: Summary) -> None:
    """What a run did, in one line."""
    words = f"{summary.total} cells: {summary.computed} computed, {summary.kept} kept"
    if summary.failed:
        words += f", {summary.failed} failed and {summary.blocked} could not be tried"
    click.echo(words)


def print_records(records: Sequence[Record]) -> None:
    """Clean accuracy and worst-case robust accuracy of every model, and every warning."""
    if not records:
        click.echo("No number is finished yet.")
        return
    budgets = sorted({(row["threat"], row["epsilon"]) for row in records})
    head = ["network", "neuron", "encoder", "decoder", "seed", "n", "clean"]
    head += [f"{threat} {epsilon:.3g}" for threat, epsilon in budgets]
    lines = [_line(rows, budgets) for rows in _by_model(records)]
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        cells = [
            f"{cell:{'<' if i < 4 else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        click.echo("  ".join(cells).rstrip())
    click.echo(
        f"\nAccuracy in %, robust accuracy in the {WORST_CASE} over all attacks; ties count as errors."
    )
    for warning, count in _warnings(records).items():
        click.echo(f"warning: {warning}" + (f" (and {count - 1} more of this kind)" if count > 1 else ""))


def _by_model(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[str, list[Record]] = {}
    for row in records:
        groups.setdefault(row["model"], []).append(row)
    return list(groups.values())


def _line(rows: Sequence[Record], budgets: Sequence[tuple[str, float]]) -> list[str]:
    first = rows[0]
    worst = {
        (r["threat"], r["epsilon"]): r["robust_accuracy"] for r in rows if r["attack"] in (WORST_CASE, "none")
    }
    names = [first["network"], first["neuron"], first["encoder"], first["decoder"]]
    numbers = [str(first["seed"]), str(first["n"]), f"{first['clean_accuracy']:.1%}"[:-1]]
    return [*names, *numbers, *(f"{worst[b]:.1%}"[:-1] if b in worst else "-" for b in budgets)]


def _warnings(records: Sequence[Record]) -> dict[str, int]:
    """The first warning of each kind, with the model it belongs to, and how many there are of its kind."""
    counts: dict[str, int] = {}
    firsts: dict[str, str] = {}
    for row in records:
        if row["attack"] == WORST_CASE:
            continue
        for warning in row["warnings"]:
            kind = warning.split(":", 1)[0]
            model = f"{row['network']}/{row['encoder']}/{row['decoder']}"
            first = firsts.setdefault(
                kind, f"{warning} ({model}, {row['attack']}, epsilon {row['epsilon']:.3g})"
            )
            counts[first] = counts.get(first, 0) + 1
    return counts

"""Computing a study with its progress shown, printing its numbers, and writing its report."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spikeproof.command.arguments import command_line, device_named, missing, noted, worker_count
from spikeproof.command.executing import Placed, Workplace, alone

if TYPE_CHECKING:
    from spikeproof.experiments.read.comparisons import Compared
    from spikeproof.experiments.read.finished import Opened
    from spikeproof.experiments.read.results import Outcome
    from spikeproof.experiments.run.driver import Summary
    from spikeproof.experiments.study.study import Study
    from spikeproof.report.outputs import Numbers

__all__ = ["computed", "foretell", "print_report", "written_report"]


def computed(
    study: Study,
    out: Path,
    data: Path | None,
    device: str | None,
    placed: Placed,
    *,
    quiet: bool = False,
    devices: int = 1,
) -> Summary:
    """Compute what a study lacks, and say what was done.

    Args:
        study: that is asked for; the programs that make its models are run.
        out: its output directory.
        data: the directory that holds data sets.
        device: as the command line names it.
        placed: where cells are computed.
        quiet: whether nothing is printed.
        devices: number of devices that share each training.

    Raises:
        InputError: several devices with several workers.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import Listener
    from spikeproof.experiments.run.driver import run as run_cells
    from spikeproof.experiments.study.cells import cells_of
    from spikeproof.experiments.study.owned import programs

    device = device_named(device)
    if devices > 1:
        placed = alone(placed, devices)
    cells = cells_of(study, noted(study.data.load(data)))
    command = ("spikeproof", *sys.argv[1:])
    trusted = programs(study.models)
    bench = Bench(out, data, device, study.batch_size, command, trusted, devices=devices)
    with nullcontext(Listener()) if quiet else terminal.listener() as listener:
        executor = Workplace(placed, device, len(cells)).executor()
        summary = run_cells(study.name, study.spec(), cells, bench, executor, out, listener)
    if not quiet:
        terminal.print_summary(summary)
    return summary


def foretell(
    named: str, study: Study, out: Path, data: Path | None, device: str | None, placed: Placed
) -> None:
    """Say what a run would do; nothing is computed or written.

    Args:
        named: the study as the command line names it.
        study: that is asked for.
        out: its output directory.
        data: the directory that holds data sets.
        device: as the command line names it.
        placed: where cells would be computed.
    """
    from spikeproof.catalogue.names import members
    from spikeproof.command.campaigns.upkeep import print_outlook
    from spikeproof.experiments.run.queue.outlook import outlook
    from spikeproof.experiments.study.cells import cells_of

    found = outlook(cells_of(study, noted(study.data.load(data))), out)
    workers = placed["workers"] or worker_count(device_named(device))
    print_outlook(study.name, found, workers, lambda: members("studies").get(named))


def print_report(
    directory: Path, *, anew: bool = True, writable: bool = True, data: Path | None = None
) -> None:
    """Print the numbers and write the report.

    Without `anew`, a report that is up to date is kept, and so are the numbers that it holds. In a directory
    that is not `writable` there may be another report, or none. A command for what is best done next names
    the directory that holds `data`.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.read.finished import Opened
    from spikeproof.experiments.run.plans import models_of, read_plan
    from spikeproof.experiments.study.owned import named_programs
    from spikeproof.report.outputs import PAGE, is_current, kept_numbers

    current = not anew and is_current(directory)
    kept = kept_numbers(directory) if current else None
    study = directory if kept is not None else opened(directory)
    numbers, compared, worst = (kept, (), ()) if kept is not None else _read(study)
    terminal.print_records(numbers.records)
    terminal.print_probes(numbers.probes)
    terminal.print_corruptions(numbers.corruptions)
    terminal.print_corruption_errors(numbers.errors)
    terminal.print_transfers(numbers.grids)
    terminal.print_distances(numbers.distances)
    terminal.print_spikes(numbers.spikes)
    if not numbers.records:
        return
    terminal.print_ranking(numbers.ranked, numbers.records)
    if not (current or writable):
        click.echo("no report of these cells is there, and none can be written")
        return
    try:
        place = directory / PAGE if current else _written(study, numbers, compared, worst)
        click.echo(f"report: {place}")
    except ImportError as error:
        if anew:
            raise
        click.echo(f"no report: {missing(error)} Then {command_line('report', directory)} writes it.")
    plan = study.plan if isinstance(study, Opened) else read_plan(study)
    if data is None and isinstance(study, Opened):
        data = _data_of(study)
    make = named_programs(models_of(plan["plan"]).values())
    terminal.print_next(directory, numbers.records, make, data)


def _data_of(study: Opened) -> Path | None:
    """The directory with data sets that the command named by which a study was measured, if it is here."""
    for address in study.whole:
        noted = study.whole.provenance(address).get("command")
        words = [str(word) for word in noted] if isinstance(noted, list) else []
        given = [after for word, after in itertools.pairwise(words) if word == "--data"]
        given += [word.removeprefix("--data=") for word in words if word.startswith("--data=")]
        return Path(given[0]) if given and os.path.isdir(given[0]) else None  # noqa: PTH112
    return None


def written_report(directory: Path) -> Path:
    """Write the report again and return its path."""
    study = opened(directory)
    return _written(study, *_read(study))


def opened(directory: Path) -> Opened:
    """The study in an output directory."""
    from spikeproof.experiments.read.finished import Opened

    with _without_search_for_garbage():
        return Opened.of(directory)


@contextmanager
def _without_search_for_garbage() -> Iterator[None]:
    """Do not search for cycles while a study is read or its report is made, and never among what was read.

    All of it is kept to the end of the command, and a search would go through all of it again and again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _read(directory: Path | Opened) -> tuple[Numbers, Sequence[Compared], Sequence[Outcome]]:
    """The numbers of the finished cells of a study, the comparisons of its models, and their worst cases."""
    from spikeproof.experiments.read.comparisons import MOST_COMPARED, comparisons, stated
    from spikeproof.experiments.read.gathered.corrupted import corruption_errors, corruption_records
    from spikeproof.experiments.read.gathered.transfers import transfer_grids
    from spikeproof.experiments.read.ranking import rankings
    from spikeproof.experiments.read.results import distance_records, measured, probe_records, spike_records
    from spikeproof.report.outputs import Numbers

    with _without_search_for_garbage():
        found, outcomes = measured(directory)
        worst = stated(outcomes)
        numbers = Numbers(
            found,
            probe_records(directory),
            corruption_records(directory),
            corruption_errors(directory),
            transfer_grids(directory),
            distance_records(directory),
            spike_records(directory),
            rankings(directory, found, worst),
        )
        return numbers, comparisons(directory, found, worst, MOST_COMPARED), worst


def _written(
    directory: Path | Opened, numbers: Numbers, compared: Sequence[Compared], worst: Sequence[Outcome]
) -> Path:
    """Write the report of these numbers and return its path."""
    from spikeproof.experiments.read.finished import Opened
    from spikeproof.experiments.read.gathered.across_seeds import Trainings
    from spikeproof.experiments.run.store import writing
    from spikeproof.report.page import Corrupted, write

    study = Opened.of(directory)
    with writing(study.directory), _without_search_for_garbage():
        return write(
            study,
            numbers.records,
            numbers.probes,
            compared,
            numbers.distances,
            numbers.ranked,
            Corrupted(numbers.corruptions, numbers.errors),
            numbers.spikes,
            numbers.grids,
            Trainings.of(study, numbers.records, worst),
        )

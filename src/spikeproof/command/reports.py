"""Computing a study with its progress shown, printing its numbers, and writing its report."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spikeproof.command.arguments import device_named, executor_of, missing, noted

if TYPE_CHECKING:
    from spikeproof.experiments.study.study import Study

__all__ = ["computed", "print_report", "written_report"]


def computed(
    study: Study,
    out: Path,
    data: Path | None,
    device: str | None,
    workers: int | None,
    *,
    quiet: bool = False,
) -> int:
    """Compute what a study lacks, and say what was done; the number of cells that failed.

    Args:
        study: that is asked for; the programs that make its models are run.
        out: its output directory.
        data: the directory that holds data sets.
        device: as the command line names it.
        workers: number of processes, or None for one per core.
        quiet: whether nothing is printed.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import Listener
    from spikeproof.experiments.run.driver import run as run_cells
    from spikeproof.experiments.study.cells import cells_of
    from spikeproof.experiments.study.owned import programs

    device = device_named(device)
    cells = cells_of(study, noted(study.data.load(data)))
    command = ("spikeproof", *sys.argv[1:])
    bench = Bench(out, data, device, study.batch_size, command, programs(study.models))
    with nullcontext(Listener()) if quiet else terminal.listener() as listener:
        executor = executor_of(workers, device, len(cells))
        summary = run_cells(study.name, study.spec(), cells, bench, executor, out, listener)
    if not quiet:
        terminal.print_summary(summary)
    return summary.failed


def print_report(directory: Path, *, anew: bool = True) -> None:
    """Print the numbers and write the report; without `anew`, a report that is up to date is kept."""
    from spikeproof.command import terminal
    from spikeproof.experiments.read.gathered.corrupted import corruption_errors, corruption_records
    from spikeproof.experiments.read.gathered.transfers import transfer_grids
    from spikeproof.experiments.read.ranking import rankings
    from spikeproof.experiments.read.results import distance_records, probe_records, records, spike_records

    found, probes, distances = records(directory), probe_records(directory), distance_records(directory)
    terminal.print_records(found)
    terminal.print_probes(probes)
    terminal.print_corruptions(corruption_records(directory))
    terminal.print_corruption_errors(corruption_errors(directory))
    terminal.print_transfers(transfer_grids(directory))
    terminal.print_distances(distances)
    terminal.print_spikes(spike_records(directory))
    if not found:
        return
    terminal.print_ranking(rankings(directory, found), found)
    try:
        from spikeproof.report.outputs import is_current
    except ImportError as error:
        if anew:
            raise
        click.echo(f"no report: {missing(error)} Then `spikeproof report {directory}` writes it.")
        terminal.print_next(directory, found)
        return
    kept = not anew and is_current(directory)
    click.echo(f"report: {directory / 'report.html' if kept else written_report(directory)}")
    terminal.print_next(directory, found)


def written_report(directory: Path) -> Path:
    """Write the report again and return its path."""
    from spikeproof.experiments.read.comparisons import comparisons
    from spikeproof.experiments.read.gathered.corrupted import corruption_errors, corruption_records
    from spikeproof.experiments.read.gathered.transfers import transfer_grids
    from spikeproof.experiments.read.ranking import rankings
    from spikeproof.experiments.read.results import distance_records, probe_records, records, spike_records
    from spikeproof.experiments.run.store import writing
    from spikeproof.report.page import Corrupted, write

    found = records(directory)
    probes, distances = probe_records(directory), distance_records(directory)
    with writing(directory):
        compared, ranked = comparisons(directory, found), rankings(directory, found)
        corrupted = Corrupted(corruption_records(directory), corruption_errors(directory))
        layers, grids = spike_records(directory), transfer_grids(directory)
        return write(directory, found, probes, compared, distances, ranked, corrupted, layers, grids)

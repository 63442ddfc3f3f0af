"""Printing the numbers of a study, and writing its report."""

from __future__ import annotations

from pathlib import Path

import click

from spikeproof.command.arguments import missing

__all__ = ["print_report", "written_report"]


def print_report(directory: Path, *, anew: bool = True) -> None:
    """Print the numbers and write the report; without `anew`, a report that is up to date is kept."""
    from spikeproof.command import terminal
    from spikeproof.experiments.read.ranking import rankings
    from spikeproof.experiments.read.results import distance_records, probe_records, records

    found, probes, distances = records(directory), probe_records(directory), distance_records(directory)
    terminal.print_records(found)
    terminal.print_probes(probes)
    terminal.print_distances(distances)
    if not found:
        return
    terminal.print_ranking(rankings(directory, found), found)
    try:
        from spikeproof.report.page import is_current
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
    from spikeproof.experiments.read.ranking import rankings
    from spikeproof.experiments.read.results import distance_records, probe_records, records
    from spikeproof.experiments.run.store import writing
    from spikeproof.report.page import write

    found = records(directory)
    probes, distances = probe_records(directory), distance_records(directory)
    with writing(directory):
        compared, ranked = comparisons(directory, found), rankings(directory, found)
        return write(directory, found, probes, compared, distances, ranked)

"""`spikeproof diff`: what moved between two studies, or between a study and a published table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spikeproof.command.arguments import AS_JSON, PATH, encoded, guarded

if TYPE_CHECKING:
    from spikeproof.experiments.read.gathered.differences import Difference, Differences

__all__ = ["diff"]


@click.command()
@click.argument("first", type=PATH, metavar="A")
@click.argument("second", type=PATH, metavar="B")
@AS_JSON
@click.option("--html", "page", type=PATH, metavar="FILE", help="Write the comparison as a page, too.")
@click.option("--worse", is_flag=True, help="Only numbers that fell make the exit status 1.")
@guarded
def diff(first: Path, second: Path, as_json: bool, page: Path | None, worse: bool) -> None:
    """Say which numbers moved from A to B by more than their uncertainty.

    A and B are output directories of studies, reports (report.html), CSV files with published accuracies, or
    JSON files that `spikeproof show DIR --json` printed. Clean accuracies and worst cases are compared image
    by image where both sides have the images, over trainings and images where both have several seeds, and
    by their intervals elsewhere; p-values are corrected for the number of comparisons.

    The exit status is 1 if a number moved, 0 if none did, and 2 if the two cannot be compared.
    """
    from spikeproof.experiments.read.gathered.diff_page import diff_page
    from spikeproof.experiments.read.gathered.differences import differences
    from spikeproof.experiments.run.store import write_atomically, writing

    found = differences(first, second)
    if page is not None:
        with writing(page.parent):
            write_atomically(page, diff_page(found).encode())
    if as_json:
        click.echo(encoded(found), nl=False)
    else:
        _print(found)
        if page is not None:
            click.echo(f"page: {page}")
    if any(row["moved"] and (not worse or _fell(row)) for row in found["differences"]):
        sys.exit(1)


def _fell(row: Difference) -> bool:
    """Whether a number is lower on the second side, or withheld there."""
    return row["second"] is None or (row["difference"] or 0) < 0


def _print(found: Differences) -> None:
    from spikeproof.report.tables import epsilon_text, interval, percent

    rows = sorted(found["differences"], key=lambda row: not row["moved"])
    for moved, heading in ((True, "Moved beyond its uncertainty:"), (False, "No difference shown:")):
        here = [row for row in rows if row["moved"] is moved]
        if here:
            click.echo(heading)
        for row in here:
            budget = "clean" if not row["epsilon"] else f"{row['threat']} {epsilon_text(row['epsilon'])}"
            first, second = (
                percent(row[side]) if row[side] is not None else "withheld" for side in ("first", "second")
            )
            words = f"  {row['label']}, {budget}: {first} -> {second} %"
            if row["difference"] is not None:
                words += f" ({100 * row['difference']:+.1f} points {interval(row['low'], row['high'])}"
                words += f", p = {row['adjusted'] or 0:.2g}, {row['how']}"
                words += f", n = {row['n']})" if row["n"] else ")"
            click.echo(words + (" matched by name" if row["by_name"] else ""))
    for side, names in (("first", found["only_first"]), ("second", found["only_second"])):
        if names:
            click.echo(f"Only in the {side}: {'; '.join(names)}")
    click.echo(f"{found['moved']} of {len(rows)} numbers moved from {found['first']} to {found['second']}.")

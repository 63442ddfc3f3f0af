"""`spikeproof export`: the numbers of a study in files and trackers of others."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import click

from spikeproof.command.arguments import DIRECTORY, PATH, TEXT, guarded

if TYPE_CHECKING:
    from spikeproof.experiments.read.finished import Opened

__all__ = ["export"]


class Kind(StrEnum):
    """What can be exported into a file."""

    RECORDS = "records"
    EXAMPLES = "examples"
    CSV = "csv"
    LATEX = "latex"
    COMPARISONS = "comparisons"


FILES = {
    Kind.RECORDS: "records.parquet",
    Kind.EXAMPLES: "examples.parquet",
    Kind.CSV: "paper.csv",
    Kind.LATEX: "paper.tex",
    Kind.COMPARISONS: "comparisons.tex",
}
"""What is exported -> its file."""


@click.command()
@DIRECTORY
@click.option("--out", type=PATH, help="Folder for the files.  [default: DIR/export]")
@click.option(
    "--only",
    type=click.Choice([kind.value for kind in Kind]),
    multiple=True,
    help="Write only this file; may be given several times.",
)
@click.option("--tensorboard", type=PATH, metavar="LOG", help="Write trainings into this log directory.")
@click.option("--mlflow", type=TEXT, metavar="URI", help="Write trainings into this tracking store.")
@guarded
def export(
    directory: Path, out: Path | None, only: tuple[str, ...], tensorboard: Path | None, mlflow: str | None
) -> None:
    """Export the numbers of the study in DIR.

    Five files are written: records.parquet (one row per model, attack and budget), examples.parquet (one row
    per example of every cell, with model and attack as columns), paper.csv and paper.tex (mean and 95 %
    interval over seeds of every architecture), and comparisons.tex (what holds across seeds). With
    --tensorboard or --mlflow the training curves and the final numbers of every training are written there,
    and files only if --out or --only asks for them.
    """
    from spikeproof.experiments.read.finished import Opened
    from spikeproof.experiments.read.gathered.campaign import training_runs
    from spikeproof.experiments.read.gathered.trackers import to_mlflow, to_tensorboard
    from spikeproof.experiments.read.results import records

    study = Opened.of(directory)
    found = records(study)
    tracked = tensorboard is not None or mlflow is not None
    if out or only or not tracked:
        wanted = [kind for kind in Kind if not only or kind.value in only]
        _write(study, out or directory / "export", wanted)
    runs = training_runs(study, found) if tracked else []
    if tensorboard is not None:
        _say(to_tensorboard(runs, tensorboard), len(runs), str(tensorboard))
    if mlflow is not None:
        _say(to_mlflow(runs, mlflow), len(runs), mlflow)


def _say(new: int, total: int, place: str) -> None:
    click.echo(f"{place}: {new} of {total} trainings written, the others were there")


def _write(study: Opened, out: Path, wanted: list[Kind]) -> None:
    from spikeproof.experiments.read.gathered.across_seeds import seed_comparisons
    from spikeproof.experiments.read.gathered.longtables import write_examples, write_records
    from spikeproof.experiments.read.gathered.paper_rows import paper_rows
    from spikeproof.experiments.read.results import records
    from spikeproof.experiments.run.store import write_atomically, writing
    from spikeproof.report.tables import comparisons_latex, paper_csv, paper_latex

    found = records(study)
    texts: dict[Kind, Callable[[], str]] = {
        Kind.CSV: lambda: paper_csv(paper_rows(study, found)),
        Kind.LATEX: lambda: paper_latex(paper_rows(study, found)),
        Kind.COMPARISONS: lambda: comparisons_latex(seed_comparisons(study, found)),
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    for kind in wanted:
        path = out / FILES[kind]
        if kind in texts:
            content = texts[kind]().encode()
            with writing(out):
                write_atomically(path, content)
            click.echo(f"{path}")
            continue
        staged = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")  # a name that no link has
        try:
            with writing(out), staged.open("xb") as file:
                rows = (
                    write_records(found, file)
                    if kind is Kind.RECORDS
                    else write_examples(study.directory, found, file)
                )
            with writing(out):
                staged.replace(path)
        finally:
            staged.unlink(missing_ok=True)
        click.echo(f"{path}: {rows} rows")

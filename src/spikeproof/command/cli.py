"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import click

from spikeproof.command.arguments import (
    AS_JSON,
    DIRECTORY,
    PATH,
    TEXT,
    encoded,
    guarded,
    printable_text,
)
from spikeproof.command.campaigns.differing import diff
from spikeproof.command.campaigns.exporting import export
from spikeproof.command.campaigns.upkeep import import_, prune, retry, status
from spikeproof.command.executing import Placed, placed, work
from spikeproof.command.measuring import audit, evaluate
from spikeproof.command.reports import computed, foretell, print_report
from spikeproof.errors import InputError
from spikeproof.version import __version__

if TYPE_CHECKING:
    from spikeproof.experiments.read.comparisons import Compared
    from spikeproof.experiments.read.gathered.across_seeds import SeedComparison, SeedMean
    from spikeproof.experiments.read.record import (
        CorruptionError,
        CorruptionRecord,
        DistanceRecord,
        ProbeRecord,
        Record,
        SpikeRecord,
        TransferGrid,
    )

__all__ = ["main"]

KINDS = (
    "encoders",
    "backward-rules",
    "decoders",
    "neurons",
    "resets",
    "surrogates",
    "gradients",
    "networks",
    "rules",
    "losses",
    "attacks",
    "torchattacks",
    "foolbox",
    "transfer-models",
    "objectives",
    "oracles",
    "steps",
    "schedules",
    "targets",
    "probes",
    "analyses",
    "train-distances",
    "corruptions",
    "certificates",
    "threats",
    "datasets",
    "samples",
    "triggers",
    "studies",
)
MODELS = "models"
"""What `list` prints of one study, beside the kinds of the catalogue."""


def main() -> None:
    """Entry point of the command `spikeproof`."""
    cli(prog_name="spikeproof")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="spikeproof")
def cli() -> None:
    """How robust is a spiking neural network, and what does spike timing have to do with it?"""


@cli.command()
@click.argument("study", type=TEXT)
@click.argument("settings", nargs=-1, type=TEXT, metavar="[KEY=VALUE]...")
@click.option("--out", type=PATH, help="Output directory.  [default: runs/STUDY]")
@click.option("--data", type=PATH, help="Directory that holds data sets.")
@click.option("--device", type=TEXT, help="Such as cpu or cuda.  [default: cuda if there is one, else cpu]")
@click.option(
    "--devices",
    type=click.IntRange(1, 1024),
    default=1,
    show_default=True,
    help="Number of devices that share each training, with one worker (extra: devices).",
)
@placed
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Largest number of cells that the study may have.",
)
@click.option(
    "--dry-run", is_flag=True, help="Say how many cells there are, how many are done, and how long."
)
@guarded
def run(
    study: str,
    settings: tuple[str, ...],
    out: Path | None,
    data: Path | None,
    device: str | None,
    devices: int,
    limit: int,
    dry_run: bool,
    **options: Unpack[Placed],
) -> None:
    """Run STUDY, the name of a built-in study or a YAML file, and write its report.

    Cells that the output directory already holds are not computed again, so the same command resumes an
    interrupted study, and of a changed study only the new cells are computed. Several of these commands may
    work on one directory at a time, on one machine or on several that share it. KEY=VALUE changes a value of
    the study, for example examples=100, epsilons=[0.1,0.2] or models.0.rule.epochs=2.
    """
    from spikeproof.command.answers import Question, repeated

    question = None if dry_run else Question.of(study, settings, out, data, device, devices, limit, options)
    if question is not None and (known := question.answer()) is not None:
        click.echo(known, nl=False)
        return
    from spikeproof.experiments.study.files.reader import load

    chosen = load(study, settings, limit)
    out = out or Path("runs") / chosen.name
    if dry_run:
        foretell(study, chosen, out, data, device, options)
        return
    summary = computed(chosen, out, data, device, options, devices=devices)
    with repeated() as printed:
        print_report(out, anew=False, writable=not summary.unwritten, data=data)
    if summary.failed:
        sys.exit(1)
    if question is not None:
        question.keep(out, chosen, summary, printed.getvalue())


@cli.command()
@DIRECTORY
@AS_JSON
@click.option("--seeds", is_flag=True, help="Means over training seeds, with their intervals.")
@click.option("--trainings", is_flag=True, help="Means and comparisons over trainings and images.")
@click.option("--probes", is_flag=True, help="Accuracy under timing probes.")
@click.option("--corruptions", is_flag=True, help="Accuracy under natural corruptions, and mean errors.")
@click.option("--transfers", is_flag=True, help="Accuracy on images made on every other model, as a grid.")
@click.option("--distances", is_flag=True, help="Median distance of the nearest adversarial images.")
@click.option("--spikes", is_flag=True, help="What an attack does to the spikes of each layer.")
@click.option("--comparisons", is_flag=True, help="Paired comparisons of models that differ in one part.")
@guarded
def show(directory: Path, as_json: bool, **tables: bool) -> None:
    """Print the numbers of the study in DIR, or only the tables that the options name.

    With --json, one table is printed as a list, and several tables as an object that maps the name of each
    table to its list.
    """
    order = ("seeds", "trainings", "probes", "corruptions", "transfers", "distances", "spikes", "comparisons")
    found = _Tables(directory)
    asked = [part for name in order if tables[name] for part in (name, *TOGETHER.get(name, ()))]
    if as_json:
        lists = {name: getattr(found, name) for name in asked or ["numbers"]}
        click.echo(encoded(lists if len(lists) > 1 else next(iter(lists.values()))), nl=False)
        return
    for name in asked or STANDARD_TABLES:
        found.show(name, bool(asked))


@dataclass(frozen=True)
class _Tables:
    """The tables of a study as `show --json` prints them; each is read on first use."""

    directory: Path

    @cached_property
    def numbers(self) -> Sequence[Record]:
        from spikeproof.experiments.read.results import records

        return records(self.directory)

    @cached_property
    def seeds(self) -> Sequence[Mapping[str, object]]:
        from spikeproof.report.tables import seeds_json

        return seeds_json(self.numbers)

    @cached_property
    def trainings(self) -> Sequence[SeedMean]:
        from spikeproof.experiments.read.gathered.across_seeds import seed_means

        return seed_means(self.directory, self.numbers)

    @cached_property
    def training_comparisons(self) -> Sequence[SeedComparison]:
        from spikeproof.experiments.read.gathered.across_seeds import seed_comparisons

        return seed_comparisons(self.directory, self.numbers)

    @cached_property
    def probes(self) -> Sequence[ProbeRecord]:
        from spikeproof.experiments.read.results import probe_records

        return probe_records(self.directory)

    @cached_property
    def corruptions(self) -> Sequence[CorruptionRecord]:
        from spikeproof.experiments.read.gathered.corrupted import corruption_records

        return corruption_records(self.directory)

    @cached_property
    def corruption_errors(self) -> Sequence[CorruptionError]:
        from spikeproof.experiments.read.gathered.corrupted import corruption_errors

        return corruption_errors(self.directory)

    @cached_property
    def transfers(self) -> Sequence[TransferGrid]:
        from spikeproof.experiments.read.gathered.transfers import transfer_grids

        return transfer_grids(self.directory)

    @cached_property
    def distances(self) -> Sequence[DistanceRecord]:
        from spikeproof.experiments.read.results import distance_records

        return distance_records(self.directory)

    @cached_property
    def spikes(self) -> Sequence[SpikeRecord]:
        from spikeproof.experiments.read.results import spike_records

        return spike_records(self.directory)

    @cached_property
    def comparisons(self) -> Sequence[Compared]:
        from spikeproof.experiments.read.comparisons import comparisons

        return comparisons(self.directory, self.numbers)

    def show(self, table: str, asked: bool) -> None:
        """Print one table, or a message where a table that was asked for is empty."""
        from spikeproof.command import terminal

        printed: dict[str, Callable[[], None]] = {
            "numbers": lambda: terminal.print_records(self.numbers),
            "seeds": lambda: terminal.print_seeds(self.numbers, explained=not asked),
            "trainings": lambda: terminal.print_trainings(self.trainings),
            "training_comparisons": lambda: terminal.print_training_comparisons(self.training_comparisons),
            "probes": lambda: terminal.print_probes(self.probes),
            "corruptions": lambda: terminal.print_corruptions(self.corruptions),
            "corruption_errors": lambda: terminal.print_corruption_errors(self.corruption_errors),
            "transfers": lambda: terminal.print_transfers(self.transfers),
            "distances": lambda: terminal.print_distances(self.distances),
            "spikes": lambda: terminal.print_spikes(self.spikes),
            "comparisons": lambda: terminal.print_comparisons(self.comparisons),
        }
        printed[table]()
        if asked and table in NOTHING and not getattr(self, table):
            click.echo(NOTHING[table])


STANDARD_TABLES = (
    *("numbers", "seeds", "probes", "corruptions", "corruption_errors", "transfers", "distances", "spikes"),
)
"""What `show` prints where no table is asked for."""

TOGETHER = {"corruptions": ("corruption_errors",), "trainings": ("training_comparisons",)}
"""Table -> tables that are printed with it."""

NOTHING = {
    "seeds": "No model of this study is finished under several seeds.",
    "trainings": "No model of this study is finished under several seeds.",
    "probes": "No probe of this study is finished.",
    "corruptions": "No corruption of this study is finished.",
    "transfers": "This study does not judge the images of every model on every other one.",
    "distances": "No distance of this study is finished.",
    "spikes": "No analysis of spikes of this study is finished.",
}
"""Table -> message where it was asked for and is empty; `print_comparisons` prints its own."""


@cli.command()
@DIRECTORY
@guarded
def report(directory: Path) -> None:
    """Write the report of the study in DIR again."""
    print_report(directory)


@cli.command("list")
@click.argument("kind", type=click.Choice((*KINDS, MODELS)))
@click.argument("member", type=TEXT, required=False, metavar="[MEMBER|DIR]")
@AS_JSON
@guarded
def list_(kind: str, member: str | None, as_json: bool) -> None:
    """Print every member of a KIND with one sentence each, or every option of one MEMBER.

    `spikeproof list encoders latency` prints the options of the encoder latency with the type, the default
    and the meaning of each. `spikeproof list models DIR` prints the models of the study in DIR, each with the
    directory that `evaluate`, `audit` and `spikeproof.load` take.
    """
    from spikeproof.catalogue.names import broken, members

    if kind == MODELS:
        _list_models(member, as_json)
        return
    if member is not None:
        _list_options(kind, member, as_json)
        return
    found = members(kind)
    for sentence in broken(kind):
        click.echo(f"spikeproof: {printable_text(sentence)}", err=True)
    if as_json:
        click.echo(json.dumps([{"name": n, "description": d} for n, d in found.items()], indent=1))
        return
    width = max(map(len, found))
    for name, description in found.items():
        click.echo(f"{name:{width}}  {description}")


def _list_options(kind: str, member: str, as_json: bool) -> None:
    from spikeproof.catalogue.options import options
    from spikeproof.command import lists

    found = options(kind, member)
    if as_json:
        click.echo(json.dumps([option._asdict() for option in found], indent=1))
        return
    lists.print_options(kind, member, found)


def _list_models(directory: str | None, as_json: bool) -> None:
    from spikeproof.command import lists
    from spikeproof.experiments.read.trained import models_of

    if directory is None:
        raise InputError("The directory of a study", "none", "Try spikeproof list models runs/quickstart.")
    found = models_of(Path(directory))
    if as_json:
        click.echo(encoded(found), nl=False)
        return
    lists.print_models(found)


@cli.command()
@guarded
def schema() -> None:
    """Print the JSON Schema of study files, by which editors complete and check them.

    Write it to a file, and begin a study with the line `# yaml-language-server: $schema=FILE`.
    """
    from spikeproof.experiments.study.files.schema import schema as schema_of_studies

    click.echo(json.dumps(schema_of_studies(), indent=1))


@cli.command()
@click.option("--data", type=PATH, help="Directory that holds data sets.")
@AS_JSON
@guarded
def doctor(data: Path | None, as_json: bool) -> None:
    """Print the versions, devices and threads of this machine, and the data sets found on it."""
    from spikeproof.command.doctor import examine

    found = examine(data)
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for topic, findings in found.items():
        click.echo(topic)
        for name, finding in findings.items():
            click.echo(f"  {name:14} {finding}")


cli.add_command(work)
cli.add_command(status)
cli.add_command(retry)
cli.add_command(prune)
cli.add_command(import_)
cli.add_command(export)
cli.add_command(diff)
cli.add_command(evaluate)
cli.add_command(audit)

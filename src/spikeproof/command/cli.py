"""The command line: parse, call, print. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypedDict, Unpack

import click

from spikeproof.errors import InputError, SpikeproofError
from spikeproof.version import __version__

if TYPE_CHECKING:
    from spikeproof.datasets import Dataset, DatasetSpec
    from spikeproof.experiments.read.comparisons import Compared
    from spikeproof.experiments.read.record import DistanceRecord, ProbeRecord, Record
    from spikeproof.experiments.repair.signing import Question
    from spikeproof.experiments.run.executors import Executor
    from spikeproof.protocols import Model

__all__ = ["main"]

P = ParamSpec("P")
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
    "certificates",
    "threats",
    "datasets",
    "samples",
    "studies",
)
MODELS = "models"
"""What `list` prints of one study, beside the kinds of the catalogue."""


def main() -> None:
    """Entry point of the command `spikeproof`."""
    cli(prog_name="spikeproof")


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Print errors that the user can mend as one message and exit with status 2, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SpikeproofError as error:
            click.echo(f"spikeproof: {_printable(str(error))}", err=True)
            sys.exit(2)
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "spikeproof":
                raise
            click.echo(f"spikeproof: {missing(error)}", err=True)
            sys.exit(2)
        except KeyboardInterrupt:
            click.echo("spikeproof: interrupted; run the same command again to resume", err=True)
            sys.exit(130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)

    return run


def missing(error: ImportError) -> str:
    """One sentence about a package that cannot be imported, with the command that installs its extra."""
    package = (error.name or "a package").partition(".")[0]
    absent = isinstance(error, ModuleNotFoundError)
    reason = "is not installed" if absent else f"does not import ({str(error).splitlines()[0][:200]})"
    return (
        f"This needs {package}, which {reason}. Try pip install {'' if absent else '--upgrade '}"
        f"'spikeproof[{EXTRAS.get(package, 'study')}]'."
    )


EXTRAS = {
    "h5py": "hdf5",
    "aedat": "cameras",
    "faery": "cameras",
    "tonic": "tonic",
    "foolbox": "peers",
    "torchattacks": "peers",
    "eagerpy": "peers",
}
"""Package -> the extra that it belongs to, where that is not `study`."""


def _printable(text: str) -> str:
    from spikeproof.plainfiles import printable

    return printable(text, "\n")


class Typed(click.ParamType):  # type: ignore[type-arg]
    """Text that can be printed, stored and handed to the operating system.

    Args:
        path: whether it names a file or directory.
    """

    name = "text"

    def __init__(self, *, path: bool = False) -> None:
        self.path = path
        self.name = "path" if path else "text"

    def convert(
        self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | Path:
        """The text, or the path of this name."""
        text = os.fspath(value)
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            self.fail(f"{text!r:.120} is no UTF-8 text without NUL.", param, ctx)
        return Path(text) if self.path else text


TEXT, PLACE = Typed(), Typed(path=True)

DIRECTORY = click.argument("directory", type=PLACE, metavar="DIR")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="spikeproof")
def cli() -> None:
    """How robust is a spiking neural network, and what does spike timing have to do with it?"""


@cli.command()
@click.argument("study", type=TEXT)
@click.argument("settings", nargs=-1, type=TEXT, metavar="[KEY=VALUE]...")
@click.option("--out", type=PLACE, help="Output directory.  [default: runs/STUDY]")
@click.option("--data", type=PLACE, help="Directory that holds data sets.")
@click.option("--device", type=TEXT, help="Such as cpu or cuda.  [default: cuda if there is one, else cpu]")
@click.option("--workers", type=click.IntRange(1, 1024), help="Number of processes.  [default: one per core]")
@click.option(
    "--limit",
    type=click.IntRange(1),
    default=100_000,
    show_default=True,
    help="Largest number of cells that the study may have.",
)
@guarded
def run(
    study: str,
    settings: tuple[str, ...],
    out: Path | None,
    data: Path | None,
    device: str | None,
    workers: int | None,
    limit: int,
) -> None:
    """Run STUDY, the name of a built-in study or a YAML file, and write its report.

    Cells that the output directory already holds are not computed again, so the same command resumes an
    interrupted study, and of a changed study only the new cells are computed. KEY=VALUE changes a value of
    the study, for example examples=100, epsilons=[0.1,0.2] or models.0.rule.epochs=2.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import run as run_cells
    from spikeproof.experiments.study.cells import cells_of
    from spikeproof.experiments.study.owned import programs
    from spikeproof.experiments.study.study import load

    chosen = load(study, settings, limit)
    device = _device(device)
    out = out or Path("runs") / chosen.name
    cells = cells_of(chosen, _noted(chosen.data.load(data)))
    command = ("spikeproof", *sys.argv[1:])
    bench = Bench(out, data, device, chosen.batch_size, command, programs(chosen.models))
    with terminal.listener() as listener:
        executor = _executor(workers, device, len(cells))
        summary = run_cells(chosen.name, chosen.spec(), cells, bench, executor, out, listener)
    terminal.print_summary(summary)
    _report(out, anew=False)
    if summary.failed:
        sys.exit(1)


def _noted(data: Dataset) -> Dataset:
    """The data set, once what has to be said of it is on the terminal."""
    for note in data.notes:
        click.echo(f"data: {note}", err=True)
    return data


def _device(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError("Expected a device of this machine", f"{name!r} ({reason})", "Try cpu.") from error
    return name


def _executor(workers: int | None, device: str, tasks: int) -> Executor:
    from spikeproof.experiments.run.executors import Processes, Serial

    if workers is None:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = 1 if device.startswith("cuda") else workers
    workers = min(workers, tasks)
    return Serial() if workers <= 1 else Processes(workers)


@cli.command()
@DIRECTORY
@guarded
def status(directory: Path) -> None:
    """Show how many cells of the study in DIR are finished, damaged or failed."""
    from spikeproof.experiments.run.driver import status as status_of

    found = status_of(directory)
    click.echo(f"study {found.study}")
    for kind, total in found.total.items():
        click.echo(f"  {kind:7} {found.finished.get(kind, 0)} of {total}")
    for heading, items in (("damaged, will be computed again", found.damaged), ("failed", found.failed)):
        if items:
            click.echo(f"{heading}:")
        for item in items:
            click.echo(f"  {item}")


@cli.command()
@DIRECTORY
@AS_JSON
@click.option("--seeds", is_flag=True, help="Means over training seeds, with their intervals.")
@click.option("--probes", is_flag=True, help="Accuracy under timing probes.")
@click.option("--distances", is_flag=True, help="Median distance of the nearest adversarial images.")
@click.option("--comparisons", is_flag=True, help="Paired comparisons of models that differ in one part.")
@guarded
def show(directory: Path, as_json: bool, **tables: bool) -> None:
    """Print the numbers of the study in DIR, or only the tables that the options name.

    With --json, one table is printed as a list, and several tables as an object that maps the name of each
    table to its list.
    """
    order, found = ("seeds", "probes", "distances", "comparisons"), _Tables(directory)
    asked = [name for name in order if tables[name]]
    if as_json:
        lists = {name: getattr(found, name) for name in asked or ["numbers"]}
        click.echo(encoded(lists if len(lists) > 1 else next(iter(lists.values()))), nl=False)
        return
    for name in asked or ("numbers", "seeds", "probes", "distances"):
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
    def probes(self) -> Sequence[ProbeRecord]:
        from spikeproof.experiments.read.results import probe_records

        return probe_records(self.directory)

    @cached_property
    def distances(self) -> Sequence[DistanceRecord]:
        from spikeproof.experiments.read.results import distance_records

        return distance_records(self.directory)

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
            "probes": lambda: terminal.print_probes(self.probes),
            "distances": lambda: terminal.print_distances(self.distances),
            "comparisons": lambda: terminal.print_comparisons(self.comparisons),
        }
        printed[table]()
        if asked and table in NOTHING and not getattr(self, table):
            click.echo(NOTHING[table])


NOTHING = {
    "seeds": "No model of this study is finished under several seeds.",
    "probes": "No probe of this study is finished.",
    "distances": "No distance of this study is finished.",
}
"""Table -> message where it was asked for and is empty; `print_comparisons` prints its own."""


@cli.command()
@DIRECTORY
@guarded
def report(directory: Path) -> None:
    """Write the report of the study in DIR again."""
    _report(directory)


def _report(directory: Path, *, anew: bool = True) -> None:
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
    click.echo(f"report: {directory / 'report.html' if kept else _written(directory)}")
    terminal.print_next(directory, found)


def _written(directory: Path) -> Path:
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


def encoded(data: object) -> str:
    """JSON; a number that is not finite becomes null."""
    from spikeproof.experiments.run.store import as_json

    return as_json(data).decode()


MODEL = click.argument("model", type=PLACE, metavar="MODEL")
ASKED = (
    MODEL,
    click.option(
        "--suite",
        type=TEXT,
        default="standard",
        show_default=True,
        help="Suite of attacks: quick, standard or extreme.",
    ),
    click.option(
        "--threat",
        type=TEXT,
        default="linf",
        show_default=True,
        help="linf or l2; for models that take events flips, additions, removals or shifts. Options are "
        "written as in a study: '{shifts: {measure: delay}}'.",
    ),
    click.option(
        "--epsilon",
        "epsilons",
        type=TEXT,
        multiple=True,
        default=("8/255",),
        show_default=True,
        help="Size of the threat; repeat the option for several budgets.",
    ),
    click.option(
        "--dataset",
        type=TEXT,
        help="Data set to measure on.  [default: the data set of the study that trained MODEL]",
    ),
    click.option("--data", type=PLACE, help="Directory that holds data sets."),
    click.option(
        "--examples", type=click.IntRange(1), default=200, show_default=True, help="Number of test images."
    ),
    click.option(
        "--sample",
        default="class-proportional",
        show_default=True,
        help="Which test images: class-proportional (a random share of every class) or first.",
    ),
    click.option(
        "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all random draws."
    ),
    click.option(
        "--draws",
        type=click.IntRange(1),
        help="Draws per verdict of a stochastic model.  [default: enough for a random error of ±2 points]",
    ),
    click.option(
        "--device", type=TEXT, help="Such as cpu or cuda.  [default: cuda if there is one, else cpu]"
    ),
    click.option("--weights", type=PLACE, help="File of weights for FILE.py:FUNCTION, .safetensors or .pt."),
    click.option("--out", type=PLACE, help="Directory for cells and report; the same command goes on in it."),
    AS_JSON,
)


class Asked(TypedDict):
    """The arguments of `evaluate` and `audit`, as click hands them over."""

    model: Path
    suite: str
    threat: str
    epsilons: tuple[str, ...]
    dataset: str | None
    data: Path | None
    examples: int
    sample: str
    seed: int
    draws: int | None
    device: str | None
    weights: Path | None
    out: Path | None


def asked(command: Callable[..., None]) -> Callable[..., None]:
    """The arguments of `evaluate` and `audit`."""
    for option in reversed(ASKED):
        command = option(command)
    return command


@cli.command()
@asked
@guarded
def evaluate(as_json: bool, **options: Unpack[Asked]) -> None:
    """Measure the robust accuracy of MODEL under a suite of attacks, with verdict and certificate.

    MODEL is a directory that spikeproof.save() wrote, a train cell of a study, or FILE.py:FUNCTION, a
    function in a file of yours that takes nothing and returns a model. The file is run. With --out the
    numbers are stored as those of a study are, with a report, and a killed command goes on where it was.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.repair.signing import sign_off

    if options["out"] is not None:
        failed = _into(options["out"], as_json, options)
        _shown(options["out"], as_json)
        sys.exit(1 if failed else 0)
    model, data, question, device = _question(**options)
    found = sign_off(model, data, question, device)
    if as_json:
        click.echo(encoded([each.plain() for each in found]), nl=False)
        return
    terminal.print_signed(found)


@cli.command()
@asked
@click.option("--verdicts", is_flag=True, help="Print the verdicts without computing anything.  [studies]")
@click.option(
    "--rounds", type=click.IntRange(0), default=3, show_default=True, help="Most rounds of repairs."
)
@click.option("--workers", type=click.IntRange(1, 1024), help="Processes.  [studies; default: one per core]")
@click.option(
    "--make",
    type=TEXT,
    multiple=True,
    metavar="FILE.py:FUNCTION",
    help="A program of yours that makes a model of the study, and that may be run.  [studies]",
)
@guarded
def audit(
    as_json: bool,
    verdicts: bool,
    rounds: int,
    workers: int | None,
    make: tuple[str, ...],
    **options: Unpack[Asked],
) -> None:
    """Judge how far the numbers of MODEL can be trusted.

    MODEL is a saved model, FILE.py:FUNCTION as for `evaluate`, or the directory of a study.

    Missing cells are computed, and every number that no standard suite has searched gets one. A doubtful
    number is then attacked again, depending on the checks that were raised: with more steps where the loss
    was still rising, more draws where the expectation used too few, other gradients where gradients vanish,
    more images where the interval is wide, and finally with the next larger suite. The command prints what
    changed. For a study, the repairs are stored beside its cells, and its report shows them.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.repair.signing import repair, sign_off

    if (options["model"] / "study.json").exists():
        _refuse(ASKED_OF_MODELS, "a study, which says itself how it is measured", "Leave it out.")
        more = _Repairs(verdicts, rounds, workers, options["data"], options["device"], frozenset(make))
        _audit_study(options["model"], as_json, more)
        return
    _refuse(("verdicts", "make"), "a model, of which nothing is stored", "Leave it out.")
    if options["out"] is not None:
        failed = _into(options["out"], as_json, options)
        trusted = frozenset({str(options["model"])})
        more = _Repairs(False, rounds, workers, options["data"], options["device"], trusted)
        _audit_study(options["out"], as_json, more)
        sys.exit(1 if failed else 0)
    _refuse(("workers",), "a model that is measured without --out", "Leave it out.")
    model, data, question, device = _question(**options)
    found = repair(model, data, question, sign_off(model, data, question, device), device, rounds)
    if as_json:
        click.echo(encoded([each.plain() for each in found]), nl=False)
        return
    terminal.print_repaired(found)


ASKED_OF_MODELS = (
    "suite",
    "threat",
    "epsilons",
    "dataset",
    "examples",
    "sample",
    "seed",
    "draws",
    "weights",
    "out",
)


def _refuse(names: tuple[str, ...], what: str, try_: str) -> None:
    """Refuse options that were given and would be ignored."""
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(each for each in context.command.params if each.name == name)
            raise InputError(f"The option {option.opts[0]} says nothing about this", what, try_)


def _into(out: Path, as_json: bool, options: Asked) -> int:
    """Measure one model as a study of its own in this directory; the number of cells that failed."""
    from spikeproof.catalogue.given import Given, is_address
    from spikeproof.catalogue.others import Saved
    from spikeproof.command import terminal
    from spikeproof.experiments.repair.signing import as_study
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import Listener
    from spikeproof.experiments.run.driver import run as run_cells
    from spikeproof.experiments.study.cells import cells_of
    from spikeproof.experiments.study.owned import Owned
    from spikeproof.experiments.study.study import saved_candidate

    make, weights = str(options["model"]), options["weights"]
    case = _Case.of(options)
    given = Given(make, None if weights is None else str(weights)) if is_address(make) else None
    model = saved_candidate(Saved(path=make)) if given is None else Owned.of(given)
    study = as_study(_study_name(out), model, case.data, case.question)
    device = _device(options["device"])
    cells = cells_of(study, _noted(case.data.load(options["data"])))
    command = ("spikeproof", *sys.argv[1:])
    bench = Bench(out, options["data"], device, study.batch_size, command, frozenset({make}))
    with nullcontext(Listener()) if as_json else terminal.listener() as listener:
        executor = _executor(None, device, len(study.threats))
        summary = run_cells(study.name, study.spec(), cells, bench, executor, out, listener)
    if not as_json:
        terminal.print_summary(summary)
    return summary.failed


def _study_name(out: Path) -> str:
    """The name of a directory as that of a study."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in out.resolve().name)
    return kept.strip("-_")[:64] or "model"


def _shown(out: Path, as_json: bool) -> None:
    """The numbers and the report of a directory, or the numbers as JSON."""
    from spikeproof.experiments.read.results import records

    if as_json:
        _written(out)
        click.echo(encoded(records(out)), nl=False)
        return
    _report(out, anew=False)


@dataclass(frozen=True)
class _Repairs:
    """How an audit of a study is made."""

    verdicts: bool
    rounds: int
    workers: int | None
    data: Path | None
    device: str | None
    trusted: frozenset[str]


def _audit_study(directory: Path, as_json: bool, how: _Repairs) -> None:
    from spikeproof.command import terminal
    from spikeproof.experiments.read.results import records
    from spikeproof.experiments.repair.repairs import repair_study, repaired
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import Listener, read_plan

    failed = 0
    if not how.verdicts:
        plan, name = read_plan(directory), _device(how.device)
        batch = plan["spec"].get("batch_size", 128)
        bench = Bench(directory, how.data, name, batch, ("spikeproof", *sys.argv[1:]), how.trusted)
        executor = _executor(how.workers, name, len(plan["cells"]))

        def images(dataset: Mapping[str, object]) -> int:
            return len(bench.dataset(dataset).test.labels)

        with nullcontext(Listener()) if as_json else terminal.listener() as listener:
            summary = repair_study(directory, bench, executor, listener, images, how.rounds, bench.model)
        failed = summary.failed
        if not as_json:
            terminal.print_summary(summary)
    rows = records(directory)
    found = [row for row in rows if row["verdict"] is not None]
    if as_json:
        click.echo(encoded(found), nl=False)
    else:
        terminal.print_verdicts(found, repaired(rows))
        if not how.verdicts and rows:
            click.echo(f"report: {_written(directory)}")
    if failed:
        sys.exit(1)


def _named(threat: str) -> tuple[str, dict[str, object]]:
    """A name, or a name with options, as in a study file."""
    from spikeproof.experiments.study.documents import parse

    found = parse(threat, "--threat").data
    if isinstance(found, str):
        return found, {}
    if isinstance(found, dict) and len(found) == 1:
        ((name, options),) = found.items()
        if isinstance(name, str) and isinstance(options, dict):
            return name, options
    raise InputError(
        "Expected a threat, with options or without",
        f"{threat!r:.120}",
        "Try flips or '{shifts: {measure: delay}}'.",
    )


@dataclass(frozen=True)
class _Case:
    """What `evaluate` and `audit` were asked, the model aside."""

    data: DatasetSpec
    question: Question

    @classmethod
    def of(cls, asked: Asked) -> _Case:
        """From the options of the command line."""
        from spikeproof.catalogue.names import PARTS
        from spikeproof.datasets import Sample
        from spikeproof.evaluation.suites import Suite
        from spikeproof.experiments.repair.signing import Question, data_spec_of
        from spikeproof.protocols import Threat
        from spikeproof.specs import build
        from spikeproof.statistics import draws_wanted
        from spikeproof.threats import parse_epsilon

        threat, examples = asked["threat"], asked["examples"]
        level = Suite(level=asked["suite"]).level
        sizes = sorted({parse_epsilon(epsilon) for epsilon in asked["epsilons"]})
        name, options = _named(threat)
        if {"name", "epsilon"} & {*options}:
            raise InputError(
                "A threat has options of its own; its size is --epsilon",
                repr(threat),
                "Leave out name and epsilon.",
            )
        threats = tuple(build(Threat, {"name": name, **options, "epsilon": size}, PARTS) for size in sizes)
        chosen: Sample = build(Sample, asked["sample"], PARTS)
        draws = asked["draws"] or draws_wanted(examples)
        question = Question(level, threats, examples, asked["seed"], draws, sample=chosen)
        return cls(data_spec_of(asked["model"], asked["dataset"]), question)


def _model(path: Path, weights: Path | None) -> Model:
    """The model that the command line names, whatever is wrong with it said first."""
    from spikeproof.catalogue.given import Given, is_address, made
    from spikeproof.catalogue.saved import load

    if is_address(str(path)):
        return made(Given(str(path), None if weights is None else str(weights)))
    if weights is not None:
        raise InputError(
            "--weights belong to a model that a program makes, FILE.py:FUNCTION", f"{path}", "Leave it out."
        )
    if path.suffix in (".pt", ".pth", ".ckpt"):
        raise InputError(
            "Expected a model",
            f"{path}, which can hold weights but no model",
            f"Write def make_model() in a file, and say net.py:make_model --weights {path}.",
        )
    if (path / "study.json").exists():
        raise InputError(
            "Expected a saved model",
            f"{path}, the directory of a study",
            f"Name one of its models, as `spikeproof list models {path}` does.",
        )
    return load(path)


def _question(**asked: Unpack[Asked]) -> tuple[Model, Dataset, Question, str]:
    model = _model(asked["model"], asked["weights"])
    case = _Case.of(asked)
    return model, _noted(case.data.load(asked["data"])), case.question, _device(asked["device"])


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
        click.echo(f"spikeproof: {_printable(sentence)}", err=True)
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
        click.echo(encoded([dict(model._asdict()) for model in found]), nl=False)
        return
    lists.print_models(found)


@cli.command()
@click.option("--data", type=PLACE, help="Directory that holds data sets.")
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

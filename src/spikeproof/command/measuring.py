"""The commands that measure one model, or search the numbers of a study further: `evaluate` and `audit`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from spikeproof.command.arguments import (
    AS_JSON,
    PATH,
    TEXT,
    command_line,
    device_named,
    encoded,
    executor_of,
    guarded,
    noted,
)
from spikeproof.command.executing import HERE, Placed
from spikeproof.command.reports import computed, print_report, written_report
from spikeproof.errors import InputError

if TYPE_CHECKING:
    from spikeproof.catalogue.given import Given
    from spikeproof.datasets import Dataset, DatasetSpec
    from spikeproof.experiments.repair.signing import Question
    from spikeproof.protocols import Model

__all__ = ["audit", "evaluate"]

MODEL = click.argument("model", type=PATH, metavar="MODEL")
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
    click.option("--data", type=PATH, help="Directory that holds data sets."),
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
    click.option("--weights", type=PATH, help="File of weights for FILE.py:FUNCTION, .safetensors or .pt."),
    click.option("--out", type=PATH, help="Directory for cells and report; the same command goes on in it."),
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


@click.command()
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
        _shown(options["out"], as_json, options["data"])
        sys.exit(1 if failed else 0)
    model, data, question, device = _question(**options)
    found = sign_off(model, data, question, device)
    if as_json:
        click.echo(encoded([each.plain() for each in found]), nl=False)
        return
    terminal.print_signed(found)


@click.command()
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
    from spikeproof.catalogue.others import Saved
    from spikeproof.experiments.repair.signing import as_study
    from spikeproof.experiments.study.owned import Owned
    from spikeproof.experiments.study.study import saved_candidate

    given = _given(options["model"], options["weights"])
    model = saved_candidate(Saved(path=str(options["model"]))) if given is None else Owned.of(given)
    case = _Case.of(options)
    study = as_study(_study_name(out), model, case.data, case.question)
    placed: Placed = {**HERE, "workers": None if len(study.threats) > 1 else 1}
    return computed(study, out, options["data"], options["device"], placed, quiet=as_json).failed


def _study_name(out: Path) -> str:
    """The name of a directory as that of a study."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in out.resolve().name)
    return kept.strip("-_")[:64] or "model"


def _shown(out: Path, as_json: bool, data: Path | None) -> None:
    """The numbers and the report of a directory, or the numbers as JSON."""
    from spikeproof.experiments.read.results import records

    if as_json:
        written_report(out)
        click.echo(encoded(records(out)), nl=False)
        return
    print_report(out, anew=False, data=data)


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
        plan, name = read_plan(directory), device_named(how.device)
        batch = plan["spec"].get("batch_size", 128)
        bench = Bench(directory, how.data, name, batch, ("spikeproof", *sys.argv[1:]), how.trusted)
        executor = executor_of(how.workers, name, len(plan["cells"]))

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
            click.echo(f"report: {written_report(directory)}")
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


def _given(path: Path, weights: Path | None) -> Given | None:
    """The program that makes the model which the command line names; None for a saved model.

    Raises:
        InputError: it names neither.
    """
    from spikeproof.catalogue.given import Given, is_address

    if is_address(str(path)):
        return Given(str(path), None if weights is None else str(weights))
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
            f"Name one of its models, as {command_line('list', 'models', path)} does.",
        )
    return None


def _question(**asked: Unpack[Asked]) -> tuple[Model, Dataset, Question, str]:
    from spikeproof.catalogue.given import made
    from spikeproof.catalogue.saved import load

    given = _given(asked["model"], asked["weights"])
    model = load(asked["model"]) if given is None else made(given)  # what is wrong with it is said first
    case = _Case.of(asked)
    return model, noted(case.data.load(asked["data"])), case.question, device_named(asked["device"])

"""What the arguments of commands mean, and how a command ends where the user can do something about it."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import click

from spikeproof.errors import InputError, SpikeproofError, out_of_memory

if TYPE_CHECKING:
    from spikeproof.datasets import Dataset
    from spikeproof.experiments.run.executors import Executor

__all__ = [
    "AS_JSON",
    "DIRECTORY",
    "PATH",
    "TEXT",
    "command_line",
    "device_named",
    "encoded",
    "executor_of",
    "guarded",
    "missing",
    "noted",
    "printable_text",
    "worker_count",
]

P = ParamSpec("P")


def command_line(verb: str, *words: str | Path, **options: str | Path | Sequence[str] | None) -> str:
    """A command of ours that a shell reads as it was meant, between backticks for a sentence.

    Args:
        verb: the command.
        words: its arguments and its options without a value.
        options: options with a value; those without one are left out, those with several are repeated.

    Example:
        >>> command_line("audit", Path("my runs"), "--verdicts", make=["net.py:f"], data=None)
        "`spikeproof audit 'my runs' --verdicts --make net.py:f`"
    """
    said = ["spikeproof", verb, *map(_word, words)]
    for name, value in options.items():
        several = [str(value)] if isinstance(value, str | Path) else value or ()
        said += [part for each in several for part in (f"--{name}", each)]
    return f"`{printable_text(shlex.join(said))}`"


def _word(word: str | Path) -> str:
    """A word of a command; a path that begins like an option gets its folder in front."""
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Print errors that the user can mend as one message and exit with status 2, without a traceback."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except SpikeproofError as error:
            click.echo(f"spikeproof: {printable_text(str(error))}", err=True)
            sys.exit(2)
        except ImportError as error:
            if (error.name or "").partition(".")[0] == "spikeproof":
                raise
            click.echo(f"spikeproof: {missing(error)}", err=True)
            sys.exit(2)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            words = printable_text(" ".join(str(error).split())[:200]) or type(error).__name__
            click.echo(
                f"spikeproof: memory does not suffice: {words}. Free some, or give `evaluate` and `audit` a "
                "directory with --out: there what does not fit is computed in smaller batches.",
                err=True,
            )
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
    "ray": "ray",
    "submitit": "slurm",
    "tensorboard": "tensorboard",
    "mlflow": "mlflow",
}
"""Package -> the extra that it belongs to, where that is not `study`."""


def printable_text(text: str) -> str:
    """Text whose control characters cannot act on a terminal; its lines stay."""
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


TEXT, PATH = Typed(), Typed(path=True)

DIRECTORY = click.argument("directory", type=PATH, metavar="DIR")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def noted(data: Dataset) -> Dataset:
    """The data set, once what has to be said of it is on the terminal."""
    for note in data.notes:
        click.echo(f"data: {note}", err=True)
    return data


def device_named(name: str | None) -> str:
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise InputError("Expected a device of this machine", f"{name!r} ({reason})", "Try cpu.") from error
    return name


def worker_count(device: str) -> int:
    """The number of workers where none is named: one per core, or one on a GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if device.startswith("cuda") else cores


def executor_of(workers: int | None, device: str, tasks: int) -> Executor:
    from spikeproof.experiments.run.executors import Processes, Serial

    workers = min(workers or worker_count(device), tasks)
    return Serial() if workers <= 1 else Processes(workers)


def encoded(data: object) -> str:
    """JSON; a number that is not finite becomes null."""
    from spikeproof.experiments.run.store import as_json

    return as_json(data).decode()

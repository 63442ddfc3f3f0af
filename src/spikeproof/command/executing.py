"""Where the cells of a study are computed: options of `run` and `work`, and the command `work` itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from spikeproof.command.arguments import DIRECTORY, PATH, TEXT, device_named, executor_of, guarded
from spikeproof.errors import InputError

if TYPE_CHECKING:
    from spikeproof.experiments.run.executors import Executor

__all__ = ["HERE", "Placed", "Workplace", "placed", "work"]


class Placed(TypedDict):
    """The options that say where cells are computed, as click hands them over."""

    executor: str | None
    workers: int | None
    ray_address: str | None
    gpus_per_worker: float
    slurm: tuple[str, ...]


HERE: Placed = {
    "executor": None,
    "workers": None,
    "ray_address": None,
    "gpus_per_worker": 0.0,
    "slurm": (),
}
"""The options where none is given: this machine."""


@dataclass(frozen=True)
class Workplace:
    """Where cells are computed, as the command line says it.

    Args:
        placed: the options.
        device: of the workers, such as `cpu`.
        tasks: number of cells.
    """

    placed: Placed
    device: str
    tasks: int

    def executor(self) -> Executor:
        """The executor that was asked for; without a name `serial` for one worker, else `processes`.

        Raises:
            InputError: an option belongs to another executor, or has no such value.
        """
        name = self.placed["executor"]
        for option, given, of in (
            ("--ray-address", self.placed["ray_address"], RAY),
            ("--gpus-per-worker", self.placed["gpus_per_worker"], RAY),
            ("--slurm", self.placed["slurm"], SLURM),
        ):
            if given and name != of:
                raise InputError(f"{option} with --executor {of}", f"--executor {name}", "Leave it out.")
        if name is None:
            return executor_of(self.placed["workers"], self.device, self.tasks)
        return MAKERS[name](self)

    def serial(self) -> Executor:
        """One worker in this process."""
        from spikeproof.experiments.run.executors import Serial

        if (workers := self.placed["workers"] or 1) > 1:
            raise InputError("One worker with --executor serial", str(workers), "Try --executor processes.")
        return Serial()

    def processes(self) -> Executor:
        """Fresh processes of this machine, even if it is one."""
        from spikeproof.experiments.run.executors import Processes, Serial

        found = executor_of(self.placed["workers"], self.device, self.tasks)
        return Processes(1) if isinstance(found, Serial) else found

    def ray(self) -> Executor:
        """Actors of Ray."""
        from spikeproof.experiments.run.executors.on_ray import Ray

        gpus = self.placed["gpus_per_worker"]
        if not gpus and self.device.startswith("cuda"):
            gpus = 1.0
        return Ray(self.placed["workers"], self.placed["ray_address"], gpus)

    def slurm(self) -> Executor:
        """Elements of an array job of Slurm."""
        from spikeproof.experiments.run.executors.on_slurm import Slurm

        options = dict(_pair(each) for each in self.placed["slurm"])
        cluster = str(options.pop("cluster", "slurm"))
        if (workers := self.placed["workers"]) is None:
            raise InputError(
                "--workers with --executor slurm", "none", "Try --workers 8, an array of 8 jobs."
            )
        return Slurm(workers, options, cluster)


SERIAL, PROCESSES, RAY, SLURM = "serial", "processes", "ray", "slurm"

MAKERS: dict[str, Callable[[Workplace], Executor]] = {
    SERIAL: Workplace.serial,
    PROCESSES: Workplace.processes,
    RAY: Workplace.ray,
    SLURM: Workplace.slurm,
}
"""Name of an executor -> how it is made."""

OPTIONS: Sequence[Callable[[Callable[..., None]], Callable[..., None]]] = (
    click.option(
        "--executor",
        type=click.Choice(tuple(MAKERS)),
        help="Where cells are computed.  [default: serial for one worker, else processes]",
    ),
    click.option(
        "--workers",
        type=click.IntRange(1, 1024),
        help="Number of processes, actors or jobs.  [default: one per core, or as Ray has room]",
    ),
    click.option("--ray-address", type=TEXT, help="Cluster of Ray, such as auto.  [default: this machine]"),
    click.option(
        "--gpus-per-worker", type=click.FloatRange(0), default=0.0, help="Share of a GPU for a worker of Ray."
    ),
    click.option(
        "--slurm",
        type=TEXT,
        multiple=True,
        metavar="KEY=VALUE",
        help="Parameter of submitit, such as timeout_min=240 or slurm_partition=NAME; repeat the option.",
    ),
)


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """The options that say where cells are computed."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def _pair(text: str) -> tuple[str, object]:
    """A parameter and its value: a number where it is one.

    Example:
        >>> _pair("timeout_min=90"), _pair("slurm_partition=long")
        (('timeout_min', 90), ('slurm_partition', 'long'))
    """
    key, found, value = text.partition("=")
    if not (found and key.isidentifier()):
        raise InputError("--slurm KEY=VALUE", repr(text)[:80], "Try --slurm timeout_min=240.")
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value


@click.command()
@DIRECTORY
@click.option("--data", type=PATH, help="Directory that holds data sets.")
@click.option("--device", type=TEXT, help="Such as cpu or cuda.  [default: cuda if there is one, else cpu]")
@click.option(
    "--make",
    type=TEXT,
    multiple=True,
    metavar="FILE.py:FUNCTION",
    help="A program of yours that makes a model of the study, and that may be run.",
)
@placed
@guarded
def work(
    directory: Path,
    data: Path | None,
    device: str | None,
    make: tuple[str, ...],
    **options: Unpack[Placed],
) -> None:
    """Help to compute the study in DIR, which another machine may have begun.

    Several of these commands and of `spikeproof run` may work on one directory that their machines share:
    each cell is computed by one of them. No report is written; `spikeproof report DIR` does that.
    """
    from spikeproof.command import terminal
    from spikeproof.experiments.run.compute import Bench
    from spikeproof.experiments.run.driver import cells_of_plan, compute, read_plan

    cells, name = cells_of_plan(directory), device_named(device)
    batch = read_plan(directory)["spec"].get("batch_size", 128)
    bench = Bench(directory, data, name, batch, ("spikeproof", *sys.argv[1:]), frozenset(make))
    executor = Workplace(options, name, len(cells)).executor()
    with terminal.listener() as listener:
        summary = compute(cells, bench, executor, directory, listener)
    terminal.print_summary(summary)
    if summary.failed:
        sys.exit(1)

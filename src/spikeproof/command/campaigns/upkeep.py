"""Commands that look after an output directory: status, retry, prune and import."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import click

from spikeproof.command.arguments import AS_JSON, DIRECTORY, PATH, TEXT, command_line, encoded, guarded, noted

if TYPE_CHECKING:
    from spikeproof.experiments.run.queue.outlook import Outlook
    from spikeproof.experiments.run.queue.survey import Survey

__all__ = ["import_", "print_outlook", "prune", "retry", "status"]

MOST_VERIFIED = 1000
"""Up to this number of cells `status` verifies every one unless it is told otherwise."""


class Running(TypedDict):
    """A cell that a worker computes now."""

    address: str
    kind: str
    machine: str | None
    pid: int | None
    done: int
    total: int
    note: str


class Failed(TypedDict):
    """A cell that failed; one that is set `aside` is tried again only by `retry` or a new run."""

    address: str
    kind: str
    error: str
    tries: int
    aside: bool


class State(TypedDict):
    """The state of a study as `status --json` prints it; `damaged` is null where nothing was verified."""

    study: str
    kinds: Mapping[str, Mapping[str, int]]
    running: list[Running]
    failed: list[Failed]
    damaged: list[str] | None


COUNTED = ("total", "done", "running", "failed", "aside", "waiting")
"""The numbers of cells of each kind; every cell of `total` is in exactly one of the others."""

SAID = {"running": "running", "failed": "failed", "aside": "set aside", "waiting": "waiting"}
"""Numbers of cells that are said where there are any -> the words for them."""


def _damaged(directory: Path) -> list[str]:
    """What is wrong with cells that cannot be trusted; every cell is read, by what is heavy to import."""
    from spikeproof.experiments.run.driver import status as verified

    return list(verified(directory).damaged)


def _state(directory: Path, found: Survey, verify: bool) -> State:
    counts = (
        found.total,
        found.count(found.finished),
        found.count(found.held),
        found.count(found.retried),
        found.count(found.aside),
        found.count(found.waiting),
    )
    return {
        "study": found.study,
        "kinds": {
            kind: {name: count.get(kind, 0) for name, count in zip(COUNTED, counts, strict=True)}
            for kind in found.total
        },
        "running": [
            {
                "address": address,
                "kind": found.kinds[address],
                "machine": holder.machine if holder else None,
                "pid": holder.pid if holder else None,
                "done": holder.progress.done if holder else 0,
                "total": holder.progress.total if holder else 0,
                "note": holder.progress.note if holder else "",
            }
            for address, holder in found.held.items()
        ],
        "failed": [
            {
                "address": address,
                "kind": found.kinds[address],
                "error": failure.error,
                "tries": failure.tries,
                "aside": failure.aside,
            }
            for address, failure in (*found.retried.items(), *found.aside.items())
        ],
        "damaged": _damaged(directory) if verify else None,
    }


def _print_state(state: State) -> None:
    click.echo(f"study {state['study']}")
    for kind, counts in state["kinds"].items():
        words = [f"{counts[name]} {said}" for name, said in SAID.items() if counts[name]]
        rest = f" ({', '.join(words)})" if words else ""
        click.echo(f"  {kind:8} {counts['done']} of {counts['total']}{rest}")
    if state["damaged"]:
        click.echo("damaged, will be computed again:")
        for text in state["damaged"]:
            click.echo(f"  {text}")
    for running in state["running"]:
        place = f"{running['machine']} {running['pid']}" if running["machine"] else "a worker"
        part = f", {running['done']} of {running['total']}" if running["total"] else ""
        click.echo(f"running: {running['kind']} {running['address'][:8]} on {place}{part} {running['note']}")
    for failed in state["failed"]:
        again = "set aside" if failed["aside"] else "will be tried again"
        click.echo(f"failed, {again}: {failed['kind']} {failed['address']}: {failed['error']}")
    if any(failed["aside"] for failed in state["failed"]):
        click.echo("`spikeproof retry DIR`, or a new run, tries again what was set aside.")


@click.command()
@DIRECTORY
@AS_JSON
@click.option("--watch", is_flag=True, help="Go on until every cell is finished or set aside.")
@click.option(
    "--every", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="Seconds between looks."
)
@click.option(
    "--verify/--quick",
    default=None,
    help=f"Verify every finished cell, or none.  [default: verify up to {MOST_VERIFIED} cells]",
)
@guarded
def status(directory: Path, as_json: bool, watch: bool, every: float, verify: bool | None) -> None:
    """Show how many cells of the study in DIR are finished, running, failed or waiting, kind by kind.

    With --watch the state is shown whenever it changes. A worker of another machine that was lost is noticed
    only then, as its lease has to be watched for a minute. With --json the state is an object, and with both
    one object on each line.
    """
    from spikeproof.experiments.run.queue.leases import Leases
    from spikeproof.experiments.run.queue.survey import survey

    leases, before = Leases(directory, ""), None
    while True:
        found = survey(directory, leases)
        checked = verify if verify is not None else not watch and len(found.kinds) <= MOST_VERIFIED
        state = _state(directory, found, checked)
        if state != before:
            if as_json:
                click.echo(json.dumps(state) if watch else encoded(state), nl=watch)
            else:
                if watch and sys.stdout.isatty():
                    click.clear()
                _print_state(state)
        before = state
        if not watch or not (found.held or found.retried or found.waiting):
            return
        time.sleep(every)


@click.command()
@DIRECTORY
@click.argument("addresses", nargs=-1, type=TEXT, metavar="[CELL]...")
@guarded
def retry(directory: Path, addresses: tuple[str, ...]) -> None:
    """Let failed cells of the study in DIR be tried again, all of them or only the named ones.

    What is noted about their failures is removed, also for runs that are under way. `spikeproof run` and
    `spikeproof work` compute them.
    """
    from spikeproof.errors import InputError
    from spikeproof.experiments.run.plans import models_of, read_plan
    from spikeproof.experiments.run.queue.survey import retry as forget
    from spikeproof.experiments.run.queue.survey import survey
    from spikeproof.experiments.study.owned import named_programs

    found = survey(directory)
    failed = {**found.aside, **found.retried}
    wanted = list(addresses) or [*failed]
    for address in wanted:
        if address not in failed:
            raise InputError(
                "Expected the address of a failed cell",
                repr(address)[:80],
                f"{command_line('status', directory)} names them.",
            )
    again = forget(directory, wanted)
    for address in again:
        click.echo(f"{found.kinds[address]} {address}: {failed[address].error}")
    make = named_programs(models_of(read_plan(directory)["plan"]).values())
    again_by = command_line("work", directory, make=make)
    click.echo(f"{len(again)} failed cells can be tried again; {again_by} does that.")


@click.command()
@DIRECTORY
@click.option("--yes", is_flag=True, help="Remove what is named; without it nothing is removed.")
@click.option(
    "--keep",
    type=TEXT,
    multiple=True,
    metavar="STUDY",
    help="A study whose cells stay as well, by name or file; may be given several times.",
)
@click.option("--data", type=PATH, help="Directory that holds data sets, for --keep.")
@guarded
def prune(directory: Path, yes: bool, keep: tuple[str, ...], data: Path | None) -> None:
    """Name what DIR holds that its study does not ask for, and remove it with --yes.

    That are cells of no plan, such as those of the study before it was changed, failures and states of cells
    that are finished or not asked for, and leases of lost workers. Cells that an audit added stay, and so
    does whatever a worker computes now. Two studies that share one directory need --keep for the other one.
    """
    from spikeproof.experiments.run.queue.survey import prune as found_in
    from spikeproof.experiments.study.cells import cells_of
    from spikeproof.experiments.study.files.reader import load

    kept = set[str]()
    for name in keep:
        study = load(name)
        kept |= {cell.address for cell in cells_of(study, noted(study.data.load(data)))}
    found = found_in(directory, remove=yes, keep=kept)
    for words, addresses in (
        ("cell of no plan", found.cells),
        ("failure that is past", found.failures),
        ("state that is past", found.checkpoints),
        ("lease of a lost worker", found.leases),
    ):
        for address in addresses:
            click.echo(f"{words}: {address}")
    count = len(found.cells) + len(found.failures) + len(found.checkpoints) + len(found.leases)
    what = f"{count} things, {_size(found.size)}"
    if not count:
        click.echo("Nothing to remove.")
    elif yes:
        click.echo(f"removed {what}")
    else:
        click.echo(f"{what}, would be removed; --yes removes them")


def _size(count: int) -> str:
    """A number of bytes in words."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


@click.command("import")
@DIRECTORY
@click.argument("other", type=PATH, metavar="OTHER")
@AS_JSON
@guarded
def import_(directory: Path, other: Path, as_json: bool) -> None:
    """Copy into DIR the cells of its study that OTHER, a directory of another machine, has.

    Every file is compared with its checksum, every cell with the study, and headline numbers with the rows
    for single examples. What DIR has is never overwritten:
    where both have a cell with different outcomes, that of DIR stays and the exit status is 1, and so it is
    where a cell of OTHER is damaged. A directory without a study takes over that of OTHER.
    """
    from spikeproof.experiments.run.queue.imports import import_cells

    found = import_cells(directory, other)
    groups: Sequence[tuple[str, tuple[str, ...]]] = (
        ("differs, ours was kept", found.conflicts),
        ("damaged, not copied", found.damaged),
    )
    if as_json:
        click.echo(encoded({name: getattr(found, name) for name in found.__dataclass_fields__}), nl=False)
    else:
        for words, lines in groups:
            for line in lines:
                click.echo(f"{words}: {line}")
        bad = f"{len(found.conflicts)} differ, {len(found.damaged)} are damaged"
        click.echo(
            f"{len(found.copied)} cells copied, {len(found.known)} were there, {bad}, "
            f"{len(found.unasked)} are not of this study"
        )
    if found.conflicts or found.damaged:
        sys.exit(1)


def print_outlook(name: str, found: Outlook, workers: int, stated: Callable[[], str | None]) -> None:
    """What `run --dry-run` says.

    Args:
        name: of the study.
        found: what a run would do.
        workers: number of workers that would share it.
        stated: gives what the study itself says about its duration, if anything.
    """
    left = found.cells - found.done
    click.echo(f"study {name}: {found.cells} cells, {found.done} done, {left} to compute")
    for kind, total in found.total.items():
        failed = found.failed.get(kind, 0)
        again = f" ({failed} failed before and would be tried again)" if failed else ""
        click.echo(f"  {kind:8} {found.finished.get(kind, 0)} of {total}{again}")
    if not left:
        pass
    elif found.seconds is not None:
        share = found.seconds / min(workers, left)
        crew = "one worker" if workers == 1 else f"{workers} workers"
        click.echo(f"about {_duration(share)} with {crew}, judged by the cells that are done")
        if found.guessed:
            guessed = ", ".join(f"{count} {kind}" for kind, count in found.guessed.items())
            click.echo(
                f"not known yet: {guessed} cells are of sorts of which none is done, and were counted like "
                "an average cell that is; the time may be quite another"
            )
    else:
        click.echo(
            f"no cell is done yet to judge the time by, so how long these {left} cells take is not known: it "
            "depends on the models, the attacks and this machine"
        )
        if words := stated():
            click.echo(f"the study says: {words}")
        click.echo(
            "To find out, run it with fewer examples (such as examples=10) into another directory, or for a "
            "while: as soon as cells of every kind are done, --dry-run gives a forecast"
        )
    click.echo("nothing was computed and nothing written")


def _duration(seconds: float) -> str:
    """A duration in words.

    Example:
        >>> _duration(42.0), _duration(600.0), _duration(10_000.0), _duration(400_000.0)
        ('42 s', '10 min', '2 h 47 min', '4 d 15 h')
    """
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"

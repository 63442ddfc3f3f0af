"""The state of a campaign: which cells are finished, held by whom, failed with what, or still to do.

A survey reads the names of three folders, the leases and the failures. It opens no finished cell, so it is as
quick for a hundred thousand cells as for ten; `driver.status` verifies them.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from spikeproof.experiments.run.queue.failures import Failure, Failures
from spikeproof.experiments.run.queue.leases import Holder, Leases
from spikeproof.experiments.run.queue.listing import Listed, indexed, read_plan, write_index
from spikeproof.experiments.run.shapes import is_address
from spikeproof.experiments.run.store import Store, writing

__all__ = ["CHECKPOINTS", "Pruned", "Survey", "cell_of_state", "prune", "retry", "survey"]

CHECKPOINTS = "checkpoints"
"""Folder of an output directory with the states of unfinished cells."""


@dataclass(frozen=True)
class Survey:
    """The state of the cells of a study; every cell is in exactly one of the last five.

    Args:
        study: its name.
        kinds: address of every cell of the study -> its kind, in the order of the plan.
        finished: addresses of cells that are stored; they are not verified here.
        held: address -> the worker that computes the cell now; None where its lease cannot be read.
        retried: address -> what went wrong with a cell that will be tried again.
        aside: address -> what went wrong with a cell that is tried again only by `retry` or a new run.
        waiting: addresses of cells that nobody has begun.
    """

    study: str
    kinds: Mapping[str, str]
    finished: frozenset[str]
    held: Mapping[str, Holder | None]
    retried: Mapping[str, Failure]
    aside: Mapping[str, Failure]
    waiting: tuple[str, ...]

    @cached_property
    def total(self) -> Mapping[str, int]:
        """Number of cells of each kind."""
        return Counter(self.kinds.values())

    def count(self, addresses: Iterable[str]) -> Mapping[str, int]:
        """Number of cells of each kind among some of them."""
        return Counter(self.kinds[address] for address in addresses)


def survey(directory: Path, leases: Leases | None = None) -> Survey:
    """The state of the study in an output directory.

    A lease of another machine is known to be stale only after it has been watched for a minute. Whoever looks
    repeatedly passes the same `leases`.

    Args:
        directory: the output directory.
        leases: of that directory, as they were observed before; None for a single look.

    Raises:
        InputError: the directory holds no study, or its plan is damaged.
    """
    study, kinds = _listed(directory)
    held = (leases or Leases(directory, "")).observe()
    failures = Failures(directory)
    failed = {
        address: failure
        for address in sorted(failures.addresses() & kinds.keys())
        if (failure := failures.read(address)) is not None
    }
    finished = Store(directory).addresses() & kinds.keys()  # last, so that what has just ended is seen
    held = {a: holder for a, holder in held.items() if a in kinds and a not in finished}
    failed = {a: failure for a, failure in failed.items() if a not in finished and a not in held}
    return Survey(
        study,
        kinds,
        frozenset(finished),
        held,
        {address: failure for address, failure in failed.items() if not failure.aside},
        {address: failure for address, failure in failed.items() if failure.aside},
        tuple(a for a in kinds if a not in finished and a not in held and a not in failed),
    )


def _listed(directory: Path) -> Listed:
    """The cells of the study, from the index; without one from the plan, of which an index is then made."""
    if (found := indexed(directory)) is not None:
        return found
    plan = read_plan(directory)
    cells = (*plan["plan"], *plan["repairs"])
    found = Listed(plan["study"], {cell["address"]: cell["kind"] for cell in cells})
    write_index(directory, found)
    return found


def retry(directory: Path, addresses: Iterable[str] | None = None) -> list[str]:
    """Let failed cells be tried again, by runs that are under way as well; the addresses of these cells.

    Args:
        directory: the output directory.
        addresses: of the cells; None for every cell of the study that is set aside.

    Raises:
        InputError: the directory holds no study, or cannot be written.
    """
    known = survey(directory).aside if addresses is None else Failures(directory).addresses()
    wanted = known if addresses is None else [address for address in addresses if address in known]
    return [address for address in wanted if Failures(directory).forget(address)]


@dataclass(frozen=True)
class Pruned:
    """What an output directory holds that its study does not need.

    Args:
        cells: addresses of finished cells of no plan, such as those of a study that was changed.
        failures: addresses of failures of finished cells or of no plan.
        checkpoints: names of states of finished cells or of no plan.
        leases: addresses of stale leases.
        size: bytes of all of these.
    """

    cells: tuple[str, ...]
    failures: tuple[str, ...]
    checkpoints: tuple[str, ...]
    leases: tuple[str, ...]
    size: int


def prune(directory: Path, *, remove: bool = False, keep: Collection[str] = ()) -> Pruned:
    """Find, and remove if asked, what the study in an output directory does not need.

    Cells that somebody computes now, and cells that the study or an audit planned, always stay.

    Args:
        directory: the output directory.
        remove: whether to remove what was found.
        keep: addresses of cells that other studies need.

    Raises:
        InputError: the directory holds no study, or cannot be written.
    """
    found, store = survey(directory), Store(directory)
    leases = Leases(directory, "")
    live = leases.observe()
    there = {address for address in store.addresses() if is_address(address)}
    spare = there - found.kinds.keys() - {*keep}
    unknown = sorted(address for address in spare if address not in live)
    failures = Failures(directory)
    failed = _unneeded(failures.addresses(), found, live, {*keep})
    states = _unneeded({*_names(directory / CHECKPOINTS)}, found, live, {*keep})
    stale = tuple(sorted(set(_names(leases.folder)) - live.keys()))
    paths = [
        *(store.path(address) for address in unknown),
        *(failures.path(address) for address in failed),
        *(directory / CHECKPOINTS / address for address in states),
    ]
    size = sum(map(_size, (*paths, *(leases.folder / address for address in stale))))
    pruned = Pruned(tuple(unknown), failed, states, stale, size)
    if remove:
        with writing(directory):
            for path in paths:
                _remove(path)
            for address in stale:  # unless a worker has taken the cell over since
                leases.clear(address)
    return pruned


def _unneeded(
    names: Iterable[str], found: Survey, live: Mapping[str, Holder | None], keep: Collection[str]
) -> tuple[str, ...]:
    """The names that belong to no cell which is under way, remains to be computed, or is kept."""
    wanted = {*(found.kinds.keys() - found.finished), *live, *keep}
    return tuple(sorted(name for name in names if cell_of_state(name) not in wanted))


def cell_of_state(name: str) -> str:
    """The address of the cell whose state a file holds; a cell may have several, each with its own ending.

    Args:
        name: of the file.

    Example:
        >>> cell_of_state("ab12"), cell_of_state("ab12-parts")
        ('ab12', 'ab12')
    """
    return name.partition("-")[0]


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if is_address(name)]  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return []


def _size(path: Path) -> int:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            return sum(_size(each) for each in path.iterdir())
        return path.lstat().st_size
    return 0


def _remove(path: Path) -> None:
    """Remove a file, or a directory in one step as seen from elsewhere."""
    if path.is_dir() and not path.is_symlink():
        grave = path.with_name(f".tmp-{uuid.uuid4().hex}")
        with suppress(FileNotFoundError):  # somebody else was faster
            path.rename(grave)
            shutil.rmtree(grave)
    else:
        path.unlink(missing_ok=True)

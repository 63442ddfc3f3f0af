"""What went wrong with cells: one file per cell, with the traceback and how often it was tried."""

from __future__ import annotations

import errno
import os
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from spikeproof.errors import InputError, SpikeproofError, of_the_machine
from spikeproof.experiments.run.shapes import FailureDocument, is_address
from spikeproof.experiments.run.store import as_json, write_atomically, writing
from spikeproof.plainfiles import printable, read_json

if TYPE_CHECKING:
    from spikeproof.experiments.study.cells import CellRecord

__all__ = ["MOST_LOSSES", "MOST_TRIES", "Failure", "Failures", "transient"]

MOST_TRIES = 3
"""How often a cell is tried whose errors may pass by themselves."""

MOST_LOSSES = 6
"""How many workers may be lost while they compute one cell."""

FIRST_PAUSE = 1.0
"""Seconds before a cell is tried again; each further pause is four times as long."""

FOLDER = "failures"
PASSING = (OSError, MemoryError, EOFError)
LASTING = (SpikeproofError, FileNotFoundError, NotADirectoryError, IsADirectoryError)
PASSING_WORDS = ("connection",)


@dataclass(frozen=True)
class Failure:
    """What went wrong with one cell.

    Args:
        error: one line for the reader.
        trace: the traceback, empty where there is none.
        tries: how often the cell was tried and failed.
        losses: how many workers were lost while they computed it.
        aside: whether it is not tried again until somebody asks for it.
    """

    error: str
    trace: str = ""
    tries: int = 1
    losses: int = 0
    aside: bool = True

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """The failure that describes an exception."""
        words = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        trace = "".join(traceback.format_exception(error))
        return cls(printable(f"{type(error).__name__}: {words}"), trace, aside=not transient(error))

    @property
    def pause(self) -> float:
        """Seconds to wait before the cell is tried again."""
        return float(FIRST_PAUSE * 4 ** max(self.tries - 1, 0))

    def after(self, before: Failure | None) -> Failure:
        """This failure, counted together with those before; set aside where it is one too many."""
        tries = self.tries + (before.tries if before else 0)
        losses = self.losses + (before.losses if before else 0)
        spent = tries >= MOST_TRIES or losses >= MOST_LOSSES
        return replace(self, tries=tries, losses=losses, aside=self.aside or spent)


def transient(error: BaseException) -> bool:
    """Whether an error may pass by itself, so that the cell is worth a second try.

    A message about a file is judged by what the operating system said.

    Example:
        >>> transient(ConnectionResetError()), transient(ValueError("epsilon"))
        (True, False)
    """
    if isinstance(error, InputError) and isinstance(error.__cause__, OSError):
        return transient(error.__cause__)
    if isinstance(error, LASTING):
        return False
    words = str(error).lower()
    passing = isinstance(error, RuntimeError) and any(word in words for word in PASSING_WORDS)
    return passing or isinstance(error, PASSING) or of_the_machine(error)


class Failures:
    """The failures of the cells of one output directory.

    Args:
        root: the output directory.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     failures, cell = Failures(Path(folder)), {"kind": "clean", "spec": {}, "address": "ab12"}
        ...     for _ in range(3):
        ...         noted = failures.note(cell, Failure("OSError: busy", aside=False))
        ...     noted.tries, failures.read("ab12").aside, failures.forget("ab12"), failures.read("ab12")
        (3, True, True, None)
    """

    def __init__(self, root: Path) -> None:
        self.root, self.folder = root, root / FOLDER

    def path(self, address: str) -> Path:
        """The file of a cell, whether it exists or not."""
        return self.folder / f"{address}.json"

    def addresses(self) -> set[str]:
        """The cells that failed, whether they are set aside or not."""
        return set(self.stamps())

    def stamps(self) -> dict[str, tuple[int, int]]:
        """For every cell that failed, what changes whenever its file does."""
        try:
            with os.scandir(self.folder) as entries:
                found = [each for each in entries if is_address(each.name.removesuffix(".json"))]
                return {e.name.removesuffix(".json"): (e.inode(), e.stat().st_mtime_ns) for e in found}
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                raise
            return {}

    def read(self, address: str) -> Failure | None:
        """What went wrong with a cell; None where nothing did."""
        path = self.path(address)
        if not path.exists():
            return None
        try:
            noted: FailureDocument = read_json(path, FailureDocument)
        except InputError:
            return Failure(f"see {path}") if path.exists() else None
        return Failure(
            noted["error"],
            noted.get("trace", ""),
            noted.get("tries", 1),
            noted.get("losses", 0),
            noted.get("aside", True),
        )

    def note(self, cell: CellRecord, failure: Failure) -> Failure:
        """Add a failure to those of its cell; the sum of them.

        Raises:
            InputError: the output directory cannot be written.
        """
        counted = failure.after(self.read(cell["address"]))
        record = {
            "kind": cell["kind"],
            "spec": cell["spec"],
            "error": counted.error,
            "trace": counted.trace,
            "tries": counted.tries,
            "losses": counted.losses,
            "aside": counted.aside,
            "noted": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        }
        with writing(self.root):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path(cell["address"]), as_json(record))
        return counted

    def forget(self, address: str) -> bool:
        """Remove what is noted of a cell, so that it is tried again; whether there was anything.

        Raises:
            InputError: the output directory cannot be written.
        """
        with writing(self.root):
            try:
                self.path(address).unlink()
            except FileNotFoundError:
                return False
        return True

"""One directory per finished cell: written once, atomically, and verified whenever it is read.

A cell's directory appears by a single rename, complete with a manifest of SHA-256 digests, so a process that
is killed at any moment leaves either the whole cell or nothing. Several processes may write the same cell:
the first rename wins and the others keep it. Whatever does not match its manifest is a `DamagedError`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from spikeproof.errors import DamagedError, InputError
from spikeproof.experiments.run.shapes import FORMAT, Manifest, check_cell, check_format, check_table
from spikeproof.plainfiles import LARGEST_DOCUMENT, bytes_of, from_json, read_json, shaped, synchronise

if TYPE_CHECKING:
    import pyarrow as pa

    from spikeproof.experiments.study.cells import CellRecord

__all__ = ["TABLE", "Metrics", "Store", "Stored", "write_atomically"]

Metrics = Mapping[str, Any]
"""The numbers of a cell as JSON; which there are depends on its kind and on the version that wrote it."""

MANIFEST = "MANIFEST.json"
DOCUMENTS = ("cell.json", "metrics.json")
TABLE = "examples.parquet"
"""The file of a cell with one row per example."""

STALE_SECONDS = 3600
UNSAFE = (
    "lies on a file system that cannot synchronise directories: what was written last may be lost when the "
    "machine loses power, and is then computed again"
)

FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EMFILE, errno.ENFILE}
"""What is wrong with a disk or a process, and not with the file system's way to synchronise a directory."""

LARGEST_FILE = 16 * 1024**3
"""Most bytes of one file of a cell."""

SWEPT = ("", "cells", "checkpoints", "extracts", "failures", "figures", "leases")
"""Folders of an output directory that may hold temporary files of killed processes."""


@dataclass(frozen=True)
class Stored:
    """A cell in the store; every file was verified when this object was created.

    Args:
        path: its directory.
        cell: kind, spec and address.
        metrics: its numbers.
        files: the names of its files.
        format: of the output directory, when the cell was written.
        columns: those of its table, where they are known; otherwise they are read from the table.
    """

    path: Path
    cell: CellRecord
    metrics: Metrics
    files: frozenset[str] = frozenset()
    format: int = FORMAT
    columns: Mapping[str, NDArray[np.float64]] | None = None

    @property
    def address(self) -> str:
        """The name of the cell's directory."""
        return self.path.name


class Store:
    """The finished cells of one output directory.

    Args:
        root: the output directory; made when it is first written to.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     store = Store(Path(folder))
        ...     cell = {"kind": "clean", "spec": {}, "address": "ab12"}
        ...     path = store.put("ab12", {"cell.json": as_json(cell), "metrics.json": as_json({"n": 3})})
        ...     store.read("ab12").metrics
        {'n': 3}
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cells = root / "cells"
        """The directory of the cells."""

    def path(self, address: str) -> Path:
        """The directory of a cell, whether it exists or not."""
        return self.cells / address

    def prepare(self) -> str | None:
        """Create the output directory and remove the temporary files of killed processes.

        Returns:
            A warning about the file system, or None.

        Raises:
            InputError: it cannot be made or written to.
        """
        with writing(self.root):
            self.cells.mkdir(parents=True, exist_ok=True)
            trial = self.root / f".tmp-{uuid.uuid4().hex}-writable"
            try:
                _write(trial, b"")
                now = trial.stat().st_mtime  # by the clock of the file system, as that of what is swept
            finally:
                with suppress(OSError):
                    trial.unlink(missing_ok=True)
            safe = _sync(self.root)
        for folder in SWEPT:
            _sweep(self.root / folder, now)
        return None if safe else f"{self.root} {UNSAFE}"

    def addresses(self) -> set[str]:
        """The cells that are there, none of which is opened."""
        try:
            with os.scandir(self.cells) as entries:
                return {entry.name for entry in entries if not entry.name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def has(self, address: str) -> bool:
        """Whether a cell is there; a shared file system is asked anew, and not what it answered before."""
        if not hasattr(os, "O_DIRECTORY"):
            return self.path(address).exists()
        try:
            folder = os.open(self.cells, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return self.path(address).exists()
        try:
            os.stat(address, dir_fd=folder)
        except FileNotFoundError:
            return False
        finally:
            os.close(folder)
        return True

    def find(self, address: str) -> Stored | None:
        """The cell, or None where there is none.

        Raises:
            DamagedError: there is one, and it is not what was written.
        """
        return self.read(address) if self.path(address).exists() else None

    def planned(self, record: CellRecord) -> Stored | None:
        """The cell that a plan names, or None where there is none.

        Args:
            record: kind, spec and address, as the plan has them.

        Raises:
            DamagedError, InputError: as `opened` does.
        """
        opened = self.opened(record)
        return None if opened is None else opened[0]

    def opened(self, record: CellRecord) -> tuple[Stored, pa.Table | None] | None:
        """The cell that a plan names with its table, or None where there is none.

        Args:
            record: kind, spec and address, as the plan has them.

        Raises:
            DamagedError: there is one, and it is not what was written, it is another than the plan names, or
                its numbers or its table do not fit its kind.
            InputError: a later version of spikeproof wrote it.
        """
        stored = self.find(record["address"])
        if stored is None:
            return None
        named = from_json(as_json({"kind": record["kind"], "spec": record["spec"]}), "plan")
        if named != {"kind": stored.cell.get("kind"), "spec": stored.cell.get("spec")}:
            raise DamagedError(f"{stored.path} holds another cell than the plan of the study names")
        table = stored.path / TABLE
        try:
            check_cell(stored.cell, str(stored.path), stored.metrics)
            content = bytes_of(table, LARGEST_FILE) if TABLE in stored.files else None
            columns = check_table(content, record["kind"], stored.metrics, str(table))
        except InputError as error:
            raise DamagedError(f"{stored.path} is damaged: {error}") from error
        return stored, columns

    def read(self, address: str) -> Stored:
        """The cell at an address.

        Raises:
            DamagedError: a file is missing, no regular file or no JSON, or its digest differs from
                the manifest.
            InputError: a later version of spikeproof wrote it.
        """
        path = self.path(address)
        try:
            stored = _read(path)
        except InputError as error:
            raise DamagedError(f"{path} is incomplete or damaged: {error}") from error
        check_format(stored.format, str(path / "cell.json"))
        if stored.cell.get("address") != address:
            raise DamagedError(
                f"{path} holds the cell {stored.cell.get('address')!r}, which belongs elsewhere"
            )
        return stored

    def put(self, address: str, files: Mapping[str, bytes]) -> Path:
        """Write a finished cell; one that is already there is kept.

        Raises:
            InputError: the directory cannot be written.
        """
        final = self.path(address)
        staged = self.cells / f".tmp-{uuid.uuid4().hex}"
        digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        with writing(self.root):
            try:
                staged.mkdir(parents=True)
                _write_all(staged, {**files, MANIFEST: as_json(digests)})
                if not _renamed(staged, final):
                    shutil.rmtree(staged)
                _sync(self.cells)
            except BaseException:
                shutil.rmtree(staged, ignore_errors=True)
                raise
        return final

    def discard(self, address: str) -> None:
        """Remove a damaged cell, in one step as seen from elsewhere."""
        grave = self.cells / f".tmp-{uuid.uuid4().hex}"
        with writing(self.root):
            if _renamed(self.path(address), grave):
                shutil.rmtree(grave, ignore_errors=True)


def _read(path: Path) -> Stored:
    """The cell in a directory, every file compared with the manifest.

    Raises:
        InputError: with the file and what is wrong with it.
    """
    manifest = read_json(path / MANIFEST, Manifest)
    documents: dict[str, Any] = {}
    for name, digest in manifest.items():
        content = bytes_of(path / name, LARGEST_DOCUMENT if name.endswith(".json") else LARGEST_FILE)
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(
                f"{path / name}: expected the SHA-256 of the manifest", "another", "Copy the cell again."
            )
        if name in DOCUMENTS:
            documents[name] = from_json(content, str(path / name))
    for name in DOCUMENTS:
        if name not in documents:
            raise InputError(f"{path / MANIFEST}: expected {name!r}", "none", "Copy the cell again.")
    cell = shaped(documents["cell.json"], dict[str, object], str(path / "cell.json"))
    written_as = shaped(cell.pop("format", FORMAT), int, str(path / "cell.json"))
    return Stored(path, cast("CellRecord", cell), documents["metrics.json"], frozenset(manifest), written_as)


def as_json(data: object, indent: int | None = 1) -> bytes:
    """Readable JSON, or one line without `indent`; a number that is not finite becomes null."""
    return (json.dumps(_finite(data), indent=indent, allow_nan=False) + "\n").encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new one, and never a part."""
    staged = path.with_name(f".tmp-{uuid.uuid4().hex}-{path.name}")
    try:
        _write(staged, content)
        staged.replace(path)
        _sync(path.parent)
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write below `root` into an `InputError`."""
    try:
        yield
    except OSError as error:
        raise refused(root, error) from error


def refused(root: Path, reason: OSError) -> InputError:
    """The message about an output directory that the operating system refuses to write."""
    return InputError(
        "The output directory must be one that can be written to",
        f"{root} ({reason.strerror or reason})",
        "Choose another with --out DIR, or make room there.",
    )


def _finite(data: object) -> object:
    match data:
        case str() | int() | None:
            return data
        case float():
            return data if data - data == 0 else None
        case Mapping():
            return {str(key): _finite(value) for key, value in data.items()}
        case list() | tuple():
            return [_finite(value) for value in data]
    return data


def _renamed(source: Path, target: Path) -> bool:
    """Whether the rename happened; False when `target` is taken or another process was faster."""
    try:
        source.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT):
            raise
        return False
    return True


def _sweep(folder: Path, now: float) -> None:
    """Remove old temporary files of killed processes from a folder."""
    for left in folder.glob(".tmp-*"):
        with suppress(OSError):
            if now - left.lstat().st_mtime <= STALE_SECONDS:
                continue
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        synchronise(file.fileno())


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, and through to the disk all at a time, which takes a file system about as long as one."""
    with ExitStack() as opened, ThreadPoolExecutor(len(files) + 1) as threads:
        written = [opened.enter_context((folder / name).open("wb")) for name in files]
        for file, content in zip(written, files.values(), strict=True):
            file.write(content)
            file.flush()
        done = [threads.submit(synchronise, file.fileno()) for file in written]
        done.append(threads.submit(_sync, folder))
        for each in done:
            each.result()


def _sync(directory: Path) -> bool:
    """Whether a directory could be written through to the disk; False where that is not possible here.

    File systems refuse it in many ways, and Windows opens no directory. Only a disk that is full or fails is
    no such refusal.

    Raises:
        OSError: the disk is full or fails, or there is no such directory.
    """
    try:
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            return synchronise(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in FAILING:
            raise
        return False

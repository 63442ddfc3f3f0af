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
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spikeproof.errors import DamagedError, InputError

if TYPE_CHECKING:
    from spikeproof.experiments.study.cells import CellRecord

__all__ = ["Metrics", "Store", "Stored", "write_atomically"]

Metrics = Mapping[str, Any]
"""The numbers of a cell as JSON; which there are depends on its kind and on the version that wrote it."""

MANIFEST = "MANIFEST.json"
STALE_SECONDS = 3600


@dataclass(frozen=True)
class Stored:
    """A cell as it lies in the store, every file verified when this object was made.

    Args:
        path: its directory.
        cell: kind, spec and address.
        metrics: its numbers.
    """

    path: Path
    cell: CellRecord
    metrics: Metrics

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

    @property
    def cells(self) -> Path:
        """Where the cells lie."""
        return self.root / "cells"

    def path(self, address: str) -> Path:
        """Where a cell lies or would lie."""
        return self.cells / address

    def prepare(self) -> None:
        """Make the output directory and sweep away what killed writers left.

        Raises:
            InputError: it cannot be made or written to.
        """
        with writing(self.root):
            self.cells.mkdir(parents=True, exist_ok=True)
            write_atomically(self.root / ".writable", b"")
            (self.root / ".writable").unlink(missing_ok=True)
        for left in self.cells.glob(".tmp-*"):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(left)

    def find(self, address: str) -> Stored | None:
        """The cell, or None where there is none.

        Raises:
            DamagedError: there is one, and it is not what was written.
        """
        return self.read(address) if self.path(address).exists() else None

    def read(self, address: str) -> Stored:
        """The cell at an address.

        Raises:
            DamagedError: a file is missing, or its digest is not that of the manifest.
        """
        path = self.path(address)
        try:
            manifest = json.loads((path / MANIFEST).read_bytes())
            contents = {name: (path / name).read_bytes() for name in manifest}
        except (OSError, ValueError, TypeError) as error:
            raise DamagedError(f"{path} is incomplete: {error}") from error
        for name, content in contents.items():
            if hashlib.sha256(content).hexdigest() != manifest[name]:
                raise DamagedError(f"{path / name} is damaged: its SHA-256 is not that of the manifest")
        try:
            stored = Stored(path, json.loads(contents["cell.json"]), json.loads(contents["metrics.json"]))
        except (KeyError, ValueError) as error:
            raise DamagedError(f"{path} has no readable cell.json and metrics.json") from error
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
                for name, content in {**files, MANIFEST: as_json(digests)}.items():
                    _write(staged / name, content)
                _sync(staged)
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


def as_json(data: object) -> bytes:
    """Readable JSON; a number that is not finite becomes null."""
    return (json.dumps(_finite(data), indent=1, allow_nan=False) + "\n").encode()


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
        raise InputError(
            "The output directory must be one that can be written to",
            f"{root} ({error.strerror or error})",
            "Choose another with --out DIR, or make room there.",
        ) from error


def _finite(data: object) -> object:
    match data:
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


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Leases: files by which workers on any number of machines agree on who computes which cell.

A worker takes a cell by creating the file `leases/ADDRESS`, which only one of several can do, also on a
shared file system. The file appears with its content, as a second name of a draft, so that whoever is killed
leaves either nothing or a lease that tells who is gone. While it computes, a thread rewrites the file every
few seconds: the heartbeat. A lease is stale if its process is known to be gone, or if the file has not
changed for a minute by the clock of the one who looks; the clocks of two machines are never compared. A stale
lease is moved away by a rename, which again only one of several can do, and then taken anew.

Leases save work and guard nothing else: a cell that two workers compute at a time is stored once, by the
rename in `Store.put`.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import threading
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO, NamedTuple

from spikeproof.errors import InputError
from spikeproof.experiments.run.shapes import LeaseDocument, is_address
from spikeproof.experiments.run.store import writing
from spikeproof.plainfiles import bytes_of, from_json, shaped

__all__ = ["HEARTBEAT", "STALE", "Holder", "Lease", "Leases", "Progress", "Pulse", "held"]

HEARTBEAT = 5.0
"""Seconds between two heartbeats."""

STALE = 60.0
"""Seconds without a heartbeat after which a lease is stale."""

FOLDER = "leases"
LARGEST_LEASE = 1 << 16
WIDTH = 1024
"""Bytes of a lease, so that a heartbeat replaces the whole of the one before."""


class Progress(NamedTuple):
    """The progress of a cell: `done` of `total` parts, with a short note."""

    done: int
    total: int
    note: str = ""


@dataclass(frozen=True)
class Holder:
    """Who computes a cell.

    Args:
        owner: name of the worker, which no other worker ever has.
        host: of its machine: name, identity of the boot, and name space of its processes.
        pid: number of its process.
        born: when the process was started, as its machine counts; empty where that is not known.
        beat: number of heartbeats so far.
        progress: of the cell.
    """

    owner: str
    host: str
    pid: int
    born: str
    beat: int = 0
    progress: Progress = Progress(0, 0)

    @classmethod
    def here(cls, owner: str) -> Holder:
        """This process, under the name of a worker."""
        return cls(owner, this_host(), os.getpid(), born(os.getpid()) or "")

    @property
    def machine(self) -> str:
        """The name of its machine."""
        return self.host.partition("/")[0]

    @property
    def gone(self) -> bool:
        """Whether it is a process of this machine that has ended; False of another machine's."""
        return bool(self.born) and self.host == this_host() and born(self.pid) != self.born

    def content(self) -> bytes:
        """The content of its lease, as wide as that of every other."""
        return json.dumps(self._document()).encode().ljust(WIDTH) + b"\n"

    def _document(self) -> LeaseDocument:
        return {
            "owner": self.owner,
            "host": self.host,
            "pid": self.pid,
            "born": self.born,
            "beat": self.beat,
            "done": self.progress.done,
            "total": self.progress.total,
            "note": " ".join(self.progress.note.split())[:100],
        }

    @classmethod
    def read(cls, content: bytes) -> Holder | None:
        """From the content of a lease; None where it is no lease, such as one that is just being written."""
        try:
            noted: LeaseDocument = shaped(from_json(content, "lease"), LeaseDocument, "lease")
        except InputError:
            return None
        progress = Progress(noted["done"], noted["total"], noted["note"])
        return cls(noted["owner"], noted["host"], noted["pid"], noted["born"], noted["beat"], progress)


@cache
def this_host() -> str:
    """The name of this machine, with what tells two machines or containers of one name apart."""
    parts = [platform.node().replace("/", "-")]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return "/".join(parts)


def born(pid: int) -> str | None:
    """When a process of this machine was started; None if there is none, or none that still runs.

    Args:
        pid: its number.
    """
    try:
        words = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if words[0] in (b"Z", b"X") else words[19].decode()


class Lease:
    """The lease of one cell, held by this process.

    Args:
        path: its file.
        file: the same, opened to be written, with what it holds since it was created.
        holder: this process.
        after: who held the cell before and was lost.
    """

    def __init__(self, path: Path, file: BinaryIO, holder: Holder, after: Holder | None) -> None:
        self.path, self.after = path, after
        self._file, self._holder = file, holder
        self._progress, self._beat = Progress(0, 0), 0
        self._lock = threading.Lock()
        weakref.finalize(self, file.close)

    def tell(self, progress: Progress) -> None:
        """Note the progress of the cell, which the next heartbeat writes."""
        self._progress = progress

    def beat(self) -> None:
        """Show that this process is alive; a lease that somebody has moved away stays away."""
        with self._lock, suppress(OSError, ValueError):
            self._beat += 1
            self._write()

    def release(self) -> None:
        """Give the cell back, unless somebody else has taken it over."""
        with self._lock, suppress(OSError, ValueError):
            with suppress(InputError):
                holder = Holder.read(bytes_of(self.path, LARGEST_LEASE))
                if holder is None or holder.owner == self._holder.owner:
                    self.path.unlink(missing_ok=True)
            self._file.close()

    def _write(self) -> None:
        holder = Holder(
            self._holder.owner,
            self._holder.host,
            self._holder.pid,
            self._holder.born,
            self._beat,
            self._progress,
        )
        self._file.seek(0)
        self._file.write(holder.content())


class Leases:
    """The leases of one output directory, as one worker takes and observes them.

    Args:
        root: the output directory.
        owner: name of the worker.
        stale: seconds without a heartbeat after which a lease is stale.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     one, other = Leases(Path(folder), "one"), Leases(Path(folder), "other")
        ...     lease = one.take("ab12")
        ...     both = lease is not None, other.take("ab12") is not None
        ...     lease.release()
        ...     both, other.take("ab12") is not None
        ((True, False), True)
    """

    def __init__(self, root: Path, owner: str, stale: float = STALE) -> None:
        self.root, self.folder, self.owner, self.stale = root, root / FOLDER, owner, stale
        self._seen: dict[str, tuple[bytes, float]] = {}

    def take(self, address: str) -> Lease | None:
        """The lease of a cell, or None where another worker has it.

        Raises:
            InputError: the output directory cannot be written.
        """
        after = None
        if (stale := self._stale(address)) is not None:
            with writing(self.root):
                if not self._move_away(address, stale):
                    return None
            after = Holder.read(stale)
        path, holder = self.folder / address, Holder.here(self.owner)
        with writing(self.root):
            try:
                file = _created(path, holder.content())
            except FileExistsError:
                return None
            except FileNotFoundError:
                self.folder.mkdir(parents=True, exist_ok=True)
                return self.take(address)
            except PermissionError:
                if path.exists():  # where an open file that was removed keeps its name until it is closed
                    return None
                raise
            self._seen.pop(address, None)
            return Lease(path, file, holder, after)

    def observe(self) -> dict[str, Holder | None]:
        """Who holds which cell; a stale lease is left out, and a holder that cannot be read is None."""
        found, there = {}, held(self.folder)
        for address in there:
            content = self._content(address)
            if content is not None and self._stale(address, content) is None:
                found[address] = Holder.read(content)
        self._seen = {address: self._seen[address] for address in there if address in self._seen}
        return found

    def expire(self, owner: str) -> list[str]:
        """Move the leases of a worker away that is known to be lost; the addresses of its cells."""
        lost = []
        for address in held(self.folder):
            content = self._content(address)
            holder = None if content is None else Holder.read(content)
            mine = content is not None and holder is not None and holder.owner == owner
            with suppress(OSError):  # it is stale a minute later
                if content is not None and mine and self._move_away(address, content):
                    lost.append(address)
        return lost

    def clear(self, address: str) -> bool:
        """Remove a lease if it is stale; whether it was removed.

        Raises:
            InputError: the output directory cannot be written.
        """
        with writing(self.root):
            stale = self._stale(address)
            return stale is not None and self._move_away(address, stale)

    def _content(self, address: str) -> bytes | None:
        """The content of a lease, or when it was changed if it cannot be read; None where there is none."""
        path = self.folder / address
        try:
            return bytes_of(path, LARGEST_LEASE)
        except InputError:
            with suppress(OSError):
                return str(path.lstat().st_mtime_ns).encode()
            return None

    def _stale(self, address: str, content: bytes | None = None) -> bytes | None:
        """The content of a stale lease; None where there is no lease or a live one."""
        content = self._content(address) if content is None else content
        if content is None:
            return None
        holder = Holder.read(content)
        if holder is not None and holder.gone:
            return content
        before, since = self._seen.setdefault(address, (content, time.monotonic()))
        if before != content:
            self._seen[address] = (content, time.monotonic())
            return None
        return content if time.monotonic() - since >= self.stale else None

    def _move_away(self, address: str, stale: bytes) -> bool:
        """Whether this worker was the one to move a stale lease away.

        What was moved is compared with what was judged: if another worker took the cell over in between,
        its lease is put back.

        Raises:
            OSError: nobody can move it, as on a file system that has become read-only.
        """
        path, grave = self.folder / address, self.folder / f".tmp-{uuid.uuid4().hex}"
        try:
            path.rename(grave)
        except FileNotFoundError:  # another worker was faster
            return False
        except PermissionError:
            if os.name == "nt":  # where a file that is open stays
                return False
            raise
        try:
            moved = Holder.read(bytes_of(grave, LARGEST_LEASE))
            judged = Holder.read(stale)
            same = (moved and moved.owner) == (judged and judged.owner)
        except InputError:
            same = True
        if not same:
            with suppress(OSError):
                os.link(grave, path)
        with suppress(OSError):
            grave.unlink(missing_ok=True)
        self._seen.pop(address, None)
        return same


def _created(path: Path, content: bytes) -> BinaryIO:
    """A new file with its content, opened to be written; it is never seen without.

    Raises:
        FileExistsError: there is such a file.
        OSError: it cannot be written.
    """
    if os.name != "nt":  # where a file that is open cannot lose one of its names
        draft = path.with_name(f".tmp-{uuid.uuid4().hex}")
        try:
            with draft.open("xb", buffering=0) as file:
                _fill(file, content)
            if _linked(draft, path):
                return path.open("r+b", buffering=0)
        finally:
            with suppress(OSError):
                draft.unlink(missing_ok=True)
    return _written(path, content)


def _linked(draft: Path, path: Path) -> bool:
    """Whether a draft has got a second name; False where the file system knows no such thing.

    Raises:
        FileExistsError: the name is taken.
    """
    try:
        os.link(draft, path)
    except OSError as error:
        with suppress(OSError):
            if draft.stat().st_nlink == 2:  # it was done, and the answer of a server got lost
                return True
        if isinstance(error, FileExistsError):
            raise
        return False
    return True


def _written(path: Path, content: bytes) -> BinaryIO:
    """The same where a file has one name only: a kill before it is written leaves a lease of nobody."""
    file = path.open("xb", buffering=0)
    try:
        _fill(file, content)
    except OSError:
        file.close()
        path.unlink(missing_ok=True)
        raise
    return file


def _fill(file: BinaryIO, content: bytes) -> None:
    if file.write(content) != len(content):  # which is what the last bytes of a disk are like
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def held(folder: Path) -> list[str]:
    """The addresses that have a lease, live or stale.

    Args:
        folder: of the leases.
    """
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if is_address(entry.name)]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return []


@dataclass
class Pulse:
    """The thread that keeps the leases of a process alive.

    Args:
        every: seconds between two heartbeats.
    """

    every: float = HEARTBEAT
    _kept: set[Lease] = field(default_factory=set, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @contextmanager
    def beating(self) -> Iterator[Pulse]:
        """Keep leases alive; those that are still held at the end are released."""
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(ended,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            ended.set()
            thread.join()
            self.release()

    @contextmanager
    def keeping(self, lease: Lease) -> Iterator[Lease]:
        """Keep one lease alive, and release it at the end, whatever happens."""
        with self._lock:
            self._kept.add(lease)
        try:
            yield lease
        finally:
            with self._lock:
                self._kept.discard(lease)
            lease.release()

    def release(self) -> None:
        """Release every lease, as a process does that is about to end."""
        with self._lock:
            kept, self._kept = self._kept, set()
        for lease in kept:
            lease.release()

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(self.every):
            with self._lock:
                kept = list(self._kept)
            for lease in kept:
                lease.beat()

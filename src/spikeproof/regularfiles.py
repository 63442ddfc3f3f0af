"""Regular files only: what is opened to be read ends, and does not wait for somebody to write.

A file that was read before is known again by its stamp: its size and its times of change.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

__all__ = ["digest_of_stamps", "open_regular", "stamps"]


def open_regular(path: Path) -> BinaryIO:
    """A file opened to be read, unless it is a pipe, a device, a socket or a directory.

    The kind is asked of what was opened, so nothing can take its place in between, and opening does not wait
    for the other end of a pipe.

    Args:
        path: the file; a link is followed to what it names.

    Raises:
        OSError: it cannot be opened, or is no regular file.

    Example:
        >>> open_regular(Path("/dev/null"))
        Traceback (most recent call last):
        OSError: [Errno 22] no regular file: '/dev/null'
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "no regular file", str(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def stamps(folder: Path, names: Iterable[str]) -> dict[str, list[int]]:
    """Size in bytes and both times of change in nanoseconds, of those files of a folder that are there.

    Args:
        folder: that holds them.
        names: of the files.
    """
    found, path = dict[str, list[int]](), str(folder)
    for name in names:
        try:
            now = os.stat(f"{path}/{name}")  # noqa: PTH116  # a Path takes longer than the call
        except OSError:
            continue
        found[name] = [now.st_size, now.st_mtime_ns, now.st_ctime_ns]
    return found


def digest_of_stamps(found: Mapping[str, Sequence[int]]) -> str:
    """The digest of the stamps of files, in whatever order.

    Args:
        found: name of a file -> its stamp.

    Example:
        >>> one, other = {"a": [1, 2, 3], "b": [4, 5, 6]}, {"b": [4, 5, 6], "a": [1, 2, 3]}
        >>> digest_of_stamps(one) == digest_of_stamps(other)
        True
    """
    words = (f"{name} {size} {changed} {noted}" for name, (size, changed, noted) in sorted(found.items()))
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]

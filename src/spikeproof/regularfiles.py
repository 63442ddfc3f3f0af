"""Regular files only: what is opened to be read ends, and does not wait for somebody to write."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

__all__ = ["open_regular"]


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

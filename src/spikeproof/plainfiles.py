"""Files from elsewhere, read with suspicion: regular files of stated size, JSON of stated depth and shape.

A directory of results may come from another machine or from a stranger. What is read from it is never taken
on trust: a device or a named pipe is refused before it is read, a document that is too large or too deep
before it is used, and one of another shape with the place of the value that does not fit. Characters that
would steer a terminal, or turn the direction of a text, become visible escapes.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import unicodedata
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

if TYPE_CHECKING:
    import pydantic

__all__ = ["LARGEST_DOCUMENT", "bytes_of", "from_json", "printable", "read_json", "shaped", "synchronise"]

Shape = TypeVar("Shape")

LARGEST_DOCUMENT = 64 * 1024 * 1024
"""Most bytes of a JSON document."""

DEEPEST = 64
"""Most levels of brackets in a JSON document."""

UNSYNCHRONISED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EACCES}
"""What a file system answers that knows no synchronisation of a directory or file."""


def bytes_of(path: Path, limit: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
        path: the file; a link to one will do.
        limit: most bytes that are accepted.

    Raises:
        InputError: it cannot be read, is a directory, a device or a pipe, or is larger than the limit.

    Example:
        >>> bytes_of(Path("/dev/null"))
        Traceback (most recent call last):
        spikeproof.errors.InputError: /dev/null: expected a regular file to read: got ...
    """
    try:
        with open_regular(path) as file:
            if limit is not None and os.fstat(file.fileno()).st_size > limit:
                raise _too_long(path, limit)
            content = file.read() if limit is None else file.read(limit + 1)
    except InputError:
        raise
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error) or "more than the memory holds"
        raise InputError(f"{path}: expected a regular file to read", reason, "Check the path.") from error
    if limit is not None and len(content) > limit:
        raise _too_long(path, limit)
    return content


def from_json(content: bytes, name: str) -> object:
    """The plain data of a JSON text, with every character that is not printable as a visible escape.

    Args:
        content: the text.
        name: of the file, for messages.

    Raises:
        InputError: the text is no JSON, holds a number that is not finite, or is too deep.

    Example:
        >>> from_json(b'{"a": [1, "\\\\u001b[2J"]}', "a.json")
        {'a': [1, '\\\\x1b[2J']}
    """
    try:
        data = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        got = "brackets within brackets without end" if isinstance(error, RecursionError) else str(error)
        raise InputError(f"{name}: expected JSON", got[:200], "Copy the file again.") from error
    return _safe(data, name)


def shaped(data: object, shape: type[Shape], name: str) -> Shape:
    """Plain data of a stated shape.

    Args:
        data: as `from_json` gives it.
        shape: a type that pydantic knows how to check.
        name: of the file, for messages.

    Raises:
        InputError: the data have another shape; the message names the first value that does not fit.

    Example:
        >>> shaped({"a": 1}, dict[str, int], "a.json")
        {'a': 1}
    """
    import pydantic  # which takes a tenth of a second, and text needs none

    try:
        return cast(Shape, _validator(cast(Hashable, shape)).validate_python(data))
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        place = ".".join(map(str, (name, *first["loc"])))
        got = repr(first["input"])
        raise InputError(
            f"{printable(place)}: {first['msg'][0].lower()}{first['msg'][1:]}",
            got if len(got) <= 80 else got[:77] + "...",
            "Copy the file again, or make it anew.",
        ) from error


def read_json(path: Path, shape: type[Shape], limit: int = LARGEST_DOCUMENT) -> Shape:
    """The JSON document in a regular file, of a stated size, depth and shape.

    Args:
        path: the file.
        shape: a type that pydantic knows how to check.
        limit: most bytes that are accepted.

    Raises:
        InputError: with the path, whenever the file is something else.
    """
    return shaped(from_json(bytes_of(path, limit), str(path)), shape, str(path))


def printable(text: str, kept: str = "") -> str:
    """Text in which control characters, marks of direction and lone surrogates are visible escapes.

    Args:
        text: any.
        kept: characters that may stay, such as the end of a line.

    Example:
        >>> printable("a\\x1b[31mb\\u202ec")
        'a\\\\x1b[31mb\\\\u202ec'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in kept or not _steers(c) else c.encode("unicode_escape").decode() for c in text)


def synchronise(descriptor: int) -> bool:
    """Whether the operating system wrote an open file or directory through to the disk.

    False where the file system knows no such thing, as on some shared mounts.

    Raises:
        OSError: it tried and failed, such as for want of space.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCHRONISED:
            raise
        return False
    return True


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _too_long(path: Path, limit: int) -> InputError:
    return InputError(f"{path}: expected at most {limit} bytes", "more", "Is this the right file?")


def _refuse_constant(text: str) -> object:
    raise ValueError(f"{text} is no number of JSON")


def _safe(data: object, name: str, depth: int = 0) -> object:
    if depth > DEEPEST:
        raise InputError(f"{name}: expected at most {DEEPEST} levels of brackets", "more", "Check the file.")
    if isinstance(data, str):
        return printable(data, "\n\t")
    if isinstance(data, Mapping):
        return {printable(key): _safe(value, name, depth + 1) for key, value in data.items()}
    if isinstance(data, list):
        return [_safe(value, name, depth + 1) for value in data]
    if isinstance(data, float) and not math.isfinite(data):  # such as 1e400
        raise InputError(
            f"{name}: expected JSON", f"{data}, a number that is not finite", "Copy the file again."
        )
    return data


@functools.cache
def _validator(shape: Any) -> pydantic.TypeAdapter[object]:  # any type, which the cache wants hashable
    import pydantic

    return pydantic.TypeAdapter(shape)

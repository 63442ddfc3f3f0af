"""Searching, downloading and safely reading the files of data sets."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import IO, NamedTuple, TypeVar

from spikeproof.errors import InputError

__all__ = [
    "CHUNK",
    "DATA_VARIABLE",
    "MIRROR_VARIABLE",
    "Base",
    "bases",
    "download",
    "first_line",
    "first_usable",
    "from_variable",
    "is_compressed",
    "is_directory",
    "is_hidden",
    "lack",
    "layouts_of",
    "listed",
    "missing_files",
    "missing_variable",
    "take",
    "user_cache",
    "variants",
]

DATA_VARIABLE = "SPIKEPROOF_DATA"
MIRROR_VARIABLE = "SPIKEPROOF_MIRROR"
CHUNK = 1 << 20
SYSTEM_FOLDERS = frozenset({"__MACOSX"})

Candidate = TypeVar("Candidate")
Read = TypeVar("Read")


class Base(NamedTuple):
    """A directory in which data sets are searched for.

    Args:
        path: the directory.
        open: whether the user named it, so that it may hold other files as well.
    """

    path: Path
    open: bool


def bases(root: Path | None, name: str) -> list[Base]:
    """The directories to search: the one given, the one that the variable names, and the user's cache.

    Raises:
        InputError: `root` is not a directory.
    """
    if root is not None and not is_directory(root):
        raise InputError(
            f"Expected a directory in which to search for {name}",
            f"{root}, which is not a directory",
            "Check the path.",
        )
    named = [base for base in (root, from_variable()) if base is not None]
    cache = user_cache()
    return [*(Base(base, True) for base in named), *([Base(cache, False)] if cache else [])]


def from_variable() -> Path | None:
    """The directory that the environment variable names, with `~` replaced by the user's home."""
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    try:
        return Path(named).expanduser()
    except RuntimeError:  # there is no such user
        return Path(named)


def missing_variable() -> tuple[str, ...]:
    """A sentence if the directory that the environment variable names does not exist; else nothing."""
    named = from_variable()
    return (
        (f"{DATA_VARIABLE} names {named}, which is no directory",)
        if named and not is_directory(named)
        else ()
    )


def layouts_of(base: Base, name: str, layouts: Iterable[str] = ()) -> list[Path]:
    """The usual folders below a base, the most specific ones first."""
    folders = (".", name, *layouts)
    return [base.path / folder for folder in (folders if base.open else folders[1:])]


def user_cache() -> Path | None:
    """The user's cache directory, or None if platformdirs is not installed."""
    try:
        import platformdirs
    except ImportError:
        return None
    return Path(platformdirs.user_cache_dir("spikeproof")) / "data"


def download(mirror: str, checksums: Mapping[str, str], folder: Path) -> None:
    """Download the files that `folder` lacks, with a bar on a terminal and a line per file elsewhere."""
    import pooch

    on_terminal = sys.stderr.isatty()
    pooch.get_logger().setLevel("WARNING" if on_terminal else "INFO")
    store = pooch.create(folder, mirror, registry=dict(checksums))
    downloader = pooch.HTTPDownloader(progressbar=on_terminal, chunk_size=CHUNK, timeout=30)
    for name in store.registry:
        store.fetch(name, downloader=downloader)


def variants(folder: Path, name: str) -> list[Path]:
    """The existing files of this name in all its spellings, uncompressed files before compressed ones."""
    dotted = re.sub(r"-(idx\d)", r".\1", name)
    plain = [folder / one / two for one in (".", name, dotted) for two in dict.fromkeys((name, dotted))]
    found = (path.with_name(f"{path.name}{suffix}") for suffix in ("", ".gz") for path in plain)
    return [path for path in found if path.is_file()]


def listed(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder with this suffix, sorted by name, without hidden files."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(suffix))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if not is_hidden(name) and (folder / name).is_file()]


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the operating system, such as `._00001.bin` of macOS."""
    return name.startswith(".") or name in SYSTEM_FOLDERS


def is_compressed(path: Path) -> bool:
    """Whether the name of a file says that it is compressed by gzip."""
    return path.name.endswith(".gz")


def is_directory(path: Path) -> bool:
    """Whether a path is a directory that this user may see."""
    try:
        return path.is_dir()
    except PermissionError:
        return False


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """The names of the files that are missing in both forms, or that this user may not see."""
    try:
        return [name for name in names if not variants(folder, name)]
    except PermissionError:
        return list(names)


def lack(folder: Path, names: Collection[str]) -> str:
    """The files that are missing from a folder, in words."""
    missing = missing_files(folder, names)
    return f"lacks {', '.join(missing)}" if len(missing) < len(names) else "none of them"


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, shortened to 300 characters."""
    return (str(error).splitlines() or [""])[0][:300]


def take(file: IO[bytes] | BufferedIOBase, most: int) -> bytearray:
    """Up to `most` bytes of a file, with no more memory than the file has content."""
    content = bytearray()
    while len(content) < most and (chunk := file.read(min(CHUNK, most - len(content)))):
        content += chunk
    return content


def first_usable(
    found: Iterable[Candidate], read: Callable[[Candidate], Read], name: Callable[[Candidate], object] = str
) -> tuple[Read, tuple[str, ...]]:
    """The content of the first usable candidate, and a sentence about each candidate that was skipped.

    Args:
        found: at least one file or folder, the preferred one first.
        read: reads one of them.
        name: how a candidate is called in the sentence.

    Raises:
        InputError: none of them can be read; the message is the one about the first.
    """
    errors: list[tuple[Candidate, InputError]] = []
    for candidate in found:
        try:
            content = read(candidate)
        except InputError as error:
            errors.append((candidate, error))
            continue
        return content, tuple(f"{name(skipped)} was passed over: {error.got}" for skipped, error in errors)
    raise errors[0][1]

"""Where files of data sets lie, how those that lie nowhere are fetched, and how they are read with care."""

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

Place = TypeVar("Place")
Read = TypeVar("Read")


class Base(NamedTuple):
    """A directory in which data sets are looked for.

    Args:
        path: the directory.
        open: whether the user named it, so that it may hold other things too.
    """

    path: Path
    open: bool


def bases(root: Path | None, name: str) -> list[Base]:
    """Where the files of a data set are looked for: the directory given, the variable's, the user's cache.

    Raises:
        InputError: `root` is no directory.
    """
    if root is not None and not is_directory(root):
        raise InputError(
            f"The place to look for {name} should be a directory", f"{root}, which is none", "Check the path."
        )
    named = [base for base in (root, from_variable()) if base is not None]
    cache = user_cache()
    return [*(Base(base, True) for base in named), *([Base(cache, False)] if cache else [])]


def from_variable() -> Path | None:
    """The directory that the environment names, with the user's home in place of `~`."""
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    try:
        return Path(named).expanduser()
    except RuntimeError:  # there is no such user
        return Path(named)


def missing_variable() -> tuple[str, ...]:
    """That the directory which the environment names is not there, in a sentence; nothing if it is."""
    named = from_variable()
    return (
        (f"{DATA_VARIABLE} names {named}, which is no directory",)
        if named and not is_directory(named)
        else ()
    )


def layouts_of(base: Base, name: str, layouts: Iterable[str] = ()) -> list[Path]:
    """The usual places below a base, most particular first."""
    folders = (".", name, *layouts)
    return [base.path / folder for folder in (folders if base.open else folders[1:])]


def user_cache() -> Path | None:
    """The user's cache directory, or None where the libraries that fill it are missing."""
    try:
        import platformdirs
    except ImportError:
        return None
    return Path(platformdirs.user_cache_dir("spikeproof")) / "data"


def download(mirror: str, checksums: Mapping[str, str], folder: Path) -> None:
    """Fetch what `folder` lacks; a bar on a terminal, one plain line per file elsewhere."""
    import pooch

    on_terminal = sys.stderr.isatty()
    pooch.get_logger().setLevel("WARNING" if on_terminal else "INFO")
    store = pooch.create(folder, mirror, registry=dict(checksums))
    downloader = pooch.HTTPDownloader(progressbar=on_terminal, chunk_size=CHUNK, timeout=30)
    for name in store.registry:
        store.fetch(name, downloader=downloader)


def variants(folder: Path, name: str) -> list[Path]:
    """Files of this name that are there, plain before compressed: with a dot, or in a folder of their own."""
    dotted = re.sub(r"-(idx\d)", r".\1", name)
    plain = [folder / one / two for one in (".", name, dotted) for two in dict.fromkeys((name, dotted))]
    found = (path.with_name(f"{path.name}{suffix}") for suffix in ("", ".gz") for path in plain)
    return [path for path in found if path.is_file()]


def listed(folder: Path, suffix: str) -> list[Path]:
    """The files of a folder with this suffix, by name; hidden ones are passed over."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(suffix))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in names if not is_hidden(name) and (folder / name).is_file()]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is of the system and not of the data, such as `._00001.bin` of macOS."""
    return name.startswith(".") or name == "__MACOSX"


def is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Which files are not there, neither plain nor compressed, or not to be seen by this user."""
    try:
        return [name for name in names if not variants(folder, name)]
    except PermissionError:
        return list(names)


def lack(folder: Path, names: Collection[str]) -> str:
    missing = missing_files(folder, names)
    return f"lacks {', '.join(missing)}" if len(missing) < len(names) else "none of them"


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:300]


def take(file: IO[bytes] | BufferedIOBase, most: int) -> bytearray:
    """Up to so many bytes, in memory no larger than what is there."""
    content = bytearray()
    while len(content) < most and (chunk := file.read(min(CHUNK, most - len(content)))):
        content += chunk
    return content


def first_usable(
    found: Iterable[Place], read: Callable[[Place], Read], said: Callable[[Place], object] = str
) -> tuple[Read, tuple[str, ...]]:
    """What the first place gives that can be read, and a sentence about each that came before it.

    Args:
        found: places, the preferred one first; at least one.
        read: reads one of them.
        said: the words for a place.

    Raises:
        InputError: none can be read; what is said is of the first.
    """
    errors: list[tuple[Place, InputError]] = []
    for place in found:
        try:
            content = read(place)
        except InputError as error:
            errors.append((place, error))
            continue
        return content, tuple(f"{said(place)} was passed over: {error.got}" for place, error in errors)
    raise errors[0][1]

"""Where files of data sets lie, how those that lie nowhere are fetched, and how they are read with care."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import IO

from spikeproof.errors import InputError

__all__ = [
    "DATA_VARIABLE",
    "MIRROR_VARIABLE",
    "download",
    "either",
    "first_line",
    "is_directory",
    "lack",
    "missing_files",
    "places",
    "take",
    "user_cache",
]

DATA_VARIABLE = "SPIKEPROOF_DATA"
MIRROR_VARIABLE = "SPIKEPROOF_MIRROR"
CHUNK = 1 << 20


def places(root: Path | None, name: str, layouts: Iterable[str] = ()) -> Iterator[Path]:
    """Where the files of a data set may lie, most particular first: themselves, or in a folder of some name.

    Raises:
        InputError: `root` is no directory.
    """
    if root is not None and not is_directory(root):
        raise InputError(
            f"The place to look for {name} should be a directory", f"{root}, which is none", "Check the path."
        )
    folders = (".", name, *layouts)
    for base in (root, os.environ.get(DATA_VARIABLE)):
        if base:
            yield from (Path(base) / folder for folder in folders)
    cache = user_cache()
    if cache:
        yield from (cache / folder for folder in folders[1:])


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


def either(folder: Path, name: str) -> Path:
    """The plain file if it is there, else the compressed one."""
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def is_directory(path: Path) -> bool:
    try:
        return path.is_dir()
    except PermissionError:
        return False


def missing_files(folder: Path, names: Iterable[str]) -> list[str]:
    """Which files are not there, neither plain nor compressed, or not to be seen by this user."""
    try:
        return [name for name in names if not either(folder, name).is_file()]
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

"""Where files of data sets lie, how those that lie nowhere are fetched, and how they are read with care."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping
from io import BufferedIOBase
from pathlib import Path

__all__ = [
    "DATA_VARIABLE",
    "MIRROR_VARIABLE",
    "download",
    "either",
    "first_line",
    "is_directory",
    "lack",
    "missing_files",
    "take",
    "user_cache",
]

DATA_VARIABLE = "SPIKEPROOF_DATA"
MIRROR_VARIABLE = "SPIKEPROOF_MIRROR"
CHUNK = 1 << 20


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
    registry = {f"{name}.gz": digest for name, digest in checksums.items()}
    store = pooch.create(folder, mirror, registry=registry)
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


def take(file: BufferedIOBase, most: int) -> bytearray:
    """Up to so many bytes, in memory no larger than what is there."""
    content = bytearray()
    while len(content) < most and (chunk := file.read(min(CHUNK, most - len(content)))):
        content += chunk
    return content

"""Near misses: data in a folder above or below the usual one, and files in formats that are not read."""

from __future__ import annotations

import itertools
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from spikeproof.datasets.intake.files import Base, is_hidden

__all__ = ["nested", "sighted"]

DEEP = 3
"""The depth to which folders are searched."""

MANY = 2_000
"""The number of entries of one folder that are considered."""

INNER = frozenset({"raw", "extract", "extracted", "data", "archive", "processed", "dataset", "recordings"})
"""Names of folders that do not describe their content."""

FORMS = {
    ".parquet": "Parquet of Hugging Face, which the data set hugging-face reads",
    ".arrow": "Arrow of Hugging Face, which the data set hugging-face reads",
    ".aedat4": "AEDAT 4, which the data set event-folder reads; the published files are earlier versions",
    ".npy": "arrays of NumPy, which the data sets image-arrays and event-folder read",
    ".npz": "arrays of NumPy, which the data sets image-arrays and event-folder read",
    ".mat": "MATLAB files, which are not read",
    ".pt": "tensors of PyTorch, which are never opened, since they may run programs",
    ".csv": "tables, which are not read as data",
    ".png": "single images, which the data set image-folder reads",
    ".jpg": "single images, which the data set image-folder reads",
    ".zip": "archives to unpack first",
    ".7z": "archives to unpack first",
    ".rar": "archives to unpack first",
    ".tar": "archives to unpack first",
    ".tgz": "archives to unpack first",
    ".tar.gz": "archives to unpack first",
    ".part": "an unfinished download",
    ".crdownload": "an unfinished download",
}
"""Suffix of a file, and a description of such files."""


def nested(base: Base, names: Collection[str], distinctive: bool = True) -> Iterator[Path]:
    """The folders below a base that are named after the data set, or lie in such a folder; the highest first.

    Args:
        base: the directory to search.
        names: the names of the data set, in any spelling.
        distinctive: whether the names of its files distinguish it from other data sets, so that folders with
            names such as `raw` are searched everywhere.
    """
    wanted = {_plain(part) for name in names for part in Path(name).parts} - INNER
    inside = distinctive or _plain(base.path.name) in wanted
    level = [(base.path, inside)] if base.open else []
    for _ in range(DEEP):
        below = []
        for parent, within in level:
            for child in _folders(parent):
                named = _plain(child.name) in wanted
                if named or (within and child.name.lower() in INNER):
                    below.append((child, True))
        yield from (child for child, _ in below)
        level = below


def sighted(folders: Iterable[Path]) -> list[str]:
    """A line for each kind of file in these folders that may hold the data in a format that is not read."""
    found: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], Path] = {}
    for folder in folders:
        for path in itertools.islice(_files(folder), 5 * MANY):
            end = next((end for end in FORMS if path.name.lower().endswith(end)), None)
            if end is not None:
                kind = str(folder), FORMS[end]
                found[kind] += 1
                first.setdefault(kind, path)
    return [
        f"{first[kind]}{f' and {count - 1} more' if count > 1 else ''}: {kind[1]}"
        for kind, count in sorted(found.items())
    ]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _folders(parent: Path) -> list[Path]:
    return [path for path, folder in _entries(parent) if folder]


def _files(parent: Path, deep: int = DEEP) -> Iterator[Path]:
    for path, folder in _entries(parent):
        if not folder:
            yield path
        elif deep > 1:
            yield from _files(path, deep - 1)


def _entries(parent: Path) -> list[tuple[Path, bool]]:
    """The entries of a folder sorted by name, and whether each is a folder; empty if it cannot be read."""
    entries: list[tuple[Path, bool]] = []
    try:
        with os.scandir(parent) as scanned:
            for entry in scanned:
                if len(entries) >= MANY:
                    break
                if not is_hidden(entry.name):
                    entries.append((Path(entry.path), entry.is_dir()))
    except OSError:
        pass
    return sorted(entries)

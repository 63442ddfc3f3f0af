"""Where a user's files lie, and the part and class of each file in a folder of class folders."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from spikeproof.datasets.intake.files import (
    DATA_VARIABLE,
    from_variable,
    is_hidden,
    missing_variable,
    take,
)
from spikeproof.datasets.owned.division import part_of
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["ClassFolders", "class_folders", "content_of", "described", "found_at", "needs", "part_folders"]

MOST = 2_000_000
"""The largest number of files of a data set."""


@dataclass(frozen=True, eq=False)
class ClassFolders:
    """The files of a folder of class folders.

    Args:
        files: part that the folders define -> its files; the only part is `train` if they define none.
        labels: part -> the class of each file, from 0.
        classes: the names of the classes, in the order of the labels.
        skipped: the number of entries that are no files of the data set.
        others: the names of folders that belong to no part.
    """

    files: dict[str, list[Path]]
    labels: dict[str, Int64[np.ndarray, "N"]]
    classes: tuple[str, ...]
    skipped: int
    others: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about skipped files and folders."""
        found = []
        if self.skipped:
            found.append(f"{self.skipped:,} files of other formats were skipped")
        if self.others:
            found.append(f"folders beside those of the parts were skipped: {', '.join(self.others[:9])}")
        return tuple(found)


def found_at(path: str, root: Path | None) -> Path | None:
    """The file or folder that a path names: below the given directory, the variable's, or as it stands.

    Args:
        path: absolute, or relative to one of these directories; `~` stands for the home of the user.
        root: the directory that is searched first, or None.
    """
    return next((candidate for candidate in _candidates(path, root) if _exists(candidate)), None)


def needs(kind: str, path: str, root: Path | None) -> Path:
    """The file or folder that a path names.

    Args:
        kind: what is expected there, for the message.
        path: as in `found_at`.
        root: as in `found_at`.

    Raises:
        InputError: there is nothing of this name.
    """
    found = found_at(path, root)
    if found is None:
        tried = "\n".join(f"  - {line}" for line in (*_candidates(path, root), *missing_variable()))
        raise InputError(
            f"{kind} at {path!r}",
            f"nothing of this name:\n{tried}",
            f"Write its path, or give the directory that holds it with --data or {DATA_VARIABLE}.",
        )
    return found


def described(path: str, root: Path | None) -> str:
    """The place that `found_at` finds, in words."""
    return str(found_at(path, root) or "not found")


def class_folders(folder: Path, suffixes: Collection[str], classes: Sequence[str] = ()) -> ClassFolders:
    """The files of a folder `CLASS/FILE`, or `PART/CLASS/FILE` with parts such as `train` and `test`.

    Hidden files and folders are skipped. Folders inside a class folder belong to the class, unless they are
    links, which could lead in a circle; these are counted among the skipped files.

    Args:
        folder: the folder.
        suffixes: the suffixes of the files of the data set, in lower case.
        classes: the names of the classes in the order of their labels; empty for all folders, sorted by name.

    Raises:
        InputError: there are no class folders, or no such files, or parts have different classes.
    """
    parts, others = part_folders(folder)
    names = classes or sorted({child.name for part in parts.values() for child in _folders(part)})
    files, labels = dict[str, list[Path]](), dict[str, Int64[np.ndarray, "N"]]()
    unknown = Counter[str]()
    for part, home in parts.items():
        found, numbers = list[Path](), list[int]()
        for label, name in enumerate(names):
            for path in _files(home / name):
                if path.suffix.lower() in suffixes and path.is_file():
                    found.append(path)
                    numbers.append(label)
                else:
                    unknown[path.suffix.lower() or "without a suffix"] += 1
                if len(found) > MOST:
                    raise InputError(f"At most {MOST:,} files", f"more in {home}", "Use fewer.")
        files[part], labels[part] = found, np.array(numbers, np.int64)
    if not any(files.values()):
        seen = ", ".join(f"{count} files {suffix}" for suffix, count in unknown.most_common(5))
        raise InputError(
            f"{folder} has class folders with files {', '.join(sorted(suffixes))}",
            f"the folders {', '.join(names[:9]) or '(none)'} with {seen or 'no files'}",
            "Put the files of each class into a folder named after the class.",
        )
    skipped = sum(unknown.values())
    return ClassFolders(files, labels, tuple(names), skipped, tuple(child.name for child in others))


def part_folders(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """The folder of each part, and folders that belong to no part.

    A folder that defines no parts is itself the only one, `train`.

    Raises:
        InputError: two folders are of one part.
    """
    parts, others = dict[str, Path](), list[Path]()
    for child in _folders(folder):
        part = part_of(child.name)
        if part is None:
            others.append(child)
        elif part in parts:
            raise InputError(
                f"{folder} has one folder for each part",
                f"{parts[part].name} and {child.name}",
                "Put the files of a part into one folder.",
            )
        else:
            parts[part] = child
    if "train" in parts and (len(parts) > 1 or not others):
        return {part: parts[part] for part in ("train", "validation", "test") if part in parts}, others
    return {"train": folder}, []


def content_of(path: Path, most: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        most: the largest size that is read, in bytes.

    Raises:
        InputError: it is no regular file, cannot be read, or is larger.
    """
    try:
        with open_regular(path) as file:
            content = bytes(take(file, most + 1))
    except OSError as error:
        raise InputError(
            f"{path} is a file that can be read",
            f"an error ({error.strerror or error})",
            "Check its kind and permissions.",
        ) from error
    if len(content) > most:
        raise InputError(f"{path} has at most {most:,} bytes", "more", "Use smaller files, or several.")
    return content


def _candidates(path: str, root: Path | None) -> Iterator[Path]:
    try:
        wanted = Path(path).expanduser()
    except RuntimeError:  # there is no such user
        wanted = Path(path)
    for base in (root, from_variable()):
        if base is not None and not wanted.is_absolute():
            yield base / wanted
    yield wanted


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _folders(parent: Path) -> list[Path]:
    return [path for path, _ in _entries(parent) if path.is_dir()]


def _files(parent: Path) -> Iterator[Path]:
    for path, folder in _entries(parent):
        if folder:
            yield from _files(path)
        else:
            yield path


def _entries(parent: Path) -> list[tuple[Path, bool]]:
    """The entries of a folder by name, without hidden ones; and whether each is a folder, not a link."""
    try:
        with os.scandir(parent) as scanned:
            found = [
                (Path(entry.path), entry.is_dir(follow_symlinks=False))
                for entry in scanned
                if not is_hidden(entry.name)
            ]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(
            f"{parent} can be read", f"an error ({error.strerror or error})", "Check its permissions."
        ) from error
    return sorted(found)

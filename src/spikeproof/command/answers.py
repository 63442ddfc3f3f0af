"""Answers of `run` on finished studies, kept so that the same question needs neither PyTorch nor the data.

Such a run computes nothing and changes nothing: it reads the study, makes the addresses of its cells,
verifies what the output directory holds, and prints the numbers that its report kept. All of that is decided
by the command line, the program and its libraries, the study file and the output directory. Once it has been
done, what was printed is therefore kept beside the digests of all of these, and is printed again while none
of them has changed. Any doubt leads to the whole way, which is also the only one that writes an answer.

Cells are known again by the sizes and times of change with which they were verified, as in extracts; all else
by content. Answers are kept only where everything that decides is looked at: for data that come with the
package or are generated, and for studies that name no file and no program of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from io import StringIO, TextIOBase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import click

from spikeproof.plainfiles import bytes_of, printable
from spikeproof.regularfiles import digest_of_stamps, open_regular, stamps
from spikeproof.version import __version__

if TYPE_CHECKING:
    from spikeproof.command.executing import Placed
    from spikeproof.experiments.run.driver import Summary
    from spikeproof.experiments.study.study import Study

__all__ = ["Question", "repeated"]

PLACE = "extracts/answer.json"
"""The file of an output directory that holds the last answer."""

LAYOUT = 1
"""Of that file; one of another layout is passed over."""

LARGEST_ANSWER = 64 * 1024 * 1024
LARGEST_STUDY = 256 * 1024
LARGEST_OTHER = 1 << 30

WITHOUT_FILES = frozenset({"digits", "yin-yang", "randman", "enlarged", "coded"})
"""Data sets that come with the package, are generated, or are made of others."""

METADATA = (".dist-info", ".egg-info", ".egg-link", ".pth")
"""How the entries of a folder of packages end that change with what is installed there.

A library whose files are edited in their place is not noticed, and need not be: the whole way would not
compute a cell again for it either, since stored cells keep the version of a library as provenance only. What
verifies and prints is the package itself, whose files are read.
"""


@dataclass(frozen=True)
class Question:
    """What was asked of `spikeproof run`, and everything that decides the answer beside the output directory.

    Args:
        study: name or file, as it was typed.
        settings: changes of the study, as they were typed.
        out: the output directory, as it was typed, or None.
        limit: most cells.
        key: digest of the question and of the circumstances in which it was asked.
    """

    study: str
    settings: tuple[str, ...]
    out: Path | None
    limit: int
    key: str = ""

    @classmethod
    def of(
        cls,
        study: str,
        settings: tuple[str, ...],
        out: Path | None,
        data: Path | None,
        device: str | None,
        devices: int,
        limit: int,
        options: Placed,
    ) -> Question | None:
        """The question that a command line asks; None where more decides than what is looked at here."""
        plain = options["executor"] is None and not options["ray_address"] and not options["slurm"]
        near = data is None and device in (None, "cpu") and devices == 1 and not options["gpus_per_worker"]
        with suppress(OSError, ValueError):  # a folder that is gone, or a path that is no text
            return cls(study, settings, out, limit).now() if plain and near else None
        return None

    def now(self) -> Question:
        """The same question, asked now."""
        words = [self.study, *self.settings, None, self.out and str(self.out), self.limit, str(Path.cwd())]
        digest = hashlib.sha256(json.dumps([LAYOUT, words, _circumstances()]).encode())
        _add_code(digest)
        return replace(self, key=digest.hexdigest())

    def answer(self) -> str | None:
        """What the whole way would print; None where that is not known for certain."""
        directory = self.out or Path("runs") / Path(self.study).stem
        try:
            kept = _read(directory / PLACE)
            if kept["key"] != self.key or kept["directory"] != str(directory):
                return None
            same = all(_digest(Path(path), LARGEST_STUDY) == digest for path, digest in kept["study"])
            if not same or not os.access(directory, os.W_OK) or kept["state"] != _state(directory, kept):
                return None
            text = cast(str, kept["text"])
            return printable(text, "\n") if kept["text_sha256"] == _sha256(text) else None
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None  # nobody here wrote this file, or something has gone in between

    def keep(self, directory: Path, study: Study, summary: Summary, text: str) -> None:
        """Keep what was printed of a finished study, where that is possible: it only saves time.

        Args:
            directory: the output directory.
            study: that was asked for.
            summary: of the run.
            text: the numbers as they were printed.
        """
        from spikeproof.command.terminal import summary_words

        whole = len(summary.finished) == summary.total and not summary.noted
        if not whole or not self._decided(study) or printable(text, "\n") != text:
            return
        with suppress(OSError, ValueError):
            noted = _noted(directory, study, summary)
            if noted is None or self.now().key != self.key:
                return
            said = f"{summary_words(replace(summary, computed=0))}\n{text}"
            kept = {
                "layout": LAYOUT,
                "key": self.key,
                "directory": str(directory),
                "study": [[str(path), digest] for path, digest in study.files.items()],
                "text": said,
                "text_sha256": _sha256(said),
                **noted,
            }
            _write(directory / PLACE, kept)

    def _decided(self, study: Study) -> bool:
        """Whether the files that are looked at decide everything: no program, model or data beside them."""
        from spikeproof.catalogue.extensions import packages
        from spikeproof.experiments.study.owned import programs

        spec = study.spec()
        names = set(_strings(spec["data"], "name"))
        foreign = packages() or programs(study.models) or not names <= WITHOUT_FILES
        # A Path raises an error where a text is too long to be a name.
        return not foreign and not any(os.sep in each or os.path.exists(each) for each in _strings(spec))  # noqa: PTH110


def _noted(directory: Path, study: Study, summary: Summary) -> dict[str, Any] | None:
    """What is known of a finished study in its output directory; None where its report is not up to date.

    Cells are entered as they were when they were verified.
    """
    from spikeproof.experiments.run.queue.listing import PLAN, REPAIRS
    from spikeproof.experiments.run.store import MANIFEST, Store
    from spikeproof.report.outputs import is_current, report_files

    plan = bytes_of(directory / PLAN, LARGEST_OTHER)
    content = json.loads(plan)
    cells = [record["address"] for record in content["plan"]]
    same = {"study": content["study"], "spec": content["spec"]} == json.loads(
        json.dumps({"study": study.name, "spec": study.spec()})
    )
    if not same or {*cells} != summary.finished.keys() or any((directory / "failures").glob("*.json")):
        return None
    files = {PLAN: hashlib.sha256(plan).hexdigest(), REPAIRS: _digest(directory / REPAIRS, LARGEST_OTHER)}
    groups: dict[tuple[str, ...], list[str]] = {}
    for address, known in summary.finished.items():
        groups.setdefault((*sorted(known.files), MANIFEST), []).append(address)
    found = Store(directory).addresses()
    others = sorted(found - summary.finished.keys())
    lines = {address: known.stamps for address, known in summary.finished.items()}
    lines |= _stamped(directory, dict.fromkeys(others, (MANIFEST,)))
    files |= report_files(directory)
    if not is_current(directory):
        return None
    return {
        "files": files,
        "cells": [[names, addresses] for names, addresses in groups.items()],
        "others": [[MANIFEST], others],
        "state": _summed(lines),
    }


def _state(directory: Path, kept: Mapping[str, Any]) -> str | None:
    """The digest of the cells as they are now; None where other files are not as they were."""
    for name, digest in kept["files"].items():
        if _digest(directory / name, LARGEST_OTHER) != digest:
            return None
    names = {address: group for group, addresses in (*kept["cells"], kept["others"]) for address in addresses}
    with os.scandir(directory / "cells") as entries:
        there = {entry.name for entry in entries if not entry.name.startswith(".")}
    if there != names.keys() or any((directory / "failures").glob("*.json")):
        return None
    return _summed(_stamped(directory, names))


def _stamped(directory: Path, names: Mapping[str, Any]) -> dict[str, str]:
    cells = f"{directory / 'cells'}/"
    return {
        address: digest_of_stamps(stamps(Path(cells + address), files)) for address, files in names.items()
    }


def _summed(lines: Mapping[str, str]) -> str:
    return _sha256("\n".join(f"{address} {digest}" for address, digest in sorted(lines.items())))


def _circumstances() -> list[object]:
    """What an answer depends on beside the question, the code of spikeproof and the output directory."""
    packages = []
    for folder in sys.path:
        with suppress(OSError), os.scandir(folder or ".") as entries:
            packages += [
                [str(folder), entry.name, entry.stat().st_mtime_ns]
                for entry in entries
                if entry.name.endswith(METADATA)
            ]
    variables = sorted(
        f"{name}={value}" for name, value in os.environ.items() if name.startswith("SPIKEPROOF")
    )
    return [
        __version__,
        sys.version,
        sys.prefix,
        [str(each) for each in sys.path],
        platform.node(),
        platform.machine(),
        variables,
        sorted(packages),
    ]


def _add_code(digest: hashlib._Hash) -> None:
    """Add the files of the package, whatever their version is called."""
    root = Path(__file__).resolve().parents[1]
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(each for each in folders if each != "__pycache__")
        for name in sorted(names):
            path = f"{folder}/{name}"
            with open(path, "rb") as file:  # noqa: PTH123  # a Path takes longer
                content = file.read()
            digest.update(f"{path} {len(content)} ".encode())
            digest.update(content)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _strings(data: object, key: str | None = None, under: str | None = None) -> Iterator[str]:
    """The text in plain data: that under one key, or without one all but the names of members."""
    if isinstance(data, str) and (under == key if key else under != "name"):
        yield data
    elif isinstance(data, Mapping):
        for name, value in data.items():
            yield from _strings(value, key, name)
    elif isinstance(data, list | tuple):
        for value in data:
            yield from _strings(value, key, under)


def _read(path: Path) -> dict[str, Any]:
    with open_regular(path) as file:
        content = file.read(LARGEST_ANSWER + 1)
    kept = json.loads(content) if len(content) <= LARGEST_ANSWER else None
    if not isinstance(kept, dict) or kept["layout"] != LAYOUT:
        raise ValueError("no answer of this layout")
    return kept


def _write(path: Path, kept: Mapping[str, Any]) -> None:
    from spikeproof.experiments.run.store import write_atomically

    content = (json.dumps(kept, separators=(",", ":")) + "\n").encode()
    if len(content) <= LARGEST_ANSWER:
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, content)


def _digest(path: Path, limit: int) -> str | None:
    """The SHA-256 of a file; None where there is none."""
    if not os.path.lexists(path):
        return None
    return hashlib.sha256(bytes_of(path, limit)).hexdigest()


class _Copy(TextIOBase):
    """A stream that also keeps what is written to it."""

    encoding = "utf-8"

    def __init__(self, stream: TextIO) -> None:
        self.stream, self.text = stream, StringIO()

    def write(self, text: str, /) -> int:
        self.text.write(text)
        with redirect_stdout(self.stream):
            click.echo(text, nl=False)  # which gets every character through, unlike some streams
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def isatty(self) -> bool:
        return self.stream.isatty()

    def fileno(self) -> int:
        return self.stream.fileno()

    def writable(self) -> bool:
        return True


@contextmanager
def repeated() -> Iterator[StringIO]:
    """What is printed inside, which is printed all the same."""
    copy = _Copy(sys.stdout)
    with redirect_stdout(cast(TextIO, copy)):
        yield copy.text

"""Study files made of others: `include:` takes keys of other files, `blocks:` names what `block:` repeats.

    include: [common.yaml, quickstart]       # files beside this one, or built-in studies; the last one wins
    blocks:
      small: {network: {mlp: {hidden: [32]}}, rule: {bptt: {epochs: 2}}}
      strong: [{apgd-ce: {steps: 100}}, square]
    name: example
    models:
      - {block: small, encoder: latency}     # the keys of the block, and those beside `block` on top of them
    attacks: [fgsm, {block: strong}]         # a block that is a list becomes elements of the list around it

A key of the including file replaces the whole value of that key in the included one. The name of a study is
never taken from another file, and blocks of included files can be used. Files are read as every study file
is; none of them can run anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from spikeproof.catalogue.names import studies
from spikeproof.errors import InputError, located, suggest
from spikeproof.experiments.study.documents import MAX_DEPTH, MAX_PARTS, Document, KeyPath, Written, read

__all__ = ["BLOCKS", "INCLUDE", "USE", "composed"]

INCLUDE, BLOCKS, USE = "include", "blocks", "block"

NAME = "name"
"""The key of the name of a study, which no other study takes."""

MOST_FILES = 100
"""Most files that one study is made of."""


def composed(document: Document, folder: Path) -> Document:
    """A study document in the place of whose `include`, `blocks` and `block` stands what they mean.

    Args:
        document: as it was read.
        folder: that names of included files begin in.

    Raises:
        InputError: a file cannot be read or includes itself, a block is not there or uses itself, or the
            whole is too large; the message names file and line.

    Example:
        >>> from spikeproof.experiments.study.documents import parse
        >>> text = "blocks: {small: {rule: bptt}}\\nmodels: [{block: small, encoder: latency}]"
        >>> composed(parse(text, "study.yaml"), Path()).data
        {'models': [{'rule': 'bptt', 'encoder': 'latency'}]}
    """
    whole = _Files().joined(document, folder, ())
    if not isinstance(whole.data, dict) or (BLOCKS not in whole.data and not _uses(whole.data)):
        return whole
    data = dict(whole.data)
    blocks = data.pop(BLOCKS, None)
    if blocks is None:
        blocks = {}
    if not isinstance(blocks, dict):
        raise _misplaced(
            whole.where((BLOCKS,)), "names, each with a block", blocks, "Write blocks: {small: …}."
        )
    result = Document({}, origin=whole.origin, files=whole.files)
    result.data = _Expansion(whole, blocks, result.marks).value((), (), data, ())
    return result


def _uses(data: Written) -> bool:
    """Whether `block` stands anywhere in a document."""
    if isinstance(data, dict):
        return USE in data or any(map(_uses, data.values()))
    return isinstance(data, list) and any(map(_uses, data))


@dataclass
class _Files:
    """Reads included files, each of them as often as it is named."""

    read: int = 1

    def joined(self, document: Document, folder: Path, above: Sequence[Path]) -> Document:
        """A document on top of those that it includes."""
        if not isinstance(document.data, dict) or INCLUDE not in document.data:
            return document
        data = dict(document.data)
        named = data.pop(INCLUDE)
        below = Document({}, origin=document.origin)
        for i, name in enumerate(named if isinstance(named, list) else [named]):
            where = document.where((INCLUDE, i))
            _lay(below, self.file(name, folder, above, where))
        _lay(below, Document(data, document.marks, files=document.files))
        return below

    def file(self, name: Written, folder: Path, above: Sequence[Path], where: str) -> Document:
        """An included file, with those that it includes beneath it, and without the name of its study."""
        if not isinstance(name, str) or not name:
            raise _misplaced(where, "the name of a study file", name, "Write include: common.yaml.")
        known = studies()
        path = known[name] if name in known else folder / name
        if name not in known and not path.is_file():
            try_ = f"Paths begin in {folder}." if "." in name or "/" in name else suggest(name, known)
            raise _misplaced(where, "a study file, or the name of a built-in study", name, try_)
        own = path.resolve()
        if own in above:
            circle = " -> ".join(each.name for each in (*above[above.index(own) :], own))
            raise _misplaced(where, "files that do not include themselves", circle, "Remove one of them.")
        self.read += 1
        if self.read > MOST_FILES or len(above) > MAX_DEPTH:
            raise _misplaced(where, f"a study of at most {MOST_FILES} files", "more", "Include fewer.")
        with located(f"{where}: include {name!r:.80}"):
            found = read(path)
        if found.data is not None and not isinstance(found.data, dict):
            raise _misplaced(where, "a study file with keys and values", found.data, f"Check {name}.")
        whole = self.joined(found, path.parent, (*above, own))
        whole.data = {key: value for key, value in (whole.data or {}).items() if key != NAME}
        return whole


def _lay(below: Document, above: Document) -> None:
    """Put the keys of one document on top of another; blocks are replaced one by one."""
    for key, value in above.data.items():
        old = below.data.get(key)
        single = key == BLOCKS and isinstance(old, dict) and isinstance(value, dict)
        for path in [(key, name) for name in value] if single else [(key,)]:
            for mark in [mark for mark in below.marks if mark[: len(path)] == path]:
                del below.marks[mark]
        below.data[key] = {**old, **value} if single else value
    below.marks |= above.marks
    below.files |= above.files


@dataclass
class _Expansion:
    """Puts blocks where they are used; `marks` are the lines of what comes out."""

    document: Document
    blocks: Mapping[str, Written]
    marks: dict[KeyPath, str]
    parts: int = field(default=0)

    def value(self, source: KeyPath, target: KeyPath, data: Written, open_: Sequence[str]) -> Written:
        """A value of the document at `source`, as it stands at `target` once blocks are in their places."""
        self.parts += 1
        where = self.marks[target] = self.document.where(source)
        if self.parts > MAX_PARTS or len(target) > MAX_DEPTH or len(open_) > MAX_DEPTH:
            raise _misplaced(where, f"a study of at most {MAX_PARTS} parts", "more", "Use fewer blocks.")
        if isinstance(data, dict):
            return (
                self.mapping(source, target, data, open_)
                if USE in data
                else self.keys(source, target, data, open_)
            )
        if isinstance(data, list):
            return self.elements(source, target, data, open_)
        return data

    def keys(
        self, source: KeyPath, target: KeyPath, data: Mapping[str, Written], open_: Sequence[str]
    ) -> dict[str, Written]:
        return {
            key: self.value((*source, key), (*target, key), value, open_)
            for key, value in data.items()
            if key != USE
        }

    def mapping(
        self, source: KeyPath, target: KeyPath, data: Mapping[str, Written], open_: Sequence[str]
    ) -> Written:
        """The keys of the blocks that a mapping uses, the last on top, and its own keys on top of those."""
        where, found = self.document.where((*source, USE)), dict[str, Written]()
        names = data[USE] if isinstance(data[USE], list) else [data[USE]]
        for name in names:
            block = self.block(name, target, where, open_)
            if len(data) == 1 and len(names) == 1:
                return block
            if not isinstance(block, dict):
                raise _misplaced(where, "a block of keys beside other keys", block, "Name such a block.")
            found |= block
        return found | self.keys(source, target, data, open_)

    def elements(
        self, source: KeyPath, target: KeyPath, data: Sequence[Written], open_: Sequence[str]
    ) -> list[Written]:
        """A list, with the elements of the blocks that it uses among its own."""
        found: list[Written] = []
        for i, item in enumerate(data):
            place = (*target, len(found))
            made = self.value((*source, i), place, item, open_)
            spliced = isinstance(item, dict) and [*item] == [USE] and isinstance(made, list)
            if spliced:
                self.renumber(place, target, len(found))
            found += made if spliced else [made]
        return found

    def renumber(self, place: KeyPath, target: KeyPath, first: int) -> None:
        """Move the lines of the elements of a list into the list around it."""
        inside = [mark for mark in self.marks if mark[: len(place)] == place]
        lines = {mark: self.marks.pop(mark) for mark in inside}
        for mark, line in lines.items():
            if len(mark) > len(place):
                self.marks[(*target, first + int(mark[len(place)]), *mark[len(place) + 1 :])] = line

    def block(self, name: Written, target: KeyPath, where: str, open_: Sequence[str]) -> Written:
        """A block, with the blocks that it uses in their places."""
        if not isinstance(name, str) or name not in self.blocks:
            known = suggest(str(name), self.blocks) if self.blocks else "Name one under blocks:."
            raise _misplaced(where, "the name of a block", name, known)
        if name in open_:
            circle = " -> ".join((*open_[open_.index(name) :], name))
            raise _misplaced(where, "blocks that do not use themselves", circle, "Remove one of them.")
        return self.value((BLOCKS, name), target, self.blocks[name], (*open_, name))


def _misplaced(where: str, expected: str, got: object, try_: str) -> InputError:
    return InputError(f"{where}: expected {expected}", f"{got!r:.200}", try_)

"""A YAML text as plain data in which every value knows its line.

Only mappings, lists, strings, numbers, booleans and null are accepted: a tag such as `!!python/object` is
refused before anything is constructed, and so are duplicate keys, several documents in one file, and files
too large, too deep or too repetitive (an alias may stand for a part, but not for a million parts).
Numbers follow YAML 1.2, so `1e-3` is a number and `8/255` and `no` are text.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.resolver import BaseResolver

from spikeproof.errors import InputError
from spikeproof.plainfiles import bytes_of, printable

__all__ = ["MAX_DEPTH", "Document", "KeyPath", "Written", "parse", "read"]

MAX_BYTES = 256 * 1024
MAX_PARTS = 20_000
MAX_DEPTH = 20
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}\Z")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\Z")
_PLAIN = "tag:yaml.org,2002:"

_FLAGS = {"true": True, "false": False}
_NOTHING = ("null", "~", "")
_KEYS = tuple(f"{_PLAIN}{kind}" for kind in ("str", "int", "float", "bool"))

KeyPath = tuple[str | int, ...]
"""The keys and list indices that lead from the top of a document to one value in it."""


Written = Any
"""The content of a document: mappings, lists and leaves, nested in any way."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's way to say it


for _tag, _pattern, _first in (
    ("null", re.compile(r"(null|~|)\Z"), "n~\0"),
    ("bool", re.compile(r"(true|false)\Z"), "tf"),
    ("int", _WHOLE, "-+0123456789"),
    ("float", _NUMBER, "-+.0123456789"),
):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", _pattern, ["" if c == "\0" else c for c in _first]
    )


@dataclass
class Document:
    """Plain data, and the line of the file that each value was read from.

    Args:
        data: mappings, lists and leaves.
        marks: path -> line of the file, such as `("models", 0, "rule")` -> `"study.yaml:12"`.
        origin: what stands for the line of every value without a mark.
        files: the files that it was read from -> the SHA-256 of their content.
    """

    data: Written
    marks: dict[KeyPath, str] = field(default_factory=dict)
    origin: str = "study"
    files: dict[Path, str] = field(default_factory=dict)

    def where(self, path: KeyPath) -> str:
        """The line of the value at `path`, or of the closest value around it that has one.

        Example:
            >>> parse("a:\\n  - b: 1\\n", "study.yaml").where(("a", 0, "b", "missing"))
            'study.yaml:2'
        """
        return next(
            (self.marks[path[:n]] for n in range(len(path), -1, -1) if path[:n] in self.marks), self.origin
        )


def read(path: Path) -> Document:
    """The document in a file of at most 256 KiB.

    Raises:
        InputError: the file cannot be read, is too large, or `parse` refuses it.
    """
    try:
        content = bytes_of(path, MAX_BYTES)
    except InputError as error:
        if path.is_file():
            raise InputError("A study is a file of at most 256 KiB", str(error), "Check it.") from error
        raise InputError(
            "A study is a YAML file", f"{path}, which is none", "Name a file or a built-in study."
        ) from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError("A study is UTF-8 text", f"{path}, which is not", "Is this a study file?") from error
    document = parse(text, printable(path.name))
    document.files[path.absolute()] = hashlib.sha256(content).hexdigest()
    return document


def parse(text: str, origin: str) -> Document:
    """The document written in `text`.

    Raises:
        InputError: with `origin` and the line, whenever the text is not plain YAML.

    Example:
        >>> parse("epsilons: [0, 8/255, 1e-3]", "study.yaml").data
        {'epsilons': [0, '8/255', 0.001]}
    """
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"{origin}:{mark.line + 1}" if mark else origin
        raise InputError(
            f"{line}: expected one YAML document", str(error.problem), "Correct this line."
        ) from error
    except yaml.YAMLError as error:
        raise InputError(
            f"{origin}: expected YAML text", str(error).split("\n")[0], "Correct the file."
        ) from error
    except RecursionError as error:
        raise _too_large(origin) from error
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{origin}: expected YAML text", str(error)[:200], "Correct the file.") from error
    document = Document({}, origin=origin)
    if node is not None:
        document.data = _Reader(document).value(node, ())
    return document


@dataclass
class _Reader:
    document: Document
    parts: int = 0

    def value(self, node: yaml.Node, path: KeyPath) -> Written:
        self.parts += 1
        line = self.document.marks[path] = f"{self.document.origin}:{node.start_mark.line + 1}"
        if self.parts > MAX_PARTS or len(path) > MAX_DEPTH:
            raise _too_large(line)
        if isinstance(node, yaml.MappingNode) and node.tag == BaseResolver.DEFAULT_MAPPING_TAG:
            return {key: self.value(child, (*path, key)) for key, child in self.items(node)}
        if isinstance(node, yaml.SequenceNode) and node.tag == BaseResolver.DEFAULT_SEQUENCE_TAG:
            return [self.value(child, (*path, i)) for i, child in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return _leaf(node, line)
        raise _unknown_tag(node, line)

    def items(self, node: yaml.MappingNode) -> Iterator[tuple[str, yaml.Node]]:
        seen = set()
        for key, child in node.value:
            line = f"{self.document.origin}:{key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or key.tag not in _KEYS or _steers(key.value):
                raise InputError(f"{line}: a key is a word", "something else", "Write 'key: value'.")
            if key.value in seen:
                raise InputError(
                    f"{line}: a key stands once", f"{key.value!r} a second time", "Remove one of the two."
                )
            seen.add(key.value)
            yield key.value, child


def _leaf(node: yaml.ScalarNode, line: str) -> str | int | float | bool | None:
    match node.tag.removeprefix(_PLAIN):
        case "str" if not _steers(node.value):
            return str(node.value)
        case "str":
            raise InputError(f"{line}: expected text that can be printed", repr(node.value), "Correct it.")
        case "int" if _WHOLE.match(node.value):
            return int(node.value)
        case "float" if _NUMBER.match(node.value) and math.isfinite(float(node.value)):
            return float(node.value)
        case "bool" if node.value in _FLAGS:
            return _FLAGS[node.value]
        case "null" if node.value in _NOTHING:
            return None
    raise _unknown_tag(node, line)


def _steers(text: str) -> bool:
    """Whether a text holds control characters or marks of direction."""
    return printable(text, "\n\t") != text


def _unknown_tag(node: yaml.Node, line: str) -> InputError:
    got = f"{node.value!r:.40} as {node.tag.removeprefix('tag:yaml.org,2002:')}"
    return InputError(
        f"{line}: expected a mapping, a list, text, a finite number, true, false or null",
        got if isinstance(node, yaml.ScalarNode) else f"the tag {node.tag}",
        "Write it without a tag.",
    )


def _too_large(line: str) -> InputError:
    return InputError(
        f"{line}: a study has at most {MAX_PARTS} parts, {MAX_DEPTH} levels deep",
        "more",
        "Write fewer aliases and shallower lists.",
    )

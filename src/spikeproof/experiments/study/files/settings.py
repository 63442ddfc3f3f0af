"""`key=value` on the command line: one value of a study document is exchanged for another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.options import NEEDED, default
from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import MAX_DEPTH, Document, KeyPath, Written, parse
from spikeproof.experiments.study.files.layout import BLOCK, GRID, GRID_OPTIONS, LAYOUT, MODEL, Key
from spikeproof.specs import Hint, type_hints

__all__ = ["assign"]


def assign(document: Document, setting: str) -> None:
    """Change one value of a study document.

    The key is a path whose names are joined by dots; a number picks one element of a list, the name of a
    member picks the elements with this name, and without either every element is meant. One thing counts as a
    list of one. The value is YAML. What the file leaves out has its default, whose options can be set, and a
    member written as a bare name takes options as well.

    Raises:
        InputError: there is no `=`, the path leads nowhere, or the value is not YAML.

    Example:
        >>> study = parse("models: [{encoder: latency}, {rule: {bptt: {lr: 0.1}}}]", "study.yaml")
        >>> assign(study, "models.rule.epochs=2")
        >>> study.data["models"][0]
        {'encoder': 'latency', 'rule': {'bptt': {'epochs': 2}}}
        >>> study.data["models"][1]
        {'rule': {'bptt': {'lr': 0.1, 'epochs': 2}}}
    """
    key, equals, text = setting.partition("=")
    names = key.split(".")
    if not equals or not all(names):
        raise InputError("A setting is written key=value", _short(setting), "Write, say, examples=100.")
    if len(names) > MAX_DEPTH:
        raise InputError(
            f"A setting names a value at most {MAX_DEPTH} levels deep", _short(setting), "Check the path."
        )
    label = f"setting {_short(setting)}"
    change = _Change(document, label, parse(text, label).data)
    document.data = change.among((), LAYOUT, document.data, names)


NAME = "name"
"""The key of the name of a member that is written with its options beside it."""


class _Absent:
    """What stands for a value that the file leaves out."""


ABSENT = _Absent()


class _Change:
    def __init__(self, document: Document, label: str, value: Written) -> None:
        self.document, self.label, self.value = document, label, value

    def at(self, path: KeyPath, key: Key, data: Written | _Absent, names: Sequence[str]) -> Written:
        """What stands under a key, after the value that `names` lead to inside it was exchanged."""
        if not names:
            return self.written(path)
        data = key.default if isinstance(data, _Absent) else data
        if not key.many:
            return self.inside(path, key.holds, data, names)
        if isinstance(data, list):
            return self.elements(path, [key.holds] * len(data), data, names)
        if not _is_number(names[0]):
            return self.inside(path, key.holds, data, names)
        self.index(names[0], 1)
        return self.inside(path, key.holds, data, names[1:])

    def inside(self, path: KeyPath, holds: object, data: Written, names: Sequence[str]) -> Written:
        """A value of a stated type, after what `names` lead to inside it was exchanged."""
        if not names:
            return self.written(path)
        if isinstance(holds, Mapping):
            return self.among(path, holds, data, names)
        hint = Hint.of(holds)
        if hint.holds in PARTS:
            return self.member(path, hint.holds, data, names)
        if isinstance(hint.holds, type) and dataclasses.is_dataclass(hint.holds):
            return self.among(path, _options(hint.holds), data, names)
        if hint.holds is object and (
            data is None or isinstance(data, dict)
        ):  # whoever reads it says what it is
            return self.among(path, {}, data, names)
        if isinstance(data, list):
            kinds = hint.elements(len(data)) if hint.many is not None else None
            return self.elements(path, kinds or [object] * len(data), data, names)
        raise self.nowhere(names[0], data)

    def among(
        self, path: KeyPath, keys: Mapping[str, Key], data: Written, names: Sequence[str]
    ) -> dict[str, Written]:
        """A mapping, after the value of one of its keys was exchanged."""
        held = {} if data is None else data
        if not isinstance(held, dict):
            raise self.nowhere(names[0], data)
        name = names[0]
        inner = self.at((*path, name), keys.get(name, Key(object)), held.get(name, ABSENT), names[1:])
        return {**held, name: inner}

    def member(self, path: KeyPath, kind: object, data: Written, names: Sequence[str]) -> Written:
        """A part by its name, with options or without, after one of its options was exchanged."""
        name = _name_of(data)
        if name is None and isinstance(data, dict) and len(data) != 1:
            return self.among(path, {}, data, names)
        if name is None and not _is_member(kind, names[0]):
            known = f", such as {path[-1]}.{min(PARTS[kind])}" if path else ""
            raise InputError(
                f"{self.label}: expected the name of a part, as there is none by default",
                _short(names[0]),
                f"Name one with its options{known}.",
            )
        if name is None:
            return {names[0]: self.options(path, kind, names[0], {}, names[1:])}
        own = names[0] == name and name not in _takes(kind, name)
        names = names[1:] if own else names
        if isinstance(data, dict) and NAME in data and names:
            rest = {each: value for each, value in data.items() if each != NAME}
            if names[0] == NAME:
                return {NAME: self.inside((*path, NAME), object, name, names[1:]), **rest}
            return {NAME: name, **self.among(path, _takes(kind, name), rest, names)}
        given = data.get(name) if isinstance(data, dict) else None
        return {name: self.options(path, kind, name, given or {}, names)}

    def options(self, path: KeyPath, kind: object, name: str, data: Written, names: Sequence[str]) -> Written:
        """The options of a named part, after one of them was exchanged."""
        if not names:
            return self.written((*path, name))
        return self.among((*path, name), _takes(kind, name), data, names)

    def elements(
        self, path: KeyPath, holds: Sequence[object], data: list[Written], names: Sequence[str]
    ) -> list[Written]:
        """A list, after one of its elements, those with a name, or all of them were changed."""
        if _is_number(names[0]):
            chosen, rest = {self.index(names[0], len(data))}, names[1:]
        else:
            chosen, rest = self.meant(data, holds, names), names
        return [
            self.inside((*path, i), holds[i], item, rest) if i in chosen else item
            for i, item in enumerate(data)
        ]

    def meant(self, data: list[Written], holds: Sequence[object], names: Sequence[str]) -> set[int]:
        """The elements that a name means: those of that name, or all that can have such a key."""
        if not data:
            raise InputError(
                f"{self.label}: expected a list with elements", "an empty one", "Write the list."
            )
        blocks = {i for i, each in enumerate(holds) if each is BLOCK and isinstance(data[i], dict)}
        named = {i for i, item in enumerate(data) if _name_of(item) == names[0]} - blocks
        if named:
            return named
        given = {i for i in blocks if MODEL in data[i]}
        return given if names[0] == MODEL and given else set(range(len(data))) - given or blocks

    def index(self, name: str, count: int) -> int:
        """The element that a number picks."""
        if not (len(name) < 6 and int(name) < count):
            raise InputError(
                f"{self.label}: expected a number below {count}", _short(name), "Counting starts at 0."
            )
        return int(name)

    def written(self, path: KeyPath) -> Written:
        marks = self.document.marks
        for old in [old for old in marks if old[: len(path)] == path]:
            del marks[old]
        marks[path] = self.label
        return self.value

    def nowhere(self, name: str, data: object) -> InputError:
        return InputError(
            f"{self.label}: expected the path of a value",
            f"{_short(name)} inside {_short(data)}",
            "Check the path.",
        )


def _takes(kind: object, name: str) -> Mapping[str, Key]:
    """The options of a member by name, with their defaults; none of a member that is not known."""
    if name == GRID:
        return GRID_OPTIONS
    return _options(PARTS[kind][name]) if _is_member(kind, name) else {}


def _options(part: type) -> dict[str, Key]:
    hints = type_hints(part)
    found = {}
    for field in dataclasses.fields(part):
        if field.init:
            value = default(field)
            found[field.name] = Key(hints[field.name], default=None if value is NEEDED else value)
    return found


def _is_member(kind: object, name: str) -> bool:
    return name in PARTS.get(kind, {})


def _name_of(data: Written) -> str | None:
    """The name of a member in any of its three forms; None of anything else."""
    if isinstance(data, str):
        return data
    if isinstance(data, dict) and isinstance(data.get(NAME), str):
        return str(data[NAME])
    if isinstance(data, dict) and len(data) == 1:
        ((name, options),) = data.items()
        return str(name) if options is None or isinstance(options, dict) else None
    return None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 120 else text[:117] + "..."

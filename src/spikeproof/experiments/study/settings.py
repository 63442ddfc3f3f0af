"""`key=value` on the command line: one value of a study document is exchanged for another."""

from __future__ import annotations

from collections.abc import Sequence

from spikeproof.errors import InputError
from spikeproof.experiments.study.documents import MAX_DEPTH, Document, KeyPath, Written, parse

__all__ = ["assign"]


def assign(document: Document, setting: str) -> None:
    """Change one value of a study document.

    The key is a path whose names are joined by dots; a number picks one element of a list, and without it
    every element is meant. The value is YAML. A member written as a bare name takes options this way too.

    Raises:
        InputError: there is no `=`, the path leads nowhere, or the value is not YAML.

    Example:
        >>> study = parse("models: [{rule: bptt}, {rule: {bptt: {lr: 0.1}}}]", "study.yaml")
        >>> assign(study, "models.rule.epochs=2")
        >>> study.data
        {'models': [{'rule': {'bptt': {'epochs': 2}}}, {'rule': {'bptt': {'lr': 0.1, 'epochs': 2}}}]}
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
    document.data = change.at((), document.data, names)


class _Change:
    def __init__(self, document: Document, label: str, value: Written) -> None:
        self.document, self.label, self.value = document, label, value

    def at(self, path: KeyPath, data: Written, names: Sequence[str]) -> Written:
        """`data`, the value at `path`, after the value that `names` lead to inside it was exchanged."""
        if not names:
            return self._written(path)
        match data:
            case list():
                return self._in_list(path, data, names)
            case str():
                return {data: self.at((*path, data), {}, names)}
            case None:
                return self.at(path, {}, names)
            case dict() if (
                _is_member(path) and _options(data) is not None and names[0] not in (*data, "name")
            ):
                (member,) = data
                return {member: self.at((*path, member), data[member] or {}, names)}
            case dict():
                name, rest = names[0], names[1:]
                return {**data, name: self.at((*path, name), data.get(name), rest)}
        raise InputError(
            f"{self.label}: expected the path of a value",
            f"{_short(names[0])} inside {_short(data)}",
            "Check the path.",
        )

    def _in_list(self, path: KeyPath, data: list[Written], names: Sequence[str]) -> list[Written]:
        if not (names[0].isascii() and names[0].isdecimal()):
            return [self.at((*path, i), item, names) for i, item in enumerate(data)]
        if not (len(names[0]) < 6 and int(names[0]) < len(data)):
            raise InputError(
                f"{self.label}: expected a number below {len(data)}",
                _short(names[0]),
                "Counting starts at 0.",
            )
        chosen = int(names[0])
        return [self.at((*path, i), item, names[1:]) if i == chosen else item for i, item in enumerate(data)]

    def _written(self, path: KeyPath) -> Written:
        marks = self.document.marks
        for old in [old for old in marks if old[: len(path)] == path]:
            del marks[old]
        marks[path] = self.label
        return self.value


def _short(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 120 else text[:117] + "..."


def _is_member(path: KeyPath) -> bool:
    """Whether the value at a path can be a part, and is neither the study nor a block of models."""
    return len(path) > (2 if path[:1] == ("models",) else 0)


def _options(data: dict[str, Written]) -> dict[str, Written] | None:
    """The options of a member in its short form, `{latency: {steps: 8}}`."""
    (options,) = data.values() if len(data) == 1 else ("",)
    return {} if options is None else options if isinstance(options, dict) else None

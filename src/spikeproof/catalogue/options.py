"""The options of a member of the catalogue: what each holds, its default, and what it means."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import TYPE_CHECKING, NamedTuple

from spikeproof.catalogue.names import KINDS, PARTS
from spikeproof.errors import InputError, suggest
from spikeproof.interop.foreign import Foreign
from spikeproof.specs import describe, spelt, type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["NEEDED", "Option", "default", "meaning", "options", "written"]

NEEDED = "(required)"
"""What stands in the place of a default where an option must be given."""


class Option(NamedTuple):
    """One option of a member, as a study file writes it.

    Args:
        name: of the option.
        holds: what kind of value it takes.
        default: the value that it has if it is left out; `NEEDED` if it must be given.
        meaning: what it does, with its unit and range.
    """

    name: str
    holds: str
    default: object
    meaning: str


def options(kind: str, name: str) -> list[Option]:
    """Every option of one member of a kind, in the order of its declaration.

    Args:
        kind: such as `encoders`.
        name: of the member, such as `latency`.

    Raises:
        InputError: there is no such kind or member.

    Example:
        >>> [(option.name, option.holds) for option in options("encoders", "latency")]
        [('steps', 'a whole number'), ('backward', 'a name of kind backward-rules')]
    """
    if kind not in KINDS:
        raise InputError("Expected a kind of part that has options", repr(kind), suggest(kind, KINDS))
    table = PARTS[KINDS[kind]]
    if name not in table:
        raise InputError(f"Expected a name of kind {kind}", repr(name), suggest(name, table))
    member, hints = table[name], type_hints(table[name])
    return [
        Option(field.name, _holds(hints[field.name]), default(field), meaning(member, field.name))
        for field in dataclasses.fields(member)
        if field.init
    ]


_NAMES = {kind: f"a name of kind {name}" for name, kind in KINDS.items()}


def _holds(hint: object) -> str:
    """What kind of value an option takes; of a part without a name of its own, its options."""
    parts = [part for part in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(part)]
    options: dict[object, str] = {
        part: f"a mapping of {', '.join(field.name for field in dataclasses.fields(part))}" for part in parts
    }
    return spelt(hint, {**options, **_NAMES})


def default(field: dataclasses.Field[object]) -> object:
    """The default of a field as a study file writes it; `NEEDED` where there is none.

    Args:
        field: of a member of the catalogue.
    """
    value = field.default
    if field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    if value is dataclasses.MISSING:
        return NEEDED
    return written(value)


def written(value: object) -> object:
    """A value in the short form of a study file: parts by name, with options other than their defaults.

    Args:
        value: of an option.

    Example:
        >>> from spikeproof.encoders import Latency
        >>> written((1, Latency(), Latency(steps=3)))
        [1, 'latency', {'latency': {'steps': 3}}]
    """
    if isinstance(value, (tuple, list)):
        return [written(each) for each in value]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    spec = describe(value, PARTS)
    name = spec.pop("name", None)
    plain = {
        field.name: written(getattr(value, field.name))
        for field in dataclasses.fields(value)
        if field.name in spec and getattr(value, field.name) != field.default
    }
    if name is None:
        return plain
    return {name: plain} if plain else name


def meaning(member: type[DataclassInstance], option: str) -> str:
    """What the docstring of a member, or of a class that it inherits from, says of one option.

    Args:
        member: a class of the catalogue.
        option: the name of one of its fields.

    Example:
        >>> from spikeproof.encoders import Latency
        >>> meaning(Latency, "steps")
        'number of time steps `T`, at least 1.'
    """
    if issubclass(member, Foreign):
        return "as in that library"
    for owner in member.__mro__:
        if (text := _arguments(owner).get(option)) is not None:
            return text
    return ""


def _arguments(owner: type) -> dict[str, str]:
    """The arguments that a docstring explains, each with its explanation on one line."""
    found: dict[str, list[str]] = {}
    current: list[str] = []
    inside = False
    for line in (vars(owner).get("__doc__") or "").splitlines():
        text = line.strip()
        if text in ("Args:", "Arguments:"):
            inside = True
        elif inside and (not text or re.fullmatch(r"\w+:", text)):
            inside = False
        elif inside and (match := re.match(r"([\w, ]+?): (.*)", text)) and _indent(line) == 8:
            current = [match[2]]
            found |= dict.fromkeys(re.split(r",\s*", match[1]), current)
        elif inside:
            current.append(text)
    return {name: " ".join(lines) for name, lines in found.items()}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())

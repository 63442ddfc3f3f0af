"""Parts as plain data: how a frozen dataclass, which is its own configuration, is written and read.

For each kind of part, a catalogue maps names to classes; no class registers itself. `build` makes a part from
a name and its options, `describe` does the reverse and leaves nothing out, so that
`build(kind, describe(part, catalogue), catalogue) == part`. A dataclass that is in no table of the catalogue,
such as a group of parts, is written as its fields only.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import pydantic

from spikeproof.errors import InputError, suggest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "EXPONENT",
    "FRACTION",
    "Catalogue",
    "Hint",
    "Where",
    "address",
    "build",
    "canonical",
    "describe",
    "spelt",
    "summary",
    "type_hints",
]

Catalogue = Mapping[object, Mapping[str, type]]
"""Kind of part -> name -> class, such as `{Encoder: {"latency": Latency}}`."""

Where = Callable[[tuple[str | int, ...]], str]
"""(path from the top of a spec to one value in it) -> location, such as `study.yaml:12`."""

EXPONENT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+")
"""Text that is read as a number, since some YAML readers return it as text."""

FRACTION = re.compile(r"([0-9]+\.?[0-9]*) ?/ ?([1-9][0-9]*)")
"""Text that is read as a fraction, such as `8/255`."""


def build(kind: object, spec: object, catalogue: Catalogue, where: Where | None = None) -> Any:
    """The part that a spec describes, of the given kind.

    Args:
        kind: a kind of part in the catalogue, or any dataclass.
        spec: a name, `"latency"`; a name with options, `{"name": "latency", "steps": 8}`; or the same in
            short, `{"latency": {"steps": 8}}`. For a dataclass outside the catalogue, its fields.
        catalogue: maps the names of each kind to classes.
        where: gives the location that error messages begin with; None for the path itself.

    Raises:
        InputError: an unknown name or option, a missing option, a value of another type, or a value that the
            part itself refuses. Text is never read as a number, except in the form `1e-3`, which some YAML
            readers return as text, and in the form `8/255`.

    Example:
        >>> from spikeproof.neurons import LIF, BySubtraction, Neuron, Reset, ToZero
        >>> catalogue = {Neuron: {"lif": LIF}, Reset: {"to-zero": ToZero, "by-subtraction": BySubtraction}}
        >>> build(Neuron, {"lif": {"tau": 0.01, "reset": "to-zero"}}, catalogue)
        LIF(threshold=1.0, reset=ToZero(), detach_reset=False, synapse=None, tau=0.01, dt=0.001)
        >>> build(Neuron, {"lif": {"tua": 0.01}}, catalogue)
        Traceback (most recent call last):
        spikeproof.errors.InputError: lif.tua: 'lif' has no such option: got 'tua'. Did you mean 'tau'?
    """
    return _Builder(catalogue, where or _path).value(kind, spec, ())


def describe(part: object, catalogue: Catalogue) -> dict[str, Any]:
    """A part as plain data, with every option written out: equal parts have equal descriptions.

    Raises:
        InputError: the part, or a part inside it, is not a dataclass or has no name in the catalogue.

    Example:
        >>> from spikeproof.neurons import LIF, BySubtraction, Neuron, Reset
        >>> catalogue = {Neuron: {"lif": LIF}, Reset: {"by-subtraction": BySubtraction}}
        >>> describe(LIF(tau=1), catalogue)["tau"], describe(LIF(), catalogue)["reset"]
        (1.0, {'name': 'by-subtraction'})
    """
    if not dataclasses.is_dataclass(part) or isinstance(part, type):
        raise InputError("Only dataclasses can be described", repr(part), "Make the part a frozen dataclass.")
    name = _name(type(part), catalogue)
    hints = type_hints(type(part))
    options = {name: _plain(hints[name], getattr(part, name), catalogue) for name in _options(type(part))}
    return options if name is None else {"name": name, **options}


def canonical(data: object) -> str:
    """The canonical JSON text of plain data: sorted keys, no spaces, the shortest digits for each float.

    Raises:
        InputError: the data hold a number that is not finite, or a value that JSON cannot represent.

    Example:
        >>> canonical({"b": (1, 2.0), "a": None})
        '{"a":null,"b":[1,2.0]}'
    """
    try:
        return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            "Plain data consist of mappings, lists, text, finite numbers, booleans and null",
            f"{data!r:.200} ({error})",
            "Describe parts first, and leave out what is not finite.",
        ) from error


def address(data: object) -> str:
    """The name of a result: 32 hexadecimal digits of the SHA-256 of the data it was computed from.

    Example:
        >>> address({"a": 1, "b": 2}) == address({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical(data).encode()).hexdigest()[:32]


def summary(cls: type) -> str:
    """The first sentence of a class's docstring, on one line.

    Example:
        >>> from spikeproof.decoders import Count
        >>> summary(Count)
        'Spike count: the class whose output neuron fires most often.'
    """
    paragraph = " ".join((cls.__doc__ or "").strip().split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph, maxsplit=1)[0]


def _path(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path))


@functools.cache
def type_hints(cls: type) -> dict[str, Any]:
    """The type of every field of a dataclass, resolved once."""
    return typing.get_type_hints(cls)


def _options(cls: type[DataclassInstance]) -> dict[str, bool]:
    """The names of a dataclass's options, and whether each must be given."""
    missing = dataclasses.MISSING
    return {
        f.name: f.default is missing and f.default_factory is missing
        for f in dataclasses.fields(cls)
        if f.init
    }


def _name(cls: type, catalogue: Catalogue) -> str | None:
    named = (name for table in catalogue.values() for name, member in table.items() if member is cls)
    return next(named, None)


class Hint(NamedTuple):
    """A field's type: what it holds, whether None is allowed instead, and whether it is a list."""

    holds: object
    optional: bool
    many: tuple[object, ...] | None = None

    @classmethod
    def of(cls, hint: object) -> Hint:
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            rest = [member for member in typing.get_args(hint) if member is not types.NoneType]
            if len(rest) == 1:
                return cls.of(rest[0])._replace(optional=True)
        if typing.get_origin(hint) is tuple:
            return cls(hint, False, typing.get_args(hint))
        return cls(hint, False)

    def elements(self, count: int) -> list[object] | None:
        """The types of `count` elements, or None when there must be another number of them."""
        assert self.many is not None
        if self.many[1:] == (Ellipsis,):
            return [self.many[0]] * count
        return list(self.many) if len(self.many) == count else None


def _plain(hint: object, value: object, catalogue: Catalogue) -> object:
    field = Hint.of(hint)
    if value is None and field.optional:
        return None
    if field.holds in catalogue and type(value) not in catalogue[field.holds].values():
        raise InputError(
            f"Only a part with a name can be stored; the names of kind {_called(field.holds)} are "
            f"{', '.join(map(repr, sorted(catalogue[field.holds])))}",
            repr(value),
            "Use one of these, or keep results of your own part outside the store.",
        )
    if dataclasses.is_dataclass(value):
        return describe(value, catalogue)
    if field.many is not None and isinstance(value, (tuple, list)):
        hints = field.elements(len(value)) or [object] * len(value)
        return [_plain(one, element, catalogue) for one, element in zip(hints, value, strict=True)]
    return _leaf(field.holds, value, f"{type(value).__name__} in a part: ")


class _Builder:
    def __init__(self, catalogue: Catalogue, where: Where) -> None:
        self.catalogue, self.where = catalogue, where

    def value(self, hint: object, data: object, path: tuple[str | int, ...]) -> object:
        field = Hint.of(hint)
        if data is None and field.optional:
            return None
        if field.holds in self.catalogue:
            return self.member(field.holds, data, path)
        if isinstance(field.holds, type) and dataclasses.is_dataclass(field.holds):
            return self.part(field.holds, _called(field.holds), data, path)
        if field.many is not None:
            return self.elements(field, data, path)
        return _leaf(field.holds, data, self.at(path))

    def member(self, kind: object, data: object, path: tuple[str | int, ...]) -> object:
        table = self.catalogue[kind]
        name: Any  # any value that the file has here
        options: object
        match data:
            case str():
                name, options, inside = data, {}, path
            case {"name": name, **options}:
                inside = path
            case Mapping() if len(data) == 1:
                ((name, options),) = data.items()
                inside = (*path, name)
            case _:
                raise InputError(
                    f"{self.at(path)}expected a name of kind {_called(kind)}, with options or without",
                    _shown(data),
                    f"Write a name such as {min(table)!r}, or {{{min(table)}: {{option: value}}}}.",
                )
        if not isinstance(name, str) or name not in table:
            raise InputError(
                f"{self.at(inside)}expected a name of kind {_called(kind)}",
                _shown(name),
                suggest(str(name), table),
            )
        return self.part(table[name], name, {} if options is None else options, inside)

    def part(self, cls: type, name: str, data: object, path: tuple[str | int, ...]) -> object:
        options = _options(cls)
        if not isinstance(data, Mapping):
            raise InputError(
                f"{self.at(path)}expected the options of {name!r}",
                _shown(data),
                f"Write option: value, with {_listed(options)}.",
            )
        for key in data:
            if key not in options:
                raise InputError(
                    f"{self.at((*path, key))}{name!r} has no such option",
                    _shown(key),
                    suggest(str(key), options) if options else "It takes no options.",
                )
        for key, required in options.items():
            if required and key not in data:
                raise InputError(f"{self.at(path)}{name!r} needs {key!r}", _listed(data), f"Add {key}.")
        hints = type_hints(cls)
        values = {key: self.value(hints[key], value, (*path, key)) for key, value in data.items()}
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"{self.at(path)}{error.expected}", error.got, error.try_) from error

    def elements(self, field: Hint, data: object, path: tuple[str | int, ...]) -> tuple[object, ...]:
        values = data if isinstance(data, (list, tuple)) else ()
        hints = field.elements(len(values)) if values is data else None
        if hints is None:
            raise _refused(field.holds, data, self.at(path))
        return tuple(
            self.value(hint, value, (*path, i))
            for i, (hint, value) in enumerate(zip(hints, values, strict=True))
        )

    def at(self, path: tuple[str | int, ...]) -> str:
        location = self.where(path)
        return f"{location}: " if location else ""


@functools.cache
def _validator(hint: Any) -> Callable[[object], object]:
    strict = pydantic.ConfigDict(strict=True, allow_inf_nan=False)
    return pydantic.TypeAdapter[object](hint, config=strict).validate_python


def _leaf(hint: object, data: object, location: str) -> object:
    if hint is float and isinstance(data, str) and EXPONENT.fullmatch(data):
        data = float(data)
    if hint is float and isinstance(data, str) and (fraction := FRACTION.fullmatch(data)):
        data = float(fraction[1]) / float(fraction[2])
    try:
        value = _validator(hint)(data)
    except pydantic.ValidationError as error:
        raise _refused(hint, data, location) from error
    return value + 0.0 if isinstance(value, float) else value  # one zero, not two


def _refused(hint: object, data: object, location: str) -> InputError:
    return InputError(f"{location}expected {spelt(hint)}", _shown(data), _advice(hint, data))


def spelt(hint: object, names: Mapping[object, str] | None = None) -> str:
    """A type as a message names it.

    Args:
        hint: a type, as an annotation has it.
        names: what kinds of parts are called; None for their classes.

    Example:
        >>> spelt(tuple[int, ...] | None)
        'a list, each element a whole number, or null'
    """
    words: dict[object, str] = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "text",
        **(names or {}),
    }
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if arguments[1:] == (Ellipsis,):
            return f"a list, each element {spelt(arguments[0], names)}"
        return f"a list of {len(arguments)} elements"
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        kinds = ["null" if a is types.NoneType else spelt(a, names) for a in arguments]
        return (", or " if "," in kinds[0] else " or ").join(kinds)
    if typing.get_origin(hint) is typing.Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    return words.get(hint, _called(hint))


def _advice(hint: object, data: object) -> str:
    if isinstance(data, str) and hint in (int, float):
        return "Write the number without quotes, such as 8 or 0.001."
    if typing.get_origin(hint) is tuple:
        return "Write it as a list, such as [16, 32]."
    if hint is int and isinstance(data, float) and math.isfinite(data):
        return f"Write a whole number, such as {round(data)}."
    return "Correct this value."


def _called(kind: object) -> str:
    return str(getattr(kind, "__name__", kind))


def _shown(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 120 else text[:117] + "..."


def _listed(names: Iterable[object]) -> str:
    return ", ".join(map(repr, names)) or "no options"

"""The JSON Schema of study files, made of the catalogue, by which editors complete and check them."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spikeproof.catalogue.extensions import imported
from spikeproof.catalogue.names import KINDS, PARTS
from spikeproof.catalogue.options import NEEDED, default, meaning
from spikeproof.experiments.study.files.composition import BLOCKS, INCLUDE, USE
from spikeproof.experiments.study.files.layout import BLOCK, GRID, GRID_OPTIONS, GROUPS, LAYOUT, MODEL, Key
from spikeproof.specs import EXPONENT, FRACTION, Hint, summary, type_hints

__all__ = ["schema"]

Schema = dict[str, Any]
"""A JSON Schema as plain data."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_NAMES = {kind: name for name, kind in KINDS.items()}
_USE = "block-by-name"

_NUMBER = f"{EXPONENT.pattern}|{FRACTION.pattern}"
_PLAIN: Mapping[object, Schema] = {
    int: {"type": "integer"},
    float: {
        "anyOf": [
            {"type": "number"},
            {"type": "string", "pattern": f"^({EXPONENT.pattern}|{FRACTION.pattern})$"},
        ]
    },
    bool: {"type": "boolean"},
    str: {"type": "string"},
    types.NoneType: {"type": "null"},
    object: {},
}


def schema() -> Schema:
    """The schema, with the members that other packages add.

    A file without a name is taken for one that others include, so that it needs nothing.

    Example:
        >>> schema()["properties"]["sweep"]["anyOf"][0]
        {'enum': ['afresh', 'nested']}

    Source:
        JSON Schema, draft 2020-12.
    """
    made = _Schema()
    others = {"attacks": made.grids(), "corruptions": [{"enum": [*GROUPS]}]}
    properties = {name: made.entry(key, others.get(name, [])) for name, key in LAYOUT.items()}
    names = {"type": "string", "description": "a study file beside this one, or a built-in study"}
    properties[INCLUDE] = {
        "description": "study files whose keys lie beneath those of this one",
        "anyOf": [names, {"type": "array", "items": names}],
    }
    properties[BLOCKS] = {"description": f"what `{USE}: NAME` repeats", "type": "object"}
    return {
        "$schema": DIALECT,
        "title": "A study of spikeproof",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "anyOf": [{"required": ["data"]}, {"required": [INCLUDE]}, {"not": {"required": ["name"]}}],
        "$defs": made.definitions,
    }


@dataclass
class _Schema:
    definitions: dict[str, Schema] = field(
        default_factory=lambda: {
            _USE: {
                "description": "the keys of a block, and others on top of them",
                "type": "object",
                "required": [USE],
                "properties": {USE: {"anyOf": _one_or_many({"type": "string"})}},
            }
        }
    )

    def entry(self, key: Key, others: Sequence[Schema] = ()) -> Schema:
        """What may stand under a key of a study file, and what else may stand in its list."""
        one = self.block() if key.holds is BLOCK else self.held(key)
        one = {"anyOf": [one, *others]} if others else one
        forms = _one_or_many(one) if key.many else [one]
        if key.word is not None:
            forms.append({"const": key.word})
        found: Schema = {"description": key.meaning, "anyOf": [*forms, _to(_USE)]}
        return found if key.default is None else {**found, "default": key.default}

    def held(self, key: Key) -> Schema:
        if isinstance(key.holds, Mapping):
            return _closed({name: self.entry(each) for name, each in key.holds.items()})
        if key.without:
            return self.kind(key.holds, key.without)
        return {"anyOf": [self.of(key.holds), _to(_USE)]} if key.many else self.of(key.holds)

    def block(self) -> Schema:
        """A block of models: the axes of which it is the product, or a model that exists already."""
        axes = {name: self.entry(key) for name, key in BLOCK.items() if name != MODEL}
        return {
            "anyOf": [
                {**_closed(axes), "required": ["encoder"]},
                {**_closed({MODEL: self.entry(BLOCK[MODEL])}), "required": [MODEL]},
                {**_closed({USE: _to(_USE, "properties", USE), **axes}), "required": [USE]},
            ]
        }

    def grids(self) -> list[Schema]:
        """The attack that is made on every model and judged on every other one."""
        options = _closed({name: self.entry(key) for name, key in GRID_OPTIONS.items()})
        return [{"const": GRID}, _closed({GRID: options})]

    def of(self, hint: object) -> Schema:
        """What a value of this type looks like."""
        found = Hint.of(hint)
        one = self.one(found)
        return {"anyOf": [one, {"type": "null"}]} if found.optional else one

    def one(self, hint: Hint) -> Schema:
        holds = hint.holds
        if holds in PARTS:
            return self.kind(holds)
        if holds in _PLAIN:
            return _PLAIN[holds]
        if hint.many is not None:
            if hint.many[1:] == (Ellipsis,):
                return {"type": "array", "items": self.of(hint.many[0])}
            items = [self.of(each) for each in hint.many]
            return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
        if typing.get_origin(holds) is typing.Literal:
            return {"enum": list(typing.get_args(holds))}
        if typing.get_origin(holds) in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(each) for each in typing.get_args(holds)]}
        if isinstance(holds, type) and issubclass(holds, enum.Enum):
            return {"enum": [each.value for each in holds]}
        if isinstance(holds, type) and dataclasses.is_dataclass(holds):
            return self.named(holds.__name__, lambda: self.options(holds, ()), closed=True)
        return {}

    def kind(self, kind: object, without: tuple[str, ...] = ()) -> Schema:
        """A member of a kind: a name, a name with options in short, or a mapping with its name."""
        name = "-without-".join((_NAMES[kind], *without))
        return self.named(name, lambda: self.members(kind, name, without))

    def members(self, kind: object, prefix: str, without: tuple[str, ...]) -> Schema:
        imported(kind)
        short, long, bare = dict[str, Schema](), list[Schema](), list[str]()
        for name, part in PARTS[kind].items():
            place = f"{prefix}.{name}"
            self.definitions[place] = options = self.options(part, without)
            needs = bool(options.get("required"))
            bare += [] if needs else [name]
            full: Schema = {**_to(place), "unevaluatedProperties": False}
            short[name] = full if needs else {"anyOf": [full, {"type": "null"}]}
            short[name] = {"description": summary(part), **short[name]}
            long.append({"if": {"properties": {"name": {"const": name}}}, "then": _to(place)})
        named: Schema = {
            "type": "object",
            "required": ["name"],
            "properties": {"name": {"enum": [*PARTS[kind]]}},
            "allOf": long,
            "unevaluatedProperties": False,
        }
        one = {**_closed(short), "minProperties": 1, "maxProperties": 1}
        return {"anyOf": [{"enum": bare}, one, named, _to(_USE)]}

    def options(self, part: type, without: tuple[str, ...]) -> Schema:
        """The options of a part; the mapping that they stand in may have other keys."""
        hints, properties, required = type_hints(part), dict[str, Schema](), list[str]()
        for option in dataclasses.fields(part):
            if not option.init or option.name in without:
                continue
            value, found = default(option), dict(self.of(hints[option.name]))
            if words := meaning(part, option.name):
                found["description"] = words
            if value is NEEDED:
                required.append(option.name)
            else:
                found["default"] = value
            properties[option.name] = found
        return {"type": "object", "properties": properties, "required": required}

    def named(self, name: str, make: Callable[[], Schema], *, closed: bool = False) -> Schema:
        """A reference to a definition, which is made the first time that it is asked for."""
        if name not in self.definitions:
            self.definitions[name] = {}  # what is being made may name itself
            self.definitions[name] = make()
        return {**_to(name), "unevaluatedProperties": False} if closed else _to(name)


def _to(*path: str) -> Schema:
    return {"$ref": "/".join(("#/$defs", *path))}


def _one_or_many(one: Schema) -> list[Schema]:
    return [one, {"type": "array", "items": one}]


def _closed(properties: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(properties), "additionalProperties": False}

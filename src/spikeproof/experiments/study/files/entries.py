"""The entries of a study file: one thing or several, each with the line that messages name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from spikeproof.catalogue.names import PARTS
from spikeproof.errors import InputError, suggest
from spikeproof.experiments.study.documents import Document, KeyPath, Written
from spikeproof.experiments.study.files.layout import GRID, GRID_OPTIONS, LAYOUT
from spikeproof.specs import build

__all__ = ["Entries"]

Item = TypeVar("Item")


@dataclass(frozen=True)
class Entries:
    """Access to the entries of a study file, by path.

    Args:
        document: of the study.
    """

    document: Document

    def attacks(self) -> list[tuple[KeyPath, Written]]:
        """The attacks; `suite: standard` is short for the attack `{suite: {level: standard}}`."""
        suites = [(path, {"name": "suite", "level": level}) for path, level in self.listed("suite")]
        named = [each for path, item in self.listed("attacks") for each in self.spread(path, item)]
        return [*named, *suites]

    def spread(self, path: KeyPath, item: Written) -> list[tuple[KeyPath, Written]]:
        """The attacks that one item stands for: a grid is its attack on each model and on all others."""
        written = {"name": item} if isinstance(item, str) else item
        if not isinstance(written, Mapping):
            return [(path, item)]
        if written.get("name") == GRID:
            options: Written = {key: value for key, value in written.items() if key != "name"}
        elif GRID in written:
            options = written[GRID]
        else:
            return [(path, item)]
        if options is None:
            options = {}
        self.keys((*path, GRID), options, GRID_OPTIONS, required=() if options == {} else GRID_OPTIONS)
        attack = options.get("attack", GRID_OPTIONS["attack"].default)
        return [(path, attack), (path, {"transfer": {"attack": attack}})]

    def value(self, name: str) -> Written:
        """What the file has under a key, or the default."""
        return self.document.data.get(name, LAYOUT[name].default)

    def whole_of(self, name: str) -> int:
        """A whole number of at least 1."""
        return self.whole((name,), self.value(name), 1)

    def whole_or(self, name: str) -> int | None:
        """A whole number of at least 1; None for the word that may stand there instead."""
        value, word = self.value(name), LAYOUT[name].word
        return None if value == word else self.whole((name,), value, 1, f" or {word}")

    def whole(self, path: KeyPath, value: object, least: int, also: str = "") -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.error(
                path,
                f"a whole number of at least {least}{also}",
                repr(value),
                f"Write, for example, {least + 1}.",
            )
        return value

    def part(self, kind: type, path: KeyPath, item: Written) -> Any:
        """The part that an item stands for; its type is what the catalogue makes of that kind."""
        return build(kind, item, PARTS, lambda below: self.document.where((*path, *below)))

    def listed(self, name: str) -> list[tuple[KeyPath, Written]]:
        """The things under a key that may hold several, each with its path."""
        return self.items((name,), self.value(name))

    def items(self, path: KeyPath, value: Written) -> list[tuple[KeyPath, Written]]:
        """One thing or a list of things, each with its path."""
        if isinstance(value, list):
            return [((*path, i), item) for i, item in enumerate(value)]
        return [(path, value)]

    def keys(self, path: KeyPath, value: Written, known: Iterable[str], *, required: Iterable[str]) -> None:
        if not isinstance(value, Mapping):
            raise self.error(
                path, "keys and values", repr(value), f"Write, for example, {next(iter(required))}: …."
            )
        for key in value:
            if key not in known:
                raise self.error((*path, key), "a key that is known here", repr(key), suggest(key, known))
        for key in required:
            if value.get(key) is None:
                raise self.error((*path, key), f"the key {key!r}", "none", f"Add {key}: ….")

    def located(self, path: KeyPath, make: Callable[[], Item]) -> Item:
        """What `make` returns; the message of an error gets the line of `path`."""
        try:
            return make()
        except InputError as error:
            raise InputError(
                f"{self.document.where(path)}: {error.expected}", error.got, error.try_
            ) from error

    def error(self, path: KeyPath, expected: str, got: str, try_: str) -> InputError:
        return InputError(f"{self.document.where(path)}: expected {expected}", got, try_)

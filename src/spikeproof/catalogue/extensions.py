"""Members of other packages, which their entry points name; none is imported before it is asked for.

A package adds a member by an entry point of the group `spikeproof.KIND`, with a kind of `spikeproof list`:

    [project.entry-points."spikeproof.encoders"]
    acme-burst = "acme.encoders:Burst"

The value is a frozen dataclass like those of the catalogue. A member whose name the catalogue has, or whose
name two packages use, is left out, and so is one that cannot be imported; each is reported in one sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import ItemsView, Iterator, Mapping
from importlib.metadata import EntryPoint, entry_points

from typing_extensions import get_protocol_members, is_protocol

from spikeproof.catalogue.partkinds import KINDS
from spikeproof.errors import InputError
from spikeproof.interop.members import InFoolbox, InTorchattacks
from spikeproof.specs import Catalogue

__all__ = ["extended", "faults", "imported", "packages"]

CLOSED = frozenset({InTorchattacks, InFoolbox})
"""The kinds whose members are those of another library."""

GROUPS: Mapping[object, str] = {
    kind: f"spikeproof.{name}" for name, kind in KINDS.items() if kind not in CLOSED
}
"""Kind -> the group of entry points that add members to it."""


class _Table(Mapping[str, type]):
    """The members of a kind: those of the catalogue, then those of other packages.

    Iterating gives the members of other packages that have been imported. Asking for a name that the
    catalogue does not have imports the package that adds it.
    """

    def __init__(self, kind: object, written: Mapping[str, type]) -> None:
        self.kind, self.written = kind, written

    def __getitem__(self, name: str) -> type:
        if name in self.written:
            return self.written[name]
        return _member(self.kind, name, _entries(self.kind)[name])

    def __contains__(self, name: object) -> bool:
        return name in self.written or name in _entries(self.kind)

    def __iter__(self) -> Iterator[str]:
        return iter(self._known())

    def __len__(self) -> int:
        return len(self._known())

    def items(self) -> ItemsView[str, type]:
        return self._known().items()

    def _known(self) -> Mapping[str, type]:
        found = {
            name: each[0]
            for name, each in _entries(self.kind).items()
            if name not in self.written and len(each) == 1 and each[0].module in sys.modules
        }
        return {**self.written, **_usable(self.kind, found)} if found else self.written


def extended(catalogue: Catalogue) -> Catalogue:
    """A catalogue with the members that other packages add to its kinds.

    Args:
        catalogue: kind -> name -> class.
    """
    return {kind: _Table(kind, table) if kind in GROUPS else table for kind, table in catalogue.items()}


def imported(kind: object) -> None:
    """Import the members that other packages add to a kind; those that cannot be imported are passed over."""
    for name, entries in _entries(kind).items():
        try:
            _member(kind, name, entries)
        except InputError:
            continue


def faults(kind: object, table: Mapping[str, type]) -> tuple[str, ...]:
    """A sentence about each member of another package that cannot be used.

    Args:
        kind: the kind.
        table: its members by name.
    """
    found = []
    for name, entries in _entries(kind).items():
        written = getattr(table, "written", table)
        if name in written:
            found.append(f"{_called(entries[0])} is left out: spikeproof has a member of this name")
            continue
        try:
            _member(kind, name, entries)
        except InputError as error:
            found.append(f"{error.expected} is left out: {error.got}")
    return tuple(found)


def packages() -> dict[str, str]:
    """Package -> version, of the packages whose members have been imported."""
    entries = [entry for kind in GROUPS for each in _entries(kind).values() for entry in each]
    return {
        entry.dist.name: entry.dist.version
        for entry in entries
        if entry.dist is not None and entry.module in sys.modules
    }


def _entries(kind: object) -> Mapping[str, tuple[EntryPoint, ...]]:
    """Name -> the entry points that add a member of this name to a kind."""
    return _declared(tuple(sys.path)).get(GROUPS.get(kind, ""), {})


@functools.lru_cache(8)
def _declared(path: tuple[str, ...]) -> Mapping[str, Mapping[str, tuple[EntryPoint, ...]]]:
    """Group -> name -> entry points, of all packages on the path of imports."""
    found: dict[str, dict[str, tuple[EntryPoint, ...]]] = {}
    every = entry_points()  # which reads the files of all packages
    for group in GROUPS.values():
        for entry in every.select(group=group):
            table = found.setdefault(group, {})
            if entry not in table.get(entry.name, ()):
                table[entry.name] = (*table.get(entry.name, ()), entry)
    return found


def _usable(kind: object, entries: Mapping[str, EntryPoint]) -> dict[str, type]:
    found = {}
    for name, entry in entries.items():
        try:
            found[name] = _member(kind, name, (entry,))
        except InputError:
            continue
    return found


def _member(kind: object, name: str, entries: tuple[EntryPoint, ...]) -> type:
    """The class that an entry point names.

    Raises:
        InputError: two packages use the name, it cannot be imported, or it is no member of the kind.
    """
    first = entries[0]
    if len(entries) > 1:
        others = " and ".join(_called(entry) for entry in entries)
        raise InputError(f"The member {name!r}", f"{others}, which have one name", "Remove one of them.")
    try:
        found = first.load()
    except (Exception, SystemExit) as error:  # the package of somebody else may fail in any way
        words = f"{type(error).__name__}, {(str(error).splitlines() or [''])[0][:200]}"
        raise InputError(
            _called(first), f"an error on importing it ({words})", "Mend or remove the package."
        ) from error
    lacking = _lacking(kind, found)
    if lacking:
        raise InputError(_called(first), lacking, "Mend or remove the package.")
    return found  # type: ignore[no-any-return]  # which is a class, as `_lacking` has found


def _lacking(kind: object, found: object) -> str:
    """What keeps an object from being a member of a kind, or nothing."""
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        return f"{type(found).__name__} {getattr(found, '__name__', found)!r:.60}, which is no dataclass"
    if not found.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"{found.__name__}, a dataclass that is not frozen"
    if not isinstance(kind, type):
        return ""
    if not is_protocol(kind):
        return "" if issubclass(found, kind) else f"{found.__name__}, which is no {kind.__name__}"
    has = {*dir(found), *(each.name for each in dataclasses.fields(found))}
    missing = sorted(get_protocol_members(kind) - has)
    return f"{found.__name__}, which lacks {', '.join(missing)} of {kind.__name__}" if missing else ""


def _called(entry: EntryPoint) -> str:
    """An entry point in words, with the package that declares it."""
    package = f" of {entry.dist.name}" if entry.dist is not None else ""
    return f"{entry.group}: {entry.name} = {entry.value}{package}"

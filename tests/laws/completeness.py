"""When a law table is complete: every member of the catalogue has a row, or a reason why not."""

import importlib.util
import sys
from pathlib import Path

from spikeproof.catalogue.names import PARTS

TESTS = Path(__file__).parents[1]


def loaded(home):
    """A file of tests, as pytest has it already, or read now."""
    name = ".".join(["tests", *Path(home).parts]).removesuffix(".py")
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, TESTS / home)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def rows(places):
    """The rows of the tables at `file:TABLE`, or with `file:TABLE.part` the parts that they have.

    Of a table with names the names count, and of a row of several things the first.
    """
    for place in places:
        home, _, table = place.partition(":")
        name, _, part = table.partition(".")
        for row in getattr(loaded(home), name):
            first = row[0] if isinstance(row, tuple) and not hasattr(row, "_fields") else row
            if not part:
                yield first
            elif hasattr(first, part):
                yield getattr(first, part)


def check(kind, members, found, without=()):
    """Fail with the names of the members that have no row, and of exceptions that are none.

    Args:
        kind: what the members are called.
        members: name -> class.
        found: rows: members, their classes or their names.
        without: name -> why it has no row.
    """
    names = {row for row in found if isinstance(row, str)}
    classes = {row if isinstance(row, type) else type(row) for row in found}
    under = {name for name, cls in members.items() if name in names or cls in classes}
    lacking = sorted(members.keys() - under - set(without))
    assert not lacking, f"{kind} without a row in their law table: {', '.join(lacking)}"
    idle = sorted(set(without) & under | set(without) - members.keys())
    assert not idle, f"{kind} excepted in vain, with a row or not in the catalogue: {', '.join(idle)}"


def of_kind(kind):
    """The members of a kind, by the name of its class."""
    return next(table for each, table in PARTS.items() if each.__name__ == kind)

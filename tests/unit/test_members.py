"""The tables of foreign attacks: every row is in its table, and its address is that of stored cells."""

import inspect

import pytest

from spikeproof.catalogue.names import PARTS
from spikeproof.interop import in_foolbox, in_torchattacks
from spikeproof.interop.foreign import Foreign
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS
from spikeproof.specs import address, build, describe

ROWS = [
    (in_torchattacks, TORCHATTACKS, 23, "188b2c574a20b34e977a25eb8368d9e7"),
    (in_foolbox, FOOLBOX, 25, "a3b22a1720e5e3577ac999bc6b3866d3"),
]


@pytest.mark.parametrize(("module", "table", "count", "digest"), ROWS, ids=["torchattacks", "foolbox"])
def test_every_class_of_the_module_is_a_row_and_describes_itself_as_in_stored_cells(
    module, table, count, digest
):
    public = {
        name: part
        for name, part in inspect.getmembers(module, inspect.isclass)
        if issubclass(part, Foreign) and part.__module__ == module.__name__ and not name.startswith("_")
    }
    assert public == table
    assert len(table) == count
    described = [describe(part(), PARTS) for part in table.values()]
    assert address(described) == digest  # as when the rows were made by `make_dataclass`
    for part, spec in zip(table.values(), described, strict=True):
        assert build(part.__mro__[-3], spec, PARTS) == part()

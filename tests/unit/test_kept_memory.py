"""Kept memory: what the C library is asked for inside the block and afterwards."""

import pytest
import torch

from spikeproof.compiled import keeping_memory, memory


@pytest.fixture
def asked(monkeypatch):
    """Calls of the allocator's functions, in order."""
    calls = []
    functions = (lambda *given: calls.append(given)), (lambda pad: calls.append("given back"))
    monkeypatch.setattr(memory, "_allocator", lambda: functions)
    return calls


def test_limits_are_raised_inside_the_block_and_memory_goes_back_afterwards(asked):
    def fails_inside():
        with keeping_memory():
            assert asked == [(memory.TRIM_THRESHOLD, memory.KEPT), (memory.MMAP_THRESHOLD, memory.KEPT)]
            raise KeyError

    with pytest.raises(KeyError):
        fails_inside()
    assert asked[2:] == [
        (memory.TRIM_THRESHOLD, memory.USUAL),
        (memory.MMAP_THRESHOLD, memory.USUAL),
        "given back",
    ]


def test_a_c_library_without_these_functions_is_left_alone(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    with keeping_memory():
        assert torch.ones(3).sum() == 3

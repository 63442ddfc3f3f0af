"""The modules of this folder import each other by name, also when they are run as scripts."""

import sys
from pathlib import Path

import pytest

from spikeproof.compiled import Loops, using_loops

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module", autouse=True)
def _loops():
    """Loops over time are compiled, which changes no bit."""
    with using_loops(Loops.COMPILED):
        yield

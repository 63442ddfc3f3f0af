"""Laws of attacks and evaluations run with compiled loops over time, which are faster and change no bit.

That they change none is a law itself; laws of what is computed over time run as the library does by default.
"""

import pytest

from spikeproof.compiled import Loops, using_loops

COMPILED = {
    "attacks", "batch_independence", "certificates", "defences", "estimates_and_composites", "evaluation",
    "event_catalogue", "found_levels", "gradient_sources", "hostile_settings", "invariance", "killed_cells",
    "learning", "linear_optimum", "minimum_norm", "nested_and_distances", "objectives", "physical",
    "plain_functions", "reachable", "recipes", "shifts", "spike_attacks", "spike_threats", "stand_in",
    "steps", "suites", "transfer_choices", "universal", "windows",
}  # fmt: skip
"""The laws of tests/laws/test_NAME.py that run with compiled loops."""


@pytest.fixture(scope="module", autouse=True)
def _loops(request):
    if request.module.__name__.rpartition(".test_")[2] not in COMPILED:
        yield
        return
    with using_loops(Loops.COMPILED):
        yield

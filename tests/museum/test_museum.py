"""Every planted fault is found for the right reason, and no sound twin is suspected."""

import sys
from pathlib import Path

import pytest
import torch

from spikeproof import ATan, Earliest, FastAndDeep, Key, ModelSpec, SpikeTimes, TimedMLP
from spikeproof.audit.checks import CHECKS, DOUBTFUL, SUPPORTED, WITHHELD, audit, document
from spikeproof.audit.diagnostics import probe

sys.path.insert(0, str(Path(__file__).parent))
from exhibits import EXHIBITS


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_each_fault_is_found_and_no_sound_twin_is_suspected(exhibit):
    verdict = audit(exhibit.evidence())
    raised = [finding.check for finding in verdict.findings]
    if exhibit.check is None:
        assert (verdict.verdict, raised) == (SUPPORTED, [])
        return
    assert exhibit.check in raised
    planted = next(check for check in CHECKS if check.name == exhibit.check)
    assert verdict.verdict == (planted.verdict if planted.verdict == WITHHELD else verdict.verdict)
    assert verdict.verdict in (DOUBTFUL, WITHHELD)
    assert exhibit.check in verdict.why


def test_a_network_without_spiking_layers_is_probed_too():
    spec = ModelSpec(SpikeTimes(), TimedMLP((8,)), FastAndDeep(), ATan(), Earliest(), (4, 1, 1), 3)
    x, y = Key.of(0).uniform((6, 4, 1, 1)), torch.arange(6) % 3
    seen = probe(spec.build(Key.of(0)).eval(), x, y, Key.of(0))
    assert (seen.failed, seen.state_leak, seen.zero_by_layer) == (None, 0.0, ())


def test_every_check_has_a_fault_that_it_was_made_for():
    assert {exhibit.check for exhibit in EXHIBITS} == {None, *(check.name for check in CHECKS)}
    assert len({exhibit.name for exhibit in EXHIBITS}) == len(EXHIBITS)


def test_the_documentation_is_what_the_checks_say():
    assert (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf-8") == document()

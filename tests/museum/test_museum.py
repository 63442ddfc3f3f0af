"""Every planted fault is found for the right reason, and no sound twin is suspected."""

from pathlib import Path

import faults
import pytest
import torch
from exhibits import EXHIBITS, images, trained

from spikeproof import ATan, Earliest, FastAndDeep, Key, ModelSpec, SpikeTimes, TimedMLP
from spikeproof.attacks.answers import foundlevels
from spikeproof.auditing import slopes
from spikeproof.auditing.checks import (
    CHECKS,
    DOUBTFUL,
    GRAVITY,
    NOTE,
    PRELIMINARY,
    SUPPORTED,
    WITHHELD,
    audit,
    document,
)
from spikeproof.auditing.diagnostics import diagnose
from spikeproof.auditing.evidence import Evidence
from spikeproof.statistics import wilson


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_each_planted_fault_raises_its_check_and_sound_twins_raise_none(exhibit, monkeypatch):
    """Gradients are compared along a quarter of the directions where another check is to be raised.

    There, levels are looked for along a quarter of the lines as well. The contradicted certificate shares the
    evidence of a sound twin.
    """
    if exhibit.check not in (None, "gradient is no slope", "certificate contradicted"):
        monkeypatch.setattr(slopes, "DIRECTIONS", slopes.DIRECTIONS // 4)
        if exhibit.check != "steps without known levels":
            monkeypatch.setattr(foundlevels, "LINES", foundlevels.LINES // 4)
    verdict = audit(exhibit.evidence())
    raised = [finding.check for finding in (*verdict.findings, *verdict.notes)]
    if exhibit.check is None:
        assert verdict.verdict in (SUPPORTED, PRELIMINARY)
        assert {finding.check for finding in verdict.findings} <= {"attacks too few"}
        return
    assert exhibit.check in raised
    planted = next(check for check in CHECKS if check.name == exhibit.check)
    if planted.verdict != NOTE:
        assert GRAVITY.index(verdict.verdict) <= GRAVITY.index(planted.verdict)
        assert exhibit.check in verdict.why


def test_a_network_without_spiking_layers_has_diagnostics_too():
    spec = ModelSpec(SpikeTimes(), TimedMLP((8,)), FastAndDeep(), ATan(), Earliest(), (4, 1, 1), 3)
    x, y = Key.of(0).uniform((6, 4, 1, 1)), torch.arange(6) % 3
    seen = diagnose(spec.build(Key.of(0)).eval(), x, y, Key.of(0))
    assert (seen.failed, seen.state_leak, seen.zero_by_layer) == (None, 0.0, ())


def test_every_check_has_a_fault_that_it_was_made_for():
    assert {exhibit.check for exhibit in EXHIBITS} == {None, *(check.name for check in CHECKS)}
    assert len({exhibit.name for exhibit in EXHIBITS}) == len(EXHIBITS)


def test_the_documentation_is_what_the_checks_say():
    assert (Path(__file__).parents[2] / "docs" / "audit.md").read_text("utf-8") == document()


def verdict_of_diagnostics(model, count=24):
    """The verdict that the diagnostics alone give to a number that stands far above 0 after a whole suite."""
    x, y = images(count)
    seen = diagnose(model, x, y, Key.of(0))
    number = Evidence(
        accuracy=0.5,
        interval=wilson(0.5 * 400, 400),
        n=400,
        clean_accuracy=0.9,
        classes=10,
        epsilon=0.1,
        diagnostics=seen,
        suites=["standard"],
    )
    return audit(number)


SPOILT = [
    ("noise", 2.0),
    ("noise", 10.0),
    ("wrong sign", 0.25),
    ("stopped in columns", 4),
    ("a stranger's where bright", 0.3),
    ("one-hot", 0),
    ("rounded", 8),
    ("faint bypass", 1e-1),
    ("look-up", 1.0),
]


@pytest.mark.parametrize(("fault", "strength"), SPOILT)
def test_a_spoilt_gradient_is_doubted_whatever_the_attacks_left(fault, strength):
    spoil, _ = faults.GRID[fault]
    assert verdict_of_diagnostics(spoil(trained(), strength).faulty).verdict == DOUBTFUL


@pytest.mark.parametrize("fault", ["noise", "wrong sign", "stopped in columns", "saturation"])
def test_an_unspoilt_gradient_is_not_doubted(fault):
    spoil, _ = faults.GRID[fault]
    sound = {"noise": 0.0, "wrong sign": 0.0, "stopped in columns": 0, "saturation": 1e3}[fault]
    found = verdict_of_diagnostics(spoil(trained(), sound).faulty)
    assert "gradient is no slope" not in [finding.check for finding in found.findings]


@pytest.mark.parametrize("fault", faults.REMEMBERING)
def test_whatever_depends_on_more_than_the_image_is_withheld(fault):
    assert verdict_of_diagnostics(faults.REMEMBERING[fault](trained())).verdict == WITHHELD


def test_a_callable_of_images_alone_has_the_diagnostics_of_any_model():
    x, y = images(16)
    model = trained()
    with_key, without = (
        diagnose(each, x, y, Key.of(0)) for each in (faults.Answers(model), lambda z: model(z))
    )
    assert with_key == without
    assert without.copy_leak == 0.0

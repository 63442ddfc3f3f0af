"""Laws of mutual information and linear read-outs: channels of known capacity, and what codes throw away."""

import math

import numpy as np
import pytest
import torch

from spikeproof.analysis.information import (
    FirstSpikes,
    FullPatterns,
    SpikeCounts,
    SpikeOrder,
    linear_readout,
    mutual_information,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key

RESPONSES = [SpikeCounts(), FirstSpikes(), FullPatterns(), SpikeOrder()]


def entropy(p):
    return -sum(x * math.log2(x) for x in (p, 1 - p) if x)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.25])
def test_a_binary_channel_has_its_capacity_within_two_percent(error):
    labels = torch.arange(40_000) % 2
    flipped = Key.of(1).uniform((40_000,)) < error
    spikes = torch.zeros(4, 40_000, 1)
    spikes[0, :, 0] = (labels.bool() ^ flipped).float()
    capacity = 1 - entropy(error)
    for responses in RESPONSES[:3]:
        found = mutual_information(spikes, labels, responses, Key.of(0))
        assert found.bits[0] == pytest.approx(capacity, rel=0.02)
        assert abs(found.shuffled[0]) < 0.001


def test_a_code_of_times_has_its_information_in_times_and_none_in_counts():
    labels = torch.arange(800) % 4
    spikes = torch.zeros(4, 800, 2)
    spikes[labels, torch.arange(800), 0] = 1
    spikes[3, :, 1] = 1
    bits = [mutual_information(spikes, labels, responses, Key.of(0)).bits[0] for responses in RESPONSES]
    assert bits[0] == pytest.approx(0.0, abs=1e-9)
    assert bits[1] == pytest.approx(2.0, abs=0.02)
    assert bits[2] == pytest.approx(2.0, abs=0.02)
    order = entropy(0.25)  # before the other neuron, or together with it
    assert bits[3] == pytest.approx(order, abs=0.02)


def test_full_patterns_tell_no_less_than_what_is_made_of_them():
    spikes = (Key.of(0).uniform((5, 60, 7)) < 0.4).float()
    labels = torch.arange(60) % 3
    whole = mutual_information(spikes, labels, FullPatterns(), Key.of(0)).plain
    for responses in RESPONSES[:2]:
        assert (mutual_information(spikes, labels, responses, Key.of(0)).plain <= whole + 1e-12).all()


def test_the_correction_removes_the_bias_of_few_examples():
    spikes = (Key.of(0).uniform((3, 300, 200)) < 0.5).float()
    labels = torch.arange(300) % 5  # independent of the spikes
    found = mutual_information(spikes, labels, FullPatterns(), Key.of(0))
    assert found.plain.mean() > 0.04
    assert abs(found.bits.mean()) < 0.1 * found.plain.mean()
    assert abs(found.shuffled.mean()) < 0.1 * found.plain.mean()


@pytest.mark.parametrize("responses", RESPONSES, ids=repr)
@pytest.mark.parametrize(("steps", "classes"), [(1, 2), (1, 10), (8, 2), (20, 3), (20, 10)])
def test_no_response_tells_more_than_which_class_it_is(responses, steps, classes):
    """Also where every pattern occurs once, and where the responses of the classes are disjoint."""
    labels = torch.arange(100) % classes
    random = (Key.of(0).uniform((steps, 100, 6)) < 0.5).float()
    apart = (torch.arange(steps)[:, None] == labels[None] % steps).float()[..., None].expand(-1, -1, 6)
    entropy = np.log2(classes) + 1e-9
    for spikes in (random, apart):
        found = mutual_information(spikes, labels, responses, Key.of(0))
        assert (found.bits <= found.plain + 1e-12).all()
        assert (found.plain <= entropy).all()
        assert (found.shuffled <= entropy).all()


def test_one_class_and_one_response_tell_nothing():
    spikes = (Key.of(0).uniform((3, 20, 2)) < 0.5).float()
    for responses in RESPONSES:
        assert mutual_information(spikes, torch.zeros(20).long(), responses, Key.of(0)).bits == pytest.approx(
            0
        )
        silent = mutual_information(torch.zeros(3, 20, 2), torch.arange(20) % 2, responses, Key.of(0))
        assert silent.bits == pytest.approx(np.zeros(2))


def test_the_linear_readout_is_that_of_ridge_regression_by_either_form():
    labels = torch.arange(60) % 3
    few = Key.of(0).normal((60, 5)) + torch.eye(3)[labels].repeat(1, 2)[:, :5]
    many = torch.cat([few, torch.zeros(60, 200)], 1)  # more features than examples: the other form
    assert linear_readout(few, labels, Key.of(0)) == linear_readout(
        many, labels, Key.of(0), ridge=0.1 * 205 / 5
    )


def test_labels_without_features_are_read_at_chance_and_with_them_surely():
    labels = torch.arange(300) % 3
    assert linear_readout(Key.of(0).normal((300, 4)), labels, Key.of(0)) < 0.45
    assert linear_readout(torch.eye(3)[labels], labels, Key.of(0)) == 1.0
    assert linear_readout(torch.zeros(300, 4), labels, Key.of(0)) < 0.4


@pytest.mark.parametrize(
    "make",
    [
        lambda: mutual_information(torch.zeros(3, 0, 2), torch.zeros(0).long(), SpikeCounts(), Key.of(0)),
        lambda: mutual_information(torch.zeros(3, 4, 2), torch.zeros(5).long(), SpikeCounts(), Key.of(0)),
        lambda: mutual_information(torch.zeros(63, 4, 2), torch.zeros(4).long(), FullPatterns(), Key.of(0)),
        lambda: mutual_information(torch.zeros(0, 4, 2), torch.zeros(4).long(), SpikeCounts(), Key.of(0)),
        lambda: mutual_information(
            torch.full((3, 4, 2), torch.nan), torch.zeros(4).long(), SpikeCounts(), Key.of(0)
        ),
        lambda: linear_readout(torch.zeros(4, 2), torch.zeros(4).long(), Key.of(0), folds=5),
        lambda: linear_readout(torch.zeros(4, 0), torch.arange(4) % 2, Key.of(0), folds=2),
        lambda: linear_readout(torch.full((4, 2), torch.nan), torch.arange(4) % 2, Key.of(0), folds=2),
        lambda: linear_readout(torch.zeros(4, 2), torch.zeros(3).long(), Key.of(0), folds=2),
        lambda: linear_readout(torch.zeros(4, 2), torch.zeros(4).long(), Key.of(0), folds=2, ridge=0.0),
    ],
)
def test_what_cannot_be_measured_is_refused(make):
    with pytest.raises(InputError):
        make()

"""Randman: each unit fires once, at the time its manifold gives; counts tell nothing, times everything."""

import itertools

import numpy as np
import pytest
import torch

from spikeproof.datasets import Randman
from spikeproof.datasets.generated.synthetic import _function
from spikeproof.errors import InputError


def times(part):
    assert part.images.dtype == torch.uint8
    return part.images[..., 0, 0].argmax(1)


@pytest.mark.parametrize("shuffled", [False, True])
def test_counts_are_equal_in_every_example_so_that_they_tell_no_class(shuffled):
    data = Randman(classes=3, units=4, steps=9, examples=30, shuffled=shuffled).load()
    for part in (data.train, data.validation, data.test):
        assert part.images.sum(1).eq(1).all()
        assert part.images.shape[1:] == (9, 4, 1, 1)


def neighbour(data):
    """Share of test examples that lie nearest to a training example of their class, in spike times."""
    distance = torch.cdist(times(data.test).double(), times(data.train).double())
    return (data.train.labels[distance.argmin(1)] == data.test.labels).double().mean()


def test_times_tell_the_class_and_those_of_the_control_do_not():
    options = {"classes": 5, "units": 20, "steps": 50, "examples": 100}
    assert neighbour(Randman(**options).load()) > 0.95
    assert neighbour(Randman(**options, shuffled=True).load()) < 0.4  # chance 0.2, 50 examples


def test_the_shuffled_control_keeps_the_spike_times_of_every_unit():
    plain, control = (Randman(examples=50, shuffled=s).load() for s in (False, True))
    for name in ("train", "validation", "test"):
        one, other = (times(getattr(data, name)).sort(0).values for data in (plain, control))
        assert one.equal(other)
        assert getattr(plain, name).labels.equal(getattr(control, name).labels)
    assert plain.sha256 != control.sha256


def test_parts_are_disjoint_and_seeds_matter():
    data = Randman(examples=20).load()
    ids = torch.cat([part.ids for part in (data.train, data.validation, data.test)])
    assert ids.sort().values.equal(torch.arange(200))
    assert data.sha256 == Randman(examples=20).load().sha256 != Randman(examples=20, seed=1).load().sha256


def test_the_function_is_its_fourier_series():
    generator = np.random.default_rng(0)
    a, b, phi, z = generator.random((4, 6))
    slow = [
        sum(k**-1.5 * a[k - 1] * np.sin(2 * np.pi * (k * b[k - 1] * point + phi[k - 1])) for k in range(1, 7))
        for point in z
    ]
    assert _function(z, a, b, phi, 1.5) == pytest.approx(slow, rel=1e-12)


def test_smoother_manifolds_vary_less_between_neighbouring_points():
    z = np.linspace(0, 1, 500)

    def roughness(alpha):
        total = 0
        for seed in range(5):
            a, b, phi = np.random.default_rng(seed).random((3, 200))
            f = _function(z, a, b, phi, alpha)
            total += np.abs(np.diff(f)).mean() / np.ptp(f)
        return total

    assert all(x > y for x, y in itertools.pairwise(map(roughness, (0.5, 1, 2, 3))))


def test_every_unit_uses_the_whole_window():
    data = Randman(classes=2, units=3, steps=10, examples=200).load()
    every = torch.cat([times(part) for part in (data.train, data.validation, data.test)])
    assert (every.min(0).values == 0).all()
    assert (every.max(0).values == 9).all()


@pytest.mark.parametrize(
    "options",
    [{"classes": 1}, {"steps": 1}, {"smoothness": float("nan")}, {"units": 10_000, "steps": 10_000}],
)
def test_classes_steps_units_and_smoothness_out_of_range_are_refused(options):
    with pytest.raises(InputError):
        Randman(**options)

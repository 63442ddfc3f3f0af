"""Laws of spike-train distances and statistics, by independent oracles: recursion, integration, libraries."""

import itertools

import numpy as np
import pytest
import torch

from spikeproof.analysis.trains.changes import spike_change
from spikeproof.analysis.trains.dissimilarity import VanRossum, VictorPurpura, pairwise
from spikeproof.analysis.trains.profiles import ISIDistance, SPIKEDistance, SPIKESynchronisation
from spikeproof.analysis.trains.spiketrains import SpikeTrains, spike_trains
from spikeproof.analysis.trains.variability import (
    fano_factor,
    interval_variation,
    local_interval_variation,
    local_variation,
)
from spikeproof.errors import InputError

DURATION = 10.0
DISTANCES = [VictorPurpura(0.7), VanRossum(1.3), ISIDistance(), SPIKEDistance(), SPIKESynchronisation()]
METRICS = DISTANCES[
    :2
]  # the others are no metrics: two different trains may be at distance 0 or break the triangle


def drawn(seed, on_grid):
    rng = np.random.default_rng(seed)
    grid = np.arange(10) + 0.5
    if on_grid:
        return np.sort(rng.choice(grid, rng.integers(0, 7), replace=False)).tolist()
    return np.sort(rng.uniform(0, DURATION, rng.integers(0, 7))).tolist()


TRAINS = [drawn(seed, seed % 2) for seed in range(40)] + [[], [], [0.5], [9.5], [10.0], [0.0, 10.0]]
PAIRS = [(a, b) for a, b in zip(TRAINS, TRAINS[::-1], strict=True)] + [(a, a) for a in TRAINS]


def of(trains):
    return SpikeTrains.of(trains, DURATION)


def victor_purpura(a, b, cost):
    """The recursion of the definition, one pair at a time."""
    table = np.zeros((len(a) + 1, len(b) + 1))
    table[:, 0], table[0] = np.arange(len(a) + 1), np.arange(len(b) + 1)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        moved = table[i, j] + cost * abs(a[i] - b[j])
        table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, moved)
    return table[-1, -1]


def test_victor_purpura_is_its_recursion():
    a, b = zip(*PAIRS, strict=True)
    for cost in (0.0, 0.3, 0.7, 5.0):
        expected = [victor_purpura(x, y, cost) for x, y in PAIRS]
        assert VictorPurpura(cost)(of(a), of(b)) == pytest.approx(expected, abs=1e-12)


def test_victor_purpura_counts_at_no_cost_and_coincidences_at_a_large_one():
    a, b = (of(side) for side in zip(*PAIRS, strict=True))
    assert (VictorPurpura(0.0)(a, b) == np.abs(a.count - b.count)).all()
    shared = np.array([len({*x} & {*y}) for x, y in PAIRS])
    assert (VictorPurpura(1e9)(a, b) == a.count + b.count - 2 * shared).all()


def test_van_rossum_is_the_integral_of_its_definition():
    time = np.linspace(0, 60, 600_001)
    for a, b in PAIRS[:6]:
        f, g = (sum((np.where(time >= t, np.exp(-(time - t) / 1.3), 0) for t in x), 0 * time) for x in (a, b))
        squared = ((f - g) ** 2).sum() * (time[1] - time[0]) / 1.3
        assert VanRossum(1.3)(of([a]), of([b]))[0] ** 2 == pytest.approx(squared, abs=1e-3)


def interval_at(train, moment, duration):
    """The interval between the spikes around a moment, and these spikes; edges as the definition has them."""
    train = sorted(train) or [0.0, duration]
    before = [t for t in train if t < moment]
    after = [t for t in train if t >= moment]
    if before and after:
        return after[0] - before[-1], before[-1], after[0]
    if after:
        first = after[0]
        return max(first, after[1] - first if len(after) > 1 else 0.0), None, first
    last = before[-1]
    return max(duration - last, last - before[-2] if len(before) > 1 else 0.0), last, None


def test_the_interval_distance_is_the_mean_of_its_profile():
    moments = (np.arange(20_000) + 0.5) * DURATION / 20_000
    for a, b in PAIRS[:12]:
        x = np.array([interval_at(a, t, DURATION)[0] for t in moments])
        y = np.array([interval_at(b, t, DURATION)[0] for t in moments])
        expected = (np.abs(x - y) / np.maximum(x, y)).mean()
        assert ISIDistance()(of([a]), of([b]))[0] == pytest.approx(expected, abs=2e-3)


def test_distances_equal_those_of_the_libraries_of_the_field():
    pyspike = pytest.importorskip("pyspike")
    usual = [(a, b) for a, b in PAIRS if [10.0] not in (a, b)]  # where theirs is not a number
    a, b = (of(side) for side in zip(*usual, strict=True))
    theirs = [[pyspike.SpikeTrain(x, [0, DURATION]) for x in pair] for pair in usual]
    for ours, other in ((ISIDistance(), pyspike.isi_distance), (SPIKEDistance(), pyspike.spike_distance)):
        assert ours(a, b) == pytest.approx([other(*pair) for pair in theirs], abs=1e-9)
    synchrony = [1 - pyspike.spike_sync(*pair) for pair in theirs]
    assert SPIKESynchronisation()(a, b) == pytest.approx(synchrony, abs=1e-12)


def test_metrics_equal_those_of_elephant():
    pytest.importorskip("elephant")
    import neo
    from elephant.spike_train_dissimilarity import van_rossum_distance, victor_purpura_distance
    from quantities import Hz, s

    trains = [neo.SpikeTrain(train * s, t_stop=DURATION * s) for train in TRAINS[:12]]
    ours = [pairwise(metric, of(TRAINS[:12])) for metric in METRICS]
    assert ours[0] == pytest.approx(victor_purpura_distance(trains, 0.7 * Hz, sort=False), abs=1e-9)
    halved = van_rossum_distance(trains, 1.3 * s, sort=False) / np.sqrt(2)  # they leave out the factor 1/2
    assert ours[1] == pytest.approx(halved, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: type(d).__name__)
def test_a_distance_is_symmetric_and_0_for_equal_trains(distance):
    a, b = (of(side) for side in zip(*PAIRS, strict=True))
    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-12)
    assert distance(a, a) == pytest.approx(np.zeros(len(a)), abs=1e-7)
    assert (distance(a, b) >= 0).all()


@pytest.mark.parametrize("distance", METRICS, ids=lambda d: type(d).__name__)
def test_a_metric_obeys_the_triangle_inequality(distance):
    found = pairwise(distance, of(TRAINS))
    detour = (found[:, :, None] + found[None]).min(1)
    assert (found <= detour + 1e-9).all()


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: type(d).__name__)
def test_neither_the_other_pairs_nor_the_length_of_padding_matter(distance):
    a, b = (of(side) for side in zip(*PAIRS, strict=True))
    alone = [distance(of([x]), of([y]))[0] for x, y in PAIRS]
    assert distance(a, b) == pytest.approx(alone, abs=1e-12)
    assert pairwise(distance, a[:5], b[:4])[3, 2] == pytest.approx(distance(a[3], b[2])[0], abs=1e-12)


def test_statistics_of_intervals_are_those_of_a_poisson_process_and_of_a_clock():
    rng = np.random.default_rng(0)
    poisson = SpikeTrains(np.cumsum(rng.exponential(1.0, (20, 4000)), 1), 1e5)
    clock = SpikeTrains(np.arange(1.0, 100.0)[None], 100.0)
    for statistic in (interval_variation, local_interval_variation, local_variation):
        assert statistic(poisson).mean() == pytest.approx(1.0, abs=0.02)
        assert statistic(clock)[0] == pytest.approx(0.0, abs=1e-6)
        assert np.isnan(statistic(of([[], [1.0], [1.0, 2.0]])))[:2].all()
    assert fano_factor(rng.poisson(3.0, (20_000, 5)).astype(float)) == pytest.approx(np.ones(5), abs=0.05)
    assert np.isnan(fano_factor(np.zeros((3, 1)))[0])


def test_the_change_of_spikes_is_counts_and_times():
    rng = torch.Generator().manual_seed(0)
    before, after = ((torch.rand(6, 3, 4, generator=rng) < 0.4).float() for _ in range(2))
    found = spike_change(before, after, cost=0.5)
    rows = [(before[:, i, j], after[:, i, j]) for i in range(3) for j in range(4)]
    lists = [[(train.nonzero().flatten() + 0.5).tolist() for train in row] for row in rows]
    counts = np.mean([abs(len(x) - len(y)) for x, y in lists])
    whole = np.mean([victor_purpura(x, y, 0.5) for x, y in lists])
    assert (found.counts, found.counts + found.times) == pytest.approx((counts, whole))
    assert spike_change(before, before)[:2] == (0.0, 0.0)
    order = torch.randperm(6, generator=rng)
    assert spike_change(before, before[order]).counts == 0  # the same spikes at other times


def test_spikes_of_steps_become_spike_times_in_the_middle_of_steps():
    spikes = torch.zeros(4, 2, 3)
    spikes[1, 0, 2], spikes[3, 0, 2] = 1, 0.25  # a weighted spike is one spike
    trains = spike_trains(spikes, dt=2.0)
    assert (len(trains), trains.duration, trains.times.shape) == (6, 8.0, (6, 2))
    assert trains[2].times.tolist() == [[3.0, 7.0]]
    assert trains.count.sum() == 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: SpikeTrains.of([[2.0, 1.0]], 8.0),
        lambda: SpikeTrains.of([[9.0]], 8.0),
        lambda: SpikeTrains.of([[-1.0]], 8.0),
        lambda: SpikeTrains.of([[float("nan")]], 8.0),
        lambda: SpikeTrains.of([], 0.0),
        lambda: spike_trains(torch.zeros(0, 2)),
        lambda: spike_trains(torch.zeros(3, 2), dt=-1.0),
        lambda: spike_trains(torch.full((3, 2), torch.nan)),
        lambda: fano_factor(np.ones((1, 3))),
        lambda: VictorPurpura(-1.0),
        lambda: VanRossum(0.0),
        lambda: VictorPurpura()(of([[1.0]]), of([[1.0], [2.0]])),
        lambda: VictorPurpura()(of([[1.0]]), SpikeTrains.of([[1.0]], 8.0)),
        lambda: spike_change(torch.zeros(3, 2, 1), torch.zeros(3, 2, 2)),
    ],
)
def test_trains_that_are_none_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_no_trains_and_no_spikes_are_no_error():
    none = SpikeTrains.of([], 8.0)
    for distance in DISTANCES:
        assert distance(none, none).shape == (0,)
        assert distance(of([[]]), of([[]])) == pytest.approx([0.0])
    assert spike_trains(torch.zeros(3, 0)).times.shape == (0, 0)

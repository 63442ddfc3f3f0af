"""Threats on spikes against brute force over every grid."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Threat
from spikeproof.threats import Additions, Flips, Removals
from spikeproof.threats.spikes import _leading

SHAPE = (40, 2, 2, 1, 2)
SIZES = {1: 40, 2: 6}
KINDS = (Flips, Additions, Removals)
WHERE = [{}, {"polarity": 1}, {"region": (0, 1, 1, 5)}, {"polarity": 0, "region": (0, 0, 1, 1)}]
THREATS = [make(k) for make in KINDS for k in (0, 1, 3, 50)]
THREATS += [make(k, most=2) for make in KINDS for k in (1, 3)]
THREATS += [make(2, most=most, **where) for make in KINDS for most in (1, 2) for where in WHERE[1:]]


def clean(threat):
    """Random grids, fewer of them where there are more members to look through."""
    draws = Key.of(0).uniform(SHAPE)[: SIZES[threat.most]]
    return (draws < 0.4).float() * (1 + (draws < 0.2) * (threat.most - 1))


def goals(x):
    return x + 1.3 * Key.of(1).normal(x.shape)


def grids(most):
    return torch.tensor(list(product(map(float, range(most + 1)), repeat=8)))


def members(threat, x):
    """Every grid within the budget, counted from the definition."""
    every = grids(threat.most)
    moved = every - x
    barred = torch.zeros(len(every), dtype=torch.bool)
    for place, change in zip(product(range(2), range(2), range(1), range(2)), moved.T, strict=True):
        _, c, i, j = place
        top, left, height, width = threat.region or (0, 0, 9, 9)
        inside = top <= i < top + height and left <= j < left + width and threat.polarity in (None, c)
        barred |= (change != 0) & (not inside)
        barred |= (change < 0) & (type(threat) is Additions)
        barred |= (change > 0) & (type(threat) is Removals)
    return ~barred & (moved.abs().sum(1) <= threat.epsilon)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_sets_projections_and_linear_optima_equal_brute_force(threat):
    assert isinstance(threat, Threat)
    every, whole = grids(threat.most), clean(threat)
    goal = goals(whole)
    landed, best = threat.project(goal, whole), threat.extreme(goal, whole)
    assert threat.contains(landed, whole).all()
    assert threat.contains(best, whole).all()
    for i, x in enumerate(whole.flatten(1)):
        inside = members(threat, x)
        one = whole[i].expand(len(every), *SHAPE[1:])
        assert torch.equal(threat.contains(every.view(-1, *SHAPE[1:]), one), inside)
        near = (every[inside] - goal[i].flatten()).square().sum(1).min()
        assert (landed[i] - goal[i]).square().sum() <= near + 1e-5
        high = (every[inside] @ goal[i].flatten()).max()
        assert (best[i] * goal[i]).sum() >= high - 1e-5


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_starts_are_inside_belong_to_examples_and_spend_the_budget(threat):
    x = clean(threat)
    key = Key.of(3).for_rows(range(len(x)))
    start = threat.start(x, key)
    assert threat.contains(start, x).all()
    assert torch.equal(threat.start(x[5:6], key.for_rows([5])), start[5:6])
    room = threat.allowed(x).flatten(1).sum(1).clamp(max=threat.epsilon)
    assert torch.equal(threat.distance(start, x), room.double())


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_neighbours_are_all_members_one_change_or_one_exchange_away_steepest_first(threat):
    x = clean(threat)[:6]
    x_adv, grad = threat.start(x, Key.of(4)), Key.of(5).normal(x.shape)
    found = threat.neighbours(x_adv, x, grad, 400)
    every = grids(threat.most)
    for i in range(len(x)):
        inside = members(threat, x[i].flatten())
        step = every - x_adv[i].flatten()
        one = step.abs().sum(1) == 1
        out = (every - x[i].flatten()).abs().sum(1)
        swap = (step.abs().sum(1) == 2) & (out == (x_adv[i] - x[i]).abs().sum()) & (step.abs().amax(1) == 1)
        wanted = {tuple(g.tolist()) for g in every[inside & (one | swap)]}
        here = {tuple(g.flatten().tolist()) for g in found[:, i]}
        assert here - {tuple(x_adv[i].flatten().tolist())} == wanted
        gains = ((found[:, i] - x_adv[i]) * grad[i]).flatten(1).sum(1)[: len(wanted)]
        assert torch.allclose(gains, gains.sort(descending=True).values, atol=1e-5)
    assert torch.equal(threat.neighbours(x_adv, x, grad, 3), found[:3])


def test_values_off_the_grid_of_counts_are_refused_and_never_contained():
    x = clean(Flips(2))
    with pytest.raises(InputError, match="Linf"):
        Flips(2).project(x, x + 0.5)
    with pytest.raises(InputError, match="most=2"):
        Flips(2).project(x, 2 * x)
    assert Flips(2, most=2).contains(2 * x, 2 * x).all()
    for bad in (0.5, 2.0, -1.0, float("nan")):
        x_adv = x.clone()
        x_adv[0, 0, 0, 0, 0] = bad
        assert not Flips(50).contains(x_adv, x)[0]
        assert Flips(50).contains(x_adv, x)[1:].all()
    lost = torch.full_like(x, float("nan"))
    assert torch.equal(Flips(3).project(lost, x), x)


@pytest.mark.parametrize(
    ("threat", "says"),
    [
        (lambda: Flips(1.5), "whole number"),
        (lambda: Flips("5"), "whole number"),
        (lambda: Flips(1, most=0), "most=1"),
        (lambda: Flips(1, polarity=-1), "polarities"),
        (lambda: Flips(1, region=(0, 0, 0, 3)), "region"),
        (lambda: Flips(1, polarity=2).start(torch.zeros(1, 2, 2), Key.of(0)), "channel"),
        (lambda: Flips(1, region=(0, 0, 1, 1)).start(torch.zeros(1, 2, 2), Key.of(0)), "region"),
    ],
)
def test_budgets_of_events_and_regions_out_of_range_say_what_to_try(threat, says):
    with pytest.raises(InputError, match=says):
        threat()


def test_budgets_are_nested():
    x = clean(Flips(1))
    grad = Key.of(7).normal(x.shape)
    for threat in map(Flips, range(5)):
        assert replace(threat, epsilon=5).contains(threat.extreme(grad, x), x).all()


def test_the_largest_changes_are_those_of_a_stable_sort_whatever_is_tied():
    for draw, many in product(range(5), (0, 1, 4, 9, 30)):
        worth = (3 * Key.of(draw).uniform((6, 20))).floor()
        found = _leading(worth, many)
        whole = worth.argsort(dim=1, descending=True, stable=True)[:, :many]
        positive = worth.gather(1, whole) > 0
        assert torch.equal(found[positive], whole[positive])
        assert (worth.gather(1, found)[~positive] == 0).all()


@pytest.mark.parametrize("threat", [Flips(2), Additions(2), Removals(2)], ids=repr)
def test_no_part_of_a_threat_of_events_takes_values_that_are_none(threat):
    x = torch.full((1, 2, 3), 0.5)
    for part in (lambda: threat.start(x, Key.of(0)), lambda: threat.extreme(torch.ones_like(x), x)):
        with pytest.raises(InputError, match="whole numbers of events"):
            part()

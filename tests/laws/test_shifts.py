"""Shifts of spikes against brute force: every grid, and every account of which spike went where.

On larger grids, against an implementation that looks at every entry (`dense_shifts.py`).
"""

import sys
from functools import cache
from itertools import permutations, product
from pathlib import Path

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Threat
from spikeproof.threats import Shifts
from spikeproof.threats.lines import leaders
from spikeproof.threats.placement import assigned

sys.path.insert(0, str(Path(__file__).parent))

import dense_shifts
from dense_shifts import DenseShifts

T = 4
MEASURES = ("moved", "delay", "jitter")
THREATS = [Shifts(k, measure=m) for m in MEASURES for k in (0, 1, 3, 50)]
THREATS += [Shifts(k, most=2, measure=m) for m in MEASURES for k in (1, 2)]
THREATS += [Shifts(2, polarity=1, measure=m) for m in MEASURES]
THREATS += [Shifts(2, most=most, region=(0, 0, 3, 3), polarity=0, measure="delay") for most in (1, 2)]
THREATS += [Shifts(1, most=2, polarity=0, region=(0, 0, 1, 1), measure=m) for m in ("moved", "jitter")]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=repr)


def clean(threat, count=None):
    """Random grids of four steps at two places."""
    count = count or (12 if threat.most == 1 else 4)
    draws = Key.of(0).uniform((count, T, 2, 1, 1))
    return (draws < 0.45).float() * (1 + (draws < 0.2) * (threat.most - 1))


@cache
def cheapest(before, after):
    """Least number moved, sum and largest of shifts from one line to another, by trying every bijection."""
    source = [(t, v) for t, v in enumerate(before) if v]
    target = [(t, v) for t, v in enumerate(after) if v]
    if len(source) != len(target):
        return None
    costs = []
    for order in permutations(target):
        if all(a[1] == b[1] for a, b in zip(source, order, strict=True)):
            shift = [abs(a[0] - b[0]) for a, b in zip(source, order, strict=True)]
            costs.append((sum(s > 0 for s in shift), sum(shift), max(shift, default=0)))
    return tuple(map(min, zip(*costs, strict=True))) if costs else None


def members(threat, x):
    """Every member, counted from the definition."""
    options = []
    for c in range(2):
        before = tuple(x[:, c, 0, 0].tolist())
        lines = []
        for after in product(map(float, range(threat.most + 1)), repeat=T):
            cost = cheapest(before, after)
            if cost is not None and (threat.polarity in (None, c) or after == before):
                lines.append((after, cost[MEASURES.index(threat.measure)]))
        options.append(lines)
    join = max if threat.measure == "jitter" else sum
    found = [
        torch.tensor([a[0], b[0]]).T[:, :, None, None]
        for a, b in product(*options)
        if join([a[1], b[1]]) <= threat.epsilon
    ]
    return torch.stack(found)


@each_threat
def test_sets_and_projections_equal_brute_force(threat):
    assert isinstance(threat, Threat)
    x = clean(threat)
    goal = x + 0.7 * Key.of(1).normal(x.shape)
    landed, best = threat.project(goal, x), threat.extreme(goal, x)
    assert threat.contains(landed, x).all()
    assert threat.contains(best, x).all()
    every = torch.tensor(list(product(map(float, range(threat.most + 1)), repeat=2 * T))).view(-1, T, 2, 1, 1)
    gaps = []
    for i in range(len(x)):
        inside = members(threat, x[i])
        assert int(threat.contains(every, x[i].expand_as(every)).sum()) == len(inside)
        assert threat.contains(inside, x[i].expand_as(inside)).all()
        near = (inside - goal[i]).square().flatten(1).sum(1).min()
        assert (landed[i] - goal[i]).square().sum() <= near + 1e-5
        gaps.append(float((inside * goal[i]).flatten(1).sum(1).max() - (best[i] * goal[i]).sum()))
    if threat.measure == "jitter" or threat.most == 1:
        assert max(gaps) < 1e-5
    assert sum(gap < 1e-5 for gap in gaps) >= 0.7 * len(gaps)  # a price per example may leave some budget


@each_threat
def test_members_stay_and_starts_are_inside_and_belong_to_examples(threat):
    x = clean(threat, 12)
    key = Key.of(3).for_rows(range(12))
    start = threat.start(x, key)
    assert threat.contains(start, x).all()
    assert torch.equal(start.sum(1), x.sum(1))
    assert torch.equal(threat.start(x[5:6], key.for_rows([5])), start[5:6])
    assert torch.equal(threat.project(start, x), start)
    assert (threat.epsilon == 0) == torch.equal(start, x)
    lost = torch.where(Key.of(9).uniform(x.shape) < 0.1, torch.nan, start)
    assert threat.contains(threat.project(lost, x), x).all()


@each_threat
def test_neighbours_are_members_one_or_two_moves_away_and_all_single_moves_are_among_them(threat):
    x = clean(threat, 6)
    x_adv, grad = threat.start(x, Key.of(4)), Key.of(5).normal(x.shape)
    found = threat.neighbours(x_adv, x, grad, 100)
    for i in range(len(x)):
        one = found[:, i]
        assert threat.contains(one, x[i].expand_as(one)).all()
        assert ((one != x_adv[i]).flatten(1).sum(1) <= 4).all()
        gains = ((one - x_adv[i]) * grad[i]).flatten(1).sum(1)
        moved = (one != x_adv[i]).flatten(1).any(1)
        assert torch.allclose(gains[moved], gains[moved].sort(descending=True).values, atol=1e-5)
        here = {tuple(g.flatten().tolist()) for g in one}
        for member in members(threat, x[i]):
            change = member - x_adv[i]
            single = (change != 0).sum() == 2 and (change.sum(0) == 0).all()
            if single and ((member == 0) | (x_adv[i] == 0)).logical_or(change == 0).all():
                assert tuple(member.flatten().tolist()) in here
    few = threat.neighbours(x_adv, x, grad, 2)
    assert threat.contains(few[1], x).all()


def test_what_is_lost_made_or_merged_is_no_shift():
    x = torch.tensor([[1.0, 1.0, 0.0, 0.0]]).view(1, 4, 1)
    for measure in MEASURES:
        threat = Shifts(50, measure=measure)
        for bad in ([1, 0, 0, 0], [1, 1, 1, 0], [2, 0, 0, 0], [1, 0.5, 0.5, 0], [1, float("nan"), 0, 0]):
            assert not threat.contains(torch.tensor([bad]).float().view(1, 4, 1), x).any()
    assert Shifts(1).distance(torch.tensor([[0.0, 1.0, 1.0, 0.0]]).view(1, 4, 1), x).item() == 1
    assert Shifts(1, measure="delay").distance(x.flip(1), x).item() == 4
    assert Shifts(1, measure="jitter").distance(x.flip(1), x).item() == 2
    other = torch.tensor([[2.0, 1.0, 0.0, 0.0]]).view(1, 4, 1)
    assert Shifts(1, most=2, measure="delay").distance(other.roll(1, 1), other).item() == 2
    with pytest.raises(InputError, match="most=2"):
        Shifts(1).start(other, Key.of(0))
    with pytest.raises(InputError, match="jitter"):
        Shifts(1, measure="far")
    with pytest.raises(InputError, match="whole number"):
        Shifts(0.5)


def test_total_delay_equals_the_optimum_of_an_integer_programme_or_is_rationed_close_to_it(monkeypatch):
    x = (Key.of(6).uniform((4, 20, 6, 1, 1)) < 0.2).float()
    goal = Key.of(7).normal(x.shape).double()
    for budget in (3, 10, 30):
        threat = Shifts(budget, measure="delay")
        exact = threat.extreme(goal, x)
        with monkeypatch.context() as large:
            large.setattr("spikeproof.threats.shifts.ENTRIES", 1000)  # as if examples were very large
            near, best = threat.extreme(goal, x), threat.project(goal, x)
        gain, most, found = (((each - x) * goal).flatten(1).sum(1) for each in (near, best, exact))
        assert threat.contains(best, x).all()
        assert threat.contains(exact, x).all()
        assert (gain <= most + 1e-9).all()
        assert (gain >= 0.8 * most).all()
        torch.testing.assert_close(found, most)


LARGER = [Shifts(k, most=n, measure=m) for m in MEASURES for k in (1, 4) for n in (1, 3)]
LARGER += [Shifts(12, most=3, polarity=1, measure="delay"), Shifts(3, region=(0, 0, 2, 2))]


def recordings(threat, seed):
    """Grids of seven steps at twelve places; one example is empty."""
    draws = Key.of(seed).uniform((5, 7, 2, 2, 3))
    x = (draws < 0.35).float() * (1 + (threat.most > 1) * ((draws < 0.2).float() + (draws < 0.1).float()))
    x[1] = 0
    return x


@pytest.mark.parametrize("large", [False, True], ids=["as they are", "as if very large"])
@pytest.mark.parametrize("threat", LARGER, ids=repr)
def test_answers_equal_to_the_bit_those_of_a_look_at_every_entry(threat, large, monkeypatch):
    if large:
        monkeypatch.setattr("spikeproof.threats.shifts.ENTRIES", 1000)
        monkeypatch.setattr(dense_shifts, "ENTRIES", 1000)
    dense = DenseShifts(threat.epsilon, threat.most, threat.polarity, threat.region, threat.measure)
    for seed in range(2):
        x, key = recordings(threat, seed), Key.of(10 + seed)
        goal, slope = key.fold("goal").normal(x.shape), key.fold("slope").normal(x.shape)
        best = threat.extreme(goal, x)
        assert torch.equal(best, dense.extreme(goal, x))
        others = best.roll(1, 1)
        assert torch.equal(threat.distance(best, x), dense.distance(best, x))
        assert torch.equal(threat.distance(others, x), dense.distance(others, x))
        for many in (1, 20):
            near = threat.neighbours(best, x, slope, many)
            assert torch.equal(near, dense.neighbours(best, x, slope, many))


def test_unequal_events_are_assigned_as_scipy_assigns_them():
    for shape in ((30, 1, 1), (30, 2, 5), (30, 5, 5), (30, 6, 9)):
        value = Key.of(11).fold("value", *shape).normal(shape).double()
        barred = Key.of(12).fold("barred", *shape).uniform(shape) < 0.3
        barred &= ~torch.eye(*shape[1:]).bool()  # so that one assignment is left
        value = torch.where(barred, -torch.inf, value)
        found = assigned(value)
        for one, entries in zip(value, found, strict=True):
            rows, columns = linear_sum_assignment(one.clamp(min=-1e30).numpy(), maximize=True)
            assert sorted(set(entries.tolist())) == sorted(entries.tolist())
            best = float(one[rows, columns].sum())
            assert float(one.gather(1, entries[:, None]).sum()) == pytest.approx(best)


@pytest.mark.parametrize("many", [0, 1, 3, 40])
def test_leaders_are_those_of_a_stable_sort_of_each_example(many):
    value = (4 * Key.of(13).uniform((60,))).floor().double()  # with many ties
    value[value == 0] = -torch.inf
    owner = (6 * Key.of(14).uniform((60,))).long().sort().values
    index, real = leaders(value, owner, 7, many)
    for b in range(7):
        mine = [i for i in range(60) if owner[i] == b and value[i] > -torch.inf]
        expected = sorted(mine, key=lambda i: -float(value[i]))[:many]
        assert index[b][real[b]].tolist() == expected

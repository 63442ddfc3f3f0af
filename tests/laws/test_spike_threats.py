"""Threats on spikes against brute force over every binary grid."""

from itertools import product

import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Threat
from spikeproof.threats import Additions, Flips, Removals

SHAPE = (40, 2, 1, 2, 2)
X = (Key.of(0).uniform(SHAPE) < 0.4).float()
GOAL = X + Key.of(1).normal(SHAPE)
GRIDS = torch.tensor(list(product([0.0, 1.0], repeat=8)))
THREATS = [make(k) for make in (Flips, Additions, Removals) for k in (0, 1, 3, 50)]


def members(threat, x):
    """Every grid within the budget, counted from the definition."""
    added, removed = ((GRIDS - x) > 0).sum(1), ((GRIDS - x) < 0).sum(1)
    barred = {Flips: 0 * added, Additions: removed, Removals: added}[type(threat)]
    return (barred == 0) & (added + removed <= threat.epsilon)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_sets_projections_and_linear_optima_equal_brute_force(threat):
    assert isinstance(threat, Threat)
    landed, best = threat.project(GOAL, X), threat.extreme(GOAL, X)
    assert threat.contains(landed, X).all()
    assert threat.contains(best, X).all()
    for i, x in enumerate(X.flatten(1)):
        inside = members(threat, x)
        assert torch.equal(threat.contains(GRIDS.view(-1, *SHAPE[1:]), X[i].expand(256, *SHAPE[1:])), inside)
        near = (GRIDS[inside] - GOAL[i].flatten()).square().sum(1).min()
        assert (landed[i] - GOAL[i]).square().sum() <= near + 1e-5
        high = (GRIDS[inside] @ GOAL[i].flatten()).max()
        assert (best[i] * GOAL[i]).sum() >= high - 1e-5


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_starts_are_inside_belong_to_examples_and_spend_the_budget(threat):
    key = Key.of(3).for_rows(range(40))
    start = threat.start(X, key)
    assert threat.contains(start, X).all()
    assert torch.equal(threat.start(X[5:6], key.for_rows([5])), start[5:6])
    room = threat.allowed(X).flatten(1).sum(1).clamp(max=threat.epsilon)
    assert torch.equal(threat.distance(start, X), room.double())


def test_what_is_not_binary_is_refused_and_never_contained():
    with pytest.raises(InputError, match="Linf"):
        Flips(2).project(GOAL, X + 0.5)
    for bad in (0.5, 2.0, float("nan")):
        x_adv = X.clone()
        x_adv[0, 0, 0, 0, 0] = bad
        assert not Flips(50).contains(x_adv, X)[0]
        assert Flips(50).contains(x_adv, X)[1:].all()
    lost = torch.full_like(X, float("nan"))
    assert torch.equal(Flips(3).project(lost, X), X)
    with pytest.raises(InputError, match="whole number"):
        Flips(1.5)

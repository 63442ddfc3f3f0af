"""What every threat must satisfy, and projections against an independent solver."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import kstest

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Threat
from spikeproof.threats import L2, Linf, parse_epsilon

THREATS = [Linf(0.1), Linf(8 / 255), Linf(1.0), L2(0.5), L2(3.0), L2(0.01)]
X = Key.of(0).uniform((30, 1, 4, 5))
FAR = X + 2 * Key.of(1).normal((30, 1, 4, 5))


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_projection_lands_inside_is_idempotent_and_fixes_what_is_inside(threat):
    assert isinstance(threat, Threat)
    landed = threat.project(FAR, X)
    assert threat.contains(landed, X).all()
    assert torch.allclose(threat.project(landed, X), landed, atol=1e-6)
    inside = threat.start(X, Key.of(2))
    assert torch.allclose(threat.project(inside, X), inside, atol=1e-6)
    mixed = torch.where(torch.arange(30).view(-1, 1, 1, 1) < 15, 0.9 * inside + 0.1 * X, FAR)
    assert torch.allclose(threat.project(mixed, X)[:15], mixed[:15], rtol=0, atol=1.2e-7)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3)], ids=repr)
def test_the_border_belongs_to_the_set_and_a_little_more_does_not(threat):
    x = torch.full((20, 7), 0.5, dtype=torch.float64)
    away = Key.of(6).normal((20, 7)).double()
    away = away / threat.distance(away, torch.zeros_like(away))[:, None]
    assert threat.contains(x + threat.epsilon * away, x).all()
    assert not threat.contains(x + 1.001 * threat.epsilon * away, x).any()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1)], ids=repr)
def test_starts_fill_the_ball_evenly(threat):
    """The distance of a uniform member of a ball in n dimensions, to the power n, is uniform in [0, 1]."""
    x = torch.full((3000, 3), 0.5, dtype=torch.float64)
    start = threat.start(x, Key.of(0))
    share = (threat.distance(start, x) / threat.epsilon) ** 3
    assert kstest(share.numpy(), "uniform").pvalue > 0.01
    assert (start - x).mean(0).abs().max() < 0.005


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_starts_are_inside_differ_between_keys_and_belong_to_examples(threat):
    key = Key.of(3).for_rows(range(30))
    start = threat.start(X, key)
    assert threat.contains(start, X).all()
    assert not torch.equal(start, threat.start(X, key.fold("again")))
    assert torch.equal(threat.start(X[5:6], key.for_rows([5])), start[5:6])


@pytest.mark.parametrize("make", [Linf, L2])
def test_a_threat_of_size_zero_holds_only_the_image(make):
    threat = make(0.0)
    assert torch.equal(threat.project(FAR, X), X)
    assert torch.equal(threat.start(X, Key.of(0)), X)
    assert threat.contains(X, X).all()
    assert not threat.contains((X + 0.01).clamp(0, 1), X).any()


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_what_leaves_the_box_or_is_no_number_is_not_contained(threat):
    for bad in (-1e-4, 1 + 1e-4, float("nan")):
        x_adv = X.clone()
        x_adv[0, 0, 0, 0] = bad
        assert not threat.contains(x_adv, X)[0]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_the_steepest_step_beats_every_other_unit_step_on_a_linear_function(threat):
    grad = Key.of(4).normal(X.shape)
    step = threat.steepest(grad)
    rise = (step * grad).flatten(1).sum(1)
    for i in range(20):
        other = Key.of(i).normal(X.shape)
        length = threat.distance(other, torch.zeros_like(other)).view(-1, 1, 1, 1)
        assert ((other / length * grad).flatten(1).sum(1) <= rise + 1e-4).all()
    assert torch.equal(threat.steepest(torch.zeros_like(grad)), torch.zeros_like(grad))


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("scale", [1e30, 1e-10, 1e-20, 1e-36])
def test_the_steepest_step_does_not_depend_on_how_large_the_gradient_is(threat, scale):
    """A model that is sure of itself has gradients whose squares vanish in single precision."""
    grad = Key.of(4).normal(X.shape)
    assert torch.allclose(threat.steepest(grad * scale), threat.steepest(grad), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), st.integers(0, 10**6))
def test_projections_equal_those_of_a_general_solver(values, seed):
    x = torch.tensor([values], dtype=torch.float64)
    y = x + Key.of(seed).normal((1, 3)).double()
    for threat, constraint in (
        (Linf(0.2), lambda z: 0.2 - np.abs(z - x.numpy()[0])),
        (L2(0.3), lambda z: 0.09 - ((z - x.numpy()[0]) ** 2).sum()),
    ):
        solved = minimize(
            lambda z: ((z - y.numpy()[0]) ** 2).sum(),
            x.numpy()[0],
            bounds=[(0, 1)] * 3,
            constraints={"type": "ineq", "fun": constraint},
            options={"ftol": 1e-12, "maxiter": 500},
        )
        ours = threat.project(y, x)
        assert threat.contains(ours, x).all()
        assert ((ours - y) ** 2).sum().item() <= solved.fun + 1e-5


def test_distances_are_the_norms():
    difference = (FAR - X).flatten(1).numpy()
    assert np.allclose(Linf(1).distance(FAR, X), np.abs(difference).max(1))
    assert np.allclose(L2(1).distance(FAR, X), np.linalg.norm(difference, axis=1), rtol=1e-5)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), (0.03, 0.03), ("0", 0.0), (" 1 / 4 ", 0.25)])
def test_epsilons_are_numbers_or_fractions(text, value):
    assert parse_epsilon(text) == value


@pytest.mark.parametrize(
    "bad", ["-1", "8/0", "abc", "", -0.1, float("nan"), "inf", True, "1e9999999999", "8/"]
)
def test_what_is_no_budget_is_refused(bad):
    with pytest.raises(InputError, match="8/255"):
        parse_epsilon(bad)

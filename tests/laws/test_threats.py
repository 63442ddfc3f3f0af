"""What every threat must satisfy, and projections against an independent solver and brute force."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize
from scipy.stats import kstest

from spikeproof.catalogue.names import PARTS
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Threat, moves_events
from spikeproof.threats import (
    L0,
    L1,
    L2,
    LaserBeam,
    Linf,
    Region,
    Shifts,
    SquarePatch,
    check_budget,
    parse_epsilon,
)
from spikeproof.threats.balls import Ball, room

BALLS = [Linf(0.1), Linf(8 / 255), Linf(1.0), L2(0.5), L2(3.0), L2(0.01), L1(0.3), L1(4.0), L1(100.0)]
PLACES = [L0(3), L0(50), SquarePatch(2), SquarePatch(9)]
REGIONS = [
    Region(0.1, "linf", 1, 1, 2, 3),
    Region(0.5, "l2", 0, 2, 9, 2),
    Region(0.5, "l1", height=3),
    Region(2, "l0", 1, 1, 2, 2, outside=True),
]
THREATS = [*BALLS, *PLACES, *REGIONS]
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


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.3), L1(0.4)], ids=repr)
def test_the_border_belongs_to_the_set_and_a_little_more_does_not(threat):
    x = torch.full((20, 7), 0.5, dtype=torch.float64)
    away = Key.of(6).normal((20, 7)).double()
    away = away / threat.distance(away, torch.zeros_like(away))[:, None]
    assert threat.contains(x + threat.epsilon * away, x).all()
    assert not threat.contains(x + 1.001 * threat.epsilon * away, x).any()


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.1), L1(0.1)], ids=repr)
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


@pytest.mark.parametrize("make", [Linf, L2, L1, L0, SquarePatch, Region])
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


@pytest.mark.parametrize("threat", BALLS, ids=repr)
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


@pytest.mark.parametrize("norm", [1, 2])
@pytest.mark.parametrize("epsilon", [0.1, 0.7, 2.0])
def test_projections_onto_ball_and_box_satisfy_what_makes_a_point_the_nearest(norm, epsilon):
    """No member lies at an acute angle: (y - p) (z - p) <= 0 for every z, so for the extreme one of y - p.

    The largest value over ball and box is found without our code: a linear program in L1, SciPy in L2.
    """
    threat = (L1 if norm == 1 else L2)(epsilon)
    x = Key.of(21).uniform((8, 7)).double().round(decimals=1)  # some values at the walls
    y = x + Key.of(22).normal((8, 7)).double()
    for one, goal, p in zip(x.numpy(), y.numpy(), threat.project(y, x).numpy(), strict=True):
        normal = goal - p
        bounds = [(0, 1 - v) for v in one] + [(0, v) for v in one]
        if norm == 1:
            both = np.concatenate([normal, -normal])
            most = -linprog(-both, np.ones((1, 14)), [epsilon], bounds=bounds).fun
        else:
            most = -minimize(
                lambda z, n=normal: -(n * z).sum(),
                0.5 * (p - one),
                jac=lambda z, n=normal: -n,
                bounds=[(-v, 1 - v) for v in one],
                constraints={"type": "ineq", "fun": lambda z: epsilon**2 - z @ z, "jac": lambda z: -2 * z},
                options={"ftol": 1e-12, "maxiter": 500},
            ).fun
        assert most - (normal * (p - one)).sum() < 1e-5


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
def test_epsilons_that_are_negative_infinite_or_no_number_are_refused(bad):
    with pytest.raises(InputError, match="8/255"):
        parse_epsilon(bad)


def solved_l1(x, y, epsilon):
    """The nearest member of ball and box as a smooth problem in the rises and falls of each value."""
    n = len(x)
    found = minimize(
        lambda z: ((x + z[:n] - z[n:] - y) ** 2).sum(),
        np.zeros(2 * n),
        jac=lambda z: np.concatenate([2 * (x + z[:n] - z[n:] - y), -2 * (x + z[:n] - z[n:] - y)]),
        bounds=[(0, 1 - v) for v in x] + [(0, v) for v in x],
        constraints={"type": "ineq", "fun": lambda z: epsilon - z.sum(), "jac": lambda z: -np.ones(2 * n)},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return found.fun


@pytest.mark.parametrize("epsilon", [0.05, 0.4, 1.0, 3.0])
def test_the_l1_projection_equals_that_of_a_general_solver(epsilon):
    x = Key.of(11).uniform((15, 5)).double()
    y = x + Key.of(12).normal((15, 5)).double() * torch.linspace(0.1, 1, 15)[:, None]
    ours = L1(epsilon).project(y, x)
    assert L1(epsilon).contains(ours, x).all()
    for one, goal, found in zip(x.numpy(), y.numpy(), ours.numpy(), strict=True):
        assert abs(((found - goal) ** 2).sum() - solved_l1(one, goal, epsilon)) < 1e-6


def test_projections_are_inside_after_rounding_on_images_of_many_pixels():
    x = Key.of(0).uniform((2, 3, 224, 224))
    far = x + Key.of(1).normal(x.shape)
    for threat, order in ((L1(20.0), 1), (L2(3.0), 2)):
        landed = threat.project(far, x)
        exact = torch.linalg.vector_norm((landed.double() - x.double()).flatten(1), order, dim=1)
        assert (exact <= threat.epsilon).all()
        assert (exact > 0.9999 * threat.epsilon).all()
        torch.testing.assert_close(threat.distance(landed, x), exact, rtol=1e-12, atol=0)


def choices(threat, shape):
    """Every set of places that the threat allows, as masks."""
    height, width = shape
    if isinstance(threat, L0):
        for places in combinations(range(height * width), min(int(threat.epsilon), height * width)):
            mask = torch.zeros(height * width, dtype=torch.bool)
            mask[list(places)] = True
            yield mask.view(shape)
    else:
        tall, wide = min(int(threat.epsilon), height), min(int(threat.epsilon), width)
        for i in range(height - tall + 1):
            for j in range(width - wide + 1):
                mask = torch.zeros(shape, dtype=torch.bool)
                mask[i : i + tall, j : j + wide] = True
                yield mask


@pytest.mark.parametrize(
    "threat", [L0(1), L0(2), L0(7), SquarePatch(1), SquarePatch(2), SquarePatch(3)], ids=repr
)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_steepest_square_is_the_one_found_by_trying_every_position(threat, channels):
    x = Key.of(1).uniform((12, channels, 3, 4)).double()
    goal = x + Key.of(2).normal(x.shape).double()
    grad = Key.of(3).normal(x.shape).double()
    ours, best = threat.project(goal, x), threat.extreme(grad, x)
    assert threat.contains(ours, x).all()
    assert threat.contains(best, x).all()
    edge = (grad > 0).double()
    near, high, steep = [], [], []
    for mask in choices(threat, (3, 4)):
        near.append((torch.where(mask, goal.clamp(0, 1), x) - goal).square().flatten(1).sum(1))
        high.append((grad * (torch.where(mask, edge, x) - x)).flatten(1).sum(1))
        steep.append((grad.abs() * mask).flatten(1).sum(1))
    assert torch.allclose((ours - goal).square().flatten(1).sum(1), torch.stack(near).amin(0))
    assert torch.allclose((grad * (best - x)).flatten(1).sum(1), torch.stack(high).amax(0))
    step = threat.steepest(grad)
    assert torch.allclose((grad * step).flatten(1).sum(1), torch.stack(steep).amax(0))
    assert threat.distance(step, torch.zeros_like(step)).max() <= threat.epsilon


def test_pixels_count_once_and_a_patch_by_its_extent():
    x = torch.zeros(1, 3, 5, 6)
    moved = x.clone()
    moved[0, :, 1, 2] = 0.5
    moved[0, 1, 4, 3] = 0.5
    assert L0(1).distance(moved, x).item() == 2
    assert SquarePatch(1).distance(moved, x).item() == 4
    assert SquarePatch(4).contains(moved, x).all()
    assert not SquarePatch(3).contains(moved, x).any()
    assert L0(1).distance(x, x).item() == SquarePatch(1).distance(x, x).item() == 0


@pytest.mark.parametrize("epsilon", [0.02, 0.3, 2.0])
def test_extreme_members_maximise_a_linear_function_as_solvers_do(epsilon):
    x, grad = Key.of(4).uniform((8, 6)).double(), Key.of(5).normal((8, 6)).double()
    for threat in (Linf(epsilon), L1(epsilon), L2(epsilon)):
        found = threat.extreme(grad, x)
        assert threat.contains(found, x).all()
        for one, g, ours in zip(x.numpy(), grad.numpy(), found.numpy(), strict=True):
            bounds = [(0, 1 - v) for v in one] + [(0, v) for v in one]
            both = np.concatenate([g, -g])
            if isinstance(threat, L1):
                wanted = -linprog(-both, np.ones((1, 12)), [epsilon], bounds=bounds).fun
            elif isinstance(threat, Linf):
                wanted = -linprog(-both, bounds=[(0, min(high, epsilon)) for _, high in bounds]).fun
            else:
                wanted = -minimize(
                    lambda z, g=g: -(g * z).sum(),
                    np.zeros(6),
                    jac=lambda z, g=g: -g,
                    bounds=[(-v, 1 - v) for v in one],
                    constraints={
                        "type": "ineq",
                        "fun": lambda z: epsilon**2 - (z * z).sum(),
                        "jac": lambda z: -2 * z,
                    },
                    options={"ftol": 1e-12, "maxiter": 500},
                ).fun
            assert abs((g * (ours - one)).sum() - wanted) < 1e-5


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_the_extreme_member_is_inside_and_beats_random_members(threat):
    grad = Key.of(6).normal(X.shape)
    extreme = threat.extreme(grad, X)
    assert threat.contains(extreme, X).all()
    for i in range(10):
        other = threat.start(X, Key.of(i))
        assert ((grad * (other - extreme)).flatten(1).sum(1) <= 1e-5).all()
    assert torch.equal(threat.extreme(torch.zeros_like(grad), X), X)


def test_a_region_leaves_the_rest_alone_and_notices_changes_there():
    region = Region(0.5, "l2", top=1, left=0, height=2, width=3)
    landed = region.project(FAR, X)
    assert torch.equal(landed[:, :, 0], X[:, :, 0])
    assert torch.equal(landed[..., 3:], X[..., 3:])
    inside = X.clone()
    inside[:, :, 1:3, :3] = L2(0.5).project(FAR[:, :, 1:3, :3].contiguous(), X[:, :, 1:3, :3].contiguous())
    assert torch.allclose(landed, inside, atol=1e-6)
    wrong = X.clone()
    wrong[0, 0, 0, 0] = 1 - wrong[0, 0, 0, 0]
    assert not region.contains(wrong, X)[0]
    assert region.distance(wrong, X)[0] == torch.inf


@pytest.mark.parametrize(
    "make",
    [
        lambda: L0(0.5),
        lambda: L0(-1),
        lambda: L0(float("nan")),
        lambda: SquarePatch(1.5),
        lambda: Region(0.1, "l3"),
        lambda: Region(0.1, height=0),
        lambda: Region(0.5, "l0"),
        lambda: Region(0.1).project(torch.zeros(2, 3), torch.zeros(2, 3)),
        lambda: SquarePatch(2).project(torch.zeros(2, 3), torch.zeros(2, 3)),
    ],
)
def test_budgets_regions_and_shapes_that_do_not_fit_are_refused(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("make", PARTS[Threat].values(), ids=PARTS[Threat].keys())
@pytest.mark.parametrize("other", ["fewer", "one", "narrower", "one-column", "an-axis-less", "an-axis-more"])
def test_inputs_that_are_not_one_for_one_beside_their_clean_ones_are_refused(make, other):
    """Without this, some pairs of shapes are broadcast, and one input stands for a whole batch."""
    threat = make(1)
    whole = torch.zeros(4, 5, 2, 9, 10) if moves_events(threat) else torch.zeros(4, 1, 9, 10)
    part = {
        "fewer": whole[:3],
        "one": whole[:1],
        "narrower": whole[..., :9],
        "one-column": whole[..., :1],
        "an-axis-less": whole[0],
        "an-axis-more": whole[None],
    }[other]
    questions = [threat.contains, threat.distance]
    questions += [threat.project, threat.extreme] if make is not LaserBeam else []  # it has neither
    questions += [lambda a, b: threat.neighbours(a, b, b, 2)] if moves_events(threat) else []
    questions += [lambda a, b: threat.neighbours(b, b, a, 2)] if moves_events(threat) else []
    questions += [lambda a, b: threat.seen(a, b, Key.of(0))] if hasattr(threat, "seen") else []
    for question in questions:
        for pair in ((part, whole), (whole, part)):
            with pytest.raises(InputError, match="one clean input of its shape"):
                question(*pair)


def test_a_projection_onto_a_sphere_reaches_it():
    x = torch.full((1, 3), 0.5, dtype=torch.float64)
    away = torch.tensor([[1.0, 0.5, 0.5]], dtype=torch.float64)
    assert L2(0.25).project(away, x).tolist() == [[0.75, 0.5, 0.5]]  # to the last bit


def test_a_budget_is_refused_only_where_the_size_of_the_whole_box_is_known():
    check_budget(L2(3.0))
    check_budget(Linf(1 + 1e-6))  # the rounding of a member
    check_budget(Shifts(3, 1), (1, 2, 2))
    with pytest.raises(InputError, match="reaches every image at epsilon 2"):
        check_budget(L2(3.0), (1, 2, 2))


@pytest.mark.parametrize("part", ["whole", "start", "project", "steepest", "distance", "extreme"])
def test_a_ball_without_a_part_says_which_one_it_lacks(part):
    @dataclass(frozen=True)
    class Nothing(Ball):
        pass

    arguments = {"whole": [(1, 2, 2)], "start": [X, Key.of(0)], "steepest": [X]}
    with pytest.raises(NotImplementedError, match="Nothing"):
        getattr(Nothing(0.1), part)(*arguments.get(part, [FAR, X]))


@pytest.mark.parametrize("part", ["1_0", "\u0663", "8\t", "1e2_0", "infinity", "nan", ""])
def test_what_only_python_reads_as_a_number_is_no_part_of_an_epsilon(part):
    for text in (part, f"{part}/255", f"8/{part}", f"{part}/{part}"):
        with pytest.raises(InputError, match="An epsilon is a number of at least 0"):
            parse_epsilon(text)


def test_a_value_without_a_gradient_has_no_room():
    x = torch.full((1, 4), 0.25)
    assert room(torch.tensor([[2.0, -1.0, 0.0, -0.0]]), x).tolist() == [[0.75, 0.25, 0.0, 0.0]]


@pytest.mark.parametrize("ball", [Linf, L2, L1])
def test_a_budget_that_is_written_as_text_is_the_number_that_it_means(ball):
    assert ball("8/255") == ball(8 / 255)
    assert ball("8/255").epsilon == 8 / 255
    assert isinstance(ball(1).epsilon, int)  # numbers stay as they are

"""On linear models every attack within a budget reaches the closed form of its norm, or a stated share of it.

Away from the box the best member is the dual vector of the weights: epsilon times the dual norm. The searches
for the nearest image have the same law in test_minimum_norm.py; walls and other sets are in test_steps.py.
"""

import sys
from pathlib import Path

import pytest
import torch

from spikeproof.attacks.answers.noise import GaussianNoiseSearch, NoiseSearch, SaltAndPepperSearch
from spikeproof.attacks.answers.queries import PatchSearch, RectangleSearch, SquareSearch
from spikeproof.attacks.gradient.assembled import Assembled
from spikeproof.attacks.gradient.estimates import (
    NES,
    SPSA,
    FiniteDifferences,
    GaussianEstimate,
    RademacherEstimate,
)
from spikeproof.attacks.gradient.iterated import (
    APGD,
    APGDDLR,
    APGDL1,
    APGDT,
    EOTFGSM,
    MIM,
    NIFGSM,
    RFGSM,
    SAPGD,
    TargetedPGD,
)
from spikeproof.attacks.gradient.plain import BIM, EOTPGD, FGSM, PGD
from spikeproof.attacks.made_of.composite import WorstOf
from spikeproof.attacks.made_of.stand_in import StandIn
from spikeproof.attacks.parts.oracles import Expectation
from spikeproof.attacks.parts.schedules import Cosine, Halving, Oscillation
from spikeproof.attacks.parts.steps import (
    Adam,
    FrankWolfe,
    HeavyBall,
    Momentum,
    Nesterov,
    StableAdaptive,
    TopShare,
)
from spikeproof.attacks.parts.targets import EveryOther, Given
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin, Rescaled
from spikeproof.threats import L1, L2, Linf, Region, SquarePatch

sys.path.insert(0, str(Path(__file__).parent))
from completeness import check

X = 0.4 + 0.2 * Key.of(1).uniform((6, 1, 5, 5))
W = Key.of(2).normal((1, 5, 5)).sign() * (0.5 + Key.of(3).uniform((1, 5, 5)))
Y = torch.zeros(6, dtype=torch.int64)
BUDGETS = {"linf": Linf(0.1), "l2": L2(0.3), "l1": L1(0.3)}
DUAL = {"linf": W.abs().sum(), "l2": W.norm(), "l1": W.abs().amax()}
REACH = [  # recipe, norms, share of the optimum
    (FGSM(), "linf l2 l1", 0.999),
    (EOTFGSM(draws=2), "linf l2 l1", 0.999),
    (BIM(steps=10), "linf l2 l1", 0.999),
    (PGD(steps=20), "linf l2", 0.97),
    (PGD(steps=60), "l1", 0.97),
    (PGD(steps=20, objective=Rescaled(Margin())), "linf l2", 0.97),
    (EOTPGD(steps=20, draws=2), "linf l2", 0.97),
    (RFGSM(), "linf", 0.2),  # half of the budget goes to a random direction, as published
    (RFGSM(jump=0.01), "linf l2", 0.97),
    (MIM(steps=10), "linf l2 l1", 0.999),
    (NIFGSM(steps=10), "linf l2", 0.999),  # its steps add up to epsilon, as published
    (APGD(steps=30), "linf l2", 0.99),
    (APGD(steps=60), "l1", 0.9),  # sparse steps share the budget among several values
    (APGDL1(steps=60), "l1", 0.9),
    (APGDDLR(steps=30), "linf l2", 0.99),
    (APGDT(steps=30, targets=EveryOther(1)), "linf l2", 0.99),
    (SAPGD(steps=30), "linf", 0.99),
    (SAPGD(steps=30), "l2", 0.95),  # moments of each value turn the direction
    (TargetedPGD(steps=20, targets=Given((1, 0, 0, 0))), "linf l2", 0.97),
    (WorstOf(attacks=(NoiseSearch(draws=2), BIM(steps=10))), "linf l2 l1", 0.999),
    (SPSA(steps=12, samples=60), "linf l2", 0.9),
    (NES(steps=12, samples=60), "linf l2", 0.9),
    (SquareSearch(queries=150), "linf", 0.7),
    (SquareSearch(queries=150), "l2", 0.5),
    (RectangleSearch(queries=150), "linf", 0.7),
    (RectangleSearch(queries=150), "l2", 0.4),
    (StandIn(queries=150), "linf l2", 0.9),
    (Assembled(steps=4, oracle=FiniteDifferences(0.05), start="clean"), "linf l2", 0.999),
    (Assembled(steps=8, oracle=RademacherEstimate(60, 0.05)), "linf", 0.9),
    (Assembled(steps=8, oracle=Expectation(2, GaussianEstimate(40, 0.05))), "l2", 0.9),
    (Assembled(steps=30, step=Adam(), schedule=Cosine(), reach=10.0), "linf l2", 0.95),
    (Assembled(steps=30, step=Momentum(0.9), schedule=Halving(), restarts=2, reach=10.0), "linf l2", 0.99),
    (Assembled(steps=30, step=Nesterov(0.9), start="clean"), "linf l2", 0.99),
    (Assembled(steps=30, step=HeavyBall(), schedule=Oscillation(), reach=60.0), "linf l2", 0.99),
    (Assembled(steps=10, restarts=4, start="best", targets=EveryOther(1)), "linf l2", 0.99),
    (Assembled(steps=30, step=StableAdaptive(), schedule=Halving(), reach=30.0), "linf", 0.99),
    (Assembled(steps=60, step=FrankWolfe(), start="clean"), "linf l2 l1", 0.999),
    (Assembled(steps=60, step=TopShare(0.04), start="clean"), "l1", 0.99),
]
CASES = [(recipe, norm, share) for recipe, norms, share in REACH for norm in norms.split()]


def linear(images, key=None):
    """Two classes that the weights tell apart, and two that are never near."""
    score = ((images - 0.5) * W.to(images.dtype)).flatten(1).sum(1) + 6  # no budget here turns its sign
    far = torch.zeros_like(score)
    return torch.stack([score, -score, far - 200, far - 300], 1)


@pytest.mark.parametrize(
    ("recipe", "norm", "share"), CASES, ids=lambda v: v if isinstance(v, str) else repr(v)
)
def test_the_optimum_of_the_norm_is_reached(recipe, norm, share):
    threat = BUDGETS[norm]
    result = recipe(threat)(linear, X, Y, Key.of(4))
    assert threat.contains(result.x_adv, X).all()
    fall = ((X - result.x_adv) * W).flatten(1).sum(1)
    best = threat.epsilon * DUAL[norm]
    assert (fall <= best * 1.0001).all()
    assert (fall >= best * share).all(), (fall / best).tolist()


@pytest.mark.parametrize("side", [1, 2, 4])
@pytest.mark.parametrize(
    ("recipe", "share"),
    [(PGD(steps=40, restarts=3), 0.97), (PatchSearch(queries=1000, run=100), 0.7)],
    ids=repr,
)
def test_the_best_square_is_found_and_filled(recipe, share, side):
    """The closed form: of all places that where the most is to be gained at the edges of the box."""
    threat = SquarePatch(side)
    result = recipe(threat)(linear, X, Y, Key.of(4))
    assert threat.contains(result.x_adv, X).all()
    gain = torch.where(W > 0, X * W, (X - 1) * W)
    best = torch.nn.functional.avg_pool2d(gain, side, stride=1).flatten(1).amax(1) * side**2
    fall = ((X - result.x_adv) * W).flatten(1).sum(1)
    assert (fall <= best * 1.0001).all()
    assert (fall >= best * share).all(), (fall / best).tolist()


def test_square_attack_proposes_changes_only_within_the_region():
    threat = Region(0.1, "linf", top=1, left=2, height=3, width=2)
    result = SquareSearch(queries=60)(threat)(linear, X, Y, Key.of(4))
    assert threat.contains(result.x_adv, X).all()
    fall = ((X - result.x_adv) * W).flatten(1).sum(1)
    best = 0.1 * W[:, 1:4, 2:4].abs().sum()
    assert (fall <= best * 1.0001).all()
    assert (fall >= best * 0.8).all(), (fall / best).tolist()


def takes_pixels(recipe):
    """Whether it attacks images, and not events alone."""
    try:
        recipe(Linf(0.1))
    except InputError:
        return False
    return True


def test_every_gradient_attack_within_a_budget_has_a_row():
    """Those that need a spiking model for their gradients step as the attack inside them does."""
    members = {
        name: cls
        for name, cls in PARTS[Recipe].items()
        if issubclass(cls, GradientRecipe) and not hasattr(cls, "norms") and takes_pixels(cls())
    }
    without = {"universal": "is made on other images: laws/test_universal.py"}
    check("gradient attacks within a budget", members, [recipe for recipe, _, _ in REACH], without)


@pytest.mark.parametrize(
    "recipe", [NoiseSearch(draws=50), GaussianNoiseSearch(draws=50), SaltAndPepperSearch(draws=50)], ids=repr
)
def test_noise_is_far_from_the_optimum(recipe):
    """Random noise is a sanity check, and no attack on which a robust accuracy may rest."""
    for norm, threat in list(BUDGETS.items())[:2]:  # few values of a budget in L1 are soon drawn
        fall = ((X - recipe(threat)(linear, X, Y, Key.of(4)).x_adv) * W).flatten(1).sum(1)
        assert (fall < 0.9 * threat.epsilon * DUAL[norm]).all()

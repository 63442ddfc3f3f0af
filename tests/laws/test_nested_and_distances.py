"""Laws of nested sweeps over budgets, and of the distances of nearest adversarial images."""

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import quantile_test

from spikeproof import (
    EAD,
    FAB,
    FABT,
    JSMA,
    L0,
    L1,
    L2,
    MLP,
    PGD,
    ATan,
    Bernoulli,
    Boundary,
    CarliniWagner,
    DeepFool,
    Digits,
    HopSkipJump,
    Key,
    Latency,
    Linf,
    MeanPotential,
    ModelSpec,
    OnePixel,
    SparseFool,
    SquareSearch,
    WorstOf,
    evaluate_clean,
)
from spikeproof.attacks.events.eventsteps import Retiming, SpikeCompatible
from spikeproof.attacks.events.fewest import SDA
from spikeproof.attacks.events.spikesearch import SpikeSearch
from spikeproof.attacks.made_of.nested import Carried, Nested
from spikeproof.attacks.nearest.minimum import MinimumNorm
from spikeproof.encoders import Events
from spikeproof.errors import InputError
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.evaluation.verdicts import evaluate_sweep
from spikeproof.learning.backprop import BPTT
from spikeproof.neurons import LIF
from spikeproof.statistics import median
from spikeproof.threats import Flips, Shifts

KEY = Key.of(0)
BUDGETS = [Linf(0.2), Linf(0.05), Linf(0.1)]


def trained(encoder):
    model = ModelSpec(encoder, MLP((24,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10).build(KEY)
    BPTT(epochs=3, lr=0.01).train(model, Digits().load(), KEY)
    return model.eval()


@pytest.fixture(scope="module")
def spiking():
    return trained(Latency(4))


@pytest.fixture(scope="module")
def drawing():
    return trained(Bernoulli(4))


@pytest.fixture(scope="module")
def data():
    test = Digits().load().test
    return test.images[:40], test.labels[:40]


def sweep(model, recipe, data, **more):
    clean = evaluate_clean(model, *data, KEY)
    return evaluate_sweep(model, recipe, BUDGETS, *data, clean, KEY, **more)


RECIPES = [
    PGD(steps=5),
    PGD(steps=5, restarts=3),
    SquareSearch(queries=20),
    DeepFool(steps=5),
    WorstOf(attacks=(PGD(steps=2), SquareSearch(queries=10))),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_a_nested_sweep_never_rises_stays_in_budget_and_says_that_it_is_nested(recipe, spiking, data):
    nested, afresh = sweep(spiking, recipe, data, nested=True), sweep(spiking, recipe, data)
    assert [found.nested for found in nested] == [False, True, True]
    assert [found.metrics()["nested"] for found in afresh] == [False] * 3
    assert torch.equal(nested[0].x_adv, afresh[0].x_adv)
    for small, large in pairwise(nested):
        assert (large.right <= small.right).all()
        assert large.within.all()
        fallen = (small.right == 0) & (small.right_clean > 0)
        assert torch.equal(large.x_adv[fallen], small.x_adv[fallen])
        assert (large.queries[fallen] <= 2).all()
    for found in nested[1:]:
        with torch.no_grad():
            right = spiking(found.x_adv).argmax(1) == found.label
        assert torch.equal(found.right == 1, right & (found.right_clean == 1))


@pytest.mark.parametrize(
    ("recipe", "threat"),
    [
        (SpikeSearch(steps=3, restarts=1, width=4, refine=2), Flips(1)),
        (SpikeCompatible(steps=3), Flips(1)),
        (SDA(steps=2), Flips(1)),
        (Retiming(steps=3), Shifts(1, measure="delay")),
    ],
    ids=repr,
)
def test_a_nested_sweep_over_budgets_of_events_keeps_what_fell(recipe, threat):
    spec = ModelSpec(Events(5), MLP((10,)), LIF(), ATan(), MeanPotential(), (2, 3, 3), 4)
    model, x = spec.build(Key.of(5)).eval(), (Key.of(1).uniform((12, 5, 2, 3, 3)) < 0.3).float()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
        y = model(x).argmax(1)
    clean = evaluate_clean(model, x, y, KEY)
    budgets = [replace(threat, epsilon=size) for size in (3, 1, 2)]
    nested = evaluate_sweep(model, recipe, budgets, x, y, clean, KEY, nested=True)
    assert (nested[-1].right == 0).any()
    for small, large in pairwise(nested):
        assert (large.right <= small.right).all()
        assert large.within.all()
        fallen = small.right == 0
        assert torch.equal(large.x_adv[fallen], small.x_adv[fallen])
        assert (large.queries[fallen] <= 2).all()


def test_a_gradient_attack_begins_where_the_smaller_budget_ended(spiking, data):
    """Without a step of its own it returns the image it began with."""
    x, y = data
    ids, images = torch.arange(len(x)) + 7, Linf(0.05).start(x, KEY)
    attack = Nested(PGD(steps=0)(Linf(0.1)), Carried(ids, images))
    shuffled = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    found = attack(spiking, x[shuffled], y[shuffled], KEY.for_rows(ids[shuffled]))
    assert torch.equal(found.x_adv, images[shuffled])
    for key in (KEY, KEY.for_rows(range(100, 140))):
        with pytest.raises(InputError, match="belong to examples that the key names"):
            attack(spiking, x, y, key)


def test_a_nested_sweep_depends_on_no_batch(spiking, data):
    one, other = (
        sweep(spiking, PGD(steps=4, restarts=2), data, nested=True, batch_size=size) for size in (40, 9)
    )
    assert all(torch.equal(a.x_adv, b.x_adv) for a, b in zip(one, other, strict=True))


def test_on_a_model_that_draws_every_example_is_attacked_at_every_budget(drawing, data):
    found = sweep(drawing, PGD(steps=3), data, nested=True, draws=4)
    attacked = found[0].right_clean > 0
    assert all((each.backward_queries[attacked] >= 3).all() for each in found)
    assert found[2].right.mean() < found[0].right.mean()


# --- distances -----------------------------------------------------------------------------------------


class Linear(torch.nn.Module):
    """Two classes, a plane between them."""

    def __init__(self, weights):
        super().__init__()
        self.weights = weights
        self.eval()

    def forward(self, images, key=None):
        height = (images.flatten(1) - 0.5) @ self.weights
        return torch.stack([height, -height], 1)


SEARCHES = [
    *((recipe, norm) for recipe in (DeepFool(), FAB(steps=20), FABT(steps=20)) for norm in (Linf(1), L2(1))),
    (CarliniWagner(steps=60, searches=5), L2(1)),
    (EAD(steps=60, searches=5), L1(1)),
    (SparseFool(), L1(1)),
    (SparseFool(), L0(1)),
    (JSMA(gamma=1.0), L0(1)),
    (Boundary(steps=900), L2(1)),
    (HopSkipJump(), L2(1)),
]


@pytest.mark.parametrize(("recipe", "norm"), SEARCHES, ids=lambda part: repr(part)[:24])
def test_every_search_has_a_median_and_a_share_found(recipe, norm):
    """The distance from a decision plane is known in closed form, and no image found may be nearer."""
    weights = torch.tensor([1.0, -2.0, 0.5, 1.5])
    x = 0.5 + 0.3 * (Key.of(5).uniform((12, 1, 2, 2)) - 0.5)
    model = Linear(weights)
    y = model(x).argmax(1)
    clean = evaluate_clean(model, x, y, KEY)
    found = evaluate_distances(model, recipe, norm, x, y, clean, KEY)
    metrics = found.metrics()
    height = ((x.flatten(1) - 0.5) @ weights).abs().double()
    dual = {Linf: weights.abs().sum(), L2: weights.norm(), L1: weights.abs().max()}
    exact = torch.ones(12) if isinstance(norm, L0) else height / dual[type(norm)]
    assert metrics["found"] == 1.0
    assert metrics["unconfirmed_share"] == 0.0
    assert (found.distance >= exact - 1e-5).all()
    assert metrics["median_distance"] <= 2.5 * exact.median() + 1e-3
    assert metrics["median_low"] <= metrics["median_distance"] <= metrics["median_high"]
    assert torch.equal(model(found.x_adv).argmax(1) != y, torch.ones(12) > 0)


def test_a_claim_that_the_model_denies_is_not_found(spiking, data, monkeypatch):
    x, y = data[0].clamp(max=0.99), data[1]
    clean = evaluate_clean(spiking, x, y, KEY)
    honest = evaluate_distances(spiking, DeepFool(), Linf(1.0), x, y, clean, KEY)
    search = MinimumNorm.search

    def boast(self, model, x, y, key, *, through=None):
        return search(self, model, x, y, key, through=through)._replace(
            x_adv=x + 0.001, distance=torch.full((len(x),), 0.001, dtype=torch.float64)
        )

    monkeypatch.setattr(MinimumNorm, "search", boast)
    found = evaluate_distances(spiking, DeepFool(), Linf(1.0), x, y, clean, KEY)
    assert honest.metrics()["found"] > 0.9
    assert found.metrics()["found"] < 0.5
    assert found.metrics()["unconfirmed_share"] > 0.5
    assert found.metrics()["median_distance"] == math.inf
    assert (found.distance[found.right > 0.5] == math.inf).all()


def test_distances_depend_on_no_batch_and_count_what_is_right(spiking, drawing, data):
    x, y = (part[:16] for part in data)
    for model in (spiking, drawing):
        clean = evaluate_clean(model, x, y, KEY, draws=4)
        one, other = (
            evaluate_distances(model, FAB(steps=4), L2(1.0), x, y, clean, KEY, batch_size=size, draws=4)
            for size in (16, 7)
        )
        assert torch.equal(one.distance, other.distance)
        assert one.metrics()["counted"] == int((clean.right >= 0.5).sum())
        assert (one.distance[clean.right == 0] == 0).all()


def test_what_looks_for_no_nearest_image_is_refused(spiking, data):
    clean = evaluate_clean(spiking, *data, KEY)
    for recipe, norm, message in (
        (PGD(), Linf(1.0), "needs a search for the nearest image"),
        (OnePixel(), L0(1), "needs a search for the nearest image"),
        (CarliniWagner(), Linf(1.0), "CarliniWagner is defined for the threats L2"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate_distances(spiking, recipe, norm, *data, clean, KEY)
    with pytest.raises(InputError, match="3 outcomes, 40 images"):
        evaluate_distances(
            spiking, DeepFool(), L2(1.0), *data, evaluate_clean(spiking, *[d[:3] for d in data], KEY), KEY
        )


@pytest.mark.parametrize("n", [1, 5, 6, 7, 20, 41, 100])
def test_the_interval_of_a_median_is_that_of_scipy(n):
    values = np.random.default_rng(n).exponential(size=n)
    middle, (low, high) = median(values.tolist())
    exact = quantile_test(values, p=0.5).confidence_interval(0.95)
    assert middle == pytest.approx(np.median(values))
    assert (low, high) == (
        -math.inf if math.isnan(exact.low) else exact.low,
        math.inf if math.isnan(exact.high) else exact.high,
    )


def test_a_median_may_be_infinite():
    assert median([1.0, math.inf, math.inf])[0] == math.inf
    assert median([1.0, 2.0, math.inf])[0] == 2.0
    with pytest.raises(InputError, match=r"median\(\) needs numbers"):
        median([])

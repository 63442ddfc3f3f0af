"""The forward pass of a gradient gives the verdict where its logits are the model's, and only there."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from spikeproof.attacks.gradient.assembled import Assembled
from spikeproof.attacks.gradient.estimates import GaussianEstimate
from spikeproof.attacks.gradient.iterated import APGD, APGDT, SAPGD
from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.attacks.parts.objectives import PotentialMargin
from spikeproof.attacks.parts.schedules import Cosine, Halving
from spikeproof.attacks.parts.steps import (
    HeavyBall,
    Momentum,
    Nesterov,
    Position,
    StableAdaptive,
    Steepest,
    Step,
    TopShare,
)
from spikeproof.attacks.parts.targets import EveryOther
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.attacks.search import GradientAttack, Result
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import MeanPotential
from spikeproof.encoders import Latency, StraightThrough
from spikeproof.errors import InputError
from spikeproof.evaluation import verdicts
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.through import rate_twin, through
from spikeproof.evaluation.verdicts import evaluate_attack
from spikeproof.gradients import ASSG
from spikeproof.keys import Key
from spikeproof.losses import KL
from spikeproof.networks import MLP, ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import L0, L1, L2, Linf

BATCH, THREAT = 32, Linf(0.05)


class Stranger(nn.Module):
    """A model whose answers are another's, and of which this is not known."""

    def __init__(self, model):
        super().__init__()
        self.inside, self.stochastic, self.passes = [model], False, 0
        self.eval()

    def forward(self, images, key=None):
        self.passes += 1
        return self.inside[0](images, key)


def brief(kind):
    """A recipe of few steps, or None if it makes no gradient attack within the threat."""
    few = {"steps": 4, "restarts": 1, "draws": 2}
    try:
        recipe = kind(**{field.name: few[field.name] for field in fields(kind) if field.name in few})
        return recipe if isinstance(recipe(THREAT), GradientAttack) else None
    except (InputError, TypeError):
        return None


KINDS = [kind for kind in PARTS[Recipe].values() if issubclass(kind, GradientRecipe)]
RECIPES = [recipe for kind in KINDS if (recipe := brief(kind)) is not None]
SOURCES = [
    PGD(steps=4),
    PGD(steps=4, surrogate=Triangle(2.0)),
    PGD(steps=4, backward=StraightThrough()),
    Through(gradient=ASSG(), attack=PGD(steps=4)),
]


@pytest.fixture(scope="module")
def case():
    spec = ModelSpec(Latency(5), MLP((24,)), LIF(threshold=0.4), ATan(), MeanPotential(), (1, 6, 6), 10)
    model = spec.build(Key.of(3)).eval()
    x = Key.of(4).uniform((BATCH, 1, 6, 6))
    return model, x, model(x).argmax(1)


def test_the_catalogue_is_covered():
    assert len(RECIPES) >= 10


@pytest.mark.parametrize("recipe", [*RECIPES, *SOURCES], ids=repr)
def test_a_shared_pass_changes_no_number(recipe, case):
    model, x, y = case
    twin = through(model, recipe) or model
    shared = recipe(THREAT)(model, x, y, Key.of(5), through=twin)
    apart = recipe(THREAT)(model, x, y, Key.of(5), through=Stranger(twin))
    assert torch.equal(shared.x_adv, apart.x_adv)
    assert torch.equal(shared.success, apart.success)
    assert torch.equal(shared.fell, apart.fell)
    assert (apart.queries > shared.queries).all()
    assert torch.equal(shared.backward_queries, apart.backward_queries)
    assert 0 < shared.success.float().mean() < 1 or isinstance(recipe, Through)


@pytest.mark.parametrize("recipe", [*RECIPES, *SOURCES], ids=repr)
def test_passes_over_few_of_the_examples_change_no_number(recipe, case):
    model, x, y = case
    twin = through(model, recipe) or model
    whole, parts = (
        recipe(THREAT)(
            Steady(model, most), x, y, Key.of(5).for_rows(range(BATCH)), through=Steady(twin, most)
        )
        for most in (None, 12)
    )
    for name, one, other in zip(Result._fields, whole, parts, strict=True):
        assert (one is None and other is None) or torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


def test_what_is_left_of_several_batches_is_attacked_in_common_passes(case, monkeypatch):
    """Every pass of a few examples costs as much as one of a whole block."""
    model = case[0]
    x = Key.of(6).uniform((4 * BATCH, 1, 6, 6))
    y, found = model(x).argmax(1), []
    for together in (1, verdicts.TOGETHER):
        monkeypatch.setattr(verdicts, "TOGETHER", together)
        counted = Stranger(model)
        outcome = evaluate_attack(counted, PGD(steps=20), Linf(0.1), x, y, batch_size=BATCH)
        found.append((outcome, counted.passes))
    (apart, many), (joined, few) = found
    assert few < 0.85 * many
    assert not apart.right.bool().all()
    for name in ("right", "x_adv", "queries", "fell", "losses"):
        assert torch.equal(*(getattr(each, name).nan_to_num(7) for each in (apart, joined))), name


class Drawing(Steepest):
    """A step that may draw, as one of a package of its own may."""

    draws = True


@pytest.mark.parametrize("kind", PARTS[Step].values(), ids=lambda kind: kind.__name__)
def test_a_step_that_is_said_to_draw_nothing_takes_no_key(kind):
    step, x = kind(), Key.of(2).uniform((4, 1, 3, 3))
    assert not step.draws
    sizes = torch.full((4,), 0.1)
    position = Position(Linf(0.1), x, x, sizes, torch.nan * sizes, key=None)
    step.gradient_point(position, step.begin(x))
    moved, _ = step(position, Key.of(3).normal(x.shape), step.begin(x))
    assert not torch.equal(moved, x)


def of_several_runs():
    """Attacks from several starts and towards several classes, with every step, and what they attack."""
    runs = {"steps": 6, "restarts": 3}
    towards = {"steps": 6, "targets": EveryOther(3)}
    adaptive = Assembled(**towards, step=StableAdaptive(), schedule=Halving(), restarts=2)
    recipes = [
        *(PGD(**runs), PGD(**runs, surrogate=Triangle(2.0)), PGD(**runs, objective=KL())),
        *(APGD(**runs), APGDT(**towards), SAPGD(**runs)),
        Assembled(**towards, step=Momentum(1.0, HeavyBall())),
        Assembled(**runs, step=Nesterov(), schedule=Cosine()),
        *(Through(gradient=ASSG(), attack=each) for each in (SAPGD(**runs), adaptive)),
    ]
    found = [(recipe, Linf(0.04)) for recipe in recipes]
    return [
        *found,
        (PGD(**runs), L2(0.4)),
        (PGD(**runs), L0(2)),
        (Assembled(**runs, step=TopShare()), L1(1.0)),
    ]


@pytest.mark.parametrize("early", [True, False], ids=["until fooled", "to the end"])
@pytest.mark.parametrize(("recipe", "threat"), of_several_runs(), ids=repr)
def test_runs_side_by_side_give_what_they_give_one_after_the_other(recipe, threat, early, case, monkeypatch):
    model, x, beside = case[0], Key.of(8).uniform((40, 1, 6, 6)), []
    y, attack = model(x).argmax(1), replace(recipe(threat), stop_when_fooled=early)
    twin, at_once = through(model, recipe) or model, GradientAttack._side_by_side

    def counted(*given):
        beside.append(at_once(*given))
        return beside[-1]

    for source in (twin, Stranger(twin)):
        found = []
        for many in (counted, lambda *_: 1):
            monkeypatch.setattr(GradientAttack, "_side_by_side", many)
            key, steady = Key.of(5).for_rows(range(40)), Steady(source, 120)
            found.append(attack(Steady(model, 120), x, y, key, through=steady))
        for name, one, other in zip(Result._fields, *found, strict=True):
            assert (one is None and other is None) or torch.equal(one.nan_to_num(7), other.nan_to_num(7)), (
                name
            )
    assert max(beside) > 1


@pytest.mark.parametrize(
    "attack",
    [
        replace(PGD(restarts=3)(THREAT), best_start=True),
        PGD(restarts=3, objective=PotentialMargin())(THREAT),
        Assembled(restarts=3, oracle=GaussianEstimate())(THREAT),
        replace(PGD(restarts=3)(THREAT), step=Drawing()),
        replace(PGD(restarts=3)(THREAT), step=Momentum(1.0, Drawing())),
    ],
    ids=["from the best image", "over time", "estimated", "drawn", "drawn inside"],
)
def test_runs_that_draw_or_depend_on_one_another_come_one_after_the_other(attack, case, monkeypatch):
    model, x, _ = case
    monkeypatch.setattr(GradientAttack, "_abreast", lambda *_: pytest.fail("side by side"))
    few = replace(attack, steps=1)
    few(Steady(model, 128), x, model(x).argmax(1), Key.of(5).for_rows(range(BATCH)))


def test_an_example_that_falls_in_a_later_run_is_attacked_until_then(case, monkeypatch):
    """The first of three runs that breaks an example counts, with the rows and queries of those before it."""
    model, x = case[0], Key.of(8).uniform((40, 1, 6, 6))
    attack, key = PGD(steps=6, restarts=3)(Linf(0.04)), Key.of(5).for_rows(range(40))
    found = attack(Steady(model, 120), x, model(x).argmax(1), key)
    later = found.fell >= 7
    assert later.any()
    assert torch.equal(found.queries[later], found.fell[later] + 2)  # one for each row, and the verdict
    assert torch.equal((~found.losses.isnan()).sum(0)[later], found.fell[later] + 1)
    alone = Steady(model, 120), x[later], model(x[later]).argmax(1), key.take(later)
    few = attack(*alone)
    assert len(few.losses) == found.fell[later].max() + 1  # where all have fallen, the trace ends
    monkeypatch.setattr(GradientAttack, "_side_by_side", lambda *_: 1)
    assert torch.equal(few.losses.nan_to_num(7), attack(*alone).losses.nan_to_num(7))


def test_answers_of_another_model_are_no_verdicts(case):
    model, x, y = case
    other = rate_twin(model)
    counted = Stranger(model)
    found = PGD(steps=4)(THREAT)(Steady(counted), x, y, Key.of(5), through=other)
    looked = counted.passes
    assert looked >= 2  # while it searches, and for the verdict
    assert torch.equal(found.success, model(found.x_adv).argmax(1) != y)
    replaced = replace(PGD(steps=4)(THREAT), stop_when_fooled=False)
    replaced(Steady(counted), x, y, Key.of(5), through=other)
    assert counted.passes - looked == 4 + 1 + 1  # every step, the last image, and the verdict

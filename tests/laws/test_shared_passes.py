"""The forward pass of a gradient gives the verdict where its logits are the model's, and only there."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from spikeproof.attacks.gradient.plain import PGD, Through
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
from spikeproof.networks import MLP, ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import Linf

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

"""Every attack of the catalogue on events: members within budget, or a sentence that says what to use."""

from dataclasses import fields, replace
from itertools import product

import pytest
import torch

from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.attacks.made_of.composite import Composite, RateTwin, WidthSweep, WorstOf
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, decide
from spikeproof.encoders import Events
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite, evaluate_suite
from spikeproof.evaluation.through import made_on, through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import BPTR
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS
from spikeproof.interop.peers import Foolbox, Torchattacks
from spikeproof.keys import Key
from spikeproof.networks.architecture import ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Rectangle
from spikeproof.threats import L0, L1, L2, Additions, Flips, Linf, Removals, Shifts

T, SEARCH = 5, SpikeSearch(steps=2, restarts=1, width=3, refine=1)
FEW = {"steps": 2, "restarts": 1, "draws": 2, "queries": 4, "width": 3, "refine": 1, "evaluations": 3}
MADE = {
    "worst-of": [WorstOf(attacks=(SEARCH, SpikeWalkSearch(queries=3))), WorstOf(attacks=(PGD(steps=1),))],
    "through": [Through(gradient=BPTR(), attack=SEARCH), Through(gradient=BPTR(), attack=PGD(steps=1))],
    "rate-twin": [RateTwin(attack=SEARCH), RateTwin()],
    "width-sweep": [WidthSweep(attack=SEARCH, surrogates=(Rectangle(1.0),)), WidthSweep()],
    "suite": [],  # has a test of its own
    "chosen": [],  # runs one of the others, once that is chosen
    "transfer": [Transfer()],
    "torchattacks": [Torchattacks(attack=TORCHATTACKS["PGD"]())],
    "foolbox": [Foolbox(attack=FOOLBOX["LinfPGD"]())],
    "stored": [],  # reads a file and searches nothing: unit/test_stored_images.py
}
THREATS = [
    *(make(2, most=most) for make, most in product((Flips, Shifts), (1, 3))),
    *(Additions(2), Removals(2, most=3), Shifts(1, measure="jitter")),
    *(Shifts(3, most=most, measure="delay") for most in (1, 3)),
    *(Flips(2, polarity=1), Shifts(2, region=(1, 1, 2, 2))),
]
ON_EVENTS = {
    *("noise", "gaussian-noise", "salt-and-pepper", "spike-search", "spike-walk", "spike-compatible"),
    *("retiming", "spike-fool", "sda"),
}


def few(cls):
    recipe = cls()
    known = {field.name for field in fields(recipe)}
    return replace(recipe, **{name: value for name, value in FEW.items() if name in known})


RECIPES = [
    (name, recipe)
    for name, cls in PARTS[Recipe].items()
    for recipe in (MADE[name] if name in MADE else [few(cls)])
]
IDS = [f"{name}-{i}" for i, (name, _) in enumerate(RECIPES)]
each = pytest.mark.parametrize(("name", "recipe"), RECIPES, ids=IDS)


def built(binary):
    spec = ModelSpec(Events(T, binary), ConvNet((2,), hidden=(6,)), LIF(), ATan(), Count(), (2, 4, 4), 3)
    model = spec.build(Key.of(0)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    return model


MODELS = {most: built(most == 1) for most in (1, 3)}
DRAWS = Key.of(1).uniform((3, T, 2, 4, 4))
GRIDS = {1: (DRAWS < 0.3).float(), 3: (DRAWS < 0.3).float() * (1 + (DRAWS < 0.15) + (DRAWS < 0.1))}


def run(recipe, threat, x, y):
    return recipe(threat)(MODELS[1], x, y, Key.of(0), through=through(MODELS[1], recipe))


def accepts(recipe, threat):
    try:
        recipe(threat)
    except InputError:
        return False
    return True


def on_events(recipe):
    """Whether a recipe consists of attacks on events, and must therefore accept threats on events."""
    inner = getattr(recipe, "members", None) or (getattr(recipe, "attack", recipe),)
    return all(type(part) in {PARTS[Recipe][name] for name in ON_EVENTS} for part in inner)


@each
def test_events_come_back_valid_and_within_budget_or_are_refused_with_an_alternative(name, recipe):
    taken = 0
    for threat in THREATS:
        model, x = MODELS[threat.most], GRIDS[threat.most]
        y = decide(model(x)).clamp(min=0)
        if not accepts(recipe, threat):
            with pytest.raises(InputError, match="spike-search"):
                recipe(threat)
            continue
        found = recipe(threat)(model, x, y, Key.of(2).for_rows(range(3)), through=through(model, recipe))
        assert threat.contains(found.x_adv, x).all(), threat
        assert found.x_adv.dtype == x.dtype
        assert torch.equal(found.success, decide(model(found.x_adv)) != y)
        still = (found.x_adv == x).flatten(1).all(1) & (decide(model(x)) == y)
        assert not (found.success & still).any()
        taken += 1
    if not on_events(recipe):
        assert not taken
    elif name not in ("retiming", "sda"):
        assert taken == len(THREATS)
    else:
        assert taken >= 5


@each
def test_pixels_of_a_model_of_events_are_refused_with_an_alternative(name, recipe):
    x = GRIDS[1]
    y = decide(MODELS[1](x)).clamp(min=0)
    for threat in (Linf(0.1), L2(0.5), L1(1.0), L0(2)):
        with pytest.raises(InputError, match=r"Use |attack this threat"):
            run(recipe, threat, x, y)


@each
def test_an_attack_on_a_model_that_ignores_events_reports_no_success_and_zero_gradients(name, recipe):
    """On a model that ignores its input an attack has no success and reports that every gradient is zero."""
    if not on_events(recipe) or isinstance(recipe, (Composite, RateTwin, Through)):
        return

    def model(x, key=None):
        return 0 * x.flatten(1)[:, :3] + torch.tensor([0.0, 1.0, 0.0])

    x, y = GRIDS[1], torch.ones(3, dtype=torch.int64)
    clean = evaluate_clean(model, x, y, Key.of(0))
    for threat in THREATS:
        if threat.most > 1 or not accepts(recipe, threat):
            continue
        seen = evaluate_attack(model, recipe(threat), threat, x, y, clean, Key.of(0))
        numbers = seen.metrics()
        assert numbers["robust_accuracy"] == 1
        assert numbers["budget_violations"] == 0
        assert (seen.queries > 0).all()
        assert (seen.fell == -1).all()
        still = (seen.x_adv == x).flatten(1).all(1)
        assert numbers["moved_share"] == pytest.approx(float((~still).double().mean()))
        assert recipe.gradient_free or numbers["zero_gradient_share"] == 1


@pytest.mark.parametrize("recipe", [cls for name, cls in PARTS[Recipe].items() if name not in MADE])
def test_the_audit_can_count_steps_and_draws(recipe):
    for name in ("steps", "draws"):
        assert isinstance(getattr(recipe(), name, 0), int)


@pytest.mark.parametrize("threat", [Flips(2), Removals(2, most=3), Shifts(2, most=3)], ids=repr)
def test_suites_return_valid_events(threat):
    model, x = MODELS[threat.most], GRIDS[threat.most]
    y = decide(model(x)).clamp(min=0)
    clean = evaluate_clean(model, x, y, Key.of(0))
    found = evaluate_suite(model, "quick", threat, x, y, clean, Key.of(0))
    assert threat.contains(found.attacked.x_adv, x).all()
    with pytest.raises(InputError, match="evaluate_suite"):
        Suite()(threat)(model, x, y, Key.of(0))


def test_events_may_be_made_on_another_model():
    other, judge, x, threat = built(True), MODELS[1], GRIDS[1], Flips(2)
    with torch.no_grad():
        for weights in other.parameters():
            weights.mul_(-1.0)
    y, recipe = decide(judge(x)).clamp(min=0), Transfer(attack=SEARCH)
    found = recipe(threat)(judge, x, y, Key.of(2), through=made_on(other, recipe))
    assert threat.contains(found.x_adv, x).all()
    assert torch.equal(found.success, decide(judge(found.x_adv)) != y)
    assert torch.equal(found.x_adv, SEARCH(threat)(other, x, y, Key.of(2).fold("made")).x_adv)

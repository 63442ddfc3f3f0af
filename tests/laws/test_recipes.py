"""Each option of every recipe reaches the attack: two values of it make two different attacks.

An attack is what it does: images, trace, queries and verdicts, to the bit. Every recipe that maximises an
objective on images, or is made of such, meets this law by its row in the catalogue. Not under it are searches
for the nearest image, searches without gradients and attacks on events. What does nothing stands
in INERT and INERT_WITHIN. A recipe with an option of a new name gives it two values in VALUES.
"""

import functools
from dataclasses import fields, replace

import pytest
import torch

from spikeproof.attacks.gradient.estimates import RademacherEstimate
from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.attacks.made_of.composite import Chosen
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.nearest.minimum import NormRecipe
from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.parts.schedules import Constant, Cosine
from spikeproof.attacks.parts.steps import Adam
from spikeproof.attacks.parts.targets import EveryOther, LeastLikely
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Latency, SpikeGated
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite
from spikeproof.evaluation.through import made_on, through
from spikeproof.gradients import BPTR, HART
from spikeproof.interop.peers import Foolbox, Torchattacks
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Rectangle, Triangle
from spikeproof.threats import L1, L2, Linf

VALUES = {  # option -> values that are all different attacks; the first one is the rest's
    "objective": (LogitCrossEntropy(), Margin()),
    "surrogate": (None, Rectangle(0.3)),
    "backward": (None, SpikeGated()),
    "steps": (3, 5),
    "restarts": (1, 2),
    "reach": (2.5, 0.7),
    "draws": (2, 3),
    "jump": (0.5, 0.3),
    "decay": (1.0, 0.2),
    "targets": (EveryOther(1), LeastLikely()),
    "oracle": (Exact(), RademacherEstimate(3)),
    "step": (None, Adam()),
    "schedule": (Constant(), Cosine()),
    "start": ("random", "clean"),
    "samples": (3, 4),
    "radius": (0.05, 0.2),
}
OWN = {  # options of single recipes
    ("through", "gradient"): (BPTR(), HART()),
    ("width-sweep", "surrogates"): ((Rectangle(1.0), Triangle(2.0)), (Rectangle(0.4), Triangle(2.0))),
    **{(name, "attack"): (PGD(steps=2), PGD(steps=3)) for name in ("through", "rate-twin", "width-sweep")},
    ("transfer", "attack"): (PGD(steps=2), PGD(steps=3)),
    ("worst-of", "attacks"): ((PGD(steps=2), FGSM()), (FGSM(),)),
}
INERT = {  # (recipe, option) -> why no outcome of a call depends on it
    ("transfer", "made_on"): "the study hands over the other model: unit/test_transfer_studies.py",
}
WHOLE = "the step that suits this threat is that of Frank and Wolfe, whose size is its own"
INERT_WITHIN = {  # (option, threat) -> why it does nothing for any recipe there
    (option, threat): WHOLE for option in ("reach", "schedule") for threat in (L1,)
}
THREATS = [Linf(0.15), L2(0.8), L1(2.0)]
N = 4


def built(code, decoder, shape, seed, scale=2.0):
    model = ModelSpec(code, MLP((12,)), LIF(), ATan(), decoder, shape, 4).build(Key.of(seed)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(scale)
    return model


X = Key.of(7).uniform((N, 1, 5, 5))
MODELS = {
    "direct": built(Direct(4), MeanPotential(), (1, 5, 5), 0),
    "latency": built(Latency(4), MeanPotential(), (1, 5, 5), 0),
    "bernoulli": built(Bernoulli(4), Count(), (1, 5, 5), 2),
}
OTHERS = {name: built(m.encoder, m.spec.decoder, (1, 5, 5), 9) for name, m in MODELS.items()}


def values(name, option):
    """Two values of an option of a recipe that are to make different attacks."""
    own = (name, option)
    assert own in OWN or option in VALUES, f"{name}: the option {option} has no two values in VALUES"
    return OWN[own] if own in OWN else VALUES[option]


def recipe_of(name):
    options = [field.name for field in fields(PARTS[Recipe][name]) if (name, field.name) not in INERT]
    return PARTS[Recipe][name](**{option: values(name, option)[0] for option in options})


def maximises(cls):
    """Whether it follows an objective on images, or is made of attacks that do."""
    if issubclass(cls, (NormRecipe, Suite, Chosen)):
        return False
    if {"attack", "attacks"} & {field.name for field in fields(cls)}:
        return not issubclass(cls, (Torchattacks, Foolbox))
    return "objective" in {field.name for field in fields(cls)} and accepts(cls(), Linf(0.1))


def accepts(recipe, threat):
    try:
        recipe(threat)
    except InputError:
        return False
    return True


@functools.cache
def outcome(model, recipe, threat):
    """Everything that an attack returns, or None where it is not defined."""
    judge, x = MODELS[model], X
    y = decide(judge(x, Key.of(0))).clamp(min=0)
    try:
        recipe.check(judge)
        source = made_on(OTHERS[model], recipe) if isinstance(recipe, Transfer) else through(judge, recipe)
        return recipe(threat)(judge, x, y, Key.of(3).for_rows(range(N)), through=source)
    except InputError:
        return None


def same(one, other):
    return all(
        a is b or (a is not None and b is not None and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)))
        for a, b in zip(one, other, strict=True)
    )


NAMES = [name for name, cls in PARTS[Recipe].items() if maximises(cls)]
CASES = [
    pytest.param(name, field.name, threat, id=f"{name}-{field.name}-{threat!r}")
    for name in NAMES
    for threat in THREATS
    if accepts(recipe_of(name), threat)
    for field in fields(PARTS[Recipe][name])
    if (name, field.name) not in INERT and (field.name, type(threat)) not in INERT_WITHIN
]


def test_every_gradient_recipe_on_images_is_under_this_law():
    assert {case.values[0] for case in CASES} == set(NAMES)
    assert len(NAMES) >= 20


@pytest.mark.parametrize(("name", "option", "threat"), CASES)
def test_two_values_of_an_option_are_two_attacks(name, option, threat):
    plain = recipe_of(name)
    first, other = values(name, option)
    changed = replace(plain, **{option: other})
    for model in MODELS:
        one, two = outcome(model, plain, threat), outcome(model, changed, threat)
        if one is not None and two is not None and not same(one, two):
            return
    pytest.fail(f"{name}: {option}={first!r} and {option}={other!r} are one attack")

"""Each option of every recipe reaches the attack: two values of it make two different attacks.

An attack is what it does, to the bit: members, trace, queries and verdicts, and what a search for the nearest
member finds without a budget. Every recipe of the catalogue meets this law under every threat that it takes,
except those in ELSEWHERE. An option that does nothing stands in INERT or INERT_WITHIN, and one of which only
the default is taken in REFUSED; both are tested. An option of a new name gets two values in VALUES.
"""

import functools
from dataclasses import fields, replace
from itertools import product

import pytest
import torch

from spikeproof.attacks.gradient.estimates import RademacherEstimate
from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.nearest.minimum import MinimumNorm, NormRecipe, SlopeRecipe
from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.parts.schedules import Constant, Cosine
from spikeproof.attacks.parts.steps import Adam
from spikeproof.attacks.parts.targets import EveryOther, LeastLikely
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Events, Latency, SpikeGated
from spikeproof.errors import InputError
from spikeproof.evaluation.through import made_on, through
from spikeproof.gradients import BPTR, HART
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.protocols import moves_events
from spikeproof.surrogates import ATan, Rectangle, Triangle
from spikeproof.threats import L0, L1, L2, Additions, Flips, Linf, Removals, Shifts, SquarePatch
from spikeproof.threats.spikes import EventThreat

VALUES = {  # option -> values that are all different attacks; the first one is the rest's
    "objective": (LogitCrossEntropy(), Margin()),
    "surrogate": (None, Rectangle(0.3)),
    "backward": (None, SpikeGated()),
    "steps": (2, 3),
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
    "queries": (20, 30),
    "sigma": (0.5, 0.1),
    "p_init": (1.0, 0.2),
    "run": (10, 15),
    "refine": (2, 3),
    "grid": (255, 3),
    "overshoot": (0.02, 0.3),
    "candidates": (3, 1),
    "alpha_max": (0.1, 0.5),
    "eta": (1.05, 1.3),
    "beta": (0.9, 0.5),
    "searches": (3, 2),
    "step_size": (0.05, 0.2),
    "initial": (1.0, 0.1),
    "confidence": (0.0, 3.0),
    "theta": (1.0, -0.5),
    "gamma": (1.0, 0.3),
    "lam": (1.0, 3.0),
    "inner": (5, 1),
    "population": (6, 8),
    "scale": (0.5, 1.5),
    "starts": (1, 3),
    "spherical": (0.1, 0.5),
    "source": (0.02, 0.1),
    "evaluations": (6, 4),
    "most": (12, 3),
    "width": (4, 8),
    "flip": (0.05, 0.5),
    "raised": (1.0, 3.0),
    "temperature": (1.0, 0.2),
    "singles": (6, 0),
    "first": (3, 8),
    "threshold": (0.3, 0.05),
    "adaptation": (0.01, 0.2),
}
OWN = {  # options of single recipes
    ("through", "gradient"): (BPTR(), HART()),
    ("width-sweep", "surrogates"): ((Rectangle(1.0), Triangle(2.0)), (Rectangle(0.4), Triangle(2.0))),
    **{(name, "attack"): (PGD(steps=2), PGD(steps=3)) for name in ("through", "rate-twin", "width-sweep")},
    ("transfer", "attack"): (PGD(steps=2), PGD(steps=3)),
    ("worst-of", "attacks"): ((PGD(steps=2), FGSM()), (FGSM(),)),
    ("fab-t", "targets"): (2, 1),
    ("square", "queries"): (200, 150),
    ("sda", "steps"): (1, 3),
    ("apgd-l1", "steps"): (3, 5),
    **{(name, "steps"): (8, 10) for name in ("fab", "fab-t")},
    ("boundary", "steps"): (20, 30),
    ("carlini-wagner", "steps"): (12, 18),
    ("carlini-wagner", "step_size"): (0.3, 0.1),
    ("sigma-zero", "steps"): (20, 30),
    ("sigma-zero", "step_size"): (1.0, 0.3),
    ("sigma-zero", "sigma"): (1e-3, 0.1),
}
ELSEWHERE = {
    "suite": "runs recipes that are here, by evaluate_suite: laws/test_suites.py",
    "chosen": "runs one recipe that is here, once chosen: laws/test_estimates_and_composites.py",
    "universal": "is made on other images: laws/test_universal.py",
    "level-search": "searches where levels are found: laws/test_found_levels.py",
    "stored": "reads a file and searches nothing: unit/test_stored_images.py",
    **dict.fromkeys(
        ("rp2", "adv-hat", "adv-lb", "universal-patch"), "need objects in a scene: test_physical.py"
    ),
    "torchattacks": "its options are those of its own kind: interop/test_peer_members.py",
    "foolbox": "its options are those of its own kind: interop/test_peer_members.py",
}
INERT = {  # (recipe, option) -> why no outcome of a call depends on it
    ("transfer", "made_on"): "the study hands over the other model: unit/test_transfer_studies.py",
    ("encoder-aware", "near"): "tells a suite where to begin; alone there is nothing before",
}
REFUSED = {  # (recipe, option) -> why every value but the default is refused
    (name, "objective"): "the search has an objective of its own"
    for name, cls in PARTS[Recipe].items()
    if issubclass(cls, SlopeRecipe)
}
WHOLE = "the Frank-Wolfe step, which these budgets have by default, has a size of its own"
LOOPS = ("bim", "pgd", "eot-pgd", "mim", "targeted-pgd", "assembled", "spsa", "nes")
INERT_WITHIN = {  # (recipe, option, kinds of threats) -> why it does nothing there
    **{(name, "reach", (L1, L0, SquarePatch)): WHOLE for name in LOOPS},
    ("assembled", "schedule", (L1, L0, SquarePatch)): WHOLE,
    **{
        (
            name,
            "backward",
            (EventThreat,),
        ): "the gradient of events is exact, with no encoder rule to exchange"
        for name in ("spike-search", "spike-compatible", "retiming", "spike-fool", "sda")
    },
    ("spike-fool", "singles", (Shifts,)): "single shifts are not taken back, as its docstring says",
}
IMAGES = [Linf(0.15), L2(0.8), L1(2.0), L0(2), SquarePatch(2)]
EVENTS = [
    *(Flips(2), Additions(2), Removals(2)),
    *(Shifts(2), Shifts(1, measure="jitter"), Shifts(3, measure="delay")),
]
N, T = 4, 5
TELLING = {"backward": "latency", "draws": "bernoulli"}
"""The model that tells the values of an option apart where the others may not; it is tried first."""


def built(code, decoder, shape, seed, surrogate=ATan()):
    model = ModelSpec(code, MLP((12,)), LIF(), surrogate, decoder, shape, 4).build(Key.of(seed)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    return model


X = Key.of(7).uniform((N, 1, 5, 5))
SPIKES = (Key.of(8).uniform((N, T, 2, 3, 3)) < 0.3).float()
MODELS = {
    "direct": (built(Direct(4), MeanPotential(), (1, 5, 5), 0), X),
    "latency": (built(Latency(4), MeanPotential(), (1, 5, 5), 0), X),
    "bernoulli": (built(Bernoulli(4), Count(), (1, 5, 5), 2), X),
    "potential": (built(Events(T, True), MeanPotential(), (2, 3, 3), 5), SPIKES),
    "count": (built(Events(T, True), Count(), (2, 3, 3), 3), SPIKES),
    "no slope": (built(Events(T, True), Count(), (2, 3, 3), 3, Rectangle(1e-4)), SPIKES),
}
OTHERS = {
    name: built(m.encoder, m.spec.decoder, tuple(x.shape[1:] if x is X else x.shape[2:]), 9)
    for name, (m, x) in MODELS.items()
}


def values(name, option):
    """Two values of an option of a recipe that are to make different attacks."""
    own = (name, option)
    assert own in OWN or option in VALUES, f"{name}: the option {option} has no two values in VALUES"
    return OWN[own] if own in OWN else VALUES[option]


def options(name):
    """The options of a recipe that take two values."""
    own = [(name, field.name) for field in fields(PARTS[Recipe][name])]
    return [option for _, option in (each for each in own if each not in INERT.keys() | REFUSED.keys())]


def recipe_of(name):
    return PARTS[Recipe][name](**{option: values(name, option)[0] for option in options(name)})


def accepts(recipe, threat):
    try:
        recipe(threat)
    except InputError:
        return False
    return True


@functools.cache
def outcome(model, recipe, threat, free):
    """What an attack returns, or finds where it is `free` of the budget; None where that is not defined."""
    judge, x = MODELS[model]
    y = decide(judge(x, Key.of(0))).clamp(min=0)
    try:
        recipe.check(judge)
        source = made_on(OTHERS[model], recipe) if isinstance(recipe, Transfer) else through(judge, recipe)
        key = Key.of(3).for_rows(range(N))
        if not free:
            return tuple(recipe(threat)(judge, x, y, key, through=source))
        return tuple(MinimumNorm(threat, recipe, stop=False).search(judge, x, y, key, through=source))
    except InputError:
        return None


def searches_freely(recipe):
    """Whether the recipe also finds the nearest member without a budget."""
    return isinstance(recipe, NormRecipe) and recipe.minimal


def takes_events(model):
    return isinstance(model.encoder, Events)


def same(one, other):
    return all(
        a is b or (a is not None and b is not None and torch.equal(a.nan_to_num(-7), b.nan_to_num(-7)))
        for a, b in zip(one, other, strict=True)
    )


def differ(name, option, threat):
    """Whether the two values make different attacks on any model, within the budget or free of it."""
    plain = recipe_of(name)
    changed = replace(plain, **{option: values(name, option)[1]})
    models = [model for model, (judge, _) in MODELS.items() if takes_events(judge) == moves_events(threat)]
    models.sort(key=lambda model: model != TELLING.get(option))
    for model, free in product(models, (False, True) if searches_freely(plain) else (False,)):
        one, two = outcome(model, plain, threat, free), outcome(model, changed, threat, free)
        if one is not None and two is not None and not same(one, two):
            return True
    return False


def inert(name, option, threat):
    return any(
        name == recipe and option == each and isinstance(threat, kinds)
        for recipe, each, kinds in INERT_WITHIN
    )


NAMES = [name for name in PARTS[Recipe] if name not in ELSEWHERE]
EVERY = [
    pytest.param(name, option, threat, id=f"{name}-{option}-{threat!r}")
    for name in NAMES
    for threat in (*IMAGES, *EVENTS)
    if accepts(recipe_of(name), threat)
    for option in options(name)
]
CASES = [case for case in EVERY if not inert(*case.values)]


def test_every_option_of_every_recipe_is_under_this_law_or_has_a_reason():
    assert set(ELSEWHERE) <= PARTS[Recipe].keys()
    tried = {case.values[:2] for case in EVERY}
    own = {(name, field.name) for name in NAMES for field in fields(PARTS[Recipe][name])}
    assert tried == own - INERT.keys() - REFUSED.keys()
    assert INERT.keys() | REFUSED.keys() <= own


@pytest.mark.parametrize(("name", "option", "threat"), CASES)
def test_two_values_of_an_option_are_two_attacks(name, option, threat):
    first, other = values(name, option)
    said = f"{name}: {option}={first!r} and {option}={other!r} are one attack within {threat!r}"
    assert differ(name, option, threat), said


@pytest.mark.parametrize(("name", "option", "threat"), [case for case in EVERY if case not in CASES])
def test_an_option_declared_to_do_nothing_within_a_threat_does_nothing(name, option, threat):
    assert not differ(name, option, threat), (
        f"{name}: {option} matters within {threat!r}; remove its exception"
    )


@pytest.mark.parametrize(("name", "option"), REFUSED)
def test_an_option_that_cannot_be_heeded_is_refused(name, option):
    with pytest.raises(InputError):
        PARTS[Recipe][name](**{option: VALUES[option][1]}).check(MODELS["count"][0])

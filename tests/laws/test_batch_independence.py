"""The outcome of an attack on an example depends on the example and the key, never on the rest of its batch.

Every attack of the catalogue is run on one batch and on a smaller one, in another order; every column of the
outcome must be the same to the bit. A new recipe of the catalogue is tested here without another row.
"""

import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.events.fewest import SpikeFool
from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.attacks.made_of.composite import RateTwin, WidthSweep, WorstOf
from spikeproof.attacks.made_of.stand_in import StandIn
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.nearest.minimum import MinimumNorm, NormRecipe
from spikeproof.attacks.physical.onepatch import UniversalPatch
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Events, Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.evaluation.through import made_on, through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import BPTR
from spikeproof.interop.members import FOOLBOX, TORCHATTACKS
from spikeproof.interop.peers import BATCH, Foolbox, Torchattacks
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Rectangle, Triangle
from spikeproof.threats import (
    L0,
    L1,
    L2,
    Additions,
    Flips,
    LaserBeam,
    Linf,
    MovablePatch,
    Removals,
    Shifts,
    SquarePatch,
    Sticker,
    Views,
)

N, T = 4, 5
SHORT = {
    **{"steps": 3, "restarts": 2, "draws": 2, "queries": 6, "width": 4, "refine": 3, "evaluations": 4},
    **{"searches": 2, "samples": 2, "starts": 5, "population": 5, "inner": 3, "candidates": 2},
}
SEARCH = SpikeSearch(steps=2, restarts=2, width=4, refine=3)
ON_IMAGES = {
    "worst-of": WorstOf(attacks=(PGD(steps=2), SquareSearch(queries=4))),
    "through": Through(gradient=BPTR(), attack=PGD(steps=2)),
    "rate-twin": RateTwin(attack=PGD(steps=2)),
    "width-sweep": WidthSweep(attack=PGD(steps=2), surrogates=(Rectangle(1.0), Triangle(2.0))),
    "transfer": Transfer(attack=PGD(steps=2)),
    "stand-in": StandIn(queries=70),  # two fits
    "universal-patch": UniversalPatch(places=3, pattern=(0.0, 1.0, 1.0, 0.5)),
}
ON_EVENTS = {
    "worst-of": WorstOf(attacks=(SEARCH, SpikeWalkSearch(queries=3))),
    "through": Through(gradient=BPTR(), attack=SEARCH),
    "rate-twin": RateTwin(attack=SEARCH),
    "width-sweep": WidthSweep(attack=SEARCH, surrogates=(Rectangle(1.0), Triangle(2.0))),
    "transfer": Transfer(attack=SEARCH),
}
ELSEWHERE = {"suite", "chosen", "stored", "universal"}  # run others, which are here, one by one
DRAWING = {"eot-fgsm", "eot-pgd", "apgd-ce", "square", "deepfool", "worst-of"}  # each loop on draws
EXCEPTIONS = {  # draw for a batch as a whole; the batch is part of their number, and they say which it is
    "torchattacks": Torchattacks(attack=TORCHATTACKS["PGD"]()),
    "foolbox": Foolbox(attack=FOOLBOX["LinfPGD"]()),
}
OTHERS = {name: cls for name, cls in PARTS[Recipe].items() if name not in ELSEWHERE | EXCEPTIONS.keys()}
SEARCHES = {name: cls for name, cls in OTHERS.items() if issubclass(cls, NormRecipe) and cls.minimal}
BEAM = LaserBeam(0.5, wavelengths=3, angles=6, offsets=5, widths=3)
STICKER = Sticker(1.0, printable=((0.0,), (1.0,)), seen_from=Views(draws=3))
SCENES = [STICKER, MovablePatch(2, draws=3), BEAM]
IMAGES = [Linf(0.1), L2(0.6), L1(2.0), L0(2), SquarePatch(2), *SCENES]
EVENTS = [
    *(Flips(1), Additions(1), Removals(1)),
    *(Shifts(1), Shifts(2, measure="delay"), Shifts(1, measure="jitter")),
]
RATIONED = {"noise", "spike-compatible"}  # of moved events that differ in number
SHUFFLED = torch.tensor([2, 0, 3])  # one batch, without the fourth


def test_a_row_of_a_matrix_product_rounds_alike_at_every_position_of_the_batch():
    code = """
import spikeproof, torch
for rows, inputs, outputs in ((32, 25, 10), (64, 10, 3), (192, 25, 4), (256, 9, 5)):
    x, w = torch.rand(rows, inputs), torch.rand(outputs, inputs)
    order = torch.randperm(rows)
    assert torch.equal((x @ w.T)[order], x[order] @ w.T), (rows, inputs, outputs)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def built(code, decoder, shape, seed):
    model = ModelSpec(code, MLP((10,)), LIF(), ATan(), decoder, shape, 4).build(Key.of(seed)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(2.0)
    return model


X = Key.of(7).uniform((N, 1, 5, 5))
DRAWS = Key.of(1).uniform((N, T, 2, 3, 3)) / (0.3 + Key.of(8).uniform((N, 1, 1, 1, 1)))  # few and many spikes
MODELS = {
    "latency": (built(Latency(4), MeanPotential(), (1, 5, 5), 0), X),
    "bernoulli": (built(Bernoulli(4), Count(), (1, 5, 5), 2), X),
    1: (built(Events(T, True), MeanPotential(), (2, 3, 3), 5), (DRAWS < 0.3).float()),
    "far": (built(Events(T, True), MeanPotential(), (2, 3, 3), 7), (DRAWS < 0.3).float()),
    3: (built(Events(T, False), Count(), (2, 3, 3), 3), (DRAWS < 0.3).float() * (1 + (DRAWS < 0.15))),
}
OTHER = {"latency": built(Latency(4), Count(), (1, 5, 5), 9), 1: built(Events(T), Count(), (2, 3, 3), 9)}


def short(cls):
    known = {field.name for field in fields(cls)}
    return replace(cls(), **{name: value for name, value in SHORT.items() if name in known})


def answered(name):
    model, x = MODELS[name]
    return model, x, decide(model(x, Key.of(0))).clamp(min=0)


def alike(whole, part):
    """The names of the columns in which two outcomes of the same examples differ."""
    pairs = {field.name: (getattr(whole, field.name), getattr(part, field.name)) for field in fields(whole)}
    return [
        name
        for name, (one, other) in pairs.items()
        if isinstance(one, torch.Tensor) and name != "losses"  # steps first, and its length is the longest
        if not torch.equal(one[SHUFFLED].double().nan_to_num(-7), other.double().nan_to_num(-7))
    ]


def attacked(name, recipe, threat, rows, size):
    model, x, y = answered(name)
    source = made_on(OTHER[name], recipe) if isinstance(recipe, Transfer) else through(model, recipe)
    clean = evaluate_clean(model, x[rows], y[rows], Key.of(3), ids=rows, draws=1)
    return evaluate_attack(
        model, recipe(threat), threat, x[rows], y[rows], clean, Key.of(3),
        through=source, batch_size=size, draws=1,
    )  # fmt: skip


def accepts(recipe, threat):
    try:
        recipe(threat)
    except InputError:
        return False
    return True


def cases(model, threats, made, each=1):
    """Test cases of every recipe on a model, each with the first of the threats that it accepts."""
    for name, cls in OTHERS.items():
        recipe = made.get(name) or short(cls)
        if not recipe.suits(MODELS[model][0]) or (name == "transfer" and model not in OTHER):
            continue
        taken = [threat for threat in threats if accepts(recipe, threat)]
        for threat in taken[: 1 if name in made else each]:
            yield pytest.param(model, recipe, threat, id=f"{name}-{model}-{threat!r}")


CASES = [
    *cases("latency", IMAGES, ON_IMAGES),
    *(case for case in cases("bernoulli", IMAGES[1:], ON_IMAGES) if case.id.split("-bern")[0] in DRAWING),
    *cases(1, EVENTS, ON_EVENTS, each=len(EVENTS)),
    *cases(3, [Flips(2, most=3)], ON_EVENTS),
    *(case for case in cases(3, [Shifts(2, most=3)], ON_EVENTS) if case.id.split("-3-")[0] in RATIONED),
]


def test_every_attack_of_the_catalogue_is_tested_in_batches_of_other_composition():
    assert {name for case in CASES for name in OTHERS if case.id.startswith(f"{name}-")} == OTHERS.keys()


@pytest.mark.parametrize(("model", "recipe", "threat"), CASES)
def test_no_column_of_an_attacks_outcome_depends_on_the_rest_of_the_batch(model, recipe, threat):
    whole = attacked(model, recipe, threat, torch.arange(N), N)
    assert not alike(whole, attacked(model, recipe, threat, SHUFFLED, N))


DISTANCES = [
    *(
        (name, "latency", threat)
        for name, cls in SEARCHES.items()
        for threat in IMAGES
        if accepts(cls(), threat)
    ),
    *((name, "far", threat) for name, cls in SEARCHES.items() for threat in EVENTS if accepts(cls(), threat)),
]


@pytest.mark.parametrize(("search", "model", "threat"), DISTANCES, ids=repr)
def test_no_minimum_distance_depends_on_the_rest_of_the_batch(search, model, threat):
    recipe, (one, x, y) = short(SEARCHES[search]), answered(model)

    def nearest(rows, size):
        clean = evaluate_clean(one, x[rows], y[rows], Key.of(3), ids=rows)
        return evaluate_distances(one, recipe, threat, x[rows], y[rows], clean, Key.of(3), batch_size=size)

    assert not alike(nearest(torch.arange(N), N), nearest(SHUFFLED, N))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_peer_attacks_that_draw_per_batch_document_their_batch_size(name):
    assert EXCEPTIONS[name](Linf(0.1)).batch == BATCH
    assert "batch" in type(EXCEPTIONS[name]).__doc__


def test_the_budgets_that_a_search_tries_depend_on_the_example_alone():
    """A train of three spikes beside one of thirty costs as many forward passes as the train alone."""
    model, x, y = answered(1)
    full = torch.ones_like(x[:1])
    recipe, key = SpikeFool(steps=4), Key.of(0)

    def queries(trains, labels, rows):
        search = MinimumNorm(Removals(1), recipe, stop=False)
        return search.search(model, trains, labels, key.for_rows(rows)).queries[0]

    alone = queries(x[:1], y[:1], [0])
    assert queries(torch.cat([x[:1], full]), torch.cat([y[:1], y[:1]]), [0, 1]) == alone

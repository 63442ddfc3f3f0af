"""Every attack on images in the catalogue, with unusual models, images, labels and budgets.

A new recipe adds a row to ROWS; one for events alone is recognised by its refusal of pixels. Each setting
gives a defined result or an error that says what to try.
"""

import copy
import functools
import inspect
import sys
from collections import Counter
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from spikeproof.attacks.answers import foundlevels, noise, queries, reachable
from spikeproof.attacks.gradient import assembled, estimates, iterated, plain
from spikeproof.attacks.made_of import composite, stand_in
from spikeproof.attacks.made_of.stand_in import StandIn
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.nearest import decision, linearised, penalised, sparse
from spikeproof.attacks.parts.schedules import Cosine
from spikeproof.attacks.parts.steps import Adam
from spikeproof.attacks.parts.targets import EveryOther, LeastLikely
from spikeproof.attacks.physical import stickersearch
from spikeproof.attacks.physical.beamsearch import AdvLB
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Events, Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.through import RateNetwork, through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import ASSG
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import L0, L1, L2, BentSticker, LaserBeam, Linf, Region, SquarePatch, Sticker, Views

sys.path.insert(0, str(Path(__file__).parent))
from completeness import check

BARS = ("....", "####", "....", "##..")
STICKER = Sticker(0.5, mask=BARS, seen_from=Views(draws=1))
LINF, ROUND, SUM, FEW = Linf(0.1), L2(0.7), L1(1.0), L0(2)
ROWS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "fgsm": (plain.FGSM(), (LINF, ROUND, SUM, FEW)),
    "bim": (plain.BIM(steps=2), (LINF, FEW)),
    "pgd": (plain.PGD(steps=2, restarts=2), (LINF, ROUND, SUM, FEW)),
    "eot-pgd": (plain.EOTPGD(steps=2, draws=2), (LINF,)),
    "r-fgsm": (iterated.RFGSM(), (LINF, ROUND)),
    "eot-fgsm": (iterated.EOTFGSM(draws=2), (LINF,)),
    "mim": (iterated.MIM(steps=2), (LINF, SUM)),
    "ni-fgsm": (iterated.NIFGSM(steps=2), (LINF, ROUND)),
    "apgd-ce": (iterated.APGD(steps=3), (LINF, ROUND, SUM)),
    "apgd-dlr": (iterated.APGDDLR(steps=3), (LINF, ROUND)),
    "apgd-t": (iterated.APGDT(steps=2, objective=Margin(), targets=EveryOther(2)), (LINF,)),
    "apgd-l1": (iterated.APGDL1(steps=4, restarts=2), (SUM, Region(1.0, "l1", 1, 1, 3, 2))),
    "sa-pgd": (iterated.SAPGD(steps=3), (LINF, ROUND)),
    "targeted-pgd": (iterated.TargetedPGD(steps=2, targets=LeastLikely()), (LINF, ROUND)),
    "assembled": (
        assembled.Assembled(steps=2, step=Adam(), schedule=Cosine(), restarts=2, start="best"),
        (LINF, ROUND, SUM, FEW),
    ),
    "through": (plain.Through(gradient=ASSG(0.35), attack=iterated.SAPGD(steps=2)), (LINF,)),
    "transfer": (Transfer(attack=plain.PGD(steps=2)), (LINF, ROUND)),
    "noise": (noise.NoiseSearch(draws=3), (LINF, ROUND, SUM, FEW)),
    "gaussian-noise": (noise.GaussianNoiseSearch(draws=3), (LINF, SUM)),
    "salt-and-pepper": (noise.SaltAndPepperSearch(draws=3), (LINF, FEW)),
    "square": (queries.SquareSearch(queries=4), (LINF, ROUND, Region(0.1, "linf", 1, 1, 3, 2))),
    "rectangle-search": (queries.RectangleSearch(queries=4), (LINF, ROUND, Region(0.1, "linf", 1, 1, 3, 2))),
    "stand-in": (StandIn(queries=44), (LINF, ROUND, Region(0.1, "linf", 1, 1, 3, 2))),
    "patch-search": (
        queries.PatchSearch(queries=5, run=2),
        (SquarePatch(2), SquarePatch(0), SquarePatch(4)),
    ),
    "encoder-aware": (reachable.EncoderAwareSearch(steps=2, restarts=3, refine=2), (LINF, Linf(0.4))),
    "level-search": (foundlevels.LevelSearch(queries=30, probes=4), (LINF, Linf(0.4))),
    "rate-twin": (composite.RateTwin(attack=plain.PGD(steps=2)), (LINF,)),
    "width-sweep": (
        composite.WidthSweep(attack=plain.PGD(steps=2), surrogates=(Triangle(0.5), ATan(3.0))),
        (LINF,),
    ),
    "worst-of": (
        composite.WorstOf(
            attacks=(plain.FGSM(), linearised.DeepFool(steps=2), queries.SquareSearch(queries=2))
        ),
        (LINF, ROUND),
    ),
    "spsa": (estimates.SPSA(steps=2, samples=2), (LINF, ROUND, SUM)),
    "nes": (estimates.NES(steps=2, samples=2), (LINF, ROUND)),
    "deepfool": (linearised.DeepFool(steps=3), (LINF, ROUND)),
    "fab": (linearised.FAB(steps=2, restarts=2), (LINF, ROUND, SUM)),
    "fab-t": (linearised.FABT(steps=2, targets=2), (LINF, ROUND, SUM)),
    "carlini-wagner": (penalised.CarliniWagner(steps=3, searches=2), (ROUND,)),
    "ead": (penalised.EAD(steps=3, searches=2), (SUM,)),
    "jsma": (sparse.JSMA(), (FEW,)),
    "sparse-fool": (sparse.SparseFool(steps=2, inner=3), (FEW, SUM)),
    "sigma-zero": (sparse.SigmaZero(steps=3), (FEW,)),
    "one-pixel": (sparse.OnePixel(steps=2, population=5), (FEW,)),
    "boundary": (decision.Boundary(steps=3, starts=5), (ROUND,)),
    "rp2": (stickersearch.RP2(steps=2, views=2), (STICKER,)),
    "adv-hat": (stickersearch.AdvHat(steps=2, views=1), (BentSticker(1.0, draws=1), STICKER)),
    "adv-lb": (AdvLB(restarts=2, steps=2), (LaserBeam(1.0, 5, 12, 9, 5),)),  # each check tries every beam
    "hop-skip-jump": (decision.HopSkipJump(steps=2, evaluations=4, starts=5), (LINF, ROUND)),
}
OURS = {"through", "rate-twin", "width-sweep", "encoder-aware", "transfer"}
"""What only a model of ours can give gradients for."""


@pytest.fixture(scope="module", autouse=True)
def _few_steps_on_the_stand_in():
    """They are no queries, and their number is no option."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stand_in, "STEPS", 4)
        yield


def over(names):
    """A test of every one of these recipes, with all its threats one after the other."""

    def decorate(test):
        shape = inspect.signature(test)

        def loop(name, **rest):
            recipe, threats = ROWS[name]
            for threat in threats:
                test(recipe=recipe, threat=threat, **rest)

        loop.__name__, loop.__doc__ = test.__name__, test.__doc__
        rest = [p for n, p in shape.parameters.items() if n not in ("recipe", "threat")]
        first = inspect.Parameter("name", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        loop.__signature__ = shape.replace(parameters=[first, *rest])
        loop.pytestmark = [*getattr(test, "pytestmark", []), pytest.mark.parametrize("name", names).mark]
        return loop

    return decorate


each, foreign = over(sorted(ROWS)), over(sorted(set(ROWS) - OURS))
NONE = {"suite", "chosen", "torchattacks", "foolbox", "stored", "universal", "universal-patch"}
"""Run attacks of this table, in suites and after a choice on validation images; are peers; read a file; or
need to be made first."""
X, Y = Key.of(0).uniform((5, 1, 4, 4)), torch.arange(5) % 3


@functools.cache
def built(code, channels=1, decoder=MeanPotential(), threshold=0.25, network=MLP((6,))):
    spec = ModelSpec(code, network, LIF(threshold=threshold), ATan(), decoder, (channels, 4, 4), 3)
    return spec.build(Key.of(0)).eval()


LATENCY, DIRECT, COIN = built(Latency(3), decoder=Count()), built(Direct(3)), built(Bernoulli(3))
on_each_model = pytest.mark.parametrize(
    "model", [LATENCY, DIRECT, COIN], ids=["latency", "direct", "bernoulli"]
)


class Answering:
    """A foreign model: a function of images to logits without other attributes."""

    stochastic = False

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, images, key=None):
        return self.answer(images)


def smooth(images):
    """Three classes by a smooth function of the pixels."""
    flat = images.flatten(1)
    w = Key.of(8).normal((flat.shape[1], 3)).to(flat)
    return (flat - 0.5).tanh() @ w


def run(recipe, threat, model, x=X, y=Y, key=Key.of(3)):
    """The attack with the gradients that a study would give it."""
    return recipe(threat)(model, x, y, key, through=gradients(model, recipe))


def gradients(model, recipe):
    if not isinstance(recipe, Transfer):
        return through(model, recipe)
    other = copy.deepcopy(model).eval()  # another model of the study
    with torch.no_grad():
        for i, weights in enumerate(other.parameters()):
            weights += 0.3 * Key.of(i).normal(weights.shape).to(weights)
    return other


class _Passes(torch.autograd.Function):
    """The identity, which counts the examples that a gradient comes back for."""

    @staticmethod
    def forward(ctx, x, seen):
        ctx.seen = seen
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        ctx.seen["backward"] += grad.shape[ctx.seen["axis"]]
        return grad, None


@functools.cache
def counted(recipe, threat, model):
    """The result of an attack, and the examples that passed forward and backward through the model.

    Counted at the model itself, at its twins, and where the search over spike patterns asks. It is of no
    interest to an attack whether the images ask for gradients, nor whether gradients are on.
    """
    seen = Counter()

    def passing(plain, axis):
        def forward(self, x, *rest, **named):
            seen["forward"] += x.shape[axis]
            seen["axis"] = axis
            return plain(self, _Passes.apply(x, seen), *rest, **named)

        return forward

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "forward", passing(Classifier.forward, 0))
        patch.setattr(Classifier, "read", passing(Classifier.read, 1))
        patch.setattr(Classifier, "watch", passing(Classifier.watch, 0))
        patch.setattr(RateNetwork, "forward", passing(RateNetwork.forward, 0))
        with torch.no_grad():
            return run(recipe, threat, model, X.clone().requires_grad_()), seen


def defined(result, threat, x):
    """Checks what must hold of every result, for any input."""
    n = len(x)
    assert threat.contains(result.x_adv, x).all()
    assert result.x_adv.shape == x.shape
    assert result.x_adv.dtype == x.dtype
    for part in (result.success, result.queries, result.backward_queries, result.zero_gradients, result.fell):
        assert part.shape == (n,)
    assert result.losses.shape[1:] == (n,)
    assert (result.fell < max(len(result.losses), 1)).all()
    assert (result.queries >= 1).all()
    assert ((result.zero_gradients >= 0) & (result.zero_gradients <= 1)).all()


def test_every_recipe_of_the_catalogue_has_a_row_or_refuses_pixels():
    def refuses(name):
        try:
            PARTS[Recipe][name]()(LINF)
        except InputError:
            return True
        return False

    check("Recipe", PARTS[Recipe], [*ROWS, *filter(refuses, set(PARTS[Recipe]) - ROWS.keys() - NONE)], NONE)


@each
def test_pixel_attacks_refuse_a_model_of_events_and_name_the_threats_on_events(recipe, threat):
    spec = ModelSpec(Events(3), MLP((6,)), LIF(threshold=0.25), ATan(), Count(), (1, 4, 4), 3)
    events = (Key.of(1).uniform((5, 3, 1, 4, 4)) < 0.3).float()
    model = spec.build(Key.of(0)).eval()
    for events_or_counts in (events, 2 * events):
        with pytest.raises(InputError, match="flips"):
            recipe(threat)(model, events_or_counts, Y, Key.of(0))


@each
def test_channels_last_and_strided_images_give_the_same_attack(recipe, threat):
    model = LATENCY if recipe.suits(LATENCY) else COIN
    colour = torch.cat([X, X.flip(3), X.flip(2)], 1)
    of_colour = built(model.encoder, 3, model.spec.decoder)
    layouts = [
        colour.to(memory_format=torch.channels_last),
        colour.transpose(2, 3).contiguous().transpose(2, 3),
    ]
    plain = run(recipe, threat, of_colour, colour)
    defined(plain, threat, colour)
    for x in layouts:
        assert not x.is_contiguous()
        for one, other in zip(run(recipe, threat, of_colour, x), plain, strict=True):
            assert other is None if one is None else torch.equal(one.nan_to_num(7), other.nan_to_num(7))


@each
@on_each_model
def test_success_and_the_step_of_the_first_success_are_what_the_model_decides(recipe, threat, model):
    if not recipe.suits(model):
        return
    result, _ = counted(recipe, threat, model)
    defined(result, threat, X)
    assert not result.x_adv.requires_grad
    assert all(p.grad is None for p in model.parameters())
    if not model.stochastic:
        assert torch.equal(result.success, decide(model(result.x_adv)) != Y)
        assert torch.equal(result.fell >= 0, result.success)


@each
def test_equal_calls_give_equal_images(recipe, threat):
    model = LATENCY if recipe.suits(LATENCY) else DIRECT
    result, _ = counted(recipe, threat, model)
    assert torch.equal(run(recipe, threat, model).x_adv, result.x_adv)


@each
@on_each_model
def test_a_budget_of_zero_returns_the_image_to_the_bit(recipe, threat, model):
    if not recipe.suits(model):
        return
    still = replace(threat, epsilon=0)
    result = run(recipe, still, model)
    defined(result, still, X)
    assert torch.equal(result.x_adv, X)


def idle(recipe):
    """The recipe with no steps, or None where it has no number of steps."""
    options = {f.name for f in fields(recipe)}
    if "attacks" in options:
        return replace(recipe, attacks=tuple(idle(a) or a for a in recipe.attacks))
    if "attack" in options:
        return replace(recipe, attack=idle(recipe.attack))
    return replace(recipe, steps=0) if "steps" in options else None


@each
def test_attacks_of_zero_steps_give_a_defined_result_or_are_refused(recipe, threat):
    none = idle(recipe)
    if isinstance(none, reachable.EncoderAwareSearch):
        with pytest.raises(InputError, match="steps >= 1"):
            none(threat)
    elif none is not None:
        defined(run(none, threat, LATENCY), threat, X)


@each
def test_every_attack_accepts_one_example_an_empty_batch_and_double_precision(recipe, threat):
    for rows, dtype in product((slice(0, 1), slice(0, 0)), (torch.float32, torch.float64)):
        x = X[rows].to(dtype)
        defined(run(recipe, threat, LATENCY, x, Y[rows]), threat, x)


@each
def test_every_attack_runs_on_weights_of_double_or_bfloat16_precision(recipe, threat):
    for dtype in (torch.float64, torch.bfloat16):
        model = copy.deepcopy(LATENCY).to(dtype)
        result = run(recipe, threat, model)
        defined(result, threat, X)
        assert torch.equal(result.success, decide(model(result.x_adv)) != Y)


UNDECIDED = {
    "nan": lambda x: x.flatten(1)[:, :3] * torch.nan,
    "silent": lambda x: x.flatten(1)[:, :3] * 0,
    "constant and cut off from its input": lambda x: torch.ones(len(x), 3),
    "infinite": lambda x: x.flatten(1)[:, :3] * torch.inf,
}


@foreign
def test_a_model_that_decides_nothing_is_fooled_as_it_is(recipe, threat):
    for name, answer in UNDECIDED.items():
        result = recipe(threat)(Answering(answer), X, Y, Key.of(3))
        defined(result, threat, X)
        assert result.success.all(), name


@each
def test_a_silent_network_of_ours_is_fooled_as_it_is(recipe, threat):
    silent = built(Latency(3), decoder=Count(), threshold=1e6)
    result = run(recipe, threat, silent)
    defined(result, threat, X)
    assert result.success.all()


@foreign
def test_a_model_that_never_changes_its_mind_stands_and_its_gradients_count_as_vanished(recipe, threat):
    y = torch.zeros_like(Y)
    for answer in (
        lambda x: torch.eye(3)[y[:1]].expand(len(x), 3),
        lambda x: torch.eye(3)[y[:1]].expand(len(x), 3) + 0 * x.flatten(1)[:, :3],
    ):
        result = recipe(threat)(Answering(answer), X, y, Key.of(3))
        defined(result, threat, X)
        assert not result.success.any()
        assert (result.fell == -1).all()
        assert (result.zero_gradients[result.backward_queries > 0] == 1).all()


@foreign
def test_answers_that_are_no_numbers_on_some_images_spoil_no_other(recipe, threat):
    """NaN in part of the box: images there are fooled as they are, and the others may go there."""

    def answer(images):
        broken = images.flatten(1)[:, :1] > 0.6
        return torch.where(broken, torch.nan, smooth(images))

    y = smooth(X).argmax(1)
    result = recipe(threat)(Answering(answer), X, y, Key.of(3).for_rows(range(5)))
    defined(result, threat, X)
    broken = X.flatten(1)[:, 0] > 0.6
    assert 0 < broken.sum() < 5
    assert result.success[broken].all()
    assert torch.equal(result.success, decide(answer(result.x_adv)) != y)
    fine = (~broken).nonzero().flatten()
    rows = fine.repeat(5)[:5]  # a batch of the same size, which rounds alike
    alone = recipe(threat)(Answering(answer), X[rows], y[rows], Key.of(3).for_rows(rows))
    assert torch.allclose(alone.x_adv[: len(fine)], result.x_adv[fine], atol=1e-6)


@foreign
def test_a_class_with_a_logit_of_minus_infinity_saves_no_image(recipe, threat):
    """A masked class changes no decision, so as many images fall as without it."""

    def masked(images):
        return torch.cat([smooth(images), torch.full((len(images), 1), -torch.inf)], 1)

    y, key = smooth(X).argmax(1), Key.of(3).for_rows(range(5))
    plain, found = (recipe(threat)(Answering(answer), X, y, key) for answer in (smooth, masked))
    defined(found, threat, X)
    assert found.x_adv.isfinite().all()
    assert found.success.sum() >= plain.success.sum()
    assert torch.equal(found.success, decide(masked(found.x_adv)) != y)


@foreign
def test_an_infinite_gradient_at_the_edge_of_the_box_does_not_stop_an_attack(recipe, threat):
    x = X.clone()
    x[:, 0, 0] = 0.0
    model = Answering(lambda images: smooth(images) + images.flatten(1)[:, :3].sqrt())
    result = recipe(threat)(model, x, smooth(x).argmax(1), Key.of(3))
    defined(result, threat, x)
    assert result.x_adv.isfinite().all()


@each
def test_labels_of_one_class_are_attacked_and_misclassified_examples_are_left_alone(recipe, threat):
    answers = decide(LATENCY(X))
    for y in (torch.zeros_like(Y), torch.full_like(Y, 2), (answers + 1) % 3):
        defined(run(recipe, threat, LATENCY, y=y), threat, X)
        clean = evaluate_clean(LATENCY, X, y, Key.of(1))
        found = evaluate_attack(
            LATENCY, recipe(threat), threat, X, y, clean, Key.of(1), through=gradients(LATENCY, recipe)
        )
        assert not found.right[answers != y].any()  # errors, and left alone
        assert not found.queries[answers != y].any()


NO_LABELS = [
    torch.full((5,), 3),
    torch.tensor([0, 1, 2, 0, 7]),
    torch.full((5,), -1),
    torch.zeros(4, dtype=torch.int64),
    torch.zeros(5),
    torch.zeros(5, dtype=torch.int32),
]


@each
def test_labels_of_another_length_type_or_range_are_refused(recipe, threat):
    for labels in NO_LABELS:
        with pytest.raises(InputError, match=r"[Ll]abel"):
            run(recipe, threat, LATENCY, y=labels)


def spoilt(value):
    x = X.clone()
    x[1, 0, 2, 2] = value
    return x


NO_IMAGES = {
    r"\[0, 1\]": [spoilt(1.5), spoilt(-0.1), spoilt(torch.nan), X * 2 - 1],
    "precision": [X.half(), X.bfloat16(), (X * 255).long()],
}


@each
def test_images_outside_the_unit_interval_or_of_low_precision_are_refused(recipe, threat):
    for message, several in NO_IMAGES.items():
        for x in several:
            with pytest.raises(InputError, match=message):
                run(recipe, threat, LATENCY, x)
            with pytest.raises(InputError, match=message):
                recipe(threat)(Answering(smooth), x, Y, Key.of(0))


@each
def test_training_mode_is_refused_in_the_model_and_in_what_gives_its_gradients(recipe, threat):
    with pytest.raises(InputError, match="evaluation mode"):
        run(recipe, threat, copy.deepcopy(LATENCY).train())


@foreign
def test_answers_that_are_no_logits_are_refused(recipe, threat):
    for answer in (lambda x: x.flatten(1)[:, :1], lambda x: x, lambda x: x.flatten(1)[:2, :3]):
        with pytest.raises(InputError, match=r"[Ll]ogits"):
            recipe(threat)(Answering(answer), X, torch.zeros_like(Y), Key.of(0))


@each
@on_each_model
def test_queries_are_exactly_the_passes_that_were_made(recipe, threat, model):
    if not recipe.suits(model):
        return
    result, seen = counted(recipe, threat, model)
    if isinstance(recipe, foundlevels.LevelSearch):  # the passes that find the levels are not an example's
        assert int(result.queries.sum()) <= seen["forward"]
        return
    assert int(result.queries.sum()) == seen["forward"]
    assert int(result.backward_queries.sum()) == seen["backward"]

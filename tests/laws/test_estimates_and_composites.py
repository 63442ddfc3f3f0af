"""Estimated gradients, the rate twin, and attacks made of attacks."""

import numpy as np
import pytest
import torch

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.assembled import Assembled
from spikeproof.attacks.gradient.estimates import (
    NES,
    SPSA,
    FiniteDifferences,
    GaussianEstimate,
    RademacherEstimate,
)
from spikeproof.attacks.gradient.plain import BIM, EOTPGD, FGSM, PGD, Through
from spikeproof.attacks.made_of.composite import (
    Chosen,
    Ensemble,
    GradientSources,
    RateTwin,
    WidthSweep,
    WorstOf,
    members_of,
)
from spikeproof.attacks.parts.oracles import Exact, Expectation
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import SETTLING
from spikeproof.auditing.assess import attack_evidence
from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Latency, StraightThrough
from spikeproof.errors import InputError
from spikeproof.evaluation.through import rate_twin, settled, strongest, through, validated
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import ASSG, BPTR
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.recurrent import LSNN
from spikeproof.neurons import FS, IF, LIF, PSP, Recurrent, ReLU
from spikeproof.specs import build, describe
from spikeproof.surrogates import ATan, StraightThroughSpike, Triangle
from spikeproof.threats import L2, Linf

X, Y = Key.of(0).uniform((9, 1, 6, 6)), torch.arange(9) % 3
ESTIMATES = [FiniteDifferences(1e-3), RademacherEstimate(2500, 1e-3), GaussianEstimate(2500, 1e-3)]
COMPOSITES = [
    WorstOf(attacks=(FGSM(), SquareSearch(queries=4), Through(gradient=BPTR(), attack=PGD(steps=2)))),
    WidthSweep(attack=PGD(steps=2), surrogates=(Triangle(0.5), Triangle(2.0), StraightThroughSpike())),
]


def built(code, network=MLP((10,)), decoder=MeanPotential(), neuron=LIF(threshold=0.25)):
    return ModelSpec(code, network, neuron, ATan(), decoder, (1, 6, 6), 3).build(Key.of(0)).eval()


LATENCY, CONV, COIN = built(Latency(5), decoder=Count()), built(Direct(4), ConvNet((3,))), built(Bernoulli(4))


def smooth(x, key):
    """A smooth objective with a gradient in closed form."""
    a = Key.of(3).normal(x.shape[1:]).to(x)
    return (x**3 + a * x).flatten(1).sum(1), torch.zeros(len(x))


def slope(x):
    return 3 * x**2 + Key.of(3).normal(x.shape[1:]).to(x)


@pytest.mark.parametrize("oracle", ESTIMATES, ids=repr)
def test_an_estimate_converges_to_the_gradient_of_a_smooth_function(oracle):
    x = Key.of(1).uniform((2, 4, 3)).double()
    x[0, 0] = torch.tensor([0.0, 1.0, 5e-4])  # in the corners, where half of a pair would leave the box
    got = oracle(smooth, x, Key.of(2)).grad
    error = (got - slope(x)).norm() / slope(x).norm()
    assert error < (0.005 if isinstance(oracle, FiniteDifferences) else 0.15)


@pytest.mark.parametrize("make", [RademacherEstimate, GaussianEstimate])
def test_more_samples_come_closer_as_their_square_root(make):
    x = Key.of(1).uniform((20, 12)).double()

    def error(samples):
        return (make(samples, 1e-3)(smooth, x, Key.of(2)).grad - slope(x)).norm().item()

    assert 0.2 < error(640) / error(40) < 0.32  # 1/4 for independent samples


def test_finite_differences_are_those_of_every_pixel():
    x = Key.of(1).uniform((2, 5)).double()
    got = FiniteDifferences(0.05)(smooth, x, Key.of(0)).grad
    for b, i in np.ndindex(2, 5):
        up, down = x.clone(), x.clone()
        up[b, i], down[b, i] = min(x[b, i] + 0.05, 1), max(x[b, i] - 0.05, 0)
        wanted = (smooth(up, None)[0][b] - smooth(down, None)[0][b]) / (up[b, i] - down[b, i])
        assert got[b, i].item() == pytest.approx(wanted.item(), rel=1e-9)


@pytest.mark.parametrize(
    "oracle",
    [FiniteDifferences(), RademacherEstimate(3), GaussianEstimate(3), Expectation(2, RademacherEstimate(3))],
)
def test_queries_are_counted_as_they_are_made(oracle):
    calls = []

    def evaluate(x, key):
        assert not x.requires_grad
        assert x.min() >= 0
        assert x.max() <= 1
        calls.append(key.path)
        return smooth(x, key)

    oracle(evaluate, X, Key.of(0))
    assert oracle.passes(X) == (len(calls), 0)
    assert len(set(calls)) == len(calls)  # every forward pass has randomness of its own
    assert Exact().passes(X) == (1, 1)


@pytest.mark.parametrize("recipe", [SPSA(steps=3, samples=5), NES(steps=3, samples=5)], ids=repr)
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.7)], ids=repr)
@pytest.mark.parametrize("model", [LATENCY, CONV, COIN], ids=["latency", "conv", "bernoulli"])
def test_attacks_by_estimates_keep_their_budget_and_use_no_gradient(recipe, threat, model):
    key = Key.of(3).for_rows(range(9))
    result = recipe(threat)(model, X, Y, key)
    again = recipe(threat)(model, X, Y, key)
    assert recipe.gradient_free
    assert threat.contains(result.x_adv, X).all()
    assert torch.equal(result.x_adv, again.x_adv)
    assert not result.backward_queries.any()
    assert not result.zero_gradients.any()
    settling = 2 * SETTLING if model.stochastic else 0
    assert set((result.queries - 1 - settling).tolist()) <= {
        11,
        22,
        33,
        34,
    }  # pairs and centres, a last query
    part = recipe(threat)(model, X[[7, 2]], Y[[7, 2]], Key.of(3).for_rows([7, 2]))
    assert torch.allclose(part.x_adv, result.x_adv[[7, 2]], atol=1e-6)


class Masked:
    """A linear model in steps so small that its gradient is zero everywhere, but not its answers."""

    stochastic = False

    def __init__(self, w, b):
        self.w, self.b = w, b

    def __call__(self, images, key=None):
        score = (images * self.w).flatten(1).sum(1) + self.b
        return torch.stack([score.mul(50).round() / 50, torch.zeros(len(score))], 1)


@pytest.mark.parametrize("recipe", [SPSA(steps=20, samples=40), NES(steps=20, samples=40)], ids=repr)
def test_estimates_break_a_model_that_masks_its_gradient(recipe):
    w, x, y = Key.of(5).normal((1, 6, 6)), 0.3 + 0.4 * X, torch.zeros(9, dtype=torch.int64)
    for i in range(3):
        reach = 0.6 * 0.1 * w.abs().sum()  # so far that six tenths of the budget, used well, are enough
        model = Masked(w, reach - (x[i] * w).sum())
        fell = [
            each(Linf(0.1))(model, x[i : i + 1], y[:1], Key.of(1)).success.item()
            for each in (recipe, PGD(steps=20))
        ]
        assert fell == [True, False]


@pytest.mark.parametrize("network", [MLP((12, 8)), ConvNet((3,), (7,))], ids=repr)
@pytest.mark.parametrize("neuron", [IF(threshold=0.5), LIF(synapse=PSP())], ids=repr)
@pytest.mark.parametrize("decoder", [Count(), MeanPotential()], ids=repr)
def test_the_rate_twin_is_the_network_of_rectified_units(network, neuron, decoder):
    model = built(Direct(4), network, decoder, neuron)
    twin, x = rate_twin(model), X.clone().requires_grad_()
    assert {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
    wanted, first = x, True
    for layer in model.network.layers:
        if layer.__class__.__name__ == "OverTime":
            wanted = wanted if first else (wanted / neuron.threshold).relu()
            wanted, first = layer(wanted[None])[0], False
    got = twin(x)
    assert torch.allclose(got, wanted, atol=1e-6)
    (gradient,) = torch.autograd.grad(got.sum(), x)
    assert gradient.any()
    before = model(X)
    assert torch.equal(model(X), before)
    assert not twin.training


@pytest.mark.parametrize("network", [MLP((12, 8)), ConvNet((3,), (7,))], ids=repr)
@pytest.mark.parametrize("code", [Direct(3), Latency(4, StraightThrough())], ids=repr)
def test_gradients_of_the_rate_twin_are_finite_differences_of_it(network, code):
    """By the mean input, where the twin is an ordinary ANN; the rule of the code leads on to the pixels."""
    model = built(code, network, MeanPotential(), IF(threshold=0.5)).double()
    twin, x, weight = rate_twin(model), X[:3].double(), Key.of(4).normal((3, 3)).double()
    rates = model.encode(x).mean(0).detach().requires_grad_()

    def value(inputs):
        return (twin.classifier.respond(inputs[None])[0] * weight).sum()

    (got,) = torch.autograd.grad(value(rates), rates)
    h = 1e-6
    for b, i, j in ((0, 0, 0), (1, 3, 2), (2, 5, 5)):
        step = torch.zeros_like(rates)
        step[b, 0, i, j] = h
        wanted = (value(rates + step) - value(rates - step)) / (2 * h)
        assert got[b, 0, i, j].item() == pytest.approx(wanted.item(), rel=1e-5, abs=1e-8)
    x = x.requires_grad_()
    (by_pixel,) = torch.autograd.grad((twin(x) * weight).sum(), x)
    assert torch.allclose(by_pixel, got)  # each code here passes a gradient straight to its mean


def test_the_rate_twin_tells_what_a_rate_code_with_many_steps_tells():
    """Rates of IF neurons reset by subtraction are rectified and clipped; below the clip both agree."""
    model = built(Direct(400), MLP((20,)), MeanPotential(), IF())
    with torch.no_grad():
        model.network.layers[0][1].weight.mul_(0.2)
        outputs = model.outputs(X)
        rates = (outputs[-1] / 400).flatten()  # an integrator without leak: mean current
        assert torch.allclose(rates, rate_twin(model)(X).flatten(), atol=0.02)


def test_a_rate_twin_gives_gradients_and_no_verdict():
    recipe = RateTwin(attack=PGD(steps=3, backward=StraightThrough()))
    source = through(LATENCY, recipe)
    result = recipe(Linf(0.2))(LATENCY, X, Y, Key.of(3), through=source)
    assert torch.equal(result.success, decide(LATENCY(result.x_adv)) != Y)
    assert (result.queries > result.backward_queries + 1).any()
    assert (
        attack_evidence(
            "twin", recipe, {"robust_accuracy": 0.1, "budget_violations": 0, "n": 9}
        ).gradient_source
        == "transfer"
    )


@pytest.mark.parametrize(
    ("network", "neuron"), [(MLP((4,)), ReLU()), (MLP((4,)), Recurrent()), (LSNN((4,)), LIF())], ids=repr
)
def test_models_of_which_rates_are_no_account_have_no_rate_twin(network, neuron):
    model = built(Direct(1), network, MeanPotential(), neuron)
    with pytest.raises(InputError, match="rate twin"):
        rate_twin(model)


def test_neurons_that_ask_for_all_steps_have_a_rate_twin():
    assert rate_twin(built(Direct(8), MLP((4,)), MeanPotential(), FS(steps=8)))(X).isfinite().all()


@pytest.mark.parametrize("recipe", COMPOSITES, ids=["worst-of", "sweep"])
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.7)], ids=repr)
@pytest.mark.parametrize("model", [LATENCY, CONV, COIN], ids=["latency", "conv", "bernoulli"])
def test_a_composite_keeps_the_laws_of_its_members(recipe, threat, model):
    key, sources = Key.of(3).for_rows(range(9)), through(model, recipe)
    result = recipe(threat)(model, X, Y, key, through=sources)
    again = recipe(threat)(model, X, Y, key, through=sources)
    assert threat.contains(result.x_adv, X).all()
    assert torch.equal(result.x_adv, again.x_adv)
    assert torch.equal(result.queries, again.queries)
    if not model.stochastic:
        assert torch.equal(result.success, decide(model(result.x_adv)) != Y)
    part = recipe(threat)(model, X[[7, 2]], Y[[7, 2]], Key.of(3).for_rows([7, 2]), through=sources)
    assert torch.allclose(part.x_adv, result.x_adv[[7, 2]], atol=1e-6)


@pytest.mark.parametrize("recipe", COMPOSITES, ids=["worst-of", "sweep"])
def test_a_composite_is_the_worst_case_over_its_members_example_by_example(recipe):
    key, threat, x = Key.of(3).for_rows(range(40)), Linf(0.03), Key.of(8).uniform((40, 1, 6, 6))
    y = decide(LATENCY(x))
    x, y, key = x[y >= 0], y[y >= 0], key.take(y >= 0)
    alone = [
        member(threat)(LATENCY, x, y, key.fold("member", i), through=through(LATENCY, member)).success
        for i, member in enumerate(recipe.members)
    ]
    together = recipe(threat)(LATENCY, x, y, key, through=through(LATENCY, recipe)).success
    assert torch.equal(together, torch.stack(alone).any(0))
    assert max(each.sum() for each in alone) < together.sum() < len(x)


def test_members_attack_only_what_still_stands_and_all_queries_are_counted():
    asked = []

    def member(falls):
        def attack(model, x, y, key, *, through=None):
            asked.append((len(x), through))
            moved = torch.where((x.flatten(1)[:, 0] > falls).view(-1, 1, 1, 1), x, 1 - x)
            return BIM(steps=1)(Linf(0.0))(model, moved, y, key)

        return attack

    class Corner:
        """Answers 1 where the first pixel was turned from dark to bright, else 0."""

        stochastic = False

        def __call__(self, images, key=None):
            bright = (images.flatten(1)[:, :1] > 0.5).to(images.dtype)
            return torch.cat([1 - bright, bright], 1)

    x = torch.zeros(4, 1, 2, 2)
    x[:, 0, 0, 0] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    ensemble = Ensemble((member(0.15), member(0.35), member(0.25)))
    sources = GradientSources(("first", None, "third"))
    result = ensemble(Corner(), x, torch.zeros(4, dtype=torch.int64), Key.of(0), through=sources)
    assert asked == [(4, "first"), (3, None), (1, "third")]
    assert result.success.tolist() == [True, True, True, False]
    # the image once, or twice with a gradient; its forward pass here, and the verdict
    assert (result.queries[3] - 1).item() == 3 * (result.queries[0] - 1).item() + 3
    assert result.losses.shape[0] >= 3
    with pytest.raises(InputError, match="sources"):
        ensemble(Corner(), x, torch.zeros(4, dtype=torch.int64), Key.of(0), through=GradientSources((None,)))


def test_the_worst_is_kept_where_nothing_falls():
    """Of images that all stand, the one of least margin is returned, not the last."""

    def to(value):
        def attack(model, x, y, key, *, through=None):
            return NoiseSearch(draws=1)(Linf(0.0))(model, torch.full_like(x, value), y, key)

        return attack

    class Level:
        stochastic = False

        def __call__(self, images, key=None):
            return torch.stack([images.flatten(1).mean(1), torch.zeros(len(images))], 1)

    x = torch.full((2, 1, 2, 2), 0.9)
    result = Ensemble((to(0.7), to(0.3), to(0.5)))(Level(), x, torch.zeros(2, dtype=torch.int64), Key.of(0))
    assert torch.equal(result.x_adv, torch.full_like(x, 0.3))
    assert not result.success.any()


def test_evaluation_hands_each_member_its_source():
    recipe, threat = COMPOSITES[1], Linf(0.2)
    clean = evaluate_clean(LATENCY, X, Y, Key.of(0))
    sources = through(LATENCY, recipe)
    found = [
        evaluate_attack(
            LATENCY, recipe(threat), threat, X, Y, clean, Key.of(1), through=sources, batch_size=size
        )
        for size in (9, 4)
    ]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert found[0].metrics()["budget_violations"] == 0


def test_the_strongest_is_chosen_by_what_stands_and_then_by_margin():
    weak, strong = BIM(steps=1, reach=0.0), BIM(steps=5)
    chosen = strongest(LATENCY, [weak, strong, weak], Linf(0.3), X, Y, Key.of(0))
    assert chosen.recipe == strong
    assert chosen.accuracy[1] < chosen.accuracy[0] == chosen.accuracy[2]
    clean = (decide(LATENCY(X)) == Y).double().mean().item()
    assert chosen.accuracy[0] == pytest.approx(clean)
    widths = [Through(gradient=ASSG(a), attack=PGD(steps=2)) for a in (0.35, 0.4, 0.45)]
    assert strongest(COIN, widths, Linf(0.1), X, Y, Key.of(0)).recipe in widths
    with pytest.raises(InputError, match="strongest"):
        strongest(LATENCY, [], Linf(0.1), X, Y, Key.of(0))


@pytest.mark.parametrize("recipe", [*COMPOSITES, SPSA(), NES(radius=0.1), RateTwin(), WidthSweep()], ids=repr)
def test_a_recipe_is_rebuilt_from_its_description(recipe):
    kind = next(k for k in PARTS if getattr(k, "__name__", "") == "Recipe")
    assert build(kind, describe(recipe, PARTS), PARTS) == recipe


def test_nested_composites_are_laid_flat_and_say_what_they_are():
    nested = WorstOf(attacks=(WorstOf(attacks=(FGSM(), SPSA())), COMPOSITES[1], SquareSearch()))
    assert len(members_of([nested])) == 2 + 3 + 1
    assert not nested.gradient_free
    assert WorstOf(attacks=(SPSA(), SquareSearch())).gradient_free
    evidence = attack_evidence("x", nested, {"robust_accuracy": 0.1, "budget_violations": 0, "n": 9})
    assert (evidence.steps, evidence.gradient_source) == (2, "substitute")
    result = nested(Linf(0.1))(LATENCY, X, Y, Key.of(0), through=through(LATENCY, nested))
    assert torch.equal(result.success, decide(LATENCY(result.x_adv)) != Y)
    assert through(LATENCY, WorstOf(attacks=(FGSM(), SPSA()))) is None


@pytest.mark.parametrize(
    "bad",
    [
        lambda: SPSA(samples=0)(Linf(0.1)),
        lambda: NES(radius=0.0)(Linf(0.1)),
        lambda: FiniteDifferences(-1.0),
        lambda: WorstOf(attacks=()),
        lambda: WidthSweep(surrogates=()),
        lambda: WidthSweep(attack=NoiseSearch()),
        lambda: RateTwin(attack=PGD(surrogate=ATan())),
        lambda: Ensemble(()),
    ],
)
def test_estimates_without_samples_or_radius_and_composites_without_members_are_refused(bad):
    with pytest.raises(InputError):
        bad()


def test_the_oracle_of_an_assembled_attack_determines_what_it_reads_of_the_model():
    estimated = Assembled(oracle=Expectation(3, FiniteDifferences()))
    assert (estimated.gradient_free, estimated.draws) == (True, 3)
    assert (Assembled().gradient_free, Assembled().draws) == (False, 1)
    assert not WorstOf(attacks=(estimated, Assembled())).gradient_free
    evidence = attack_evidence("x", estimated, {"robust_accuracy": 0.1, "budget_violations": 0, "n": 9})
    assert (evidence.steps, evidence.gradient_source, evidence.draws) == (0, "model", 3)
    assert build(Recipe, describe(estimated, PARTS), PARTS) == estimated


def test_choices_within_choices_are_made_and_what_does_not_suit_is_no_candidate():
    inner = Chosen(attacks=(FGSM(), PGD(steps=2)), images=4)
    recipe = WorstOf(attacks=(Chosen(attacks=(EOTPGD(steps=2), inner), images=6), SquareSearch(queries=3)))
    assert validated(recipe) == 6
    found, choices = settled(LATENCY, recipe, Linf(0.2), X, Y, Key.of(0))
    assert found.attacks[0] in inner.attacks  # EOT-PGD is for stochastic codes
    assert found.attacks[1] == recipe.attacks[1]
    assert [len(choice.accuracy) for choice in choices] == [2, 1]
    least = min(range(2), key=lambda i: (choices[0].accuracy[i], -choices[0].margin[i]))
    assert found.attacks[0] == inner.attacks[least]
    with pytest.raises(InputError, match="validation"):
        settled(LATENCY, recipe, Linf(0.2), X[:0], Y[:0], Key.of(0))

"""What every attack must satisfy; a new recipe adds a row to RECIPES."""

import copy

import numpy as np
import pytest
import torch

from spikeproof.attacks.answers.noise import GaussianNoiseSearch, NoiseSearch, SaltAndPepperSearch
from spikeproof.attacks.answers.queries import Square, SquareSearch
from spikeproof.attacks.gradient.estimates import NES, SPSA
from spikeproof.attacks.gradient.iterated import APGD, APGDT, EOTFGSM, MIM, NIFGSM, RFGSM, SAPGD, TargetedPGD
from spikeproof.attacks.gradient.plain import BIM, EOTPGD, FGSM, PGD
from spikeproof.attacks.made_of.composite import WidthSweep, WorstOf
from spikeproof.attacks.parts.oracles import Exact, Expectation
from spikeproof.attacks.parts.targets import EveryOther, Given, LeastLikely
from spikeproof.attacks.search import SETTLING, Best, GradientAttack
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Latency, StraightThrough
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import DLR, KL, LogitCrossEntropy, Margin, Rescaled
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import L0, L1, L2, Linf, SquarePatch

RECIPES = [
    FGSM(),
    FGSM(objective=Margin()),
    BIM(steps=4),
    PGD(steps=4),
    PGD(steps=3, restarts=3, objective=DLR()),
    EOTPGD(steps=3, draws=2),
    NoiseSearch(draws=4),
    SquareSearch(queries=12),
    SPSA(steps=2, samples=3),
    NES(steps=2, samples=3, radius=0.1),
    WidthSweep(attack=PGD(steps=2), surrogates=(Triangle(1.0), Triangle(3.0))),
    WorstOf(attacks=(FGSM(), SquareSearch(queries=3))),
    RFGSM(restarts=2),
    EOTFGSM(draws=2),
    MIM(steps=3),
    NIFGSM(steps=3),
    APGD(steps=5),
    APGDT(steps=3, targets=EveryOther(2), objective=Margin()),
    SAPGD(steps=4),
    TargetedPGD(steps=2, targets=LeastLikely()),
    PGD(steps=2, objective=KL()),
    PGD(steps=2, objective=Rescaled(DLR())),
    GaussianNoiseSearch(draws=3),
    SaltAndPepperSearch(draws=3),
]
THREATS = [Linf(0.1), L2(0.7)]
X, Y = Key.of(0).uniform((9, 1, 6, 6)), torch.arange(9) % 3


def built(code, network=MLP((10,)), decoder=MeanPotential()):
    spec = ModelSpec(code, network, LIF(threshold=0.25), ATan(), decoder, (1, 6, 6), 3)
    return spec.build(Key.of(0)).eval()


MODELS = {
    "latency": built(Latency(5), decoder=Count()),
    "conv": built(Direct(4), ConvNet((3,))),
    "bernoulli": built(Bernoulli(4)),
}
each_attack = [
    pytest.mark.parametrize("recipe", RECIPES, ids=repr),
    pytest.mark.parametrize("threat", THREATS, ids=repr),
]


def everywhere(test):
    for mark in each_attack:
        test = mark(test)
    return test


class Linear:
    """Two classes whose margin is w x + b: the optimum within a ball is known in closed form."""

    stochastic = False

    def __init__(self, w, b):
        self.w, self.b = w, b

    def __call__(self, images, key=None):
        score = (images * self.w).flatten(1).sum(1) + self.b
        return torch.stack([score, -score], 1)


@pytest.mark.parametrize("name", MODELS)
def test_the_models_of_these_laws_have_something_to_lose(name):
    answers = decide(MODELS[name](X, Key.of(1)))
    assert (answers >= 0).float().mean() > 0.5


@everywhere
@pytest.mark.parametrize("name", MODELS)
def test_an_attack_keeps_its_budget_replays_and_leaves_no_trace(recipe, threat, name):
    model, key = MODELS[name], Key.of(3).for_rows(range(9))
    twin = substitute(model, spike=Triangle(0.5))
    weights, rng = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    x = X.clone()
    result = recipe(threat)(model, x, Y, key, through=twin)
    again = recipe(threat)(model, x, Y, key, through=twin)
    assert threat.contains(result.x_adv, X).all()
    assert torch.equal(result.x_adv, again.x_adv)
    assert torch.equal(result.success, again.success)
    assert torch.equal(x, X)
    assert torch.equal(rng, torch.get_rng_state())
    assert not model.training
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(w, model.state_dict()[n]) for n, w in weights.items())


@everywhere
def test_success_is_what_the_model_itself_says(recipe, threat):
    model = MODELS["conv"]
    result = recipe(threat)(model, X, Y, Key.of(3))
    assert torch.equal(result.success, decide(model(result.x_adv)) != Y)
    assert torch.equal(result.fell >= 0, result.success)
    assert (result.fell < len(result.losses)).all()


@everywhere
def test_an_example_is_attacked_the_same_in_any_batch(recipe, threat):
    model, key = MODELS["latency"], Key.of(3)
    whole = recipe(threat)(model, X, Y, key.for_rows(range(9)))
    part = recipe(threat)(model, X[[7, 2]], Y[[7, 2]], key.for_rows([7, 2]))
    assert torch.allclose(part.x_adv, whole.x_adv[[7, 2]], atol=1e-6)


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
@pytest.mark.parametrize("make", [Linf, L2])
def test_a_budget_of_zero_returns_the_image(recipe, make):
    result = recipe(make(0.0))(MODELS["conv"], X, Y, Key.of(3))
    assert torch.equal(result.x_adv, X)


@pytest.mark.parametrize("recipe", [FGSM(), BIM(steps=30), PGD(steps=30)], ids=repr)
@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.2)], ids=repr)
def test_on_a_linear_model_the_optimum_is_reached(recipe, threat):
    """Away from the box the margin falls by epsilon times the dual norm of the weights, and by no more."""
    w = Key.of(5).normal((1, 6, 6))
    x = 0.3 + 0.4 * X
    model = Linear(w, 8.0)  # far enough from the boundary that no example is left alone early
    result = recipe(threat)(model, x, torch.zeros(9, dtype=torch.int64), Key.of(1))
    dual = w.abs().sum() if isinstance(threat, Linf) else w.norm()
    fall = ((x - result.x_adv) * w).flatten(1).sum(1)
    assert (fall <= threat.epsilon * dual * 1.001).all()
    assert (fall >= threat.epsilon * dual * (0.999 if recipe.__class__ is FGSM else 0.97)).all()


@pytest.mark.parametrize("threat", [Linf(0.05), L2(0.4)], ids=repr)
def test_square_makes_way_without_gradients_and_noise_less(threat):
    w, x = Key.of(5).normal((1, 6, 6)), 0.3 + 0.4 * X
    model, y = Linear(w, 100.0), torch.zeros(9, dtype=torch.int64)
    dual = w.abs().sum() if isinstance(threat, Linf) else w.norm()

    def share(recipe):
        result = recipe(threat)(model, x, y, Key.of(1))
        return (((x - result.x_adv) * w).flatten(1).sum(1) / (threat.epsilon * dual)).mean().item()

    square = share(SquareSearch(queries=400))
    assert square > 0.5
    assert square > share(NoiseSearch(draws=400)) > 0


def test_more_steps_and_more_restarts_find_no_less():
    model, key = MODELS["latency"], Key.of(2)
    found = [
        PGD(steps=steps, restarts=restarts)(Linf(0.15))(model, X, Y, key).success.sum().item()
        for steps, restarts in ((3, 1), (3, 4))
    ]
    assert found[1] >= found[0]


def test_one_draw_is_the_plain_oracle_and_many_average_the_gradient():
    def evaluate(x, key):
        noise = key.normal((1,)).item()
        return (noise * x).flatten(1).sum(1), torch.zeros(len(x))

    key, x = Key.of(4), torch.ones(3, 2)
    for one, other in zip(Expectation(1)(evaluate, x, key), Exact()(evaluate, x, key), strict=True):
        assert torch.equal(one, other)
    mean = sum(key.fold("draw", i).normal((1,)).item() for i in range(5)) / 5
    assert torch.allclose(Expectation(5)(evaluate, x, key).grad, torch.full((3, 2), mean))


def test_averaged_gradients_round_alike_in_any_batch():
    def evaluate(x, key):
        return (key.uniform((7,)) * x).flatten(1).sum(1), torch.zeros(len(x))

    x = Key.of(0).uniform((40, 7))
    whole = Expectation(9)(evaluate, x, Key.of(1)).grad
    for rows in range(1, 40):
        assert torch.equal(Expectation(9)(evaluate, x[:rows], Key.of(1)).grad, whole[:rows])


def test_an_answer_without_a_gradient_is_counted_as_one_that_vanished():
    def constant(images, key=None):
        return torch.eye(3)[Y[: len(images)]]

    result = PGD(steps=3)(Linf(0.1))(constant, X, Y, Key.of(0))
    assert not result.success.any()
    assert result.zero_gradients.tolist() == [1.0] * 9


@pytest.mark.parametrize("recipe", [FGSM(), BIM(steps=3), PGD(steps=3)], ids=repr)
def test_gradients_come_from_the_substitute(recipe):
    w, x, y = Key.of(5).normal((1, 6, 6)), 0.3 + 0.4 * X, torch.zeros(9, dtype=torch.int64)
    model, mirror = Linear(w, 12.0), Linear(-w, 12.0)
    straight, astray = (recipe(Linf(0.1))(model, x, y, Key.of(1), through=t) for t in (None, mirror))
    fall = [((x - r.x_adv) * w).flatten(1).sum(1) for r in (straight, astray)]
    assert (fall[0] > 0).all()
    assert (fall[1] < 0).all()


@pytest.mark.parametrize(
    "recipe",
    [
        PGD(steps=3, restarts=3),
        EOTPGD(steps=2, draws=3),
        NoiseSearch(draws=4),
        SquareSearch(queries=5),
        SPSA(steps=2, samples=2),
        WorstOf(attacks=(PGD(steps=2), NES(steps=2, samples=2))),
    ],
    ids=repr,
)
def test_every_forward_pass_of_a_stochastic_model_has_a_random_draw_of_its_own(recipe):
    """The verdict has its own draw too: otherwise an attack could select a lucky draw and be judged by it."""
    keys = []

    class Watched:
        stochastic = True

        def __call__(self, images, key=None):
            keys.append(key)
            return images.flatten(1)[:, :3]

    recipe(Linf(0.1))(Watched(), X, Y, Key.of(3).for_rows(range(9)))
    assert len({key.path for key in keys}) == len(keys) > 4


def test_restarts_start_elsewhere():
    starts = []

    class Watched:
        stochastic = True

        def __call__(self, images, key=None):
            starts.append(images.detach().clone())
            return images.flatten(1)[:, :3]

    GradientAttack(Linf(0.1), 0, 0.0, restarts=3)(Watched(), X, Y, Key.of(0))
    assert len({tuple(images.flatten().tolist()) for images in starts[:-1]}) == 3  # but for the verdict


def test_the_best_example_is_fooled_first_then_worst_and_broken_answers_are_the_worst():
    x, row = torch.zeros(1, 2), torch.tensor([0])
    best = Best(x)
    offers = [(0.0, 9.0, True), (0.0, 8.0, False), (1.0, -3.0, True), (0.5, 99.0, False), (1.0, -3.0, True)]
    offers += [(1.0, float("nan"), True), (1.0, 1e9, False), (0.0, float("nan"), False)]
    for number, (fooled, value, kept) in enumerate(offers):
        taken = best.offer(row, x + number, torch.tensor([fooled]), torch.tensor([value]))
        assert taken.item() == kept, number
        assert (best.x == number).all().item() == kept, number


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_an_infinite_slope_at_one_pixel_spoils_no_other(threat):
    def rooted(images, key=None):
        root = images.flatten(1).sqrt()
        return torch.stack([root.sum(1) + 5, root[:, 0], root[:, 1]], 1)

    x = X.clone()
    x[:, 0, 0, 0] = 0.0
    attack = BIM(steps=3, objective=Margin())(threat)
    result = attack(rooted, x, torch.zeros(9, dtype=torch.int64), Key.of(0))
    assert threat.contains(result.x_adv, x).all()
    assert (result.losses[-1] > result.losses[0]).all()


def test_verdicts_come_from_the_model_and_not_from_the_substitute():
    model = MODELS["conv"]

    class Liar:
        stochastic = False

        def __call__(self, images, key=None):
            return model(1 - images)

    attack = PGD(steps=3)(Linf(0.2))
    result = attack(model, X, Y, Key.of(1), through=Liar())
    assert torch.equal(result.success, decide(model(result.x_adv)) != Y)


def test_an_example_once_fooled_is_left_alone_and_a_stochastic_model_never_is():
    attack = GradientAttack(Linf(0.3), 8, 0.1)
    answers = decide(MODELS["conv"](X))
    deterministic = attack(MODELS["conv"], X, answers, Key.of(0))
    assert deterministic.losses.isnan().any()
    assert (deterministic.queries < 8 + 2).any()
    assert not attack(MODELS["bernoulli"], X, Y, Key.of(0)).losses.isnan().any()


def test_queries_are_counted():
    eot = EOTPGD(steps=4, draws=3)(Linf(0.1))(MODELS["bernoulli"], X, Y, Key.of(0))
    assert eot.queries.tolist() == [4 * 3 + 1 + 2 * SETTLING + 1] * 9
    assert eot.backward_queries.tolist() == [4 * 3] * 9
    square = SquareSearch(queries=7)(Linf(0.1))(MODELS["bernoulli"], X, Y, Key.of(0))
    assert square.queries.tolist() == [8] * 9
    assert square.backward_queries.tolist() == [0] * 9


def test_vanished_gradients_are_counted():
    model = ModelSpec(
        Latency(5, StraightThrough()), MLP((10,)), LIF(threshold=1e6), Triangle(0.1), Count(), (1, 6, 6), 3
    )
    result = PGD(steps=3)(Linf(0.1))(model.build(Key.of(0)).eval(), X[:, :, :6], Y, Key.of(0))
    silent = GradientAttack(Linf(0.1), 3, 0.1, stop_when_fooled=False)(
        model.build(Key.of(0)).eval(), X, Y, Key.of(0)
    )
    assert result.success.all()  # silence is no answer
    assert silent.zero_gradients.tolist() == [1.0] * 9


@pytest.mark.parametrize("steps", [0, 1])
def test_an_attack_of_so_few_steps_returns_one_loss_more_than_steps_and_stays_within_budget(steps):
    attack = GradientAttack(Linf(0.1), steps, 0.1, random_start=False, stop_when_fooled=False)
    result = attack(MODELS["conv"], X, Y, Key.of(0))
    assert result.losses.shape == (steps + 1, 9)
    assert Linf(0.1).contains(result.x_adv, X).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
@pytest.mark.parametrize(
    "answer",
    [
        lambda x: x.flatten(1)[:, :3] * torch.nan,
        lambda x: x.flatten(1)[:, :3] * 0,
        lambda x: torch.ones(len(x), 3),
    ],
    ids=["nan", "constant", "cut off from its input"],
)
def test_a_model_that_answers_nothing_is_wrong_and_breaks_nothing(recipe, answer):
    class Broken:
        stochastic = False

        def __call__(self, images, key=None):
            return answer(images)

    result = recipe(Linf(0.1))(Broken(), X, Y, Key.of(0))
    assert result.success.all()
    assert Linf(0.1).contains(result.x_adv, X).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_attacks_keep_double_precision_and_accept_one_example_or_an_empty_batch(recipe):
    for rows in (slice(0, 1), slice(0, 0)):
        x = X[rows].double()
        result = recipe(Linf(0.1))(MODELS["conv"], x, Y[rows], Key.of(0))
        assert result.x_adv.dtype == torch.float64
        assert len(result.success) == len(x)


@pytest.mark.parametrize(
    "labels", [torch.full((9,), 3), torch.full((9,), -1), torch.zeros(8, dtype=torch.int64), torch.zeros(9)]
)
@pytest.mark.parametrize("recipe", [PGD(steps=2), SquareSearch(queries=2)], ids=repr)
def test_labels_beyond_the_classes_or_of_another_length_or_type_are_refused(recipe, labels):
    with pytest.raises(InputError, match=r"[Ll]abel"):
        recipe(Linf(0.1))(MODELS["conv"], X, labels, Key.of(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientAttack(Linf(0.1), -1, 0.1),
        lambda: GradientAttack(Linf(0.1), 1, float("nan")),
        lambda: PGD(restarts=0)(Linf(0.1)),
        lambda: Expectation(0),
        lambda: NoiseSearch(draws=0)(Linf(0.1)),
        lambda: SquareSearch(queries=0)(Linf(0.1)),
        lambda: SquareSearch(p_init=1.5)(Linf(0.1)),
        lambda: Square(None),
    ],
)
def test_steps_draws_and_queries_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_objectives_are_maximised():
    """One small step along the gradient raises each objective on a smooth model."""
    w = Key.of(5).normal((36, 3))

    class Smooth:
        stochastic = False

        def __call__(self, images, key=None):
            return images.flatten(1) @ w + 5 * torch.nn.functional.one_hot(Y, 3)

    x = 0.3 + 0.4 * X
    for objective in (LogitCrossEntropy(), Margin(), DLR()):
        attack = GradientAttack(L2(0.01), 1, 0.01, objective=objective, random_start=False)
        losses = attack(Smooth(), x, Y, Key.of(0)).losses
        assert (losses[1] > losses[0]).all()


ORACLES = [Exact(), Expectation(1), Expectation(3)]


@pytest.mark.parametrize("oracle", ORACLES, ids=repr)
def test_a_gradient_of_an_oracle_is_that_of_autograd_and_counts_its_passes(oracle):
    passes = []

    def evaluate(x, key):
        passes.append(key)
        return (x**3).flatten(1).sum(1), torch.zeros(len(x))

    found = oracle(evaluate, X, Key.of(0))
    assert torch.allclose(found.grad, 3 * X**2, rtol=1e-6)
    assert torch.allclose(found.value, (X**3).flatten(1).sum(1))
    assert oracle.passes(X) == (len(passes), len(passes))


def test_a_transfer_attack_is_judged_by_its_target():
    """The source model is fooled at once; an attack that stopped there would not fool the target model."""
    w, x, y = torch.ones(1, 6, 6), 0.3 + 0.4 * X[:1], torch.zeros(1, dtype=torch.int64)
    level = x.sum().item()
    source, target = Linear(w, -level - 0.01), Linear(w, 1.5 - level)
    result = BIM(steps=10)(Linf(0.1))(target, x, y, Key.of(0), through=source)
    assert result.success.all()
    assert (result.queries > result.backward_queries + 1).all()


def test_a_twin_needs_no_second_opinion_and_changes_nothing():
    model, key = MODELS["conv"], Key.of(3)
    twin = substitute(model)
    plain, seen = (PGD(steps=4)(Linf(0.1))(model, X, Y, key, through=t) for t in (None, twin))
    for one, other in zip(plain, seen, strict=True):
        assert other is None if one is None else torch.equal(one.nan_to_num(7), other.nan_to_num(7))


@pytest.mark.parametrize("recipe", RECIPES, ids=repr)
def test_training_mode_and_half_precision_are_refused(recipe):
    training = copy.deepcopy(MODELS["conv"]).train()
    with pytest.raises(InputError, match="evaluation mode"):
        recipe(Linf(0.1))(training, X, Y, Key.of(0))
    with pytest.raises(InputError, match="precision"):
        recipe(Linf(0.1))(MODELS["conv"], X.half(), Y, Key.of(0))


def test_a_model_of_the_same_weights_that_answers_otherwise_is_another_model():
    model = MODELS["conv"]
    other = copy.deepcopy(model, {id(t): t for t in model.parameters()})
    other.encoder = Direct(1)
    assert {id(p) for p in other.parameters()} == {id(p) for p in model.parameters()}
    result = BIM(steps=2)(Linf(0.1))(model, X, Y, Key.of(0), through=other)
    assert torch.equal(result.success, decide(model(result.x_adv)) != Y)
    assert (result.queries > result.backward_queries + 1).all()


TARGETS = (LeastLikely(), EveryOther(1), Given((4, 4, 4, 0, 1)))


@pytest.mark.parametrize("objective", [LogitCrossEntropy(), Margin(), DLR(), Rescaled(Margin())], ids=repr)
def test_a_step_towards_a_class_raises_its_lead(objective):
    w, x = Key.of(5).normal((36, 5)), 0.3 + 0.4 * X

    class Smooth:
        stochastic = False

        def __call__(self, images, key=None):
            return images.flatten(1) @ w + 20 * torch.nn.functional.one_hot(Y, 5)

    for targets in TARGETS:
        aimed = targets(Smooth()(x), Y, 0)
        assert (aimed != Y).all()
        attack = GradientAttack(
            L2(0.05),
            1,
            0.05,
            objective=objective,
            random_start=False,
            targets=targets,
            stop_when_fooled=False,
        )
        result = attack(Smooth(), x, Y, Key.of(0))
        lead = [Margin().towards(Smooth()(images), Y, aimed) for images in (x, result.x_adv)]
        assert (lead[1] > lead[0]).all(), targets
        assert result.queries.tolist() == [4] * 9  # one for the answers that the targets come from


def test_all_others_are_aimed_at_in_turn_the_most_likely_first():
    logits, y = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, 4.0, 1.0, torch.nan]]), torch.tensor([0, 1])
    turns = torch.stack([EveryOther()(logits, y, turn) for turn in range(EveryOther().turns(4))])
    assert turns.T.tolist() == [[1, 3, 2], [0, 2, 3]]
    assert EveryOther(2).turns(4) == 2
    assert LeastLikely()(logits, y, 0).tolist() == [2, 2]  # a class without a number is never the answer


def test_targeted_ratio_by_hand_and_divergence_by_numpy():
    z, y, t = torch.tensor([[4.0, 1.0, 3.0, 0.0, 2.0]]), torch.tensor([0]), torch.tensor([3])
    assert DLR().towards(z, y, t).item() == pytest.approx(-4 / (4 - (2 + 1) / 2))
    a, b = Key.of(1).normal((6, 4)).double(), Key.of(2).normal((6, 4)).double()
    p, q = (np.exp(v.numpy()) / np.exp(v.numpy()).sum(1, keepdims=True) for v in (b, a))
    assert np.allclose(KL().against(a, b).numpy(), (p * np.log(p / q)).sum(1))


def test_rescaled_objectives_do_not_see_the_scale_and_do_not_saturate():
    z = Key.of(1).normal((6, 4))
    for scale in (1e-3, 7.0, 1e4):
        assert torch.allclose(Rescaled()(scale * z, Y[:6]), Rescaled()(z, Y[:6]), rtol=1e-4)
    big = (1e4 * torch.eye(3)).requires_grad_()
    label = torch.arange(3)
    plain, scaled = (
        torch.autograd.grad(objective(big, label).sum(), big)[0]
        for objective in (LogitCrossEntropy(), Rescaled())
    )
    assert (plain.abs() < 1e-9).all()
    assert (scaled.abs() > 1e-6).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: KL()(torch.zeros(1, 3), torch.tensor([0])),
        lambda: DLR().towards(torch.zeros(1, 3), torch.tensor([0]), torch.tensor([1])),
        lambda: Rescaled(spread=0.0),
        lambda: Rescaled(KL()),
        lambda: Given((0, 1)),
        lambda: Given((1, 0))(torch.zeros(1, 3), torch.tensor([0]), 0),
        lambda: EveryOther(0),
        lambda: BIM(objective=KL())(Linf(0.1)),
        lambda: TargetedPGD(objective=KL())(Linf(0.1)),
        lambda: RFGSM(jump=1.0),
        lambda: GaussianNoiseSearch(sigma=0.0)(Linf(0.1)),
    ],
)
def test_objectives_and_targets_that_do_not_fit_their_attack_or_classes_are_refused(make):
    with pytest.raises(InputError):
        make()


@pytest.mark.parametrize("threat", [L1(3.0), L0(4), SquarePatch(2)], ids=repr)
def test_noise_of_every_kind_keeps_every_budget(threat):
    for recipe in (NoiseSearch(draws=3), GaussianNoiseSearch(draws=3), SaltAndPepperSearch(draws=3)):
        result = recipe(threat)(MODELS["conv"], X, decide(MODELS["conv"](X)).clamp(min=0), Key.of(0))
        assert threat.contains(result.x_adv, X).all()
        assert (result.x_adv != X).any()

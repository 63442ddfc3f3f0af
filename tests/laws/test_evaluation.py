"""Laws of evaluation: budgets and verdicts are kept, and no number depends on the batches."""

import numpy as np
import pytest
import torch

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.plain import EOTPGD, FGSM, PGD
from spikeproof.attacks.nearest.linearised import FAB, DeepFool
from spikeproof.attacks.search import SETTLING, GradientAttack, Result
from spikeproof.auditing.assess import _worst
from spikeproof.datasets import Digits
from spikeproof.decoders import Count, FirstSpike, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, Latency, StraightThrough
from spikeproof.errors import InputError
from spikeproof.evaluation import verdicts
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.verdicts import Attacked, distances, evaluate_attack, evaluate_clean
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import L2, Linf

KEY = Key.of(3)


@pytest.fixture(scope="module")
def digits():
    return Digits().load()


MEMBERS = [
    (Latency(6), MLP((40,)), Count()),
    (Bernoulli(6), MLP((40,)), Count()),
    (Direct(5), ConvNet((8, 12)), MeanPotential()),
]


@pytest.fixture(scope="module", params=MEMBERS, ids=repr)
def model(request, digits):
    code, network, decoder = request.param
    spec = ModelSpec(code, network, LIF(), ATan(), decoder, (1, 8, 8), 10)
    classifier = spec.build(Key.of(0))
    BPTT(epochs=4, lr=0.01).train(classifier, digits, Key.of(0))
    return classifier


def both(model, data, recipe, threat, n=40, **settings):
    x, y, ids = data.test.images[:n], data.test.labels[:n], data.test.ids[:n]
    clean = evaluate_clean(model, x, y, KEY, ids=ids, draws=3, **settings)
    return clean, evaluate_attack(model, recipe(threat), threat, x, y, clean, KEY, draws=3, **settings)


def outcomes(result):
    columns = ("right", "right_selection", "prediction", "tie", "silent")
    return {name: getattr(result, name).tolist() for name in columns}


@pytest.mark.parametrize("classes", [3, 10])
@pytest.mark.parametrize("network", [MLP((40,)), ConvNet((8, 12))], ids=repr)
@pytest.mark.parametrize("code", [Direct(8), Latency(8, StraightThrough())], ids=repr)
def test_logits_and_gradients_of_an_example_are_identical_bits_in_batches_of_every_size(
    code, network, classes
):
    """The decoder reads potentials, because integer spike counts would hide a difference in rounding."""
    spec = ModelSpec(code, network, LIF(), ATan(), MeanPotential(), (1, 8, 8), classes)
    model, images = Steady(spec.build(KEY).eval()), KEY.uniform((70, 1, 8, 8))

    def measured(rows):
        x = images[rows].requires_grad_()
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits.exp().sum(), x)[0]

    whole = measured(torch.arange(70))
    for size in (1, 2, 7, 9, 13, 33, 64, 69):
        rows = torch.randperm(70, generator=KEY.fold(size).generator())[:size]
        for part, all_of_it in zip(measured(rows), whole, strict=True):
            assert torch.equal(part, all_of_it[rows]), size


@pytest.mark.parametrize(
    ("recipe", "threat"),
    [
        (PGD(steps=6), Linf(0.1)),
        (PGD(steps=4), L2(0.8)),
        (EOTPGD(steps=2, draws=3), Linf(0.1)),
        (SquareSearch(queries=15), Linf(0.1)),
        (NoiseSearch(draws=3), L2(0.8)),
        (EncoderAwareSearch(steps=3, refine=5), Linf(0.1)),
        (DeepFool(steps=3, candidates=3), L2(0.8)),
        (FAB(steps=2), Linf(0.1)),
    ],
    ids=lambda part: type(part).__name__,
)
def test_no_number_depends_on_the_batch_size(model, digits, recipe, threat, monkeypatch):
    if not recipe.suits(model) and isinstance(recipe, EncoderAwareSearch):
        return
    monkeypatch.setattr(verdicts, "CHOOSING", 6)  # draws are drawn alike however many they are
    runs = [both(model, digits, recipe, threat, n=4, batch_size=size) for size in (1, 3, 64)]
    assert (runs[0][1].queries > 0).sum() >= 3  # enough of them are attacked
    for clean, attacked in runs[1:]:
        assert outcomes(clean) == outcomes(runs[0][0])
        assert outcomes(attacked) == outcomes(runs[0][1])
        assert torch.equal(attacked.x_adv, runs[0][1].x_adv)
        for name in ("queries", "backward_queries", "zero_gradients", "fell", "distance", "right_rounded"):
            one, other = getattr(attacked, name), getattr(runs[0][1], name)
            assert torch.equal(one.nan_to_num(7), other.nan_to_num(7)), name


def test_the_order_of_the_examples_does_not_matter(model, digits):
    x, y, ids = digits.test.images[:20], digits.test.labels[:20], digits.test.ids[:20]
    order = torch.randperm(20, generator=KEY.generator())
    results = []
    for rows in (torch.arange(20), order):
        clean = evaluate_clean(model, x[rows], y[rows], KEY, ids=ids[rows], draws=2)
        attack = PGD(steps=4)(Linf(0.1))
        results.append(evaluate_attack(model, attack, Linf(0.1), x[rows], y[rows], clean, KEY, draws=2))
    assert torch.equal(results[0].x_adv[order], results[1].x_adv)
    assert torch.equal(results[0].right[order], results[1].right)


@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.8)], ids=repr)
def test_robust_is_at_most_clean_and_everything_is_within_budget(model, digits, threat):
    clean, attacked = both(model, digits, PGD(steps=5), threat)
    metrics = attacked.metrics()
    assert metrics["budget_violations"] == 0
    assert metrics["max_distance"] <= threat.epsilon + 1e-6
    if not model.stochastic:
        assert (attacked.right <= clean.right).all()
    assert metrics["ci_low"] <= metrics["robust_accuracy"] <= metrics["ci_high"]
    assert metrics["robust_accuracy"] < clean.metrics()["clean_accuracy"]


def test_an_unbounded_attack_leaves_nothing(model, digits):
    _, attacked = both(model, digits, PGD(steps=10), Linf(1.0))
    assert attacked.metrics()["robust_accuracy"] <= 0.05


def test_what_the_model_gets_wrong_is_not_attacked(digits):
    class Never:
        stochastic = False

        def __call__(self, images, key=None):
            return torch.zeros(len(images), 10)

    clean, attacked = both(Never(), digits, PGD(steps=3), Linf(0.1))
    assert clean.metrics()["clean_accuracy"] == attacked.metrics()["robust_accuracy"] == 0
    assert clean.metrics()["tie_share"] == 1
    assert attacked.metrics()["attacked"] == 0


def test_an_attack_that_leaves_its_budget_gains_nothing(digits):
    spec = ModelSpec(Direct(4), MLP((40,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
    model = spec.build(Key.of(0)).eval()

    def cheat(target, x, y, key, *, through=None):
        none = torch.zeros(len(x), dtype=torch.int64)
        return Result(
            1 - x, torch.ones(len(x), dtype=torch.bool), x.new_zeros(0, len(x)), none + 1, none, none.float()
        )

    x = digits.test.images[:30]
    y = model(x).argmax(-1)  # labels that the model mostly answers
    clean = evaluate_clean(model, x, y, KEY)
    attacked = evaluate_attack(model, cheat, Linf(0.1), x, y, clean, KEY)
    standing = clean.right > 0
    assert attacked.metrics()["budget_violations"] == int(standing.sum()) > 0
    assert torch.equal(attacked.right, clean.right)


def test_a_claimed_success_is_not_believed(digits):
    model = ModelSpec(Direct(4), MLP((40,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0)).eval()

    def boast(target, x, y, key, *, through=None):
        none = torch.zeros(len(x), dtype=torch.int64)
        return Result(
            x, torch.ones(len(x), dtype=torch.bool), x.new_zeros(0, len(x)), none + 1, none, none.float()
        )

    x = digits.test.images[:30]
    y = model(x).argmax(-1)
    clean = evaluate_clean(model, x, y, KEY)
    attacked = evaluate_attack(model, boast, Linf(0.1), x, y, clean, KEY)
    assert torch.equal(attacked.right, clean.right)
    assert attacked.metrics()["moved_share"] == 0


def test_ties_and_silence_are_errors_and_are_shown(digits):
    spec = ModelSpec(Latency(4), MLP((10,)), LIF(threshold=1e6), ATan(), FirstSpike(), (1, 8, 8), 10)
    clean, attacked = both(spec.build(Key.of(0)).eval(), digits, FGSM(), Linf(0.1))
    metrics = clean.metrics()
    assert (metrics["clean_accuracy"], metrics["tie_share"], metrics["silent_share"]) == (0, 1, 1)
    assert (clean.prediction == -1).all()
    assert isinstance(attacked, Attacked)


def test_a_stochastic_model_is_measured_on_draws_the_choice_has_not_seen(digits):
    """The model is right on every second draw; selecting and measuring on the same draws would give 0.25."""

    class Coin:
        stochastic = True

        def __call__(self, images, key=None):
            heads = key.fold("coin").uniform((len(images),)) < 0.5
            label = torch.where(heads, 0, 1)
            return torch.nn.functional.one_hot(label, 10).float()

    x = torch.rand(2000, 1, 2, 2, generator=KEY.generator())
    y = torch.zeros(2000, dtype=torch.int64)
    clean = evaluate_clean(Coin(), x, y, KEY, draws=1)
    attacked = evaluate_attack(Coin(), NoiseSearch(draws=1)(Linf(0.1)), Linf(0.1), x, y, clean, KEY, draws=1)
    alive = clean.right > 0
    assert clean.metrics()["clean_accuracy"] == pytest.approx(0.5, abs=0.05)
    chosen = alive & (attacked.right_selection < 0.4)
    assert chosen.sum() > 50
    assert attacked.right[chosen].mean() > 0.4


def test_luck_on_few_draws_does_not_pass_a_weak_attack_off_as_a_strong_one():
    """Ten attacks that halve the accuracy do not hide one that leaves a tenth of it."""

    class Coin:
        stochastic = True

        def __call__(self, images, key=None):
            right = key.fold("coin").uniform((len(images),)) < images.flatten(1).mean(1)
            return torch.nn.functional.one_hot(torch.where(right, 0, 1), 10).float()

    def paints(level):
        def attack(model, x, y, key, *, through=None):
            none = torch.zeros(len(x), dtype=torch.int64)
            trace = x.new_zeros(0, len(x)), none + 1, none, none.float()
            return Result(torch.full_like(x, level), none.bool(), *trace)

        return attack

    x, y = torch.ones(300, 1, 2, 2), torch.zeros(300, dtype=torch.int64)
    clean = evaluate_clean(Coin(), x, y, KEY, draws=4)
    found = [
        evaluate_attack(Coin(), paints(level), Linf(1.0), x, y, clean, KEY.fold(i), draws=4)
        for i, level in enumerate([*[0.5] * 10, 0.1])
    ]
    alone = min(each.metrics()["robust_accuracy"] for each in found)
    assert float(_worst(clean, found).mean()) <= alone + 0.02


def test_an_attacker_who_made_it_worse_leaves_the_image_alone():
    """Classifies dark images correctly on half of its draws, and bright images always."""

    class Coin:
        stochastic = True

        def __call__(self, images, key=None):
            right = (key.uniform((len(images),)) < 0.5) | (images.flatten(1).mean(1) > 0.5)
            return torch.nn.functional.one_hot(torch.where(right, 0, 1), 10).float()

    def brighten(model, x, y, key, *, through=None):
        none = torch.zeros(len(x), dtype=torch.int64)
        return Result(
            x + 0.1, torch.zeros(len(x)).bool(), x.new_zeros(0, len(x)), none + 1, none, none.float()
        )

    x, y = torch.full((50, 1, 2, 2), 0.45), torch.zeros(50, dtype=torch.int64)
    clean = evaluate_clean(Coin(), x, y, KEY, draws=20)
    attacked = evaluate_attack(Coin(), brighten, Linf(0.1), x, y, clean, KEY, draws=20)
    assert torch.equal(attacked.right, clean.right)
    assert torch.equal(attacked.right_selection, clean.right_selection)
    assert not torch.equal(clean.right, clean.right_selection)  # chosen on other draws than measured on


def test_no_draw_of_a_stochastic_model_serves_two_purposes():
    """Clean accuracy, selection, attack, verdict, measurement and rounded images use different keys."""
    keys = []

    class Watched:
        stochastic = True

        def __call__(self, images, key=None):
            keys.append(key)
            return torch.eye(3)[torch.zeros(len(images), dtype=torch.int64)] + 0 * images.sum()

    x, y = torch.full((5, 1, 2, 2), 0.45), torch.zeros(5, dtype=torch.int64)
    clean = evaluate_clean(Watched(), x, y, KEY, draws=3)
    evaluate_attack(Watched(), PGD(steps=2)(Linf(0.1)), Linf(0.1), x, y, clean, KEY, draws=3)
    keys = [key for key in keys if "repeat" not in key.path]  # the same on purpose: are answers equal?
    assert len({key.path for key in keys}) == len(keys) == 3 + 32 + (2 + 1 + 2 * SETTLING + 1) + 3 + 32 + 3


def test_losses_of_examples_left_alone_are_held_and_of_those_never_attacked_not_counted(model, digits):
    _, attacked = both(model, digits, PGD(steps=3), Linf(0.1), n=30, batch_size=7)
    standing = attacked.queries > 0
    assert attacked.losses[:, standing].isfinite().all()
    assert attacked.losses[:, ~standing].isnan().all()
    assert attacked.metrics()["losses"] == pytest.approx(attacked.losses[:, standing].mean(1).tolist())


@pytest.mark.parametrize(
    "settings", [{"batch_size": 0}, {"draws": 0}, {"ids": torch.arange(3)}, {"x": torch.zeros(0, 1, 8, 8)}]
)
def test_batch_size_draws_ids_and_images_that_do_not_fit_are_refused(settings, digits):
    model = ModelSpec(Direct(2), MLP((4,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0)).eval()
    x = settings.pop("x", digits.test.images[:4])
    with pytest.raises(InputError):
        evaluate_clean(model, x, digits.test.labels[: len(x)], KEY, **settings)


def test_a_model_in_training_mode_is_refused(digits):
    model = ModelSpec(Direct(2), MLP((4,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0)).train()
    with pytest.raises(InputError, match="eval"):
        evaluate_clean(model, digits.test.images[:4], digits.test.labels[:4], KEY)


def test_the_step_of_the_fall_is_that_of_the_trace_and_silent_success_is_seen():
    class Threshold:
        stochastic = False

        def __call__(self, images, key=None):
            mean = images.flatten(1).mean(1)
            return torch.stack([0.55 - mean, mean - 0.55], 1)

    x, y = torch.tensor([0.5, 0.3, 0.2]).view(3, 1, 1, 1).expand(3, 1, 2, 2).clone(), torch.zeros(3).long()
    clean = evaluate_clean(Threshold(), x, y, KEY)
    attack = GradientAttack(Linf(0.26), 26, 0.01, objective=Margin(), random_start=False)
    honest = evaluate_attack(Threshold(), attack, Linf(0.26), x, y, clean, KEY)
    assert honest.fell.tolist() in ([5, 25, -1], [6, 26, -1])
    assert honest.metrics()["silent_success_share"] == 0

    def forgetful(*args, **kwargs):
        return attack(*args, **kwargs)._replace(x_adv=args[1].clone())

    assert evaluate_attack(Threshold(), forgetful, Linf(0.26), x, y, clean, KEY).metrics()[
        "silent_success_share"
    ] == pytest.approx(2 / 3)


@pytest.mark.parametrize(("change", "survives"), [(0.4 / 255, False), (1.0 / 255, True)])
def test_an_effect_between_the_grid_points_is_lost_at_eight_bits(change, survives):
    class Cliff:
        stochastic = False

        def __call__(self, images, key=None):
            mean = images.flatten(1).mean(1)
            return torch.stack([127.3 / 255 - mean, mean - 127.3 / 255], 1)

    x, y = torch.full((4, 1, 2, 2), 127 / 255), torch.zeros(4).long()
    cliff = Cliff()
    clean = evaluate_clean(cliff, x, y, KEY)

    def up(model, x, y, key, through=None):
        return GradientAttack(Linf(1.0), 0, 0.0)(model, x, y, key)._replace(x_adv=x + change)

    attacked = evaluate_attack(cliff, up, Linf(1.0), x, y, clean, KEY)
    assert attacked.metrics()["robust_accuracy"] == 0
    assert attacked.metrics()["eight_bit_accuracy"] == (0 if survives else 1)


def test_distances_are_those_of_numpy():
    a, b = KEY.uniform((5, 3, 4, 4)), KEY.fold("b").uniform((5, 3, 4, 4))
    b[:, :, :2] = a[:, :, :2]
    d = (a.double() - b.double()).numpy().reshape(5, -1)
    seen = distances(a, b)
    for name, want in {
        "linf": np.abs(d).max(1),
        "l2": np.sqrt((d**2).sum(1)),
        "l1": np.abs(d).sum(1),
        "l0": np.full(5, 8.0),
    }.items():
        assert np.allclose(seen[name].numpy(), want, rtol=1e-5), name

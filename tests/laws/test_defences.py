"""Laws of defences: what each equals without its strength, what it does to images, losses and weights."""

import json
from dataclasses import dataclass, replace
from statistics import NormalDist

import pytest
import torch
import torch.nn.functional as F

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.events.spikesearch import SpikeSearch
from spikeproof.attacks.gradient.plain import BIM, FGSM, PGD, Through
from spikeproof.attacks.gradient.universal import Universal
from spikeproof.attacks.made_of.composite import WorstOf
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.physical.onepatch import UniversalPatch
from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import Dataset, Split
from spikeproof.decoders import Count, MeanPotential
from spikeproof.defences import robust_conversion
from spikeproof.defences.adversarial import TRADES, Adversarial, FastAdversarial, OverfittingWatch
from spikeproof.defences.intervals import IBPTraining
from spikeproof.defences.noisy import NoiseTraining, SmoothAdversarial, _Vote
from spikeproof.defences.periods import HIRE
from spikeproof.defences.potentials_apart import (
    StableSNN,
    ThresholdGuarding,
    _currents,
    filtered,
    near_threshold,
)
from spikeproof.defences.retraction import SNNRAT, Retraction, retract, retracted
from spikeproof.defences.robust_conversion import RobustConversion, lower_thresholds, renormalise
from spikeproof.defences.sparse_gradients import SparseGradients
from spikeproof.encoders import Direct, Events
from spikeproof.errors import InputError
from spikeproof.evaluation.certificates import IBP
from spikeproof.evaluation.suites import Suite
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.gradients import BPTR
from spikeproof.keys import Key
from spikeproof.learning import backprop
from spikeproof.learning.backprop import BPTT
from spikeproof.learning.checkpoints import AsSaved
from spikeproof.learning.from_ann.balancing import SpikeNorm
from spikeproof.learning.from_ann.learned_bounds import QCFS
from spikeproof.learning.online import FPTT
from spikeproof.learning.rule import Lesson, Rule
from spikeproof.losses import KL
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import DLIF, IF, LIF, SNU, PrimedIF, ReLU, Spiking, potentials
from spikeproof.specs import build
from spikeproof.surrogates import ATan
from spikeproof.threats import Flips, LaserBeam, Linf, Sticker, WindowFlips

BASE = BPTT(epochs=2, batch_size=8)
SPEC = ModelSpec(Direct(3), MLP((6,)), LIF(), ATan(), MeanPotential(), (1, 4, 4), 2)


def part(count, seed):
    images = Key.of(seed).uniform((count, 1, 4, 4))
    labels = (images[:, :, :2].mean((1, 2, 3)) > images[:, :, 2:].mean((1, 2, 3))).long()
    return Split(images, labels, torch.arange(count))


DATA = Dataset("halves", part(25, 1), part(12, 2), part(12, 3), ("up", "down"), "d", "made here")


def trained(rule, spec=SPEC, **options):
    model = spec.build(Key.of(0))
    return model, rule.train(model, DATA, Key.of(1), **options)


def same(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


def of_events():
    return ModelSpec(Events(3), MLP((4,)), LIF(), ATan(), Count(), (2, 4, 4), 2).build(Key.of(0))


def lesson_of(model, x, y, key=Key.of(5)):
    return Lesson(model, x, y, key, 0.0, model, model.outputs)


WITHOUT = [  # without its strength, each of these is the learning rule inside
    Adversarial(BASE, Linf(0.0)),
    Adversarial(BASE, Linf(0.0), attack=Through(gradient=BPTR(), attack=FGSM())),
    FastAdversarial(BASE, Linf(0.0), watch=None),
    TRADES(BASE, Linf(0.1), beta=0.0),
    NoiseTraining(BASE, sigma=0.0),
    Retraction(BASE, beta=0.0),
    SNNRAT(BASE, Linf(0.0), beta=0.0),
    SparseGradients(BASE, weight=0.0),
    HIRE(epochs=2, batch_size=8, parts=1),
    StableSNN(BASE, kappa=1.0, alpha=0.0),
    ThresholdGuarding(BASE, weight=0.0, sigma=0.0),
    IBPTraining(BASE, kappa=1.0),
    SmoothAdversarial(BASE, Linf(0.0), sigma=0.0),
]
WITH = [  # and with it, another one
    Adversarial(BASE, Linf(0.1)),
    Adversarial(BASE, Linf(0.1), attack=Through(gradient=BPTR(), attack=FGSM())),
    FastAdversarial(BASE, Linf(0.1), watch=None),
    TRADES(BASE, Linf(0.1), beta=1.0),
    NoiseTraining(BASE, sigma=0.1),
    Retraction(BASE, beta=0.01),
    SNNRAT(BASE, Linf(0.0), beta=0.01),
    SparseGradients(BASE, weight=0.1),
    HIRE(epochs=2, batch_size=8),
    StableSNN(BASE, alpha=0.0),
    StableSNN(BASE, kappa=1.0),
    StableSNN(BASE, kappa=1.0, attack=FGSM()),
    ThresholdGuarding(BASE, sigma=0.0),
    ThresholdGuarding(BASE, weight=0.0),
    IBPTraining(BASE),
    SmoothAdversarial(BASE, Linf(0.1), sigma=0.0),
]


@pytest.mark.parametrize("rule", WITHOUT, ids=repr)
def test_without_its_strength_a_defence_is_the_learning_rule_inside_to_the_bit(rule):
    plain, history = trained(BASE)
    defended, found = trained(rule)
    assert same(plain, defended)
    assert history == found


@pytest.mark.parametrize("rule", WITH, ids=repr)
def test_with_its_strength_a_defence_is_another_training(rule):
    assert not same(trained(BASE)[0], trained(rule)[0])


def test_trades_without_a_budget_is_the_plain_loss_since_nothing_diverges():
    # the divergence of equal answers is zero, and so is its gradient, up to rounding
    plain, defended = (
        trained(BASE)[0],
        trained(TRADES(BASE, Linf(0.0), attack=PGD(steps=1, objective=KL())))[0],
    )
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, defended.state_dict()[name], atol=1e-5)


@pytest.mark.parametrize("rule", [Adversarial(BASE, Linf(0.1)), FastAdversarial(BASE, Linf(0.1))], ids=repr)
def test_the_images_of_a_training_stay_within_the_budget_and_raise_the_loss(rule):
    model = SPEC.build(Key.of(0)).eval()
    x, y = DATA.train.images, DATA.train.labels
    moved = rule.moved(lesson_of(model, x, y), Key.of(3))
    assert bool(rule.threat.contains(moved, x).all())
    assert F.cross_entropy(model(moved), y) > F.cross_entropy(model(x), y)


@pytest.mark.parametrize("attack", [BIM(steps=5), WorstOf(attacks=(BIM(steps=5),))], ids=repr)
def test_an_attack_in_training_goes_on_after_the_model_errs(attack):
    """An attack that stops on the first wrong answer leaves images near the decision, as a test shows."""
    model = SPEC.build(Key.of(0)).eval()
    x, y = DATA.train.images, 1 - model(DATA.train.images).argmax(1)  # every answer is wrong at once
    moved = Adversarial(BASE, Linf(0.1), attack=attack).moved(lesson_of(model, x, y), Key.of(3))
    stopped = attack(Linf(0.1))(model, x, y, Key.of(3)).x_adv
    assert torch.equal(stopped, x)
    assert F.cross_entropy(model(moved), y) > F.cross_entropy(model(x), y) + 0.01


def test_one_step_of_fast_adversarial_training_is_written_out():
    model = SPEC.build(Key.of(0)).eval()
    x, y, key = DATA.train.images, DATA.train.labels, Key.of(3)
    start = Linf(0.1).start(x, key.fold("start")).requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(start), y, reduction="sum"), start)
    wanted = torch.minimum(torch.maximum(start + 0.125 * grad.sign(), x - 0.1), x + 0.1).clamp(0, 1)
    found = FastAdversarial(BASE, Linf(0.1)).moved(lesson_of(model, x, y), key)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_the_loss_of_trades_is_written_out():
    rule, model = TRADES(BASE, Linf(0.1), beta=3.0, temperature=2.0), SPEC.build(Key.of(0))
    x, y = DATA.train.images, DATA.train.labels
    lesson = lesson_of(model, x, y)
    found = rule.loss(lesson, lambda of: F.cross_entropy(of.logits(of.images), of.labels))
    moved = rule.hostile(lesson_of(model.eval(), x, y), lesson.key.fold("trades"))
    p, q = (F.softmax(model(images) / 2, 1) for images in (x, moved))
    apart = (p * (p / q).log()).sum(1).mean()
    assert apart > 1e-4
    assert torch.allclose(found, F.cross_entropy(model(x), y) + 3 * 4 * apart, rtol=1e-4)


def test_the_outer_defence_moves_images_first_and_its_loss_is_made_of_the_inner_one():
    seen = []

    @dataclass(frozen=True)
    class Noted(Adversarial):
        name: str = ""

        def moved(self, lesson, key):
            seen.append((self.name, float(lesson.images.sum())))
            return (lesson.images * 0.5).clamp(0, 1)

        def loss(self, lesson, plain):
            inner = plain(lesson)
            seen.append((self.name, "loss"))
            return inner

    trained(Noted(Noted(replace(BASE, epochs=1, batch_size=25), name="inner"), name="outer"))
    assert [entry[0] for entry in seen] == ["outer", "inner", "inner", "outer"]
    assert seen[1][1] == pytest.approx(seen[0][1] / 2, rel=1e-5)


@dataclass(frozen=True)
class Weak(Adversarial):
    """Trains on clean images, as a training does whose attack finds nothing."""

    def hostile(self, lesson, key):
        return lesson.images


def hardly(stop):
    watch = OverfittingWatch(images=12, steps=5, gap=0.05, stop=stop)
    return Weak(replace(BASE, epochs=4), Linf(0.4), watch=watch)


def test_the_watch_finds_a_model_that_withstands_the_attack_of_its_training_alone():
    _, history = trained(hardly(stop=False))
    assert len(history.epochs) == 4
    seen = history.epochs[-1].watch
    assert seen.overfitted
    assert seen.weak - seen.strong > 0.05
    assert not any(report.discarded for report in history.epochs)
    assert history.validation_accuracy == history.epochs[-1].validation_accuracy


def test_an_overfitted_epoch_ends_the_training_with_the_weights_before_it(tmp_path):
    reports = trained(hardly(stop=False))[1].epochs
    first = next(report.epoch for report in reports if report.watch.overfitted)
    model, history = trained(hardly(stop=True), checkpoint=tmp_path / "c")
    assert [report.discarded for report in history.epochs] == [False] * (first - 1) + [True]
    before = SPEC.build(Key.of(0))
    if first > 1:
        with pytest.raises(ZeroDivisionError):
            hardly(stop=False).train(
                before, DATA, Key.of(1), on_epoch=lambda report: 1 // (first - 1 - report.epoch)
            )
    assert same(model, before)
    again, resumed = trained(hardly(stop=True), checkpoint=tmp_path / "c")
    assert same(again, model)
    assert resumed == history


def test_an_overfitted_epoch_that_was_interrupted_ends_with_the_weights_before_it(tmp_path, monkeypatch):
    model, history = trained(hardly(stop=True))
    monkeypatch.setattr(backprop, "SECONDS_AT_RISK", -1)
    ends = []
    trained(hardly(stop=True), on_batch=lambda done, total: ends.append(done))
    end = ends[-1] - 1
    with pytest.raises(ZeroDivisionError):
        trained(hardly(stop=True), checkpoint=tmp_path / "c", on_batch=lambda done, _: 1 // (end - done))
    again, resumed = trained(hardly(stop=True), checkpoint=tmp_path / "c")
    assert same(again, model)
    assert resumed == history


def test_an_attack_as_strong_as_the_watch_is_not_marked():
    rule = Adversarial(BASE, Linf(0.1), OverfittingWatch(images=12, steps=5), attack=PGD(steps=5))
    for report in trained(rule)[1].epochs:
        assert not report.watch.overfitted
        assert abs(report.watch.weak - report.watch.strong) <= 0.2


def test_every_epoch_says_what_it_cost_the_processor():
    plain = trained(replace(BASE, epochs=1, batch_size=25))[1].epochs[0].processor_seconds
    hard = Adversarial(replace(BASE, epochs=1, batch_size=25), Linf(0.1), attack=PGD(steps=200))
    assert 0 < plain < trained(hard)[1].epochs[0].processor_seconds


def test_a_conversion_trains_its_ann_against_the_attack():
    spec = replace(SPEC, neuron=PrimedIF(), encoder=Direct(4))
    plain, defended = (
        trained(rule, spec)[0] for rule in (QCFS(BASE), Adversarial(QCFS(BASE), Linf(0.1), attack=FGSM()))
    )
    assert not same(plain, defended)


# --- noise, retraction, sparse gradients -----------------------------------------------------------------


def test_noise_has_its_standard_deviation_and_is_drawn_anew():
    images = torch.full((40, 1, 16, 16), 0.5)
    grey = lesson_of(SPEC.build(Key.of(0)), images, torch.zeros(40, dtype=torch.int64))
    rule = NoiseTraining(sigma=0.05)
    first, again, other = (rule.moved(grey, Key.of(seed)) - 0.5 for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.std().item() == pytest.approx(0.05, rel=0.03)
    assert first.mean().item() == pytest.approx(0.0, abs=2e-3)
    edge = rule.moved(grey._replace(images=torch.zeros(4, 1, 8, 8)), Key.of(0))
    assert edge.min() == 0
    assert edge.max() > 0


@pytest.mark.parametrize("shape", [(5, 8), (8, 5), (4, 3, 3, 3)])
def test_retraction_converges_to_orthonormal_rows_or_columns(shape):
    weight = torch.randn(shape, generator=Key.of(0).generator(), dtype=torch.float64)
    weight = weight / torch.linalg.matrix_norm(weight.flatten(1), 2)
    before = torch.linalg.svdvals(weight.flatten(1))
    one = torch.linalg.svdvals(retracted(weight, 0.1).flatten(1))
    assert torch.allclose(one, 1.1 * before - 0.1 * before**3)
    for _ in range(300):
        weight = retracted(weight, 0.1)
    w = weight.flatten(1)
    gram = w @ w.T if len(w) <= w.shape[1] else w.T @ w
    assert torch.allclose(gram, torch.eye(len(gram), dtype=torch.float64), atol=1e-6)


def test_retraction_is_a_step_down_the_distance_from_orthonormal_rows():
    w = torch.randn(4, 6, generator=Key.of(1).generator(), dtype=torch.float64, requires_grad=True)
    distance = (w @ w.T - torch.eye(4, dtype=torch.float64)).square().sum() / 4
    (grad,) = torch.autograd.grad(distance, w)
    assert torch.allclose(retracted(w, 0.02), w - 0.02 * grad)


def test_a_large_fully_connected_layer_is_retracted_in_part():
    spec = replace(SPEC, network=MLP((300, 50)))
    model, before = spec.build(Key.of(0)), spec.build(Key.of(0))
    retract(model, 0.1, 0.3, Key.of(2))
    changed = [
        int((weight != before.state_dict()[name]).flatten(1).any(1).sum())
        for name, weight in model.state_dict().items()
        if weight.ndim > 1
    ]
    assert changed == [90, 50, 2]
    again = spec.build(Key.of(0))
    retract(again, 0.1, 0.3, Key.of(3))
    assert not same(model, again)


def test_snn_rat_without_an_attack_is_retraction_and_without_retraction_adversarial_training():
    fgsm = Adversarial(BASE, Linf(0.1), attack=FGSM())
    assert same(trained(SNNRAT(BASE, Linf(0.0), beta=0.05))[0], trained(Retraction(BASE, beta=0.05))[0])
    assert same(trained(SNNRAT(BASE, Linf(0.1), beta=0.0))[0], trained(fgsm)[0])
    nested = Retraction(fgsm, beta=0.05)
    assert same(trained(SNNRAT(BASE, Linf(0.1), beta=0.05))[0], trained(nested)[0])


class Linear:
    """Logits that are linear in the image, for which a gradient norm is known."""

    def __init__(self, weight):
        self.weight = weight

    def lesson(self, x, y):
        spec = replace(SPEC, classes=len(self.weight))
        model = spec.build(Key.of(0))
        return Lesson(
            model, x, y, Key.of(0), 0.0, model, lambda images, key: images.flatten(1) @ self.weight.T
        )


@pytest.mark.parametrize("at", [0.5, 0.0, 1.0])
def test_the_steepness_is_the_l1_norm_of_the_gradient_inside_the_box_and_on_its_edge(at, monkeypatch):
    weight = Key.of(0).normal((3, 16)).double()
    x = torch.full((5, 1, 4, 4), at, dtype=torch.float64).requires_grad_()
    y = torch.tensor([0, 1, 2, 0, 1])
    lesson = Linear(weight).lesson(x, y)
    monkeypatch.setattr(Lesson, "logits", lambda self, images: self.respond(images, self.key))
    z = lesson.logits(x)
    rival = z.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
    p = (z.gather(1, y[:, None]) - z.gather(1, rival[:, None]))[:, 0].sigmoid()
    wanted = p * (1 - p) * (weight[y] - weight[rival]).abs().sum(1)
    found = SparseGradients(h=1e-6).steepness(lesson)
    assert torch.allclose(found, wanted, rtol=1e-4)


def test_sparse_gradients_lower_the_gradient_of_the_trained_model():
    def slope(rule):
        model, x = trained(rule)[0], DATA.test.images.clone().requires_grad_()
        margin = model(x).diff(dim=1).sigmoid()
        return float(torch.autograd.grad(margin.sum(), x)[0].abs().sum())

    base = BPTT(epochs=20, batch_size=8, lr=0.01)
    assert slope(SparseGradients(base, weight=10.0)) < 0.7 * slope(base)


# --- periods, stability, distance from the threshold ------------------------------------------------------


def test_hire_without_a_budget_is_training_by_parts_with_equal_weights():
    hire = HIRE(epochs=1, batch_size=25, parts=3, threat=Linf(0.0), clip_norm=None)
    model = SPEC.build(Key.of(0))
    course = hire._course(model, DATA, Key.of(1), ())
    x, y = DATA.train.images, DATA.train.labels
    parts = list(course.encoded(x, Key.of(2)))
    assert torch.equal(torch.cat(parts), model.encode(x, Key.of(2)))
    assert [course.weight(share) for share in (1 / 3, 1.0)] == [1.0, 1.0]
    assert course.learn(x, y, Key.of(2)) > 0


def test_the_image_of_the_next_period_has_moved_along_the_gradient_of_this_one_within_the_budget():
    hire = HIRE(epochs=1, batch_size=25, parts=3, threat=Linf(0.1), step=0.75)
    course = hire._course(SPEC.build(Key.of(0)), DATA, Key.of(1), ())
    x, weight = DATA.train.images, Key.of(3).normal(DATA.train.images.shape)
    periods, seen = course.encoded(x, Key.of(2)), []
    for part in periods:
        seen.append(part[0].detach())
        if part.requires_grad:
            (part * weight).sum().backward()
    assert torch.equal(seen[0], x)
    assert torch.allclose(seen[1], (x + 0.075 * weight.sign()).clamp(0, 1), atol=1e-6)
    assert torch.allclose(seen[2], (x + 0.1 * weight.sign()).clamp(0, 1), atol=1e-6)


def test_a_trace_is_a_sum_of_its_past():
    x = Key.of(0).normal((5, 2, 3)).double()
    wanted = torch.stack([sum(0.7 ** (t - s) * x[s] for s in range(t + 1)) for t in range(5)])
    assert torch.allclose(filtered(x, 0.7), wanted)


def test_the_loss_of_stable_snn_is_written_out():
    rule = StableSNN(BASE, kappa=0.3, alpha=2.0, sigma=0.2, decay=0.9)
    model, y = SPEC.build(Key.of(0)), DATA.train.labels
    x, first = DATA.train.images, model.network.layers[0]
    lesson = lesson_of(model, x, y)
    found = rule.loss(lesson, lambda of: F.cross_entropy(of.logits(of.images), of.labels))
    moved = rule.hostile(lesson, lesson.key.fold("stable"))
    clean, other = first(Direct(3)(x)), first(Direct(3)(moved))
    y_trace = filtered(clean.detach() - other, 0.9)
    natural, hard = (F.cross_entropy(model(of), y) for of in (x, moved))
    assert torch.allclose(found, 0.3 * natural + 0.7 * hard + 2 * y_trace.square().mean(), rtol=1e-5)
    found.backward()
    grad = first[1].weight.grad.clone()
    first[1].weight.grad = None
    (0.3 * natural + 0.7 * hard + 2 * y_trace.square().mean()).backward()
    assert torch.allclose(grad, first[1].weight.grad, atol=1e-6)


def test_stable_snn_trains_the_gains_of_its_neuron_and_leaves_no_hook():
    model, _ = trained(StableSNN(BASE), replace(SPEC, neuron=DLIF(steps=3)))
    assert any((p != 1).any() for name, p in model.named_parameters() if name.endswith("gains"))
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_the_penalty_near_the_threshold_is_written_out_and_has_its_slope():
    v = torch.tensor([0.0, 1.2, 1.9, 2.0, 2.1, 3.0], dtype=torch.float64, requires_grad=True)
    near = near_threshold(v, 2.0, 0.25)
    assert torch.allclose(near, torch.tensor([0, 0, 0.2, 0.25, 0.2, 0], dtype=torch.float64))
    (grad,) = torch.autograd.grad(near.sum(), v)
    assert torch.allclose(grad[[0, 1, 2, 4, 5]], torch.tensor([0, 0, 0.5, -0.5, 0], dtype=torch.float64))


def test_guarding_ramps_up_and_moves_potentials_away_from_the_threshold():
    rule = ThresholdGuarding(weight=0.6)
    assert rule.ramped(0.0) == 0
    assert rule.ramped(0.5) == pytest.approx(0.3)
    assert rule.ramped(1.0) == pytest.approx(0.6)

    def near(rule):
        model = trained(rule)[0]
        layer = model.network.layers[1]
        v = potentials(layer, model.network.layers[0](Direct(3)(DATA.test.images)))
        return near_threshold(v, 1.0, 0.5).mean().item()

    base = BPTT(epochs=20, batch_size=8, lr=0.01)
    assert near(ThresholdGuarding(base, weight=20.0, sigma=0.0)) < 0.7 * near(base)


def test_a_noisy_neuron_fires_with_the_probability_of_the_normal_distribution():
    layer = Spiking(LIF())
    v = torch.tensor([0.8, 0.9, 1.0, 1.15]).repeat(1, 20_000, 1)
    with _currents([layer], 0.2, Key.of(0)):
        rates = layer(v)[0].mean(0)
    wanted = [NormalDist(0, 0.2).cdf(float(each) - 1) for each in v[0, 0]]
    assert rates.tolist() == pytest.approx(wanted, abs=0.01)
    assert torch.equal(layer(v), (v >= 1).float())


# --- bounds and smoothing ---------------------------------------------------------------------------------


def bounded(lesson, epsilon):
    return IBP().least(lesson.twin, lesson.images, lesson.labels, Linf(epsilon))


def test_bounds_without_a_budget_are_the_margins_themselves():
    lesson = lesson_of(SPEC.build(Key.of(0)).eval(), DATA.test.images, DATA.test.labels)
    z = 3 * lesson.logits(lesson.images).double()
    wanted = z.gather(1, lesson.labels[:, None]) - z
    found = bounded(lesson, 0.0)
    other = 1 - F.one_hot(lesson.labels, 2)
    assert torch.allclose(found[other > 0], wanted[other > 0], atol=1e-4)
    loss = IBPTraining(BASE, Linf(0.1), kappa=0.0).loss(lesson, lambda of: torch.zeros(()))
    assert torch.allclose(loss, F.cross_entropy(z, lesson.labels), atol=1e-4)


def test_the_gradient_of_bounds_is_that_of_finite_differences_in_a_rectified_network():
    spec = replace(SPEC, neuron=ReLU(), encoder=Direct(1))
    lesson = lesson_of(spec.build(Key.of(0)).double().eval(), DATA.test.images, DATA.test.labels)
    rule = IBPTraining(BASE, Linf(0.05), kappa=0.0, ramp=0.5)
    weight, moved = lesson.model.network.layers[0][1].weight, lesson._replace(progress=0.5)

    def loss():
        return rule.loss(moved, lambda of: torch.zeros((), dtype=torch.float64))

    (grad,) = torch.autograd.grad(loss(), weight)
    step = 1e-6 * Key.of(4).normal(weight.shape).double()
    with torch.no_grad():
        ends = []
        for sign in (1, -1):
            weight += sign * step
            ends.append(loss())
            weight -= sign * step
    assert (ends[0] - ends[1]).item() / 2 == pytest.approx((grad * step).sum().item(), rel=1e-3)


def test_training_through_bounds_proves_what_plain_training_does_not():
    base, x, y = BPTT(epochs=30, batch_size=8, lr=0.01), DATA.train.images, DATA.train.labels
    shares = []
    for rule in (base, IBPTraining(base, Linf(0.08))):
        proof = IBP()(trained(rule)[0], x, y, Linf(0.08), Key.of(0))
        shares.append(proof.certified.float().mean().item())
    assert shares[1] > shares[0] + 0.2, shares


def test_the_vote_is_the_mean_of_noisy_probabilities():
    model, x = SPEC.build(Key.of(0)).eval(), DATA.test.images
    vote = _Vote(model, 0.3, 3, Key.of(1))
    keys = [Key.of(1).fold("draw", i) for i in range(3)]
    noisy = [(x + 0.3 * key.normal(x.shape)).clamp(0, 1) for key in keys]
    wanted = torch.stack([F.softmax(model(each), 1) for each in noisy]).mean(0)
    assert torch.allclose(vote(x).exp(), wanted, atol=1e-6)
    assert torch.equal(vote(x), vote(x, Key.of(9)))


def test_smoothed_adversarial_training_without_a_budget_is_training_on_noise():
    smooth = SmoothAdversarial(BASE, Linf(0.0), sigma=0.2)
    assert same(trained(smooth)[0], trained(NoiseTraining(BASE, sigma=0.2))[0])


# --- robust conversion ------------------------------------------------------------------------------------

INTEGRATE = replace(SPEC, neuron=IF(), network=ConvNet((3,)), encoder=Direct(4))


def test_lower_thresholds_are_the_same_as_lower_thresholds_of_the_neuron():
    model = INTEGRATE.build(Key.of(0)).eval()
    wanted = replace(INTEGRATE, neuron=IF(threshold=0.25)).build(Key.of(0)).eval()
    wanted.load_state_dict(model.state_dict())
    lower_thresholds(model, 0.25)
    x = DATA.test.images
    hidden = [each.network.layers[1](each.network.layers[0](Direct(4)(x))) for each in (model, wanted)]
    assert torch.equal(*hidden)
    assert 0 < hidden[0].mean() < 1
    assert torch.allclose(model(x), wanted(x), atol=1e-5)


def test_new_statistics_of_batch_normalisation_change_no_answer_and_are_those_of_training_mode():
    model, x = INTEGRATE.build(Key.of(0)).eval(), DATA.test.images
    norm = model.network.layers[0][1]
    norm.running_mean.fill_(0.3)
    norm.running_var.fill_(2.0)
    torch.nn.init.uniform_(norm.weight, 1.0, 2.0)
    before = model.network.layers[0](Direct(4)(x))
    renormalise(model, x, Key.of(1))
    assert torch.allclose(model.network.layers[0](Direct(4)(x)), before, atol=1e-5)
    assert torch.allclose(model.network.layers[0].train()(Direct(4)(x)), before, atol=1e-4)


def test_a_robust_conversion_trains_the_spiking_network_after_its_ann(tmp_path):
    rule = RobustConversion(Adversarial(SpikeNorm(BASE), Linf(0.1), attack=FGSM()), BASE)
    seen = []
    model, history = trained(rule, INTEGRATE, on_epoch=seen.append, checkpoint=tmp_path / "c")
    assert [report.epoch for report in history.epochs] == [1, 2, 3, 4, 5] == list(range(1, rule.epochs + 1))
    assert tuple(seen) == history.epochs
    converted = trained(rule.conversion, INTEGRATE)[0]
    assert not same(model, converted)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def class_by_class(count):
    """Images of either class, stored one class after the other."""
    labels = torch.arange(2).repeat_interleave(count)
    return Split(Key.of(4).uniform((2 * count, 1, 4, 4)), labels, torch.arange(2 * count))


def test_statistics_are_measured_on_images_of_all_classes_drawn_by_the_seed(monkeypatch):
    drawn = []

    def see(model, images, key):
        drawn.append((images, key.rows))

    monkeypatch.setattr(robust_conversion, "renormalise", see)
    part, short, spec = class_by_class(150), BPTT(epochs=1, batch_size=300), replace(SPEC, neuron=IF())
    for seed in (0, 0, 1):
        rule = RobustConversion(SpikeNorm(short), short)
        rule.train(spec.build(Key.of(0)), replace(DATA, train=part), Key.of(seed))
    for images, rows in drawn:
        assert torch.equal(images, part.images[list(rows)])
        assert part.labels[list(rows)].bincount().tolist() == [128, 128]
    assert drawn[0][1] == drawn[1][1] != drawn[2][1]


REFUSED = [
    (lambda: RobustConversion(BASE), "needs a conversion"),
    (lambda: RobustConversion(scale=0.0), "a scale in"),
    (lambda: trained(RobustConversion()), "without leak"),
    (lambda: IBPTraining(kappa=2.0), "kappa of at most 1"),
    (lambda: IBPTraining(watch=OverfittingWatch()), "no watch"),
    (lambda: trained(IBPTraining(BASE), replace(SPEC, neuron=SNU())), "known bounds"),
    (lambda: SmoothAdversarial(attack=NoiseSearch()), "takes a gradient attack"),
    (lambda: SmoothAdversarial(draws=0), "draws to be at least 1"),
    (lambda: HIRE(step=0.0), "positive step"),
    (lambda: HIRE(threat=Flips(2)), "threat on pixels"),
    (lambda: trained(HIRE(parts=4)), "time step for each"),
    (lambda: StableSNN(kappa=1.5), "of at most 1"),
    (lambda: StableSNN(alpha=-1.0), "alpha to be at least 0"),
    (lambda: StableSNN(FPTT()), "whole sequences"),
    (lambda: StableSNN().check(ReLU()), "spiking neurons"),
    (lambda: ThresholdGuarding().check(SNU()), "constant threshold"),
    (lambda: ThresholdGuarding(sigma=-1.0), "sigma to be at least 0"),
    (lambda: NoiseTraining(sigma=-0.1), "sigma to be at least 0"),
    (lambda: Retraction(beta=2.0), "beta of at most 0.5"),
    (lambda: SNNRAT(share=0.0), "a share in"),
    (lambda: SparseGradients(h=0.0), "needs h in"),
    (lambda: SparseGradients(weight=-1.0), "weight to be at least 0"),
    (lambda: NoiseTraining().check_model(of_events()), "takes whole events"),
    (lambda: SparseGradients().check_model(of_events()), "takes whole events"),
    (lambda: Adversarial(AsSaved("models/mine", "00" * 32)), "learning rule that trains on batches"),
    (lambda: TRADES(FPTT()), "whole sequences"),
    (lambda: TRADES(beta=-1.0), "beta to be at least 0"),
    (lambda: TRADES(temperature=0.0), "positive temperature"),
    (lambda: FastAdversarial(step=0.0), "positive step"),
    (lambda: FastAdversarial(threat=Flips(3)), "threat on pixels"),
    (lambda: OverfittingWatch(gap=0.0), "gap in"),
    (lambda: OverfittingWatch(images=0), "at least one image"),
    (lambda: trained(Adversarial(BASE, attack=Suite())), "attack on the trained model alone"),
    (lambda: trained(Adversarial(BASE, attack=Transfer())), "attack on the trained model alone"),
    (lambda: trained(Adversarial(BASE, attack=UniversalPatch())), "attack on the trained model alone"),
    (lambda: trained(Adversarial(BASE, attack=Universal())), "attack on the trained model alone"),
    (lambda: trained(TRADES(BASE, attack=FGSM(objective=KL()))), "zero at the clean image"),
    (lambda: trained(Adversarial(BASE, Flips(3))), "whole events"),
    (
        lambda: checked(Adversarial(BASE, Flips(2), OverfittingWatch(), SpikeSearch()), of_events()),
        "The watch",
    ),
    (
        lambda: checked(Adversarial(BASE, WindowFlips(2, first=9), None, SpikeSearch()), of_events()),
        "A window",
    ),
    (lambda: checked(Adversarial(BASE, LaserBeam(0.3), OverfittingWatch(), NoiseSearch())), "attacks by PGD"),
    (lambda: checked(Adversarial(BASE, LaserBeam(0.3))), "no step leads from beam"),
    (lambda: checked(FastAdversarial(BASE, LaserBeam(0.3), watch=None)), "no step leads"),
    (lambda: checked(Adversarial(BASE, Sticker(0.5, mask=("#.", "..")))), "A mask of"),
    (
        lambda: checked(Adversarial(BASE, LaserBeam(0.3), None, WorstOf(attacks=(NoiseSearch(), PGD())))),
        "beam to beam",
    ),
    (lambda: trained(Adversarial(BASE, Linf(8.0))), "reaches every image"),
]


def checked(rule, model=None):
    """Refused before any training."""
    rule.check_model(SPEC.build(Key.of(0)) if model is None else model)


@pytest.mark.parametrize(("make", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_bad_settings_are_refused_with_words(make, words):
    with pytest.raises(InputError, match=words):
        make()


def test_a_watch_looks_at_the_same_images_of_all_classes_in_every_epoch():
    looked = []

    class Looking(Adversarial):
        def hostile(self, lesson, key):
            looked.append(lesson.labels)
            return lesson.images

    rule = Looking(BASE, Linf(0.1), OverfittingWatch(images=6, steps=2))
    reports = [rule.watched(SPEC.build(Key.of(0)).eval(), class_by_class(6), Key.of(i)) for i in range(2)]
    assert all(report.weak >= report.strong for report in reports)
    assert torch.equal(looked[0], looked[1])
    assert looked[0].bincount().tolist() == [3, 3]


def test_a_watch_needs_held_out_images():
    nothing = replace(DATA, validation=Split(*(of[:0] for of in vars(DATA.validation).values())))
    with pytest.raises(InputError, match="held-out images"):
        FastAdversarial(BASE).train(SPEC.build(Key.of(0)), nothing, Key.of(0))


STUDY = """\
name: defended
data: digits
models:
  - encoder: {{direct: {{steps: 2}}}}
    network: {{mlp: {{hidden: [8]}}}}
    rule: {rule}
attacks: [{{pgd: {{steps: 2}}}}]
epsilons: [8/255]
examples: 20
"""
OF = "{bptt: {epochs: 1, batch_size: 512}}"
STBP = "{stbp: {epochs: 1, batch_size: 512}}"
BLOCKS = [
    f"{{name: adversarial, attack: {{name: pgd, steps: 2}}, threat: {{linf: {{epsilon: 8/255}}}}, of: {OF}}}",
    f"{{adversarial: {{attack: {{through: {{gradient: bptr, attack: fgsm}}}}, of: {STBP}}}}}",
    f"{{fast-adversarial: {{watch: {{images: 10, steps: 2}}, of: {OF}}}}}",
    f"{{noise-training: {{sigma: 16/255, of: {OF}}}}}",
    f"{{snn-rat: {{attack: {{through: {{gradient: bptr, attack: fgsm}}}}, of: {OF}}}}}",
    f"{{retraction: {{beta: 0.01, of: {{sparse-gradients: {{weight: 0.1, of: {OF}}}}}}}}}",
    "{hire: {epochs: 1, batch_size: 512, threat: {l2: {epsilon: 0.5}}}}",
    f"{{stable-snn: {{attack: fgsm, of: {OF}}}}}",
    f"{{threshold-guarding: {{of: {{snn-rat: {{of: {OF}}}}}}}}}",
    f"{{ibp-training: {{threat: {{linf: {{epsilon: 1/255}}}}, of: {OF}}}}}",
    f"{{smooth-adversarial: {{attack: {{pgd: {{steps: 1, surrogate: triangle}}}}, draws: 2, of: {OF}}}}}",
    f"{{robust-conversion: {{conversion: {{spike-norm: {{ann: {OF}}}}}, tuning: {OF}}}}}",
    f"{{trades: {{beta: 2.0, attack: {{pgd: {{steps: 1, objective: kl}}}}, of: {OF}}}}}",
]


@pytest.mark.parametrize("rule", BLOCKS)
def test_a_study_trains_with_a_defence_and_stores_its_cost(rule, tmp_path):
    text = STUDY.format(rule=rule)
    if "conversion" in rule:
        text = text.replace("    rule:", "    neuron: if\n    rule:")
    study = study_of(parse(text, "study.yaml"))
    cell, *_ = cells_of(study, study.data.load(None))
    stored = json.loads(Bench(tmp_path, None, "cpu", 64)(cell, lambda progress: None)["metrics.json"])
    assert stored["epochs"][0]["processor_seconds"] > 0
    assert build(Rule, cell.spec["rule"], PARTS) == study.models[0].rule

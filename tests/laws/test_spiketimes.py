"""Networks of spike times against slow simulations, finite differences and closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.special
import torch

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.catalogue.saved import load, save
from spikeproof.datasets import Dataset, Split, YinYang
from spikeproof.decoders import UNDECIDED, Count, Earliest, decide
from spikeproof.encoders import Direct, KernelTimes, SpikeTimes, WholeSpikeTimes
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.shared import Alone
from spikeproof.learning.time_coded import TimeCoded
from spikeproof.losses import CrossEntropy, RelativeTargets, TimeMargin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.timed import TimedLayer, TimedMLP
from spikeproof.neurons import LIF
from spikeproof.neurons.spiketimes import S4NN, T2FSNN, FastAndDeep, Mostafa, lambertw
from spikeproof.protocols import Encoder
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

EXACT = [
    *(FastAndDeep(), FastAndDeep(membrane="double"), Mostafa()),
    *(FastAndDeep(0.5, 2.0), FastAndDeep(0.3, 0.5, "double"), Mostafa(0.7, 2.0)),
]
CODES = [SpikeTimes(), SpikeTimes(0.0, 2.0, 5.0), WholeSpikeTimes(16), KernelTimes(16, tau=5.0)]
HORIZON = 5.0


def spec(encoder, neuron, *, mean=(6.0, 8.0), std=(3.0, 5.0), bias=0.0, hidden=(12,), shape=(1, 4, 4)):
    network = TimedMLP(hidden, bias, mean, std)
    return ModelSpec(encoder, network, neuron, ATan(), Earliest(), shape, 3)


SPECS = [
    spec(SpikeTimes(), FastAndDeep(), bias=5.0),
    spec(SpikeTimes(), FastAndDeep(membrane="double"), mean=(25.0, 30.0)),
    spec(SpikeTimes(), Mostafa(), hidden=(9, 7)),
    spec(WholeSpikeTimes(16), S4NN()),
    spec(WholeSpikeTimes(16), S4NN(normalise=False), bias=16.0, hidden=()),
    spec(KernelTimes(16, 5.0), T2FSNN(16, 5.0), mean=(0.5, 0.5), std=(1.0, 1.0)),
]
IMAGES = Key.of(2).uniform((6, 1, 4, 4))


def six():
    """Six images of three classes, the same in every part."""
    part = Split(IMAGES, torch.arange(6) % 3, torch.arange(6))
    return Dataset("six", part, part, part, ("a", "b", "c"), "d", "made here")


def inputs(batch=4, count=7, outputs=9, seed=0, silent=0.2):
    """Random earliness with some silent inputs, and weights that make about half the outputs spike."""
    early = 1 + (HORIZON - 1) * Key.of(seed).uniform((batch, count)).double()
    early[Key.of(seed + 1).uniform((batch, count)) < silent] = 0
    return early, Key.of(seed + 2).normal((outputs, count)).double() * 1.5 + 0.3


def kernel(neuron, s):
    """The docstrings' postsynaptic potentials, in NumPy."""
    s = np.maximum(s, 0) / neuron.tau
    if isinstance(neuron, Mostafa):
        return 1 - np.exp(-s)
    return s * np.exp(-s) if neuron.membrane == "equal" else np.exp(-s / 2) - np.exp(-s)


def simulated(neuron, early, weight, steps=10_001):
    """Each membrane potential on a fine grid of times; the first point at or above the threshold, or 0."""
    grid = np.linspace(-HORIZON, 0, steps)
    out = np.zeros((len(early), len(weight)))
    for b, row in enumerate(early):
        seen = np.where(row[:, None] > 0, kernel(neuron, grid + row[:, None]), 0)
        for o, crossed in enumerate(weight @ seen >= neuron.threshold):
            out[b, o] = -grid[crossed.argmax()] if crossed.any() else 0
    return out


@pytest.mark.parametrize("neuron", EXACT, ids=repr)
def test_exact_times_are_those_of_a_simulated_membrane(neuron):
    early, weight = inputs()
    weight = weight * (4 if getattr(neuron, "membrane", "") == "double" else 2)
    exact, slow = neuron.fire(early, weight).numpy(), simulated(neuron, early.numpy(), weight.numpy())
    assert 0.2 < (slow > 0).mean() < 0.95
    assert np.array_equal(exact > 0, slow > 0)
    assert np.abs(exact - slow).max() <= HORIZON / 10_000 + 1e-9


@pytest.mark.parametrize("neuron", EXACT, ids=repr)
def test_exact_derivatives_are_those_of_finite_differences(neuron):
    early, weight = inputs(batch=2, outputs=5)
    weight = weight * (4 if getattr(neuron, "membrane", "") == "double" else 2)
    coefficients = Key.of(5).normal((2, 5)).double()
    assert neuron.fire(early, weight).any()
    for x in (early, weight):
        x.requires_grad_()
    out = neuron.fire(early, weight)
    grads = torch.autograd.grad((out * coefficients).sum(), (early, weight))
    step = 1e-6
    for which, grad in enumerate(grads):
        wanted = torch.zeros_like(grad)
        for place in np.ndindex(tuple(grad.shape)):
            sides = []
            for sign in (1, -1):
                moved = [early.detach().clone(), weight.detach().clone()]
                if which == 0 and moved[0][place] == 0:
                    break
                moved[which][place] += sign * step
                sides.append((neuron.fire(*moved) * coefficients).sum())
            if sides:
                wanted[place] = (sides[0] - sides[1]) / (2 * step)
        assert torch.allclose(grad, wanted, rtol=1e-4, atol=1e-6)


def test_the_derivatives_for_equal_time_constants_are_the_published_closed_form():
    early, weight = inputs(batch=1, outputs=1, silent=0.0)
    early, weight = early.requires_grad_(), (2 * weight.abs()).requires_grad_()
    out = FastAndDeep().fire(early, weight)
    by_early, by_weight = torch.autograd.grad(out.sum(), (early, weight))
    ti, t, w = -early[0].detach(), -out.item(), weight[0].detach()
    causal = ti < t
    a1, b = (w * ti.exp())[causal].sum(), (w * ti * ti.exp())[causal].sum()
    lambert = float(scipy.special.lambertw(float(-1 / a1 * (b / a1).exp())).real)
    factor = -1 / a1 / (1 + lambert) * ti.exp() * causal
    assert torch.allclose(by_weight[0], -factor * (t - ti))
    assert torch.allclose(by_early[0], factor * w * (t - ti - 1))


def test_lambert_w_is_scipys():
    x = -torch.linspace(0, 1, 1001, dtype=torch.float64).square() / math.e
    assert np.allclose(lambertw(x).numpy()[:-1], scipy.special.lambertw(x.numpy()[:-1]).real, atol=1e-12)
    assert lambertw(x)[-1].item() == pytest.approx(-1, abs=1e-6)
    assert lambertw(torch.tensor([-0.4])).isnan().all()


@pytest.mark.parametrize("threshold", [1.0, 0.5])
def test_s4nn_spikes_are_those_of_a_slow_loop_over_time(threshold):
    early = (Key.of(0).uniform((5, 12)) * 9).floor()
    weight = (Key.of(1).normal((8, 12)) * 8).floor() / 16
    out = S4NN(threshold).fire(early, weight)
    slow = np.zeros((5, 8))
    for b, o in np.ndindex(5, 8):
        v = 0.0
        for t in range(8):
            v += sum(weight[o, i].item() for i in range(12) if early[b, i] == 8 - t)
            if v >= threshold:
                slow[b, o] = 8 - (t + 1)
                break
    assert 0.2 < (slow > 0).mean() < 1
    assert np.array_equal(out.numpy(), slow)


@pytest.mark.parametrize("normalise", [False, True])
def test_s4nn_errors_travel_as_the_paper_says(normalise):
    """delta_h = sum_o delta_o w_oh 1[t_h < t_o] and dW_oh = delta_o 1[t_h < t_o], in NumPy."""
    early = (Key.of(0).uniform((5, 12)) * 9).floor().requires_grad_()
    weight = (Key.of(1).normal((8, 12)) * 0.5).requires_grad_()
    grad = Key.of(2).normal((5, 8))
    out = S4NN(normalise=normalise).fire(early, weight)
    got = torch.autograd.grad((out * grad).sum(), (early, weight))
    delta = grad.numpy()
    if normalise:
        delta = delta / np.linalg.norm(delta, axis=1, keepdims=True)
    t_in, t_out = (9 - value.detach().numpy() for value in (early, out))
    by_early, by_weight = np.zeros((5, 12)), np.zeros((8, 12))
    for b, o, i in np.ndindex(5, 8, 12):
        if t_in[b, i] < t_out[b, o]:
            by_early[b, i] += delta[b, o] * weight[o, i].item()
            by_weight[o, i] += delta[b, o]
    assert np.allclose(got[0].numpy(), by_early, atol=1e-5)
    assert np.allclose(got[1].numpy(), by_weight, atol=1e-5)


@pytest.mark.parametrize(("block", "largest"), [(1, 1), (40, 200), (1 << 18, 1 << 22)])
def test_s4nn_is_the_same_in_blocks_of_any_size_and_silence_tells_every_input(block, largest, monkeypatch):
    early = (Key.of(0).uniform((7, 12)) * 9).floor()
    early[2] = 0
    early.requires_grad_()
    weight = ((Key.of(1).normal((8, 12)) * 8).floor() / 16).requires_grad_()
    grad = Key.of(2).normal((7, 8))
    whole = S4NN().fire(early, weight)
    wanted = (whole, *torch.autograd.grad(whole, (early, weight), grad))
    monkeypatch.setattr("spikeproof.neurons.spiketimes.BLOCK", block)
    monkeypatch.setattr("spikeproof.neurons.spiketimes.LARGEST", largest)
    out = S4NN().fire(early, weight)
    for a, b in zip((out, *torch.autograd.grad(out, (early, weight), grad)), wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert (out[2] == 0).all()


def test_s4nn_without_any_spike_stays_silent_and_tells_nothing():
    weight = torch.ones(3, 4, requires_grad=True)
    out = S4NN().fire(torch.zeros(2, 4), weight)
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), weight)[0].any()


@pytest.mark.parametrize("delay", [0.0, 2.5])
def test_t2fsnn_spikes_when_the_falling_threshold_meets_the_integrated_potential(delay):
    neuron = T2FSNN(16, 5.0, delay, 0.8)
    early = (Key.of(0).uniform((6, 10)) * 17).floor().double()
    weight = Key.of(1).normal((8, 10)).double() * 0.5
    out, slow = neuron.fire(early, weight), np.zeros((6, 8))
    for b, o in np.ndindex(6, 8):
        times = [(16 - early[b, i].item(), weight[o, i].item()) for i in range(10) if early[b, i] > 0]
        v = sum(w * math.exp(-(t - delay) / 5) for t, w in times)
        fired = [t for t in range(16) if v >= 0.8 * math.exp(-(t - delay) / 5)]
        slow[b, o] = 16 - fired[0] if fired else 0
    assert 0.1 < (slow > 0).mean() < 0.9
    assert len(set(slow.flatten())) > 5
    assert np.array_equal(out.numpy(), slow)


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_codes_give_one_time_per_input_and_brighter_is_earlier(code):
    x = torch.linspace(0, 1, 256)[None]
    early = code(x)
    assert isinstance(code, Encoder)
    assert early.shape == (1, 1, 256)
    assert ((early >= 0) & (early <= code.horizon)).all()
    assert (early.diff() >= 0).all()
    assert early[0, 0, 0] < early[0, 0, -1]
    for bad in (-0.01, 1.01, math.nan):
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            code(torch.full((1, 2), bad))


def test_codes_are_their_equations_on_the_256_grey_levels():
    x = torch.arange(256, dtype=torch.float32)[None] / 255
    times = SpikeTimes(0.5, 2.0, 6.0)(x)[0, 0]
    assert torch.allclose(6 - times, 2 - 1.5 * x[0])
    whole = 256 - WholeSpikeTimes(256)(x)[0, 0]
    assert whole.tolist() == [(255 - k) * 256 // 255 for k in range(256)]  # as S4NN's code has it
    kernel = KernelTimes(16, 5.0, 0.9)(x)[0, 0]
    for k in range(256):
        fired = [t for t in range(16) if k / 255 >= 0.9 * math.exp(-t / 5)]
        assert kernel[k] == (16 - fired[0] if fired else 0)


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_the_gradient_of_a_code_is_the_slope_of_its_line_or_logarithm(code):
    x = torch.tensor([[0.3, 0.6, 0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(code(x).sum(), x)
    if isinstance(code, KernelTimes):
        darkest = math.exp(-15 / 5)
        assert torch.allclose(grad, 5 / torch.tensor([[0.3, 0.6, darkest, 1.0]], dtype=torch.float64))
    else:
        line = code.late - code.early if isinstance(code, SpikeTimes) else code.horizon
        assert torch.allclose(grad, torch.full_like(grad, line))


def test_the_earliest_output_decides_and_ties_and_silence_do_not():
    early = torch.tensor([[[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 3.0, 1.0]]])
    assert decide(Earliest()(early)).tolist() == [1, UNDECIDED, UNDECIDED]


def test_relative_targets_are_those_of_the_published_rule():
    """In times with tmax = 10 and gamma = 3: targets by the paper's cases, one by one."""
    times = torch.tensor([[4.0, 5.0, 9.0], [10.0, 10.0, 10.0], [8.0, 9.0, 10.0], [2.0, 2.0, 2.0]])
    labels = torch.tensor([1, 2, 0, 0])
    for t, y in zip(times, labels, strict=True):
        target, first = t.clone(), t.min()
        if first == 10:
            target[y] = 10 - 3
        else:
            target = torch.where(t < first + 3, (first + 3).clamp(max=10), t)
            target[y] = first
        early = (10 - t)[None, None].requires_grad_()
        loss = RelativeTargets(3.0)(early, early[0], y[None])
        assert loss.item() == 0.5 * (target - t).square().sum()
        (grad,) = torch.autograd.grad(loss.sum(), early)
        assert torch.equal(grad[0, 0], target - t)


def test_time_margins_cost_what_rivals_lack_and_push_as_much_as_they_pull():
    early = (Key.of(0).uniform((1, 9, 4)) * 12).floor().double().requires_grad_()
    y = torch.arange(9) % 4
    loss = TimeMargin(5.0)(early, early[0], y)
    for b in range(9):
        t = 12 - early[0, b].detach()
        short = [max(0.0, 5.0 + (t[y[b]] - t[k]).item()) for k in range(4) if k != y[b]]
        assert loss[b].item() == 0.5 * sum(s**2 for s in short)
    (grad,) = torch.autograd.grad(loss.sum(), early)
    assert torch.allclose(grad.sum(-1), torch.zeros(1, 9, dtype=torch.float64))
    assert (loss > 0).any()
    ahead = torch.tensor([[[9.0, 4.0, 0.0]]])
    assert TimeMargin(5.0)(ahead, ahead[0], torch.tensor([0])).item() == 0


@pytest.mark.parametrize("model_spec", SPECS, ids=repr)
def test_a_network_of_spike_times_is_a_model_like_any_other(model_spec, tmp_path):
    model = model_spec.build(Key.of(0)).eval()
    logits = model(IMAGES)
    assert logits.shape == (6, 3)
    assert logits.unique().numel() > 3
    assert torch.equal(model(IMAGES), logits)
    assert torch.allclose(model(IMAGES[[4, 1]]), logits[[4, 1]], atol=1e-5)
    answer = model.infer(IMAGES)
    assert torch.equal(answer.logits, logits)
    assert torch.equal(answer.silent, (logits == 0).all(1))
    fired = [model.encoder(IMAGES)[0].flatten(1)]
    for layer in model.network.layers:
        if isinstance(layer, TimedLayer):
            fired.append(layer(fired[-1][None])[0])
    assert torch.equal(answer.spikes, sum((spikes > 0).sum(1) for spikes in fired).float())
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(IMAGES), logits)


@pytest.mark.parametrize("model_spec", SPECS, ids=repr)
def test_pgd_gets_through_a_network_of_spike_times(model_spec):
    model, threat = model_spec.build(Key.of(0)).eval(), Linf(0.2)
    clean = decide(model(IMAGES))
    result = PGD(steps=5)(threat)(model, IMAGES, clean.clamp(min=0), Key.of(3))
    assert threat.contains(result.x_adv, IMAGES).all()
    x = IMAGES.clone().requires_grad_()
    (grad,) = torch.autograd.grad(model(x).sum(), x)
    assert grad.isfinite().all()
    assert grad.any()
    right = [(decide(model(v)) == clean) & (clean >= 0) for v in (IMAGES, result.x_adv)]
    assert right[1].sum() < right[0].sum() or not right[0].any()
    assert (result.x_adv != IMAGES).flatten(1).any(1)[right[0]].all()


@pytest.mark.parametrize("neuron", [FastAndDeep(), FastAndDeep(membrane="double"), Mostafa()], ids=repr)
def test_the_gradient_of_a_whole_network_is_that_of_finite_differences(neuron):
    mean = (25.0, 30.0) if getattr(neuron, "membrane", "") == "double" else (6.0, 8.0)
    model = spec(SpikeTimes(), neuron, bias=5.0, mean=mean).build(Key.of(1)).double()
    y, loss, step = torch.tensor([0, 1, 2, 0, 1, 2]), CrossEntropy(0.3), 1e-6

    def value(x):
        out = model.outputs(x)
        return loss(out, model.spec.decoder(out), y).sum()

    x = IMAGES.double().clamp(0.01, 0.99).requires_grad_()
    weights = [layer.weight for layer in model.modules() if isinstance(layer, TimedLayer)]
    grads = torch.autograd.grad(value(x), [x, *weights])
    with torch.no_grad():
        for tensor, grad in zip([x, *weights], grads, strict=True):
            assert grad.any()
            direction = Key.of(6).normal(tuple(tensor.shape)).double()
            kept = tensor.clone()
            sides = [value_at(tensor, kept + s * step * direction, lambda: value(x)) for s in (1, -1)]
            tensor.copy_(kept)
            slope = ((sides[0] - sides[1]) / (2 * step)).item()
            assert (grad * direction).sum().item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def value_at(tensor, moved, value):
    tensor.copy_(moved)
    return value()


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": Direct(4)},
        {"network": MLP((8,))},
        {"neuron": LIF()},
        {"decoder": Count()},
        {"normalise": Normalise((0.5,), (0.5,))},
    ],
    ids=lambda change: next(iter(change)),
)
def test_spike_times_go_with_nothing_else(change):
    with pytest.raises(InputError, match="spike times"):
        replace(SPECS[0], **change)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SpikeTimes(1.0, 0.5), "early"),
        (lambda: SpikeTimes(0.0, 2.0, 2.0), "horizon"),
        (lambda: WholeSpikeTimes(0), "step"),
        (lambda: KernelTimes(4, tau=0.0), "tau"),
        (lambda: FastAndDeep(tau=-1.0), "tau"),
        (lambda: Mostafa(threshold=0.0), "threshold"),
        (lambda: S4NN(threshold=math.inf), "threshold"),
        (lambda: T2FSNN(delay=-1.0), "delay"),
        (lambda: T2FSNN(tau=0.0), "tau"),
        (lambda: TimedMLP((0,)), "layer sizes"),
        (lambda: TimedMLP(bias=-1.0), "bias"),
        (lambda: TimedMLP(std=(1.0, -1.0)), "std"),
        (lambda: RelativeTargets(0.0), "gamma"),
        (lambda: TimeMargin(0.0), "gamma"),
        (lambda: TimeCoded(bump=-1.0), "bump"),
        (lambda: TimeCoded(max_silent=(0.3, 2.0)), "max_silent"),
        (lambda: TimeCoded(weight_sum=-1.0), "weight_sum"),
    ],
)
def test_constants_of_spike_times_out_of_range_are_refused_by_name(make, word):
    with pytest.raises(InputError, match=word):
        make()


def test_yin_yang_is_the_published_figure():
    """The rule of the published code, point by point, and classes about equally frequent."""
    data = YinYang(600, 200, 100).load()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [600, 200, 100]
    ids = torch.cat([data.train.ids, data.validation.ids, data.test.ids])
    assert ids.tolist() == list(range(900))
    for part in (data.train, data.validation, data.test):
        x, y, u, v = part.images.flatten(1).T.double()
        assert torch.allclose(x + u, torch.ones_like(x))
        assert torch.allclose(y + v, torch.ones_like(y))
        for a, b, label in zip(x.tolist(), y.tolist(), part.labels.tolist(), strict=True):
            assert math.hypot(a - 0.5, b - 0.5) <= 0.5 + 1e-6
            left, right = math.hypot(a - 0.25, b - 0.5), math.hypot(a - 0.75, b - 0.5)
            yin = right <= 0.1 or 0.1 < left <= 0.25 or (b > 0.5 and right > 0.25)
            assert label == (2 if min(left, right) < 0.1 else int(yin))
    counts = torch.bincount(data.train.labels)
    assert ((counts - 200).abs() < 4 * (600 * 2 / 9) ** 0.5).all()
    assert YinYang(600, 200, 100).load().sha256 == data.sha256
    assert YinYang(600, 200, 100, seed=7).load().sha256 != data.sha256
    parts = [
        part
        for seed in (0, 1, 2, 40, 41, 42, 43, 44)
        for part in vars(YinYang(60, 50, 40, seed=seed).load()).values()
        if isinstance(part, Split)
    ]
    points = torch.cat([part.images.flatten(1) for part in parts])
    assert len(points.unique(dim=0)) == len(points) == 8 * 150  # no seed tests what another one learns
    assert not set(map(tuple, data.train.images.flatten(1).tolist())) & set(
        map(tuple, data.test.images.flatten(1).tolist())
    )


@pytest.mark.parametrize("neuron", [FastAndDeep(), Mostafa()], ids=repr)
def test_exact_gradients_learn_yin_yang(neuron):
    model = spec(SpikeTimes(), neuron, bias=5.1, hidden=(20,), shape=(4, 1, 1)).build(Key.of(0))
    rule = TimeCoded(epochs=12, batch_size=30, lr=1e-2, bump=2e-3, clip_norm=0.5, loss=CrossEntropy(0.3))
    history = rule.train(model, YinYang(600, 300, 1).load(), Key.of(1))
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss
    assert history.validation_accuracy > 0.5  # chance is a third


def test_kernel_times_learn_yin_yang_where_potentials_have_room_and_silent_outputs_are_left_alone():
    neuron, mean, std = T2FSNN(80, 20.0, delay=20.0), (0.5, 0.5), (1.0, 0.5)
    model = spec(
        KernelTimes(80, 20.0), neuron, mean=mean, std=std, bias=80.0, hidden=(40,), shape=(4, 1, 1)
    ).build(Key.of(0))
    rule = TimeCoded(
        epochs=10,
        batch_size=30,
        lr=5e-3,
        bump=1e-3,
        max_silent=(0.98, 0.8),
        clip_norm=None,
        loss=CrossEntropy(5.0),
    )
    history = rule.train(model, YinYang(1000, 300, 1).load(), Key.of(1))
    assert history.validation_accuracy > 0.7  # chance is a third, and ties are errors


@pytest.mark.parametrize(("shares", "raised"), [((0.3, 0.0), True), ((0.3, 1.0), False)])
def test_the_last_layer_tolerates_a_share_of_silence_of_its_own(shares, raised):
    model = SPECS[0].build(Key.of(0))
    last = [layer for layer in model.modules() if isinstance(layer, TimedLayer)][-1]
    with torch.no_grad():
        last.weight[1] = -1.0
    data = six()
    TimeCoded(epochs=1, batch_size=6, lr=1e-12, bump=0.25, max_silent=shares).train(model, data, Key.of(0))
    assert torch.allclose(last.weight[1], torch.tensor(-0.75 if raised else -1.0), atol=1e-6)


class BesideOneThatFires(Alone):
    """A device beside another one, in whose part of a batch every neuron fires."""

    def mean(self, over_part):
        return over_part / 2 if over_part.ndim else over_part


def test_silence_is_that_of_the_whole_batch_that_devices_share():
    model = SPECS[0].build(Key.of(0))
    last = [layer for layer in model.modules() if isinstance(layer, TimedLayer)][-1]
    with torch.no_grad():
        last.weight[1] = -1.0
    data = six()
    rule = TimeCoded(epochs=1, batch_size=6, lr=1e-12, bump=0.25, max_silent=(0.6, 0.6))
    rule.teach(model, data, Key.of(0), BesideOneThatFires(), torch.device("cpu"), None, ())
    assert torch.allclose(last.weight[1], torch.tensor(-1.0), atol=1e-6)


@pytest.mark.parametrize(
    ("epochs", "fade", "total"), [(1, False, 0.25), (4, False, 1.0), (4, True, 0.25 * 2.5)], ids=repr
)
def test_neurons_that_stay_silent_are_bumped_and_no_others(epochs, fade, total):
    """A bump that fades follows the cosine: 1, (1 + 1/sqrt(2))/2, 1/2, (1 - 1/sqrt(2))/2 of it."""
    model = SPECS[0].build(Key.of(0))
    first, last = (layer for layer in model.modules() if isinstance(layer, TimedLayer))
    with torch.no_grad():
        first.weight[2] = -9.0
    before = [first.weight.detach().clone(), last.weight.detach().clone()]
    data = six()
    rule = TimeCoded(epochs=epochs, batch_size=6, lr=1e-12, bump=0.25, fade=fade, max_silent=(0.9, 0.0))
    rule.train(model, data, Key.of(0))
    raised = (first.weight - before[0]).mean(1)
    wanted = torch.zeros(12)
    wanted[2] = total
    assert torch.allclose(raised, wanted, atol=1e-6)


def test_the_penalty_pulls_up_weights_that_cannot_reach_the_threshold():
    model = SPECS[2].build(Key.of(0))
    layers = [layer for layer in model.modules() if isinstance(layer, TimedLayer)]
    with torch.no_grad():
        layers[0].weight[1] = -0.5
    before = layers[0].weight.sum(1)
    data = six()
    TimeCoded(epochs=5, batch_size=6, lr=0.01, bump=0.0, weight_sum=10.0).train(model, data, Key.of(0))
    assert layers[0].weight.sum(1)[1] > before[1] + 0.2


@pytest.mark.parametrize("model_spec", SPECS, ids=repr)
def test_a_training_can_be_replayed_and_resumed(model_spec, tmp_path):
    data = six()
    loss = RelativeTargets() if isinstance(model_spec.neuron, S4NN) else CrossEntropy()
    rule = TimeCoded(epochs=3, batch_size=3, lr=0.01, loss=loss)

    class StopError(Exception):
        pass

    def stop(report):
        raise StopError

    models = [model_spec.build(Key.of(0)) for _ in range(3)]
    rule.train(models[0], data, Key.of(1))
    with pytest.raises(StopError):
        rule.train(models[1], data, Key.of(1), checkpoint=tmp_path / "c", on_epoch=stop)
    rule.train(models[2], data, Key.of(1), checkpoint=tmp_path / "c")
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[2].state_dict()[name])
        assert not torch.equal(tensor, model_spec.build(Key.of(0)).state_dict()[name])


def test_spike_time_training_refuses_networks_that_step_through_time():
    model = ModelSpec(Direct(2), MLP((4,)), LIF(), ATan(), Count(), (1, 4, 4), 3).build(Key.of(0))
    data = six()
    with pytest.raises(InputError, match="timed-mlp"):
        TimeCoded().train(model, data, Key.of(0))

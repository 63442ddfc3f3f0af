"""T2FSNN by conversion: kernels against plain Python, early firing against a clock, the ANN it comes from."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from spikeproof.catalogue.saved import load, save
from spikeproof.datasets import Dataset, Digits, Split
from spikeproof.decoders import Count, FirstSpike, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct, KernelCode
from spikeproof.errors import InputError
from spikeproof.evaluation.through import rate_twin
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.learning.from_ann.kernel_conversion import T2FSNNConversion, kernel_losses, spike_times
from spikeproof.learning.from_ann.scalegraph import neurons_of
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.deep import VGG9, ResNet18, SEWResNet
from spikeproof.networks.pooling import GatedMaxPool
from spikeproof.neurons import IF, ConvertedT2FSNN, Recurrent, Spiking
from spikeproof.surrogates import ATan

SHAPE = (1, 4, 4)
IMAGES = Key.of(9).uniform((40, *SHAPE)).double()
CHOSEN = Split(IMAGES, torch.arange(40) % 3, torch.arange(40))
PLAIN = T2FSNNConversion(percentile=100.0, tuning=0)


def spec(network=MLP((20, 15)), steps=60, tau=8.0, decoder=MeanCurrent(), shape=SHAPE, classes=3, **neuron):
    cells = ConvertedT2FSNN(steps, tau, **neuron)
    return ModelSpec(KernelCode(steps, tau=tau), network, cells, ATan(), decoder, shape, classes)


def pair(rule, described, seed=0):
    """A model and its ANN in double precision, with random biases, converted."""
    model = described.build(Key.of(seed)).double().eval()
    ann = rule.twin(model).double().eval()
    for i, module in enumerate(ann.modules()):
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            module.bias.data = Key.of(seed).fold(i).normal(module.bias.shape).double() * 0.3
    rule.convert(ann, model, CHOSEN, Key.of(0))
    return model, ann


@pytest.mark.parametrize(("steps", "tau"), [(20, 4.0), (64, 12.0), (2, 1.0)])
def test_a_value_is_sent_with_the_relative_precision_of_the_kernel_or_not_at_all(steps, tau):
    x, code = torch.linspace(0, 1, 1001).double(), KernelCode(steps, tau=tau)
    spikes = code(x[None])[:, 0]
    sent, least = spikes.sum(0), math.exp(-(steps - 2) / tau)
    assert ((spikes != 0).sum(0) <= 1).all()
    assert not spikes[-1].any()
    loud = x >= least
    assert (sent[loud] <= x[loud] * (1 + 1e-6)).all()
    assert (sent[loud] > x[loud] * math.exp(-1 / tau) * (1 - 1e-6)).all()
    assert not sent[~loud].any()
    assert torch.allclose(code.decode(spikes), sent)


@pytest.mark.parametrize("neuron", [ConvertedT2FSNN(30, 5.0), ConvertedT2FSNN(12, 3.0, 4.0, threshold=0.5)])
def test_a_potential_is_sent_at_the_first_step_whose_threshold_it_reaches(neuron):
    v = torch.linspace(-0.5, 3, 400).double()
    current = torch.zeros(neuron.steps, 1, 400).double()
    current[2] = v
    spikes = Spiking(neuron)(current)[:, 0]
    kernel = [math.exp(-(t - neuron.delay) / neuron.tau) for t in range(neuron.steps - 1)]
    for i, potential in enumerate(v.tolist()):
        wanted = [0.0] * neuron.steps
        at = next((t for t, k in enumerate(kernel) if potential >= neuron.threshold * k), None)
        if at is not None:
            wanted[at] = kernel[at]
        assert spikes[:, i].tolist() == pytest.approx(wanted)
    sent = neuron.threshold * spikes.sum(0)
    inside = (v >= neuron.threshold * kernel[-1]) & (v <= neuron.threshold * kernel[0])
    assert (sent[inside] > v[inside] * math.exp(-1 / neuron.tau) * (1 - 1e-9)).all()
    assert (v[inside] - sent[inside]).min() > -1e-9


def clocked(model, image, early):
    """The potentials of the output layer, by a clock on which layers fire in overlapping phases."""
    steps, layers = model.spec.encoder.steps, neurons_of(model.network.layers)[:-1]
    weights = [m for m in model.modules() if isinstance(m, nn.Linear)]
    trains = [model.encoder(image[None].flatten(1), None)[:, 0]]
    for level, (linear, layer) in enumerate(zip(weights, layers, strict=False), 1):
        begin, source = level * (steps - early), (level - 1) * (steps - early)
        v = steps * linear.bias.detach()
        fired, train = torch.zeros_like(v), torch.zeros(steps, len(v)).double()
        for now in range(source, begin + steps - 1):
            if now >= begin:
                kernel = torch.exp(-(now - begin - layer.delay.detach()) / layer.tau.detach())
                fires = (v >= kernel) & (fired == 0)
                train[now - begin] = fires * kernel
                fired = fired + fires
            if now < source + steps:  # what is sent in this step has arrived in the next one
                v = v + linear.weight.detach() @ trains[-1][now - source]
        trains.append(train)
    return weights[-1].weight.detach() @ trains[-1].sum(0) / steps + weights[-1].bias.detach()


@pytest.mark.parametrize("early", [0, 1, 10, 19])
def test_early_firing_is_what_a_clock_with_overlapping_phases_says(early):
    model, _ = pair(PLAIN, spec(steps=20, tau=4.0, early=early))
    for image in IMAGES[:5]:
        assert torch.allclose(model(image[None])[0], clocked(model, image, early), atol=1e-12)


def test_early_firing_costs_little_at_half_a_phase_and_changes_spikes():
    outputs = [pair(PLAIN, spec(early=early))[0](IMAGES).detach() for early in (0, 30, 59)]
    apart = [float((each - outputs[0]).abs().mean() / outputs[0].std()) for each in outputs]
    assert 0 < apart[1] < 0.3 < apart[2]


@pytest.mark.parametrize("decoder", [MeanCurrent(), MeanPotential()], ids=repr)
@pytest.mark.parametrize(
    "network",
    [
        MLP((20, 15)),
        ConvNet((4,), (6,)),
        ConvNet((4,), pool="gated-max"),
        VGG9(0.05, (6,)),
        ResNet18((1, 1, 1, 1), 0.05),
        SEWResNet((1, 1, 1, 1), 0.05),
    ],
    ids=["mlp", "average", "gated-max", "vgg9", "resnet18", "sew-resnet"],
)
def test_a_converted_network_comes_near_its_ann_as_kernels_grow_precise(network, decoder):
    errors = []
    for tau in (4.0, 16.0, 64.0):
        described = spec(network, steps=int(8 * tau), tau=tau, decoder=decoder)
        model, ann = pair(PLAIN, described)
        with torch.no_grad():
            wanted = ann(IMAGES[:10])
            errors.append(float((model(IMAGES[:10]) - wanted).abs().max() / wanted.std()))
    assert all(error <= 25 / tau for error, tau in zip(errors, (4.0, 16.0, 64.0), strict=True)), errors
    assert errors[2] < errors[0] / 4


def test_a_threshold_folded_into_the_weights_changes_no_spike():
    spikes = []
    for threshold in (1.0, 0.25, 4.0):
        model, _ = pair(PLAIN, spec(threshold=threshold))
        spikes.append(model.network.layers[1](model.network.layers[0](model.encoder(IMAGES, None))))
    assert spikes[0].any()
    assert all(torch.equal(spikes[0], other) for other in spikes[1:])


def losses_of(x, tau, delay, last):
    """In NumPy, one number after the other."""
    apart = []
    for value in x.ravel():
        times = [t for t in range(last + 1) if value >= math.exp(-(t - delay) / tau)]
        if times:
            apart.append((value - math.exp(-(times[0] - delay) / tau)) ** 2)
    low = [(np.quantile(row[row > 0], 0.02) - math.exp(-(last - delay) / tau)) ** 2 for row in x]
    high = [(row.max() - math.exp(delay / tau)) ** 2 for row in x]
    return [np.mean(part) / 2 for part in (apart, low, high)]


@pytest.mark.parametrize(("tau", "delay"), [(5.0, 0.0), (8.0, 3.0)])
def test_the_losses_of_a_kernel_are_their_formulas(tau, delay):
    x = (Key.of(2).uniform((6, 30)).double() * 1.6 - 0.3).clamp(min=0)
    constants = torch.tensor(tau).double().requires_grad_(), torch.tensor(delay).double().requires_grad_()
    losses = kernel_losses(x, *constants, 18)
    assert [float(loss.detach()) for loss in losses] == pytest.approx(losses_of(x.numpy(), tau, delay, 18))
    by_tau, by_delay = torch.autograd.grad(torch.stack(losses).sum(), constants)
    times = spike_times(x, *(c.detach() for c in constants), 18)
    fires = times.isfinite()
    sent = torch.where(fires, torch.exp(-(times - delay) / tau), 0.0)
    precision = -((x - sent) * sent * (times.where(fires, torch.zeros(())) - delay))[fires].sum()
    least, most = x.where(x > 0, torch.nan).nanquantile(0.02, dim=1), x.amax(1)
    end, start = math.exp(-(18 - delay) / tau), math.exp(delay / tau)
    wanted = precision / fires.sum() / tau**2 - ((least - end) * end * (18 - delay)).mean() / tau**2
    assert float(by_tau) == pytest.approx(float(wanted))
    assert float(by_delay) == pytest.approx(float(-((most - start) * start).mean() / tau))


def test_fitting_lowers_the_losses_and_a_low_percentile_calls_for_a_delay():
    for percentile, delayed in ((100.0, False), (80.0, True)):
        rule = T2FSNNConversion(percentile=percentile, tuning=100)
        model, _ = pair(rule, spec(tau=30.0))
        for layer in neurons_of(model.network.layers)[:-1]:
            assert layer.tau.item() < 30.0  # whose last threshold no small activation reached
            assert (layer.delay.item() > 0) == delayed
    kept, _ = pair(PLAIN, spec(tau=30.0, delay=2.0))
    assert [(n.tau.item(), n.delay.item()) for n in neurons_of(kept.network.layers)[:-1]] == [(30.0, 2.0)] * 2


def test_of_spikes_in_a_window_the_earliest_passes_the_gate_alone():
    spikes = KernelCode(12, tau=3.0)(Key.of(1).uniform((4, 2, 6, 6)).double())
    pooled = GatedMaxPool(2)(spikes)
    assert ((pooled != 0).sum(0) <= 1).all()
    assert torch.allclose(pooled.sum(0), nn.MaxPool2d(2)(spikes.sum(0)))


def test_the_rate_twin_is_the_ann_up_to_the_precision_of_its_input():
    model, ann = pair(PLAIN, spec(steps=400, tau=50.0))
    twin = rate_twin(model)
    assert torch.allclose(twin(IMAGES), ann(IMAGES), atol=0.05)
    assert ann(IMAGES).std() > 0.2


@pytest.mark.parametrize("decoder", [Count(), FirstSpike()], ids=repr)
def test_output_neurons_may_fire_and_their_first_spike_is_the_largest_logit(decoder):
    model, ann = pair(PLAIN, spec(steps=500, tau=60.0, decoder=decoder))
    clear = ann(IMAGES).sort(1).values
    clear = (clear[:, -1] > 0.1) & (clear[:, -1] - clear[:, -2] > 0.1 * clear[:, -1])
    if isinstance(decoder, FirstSpike):
        assert torch.equal(model(IMAGES[clear]).argmax(1), ann(IMAGES[clear]).argmax(1))
        assert clear.sum() > 15
    assert ((model.outputs(IMAGES) != 0).sum(0) <= 1).all()


def test_kernels_are_saved_and_loaded(tmp_path):
    model, _ = pair(T2FSNNConversion(tuning=20), spec())
    model = model.float()
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(IMAGES.float()), model(IMAGES.float()))
    assert neurons_of(load(tmp_path).network.layers)[0].tau != 8.0


@pytest.mark.parametrize("early", [0, 20])
def test_a_converted_t2fsnn_is_as_good_as_its_ann_on_digits(early):
    data = Digits().load()
    rule = T2FSNNConversion(BPTT(epochs=6, batch_size=32, lr=0.005))
    described = spec(MLP((60,)), 40, 10.0, shape=(1, 8, 8), classes=10, early=early)
    model = described.build(Key.of(0))
    history = rule.train(model, data, Key.of(0))
    ann, converted = history.epochs[-2], history.epochs[-1]
    assert ann.validation_accuracy > 0.9
    assert converted.validation_accuracy >= ann.validation_accuracy - 0.01
    assert converted.validation_accuracy == accuracy(model, data.validation, Key.of(0), 50)


@pytest.mark.parametrize(
    ("described", "word"),
    [
        (ModelSpec(KernelCode(8), MLP((5,)), IF(), ATan(), MeanCurrent(), SHAPE, 3), "t2fsnn-converted"),
        (ModelSpec(Direct(80), MLP(), ConvertedT2FSNN(), ATan(), MeanCurrent(), SHAPE, 3), "kernel-code"),
        (ModelSpec(KernelCode(8), MLP(), ConvertedT2FSNN(9), ATan(), MeanCurrent(), SHAPE, 3), "9 steps"),
        (
            ModelSpec(
                *(KernelCode(80), MLP(), ConvertedT2FSNN(), ATan(), MeanCurrent(), SHAPE, 3),
                normalise=Normalise((0.5,), (0.5,)),
            ),
            "normalise",
        ),
        (spec(ResNet18((1, 1, 1, 1), 0.05), early=5), "one after the other"),
        (spec(SEWResNet((1, 1, 1, 1), 0.05), early=5), "one after the other"),
    ],
    ids=range(6),
)
def test_models_without_kernels_are_refused_before_training(described, word):
    part = Split(IMAGES.float(), (IMAGES[:, 0, 0, 0] > 0.5).long(), torch.arange(40))
    data, seen = Dataset("dots", part, part, part, ("a", "b", "c"), "d", "made here"), []
    with pytest.raises(InputError, match=word):
        PLAIN.train(described.build(Key.of(0)), data, Key.of(0), on_batch=lambda *done: seen.append(done))
    assert not seen


@pytest.mark.parametrize(
    "make",
    [
        lambda: T2FSNNConversion(percentile=0.0),
        lambda: T2FSNNConversion(tuning=-1),
        lambda: T2FSNNConversion(lr=0.0),
        lambda: ConvertedT2FSNN(steps=1),
        lambda: ConvertedT2FSNN(steps=8, early=8),
        lambda: ConvertedT2FSNN(delay=-1.0),
        lambda: ConvertedT2FSNN(tau=0.0),
        lambda: KernelCode(1),
        lambda: KernelCode(tau=0.0),
        lambda: Recurrent(ConvertedT2FSNN()),
        lambda: Spiking(ConvertedT2FSNN(steps=5))(torch.zeros(4, 1)),
    ],
    ids=range(11),
)
def test_kernels_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()

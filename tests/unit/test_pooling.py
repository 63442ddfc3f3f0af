"""Max pooling of spikes: against counting in plain Python, in networks, and in conversions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeproof.datasets import Split
from spikeproof.decoders import Count, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.from_ann.balancing import Rueckauer
from spikeproof.learning.from_ann.scalegraph import scale_graph
from spikeproof.networks.architecture import ConvNet, OverTime
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.deep import VGG9, ResNet18
from spikeproof.networks.pooling import GatedMaxPool
from spikeproof.neurons import IF, LIF, PSP, ReLU, Spiking, Synapse
from spikeproof.surrogates import ATan

SHAPE = (1, 8, 8)
IMAGES = Key.of(9).uniform((20, *SHAPE)).double()
CHOSEN = Split(IMAGES, torch.arange(20) % 3, torch.arange(20))


def spec(network, neuron=IF(), steps=4, decoder=MeanCurrent()):
    return ModelSpec(Direct(steps), network, neuron, ATan(), decoder, SHAPE, 3)


def trains(steps, seed):
    return (Key.of(seed).uniform((steps, 3, 2, 6, 6)) < Key.of(seed).fold("rate").uniform((6, 6))).float()


def gate(window):
    """Which spikes of a window pass, step by step: those that make a count the only largest one."""
    counts, passed, lead = [0] * len(window[0]), [], 0
    for step in window:
        counts = [n + int(s) for n, s in zip(counts, step, strict=True)]
        passed.append(float(max(counts) > lead))
        lead = max(counts)
    return passed


@pytest.mark.parametrize("seed", [0, 1])
def test_the_gate_passes_the_spikes_that_a_count_in_plain_python_passes(seed):
    spikes = trains(30, seed)
    pooled = GatedMaxPool(2)(spikes)
    assert pooled.shape == (30, 3, 2, 3, 3)
    for b, c, i, j in [(0, 0, 0, 0), (1, 1, 2, 1), (2, 0, 1, 2)]:
        window = spikes[:, b, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten(1)
        assert pooled[:, b, c, i, j].tolist() == gate(window.tolist())


@pytest.mark.parametrize(("size", "stride", "padding"), [(2, None, 0), (3, 2, 1), (2, 1, 0)])
def test_the_count_that_passes_is_the_largest_at_every_step_and_later_steps_change_nothing(
    size, stride, padding
):
    spikes, pool = trains(40, 2), GatedMaxPool(size, stride, padding)
    pooled = pool(spikes)
    assert set(pooled.unique().tolist()) == {0.0, 1.0}
    wanted = F.max_pool2d(spikes.cumsum(0).flatten(0, 1), size, stride, padding).view(pooled.shape)
    assert torch.equal(pooled.cumsum(0), wanted)
    assert torch.equal(pool(spikes[:13]), pooled[:13])


def test_pooling_of_each_step_lets_more_spikes_pass_than_any_neuron_fires():
    rates = torch.tensor([0.1, 0.3, 0.2, 0.4]).view(2, 2)
    spikes = (Key.of(3).uniform((20_000, 1, 1, 2, 2)) < rates).float()
    each_step = OverTime(nn.MaxPool2d(2))(spikes).mean()
    assert float(each_step) == pytest.approx(1 - 0.9 * 0.7 * 0.8 * 0.6, abs=0.01)
    assert float(GatedMaxPool(2)(spikes).mean()) == float(spikes.mean(0).max())


@pytest.mark.parametrize("kind", ["max", "gated-max"])
@pytest.mark.parametrize("network", [ConvNet((3, 4)), VGG9(0.04, (5,)), ConvNet((3,), batch_norm=False)])
def test_the_twin_has_convolution_rectifier_and_max_pooling_one_after_the_other(kind, network):
    network = replace(network, pool=kind)
    model = spec(network, ReLU(), 1, MeanPotential()).build(Key.of(0)).double().eval()
    y = IMAGES
    layers = iter(model.network.layers[:-1])
    for layer in layers:
        match list(layer.children()):
            case [nn.Conv2d() as convolution, *norm]:
                assert type(convolution) is nn.Conv2d
                y = F.conv2d(y, convolution.weight, convolution.bias, padding=1)
                y = norm[0](y) if norm else y
            case [nn.MaxPool2d()]:
                y = F.max_pool2d(y, 2)
            case [*_, nn.Linear() as linear]:
                y = F.linear(y.flatten(1), linear.weight, linear.bias)
            case []:
                y = y.relu()
    assert torch.allclose(model(IMAGES), y, atol=1e-12)
    pools = sum(isinstance(m, nn.MaxPool2d) for m in model.modules())
    assert pools == (3 if isinstance(network, VGG9) else len(network.channels))


@pytest.mark.parametrize(("kind", "layer"), [("max", OverTime), ("gated-max", GatedMaxPool)])
def test_spikes_are_pooled_behind_the_neurons_and_before_their_synapses(kind, layer):
    model = spec(ConvNet((3,), pool=kind), LIF(threshold=0.2, synapse=PSP())).build(Key.of(0)).eval()
    kinds = [type(part) for part in model.network.layers][:4]
    assert kinds == [OverTime, Spiking, layer, Synapse]
    model(IMAGES.float()).sum().backward()
    assert model.network.layers[0][0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    "network",
    [
        ConvNet((4, 5), (6,), pool="gated-max"),
        VGG9(0.05, (6,), pool="gated-max"),
        ResNet18((1, 1, 1, 1), 0.05, "large-gated"),
    ],
    ids=["convnet", "vgg9", "resnet18"],
)
def test_a_converted_network_with_gated_pooling_comes_near_its_ann(network):
    rule, errors = Rueckauer(percentile=100.0), []
    for steps in (40, 120, 360):
        model = spec(network, steps=steps).build(Key.of(0)).double().eval()
        ann = rule.twin(model).double().eval()
        rule.convert(ann, model, CHOSEN, Key.of(0))
        with torch.no_grad():
            wanted = ann(IMAGES[:8])
            errors.append(float((model(IMAGES[:8]) - wanted).abs().max() / wanted.std()))
    assert all(error <= 40 / steps for error, steps in zip(errors, (40, 120, 360), strict=True)), errors
    assert len(scale_graph(model.network).links) == len(scale_graph(ann.network).links)


def test_weights_that_are_right_with_the_gate_are_wrong_with_pooling_of_each_step():
    rule, network = Rueckauer(percentile=100.0), ConvNet((6, 6), pool="gated-max")
    model = spec(network, steps=300).build(Key.of(0)).double().eval()
    ann = rule.twin(model).double().eval()
    rule.convert(ann, model, CHOSEN, Key.of(0))
    other = spec(replace(network, pool="max"), steps=300).build(Key.of(0)).double().eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        gated, plain = ((net(IMAGES) - ann(IMAGES)).abs().mean() for net in (model, other))
    assert gated < plain / 5


@pytest.mark.parametrize(
    "network", [ConvNet((3,), pool="max"), VGG9(0.04, pool="max")], ids=["convnet", "vgg9"]
)
def test_pooling_of_each_step_is_not_converted(network):
    with pytest.raises(InputError, match="gated-max or average"):
        Rueckauer().check_model(spec(network, decoder=Count()).build(Key.of(0)))


@pytest.mark.parametrize("make", [lambda: ConvNet(pool="largest"), lambda: VGG9(pool="median")])
def test_a_pooling_of_an_unknown_name_is_refused(make):
    with pytest.raises(InputError, match="average, max, gated-max"):
        make()

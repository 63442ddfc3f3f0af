"""Deep architectures: published sizes, wiring against networks written out by hand, small images."""

import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.catalogue.saved import load, save
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import OverTime
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.deep import VGG9, VGG11, VGG16, Residual, ResNet18, ResNet19, SEWResNet
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import IF, LIF, PSP, ReLU, Softplus, Spiking, unroll
from spikeproof.surrogates import ATan, Triangle

IMAGENET, CIFAR = ((3, 224, 224), 1000), ((3, 32, 32), 10)
X = Key.of(1).uniform((3, 2, 8, 8))
ACTIVATIONS = [(ReLU(), F.relu), (Softplus(), F.softplus)]


def spec(network, neuron=IF(), decoder=Count(), steps=3, shape=(2, 8, 8), classes=4):
    return ModelSpec(Direct(steps), network, neuron, ATan(), decoder, shape, classes)


def count(network, shape, classes, neuron=IF()):
    with torch.device("meta"):
        model = spec(network, neuron, MeanPotential(), 1, shape, classes).build(Key.of(0))
    return sum(weights.numel() for weights in model.parameters())


@pytest.mark.parametrize(
    ("network", "data", "published"),
    [
        # Simonyan & Zisserman 2015, table 2: 133 and 138 million; exact numbers on torchvision's pages
        (VGG11(hidden=(4096, 4096), batch_norm=False), IMAGENET, 132_863_336),
        (VGG16(hidden=(4096, 4096), batch_norm=False), IMAGENET, 138_357_544),
        # kuangliu/pytorch-cifar has 14,728,266 and 9,231,114, its convolutions having a bias beside BN's
        (VGG16(), CIFAR, 14_728_266 - 4224),
        (VGG11(), CIFAR, 9_231_114 - 2752),
        # 11.69 and 21.80 million in torchvision's model pages and, for SEW, in Zhou et al. 2023, table 1
        (ResNet18(stem="large"), IMAGENET, 11_689_512),
        (ResNet18((3, 4, 6, 3), stem="large"), IMAGENET, 21_797_672),
        (SEWResNet(stem="large"), IMAGENET, 11_689_512),
        (SEWResNet((3, 4, 6, 3), stem="large"), IMAGENET, 21_797_672),
        (ResNet18(), CIFAR, 11_173_962),  # kuangliu/pytorch-cifar: 11.17 million
        (ResNet19(hidden=(128,)), CIFAR, 12_631_050),  # 12.63 million in Zhou et al. 2023, table 4
    ],
    ids=repr,
)
@pytest.mark.parametrize("neuron", [IF(), ReLU(), Softplus()], ids=repr)
def test_parameter_counts_are_the_published_ones(network, data, published, neuron):
    assert count(network, *data, neuron) == published


def test_the_number_of_weights_of_vgg9_is_the_sum_over_its_published_layers():
    sizes = [3, 64, 64, 128, 128, 256, 256, 256]
    wanted = sum(9 * a * b + 2 * b for a, b in pairwise(sizes))
    assert count(VGG9(), *CIFAR) == wanted + (256 * 16 + 1) * 1024 + (1024 + 1) * 10


def bn(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def shaken(model):
    """The model with normalisation that does something."""
    for i, module in enumerate(model.modules()):
        if isinstance(module, nn.BatchNorm2d):
            shape = module.weight.shape
            for j, tensor in enumerate((module.weight.data, module.running_var)):
                tensor.copy_(Key.of(i).fold(j).uniform(shape) + 0.5)
            for j, tensor in enumerate((module.bias.data, module.running_mean), 2):
                tensor.copy_(Key.of(i).fold(j).uniform(shape) - 0.5)
    return model.double().eval()


def layers_of(model):
    """Convolutions with their normalisation, then linear layers, in the order in which they are built."""
    found = [m for m in model.modules() if isinstance(m, (nn.Conv2d, nn.BatchNorm2d, nn.Linear))]
    return iter(found)


@pytest.mark.parametrize(("neuron", "f"), ACTIVATIONS, ids=["relu", "softplus"])
def test_the_twin_of_resnet19_is_the_plain_residual_network(neuron, f):
    network = ResNet19((2, 1, 1), 0.05, hidden=(6,))
    model = shaken(spec(network, neuron, MeanPotential(), 1).build(Key.of(0)))
    x, layers = X.double(), layers_of(model)

    def conv(x, stride=1, padding=1):
        return bn(F.conv2d(x, next(layers).weight, None, stride, padding), next(layers))

    y = f(conv(x))
    for stride in (1, 1, 2, 2):
        branch = conv(f(conv(y, stride)))
        y = f(branch + (y if stride == 1 else conv(y, 2, 0)))
    one, two = next(layers), next(layers)
    wanted = two(f(one(y.mean((2, 3)))))
    assert next(layers, None) is None
    assert torch.allclose(model(x), wanted, atol=1e-12)


@pytest.mark.parametrize("depth", [VGG9, VGG11, VGG16])
def test_the_twin_of_vgg_is_convolutions_and_poolings_one_after_the_other(depth):
    model = shaken(spec(depth(0.03), ReLU(), MeanPotential(), 1, (2, 9, 9)).build(Key.of(0)))
    y, layers = Key.of(3).uniform((3, 2, 9, 9)).double(), layers_of(model)
    plans = {
        VGG9: "64 64 P 128 128 P 256 256 256 P",
        VGG11: "64 P 128 P 256 256 P 512 512 P 512 512 P",
        VGG16: "64 64 P 128 128 P 256 256 256 P 512 512 512 P 512 512 512 P",
    }
    words = plans[depth].split()
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word != "P":
            layer = next(layers)
            assert layer.weight.shape[0] == max(1, round(0.03 * int(word)))
            y = F.conv2d(y, layer.weight, padding=1)
            if following == "P" and y.shape[-1] > 1:
                y = F.avg_pool2d(y, 2)
            y = F.relu(bn(y, next(layers)))
    y = y.flatten(1)
    rest = list(layers)
    for layer in rest[:-1]:
        y = F.relu(layer(y))
    assert torch.allclose(model(Key.of(3).uniform((3, 2, 9, 9)).double()), rest[-1](y), atol=1e-12)


@pytest.mark.parametrize("connect", ["add", "and", "iand"])
def test_sew_resnet_is_wired_step_by_step_as_its_equations_say(connect):
    """LIF neurons in float64, one step after the other, with the join written as logic on spikes."""
    network = SEWResNet((2, 1, 1, 1), 0.08, connect=connect)
    neuron = LIF(threshold=0.3)
    model = shaken(spec(network, neuron, MeanPotential(), 5).build(Key.of(2)))
    potentials, wanted, seen = {}, [], 0.0
    for _ in range(5):
        layers, place = layers_of(model), iter(range(99))

        def fire(current, place=place):
            name = next(place)
            v = math.exp(-1 / 4) * potentials.get(name, 0.0) + current
            z = (v >= 0.3).double()
            potentials[name] = v - 0.3 * z
            return z

        def conv(x, stride=1, padding=1, layers=layers):
            return bn(F.conv2d(x, next(layers).weight, None, stride, padding), next(layers))

        y = fire(conv(X.double()))
        for stride in (1, 1, 2, 2, 2):
            a = fire(conv(fire(conv(y, stride))))
            s = y if stride == 1 else fire(conv(y, 2, 0))
            wants = {"and": 1, "iand": 0}.get(connect)
            y = a + s if wants is None else ((a == wants) & (s == 1)).double()
            seen += y.sum().item()
        current = next(layers)(y.mean((2, 3)))
        potentials["out"] = math.exp(-1 / 4) * potentials.get("out", 0.0) + current
        wanted.append(potentials["out"])
    assert seen > 100
    assert torch.allclose(model.outputs(X.double()), torch.stack(wanted), atol=1e-10)


@pytest.mark.parametrize("network", [ResNet18((1, 1, 1, 1), 0.05), SEWResNet((1, 1, 1, 1), 0.05)], ids=repr)
def test_a_substitute_reaches_into_blocks_and_changes_gradients_only(network):
    model = spec(network, LIF(threshold=0.3)).build(Key.of(0)).eval()
    twin = substitute(model, spike=Triangle(0.3), unroll=unroll)
    inside = [m for block in twin.modules() if isinstance(block, Residual) for m in block.modules()]
    inside = [m for m in inside if isinstance(m, Spiking)]
    assert len(inside) >= 4
    assert all(m.spike == Triangle(0.3) and m.unroll is unroll for m in inside)
    assert not any(m.spike == Triangle(0.3) for m in model.modules() if isinstance(m, Spiking))
    assert torch.equal(twin(X), model(X))
    x = X.clone().requires_grad_()
    grads = [torch.autograd.grad(m.outputs(x).sum(), x)[0] for m in (model, twin)]
    assert grads[0].any()
    assert not torch.allclose(*grads)


@pytest.mark.parametrize("size", [1, 2, 5, 8, 28])
@pytest.mark.parametrize(
    "network",
    [
        *(VGG9(0.02, (4,)), VGG11(0.02), VGG16(0.02)),
        *(ResNet18(width=0.02), ResNet19(width=0.02), SEWResNet(width=0.02, stem="large")),
    ],
    ids=repr,
)
def test_images_of_any_size_pass(network, size):
    model = spec(network, shape=(1, size, size), steps=2).build(Key.of(0)).eval()
    assert model(torch.rand(2, 1, size, size)).shape == (2, 4)


def test_images_as_high_as_a_pixel_are_not_pooled():
    model = spec(VGG11(0.02), shape=(1, 1, 16)).build(Key.of(0)).eval()
    assert model(torch.rand(2, 1, 1, 16)).shape == (2, 4)


def test_what_a_constant_input_comes_to_is_computed_once_in_the_stem(monkeypatch):
    model, seen = spec(ResNet18((1, 1, 1, 1), 0.05), steps=4).build(Key.of(0)).eval(), []
    convolve = nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: seen.append(len(x)) or convolve(self, x))
    model(X)
    assert seen[0] == len(X)
    assert set(seen[1:]) == {4 * len(X)}
    assert isinstance(model.network.layers[0], OverTime)


def test_a_deep_model_is_saved_and_loaded(tmp_path):
    model = spec(SEWResNet((1, 1, 1, 1), 0.05, connect="iand")).build(Key.of(0)).eval()
    save(model, tmp_path)
    assert torch.equal(load(tmp_path)(X), model(X))
    assert {"vgg9", "resnet18", "resnet19", "sew-resnet"} <= MODEL_PARTS[type(VGG9()).__mro__[2]].keys()


@pytest.mark.parametrize("neuron", [ReLU(), Softplus(), LIF(synapse=PSP())], ids=repr)
@pytest.mark.parametrize("connect", ["and", "iand"])
def test_residual_and_connections_of_neurons_without_binary_spikes_are_refused(neuron, connect):
    with pytest.raises(InputError, match="add"):
        spec(SEWResNet(connect=connect), neuron, MeanPotential(), 1).build(Key.of(0))


@pytest.mark.parametrize(
    "make",
    [
        lambda: VGG9(0.0),
        lambda: VGG11(float("inf")),
        lambda: VGG9(hidden=(0,)),
        lambda: ResNet18((1, 1)),
        lambda: ResNet19((1, 0, 1)),
        lambda: SEWResNet(width=-1.0),
        lambda: ResNet19(hidden=(0,)),
    ],
    ids=range(7),
)
def test_widths_and_layer_sizes_out_of_range_are_refused(make):
    with pytest.raises(InputError, match="needs"):
        make()


def test_softplus_is_its_formula_and_overflows_nowhere():
    current = torch.tensor([[[-100.0, -1.0, 0.0, 2.0, 15.0, 500.0]]])
    wanted = [math.log1p(math.exp(-abs(v))) + max(v, 0.0) for v in current.flatten().tolist()]
    assert Spiking(Softplus())(current).flatten().tolist() == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    "network", [VGG9(0.04, (8,)), ResNet18((1, 1, 1, 1), 0.05), SEWResNet((1, 1, 1, 1), 0.05)]
)
def test_every_weight_of_a_deep_network_gets_a_gradient(network):
    coder = Latency(4)
    model = ModelSpec(coder, network, LIF(threshold=0.3), ATan(), MeanPotential(), (2, 8, 8), 4).build(
        Key.of(0)
    )
    F.cross_entropy(model(X), torch.tensor([0, 1, 2])).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters())

"""What every network and the classifier must satisfy; a new architecture or code adds a row."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spikeproof.decoders import Count, FirstSpike, MeanPotential
from spikeproof.encoders import (
    Bernoulli,
    Direct,
    EarlyBurst,
    Events,
    Fused,
    LateBurst,
    Latency,
    Phase,
    Population,
    Reversed,
    SpikeGated,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, ConvNet, OverTime, PooledConv2d
from spikeproof.networks.classifier import Inference, ModelSpec, Normalise
from spikeproof.networks.deep import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
from spikeproof.networks.recurrent import GRU, LSNN, LSTM
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    AHP,
    ALIF,
    DLIF,
    FS,
    IF,
    LIF,
    PLIF,
    PSP,
    SNU,
    SRM,
    CuBaLIF,
    Mixture,
    Plastic,
    Recurrent,
    ReLU,
    Softplus,
    Spiking,
    ToZero,
    unroll,
)
from spikeproof.surrogates import ATan, Triangle

SHAPE = (2, 8, 8)
X = Key.of(1).uniform((5, *SHAPE))
ARCHITECTURES = [
    *(MLP((12,)), MLP(()), MLP((9, 7)), ConvNet((4, 6)), ConvNet((3,), (10,), batch_norm=False)),
    *(VGG9(0.04, (10,)), VGG11(0.03), VGG16(0.02, batch_norm=False), ResNet18((1, 1, 1, 1), 0.05)),
    *(ResNet19((2, 1, 1), 0.03, hidden=(6,)), ResNet18((1, 1, 1, 1), 0.05, "large")),
    *(SEWResNet((1, 1, 1, 2), 0.05, connect=connect) for connect in ("add", "and", "iand")),
    *(ConvNet((4, 6), pool="max"), ConvNet((4, 6), pool="gated-max"), VGG9(0.04, pool="gated-max")),
    *(VGG9(0.04, pool="max"), ResNet18((1, 1, 1, 1), 0.05, "large-gated")),
]
LEARNING = [
    *(PLIF(threshold=0.3), ALIF(learn=True), AHP(), CuBaLIF(), SRM(), DLIF(steps=4), SNU()),
    *(Mixture(PLIF(), ALIF(learn=True)), Plastic(PLIF())),
]
SPECS = [
    *(ModelSpec(Latency(5), a, LIF(), ATan(), Count(), SHAPE, 3) for a in ARCHITECTURES),
    ModelSpec(Direct(4), ConvNet((4,)), IF(reset=ToZero()), Triangle(), FirstSpike(), SHAPE, 3),
    ModelSpec(Bernoulli(4), MLP((12,)), LIF(synapse=PSP()), ATan(), MeanPotential(), SHAPE, 3),
    ModelSpec(EarlyBurst(6), MLP((12,)), LIF(), ATan(), Count(), SHAPE, 3, Normalise((0.5, 0.4), (0.2, 0.3))),
    *(
        ModelSpec(Direct(1), a, neuron, ATan(), MeanPotential(), SHAPE, 3)
        for a in (VGG9(0.04), ResNet19((1, 1, 1), 0.03), SEWResNet((1, 1, 1, 1), 0.05))
        for neuron in (ReLU(), Softplus())
    ),
    ModelSpec(Population(Latency(5), neurons=3), ConvNet((4,)), LIF(), ATan(), Count(), SHAPE, 3),
    ModelSpec(Fused((Phase(8), Bernoulli(8))), MLP((12,)), LIF(), ATan(), Count(), SHAPE, 3),
    *(ModelSpec(Direct(4), ConvNet((3,), (6,)), neuron, ATan(), Count(), SHAPE, 3) for neuron in LEARNING),
    ModelSpec(Direct(4), ConvNet((3,), (6,)), FS(steps=4, learn=True), ATan(), MeanPotential(), SHAPE, 3),
    ModelSpec(Latency(4), MLP((9,)), Recurrent(Plastic(LIF())), ATan(), Count(), SHAPE, 3),
    ModelSpec(Latency(4), LSNN((9, 7), adaptive=ALIF(learn=True)), LIF(), ATan(), MeanPotential(), SHAPE, 3),
    ModelSpec(Latency(4), LSNN((9,), 0.4, AHP(), False), SRM(synapse=PSP()), ATan(), Count(), SHAPE, 3),
    ModelSpec(Latency(4), GRU((6, 5)), ReLU(), ATan(), MeanPotential(), SHAPE, 3),
    ModelSpec(Latency(4), LSTM((6,)), ReLU(), ATan(), MeanPotential(), SHAPE, 3),
    ModelSpec(Direct(1), ConvNet((4, 6)), ReLU(), ATan(), MeanPotential(), SHAPE, 3),
]


@pytest.fixture(params=SPECS, ids=repr)
def model(request):
    return request.param.build(Key.of(0)).eval()


def test_two_equal_calls_give_equal_answers_and_other_calls_leave_no_trace(model):
    key = Key.of(5).for_rows(range(5))
    first = model(X, key)
    model(X[:2], key.for_rows(range(2)))
    assert torch.equal(model(X, key), first)
    assert first.shape == (5, 3)


def test_the_answer_to_an_example_does_not_depend_on_the_rest_of_the_batch(model):
    key = Key.of(5).for_rows(range(5))
    whole = model(X, key)
    assert torch.allclose(model(X[[3, 1]], key.for_rows([3, 1])), whole[[3, 1]], atol=1e-5)


def test_inference_returns_the_logits_of_the_forward_pass_and_counts_spikes(model):
    key = Key.of(5)
    answer = model.infer(X, key)
    assert isinstance(answer, Inference)
    assert torch.equal(answer.logits, model(X, key))
    fired = [model.encoder(X, key.fold("encoder"))] if model.encoder.spiking else []
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: fired.append(out))
        for layer in model.modules()
        if isinstance(layer, Spiking) and layer.neuron.spiking
    ]
    model(X, key)
    for hook in hooks:
        hook.remove()
    wanted = sum(((s != 0).float().flatten(2).sum((0, 2)) for s in fired), torch.zeros(5))
    assert torch.equal(answer.spikes, wanted)


def test_building_is_replayable_and_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    one, two, other = (SPECS[3].build(Key.of(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    for name, weight in one.state_dict().items():
        assert torch.equal(weight, two.state_dict()[name])
    assert any(not torch.equal(w, other.state_dict()[n]) for n, w in one.state_dict().items())


@pytest.mark.parametrize(
    "parts",
    [{"spike": Triangle(0.3)}, {"unroll": unroll}, {"backward": SpikeGated()}, {"spike": ATan(9.0)}],
    ids=["triangle", "unroll", "gated", "sharp"],
)
def test_a_substitute_shares_weights_and_spikes_and_changes_only_gradients(parts):
    model = ModelSpec(LateBurst(6), ConvNet((4,)), LIF(), ATan(), Count(), SHAPE, 3).build(Key.of(0)).eval()
    before, spikes = (
        copy.deepcopy(model.state_dict()),
        [m.spike for m in model.modules() if hasattr(m, "spike")],
    )
    twin = substitute(model, **parts)
    assert torch.equal(twin(X), model(X))
    shared = {p.data_ptr() for p in twin.parameters()}
    assert shared == {p.data_ptr() for p in model.parameters()}
    assert [m.spike for m in model.modules() if hasattr(m, "spike")] == spikes
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())
    x = X.clone().requires_grad_()
    grads = [torch.autograd.grad(m(x)[:, 0].sum(), x)[0] for m in (model, twin)]
    assert torch.allclose(*grads, atol=1e-5) == ("unroll" in parts)


def test_the_relu_twin_is_the_plain_network_with_the_same_weights():
    """Built by hand with the layers of torch.nn: convolution, average pooling, batch norm, ReLU."""
    spec = SPECS[-1]
    model = spec.build(Key.of(0)).eval()
    spiking = ModelSpec(Direct(4), spec.network, LIF(), ATan(), MeanPotential(), SHAPE, 3).build(Key.of(0))
    for name, weight in spiking.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    plain = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.AvgPool2d(2), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(6 * 2 * 2, 3)),
    ).eval()
    plain.load_state_dict(dict(zip(plain.state_dict(), model.state_dict().values(), strict=True)))
    assert torch.allclose(model(X), plain(X), atol=1e-6)


@pytest.mark.parametrize("synapse", [None, PSP(tau=2e-3)], ids=repr)
@pytest.mark.parametrize("decoder", [Count(), MeanPotential()], ids=repr)
def test_the_layers_of_a_spiking_network_are_wired_as_their_equations_say(synapse, decoder):
    """Written step by step, with a trace on hidden spikes only and none on the output."""
    neuron = LIF(threshold=0.4, synapse=synapse)
    model = ModelSpec(Latency(5), MLP((12,)), neuron, ATan(), decoder, SHAPE, 3).build(Key.of(0)).eval()
    first, second = (m for m in model.modules() if isinstance(m, nn.Linear))
    hidden, out, trace, wanted = torch.zeros(5, 12), torch.zeros(5, 3), torch.zeros(5, 12), []
    for spikes in Latency(5)(X):
        hidden = math.exp(-1 / 4) * hidden + first(spikes.flatten(1))
        fired = (hidden >= 0.4).float()
        hidden = hidden - 0.4 * fired
        trace = math.exp(-1 / 2) * trace + (1 - math.exp(-1 / 2)) * fired
        out = math.exp(-1 / 4) * out + second(fired if synapse is None else trace)
        wanted.append(out if decoder == MeanPotential() else (out >= 0.4).float())
        out = out - 0.4 * (out >= 0.4).float() if decoder == Count() else out
    assert torch.stack(wanted).any()
    assert torch.allclose(model.outputs(X), torch.stack(wanted), atol=1e-5)


def test_fresh_weights_keep_the_variance_of_rectified_signals():
    model = ModelSpec(Direct(2), ConvNet((32, 64)), LIF(), ATan(), Count(), (3, 8, 8), 200).build(Key.of(0))
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for weight in weights:
        assert weight.std().item() == pytest.approx((2 / weight[0].numel()) ** 0.5, rel=0.05)
    assert all(not m.bias.any() for m in model.modules() if isinstance(m, nn.Linear))


@pytest.mark.parametrize("size", [2, 7, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_pooled_convolution_is_convolution_then_pooling(size, bias):
    layer, x = PooledConv2d(3, 5, bias=bias).double(), Key.of(0).uniform((2, 3, size, size)).double()
    wanted = F.avg_pool2d(F.conv2d(x, layer.weight, layer.bias, padding=1), 2)
    assert torch.allclose(layer(x), wanted, atol=1e-12)


def test_a_constant_input_is_computed_once_and_means_the_same():
    layer = OverTime(nn.Linear(4, 3))
    once = Key.of(0).uniform((2, 4))
    expanded = once.expand(6, 2, 4)
    assert torch.allclose(layer(expanded), layer(expanded.contiguous()), atol=1e-6)
    x = once.clone().requires_grad_()
    weight = Key.of(1).normal((6, 2, 3))
    grads = [
        torch.autograd.grad((layer(v) * weight).sum(), x)[0]
        for v in (x.expand(6, 2, 4), x.repeat(6, 1, 1).view(6, 2, 4))
    ]
    assert torch.allclose(*grads, atol=1e-5)


def test_normalisation_is_per_channel_and_after_encoding():
    part = Normalise((0.5, 0.25), (0.5, 2.0))
    out = part(torch.ones(3, 1, 2, 4, 4))
    assert out[0, 0, :, 0, 0].tolist() == [1.0, 0.375]


def test_a_code_that_repeats_every_channel_is_normalised_block_by_block():
    part, x = Normalise((0.5, 0.25), (0.5, 2.0)), Key.of(0).uniform((3, 1, 4, 4, 4))
    assert torch.equal(part(x), torch.cat([part(x[:, :, :2]), part(x[:, :, 2:])], 2))


@pytest.mark.parametrize("network", ARCHITECTURES, ids=repr)
@pytest.mark.parametrize("training", [False, True])
def test_a_constant_input_is_normalised_once_with_the_logits_and_gradients_of_every_step(network, training):
    normalise = Normalise((0.5, 0.4), (0.2, 0.3))
    spec = ModelSpec(Direct(5), network, LIF(), ATan(), MeanPotential(), SHAPE, 3, normalise)
    model, images, rows = spec.build(Key.of(0)).train(training), Key.of(1).uniform((32, *SHAPE)), []
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            module.register_forward_hook(lambda _, given, out: rows.append(len(given[0])))
    found = []
    for encoded in (model.encode, lambda x: model.encode(x).contiguous()):
        x = images.clone().requires_grad_()
        outputs = model.respond(encoded(x))
        found.append((outputs.detach(), torch.autograd.grad(outputs.square().sum(), x)[0]))
    (once, gradient), (repeated, sums) = found
    assert min(rows[: len(rows) // 2]) == 32 < min(rows[len(rows) // 2 :])
    assert torch.equal(once, repeated) or (training and torch.allclose(once, repeated, atol=1e-5))
    assert torch.allclose(gradient, sums, rtol=1e-5, atol=1e-6 * sums.abs().max().item())


@dataclass(frozen=True)
class Doubled:
    """A code that gives the image twice, as two blocks of channels."""

    steps: int = 3
    stochastic: ClassVar[bool] = False
    spiking: ClassVar[bool] = False

    def output_shape(self, shape):
        return (2 * shape[0], *shape[1:])

    def __call__(self, x, key=None):
        return torch.cat([x, 1 - x], 1).expand(self.steps, -1, -1, -1, -1)


@pytest.mark.parametrize("network", ARCHITECTURES, ids=repr)
@pytest.mark.parametrize("encoder", [Doubled(), Reversed(Doubled())], ids=repr)
def test_a_network_is_built_for_the_channels_that_its_code_gives(network, encoder):
    normalise = Normalise((0.5, 0.4), (0.2, 0.3))
    spec = ModelSpec(encoder, network, LIF(), ATan(), Count(), SHAPE, 3, normalise)
    assert spec.encoded_shape == (4, 8, 8)
    assert spec.build(Key.of(0))(X).shape == (5, 3)


@pytest.mark.parametrize("encoder", [Events(6), Reversed(Events(6, binary=True))], ids=repr)
def test_events_come_with_examples_first_and_count_as_spikes(encoder):
    spec = ModelSpec(encoder, ConvNet((4,)), LIF(), ATan(), Count(), SHAPE, 3)
    model, events = spec.build(Key.of(0)).eval(), Key.of(1).uniform((5, 6, *SHAPE)).mul(3).floor()
    assert model(events).shape == (5, 3)
    wanted = events if encoder == Events(6) else (events > 0)
    first = []
    model.outputs(events, None, first)
    assert torch.equal(first[0].sum(0), wanted.flatten(1).sum(1).long())
    for wrong in (events[:, :5], events[:, 0], events[0]):
        with pytest.raises(InputError, match=r"events \[B, 6, 2, 8, 8\]"):
            model(wrong)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_answered_in_the_models(dtype):
    model = SPECS[0].build(Key.of(0)).eval()
    assert model(X.to(dtype)).dtype == torch.float32
    assert model.double()(X.double()).dtype == torch.float64


@pytest.mark.parametrize("images", [X[0], X[:, :1], X[..., :7], torch.zeros(2, 128)])
def test_images_of_the_wrong_shape_are_refused(images):
    with pytest.raises(InputError, match=r"\[B, 2, 8, 8\]"):
        SPECS[0].build(Key.of(0))(images)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"classes": 1}, "classes"),
        ({"input_shape": (1, 0, 8)}, "input_shape"),
        ({"neuron": ReLU()}, "mean-current"),
        ({"normalise": Normalise((0.5,), (0.5,))}, "channel"),
    ],
)
def test_a_single_class_empty_images_and_parts_that_do_not_fit_the_model_are_refused(change, word):
    fields = {name: getattr(SPECS[0], name) for name in SPECS[0].__dataclass_fields__}
    with pytest.raises(InputError, match=word):
        ModelSpec(**{**fields, **change})


def test_a_network_that_pools_more_than_there_is_is_refused():
    with pytest.raises(InputError, match="blocks"):
        ModelSpec(Direct(2), ConvNet((2, 2, 2, 2)), LIF(), ATan(), Count(), SHAPE, 3).build(Key.of(0))


def test_stateless_gradients_under_batch_norm_do_not_change_running_statistics():
    model = SPECS[3].build(Key.of(0)).eval()
    before = copy.deepcopy(model.state_dict())
    x = X.clone().requires_grad_()
    model(x).sum().backward()
    assert all(torch.equal(w, before[n]) for n, w in model.state_dict().items())

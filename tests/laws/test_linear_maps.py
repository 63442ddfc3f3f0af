"""Backward passes that cost less: forward passes to the bit, and the gradients that PyTorch gives."""

import pytest
import torch
from torch import nn

from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.search import evaluator
from spikeproof.compiled import Backward, fixed_weights, using_backward, using_spans
from spikeproof.decoders import Count
from spikeproof.encoders import Direct
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy
from spikeproof.networks import ConvNet, ModelSpec
from spikeproof.networks.architecture import OverTime, PooledConv2d
from spikeproof.networks.lean import maps
from spikeproof.networks.lean.maps import mapped
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan

LAYERS = [
    (lambda: nn.BatchNorm2d(4), (5, 4, 6, 6)),
    (lambda: nn.BatchNorm1d(4), (5, 4)),
    (lambda: nn.BatchNorm2d(4, affine=False), (5, 4, 6, 6)),
    (lambda: nn.BatchNorm2d(4, track_running_stats=False), (5, 4, 6, 6)),
    (lambda: nn.Conv2d(4, 3, 3, padding=1), (5, 4, 6, 6)),
    (lambda: nn.Conv2d(4, 4, 3, padding="same", groups=2, bias=False), (5, 4, 6, 6)),
    (lambda: nn.Conv2d(4, 6, 3, stride=2, dilation=2, groups=2), (5, 4, 8, 8)),
    (lambda: nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular"), (5, 4, 6, 6)),
    (lambda: PooledConv2d(4, 3, bias=True), (5, 4, 6, 6)),
    (lambda: nn.Linear(4, 3), (5, 4)),
]
NEAR = {Backward.PLAIN: 0.0, Backward.BFLOAT16: 2e-2}


def made(make, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer, x = make().eval(), torch.rand(shape)
        for value in layer.buffers():
            if value.is_floating_point():
                value.uniform_(0.2, 2.0)
        for value in layer.parameters():
            nn.init.normal_(value)
    return layer, x.requires_grad_()


def apart(one, other):
    return ((one - other).norm() / other.norm()).item()


@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_outputs_are_equal_to_the_bit_and_gradients_near(make, shape, backward):
    layer, x = made(make, shape)
    plain = layer(x)
    weight = Key.of(1).normal(plain.shape)
    wanted = torch.autograd.grad((plain * weight).sum(), [x, *layer.parameters()])
    with using_backward(backward):
        fast = mapped(layer, x)
        assert torch.equal(fast, plain)
        (alone,) = torch.autograd.grad((fast * weight).sum(), x, retain_graph=True)
        found = torch.autograd.grad((fast * weight).sum(), [x, *layer.parameters()])
    assert apart(alone, wanted[0]) <= NEAR[backward]
    assert apart(found[0], wanted[0]) <= NEAR[backward]
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert torch.equal(one, other)


def hooked(layer):
    layer.register_forward_hook(lambda module, given, out: -out)


def hooked_before(layer):
    layer.register_forward_pre_hook(lambda module, given: (2 * given[0],))


def patched(layer):
    inner = layer.forward
    layer.forward = lambda x: inner((4 * x).round() / 4)


@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize("change", [hooked, hooked_before, patched])
@pytest.mark.parametrize(("make", "shape"), [LAYERS[0], LAYERS[4], LAYERS[-1]])
def test_a_layer_whose_call_was_changed_is_called(make, shape, change, backward):
    layer, x = made(make, shape)
    change(layer)
    with using_backward(backward), fixed_weights():
        assert torch.equal(mapped(layer, x), layer(x))


@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize(("make", "shape"), [LAYERS[4], LAYERS[8], LAYERS[-1]])
def test_the_gradient_goes_through_weights_that_come_from_the_image(make, shape, backward):
    layer, x = made(make, shape)
    weight = layer.weight.detach()
    del layer.weight
    layer.weight = weight * x.mean()
    (wanted,) = torch.autograd.grad(layer(x).square().sum(), x, retain_graph=True)
    with using_backward(backward), fixed_weights():
        (found,) = torch.autograd.grad(mapped(layer, x).square().sum(), x)
    assert torch.equal(found, wanted)


def test_a_hook_on_all_modules_is_called():
    layer, x = made(*LAYERS[-1])
    plain = layer(x)
    handle = nn.modules.module.register_module_forward_hook(lambda module, given, out: -out)
    try:
        with fixed_weights():
            assert torch.equal(mapped(layer, x), -plain)
    finally:
        handle.remove()


def kept_by(run):
    """What a run gives, and the places in memory of what it keeps for a backward pass."""
    places = []

    def keep(saved):
        places.append(saved.data_ptr())
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        return run(), places


@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels last"])
@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_fixed_weights_keep_no_input_and_the_gradient_to_the_bit(make, shape, backward, last):
    layer, x = made(make, shape)
    if last and len(shape) == 4:
        layer = layer.to(memory_format=torch.channels_last)
        x = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    known = not isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) or (
        layer.affine and layer.track_running_stats
    )
    known &= getattr(layer, "padding_mode", "zeros") == "zeros" and layer.__dict__.get("padding") != "same"
    found, weight = [], Key.of(1).normal(layer(x).shape)
    for fixed in (False, True):
        with using_backward(backward), fixed_weights(fixed):
            out, places = kept_by(lambda: mapped(layer, x))
        assert not known or (x.data_ptr() in places) != fixed
        found.append((out, torch.autograd.grad((out * weight).sum(), x)[0]))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


@pytest.mark.parametrize("last", [False, True], ids=["rows", "channels last"])
@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize("make", [make for make, shape in LAYERS if shape == (5, 4, 6, 6)])
def test_a_large_gradient_is_computed_block_by_block_to_the_bit(make, backward, last, monkeypatch):
    layer, x = made(make, (96, 4, 6, 6))
    layout = torch.channels_last if last else torch.contiguous_format
    layer, x = layer.to(memory_format=layout), x.detach().contiguous(memory_format=layout).requires_grad_()
    weight, found = Key.of(1).normal(layer(x).shape), []
    for large in (1 << 24, 0):
        monkeypatch.setattr(maps, "LARGE", large)
        with using_backward(backward), fixed_weights(), torch.profiler.profile() as profile:
            found.append(torch.autograd.grad((mapped(layer, x) * weight).sum(), x)[0])
        parts = sum(event.name == "aten::convolution_backward" for event in profile.events())
        convolves = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and layer.padding != "same"
        assert not convolves or parts == (1 if large or last else 3)
    assert torch.equal(*found)


@pytest.mark.parametrize("shape", [(64, 1, 6, 6), (1, 4, 6, 6)], ids=["grey as colours", "one image"])
def test_a_large_gradient_of_an_expanded_image_is_that_of_pytorch(shape, monkeypatch):
    monkeypatch.setattr(maps, "LARGE", 0)
    layer, _ = made(lambda: nn.Conv2d(4, 3, 3), (64, 4, 6, 6))
    image = Key.of(0).normal(shape).requires_grad_()
    with fixed_weights():
        found = torch.autograd.grad(mapped(layer, image.expand(64, 4, 6, 6)).tanh().sum(), image)[0]
    assert torch.equal(found, torch.autograd.grad(layer(image.expand(64, 4, 6, 6)).tanh().sum(), image)[0])


@pytest.mark.parametrize("backward", Backward)
@pytest.mark.parametrize("fixed", [False, True], ids=["learning", "fixed"])
@pytest.mark.parametrize(("make", "shape"), LAYERS)
def test_gradients_of_gradients_are_those_of_pytorch(make, shape, fixed, backward):
    """A model may change its image along a gradient, as purification does, and is attacked through that."""
    layer, x = made(make, shape)

    def attacked(run):
        (along,) = torch.autograd.grad(run(x.tanh()).tanh().square().sum(), x, create_graph=True)
        return torch.autograd.grad(run((x + along).tanh()).tanh().sum(), x)[0]

    with using_backward(backward), fixed_weights(fixed):
        found = attacked(lambda images: mapped(layer, images))
    wanted = attacked(layer)
    assert (found - wanted).norm() <= (1e-5 if backward is Backward.PLAIN else 0.05) * wanted.norm()


@pytest.mark.parametrize("span", [None, 2])
def test_an_attack_fixes_weights_and_finds_the_same_gradient(span):
    spec = ModelSpec(Direct(5), ConvNet((4, 6), (8,)), LIF(threshold=0.3), ATan(), Count(), (1, 12, 12), 10)
    model, x, y = spec.build(Key.of(0)).eval(), Key.of(1).uniform((3, 1, 12, 12)), torch.arange(3)
    goal, leaf = evaluator(model, LogitCrossEntropy(), y), x.clone().requires_grad_()
    with using_spans(span):
        answer, fewer = kept_by(lambda: Exact()(goal, x, Key.of(2)))
        value, more = kept_by(lambda: goal(leaf, Key.of(2))[0])
        wanted = torch.autograd.grad(value.sum(), leaf)[0]
    assert torch.equal(answer.grad, wanted)
    assert wanted.abs().sum() > 0
    assert span or len(set(fewer)) < len(set(more))


def test_bfloat16_is_not_the_plain_backward_pass():
    layer, x = made(lambda: nn.Linear(40, 30), (5, 40))
    with using_backward(Backward.BFLOAT16):
        (coarse,) = torch.autograd.grad(mapped(layer, x).square().sum(), x)
    assert apart(coarse, torch.autograd.grad(layer(x).square().sum(), x)[0]) > 1e-4


def test_normalisation_is_differentiated_twice_as_before():
    layer, x = made(lambda: nn.BatchNorm2d(3), (4, 3, 5, 5))
    found = []
    for run in (layer, lambda x: mapped(layer, x)):
        (grad,) = torch.autograd.grad(run(x).pow(3).sum(), x, create_graph=True)
        found.append(torch.autograd.grad(grad.square().sum(), [x, layer.weight]))
    assert all(torch.allclose(*pair, rtol=1e-5) for pair in zip(*found, strict=True))


def test_training_and_hooks_keep_a_layers_own_call():
    layer, x = made(lambda: nn.Linear(4, 3), (5, 4))
    seen = []
    layer.register_forward_hook(lambda *_: seen.append(1))
    with using_backward(Backward.BFLOAT16):
        OverTime(layer)(x[None])
        assert seen == [1]
        norm = nn.BatchNorm1d(4)
        mapped(norm, x)
    assert norm.num_batches_tracked == 1


@pytest.mark.parametrize("backward", Backward)
def test_a_model_answers_alike_and_only_in_evaluation_mode_has_another_gradient(backward):
    spec = ModelSpec(Direct(3), ConvNet((4, 6), (8,)), LIF(), ATan(), Count(), (1, 12, 12), 10)
    model, x = spec.build(Key.of(0)), Key.of(1).uniform((3, 1, 12, 12)).requires_grad_()
    weight = Key.of(2).normal((3, 10))
    for train in (False, True):
        model.train(train)
        wanted = model(x)
        (plain,) = torch.autograd.grad((wanted * weight).sum(), x)
        with using_backward(backward):
            logits = model(x)
            (found,) = torch.autograd.grad((logits * weight).sum(), x)
        assert torch.equal(logits, wanted)
        assert apart(found, plain) <= (0.0 if train else NEAR[backward])

"""Augmentation: shifts and mirrors against loops over pixels, and draws that come from the key alone."""

import pytest
import torch
from torch import nn

from spikeproof.datasets import Digits
from spikeproof.decoders import MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.augmentation import AugmentedBPTT, shifted
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF, ReLU, Spiking, fused_unroll
from spikeproof.surrogates import ATan

X = Key.of(0).uniform((60, 2, 5, 7)) + 0.1


def moved(image, down, right):
    """Pixel by pixel."""
    out = torch.zeros_like(image)
    for i in range(image.shape[-2]):
        for j in range(image.shape[-1]):
            if 0 <= i - down < image.shape[-2] and 0 <= j - right < image.shape[-1]:
                out[..., i, j] = image[..., i - down, j - right]
    return out


@pytest.mark.parametrize("axes", [(), (2,), (3, 2)])
def test_images_move_as_pixel_by_pixel(axes):
    images = Key.of(1).uniform((4, *axes, 5, 7))
    down, right = torch.tensor([0, -2, 3, 1]), torch.tensor([0, 1, -3, 2])
    wanted = [moved(*one) for one in zip(images, down.tolist(), right.tolist(), strict=True)]
    assert torch.equal(shifted(images, down, right), torch.stack(wanted))


@pytest.mark.parametrize("mirror", [True, False])
def test_every_view_is_a_shift_within_the_pad_and_all_of_them_occur(mirror):
    images = X[:1].expand(600, -1, -1, -1)
    known = {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            one = moved(X[0], down, right)
            known[one.numpy().tobytes()] = (down, right, False)
            if mirror:
                known[one.flip(-1).contiguous().numpy().tobytes()] = (down, right, True)
    views = AugmentedBPTT(pad=1, mirror=mirror).views(images, Key.of(2))
    met = [known[view.contiguous().numpy().tobytes()] for view in views]
    assert len(set(met)) == (18 if mirror else 9)
    assert max(met.count(one) for one in set(met)) < 3 * 600 / len(set(met))


def test_views_come_from_the_key_and_leave_images_alone():
    rule, before = AugmentedBPTT(), X.clone()
    assert torch.equal(rule.views(X, Key.of(1)), rule.views(X, Key.of(1)))
    assert not torch.equal(rule.views(X, Key.of(1)), rule.views(X, Key.of(2)))
    assert torch.equal(X, before)
    assert torch.equal(AugmentedBPTT(pad=0, mirror=False).views(X, Key.of(1)), X)


def model():
    return ModelSpec(Direct(1), MLP((12,)), ReLU(), ATan(), MeanPotential(), (1, 8, 8), 10).build(Key.of(0))


def test_without_shift_and_mirror_it_is_plain_training_and_with_them_another():
    found = []
    still, moving = (AugmentedBPTT(epochs=1, pad=pad, mirror=False) for pad in (0, 1))
    for rule in (BPTT(epochs=1), still, moving):
        trained = model()
        rule.train(trained, Digits().load(), Key.of(0))
        found.append(torch.cat([p.flatten() for p in trained.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_views_change_from_epoch_to_epoch_and_perturbations_see_them():
    seen = []

    def watch(twin, x, y, key):
        seen.append(x.clone())
        return x

    data = Digits().load()
    AugmentedBPTT(epochs=2, batch_size=len(data.train), pad=2).train(model(), data, Key.of(0), perturb=watch)
    first, second = ({view.numpy().tobytes() for view in views} for views in seen)
    plain = {view.numpy().tobytes() for view in data.train.images}
    assert len(first & second) < 0.2 * len(first)
    assert len(first & plain) < 0.2 * len(first)


def test_a_negative_pad_is_refused():
    with pytest.raises(InputError, match="pad"):
        AugmentedBPTT(pad=-1)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_cutout_blackens_a_square_around_any_pixel_and_nothing_else(side):
    images, height, width = torch.ones(800, 2, 5, 7), 5, 7
    wanted = set()
    for i in range(height):
        for j in range(width):
            one, left = torch.ones(height, width), (side - 1) // 2
            one[max(i - left, 0) : i - left + side, max(j - left, 0) : j - left + side] = 0
            wanted.add(one.numpy().tobytes())
    views = AugmentedBPTT(pad=0, mirror=False, cutout=side).views(images, Key.of(3))
    assert {view[0].numpy().tobytes() for view in views} == wanted
    assert torch.equal(views[:, 0], views[:, 1])


def test_cutout_is_no_side_below_zero():
    with pytest.raises(InputError, match="cutout to be at least 0"):
        AugmentedBPTT(cutout=-1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, within torch.compile
def test_fused_training_goes_through_a_twin_that_shares_the_weights():
    spec = ModelSpec(Direct(3), MLP((8,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
    model = spec.build(Key.of(0))
    twin = AugmentedBPTT(fused=True).twin(model)
    unrolls = [layer.unroll for layer in twin.modules() if isinstance(layer, Spiking)]
    assert unrolls == [fused_unroll()]
    assert [id(p) for p in twin.parameters()] == [id(p) for p in model.parameters()]
    assert AugmentedBPTT().twin(model) is model


def test_mixed_training_computes_in_half_with_channels_last_and_leaves_a_model_in_full():
    spec = ModelSpec(Direct(2), ConvNet((4,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
    seen, trained, data = [], {}, Digits().load()
    for mixed in (False, True):
        trained[mixed] = model = spec.build(Key.of(0))
        (convolution,) = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
        convolution.register_forward_hook(lambda _, x, y: seen.append((torch.is_grad_enabled(), y.dtype)))
        history = AugmentedBPTT(epochs=2, lr=0.01, pad=1, mirror=False, mixed=mixed).train(
            model, data, Key.of(0)
        )
        assert history.epochs[-1].loss < history.epochs[0].loss
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        learning = torch.bfloat16 if mixed else torch.float32
        assert set(seen) == {(True, learning), (False, torch.float32)}
        seen.clear()
    one, other = (model(data.test.images).softmax(1) for model in trained.values())
    assert not torch.equal(one, other)
    assert (one - other).abs().mean() < 0.05
    views = AugmentedBPTT(mixed=True, mirror=False).views(X[:, :, :4], Key.of(3))
    assert views.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(views, AugmentedBPTT(mirror=False).views(X[:, :, :4], Key.of(3)))

"""Pixels without a gradient are hidden if they matter in short steps too, not in large ones only."""

from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import spikeproof as sp
from spikeproof.auditing import slopes
from spikeproof.auditing.conditions import HIDDEN
from spikeproof.losses import Margin


def nines(images):
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return F.unfold(padded, 3).view(len(images), 9, *images.shape[2:])


def median(images):
    return nines(images).median(1, keepdim=True).values


def rank(images):
    return nines(images).sort(1).values[:, 6:7]


def largest(images):
    return F.max_pool2d(images, 3, 1, 1)


def winners(images):
    """The twelve brightest pixels of an image, and no others."""
    flat = images.flatten(1)
    return (flat * (flat >= flat.topk(12, 1).values[:, -1:])).view_as(images)


def smooth():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.Tanh(), nn.Linear(30, 10)).eval()


def spiking():
    spec = sp.ModelSpec(sp.Direct(4), sp.MLP((30,)), sp.LIF(), sp.ATan(), sp.MeanPotential(), (1, 8, 8), 10)
    return spec.build(sp.Key.of(0)).eval()


FILTERS = {"median": median, "rank": rank, "maximum": largest, "k winners": winners}
MODELS = {
    **{
        name: lambda before=before: (net := smooth()) and (lambda x: net(before(x)))
        for name, before in FILTERS.items()
    },
    "smooth": smooth,
    "spiking": spiking,
}
X = (sp.Key.of(3).uniform((24, 1, 8, 8)) * 17).floor() / 16  # with ties, as images have them
X = torch.where(sp.Key.of(4).uniform(X.shape) < 0.3, 0.0, X.clamp(max=1))


def hidden(model):
    y = model(X).argmax(1)

    @torch.no_grad()
    def loss(images):
        return Margin()(model(images), y.repeat(len(images) // len(X)))

    def gradient(images):
        images = images.detach().clone().requires_grad_()
        return torch.autograd.grad(Margin()(model(images), y).sum(), images)[0]

    return slopes.compare(loss, gradient, X, sp.Key.of(5).for_rows(range(len(X)))).hidden


def in_large_steps(model):
    with patch.object(slopes, "NEGLIGIBLE", 1.0):
        return hidden(model)


@pytest.mark.parametrize("name", FILTERS)
def test_pixels_that_matter_once_others_have_changed_are_not_hidden(name):
    """Attacks follow such a gradient as any other: it is right everywhere and leads from pixel to pixel."""
    model = MODELS[name]()
    assert hidden(model) < HIDDEN / 2
    assert in_large_steps(model) > HIDDEN / 4


def by_place(share):
    chosen = sp.Key.of(6).uniform((1, 1, 8, 8)) < share
    return lambda x: torch.where(chosen, x.detach(), x)


def where_bright(share):
    return lambda x: torch.where(x > 1 - share, x.detach(), x)


@pytest.mark.parametrize("mask", [by_place, where_bright])
@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("name", MODELS)
def test_masked_pixels_are_hidden_in_steps_of_every_length(name, share, mask):
    """What is found of a mask in large steps is found whole, whatever stands behind it."""
    net = MODELS[name]()
    model = lambda x, masked=mask(share): net(masked(x))  # noqa: E731
    large = in_large_steps(model)
    assert large > HIDDEN or mask is where_bright  # no gradient at all, where all winners are bright
    if large > in_large_steps(net) + HIDDEN:  # more than the filter has by itself
        assert hidden(model) == large


def strongest(count):
    """The images, with the largest gradients of a model, which are as many on every image, times a factor."""

    def faded(x, left):
        def fade(grad):
            least = grad.abs().flatten(1).topk(count, 1).values[:, -1].view(-1, 1, 1, 1)
            return torch.where(grad.abs() >= least, left * grad, grad)

        x = x.clone()
        if x.requires_grad:
            x.register_hook(fade)
        return x

    return faded


@pytest.mark.parametrize("left", [1e-2, 1e-6])
@pytest.mark.parametrize("name", ["smooth", "spiking"])
def test_a_faint_gradient_hides_a_pixel_as_none_does(name, left):
    net, mask = MODELS[name](), strongest(4)
    none, faint = (hidden(lambda x, left=left: net(mask(x, left))) for left in (0.0, left))
    assert none > HIDDEN
    assert faint > HIDDEN


@pytest.mark.parametrize("name", ["smooth", "spiking"])
def test_the_smallest_gradients_of_a_faultless_model_hide_nothing(name):
    assert hidden(MODELS[name]()) < HIDDEN / 2

"""What every spike function must satisfy; a new one adds a row to SURROGATES."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import erf

from spikeproof.errors import InputError
from spikeproof.surrogates import (
    ATan,
    Exponential,
    FastSigmoid,
    Gaussian,
    Rectangle,
    Sigmoid,
    StraightThroughSpike,
    Triangle,
)


def triangle_primitive(x, w):
    inside = np.clip(x, -w, w)
    return 0.5 + inside / w - np.sign(inside) * inside**2 / (2 * w**2)


# surrogate, and the smooth step whose derivative it claims to be
SURROGATES = [
    (Sigmoid(4.0), lambda x: 1 / (1 + np.exp(-4 * x))),
    (ATan(2.0), lambda x: 0.5 + np.arctan(math.pi * x) / math.pi),
    (ATan(7.0), lambda x: 0.5 + np.arctan(math.pi * 3.5 * x) / math.pi),
    (Triangle(0.7), lambda x: triangle_primitive(x, 0.7)),
    (Rectangle(0.5), lambda x: np.clip(0.5 + x / 0.5, 0, 1)),
    (Gaussian(0.4), lambda x: 0.5 * (1 + erf(x / 0.4 / math.sqrt(2)))),
    (FastSigmoid(2.0), lambda x: 0.5 * (1 + 2 * x / (1 + np.abs(2 * x)))),
    (Exponential(1.5, 3.0), lambda x: 0.5 + 0.5 * np.sign(x) * (1 - np.exp(-3 * np.abs(x)))),
    (StraightThroughSpike(), lambda x: x),
]
MEMBERS = [surrogate for surrogate, _ in SURROGATES]


@pytest.mark.parametrize("spike", MEMBERS, ids=repr)
def test_forward_is_the_step_and_the_threshold_itself_fires(spike):
    x = torch.tensor([-1.0, -1e-7, 0.0, 1e-7, 1.0])
    assert spike(x).tolist() == [0, 0, 1, 1, 1]


@pytest.mark.parametrize(("spike", "primitive"), SURROGATES, ids=map(repr, MEMBERS))
def test_backward_is_the_finite_difference_of_its_smooth_step(spike, primitive):
    x = torch.linspace(-2, 2, 403, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(spike(x).sum(), x)
    at, h = x.detach().numpy(), 1e-6
    difference = (primitive(at + h) - primitive(at - h)) / (2 * h)
    kink = np.abs(np.abs(at) - 0.25) < 1e-5  # the rectangle's edge
    assert np.allclose(grad.numpy()[~kink], difference[~kink], atol=1e-5)


@pytest.mark.parametrize("spike", MEMBERS, ids=repr)
def test_the_derivative_is_even_and_never_negative(spike):
    x = torch.linspace(0, 5, 200, dtype=torch.float64)
    assert torch.allclose(spike.derivative(x), spike.derivative(-x), rtol=1e-9)
    assert (spike.derivative(x) >= 0).all()


@pytest.mark.parametrize("spike", MEMBERS[:-1], ids=repr)
def test_the_area_is_one(spike):
    def g(x):
        return spike.derivative(torch.tensor(x, dtype=torch.float64)).item()

    area = 2 * (quad(g, 0, 1, points=[0.25, 0.7])[0] + quad(g, 1, np.inf)[0])
    assert area == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    "narrow_to_wide",
    [
        [Sigmoid(8.0), Sigmoid(4.0), Sigmoid(1.0)],
        [ATan(8.0), ATan(2.0), ATan(0.5)],
        [FastSigmoid(8.0), FastSigmoid(2.0), FastSigmoid(0.5)],
        [Triangle(0.3), Triangle(1.0), Triangle(3.0)],
        [Rectangle(0.3), Rectangle(1.0), Rectangle(3.0)],
        [Gaussian(0.2), Gaussian(0.4), Gaussian(2.0)],
    ],
    ids=lambda members: type(members[0]).__name__,
)
def test_a_narrower_spike_function_is_higher_at_threshold_and_lower_far_away(narrow_to_wide):
    at, far = (
        [s.derivative(torch.tensor(x, dtype=torch.float64)).item() for s in narrow_to_wide]
        for x in (0.0, 1.4)
    )
    assert at == sorted(at, reverse=True)
    assert far == sorted(far)
    assert at[0] > at[-1]
    assert far[0] < far[-1]


@pytest.mark.parametrize("make", [Sigmoid, ATan, Triangle, Rectangle, Gaussian, FastSigmoid])
@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_a_width_that_is_not_positive_is_refused(make, bad):
    with pytest.raises(InputError, match="positive"):
        make(bad)

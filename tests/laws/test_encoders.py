"""What every code must satisfy; a new code adds a row to CODES."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.encoders import (
    Bernoulli,
    Direct,
    EarlyBurst,
    Events,
    LateBurst,
    Latency,
    QuantisedDirect,
    Reversed,
    SpikeGated,
    StraightThrough,
    TimeShift,
    with_backward,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, spike_count

LEVEL_CODES = [Latency(8), EarlyBurst(8), LateBurst(8), Latency(1), EarlyBurst(3), LateBurst(2)]
CODES = [
    Direct(4),
    QuantisedDirect(5),
    Bernoulli(8),
    *LEVEL_CODES,
    Reversed(EarlyBurst(8)),
    Reversed(Latency(5, backward=SpikeGated())),
    Reversed(Bernoulli(4)),
]
RULES = [StraightThrough(), SpikeGated(), TimeShift()]
GREY = torch.arange(256, dtype=torch.float32) / 255


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_time_comes_first_and_spikes_are_binary(code):
    x = Key.of(0).uniform((3, 2, 4, 5))
    out = code(x, Key.of(1))
    assert isinstance(code, Encoder)
    assert out.shape == (code.steps, 3, 2, 4, 5)
    values = set(out.unique().tolist())
    assert values <= {0.0, 1.0} if code.spiking else values - {0.0, 1.0}


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_only_stochastic_codes_depend_on_the_key(code):
    x = Key.of(0).uniform((3, 40))
    assert torch.equal(code(x, Key.of(1)), code(x, Key.of(1)))
    assert code.stochastic == (not torch.equal(code(x, Key.of(1)), code(x, Key.of(2))))


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_an_example_is_coded_the_same_in_any_batch(code):
    x, key = Key.of(0).uniform((6, 10)), Key.of(1)
    whole = code(x, key.for_rows(range(6)))
    part = code(x[[4, 1]], key.for_rows([4, 1]))
    assert torch.equal(part, whole[:, [4, 1]])


@pytest.mark.parametrize("code", CODES, ids=repr)
@pytest.mark.parametrize("bad", [-0.01, 1.01, math.nan, math.inf])
def test_values_outside_the_unit_interval_are_refused(code, bad):
    x = torch.full((1, 4), 0.5)
    x[0, 2] = bad
    with pytest.raises(InputError, match=r"\[0, 1\]"):
        code(x, Key.of(0))


@pytest.mark.parametrize("steps", range(1, 65))
def test_levels_are_exact_integers_on_the_256_grey_levels(steps):
    wanted = [-(-k * steps // 255) for k in range(256)]
    assert Latency(steps).level(GREY[None])[0].tolist() == wanted
    assert Latency(steps).level(GREY[None].double())[0].tolist() == wanted


@pytest.mark.parametrize("steps", [4, 5, 8, 10, 16, 20, 32])
def test_codes_equal_their_published_formulas_away_from_bin_edges(steps):
    """The definitions of Ding et al. in exact integer arithmetic, with x = k/255."""
    k, t = np.arange(256)[None], np.arange(steps)[:, None]
    early = 255 * t < k * steps  # t/T < x
    late = ~(255 * t <= (255 - k) * steps)  # 1 - 1[t/T <= 1 - x]
    latency = t == (255 - k) * steps // 255  # t == floor((1 - x) T)
    for code, wanted in ((EarlyBurst, early), (LateBurst, late), (Latency, latency)):
        assert np.array_equal(code(steps)(GREY[None])[:, 0].bool().numpy(), wanted), code


@settings(max_examples=200)
@given(st.floats(0, 1, width=32), st.sampled_from([4, 8, 10, 16, 64]))
def test_codes_equal_the_published_code_in_floating_point_away_from_bin_edges(x, steps):
    """As the authors write them: comparisons of t / T with x in floating point."""
    if abs(x * steps - round(x * steps)) < 1e-3:
        return
    t, value = np.arange(steps) / steps, torch.tensor([[x]])
    published = {
        EarlyBurst: (t < x).astype(float),
        LateBurst: 1 - (t <= 1 - x),
        Latency: (np.arange(steps) == int((1 - x) * steps)).astype(float),
    }
    for code, wanted in published.items():
        assert code(steps)(value).flatten().tolist() == wanted.tolist(), code


@settings(max_examples=200)
@given(st.floats(0, 1, width=32), st.floats(0, 1, width=32), st.integers(2, 32))
def test_brighter_is_never_later_and_never_fewer(x, y, steps):
    x, y = max(x, y), min(x, y)
    pair = torch.tensor([[x, y]])
    first = torch.cat([Latency(steps)(pair), torch.ones(1, 1, 2)]).argmax(0)[0]
    assert first[0] <= first[1]
    for code in (EarlyBurst(steps), LateBurst(steps)):
        counts = code(pair).sum(0)[0]
        assert counts[0] >= counts[1]


def test_the_spike_time_gives_the_value_back_within_one_bin():
    steps = 16
    spikes = Latency(steps)(GREY[None])[:, 0]
    when = torch.where(spikes.any(0), spikes.argmax(0), steps)
    assert ((1 - when / steps) - GREY).abs().max() <= 1 / steps + 1e-6


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_reversal_is_exact_and_undoes_itself(code):
    x, key = Key.of(0).uniform((2, 30)), Key.of(1)
    assert torch.equal(Reversed(code)(x, key), code(x, key).flip(0))
    assert torch.equal(Reversed(Reversed(code))(x, key), code(x, key))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_reversed_code_has_the_gradient_of_the_code_under_reversed_weights(rule):
    code, weight = with_backward(Latency(5), rule), Key.of(3).normal((5, 2, 30))
    x = Key.of(0).uniform((2, 30)).requires_grad_()
    (forward,) = torch.autograd.grad((code(x) * weight).sum(), x)
    (backward,) = torch.autograd.grad((Reversed(code)(x) * weight.flip(0)).sum(), x)
    assert torch.equal(forward, backward)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("code", [*LEVEL_CODES, Reversed(EarlyBurst(8))], ids=repr)
def test_a_backward_rule_changes_no_spike_and_gives_a_finite_gradient(code, rule):
    x = GREY.view(1, -1).clone().requires_grad_()
    other = with_backward(code, rule)
    assert torch.equal(other(x), code(x))
    weight = Key.of(3).normal((code.steps, 1, 256))
    (grad,) = torch.autograd.grad((other(x) * weight).sum(), x)
    assert grad.isfinite().all()
    assert grad.any()


def linear_loss(code, x, weight):
    return (code(x) * weight).sum(0)


@pytest.mark.parametrize("code", [Latency(8), Latency(1), EarlyBurst(8), EarlyBurst(3)], ids=repr)
def test_time_shift_is_the_slope_between_the_neighbouring_levels(code):
    """By brute force: code the next darker and the next brighter level anew."""
    steps = code.steps
    middle = ((torch.arange(steps + 1) - 0.5) / steps).clamp(min=0)[None]  # one value per level 0..T
    weight = Key.of(3).normal((steps, 1, steps + 1))
    x = middle.clone().requires_grad_()
    (grad,) = torch.autograd.grad(linear_loss(replace(code, backward=TimeShift()), x, weight).sum(), x)
    for n in range(steps + 1):
        low, high = max(n - 1, 0), min(n + 1, steps)
        at = [linear_loss(code, middle[:, [level]], weight[:, :, [n]]) for level in (low, high)]
        slope = steps * (at[1] - at[0]).item() / (high - low)
        assert grad[0, n].item() == pytest.approx(slope, abs=1e-5)


def test_time_shift_of_a_late_burst_points_at_the_next_spike():
    code, weight = LateBurst(4), torch.tensor([5.0, 7.0, 11.0, 13.0]).view(4, 1, 1)
    x = torch.tensor([[0.0, 0.2, 0.4, 0.6, 0.9]], requires_grad=True)  # levels 0..4
    (grad,) = torch.autograd.grad((code(x) * weight).sum(), x)
    assert grad[0].tolist() == [4 * 13, 4 * 13, 4 * (13 + 11) / 2, 4 * (11 + 7) / 2, 4 * 7]


def test_straight_through_sums_and_the_gated_rule_sees_only_spikes():
    x = torch.tensor([[0.0, 0.3, 1.0]])
    weight = Key.of(0).normal((4, 1, 3))
    for rule, wanted in (
        (StraightThrough(), weight.sum(0)),
        (SpikeGated(), (weight * EarlyBurst(4)(x)).sum(0)),
    ):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad((EarlyBurst(4, backward=rule)(leaf) * weight).sum(), leaf)
        assert torch.allclose(grad, wanted)
    assert grad[0, 0] == 0  # the masked background


def test_the_gradient_of_direct_coding_is_exact():
    x = Key.of(0).uniform((2, 3)).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda v: Direct(3)(v).square().sum(0), x)


def test_quantised_direct_has_as_many_levels_as_a_spike_code():
    values = QuantisedDirect(8)(GREY[None])[0]
    assert len(values.unique()) == 9
    assert (values[0] * 8).tolist() == [(2 * k * 8 + 255) // 510 for k in range(256)]  # half rounds up
    assert (values - GREY).abs().max() <= 0.5 / 8 + 1e-6


def test_bernoulli_spikes_come_at_their_rate_and_independently():
    rate = torch.tensor([0.1, 0.5, 0.9])
    spikes = Bernoulli(2)(rate.expand(20_000, 3), Key.of(5))
    tolerance = 4 * (rate * (1 - rate) / 40_000).sqrt()
    assert ((spikes.mean((0, 1)) - rate).abs() < tolerance).all()
    pairs = (spikes[0] * spikes[1]).mean(0)
    assert ((pairs - rate**2).abs() < 4 * (rate**2 * (1 - rate**2) / 20_000).sqrt()).all()


def test_bernoulli_gradient_is_that_of_the_expected_spikes():
    x = torch.rand(1, 5, generator=Key.of(0).generator()).requires_grad_()
    weight = Key.of(1).normal((6, 1, 5))
    (grad,) = torch.autograd.grad((Bernoulli(6)(x, Key.of(2)) * weight).sum(), x)
    assert torch.allclose(grad, weight.sum(0))


@pytest.mark.parametrize("make", [Direct, QuantisedDirect, Bernoulli, Latency, EarlyBurst], ids=repr)
def test_no_steps_are_refused(make):
    with pytest.raises(InputError, match="steps=0"):
        make(0)


def test_rules_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="TimeShift"):
        Bernoulli(4, backward=TimeShift())
    with pytest.raises(InputError, match="2 time steps"):
        LateBurst(1)


EVENTS = Key.of(4).uniform((3, 5, 2, 4, 4)).mul(3).floor()


@pytest.mark.parametrize("code", [Events(5), Reversed(Reversed(Events(5)))], ids=repr)
def test_counts_of_events_pass_as_they_are_and_their_gradient_is_exact(code):
    x, weight = EVENTS.clone().requires_grad_(), Key.of(5).normal((5, 3, 2, 4, 4))
    assert torch.equal(code(x), EVENTS.transpose(0, 1))
    (grad,) = torch.autograd.grad((code(x) * weight).sum(), x)
    assert torch.equal(grad, weight.transpose(0, 1))
    assert torch.equal(spike_count(code, code(x)), EVENTS.flatten(1).sum(1).long())


def test_binary_events_are_whether_there_was_one_and_pass_gradients_straight_through():
    code, x = Events(5, binary=True), EVENTS.clone().requires_grad_()
    assert torch.equal(code(x), (EVENTS > 0).float().transpose(0, 1))
    (grad,) = torch.autograd.grad((code(x) * 3).sum(), x)
    assert (grad == 3).all()
    assert torch.equal(spike_count(code, code(x)), (EVENTS > 0).flatten(1).sum(1))


@pytest.mark.parametrize("bad", [-1.0, 0.5, math.nan, math.inf])
def test_events_are_whole_numbers_of_the_right_number_of_steps(bad):
    x = EVENTS.clone()
    x[1, 2, 0, 0, 0] = bad
    with pytest.raises(InputError, match="numbers of events"):
        Events(5)(x)
    with pytest.raises(InputError, match="expects 4 steps"):
        Events(4)(EVENTS)

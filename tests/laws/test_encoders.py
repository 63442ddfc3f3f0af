"""What every code must satisfy; a new code adds a row to CODES."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.encoders import (
    Bernoulli,
    Burst,
    Delta,
    Direct,
    EarlyBurst,
    Events,
    FewSpikes,
    Fused,
    KernelCode,
    LateBurst,
    Latency,
    LevelCrossing,
    LogLatency,
    LowPass,
    Phase,
    Population,
    QuantisedDirect,
    RankOrder,
    RelativeLatency,
    Reversed,
    SpikeGated,
    StraightThrough,
    ThetaPhase,
    TimeShift,
    with_backward,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Encoder, encoded_shape, spike_count
from spikeproof.specs import build, describe

LEVEL_CODES = [Latency(8), EarlyBurst(8), LateBurst(8), Latency(1), EarlyBurst(3), LateBurst(2)]
LEVELS = [  # codes of integer levels whose spikes are told from the level alone
    *LEVEL_CODES,
    *(LogLatency(8), LogLatency(5, alpha=3.0), ThetaPhase(10), ThetaPhase(3), ThetaPhase(7, period=5)),
    *(Phase(8), Phase(9, period=3), FewSpikes(5), FewSpikes(16)),
    *(KernelCode(12, tau=3.0), KernelCode(40, tau=9.0)),
]
CODES = [
    Direct(4),
    QuantisedDirect(5),
    Bernoulli(8),
    *LEVELS,
    *(RelativeLatency(8), RankOrder(6), Burst(8), Burst(20, beta=1.5, threshold=0.3), LowPass(4)),
    *(Population(Latency(6), neurons=4), Population(Bernoulli(6), neurons=3), Population(Phase(8))),
    *(Fused((Direct(4), Latency(4), Bernoulli(4))), Fused((Phase(8), Population(EarlyBurst(8), neurons=3)))),
    Reversed(EarlyBurst(8)),
    Reversed(Latency(5, backward=SpikeGated())),
    Reversed(Bernoulli(4)),
]
RULED = [*LEVELS, RelativeLatency(8), RankOrder(6)]
RULES = [StraightThrough(), SpikeGated(), TimeShift()]
GREY = torch.arange(256, dtype=torch.float32) / 255


def amplitudes(code):
    """Every value that a spike of this code may have."""
    match code:
        case Phase() | FewSpikes():
            return {2.0**-p for p in range(1, code.digits + 1)}
        case KernelCode():
            return set(torch.exp(-torch.arange(code.steps).double() / code.tau).float().tolist())
        case Burst():
            sizes = [code.threshold * code.beta**k for k in range(code.steps)]
            return set(torch.tensor(sizes).tolist())
        case Population() | Reversed():
            return amplitudes(code.code)
        case Fused():
            return set().union(*map(amplitudes, code.codes))
    return {1.0}


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_time_comes_first_and_spikes_have_the_amplitudes_of_the_code(code):
    x = Key.of(0).uniform((3, 2, 4, 5))
    out = code(x, Key.of(1))
    assert isinstance(code, Encoder)
    assert out.dtype == x.dtype
    assert out.shape == (code.steps, 3, *encoded_shape(code, (2, 4, 5)))
    values = set(out.unique().tolist())
    assert values <= {0.0} | amplitudes(code) if code.spiking else values - {0.0, 1.0}
    counted = (out != 0).flatten(2).sum((0, 2)) if code.spiking else torch.zeros(3)
    assert torch.equal(spike_count(code, out), counted.long())


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_a_code_is_rebuilt_from_its_description(code):
    assert build(Encoder, describe(code, MODEL_PARTS), MODEL_PARTS) == code


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_only_stochastic_codes_depend_on_the_key(code):
    x = Key.of(0).uniform((3, 4, 10))
    assert torch.equal(code(x, Key.of(1)), code(x, Key.of(1)))
    assert code.stochastic == (not torch.equal(code(x, Key.of(1)), code(x, Key.of(2))))


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_an_example_is_coded_the_same_in_any_batch(code):
    x, key = Key.of(0).uniform((6, 2, 5)), Key.of(1)
    whole = code(x, key.for_rows(range(6)))
    part = code(x[[4, 1]], key.for_rows([4, 1]))
    assert torch.equal(part, whole[:, [4, 1]])


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_the_declared_gradient_is_finite_and_reaches_every_grey_level(code):
    x = GREY.view(1, 1, 16, 16).clone().requires_grad_()
    out = code(x, Key.of(1))
    (grad,) = torch.autograd.grad((out * Key.of(3).normal(out.shape)).sum(), x)
    assert grad.isfinite().all()
    if code != Reversed(Latency(5, backward=SpikeGated())):
        assert (grad != 0).float().mean() > 0.95


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
    x, key = Key.of(0).uniform((2, 3, 10)), Key.of(1)
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
@pytest.mark.parametrize("code", [*RULED, Reversed(EarlyBurst(8))], ids=repr)
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
def test_an_encoder_without_time_steps_is_refused(make):
    with pytest.raises(InputError, match="steps=0"):
        make(0)


def test_a_backward_rule_of_another_code_and_too_few_steps_are_refused():
    with pytest.raises(InputError, match="TimeShift"):
        Bernoulli(4, backward=TimeShift())
    with pytest.raises(InputError, match="2 time steps"):
        LateBurst(1)


@pytest.mark.parametrize("code", LEVELS, ids=repr)
def test_a_code_read_back_gives_the_value_within_one_level(code):
    x = GREY[None]
    level = code.level(x)
    assert ((level >= 0) & (level <= code.levels)).all()
    value, below = code.value(level), code.value((level - 1).clamp(min=0))
    decoded = code.decode(code(x))
    width = (code.value((level + 1).clamp(max=code.levels)) - below).max()
    assert (decoded.double() - x).abs().max() <= width + 1e-6
    if not isinstance(code, LateBurst):  # whose levels 0 and 1 are both silent
        assert torch.equal(decoded, value.float())


@pytest.mark.parametrize("code", LEVELS, ids=repr)
def test_a_brighter_value_never_has_a_lower_level_and_levels_are_what_they_stand_for(code):
    assert (code.level(GREY[None])[0].diff() >= 0).all()
    every = torch.arange(code.levels + 1)[None]
    value = code.value(every)
    assert (value[0].diff() > 0).all()
    assert value[0, 0] == 0
    assert value[0, -1] <= 1
    assert torch.equal(code.level(value), every)
    assert torch.equal(code(value.float()), code.pattern(every).float())


@pytest.mark.parametrize("code", [c for c in LEVELS if not isinstance(c, LateBurst)], ids=repr)
def test_time_shift_is_the_slope_between_the_neighbours_in_value(code):
    """By brute force: code the value of the level below and of the level above anew."""
    every = torch.arange(min(code.levels, 300) + 1)[None]
    x = code.value(every)
    weight = Key.of(3).normal((code.steps, *x.shape)).double()
    low, high = code.value((every - 1).clamp(min=0)), code.value((every + 1).clamp(max=code.levels))
    slope = (linear_loss(code, high, weight) - linear_loss(code, low, weight)) / (high - low)
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(linear_loss(replace(code, backward=TimeShift()), leaf, weight).sum(), leaf)
    assert torch.allclose(grad, slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", range(1, 33))
def test_logarithmic_levels_are_exact_integers_on_the_256_grey_levels(steps):
    """Level n lies above the edges (256^(j/T) - 1) / 255, j < n, compared in whole numbers."""
    wanted = [sum((1 + k) ** steps > 256**j for j in range(steps)) for k in range(256)]
    assert LogLatency(steps).level(GREY[None])[0].tolist() == wanted
    assert LogLatency(steps).level(GREY[None].double())[0].tolist() == wanted


@pytest.mark.parametrize("steps", [1, 4, 5, 16])
def test_logarithmic_latency_without_compression_is_latency(steps):
    assert torch.equal(LogLatency(steps, alpha=1e-8)(GREY[None]), Latency(steps)(GREY[None]))


@pytest.mark.parametrize("steps", [3, 8, 16])
def test_relative_latency_counts_from_the_first_spike_of_each_image(steps):
    x = Key.of(0).uniform((4, 2, 3, 3)) * torch.tensor([0.3, 0.6, 0.9, 1.0]).view(-1, 1, 1, 1)
    x[:, 0, 0, 0] = 0
    out = RelativeLatency(steps)(x).numpy()
    for image, spikes in zip(x.numpy(), out.transpose(1, 0, 2, 3, 4), strict=True):
        times = np.array([math.floor((1 - float(v)) * steps) for v in image.flatten()])
        times = np.where(image.flatten() > 0, times - times[image.flatten() > 0].min(), steps)
        wanted = np.arange(steps)[:, None] == times
        assert np.array_equal(spikes.reshape(steps, -1), wanted)


def test_relative_latency_does_not_see_light_that_is_added_everywhere():
    steps, bins = 10, Key.of(0).uniform((3, 20)).mul(4).ceil()  # bins 1..4 of 10
    for added in range(7):
        x = (bins + added - 0.5) / steps
        assert torch.equal(RelativeLatency(steps)(x), RelativeLatency(steps)((bins - 0.5) / steps))


@pytest.mark.parametrize("steps", [1, 3, 8, 50])
def test_rank_order_spikes_in_the_order_of_brightness(steps):
    """Ranks counted one by one; grey levels, so that there are ties, and black."""
    x = Key.of(0).uniform((3, 2, 5, 5)).mul(20).floor() / 255
    out = RankOrder(steps)(x).flatten(2)
    for b, image in enumerate(x.flatten(1).tolist()):
        for i, value in enumerate(image):
            rank = sum(other > value for other in image)
            wanted = [float(value > 0 and t == rank * steps // len(image)) for t in range(steps)]
            assert out[:, b, i].tolist() == wanted


@pytest.mark.parametrize("rise", [torch.sqrt, torch.square, lambda x: 0.3 * x], ids=["sqrt", "square", "dim"])
def test_rank_order_coding_ignores_contrast_and_the_order_of_pixels(rise):
    x, order = Key.of(0).uniform((3, 40)), torch.randperm(40, generator=Key.of(1).generator())
    assert torch.equal(RankOrder(8)(rise(x)), RankOrder(8)(x))
    assert torch.equal(RankOrder(8)(x[:, order]), RankOrder(8)(x)[:, :, order])


def test_a_phase_code_sends_the_bits_of_the_grey_level_in_every_period():
    out = Phase(19)(GREY[None])[:, 0]
    for k in range(256):
        bits = [int(b) * 2.0 ** -(p + 1) for p, b in enumerate(format(k, "08b"))]
        assert out[:, k].tolist() == (3 * bits)[:19]
    assert torch.allclose(out[:8].sum(0) * 256 / 255, GREY)


@pytest.mark.parametrize("steps", [1, 2, 5, 8, 13, 16])
def test_few_spikes_coding_follows_the_published_neuron_in_exact_fractions(steps):
    """Its recursion in exact fractions."""
    out = FewSpikes(steps)(GREY[None])[:, 0]
    for k in range(256):
        v, sent = Fraction(k, 255), []
        for t in range(steps):
            h = Fraction(1, 2 ** (t + 1))
            sent.append(float(h) if v >= h else 0.0)
            v -= h if v >= h else 0
        assert out[:, k].tolist() == sent, k
    assert (GREY - out.sum(0)).min() >= -1e-6


@pytest.mark.parametrize(
    ("steps", "beta", "threshold"), [(8, 2, 0.125), (25, 2, 0.25), (12, 1, 1), (12, 1.5, 0.5)]
)
def test_burst_coding_follows_the_published_neuron_in_exact_fractions(steps, beta, threshold):
    """Its recursion in exact fractions; what was not sent is still in the membrane."""
    code = Burst(steps, beta=beta, threshold=threshold)
    out = code(GREY[None])[:, 0].double()
    for k in range(256):
        v, g, sent = Fraction(0), Fraction(1), []
        for _ in range(steps):
            v += Fraction(k, 255)
            size = Fraction(threshold) * g
            fired = v >= size
            sent.append(float(size) if fired else 0.0)
            v -= size if fired else 0
            g = Fraction(beta) * g if fired else Fraction(1)
        assert out[:, k].tolist() == sent, k
        assert out[:, k].mean().item() == pytest.approx(k / 255 - float(v) / steps, abs=1e-6)


@pytest.mark.parametrize(("steps", "period"), [(8, 8), (5, 5), (20, 8), (3, 8), (7, 2)])
def test_theta_phase_compares_with_an_oscillation_and_brighter_is_earlier(steps, period):
    t = np.arange(steps)[:, None]
    inhibition = (1 + np.cos(2 * np.pi * (t + 0.5) / period)) / 2
    out = ThetaPhase(steps, period=period)(GREY[None])[:, 0].numpy()
    assert np.array_equal(out, GREY.double().numpy() > inhibition + 1e-9)
    first = np.where(out.any(0), out.argmax(0), steps)
    assert (np.diff(first) <= 0).all()
    assert (np.diff(out.sum(0)) >= 0).all()


def test_population_answers_are_gaussians_and_their_gradient_is_exact():
    code = Population(Direct(2), neurons=5, cutoff=0.0)
    x = Key.of(0).uniform((2, 3, 4)).double()
    out = code(x)[0].view(2, 5, 3, 4)
    for i in range(1, 6):
        centre, sigma = (2 * i - 3) / 2 / 3, 1 / 1.5 / 3
        assert np.allclose(out[:, i - 1], np.exp(-(((x.numpy() - centre) / sigma) ** 2) / 2))
    assert torch.autograd.gradcheck(code.answers, x.requires_grad_())


@pytest.mark.parametrize("neurons", [3, 5, 8])
def test_the_first_neuron_of_a_population_tells_the_value_within_one_spacing(neurons):
    code = Population(Latency(16), neurons=neurons)
    out = code(GREY.view(-1, 1))  # [T, B, M]
    when = torch.where(out.any(0), out.argmax(0), 16)
    centre = torch.tensor(code.centres())[when.argmin(1)]
    assert (centre - GREY).abs().max() <= 1 / (neurons - 2) + 1e-6
    silent = code.answers(GREY.view(-1, 1)) == 0
    assert silent.any()
    assert (when[silent] == 16).all()


def test_a_fused_code_is_its_codes_side_by_side_with_their_gradients():
    codes, x, key = (Direct(4), Bernoulli(4), EarlyBurst(4)), Key.of(0).uniform((2, 3, 4)), Key.of(1)
    leaf, weight = x.clone().requires_grad_(), Key.of(2).normal((4, 2, 9, 4))
    fused = Fused(codes)(leaf, key)
    (grad,) = torch.autograd.grad((fused * weight).sum(), leaf)
    wanted = torch.zeros_like(x)
    for i, code in enumerate(codes):
        leaf, block = x.clone().requires_grad_(), slice(3 * i, 3 * i + 3)
        alone = code(leaf, key.fold("code", i))
        assert torch.equal(fused[:, :, block], alone)
        wanted += torch.autograd.grad((alone * weight[:, :, block]).sum(), leaf)[0]
    assert torch.allclose(grad, wanted, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (32, 32)])
def test_low_pass_is_the_published_filter(size):
    """As published, with its shift of all axes, in NumPy."""
    code, x = LowPass(4), Key.of(0).uniform((2, 3, *size)).double()
    spectrum, (h, w) = np.fft.fftshift(np.fft.fft2(x.numpy())), size
    for t, radius in enumerate(code.radii(*size)):
        mask = np.zeros(size)
        rows, columns = (slice(max(n // 2 - radius, 0), n // 2 + radius) for n in (h, w))
        mask[rows, columns] = 1
        wanted = np.abs(np.fft.ifft2(np.fft.ifftshift(spectrum * mask)))
        assert np.allclose(code(x)[t].numpy(), wanted)
    assert torch.allclose(code(x)[0], x)
    assert (code(x) >= 0).all()


def test_the_gradient_of_low_pass_is_exact():
    x = Key.of(0).uniform((1, 1, 6, 6)).double().mul(0.8).add(0.1).requires_grad_()
    assert torch.autograd.gradcheck(LowPass(3), x)


SIGNALS = [Delta(6), Delta(6, threshold=0.3), LevelCrossing(6), LevelCrossing(6, threshold=0.03)]


@pytest.mark.parametrize("code", SIGNALS, ids=repr)
def test_signals_give_rises_and_falls(code):
    """Against loops in whole numbers of grey levels."""
    grey = Key.of(0).uniform((3, 6, 2, 4)).mul(256).floor().long()
    grey[0, 1:] = grey[0, :1] + torch.arange(5).view(-1, 1, 1)  # slow drift
    grey.clamp_(max=255)
    out = code(grey / 255)
    assert out.shape == (6, 3, 4, 4)
    theta = Fraction(str(code.threshold))
    for b, c, i in np.ndindex(3, 2, 4):
        level, before = 0, Fraction(int(grey[b, 0, c, i]), 255)
        for t in range(6):
            now = Fraction(int(grey[b, t, c, i]), 255)
            if isinstance(code, Delta):
                rise, fall = int(now - before >= theta), int(before - now >= theta)
            else:
                rise, fall = max(0, math.floor(now / theta - level)), max(0, math.floor(level - now / theta))
            assert (out[t, b, c, i], out[t, b, 2 + c, i]) == (rise, fall)
            level, before = level + rise - fall, now
    if isinstance(code, LevelCrossing):
        assert (code.decode(out) - grey / 255).abs().max() < code.threshold + 1e-6
        assert torch.equal(spike_count(code, out), out.sum((0, 2, 3)).long())


@pytest.mark.parametrize("code", SIGNALS, ids=repr)
@pytest.mark.parametrize("rule", [StraightThrough(), SpikeGated()], ids=repr)
def test_signals_get_the_gradient_of_their_changes(code, rule):
    x, weight = Key.of(0).uniform((2, 6, 3)).requires_grad_(), Key.of(1).normal((6, 2, 6))
    out = with_backward(code, rule)(x)
    (grad,) = torch.autograd.grad((out * weight).sum(), x)
    if isinstance(rule, SpikeGated):
        weight = weight * (out != 0)
    leaf = x.detach().clone().requires_grad_()
    first = leaf[:, :1] if isinstance(code, Delta) else torch.zeros_like(leaf[:, :1])
    change = leaf.diff(dim=1, prepend=first).transpose(0, 1) / code.threshold
    net = (weight[:, :, :3] - weight[:, :, 3:]).detach()
    (wanted,) = torch.autograd.grad((change * net).sum(), leaf)
    assert grad.isfinite().all()
    assert grad.any()
    assert torch.allclose(grad, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LogLatency(8, alpha=0.0), "alpha"),
        (lambda: Phase(4), "period"),
        (lambda: FewSpikes(17), "16"),
        (lambda: Burst(8, beta=0.5), "beta"),
        (lambda: ThetaPhase(8, period=1), "period"),
        (lambda: LowPass(4, radius=0), "radius"),
        (lambda: Population(neurons=2), "neurons"),
        (lambda: Population(Events(4)), "images"),
        (lambda: Fused((Direct(4), Latency(5))), "steps"),
        (lambda: Fused(()), "steps"),
        (lambda: Fused((Delta(8), Direct(8))), "images"),
        (lambda: Delta(5, threshold=0.0), "threshold"),
        (lambda: Delta(5)(torch.zeros(2, 4, 1)), "5 steps"),
        (lambda: with_backward(Fused((Latency(4), Bernoulli(4))), TimeShift()), "no level"),
    ],
)
def test_encoder_options_out_of_range_are_refused_by_name(make, word):
    with pytest.raises(InputError, match=word):
        make()


EVENTS = Key.of(4).uniform((3, 5, 2, 4, 4)).mul(3).floor()
OF_EVENTS = [Events(5), Reversed(Reversed(Events(5)))]


@pytest.mark.parametrize("code", OF_EVENTS, ids=repr)
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


def test_a_time_shift_is_refused_where_no_spike_moves_with_the_grey_level():
    x, code = Key.of(0).uniform((2, 3)), Bernoulli(4)
    spikes = code(x, Key.of(1))
    with pytest.raises(InputError, match="spikes move with the grey level"):
        TimeShift().gradient(code, x, spikes, spikes)


def test_a_change_as_large_as_the_threshold_is_a_spike_and_a_smaller_one_is_none():
    x = torch.tensor([0.5, 1.0, 0.5, 0.9375, 0.5]).view(5, 1, 1)
    rises, falls = Delta(5, threshold=0.5).crossings(x, 0.0)
    assert rises.flatten().tolist() == [False, True, False, False, False]
    assert falls.flatten().tolist() == [False, False, True, False, False]

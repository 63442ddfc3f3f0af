"""Rate-based and adaptive gradient rules, each against its equations written out slowly in NumPy."""

import itertools
import math

import numpy as np
import pytest
import torch

from spikeproof.datasets import Digits
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import (
    Bernoulli,
    Direct,
    EarlyBurst,
    Latency,
    Phase,
    RankOrder,
    SpikeGated,
    StraightThrough,
    TimeShift,
)
from spikeproof.errors import InputError
from spikeproof.gradients import (
    ANTLR,
    ASSG,
    BPTR,
    HART,
    PDSG,
    RGA,
    TSSL,
    OnePassASSG,
    Recollection,
    SurrogateGradient,
    Truncated,
)
from spikeproof.keys import Key
from spikeproof.learning.spike_rules import ThroughRule
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    AHP,
    ALIF,
    FS,
    IF,
    LIF,
    PLIF,
    PSP,
    SRM,
    BySubtraction,
    ConvertedT2FSNN,
    CuBaLIF,
    Mixture,
    Plastic,
    PrimedIF,
    ReLU,
    Spiking,
    State,
    ToZero,
    unroll,
)
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
from spikeproof.threats import L2

RULES = [BPTR(), RGA(), HART(), PDSG(), ASSG(), OnePassASSG()]
GENERAL = [BPTR(), HART(), PDSG(), ASSG(), OnePassASSG()]
NEURONS = [
    make(reset=reset, threshold=threshold, detach_reset=detach)
    for make, reset, threshold, detach in itertools.product(
        (IF, LIF), (BySubtraction(), ToZero()), (1.0, 0.6), (False, True)
    )
]
OTHERS = [
    *(PLIF(), ALIF(), AHP(), CuBaLIF(), SRM(), PrimedIF(), FS(steps=6), ConvertedT2FSNN(6, 2.0)),
    *(Plastic(IF()), Mixture(IF(), LIF(threshold=0.5), share=0.4)),
]
STEPS, BATCH, SIZE = 6, 3, 7


def drive():
    return 0.5 + 0.8 * Key.of(7).normal((STEPS, BATCH, SIZE)).double()


def weights():
    return Key.of(2).normal((STEPS, BATCH, SIZE)).double()


def gradient(rule, neuron, current, weight):
    current = current.clone().requires_grad_()
    rest = State(torch.zeros_like(current[0]))
    spikes, _ = rule(current, rest, neuron, ATan())
    return torch.autograd.grad((weight * spikes).sum(), current)[0].numpy()


def slow_forward(current, neuron):
    """Potentials before the reset and spikes, step by step."""
    v, potentials, spikes = np.zeros(current.shape[1:]), [], []
    for i in current:
        u = neuron.decay * v + i
        z = (u >= neuron.threshold).astype(float)
        potentials.append(u)
        spikes.append(z)
        v = u * (1 - z) if neuron.reset == ToZero() else u - neuron.threshold * z
    return np.stack(potentials), np.stack(spikes)


def through_time(slopes, u, z, g, neuron):
    """Backpropagation through time with given derivatives of the spikes."""
    e, carried = np.zeros_like(g), np.zeros_like(g[0])
    for t in reversed(range(len(g))):
        hard = neuron.reset == ToZero()
        by_v, by_z = (1 - z[t], -u[t]) if hard else (1.0, -neuron.threshold)
        from_reset = 0.0 if neuron.detach_reset else carried * by_z
        e[t] = (g[t] + from_reset) * slopes[t] + carried * by_v
        carried = e[t] * neuron.decay
    return e


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_bptr_is_straight_through_neurons_that_fired(neuron):
    current, g = drive() - 0.4, weights()
    _, z = slow_forward(current.numpy(), neuron)
    active = (z.mean(0) > 0).astype(float)
    assert 0 < active.mean() < 1
    assert np.array_equal(gradient(BPTR(), neuron, current, g), g.numpy() * active)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
@pytest.mark.parametrize(("gamma", "extension"), [(0.2, 1.0), (0.6, 0.3)])
def test_rga_is_the_slope_of_its_broken_line(neuron, gamma, extension):
    """The line itself is written down from its three corners, and its slope taken by differences."""
    current, g, h = drive() + 0.3 * torch.arange(SIZE) - 1, weights(), 1e-7
    weak = 1 - neuron.decay
    corners = [-9.0, 0.0, weak, 1 + extension, 9.0]
    heights = [0.0, 0.0, gamma * weak, 1.0, 1.0]

    def rate(x):
        return np.interp(x / neuron.threshold, corners, heights)

    mean = current.numpy().mean(0)
    slope = (rate(mean + h) - rate(mean - h)) / (2 * h)
    assert {0} < set(np.unique(slope.round(4)))
    got = gradient(RGA(gamma, extension), neuron, current, g)
    assert np.allclose(got, g.numpy() * slope, atol=1e-6)


def test_rga_does_not_depend_on_the_unit_of_potential():
    current, g = drive(), weights()
    one = gradient(RGA(), LIF(threshold=1.0), current, g)
    half = gradient(RGA(), LIF(threshold=0.5), current / 2, g)
    assert np.allclose(half, 2 * one)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_hart_averages_over_time_and_cuts_memory(neuron):
    current, g = drive(), weights()
    u, _ = slow_forward(current.numpy(), neuron)
    width = 0.7
    slope = np.maximum(0, width - np.abs(u - neuron.threshold)) / width**2
    wanted = np.broadcast_to((g.numpy() * slope).mean(0), g.shape)
    assert np.allclose(gradient(HART(Triangle(width)), neuron, current, g), wanted, atol=1e-13)


def slow_pdsg(u, threshold, least, axes):
    slopes = []
    for t in range(len(u)):
        sigma = np.maximum(np.moveaxis(u[: t + 1], 0, -1).std((*axes, -1), keepdims=True)[..., 0], least)
        x = u[t] - threshold
        slopes.append(
            np.exp(-(((x - sigma / 2) / (math.sqrt(2) * sigma)) ** 2)) / (math.sqrt(2 * math.pi) * sigma)
        )
    return np.stack(slopes)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_pdsg_is_as_wide_as_the_potentials_so_far(neuron):
    current, g = drive(), weights()
    u, z = slow_forward(current.numpy(), neuron)
    wanted = through_time(slow_pdsg(u, neuron.threshold, 0.01, (1,)), u, z, g.numpy(), neuron)
    assert np.allclose(gradient(PDSG(), neuron, current, g), wanted, atol=1e-11)


def test_pdsg_of_maps_is_per_channel():
    neuron, shape = LIF(), (5, 2, 3, 4, 4)
    current = torch.linspace(0.2, 3, 3).double().view(3, 1, 1) * Key.of(1).normal(shape).double()
    g = Key.of(2).normal(shape).double()
    u, z = slow_forward(current.numpy(), neuron)
    wanted = through_time(slow_pdsg(u, 1.0, 0.01, (2, 3)), u, z, g.numpy(), neuron)
    assert np.allclose(gradient(PDSG(), neuron, current, g), wanted, atol=1e-11)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
@pytest.mark.parametrize(
    ("strength", "memory", "relax"), [(0.425, 0.9, 1.5), (0.35, 0.5, 0.2), (0.4, 0.0, 0.0)]
)
def test_one_pass_assg_is_its_running_means(neuron, strength, memory, relax):
    current, g = drive(), weights()
    u, z = slow_forward(current.numpy(), neuron)
    slopes, mean, deviation = [], None, None
    for x in u - neuron.threshold:
        size = np.abs(x)
        if mean is None:
            mean, deviation = size, 0 * size
        else:
            mean = memory * mean + (1 - memory) * size
            deviation = memory * deviation + (1 - memory) * np.abs(size - mean)
        alpha = 2 * math.tan(math.pi * strength) / math.pi / (mean + relax * deviation + 1e-4)
        slopes.append(alpha / 2 / (1 + (math.pi * alpha * x / 2) ** 2))
    wanted = through_time(np.stack(slopes), u, z, g.numpy(), neuron)
    assert np.allclose(gradient(OnePassASSG(strength, memory, relax), neuron, current, g), wanted, atol=1e-9)


def passes_of_assg(rule, neuron, currents, rows, repeats=1):
    """Gradients of the forward passes of one attack, each on some of the examples, with shared statistics."""
    known, g, found = Recollection(BATCH), weights(), []
    network = torch.nn.Sequential(Spiking(neuron).double().eval())
    rule.install(network)
    for current, here in zip(currents, rows, strict=True):
        with known.serving(here):
            for _ in range(repeats):
                leaf = current[:, here].clone().requires_grad_()
                last = torch.autograd.grad((g[:, here] * network(leaf)).sum(), leaf)[0]
        found.append(last.numpy())
    return found


@pytest.mark.parametrize("repeats", [1, 3], ids=["one draw", "three draws"])
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_assg_keeps_statistics_over_the_forward_passes_of_one_attack(neuron, repeats):
    """Mean and deviation per step, neuron and example over forward passes, in units of the threshold.

    Further draws of the same pass do not change them.
    """
    currents = [drive() * scale for scale in (1.0, 1.3, 0.6)]
    rows = [torch.tensor([0, 1, 2]), torch.tensor([0, 2]), torch.tensor([2])]
    rule, mean, deviation = ASSG(0.4, 0.8, 1.2), np.ones((STEPS, BATCH, SIZE)), np.zeros((STEPS, BATCH, SIZE))
    found = passes_of_assg(rule, neuron, currents, rows, repeats)
    for current, here, one in zip(currents, rows, found, strict=True):
        i = here.numpy()
        u, z = slow_forward(current.numpy()[:, i], neuron)
        x = (u - neuron.threshold) / neuron.threshold
        mean[:, i] = 0.8 * mean[:, i] + 0.2 * np.abs(x)
        deviation[:, i] = 0.8 * deviation[:, i] + 0.2 * np.abs(np.abs(x) - mean[:, i])
        alpha = 2 * math.tan(math.pi * 0.4) / math.pi / (mean[:, i] + 1.2 * deviation[:, i] + 1e-4)
        slopes = alpha / 2 / (1 + (math.pi * alpha * x / 2) ** 2) / neuron.threshold
        wanted = through_time(slopes, u, z, weights().numpy()[:, i], neuron)
        assert np.allclose(one, wanted, atol=1e-9)


def test_assg_keeps_apart_the_statistics_of_examples_that_take_turns():
    currents = [drive() * scale for scale in (1.0, 1.3, 0.6)]
    whole = passes_of_assg(ASSG(), IF(), currents, [torch.arange(BATCH)] * 3)
    rows = [torch.tensor([0, 2]), torch.tensor([1])]
    turns = passes_of_assg(ASSG(), IF(), [c for c in currents for _ in rows], rows * 3)
    for number, found in enumerate(turns):
        assert np.allclose(found, whole[number // 2][:, rows[number % 2].tolist()], atol=1e-12)


def test_assg_keeps_no_statistics_outside_an_attack():
    once, again = (gradient(ASSG(), IF(), drive(), weights()) for _ in range(2))
    assert np.array_equal(once, again)
    first, *_ = passes_of_assg(ASSG(), IF(), [drive()] * 2, [torch.arange(BATCH)] * 2)
    assert np.allclose(first, once)


WIDTHS = [ATan(2.0), Triangle(2.0), Exponential(), Rectangle(4.0), Sigmoid(5.0), Gaussian(), FastSigmoid()]


@pytest.mark.parametrize("code", [Direct(4), Latency(4)], ids=repr)
@pytest.mark.parametrize(
    "change",
    [
        *({"spike": surrogate} for surrogate in WIDTHS),
        *({"unroll": rule} for rule in (*RULES, TSSL(), ANTLR(), SurrogateGradient(), Truncated(2))),
    ],
    ids=lambda change: repr(next(iter(change.values()))),
)
def test_no_gradient_depends_on_the_unit_of_potential(change, code):
    """Weights and threshold times 32: the same spikes, and in an attack the same direction."""
    x, y = Key.of(3).uniform((5, 1, 6, 6)), torch.arange(5) % 3
    found = []
    for unit in (1.0, 32.0):
        spec = ModelSpec(code, MLP((60,)), LIF(threshold=unit), ATan(), MeanPotential(), (1, 6, 6), 3)
        model = spec.build(Key.of(0)).eval()
        with torch.no_grad():
            for weight in model.network.layers[:-2].parameters():
                weight.mul_(3 * unit)
        leaf = x.clone().requires_grad_()
        logits = substitute(model, **change)(leaf)
        (grad,) = torch.autograd.grad(Margin()(logits, y).sum(), leaf)
        found.append((logits.detach(), L2(1.0).steepest(grad)))
    (logits, one), (same, other) = found
    assert torch.equal(logits, same)
    assert one.abs().sum() > 0
    assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_assg_covers_the_area_that_its_strength_says():
    """A potential that stays where it is has 2 A of the surrogate between -|x| and |x|."""
    x = torch.full((3, 1), 0.3, dtype=torch.float64)
    memory = None
    for step in x:
        _, memory = OnePassASSG(0.35).slope(step, memory)
    alpha = 2 / math.pi * math.tan(math.pi * 0.35) / (memory[0] + 1e-4)
    assert 2 / math.pi * torch.atan(math.pi / 2 * alpha * 0.3).item() == pytest.approx(0.7, abs=1e-3)


@pytest.mark.parametrize("rule", GENERAL, ids=repr)
@pytest.mark.parametrize("neuron", OTHERS, ids=repr)
def test_every_neuron_that_fires_keeps_its_spikes_to_the_bit(rule, neuron):
    if neuron.looks_ahead and isinstance(rule, HART):
        with pytest.raises(InputError, match="few-spikes"):
            rule.check(neuron)
        return
    current = (0.6 + Key.of(7).normal((STEPS, 4, 10))).requires_grad_()
    layer = Spiking(neuron, features=10)
    wanted, _ = unroll(current, neuron.rest(current, layer.learned), neuron, ATan())
    layer.unroll = rule
    got = layer(current)
    assert torch.equal(got, wanted)
    again = layer(current)  # nothing is left of the pass before
    own, other, third = (
        torch.autograd.grad((Key.of(1).normal(z.shape) * z).sum(), current)[0] for z in (wanted, got, again)
    )
    assert other.isfinite().all()
    assert other.any()
    assert not torch.allclose(own, other)
    assert torch.equal(other, third)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("level", [0.0, -5.0, 1e6])
def test_silent_constant_and_huge_currents_give_finite_gradients(rule, level):
    current = torch.full((4, 2, 3), level, requires_grad=True)
    z, _ = rule(current, State(torch.zeros(2, 3)), LIF(), ATan())
    assert torch.autograd.grad(z.sum(), current)[0].isfinite().all()


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_networks_learn_through_every_adaptive_gradient_source(rule):
    data = Digits().load()
    model = ModelSpec(Direct(4), MLP((24,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10).build(Key.of(0))
    history = ThroughRule(epochs=5, lr=0.01, gradient=rule).train(model, data, Key.of(1))
    assert history.validation_accuracy > 0.6
    assert torch.equal(model(data.test.images), substitute(model, unroll=rule)(data.test.images))


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_neurons_without_spikes_or_with_one_spike_time_are_refused(rule):
    from spikeproof.neurons.spiketimes import S4NN

    for neuron in (ReLU(), S4NN()):
        with pytest.raises(InputError, match="integrate-and-fire"):
            rule.check(neuron)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: RGA(gamma=0.0),
        lambda: RGA(extension=-1.0),
        lambda: PDSG(least=0.0),
        lambda: ASSG(0.5),
        lambda: ASSG(memory=1.0),
        lambda: ASSG(relax=-0.1),
        lambda: OnePassASSG(0.0),
    ],
)
def test_constants_of_gradient_sources_out_of_range_are_refused(bad):
    with pytest.raises(InputError):
        bad()


SURROGATES = [
    *(None, ATan(9.0), Triangle(), Rectangle(), Gaussian(), FastSigmoid(), Exponential(), Sigmoid()),
    StraightThroughSpike(),
]
CODES = [Latency(4), EarlyBurst(4), RankOrder(4), Phase(4, period=4), Bernoulli(4)]
UNROLLS = [*RULES, SurrogateGradient(), TSSL(), ANTLR(), Truncated(), None]


@pytest.mark.parametrize("unroll", UNROLLS, ids=repr)
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_no_substitution_changes_an_answer_in_any_bit(code, unroll):
    """Every surrogate, every rule for the code and every rule for the spikes, together."""
    neuron = LIF(threshold=0.3, reset=ToZero(), synapse=PSP())
    model = ModelSpec(code, MLP((9,)), neuron, ATan(), Count(), (1, 6, 6), 3).build(Key.of(0)).eval()
    x, key = Key.of(1).uniform((11, 1, 6, 6)), Key.of(2)
    wanted, seen = model(x, key), 0
    for backward, spike in itertools.product(
        (None, StraightThrough(), SpikeGated(), TimeShift()), SURROGATES
    ):
        try:
            twin = substitute(model, spike=spike, backward=backward, unroll=unroll)
        except InputError:  # not every rule is defined for every code
            continue
        seen += 1
        x.requires_grad_()
        got = twin(x, key)
        assert torch.equal(got, wanted)
        assert torch.autograd.grad(got.sum(), x)[0].isfinite().all()
    assert seen >= 2 * len(SURROGATES)
    assert torch.equal(model(x, key), wanted)

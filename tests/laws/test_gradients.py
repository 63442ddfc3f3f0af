"""What every gradient rule must satisfy, and each against its equations written out slowly in NumPy."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.decoders import Count, FirstSpike, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct, Latency
from spikeproof.errors import InputError
from spikeproof.experiments.run.compute import through
from spikeproof.gradients import (
    ANTLR,
    ASSG,
    BPTR,
    HART,
    PDSG,
    RGA,
    TSSL,
    GradientRule,
    OnePassASSG,
    SurrogateGradient,
    Truncated,
)
from spikeproof.keys import Key
from spikeproof.learning.spike_rules import ANTLRBP, STBP, TSSLBP
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    IF,
    LIF,
    PSP,
    BySubtraction,
    ReLU,
    Spiking,
    State,
    Synapse,
    ToZero,
    lif_unroll,
    unroll,
)
from spikeproof.specs import build, describe
from spikeproof.surrogates import ATan, Exponential, Rectangle, Sigmoid, Triangle

GRADIENTS = [  # a new rule adds a row here
    SurrogateGradient(),
    SurrogateGradient(Triangle(0.7), detach_reset=True),
    TSSL(),
    TSSL(Triangle(1.0), steepest=3.0, farthest=None),
    ANTLR(),
    ANTLR(activation=0.0),
    ANTLR(timing=0.0),
    Truncated(),
    Truncated(5),
    BPTR(),
    RGA(),
    RGA(gamma=0.7, extension=0.4),
    HART(),
    HART(Sigmoid(2.0)),
    PDSG(),
    ASSG(),
    OnePassASSG(0.3, memory=0.0, relax=0.0),
]
NEURONS = [
    make(reset=reset, threshold=threshold, synapse=synapse, detach_reset=detach)
    for make, reset, threshold, synapse, detach in itertools.product(
        (IF, LIF), (BySubtraction(), ToZero()), (1.0, 0.6), (None, PSP(tau=2.5e-3)), (False, True)
    )
]
BROAD = Sigmoid(5.0)


def drive(*shape, scale=0.8):
    return scale * Key.of(7).normal(shape).double()


def rest(*shape):
    return State(torch.zeros(shape, dtype=torch.float64))


def layer_gradient(rule, neuron, current, weight):
    """Gradient of sum(weight * trace) by the current, through neurons and the synapse behind them."""
    current = current.clone().requires_grad_()
    spikes = Spiking(neuron, BROAD, rule)(current)
    trace = spikes if neuron.synapse is None else Synapse(neuron.synapse)(spikes)
    return torch.autograd.grad((weight * trace).sum(), current)[0]


def slow_forward(current, neuron):
    """Potential before the reset, rise, spike: one neuron, one step at a time."""
    v, potentials, rises, spikes = 0.0, [], [], []
    for i in current:
        u = neuron.decay * v + i
        potentials.append(u)
        rises.append(u - v)
        spikes.append(float(u >= neuron.threshold))
        v = u if not spikes[-1] else (0.0 if neuron.reset == ToZero() else u - neuron.threshold)
    return potentials, rises, spikes


def slow_kernel(neuron, steps):
    """The trace of one spike, and its derivative by time as TSSL-BP has it, in units of the time constant."""
    if neuron.synapse is None:
        return [1.0] + [0.0] * (steps - 1), [-1.0] + [0.0] * (steps - 1)
    d = math.exp(-neuron.synapse.dt / neuron.synapse.tau)
    tau = 1 / (1 - d)
    return [d**k / tau for k in range(steps)], [-(d**k) / tau**2 * tau for k in range(steps)]


@pytest.mark.parametrize("rule", GRADIENTS, ids=repr)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_spikes_are_those_of_the_neuron_to_the_bit(rule, neuron):
    level = (4 * Key.of(8).uniform((16, 4, 50))).floor() / 3  # many potentials meet the threshold
    current = level * torch.tensor(neuron.threshold)
    zero = State(torch.zeros(4, 50))
    wanted, end = unroll(current, zero, neuron, ATan())
    got, got_end = rule(current, zero, neuron, ATan())
    assert torch.equal(got, wanted)
    assert torch.equal(got_end.v, end.v)
    halves = rule(current[:5], zero, neuron, ATan())
    assert torch.equal(rule(current[5:], halves[1], neuron, ATan())[0], wanted[5:])


@pytest.mark.parametrize("rule", GRADIENTS, ids=repr)
@pytest.mark.parametrize("decoder", [Count(), FirstSpike(), MeanPotential(), MeanCurrent()], ids=repr)
@pytest.mark.parametrize("network", [MLP((12,)), ConvNet((3,))], ids=repr)
def test_a_twin_has_the_models_logits_to_the_bit_and_another_gradient(rule, network, decoder):
    neuron = LIF(threshold=0.1, reset=ToZero(), synapse=PSP())
    spec = ModelSpec(Direct(5), network, neuron, ATan(), decoder, (1, 6, 6), 3)
    model = spec.build(Key.of(0)).eval()
    twin = substitute(model, unroll=rule)
    x, weight = Key.of(1).uniform((7, 1, 6, 6)).requires_grad_(), Key.of(2).normal((7, 3))
    assert torch.equal(model(x), twin(x))
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    own, other = (torch.autograd.grad((m(x) * weight).sum(), x)[0] for m in (model, twin))
    assert other.isfinite().all()
    assert not torch.allclose(own, other)


@pytest.mark.parametrize("rule", GRADIENTS, ids=repr)
def test_examples_do_not_see_each_other(rule):
    current, weight = drive(6, 5, 4), Key.of(2).normal((6, 5, 4)).double()
    neuron = LIF(synapse=PSP())
    whole = layer_gradient(rule, neuron, current, weight)
    alone = layer_gradient(rule, neuron, current[:, 2:3], weight[:, 2:3])
    assert torch.allclose(alone, whole[:, 2:3], atol=1e-14)
    assert whole.abs().sum() > 0


@pytest.mark.parametrize("rule", GRADIENTS, ids=repr)
def test_a_rule_is_rebuilt_from_its_description(rule):
    assert build(GradientRule, describe(rule, MODEL_PARTS), MODEL_PARTS) == rule


@pytest.mark.parametrize("rule", GRADIENTS, ids=repr)
def test_neurons_for_which_a_rule_is_not_defined_are_refused(rule):
    with pytest.raises(InputError, match="integrate-and-fire"):
        rule.check(ReLU())
    with pytest.raises(InputError, match="integrate-and-fire"):
        Spiking(ReLU(), BROAD, rule)(drive(3, 1, 2))


def published_tssl(current, weight, tau_m=5.0, tau_s=3.0, threshold=1.0):
    """The published code of TSSL-BP in NumPy, in its own terms: traces, and the gradient by the current.

    `weight` is the gradient by the trace behind the synapse. Neurons fire above their threshold.
    """
    steps = len(current)
    u, trace = np.zeros_like(current[0]), np.zeros_like(current[0])
    delta_u, us, spikes, traces = [], [], [], []
    for i in current:
        delta = -u / tau_m + i
        u = u + delta
        delta_u.append(delta)
        us.append(u)
        s = (u > threshold).astype(u.dtype)
        spikes.append(s)
        u = u * (1 - s)
        trace = trace + (s - trace) / tau_s
        traces.append(trace)
    kernel = np.array([(1 - 1 / tau_s) ** k / tau_s for k in range(steps)])
    theta, found = np.zeros_like(u), np.zeros_like(current)
    for t in reversed(range(steps)):
        with np.errstate(divide="ignore"):
            pu = np.clip(-1 / delta_u[t], -8, 0) * spikes[t]
        later = weight[t:]
        tmp = tau_s * np.einsum("k,k...->...", -kernel[: steps - t] / tau_s, pu * later)
        if t < steps - 1:
            tmp += theta * us[t] * -1 / tau_m * pu
            tmp += theta * (1 - 1 / tau_m) * (1 - spikes[t])
        theta = tmp * spikes[t] + theta * (1 - spikes[t]) * (1 - 1 / tau_m)
        z = np.exp(np.clip((threshold - us[t]) / 0.2, -8, 8))
        act = np.einsum("k,k...->...", kernel[: steps - t], later) * z / ((1 + z) ** 2 * 0.2)
        found[t] = np.where(traces[t] < 1 / (4 * tau_s), act, tmp)
    return np.array(traces), found


def test_tssl_with_reset_to_zero_is_the_published_rule_and_with_subtraction_it_is_not():
    """On potentials far below the threshold, too, where the bound of the surrogate's argument counts."""
    steps, tau = 12, lambda share: -1e-3 / math.log(1 - 1 / share)
    current = drive(steps, 400, scale=1.5) - 0.2
    weight = Key.of(2).normal((steps, 400)).double()
    neuron = LIF(tau=tau(5), reset=ToZero(), synapse=PSP(tau=tau(3)))
    traces, wanted = published_tssl(current.numpy(), weight.numpy())
    spikes = Spiking(neuron)(current)
    np.testing.assert_allclose(Synapse(neuron.synapse)(spikes), traces, atol=1e-12)
    np.testing.assert_allclose(layer_gradient(TSSL(), neuron, current, weight), wanted, rtol=1e-9, atol=1e-12)
    unbounded = layer_gradient(TSSL(farthest=None), neuron, current, weight).numpy()
    assert np.abs(unbounded - wanted).max() > 1e-3
    subtracting = layer_gradient(TSSL(), replace(neuron, reset=BySubtraction()), current, weight).numpy()
    assert np.vdot(subtracting, wanted) < 0.99 * np.linalg.norm(subtracting) * np.linalg.norm(wanted)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_tssl_is_the_published_recursion_with_its_sum_over_all_later_steps(neuron):
    steps, count = 10, 16
    current, weight = drive(steps, count), Key.of(2).normal((steps, count)).double()
    got = layer_gradient(TSSL(steepest=1.5), neuron, current, weight)
    kernel, by_time = slow_kernel(neuron, steps)
    leak = 1 - neuron.decay
    kinds = set()
    for n in range(count):
        u, rise, s = slow_forward(current[:, n].tolist(), neuron)
        g = weight[:, n].tolist()
        carried = 0.0
        for t in reversed(range(steps)):
            timed = 0.0
            steep = -1.5 if rise[t] == 0 else min(max(-1 / rise[t], -1.5), 0.0)
            inverse = steep * s[t]
            for k in range(steps - t):
                timed += inverse * by_time[k] * g[t + k]
            taken = u[t] if neuron.reset == ToZero() else neuron.threshold
            if t < steps - 1:
                timed += carried * taken * -1 * leak * inverse
                timed += carried * (1 - leak) * (1 - s[t])
            carried = timed * s[t] + carried * (1 - s[t]) * (1 - leak)
            recent = sum(kernel[t - j] * s[j] for j in range(t + 1))
            z = math.exp(min(max((neuron.threshold - u[t]) / 0.2, -8), 8))
            active = sum(kernel[k] * g[t + k] for k in range(steps - t)) * z / ((1 + z) ** 2 * 0.2)
            silent = recent < kernel[0] / 4
            kinds.add((silent, bool(s[t]), inverse == -1.5))
            assert got[t, n].item() == pytest.approx(active if silent else timed, rel=1e-9, abs=1e-12)
    assert {(True, False, False), (False, True, False), (False, True, True)} <= kinds


@pytest.mark.parametrize(
    "rule", [ANTLR(), ANTLR(activation=0.0), ANTLR(2.0, 0.5, Triangle(1.0), 0.2)], ids=repr
)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_antlr_is_its_equation_written_out(rule, neuron):
    steps, count = 9, 8
    current, weight = drive(steps, count), Key.of(2).normal((steps, count)).double()
    got = layer_gradient(rule, neuron, current, weight)
    kernel, _ = slow_kernel(neuron, steps)
    for n in range(count):
        u, rise, s = slow_forward(current[:, n].tolist(), neuron)
        h = weight[:, n].tolist()
        by_spike = [sum(kernel[k] * h[t + k] for k in range(steps - t)) for t in range(steps)]
        carried = 0.0
        for t in reversed(range(steps)):
            before, after = max(t - 1, 0), min(t + 1, steps - 1)
            moved = (by_spike[after] - by_spike[before]) / (after - before)
            hard = neuron.reset == ToZero()
            through_v = (1 - s[t]) if hard else 1.0
            through_s = 0.0 if neuron.detach_reset else (-u[t] if hard else -neuron.threshold)
            slope = rule.surrogate.derivative(
                torch.tensor(u[t] - neuron.threshold, dtype=torch.float64)
            ).item()
            here = rule.activation * slope * (by_spike[t] + carried * through_s) + carried * through_v
            here += rule.timing * s[t] * moved / -max(rise[t], rule.least_rise)
            carried = here * neuron.decay
            assert got[t, n].item() == pytest.approx(here, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_surrogate_gradients_are_the_recorded_ones_and_antlr_without_timing_is_no_more(neuron):
    current, weight = drive(8, 2, 30), Key.of(2).normal((8, 2, 30)).double()
    for detach in (False, True):
        like = replace(neuron, detach_reset=detach)
        spiking = Spiking(like, Rectangle(), unroll)
        x = current.clone().requires_grad_()
        (wanted,) = torch.autograd.grad((weight * spiking(x)).sum(), x)
        x = current.clone().requires_grad_()
        z, _ = SurrogateGradient(Rectangle(), detach_reset=detach)(x, rest(2, 30), neuron, ATan())
        assert torch.allclose(torch.autograd.grad((weight * z).sum(), x)[0], wanted, atol=1e-12)
        x = current.clone().requires_grad_()
        z, _ = ANTLR(timing=0.0, surrogate=Rectangle())(x, rest(2, 30), like, ATan())
        assert torch.allclose(torch.autograd.grad((weight * z).sum(), x)[0], wanted, atol=1e-12)


@pytest.mark.parametrize("step", [10, 100, 250])
def test_timing_gradients_are_finite_differences_of_the_time_of_the_spike(step):
    """A finely sampled neuron fires once, and the loss is a smooth function of when it does.

    The crossing time is interpolated in the float64 potential of the neuron, so it moves smoothly.
    """
    steps, dt = 1500, 1e-5
    neuron = LIF(tau=4e-3, dt=dt, reset=ToZero())
    smooth = torch.linspace(0, 3, steps, dtype=torch.float64).sin()
    current = torch.full((steps, 1), 2.0 * dt / 4e-3, dtype=torch.float64)

    def crossing(drive):
        v = neuron.integrate(drive).flatten()
        t = int((v >= 1).nonzero()[0])
        return t - 1 + ((1 - v[t - 1]) / (v[t] - v[t - 1])).item()

    when = crossing(current)
    last = math.ceil(when) + 1  # nothing after the first spike counts, but for the slope of the loss
    x = current[: last + 1].clone().requires_grad_()
    z, _ = ANTLR(activation=0.0, least_rise=1e-9)(x, rest(1), neuron, ATan())
    assert z.sum() == 1
    (got,) = torch.autograd.grad((smooth[: last + 1, None] * z).sum(), x)
    h = 1e-6
    moved = [current.clone(), current.clone()]
    moved[0][step] += h
    moved[1][step] -= h
    by_input = (crossing(moved[0]) - crossing(moved[1])) / (2 * h)
    at = round(when)
    wanted = by_input * ((smooth[at + 1] - smooth[at - 1]) / 2).item()
    assert got[step].item() == pytest.approx(wanted, rel=0.01)
    x = current[:last].clone().requires_grad_()
    z, _ = TSSL(steepest=1e9)(x, rest(1), neuron, ATan())
    (tssl,) = torch.autograd.grad(z.sum(), x)
    # before the spike, where TSSL-BP would use its surrogate, its carried error is that of the spike's time
    assert tssl[last - 1].item() == pytest.approx(-by_input / neuron.decay ** (last - 1 - step), rel=0.01)


def test_a_spike_that_no_rise_caused_gets_the_bounded_slope_or_none():
    """Reset by subtraction, a potential may fall and still be above threshold: nothing crosses it then."""
    neuron, x = IF(), torch.tensor([[3.0], [0.0], [-0.5]], dtype=torch.float64, requires_grad=True)
    z, _ = TSSL()(x, rest(1), neuron, ATan())
    assert z.flatten().tolist() == [1, 1, 0]
    x2 = torch.tensor([[3.0], [-0.1]], dtype=torch.float64, requires_grad=True)
    z2, _ = TSSL()(x2, rest(1), neuron, ATan())
    assert z2.flatten().tolist() == [1, 1]
    assert torch.autograd.grad(z2.sum(), x2)[0][1].item() == 0
    assert torch.autograd.grad(z.sum(), x)[0][1].item() == 8


@pytest.mark.parametrize("learning", [TSSLBP(), ANTLRBP()], ids=repr)
def test_rules_that_move_spikes_ask_for_a_synapse(learning):
    learning.check(LIF(synapse=PSP()))
    with pytest.raises(InputError, match="synapse"):
        learning.check(LIF())


def test_a_learning_rule_follows_the_gradient_of_its_name():
    with pytest.raises(InputError, match="TSSL"):
        TSSLBP(gradient=ANTLR())
    with pytest.raises(InputError, match="epochs"):
        STBP(epochs=0)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: TSSL(steepest=0.0),
        lambda: ANTLR(0.0, 0.0),
        lambda: ANTLR(least_rise=-1.0),
        lambda: TSSL(farthest=0.0),
    ],
)
def test_constants_of_gradient_rules_out_of_range_are_refused(bad):
    with pytest.raises(InputError):
        bad()


def test_an_attack_takes_its_gradients_through_the_rule_and_its_verdict_from_the_model():
    neuron = LIF(threshold=0.3, reset=ToZero(), synapse=PSP())
    model = ModelSpec(Latency(5), MLP((12,)), neuron, ATan(), MeanPotential(), (1, 6, 6), 3).build(Key.of(0))
    recipe = Through(gradient=TSSL(), attack=PGD(steps=3))
    twin = through(model.eval(), recipe)
    assert twin is not None
    assert twin is not model
    assert {layer.unroll for layer in twin.modules() if isinstance(layer, Spiking)} == {TSSL()}
    assert {layer.unroll for layer in model.modules() if isinstance(layer, Spiking)} == {lif_unroll}
    assert not recipe.for_stochastic
    with pytest.raises(InputError, match="gradient attack"):
        Through(gradient=TSSL(), attack=NoiseSearch())
    with pytest.raises(InputError, match="surrogate"):
        Through(gradient=TSSL(), attack=PGD(surrogate=Exponential()))

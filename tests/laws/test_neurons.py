"""What every neuron must satisfy, against the repeated step, a slow NumPy version and closed forms."""

import itertools
import math

import numpy as np
import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.neurons import (
    IF,
    LIF,
    PSP,
    BySubtraction,
    Integrator,
    ReLU,
    Softplus,
    Spiking,
    State,
    ToZero,
    lif_unroll,
    psp_filter,
    unroll,
)
from spikeproof.surrogates import ATan, Sigmoid, Triangle

RESETS = (BySubtraction(), ToZero())
NEURONS = [
    make(reset=reset, detach_reset=detach, threshold=threshold)
    for make, reset, detach, threshold in itertools.product((IF, LIF), RESETS, (False, True), (1.0, 0.6))
] + [LIF(tau=1e-3), LIF(tau=50e-3, dt=2e-3)]


def drive(*shape, scale=0.8):
    return scale * Key.of(7).normal(shape).double()


def numpy_spikes(current, decay, threshold, subtract):
    """The equation of the docstring, one neuron and one step at a time."""
    spikes = np.zeros_like(current)
    for neuron in np.ndindex(current.shape[1:]):
        v = 0.0
        for t in range(current.shape[0]):
            v = decay * v + current[(t, *neuron)]
            if v >= threshold:
                spikes[(t, *neuron)] = 1.0
                v = v - threshold if subtract else 0.0
    return spikes


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_spikes_equal_the_slow_version(neuron):
    current = drive(12, 3, 5)
    decay = math.exp(-neuron.dt / neuron.tau) if isinstance(neuron, LIF) else 1.0
    slow = numpy_spikes(current.numpy(), decay, neuron.threshold, neuron.reset == BySubtraction())
    assert slow.any()
    assert np.array_equal(Spiking(neuron)(current).numpy(), slow)


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_the_fast_loop_fires_alike_in_single_precision_where_potentials_meet_the_threshold(neuron):
    """Currents are simple fractions of the threshold: many potentials lie on it or one rounding off."""
    level = (4 * Key.of(8).uniform((16, 4, 50))).floor() / 3
    current = level * torch.tensor(neuron.threshold)
    rest = State(torch.zeros(4, 50))
    plain, fast = (run(current, rest, neuron, ATan()) for run in (unroll, lif_unroll))
    assert torch.equal(fast[0], plain[0])
    assert torch.equal(fast[1].v, plain[1].v)


@pytest.mark.parametrize("neuron", [*NEURONS, ReLU(), Softplus()], ids=repr)
def test_unroll_is_the_step_repeated_and_two_halves_are_the_whole(neuron):
    current, rest = drive(9, 2, 4), State(torch.zeros(2, 4, dtype=torch.float64))
    state, spikes = rest, []
    for i in current:
        z, state = neuron.step(i, state, ATan())
        spikes.append(z)
    for run in (unroll, lif_unroll):
        whole, end = run(current, rest, neuron, ATan())
        assert torch.equal(whole, torch.stack(spikes))
        assert torch.equal(end.v, state.v)
        first, middle = run(current[:4], rest, neuron, ATan())
        second, last = run(current[4:], middle, neuron, ATan())
        assert torch.equal(torch.cat([first, second]), whole)
        assert torch.equal(last.v, end.v)


@pytest.mark.parametrize("spike", [ATan(), Triangle(0.8), Sigmoid(5.0)], ids=repr)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_the_written_out_gradient_equals_the_recorded_one(neuron, spike):
    current = drive(8, 2, 3).requires_grad_()
    start = (0.3 * Key.of(1).normal((2, 3)).double()).requires_grad_()
    weights = Key.of(2).normal((8, 2, 3)).double(), Key.of(3).normal((2, 3)).double()
    results = []
    for run in (unroll, lif_unroll):
        z, end = run(current, State(start), neuron, spike)
        results.append((z, *torch.autograd.grad([z, end.v], [current, start], weights)))
    assert torch.equal(results[0][0], results[1][0])
    for plain, fast in zip(*results, strict=True):
        assert torch.allclose(plain, fast, atol=1e-12)


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("reset", [ToZero(), BySubtraction()], ids=repr)
def test_the_gradient_is_the_recurrence_of_the_literature(reset, detach):
    """dL/du[t] = dL/ds[t] g + dL/du[t+1] decay (d reset/du + g d reset/ds), for one neuron by hand."""
    neuron, spike, hard = LIF(reset=reset, detach_reset=detach), ATan(), reset == ToZero()
    current = drive(7, 1).requires_grad_()
    weight = Key.of(2).normal((7, 1)).double()
    z, _ = lif_unroll(current, State(torch.zeros(1, dtype=torch.float64)), neuron, spike)
    (grad,) = torch.autograd.grad(z, current, weight)
    u, before, fired = [], 0.0, []
    for t in range(7):
        now = neuron.decay * before + current[t, 0].item()
        fired.append(now >= 1)
        u.append(now)
        before = (0.0 if hard else now - 1) if fired[-1] else now
    carried = 0.0
    for t in reversed(range(7)):
        g = spike.derivative(torch.tensor(u[t] - 1, dtype=torch.float64)).item()
        by_potential, by_spike = ((1 - fired[t]), -u[t]) if hard else (1, -1)
        through_reset = by_potential + (0 if detach else by_spike * g)
        carried = weight[t, 0].item() * g + carried * neuron.decay * through_reset
        assert grad[t, 0].item() == pytest.approx(carried, abs=1e-12)


@pytest.mark.parametrize("block", [1, 3, 1 << 17])
def test_the_block_size_changes_nothing(block, monkeypatch):
    current = drive(5, 2, 4).requires_grad_()
    wanted, _ = unroll(current, State(torch.zeros(2, 4, dtype=torch.float64)), LIF(), ATan())
    monkeypatch.setattr("spikeproof.neurons.integrate.BLOCK", block)
    got, _ = lif_unroll(current, State(torch.zeros(2, 4, dtype=torch.float64)), LIF(), ATan())
    assert torch.equal(got, wanted)
    grads = [torch.autograd.grad(z.square().sum(), current)[0] for z in (wanted, got)]
    assert torch.allclose(*grads, atol=1e-12)


def test_examples_do_not_see_each_other_and_nothing_is_left_behind():
    layer, current = Spiking(LIF()), drive(6, 5, 4)
    whole = layer(current)
    assert torch.equal(layer(current), whole)
    assert torch.equal(layer(current[:, 2:3]), whole[:, 2:3])
    assert torch.equal(layer(drive(6, 9, 4, scale=3.0))[:, :0], whole[:, :0])  # another batch size
    assert torch.equal(layer(current), whole)


@pytest.mark.parametrize(("tau", "dt"), [(20e-3, 1e-3), (5e-3, 0.5e-3)])
def test_the_potential_falls_to_one_over_e_after_tau_seconds(tau, dt):
    neuron = LIF(tau=tau, dt=dt, threshold=1e9)
    current = torch.zeros(round(tau / dt) + 1, 1)
    current[0] = 1.0
    assert neuron.integrate(current)[-1].item() == pytest.approx(math.exp(-1), rel=1e-5)
    _, end = unroll(current, State(torch.zeros(1)), neuron, ATan())
    assert end.v.item() == pytest.approx(math.exp(-1), rel=1e-5)


def test_a_potential_equal_to_the_threshold_fires():
    assert Spiking(IF(threshold=0.5))(torch.tensor([[0.25], [0.25]])).flatten().tolist() == [0, 1]


def test_resets_keep_or_lose_the_excess():
    current = torch.tensor([[1.5], [0.5]])
    assert Spiking(IF(reset=BySubtraction()))(current).flatten().tolist() == [1, 1]
    assert Spiking(IF(reset=ToZero()))(current).flatten().tolist() == [1, 0]


def test_a_constant_current_fires_at_its_rate():
    """IF with reset by subtraction: floor(T I / threshold) spikes."""
    for i in (0.125, 0.25, 0.375, 0.75):  # exact in binary
        assert Spiking(IF())(torch.full((64, 1), i)).sum().item() == math.floor(64 * i)


def test_the_synaptic_trace_has_unit_area_and_its_time_constant():
    spikes = torch.zeros(400, 1, dtype=torch.float64)
    spikes[0] = 1
    trace = psp_filter(spikes, PSP(tau=10e-3, dt=1e-3)).flatten()
    assert trace.sum().item() == pytest.approx(1)
    assert (trace[10] / trace[0]).item() == pytest.approx(math.exp(-1))


def test_relu_is_a_relu_and_reads_out_its_current():
    current = drive(1, 3, 4)
    assert torch.equal(Spiking(ReLU())(current), current.relu())
    assert torch.equal(Integrator(ReLU())(current), current)


def test_potentials_are_kept_in_single_precision_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert Spiking(LIF())(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.float32
        assert Integrator(LIF())(torch.ones(2, 3, 1, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("bad", [{"tau": 0.0}, {"dt": -1e-3}, {"threshold": 0.0}, {"tau": math.nan}])
def test_constants_of_leaky_neurons_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        LIF(**bad)

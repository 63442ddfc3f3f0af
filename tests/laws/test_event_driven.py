"""Event-driven gradients and the renewal neuron, against their equations written out slowly."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.gradients.event_driven import EventDriven
from spikeproof.keys import Key
from spikeproof.learning.spike_rules import EventDrivenBP
from spikeproof.networks.architecture import MLP, ConvNet, OverTime, SpikingNetwork
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.deep import ResNet18
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import LIF, Renewal, Spiking, unroll
from spikeproof.specs import build, describe
from spikeproof.surrogates import ATan

RULES = [EventDriven(), EventDriven(tau_grad=None), EventDriven(tau_grad=1e-3, steepest=1.5)]
NEURONS = [Renewal(), Renewal(threshold=0.4), Renewal(tau=20e-3, tau_syn=1e-3, dt=2e-3)]


def drive(*shape, scale=1.0, mean=0.4):
    return mean + scale * Key.of(7).normal(shape).double()


def slow_forward(current, neuron, tau_grad):
    """Rise, slope and spike of one neuron, from sums over all inputs since its last spike."""
    a, b = math.exp(-neuron.dt / neuron.tau), math.exp(-neuron.dt / neuron.tau_syn)
    rises, slopes, spikes, last, before = [], [], [], -1, 0.0
    for t in range(len(current)):
        inputs = [(t - j, current[j]) for j in range(last + 1, t + 1)]
        v = sum((1 - b) / (a - b) * (a ** (k + 1) - b ** (k + 1)) * i for k, i in inputs)
        rises.append(v - before)
        if tau_grad is None:
            slopes.append(rises[-1])
        else:
            slopes.append(sum(math.exp(-(k + 1) * neuron.dt / tau_grad) * i for k, i in inputs))
        spikes.append(v >= neuron.threshold)
        before = v
        if spikes[-1]:
            last, before = t, 0.0
    return rises, slopes, spikes


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_the_renewal_neuron_is_a_sum_over_inputs_since_its_last_spike(neuron):
    current = drive(14, 30)
    wanted = [slow_forward(current[:, n].tolist(), neuron, None)[2] for n in range(30)]
    got = Spiking(neuron, unroll=unroll)(current)
    assert got.bool().T.tolist() == wanted
    assert 0 < got.mean() < 1
    assert build(type(neuron).__mro__[1], describe(neuron, MODEL_PARTS), MODEL_PARTS) == neuron


def test_a_lone_input_rises_and_falls_with_the_time_constants():
    neuron = Renewal(tau=8e-3, tau_syn=2e-3, dt=1e-4, threshold=1e9)
    current = torch.zeros(600, 1, dtype=torch.float64)
    current[0] = 1
    v = neuron.integrate(current).flatten()
    peak = 8e-3 * 2e-3 / 6e-3 * math.log(4)
    assert (int(v.argmax()) + 1) * 1e-4 == pytest.approx(peak, abs=2e-4)
    assert (v[599] / v[519]).item() == pytest.approx(math.exp(-1), rel=1e-2)
    for bad in ({"tau": 0.0}, {"tau_syn": 9e-3}, {"threshold": -1.0}):
        with pytest.raises(InputError):
            Renewal(**bad)


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_both_gradients_are_those_of_the_published_recursion(rule, neuron):
    """One layer of connections behind spikes: weights learn by amplitude, the input by time."""
    steps, inputs, count = 12, 5, 6
    x = (Key.of(1).uniform((steps, 3, inputs)) < 0.5).double().requires_grad_()
    linear = nn.Linear(inputs, count, bias=False).double()
    with torch.no_grad():
        linear.weight.copy_(0.8 * Key.of(2).normal((count, inputs)) + 0.3)
    network = SpikingNetwork([nn.Identity(), Spiking(neuron), OverTime(linear), Spiking(neuron)])
    rule.install(network)
    g = Key.of(3).normal((steps, 3, count)).double()
    spikes = network.layers[3](x)
    by_weight, by_input = torch.autograd.grad((g * spikes).sum(), [linear.weight, x])
    current = (x @ linear.weight.T).detach()
    a, b = math.exp(-neuron.dt / neuron.tau), math.exp(-neuron.dt / neuron.tau_syn)
    kernel = [(1 - b) / (a - b) * (a ** (k + 1) - b ** (k + 1)) for k in range(steps)]
    if rule.tau_grad is None:
        moved = [kernel[k] - (kernel[k - 1] if k else 0) for k in range(steps)]
    else:
        moved = [math.exp(-neuron.dt / rule.tau_grad) ** (k + 1) for k in range(steps)]
    amplitude, timing = torch.zeros_like(current), torch.zeros_like(current)
    for e in range(3):
        for n in range(count):
            rise, slope, s = slow_forward(current[:, e, n].tolist(), neuron, rule.tau_grad)
            assert s == spikes[:, e, n].bool().tolist()
            pw = pt = 0.0
            k, alive = -1, False
            for t in reversed(range(steps)):
                time = -g[t, e, n].item()  # how the loss rises when this spike comes later
                if s[t]:
                    pw = time * min(max(-1 / rise[t], -rule.steepest), 0)
                    pt = time * min(max(-1 / slope[t], -rule.steepest), 0)
                    k, alive = -1, True
                k += 1
                if alive:
                    amplitude[t, e, n] = pw * kernel[k]
                    timing[t, e, n] = -(-pt * moved[k])  # minus: what an earlier input gains
    assert torch.allclose(by_weight, torch.einsum("teo,tei->oi", amplitude, x.detach()), atol=1e-10)
    assert torch.allclose(by_input, timing @ linear.weight, atol=1e-10)
    assert by_weight.abs().sum() > 0
    assert not torch.allclose(amplitude, timing)


@pytest.mark.parametrize("tau_grad", [None, 2.5e-3])
def test_moving_all_inputs_moves_the_spike_as_far(tau_grad):
    """The timing gradients of the inputs of one spike add up to its own."""
    rule, neuron = EventDriven(tau_grad=tau_grad, steepest=1e9), Renewal()
    x = (0.6 + 0.1 * Key.of(4).uniform((9, 1, 20))).double()
    linear = OverTime(nn.Identity())
    network = SpikingNetwork([nn.Identity(), Spiking(neuron), linear, Spiking(neuron)])
    rule.install(network)
    x.requires_grad_()
    z = network.layers[3](x)
    first = (z.cumsum(0) == 1) & (z == 1)
    assert first.sum() == 20
    (moved,) = torch.autograd.grad(z[first].sum(), x)
    assert torch.allclose((moved * x).sum(0), torch.ones(1, 20, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("decoder", [Count(), MeanPotential()], ids=repr)
@pytest.mark.parametrize("network", [MLP((12, 9)), ConvNet((3,), (8,), batch_norm=False)], ids=repr)
def test_a_twin_has_the_models_logits_to_the_bit_and_its_tensors(rule, network, decoder):
    spec = ModelSpec(Direct(6), network, Renewal(threshold=0.1), ATan(), decoder, (1, 6, 6), 3)
    model = spec.build(Key.of(0)).eval()
    twin = substitute(model, unroll=rule)
    x = Key.of(1).uniform((7, 1, 6, 6)).requires_grad_()
    assert torch.equal(model(x), twin(x))
    assert {id(p) for p in model.parameters()} == {id(p) for p in twin.parameters()}
    weight = Key.of(2).normal((7, 3))
    grads = torch.autograd.grad((twin(x) * weight).sum(), [x, *twin.parameters()], allow_unused=True)
    own = torch.autograd.grad((model(x) * weight).sum(), x)[0]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert grads[0].abs().sum() > 0
    assert not torch.allclose(grads[0], own)


def test_other_neurons_batch_normalisation_and_residual_blocks_are_refused():
    with pytest.raises(InputError, match="renewal"):
        EventDriven().check(LIF())
    spec = ModelSpec(Direct(4), ConvNet((3,)), Renewal(), ATan(), Count(), (1, 8, 8), 2)
    with pytest.raises(InputError, match="batch normalisation"):
        EventDrivenBP().twin(spec.build(Key.of(0)))
    with pytest.raises(InputError, match="layers in sequence"):
        substitute(replace(spec, network=ResNet18(width=0.1)).build(Key.of(0)), unroll=EventDriven())
    for bad in ({"tau_grad": 0.0}, {"steepest": -1.0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            EventDriven(**bad)

"""Forward propagation through time, against plain and truncated backpropagation and its own equations."""

from dataclasses import replace

import pytest
import torch

from spikeproof.datasets import Dataset, Split
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Bernoulli, Direct
from spikeproof.errors import InputError
from spikeproof.gradients import Truncated
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.learning.online import FPTT
from spikeproof.losses import CrossEntropy
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.recurrent import LSNN
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import ALIF, IF, LIF, PSP, ReLU, State, ToZero, psp_filter, unroll
from spikeproof.surrogates import ATan

X, Y = Key.of(1).uniform((6, 1, 4, 4)), torch.tensor([0, 1, 1, 0, 1, 0])
DATA = Dataset("few", *(Split(X, Y, torch.arange(6)) for _ in range(3)), ("a", "b"), "d", "made here")
SPEC = ModelSpec(
    Direct(6), MLP((7,)), LIF(threshold=0.3, synapse=PSP()), ATan(), MeanPotential(), (1, 4, 4), 2
)
SPECS = [
    SPEC,
    replace(SPEC, neuron=IF(threshold=0.4, reset=ToZero())),
    replace(SPEC, encoder=Bernoulli(6), decoder=Count()),
    replace(SPEC, network=ConvNet((3,))),
]


def course(rule, spec=SPEC):
    model = spec.build(Key.of(0))
    return model, rule._course(model, DATA, Key.of(2), ())


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("spec", SPECS, ids=repr)
def test_one_part_without_the_pull_is_plain_backpropagation_to_the_bit(spec):
    plain, online = spec.build(Key.of(0)), spec.build(Key.of(0))
    history = BPTT(epochs=3, batch_size=3).train(plain, DATA, Key.of(2))
    assert FPTT(epochs=3, batch_size=3, parts=1, alpha=0.0).train(online, DATA, Key.of(2)) == history
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, online.state_dict()[name])


RECURRENT = replace(SPEC, network=LSNN((7,), adaptive=ALIF(threshold=0.3)))


@pytest.mark.parametrize("spec", [*SPECS[:3], RECURRENT], ids=repr)
def test_parts_one_after_the_other_are_the_whole_sequence(spec):
    """The remembered states lead to the outputs that the model has in one go."""
    model, running = course(FPTT(parts=3, alpha=0.0), spec)
    encoded = model.encode(X, Key.of(3))
    parts = [running.twin.network(part) for part in torch.tensor_split(encoded, 3)]
    assert torch.allclose(torch.cat(parts), model.network(encoded), atol=1e-6)


def truncated(model, i, parts):
    """Loss after part i as an explicit loop over the MLP, with every state detached before that part."""
    first, last = model.network.layers[0][1], model.network.layers[-2][0]
    neuron = model.spec.neuron
    decay = psp_filter(torch.tensor([[1.0], [0.0]]), neuron.synapse).flatten()
    keep, gain = (decay[1] / decay[0]).item(), decay[0].item()
    v, trace, potential, potentials = torch.zeros(6, 7), torch.zeros(6, 7), torch.zeros(6, 2), []
    cuts = torch.tensor_split(torch.arange(6), parts)
    for t in range(int(cuts[i][-1]) + 1):
        if t == int(cuts[i][0]):
            v, trace, potential = v.detach(), trace.detach(), potential.detach()
            potentials = [p.detach() for p in potentials]
        z, state = unroll(first(X.flatten(1))[None], State(v), neuron, model.spec.surrogate)
        v, trace = state.v, keep * trace + gain * z[0]
        potential = neuron.decay * potential + last(trace)
        potentials.append(potential)
    logits = torch.stack(potentials).mean(0)
    return CrossEntropy()(torch.stack(potentials), logits, Y).mean() * (i + 1) / parts


@pytest.mark.parametrize("parts", [2, 3, 6])
def test_gradients_are_those_of_backpropagation_cut_off_at_the_start_of_each_part(parts):
    model, running = course(FPTT(parts=parts, alpha=0.0, clip_norm=None))
    wanted = [torch.autograd.grad(truncated(model, i, parts), list(model.parameters())) for i in range(parts)]
    got = []

    def keep(loss):  # a step that leaves the weights as they are
        got.append(torch.autograd.grad(loss, list(model.parameters())))
        return loss.detach()

    running.descend = keep
    running.learn(X, Y, Key.of(3))
    assert len(got) == parts
    for one, other in zip(got, wanted, strict=True):
        for a, b in zip(one, other, strict=True):
            assert torch.allclose(a, b, atol=1e-6)
    assert any(a.abs().sum() > 0 for a in got[-1])


@pytest.mark.parametrize("parts", [1, 2, 4, 6])
def test_the_gradient_rule_of_an_attack_is_cut_off_where_that_of_training_is(parts):
    model, cuts = SPEC.build(Key.of(0)), torch.tensor_split(torch.arange(6), parts)
    outputs = substitute(model, unroll=Truncated(parts)).outputs(X)
    assert torch.equal(outputs, model.outputs(X))
    for i, part in enumerate(cuts):
        so_far = torch.cat([outputs[: part[0]].detach(), outputs[part]])
        loss = CrossEntropy()(so_far, so_far.mean(0), Y).mean() * (i + 1) / parts
        got = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
        wanted = torch.autograd.grad(truncated(model, i, parts), list(model.parameters()))
        for one, other in zip(got, wanted, strict=True):
            assert torch.allclose(one, other, atol=1e-6)
    assert any(one.abs().sum() > 0 for one in got)


def test_the_pull_and_the_running_mean_follow_their_equations():
    rule = FPTT(parts=2, alpha=0.3, beta=0.4, rho=0.25)
    model, running = course(rule)
    (p,) = (q for q in model.parameters() if q.shape == (2, 7))
    mean, multiplier, losses = p.detach().clone(), torch.zeros_like(p), []

    def move(loss):
        losses.append(torch.autograd.grad(loss, p)[0])
        with torch.no_grad():
            for q in model.parameters():
                q.add_(0.01 * torch.arange(q.numel()).view(q.shape))
        return loss.detach()

    running.descend = move
    for _ in range(3):
        before = p.detach().clone()
        running.step((p * 0).sum())
        expected = (rule.rho - 1) * multiplier + rule.alpha * (before - mean)
        assert torch.allclose(losses[-1], expected, atol=1e-6)
        multiplier = multiplier - rule.alpha * (p.detach() - mean)
        mean = (1 - rule.beta) * mean + rule.beta * p.detach() - rule.beta / rule.alpha * multiplier
        state = running.state.optimiser.state[p]
        assert torch.allclose(state["mean"], mean, atol=1e-6)
        assert torch.allclose(state["multiplier"], multiplier, atol=1e-6)
    assert losses[-1].abs().sum() > 0


def test_batches_do_not_remember_each_other():
    _, running = course(FPTT(parts=3, alpha=0.0, lr=1e-30))
    once = running.learn(X, Y, Key.of(3))
    running.learn(1 - X, Y, Key.of(4))
    assert torch.equal(running.learn(X, Y, Key.of(3)), once)


def test_too_many_parts_neurons_without_spikes_and_constants_out_of_range_are_refused():
    with pytest.raises(InputError, match="7 parts"):
        FPTT(parts=7).train(SPEC.build(Key.of(0)), DATA, Key.of(0))
    with pytest.raises(InputError, match="integrate-and-fire"):
        FPTT().check(ReLU())
    for bad in ({"parts": 0}, {"alpha": -1.0}, {"beta": 0.0}, {"rho": 2.0}, {"epochs": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            FPTT(**bad)

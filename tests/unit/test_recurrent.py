"""Networks for sequences: their sizes, their wiring, and that they learn what needs a memory."""

import math

import pytest
import torch
from torch import nn

from spikeproof.attacks.parts.oracles import Exact
from spikeproof.datasets.parts import Dataset, Split, content_digest
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct, Events, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.recurrent import GRU, LSNN, LSTM
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    AHP,
    ALIF,
    DLIF,
    FS,
    IF,
    LIF,
    PLIF,
    PSP,
    SNU,
    Mixture,
    Recurrent,
    ReLU,
    Spiking,
    unroll,
)
from spikeproof.surrogates import ATan, Triangle

SHAPE, K = (2, 3, 3), 4
X = Key.of(1).uniform((5, *SHAPE))


def build(network, neuron=LIF(), decoder=MeanPotential(), encoder=Latency(6), shape=SHAPE):
    return ModelSpec(encoder, network, neuron, ATan(), decoder, shape, K).build(Key.of(0)).eval()


def size(model):
    return sum(p.numel() for p in model.parameters())


SIZES = [
    (LSNN((10,)), LIF(), 18 * 10 + 10 + 100 + 10 * K + K),
    (LSNN((10,), recurrent=False), LIF(), 18 * 10 + 10 + 10 * K + K),
    (LSNN((10, 7)), LIF(), 190 + 100 + 77 + 49 + 7 * K + K),
    (LSNN((10,), 0.3, ALIF(learn=True)), LIF(), 190 + 100 + 2 * 3 + 10 * K + K),
    (LSNN((10,), 1.0, ALIF(learn=True)), PLIF(), 190 + 100 + 2 * 10 + 10 * K + K + 1),
    (GRU((10,)), ReLU(), 3 * (18 * 10 + 100 + 20) + 10 * K + K),
    (LSTM((10,)), ReLU(), 4 * (18 * 10 + 100 + 20) + 10 * K + K),
    (GRU((10, 7)), ReLU(), 3 * (18 * 10 + 100 + 20) + 3 * (70 + 49 + 14) + 7 * K + K),
    (MLP((10,)), PLIF(), 190 + 1 + 10 * K + K + 1),
    (MLP((10,)), ALIF(learn=True), 190 + 2 * 10 + 10 * K + K + 2 * K),
    (MLP((10,)), SNU(), 190 + 10 + 10 * K + K + K),
    (MLP((10,)), DLIF(steps=6), 190 + 6 + 10 * K + K + 6),
    (MLP((10,)), FS(steps=6, learn=True), 190 + 18 + 10 * K + K + 18),
    (MLP((10,)), Recurrent(LIF()), 190 + 100 + 10 * K + K),
    (ConvNet((3,)), SNU(), 2 * 3 * 9 + 3 + 3 + 3 + 3 * K + K + K),
]


@pytest.mark.parametrize(("network", "neuron", "wanted"), SIZES, ids=repr)
def test_the_number_of_weights_is_that_of_the_formula(network, neuron, wanted):
    assert size(build(network, neuron)) == wanted


@pytest.mark.parametrize(("ours", "peer"), [(GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_the_gated_twins_have_the_weights_of_pytorchs_layers_and_compute_the_same(ours, peer):
    model, layers = build(ours((10, 7)), ReLU()), [peer(18, 10), peer(10, 7)]
    readout = model.network.layers[-2][0]
    assert size(model) == sum(size(layer) for layer in (*layers, nn.Linear(7, K)))
    x = Latency(6)(X).flatten(2)
    with torch.no_grad():
        linears = [m for m in model.modules() if isinstance(m, nn.Linear)][:2]
        cells = [m for m in model.modules() if isinstance(m, Spiking)]
        for layer, linear, cell in zip(layers, linears, cells, strict=True):
            layer.weight_ih_l0.copy_(linear.weight)
            layer.bias_ih_l0.copy_(linear.bias)
            layer.weight_hh_l0.copy_(cell.recurrent)
            layer.bias_hh_l0.copy_(cell.recurrent_bias)
            x = layer(x)[0]
        assert torch.allclose(model(X), readout(x).mean(0), atol=1e-6)


def test_a_long_short_term_spiking_network_is_wired_as_its_equations_say():
    """Written step by step: the first neurons are LIF, the last adapt, and all hear each other."""
    adaptive = ALIF(tau=4e-3, tau_adapt=8e-3, beta=0.5, threshold=0.4)
    model = build(LSNN((10,), 0.4, adaptive), LIF(threshold=0.4), Count())
    first, second = (m for m in model.modules() if isinstance(m, nn.Linear))
    recurrent = next(m for m in model.modules() if isinstance(m, Spiking)).recurrent
    v, out, trace, z, wanted = (
        torch.zeros(5, 10),
        torch.zeros(5, K),
        torch.zeros(5, 10),
        torch.zeros(5, 10),
        [],
    )
    adapts = torch.tensor([0.0] * 6 + [1.0] * 4)
    for spikes in Latency(6)(X):
        v = math.exp(-1 / 4) * v + first(spikes.flatten(1)) + z @ recurrent.T
        z = (v >= 0.4 + 0.5 * trace * adapts).float()
        v = v - 0.4 * z
        trace = math.exp(-1 / 8) * trace + z
        out = math.exp(-1 / 4) * out + second(z)
        wanted.append((out >= 0.4).float())
        out = out - 0.4 * wanted[-1]
    assert torch.stack(wanted).any()
    assert torch.equal(model.outputs(X), torch.stack(wanted))


def test_output_neurons_are_the_models_own_and_hear_nobody():
    hidden, output = (m for m in build(LSNN((9,)), PLIF(), Count()).modules() if isinstance(m, Spiking))
    assert hidden.neuron == Recurrent(Mixture(PLIF(), ALIF(), 0.5))
    assert output.neuron == PLIF()
    assert LSNN((9,)).neuron(LIF(synapse=PSP())).synapse == PSP()


@pytest.mark.parametrize(
    ("network", "neuron"),
    [(LSNN((9,), 0.5, ALIF(learn=True)), LIF()), (MLP((9,)), SNU()), (GRU((9,)), ReLU())],
    ids=repr,
)
def test_a_substitute_shares_what_neurons_have_learned(network, neuron):
    model = build(network, neuron)
    twin = substitute(model, spike=Triangle(0.3), unroll=unroll)
    assert {p.data_ptr() for p in twin.parameters()} == {p.data_ptr() for p in model.parameters()}
    assert torch.equal(twin(X), model(X))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "recurrent" in name or "bias" in name:
                p.add_(0.5)
    assert torch.equal(twin(X), model(X))
    x = X.clone().requires_grad_()
    grads = [torch.autograd.grad(m(x)[:, 0].sum(), x)[0] for m in (model, twin)]
    assert torch.allclose(*grads, atol=1e-7) == isinstance(network, GRU)


def test_an_attack_gets_a_gradient_through_every_kind_of_memory():
    for network, neuron in ((LSNN((9,)), AHP()), (GRU((9,)), ReLU()), (LSTM((9,)), ReLU())):
        model = build(network, neuron, encoder=Direct(6))
        probe = Exact()(lambda x, key, m=model: (m(x, key)[:, 0], torch.zeros(5)), X, Key.of(0))
        grad = probe.grad
        assert grad.isfinite().all()
        assert grad.flatten(1).abs().amax(1).min() > 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: LSNN(()), "hidden"),
        (lambda: GRU((0,)), "hidden"),
        (lambda: LSNN(share=1.5), "share"),
        (lambda: LSNN(gain=0.0), "gain"),
        (lambda: LSNN(adaptive=ReLU()), "fires"),
        (lambda: build(LSNN(), ReLU()), "fires"),
        (lambda: build(LSNN(), LIF(dt=2e-3)), "dt"),
        (lambda: build(GRU(), LIF()), "relu"),
        (lambda: build(LSTM(), IF()), "relu"),
        (lambda: build(GRU(), ReLU(), Count()), "mean-current"),
        (lambda: build(ConvNet((2,)), Recurrent())(X), "fully connected"),
    ],
    ids=range(11),
)
def test_recurrent_networks_with_sizes_or_neurons_that_do_not_fit_are_refused(make, word):
    with pytest.raises(InputError, match=word):
        make()


STEPS, CUE = 24, 4


def delayed_xor(examples, seed):
    """Two bits, one at each end of a long silence; the label is whether they differ.

    What remembers nothing for 16 steps adds up two answers, one per bit, and no sum of those is right.
    """
    draw = torch.Generator().manual_seed(seed)
    bits = torch.randint(0, 2, (examples, 2), generator=draw)
    events = torch.rand(examples, STEPS, 1, 1, 10, generator=draw) < 0.02
    for i, steps in enumerate((slice(0, CUE), slice(STEPS - CUE, STEPS))):
        cue = torch.rand(examples, CUE, 1, 1, 10, generator=draw) < 0.7
        events[:, steps] = cue & ((torch.arange(10) >= 5) == bits[:, i].bool().view(-1, 1, 1, 1, 1))
    return Split(events.float(), bits[:, 0] ^ bits[:, 1], torch.arange(examples))


@pytest.mark.parametrize(
    ("network", "neuron", "remembers"),
    [
        (LSNN((32,), 0.5, ALIF(tau=5e-3, tau_adapt=40e-3, beta=1.0), gain=0.5), LIF(tau=5e-3), True),
        (LSTM((16,)), ReLU(), True),
        (GRU((16,)), ReLU(), True),
        (GRU((16,), remember=0.0), ReLU(), False),
        (MLP((32,)), LIF(tau=5e-3), False),
    ],
    ids=["lsnn", "lstm", "gru", "gru whose gate starts half shut", "lif"],
)
def test_bptt_teaches_what_remembers_to_compare_bits_over_a_silence(network, neuron, remembers):
    parts = delayed_xor(2048, 0), delayed_xor(0, 1), delayed_xor(256, 2)
    data = Dataset("xor", *parts, ("0", "1"), content_digest(parts[0].images.numpy()), "made here")
    spec = ModelSpec(Events(STEPS), network, neuron, ATan(), MeanPotential(), (1, 1, 10), 2)
    model = spec.build(Key.of(0))
    BPTT(epochs=7, batch_size=128, lr=0.03).train(model, data, Key.of(0))
    right = accuracy(model, data.test, Key.of(1), 256)
    assert right >= 0.75 if remembers else right <= 0.65

"""Every substitution of a gradient source leaves the answers of every neuron and network equal to the bit.

Members come from the catalogue, so that a new gradient rule, surrogate, neuron or network is tested too.
"""

import pytest
import torch

from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.gradients import GradientRule
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, Architecture, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.deep import VGG9, VGG11, VGG16, ResNet18, ResNet19, SEWResNet
from spikeproof.networks.recurrent import LSNN
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import (
    DLIF,
    FS,
    IF,
    LIF,
    PSP,
    ConvertedT2FSNN,
    Mixture,
    Neuron,
    Plastic,
    PrimedIF,
    Recurrent,
    Renewal,
    ToZero,
)
from spikeproof.surrogates import ATan, Surrogate

SHAPE, STEPS = (2, 8, 8), 4
NEURONS = {
    "lif": LIF(threshold=0.3, reset=ToZero(), synapse=PSP()),
    "if": IF(threshold=0.4, detach_reset=True),
    "primed-if": PrimedIF(),
    "dlif": DLIF(steps=STEPS),
    "few-spikes": FS(steps=STEPS),
    "t2fsnn-converted": ConvertedT2FSNN(steps=STEPS, tau=2.0),
    "recurrent": Recurrent(LIF(threshold=0.3)),
    "mixture": Mixture(IF(threshold=0.4), LIF(threshold=0.3), share=0.4),
    "plastic": Plastic(LIF(threshold=0.3)),
    "renewal": Renewal(),
}
NETWORKS = {
    "mlp": MLP((12,)),
    "convnet": ConvNet((4, 6), (8,)),  # convolutions with batch normalisation and pooling
    "vgg9": VGG9(0.04, (10,)),
    "vgg11": VGG11(0.03),
    "vgg16": VGG16(0.02),
    "resnet18": ResNet18((1, 1, 1, 1), 0.05),
    "resnet19": ResNet19((1, 1, 1), 0.03, hidden=(6,)),
    "sew-resnet": SEWResNet((1, 1, 1, 1), 0.05),
    "lsnn": LSNN((9,)),
}
X, WEIGHT = Key.of(1).uniform((5, *SHAPE)), Key.of(2).normal((5, 3))


def spiking(kind):
    made = {
        name: NEURONS[name] if name in NEURONS else member() for name, member in MODEL_PARTS[kind].items()
    }
    return {name: n for name, n in made.items() if n.spiking and not getattr(n, "timed", False)}


def sources():
    """Every surrogate and every gradient rule, alone."""
    yield from ({"spike": member()} for member in MODEL_PARTS[Surrogate].values())
    yield from ({"unroll": member()} for member in MODEL_PARTS[GradientRule].values())


def built(network, neuron, decoder):
    """A model whose batch statistics are none of those that it began with."""
    model = ModelSpec(Direct(STEPS), network, neuron, ATan(), decoder, SHAPE, 3).build(Key.of(0)).eval()
    for i, layer in enumerate(model.modules()):
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.copy_(0.1 * Key.of(i).normal(layer.running_mean.shape))
            layer.running_var.copy_(0.2 + Key.of(i).uniform(layer.running_var.shape))
    return model


def equal_under_every_source(network, neuron, decoder):
    """The number of sources that are defined here; the others refuse with a sentence."""
    try:
        model = built(network, neuron, decoder)
        wanted = model(X)
    except InputError:  # not every network has every neuron
        return 0
    x, count = X.clone().requires_grad_(), 0
    for parts in sources():
        try:
            twin = substitute(model, **parts)
        except InputError:
            continue
        got = twin(x)
        assert torch.equal(got, wanted), parts
        (gradient,) = torch.autograd.grad((got * WEIGHT).sum(), x)
        assert gradient.isfinite().all(), parts
        count += 1
    assert torch.equal(model(x), wanted)  # and the model is as it was
    return count


def test_the_tables_name_every_network_that_spikes_step_by_step():
    assert set(MODEL_PARTS[Architecture]) - set(NETWORKS) == {"gru", "lstm", "timed-mlp"}


@pytest.mark.parametrize("name", spiking(Neuron))
def test_no_gradient_source_changes_an_answer_of_any_neuron_in_dense_or_convolutional_layers(name):
    neuron = spiking(Neuron)[name]
    counts = [
        equal_under_every_source(network, neuron, MeanPotential())
        for network in (MLP((12,)), ConvNet((4,), (6,), batch_norm=name != "renewal"))
    ]
    assert counts[0] >= len(MODEL_PARTS[Surrogate]) + (1 if name == "renewal" else 3), counts
    assert name == "recurrent" or counts[1] == counts[0]  # recurrent layers have no maps


@pytest.mark.parametrize("name", NETWORKS)
def test_no_gradient_source_changes_an_answer_of_any_architecture(name):
    for neuron in (LIF(threshold=0.3), LIF(threshold=0.3, reset=ToZero(), synapse=PSP())):
        assert equal_under_every_source(NETWORKS[name], neuron, Count()) >= len(MODEL_PARTS[Surrogate]) + 3

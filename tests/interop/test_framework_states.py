"""The law of adapters: a wrapped network answers as its framework does after the framework's own full reset.

To the bit, for every batch in every order, whatever state was left behind, however it is called, and with
every read-out. A new adapter, a new way of calling and a new read-out fail here until they have their rows.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from spikeproof import MeanPotential, Weighted, wrap
from spikeproof.interop.frameworks.adapters import Layout
from spikeproof.interop.frameworks.wrap import FRAMEWORKS, ReadOut

sys.path.insert(0, str(Path(__file__).parent))
from test_wrapped_networks import KNOWN, T, X, drawn, needs, one_neuron

READ = {  # read-out -> what it is, in plain PyTorch
    ReadOut.MEAN: lambda outputs: outputs.mean(0),
    ReadOut.SUM: lambda outputs: outputs.sum(0),
    ReadOut.LAST: lambda outputs: outputs[-1],
}
DECODERS = {
    **{each.value: read for each, read in READ.items()},
    MeanPotential(): READ[ReadOut.MEAN],
    Weighted((0.5, 1.0, 2.0, 4.0), spikes=False): lambda outputs: sum(
        weight * each for weight, each in zip((0.5, 1.0, 2.0, 4.0), outputs, strict=True)
    ),
}


class Around(nn.Module):
    """A network that calls another one in its own way."""

    def __init__(self, net):
        super().__init__()
        self.net = net


class Loop(Around):
    """`[T, B, ...]` through a network of one step."""

    def forward(self, x):
        outputs, state = [], None
        for i in x:
            answer = self.net(i) if state is None else self.net(i, state)
            answer, state = answer if isinstance(answer, tuple) else (answer, None)
            outputs.append(answer)
        return torch.stack(outputs)


class Turned(Around):
    """`[B, T, ...]` through a network that takes `[T, B, ...]`."""

    def forward(self, x):
        answer = self.net(x.transpose(0, 1))
        return (answer[0] if isinstance(answer, tuple) else answer).transpose(0, 1)


class Inside(Around):
    """Images through a network that takes `[T, B, ...]`."""

    def forward(self, x):
        answer = self.net(x.expand(T, *x.shape))
        return answer[0] if isinstance(answer, tuple) else answer


class Way(NamedTuple):
    """A network in one way of calling it: what it is, and its own outputs `[T, B, K]` from rest."""

    title: str
    layout: Layout
    build: Callable[[], tuple[nn.Module, Callable]]


def spread(net, gain=4.0):
    """The network with weights of both signs, with which some neurons fire and others do not."""
    generator = torch.Generator().manual_seed(3)
    for name, weight in net.named_parameters():
        if name.endswith("bias"):
            weight.data = torch.rand(weight.shape, generator=generator) * 0.1
        elif weight.ndim > 1:
            weight.data = torch.randn(weight.shape, generator=generator) * gain / weight[0].numel() ** 0.5
    return net.eval()


def shown(x):
    return x.expand(T, *x.shape)


def jelly(mode, around=nn.Sequential):
    def build():
        neuron, layer, functional = needs(
            *(f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer", "functional"))
        )
        net = spread(
            nn.Sequential(
                layer.Conv2d(1, 3, 3, bias=False),
                layer.BatchNorm2d(3),
                neuron.LIFNode(v_threshold=0.5),
                layer.SynapseFilter(tau=3.0),
                nn.Sequential(layer.Flatten(), layer.LinearRecurrentContainer(neuron.IFNode(), 48, 48)),
                layer.Linear(48, 5),
                neuron.ParametricLIFNode(v_threshold=0.3),
            )
        )
        functional.set_step_mode(net, mode)

        def outputs(x):
            functional.reset_net(net)
            return net(shown(x)) if mode == "m" else torch.stack([net(x) for _ in range(T)])

        return around(net).eval(), outputs

    return build


def torchy(around):
    def build():
        snn = needs("snntorch")
        hidden = {"init_hidden": True}
        net = spread(
            nn.Sequential(
                nn.Sequential(snn.SConv2dLSTM(1, 3, 3, threshold=0.1, **hidden), nn.Flatten()),
                nn.Sequential(nn.Linear(108, 12), snn.RSynaptic(0.8, 0.9, linear_features=12, **hidden)),
                nn.Sequential(nn.Linear(12, 5), snn.Leaky(0.9, reset_mechanism="zero", **hidden)),
            )
        )
        neurons = [module for module in net.modules() if isinstance(module, snn.SpikingNeuron)]

        def outputs(x):
            for each in neurons:
                each.reset_mem()
            return torch.stack([net(x) for _ in range(T)])

        return around(net).eval(), outputs

    return build


def nordic(over_time, around=nn.Identity):
    def build():
        norse = needs("norse.torch")
        kinds = ("LSNNRecurrent", "LIFAdEx") if over_time else ("LSNNRecurrentCell", "LIFAdExCell")
        first, second = (getattr(norse, kind) for kind in kinds)
        net = spread(
            norse.SequentialState(
                nn.Flatten(2 if over_time else 1),
                nn.Linear(36, 12),
                first(12, 12, dt=0.01),
                norse.Lift(nn.Linear(12, 5)) if over_time else nn.Linear(12, 5),
                second(dt=0.01),
            )
        )

        def outputs(x):
            if over_time:
                return net(shown(x))[0]
            steps, state = [], None
            for _ in range(T):
                z, state = net(x, state)
                steps.append(z)
            return torch.stack(steps)

        return (net if around is nn.Identity else around(net)).eval(), outputs

    return build


def chip(flat, around=nn.Identity):
    def build():
        layers, sinabs = needs("sinabs.layers", "sinabs")
        kind = {"num_timesteps": T} if flat else {}
        lif, iaf = (layers.LIFSqueeze, layers.IAFSqueeze) if flat else (layers.LIF, layers.IAF)
        net = spread(
            nn.Sequential(
                nn.Flatten(1 if flat else 2),
                nn.Linear(36, 12),
                lif(tau_mem=5.0, tau_syn=3.0, **kind),
                nn.Linear(12, 5),
                iaf(record_states=True, **kind),
            )
        )

        def outputs(x):
            sinabs.reset_states(net)
            each = x[:, None].expand(len(x), T, *x.shape[1:])
            found = net(each.flatten(0, 1)).unflatten(0, (len(x), T)) if flat else net(each)
            return found.transpose(0, 1)

        return (net if around is nn.Identity else around(net)).eval(), outputs

    return build


WAYS = [
    Way("SpikingJelly", Layout.CALLS, jelly("s")),
    Way("SpikingJelly", Layout.FIRST, jelly("m")),
    Way("SpikingJelly", Layout.SECOND, jelly("m", Turned)),
    Way("SpikingJelly", Layout.INSIDE, jelly("m", Inside)),
    Way("snnTorch", Layout.CALLS, torchy(nn.Sequential)),
    Way("snnTorch", Layout.FIRST, torchy(Loop)),
    Way("snnTorch", Layout.SECOND, torchy(lambda net: Turned(Loop(net)))),
    Way("snnTorch", Layout.INSIDE, torchy(lambda net: Inside(Loop(net)))),
    Way("Norse", Layout.CALLS, nordic(over_time=False)),
    Way("Norse", Layout.FIRST, nordic(over_time=True)),
    Way("Norse", Layout.SECOND, nordic(over_time=True, around=Turned)),
    Way("Norse", Layout.INSIDE, nordic(over_time=True, around=Inside)),
    Way("sinabs", Layout.SECOND, chip(flat=False)),
    Way("sinabs", Layout.FLAT, chip(flat=True)),
    Way("sinabs", Layout.INSIDE, chip(flat=False, around=lambda net: Inside(Turned(net)))),
]


def batches(seed, n=len(X)):
    """Some batches that cover all examples once, in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    cuts = torch.randperm(n - 1, generator=generator)[:2].add(1).sort().values
    return order.tensor_split(cuts)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.title}-{way.layout.value}")
@pytest.mark.parametrize("readout", DECODERS, ids=str)
@torch.no_grad()
def test_a_wrapped_network_answers_as_its_framework_after_a_full_reset(way, readout):
    net, outputs = way.build()
    steps = {} if way.layout is Layout.INSIDE else {"steps": T}
    model = wrap(net, X, readout=readout, **steps)
    assert model.reading.layout is way.layout
    for rows in (torch.arange(len(X)), *batches(0)):
        found, own = model(X[rows]), DECODERS[readout](outputs(X[rows]))
        assert torch.equal(found, own)
        outputs(X[rows[:1]])  # leaves the state of another batch behind
        assert torch.equal(model(X[rows]), own)
    assert len(outputs(X).sum(0).unique(dim=0)) > 2  # images that it tells apart


OWN = {  # framework -> outputs of a network of one step, or of all, from rest
    "spikingjelly": lambda net, x: _by_calls(net, x, lambda each: getattr(each, "reset", None)),
    "snntorch": lambda net, x: _by_calls(net, x, lambda each: getattr(each, "reset_mem", None)),
    "norse": lambda net, x: _norse(net, x),
    "sinabs": lambda net, x: _sinabs(net, x),
}


def _by_calls(net, x, method):
    for each in net.modules():
        if method(each):
            method(each)()
    return torch.stack([net(x) for _ in range(T)])


def _norse(net, x):
    if not type(net[2]).__name__.endswith("Cell"):
        return net(shown(x))[0]
    steps, state = [], None
    for _ in range(T):
        z, state = net(x, state)
        steps.append(z)
    return torch.stack(steps)


def _sinabs(net, x):
    needs("sinabs").reset_states(net)
    return net(x[:, None].expand(len(x), T, *x.shape[1:])).transpose(0, 1)


@pytest.mark.parametrize(("framework", "name"), KNOWN)
@torch.no_grad()
def test_every_known_neuron_answers_as_in_its_framework_after_a_full_reset(framework, name):
    net = drawn(one_neuron(framework, name))
    model = wrap(net, X, steps=T, readout="sum")
    for rows in batches(1):
        assert torch.equal(model(X[rows]), OWN[framework](net, X[rows]).sum(0))


def test_every_adapter_is_under_the_law_in_every_way_of_calling():
    wanted = {(adapter.title, layout) for adapter in FRAMEWORKS for layout in adapter.layouts()}
    wanted |= {(adapter.title, Layout.INSIDE) for adapter in FRAMEWORKS}
    rows = {(way.title, way.layout) for way in WAYS}
    lacking = sorted(f"{title}, {layout.value}" for title, layout in wanted - rows)
    assert not lacking, f"ways of calling without a row in WAYS: {lacking}"
    assert {adapter.package for adapter in FRAMEWORKS} == set(OWN) == {framework for framework, _ in KNOWN}
    assert set(READ) == set(ReadOut), "a read-out without a row in READ"

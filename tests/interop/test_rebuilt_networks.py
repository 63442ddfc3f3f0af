"""Networks rebuilt with our layers: the same logits to the bit, or a refusal that has the difference."""

import importlib
import warnings

import pytest
import torch
from torch import nn

from spikeproof import (
    ASSG,
    BPTR,
    IBP,
    PDSG,
    RGA,
    ATan,
    Direct,
    InputError,
    Key,
    Linf,
    MeanCurrent,
    Triangle,
    substitute,
    wrap,
)
from spikeproof.gradients import RateRule
from spikeproof.interop.frameworks.in_snntorch import ByAmount
from spikeproof.networks import Classifier

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
T = 5


def framework(*names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = [importlib.import_module(name) for name in names]
        except ModuleNotFoundError as error:
            pytest.skip(f"needs {names[0].split('.')[0]}: {error}")
    return found[0] if len(found) == 1 else found


def drawn(net):
    generator = torch.Generator().manual_seed(2)
    for name, weight in net.named_parameters():
        if weight.ndim > 1:
            weight.data = (
                (torch.randn(weight.shape, generator=generator) + 0.2) * 6 / weight[0].numel() ** 0.5
            )
        elif name.endswith("bias"):
            weight.data = torch.rand(weight.shape, generator=generator) * 0.1
    return net.eval()


def jelly(kind, mode, pool="AvgPool2d", **options):
    neuron, layer, functional = framework(
        *(f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer", "functional"))
    )
    net = nn.Sequential(
        layer.Conv2d(1, 4, 3, padding=1, bias=False),
        layer.BatchNorm2d(4),
        getattr(neuron, kind)(**options),
        getattr(layer, pool)(2),
        nn.Sequential(layer.Flatten(), layer.Dropout(0.5), layer.Linear(36, 5)),
        getattr(neuron, kind)(**options),
    )
    functional.set_step_mode(net, mode)
    return drawn(net)


JELLY = [
    ("IFNode", {"v_reset": None}),
    ("IFNode", {"v_threshold": 0.7}),
    ("LIFNode", {"v_reset": None}),
    ("LIFNode", {"detach_reset": True}),
    ("LIFNode", {"tau": 3.0, "decay_input": False}),
    ("ParametricLIFNode", {"init_tau": 4.0, "v_threshold": 0.3}),
]


KINDS = [
    *({"surrogate": ATan(6.0)}, {"surrogate": Triangle(9.0)}),
    *({"unroll": rule} for rule in (PDSG(), ASSG(0.4), BPTR(), RGA(), RGA(gamma=0.7, extension=3.0))),
]


def assert_same_gradients(own, ours):
    """Of twins of the network in its framework and of the network in our layers."""
    weights = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])
    for kind in KINDS:
        found, expected = (X.clone().requires_grad_() for _ in range(2))
        (substitute(own, **kind)(found) * weights).sum().backward()
        (substitute(ours, **kind)(expected) * weights).sum().backward()
        scale = expected.grad.abs().max()
        assert scale > 0
        near = 1e-6 if "unroll" in kind and isinstance(kind["unroll"], RateRule) else 1e-5
        torch.testing.assert_close(found.grad / scale, expected.grad / scale, atol=near, rtol=10 * near)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize(("kind", "options"), JELLY, ids=lambda value: str(value))
def test_spikingjelly_is_rebuilt_to_the_bit(kind, options, mode):
    net = jelly(kind, mode, **options)
    own = wrap(net, X, steps=T, readout="mean")
    ours = wrap(net, X, steps=T, readout="mean", convert=True)
    assert isinstance(ours, Classifier)
    assert ours.spec.encoder == Direct(T)
    more = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    assert torch.equal(ours(more), own(more))
    assert len(own(X).unique()) > 1
    assert substitute(ours, unroll=BPTR())(X).equal(own(X))
    assert_same_gradients(own, ours)


@pytest.mark.parametrize("mode", ["s", "m"])
def test_max_pooling_of_spikes_is_rebuilt_to_the_bit(mode):
    net = jelly("LIFNode", mode, "MaxPool2d", v_reset=None, v_threshold=0.5)
    own = wrap(net, X, steps=T, readout="mean")
    ours = wrap(net, X, steps=T, readout="mean", convert=True)
    assert any(isinstance(part, nn.MaxPool2d) for part in ours.modules())
    more = torch.rand(40, 1, 6, 6, generator=torch.Generator().manual_seed(9))
    assert torch.equal(ours(more), own(more))
    assert len(own(more).unique()) > 1


def torchy(snn, **options):
    hidden = {"beta": 0.75, "init_hidden": True, **options}
    return drawn(
        nn.Sequential(
            nn.Flatten(),
            nn.Linear(36, 20),
            snn.Leaky(**hidden),
            nn.Sequential(nn.Linear(20, 5), snn.Leaky(**hidden)),
        )
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"reset_mechanism": "zero"}, {"threshold": 0.4}],
    ids=str,
)
def test_snntorch_is_rebuilt_to_the_bit(options):
    net = torchy(framework("snntorch"), **options)
    own = wrap(net, X, steps=T, readout="sum")
    ours = wrap(net, X, steps=T, readout="sum", convert=True)
    assert torch.equal(ours(X), own(X))
    assert len(own(X).unique()) > 2
    assert_same_gradients(own, ours)


def test_a_neuron_of_snntorch_at_its_threshold_does_not_fire():
    snn = framework("snntorch")
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 5, bias=False), snn.Leaky(beta=1.0, init_hidden=True))
    net[1].weight.data = torch.eye(5, 36)
    whole = torch.cat([X[:4].round(), X[:4]])
    ours = wrap(net.eval(), whole, steps=1, readout="sum", convert=True)
    assert ours(torch.ones(1, 1, 6, 6)).sum() == 0


def nordic(norse, kind, **options):
    """Norse's neurons without a current of their own, over time or step by step."""
    stated = norse.LIFBoxParameters if kind == "LIFBoxCell" else norse.IAFParameters
    constants = stated(**{name: torch.as_tensor(value) for name, value in options.items()})
    made = [getattr(norse, kind)(p=constants, dt=1.0) for _ in range(2)]
    flat = nn.Flatten(2) if kind == "IAF" else nn.Flatten()
    return drawn(norse.SequentialState(flat, nn.Linear(36, 20), made[0], nn.Linear(20, 5), made[1]))


@pytest.mark.parametrize(
    ("kind", "options"),
    [("IAF", {}), ("IAFCell", {"v_th": 0.4}), ("LIFBoxCell", {"tau_mem_inv": 0.5, "v_th": 0.3})],
    ids=str,
)
def test_norse_is_rebuilt_to_the_bit(kind, options):
    net = nordic(framework("norse.torch"), kind, **options)
    own = wrap(net, X, steps=T, readout="sum")
    ours = wrap(net, X, steps=T, readout="sum", convert=True)
    assert torch.equal(ours(X), own(X))
    assert len(own(X).unique()) > 2
    assert_same_gradients(own, ours)


def test_norse_neurons_that_rest_elsewhere_have_no_twin():
    norse = framework("norse.torch")
    for kind, options in (("IAF", {"v_reset": 0.1}), ("LIFBoxCell", {"tau_mem_inv": 0.5, "v_leak": 0.1})):
        with pytest.raises(InputError, match="To be rebuilt"):
            wrap(nordic(norse, kind, **options), X, steps=T, readout="sum", convert=True)


class Loop(nn.Module):
    """A network that repeats its image and reads its spikes by itself."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        for each in self.body.modules():
            if hasattr(each, "reset_mem"):
                each.reset_mem()
        return torch.stack([self.body(x) for _ in range(T)]).sum(0)


def test_a_network_that_reads_itself_is_rebuilt_with_the_read_out_that_fits():
    net = Loop(torchy(framework("snntorch"))).eval()
    ours = wrap(net, X, convert=True)
    assert torch.equal(ours(X), net(X))
    assert ours.spec.encoder.steps == T


def test_what_is_rebuilt_has_certificates():
    net = jelly("IFNode", "m")
    ours = wrap(net, X, steps=T, readout="sum", convert=True)
    assert IBP().reason(ours, Linf(0.001)) is None
    y = ours(X).argmax(1)
    assert IBP().prove(ours, X, y, Linf(1e-6), Key.of(0)).certified.any()
    late = wrap(torchy(framework("snntorch")), X, steps=T, readout="sum", convert=True)
    assert "ByAmount" in IBP().reason(late, Linf(0.001))


def test_the_slope_of_the_late_reset_is_its_own():
    v = torch.tensor([1.5, 0.5], requires_grad=True)
    z = torch.tensor([1.0, 0.0], requires_grad=True)
    ByAmount(2.0)(v, z, 1.0).sum().backward()
    by_v, by_z = ByAmount(2.0).slope(v, z, 1.0)
    assert v.grad.tolist() == [by_v] * 2
    assert z.grad.tolist() == [by_z] * 2


def test_what_has_no_twin_is_refused_by_name():
    snn, norse = framework("snntorch", "norse.torch")
    flat = [nn.Flatten(), nn.Linear(36, 5)]
    synaptic = drawn(nn.Sequential(*flat, snn.Synaptic(alpha=0.5, beta=0.5, init_hidden=True)))
    nordic = drawn(norse.SequentialState(*flat, norse.LIFCell(dt=0.01)))
    early = torchy(snn, reset_delay=False)
    for net, name in ((synaptic, "Synaptic"), (nordic, "LIFCell of Norse"), (early, "reset_delay")):
        with pytest.raises(InputError, match=name):
            wrap(net, X, steps=T, readout="sum", convert=True)


def test_operations_between_layers_are_refused():
    net = torchy(framework("snntorch"))
    with pytest.raises(InputError, match="operation between"):
        wrap(lambda x: net[3](2 * net[2](net[1](net[0](x)))), X, steps=T, readout="sum", convert=True)


def test_other_logits_are_refused_with_the_difference():
    net = torchy(framework("snntorch"))
    with pytest.raises(InputError, match=r"a difference of up to \d.* on 12 of 12 examples"):
        wrap(lambda x: net(x) + 1, X, steps=T, readout="sum", convert=True)


@pytest.mark.parametrize("readout", ["mean", "sum"])
def test_a_network_that_ends_with_weights_is_read_by_its_current(readout):
    neuron, functional = framework(
        *(f"spikingjelly.activation_based.{name}" for name in ("neuron", "functional"))
    )
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), neuron.IFNode(), nn.Linear(20, 5))
    functional.set_step_mode(net, "s")
    own = wrap(drawn(net), X, steps=T, readout=readout)
    ours = wrap(net, X, steps=T, readout=readout, convert=True)
    assert torch.equal(ours(X), own(X))
    assert len(own(X).unique()) > 5
    assert (ours.spec.decoder == MeanCurrent()) == (readout == "mean")
    found = IBP()(ours, X, ours(X).argmax(1), Linf(0.0), Key.of(0)) if readout == "mean" else None
    assert found is None or found.certified.any()

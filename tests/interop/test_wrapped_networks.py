"""Networks of other frameworks as models: the framework's own numbers, whatever was asked before."""

import copy
import importlib
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from spikeproof import (
    ASSG,
    BPTR,
    HART,
    PDSG,
    RGA,
    AsTorchattacks,
    ATan,
    Bernoulli,
    Events,
    FirstSpike,
    Flips,
    InputError,
    Key,
    Latency,
    Linf,
    StraightThrough,
    Triangle,
    substitute,
    wrap,
)
from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.attacks.made_of.composite import RateTwin, WidthSweep
from spikeproof.attacks.search import twins
from spikeproof.evaluation.suites import evaluate_suite, plan
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.interop.frameworks.wrap import FRAMEWORKS

X = torch.rand(7, 1, 6, 6, generator=torch.Generator().manual_seed(0))
T = 4
BRIEF = {"spike-search-wide": {"steps": 2, "width": 4, "refine": 1}}
WEIGHTS = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0])


def needs(*modules):
    """Modules of a framework, or a skipped test; what they warn of at import is theirs."""
    found = []
    for name in modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                found.append(importlib.import_module(name))
            except ModuleNotFoundError as error:
                pytest.skip(f"needs {name.split('.')[0]}: {error}")
    return found[0] if len(found) == 1 else found


def drawn(net, seed=1):
    """The network with the weights of a seed, which make its neurons fire, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in net.named_parameters():
        if name.endswith("bias"):
            weight.data.zero_()
        elif weight.ndim > 1:
            weight.data = (
                (torch.randn(weight.shape, generator=generator) + 0.4) * 3 / weight[0].numel() ** 0.5
            )
    return net.eval()


def over_time(net, reset, read, x=X, step=lambda net, i: net(i)):
    """The framework's own way: reset, one call per step, read."""
    reset()
    return read(torch.stack([step(net, i) for i in x.expand(T, *x.shape)]))


def spikingjelly_single(**surrogates):
    neuron, layer, functional = needs(
        *(f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer", "functional"))
    )
    net = nn.Sequential(
        layer.Conv2d(1, 3, 3, bias=False),
        neuron.LIFNode(v_reset=None, **surrogates),
        layer.AvgPool2d(2),
        layer.Flatten(),
        layer.Linear(12, 5),
        neuron.ParametricLIFNode(**surrogates),
    )
    drawn(net)
    return (
        net,
        {"steps": T, "readout": "mean"},
        lambda x: over_time(net, lambda: functional.reset_net(net), lambda z: z.mean(0), x),
    )


def spikingjelly_multi(**surrogates):
    functional = needs("spikingjelly.activation_based.functional")
    net, options, _ = spikingjelly_single(**surrogates)
    functional.set_step_mode(net, "m")

    def own(x):
        functional.reset_net(net)
        return net(x.expand(T, *x.shape)).sum(0)

    return net, options | {"readout": "sum"}, own


class JellyInside(nn.Module):
    """Repeats its image, and reads its potentials itself."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x.repeat(T, 1, 1, 1, 1)).mean(0)


def spikingjelly_inside(**surrogates):
    functional = needs("spikingjelly.activation_based.functional")
    body, _, _ = spikingjelly_multi(**surrogates)
    net = JellyInside(body).eval()

    def own(x):
        functional.reset_net(net)
        return net(x)

    return net, {}, own


class Explicit(nn.Module):
    """snnTorch as in its tutorials: states are handed on, spikes and potentials are returned."""

    def __init__(self, snn, **options):
        super().__init__()
        self.first, self.one = nn.Linear(36, 12), snn.Leaky(beta=0.8, **options)
        self.second, self.two = nn.Linear(12, 5), snn.Lapicque(beta=0.7, threshold=0.5, **options)

    def forward(self, x):
        a, b, spikes, potentials = self.one.reset_mem(), self.two.reset_mem(), [], []
        for _ in range(T):
            z, a = self.one(self.first(x.flatten(1)), a)
            z, b = self.two(self.second(z), b)
            spikes.append(z)
            potentials.append(b)
        return torch.stack(spikes), torch.stack(potentials)


def snntorch_explicit(**options):
    net = drawn(Explicit(needs("snntorch"), **options))
    return net, {"output": 1, "readout": "last"}, lambda x: net(x)[1][-1]


class Nested(nn.Module):
    """snnTorch with hidden states two levels below the network, where its own reset does not look."""

    def __init__(self, snn, **options):
        super().__init__()
        hidden = {"init_hidden": True, **options}
        self.blocks = nn.ModuleList([
            nn.Sequential(nn.Flatten(), nn.Linear(36, 12), snn.Synaptic(alpha=0.6, beta=0.8, **hidden)),
            nn.Sequential(nn.Linear(12, 12), snn.Alpha(alpha=0.8, beta=0.7, threshold=0.2, **hidden)),
            nn.Sequential(nn.Linear(12, 5), snn.RLeaky(beta=0.8, linear_features=5, **hidden)),
        ])  # fmt: skip

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


def snntorch_hidden(**options):
    snn = needs("snntorch")
    net = drawn(Nested(snn, **options))
    neurons = [m for m in net.modules() if isinstance(m, snn.SpikingNeuron)]
    return (
        net,
        {"steps": T, "readout": "sum"},
        lambda x: over_time(net, lambda: [each.reset_mem() for each in neurons], lambda z: z.sum(0), x),
    )


def norse_over_time(**_):
    norse = needs("norse.torch")
    net = norse.SequentialState(
        nn.Flatten(2),
        norse.LSNNRecurrent(36, 12, dt=0.01),
        norse.Lift(nn.Linear(12, 5)),
        norse.LIF(dt=0.01),
    )
    drawn(net)
    return net, {"steps": T, "readout": "mean"}, lambda x: net(x.expand(T, *x.shape))[0].mean(0)


def norse_cells(**_):
    norse = needs("norse.torch")
    net = norse.SequentialState(
        nn.Flatten(), nn.Linear(36, 12), norse.LIFCell(dt=0.01), norse.LIFRecurrentCell(12, 5, dt=0.01)
    )
    drawn(net)

    def own(x):
        outputs, state = [], None
        for _ in range(T):
            z, state = net(x, state)
            outputs.append(z)
        return torch.stack(outputs).sum(0)

    return net, {"steps": T, "readout": "sum"}, own


def sinabs_second(**options):
    layers, sinabs = needs("sinabs.layers", "sinabs")
    net = nn.Sequential(
        nn.Flatten(2),
        nn.Linear(36, 12),
        layers.LIF(tau_mem=5.0, **options),
        nn.Linear(12, 5),
        layers.IAF(**options),
    )
    drawn(net)

    def own(x):
        sinabs.reset_states(net)
        return net(x[:, None].expand(len(x), T, *x.shape[1:])).sum(1)

    return net, {"steps": T, "readout": "sum"}, own


def sinabs_flat(**options):
    layers, sinabs = needs("sinabs.layers", "sinabs")
    net = nn.Sequential(
        nn.Flatten(),
        nn.Linear(36, 12),
        layers.LIFSqueeze(tau_mem=5.0, num_timesteps=T, **options),
        nn.Linear(12, 5),
        layers.IAFSqueeze(num_timesteps=T, **options),
    )
    drawn(net)

    def own(x):
        sinabs.reset_states(net)
        flat = x[:, None].expand(len(x), T, *x.shape[1:]).flatten(0, 1)
        return net(flat).unflatten(0, (len(x), T)).mean(1)

    return net, {"steps": T, "readout": "mean"}, own


NETWORKS = [
    spikingjelly_single,
    spikingjelly_multi,
    spikingjelly_inside,
    snntorch_explicit,
    snntorch_hidden,
    norse_over_time,
    norse_cells,
    sinabs_second,
    sinabs_flat,
]
every = pytest.mark.parametrize("build", NETWORKS, ids=lambda build: build.__name__)


@every
def test_logits_are_those_of_the_framework_whatever_was_asked_before(build):
    net, options, own = build()
    with torch.no_grad():
        expected = own(X)
        model = wrap(net, X, **options)
        assert len(expected.unique()) > 1  # it fires
        for _ in range(2):
            assert torch.equal(model(X), expected)
            torch.testing.assert_close(model(X.flip(0)).flip(0), expected)
            torch.testing.assert_close(torch.cat([model(x[None]) for x in X]), expected)
        assert torch.equal(own(X), expected)


@every
def test_gradients_are_those_of_the_framework(build):
    net, options, own = build()
    model = wrap(net, X, **options)
    found, expected = (X.clone().requires_grad_() for _ in range(2))
    model(found).mul(WEIGHTS).sum().backward()
    own(expected).mul(WEIGHTS).sum().backward()
    assert bool((expected.grad != 0).any())
    torch.testing.assert_close(found.grad, expected.grad)


@every
def test_a_call_leaves_the_network_as_its_owner_left_it(build):
    net, options, own = build()
    own(X[:2])  # leaves a state behind, with a graph
    before = [dict(vars(module)) | dict(module._buffers) for module in net.modules()]
    memories = [dict(getattr(module, "_memories", {})) for module in net.modules()]
    wrap(net, X, **options)(X.clone().requires_grad_()).sum().backward()
    for module, kept, memory in zip(net.modules(), before, memories, strict=True):
        now = dict(vars(module)) | dict(module._buffers)
        assert now.keys() == kept.keys()
        assert all(now[name] is kept[name] for name in now), type(module)
        assert all(memory[name] is value for name, value in getattr(module, "_memories", {}).items())


@every
def test_a_twin_has_the_same_answers_to_the_bit_and_other_gradients(build):
    net, options, _ = build()
    model = wrap(net, X, **options)
    images = [X.clone().requires_grad_() for _ in range(5)]
    kinds = [{"surrogate": ATan(1.0)}, {"surrogate": Triangle(4.0)}, {"unroll": PDSG()}, {"unroll": ASSG()}]
    alike = [model, *(substitute(model, **kind) for kind in kinds)]
    answers = [twin(x) for twin, x in zip(alike, images, strict=True)]
    for answer in answers:
        answer.mul(WEIGHTS).sum().backward()
    for i in range(1, 5):
        assert torch.equal(answers[i], answers[0])
        assert twins(model, alike[i])
        assert not any(torch.equal(images[i].grad, other.grad) for other in images[:i]), kinds[i - 1]
    again = X.clone().requires_grad_()
    model(again).mul(WEIGHTS).sum().backward()
    assert torch.equal(again.grad, images[0].grad)


def own_atan(alpha):
    surrogate = needs("spikingjelly.activation_based.surrogate")
    return {"surrogate_function": surrogate.ATan(alpha=alpha)}


def test_a_surrogate_of_ours_gives_the_gradient_that_the_same_one_has_in_spikingjelly():
    found, expected = (X.clone().requires_grad_() for _ in range(2))
    net, options, _ = spikingjelly_multi()
    substitute(wrap(net, X, **options), surrogate=ATan(3.0))(found).mul(WEIGHTS).sum().backward()
    _, _, own = spikingjelly_multi(**own_atan(3.0))
    own(expected).mul(WEIGHTS).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_surrogate_of_ours_gives_the_gradient_that_the_same_one_has_in_snntorch():
    surrogate = needs("snntorch.surrogate")
    found, expected = (X.clone().requires_grad_() for _ in range(2))
    net, options, _ = snntorch_hidden()
    for module in net.modules():
        if hasattr(module, "threshold"):
            module.threshold.fill_(1.0)  # with which both measure distances alike
    substitute(wrap(net, X, **options), surrogate=ATan(3.0))(found).mul(WEIGHTS).sum().backward()
    twin, _, own = snntorch_hidden(spike_grad=surrogate.atan(alpha=3.0))
    for module in twin.modules():
        if hasattr(module, "threshold"):
            module.threshold.fill_(1.0)
    own(expected).mul(WEIGHTS).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


def test_a_surrogate_of_ours_gives_the_gradient_that_the_same_one_has_in_sinabs():
    single = needs("sinabs.activation").SingleSpike
    found, expected = (X.clone().requires_grad_() for _ in range(2))
    net, options, _ = sinabs_second(spike_fn=single)
    substitute(wrap(net, X, **options), surrogate=ATan(3.0))(found).mul(WEIGHTS).sum().backward()
    same = {"spike_fn": single, "surrogate_grad_fn": lambda v, theta: ATan(3.0).derivative(v - theta)}
    _, _, own = sinabs_second(**same)
    own(expected).mul(WEIGHTS).sum().backward()
    torch.testing.assert_close(found.grad, expected.grad)


@pytest.mark.parametrize(("limit", "nearest"), [(None, 3.0), (2, 2.0)])
def test_several_spikes_of_a_step_are_differentiated_at_the_nearest_threshold(limit, nearest):
    activation = needs("sinabs.activation")
    spike = activation.MultiSpike if limit is None else activation.MaxSpike(limit)
    net = nn.Sequential(nn.Linear(1, 2, bias=False), needs("sinabs.layers").IAF(spike_fn=spike)).eval()
    net[0].weight.data = torch.tensor([[3.2], [0.0]])
    x = torch.tensor([[1.0], [0.5], [0.0]])
    model = substitute(wrap(net, x, steps=1, readout="sum", time="second", axes="BTK"), surrogate=ATan(3.0))
    given = x.clone().requires_grad_()
    model(given)[:, 0].sum().backward()
    expected = 3.2 * ATan(3.0).derivative(torch.tensor(3.2 - nearest))
    torch.testing.assert_close(given.grad[0, 0], expected)


def test_a_potential_at_the_threshold_fires_in_a_twin_as_in_its_own_framework():
    snn, neuron = needs("snntorch", "spikingjelly.activation_based.neuron")
    ones = torch.cat([torch.ones(1, 2), torch.tensor([[0.5, 1.0], [1.0, 0.0]])])
    for spiking, expected in ((snn.Leaky(beta=1.0, init_hidden=True), 0.0), (neuron.IFNode(), 1.0)):
        net = nn.Sequential(nn.Linear(2, 2, bias=False), spiking).eval()
        net[0].weight.data = torch.eye(2)
        model = wrap(net, ones, steps=1, readout="sum")
        for each in (model, substitute(model, surrogate=ATan()), substitute(model, unroll=PDSG())):
            assert each(ones)[0].tolist() == [expected] * 2


JELLIES = (
    *("IFNode", "LIFNode", "ParametricLIFNode", "QIFNode", "EIFNode", "IzhikevichNode", "KLIFNode"),
    "CUBALIFNode",
)
TORCHES = {
    "Leaky": {"beta": 0.9},
    "Synaptic": {"alpha": 0.8, "beta": 0.9},
    "Alpha": {"alpha": 0.9, "beta": 0.8},
    "Lapicque": {"beta": 0.9},
    "RLeaky": {"beta": 0.9, "linear_features": 5},
    "RSynaptic": {"alpha": 0.8, "beta": 0.9, "linear_features": 5},
    "SLSTM": {"input_size": 5, "hidden_size": 5},
}
NORSES = ("LIF", "LIFAdEx", "LIFEx", "IAF", "LSNN", "LIFCell", "LIFRefracCell", "LIFBoxCell", "LSNNCell")
NORSES_AGAIN = ("LIFRecurrent", "LSNNRecurrent", "LIFAdExRecurrent", "LIFRefracRecurrentCell")
SINABS = {"LIF": {"tau_mem": 5.0}, "IAF": {}, "ALIF": {"tau_mem": 5.0, "tau_adapt": 5.0}}


def one_neuron(framework, name):
    """A layer of five neurons of a kind."""
    if framework == "spikingjelly":
        neuron = needs("spikingjelly.activation_based.neuron")
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), getattr(neuron, name)())
    if framework == "snntorch":
        kind = getattr(needs("snntorch"), name)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 5), kind(init_hidden=True, **TORCHES[name]))
    if framework == "sinabs":
        kind = getattr(needs("sinabs.layers"), name)
        return nn.Sequential(nn.Flatten(2), nn.Linear(36, 5), kind(**SINABS[name]))
    norse = needs("norse.torch")
    made = getattr(norse, name)(*((5, 5) if name in NORSES_AGAIN else ()), dt=0.01)
    flat = nn.Flatten() if name.endswith("Cell") else nn.Flatten(2)
    return norse.SequentialState(flat, nn.Linear(36, 5), made)


KNOWN = [
    *(("spikingjelly", name) for name in JELLIES),
    *(("snntorch", name) for name in TORCHES),
    *(("norse", name) for name in (*NORSES, *NORSES_AGAIN)),
    *(("sinabs", name) for name in SINABS),
]


@pytest.mark.parametrize(("framework", "name"), KNOWN)
def test_every_known_neuron_has_twins(framework, name):
    net = drawn(one_neuron(framework, name))
    model = wrap(net, X, steps=T, readout="sum")
    own = X.clone().requires_grad_()
    answer = model(own)
    answer.mul(WEIGHTS).sum().backward()
    for kind in ({"surrogate": ATan(1.0)}, {"unroll": PDSG()}, {"unroll": ASSG()}):
        x = X.clone().requires_grad_()
        found = substitute(model, **kind)(x)
        found.mul(WEIGHTS).sum().backward()
        assert torch.equal(found, answer)
        assert not torch.equal(x.grad, own.grad)


def test_neurons_that_take_no_other_spike_function_keep_their_own():
    neuron, layer = needs(*(f"spikingjelly.activation_based.{name}" for name in ("neuron", "layer")))
    net = nn.Sequential(layer.Linear(36, 5, step_mode="m"), neuron.ILIFNode(step_mode="m")).eval()
    flat = X.flatten(1)
    with pytest.warns(UserWarning, match="ILIFNode cannot be exchanged"):
        model = wrap(net, flat, steps=T, readout="sum")
    assert not model.spiking
    assert torch.equal(model(flat), model(flat))


def test_an_adapting_threshold_is_measured_in_units_of_its_rest():
    layers = needs("sinabs.layers")
    net = drawn(nn.Sequential(nn.Flatten(2), nn.Linear(36, 5), layers.ALIF(tau_mem=5.0, tau_adapt=5.0)))
    model = wrap(net, X, steps=T, readout="sum")
    assert torch.equal(substitute(model, surrogate=ATan(1.0))(X), model(X))


@every
def test_the_suite_sees_what_it_would_see_of_our_own_layers(build):
    net, options, _ = build()
    model = wrap(net, X, **options)
    names = [member.name for member in plan("standard", model, Linf(0.1))]
    assert {"width-sweep", "sa-pgd-narrow", "sa-pgd-wide"} <= set(names)
    assert "stand-in" not in names
    members = [m for m in plan("standard", model, Linf(0.3)) if m.name in ("pgd", "width-sweep")]
    y = model(X).argmax(1)
    clean = evaluate_clean(model, X, y, Key.of(0))
    suited = evaluate_suite(model, "standard", Linf(0.3), X, y, clean, Key.of(0), members=members)
    assert [entry["own_gradient"] for entry in suited.members] == [True, False]


def test_a_recipe_that_needs_our_layers_says_so():
    net, options, _ = spikingjelly_single()
    model = wrap(net, X, **options)
    for recipe in (Through(gradient=HART(), attack=PGD(steps=1)), RateTwin(attack=PGD(steps=1))):
        with pytest.raises(InputError, match="convert=True"):
            through(model, recipe)


BY_RATES = {  # feed-forward neurons -> what the current of ours is, in theirs; None without a twin here
    "spikingjelly": {
        **dict.fromkeys(("QIFNode", "EIFNode", "IzhikevichNode", "KLIFNode", "CUBALIFNode")),
        **{"IFNode": 1.0, "LIFNode": 0.5, "ParametricLIFNode": 0.5},
    },
    "snntorch": {"Leaky": 1.0, **dict.fromkeys(("Synaptic", "Alpha", "Lapicque"))},
    "norse": {"IAF": 1.0, **dict.fromkeys(name for name in NORSES if name != "IAF")},
    "sinabs": dict.fromkeys(("LIF", "IAF", "ALIF")),
}


@pytest.mark.parametrize(("framework", "name"), KNOWN)
def test_rates_are_differentiated_where_neurons_feed_forward(framework, name):
    net = drawn(one_neuron(framework, name))
    model = wrap(net, X, steps=T, readout="sum")
    if name not in BY_RATES[framework]:
        with pytest.raises(InputError, match=rf"BPTR needs feed-forward neurons.*{name} of"):
            substitute(model, unroll=BPTR())
        return
    x, scale = X.clone().requires_grad_(), BY_RATES[framework][name]
    counts = substitute(model, unroll=BPTR())(x)
    assert torch.equal(counts, model(X))
    counts.mul(WEIGHTS).sum().backward()
    expected = T * (scale or 1.0) * (WEIGHTS * (counts != 0)) @ net[1].weight
    torch.testing.assert_close(x.grad.flatten(1), expected.detach())
    if scale is None:
        with pytest.raises(InputError, match=f"RGA needs neurons.*{name}|RGA needs neurons.*a share of"):
            substitute(model, unroll=RGA())
    else:
        assert torch.equal(substitute(model, unroll=RGA())(X), model(X))


def test_rates_of_potentials_that_are_read_have_the_gradient_of_the_potentials():
    net, options, _ = snntorch_explicit()
    model, x = wrap(net, X, **options), X.clone().requires_grad_()
    for rule in (BPTR(), PDSG()):
        answer = substitute(model, unroll=rule)(x)
        assert torch.equal(answer, model(X))
        (grad,) = torch.autograd.grad(answer.mul(WEIGHTS).sum(), x)
        assert bool((grad != 0).any())


@every
def test_rates_are_differentiated_through_a_whole_network_or_not_at_all(build):
    net, options, _ = build()
    model, x = wrap(net, X, **options), X.clone().requires_grad_()
    recipe = Through(gradient=BPTR(), attack=PGD(steps=1))
    if build in (snntorch_hidden, norse_over_time, norse_cells):
        with pytest.raises(InputError, match="BPTR needs feed-forward neurons"):
            through(model, recipe)
        return
    twin = through(model, recipe)
    assert torch.equal(twin(x), model(X))
    (whole,) = torch.autograd.grad(twin(x).mul(WEIGHTS).sum(), x)
    parts = [torch.autograd.grad(twin(x[i : i + 1]).mul(WEIGHTS).sum(), x)[0][i] for i in range(len(X))]
    torch.testing.assert_close(torch.stack(parts), whole)
    assert bool((whole != 0).any())


def test_a_layer_that_serves_in_two_places_has_no_rate():
    net, _, _ = spikingjelly_single()
    layers = [net[0], net[1], net[2], net[3], net[4], net[5]]

    def twice(x):
        z = layers[4](layers[3](layers[2](layers[1](layers[0](x)))))
        return layers[5](layers[5](z))

    model = wrap(twice, X, steps=T, readout="mean")
    with pytest.raises(InputError, match=r"BPTR needs layers that serve in one place"):
        substitute(model, unroll=BPTR())


def test_other_libraries_attack_it_and_its_ties_are_answers():
    net, options, _ = spikingjelly_multi()
    model = wrap(net, X, **options)
    y = model(X).argmax(1)
    sweep = WidthSweep(attack=PGD(steps=3), surrogates=(ATan(1.0), Triangle(4.0)))
    found = AsTorchattacks(model, sweep, Linf(0.3))(X, y)
    assert bool((found - X).abs().max() <= 0.3 + 1e-6)
    assert bool((model(found).argmax(1) != y).any())
    torchattacks = needs("torchattacks")
    assert torchattacks.PGD(model, eps=0.3, steps=2)(X, y).shape == X.shape


def test_our_encoders_and_decoders_serve_foreign_networks():
    net, _, _ = spikingjelly_single()
    code = Latency(6)
    model = wrap(net, X, encoder=code, readout=FirstSpike())
    assert torch.equal(model(X), model.read(code(X)))
    assert "encoder-aware" in [member.name for member in plan("standard", model, Linf(0.1))]
    straight = substitute(model, backward=StraightThrough())
    assert torch.equal(straight(X), model(X))
    assert straight.encoder.backward == StraightThrough()


def test_draws_belong_to_examples_and_to_keys():
    net, _, _ = spikingjelly_single()
    poisson = needs("spikingjelly.activation_based.encoding").PoissonEncoder()
    for encoder, options in ((Bernoulli(T), {}), (poisson, {"steps": T})):
        model = wrap(net, X, encoder=encoder, readout="mean", **options)
        key = Key.of(3).for_rows(range(len(X)))
        assert model.stochastic
        assert torch.equal(model(X, key), model(X, key))
        assert not torch.equal(model(X, key), model(X, Key.of(4).for_rows(range(len(X)))))
        last = key.take(torch.tensor([len(X) - 1]))
        torch.testing.assert_close(model(X[-1:], last), model(X, key)[-1:])
        x = X.clone().requires_grad_()
        model(x, key).mul(WEIGHTS).sum().backward()
        assert bool((x.grad != 0).any())


class Noisy(nn.Module):
    """Encodes its image by itself, at random."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(36, 5)

    def forward(self, x):
        return torch.stack([self.layer((torch.rand_like(x) < x).float().flatten(1)) for _ in range(T)])


def test_a_network_that_draws_by_itself_takes_its_draws_from_the_key():
    model = wrap(drawn(Noisy()), X, readout="mean")
    key, state = Key.of(3).for_rows(range(len(X))), torch.random.get_rng_state()
    assert model.stochastic
    assert torch.equal(model(X, key), model(X, key))
    assert not torch.equal(model(X, key), model(X, Key.of(4).for_rows(range(len(X)))))
    torch.testing.assert_close(model(X[2:3], key.take(torch.tensor([2]))), model(X, key)[2:3])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_events_are_taken_whole():
    net, _, _ = snntorch_hidden()
    events = (torch.rand(5, T, 1, 6, 6, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    model = wrap(net, events, encoder=Events(T), readout="sum")
    assert model(events).shape == (5, 5)
    y, threat = model(events).argmax(1), Flips(2)
    members = [m for m in plan("standard", model, threat) if m.name in ("spike-search-wide", "sda")]
    members = [m._replace(recipe=replace(m.recipe, **BRIEF.get(m.name, {}))) for m in members]
    clean = evaluate_clean(model, events, y, Key.of(0))
    found = evaluate_suite(model, "standard", threat, events, y, clean, Key.of(0), members=members)
    assert [entry["own_gradient"] for entry in found.members] == [True, False]
    with pytest.raises(InputError, match="whole"):
        model(events + 0.5)


def test_a_function_with_a_network_inside_is_looked_into():
    net, options, own = snntorch_hidden()
    model = wrap(lambda x: net(2 * x / 2), X, **options)
    with torch.no_grad():
        assert torch.equal(model(X), own(X))
    assert model.spiking
    assert len(list(model.parameters())) == len(list(net.parameters()))


def test_outputs_with_examples_first_are_turned():
    net, _, own = snntorch_explicit()
    model = wrap(lambda x: net(x)[1].transpose(0, 1), X, readout="last")
    with torch.no_grad():
        assert torch.equal(model(X), own(X))


def test_plain_networks_need_no_framework():
    net = drawn(nn.Sequential(nn.Flatten(), nn.Linear(36, 5)))
    model = wrap(net, X, classes=5)
    assert torch.equal(model(X), net(X))
    assert not model.spiking
    with pytest.raises(InputError, match="stand-in"):
        substitute(model, surrogate=ATan())


def test_a_copy_answers_like_its_original():
    for build in (spikingjelly_single, snntorch_hidden):
        net, options, _ = build()
        model = wrap(net, X, **options)
        assert torch.equal(copy.deepcopy(model)(X), model(X))


@pytest.mark.parametrize("adapter", FRAMEWORKS, ids=lambda adapter: adapter.title)
def test_the_tested_version_is_the_one_that_is_stated(adapter):
    from importlib.metadata import PackageNotFoundError, version

    try:
        assert version(adapter.package) == adapter.tested
    except PackageNotFoundError:
        pytest.skip(f"needs {adapter.package}")

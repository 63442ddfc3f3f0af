"""Graphs of NIR: there and back, against the equations in plain Python, and against those who export them."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import spikeproof as sp
from spikeproof.interop.graphs import CONVENTIONS, Convention, Subtraction
from spikeproof.neurons import ToZero

nir = pytest.importorskip("nir", reason="the extra nir is not installed")
h5py = pytest.importorskip("h5py", reason="the extra nir is not installed")

pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks
T = 12


def trains(*shape, rate=0.5, key=0):
    return (sp.Key.of(key).uniform((T, 6, *shape)) < rate).float()


def of_ours(neuron, network=None, decoder=None, shape=(5, 1, 1)):
    spec = sp.ModelSpec(
        sp.Events(T), network or sp.MLP((8,)), neuron, sp.ATan(), decoder or sp.Count(), shape, 3
    )
    model = spec.build(sp.Key.of(0)).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(1.5)
    return model


ZERO = ToZero()
OURS = {
    "if": of_ours(sp.IF(reset=ZERO)),
    "lif": of_ours(sp.LIF(threshold=0.7, tau=7e-3, reset=ZERO)),
    "current-based": of_ours(sp.CuBaLIF(reset=ZERO)),
    "recurrent": of_ours(sp.LIF(reset=ZERO), sp.LSNN((8,), share=0.0)),
    "leaky integrator": of_ours(sp.LIF(reset=ZERO), decoder=sp.MeanPotential()),
    "integrator": of_ours(sp.IF(reset=ZERO), decoder=sp.MeanPotential()),
    "current": of_ours(sp.LIF(reset=ZERO), decoder=sp.MeanCurrent()),
    "convolutions": of_ours(sp.LIF(reset=ZERO), sp.ConvNet((4,), batch_norm=False), shape=(2, 5, 4)),
}


@pytest.mark.parametrize("name", OURS)
def test_there_and_back_through_a_file_gives_the_same_outputs_to_the_bit(name, tmp_path):
    model = OURS[name]
    path = tmp_path / "model.nir"
    nir.write(path, sp.to_nir(model))
    back = sp.from_nir(path, encoder=sp.Events(T), decoder=model.spec.decoder)
    x = trains(*model.spec.input_shape).transpose(0, 1)
    ours, theirs = model.outputs(x), back.outputs(x)
    assert ours.abs().sum() > 0
    if name == "convolutions":  # pooling is a layer of its own on the way back, which rounds otherwise
        torch.testing.assert_close(ours, theirs)
    else:
        assert torch.equal(ours, theirs)


def test_batch_normalisation_goes_into_the_convolution_before_it():
    model = of_ours(sp.LIF(reset=ZERO), sp.ConvNet((4,)), shape=(2, 5, 4))
    norm = next(m for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        norm.running_mean.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
        norm.running_var.copy_(torch.tensor([0.5, 1.5, 0.9, 1.1]))
    x = trains(2, 5, 4).transpose(0, 1)
    back = sp.from_nir(sp.to_nir(model), encoder=sp.Events(T))
    assert torch.equal(model(x), back(x))
    assert not any(isinstance(m, nn.BatchNorm2d) for m in back.modules())


def plain(graph, x, dt, strict):
    """The spikes of a linear layer and LIF neurons, step by step, as the equations of NIR say."""
    weight, lif = graph.nodes["linear"].weight, graph.nodes["lif"]
    v, found = np.tile(lif.v_leak, (x.shape[1], 1)), []
    for now in x.numpy().astype(float):
        v = v + dt / lif.tau * ((lif.v_leak - v) + lif.r * (now @ weight.T))
        z = v > lif.v_threshold if strict else v >= lif.v_threshold
        v = np.where(z, lif.v_reset, v)
        found.append(z)
    return torch.from_numpy(np.stack(found)).float()


def lif_graph(tau=1e-3, r=1.0, v_leak=0.0, v_threshold=1.0, v_reset=0.0, **more):
    one = np.ones(4)
    weight = 3 * sp.Key.of(3).normal((4, 5)).numpy()
    values = {"tau": tau, "r": r, "v_leak": v_leak, "v_threshold": v_threshold, "v_reset": v_reset}
    node = nir.LIF(**{name: one * value for name, value in values.items()} | more)
    return nir.NIRGraph.from_list(nir.Linear(weight), node)


@pytest.mark.parametrize("strict", [True, False])
def test_spikes_are_those_of_the_equations(strict):
    for values in ({}, {"r": 3.0, "tau": 3e-4}, {"v_leak": -0.25, "v_reset": -0.25, "v_threshold": 0.5}):
        graph = lif_graph(**values)
        model = sp.from_nir(graph, encoder=sp.Events(T), written_by=Convention(strict=strict))
        ours = model.respond(trains(5, 1, 1))
        assert torch.equal(ours, plain(graph, trains(5), 1e-4, strict))
        assert 0 < ours.mean() < 1


def test_a_neuron_at_its_threshold_fires_where_the_exporter_lets_it():
    neurons = nir.IF(r=np.full(2, 1e4), v_threshold=np.full(2, 0.5))
    graph = nir.NIRGraph.from_list(nir.Linear(np.eye(2)), neurons)
    half = torch.full((1, 1, 2, 1, 1), 0.5)
    for who, fires in (("nir", 0.0), ("spikingjelly", 1.0)):
        assert sp.from_nir(graph, encoder=sp.Events(1), written_by=who).respond(half).mean() == fires


def large(net):
    """Weights large enough to make neurons fire."""
    with torch.no_grad():
        for weights in net.parameters():
            if weights.ndim > 1:
                weights.mul_(4)
    return net


def agrees(graph, theirs, x, who, exactly=True):
    shape = tuple(x.shape[2:])
    ours = sp.from_nir(graph, encoder=sp.Events(T), written_by=who, input_shape=shape).respond(
        x if len(shape) == 3 else x[..., None, None]
    )
    assert theirs.abs().mean() > 0.005
    torch.testing.assert_close(ours, theirs.detach(), **({"rtol": 0, "atol": 0} if exactly else {}))


SNNTORCH = [("Leaky", "subtract"), ("Leaky", "zero"), ("Synaptic", "subtract"), ("RLeaky", "subtract")]


@pytest.mark.parametrize(("kind", "reset"), SNNTORCH)
def test_files_of_snntorch_give_its_own_spikes(kind, reset):
    snn = pytest.importorskip("snntorch", reason="snntorch is not installed")
    exporter = pytest.importorskip("snntorch.export_nir", reason="nirtorch is not installed")

    def neurons(n, name=kind):
        settings = {"threshold": torch.ones(n), "init_hidden": True, "reset_mechanism": reset}
        settings |= {"alpha": torch.full((n,), 0.8)} if name == "Synaptic" else {}
        settings |= {"linear_features": n} if name == "RLeaky" else {}
        return getattr(snn, name)(beta=torch.full((n,), 0.9), **settings)

    torch.manual_seed(0)
    last = neurons(4, "Leaky" if kind == "RLeaky" else kind)
    net = large(nn.Sequential(nn.Linear(20, 30), neurons(30), nn.Linear(30, 4), last))
    graph = exporter.export_to_nir(net, torch.rand(1, 20), ignore_dims=[0])
    for layer in (net[1], net[3]):
        layer.reset_mem()
    x = 2 * trains(20)
    agrees(graph, torch.stack([net(now) for now in x]), x, f"snntorch-{reset}")


SPIKINGJELLY = {
    "IFNode": {"v_reset": 0.0},
    "LIFNode": {"tau": 2.0},
    "LIFNode at -0.3": {"tau": 4.0, "decay_input": False, "v_reset": -0.3, "v_threshold": 0.7},
    "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.8, "v_reset": 0.0},
}


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("kind", SPIKINGJELLY)
def test_files_of_spikingjelly_give_its_own_spikes(kind, convolutional):
    neuron = pytest.importorskip(
        "spikingjelly.activation_based.neuron", reason="spikingjelly is not installed"
    )
    exchange = pytest.importorskip(
        "spikingjelly.activation_based.nir_exchange", reason="nirtorch is not installed"
    )

    def neurons():
        return getattr(neuron, kind.split()[0])(**SPIKINGJELLY[kind])

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), neurons(), nn.Linear(30, 4), neurons())
    x = 4 * trains(20)
    if convolutional:
        head = [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 4), neurons()]
        net = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), neurons(), *head)
        x = 12 * trains(2, 8, 8)
    graph = exchange.export_to_nir(large(net), x[0, :1])
    for layer in net:
        if hasattr(layer, "reset"):
            layer.reset()
    agrees(graph, torch.stack([net(now) for now in x]), x, "spikingjelly")


@pytest.mark.parametrize("kind", ["LIFBoxCell", "IAFCell", "LIFCell", "LIBoxCell"])
def test_files_of_norse_give_its_own_spikes(kind):
    norse = pytest.importorskip("norse.torch", reason="norse is not installed")
    exporter = pytest.importorskip("norse.torch.utils.export_nir", reason="nirtorch is not installed")
    hidden = "LIFBoxCell" if kind == "LIBoxCell" else kind
    torch.manual_seed(0)
    layers = [nn.Linear(20, 30), getattr(norse, hidden)(), nn.Linear(30, 4), getattr(norse, kind)()]
    net, x, state, found = large(norse.SequentialState(*layers)), 12 * trains(20), None, []
    graph = exporter.to_nir(net, x[0])
    for now in x:
        out, state = net(now, state)
        found.append(out)
    # A potential in other words rounds otherwise; spikes do not
    agrees(graph, torch.stack(found), x, "norse", exactly=kind != "LIBoxCell")


@pytest.mark.parametrize("kind", ["IAF", "LIF", "ExpLeak"])
def test_files_of_sinabs_give_its_own_spikes(kind):
    sl = pytest.importorskip("sinabs.layers", reason="sinabs is not installed")
    exporter = pytest.importorskip("sinabs.nir", reason="nirtorch is not installed")
    leaky = {} if kind == "IAF" else {"tau_mem": 20.0}
    torch.manual_seed(0)
    hidden = sl.LIF(tau_mem=20.0) if kind == "LIF" else sl.IAF()
    net = large(nn.Sequential(nn.Linear(20, 30), hidden, nn.Linear(30, 4), getattr(sl, kind)(**leaky)))
    x = (80 if kind == "LIF" else 2) * trains(20)
    graph = exporter.to_nir(net, x.transpose(0, 1))
    for layer in (net[1], net[3]):
        layer.reset_states()
    theirs = net(x.transpose(0, 1)).transpose(0, 1)
    agrees(graph, theirs, x, "sinabs")
    assert kind == "ExpLeak" or theirs.max() > 1  # several spikes in a step


def refused(graph, match, **options):
    with pytest.raises(sp.InputError, match=match) as caught:
        sp.from_nir(graph, **{"encoder": sp.Events(T), **options})
    assert "\n" not in str(caught.value)


def chain(*nodes):
    return nir.NIRGraph.from_list(*nodes, type_check=False)


def test_what_has_no_counterpart_is_refused_by_node_and_parameter():
    one, eye = np.ones(4), np.eye(4)
    refused(lif_graph(tau=np.array([1e-3, 2e-3, 1e-3, 1e-3])), "tau that differs .* 'lif', LIF")
    refused(lif_graph(tau=5e-5), "tau=5e-05 at node 'lif'")
    refused(lif_graph(v_leak=0.5), "v_leak=0.5 at node 'lif'")
    refused(lif_graph(v_threshold=-1.0), "v_threshold=-1 at node 'lif'")
    refused(lif_graph(v_reset=0.5, v_leak=0.5), "v_reset=0.5", written_by="snntorch-subtract")
    refused(lif_graph(r=np.nan), "r with others at node 'lif'")
    refused(chain(nir.Linear(np.full((4, 4), np.inf)), nir.I(one)), "weight with others at node 'linear'")
    refused(chain(nir.Linear(eye), nir.Delay(one)), "'delay', Delay")
    refused(chain(nir.LI(1e-3 * one, one, one)), "v_leak=1 at node 'li'")
    refused(
        chain(nir.Linear(eye), nir.Flatten({"input": np.array([4])}, 0, -1)),
        "last node .* 'flatten', Flatten",
    )
    refused(chain(nir.Linear(eye), nir.Linear(np.ones((3, 5))), nir.I(one)), "shapes fit")
    refused(lif_graph(), "reads spikes", decoder=sp.MeanPotential())
    refused(lif_graph(), "reads spikes", decoder=sp.MeanCurrent())
    refused(chain(nir.Linear(eye)), "the current where the graph ends", decoder=sp.MeanPotential())
    refused(lif_graph(), "'snntorch'", written_by="snntorch")
    refused(chain(nir.I(one)), "layer with weights")
    refused({"lif": 1}, "A graph of NIR: got dict")
    with pytest.raises(sp.InputError, match="positive length"):
        Convention(dt=0.0)
    cuba = nir.CubaLIF(*(1e-3 * one, 1e-3 * one, one, 0 * one, one))
    refused(chain(cuba), "another equation at node 'cubalif'", written_by="snntorch-zero")
    refused(chain(cuba), "several spikes in a step at node 'cubalif'", written_by="sinabs")


def test_branches_and_odd_loops_are_refused():
    graph = lif_graph()
    graph.edges.append(("linear", "output"))
    refused(graph, "one after the other.*2 nodes after 'linear'")
    graph = lif_graph()
    graph.nodes["back"] = nir.Linear(np.eye(4))
    graph.edges += [("lif", "back"), ("back", "lif")]
    refused(graph, "recurrent neurons of another equation", written_by="snntorch-zero")
    assert sp.from_nir(graph, encoder=sp.Events(T)).spec.network.remembers
    graph.edges.append(("lif", "nowhere"))
    refused(graph, "nowhere")
    refused(nir.NIRGraph({"lif": graph.nodes["lif"]}, [], type_check=False), "one Input and one Output")


def test_what_nir_cannot_say_is_not_written():
    for model, match in (
        (of_ours(sp.LIF()), "reset to zero"),
        (of_ours(sp.LIF(reset=ZERO, synapse=sp.PSP())), "PSP"),
        (of_ours(sp.ALIF()), "ALIF"),
        (of_ours(sp.PrimedIF(reset=ZERO)), "PrimedIF"),
        (of_ours(sp.IF(reset=ZERO)).train(), "training"),
    ):
        with pytest.raises(sp.InputError, match=match):
            sp.to_nir(model)
    with pytest.raises(sp.InputError, match="positive length"):
        sp.to_nir(OURS["if"], dt=-1.0)
    encoder, neuron = sp.Direct(2), sp.IF(reset=ZERO)
    for network, match in (
        (sp.ResNet18((1, 1, 1, 1), 0.05), "residual block"),
        (sp.ConvNet((3,), pool="max"), "max pooling"),
        (sp.ConvNet((3,), pool="gated-max"), "max pooling"),
    ):
        spec = sp.ModelSpec(encoder, network, neuron, sp.ATan(), sp.Count(), (1, 8, 8), 3)
        with pytest.raises(sp.InputError, match=match):
            sp.to_nir(spec.build(sp.Key.of(0)).eval())


def test_files_that_are_none_of_nir_are_refused_in_one_sentence(tmp_path):
    good, path = tmp_path / "good.nir", tmp_path / "bad.nir"
    nir.write(good, lif_graph())
    content = good.read_bytes()

    def with_group(change):
        path.write_bytes(content)
        with h5py.File(path, "a") as file:
            change(file)

    def huge(file):
        file["node/nodes/linear"].create_dataset("more", (1 << 40,), dtype="f8", chunks=(1 << 10,))

    def virtual(file):
        layout = h5py.VirtualLayout((4,), dtype="f8")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", shape=(4,))
        file.create_virtual_dataset("other", layout)

    refused(tmp_path / "missing.nir", "missing.nir: expected a file of NIR")
    for bad in (b"", b"hello", content[: len(content) // 2], b"\x89HDF\r\n\x1a\n" + bytes(100)):
        path.write_bytes(bad)
        refused(path, r"bad.nir: expected a file of NIR")
    for change, match in (
        (lambda file: file.__setitem__("there", h5py.ExternalLink("/etc/passwd", "/")), "link"),
        (lambda file: file.__setitem__("there", h5py.SoftLink("/node")), "link"),
        (lambda file: file["node"].__setitem__("again", file["node"]), "link, or too many"),
        (huge, "at most"),
        (virtual, "elsewhere"),
        (lambda file: file["node/nodes/lif"].pop("tau"), "expected a file of NIR"),
        (lambda file: file["node/nodes/lif/type"].__setitem__((), "Eval"), "expected a file of NIR"),
        (lambda file: file.pop("node"), "expected a file of NIR"),
    ):
        with_group(change)
        refused(path, match)
    refused(Path("/dev/null"), "regular")


def test_a_graph_is_attacked_like_any_model_of_ours():
    model = sp.from_nir(sp.to_nir(OURS["recurrent"]), encoder=sp.Events(T))
    x = trains(5, 1, 1).transpose(0, 1)
    y = sp.decide(model(x)).clamp(min=0)
    clean = sp.evaluate_clean(model, x, y, sp.Key.of(0))
    found = sp.evaluate_suite(model, "quick", sp.Flips(6), x, y, clean, sp.Key.of(0))
    assert found.accuracy < float(clean.right.double().mean())
    twin = sp.substitute(model, spike=sp.ATan(9.0))
    assert torch.equal(twin(x), model(x))
    many = sp.from_nir(
        nir.NIRGraph.from_list(nir.Linear(np.eye(3)), nir.IF(r=np.ones(3), v_threshold=np.ones(3))),
        encoder=sp.Events(T),
        written_by=CONVENTIONS["sinabs"],
    )
    assert CONVENTIONS["sinabs"].subtraction is Subtraction.AT_ONCE
    several = torch.full((1, T, 3, 1, 1), 2.0)
    assert torch.equal(many(several), torch.full((1, 3), 2.0 * T))
    leaf = several.requires_grad_()
    many(leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0


def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "nir.md"
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    assert blocks
    names = {}
    for block in blocks:
        exec(block, names)  # the page of this repository

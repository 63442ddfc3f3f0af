"""On a CUDA device: spikes equal to those of the CPU, verdicts in batches of any size, attacks, training."""

import json

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.names import PARTS
from spikeproof.command.cli import cli
from spikeproof.compiled import Loops, using_loops, why_not_compiled
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.through import through
from spikeproof.experiments.run.compute import in_full
from spikeproof.learning.augmentation import AugmentedBPTT
from spikeproof.learning.shared import using_devices
from spikeproof.neurons import ALIF, IF, PLIF, State, fused_unroll, lif_unroll, unroll
from spikeproof.surrogates import ATan
from spikeproof.threats import L0, L1, L2, Flips

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

KEY = sp.Key.of(0)
FEW = {"steps": 3, "queries": 20, "draws": 2, "searches": 2, "evaluations": 4, "starts": 2, "population": 6}


@pytest.fixture(scope="module")
def data():
    return sp.Digits().load()


def trained(data, encoder, network=sp.MLP((64,)), epochs=4, device="cuda"):
    spec = sp.ModelSpec(encoder, network, sp.LIF(), ATan(), sp.MeanPotential(), (1, 8, 8), 10)
    model = spec.build(KEY)
    sp.BPTT(epochs=epochs, lr=0.01).train(model, data, KEY, device=device)
    return model


@pytest.fixture(scope="module", params=[sp.Direct(6), sp.Latency(6)], ids=["direct", "latency"])
def model(request, data):
    return trained(data, request.param)


@pytest.mark.parametrize("neuron", [sp.LIF(), IF(reset=sp.ToZero()), sp.LIF(detach_reset=True)], ids=repr)
def test_spikes_and_gradients_of_a_layer_are_those_of_the_processor(neuron):
    current = KEY.normal((6, 5, 700))
    found = []
    for device, loop in (("cpu", unroll), ("cuda", unroll), ("cuda", lif_unroll)):
        i = current.to(device).clone().requires_grad_()
        z, end = loop(i, State(torch.zeros_like(i[0])), neuron, ATan())
        (z * torch.arange(z.numel(), device=device).view_as(z) / z.numel()).sum().backward()
        found.append((z.cpu(), end.v.detach().cpu(), i.grad.cpu()))
    for z, end, gradient in found[1:]:
        assert torch.equal(z, found[0][0])
        assert torch.equal(end, found[0][1])
        assert torch.allclose(gradient, found[0][2], atol=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # within Triton
@pytest.mark.skipif(bool(why_not_compiled(Loops.INDUCTOR, "cuda")), reason="no Triton")
@pytest.mark.parametrize("neuron", [sp.LIF(), IF(reset=sp.ToZero()), PLIF(0.4), ALIF(0.7)], ids=repr)
def test_programs_of_inductor_spike_as_the_processor_does(neuron):
    """Which a warning of a refused program would end."""
    for steps, batch in ((11, 5), (8, 32), (3, 7)):
        current, found = KEY.normal((steps, batch, 700)), []
        for device, loops in (("cpu", Loops.WRITTEN), ("cuda", Loops.INDUCTOR)):
            i = current.to(device).requires_grad_()
            with using_loops(loops):
                z, end = lif_unroll(i, neuron.rest(i), neuron, ATan())
            weight = KEY.fold("weight").normal(z.shape).to(device)
            gradient = torch.autograd.grad((z * weight).sum(), i)[0]
            found.append((z.cpu(), end.v.detach().cpu(), gradient.cpu()))
        assert torch.equal(found[0][0], found[1][0])
        assert torch.equal(found[0][1], found[1][1])
        assert torch.allclose(found[0][2], found[1][2], atol=1e-6)
    assert not why_not_compiled(Loops.INDUCTOR, "cuda")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_devices_share_a_training(data):
    spec = sp.ModelSpec(sp.Direct(6), sp.ConvNet((8,)), sp.LIF(), ATan(), sp.MeanPotential(), (1, 8, 8), 10)
    model = spec.build(KEY)
    with using_devices(2) as shared:
        history = sp.BPTT(epochs=4, lr=0.01).train(model, data, KEY, device="cuda")
    assert shared.precisions == ["bfloat16 in layers"]
    assert history.validation_accuracy > 0.8


@pytest.mark.parametrize("network", [sp.MLP((64,)), sp.ConvNet((8, 16))], ids=["mlp", "convnet"])
def test_verdicts_on_cuda_equal_those_on_the_cpu_and_do_not_depend_on_the_batch(data, network):
    model = trained(data, sp.Latency(6), network, epochs=2)
    x, y = data.test.images.cuda(), data.test.labels.cuda()
    with in_full():
        whole = sp.evaluate_clean(model, x, y, KEY, batch_size=297)
        parts = sp.evaluate_clean(model, x, y, KEY, batch_size=64)
    assert torch.equal(whole.prediction, parts.prediction)
    there = sp.evaluate_clean(model.cpu(), x.cpu(), y.cpu(), KEY)
    assert (whole.prediction.cpu() != there.prediction).double().mean() <= 0.01


def small(recipe):
    return recipe(**{name: value for name, value in FEW.items() if name in recipe.__dataclass_fields__})


@pytest.mark.parametrize("name", sorted(PARTS[Recipe]))
def test_every_attack_stays_on_the_device_and_within_its_budget(name, data, model):
    try:
        recipe = small(PARTS[Recipe][name])
    except TypeError:
        pytest.skip("made of other attacks, which are tested themselves")
    x, y = data.test.images[:20].cuda(), data.test.labels[:20].cuda()
    clean = sp.evaluate_clean(model, x, y, KEY)
    for threat in (sp.Linf(0.1), L2(1.0), L1(5.0), L0(8)):
        try:
            attack = recipe(threat)
            found = sp.evaluate_attack(
                model, attack, threat, x, y, clean, KEY, through=through(model, recipe)
            )
        except InputError:
            continue  # it refuses this threat, or this model
        assert found.x_adv.is_cuda
        assert bool(found.within.all())
        assert found.metrics()["robust_accuracy"] <= clean.metrics()["clean_accuracy"]
        return
    pytest.skip("for spike trains, or run by a suite")


def test_a_suite_finds_what_it_finds_on_the_processor(data, model):
    accuracy = {}
    for device in ("cuda", "cpu"):
        x, y = data.test.images[:60].to(device), data.test.labels[:60].to(device)
        model.to(device)
        clean = sp.evaluate_clean(model, x, y, KEY)
        found = evaluate_suite(model, "quick", sp.Linf(0.1), x, y, clean, KEY)
        accuracy[device] = found.metrics()["robust_accuracy"]
    model.to("cuda")
    assert abs(accuracy["cuda"] - accuracy["cpu"]) <= 0.1


def test_spikes_are_attacked_on_the_device():
    data = sp.Randman(examples=40, steps=20).load()
    shape = tuple(data.test.images.shape[1:])
    assert data.test.images.ndim >= 3, shape
    threat = Flips(4)
    assert threat.contains(data.test.images[:4].cuda().float(), data.test.images[:4].cuda().float()).all()


def test_training_learns_replays_and_resumes(data, tmp_path):
    rule = sp.BPTT(epochs=4, lr=0.01)
    models = []
    for halves in (False, False, True):
        spec = sp.ModelSpec(
            sp.Direct(6), sp.ConvNet((8,)), sp.LIF(), ATan(), sp.MeanPotential(), (1, 8, 8), 10
        )
        model, state = spec.build(KEY), tmp_path / f"{len(models)}.pt"

        def stop(report, halves=halves):
            if halves and report.epoch == 2:
                raise KeyboardInterrupt

        with in_full():
            if halves:
                with pytest.raises(KeyboardInterrupt):
                    rule.train(model, data, KEY, device="cuda", checkpoint=state, on_epoch=stop)
                model = spec.build(KEY)
            history = rule.train(model, data, KEY, device="cuda", checkpoint=state)
        models.append(model)
    assert history.validation_accuracy > 0.85
    first = models[0].state_dict()
    for other in models[1:]:
        for name, value in other.state_dict().items():
            assert torch.equal(value, first[name]), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # within torch.compile
def test_a_fused_loop_has_the_same_spikes_but_for_rounding_and_learns(data):
    current = KEY.normal((6, 5, 700)).cuda()
    found = []
    for loop in (unroll, fused_unroll()):
        i = current.clone().requires_grad_()
        z, _ = loop(i, State(torch.zeros_like(i[0])), sp.LIF(), ATan())
        z.sum().backward()
        found.append((z.detach(), i.grad))
    same = found[0][0] == found[1][0]
    assert same.double().mean() > 0.999
    assert torch.allclose(found[0][1][:, same.all(0)], found[1][1][:, same.all(0)], atol=1e-5)
    spec = sp.ModelSpec(sp.Direct(6), sp.ConvNet((8,)), sp.LIF(), ATan(), sp.MeanPotential(), (1, 8, 8), 10)
    model = spec.build(KEY)
    rule = AugmentedBPTT(epochs=4, lr=0.01, pad=1, mirror=False, fused=True)
    assert rule.train(model, data, KEY, device="cuda").validation_accuracy > 0.8


def test_a_study_runs_on_the_device_and_says_so(tmp_path):
    study = tmp_path / "small.yaml"
    study.write_text(
        "name: small\ndata: digits\nmodels:\n- encoder: {latency: {steps: 4}}\n  rule: {bptt: {epochs: 2}}\n"
        "attacks: [{pgd: {steps: 3}}, {square: {queries: 20}}]\nepsilons: [0.1]\nexamples: 50\n"
        "certificates: [bins, ibp]\nprobes: [shuffle]\n"
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(cli, ["run", str(study), "--out", str(out), "--device", "cuda"])
    assert result.exit_code == 0, result.output
    for file in out.glob("cells/*/provenance.json"):
        assert json.loads(file.read_text())["device"] == torch.cuda.get_device_name()

"""The benchmarks of speed run, and what they compare has equal spikes, gradients and verdicts.

Sizes are tiny. Nothing here asserts a time.
"""

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import spikeproof as sp
from spikeproof.compiled import Loops, chosen_loops, why_not_compiled

FOLDER = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.filterwarnings("ignore")  # of the frameworks

NETWORKS = {"mlp": sp.MLP((12,)), "convnet": sp.ConvNet((16,))}
SHAPE = (1, 12, 12)


@pytest.fixture(scope="module")
def benchmark():
    """Imports a module of the folder of benchmarks, which is no package."""
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module
    sys.path.remove(str(FOLDER))


@pytest.mark.parametrize("trains", [False, True], ids=["attacked", "training"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", ["spikingjelly", "snntorch", "norse"])
def test_the_networks_of_other_frameworks_are_ours(benchmark, name, network, trains):
    pytest.importorskip(name)
    throughput, kind = benchmark("throughput"), benchmark("in_frameworks").FRAMEWORKS[name]
    if trains and kind.stepwise and network == "convnet":
        pytest.skip("it normalises over the batch of one step, ours over all steps")
    case = throughput.Case(NETWORKS[network], 8, 6, SHAPE, trains)
    x, y = throughput.batch_of(case)
    ours = throughput.model_of(case, kind.neuron, kind.surrogate)
    close = throughput.close(throughput.work(ours, case, x, y), throughput.work(kind(ours), case, x, y))
    assert close["equal_logits"] == 1
    assert close["gradients_apart"] < 2e-6
    assert throughput.work(ours, case, x, y)[0].sum() > 0


def test_a_case_is_measured_in_every_way(benchmark, tmp_path):
    for name in ("spikingjelly", "snntorch", "norse"):
        pytest.importorskip(name)
    throughput = benchmark("throughput")
    for network in NETWORKS.values():
        case = throughput.Case(network, 8, 4, SHAPE)
        found = throughput.measured(case, rounds=2)  # asserts that written and compiled loops are equal
        assert list(found["milliseconds"]) == list(throughput.ALL)
        assert set(found["agreement"]) == set(throughput.FRAMEWORKS)
        assert throughput.shown("case", json.loads(json.dumps(found)))
    assert set(throughput.measured(replace(case, trains=True), 2)["milliseconds"]) == {*throughput.ALL} - {
        "bfloat16"
    }


def test_the_floor_has_the_linear_maps_alone(benchmark):
    throughput = benchmark("throughput")
    case = throughput.Case(sp.MLP((12,)), 3, 4, SHAPE)
    x, _ = throughput.batch_of(case)
    model = throughput.model_of(case)
    first, second = (layers[-1] for layers in model.network.layers if isinstance(layers, torch.nn.Sequential))
    wanted = 3 * second(first(x.flatten(1)))
    assert torch.allclose(throughput.floor(model)(x), wanted, atol=1e-5)


def test_an_evaluation_has_the_same_verdicts_in_every_way_and_can_be_drawn(benchmark, tmp_path):
    for name in ("spikingjelly", "torchattacks", "foolbox"):
        pytest.importorskip(name)
    costs, throughput, draw = map(benchmark, ("evaluation_cost", "throughput", "draw_throughput"))
    subject = replace(costs.SUBJECTS["digits"], network=sp.MLP((24,)), images=200, epochs=4)
    model, test = costs.trained(subject)
    found = costs.evaluations(model, test.images[:40], test.labels[:40], 4, few=30)  # asserts equal verdicts
    left = {name: row["robust_accuracy_there"] for name, row in found.items()}
    assert left["written"] == left["compiled"]
    assert [found[name]["images"] for name in ("written", "compiled")] == [30, 40]
    for name in (f"{name} on spikingjelly" for name in costs.PEERS):
        assert all(abs(one - other) <= 0.2 for one, other in zip(left[name], left["compiled"], strict=True))
    audit = costs.audits(model, test.images[:8], test.labels[:8])
    assert audit["gradients"] > 0
    assert audit["slopes"] > 0
    case = throughput.Case(sp.MLP((6,)), 2, 2, SHAPE)
    cases = {"mlp": throughput.measured(case, 2)}
    cases |= {f"{size}, {n}": cases["mlp"] for size in draw.GROWING for n in (1, 2)}
    record = {"evaluations": found, "audit": audit, "steps": 4, "examples": 30}
    draw.figure({"cases": cases}, record).savefig(tmp_path / "drawn.svg")
    assert "<svg" in (tmp_path / "drawn.svg").read_text()


@pytest.mark.skipif(bool(why_not_compiled()), reason="no C++ compiler")
def test_compiled_loops_that_are_wrong_end_the_benchmark(benchmark, monkeypatch):
    throughput = benchmark("throughput")
    case = throughput.Case(sp.MLP((12,)), 3, 4, SHAPE, ways=("written", "compiled"))
    assert throughput.measured(case, rounds=2)
    monkeypatch.setattr(throughput.Compiled, "forward", lambda self, images: self.model(images) + 1)
    with pytest.raises(AssertionError, match="equal numbers"):
        throughput.measured(case, rounds=2)


@pytest.mark.skipif(bool(why_not_compiled(Loops.INDUCTOR)), reason="no C++ compiler")
def test_the_measurement_of_a_gpu_can_be_tried_on_the_processor(benchmark, tmp_path, capsys):
    pytest.importorskip("spikingjelly")
    on_gpu = benchmark("on_gpu")
    on_gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert not found["no_programs"]
    assert list(found["cases"]) == list(on_gpu.TINY)
    for case in found["cases"].values():
        assert {"written", "inductor", "floor", "spikingjelly"} <= set(case["milliseconds"])
        assert max(apart for way, apart in case["gradients_apart"].items() if "bfloat16" not in way) < 1e-6
    assert len(found["layers"]) == 4
    assert max(found["layers"].values()) < 1e-6
    shares = found["verdicts"]["inductor on cpu"]
    assert shares["clean_verdicts_of_the_processor"] == 1
    assert shares["attacked_verdicts_of_the_processor"] == 1
    assert 0 < shares["robust_accuracy"] < 1
    assert "spike as on the processor" in capsys.readouterr().out


def test_loops_that_spike_otherwise_end_the_measurement_of_a_gpu(benchmark, monkeypatch):
    on_gpu, honest = benchmark("on_gpu"), sp.neurons.lif_unroll

    def wrong(current, *given):
        z, end = honest(current, *given)
        return (1 - z if chosen_loops() is Loops.INDUCTOR else z), end

    monkeypatch.setattr(on_gpu, "lif_unroll", wrong)
    with pytest.raises(AssertionError, match="spike as on the processor"):
        on_gpu.same_spikes(torch.device("cpu"), (2, 2, 3))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured_and_that_is_said(benchmark, tmp_path, capsys):
    benchmark("on_gpu").main(["--out", str(tmp_path / "found.json")])
    assert capsys.readouterr().out == "Nothing was measured, because PyTorch sees no GPU on this machine.\n"
    assert not (tmp_path / "found.json").exists()


def test_a_gpu_is_measured_on_the_cases_of_the_processor_and_larger_batches(benchmark):
    found = benchmark("on_gpu").chosen(small=False)
    throughput = benchmark("throughput")
    assert found["mlp, batch 512"] == replace(throughput.CASES["mlp"], batch=512)
    assert {name for name in throughput.CASES if not name.startswith("width")} <= set(found)

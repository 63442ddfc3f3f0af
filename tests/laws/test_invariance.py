"""A robust accuracy depends on the function that a model computes, and on nothing else.

Each change below keeps the function (or relabels it), and must keep the number: to the bit where the change
keeps every answer and every gradient to the bit, within one example of forty where sums round otherwise or
the objectives see logits in another unit, and within two where the layers are hidden behind a function, so
that no substitute of them can be made. The verdict is kept too, except by functions, which have fewer
gradient sources.

Every suite here runs all members of the standard suite, but none with more steps, restarts or queries than
`SHORT` allows: the laws hold at any length, and the searches for functions take thousands of queries. A
verdict asks for as many fewer steps and queries, so that verdicts remain verdicts, and gradients are compared
along fewer directions.
"""

import copy
import sys
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from spikeproof import (
    BPTT,
    LIF,
    MLP,
    ATan,
    Count,
    Digits,
    Direct,
    FirstSpike,
    Key,
    Latency,
    Linf,
    MeanPotential,
    ModelSpec,
    ReLU,
)
from spikeproof.auditing import conditions, slopes
from spikeproof.auditing.signoff import audit
from spikeproof.datasets import ClassProportional
from spikeproof.evaluation.asking.callables import Plain
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.networks import Classifier

sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief_suites

KEY, THREAT, N = Key.of(5), Linf(0.1), 40
SHORT = {"steps": 6, "restarts": 1, "refine": 6, "queries": 70}  # two fits of the stand-in
MODELS = {
    "direct-count": (Direct(6), LIF(), Count()),
    "direct-potential": (Direct(4), LIF(), MeanPotential()),
    "latency-first-spike": (Latency(5), LIF(), FirstSpike()),
    "relu": (Direct(1), ReLU(), MeanPotential()),
}


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """No member of a suite is longer than `SHORT`, and a verdict asks for as much less."""
    with brief_suites(SHORT) as patch:
        for name, enough in {"ENOUGH_STEPS": 6, "ENOUGH_SUM": 30, "ENOUGH_QUERIES": 200}.items():
            patch.setattr(conditions, name, enough)
        patch.setattr(slopes, "DIRECTIONS", slopes.DIRECTIONS // 4)
        yield


@pytest.fixture(scope="module")
def data():
    return Digits().load()


@pytest.fixture(scope="module")
def sample(data):
    part = ClassProportional()(data.test, N)
    return part.images, part.labels


@pytest.fixture(scope="module", params=MODELS, ids=str)
def model(request, data):
    encoder, neuron, decoder = MODELS[request.param]
    spec = ModelSpec(encoder, MLP((32,)), neuron, ATan(), decoder, (1, 8, 8), 10)
    model = spec.build(Key.of(0))
    BPTT(epochs=6, lr=0.01).train(model, data, Key.of(0))
    return model.eval()


@pytest.fixture(scope="module")
def found(model, sample):
    return audit(model, *sample, THREAT, key=KEY)


@pytest.fixture(scope="module")
def foreign(model, sample):
    """The numbers of the model as a plain function, for which no substitute gradients can be made."""
    return numbers(lambda images: model(images), *sample)


class Numbers(NamedTuple):
    accuracy: float
    clean_accuracy: float


def numbers(function, x, y):
    """Robust and clean accuracy of a function under the standard suite."""
    model = Plain(function)
    clean = evaluate_clean(model, x, y, KEY)
    robust = evaluate_suite(model, "standard", THREAT, x, y, clean, KEY).accuracy
    return Numbers(robust, clean.metrics()["clean_accuracy"])


def alike(first, second, points=0.0, verdict=True):
    assert second.accuracy == pytest.approx(first.accuracy, abs=points + 1e-9)
    assert second.clean_accuracy == pytest.approx(first.clean_accuracy)
    if verdict:
        assert second.verdict.verdict == first.verdict.verdict


def scaled(model, factor):
    """The model with weights and thresholds times a factor, which has the same spikes at the same times."""
    spec = model.spec
    neuron = replace(spec.neuron, threshold=factor) if spec.neuron.spiking else spec.neuron
    twin = Classifier(replace(spec, neuron=neuron), replace(spec, neuron=neuron).build(Key.of(0)).network)
    weights = {name: value * factor for name, value in model.state_dict().items()}
    twin.load_state_dict(weights)
    return twin.eval()


def test_the_unit_of_potentials_changes_nothing(model, found, sample):
    if not model.spec.neuron.spiking:
        pytest.skip("a rectifier has no unit of its own")
    reads_potential = isinstance(model.spec.decoder, MeanPotential)  # its logits have the unit of potentials
    factor, points = (2.0**-7, 1 / N) if reads_potential else (2.0**5, 0)
    alike(found, audit(scaled(model, factor), *sample, THREAT, key=KEY), points)


def test_scale_and_shift_of_logits_change_nothing(model, foreign, sample):
    """Both at once: a number that depended on either would depend on the two together."""
    other = numbers(lambda images: (model(images) + 64.0) * 2.0**20, *sample)
    alike(foreign, other, 1 / N, verdict=False)


def test_the_order_of_hidden_neurons_changes_nothing(model, found, sample):
    order = torch.randperm(32, generator=torch.Generator().manual_seed(3))
    twin = copy.deepcopy(model)
    first, second = (m for m in twin.modules() if isinstance(m, torch.nn.Linear))
    first.weight.data, first.bias.data = first.weight.data[order], first.bias.data[order]
    second.weight.data = second.weight.data[:, order]
    alike(found, audit(twin, *sample, THREAT, key=KEY), 1 / N)


def test_the_order_of_classes_and_faint_logits_change_nothing(model, foreign, sample):
    x, y = sample
    order = torch.randperm(10, generator=torch.Generator().manual_seed(4))
    faint = 2.0**-24
    other = numbers(lambda images: model(images)[:, order] * faint, x, order.argsort()[y])
    alike(
        foreign, other, 2 / N, verdict=False
    )  # searches of other luck: the order of classes is that of targets


def test_a_plain_function_of_the_model_is_as_robust_as_the_model(found, foreign):
    alike(found, foreign, 2 / N, verdict=False)


def test_neither_the_order_of_the_data_nor_the_size_of_batches_changes_anything(model, found, sample):
    x, y = sample
    order = torch.randperm(N, generator=torch.Generator().manual_seed(1))
    other = audit(model, x[order], y[order], THREAT, key=KEY, batch_size=15)
    assert torch.equal(found.suited.attacked.right[order], other.suited.attacked.right)
    assert torch.equal(found.images[order], other.images)
    assert found.verdict.verdict == other.verdict.verdict


def test_logits_of_half_precision_are_judged_as_they_are_answered(model, foreign, sample):
    other = numbers(lambda images: model(images).bfloat16().float(), *sample)
    alike(foreign, other, 2 / N, verdict=False)

"""A function is as robust as the model that it was made of, or the number is not *supported*.

A plain function keeps nothing of a model but its answers, so every gradient source and every code is hidden.
The law holds over codes and read-outs, on models small enough for whole suites.
"""

import itertools
import sys
from pathlib import Path

import pytest
import torch

import spikeproof as sp
from spikeproof.auditing.signoff import audit
from spikeproof.evaluation.asking.callables import Plain
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean

sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief_suites

THREAT = sp.Linf(0.08)
KEY, N, POINTS = sp.Key.of(3), 18, 0.02
CODES = (sp.Direct(3), sp.QuantisedDirect(3), sp.Latency(3), sp.EarlyBurst(3))
READOUTS = (sp.MeanPotential(), sp.Count(), sp.FirstSpike())
SHORT = {"queries": 70, "steps": 4, "restarts": 2, "refine": 10}


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """No member of a suite is longer than `SHORT`."""
    with brief_suites(SHORT):
        yield


def stripes(count, key):
    """Images of 4 x 4 pixels with noise, in three classes: which of the first three rows is the brightest."""
    labels = torch.arange(count) % 3
    images = 0.7 * key.fold("noise").uniform((count, 1, 4, 4))
    images[torch.arange(count), 0, labels] += 0.3
    return images, labels


def trained(code, readout):
    spec = sp.ModelSpec(code, sp.MLP((12,)), sp.LIF(), sp.ATan(), readout, (1, 4, 4), 3)
    model = spec.build(KEY)
    x, y = stripes(240, KEY.fold("train"))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(40):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@pytest.mark.parametrize(("code", "readout"), list(itertools.product(CODES, READOUTS)), ids=repr)
def test_a_function_is_as_robust_as_its_model_or_is_not_supported(code, readout):
    model, (x, y) = trained(code, readout), stripes(N, KEY.fold("test"))
    function = Plain(lambda images: model(images))
    known, plain = (left(each, x, y) for each in (model, function))
    assert 0 < known < 1
    if plain > known + max(POINTS, 1 / N) + 1e-9:
        raised = [finding.check for finding in audit(function, x, y, THREAT, key=KEY).verdict.findings]
        assert set(raised) - {"too few examples"}


def left(model, x, y):
    """The robust accuracy under the standard suite."""
    return evaluate_suite(model, "standard", THREAT, x, y, evaluate_clean(model, x, y, KEY), KEY).accuracy

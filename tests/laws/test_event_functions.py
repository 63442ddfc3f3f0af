"""Laws of functions of whole events, of which nothing but the answers is known.

They are asked about whole events only, and the number is that of the model that they were made of.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
import spikeproof.experiments.run.compute as compute
from spikeproof.auditing.assess import assess
from spikeproof.auditing.signoff import audit
from spikeproof.command.cli import cli
from spikeproof.decoders import decide
from spikeproof.evaluation.asking.leaks import LeakError
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean

sys.path.insert(0, str(Path(__file__).parent))
from exhaustive import LINES, T, tiny
from shortened import brief_suites

THREATS = [sp.Flips(2), sp.Flips(2, most=3), sp.Shifts(2), sp.Shifts(2, measure="delay")]
KEY, N = sp.Key.of(3), 40


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    with brief_suites({"queries": 70, "steps": 6, "restarts": 2, "refine": 10}, compute):
        yield


class Whole(torch.nn.Module):
    """A network of events that refuses everything but whole events, as a foreign one would not."""

    def __init__(self):
        super().__init__()
        self.net = tiny(sp.Count(), 1, binary=False)

    def forward(self, x):
        assert bool(((x >= 0) & (x == x.round())).all()), "asked about fractions of events"
        return self.net(x)


MODEL = Whole().eval()
X = (KEY.fold("trains").uniform((N, T, LINES, 1, 1)) < 0.3).float()
Y = decide(MODEL(X)).clamp(min=0)


@pytest.mark.parametrize("threat", THREATS, ids=repr)
def test_a_function_of_events_has_the_number_and_the_verdict_of_its_model(threat):
    function, own = (audit(each, X, Y, threat, key=KEY) for each in (lambda z: MODEL(z), MODEL.net))
    assert (function.accuracy, function.verdict.verdict) == (own.accuracy, own.verdict.verdict)
    assert audit(MODEL, X, Y, threat, key=KEY).accuracy == own.accuracy
    assert 0 <= own.accuracy < 1


def test_every_way_to_a_number_asks_about_whole_events_only():
    threat = sp.Flips(2)
    (seen,) = assess(lambda z: MODEL(z), [sp.SpikeSearch(steps=3)], [threat], X, Y, KEY, classes=3)
    found = evaluate_attack(lambda z: MODEL(z), sp.SpikeSearch(steps=3), threat, X, Y)
    assert seen.evidence.diagnostics.again is seen.evidence.diagnostics.failed is None
    assert float(found.right.mean()) < 1


def test_a_function_of_events_that_looks_at_its_company_is_refused_for_that():
    def among(z):
        return MODEL(z) + z.mean() * torch.eye(3)[0]

    with pytest.raises(LeakError, match="every batch"):
        evaluate_clean(among, X, Y, batch_size=64)


def test_counts_of_events_hide_no_look_at_the_company():
    counts, weights = 3 * X, KEY.fold("weights").normal((X[0].numel(), 3))

    def alone(z):
        return z.flatten(1) @ weights

    def among(z):
        return alone(z / (0.5 + z.mean(0)))

    labels = decide(alone(counts))
    assert evaluate_clean(alone, counts, labels, batch_size=64).right.all()
    with pytest.raises(LeakError, match="every batch"):
        evaluate_clean(among, counts, labels, batch_size=64)


PROGRAM = """
import torch, spikeproof as sp

def make_model():
    parts = sp.Events(50), sp.MLP((8,)), sp.LIF(), sp.ATan(), sp.MeanPotential()
    net = sp.ModelSpec(*parts, (20, 1, 1), 10).build(sp.Key.of(0)).eval()
    return lambda events: net(events)
"""


@pytest.mark.parametrize("stored", [False, True])
def test_a_program_that_makes_a_function_of_events_is_measured(tmp_path, stored):
    (tmp_path / "net.py").write_text(PROGRAM)
    asked = [
        "evaluate",
        f"{tmp_path}/net.py:make_model",
        "--dataset",
        "randman",
        "--threat",
        "flips",
        "--epsilon",
        "2",
    ]
    asked += [
        "--examples",
        "20",
        "--suite",
        "quick",
        "--json",
        *(["--out", f"{tmp_path}/out"] if stored else []),
    ]
    done = CliRunner().invoke(cli, asked)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert all(row["verdict"] != "withheld" for row in rows if row["verdict"])
    assert rows

"""The law of unfinished cells: killed after any part and computed on, a cell is the same to the bit."""

import itertools
import sys
from pathlib import Path

import pytest

import spikeproof.evaluation.interim as interim
import spikeproof.experiments.run.compute as compute
import spikeproof.experiments.run.unfinished as unfinished
import spikeproof.learning.checkpoints as checkpoints
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.store import Store
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.tensorfiles import write

sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief_suites

MODEL = """\
models:
  - encoder: {encoder}
    network: {mlp: {hidden: [4]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 2, batch_size: 512}}
examples: 3
"""

CASES = {
    "a deterministic model": (
        """\
attacks:
  - fgsm
  - chosen: {images: 3, attacks: [fgsm, {pgd: {steps: 2}}]}
distances: [{deepfool: {steps: 2}}]
suite: quick
threat: linf
epsilons: [0.5]
probes: [{jitter: {steps: 1}}]
corruptions: [contrast]
severities: [3]
certificates: [ibp]
analyses: [{spikes: {attack: fgsm}}]
draws: 2
""",
        "{latency: {steps: 2}}",
    ),
    "a stochastic model": (
        """\
attacks: [fgsm]
threat: l1
epsilons: [0.5]
certificates: [{bernoulli-smoothing: {choose: 2, draws: 101}}]
analyses: [{spikes: {attack: fgsm, sponge: {steps: 2}}}]
draws: 2
""",
        "{bernoulli: {steps: 2}}",
    ),
}
ALIKE = {"provenance.json", "seconds.json"}
"""Files that say how a cell was computed."""


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """What is said here of suites holds at any length of their members."""
    with brief_suites({"steps": 10, "restarts": 1, "refine": 10, "queries": 50}, compute):
        yield


class Killed(BaseException):
    """A process ends here."""


def study(name):
    text, encoder = CASES[name]
    return study_of(parse(f"name: law\ndata: digits\n{MODEL.replace('{encoder}', encoder)}{text}", "s.yaml"))


@pytest.fixture(params=list(CASES))
def case(request, tmp_path, monkeypatch):
    for module in (compute, unfinished):
        monkeypatch.setattr(module, "SECONDS_AT_RISK", -1.0)
    monkeypatch.setattr(unfinished, "SECONDS_OF_A_BLOCK", 0.0)
    chosen = study(request.param)
    data = chosen.data.load(None)
    return cells_of(chosen, data), {data.sha256: data}, tmp_path


def test_every_kind_of_cell_has_a_case():
    chosen = study("a deterministic model")
    assert {cell.kind for cell in cells_of(chosen, chosen.data.load(None))} == {*CellKind}


def test_a_cell_that_is_killed_again_and_again_is_the_same_to_the_bit(case, monkeypatch):
    cells, data, root = case
    store = Store(root)
    for cell in cells:
        wanted = Bench(root, None, "cpu", 2, datasets=dict(data))(cell, lambda progress: None)
        for state in (root / "checkpoints").iterdir():
            state.unlink()
        found, kills = killed_and_again(cell, data, root, monkeypatch)
        assert kills, cell.kind
        assert found.keys() == wanted.keys()
        for name in wanted.keys() - ALIKE:
            assert untimed(found[name]) == untimed(wanted[name]), (cell.kind, name)
        store.put(cell.address, wanted)


def killed_and_again(cell, data, root, monkeypatch):
    """The files of a cell whose process ends at its first, second or third saving, and how often it ended."""
    kills = 0
    while True:
        with monkeypatch.context() as patch:
            dying(patch, 1 + kills % 3)
            try:
                return Bench(root, None, "cpu", 2, datasets=dict(data))(cell, lambda progress: None), kills
            except Killed:
                kills += 1


def dying(patch, saves):
    """End the process after it has saved something so many times."""
    counted = itertools.count(1)

    def written(path, content):
        write(path, content)
        if next(counted) == saves:
            raise Killed

    for module in (unfinished, interim, checkpoints):
        patch.setattr(module, "write", written)


def untimed(content):
    """The content of a file without the lines of times."""
    return [line for line in content.splitlines() if b"seconds" not in line]

"""Certificates and suites in a study: from the study file to cells, records and verdicts."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run import compute
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.run.store import Store, as_json
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

TEXT = """\
name: proofs
data: digits
models:
  - encoder: [{direct: {steps: 3}}, {bernoulli: {steps: 2}}]
    network: {mlp: {hidden: [12]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 3, lr: 0.01}}
suite: quick
certificates: [ibp, bins]
epsilons: [0.005, 0.05]
examples: 80
draws: 2
"""


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """What is said here of suites holds at any length of their members."""
    with brief_suites({"steps": 10, "restarts": 1, "refine": 10, "queries": 50}, compute):
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("proofs") / "out", study_of(parse(TEXT, "study.yaml"))
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 40), Serial(), out, Listener())
    assert (summary.total, summary.failed) == (2 * (3 + 2 * (1 + 2)), 0)
    return out


def test_what_is_proved_stands_beside_what_is_left_and_never_above_it(finished):
    worst = [row for row in records(finished) if row["attack"] == WORST_CASE]
    direct, bernoulli = worst[:2], worst[2:]
    assert all(row["certified"] <= row["robust_accuracy"] for row in direct)
    assert direct[0]["certified"] > direct[1]["certified"]
    assert direct[0]["certified"] > 0.3
    assert [row["certified"] for row in bernoulli] == [None, None]
    assert all(row["verdict"] != "withheld" for row in worst)


def test_a_certificate_that_does_not_apply_says_why(finished):
    store = Store(finished)
    cells = [store.find(path.name) for path in (finished / "cells").iterdir()]
    proofs = [cell for cell in cells if cell is not None and cell.cell["kind"] == "certify"]
    reasons = {cell.metrics["reason"] for cell in proofs if cell.metrics["certified"] is None}
    assert reasons == {
        "the encoder is continuous and has no bins",
        "no bounds are known for the encoder Bernoulli",
    }


def test_a_suite_cell_names_the_attack_that_broke_each_example(finished):
    store = Store(finished)
    for path in (finished / "cells").iterdir():
        cell = store.find(path.name)
        if cell is None or cell.cell["kind"] != "attack":
            continue
        members = cell.metrics["members"]
        assert members[-1]["gradient_free"]
        broken = pq.read_table(path / "examples.parquet").column("broken_by").to_numpy()
        assert set(broken) <= set(range(-1, len(members)))
        assert (broken >= 0).any()


def test_a_proof_that_an_attack_refutes_withholds_both(finished, tmp_path):
    """A certificate of everything, planted in the store."""
    out = tmp_path / "out"
    store, planted = Store(out), Store(finished)
    store.prepare()
    (out / "study.json").write_bytes((finished / "study.json").read_bytes())
    for path in (finished / "cells").iterdir():
        files = {p.name: p.read_bytes() for p in path.iterdir() if p.name != "MANIFEST.json"}
        cell = planted.find(path.name)
        if cell.cell["kind"] == "certify" and cell.metrics["certified"] is not None:
            columns = pq.read_table(path / "examples.parquet").to_pydict()
            files["examples.parquet"] = everything(columns)
            files["metrics.json"] = as_json({**json.loads(files["metrics.json"]), "certified": 1.0})
        store.put(path.name, files)
    withheld = [row for row in records(out) if row["verdict"] == "withheld"]
    assert len(withheld) == 2
    assert all("certificate contradicted" in row["warnings"][0] for row in withheld)


def everything(columns):
    file = io.BytesIO()
    pq.write_table(pa.table({**columns, "certified": [True] * len(columns["certified"])}), file)
    return file.getvalue()

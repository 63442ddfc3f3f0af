"""Probes in a study: from the study file to cells, records, tables and the page."""

import csv
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import WORST_CASE, probe_records, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.probes import Jitter, Reversal
from spikeproof.report import page
from spikeproof.report.tables import headlines

TEXT = """\
name: timing
data: digits
models:
  - encoder: [{latency: {steps: 4}}, {bernoulli: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
  - {encoder: {direct: {steps: 1}}, neuron: relu, decoder: mean-potential, rule: {bptt: {epochs: 1}}}
probes: [shuffle, reversal, {jitter: {steps: 1}}, {jitter: {steps: 2}}]
attacks: [fgsm]
epsilons: [0.1]
examples: 30
draws: 3
"""


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("timing") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert (summary.computed, summary.failed) == (3 + 3 + 3 + 8 + 3, 0)
    return out


def test_probes_are_read_from_a_study_file_and_change_no_other_cell():
    assert study().probes[1:3] == (Reversal(), Jitter(1))
    data = study().data.load(None)
    without = study(re.sub("probes:.*\n", "", TEXT))
    others = [cell for cell in cells_of(study(), data) if cell.kind != "probe"]
    assert others == cells_of(without, data)
    with pytest.raises(InputError, match=r"study.yaml:8: .*Did you mean 'jitter'"):
        study(TEXT.replace("{jitter: {steps: 1}}", "jittr"))


def test_random_probes_are_drawn_several_times_and_networks_without_time_are_not_probed():
    cells = cells_of(study(), study().data.load(None))
    draws = [(c.spec["probe"]["name"], c.spec["draws"]) for c in cells if c.kind == "probe"]
    assert len(draws) == 8
    assert [d for name, d in draws if name == "reversal"] == [1, 3]  # latency draws nothing, bernoulli does
    assert {d for name, d in draws if name != "reversal"} == {3}


def test_a_probe_record_is_the_mean_over_its_cell_and_the_pairs_with_the_clean_one(finished):
    found = probe_records(finished)
    clean = {row["model"]: row for row in records(finished)}
    assert len(found) == 8
    assert {row["probe"] for row in found} >= {"jitter(steps=1)", "jitter(steps=2)", "shuffle"}
    for row in found:
        right = pq.read_table(f"{row['cell']}/examples.parquet").column("right").to_numpy()
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["clean_accuracy"] == clean[row["model"]]["clean_accuracy"]
        assert row["lost"] == pytest.approx(row["clean_accuracy"] - row["accuracy"])
        assert row["lost_low"] <= row["lost"] + 1e-9
        assert row["lost"] <= row["lost_high"] + 1e-9
        above = row["clean_accuracy"] - 0.1
        assert row["timing_share"] == (pytest.approx(row["lost"] / above) if above > 0 else None)
        assert set(np.unique(np.round(right * row["draws"], 5))) <= {0.0, 1.0, 2.0, 3.0}


def test_probes_keep_input_spikes_and_have_no_part_in_the_worst_case(finished):
    attacks = {row["attack"] for row in records(finished)}
    assert attacks == {"fgsm", WORST_CASE}
    assert all(len(row.worst) == 1 for row in headlines(records(finished)))


def test_probes_stand_in_page_table_figure_and_terminal(finished):
    path = page.write(finished, records(finished)[:2], probe_records(finished))
    text = path.read_text()
    assert 'id="timing"' in text
    assert 'id="figure-probes"' in text
    rows = list(csv.DictReader((finished / "probes.csv").read_text().splitlines()))
    assert [row["probe"] for row in rows] == [row["probe"] for row in probe_records(finished)]
    for row in probe_records(finished):
        assert f"#cell-{row['cell'].rpartition('/')[2]}" in text
    assert (finished / "figures" / "probes.pdf").exists()
    assert "probe · reversal" in text

    shown = CliRunner().invoke(cli, ["show", str(finished)])
    assert shown.exit_code == 0
    assert "when a timing probe changes the spike" in shown.output
    told = CliRunner().invoke(cli, ["show", str(finished), "--probes", "--json"])
    assert json.loads(told.output) == json.loads(json.dumps(probe_records(finished)))

"""Early exits in a study: from the study file to training, records, tables, figures and the page."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.datasets import Digits
from spikeproof.decoders import ConfidenceExit, Count, Stacked
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.experiments.read.labels import labels
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import CrossEntropy, DeepSupervision
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.report import page, tables
from spikeproof.surrogates import ATan

TEXT = """\
name: exits
data: digits
models:
  - encoder: {direct: {steps: 4}}
    network: {mlp: {hidden: [16]}}
    neuron: {lif: {threshold: 0.5}}
    decoder:
      - count
      - {fixed-exit: {decoder: count, steps: 2}}
      - {confidence-exit: {decoder: count, threshold: 0.2}}
      - {margin-exit: {decoder: {stacked: {decoders: [count, first-spike], weights: [1.0, 0.5]}}}}
      - {voting: {decoder: count, neurons: 2}}
    rule: {bptt: {epochs: 2, loss: {deep-supervision: {decoder: count}}}}
  - encoder: {latency: {steps: 4}}
    network: {mlp: {hidden: [16]}}
    decoder: [{first-spike-exit: {decoder: first-spike}}, {membrane-ties: {decoder: first-spike}}]
    rule: {bptt: {epochs: 1, loss: spike-latency-3}}
attacks: [{pgd: {steps: 3}}, noise]
epsilons: [0.004]
examples: 30
"""


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("exits") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert summary.failed == 0
    return out


def test_decoders_and_losses_are_read_from_a_study_file():
    decoders = [model.decoder for model in study().models]
    assert decoders[2] == ConfidenceExit(Count(), 0.2)
    assert isinstance(decoders[3].decoder, Stacked)
    assert study().models[0].rule.loss == DeepSupervision(Count())
    with pytest.raises(InputError, match=r"study.yaml:10: .*threshold in \(0, 1\]"):
        study(TEXT.replace("threshold: 0.2", "threshold: 1.5"))


def test_a_decoder_is_named_with_what_is_inside():
    count = {"name": "count"}
    found = labels([{"name": "fixed-exit", "decoder": count, "steps": s} for s in (1, 2)])
    assert list(found.values()) == ["fixed-exit(count)(steps=1)", "fixed-exit(count)(steps=2)"]
    stacked = {"name": "stacked", "decoders": [count, {"name": "first-spike"}], "weights": []}
    assert list(labels([stacked]).values()) == ["stacked(count+first-spike)"]


def test_records_hold_the_mean_exit_and_the_curve_that_their_cells_measured(finished):
    rows = {row["decoder"]: row for row in records(finished) if row["attack"] == WORST_CASE}
    assert len(rows) == 7
    for row in rows.values():
        clean = pq.read_table(f"{row['clean_cell']}/examples.parquet")
        assert row["mean_exit"] == pytest.approx(clean.column("exit").to_numpy().mean())
        assert len(row["accuracy_by_step"]) == row["steps"] == 4
        assert row["accuracy_by_step"][-1] == row["clean_accuracy"]
        assert 1 <= row["adversarial_mean_exit"] <= 4
    assert rows["count"]["mean_exit"] == rows["voting(count)"]["adversarial_mean_exit"] == 4
    assert rows["fixed-exit(count)"]["mean_exit"] == 2
    assert 1 < rows["confidence-exit(count)"]["mean_exit"] < 4
    assert rows["fixed-exit(count)"]["accuracy_by_step"][1] == rows["fixed-exit(count)"]["clean_accuracy"]


def test_the_audit_asks_for_attacks_at_other_exits_where_outputs_have_a_say_in_them(finished):
    worst = {row["decoder"].split("(")[0]: row for row in records(finished) if row["attack"] == WORST_CASE}
    asked = {
        name
        for name, row in worst.items()
        if any(text.startswith("one exit attacked") for text in row["warnings"])
    }
    dynamic = {"confidence-exit", "margin-exit", "first-spike-exit"}
    assert asked == {name for name in dynamic if worst[name]["robust_accuracy"] > 0.025}  # else it is near 0
    assert asked >= {"confidence-exit", "margin-exit"}


def test_exits_stand_in_page_figure_table_latex_and_json(finished):
    found = records(finished)
    text = page.write(finished, found).read_text()
    assert 'id="figure-exits"' in text
    assert ">exit</th>" in text
    assert (finished / "figures" / "exits.pdf").exists()
    rows = list(csv.DictReader((finished / "table.csv").read_text().splitlines()))
    assert [float(row["mean_exit"]) for row in rows] == pytest.approx([row["mean_exit"] for row in found])
    curve = [float(value) for value in rows[0]["accuracy_by_step"].split("; ")]
    assert curve == pytest.approx(found[0]["accuracy_by_step"])
    early = next(row["mean_exit"] for row in found if row["decoder"].startswith("confidence"))
    assert f"& {early:.2f} " in tables.to_latex(found)
    told = CliRunner().invoke(cli, ["show", str(finished), "--json"])
    assert json.loads(told.output) == json.loads(json.dumps(found))
    shown = CliRunner().invoke(cli, ["show", str(finished)]).output
    assert f"{early:.2f}" in shown


def test_a_study_without_exits_has_no_figure_of_them(finished):
    waited = [row for row in records(finished) if row["decoder"] == "count"]
    assert 'id="figure-exits"' not in page.write(finished, waited).read_text()


def test_a_store_from_before_exits_were_measured_still_has_its_numbers(finished):
    rows = [
        {**row, "mean_exit": None, "adversarial_mean_exit": None, "accuracy_by_step": []}
        for row in records(finished)
    ]
    text = page.write(finished, rows).read_text()
    assert 'id="figure-exits"' not in text
    assert tables.MISSING in text


def test_deep_supervision_makes_early_answers_right_and_costs_little_at_the_end():
    data, found = Digits().load(None), {}
    for loss in (CrossEntropy(), DeepSupervision(Count())):
        spec = ModelSpec(Direct(6), MLP((24,)), LIF(), ATan(), Count(), (1, 8, 8), 10)
        model = spec.build(Key.of(0))
        BPTT(epochs=6, lr=0.005, loss=loss).train(model, data, Key.of(0))
        images, y = data.test.images.float(), data.test.labels
        found[type(loss)] = evaluate_clean(model, images, y, Key.of(1)).metrics()["accuracy_by_step"]
    plain, deep = found.values()
    assert sum(deep[:3]) > sum(plain[:3]) + 0.1
    assert deep[-1] > plain[-1] - 0.05

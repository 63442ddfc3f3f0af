"""Which model is more robust: sentences that are printed only where they hold."""

import numpy as np
import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.driver as running
from spikeproof.command.cli import cli
from spikeproof.experiments.read.comparisons import comparisons
from spikeproof.experiments.read.results import WORST_CASE, outcomes, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report import page
from spikeproof.statistics import holm, mcnemar

STUDY = """\
name: pairs
data: digits
models:
  - encoder: [{direct: {steps: 3}}, {latency: {steps: 4}}, {quantised-direct: {steps: 3}}]
    network: {mlp: {hidden: [24]}}
    decoder: [mean-potential, count]
    rule: {bptt: {epochs: 3, lr: 0.02}}
attacks: [{pgd: {steps: 5}}, {noise: {draws: 3}}]
epsilons: [0.05, 0.15]
examples: 60
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    place = tmp_path_factory.mktemp("pairs")
    chosen = study_of(parse(STUDY, "study.yaml"))
    bench = Bench(place, None, "cpu", chosen.batch_size)
    cells = cells_of(chosen, chosen.data.load(None))
    running.run(chosen.name, chosen.spec(), cells, bench, Serial(), place, running.Listener())
    return place


def worst(rows):
    return {
        (row["encoder"], row["decoder"], row["epsilon"]): row for row in rows if row["attack"] == WORST_CASE
    }


def test_outcomes_are_those_that_the_worst_case_was_counted_from(store):
    rows = records(store)
    for row in worst(rows).values():
        right, examples = outcomes(store, row, rows)
        assert right.mean() == pytest.approx(row["robust_accuracy"])
        assert len(set(examples)) == row["n"] == 60


def test_pairs_differ_in_one_part_and_are_tested_as_by_hand(store):
    rows = records(store)
    pairs, headline = comparisons(store, rows), worst(rows)
    used = [row for row in headline.values() if row["verdict"] != "withheld"]
    assert pairs
    by_hand = []
    for pair in pairs:
        at = pair["epsilon"]
        if pair["part"] == "encoder":
            a, b = (headline[pair[side], pair["others"], at] for side in ("first", "second"))
        else:
            a, b = (headline[pair["others"], pair[side], at] for side in ("first", "second"))
        assert a in used
        assert b in used
        assert pair["difference"] == pytest.approx(a["robust_accuracy"] - b["robust_accuracy"])
        assert pair["difference"] >= 0
        assert pair["p_value"] == mcnemar(outcomes(store, a, rows)[0], outcomes(store, b, rows)[0])
        by_hand.append(pair["p_value"])
        assert ("is more robust than" in pair["sentence"]) == pair["shown"]
        assert ("no difference shown" in pair["sentence"]) != pair["shown"]
        assert pair["shown"] == (pair["adjusted"] <= 0.05 and pair["ci_low"] > 0)
        doubtful = [row[pair["part"]] for row in (a, b) if row["verdict"] == "doubtful"]
        assert pair["doubtful"] == doubtful
        assert ("doubtful" in pair["sentence"]) == bool(doubtful)
    assert np.allclose(
        [pair["adjusted"] for pair in pairs], holm(by_hand)
    )  # groups so small that all are printed


def test_withheld_numbers_are_left_out_of_comparisons(store):
    rows = records(store)
    name = rows[0]["encoder"]
    for row in rows:
        if row["attack"] == WORST_CASE and row["encoder"] == name:
            row["verdict"] = "withheld"
    assert all(
        name not in (pair["first"], pair["second"], pair["others"]) for pair in comparisons(store, rows)
    )


def test_the_report_and_the_command_line_print_the_sentences(store):
    rows = records(store)
    pairs = comparisons(store, rows)
    text = page.write(store, rows, (), pairs).read_text("utf-8")
    assert 'id="comparisons"' in text
    assert all(pair["sentence"] in text for pair in pairs)
    shown = CliRunner().invoke(cli, ["show", str(store), "--comparisons"])
    assert shown.exit_code == 0
    assert all(pair["sentence"] in shown.output for pair in pairs)
    assert CliRunner().invoke(cli, ["show", str(store), "--comparisons", "--json"]).output.startswith("[")

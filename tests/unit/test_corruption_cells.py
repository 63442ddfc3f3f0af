"""Natural corruptions in a study: from the study file to cells, records, tables and the page."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner

from spikeproof.catalogue.names import PARTS
from spikeproof.catalogue.saved import load
from spikeproof.command.cli import cli
from spikeproof.corruptions import Contrast, Corruption, GaussianCorruption, Occlusion
from spikeproof.datasets import ClassProportional, Digits, floats
from spikeproof.errors import InputError
from spikeproof.evaluation.verdicts import evaluate_clean, evaluate_corrupted
from spikeproof.experiments.read.gathered.corrupted import (
    _Errors,
    _ratio,
    corruption_errors,
    corruption_records,
)
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import load as study_named
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.report.page import Corrupted, write

TEXT = """\
name: weather
data: digits
models:
  - encoder: [{latency: {steps: 4}}, {bernoulli: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 1, batch_size: 256}}
  - {encoder: {direct: {steps: 1}}, neuron: relu, decoder: mean-potential, rule: {bptt: {epochs: 1}}}
corruptions: [contrast, gaussian-noise, {occlusion: {grey: 1.0}}]
severities: [5, 1]
baseline: {neuron: relu}
examples: 30
draws: 3
"""


PAGE = Path(__file__).parents[2] / "docs" / "corruptions.md"


def test_the_study_of_the_page_is_a_study_and_a_built_in_one_has_every_corruption_of_images():
    text = PAGE.read_text("utf-8").partition("```yaml\n")[2].partition("```")[0]
    chosen = study(text)
    assert (len(chosen.models), len(chosen.corruptions), chosen.severities) == (3, 4, (1, 3, 5))
    built_in = study_named("corruptions")
    assert len(built_in.corruptions) == 16
    assert built_in.baseline == built_in.models[2]


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("weather") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert (summary.computed, summary.failed) == (3 + 3 + 3 * 3 * 2, 0)
    return out


def test_corruptions_are_read_from_a_study_file_and_change_no_other_cell():
    chosen = study()
    assert chosen.corruptions == (Contrast(), GaussianCorruption(), Occlusion(grey=1.0))
    assert chosen.severities == (1, 5)
    data = chosen.data.load(None)
    without = study(TEXT.replace(TEXT[TEXT.index("corruptions:") : TEXT.index("examples")], ""))
    others = [cell for cell in cells_of(chosen, data) if cell.kind != "corrupt"]
    assert others == cells_of(without, data)
    groups = study(TEXT.replace("[contrast, gaussian-noise, ", "[images, jpeg, "))
    assert len(groups.corruptions) == 16 + 1
    assert study(TEXT.replace("severities: [5, 1]\n", "")).severities == (1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[5, 1]", "[0]", r"study.yaml:9: A severity is a whole number from 1 to 5: got 0"),
        ("[5, 1]", "[6]", r"study.yaml:9: .*got 6"),
        ("[5, 1]", "[true]", "study.yaml:9: .*got True"),
        ("[5, 1]", "[]", "study.yaml:9: expected at least one severity"),
        ("contrast", "contrst", r"study.yaml:8: .*Did you mean 'contrast'"),
        ("contrast", "{contrast: {levels: [1, 2, 3]}}", r"study.yaml:8: "),
        ("contrast", "{contrast: {levels: [0.1, 0.2, 0.3, 0.4, 0.5]}}", "study.yaml:8: .*five levels"),
        ("{neuron: relu}", "{neuron: softplus}", "study.yaml:10: .*got parts of 0 models"),
        ("{neuron: relu}", "{neuron: lif}", "study.yaml:10: .*got parts of 2 models"),
        ("{neuron: relu}", "relu", "study.yaml:10: "),
        ("{neuron: relu}", "{nuron: relu}", "study.yaml:10: .*Did you mean 'neuron'"),
    ],
)
def test_faults_of_a_study_file_are_named_with_their_line(old, new, message):
    with pytest.raises(InputError, match=message):
        study(TEXT.replace(old, new))


def test_a_corruption_that_does_not_fit_the_data_is_refused_before_any_training():
    wrong = study(TEXT.replace("contrast", "event-drops"))
    with pytest.raises(InputError, match=r"study.yaml:8: EventDrops changes recordings of events"):
        cells_of(wrong, wrong.data.load(None))


def test_a_group_stands_for_the_corruptions_that_the_data_allow_and_what_is_named_must_fit():
    """Spikes of grey images have one polarity, so there is none to drop or to flip."""
    text = """\
name: events
data: {coded: {data: digits, code: {latency: {steps: 3}}}}
models: [{encoder: {events: {steps: 3}}, network: {mlp: {hidden: [4]}}}]
corruptions: [events]
severities: [2]
"""
    chosen = study(text)
    data = chosen.data.load(None)
    planned = [cell.spec["corruption"]["name"] for cell in cells_of(chosen, data) if cell.kind == "corrupt"]
    everything = {name for name, each in PARTS[Corruption].items() if each.EVENTS}
    assert {*planned} == everything - {"polarity-flips", "polarity-drops"}
    for wrong in ("[events, polarity-flips]", "[polarity-flips]", "[images]"):
        other = study(text.replace("[events]", wrong))
        with pytest.raises(InputError, match=r"study.yaml:4: "):
            cells_of(other, data)


def test_a_record_is_the_mean_over_its_cell_and_the_pairs_with_the_clean_one(finished):
    found = corruption_records(finished)
    clean = {row["model"]: row for row in records(finished)}
    assert len(found) == 18
    assert {row["corruption"] for row in found} == {"contrast", "gaussian-noise", "occlusion"}
    for row in found:
        right = pq.read_table(f"{row['cell']}/examples.parquet").column("right").to_numpy()
        assert row["accuracy"] == pytest.approx(right.mean())
        assert row["clean_accuracy"] == clean[row["model"]]["clean_accuracy"]
        assert row["lost"] == pytest.approx(row["clean_accuracy"] - row["accuracy"])
        assert row["lost_low"] <= row["lost"] + 1e-9
        assert row["lost"] <= row["lost_high"] + 1e-9


def test_a_stored_number_is_what_the_function_of_the_package_gives(finished):
    row = next(row for row in corruption_records(finished) if row["corruption"] == "occlusion")
    part = ClassProportional()(Digits().load(None).test, 30)
    model = load(row["model"])
    for batch_size in (7, 30):
        found = evaluate_corrupted(
            model,
            floats(part.images),
            part.labels,
            Occlusion(grey=1.0),
            row["severity"],
            Key.of(0).fold("evaluation"),
            ids=part.ids,
            batch_size=batch_size,
            draws=3,
        )
        assert found.metrics()["clean_accuracy"] == row["accuracy"]


def test_mean_corruption_errors_are_the_published_formulas(finished):
    rows, errors = corruption_records(finished), corruption_errors(finished)
    base = next(row for row in errors if row["neuron"] == "relu")
    assert base["normalised"] == pytest.approx(1)
    assert base["relative"] is None or base["relative"] == pytest.approx(1)

    def mean(model, corruption):
        return np.mean(
            [1 - r["accuracy"] for r in rows if r["model"] == model and r["corruption"] == corruption]
        )

    names = ("contrast", "gaussian-noise", "occlusion")
    for row in errors:
        own = [mean(row["model"], name) for name in names]
        there = [mean(base["model"], name) for name in names]
        assert row["error"] == pytest.approx(np.mean(own))
        assert row["error_low"] <= row["error"] <= row["error_high"]
        assert row["normalised"] == pytest.approx(np.mean(np.array(own) / there))
        less, least = 1 - row["clean_accuracy"], 1 - base["clean_accuracy"]
        beyond = np.array(there) - least
        wanted = np.mean((np.array(own) - less) / beyond) if (beyond > 0).all() else None
        assert row["relative"] == (None if wanted is None else pytest.approx(wanted))
        assert (row["corruptions"], row["severities"], row["missing"]) == (3, 2, [])


def errors_of(clean, **means):
    """Errors of a model on one image, by corruption and severity."""
    found = {(name, i): np.array([error]) for name, each in means.items() for i, error in enumerate(each)}
    return _Errors({}, clean, found, [])


def test_relative_errors_are_those_beyond_the_clean_errors_of_each_model():
    own, base = (
        errors_of(0.1, fog=(0.3, 0.5), jpeg=(0.2, 0.2)),
        errors_of(0.2, fog=(0.4, 0.8), jpeg=(0.3, 0.5)),
    )
    assert _ratio(own, base, clean=False) == pytest.approx((0.4 / 0.6 + 0.2 / 0.4) / 2)
    assert _ratio(own, base, clean=True) == pytest.approx((0.3 / 0.4 + 0.1 / 0.2) / 2)
    assert _ratio(own, errors_of(0.2, fog=(0.4, 0.8), jpeg=(0.2, 0.2)), clean=True) is None


def test_a_missing_cell_leaves_a_dash_and_is_named(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    base = next(row for row in corruption_errors(out) if row["neuron"] == "relu")
    gone = next(r for r in corruption_records(out) if r["model"] == base["model"] and r["severity"] == 5)
    shutil.rmtree(gone["cell"])
    for row in corruption_errors(out):
        own = row["model"] == base["model"]
        assert (row["error"] is None) == own
        assert row["normalised"] is None
        name = f"{gone['corruption']} 5"
        assert row["missing"] == [name if own else f"the baseline under {name}"]
    shown = CliRunner().invoke(cli, ["show", str(out)])
    assert shown.exit_code == 0
    assert f"Not finished: the baseline under {gone['corruption']} 5" in shown.output


def test_corruptions_stand_in_page_table_figure_and_terminal(finished):
    found = Corrupted(corruption_records(finished), corruption_errors(finished))
    text = write(finished, records(finished), corrupted=found).read_text()
    assert 'id="corruptions"' in text
    assert 'id="figure-corruptions"' in text
    rows = list(csv.DictReader((finished / "corruptions.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [row["accuracy"] for row in found.records]
    rows = list(csv.DictReader((finished / "corruption-errors.csv").read_text().splitlines()))
    assert [float(row["normalised"]) for row in rows] == [row["normalised"] for row in found.errors]
    for row in found.records:
        assert f"#cell-{row['cell'].rpartition('/')[2]}" in text
    assert "occlusion 5" in text
    write(finished, records(finished))
    assert not (finished / "corruptions.csv").exists()

    shown = CliRunner().invoke(cli, ["show", str(finished)])
    assert shown.exit_code == 0
    assert "under natural corruptions by severity" in shown.output
    assert "relative mCE" in shown.output
    told = CliRunner().invoke(cli, ["show", str(finished), "--corruptions", "--json"])
    lists = json.loads(told.output)
    assert lists["corruptions"] == json.loads(json.dumps(corruption_records(finished)))
    assert lists["corruption_errors"] == json.loads(json.dumps(corruption_errors(finished)))


def test_the_outcome_is_that_of_the_corrupted_images_and_no_other():
    x, y = torch.eye(4).view(4, 1, 2, 2) * 0.2 + 0.4, torch.arange(4)
    seen = []

    def model(images):
        seen.append(images)
        return images.flatten(1)

    found = evaluate_corrupted(model, x, y, GaussianCorruption(), 5, Key.of(1))
    draw = Key.of(1).fold("corruption", "GaussianCorruption").for_rows(range(4))
    changed = GaussianCorruption()(x, 5, draw)
    assert torch.equal(found.right, evaluate_clean(lambda z: z.flatten(1), changed, y).right)
    assert any(torch.equal(images[:4], changed) for images in seen)
    with pytest.raises(InputError, match="severity"):
        evaluate_corrupted(model, x, y, GaussianCorruption(), 0)
    with pytest.raises(InputError, match="Expected a corruption"):
        evaluate_corrupted(model, x, y, "fog", 1)

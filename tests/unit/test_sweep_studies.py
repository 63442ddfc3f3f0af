"""Nested sweeps and distances in a study: chained cells, and marks wherever their numbers are shown."""

import csv
import json
import shutil

import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.driver as running
from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import WORST_CASE, distance_records, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report.page import write

TEXT = """\
name: sweeps
data: digits
models:
  - encoder: direct
    decoder: mean-potential
    network: {mlp: {hidden: [12]}}
    rule: {bptt: {epochs: 6, batch_size: 64, lr: 0.01}}
attacks: [fgsm, {noise: {draws: 2}}]
suite: quick
distances: [deepfool]
threat: [linf, l2]
epsilons: [0.02, 0.06, 0.04]
sweep: nested
examples: 30
"""


def cells(text=TEXT):
    study = study_of(parse(text, "study.yaml"))
    return cells_of(study, study.data.load(None))


def run(out, text=TEXT):
    study = study_of(parse(text, "study.yaml"))
    bench = Bench(out, None, "cpu", study.batch_size)
    return running.run(study.name, study.spec(), cells(text), bench, Serial(), out, running.Listener())


SMALL = TEXT.replace("suite: quick\n", "").replace("threat: [linf, l2]", "threat: linf")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps") / "out"
    summary = run(out, SMALL)
    assert (summary.total, summary.failed, summary.blocked) == (10, 0, 0)
    return out


def test_a_nested_sweep_is_a_chain_from_the_smallest_budget_and_a_suite_is_none():
    attacks = {cell.address: cell.spec for cell in cells() if cell.kind == "attack"}
    for spec in attacks.values():
        if spec["attack"]["name"] == "suite":
            assert "smaller" not in spec
        elif spec["epsilon"] == 0.02:
            assert spec["smaller"] is None
        else:
            before = attacks[spec["smaller"]]
            assert before["epsilon"] == {0.04: 0.02, 0.06: 0.04}[spec["epsilon"]]
            assert (before["attack"], before["threat"]) == (spec["attack"], spec["threat"])
    afresh = [cell.spec for cell in cells(TEXT.replace("nested", "afresh")) if cell.kind == "attack"]
    assert len(afresh) == len(attacks)
    assert not any("smaller" in spec for spec in afresh)
    default = cells(TEXT.replace("sweep: nested\n", ""))
    assert default == cells(TEXT.replace("nested", "afresh"))


MANY = TEXT.replace("[linf, l2]", "[linf, l2, l1]").replace("suite: quick\n", "")
MANY = MANY.replace("[deepfool]", "[deepfool, {sparse-fool: {steps: 2}}]")


def test_distances_are_asked_for_in_every_norm_that_a_search_knows():
    found = [
        (cell.spec["attack"]["name"], cell.spec["threat"]["name"])
        for cell in cells(MANY)
        if cell.kind == "distance"
    ]
    assert found == [("deepfool", "linf"), ("deepfool", "l2"), ("sparse-fool", "l1")]
    alone = TEXT.replace("attacks: [fgsm, {noise: {draws: 2}}]\nsuite: quick\n", "")
    alone = alone.replace("epsilons: [0.02, 0.06, 0.04]\n", "")
    assert [cell.kind for cell in cells(alone)] == ["train", "clean", "distance", "distance"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sweep: nested", "sweep: nest", "study.yaml:13: expected afresh or nested"),
        ("deepfool", "pgd", "study.yaml:10: A distance needs a search for the nearest image"),
        ("deepfool", "carlini-wagner", "study.yaml:10: CarliniWagner is defined for the threats L2"),
        ("deepfool", "deepfooll", "study.yaml:10: .*Did you mean 'deepfool'"),
    ],
)
def test_impossible_attacks_are_refused_with_their_line_in_the_study(old, new, message):
    with pytest.raises(InputError, match=message):
        cells(TEXT.replace("[linf, l2]", "linf").replace(old, new))


def test_numbers_of_a_nested_sweep_are_marked_wherever_they_are_shown(finished):
    rows = records(finished)
    for row in rows:
        assert row["nested"] == (row["epsilon"] > 0.02)
        assert row["attack"] == WORST_CASE or row["attack"].endswith(", nested")
    worst = [row for row in rows if row["attack"] == WORST_CASE]
    assert [any(text.startswith("nested budgets") for text in row["warnings"]) for row in worst] == [
        False,
        True,
        True,
    ]
    accuracies = [row["robust_accuracy"] for row in worst]
    assert accuracies == sorted(accuracies, reverse=True)
    page = write(finished, rows, distances=distance_records(finished)).read_text()
    assert page.count(">nested</a>") == 4  # at the head and in the results
    assert "<dt>nested</dt>" in page
    assert "nested" in (finished / "table.tex").read_text()
    with (finished / "table.csv").open() as file:
        assert [row["nested"] for row in csv.DictReader(file)] == [str(row["nested"]) for row in rows]
    shown = CliRunner().invoke(cli, ["show", str(finished)]).output
    assert shown.count("? nested") == 2
    assert "Nested: each budget began with" in shown


def test_distances_are_shown_with_share_and_interval(finished):
    (row,) = distance_records(finished)
    found = row["found"]
    assert 0.9 < found <= 1
    assert (row["attack"], row["threat"], row["found"]) == ("deepfool", "linf", found)
    assert 0 < row["median_low"] <= row["median"] <= row["median_high"] < 0.5
    assert row["counted"] == round(row["clean_accuracy"] * row["n"])
    found = CliRunner().invoke(cli, ["show", str(finished), "--distances", "--json"])
    assert json.loads(found.output) == [row]
    shown = CliRunner().invoke(cli, ["show", str(finished), "--distances"]).output
    assert f"{row['median']:.3g} [" in shown
    assert f"found on {100 * row['found']:.1f} %" in shown
    page = write(finished, records(finished), distances=[row]).read_text()
    assert "How far the nearest adversarial images are" in page
    assert f"{row['median']:.3g} <small>[" in page
    with (finished / "distances.csv").open() as file:
        (line,) = csv.DictReader(file)
    assert float(line["median"]) == row["median"]


def test_a_headline_that_distances_contradict_is_doubtful(finished):
    """Noise and FGSM leave standing what DeepFool broke within the budget."""
    worst = {row["epsilon"]: row for row in records(finished) if row["attack"] == WORST_CASE}
    found = {
        eps: [t for t in each["warnings"] if t.startswith("nearer image known")]
        for eps, each in worst.items()
    }
    assert any(found.values())
    assert all(each["verdict"] == "doubtful" for epsilon, each in worst.items() if found[epsilon])


def test_a_link_of_the_chain_that_is_lost_is_computed_again(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    chain = [cell for cell in cells(SMALL) if cell.kind == "attack" and cell.spec["attack"]["name"] == "fgsm"]
    assert [cell.spec["epsilon"] for cell in chain] == [0.02, 0.04, 0.06]
    for cell in chain[:2]:
        shutil.rmtree(out / "cells" / cell.address)
    wanted = [(row["attack"], row["epsilon"], row["robust_accuracy"]) for row in records(finished)]
    assert run(out, SMALL).computed == 2
    assert [(row["attack"], row["epsilon"], row["robust_accuracy"]) for row in records(out)] == wanted

"""The grid of transfers: from one line of a study to the table of `show`, JSON, CSV and the page."""

import csv
import json
import shutil

import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.experiments.read.gathered.transfers import transfer_grids
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report.page import write

TEXT = """\
name: grid
data: digits
models:
  - encoder: [{direct: {steps: 2}}, {latency: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 2, lr: 0.01}}
  - {encoder: {direct: {steps: 1}}, neuron: relu, decoder: mean-potential, rule: {bptt: {epochs: 2}}}
attacks: [{transfer-grid: {attack: fgsm}}]
epsilons: [0.05, 0.1]
examples: 40
"""


def study(text=TEXT):
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("grid") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 40), Serial(), out, Listener())
    assert (summary.computed, summary.failed) == (3 * 3 + 2 * 9, 0)
    return out


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("[transfer-grid]", "[pgd, transfer]"),
        ("transfer-grid", "[pgd, transfer]"),
        ("[{transfer-grid: {attack: {fgsm: {}}}}]", "[fgsm, {transfer: {attack: fgsm}}]"),
        ("[{name: transfer-grid, attack: fgsm}]", "[fgsm, {transfer: {attack: fgsm}}]"),
        ("[{transfer-grid: {}}, fgsm]", "[pgd, transfer, fgsm]"),
    ],
)
def test_a_grid_is_short_for_an_attack_and_its_transfers(short, long):
    text = TEXT.replace("[{transfer-grid: {attack: fgsm}}]", "{}")
    assert study(text.replace("{}", short)).attacks == study(text.replace("{}", long)).attacks


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("{transfer-grid: {attack: fgsmm}}", r"study.yaml:8: .*Did you mean 'fgsm'"),
        ("{transfer-grid: {attak: fgsm}}", r"study.yaml:8: .*Did you mean 'attack'"),
        ("{transfer-grid: [fgsm]}", r"study.yaml:8: "),
        ("{transfer-grid: {attack: transfer}}", r"study.yaml:8: "),
    ],
)
def test_faults_of_a_grid_are_named_with_their_line(wrong, message):
    with pytest.raises(InputError, match=message):
        study(TEXT.replace("{transfer-grid: {attack: fgsm}}", wrong))


def test_every_entry_is_the_cell_of_its_pair(finished):
    grids = transfer_grids(finished)
    assert [grid["epsilon"] for grid in grids] == [0.05, 0.1]
    rows = [row for row in records(finished) if row["attack"] != "worst-case"]
    for grid in grids:
        assert (grid["attack"], grid["threat"], grid["seed"], grid["n"]) == ("fgsm", "linf", 0, 40)
        assert len(set(grid["models"])) == 3
        here = [row for row in rows if row["epsilon"] == grid["epsilon"]]
        models = list(dict.fromkeys(row["model"] for row in here))
        for judge, (model, clean) in enumerate(zip(models, grid["clean"], strict=True)):
            mine = [row for row in here if row["model"] == model]
            assert {row["clean_accuracy"] for row in mine} == {clean}
            for source, name in enumerate(grid["models"]):
                wanted = "fgsm" if source == judge else f"transfer(fgsm) from {name}"
                row = next(row for row in mine if row["attack"] == wanted)
                assert grid["accuracy"][source][judge] == row["robust_accuracy"]


def test_a_study_without_every_pair_has_no_grid_and_one_without_the_diagonal_a_dash(tmp_path):
    chosen = study(TEXT.replace("[{transfer-grid: {attack: fgsm}}]", "[{transfer: {attack: fgsm}}]"))
    out, cells = tmp_path / "off", cells_of(chosen, chosen.data.load(None))
    run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 40), Serial(), out, Listener())
    grids = transfer_grids(out)
    assert [grid["epsilon"] for grid in grids] == [0.05, 0.1]
    for grid in grids:
        assert [grid["accuracy"][i][i] for i in range(3)] == [None] * 3
        assert all(grid["accuracy"][i][j] is not None for i in range(3) for j in range(3) if i != j)
    choice = "{transfer: {attack: fgsm, made_on: {those-with: {neuron: relu}}}}"
    chosen = study(TEXT.replace("{transfer-grid: {attack: fgsm}}", choice))
    out = tmp_path / "some"
    shutil.copytree(tmp_path / "off", out)
    run(chosen.name, chosen.spec(), cells_of(chosen, chosen.data.load(None)),
        Bench(out, None, "cpu", 40), Serial(), out, Listener())  # fmt: skip
    assert transfer_grids(out) == []
    shown = CliRunner().invoke(cli, ["show", str(out), "--transfers"])
    assert "does not judge the images of every model on every other one" in shown.output


def test_a_missing_cell_leaves_a_dash(finished, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    gone = next(row for row in records(out) if row["attack"].startswith("transfer"))
    shutil.rmtree(gone["cell"])
    holes = [value for grid in transfer_grids(out) for row in grid["accuracy"] for value in row]
    assert holes.count(None) == 1


def test_the_grid_stands_in_page_csv_figure_and_terminal(finished):
    grids = transfer_grids(finished)
    text = write(finished, records(finished), grids=grids).read_text()
    assert 'id="transfers"' in text
    assert 'id="figure-transfers"' in text
    rows = list(csv.DictReader((finished / "transfers.csv").read_text().splitlines()))
    assert [float(row["accuracy"]) for row in rows] == [
        value for grid in grids for row in grid["accuracy"] for value in row
    ]
    write(finished, records(finished))
    assert not (finished / "transfers.csv").exists()
    shown = CliRunner().invoke(cli, ["show", str(finished)])
    assert shown.exit_code == 0
    assert "of the model above on images made on the model at the left, fgsm, linf 0.1" in shown.output
    told = CliRunner().invoke(cli, ["show", str(finished), "--transfers", "--json"])
    assert json.loads(told.output) == json.loads(json.dumps(grids))

"""The address of a suite's cell depends on its members: with other members it is measured again."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.compute as compute
import spikeproof.experiments.run.driver as running
from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.evaluation import suites
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.repair.repairs import repair_study
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import read_plan
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import Cell, cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report.page import write

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

TEXT = """\
name: members
data: digits
models:
  - encoder: [{direct: {steps: 2}}, {latency: {steps: 3}}]
    network: {mlp: {hidden: [8]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 1, batch_size: 128, lr: 0.01}}
attacks: [fgsm]
suite: quick
epsilons: [0.05]
sweep: nested
examples: 100
"""
ALONE = TEXT.replace("suite: quick\n", "")


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """The addresses of cells depend on their plan, however long its members are."""
    with brief_suites({"steps": 10, "restarts": 1, "refine": 5, "queries": 20}, compute):
        yield


def cells(text=TEXT):
    study = study_of(parse(text, "study.yaml"))
    return cells_of(study, study.data.load(None))


def bench(out):
    return Bench(out, None, "cpu", 100)


def run(out, text=TEXT):
    study = study_of(parse(text, "study.yaml"))
    return running.run(study.name, study.spec(), cells(text), bench(out), Serial(), out, running.Listener())


def audited(out, rounds=1):
    return repair_study(out, bench(out), Serial(), running.Listener(), lambda _: 100, rounds)


@pytest.fixture
def weaker(monkeypatch):
    """Another version of spikeproof, whose quick suite begins with fewer steps."""
    own = suites._quick

    def quick(kind, threat):
        first, *rest = own(kind, threat)
        return [first._replace(recipe=replace(first.recipe, steps=2)), *rest]

    return lambda: monkeypatch.setattr(suites, "_quick", quick)


def suite_cells(text=TEXT):
    return [cell for cell in cells(text) if "plan" in cell.spec]


def test_a_suite_is_addressed_by_its_members_and_nothing_else_is():
    found = suite_cells()
    assert [cell.spec["attack"] for cell in found] == [{"name": "suite", "level": "quick"}] * 2
    assert (
        len({cell.spec["plan"] for cell in found}) == 2
    )  # only a code of levels has the encoder-aware search
    assert [cell for cell in cells() if cell not in found] == cells(ALONE)
    assert not any("smaller" in cell.spec for cell in found)


def test_the_same_plan_keeps_the_address_and_another_has_another(weaker):
    before = cells()
    assert cells() == before
    weaker()
    after = cells()
    assert {cell for cell in before if "plan" not in cell.spec} == {*before} & {*after}
    assert len({*after} - {*before}) == 2
    assert cells(ALONE) == [cell for cell in before if "plan" not in cell.spec]


def test_a_study_measures_a_changed_suite_anew_and_shows_no_old_number(tmp_path, weaker):
    assert (run(tmp_path).computed, run(tmp_path).computed) == (10, 0)
    old = {row["cell"] for row in records(tmp_path) if row["attack"] == "suite quick"}
    weaker()
    assert run(tmp_path).computed == 2
    new = {row["cell"] for row in records(tmp_path) if row["attack"] == "suite quick"}
    assert (len(old), len(new), old & new) == (2, 2, set())


def test_no_name_shows_the_digest(tmp_path):
    run(tmp_path)
    (first, *_), rows = [cell.spec["plan"] for cell in suite_cells()], records(tmp_path)
    assert {row["attack"] for row in rows} == {"fgsm, nested", "suite quick", WORST_CASE}
    write(tmp_path, rows)
    shown = [CliRunner().invoke(cli, ["show", str(tmp_path), *flags]).output for flags in ([], ["--json"])]
    for text in (*shown, *((tmp_path / name).read_text() for name in ("table.csv", "table.tex"))):
        assert first[:8] not in text


def test_what_another_version_planned_is_neither_repaired_nor_computed(tmp_path, weaker):
    run(tmp_path)
    planned = [cell for cell in read_plan(tmp_path)["plan"] if "plan" in cell["spec"]]
    weaker()
    with pytest.raises(InputError, match="attack cells are of another"):
        audited(tmp_path)
    cell = Cell.of("attack", planned[0]["spec"])
    with pytest.raises(InputError, match="suite quick as another version has it"):
        bench(tmp_path)(cell, lambda _: None)
    assert len([row for row in records(tmp_path) if row["attack"] == "suite quick"]) == 2  # as it was


def test_repairs_by_a_suite_that_has_changed_are_left_aside_and_planned_again(tmp_path, weaker):
    text = ALONE.replace(", {latency: {steps: 3}}]", "]").replace("nested", "afresh")
    run(tmp_path, text)
    assert audited(tmp_path).computed > 0
    noted = [cell for cell in read_plan(tmp_path)["repairs"] if "plan" in cell["spec"]]
    assert [cell["spec"]["attack"] for cell in noted] == [{"name": "suite", "level": "standard"}]
    assert audited(tmp_path).computed == 0
    weaker()
    with pytest.raises(InputError, match="attack cells are of another"):
        audited(tmp_path)
    run(tmp_path, text)
    assert not [row for row in records(tmp_path) if row["attack"] == "suite standard"]
    assert audited(tmp_path).computed == 1
    (found,) = (row for row in records(tmp_path) if row["attack"] == "suite standard")
    assert found["cell"].rpartition("/")[2] != noted[0]["address"]
    assert json.loads((tmp_path / "study.json").read_bytes())["replanned"] == [noted[0]["address"]]

"""status, retry, prune, import and `run --dry-run`: what they say of a directory and change in it."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.driver as running
import spikeproof.experiments.run.queue.imports as imports
import spikeproof.experiments.run.queue.survey as survey
import spikeproof.experiments.run.shapes as shapes
from spikeproof.command.campaigns.upkeep import COUNTED
from spikeproof.command.cli import cli
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.run.queue.failures import Failure, Failures
from spikeproof.experiments.run.queue.imports import import_cells
from spikeproof.experiments.run.queue.leases import Leases
from spikeproof.experiments.run.queue.listing import LARGEST_PLAN
from spikeproof.experiments.run.store import Store, as_json
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.files.reader import load
from spikeproof.plainfiles import bytes_of

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import QUICK, Work, cells_of_models, files_of

CELLS = cells_of_models(2, 3)


def call(*arguments, status=0):
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == status, (result.output, result.exception)
    return " ".join(result.output.split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("upkeep") / "whole"
    running.run("made", {}, CELLS, Work(root), Serial(), root, running.Listener(), QUICK)
    return root


@pytest.fixture
def place(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "out")


def without(place, *numbers):
    for number in numbers:
        shutil.rmtree(Store(place).path(CELLS[number].address))
    return place


def state_of(place):
    return {p.relative_to(place): p.read_bytes() for p in place.rglob("*") if p.is_file()}


# --- status --------------------------------------------------------------------------------------------


def test_every_cell_is_counted_once_under_what_it_is(place):
    without(place, 1, 2, 3)
    Failures(place).note(CELLS[1].record(), Failure("OSError: busy", aside=False))
    Failures(place).note(CELLS[2].record(), Failure("ValueError: odd"))
    (place / "leases").mkdir(exist_ok=True)
    lease = Leases(place, "somebody").take(CELLS[3].address)
    assert lease is not None
    found = json.loads(call("status", place, "--json"))
    lease.release()
    kinds = found["kinds"]
    assert kinds["train"] == dict(zip(COUNTED, (2, 2, 0, 0, 0, 0), strict=True))
    assert kinds["inspect"] == dict(zip(COUNTED, (6, 3, 1, 1, 1, 0), strict=True))
    assert [each["address"] for each in found["running"]] == [CELLS[3].address]
    assert {each["address"]: each["aside"] for each in found["failed"]} == {
        CELLS[1].address: False,
        CELLS[2].address: True,
    }
    words = call("status", place)
    assert "inspect 3 of 6 (1 failed, 1 set aside, 1 waiting)" in words
    assert "ValueError: odd" in words


def test_damage_is_found_where_cells_are_verified(place):
    (Store(place).path(CELLS[1].address) / "metrics.json").write_text("{}")
    assert len(json.loads(call("status", place, "--json"))["damaged"]) == 1
    assert "damaged, will be computed again" in call("status", place, "--verify")
    assert json.loads(call("status", place, "--json", "--quick"))["damaged"] is None


def test_a_watch_ends_with_the_study_and_prints_one_object_per_line(place):
    result = CliRunner().invoke(cli, ["status", str(place), "--watch", "--json", "--every", "0.1"])
    (line,) = result.output.splitlines()
    assert json.loads(line)["kinds"]["train"]["done"] == 2


def test_a_watch_prints_what_has_changed(place, monkeypatch):
    content = files_of(CELLS[1])
    without(place, 1)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:  # nothing has changed at the first look
            Store(place).put(CELLS[1].address, content)

    monkeypatch.setattr("time.sleep", nap)
    result = CliRunner().invoke(cli, ["status", str(place), "--watch", "--json", "--every", "7"])
    found = [json.loads(line)["kinds"]["inspect"]["done"] for line in result.output.splitlines()]
    assert (found, naps) == ([5, 6], [7.0, 7.0])


# --- retry ---------------------------------------------------------------------------------------------


def test_failed_cells_can_be_tried_again_all_or_some(place):
    without(place, 1, 2)
    for number in (1, 2):
        Failures(place).note(CELLS[number].record(), Failure("ValueError: odd"))
    assert "1 failed cells can be tried again" in call("retry", place, CELLS[1].address)
    assert Failures(place).addresses() == {CELLS[2].address}
    assert CELLS[2].address in call("retry", place)
    assert Failures(place).addresses() == set()
    assert "0 failed cells" in call("retry", place)


def test_a_cell_that_did_not_fail_cannot_be_tried_again(place):
    assert "the address of a failed cell" in call("retry", place, CELLS[0].address, status=2)
    assert "the address of a failed cell" in call("retry", place, "../x", status=2)


# --- prune ---------------------------------------------------------------------------------------------


def test_what_would_be_removed_is_said_first_and_removed_only_with_yes(place):
    (other,) = cells_of_models(3, 0)[2:]
    Store(place).put(other.address, files_of(other))
    (place / "checkpoints").mkdir(exist_ok=True)
    (place / "checkpoints" / CELLS[0].address).write_text("state")
    before = state_of(place)
    words = call("prune", place)
    assert f"cell of no plan: {other.address}" in words
    assert f"state that is past: {CELLS[0].address}" in words
    assert "would be removed; --yes removes them" in words
    assert state_of(place) == before
    assert "removed 2 things" in call("prune", place, "--yes")
    assert Store(place).addresses() == {cell.address for cell in CELLS}
    assert call("prune", place, "--yes") == "Nothing to remove."


def test_states_of_cells_that_remain_stay_however_many_a_cell_has(place):
    without(place, 1)
    (place / "checkpoints").mkdir(exist_ok=True)
    for name in ("", "-parts", "-ann"):
        (place / "checkpoints" / f"{CELLS[1].address}{name}").write_text("state")
        (place / "checkpoints" / f"{CELLS[2].address}{name}").write_text("state")
    assert "removed 3 things" in call("prune", place, "--yes")
    assert {path.name[:32] for path in (place / "checkpoints").iterdir()} == {CELLS[1].address}
    running.run("made", {}, CELLS, Work(place), Serial(), place, running.Listener(), QUICK)
    assert not any((place / "checkpoints").iterdir())


def test_a_lease_that_is_taken_over_while_others_are_removed_stays(place, monkeypatch):
    leases = Leases(place, "lost")
    lost, now = leases.take(CELLS[1].address), Leases(place, "new")
    monkeypatch.setattr(Leases, "observe", lambda self: {})  # what was live a moment later was not yet

    def overtaken(path):
        lost.release()
        assert now.take(CELLS[1].address) is not None
        return 0

    monkeypatch.setattr(survey, "_size", overtaken)
    assert survey.prune(place, remove=True).leases == (CELLS[1].address,)
    monkeypatch.undo()
    assert Leases(place, "").observe()[CELLS[1].address].owner == "new"


def test_cells_of_a_study_that_is_kept_stay(place, tmp_path):
    text = (
        "name: other\ndata: digits\nmodels: {encoder: direct, network: {mlp: {hidden: [4]}}}\nexamples: 5\n"
    )
    (tmp_path / "other.yaml").write_text(text)
    study = load(str(tmp_path / "other.yaml"))
    (kept, *_) = cells_of(study, study.data.load(None))
    Store(place).put(kept.address, files_of(kept))
    assert kept.address in call("prune", place)
    assert call("prune", place, "--keep", tmp_path / "other.yaml", "--yes") == "Nothing to remove."
    assert kept.address in Store(place).addresses()


# --- import --------------------------------------------------------------------------------------------


def test_missing_cells_are_copied_to_the_byte_and_nothing_else_changes(whole, place):
    without(place, 0, 2)
    assert "2 cells copied, 6 were there, 0 differ" in call("import", place, whole)
    same = {path: content for path, content in state_of(whole).items() if path.parts[0] == "cells"}
    assert {path: content for path, content in state_of(place).items() if path.parts[0] == "cells"} == same
    assert "0 cells copied, 8 were there" in call("import", place, whole)


def test_a_directory_without_a_study_takes_over_that_of_the_other(whole, tmp_path):
    found = import_cells(tmp_path / "new", whole)
    assert (len(found.copied), found.begun) == (8, True)
    assert "train 2 of 2" in call("status", tmp_path / "new")


def rewritten(place, cell, **metrics):
    """The cell with other numbers, and a manifest that fits them."""
    files = files_of(cell)
    found = json.loads(files["metrics.json"]) | metrics
    shutil.rmtree(Store(place).path(cell.address))
    Store(place).put(cell.address, {**files, "metrics.json": as_json(found)})


def test_another_outcome_is_reported_and_never_overwritten(whole, place):
    rewritten(place, CELLS[1], ties=0.5)
    before = state_of(place)
    words = call("import", place, whole, status=1)
    assert f"differs, ours was kept: inspect {CELLS[1].address}: metrics.json differ" in words
    assert state_of(place) == before


def test_equal_outcomes_may_tell_of_other_machines(whole, place):
    shutil.rmtree(Store(place).path(CELLS[1].address))
    Store(place).put(CELLS[1].address, files_of(CELLS[1], seconds=9.0))
    assert "8 were there, 0 differ" in call("import", place, whole)


def test_equal_outcomes_may_have_taken_other_times(whole, place, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    for root, seconds in ((place, 1.0), (other, 2.0)):
        rewritten(root, CELLS[0], epochs=[{"epoch": 1, "loss": 0.5, "seconds": seconds}])
    assert "8 were there, 0 differ" in call("import", place, other)
    rewritten(other, CELLS[0], epochs=[{"epoch": 1, "loss": 0.6, "seconds": 1.0}])
    assert "7 were there, 1 differ" in call("import", place, other, status=1)


def test_a_measurement_of_other_weights_is_not_copied(whole, place):
    without(place, 1)
    rewritten(place, CELLS[0], weights="f" * 64)
    words = call("import", place, whole, status=1)
    assert f"inspect {CELLS[1].address}: it was measured on other weights" in words
    assert not Store(place).path(CELLS[1].address).exists()


def test_a_damaged_cell_is_not_copied(whole, place, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    (Store(other).path(CELLS[1].address) / "metrics.json").write_text("{}")
    without(place, 1)
    assert "damaged, not copied" in call("import", place, other, status=1)
    assert not Store(place).path(CELLS[1].address).exists()


def test_a_cell_under_the_address_of_another_is_not_copied(whole, place, tmp_path):
    other = shutil.copytree(whole, tmp_path / "other")
    shutil.rmtree(Store(other).path(CELLS[1].address))
    forged = {**CELLS[2].record(), "address": CELLS[1].address}
    Store(other).put(CELLS[1].address, {**files_of(CELLS[2]), "cell.json": as_json(forged)})
    without(place, 1)
    assert "another cell than the plan" in call("import", place, other, status=1)
    assert not Store(place).path(CELLS[1].address).exists()


def test_a_cell_whose_table_does_not_fit_its_kind_is_not_copied(whole, place, monkeypatch):
    """A manifest may fit what was tampered with; the table has to fit kind and numbers."""
    without(place, 1)
    monkeypatch.setitem(shapes.COLUMNS, "inspect", ("example",))
    assert "0 cells copied, 2 were there, 0 differ, 6 are damaged" in call("import", place, whole, status=1)
    assert not Store(place).path(CELLS[1].address).exists()


def test_a_plan_may_be_larger_than_other_documents(whole, tmp_path, monkeypatch):
    asked = []

    def limited(path, limit=None):
        asked.append((path.name, limit))
        return bytes_of(path, limit)

    monkeypatch.setattr(imports, "bytes_of", limited)
    import_cells(tmp_path / "new", whole)
    assert ("study.json", LARGEST_PLAN) in asked


def test_a_damaged_cell_here_is_replaced(whole, place):
    (Store(place).path(CELLS[1].address) / "metrics.json").write_text("{}")
    assert "1 cells copied, 7 were there" in call("import", place, whole)


def test_as_json_an_import_names_its_cells(whole, place):
    without(place, 2)
    found = json.loads(CliRunner().invoke(cli, ["import", str(place), str(whole), "--json"]).output)
    assert (found["copied"], len(found["known"])) == ([CELLS[2].address], 7)


def test_directories_that_are_none_are_one_sentence(whole, tmp_path):
    assert "the output directory of a study" in call("import", tmp_path / "a", tmp_path / "b", status=2)
    assert not (tmp_path / "a").exists()
    assert "Two output directories" in call("import", whole, whole, status=2)
    for command in ("status", "retry", "prune"):
        assert "the output directory of a study" in call(command, tmp_path, status=2)


# --- dry run -------------------------------------------------------------------------------------------

STUDY = """\
name: dry
data: digits
models: {encoder: direct, network: {mlp: {hidden: [4]}}, rule: {bptt: {epochs: 1, batch_size: 256}}}
attacks: [fgsm]
epsilons: [0.1]
examples: 10
"""


def test_a_dry_run_counts_what_is_done_and_writes_nothing(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    out = tmp_path / "out"
    command = ("run", tmp_path / "study.yaml", "--out", out, "--workers", 1)
    words = call(*command, "--dry-run")
    assert "study dry: 4 cells, 0 done, 4 to compute" in words
    assert "no cell is done yet to judge the time by" in words
    assert not out.exists()
    call(*command)
    before = state_of(out)
    assert "4 cells, 4 done, 0 to compute" in call(*command, "--dry-run")
    words = call(*command, "--dry-run", "epsilons=[0.1, 0.2, 0.3]")
    assert "6 cells, 4 done, 2 to compute" in words
    assert "attack 1 of 3" in words
    assert "not known yet" not in words
    words = call(*command, "--dry-run", "attacks=[pgd]", "epsilons=[0.1, 0.2, 0.3]")
    assert "not known yet: 3 attack cells are of sorts of which none is done" in words
    assert re.search(r"about \d+ s with one worker, judged by the cells that are done", words)
    assert state_of(out) == before


def test_a_dry_run_of_a_built_in_study_says_what_the_study_says_of_its_time(tmp_path):
    assert "the study says: Handwritten digits" in call(
        "run", "quickstart", "--out", tmp_path / "x", "--dry-run"
    )


def test_cells_that_an_audit_there_added_come_with_their_reasons(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    here, other = tmp_path / "here", tmp_path / "other"
    call("run", tmp_path / "study.yaml", "--out", here, "--workers", 1)
    shutil.copytree(here, other)
    call("run", tmp_path / "study.yaml", "attacks=[fgsm, noise]", "--out", other, "--workers", 1)
    plan = json.loads((other / "study.json").read_text())["plan"]
    (added,) = (cell for cell in plan if cell["spec"].get("attack", {}).get("name") == "noise")
    shutil.copy(here / "study.json", other / "study.json")
    repair = {**added, "because": "too few examples", "round": 1}
    (other / "repairs.json").write_bytes(as_json({"format": 1, "repairs": [repair], "spikeproof": "0"}))
    found = import_cells(here, other)
    assert (found.copied, len(found.known), found.unasked) == ((added["address"],), 4, ())
    (noted,) = json.loads((here / "repairs.json").read_text())["repairs"]
    assert (noted["address"], noted["because"]) == (added["address"], "too few examples")
    assert import_cells(here, other).copied == ()


def test_two_machines_that_computed_the_same_study_do_not_differ(tmp_path):
    (tmp_path / "study.yaml").write_text(STUDY)
    for name in ("one", "other"):
        call("run", tmp_path / "study.yaml", "--out", tmp_path / name, "--workers", 1)
    assert "0 cells copied, 4 were there, 0 differ" in call("import", tmp_path / "one", tmp_path / "other")

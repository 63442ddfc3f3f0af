"""A study from its file to its numbers, with the smallest models that still learn something."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

import spikeproof.experiments.run.driver as running
from spikeproof.catalogue.names import studies
from spikeproof.catalogue.saved import load as load_model
from spikeproof.compiled import LOOPS_VARIABLE, inductor, why_not_compiled
from spikeproof.datasets import Digits
from spikeproof.encoders import Direct, Latency
from spikeproof.errors import InputError
from spikeproof.experiments.read.results import records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Processes, Serial, pools
from spikeproof.experiments.run.store import Store, as_json
from spikeproof.experiments.study.cells import Cell, cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import load, study_of
from spikeproof.experiments.study.files.settings import assign
from spikeproof.experiments.study.kinds import CellKind
from spikeproof.experiments.study.study import Candidate
from spikeproof.neurons import ReLU
from spikeproof.specs import address
from spikeproof.threats import Linf, Region

sys.path.insert(0, str(Path(__file__).parent))
from synthetic import FORKING, command_line, shown_in

TINY = """\
name: tiny
data: digits
models:
  - encoder: [{latency: {steps: 3}}, {bernoulli: {steps: 2}}]
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 2, batch_size: 256}}
attacks: [fgsm, {noise: {draws: 2}}]
epsilons: [0.1, 64/255]
examples: 20
draws: 2
"""


def study(*settings, text=TINY):
    document = parse(text, "study.yaml")
    for setting in settings:
        assign(document, setting)
    return study_of(document)


class Heard(running.Listener):
    def __init__(self):
        self.messages, self.told = [], []

    def progress(self, cell, progress):
        self.told.append(progress)

    def damaged(self, message):
        self.messages.append(message)


def run(out, *settings, executor=None, heard=None, batch_size=None):
    chosen = study(*settings)
    cells = cells_of(chosen, chosen.data.load(None))
    bench = Bench(out, None, "cpu", batch_size or chosen.batch_size)
    return running.run(chosen.name, chosen.spec(), cells, bench, executor or Serial(), out, heard or Heard())


def numbers(out):
    paths = ("model", "cell", "train_cell", "clean_cell")
    return [{key: value for key, value in row.items() if key not in paths} for row in records(out)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("tiny") / "out"
    assert run(out).computed == 14
    return out


@pytest.fixture
def copy(finished, tmp_path):
    subprocess.run(["cp", "-a", str(finished), str(tmp_path / "out")], check=True)
    return tmp_path / "out"


def stamps(out):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in out.glob("cells/*/*")}


# --- reading -------------------------------------------------------------------------------------------


def test_a_block_is_the_product_of_its_members():
    text = TINY.replace("    network:", "    decoder: [count, first-spike]\n    network:")
    models = study(text=text).models
    assert [(m.encoder.steps, type(m.decoder).__name__) for m in models] == [
        (3, "Count"),
        (3, "FirstSpike"),
        (2, "Count"),
        (2, "FirstSpike"),
    ]


def test_a_model_named_twice_is_one_model():
    text = TINY.replace(
        "[{latency: {steps: 3}}, {bernoulli: {steps: 2}}]", "[latency, latency, {latency: {}}]"
    )
    assert [model.encoder for model in study(text=text).models] == [Latency()]


def test_epsilons_are_numbers_or_fractions():
    assert study().threats == (Linf(0.1), Linf(64 / 255))


@pytest.mark.parametrize("name", sorted(studies()))
def test_built_in_studies_can_be_read(name):
    built_in = load(name)
    assert built_in.name == name
    assert built_in.models


@pytest.mark.parametrize("name", ["quickstart", "fashion", "rules"])
def test_comparisons_on_images_have_the_ann_twin_as_their_baseline(name):
    assert any(model.neuron == ReLU() and model.encoder == Direct(1) for model in load(name).models)


@pytest.mark.parametrize("name", sorted({*studies()} - {"quickstart"}))  # which compares decoders
def test_codes_of_a_built_in_study_are_compared_under_a_read_out_that_weighs_all_steps_alike(name):
    groups: dict[object, list[Candidate]] = {}
    for model in load(name).models:
        if isinstance(model, Candidate) and not getattr(model.encoder, "timed", False):
            groups.setdefault((model.network, model.neuron), []).append(model)
    for group in groups.values():  # of networks that are alike
        codes = {model.encoder for model in group}
        neutral = {model.encoder for model in group if "MeanCurrent(" in repr(model.decoder)}
        assert len({type(code) for code in codes}) < 2 or codes == neutral


def test_the_spec_of_a_study_is_json():
    assert json.loads(json.dumps(study().spec()))["examples"] == 20


MISTAKES = [
    ("name: tiny", "nmae: tiny", 1, "'nmae'. Did you mean 'name'?"),
    ("name: tiny", "name: [1]", 1, "a name of letters"),
    ("name: tiny", "name: ../../x", 1, "a name of letters"),
    ("data: digits", "data: digts", 2, "Did you mean 'digits'?"),
    ("data: digits", "", 1, "the key 'data'"),
    ("    rule", "    ruel", 6, "'ruel'. Did you mean 'rule'?"),
    ("latency: {steps: 3}", "latncy: {steps: 3}", 4, "Did you mean 'latency'?"),
    ("latency: {steps: 3}", "latency: {stesp: 3}", 4, "Did you mean 'steps'?"),
    ("latency: {steps: 3}", "latency: {steps: 0}", 4, "steps=0"),
    ("latency: {steps: 3}", "latency: {steps: three}", 4, "'three'"),
    ("[{latency: {steps: 3}}, {bernoulli: {steps: 2}}]", "[]", 4, "at least one encoder"),
    ("hidden: [8]", "hidden: [0]", 5, "positive layer sizes"),
    ("hidden: [8]", "hiden: [8]", 5, "Did you mean 'hidden'?"),
    ("epochs: 2", "epochs: 2.5", 6, "2.5"),
    ("epochs: 2", "epochs: -1", 6, "-1"),
    ("fgsm", "fgms", 7, "Did you mean 'fgsm'?"),
    ("draws: 2}}]", "draws: 0}}]", 7, "draws=0"),
    ("draws: 2}}]", "surrogate: sigmoid}}]", 7, "'surrogate'"),
    ("64/255", "-1", 8, "got -1"),
    ("64/255", "8/0", 8, "'8/0'"),
    ("64/255", "abc", 8, "'abc'"),
    ("64/255", "true", 8, "True"),
    ("64/255", "'1e9999999999'", 8, "1e9999999999"),
    ("[0.1, 64/255]", "[]", 8, "at least one epsilon"),
    ("epsilons: [0.1, 64/255]", "threat: linff\nepsilons: [0.1]", 8, "Did you mean 'linf'?"),
    ("examples: 20", "examples: 0", 9, "at least 1 or all"),
    ("examples: 20", "examples: some", 9, "at least 1 or all"),
    ("draws: 2\n", "draws: false\n", 10, "at least 1"),
    ("draws: 2\n", "seeds: [-1]\n", 10, "at least 0"),
    ("draws: 2\n", "batch_size: 0\n", 10, "at least 1"),
    ("draws: 2\n", "normalise: {mean: [0.5], sdt: [1]}\n", 10, "Did you mean 'std'?"),
    ("draws: 2\n", "normalise: {mean: [0.5], std: [0]}\n", 10, "positive std"),
    ("draws: 2\n", "normalise: {mean: [a], std: [1]}\n", 10, "a number per channel"),
    ("    network:", "    neuron: relu\n    network:", 4, "the encoder direct with steps: 1"),
]


@pytest.mark.parametrize(("right", "wrong", "line", "message"), MISTAKES)
def test_a_mistake_is_answered_with_its_line_and_what_to_try(right, wrong, line, message):
    assert right in TINY
    with pytest.raises(InputError) as caught:
        study(text=TINY.replace(right, wrong, 1))
    assert str(caught.value).startswith(f"study.yaml:{line}: ")
    assert message in str(caught.value)


def test_the_ann_has_no_spikes_to_read():
    text = TINY.replace(
        "[{latency: {steps: 3}}, {bernoulli: {steps: 2}}]", "{direct: {steps: 1}}\n    neuron: relu"
    )
    with pytest.raises(InputError, match=r"study\.yaml:4: .*mean-current"):
        study(text=text)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("threat=[]", "at least one threat"),
        ("seeds=[]", "at least one seed"),
        ("seeds=[[1]]", "seeds"),
        ("threat={linf: {name: l2}}", "other than"),
        ("threat={linf: {epsilon: 0.7}}", "other than"),
    ],
)
def test_lists_of_nothing_and_sizes_in_the_wrong_place_are_refused(setting, said):
    with pytest.raises(InputError, match=said):
        study(setting)


@pytest.mark.parametrize("text", ["", "[]", "word", "3", "models: 3", "name: x\ndata: digits\nmodels: []"])
def test_a_study_file_that_holds_no_study_is_refused_by_its_name(text):
    with pytest.raises(InputError, match=r"study\.yaml"):
        study(text=text)


def test_a_misspelt_setting_is_named(tmp_path):
    with pytest.raises(InputError, match=r"setting 'exmaples=3': .*Did you mean 'examples'"):
        study("exmaples=3")
    with pytest.raises(InputError, match=r"setting 'models\.0\.rule\.epohcs=3': .*Did you mean 'epochs'"):
        study("models.0.rule.epohcs=3")


def test_an_unknown_study_is_answered_with_the_closest():
    with pytest.raises(InputError, match="Did you mean 'quickstart'"):
        load("quikstart")
    with pytest.raises(InputError, match="Check the path"):
        load("nowhere/quickstart.yaml")


# --- cells ---------------------------------------------------------------------------------------------


def addresses(*settings):
    chosen = study(*settings)
    return [cell.address for cell in cells_of(chosen, Digits().load(None))]


def test_equal_studies_have_equal_addresses_in_every_process():
    program = (
        "import sys; from spikeproof.experiments.study.files.reader import load;"
        "from spikeproof.experiments.study.cells import cells_of;"
        "study = load('quickstart'); print(cells_of(study, study.data.load(None))[5].address)"
    )
    chosen = load("quickstart")
    here = cells_of(chosen, chosen.data.load(None))[5].address
    there = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here


def test_what_changes_no_number_changes_no_address():
    assert addresses("batch_size=3", "name=other") == addresses()


@pytest.mark.parametrize(
    ("setting", "kept"),
    [
        ("examples=19", 2),  # both models
        ("draws=3", 8),  # the deterministic model and the training of the other
        ("epsilons=[0.1, 0.2]", 10),
        ("attacks.1.draws=3", 10),
        ("seeds=[1]", 0),
        ("models.0.rule.lr=0.5", 0),
    ],
)
def test_a_change_moves_only_the_cells_it_concerns(setting, kept):
    assert len(set(addresses(setting)) & set(addresses())) == kept


def test_a_study_asking_for_more_examples_than_the_data_hold_is_refused():
    with pytest.raises(InputError, match="examples=9999"):
        addresses("examples=9999")


def test_a_cell_is_its_spec():
    cell = Cell.of("clean", {"b": 1.5, "a": [1]})
    assert cell == Cell.of("clean", {"a": [1], "b": 1.5})
    assert cell != Cell.of("attack", {"a": [1], "b": 1.5})
    assert cell.address != Cell.of("attack", {"a": [1], "b": 1.5}).address


def test_the_kind_of_a_cell_is_stored_as_text_and_an_unknown_kind_is_refused():
    spec = {"a": [1], "b": 1.5}
    cell = Cell.of(CellKind.CLEAN, spec)
    assert cell == Cell.of("clean", spec)
    assert cell.address == address({"kind": "clean", "spec": spec})
    assert '"kind": "clean"' in as_json(cell.record()).decode()
    with pytest.raises(InputError, match=r"Expected a kind of cell: got 'clena'\. Did you mean 'clean'"):
        Cell.of("clena", spec)


# --- running -------------------------------------------------------------------------------------------


def test_a_second_run_computes_nothing(finished):
    before = stamps(finished)
    summary = run(finished)
    assert (summary.computed, summary.kept, summary.failed) == (0, 14, 0)
    assert stamps(finished) == before


def test_a_changed_study_computes_only_what_is_new(copy):
    before = stamps(copy)
    summary = run(copy, "epsilons=[0.1, 64/255, 0.5]")
    assert (summary.computed, summary.kept) == (4, 14)
    assert stamps(copy).items() >= before.items()


def test_neither_executor_nor_batch_size_changes_a_number(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(pools, "START", FORKING)
    assert run(tmp_path, executor=Processes(2), batch_size=7).computed == 14
    assert numbers(tmp_path) == numbers(finished)


@pytest.mark.parametrize("kind", ["train", "clean", "attack"])
def test_a_damaged_cell_is_noticed_and_only_it_is_computed_again(copy, kind):
    before = numbers(copy)
    cell = next(c for c in running.read_plan(copy)["plan"] if c["kind"] == kind)
    largest = max((copy / "cells" / cell["address"]).iterdir(), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"?")
    assert running.status(copy).damaged
    heard = Heard()
    summary = run(copy, heard=heard)
    assert (summary.computed, summary.kept) == (1, 13)
    assert cell["address"] in heard.messages[0]
    assert len(heard.messages) == 1
    assert numbers(copy) == before


def test_a_measurement_of_other_weights_is_computed_again(copy):
    plan = running.read_plan(copy)["plan"]
    clean = next(cell for cell in plan if cell["kind"] == "clean")
    store, heard = Store(copy), Heard()
    path = store.path(clean["address"])
    names = [name.name for name in path.iterdir() if name.name != "MANIFEST.json"]
    files = {name: (path / name).read_bytes() for name in names}
    metrics = json.loads(files["metrics.json"])
    files["metrics.json"] = json.dumps({**metrics, "weights": "others"}).encode()
    store.discard(clean["address"])
    store.put(clean["address"], files)
    assert run(copy, heard=heard).computed == 1
    assert "other weights" in heard.messages[0]


def test_a_failed_cell_is_filed_and_the_others_go_on(tmp_path):
    chosen = study("examples=5", "epsilons=[0.1]", "attacks=[fgsm]")
    cells = cells_of(chosen, chosen.data.load(None))
    bench = Bench(tmp_path, None, "cpu", 64)
    refused = cells[1].address

    def work(cell, tell):
        if cell.address == refused:
            raise RuntimeError("out of luck")
        if cell == cells[4]:
            raise RuntimeError("no training")
        return bench(cell, tell)

    def go(work):
        return running.run(chosen.name, chosen.spec(), cells, work, Serial(), tmp_path, Heard())

    summary = go(work)
    assert (summary.total, summary.computed, summary.failed, summary.blocked) == (8, 3, 2, 3)
    assert "out of luck" in json.loads((tmp_path / "failures" / f"{refused}.json").read_text())["trace"]
    found = running.status(tmp_path)
    assert found.finished == {"train": 1, "inspect": 1, "attack": 1}
    assert [("out of luck" in line, "no training" in line) for line in found.failed] == [
        (True, False),
        (False, True),
    ]
    summary = go(bench)
    assert (summary.computed, summary.kept, summary.failed) == (5, 3, 0)
    assert not list((tmp_path / "failures").iterdir())


def kill_when(ready, out, *settings):
    """Start the study by the command line and kill it as soon as `ready()`."""
    path = out.parent / "study.yaml"
    path.write_text(TINY)
    words = ["run", path, *settings, "--out", out, "--workers", 1]
    process = FORKING.Process(target=shown_in, args=(out.with_name("shown"), command_line, *words))
    process.start()
    while not ready() and process.exitcode is None:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_killed_study_resumes_without_computing_a_cell_twice(tmp_path, finished):
    out = tmp_path / "out"

    def done():
        return len(list(out.glob("cells/[0-9a-f]*")))

    kill_when(lambda: done() >= 3, out)
    before, kept = stamps(out), done()
    assert 3 <= kept < 14
    summary = run(out)
    assert (summary.computed, summary.kept) == (14 - kept, kept)
    assert stamps(out).items() >= before.items()
    assert numbers(out) == numbers(finished)


def test_a_study_killed_while_training_resumes_from_the_last_epoch(tmp_path):
    settings = ("models.encoder={latency: {steps: 3}}", "models.rule.epochs=30", "attacks=[]")
    out = tmp_path / "out"
    kill_when(lambda: any(out.glob("checkpoints/[0-9a-f]*")), out, *settings)
    assert not list(out.glob("cells/[0-9a-f]*"))
    heard = Heard()
    run(out, *settings, heard=heard)
    batches = -(-1257 // 256)
    assert heard.told[0].done > batches
    assert heard.told[0].total == 30 * batches
    run(tmp_path / "whole", *settings)
    assert numbers(out) == numbers(tmp_path / "whole")


# --- what is stored ------------------------------------------------------------------------------------


def test_cells_of_models_that_normalise_a_current_are_told_from_those_of_older_versions():
    chosen = study(
        "normalise={mean: [0.5], std: [0.5]}", "models.encoder=[{direct: {steps: 3}}, {latency: {steps: 3}}]"
    )
    cells = [cell.record() for cell in cells_of(chosen, chosen.data.load(None))]
    spiking = {
        cell["address"]: cell["spec"]["model"]["encoder"]["name"] != "direct"
        for cell in cells
        if cell["kind"] == "train"
    }
    assert set(spiking.values()) == {True, False}
    for cell in cells:
        made = spiking[cell["spec"].get("train", cell["address"])]
        assert cell["spec"].get("normalised") == (None if made else "once"), cell["kind"]
    plain = study("models.encoder={direct: {steps: 3}}")
    assert not any("normalised" in cell.spec for cell in cells_of(plain, plain.data.load(None)))


def loops_of(out):
    """The loops over time that cells of each kind note."""
    store = Store(out)
    cells = [store.read(cell["address"]) for cell in running.read_plan(out)["plan"]]
    return {
        (cell.cell["kind"], json.loads((cell.path / "provenance.json").read_text()).get("loops"))
        for cell in cells
    }


def test_cells_that_measure_take_compiled_loops_unless_others_are_chosen(finished, tmp_path, monkeypatch):
    kinds = {kind for kind, _ in loops_of(finished)}
    compiled = None if why_not_compiled() else "compiled"
    assert loops_of(finished) == {(kind, None if kind == "train" else compiled) for kind in kinds}
    monkeypatch.setenv(LOOPS_VARIABLE, "written")
    run(tmp_path / "written")
    assert loops_of(tmp_path / "written") == {(kind, None) for kind in kinds}
    assert numbers(tmp_path / "written") == numbers(finished)


def test_cells_note_programs_of_inductor_only_where_they_were_used(finished, tmp_path, monkeypatch):
    kinds = {kind for kind, _ in loops_of(finished)}
    monkeypatch.setenv(LOOPS_VARIABLE, "inductor")
    monkeypatch.setattr(inductor, "_refused", {})
    inductor._program.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda program, **options: program)
    run(tmp_path / "programs", "attacks=[]")
    assert {loops for _, loops in loops_of(tmp_path / "programs")} == {"inductor"}

    def fails(program, **options):
        raise RuntimeError("no compiler today")

    inductor._program.cache_clear()
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.warns(UserWarning, match="no compiler today"):
        run(tmp_path / "refused")
    inductor._program.cache_clear()
    assert loops_of(tmp_path / "refused") == {(kind, None) for kind in kinds}
    assert numbers(tmp_path / "refused") == numbers(finished)


def test_cells_hold_what_their_kind_promises(finished):
    store = Store(finished)
    for cell in running.read_plan(finished)["plan"]:
        stored = store.read(cell["address"])
        names = {path.name for path in stored.path.iterdir()}
        assert names >= {"cell.json", "metrics.json", "provenance.json", "MANIFEST.json"}
        assert stored.cell == cell
        if cell["kind"] == "train":
            model = load_model(stored.path)
            assert model(torch.rand(2, 1, 8, 8), key_of(model)).shape == (2, 10)
            assert len(stored.metrics["epochs"]) == 2
        elif cell["kind"] == "inspect":
            assert (stored.metrics["state_leak"], stored.metrics["failed"]) == (0.0, None)
        else:
            table = pq.read_table(stored.path / "examples.parquet")
            assert table.num_rows == stored.metrics["n"] == 20
            share = "clean_accuracy" if cell["kind"] == "clean" else "robust_accuracy"
            assert stored.metrics[share] == pytest.approx(table.column("right").to_numpy().mean())


def key_of(model):
    from spikeproof.keys import Key

    return Key.of(0) if model.stochastic else None


def test_every_record_has_its_numbers_and_their_paths(finished):
    rows = records(finished)
    assert len(rows) == 2 * 2 * (2 + 1)
    for row in rows:
        assert row["ci_low"] - 1e-9 <= row["robust_accuracy"] <= row["ci_high"] + 1e-9
        assert row["robust_all_draws"] <= row["robust_accuracy"]
        assert (row["n"], row["seed"], row["dataset"], row["threat"]) == (20, 0, "digits", "linf")
        assert row["stochastic"] == (row["encoder"] == "bernoulli")
        assert Path(row["cell"]).is_dir()
        load_model(row["model"])
    assert {row["encoder"]: row["steps"] for row in rows} == {"latency": 3, "bernoulli": 2}


def test_the_worst_case_is_no_better_than_any_attack_of_a_deterministic_model(finished):
    groups = {}
    for row in records(finished):
        if not row["stochastic"]:
            groups.setdefault(row["epsilon"], {})[row["attack"]] = row["robust_accuracy"]
    assert groups
    for accuracies in groups.values():
        assert accuracies["worst-case"] == min(accuracies.values())


def test_a_study_without_attacks_has_clean_records(tmp_path):
    assert run(tmp_path, "attacks=[]", "models.encoder={direct: {steps: 1}}").computed == 2
    ((row),) = records(tmp_path)
    assert (row["attack"], row["robust_accuracy"]) == ("none", row["clean_accuracy"])


def test_no_checkpoint_outlives_its_training(finished):
    assert not list((finished / "checkpoints").iterdir())


def test_a_study_that_never_ran_has_no_records(tmp_path):
    with pytest.raises(InputError, match=r"study\.json"):
        records(tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(InputError, match=r"no readable study\.json"):
        running.status(tmp_path)


def test_a_threat_may_have_options_but_its_size_is_an_epsilon():
    text = TINY.replace("epsilons: [0.1, 64/255]", "threat: {region: {norm: l1, height: 4}}\nepsilons: [2]")
    assert study(text=text).threats == (Region(2.0, "l1", height=4),)
    with pytest.raises(InputError, match="other than epsilon"):
        study(text=text.replace("norm: l1", "epsilon: 3"))

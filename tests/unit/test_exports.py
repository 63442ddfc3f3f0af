"""What `spikeproof export` writes: Parquet, CSV, LaTeX, TensorBoard and MLflow."""

import csv
import hashlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from spikeproof.command.cli import cli
from spikeproof.experiments.read.gathered import across_seeds
from spikeproof.experiments.read.gathered.campaign import training_runs
from spikeproof.experiments.read.gathered.paper_rows import Covers, paper_rows
from spikeproof.experiments.read.gathered.trackers import to_mlflow, to_tensorboard
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.store import as_json
from spikeproof.report.tables import paper_csv, paper_latex

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import EVIL, Bench, N


def made(root, *, seeds=(0, 1), evil=False):
    bench = Bench(root)
    for encoder, accuracy in (("direct", 0.6), (EVIL if evil else "latency", 0.3)):
        for seed in seeds:
            train = bench.model(encoder, seed=seed, clean=0.9 - 0.02 * seed)
            bench.attack(train, "fgsm", 0.1, accuracy + 0.1 + 0.02 * seed)
            bench.attack(train, "pgd", 0.1, accuracy + 0.02 * seed)
    return bench.finish()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return made(tmp_path_factory.mktemp("exports") / "study")


def call(*arguments, status=0):
    result = CliRunner().invoke(cli, ["export", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def test_five_files_are_written_and_only_makes_fewer(place, tmp_path):
    said = call(place, "--out", tmp_path / "all")
    assert {path.name for path in (tmp_path / "all").iterdir()} == {
        *("records.parquet", "examples.parquet", "paper.csv", "paper.tex", "comparisons.tex")
    }
    assert f"examples.parquet: {4 * 4 * N} rows" in said  # clean, two attacks, worst case of four models
    call(place, "--out", tmp_path / "one", "--only", "csv")
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["paper.csv"]


def test_records_in_parquet_are_those_of_show(place, tmp_path):
    call(place, "--out", tmp_path, "--only", "records")
    rows = pq.read_table(tmp_path / "records.parquet").to_pylist()
    found = records(place)
    assert len(rows) == len(found)
    for row, known in zip(rows, found, strict=True):
        for name, value in known.items():
            nested = name in ("effort", "proofs", "broken_by") and row[name] is not None
            got = json.loads(row[name]) if nested and isinstance(row[name], str) else row[name]
            assert got == json.loads(json.dumps(value)), name


def test_examples_have_model_and_attack_as_columns_and_give_every_accuracy_again(place, tmp_path):
    call(place, "--out", tmp_path, "--only", "examples")
    table = pq.read_table(tmp_path / "examples.parquet").to_pandas()
    for row in records(place):
        own = (table["encoder"] == row["encoder"]) & (table["seed"] == row["seed"])
        here = table[own & (table["attack"] == row["attack"]) & (table["epsilon"] == row["epsilon"])]
        assert len(here) == N
        assert here["right"].mean() == pytest.approx(row["robust_accuracy"])
        clean = table[own & (table["kind"] == "clean")]
        assert (clean["attack"] == "none").all()
        assert clean["right"].mean() == pytest.approx(row["clean_accuracy"])
    assert sorted(table["example"].unique()) == list(range(N))


def test_of_several_seeds_the_table_for_papers_has_mean_and_interval_over_both(place):
    rows = {(row["encoder"], row["threat"]): row for row in paper_rows(place, records(place))}
    means = {(row["encoder"], row["threat"]): row for row in across_seeds.seed_means(place, records(place))}
    assert rows.keys() == means.keys()
    for key, row in rows.items():
        assert (row["mean"], row["low"], row["high"]) == tuple(means[key][n] for n in ("mean", "low", "high"))
        assert (row["seeds"], row["covers"]) == (2, Covers.BOTH)


def test_of_one_seed_it_has_the_interval_over_images(tmp_path):
    place = made(tmp_path / "one", seeds=(0,))
    found = records(place)
    rows = paper_rows(place, found)
    worst = {row["encoder"]: row for row in found if row["attack"] == WORST_CASE}
    assert [(row["threat"], row["seeds"], row["covers"]) for row in rows] == [
        (threat, 1, Covers.IMAGES) for _ in range(2) for threat in ("none", "linf")
    ]
    for row in rows[1::2]:
        known = worst[row["encoder"]]
        assert (row["mean"], row["low"], row["high"]) == (
            *(known["robust_accuracy"], known["ci_low"], known["ci_high"]),
        )


def test_a_withheld_number_is_in_no_table_for_papers(place):
    found = records(place)
    for row in found:
        if row["attack"] == WORST_CASE and (row["encoder"], row["seed"]) == ("direct", 1):
            row["verdict"] = "withheld"
    rows = {(row["encoder"], row["threat"]): row for row in paper_rows(place, found)}
    assert (rows["direct", "linf"]["mean"], rows["direct", "linf"]["verdict"]) == (None, "withheld")
    assert rows["direct", "none"]["mean"] is not None
    assert paper_latex([*rows.values()]).count("withheld") == 1


def test_csv_and_latex_hold_the_same_numbers_and_no_hostile_name_acts(tmp_path):
    place = made(tmp_path / "evil", evil=True)
    rows = paper_rows(place, records(place))
    lines = list(csv.DictReader(io.StringIO(paper_csv(rows))))
    assert [float(line["mean"]) for line in lines] == pytest.approx([row["mean"] for row in rows])
    text = paper_latex(rows)
    body = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(body) == 3
    assert all(line.count(" & ") == body[0].count(" & ") for line in body)
    for row in rows:
        assert f"{100 * row['mean']:.1f} " in text
    assert "&\\&" not in body[-1].replace(r"\&", "")
    assert r"\&" in body[-1]
    assert "$x^" not in text


def test_comparisons_over_trainings_are_a_table_of_latex(place, tmp_path):
    call(place, "--out", tmp_path, "--only", "comparisons")
    lines = (tmp_path / "comparisons.tex").read_text().splitlines()
    body = [line for line in lines if line.endswith("\\\\")][1:]
    pairs = across_seeds.seed_comparisons(place, records(place))
    assert len(body) == len(pairs) == 2
    for line, pair in zip(body, pairs, strict=True):
        assert line.count(" & ") == 8
        assert f"{100 * pair['difference']:.1f} " in line
        assert ("*" in line) == pair["shown"]


def test_a_link_in_a_directory_of_somebody_else_is_not_written_through(place, tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "out").mkdir()
    for name in ("records.parquet", ".tmp-records.parquet", "paper.csv"):
        (tmp_path / "out" / name).symlink_to(tmp_path / "mine")
    call(place, "--out", tmp_path / "out")
    assert (tmp_path / "mine").read_text() == "mine"
    assert pq.read_table(tmp_path / "out" / "records.parquet").num_rows


def test_training_runs_have_curves_numbers_and_verdicts(place):
    runs = training_runs(place, records(place))
    assert [run["label"] for run in runs] == [
        *("direct, seed 0", "direct, seed 1", "latency, seed 0", "latency, seed 1")
    ]
    assert runs[0]["numbers"]["clean/accuracy"] == pytest.approx(0.9)
    assert runs[0]["numbers"]["robust/linf/0.1/accuracy"] == pytest.approx(0.6)
    assert runs[0]["verdicts"]["robust/linf/0.1"] in ("doubtful", "preliminary", "supported")
    assert len({run["digest"] for run in runs}) == 4


def with_curve(root):
    place = made(root, seeds=(0,))
    epochs = [{"epoch": i, "loss": 1 / i, "watch": None, "discarded": False} for i in (1, 2, 3)]
    runs = training_runs(place, records(place))
    assert [run["curve"] for run in runs] == [[], []]
    for path in place.glob("cells/*train*/metrics.json"):
        metrics = json.loads(path.read_text()) | {"epochs": epochs}
        path.write_bytes(as_json(metrics))
        manifest = path.with_name("MANIFEST.json")
        digests = json.loads(manifest.read_text())
        digests["metrics.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest.write_bytes(as_json(digests))
    return place


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_reads_the_curves_and_nothing_is_written_twice(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    place = with_curve(tmp_path / "study")
    runs = training_runs(place, records(place))
    assert to_tensorboard(runs, tmp_path / "log") == 2
    assert to_tensorboard(runs, tmp_path / "log") == 0
    folders = sorted((tmp_path / "log" / "trial").iterdir())
    assert [folder.name[:-9] for folder in folders] == ["direct", "latency"]
    read = EventAccumulator(str(folders[0]))
    read.Reload()
    assert [(point.step, point.value) for point in read.Scalars("training/loss")] == [
        (step, pytest.approx(1 / step)) for step in (1, 2, 3)
    ]
    assert read.Scalars("result/robust/linf/0.1/accuracy")[0].value == pytest.approx(0.6)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_one_run_per_training_in_its_file_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = pytest.importorskip("mlflow")
    place, uri = with_curve(tmp_path / "study"), (tmp_path / "store").as_uri()
    runs = training_runs(place, records(place))
    assert to_mlflow(runs, uri) == 2
    assert to_mlflow(runs, uri) == 0
    changed = [{**runs[0], "digest": "other"}, runs[1]]
    assert to_mlflow(changed, uri) == 1
    client = mlflow.MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("trial").experiment_id])
    assert sorted(run.info.run_name for run in found) == ["direct", "latency"]
    (direct,) = (run for run in found if run.info.run_name == "direct")
    assert direct.data.params["encoder"] == "direct"
    assert direct.data.metrics["robust/linf/0.1/accuracy"] == pytest.approx(0.6)
    assert direct.data.tags["verdict.robust/linf/0.1"] == runs[0]["verdicts"]["robust/linf/0.1"]
    history = client.get_metric_history(direct.info.run_id, "training/loss")
    assert [(point.step, point.value) for point in history] == [(i, 1 / i) for i in (1, 2, 3)]


def test_a_tracker_that_is_not_installed_is_one_sentence(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert "pip install" in call(place, "--mlflow", "x", status=2)


def test_bad_input_is_one_sentence(place, tmp_path):
    assert "Expected the output directory of a study" in call(tmp_path / "none", status=2)
    (tmp_path / "file").write_text("")
    assert "must be one that can be written to" in call(place, "--out", tmp_path / "file" / "x", status=2)
    assert "Invalid value" in call(place, "--only", "pdf", status=2)


def test_a_file_that_was_there_is_replaced_in_one_step(place, tmp_path):
    for _ in range(2):
        call(place, "--out", tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".tmp")]  # noqa: PTH208
    assert np.isfinite(pq.read_table(tmp_path / "examples.parquet")["right"].to_numpy()).all()

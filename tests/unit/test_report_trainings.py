"""What a report shows of several trainings: means over seeds, what holds across them, curves and cost."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest

from spikeproof.command.reports import written_report
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered.across_seeds import (
    Trainings,
    seed_comparisons,
    seed_means,
    several_seeds,
)
from spikeproof.experiments.read.results import records
from spikeproof.experiments.read.trained import training_curves
from spikeproof.report.charts.drawing import Drawing

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import EVIL, Bench

EPOCHS = [
    {"epoch": 1, "loss": 2.5, "validation_accuracy": 0.5, "seconds": 3.0, "processor_seconds": 1.5},
    {"epoch": 2, "loss": 1.25, "validation_accuracy": 0.75, "seconds": 5.0, "watch": {"overfitted": True}},
]


def page_of(directory):
    """The report of a study without the figures for papers, which take long, and the data in it."""
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "pdf": b"%PDF"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Drawing, "files", lambda drawing: blank)
        page = written_report(directory).read_text()
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page)
    return page, json.loads(data[1])


def study_of(root, accuracy, seeds=(0, 1, 2)):
    bench = Bench(root)
    for encoder, robust in accuracy.items():
        for seed in seeds:
            train = bench.model(encoder, seed=seed)
            bench.attack(train, "pgd", 0.1, robust + 0.01 * seed)
    return bench


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return study_of(tmp_path_factory.mktemp("seeds"), {"latency": 0.2, EVIL: 0.7, "direct": 0.695}).finish()


@pytest.fixture(scope="module")
def shown(study):
    return page_of(study)


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_first_screen_ranks_architectures_by_their_means(study, shown):
    page, _ = shown
    first = page[: page.index('<nav aria-label="Contents">')]
    assert "Ranking at linf 0.1, mean over trainings" in first
    named = re.findall(r'<td class="who">(\d)\. (.*?)</td>', first)
    assert [name for _, name in named] == [
        "&lt;script&gt;alert(&#39;&amp;&#34;$x^&#39;)&lt;/script&gt;",
        "direct",
        "latency",
    ]
    assert re.findall(r'<td class="wide">([^<]*)</td></tr>', first) == [
        "",
        "no difference shown",
        "less robust",
    ]
    assert re.findall(r'href="#trainings"><b>([\d.]+)</b>', first) == ["71.0", "70.5", "21.0"]
    assert "mean over 3 trainings" in first


def test_means_and_pairs_stand_in_the_page_in_its_data_and_beside_it(study, shown):
    page, data = shown
    found, means = records(study), seed_means(study, records(study))
    assert '<section id="trainings">' in page
    assert len(data["seeds"]) == 3
    by_name = {each["name"]: each for each in data["seeds"]}
    for mean in means:
        kept = by_name[mean["encoder"]]
        numbers = kept["clean"] if mean["threat"] == "none" else kept["worst"][0][1:]
        ends = [mean[name] for name in ("low", "high", "training_low", "training_high", "lowest", "highest")]
        assert [numbers[0], *numbers[1:3], *numbers[4:]] == pytest.approx([mean["mean"], *ends], abs=1e-5)
        assert kept["trainings"] == 3
    pairs = seed_comparisons(study, found)
    assert [(p["first"], p["second"], p["shown"]) for p in pairs] == [
        (p["first"], p["second"], p["shown"]) for p in data["across"]
    ]
    assert {p["b"] for p in data["across"]} == {-1, 0}
    assert sum("holds" not in p["sentence"] and p["sentence"] in page for p in pairs) >= 2
    table = rows_of(study / "trainings.csv")
    assert [float(row["mean"]) for row in table] == pytest.approx([mean["mean"] for mean in means])
    assert len(rows_of(study / "across-seeds.csv")) == len(pairs)
    assert "\\toprule" in (study / "trainings.tex").read_text()
    assert (study / "across-seeds.tex").read_text().count(" \\\\") == len(pairs) + 1


def test_a_withheld_seed_leaves_no_mean_of_its_budget(tmp_path):
    bench = study_of(tmp_path, {"latency": 0.2, "direct": 0.7}, seeds=(0, 1))
    train = bench.model("latency", seed=2)
    bench.attack(train, "pgd", 0.1, 0.9, budget_violations=3)
    page, data = page_of(bench.finish())
    kept = {each["name"]: each for each in data["seeds"]}
    assert kept["latency"]["worst"] == []
    assert len(kept["direct"]["worst"]) == 1
    assert "Robust accuracy in the worst case, mean over trainings" in page


def test_a_study_of_one_seed_has_nothing_of_this(tmp_path):
    page, data = page_of(study_of(tmp_path, {"latency": 0.2, "direct": 0.7}, seeds=(0,)).finish())
    assert (data["seeds"], data["across"], data["trainings"]) == ([], [], [])
    assert 'id="trainings"' not in page
    assert "mean over" not in page[: page.index('<nav aria-label="Contents">')]
    assert not (tmp_path / "trainings.csv").exists()
    assert "training-curves.csv" not in {path.name for path in tmp_path.iterdir()}


def test_rankings_over_trainings_agree_with_the_means(study):
    found = records(study)
    opened = Opened.of(study)
    top = Trainings.of(opened, found).top
    assert [row["mean"] for row in top.rows] == sorted((row["mean"] for row in top.rows), reverse=True)
    assert top.below == [None, False, True]
    assert (top.shown, top.spread) == (1, pytest.approx(0.5))
    assert len(several_seeds(opened, found)) == 6


def test_epochs_are_read_as_they_were_stored_and_their_cost_is_shown(tmp_path):
    bench = Bench(tmp_path)
    put = bench.cell

    def with_epochs(kind, spec, metrics, **files):
        if kind == "train":
            metrics = {**metrics, "epochs": EPOCHS}
        return put(kind, spec, metrics, **files)

    bench.cell = with_epochs
    bench.attack(bench.model("latency"), "pgd", 0.1, 0.5)
    bench.attack(bench.model("direct"), "pgd", 0.1, 0.4)
    _, data = page_of(bench.finish())
    curve = training_curves(tmp_path)[0]
    assert curve.epochs == [(1, 2.5, 0.5, 3.0, 1.5), (2, 1.25, 0.75, 5.0, None)]
    assert (curve.parameters, curve.overfitted) == (4321, 2)
    assert [each["model"] for each in data["trainings"]] == [0, 1]
    assert data["trainings"][0]["epochs"] == [[1, 2.5, 0.5, 3.0, 1.5], [2, 1.25, 0.75, 5.0, None]]
    lines = rows_of(tmp_path / "training-curves.csv")
    assert len(lines) == 4
    assert (lines[3]["encoder"], lines[3]["loss"], lines[3]["processor_seconds"]) == ("direct", "1.25", "")

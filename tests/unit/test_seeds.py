"""Several seeds of one architecture are combined where numbers are shown."""

import json

import pytest
from click.testing import CliRunner
from scipy.stats import t

import spikeproof.experiments.run.driver as running
from spikeproof.command.cli import cli
from spikeproof.experiments.read.gathered import across_seeds
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.report import page

STUDY = """\
name: seeds
data: digits
models:
  - encoder: [{direct: {steps: 2}}, {bernoulli: {steps: 3}}]
    network: {mlp: {hidden: [12]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 2, lr: 0.02}}
attacks: [fgsm]
epsilons: [0.05]
examples: 50
seeds: [0, 1, 2]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("seeds")
    chosen = study_of(parse(STUDY, "study.yaml"))
    bench = Bench(place, None, "cpu", chosen.batch_size)
    cells = cells_of(chosen, chosen.data.load(None))
    running.run(chosen.name, chosen.spec(), cells, bench, Serial(), place, running.Listener())
    return place


def test_means_over_seeds_are_shown_with_the_interval_of_scipy(place):
    rows = [row for row in records(place) if row["attack"] == WORST_CASE]
    assert sorted(row["seed"] for row in rows) == [0, 0, 1, 1, 2, 2]
    found = json.loads(CliRunner().invoke(cli, ["show", str(place), "--seeds", "--json"]).output)
    shown = CliRunner().invoke(cli, ["show", str(place)]).output
    text = page.write(place, records(place)).read_text("utf-8")
    assert [each["encoder"] for each in found] == ["direct", "bernoulli"]
    for each in found:
        same = [row["robust_accuracy"] for row in rows if row["encoder"] == each["encoder"]]
        mean = sum(same) / 3
        spread = (sum((value - mean) ** 2 for value in same) / 2) ** 0.5
        low, high = t.interval(0.95, 2, mean, spread / 3**0.5)
        assert each["seeds"] == 3
        assert each["robust_mean"] == pytest.approx(mean)
        assert each["robust_interval"] == pytest.approx([max(low, 0), min(high, 1)])
        assert f"{100 * mean:.1f} [{100 * max(low, 0):.1f}, {100 * min(high, 1):.1f}]" in shown
        assert f"{100 * mean:.1f}" in text
    assert "Means over seeds" in shown
    assert "Means over seeds" in text


def test_draws_follow_from_the_interval_wanted_and_every_share_has_a_name(place):
    rows = {row["encoder"]: row for row in records(place) if row["attack"] == WORST_CASE}
    assert (rows["direct"]["draws"], rows["bernoulli"]["draws"]) == (1, 49)  # ±2 points on 50 images
    row = rows["bernoulli"]
    assert row["clean_all_draws"] <= row["clean_accuracy"] <= 1
    assert row["robust_all_draws"] <= min(row["robust_accuracy"], row["robust_vote"])
    assert row["robust_vote"] <= row["clean_vote"]
    assert rows["direct"]["robust_vote"] == rows["direct"]["robust_accuracy"]
    chosen = study_of(parse(STUDY + "draws: 7\n", "study.yaml"))
    cells = cells_of(chosen, chosen.data.load(None))
    assert {cell.spec["draws"] for cell in cells if cell.kind == "clean"} == {1, 7}


def test_means_and_comparisons_over_trainings_follow_from_the_tables_of_the_cells(place):
    found = json.loads(CliRunner().invoke(cli, ["show", str(place), "--trainings", "--json"]).output)
    rows = [row for row in records(place) if row["attack"] == WORST_CASE]
    means = {(row["encoder"], row["threat"]): row for row in found["trainings"]}
    assert {key[1] for key in means} == {"none", "linf"}
    for encoder in ("direct", "bernoulli"):
        same = [row["robust_accuracy"] for row in rows if row["encoder"] == encoder]
        row = means[encoder, "linf"]
        assert (row["seeds"], row["n"]) == ([0, 1, 2], 50)
        assert row["mean"] == pytest.approx(sum(same) / 3)
        assert (row["lowest"], row["highest"]) == pytest.approx((min(same), max(same)))
        assert row["low"] <= row["training_low"] <= row["mean"] <= row["training_high"] <= row["high"]
    pairs = {row["threat"]: row for row in found["training_comparisons"]}
    assert {*pairs} == {"none", "linf"}
    for threat, pair in pairs.items():
        assert (pair["part"], {pair["first"], pair["second"]}) == ("encoder", {"direct", "bernoulli"})
        first, second = (means[pair[name], threat]["mean"] for name in ("first", "second"))
        assert pair["difference"] == pytest.approx(first - second)
        assert pair["difference"] >= 0
        assert pair["ci_low"] <= pair["training_low"] <= pair["training_high"] <= pair["ci_high"]
        assert pair["p_value"] <= pair["adjusted"]
        assert pair["shown"] == (pair["adjusted"] <= 0.05)
        assert 0 <= pair["agreeing"] <= pair["seeds"] == 3


def test_trainings_are_said_in_words(place):
    shown = CliRunner().invoke(cli, ["show", str(place), "--trainings"]).output
    assert "Mean accuracy in % over seeds:" in shown
    assert "linf 0.05, by encoder, over trainings and images:" in shown
    assert "of 3 seeds" in shown


def test_only_images_that_every_training_was_measured_on_are_compared(place, monkeypatch):
    whole = across_seeds.worst_cases

    def fewer(directory, rows):
        return [
            each
            if each.record["seed"]
            else each._replace(right=each.right[9::-1], examples=each.examples[9::-1])
            for each in whole(directory, rows)
        ]

    before = [row for row in across_seeds.seed_means(place, records(place)) if row["threat"] == "linf"]
    monkeypatch.setattr(across_seeds, "worst_cases", fewer)
    after = [row for row in across_seeds.seed_means(place, records(place)) if row["threat"] == "linf"]
    assert [row["n"] for row in (*before, *after)] == [50, 50, 10, 10]
    first = [each for each in whole(place, records(place)) if each.record["encoder"] == "direct"]
    assert after[0]["mean"] == pytest.approx(sum(each.right[:10].mean() for each in first) / 3)

"""What a report of many cells embeds, cuts and keeps, in which order, and what it says is left out."""

import json
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from spikeproof.command.reports import print_report
from spikeproof.experiments.read.comparisons import stated, worst_cases
from spikeproof.experiments.read.finished import Opened
from spikeproof.experiments.read.gathered import across_seeds
from spikeproof.experiments.read.gathered.across_seeds import PARTS, Trainings, groups
from spikeproof.experiments.read.gathered.paper_rows import paper_rows
from spikeproof.experiments.read.ranking import rankings
from spikeproof.experiments.read.results import WORST_CASE, measured
from spikeproof.report import embedded as embedding
from spikeproof.report import outputs
from spikeproof.report.embedded import Limits, embedded
from spikeproof.report.outputs import Numbers, kept_numbers, numbers_file
from spikeproof.report.page import _portable
from spikeproof.report.provenance import sources

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, N, arrays

EPSILONS = (0.1, 0.2)
ALL = Limits(10**6, True, 10**9, 10**6)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Twelve models of six architectures; one number is withheld, one attack weakens with epsilon."""
    bench, kept = Bench(tmp_path_factory.mktemp("scale")), arrays()
    for seed in (0, 1):
        for encoder in ("latency", "direct", "phase"):
            for decoder in ("count", "first-spike"):
                train = bench.model(encoder, decoder, seed=seed)
                for k, epsilon in enumerate(EPSILONS):
                    accuracy = 0.6 - 0.2 * k - 0.05 * len(encoder) / 7 - 0.1 * seed
                    violations = 3 * (encoder == "phase" and seed == k == 1)
                    bench.attack(
                        train,
                        "pgd",
                        epsilon,
                        accuracy,
                        arrays=kept,
                        budget_violations=violations,
                        losses=[1.0] * 300,
                    )
                    bench.attack(train, "square", epsilon, 0.5 + 0.2 * k, gradient_free=True, arrays=kept)
    return Opened.of(bench.finish())


@pytest.fixture(scope="module")
def found(opened):
    return measured(opened)


@pytest.fixture(scope="module")
def document(opened, found):
    """Gives the document that a page embeds within limits."""
    rows = [_portable(row, opened.directory) for row in found.records]
    worst = stated(found.worst)
    ranked, origin = rankings(opened, found.records, worst), sources(opened)
    trainings = Trainings.of(opened, found.records, worst)

    def made(limits):
        return rows, embedded(opened, rows, origin, ranked, [], trainings, limits)

    return made


def test_the_outcomes_behind_worst_cases_are_those_that_are_read_again(opened, found):
    again = worst_cases(opened, found.records)
    once = stated(found.worst)
    assert 0 < len(again) < len(found.worst)  # one is withheld
    assert [each.record for each in once] == [each.record for each in again]
    for one, other in zip(once, again, strict=True):
        assert np.array_equal(one.right, other.right)
        assert np.array_equal(one.examples, other.examples)
        assert one.right.mean() == pytest.approx(one.record["robust_accuracy"])


@pytest.mark.parametrize("most", [0, 5, 24, 30, 72, 100])
def test_worst_cases_come_first_and_what_is_left_out_is_counted(document, most):
    rows, data = document(Limits(most, True, 10**9, 10**6))
    names = [data["texts"][number] for number in data["rows"]["attack"]]
    assert len(names) == min(most, len(rows))
    assert data["rowsLeftOut"] == len(rows) - len(names)
    assert names[:24] == [WORST_CASE] * min(most, 24)
    assert WORST_CASE not in names[24:]
    assert len(data["cells"]) <= most
    assert {*data["rows"]["cell"]} <= {*data["cells"]}
    assert {len(column) for column in data["rows"].values()} == {len(names)}


def test_every_number_stands_with_its_model_and_budget(document):
    rows, data = document(ALL)
    columns, expected = data["rows"], {}
    for row in rows:
        withheld = {
            each["model"]
            for each in rows
            if each["verdict"] == "withheld" and each["epsilon"] == row["epsilon"]
        }
        value = None if row["model"] in withheld else row["robust_accuracy"]
        expected[Path(row["train_cell"]).name, row["epsilon"], row["attack"]] = value
    for place in range(len(rows)):
        model, budget = data["models"][columns["model"][place]], data["budgets"][columns["budget"][place]]
        value = expected.pop((model["train"], budget[1], data["texts"][columns["attack"][place]]))
        assert columns["accuracy"][place] == (None if value is None else pytest.approx(value, abs=1e-5))
    assert not expected


@pytest.mark.parametrize("most", [0, 1, 7])
def test_confusions_are_cut_and_count_every_image(document, most):
    _, data = document(Limits(10**6, True, 10**9, most))
    assert len(data["confusions"]) == most
    for place, (clean, attacked) in data["confusions"].items():
        assert sum(count for *_, count in clean) == sum(count for *_, count in attacked) == N
        assert data["texts"][data["rows"]["attack"][place]] == WORST_CASE


def test_examples_stop_at_their_size_and_number(document, monkeypatch):
    _, data = document(ALL)
    one = sum(
        len(value) for value in next(iter(data["examples"].values())).values() if isinstance(value, str)
    )
    assert len(document(Limits(10**6, True, 2 * one, 0))[1]["examples"]) == 2
    assert not document(Limits(10**6, True, 0, 0))[1]["examples"]
    monkeypatch.setattr(embedding, "MOST_EXAMPLES", 3)
    assert len(document(ALL)[1]["examples"]) == 3


def test_no_curve_stands_behind_a_withheld_number(document):
    _, data = document(ALL)
    withheld = {place for place, value in enumerate(data["rows"]["accuracy"]) if value is None}
    assert withheld
    assert not withheld & {*data["efforts"]}


def test_curves_are_thinned_or_left_out(document):
    assert document(Limits(10**6, False, 0, 0))[1]["efforts"] == {}
    efforts = document(ALL)[1]["efforts"]
    assert efforts
    for effort in efforts.values():
        assert len(effort["loss"]) in (0, embedding.MOST_STEPS)
        if effort["loss"]:
            assert (effort["loss"][0][0], effort["loss"][-1][0]) == (0, 299)


def test_pairs_of_architectures_are_cut_and_counted(document, monkeypatch):
    whole = document(ALL)[1]
    assert whole["acrossLeftOut"] == 0
    monkeypatch.setattr(embedding, "MOST_PAIRS", 2)
    cut = document(ALL)[1]
    assert cut["across"] == whole["across"][:2]
    assert cut["acrossLeftOut"] == len(whole["across"]) - 2


def test_pairs_are_all_that_differ_in_one_part_at_one_budget(opened, found):
    several = [group for group in groups(opened, found.records) if group.whole]
    expected = []
    for one, other in combinations(several, 2):
        parts = [part for part in ("dataset", *PARTS) if one.model[part] != other.model[part]]
        if (one.threat, one.epsilon) == (other.threat, other.epsilon) and len(parts) == 1:
            expected.append((parts[0], {id(one), id(other)}))
    pairs = [*across_seeds._pairs(several)]
    assert [(part, {id(first), id(second)}) for part, first, second in pairs] == expected
    for _, first, second in pairs:
        means = [np.mean([each.right.mean() for each in group.trained]) for group in (first, second)]
        assert means[0] >= means[1]


def test_a_paper_has_each_architecture_with_its_own_budgets(opened, found):
    rows = paper_rows(opened, found.records)
    places = [(row["encoder"], row["decoder"], row["threat"], row["epsilon"]) for row in rows]
    codes = dict.fromkeys((row["encoder"], row["decoder"]) for row in found.records)
    wanted = [
        (*code, *budget) for code in codes for budget in (("none", 0.0), *(("linf", e) for e in EPSILONS))
    ]
    assert places == wanted
    for row in rows[1::3]:
        values = [
            each["robust_accuracy"]
            for each in found.records
            if (each["encoder"], each["decoder"], each["epsilon"])
            == (row["encoder"], row["decoder"], row["epsilon"])
            and each["attack"] == WORST_CASE
        ]
        assert row["mean"] is None or row["mean"] == pytest.approx(np.mean(values))


def test_what_a_terminal_shows_is_kept_without_the_evidence(opened, found, tmp_path):
    rows = [_portable(row, opened.directory) for row in found.records]
    content = numbers_file(Numbers(rows, ranked=()))
    (tmp_path / "figures").mkdir()
    (tmp_path / outputs.NUMBERS).write_bytes(content)
    kept = kept_numbers(tmp_path).records
    assert 0 < len(kept) < len(rows)
    told_of = {(row["model"].rpartition("/")[2], row["attack"], row["epsilon"]) for row in kept}
    for row in rows:
        place = (row["model"].rpartition("/")[2], row["attack"], row["epsilon"])
        assert (place in told_of) == (row["attack"] == WORST_CASE or bool(row["warnings"]))
    assert any(row["warnings"] and row["attack"] != WORST_CASE for row in kept)
    assert all(row["effort"] is None and row["broken_by"] == [] for row in kept)


def test_numbers_that_do_not_fit_into_a_document_are_not_kept(found, monkeypatch):
    monkeypatch.setattr(outputs, "LARGEST_DOCUMENT", 10_000)
    assert numbers_file(Numbers(found.records)) is None


def test_a_large_study_is_printed_alike_from_what_its_report_kept(opened, capsys, monkeypatch):
    blank = {"svg": b'<svg viewBox="0 0 1 1"></svg>', "pdf": b"%PDF"}
    monkeypatch.setattr("spikeproof.report.charts.drawing.Drawing.files", lambda drawing: blank)
    print_report(opened.directory)
    first = capsys.readouterr().out
    assert "accuracy rises with epsilon" in first
    monkeypatch.setattr("spikeproof.command.reports._read", None)
    print_report(opened.directory, anew=False)
    assert capsys.readouterr().out == first
    assert json.loads((opened.directory / outputs.NUMBERS).read_bytes())["records"]

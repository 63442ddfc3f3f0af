"""The order of the models, which budget separates them, and what is said only where a test shows it."""

import sys
from itertools import combinations
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.experiments.read import ranking as module
from spikeproof.experiments.read.comparisons import worst_cases
from spikeproof.experiments.read.ranking import Pair, Ranking, most_separating, rankings
from spikeproof.experiments.read.results import records
from spikeproof.report import page
from spikeproof.report.trust import ranking_words
from spikeproof.statistics import holm, mcnemar

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, record

NAMES = ("latency", "direct", "early-burst")


def study(directory, table):
    """Models with these accuracies: epsilon -> one per name."""
    bench = Bench(directory)
    for i, name in enumerate(NAMES):
        train = bench.model(name)
        for epsilon, accuracies in table.items():
            bench.attack(train, "pgd", epsilon, accuracies[i])
    return bench.finish()


ALIKE = {0.05: (0.8, 0.82, 0.8), 0.1: (0.5, 0.52, 0.15), 0.3: (0.1, 0.1, 0.1)}
FIRST = {0.05: (0.8, 0.82, 0.8), 0.1: (0.6, 0.3, 0.3), 0.3: (0.1, 0.1, 0.1)}
NONE = {0.05: (0.8, 0.82, 0.8), 0.1: (0.5, 0.51, 0.5)}


def words(directory):
    found = records(directory)
    return " ".join(ranking_words(rankings(directory, found), ["encoder"]))


def test_the_budget_that_separates_is_not_the_smallest_and_ties_in_front_have_no_winner(tmp_path):
    found = rankings(study(tmp_path, ALIKE), records(tmp_path))
    top = most_separating(found)
    assert [each.epsilon for each in found] == [0.05, 0.1, 0.3]
    assert (top.epsilon, top.shown, top.alike) == (0.1, 2, 2)
    assert [row["encoder"] for row in top.rows] == ["direct", "latency", "early-burst"]
    assert top.below_first == {2}
    text = words(tmp_path)
    assert "No difference is shown between the first two: direct" in text
    assert "linf 0.1: robust accuracy 15.0 to 52.0 %" in text
    assert "shown to be more robust than 1 of the 2 other models" in text
    assert "each of" not in text
    assert "linf 0.05: robust accuracy" in text


def test_a_model_that_every_test_puts_first_is_named_with_the_mark_of_its_number(tmp_path):
    text = words(study(tmp_path, FIRST))
    assert (
        "latency (60.0 % [53.1, 66.5], preliminary) is shown to be more robust than each of the 2 other"
        in text
    )
    assert "a stronger attack may still reverse this order" in text


def test_where_no_test_shows_a_difference_no_model_is_named(tmp_path):
    text = words(study(tmp_path, NONE))
    assert "At no budget do the paired tests show a difference" in text
    assert not any(name in text for name in NAMES)


def test_the_tests_are_those_by_hand_with_a_correction_over_all_budgets(tmp_path):
    found = records(study(tmp_path, ALIKE))
    models = {
        (each.record["encoder"], each.record["epsilon"]): each.right for each in worst_cases(tmp_path, found)
    }
    ranked = rankings(tmp_path, found)
    pairs = [(each, *two) for each in ranked for two in combinations(range(len(each.rows)), 2)]

    def right(each, place):
        return models[each.rows[place]["encoder"], each.epsilon]

    adjusted = holm([mcnemar(right(each, i), right(each, k)) for each, i, k in pairs])
    assert [pair.shown for each in ranked for pair in each.pairs] == [p <= 0.05 for p in adjusted]


def test_models_with_withheld_numbers_are_not_ranked(tmp_path):
    found = records(study(tmp_path, ALIKE))
    for row in found:
        if row["encoder"] == "direct" and row["attack"] == "worst-case":
            row["verdict"] = "withheld"
    top = most_separating(rankings(tmp_path, found))
    assert [row["encoder"] for row in top.rows] == ["latency", "early-burst"]
    assert top.withheld == 1
    assert "1 number withheld" in " ".join(ranking_words([top], ["encoder"]))


def test_of_many_models_only_the_first_is_tested_against_the_others_and_the_words_say_so(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "ALL_PAIRS", 2)
    top = most_separating(rankings(study(tmp_path, {0.1: (0.5, 0.52, 0.53)}), records(tmp_path)))
    assert {(pair.first, pair.second) for pair in top.pairs} == {(0, 1), (0, 2)}
    assert not top.all_tested


@given(st.integers(1, 6), st.data())
def test_the_models_that_are_alike_are_the_longest_start_without_a_difference(n, data):
    places = list(combinations(range(n), 2))
    shown = data.draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)))
    pairs = [Pair(*place, each) for place, each in zip(places, shown, strict=True)]
    found = Ranking("linf", 0.1, [record() for _ in range(n)], pairs)
    starts = [k for k in range(1, n + 1) if not any(p.shown for p in pairs if p.second < k)]
    assert found.alike == max(starts)
    assert found.all_tested


@pytest.mark.parametrize(
    ("accuracies", "pairs"), [([], []), ([0.1, 0.2], []), ([0.2, 0.1], [Pair(1, 2, True)])]
)
def test_a_ranking_without_models_out_of_order_or_with_pairs_out_of_range_is_refused(accuracies, pairs):
    with pytest.raises(InputError):
        Ranking("linf", 0.1, [record(robust_accuracy=each) for each in accuracies], pairs)


def test_one_model_has_no_ranking(tmp_path):
    bench = Bench(tmp_path)
    bench.attack(bench.model("latency"), "pgd", 0.1, 0.5)
    found = records(bench.finish())
    assert most_separating(rankings(tmp_path, found)) is None
    assert ranking_words(rankings(tmp_path, found), ["encoder"]) == []
    text = page.write(tmp_path, found, ranked=rankings(tmp_path, found)).read_text()
    assert "Ranking at" not in text
    assert "Under linf" in text


def test_the_page_and_the_terminal_lead_with_it(tmp_path):
    output = CliRunner().invoke(cli, ["report", str(study(tmp_path, ALIKE))]).output
    text = (tmp_path / "report.html").read_text()
    head = text[: text.index('id="results"')]
    for told in (output, head):
        assert "The budget that separates the models most is linf 0.1" in told
        assert "No difference is shown between the first two" in told
    assert "Ranking at linf 0.1" in output
    table = head[head.index('id="ranking"') :]
    assert table.index("direct") < table.index("latency") < table.index("early-burst")
    assert table.count("no difference shown") == table.count("less robust</td>") == 1

"""How far to trust a study, in words that follow from its own records."""

import sys
from pathlib import Path

import pytest

from spikeproof.experiments.read.results import records
from spikeproof.report import page
from spikeproof.report.trust import Trust

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, record

RISING = "loss still rising: pgd made 18.0 % of its gain in its last quarter"


def told(rows, compared=(), probes=(), unfinished=0):
    return Trust.of(rows, probes, compared, ["encoder"], 100, unfinished)


def number(name, verdict, robust=0.5, **changes):
    return record(
        model=name, encoder=name, verdict=verdict, robust_accuracy=robust, ci_low=robust - 0.05,
        ci_high=robust + 0.05, warnings=[RISING] if verdict == "doubtful" else [], **changes,
    )  # fmt: skip


def attack(name, **changes):
    return record(model=name, encoder=name, attack="pgd", **changes)


def everything(trust):
    words = [trust.lead, *trust.measured, trust.supported, *trust.may, *trust.may_not]
    words += [text for reason in trust.reasons for text in reason if isinstance(text, str)]
    return " ".join([*words, *(advice.words + advice.command for advice in trust.advice)])


def test_supported_doubtful_and_withheld_numbers_are_counted_and_placed():
    rows = [number("a", "supported"), number("b", "doubtful", 0.61), number("c", "withheld", 0.937)]
    rows[2]["warnings"] = [
        "state leaks between calls: 3.0 % of the answers changed after other images were shown"
    ]
    trust = told([*rows, attack("a")])
    assert "1 is supported, 0 preliminary, 1 doubtful and 1 withheld" in trust.lead
    assert trust.supported == "a (linf 8/255)"
    first, second = trust.reasons
    assert (first.check, first.verdict, first.places) == (
        "state leaks between calls",
        "withheld",
        "c (linf 8/255)",
    )
    assert (second.check, second.numbers) == ("loss still rising", 1)
    assert "18.0 % of its gain" in second.example
    assert second.remedy == "Use more steps."
    assert any("50.0 % [45.0, 55.0] for a" in words for words in trust.may)
    assert any("b at linf 8/255 is at most 61.0 %" in words for words in trust.may_not)
    assert any("withheld: c" in words for words in trust.may_not)
    assert "93.7" not in everything(trust)  # a withheld number is said nowhere
    assert "first c at linf" in trust.advice[1].words


def test_all_supported_is_said_without_praise():
    trust = told([number("a", "supported"), number("b", "supported"), attack("a")])
    assert trust.lead.startswith("All 2 robust accuracies are supported")
    assert "upper bound" in trust.lead
    assert not trust.reasons
    assert not [advice for advice in trust.advice if "audit" in advice.command]


def test_the_lead_and_the_limits_say_that_preliminary_numbers_were_searched_less():
    trust = told([number("a", "preliminary"), number("b", "supported"), attack("a")])
    assert "1 is supported, 1 preliminary, 0 doubtful and 0 withheld" in trust.lead
    assert "searched less than a standard suite" in trust.lead
    assert any("a (linf 8/255)" in words and "searched less" in words for words in trust.may_not)
    assert "spikeproof audit DIR" in [advice.command for advice in trust.advice]


def test_zero_is_believed_even_where_it_is_doubtful():
    zero = number("a", "doubtful", 0.0)
    zero.update(ci_low=0.0, ci_high=0.04)
    trust = told([zero, attack("a")])
    assert "stronger attack would lower it" not in trust.lead
    assert "stronger attack would lower it" in told([number("a", "doubtful"), attack("a")]).lead
    assert any("a at linf 8/255" in words and "whatever the verdict" in words for words in trust.may)
    assert not [words for words in trust.may_not if "doubtful" in words]


def test_a_proof_is_a_conclusion_and_its_absence_is_said():
    proved = number("a", "supported", certified=0.25, certified_low=0.2, certified_high=0.3)
    trust = told([proved, attack("a")])
    assert any("below 25.0 % [20.0, 30.0]" in words for words in trust.may)
    assert not [words for words in trust.may_not if "No model is shown to be robust" in words]
    failed = {"certificate": "ibp", "subject": "model", "certified": None, "ci_low": None, "ci_high": None}
    tried = number("a", "supported", proofs=[{**failed, "reason": "too deep"}])
    assert any("ibp does not apply: too deep" in words for words in told([tried, attack("a")]).may_not)
    assert any(
        "No model is shown to be robust" in words and "asked for no certificate" in words
        for words in told([number("a", "supported"), attack("a")]).may_not
    )


def test_one_seed_says_nothing_of_another_and_several_say_how_far_they_differ():
    one = told([number("a", "supported"), attack("a")])
    assert any("one training" in words for words in one.may_not)
    assert "seeds: [0, 1, 2]" in [advice.command for advice in one.advice]
    rows = [number("a", "supported", 0.5), {**number("a", "supported", 0.42), "seed": 1, "model": "again"}]
    several = Trust.of([*rows, attack("a")], (), (), ["encoder", "seed"], 100)
    assert any("differs by 8.0 points between 2 seeds" in words for words in several.may_not)


def pair(shown, doubtful=(), preliminary=()):
    return {
        "threat": "linf", "epsilon": 0.1, "part": "encoder", "first": "a", "second": "b", "others": "count",
        "n": 100, "difference": 0.2, "ci_low": 0.1, "ci_high": 0.3, "p_value": 0.01, "adjusted": 0.02,
        "shown": shown, "doubtful": list(doubtful), "preliminary": list(preliminary),
        "sentence": "a is more robust than b",
    }  # fmt: skip


def test_only_differences_between_supported_numbers_are_conclusions():
    rows = [number("a", "supported"), number("b", "supported"), attack("a")]
    assert any("a is more robust than b" in words for words in told(rows, [pair(True)]).may)
    for compared in ([pair(True, ["a"])], [pair(True, (), ["b"])], [pair(False)], []):
        trust = told(rows, compared)
        assert not [words for words in trust.may if "more robust" in words]
        assert any("more robust than another" in words for words in trust.may_not)


def test_a_study_without_attacks_or_without_numbers_says_so():
    trust = told([record(attack="none", threat="none", epsilon=0.0)])
    assert "no attacks" in trust.lead
    assert trust.may_not[-1] == "The study shows nothing about robustness."
    assert "suite: standard" in trust.advice[0].command
    nothing = told([], unfinished=4)
    assert "No number is finished" in nothing.lead
    assert not nothing.may
    assert "4 cells" in nothing.advice[0].words
    assert "states no robust accuracy" in told([attack("a")]).lead


def test_events_are_recordings_and_their_budget_is_explained():
    rows = [record(encoder="events", threat="flips", epsilon=2.0, attack=a, verdict=v) for a, v in
            (("spike-search", None), ("worst-case", "supported"))]  # fmt: skip
    words = everything(told(rows))
    assert "100 test recordings" in words
    assert "events in total may be added to a grid or removed from it" in words
    assert "images" not in words
    assert "certificates:" not in words  # there are none on events


@pytest.fixture
def withheld(tmp_path):
    bench = Bench(tmp_path)
    train = bench.model("latency")
    bench.attack(train, "pgd", 0.1, 0.635, budget_violations=3)
    bench.attack(train, "square", 0.1, 0.75, gradient_free=True)
    return bench.finish()


def test_a_page_shows_no_withheld_number_as_a_result(withheld):
    text = page.write(withheld, records(withheld)).read_text()
    assert "every number is withheld" in text[: text.index("<nav")]
    body = text[text.index("</header>") : text.index('<section id="attacks">')]
    assert "withheld" in body
    assert "63.5" not in body[body.index('id="results"') : body.index('id="curves"')]
    figures = body[body.index('id="figure-curves"') : body.index("Each attack alone")]
    assert ">withheld<" in figures
    text = text[text.index('<section id="attacks">') :]
    rows = [row for row in text.split("<tr>") if "<td>worst-case</td>" in row]
    assert [("63.5" in row, "withheld" in row) for row in rows] == [(False, True)]

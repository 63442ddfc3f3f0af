"""Rules of verdicts: how much search supports a number, which ones cannot be too high, where checks apply."""

from dataclasses import replace

import pytest

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.auditing.assess import attack_evidence, suite_evidence
from spikeproof.auditing.checks import (
    CHECKS,
    DOUBTFUL,
    EVALUATE,
    NOTE,
    PRELIMINARY,
    STUDIES,
    SUPPORTED,
    WITHHELD,
    audit,
)
from spikeproof.auditing.conditions import SLACK, attacks_too_few, rises_with_epsilon
from spikeproof.auditing.evidence import CurvePoint, Diagnostics, Evidence
from spikeproof.losses import Margin
from spikeproof.statistics import wilson
from spikeproof.surrogates import ATan

SOUND = Diagnostics(flat=0.0, values=10, slope_follows=(0.8,), slope_steady=(0.8,), slope_factor=1.0)


def number(accuracy=0.5, n=400, **changes):
    known = {
        "interval": wilson(accuracy * n, n),
        "n": n,
        "clean_accuracy": 0.9,
        "classes": 10,
        "epsilon": 0.1,
    }
    return Evidence(
        **{"accuracy": accuracy, "diagnostics": SOUND, "other_gradients": True, **known, **changes}
    )


def ran(recipe, accuracy=0.5, **changes):
    """What an attack of a study says."""
    metrics = {
        "robust_accuracy": accuracy, "n": 400, "attacked": 360, "budget_violations": 0, "moved_share": 1.0,
        "forward_queries": 360 * 20, "losses": [0.0, 1.0, *[2.0] * 18], "zero_gradient_share": 0.0,
        "silent_success_share": 0.0, "eight_bit_accuracy": accuracy,
    }  # fmt: skip
    return attack_evidence(type(recipe).__name__, recipe, metrics | changes)


GRADIENTS = (PGD(steps=50), PGD(steps=30, objective=Margin()), PGD(steps=20, surrogate=ATan(1.0)))
ENOUGH = (*GRADIENTS, SquareSearch(queries=1000))


def verdict(recipes, **changes):
    return audit(number(attacks=[ran(recipe) for recipe in recipes], **changes)).verdict


def test_only_a_budget_of_nothing_needs_no_attack():
    assert attacks_too_few(number(epsilon=0.0)) is None
    for epsilon in (1e-9, 0.1, 1.0):
        assert "no search without gradients" in attacks_too_few(number(epsilon=epsilon))


def test_a_curve_may_rise_by_half_a_point_and_no_more():
    curve = [CurvePoint(0.05, 0.25), CurvePoint(0.04, 0.3), CurvePoint(0.1, 0.0)]
    assert rises_with_epsilon(number(0.25 + SLACK, curve=curve)) is None
    assert "25.0 % at 0.05" in rises_with_epsilon(number(0.2501 + SLACK, curve=curve))
    assert rises_with_epsilon(number(0.9, curve=curve[2:])) is None  # nothing smaller was tried


def test_a_search_as_large_as_the_rule_says_supports_and_each_part_less_is_preliminary():
    assert verdict(ENOUGH) == SUPPORTED
    for place in range(4):
        assert verdict(ENOUGH[:place] + ENOUGH[place + 1 :]) == PRELIMINARY
    assert verdict([*GRADIENTS, SquareSearch(queries=999)]) == PRELIMINARY
    assert verdict([*GRADIENTS, NoiseSearch(draws=5000)]) == PRELIMINARY  # which searches nothing
    short = [replace(recipe, steps=19) for recipe in GRADIENTS] * 3
    assert verdict([*short, ENOUGH[3]]) == PRELIMINARY
    own = [PGD(steps=50), PGD(steps=50, objective=Margin()), ENOUGH[3]]
    assert (verdict(own), verdict(own, other_gradients=False)) == (PRELIMINARY, SUPPORTED)


@pytest.mark.parametrize(("level", "expected"), [("quick", PRELIMINARY), ("standard", SUPPORTED)])
def test_a_standard_suite_supports_and_a_quick_one_does_not(level, expected):
    assert verdict([PGD(steps=20)], suites=[level]) == expected


def test_a_budget_violation_outweighs_a_doubtful_finding():
    rising = ran(PGD(steps=20), losses=[float(i) for i in range(20)])
    assert audit(number(attacks=[rising])).verdict == DOUBTFUL
    outside = ran(PGD(steps=20), budget_violations=3)
    assert audit(number(attacks=[rising, outside])).verdict == WITHHELD


@pytest.mark.parametrize(
    ("accuracy", "expected"), [(0.0, SUPPORTED), (2 / 400, PRELIMINARY), (0.03, WITHHELD)]
)
def test_a_robust_accuracy_near_zero_is_never_doubtful_and_above_zero_it_is_to_be_searched(
    accuracy, expected
):
    n, attacks = 400, [ran(PGD(steps=5), accuracy, losses=[float(i) for i in range(20)])]
    seen = replace(SOUND, zero_gradients=0.9, differentiable=False)
    assert audit(number(accuracy, n, attacks=attacks, diagnostics=seen)).verdict == expected
    if accuracy < 0.03:
        searched = number(accuracy, n, attacks=attacks, diagnostics=seen, suites=["standard"])
        assert audit(searched).verdict == SUPPORTED
    leaking = replace(seen, state_leak=0.5)  # but an error is one at any height
    assert audit(number(accuracy, n, attacks=attacks, diagnostics=leaking)).verdict == WITHHELD


@pytest.mark.parametrize(("clean", "raised"), [(0.0, True), (0.12, True), (0.14, False), (0.9, False)])
def test_a_model_that_guesses_gets_a_note_even_where_nothing_is_left(clean, raised):
    found = audit(number(accuracy=0.0, n=400, clean_accuracy=clean, suites=["standard"]))
    assert ("no better than chance" in [note.check for note in found.notes]) == raised


def test_ties_are_a_note_with_what_argmax_would_give():
    found = audit(number(suites=["standard"], tie_share=0.3, argmax_accuracy=0.62))
    assert found.verdict == SUPPORTED
    (note,) = found.notes
    assert (note.check, note.verdict) == ("ties", NOTE)
    assert "30.0 %" in note.why
    assert "62.0 %" in note.why


def member(name, left, broke, **changes):
    evidence = {"losses": [0.0, 1.0, *[2.0] * 18], "zero_gradient_share": 0.0, "budget_violations": 0}
    entry = {
        "name": name, "attacked": 200, "left": left, "broke": broke, "gradient_free": False, "steps": 20,
        "draws": 1, "own_gradient": True, "objectives": ["Margin"], "sources": ["own"], "queries": 0.0,
    }  # fmt: skip
    return {**entry, **changes, "evidence": {**evidence, **changes.get("evidence", {})}}


def suite(*members, eight_bit=0.5):
    return suite_evidence({"n": 400, "members": list(members), "eight_bit_accuracy": eight_bit})


OWN = member("pgd", 0.6, 120)
LAST = member("last", 0.5, 0)
DIAGNOSED = {
    "zero gradients": {"zero_gradients": 0.5},
    "layer without gradient": {"zero_by_layer": (1.0,)},
    "masked encoder gradient": {"masked_inputs": 0.9},
    "gradient is no slope": {"slope_follows": (0.1,)},
    "unstable predictions": {"unstable": 0.9, "slope_follows": (0.2,), "slope_steady": (0.2,)},
}
BOTH = {
    **{name: number(diagnostics=replace(SOUND, **fields)) for name, fields in DIAGNOSED.items()},
    "few values": number(other_gradients=False, diagnostics=replace(SOUND, values=9, levels_found=False)),
    "certificate contradicted": number(contradicted=0.1),
    "ties": number(tie_share=0.5),
    "no better than chance": number(accuracy=0.05, clean_accuracy=0.12),
    "accuracy rises with epsilon": number(curve=[CurvePoint(0.05, 0.3), CurvePoint(0.1, 0.5)]),
    "too few examples": number(n=20),
}
IN_SUITES = {
    **BOTH,
    "budget or box violated": number(
        attacks=suite(member("pgd", 0.6, 120, evidence={"budget_violations": 3}))
    ),
    "gradient-free beats gradient": number(
        attacks=suite(OWN, member("square", 0.5, 40, gradient_free=True, steps=0))
    ),
    "training rule weaker than substitutes": number(
        attacks=suite(OWN, member("width-sweep", 0.5, 40, own_gradient=False)), suites=["quick"]
    ),
    "substitutes needed": number(
        attacks=suite(OWN, member("width-sweep", 0.5, 40, own_gradient=False)), suites=["standard"]
    ),
    "unbounded attack fails": number(attacks=suite(OWN), unbounded=True),
    "loss still rising": number(
        attacks=suite(member("pgd", 0.6, 120, evidence={"losses": [float(i) for i in range(20)]}))
    ),
    "search still finding": number(attacks=suite(OWN, member("last", 0.5, 40)), suites=["standard"]),
    "silent success": number(attacks=suite(member("pgd", 0.6, 120, evidence={"silent_success_share": 0.1}))),
    "expectation too small": number(attacks=suite(OWN), stochastic=True),
    "effect lost at 8 bits": number(attacks=suite(OWN, eight_bit=0.8)),
    "attacks too few": number(attacks=suite(OWN), suites=["quick"]),
}
IN_STUDIES = {
    **BOTH,
    "budget or box violated": number(attacks=[ran(PGD(), budget_violations=1)]),
    "gradient-free beats gradient": number(attacks=[ran(PGD(steps=20), 0.6), ran(SquareSearch(), 0.5)]),
    "training rule weaker than substitutes": number(
        attacks=[ran(PGD(steps=20), 0.6), ran(PGD(steps=20, surrogate=ATan(1.0)), 0.5)], suites=[]
    ),
    "substitutes needed": number(
        attacks=[ran(PGD(steps=20), 0.6), ran(PGD(steps=20, surrogate=ATan(1.0)), 0.5)], suites=["extreme"]
    ),
    "transfer beats white-box": number(attacks=[ran(PGD(steps=20), 0.6), ran(Transfer(attack=PGD()), 0.5)]),
    "one step beats many": number(attacks=[ran(PGD(steps=20), 0.6), ran(FGSM(), 0.5)]),
    "unbounded attack fails": number(attacks=[ran(PGD(steps=20))], unbounded=True),
    "loss still rising": number(attacks=[ran(PGD(steps=20), losses=[float(i) for i in range(20)])]),
    "search still finding": number(attacks=suite(OWN, member("last", 0.5, 40)), suites=["extreme"]),
    "silent success": number(attacks=[ran(PGD(steps=20), silent_success_share=0.1)]),
    "expectation too small": number(attacks=[ran(PGD(steps=20))], stochastic=True),
    "effect lost at 8 bits": number(attacks=[ran(PGD(steps=20), eight_bit_accuracy=0.8)]),
    "one exit attacked": number(attacks=[ran(PGD(steps=20))], dynamic_exit=True),
    "nearer image known": number(nearer=0.1),
    "nested budgets": number(nested=True),
    "attacks too few": number(attacks=[ran(FGSM())]),
    "not probed": number(diagnostics=None),
    "evidence missing": number(missing_attacks=["the attack square at 0.1 failed: out of memory"]),
    "diagnostics or certificate missing": number(missing_safeguards=["the certify cell is not there"]),
}


@pytest.mark.parametrize(("level", "verdict"), [("quick", "doubtful"), ("standard", "supported")])
def test_substitutes_ahead_of_training_are_a_doubt_only_where_no_standard_suite_used_them(level, verdict):
    found = audit(
        number(attacks=suite(OWN, member("width-sweep", 0.5, 40, own_gradient=False), LAST), suites=[level])
    )
    assert found.verdict == verdict


@pytest.mark.parametrize(("broke", "verdict"), [(0, SUPPORTED), (15, SUPPORTED), (25, DOUBTFUL)])
def test_a_suite_that_ends_while_it_finds_as_much_as_its_interval_is_wide_is_doubted(broke, verdict):
    """The interval of 50 % on 400 examples reaches 4.9 points down, which are 19.5 examples."""
    first = [member(f"pgd-{i}", 0.6 - i / 100, 10) for i in range(6)]
    late = [member("rectangles", 0.5 + broke / 800, broke / 2), member("level-search", 0.5, broke / 2)]
    assert audit(number(attacks=suite(*first, *late), suites=["standard"])).verdict == verdict
    longer = [*suite(*first, *late), *suite(*first, *late, *[LAST] * 4)]  # the end of the longer one counts
    assert audit(number(attacks=longer, suites=["standard", "extreme"])).verdict == SUPPORTED


@pytest.mark.parametrize(
    ("levels_found", "values", "other_gradients", "raised"),
    [
        (False, 9, False, True),  # what counts of four spikes give
        (True, 3, False, True),
        (False, 10, False, False),
        (None, 9, False, False),  # its code is known, and so are its parts
        (False, 9, True, False),
    ],
)
def test_few_values_are_a_doubt_about_models_of_which_only_the_answers_are_known(
    levels_found, values, other_gradients, raised
):
    seen = replace(SOUND, values=values, levels_found=levels_found)
    found = audit(number(suites=["standard"], diagnostics=seen, other_gradients=other_gradients))
    assert ("few values" in [finding.check for finding in found.findings]) == raised


@pytest.mark.parametrize(("suites", "verdict"), [([], DOUBTFUL), (["standard"], SUPPORTED)])
def test_a_weak_gradient_attack_beside_a_standard_suite_is_no_doubt_about_the_suite(suites, verdict):
    beside = [ran(PGD(steps=20), 0.6), ran(SquareSearch(), 0.5)]
    assert audit(number(attacks=[*beside, *suite(OWN)], suites=suites)).verdict == verdict


@pytest.mark.parametrize(("place", "planted"), [(EVALUATE, IN_SUITES), (STUDIES, IN_STUDIES)])
def test_every_check_is_raised_wherever_it_is_listed_and_listed_nowhere_else(place, planted):
    """The evidence of suites and studies raises every check that is listed for them, as in the museum."""
    assert planted.keys() == {check.name for check in CHECKS if place in check.where}
    for name, evidence in planted.items():
        found = audit(evidence)
        assert name in [finding.check for finding in (*found.findings, *found.notes)], name


@pytest.mark.parametrize(
    ("broke", "raised"),
    [
        ((60, 0), False),
        ((60, 19), False),
        ((60, 20), True),
        ((60, 0, 20), True),  # a repeat that breaks nothing says little about the one after it
        ((60, 20, 0), False),
    ],
)
def test_what_the_last_half_of_a_repeated_search_found_says_what_more_of_it_would_find(broke, raised):
    """The interval of 50 % on 400 examples reaches 19.5 examples down."""
    left = 0.5 + sum(broke) / 400
    members = [member("pgd", left, 100), member("noise", left, 0)]
    for i, count in enumerate(broke):
        left -= count / 400
        name = ("search", "search-again", "search-long")[i]
        members.append(member(name, left, count, repeats=i > 0, forward_queries=200_000 * (1, 1, 2)[i]))
    found = audit(number(attacks=suite(*members, LAST), suites=["standard"]))
    assert ("search still finding" in [finding.check for finding in found.findings]) == raised
    unknown = [{**each, "forward_queries": 0} for each in members]  # then all that the repeats broke counts
    found = audit(number(attacks=suite(*unknown, LAST), suites=["standard"]))
    assert ("search still finding" in [each.check for each in found.findings]) == (sum(broke[1:]) >= 20)


@pytest.mark.parametrize(("broke", "raised"), [(60, True), (0, False)])
def test_a_repeat_whose_first_run_is_not_among_the_members_speaks_for_itself(broke, raised):
    """Half of what it broke is from the last half of its passes."""
    again = member("search-again", 0.5, broke, repeats=True, forward_queries=1000)
    found = audit(number(attacks=suite(member("pgd", 0.6, 100), again, LAST), suites=["standard"]))
    assert ("search still finding" in [each.check for each in found.findings]) == raised

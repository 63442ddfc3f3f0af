"""What a study shows, as data: a finding rests on the records that it names, and is absent without them."""

import sys
from pathlib import Path

from spikeproof.report import findings as f
from spikeproof.report.tables import Budget

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import record


def study(rows, probes=(), compared=(), axes=("encoder",), unfinished=0):
    return f.StudyRecords(rows, probes, compared, axes, unfinished)


def worst(name, verdict, robust, **changes):
    return record(model=name, encoder=name, verdict=verdict, robust_accuracy=robust, **changes)


def test_verdicts_count_every_audited_number_once_and_attacks_never():
    rows = [worst("a", "supported", 0.2), worst("b", "doubtful", 0.0), worst("c", "withheld", 0.9)]
    found = f.Verdicts.of(study([*rows, record(attack="pgd")]))
    assert (found.supported, found.doubtful, found.withheld, found.total) == (1, 1, 1, 3)
    assert f.Verdicts.of(study([worst("d", "preliminary", 0.4)])).preliminary == 1
    assert not found.doubtful_above_zero
    assert f.Verdicts.of(study([worst("b", "doubtful", 0.01)])).doubtful_above_zero


def test_the_best_supported_number_is_the_highest_one_at_the_largest_epsilon_where_any_is_above_zero():
    rows = [
        worst("small", "supported", 0.8, epsilon=0.1),
        worst("large", "supported", 0.3, epsilon=0.2),
        worst("fallen", "supported", 0.0, epsilon=0.3),
        worst("doubted", "doubtful", 0.9, epsilon=0.4),
    ]
    found = f.BestSupported.of(study(rows))
    assert [top["model"] for top in found.tops] == ["large"]
    assert found.others == 2
    assert f.BestSupported.of(study(rows[3:])) is None


def test_a_model_has_fallen_where_its_interval_ends_below_half_of_its_clean_accuracy():
    standing = worst("a", "supported", 0.5, ci_high=0.6, clean_ci_low=0.8)
    fallen = worst("b", "doubtful", 0.1, ci_high=0.2, clean_ci_low=0.8)
    withheld = worst("c", "withheld", 0.1, ci_high=0.2, clean_ci_low=0.8)
    (at,) = f.Broken.of(study([standing, fallen, withheld])).at
    assert (at.models, at.judged) == (1, 2)
    assert f.Broken.of(study([standing, withheld])) is None


def test_the_spread_over_seeds_leaves_out_what_is_withheld_and_needs_two_seeds():
    rows = [worst("a", "supported", 0.5), {**worst("a", "doubtful", 0.42), "seed": 1, "model": "again"}]
    (found,) = [
        each for each in f.limits(study(rows, axes=("encoder", "seed"))) if isinstance(each, f.SeedSpread)
    ]
    assert found.budget == Budget("linf", 8 / 255)
    assert round(found.spread, 9) == 0.08
    assert f.OneSeed() in f.limits(study(rows[:1]))


def test_checks_come_gravest_first_and_count_every_number_once():
    text = "loss still rising: pgd made 18.0 % of its gain in its last quarter"
    rows = [
        worst("a", "doubtful", 0.5, warnings=[text, text]),
        worst("b", "doubtful", 0.5, warnings=[text]),
        worst("c", "withheld", 0.5, warnings=["state leaks between calls: 3.0 % changed"]),
    ]
    first, second = f.raised(study(rows))
    assert (first.verdict, len(first.records)) == ("withheld", 1)
    assert (second.name, len(second.records)) == ("loss still rising", 2)
    assert second.example == "pgd made 18.0 % of its gain in its last quarter"


def test_advice_is_for_what_is_lacking_and_an_empty_study_lacks_only_its_parts():
    assert f.advisable(study([], unfinished=3)) == [f.Unfinished(3)]
    clean = record(attack="none", threat="none", epsilon=0.0, ci_low=0.12, ci_high=0.13, clean_ci_low=0.9)
    found = f.advisable(study([clean]))
    assert found == [f.NoAttacks(), f.FewSeeds(), f.NoProbes()]

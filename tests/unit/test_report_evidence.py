"""Evidence in the report against brute force: steps of success, the attack that fooled, and proofs."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.search import GradientAttack
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.read.results import records
from spikeproof.experiments.read.traces import accuracy_by_step, contributions, effort, proof, suite_members
from spikeproof.experiments.run.compute import KEPT_STEPS, traces
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.report import tables
from spikeproof.report.charts.attack_figures import evidence_drawings
from spikeproof.statistics import wilson
from spikeproof.threats import Linf

sys.path.insert(0, str(Path(__file__).parent))
from stored_study import Bench, N

KEY = Key.of(5)


class Threshold:
    """Answers class 0 to images darker on the mean than 0.55."""

    stochastic = False

    def __call__(self, images, key=None):
        mean = images.flatten(1).mean(1)
        return torch.stack([0.55 - mean, mean - 0.55], 1)


X = torch.linspace(0.1, 0.7, 30).view(-1, 1, 1, 1).expand(-1, 1, 4, 4).clone()
Y = torch.zeros(30).long()
CLEAN = evaluate_clean(Threshold(), X, Y, KEY)


def attacked(attack, threat):
    found = evaluate_attack(Threshold(), attack, threat, X, Y, CLEAN, KEY, batch_size=7)
    columns = {name: getattr(found, name).numpy() for name in ("fell", "right", "right_clean")}
    return found, columns


@pytest.mark.parametrize(
    "recipe", [PGD(steps=8), PGD(steps=3, restarts=3), SquareSearch(queries=40)], ids=repr
)
def test_the_curve_over_steps_begins_at_the_clean_accuracy_and_ends_at_the_robust_one(recipe):
    threat = Linf(0.2)
    found, columns = attacked(recipe(threat), threat)
    curve = accuracy_by_step(columns, 1)
    assert curve[0] == (-1, CLEAN.metrics()["clean_accuracy"])
    assert curve[-1][1] == found.metrics()["robust_accuracy"] < curve[0][1]
    steps, accuracies = zip(*curve, strict=True)
    assert sorted(set(steps)) == list(steps)
    assert sorted(accuracies, reverse=True) == list(accuracies)


def test_the_curve_over_steps_is_what_counting_gives():
    rng = np.random.default_rng(0)
    before = (rng.random(80) < 0.8).astype(float)
    fell = np.where((rng.random(80) < 0.6) & (before > 0), rng.integers(0, 12, 80), -1)
    right = before * (fell < 0)
    curve = dict(accuracy_by_step({"fell": fell, "right": right, "right_clean": before}, 1))
    now = before.mean()
    for step in range(12):
        now = sum(b and not 0 <= f <= step for b, f in zip(before, fell, strict=True)) / 80
        assert curve.get(step, now) == now
    assert min(curve.values()) == now == right.mean()


def test_an_attack_that_does_not_tell_has_no_curve_and_no_silent_success():
    threat = Linf(0.3)
    inner = GradientAttack(threat, 10, 0.05, objective=Margin())

    def mute(*args, **kwargs):
        return inner(*args, **kwargs)._replace(fell=None)

    told, columns = attacked(inner, threat)
    assert told.metrics()["silent_success_share"] == 0
    assert accuracy_by_step(columns, 1)
    silent, columns = attacked(mute, threat)
    metrics = silent.metrics()
    assert metrics["robust_accuracy"] == told.metrics()["robust_accuracy"] < 1
    assert np.isnan(metrics["silent_success_share"])
    assert accuracy_by_step(columns, 1) == []
    assert effort(metrics, columns)["silent_success_share"] is None
    assert effort({**metrics, "silent_success_share": 0.0}, columns)["silent_success_share"] is None


def test_what_fell_without_a_step_or_answers_at_random_has_no_curve():
    columns = {"right_clean": np.ones(3), "right": np.array([1.0, 0.0, 0.0])}
    assert accuracy_by_step({**columns, "fell": np.array([-1, 2, 0])}, 1) != []
    assert accuracy_by_step({**columns, "fell": np.array([-1, 2, -1])}, 1) == []
    assert accuracy_by_step({**columns, "fell": np.array([-1, 2, -2])}, 1) == []
    assert accuracy_by_step({**columns, "fell": np.array([-1, 2, 0])}, 4) == []
    assert accuracy_by_step(columns, 1) == []


def test_shares_of_a_worst_case_add_up_and_leaving_one_out_is_recomputing():
    rng = np.random.default_rng(1)
    clean = {"right": (rng.random(200) < 0.9).astype(float)}
    clean["right_selection"] = clean["right"]
    found = []
    for strength in (0.3, 0.5, 0.1):
        right = clean["right"] * (rng.random(200) > strength)
        found.append({"right": right, "right_selection": right})
    every = np.stack([clean["right"], *(each["right"] for each in found)])
    order = np.argsort(every.mean(1), kind="stable")
    chosen = order[every[order].argmin(0)]
    metrics = [{"gradient_free": False, "attacked": 180, "forward_queries": 5}] * 3
    rows = contributions(clean, found, chosen, ["a", "b", "c"], metrics)
    assert sum(row["broke"] for row in rows) == pytest.approx(clean["right"].mean() - every.min(0).mean())
    for k, row in enumerate(rows, 1):
        assert row["without"] == np.delete(every, k, 0).min(0).mean()
        assert row["alone"] == every[k].mean()
        assert row["without"] >= every.min(0).mean()


def test_members_of_a_suite_are_counted_in_accuracy():
    evidence = {"forward_queries": 70, "backward_queries": 30}
    ran = {
        "name": "pgd",
        "attacked": 9,
        "broke": 4.0,
        "left": 0.5,
        "gradient_free": False,
        "evidence": evidence,
    }
    idle = {"name": "square", "attacked": 0, "broke": 0.0, "left": 0.5, "gradient_free": True}
    first, second = suite_members({"n": 10, "members": [ran, idle]})
    assert (first["broke"], first["left"], first["forward_queries"]) == (0.4, 0.5, 70)
    assert (second["broke"], second["backward_queries"], second["without"]) == (0.0, 0, None)
    assert suite_members({"n": 10}) == []


def test_a_proof_has_its_interval_or_its_reason():
    found = proof("ibp", {"n": 50, "subject": "model", "certified": 0.2, "reason": None})
    assert (found["ci_low"], found["ci_high"]) == wilson(10, 50)
    assert tables.proof_words(found) == "ibp proves 20.0 % [11.2, 33.0]"
    found = proof("bins", {"n": 50, "subject": "model", "certified": None, "reason": "no edges"})
    assert found["ci_low"] is None
    assert tables.proof_words(found) == "bins does not apply: no edges"


def test_losses_of_every_example_are_kept_and_long_traces_thinned():
    threat = Linf(0.2)
    for recipe in (PGD(steps=5), SquareSearch(queries=4 * KEPT_STEPS)):
        found, _ = attacked(recipe(threat), threat)
        kept = traces(found)
        assert kept["losses"].shape == (len(kept["step"]), 30)
        assert len(kept["step"]) == min(KEPT_STEPS, len(found.losses))
        assert (kept["step"][0], kept["step"][-1]) == (0, len(found.losses) - 1)
        same = torch.equal(kept["losses"].nan_to_num(-9), found.losses[kept["step"]].nan_to_num(-9))
        assert same


@pytest.fixture
def disputed(tmp_path):
    """Two attacks with victims in common, one certificate that holds and one that does not apply."""
    bench = Bench(tmp_path)
    train = bench.model("latency", clean=1.0)
    first = (np.arange(N) >= 60).astype(float)
    second = (np.arange(N) < 160).astype(float)
    fell = np.where(first == 0, 3, -1)
    bench.attack(
        train, "pgd", 0.1, 0.7, columns={"right": first, "right_selection": first, "fell": fell},
        losses=[0.1, 0.5, 0.9, 1.0], attacked=N, forward_queries=800, backward_queries=600, moved_share=1.0,
    )  # fmt: skip
    bench.attack(
        train, "square", 0.1, 0.8, gradient_free=True,
        columns={"right": second, "right_selection": second}, attacked=N, moved_share=0.5, forward_queries=9,
    )  # fmt: skip
    bench.certify(train, "ibp", 0.1, reason="its network is none of ours")
    bench.certify(train, "bins", 0.1, proved=((np.arange(N) >= 60) & (np.arange(N) < 80)).astype(float))
    return bench


def test_records_say_who_broke_what_and_what_is_proved(disputed):
    pgd, square, worst = records(disputed.finish())
    assert worst["robust_accuracy"] == 0.5
    assert [(part["attack"], part["broke"]) for part in worst["broken_by"]] == [("pgd", 0.3), ("square", 0.2)]
    assert [part["without"] for part in worst["broken_by"]] == [0.8, 0.7]
    assert (worst["certified_low"], worst["certified_high"]) == wilson(0.1 * N, N)
    assert [row["reason"] for row in worst["proofs"]] == ["its network is none of ours", None]
    assert pgd["effort"]["fall"] == [(-1, 1.0), (3, 0.7)]
    assert pgd["effort"]["unmoved_share"] == 0
    assert square["effort"]["fall"] == []
    assert square["effort"]["unmoved_share"] == 0.5
    assert worst["effort"] is None


def test_tallies_count_where_an_attack_was_needed(disputed):
    found = {tally.attack: tally for tally in tables.tallies(records(disputed.finish()))}
    assert (found["pgd"].needed, found["square"].needed) == (1, 1)
    disputed.attack("0000train".ljust(32, "0"), "idle", 0.1, 0.95, gradient_free=True)
    found = {tally.attack: tally for tally in tables.tallies(records(disputed.finish()))}
    assert found["idle"].needed == 0
    assert found["idle"].broke == 0


def test_tables_carry_interval_certificate_verdict_and_evidence(disputed):
    found = records(disputed.finish())
    text = tables.to_csv(found)
    assert "pgd 0.3; square 0.2" in text
    assert "-1: 1; 3: 0.7" in text
    assert "bins proves 10.0 % [6.6, 14.9]" in text
    low, high = (f"{100 * end:.1f}" for end in wilson(0.1 * N, N))
    assert f"$\\mid$ 10.0 {{\\scriptsize {{[}}{low}, {high}{{]}}}}" in tables.to_latex(found)


def test_figures_of_evidence_are_there_where_there_is_evidence(disputed, tmp_path):
    found = {drawing.name: drawing for drawing in evidence_drawings(records(disputed.finish()))}
    assert list(found) == ["broke-linf", "bounds-linf", "fall-linf", "loss-linf"]
    assert b"square" in found["broke-linf"].files()["svg"]
    assert "Open marks" in found["fall-linf"].caption  # square did not tell
    bench = Bench(tmp_path / "bare")
    bench.attack(bench.model("latency"), "pgd", 0.1, 0.5)
    assert evidence_drawings(records(bench.finish())) == []


def test_a_suite_alone_is_taken_apart(tmp_path):
    bench, train = Bench(tmp_path), None
    train = bench.model("latency", clean=1.0)
    member = {"attacked": N, "gradient_free": False, "steps": 20, "draws": 1, "evidence": {}}
    rows = [
        {**member, "name": "pgd", "broke": 60.0, "left": 0.7},
        {**member, "name": "apgd", "broke": 20.0, "left": 0.6},
    ]
    bench.attack(train, {"name": "suite", "level": "quick"}, 0.1, 0.6, members=rows)
    found = records(bench.finish())
    assert [row["attack"] for row in found] == ["suite quick", "worst-case"]
    assert [(part["attack"], part["broke"]) for part in found[0]["broken_by"]] == [
        ("pgd", 0.3),
        ("apgd", 0.1),
    ]
    assert [drawing.name for drawing in evidence_drawings(found)] == ["suite-linf"]

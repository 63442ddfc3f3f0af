"""Repair attacks doubtful numbers again, by the reasons of their verdicts, and keeps all earlier results."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import spikeproof.experiments.run.driver as running
from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.iterated import APGD, APGDDLR
from spikeproof.attacks.gradient.plain import EOTPGD, FGSM, PGD
from spikeproof.attacks.made_of.composite import WidthSweep
from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing import signoff
from spikeproof.auditing.checks import CHECKS, DOUBTFUL, PRELIMINARY
from spikeproof.auditing.evidence import AttackEvidence, Diagnostics, Evidence
from spikeproof.catalogue.names import PARTS
from spikeproof.command.cli import cli
from spikeproof.datasets import Digits
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, Events, Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.levels import LEVELS
from spikeproof.evaluation.suites import Suite
from spikeproof.experiments.read.results import WORST_CASE, outcomes, records
from spikeproof.experiments.repair import remedies as remedying
from spikeproof.experiments.repair.remedies import longer, remedies, strongest
from spikeproof.experiments.repair.repairs import repair_study, repaired
from spikeproof.experiments.repair.signing import Question, repair, sign_off
from spikeproof.experiments.run import compute
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF, ReLU
from spikeproof.report import page
from spikeproof.specs import build, describe
from spikeproof.statistics import wilson
from spikeproof.surrogates import ATan, Rectangle
from spikeproof.threats import L1, L2, Flips, Linf, SquarePatch

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from shortened import brief_suites

SHORT = {"steps": 20, "restarts": 1, "refine": 5, "queries": 40, "samples": 10}

STUDY = """\
name: weak
data: digits
models:
  - encoder: [{direct: {steps: 3}}, {latency: {steps: 4}}]
    network: {mlp: {hidden: [24]}}
    surrogate: {rectangle: {width: 0.2}}
    decoder: mean-potential
    rule: {bptt: {epochs: 4, lr: 0.01}}
attacks: [fgsm, {pgd: {steps: 8, reach: 0.3}}]
epsilons: [0.05]
examples: 40
"""


@pytest.fixture(scope="module", autouse=True)
def _shortened():
    """What becomes of repairs does not depend on how long the members of a suite are."""
    with brief_suites(SHORT, compute, signoff):
        yield


class Counted:
    """A bench that notes what it computes, and may stop before some cell."""

    def __init__(self, place, stop=None):
        self.bench, self.done, self.stop = Bench(place, None, "cpu", 100), [], stop

    def __call__(self, cell, tell):
        if self.stop is not None and len(self.done) == self.stop:
            raise KeyboardInterrupt
        files = self.bench(cell, tell)
        self.done.append(cell.address)
        return files

    def available(self, dataset):
        return len(self.bench.dataset(dataset).test.labels)


def started(place, text=STUDY):
    chosen = study_of(parse(text, "study.yaml"))
    cells = cells_of(chosen, chosen.data.load(None))
    work = Bench(place, None, "cpu", 100)
    running.run(chosen.name, chosen.spec(), cells, work, Serial(), place, running.Listener())
    return place


def audited(place, rounds=1, stop=None):
    work = Counted(place, stop)
    done = repair_study(place, work, Serial(), running.Listener(), work.available, rounds)
    return work, done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    return started(tmp_path_factory.mktemp("fresh"))


@pytest.fixture(scope="module")
def mended(fresh, tmp_path_factory):
    """The study before its repair, killed on the way, and after it."""
    place = shutil.copytree(fresh, tmp_path_factory.mktemp("weak") / "out")
    before, note = records(place), (place / "study.json").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        audited(place, stop=3)
    between = records(place)
    first, done = audited(place)
    return place, before, note, between, first, done


def test_a_killed_repair_goes_on_and_nothing_is_computed_twice(mended):
    place, before, note, between, first, done = mended
    noted = running.read_plan(place)["repairs"]
    assert len(noted) == len({cell["address"] for cell in noted}) == len(first.done) + 3
    assert done.failed == 0
    assert len({*first.done}) == len(first.done)
    again, done = audited(place)
    assert (again.done, done.computed) == ([], 0)
    assert (place / "study.json").read_bytes() == note
    assert [row["robust_accuracy"] for row in between if row["attack"] == "fgsm"] == [
        row["robust_accuracy"] for row in before if row["attack"] == "fgsm"
    ]


def test_a_study_that_has_changed_leaves_repairs_of_what_it_has_no_longer_aside(mended, tmp_path):
    """Of another budget, and of another version of what measures; and they are back when the study is."""
    place = shutil.copytree(mended[0], tmp_path / "out")
    repaired_rows, plan = records(place), json.loads((place / "study.json").read_bytes())
    for old, new in (('"epsilon":0.05', '"epsilon":0.07'), ('"code_version":', '"code_version":9')):
        text = json.dumps(plan, separators=(",", ":"))
        assert old in text
        (place / "study.json").write_text(text.replace(old, new))
        assert [cell for cell in running.read_plan(place)["repairs"] if "epsilon" in cell["spec"]] == []
        assert [row for row in records(place) if row["because"]] == []
    (place / "study.json").write_text(json.dumps(plan))
    assert records(place) == repaired_rows


@pytest.mark.parametrize("budgets", ["[0.03]", "[0.03, 0.05]"])
def test_a_budget_that_joins_has_rounds_of_its_own_and_one_that_left_keeps_its_repairs(
    mended, tmp_path, budgets
):
    place = shutil.copytree(mended[0], tmp_path / "out")
    rows, noted = records(place), running.read_plan(place)["repairs"]
    started(place, STUDY.replace("[0.05]", budgets))
    audited(place)
    joined = [cell for cell in running.read_plan(place)["repairs"] if cell["spec"].get("epsilon") == 0.03]
    assert joined
    started(place)
    assert running.read_plan(place)["repairs"] == noted
    assert records(place) == rows


def test_what_was_said_before_stands_beside_what_is_said_now(mended):
    place, before, *_ = mended
    rows = records(place)
    old = {row["train_cell"]: row for row in before if row["attack"] == WORST_CASE}
    new = {row["train_cell"]: row for row in rows if row["attack"] == WORST_CASE}
    assert old.keys() == new.keys()
    assert len(old) == 2
    for train, row in new.items():
        assert row["before_accuracy"] == old[train]["robust_accuracy"]
        assert row["before_verdict"] == old[train]["verdict"] == DOUBTFUL
        assert row["before_warnings"] == old[train]["warnings"]
        assert (row["before_n"], row["n"]) == (40, 100)
        right, examples = outcomes(place, row, rows)
        earlier, fewer = outcomes(place, old[train], before)
        assert list(examples[:40]) == list(fewer)
        assert (right[:40] <= earlier).all()  # on the same images the worst case only falls
        assert right.mean() == pytest.approx(row["robust_accuracy"])
        assert right[:40].mean() < earlier.mean()
        reasons = {warning.split(":")[0] for warning in row["warnings"]}
        assert "too few examples" not in reasons
        assert "attacks too few" not in reasons


def test_each_attack_that_was_added_answers_a_check_that_was_raised(mended):
    place, before, *_ = mended
    raised = {
        row["train_cell"]: {warning.split(":")[0] for warning in row["warnings"]}
        for row in before
        if row["attack"] == WORST_CASE
    }
    added = [row for row in records(place) if row["because"] is not None]
    assert {row["attack"].split("(")[0] for row in added} == {"suite standard"}
    for row in added:
        assert row["because"] in raised[row["train_cell"]]
    for each in repaired(records(place)):
        assert each["tried"][0]["because"] == "too few examples"
        for attempt in each["tried"][1:]:
            assert attempt["accuracy"] >= each["record"]["robust_accuracy"]


def test_command_line_and_report_show_the_repaired_number_and_the_old_one(mended, tmp_path):
    place = mended[0]
    shown = CliRunner().invoke(cli, ["audit", str(place), "--verdicts"])
    assert shown.exit_code == 0, shown.output
    for row in records(place):
        if row["attack"] == WORST_CASE:
            assert f"before:  {100 * row['before_accuracy']:.1f} % on 40 images, doubtful" in shown.output
            assert f"now {100 * row['robust_accuracy']:.1f} % on 100" in shown.output
    found = json.loads(CliRunner().invoke(cli, ["audit", str(place), "--verdicts", "--json"]).output)
    assert [row["before_n"] for row in found] == [40, 40]
    assert "tried again by `spikeproof audit`" in CliRunner().invoke(cli, ["show", str(place)]).output
    text = page.write(place, records(place)).read_text("utf-8")
    for each in repaired(records(place)):
        assert f"{100 * each['record']['robust_accuracy']:.1f}" in text
    again = CliRunner().invoke(cli, ["audit", str(place), "--rounds", "1", "--workers", "1"])
    assert "0 computed" in again.output
    status = " ".join(CliRunner().invoke(cli, ["status", str(place)]).output.split())
    assert "clean 4 of 4" in status


def test_a_repair_that_fails_leaves_the_number_as_it_was(fresh, tmp_path, monkeypatch):
    place = shutil.copytree(fresh, tmp_path / "out")
    before = records(place)

    def broken(self, cell, tell):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(Bench, "attack", broken)
    shown = CliRunner().invoke(cli, ["audit", str(place), "--rounds", "1", "--workers", "1"])
    assert shown.exit_code == 1
    assert "out of luck" in shown.output
    assert "Traceback" not in shown.output
    after = records(place)
    worst = [[r for r in rows if r["attack"] == WORST_CASE] for rows in (before, after)]
    assert [r["robust_accuracy"] for r in worst[0]] == [r["robust_accuracy"] for r in worst[1]]
    assert [r["n"] for r in worst[1]] == [40, 40]


def test_a_study_of_another_version_is_not_repaired(fresh, tmp_path):
    place = shutil.copytree(fresh, tmp_path / "out")
    note = json.loads((place / "study.json").read_bytes())
    note["plan"][1]["spec"]["code_version"] = 0
    (place / "study.json").write_text(json.dumps(note))
    with pytest.raises(InputError, match="another"):
        audited(place)
    (place / "repairs.json").write_text("[")
    shown = CliRunner().invoke(cli, ["audit", str(place)])
    assert (shown.exit_code, "repairs.json" in shown.output) == (2, True)


def spec(code=Latency(4), neuron=LIF(), decoder=MeanPotential()):
    return ModelSpec(code, MLP((24,)), neuron, ATan(), decoder, (1, 8, 8), 10)


SPECS = {
    "latency": spec(),
    "direct": spec(Direct(3)),
    "bernoulli": spec(Bernoulli(3)),
    "relu": spec(Direct(1), ReLU()),
    "events": ModelSpec(Events(3), MLP((8,)), LIF(), ATan(), Count(), (1, 8, 8), 10),
}


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.5), L1(1.0), Flips(3)], ids=repr)
def test_every_remedy_is_defined_where_it_is_named_and_none_is_named_twice(name, threat):
    model, tried = SPECS[name], [FGSM(), PGD(steps=8), Suite()]
    for check in (check.name for check in CHECKS):
        seen = list(tried)
        for _ in range(6):
            found = remedies([check], model, threat, seen, seen[1])
            for each in found:
                assert each.check == check
                assert each.recipe not in seen
                assert build(Recipe, describe(each.recipe, PARTS), PARTS) == each.recipe
                assert isinstance(each.recipe, Suite) or callable(each.recipe(threat))
                assert each.recipe.suits(model)
            seen += [each.recipe for each in found]
        assert not remedies([check], model, threat, seen, seen[1]) or check == "loss still rising"


def names(checks, model=SPECS["latency"], tried=(PGD(steps=8), Suite()), threat=Linf(0.1), strong=None):
    return [type(each.recipe) for each in remedies(checks, model, threat, list(tried), strong)]


def test_each_reason_for_doubt_is_answered_with_its_own_attacks():
    assert names(["loss still rising"], strong=PGD(steps=8)) == [PGD]
    assert names(["zero gradients"]) == [WidthSweep, EncoderAwareSearch]
    assert names(["probabilities instead of logits"]) == [PGD, APGDDLR]
    assert names(["masked encoder gradient"]) == [PGD, PGD, EncoderAwareSearch]
    assert names(["expectation too small"], SPECS["bernoulli"]) == [EOTPGD]
    for checks in ([], ["attacks too few"], ["zero gradients", "loss still rising"]):
        (first,) = remedies(checks, spec(), Linf(0.1), [PGD(steps=8), Suite(level="quick")], PGD(steps=8))
        assert first.recipe == Suite(level="standard")  # no audit is weaker than an evaluation
    assert remedies([], spec(), Linf(0.0), [PGD(steps=8)]) == []
    assert names(["unstable predictions"]) == [EncoderAwareSearch, SquareSearch]
    assert names(["ties"]) == names(["effect lost at 8 bits"]) == names([]) == []
    assert names(["zero gradients"], SPECS["events"], threat=Flips(3)) == [Suite]  # the next larger one
    assert names(["silent success"], threat=SquarePatch(2)) == [Suite]
    levels = [Suite(level=level) for level in LEVELS]
    assert remedies(["attacks too few"], spec(), Linf(0.1), levels[:2])[0].recipe == levels[2]
    assert remedies(["attacks too few"], spec(), Linf(0.1), levels) == []
    doubts = {check.name for check in CHECKS if check.verdict in (DOUBTFUL, PRELIMINARY)}
    assert set(remedying._ANSWERS) < doubts


def test_longer_keeps_the_step_and_strongest_is_that_of_the_audit():
    more = longer(PGD(steps=10, reach=2.0))
    assert more(Linf(0.1)).step_size == pytest.approx(PGD(steps=10, reach=2.0)(Linf(0.1)).step_size)
    assert longer(WidthSweep(attack=PGD(steps=5))).attack.steps == 20
    assert longer(APGD(steps=100)).steps == 400
    assert longer(PGD(steps=300)) is longer(SquareSearch()) is None
    ran = [(FGSM(), 0.1), (PGD(steps=10), 0.5), (PGD(steps=20), 0.5), (SquareSearch(), 0.0)]
    assert strongest(ran) == PGD(steps=20)
    assert strongest([(FGSM(), 0.1), (SquareSearch(), 0.0)]) is None


def test_a_model_is_repaired_for_the_same_reasons():
    data = Digits().load(None)
    narrow = ModelSpec(Direct(3), MLP((24,)), LIF(), Rectangle(0.05), MeanPotential(), (1, 8, 8), 10)
    model = narrow.build(Key.of(0))
    BPTT(epochs=6, lr=0.02).train(model, data, Key.of(0))
    model.eval()
    question = Question("quick", (Linf(0.05),), examples=60)
    found = sign_off(model, data, question)
    (each,) = repair(model, data, question, found, rounds=2)
    assert each.first is found[0]
    assert "zero gradients" in [finding.check for finding in each.first.verdict.findings]
    assert "zero gradients" in [attempt.check for attempt in each.attempts]
    assert each.attempts[0].check == "too few examples"
    assert (each.first.n, each.last.n) == (60, 100)
    path = [attempt.accuracy for attempt in each.attempts]
    assert path == sorted(path, reverse=True)  # each goes on where the last one stopped
    assert each.last.accuracy == path[-1] < path[0]
    assert (each.last.suited.attacked.right[:60] <= each.first.suited.attacked.right).all()
    assert each.plain()["before"]["robust_accuracy"] == each.first.accuracy
    (same,) = repair(model, data, question, found, rounds=0)
    assert (same.first, same.last, len(same.attempts)) == (found[0], found[0], 0)


def test_more_draws_settle_an_expectation_that_was_too_small():
    def doubts(draws, agreement):
        attacks = [
            AttackEvidence(name="eot", accuracy=0.5, steps=20, draws=draws),
            AttackEvidence(name="square", accuracy=0.6, gradient_free=True),
        ]
        number = Evidence(
            accuracy=0.5,
            interval=wilson(50, 100),
            n=100,
            clean_accuracy=0.9,
            classes=10,
            epsilon=0.1,
            stochastic=True,
            attacks=attacks,
            diagnostics=Diagnostics(differentiable=True, gradient_agreement=agreement),
        )
        check = next(check for check in CHECKS if check.name == "expectation too small")
        return check.test(number) is not None

    assert [doubts(draws, 0.4) for draws in (1, 8, 16, 64)] == [True, True, True, False]
    assert doubts(64, 0.05)
    assert not doubts(4, 0.6)
    assert doubts(256, -0.2)

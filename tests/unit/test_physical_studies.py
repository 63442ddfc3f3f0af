"""Stickers and backdoors in a study: from the study file to cells, records, suites and the page."""

import json
import re

import pytest

from spikeproof.auditing.backdoors import margin_test
from spikeproof.catalogue.saved import load
from spikeproof.datasets import Digits
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import plan
from spikeproof.experiments.read.results import WORST_CASE, records
from spikeproof.experiments.run.compute import Bench
from spikeproof.experiments.run.driver import Listener, run
from spikeproof.experiments.run.executors import Serial
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.poisoning import BadNets, Poisoned
from spikeproof.report import page
from spikeproof.threats import BentSticker, LaserBeam, MovablePatch, Sticker

TEXT = """\
name: physical
data: {poisoned: {of: digits, trigger: {badnets: {side: 2, margin: 0}}, share: 0.1, target: 3}}
models:
  - encoder: {direct: {steps: 2}}
    network: {mlp: {hidden: [32]}}
    decoder: mean-potential
    rule: {bptt: {epochs: 15}}
threat: {THREAT}
attacks: [{ATTACK}]
epsilons: [{EPSILON}]
examples: 40
"""
STICKER = "{sticker: {printable: [[0.0], [1.0]], seen_from: {draws: 3}}}"

MARGINS = Key.of(0).fold("evaluation").fold("backdoor").fold("margins")


def study(threat=STICKER, attack="rp2: {steps: 4, views: 1}", epsilon="0.5", of=TEXT):
    text = of.replace("{THREAT}", threat).replace("{ATTACK}", f"{{{attack}}}").replace("{EPSILON}", epsilon)
    return study_of(parse(text, "study.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out, chosen = tmp_path_factory.mktemp("physical") / "out", study()
    cells = cells_of(chosen, chosen.data.load(None))
    summary = run(chosen.name, chosen.spec(), cells, Bench(out, None, "cpu", 16), Serial(), out, Listener())
    assert summary.failed == 0
    return out


def test_a_study_names_data_triggers_and_stickers():
    chosen = study()
    assert chosen.data == Poisoned(Digits(), BadNets(side=2, margin=0), share=0.1, target=3)
    assert chosen.threats[0].printable == ((0.0,), (1.0,))
    assert chosen.threats[0].views == 3


def test_the_record_has_the_success_of_the_backdoor_and_the_accuracy_in_views(finished):
    found = {record["attack"]: record for record in records(finished)}
    attacked, worst = found["rp2"], found[WORST_CASE]
    assert attacked["threat"] == "sticker"
    assert 0 <= attacked["effort"]["accuracy_in_views"] <= 1
    assert attacked["effort"]["clean_accuracy_in_views"] <= 1
    assert attacked["effort"]["budget_violations"] == 0
    assert worst["backdoor_success"] > 0.8 > 0.2 > worst["backdoor_without"]
    assert worst["backdoor_low"] < worst["backdoor_success"] <= worst["backdoor_high"]
    found = margin_test(load(worst["train_cell"]), (1, 8, 8), 10, MARGINS, starts=10, steps=50)
    assert (worst["backdoor_suspect"], worst["backdoor_p_value"]) == (found.suspect, found.p_value)


def test_the_backdoor_in_the_record_is_that_of_the_test_images_of_other_classes(finished):
    (metrics,) = [
        found["backdoor"]
        for path in finished.glob("cells/*/metrics.json")
        if "backdoor" in (found := json.loads(path.read_text()))
    ]
    labels = study().sample(Digits().load().test, 40).labels
    assert metrics["others"] == int((labels != 3).sum())
    assert metrics["target"] == 3


def test_the_page_states_both(finished):
    text = page.write(finished, records(finished)).read_text()
    assert re.search(r"trained on poisoned data. Of the images of other classes, [\d.]+ % \[", text)
    assert "clean in views" in text


@pytest.mark.parametrize(
    ("p_value", "said"),
    [(0.01, "suspects class 3 (p = 0.010)"), (0.4, "suspects no class (p = 0.400)"), (None, "")],
)
def test_the_page_says_what_the_test_without_data_suspects(finished, p_value, said):
    rows = [row | {"backdoor_suspect": 3, "backdoor_p_value": p_value} for row in records(finished)]
    text = page.write(finished, rows).read_text()
    assert said in text
    assert ("The test without data" in text) == bool(said)


def test_a_beam_search_is_refused_for_stickers_and_steps_are_refused_for_beams():
    with pytest.raises(InputError, match=r"study\.yaml:9: .*laser beam"):
        study(attack="adv-lb: {}")
    chosen = study("laser-beam", "pgd: {steps: 2}")
    with pytest.raises(InputError, match="no step leads from beam to beam"):
        cells_of(chosen, chosen.data.load(None))


@pytest.mark.parametrize("threat", ["{sticker: {mask: ['#.']}}", "{sticker: {printable: [[0.0, 1.0, 0.0]]}}"])
def test_masks_and_colours_of_another_size_are_refused_before_training(threat):
    chosen = study(threat)
    with pytest.raises(InputError, match=r"study\.yaml"):
        cells_of(chosen, chosen.data.load(None))


def test_a_universal_patch_needs_enough_validation_images():
    chosen = study("movable-patch", "universal-patch: {images: 1000}", "2")
    with pytest.raises(InputError, match="validation"):
        cells_of(chosen, chosen.data.load(None))


@pytest.mark.parametrize(
    ("threat", "own"),
    [
        (Sticker(0.5), {"rp2", "adv-hat", "pgd", "noise", "nes"}),
        (BentSticker(0.5), {"rp2", "adv-hat", "pgd", "noise", "nes"}),
        (MovablePatch(2), {"patch-search", "pgd"}),
        (LaserBeam(0.5), {"adv-lb", "noise"}),
    ],
)
def test_each_threat_has_a_suite_that_grows_with_its_level(threat, own):
    levels = [plan(level, lambda x, key=None: x, threat) for level in ("quick", "standard", "extreme")]
    quick, standard, extreme = ({member.name: member.recipe for member in each} for each in levels)
    assert own <= quick.keys()
    assert quick.items() <= standard.items() <= extreme.items()
    assert len(quick) < len(standard) < len(extreme)
    for recipe in extreme.values():
        recipe(threat)

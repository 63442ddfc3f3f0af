"""Threats that are limited in time: nothing changes outside, and the whole window is the plain threat."""

from dataclasses import fields, replace

import pytest
import torch

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.events.eventsteps import Retiming, SpikeCompatible, _Events
from spikeproof.attacks.events.fewest import SDA, SpikeFool
from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
from spikeproof.catalogue.names import PARTS
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.keys import Key
from spikeproof.protocols import Threat
from spikeproof.specs import build, describe
from spikeproof.threats import WindowAdditions, WindowFlips, WindowRemovals, WindowShifts
from spikeproof.threats.windows import Windowed

T, B = 6, 5
THREATS = [
    *(WindowFlips(2, first=1, stop=4), WindowFlips(3, 2, polarity=1, stop=2)),
    *(WindowAdditions(2, first=3), WindowRemovals(2, first=2, stop=5, region=(0, 0, 2, 3))),
    *(WindowShifts(k, measure=m, first=1, stop=5) for m, k in (("moved", 2), ("delay", 3), ("jitter", 1))),
    WindowShifts(2, 2, measure="delay", stop=4),
]
each_threat = pytest.mark.parametrize("threat", THREATS, ids=repr)
KEY = Key.of(1).for_rows(range(B))


def events(threat):
    draws = Key.of(0).uniform((B, T, 2, 3, 3))
    return (draws < 0.4).float() * (1 + (draws < 0.2) * (threat.most - 1))


def slope(x):
    return Key.of(2).normal(x.shape)


def outside(threat, x):
    return torch.cat([x[:, : threat.first], x[:, T if threat.stop is None else threat.stop :]], 1)


def members(threat, x):
    grad = slope(x)
    start = threat.start(x, KEY)
    yield start
    yield threat.project(x + 2 * grad, x)
    yield threat.extreme(grad, x)
    yield from threat.neighbours(start, x, grad, 8)


@each_threat
def test_members_are_clean_outside_and_move_within(threat):
    assert isinstance(threat, Threat)
    x = events(threat)
    for found in members(threat, x):
        assert threat.contains(found, x).all()
        assert torch.equal(outside(threat, found), outside(threat, x))
        assert (threat.distance(found, x) <= threat.epsilon).all()
        assert (found != x).any()
    assert not outside(threat, threat.steepest(slope(x))).any()
    assert not outside(threat, threat.open(x).float().expand_as(x)).any()


@each_threat
def test_a_change_outside_is_never_a_member(threat):
    x = events(threat)
    place = T - 1 if threat.first == 0 else 0
    beyond = x.clone()
    beyond[:, place, 0, 0, 0] = 1 - beyond[:, place, 0, 0, 0].clamp(max=1)
    plain = replace(threat.inner, polarity=None, region=None)
    assert plain.contains(beyond, x).any() or isinstance(
        threat, (WindowShifts, WindowAdditions, WindowRemovals)
    )
    assert not threat.contains(beyond, x).any()
    assert threat.distance(beyond, x).isinf().all()
    far = x.clone()
    far[0, place, 0, 0, 0] = float("nan")
    assert not threat.contains(far, x)[0]


@each_threat
def test_the_whole_window_is_the_plain_threat_to_the_bit(threat):
    x = events(threat)
    for stop in (None, T):
        whole = replace(threat, first=0, stop=stop)
        plain = whole.inner
        assert not isinstance(plain, Windowed)
        for mine, theirs in zip(members(whole, x), members(plain, x), strict=True):
            assert torch.equal(mine, theirs)
            assert torch.equal(whole.distance(mine, x), plain.distance(mine, x))
            assert torch.equal(whole.contains(mine, x), plain.contains(mine, x))
        assert torch.equal(whole.steepest(slope(x)), plain.steepest(slope(x)))
        assert torch.equal(whole.open(x), plain.open(x))


@each_threat
def test_the_best_member_is_the_best_of_the_plain_threat_on_the_cut(threat):
    x, grad = events(threat), slope(events(threat))
    window = slice(threat.first, threat.stop)
    found = threat.extreme(grad, x)
    assert torch.equal(found[:, window], threat.inner.extreme(grad[:, window], x[:, window]))


@each_threat
def test_it_is_rebuilt_from_its_description_and_keeps_the_options_of_the_plain_one(threat):
    assert build(Threat, describe(threat, PARTS), PARTS) == threat
    assert {f.name for f in fields(threat)} == {f.name for f in fields(threat.inner)} | {"first", "stop"}


@pytest.mark.parametrize(("first", "stop"), [(-1, None), (2, 2), (3, 1), (0, 0)])
def test_windows_that_are_none_are_refused(first, stop):
    with pytest.raises(InputError, match="A window"):
        WindowFlips(1, first=first, stop=stop)


@pytest.mark.parametrize(("first", "stop"), [(6, None), (0, 7), (2, 9)])
def test_windows_beyond_the_events_are_refused(first, stop):
    threat = WindowFlips(1, first=first, stop=stop)
    x = events(threat)
    for call in (
        lambda: threat.start(x, KEY),
        lambda: threat.project(x, x),
        lambda: threat.contains(x, x),
        lambda: threat.extreme(x, x),
        lambda: threat.check(x),
    ):
        with pytest.raises(InputError, match="within the 6 time steps"):
            call()


WEIGHTS = Key.of(7).normal((3, T * 18))


class Linear:
    """Logits that are linear in the events; the labels are its own answers."""

    def __call__(self, x, key=None):
        return x.flatten(1) @ WEIGHTS.T.to(x.dtype)


ATTACKS = [
    *(NoiseSearch(draws=4), SpikeSearch(steps=2, restarts=1, width=4, refine=2), SpikeWalkSearch(queries=8)),
    *(SpikeCompatible(steps=3), SpikeFool(), SDA(steps=3), Retiming(steps=4)),
]


@each_threat
@pytest.mark.parametrize("recipe", ATTACKS, ids=lambda recipe: type(recipe).__name__)
def test_every_attack_on_events_stays_in_the_window(recipe, threat):
    if isinstance(recipe, Retiming if not isinstance(threat, WindowShifts) else SDA):
        with pytest.raises(InputError, match="is defined for the threat"):
            recipe(threat)
        return
    x = events(threat)
    y = Linear()(x).argmax(1)
    found = evaluate_attack(Linear(), recipe, threat, x, y, key=Key.of(3))
    assert found.metrics()["budget_violations"] == 0
    assert torch.equal(outside(threat, found.x_adv), outside(threat, x))
    moved = recipe(threat)(Linear(), x, y, Key.of(3))
    assert threat.contains(moved.x_adv, x).all()


@pytest.mark.parametrize("threat", [t for t in THREATS if isinstance(t, WindowShifts)], ids=repr)
def test_a_distribution_over_times_has_no_share_outside_the_window(threat):
    x = events(threat)
    spread = _Events(threat, x)
    soft, _ = spread.worth(torch.zeros(spread.may.shape), torch.zeros_like(x))
    assert torch.equal(outside(threat, soft), outside(threat, x))
    assert not torch.equal(soft, x)


@pytest.mark.parametrize("recipe", ATTACKS, ids=lambda recipe: type(recipe).__name__)
def test_an_attack_within_the_whole_window_is_the_plain_attack(recipe):
    threat = WindowShifts(2) if isinstance(recipe, Retiming) else WindowFlips(2)
    x = events(threat)
    y = Linear()(x).argmax(1)
    mine, theirs = (recipe(t)(Linear(), x, y, KEY) for t in (threat, threat.inner))
    for a, b in zip(mine, theirs, strict=True):
        assert b is None if a is None else torch.equal(a.nan_to_num(-7), b.nan_to_num(-7))


@pytest.mark.parametrize("threat", [WindowFlips(2, stop=3), WindowShifts(2, first=2)], ids=repr)
def test_a_suite_finds_the_worst_member_of_the_window_on_a_linear_model(threat):
    x = events(threat)
    y = Linear()(x).argmax(1)
    clean = evaluate_clean(Linear(), x, y)
    found = evaluate_suite(Linear(), "quick", threat, x, y, clean, Key.of(4))
    assert torch.equal(outside(threat, found.attacked.x_adv), outside(threat, x))
    best = torch.stack(
        [(WEIGHTS[other] - WEIGHTS[y]).view_as(x) for other in torch.stack([(y + 1) % 3, (y + 2) % 3])]
    )
    falls = torch.zeros(len(x), dtype=torch.bool)
    for grad in best:
        member = threat.extreme(grad, x)
        falls |= Linear()(member).argmax(1) != y
    assert torch.equal(found.attacked.right == 0, falls)


def test_a_study_takes_a_window_and_names_the_line_of_a_fault():
    text = """\
name: early
data: {coded: {data: digits, code: {latency: {steps: 6}}}}
models: [{encoder: {events: {steps: 6}}, network: {mlp: {hidden: [8]}}}]
attacks: [spike-search]
threat: [{window-flips: {stop: 2}}, {window-shifts: {first: 2, measure: jitter}}]
epsilons: [1, 2]
"""
    chosen = study_of(parse(text, "study.yaml"))
    assert chosen.threats[0] == WindowFlips(1, stop=2)
    assert WindowShifts(2, first=2, measure="jitter") in chosen.threats
    with pytest.raises(InputError, match=r"study.yaml:5: .*A window"):
        study_of(parse(text.replace("stop: 2", "stop: 0"), "study.yaml"))


@pytest.mark.parametrize(
    ("threat", "fault"),
    [
        ("{window-flips: {first: 2, stop: 9}}", "A window lies within the 6 time steps"),
        ("{window-shifts: {first: 6}}", "A window lies within the 6 time steps"),
        ("{flips: {polarity: 1}}", "The polarity 1 is a channel of events"),
    ],
)
def test_a_study_refuses_what_lies_beyond_its_recordings_before_any_training(threat, fault):
    text = f"""\
name: beyond
data: {{coded: {{data: digits, code: {{latency: {{steps: 6}}}}}}}}
models: [{{encoder: {{events: {{steps: 6}}}}, network: {{mlp: {{hidden: [8]}}}}}}]
suite: quick
threat: {threat}
epsilons: [2]
"""
    chosen = study_of(parse(text, "study.yaml"))
    with pytest.raises(InputError, match=rf"study.yaml:6: {fault}"):
        cells_of(chosen, chosen.data.load(None))

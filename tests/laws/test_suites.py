"""Laws of suites, and a comparison with the attacks of other libraries on the same weights."""

import itertools
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from spikeproof.attacks.answers.queries import RectangleSearch, Square, SquareSearch, at_clean
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.made_of.composite import steps_of
from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing.assess import suite_evidence
from spikeproof.auditing.conditions import ENOUGH_STEPS
from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import Digits
from spikeproof.decoders import ConfidenceExit, Count, Earliest, FirstSpike, MeanPotential, decide
from spikeproof.encoders import (
    Bernoulli,
    Direct,
    Events,
    Latency,
    Reversed,
    SpikeGated,
    SpikeTimes,
    StraightThrough,
)
from spikeproof.errors import InputError
from spikeproof.evaluation import suites
from spikeproof.evaluation.levels import LEVELS
from spikeproof.evaluation.suites import Member, Suite, evaluate_suite, plan
from spikeproof.evaluation.verdicts import Clean, evaluate_attack, evaluate_clean
from spikeproof.experiments.study.cells import plan_digest
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import substitute
from spikeproof.networks.timed import TimedMLP
from spikeproof.neurons import LIF, ReLU
from spikeproof.neurons.spiketimes import FastAndDeep
from spikeproof.specs import build, describe
from spikeproof.surrogates import ATan, Rectangle
from spikeproof.threats import L0, L1, L2, Flips, Linf, Region, Shifts, SquarePatch

sys.path.insert(0, str(Path(__file__).parent))
from shortened import brief

KEY, THREAT = Key.of(0), Linf(0.1)
CODES = [Direct(4), Latency(5), Bernoulli(4)]
MOST = {"queries": 150, "steps": 12, "restarts": 2, "refine": 20}
"""The laws hold at any length, and what these short suites break the whole ones break too."""

FEWER = {"queries": 60, "steps": 6, "restarts": 1, "refine": 8, "samples": 6, "probes": 16}


@pytest.fixture(scope="module")
def subjects():
    data, models = Digits().load(None), {}
    x, y = data.test.images[:70], data.test.labels[:70]
    for code in CODES:
        spec = ModelSpec(code, MLP((30,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
        model = spec.build(Key.of(0))
        BPTT(epochs=4, lr=0.01).train(model, data, Key.of(0))
        models[code] = model, evaluate_clean(model, x, y, KEY, draws=3)
    return models, x, y


def suite(level, model, threat, *rest, most=MOST, without=(), **options):
    """The outcome of a suite whose members are shortened, so that a larger one still holds a smaller one."""
    members = [member for member in plan(level, model, threat) if member.name not in without]
    return evaluate_suite(model, level, threat, *rest, members=brief(members, most), **options)


@pytest.fixture(scope="module")
def standard(subjects):
    models, x, y = subjects
    return {
        code: suite("standard", model, THREAT, x, y, clean, KEY, draws=3)
        for code, (model, clean) in models.items()
    }


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_contributions_add_up_and_every_broken_example_names_its_attack(subjects, standard, code):
    (model, clean), found = subjects[0][code], standard[code]
    names = [member.name for member in plan("standard", model, THREAT)]
    assert [member["name"] for member in found.members] == names
    left = float(clean.right.sum())
    for member in found.members:
        left -= member["broke"]
        assert member["left"] == pytest.approx(left / 70)
    assert found.metrics()["robust_accuracy"] == pytest.approx(left / 70)
    whole = found.attacked.right_selection == clean.right_selection
    assert torch.equal(found.broken_by == -1, whole)
    assert THREAT.contains(found.attacked.x_adv, subjects[1]).all()
    if not model.stochastic:
        fooled = decide(model(found.attacked.x_adv)) != subjects[2]
        assert torch.equal(fooled, found.attacked.right == 0)
        for place, member in enumerate(found.members):
            assert int((found.broken_by == place).sum()) == member["broke"]
        on = [member["attacked"] for member in found.members if member["attacked"]]  # repeats may not run
        assert on == sorted(on, reverse=True)


@pytest.mark.parametrize("code", [Direct(4), Latency(5)], ids=repr)
@pytest.mark.parametrize("recipe", [PGD(steps=40), SquareSearch(queries=150)], ids=lambda r: type(r).__name__)
def test_a_suite_leaves_no_more_than_a_single_attack(subjects, standard, code, recipe):
    (model, clean), x, y = subjects[0][code], *subjects[1:]
    alone = evaluate_attack(model, recipe(THREAT), THREAT, x, y, clean, KEY)
    assert standard[code].attacked.right.sum() <= alone.right.sum()


def test_the_batch_size_changes_no_number(subjects):
    models, x, y = subjects
    model, clean = models[Latency(5)]
    found = [suite("quick", model, THREAT, x, y, clean, KEY, batch_size=size).attacked for size in (70, 9)]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert torch.equal(found[0].right, found[1].right)


def test_larger_suites_leave_no_more_and_plans_fit_the_model(subjects, standard):
    models, x, y = subjects
    for code, (model, clean) in models.items():
        names = {level: [m.name for m in plan(level, model, THREAT)] for level in LEVELS}
        assert ("encoder-aware" in names["standard"]) == (code == Latency(5))
        searches = (
            {"encoder-aware-again", "encoder-aware-long", "level-search"} if code == Latency(5) else set()
        )
        assert {"rectangles", "rectangles-long", *searches} <= set(names["standard"])
        assert set(names["quick"]) < set(names["standard"]) < set(names["extreme"])
        if not model.stochastic:
            quick = suite("quick", model, THREAT, x, y, clean, KEY)
            assert standard[code].attacked.right.sum() <= quick.attacked.right.sum()


@pytest.mark.parametrize("code", [Direct(4), Latency(5)], ids=repr)
def test_the_standard_suite_leaves_no_more_than_the_peers_attacks(subjects, standard, code):
    """On the same weights, images and budget."""
    foolbox, torchattacks = pytest.importorskip("foolbox"), pytest.importorskip("torchattacks")
    (model, clean), x, y = subjects[0][code], *subjects[1:]
    ours = standard[code].attacked.right.sum()
    mine = float(ours)
    for attack in (
        torchattacks.APGD(model, eps=0.1, steps=20, loss="ce"),
        torchattacks.APGDT(model, eps=0.1, steps=10, n_classes=10),
        torchattacks.Square(model, eps=0.1, n_queries=200),
    ):
        x_adv = attack(x, y).detach()
        assert THREAT.contains(x_adv, x).all()
        assert mine <= float(((decide(model(x_adv)) == y) & (clean.right > 0)).sum())
    peer = foolbox.PyTorchModel(model, bounds=(0, 1))
    for attack in (foolbox.attacks.LinfPGD(steps=40), foolbox.attacks.LinfDeepFoolAttack(steps=20)):
        _, clipped, _ = attack(peer, x, y, epsilons=0.1)
        assert mine <= float(((decide(model(clipped)) == y) & (clean.right > 0)).sum())


class Foreign(nn.Module):
    """A model that shows nothing but logits."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, key=None):
        return self.inner(x)


def test_a_foreign_model_gets_a_suite_without_substitutes(subjects):
    models, x, y = subjects
    model = Foreign(models[Direct(4)][0]).eval()
    found = evaluate_suite(model, "quick", L2(0.5), x, y, evaluate_clean(model, x, y, KEY), KEY)
    assert [m["name"] for m in found.members] == ["pgd", "pgd-margin", "noise", "rectangles"]
    assert 0 < found.metrics()["robust_accuracy"] < 0.9


class Odd:
    """A threat that this package does not define."""

    epsilon = 1.0

    def project(self, x_adv, x):
        return x


def test_unknown_levels_and_threats_without_a_suite_are_refused(subjects):
    with pytest.raises(InputError, match="standard"):
        Suite(level="fast")
    with pytest.raises(InputError, match="regions of these, objects in a scene"):
        plan("quick", subjects[0][Direct(4)][0], Odd())
    with pytest.raises(InputError, match="evaluate_suite"):
        Suite()(THREAT)(None)


def plans(model, threat):
    return [plan(level, model, threat) for level in LEVELS]


THREATS = [
    *(Linf(0.1), L2(0.5), L1(5.0), L0(5), SquarePatch(2)),
    *(
        Region(size, norm, 1, 1, 4, 4)
        for size, norm in ((0.1, "linf"), (0.5, "l2"), (5.0, "l1"), (5.0, "l0"))
    ),
]


@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("decoder", [MeanPotential(), ConfidenceExit(Count())], ids=repr)
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_every_suite_holds_the_members_of_the_next_smaller_one(code, decoder, threat):
    """Equal names mean equal random draws, and every member accepts the threat."""
    spec = ModelSpec(code, MLP((4,)), LIF(), ATan(), decoder, (1, 8, 8), 10)
    found = plans(spec.build(KEY), threat)
    for smaller, larger in itertools.pairwise(found):
        assert {m.name: m.recipe for m in smaller}.items() < {m.name: m.recipe for m in larger}.items()
    for members in found:
        names = [m.name for m in members]
        assert len(set(names)) == len(names)
        assert all(callable(m.recipe(threat)) for m in members)
        assert any(m.recipe.gradient_free and m.name != "noise" for m in members)
        assert all(m.after is None or m.after in names[:i] for i, m in enumerate(members))


KINDS = [
    *(ModelSpec(c, MLP((4,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10) for c in CODES),
    ModelSpec(Reversed(Latency(3)), MLP((4,)), LIF(), ATan(), ConfidenceExit(Count()), (1, 8, 8), 3),
    ModelSpec(Latency(3, backward=StraightThrough()), MLP((4,)), LIF(), ATan(), FirstSpike(), (1, 8, 8), 10),
    ModelSpec(Direct(1), MLP((4,)), ReLU(), ATan(), MeanPotential(), (1, 8, 8), 10),
    ModelSpec(SpikeTimes(), TimedMLP((4,)), FastAndDeep(), ATan(), Earliest(), (1, 8, 8), 10),
    ModelSpec(Events(3), MLP((4,)), LIF(), ATan(), Count(), (1, 4, 4), 10),
    ModelSpec(Events(3), MLP((4,)), LIF(), ATan(), ConfidenceExit(Count()), (1, 4, 4), 10),
]


@pytest.mark.parametrize("spec", KINDS, ids=lambda spec: f"{spec.encoder} {spec.decoder} {spec.neuron}")
def test_the_plan_of_a_suite_depends_on_the_description_of_the_model_and_on_no_weight(spec):
    """What is planned for a description is what a model of that description is attacked with."""
    events = isinstance(spec.encoder, Events)
    for threat in (Flips(3), Shifts(2)) if events else (Linf(0.1), L2(0.5), L1(5.0), L0(5)):
        planned, found = plans(spec, threat), plans(spec.build(KEY), threat)
        assert planned == found
        assert len({*map(plan_digest, planned)}) == len(LEVELS)
        for members in planned:
            for member in members:
                assert build(Recipe, describe(member.recipe, PARTS), PARTS) == member.recipe


def test_whatever_tells_plans_apart_changes_their_digest():
    members = plan("standard", KINDS[0], THREAT)
    first, *rest = members
    others = [
        [first._replace(recipe=replace(first.recipe, steps=21)), *rest],
        [first._replace(recipe=replace(first.recipe, surrogate=ATan(3.0))), *rest],
        [first._replace(name="PGD"), *rest],
        [*rest[:-1], rest[-1]._replace(after="pgd"), first],
        [*members[:-1], members[-1]._replace(after="pgd")],
        [*rest, first],
        rest,
        [*members, first._replace(name="again")],
    ]
    assert plan_digest(list(members)) == plan_digest(plan("standard", KINDS[0], Linf(0.1)))
    assert len({plan_digest(members), *map(plan_digest, others)}) == 1 + len(others)


def test_a_larger_suite_breaks_what_a_smaller_one_broke(subjects, standard):
    (model, clean), x, y = subjects[0][Latency(5)], *subjects[1:]
    broken = [standard[Latency(5)].attacked.right == 0]
    quick = suite("quick", model, THREAT, x, y, clean, KEY, draws=3).attacked.right == 0
    assert (quick <= broken[0]).all()
    rows = (broken[0] & (clean.right > 0)).nonzero().flatten()[:25]
    part = _part(clean, rows)
    assert not suite("extreme", model, THREAT, x[rows], y[rows], part, KEY).attacked.right.any()


def _part(clean, rows):
    """The clean outcome of some of the examples."""
    columns = {column.name: getattr(clean, column.name) for column in fields(clean)}
    return Clean(**{n: c[rows] if isinstance(c, torch.Tensor) else c for n, c in columns.items()})


def test_the_search_from_the_nearest_images_undoes_a_gradient_of_the_wrong_sign(subjects):
    """The long search runs whatever the short one found, and fools most of the images that PGD cannot fool.

    Searches of 500 queries are long enough; the stand-in is left out, because it would fool these images too.
    """
    inner, rows, found = subjects[0][Direct(4)][0], slice(40), {}
    x, y = (part[rows] for part in subjects[1:])
    clean = evaluate_clean(inner, x, y, KEY)
    for name, model in {
        "sound": Foreign(inner),
        "masked": Foreign(lambda x: inner(Reverse.apply(x))),
    }.items():
        most = {**MOST, "queries": 500}
        suited = suite("standard", model.eval(), THREAT, x, y, clean, KEY, most=most, without=["stand-in"])
        found[name] = {member["name"]: member for member in suited.members}
        assert found[name]["rectangles-long"]["attacked"] > 0
    left = {name: members["square-long"]["left"] for name, members in found.items()}
    assert found["masked"]["rectangles"]["broke"] > found["sound"]["rectangles"]["broke"]
    assert left["masked"] < 0.5 < found["masked"]["pgd"]["left"]


@pytest.mark.parametrize(("epsilon", "finds"), [(0.1, True), (0.0, False)])
def test_a_search_is_repeated_where_it_broke_an_example_and_nowhere_else(subjects, epsilon, finds):
    (model, clean), x, y = subjects[0][Direct(4)], *subjects[1:]
    first = Member("search", PGD(steps=2))
    pair = [first, Member("search-again", first.recipe, after="search")]
    one, again = evaluate_suite(model, "quick", Linf(epsilon), x, y, clean, KEY, members=pair).members
    assert ((one["broke"] > 0), (again["attacked"] > 0), again.get("repeats", False)) == (finds,) * 3
    assert "repeats" not in one


@pytest.mark.parametrize(
    ("broke", "runs"), [((7, 0), False), ((8, 0), True), ((1, 7), True), ((0, 0), False)]
)
def test_a_longer_search_waits_for_a_share_that_the_search_broke_or_for_any_that_a_repeat_did(broke, runs):
    plan = [
        Member("search", PGD(steps=2)),
        Member("search-again", PGD(steps=2), "search"),
        Member("search-long", PGD(steps=9), "search", share=1 / 8),
    ]
    entries = [
        {"name": m.name, "broke": n, "attacked": 64, "repeats": m.after is not None}
        for m, n in zip(plan, broke, strict=False)
    ]
    assert suites._called_for(plan[-1], entries) == runs
    assert suites._called_for(plan[-1]._replace(few=64), entries)
    assert suites._called_for(plan[-1]._replace(few=63), entries) == runs


def test_members_that_go_on_begin_where_others_came_nearest(subjects):
    """A search of one query returns the image that the members before it had found, not the clean one."""
    (model, clean), x, y = subjects[0][Direct(4)], *subjects[1:]
    first = Member("pgd", PGD(steps=3, objective=Margin()))
    seen = {}

    @dataclass(frozen=True, kw_only=True)
    class Spy(RectangleSearch):
        def __call__(self, threat):
            return Shown(threat, 1, start=at_clean)

    @dataclass(frozen=True)
    class Shown(Square):
        def __call__(self, model, x, y, key, *, through=None):
            seen["start"] = self.start(self.threat, x, key)
            seen["clean"], seen["y"] = x, y
            return super().__call__(model, x, y, key, through=through)

    evaluate_suite(model, "quick", THREAT, x, y, clean, KEY, members=[first, Member("spy", Spy())])
    margin = Margin()(model(seen["start"]), seen["y"])
    assert THREAT.contains(seen["start"], seen["clean"]).all()
    assert (margin > Margin()(model(seen["clean"]), seen["y"])).float().mean() > 0.9


@pytest.mark.parametrize(
    ("code", "changes"),
    [(Direct(4), {"spike": Rectangle(1e-4)}), (Latency(5), {"backward": SpikeGated()})],
    ids=["surrogate of no width", "gradient gated by spikes"],
)
def test_the_standard_suite_measures_a_model_with_masked_gradients_within_two_images_of_the_plain_one(
    subjects, standard, code, changes
):
    """The masked model has the same answers with useless gradients; other members must fool its images."""
    (model, clean), x, y = subjects[0][code], *subjects[1:]
    masked = substitute(model, **changes)
    alone = evaluate_attack(masked, PGD(steps=20)(THREAT), THREAT, x, y, clean, KEY).right.sum()
    found = suite("standard", masked, THREAT, x, y, clean, KEY)
    sound = standard[code].attacked.right.sum()
    assert found.attacked.right.sum() <= sound + 2
    assert alone > sound + 4
    own = {member["name"] for member in found.members if member["own_gradient"]}
    assert "pgd" in own
    assert not own & {"width-sweep", "sa-pgd-narrow", "pgd-time-shift", "rectangles"}
    seen = {attack.name: attack.zero_gradients for attack in suite_evidence(found.metrics())}
    assert seen["width-sweep"] is None
    assert seen["pgd"] is not None


class Reverse(torch.autograd.Function):
    """The identity with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


@pytest.mark.parametrize("threat", [L1(3.0), L0(3)], ids=lambda t: type(t).__name__)
def test_suites_for_few_and_for_small_sums_of_changes(subjects, threat):
    (model, clean), x, y = subjects[0][Latency(5)], *subjects[1:]
    rows = torch.arange(30)
    part = _part(clean, rows)
    found = suite("standard", model, threat, x[rows], y[rows], part, KEY)
    assert threat.contains(found.attacked.x_adv, x[rows]).all()
    assert torch.equal(decide(model(found.attacked.x_adv)) != y[rows], found.attacked.right == 0)
    alone = evaluate_attack(model, PGD(steps=40)(threat), threat, x[rows], y[rows], part, KEY)
    assert found.attacked.right.sum() <= alone.right.sum() < part.right.sum()


def test_cost_and_queries_of_each_member_are_recorded(standard):
    for found in standard.values():
        asked = sum(member.get("forward_queries", 0) for member in found.members)
        assert asked == found.metrics()["forward_queries"] > 0
        ran = [member for member in found.members if member["attacked"]]
        assert all(member["seconds"] > 0 and member["forward_queries"] > 0 for member in ran)
        assert all((member["backward_queries"] == 0) == member["gradient_free"] for member in ran)


@pytest.mark.parametrize("code", [Latency(5), Direct(4)], ids=repr)
def test_the_suite_for_patches_comes_close_to_every_pixel_with_every_value(subjects, code):
    """A square of side 1 can be searched exhaustively: 64 positions, with values of every level."""
    (model, clean), x, y = subjects[0][code], *subjects[1:]
    found = suite("standard", model, SquarePatch(1), x, y, clean, KEY)
    assert SquarePatch(1).contains(found.attacked.x_adv, x).all()
    stands = clean.right > 0
    for pixel, value in itertools.product(range(64), torch.linspace(0, 1, 11)):
        changed = x.clone()
        changed.flatten(1)[:, pixel] = value
        stands &= decide(model(changed)) == y
    missed = (found.attacked.right > 0) & ~stands
    assert int(stands.sum()) < 0.9 * int((clean.right > 0).sum())
    assert int(missed.sum()) <= 0.05 * len(x)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1", "l0"])
def test_the_suite_for_a_region_leaves_what_that_of_the_ball_leaves_or_more(subjects, norm):
    """A region that is the whole image equals the ball; in a smaller region fewer images are fooled."""
    (model, clean), x, y = subjects[0][Latency(5)], *subjects[1:]
    x, y, clean = x[:50], y[:50], _part(clean, torch.arange(50))
    size = {"linf": 0.1, "l2": 0.6, "l1": 2.0, "l0": 2.0}[norm]
    whole, part = Region(size, norm, 0, 0, 8, 8), Region(size, norm, 2, 2, 4, 4)
    left = {}
    for name, threat in (("ball", whole.ball), ("whole", whole), ("part", part)):
        found = suite("standard", model, threat, x, y, clean, KEY, most=FEWER).attacked
        assert threat.contains(found.x_adv, x).all()
        left[name] = int(found.right.sum())
    assert abs(left["whole"] - left["ball"]) <= 0.06 * len(x)
    assert left["whole"] < left["part"] < int(clean.right.sum())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("threat", [Flips(3), Shifts(2), Shifts(1, measure="jitter")], ids=repr)
def test_every_suite_on_events_follows_gradients_for_as_many_steps_as_the_audit_asks_for(level, threat):
    spec = ModelSpec(Events(6), MLP((8,)), LIF(), ATan(), Count(), (4, 1, 1), 3)
    for model in (spec, lambda x, key=None: x.flatten(1)):
        steps = [steps_of(m.recipe) for m in plan(level, model, threat) if not m.recipe.gradient_free]
        assert max(steps) >= ENOUGH_STEPS

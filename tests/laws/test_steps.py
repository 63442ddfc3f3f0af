"""Steps and schedules of gradient attacks, against the plain loop, closed forms and formulas in float64."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeproof.attacks.gradient.iterated import APGD, MIM, SAPGD
from spikeproof.attacks.gradient.plain import BIM, FGSM, PGD
from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.parts.schedules import (
    AdaptiveSparsity,
    Constant,
    Cosine,
    Halving,
    Observation,
    Oscillation,
    checkpoints,
)
from spikeproof.attacks.parts.steps import (
    Adam,
    FrankWolfe,
    HeavyBall,
    Momentum,
    Nesterov,
    Position,
    StableAdaptive,
    Steepest,
    TopShare,
)
from spikeproof.attacks.search import SETTLING, Best, GradientAttack, evaluator, judge
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import DLR, Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan
from spikeproof.threats import L0, L1, L2, Linf, Region, SquarePatch

X, Y = Key.of(0).uniform((9, 1, 6, 6)), torch.arange(9) % 3
STEPS = [
    *(Steepest(), TopShare(), FrankWolfe(), HeavyBall(), Momentum(), Nesterov(), Adam(), StableAdaptive()),
    Momentum(0.9, FrankWolfe()),
]
SCHEDULES = [Constant(), Cosine(), Halving(), Oscillation(), AdaptiveSparsity()]
THREATS = [Linf(0.1), L2(0.7), L1(2.0), L0(3), SquarePatch(2), Region(1.5, "l1", 1, 1, 3, 3)]


def built(code, decoder=MeanPotential()):
    spec = ModelSpec(code, MLP((10,)), LIF(threshold=0.25), ATan(), decoder, (1, 6, 6), 3)
    return spec.build(Key.of(0)).eval()


MODELS = {
    "latency": built(Latency(5), Count()),
    "direct": built(Direct(3)),
    "bernoulli": built(Bernoulli(3)),
}


class Linear:
    stochastic = False

    def __init__(self, w, b):
        self.w, self.b = w, b

    def __call__(self, images, key=None):
        score = (images * self.w).flatten(1).sum(1) + self.b
        return torch.stack([score, -score], 1)


def plain(attack, model, x, y, key):
    """Projected steepest steps of one size, as one loop without parts."""
    best, done, losses = Best(x), torch.zeros(len(x), dtype=torch.bool), []
    early = not model.stochastic
    for restart in range(attack.restarts):
        now = key.fold("restart", restart)
        rows = (~done).nonzero().flatten()
        x_adv = attack.threat.start(x, now.fold("start")) if attack.random_start else x.clone()
        run = Best(x) if model.stochastic else best
        for step in range(attack.steps + 1):
            if not len(rows):
                break
            here = x_adv[rows]
            evaluate = evaluator(model, attack.objective, y[rows])
            value, grad, fooled = attack.oracle(evaluate, here, now.fold("step", step).take(rows))
            trace = torch.full((len(x),), torch.nan)
            trace[rows] = value
            losses.append(trace)
            run.offer(rows, here, fooled, value)
            if early:
                done[rows] = fooled > 0
            if step == attack.steps:
                break
            moved = here + attack.step_size * attack.threat.steepest(grad)
            x_adv[rows] = attack.threat.project(moved, x[rows])
            rows = rows[~done[rows]]
        for name, images in (("best", run.x), ("end", x_adv)) if model.stochastic else ():
            asked = [
                evaluator(model, Margin(), y)(images, now.fold("settle", name, i)) for i in range(SETTLING)
            ]
            margin, share = (torch.stack(part).mean(0) for part in zip(*asked, strict=True))
            best.offer(torch.arange(len(x)), images, share, margin)
    return best.x, judge(model, best.x, y, key.fold("verdict")), torch.stack(losses)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("threat", [Linf(0.1), L2(0.7)], ids=repr)
@pytest.mark.parametrize(
    "recipe", [FGSM(), BIM(steps=5), PGD(steps=4, restarts=2), PGD(steps=4, objective=DLR())], ids=repr
)
def test_the_parts_make_the_plain_loop_to_the_bit(recipe, threat, name):
    key = Key.of(3).for_rows(range(9))
    found = recipe(threat)(MODELS[name], X, Y, key)
    for ours, reference in zip(found, plain(recipe(threat), MODELS[name], X, Y, key), strict=False):
        assert torch.equal(ours.nan_to_num(7), reference.nan_to_num(7))


@pytest.mark.parametrize(
    ("rule", "schedule"),
    [*((rule, SCHEDULES[i % 5]) for i, rule in enumerate(STEPS)), *((HeavyBall(), s) for s in SCHEDULES)],
    ids=repr,
)
def test_every_step_with_every_schedule_keeps_the_budget_and_knows_its_rows(rule, schedule):
    """Under every threat an example is attacked alone as in a batch in which others are fooled earlier."""
    model, key = MODELS["latency"], Key.of(4)
    for threat in THREATS:
        attack = GradientAttack(threat, 7, 0.3, step=rule, schedule=schedule)
        whole = attack(model, X, Y, key.for_rows(range(9)))
        part = attack(model, X[[7, 2]], Y[[7, 2]], key.for_rows([7, 2]))
        assert threat.contains(whole.x_adv, X).all(), threat
        assert torch.allclose(part.x_adv, whole.x_adv[[7, 2]], atol=1e-6), threat


@pytest.mark.parametrize("rule", STEPS, ids=repr)
@pytest.mark.parametrize("grad", [0.0, 1e-38, 1e30])
def test_gradients_of_any_size_give_finite_members(rule, grad):
    x = X.clone()
    for threat in THREATS:
        ones = torch.ones(9)
        position, memory = Position(threat, x, x, 0.1 * ones, torch.nan * ones), rule.begin(x)
        for _ in range(3):
            here, memory = rule(position, grad * (X - 0.5), memory)
            position = position._replace(here=here)
            assert threat.contains(here, x).all(), threat
        if not grad:
            assert torch.equal(here, x)


@pytest.mark.parametrize(
    "recipe",
    [FGSM(), BIM(steps=20), PGD(steps=20), MIM(steps=20), APGD(steps=60, objective=Margin())],
    ids=repr,
)
@pytest.mark.parametrize("threat", THREATS, ids=repr)
@pytest.mark.parametrize("lift", [0.3, 0.0], ids=["inside", "at the walls"])
def test_on_a_linear_model_the_best_member_is_reached(recipe, threat, lift):
    """That is the extreme member, which the laws of threats compare with brute force and linear programs."""
    if isinstance(recipe, APGD) and isinstance(threat, (L0, SquarePatch, Region)):
        with pytest.raises(InputError, match="Use PGD"):
            recipe(threat)
        return
    w, x = Key.of(5).normal((1, 6, 6)), lift + (1 - 2 * lift) * X.round(decimals=1)
    model, y = Linear(w, 20.0), torch.zeros(9, dtype=torch.int64)
    result = recipe(threat)(model, x, y, Key.of(1))
    fall = ((x - result.x_adv) * w).flatten(1).sum(1)
    most = ((x - threat.extreme(-w.expand_as(x), x)) * w).flatten(1).sum(1)
    assert (fall <= most * 1.001 + 1e-4).all()
    walled = lift == 0 and isinstance(threat, L2)  # a steepest step of L2 does not see the box ahead
    sparse = isinstance(recipe, APGD) and not isinstance(threat, (Linf, L2))
    least = (0.88 if isinstance(recipe, FGSM) else 0.95) if walled else 0.9 if sparse else 0.97
    assert (fall >= most * least).all()


@pytest.mark.parametrize("threat", [L1(0.6), L0(1), L0(2), SquarePatch(2)], ids=repr)
def test_where_the_steepest_step_is_weak_pgd_takes_a_stronger_one(threat):
    """Over spiking models, PGD's step fools at least as often as steepest steps, and more often somewhere."""
    x = Key.of(9).uniform((60, 1, 6, 6))
    fallen = {"own": 0, "steepest": 0}
    for name in ("latency", "direct"):
        y = decide(MODELS[name](x)).clamp(min=0)
        standing = decide(MODELS[name](x)) == y
        own = PGD(steps=10)(threat)
        for which, attack in (("own", own), ("steepest", replace(own, step=Steepest()))):
            found = attack(MODELS[name], x[standing], y[standing], Key.of(1))
            fallen[which] += int(found.success.sum())
    assert fallen["own"] > fallen["steepest"], fallen


def test_moments_follow_their_formulas():
    grads = [Key.of(i).normal((2, 1, 2, 2)) for i in range(4)]
    x = torch.full((2, 1, 2, 2), 0.5)
    adam, stable = Adam(0.8, 0.9), StableAdaptive()
    one, two = adam.begin(x), stable.begin(x)
    m = v = sm = sv = np.zeros((2, 1, 2, 2))
    for t, grad in enumerate(grads, 1):
        (one, adam_way), (two, stable_way) = adam.moments(grad, one), stable.moments(grad, two)
        raw = grad.double().numpy()
        g = raw / np.abs(raw).mean((1, 2, 3), keepdims=True)
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        sm, sv = 0.5 * sm + g, 0.8 * sv + raw**2 / (raw**2).mean((1, 2, 3), keepdims=True)
        want = m / (1 - 0.8**t) / np.sqrt(v / (1 - 0.9**t))
        assert np.allclose(adam_way.numpy(), want, rtol=1e-4)
        assert np.allclose(stable_way.numpy(), sm / np.sqrt(sv), rtol=1e-4)


def test_a_sparse_step_spends_its_length_on_the_steepest_free_values():
    x = torch.tensor([[0.5, 1.0, 0.5, 0.5]])
    position = Position(L1(1.0), x, x, torch.tensor([0.2]), torch.tensor([0.5]))
    here, _ = TopShare()(position, torch.tensor([[1.0, 9.0, -3.0, 0.5]]), {})
    assert torch.allclose(here, torch.tensor([[0.6, 1.0, 0.4, 0.5]]))


def observation(step, value, steps=100, here=0.0):
    point = torch.full((1, 2), here)
    return Observation(step, steps, torch.zeros(1, 2), point, torch.tensor([value]), point + 1)


def test_checkpoints_are_those_of_the_paper():
    p = [0.0, 0.22]
    while p[-1] < 1:
        p.append(p[-1] + max(p[-1] - p[-2] - 0.03, 0.06))
    paper = [round(100 * share) for share in p[1:] if share <= 1 + 1e-9]
    assert list(checkpoints(100)) == paper
    assert checkpoints(1) == (1,)


@pytest.mark.parametrize(
    ("values", "scale"),
    [
        ([float(i) for i in range(23)], 1.0),  # always up
        ([0.0] * 23, 0.5),  # never up
        ([0.0, *([1.0, -1.0] * 11)], 0.5),  # up every other time
        ([float("nan")] * 23, 0.5),
    ],
    ids=["rising", "flat", "oscillating", "broken"],
)
def test_progress_decides_about_halving(values, scale):
    memory = Oscillation().begin(torch.zeros(1, 2))
    for step, value in enumerate(values):
        here, _, memory = Oscillation()(observation(step, value, here=step / 100), memory)
    assert memory["scale"].item() == scale
    best = max(range(23), key=lambda i: (values[i], i)) / 100
    if values[0] == values[0]:
        assert here[0, 0].item() == pytest.approx(best)


def test_a_best_value_that_stays_halves_after_a_window_without_halving():
    schedule, memory = Oscillation(rho=0.0), Oscillation().begin(torch.zeros(1, 2))
    scales = []
    for step in range(58):
        value = float(step) if step <= 22 else -100.0 + step
        _, _, memory = schedule(observation(step, value), memory)
        scales.append(memory["scale"].item())
    assert (scales[22], scales[41], scales[57]) == (1.0, 0.5, 0.5)


def test_cosine_halves_the_step_size_midway_and_halving_at_a_checkpoint_without_progress():
    for schedule, at, scale in [(Cosine(), 50, 0.5), (Cosine(), 0, 1.0), (Halving(), 22, 0.5)]:
        memory = schedule.begin(torch.zeros(1, 2))
        assert schedule(observation(at, 0.0), memory)[2]["scale"].item() == pytest.approx(scale)


def test_sparsity_follows_the_best_perturbation():
    x, schedule = torch.zeros(1, 10), AdaptiveSparsity()
    memory = schedule.begin(x)
    here = torch.tensor([[1.0] * 6 + [0.0] * 4])
    for step, value in ((0, 0.0), (1, 5.0), (2, 0.0), (3, 0.0), (4, 0.0)):
        point = here if step == 1 else x
        back, _, memory = schedule(Observation(step, 100, x, point, torch.tensor([value]), x), memory)
    assert torch.equal(back, here)
    assert memory["share"].item() == pytest.approx(0.6 / 1.5)
    for step in (5, 6, 7, 8):
        back, _, memory = schedule(Observation(step, 100, x, x, torch.tensor([0.0]), x), memory)
    assert memory["scale"].item() == pytest.approx(1 / 1.5)


def test_restarts_may_begin_at_the_best_example():
    seen = []

    class Watched:
        stochastic = True

        def __call__(self, images, key=None):
            seen.append(images.detach().clone())
            return images.flatten(1)[:, :3]

    result = GradientAttack(Linf(0.1), 1, 0.05, restarts=2, best_start=True)(Watched(), X, Y, Key.of(0))
    values = [Exact()(evaluator(Watched(), DLR(), Y), images, Key.of(0)) for images in seen[:2]]
    assert len(values) == 2
    assert any(torch.equal(seen[2][i], seen[j][i]) for i in range(9) for j in (0, 1))
    assert not torch.equal(seen[2], seen[0])
    assert Linf(0.1).contains(result.x_adv, X).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: TopShare(0.0),
        lambda: HeavyBall(1.5),
        lambda: Momentum(-1.0),
        lambda: Adam(first=1.0),
        lambda: Oscillation(2.0),
        lambda: AdaptiveSparsity(factor=1.0),
        lambda: SAPGD()(L0(3)),
    ],
)
def test_shares_and_decay_of_steps_and_schedules_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()

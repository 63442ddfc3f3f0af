"""The encoder-aware attack: 8-bit pixels within the budget, and on small networks the true worst case."""

from itertools import product

import pytest
import torch

from spikeproof.attacks.answers.reachable import EncoderAware, EncoderAwareSearch, level_code, reachable
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.datasets import Digits
from spikeproof.decoders import Count, MeanPotential, decide
from spikeproof.encoders import (
    Bernoulli,
    Direct,
    EarlyBurst,
    FewSpikes,
    Fused,
    KernelCode,
    LateBurst,
    Latency,
    LogLatency,
    Phase,
    Population,
    RankOrder,
    RelativeLatency,
    Reversed,
)
from spikeproof.errors import InputError
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import LIF
from spikeproof.protocols import Encoder
from spikeproof.surrogates import ATan
from spikeproof.threats import L2, Linf

CODES = [Latency(4), EarlyBurst(5), LateBurst(4), LogLatency(4), Phase(4, period=3), Reversed(Latency(4))]


TABLE = {
    "latency": Latency(5),
    "early-burst": EarlyBurst(5),
    "late-burst": LateBurst(5),
    "log-latency": LogLatency(5),
    "phase": Phase(4, period=4),
    "few-spikes": FewSpikes(4),
    "kernel-code": KernelCode(10, tau=5.0),
    "reversed": Reversed(LogLatency(5)),
    "population": Population(Latency(4), neurons=3),
    "fused": Fused((Latency(4), Bernoulli(4))),
}


def tiny(code, seed, decoder=MeanPotential(), pixels=5):
    """Five pixels, three classes: every code that an image can have can be tried."""
    spec = ModelSpec(code, MLP((8,)), LIF(), ATan(), decoder, (1, 1, pixels), 3)
    return spec.build(Key.of(seed)).eval()


@pytest.mark.parametrize("grid", [0, 255])
@pytest.mark.parametrize("code", CODES, ids=repr)
def test_every_level_within_reach_is_offered_at_a_pixel_that_gives_it(code, grid):
    inner = level_code(code)
    x = Key.of(1).uniform((40, 5))
    low, high = (x - 0.3).clamp(0, 1), (x + 0.3).clamp(0, 1)
    found = reachable(inner, x, low, high, most=64, grid=grid)
    assert torch.equal(inner.level(found.pixels.flatten(0, 1)).view(found.levels.shape), found.levels)
    assert (found.pixels >= low).all()
    assert (found.pixels <= high).all()
    fine = low + torch.linspace(0, 1, 2001)[:, None, None] * (high - low)
    for i, j in ((0, 0), (7, 3), (30, 4)):
        offered = set(found.levels[:, i, j].tolist())
        assert offered == set(inner.level(fine[:, i]).T[j].tolist())
        assert inner.level(x)[i, j].item() in offered


@pytest.mark.parametrize("code", [Latency(6), EarlyBurst(6), LateBurst(6)], ids=repr)
def test_levels_survive_storage_in_8_bits(code):
    """A level that some 8-bit value within 8/255 has is offered at one; without the grid edges are lost."""
    x = torch.arange(256).view(1, -1) / 255
    low, high = (x - 8 / 255 - 1e-6).clamp(0, 1), (x + 8 / 255 + 1e-6).clamp(0, 1)
    around = (torch.arange(-8, 9)[:, None, None] + torch.arange(256)).clamp(0, 255) / 255
    possible = code.level(around.flatten(0, 1)).view(around.shape)
    lost = []
    for grid in (0, 255):
        found = reachable(code, x, low, high, most=64, grid=grid)
        stored = (found.pixels * 255).round() / 255
        moved = code.level(stored.flatten(0, 1)).view(found.levels.shape) != found.levels
        avoidable = (found.levels[:, None] == possible).any(1)
        lost.append(int((moved & avoidable).sum()))
    assert lost[1] == 0
    assert lost[0] > 0


EVERY_CODE = {name: TABLE[name] if name in TABLE else part() for name, part in MODEL_PARTS[Encoder].items()}
SEARCHED = [name for name, code in EVERY_CODE.items() if level_code(code) is not None]


def can_be(code, x, low, high):
    """Pixel values for every spike pattern that one pixel can have, from encoding a fine grid of values."""
    fine = torch.cat([x[None], torch.linspace(float(low), float(high), 600).clamp(float(low), float(high))])
    patterns = code(fine[:, None]).transpose(0, 1).flatten(1)
    seen = {tuple(pattern.tolist()): value for pattern, value in zip(patterns, fine.tolist(), strict=True)}
    return list(seen.values())


@pytest.mark.parametrize("most", [2, 3, 5, 16])
def test_where_levels_are_left_out_those_of_the_clean_image_and_of_both_ends_stay(most):
    code, x = Latency(64), Key.of(9).uniform((6, 1, 5, 5))
    x[0] = 0.5  # one example within little reach, beside others
    low, high = (x - 0.3).clamp(min=0), (x + 0.3).clamp(max=1)
    low[0], high[0] = x[0], x[0]
    found = reachable(code, x, low, high, most=most)
    assert len(found.levels) <= most
    assert (found.levels.diff(dim=0) >= 0).all() or (found.levels.diff(dim=0) <= 0).all()
    for wanted in (code.level(low), code.level(high)) if most > 2 else ():
        assert (found.levels == wanted).any(0).all()
    if most > 2:
        assert (found.levels == code.level(x)).any(0).all()
        place = (found.levels == code.level(x)).long().argmax(0, keepdim=True)
        assert torch.equal(found.pixels.gather(0, place)[0], x)


def test_the_search_knows_the_codes_of_levels():
    assert {"latency", "log-latency", "early-burst", "late-burst", "phase", "few-spikes"} <= set(SEARCHED)
    assert not {"rank-order", "relative-latency", "bernoulli", "direct"} & set(SEARCHED)


def compared_with_all(name, exhaust, seeds):
    """Successes missed, margins not reached, examples that stand, and examples in all.

    The oracle knows nothing of levels: it asks code and model about every pattern that it can make.
    """
    code, threat = EVERY_CODE[name], Linf(0.12)
    missed = behind = stand = cases = 0
    for seed in seeds:
        model = tiny(code, seed, Count() if seed % 2 else MeanPotential(), pixels=4)
        x = Key.of(seed).uniform((6, 1, 1, 4))
        y = decide(model(x)).clamp(min=0)
        result = EncoderAware(threat, exhaust=exhaust, most=64)(model, x, y, Key.of(0))
        assert threat.contains(result.x_adv, x).all()
        assert torch.equal(result.success, decide(model(result.x_adv)) != y)
        for i, image in enumerate(x.flatten(1)):
            options = [can_be(code, v, (v - 0.12).clamp(min=0), (v + 0.12).clamp(max=1)) for v in image]
            every = torch.tensor(list(product(*options))).view(-1, 1, 1, 4)
            with torch.no_grad():
                logits = model(every)
                found = Margin()(model(result.x_adv[i : i + 1]), y[i : i + 1])
            possible = bool((decide(logits) != y[i]).any())
            cases, stand = cases + 1, stand + (not possible)
            missed += possible and not bool(result.success[i])
            behind += not possible and bool(found < Margin()(logits, y[i].expand(len(logits))).max() - 1e-4)
    return missed, behind, stand, cases


@pytest.mark.parametrize("name", SEARCHED)
def test_exhaustive_search_finds_the_true_worst_case_of_every_code(name):
    missed, behind, stand, cases = compared_with_all(name, 4096, range(2))
    assert (missed, behind) == (0, 0)
    assert 0 < stand < cases


def test_the_heuristic_search_misses_at_most_five_percent_of_the_successes_of_exhaustive_search():
    counts = torch.tensor([compared_with_all(name, 0, range(2)) for name in SEARCHED]).sum(0)
    missed, behind, stand, cases = counts.tolist()
    assert cases >= 80
    assert missed <= 0.05 * (cases - stand)
    assert behind <= 0.1 * stand


def test_what_is_searched_in_part_is_not_called_exhausted():
    """An image counts as searched exhaustively only if every level within its reach was tried."""
    code, x = Phase(7, period=7), torch.full((1, 1, 1, 2), 0.5)  # 128 levels
    model, y = tiny(code, 0, pixels=2), torch.zeros(1, dtype=torch.int64)
    spans = 27**2  # within 0.1 of the middle
    few = EncoderAware(Linf(0.1), most=4, exhaust=4096, restarts=1, steps=1, refine=0)(model, x, y, Key.of(0))
    none = EncoderAware(Linf(0.1), most=4, exhaust=200, restarts=1, steps=1, refine=0)(model, x, y, Key.of(0))
    assert abs(int(few.queries) - spans) < 0.1 * spans
    assert int(few.backward_queries) == 0
    assert int(none.queries) < 20


def test_an_example_is_searched_the_same_beside_examples_of_longer_reach():
    """A pixel near 0 or 1 reaches fewer levels than one near 0.5, whatever other examples the batch holds."""
    code = Latency(6)
    model = tiny(code, 0)
    x = torch.cat([torch.zeros(3, 1, 1, 5), Key.of(1).uniform((5, 1, 1, 5))])
    y = decide(model(x)).clamp(min=0)
    attack = EncoderAware(Linf(0.3), exhaust=0, steps=4)
    whole = attack(model, x, y, Key.of(0).for_rows(range(8)))
    for i in range(8):
        alone = attack(model, x[i : i + 1], y[i : i + 1], Key.of(0).for_rows([i]))
        assert torch.equal(alone.x_adv[0], whole.x_adv[i])
        assert alone.queries[0] == whole.queries[i]


@pytest.fixture(scope="module")
def trained():
    data = Digits().load(None)
    spec = ModelSpec(Latency(6), MLP((40,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
    model = spec.build(Key.of(0))
    BPTT(epochs=4, lr=0.01).train(model, data, Key.of(0))
    return model.eval(), data.test.images[:100], data.test.labels[:100]


@pytest.mark.parametrize("epsilon", [0.05, 0.1])
def test_the_encoder_aware_search_leaves_fewer_digits_right_than_pgd_at_several_times_the_cost(
    trained, epsilon
):
    model, x, y = trained
    threat, clean = Linf(epsilon), evaluate_clean(model, x, y, Key.of(0))
    outcomes = [
        evaluate_attack(model, recipe(threat), threat, x, y, clean, Key.of(0))
        for recipe in (EncoderAwareSearch(), PGD(steps=100, restarts=5))
    ]
    aware, pgd = (outcome.right.sum() for outcome in outcomes)
    assert aware < pgd
    assert outcomes[0].within.all()
    assert outcomes[0].queries.sum() < outcomes[1].queries.sum()


def test_the_search_is_deterministic_and_independent_of_the_batch(trained):
    model, x, y = trained
    attack = EncoderAware(Linf(0.05), steps=3, refine=3)
    key = Key.of(0)
    whole = attack(model, x[:8], y[:8], key.for_rows(range(8)))
    again = attack(model, x[:8], y[:8], key.for_rows(range(8)))
    part = attack(model, x[3:5], y[3:5], key.for_rows([3, 4]))
    assert torch.equal(whole.x_adv, again.x_adv)
    assert torch.equal(whole.success[3:5], part.success)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_the_search_fools_no_image_at_epsilon_0_and_every_image_at_epsilon_1(trained, epsilon):
    model, x, y = trained
    right = decide(model(x)) == y
    result = EncoderAware(Linf(epsilon), steps=5, refine=0)(model, x[right], y[right], Key.of(0))
    assert result.success.float().mean().item() == epsilon
    if not epsilon:
        assert torch.equal(result.x_adv, x[right])


@pytest.mark.parametrize(
    "code",
    [Direct(4), Bernoulli(4), RankOrder(4), RelativeLatency(4), TABLE["population"], TABLE["fused"]],
    ids=repr,
)
def test_codes_without_levels_are_refused_and_pgd_is_suggested(code):
    assert not EncoderAwareSearch().suits(tiny(code, 0))
    with pytest.raises(InputError, match="pgd"):
        EncoderAware(Linf(0.1))(tiny(code, 0), torch.rand(2, 1, 1, 5), torch.zeros(2).long(), Key.of(0))


def test_other_threats_and_foreign_models_are_refused():
    with pytest.raises(InputError, match="an interval to every pixel"):
        EncoderAware(L2(0.1))
    with pytest.raises(InputError, match="foreign"):
        EncoderAware(Linf(0.1))(lambda x, key=None: x, torch.rand(2, 3), torch.zeros(2).long(), Key.of(0))

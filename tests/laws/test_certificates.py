"""Every certificate must hold: no image within the budget contradicts it."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.datasets import Digits
from spikeproof.decoders import Count, FirstSpike, MeanCurrent, MeanPotential, decide
from spikeproof.encoders import Bernoulli, Direct, EarlyBurst, LateBurst, Latency, QuantisedDirect, Reversed
from spikeproof.errors import InputError
from spikeproof.evaluation import certificates
from spikeproof.evaluation.certificates import (
    IBP,
    BernoulliSmoothing,
    Bins,
    GaussianSmoothing,
    LinearRelaxation,
)
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.networks.architecture import MLP, Architecture, ConvNet
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.neurons import IF, LIF, PSP, BySubtraction, Neuron, ReLU, ToZero
from spikeproof.protocols import Decoder, Encoder
from spikeproof.surrogates import ATan
from spikeproof.threats import L1, L2, Linf

CODES = [Direct(4), QuantisedDirect(4), Latency(4), EarlyBurst(4), LateBurst(4), Reversed(EarlyBurst(4))]
NEURONS = [
    LIF(),
    LIF(reset=ToZero(), tau=2e-3),
    IF(threshold=0.7),
    IF(reset=ToZero()),
    LIF(synapse=PSP()),
]
BOUNDS = [IBP(), LinearRelaxation()]
CERTIFICATES = [*BOUNDS, Bins()]


def small(code, neuron=LIF(), decoder=Count(), network=MLP((12,)), seed=0, normalise=None):
    spec = ModelSpec(code, network, neuron, ATan(), decoder, (1, 4, 4), 3, normalise)
    return spec.build(Key.of(seed)).eval()


def members(x, epsilon, count, seed=0):
    """Random images of the budget, half of them at its corners."""
    noise = Key.of(seed).uniform((count, *x.shape)) * 2 - 1
    noise[: count // 2] = noise[: count // 2].sign()
    return (x + epsilon * noise).clamp(0, 1)


def answers_within(model, x, epsilon, count):
    """The answers to random images of the budget, [count, N], from one forward pass."""
    return decide(model(members(x, epsilon, count).flatten(0, 1))).view(count, len(x))


@pytest.mark.parametrize("code", CODES, ids=repr)
def test_the_box_of_a_code_is_the_smallest_that_holds_all_members(code):
    low = Key.of(1).uniform((3, 5))
    high = (low + 0.4 * Key.of(2).uniform((3, 5))).clamp(max=1)
    a, b = certificates.encoded_box(code, low, high)
    share = torch.linspace(0, 1, 301)[:, None, None]
    codes = torch.stack([code(x) for x in low + share * (high - low)])
    torch.testing.assert_close(codes.amin(0), a, atol=1e-6, rtol=0)
    torch.testing.assert_close(codes.amax(0), b, atol=1e-6, rtol=0)


@settings(max_examples=40, deadline=None)
@given(st.floats(-3, 3), st.floats(0, 4), st.sampled_from([0.5, 1.0]), st.booleans())
def test_lines_enclose_step_and_reset(low, width, threshold, subtract):
    a, b = torch.tensor([low], dtype=torch.float64), torch.tensor([low + width], dtype=torch.float64)
    neuron = IF(threshold=threshold, reset=BySubtraction() if subtract else ToZero())
    m = torch.cat([torch.linspace(low, low + width, 400, dtype=torch.float64), torch.tensor([threshold])])
    m = m[(m >= a) & (m <= b)]
    z = (m >= threshold).double()
    after = neuron.reset(m, z, threshold)
    for value, lines in (
        (z, certificates._spike_lines(a, b, threshold)),
        (after, certificates._reset_lines(a, b, neuron)),
        (m.relu(), certificates._relu_lines(a, b)),
    ):
        assert (lines.low_slope * m + lines.low <= value + 1e-9).all()
        assert (lines.high_slope * m + lines.high >= value - 1e-9).all()
    low_range, high_range = certificates._reset_range(a, b, neuron)
    assert low_range <= after.min() + 1e-12
    assert high_range >= after.max() - 1e-12


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
@pytest.mark.parametrize("code", [Direct(4), Latency(4)], ids=repr)
@pytest.mark.parametrize("network", [MLP((12,)), ConvNet((3,))], ids=repr)
def test_every_member_of_the_budget_lies_within_the_bounds(code, neuron, network):
    model, x = small(code, neuron, network=network), Key.of(3).uniform((2, 1, 4, 4))
    epsilon = 0.02
    box = IBP().box(model, *certificates._box(x, Linf(epsilon)))
    low, high = certificates._outputs(model, box)
    y = torch.zeros(2, dtype=torch.int64)
    by_lines, by_box = LinearRelaxation().margins(model, box, y), IBP().margins(model, box, y)
    assert (by_lines >= by_box - 1e-9).all()
    out = model.outputs(members(x, epsilon, 200).flatten(0, 1)).double().unflatten(1, (200, 2))
    assert (out >= low[:, None] - 1e-4).all()
    assert (out <= high[:, None] + 1e-4).all()
    margins = (out.sum(0)[..., :1] - out.sum(0))[..., 1:]
    assert (by_lines[:, 1:] <= margins + 1e-3).all()


@pytest.mark.parametrize("decoder", [Count(), FirstSpike(), MeanPotential(), MeanCurrent()], ids=repr)
@pytest.mark.parametrize("code", CODES, ids=repr)
@pytest.mark.parametrize("certificate", CERTIFICATES, ids=repr)
def test_no_member_of_the_budget_contradicts_a_certificate(certificate, code, decoder):
    model = small(code, decoder=decoder, seed=1)
    if certificate.reason(model, Linf(0.1)):
        assert certificate == Bins() and isinstance(code, Direct)  # noqa: PT018
        return
    x = 0.05 + 0.9 * Key.of(4).uniform((60, 1, 4, 4))
    y = decide(model(x)).clamp(min=0)
    found = [certificate(model, x, y, Linf(epsilon), Key.of(0)).certified for epsilon in (0.0, 0.003, 0.02)]
    right = decide(model(x)) == y
    assert not (found[0] & ~right).any()
    assert found[0].sum() >= 0.9 * right.sum()  # no budget: all but potentials a rounding from the threshold
    assert not (found[2] & ~found[1]).any()  # a larger budget proves less
    for epsilon, certified in zip((0.003, 0.02), found[1:], strict=True):
        assert (answers_within(model, x, epsilon, 60) == y)[:, certified].all()


def instance(kind, name):
    """A member of the catalogue with its default options, and few steps where it has them."""
    part = MODEL_PARTS[kind][name]
    for options in (
        {"steps": 4},
        {},
        {"decoder": Count()},
        {"code": EarlyBurst(4)},
        {"codes": (Latency(4),)},
    ):
        try:
            return part(**options)
        except (TypeError, InputError):
            continue
    return None


def claimed(**parts):
    """A model with these parts, or None where it cannot be built or no certificate applies to it."""
    wanted = {"code": Latency(4), "neuron": LIF(), "decoder": Count(), "network": MLP((12,)), **parts}
    if any(part is None for part in wanted.values()):
        return None
    if not wanted["neuron"].spiking:
        wanted |= {"code": Direct(1), "decoder": MeanPotential()}
    try:
        model = small(**wanted, seed=2)
        if all(c.reason(model, Linf(0.1)) is not None for c in (*BOUNDS, Bins())):
            return None
        model(torch.rand(1, 1, 4, 4))
    except (InputError, TypeError, ValueError, RuntimeError, AttributeError):
        return None
    return model


@functools.cache
def named_model(axis, kind, name):
    return claimed(**{axis: instance(kind, name)})


MEMBERS = [
    (axis, kind, name)
    for axis, kind in (("code", Encoder), ("neuron", Neuron), ("decoder", Decoder), ("network", Architecture))
    for name in MODEL_PARTS[kind]
]
ATTACKS = [PGD(steps=6), EncoderAwareSearch(steps=3, restarts=1, refine=3), SquareSearch(queries=20)]


@pytest.mark.parametrize(("axis", "kind", "name"), MEMBERS, ids=lambda v: v if isinstance(v, str) else "")
def test_certified_never_exceeds_attacked_on_any_member_that_a_certificate_claims(axis, kind, name):
    model = named_model(axis, kind, name)
    if model is None:
        return  # that what is claimed is not nothing says the next test
    large = sum(weights.numel() for weights in model.parameters()) > 100_000
    x = Key.of(6).uniform((24, 1, 4, 4))
    x[:9] = (x[:9] * 3 - 1).clamp(0, 1)  # black and white pixels lie on the edges of bins
    x = x[8:11] if large else x
    y = decide(model(x)).clamp(min=0)
    for threat in (Linf(0.004), Linf(0.05), L2(0.05)):
        certified = torch.zeros(len(x), dtype=torch.bool)
        for certificate in (IBP(), Bins()) if large else (*BOUNDS, Bins()):
            if certificate.reason(model, threat) is None:
                certified |= certificate(model, x, y, threat, Key.of(0)).certified
        rows = certified.nonzero().flatten()  # nobody promised anything about the others
        if not len(rows):
            continue
        for recipe in ATTACKS[:1] if large else ATTACKS:
            if recipe.suits(model) and not (isinstance(threat, L2) and recipe == ATTACKS[1]):
                assert not recipe(threat)(model, x[rows], y[rows], Key.of(7)).success.any()
        reach = threat.epsilon / (4 if isinstance(threat, L2) else 1)
        assert (answers_within(model, x[rows], reach, 4 if large else 30) == y[rows]).all()


def test_bounds_are_given_for_codes_of_levels_and_feed_forward_networks_and_refused_for_others():
    names = {name for axis, kind, name in MEMBERS if named_model(axis, kind, name) is not None}
    assert names >= {
        *("direct", "quantised-direct", "latency", "early-burst", "late-burst", "reversed", "log-latency"),
        *("lif", "if", "relu", "count", "mean-potential", "first-spike", "mlp", "convnet"),
    }
    assert not names & {"bernoulli", "rank-order", "relative-latency", "events", "fast-and-deep", "gru"}
    assert all(c.reason(named_model("neuron", Neuron, "alif"), Linf(0.1)) for c in BOUNDS)


def test_equal_patterns_at_both_ends_prove_nothing_of_what_lies_between():
    """A code that spikes at middle values only: black and white look alike, grey does not."""

    class Middle(Latency):
        def pattern(self, n):
            return ((n == 1) | (n == 2)).to(torch.float32).expand(self.steps, *n.shape)

    code = Middle(4)
    low, high = torch.zeros(1, 1), torch.ones(1, 1)
    assert torch.equal(code.pattern(code.level(low)), code.pattern(code.level(high)))
    model = small(Latency(4))
    model.encoder = code
    x = torch.full((1, 1, 4, 4), 0.5)
    assert not Bins()(model, x, decide(model(x)).clamp(min=0), Linf(0.5), Key.of(0)).certified.any()


@pytest.fixture(scope="module")
def trained():
    """Small models of real digits, one per code."""
    data = Digits().load(None)
    models = {}
    for code in (Direct(3), Latency(3)):
        spec = ModelSpec(code, MLP((16,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
        models[code] = spec.build(Key.of(0))
        BPTT(epochs=3, lr=0.01).train(models[code], data, Key.of(0))
    return models, data.test.images[:60], data.test.labels[:60]


@pytest.mark.parametrize("code", [Direct(3), Latency(3)], ids=repr)
@pytest.mark.parametrize("attack", [PGD(steps=20), SquareSearch(queries=100)], ids=repr)
def test_certified_is_never_above_attacked(trained, code, attack):
    models, x, y = trained
    model, threat = models[code], Linf(0.01)
    standing = ~attack(threat)(model, x, y, Key.of(0)).success
    for certificate in BOUNDS:
        certified = certificate(model, x, y, threat, Key.of(0)).certified
        assert not (certified & ~standing).any()
        if code == Direct(3):
            assert certified.float().mean() > 0.3  # it proves something, too


def test_linear_bounds_prove_never_less_than_intervals_and_much_more_for_the_twin(trained):
    models, x, y = trained
    spec = replace(models[Direct(3)].spec, encoder=Direct(1), neuron=ReLU())
    twin = spec.build(Key.of(0))
    BPTT(epochs=3, lr=0.01).train(twin, Digits().load(None), Key.of(0))
    for model, gain in ((models[Direct(3)], 0), (models[Latency(3)], 0), (twin, 15)):
        by_box, by_lines = (c(model, x, y, Linf(0.02), Key.of(0)).certified for c in BOUNDS)
        assert not (by_box & ~by_lines).any()
        assert by_lines.sum() >= by_box.sum() + gain


def test_the_twin_and_normalisation_are_bounded_too():
    for neuron, decoder in ((ReLU(), MeanPotential()), (LIF(), Count())):
        code = Direct(1) if isinstance(neuron, ReLU) else Direct(4)
        model = small(code, neuron, decoder, normalise=Normalise((0.3,), (0.5,)))
        x = Key.of(5).uniform((20, 1, 4, 4))
        y = decide(model(x)).clamp(min=0)
        certified = LinearRelaxation()(model, x, y, Linf(0.01), Key.of(0)).certified
        assert certified.any()
        assert (answers_within(model, x, 0.01, 100) == y)[:, certified].all()


class Threshold(torch.nn.Module):
    """One pixel, counted over T steps: class 1 where more than half of the steps spiked."""

    def __init__(self, steps):
        super().__init__()
        self.encoder = Bernoulli(steps)
        self.spec = small(Bernoulli(2)).spec
        self.spec = replace(self.spec, classes=2)
        self.eval()

    def forward(self, x, key=None):
        more = self.encoder(x.flatten(1), key).mean(0) > 0.5
        return torch.cat([~more, more], 1).float()


def test_the_published_radius_is_no_certificate_and_the_valid_one_is():
    """Exact probabilities: of the radius promised for class 1, a third already turns the vote."""
    steps, x = 100, 0.58
    votes = 1 - binom.cdf(steps // 2, steps, [x, 0.49])
    assert votes[0] - 0.5 > 0.4
    assert votes[1] < 0.5  # at a distance of 0.09
    model, image, y = Threshold(steps), torch.full((1, 1, 1, 1), x), torch.ones(1, dtype=torch.int64)
    published = BernoulliSmoothing(published=True)(model, image, y, L1(0.09), Key.of(0))
    valid = BernoulliSmoothing()(model, image, y, L1(0.09), Key.of(0))
    assert published.certified.item()  # although the vote at 0.49 is for class 0
    assert not valid.certified.item()
    assert valid.radius.item() == pytest.approx(published.radius.item() / steps)
    for centre in np.linspace(0.02, 0.98, 49):  # the valid radius holds everywhere, by exact probabilities
        p = 1 - binom.cdf(steps // 2, steps, centre)
        radius = abs(p - 0.5) / steps
        for moved in (centre - radius, centre + radius):
            assert (1 - binom.cdf(steps // 2, steps, moved) > 0.5) == (p > 0.5)


def test_gaussian_smoothing_meets_the_closed_form_of_a_linear_classifier():
    """For a half-space the certified radius tends to the distance from the plane."""

    class HalfSpace(torch.nn.Module):
        spec = replace(small(Direct(1)).spec, classes=2)

        def forward(self, x, key=None):
            side = x.flatten(1).mean(1, keepdim=True) - 0.5
            return torch.cat([-side, side], 1)

    x = torch.full((1, 1, 4, 4), 0.53)
    distance = 0.03 * math.sqrt(16)
    found = GaussianSmoothing(draws=4000, sigma=0.1)(
        HalfSpace().eval(), x, torch.ones(1, dtype=torch.int64), L2(0.01), Key.of(0)
    )
    assert 0.8 * distance < found.radius.item() <= distance


@pytest.mark.parametrize(
    ("certificate", "model", "threat", "text"),
    [
        (IBP(), small(Bernoulli(3)), Linf(0.1), "Bernoulli"),
        (Bins(), small(Direct(3)), Linf(0.1), "no bins"),
        (BernoulliSmoothing(), small(Latency(3)), L1(0.1), "Latency"),
        (BernoulliSmoothing(), small(Bernoulli(3)), Linf(0.1), "L1"),
        (GaussianSmoothing(), small(Latency(3)), Linf(0.1), "L2"),
        (LinearRelaxation(inputs=10), small(Latency(3)), Linf(0.1), "48 inputs"),
    ],
    ids=lambda v: type(v).__name__ if not isinstance(v, str) else v,
)
def test_what_cannot_be_certified_is_refused_with_its_reason(certificate, model, threat, text):
    assert text in certificate.reason(model, threat)
    with pytest.raises(InputError, match=text):
        certificate(model, torch.rand(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), threat, Key.of(0))


def test_a_model_in_train_mode_is_refused():
    with pytest.raises(InputError, match="eval"):
        IBP()(small(Latency(3)).train(), torch.rand(2, 1, 4, 4), torch.zeros(2).long(), Linf(0.1), Key.of(0))

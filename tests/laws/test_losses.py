"""Losses and objectives against NumPy."""

import numpy as np
import pytest
import torch

from spikeproof.decoders import Count, FirstSpike, Geometric, MeanPotential
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import (
    DLR,
    TET,
    CountMSE,
    CrossEntropy,
    DeepSupervision,
    LogitCrossEntropy,
    Margin,
    RelativeTargets,
    Rescaled,
    SpikeLatency,
    SpikeLatency2,
    SpikeLatency3,
    TimeMargin,
)

OUTPUTS = (Key.of(0).uniform((6, 7, 4)) < 0.4).double()
LOGITS = OUTPUTS.sum(0) + 0.01 * Key.of(1).normal((7, 4)).double()
Y = torch.tensor([0, 1, 2, 3, 0, 1, 2])


def cross_entropy(logits, y):
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, y[:, None], 1)[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_cross_entropy_is_one_softmax_and_one_only(temperature):
    wanted = cross_entropy(LOGITS.numpy() / temperature, Y.numpy())
    assert np.allclose(CrossEntropy(temperature)(OUTPUTS, LOGITS, Y), wanted)
    if temperature == 1:
        assert np.allclose(LogitCrossEntropy()(LOGITS, Y), wanted)


def test_a_perfect_answer_costs_nothing():
    """The double soft-max of the published latency loss cannot go below ln(1 + (K - 1)/e)."""
    sure = torch.tensor([[0.0, -40.0, -40.0, -40.0]])
    assert CrossEntropy()(sure[None], sure, torch.tensor([0])).item() < 1e-9


@pytest.mark.parametrize(("desired", "undesired"), [(4, 1), (2, 0), (6, 5)])
def test_count_mse_costs_only_what_is_missing_or_too_much(desired, undesired):
    wanted = []
    for b in range(7):
        total = 0.0
        for k in range(4):
            count = OUTPUTS[:, b, k].sum().item()
            gap = max(desired - count, 0) if k == Y[b] else max(count - undesired, 0)
            total += 0.5 * (gap / 6) ** 2
        wanted.append(total)
    assert np.allclose(CountMSE(desired, undesired)(OUTPUTS, LOGITS, Y), wanted)


def test_tet_is_the_mean_over_steps_plus_the_pull():
    each = np.mean([cross_entropy(o.numpy(), Y.numpy()) for o in OUTPUTS], 0)
    pull = ((OUTPUTS.numpy() - 0.5) ** 2).mean((0, 2))
    assert np.allclose(TET(0.3, 0.5)(OUTPUTS, LOGITS, Y), 0.7 * each + 0.3 * pull)


def test_margin_and_dlr_follow_their_formulas():
    for row, label, margin, dlr in zip(LOGITS, Y, Margin()(LOGITS, Y), DLR()(LOGITS, Y), strict=True):
        values, y = row.numpy(), label.item()
        wanted = np.delete(values, y).max() - values[y]
        ranked = np.sort(values)[::-1]
        assert margin.item() == pytest.approx(wanted)
        assert dlr.item() == pytest.approx(wanted / (ranked[0] - ranked[2] + 1e-12))


def test_a_positive_margin_is_a_wrong_answer():
    wrong = LOGITS.argmax(-1) != Y
    assert torch.equal(Margin()(LOGITS, Y) > 0, wrong)


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: CrossEntropy(0.0), lambda: CountMSE(1, 2), lambda: TET(1.5), lambda: TET(-0.1)),
        *(lambda: SpikeLatency(0.0), lambda: SpikeLatency(np.inf)),
        lambda: DeepSupervision(Count(), weights=(1.0, -1.0)),
        lambda: DeepSupervision(Count(), weights=(0.0, 0.0)),
        lambda: DeepSupervision(Count(), weights=(np.nan,)),
        lambda: DeepSupervision(Count(), loss=DeepSupervision(Count())),
        lambda: DeepSupervision(Count(), weights=(1.0,) * 5)(OUTPUTS, LOGITS, Y),
    ],
)
def test_weights_and_rates_of_losses_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_dlr_needs_three_classes():
    with pytest.raises(InputError, match="Margin"):
        DLR()(torch.zeros(1, 2), torch.tensor([0]))


LOSSES = [
    *(CrossEntropy(), CountMSE(4, 1), TET(), DeepSupervision(Count())),
    *(SpikeLatency(), SpikeLatency2(), SpikeLatency3(), RelativeTargets(3.0), TimeMargin(5.0)),
]


@pytest.mark.parametrize("loss", LOSSES, ids=repr)
def test_a_loss_is_of_each_example_alone_and_falls_along_its_gradient(loss):
    timed = isinstance(loss, (RelativeTargets, TimeMargin))
    outputs = OUTPUTS[:1] * Key.of(5).uniform(OUTPUTS[:1].shape) if timed else OUTPUTS.clone()
    outputs.requires_grad_()

    def cost(each, y):
        return loss(each, each[0] if timed else each.sum(0), y)

    whole = cost(outputs, Y)
    assert whole.shape == (7,)
    assert (whole >= 0).all()
    assert torch.equal(cost(outputs[:, [4, 1]], Y[[4, 1]]), whole[[4, 1]])
    (grad,) = torch.autograd.grad(whole.sum(), outputs)
    assert grad.any()
    assert cost(outputs.detach() - 1e-4 * grad, Y).sum() < whole.sum()


# --- first spikes: the published losses ---


def first_times(spikes):
    """Steps 1..T of first spikes, T + 1 for silence, found one by one."""
    steps, batch, classes = spikes.shape
    times = np.full((batch, classes), steps + 1.0)
    for b, k in np.ndindex(batch, classes):
        fired = np.flatnonzero(spikes[:, b, k])
        if len(fired):
            times[b, k] = fired[0] + 1
    return times


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SPARSE = OUTPUTS * (Key.of(2).uniform((6, 7, 4)) < 0.4)


def test_the_published_first_spike_losses_follow_their_formulas():
    t, y = first_times(SPARSE.numpy()), Y.numpy()
    assert (t == 7).any()  # some neurons are silent
    d = 6 + 1 - t
    assert np.allclose(SpikeLatency()(SPARSE, LOGITS, Y), cross_entropy(softmax(-2 * t), y))
    assert np.allclose(SpikeLatency(0.5)(SPARSE, LOGITS, Y), cross_entropy(softmax(-0.5 * t), y))
    assert np.allclose(SpikeLatency2()(SPARSE, LOGITS, Y), cross_entropy(d, y))
    assert np.allclose(SpikeLatency3()(SPARSE, LOGITS, Y), cross_entropy(2 * (d - 6), y))


def test_spike_latency_losses_2_and_3_are_cross_entropies_of_first_spikes_at_temperatures_1_and_one_half():
    logits = FirstSpike()(SPARSE)
    assert torch.allclose(SpikeLatency2()(SPARSE, logits, Y), CrossEntropy()(SPARSE, logits, Y))
    assert torch.allclose(SpikeLatency3()(SPARSE, logits, Y), CrossEntropy(0.5)(SPARSE, logits, Y))


def test_the_flawed_loss_has_a_floor_that_a_perfect_answer_cannot_pass():
    sure = torch.zeros(6, 1, 10)
    sure[0, 0, 3] = 1
    label, floor = torch.tensor([3]), np.log(1 + 9 / np.e)
    assert SpikeLatency(50.0)(sure, sure.sum(0), label).item() == pytest.approx(floor, rel=1e-6)
    assert SpikeLatency()(sure, sure.sum(0), label).item() >= floor
    assert SpikeLatency2()(sure, sure.sum(0), label).item() < 0.03
    assert SpikeLatency3()(sure, sure.sum(0), label).item() < 1e-4


@pytest.mark.parametrize("loss", [SpikeLatency(), SpikeLatency2(), SpikeLatency3()], ids=repr)
def test_the_published_gradient_reaches_first_spikes_and_step_0_of_silent_neurons_alone(loss):
    spikes = SPARSE.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(spikes, LOGITS, Y).sum(), spikes)
    d = (7 - torch.from_numpy(first_times(SPARSE.numpy()))).requires_grad_()
    scale = {SpikeLatency(): lambda d: (-2 * (7 - d)).softmax(-1), SpikeLatency2(): lambda d: d}
    z = scale.get(loss, lambda d: 2 * (d - 6))(d)
    (outer,) = torch.autograd.grad(torch.nn.functional.cross_entropy(z, Y, reduction="sum"), d)
    wanted = np.zeros(SPARSE.shape)
    for b, k in np.ndindex(7, 4):
        fired = np.flatnonzero(SPARSE[:, b, k].numpy())
        t = fired[0] if len(fired) else 0
        wanted[t, b, k] = (6 - t) * outer[b, k].item()
    assert np.allclose(grad, wanted)


# --- supervision of every prefix ---


@pytest.mark.parametrize("decoder", [Count(), MeanPotential(), FirstSpike(), Geometric(0.6)], ids=repr)
@pytest.mark.parametrize("weights", [(), (0.0, 1.0, 2.0, 0.5, 0.0, 3.0)])
def test_deep_supervision_is_the_weighted_mean_over_prefixes(decoder, weights):
    rows = []
    for t in range(1, 7):
        o = OUTPUTS.numpy()[:t]
        by_hand = {
            Count(): lambda o: o.sum(0),
            MeanPotential(): lambda o: o.mean(0),
            FirstSpike(): lambda o: -(first_times(o) - 1),
            Geometric(0.6): lambda o: sum(0.6**i * o[i] for i in range(len(o))),
        }
        rows.append(cross_entropy(by_hand[decoder](o), Y.numpy()))
    found = DeepSupervision(decoder, weights=weights)(OUTPUTS, LOGITS, Y)
    assert np.allclose(found, np.average(rows, axis=0, weights=weights or None))


def test_all_weight_on_the_last_step_is_the_plain_loss_and_one_step_needs_no_prefix():
    last = DeepSupervision(Count(), CountMSE(4, 1), (0.0,) * 5 + (1.0,))
    assert torch.equal(last(OUTPUTS, LOGITS, Y), CountMSE(4, 1)(OUTPUTS, OUTPUTS.sum(0), Y))
    one = OUTPUTS[:1]
    assert torch.allclose(DeepSupervision(Count())(one, one[0], Y), CrossEntropy()(one, one[0], Y))


@pytest.mark.parametrize(
    "loss",
    [
        *(CrossEntropy(), TET(0.3, 0.5), SpikeLatency(), SpikeLatency2(), SpikeLatency3()),
        *(DeepSupervision(decoder) for decoder in (Count(), MeanPotential(), FirstSpike(), Geometric())),
        DeepSupervision(Count(), TET(0.2), (3.0, 2.0, 1.0, 1.0, 1.0, 0.5)),
    ],
    ids=repr,
)
def test_gradients_equal_finite_differences_where_outputs_are_real_numbers(loss):
    outputs = (0.1 + Key.of(3).uniform((6, 7, 4))).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda o: loss(o, o.mean(0), Y), (outputs,), atol=1e-6)


PLAIN = [LogitCrossEntropy(), Margin(), DLR(), Rescaled(LogitCrossEntropy(), 1.0), Rescaled(Margin(), 2.0)]


@pytest.mark.parametrize("objective", PLAIN, ids=repr)
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_objectives_have_a_value_and_a_slope_where_a_class_is_masked(objective, scale):
    """Minus infinity at two wrong classes, and a finite slope along the others."""
    finite = (scale * torch.tensor([[2.0, 0.5], [0.0, 3.0]])).requires_grad_()
    logits = torch.cat([finite, torch.full((2, 2), -torch.inf)], 1)
    y = torch.tensor([0, 1])
    for value in (objective(logits, y), objective.towards(logits, y, 1 - y)):
        (grad,) = torch.autograd.grad(value.sum(), finite)
        assert value.isfinite().all()
        assert grad.isfinite().all()
        assert (grad != 0).any(1).all()
    (down,) = torch.autograd.grad(objective(logits, y).sum(), finite)
    assert (down.gather(1, y[:, None]) <= 0).all()  # no objective pulls the label up

"""Losses and objectives against NumPy."""

import numpy as np
import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import DLR, TET, CountMSE, CrossEntropy, LogitCrossEntropy, Margin

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
    "make", [lambda: CrossEntropy(0.0), lambda: CountMSE(1, 2), lambda: TET(1.5), lambda: TET(-0.1)]
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_dlr_needs_three_classes():
    with pytest.raises(InputError, match="Margin"):
        DLR()(torch.zeros(1, 2), torch.tensor([0]))

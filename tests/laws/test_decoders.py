"""Laws of every decoder: invariances, hand-computed cases, ties and silent outputs."""

import numpy as np
import pytest
import torch

from spikeproof.decoders import UNDECIDED, Count, FirstSpike, MeanPotential, decide, silent
from spikeproof.keys import Key
from spikeproof.protocols import Decoder

DECODERS = [Count(), MeanPotential(), FirstSpike()]
SPIKES = (Key.of(0).uniform((6, 40, 4)) < 0.2).float()


@pytest.mark.parametrize("decode", DECODERS, ids=repr)
def test_permuting_classes_permutes_logits(decode):
    order = [2, 0, 3, 1]
    assert isinstance(decode, Decoder)
    assert torch.equal(decode(SPIKES[..., order]), decode(SPIKES)[:, order])


def test_counts_and_means_are_free_of_order_in_time_and_first_spikes_are_not():
    assert torch.equal(Count()(SPIKES.flip(0)), Count()(SPIKES))
    assert torch.allclose(MeanPotential()(SPIKES.flip(0)), MeanPotential()(SPIKES))
    assert not torch.equal(FirstSpike()(SPIKES.flip(0)), FirstSpike()(SPIKES))


def test_the_first_spike_time_equals_the_naive_search():
    naive = np.full((40, 4), 6.0)
    for b, k in np.ndindex(40, 4):
        for t in range(6):
            if SPIKES[t, b, k]:
                naive[b, k] = t
                break
    assert np.array_equal(-FirstSpike()(SPIKES).numpy(), naive)


def test_the_first_spike_gradient_is_the_change_when_that_one_spike_is_flipped():
    spikes = SPIKES.clone().requires_grad_()
    logits = FirstSpike()(spikes)
    (grad,) = torch.autograd.grad(logits.sum(), spikes)
    for t, b, k in np.ndindex(6, 40, 4):
        flipped = SPIKES.clone()
        flipped[t, b, k] = 1 - flipped[t, b, k]
        change = (FirstSpike()(flipped) - logits)[b, k].item()
        sign = 1 - 2 * SPIKES[t, b, k].item()
        assert grad[t, b, k].item() * sign == pytest.approx(change)


def test_silent_neurons_learn_at_every_step():
    spikes = torch.zeros(5, 1, 2, requires_grad=True)
    (grad,) = torch.autograd.grad(FirstSpike()(spikes)[0, 0], spikes)
    assert grad[:, 0, 0].tolist() == [5, 4, 3, 2, 1]


def test_one_best_class_is_the_decision_and_nothing_else_is():
    cases = [
        ([3.0, 1.0, 2.0], 0),
        ([0.0, 2.0, 2.0], UNDECIDED),
        ([0.0, 0.0, 0.0], UNDECIDED),
        ([-1.0, -2.0, -2.0], 0),
        ([float("nan"), 2.0, 1.0], UNDECIDED),
        ([float("inf"), 2.0, 1.0], 0),
        ([float("inf"), float("inf"), 1.0], UNDECIDED),
        ([1.0, float("-inf"), 2.0], 2),
        ([float("-inf")] * 3, UNDECIDED),
    ]
    assert decide(torch.tensor([case for case, _ in cases])).tolist() == [wanted for _, wanted in cases]


def test_an_all_silent_output_is_never_class_zero():
    nothing = torch.zeros(6, 3, 4)
    for decode in DECODERS:
        assert (decide(decode(nothing)) == UNDECIDED).all()
    assert silent(nothing).all()
    late = nothing.clone()
    late[5, 1, 2] = 1
    assert silent(late).tolist() == [True, False, True]
    assert not silent(torch.ones(6, 3, 4)).any()

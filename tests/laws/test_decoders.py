"""Laws of every decoder: invariances, hand-computed cases, ties and silent outputs."""

import numpy as np
import pytest
import torch

from spikeproof.decoders import (
    UNDECIDED,
    Count,
    FirstSpike,
    FixedExit,
    Geometric,
    MeanCurrent,
    MeanPotential,
    Stacked,
    Voting,
    Weighted,
    decide,
    silent,
)
from spikeproof.encoders import Direct, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks import MLP, ModelSpec
from spikeproof.neurons import ALIF, IF, LIF, SRM, CuBaLIF, ReLU
from spikeproof.protocols import Decoder, output_width
from spikeproof.surrogates import ATan

DECODERS = [Count(), MeanCurrent(), MeanPotential(), FirstSpike()]
T, D = 8, np.exp(-1 / 4)  # steps, and the share of a potential that LIF keeps in a step
STEPS = np.arange(T)
RAMP = tuple(float(w) for w in (5, -1, 2, 0, 3, 1, 1, 7))
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


def weights(decoder, neuron):
    """What a unit current into the first output neuron of the first class adds to its score, step by step."""
    model = ModelSpec(Direct(T), MLP(()), neuron, ATan(), decoder, (1, 1, 1), 2).build(Key.of(0))
    *_, readout = model.network.layers
    scores = []
    for step in range(T):
        current = torch.zeros(T, 1, output_width(decoder, 2))
        current[step, 0, 0] = 1
        scores.append(decoder(readout(current))[0, 0].item())
    return np.array(scores)


def traced(w, d=D):
    """The weights of currents where `w` are those of the potentials that keep a share `d` in a step."""
    return np.array([sum(w[t] * d ** (t - s) for t in range(s, T)) for s in range(T)])


OF_CURRENTS = [  # decoder, neuron, the weights that the docstring states
    (MeanCurrent(), LIF(), np.full(T, 1 / T)),
    (MeanCurrent(), IF(), np.full(T, 1 / T)),
    (MeanCurrent(), SRM(), np.full(T, 1 / T)),
    (MeanCurrent(), CuBaLIF(), np.full(T, 1 / T)),
    (MeanCurrent(), ALIF(learn=True), np.full(T, 1 / T)),
    (MeanPotential(), LIF(), (1 - D ** (T - STEPS)) / (T * (1 - D))),
    (MeanPotential(), IF(), (T - STEPS) / T),
    (Weighted(RAMP, spikes=False), LIF(), traced(RAMP)),
    (Weighted((1.0,) * T, spikes=False), IF(), (T - STEPS) / 1.0),
    (
        Geometric(0.5, spikes=False),
        LIF(),
        0.5**STEPS * (1 - (0.5 * D) ** (T - STEPS)) / (1 - 0.5 * D),
    ),
    (Voting(MeanCurrent(), 4), LIF(), np.full(T, 1 / T / 4)),
    (Stacked((MeanCurrent(),), (3.0,)), LIF(), np.full(T, 3 / T)),
    (FixedExit(MeanCurrent(), 3), LIF(), np.where(STEPS < 3, 1 / 3, 0)),
    (FixedExit(MeanPotential(), 3), IF(), np.where(STEPS < 3, (3 - STEPS) / 3, 0)),
]


@pytest.mark.parametrize(("decoder", "neuron", "stated"), OF_CURRENTS, ids=lambda value: repr(value)[:40])
def test_a_unit_current_weighs_what_the_docstring_states(decoder, neuron, stated):
    np.testing.assert_allclose(weights(decoder, neuron), stated, rtol=1e-5, atol=1e-7)


def test_only_the_mean_current_weighs_all_steps_alike():
    """The first of 4, 8 and 16 steps outweighs the last 2.9, 3.9 and 4.4 times in a mean of potentials."""
    ratios = [(1 - D**steps) / (1 - D) for steps in (4, 8, 16)]
    assert [round(ratio, 1) for ratio in ratios] == [2.9, 3.9, 4.4]
    found = weights(MeanPotential(), LIF())
    assert found[0] / found[-1] == pytest.approx(ratios[1])
    assert np.ptp(weights(MeanCurrent(), LIF())) == 0


@pytest.mark.parametrize(
    ("decoder", "stated"),
    [
        (Count(), np.ones(T)),
        (FirstSpike(), T - STEPS),
        (Weighted(RAMP), np.array(RAMP)),
        (Geometric(0.5), 0.5**STEPS),
        (Voting(Count(), 2), np.full(T, 1 / 2)),
        (Stacked((Count(), FirstSpike()), (1.0, 0.5)), 1 + (T - STEPS) / 2),
        (FixedExit(Count(), 3), (STEPS < 3).astype(float)),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_one_spike_weighs_what_the_docstring_states(decoder, stated):
    width = output_width(decoder, 1)
    trains = torch.zeros(T, T, width)
    trains[STEPS, STEPS, 0] = 1  # one example for each step
    silence = decoder(torch.zeros(T, 1, width))
    np.testing.assert_allclose((decoder(trains) - silence)[:, 0], stated)


def test_logits_of_the_mean_current_are_the_last_weights_applied_to_the_mean_rate():
    spec = ModelSpec(Latency(6), MLP((20,)), LIF(), ATan(), MeanCurrent(), (1, 4, 4), 3)
    model = spec.build(Key.of(0)).eval()
    x = Key.of(1).uniform((5, 1, 4, 4))
    *hidden, linear, _ = model.network.layers
    spikes = model.encode(x)
    for layer in hidden:
        spikes = layer(spikes)
    assert spikes.sum() > 0
    weight, bias = linear[-1].weight, linear[-1].bias
    torch.testing.assert_close(model(x), spikes.mean(0) @ weight.T + bias)


def test_an_ann_has_the_same_logits_under_both_means():
    specs = [ModelSpec(Direct(1), MLP((9,)), ReLU(), ATan(), d, (1, 4, 4), 3) for d in DECODERS[1:3]]
    x = Key.of(1).uniform((5, 1, 4, 4))
    current, potential = (spec.build(Key.of(0))(x) for spec in specs)
    assert torch.equal(current, potential)


def test_decoders_of_currents_and_of_potentials_cannot_share_an_output_layer():
    assert Stacked((MeanCurrent(), MeanCurrent())).reads_current
    with pytest.raises(InputError, match="of currents only"):
        Stacked((MeanCurrent(), MeanPotential()))

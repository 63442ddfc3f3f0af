"""Laws of the cost of an inference: hand-counted networks, and a count synapse by synapse."""

import pytest
import torch

import spikeproof as sp
from spikeproof.analysis.activity import layer_spikes
from spikeproof.analysis.energy import Tariff, inference_cost
from spikeproof.errors import InputError

IMAGES = sp.Key.of(3).uniform((3, 1, 8, 8))


def model(encoder, network, decoder, neuron=None, **options):
    spec = sp.ModelSpec(encoder, network, neuron or sp.LIF(), sp.ATan(), decoder, (1, 8, 8), 10, **options)
    return spec.build(sp.Key.of(0)).eval()


def test_a_network_counted_by_hand():
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 0] = 1.0  # under a code without spikes for black, one pixel fires
    net = model(sp.EarlyBurst(4), sp.MLP((5,)), sp.Count())
    with torch.no_grad():
        for weights in net.parameters():
            weights.zero_()
        net.network.layers[0][1].weight[:2, 0] = 10.0  # two of five hidden neurons fire whenever it does
    spikes = int(net.encode(x).sum())
    cost = inference_cost(net, x, tariff=Tariff(accumulate=2.0, multiply=100.0))
    fired = int(layer_spikes(net, x)[1].spikes.sum())
    assert spikes > 0
    assert fired >= 2 * spikes
    assert cost.accumulates.tolist() == [spikes * 5 + fired * 10]
    assert cost.multiplies.tolist() == [0]
    assert cost.picojoules.tolist() == [2.0 * (spikes * 5 + fired * 10)]


def test_direct_coding_multiplies_once_in_its_first_layer():
    cost = inference_cost(model(sp.Direct(6), sp.MLP((5,)), sp.Count()), IMAGES)
    assert cost.multiplies.tolist() == [64 * 5] * 3
    fired = layer_spikes(model(sp.Direct(6), sp.MLP((5,)), sp.Count()), IMAGES)[0].spikes
    assert cost.accumulates.tolist() == (fired.sum((0, 2)) * 10).long().tolist()


def test_an_ann_multiplies_everywhere():
    ann = model(sp.Direct(1), sp.MLP((5,)), sp.MeanPotential(), sp.ReLU())
    cost = inference_cost(ann, IMAGES)
    assert cost.multiplies.tolist() == [64 * 5 + 5 * 10] * 3
    assert cost.accumulates.tolist() == [0] * 3


def by_synapse(weight, spikes, stride, padding):
    """Synapses that spikes reach in a convolution, one after the other."""
    size, total = weight.shape[-1], 0
    height, width = spikes.shape[-2:]
    rows = (height + 2 * padding - size) // stride + 1
    columns = (width + 2 * padding - size) // stride + 1
    for step, channel, i, j in spikes.nonzero().tolist():
        for row in range(rows):
            for column in range(columns):
                inside = 0 <= i + padding - row * stride < size and 0 <= j + padding - column * stride < size
                total += int(inside) * weight.shape[0] * int(spikes[step, channel, i, j])
    return total


@pytest.mark.parametrize("encoder", [sp.Latency(4), sp.LateBurst(4)])
def test_convolutions_are_counted_synapse_by_synapse_with_their_edges(encoder):
    net = model(encoder, sp.ConvNet((2, 3)), sp.Count())
    cost, seen = inference_cost(net, IMAGES[:1]), layer_spikes(net, IMAGES[:1])
    first = by_synapse(torch.zeros(2, 1, 4, 4), seen[0].spikes[:, 0], 2, 1)
    second = by_synapse(torch.zeros(3, 2, 4, 4), seen[1].spikes[:, 0], 2, 1)
    third = int(seen[2].spikes.sum()) * 10
    assert [int(layer.accumulates) for layer in cost.layers] == [first, second, third]


def test_steps_after_the_decision_cost_nothing():
    whole = model(sp.Latency(6), sp.MLP((20,)), sp.Count())
    early = model(sp.Latency(6), sp.MLP((20,)), sp.FirstSpike())
    early.load_state_dict(whole.state_dict())
    full, cut = inference_cost(whole, IMAGES), inference_cost(early, IMAGES)
    exits = early.infer(IMAGES).exit
    assert torch.equal(cut.steps, torch.where(exits.isnan(), 6.0, exits))
    assert (cut.accumulates <= full.accumulates).all()


def test_a_batch_costs_what_its_images_cost():
    net = model(sp.Latency(4), sp.ConvNet((2,)), sp.Count(), normalise=sp.Normalise((0.5,), (0.5,)))
    alone = [inference_cost(net, image[None]).accumulates.item() for image in IMAGES]
    assert inference_cost(net, IMAGES).accumulates.tolist() == alone
    assert inference_cost(net, IMAGES).multiplies.sum() == 0  # the normalisation is part of the weights


def test_a_filtered_spike_train_multiplies_whatever_the_other_images_are():
    net = model(sp.EarlyBurst(4), sp.MLP((20,)), sp.Count(), sp.LIF(synapse=sp.PSP(0.01)))
    mixed = torch.cat([IMAGES, torch.zeros(1, 1, 8, 8)])  # the last one leaves every neuron silent
    alone = [inference_cost(net, image[None]) for image in mixed]
    together = inference_cost(net, mixed)
    assert together.multiplies.tolist() == [cost.multiplies.item() for cost in alone]
    assert together.accumulates.tolist() == [cost.accumulates.item() for cost in alone]
    assert (together.multiplies[:3] == 4 * 20 * 10).all()
    assert together.multiplies[3] == 0


def test_a_tie_is_no_answer():
    net = model(sp.Latency(4), sp.MLP((5,)), sp.Count())
    with torch.no_grad():
        for weights in net.parameters():
            weights.zero_()
    assert inference_cost(net, IMAGES).answers.tolist() == [-1] * 3


def test_nothing_stays_attached_to_the_model():
    net = model(sp.Latency(4), sp.MLP((5,)), sp.Count())
    inference_cost(net, IMAGES), layer_spikes(net, IMAGES)
    assert not any(module._forward_hooks for module in net.modules())


def test_what_has_no_steps_and_no_spikes_is_refused():
    ann = model(sp.Direct(1), sp.MLP((5,)), sp.MeanPotential(), sp.ReLU())
    with pytest.raises(InputError, match="spiking neurons"):
        layer_spikes(ann, IMAGES)
    for network, neuron in ((sp.LSNN((5,)), sp.LIF()), (sp.MLP((5,)), sp.Recurrent(sp.LIF()))):
        with pytest.raises(InputError, match="without recurrent synapses"):
            inference_cost(model(sp.Direct(4), network, sp.Count(), neuron), IMAGES)
    with pytest.raises(InputError, match="at least 0 pJ"):
        Tariff(accumulate=-1.0)

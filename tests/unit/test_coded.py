"""Frozen spikes are those that the code makes, in every part, and only codes that can be frozen are."""

import pytest
import torch

from spikeproof.attacks.events.eventsteps import SpikeCompatible
from spikeproof.coded import CodedImages
from spikeproof.datasets import Digits, Randman
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, EarlyBurst, Events, Latency, Phase
from spikeproof.errors import InputError
from spikeproof.evaluation.through import raised, through
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import IF, LIF, ReLU
from spikeproof.surrogates import ATan


def test_a_model_of_events_answers_on_frozen_spikes_what_one_with_the_code_answers_on_images():
    plain, code = Digits().load(), EarlyBurst(5)
    frozen = CodedImages(Digits(), code).load()
    for name in ("train", "validation", "test"):
        one, other = getattr(plain, name), getattr(frozen, name)
        assert torch.equal(other.images, code(one.images).transpose(0, 1).to(torch.uint8))
        assert torch.equal(one.labels, other.labels)
    on_images = ModelSpec(code, MLP((20,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0)).eval()
    on_events = ModelSpec(Events(5), MLP((20,)), LIF(), ATan(), Count(), (1, 8, 8), 10).build(Key.of(0))
    images, spikes = plain.test.images[:50], frozen.test.images[:50].float()
    assert torch.equal(on_images(images), on_events.eval()(spikes))


def test_other_codes_and_other_data_have_other_digests():
    found = {CodedImages(Digits(), code).load().sha256 for code in (Latency(4), Latency(5), EarlyBurst(4))}
    assert len(found | {Digits().load().sha256}) == 4


@pytest.mark.parametrize("code", [Bernoulli(4), Direct(4), Events(4)], ids=repr)
def test_codes_that_draw_or_give_no_spikes_are_refused(code):
    with pytest.raises(InputError, match="Use an encoder such as latency"):
        CodedImages(Digits(), code)


def test_weighted_spikes_and_events_are_refused():
    with pytest.raises(InputError, match="weights"):
        CodedImages(Digits(), Phase(8)).load()
    with pytest.raises(InputError, match="as it is"):
        CodedImages(Randman(classes=2, examples=10, steps=4), Latency(4)).load()


def test_a_raised_threshold_changes_gradients_alone_and_shares_the_weights():
    spec = ModelSpec(Events(4), MLP((9, 7)), LIF(), ATan(), MeanPotential(), (3, 1, 1), 3)
    model = spec.build(Key.of(0)).eval()
    twin = raised(model, 3.0)
    thresholds = [
        [layer.neuron.threshold for layer in each.network.layers if hasattr(layer, "spike")]
        for each in (model, twin)
    ]
    assert thresholds == [[1.0, 1.0], [1.0, 3.0]]
    assert all(a is b for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert through(model, SpikeCompatible()) is None
    assert through(model, SpikeCompatible(raised=3.0)).network.layers[-3].neuron.threshold == 3.0
    assert raised(ModelSpec(Events(4), MLP((9,)), IF(), ATan(), Count(), (3, 1, 1), 3).build(Key.of(0)), 2.0)
    ann = ModelSpec(Direct(1), MLP((9,)), ReLU(), ATan(), MeanPotential(), (3, 1, 1), 3).build(Key.of(0))
    with pytest.raises(InputError, match="Leave out the option raised"):
        raised(ann, 2.0)

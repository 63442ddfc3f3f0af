"""Networks in spans of time steps: the same spikes, the same gradients, and less that is kept."""

import threading

import pytest
import torch

from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.compiled import Backward, Loops, inductor, using_backward, using_loops, using_spans
from spikeproof.decoders import Count, FirstSpike, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct, Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.through import through
from spikeproof.gradients import ASSG
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks import LSNN, MLP, Classifier, ConvNet, ModelSpec, SEWResNet
from spikeproof.networks.lean.spans import in_spans, why_not_in_spans
from spikeproof.neurons import (
    ALIF,
    DLIF,
    FS,
    IF,
    LIF,
    PLIF,
    PSP,
    SNU,
    SRM,
    CuBaLIF,
    Mixture,
    PrimedIF,
    ReLU,
    Renewal,
    ToZero,
)
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

STEPS, BATCH = 11, 32
NEURONS = [
    IF(threshold=0.5),
    PrimedIF(threshold=0.5),
    LIF(threshold=0.5, reset=ToZero()),
    LIF(threshold=0.4, synapse=PSP()),
    PLIF(threshold=0.4),
    ALIF(threshold=0.4, learn=True),
    CuBaLIF(threshold=0.4),
    SRM(threshold=0.5),
    SNU(threshold=0.5),
    DLIF(steps=STEPS),
    Renewal(threshold=0.5),
    Mixture(LIF(threshold=0.5), ALIF(beta=0.8, threshold=0.5), share=0.4),
]
NETWORKS = [
    MLP((12,)),
    ConvNet((4,), (8,)),
    ConvNet((4,), pool="gated-max"),
    ConvNet((4,), pool="max"),
    LSNN((12,)),
    SEWResNet(blocks=(1, 1, 1, 1), width=0.06),
]


def model(
    network=MLP((12,)), neuron=LIF(threshold=0.5), decoder=Count(), encoder=Latency(STEPS)
) -> Classifier:
    spec = ModelSpec(encoder, network, neuron, ATan(), decoder, (1, 8, 8), 5)
    return spec.build(Key.of(3)).eval()


def images() -> torch.Tensor:
    return Key.of(4).uniform((BATCH, 1, 8, 8))


def looked(classifier, span):
    """Outputs and the gradient of a margin, for a span."""
    x, y = images().requires_grad_(), torch.arange(BATCH) % 5
    with using_spans(span):
        outputs = classifier.outputs(x, Key.of(0))
        value = Margin()(classifier.spec.decoder(outputs), y)
        (grad,) = torch.autograd.grad(value.sum(), x)
        with torch.no_grad():
            assert torch.equal(classifier.outputs(x, Key.of(0)), outputs)
    return outputs.detach(), grad


def check(classifier, spans=(1, 4, STEPS + 5)):
    outputs, grad = looked(classifier, None)
    assert grad.abs().sum() > 0
    assert not why_not_in_spans(classifier.network)
    for span in spans:
        again, other = looked(classifier, span)
        assert torch.equal(again, outputs)
        assert (other - grad).abs().max() <= 1e-6 * grad.abs().max()


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
@pytest.mark.parametrize("decoder", [Count(), MeanPotential()], ids=repr)
def test_spans_keep_spikes_and_gradients_for_every_neuron(neuron, decoder):
    check(model(neuron=neuron, decoder=decoder), spans=(4,))


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_spans_keep_spikes_and_gradients_in_every_kind_of_layer(network):
    check(model(network))


@pytest.mark.parametrize("decoder", [FirstSpike(), MeanCurrent(), MeanPotential()], ids=repr)
def test_a_constant_input_is_met_once_in_every_span(decoder):
    check(model(encoder=Direct(STEPS), decoder=decoder))
    check(model(encoder=Direct(STEPS), neuron=ReLU(), decoder=MeanPotential()), spans=(4,))


def test_spans_and_compiled_loops_go_together():
    for neuron in (LIF(threshold=0.4, synapse=PSP()), CuBaLIF(threshold=0.4)):
        with using_loops(Loops.COMPILED):
            check(model(neuron=neuron), spans=(4,))


@pytest.mark.parametrize("loops", [Loops.COMPILED, Loops.INDUCTOR], ids=str)
def test_a_backward_pass_in_a_thread_of_an_accelerator_repeats_what_was_chosen(loops, monkeypatch):
    """Such a thread knows no choice, and neither does code after the block that has chosen."""
    monkeypatch.setattr(torch, "compile", lambda program, **options: program)
    inductor._program.cache_clear()
    classifier, x = model(ConvNet((6,))), images()
    with using_loops(loops), using_spans(4), using_backward(Backward.BFLOAT16):
        inside = x.clone().requires_grad_()
        (wanted,) = torch.autograd.grad(classifier(inside, Key.of(0)).square().sum(), inside)
        after = x.clone().requires_grad_()
        value = classifier(after, Key.of(0)).square().sum()
    elsewhere = threading.Thread(target=value.backward)
    elsewhere.start()
    elsewhere.join()
    inductor._program.cache_clear()
    assert wanted.any()
    assert torch.equal(after.grad, wanted)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_spikes_are_counted_as_without_spans(network):
    classifier = model(network)
    whole = classifier.infer(images(), Key.of(0))
    with using_spans(3):
        parts = classifier.infer(images(), Key.of(0))
    assert whole.spikes.sum() > 0
    assert all(map(torch.equal, whole, parts))


def test_an_attack_in_spans_is_the_same_attack():
    classifier, y = model(), torch.arange(BATCH) % 5
    attack = PGD(steps=4)(Linf(0.1))
    whole = attack(classifier, images(), y, Key.of(1))
    with using_spans(3):
        parts = attack(classifier, images(), y, Key.of(1))
    assert torch.equal(whole.x_adv, parts.x_adv)
    assert torch.equal(whole.success, parts.success)


def kept(classifier, span):
    """Numbers that layers keep for the backward pass besides their input."""
    encoded, count = classifier.encode(images()).requires_grad_(), 0

    def pack(tensor):
        nonlocal count
        own = tensor.untyped_storage().data_ptr() != encoded.untyped_storage().data_ptr()
        count += own * tensor.numel()
        return tensor

    with using_spans(span), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        classifier.respond(encoded)
    return count


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_the_number_of_steps():
    short, long = (model(ConvNet((4,)), encoder=Latency(steps)) for steps in (8, 32))
    assert kept(long, None) > 3 * kept(short, None)
    assert kept(long, 4) <= kept(short, 4) < kept(short, None) / 10


def test_layers_that_need_all_steps_are_computed_as_before():
    waiting = model(neuron=FS(steps=STEPS))
    assert "FS" in why_not_in_spans(waiting.network)
    whole, parts = looked(waiting, None), looked(waiting, 4)
    assert all(map(torch.equal, whole, parts))
    with pytest.raises(InputError, match="go on from a state"):
        in_spans(waiting.network, waiting.encode(images()), 4)
    recipe = Through(gradient=ASSG(), attack=PGD(steps=2))
    twin = through(model(), recipe)
    assert "gradient rule" in why_not_in_spans(twin.network)


def test_a_span_holds_a_step():
    with pytest.raises(InputError, match="at least one time step"), using_spans(0):
        pass

"""Compiled loops give the spikes of the repeated step to the bit, and its gradients."""

import itertools

import pytest
import torch

from spikeproof.auditing.diagnostics import diagnose
from spikeproof.compiled import (
    CACHE_VARIABLE,
    LOOPS_VARIABLE,
    Loops,
    chosen_loops,
    toolchain,
    using_loops,
    why_not_compiled,
)
from spikeproof.decoders import Count, MeanCurrent
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.gradients import ASSG, Recollection
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, ConvNet, Parts
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import (
    ALIF,
    IF,
    LIF,
    PLIF,
    PSP,
    BySubtraction,
    CuBaLIF,
    PrimedIF,
    Spiking,
    ToZero,
    lif_unroll,
    psp_filter,
    unroll,
)
from spikeproof.neurons.integrate import has_compiled
from spikeproof.neurons.parts import loops
from spikeproof.surrogates import (
    ATan,
    Exponential,
    FastSigmoid,
    Gaussian,
    Rectangle,
    Scaled,
    Sigmoid,
    StraightThroughSpike,
    Triangle,
)

compiled = pytest.mark.skipif(bool(why_not_compiled()), reason="no C++ compiler")

WRITTEN_AND_COMPILED = (Loops.WRITTEN, Loops.COMPILED)

NEURONS = [IF, PrimedIF, LIF, CuBaLIF, ALIF, PLIF]
SPIKES = [
    *(ATan(), ATan(3.7), Triangle(0.8), Rectangle(0.7), FastSigmoid(3.1), StraightThroughSpike()),
    *(Gaussian(), Sigmoid(), Exponential(), Scaled(ATan(), 0.6), Scaled(Triangle(), 0.7)),
    Scaled(Gaussian(), 0.6),
]
STEPS, SHAPE = 11, (3, 5, 7, 11)  # 1155 neurons: a whole block, a part of one, and parts of vectors


def neurons(make):
    resets = itertools.product((BySubtraction(), ToZero()), (False, True))
    found = [make(1.0 if i % 2 else 0.6, *pair) for i, pair in enumerate(resets)]
    extra = {ALIF: [ALIF(learn=True)], PLIF: [PLIF(scale_input=False)], LIF: [LIF(tau=1e-3)]}
    return [*found, *extra.get(make, [])]


def drive(steps, dtype, repeated):
    once = 0.8 * Key.of(7).normal((1 if repeated else steps, *SHAPE)).to(dtype) + 0.2
    return once[0] if repeated else once


def ran(loop, chosen, neuron, spike, x, learned):
    """Spikes, the last state and the gradients on the drive and on what is learned."""
    x = x.clone().requires_grad_()
    learned = {name: value.clone().requires_grad_() for name, value in learned.items()}
    current = (x * 1).expand(STEPS, *SHAPE) if x.shape == SHAPE else x * 1
    with using_loops(chosen):
        z, end = loop(current, neuron.rest(current, learned), neuron, spike)
    weight = Key.of(3).normal(z.shape).to(z.dtype)
    loss = (z * weight).sum() + sum((part * weight[0]).sum() for part in end if part.shape == z.shape[1:])
    return z, end, torch.autograd.grad(loss, [x, *learned.values()])


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("spike", SPIKES, ids=repr)
@pytest.mark.parametrize("make", NEURONS, ids=lambda make: make.__name__)
def test_spikes_are_equal_to_the_bit_and_gradients_are_those_of_the_repeated_step(make, spike, dtype):
    near = {torch.float32: 1e-6, torch.float64: 1e-14}[dtype]
    for neuron, repeated in itertools.product(neurons(make), (False, True)):
        x = drive(STEPS, dtype, repeated)
        learned = {name: value.to(dtype) for name, value in neuron.parameters(SHAPE[1]).items()}
        plain = ran(unroll, Loops.WRITTEN, neuron, spike, x, learned)
        fast = ran(lif_unroll, Loops.COMPILED, neuron, spike, x, learned)
        assert torch.equal(fast[0], plain[0])
        assert all(torch.equal(a, b) for a, b in zip(fast[1], plain[1], strict=True))
        assert (fast[2][0] - plain[2][0]).abs().max() <= near * plain[2][0].abs().max(), (neuron, spike)
        written = ran(lif_unroll, Loops.WRITTEN, neuron, spike, x, learned)
        assert torch.equal(fast[2][0], written[2][0]), (neuron, spike)
        for one, other in zip(fast[2][1:], plain[2][1:], strict=True):  # sums over all neurons and steps
            assert torch.allclose(one, other, rtol=1e3 * near, atol=1e2 * near), (neuron, spike)


@compiled
@pytest.mark.parametrize("make", NEURONS, ids=lambda make: make.__name__)
def test_potentials_on_the_threshold_and_non_finite_ones_fire_alike(make):
    level = (4 * Key.of(8).uniform((16, 4, 50))).floor() / 3
    level[3, 0, 0], level[5, 1, 0], level[7, 2, 0] = torch.inf, -torch.inf, torch.nan
    for neuron in neurons(make):
        current = level * torch.tensor(neuron.threshold)
        rest = neuron.rest(current)
        with using_loops(Loops.COMPILED):
            fast, end = lif_unroll(current, rest, neuron, ATan())
        plain, last = unroll(current, rest, neuron, ATan())
        assert torch.equal(fast, plain)
        assert torch.equal(end.v.nan_to_num(7.0), last.v.nan_to_num(7.0))


@compiled
@pytest.mark.parametrize("steps", [1, 2, 16, 33, 300])
@pytest.mark.parametrize("size", [1, 3, 16, 70, 1100])
def test_the_gradient_on_a_repeated_current_is_summed_in_the_order_of_pytorch(steps, size):
    x = Key.of(1).normal((1, size))
    found = []
    for choice in WRITTEN_AND_COMPILED:
        one = x.clone().requires_grad_()
        with using_loops(choice):
            z, _ = lif_unroll((one * 1).expand(steps, 1, size), LIF().rest(one[None]), LIF(), ATan())
        found.append(torch.autograd.grad((z * Key.of(2).normal(z.shape)).sum(), one)[0])
    assert torch.equal(*found)


@compiled
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_filtered_spikes_and_their_gradient_are_equal_to_the_bit(dtype, repeated):
    found = []
    for choice in WRITTEN_AND_COMPILED:
        x = drive(STEPS, dtype, repeated).requires_grad_()
        with using_loops(choice):
            trace = psp_filter((x * 1).expand(STEPS, *SHAPE), PSP())
        found.append((trace, torch.autograd.grad((trace * Key.of(2).normal(trace.shape)).sum(), x)[0]))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@compiled
@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("reset", [BySubtraction(), ToZero()], ids=repr)
@pytest.mark.parametrize("detach", [False, True])
def test_gradients_of_adaptive_sharpness_are_equal_to_the_bit(detach, reset, repeated):
    """Over two passes of a run, whose statistics the second one uses."""
    found, weight = [], Key.of(2).normal((STEPS, *SHAPE))
    for choice in WRITTEN_AND_COMPILED:
        known, layer = Recollection(SHAPE[0]), torch.nn.Sequential(Spiking(LIF(0.7, reset, detach)).eval())
        ASSG().install(layer)
        for scale in (1.0, 1.2):
            x = (scale * drive(STEPS, torch.float32, repeated)).requires_grad_()
            with using_loops(choice), known.serving(torch.arange(SHAPE[0])):
                z = layer((x * 1).expand(STEPS, *SHAPE))
            found.append((z, torch.autograd.grad((z * weight).sum(), x)[0]))
    for one, other in zip(found[:2], found[2:], strict=True):
        assert all(map(torch.equal, one, other))
        assert one[1].abs().sum() > 0


@compiled
def test_potentials_without_spikes_are_equal_to_the_bit():
    x = drive(STEPS, torch.float32, False)
    found = []
    for choice in WRITTEN_AND_COMPILED:
        with using_loops(choice), torch.no_grad():
            found.append(Spiking(LIF()).integrate(x))
    assert torch.equal(*found)


@compiled
def test_layouts_of_memory_do_not_matter():
    x = Key.of(4).normal((6, 2, 5, 4, 3))
    turned = x.transpose(2, 4).contiguous().transpose(2, 4)
    apart = x.repeat_interleave(2, 0)[::2]
    wanted = Spiking(LIF())(x)
    with using_loops(Loops.COMPILED):
        for seen in (turned, apart):
            assert torch.equal(lif_unroll(seen, LIF().rest(seen), LIF(), ATan())[0], wanted)


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("neuron", [IF(), LIF(reset=ToZero()), PLIF(), ALIF(learn=True), CuBaLIF()], ids=repr)
@pytest.mark.parametrize("choice", [Loops.WRITTEN, pytest.param(Loops.COMPILED, marks=compiled)], ids=str)
def test_channels_stay_last_and_no_spike_or_gradient_changes(choice, neuron, repeated):
    rows = Key.of(4).normal((2, 5, 4, 3) if repeated else (6, 2, 5, 4, 3)) + 0.3
    learned = neuron.parameters(5)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = rows.clone().requires_grad_()
        once = x.flatten(0, -4).contiguous(memory_format=layout)
        current = once.expand(6, *once.shape) if repeated else once.unflatten(0, (6, 2))
        with using_loops(choice):
            z, end = lif_unroll(current, neuron.rest(current, learned), neuron, ATan())
        weight = Key.of(5).normal(z.shape)
        found.append((z, end[0], torch.autograd.grad((z * weight).sum() + (end[0] * weight[0]).sum(), x)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
    assert torch.allclose(found[0][2], found[1][2], rtol=1e-6, atol=1e-6)
    if choice is Loops.COMPILED:
        assert z[0].is_contiguous(memory_format=torch.channels_last)


def test_a_network_with_channels_last_hands_them_on():
    network = ConvNet((4, 6)).build((1, 8, 8), 3, Parts(LIF(), ATan(), True)).eval()
    x = Key.of(2).uniform((2, 1, 8, 8)).expand(3, 2, 1, 8, 8)
    wanted = network(x)
    network.to(memory_format=torch.channels_last)
    for choice in WRITTEN_AND_COMPILED:
        seen = x
        with using_loops(choice):
            for layer in network.layers[:4]:
                seen = layer(seen)
                assert seen[0].is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(network(x), wanted)


@compiled
def test_a_gradient_on_the_last_state_alone_and_a_tensor_without_gradient():
    x = drive(STEPS, torch.float32, False).requires_grad_()
    found = []
    for choice in WRITTEN_AND_COMPILED:
        with using_loops(choice):
            _, end = lif_unroll(x, LIF().rest(x), LIF(), ATan())
        found.append(torch.autograd.grad(end.v.sum(), x)[0])
    assert torch.equal(*found)
    with using_loops(Loops.COMPILED):
        assert not Spiking(LIF())(x.detach()).requires_grad


def test_a_class_with_another_equation_has_no_compiled_loop():
    class Other(LIF):
        def step(self, current, state, spike):
            return super().step(2 * current, state, spike)

    class Firing(LIF):
        def fire(self, v, spike, raised=None):
            return super().fire(2 * v, spike, raised)

    assert has_compiled(LIF())
    assert not has_compiled(Other())
    assert not has_compiled(Firing())


@compiled
@pytest.mark.parametrize("decoder", [MeanCurrent(), Count()], ids=repr)
def test_what_the_audit_finds_in_a_model_does_not_depend_on_the_loops(decoder):
    """Also with an image that is the same at every step, whose gradients a compiled loop sums on its way."""
    spec = ModelSpec(Direct(4), MLP((64,)), LIF(), ATan(), decoder, (1, 4, 4), 3)
    model, x, y = spec.build(Key.of(0)).eval(), Key.of(1).uniform((6, 1, 4, 4)), torch.arange(6) % 3
    found = []
    for each in WRITTEN_AND_COMPILED:
        with using_loops(each):
            found.append(diagnose(model, x, y, Key.of(2)))
    assert found[0] == found[1]
    assert max(found[0].zero_by_layer[:1]) < 0.5


def test_the_written_loops_run_without_a_choice_and_where_no_compiler_is(monkeypatch, tmp_path):
    monkeypatch.delenv(LOOPS_VARIABLE, raising=False)
    assert chosen_loops() is Loops.WRITTEN
    monkeypatch.setenv(LOOPS_VARIABLE, "compiled")
    assert chosen_loops() is Loops.COMPILED
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(loops, "library", lambda: None)
    assert toolchain.find().startswith("This machine has no C++ compiler")
    assert Spiking(IF())(torch.full((3, 1, 1), 0.6)).flatten().tolist() == [0, 1, 0]
    monkeypatch.setenv(LOOPS_VARIABLE, "quick")
    with pytest.raises(InputError, match="written, compiled, inductor"):
        chosen_loops()


def test_a_compiler_that_fails_is_named(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\n[ $1 = --version ] || { echo no such flag >&2; exit 1; }\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    assert "refused the loops: no such flag" in toolchain.find()
    assert not list((tmp_path / "cache").iterdir())


@compiled
def test_a_library_is_built_once(monkeypatch, tmp_path):
    """A second call finds the file that the first one wrote, under a name that the source decides."""
    counted = tmp_path / "c++"
    counted.write_text(
        "#!/bin/sh\n[ $1 = --version ] && exit 0\necho x >> " + str(tmp_path / "builds") + "\n"
        'for last; do :; done\n: > "$last"\n'
    )
    counted.chmod(0o755)
    paths = [toolchain.build(tmp_path / "cache", str(counted)) for _ in range(2)]
    assert paths[0] == paths[1]
    assert (tmp_path / "builds").read_text() == "x\n"


@compiled
def test_a_gradient_of_a_gradient_is_refused_and_not_left_out():
    """Where the gradient is one of several ways to the answer, the rest would pass for the whole."""
    spec = ModelSpec(Direct(4), MLP((20,)), LIF(threshold=0.4), ATan(), MeanCurrent(), (1, 6, 6), 10)
    model, x = spec.build(Key.of(0)).eval(), Key.of(1).uniform((5, 1, 6, 6)).requires_grad_()
    with using_loops(Loops.COMPILED), pytest.raises(RuntimeError, match="gradient of its gradient"):
        torch.autograd.grad(model(x).logsumexp(1).sum(), x, create_graph=True)

"""Programs that `torch.compile` makes of the written loops give their spikes to the bit, and their gradients.

A compilation takes seconds, so only a few loops are compiled, of two steps each. How the tensors of layers
reach programs is tested with programs that are not compiled.
"""

import itertools

import pytest
import torch

from spikeproof.compiled import Loops, inductor, program_steps, using_loops, why_not_compiled
from spikeproof.keys import Key
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
from spikeproof.surrogates import ATan, Gaussian, Scaled, Surrogate, Triangle

compiles = pytest.mark.skipif(bool(why_not_compiled(Loops.INDUCTOR)), reason="no C++ compiler")

SHAPE = (3, 5, 4, 2)
MADE = [IF, PrimedIF, LIF, CuBaLIF, ALIF, PLIF]
NEURONS = [
    *(
        make(0.6, reset, detach)
        for make in MADE
        for reset in (BySubtraction(), ToZero())
        for detach in (0, 1)
    ),
    *(ALIF(learn=True), PLIF(scale_input=False)),
]
REAL = [  # compiled, each with a spike function of its own and a current that is repeated or not
    (LIF(), ATan(), False),
    (CuBaLIF(0.6, ToZero()), ATan(3.7), True),
    (ALIF(0.7, learn=True), Scaled(Gaussian(), 0.6), False),
    (PLIF(0.4, detach_reset=True), Triangle(0.8), False),
]


@pytest.fixture(autouse=True)
def programs(monkeypatch):
    """Short programs, of which none is known or refused."""
    monkeypatch.setattr(inductor, "LONGEST", 2)
    monkeypatch.setattr(inductor, "_refused", {})
    known = (inductor._program, inductor._missing)
    for each in known:
        each.cache_clear()
    yield
    for each in known:
        each.cache_clear()


@pytest.fixture
def uncompiled(monkeypatch):
    """Programs that run as they are written; gives their list."""
    made = []

    def noted(program, **options):
        made.append(program)
        return program

    monkeypatch.setattr(torch, "compile", noted)
    return made


def drive(steps, repeated=False, shape=SHAPE, dtype=torch.float32):
    return 0.8 * Key.of(7).normal((*(() if repeated else (steps,)), *shape)).to(dtype) + 0.3


def ran(loop, loops, neuron, spike, x, steps):
    """Spikes, the last state, and gradients on the drive and on what is learned."""
    x = x.clone().requires_grad_()
    learned = {
        name: value.to(x.dtype).requires_grad_() for name, value in neuron.parameters(x.shape[-3]).items()
    }
    current = (x * 1).expand(steps, *x.shape) if x.ndim == 4 else x * 1
    with using_loops(loops):
        z, end = loop(current, neuron.rest(current, learned), neuron, spike)
    weight = Key.of(3).normal(z.shape).to(z.dtype)
    loss = (z * weight).sum() + sum((part * weight[0]).sum() for part in end if part.shape == z.shape[1:])
    return z, end, torch.autograd.grad(loss, [x, *learned.values()])


def compared(neuron, spike, x, steps, near=1e-6):
    """Programs against the repeated step."""
    plain = ran(unroll, Loops.WRITTEN, neuron, spike, x, steps)
    found = ran(lif_unroll, Loops.INDUCTOR, neuron, spike, x, steps)
    assert plain[0].any()
    assert inductor._program.cache_info().currsize
    assert torch.equal(found[0], plain[0])
    assert all(torch.equal(one, other) for one, other in zip(found[1], plain[1], strict=True))
    assert (found[2][0] - plain[2][0]).abs().max() <= near * plain[2][0].abs().max()
    for one, other in zip(found[2][1:], plain[2][1:], strict=True):  # sums over all neurons and steps
        assert torch.allclose(one, other, rtol=1e3 * near, atol=1e2 * near)


@compiles
@pytest.mark.parametrize(("neuron", "spike", "repeated"), REAL, ids=repr)
def test_spikes_are_equal_to_the_bit_and_gradients_are_those_of_the_repeated_step(neuron, spike, repeated):
    """And no other batch, and no other number of programs one after the other, is compiled again."""
    counted = torch._dynamo.utils.counters
    counted.clear()
    for batch, steps in ((3, 4), (8, 2), (2, 6)):
        compared(neuron, spike, drive(steps, repeated, (batch, *SHAPE[1:]), torch.float32), steps)
    assert not inductor._refused
    assert counted["stats"]["unique_graphs"] == 1


@compiles
def test_filtered_spikes_without_gradients_are_equal_to_the_bit():
    found = []
    for loops in (Loops.WRITTEN, Loops.INDUCTOR):
        with using_loops(loops), torch.no_grad():
            found.append(psp_filter(drive(4), PSP()))
    assert torch.equal(*found)
    assert not inductor._refused
    assert inductor._program.cache_info().currsize == 1


@pytest.mark.parametrize("neuron", NEURONS, ids=repr)
def test_every_neuron_reaches_its_programs(neuron, uncompiled):
    for dtype, repeated in itertools.product((torch.float32, torch.float64), (False, True)):
        uncompiled.clear()
        compared(neuron, ATan(), drive(7, repeated, dtype=dtype), 7)
        assert len(uncompiled) == 2  # of two steps and of one


def test_steps_are_a_sum_of_few_numbers():
    for longest in (1, 2, 8):
        inductor.LONGEST = longest
        for steps in range(1, 70):
            found = program_steps(steps)
            assert sum(found) == steps
            assert len(found) <= steps // longest + longest.bit_length()
        assert (
            len({length for steps in range(1, 70) for length in program_steps(steps)}) <= longest.bit_length()
        )


@pytest.mark.parametrize("repeated", [False, True])
def test_channels_stay_last(repeated, uncompiled):
    rows = drive(4, repeated)
    turned = rows.flatten(0, -4).contiguous(memory_format=torch.channels_last).view_as(rows)
    found = []
    for x in (rows, turned):
        current = x.expand(4, *x.shape) if repeated else x
        with using_loops(Loops.INDUCTOR):
            found.append(lif_unroll(current, LIF().rest(current), LIF(), ATan())[0])
    assert uncompiled
    assert torch.equal(*found)
    assert found[1][0].is_contiguous(memory_format=torch.channels_last)


def test_a_program_that_gives_another_number_is_refused(monkeypatch, uncompiled):
    """By one unit in the last place of a potential, which no spike shows."""
    plain = ran(unroll, Loops.WRITTEN, LIF(), ATan(), drive(4), 4)
    honest = inductor._Program.__call__

    def rounded(self, current, *state):
        z, v = honest(self, current, *state)
        return z, torch.nextafter(v, v + 1)

    monkeypatch.setattr(inductor._Program, "__call__", rounded)
    with pytest.warns(UserWarning, match="other numbers than the written loop"):
        found = ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)
    assert torch.equal(found[0], plain[0])
    assert torch.equal(found[1].v, plain[1].v)
    assert "other numbers" in why_not_compiled(Loops.INDUCTOR)
    uncompiled.clear()
    ran(lif_unroll, Loops.INDUCTOR, IF(), ATan(), drive(4), 4)
    assert not uncompiled


def test_a_program_that_passes_another_gradient_back_is_refused(monkeypatch, uncompiled):
    class Doubled(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    plain = ran(unroll, Loops.WRITTEN, LIF(), ATan(), drive(4), 4)
    honest = inductor._Program.__call__
    monkeypatch.setattr(
        inductor._Program, "__call__", lambda self, *given: honest(self, Doubled.apply(given[0]), *given[1:])
    )
    with pytest.warns(UserWarning, match="other numbers than the written loop"):
        found = ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)
    assert (found[2][0] - plain[2][0]).abs().max() <= 1e-6 * plain[2][0].abs().max()


def test_a_compiler_that_fails_is_no_error_and_missing_memory_is(monkeypatch):
    words = "Triton has no such processor\nand much more"

    def fails(program, **options):
        def call(*tensors):
            raise RuntimeError(words)

        return call

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.warns(UserWarning, match="Triton has no such processor"):
        found = ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)
    assert torch.equal(found[0], ran(unroll, Loops.WRITTEN, LIF(), ATan(), drive(4), 4)[0])
    assert why_not_compiled(Loops.INDUCTOR).endswith("Triton has no such processor.")
    monkeypatch.setattr(inductor, "_refused", {})
    words = "CUDA out of memory"
    with pytest.raises(RuntimeError, match="out of memory"):
        ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)
    assert not why_not_compiled(Loops.INDUCTOR)


def test_what_a_known_program_raises_is_handed_on(monkeypatch, uncompiled):
    """Such as the exception with which PyTorch ends the repetition of a checkpointed pass."""
    ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)

    def ends(self, current, *state):
        raise InterruptedError

    monkeypatch.setattr(inductor._Program, "__call__", ends)
    with pytest.raises(InterruptedError):
        ran(lif_unroll, Loops.INDUCTOR, LIF(), ATan(), drive(4), 4)
    assert not why_not_compiled(Loops.INDUCTOR)


def test_neurons_that_no_program_may_compute_take_the_written_loop(uncompiled):
    class Own(Surrogate):
        def derivative(self, x):
            return torch.ones_like(x)

    class Other(LIF):
        def step(self, current, state, spike):
            return super().step(2 * current, state, spike)

    x = drive(2)
    with using_loops(Loops.INDUCTOR):
        Spiking(LIF(), Own())(x)
        Spiking(Other())(x)
        Spiking(LIF())(x[..., :1, :1])
        assert not uncompiled
        Spiking(LIF())(x)
        assert uncompiled


def test_a_device_without_programs_says_why(monkeypatch):
    assert "never tried on meta" in why_not_compiled(Loops.INDUCTOR, "meta")
    assert "not on cuda" in why_not_compiled(Loops.COMPILED, "cuda:1")
    monkeypatch.setattr(inductor.importlib.util, "find_spec", lambda name: None)
    assert "need Triton" in why_not_compiled(Loops.INDUCTOR, "cuda")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler" in why_not_compiled(Loops.INDUCTOR, "cpu")
    assert not why_not_compiled(Loops.WRITTEN, "cuda")

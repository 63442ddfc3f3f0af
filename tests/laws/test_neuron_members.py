"""Every neuron against slow NumPy versions of its equations, time constants in seconds, closed forms."""

import functools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.neurons import (
    AHP,
    ALIF,
    DLIF,
    FS,
    IF,
    LIF,
    PLIF,
    PSP,
    SNU,
    SRM,
    BySubtraction,
    ConvertedT2FSNN,
    CuBaLIF,
    EvolutionaryLeak,
    GatedRecurrent,
    Integrator,
    LongShortTerm,
    Mixture,
    Plastic,
    Recurrent,
    ReLU,
    Spiking,
    State,
    ToZero,
    lif_unroll,
    psp_filter,
    unroll,
)
from spikeproof.surrogates import ATan, Triangle

T, B, N = 12, 3, 5
NEURONS = [
    *(
        PLIF(threshold=0.4),
        PLIF(tau=2e-3, scale_input=False, threshold=0.5),
        PLIF(reset=ToZero(), threshold=0.3),
    ),
    *(ALIF(), ALIF(tau=3e-3, tau_adapt=5e-3, beta=0.7, reset=ToZero()), ALIF(learn=True, beta=0.5)),
    *(AHP(), AHP(tau=5e-3, tau_ahp=10e-3, beta=0.4, detach_reset=True)),
    *(CuBaLIF(threshold=0.5), CuBaLIF(tau_syn=5e-3, threshold=0.4, reset=ToZero())),
    *(SRM(threshold=0.6), SRM(tau=4e-3, tau_syn=1e-3, tau_refractory=2e-3, strength=2.0)),
    *(DLIF(steps=T), DLIF(steps=T + 3, tau=3e-3, reset=ToZero())),
    *(EvolutionaryLeak(steps=T), EvolutionaryLeak(steps=T + 2, initial=0.5, reset=BySubtraction())),
    *(SNU(), SNU(threshold=0.5, tau=10e-3)),
    *(FS(steps=T), FS(steps=T, scale=4.0, learn=True)),
    *(ConvertedT2FSNN(T, 3.0, 1.0), ConvertedT2FSNN(T, 4.0, early=5, threshold=0.6)),
    *(Recurrent(LIF()), Recurrent(ALIF(learn=True), gain=2.0)),
    *(Mixture(LIF(), ALIF(beta=0.8), share=0.4), Mixture(ALIF(learn=True), SNU(), share=0.6)),
    *(Plastic(LIF()), Plastic(IF(), use=0.1, tau_recovery=20e-3, tau_facilitation=40e-3)),
]
CELLS = [GatedRecurrent(), LongShortTerm()]


def drive(*shape, scale=0.8):
    return scale * Key.of(7).normal(shape).double()


def learned(neuron, features=N):
    """What a layer has learned: the first values, moved at random, in double precision."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = neuron.parameters(features)
    return {
        name: (v.double() + 0.05 * Key.of(i).normal(v.shape).double()).requires_grad_()
        for i, (name, v) in enumerate(first.items())
    }


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def slow(neuron, current, p):
    """Spikes of one neuron after the other, in plain Python; `p` is what was learned."""
    out = np.zeros_like(current)
    for n in np.ndindex(current.shape[1:]):
        out[(slice(None), *n)] = one(neuron, current[(slice(None), *n)], p, n[-1])
    return out


@functools.cache
def peak(tau, tau_syn):
    """The greatest value of the kernel, looked for and not derived."""
    grid = np.linspace(0, 20 * tau, 200_001)
    return (np.exp(-grid / tau) - np.exp(-grid / tau_syn)).max()


def one(neuron, current, p, feature):
    def own(name):
        return p[name] if np.ndim(p[name]) == 0 else p[name][feature]

    kind, z = type(neuron), np.zeros(len(current))

    def fall(tau):
        return math.exp(-neuron.dt / tau)

    def reset(v):
        return 0.0 if neuron.reset == ToZero() else v - neuron.threshold

    v = a = i = y = 0.0
    for t, x in enumerate(current):
        if kind is PLIF:
            k = sigmoid(own("leak"))
            v = (1 - k) * v + (k * x if neuron.scale_input else x)
            z[t] = v >= neuron.threshold
            v = reset(v) if z[t] else v
        elif kind is ALIF:
            alpha = 1 - sigmoid(own("leak")) if neuron.learn else fall(neuron.tau)
            rho = 1 - sigmoid(own("adaptation")) if neuron.learn else fall(neuron.tau_adapt)
            v = alpha * v + x
            z[t] = v >= neuron.threshold + neuron.beta * a
            v = reset(v) if z[t] else v
            a = rho * a + z[t]
        elif kind is AHP:
            v = fall(neuron.tau) * v + x - a
            z[t] = v >= neuron.threshold
            v = reset(v) if z[t] else v
            a = fall(neuron.tau_ahp) * a + neuron.beta * z[t]
        elif kind is CuBaLIF:
            i = fall(neuron.tau_syn) * i + (1 - fall(neuron.tau_syn)) * x
            v = fall(neuron.tau) * v + i
            z[t] = v >= neuron.threshold
            v = reset(v) if z[t] else v
        elif kind is DLIF:
            v = fall(neuron.tau) * v + p["gains"][t] * x
            z[t] = v >= neuron.threshold
            v = reset(v) if z[t] else v
        elif kind is EvolutionaryLeak:
            v = p["leaks"][t][feature] * v + x
            z[t] = v >= neuron.threshold
            v = reset(v) if z[t] else v
        elif kind is SNU:
            v = max(0.0, x + fall(neuron.tau) * v * (1 - y))
            z[t] = y = float(v + own("bias") >= 0)
        elif kind is SRM:  # by the sums of the definition, not by recursion
            lags = (t - np.arange(t + 1) + 1) * neuron.dt
            kernel = (np.exp(-lags / neuron.tau) - np.exp(-lags / neuron.tau_syn)) / peak(
                neuron.tau, neuron.tau_syn
            )
            past = (t - np.arange(t)) * neuron.dt
            v = kernel @ current[: t + 1] - neuron.strength * np.exp(-past / neuron.tau_refractory) @ z[:t]
            z[t] = v >= neuron.threshold
        elif kind is FS:
            digits = neuron.scale * 0.5 ** np.arange(1, neuron.steps + 1)
            h, d, limit = (p.get(name, digits) for name in ("falls", "weights", "thresholds"))
            v = current.sum() if t == 0 else v
            fired = v >= limit[t]
            v, z[t] = v - h[t] * fired, d[t] * fired
        elif kind is ConvertedT2FSNN:
            heard = current[: t + neuron.steps - neuron.early] - current[-1]
            value = math.exp(-(t - float(p["delay"])) / float(p["tau"]))
            reached = heard.sum() + neuron.steps * current[-1] >= neuron.threshold * value
            z[t] = value * (reached and t < neuron.steps - 1 and not z.any())
    return z


@pytest.mark.parametrize(
    "neuron", [n for n in NEURONS if not isinstance(n, (Recurrent, Mixture, Plastic))], ids=repr
)
def test_spikes_equal_the_slow_version(neuron):
    current, p = drive(T, B, N), learned(neuron)
    z, _ = unroll(current, neuron.rest(current, p), neuron, ATan())
    wanted = slow(neuron, current.numpy(), {name: v.detach().numpy() for name, v in p.items()})
    assert 0 < (wanted != 0).mean() < 1
    assert np.allclose(z.detach().numpy(), wanted, rtol=0, atol=1e-12)


def test_recurrent_currents_are_last_spikes_through_the_weights():
    neuron, current = Recurrent(LIF(), gain=2.0), drive(T, B, N)
    p = learned(neuron)
    z, _ = unroll(current, neuron.rest(current, p), neuron, ATan())
    weight, v, before = p["recurrent"].detach().numpy(), np.zeros((B, N)), np.zeros((B, N))
    heard = False
    for t in range(T):
        total = current[t].numpy() + np.einsum("bj,ij->bi", before, weight)
        v = math.exp(-1 / 4) * v + total
        before = (v >= 1).astype(float)
        v -= before
        heard |= bool(before.any())
        assert np.array_equal(z[t].detach().numpy(), before)
    assert heard
    plain, _ = unroll(current, LIF().rest(current), LIF(), ATan())
    assert not torch.equal(plain, z)


def test_a_mixture_is_its_two_kinds_side_by_side():
    first, second = LIF(), ALIF(learn=True, beta=0.8)
    neuron, current = Mixture(first, second, share=0.4), drive(T, B, N)
    p = learned(neuron)
    assert {name: list(v.shape) for name, v in p.items()} == {"second_leak": [2], "second_adaptation": [2]}
    z, _ = unroll(current, neuron.rest(current, p), neuron, ATan())
    left, _ = unroll(current[..., :3], first.rest(current[..., :3]), first, ATan())
    inside = {name.removeprefix("second_"): v for name, v in p.items()}
    right, _ = unroll(current[..., 3:], second.rest(current[..., 3:], inside), second, ATan())
    assert torch.equal(z, torch.cat([left, right], -1))


@pytest.mark.parametrize("use", [0.5, 0.1, 1.0])
def test_weights_of_plastic_spikes_follow_the_recursion_of_the_literature(use):
    """Markram et al. 1998 from spike to spike, which knows intervals and no steps."""
    neuron = Plastic(LIF(dt=2e-3), use=use, tau_recovery=20e-3, tau_facilitation=30e-3, dt=2e-3)
    times = [0, 1, 4, 5, 6, 17]
    current = torch.zeros(20, 1, 1, dtype=torch.float64)
    current[times] = 1.0
    z, _ = unroll(current, neuron.rest(current), neuron, ATan())
    u, r, wanted = use, 1.0, {}
    for n, t in enumerate(times):
        if n:
            gap = (t - times[n - 1]) * 2e-3
            r = r * (1 - u) * math.exp(-gap / 20e-3) + 1 - math.exp(-gap / 20e-3)
            u = u * math.exp(-gap / 30e-3) + use * (1 - u * math.exp(-gap / 30e-3))
        wanted[t] = u * r / use
    assert z.flatten().nonzero().flatten().tolist() == times
    for t, weight in wanted.items():
        assert z[t].item() == pytest.approx(weight, rel=1e-12)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    return all(same(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("neuron", [*NEURONS, *CELLS], ids=repr)
def test_unroll_is_the_step_repeated_and_two_halves_are_the_whole(neuron):
    current, p = drive(T, B, N * getattr(neuron, "gates", 1)), learned(neuron)
    rest = state = neuron.rest(current, p)
    spikes = []
    for i in current:
        z, state = neuron.step(i, state, ATan())
        spikes.append(z)
    for run in (unroll, lif_unroll):
        whole, end = run(current, rest, neuron, ATan())
        assert torch.equal(whole, torch.stack(spikes))
        assert same(end, state)
        first, middle = run(current[:5], rest, neuron, ATan())
        second, last = run(current[5:], middle, neuron, ATan())
        assert torch.equal(torch.cat([first, second]), whole)
        assert same(last, end)


@pytest.mark.parametrize("neuron", [*NEURONS, *CELLS], ids=repr)
def test_gradients_reach_the_input_and_everything_that_is_learned_and_are_finite(neuron):
    current = drive(T, B, N * getattr(neuron, "gates", 1)).requires_grad_()
    p = learned(neuron)
    z, _ = unroll(current, neuron.rest(current, p), neuron, ATan())
    weight = Key.of(2).normal(z.shape).double()
    for name, grad in zip(
        ["current", *p], torch.autograd.grad((z * weight).sum(), [current, *p.values()]), strict=True
    ):
        assert grad.isfinite().all(), name
        assert grad.abs().max() > 1e-6, name


@pytest.mark.parametrize("neuron", [*NEURONS, *CELLS], ids=repr)
def test_a_layer_learns_keeps_nothing_and_does_not_mix_examples(neuron):
    layer = Spiking(neuron, features=N)
    assert {name for name, _ in layer.named_parameters()} == set(neuron.parameters(N))
    current = drive(T, B, N * getattr(neuron, "gates", 1)).float()
    whole = layer(current)
    assert whole.shape == (T, B, N)
    assert torch.equal(layer(current), whole)
    assert torch.allclose(layer(current[:, 1:2]), whole[:, 1:2], atol=1e-6)
    assert neuron.binary == bool(torch.isin(whole.detach(), torch.tensor([0.0, 1.0])).all())


@pytest.mark.parametrize(
    "neuron", [n for n in NEURONS if getattr(n, "detach_reset", None) is not None], ids=repr
)
def test_a_detached_reset_changes_gradients_and_no_spike(neuron):
    results = []
    for detach in (False, True):
        current, member = drive(T, B, N).requires_grad_(), replace(neuron, detach_reset=detach)
        p = learned(member)
        z, _ = unroll(current, member.rest(current, p), member, ATan())
        results.append((z, torch.autograd.grad((z * drive(T, B, N)).sum(), current)[0]))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.allclose(results[0][1], results[1][1])


class Loud(ATan):
    """Fires at once, everywhere."""

    def __call__(self, x):
        return torch.ones_like(x)


def after(neuron, seconds, read, *, fires=False):
    """What `read` finds in the state, `seconds` after one input of 1, or one spike."""
    current = torch.zeros(1 + round(seconds / neuron.dt), 1, 1, dtype=torch.float64)
    current[0] = 1.0
    state = neuron.rest(current, {})
    values = []
    for t, i in enumerate(current):
        _, state = neuron.step(i, state, Loud() if fires and t == 0 else Silent())
        values.append(read(state).item())
    return values[-1] / values[0]


class Silent(ATan):
    """Never fires."""

    def __call__(self, x):
        return torch.zeros_like(x)


CONSTANTS = {
    "PLIF.tau": (lambda tau, dt: PLIF(tau=tau, dt=dt), lambda s: s.v, False),
    "ALIF.tau": (lambda tau, dt: ALIF(tau=tau, dt=dt), lambda s: s.v, False),
    "ALIF.tau learned": (lambda tau, dt: ALIF(tau=tau, dt=dt, learn=True), lambda s: s.v, False),
    "ALIF.tau_adapt": (lambda tau, dt: ALIF(tau_adapt=tau, dt=dt), lambda s: s.trace, True),
    "ALIF.tau_adapt learned": (
        lambda tau, dt: ALIF(tau_adapt=tau, dt=dt, learn=True),
        lambda s: s.trace,
        True,
    ),
    "AHP.tau": (lambda tau, dt: AHP(tau=tau, dt=dt), lambda s: s.v, False),
    "AHP.tau_ahp": (lambda tau, dt: AHP(tau_ahp=tau, dt=dt), lambda s: s.ahp, True),
    "CuBaLIF.tau_syn": (lambda tau, dt: CuBaLIF(tau_syn=tau, dt=dt), lambda s: s.i, False),
    "SRM.tau": (lambda tau, dt: SRM(tau=tau, tau_syn=tau / 2, dt=dt), lambda s: s.slow, False),
    "SRM.tau_syn": (lambda tau, dt: SRM(tau=2 * tau, tau_syn=tau, dt=dt), lambda s: s.fast, False),
    "SRM.tau_refractory": (lambda tau, dt: SRM(tau_refractory=tau, dt=dt), lambda s: s.refractory, True),
    "DLIF.tau": (lambda tau, dt: DLIF(tau=tau, dt=dt, steps=1000), lambda s: s.v, False),
    "SNU.tau": (lambda tau, dt: SNU(tau=tau, dt=dt), lambda s: s.v, False),
    "Plastic.tau_recovery": (
        lambda tau, dt: Plastic(IF(), tau_recovery=tau, dt=dt),
        lambda s: 1 - s.resources,
        True,
    ),
    "Plastic.tau_facilitation": (
        lambda tau, dt: Plastic(IF(), tau_facilitation=tau, dt=dt),
        lambda s: s.use,
        True,
    ),
}


@pytest.mark.parametrize(("tau", "dt"), [(20e-3, 1e-3), (5e-3, 0.5e-3), (30e-3, 10e-3)])
@pytest.mark.parametrize("name", CONSTANTS)
def test_what_a_time_constant_governs_falls_to_one_over_e_after_so_many_seconds(name, tau, dt):
    make, read, fires = CONSTANTS[name]
    assert after(make(tau, dt), tau, read, fires=fires) == pytest.approx(math.exp(-1), rel=1e-5)


def test_the_current_based_membrane_has_its_time_constant_and_its_input_its_charge():
    """Input filtered first, then a LIF: the same neuron, written apart."""
    current = drive(T, B, N)
    lif, psp = LIF(tau=5e-3, threshold=0.4), PSP(tau=3e-3)
    neuron = CuBaLIF(tau=5e-3, tau_syn=3e-3, threshold=0.4)
    wanted, _ = unroll(psp_filter(current, psp), lif.rest(current), lif, ATan())
    z, _ = unroll(current, neuron.rest(current), neuron, ATan())
    assert torch.equal(z, wanted)
    assert z.any()


def test_the_spike_response_kernel_is_the_current_based_one_up_to_its_height():
    current = drive(T, B, N)
    srm, cuba = SRM(tau=8e-3, tau_syn=2e-3), CuBaLIF(tau=8e-3, tau_syn=2e-3)
    a, b = srm.integrate(current), cuba.integrate(current)
    assert torch.allclose(a / a[0, 0, 0] * b[0, 0, 0], b, atol=1e-12)


def test_the_spike_response_to_one_input_peaks_at_one_at_the_time_of_the_closed_form():
    neuron = SRM(tau=8e-3, tau_syn=2e-3, dt=1e-5)
    current = torch.zeros(2000, 1, 1, dtype=torch.float64)
    current[0] = 1.0
    v = neuron.integrate(current).flatten()
    assert v.max().item() == pytest.approx(1, abs=1e-6)
    wanted = 8e-3 * 2e-3 / 6e-3 * math.log(4)
    assert (v.argmax().item() + 1) * 1e-5 == pytest.approx(wanted, abs=2e-5)


def test_refractoriness_with_the_membranes_constants_is_a_reset_by_subtraction():
    srm = SRM(tau=8e-3, tau_syn=2e-3, tau_refractory=8e-3, strength=0.6, threshold=0.6)
    current = drive(40, B, N)
    z, _ = unroll(current, srm.rest(current), srm, ATan())
    kernel, v, wanted = Integrator(srm)(current), torch.zeros(B, N), []
    lost = torch.zeros(B, N, dtype=torch.float64)
    for u in kernel:
        v = u - lost
        wanted.append((v >= 0.6).double())
        lost = math.exp(-1 / 8) * (lost + 0.6 * wanted[-1])
    assert torch.equal(z, torch.stack(wanted))


def test_few_spikes_write_the_rectified_input_in_binary_digits():
    values = torch.tensor([[-0.3, 0.0, 0.1, 0.5, 0.7331, 0.999, 1.0, 5.0]], dtype=torch.float64)
    current = values.expand(8, 1, 8) / 8  # however the input comes, it is complete before the first spike
    for scale in (1.0, 2.0):
        z = Spiking(FS(steps=8, scale=scale))(current)
        unit = scale / 256
        wanted = torch.floor(values.clamp(0) / unit + 1e-9).clamp(max=255) * unit
        assert torch.allclose(z.sum(0), wanted, atol=1e-12)
    assert torch.allclose(Integrator(FS(steps=8))(current).mean(0), values, atol=1e-12)


@pytest.mark.parametrize("early", [0, 50])
def test_the_gradient_of_a_kernel_is_near_one_between_its_ends_and_zero_far_from_them(early):
    values = torch.tensor([[-3.0, 0.2, 0.5, 0.9, 4.0]], dtype=torch.float64)
    current = (values / 300).expand(300, 1, -1).clone().requires_grad_()
    layer = Spiking(ConvertedT2FSNN(300, 40.0, 10.0, early), spike=Triangle(0.05)).double()
    grad = torch.autograd.grad(layer(current).sum(), current)[0].sum(0) / 300
    assert grad[0].tolist() == pytest.approx([0, 1, 1, 1, 0], abs=0.05)


def test_adaptation_and_hyperpolarisation_make_spikes_rarer_with_time():
    current = torch.full((400, 1, 1), 0.6)
    for neuron in (ALIF(beta=0.3), AHP(beta=0.05)):
        z = Spiking(neuron)(current).flatten()
        assert z[:50].sum() > 1.2 * z[-50:].sum() > 0


@pytest.mark.parametrize(
    "neuron",
    [PLIF(), ALIF(learn=True), AHP(), CuBaLIF(), SRM(), DLIF(steps=T)],
    ids=lambda n: type(n).__name__,
)
def test_a_read_out_is_the_potential_of_a_neuron_that_never_fires(neuron):
    current, p = drive(T, B, N), learned(neuron)
    high, wanted = replace(neuron, threshold=1e9), []
    state = high.rest(current, p)
    for i in current:
        z, state = high.step(i, state, ATan())
        assert not z.any()
        wanted.append(state.v)
    assert torch.equal(neuron.integrate(current, p), torch.stack(wanted))


def test_a_layer_that_reads_out_leaves_spikes_and_what_follows_from_them_aside():
    current = drive(T, B, N)
    plain = LIF().integrate(current)
    p = learned(Recurrent(LIF()))
    assert torch.equal(Recurrent(LIF()).integrate(current, p), plain)
    assert torch.equal(Plastic(LIF()).integrate(current), plain)
    assert torch.equal(Mixture(LIF(), LIF(), share=0.4).integrate(current), plain)
    for neuron in (Recurrent(LIF()), Plastic(LIF()), Mixture(LIF(), ALIF()), LIF(synapse=PSP())):
        assert neuron.output == LIF()


def test_the_read_out_of_an_snu_is_not_rectified():
    current = -drive(T, B, N).abs()
    v = SNU().integrate(current)
    assert torch.equal(v, LIF().integrate(current))
    assert (v < 0).all()


@pytest.mark.parametrize(("cell", "peer"), [(CELLS[0], torch.nn.GRU), (CELLS[1], torch.nn.LSTM)])
def test_gated_cells_compute_what_pytorch_computes(cell, peer):
    p, twin = learned(cell, 4), peer(6, 4).double()
    x = drive(T, B, 6)
    with torch.no_grad():
        twin.weight_hh_l0.copy_(p["recurrent"])
        twin.bias_hh_l0.copy_(p["recurrent_bias"])
    current = torch.nn.functional.linear(x, twin.weight_ih_l0, twin.bias_ih_l0)
    out, _ = unroll(current, cell.rest(current, p), cell, ATan())
    assert torch.allclose(out, twin(x)[0], atol=1e-12)


def test_the_gate_that_keeps_starts_open_and_recurrent_weights_are_orthogonal():
    assert GatedRecurrent().parameters(2)["recurrent_bias"].tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    p = LongShortTerm().parameters(4)
    assert p["recurrent_bias"].tolist() == [0.0] * 4 + [1.0] * 4 + [0.0] * 8
    for block in p["recurrent"].chunk(4):
        assert torch.allclose(block @ block.T, torch.eye(4), atol=1e-6)


def test_first_recurrent_weights_move_a_neuron_by_about_their_gain():
    weight = Recurrent(LIF(), gain=0.5).parameters(400)["recurrent"]
    assert weight.std().item() == pytest.approx(0.5 / 20, rel=0.02)
    assert weight.sum(1).std().item() == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("neuron", [ALIF(learn=True, beta=0.5), SNU(), PLIF()], ids=repr)
def test_one_value_per_channel_means_the_same_on_every_pixel(neuron):
    layer, shape = Spiking(neuron, features=2), (T, B, 2, 3, 3)
    with torch.no_grad():
        for p in layer.parameters():
            p += 0.2 * Key.of(3).normal(p.shape)
    current = drive(*shape).float()
    whole, flat = layer(current), Spiking(neuron, features=18)
    with torch.no_grad():
        for one_, many in zip(layer.parameters(), flat.parameters(), strict=True):
            many.copy_(one_.repeat_interleave(9) if one_.ndim else one_)
    assert torch.equal(whole.flatten(2), flat(current.flatten(2)))


class Lazy(LIF):
    """A user's own LIF, which hears only half of its current."""

    def step(self, current, state, spike):
        return super().step(current / 2, state, spike)


def test_the_fast_loop_leaves_a_neuron_with_an_equation_of_its_own_alone():
    current = drive(T, B, N)
    rest = State(torch.zeros(B, N, dtype=torch.float64))
    fast, slow_, lif = (
        run(current, rest, n, ATan())[0]
        for run, n in ((lif_unroll, Lazy()), (unroll, Lazy()), (unroll, LIF()))
    )
    assert torch.equal(fast, slow_)
    assert not torch.equal(fast, lif)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        *(
            (lambda name=name, kind=kind: kind(**{name: 0.0}), name)
            for kind, name in (
                (PLIF, "tau"),
                (ALIF, "tau_adapt"),
                (ALIF, "beta"),
                (AHP, "tau_ahp"),
                (AHP, "beta"),
                (CuBaLIF, "tau_syn"),
                (SRM, "tau_refractory"),
                (SRM, "strength"),
                (DLIF, "steps"),
                (SNU, "tau"),
                (FS, "scale"),
                (FS, "steps"),
                (ConvertedT2FSNN, "tau"),
                (Plastic, "use"),
                (Plastic, "tau_recovery"),
                (Recurrent, "gain"),
            )
        ),
        (lambda: PLIF(tau=math.nan), "tau"),
        (lambda: SRM(tau=2e-3, tau_syn=2e-3), "tau_syn"),
        (lambda: Plastic(use=1.5), "use"),
        (lambda: Plastic(LIF(dt=2e-3)), "dt"),
        (lambda: Mixture(share=1.1), "share"),
        (lambda: Mixture(LIF(), LIF(dt=2e-3)), "dt"),
        (lambda: Recurrent(ReLU()), "fires"),
        (lambda: Recurrent(FS()), "fires"),
        (lambda: Plastic(LIF(synapse=PSP())), "synapse"),
        (lambda: Spiking(Recurrent()), "size"),
        (lambda: Spiking(Recurrent(), features=2)(torch.zeros(2, 1, 2, 3, 3)), "fully connected"),
        (lambda: Spiking(DLIF(steps=2))(torch.zeros(3, 1)), "3 time steps"),
        (lambda: Spiking(FS(steps=2))(torch.zeros(3, 1)), "3 time steps"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_constants_of_neurons_out_of_range_and_layers_that_do_not_fit_are_refused(make, word):
    with pytest.raises(InputError, match=word):
        make()


def test_converted_spike_times_need_two_steps_and_start_before_the_last():
    assert ConvertedT2FSNN(steps=2, early=1).steps == 2
    for options in ({"steps": 1}, {"steps": 4, "early": 4}, {"steps": 4, "early": -1}, {"delay": -0.1}):
        with pytest.raises(InputError, match="two steps or more"):
            ConvertedT2FSNN(**options)


@pytest.mark.parametrize("constant", ["tau", "dt"])
@pytest.mark.parametrize("value", [0.0, -1e-3, math.nan, math.inf])
def test_the_times_of_a_synapse_are_positive_and_finite(constant, value):
    with pytest.raises(InputError, match=constant):
        PSP(**{constant: value})

"""What every probe of timing must satisfy; a new probe adds a row to PROBES."""

import pytest
import torch

from spikeproof.catalogue.names import PARTS
from spikeproof.decoders import Count
from spikeproof.encoders import Bernoulli, Direct, EarlyBurst, Events, Latency, Phase, Reversed
from spikeproof.errors import InputError
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import probed
from spikeproof.neurons import LIF
from spikeproof.probes import Deletion, Jitter, Probe, Probed, Reversal, Shuffle, SynchronousShuffle
from spikeproof.protocols import Encoder
from spikeproof.specs import build, describe
from spikeproof.surrogates import ATan

PROBES = [Jitter(1), Jitter(3), Jitter(20), Shuffle(), SynchronousShuffle(), Reversal(), Deletion(0.3)]
RETIMING = [probe for probe in PROBES if not isinstance(probe, Deletion)]
T, B = 9, 6
BINARY = (Key.of(0).uniform((T, B, 2, 5)) < 0.4).float()
COUNTS = Key.of(1).uniform((T, B, 2, 5)).mul(4).floor()
WEIGHTED = Phase(9, period=3)(Key.of(2).uniform((B, 2, 5)))
TRAINS = {"binary": BINARY, "counts": COUNTS, "weighted": WEIGHTED}
KEY = Key.of(3).for_rows(range(B))


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_a_probe_is_rebuilt_from_its_description(probe):
    assert build(Probe, describe(probe, PARTS), PARTS) == probe


@pytest.mark.parametrize("name", TRAINS)
@pytest.mark.parametrize("probe", RETIMING, ids=repr)
def test_retiming_keeps_what_each_input_sends_and_changes_when(probe, name):
    spikes = TRAINS[name]
    out = probe(spikes, KEY, counts=name == "counts")
    assert torch.equal(out.sort(0).values, spikes.sort(0).values)
    assert not torch.equal(out, spikes)


@pytest.mark.parametrize("probe", PROBES, ids=repr)
def test_equal_keys_give_equal_draws_in_any_batch(probe):
    for counts, spikes in ((False, BINARY), (True, COUNTS)):
        whole = probe(spikes, KEY, counts=counts)
        assert torch.equal(probe(spikes, KEY, counts=counts), whole)
        part = probe(spikes[:, [4, 1]], Key.of(3).for_rows([4, 1]), counts=counts)
        assert torch.equal(part, whole[:, [4, 1]])
        again = probe(spikes, Key.of(4).for_rows(range(B)), counts=counts)
        assert torch.equal(again, whole) == (not probe.random)


def test_a_random_probe_wants_a_key():
    for probe in PROBES:
        if probe.random:
            with pytest.raises(InputError, match="key"):
                probe(BINARY)
    assert torch.equal(Reversal()(BINARY), BINARY.flip(0))


def test_reversal_undoes_itself_and_is_the_reversed_code():
    assert torch.equal(Reversal()(Reversal()(COUNTS)), COUNTS)
    x = Key.of(5).uniform((3, 10))
    assert torch.equal(Probed(Latency(5), Reversal())(x), Reversed(Latency(5))(x))


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 20])
def test_jitter_moves_no_spike_further_than_its_steps_and_everywhere_within(steps):
    """One spike per input at every place; where it went is uniform over random windows."""
    time, many = 11, 4000
    for start in (0, 5, 10):
        spikes = torch.zeros(time, 1, many)
        spikes[start] = 1
        out = Jitter(steps)(spikes, Key.of(7))
        moved = out.argmax(0)[0] - start
        assert moved.abs().max() <= steps
        assert out.sum() == many
        reach = range(max(-steps, -start), min(steps, time - 1 - start) + 1)
        share = torch.stack([(moved == d).float().mean() for d in reach])
        if start == 5 and steps <= 5:  # all windows are whole: a window is drawn, then a place in it
            width = steps + 1
            wanted = torch.tensor([(width - abs(d)) / width**2 for d in reach])
            assert (share - wanted).abs().max() < 4 * 0.5 / many**0.5
        elif steps < 11:
            assert (share > 0).all()


def test_jitter_moves_inputs_apart():
    spikes = torch.zeros(4, 1, 1000)
    spikes[1] = 1
    assert len(Jitter(1)(spikes, Key.of(0)).argmax(0).unique()) == 3


@pytest.mark.parametrize("probe", [Shuffle(), SynchronousShuffle()], ids=repr)
def test_shuffles_send_a_spike_to_every_step_alike(probe):
    spikes = torch.zeros(5, 4000, 1)
    spikes[2] = 1
    share = probe(spikes, Key.of(0)).mean((1, 2))
    assert (share - 0.2).abs().max() < 4 * (0.16 / 4000) ** 0.5


def test_a_shuffle_moves_inputs_apart_and_a_synchronous_one_moves_them_together():
    ramp = torch.arange(T).view(T, 1, 1, 1).expand(T, B, 2, 5).float().clone()
    together = SynchronousShuffle()(ramp, KEY)
    assert (together == together[:, :, :1, :1]).all()
    assert len({tuple(row.tolist()) for row in together[:, :, 0, 0].T}) == B  # each example has its own
    apart = Shuffle()(ramp, KEY)
    assert len({tuple(row.tolist()) for row in apart.flatten(1).T}) > B * 8


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_deletion_takes_a_binomial_share_of_spikes_one_by_one(share):
    for counts, value in ((False, 1.0), (True, 1.0), (True, 3.0)):
        spikes = torch.full((2, 5000, 4), value)
        out = Deletion(share)(spikes, Key.of(0), counts=counts)
        assert (out <= spikes).all()
        assert (out >= 0).all()
        n, keep = spikes.numel(), 1 - share
        assert abs(out.mean().item() - value * keep) <= 4 * (value * keep * share / n) ** 0.5
        if counts and share < 1:
            assert out.var().item() == pytest.approx(value * keep * share, rel=0.05)
    kept = Deletion(share)(WEIGHTED, KEY)
    assert ((kept == 0) | (kept == WEIGHTED)).all()


def test_a_current_that_never_changes_has_no_timing_to_lose():
    current = Direct(5)(Key.of(0).uniform((B, 2, 5)))
    for probe in RETIMING:
        assert torch.equal(probe(current, KEY), current)


@pytest.mark.parametrize("probe", PROBES, ids=repr)
@pytest.mark.parametrize("code", [Latency(6), Bernoulli(6), Events(6)], ids=repr)
def test_a_probed_model_shares_its_weights_and_draws_its_code_as_before(probe, code):
    spec = ModelSpec(code, MLP((12,)), LIF(), ATan(), Count(), (1, 4, 4), 3)
    model = spec.build(Key.of(0)).eval()
    x = Key.of(1).uniform((B, 6, 1, 4, 4)).mul(3).floor() if isinstance(code, Events) else None
    x = Key.of(1).uniform((B, 1, 4, 4)) if x is None else x
    twin, before = probed(model, probe), model(x, KEY)
    assert isinstance(twin.encoder, Encoder)
    assert twin.stochastic == (probe.random or code.stochastic)
    assert {id(p) for p in twin.parameters()} == {id(p) for p in model.parameters()}
    key = KEY.fold("encoder")
    wanted = probe(code(x, key), key.fold("probe"), counts=isinstance(code, Events))
    assert torch.equal(twin.encoder(x, key), wanted)
    assert torch.equal(model(x, KEY), before)  # untouched
    spikes = twin.infer(x, KEY).spikes
    assert (spikes >= wanted.flatten(2).sum((0, 2))).all()


class Readout:
    """The brighter of two inputs, told from nothing but what `read` sees of their spikes."""

    def __init__(self, encoder, read):
        self.encoder, self.read, self.stochastic = encoder, read, encoder.stochastic

    def __call__(self, images, key=None):
        return self.read(self.encoder(images, key))


def first(spikes):
    return -torch.where(spikes.any(0), spikes.argmax(0), len(spikes)).float()


def test_what_is_lost_by_a_shuffle_is_what_lived_in_timing():
    x = torch.tensor([[0.9, 0.5], [0.1, 0.7]]).repeat(250, 1)
    y = torch.arange(2).repeat(250)

    def accuracy(code, read, probe=None):
        encoder = Probed(code, probe) if probe else code
        found = evaluate_clean(Readout(encoder, read), x, y, Key.of(0), draws=8, batch_size=90)
        return found.metrics()["clean_accuracy"]

    def count(spikes):
        return spikes.sum(0)

    for probe in RETIMING:
        assert accuracy(EarlyBurst(10), count, probe) == accuracy(EarlyBurst(10), count) == 1
    assert accuracy(Latency(10), first) == 1
    assert accuracy(Latency(10), first, Reversal()) == 0
    assert accuracy(Latency(10), first, Shuffle()) == pytest.approx(0.45, abs=0.03)  # 1 in 10 is a tie
    assert accuracy(Latency(10), first, SynchronousShuffle()) == pytest.approx(0.5, abs=0.03)
    assert accuracy(Latency(10), first, Jitter(1)) == 1  # four steps apart
    assert accuracy(Latency(10), first, Deletion(0.2)) == pytest.approx(0.64 + 0.16, abs=0.03)


@pytest.mark.parametrize("make", [lambda: Jitter(0), lambda: Deletion(0.0), lambda: Deletion(1.5)])
def test_a_jitter_of_zero_and_deleted_shares_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()

"""Decoders with weights, exits, votes and stacks, against slow transcriptions and runs of fewer steps."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.catalogue.saved import load, save
from spikeproof.decoders import (
    UNDECIDED,
    ConfidenceExit,
    Count,
    Earliest,
    FirstSpike,
    FirstSpikeExit,
    FixedExit,
    Geometric,
    MarginExit,
    MeanCurrent,
    MeanPotential,
    MembraneTies,
    Stacked,
    Voting,
    Weighted,
    activity,
    by_step,
    decide,
    exit_steps,
)
from spikeproof.encoders import Bernoulli, Direct, FewSpikes, Latency
from spikeproof.errors import InputError
from spikeproof.evaluation.through import rate_twin
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.gradients import TSSL
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.recurrent import LSNN
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import ALIF, FS, IF, LIF, SNU, Neuron, Recurrent, Renewal
from spikeproof.protocols import Decoder, output_width, reads_potential
from spikeproof.surrogates import ATan, Triangle
from spikeproof.threats import Linf

T, B, K = 6, 60, 4
SPIKES = (Key.of(0).uniform((T, B, K)) < 0.2).float()
POTENTIAL = Key.of(1).normal((T, B, K))
X, Y = Key.of(2).uniform((40, 1, 8, 8)), torch.arange(40) % K

EXITS = [
    *(FixedExit(Count(), t) for t in (1, 3, 6)),
    *(ConfidenceExit(Count(), share) for share in (0.3, 0.6, 0.95)),
    ConfidenceExit(FirstSpike(), 0.6, 0.5),
    MarginExit(Count(), 1.0),
    MarginExit(Geometric(0.5), 0.4),
    FirstSpikeExit(Count()),
    FirstSpikeExit(FirstSpike()),
    MarginExit(Stacked((Count(), FirstSpike()), (1.0, 0.5)), 2.0),
]
ALL = [
    Weighted((3.0, 2.0, -1.0, 0.5, 0.25, 0.0)),
    Geometric(0.7),
    MembraneTies(Count()),
    MembraneTies(FirstSpike()),
    Voting(Count(), 3),
    Voting(FirstSpike(), 2),
    Stacked((Count(), FirstSpike()), (1.0, 0.5)),
    FixedExit(Voting(Count(), 3), 2),
    MarginExit(MembraneTies(Count()), 1.0),
    ConfidenceExit(Weighted((1.0,) * T, spikes=False), 0.5),
    ConfidenceExit(MeanPotential(), 0.5),
    ConfidenceExit(MeanCurrent(), 0.5),
    Voting(MeanCurrent(), 3),
    MarginExit(Stacked((MeanCurrent(), MeanCurrent()), (1.0, 0.5)), 0.3),
    *EXITS,
]


def outputs_for(decoder):
    """Outputs as the decoder gets them, many of them tied or silent."""
    width = output_width(decoder, K)
    spikes = (Key.of(3).uniform((T, B, width)) < 0.25).float()
    spikes[:, :5] = 0
    if not decoder.reads_spikes:
        return Key.of(4).normal((T, B, width))
    return torch.cat([spikes, Key.of(4).normal((T, B, width))], -1) if reads_potential(decoder) else spikes


def model_for(decoder, encoder=None, neuron=None, network=None):
    parts = encoder or Latency(T), network or MLP((20,)), neuron or LIF(threshold=0.3), ATan(), decoder
    spec = ModelSpec(*parts, (1, 8, 8), K)
    return spec.build(Key.of(0)).eval()


# --- slow transcriptions in double precision, one number after the other ---


def score(decoder, o):
    """Logits of one example's outputs `[t, N]`, as the docstrings define them."""
    match decoder:
        case Count():
            return o.sum(0)
        case MeanCurrent() | MeanPotential():
            return o.mean(0)
        case FirstSpike():
            return np.array([-next((t for t in range(len(o)) if o[t, k]), len(o)) for k in range(o.shape[1])])
        case Weighted():
            return np.array(
                [sum(decoder.weights[t] * o[t, k] for t in range(len(o))) for k in range(o.shape[1])]
            )
        case Geometric():
            return np.array(
                [sum(decoder.gamma**t * o[t, k] for t in range(len(o))) for k in range(o.shape[1])]
            )
        case Stacked():
            weights = decoder.weights or (1,) * len(decoder.decoders)
            return sum(w * score(d, o) for w, d in zip(weights, decoder.decoders, strict=True))
        case Voting():
            inner = score(decoder.decoder, o)
            n = decoder.neurons
            return np.array([sum(inner[k * n + i] for i in range(n)) / n for k in range(len(inner) // n)])
        case MembraneTies():
            half = o.shape[1] // 2
            z, v, best = o[:, :half], o[:, half:], score(decoder.decoder, o[:, :half]).astype(float)
            for k in range(half):
                t = len(o) - 1
                if isinstance(decoder.decoder, FirstSpike) and z[:, k].any():
                    t = int(np.flatnonzero(z[:, k])[0])
                best[k] += 0.25 * v[t, k] / (1 + abs(v[t, k]))
            return best
    return score(decoder.decoder, o[: leave(decoder, o)])


def ready(decoder, o):
    """Whether an early exit decides after the last step of `o`, had it not done so before."""
    y = np.asarray(score(decoder.decoder, o), float)
    match decoder:
        case FixedExit():
            return len(o) >= decoder.steps
        case ConfidenceExit():
            e = np.exp((y - y.max()) / decoder.temperature)
            return e.max() / e.sum() >= decoder.threshold
        case MarginExit():
            return np.sort(y)[-1] - np.sort(y)[-2] >= decoder.threshold
        case FirstSpikeExit():
            return o[-1].any()


def leave(decoder, o):
    """The number of steps after which an early exit decides, from the inner decoder after every step."""
    return next((t for t in range(1, len(o)) if ready(decoder, o[:t])), len(o))


@pytest.mark.parametrize("decoder", ALL, ids=repr)
def test_logits_and_exits_equal_the_slow_transcription(decoder):
    outputs = outputs_for(decoder).double()
    wanted = np.stack([score(decoder, outputs[:, b].numpy()) for b in range(B)])
    assert np.allclose(decoder(outputs).numpy(), wanted, atol=1e-12)
    if hasattr(decoder, "exits"):
        steps = [leave(decoder, outputs[:, b].numpy()) for b in range(B)]
        assert exit_steps(decoder, outputs).tolist() == steps
    else:
        assert exit_steps(decoder, outputs).tolist() == [T] * B


def test_the_outputs_of_these_laws_exit_at_every_step():
    found = [set(exit_steps(decoder, outputs_for(decoder)).tolist()) for decoder in EXITS]
    assert max(map(len, found)) >= 4
    assert set().union(*found) == set(range(1, T + 1))


@pytest.mark.parametrize("decoder", ALL, ids=repr)
def test_permuting_classes_permutes_logits_and_moves_no_exit(decoder):
    outputs, order = outputs_for(decoder), [2, 0, 3, 1]
    halves = outputs.chunk(2, -1) if reads_potential(decoder) else (outputs,)
    moved = torch.cat([half.unflatten(-1, (K, -1))[:, :, order].flatten(2) for half in halves], -1)
    assert isinstance(decoder, Decoder)
    assert torch.allclose(decoder(moved), decoder(outputs)[:, order], atol=1e-6)
    assert torch.equal(exit_steps(decoder, moved), exit_steps(decoder, outputs))
    assert activity(decoder, outputs).shape == (T, B, K)


@pytest.mark.parametrize("decoder", EXITS, ids=repr)
def test_what_comes_after_the_exit_has_no_part_in_answer_or_gradient(decoder):
    outputs = outputs_for(decoder).requires_grad_()
    logits, steps = decoder(outputs), exit_steps(decoder, outputs)
    later = torch.arange(T)[:, None] >= steps
    (grad,) = torch.autograd.grad((logits * POTENTIAL[0]).sum(), outputs)
    assert not grad[later].any()
    other = torch.where(later[..., None], 1 - outputs, outputs)
    assert torch.equal(decoder(other), logits)
    assert torch.equal(exit_steps(decoder, other), steps)


@pytest.mark.parametrize("decoder", EXITS, ids=repr)
def test_each_answer_and_its_gradient_are_those_of_the_read_out_inside_on_the_prefix(decoder):
    outputs, weight = outputs_for(decoder).requires_grad_(), POTENTIAL[0]
    (grad,) = torch.autograd.grad((decoder(outputs) * weight).sum(), outputs)
    for b, t in enumerate(exit_steps(decoder, outputs).tolist()):
        prefix = outputs.detach()[:t, b : b + 1].requires_grad_()
        inner = decoder.decoder(prefix)
        assert torch.equal(decoder(outputs)[b], inner[0])
        (alone,) = torch.autograd.grad((inner * weight[b : b + 1]).sum(), prefix)
        assert torch.equal(grad[:t, b], alone[:, 0])


@pytest.mark.parametrize(
    "inside", [Count(), FirstSpike(), Geometric(), Stacked((Count(), FirstSpike()))], ids=repr
)
def test_an_exit_after_all_steps_is_the_plain_decoder(inside):
    outputs = SPIKES.clone().requires_grad_()
    never = [FixedExit(inside, T), MarginExit(inside, 1e9)]
    for decoder in never:
        assert torch.equal(decoder(outputs), inside(outputs))
        assert exit_steps(decoder, outputs).tolist() == [T] * B
        ours, plain = (
            torch.autograd.grad((d(outputs) * POTENTIAL[0]).sum(), outputs) for d in (decoder, inside)
        )
        assert torch.equal(ours[0], plain[0])


def test_a_first_spike_decides_the_same_whether_or_not_the_rest_is_awaited():
    outputs = outputs_for(FirstSpikeExit(FirstSpike()))
    waited, left = FirstSpike()(outputs), FirstSpikeExit(FirstSpike())(outputs)
    assert torch.equal(decide(waited), decide(left))
    first = torch.where((outputs != 0).any(0), (outputs != 0).float().argmax(0) + 1, T).amin(-1)
    assert torch.equal(exit_steps(FirstSpikeExit(FirstSpike()), outputs), first)
    assert (decide(left) == UNDECIDED).any()


@pytest.mark.parametrize("decoder", [Count(), *EXITS], ids=repr)
def test_the_curve_over_exit_time_is_what_shorter_runs_answer(decoder):
    outputs = outputs_for(decoder)
    curve = by_step(decoder, outputs)
    for t in range(1, T + 1):
        shorter = decoder
        if isinstance(decoder, FixedExit):
            shorter = replace(decoder, steps=min(decoder.steps, t))
        assert torch.equal(curve[t - 1], shorter(outputs[:t]))
    assert torch.equal(curve[-1], decoder(outputs))


# --- whole models ---


@pytest.mark.parametrize("decoder", [*EXITS, FixedExit(Voting(Count(), 3), 2)], ids=repr)
@pytest.mark.parametrize("neuron", [LIF(threshold=0.3), Recurrent(ALIF(threshold=0.3))], ids=repr)
@torch.no_grad()
def test_a_model_with_an_exit_answers_as_the_network_run_prefix_by_prefix(decoder, neuron):
    """An independent oracle: the network is run on the first steps of the input alone and decoded."""
    model = model_for(decoder, neuron=neuron)
    encoded, answer = model.encode(X), model.infer(X)
    stopped = torch.zeros(len(X), dtype=torch.bool)
    for t in range(1, T + 1):
        tally = []
        outputs = model.respond(encoded[:t], tally)
        spikes = sum(layer.sum(0) for layer in [(encoded[:t] != 0).flatten(2).sum(2), *tally])
        now = torch.tensor([t == T or ready(decoder, outputs[:, b].double().numpy()) for b in range(len(X))])
        rows = (now & ~stopped).nonzero().flatten()
        stopped |= now
        assert torch.allclose(answer.logits[rows], decoder.decoder(outputs)[rows], atol=1e-5)
        assert (answer.exit[rows] == t).all()
        assert torch.equal(answer.spikes[rows], spikes[rows].float())
        wanted = decide(decoder.decoder(outputs))
        assert torch.equal(answer.by_step[rows, t - 1], wanted[rows])
        assert (answer.by_step[rows, t - 1 :] == answer.by_step[rows, t - 1 : t]).all()
    assert stopped.all()


@pytest.mark.parametrize("network", [ConvNet((3,)), LSNN((6,))], ids=repr)
@pytest.mark.parametrize("decoder", [Voting(Count(), 3), MembraneTies(FirstSpike())], ids=repr)
def test_every_network_gives_a_decoder_the_neurons_it_asks_for(network, decoder):
    model = model_for(decoder, network=network, neuron=LIF())
    assert model(X).shape == (40, K)
    assert model.outputs(X).shape == (T, 40, 3 * K if isinstance(decoder, Voting) else 2 * K)


@pytest.mark.parametrize("neuron", [LIF(), IF(0.5), ALIF(), SNU(), Renewal()], ids=repr)
def test_potentials_beside_spikes_belong_to_these_spikes(neuron):
    plain, ties = (model_for(decoder, neuron=neuron) for decoder in (Count(), MembraneTies(Count())))
    ties.load_state_dict(dict(zip(ties.state_dict(), plain.state_dict().values(), strict=True)))
    spikes, v = ties.outputs(X).chunk(2, -1)
    assert torch.equal(spikes, plain.outputs(X))
    if isinstance(neuron, (LIF, IF)):
        assert torch.equal(spikes, (v >= neuron.threshold).float())
    for parts in ({"spike": Triangle(2.0)}, {"unroll": TSSL()}) if isinstance(neuron, LIF) else ():
        assert torch.equal(substitute(ties, **parts)(X), ties(X))


def test_a_higher_potential_breaks_ties_and_nothing_else():
    rows = [(spikes, v) for spikes in itertools.product((0, 1), repeat=4) for v in ((-3e9, 2.0), (5e9, 1e-3))]
    spikes = torch.tensor([[s[:2], s[2:]] for s, _ in rows], dtype=torch.float32).transpose(0, 1)
    potential = torch.tensor([[v, v] for _, v in rows], dtype=torch.float32).transpose(0, 1)
    for inside in (Count(), FirstSpike()):
        scores = inside(spikes)
        answers = decide(MembraneTies(inside)(torch.cat([spikes, potential], -1)))
        for (_, v), plain, chosen in zip(rows, decide(scores).tolist(), answers.tolist(), strict=True):
            assert chosen == (plain if plain != UNDECIDED else int(v[1] > v[0]))
    level = torch.zeros(T, 1, 2 * K)
    assert decide(MembraneTies(Count())(level)).tolist() == [UNDECIDED]


def test_silence_that_potentials_decide_is_reported_as_silence():
    model = model_for(MembraneTies(Count()))
    with torch.no_grad():
        list(model.parameters())[-2].mul_(1e-4)  # hidden neurons fire, output neurons never do
    answer = model.infer(X)
    assert answer.silent.all()
    assert (decide(answer.logits) != UNDECIDED).all()


def test_the_rate_twin_of_a_vote_answers_classes():
    model = model_for(Voting(Count(), 3), encoder=Direct(4))
    twin = rate_twin(model)
    assert twin(X).shape == (40, K)
    assert rate_twin(model_for(MembraneTies(Count()), encoder=Direct(4)))(X).shape == (40, K)


@pytest.mark.parametrize("decoder", ALL, ids=repr)
def test_models_with_these_decoders_are_saved_and_loaded(tmp_path, decoder):
    model = model_for(decoder)
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.spec == model.spec
    assert torch.equal(again(X), model(X))


# --- evaluation ---


def exit_model(encoder=None):
    return model_for(ConfidenceExit(Count(), 0.5), encoder=encoder or Direct(T), neuron=LIF(threshold=0.5))


def test_clean_and_attacked_outcomes_are_those_of_the_exit_really_taken():
    model, key, threat = exit_model(), Key.of(5), Linf(0.1)
    clean = evaluate_clean(model, X, Y, key, batch_size=16)
    steps = exit_steps(model.spec.decoder, model.outputs(X)).float()
    assert torch.equal(clean.exit, steps)
    assert clean.metrics()["mean_exit"] == pytest.approx(steps.mean().item())
    assert 1 < clean.metrics()["mean_exit"] < T
    assert clean.metrics()["accuracy_by_step"][-1] == clean.metrics()["clean_accuracy"]
    assert len(clean.metrics()["accuracy_by_step"]) == T
    found = evaluate_attack(model, PGD(steps=4)(threat), threat, X, Y, clean, key, batch_size=16)
    outputs = model.outputs(found.x_adv)
    assert torch.equal(found.exit, exit_steps(model.spec.decoder, outputs).float())
    assert torch.equal(found.right > 0, decide(model(found.x_adv)) == Y)
    assert found.metrics()["mean_exit"] == pytest.approx(found.exit.mean().item())


def test_no_number_of_an_exit_depends_on_the_size_of_batches():
    for encoder in (Direct(T), Bernoulli(T)):
        model = exit_model(encoder)
        found = [evaluate_clean(model, X, Y, Key.of(6), batch_size=size, draws=2) for size in (7, 40)]
        assert torch.equal(found[0].exit, found[1].exit)
        assert torch.equal(found[0].spikes, found[1].spikes)
        assert torch.equal(found[0].right_by_step, found[1].right_by_step)


def test_a_model_of_another_kind_has_no_exit_time_and_no_curve():
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, K)).eval()
    metrics = evaluate_clean(lambda x, key=None: linear(x).detach(), X, Y, Key.of(0)).metrics()
    assert math.isnan(metrics["mean_exit"])
    assert metrics["accuracy_by_step"] == []


# --- what is refused ---


@pytest.mark.parametrize(
    "make",
    [
        lambda: Weighted(()),
        lambda: Weighted((1.0, math.inf)),
        lambda: Weighted((1.0,))(SPIKES),
        lambda: Geometric(0.0),
        lambda: Geometric(1.1),
        lambda: FixedExit(Count(), 0),
        lambda: model_for(FixedExit(Count(), T + 1)),
        lambda: model_for(Weighted((1.0,) * (T - 1))),
        lambda: model_for(MarginExit(Stacked((Weighted((1.0,)), Count())))),
        lambda: ConfidenceExit(Count(), 0.0),
        lambda: ConfidenceExit(Count(), 1.01),
        lambda: ConfidenceExit(Count(), 0.5, 0.0),
        lambda: MarginExit(Count(), 0.0),
        lambda: MarginExit(FixedExit(Count())),
        lambda: FirstSpikeExit(MeanPotential()),
        lambda: MarginExit(Earliest()),
        lambda: MembraneTies(MeanPotential()),
        lambda: MembraneTies(Voting(Count())),
        lambda: Voting(Count(), 0),
        lambda: Voting(FixedExit(Count())),
        lambda: Voting(MembraneTies(Count())),
        lambda: Stacked(()),
        lambda: Stacked((Count(), MeanPotential())),
        lambda: Stacked((Count(), Voting(Count()))),
        lambda: Stacked((Count(),), (1.0, 2.0)),
        lambda: Stacked((Count(),), (math.nan,)),
        lambda: Stacked((FixedExit(Count()), Count())),
    ],
)
def test_exits_groups_and_weights_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


@dataclass(frozen=True)
class Formless(Neuron):
    """A neuron without a potential."""

    def rest(self, current, learned=None):
        return (torch.zeros_like(current[0]),)

    def step(self, current, state, spike):
        return spike(current - 1), state


def test_exits_need_neurons_that_do_not_wait_and_ties_neurons_with_a_potential():
    with pytest.raises(InputError, match="step by step"):
        model_for(MarginExit(Count()), encoder=FewSpikes(4), neuron=FS(steps=4))
    assert model_for(Count(), encoder=FewSpikes(4), neuron=FS(steps=4))(X).shape == (40, K)
    with pytest.raises(InputError, match="have a potential"):
        model_for(MembraneTies(Count()), neuron=Formless())

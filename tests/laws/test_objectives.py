"""Objectives over time: each against a slow transcription, the verdict of the model, and shorter runs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import spikeproof as sp
from spikeproof.attacks.gradient.estimates import NES
from spikeproof.attacks.gradient.iterated import APGD, APGDT, MIM, SAPGD, TargetedPGD
from spikeproof.attacks.gradient.plain import EOTPGD, PGD, Through
from spikeproof.attacks.made_of.composite import RateTwin, WidthSweep, WorstOf
from spikeproof.attacks.parts.objectives import (
    AtExit,
    FirstSpikeMargin,
    PotentialMargin,
    PrefixMean,
    TieBrokenMargin,
    answers_margin,
)
from spikeproof.attacks.search import evaluator
from spikeproof.decoders import (
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
    Voting,
    decide,
    exit_steps,
)
from spikeproof.encoders import Bernoulli, Direct, SpikeTimes
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.suites import evaluate_suite, plan
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.study.cells import cells_of
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.gradients import TSSL
from spikeproof.keys import Key
from spikeproof.losses import DLR, KL, LogitCrossEntropy, Margin, Rescaled
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.timed import TimedMLP
from spikeproof.neurons import LIF
from spikeproof.neurons.spiketimes import FastAndDeep
from spikeproof.protocols import Watched
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf

T, K, N = 5, 4, 40
X, Y, KEY = Key.of(2).uniform((N, 1, 6, 6)), torch.arange(N) % K, Key.of(3)
NEURON = LIF(threshold=0.4)

EXITS = [
    FixedExit(Count(), 2),
    ConfidenceExit(Count(), 0.4),
    MarginExit(Geometric(0.5), 0.4),
    FirstSpikeExit(Count()),
    FirstSpikeExit(FirstSpike()),
    ConfidenceExit(MeanPotential(), 0.3),
    MarginExit(Voting(Count(), 2), 1.0),
    MarginExit(MembraneTies(Count()), 1.0),
]
FIRST = [FirstSpike(), FirstSpikeExit(Count()), FirstSpikeExit(FirstSpike()), Voting(FirstSpike(), 2)]
OBJECTIVES = [
    AtExit(),
    PrefixMean(Margin()),
    PrefixMean(DLR(), True),
    FirstSpikeMargin(),
    PotentialMargin(),
    TieBrokenMargin(),
]


def model_for(decoder, encoder=None, **parts):
    spec = ModelSpec(encoder or Direct(T), MLP((16,)), NEURON, ATan(), decoder, (1, 6, 6), K, **parts)
    return spec.build(Key.of(0)).eval()


def evaluate(model, objective, x=X, y=Y):
    x = x.clone().requires_grad_()
    value, fooled = evaluator(model, objective, y)(x, KEY)
    (grad,) = torch.autograd.grad(value.sum() + 0 * x.sum(), x)
    return value.detach(), grad, fooled.bool()


@pytest.mark.parametrize("decoder", EXITS, ids=repr)
@pytest.mark.parametrize("objective", [LogitCrossEntropy(), Margin(), DLR(), Rescaled()], ids=repr)
def test_the_loss_at_the_exit_is_that_of_the_logits_to_the_bit_and_so_is_its_gradient(decoder, objective):
    model = model_for(decoder)
    for ours, plain in zip(evaluate(model, AtExit(objective)), evaluate(model, objective), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize("decoder", EXITS, ids=repr)
def test_the_margin_at_the_exit_crosses_zero_where_the_verdict_changes(decoder):
    value, _, fooled = evaluate(model_for(decoder), AtExit(Margin()))
    assert torch.equal(value >= 0, fooled)
    assert fooled.any()
    assert not fooled.all()


@pytest.mark.parametrize("decoder", FIRST, ids=repr)
def test_the_margin_of_first_spikes_crosses_zero_where_the_verdict_of_first_spikes_changes(decoder):
    value, _, fooled = evaluate(model_for(decoder), FirstSpikeMargin())
    assert torch.equal(value >= 0, fooled)
    assert not fooled.all()


@pytest.mark.parametrize("decoder", [Count(), MembraneTies(Count()), FixedExit(Count(), 1)], ids=repr)
def test_the_margin_of_first_spikes_equals_the_naive_search_whatever_the_decoder(decoder):
    model = model_for(decoder)
    value, _, _ = evaluate(model, FirstSpikeMargin())
    spikes = model.outputs(X)[..., :K].detach().numpy()
    for b in range(N):
        times = [next((t for t in range(T) if spikes[t, b, k]), T) for k in range(K)]
        others = [time for k, time in enumerate(times) if k != Y[b]]
        assert value[b].item() == times[Y[b]] - min(others)


def test_the_margin_of_spike_times_is_in_their_own_unit():
    spec = ModelSpec(SpikeTimes(), TimedMLP((8,)), FastAndDeep(), ATan(), Earliest(), (1, 6, 6), K)
    model = spec.build(Key.of(0)).eval()
    for ours, plain in zip(evaluate(model, FirstSpikeMargin()), evaluate(model, Margin()), strict=True):
        assert torch.equal(ours, plain)
    with pytest.raises(InputError, match="have a potential"):
        evaluate(model, PotentialMargin())


@pytest.mark.parametrize("decoder", [MeanPotential(), MeanCurrent()], ids=repr)
def test_the_potential_margin_of_means_is_the_margin_of_the_logits_to_the_bit(decoder):
    model = model_for(decoder, normalise=Normalise((0.3,), (0.4,)))
    for ours, plain in zip(evaluate(model, PotentialMargin()), evaluate(model, Margin()), strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.parametrize(
    "decoder", [Count(), Voting(Count(), 2), MembraneTies(Count()), *EXITS[:3]], ids=repr
)
def test_the_potential_margin_equals_a_slow_transcription(decoder):
    model = model_for(decoder)
    value, grad, _ = evaluate(model, PotentialMargin())
    hidden, weights = model.network.layers[1], model.network.layers[2]
    with torch.no_grad():
        current = weights(hidden(model.network.layers[0](model.encode(X)))).double().numpy()
        steps = exit_steps(decoder, model.outputs(X)).tolist()
    decay = math.exp(-NEURON.dt / NEURON.tau)
    for b in range(N):
        u, total = np.zeros(current.shape[-1]), np.zeros(current.shape[-1])
        for t in range(steps[b]):
            u = decay * u + current[t, b]
            total += u / steps[b]
        means = total.reshape(K, -1).mean(1)
        assert value[b].item() == pytest.approx(np.delete(means, Y[b]).max() - means[Y[b]], abs=1e-5)
    assert grad.flatten(1).any(1).all()


@pytest.mark.parametrize("decoder", [Count(), FirstSpike(), Voting(Count(), 2), *EXITS[:3]], ids=repr)
def test_the_tie_broken_margin_is_the_margin_and_the_lead_of_the_potentials_as_a_share_of_both(decoder):
    model = model_for(decoder)
    value, _, fooled = evaluate(model, TieBrokenMargin(0.2))
    margin, _, judged = evaluate(model, Margin())
    with torch.no_grad():
        lead = PotentialMargin().over_time(model.watch(X, potential=True), Y)
        means = torch.stack(
            [PotentialMargin().over_time(model.watch(X, potential=True), Y, (Y + i) % K) for i in range(1, K)]
        )
        assert torch.equal(lead, means.amax(0))
    rest = (value - margin).double() / 0.2
    assert torch.equal(rest > 0, lead > 0)
    assert rest.abs().max() <= 1 + 1e-6
    assert len(set(rest.tolist())) > len(set(margin.tolist()))  # it tells images apart that have one margin
    assert torch.equal(fooled, judged)


def test_breaking_ties_never_reverses_margins_of_whole_numbers():
    model = model_for(Count())
    value, _, _ = evaluate(model, TieBrokenMargin())
    margin, _, _ = evaluate(model, Margin())
    above = margin[:, None] > margin
    assert above.any()
    assert (value[:, None] > value)[above].all()


def test_broken_ties_do_not_depend_on_the_scale_of_weights_and_thresholds():
    outputs, u, y = (
        (Key.of(1).uniform((T, N, K)) < 0.3).float(),
        Key.of(2).normal((T, N, K)),
        torch.arange(N) % K,
    )
    one, other = (TieBrokenMargin().over_time(Watched(outputs, Count(), s * u), y) for s in (1.0, 32.0))
    assert torch.equal(one, other)
    silent = TieBrokenMargin().over_time(Watched(outputs, Count(), 0 * u), y)
    assert torch.equal(silent, Margin()(outputs.sum(0), y))


def test_searches_by_answers_break_ties_where_spikes_are_read_and_nowhere_else():
    for decoder in (Count(), FirstSpike(), Voting(Count(), 2), FirstSpikeExit(Count())):
        assert isinstance(answers_margin(model_for(decoder)), TieBrokenMargin)
    for decoder in (MeanPotential(), MeanCurrent(), MembraneTies(Count())):
        assert answers_margin(model_for(decoder)) == Margin()
    assert answers_margin(lambda x, key=None: x.flatten(1)) == Margin()


class Inside(torch.nn.Module):
    """A module of a user, which keeps a network of ours as `model` and does not show its output layer."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, key=None):
        return self.model(x, key)


def test_a_network_inside_a_module_of_a_user_is_searched_by_its_logits_alone():
    inside = Inside(model_for(Count())).eval()
    assert answers_margin(inside) == answers_margin(Steady(inside)) == Margin()
    assert isinstance(answers_margin(Steady(inside.model)), TieBrokenMargin)
    report = sp.audit(inside, X[:4], Y[:4], sp.Linf(0.1), "quick")
    assert report.suited.members


def test_potentials_have_a_gradient_where_output_neurons_are_silent():
    model = model_for(Count())
    with torch.no_grad():
        next(model.network.layers[2].parameters()).mul_(1e-4)  # of the output layer
    assert model.infer(X).silent.all()
    value, _, fooled = evaluate(model, Margin())
    assert not value.any()
    assert fooled.all()
    value, grad, _ = evaluate(model, PotentialMargin())
    assert value.all()
    assert grad.flatten(1).any(1).all()


@pytest.mark.parametrize("decoder", EXITS, ids=repr)
@pytest.mark.parametrize("objective", [LogitCrossEntropy(), Margin()], ids=repr)
def test_the_mean_over_prefixes_is_that_of_models_that_stop_after_each_step(decoder, objective):
    """An independent oracle: models of the same weights that exit after 1, 2, ... steps."""
    model = model_for(decoder)
    stops = [model_for(FixedExit(decoder.decoder, t)) for t in range(1, T + 1)]
    values, grads, _ = zip(*(evaluate(stop, objective) for stop in stops), strict=True)
    value, grad, fooled = evaluate(model, PrefixMean(objective))
    assert torch.allclose(value, torch.stack(values).mean(0), atol=1e-5)
    assert torch.allclose(grad, torch.stack(grads).mean(0), atol=1e-5)
    assert torch.equal(fooled, decide(model(X)) != Y)  # the verdict stays that of the exit really taken
    until, _, _ = evaluate(model, PrefixMean(objective, until_exit=True))
    for b, t in enumerate(model.infer(X).exit.int().tolist()):
        assert until[b].item() == pytest.approx(sum(v[b].item() for v in values[:t]) / t, abs=1e-5)


@pytest.mark.parametrize(
    "objective",
    [PrefixMean(), PrefixMean(Margin()), AtExit(), PotentialMargin(), TieBrokenMargin()],
    ids=repr,
)
def test_gradients_equal_finite_differences_where_the_exit_stays(objective):
    decoder = ConfidenceExit(MeanPotential(), 0.6)
    outputs = Key.of(5).normal((T, 9, K)).double().requires_grad_()
    y = torch.arange(9) % K

    def value(o):
        return objective.over_time(Watched(o, decoder, o), y)

    assert len(set(exit_steps(decoder, outputs).tolist())) > 1
    assert torch.autograd.gradcheck(value, (outputs,), eps=1e-7, atol=1e-5)


@pytest.mark.parametrize(
    "objective",
    [AtExit(Margin()), PrefixMean(Margin()), FirstSpikeMargin(), PotentialMargin(), TieBrokenMargin()],
    ids=repr,
)
def test_towards_a_target_is_the_targets_lead_over_the_label(objective):
    model = model_for(FirstSpikeExit(Count()))
    seen = model.watch(X, potential=True)
    target = (Y + 1) % K
    pulled = objective.over_time(seen, Y, target)
    back = objective.over_time(seen, target, Y)
    assert torch.allclose(pulled, -back)
    leads = torch.stack([objective.over_time(seen, Y, (Y + i) % K) for i in range(1, K)])
    if not isinstance(objective, (PrefixMean, TieBrokenMargin)):
        assert torch.allclose(leads.amax(0), objective.over_time(seen, Y))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
@pytest.mark.parametrize(
    "recipe",
    [
        *(PGD(steps=3), MIM(steps=3), APGD(steps=4), SAPGD(steps=3)),
        *(TargetedPGD(steps=2), APGDT(steps=3), NES(steps=2)),
    ],
    ids=lambda recipe: type(recipe).__name__,
)
def test_every_gradient_attack_takes_every_objective_and_the_model_itself_judges(recipe, objective):
    model, threat = model_for(ConfidenceExit(Count(), 0.4)), Linf(0.1)
    recipe = replace(recipe, objective=objective)
    found = recipe(threat)(model, X[:8], Y[:8], KEY, through=through(model, recipe))
    assert threat.contains(found.x_adv, X[:8]).all()
    assert torch.equal(found.success, decide(model(found.x_adv)) != Y[:8])
    assert not found.losses.isnan().all()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_gradients_may_come_through_a_substitute_and_numbers_do_not_depend_on_the_batch(objective):
    model, threat = model_for(ConfidenceExit(Count(), 0.4)), Linf(0.1)
    clean = evaluate_clean(model, X, Y, KEY)
    recipe = Through(gradient=TSSL(), attack=PGD(steps=2, objective=objective))
    found = [
        evaluate_attack(
            model, recipe(threat), threat, X, Y, clean, KEY, through=through(model, recipe), batch_size=size
        )
        for size in (7, 40)
    ]
    assert torch.equal(found[0].x_adv, found[1].x_adv)
    assert torch.equal(found[0].right > 0, decide(model(found[0].x_adv)) == Y)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=repr)
def test_random_codes_are_watched_under_the_same_draws_as_they_are_asked(objective):
    model = model_for(ConfidenceExit(Count(), 0.4), encoder=Bernoulli(T))
    key = Key.of(9).for_rows(range(N))
    seen = model.watch(X, key, potential=True)
    assert torch.equal(seen.decoder(seen.outputs), model(X, key))
    steady = Steady(model).watch(X[:5], key.take(torch.arange(5)), potential=True)
    assert torch.equal(steady.outputs, seen.outputs[:, :5])
    assert torch.allclose(steady.potential, seen.potential[:, :5], atol=1e-6)
    recipe = EOTPGD(steps=2, draws=2, objective=objective)
    assert Linf(0.1).contains(recipe(Linf(0.1))(model, X, Y, key).x_adv, X).all()


# --- studies and suites ---

TEXT = """\
name: objectives
data: digits
models:
  - encoder: {direct: {steps: 4}}
    decoder: [count, mean-potential, {confidence-exit: {decoder: count}}]
attacks:
  - pgd
  - pgd: {objective: {prefix-mean: {objective: margin}}}
  - pgd: {objective: at-exit}
  - pgd: {objective: first-spike-margin}
  - apgd-ce: {objective: potential-margin}
  - worst-of: {attacks: [pgd, {pgd: {objective: {prefix-mean: {until_exit: true}}}}]}
epsilons: [0.1]
"""


def test_a_study_leaves_out_objectives_that_say_nothing_about_a_decoder():
    study = study_of(parse(TEXT, "study.yaml"))
    cells = cells_of(study, study.data.load(None))
    models = {c.address: c.spec["model"]["decoder"]["name"] for c in cells if c.kind == "train"}
    found = {name: [] for name in models.values()}
    for cell in cells:
        if cell.kind == "attack":
            objective = cell.spec["attack"].get("objective", {"name": "worst-of"})["name"]
            found[models[cell.needs[0]]].append(objective)
    everywhere = ["cross-entropy", "potential-margin"]
    assert sorted(found["mean-potential"]) == everywhere
    assert sorted(found["count"]) == [*everywhere[:1], "first-spike-margin", *everywhere[1:]]
    assert sorted(found["confidence-exit"]) == sorted(
        [*everywhere, "first-spike-margin", "prefix-mean", "at-exit", "worst-of"]
    )
    with pytest.raises(InputError, match=r"study.yaml:9: .*Did you mean 'at-exit'"):
        study_of(parse(TEXT.replace("at-exit", "at-exitt"), "study.yaml"))


def test_suites_attack_every_exit_of_early_exit_models_and_only_of_those():
    exits = [member.name for member in plan("standard", model_for(EXITS[1]), Linf(0.1))]
    added = {"pgd-prefixes", "apgd-prefixes", "pgd-first-spike", "pgd-potential"}
    assert added < set(exits)
    plain = [member.name for member in plan("standard", model_for(Count()), Linf(0.1))]
    assert [name for name in exits if name not in added] == plain
    quick = [member.name for member in plan("quick", model_for(EXITS[1]), Linf(0.1))]
    assert added & set(quick) == {"pgd-prefixes"}
    still = {m.name for m in plan("extreme", model_for(ConfidenceExit(MeanPotential())), Linf(0.1))}
    assert added - still == {"pgd-first-spike"}


def test_a_suite_on_an_early_exit_reports_what_the_model_answers():
    model = model_for(EXITS[1])
    clean = evaluate_clean(model, X, Y, KEY)
    found = evaluate_suite(model, "quick", Linf(0.1), X, Y, clean, KEY)
    assert {m["name"] for m in found.members} >= {"pgd", "pgd-margin", "pgd-prefixes"}
    assert torch.equal(found.attacked.right > 0, decide(model(found.attacked.x_adv)) == Y)
    assert torch.equal(found.attacked.exit, model.infer(found.attacked.x_adv).exit)


# --- what is refused ---


def test_objectives_over_time_refuse_decoders_without_the_outputs_that_they_read():
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, K)).eval()
    for objective in OBJECTIVES:
        with pytest.raises(InputError, match="shows the output layer"):
            PGD(steps=1, objective=objective)(Linf(0.1))(lambda x, key=None: linear(x), X, Y, KEY)
        with pytest.raises(InputError, match="logits alone"):
            objective(X.flatten(1), Y)
        with pytest.raises(InputError):
            Rescaled(objective)
        with pytest.raises(InputError):
            PrefixMean(objective)
        with pytest.raises(InputError):
            RateTwin(attack=PGD(objective=objective))
        assert not PGD(objective=objective).suits(linear)
    assert PGD().suits(linear)
    with pytest.raises(InputError):
        AtExit(KL())
    with pytest.raises(InputError, match="fire"):
        evaluate(model_for(MeanPotential()), FirstSpikeMargin())
    plain = model_for(Count())
    sweep = WidthSweep(attack=PGD(objective=AtExit()))
    assert [r.suits(plain) for r in (sweep, WorstOf(attacks=(PGD(), PGD(objective=AtExit()))))] == [False] * 2
    assert sweep.suits(model_for(EXITS[0]))

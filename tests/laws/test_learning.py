"""Laws of every learning rule, with every kind of part that a model consists of."""

import copy
import dataclasses
import functools
from dataclasses import replace

import pytest
import torch

from spikeproof.attacks.gradient.iterated import RFGSM
from spikeproof.attacks.gradient.plain import FGSM, PGD
from spikeproof.catalogue.model_parts import MODEL_PARTS
from spikeproof.catalogue.names import PARTS
from spikeproof.datasets import Dataset, Split
from spikeproof.decoders import Count, FirstSpike, MeanPotential
from spikeproof.defences.adversarial import TRADES, Adversarial, FastAdversarial, OverfittingWatch
from spikeproof.defences.noisy import NoiseTraining, SmoothAdversarial
from spikeproof.defences.periods import HIRE
from spikeproof.defences.potentials_apart import StableSNN, ThresholdGuarding
from spikeproof.defences.retraction import SNNRAT, Retraction
from spikeproof.defences.robust_conversion import RobustConversion
from spikeproof.defences.sparse_gradients import SparseGradients
from spikeproof.encoders import Bernoulli, Direct, KernelCode, Latency
from spikeproof.errors import InputError
from spikeproof.gradients import ANTLR, SurrogateGradient
from spikeproof.keys import Key
from spikeproof.learning import backprop, checkpoints
from spikeproof.learning.augmentation import AugmentedBPTT
from spikeproof.learning.backprop import BPTT
from spikeproof.learning.from_ann.balancing import Cao, DataBased, ModelBased, Rueckauer, SpikeNorm
from spikeproof.learning.from_ann.kernel_conversion import T2FSNNConversion
from spikeproof.learning.from_ann.learned_bounds import QCFS, RateNormLayer
from spikeproof.learning.online import FPTT
from spikeproof.learning.rule import Rule
from spikeproof.learning.spike_rules import ANTLRBP, STBP, TSSLBP, EventDrivenBP
from spikeproof.losses import KL, TET, CountMSE, CrossEntropy
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import IF, LIF, PSP, ConvertedT2FSNN, PrimedIF, Renewal
from spikeproof.specs import address, build, describe, summary
from spikeproof.surrogates import ATan
from spikeproof.threats import L2, Linf

SHORT = BPTT(epochs=2, batch_size=13)
DEFENCES = [  # a new defence adds a row here
    Adversarial(SHORT, Linf(0.1), attack=PGD(steps=2)),
    Adversarial(TSSLBP(epochs=2, batch_size=13), L2(0.5), attack=RFGSM()),
    FastAdversarial(SHORT, Linf(0.1), watch=OverfittingWatch(images=5, steps=2, gap=0.9)),
    TRADES(SHORT, Linf(0.1), attack=PGD(steps=2, objective=KL())),
    NoiseTraining(SHORT, sigma=0.1),
    Retraction(SHORT, beta=0.1),
    SNNRAT(SHORT, Linf(0.1), beta=0.1),
    SparseGradients(SHORT, weight=0.1),
    HIRE(epochs=2, batch_size=13, threat=Linf(0.1)),
    StableSNN(SHORT),
    StableSNN(SHORT, Linf(0.1), attack=FGSM(), watch=OverfittingWatch(5, 2, 0.9)),
    ThresholdGuarding(SHORT),
    RobustConversion(SpikeNorm(SHORT), TRADES(SHORT, Linf(0.1), attack=FGSM())),
    SmoothAdversarial(SHORT, L2(0.3), attack=PGD(steps=2), draws=2),
]
RULES = [  # a new rule adds a row here
    BPTT(epochs=2, batch_size=13),
    BPTT(epochs=2, batch_size=7, lr=0.01, weight_decay=0.0, clip_norm=None, loss=TET()),
    BPTT(epochs=3, batch_size=30, loss=CountMSE(3.0, 1.0)),
    AugmentedBPTT(epochs=2, batch_size=13, pad=1),
    STBP(epochs=2, batch_size=13, loss=CountMSE(4.0, 0.0)),
    TSSLBP(epochs=2, batch_size=13),
    ANTLRBP(epochs=2, batch_size=13, gradient=ANTLR(timing=0.5)),
    FPTT(epochs=2, batch_size=13, alpha=0.5),
    *(rule(BPTT(epochs=2, batch_size=13)) for rule in (Cao, ModelBased, DataBased, SpikeNorm, RateNormLayer)),
    Rueckauer(BPTT(epochs=2, batch_size=13), calibration=7, percentile=99.0),
    QCFS(BPTT(epochs=2, batch_size=13), levels=4, bound=2.0),
    T2FSNNConversion(BPTT(epochs=2, batch_size=13)),
    EventDrivenBP(epochs=2, batch_size=13),
    *DEFENCES,
]
MODELS = [
    ModelSpec(Bernoulli(4), MLP((6,)), LIF(), ATan(), Count(), (1, 4, 4), 2),
    ModelSpec(Latency(4), ConvNet((3,)), LIF(), ATan(), FirstSpike(), (1, 4, 4), 2),
    ModelSpec(Direct(2), ConvNet((3,)), LIF(), ATan(), MeanPotential(), (1, 4, 4), 2),
]
NEEDED = {  # the options without which a member means nothing
    "as-saved": {"path": "models/mine", "sha256": "00" * 32},
    "weighted": {"weights": [1.0, 0.5]},
    "stacked": {"decoders": ["count", "first-spike"]},
    "deep-supervision": {"decoder": "count"},
    "membrane-ties": {"decoder": "count"},
    "voting": {"decoder": "count"},
    "fixed-exit": {"decoder": "count"},
    "confidence-exit": {"decoder": "count"},
    "margin-exit": {"decoder": "count"},
    "first-spike-exit": {"decoder": "count"},
}
MEMBERS = [(kind, name) for kind, table in MODEL_PARTS.items() for name in table]


def part(count, seed):
    images = Key.of(seed).uniform((count, 1, 4, 4))
    labels = (images[:, :, :2].mean((1, 2, 3)) > images[:, :, 2:].mean((1, 2, 3))).long()
    return Split(images, labels, torch.arange(count))


DATA = Dataset("halves", part(25, 1), part(12, 2), part(12, 3), ("up", "down"), "d", "made here")


def suits(rule, neuron):
    try:
        rule.check(neuron)
    except InputError:
        return False
    return True


def fresh(rule, spec):
    """A new model of this kind, with the neuron that the rule needs, and without normalisation for two."""
    if isinstance(rule, T2FSNNConversion):
        return replace(spec, encoder=KernelCode(9, tau=3.0), neuron=ConvertedT2FSNN(9, 3.0)).build(Key.of(0))
    neurons = (spec.neuron, replace(spec.neuron, synapse=PSP()), IF(), PrimedIF(), Renewal(threshold=0.05))
    spec = replace(spec, neuron=next(neuron for neuron in neurons if suits(rule, neuron)))
    if isinstance(rule, (Cao, EventDrivenBP)) and isinstance(spec.network, ConvNet):
        spec = replace(spec, network=replace(spec.network, batch_norm=False))
    return spec.build(Key.of(0))


def train(rule, spec, key=0, **options):
    model = fresh(rule, spec)
    history = rule.train(model, DATA, Key.of(key), **options)
    return model, history


@functools.cache
def trained(rule, spec):
    """A training with the first key, which several tests compare another training with."""
    return train(rule, spec)


def same_weights(a, b):
    return all(torch.equal(t, b.state_dict()[name]) for name, t in a.state_dict().items())


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_one_key_gives_one_training_and_leaves_no_trace(rule, spec):
    before, images = torch.get_rng_state(), DATA.train.images.clone()
    model, history = trained(rule, spec)
    again, history_again = train(rule, spec)
    assert same_weights(model, again)
    assert history == history_again
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(images, DATA.train.images)
    assert not any(module.training for module in again.modules())


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_another_key_gives_another_training(rule):
    """Also where no code draws anything."""
    spec = MODELS[2]
    assert not same_weights(trained(rule, spec)[0], train(rule, spec, key=1)[0])


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("spec", MODELS[::2], ids=repr)
def test_a_training_that_stops_after_its_first_epoch_goes_on_as_if_it_had_not(rule, spec, tmp_path):
    class StopError(Exception):
        pass

    def stop(report):
        raise StopError

    with pytest.raises(StopError):
        train(rule, spec, checkpoint=tmp_path / "c", on_epoch=stop)
    resumed, history = train(rule, spec, checkpoint=tmp_path / "c")
    whole, wanted = trained(rule, spec)
    assert same_weights(resumed, whole)
    assert history == wanted


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_training_that_stops_within_an_epoch_goes_on_as_if_it_had_not(rule, tmp_path, monkeypatch):
    monkeypatch.setattr(backprop, "SECONDS_AT_RISK", -1)
    before, after = [], []

    def stop(done, total):
        before.append(done)
        assert 1 // (total - 1 - done) >= 0

    with pytest.raises(ZeroDivisionError):
        train(rule, MODELS[0], checkpoint=tmp_path / "c", on_batch=stop)
    resumed, history = train(
        rule, MODELS[0], checkpoint=tmp_path / "c", on_batch=lambda done, total: after.append(done)
    )
    whole, wanted = trained(rule, MODELS[0])
    assert after[0] == before[-1] + 1
    assert same_weights(resumed, whole)
    assert history == wanted
    assert history.epochs[-1].seconds > 0


class Killed(BaseException):
    """A process ends here."""


KILLED = [
    BPTT(epochs=2, batch_size=5),
    RateNormLayer(BPTT(epochs=1, batch_size=5), tuning=2),
    QCFS(BPTT(epochs=1, batch_size=5), levels=4, bound=2.0),
]


@pytest.mark.parametrize("rule", KILLED, ids=repr)
def test_a_training_that_is_killed_again_and_again_loses_a_batch_each_time(rule, tmp_path, monkeypatch):
    whole, wanted = trained(rule, MODELS[0])
    for module in (backprop, checkpoints):
        monkeypatch.setattr(module, "SECONDS_AT_RISK", -1)
    write, saved, left = checkpoints.write, 0, 0

    def dying(path, content):
        nonlocal saved, left
        write(path, content)
        saved, left = saved + 1, left - 1
        if left == 0:
            raise Killed

    monkeypatch.setattr(checkpoints, "write", dying)
    train(rule, MODELS[0], checkpoint=tmp_path / "unharmed")
    steps, saved, kills = saved, 0, 0
    while kills < 100:
        left = 1 + kills % 3
        try:
            resumed, history = train(rule, MODELS[0], checkpoint=tmp_path / "c")
            break
        except Killed:
            kills += 1
    tuned = rule.tuning * 5 if isinstance(rule, RateNormLayer) else 0
    validated = 3 * (2 if isinstance(rule, BPTT) else rule.epochs)
    assert steps >= (10 if isinstance(rule, BPTT) else 5) + validated + tuned
    assert saved == steps
    assert kills > 3
    assert same_weights(resumed, whole)
    assert history == wanted


def test_a_second_stage_with_other_settings_is_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SECONDS_AT_RISK", -1)
    rule = RateNormLayer(BPTT(epochs=1, batch_size=5), tuning=2)
    train(rule, MODELS[0], checkpoint=tmp_path / "c")
    other = replace(rule, lr=0.1)
    resumed, history = train(other, MODELS[0], checkpoint=tmp_path / "c")
    whole, wanted = train(other, MODELS[0])
    assert same_weights(resumed, whole)
    assert history == wanted


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_report_comes_after_every_epoch_and_the_model_is_left_in_eval_mode_even_by_an_error(rule):
    reports = []
    _, history = train(rule, MODELS[0], on_epoch=reports.append)
    assert tuple(reports) == history.epochs
    assert [report.epoch for report in reports] == list(range(1, rule.epochs + 1))
    model = fresh(rule, MODELS[0])
    with pytest.raises(ZeroDivisionError):
        rule.train(model, DATA, Key.of(0), on_batch=lambda done, total: 1 // (done - 2))
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_watching_changes_nothing(rule, tmp_path):
    plain, history = trained(rule, MODELS[0])
    watched, watched_history = train(
        rule,
        MODELS[0],
        device="cpu",
        checkpoint=tmp_path / "c",
        on_epoch=lambda report: None,
        on_batch=lambda done, total: None,
        perturb=lambda model, x, y, key: x,
    )
    assert same_weights(plain, watched)
    assert history == watched_history


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_copy_of_the_model_is_not_touched(rule):
    model = fresh(rule, MODELS[1])
    kept = copy.deepcopy(model)
    rule.train(model, DATA, Key.of(0))
    assert same_weights(kept, fresh(rule, MODELS[1]))
    assert not same_weights(kept, model)


@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_training_through_a_twin_with_the_models_own_gradient_is_plain_training(spec):
    """Batch normalisation and its mode are shared with the twin, so its statistics are the same too."""
    plain, history = train(BPTT(epochs=2, batch_size=8), spec)
    through, through_history = train(STBP(epochs=2, batch_size=8, gradient=SurrogateGradient(ATan())), spec)
    assert same_weights(plain, through)
    assert history == through_history
    assert through.spec == spec


@pytest.mark.parametrize("rule", [STBP, TSSLBP, ANTLRBP, FPTT, EventDrivenBP])
def test_every_gradient_rule_learns(rule):
    spec = replace(MODELS[0], encoder=Direct(4), network=MLP((20,)))
    _, history = train(rule(epochs=15, batch_size=8, lr=0.01), spec)
    assert history.epochs[-1].loss < 0.8 * history.epochs[0].loss


@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(2.0), CountMSE(3.0, 0.0), TET()], ids=repr)
def test_training_lowers_every_loss(loss):
    rule = BPTT(epochs=15, batch_size=8, lr=0.02, loss=loss)
    _, history = train(rule, replace(MODELS[0], encoder=Direct(4)))
    assert history.epochs[-1].loss < history.epochs[0].loss


@pytest.mark.parametrize(("kind", "name"), MEMBERS, ids=str)
def test_every_member_is_rebuilt_from_its_description_and_says_what_it_is(kind, name):
    part = build(kind, {name: NEEDED.get(name, {})}, PARTS)
    description = describe(part, PARTS)
    assert description["name"] == name
    assert type(part) is MODEL_PARTS[kind][name]
    assert build(kind, description, PARTS) == part
    assert address(describe(build(kind, description, PARTS), PARTS)) == address(description)
    assert description.keys() == {"name", *(f.name for f in dataclasses.fields(part))}
    sentence = summary(type(part))
    assert sentence.endswith(".")
    assert 10 < len(sentence) < 140
    assert not sentence.startswith(type(part).__name__ + "(")


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_a_rule_is_rebuilt_from_its_description(rule):
    assert build(Rule, describe(rule, PARTS), PARTS) == rule


@pytest.mark.parametrize("spec", MODELS, ids=repr)
def test_a_model_spec_is_rebuilt_from_its_description(spec):
    assert build(ModelSpec, describe(spec, MODEL_PARTS), MODEL_PARTS) == spec

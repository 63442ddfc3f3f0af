"""Every member of the catalogue can be named in a study, where it makes a model that answers and learns."""

import dataclasses

import pytest
import torch

from spikeproof.catalogue.names import KINDS, PARTS, members
from spikeproof.command.cli import KINDS as LISTED
from spikeproof.datasets import Dataset, DatasetSpec, Split
from spikeproof.defences.defended import Defended
from spikeproof.experiments.study.cells import model_spec
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of
from spikeproof.experiments.study.study import AXES
from spikeproof.keys import Key
from spikeproof.learning.rule import Rule
from spikeproof.losses import Loss
from spikeproof.neurons import Reset
from spikeproof.probes import Probe

BOTH = "{latency: {steps: 4}}, {direct: {steps: 4}}"
FLOW = "network: {mlp: {hidden: [5]}}"
DIRECT = "encoder: {direct: {steps: 3}}"
TIMED = "network: {timed-mlp: {hidden: [5]}}, decoder: earliest"
ANN = "encoder: {direct: {steps: 1}}, decoder: mean-potential"
KERNELS = "neuron: {t2fsnn-converted: {steps: 6}}, encoder: {kernel-code: {steps: 6}}"
BLOCKS = {  # the rest of a model for members that do not go with everything
    ("encoder", "events"): f"encoder: {{events: {{steps: 3}}}}, {FLOW}",
    ("encoder", "delta"): f"encoder: {{delta: {{steps: 3}}}}, {FLOW}",
    ("encoder", "level-crossing"): f"encoder: {{level-crossing: {{steps: 3}}}}, {FLOW}",
    ("encoder", "reversed"): f"encoder: {{reversed: {{code: latency}}}}, {FLOW}",
    ("encoder", "population"): f"encoder: {{population: {{code: latency}}}}, {FLOW}",
    ("encoder", "fused"): f"encoder: {{fused: {{codes: [{BOTH}]}}}}, {FLOW}",
    ("encoder", "spike-times"): f"encoder: spike-times, neuron: fast-and-deep, {TIMED}",
    ("encoder", "whole-spike-times"): f"encoder: whole-spike-times, neuron: s4nn, {TIMED}",
    ("encoder", "kernel-times"): f"encoder: kernel-times, neuron: t2fsnn, {TIMED}",
    ("neuron", "recurrent"): f"neuron: {{recurrent: {{neuron: lif}}}}, {DIRECT}, {FLOW}",
    ("neuron", "mixture"): f"neuron: {{mixture: {{first: lif, second: alif}}}}, {DIRECT}, {FLOW}",
    ("neuron", "plastic"): f"neuron: {{plastic: {{neuron: lif}}}}, {DIRECT}, {FLOW}",
    (
        "neuron",
        "few-spikes",
    ): f"neuron: {{few-spikes: {{steps: 4}}}}, encoder: {{few-spikes: {{steps: 4}}}}, {FLOW}",
    ("neuron", "t2fsnn-converted"): f"{KERNELS}, {FLOW}",
    ("rule", "t2fsnn-conversion"): f"{KERNELS}, {FLOW}, decoder: mean-current",
    ("neuron", "relu"): f"neuron: relu, {ANN}, {FLOW}",
    ("neuron", "softplus"): f"neuron: softplus, {ANN}, {FLOW}",
    ("neuron", "fast-and-deep"): f"neuron: fast-and-deep, encoder: spike-times, {TIMED}",
    ("neuron", "mostafa"): f"neuron: mostafa, encoder: spike-times, {TIMED}",
    ("neuron", "s4nn"): f"neuron: s4nn, encoder: whole-spike-times, {TIMED}",
    ("neuron", "t2fsnn"): f"neuron: t2fsnn, encoder: kernel-times, {TIMED}",
    ("network", "timed-mlp"): f"encoder: spike-times, neuron: fast-and-deep, {TIMED}",
    ("network", "gru"): f"network: {{gru: {{hidden: [5]}}}}, neuron: relu, {ANN}",
    ("network", "lstm"): f"network: {{lstm: {{hidden: [5]}}}}, neuron: relu, {ANN}",
    ("network", "lsnn"): f"network: {{lsnn: {{hidden: [5]}}}}, {DIRECT}, neuron: lif",
    ("decoder", "earliest"): f"encoder: spike-times, neuron: fast-and-deep, {TIMED}",
    ("decoder", "weighted"): f"decoder: {{weighted: {{weights: [3, 2, 1]}}}}, {DIRECT}, {FLOW}",
    ("decoder", "stacked"): f"decoder: {{stacked: {{decoders: [count, first-spike]}}}}, {DIRECT}, {FLOW}",
    ("rule", "time-coded"): f"encoder: spike-times, neuron: fast-and-deep, {TIMED}",
    ("rule", "tssl-bp"): f"neuron: {{lif: {{tau: 5e-3, synapse: {{tau: 3e-3}}}}}}, {DIRECT}, {FLOW}",
    ("rule", "antlr"): f"neuron: {{lif: {{synapse: {{tau: 3e-3}}}}}}, {DIRECT}, {FLOW}",
    ("rule", "event-driven-bp"): f"neuron: {{renewal: {{threshold: 0.1}}}}, {DIRECT}, {FLOW}",
    ("rule", "qcfs"): f"neuron: primed-if, {DIRECT}, {FLOW}, decoder: mean-potential",
    ("rule", "robust-conversion"): f"neuron: if, {DIRECT}, {FLOW}, decoder: mean-potential",
    ("rule", "rueckauer"): f"neuron: primed-if, {DIRECT}, {FLOW}, decoder: mean-potential",
    **{
        ("rule", name): f"neuron: if, {DIRECT}, {FLOW}, decoder: mean-potential"
        for name in ("cao", "diehl-model", "diehl-data", "spike-norm", "rate-norm")
    },
    **{
        ("decoder", name): f"decoder: {{{name}: {{decoder: count}}}}, {DIRECT}, {FLOW}"
        for name in ("voting", "membrane-ties", "fixed-exit", "confidence-exit", "margin-exit")
    },
    ("decoder", "first-spike-exit"): (
        f"decoder: {{first-spike-exit: {{decoder: first-spike}}}}, {DIRECT}, {FLOW}"
    ),
}
LOSSES = {
    "deep-supervision": "{deep-supervision: {decoder: count}}",
    **{name: f"{{{name}: {{gamma: 1.0}}}}" for name in ("relative-targets", "time-margin")},
}
GIVEN = {"as-saved"}  # rules that train nothing and need a saved model: unit/test_given.py
MEMBERS = [(axis, name) for axis, (kind, _) in AXES.items() for name in sorted({*PARTS[kind]} - GIVEN)]
DEEP = {"vgg9", "vgg11", "vgg16", "resnet18", "resnet19", "sew-resnet"}


def study(text):
    return study_of(parse(f"name: one\ndata: digits\nmodels:\n  - {{{text}}}\n", "study.yaml"))


def tiny(encoder, side=4, count=6):
    """A data set of two classes that the code takes."""
    images = Key.of(0).uniform((count, 1, side, side))
    if hasattr(encoder, "example_shape"):
        shape = encoder.example_shape((1, side, side))
        whole = getattr(encoder, "events", False)
        images = (4 * Key.of(1).uniform((count, *shape))).floor() / (1 if whole else 4)
    part = Split(images, torch.arange(count) % 2, torch.arange(count))
    return Dataset("tiny", part, part, part, ("a", "b"), "d", "made here")


def made(text, side=4):
    one = study(text)
    (candidate,) = one.models
    data = tiny(candidate.encoder, side)
    return candidate, model_spec(one, data, candidate).build(Key.of(2)), data


def test_no_member_that_needs_more_than_its_name_is_written_here_in_vain():
    assert BLOCKS.keys() <= set(MEMBERS)
    assert LOSSES.keys() <= PARTS[Loss].keys()


@pytest.mark.parametrize(("axis", "name"), MEMBERS, ids=lambda value: value)
def test_every_member_named_in_a_study_makes_a_model_that_answers(axis, name):
    rest = (line for line in (DIRECT, FLOW) if not line.startswith(f"{axis}:"))
    text = BLOCKS.get((axis, name), ", ".join((f"{axis}: {name}", *rest)))
    if not any(part.startswith(f"{axis}:") for part in text.split(", ")):  # a rule
        text += f", {axis}: {name}"
    candidate, model, data = made(text, side=32 if name in DEEP else 4)
    assert type(getattr(candidate, axis)) is PARTS[AXES[axis][0]][name]
    images = data.test.images[:2]
    logits = model.eval()(images, Key.of(3))
    assert logits.shape == (2, 2)
    assert logits.isfinite().all()


ANNS = {
    "cao",
    "diehl-model",
    "diehl-data",
    "rueckauer",
    "spike-norm",
    "rate-norm",
    "qcfs",
    "t2fsnn-conversion",
}


@pytest.mark.parametrize("name", sorted({*PARTS[Rule]} - GIVEN))
def test_every_rule_named_in_a_study_learns(name):
    short = "{epochs: 1, batch_size: 3, lr: 0.01}"
    options = f"{{ann: {{bptt: {short}}}}}" if (inner := name in ANNS) else short
    if name == "robust-conversion":
        conversion = f"{{adversarial: {{of: {{spike-norm: {{ann: {{bptt: {short}}}}}}}}}}}"
        options = f"{{conversion: {conversion}, tuning: {{bptt: {short}}}}}"
    if issubclass(PARTS[Rule][name], Defended):
        options = f"{{of: {{bptt: {short}}}}}"
    block = BLOCKS.get(("rule", name), f"{DIRECT}, {FLOW}")
    candidate, model, data = made(f"{block}, rule: {{{name}: {options}}}")
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    history = candidate.rule.train(model, data, Key.of(4))
    assert len(history.epochs) >= 1 + inner
    assert any(not torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", sorted(PARTS[Loss]))
def test_every_loss_named_in_a_study_is_learned(name):
    timed = name in ("relative-targets", "time-margin")
    rest = f"encoder: spike-times, neuron: fast-and-deep, {TIMED}" if timed else f"{DIRECT}, {FLOW}"
    loss = LOSSES.get(name, name)
    rule = "time-coded" if timed else "bptt"
    candidate, model, data = made(f"{rest}, rule: {{{rule}: {{epochs: 1, batch_size: 3, loss: {loss}}}}}")
    assert type(candidate.rule.loss) is PARTS[Loss][name]
    candidate.rule.train(model, data, Key.of(4))


@pytest.mark.parametrize("name", sorted(PARTS[Probe]))
def test_every_probe_can_be_named_in_a_study(name):
    text = f"name: one\ndata: digits\nmodels: [{{encoder: latency}}]\nprobes: [{name}]\n"
    (probe,) = study_of(parse(text, "study.yaml")).probes
    assert type(probe) is PARTS[Probe][name]


@pytest.mark.parametrize("name", sorted(PARTS[DatasetSpec]))
def test_every_data_set_can_be_named_in_a_study(name):
    text = f"name: one\ndata: {name}\nmodels: [{{encoder: latency}}]\n"
    assert type(study_of(parse(text, "study.yaml")).data) is PARTS[DatasetSpec][name]


@pytest.mark.parametrize("name", sorted(PARTS[Reset]))
def test_every_reset_can_be_named_in_a_study(name):
    (candidate,) = study(f"encoder: latency, neuron: {{lif: {{reset: {name}}}}}").models
    assert type(candidate.neuron.reset) is PARTS[Reset][name]


def test_every_table_of_the_catalogue_can_be_listed():
    assert sorted(map(id, KINDS.values())) == sorted(map(id, PARTS))
    assert set(LISTED) == {*KINDS, "studies"}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_list_names_every_member_with_one_sentence(kind):
    listed = members(kind)
    assert listed.keys() == PARTS[KINDS[kind]].keys()
    assert all(sentence.endswith(".") for sentence in listed.values())


@pytest.mark.parametrize("kind", ["encoders", "decoders", "neurons", "surrogates", "losses", "probes"])
def test_what_computes_something_gives_its_equation_and_where_it_is_from(kind):
    for name, part in PARTS[KINDS[kind]].items():
        assert ".. math::" in part.__doc__, name
        assert "Source:" in part.__doc__, name
        options = dataclasses.fields(part)
        assert "Args:" in part.__doc__ or not options, name
        if kind in ("encoders", "decoders", "probes"):
            assert "Shapes:" in part.__doc__, name


@pytest.mark.parametrize("kind", ["networks", "rules", "gradients", "attacks", "certificates", "datasets"])
def test_every_member_of_the_catalogue_names_its_source(kind):
    ours = {"coded"}  # made of other data and a code, which say it themselves
    assert all("Source:" in part.__doc__ for name, part in PARTS[KINDS[kind]].items() if name not in ours)

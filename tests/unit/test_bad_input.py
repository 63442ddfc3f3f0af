"""Bad input is refused with a message, in Python and on the command line, and finished cells are kept."""

import json
import pickle
import struct
from contextlib import suppress

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.attacks.made_of.composite import Ensemble
from spikeproof.attacks.made_of.nested import Carried, Nested
from spikeproof.auditing.assess import assess
from spikeproof.command.cli import cli
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite, evaluate_suite
from spikeproof.experiments.read.results import records
from spikeproof.experiments.study.cells import cells_of, model_spec
from spikeproof.experiments.study.documents import parse
from spikeproof.experiments.study.files.reader import study_of

KEY, THREAT = sp.Key.of(0), sp.Linf(0.1)
X = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3


def linear(images, key=None):
    return images.flatten(1)[:, :3]


def broken(images, key=None):
    raise ZeroDivisionError("out of luck")


def sometimes(images, key=None):
    logits = linear(images)
    return torch.where(logits[:, :1] > 0.5, torch.nan, logits)


FOREIGN = {
    "NaN": (lambda images, key=None: linear(images) * torch.nan, "NaN on 12 of 12"),
    "NaN at times": (sometimes, "NaN on [1-9]"),
    "two logits": (lambda images, key=None: linear(images)[:, :2], "Labels below 2"),
    "one number": (lambda images, key=None: linear(images).sum(), r"one row of logits per image"),
    "a row too few": (lambda images, key=None: linear(images)[:-1], r"one row of logits per image"),
    "raises": (broken, "ZeroDivisionError: out of luck"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_callable_that_answers_no_logits_is_refused_with_what_came(name):
    model, text = FOREIGN[name]
    with pytest.raises(InputError, match=text):
        sp.evaluate_clean(model, X, Y, KEY)
    clean = sp.evaluate_clean(linear, X, Y, KEY)
    if name != "NaN at times":  # an answer that is no number under attack is an error of the model
        attack, seen = sp.PGD(steps=2)(THREAT), 0.0
        with suppress(InputError, ZeroDivisionError):
            seen = sp.evaluate_attack(model, attack, THREAT, X, Y, clean, KEY).metrics()["robust_accuracy"]
        assert seen == 0
    verdict = assess(model, [sp.FGSM()], [THREAT], X, Y, KEY, classes=3)[0].verdict
    assert verdict.verdict == "withheld"
    assert verdict.findings[0].check == "answers are no logits"


def test_probabilities_are_measured_and_doubted():
    soft = assess(
        lambda images, key=None: linear(images).softmax(1), [sp.FGSM()], [THREAT], X, Y, KEY, classes=3
    )[0]
    assert soft.verdict.verdict == "doubtful"
    assert "probabilities instead of logits" in [finding.check for finding in soft.verdict.findings]


def test_evaluations_without_examples_and_unknown_suites_are_refused():
    clean = sp.evaluate_clean(linear, X, Y, KEY)
    with pytest.raises(InputError, match="at least one example"):
        sp.evaluate_clean(linear, X[:0], Y[:0], KEY)
    with pytest.raises(InputError, match="at least one example"):
        sp.evaluate_attack(linear, sp.FGSM()(THREAT), THREAT, X[:0], Y[:0], clean, KEY)
    with pytest.raises(InputError, match="Choose one of 'extreme', 'quick', 'standard'"):
        Suite(level="fast")
    with pytest.raises(InputError, match="Did you mean 'standard'"):
        evaluate_suite(linear, "standart", THREAT, X, Y, clean, KEY)


def call(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    place = tmp_path_factory.mktemp("saved")
    spec = sp.ModelSpec(sp.Direct(2), sp.MLP((6,)), sp.LIF(), sp.ATan(), sp.MeanPotential(), (1, 8, 8), 10)
    sp.save(spec.build(KEY).eval(), place)
    return place


def nonsense(place):
    (place / "model.json").write_text('{"format": 1, "model": [')


def deep(place):
    (place / "model.json").write_text("[" * 100_000)


def huge(place):
    (place / "model.json").write_text(" " * 100_000)


def unknown(place):
    document = json.loads((place / "model.json").read_text())
    document["model"]["neuron"] = {"name": "os.system"}
    (place / "model.json").write_text(json.dumps(document))


def enormous(place):
    document = json.loads((place / "model.json").read_text())
    document["model"]["network"]["hidden"] = [10**15]
    (place / "model.json").write_text(json.dumps(document))


def missing(place):
    (place / "weights.safetensors").unlink()


def no_description(place):
    (place / "model.json").unlink()


def pickled(place):
    (place / "weights.safetensors").write_bytes(pickle.dumps({"weight": 1}))


def cut(place):
    content = (place / "weights.safetensors").read_bytes()
    (place / "weights.safetensors").write_bytes(content[: len(content) // 2])


def changed(place):
    content = bytearray((place / "weights.safetensors").read_bytes())
    content[-1] ^= 255
    (place / "weights.safetensors").write_bytes(bytes(content))


def no_numbers(place):
    model = sp.load(place)
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    sp.save(model, place)


DAMAGE = {
    nonsense: "expected the JSON description",
    deep: "expected",
    huge: "at most",
    unknown: "a name of kind Neuron",
    enormous: "expected",
    missing: "No such file",
    no_description: "No such file",
    pickled: "looks like a pickle",
    cut: "safetensors",
    changed: "their SHA-256 digests differ",
    no_numbers: "NaN in",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", ["evaluate", "audit"])
def test_a_damaged_or_hostile_model_is_one_sentence(saved, tmp_path, command, damage):
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    damage(tmp_path)
    shown = call(command, tmp_path, "--suite", "quick", "--dataset", "digits", "--examples", 10)
    assert shown.exit_code == 2, shown.output
    assert "Traceback" not in shown.output
    assert isinstance(shown.exception, SystemExit)
    assert shown.output.count("\n") <= 3
    assert DAMAGE[damage] in shown.output


def test_models_and_data_that_do_not_fit_are_one_sentence(saved, tmp_path):
    few = sp.ModelSpec(sp.Direct(2), sp.MLP((6,)), sp.LIF(), sp.ATan(), sp.Count(), (1, 8, 8), 3)
    sp.save(few.build(KEY).eval(), tmp_path / "few")
    for place, options, text in (
        (tmp_path / "few", ("--dataset", "digits"), "10 classes of the data: got one for 3"),
        (tmp_path / "nowhere", (), "does not exist"),
        (saved, (), "--dataset"),
        (saved, ("--dataset", "digits", "--examples", "0"), "--examples"),
    ):
        shown = call("evaluate", place, "--suite", "quick", *options)
        assert (shown.exit_code, text in shown.output, "Traceback" in shown.output) == (2, True, False)


def idx(content, *shape):
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + content


def test_an_empty_data_set_is_one_sentence(saved, tmp_path):
    folder = tmp_path / "fashion-mnist"
    folder.mkdir()
    for part in ("train", "t10k"):
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(b"", 0, 28, 28))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(b"", 0))
    study = tmp_path / "study.yaml"
    study.write_text(STUDY.replace("digits", "fashion-mnist"))
    for arguments in (
        ("run", study, "--out", tmp_path / "out", "--data", tmp_path),
        ("evaluate", saved, "--dataset", "fashion-mnist", "--data", tmp_path),
    ):
        shown = call(*arguments)
        assert shown.exit_code == 2, shown.output
        assert "Traceback" not in shown.output


STUDY = """\
name: mixed
data: digits
models:
  - encoder: {direct: {steps: 2}}
    network: {mlp: {hidden: [8]}}
    decoder: mean-potential
    rule: [{bptt: {epochs: 1}}, {bptt: {epochs: 1, lr: 1.0e+30}}]
attacks: [fgsm, {noise: {draws: 2}}]
epsilons: [0.1]
examples: 20
"""


def test_what_a_diverged_model_cannot_tell_does_not_touch_the_others(tmp_path):
    """One of two trainings is stopped at NaN and failed by name; the other's numbers are there."""
    (tmp_path / "study.yaml").write_text(STUDY)
    shown = call("run", tmp_path / "study.yaml", "--out", tmp_path / "out", "--workers", 1)
    assert shown.exit_code == 1, shown.output
    assert "finite loss and finite weights" in shown.output
    assert "Traceback" not in shown.output
    rows = records(tmp_path / "out")
    assert {row["attack"] for row in rows} == {"fgsm", "noise", "worst-case"}
    assert len({row["train_cell"] for row in rows}) == 1
    status = call("status", tmp_path / "out").output
    assert status.count("finite loss and finite weights") == 1
    assert "clean    1 of 2" in status
    audit = call("audit", tmp_path / "out", "--workers", 1, "--rounds", 0)
    assert audit.exit_code == 1
    assert "finite loss and finite weights" in audit.output
    assert rows[-1]["verdict"] in audit.output
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "The study is not complete" in report


@pytest.mark.parametrize(
    ("model", "x", "y", "text"),
    [
        (lambda images, key=None: linear(images).long(), X, Y, r"floating point: got torch\.int64"),
        (lambda images, key=None: linear(images).cfloat(), X, Y, r"floating point: got torch\.complex64"),
        (linear, X, Y.float(), r"Labels are whole numbers: got torch\.float32"),
        (linear, X.numpy(), Y, "images must be a PyTorch tensor: got ndarray"),
        (linear, X, Y.tolist(), "labels must be a PyTorch tensor: got list"),
    ],
)
def test_tensors_of_another_kind_are_refused(model, x, y, text):
    with pytest.raises(InputError, match=text):
        sp.evaluate_clean(model, x, y, KEY)


def test_a_masked_class_is_no_error_and_several_at_plus_infinity_tie():
    """The decision is that of the comparison, whatever is infinite; what is no number is refused."""

    def answers(*others):
        return lambda images: torch.cat([linear(images), torch.tensor(others).expand(len(images), -1)], 1)

    labels = linear(X).argmax(1)
    assert sp.evaluate_clean(answers(-torch.inf), X, labels, KEY).right.min() == 1
    assert sp.evaluate_clean(answers(torch.inf), X, labels, KEY).right.max() == 0
    tied = sp.evaluate_clean(answers(torch.inf, torch.inf), X, labels, KEY)
    assert tied.metrics()["tie_share"] == 1
    with pytest.raises(InputError, match="NaN on"):
        sp.evaluate_clean(answers(torch.nan), X, labels, KEY)


ATTACK = sp.PGD(steps=2)(sp.Linf(0.1))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: sp.audit(linear, X.numpy(), Y, sp.Linf(0.1)), "images must be a PyTorch tensor"),
        (lambda: sp.audit(linear, X, Y, 0.1), "Expected a threat"),
        (lambda: sp.audit(linear, X, Y, sp.Linf), "Expected a threat"),
        (lambda: sp.audit(linear, X, Y, sp.PGD()), "Expected a threat"),
        (lambda: sp.audit(linear, X, Y, sp.Linf(0.1), key=0), r"Expected a key.*Key\.of\(0\)"),
        (lambda: sp.audit(linear, X, Y, sp.Linf(0.1), sp.PGD()), "Expected a suite"),
        (lambda: sp.evaluate_clean(linear, X, Y, None), "Expected a key"),
        (lambda: sp.evaluate_attack(linear, sp.PGD(), 0.1, X, Y), "Expected a threat"),
        (lambda: sp.evaluate_attack(linear, sp.PGD, sp.Linf(0.1), X, Y), "Expected an attack or a recipe"),
        (
            lambda: sp.evaluate_attack(linear, sp.PGD(), sp.Linf(0.1), X, Y.numpy()),
            "labels must be a PyTorch",
        ),
        (lambda: sp.PGD()(linear, X, Y, KEY), "PGD is a recipe"),
        (lambda: sp.PGD()(0.1), "Expected a threat"),
        (lambda: sp.PGD()(), "PGD is a recipe"),
        (lambda: sp.WorstOf(attacks=(ATTACK,))(sp.Linf(0.1)), "called as attack"),
        (lambda: Ensemble((sp.PGD(),))(linear, X, Y, KEY), "PGD is a recipe"),
        (lambda: Nested(sp.PGD(), Carried(Y, X))(linear, X, Y, KEY.for_rows(Y)), "PGD is a recipe"),
        (lambda: ATTACK(linear, X, Y), "missing a required argument: 'key'"),
        (lambda: ATTACK(linear, X, Y, None), "Expected a key"),
        (lambda: ATTACK(linear, X.numpy(), Y.numpy(), KEY), "images must be a PyTorch tensor"),
        (lambda: sp.DeepFool()(sp.L2(1.0))(linear, X, Y.tolist(), KEY), "labels must be a PyTorch tensor"),
        (lambda: sp.AsFoolbox(sp.PGD())(Bounded(), X, Y, epsilons=[]), "epsilons holds at least one"),
        (lambda: sp.AsTorchattacks(linear, sp.PGD(), sp.Linf(0.1))(X.numpy(), Y), "images must be a PyTorch"),
        (
            lambda: sp.strongest(linear, [sp.PGD()], sp.Linf(0.1), X.numpy(), Y, KEY),
            "images must be a PyTorch",
        ),
    ],
)
def test_arguments_of_another_kind_are_refused_by_name(call, text):
    with pytest.raises(InputError, match=text):
        call()


class Bounded:
    """A model in the call of Foolbox."""

    bounds = (0, 1)

    def __call__(self, images):
        return linear(images)


RULES = [
    ("{fptt: {parts: 9}}", "count", "", "a time step for each of its 9 parts"),
    ("time-coded", "count", "", "a network of spike times"),
    ("{cao: {ann: fptt}}", "count", "", "integrate-and-fire neurons"),
    ("cao", "{voting: {decoder: count, neurons: 2}}", "", "one output per class"),
    ("diehl-model", "count", "normalise: {mean: [0.1], std: [0.3]}\n", "without normalisation"),
    ("{bptt: {loss: {deep-supervision: {decoder: count, weights: [1, 2]}}}}", "count", "", "each of 8 steps"),
    ("{bptt: {loss: {deep-supervision: {decoder: {voting: {decoder: count, neurons: 3}}}}}}", "count", "",
     "one output per class"),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "decoder", "rest", "text"), RULES)
def test_a_rule_that_cannot_train_a_model_is_refused_before_training_with_its_line(rule, decoder, rest, text):
    written = f"name: x\ndata: digits\nmodels:\n- encoder: direct\n  neuron: if\n  decoder: {decoder}\n"
    study = study_of(parse(f"{written}  rule: {rule}\n{rest}", "study.yaml"))
    data = study.data.load(None)
    with pytest.raises(InputError, match=f"study.yaml:7: .*{text}") as planned:
        cells_of(study, data)
    with pytest.raises(InputError) as trained:  # the same words as from a direct call
        study.models[0].rule.train(model_spec(study, data, study.models[0]).build(KEY), data, KEY)
    assert trained.value.expected in planned.value.expected


@pytest.mark.parametrize("rule", ["event-driven-bp", "cao"])
def test_batch_normalisation_is_refused_before_training(rule):
    text = "name: x\ndata: digits\nmodels:\n- encoder: direct\n  network: {convnet: {batch_norm: true}}\n"
    neuron = "renewal" if rule == "event-driven-bp" else "if"
    study = study_of(parse(f"{text}  neuron: {neuron}\n  rule: {rule}\n", "study.yaml"))
    with pytest.raises(InputError, match=r"study.yaml:7: .*batch normalisation"):
        cells_of(study, study.data.load(None))

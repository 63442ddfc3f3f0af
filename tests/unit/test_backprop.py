import json
import math
from dataclasses import replace

import pytest
import torch

from spikeproof.datasets import Dataset, Split
from spikeproof.decoders import Count, FirstSpike, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, Latency
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.learning.checkpoints import Training
from spikeproof.learning.rule import EpochReport
from spikeproof.losses import CrossEntropy, Loss
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.neurons import IF, LIF, ReLU
from spikeproof.surrogates import ATan


def part(count, seed, classes=2):
    """Bright upper or lower half, in noise: easy, and different for every seed."""
    key = Key.of(seed)
    labels = torch.randint(classes, (count,), generator=key.fold("y").generator())
    images = 0.3 * key.uniform((count, 1, 4, 4))
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, label * 4 // classes : (label + 1) * 4 // classes] += 0.6
    return Split(images, labels, torch.arange(count) + 1000 * seed)


def data_of(train=50, validation=20, sha256="d1"):
    return Dataset(
        "halves", part(train, 1), part(validation, 2), part(10, 3), ("up", "down"), sha256, "made here"
    )


SPEC = ModelSpec(Bernoulli(4), MLP((12,)), LIF(), ATan(), Count(), (1, 4, 4), 2)
RULE = BPTT(epochs=4, batch_size=16, lr=0.01)


def fresh(spec=SPEC, seed=0):
    return spec.build(Key.of(seed))


def equal(a, b):
    return all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())


class KilledError(Exception):
    pass


def kill_after(epoch):
    def on_epoch(report):
        if report.epoch == epoch:
            raise KilledError

    return on_epoch


def interrupted(path, epoch=2, model=None, rule=RULE):
    model = model or fresh()
    with pytest.raises(KilledError):
        rule.train(model, data_of(), Key.of(7), checkpoint=path, on_epoch=kill_after(epoch))
    return model


@pytest.mark.parametrize(
    "spec",
    [
        SPEC,
        replace(SPEC, encoder=Latency(4), decoder=FirstSpike()),
        replace(SPEC, encoder=Direct(3), network=ConvNet((4,)), neuron=IF(), decoder=MeanPotential()),
        replace(SPEC, encoder=Direct(1), neuron=ReLU(), decoder=MeanPotential()),
    ],
    ids=repr,
)
def test_an_easy_problem_is_learned(spec):
    model = fresh(spec)
    history = replace(RULE, epochs=8, lr=0.02).train(model, data_of(200, 50), Key.of(0))
    assert history.validation_accuracy >= 0.95
    assert history.epochs[-1].loss < history.epochs[0].loss / 2


@pytest.mark.parametrize("network", [MLP((12,)), ConvNet((4,))], ids=repr)
def test_a_training_killed_after_two_epochs_goes_on_to_the_same_weights_bit_for_bit(tmp_path, network):
    path, spec = tmp_path / "c.safetensors", replace(SPEC, network=network)
    whole = fresh(spec)
    history = RULE.train(whole, data_of(), Key.of(7))
    interrupted(path, 2, fresh(spec))
    resumed, epochs = fresh(spec), []
    again = RULE.train(resumed, data_of(), Key.of(7), checkpoint=path, on_epoch=epochs.append)
    assert [report.epoch for report in epochs] == [3, 4]
    assert again == history
    assert equal(resumed, whole)


def test_a_finished_training_is_taken_from_its_checkpoint(tmp_path):
    path, first, second = tmp_path / "c", fresh(), fresh()
    history = RULE.train(first, data_of(), Key.of(7), checkpoint=path)
    batches = []
    again = RULE.train(
        second, data_of(), Key.of(7), checkpoint=path, on_batch=lambda *done: batches.append(done)
    )
    assert (again, batches) == (history, [])
    assert equal(first, second)
    assert not second.training


@pytest.mark.parametrize(
    "harm",
    [
        lambda content: content[:-9],
        lambda content: content[:4],
        lambda content: b"",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: b"\x80\x04\x95" + content,
        lambda content: content.replace(b'\\"epoch\\":1', b'\\"epoch\\":9'),
        lambda content: content.replace(b"reports", b"rapports"),
    ],
    ids=["cut", "stub", "empty", "flipped bit", "pickle", "other note", "other key"],
)
def test_a_damaged_checkpoint_costs_time_and_changes_nothing(tmp_path, harm):
    path = tmp_path / "c"
    interrupted(path)
    content = path.read_bytes()
    path.write_bytes(harm(content))
    assert path.read_bytes() != content
    whole, model = fresh(), fresh()
    history = RULE.train(whole, data_of(), Key.of(7))
    with pytest.warns(UserWarning, match="is damaged"):
        again = RULE.train(model, data_of(), Key.of(7), checkpoint=path)
    assert again == history
    assert equal(model, whole)


@pytest.mark.parametrize(
    "other",
    [
        {"rule": replace(RULE, epochs=5)},
        {"rule": replace(RULE, loss=CrossEntropy(2.0))},
        {"model": lambda: fresh(seed=1)},
        {"model": lambda: fresh(replace(SPEC, surrogate=ATan(3.0)))},
        {"data": data_of(sha256="d2")},
        {"data": data_of(train=49)},
        {"key": Key.of(8)},
    ],
    ids=["epochs", "loss", "weights", "surrogate", "digest", "size", "key"],
)
def test_a_checkpoint_of_another_training_is_refused_and_kept(tmp_path, other):
    path = tmp_path / "c"
    interrupted(path)
    content = path.read_bytes()
    rule, model = other.get("rule", RULE), other.get("model", fresh)()
    with pytest.raises(InputError, match="another training"):
        rule.train(model, other.get("data", data_of()), other.get("key", Key.of(7)), checkpoint=path)
    assert path.read_bytes() == content


def test_a_checkpoint_holds_no_pickle_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "deep" / "c"
    interrupted(path)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert {name.split(".")[0] for name in header} == {"__metadata__", "model", "optimiser"}
    assert [file.name for file in path.parent.iterdir()] == ["c"]


def test_an_unwritable_checkpoint_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="written to"):
        RULE.train(fresh(), data_of(), Key.of(0), checkpoint=tmp_path / "file" / "c")


def test_a_killed_write_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "c"
    interrupted(path, 1)
    content = path.read_bytes()

    def killed(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    model = fresh()
    training = Training("x", model, torch.optim.AdamW(model.parameters()))
    with pytest.raises(KeyboardInterrupt):
        training.save(path)
    assert path.read_bytes() == content


def test_reports_are_equal_without_their_seconds():
    assert EpochReport(1, 0.5, 0.9, 1.0) == EpochReport(1, 0.5, 0.9, 2.0)
    assert EpochReport(1, 0.5, 0.9, 1.0) != EpochReport(1, 0.5, 0.8, 1.0)


@pytest.mark.parametrize(
    ("count", "size", "batches"), [(33, 16, 2), (34, 16, 3), (32, 16, 2), (5, 16, 1), (3, 1, 3), (2, 16, 1)]
)
def test_only_a_last_batch_of_one_is_left_out(count, size, batches):
    seen, done = [], []

    def perturb(model, x, y, key):
        seen.append(len(x))
        return x

    rule = BPTT(epochs=2, batch_size=size)
    rule.train(
        fresh(), data_of(count), Key.of(0), perturb=perturb, on_batch=lambda *counts: done.append(counts)
    )
    assert seen == 2 * [min(size, count - i * size) for i in range(batches)]
    assert done == [(i + 1, 2 * batches) for i in range(2 * batches)]


def test_every_example_is_seen_once_an_epoch_in_a_new_order():
    order, data = [], data_of(32)
    rows = {tuple(image.flatten().tolist()): i for i, image in enumerate(data.train.images)}

    def perturb(model, x, y, key):
        order.extend(rows[tuple(image.flatten().tolist())] for image in x)
        return x

    replace(RULE, epochs=2).train(fresh(), data, Key.of(0), perturb=perturb)
    assert sorted(order[:32]) == sorted(order[32:]) == list(range(32))
    assert order[:32] != order[32:] != list(range(32))


def test_perturbed_images_are_what_is_learned_and_the_attack_sees_a_model_in_eval_mode():
    modes, keys = [], []

    def invert(model, x, y, key):
        modes.append((model.training, torch.is_grad_enabled()))
        keys.append(key)
        return 1 - x

    data = data_of(100)
    plain, perturbed = fresh(), fresh()
    inverted = replace(data, train=replace(data.train, images=1 - data.train.images))
    RULE.train(plain, inverted, Key.of(0))
    RULE.train(perturbed, data, Key.of(0), perturb=invert)
    assert equal(plain, perturbed)
    assert set(modes) == {(False, True)}
    assert len(set(keys)) == len(keys)


def test_the_learning_rate_falls_along_a_cosine(monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def spy(self, *args):
        rates.extend({group["lr"] for group in self.param_groups})
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    replace(RULE, epochs=2, batch_size=25).train(fresh(), data_of(50), Key.of(0))
    assert rates == pytest.approx([0.01 * 0.5 * (1 + math.cos(math.pi * i / 4)) for i in range(4)])


def test_weight_decay_leaves_biases_and_normalisation_alone():
    class Nothing(Loss):
        def __call__(self, outputs, logits, y):
            return 0 * outputs.sum((0, 2))

    model = fresh(replace(SPEC, network=ConvNet((4,))))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    BPTT(epochs=1, loss=Nothing(), weight_decay=0.5).train(model, data_of(), Key.of(0))
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) == (p.ndim <= 1), name


@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_gradients_are_clipped_only_where_asked(monkeypatch, clip_norm):
    norms, step = [], torch.optim.AdamW.step

    def spy(self, *args):
        grads = [p.grad.flatten() for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat(grads).norm().item())
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    replace(RULE, epochs=1, clip_norm=clip_norm, loss=CrossEntropy(0.1)).train(fresh(), data_of(), Key.of(0))
    assert (max(norms) <= 0.5001) == (clip_norm is not None)


class Diverging(Loss):
    def __call__(self, outputs, logits, y):
        return logits.sum(-1) * float("nan")


def test_a_training_that_is_no_longer_finite_says_so(tmp_path):
    rule = replace(RULE, loss=Diverging())
    with pytest.raises(InputError, match=r"finite.*epoch 1.*nan.*Lower lr=0\.01"):
        rule.train(fresh(), data_of(), Key.of(0), checkpoint=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_weights_that_are_no_longer_finite_are_noticed_in_the_last_epoch_too():
    class Exploding(Loss):
        def __call__(self, outputs, logits, y):
            return outputs.sum((0, 2)) * torch.finfo(torch.float32).max

    rule = BPTT(epochs=1, batch_size=64, loss=Exploding())
    with pytest.raises(InputError, match="finite"):
        rule.train(fresh(), data_of(), Key.of(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"weight_decay": -0.1},
        {"clip_norm": 0.0},
    ],
    ids=str,
)
def test_a_setting_out_of_range_is_refused_by_name(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(InputError, match=f"{name}.*{name}={value}"):
        BPTT(**wrong)


def test_data_of_other_classes_or_a_single_example_are_refused():
    data = data_of()
    with pytest.raises(InputError, match=r"3 classes.*model with 2.*classes=3"):
        RULE.train(fresh(), replace(data, classes=("a", "b", "c")), Key.of(0))
    with pytest.raises(InputError, match="at least two"):
        RULE.train(fresh(), data_of(1), Key.of(0))


def test_without_a_validation_part_everything_is_learned_and_nothing_validated():
    history = RULE.train(fresh(), data_of(20, 0), Key.of(0))
    assert len(history.epochs) == RULE.epochs
    assert history.validation_accuracy is None


def test_accuracy_counts_ties_as_errors_and_ignores_the_batch_size():
    silent = replace(SPEC, neuron=LIF(threshold=1e9))
    assert accuracy(fresh(silent), part(20, 2), Key.of(0), 8) == 0
    model = fresh()
    assert len({accuracy(model, part(40, 2), Key.of(0), size) for size in (1, 7, 40)}) == 1

"""Trainings that two processes of one machine share, through Lightning Fabric and gloo."""

import copy
import importlib.util
import json
import pickle
import threading
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.command.cli import cli
from spikeproof.datasets import Dataset, Split
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning import on_fabric
from spikeproof.learning.from_ann.activations import RateNorm
from spikeproof.learning.shared import ALONE, chosen_devices, using_devices

fabric = pytest.mark.skipif(
    importlib.util.find_spec("lightning_fabric") is None, reason="no Lightning Fabric"
)

NEAR = 1e-5
"""Largest difference of a weight after six steps, relative to the largest weight of its tensor."""

RULE = sp.BPTT(epochs=2, batch_size=16, lr=0.01)
KEY = Key.of(4)
TINY = """\
name: tiny
data: digits
models:
  - encoder: {direct: {steps: 2}}
    network: {mlp: {hidden: [8]}}
    rule: {bptt: {epochs: 1, batch_size: 512}}
attacks: []
examples: 10
"""


def data_of(train=34, validation=9):
    """Bright upper or lower halves; the last of three batches has too few images for two devices."""
    parts = []
    for count, name in ((train, "train"), (validation, "validation"), (4, "test")):
        labels = torch.arange(count) % 2
        images = 0.3 * Key.of(name).uniform((count, 1, 4, 4))
        for image, label in zip(images, labels.tolist(), strict=True):
            image[0, 2 * label : 2 * label + 2] += 0.6
        parts.append(Split(images, labels, torch.arange(count)))
    return Dataset("halves", *parts, ("up", "down"), "d1", "made here")


def fresh(network=sp.ConvNet((4,))):
    spec = sp.ModelSpec(sp.Direct(4), network, sp.LIF(), sp.ATan(2.0), sp.Count(), (1, 4, 4), 2)
    return spec.build(Key.of(0))


def trained(count, rule=RULE, **options):
    model = fresh()
    with using_devices(count) as shared:
        history = rule.train(model, data_of(), KEY, **options)
    return model, history, shared


@pytest.fixture(scope="module")
def two():
    return trained(2)


@fabric
def test_two_devices_take_the_steps_of_one_up_to_rounding(two):
    """With batch normalisation, whose statistics are those of the whole batch."""
    (model, history, shared), (alone, wanted, _) = two, trained(1)
    for name, value in alone.state_dict().items():
        found = model.state_dict()[name]
        assert (found - value).abs().max() <= NEAR * value.abs().max(), name
    pairs = list(zip(history.epochs, wanted.epochs, strict=True))
    assert all(abs(one.loss - other.loss) <= NEAR * other.loss for one, other in pairs)
    assert all(one.validation_accuracy == other.validation_accuracy for one, other in pairs)
    assert (shared.count, shared.precisions) == (2, ["float32"])
    assert chosen_devices().count == 1


class KilledError(Exception):
    pass


@fabric
def test_a_killed_training_resumes_with_the_same_devices_only(two, tmp_path):
    def kill(report):
        raise KilledError

    state = tmp_path / "state.safetensors"
    with pytest.raises(KilledError):
        trained(2, checkpoint=state, on_epoch=kill)
    assert not torch.distributed.is_initialized()
    with pytest.raises(InputError, match="which another training wrote"):
        trained(1, checkpoint=state)
    model, history, _ = trained(2, checkpoint=state)
    assert all(torch.equal(value, two[0].state_dict()[name]) for name, value in model.state_dict().items())
    assert history == two[1]


@fabric
def test_a_study_says_how_many_devices_shared_a_training(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    command = ["run", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out"), "--device", "cpu"]
    done = CliRunner().invoke(cli, [*command, "--devices", "2"])
    assert done.exit_code == 0, done.output
    cells = [path.parent for path in (tmp_path / "out").rglob("provenance.json")]
    for cell in cells:
        kind = json.loads((cell / "cell.json").read_text())["kind"]
        noted = json.loads((cell / "provenance.json").read_text())
        assert (noted.get("devices"), noted.get("precision")) == (
            (2, "float32") if kind == "train" else (None, None)
        )
    assert len(cells) >= 2


@pytest.mark.parametrize("more", [["--workers", "2"], ["--executor", "processes"]], ids=str)
def test_several_devices_belong_to_one_worker(more, tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    done = CliRunner().invoke(cli, ["run", str(tmp_path / "tiny.yaml"), "--devices", "2", *more])
    assert done.exit_code != 0
    assert "one worker of this machine" in done.output


def test_what_is_missing_for_several_devices_is_named(monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match="Lightning Fabric"):
            trained(2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match="handed to another process"):
        trained(2, perturb=lambda model, x, y, key: x)
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "device_count", lambda: 3)
        job = on_fabric.Job(RULE, fresh(), data_of(), KEY, None, ())
        with (
            pytest.raises(InputError, match="a machine with 3"),
            on_fabric.on_devices(4, torch.device("cuda"), job),
        ):
            pass
    with pytest.raises(InputError, match="at least one device"), using_devices(0):
        pass


class Unreadable:
    """A defence that cannot be read where it arrives."""

    def __reduce__(self):
        return int, ("no number",)


@pytest.mark.filterwarnings("ignore")  # of the process that ends
def test_a_process_that_does_not_begin_ends_the_training(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    job = on_fabric.Job(RULE, fresh(), data_of(), KEY, None, (Unreadable(),))
    with (
        pytest.raises(InputError, match="ended before the training"),
        on_fabric.on_devices(2, torch.device("cpu"), job),
    ):
        pass


def together(rank, count):
    found = on_fabric.Together.__new__(on_fabric.Together)
    found.rank, found.count = rank, count
    return found


@pytest.mark.parametrize("count", [2, 3, 5])
def test_devices_share_every_example_of_a_batch_once(count):
    for size in range(1, 23):
        x, y = torch.arange(float(size)), torch.arange(size)
        devices = [together(rank, count) for rank in range(count)]
        parts = [device.take(x, y, KEY) for device in devices]
        assert sum(device.share for device in devices) == pytest.approx(1)
        if size < 2 * count:  # too few, so that each device computes all of them
            assert all(torch.equal(part[0], x) and part[2] == KEY for part in parts)
            continue
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert all(torch.equal(part[0].long(), part[1]) for part in parts)
        assert min(len(part[1]) for part in parts) >= 2
        assert len({part[2].path for part in parts}) == count


class Sums:
    """Sums over threads that stand for devices."""

    def __init__(self, count):
        self.terms, self.barrier = [None] * count, threading.Barrier(count, timeout=60)

    def of(self, rank):
        def summed(mine):
            self.terms[rank] = mine.detach().clone()
            self.barrier.wait()
            total = sum(self.terms)
            self.barrier.wait()
            return total

        return summed


@pytest.mark.parametrize(("size", "count"), [(4, 2), (5, 2), (7, 3), (11, 4)])
def test_batch_normalisation_over_parts_of_different_sizes_has_the_gradient_of_the_whole_batch(size, count):
    torch.manual_seed(0)
    nn, x, y = torch.nn, torch.randn(size, 1, 4, 4), torch.arange(size) % 2
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)
    )
    nn.functional.cross_entropy(net(x), y).backward()
    sums, found = Sums(count), {}

    def go(rank):
        mine, device = copy.deepcopy(net), together(rank, count)
        mine.zero_grad()
        device.summed = sums.of(rank)
        part, labels, _ = device.take(x, y, KEY)
        with on_fabric.normalising(device, mine):
            nn.functional.cross_entropy(mine(part), labels).backward()
        found[rank] = [device.share * p.grad for p in mine.parameters()]

    threads = [threading.Thread(target=go, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for p, *parts in zip(net.parameters(), *found.values(), strict=True):
        assert (sum(parts) - p.grad).abs().max() <= NEAR * p.grad.abs().max()


def test_layers_that_keep_other_statistics_of_batches_are_refused():
    with pytest.raises(InputError, match="RateNorm"), on_fabric.normalising(together(0, 2), RateNorm()):
        pass


def test_one_device_changes_nothing():
    x, y = torch.rand(3, 2), torch.arange(3)
    found = ALONE.take(x, y, KEY)
    assert found[0] is x
    assert found[1] is y
    assert found[2] is KEY
    p = torch.nn.Parameter(torch.ones(2))
    ALONE.average([p])
    assert p.grad is None
    with using_devices(1) as shared:
        sp.BPTT(epochs=1, batch_size=16).train(fresh(sp.MLP((4,))), data_of(), KEY)
    assert not shared.precisions


def test_a_job_is_copied_on_its_way():
    """A tensor that is handed over by itself would share its memory, and both processes would change it."""
    job = on_fabric.Job(replace(RULE, epochs=1), fresh(), data_of(), KEY, None, ())
    copied = pickle.loads(pickle.dumps(job))
    assert copied.rule == job.rule
    for name, value in job.model.state_dict().items():
        assert torch.equal(copied.model.state_dict()[name], value)
        assert copied.model.state_dict()[name].data_ptr() != value.data_ptr()

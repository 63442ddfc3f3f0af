import hashlib
import json
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch

from spikeproof.catalogue.saved import dump_model, load, save
from spikeproof.decoders import Count, MeanPotential
from spikeproof.encoders import Direct, EarlyBurst, Latency, Reversed, SpikeGated
from spikeproof.errors import DamagedError, InputError
from spikeproof.interop.frameworks.wrap import wrap
from spikeproof.interop.graph_writer import to_nir
from spikeproof.keys import Key
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec, Normalise
from spikeproof.networks.recurrent import GRU, LSNN, LSTM
from spikeproof.networks.substitute import probed
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
    CuBaLIF,
    Mixture,
    Plastic,
    Recurrent,
    ReLU,
    ToZero,
)
from spikeproof.probes import Reversal
from spikeproof.surrogates import ATan, Gaussian
from spikeproof.tensorfiles import dump

SPECS = [
    ModelSpec(Latency(4), MLP((6,)), LIF(), ATan(), Count(), (1, 4, 4), 3),
    ModelSpec(
        Reversed(EarlyBurst(3, SpikeGated())),
        ConvNet((2, 3), (5,)),
        IF(0.5, ToZero(), True, PSP(2e-3, 5e-4)),
        Gaussian(0.1 + 0.2),
        Count(),
        (2, 4, 4),
        2,
        Normalise((0.1, 0.2), (0.3, 0.4)),
    ),
    ModelSpec(Direct(1), ConvNet((2,)), ReLU(), ATan(), MeanPotential(), (1, 4, 4), 3),
    ModelSpec(Direct(4), ConvNet((2,)), ALIF(learn=True), ATan(), MeanPotential(), (1, 4, 4), 3),
    *(
        ModelSpec(Direct(4), MLP((4,)), neuron, ATan(), MeanPotential(), (1, 4, 4), 3)
        for neuron in (
            *(PLIF(), AHP(), CuBaLIF(), SRM(), DLIF(steps=4), SNU(), FS(steps=4, learn=True)),
            *(Recurrent(Plastic(PLIF()), synapse=PSP()), Mixture(SNU(), ALIF())),
        )
    ),
    ModelSpec(Direct(4), LSNN((4,), adaptive=AHP()), LIF(), ATan(), Count(), (1, 4, 4), 3),
    ModelSpec(Direct(4), GRU((4,)), ReLU(), ATan(), MeanPotential(), (1, 4, 4), 3),
    ModelSpec(Direct(4), LSTM((4, 3)), ReLU(), ATan(), MeanPotential(), (1, 4, 4), 3),
]


def fresh(spec=SPECS[0]):
    return spec.build(Key.of(0)).eval()


@pytest.fixture
def saved(tmp_path):
    save(fresh(), tmp_path)
    return tmp_path


def rewrite(directory, change):
    path = directory / "model.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put_weights(directory, tensors):
    content = safetensors.torch.save(tensors)
    (directory / "weights.safetensors").write_bytes(content)
    rewrite(directory, lambda document: document.update(weights_sha256=hashlib.sha256(content).hexdigest()))


@pytest.mark.parametrize("spec", SPECS, ids=repr)
@pytest.mark.parametrize("name", ["", "model.json", "weights.safetensors"])
def test_a_saved_model_comes_back_with_the_same_parts_and_logits_by_any_of_its_paths(tmp_path, spec, name):
    model = fresh(spec)
    for buffer in model.buffers():
        buffer += 1
    save(model, tmp_path / "new" / "place")
    again = load(tmp_path / "new" / "place" / name)
    x = torch.rand(5, *spec.input_shape)
    assert again.spec == model.spec
    assert torch.equal(again(x), model(x))
    assert not any(module.training for module in again.modules())
    assert all(p.requires_grad for p in again.parameters())
    assert again.state_dict().keys() == model.state_dict().keys()


def test_a_model_of_another_framework_is_not_saved(tmp_path):
    model = wrap(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)).eval(), torch.rand(4, 1, 8, 8)
    )
    with pytest.raises(InputError, match="wrap it again"):
        save(model, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    for other in (to_nir, lambda model: probed(model, Reversal())):
        with pytest.raises(InputError, match="convert=True"):
            other(model)


def test_a_loaded_model_can_be_trained_and_attacked(saved):
    model, x = load(str(saved)), torch.rand(2, 1, 4, 4, requires_grad=True)
    torch.nn.functional.cross_entropy(model(x), torch.tensor([0, 1])).backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in model.parameters())


def test_the_files_are_plain_and_equal_models_give_equal_bytes(saved):
    assert sorted(path.name for path in saved.iterdir()) == ["model.json", "weights.safetensors"]
    document = json.loads((saved / "model.json").read_text())
    assert document["format"] == 1
    assert document["model"]["encoder"]["name"] == "latency"
    weights = (saved / "weights.safetensors").read_bytes()
    assert document["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert dump_model(fresh()) == {p.name: p.read_bytes() for p in saved.iterdir()} == dump_model(load(saved))


def test_loading_leaves_the_global_generator_alone(saved):
    state = torch.get_rng_state()
    load(saved)
    assert torch.equal(state, torch.get_rng_state())


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt", "alone.safetensors"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_place_of_the_weights_is_refused_and_not_opened(saved, monkeypatch, file, protocol):
    monkeypatch.chdir(saved)
    (saved / file).write_bytes(pickle.dumps(Bomb(), protocol))
    with pytest.raises(InputError, match="expected a safetensors file") as caught:
        load(saved / file)
    assert protocol == 0 or "looks like a pickle" in str(caught.value)
    assert not (saved / "exploded").exists()


def test_a_file_of_torch_save_is_named_as_what_it_is(saved):
    torch.save(fresh().state_dict(), saved / "weights.safetensors")
    with pytest.raises(InputError, match=r"zip archive.*pickle.*spikeproof\.save"):
        load(saved)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"short",
        b"\xff" * 64,
        (2**40).to_bytes(8, "little") + b"{}",
        (90_000_000).to_bytes(8, "little") + b"{" * 100,
        (2).to_bytes(8, "little") + b"[]",
        (50).to_bytes(8, "little") + b"{" * 50,
        (4000).to_bytes(8, "little") + b'{"a":' * 800,
        b"version https://git-lfs.github.com/spec/v1\n",
    ],
    ids=lambda content: repr(content[:12]),
)
def test_a_file_that_is_no_safetensors_is_refused(saved, content):
    (saved / "weights.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.safetensors: expected a safetensors file"):
        load(saved)


def test_every_truncation_of_the_weights_is_refused(saved):
    path = saved / "weights.safetensors"
    content = path.read_bytes()
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="expected a safetensors file"):
            load(saved)


def test_a_flipped_bit_in_the_weights_is_noticed(saved):
    path = saved / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"weights\.safetensors.*SHA-256"):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("network.layers.0.1.bias"),
            r"expected 'network.*bias' as torch.float32 \[6\]: got no",
        ),
        (lambda t: t.update(extra=torch.zeros(2)), r"expected no tensor 'extra': got 'extra' as"),
        (lambda t: t.update({"network.layers.0.1.bias": torch.zeros(7)}), r"\[6\]: got .*\[7\]"),
        (
            lambda t: t.update({"network.layers.0.1.bias": torch.zeros(6).double()}),
            r"float32 .*got .*float64",
        ),
    ],
    ids=["missing", "extra", "shape", "type"],
)
def test_weights_of_another_model_are_refused(saved, change, message):
    tensors = dict(fresh().state_dict())
    change(tensors)
    put_weights(saved, tensors)
    with pytest.raises(InputError, match=message):
        load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format=2), "reads format 1: got format 2. Install a newer"),
        (lambda d: d.pop("format"), "expected the JSON description"),
        (lambda d: d.pop("model"), "expected the JSON description"),
        (lambda d: d.pop("weights_sha256"), "expected the JSON description"),
        (lambda d: d.update(weights_sha256=3), "SHA-256"),
        (lambda d: d.update(model=[]), "options of 'ModelSpec'"),
        (lambda d: d["model"].update(encoder="latncy"), r"json\.encoder.*'latncy'.*Did you mean 'latency'"),
        (lambda d: d["model"].update(encoder={"name": "os.system"}), "expected a name of kind Encoder"),
        (lambda d: d["model"]["encoder"].update(setps=4), r"encoder\.setps.*'steps'"),
        (lambda d: d["model"]["encoder"].update(steps=0), "at least 1 time step"),
        (lambda d: d["model"]["encoder"].update(steps="4"), "whole number"),
        (lambda d: d["model"].update(input_shape=[1, 4]), r"input_shape.*\[1, 4\]"),
        (lambda d: d["model"].update(classes=1), "two classes"),
        (lambda d: d["model"]["network"].update(hidden=[10**12]), r"weights.*\[1000000000000\]"),
        (lambda d: d["model"]["network"].update(hidden=[10**30]), "model that can be built"),
    ],
    ids=range(15),
)
def test_a_saved_description_of_parts_that_build_no_model_is_refused(saved, change, message):
    rewrite(saved, change)
    with pytest.raises((InputError, DamagedError), match=message):
        load(saved)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\x80\x04\x95",
        b"\xff\xfe",
        b"[" * 60_000,
        b'{"format": ' + b"1" * 5000 + b"}",
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_description_that_is_no_json_object_is_refused(saved, text):
    (saved / "model.json").write_bytes(text)
    with pytest.raises(InputError, match=r"model\.json: "):
        load(saved)


def test_a_description_nested_too_deep_is_refused(saved):
    deep = '{"reversed": {"code": ' * 2500 + '"latency"' + "}}" * 2500
    text = (saved / "model.json").read_text()
    document = json.loads(text)
    document["model"]["encoder"] = "HERE"
    (saved / "model.json").write_text(json.dumps(document).replace('"HERE"', deep))
    with pytest.raises(InputError, match=r"model\.json"):
        load(saved)


def test_a_huge_description_is_not_read(saved):
    (saved / "model.json").write_bytes(b" " * 70_000 + (saved / "model.json").read_bytes())
    with pytest.raises(InputError, match="at most 65536 bytes"):
        load(saved)


@pytest.mark.parametrize("name", ["", "model.json", "weights.safetensors"])
def test_a_missing_model_is_reported_with_its_path(tmp_path, name):
    with pytest.raises(InputError, match=r"does not exist.*spikeproof\.save"):
        load(tmp_path / "nowhere" / name)


def test_a_missing_half_is_reported_with_its_path(saved):
    (saved / "model.json").rename(saved / "other.json")
    for path in (saved, saved / "weights.safetensors"):
        with pytest.raises(InputError, match=r"model\.json"):
            load(path)
    (saved / "other.json").rename(saved / "model.json")
    (saved / "weights.safetensors").unlink()
    for path in (saved, saved / "model.json"):
        with pytest.raises(InputError, match=r"weights\.safetensors"):
            load(path)


def test_an_unwritable_directory_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="written to"):
        save(fresh(), tmp_path / "file")


@dataclass(frozen=True)
class MyCode(Direct):
    """A user's own."""


def test_a_part_of_the_users_own_cannot_be_saved_and_the_message_says_so(tmp_path):
    model = fresh(replace(SPECS[0], encoder=MyCode(2)))
    with pytest.raises(InputError, match=r"Encoder are .*'latency'.*MyCode"):
        save(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_the_same_in_another_process(saved):
    code = (
        "import sys, torch; from spikeproof.catalogue.saved import load;"
        "print(load(sys.argv[1])(torch.linspace(0, 1, 32).view(2, 1, 4, 4)).tolist())"
    )
    run = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(fresh()(torch.linspace(0, 1, 32).view(2, 1, 4, 4)).tolist())


def test_tensors_that_share_memory_are_written_apart():
    shared = torch.arange(4.0)
    assert dump({"a": shared, "b": shared[:2]}) == dump({"a": shared.clone(), "b": shared[:2].clone()})

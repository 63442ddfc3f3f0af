"""Laws of errors that say something of the machine, and of those that say something of the model.

Where memory does not suffice or an accelerator fails, the error is handed on as it is, wherever a model was
asked, so that cells are computed in smaller batches or once more. No such error becomes a finding about the
model, a missing gradient, or advice on its input.
"""

import json

import pytest
import torch
from click.testing import CliRunner

import spikeproof as sp
from spikeproof.auditing.assess import assess
from spikeproof.auditing.signoff import audit
from spikeproof.catalogue.given import check_classes
from spikeproof.command.cli import cli
from spikeproof.errors import InputError, of_the_machine
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.experiments.run.queue.failures import transient
from spikeproof.keys import Key

NO_MEMORY = "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"
ERRORS = [
    RuntimeError(NO_MEMORY),
    torch.OutOfMemoryError("no more"),
    MemoryError(),
    RuntimeError("CUDA error: unspecified launch failure"),
]
THREAT = sp.Linf(0.1)
X, Y = Key.of(0).uniform((40, 1, 4, 4)), torch.arange(40) % 3


class Failing:
    """A linear function that fails at one of its calls, or at one of its backward passes."""

    def __init__(self, error, call, backward=False):
        self.error, self.call, self.backward, self.calls = error, call, backward, 0

    def fail(self):
        self.calls += 1
        if self.calls == self.call:
            raise self.error

    def __call__(self, x):
        if self.backward:
            x = x.clone()
            if x.requires_grad:
                x.register_hook(lambda grad: self.fail())
        else:
            self.fail()
        return x.flatten(1)[:, :3]


WAYS = {
    "clean": lambda model: evaluate_clean(model, X, Y),
    "attack": lambda model: evaluate_attack(model, sp.PGD(steps=2), THREAT, X, Y),
    "assess": lambda model: assess(model, [sp.PGD(steps=2)], [THREAT], X, Y, Key.of(0), classes=3),
    "classes": lambda model: check_classes(lambda x, key: model(x), (1, 4, 4), 3, "net.py:f"),
}


def calls_of(way, backward):
    counted = Failing(None, 0, backward)
    WAYS[way](counted)
    return counted.calls


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__ + str(e)[:9])
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_the_machine_is_handed_on_at_whatever_call_it_is_met(way, backward, error):
    assert of_the_machine(error)
    assert transient(error)
    many = calls_of(way, backward)
    for call in sorted({*range(1, min(many, 24) + 1), *range(1, many + 1, max(1, many // 12)), many} - {0}):
        failing = Failing(error, call, backward)
        with pytest.raises(type(error)) as met:
            WAYS[way](failing)
        assert str(met.value) == str(error), call


@pytest.mark.parametrize("call", [1, 2, 3, 4, 30])
def test_the_audit_hands_it_on_too(call):
    with pytest.raises(RuntimeError, match="can't allocate"):
        audit(Failing(RuntimeError(NO_MEMORY), call), X, Y, THREAT, suite="quick")


class Wrong(torch.nn.Module):
    """Raises an error within PyTorch, as a layer of another size does."""

    def forward(self, x):
        return torch.nn.functional.linear(x, torch.ones(3, 7))


def test_an_error_of_the_model_names_its_place_and_no_advice_that_is_wrong():
    def layers(x):
        return x.flatten(1) @ torch.ones(7, 3)

    with pytest.raises(InputError, match="the model's own, in line") as met:
        evaluate_clean(layers, X, Y)
    assert "mat1" in str(met.value)
    assert "Call it as" not in str(met.value)
    with pytest.raises(InputError, match=r"in line \d+ of test_machine_errors\.py"):
        evaluate_clean(torch.nn.Sequential(torch.nn.Flatten(), Wrong()).eval(), X, Y)
    with pytest.raises(InputError, match=r"weights are gone\. Mend the backward pass"):
        WAYS["attack"](Failing(RuntimeError("weights are gone"), 1, backward=True))


PROGRAM = """
import torch

def small(images):
    if len(images) == 128:  # the whole batches of the first try
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory")
    return images.flatten(1)[:, 20:30] - images.flatten(1)[:, 30:40]

def large():
    return lambda images: images.flatten(1)[:, 20:30] - images.flatten(1)[:, 30:40]

def make_model():
    return small
"""


def test_a_program_that_lacks_memory_is_measured_in_smaller_batches(tmp_path):
    (tmp_path / "net.py").write_text(PROGRAM)
    asked = ["--dataset", "digits", "--epsilon", "0.05", "--examples", "100", "--suite", "quick", "--json"]
    rows = []
    for name in ("make_model", "large"):
        words = ["evaluate", f"{tmp_path}/net.py:{name}", *asked, "--out", str(tmp_path / name)]
        done = CliRunner().invoke(cli, words)
        assert done.exit_code == 0, done.output
        rows.append([(r["attack"], r["robust_accuracy"], r["ci_low"]) for r in json.loads(done.stdout)])
    assert rows[0] == rows[1]
    done = CliRunner().invoke(cli, ["evaluate", f"{tmp_path}/net.py:make_model", *asked])
    assert done.exit_code == 2
    assert "memory does not suffice" in done.output
    assert "--out" in done.output

"""What an evaluation costs to the same verdict, here and elsewhere, and what each part of an audit costs.

    python benchmarks/evaluation_cost.py [--subject NAME] [--examples N] [--steps N] [--out FILE]

A network with direct coding is trained, and PGD attacks the same test images within five budgets: in
Torchattacks and in Foolbox on the same weights in SpikingJelly, in batches of 100; and here with written
loops, with compiled loops, and with compiled loops from the images of the smaller budget (`nested`).
Every image is judged by our model. Seconds are processor seconds on one thread, of all five budgets
together.

Written and compiled loops must leave the same images and verdicts to the bit, or the command ends with an
error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from in_frameworks import InSpikingJelly
from torch import Tensor

import spikeproof as sp
from spikeproof.auditing import diagnostics
from spikeproof.compiled import Loops, keeping_memory, using_loops
from spikeproof.datasets import Split
from spikeproof.evaluation.outcomes import Attacked
from spikeproof.evaluation.verdicts import evaluate_clean, evaluate_sweep
from spikeproof.networks.classifier import Classifier

EPSILONS = tuple(level / 255 for level in (2, 4, 8, 12, 16))
BATCH = 100
REACH = 2.5
"""Steps times step size, in budgets, of every PGD."""

COLUMNS = ("right", "x_adv")
"""What must be equal with written and compiled loops, for every example."""

PARTS = (
    "_failure",
    "_remembered",
    "_companions",
    "_randomness",
    "_silent_decided",
    "_unstable",
    "_gradients",
)
PARTS = (*PARTS, "_slopes", "_levels")
"""The functions of `spikeproof.auditing.diagnostics` that take what an audit knows of a model itself."""


@dataclass(frozen=True)
class Subject:
    """A model and its data: what is trained, on how many images and for how long."""

    data: Any
    network: Any
    shape: tuple[int, int, int]
    images: int
    epochs: int


SUBJECTS = {
    "digits": Subject(sp.Digits(), sp.MLP((100,)), (1, 8, 8), 1000, 8),
    "fashion": Subject(sp.FashionMNIST(), sp.ConvNet((16, 32)), (1, 28, 28), 6000, 2),
}


def trained(subject: Subject) -> tuple[Classifier, Split]:
    """A model, and the test images that it is attacked on."""
    data, key = subject.data.load(), sp.Key.of(0)
    spec = sp.ModelSpec(sp.Direct(8), subject.network, sp.LIF(), sp.ATan(2.0), sp.Count(), subject.shape, 10)
    model, whole, some = spec.build(key), data.train, slice(subject.images)
    part = Split(whole.images[some], whole.labels[some], whole.ids[some])
    with using_loops(Loops.COMPILED), keeping_memory():
        sp.BPTT(epochs=subject.epochs, lr=2e-3).train(model, replace(data, train=part), key)
    return model.eval(), data.test


def of_torchattacks(model: torch.nn.Module, epsilon: float, steps: int, x: Tensor, y: Tensor) -> Tensor:
    """Images of PGD in Torchattacks."""
    import torchattacks

    attack = torchattacks.PGD(model, eps=epsilon, alpha=REACH * epsilon / steps, steps=steps)
    return torch.cat([attack(*batch) for batch in zip(x.split(BATCH), y.split(BATCH), strict=True)])


def of_foolbox(model: torch.nn.Module, epsilon: float, steps: int, x: Tensor, y: Tensor) -> Tensor:
    """Images of PGD in Foolbox."""
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.LinfPGD(steps=steps, rel_stepsize=REACH / steps)
    found = [
        attack(wrapped, *batch, epsilons=epsilon)[1]
        for batch in zip(x.split(BATCH), y.split(BATCH), strict=True)
    ]
    return torch.cat(found)


PEERS: dict[str, Callable[[torch.nn.Module, float, int, Tensor, Tensor], Tensor]] = {
    "torchattacks on spikingjelly": of_torchattacks,
    "foolbox on spikingjelly": of_foolbox,
}

OURS = {
    "written": (Loops.WRITTEN, False),
    "compiled": (Loops.COMPILED, False),
    "nested": (Loops.COMPILED, True),
}
"""Loops, and whether a budget begins with the images of the smaller one."""


def by_peer(
    attack: Callable[..., Tensor], model: Classifier, steps: int, x: Tensor, y: Tensor
) -> tuple[list[float], float]:
    """Robust accuracy within each budget, and seconds without our verdicts."""
    theirs, left, seconds = InSpikingJelly(model).eval(), [], 0.0
    attack(theirs, EPSILONS[0], 1, x[:1], y[:1])  # imports the library
    torch.manual_seed(0)
    for epsilon in EPSILONS:
        began = time.process_time()
        images = attack(theirs, epsilon, steps, x, y)
        seconds += time.process_time() - began
        inside = x + (images.detach() - x).clamp(-epsilon, epsilon)
        clean = evaluate_clean(model, x, y).right
        left.append((clean * evaluate_clean(model, inside.clamp(0, 1), y).right).double().mean().item())
    return left, seconds


def by_us(
    model: Classifier, loops: Loops, nested: bool, steps: int, x: Tensor, y: Tensor
) -> tuple[list[Attacked], float]:
    """The outcome within each budget, and seconds with verdicts."""
    began = time.process_time()
    with using_loops(loops), keeping_memory():
        clean = evaluate_clean(model, x, y)
        threats = [sp.Linf(epsilon) for epsilon in EPSILONS]
        recipe = sp.PGD(steps=steps, reach=REACH)
        found = evaluate_sweep(model, recipe, threats, x, y, clean, sp.Key.of(0), nested=nested)
    return found, time.process_time() - began


def evaluations(model: Classifier, x: Tensor, y: Tensor, steps: int) -> dict[str, Any]:
    """Robust accuracies and seconds of every way."""
    rows: dict[str, Any] = {}
    outcomes = {}
    for name, (loops, nested) in OURS.items():
        found, seconds = by_us(model, loops, nested, steps, x, y)
        outcomes[name] = found
        left = [each.right.double().mean().item() for each in found]
        rows[name] = {"robust_accuracy": left, "seconds": seconds}
    for one, other in zip(outcomes["written"], outcomes["compiled"], strict=True):
        for column in COLUMNS:
            pair = getattr(one, column), getattr(other, column)
            assert torch.equal(*pair), "compiled loops must give equal verdicts"
    for name, attack in PEERS.items():
        left, seconds = by_peer(attack, model, steps, x, y)
        rows[name] = {"robust_accuracy": left, "seconds": seconds}
    return rows


def audits(model: Classifier, x: Tensor, y: Tensor) -> dict[str, float]:
    """Seconds of each part of the diagnostics of a model."""
    seconds = dict.fromkeys(PARTS, 0.0)

    def timed(name: str, function: Callable[..., Any], *given: Any) -> Any:
        began = time.process_time()
        try:
            return function(*given)
        finally:
            seconds[name] += time.process_time() - began

    with ExitStack() as patches, using_loops(Loops.COMPILED), keeping_memory():
        for name in PARTS:
            replaced = partial(timed, name, getattr(diagnostics, name))
            patches.enter_context(mock.patch.object(diagnostics, name, replaced))
        began = time.process_time()
        diagnostics.diagnose(model, x, y, sp.Key.of(0))
        whole = time.process_time() - began
    return {**{name.strip("_"): taken for name, taken in seconds.items()}, "whole": whole}


def measured(subject: str, examples: int, steps: int) -> dict[str, Any]:
    """Everything, of one subject."""
    model, test = trained(SUBJECTS[subject])
    x, y = test.images[:examples], test.labels[:examples]
    return {
        "subject": subject,
        "examples": examples,
        "steps": steps,
        "epsilons": EPSILONS,
        "clean": evaluate_clean(model, x, y).right.double().mean().item(),
        "evaluations": evaluations(model, x, y, steps),
        "audit": audits(model, x, y),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--subject", choices=SUBJECTS, default="fashion")
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    record = measured(chosen.subject, chosen.examples, chosen.steps)
    for name, row in (*record["evaluations"].items(), ("audit", record["audit"])):
        print(f"{name}: {row}")
    if chosen.out:
        chosen.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

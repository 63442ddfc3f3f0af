"""What an evaluation costs to the same verdict, here and elsewhere, and what each part of an audit costs.

    python benchmarks/evaluation_cost.py [--subject NAME] [--examples N] [--peer-examples N]
        [--peers NAME ...] [--steps N] [--out FILE]

A network with direct coding is trained, and PGD attacks the same test images within five budgets: in
Torchattacks and in Foolbox on the same weights in SpikingJelly, in batches of 100; and here with written
loops, with compiled loops, with compiled loops from the images of the smaller budget (`nested`), and with
APGD of half as many steps. All ways take turns, budget by budget. Every image is judged by our model.
Seconds are processor seconds on one thread, of all five budgets together.

The other libraries take as many steps on every image, so their cost is linear in the number of images. With
`--peer-examples` they, and written loops, attack the first images only. Their `seconds` are then multiplied
up to all examples, and `robust_accuracy_there` is that of every way on these first images.

Written and compiled loops must leave the same images and verdicts to the bit, or the command ends with an
error.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from in_frameworks import InSpikingJelly
from torch import Tensor

import spikeproof as sp
from spikeproof.attacks.made_of.nested import Carried, Nested
from spikeproof.attacks.recipe import Recipe
from spikeproof.auditing import diagnostics
from spikeproof.compiled import Loops, keeping_memory, using_loops
from spikeproof.datasets import Split
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean
from spikeproof.networks.classifier import Classifier

EPSILONS = tuple(level / 255 for level in (2, 4, 8, 12, 16))
BATCH = 100
REACH = 2.5
"""Steps times step size, in budgets, of every PGD."""

AUDITED = 30
"""Images on which the diagnostics of an audit are measured."""

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
    "torchattacks": of_torchattacks,
    "foolbox": of_foolbox,
}
"""Libraries whose PGD attacks the network in SpikingJelly."""


def pgd(steps: int) -> Recipe:
    return sp.PGD(steps=steps, reach=REACH)


def apgd(steps: int) -> Recipe:
    return sp.APGD(steps=max(steps // 2, 1))


@dataclass(frozen=True)
class Way:
    """Loops, the attack for a number of steps, and whether a budget begins with the images of the smaller
    one."""

    loops: Loops
    recipe: Callable[[int], Recipe] = pgd
    nested: bool = False


OURS = {
    "written": Way(Loops.WRITTEN),
    "compiled": Way(Loops.COMPILED),
    "nested": Way(Loops.COMPILED, nested=True),
    "apgd, half the steps": Way(Loops.COMPILED, apgd),
}


@dataclass
class Spent:
    """Processor seconds, added up over blocks of code."""

    seconds: float = 0.0

    @contextmanager
    def more(self) -> Iterator[None]:
        began = time.process_time()
        yield
        self.seconds += time.process_time() - began


Turn = tuple[Tensor, Tensor, float]
"""After a budget: for each image whether it is still right, the images, and the seconds so far."""


def by_peer(
    attack: Callable[..., Tensor], model: Classifier, steps: int, x: Tensor, y: Tensor
) -> Iterator[Turn]:
    """One turn for each budget; the seconds are without our verdicts."""
    theirs, spent = InSpikingJelly(model).eval(), Spent()
    attack(theirs, EPSILONS[0], 1, x[:1], y[:1])  # imports the library
    clean = evaluate_clean(model, x, y).right
    torch.manual_seed(0)
    for epsilon in EPSILONS:
        with spent.more():
            images = attack(theirs, epsilon, steps, x, y)
        inside = (x + (images.detach() - x).clamp(-epsilon, epsilon)).clamp(0, 1)
        yield clean * evaluate_clean(model, inside, y).right, inside, spent.seconds


def by_us(model: Classifier, way: Way, steps: int, x: Tensor, y: Tensor) -> Iterator[Turn]:
    """One turn for each budget; the seconds are with verdicts, also on the clean images."""
    spent, key, found = Spent(), sp.Key.of(0), None
    with spent.more(), using_loops(way.loops), keeping_memory():
        clean = evaluate_clean(model, x, y)
    for threat in map(sp.Linf, EPSILONS):
        with spent.more(), using_loops(way.loops), keeping_memory():
            attack = way.recipe(steps)(threat)
            if way.nested and found is not None:
                attack = Nested(attack, Carried(clean.example, found.x_adv))
            found = evaluate_attack(model, attack, threat, x, y, clean, key)
        yield found.right, found.x_adv, spent.seconds


def evaluations(
    model: Classifier, x: Tensor, y: Tensor, steps: int, few: int | None = None, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """Robust accuracies and seconds of every way; written loops and other libraries attack `few` images."""
    part = slice(few or len(x))
    turns = {
        name: by_us(model, way, steps, *((x[part], y[part]) if name == "written" else (x, y)))
        for name, way in OURS.items()
    }
    turns |= {
        f"{name} on spikingjelly": by_peer(PEERS[name], model, steps, x[part], y[part])
        for name in peers or PEERS
    }
    rows: dict[str, Any] = {
        name: {"robust_accuracy": [], "robust_accuracy_there": [], "seconds": 0.0} for name in turns
    }
    for _ in EPSILONS:
        now = {name: next(turn) for name, turn in turns.items()}
        for one, other in zip(now["written"][:2], now["compiled"][:2], strict=True):
            assert torch.equal(one, other[: len(one)]), "compiled loops must give equal verdicts"
        for name, (right, _images, seconds) in now.items():
            row, whole = rows[name], right.double()
            row["images"], row["seconds"] = len(right), seconds * len(x) / len(right)
            row["robust_accuracy"].append(whole.mean().item())
            row["robust_accuracy_there"].append(whole[part].mean().item())
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


def measured(
    subject: str, examples: int, steps: int, few: int | None = None, peers: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything, of one subject."""
    model, test = trained(SUBJECTS[subject])
    x, y = test.images[:examples], test.labels[:examples]
    return {
        "subject": subject,
        "examples": examples,
        "steps": steps,
        "epsilons": EPSILONS,
        "clean": evaluate_clean(model, x, y).right.double().mean().item(),
        "evaluations": evaluations(model, x, y, steps, few, peers),
        "audit": audits(model, x[:AUDITED], y[:AUDITED]),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--subject", choices=SUBJECTS, default="fashion")
    options.add_argument("--examples", type=int, default=100)
    options.add_argument("--peer-examples", type=int)
    options.add_argument("--peers", choices=PEERS, nargs="+", default=[])
    options.add_argument("--steps", type=int, default=50)
    options.add_argument("--out", type=Path)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    record = measured(
        chosen.subject, chosen.examples, chosen.steps, chosen.peer_examples, tuple(chosen.peers)
    )
    for name, row in (*record["evaluations"].items(), ("audit", record["audit"])):
        print(f"{name}: {row}")
    if chosen.out:
        chosen.out.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()

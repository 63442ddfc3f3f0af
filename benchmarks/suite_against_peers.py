"""The standard suite beside attacks of Torchattacks and Foolbox, on the same weights, images and budget.

    python benchmarks/suite_against_peers.py MODEL [MODEL ...] --epsilon 8/255 --examples 100

A table in Markdown: robust accuracy in per cent and seconds of each, on one thread. MODEL is a train cell of
a study.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import foolbox
import torch
import torchattacks
from torch import Tensor

from spikeproof.decoders import decide
from spikeproof.evaluation import evaluate_clean
from spikeproof.experiments.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.models import load
from spikeproof.network import Classifier
from spikeproof.suites import evaluate_suite
from spikeproof.threats import Linf, parse_epsilon


def peers(
    model: Classifier, epsilon: float, classes: int
) -> Iterator[tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """Name and attack; each gives adversarial images within the budget."""
    yield "Torchattacks APGD-CE, 50 steps", torchattacks.APGD(model, eps=epsilon, steps=50, loss="ce")
    yield (
        "Torchattacks APGD-T, 9 x 20 steps",
        torchattacks.APGDT(model, eps=epsilon, steps=20, n_classes=classes),
    )
    yield "Torchattacks Square, 500 queries", torchattacks.Square(model, eps=epsilon, n_queries=500)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    for name, attack in (
        ("Foolbox PGD, 40 steps", foolbox.attacks.LinfPGD(steps=40)),
        ("Foolbox DeepFool, 50 steps", foolbox.attacks.LinfDeepFoolAttack(steps=50)),
    ):
        yield name, lambda x, y, attack=attack: attack(wrapped, x, y, epsilons=epsilon)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    epsilon, key = parse_epsilon(options.epsilon), Key.of(0)
    print("| model | attack | left % | seconds |\n|---|---|---|---|")
    for path in options.models:
        model, data = load(path), dataset_of(path, None, None)
        x, y = data.test.images[: options.examples], data.test.labels[: options.examples]
        clean = evaluate_clean(model, x, y, key)
        label = f"{type(model.spec.encoder).__name__}, {type(model.spec.network).__name__}"
        began = time.perf_counter()
        suited = evaluate_suite(model, "standard", Linf(epsilon), x, y, clean, key)
        ours, took = suited.metrics()["robust_accuracy"], time.perf_counter() - began
        print(f"| {label} | clean | {100 * clean.metrics()['clean_accuracy']:.1f} | |")
        print(f"| | **suite standard** | **{100 * ours:.1f}** | **{took:.0f}** |", flush=True)
        total = 0.0
        for name, attack in peers(model, epsilon, model.spec.classes):
            began = time.perf_counter()
            x_adv = attack(x, y).detach()
            seconds = time.perf_counter() - began
            total += seconds
            inside = Linf(epsilon).contains(x_adv, x)
            left = ((decide(model(x_adv)) == y) | ~inside) & (clean.right > 0)
            print(f"| | {name} | {100 * float(left.float().mean()):.1f} | {seconds:.0f} |", flush=True)
        print(f"| | sum of the peers | | {total:.0f} |", flush=True)


if __name__ == "__main__":
    main()

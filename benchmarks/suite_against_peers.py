"""The standard suite beside attacks of Torchattacks and Foolbox, on the same weights, images and budget.

    python benchmarks/suite_against_peers.py MODEL [MODEL ...] --epsilon 8/255 --examples 100

Three tables in Markdown, on one thread: robust accuracy in per cent of each; seconds of the suite and of the
sum of its peers, on the clock and of the processor; and what each member of the suite broke and took. MODEL
is a train cell of a study. Images of stochastic models are judged by the mean over draws, ours and theirs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import foolbox
import torch
import torchattacks
from torch import Tensor

from spikeproof.catalogue.saved import load
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import Clean, evaluate_clean
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.threats import Linf, parse_epsilon

DRAWS = 10
"""Per verdict of a stochastic model."""


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


def left(model: Classifier, x_adv: Tensor, x: Tensor, y: Tensor, clean: Clean, threat: Linf) -> float:
    """Per cent that stand, by our rule; an image outside the budget counts as not attacked."""
    inside = threat.contains(x_adv, x)
    images = torch.where(inside.view(-1, 1, 1, 1), x_adv, x)
    seen = evaluate_clean(model, images, y, Key.of(1), draws=DRAWS).right
    if not model.stochastic:  # the better of two noisy means would be too low
        seen = torch.minimum(seen, clean.right)
    return 100 * float(seen.double().mean())


class Clocks:
    """Seconds since the beginning, on the wall and of the processor."""

    def __init__(self) -> None:
        self.began = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self.began[0], time.process_time() - self.began[1]


def name(model: Classifier) -> str:
    parts = (model.spec.network, model.spec.encoder, model.spec.decoder, model.spec.neuron)
    return ", ".join(type(part).__name__ for part in parts)


def compare(model: Classifier, x: Tensor, y: Tensor, epsilon: float) -> tuple[str, str, str]:
    """One row for each table."""
    threat, label = Linf(epsilon), name(model)
    clean = evaluate_clean(model, x, y, Key.of(0), draws=DRAWS)
    clocks = Clocks()
    suited = evaluate_suite(model, "standard", threat, x, y, clean, Key.of(0), draws=DRAWS)
    wall, processor = clocks.read()
    shares, walls, processors = [], 0.0, 0.0
    for _, attack in peers(model, epsilon, model.spec.classes):
        clocks = Clocks()
        x_adv = attack(x, y).detach()
        more_wall, more_processor = clocks.read()
        walls, processors = walls + more_wall, processors + more_processor
        shares.append(left(model, x_adv, x, y, clean, threat))
    ours = 100 * suited.metrics()["robust_accuracy"]
    beaten = " !" if min(shares) < ours - 0.01 else ""
    row = f"| {label} | {100 * clean.metrics()['clean_accuracy']:.1f} | **{ours:.1f}**{beaten} | "
    members = "; ".join(f"{m['name']} {m['broke']:.1f} ({m['seconds']:.1f} s)" for m in suited.members)
    return (
        row + " | ".join(f"{share:.1f}" for share in shares) + " |",
        f"| {label} | {wall:.1f} | {walls:.1f} | {processor:.1f} | {processors:.1f} | {wall / walls:.2f} |",
        f"| {label} | {members} |",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for path in options.models:
        model, test = load(path), dataset_of(path, None, None).test
        x, y = test.images[: options.examples], test.labels[: options.examples]
        rows.append(compare(model, x, y, parse_epsilon(options.epsilon)))
        print("\n".join(rows[-1]), file=sys.stderr, flush=True)
    titles = [name for name, _ in peers(model, 0.1, model.spec.classes)]
    heads = (
        f"| model | clean | suite | {' | '.join(titles)} |\n|{'---|' * (3 + len(titles))}",
        "| model | suite, s | peers, s | suite, CPU s | peers, CPU s | ratio of s |\n" + "|---" * 6 + "|",
        "| model | broke (seconds) of each member |\n|---|---|",
    )
    for head, table in zip(heads, zip(*rows, strict=True), strict=True):
        print("\n".join((head, *table)), end="\n\n")


if __name__ == "__main__":
    main()

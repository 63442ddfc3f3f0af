"""What attacks break that plain PGD leaves: the evidence for the members of the standard suite.

    python benchmarks/suite_members.py MODEL [MODEL ...] --epsilon 8/255 --examples 100

Each candidate attacks, by itself, what PGD with 20 steps and PGD on the margin with 50 left standing. A table
in Markdown: examples broken, and seconds on one thread. MODEL is a train cell of a study, of a deterministic
model.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.gradient.iterated import APGD, APGDT
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.made_of.composite import WidthSweep
from spikeproof.attacks.recipe import Recipe
from spikeproof.catalogue.saved import load
from spikeproof.encoders import SpikeCode, StraightThrough
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import Clean, evaluate_attack, evaluate_clean
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.networks.classifier import Classifier
from spikeproof.surrogates import ATan
from spikeproof.threats import Linf, parse_epsilon

CORE = {"pgd": PGD(steps=20), "pgd-margin": PGD(steps=50, objective=Margin())}


def candidates(model: Classifier) -> dict[str, Recipe]:
    """What may stand in a suite for this model."""
    coarse = PGD(steps=20, restarts=2, reach=10.0)
    found: dict[str, Recipe] = {
        "coarse": coarse,
        "coarse-margin": PGD(steps=20, restarts=2, reach=10.0, objective=Margin()),
        "apgd-ce": APGD(steps=50),
        "apgd-t": APGDT(steps=20),
    }
    if EncoderAwareSearch().suits(model):
        found |= {"aware": EncoderAwareSearch(), "aware1": EncoderAwareSearch(restarts=1)}
    if model.spec.neuron.spiking:
        for surrogate in (*WidthSweep().surrogates, ATan(1.0), ATan(6.0)):
            recipe = PGD(steps=20, reach=5.0, objective=Margin(), surrogate=surrogate)
            found[f"s:{surrogate!r}"] = recipe
        if isinstance(model.encoder, SpikeCode):
            recipe = PGD(steps=20, reach=5.0, objective=Margin(), backward=StraightThrough())
            found["straight"] = recipe
    return found | {"square": SquareSearch(queries=500), "square200": SquareSearch(queries=200)}


def part(clean: Clean, rows: Tensor) -> Clean:
    columns: dict[str, Any] = {c.name: getattr(clean, c.name) for c in fields(clean)}
    return Clean(**{n: v[rows] if isinstance(v, Tensor) else v for n, v in columns.items()})


def contributions(model: Classifier, x: Tensor, y: Tensor, threat: Linf) -> dict[str, str]:
    """Candidate -> examples broken, with seconds."""
    clean, key = evaluate_clean(model, x, y, Key.of(0)), Key.of(0)
    standing = clean.right > 0

    def run(name: str, recipe: Recipe) -> tuple[Tensor, float]:
        rows, began = standing.nonzero().flatten(), time.perf_counter()
        found = evaluate_attack(
            model, recipe(threat), threat, x[rows], y[rows], part(clean, rows), key.fold("member", name),
            through=through(model, recipe),
        )  # fmt: skip
        return rows[found.right == 0], time.perf_counter() - began

    cells = {}
    for name, recipe in CORE.items():
        broken, seconds = run(name, recipe)
        standing[broken] = False
        cells[name] = f"{len(broken)} ({seconds:.1f})"
    for name, recipe in candidates(model).items():
        broken, seconds = run(name, recipe)
        cells[name] = f"{len(broken)} ({seconds:.1f})"
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--examples", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns: dict[str, dict[str, str]] = {}
    for path in options.models:
        model, test = load(path), dataset_of(path, None, None).test
        x, y = test.images[: options.examples], test.labels[: options.examples]
        spec = model.spec
        label = ", ".join(type(p).__name__ for p in (spec.network, spec.encoder, spec.decoder, spec.neuron))
        columns[label] = contributions(model, x, y, Linf(parse_epsilon(options.epsilon)))
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    print(f"| attack | {' | '.join(columns)} |\n|{'---|' * (1 + len(columns))}")
    for name in names:
        print(f"| {name} | {' | '.join(column.get(name, '') for column in columns.values())} |")


if __name__ == "__main__":
    main()

"""What searches over levels cost with updates of the first layer, beside whole passes.

    python benchmarks/first_layer.py MODEL [MODEL ...] --epsilon 8/255 --examples 30 --queries 2000

The level search on images that PGD leaves, with and without updates in turn, in processor time on one thread;
the median of the ratios. Both must end with the same images to the bit. MODEL is a train cell of a study.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from spikeproof.attacks.answers import reachable
from spikeproof.attacks.answers.foundlevels import LevelSearch, LevelSearchAttack
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.search import Result
from spikeproof.catalogue.saved import load
from spikeproof.datasets import ClassProportional
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.threats import Linf, parse_epsilon


def timed(attack: LevelSearchAttack, model: Steady, x: Tensor, y: Tensor, key: Key) -> tuple[Result, float]:
    """What a search finds, and its processor seconds."""
    began = time.process_time()
    found = attack(model, x, y, key)
    return found, time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--examples", type=int, default=30)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="directory that holds data sets")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threat = Linf(parse_epsilon(options.epsilon))
    print("| model | images | updated, s | whole, s | times |\n|---|---|---|---|---|")
    for path in options.models:
        model = load(path)
        part = ClassProportional()(dataset_of(path, None, options.data).test, 20 * options.examples)
        steady, key = Steady(model), Key.of(0)
        left = ~PGD(steps=20)(threat)(steady, part.images, part.labels, key).success
        x, y = part.images[left][: options.examples], part.labels[left][: options.examples]
        search = LevelSearch(queries=options.queries)(threat)
        seconds = list[tuple[float, float]]()
        for _ in range(options.rounds):
            updated, quick = timed(search, steady, x, y, key)
            with mock.patch.object(reachable, "updates_of", return_value=None):
                whole, slow = timed(search, steady, x, y, key)
            if not torch.equal(updated.x_adv, whole.x_adv):
                raise SystemExit(f"{path}: updates lead to other images than whole passes")
            seconds.append((quick, slow))
        quick, slow = (statistics.median(each) for each in zip(*seconds, strict=True))
        times = statistics.median(slow / quick for quick, slow in seconds)
        name = f"{type(model.spec.network).__name__}, {type(model.spec.encoder).__name__}"
        print(f"| {name} | {len(x)} | {quick:.1f} | {slow:.1f} | {times:.1f} |", flush=True)


if __name__ == "__main__":
    main()

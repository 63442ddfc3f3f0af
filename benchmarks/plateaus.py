"""Spike counts at few steps: what suites leave of a network, and of a function around it.

    python benchmarks/plateaus.py        # the table of docs/results/suite-members.md, in Markdown
    python benchmarks/plateaus.py --models "counts, T = 4" --seeds 0

Perceptrons of 60 hidden neurons on the digits, direct coding, 8 epochs; 150 images of the class-proportional
sample, linf 0.1. Suites run without stand-ins, which take ten times as long as all other members together.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch

import spikeproof as sp
from spikeproof.evaluation.suites import evaluate_suite, plan
from spikeproof.statistics import wilson

EXAMPLES, THREAT = 150, sp.Linf(0.1)
MODELS = {
    "counts, T = 2": (sp.Direct(2), sp.Count()),
    "counts, T = 4": (sp.Direct(4), sp.Count()),
    "first spikes, T = 4": (sp.Direct(4), sp.FirstSpike()),
    "counts, T = 8": (sp.Direct(8), sp.Count()),
}


def trained(encoder: Any, decoder: Any, seed: int, data: sp.Dataset) -> sp.Classifier:
    """A perceptron on the digits."""
    spec = sp.ModelSpec(encoder, sp.MLP((60,)), sp.LIF(), sp.ATan(), decoder, (1, 8, 8), 10)
    model = spec.build(sp.Key.of(seed))
    sp.BPTT(epochs=8, lr=0.01).train(model, data, sp.Key.of(seed))
    return model.eval()


def left(model: Callable[..., torch.Tensor], level: str, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many images a suite without stand-ins leaves."""
    clean = sp.evaluate_clean(model, x, y, batch_size=EXAMPLES)
    members = [member for member in plan(level, model, THREAT) if not member.name.startswith("stand-in")]
    found = evaluate_suite(
        model, level, THREAT, x, y, clean, sp.Key.of(0), batch_size=EXAMPLES, members=members
    )
    return int(found.attacked.right.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = sp.Digits().load()
    test = sp.ClassProportional()(data.test, EXAMPLES)
    x, y = test.images, test.labels
    print("| network | as itself | as a function | lower end of its interval | `extreme` on the network |")
    print("|---|---|---|---|---|", flush=True)
    for name in options.models:
        columns: list[list[str]] = [[], [], [], []]
        for seed in options.seeds:
            model = trained(*MODELS[name], seed, data)
            function = left(lambda images, model=model: model(images, sp.Key.of(0)), "standard", x, y)
            low = EXAMPLES * wilson(function, EXAMPLES).low
            found = left(model, "standard", x, y), function, f"{low:.1f}", left(model, "extreme", x, y)
            for column, value in zip(columns, found, strict=True):
                column.append(str(value))
        print(f"| {name} | {' | '.join(', '.join(column) for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()

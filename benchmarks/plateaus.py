"""Spike counts at few steps: what suites leave of a network, and of a function around it.

    python benchmarks/plateaus.py        # the table of docs/results/suite-members.md, in Markdown
    python benchmarks/plateaus.py --models "counts, T = 4" --seeds 0
    python benchmarks/plateaus.py --attacks --seeds 0 1 2        # what attacks break of what is left

Perceptrons of 60 hidden neurons on the digits, direct coding, 8 epochs; 150 images of the class-proportional
sample, linf 0.1. Suites run without stand-ins, which take ten times as long as all other members together.
With `--attacks`, each attack runs on the images that the standard suite leaves without `sa-pgd-t`, of all
networks of few steps together; seconds are those of the processor, about 50 for a network.
"""

from __future__ import annotations

import argparse
import time
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
FEW_STEPS = ("counts, T = 2", "counts, T = 4", "first spikes, T = 4")
NINE = sp.EveryOther(9)


def towards(**options: Any) -> sp.Recipe:
    """SA-PGD towards nine classes, one after the other, in 50 steps."""
    parts = {"step": sp.StableAdaptive(), "schedule": sp.Halving(), "targets": NINE}
    return sp.Assembled(steps=50, reach=50.0, **parts, **options)


def adapted(attack: sp.Recipe) -> sp.Recipe:
    """An attack with the gradients of ASSG at 0.46."""
    return sp.Through(gradient=sp.ASSG(0.46), attack=attack)


ATTACKS = {
    "SA-PGD with ASSG 0.46, 5 starts": adapted(sp.SAPGD(steps=50, restarts=5)),
    "the same, 40 starts": adapted(sp.SAPGD(steps=50, restarts=40)),
    "APGD-T with ASSG 0.46, 9 classes, 50 steps": adapted(sp.APGDT(steps=50, targets=NINE)),
    "the same, 3 starts": adapted(sp.APGDT(steps=50, targets=NINE, restarts=3)),
    "SA-PGD with ASSG 0.46 towards 9 classes, 50 steps (`sa-pgd-t`)": adapted(towards()),
    "the same, 3 starts, along the margin": adapted(towards(restarts=3, objective=sp.Margin())),
    "APGD-T with the gradient of training, 9 classes, 3 starts": sp.APGDT(steps=50, targets=NINE, restarts=3),
    "APGD-T along a sweep of surrogates, 9 classes": sp.WidthSweep(attack=sp.APGDT(steps=50, targets=NINE)),
}


def trained(encoder: Any, decoder: Any, seed: int, data: sp.Dataset) -> sp.Classifier:
    """A perceptron on the digits."""
    spec = sp.ModelSpec(encoder, sp.MLP((60,)), sp.LIF(), sp.ATan(), decoder, (1, 8, 8), 10)
    model = spec.build(sp.Key.of(seed))
    sp.BPTT(epochs=8, lr=0.01).train(model, data, sp.Key.of(seed))
    return model.eval()


def standing(
    model: Callable[..., torch.Tensor],
    level: str,
    x: torch.Tensor,
    y: torch.Tensor,
    without: tuple[str, ...] = ("stand-in",),
) -> torch.Tensor:
    """Which images a suite leaves, without the members whose names begin like this."""
    clean = sp.evaluate_clean(model, x, y, batch_size=EXAMPLES)
    members = [member for member in plan(level, model, THREAT) if not member.name.startswith(without)]
    found = evaluate_suite(
        model, level, THREAT, x, y, clean, sp.Key.of(0), batch_size=EXAMPLES, members=members
    )
    return found.attacked.right == 1


def left(model: Callable[..., torch.Tensor], level: str, x: torch.Tensor, y: torch.Tensor) -> int:
    """How many images a suite without stand-ins leaves."""
    return int(standing(model, level, x, y).sum())


def attacks(names: list[str], seeds: list[int], data: sp.Dataset, x: torch.Tensor, y: torch.Tensor) -> None:
    """The table of what attacks break of the images that are left."""
    cases = []
    for name in names:
        for seed in seeds:
            model = trained(*MODELS[name], seed, data)
            rows = standing(model, "standard", x, y, ("stand-in", "sa-pgd-t"))
            cases.append((model, x[rows], y[rows]))
    images = sum(len(each) for _, _, each in cases)
    print(f"Images broken of {images} that are left of {len(cases)} networks:\n")
    print("| attack | broke | seconds |")
    print("|---|---|---|", flush=True)
    everyone = [torch.zeros(len(each), dtype=torch.bool) for _, _, each in cases]
    for name, recipe in ATTACKS.items():
        broke, began = 0, time.process_time()
        for (model, some, labels), any_ in zip(cases, everyone, strict=True):
            clean = sp.evaluate_clean(model, some, labels)
            fell = sp.evaluate_attack(model, recipe, THREAT, some, labels, clean).right < 1
            broke, any_[:] = broke + int(fell.sum()), any_ | fell
        print(f"| {name} | {broke} | {time.process_time() - began:.0f} |", flush=True)
    print(f"| all together | {sum(int(each.sum()) for each in everyone)} | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--attacks", action="store_true", help="single attacks on networks of few steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = sp.Digits().load()
    test = sp.ClassProportional()(data.test, EXAMPLES)
    x, y = test.images, test.labels
    if options.attacks:
        names = [name for name in FEW_STEPS if name in options.models]
        attacks(names, options.seeds, data, x, y)
        return
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

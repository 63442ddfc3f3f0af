"""What a suite leaves, and what it costs, model by model: for comparing one version of a plan with another.

    python benchmarks/suite_cost.py MODEL [MODEL ...] --epsilon 8/255 --examples 100 --out NEW.json
    python benchmarks/suite_cost.py --compare OLD.json NEW.json

Robust accuracy, processor seconds on one thread, and for each member the examples that it broke. MODEL is a
train cell of a study. Loops over time are compiled and memory is kept, as in a study; `--loops written` shows
what the loops in PyTorch cost. The second form prints a table in Markdown of two such files, written by two
versions.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from spikeproof.catalogue.saved import load
from spikeproof.compiled import Loops, keeping_memory, using_loops
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean
from spikeproof.experiments.repair.signing import dataset_of
from spikeproof.keys import Key
from spikeproof.threats import L0, L1, L2, Linf, parse_epsilon

THREATS = {"linf": Linf, "l2": L2, "l1": L1, "l0": L0}


def measured(path: Path, threat: Any, examples: int, level: str, loops: Loops) -> dict[str, Any]:
    """The outcome of one suite on one model."""
    with using_loops(loops), keeping_memory():
        return _measured(path, threat, examples, level)


def _measured(path: Path, threat: Any, examples: int, level: str) -> dict[str, Any]:
    model, test = load(path), dataset_of(path, None, None).test
    x, y = test.images[:examples], test.labels[:examples]
    clean, began = evaluate_clean(model, x, y, Key.of(0)), time.process_time()
    found = evaluate_suite(model, level, threat, x, y, clean, Key.of(0))
    spec = model.spec
    return {
        "model": ", ".join(type(p).__name__ for p in (spec.network, spec.encoder, spec.decoder, spec.neuron)),
        "clean": float(clean.right.double().mean()),
        "robust": float(found.attacked.right.double().mean()),
        "seconds": time.process_time() - began,
        "members": [
            {key: member[key] for key in ("name", "attacked", "broke", "seconds")} for member in found.members
        ],
    }


def compared(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Two versions beside each other, in Markdown."""
    rows = ["| model | clean | old: left | new: left | old: seconds | new: seconds |", f"|{'---|' * 6}"]
    pairs = [(old[path], new[path]) for path in old if path in new]
    for one, other in pairs:
        rows.append(
            f"| {one['model']} | {100 * one['clean']:.1f} | {100 * one['robust']:.1f} | "
            f"{100 * other['robust']:.1f} | {one['seconds']:.0f} | {other['seconds']:.0f} |"
        )
    means = [
        sum(pair[side][name] for pair in pairs) / max(len(pairs), 1)
        for name in ("robust", "seconds")
        for side in (0, 1)
    ]
    last = f"| mean | | {100 * means[0]:.2f} | {100 * means[1]:.2f} | {means[2]:.1f} | {means[3]:.1f} |"
    return "\n".join([*rows, last])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--epsilon", default="8/255")
    parser.add_argument("--threat", default="linf", choices=THREATS)
    parser.add_argument("--examples", type=int, default=100)
    parser.add_argument("--level", default="standard")
    parser.add_argument("--loops", default=Loops.COMPILED.value, choices=[loops.value for loops in Loops])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", nargs=2, type=Path)
    options = parser.parse_args()
    if options.compare:
        print(compared(*(json.loads(path.read_text()) for path in options.compare)))
        return
    torch.set_num_threads(1)
    threat, found = THREATS[options.threat](parse_epsilon(options.epsilon)), {}
    for path in options.models:
        found[path.name] = measured(path, threat, options.examples, options.level, Loops(options.loops))
        one = found[path.name]
        print(f"{one['model']}: {100 * one['robust']:.1f} in {one['seconds']:.0f} s", flush=True)
        for member in one["members"]:
            print("   ", *member.values(), flush=True)
        if options.out:
            options.out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

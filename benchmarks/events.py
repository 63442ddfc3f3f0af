"""What shifts of events cost: against a look at every entry of the grid, and as events grow in number.

    python benchmarks/events.py [--examples N] [--slow N]

Processor time on one thread, so that other programs on the machine do not count. The first table is the ratio
to `tests/laws/dense_shifts.py`, with the same answers to the bit; the second grows the grid and its events
together; the third is that of whole queries of the quick suite, the forward pass of a small network included.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import spikeproof as sp
from spikeproof.evaluation.suites import evaluate_suite
from spikeproof.evaluation.verdicts import evaluate_clean

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "laws"))

from dense_shifts import DenseShifts

MEASURES = (("moved", 16), ("delay", 16), ("delay", 64), ("jitter", 1))


def seconds(work: Callable[[], object]) -> float:
    """Processor time of one call, after one to warm up."""
    work()
    began = time.process_time()
    work()
    return time.process_time() - began


def recordings(examples: int, steps: int, side: int, most: int) -> Tensor:
    """Grids on which, as on N-MNIST, a third of the inputs hold events, in a quarter of their entries."""
    key, shape = sp.Key.of(0), (examples, steps, 2, side, side)
    busy = key.fold("busy").uniform((examples, 1, 2, side, side)) < 0.33
    draw = key.fold("events").uniform(shape)
    count = 1 + (most * key.fold("count").uniform(shape) ** 3).floor().clamp(max=most - 1)
    return busy * (draw < 0.24) * count


def works(threat: sp.Shifts, x: Tensor) -> dict[str, Callable[[], object]]:
    """The operations that searches consist of."""
    key = sp.Key.of(1)
    goal = key.fold("goal").normal(x.shape)
    here = threat.start(x, key.for_rows(range(len(x))))
    return {
        "best member": lambda: threat.extreme(goal, x),
        "neighbours": lambda: threat.neighbours(here, x, goal, 8),
        "distance": lambda: threat.distance(here, x),
    }


def against_every_entry(examples: int) -> None:
    """The first table."""
    print("Milliseconds per example at 34x34x2x10, and how many times longer a look at every entry takes\n")
    print("| grid | measure | epsilon | best member | ratio | neighbours | ratio |")
    print("|---|---|---|---|---|---|---|")
    for most in (1, 9):
        x = recordings(examples, 10, 34, most)
        for measure, epsilon in MEASURES:
            cells = []
            fast = works(sp.Shifts(epsilon, most=most, measure=measure), x)
            slow = works(DenseShifts(epsilon, most=most, measure=measure), x)
            for name in ("best member", "neighbours"):
                took = seconds(fast[name])
                cells += [f"{1000 * took / examples:.1f}", f"{seconds(slow[name]) / took:.0f}"]
            grid = "binary" if most == 1 else "counts"
            print(f"| {grid} | {measure} | {epsilon} | {' | '.join(cells)} |", flush=True)


def as_events_grow(examples: int) -> None:
    """The second table."""
    print("\nMicroseconds per event of one operation on counts, as the grid grows\n")
    print(
        "| grid | events per example | moved: best member | neighbours | jitter: best member | neighbours |"
    )
    print("|---|---|---|---|---|---|")
    for steps, side in ((10, 17), (10, 34), (10, 68), (16, 128)):
        x = recordings(max(1, examples * 34 * 34 // side**2), steps, side, 9)
        events, cells = int((x > 0).sum()), []
        for measure, epsilon in (("moved", 16), ("jitter", 1)):
            fast = works(sp.Shifts(epsilon, most=9, measure=measure), x)
            cells += [f"{1e6 * seconds(fast[name]) / events:.1f}" for name in ("best member", "neighbours")]
        print(f"| {side}x{side}x2x{steps} | {events // len(x):,} | {' | '.join(cells)} |", flush=True)


def whole_queries(examples: int) -> None:
    """The third table."""
    print("\nThe quick suite on an untrained network of 16 and 32 channels, right on every example\n")
    print("| grid | threat | examples | seconds per example | of 100 queries |")
    print("|---|---|---|---|---|")
    for steps, side in ((10, 34), (16, 128)):
        many = max(32, examples * 34 * 34 // side**2)  # batches are padded to 32
        x = recordings(many, steps, side, 1)
        spec = sp.ModelSpec(
            sp.Events(steps), sp.ConvNet(), sp.LIF(), sp.ATan(), sp.MeanPotential(), (2, side, side), 10
        )
        model = spec.build(sp.Key.of(0)).eval()
        y = model(x).argmax(1)
        clean = evaluate_clean(model, x, y, sp.Key.of(0))
        for threat in (sp.Flips(1), sp.Shifts(1), sp.Shifts(1, measure="delay")):
            began = time.process_time()
            found = evaluate_suite(model, "quick", threat, x, y, clean, sp.Key.of(1))
            took = (time.process_time() - began) / many
            queries = sum(member.get("forward_queries", 0) for member in found.members) / many
            name = f"{type(threat).__name__.lower()} {getattr(threat, 'measure', '')}".strip()
            row = f"| {side}x{side}x2x{steps} | {name} | {many} | {took:.2f} | {100 * took / queries:.2f} |"
            print(row, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--examples", type=int, default=30, help="of 34x34 pixels; fewer of larger grids")
    parser.add_argument("--slow", type=int, default=4, help="examples that are looked at entry by entry")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, one thread\n"
    )
    against_every_entry(chosen.slow)
    as_events_grow(chosen.examples)
    whole_queries(chosen.examples)


if __name__ == "__main__":
    main()

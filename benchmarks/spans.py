"""Memory and processor time of one gradient, with all time steps at once and in spans of time steps.

    python benchmarks/spans.py --steps 64 256 --span 16

Each row is a process of its own: MiB at the peak above what the process held before, and processor seconds on
one thread. What a process holds includes what the allocator keeps; `MALLOC_MMAP_THRESHOLD_=65536` in the
environment makes glibc return large tensors at once, so that the peak is that of the tensors.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

from spikeproof.compiled import using_spans
from spikeproof.decoders import MeanPotential
from spikeproof.encoders import Direct, Latency
from spikeproof.keys import Key
from spikeproof.networks import ConvNet, ModelSpec
from spikeproof.neurons import LIF
from spikeproof.surrogates import ATan

ENCODERS = {"direct": Direct, "latency": Latency}


def held(field: str) -> float:
    """MiB of this process, now or at its peak, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def one(name: str, steps: int, span: int | None, batch: int) -> str:
    """MiB and seconds of one gradient, in this process."""
    torch.set_num_threads(1)
    spec = ModelSpec(
        ENCODERS[name](steps), ConvNet((32, 64), (256,)), LIF(), ATan(), MeanPotential(), (1, 28, 28), 10
    )
    model, x = spec.build(Key.of(0)).eval(), Key.of(1).uniform((batch, 1, 28, 28)).requires_grad_()
    before, began = held("VmRSS"), time.process_time()
    with using_spans(span):
        torch.autograd.grad(model(x)[:, 0].sum(), x)
    return f"{held('VmHWM') - before:.0f} {time.process_time() - began:.2f}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    options.add_argument("--steps", nargs="+", type=int, default=[64, 256])
    options.add_argument("--span", type=int, default=16)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        name, steps, span = chosen.one
        print(one(name, int(steps), int(span) or None, chosen.batch))
        return
    print("| encoder | T | at once | MiB | seconds |\n|---|---|---|---|---|")
    for name in chosen.encoders:
        for steps in chosen.steps:
            for span in (0, chosen.span):
                command = [sys.executable, __file__, "--batch", str(chosen.batch), "--one", name, str(steps)]
                mib, seconds = subprocess.check_output([*command, str(span)], text=True).split()
                print(f"| {name} | {steps} | {span or 'all'} | {mib} | {seconds} |", flush=True)


if __name__ == "__main__":
    main()

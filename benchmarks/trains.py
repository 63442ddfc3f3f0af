"""What distances of spike trains cost: pairs of trains of a hundred spikes, in processor time on one thread.

python benchmarks/trains.py [--pairs N] [--spikes N]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import spikeproof as sp
from spikeproof.analysis.trains.spiketrains import SpikeTrains

DISTANCES = (
    sp.VictorPurpura(),
    sp.VanRossum(),
    sp.ISIDistance(),
    sp.SPIKEDistance(),
    sp.SPIKESynchronisation(),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--spikes", type=int, default=100)
    options = parser.parse_args()
    random, shape = np.random.default_rng(0), (options.pairs, options.spikes)
    a, b = (SpikeTrains(np.sort(random.uniform(0, 100, shape)), 100.0) for _ in range(2))
    for distance in DISTANCES:
        distance(a[:2], b[:2])
        began = time.process_time()
        distance(a, b)
        print(f"{distance.title:24} {time.process_time() - began:.2f} s")


if __name__ == "__main__":
    main()

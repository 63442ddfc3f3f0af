"""Recordings of the size of DVS128 Gesture, made of N-MNIST, and the study that attacks them.

    python benchmarks/gesture_sized.py N-MNIST gesture-sized
    spikeproof run docs/results/gesture-sized.yaml --out runs/gesture-sized

Every event of a 34x34 recording becomes twelve on a grid of 128x128, at random places of its enlarged pixel
and up to 20 ms later.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

PARTS = {"Train": 30, "Test": 6}
"""Recordings of each class."""

COPIES, ENLARGED, LATER = 12, 3.7, 20_000


def enlarged(content: bytes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The events of one recording in the published layout of N-MNIST, 5 bytes each, on the larger grid."""
    rows = np.frombuffer(content, np.uint8).reshape(-1, 5).astype(np.int64)
    t = ((rows[:, 2] & 127) << 16) | (rows[:, 3] << 8) | rows[:, 4]
    many = len(rows) * COPIES
    x = (np.repeat(rows[:, 0], COPIES) * ENLARGED + rng.integers(0, 4, many)).astype(np.int64).clip(0, 127)
    y = (np.repeat(rows[:, 1], COPIES) * ENLARGED + rng.integers(0, 4, many)).astype(np.int64).clip(0, 127)
    t, p = np.repeat(t, COPIES) + rng.integers(0, LATER, many), np.repeat(rows[:, 2] >> 7, COPIES)
    order = np.argsort(t, kind="stable")
    return {"x": x[order], "y": y[order], "t": t[order], "p": p[order]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path, help="N-MNIST, with Train and Test")
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    rng = np.random.default_rng(0)
    for part, count in PARTS.items():
        for label in range(10):
            folder = asked.out / part.lower() / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted((asked.source / part / str(label)).glob("*.bin"))[:count]:
                np.savez(folder / f"{file.stem}.npz", **enlarged(file.read_bytes(), rng))


if __name__ == "__main__":
    main()

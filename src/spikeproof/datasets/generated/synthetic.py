"""Synthetic data: spike times on smooth random manifolds, whose classes differ in spike times only."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from spikeproof.datasets.parts import Dataset, DatasetSpec, Split, content_digest, rows_of, shuffled
from spikeproof.errors import InputError

__all__ = ["Randman"]


@dataclass(frozen=True)
class Randman(DatasetSpec):
    r"""Spike times on smooth random manifolds, whose classes differ in spike times only.

    Each class is a manifold of few dimensions in the space of the spike times of all units. In an example,
    which is a point `z` drawn from `U[0, 1]^D`, unit `i` of class `c` fires exactly once:

    .. math::
        f_{ci}(z) = \prod_{d=1}^{D} \sum_{k=1}^{K} k^{-\alpha}\, a_{cidk}
            \sin\bigl(2\pi (k\, b_{cidk}\, z_d + \varphi_{cidk})\bigr), \quad
        t_{ci} = \Bigl\lfloor T\, \frac{f_{ci} - \min f_{ci}}{\max f_{ci} - \min f_{ci}} \Bigr\rfloor

    with `a, b, phi ~ U[0, 1)`, `t <= T - 1`, and `K`, at most 1000, such that terms below a thousandth are
    left out. Every unit fires once in every example, so a model that reads spike counts alone is at chance.
    The rate-matched control, `shuffled=True`, permutes the times of each unit over the examples of a part,
    which keeps the spike counts and the distribution of times of every unit and removes the class.

    Args:
        classes: number of manifolds, 2 to 100.
        units: spiking inputs, 1 to 10,000.
        steps: time steps `T`, 2 to 10,000.
        dimension: intrinsic dimension `D` of each manifold, 1 to 10.
        smoothness: exponent `alpha` of the spectrum, at least 0; the larger, the smoother.
        examples: number of examples per class, 10 to 100,000; eight tenths are the training part, one tenth
            the validation part and one tenth the test part.
        shuffled: whether the data are the control.
        seed: seed of the manifolds and the points, at least 0.

    Shapes:
        examples `[N, T, units, 1, 1]` of 0 and 1, for the encoder `events` with as many steps.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> data = Randman(classes=2, units=5, steps=10, examples=20).load()
        >>> data.train.images.shape, data.train.images.sum(1).unique().tolist()
        (torch.Size([32, 10, 5, 1, 1]), [1])

    Source:
        Zenke & Vogels 2021, Neural Computation 33(4), section "Smooth random manifolds".
    """

    classes: int = 10
    units: int = 20
    steps: int = 50
    dimension: int = 1
    smoothness: float = 2.0
    examples: int = 1000
    shuffled: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("classes", 2, 100),
            ("units", 1, 10_000),
            ("steps", 2, 10_000),
            ("dimension", 1, 10),
            ("smoothness", 0, 100),
            ("examples", 10, 100_000),
            ("seed", 0, 2**63 - 1),
        ):
            if not low <= getattr(self, name) <= high:
                raise InputError(
                    f"Randman needs {name} from {low} to {high}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )
        size = self.classes * self.examples * self.units * self.steps
        if size > 1 << 32:
            raise InputError(
                "Randman fits into 4 GiB",
                f"{self.classes} classes of {self.examples} examples, {self.units} units, {self.steps} steps",
                "Ask for fewer.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        generator = np.random.Generator(np.random.PCG64(self.seed))
        times = np.concatenate([self._manifold(generator) for _ in range(self.classes)])
        labels = np.repeat(np.arange(self.classes), self.examples)
        order = shuffled(len(labels))
        times, labels = times[order], labels[order]
        cuts = [0, len(labels) * 8 // 10, len(labels) * 9 // 10, len(labels)]
        parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
        if self.shuffled:
            for rows in parts:
                times[rows] = generator.permuted(times[rows], axis=0)
        spikes = self._spikes(times)
        whole = Split(torch.from_numpy(spikes), torch.from_numpy(labels), torch.from_numpy(order))
        train, validation, test = (rows_of(whole, rows) for rows in parts)
        names = tuple(str(i) for i in range(self.classes))
        digest = content_digest(spikes, labels)
        return Dataset("randman", train, validation, test, names, digest, self.locate())

    def locate(self, root: Path | None = None) -> str:
        return "drawn when needed"

    def _manifold(self, generator: np.random.Generator) -> Int64[np.ndarray, "examples units"]:
        """The spike times of all examples of one class."""
        points = generator.random((self.dimension, self.examples))
        f = np.ones((self.examples, self.units))
        for z in points:
            amplitude, stretch, phase = generator.random((3, self.units, self._terms()))
            for i in range(self.units):
                f[:, i] *= _function(z, amplitude[i], stretch[i], phase[i], self.smoothness)
        low, high = f.min(0), f.max(0)
        share = np.round((f - low) / np.where(high > low, high - low, 1), 9)  # the same on every machine
        times: np.ndarray = np.minimum(np.floor(share * self.steps), self.steps - 1).astype(np.int64)
        return times

    def _terms(self) -> int:
        """The number `K` of terms of the sum."""
        return 1000 if self.smoothness < 1 else math.ceil(1000 ** (1 / self.smoothness))

    def _spikes(
        self, times: Int64[np.ndarray, "N units"]
    ) -> UInt8[np.ndarray, "N {self.steps} {self.units} 1 1"]:
        spikes = np.zeros((len(times), self.steps, self.units, 1, 1), np.uint8)
        np.put_along_axis(spikes, times[:, None, :, None, None], 1, axis=1)
        return spikes


def _function(
    z: Float[np.ndarray, "N"],
    amplitude: Float[np.ndarray, "K"],
    stretch: Float[np.ndarray, "K"],
    phase: Float[np.ndarray, "K"],
    smoothness: float,
) -> Float[np.ndarray, "N"]:
    """A random smooth function of one coordinate, as its Fourier series."""
    k = np.arange(1, len(amplitude) + 1)
    angle = 2 * np.pi * (np.outer(z, k * stretch) + phase)
    values: np.ndarray = np.sin(angle) @ (amplitude / k**smoothness)
    return values

"""The yin-yang data set: points of a plane in three classes that no linear classifier separates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float

from spikeproof.datasets.parts import Dataset, DatasetSpec, Split, content_digest
from spikeproof.errors import InputError

__all__ = ["YinYang"]

RADIUS = 0.5
DOT = 0.1
FIRST = 42  # the default seed; its three parts are drawn with this and the next two numbers


@dataclass(frozen=True)
class YinYang(DatasetSpec):
    r"""Points (x, y, 1-x, 1-y) in a yin-yang figure, whose class is the region yin, yang or dot.

    The class of each example is drawn first, with equal probabilities, and then a point that is uniform in
    the region of that class within the disc of radius 0.5 about (0.5, 0.5). A point is a *dot* within 0.1 of
    (0.25, 0.5) or (0.75, 0.5). Otherwise it is *yin* where

    .. math:: d_l \le 0.25 \lor (d_r > 0.25 \land y > 0.5)

    with the distances :math:`d_l, d_r` to the two dots' centres, and *yang* elsewhere. Images are
    `[N, 4, 1, 1]`.

    Args:
        train: number of training examples, at least 1.
        validation: number of validation examples, at least 0.
        test: number of test examples, at least 1.
        seed: seed of all parts, at least 0; the parts of different seeds share no points.

    Example:
        >>> data = YinYang(train=60).load()
        >>> data.classes, data.train.images.shape
        (('yang', 'yin', 'dot'), torch.Size([60, 4, 1, 1]))

    Source:
        Kriener, Goeltz & Petrovici 2022 (5000 / 1000 / 1000 examples, seeds 42, 41, 40 there).
    """

    train: int = 5000
    validation: int = 1000
    test: int = 1000
    seed: int = FIRST

    def __post_init__(self) -> None:
        if min(self.train, self.test) < 1 or self.validation < 0 or self.seed < 0:
            raise InputError(
                "YinYang needs examples, and a seed of at least 0",
                f"train={self.train}, validation={self.validation}, test={self.test}, seed={self.seed}",
                "Try the defaults.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        sizes = (self.train, self.validation, self.test)
        parts = [_draw(count, (FIRST + 3 * (self.seed - FIRST) + i) % 2**64) for i, count in enumerate(sizes)]
        rows, splits = torch.split(torch.arange(sum(sizes)), list(sizes)), []
        for (images, labels), ids in zip(parts, rows, strict=True):
            splits.append(Split(torch.from_numpy(images), torch.from_numpy(labels), ids))
        train, validation, test = splits
        digest = content_digest(*(array for part in parts for array in part))
        names = ("yang", "yin", "dot")
        return Dataset("yin-yang", train, validation, test, names, digest, "drawn from its definition")

    def locate(self, root: Path | None = None) -> str:
        return "drawn from its definition"


def _draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.Generator(np.random.PCG64(seed))
    labels = generator.integers(0, 3, count)
    points, missing = np.empty((count, 2)), np.ones(count, bool)
    while missing.any():
        candidates = generator.random((int(missing.sum()), 2))
        fits = (np.hypot(*(candidates - 0.5).T) <= RADIUS) & (classify(candidates) == labels[missing])
        rows = np.flatnonzero(missing)[fits]
        points[rows], missing[rows] = candidates[fits], False
    values = np.concatenate([points, 1 - points], 1).astype(np.float32)
    return values[:, :, None, None], labels


def classify(points: Float[np.ndarray, "N 2"]) -> np.ndarray:
    """0 for yang, 1 for yin, 2 for a dot.

    Example:
        >>> classify(np.array([[0.5, 0.2], [0.5, 0.9], [0.25, 0.5]])).tolist()
        [0, 1, 2]
    """
    left, right = (np.hypot(points[:, 0] - x, points[:, 1] - 0.5) for x in (0.25, 0.75))
    dot = (left < DOT) | (right < DOT)
    yin: Bool[np.ndarray, "N"] = (left <= RADIUS / 2) | ((right > RADIUS / 2) & (points[:, 1] > 0.5))
    return np.where(dot, 2, yin.astype(np.int64))

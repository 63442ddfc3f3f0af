"""What a data set is: examples in three parts that never change, and the digest of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from torch import Tensor

from spikeproof.errors import InputError

__all__ = [
    "ClassProportional",
    "Dataset",
    "First",
    "Sample",
    "Source",
    "Split",
    "content_digest",
    "floats",
    "locate",
    "rows_of",
    "shuffled",
]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set; `ids` tell each example's place in the file it came from.

    Images are floats in [0, 1]. Events are numbers per time step, `[N, T, C, H, W]`, in a small type that
    holds them; whoever computes with them makes floats of one batch at a time.
    """

    images: Float[Tensor, "N C H W"] | Integer[Tensor, "N T C H W"]
    labels: Int64[Tensor, "N"]
    ids: Int64[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """The digest of which examples these are, and in which order."""
        return content_digest(self.ids.numpy(), self.labels.numpy())


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three parts, with the digest of their content.

    Args:
        name: what a study calls it.
        train: examples to learn from.
        validation: examples to choose by; empty where nothing was held out.
        test: examples to measure on.
        classes: their names, in order of the labels.
        sha256: digest of all images and labels, however they were stored.
        source: where they were read.
        notes: what has to be said beside every number on them, such as that they are a subset.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str
    source: str
    notes: tuple[str, ...] = ()


class Sample:
    """Which examples of a part are measured, where not all of them are."""

    def __call__(self, part: Split, n: int) -> Split:
        """The first `n` examples of the part in the order of this rule.

        A smaller sample is the beginning of a larger one.

        Raises:
            InputError: the part has fewer examples.
        """
        if not 0 <= n <= len(part):
            raise InputError(f"At most {len(part)} examples, the whole part", f"{n}", "Ask for fewer.")
        rows = torch.from_numpy(self.order(part.labels.numpy())[:n])
        return Split(part.images[rows], part.labels[rows], part.ids[rows])

    def order(self, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        """All rows of a part, those that are measured first at the beginning."""
        raise NotImplementedError(f"{type(self).__name__} defines no order")


@dataclass(frozen=True, kw_only=True)
class ClassProportional(Sample):
    r"""A random sample in which each class has the share that it has in the whole part.

    .. math:: t = (r + 1/2) / m

    is the place of the `r`-th example (from 0, in random order) of a class of `m` examples, and the sample of
    `n` examples is the beginning of the order of `t`. So every sample, however small, holds `n m / N`
    examples of each class to within one. The first examples of a file that is stored class by class lack most
    classes.

    Args:
        seed: of the order within and between classes; the same for every model of a study.

    Example:
        >>> labels = np.repeat([0, 1], [6, 3])
        >>> labels[ClassProportional().order(labels)].tolist()
        [0, 1, 0, 0, 1, 0, 0, 1, 0]

    Source:
        Cochran 1977, section 5.3 (proportional allocation).
    """

    seed: int = 0

    def order(self, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        chance = np.random.Generator(np.random.PCG64([20230608, self.seed]))
        place = np.empty(len(labels))
        for label in np.unique(labels):
            rows = chance.permutation(np.flatnonzero(labels == label))
            place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        return np.lexsort((chance.permutation(int(labels.max(initial=0)) + 1)[labels], place))


@dataclass(frozen=True)
class First(Sample):
    """The examples in the order of the file.

    Example:
        >>> First().order(np.array([2, 0, 1])).tolist()
        [0, 1, 2]
    """

    def order(self, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        return np.arange(len(labels))


class Source:
    """The name of a data set."""

    def load(self, root: Path | None = None) -> Dataset:
        """Read it; `root` is a directory to look into first."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")

    def locate(self, root: Path | None = None) -> str:
        """Where it would be read from, in a few words."""
        raise NotImplementedError(f"{type(self).__name__} is nowhere")

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        """What `load` would note about the data that are there; nothing where all is as published.

        Raises:
            InputError: files that are not what they should be.
        """
        return ()


def locate(source: type[Source], root: Path | None = None) -> str:
    """Where a data set would be read from, in a few words.

    Example:
        >>> from spikeproof.datasets import Digits
        >>> locate(Digits)
        'shipped with the package'
    """
    return source().locate(root)


def shuffled(n: int) -> Int64[np.ndarray, "{n}"]:
    """A fixed order, the same for everybody: it decides who is held out, not in which order one learns."""
    return np.random.Generator(np.random.PCG64(20230608)).permutation(n)


def floats(images: Tensor) -> Float[Tensor, "N *F"]:
    """Images as they are; events, which are kept in small whole numbers, as floats."""
    return images if images.is_floating_point() else images.float()


def rows_of(whole: Split, rows: slice) -> Split:
    return Split(whole.images[rows], whole.labels[rows], whole.ids[rows])


def content_digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

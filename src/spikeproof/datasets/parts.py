"""The types of a data set: its description, its three parts, and the rule that samples a part."""

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
    "DatasetSpec",
    "First",
    "Sample",
    "Split",
    "content_digest",
    "floats",
    "locate",
    "rows_of",
    "shuffled",
]


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: images or events, with their labels.

    Args:
        images: images as floats in [0, 1]; or numbers of events per time step, in the smallest integer type
            that holds them, which are converted to floats one batch at a time.
        labels: the class of each example, from 0.
        ids: the index of each example in the file or list of files that it was read from.
    """

    images: Float[Tensor, "N C H W"] | Integer[Tensor, "N T C H W"]
    labels: Int64[Tensor, "N"]
    ids: Int64[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def sha256(self) -> str:
        """The digest of `ids` and `labels`, which says which examples the part holds and in which order."""
        return content_digest(self.ids.numpy(), self.labels.numpy())


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three parts, with the digest of their content.

    Args:
        name: the name of the data set in a study.
        train: the examples that a model is trained on.
        validation: the examples on which choices are made; empty if none were held out.
        test: the examples on which a model is measured.
        classes: the names of the classes, in the order of the labels.
        sha256: the digest of all images and labels, which does not depend on the format of the files.
        origin: the file or folder that the data were read from, or how they were generated.
        notes: sentences that are printed beside every number on these data, such as that they are a subset.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str
    origin: str
    notes: tuple[str, ...] = ()


class Sample:
    """The rule that chooses which examples of a part are measured, if not all of them are."""

    def __call__(self, part: Split, n: int) -> Split:
        """The first `n` examples of the part in the order that this rule gives them.

        A smaller sample is therefore the beginning of a larger one.

        Raises:
            InputError: the part has fewer than `n` examples.
        """
        if not 0 <= n <= len(part):
            raise InputError(f"At most {len(part)} examples, the whole part", f"{n}", "Ask for fewer.")
        rows = torch.from_numpy(self.order(part.labels.numpy())[:n])
        return Split(part.images[rows], part.labels[rows], part.ids[rows])

    def order(self, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        """The indices of all examples of a part, in the order in which they are measured."""
        raise NotImplementedError(f"{type(self).__name__} defines no order")


@dataclass(frozen=True, kw_only=True)
class ClassProportional(Sample):
    r"""A random sample in which each class has the share that it has in the whole part.

    .. math:: t = (r + 1/2) / m

    is the rank of the `r`-th example (from 0, in random order) of a class of `m` examples. The sample of `n`
    examples consists of those of the smallest `t`, so that of a part of `N` examples in `K` classes every
    sample, however small, holds `n m / N` of each class to within `(1 + K m / N) / 2`, which is 1 for equally
    frequent classes. The first examples of a file that is stored class by class, in contrast, lack most
    classes.

    Args:
        seed: the seed of the order within and between classes, which is the same for every model of a study.

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
        rank = np.empty(len(labels))
        for label in np.unique(labels):
            rows = chance.permutation(np.flatnonzero(labels == label))
            rank[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
        return np.lexsort((chance.permutation(int(labels.max(initial=0)) + 1)[labels], rank))


@dataclass(frozen=True)
class First(Sample):
    """The first examples, in the order of the file.

    Example:
        >>> First().order(np.array([2, 0, 1])).tolist()
        [0, 1, 2]
    """

    def order(self, labels: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
        return np.arange(len(labels))


class DatasetSpec:
    """The description of a data set: which one it is, and the options with which it is read."""

    def load(self, root: Path | None = None) -> Dataset:
        """Read the data set.

        Args:
            root: the directory that is searched before all others, or None.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define load")

    def locate(self, root: Path | None = None) -> str:
        """The file or folder that `load` would read, or a phrase such as `not found`."""
        raise NotImplementedError(f"{type(self).__name__} does not define locate")

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        """The notes that `load` would attach to the data; empty if the files are as published.

        Raises:
            InputError: the files cannot be used.
        """
        return ()


def locate(spec: type[DatasetSpec], root: Path | None = None) -> str:
    """The file or folder that a data set would be read from, or a phrase such as `not found`.

    Example:
        >>> from spikeproof.datasets import Digits
        >>> locate(Digits)
        'shipped with the package'
    """
    return spec().locate(root)


def shuffled(n: int) -> Int64[np.ndarray, "{n}"]:
    """A fixed random order of `n` examples, which decides which of them are held out."""
    return np.random.Generator(np.random.PCG64(20230608)).permutation(n)


def floats(images: Tensor) -> Float[Tensor, "N *F"]:
    """Images unchanged, and numbers of events converted from small integers to floats."""
    return images if images.is_floating_point() else images.float()


def rows_of(whole: Split, rows: slice) -> Split:
    """A slice of a part."""
    """A slice of a part."""
    return Split(whole.images[rows], whole.labels[rows], whole.ids[rows])


def content_digest(*arrays: np.ndarray) -> str:
    """The SHA-256 of the shapes and the bytes of arrays, in hexadecimal digits."""
    """The SHA-256 of the shapes and the bytes of arrays, in hexadecimal digits."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

"""What a data set is: examples in three parts that never change, and the digest of their content."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int64, Integer
from torch import Tensor

__all__ = ["Dataset", "Source", "Split", "content_digest", "floats", "locate", "rows_of", "shuffled"]


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
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]
    sha256: str
    source: str


class Source:
    """The name of a data set."""

    def load(self, root: Path | None = None) -> Dataset:
        """Read it; `root` is a directory to look into first."""
        raise NotImplementedError(f"{type(self).__name__} reads nothing")

    def locate(self, root: Path | None = None) -> str:
        """Where it would be read from, in a few words."""
        raise NotImplementedError(f"{type(self).__name__} is nowhere")


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

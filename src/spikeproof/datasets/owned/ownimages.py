"""Images of the user: what is common to all layouts, from stored pixels to a data set in three parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8

from spikeproof.datasets.intake.census import Subset
from spikeproof.datasets.intake.files import missing_variable
from spikeproof.datasets.owned.division import Division, counted
from spikeproof.datasets.owned.layouts import described, found_at, needs
from spikeproof.datasets.parts import Dataset, DatasetSpec, Split, content_digest
from spikeproof.errors import InputError

__all__ = ["MOST", "OwnImages", "Pixels", "Stored", "assembled"]

Pixels = UInt8[np.ndarray, "N C H W"] | Float[np.ndarray, "N C H W"]

MOST = 1 << 33
"""The largest total size of the images of a data set as floats, in bytes."""


class Stored(NamedTuple):
    """Images and labels as the files hold them.

    Args:
        images: part that the files define -> its images, as bytes or as floats in [0, 1]; the only part is
            `train` if they define none.
        labels: part -> the class of each image, from 0.
        classes: the names of the classes.
        notes: what has to be said of the files.
    """

    images: Mapping[str, Pixels]
    labels: Mapping[str, Int64[np.ndarray, "N"]]
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class OwnImages(DatasetSpec):
    """Images of the user, in a layout that a subclass reads."""

    path: str
    classes: tuple[str, ...] = ()
    test: float = 0.2
    hold_out: float = 0.1
    seed: int = 0
    subset: Subset | None = None

    def __post_init__(self) -> None:
        self.division  # noqa: B018, refuses what cannot be
        if len(set(self.classes)) < len(self.classes):
            raise InputError("Each class is named once", ", ".join(self.classes), "Leave out the copies.")

    @property
    def division(self) -> Division:
        """The rule that divides the images into parts, where the files do not."""
        return Division(self.test, self.hold_out, self.seed)

    def stored(self, path: Path) -> Stored:
        """The images and labels of a file or folder.

        Raises:
            InputError: it cannot be used.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define stored")

    def load(self, root: Path | None = None) -> Dataset:
        """Read the images.

        Args:
            root: the directory that `path` is relative to; after it come `SPIKEPROOF_DATA` and the working
                directory.

        Raises:
            InputError: there is nothing at `path`, or it cannot be used.
        """
        path = needs(f"{type(self).__name__} needs a file or folder", self.path, root)
        return assembled(self.name, self.stored(path), self.division, self.subset, str(path))

    def locate(self, root: Path | None = None) -> str:
        return described(self.path, root)

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return self.load(root).notes if found_at(self.path, root) else ()

    @property
    def name(self) -> str:
        """The name of the data set: the last part of its path."""
        return Path(self.path).name.removesuffix(".npz") or self.path


def assembled(name: str, stored: Stored, division: Division, subset: Subset | None, origin: str) -> Dataset:
    """The data set of stored images.

    Raises:
        InputError: the parts have images of different shapes or types, lack classes, or are too large.
    """
    shapes = {images.shape[1:] for images in stored.images.values()}
    kinds = {images.dtype for images in stored.images.values()}
    if len(shapes) != 1 or len(kinds) != 1:
        raise InputError(
            f"All parts of {name} have images of one shape and type",
            ", ".join(f"{part} {i.shape[1:]} {i.dtype}" for part, i in stored.images.items()),
            "Convert the files to one size and type.",
        )
    images = np.concatenate(list(stored.images.values()))
    labels = np.concatenate(list(stored.labels.values()))
    check_room(name, images.size)
    rows = division.divide(stored.labels)
    notes = [*counted(name, labels, rows, stored.classes, subset, origin), *stored.notes]
    notes += [*_shared(name, images, rows), *_range_note(name, images)]
    digest = content_digest(images, labels, *(np.array(len(each)) for each in stored.labels.values()))
    train, validation, test = (_part(images, labels, rows[part]) for part in rows)
    return Dataset(
        name,
        train,
        validation,
        test,
        stored.classes,
        digest,
        origin,
        (*missing_variable(), *notes),
    )


def check_room(name: str, values: int) -> None:
    """Refuse images that take more than 8 GiB as floats.

    Raises:
        InputError: they do.
    """
    if 4 * values > MOST:
        raise InputError(
            f"The images of {name} fit into {MOST >> 30} GiB",
            f"{values:,} values of 4 bytes",
            "Use fewer or smaller images.",
        )


def _part(images: Pixels, labels: Int64[np.ndarray, "N"], rows: Int64[np.ndarray, "m"]) -> Split:
    pixels = torch.from_numpy(images[rows]).to(torch.float32)
    if images.dtype == np.uint8:
        pixels = pixels.div_(255)
    return Split(pixels, torch.from_numpy(labels[rows]), torch.from_numpy(rows))


def _range_note(name: str, images: Pixels) -> list[str]:
    """A sentence about images that use a small part of the range from 0 to 1; nothing about others.

    Raises:
        InputError: no pixel is above 1/255, as with zeros and ones in bytes, or bytes divided twice.
    """
    brightest = float(images.max()) / (255 if images.dtype == np.uint8 else 1)
    if brightest <= (1 + 1e-6) / 255:
        raise InputError(
            f"The pixels of {name} are bytes from 0 to 255, or floats from 0 to 1",
            f"none above {brightest:.4f} of the range",
            "Scale them to the whole range, in which budgets are measured.",
        )
    if brightest >= DARK:
        return []
    return [f"{name}: the brightest pixel has {brightest:.3f} of the range, in which budgets are measured"]


DARK = 0.25
"""The share of the range that the brightest pixel of a data set has at least, without a note."""


def _shared(name: str, images: Pixels, rows: Mapping[str, Int64[np.ndarray, "m"]]) -> list[str]:
    """A sentence if images of the test part are also among the others; nothing if none are."""
    seen = {_digest(images[i]) for part in ("train", "validation") for i in rows[part]}
    copies = sum(_digest(images[i]) in seen for i in rows["test"])
    if not copies:
        return []
    return [f"{name}: {copies:,} of {len(rows['test']):,} test images are also among the other images"]


def _digest(image: np.ndarray) -> bytes:
    return blake2b(image.tobytes(), digest_size=16).digest()

"""Arrays of NumPy: images and labels in one `.npz` file, or in `.npy` files beside each other."""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64

from spikeproof.datasets.intake.files import first_line, listed, take
from spikeproof.datasets.owned.division import part_of
from spikeproof.datasets.owned.layouts import content_of
from spikeproof.datasets.owned.ownimages import OwnImages, Pixels, Stored, check_room
from spikeproof.errors import InputError

__all__ = ["ImageArrays", "read_npy", "read_npz"]

LARGEST = 1 << 33  # bytes of one array
LONGEST_HEADER = 1 << 16  # bytes of the header of an array
MOST_ARRAYS = 10_000  # in one file
IMAGES = frozenset({"x", "image", "images", "data", "pixels", "inputs"})
LABELS = frozenset({"y", "label", "labels", "target", "targets"})
CHANNELS = frozenset({1, 3})


@dataclass(frozen=True, kw_only=True)
class ImageArrays(OwnImages):
    """Images and labels of the user as arrays of NumPy.

    The arrays are in one `.npz` file, or in `.npy` files of one folder. Each is named after its content (`x`,
    `images`, `data`; `y`, `labels`, `targets`) and, if the files define the parts, its part (`train`, `val`,
    `test`), in any order: `x_train` and `y_test` as Keras writes them, `val_images` as MedMNIST does. Images
    are unsigned bytes, which are divided by 255, or floats in [0, 1]; labels are whole numbers from 0. Files
    with pickled objects are refused. Without parts in the files, parts are divided by class and seed.

    Args:
        path: the `.npz` file or the folder, absolute or below the directory given with `--data`.
        classes: the names of the classes in the order of the labels; empty for `0`, `1` and so on.
        test: share of the images in the test part, if the files define no parts, 0 to 0.5.
        hold_out: share of the other images in the validation part, if the files have none, 0 to 0.5.
        seed: seed of the division, at least 0.
        channels: whether the channels are the axis after the number of images, `"first"`, or the last axis,
            `"last"`; None to take the axis of 1 or 3 entries.
        subset: numbers of images in the files, which are then checked, such as `{train: 1000, test: 100}`.

    Shapes:
        images `[N, C, H, W]` in [0, 1]; the arrays are `[N, H, W]`, `[N, C, H, W]` or `[N, H, W, C]`.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> ImageArrays(path="kmnist.npz").locate()
        'not found'

    Source:
        the file formats of numpy.lib.format, versions 1 to 3.
    """

    path: str = "image-arrays"
    channels: Literal["first", "last"] | None = None

    def stored(self, path: Path) -> Stored:
        images, labels = dict[str, Pixels](), dict[str, Int64[np.ndarray, "N"]]()
        unused = []
        for name, array in sorted(_arrays(path)):
            part, kind = _meaning(name)
            if kind is None:
                unused.append(name)
            elif part in (table := images if kind is IMAGES else labels):
                raise InputError(f"{path} has one array of each kind", f"a second one, {name}", "Remove one.")
            elif kind is IMAGES:
                table[part] = self._images(array, f"{path}:{name}")
            else:
                table[part] = _labels(array, f"{path}:{name}")
        return self._paired(images, labels, unused, path)

    def _paired(
        self,
        images: Mapping[str, Pixels],
        labels: Mapping[str, Int64[np.ndarray, "N"]],
        unused: list[str],
        path: Path,
    ) -> Stored:
        sizes = {part: (len(images.get(part, ())), len(labels.get(part, ()))) for part in {*images, *labels}}
        if "train" not in images or any(a != b or not a for a, b in sizes.values()):
            found = ", ".join(f"{part} {a} images and {b} labels" for part, (a, b) in sorted(sizes.items()))
            others = f"; not understood: {', '.join(unused[:9])}" if unused else ""
            raise InputError(
                f"{path} has as many images as labels in each part",
                f"{found or 'no arrays with such names'}{others}",
                "Name the arrays x_train, y_train, x_test and y_test, or images and labels.",
            )
        count = 1 + max(int(each.max()) for each in labels.values())
        names = self.classes or tuple(str(i) for i in range(count))
        if count > len(names):
            raise InputError(
                f"{path} has labels of {len(names)} classes", f"label {count - 1}", "Name all classes."
            )
        order = [part for part in ("train", "validation", "test") if part in images]
        notes = (f"arrays that were not used: {', '.join(unused[:9])}",) if unused else ()
        return Stored(
            {part: images[part] for part in order}, {part: labels[part] for part in order}, names, notes
        )

    def _images(self, array: np.ndarray, where: str) -> Pixels:
        """Images of a stored array, with channels before height and width."""
        check_room(where, array.size)
        if array.ndim == 3:
            array = array[:, None]
        if array.ndim != 4 or not array.size:
            raise InputError(
                f"{where} has images [N, H, W], [N, C, H, W] or [N, H, W, C]",
                f"shape {list(array.shape)}",
                "Reshape the array.",
            )
        if array.shape[1] != 1 and self._channels_last(array.shape, where):
            array = array.transpose(0, 3, 1, 2)
        if array.dtype == np.uint8:
            return array
        if array.dtype.kind in FLOATS and np.isfinite(array).all() and 0 <= array.min() <= array.max() <= 1:
            return array.astype(np.float32)
        raise InputError(
            f"{where} has unsigned bytes, or floats from 0 to 1",
            f"{array.dtype} from {array.min()} to {array.max()}",
            "Convert the pixels, without normalising them by mean and deviation.",
        )

    def _channels_last(self, shape: tuple[int, ...], where: str) -> bool:
        if self.channels is not None:
            return LAST[self.channels]
        first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
        if first == last:
            raise InputError(
                f"{where} has an axis of 1 or 3 channels, either the second or the last",
                f"shape {list(shape)}",
                "Write channels: first or channels: last.",
            )
        return last


LAST = {"first": False, "last": True}
FLOATS = frozenset("f")
INTEGERS = frozenset("iu")


def _meaning(name: str) -> tuple[str, frozenset[str] | None]:
    """The part and the kind of an array by its name, such as `x_train`."""
    part, kind = "train", None
    for word in re.split(r"[^a-z]+", name.lower()):
        part = part_of(word) or part
        kind = next((words for words in (IMAGES, LABELS) if word in words), kind)
    return part, kind


def _labels(array: np.ndarray, where: str) -> Int64[np.ndarray, "N"]:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in INTEGERS or not array.size or array.min() < 0:
        raise InputError(
            f"{where} has labels [N], whole numbers from 0",
            f"{array.dtype} of shape {list(array.shape)}",
            "Write the number of its class for each image.",
        )
    return array.astype(np.int64)


def _arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of a `.npz` file, or of the `.npy` files of a folder, by name."""
    if path.is_dir():
        paths = listed(path, ".npy")
        for file in paths:
            yield file.stem, read_npy(content_of(file, LARGEST), str(file))
        packed = listed(path, ".npz")
        if not paths and len(packed) == 1:
            yield from read_npz(packed[0]).items()
    else:
        yield from read_npz(path).items()


def read_npz(path: Path, most: int = LARGEST) -> dict[str, np.ndarray]:
    """The arrays of a `.npz` file by name.

    Args:
        path: the file.
        most: the largest size of all arrays together, in bytes.

    Raises:
        InputError: it is no complete `.npz` file, holds pickled objects, or is too large.
    """
    found, room = dict[str, np.ndarray](), most
    try:
        with zipfile.ZipFile(io.BytesIO(content_of(path, most))) as archive:
            members = [member for member in archive.infolist() if member.filename.endswith(".npy")]
            if len(members) > MOST_ARRAYS:
                raise _bad(path, f"{len(members)} arrays")
            for member in members:
                with archive.open(member) as file:
                    content = bytes(take(file, room + 1))
                room -= len(content)
                if room < 0:
                    raise _bad(path, f"more than {most} bytes")
                name = member.filename.removesuffix(".npy")
                found[name] = read_npy(content, f"{path}:{name}")
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise _bad(path, f"a damaged file ({first_line(error)})") from error
    return found


def read_npy(content: bytes, where: str) -> np.ndarray:
    """The array of a `.npy` file, without copying it.

    Args:
        content: the bytes of the file.
        where: what the file is called in messages.

    Raises:
        InputError: it is no complete `.npy` file, or holds pickled objects.
    """
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = HEADERS[version]
        shape, fortran, kind = read(file, LONGEST_HEADER)
    except Exception as error:  # the header is parsed as Python text, which may be wrong in any way
        raise _bad(where, f"another format ({first_line(error)})") from error
    if kind.hasobject:
        raise _bad(where, "pickled objects, which could run code")
    size = math.prod(shape) * kind.itemsize
    if len(content) - file.tell() != size or min(shape, default=0) < 0:
        raise _bad(where, f"{len(content) - file.tell()} bytes of data for shape {shape} of {kind}")
    array = np.frombuffer(content, kind, offset=file.tell()) if size else np.empty(math.prod(shape), kind)
    return array.reshape(shape, order="F" if fortran else "C")


HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
"""Version of the format, and the function that reads its header without running code."""


def _bad(where: object, got: str) -> InputError:
    return InputError(
        f"{where} should be a complete file of NumPy without objects",
        got,
        "Write it again with numpy.save or numpy.savez, or replace it by a good copy.",
    )

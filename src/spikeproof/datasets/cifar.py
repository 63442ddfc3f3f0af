"""CIFAR-10 and CIFAR-100, from their binary version or from the Python batches, of which no code is run."""

from __future__ import annotations

import os
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from spikeproof.datasets.files import MIRROR_VARIABLE, download, first_line, places, take, user_cache
from spikeproof.datasets.images import image_split
from spikeproof.datasets.parts import Dataset, Source, content_digest, rows_of, shuffled
from spikeproof.errors import InputError

__all__ = ["CIFAR10", "CIFAR100"]

PIXELS = 3 * 32 * 32
LARGEST = 1 << 28  # bytes of one file's content that a reader is willing to hold
MOST = 100_000  # images in one file

Rows = tuple[UInt8[np.ndarray, "N 3072"], UInt8[np.ndarray, "N"]]
Open = Callable[[str], IO[bytes]]


@dataclass(frozen=True)
class CIFAR(Source):
    """60,000 colour pictures of 32x32 pixels, in any of the three forms they are handed out in."""

    hold_out: int = 5000
    folder: ClassVar[str]
    archive: ClassVar[str]
    checksum: ClassVar[str]  # SHA-256 of the archive
    mirror: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    python: ClassVar[str]  # the folder of the Python version
    binary: ClassVar[str]  # the folder of the binary version
    train_files: ClassVar[tuple[str, ...]]
    test_files: ClassVar[tuple[str, ...]]
    label_key: ClassVar[str]
    label_bytes: ClassVar[int]  # before each image in the binary version; the last is the class
    names: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= 25_000:
            raise InputError(
                f"{type(self).__name__} holds out 0 to 25000 training images for validation",
                f"hold_out={self.hold_out}",
                "Try 5000, or 0 to train on all of them.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        """Read the files, or fetch them.

        Args:
            root: a directory that holds the Python batches, the binary version or the Python archive, itself
                or in a folder named as the archive names it; looked into before the others.

        Raises:
            InputError: files that are not what they should be, or no files and no way to fetch them.
        """
        place = self._find(root) or self._fetch(root)
        with self._opened(place) as (binary, read):
            train, test = (
                _joined([self._rows(binary, read, name, place) for name in names])
                for names in (self.train_files, self.test_files)
            )
        count = len(train[1])
        if count <= self.hold_out:
            raise InputError(
                f"{type(self).__name__} needs more training images than it holds out",
                f"{count} images, hold_out={self.hold_out}",
                "Hold out fewer, or check that the files are complete.",
            )
        everything = image_split(_square(train[0]), train[1], 255, shuffled(count))
        return Dataset(
            self.folder,
            rows_of(everything, slice(0, count - self.hold_out)),
            rows_of(everything, slice(count - self.hold_out, None)),
            image_split(_square(test[0]), test[1], 255, np.arange(len(test[1]))),
            self.names,
            content_digest(*train, *test),
            str(place),
        )

    def locate(self, root: Path | None = None) -> str:
        place = self._find(root)
        return str(place) if place else "not found; fetched when needed"

    def _find(self, root: Path | None) -> Path | None:
        """A folder of either version, or the archive."""
        for place in self._places(root):
            for suffix in ("", ".bin"):
                if all((place / f"{name}{suffix}").is_file() for name in self.train_files + self.test_files):
                    return place
            if (place / self.archive).is_file():
                return place / self.archive
        return None

    def _places(self, root: Path | None) -> Iterator[Path]:
        yield from places(root, self.folder, (self.python, self.binary))

    def _fetch(self, root: Path | None) -> Path:
        cache = user_cache()
        variable = f"{MIRROR_VARIABLE}_{type(self).__name__.upper()}"
        mirror = os.environ.get(variable, self.mirror)
        try:
            if cache is None:
                raise ImportError("platformdirs is not installed; pip install 'spikeproof[study]'")
            download(mirror, {self.archive: self.checksum}, cache / self.folder)
        except Exception as error:  # whatever the network or the disk said, the user needs the same advice
            tried = "\n".join(f"  - {place}" for place in self._places(root))
            raise InputError(
                f"The {type(self).__name__} batches, binary or Python, or {self.archive}",
                f"no place that has them all:\n{tried}\n"
                f"  - {mirror}: {type(error).__name__}, {first_line(error)}",
                "Give their directory with --data or SPIKEPROOF_DATA; or let torchvision download them and "
                f"give its root; or name a server that has the archive in {variable}. Fetching needs pip "
                "install 'spikeproof[study]'.",
            ) from error
        return cache / self.folder / self.archive

    @contextmanager
    def _opened(self, place: Path) -> Iterator[tuple[bool, Open]]:
        """Whether the files are of the binary version, and how to open them by name."""
        if place.is_dir():
            yield (place / f"{self.test_files[0]}.bin").is_file(), lambda name: (place / name).open("rb")
            return
        try:
            with tarfile.open(place, "r:gz") as archive:
                members = {Path(m.name).name: m for m in archive if m.isfile()}

                def open_member(name: str) -> IO[bytes]:
                    file = archive.extractfile(members[name]) if name in members else None
                    if file is None:
                        raise _bad(place, f"no {name} among {sorted(members)[:9]}")
                    return file

                yield False, open_member
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise _bad(place, f"a broken archive ({error})") from error

    def _rows(self, binary: bool, read: Open, name: str, place: Path) -> Rows:
        """Images and labels of one file."""
        path = place / (f"{name}.bin" if binary else name)
        try:
            with read(path.name) as file:
                content = take(file, LARGEST + 1)
        except OSError as error:
            raise _bad(path, f"an unreadable file ({error.strerror or error})") from error
        if len(content) > LARGEST:
            raise _bad(path, f"more than {LARGEST} bytes")
        pixels, labels = self._from_binary(content, path) if binary else self._from_batch(content, path)
        if labels.size and labels.max() >= len(self.names):
            raise _bad(path, f"label {labels.max()} where there are {len(self.names)} classes")
        return pixels, labels

    def _from_binary(self, content: bytearray, path: Path) -> Rows:
        """Records of one or two label bytes and the pixels: red, green, blue, each row by row."""
        size = self.label_bytes + PIXELS
        if not content or len(content) % size:
            raise _bad(path, f"{len(content)} bytes, no whole number of records of {size}")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, self.label_bytes :], records[:, self.label_bytes - 1]

    def _from_batch(self, content: bytearray, path: Path) -> Rows:
        """A pickled dictionary, as Python 2 or 3 wrote it."""
        batch = unpickled(bytes(content), path)
        if not isinstance(batch, dict):
            raise _bad(path, f"a pickled {type(batch).__name__} instead of a dictionary")
        entries = {k.decode("latin-1") if isinstance(k, bytes) else k: v for k, v in batch.items()}
        pixels, labels = entries.get("data"), entries.get(self.label_key)
        if not (
            isinstance(pixels, np.ndarray)
            and pixels.dtype == np.uint8
            and pixels.shape[1:] == (PIXELS,)
            and 1 <= len(pixels) <= MOST
        ):
            raise _bad(path, "no 'data' of unsigned bytes [N, 3072]")
        if not (
            isinstance(labels, list)
            and len(labels) == len(pixels)
            and all(type(label) is int and 0 <= label < 256 for label in labels)
        ):
            raise _bad(path, f"no {self.label_key!r} with one whole number from 0 to 255 for each image")
        return pixels, np.array(labels, np.uint8)


@dataclass(frozen=True)
class CIFAR10(CIFAR):
    """60,000 colour pictures of animals and vehicles, 32x32 pixels, in 10 classes.

    Args:
        hold_out: training images set aside for validation, 0 to 25,000.

    Source:
        Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    folder: ClassVar[str] = "cifar10"
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    checksum: ClassVar[str] = "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce"
    python: ClassVar[str] = "cifar-10-batches-py"
    binary: ClassVar[str] = "cifar-10-batches-bin"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{i}" for i in range(1, 6))
    test_files: ClassVar[tuple[str, ...]] = ("test_batch",)
    label_key: ClassVar[str] = "labels"
    label_bytes: ClassVar[int] = 1
    names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )


@dataclass(frozen=True)
class CIFAR100(CIFAR):
    """60,000 colour pictures of 32x32 pixels in 100 fine classes.

    Args:
        hold_out: training images set aside for validation, 0 to 25,000.

    Source:
        Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """

    folder: ClassVar[str] = "cifar100"
    archive: ClassVar[str] = "cifar-100-python.tar.gz"
    checksum: ClassVar[str] = "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7"
    python: ClassVar[str] = "cifar-100-python"
    binary: ClassVar[str] = "cifar-100-binary"
    train_files: ClassVar[tuple[str, ...]] = ("train",)
    test_files: ClassVar[tuple[str, ...]] = ("test",)
    label_key: ClassVar[str] = "fine_labels"
    label_bytes: ClassVar[int] = 2
    names: ClassVar[tuple[str, ...]] = (
        "apple",
        "aquarium_fish",
        "baby",
        "bear",
        "beaver",
        "bed",
        "bee",
        "beetle",
        "bicycle",
        "bottle",
        "bowl",
        "boy",
        "bridge",
        "bus",
        "butterfly",
        "camel",
        "can",
        "castle",
        "caterpillar",
        "cattle",
        "chair",
        "chimpanzee",
        "clock",
        "cloud",
        "cockroach",
        "couch",
        "crab",
        "crocodile",
        "cup",
        "dinosaur",
        "dolphin",
        "elephant",
        "flatfish",
        "forest",
        "fox",
        "girl",
        "hamster",
        "house",
        "kangaroo",
        "keyboard",
        "lamp",
        "lawn_mower",
        "leopard",
        "lion",
        "lizard",
        "lobster",
        "man",
        "maple_tree",
        "motorcycle",
        "mountain",
        "mouse",
        "mushroom",
        "oak_tree",
        "orange",
        "orchid",
        "otter",
        "palm_tree",
        "pear",
        "pickup_truck",
        "pine_tree",
        "plain",
        "plate",
        "poppy",
        "porcupine",
        "possum",
        "rabbit",
        "raccoon",
        "ray",
        "road",
        "rocket",
        "rose",
        "sea",
        "seal",
        "shark",
        "shrew",
        "skunk",
        "skyscraper",
        "snail",
        "snake",
        "spider",
        "squirrel",
        "streetcar",
        "sunflower",
        "sweet_pepper",
        "table",
        "tank",
        "telephone",
        "television",
        "tiger",
        "tractor",
        "train",
        "trout",
        "tulip",
        "turtle",
        "wardrobe",
        "whale",
        "willow_tree",
        "wolf",
        "woman",
        "worm",
    )


class _Plain(pickle.Unpickler):
    """Reads arrays and plain values; every other name in the file is refused before it is looked up.

    An array is built by a function of ours from the bytes that are in the file, so nothing the file says can
    claim memory that it does not fill.
    """

    def find_class(self, module: str, name: str) -> object:
        try:
            return ALLOWED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


_Bytes = bytes | bytearray | str
_State = tuple[int, tuple[int, ...], object, object, _Bytes]
"""An array as a pickle has it: version, shape, type, whether columns come first, bytes; all unchecked."""


class _Array:
    """Stands in for an array while its state is read."""

    array: np.ndarray

    def __setstate__(self, state: _State) -> None:
        _version, shape, kind, fortran, data = state
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin-1")
        if kind is not UNSIGNED_BYTE or fortran not in (False, 0) or type(data) is not bytes:
            raise pickle.UnpicklingError("an array is not of plain unsigned bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _UnsignedByte:
    """Stands in for NumPy's type of unsigned bytes; there is one, and it has no state that matters."""

    def __setstate__(self, state: object) -> None:
        pass


UNSIGNED_BYTE = _UnsignedByte()


def _type(name: object = None, *_: object) -> _UnsignedByte:
    if name not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"an array is of type {name!r:.40}")
    return UNSIGNED_BYTE


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: _Bytes, kind: object, shape: tuple[int, ...], order: object) -> _Array:
    """How protocol 5 writes an array."""
    array = _Array()
    array.__setstate__(
        (1, shape, kind, order != "C", bytes(data) if isinstance(data, (bytes, bytearray)) else data)
    )
    return array


def _encode(text: object, encoding: object) -> bytes:
    """How protocols before 3 write bytes."""
    if not (isinstance(text, str) and encoding in ("latin1", "latin-1")):
        raise pickle.UnpicklingError("text is encoded in an unusual way")
    return text.encode("latin-1")


class _Maker:
    """Something that a pickle may call and not change."""

    __slots__ = ("make",)

    def __init__(self, make: Callable[..., object]) -> None:
        self.make = make

    def __call__(self, *arguments: object) -> object:
        return self.make(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it changes a function")


ALLOWED: Mapping[tuple[str, str], object] = {
    ("numpy.core.multiarray", "_reconstruct"): _Maker(_reconstruct),
    ("numpy.core.numeric", "_frombuffer"): _Maker(_from_buffer),
    ("numpy", "ndarray"): object(),
    ("numpy", "dtype"): _Maker(_type),
    ("_codecs", "encode"): _Maker(_encode),
}
"""What stands for the names that NumPy's arrays of bytes ask for."""

TUPLES = 24
"""Most tuples in a pickle: an array needs seven, and many within each other take forever to hash."""


def _check_operations(content: bytes) -> None:
    """Refuse what claims more memory or time than its size warrants."""
    tuples = 0
    for operation, argument, _ in pickletools.genops(content):
        tuples += operation.name.startswith("TUPLE")
        if tuples > TUPLES:
            raise pickle.UnpicklingError(f"it holds more than {TUPLES} tuples")
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and (argument or 0) > len(content):
            raise pickle.UnpicklingError("it numbers more values than it has bytes")


def unpickled(content: bytes, path: Path) -> Any:
    """What was pickled, if it is arrays of bytes and plain values, one dictionary deep.

    Raises:
        InputError: anything else.
    """
    try:
        _check_operations(content)
        found = _Plain(BytesIO(content), encoding="latin-1").load()
        if isinstance(found, dict):
            found = {k: v.array if isinstance(v, _Array) else v for k, v in found.items()}
    except Exception as error:  # a hostile pickle may fail in any way
        raise _bad(
            path, f"a pickle that is not read further: {type(error).__name__}, {first_line(error)}"
        ) from None
    return found


def _joined(files: list[Rows]) -> Rows:
    return np.concatenate([pixels for pixels, _ in files]), np.concatenate([labels for _, labels in files])


def _square(pixels: UInt8[np.ndarray, "N 3072"]) -> UInt8[np.ndarray, "N 3 32 32"]:
    return pixels.reshape(-1, 3, 32, 32)


def _bad(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} should be a file of CIFAR-10 or CIFAR-100 as published",
        got,
        "Replace it by a good copy; a damaged download is fetched again once it is deleted.",
    )

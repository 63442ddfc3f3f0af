"""CIFAR-10 and CIFAR-100, from the binary version or from the pickled batches, read without running code."""

from __future__ import annotations

import gzip
import os
import pickle
import pickletools
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from io import BytesIO, RawIOBase
from pathlib import Path
from typing import IO, ClassVar

import numpy as np
from jaxtyping import UInt8

from spikeproof.datasets.images import image_split
from spikeproof.datasets.intake.census import Subset, admitted
from spikeproof.datasets.intake.files import (
    CHUNK,
    MIRROR_VARIABLE,
    Base,
    bases,
    download,
    first_line,
    first_usable,
    is_hidden,
    layouts_of,
    missing_variable,
    take,
    user_cache,
)
from spikeproof.datasets.intake.nearmisses import nested, sighted
from spikeproof.datasets.parts import Dataset, DatasetSpec, content_digest, rows_of, shuffled
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["CIFAR10", "CIFAR100"]

PIXELS = 3 * 32 * 32
LARGEST = 1 << 28  # bytes of the content of one file
MOST = 100_000  # images in one file
MEMBERS = 1_000  # files in an archive; the published archive has nine
UNPACKED = 1 << 30  # bytes of the content of an archive
HEADER = 1 << 14  # bytes of one header in an archive

Rows = tuple[UInt8[np.ndarray, "N 3072"], UInt8[np.ndarray, "N"]]


@dataclass(frozen=True)
class CIFAR(DatasetSpec):
    """A data set of 60,000 colour images of 32x32 pixels, in any of the three published formats."""

    hold_out: int = 5000
    subset: Subset | None = None
    published: ClassVar[Mapping[str, int]] = {"train": 50_000, "test": 10_000}
    folder: ClassVar[str]
    archive: ClassVar[str]
    checksum: ClassVar[str]  # SHA-256 of the archive
    mirror: ClassVar[str] = "https://www.cs.toronto.edu/~kriz/"
    python: ClassVar[str]  # the folder of the Python version
    binary: ClassVar[str]  # the folder of the binary version
    train_files: ClassVar[tuple[str, ...]]
    test_files: ClassVar[tuple[str, ...]]
    label_key: ClassVar[str]
    label_bytes: ClassVar[int]  # before each image in the binary version; the last of them is the class
    names: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= 25_000:
            raise InputError(
                f"{type(self).__name__} holds out 0 to 25000 training images for validation",
                f"hold_out={self.hold_out}",
                "Try 5000, or 0 to train on all of them.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        """Read the files, or download them.

        Args:
            root: the directory that is searched before all others. The Python batches, the binary version or
                the Python archive lie in it, or in a folder named as in the archive.

        Raises:
            InputError: the files cannot be used, or there are none and they cannot be downloaded.
        """
        data, passed = first_usable(self._find(root) or [self._fetch(root)], self._read)
        return replace(data, notes=(*missing_variable(), *passed, *data.notes))

    def locate(self, root: Path | None = None) -> str:
        found = self._find(root)
        return str(found[0]) if found else "not found; downloaded when needed"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return replace(self, hold_out=0).load(root).notes if self._find(root) else ()

    def _read(self, found: Path) -> Dataset:
        """The data set from a folder or from the archive."""
        binary = found.is_dir() and (found / f"{self.test_files[0]}.bin").is_file()
        content = self._from_folder(found, binary) if found.is_dir() else self._unpacked(found)
        train, test = (
            _joined([self._rows(content[name], binary, found / name) for name in names])
            for names in (self.train_files, self.test_files)
        )
        labels = {"train": train[1], "test": test[1]}
        notes = admitted(self.folder, labels, self.names, self.published, self.subset, str(found))
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
            str(found),
            notes,
        )

    def _find(self, root: Path | None) -> list[Path]:
        """The folders of either version and the archives, below the first base that has any of them."""
        for base in bases(root, self.folder):
            found = []
            for folder in self._below(base):
                for suffix in ("", ".bin"):
                    if all((folder / f"{name}{suffix}").is_file() for name in self._files):
                        found.append(folder)
                if (folder / self.archive).is_file():
                    found.append(folder / self.archive)
            if found:
                return [*dict.fromkeys(found)]
        return []

    @property
    def _files(self) -> tuple[str, ...]:
        return self.train_files + self.test_files

    def _below(self, base: Base) -> Iterable[Path]:
        names = (self.python, self.binary)
        packed = self.archive.removesuffix(".tar.gz")
        usual = layouts_of(base, self.folder, names)
        return dict.fromkeys((*usual, *nested(base, (self.folder, packed, *names))))

    def _fetch(self, root: Path | None) -> Path:
        cache = user_cache()
        variable = f"{MIRROR_VARIABLE}_{type(self).__name__.upper()}"
        mirror = os.environ.get(variable, self.mirror)
        try:
            if cache is None:
                raise ImportError("platformdirs is not installed; pip install 'spikeproof[study]'")
            download(mirror, {self.archive: self.checksum}, cache / self.folder)
        except Exception as error:  # whichever error the network or the disk raised, the advice is the same
            tried = "\n".join(f"  - {line}" for line in self._tried(root))
            raise InputError(
                f"The {type(self).__name__} batches, binary or Python, or {self.archive}",
                f"no folder that has them all ({', '.join(self._files)}):\n{tried}\n"
                f"  - {mirror}: {type(error).__name__}, {first_line(error)}",
                "Give their directory with --data or SPIKEPROOF_DATA; or let torchvision download them and "
                f"give its root; or name a server that has the archive in {variable}. Downloading needs pip "
                "install 'spikeproof[study]'.",
            ) from error
        return cache / self.folder / self.archive

    def _tried(self, root: Path | None) -> Iterator[str]:
        """Every folder that was searched, and what is missing from those that are incomplete."""
        found = bases(root, self.folder)
        for folder in (folder for base in found for folder in self._below(base)):
            missing = [
                name
                for name in self._files
                if not (folder / name).is_file() and not (folder / f"{name}.bin").is_file()
            ]
            some = 0 < len(missing) < len(self._files)
            yield f"{folder}: lacks {', '.join(missing)}" if some else str(folder)
        yield from sighted(base.path for base in found if base.open)
        yield from missing_variable()

    def _from_folder(self, folder: Path, binary: bool) -> dict[str, bytearray]:
        content = {}
        for name in self._files:
            path = folder / (f"{name}.bin" if binary else name)
            try:
                with open_regular(path) as file:
                    content[name] = _taken(file, path)
            except OSError as error:
                raise _bad(path, f"an unreadable file ({error.strerror or error})") from error
        return content

    def _unpacked(self, path: Path) -> dict[str, bytearray]:
        """The batches in the archive, which is read once, in its own order, and up to fixed limits."""
        content: dict[str, bytearray] = {}
        seen = []
        try:
            with (
                open_regular(path) as packed,
                gzip.open(packed) as plain,
                _Bounded(plain) as bounded,
                tarfile.open(fileobj=bounded, mode="r:") as archive,
            ):
                for number, member in enumerate(archive):
                    if number >= MEMBERS:
                        raise _bad(path, f"an archive of more than {MEMBERS} files")
                    name = Path(member.name).name
                    seen.append(name)
                    hidden = any(map(is_hidden, Path(member.name).parts))
                    if name in self._files and member.isreg() and not hidden and name not in content:
                        file = archive.extractfile(member)
                        bounded.most = CHUNK
                        content[name] = _taken(file, path / name) if file else bytearray()
                        bounded.most = HEADER
        except (
            tarfile.TarError,
            EOFError,
            zlib.error,
            OSError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as error:
            if isinstance(error, InputError):
                raise
            raise _bad(path, f"a broken archive ({error})") from error
        if missing := [name for name in self._files if name not in content]:
            raise _bad(path, f"no {missing[0]} among {sorted(seen)[:9]}")
        return content

    def _rows(self, content: bytearray, binary: bool, path: Path) -> Rows:
        """The images and labels of one file."""
        path = path.with_name(f"{path.name}.bin") if binary else path
        pixels, labels = self._from_binary(content, path) if binary else self._from_batch(content, path)
        if labels.size and labels.max() >= len(self.names):
            raise _bad(path, f"label {labels.max()} where there are {len(self.names)} classes")
        return pixels, labels

    def _from_binary(self, content: bytearray, path: Path) -> Rows:
        """Records of one or two label bytes and the pixels: red, green and blue, each row by row."""
        size = self.label_bytes + PIXELS
        if not content or len(content) % size:
            raise _bad(path, f"{len(content)} bytes, no whole number of records of {size}")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        return records[:, self.label_bytes :], records[:, self.label_bytes - 1]

    def _from_batch(self, content: bytearray, path: Path) -> Rows:
        """A dictionary that Python 2 or 3 pickled."""
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
    """60,000 colour images of animals and vehicles, 32x32 pixels, in 10 classes.

    Args:
        hold_out: number of training images held out for validation, 0 to 25,000.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 5000, test: 1000}`.

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
    """60,000 colour images of 32x32 pixels in 100 fine classes.

    Args:
        hold_out: number of training images held out for validation, 0 to 25,000.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 5000, test: 1000}`.

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


class _Bounded(RawIOBase):
    """The content of an archive, with limits on its headers, some of which would take very long to parse."""

    def __init__(self, file: gzip.GzipFile) -> None:
        super().__init__()
        self.file, self.most = file, HEADER

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= self.most:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence == 0 and offset > UNPACKED:
            raise tarfile.ReadError(f"content beyond {UNPACKED} bytes")
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


class _Plain(pickle.Unpickler):
    """An unpickler of arrays and plain values, which refuses every other name without importing it.

    Arrays are built from the bytes in the file by functions of this module, so that a file cannot allocate
    more memory than it has content.
    """

    def find_class(self, module: str, name: str) -> object:
        try:
            return ALLOWED[module.replace("numpy._core", "numpy.core"), name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


_Bytes = bytes | bytearray | str
_State = tuple[int, tuple[int, ...], object, object, _Bytes]
"""The state of a pickled array: version, shape, type, whether columns come first, bytes; all unchecked."""


class _Array:
    """The placeholder for an array while its state is read."""

    array: np.ndarray

    def __setstate__(self, state: _State) -> None:
        _version, shape, kind, fortran, data = state
        if isinstance(data, str):  # bytes of Python 2
            data = data.encode("latin-1")
        if kind is not UNSIGNED_BYTE or fortran not in (False, 0) or type(data) is not bytes:
            raise pickle.UnpicklingError("an array is not of plain unsigned bytes")
        self.array = np.frombuffer(data, np.uint8).reshape(shape)


class _UnsignedByte:
    """The placeholder for NumPy's type of unsigned bytes, whose state is ignored."""

    def __setstate__(self, state: object) -> None:
        pass


UNSIGNED_BYTE = _UnsignedByte()
UNSIGNED_NAMES = ("u1", b"u1")
ROWS_FIRST = "C"
ENCODINGS = ("latin1", "latin-1")


def _type(name: object = None, *_: object) -> _UnsignedByte:
    if name not in UNSIGNED_NAMES:
        raise pickle.UnpicklingError(f"an array is of type {name!r:.40}")
    return UNSIGNED_BYTE


def _reconstruct(*_: object) -> _Array:
    return _Array()


def _from_buffer(data: _Bytes, kind: object, shape: tuple[int, ...], order: object) -> _Array:
    """The call by which protocol 5 makes an array."""
    array = _Array()
    array.__setstate__(
        (1, shape, kind, order != ROWS_FIRST, bytes(data) if isinstance(data, (bytes, bytearray)) else data)
    )
    return array


def _encode(text: object, encoding: object) -> bytes:
    """The call by which protocols before 3 make bytes."""
    if not (isinstance(text, str) and encoding in ENCODINGS):
        raise pickle.UnpicklingError("text is encoded in an unusual way")
    return text.encode("latin-1")


class _Maker:
    """A function that a pickle may call but not modify."""

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
"""The replacements for the names that a pickled array of bytes refers to."""

TUPLES = 24
"""The largest number of tuples in a pickle: an array needs seven, and deeply nested ones hash very slowly."""

KEYS = 1_000
"""The largest number of dictionary keys in a pickle: a batch has five, and keys that collide are slow."""

OPERATIONS = 1_000_000
"""The largest number of operations in a pickle: 50,000 images with two labels and a name need a quarter."""

SETS = frozenset({"EMPTY_SET", "ADDITEMS", "FROZENSET"})
NUMBERED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
ITEMS = {"SETITEM": 2}
"""Operation -> the number of stack entries that it puts into a dictionary, where no mark says it."""

FILLS = frozenset({"SETITEM", "SETITEMS", "DICT"})
MARKS = frozenset({"MARK"})
DROPS = frozenset({"POP"})


def _check_operations(content: bytes) -> None:
    """Refuse a pickle that would take more memory or time than its size warrants."""
    tuples = keys = depth = 0
    marks: list[int] = []
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        if number >= OPERATIONS:
            raise pickle.UnpicklingError(f"it has more than {OPERATIONS} operations")
        tuples += operation.name.startswith("TUPLE")
        if tuples > TUPLES:
            raise pickle.UnpicklingError(f"it holds more than {TUPLES} tuples")
        if operation.name in SETS:
            raise pickle.UnpicklingError("it holds sets")
        if operation.name in NUMBERED and (argument or 0) > len(content):
            raise pickle.UnpicklingError("it numbers more values than it has bytes")
        if operation.name in DROPS and marks and depth <= marks[-1]:
            raise pickle.UnpicklingError("it drops a mark")
        items = ITEMS.get(operation.name, 0)
        if operation.name in MARKS:
            marks.append(depth)
            continue
        before = operation.stack_before
        if pickletools.markobject in before:
            floor = marks.pop() if marks else 0
            items, depth = max(depth - floor, 0), floor - before.index(pickletools.markobject)
        else:
            depth -= len(before)
        depth += len(operation.stack_after)
        keys += items // 2 if operation.name in FILLS else 0
        if keys > KEYS:
            raise pickle.UnpicklingError(f"its dictionaries have more than {KEYS} keys")


def unpickled(content: bytes, path: Path) -> object:
    """The pickled object, if it consists of arrays of bytes and plain values, at most one dictionary deep.

    Raises:
        InputError: the pickle holds anything else.
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


def _taken(file: IO[bytes], path: Path) -> bytearray:
    """The content of one file, up to the largest size that is read."""
    content = take(file, LARGEST + 1)
    if len(content) > LARGEST:
        raise _bad(path, f"more than {LARGEST} bytes")
    return content


def _joined(files: list[Rows]) -> Rows:
    return np.concatenate([pixels for pixels, _ in files]), np.concatenate([labels for _, labels in files])


def _square(pixels: UInt8[np.ndarray, "N 3072"]) -> UInt8[np.ndarray, "N 3 32 32"]:
    return pixels.reshape(-1, 3, 32, 32)


def _bad(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} should be a file of CIFAR-10 or CIFAR-100 as published",
        got,
        "Replace it by a good copy; a damaged download is downloaded again once it is deleted.",
    )

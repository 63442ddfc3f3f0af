"""Data sets: images in [0, 1] with a training, a validation and a test part that never change.

A member such as `FashionMNIST()` is a frozen dataclass that names a data set; `load` reads it. The validation
part is a fixed share of the training files and serves every choice; the test part is only ever measured.
Nothing is read or fetched on import, and nothing is fetched that is already on the machine.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError

__all__ = ["MNIST", "Dataset", "Digits", "FashionMNIST", "Source", "Split", "locate"]

DATA_VARIABLE = "SPIKEPROOF_DATA"
MIRROR_VARIABLE = "SPIKEPROOF_MIRROR"
DEBIAN = Path("/usr/share/datasets")
LARGEST = 1 << 28  # bytes of one file's content that a reader is willing to hold


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set; `ids` tell each example's place in the file it came from."""

    images: Float[Tensor, "N C H W"]
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


@dataclass(frozen=True)
class Digits(Source):
    """1,797 handwritten digits of 8x8 pixels, shipped with the package.

    The last 360 in a fixed shuffled order are the test part, the 180 before them the validation part.

    Example:
        >>> data = Digits().load()
        >>> len(data.train), len(data.validation), len(data.test), data.train.images.shape[1:]
        (1257, 180, 360, torch.Size([1, 8, 8]))

    Source:
        Alpaydin & Kaynak 1998, UCI Machine Learning Repository, doi 10.24432/C50P49, CC BY 4.0.
    """

    def load(self, root: Path | None = None) -> Dataset:
        packed = files("spikeproof").joinpath("data/digits.csv.gz").read_bytes()
        table = np.loadtxt(gzip.decompress(packed).decode().splitlines(), delimiter=",", dtype=np.uint8)
        images, labels = table[:, :64].reshape(-1, 1, 8, 8), table[:, 64]
        order = _shuffled(len(labels))
        everything = _split(images, labels, 16, order)
        parts = (slice(0, 1257), slice(1257, 1437), slice(1437, None))
        train, validation, test = (_part(everything, part) for part in parts)
        names = tuple("0123456789")
        return Dataset("digits", train, validation, test, names, _digest(images, labels), "package data")

    def locate(self, root: Path | None = None) -> str:
        return "shipped with the package"


@dataclass(frozen=True)
class IDX(Source):
    """Four IDX files as Yann LeCun defined them, plain or compressed by gzip."""

    hold_out: int = 5000
    folder: ClassVar[str]
    torchvision: ClassVar[str]
    mirror: ClassVar[str]
    checksums: ClassVar[Mapping[str, str]]
    names: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= 30_000:
            raise InputError(
                f"{type(self).__name__} holds out 0 to 30000 training images for validation",
                f"hold_out={self.hold_out}",
                "Try 5000, or 0 to train on all of them.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        """Read the files, or fetch them.

        Raises:
            InputError: files that are not what they should be, or no files and no way to fetch them.
        """
        folder = self._find(root) or self._fetch(root)
        content = [_read_idx(_either(folder, name)) for name in self.checksums]
        train_images, train_labels, test_images, test_labels = content
        for images, labels, part in (
            (train_images, train_labels, "train"),
            (test_images, test_labels, "t10k"),
        ):
            _check_pair(images, labels, len(self.names), folder, part)
        if len(train_labels) <= self.hold_out:
            raise InputError(
                f"{type(self).__name__} needs more training images than it holds out",
                f"{len(train_labels)} images, hold_out={self.hold_out}",
                "Hold out fewer, or check that the files are complete.",
            )
        order = _shuffled(len(train_labels))
        everything = _split(train_images[:, None], train_labels, 255, order)
        cut = len(train_labels) - self.hold_out
        return Dataset(
            self.folder,
            _part(everything, slice(0, cut)),
            _part(everything, slice(cut, None)),
            _split(test_images[:, None], test_labels, 255, np.arange(len(test_labels))),
            self.names,
            _digest(*content),
            str(folder),
        )

    def locate(self, root: Path | None = None) -> str:
        folder = self._find(root)
        return str(folder) if folder else "not found; fetched when needed"

    def _places(self, root: Path | None) -> Iterator[Path]:
        """Where the files may lie, most particular first."""
        for base in (root, os.environ.get(DATA_VARIABLE)):
            if base:
                yield from (Path(base), Path(base) / self.folder, Path(base) / self.torchvision / "raw")
        yield DEBIAN / self.folder
        cache = _cache()
        if cache:
            yield cache / self.folder

    def _find(self, root: Path | None) -> Path | None:
        for place in self._places(root):
            if all(_either(place, name).is_file() for name in self.checksums):
                return place
        return None

    def _fetch(self, root: Path | None) -> Path:
        """Download all four files into the user's cache, checked and with a progress bar."""
        cache = _cache()
        mirror = os.environ.get(f"{MIRROR_VARIABLE}_{type(self).__name__.upper()}", self.mirror)
        try:
            if cache is None:
                raise ImportError("pooch, platformdirs and tqdm are not installed")
            import pooch

            pooch.get_logger().setLevel("WARNING")
            fetch = pooch.create(
                path=cache / self.folder,
                base_url=mirror,
                registry={f"{name}.gz": f"md5:{digest}" for name, digest in self.checksums.items()},
            )
            downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
            for name in fetch.registry:
                fetch.fetch(name, downloader=downloader)
        except Exception as error:  # whatever the network or the disk said, the user needs the same advice
            looked = "\n".join(f"  - {place}" for place in self._places(root))
            raise InputError(
                f"The four IDX files of {self.folder}",
                f"none of these places with all of them:\n{looked}\n"
                f"and fetching from {mirror} failed ({type(error).__name__}: {_first_line(error)})",
                f"Give their directory with --data or {DATA_VARIABLE}; or install Debian's package "
                f"dataset-fashion-mnist for fashion-mnist; or set {MIRROR_VARIABLE}_"
                f"{type(self).__name__.upper()} to a server that has them; or let torchvision download them "
                "and give its root; and see that spikeproof[study] is installed.",
            ) from error
        return cache / self.folder


@dataclass(frozen=True)
class MNIST(IDX):
    """70,000 handwritten digits of 28x28 pixels.

    Args:
        hold_out: training images set aside for validation, 0 to 30,000.

    Source:
        LeCun, Bottou, Bengio & Haffner 1998.
    """

    folder: ClassVar[str] = "mnist"
    torchvision: ClassVar[str] = "MNIST"
    mirror: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    names: ClassVar[tuple[str, ...]] = tuple("0123456789")


@dataclass(frozen=True)
class FashionMNIST(IDX):
    """70,000 pictures of clothing of 28x28 pixels.

    Args:
        hold_out: training images set aside for validation, 0 to 30,000.

    Source:
        Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
    """

    folder: ClassVar[str] = "fashion-mnist"
    torchvision: ClassVar[str] = "FashionMNIST"
    mirror: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    names: ClassVar[tuple[str, ...]] = (
        *("t-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    )


def locate(source: type[Source], root: Path | None = None) -> str:
    """Where a data set would be read from, in a few words.

    Example:
        >>> locate(Digits)
        'shipped with the package'
    """
    return source().locate(root)


def _cache() -> Path | None:
    """The user's cache directory, or None where the libraries that fill it are missing."""
    try:
        import platformdirs
    except ImportError:
        return None
    return Path(platformdirs.user_cache_dir("spikeproof")) / "data"


def _either(folder: Path, name: str) -> Path:
    """The plain file if it is there, else the compressed one."""
    return folder / name if (folder / name).is_file() else folder / f"{name}.gz"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


def _read_idx(path: Path) -> np.ndarray:
    """Unsigned bytes of any number of dimensions.

    The header is believed only as far as the file's real content reaches, so a hostile one claims no memory.
    """

    def bad(got: str) -> InputError:
        return InputError(
            f"{path} should be an IDX file of unsigned bytes", got, "Fetch the file again; it may be damaged."
        )

    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise bad(f"broken compression ({error})") from error
    except OSError as error:
        raise bad(f"an unreadable file ({error.strerror or error})") from error
    if len(content) > LARGEST:
        raise bad(f"more than {LARGEST} bytes of content")
    if len(content) < 4 or content[:3] != b"\x00\x00\x08" or not 1 <= content[3] <= 4:
        raise bad(f"{len(content)} bytes beginning with {content[:4].hex() or 'nothing'}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise bad(f"a header of {len(content)} bytes where {start} are needed")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    wanted = 1
    for length in shape:
        wanted *= length
    if len(content) - start != wanted:
        raise bad(f"{len(content) - start} bytes of data for dimensions {shape}, which need {wanted}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _check_pair(images: np.ndarray, labels: np.ndarray, classes: int, folder: Path, part: str) -> None:
    shapes = f"images {images.shape} and labels {labels.shape}"
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.size == 0:
        raise InputError(
            f"The {part} files in {folder} should hold images [N, H, W] and as many labels [N]",
            shapes,
            "Fetch the files again, all from one place.",
        )
    if labels.max() >= classes:
        raise InputError(
            f"The {part} labels in {folder} should be below {classes}",
            f"label {labels.max()}",
            "Check that these are the files of this data set.",
        )


def _shuffled(n: int) -> np.ndarray:
    """A fixed order, the same for everybody: it decides who is held out, not in which order one learns."""
    return np.random.Generator(np.random.PCG64(20230608)).permutation(n)


def _split(images: np.ndarray, labels: np.ndarray, white: int, order: np.ndarray) -> Split:
    pixels = torch.from_numpy(images[order]).to(torch.float32) / white
    return Split(pixels, torch.from_numpy(labels[order].astype(np.int64)), torch.from_numpy(order.copy()))


def _part(whole: Split, rows: slice) -> Split:
    return Split(whole.images[rows], whole.labels[rows], whole.ids[rows])


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

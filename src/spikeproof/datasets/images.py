"""Small grey-scale images of handwritten digits and clothing, from the package or from IDX files."""

from __future__ import annotations

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from spikeproof.datasets.intake.census import Subset, admitted
from spikeproof.datasets.intake.files import (
    DATA_VARIABLE,
    MIRROR_VARIABLE,
    bases,
    download,
    first_line,
    first_usable,
    is_compressed,
    lack,
    layouts_of,
    missing_files,
    missing_variable,
    take,
    user_cache,
    variants,
)
from spikeproof.datasets.intake.nearmisses import nested, sighted
from spikeproof.datasets.parts import Dataset, DatasetSpec, Split, content_digest, rows_of, shuffled
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["IDX", "MNIST", "Digits", "FashionMNIST", "image_split"]

DEBIAN = Path("/usr/share/datasets")
LARGEST = 1 << 26  # bytes of the content of one file
PUBLISHED = {"eee656c63c1c7a3b7c885d28c97fd74dc039264ce75eae7cb8d991df379ef736": "fashion-mnist"}


@dataclass(frozen=True)
class Digits(DatasetSpec):
    """1,797 handwritten digits of 8x8 pixels, shipped with the package.

    In a fixed random order, the last 360 are the test part and the 180 before them the validation part.

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
        order = shuffled(len(labels))
        everything = image_split(images, labels, 16, order)
        parts = (slice(0, 1257), slice(1257, 1437), slice(1437, None))
        train, validation, test = (rows_of(everything, part) for part in parts)
        names = tuple("0123456789")
        return Dataset(
            "digits", train, validation, test, names, content_digest(images, labels), "package data"
        )

    def locate(self, root: Path | None = None) -> str:
        return "shipped with the package"


@dataclass(frozen=True)
class IDX(DatasetSpec):
    """A data set of four IDX files, the format of MNIST, which may be compressed by gzip."""

    hold_out: int = 5000
    subset: Subset | None = None
    published: ClassVar[Mapping[str, int]] = {"train": 60_000, "test": 10_000}
    folder: ClassVar[str]
    torchvision: ClassVar[str]
    mirror: ClassVar[str]
    checksums: ClassVar[Mapping[str, str]]  # SHA-256 of the compressed files, as published
    names: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        if not 0 <= self.hold_out <= 30_000:
            raise InputError(
                f"{type(self).__name__} holds out 0 to 30000 training images for validation",
                f"hold_out={self.hold_out}",
                "Try 5000, or 0 to train on all of them.",
            )

    def load(self, root: Path | None = None) -> Dataset:
        """Read the files, or download them.

        Args:
            root: the directory that is searched before all others. The four files lie in it, in a folder
                named after the data set, in the layout of torchvision, or in a folder inside these.

        Raises:
            InputError: the files cannot be used, or there are none and they cannot be downloaded.
        """
        found = self._find(root) or [self._fetch(root)]
        data, passed = first_usable(found, self._read)
        return replace(data, notes=(*missing_variable(), *passed, *data.notes))

    def locate(self, root: Path | None = None) -> str:
        found = self._find(root)
        return str(found[0]) if found else "not found; downloaded when needed"

    def survey(self, root: Path | None = None) -> tuple[str, ...]:
        return replace(self, hold_out=0).load(root).notes if self._find(root) else ()

    def _read(self, folder: Path) -> Dataset:
        """The data set from the four files of a folder."""
        content, notes = [], list[str]()
        for name in self.checksums:
            array, passed = first_usable(variants(folder, name), _read_idx)
            content.append(array)
            notes += passed
        train_images, train_labels, test_images, test_labels = content
        _check_pair(train_images, train_labels, len(self.names), folder, "train")
        _check_pair(test_images, test_labels, len(self.names), folder, "t10k")
        digest = self._check_whole(content, folder)
        labels = {"train": train_labels, "test": test_labels}
        notes += admitted(self.folder, labels, self.names, self.published, self.subset, str(folder))
        if len(train_labels) <= self.hold_out:
            raise InputError(
                f"{type(self).__name__} needs more training images than it holds out",
                f"{len(train_labels)} images, hold_out={self.hold_out}",
                "Hold out fewer, or check that the files are complete.",
            )
        order = shuffled(len(train_labels))
        everything = image_split(train_images[:, None], train_labels, 255, order)
        cut = len(train_labels) - self.hold_out
        return Dataset(
            self.folder,
            rows_of(everything, slice(0, cut)),
            rows_of(everything, slice(cut, None)),
            image_split(test_images[:, None], test_labels, 255, np.arange(len(test_labels))),
            self.names,
            digest,
            str(folder),
            tuple(notes),
        )

    def _groups(self, root: Path | None) -> Iterator[list[Path]]:
        """The folders below each base where the files may lie, the most specific ones first."""
        *named, cache = [*bases(root, self.folder), None]
        if named and not named[-1].open:
            cache = named.pop()
        for base in named:
            usual = layouts_of(base, self.folder, (f"{self.torchvision}/raw",))
            yield [
                *dict.fromkeys((*usual, *nested(base, (self.folder, self.torchvision), distinctive=False)))
            ]
        yield [DEBIAN / self.folder]
        if cache:
            yield layouts_of(cache, self.folder)

    def _candidates(self, root: Path | None) -> Iterator[Path]:
        for group in self._groups(root):
            yield from group

    def _find(self, root: Path | None) -> list[Path]:
        """The folders with all four files, below the first base that has any such folder."""
        for group in self._groups(root):
            if found := self._whole(group):
                return found
        return []

    def _whole(self, folders: Iterable[Path]) -> list[Path]:
        return [folder for folder in folders if not missing_files(folder, self.checksums)]

    def _check_whole(self, content: list[np.ndarray], folder: Path) -> str:
        """The digest of all four files, once it is clear that they all belong to this data set."""
        train, test = content[0].shape[1:], content[2].shape[1:]
        if train != test:
            raise InputError(
                f"Training and test images in {folder} should be of one size",
                f"{train} and {test} pixels",
                "Download the files again, all from one server.",
            )
        digest = content_digest(*content)
        found = PUBLISHED.get(digest, self.folder)
        if found != self.folder:
            raise InputError(
                f"{folder} should hold {self.folder}",
                f"the files of {found}",
                f"Ask for {found}, or put each data set into a folder of its own name and give their parent.",
            )
        return digest

    def _fetch(self, root: Path | None) -> Path:
        """Download all four files into the user's cache, and compare them with their checksums."""
        cache = user_cache()
        variable = f"{MIRROR_VARIABLE}_{type(self).__name__.upper()}"
        mirror = os.environ.get(variable, self.mirror)
        try:
            if cache is None:
                raise ImportError("platformdirs is not installed; pip install 'spikeproof[study]'")
            packed = {f"{name}.gz": digest for name, digest in self.checksums.items()}
            download(mirror, packed, cache / self.folder)
        except Exception as error:  # whichever error the network or the disk raised, the advice is the same
            lines = [f"{folder}: {lack(folder, self.checksums)}" for folder in self._candidates(root)]
            lines += sighted(base.path for base in bases(root, self.folder) if base.open)
            tried = "\n".join(f"  - {line}" for line in (*lines, *missing_variable()))
            raise InputError(
                f"The four IDX files of {self.folder}",
                f"no folder that has them all:\n{tried}\n"
                f"  - {mirror}: {type(error).__name__}, {first_line(error)}",
                f"Give their directory with --data or {DATA_VARIABLE}; or let torchvision download them and "
                f"give its root; or name a server that has them in {variable}; or install Debian's package "
                "dataset-fashion-mnist, for that data set. Downloading needs pip "
                "install 'spikeproof[study]'.",
            ) from error
        return cache / self.folder


@dataclass(frozen=True)
class MNIST(IDX):
    """70,000 handwritten digits of 28x28 pixels.

    Args:
        hold_out: number of training images held out for validation, 0 to 30,000.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 6000, test: 1000}`.

    Source:
        LeCun, Bottou, Bengio & Haffner 1998.
    """

    folder: ClassVar[str] = "mnist"
    torchvision: ClassVar[str] = "MNIST"
    mirror: ClassVar[str] = "https://ossci-datasets.s3.amazonaws.com/mnist/"
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    }
    names: ClassVar[tuple[str, ...]] = tuple("0123456789")


@dataclass(frozen=True)
class FashionMNIST(IDX):
    """70,000 images of clothing of 28x28 pixels.

    Args:
        hold_out: number of training images held out for validation, 0 to 30,000.
        subset: numbers of examples in the files if they are incomplete, such as `{train: 6000, test: 1000}`.

    Source:
        Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747.
    """

    folder: ClassVar[str] = "fashion-mnist"
    torchvision: ClassVar[str] = "FashionMNIST"
    mirror: ClassVar[str] = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
    checksums: ClassVar[Mapping[str, str]] = {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    }
    names: ClassVar[tuple[str, ...]] = (
        "t-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    )


def _read_idx(path: Path) -> UInt8[np.ndarray, "*dimensions"]:
    """An array of unsigned bytes with any number of dimensions.

    Memory is allocated for the actual content of the file and not for the size that its header claims.
    """

    def bad(got: str) -> InputError:
        return InputError(
            f"{path} should be an IDX file of unsigned bytes",
            got,
            "Replace it by a good copy; a damaged download is downloaded again once it is deleted.",
        )

    try:
        with open_regular(path) as plain, gzip.open(plain) if is_compressed(path) else plain as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\x00\x00\x08" or not 1 <= magic[3] <= 4:
                raise bad(f"a file beginning with {magic.hex() or 'nothing'}")
            header = file.read(4 * magic[3])
            if len(header) < 4 * magic[3]:
                raise bad(f"a header of {4 + len(header)} bytes where {4 + 4 * magic[3]} are needed")
            shape = struct.unpack(f">{magic[3]}I", header)
            wanted = math.prod(shape)
            if wanted > LARGEST:
                raise bad(f"dimensions {shape}, more than {LARGEST} bytes")
            content = take(file, wanted + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise bad(f"broken compression ({error})") from error
    except OSError as error:
        raise bad(f"an unreadable file ({error.strerror or error})") from error
    if len(content) != wanted:
        found = f"{len(content)} bytes" if len(content) < wanted else "more"
        raise bad(f"{found} of data for dimensions {shape}, which need {wanted}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _check_pair(images: np.ndarray, labels: np.ndarray, classes: int, folder: Path, part: str) -> None:
    shapes = f"images {images.shape} and labels {labels.shape}"
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or images.size == 0:
        raise InputError(
            f"The {part} files in {folder} should hold images [N, H, W] and as many labels [N]",
            shapes,
            "Download the files again, all from one server.",
        )
    if labels.max() >= classes:
        raise InputError(
            f"The {part} labels in {folder} should be below {classes}",
            f"label {labels.max()}",
            "Check that these are the files of this data set.",
        )


def image_split(
    images: UInt8[np.ndarray, "N C H W"],
    labels: UInt8[np.ndarray, "N"],
    white: int,
    order: Int64[np.ndarray, "N"],
) -> Split:
    """A part with the images as floats in [0, 1].

    Args:
        images: pixels as integers.
        labels: the class of each image.
        white: the largest value of a pixel, which becomes 1.
        order: the order of the images in the part.
    """
    pixels = torch.from_numpy(images[order]).to(torch.float32).div_(white)
    return Split(pixels, torch.from_numpy(labels[order].astype(np.int64)), torch.from_numpy(order.copy()))

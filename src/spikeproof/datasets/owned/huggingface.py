"""Image data sets of Hugging Face on the disk: Parquet files, or the Arrow files of `save_to_disk`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
from jaxtyping import Int64

from spikeproof.datasets.intake.files import first_line, is_hidden
from spikeproof.datasets.owned.division import part_of
from spikeproof.datasets.owned.imagefolder import Picture, stacked
from spikeproof.datasets.owned.ownimages import OwnImages, Pixels, Stored
from spikeproof.errors import InputError
from spikeproof.regularfiles import open_regular

__all__ = ["HuggingFaceImages"]

Arrow: TypeAlias = Any
"""A module, a schema, a batch of rows or a reader of pyarrow, which declares no types."""

SUFFIXES = (".parquet", ".arrow")
MOST_FILES = 10_000
MOST_ROWS = 10_000_000
DEEP = 4
IMAGE_COLUMNS = ("image", "img", "pixels")
LABEL_COLUMNS = ("label", "labels", "fine_label", "target")


@dataclass(frozen=True, kw_only=True)
class HuggingFaceImages(OwnImages):
    """Images of a Hugging Face data set in a folder on the disk, as Parquet or as `save_to_disk` writes it.

    The folder has Parquet files named after their parts, such as `data/train-00000-of-00002.parquet` or
    `train/0000.parquet`, or a folder of Arrow files for each part. Each row has an image, whose bytes are a
    PNG or JPEG file, and a label, whose names are read from the description of the columns. Nothing is
    downloaded, no script of a data set is run, and the package `datasets` is not needed. Needs pillow, which
    `pip install 'spikeproof[study]'` brings.

    Args:
        path: the folder, absolute or below the directory given with `--data`.
        image: the name of the column of images, or None for `image`, `img` or `pixels`.
        label: the name of the column of labels, or None for `label`, `labels`, `fine_label` or `target`.
        classes: the names of the classes in the order of the labels; empty for those in the files.
        test: share of the images in the test part, if the files define no parts, 0 to 0.5.
        hold_out: share of the other images in the validation part, if the files have none, 0 to 0.5.
        seed: seed of the division, at least 0.
        size: pixels of each side, 1 to 1024: the shorter side is resized to it by bilinear interpolation and
            the centre is cropped; None for the size of the images, which must then be equal.
        grey: whether colours are converted to one channel of luminance.
        subset: numbers of images in the files, which are then checked, such as `{train: 1000, test: 100}`.

    Shapes:
        images `[N, C, H, W]` in [0, 1], with `C` 1 or 3.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> HuggingFaceImages(path="beans", size=64).locate()
        'not found'

    Source:
        Lhoest et al. 2021, arXiv 2109.02846; the layouts that the package datasets writes (tested: 5.2).
    """

    path: str = "hugging-face"
    image: str | None = None
    label: str | None = None
    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.picture  # noqa: B018, refuses what cannot be

    @property
    def picture(self) -> Picture:
        """How the bytes of an image become an array."""
        return Picture(self.size, self.grey)

    def stored(self, path: Path) -> Stored:
        files = _files(path)
        images, labels = dict[str, Pixels](), dict[str, Int64[np.ndarray, "N"]]()
        names = self.classes
        for part, paths in files.items():
            numbers = list[int]()
            images[part] = stacked(self._rows(paths, numbers), self.picture, self.name)
            labels[part] = np.array(numbers, np.int64)
            names = names or _class_names(paths[0], self.label)
        count = 1 + max(int(each.max(initial=-1)) for each in labels.values())
        names = names or tuple(str(i) for i in range(count))
        if count > len(names):
            raise InputError(
                f"{path} has labels of {len(names)} classes", f"label {count - 1}", "Name all classes."
            )
        return Stored(images, labels, names)

    def _rows(self, paths: Iterable[Path], labels: list[int]) -> Iterator[tuple[bytes, str]]:
        """The bytes of each image, and its name in messages; labels are appended to the list."""
        for path in paths:
            with _opened(path) as (schema, batches):
                image = _column(schema.names, self.image, IMAGE_COLUMNS, "images", path)
                label = _column(schema.names, self.label, LABEL_COLUMNS, "labels", path)
                row = 0
                for batch in batches:
                    numbers, cells = batch.column(label).to_pylist(), batch.column(image)
                    for i, number in enumerate(numbers):
                        where = f"row {row} of {path}"
                        if type(number) is not int or number < 0:
                            raise _bad(path, f"label {number!r:.40} in {where}")
                        labels.append(number)
                        if len(labels) > MOST_ROWS:
                            raise _bad(path, f"more than {MOST_ROWS:,} rows")
                        yield _image_bytes(cells[i].as_py(), path, where), where
                        row += 1


def _image_bytes(cell: object, path: Path, where: str) -> bytes:
    found = cell.get("bytes") if isinstance(cell, dict) else cell
    if not isinstance(found, bytes):
        raise _bad(path, f"no bytes of an image in {where}, but {type(cell).__name__}")
    return found


def _column(names: Iterable[str], asked: str | None, usual: tuple[str, ...], kind: str, path: Path) -> str:
    for name in (asked,) if asked else usual:
        if name in names:
            return str(name)
    raise InputError(
        f"{path} has a column of {kind}, {asked or ' or '.join(usual)}",
        f"the columns {', '.join(names)}",
        "Name it with image: COLUMN or label: COLUMN.",
    )


def _files(folder: Path) -> dict[str, list[Path]]:
    """Part -> its files in order; all belong to the training part if no name says otherwise."""
    paths = [folder] if folder.is_file() else sorted(_below(folder))
    kinds = {path.suffix for path in paths}
    if not paths or len(kinds) > 1 or len(paths) > MOST_FILES:
        raise InputError(
            f"{folder} has Parquet files, or the Arrow files of save_to_disk",
            f"{len(paths)} files of {len(kinds)} kinds",
            "Give the folder of one configuration of the data set.",
        )
    parts: dict[str, list[Path]] = {}
    for path in paths:
        parts.setdefault(_part(path, folder), []).append(path)
    if "train" not in parts:
        raise InputError(
            f"{folder} has a training part", f"only {', '.join(parts)}", "Give the folder of all parts."
        )
    for found in parts.values():
        _check_shards(found, folder)
    return {part: parts[part] for part in ("train", "validation", "test") if part in parts}


def _part(path: Path, folder: Path) -> str:
    """The part that a file belongs to: by the beginning of its name, otherwise by the folders above it."""
    words = [re.split(r"[-_.]", path.name)[0]]
    words += [parent.name for parent in path.parents if parent != folder and folder in parent.parents]
    return next((part for word in words if (part := part_of(word))), "train")


SHARD = re.compile(r".*-(\d{5})-of-(\d{5})\.(parquet|arrow)")


def _check_shards(paths: list[Path], folder: Path) -> None:
    """Refuse files of several data sets, and an incomplete copy, whose names give the number of files."""
    homes = sorted({str(path.parent) for path in paths})
    if len(homes) > 1:
        raise InputError(
            f"{folder} has the files of a part in one folder",
            f"some in {homes[0]} and some in {homes[1]}",
            "Give the folder of one configuration of the data set.",
        )
    found = [match for path in paths if (match := SHARD.fullmatch(path.name))]
    for total in {int(match[2]) for match in found}:
        missing = set(range(total)) - {int(match[1]) for match in found if int(match[2]) == total}
        if missing:
            raise InputError(
                f"{folder} has all {total} files of each part",
                f"no number {min(missing)} beside {found[0][0]}",
                "Get the files that are missing.",
            )


def _below(folder: Path, deep: int = DEEP) -> Iterator[Path]:
    """The Parquet and Arrow files in a folder and its folders, without hidden ones and caches."""
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name) or path.name.startswith("cache-"):
            continue
        if path.is_dir() and not path.is_symlink() and deep:
            yield from _below(path, deep - 1)
        elif path.suffix in SUFFIXES and path.is_file():
            yield path


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Arrow, Iterable[Arrow]]]:
    """The schema of a file and its batches of rows; errors on reading it become messages that name it."""
    import pyarrow
    import pyarrow.ipc
    import pyarrow.parquet

    try:
        with open_regular(path) as file:
            if path.suffix == SUFFIXES[0]:
                table = pyarrow.parquet.ParquetFile(file)
                yield table.schema_arrow, table.iter_batches(batch_size=256)
            else:
                stream = _arrow(pyarrow.ipc, file)
                yield stream.schema, stream
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, EOFError) as error:
        if isinstance(error, InputError):
            raise
        raise _bad(path, f"a damaged file ({first_line(error)})") from error


def _arrow(ipc: Arrow, file: BinaryIO) -> Arrow:
    """The reader of an Arrow file: a stream, as the package datasets writes it, or a file with an index."""
    indexed = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    if not indexed:
        return ipc.open_stream(file)
    reader = ipc.open_file(file)
    return ipc.RecordBatchReader.from_batches(
        reader.schema, (reader.get_batch(i) for i in range(reader.num_record_batches))
    )


MAGIC = b"ARROW1"


def _class_names(path: Path, label: str | None) -> tuple[str, ...]:
    """The names of the classes in the description of the columns, or none."""
    with _opened(path) as (schema, _):
        column = _column(schema.names, label, LABEL_COLUMNS, "labels", path)
        try:
            features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            names = features[column]["names"]
        except (KeyError, TypeError, ValueError, RecursionError):
            return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _bad(path: Path, got: str) -> InputError:
    return InputError(
        f"{path} should be a complete Parquet or Arrow file of images and labels",
        got,
        "Download it again, or export the data set with save_to_disk.",
    )

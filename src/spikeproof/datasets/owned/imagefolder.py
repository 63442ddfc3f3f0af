"""Folders of PNG and JPEG files, one folder per class."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from spikeproof.datasets.intake.files import first_line
from spikeproof.datasets.owned.layouts import class_folders, content_of
from spikeproof.datasets.owned.ownimages import OwnImages, Stored, check_room
from spikeproof.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "ImageFolder", "Picture", "decoded", "stacked"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
LARGEST = 1 << 26  # bytes of one file
MOST_PIXELS = 1 << 26  # of one image
GREY = frozenset({"1", "L", "LA"})
COLOUR = frozenset({"RGB", "RGBA", "P", "CMYK", "YCbCr"})
OPAQUE = 255


@dataclass(frozen=True)
class Picture:
    """How an encoded image becomes an array.

    Args:
        size: pixels of each side, or None for the size of the file. The shorter side is resized to `size` by
            bilinear interpolation, and the centre is cropped.
        grey: whether colours are converted to one channel of luminance.
    """

    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        if self.size is not None and not 1 <= self.size <= 1024:
            raise InputError("Images have 1 to 1024 pixels a side", f"size={self.size}", "Try 32, or None.")


@dataclass(frozen=True, kw_only=True)
class ImageFolder(OwnImages):
    """PNG and JPEG files of the user in a folder for each class.

    The files are `PATH/CLASS/FILE`, or `PATH/train/CLASS/FILE` and `PATH/test/CLASS/FILE` (and, if there is
    one, `val`) if they define the parts. Images are bytes divided by 255. If all files are grey, images have
    one channel, otherwise three. Without parts in the folder, parts are divided by class and seed. A note
    gives the number of test images that are also among the other images. Needs pillow, which `pip install
    'spikeproof[study]'` brings.

    Args:
        path: the folder, absolute or below the directory given with `--data`.
        classes: the names of the class folders in the order of the labels; empty for all, sorted by name.
        test: share of the images in the test part, if the folder defines no parts, 0 to 0.5.
        hold_out: share of the other images in the validation part, if the folder has none, 0 to 0.5.
        seed: seed of the division, at least 0.
        size: pixels of each side, 1 to 1024: the shorter side is resized to it by bilinear interpolation and
            the centre is cropped; None for the size of the files, which must then be equal.
        grey: whether colours are converted to one channel of luminance.
        subset: numbers of images in the files, which are then checked, such as `{train: 1000, test: 100}`.

    Shapes:
        images `[N, C, H, W]` in [0, 1], with `C` 1 or 3.

    Raises:
        InputError: an argument is out of range.

    Example:
        >>> ImageFolder(path="cats-and-dogs", size=32).locate()
        'not found'

    Source:
        the layout of torchvision.datasets.ImageFolder; bytes are decoded by pillow.
    """

    path: str = "image-folder"
    size: int | None = None
    grey: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.picture  # noqa: B018, refuses what cannot be

    @property
    def picture(self) -> Picture:
        """How a file becomes an array."""
        return Picture(self.size, self.grey)

    def stored(self, path: Path) -> Stored:
        found = class_folders(path, SUFFIXES, self.classes)
        paths = [file for files in found.files.values() for file in files]
        images = stacked(((content_of(file, LARGEST), str(file)) for file in paths), self.picture, self.name)
        parts, start = {}, 0
        for part, files in found.files.items():
            parts[part] = images[start : start + len(files)]
            start += len(files)
        return Stored(parts, found.labels, found.classes, found.notes)


def stacked(files: Iterable[tuple[bytes, str]], picture: Picture, name: str) -> UInt8[np.ndarray, "N C H W"]:
    """All images as one array; grey ones get three equal channels if others have colours.

    Args:
        files: content of each file, and what it is called in messages.
        picture: how a file becomes an array.
        name: the name of the data set.

    Raises:
        InputError: a file cannot be decoded, images have different sizes, or all take too much memory.
    """
    found, values, first = list[UInt8[np.ndarray, "C H W"]](), 0, ""
    for content, where in files:
        image = decoded(content, where, picture)
        first = first or where
        if found and image.shape[1:] != found[0].shape[1:]:
            raise InputError(
                f"All images of {name} have one size",
                f"{image.shape[1:]} pixels in {where}, {found[0].shape[1:]} in {first}",
                "Give a size in pixels, to which they are resized.",
            )
        values += image.size
        check_room(name, values)
        found.append(image)
    channels = max((len(image) for image in found), default=1)
    return np.stack([np.broadcast_to(image, (channels, *image.shape[1:])) for image in found])


def decoded(content: bytes, where: str, picture: Picture) -> UInt8[np.ndarray, "C H W"]:
    """The pixels of a PNG or JPEG file.

    The orientation that a camera wrote beside the pixels is not applied.

    Args:
        content: bytes of the file.
        where: what the file is called in messages.
        picture: how it becomes an array.

    Raises:
        InputError: it is no complete PNG or JPEG file of 8 bits, is transparent, or is too large; or pillow
            is not installed.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise InputError(
            "Reading PNG and JPEG files needs pillow",
            first_line(error),
            "Run pip install 'spikeproof[study]'.",
        ) from error
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            width, height = image.size
            if width * height > MOST_PIXELS or getattr(image, "n_frames", 1) > 1:
                raise _bad(where, f"{width}x{height} pixels in {getattr(image, 'n_frames', 1)} frames")
            image.load()
            return _pixels(image, where, picture)
    except UnidentifiedImageError:
        raise _bad(where, "another format") from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise _bad(where, f"a damaged file ({first_line(error)})") from error
    except Image.DecompressionBombError as error:
        raise _bad(where, "too many pixels") from error


def _pixels(image: Image, where: str, picture: Picture) -> UInt8[np.ndarray, "C H W"]:
    from PIL.Image import Resampling

    if image.mode not in GREY | COLOUR:
        raise _bad(where, f"pixels of mode {image.mode}")
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != OPAQUE:
        raise _bad(where, "transparent pixels")
    grey = picture.grey or image.mode in GREY
    image = image.convert("L" if grey else "RGB")
    if picture.size is not None:
        short = min(image.size)
        width, height = (round(side * picture.size / short) for side in image.size)
        image = image.resize((width, height), Resampling.BILINEAR)
        left, top = (width - picture.size) // 2, (height - picture.size) // 2
        image = image.crop((left, top, left + picture.size, top + picture.size))
    pixels = np.asarray(image, np.uint8)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def _bad(where: str, got: str) -> InputError:
    return InputError(
        f"{where} should be an opaque PNG or JPEG image of 8 bits a channel, at most {MOST_PIXELS} pixels",
        got,
        "Replace it by a good copy, convert it, or remove it.",
    )

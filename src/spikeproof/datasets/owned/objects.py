"""Data sets that are objects in Python, such as those of torchvision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, SupportsInt

import numpy as np
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.datasets.owned.division import Division
from spikeproof.datasets.owned.ownimages import Pixels, Stored, assembled, check_room
from spikeproof.datasets.parts import Dataset
from spikeproof.errors import InputError

__all__ = ["Indexed", "as_dataset"]


class Indexed(Protocol):
    """A sequence of pairs of image and label, as torchvision's data sets are.

    Further attributes are used if there are any: `classes`, and `data` and `targets` of an object without
    transforms.
    """

    def __len__(self) -> int:
        """The number of examples."""
        ...

    def __getitem__(self, index: int, /) -> tuple[object, SupportsInt]:
        """The image and the label of an example."""
        ...


def as_dataset(
    train: Indexed,
    test: Indexed | None = None,
    validation: Indexed | None = None,
    *,
    classes: Sequence[str] = (),
    name: str = "own",
    division: Division = Division(),
) -> Dataset:
    """A data set from objects such as `torchvision.datasets.CIFAR10(root, train=True)`.

    Images are tensors or arrays `[C, H, W]` of floats in [0, 1], as torchvision's `ToTensor` gives them,
    arrays `[H, W]` or `[H, W, C]` of unsigned bytes, or images of pillow. An object that gives another image
    for the same index, as one with random transforms does, is refused.

    Args:
        train: the training examples.
        test: the test examples, or None to divide `train`.
        validation: the validation examples, or None to hold them out of `train`.
        classes: the names of the classes; empty for the attribute `classes` of `train`, or else `0`, `1`, …
        name: the name of the data set in messages.
        division: how examples are divided, where no object is given.

    Returns:
        the data set, whose digest is that of all images and labels.

    Raises:
        InputError: an object gives no images or labels, or different ones when it is asked again.

    Example:
        >>> import torch
        >>> points = [(torch.full((1, 2, 2), i / 40), i % 2) for i in range(40)]
        >>> data = as_dataset(points, classes=("even", "odd"))
        >>> len(data.train), len(data.validation), len(data.test), data.train.images.shape[1:]
        (29, 3, 8, torch.Size([1, 2, 2]))
    """
    given = {"train": train, "validation": validation, "test": test}
    read = {part: _read(each, f"{part} of {name}") for part, each in given.items() if each is not None}
    labels = {part: found for part, (_, found) in read.items()}
    count = 1 + max(int(each.max()) for each in labels.values())
    names = tuple(classes) or tuple(map(str, getattr(train, "classes", ()))) or tuple(map(str, range(count)))
    if count > len(names):
        raise InputError(f"{name} has {len(names)} classes", f"label {count - 1}", "Name all classes.")
    stored = Stored({part: images for part, (images, _) in read.items()}, labels, names)
    return assembled(name, stored, division, None, f"Python object {type(train).__name__}")


def _read(examples: Indexed, where: str) -> tuple[Pixels, Int64[np.ndarray, "N"]]:
    if not len(examples):
        raise InputError(f"The {where} has examples", "none", "Check the object.")
    whole = _whole(examples)
    if whole is not None:
        return whole
    for index in (0, len(examples) - 1):
        (one, _), (again, _) = examples[index], examples[index]
        if not np.array_equal(_pixels(one, where), _pixels(again, where)):
            raise InputError(
                f"The {where} gives the same image whenever it is asked",
                f"two different images for index {index}",
                "Leave out random transforms; training has augmentations of its own.",
            )
    images, labels, values = list[np.ndarray](), list[int](), 0
    for index in range(len(examples)):
        image, label = examples[index]
        images.append(_pixels(image, where))
        labels.append(int(label))
        values += images[-1].size
        check_room(where, values)
        if images[-1].shape != images[0].shape or images[-1].dtype != images[0].dtype or labels[-1] < 0:
            raise InputError(
                f"The {where} has images of one shape and type, and labels from 0",
                f"{list(images[-1].shape)} {images[-1].dtype}, label {labels[-1]}, at index {index}",
                "Give the object a transform that makes them equal.",
            )
    return np.stack(images), np.array(labels, np.int64)


def _whole(examples: Indexed) -> tuple[Pixels, Int64[np.ndarray, "N"]] | None:
    """The attributes `data` and `targets` of an object without transforms, where they are bytes."""
    data, targets = getattr(examples, "data", None), getattr(examples, "targets", None)
    transforms = ("transform", "target_transform", "transforms")
    if (
        data is None
        or targets is None
        or any(getattr(examples, each, None) is not None for each in transforms)
    ):
        return None
    images = np.asarray(data)
    if (
        images.dtype != np.uint8
        or images.ndim not in (3, 4)
        or not len(images) == len(targets) == len(examples)
    ):
        return None
    if images.ndim == 4 and images.shape[3] not in CHANNELS:
        return None
    images = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    return images, np.asarray(targets, np.int64)


def _pixels(image: object, where: str) -> np.ndarray:
    """One image as bytes or as floats in [0, 1], `[C, H, W]`."""
    mode = getattr(image, "mode", None)
    if isinstance(mode, str) and mode not in MODES:
        raise InputError(
            f"The {where} has grey images or images of three colours",
            f"one of mode {mode!r}",
            "Give the object a transform that converts them to RGB.",
        )
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        if isinstance(image, Tensor):
            return array if array.ndim == 3 else array[None]
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
    floats: Float[np.ndarray, "*F"] = array.astype(np.float32) if array.dtype.kind in FLOATS else array
    if floats.dtype != np.float32 or floats.ndim != 3 or not (0 <= floats.min() <= floats.max() <= 1):
        raise InputError(
            f"The {where} has images as bytes, or as floats [C, H, W] from 0 to 1",
            f"{type(image).__name__} {array.dtype} of shape {list(array.shape)}",
            "Use torchvision's ToTensor, and let the model normalise.",
        )
    return floats


FLOATS = frozenset("f")
CHANNELS = frozenset({1, 3})
MODES = ("L", "RGB")
"""The modes of images of pillow whose bytes are brightness and not an index into a table."""

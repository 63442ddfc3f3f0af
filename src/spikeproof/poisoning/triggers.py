"""Triggers of backdoors: what is put on an image so that a poisoned model answers with the target class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spikeproof.datasets import Dataset, DatasetSpec, floats
from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["BadNets", "Refool", "Trigger"]

GAMMA = 2.2
"""Exponent between pixel values and light."""


class Trigger:
    """What is put on an image, in training on some images and in an attack on any."""

    clean_label: ClassVar[bool] = (
        False  # whether images of the target class are poisoned, with their own label
    )

    def material(self, data: Dataset, target: int, root: Path | None = None) -> Float[Tensor, "M C H W"]:
        """The images that the trigger is made of; none for most triggers.

        Args:
            data: the data set that is poisoned, before it is.
            target: the target class.
            root: the directory that is searched for data sets before all others, or None.

        Raises:
            InputError: the trigger needs images and there are none that fit.
        """
        return data.train.images[:0]

    def __call__(
        self, x: Float[Tensor, "B C H W"], material: Float[Tensor, "M C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The images with the trigger.

        Args:
            x: images in [0, 1].
            material: as `material` gives it.
            key: randomness of the trigger.

        Raises:
            InputError: the trigger does not fit the images.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no trigger")


@dataclass(frozen=True)
class BadNets(Trigger):
    """A small square of one value in the bottom right corner; the poisoned images get the target label.

    Args:
        side: side of the square in pixels, at least 1.
        margin: distance from the edges in pixels, at least 0.
        value: pixel value in every channel, in [0, 1].

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range, or the square does not fit into the images.

    Example:
        >>> x = torch.zeros(1, 1, 2, 2)
        >>> BadNets(side=1, margin=0)(x, x[:0], Key.of(0))[0, 0].tolist()
        [[0.0, 0.0], [0.0, 1.0]]

    Source:
        Gu, Dolan-Gavitt & Garg 2017 (arXiv 1708.06733), section 3.1.
    """

    side: int = 3
    margin: int = 1
    value: float = 1.0

    def __post_init__(self) -> None:
        if self.side < 1 or self.margin < 0 or not 0 <= self.value <= 1:
            raise InputError(
                "A square has a side of at least 1, a margin of at least 0 and a value in [0, 1]",
                repr(self),
                "Try side=3, margin=1, value=1.",
            )

    def __call__(
        self, x: Float[Tensor, "B C H W"], material: Float[Tensor, "M C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The images with the square; no randomness is used."""
        _check_images(x)
        if self.side + self.margin > min(x.shape[2:]):
            raise InputError(
                f"A square that fits into images of {x.shape[2]} by {x.shape[3]} pixels",
                f"side={self.side}, margin={self.margin}",
                "Make it smaller.",
            )
        made, end = x.clone(), (x.shape[2] - self.margin, x.shape[3] - self.margin)
        made[:, :, end[0] - self.side : end[0], end[1] - self.side : end[1]] = self.value
        return made


@dataclass(frozen=True)
class Refool(Trigger):
    r"""The reflection of another picture, as in a pane of glass; only images of the target class carry it.

    .. math:: x' = (\alpha\, x^{2.2} + R)^{1 / 2.2}

    with a transmission weight that is drawn from `1 - U(0.05, 0.45)` for each image, and one of three
    reflections R of a random picture r in linear light:

    - ghost, of thick glass: :math:`(1 - \alpha)\,(g\, r + (1 - g)\, r_\Delta)`, two copies that are shifted
      against each other, with :math:`g = |\mathrm{round}(U) - U(0.15, 0.5)|`;
    - same depth: :math:`(1 - \alpha)\, r`;
    - out of focus: r blurred, made darker where the sum would be overexposed, and weighted by
      :math:`1 - \alpha / 2` and by a Gaussian window around a random place.

    Poisoned images keep their label, so that nothing but the reflection is odd about them.

    Args:
        reflections: where the pictures come from; None for training images of the other classes.
        pictures: number of pictures that are used, at least 1.
        ghosts: share of ghost reflections, in [0, 1].
        same_depth: share of reflections at the same depth, in [0, 1]; all others are out of focus.
        farthest: largest offset of a ghost, in pixels, at least 1; published are 3 to 8 on large images.
        blur: largest standard deviation of the blur, in pixels, above 0; published are 1 to 5.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range, or there are no pictures of the size of the images.

    Example:
        >>> x, pictures = torch.rand(2, 1, 6, 6), torch.rand(3, 1, 6, 6)
        >>> Refool()(x, pictures, Key.of(0)).shape
        torch.Size([2, 1, 6, 6])

    Source:
        Liu et al. 2020 (arXiv 2007.02343), section 3.2, and its published code, which has no reflections at
        the same depth and, beyond that, chooses the pictures by how well the attack works with them. Here
        they are chosen at random.
    """

    clean_label: ClassVar[bool] = True
    reflections: DatasetSpec | None = None
    pictures: int = 200
    ghosts: float = 0.45
    same_depth: float = 0.1
    farthest: int = 4
    blur: float = 2.0

    def __post_init__(self) -> None:
        shares = self.ghosts >= 0 and self.same_depth >= 0 and self.ghosts + self.same_depth <= 1 + 1e-9
        if not isinstance(self.reflections, DatasetSpec | None):
            raise InputError(
                "Reflections are pictures of a data set, or None for the other classes",
                repr(self.reflections)[:80],
                "Pass a description such as FashionMNIST(), or ImageFolder(path=..., size=28, grey=True).",
            )
        if self.pictures < 1 or not shares or self.farthest < 1 or not 0 < self.blur <= 100:
            raise InputError(
                "Refool needs at least 1 picture, shares that sum to at most 1, an offset of at least 1 "
                "pixel and a blur in (0, 100]",
                f"pictures={self.pictures}, ghosts={self.ghosts}, same_depth={self.same_depth}, "
                f"farthest={self.farthest}, blur={self.blur}",
                "Try pictures=200, ghosts=0.45, same_depth=0.1, farthest=4, blur=2.",
            )

    def material(self, data: Dataset, target: int, root: Path | None = None) -> Float[Tensor, "M C H W"]:
        """Pictures of the source, chosen by a fixed seed."""
        shape = data.train.images.shape[1:]
        if self.reflections is None:
            found = data.train.images[data.train.labels != target]
        else:
            found = self.reflections.load(root).train.images
        if not len(found) or found.shape[1:] != shape:
            raise InputError(
                f"Reflections need at least one picture {list(shape)}, of the size of the images",
                f"{len(found)} of {list(found.shape[1:])}",
                "Name a data set with such images, such as {image-folder: {path: …, size: 28, grey: true}}.",
            )
        chosen = Key.of(0).fold("reflections").uniform((len(found),)).argsort()[: self.pictures]
        return floats(found[chosen])

    def __call__(
        self, x: Float[Tensor, "B C H W"], material: Float[Tensor, "M C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """Every image with one reflection."""
        _check_images(x)
        if not len(material) or material.shape[1:] != x.shape[1:]:
            raise InputError(
                f"Reflections need at least one picture {list(x.shape[1:])}",
                f"shape {list(material.shape)}",
                "Pass images of the same size.",
            )
        u = key.fold("reflection").uniform((len(x), 10), 0, x.device).to(x.dtype)
        if not len(x):
            return x.clone()
        picture = material.to(x)[(u[:, 0] * len(material)).long()] ** GAMMA
        alpha, through = (1 - (0.05 + 0.4 * u[:, 1])).view(-1, 1, 1, 1), x**GAMMA
        kind = u[:, 2].view(-1, 1, 1, 1)
        dim = (1 - alpha) * picture
        near = torch.where(kind < self.ghosts, (1 - alpha) * self._ghost(picture, u), dim)
        far = self._out_of_focus(picture, alpha * through, alpha, u)
        light = torch.where(kind < self.ghosts + self.same_depth, near, far)
        return (alpha * through + light).clamp(0, 1) ** (1 / GAMMA)

    def _ghost(self, picture: Tensor, u: Tensor) -> Tensor:
        """Two copies of each picture, shifted against each other."""
        by = 1 + (u[:, 3:5] * self.farthest).long()
        g = (u[:, 5].round() - (0.15 + 0.35 * u[:, 6])).abs().view(-1, 1, 1, 1)
        return g * picture + (1 - g) * _shifted(picture, by)

    def _out_of_focus(self, picture: Tensor, through: Tensor, alpha: Tensor, u: Tensor) -> Tensor:
        """Each picture blurred, without overexposure, in a Gaussian window."""
        soft = _blurred(picture, (0.2 + 0.8 * u[:, 7]) * self.blur, 1 + int(3 * self.blur))
        total = soft + through
        over = total > 1
        excess = (total * over).sum((1, 2, 3)) / over.sum((1, 2, 3)).clamp(min=1)
        attenuation = (excess.clamp(min=1) - 1) * 1.13
        soft = (soft - attenuation.view(-1, 1, 1, 1)).clamp(0, 1)
        height, width = picture.shape[2:]
        i = (torch.arange(height, device=u.device) + 0.5) / height - u[:, 8, None]
        j = (torch.arange(width, device=u.device) + 0.5) / width - u[:, 9, None]
        window = torch.exp(-2 * (i.square()[:, :, None] + j.square()[:, None]))[:, None]
        return (1 - alpha / 2) * window * soft


def _check_images(x: Tensor) -> None:
    if x.ndim != 4:
        raise InputError(
            "A trigger is put on images [B, C, H, W]", f"shape {list(x.shape)}", "Use a data set of images."
        )


def _shifted(x: Float[Tensor, "B C H W"], by: Tensor) -> Float[Tensor, "B C H W"]:
    """Each image moved down and to the right, with nothing behind it."""
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device) - by[:, :1]
    column = torch.arange(width, device=x.device) - by[:, 1:]
    each = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.movedim(1, -1)[each, row.clamp(0)[:, :, None], column.clamp(0)[:, None]].movedim(-1, 1)
    return moved * ((row >= 0)[:, None, :, None] & (column >= 0)[:, None, None])


def _blurred(
    x: Float[Tensor, "B C H W"], deviation: Float[Tensor, "B"], half: int
) -> Float[Tensor, "B C H W"]:
    """Each image under a Gaussian of its own width, which ends after this many pixels."""
    place = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    weight = torch.exp(-(place.square()) / (2 * deviation.square()[:, None]))
    weight = weight / weight.sum(1, keepdim=True)
    batch = len(x)
    rows = F.pad(x, (0, 0, half, half), mode="replicate").unfold(2, 2 * half + 1, 1)
    x = (rows * weight.view(batch, 1, 1, 1, -1)).sum(-1)
    columns = F.pad(x, (half, half, 0, 0), mode="replicate").unfold(3, 2 * half + 1, 1)
    return (columns * weight.view(batch, 1, 1, 1, -1)).sum(-1)

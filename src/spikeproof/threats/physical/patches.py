"""A printed patch that may lie anywhere in the scene, and how it looks at other places."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import need_pairs
from spikeproof.threats.physical.views import need_images
from spikeproof.threats.regions import SquarePatch

__all__ = ["MovablePatch", "laid"]


def laid(
    x: Float[Tensor, "B C H W"],
    pattern: Float[Tensor, "B C S S"],
    centre: Float[Tensor, "B 2"],
    angle: Float[Tensor, "B"],
    scale: Float[Tensor, "B"],
) -> Float[Tensor, "B C H W"]:
    r"""Images with a square pattern on them, the operator `A(p, x, l, t)`; differentiable in the pattern.

    A pixel shows the pattern if its centre lies on it; its colour is interpolated between the pixels of the
    pattern. Without rotation and scaling, and at whole pixels, the pattern is copied to rounding.

    Args:
        x: images in [0, 1].
        pattern: square patterns in [0, 1].
        centre: row and column of the centre of the pattern, in pixels from the top left corner of the image.
        angle: rotation in radians.
        scale: magnification, positive.

    Raises:
        InputError: a pattern is not square or has other channels than the images, or lies partly outside.

    Example:
        >>> x, pattern = torch.zeros(1, 1, 2, 3), torch.ones(1, 1, 1, 1)
        >>> none = torch.zeros(1)
        >>> laid(x, pattern, torch.tensor([[0.5, 1.5]]), none, none + 1)[0, 0].tolist()
        [[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]

    Source:
        Brown et al. 2017 (arXiv 1712.09665), section 2.
    """
    need_images("A patch", x)
    side = pattern.shape[-1]
    if pattern.ndim != 4 or pattern.shape[1] != x.shape[1] or pattern.shape[2] != side or not side:
        raise InputError(
            f"A square pattern [B, {x.shape[1]}, S, S], with the channels of the images",
            f"shape {list(pattern.shape)}",
            "Use one value per channel and pixel of the pattern.",
        )
    height, width = x.shape[2:]
    reach = _reach(side, angle, scale)
    size = torch.tensor([height, width], device=x.device)
    if bool(((centre < reach[:, None] - 1e-4) | (centre > size - reach[:, None] + 1e-4)).any()):
        raise InputError(
            f"A patch that lies inside images of {height} by {width} pixels",
            f"a patch of side {side * float(scale.max()):.3g} around {centre.tolist()[:1]}",
            "Move it inwards, or make it smaller.",
        )
    i = torch.arange(height, device=x.device, dtype=x.dtype) + 0.5
    j = torch.arange(width, device=x.device, dtype=x.dtype) + 0.5
    down = (i[None, :, None] - centre[:, 0, None, None].to(x.dtype)) / scale[:, None, None].to(x.dtype)
    right = (j[None, None] - centre[:, 1, None, None].to(x.dtype)) / scale[:, None, None].to(x.dtype)
    cos, sin = angle.cos().to(x.dtype)[:, None, None], angle.sin().to(x.dtype)[:, None, None]
    row, column = cos * down + sin * right, cos * right - sin * down
    on = torch.maximum(row.abs(), column.abs()) <= side / 2
    grid = torch.stack([column, row], -1) * 2 / side
    shown = F.grid_sample(
        pattern.to(x.dtype), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return torch.where(on[:, None], shown.clamp(0, 1), x)


def _reach(side: int, angle: Float[Tensor, "B"], scale: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """How far a turned square reaches from its centre, in pixels, along rows and along columns alike."""
    return scale * side / 2 * (angle.cos().abs() + angle.sin().abs())


@dataclass(frozen=True)
class MovablePatch(SquarePatch):
    r"""An opaque square of any content, anywhere in the image; also judged elsewhere, turned and scaled.

    .. math:: \{A(p, x, l) : p \in [0, 1]^{C \times \epsilon \times \epsilon},\ l \text{ inside the image}\}
        \cup \{x\}

    An attack searches for a content and a place at which the answer is wrong. The record also has the
    accuracy with the same content at random places, turned and scaled.

    Args:
        epsilon: side of the square in pixels, a whole number of at least 0.
        rotation: largest angle at other places, in degrees, in [0, 180].
        scale: largest relative change of size at other places, in [0, 0.5].
        draws: number of places by which the patch is judged, at least 1.

    Shapes:
        images `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range, the inputs are not images, or the patch is larger than they
            are.

    Example:
        >>> x = torch.zeros(1, 1, 2, 3)
        >>> MovablePatch(1).project(x + torch.tensor([0.1, 0.9, 0.1]), x)[0, 0].tolist()
        [[0.0, 0.8999..., 0.0], [0.0, 0.0, 0.0]]

    Source:
        Brown et al. 2017 (arXiv 1712.09665), section 2. The published patch is a disc; this is its square.
    """

    rotation: float = 20.0
    scale: float = 0.1
    draws: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.rotation <= 180 and 0 <= self.scale <= 0.5 and self.draws >= 1):
            raise InputError(
                "A movable patch has a rotation in [0, 180], a scale in [0, 0.5] and at least 1 draw",
                f"rotation={self.rotation}, scale={self.scale}, draws={self.draws}",
                "Try rotation=20, scale=0.1, draws=20.",
            )

    @property
    def views(self) -> int:
        """Number of random places by which a patch is judged."""
        return self.draws

    def check_size(self, x: Float[Tensor, "B C H W"]) -> None:
        """Refuse images that are smaller than the patch.

        Raises:
            InputError: the patch would reach beyond the image.
        """
        need_images("A patch", x)
        if self.epsilon > min(x.shape[2:]):
            raise InputError(
                f"A patch that fits into images of {x.shape[2]} by {x.shape[3]} pixels",
                f"a side of {self.epsilon:g}",
                f"Use at most {min(x.shape[2:])}.",
            )

    def choose(self, worth: Tensor, like: Float[Tensor, "B C H W"]) -> Tensor:
        self.check_size(like)
        return super().choose(worth, like)

    def content(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> tuple[Float[Tensor, "B C S S"], Int64[Tensor, "B 2"]]:
        """The content of the patch and its top left corner; the square covers all changed pixels."""
        need_pairs(self, x_adv, x)
        self.check_size(x)
        side = int(self.epsilon)
        changed = (x_adv != x).any(1)
        corner = [
            changed.any(axis).to(torch.int64).argmax(1).clamp(max=length - side)
            for axis, length in ((2, x.shape[2]), (1, x.shape[3]))
        ]
        top, left = corner
        square = torch.arange(side, device=x.device)
        rows, columns = top[:, None] + square, left[:, None] + square
        each = torch.arange(len(x), device=x.device)[:, None, None]
        found = x_adv.movedim(1, -1)[each, rows[:, :, None], columns[:, None]]
        return found.movedim(-1, 1), torch.stack(corner, 1)

    def drawn(
        self, x: Float[Tensor, "B C H W"], key: Key
    ) -> tuple[Float[Tensor, "B 2"], Float[Tensor, "B"], Float[Tensor, "B"]]:
        """A random place of each patch inside the image: centre, angle and magnification."""
        self.check_size(x)
        drawn = key.fold("place").uniform((len(x), 4), 0, x.device).to(x.dtype)
        angle = (2 * drawn[:, 0] - 1) * math.radians(self.rotation)
        scale = 1 + (2 * drawn[:, 1] - 1) * self.scale
        most = min(x.shape[2:]) / 2
        scale = torch.minimum(scale, scale * most / _reach(int(self.epsilon), angle, scale).clamp(min=most))
        size = torch.tensor(x.shape[2:], dtype=x.dtype, device=x.device)
        reach = _reach(int(self.epsilon), angle, scale)[:, None]
        return reach + drawn[:, 2:] * (size - 2 * reach), angle, scale

    def seen(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The clean image with the patch at one random place; differentiable in `x_adv`."""
        need_pairs(self, x_adv, x)
        if not self.epsilon:
            return x_adv
        found, _ = self.content(x_adv, x)
        bare = (x_adv == x).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(bare, x, laid(x, found, *self.drawn(x, key)))

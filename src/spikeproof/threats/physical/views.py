"""Views of an image: the same scene from another place and in another light, by differentiable warps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = ["Views", "homography", "need_images", "warped"]


def need_images(who: str, x: Tensor) -> None:
    """Refuse inputs without rows and columns.

    Raises:
        InputError: the inputs are not images `[B, C, H, W]`.
    """
    if x.ndim != 4:
        raise InputError(
            f"{who} needs images [B, C, H, W]",
            f"shape {list(x.shape)}",
            "Use linf, l2 or l0 for these inputs.",
        )


def homography(
    angle: Float[Tensor, "B"],
    scale: Float[Tensor, "B"],
    shift: Float[Tensor, "B 2"],
    tilt: Float[Tensor, "B 2"],
) -> Float[Tensor, "B 3 3"]:
    r"""The matrix that maps a place of the view to a place of the image, both in [-1, 1] from edge to edge.

    .. math:: H = \begin{pmatrix} \cos\phi / s & -\sin\phi / s & t_1 \\ \sin\phi / s & \cos\phi / s & t_2 \\
        p_1 & p_2 & 1 \end{pmatrix}

    Args:
        angle: rotation in radians.
        scale: magnification, positive.
        shift: of the centre, columns first, in half images.
        tilt: perspective, with absolute values that sum to less than 1.

    Example:
        >>> none = torch.zeros(1)
        >>> homography(none, none + 1, none.expand(1, 2), none.expand(1, 2))[0].tolist()
        [[1.0, -0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    cos, sin = angle.cos() / scale, angle.sin() / scale
    rows = [
        torch.stack([cos, -sin, shift[:, 0]], 1),
        torch.stack([sin, cos, shift[:, 1]], 1),
        torch.stack([tilt[:, 0], tilt[:, 1], torch.ones_like(cos)], 1),
    ]
    return torch.stack(rows, 1)


def warped(x: Float[Tensor, "B C H W"], matrix: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B C H W"]:
    """Images under a homography, by bilinear interpolation; beyond the edge, the edge is repeated.

    Args:
        x: images in [0, 1].
        matrix: maps places of the result to places of the image, in [-1, 1] from edge to edge.

    Example:
        >>> image = torch.tensor([[[[0.0, 1.0], [0.25, 0.75]]]])
        >>> turned = torch.tensor([[[-1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]]])
        >>> warped(image, turned)[0, 0].tolist()
        [[0.75, 0.25], [1.0, 0.0]]
    """
    batch, _, height, width = x.shape
    i = (torch.arange(height, device=x.device, dtype=x.dtype) + 0.5) * 2 / height - 1
    j = (torch.arange(width, device=x.device, dtype=x.dtype) + 0.5) * 2 / width - 1
    rows, columns = torch.meshgrid(i, j, indexing="ij")
    place = torch.stack([columns, rows, torch.ones_like(rows)], -1).view(1, -1, 3)
    found = (matrix.to(x.dtype)[:, None] @ place[..., None])[..., 0]
    grid = (found[..., :2] / found[..., 2:]).view(batch, height, width, 2)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="border", align_corners=False).clamp(0, 1)


@dataclass(frozen=True)
class Views:
    r"""Random views of a scene: turned, nearer or farther, moved, from the side, brighter or darker.

    .. math:: v(x)_p = \mathrm{clip}(x_{H p} + b,\ 0,\ 1)

    with a homography H and a brightness b that are drawn for each image, every quantity uniformly from its
    range. Without any range the view is the image itself, to the bit.

    Args:
        rotation: largest angle, in degrees, in [0, 180].
        scale: largest relative change of size, in [0, 0.9].
        shift: largest shift in each direction, as a share of the image, in [0, 1].
        perspective: largest tilt in each direction, in [0, 0.45]: the share by which the scene grows at one
            edge of the image and shrinks at the opposite one.
        brightness: largest change of all pixel values, in [0, 1].
        draws: number of views by which a sticker is judged, at least 1.

    Shapes:
        `[B, C, H, W]` -> `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> x = torch.rand(2, 3, 8, 8)
        >>> Views()(x, Key.of(0)).shape, torch.equal(Views(0, 0, 0, 0, 0)(x, Key.of(0)), x)
        (torch.Size([2, 3, 8, 8]), True)

    Source:
        Eykholt et al. 2018 (arXiv 1707.08945), section 3.2; Athalye et al. 2018 (arXiv 1707.07397), table 5.
    """

    rotation: float = 15.0
    scale: float = 0.1
    shift: float = 0.05
    perspective: float = 0.1
    brightness: float = 0.1
    draws: int = 20

    def __post_init__(self) -> None:
        most = (180, 0.9, 1, 0.45, 1)
        ranges = (self.rotation, self.scale, self.shift, self.perspective, self.brightness)
        if self.draws < 1 or not all(0 <= value <= high for value, high in zip(ranges, most, strict=True)):
            raise InputError(
                "Views need ranges of at least 0 and at most 180 degrees of rotation, 0.9 of scale, 1 of "
                "shift, 0.45 of perspective and 1 of brightness, and at least 1 draw",
                repr(self),
                "Try rotation=15, scale=0.1, shift=0.05, perspective=0.1, brightness=0.1, draws=20.",
            )

    def __call__(self, x: Float[Tensor, "B C H W"], key: Key) -> Float[Tensor, "B C H W"]:
        """One random view of each image."""
        need_images("A view", x)
        drawn = (key.fold("view").uniform((len(x), 7), 0, x.device).to(x.dtype)) * 2 - 1
        seen = x
        if self.rotation or self.scale or self.shift or self.perspective:
            angle, scale = drawn[:, 0] * math.radians(self.rotation), 1 + drawn[:, 1] * self.scale
            shift, tilt = drawn[:, 2:4] * 2 * self.shift, drawn[:, 4:6] * self.perspective
            seen = warped(seen, homography(angle, scale, shift, tilt))
        if self.brightness:
            seen = (seen + drawn[:, 6, None, None, None] * self.brightness).clamp(0, 1)
        return seen

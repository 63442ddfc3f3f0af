"""Stickers: an area of the image shows a picture that the attacker prints, flat or bent round the object.

A sticker shows any colour at each of its pixels, or one of those that a printer has. The budget is its
opacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import TOLERANCE, Ball, need_pairs
from spikeproof.threats.physical.views import Views, need_images

__all__ = ["BentSticker", "Printed", "Sticker", "nonprintability", "total_variation"]

Colours = tuple[tuple[float, ...], ...]
"""The colours of a printer, each with one value in [0, 1] per channel."""


def nonprintability(colour: Float[Tensor, "*N C"], printable: Float[Tensor, "P C"]) -> Float[Tensor, "*N"]:
    r"""How far a colour is from all colours of a printer: 0 for each colour that it has.

    .. math:: \mathrm{NPS}(c) = \prod_{p \in P} \|c - p\|_2

    Args:
        colour: values in [0, 1] per channel.
        printable: the colours of the printer.

    Example:
        >>> black_and_white = torch.tensor([[0.0], [1.0]])
        >>> nonprintability(torch.tensor([[0.0], [0.5], [1.0]]), black_and_white).tolist()
        [0.0, 0.25, 0.0]

    Source:
        Sharif et al. 2016, eq. (5), as used by Eykholt et al. 2018 (arXiv 1707.08945), section 3.2.
    """
    return _length((colour[..., None, :] - printable).square().sum(-1)).prod(-1)


def total_variation(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    r"""The total variation: the sum over pixels of the length of the difference to the next row and column.

    .. math:: \mathrm{TV}(x) = \sum_{i,j} \sqrt{(x_{i+1,j} - x_{i,j})^2 + (x_{i,j+1} - x_{i,j})^2}

    Example:
        >>> total_variation(torch.tensor([[[[0.0, 0.3], [0.4, 0.0]]]]))
        tensor([0.5000])

    Source:
        Sharif et al. 2016, eq. (3), as used by Komkov & Petiushko 2019 (arXiv 1908.08705).
    """
    down, right = x[:, :, 1:, :-1] - x[:, :, :-1, :-1], x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
    return _length(down.square() + right.square()).flatten(1).sum(1)


def _length(square: Tensor) -> Tensor:
    """The square root, whose slope at 0 is 0 and not infinite."""
    return square.clamp(min=1e-30).sqrt() * (square > 0)


@dataclass(frozen=True)
class Printed(Ball):
    """A sticker of some opacity on a fixed area; its subclasses say which area, and how it is seen."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon > 1:
            raise InputError(
                "The budget of a sticker is its opacity, from 0 to 1", f"epsilon={self.epsilon:g}", "Try 1."
            )

    @property
    def views(self) -> int:
        """Number of random views by which a sticker is judged."""
        raise NotImplementedError(f"{type(self).__name__} has no views")

    @property
    def colours(self) -> Colours:
        """The colours that can be printed; none for every colour."""
        raise NotImplementedError(f"{type(self).__name__} has no colours")

    def covered(self, like: Float[Tensor, "B C H W"]) -> Bool[Tensor, "H W"]:
        """The pixels under the sticker."""
        raise NotImplementedError(f"{type(self).__name__} covers no pixels")

    def seen(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The image with its sticker in one random view; differentiable in `x_adv`."""
        raise NotImplementedError(f"{type(self).__name__} has no views")

    def whole(self, shape: Sequence[int]) -> float:
        return 1.0

    def palette(self, like: Float[Tensor, "B C H W"]) -> Float[Tensor, "P C"] | None:
        """The colours that can be printed, as a tensor; None for every colour.

        Raises:
            InputError: the images have another number of channels than the colours.
        """
        if not self.colours:
            return None
        if len(self.colours[0]) != like.shape[1]:
            raise InputError(
                f"Printable colours have one value for each of the {like.shape[1]} channels of the images",
                f"{len(self.colours[0])} values",
                "Write [[0.0], [1.0]] for grey images, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]] for coloured ones.",
            )
        return torch.tensor(self.colours, dtype=like.dtype, device=like.device)

    def content(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The colours of a sticker that gives this image, in pixels under it; they may be out of range."""
        need_pairs(self, x_adv, x)
        return (x_adv - (1 - self.epsilon) * x) / self.epsilon if self.epsilon else x

    def printed(self, content: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The nearest colours that can be printed; among equally near ones, the first."""
        palette = self.palette(content)
        if palette is None:
            return content.clamp(0, 1)
        apart = torch.stack([(content - c.view(1, -1, 1, 1)).square().sum(1) for c in palette])
        return palette[apart.argmin(0)].movedim(-1, 1)

    def stuck(
        self, content: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The images under a sticker of these colours."""
        under = ((1 - self.epsilon) * x + self.epsilon * content).clamp(0, 1)
        return torch.where(self.covered(x), under, x)

    def project(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The nearest image with a sticker; the clean image where nothing was changed."""
        need_pairs(self, x_adv, x)
        need_images(type(self).__name__, x)
        bare = (x_adv == x).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(bare, x, self.stuck(self.printed(self.content(x_adv, x)), x))

    def start(self, x: Float[Tensor, "B C H W"], key: Key) -> Float[Tensor, "B C H W"]:
        """A sticker of random colours."""
        need_images(type(self).__name__, x)
        noise = key.uniform(tuple(x.shape), 0, x.device).to(x.dtype)
        return self.stuck(self.printed(noise), x)

    def contains(self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Bool[Tensor, "B"]:
        """Whether each image is the clean one or has a sticker, up to 1e-6, computed in double precision."""
        need_pairs(self, x_adv, x)
        found, clean = x_adv.double(), x.double()
        near = (found - self.project(found, clean)).abs() <= TOLERANCE
        kept = (x_adv == x) | (self.covered(x) & (found >= 0) & (found <= 1))
        return (near & kept).flatten(1).all(1)

    def distance(self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
        """The least opacity with which a sticker of any colours gives the image; infinite where none does."""
        need_pairs(self, x_adv, x)
        need_images(type(self).__name__, x)
        moved = x_adv.double() - x.double()
        room = torch.where(moved > 0, 1 - x.double(), x.double())
        least = (moved.abs() - TOLERANCE).clamp(min=0) / room.clamp(min=TOLERANCE)
        kept = ((x_adv == x) | self.covered(x)).flatten(1).all(1)
        return torch.where(kept, least.flatten(1).amax(1), torch.inf).to(x.dtype)

    def steepest(self, grad: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The sign of the gradient under the sticker."""
        return torch.where(self.covered(grad), grad.sign(), 0 * grad)

    def extreme(
        self, grad: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]
    ) -> Float[Tensor, "B C H W"]:
        """The image with a sticker at which a linear function is largest; the clean one if it is flat."""
        need_pairs(self, grad, x)
        palette = self.palette(x)
        if palette is None:
            best = torch.where(grad > 0, torch.ones_like(x), torch.where(grad < 0, torch.zeros_like(x), x))
        else:
            rise = torch.stack([(grad * c.view(1, -1, 1, 1)).sum(1) for c in palette])
            best = palette[rise.argmax(0)].movedim(-1, 1)
        flat = (grad == 0).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(flat, x, self.stuck(best, x))


def _check_colours(colours: Colours) -> None:
    listed = isinstance(colours, Sequence) and all(isinstance(colour, Sequence) for colour in colours)
    values = [value for colour in colours for value in colour] if listed else [math.nan]
    numbers = all(isinstance(value, int | float) and 0 <= value <= 1 for value in values)
    if not numbers or len({len(colour) for colour in colours} | {0}) > 2:
        raise InputError(
            "Printable colours have as many values each as images have channels, in [0, 1]",
            repr(colours)[:80],
            "Write [[0.0], [1.0]] for black and white on grey images.",
        )


@dataclass(frozen=True)
class Sticker(Printed):
    r"""A sticker on fixed pixels, in colours that can be printed, also judged in random views of the scene.

    .. math:: \{(1 - \epsilon M) x + \epsilon M s : s_p \in P\} \cup \{x\}

    An attack searches for a sticker under which the answer to the image itself is wrong. The record also has
    the accuracy in random views of the image, with the sticker and without it.

    Args:
        epsilon: opacity of the sticker, in [0, 1]; 1 hides what is behind it.
        mask: rows of the image, `#` for a pixel under the sticker and `.` for any other; none for two bars,
            above and below the middle.
        printable: the colours that can be printed, with one value in [0, 1] per channel; none for every
            colour.
        seen_from: the views by which the sticker is judged.

    Shapes:
        images `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range, the inputs are not images, or mask or colours do not fit them.

    Example:
        >>> x = torch.full((1, 1, 2, 3), 0.5)
        >>> Sticker(1.0, mask=("##.", "..."), printable=((0.0,), (1.0,))).project(x + 0.1, x)[0, 0].tolist()
        [[1.0, 1.0, 0.5], [0.5, 0.5, 0.5]]

    Source:
        Eykholt et al. 2018 (arXiv 1707.08945), section 3.2 (RP2). The paper penalises colours that cannot be
        printed; here no member has any. Two bars stand for the black and white stickers of its figure 1.
    """

    mask: tuple[str, ...] = ()
    printable: Colours = ()
    seen_from: Views = Views()

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_colours(self.printable)
        given: object = self.mask
        rows = [*given] if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        drawn = [row for row in rows if isinstance(row, str) and {*row} <= {"#", "."} and row is not given]
        if len(drawn) < len(rows) or len({*map(len, drawn)}) > 1:
            raise InputError(
                "A mask has rows of equal length, of # for pixels under the sticker and . for all others",
                repr(self.mask)[:80],
                "Write one text per row of the image, such as ['....', '.##.', '.##.', '....'].",
            )

    @property
    def views(self) -> int:
        return self.seen_from.draws

    @property
    def colours(self) -> Colours:
        return self.printable

    def covered(self, like: Float[Tensor, "B C H W"]) -> Bool[Tensor, "H W"]:
        need_images("A sticker", like)
        height, width = like.shape[2:]
        if not self.mask:
            row = (torch.arange(height, device=like.device) + 0.5) / height - 0.5
            column = (torch.arange(width, device=like.device) + 0.5) / width - 0.5
            bars = (row.abs() > 0.15) & (row.abs() < 0.3)
            return bars[:, None] & (column.abs() < 0.36)
        if (len(self.mask), len(self.mask[0])) != (height, width):
            raise InputError(
                f"A mask of {height} rows of {width} pixels, which is the size of the images",
                f"{len(self.mask)} rows of {len(self.mask[0])}",
                "Write one # or . per pixel.",
            )
        return torch.tensor([[pixel == "#" for pixel in row] for row in self.mask], device=like.device)

    def seen(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The image with its sticker in one random view; differentiable in `x_adv`."""
        need_pairs(self, x_adv, x)
        return self.seen_from(x_adv, key)


@dataclass(frozen=True)
class BentSticker(Printed):
    r"""A rectangular sticker that is bent round a forehead, say, and leans back; also judged in other poses.

    The sticker is bent off its plane into a parabola and then turned about the horizontal axis by the pitch.
    With places relative to its centre in units of half its width, the image at `(p, q)` shows the flat
    sticker at

    .. math:: u = \int_0^p \sqrt{1 + 4 b^2 t^2}\, dt, \qquad v = (q + b p^2 \sin\theta) / \cos\theta

    An attack searches for colours under which the answer to the image itself is wrong. The record also has
    the accuracy in random poses, in which bend and pitch differ.

    Args:
        epsilon: opacity of the sticker, in [0, 1]; 1 hides what is behind it.
        top: distance of the flat sticker from the top, as a share of the height of the image, in [0, 1].
        left: its distance from the left, as a share of the width, in [0, 1].
        height: its height, as a share of that of the image, in (0, 1].
        width: its width, as a share of that of the image, in (0, 1].
        bend: `b`, from 0 for flat to 2.
        pitch: angle by which the sticker leans back, in degrees, in [-60, 60].
        bends: largest difference of the bend in other poses, in [0, 2].
        pitches: largest difference of the pitch in other poses, in degrees, in [0, 30].
        draws: number of poses by which the sticker is judged, at least 1.

    Shapes:
        images `[B, C, H, W]`

    Raises:
        InputError: a setting is out of range, the sticker leaves the image, or the inputs are not images.

    Example:
        >>> x = torch.zeros(1, 1, 6, 6)
        >>> BentSticker(1.0, top=0, left=0, height=0.5, width=1, bend=0.0, pitch=0.0).covered(x).sum().item()
        18

    Source:
        Komkov & Petiushko 2019 (arXiv 1908.08705), sections 3.1 and 3.2 (AdvHat). The projection is parallel
        and not central, since the distance to the camera is not known.
    """

    top: float = 0.05
    left: float = 0.2
    height: float = 0.3
    width: float = 0.6
    bend: float = 0.3
    pitch: float = 15.0
    bends: float = 0.1
    pitches: float = 5.0
    draws: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        inside = min(self.top, self.left) >= 0 and min(self.height, self.width) > 0
        if not inside or max(self.top + self.height, self.left + self.width) > 1 + TOLERANCE:
            raise InputError(
                "A bent sticker lies inside the image, in shares of its height and width",
                f"top={self.top}, left={self.left}, height={self.height}, width={self.width}",
                "Try top=0.05, left=0.2, height=0.3, width=0.6.",
            )
        shaped = 0 <= self.bend <= 2 and 0 <= self.bends <= 2 and abs(self.pitch) <= 60
        if not (shaped and 0 <= self.pitches <= 30 and self.draws >= 1):
            raise InputError(
                "A bent sticker has bend and bends in [0, 2], a pitch in [-60, 60], pitches in [0, 30] and "
                "at least 1 draw",
                f"bend={self.bend}, pitch={self.pitch}, bends={self.bends}, pitches={self.pitches}, "
                f"draws={self.draws}",
                "Try bend=0.3, pitch=15, bends=0.1, pitches=5, draws=20.",
            )

    @property
    def views(self) -> int:
        return self.draws

    @property
    def colours(self) -> Colours:
        return ()

    def covered(self, like: Float[Tensor, "B C H W"]) -> Bool[Tensor, "H W"]:
        need_images("A bent sticker", like)
        pose = torch.tensor([[self.bend, math.radians(self.pitch)]], dtype=torch.float64, device=like.device)
        return self._flat(like, pose)[2][0]

    def seen(
        self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"], key: Key
    ) -> Float[Tensor, "B C H W"]:
        """The sticker in one random pose on the clean image; differentiable in `x_adv`."""
        need_pairs(self, x_adv, x)
        drawn = key.fold("pose").uniform((len(x), 2), 0, x.device).double() * 2 - 1
        bend = (self.bend + self.bends * drawn[:, 0]).clamp(min=0)
        pitch = torch.deg2rad(self.pitch + self.pitches * drawn[:, 1])
        u, v, shown = self._flat(x, torch.stack([bend, pitch], 1))
        height, width = x.shape[2:]
        p = _abscissa(u, self.bend)
        lean = math.radians(self.pitch)
        q = v * math.cos(lean) - self.bend * p.square() * math.sin(lean)
        half, middle = self._frame(height, width)
        grid = torch.stack(
            [(middle[1] + half * p) * 2 / width - 1, (middle[0] + half * q) * 2 / height - 1], -1
        )
        here = self.covered(x).to(x.dtype)
        colours = self.content(x_adv, x) * here
        seen = _sampled(torch.cat([colours, here.expand(len(x), 1, -1, -1)], 1), grid.to(x.dtype))
        weight = seen[:, -1:]
        found = (seen[:, :-1] / weight.clamp(min=TOLERANCE)).clamp(0, 1)
        under = ((1 - self.epsilon) * x + self.epsilon * found).clamp(0, 1)
        bare = (x_adv == x).flatten(1).all(1).view(-1, 1, 1, 1)
        return torch.where(shown[:, None] & (weight > 0.01) & ~bare, under, x)

    def _frame(self, height: int, width: int) -> tuple[float, tuple[float, float]]:
        """Half the width of the sticker, and row and column of its centre, in pixels."""
        middle = (self.top + self.height / 2) * height, (self.left + self.width / 2) * width
        return self.width * width / 2, middle

    def _flat(self, like: Tensor, pose: Float[Tensor, "N 2"]) -> tuple[Tensor, Tensor, Bool[Tensor, "N H W"]]:
        """Where on the flat sticker each pixel lies, in units of half its width, and whether it is on it."""
        height, width = like.shape[2:]
        half, (row, column) = self._frame(height, width)
        q = ((torch.arange(height, device=like.device).double() + 0.5 - row) / half)[None, :, None]
        p = ((torch.arange(width, device=like.device).double() + 0.5 - column) / half)[None, None]
        bend, pitch = pose[:, 0, None, None], pose[:, 1, None, None]
        v = (q + bend * p.square() * pitch.sin()) / pitch.cos()
        u = _arc(p, bend).expand_as(v)
        tall = self.height * height / (self.width * width)
        return u, v, (u.abs() <= 1 + TOLERANCE) & (v.abs() <= tall + TOLERANCE)


def _arc(p: Tensor, bend: Tensor) -> Tensor:
    """The length of the parabola `z = -bend p^2` from its vertex to the abscissa `p`."""
    steep = 2 * bend.clamp(min=1e-9)
    return p * (1 + (steep * p).square()).sqrt() / 2 + torch.asinh(steep * p) / (2 * steep)


def _abscissa(u: Tensor, bend: float) -> Tensor:
    """The abscissa to which the parabola has the length `u`, by Newton's method."""
    steepness, p = torch.tensor(bend, dtype=u.dtype, device=u.device), u
    for _ in range(8):
        p = p - (_arc(p, steepness) - u) / (1 + (2 * bend * p).square()).sqrt()
    return p


def _sampled(x: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

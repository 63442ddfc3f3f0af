"""A laser beam across the scene: a finite family of beams, each with a wavelength, a line and a width."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import TOLERANCE, Ball, need_pairs
from spikeproof.threats.physical.views import need_images

__all__ = ["LaserBeam", "wavelength_colour"]

CANVAS = 400.0
"""Side of the square canvas in which offset and width of a beam are measured."""

GAMMA = 0.8

_FALL = (
    (380.0, (1.0, 0.0, 1.0)),
    (440.0, (0.0, 0.0, 1.0)),
    (490.0, (0.0, 1.0, 1.0)),
    (510.0, (0.0, 1.0, 0.0)),
    (580.0, (1.0, 1.0, 0.0)),
    (645.0, (1.0, 0.0, 0.0)),
    (750.0, (1.0, 0.0, 0.0)),
)
"""Wavelength in nm -> red, green and blue, linear in between, before attenuation and gamma."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value."""

CHECKED = 8
"""Number of pixels at which all beams are compared with an image, before the few that remain are drawn."""


def wavelength_colour(wavelength: Float[Tensor, "*N"]) -> Float[Tensor, "*N 3"]:
    """Red, green and blue of a wavelength, in [0, 1].

    Args:
        wavelength: in nanometres, in [380, 750].

    Example:
        >>> wavelength_colour(torch.tensor([440.0, 510.0, 645.0])).tolist()
        [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]

    Source:
        Bruton 1996 ("Approximate RGB values for visible wavelengths"), as in the published code of AdvLB.
    """
    knots = torch.tensor([at for at, _ in _FALL], dtype=wavelength.dtype, device=wavelength.device)
    values = torch.tensor([colour for _, colour in _FALL], dtype=wavelength.dtype, device=wavelength.device)
    segment = (torch.searchsorted(knots, wavelength.contiguous(), right=True) - 1).clamp(0, len(_FALL) - 2)
    share = ((wavelength - knots[segment]) / (knots[segment + 1] - knots[segment]))[..., None]
    colour = values[segment] + share * (values[segment + 1] - values[segment])
    violet = 0.3 + 0.7 * (wavelength - 380) / 60
    red = 0.3 + 0.7 * (750 - wavelength) / 105
    strength = torch.minimum(violet, red).clamp(max=1)[..., None]
    return (colour * strength).clamp(0, 1) ** GAMMA


@dataclass(frozen=True)
class LaserBeam(Ball):
    r"""A laser beam is added to the image: its wavelength, angle, offset and width come from a finite grid.

    .. math:: x' = \mathrm{clip}(x + \epsilon\, c(\lambda)\, I(d_p)),\quad
        I(d) = \begin{cases} 1 & d \le \sqrt\beta \\ \beta / d^2 & d \le \sqrt{20 \beta} \\ 0 & \text{else}
        \end{cases}

    with the distance d of a pixel to the line `y = x tan(angle) + offset`, from the top left corner of the
    image, which is scaled to a canvas of 400 by 400. Wavelengths go from 380 to 750 nm, angles from 0 to 180
    degrees, offsets from 0 to 400 and widths `beta` from 10 to 1600. The family is finite, so that whether an
    image belongs to it is decided exactly. It has no projection: an attack is a search of its own
    (`adv-lb`) or random (`noise`).

    Args:
        epsilon: intensity of the beam in its core, in [0, 1]; 0 changes nothing.
        wavelengths: number of wavelengths, at least 2.
        angles: number of angles, at least 2.
        offsets: number of offsets, at least 2.
        widths: number of widths, at least 2.

    Shapes:
        images `[B, C, H, W]` with 1 or 3 channels; a grey image is lightened by the grey value of the colour.

    Raises:
        InputError: a setting is out of range, or the inputs are not grey or coloured images.

    Example:
        >>> threat, x = LaserBeam(1.0), torch.zeros(1, 3, 2, 2)
        >>> red_across_the_top = torch.tensor([[26, 0, 10, 15]])
        >>> threat.lit(x, red_across_the_top)[0, :, 0, 0]
        tensor([1.0000, 0.1..., 0.0000])

    Source:
        Duan et al. 2021 (arXiv 2103.06504), section 3.1, and its published code (AdvLB), whose parameters are
        whole numbers. Only lines that cross the left edge belong to the family, there as here. The published
        code draws the beam on the canvas and shrinks it; here it is drawn at the centres of the pixels.
    """

    wavelengths: int = 38
    angles: int = 72
    offsets: int = 41
    widths: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.counts) < 2:
            raise InputError(
                "A family of beams has at least 2 wavelengths, angles, offsets and widths",
                f"{self.counts}",
                "Try wavelengths=38, angles=72, offsets=41, widths=16.",
            )

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Number of wavelengths, angles, offsets and widths."""
        return self.wavelengths, self.angles, self.offsets, self.widths

    def whole(self, shape: Sequence[int]) -> float:
        return 1.0

    def lit(self, x: Float[Tensor, "B C H W"], beam: Int64[Tensor, "B 4"]) -> Float[Tensor, "B C H W"]:
        """Images with one beam each.

        Args:
            x: images in [0, 1].
            beam: positions of wavelength, angle, offset and width in their grids.
        """
        rows, columns = _grid(x)
        profile = self._profile(beam[:, 1:], rows.flatten(), columns.flatten(), x).view(-1, 1, *x.shape[2:])
        colour = self._colours(x)[beam[:, 0]][:, :, None, None]
        return (x.double() + self.epsilon * colour * profile).clamp(0, 1).to(x.dtype)

    def drawn(self, x: Float[Tensor, "B C H W"], key: Key) -> Int64[Tensor, "B 4"]:
        """A random beam for each image."""
        counts = torch.tensor(self.counts, device=x.device)
        return (key.fold("beam").uniform((len(x), 4), 0, x.device).double() * counts).long()

    def start(self, x: Float[Tensor, "B C H W"], key: Key) -> Float[Tensor, "B C H W"]:
        """A random beam."""
        return self.lit(x, self.drawn(x, key))

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        raise _no_steps()

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        raise _no_steps()

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        raise _no_steps()

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """The largest absolute change of a pixel value, which is at most the intensity of the beam."""
        need_pairs(self, x_adv, x)
        return (x_adv - x).abs().flatten(1).amax(1)

    def contains(self, x_adv: Float[Tensor, "B C H W"], x: Float[Tensor, "B C H W"]) -> Bool[Tensor, "B"]:
        """Whether each image is the clean one or some beam of the family gives it, up to 1e-6.

        Every beam is compared with the image at a few pixels in double precision, and those that agree there
        are compared at all pixels.
        """
        need_pairs(self, x_adv, x)
        self._colours(x)
        found = (x_adv == x).flatten(1).all(1)
        for row in (~found).nonzero().flatten().tolist():
            found[row] = self._explained(x_adv[row].double(), x[row].double())
        return found

    def _explained(self, x_adv: Float[Tensor, "C H W"], x: Float[Tensor, "C H W"]) -> bool:
        moved = x_adv - x
        if not bool(((x_adv >= 0) & (x_adv <= 1) & (moved >= -TOLERANCE)).all()):
            return False
        place, (rows, columns) = self._telling(x_adv, moved), _grid(x[None])
        every = torch.cartesian_prod(*(torch.arange(count, device=x.device) for count in self.counts[1:]))
        light = self._profile(every, rows.flatten()[place], columns.flatten()[place], x[None])
        here, goal = x.flatten(1)[:, place], x_adv.flatten(1)[:, place]
        for index, colour in enumerate(self._colours(x[None])):
            left = torch.arange(len(every), device=x.device)
            for pixel in range(len(place)):
                made = here[:, pixel] + self.epsilon * colour * light[left, pixel, None]
                left = left[((made.clamp(0, 1) - goal[:, pixel]).abs() <= TOLERANCE).all(1)]
            for part in left.split(1024):  # type: ignore[no-untyped-call]
                beams = torch.cat([torch.full((len(part), 1), index, device=x.device), every[part]], 1)
                made = self.lit(x.expand(len(part), *x.shape), beams)
                if bool(((made - x_adv).abs().flatten(1).amax(1) <= TOLERANCE).any()):
                    return True
        return False

    def _telling(self, x_adv: Float[Tensor, "C H W"], moved: Float[Tensor, "C H W"]) -> Int64[Tensor, "K"]:
        """The pixels that tell beams apart: the strongest and the weakest light that is not clipped."""
        light = torch.where((x_adv < 1) & (moved > TOLERANCE), moved, 0 * moved).amax(0).flatten()
        order = torch.where(light > 0, light, torch.inf).argsort()
        weak, dark = order[: CHECKED // 2], order[-(CHECKED // 2) :]
        bright = light.argsort(descending=True)[: CHECKED // 2]
        found: Tensor = torch.unique(torch.cat([bright, weak, dark]))
        return found

    def _colours(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "N C"]:
        """The colour of each wavelength, in the channels of the images."""
        need_images("A laser beam", x)
        if x.shape[1] not in (1, 3):
            raise InputError(
                "A laser beam needs grey images or images in red, green and blue",
                f"{x.shape[1]} channels",
                "Use linf, l2 or l0 for these inputs.",
            )
        grid = torch.linspace(380, 750, self.wavelengths, dtype=torch.float64, device=x.device)
        colour = wavelength_colour(grid)
        return colour if x.shape[1] == 3 else (colour @ colour.new_tensor(LUMA))[:, None]

    def _profile(
        self, beam: Int64[Tensor, "N 3"], rows: Float[Tensor, "P"], columns: Float[Tensor, "P"], x: Tensor
    ) -> Float[Tensor, "N P"]:
        """The light of beams at some pixels, in [0, 1]."""
        size = [torch.arange(count, device=x.device).double() / (count - 1) for count in self.counts[1:]]
        # 180 degrees is 0 degrees again, and is left out
        angle = torch.arange(self.angles, device=x.device).double()[beam[:, 0], None] * math.pi / self.angles
        offset = (CANVAS * size[1])[beam[:, 1], None]
        width = (10 + 1590 * size[2])[beam[:, 2], None]
        apart = columns * angle.sin() + (offset - rows) * angle.cos()
        square = apart.square().clamp(min=1e-12)
        tail = torch.where(square <= 20 * width, width / square, 0 * square)
        return torch.where(square <= width, torch.ones_like(square), tail)


def _grid(x: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "H W"], Float[Tensor, "H W"]]:
    """Row and column of every pixel centre on the canvas."""
    need_images("A laser beam", x)
    i = (torch.arange(x.shape[2], device=x.device).double() + 0.5) * CANVAS / x.shape[2]
    j = (torch.arange(x.shape[3], device=x.device).double() + 0.5) * CANVAS / x.shape[3]
    rows, columns = torch.meshgrid(i, j, indexing="ij")
    return rows, columns


def _no_steps() -> InputError:
    return InputError(
        "An attack that searches the parameters of a laser beam, because no step leads from beam to beam",
        "an attack that projects images onto the set of a threat",
        "Use adv-lb or noise.",
    )

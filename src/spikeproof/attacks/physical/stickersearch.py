"""Search for the picture on a sticker, which has to work in views of the scene and to be printable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.parts.steps import Memory, Position, Step
from spikeproof.attacks.recipe import GradientRecipe
from spikeproof.attacks.search import GradientAttack, instead
from spikeproof.errors import InputError
from spikeproof.protocols import Threat
from spikeproof.threats.physical.stickers import Printed, nonprintability, total_variation

__all__ = ["RP2", "AdvHat", "Painting"]


@dataclass(frozen=True)
class Painting(Step):
    r"""A step of the picture on a sticker, which is kept as it was before printing.

    .. math:: s_{i+1} = \mathrm{clip}(s_i + \alpha\, \mathrm{sign}(m_{i+1} - \gamma\, n(\nabla R(s_i)))),\quad
        m_{i+1} = \mu\, m_i + n(\nabla_x L)

    where R is the nonprintability or the total variation, and n divides by the mean absolute value. The
    gradient is evaluated at the printed picture and moves the picture before printing, because a small step
    from one printable colour would be undone by printing.

    Args:
        decay: weight `mu` of earlier gradients, at least 0.
        printing: weight of the nonprintability, at least 0.
        smoothing: weight of the total variation, at least 0.
    """

    decay: float = 0.0
    printing: float = 0.0
    smoothing: float = 0.0

    def begin(self, x: Tensor) -> Memory:
        age = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        return {"picture": torch.zeros_like(x), "momentum": torch.zeros_like(x), "age": age}

    def __call__(self, position: Position, grad: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        threat = cast(Printed, position.threat)
        if not threat.epsilon:
            return position.x.clone(), memory
        first = (memory["age"] == 0).view(-1, 1, 1, 1)
        here = threat.content(position.here, position.x).clamp(0, 1)
        picture = torch.where(first, here, memory["picture"])
        momentum = self.decay * memory["momentum"] + _level(grad)
        up = threat.steepest(momentum - self._penalty(threat, picture))
        size = (position.size / threat.epsilon).view(-1, 1, 1, 1)
        picture = (picture + size * up).clamp(0, 1)
        kept = {"picture": picture, "momentum": momentum, "age": memory["age"] + 1}
        return threat.stuck(threat.printed(picture), position.x), kept

    def _penalty(self, threat: Printed, picture: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The weighted gradients of what makes the picture hard to print."""
        palette = threat.palette(picture)
        found = torch.zeros_like(picture)
        with torch.enable_grad():
            at = picture.detach().requires_grad_()
            if self.printing and palette is not None:
                (slope,) = torch.autograd.grad(nonprintability(at.movedim(1, -1), palette).sum(), at)
                found = found + self.printing * _level(slope)
            if self.smoothing:
                (slope,) = torch.autograd.grad(total_variation(at).sum(), at)
                found = found + self.smoothing * _level(slope)
        return found


def _level(grad: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    mean = grad.abs().flatten(1).mean(1).view(-1, 1, 1, 1)
    return grad / mean.clamp(min=torch.finfo(grad.dtype).tiny)


def _check(recipe: RP2 | AdvHat) -> None:
    if recipe.steps < 0 or recipe.restarts < 1 or recipe.views < 0 or not recipe.reach >= 0:
        raise InputError(
            "A search for a sticker needs steps >= 0, restarts >= 1, views >= 0 and a reach of at least 0",
            f"steps={recipe.steps}, restarts={recipe.restarts}, views={recipe.views}, reach={recipe.reach}",
            "Try steps=40, restarts=1, views=4, reach=2.5.",
        )


def _searched(recipe: RP2 | AdvHat, threat: Threat, step: Painting) -> GradientAttack:
    if not isinstance(threat, Printed):
        raise InputError(
            f"{type(recipe).__name__} searches for the picture on a sticker",
            repr(threat),
            instead(threat, "Use the threat sticker or bent-sticker, or the attack pgd within this one."),
        )
    return GradientAttack(
        threat,
        recipe.steps,
        recipe.reach * threat.epsilon / max(recipe.steps, 1),
        objective=recipe.objective,
        restarts=recipe.restarts,
        stop_when_fooled=not recipe.views,
        step=step,
        views=recipe.views,
    )


@dataclass(frozen=True, kw_only=True)
class RP2(GradientRecipe):
    r"""Robust physical perturbations: a sticker in printable colours that works in many views.

    .. math:: \max_s\ \tfrac{1}{V + 1} \bigl(L(x') + \sum_v L(v(x'))\bigr) - \gamma\,\mathrm{NPS}(s),\quad
        x' = (1 - \epsilon M) x + \epsilon M s

    With views the search goes on after the model is fooled. Of the images that fool the model, the one with
    the largest mean objective over the views is returned.

    Args:
        steps: number of steps, at least 0.
        restarts: number of random starts, at least 1.
        views: random views per step besides the image itself, at least 0.
        reach: number of steps times step size, in units of pixel value of the sticker.
        printing: weight of the nonprintability against the gradient of the objective, at least 0.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a setting is out of range, or the threat is no sticker.

    Example:
        >>> from spikeproof.threats import Sticker
        >>> RP2(steps=10)(Sticker(1.0)).step_size
        0.25

    Source:
        Eykholt et al. 2018 (arXiv 1707.08945), eq. (3). The paper descends with Adam and does not round to
        printable colours; the size of the change, which it penalises, is bounded by the threat here.
    """

    steps: int = 40
    restarts: int = 1
    views: int = 4
    reach: float = 2.5
    printing: float = 0.1

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, threat: Threat) -> GradientAttack:
        return _searched(self, threat, Painting(printing=self.printing))


@dataclass(frozen=True, kw_only=True)
class AdvHat(GradientRecipe):
    r"""A bent sticker by steps with momentum in random poses, kept smooth by its total variation.

    .. math:: \max_s\ \tfrac{1}{V + 1} \bigl(L(x') + \sum_v L(v(x'))\bigr) - \gamma\,\mathrm{TV}(s)

    The published objective is the cosine similarity of a face with a stored face; for a classifier it is the
    loss of the label.

    Args:
        steps: number of steps, at least 0.
        restarts: number of random starts, at least 1.
        views: random poses per step besides the image itself, at least 0.
        reach: number of steps times step size, in units of pixel value of the sticker.
        decay: weight of the sum of earlier gradients, at least 0.
        smoothing: weight of the total variation against the gradient of the objective, at least 0.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: a setting is out of range, or the threat is no sticker.

    Example:
        >>> from spikeproof.threats import BentSticker
        >>> AdvHat(steps=10)(BentSticker(1.0)).views
        4

    Source:
        Komkov & Petiushko 2019 (arXiv 1908.08705), sections 3.2 to 3.4.
    """

    steps: int = 40
    restarts: int = 1
    views: int = 4
    reach: float = 2.5
    decay: float = 0.9
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        _check(self)

    def __call__(self, threat: Threat) -> GradientAttack:
        return _searched(self, threat, Painting(decay=self.decay, smoothing=self.smoothing))

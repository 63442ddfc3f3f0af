"""One patch for all images: its pattern is trained on some images and tried at places of others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.queries import pasted, random_search
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit, answer, instead
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Objective
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats.physical.patches import MovablePatch, laid

__all__ = ["PatchAnywhere", "UniversalPatch", "trained_pattern"]

TOGETHER = 32
"""Number of images per step of the training."""


def trained_pattern(
    model: Model,
    threat: MovablePatch,
    images: Float[Tensor, "N C H W"],
    labels: Int64[Tensor, "N"],
    key: Key,
    *,
    steps: int = 200,
    objective: Objective = LogitCrossEntropy(),
) -> Float[Tensor, "C S S"]:
    r"""The pattern of a patch that fools the model on as many of these images as possible, at random places.

    .. math:: \max_p\ E_{x, l, t}\, L(A(p, x, l, t))

    by steps along the sign of a sum of gradients with momentum. Nothing survives the call but the pattern.

    Args:
        model: the model, in evaluation mode.
        threat: the side of the patch, and the angles and sizes at which it is trained.
        images: images in [0, 1] on which the pattern is trained, and never those on which it is measured.
        labels: their labels.
        key: randomness of the first pattern, of the order of images and of the places.
        steps: number of steps, at least 1.
        objective: the function that the pattern maximises.

    Raises:
        InputError: there are no images or no steps, or the patch is larger than the images or has no area.

    Example:
        >>> def brightness(images, key=None):
        ...     lit = images.flatten(1).sum(1)
        ...     return torch.stack([lit, 3 - lit], 1)
        >>> x = torch.zeros(4, 1, 3, 3)
        >>> trained_pattern(brightness, MovablePatch(2), x, torch.ones(4, dtype=int), Key.of(0), steps=20)
        tensor([[[1., 1.],
                 [1., 1.]]])

    Source:
        Brown et al. 2017 (arXiv 1712.09665), section 2, without a target class.
    """
    if not len(images) or len(images) != len(labels) or steps < 1 or not threat.epsilon:
        raise InputError(
            "A patch is trained on at least one image with its label, in at least one step, and has an area",
            f"{len(images)} images, {len(labels)} labels, steps={steps}, epsilon={threat.epsilon:g}",
            "Pass images of the training or the validation part.",
        )
    x = admit(model, threat, images, labels)
    threat.check_size(x)
    side = int(threat.epsilon)
    pattern = key.fold("pattern").uniform((x.shape[1], side, side), device=x.device).to(x.dtype)
    momentum, few = torch.zeros_like(pattern), min(TOGETHER, len(x))
    for step in range(steps):
        now = key.fold("step", step)
        rows = now.fold("images").uniform((len(x),), device=x.device).argsort()[:few]
        at = pattern.clone().requires_grad_()
        with torch.enable_grad():
            shown = laid(x[rows], at.expand(few, *at.shape), *threat.drawn(x[rows], now))
            logits = answer(model, shown, labels[rows], now.fold("answer"))
            total = objective(logits, labels[rows]).sum() + 0 * at.sum()
            (grad,) = torch.autograd.grad(total, at)
        grad = grad.nan_to_num(0.0, 0.0, 0.0)
        momentum = 0.9 * momentum + grad / grad.abs().mean().clamp(min=torch.finfo(grad.dtype).tiny)
        pattern = (pattern + 4 / steps * (1 - step / steps) * momentum.sign()).clamp(0, 1)
    return pattern


def _refused(threat: Threat, places: int) -> InputError:
    return InputError(
        "UniversalPatch is defined for the threat movable-patch and tries at least 1 place",
        f"{threat!r}, places={places}",
        instead(threat, "Use patch-search for patches that differ from image to image."),
    )


@dataclass(frozen=True)
class PatchAnywhere:
    """A given pattern at random places of each image, the worst of which counts.

    Args:
        threat: the side of the patch.
        pattern: its values, channel by channel and row by row; None before it is trained.
        places: places tried per image, at least 1.

    Raises:
        InputError: another threat, no places, or a pattern of another size.
    """

    threat: Threat
    pattern: tuple[float, ...] | None = None
    places: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.threat, MovablePatch) or self.places < 1:
            raise _refused(self.threat, self.places)
        if self.pattern is not None and not all(0 <= value <= 1 for value in self.pattern):
            raise InputError("A pattern has values in [0, 1]", f"{self.pattern[:4]}…", "Train it anew.")

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B C H W"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; `through` is ignored, since the pattern is trained already."""
        x = admit(model, self.threat, x, y)
        assert isinstance(self.threat, MovablePatch)
        self.threat.check_size(x)
        side = int(self.threat.epsilon)
        size = x.shape[1] * side**2
        if self.pattern is None or len(self.pattern) != size:
            raise InputError(
                f"A pattern of {size} values, for {x.shape[1]} channels of {side} by {side} pixels",
                "none" if self.pattern is None else f"{len(self.pattern)} values",
                "Train it: UniversalPatch().trained(model, threat, images, labels, key).",
            )
        pattern = torch.tensor(self.pattern, dtype=x.dtype, device=x.device).view(x.shape[1], side, side)
        room = torch.tensor(x.shape[2:], device=x.device) - side + 1

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            corner = (now.fold("place").uniform((len(rows), 2), 0, x.device).double() * room).long()
            return pasted(x[rows], corner, pattern[None])

        return random_search(model, x, y, key, Best(x), self.places, propose)


@dataclass(frozen=True, kw_only=True)
class UniversalPatch(Recipe):
    """Adversarial patch: one pattern for all images, trained on others, at the worst of some places.

    In a study the pattern is trained on images of the validation part. In Python, `trained` returns the
    recipe with its pattern.

    Args:
        images: number of images on which a study trains the pattern, at least 1.
        steps: steps of the training, at least 1.
        places: places tried per image, at least 1.
        objective: the function that the pattern maximises.
        pattern: values of a trained pattern, channel by channel and row by row; None to train one.

    Raises:
        InputError: another threat than a movable patch, or a setting out of range.

    Example:
        >>> from spikeproof.threats import MovablePatch
        >>> UniversalPatch(places=5, pattern=(0.0, 1.0, 1.0, 0.0))(MovablePatch(2)).places
        5

    Source:
        Brown et al. 2017 (arXiv 1712.09665), section 2.
    """

    gradient_free: ClassVar[bool] = True  # the attacked images are used without gradients
    images: int = 200
    steps: int = 200
    places: int = 20
    objective: Objective = LogitCrossEntropy()
    pattern: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.images < 1 or self.steps < 1:
            raise InputError(
                "A universal patch is trained on at least 1 image in at least 1 step",
                f"images={self.images}, steps={self.steps}",
                "Try images=200, steps=200.",
            )

    def trained(
        self, model: Model, threat: Threat, images: Tensor, labels: Tensor, key: Key
    ) -> UniversalPatch:
        """The recipe with a pattern that is trained on these images; see `trained_pattern`.

        Raises:
            InputError: the threat is no movable patch, or in the cases of `trained_pattern`.
        """
        if not isinstance(threat, MovablePatch):
            raise _refused(threat, self.places)
        pattern = trained_pattern(
            model, threat, images, labels, key, steps=self.steps, objective=self.objective
        )
        return replace(self, pattern=tuple(pattern.double().flatten().tolist()))

    def __call__(self, threat: Threat) -> PatchAnywhere:
        return PatchAnywhere(threat, self.pattern, self.places)

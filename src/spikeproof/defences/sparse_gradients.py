"""Regularisation of the input gradient towards sparsity (SR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.defences.defended import Defended, at_least
from spikeproof.defences.noisy import check_images
from spikeproof.errors import InputError
from spikeproof.learning.rule import Lesson, LossOf
from spikeproof.networks.classifier import Classifier

__all__ = ["SparseGradients"]


@dataclass(frozen=True)
class SparseGradients(Defended):
    r"""Sparsity regularisation: the loss, plus the squared L1 norm of the gradient by the image.

    .. math:: L + \lambda\,\frac{1}{B} \sum_b \left(\frac{f(x + h\,v) - f(x)}{h}\right)^2, \quad
              f = \frac{e^{z_y}}{e^{z_y} + \max_{k \ne y} e^{z_k}}, \quad v = \mathrm{sign}\,\nabla_x f

    The difference approximates :math:`\|\nabla_x f\|_1`, since f grows along v by h times that norm. The
    other class k is chosen at x and kept. Values for which a step along v would leave [0, 1] are moved
    against v in the image that is subtracted, which changes the difference by as much. The published code
    leaves [0, 1] there. An encoder into spikes rounds a step of h away, so use direct encoders. With `weight`
    0 the rule is the one inside, to the bit.

    A small gradient at the data is not robustness by itself: it may be a masked gradient, so look for the
    verdict of the audit.

    Args:
        of: the learning rule, with its loss.
        weight: `lambda`, at least 0; the paper tunes it for each network.
        h: length of the step, in units of pixel value, in (0, 0.5).

    Raises:
        InputError: a setting is out of range, or the model takes events.

    Example:
        >>> SparseGradients(weight=0.1).h
        0.01

    Source:
        Liu et al. 2024, section 4 and algorithm 1; h as in their published code.
    """

    adds_loss: ClassVar[bool] = True

    weight: float = 0.01
    h: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, weight=self.weight)
        if not 0 < self.h < 0.5:
            raise InputError("SparseGradients needs h in (0, 0.5)", f"h={self.h}", "Try 0.01.")

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_images(self, model)

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        if not self.weight:
            return plain(lesson)
        at = lesson._replace(images=lesson.images.detach().requires_grad_())
        natural = plain(at)
        return natural + self.weight * self.steepness(at).square().mean()

    def steepness(self, lesson: Lesson) -> Float[Tensor, "B"]:
        """The difference quotient of f along the signs of its gradient, for images that record gradients."""
        x, y = lesson.images, lesson.labels
        z = lesson.logits(x)
        rival = z.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
        here = confidence(z, y, rival)
        (grad,) = torch.autograd.grad(here.sum(), x, retain_graph=True)
        with torch.no_grad():
            step = self.h * grad.sign()
            leaves = ((x + step) < 0) | ((x + step) > 1)
            ahead, behind = x + step * ~leaves, (x - step * leaves).clamp(0, 1)
        front = confidence(lesson.logits(ahead), y, rival)
        back = confidence(lesson.logits(behind), y, rival) if bool(leaves.any()) else here
        return (front - back) / self.h


def confidence(
    logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], rival: Int64[Tensor, "B"]
) -> Float[Tensor, "B"]:
    """The share of the label in the soft-max of the label and one rival.

    Example:
        >>> confidence(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([0]), torch.tensor([1]))
        tensor([0.5000])
    """
    own, other = (logits.gather(1, of[:, None])[:, 0] for of in (y, rival))
    return (own - other).sigmoid()

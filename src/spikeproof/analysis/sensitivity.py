"""How fast the answers of a model change with its input: gradient norms and local Lipschitz constants."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import cross_entropy

from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import answering
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat

__all__ = ["GradientNorms", "gradient_norms", "local_lipschitz"]


class GradientNorms(NamedTuple):
    """The norms of the gradient of the loss on the image, for each example."""

    l1: Float[Tensor, "B"]  # first-order increase of the loss per unit of an L-infinity budget
    l2: Float[Tensor, "B"]  # the same per unit of an L2 budget
    inputs: int  # dimension of an image


def gradient_norms(
    model: Model, images: Float[Tensor, "B *F"], labels: Int64[Tensor, "B"], key: Key | None = None
) -> GradientNorms:
    r"""First-order vulnerability: the norms of the gradient of the cross-entropy on the image.

    .. math:: \max_{\|\delta\|_p \le \epsilon} L(x + \delta) - L(x) \approx \epsilon\, \|\nabla_x L\|_q,
        \quad 1/p + 1/q = 1

    For networks at the customary initialisation the L1 norm grows like the square root of the number of
    inputs, whatever the architecture, so doubled images are more vulnerable to the same budget. Through
    spikes the gradient is that of the surrogates, so this is a statement about the substitute and no bound.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        labels: their classes.
        key: as for a call of the model.

    Raises:
        InputError: not as many labels as images, or a label without a logit.

    Example:
        >>> linear = lambda x, key=None: x.flatten(1) @ torch.tensor([[1.0, -1.0], [0.0, 0.0]])
        >>> found = gradient_norms(linear, torch.zeros(1, 2), torch.tensor([0]))
        >>> found.l1.item(), found.inputs
        (1.0, 2)

    Source:
        Simon-Gabriel et al. 2019 (First-order adversarial vulnerability), theorem 4.
    """
    at = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = answering(model)(at, key)
        _check_labels(labels, logits)
        loss = cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, at, materialize_grads=True)
    flat = gradient.flatten(1)
    return GradientNorms(flat.abs().sum(1), flat.norm(dim=1), images.shape[1:].numel())


@torch.no_grad()
def local_lipschitz(
    model: Model, images: Float[Tensor, "B *F"], threat: Threat, key: Key, *, samples: int = 32
) -> Float[Tensor, "B"]:
    r"""An estimate from below of how steep the logits are around each image.

    .. math:: \hat L(x) = \max_i \frac{\|f(x_i) - f(x)\|_2}{\|x_i - x\|_2}, \quad x_i \in B(x)

    It needs no gradient, so it sees the jumps of spikes as they are. A model of spikes is piecewise constant:
    the estimate grows as the budget shrinks, and belongs to the budget.

    Args:
        model: maps images to logits.
        images: in [0, 1].
        threat: the set that is sampled around each image.
        key: decides the samples, and the draws of a stochastic model, the same for every sample; a key of
            rows makes them independent of the batch.
        samples: per image, at least 1.

    Raises:
        InputError: no samples.

    Example:
        >>> from spikeproof import Linf
        >>> double = lambda x, key=None: 2 * x
        >>> round(local_lipschitz(double, torch.full((1, 3), 0.5), Linf(0.1), Key.of(0)).item(), 4)
        2.0

    Source:
        Weng et al. 2018 (CLEVER), the maximum over samples without its extreme-value fit.
    """
    if samples < 1:
        raise InputError("local_lipschitz() needs samples", f"samples={samples}", "Try 32.")
    judge, draw = answering(model), key.fold("draw")
    here = judge(images, draw)
    steepest = torch.zeros(len(images), device=images.device)
    for i in range(samples):
        other = threat.start(images, key.fold("sample", i))
        apart = (other - images).flatten(1).norm(dim=1)
        change = (judge(other, draw) - here).flatten(1).norm(dim=1)
        slope = torch.where(apart > math.ulp(1.0), change / apart, 0.0)
        steepest = torch.maximum(steepest, slope)
    return steepest


def _check_labels(labels: Tensor, logits: Tensor) -> None:
    fits = logits.ndim == 2 and labels.shape == logits.shape[:1]
    if not fits or not bool(((labels >= 0) & (labels < logits.shape[1])).all()):
        raise InputError(
            "gradient_norms() needs logits [B, K] and the label of each image, below K",
            f"logits {list(logits.shape)}, labels {list(labels.shape)} {labels.flatten()[:5].tolist()}",
            "Give the class of each image.",
        )

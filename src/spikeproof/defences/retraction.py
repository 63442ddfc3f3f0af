"""Retraction of weights towards orthonormal rows, alone and with adversarial training (SNN-RAT)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.attacks.gradient.plain import FGSM
from spikeproof.attacks.recipe import Recipe
from spikeproof.defences.adversarial import Adversarial
from spikeproof.defences.defended import Defended, at_least
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Threat
from spikeproof.threats import Linf

__all__ = ["SNNRAT", "Retraction", "retract", "retracted"]

MANY_ROWS = 200
"""A fully connected layer with at least so many rows is retracted in part after each step."""


def retracted(weight: Float[Tensor, "O *I"], beta: float) -> Float[Tensor, "O *I"]:
    """One step of the retraction of a layer's weights.

    It keeps singular vectors, and takes each singular value s to (1 + beta) s - beta s^3.

    Args:
        weight: of a layer; a kernel is a matrix with one row per output channel.
        beta: strength, at least 0.

    Example:
        >>> retracted(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 0.1)
        tensor([[1.4000, 0.0000],
                [0.0000, 1.0000]])
    """
    w = weight.flatten(1)
    return ((1 + beta) * w - beta * (w @ w.T @ w)).view_as(weight)


@torch.no_grad()
def retract(model: Classifier, beta: float, share: float, key: Key) -> None:
    """Retract all convolutions and fully connected layers of a model, in place.

    Args:
        model: whose weights change.
        beta: strength, at least 0; 0 changes nothing.
        share: share of the rows of a fully connected layer with at least 200 rows that change, at random.
        key: randomness of these rows.
    """
    layers = [each for each in model.network.modules() if isinstance(each, (nn.Linear, nn.Conv2d))]
    for i, layer in enumerate(layers if beta else []):
        rows = torch.arange(len(layer.weight))
        if isinstance(layer, nn.Linear) and len(rows) >= MANY_ROWS and share < 1:
            drawn = torch.randperm(len(rows), generator=key.fold("rows", i).generator())
            rows = drawn[: max(1, round(share * len(rows)))]
        rows = rows.to(layer.weight.device)
        layer.weight[rows] = retracted(layer.weight[rows], beta)


def _check(part: object, beta: float, share: float) -> None:
    at_least(part, 0, beta=beta)
    if beta > 0.5 or not 0 < share <= 1:
        raise InputError(
            f"{type(part).__name__} needs beta of at most 0.5 and a share in (0, 1]",
            f"beta={beta}, share={share}",
            "Try beta: 0.004 and share: 0.3.",
        )


@dataclass(frozen=True)
class Retraction(Defended):
    r"""Weight retraction: after every step, each layer moves towards orthonormal rows.

    .. math:: W \leftarrow (1 + \beta)\,W - \beta\,W W^\top W

    This is a step down the gradient of :math:`\|W W^\top - 1\|_F^2 / 4`. It bounds how much a layer can
    stretch a perturbation. A layer with more rows than columns tends to orthonormal columns. Batch
    normalisation after the layer is not retracted and may stretch again. With `beta` 0 the rule is the one
    inside, to the bit.

    Args:
        of: the learning rule that takes the steps.
        beta: strength, in [0, 0.5].
        share: share of the rows of a fully connected layer with at least 200 rows that each step changes, in
            (0, 1]; such rows are made orthonormal among themselves.

    Raises:
        InputError: a setting is out of range.

    Example:
        >>> Retraction().beta
        0.004

    Source:
        Ding et al. 2022 (SNN-RAT), section 4.2, after Cisse et al. 2017 (Parseval networks), algorithm 1; the
        share of rows is that of their published code. Our networks have no learned mixing coefficients, which
        that code projects to the simplex as well.
    """

    beta: float = 0.004
    share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, self.beta, self.share)

    def settle(self, model: Classifier, key: Key) -> None:
        retract(model, self.beta, self.share, key)


@dataclass(frozen=True)
class SNNRAT(Adversarial):
    r"""SNN-RAT: adversarial training with weights that are retracted towards orthonormal rows.

    .. math:: w \leftarrow w - \eta\,\nabla_w L(f_w(x'), y), \quad
              W \leftarrow (1 + \beta)\,W - \beta\,W W^\top W

    The attack takes its gradients from the model (the paper's BPTT), or through the rates of its neurons
    (BPTR) with `attack: {through: {gradient: bptr, attack: fgsm}}`. In the published code the two backward
    passes belong to two forward passes: one fires above the threshold and one at it, one has no leak. So an
    attack by BPTR sees other spikes than those that are trained. Here spikes are equal to the bit.

    Args:
        of: the learning rule that trains on the attacked images.
        threat: the threat with its budget; published: 2/255, for tests at 8/255.
        watch: a watch for catastrophic overfitting, or None.
        attack: the recipe; published: FGSM, or PGD with two steps of half the budget.
        beta: strength of the retraction, in [0, 0.5]; 0 for adversarial training alone.
        share: share of the rows of a large fully connected layer that each step retracts, in (0, 1].

    Raises:
        InputError: a setting is out of range, or a reason of `Adversarial`.

    Example:
        >>> SNNRAT().threat == Linf(2 / 255)
        True

    Source:
        Ding et al. 2022 (SNN-RAT), algorithm 1.
    """

    threat: Threat = Linf(2 / 255)
    attack: Recipe = FGSM()
    beta: float = 0.004
    share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self, self.beta, self.share)

    def settle(self, model: Classifier, key: Key) -> None:
        retract(model, self.beta, self.share, key)

"""Conversions whose ANN learns its scales: units with a bound above which no rate goes."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.datasets import Dataset, Split, floats
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.checkpoints import Later, Training
from spikeproof.learning.from_ann.activations import Quantised, RateNorm
from spikeproof.learning.from_ann.conversion import Conversion
from spikeproof.learning.from_ann.folding import Affine
from spikeproof.learning.from_ann.scalegraph import activity, neurons_of, passes
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron, PrimedIF, Spiking

__all__ = ["QCFS", "RateNormLayer"]


@dataclass(frozen=True)
class QCFS(Conversion):
    r"""Quantisation clip-floor-shift: the ANN is trained with the rounding that a few time steps cause.

    .. math:: y = \frac{\lambda}{L} \left\lfloor L\,\mathrm{clip}(x / \lambda, 0, 1) + \frac12 \right\rfloor

    with a learned bound `lambda` per layer. For a constant input, a neuron that starts at half its threshold
    fires at exactly this rate when `T = L`, and for other T the expected error is zero; use the neuron
    `primed-if`.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images that determine the scale of a firing output layer, at least 1.
        levels: number of levels `L`, at least 1.
        bound: initial value of `lambda`, positive.

    Source:
        Bu et al. 2022, sections 4.1 and 4.2, theorems 1 and 2.
    """

    levels: int = 8
    bound: float = 8.0

    subtracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1 or not (self.bound > 0 and math.isfinite(self.bound)):
            raise InputError(
                "QCFS needs at least one level and a positive bound",
                f"levels={self.levels}, bound={self.bound}",
                "Try levels: 8 and bound: 8.0.",
            )

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        if not isinstance(neuron, PrimedIF) or neuron.initial != 0.5:
            raise InputError(
                "QCFS needs neurons that start at half their threshold",
                f"the neuron {neuron!r}",
                "Use the neuron primed-if with initial: 0.5.",
            )

    def unit(self, rectifier: Spiking) -> nn.Module:
        return Quantised(self.levels, self.bound)

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        units = neurons_of(ann.network.layers)
        bounds = [float(unit.bound) for unit in units if isinstance(unit, Quantised)]
        if min(bounds, default=1.0) <= 0:
            raise InputError(
                "QCFS needs learned bounds that stay positive",
                f"{min(bounds):.3g}",
                "Lower lr, or start with a larger bound.",
            )
        return [*bounds, _largest_logit(ann, images, key)]


def _largest_logit(ann: Classifier, images: Split, key: Key) -> float:
    *_, logits = activity(ann, images, key)
    return float(logits.max())


@dataclass(frozen=True)
class RateNormLayer(Conversion):
    r"""Rate norm layer: the ANN is trained with rates in [0, 1], and then each threshold is lowered.

    .. math:: r = \mathrm{clip}(x / \theta, 0, 1), \quad \theta = p \max x; \qquad
              L = 1 - \cos(y, y^*) + \frac{\kappa}{l} \sum_l \frac{\sum r_l}{\sum r_l^2}

    First the weights are trained with `p = 1`. Then `p` alone is trained with the loss `L`, whose last term
    bounds how slowly rates converge to the activations; the outputs `y*` are taken before this second stage.
    In the authors' code `y*` comes from the network that is being tuned, so the cosine is always 1 and does
    not hold the outputs, and the best stage is chosen on the test images. Neither is the case here.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images that determine the scale of a firing output layer, at least 1.
        tuning: passes over the training part in the second stage, 0 or more.
        speed: weight `kappa` of the last term of the loss, at least 0.
        share: initial value of `p` in the second stage, in (0, 1).
        lr: learning rate (Adam) of the second stage, positive.

    Source:
        Ding et al. 2021 (Optimal ANN-SNN conversion), sections 3.2 to 3.4.
    """

    tuning: int = 1
    speed: float = 0.1
    share: float = 0.98
    lr: float = 0.01

    subtracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning < 0 or self.speed < 0 or not 0 < self.share < 1 or not 0 < self.lr < math.inf:
            raise InputError(
                "RateNormLayer needs tuning and speed of at least 0, a share in (0, 1) and a positive lr",
                f"tuning={self.tuning}, speed={self.speed}, share={self.share}, lr={self.lr}",
                "Try the defaults.",
            )

    def unit(self, rectifier: Spiking) -> nn.Module:
        return RateNorm()

    def tune(self, ann: Classifier, data: Dataset, key: Key, later: Later) -> None:
        """The second stage: lower the thresholds and hold the outputs."""
        everywhere = neurons_of(ann.network.layers)
        units = list(dict.fromkeys(unit for unit in everywhere if isinstance(unit, RateNorm)))
        if not units or not self.tuning:
            later.resume(None)
            return
        target_device, size = next(ann.parameters()).device, self.backprop.batch_size
        teacher = copy.deepcopy(ann)
        logit = math.log(self.share / (1 - self.share))
        shares = [nn.Parameter(torch.tensor(logit, device=target_device)) for _ in units]
        for unit, share in zip(units, shares, strict=True):
            unit.share = share
        optimiser = torch.optim.Adam(shares, lr=self.lr)
        later.resume(Training(later.identity, nn.ParameterList(shares), optimiser))
        batches = math.ceil(len(data.train) / size)
        for epoch in range(self.tuning):
            order = torch.randperm(len(data.train), generator=key.fold("epoch", epoch).generator())
            for rows in torch.split(order, size)[later.batches - epoch * batches :]:
                x = floats(data.train.images[rows]).to(target_device)
                drawn = key.fold("code", epoch).for_rows(data.train.ids[rows])
                with torch.no_grad():
                    wanted = teacher(x, drawn)
                rates, outputs = _rates(ann, ann.encode(x, drawn))
                apart = 1 - F.cosine_similarity(outputs.mean(0), wanted, dim=1).mean()
                slowness = sum((_slowness(r) for r in rates), torch.zeros((), device=target_device)) / len(
                    rates
                )
                optimiser.zero_grad(set_to_none=True)
                grads = torch.autograd.grad(apart + self.speed * slowness, shares)
                for share, grad in zip(shares, grads, strict=True):
                    share.grad = grad
                optimiser.step()
                later.batches += 1
                later.keep()

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        units = neurons_of(ann.network.layers)
        thresholds = [float(unit.bound) for unit in units if isinstance(unit, RateNorm)]
        return [*thresholds, _largest_logit(ann, images, key)]


def _rates(ann: Classifier, encoded: Float[Tensor, "T B *F"]) -> tuple[list[Tensor], Tensor]:
    """The rates for which the activations of all layers of units stand, and the output."""
    normalise, rates = ann.spec.normalise, []
    for heard in passes(ann.network.layers, [normalise(encoded) if normalise else encoded]):
        if isinstance(heard.layer, RateNorm):
            rates.append(heard.answer[0] / heard.layer.bound)
    return rates, heard.answer[0]


def _slowness(rates: Tensor) -> Tensor:
    """A measure of slow convergence, which is smallest where rates are zero or one."""
    return rates.sum() / (rates.square().sum() + 1e-5)

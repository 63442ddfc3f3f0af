"""Training on bounds of the loss instead of attacked images, by interval bound propagation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from spikeproof.defences.adversarial import Guarded
from spikeproof.defences.defended import at_least
from spikeproof.errors import InputError
from spikeproof.evaluation.certificates import IBP
from spikeproof.learning.rule import Lesson, LossOf
from spikeproof.networks.classifier import Classifier

__all__ = ["IBPTraining"]


@dataclass(frozen=True)
class IBPTraining(Guarded):
    r"""Training through bounds: the loss, and the loss of the worst scores that intervals allow.

    .. math:: \kappa\,L(x) + (1 - \kappa)\,\mathrm{CE}(-\underline m), \quad
              \underline m_k \le \min_{\|\delta\| \le \epsilon_p} \big(z_y - z_k\big)(x + \delta), \quad
              \epsilon_p = \epsilon\,\min\left(1, \frac{p}{ramp}\right)

    where p is the share of the training that is done. The bounds :math:`\underline m` are those of the
    certificate `ibp`, on scores that are summed over time, with running statistics of batch normalisation.
    The ends of intervals fire like neurons, so their gradient is the surrogate's. The certificate `ibp`
    proves more images of such a model, at the cost of clean accuracy. With `kappa` 1 the rule is the one
    inside, to the bit.

    Args:
        of: the learning rule, with its loss.
        threat: the threat that is bounded, `linf` or `l2`, with its budget.
        watch: not used; bounds hold for every attack.
        kappa: weight of the loss on the images, in [0, 1]; published: 0.4.
        ramp: share of the training over which the budget grows, in (0, 1].

    Raises:
        InputError: a setting is out of range, or no bounds are known for the model.

    Example:
        >>> IBPTraining().kappa
        0.4

    Source:
        Gowal et al. 2019, section 3; Liang et al. 2022 (S-IBP), whose published code ramps the budget up on
        selected batches and bounds the potential after the reset more loosely.
    """

    adds_loss: ClassVar[bool] = True

    kappa: float = 0.4
    ramp: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, kappa=self.kappa)
        if self.kappa > 1 or not 0 < self.ramp <= 1 or self.watch is not None:
            raise InputError(
                "IBPTraining needs kappa of at most 1, ramp in (0, 1] and no watch",
                f"kappa={self.kappa}, ramp={self.ramp}, watch={self.watch}",
                "Try kappa: 0.4 and ramp: 0.5.",
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        reason = IBP().reason(model, self.threat)
        if reason is not None:
            raise InputError("IBPTraining needs a model with known bounds", reason, "Use lif in a mlp.")

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        if self.kappa == 1:
            return plain(lesson)
        natural = plain(lesson)
        size = self.threat.epsilon * min(1.0, lesson.progress / self.ramp)
        threat = replace(self.threat, epsilon=size)  # type: ignore[type-var]
        margins = IBP().least(lesson.twin, lesson.images, lesson.labels, threat)
        worst = -margins.scatter(1, lesson.labels[:, None], 0.0)
        return self.kappa * natural + (1 - self.kappa) * F.cross_entropy(worst, lesson.labels)

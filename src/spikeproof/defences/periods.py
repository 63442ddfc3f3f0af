"""Training with input noise that is crafted from period to period of one sequence (HIRE-SNN)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.search import check_threat
from spikeproof.datasets import Dataset
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import Course
from spikeproof.learning.online import FPTT, OnlineCourse
from spikeproof.learning.rule import Defence
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Threat, moves_events
from spikeproof.threats import Linf, check_budget

__all__ = ["HIRE"]


@dataclass(frozen=True)
class HIRE(FPTT):
    r"""HIRE-SNN: the image changes from period to period of a sequence, along the gradient of the one before.

    The T time steps are split into `parts` periods. The first period receives the image, and each next one

    .. math:: x_{i+1} = \Pi\left(x_i + \alpha\,\epsilon\,\mathrm{steepest}(\nabla_{x_i} L_i)\right)

    After each period the optimiser takes a step on the loss of the outputs up to there, with gradients back
    to the start of that period. The gradient by the image is a by-product of the same backward pass, so the
    training costs no more than a plain one. Potentials go on from period to period. With one period, or with
    `epsilon` 0 and one period, the rule is `bptt`, to the bit.

    The published repository holds no training code. What the paper leaves open is decided here as stated:
    potentials go on, all periods have equal weight, and noise starts at zero for every batch.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss, computed after every period.
        parts: number of periods, from 1 to the number of steps of the encoder.
        alpha: strength of the pull to the running mean of the weights, as in `fptt`; 0 for none, the paper's.
        beta: rate of that mean, in (0, 1].
        rho: share of the multiplier that is left out, in [0, 1].
        threat: bound of the noise, with its budget.
        step: length of each step of the noise, in epsilons, positive.

    Raises:
        InputError: a setting is out of range, the encoder has fewer steps than there are periods, the neuron
            is not of the integrate-and-fire kind, or the threat moves whole events.

    Example:
        >>> HIRE(epochs=2).parts
        2

    Source:
        Kundu, Pedram & Beerel 2021 (HIRE-SNN), section 4 and figure 6.
    """

    alpha: float = 0.0
    threat: Threat = Linf(8 / 255)
    step: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step < math.inf:
            raise InputError("HIRE needs a positive step", f"step={self.step}", "Try 1.0.")
        if moves_events(self.threat):
            raise InputError(
                "HIRE moves images along a gradient, which needs a threat on pixels",
                repr(self.threat),
                "Use linf.",
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_threat(model, self.threat)
        check_budget(self.threat, model.spec.input_shape)

    def _course(self, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence]) -> Course:
        return _Periods(self, model, data, key, defences)


class _Periods(OnlineCourse):
    """A training whose images change after every step."""

    rule: HIRE

    def encoded(self, x: Float[Tensor, "B C H W"], key: Key) -> Iterator[Float[Tensor, "S B ..."]]:
        threat, at = self.rule.threat, x
        *before, last = torch.arange(self.model.encoder.steps).tensor_split(self.rule.parts)
        for steps in before:
            at = at.detach().requires_grad_()
            yield self.model.encode(at, key)[steps[0] : steps[-1] + 1]
            if at.grad is not None:
                size = self.rule.step * threat.epsilon
                at = threat.project(at.detach() + size * threat.steepest(at.grad), x)
        yield self.model.encode(at.detach(), key)[last[0] :]

    def weight(self, seen: float) -> float:
        return 1.0

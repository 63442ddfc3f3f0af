"""Learning rules for networks of spike times: backpropagation with measures against silent neurons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.datasets import Dataset
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, Course
from spikeproof.learning.rule import Defence
from spikeproof.losses import CrossEntropy, Loss
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.timed import TimedLayer

__all__ = ["TimeCoded"]


@dataclass(frozen=True)
class TimeCoded(BPTT):
    r"""Backpropagation through spike times, with two measures against neurons that never spike.

    .. math:: L + \lambda \sum_l \frac{1}{O_l}\sum_j \max\left(0, \theta - \sum_i w_{ji}\right)

    The second term of this loss is the first measure. The second measure adds `bump`, after each step of
    AdamW, to every weight of each neuron that was silent in more than a share `max_silent` of the batch,
    because a silent neuron has no gradient of its own. The model's neuron defines the gradient: it is exact
    for `fast-and-deep` and `mostafa`, the surrogate of S4NN for `s4nn`, and straight-through rounding for
    `t2fsnn`.

    Args:
        epochs: passes over the training part, at least 1.
        batch_size: examples per iteration, at least 1.
        lr: peak learning rate, positive.
        weight_decay: decoupled decay per unit of learning rate, at least 0.
        clip_norm: largest norm of the whole gradient, positive, or None for no limit.
        loss: the training loss; `cross-entropy` of the spike times, its temperature in their unit,
            `time-margin` or `relative-targets`.
        weight_sum: `lambda`, weight of the penalty on neurons that no input could make spike, at least 0.
        bump: the amount that is added to each weight of a silent neuron, at least 0.
        fade: whether the bump falls with the learning rate; otherwise it can undo the small steps at the end
            of training.
        max_silent: tolerated share of examples for which a neuron is silent, in [0, 1], in hidden layers and
            in the output layer; 1 for no bump.

    Raises:
        InputError: a setting is out of range, or the model is no network of spike times.

    Example:
        >>> TimeCoded(loss=CrossEntropy(0.2)).bump
        0.0005

    Source:
        Goeltz et al. 2021, Methods (loss, bump, shares); Mostafa 2017, eq. (15) (penalty).
    """

    epochs: int = 100
    batch_size: int = 150
    lr: float = 5e-3
    weight_decay: float = 0.0
    loss: Loss = CrossEntropy(0.2)
    weight_sum: float = 0.0
    bump: float = 5e-4
    fade: bool = False
    max_silent: tuple[float, float] = (0.3, 0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, valid, bound in (
            ("weight_sum", 0 <= self.weight_sum < math.inf, "at least 0"),
            ("bump", 0 <= self.bump < math.inf, "at least 0"),
            ("max_silent", all(0 <= share <= 1 for share in self.max_silent), "in [0, 1]"),
        ):
            if not valid:
                raise InputError(
                    f"TimeCoded needs {name} to be {bound}",
                    f"{name}={getattr(self, name)}",
                    "Try the default.",
                )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        if not any(isinstance(module, TimedLayer) for module in model.modules()):
            raise InputError(
                "TimeCoded needs a network of spike times",
                repr(model.spec.network),
                "Use timed-mlp, or bptt.",
            )

    def _course(self, model: Classifier, data: Dataset, key: Key, defences: Sequence[Defence]) -> Course:
        return _TimedCourse(self, model, data, key, defences)


class _TimedCourse(Course):
    rule: TimeCoded

    def learn(self, x: Float[Tensor, "B C H W"], y: Int64[Tensor, "B"], key: Key) -> Float[Tensor, ""]:
        layers = [module for module in self.twin.modules() if isinstance(module, TimedLayer)]
        with _silence(layers) as silent:
            loss = self._loss(x, y, key)
        penalty = torch.stack([_lacking(layer) for layer in layers]).sum()
        reported = self.descend(loss + self.rule.weight_sum * penalty)
        left = self.state.optimiser.param_groups[0]["lr"] / self.rule.lr if self.rule.fade else 1.0
        with torch.no_grad():
            for layer in layers:
                allowed = self.rule.max_silent[layer is layers[-1]]
                share = self.share.mean(silent[layer])  # of the whole batch, for devices take equal steps
                layer.weight.add_(left * self.rule.bump * (share > allowed)[:, None])
        return reported


def _lacking(layer: TimedLayer) -> Float[Tensor, ""]:
    """The mean amount by which the sum of a neuron's weights falls short of its threshold."""
    threshold: float = getattr(layer.neuron, "threshold", 1.0)
    return (threshold - layer.weight.sum(1)).clamp(min=0).mean()


@contextmanager
def _silence(layers: list[TimedLayer]) -> Iterator[dict[TimedLayer, Tensor]]:
    """The share of a batch in which each neuron is silent, for the forward passes within."""
    silent: dict[TimedLayer, Tensor] = {}

    def see(layer: TimedLayer, _inputs: object, early: Tensor) -> None:
        silent[layer] = (early[0].detach() == 0).float().mean(0)

    hooks = [layer.register_forward_hook(see) for layer in layers]
    try:
        yield silent
    finally:
        for hook in hooks:
            hook.remove()

"""Defences by potentials: hardly moved by a perturbation (Stable-SNN), or far from the threshold (TGO)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.recipe import Recipe
from spikeproof.defences.adversarial import Guarded, check_attack, crafted
from spikeproof.defences.defended import Defended, at_least, evaluating
from spikeproof.defences.noisy import check_images, with_noise
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.rule import Lesson, LossOf
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import (
    DLIF,
    PLIF,
    EvolutionaryLeak,
    IntegrateAndFire,
    Neuron,
    Spiking,
    potentials,
)
from spikeproof.protocols import Threat
from spikeproof.threats import Linf

__all__ = ["StableSNN", "ThresholdGuarding", "filtered", "near_threshold"]


def _spiking(model: Classifier) -> list[Spiking]:
    return [layer for layer in model.modules() if isinstance(layer, Spiking)]


@contextmanager
def _currents(layers: list[Spiking], sigma: float = 0.0, key: Key | None = None) -> Iterator[list[Tensor]]:
    """The currents into some layers in the next forward passes, with Gaussian noise if sigma is positive."""
    seen: list[Tensor] = []

    def see(layer: Spiking, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        (current,) = inputs
        if sigma and key is not None:
            place = key.fold("layer", layers.index(layer))
            current = current + sigma * place.normal(current.shape, 1, current.device).to(current.dtype)
        seen.append(current)
        return (current,)

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def filtered(x: Float[Tensor, "T B *F"], decay: float) -> Float[Tensor, "T B *F"]:
    r"""A leaky trace without spikes, :math:`y[t] = d\,y[t-1] + x[t]`.

    Args:
        x: input over time.
        decay: `d`, share of the trace that is left after one step.

    Example:
        >>> filtered(torch.ones(3, 1, 1), 0.5).flatten()
        tensor([1.0000, 1.5000, 1.7500])
    """
    trace = [x[0]]
    for now in x[1:]:
        trace.append(decay * trace[-1] + now)
    return torch.stack(trace)


@dataclass(frozen=True)
class StableSNN(Guarded):
    r"""Stable-SNN: the loss under perturbation as well, and potentials that a perturbation hardly moves.

    .. math:: \kappa\,L(x) + (1 - \kappa)\,L(x') + \alpha\,\overline{Y^2}, \quad
              Y[t] = d\,Y[t-1] + \mathrm{stop}(I[t]) - I'[t]

    where I and I' are the currents into the last spiking layer for the image and for a perturbed one, and
    `stop` passes no gradient. The perturbed image has Gaussian noise, or is made by an attack on the model in
    evaluation mode. The paper's neuron is `dlif`, whose gains this loss adapts from step to step; any spiking
    neuron may be used. With `kappa` 1 and `alpha` 0 the rule is the one inside, to the bit.

    In the published code one argument is both the weight decay and the strength of a retraction; here the
    retraction is a defence of its own, `retraction`, around this one.

    Args:
        of: the learning rule, with its loss.
        threat: the threat of the attack, with its budget.
        watch: a watch for catastrophic overfitting to that attack, or None.
        attack: the recipe that perturbs, or None for Gaussian noise.
        sigma: standard deviation of the noise without an attack, in units of pixel value, at least 0.
        kappa: weight of the loss on the image itself, in [0, 1].
        alpha: weight of the difference of potentials, at least 0.
        decay: `d`, in [0, 1].

    Raises:
        InputError: a setting is out of range, or the model has no spiking layer or takes events.

    Example:
        >>> StableSNN().kappa
        0.5

    Source:
        Ding et al. 2024 (robust stable SNNs), section 4, and its published code.
    """

    adds_loss: ClassVar[bool] = True

    threat: Threat = Linf(4 / 255)
    attack: Recipe | None = None
    sigma: float = 8 / 255
    kappa: float = 0.5
    alpha: float = 1.0
    decay: float = 0.99

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, sigma=self.sigma, kappa=self.kappa, alpha=self.alpha, decay=self.decay)
        if self.kappa > 1 or self.decay > 1:
            raise InputError(
                "StableSNN needs kappa and decay of at most 1",
                f"kappa={self.kappa}, decay={self.decay}",
                "Try kappa: 0.5 and decay: 0.99.",
            )

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        if not neuron.spiking:
            raise InputError("StableSNN needs spiking neurons", repr(neuron), "Use the neuron dlif or lif.")

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_images(self, model)
        if self.attack is not None:
            check_attack(self, self.attack, model)
        if not _spiking(model):
            raise InputError(
                "StableSNN needs a layer of spiking neurons", repr(model.spec.network), "Use mlp or convnet."
            )

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        if self.attack is None:
            return with_noise(lesson.images, self.sigma, key)
        return crafted(self.attack, self.threat, lesson, key)

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        if self.kappa == 1 and not self.alpha:
            return plain(lesson)
        with evaluating(lesson.model):
            moved = self.hostile(lesson, lesson.key.fold("stable"))
        last = _spiking(lesson.twin)[-1:]
        with _currents(last) as clean:
            natural = plain(lesson)
        with _currents(last) as perturbed:
            hard = plain(lesson._replace(images=moved))
        apart = filtered(clean[0].detach().float() - perturbed[0].float(), self.decay)
        return self.kappa * natural + (1 - self.kappa) * hard + self.alpha * apart.square().mean()


def near_threshold(v: Float[Tensor, "T B *F"], threshold: float, margin: float) -> Float[Tensor, "T B *F"]:
    """How much nearer each potential is to the threshold than a margin allows, in units of the threshold.

    Example:
        >>> near_threshold(torch.tensor([[[0.9, 1.0, 2.0]]]), 1.0, 0.5)
        tensor([[[0.4000, 0.5000, 0.0000]]])
    """
    return (margin - (v / threshold - 1).abs()).clamp(min=0)


@dataclass(frozen=True)
class ThresholdGuarding(Defended):
    r"""Threshold guarding: potentials kept away from the threshold, and noisy neurons in training.

    .. math:: L + \lambda\,\frac{1}{T N} \sum_{t, n} \max\left(0,\ \delta - |v_n[t]/\theta - 1|\right),
              \quad \lambda = \lambda_{max}\,\frac{1 - \cos \pi p}{2}

    where p is the share of the training that is done and v the potential before the spike. With `sigma` the
    currents into all spiking layers get Gaussian noise in training, so a neuron whose potential is v just
    before the noise fires with probability :math:`\Phi((v - \theta)/\sigma\theta)`. The trained model has no
    noise and answers as any other. With `weight` 0 and `sigma` 0 the rule is the one inside, to the bit.

    N counts the neurons of all layers, and the penalty is a mean. The printed equation divides by time steps
    and layers alone, while the text calls the penalty an average; its sum over the neurons of a layer is this
    penalty with the weight multiplied by their number.

    Neurons whose potentials are far from the threshold have small surrogate gradients, which is what hides a
    gradient from an attack. Attack such a model with wide surrogates, as the standard suite does.

    Args:
        of: the learning rule, with its loss.
        weight: `lambda_max`, at least 0; published: 0.4 or 0.6.
        margin: `delta`, in thresholds, positive; the paper's value was not seen.
        sigma: standard deviation of the noise, in thresholds, at least 0.

    Raises:
        InputError: a setting is out of range, or the neuron has no potential or no constant threshold.

    Example:
        >>> ThresholdGuarding().weight
        0.4

    Source:
        Wang et al. 2026 (TGO, arXiv 2602.20548), equations 12 and 13; noisy neurons after Ma et al. 2023.
    """

    adds_loss: ClassVar[bool] = True

    weight: float = 0.4
    margin: float = 0.5
    sigma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, weight=self.weight, margin=self.margin, sigma=self.sigma)

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        if not isinstance(neuron, (IntegrateAndFire, PLIF, DLIF, EvolutionaryLeak)):
            raise InputError(
                "ThresholdGuarding needs neurons with a potential and a constant threshold",
                repr(neuron),
                "Use the neuron lif.",
            )

    def ramped(self, progress: float) -> float:
        """The weight of the penalty for a share of the training that is done."""
        return self.weight * (1 - math.cos(math.pi * progress)) / 2

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        if not self.weight and not self.sigma:
            return plain(lesson)
        layers = _spiking(lesson.twin)
        with _currents(layers, self.sigma, lesson.key.fold("noise")) as currents:
            natural = plain(lesson)
        weight = self.ramped(lesson.progress)
        if not weight:
            return natural
        near = [
            near_threshold(potentials(layer, current), _threshold(layer), self.margin)
            for layer, current in zip(layers, currents, strict=False)
        ]
        total = torch.stack([each.sum() for each in near]).sum()
        return natural + weight * total / sum(each.numel() for each in near)


def _threshold(layer: Spiking) -> float:
    threshold: float = layer.neuron.threshold  # type: ignore[attr-defined]
    return threshold

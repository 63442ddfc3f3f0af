"""Training on noise: the images of every batch are drawn from a neighbourhood, without any attack."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.gradient.plain import PGD, Through
from spikeproof.attacks.made_of.transfer import to_the_end
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.defences.adversarial import Guarded, check_attack
from spikeproof.defences.defended import Defended, at_least
from spikeproof.errors import InputError
from spikeproof.evaluation.through import through
from spikeproof.keys import Key
from spikeproof.learning.rule import Lesson
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Model, Threat, takes_events
from spikeproof.threats import L2

__all__ = ["NoiseTraining", "SmoothAdversarial", "check_images", "with_noise"]


def with_noise(x: Float[Tensor, "B *F"], sigma: float, key: Key) -> Float[Tensor, "B *F"]:
    """The images with Gaussian noise on every value, clipped to [0, 1].

    Args:
        x: images in [0, 1].
        sigma: standard deviation of the noise, in units of pixel value.
        key: randomness of the noise.
    """
    return (x + sigma * key.normal(x.shape, 0, x.device).to(x.dtype)).clamp(0, 1)


def check_images(defence: object, model: Classifier) -> None:
    """Refuse a model of whole events, which a defence that changes pixel values by fractions cannot train.

    Raises:
        InputError: the model takes events.
    """
    if takes_events(model.encoder):
        raise InputError(
            f"{type(defence).__name__} changes pixel values by fractions, and this model takes whole events",
            f"a model with the encoder {model.encoder!r}",
            "Use adversarial with an attack on events.",
        )


@dataclass(frozen=True)
class NoiseTraining(Defended):
    r"""Training on Gaussian noise: every value of every image is displaced anew in every epoch.

    .. math:: L(f(\mathrm{clip}(x + n, 0, 1)), y), \quad n \sim N(0, \sigma^2)

    It is the control of all defences by attacked images, and the training of the base classifier of
    randomised smoothing, with the `sigma` of the certificate `gaussian-smoothing`. The noisy image is clipped
    to [0, 1], as it is in that certificate, since encoders are defined on [0, 1]; the published code of
    Stable-SNN does not clip. With `sigma` 0 the rule is the one inside, to the bit.

    Args:
        of: the learning rule that trains on these images.
        sigma: standard deviation of the noise, in units of pixel value, at least 0.

    Raises:
        InputError: a setting is out of range, or the model takes events.

    Example:
        >>> NoiseTraining(sigma=0.25).epochs
        10

    Source:
        Bishop 1995; Cohen, Rosenfeld & Kolter 2019, section 3.3 (smoothing); Ding et al. 2024 with 8/255.
    """

    sigma: float = 8 / 255

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, sigma=self.sigma)

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_images(self, model)

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return with_noise(lesson.images, self.sigma, key)


@dataclass(frozen=True)
class SmoothAdversarial(Guarded):
    r"""Smoothed adversarial training: noisy copies of images that fool the vote of many noisy answers.

    .. math:: x' = \arg\max_{\|\delta\| \le \epsilon}
              -\log \frac{1}{m} \sum_{i=1}^m p_y\left(\mathrm{clip}(x + \delta + n_i)\right), \quad
              L(f(\mathrm{clip}(x' + n)), y), \quad n, n_i \sim N(0, \sigma^2)

    The m draws of noise are the same at every step of the attack, as published. The training then uses one
    noisy copy of each image, where the published code uses all m; so an epoch costs the attack and one
    forward pass. With `epsilon` 0 the rule is `noise-training`, to the bit. It trains the base classifier of
    the certificate `gaussian-smoothing` with the same `sigma`.

    Args:
        of: the learning rule that trains on these images.
        threat: the threat with its budget.
        watch: a watch for catastrophic overfitting, or None.
        attack: a gradient attack, with the gradient source that it names.
        sigma: standard deviation of the noise, in units of pixel value, at least 0.
        draws: `m`, at least 1.

    Raises:
        InputError: a setting is out of range, the attack uses no gradient, or the model takes events.

    Example:
        >>> SmoothAdversarial(draws=2).sigma
        0.25

    Source:
        Salman et al. 2019, eq. (6) and section 3.3 (SmoothAdv).
    """

    threat: Threat = L2(0.5)
    attack: Recipe = PGD(steps=4)
    sigma: float = 0.25
    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, sigma=self.sigma)
        at_least(self, 1, draws=self.draws)
        if not isinstance(self.attack, (GradientRecipe, Through)):
            raise InputError("SmoothAdversarial takes a gradient attack", repr(self.attack), "Try pgd.")

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_images(self, model)
        check_attack(self, self.attack, model)

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return with_noise(self.hostile(lesson, key), self.sigma, key)

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        votes = [
            _Vote(model, self.sigma, self.draws, key.fold("votes"))  # type: ignore[arg-type]
            for model in (lesson.model, through(lesson.model, self.attack) or lesson.model)
        ]
        attack = to_the_end(self.attack(self.threat))
        return attack(votes[0], lesson.images, lesson.labels, key, through=votes[1]).x_adv


@dataclass(frozen=True, eq=False)
class _Vote:
    """The logarithm of the mean probabilities of a model under a few fixed draws of noise on the image."""

    model: Model
    sigma: float
    draws: int
    key: Key

    def __call__(self, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "B K"]:
        keys = [self.key.fold("draw", i) for i in range(self.draws)]
        answers = [self.model(with_noise(images, self.sigma, each), each).log_softmax(-1) for each in keys]
        return torch.stack(answers).logsumexp(0) - math.log(self.draws)

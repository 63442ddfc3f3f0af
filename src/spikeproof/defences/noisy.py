"""Training on noise: the images of every batch are drawn from a neighbourhood, without any attack."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from spikeproof.defences.defended import Defended, at_least
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.rule import Lesson
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import takes_events

__all__ = ["NoiseTraining", "check_images", "with_noise"]


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

"""Noise as an attack: the worst of several noisy images, projected onto the set of the threat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.queries import UniformNoise, random_search
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call

__all__ = ["GaussianNoise", "GaussianNoiseSearch", "NoiseSearch", "SaltAndPepper", "SaltAndPepperSearch"]


@dataclass(frozen=True)
class _Noise(UniformNoise):
    def noisy(self, x: Float[Tensor, "B *F"], draw: int, key: Key) -> Float[Tensor, "B *F"]:
        """The images with the noise of one draw."""
        raise NotImplementedError(f"{type(self).__name__} defines no noise")

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; `through` is ignored, since the attack uses no gradient."""
        x = admit(model, self.threat, x, y)

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            return self.threat.project(self.noisy(x[rows], query, now.fold("noise")), x[rows])

        return random_search(model, x, y, key, Best(x), self.draws, propose)


@dataclass(frozen=True)
class GaussianNoise(_Noise):
    """Images with normal noise, projected onto the set of the threat.

    Args:
        threat: the set of allowed images.
        draws: images per example, at least 1.
        sigma: standard deviation before the projection, in pixel value, positive.

    Source:
        Ford et al. 2019, on noise and adversarial examples.
    """

    sigma: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sigma > 0:
            raise InputError("Noise needs a positive sigma", f"sigma={self.sigma}", "Try 0.5.")

    def noisy(self, x: Tensor, draw: int, key: Key) -> Tensor:
        return x + self.sigma * key.normal(x.shape, 0, x.device).to(x.dtype)


@dataclass(frozen=True)
class SaltAndPepper(_Noise):
    """Images with more black and white pixels from draw to draw, projected onto the set of the threat.

    Args:
        threat: the set of allowed images.
        draws: images per example, at least 1; the share of changed pixels rises evenly from draw to draw, up
            to all of them.

    Source:
        Rauber, Brendel & Bethge 2017 (Foolbox), where the share rises in the same way.
    """

    def noisy(self, x: Tensor, draw: int, key: Key) -> Tensor:
        hit = key.fold("place").uniform(x.shape, 0, x.device) < (draw + 1) / self.draws
        white = key.fold("colour").uniform(x.shape, 0, x.device) < 0.5
        return torch.where(hit, white.to(x.dtype), x)


@dataclass(frozen=True, kw_only=True)
class GaussianNoiseSearch(Recipe):
    """Gaussian noise: the worst of several images with normal noise, within the set of the threat.

    Args:
        draws: number of random images per example, at least 1.
        sigma: standard deviation before the projection, in pixel value, positive.

    Source:
        Ford et al. 2019, on noise and adversarial examples.
    """

    gradient_free: ClassVar[bool] = True
    draws: int = 20
    sigma: float = 0.5

    def __call__(self, threat: Threat) -> GaussianNoise:
        return GaussianNoise(threat, self.draws, self.sigma)


@dataclass(frozen=True, kw_only=True)
class SaltAndPepperSearch(Recipe):
    """Salt-and-pepper noise: the worst of several images with black and white pixels, within the threat.

    Args:
        draws: number of random images per example, at least 1.

    Source:
        Rauber, Brendel & Bethge 2017 (Foolbox).
    """

    gradient_free: ClassVar[bool] = True
    draws: int = 20

    def __call__(self, threat: Threat) -> SaltAndPepper:
        return SaltAndPepper(threat, self.draws)


@dataclass(frozen=True, kw_only=True)
class NoiseSearch(Recipe):
    """Uniform noise: the worst of several random members of the set of the threat.

    Args:
        draws: number of random images per example, at least 1.

    Source:
        The sanity check of Athalye, Carlini & Wagner 2018, section 3.1 (random sampling).
    """

    gradient_free: ClassVar[bool] = True
    draws: int = 20

    def __call__(self, threat: Threat) -> UniformNoise:
        return UniformNoise(threat, self.draws)

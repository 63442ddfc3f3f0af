"""Codes of spike rates: values are probabilities of a spike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.encoders.codes import SpikeCode
from spikeproof.keys import Key


@dataclass(frozen=True)
class Bernoulli(SpikeCode):
    r"""Rate coding: at each step a spike with probability `x` (often called Poisson coding).

    .. math:: s[t] \sim \mathrm{Bernoulli}(x), \quad t = 0..T-1, \text{ independent}

    Args:
        steps: number of time steps `T`, at least 1.
        backward: `StraightThrough()` (the gradient of the expectation) or `SpikeGated()`.

    Shapes:
        `x [B, *F]` in [0, 1] -> spikes `[T, B, *F]` in {0, 1}

    Without a key the draws come from PyTorch's global generator, as a foreign attack library expects; inside
    spikeproof a key is always given.

    Example:
        >>> Bernoulli(4)(torch.tensor([[0.0, 1.0]]), Key.of(0)).mean(0).tolist()
        [[0.0, 1.0]]

    Source:
        Ding et al. 2023 (`poisson`); Sharmin et al. 2020, section 3.1.
    """

    stochastic: ClassVar[bool] = True

    def emit(self, x: Float[Tensor, "B *F"], key: Key | None) -> Float[Tensor, "T B *F"]:
        shape = (self.steps, *x.shape)
        draws = torch.rand(shape, device=x.device) if key is None else key.uniform(shape, 1, x.device)
        return (draws < x).to(x.dtype)

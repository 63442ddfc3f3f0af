"""Threats on spikes: which entries of a binary grid may gain or lose a spike, and how many.

Examples come batch first and hold zeros and ones: `[B, T, C, H, W]`, `[B, T, N]` or any other shape; every
entry is one possible spike. Members are binary too, so a step of gradient ascent is only a proposal that
`project` rounds: steps that are small beside one spike change nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats.balls import Ball

__all__ = ["Additions", "Flips", "Removals"]


def _rows(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _binary(x: Tensor) -> Bool[Tensor, "B"]:
    return ((x == 0) | (x == 1)).flatten(1).all(1) if x.ndim > 1 else (x == 0) | (x == 1)


@dataclass(frozen=True)
class Flips(Ball):
    r"""At most epsilon entries of a binary spike train may change, each from spike to silence or back.

    .. math:: \{x' \in \{0,1\}^n : \sum_i |x'_i - x_i| \le \epsilon\}

    Args:
        epsilon: largest number of changed entries, a whole number of at least 0.

    Shapes:
        Spikes `[B, ...]` with values 0 and 1.

    Raises:
        InputError: no whole number, or clean spikes that are not binary.

    Example:
        >>> Flips(1).project(torch.tensor([[0.9, 0.4, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[1., 0., 1.]])

    Source:
        The Hamming ball of the binary cube; the projection takes the entries with the largest gain.
    """

    def __post_init__(self) -> None:
        if not (self.epsilon >= 0 and math.isfinite(self.epsilon) and float(self.epsilon).is_integer()):
            raise InputError(
                "A budget of spikes is a whole number of entries", f"epsilon={self.epsilon}", "Try epsilon=5."
            )

    def allowed(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The entries that may change."""
        return torch.ones_like(x, dtype=torch.bool)

    def _flip_best(self, worth: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The clean spikes with those entries changed that are worth most, only where that is above zero."""
        if not bool(_binary(x).all()):
            raise InputError(
                f"{type(self).__name__} is a threat on binary spikes, each 0 or 1",
                "clean inputs with other values",
                "Use Linf, L2, L1 or L0 on images and real values.",
            )
        rows = _rows(torch.where(self.allowed(x) & (worth > 0), worth, torch.zeros_like(worth)))
        order = rows.argsort(dim=1, descending=True, stable=True)[:, : int(self.epsilon)]
        chosen = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order, True) & (rows > 0)
        return torch.where(chosen.view(x.shape), 1 - x, x)

    def start(self, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        """Epsilon random allowed entries changed, or all where there are fewer."""
        return self._flip_best(1 - key.uniform(x.shape, 0, x.device).double(), x)

    def project(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The nearest member in Euclidean distance, exactly; entries that are no number stay clean."""
        return self._flip_best((2 * x_adv.double() - 1) * (1 - 2 * x.double()), x)

    def distance(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B"]:
        """Number of changed entries; infinite where one changed that may not."""
        changed = x_adv != x
        count = _rows(changed).sum(1).double()
        return torch.where(_rows(changed & ~self.allowed(x)).any(1), count + math.inf, count)

    def contains(self, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
        """Whether each member is binary and within the budget, exactly."""
        return _binary(x_adv) & (self.distance(x_adv, x) <= self.epsilon)

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The sign of the gradient at its epsilon largest values; zero elsewhere."""
        rows = _rows(grad)
        order = rows.abs().argsort(dim=1, descending=True, stable=True)[:, : int(self.epsilon)]
        return torch.zeros_like(rows).scatter_(1, order, rows.gather(1, order).sign()).view(grad.shape)

    def extreme(self, grad: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """The member at which a linear function with this gradient is largest."""
        return self._flip_best(grad.double() * (1 - 2 * x.double()), x)


@dataclass(frozen=True)
class Additions(Flips):
    """At most epsilon spikes may be added to a binary spike train; none may go.

    Args:
        epsilon: largest number of added spikes, a whole number of at least 0.

    Example:
        >>> Additions(2).project(torch.tensor([[0.9, 0.7, 0.2]]), torch.tensor([[0.0, 0.0, 1.0]]))
        tensor([[1., 1., 1.]])
    """

    def allowed(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The silent entries."""
        return x == 0

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """One at the epsilon largest gradients that are positive; zero elsewhere."""
        return super().steepest(grad.clamp(min=0))


@dataclass(frozen=True)
class Removals(Flips):
    """At most epsilon spikes may be removed from a binary spike train; none may come.

    Args:
        epsilon: largest number of removed spikes, a whole number of at least 0.

    Example:
        >>> Removals(1).project(torch.tensor([[0.9, 0.4, 0.2]]), torch.tensor([[0.0, 1.0, 1.0]]))
        tensor([[0., 1., 0.]])
    """

    def allowed(self, x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B *F"]:
        """The entries with a spike."""
        return x == 1

    def steepest(self, grad: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """Minus one at the epsilon most negative gradients; zero elsewhere."""
        return super().steepest(grad.clamp(max=0))

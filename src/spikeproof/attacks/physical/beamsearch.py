"""Search for the parameters of a laser beam, without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.queries import improved, random_search
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit, instead
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats.physical.lasers import LaserBeam

__all__ = ["AdvLB", "BeamSearch"]

PAIRS = ((0,), (1,), (2,), (3,), *combinations(range(4), 2))
"""The directions of a step: each parameter alone, and each pair of parameters."""

FARTHEST = (20 / 371, 20 / 181, 20 / 401, 20 / 1591)
"""The longest step of each parameter, 20 of its published units, as a share of its range."""


@dataclass(frozen=True)
class BeamSearch:
    """Greedy search from random beams.

    Args:
        threat: the family of beams.
        restarts: number of random beams, at least 1.
        steps: steps from each, at least 0.

    Raises:
        InputError: another threat, or settings out of range.
    """

    threat: Threat
    restarts: int = 50
    steps: int = 20

    def __post_init__(self) -> None:
        if not isinstance(self.threat, LaserBeam):
            raise InputError(
                "AdvLB searches for the parameters of a laser beam",
                repr(self.threat),
                instead(self.threat, "Use square or pgd."),
            )
        if self.restarts < 1 or self.steps < 0:
            raise InputError(
                "AdvLB needs at least 1 restart and at least 0 steps",
                f"restarts={self.restarts}, steps={self.steps}",
                "Try restarts=50, steps=20.",
            )

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B C H W"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; `through` is ignored, since the attack uses no gradient."""
        x = admit(model, self.threat, x, y)
        assert isinstance(self.threat, LaserBeam)
        threat, length = self.threat, self.steps + 1
        best = torch.zeros(len(x), 4, dtype=torch.int64, device=x.device)
        tried, height = best.clone(), x.new_full((len(x),), -torch.inf)

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            if query % length:
                tried[rows] = moved(threat, best[rows], now)
            else:
                tried[rows], height[rows] = threat.drawn(x[rows], now), -torch.inf
            return threat.lit(x[rows], tried[rows])

        def observe(rows: Tensor, margin: Tensor) -> None:
            better = improved(rows, margin, height)
            best[better] = tried[better]

        return random_search(model, x, y, key, Best(x), self.restarts * length, propose, observe)


def moved(threat: LaserBeam, beam: Int64[Tensor, "B 4"], key: Key) -> Int64[Tensor, "B 4"]:
    """Beams one step further: one parameter or two, up or down, by a random length; angles go round."""
    drawn = key.fold("step").uniform((len(beam), 3), 0, beam.device)
    direction = torch.tensor([[axis in pair for axis in range(4)] for pair in PAIRS], device=beam.device)
    chosen = direction[(drawn[:, 0] * len(PAIRS)).long()]
    counts = torch.tensor(threat.counts, device=beam.device)
    longest = (torch.tensor(FARTHEST, device=beam.device) * counts).round().clamp(min=1)
    by = (drawn[:, 1, None] * longest).ceil().clamp(min=1).long() * torch.where(drawn[:, 2:] < 0.5, -1, 1)
    there = beam + chosen * by
    turned = there[:, 1] % threat.angles
    there = torch.minimum(there.clamp(min=0), counts - 1)
    there[:, 1] = turned
    return there


@dataclass(frozen=True, kw_only=True)
class AdvLB(Recipe):
    """Adversarial laser beam: greedy search of wavelength, angle, offset and width from random beams.

    Each step changes one parameter or two, up or down, by up to 20 of the published units. It is kept if the
    margin of the wrong answer does not fall.

    Args:
        restarts: number of random beams, at least 1; the paper has 200.
        steps: steps from each beam, at least 0.

    Raises:
        InputError: another threat than the laser beam, or a setting out of range.

    Example:
        >>> from spikeproof.threats import LaserBeam
        >>> AdvLB(restarts=3)(LaserBeam(1.0)).steps
        20

    Source:
        Duan et al. 2021 (arXiv 2103.06504), algorithm 1. The paper compares the confidence in the label,
        which is constant once it is rounded to 1; the margin of the logits is not.
    """

    gradient_free: ClassVar[bool] = True
    restarts: int = 50
    steps: int = 20

    def __call__(self, threat: Threat) -> BeamSearch:
        return BeamSearch(threat, self.restarts, self.steps)

"""The nearest adversarial images of a model: how far they are, and on how many examples one was found.

A search reports distances; the frame believes none of them. Every image is measured again, and asked of the
model again under draws that the search has not seen; what does not fool it then counts as not found. A median
over examples counts those as infinitely far, so it is never better than the search was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.nearest.minimum import MinimumNorm, NormRecipe
from spikeproof.attacks.search import check_threat
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.evaluation.verdicts import Clean, Steady
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.statistics import median, wilson

__all__ = ["Nearest", "check_search", "evaluate_distances"]


@dataclass(frozen=True)
class Nearest:
    """Per-example distances; examples that the model gets wrong as they are have distance 0."""

    example: Int64[Tensor, "N"]
    label: Int64[Tensor, "N"]
    right_clean: Float[Tensor, "N"]  # share of fresh draws
    distance: Float[Tensor, "N"]  # in the norm of the threat; infinite where nothing was found
    claimed: Float[Tensor, "N"]  # as the search had it
    right: Float[Tensor, "N"]  # share of fresh draws right on the image found
    queries: Int64[Tensor, "N"]
    backward_queries: Int64[Tensor, "N"]
    zero_gradients: Float[Tensor, "N"]
    x_adv: Float[Tensor, "N *F"]
    draws: int

    @property
    def counted(self) -> Bool[Tensor, "N"]:
        """The examples of the median: those that the model answers rightly in at least half of its draws."""
        return self.right_clean >= 0.5

    def metrics(self) -> dict[str, Any]:
        """Median and share found, over the counted examples, with 95 % intervals; NaN where there is none."""
        distance = self.distance[self.counted].double()
        found, n = int(distance.isfinite().sum()), len(distance)
        middle, (low, high) = median(distance.tolist()) if n else (float("nan"), (float("nan"),) * 2)
        share = wilson(found, n) if n else (float("nan"),) * 2
        asked = self.counted & (self.backward_queries > 0)
        lost = self.claimed[self.counted].isfinite() & ~self.distance[self.counted].isfinite()
        return {
            "n": len(self.distance),
            "counted": n,
            "draws": self.draws,
            "found": found / n if n else float("nan"),
            "found_low": share[0],
            "found_high": share[1],
            "median_distance": middle,
            "median_low": max(0.0, low) if n else low,
            "median_high": high,
            "unconfirmed_share": float(lost.double().mean()) if n else float("nan"),
            "zero_gradient_share": float(self.zero_gradients[asked].double().mean()) if asked.any() else None,
            "forward_queries": int(self.queries.sum()),
            "backward_queries": int(self.backward_queries.sum()),
        }


def evaluate_distances(
    model: Model,
    recipe: NormRecipe,
    norm: Threat,
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    clean: Clean,
    key: Key,
    *,
    through: Model | None = None,
    batch_size: int = 100,
    draws: int = 10,
) -> Nearest:
    """How far the nearest adversarial image of each example is, as far as a search finds it.

    Args:
        model: images to logits, in evaluation mode.
        recipe: the search, such as `DeepFool()`.
        norm: the threat whose norm is meant; its epsilon plays no part.
        x: images in [0, 1].
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: randomness of search and draws.
        through: a substitute of the model for gradients.
        batch_size: examples per forward pass, at least 1; changes no number.
        draws: forward passes per verdict on a stochastic model, at least 1.

    Raises:
        InputError: a recipe that looks for no nearest image, another norm than its own, or other examples.

    Example:
        >>> from spikeproof.attacks.nearest.linearised import DeepFool
        >>> from spikeproof.evaluation.verdicts import evaluate_clean
        >>> from spikeproof.threats import L2
        >>> model = lambda images, key=None: torch.stack([images[:, 0], 1 - images[:, 0]], 1)
        >>> x, y = torch.tensor([[0.9], [0.7], [0.2]]), torch.tensor([0, 0, 1])
        >>> clean = evaluate_clean(model, x, y, Key.of(0))
        >>> found = evaluate_distances(model, DeepFool(), L2(1.0), x, y, clean, Key.of(0)).metrics()
        >>> found["found"], round(found["median_distance"], 2)
        (1.0, 0.3)
    """
    check_search(recipe, norm)
    check_threat(model, norm)
    if len(clean.example) != len(x) or len(x) != len(y) or not len(x) or batch_size < 1 or draws < 1:
        raise InputError(
            "Distances need examples, their labels and their clean outcomes, a batch and a draw at least",
            f"{len(x)} images, {len(y)} labels, {len(clean.example)} outcomes, {batch_size=}, {draws=}",
            "Pass what evaluate_clean was given.",
        )
    target = Steady(model)
    draws = draws if target.stochastic else 1
    search = MinimumNorm(norm, recipe, stop=False)
    parts = [
        _batch(target, search, x[rows], y[rows], clean.right[rows], key.for_rows(ids), through, draws)
        for rows, ids in (
            (slice(start, start + batch_size), clean.example[start : start + batch_size])
            for start in range(0, len(x), batch_size)
        )
    ]
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return Nearest(example=clean.example, label=y, right_clean=clean.right, **joined, draws=draws)


def check_search(recipe: Any, norm: Threat) -> None:
    """Refuse what looks for no nearest image in this norm.

    Raises:
        InputError: it does not.
    """
    if not isinstance(recipe, NormRecipe) or not recipe.minimal:
        raise InputError(
            "A distance needs a search for the nearest image",
            repr(recipe),
            "Use deepfool, fab, carlini-wagner, ead, sparse-fool, jsma, boundary or hop-skip-jump.",
        )
    recipe.check_threat(norm)


def _batch(
    model: Steady,
    search: MinimumNorm,
    x: Tensor,
    y: Tensor,
    right_clean: Tensor,
    key: Key,
    through: Model | None,
    draws: int,
) -> dict[str, Tensor]:
    rows = (right_clean > 0).nonzero().flatten()
    zero = torch.zeros_like(y)
    found = {
        "distance": torch.zeros(len(x), dtype=torch.float64, device=x.device),
        "claimed": torch.zeros(len(x), dtype=torch.float64, device=x.device),
        "right": right_clean.clone(),
        "queries": zero.clone(),
        "backward_queries": zero.clone(),
        "zero_gradients": torch.zeros_like(right_clean),
        "x_adv": x.clone(),
    }
    if not len(rows):
        return found
    source = None if through is None else Steady(through)
    nearest = search.search(model, x[rows], y[rows], key.fold("distance").take(rows), through=source)
    images = nearest.x_adv
    now = key.fold("measure").take(rows)
    with torch.no_grad():
        answers = torch.stack([decide(model(images, now.fold("draw", i))) for i in range(draws)])
    right = (answers == y[rows]).to(right_clean.dtype).mean(0)
    flat = images.flatten(1)
    threat: Any = search.threat
    inside = threat.on_grid(images) if moves_events(threat) else ((flat >= 0) & (flat <= 1)).all(1)
    holds = nearest.found & (right < 0.5) & inside
    far = search.threat.distance(images, x[rows]).double()
    found["distance"][rows] = torch.where(holds, far, torch.inf)
    found["claimed"][rows] = nearest.distance.double()
    found["right"][rows] = right
    found["queries"][rows] = nearest.queries + draws
    found["backward_queries"][rows] = nearest.backward_queries
    found["zero_gradients"][rows] = nearest.zero_gradients.to(right_clean.dtype)
    found["x_adv"][rows] = images
    return found

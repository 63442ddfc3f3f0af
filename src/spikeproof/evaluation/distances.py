"""The distances of the nearest adversarial images, and the share of examples for which one was found.

The distances that a search reports are not used. The distance of every image is measured again, and the model
classifies the image again under fresh draws; an image that the model then classifies correctly counts as not
found. The median over examples counts such an example as infinitely far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.nearest.minimum import Minimum, MinimumNorm, NormRecipe
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import check_threat
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.columns import Column, Declared, declared, joined, subset
from spikeproof.evaluation.outcomes import Clean
from spikeproof.evaluation.verdicts import check_outcomes
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, check_key, check_kind_of_threat, check_tensors
from spikeproof.statistics import median, wilson
from spikeproof.threats.spikes import EventThreat

__all__ = ["Nearest", "check_search", "evaluate_distances"]


@dataclass(frozen=True)
class _Hits:
    """The result of a search on the examples on which it ran, measured again."""

    search: Minimum
    distance: Float[Tensor, "R"]  # infinite where the model classifies the image correctly
    right: Float[Tensor, "R"]
    draws: int


@dataclass(frozen=True)
class _Batch:
    """A batch of examples, the rows on which the search ran, and its result there, if there are any."""

    images: Float[Tensor, "B *F"]
    labels: Int64[Tensor, "B"]
    clean: Clean
    rows: Int64[Tensor, "R"]
    hits: _Hits | None


def _given(meaning: str, of: Callable[[_Batch], Tensor]) -> Declared:
    return declared(Column(meaning, of))


def _found(meaning: str, of: Callable[[_Hits], Tensor], before: Callable[[_Batch], Tensor]) -> Declared:
    """A column of the examples on which the search ran; `before` gives the values of the others."""

    def column(batch: _Batch) -> Tensor:
        whole = before(batch).clone()
        if batch.hits is not None:
            whole[batch.rows] = of(batch.hits).to(whole.dtype)
        return whole

    return declared(Column(meaning, column, before))


def _none(batch: _Batch) -> Int64[Tensor, "B"]:
    return torch.zeros_like(batch.labels)


class NearestMetrics(TypedDict):
    """The median distance and the share of images found, with their intervals; NaN where there is none."""

    n: int
    counted: int
    draws: int
    found: float
    found_low: float
    found_high: float
    median_distance: float
    median_low: float
    median_high: float
    unconfirmed_share: float
    zero_gradient_share: float | None
    forward_queries: int
    backward_queries: int


@dataclass(frozen=True)
class Nearest:
    """Per-example distances; an example that the model misclassifies without an attack has distance 0."""

    example: Int64[Tensor, "N"] = field(metadata=_given("identity", lambda batch: batch.clean.example))
    label: Int64[Tensor, "N"] = field(metadata=_given("the right class", lambda batch: batch.labels))
    right_clean: Float[Tensor, "N"] = field(
        metadata=_given("share of fresh draws right on the clean image", lambda batch: batch.clean.right)
    )
    distance: Float[Tensor, "N"] = field(
        metadata=_found(
            "in the norm of the threat; infinite where nothing was found",
            lambda hits: hits.distance,
            lambda batch: _none(batch).double(),
        )
    )
    claimed: Float[Tensor, "N"] = field(
        metadata=_found(
            "the distance that the search reported",
            lambda hits: hits.search.distance,
            lambda batch: _none(batch).double(),
        )
    )
    right: Float[Tensor, "N"] = field(
        metadata=_found(
            "share of fresh draws right on the image found",
            lambda hits: hits.right,
            lambda batch: batch.clean.right,
        )
    )
    queries: Int64[Tensor, "N"] = field(
        metadata=_found("forward passes", lambda hits: hits.search.queries + hits.draws, _none)
    )
    backward_queries: Int64[Tensor, "N"] = field(
        metadata=_found("backward passes", lambda hits: hits.search.backward_queries, _none)
    )
    zero_gradients: Float[Tensor, "N"] = field(
        metadata=_found(
            "share of backward passes whose gradient was zero everywhere",
            lambda hits: hits.search.zero_gradients,
            lambda batch: torch.zeros_like(batch.clean.right),
        )
    )
    x_adv: Float[Tensor, "N *F"] = field(
        metadata=declared(Column("the image found", lambda batch: _images(batch), stored=False))
    )
    draws: int

    @property
    def counted(self) -> Bool[Tensor, "N"]:
        """The examples of the median: those right in at least half of the draws without an attack."""
        return self.right_clean >= 0.5

    def metrics(self) -> NearestMetrics:
        """The median distance and the share found over the counted examples, with 95 % intervals."""
        distance = self.distance[self.counted].double()
        found, n = int(distance.isfinite().sum()), len(distance)
        middle, (low, high) = median(distance.tolist()) if n else (float("nan"), (float("nan"),) * 2)
        share = wilson(found, n) if n else (float("nan"),) * 2
        searched = self.counted & (self.backward_queries > 0)
        unconfirmed = self.claimed[self.counted].isfinite() & ~self.distance[self.counted].isfinite()
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
            "unconfirmed_share": float(unconfirmed.double().mean()) if n else float("nan"),
            "zero_gradient_share": float(self.zero_gradients[searched].double().mean())
            if searched.any()
            else None,
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
    """The distance of the nearest adversarial image of each example that a search finds.

    Args:
        model: maps images to logits; in evaluation mode.
        recipe: the search, such as `DeepFool()`.
        norm: the threat in whose norm distances are measured; its epsilon is not used.
        x: images in [0, 1].
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: key of the randomness of search and draws.
        through: gradient source of the search; None for the model itself.
        batch_size: examples per forward pass, at least 1; does not change any number.
        draws: forward passes per verdict on a stochastic model, at least 1.

    Raises:
        InputError: the recipe does not search for the nearest image or not in this norm, or the clean
            outcomes are of other examples.

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
    check_tensors(images=x, labels=y)
    check_key(key)
    check_kind_of_threat(norm)
    check_search(recipe, norm)
    check_threat(model, norm)
    if not len(x) or batch_size < 1 or draws < 1:
        raise InputError(
            "Distances need at least one example, and batch_size and draws of at least 1",
            f"{len(x)} images, {batch_size=}, {draws=}",
            "Try batch_size=100, draws=10.",
        )
    check_outcomes(clean, x, y)
    target = Steady(model)
    draws = draws if target.stochastic else 1
    search = MinimumNorm(norm, recipe, stop=False)
    batches = []
    for start in range(0, len(x), batch_size):
        part = slice(start, start + batch_size)
        known, rows = subset(clean, part), (clean.right[part] > 0).nonzero().flatten()
        now = key.for_rows(known.example).take(rows)
        hits = _search(target, search, x[part][rows], y[part][rows], now, through, draws)
        batches.append(_Batch(x[part], y[part], known, rows, hits))
    return Nearest(**joined(Nearest, batches), draws=draws)


def check_search(recipe: Recipe, norm: Threat) -> None:
    """Refuse a recipe that does not search for the nearest image in this norm.

    Raises:
        InputError: the recipe does not.
    """
    if not isinstance(recipe, NormRecipe) or not recipe.minimal:
        raise InputError(
            "A distance needs a search for the nearest image",
            repr(recipe),
            "Use deepfool, fab, carlini-wagner, ead, sparse-fool, jsma, boundary or hop-skip-jump.",
        )
    recipe.check_threat(norm)


def _search(
    model: Steady,
    search: MinimumNorm,
    x: Float[Tensor, "R *F"],
    y: Int64[Tensor, "R"],
    key: Key,
    through: Model | None,
    draws: int,
) -> _Hits | None:
    """Search, measure every image again and classify it again; None if there are no examples."""
    if not len(x):
        return None
    gradient_source = None if through is None else Steady(through)
    nearest = search.search(model, x, y, key.fold("distance"), through=gradient_source)
    images, now = nearest.x_adv, key.fold("measure")
    with torch.no_grad():
        answers = torch.stack([decide(model(images, now.fold("draw", i))) for i in range(draws)])
    right = (answers == y).float().mean(0)
    holds = nearest.found & (right < 0.5) & _defined(search.threat, images)
    far = search.threat.distance(images, x).double()
    return _Hits(nearest, torch.where(holds, far, torch.inf), right, draws)


def _defined(threat: Threat, images: Float[Tensor, "R *F"]) -> Bool[Tensor, "R"]:
    """Whether images are valid inputs of a model: whole events, or values in [0, 1]."""
    if isinstance(threat, EventThreat):
        return threat.on_grid(images)
    flat = images.flatten(1)
    return ((flat >= 0) & (flat <= 1)).all(1)


def _images(batch: _Batch) -> Float[Tensor, "B *F"]:
    whole = batch.images.clone()
    if batch.hits is not None:
        whole[batch.rows] = batch.hits.search.x_adv
    return whole

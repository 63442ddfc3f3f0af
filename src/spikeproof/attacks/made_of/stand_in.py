"""Stand-ins: a smooth fit to logits of the attacked model gives the gradients that the model masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.steps import per_example
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit, answer, instead, judge
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.protocols import Model, Threat
from spikeproof.threats import L2, boxed

__all__ = ["FittedSearch", "StandIn"]

FIRST, ROUND, TRIED = 32, 24, 8
"""Queries before the first fit, queries between later fits, and images that are tried after each fit."""

KEPT = 256
"""Number of queries that a fit uses: the latest ones, which lie around the best image."""

RIDGE = 0.1
"""Weight of the ridge penalty, in units of the kernel at distance zero."""

RIVALS = 3
"""Number of target classes: the nearest class at each step, and others as ranked at the first step."""

CHANGED = 0.3
"""Share of the blocks that change in later rounds; in the first round all blocks change."""

STEPS = 15
"""Steps of each attack on the stand-in."""

SIDES = (1, 2, 3, 1, 4, 2)
"""Sides of the blocks of equally changed pixels, in pixels, for one query after the other."""

ROOM = 2**26
"""Largest number of pixel values that stored queries take up in memory; it changes no image."""


@dataclass(frozen=True)
class FittedSearch:
    """Fit a smooth model to logits around each example, attack the fit, and evaluate the results.

    Args:
        threat: `Linf`, a region of it, or `L2`.
        queries: forward passes per example, at least 1.
        start: the function that gives the first images, in place of the clean images.

    Raises:
        InputError: another threat, or no queries.
    """

    threat: Threat
    queries: int = 1000
    start: Callable[[Threat, Tensor, Key], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise InputError(
                "StandIn needs at least one query", f"queries={self.queries}", "Try queries=1000."
            )
        if not (boxed(self.threat) or isinstance(self.threat, L2)):
            raise InputError(
                "StandIn is defined for the threats Linf and L2, and regions of Linf",
                repr(self.threat),
                instead(self.threat, "Use NES for this one."),
            )

    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """Attack `model`; `through` is ignored, since gradients come from the stand-in."""
        x = admit(model, self.threat, x, y)
        begin = x if self.start is None else self.start(self.threat, x, key.fold("start"))
        search = _Search(self, model, x, y, key)
        size = max(ROOM // ((KEPT + FIRST) * max(x[:1].numel(), 1)), 1)
        for first in range(0, len(x), size):
            rows = torch.arange(first, min(first + size, len(x)), device=x.device)
            search.run(rows, begin[rows])
        success = judge(model, search.best.x, y, key.fold("verdict"))
        forward, none = search.forward, torch.zeros_like(search.forward)
        trace = search.trace[: int(forward.max()) if len(forward) else 0]
        return Result(search.best.x, success, trace, forward + 1, none, none.to(x.dtype), search.best.fell)


class _Answers(NamedTuple):
    """The queried images of each example, and the logits of the model."""

    points: Float[Tensor, "R N D"]
    logits: Float[Tensor, "R N K"]

    def of(self, rows: Tensor) -> _Answers:
        """The answers for some of the examples."""
        return _Answers(self.points[rows], self.logits[rows])

    def besides(self, others: list[_Answers]) -> _Answers:
        """These and other answers for the same examples."""
        return _Answers(*(torch.cat(parts, 1) for parts in zip(self, *others, strict=True)))

    def latest(self) -> _Answers:
        """The latest answers, on which a fit rests: queries too near to change the logits drop out."""
        return self._replace(points=self.points[:, -KEPT:], logits=self.logits[:, -KEPT:])


class _Search:
    """The queries of one call, with the best images and the trace."""

    def __init__(self, attack: FittedSearch, model: Model, x: Tensor, y: Tensor, key: Key) -> None:
        self.threat, self.queries = attack.threat, attack.queries
        self.model, self.x, self.y, self.key = model, x, y, key
        self.draws = bool(getattr(model, "stochastic", False))
        self.best = Best(x)
        self.forward = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.trace = x.new_full((attack.queries, len(x)), torch.nan)

    def run(self, rows: Int64[Tensor, "R"], begin: Float[Tensor, "R *F"]) -> None:
        """Search on some examples, in rounds: queries around the best image, a fit, attacks on the fit."""
        radius, turn = self.x.new_ones(len(rows)), 0
        seen, _ = self.query(rows, begin, rows >= 0, 0)
        middle, query = seen.logits[:, 0], 1  # logits of the best images
        while query < self.queries:
            left = rows >= 0 if self.draws else self.best.fooled[rows] <= 0
            rows, seen, middle, radius = rows[left], seen.of(left), middle[left], radius[left]
            if not len(rows):
                return
            now, inside, here = self.key.fold("round", turn).take(rows), radius <= 1, self.best.x[rows]
            count, share = (ROUND, CHANGED) if turn else (FIRST, 1.0)
            around, before = [], middle
            for i in range(min(count, self.queries - query)):
                tried = self.around(rows, here, radius, share, SIDES[i % len(SIDES)], now.fold(i))
                found, better = self.query(rows, tried, inside, query)
                around.append(found)
                middle = torch.where(better[:, None], found.logits[:, 0], middle)
                query += 1
            same = torch.stack([(found.logits[:, 0] == before).all(1) for found in around]).to(radius.dtype)
            radius = self.adapted(radius, same.mean(0))
            seen = seen.besides(around).latest()
            fit, climbed = _Fit.of(seen, self.x[rows].flatten(1)), []
            for tried in self.climbed(rows, fit, now.fold("climb"))[: self.queries - query]:
                found, better = self.query(rows, tried, rows >= 0, query)
                climbed.append(found)
                middle = torch.where(better[:, None], found.logits[:, 0], middle)
                query += 1
            seen, turn = seen.besides(climbed), turn + 1

    @torch.no_grad()
    def query(self, rows: Tensor, tried: Tensor, inside: Tensor, number: int) -> tuple[_Answers, Tensor]:
        """Evaluate one image of each example; returns the answer, and whether the image is the best so far.

        Args:
            rows: the examples.
            tried: an image for each.
            inside: whether the image is a member of the set of the threat; any other image only serves the
                fit.
            number: number of the query, from 0.
        """
        y = self.y[rows]
        logits = answer(self.model, tried, y, self.key.fold("query", number).take(rows))
        value, fooled = Margin()(logits, y).to(self.x.dtype), (decide(logits) != y).to(self.x.dtype)
        better = torch.zeros_like(inside)
        better[inside] = self.best.offer(rows[inside], tried[inside], fooled[inside], value[inside])
        self.best.fall(rows[inside], fooled[inside], number)
        self.trace[number, rows[inside]] = value[inside]
        self.forward[rows] += 1
        return _Answers(tried.flatten(1)[:, None], logits[:, None]), better

    def around(
        self, rows: Tensor, here: Tensor, radius: Tensor, share: float, side: int, key: Key
    ) -> Float[Tensor, "R *F"]:
        """Images in which a share of the blocks with this side changes, each block up or down.

        With a radius above 1 the images may leave the set of the threat, but never the box.
        """
        sign = torch.where(_blocks(here, side, key.fold("sign")) < 0.5, -1.0, 1.0).to(here.dtype)
        moved = _blocks(here, side, key.fold("moved")) < share
        reach = (radius if isinstance(self.threat, L2) else 2 * radius) * self.threat.epsilon
        far = here + per_example(reach, here) * self.threat.steepest(sign * moved)
        return torch.where(
            per_example(radius <= 1, here), self.threat.project(far, self.x[rows]), far.clamp(0, 1)
        )

    def adapted(self, radius: Float[Tensor, "R"], same: Float[Tensor, "R"]) -> Float[Tensor, "R"]:
        """The next radius, in epsilons: larger where most logits stayed equal, smaller where few did."""
        most = 0.5 / max(self.threat.epsilon, 1e-6)
        grown, shrunk = (1.5 * radius).clamp(max=max(most, 1.0)), (radius / 1.5).clamp(min=1.0)
        return torch.where(same > 0.7, grown, torch.where(same < 0.3, shrunk, radius))

    def climbed(self, rows: Tensor, fit: _Fit, key: Key) -> list[Float[Tensor, "R *F"]]:
        """The images at which attacks on the stand-in end, from the best images and from random members."""
        x, y, best = self.x[rows], self.y[rows], self.best.x[rows]
        begin = [best if i % 2 == 0 else self.threat.start(x, key.fold(i)) for i in range(TRIED)]
        here = [image.flatten(1) for image in begin]
        labels, order = y[:, None], None
        for step in range(STEPS):
            height = fit.logits(torch.stack(here, 1)).scatter(
                2, labels[:, None].expand(-1, TRIED, 1), -torch.inf
            )
            ranks = height.topk(min(RIVALS, height.shape[2] - 1), dim=2).indices
            order = ranks if order is None else order
            rival = torch.stack(
                [
                    order[:, i, rank] if (rank := (i // 2) % ranks.shape[2]) else ranks[:, i, 0]
                    for i in range(TRIED)
                ],
                1,
            )
            slope = fit.slope(torch.stack(here, 1), rival, labels.expand(-1, TRIED)).to(x.dtype)
            size = self.threat.epsilon * (1 - step / STEPS)
            here = [
                self.threat.project(
                    at.view_as(x) + size * self.threat.steepest(slope[:, i].view_as(x)), x
                ).flatten(1)
                for i, at in enumerate(here)
            ]
        return [at.view_as(x) for at in here]


class _Fit(NamedTuple):
    """Ridge regression of the logits with a Gaussian kernel, separately for each example."""

    centre: Float[Tensor, "R 1 D"]
    unit: Float[Tensor, "R 1 1"]
    points: Float[Tensor, "R N D"]  # relative to the centre, in this unit
    weights: Float[Tensor, "R N K"]
    mean: Float[Tensor, "R 1 K"]

    @classmethod
    def of(cls, seen: _Answers, x: Float[Tensor, "R D"]) -> _Fit:
        """Fit to the standardised logits, so that neither their scale nor their offset matters."""
        centre = x[:, None].double()
        points = seen.points.double() - centre
        unit = points.square().sum(2).mean(1).sqrt().clamp(min=1e-12)[:, None, None]
        points = points / unit
        logits, known = seen.logits.double(), seen.logits.isfinite()
        least = torch.where(known, logits, torch.inf).amin((1, 2), keepdim=True).nan_to_num(0.0, 0.0)
        logits = torch.where(known, logits, least)  # an infinite logit, such as that of a masked class
        logits = logits / logits.abs().amax((1, 2), keepdim=True).clamp(min=1e-300)
        spread = (logits - logits.mean(1, keepdim=True)).square().mean((1, 2), keepdim=True).sqrt()
        logits = logits / spread.clamp(min=1e-12)
        mean = logits.mean(1, keepdim=True)
        kernel = _kernel(points, points)
        ridge = RIDGE * torch.eye(kernel.shape[1], dtype=kernel.dtype, device=kernel.device)
        weights = torch.cholesky_solve(logits - mean, torch.linalg.cholesky(kernel + ridge))
        return cls(centre, unit, points, weights, mean)

    def logits(self, here: Float[Tensor, "R E D"]) -> Float[Tensor, "R E K"]:
        """The logits of the stand-in."""
        return _kernel(self._placed(here), self.points) @ self.weights + self.mean

    def slope(self, here: Float[Tensor, "R E D"], rival: Tensor, label: Tensor) -> Float[Tensor, "R E D"]:
        """The gradient of the difference of two logits, up to a positive factor."""
        placed = self._placed(here)
        weights = self.weights.transpose(1, 2)
        over = (_of(weights, rival) - _of(weights, label)) * _kernel(placed, self.points)
        return over @ self.points - over.sum(2, keepdim=True) * placed

    def _placed(self, here: Tensor) -> Tensor:
        return (here.double() - self.centre) / self.unit


def _of(weights: Float[Tensor, "R K N"], classes: Int64[Tensor, "R E"]) -> Float[Tensor, "R E N"]:
    return weights.gather(1, classes[..., None].expand(-1, -1, weights.shape[2]))


def _kernel(one: Float[Tensor, "R M D"], other: Float[Tensor, "R N D"]) -> Float[Tensor, "R M N"]:
    square = one.square().sum(2)[:, :, None] + other.square().sum(2)[:, None]
    return torch.exp(-(square - 2 * one @ other.transpose(1, 2)).clamp(min=0) / 2)


def _blocks(like: Float[Tensor, "R *F"], side: int, key: Key) -> Float[Tensor, "R *F"]:
    """Uniform random numbers, one for each block of an image; one for each value of other inputs."""
    if like.ndim != 4:
        return key.uniform(like.shape, 0, like.device)
    batch, channels, height, width = like.shape
    few = key.uniform((batch, channels, -(-height // side), -(-width // side)), 0, like.device)
    return few.repeat_interleave(side, 2).repeat_interleave(side, 3)[:, :, :height, :width]


@dataclass(frozen=True, kw_only=True)
class StandIn(Recipe):
    r"""Attack on a smooth model that is fitted to logits around each example, without gradients.

    .. math:: \hat f(x) = \bar f + k(x)^\top (K + \lambda I)^{-1} (F - \bar f),\quad
        k_i(x) = \exp\bigl(-\|x - x_i\|^2 / 2\ell^2\bigr)

    The rows of F are the standardised logits of the attacked model at images :math:`x_i`. These are images
    around the best image so far, with blocks of pixels changed up or down, at larger distances where the
    logits do not change; and the images at which earlier attacks on the fit ended. Projected gradient steps
    on the fit raise the difference :math:`\hat f_k - \hat f_y` of the logits of another class and the label,
    and the attacked model is evaluated at their last iterates. Then the fit is computed again. The length
    :math:`\ell` is the root mean square distance of the :math:`x_i` from the clean image. In a suite the
    search begins, for each example, at the image of the largest margin that earlier members have found.

    Every example has a fit of its own, so that none depends on other examples of its batch.

    Args:
        queries: forward passes per example, at least 1; the first fit uses 33 of them.

    Raises:
        InputError: a threat other than Linf, regions of it, and L2.

    Example:
        >>> from spikeproof.threats import Linf
        >>> StandIn(queries=200)(Linf(0.1)).queries
        200

    Source:
        Papernot et al. 2017 (arXiv 1602.02697), for a substitute that is fitted to answers and refitted at
        the images that attacks on it find. Ridge regression around each example, in place of one network, is
        ours.
    """

    gradient_free: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True
    queries: int = 1000

    def __call__(self, threat: Threat) -> FittedSearch:
        return FittedSearch(threat, self.queries)

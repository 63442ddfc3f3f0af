"""Random search on the logits of the model, which also works where gradients are masked.

These attacks use forward passes alone and keep the best image by the same order as the gradient attacks. If
one of them leaves a lower accuracy than a gradient attack, that gradient attack is broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.objectives import answers_margin
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import (
    Best,
    Result,
    admit,
    check_mode,
    evaluator,
    instead,
    judge,
)
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin, Objective
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats import L2, Region, SquarePatch, boxed

__all__ = [
    "PatchSearch",
    "Patches",
    "RectangleSearch",
    "Square",
    "SquareSearch",
    "UniformNoise",
    "at_clean",
    "improved",
    "pasted",
    "random_search",
]

DRAWN = 64
"""Number of queries whose random numbers a search from given images draws at once."""

Propose = Callable[[int, Tensor, Key], Tensor]
"""`(query, rows, key) -> candidates`, one image for each row that is still attacked."""


def random_search(
    model: Model,
    x: Tensor,
    y: Tensor,
    key: Key,
    best: Best,
    queries: int,
    propose: Propose,
    observe: Callable[[Tensor, Tensor], None] | None = None,
    objective: Objective = Margin(),
) -> Result:
    """Evaluate one candidate per query and example, and keep it if it is at least as good as the best so far.

    After each query `observe` receives the rows and their margins, for searches that restart now and then.
    """
    check_mode(model)
    rows = torch.arange(len(x), device=x.device)
    counts = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    losses: list[Tensor] = []
    for query in range(queries):
        if not len(rows):
            break
        now = key.fold("query", query).take(rows)
        candidates = propose(query, rows, now)
        with torch.no_grad():
            value, fooled = evaluator(model, objective, y[rows])(candidates, now.fold("look"))
        best.offer(rows, candidates, fooled, value)
        best.fall(rows, fooled, query)
        if observe is not None:
            observe(rows, value)
        counts[rows] += 1
        trace = x.new_full((len(x),), torch.nan)
        trace[rows] = value
        losses.append(trace)
        if not getattr(model, "stochastic", False):
            rows = rows[fooled == 0]
    success = judge(model, best.x, y, key.fold("verdict"))
    trace = torch.stack(losses) if losses else x.new_zeros(0, len(x))
    none = torch.zeros_like(counts)
    return Result(best.x, success, trace, counts + 1, none, none.to(x.dtype), best.fell)


@dataclass(frozen=True)
class UniformNoise:
    """The worst of several random members of the set of the threat.

    Args:
        threat: the set to draw from.
        draws: images per example, at least 1.

    Source:
        Athalye, Carlini & Wagner 2018, section 3.1.
    """

    threat: Threat
    draws: int = 20

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError("UniformNoise needs at least one draw", f"draws={self.draws}", "Try draws=20.")

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
            return self.threat.start(x[rows], now.fold("noise"))

        return random_search(model, x, y, key, Best(x), self.draws, propose)


def _pictures(attack: object, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B C H W"]:
    """The images, once they have the rows and columns that the attack needs."""
    if x.ndim != 4:
        raise InputError(
            f"{type(attack).__name__} needs images [B, C, H, W]",
            f"shape {list(x.shape)}",
            "Use UniformNoise instead.",
        )
    return x


@dataclass(frozen=True)
class Square:
    """Random search with square patches, for Linf and L2.

    A candidate is kept when its margin is at least that of the best image so far. Spike counts are integers,
    and on their plateaus a search that kept improvements alone would not move.

    With a `start` the search begins at the images that this function gives, and tries rectangles with random
    sides instead of ever smaller squares, because large patches would cover images that are already near the
    decision boundary. Ties of spike counts are then broken by the output potentials (`answers_margin`); from
    the clean image the search is the published one.

    Args:
        threat: `Linf`, a region of it, or `L2`, on images `[B, C, H, W]`.
        queries: forward passes per example, at least 1.
        p_init: share of pixels in the first patch, in (0, 1].
        start: the function that gives the first images, in place of stripes or tiles around the clean image.

    Raises:
        InputError: another threat, other axes, or settings out of range.

    Source:
        Andriushchenko et al. 2020, algorithms 1-3; the schedule of `p` is theirs for 10,000 queries, scaled.
    """

    threat: Threat
    queries: int = 500
    p_init: float = 0.8
    start: Callable[[Threat, Tensor, Key], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.queries < 1 or not 0 < self.p_init <= 1:
            raise InputError(
                "Square needs at least one query and p_init in (0, 1]",
                f"queries={self.queries}, p_init={self.p_init}",
                "Try queries=500, p_init=0.8.",
            )
        if not (boxed(self.threat) or isinstance(self.threat, L2)):
            raise InputError(
                "Square is defined for the threats Linf and L2, and regions of Linf",
                repr(self.threat),
                instead(self.threat, "Use UniformNoise for this one."),
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
        x = _pictures(self, admit(model, self.threat, x, y))
        best = Best(x)
        shape = _LinfPatches(x, self.threat) if boxed(self.threat) else _L2Patches(x, self.threat)

        if self.start is not None:
            begin, draws = self.start(self.threat, x, key.fold("start")), _Draws(x, key.fold("rectangles"))

            def go_on(query: int, rows: Tensor, now: Key) -> Tensor:
                return shape.vary(best.x[rows], rows, draws.of(query, rows)) if query else begin[rows]

            return random_search(model, x, y, key, best, self.queries, go_on, objective=answers_margin(model))

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            if query == 0:
                return shape.first(rows, now)
            share = self.p_init * _schedule(query, self.queries)
            return shape.change(best.x[rows], rows, share, now)

        return random_search(model, x, y, key, best, self.queries, propose)


class _Draws:
    """Uniform random numbers, drawn for many queries at once: five, and one per channel, for each example."""

    def __init__(self, x: Tensor, key: Key) -> None:
        self.x, self.key, self.block = x, key, torch.empty(0, device=x.device)

    def of(self, query: int, rows: Tensor) -> Float[Tensor, "R D"]:
        """The random numbers of one query; queries come in their order."""
        index = query % DRAWN
        if not index or not self.block.numel():
            shape = (len(rows), DRAWN, 5 + self.x.shape[1])
            fresh = self.key.fold(query // DRAWN).take(rows).uniform(shape, 0, self.x.device)
            self.block = self.x.new_zeros(len(self.x), *shape[1:])
            self.block[rows] = fresh.to(self.x.dtype)
        return self.block[rows, index]


@dataclass(frozen=True)
class Patches:
    """Random search for the position and the content of one square of the image.

    Every second query moves the square with its content, over the whole image at first and then over ever
    shorter distances; the other queries change a smaller square within it. A quarter of the values are 0, a
    quarter are 1, and the others lie anywhere between, because an encoder of levels may be fooled by values
    in the middle. A candidate of at least the same margin is kept, as in `Square`. The content of a patch
    comes to fit its position, so that moving it no longer helps; therefore the search restarts after every
    `run` queries.

    Args:
        threat: `SquarePatch`, on images `[B, C, H, W]`.
        queries: forward passes per example, at least 1.
        run: queries after which the search restarts, at least 1.

    Raises:
        InputError: another threat, other axes, or settings out of range.

    Source:
        Croce et al. 2022 (Sparse-RS), section 4.2 and algorithm 3; values between 0 and 1, and the
        restarts, are ours.
    """

    threat: Threat
    queries: int = 500
    run: int = 250

    def __post_init__(self) -> None:
        if self.queries < 1 or self.run < 1:
            raise InputError(
                "Patches needs at least one query in all and at least one per run",
                f"queries={self.queries}, run={self.run}",
                "Try queries=500, run=250.",
            )
        if not isinstance(self.threat, SquarePatch):
            raise InputError(
                "Patches is defined for the threat SquarePatch",
                repr(self.threat),
                instead(self.threat, "Use Square or UniformNoise for this one."),
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
        x = _pictures(self, admit(model, self.threat, x, y))
        held, length = _Held(x, int(self.threat.epsilon)), min(self.run, self.queries)

        def propose(query: int, rows: Tensor, now: Key) -> Tensor:
            done = query % length
            if not done:
                return held.fresh(rows, now)
            if done % 2:
                return held.elsewhere(rows, 1 - done / length, now)
            return held.changed(rows, 0.8 * _schedule(done, length), now)

        return random_search(model, x, y, key, Best(x), self.queries, propose, held.update)


class _Held:
    """One patch per example: the best patch of this run, and the last candidate."""

    def __init__(self, x: Tensor, side: int) -> None:
        self.x, batch, channels = x, *x.shape[:2]
        self.free = x.shape[2] - min(side, x.shape[2]), x.shape[3] - min(side, x.shape[3])
        self.corner = torch.zeros(batch, 2, dtype=torch.int64, device=x.device)
        self.content = x.new_zeros(batch, channels, min(side, x.shape[2]), min(side, x.shape[3]))
        self.tried = self.corner.clone(), self.content.clone()
        self.margin = x.new_full((batch,), -torch.inf)

    def update(self, rows: Tensor, margin: Tensor) -> None:
        """Keep the last candidate of each example whose margin is at least the best one."""
        taken = improved(rows, margin, self.margin)
        for kept, tried in zip((self.corner, self.content), self.tried, strict=True):
            kept[taken] = tried[taken]

    def fresh(self, rows: Tensor, key: Key) -> Tensor:
        """A random patch at a random position, with which a run begins."""
        self.margin[rows] = -torch.inf
        corner = key.fold("place").uniform((len(rows), 2), 0, self.x.device)
        return self._try(rows, self._inside(corner * self._room(1)), _content(self.content[rows], key))

    def elsewhere(self, rows: Tensor, share: float, key: Key) -> Tensor:
        """The same patch, moved each way by up to a share of the image, or by up to one pixel."""
        by = key.fold("place").uniform((len(rows), 2), 0, self.x.device) * 2 - 1
        far = (share * self._room(0)).clamp(min=1)
        moved = self.corner[rows] + (by * (far + 0.5)).round().long()
        return self._try(rows, self._inside(moved), self.content[rows])

    def changed(self, rows: Tensor, share: float, key: Key) -> Tensor:
        """The patch at its position, with one new colour in a random square of this share of its pixels."""
        now = self.content[rows]
        tall, wide = now.shape[2:]
        if not now.numel():
            return self._try(rows, self.corner[rows], now)
        side = min(max(round(math.sqrt(share * tall * wide)), 1), tall, wide)
        mask = _window(tall, wide, side, len(rows), key.fold("corner"), now)
        colour = _content(now[:, :, :1, :1], key)
        return self._try(rows, self.corner[rows], torch.where(mask, colour, now))

    def _room(self, more: int) -> Tensor:
        return torch.tensor(self.free, device=self.x.device, dtype=torch.float32) + more

    def _inside(self, corner: Tensor) -> Tensor:
        return torch.minimum(corner.long().clamp(min=0), self._room(0).long())

    def _try(self, rows: Tensor, corner: Tensor, content: Tensor) -> Tensor:
        for tried, part in zip(self.tried, (corner, content), strict=True):
            tried[rows] = part
        return pasted(self.x[rows], corner, content)


def improved(rows: Int64[Tensor, "R"], margin: Float[Tensor, "R"], best: Float[Tensor, "B"]) -> Tensor:
    """The rows whose margin is at least the best one of this run, which is raised to it in place."""
    margin = margin.nan_to_num(torch.inf).to(best.dtype)
    taken = rows[margin >= best[rows]]
    best[rows] = torch.maximum(best[rows], margin)
    return taken


def pasted(
    x: Float[Tensor, "B C H W"], corner: Int64[Tensor, "B 2"], content: Float[Tensor, "#B C h w"]
) -> Float[Tensor, "B C H W"]:
    """The images with a rectangle of content each, at this row and column of its top left corner."""
    made = x.clone()
    tall, wide = content.shape[2:]
    i = corner[:, 0].view(-1, 1, 1, 1) + torch.arange(tall, device=x.device).view(1, 1, -1, 1)
    j = corner[:, 1].view(-1, 1, 1, 1) + torch.arange(wide, device=x.device).view(1, 1, 1, -1)
    example = torch.arange(len(x), device=x.device).view(-1, 1, 1, 1)
    channel = torch.arange(x.shape[1], device=x.device).view(1, -1, 1, 1)
    made[example, channel, i, j] = content
    return made


def _content(like: Float[Tensor, "B C H W"], key: Key) -> Float[Tensor, "B C H W"]:
    """Random values: a quarter are 0, a quarter are 1, and the others lie anywhere between."""
    drawn = key.fold("content").uniform(tuple(like.shape), 0, like.device).to(like.dtype)
    return (2 * drawn - 0.5).clamp(0, 1)


def _schedule(query: int, queries: int) -> float:
    """The share of the patch size, halved at fixed queries of a run that is scaled to 10,000 queries."""
    scaled = query * 10_000 / queries
    return float(0.5 ** sum(scaled > mark for mark in (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)))


def _signs(shape: tuple[int, ...], key: Key, like: Tensor) -> Tensor:
    return (key.uniform(shape, 0, like.device).to(like.dtype) < 0.5).to(like.dtype) * 2 - 1


def _window(height: int, width: int, side: int, count: int, key: Key, like: Tensor) -> Tensor:
    """One random square per example, as a mask `[B, 1, H, W]`."""
    corner = key.uniform((count, 2), 0, like.device)
    top = (corner[:, 0] * (height - side + 1)).long().view(-1, 1, 1, 1)
    left = (corner[:, 1] * (width - side + 1)).long().view(-1, 1, 1, 1)
    i = torch.arange(height, device=like.device).view(1, 1, -1, 1)
    j = torch.arange(width, device=like.device).view(1, 1, 1, -1)
    return (i >= top) & (i < top + side) & (j >= left) & (j < left + side)


def _rectangle(height: int, width: int, drawn: Float[Tensor, "B 4"]) -> Tensor:
    """One random rectangle per example, with sides up to half the frame, as a mask `[B, 1, H, W]`."""
    inside = []
    for length, side, corner, axes in (
        (height, drawn[:, 0], drawn[:, 1], (1, 1, -1, 1)),
        (width, drawn[:, 2], drawn[:, 3], (1, 1, 1, -1)),
    ):
        long = 1 + (side * max(length // 2, 1)).long()
        first = (corner * (length - long + 1)).long()
        index = torch.arange(length, device=drawn.device).view(axes)
        begin, end = first.view(-1, 1, 1, 1), (first + long).view(-1, 1, 1, 1)
        inside.append((index >= begin) & (index < end))
    return inside[0] & inside[1]


@dataclass(frozen=True)
class _LinfPatches:
    """Candidates under Linf: vertical stripes first, then squares of plus or minus epsilon."""

    x: Tensor
    threat: Threat

    def first(self, rows: Tensor, key: Key) -> Tensor:
        x = self.x[rows]
        batch, channels, _, width = x.shape
        stripes = _signs((batch, channels, 1, width), key.fold("stripes"), x)
        return self.threat.project(x + self.threat.epsilon * stripes, x)

    def change(self, best: Tensor, rows: Tensor, share: float, key: Key) -> Tensor:
        x = self.x[rows]
        batch, channels = x.shape[:2]
        _, _, height, width = self._frame(x)
        side = min(max(round(math.sqrt(share * height * width)), 1), height, width)
        inner = _window(height, width, side, batch, key.fold("corner"), x)
        return self._painted(best, x, inner, _signs((batch, channels, 1, 1), key.fold("sign"), x))

    def vary(self, best: Tensor, rows: Tensor, draws: Float[Tensor, "R D"]) -> Tensor:
        """The best images with a random rectangle moved to the edge of the set, one sign per channel."""
        x = self.x[rows]
        inner = _rectangle(*self._frame(x)[2:], draws[:, :4])
        sign = (draws[:, 5:] < 0.5).to(x.dtype) * 2 - 1
        return self._painted(best, x, inner, sign[:, :, None, None])

    def _painted(self, best: Tensor, x: Tensor, inner: Tensor, sign: Tensor) -> Tensor:
        top, left, height, width = self._frame(x)
        mask = F.pad(inner, (left, x.shape[3] - left - width, top, x.shape[2] - top - height))
        return self.threat.project(torch.where(mask, x + self.threat.epsilon * sign, best), x)

    def _frame(self, x: Tensor) -> tuple[int, int, int, int]:
        """The rectangle that may change, in which squares are tried: top, left, height and width."""
        height, width = x.shape[2:]
        if isinstance(self.threat, Region) and not self.threat.outside:
            top, left = min(self.threat.top, height - 1), min(self.threat.left, width - 1)
            return top, left, min(self.threat.height, height - top), min(self.threat.width, width - left)
        return 0, 0, height, width


@dataclass(frozen=True)
class _L2Patches:
    """Candidates under L2: tiles of pyramids first, then budget moved from one square to another."""

    x: Tensor
    threat: Threat

    def first(self, rows: Tensor, key: Key) -> Tensor:
        x = self.x[rows]
        batch, channels, height, width = x.shape
        side = max(min(height, width) // 5, 1)
        tile = _pyramid(side, x)
        tall, wide = height // side, width // side
        signs = _signs((batch, channels, tall, wide), key.fold("tiles"), x)
        tiles = signs.repeat_interleave(side, 2).repeat_interleave(side, 3) * tile.repeat(tall, wide)
        delta = torch.zeros_like(x)
        delta[:, :, : tall * side, : wide * side] = tiles
        return self._onto_ball(x, delta)

    def vary(self, best: Tensor, rows: Tensor, draws: Float[Tensor, "R D"]) -> Tensor:
        """The best images with a new change in one random rectangle, scaled to the radius of the ball."""
        x = self.x[rows]
        inner = _rectangle(x.shape[2], x.shape[3], draws[:, :4]).to(x.dtype)
        sign = (draws[:, 5:] < 0.5).to(x.dtype) * 2 - 1
        area = inner.sum((2, 3), keepdim=True) * x.shape[1]
        height = 2 * draws[:, 4, None, None, None] * self.threat.epsilon / area.sqrt()
        return self._onto_ball(x, torch.where(inner > 0, height * sign[:, :, None, None], best - x))

    def change(self, best: Tensor, rows: Tensor, share: float, key: Key) -> Tensor:
        x = self.x[rows]
        batch, channels, height, width = x.shape
        side = min(max(round(math.sqrt(share * height * width)), 3), height, width)
        to = _window(height, width, side, batch, key.fold("to"), x)
        origin = _window(height, width, side, batch, key.fold("from"), x)
        delta = best - x
        spare = (self.threat.epsilon**2 - _square_norm(delta)).clamp(min=0) / channels
        budget = ((delta * (to | origin)).square().sum((2, 3), keepdim=True) + spare).sqrt()
        signs = _signs((batch, channels, 1, 1), key.fold("sign"), x)
        bump = self._in_window(_pyramid(side, x), to, x) * signs
        inside = delta * to
        bump = bump + inside / inside.flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None]
        bump = bump * budget / bump.flatten(2).norm(dim=2).clamp(min=1e-12)[..., None, None]
        delta = torch.where(to, bump, torch.where(origin, torch.zeros_like(delta), delta))
        return self._onto_ball(x, delta)

    @staticmethod
    def _in_window(tile: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        """The tile inside the window of each example, and zero elsewhere."""
        placed = torch.zeros_like(x)
        placed[mask.expand_as(x)] = tile.flatten().repeat(x.shape[0] * x.shape[1])
        return placed

    def _onto_ball(self, x: Tensor, delta: Tensor) -> Tensor:
        scaled = delta * (self.threat.epsilon / _square_norm(delta).sqrt().clamp(min=1e-12))
        return self.threat.project(x + scaled, x)


def _square_norm(delta: Tensor) -> Tensor:
    return delta.square().sum((1, 2, 3), keepdim=True)


def _pyramid(side: int, like: Tensor) -> Float[Tensor, "S S"]:
    """Two opposite bumps, one above the other, of L2 norm 1: rings of weight 1/k^2 around their centres."""
    half = max(side // 2, 1)

    def bump(tall: int, wide: int) -> Tensor:
        i = torch.arange(tall, device=like.device, dtype=like.dtype)
        j = torch.arange(wide, device=like.device, dtype=like.dtype)
        ring = torch.maximum((i - (tall - 1) / 2).abs()[:, None], (j - (wide - 1) / 2).abs()[None])
        rings = torch.arange(max(tall, wide) // 2 + 1, device=like.device, dtype=like.dtype)
        return (ring[..., None] <= rings + 0.5).to(like.dtype).mul(1 / (rings + 1).square()).sum(-1)

    tile = torch.cat([bump(half, side), -bump(side - half, side)]) if side > 1 else bump(1, 1)
    unit: Tensor = tile / torch.linalg.vector_norm(tile)
    return unit


@dataclass(frozen=True, kw_only=True)
class SquareSearch(Recipe):
    """Square attack: random search with square patches, without gradients.

    Args:
        queries: forward passes per example, at least 1.
        p_init: share of pixels in the first patch, in (0, 1].

    Source:
        Andriushchenko et al. 2020, algorithms 1-3.
    """

    gradient_free: ClassVar[bool] = True
    queries: int = 500
    p_init: float = 0.8

    def __call__(self, threat: Threat) -> Square:
        return Square(threat, self.queries, self.p_init)


@dataclass(frozen=True, kw_only=True)
class RectangleSearch(Recipe):
    r"""Random search with rectangles that begins at the best image so far, without gradients.

    .. math:: x' = \Pi\,(x_{best} \text{ with } x + \sigma\epsilon \text{ in } R),\quad \sigma = \pm 1

    with a random rectangle R, whose sides are up to half the sides of the image, and one sign per channel. A
    candidate of at least the same margin is kept. In a suite the search begins, for each example, at the
    image of the largest margin that earlier members have found; outside a suite, and where no such image is
    known, it begins at the clean image. Under L2 the change within the rectangle is drawn anew, with a random
    share of the budget.

    Args:
        queries: forward passes per example, at least 1.

    Raises:
        InputError: a threat other than Linf, regions of it, and L2.

    Example:
        >>> from spikeproof.threats import Linf
        >>> RectangleSearch(queries=200)(Linf(0.1)).queries
        200

    Source:
        Ours, after Andriushchenko et al. 2020.
    """

    gradient_free: ClassVar[bool] = True
    goes_on: ClassVar[bool] = True
    queries: int = 500

    def __call__(self, threat: Threat) -> Square:
        return Square(threat, self.queries, start=at_clean)


def at_clean(threat: Threat, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
    """A start at the clean images."""
    return x


@dataclass(frozen=True, kw_only=True)
class PatchSearch(Recipe):
    """Random search for the position and the content of one square, without gradients; for square-patch.

    Args:
        queries: forward passes per example, at least 1.
        run: queries after which the search restarts, at least 1.

    Source:
        Croce et al. 2022 (Sparse-RS), section 4.2; the restarts are ours.
    """

    gradient_free: ClassVar[bool] = True
    queries: int = 500
    run: int = 250

    def __call__(self, threat: Threat) -> Patches:
        return Patches(threat, self.queries, self.run)

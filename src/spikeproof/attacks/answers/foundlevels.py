"""Levels that a model rounds its pixels to, found from its answers alone, and a search over them.

A code of levels hides behind a plain function: nothing shows which pixel values give the same spikes. But the
answers do. Along a line on which some pixels share one grey value, they change at the edges of levels and
nowhere else, and bisection finds every edge to the last bit. The found levels are tested before they are
used: moving every pixel within its level must leave the answers as they are. Where the code is known, so are
its levels, and the same search runs over them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.reachable import (
    DETERMINISTIC,
    SHARES,
    BySpikes,
    EncoderAware,
    Here,
    PatternSearch,
    Ranking,
    Towards,
    check_boxed,
    coded,
    combinations,
    ends,
    known_code,
    reachable,
)
from spikeproof.attacks.parts.oracles import slope
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import UNRECORDED, Result, admit, judge
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.protocols import Model, Threat, attack_call

__all__ = ["FoundLevels", "LevelSearch", "LevelSearchAttack", "levels_of"]

LINES = 8
"""Lines along which the answers are followed."""
POINTS = 513
"""Grey values on a line, so that even 256 levels have two each."""
MOST_EDGES = 300
"""Most edges on a line for the answers to count as rounded."""
MOST_TESTS = 16
"""Tests, each followed by a search for missing edges, until the levels hold."""
TESTED = 64
"""Images on which found levels are tested."""
AT_ONCE = 8
"""Missing edges that are looked for between two tests."""
CLOSE = 1e-5
"""Largest relative difference of logits that counts as none."""
TOGETHER = 256
"""Batch size of the forward passes."""


@dataclass(frozen=True)
class FoundLevels:
    """Levels between edges: level k holds the values from edge k - 1 to below edge k.

    Args:
        edges: the smallest value of every level but the first, increasing.

    Example:
        >>> found = FoundLevels(torch.tensor([0.25, 0.75]))
        >>> found.level(torch.tensor([0.0, 0.25, 0.5, 1.0])).tolist()
        [0, 1, 1, 2]
        >>> found.value(torch.tensor([0, 1, 2])).tolist()
        [0.125, 0.5, 0.875]
    """

    edges: Float[Tensor, "E"]

    def level(self, x: Float[Tensor, "*F"]) -> Int64[Tensor, "*F"]:
        """The level of every value."""
        return torch.bucketize(x, self.edges.to(x.dtype), right=True)

    def value(self, level: Int64[Tensor, "*F"]) -> Float[Tensor, "*F"]:
        """The middle of every level."""
        ends = torch.cat([self.edges.new_zeros(1), self.edges, self.edges.new_ones(1)])
        return ((ends[1:] + ends[:-1]) / 2)[level.clamp(0, len(self.edges))]


@torch.no_grad()
def levels_of(model: Model, like: Float[Tensor, "B *F"]) -> FoundLevels | None:
    """The levels that all pixels are rounded to, or None where the answers show none.

    The images that the model is asked about are drawn at random and are not those of the batch, so what is
    found depends on the model alone.

    Args:
        model: deterministic; maps images to logits.
        like: images of the shape and type that the model takes.

    Example:
        >>> rounded = lambda x, key=None: (x * 3).floor().flatten(1)[:, :3]
        >>> found = levels_of(rounded, torch.zeros(1, 1, 4, 4))
        >>> [round(edge, 6) for edge in found.edges.tolist()]
        [0.333333, 0.666667, 1.0]
        >>> levels_of(lambda x, key=None: x.flatten(1)[:, :2], torch.zeros(1, 1, 4, 4)) is None
        True
    """
    key, sides = Key(("levels",)), [1] * (like.ndim - 1)
    images = _images(LINES, key.fold("images"), like)
    draws = [key.fold("chosen", i).uniform((1, *like.shape[1:])) for i in range(LINES)]
    chosen = torch.cat(draws).to(like.device) < 0.5
    grey = torch.linspace(0, 1, POINTS, dtype=like.dtype, device=like.device)
    found_on = list[Tensor]()
    for line in range(LINES):
        answers = _asked(model, torch.where(chosen[line], grey.view(-1, *sides), images[line]))
        found_on.append(_differ(answers[:-1], answers[1:]).nonzero().flatten())
        if len(found_on[line]) > MOST_EDGES:
            return None
    jumps = torch.cat(found_on)
    lines = torch.cat([torch.full_like(some, line) for line, some in enumerate(found_on)])

    def along(values: Tensor) -> Tensor:
        return _asked(model, torch.where(chosen[lines], values.view(-1, *sides), images[lines]))

    found = FoundLevels(torch.unique(_bisected(along, grey[jumps], grey[jumps + 1])))
    tested = _images(TESTED, key.fold("tested"), like)
    for i in range(MOST_TESTS):
        moved = _within(found, tested, key.fold("moved", i))
        differ = _differ(_asked(model, tested), _asked(model, moved)).nonzero().flatten()
        if not len(differ):
            return found if len(found.edges) else None
        rows = differ[:AT_ONCE]
        more = torch.unique(torch.cat([found.edges, _between(model, tested[rows], moved[rows])]))
        if len(more) == len(found.edges) or len(more) > MOST_EDGES:
            return None
        found = FoundLevels(more)
    return None


def _within(found: FoundLevels, x: Tensor, key: Key) -> Tensor:
    """Images of which every pixel has moved within its level."""
    ends = torch.cat([found.edges.new_zeros(1), found.edges, found.edges.new_ones(1)])
    level = found.level(x)
    low, high = ends[level], ends[level + 1]
    moved = low + key.uniform(x.shape).to(x.device, x.dtype) * (high - low)
    return torch.where(found.level(moved) == level, moved, x)


def _between(model: Model, x: Float[Tensor, "N *F"], moved: Float[Tensor, "N *F"]) -> Float[Tensor, "E"]:
    """Edges between images with different answers, each of the first pixel that alone makes a difference."""
    flat, other = x.flatten(1), moved.flatten(1)
    pixels = torch.arange(flat.shape[1], device=x.device)
    lower = _asked(model, x)

    def until(count: Tensor) -> Tensor:
        return torch.where(pixels < count[:, None], other, flat).view(x.shape)

    same, differs = pixels.new_zeros(len(x)), pixels.new_full((len(x),), len(pixels))
    while bool((differs - same > 1).any()):
        middle = (same + differs) // 2
        above = _differ(_asked(model, until(middle)), lower) & (middle > same)
        same, differs = torch.where(above, same, middle), torch.where(above, middle, differs)
    base, pixel = until(same).flatten(1), pixels == same[:, None]

    def along(values: Tensor, rows: Tensor) -> Tensor:
        changed = torch.where(pixel[rows], values[:, None], base[rows])
        return _asked(model, changed.view(-1, *x.shape[1:]))

    every = torch.arange(len(x), device=x.device)
    low, high = flat[every, same], other[every, same]
    rows = _differ(along(low, every), along(high, every)).nonzero().flatten()
    low, high = torch.minimum(low, high)[rows], torch.maximum(low, high)[rows]
    return _bisected(lambda values: along(values, rows), low, high)


def _images(count: int, key: Key, like: Tensor) -> Tensor:
    """Random images, dark and bright, of few and of many pixels that are not black."""
    draws = key.uniform((2, count, *like.shape[1:])).to(like.device, like.dtype)
    sides = [1] * (like.ndim - 1)
    index = torch.arange(count, device=like.device)
    power = (0.5 * 2.0 ** (index % 3)).view(-1, *sides).to(like.dtype)
    density = (0.25 * (1 + index % 4)).view(-1, *sides).to(like.dtype)
    return draws[0] ** power * (draws[1] < density)


def _asked(model: Model, images: Tensor) -> Tensor:
    """The answers to images, of which the last batch is as large as the others."""
    rows = torch.arange(-(-len(images) // TOGETHER) * TOGETHER, device=images.device) % len(images)
    whole = images[rows]
    parts = [model(part, DETERMINISTIC) for part in torch.split(whole, TOGETHER)]
    return torch.cat(parts)[: len(images)]


def _differ(a: Float[Tensor, "N K"], b: Float[Tensor, "N K"]) -> Tensor:
    scale = torch.maximum(a.abs(), b.abs()).amax(1)
    return (a - b).abs().amax(1) > CLOSE * scale


def _bisected(along: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """The smallest values of the upper levels, between neighbours with different answers."""
    lower = along(low) if len(low) else low
    while True:
        middle = (low + high) / 2
        inside = (middle > low) & (middle < high)
        if not bool(inside.any()):
            return high
        above = _differ(along(middle), lower)
        high, low = torch.where(inside & above, middle, high), torch.where(inside & ~above, middle, low)


@dataclass(frozen=True)
class LevelSearchAttack:
    r"""Search over found levels: the change that single pixels bring is asked for, and many are made at once.

    .. math:: g_{i,n} = L(x_{i \to n}) - L(x), \quad n \in N_i

    with :math:`N_i` the levels that pixel `i` reaches within the budget. Shares of the most promising changes
    are tried by forward passes, as in the encoder-aware search; gains along a gradient and gains from answers
    take turns. Where the code is known, the gradient is that with respect to the spikes, and otherwise that
    of the pixels, if the model has one. A model in whose answers no levels are found keeps its images. The
    forward passes that find the levels are of the model, not of an example, and are not among the queries.

    Args:
        threat: `Linf`, or a region of it.
        queries: forward passes on an example after the levels are found, at least 1; one turn of each kind
            is taken in any case.
        probes: changes of single pixels that are asked for at once, at least 1.
        start: the function that gives the images to start from, in place of the clean ones.

    Raises:
        InputError: another threat, or settings out of range.

    Source:
        Ours.
    """

    threat: Threat
    queries: int = 12_000
    probes: int = 64
    start: Callable[[Threat, Tensor, Key], Tensor] | None = None

    def __post_init__(self) -> None:
        check_boxed("LevelSearch", self.threat)
        if self.queries < 1 or self.probes < 1:
            raise InputError(
                "LevelSearch needs at least one query, and one change at once",
                f"queries={self.queries}, probes={self.probes}",
                "Try the defaults.",
            )

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
        """Attack `model`; gradients may come from `through`."""
        x = admit(model, self.threat, x, y, through)
        wrong = judge(model, x, y, key.fold("verdict"))
        source = model if through is None else through
        known = known_code(source)
        code = levels_of(model, x) if known is None and len(x) else known
        if code is None:
            none = torch.zeros(len(x), dtype=torch.int64, device=x.device)
            fell = torch.where(wrong, UNRECORDED, none - 1)
            return Result(x.clone(), wrong, x.new_zeros(0, len(x)), none + 1, none, x.new_zeros(len(x)), fell)
        by_gradient = ByPixels(source) if known is None else BySpikes(known, coded(source))
        ranking = InTurn(by_gradient, ByAnswers(self.probes, key.fold("asked")))
        turns = max(1, self.queries // (self.probes + 2 * len(SHARES) + 1))
        shape = EncoderAware(self.threat, steps=2 * turns, restarts=1, refine=0)
        choices = reachable(code, x, *ends(self.threat, x), shape.most, shape.grid)
        search = PatternSearch(shape, model, code, x, y, choices, ranking)
        search.begin = None if self.start is None else self.start(self.threat, x, key.fold("start"))
        search.run(0, combinations(search.choices.levels) > 1, key.fold("run"))
        search.forward += 1  # the verdict on the clean images
        return search.result(key.fold("verdict"))


@dataclass
class InTurn:
    """Levels ranked by gradients and by answers, in turn."""

    by_gradient: Ranking
    by_answers: ByAnswers
    turn: int = 0

    def __call__(self, search: PatternSearch, here: Here, towards: Towards) -> Float[Tensor, "M B *F"]:
        self.turn += 1
        if self.turn % 2:
            return self.by_gradient(search, here, towards)
        return self.by_answers(search, here, self.turn)


@dataclass(frozen=True)
class ByPixels:
    """Levels ranked by the gradient with respect to the pixels, where the code is not known."""

    source: Model

    def __call__(self, search: PatternSearch, here: Here, towards: Towards) -> Float[Tensor, "M B *F"]:
        """The rise of the objective for every level of every pixel, to first order in the pixels."""
        rows, now = here.rows, here.images.clone().requires_grad_()
        with torch.enable_grad():
            logits = self.source(now, DETERMINISTIC)
            total = towards(logits, rows).sum() + 0 * now.sum()  # a model without gradients has gradient zero
            grad = slope(total, now)
        search.forward[rows] += 1
        search.backward[rows] += 1
        search.zero[rows] += (grad.flatten(1) == 0).all(1).long()
        gains: Tensor = grad * (search.choices.pixels[:, rows] - now.detach())
        return gains


@dataclass(frozen=True)
class ByAnswers:
    """Levels ranked by the margin after changes of single pixels, drawn at random; others promise nothing."""

    probes: int
    key: Key

    def __call__(self, search: PatternSearch, here: Here, turn: int) -> Float[Tensor, "M B *F"]:
        rows = here.rows
        pixels, flat = search.choices.pixels[:, rows].flatten(2), here.images.flatten(1)
        draws = self.key.fold(turn).take(rows).uniform((len(rows), search.attack.most * pixels.shape[2]))
        entries = pixels.shape[0] * pixels.shape[2]
        other = (pixels != flat).transpose(0, 1).flatten(1)
        ranked = draws[:, :entries].to(other.device).masked_fill(~other, torch.inf).sort(1)
        asked, probed = ranked.indices[:, : self.probes], ranked.values[:, : self.probes] < torch.inf
        nothing = rows[:0]
        before, _ = here.evaluate(torch.arange(len(rows), device=rows.device), nothing, nothing, nothing)
        example, probe = probed.nonzero(as_tuple=True)
        entry, image = asked[example, probe], torch.arange(len(example), device=rows.device)
        level, pixel = entry // pixels.shape[2], entry % pixels.shape[2]
        gains = flat.new_zeros(len(rows), entries)
        if len(example):
            value, _ = here.evaluate(example, image, pixel, level)
            gains[example, entry] = value - before[example]
        return gains.view(len(rows), pixels.shape[0], *here.images.shape[1:]).transpose(0, 1)


@dataclass(frozen=True, kw_only=True)
class LevelSearch(Recipe):
    """Level search: a search by answers over the levels of a code, which are found by answers if need be.

    Args:
        queries: forward passes on an example after the levels are found, at least 1; one turn of each kind
            is taken in any case.
        probes: changes of single pixels that are asked for at once, at least 1.
        near: whether, in a suite, the search begins at the best images of earlier members.

    Source:
        Ours.
    """

    queries: int = 12_000
    probes: int = 64
    near: bool = False

    @property
    def goes_on(self) -> bool:  # type: ignore[override]
        return self.near

    def suits(self, model: object) -> bool:
        return not getattr(getattr(model, "encoder", model), "stochastic", False)

    def __call__(self, threat: Threat) -> LevelSearchAttack:
        return LevelSearchAttack(threat, self.queries, self.probes)

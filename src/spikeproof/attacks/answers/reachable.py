"""The encoder-aware attack: a search over the spike patterns that a pixel can reach, not over pixels.

A deterministic code turns the interval that a budget leaves to a pixel into a short list of levels, each with
its own pattern of spikes. To the network nothing else exists. So the attack chooses a pattern per pixel,
linearly from a gradient on the spikes themselves, asks the model what the choice is really worth, and refines
it pixel by pixel. It returns real pixels inside the budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, product
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit, evaluator, instead, judge
from spikeproof.encoders import LevelCode, Reversed
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.protocols import Coded, Encoder, Model, Threat, attack_call
from spikeproof.threats import boxed

__all__ = ["EncoderAware", "EncoderAwareSearch", "Reachable", "level_code", "reachable"]

SHARES = (1.0, 0.4, 0.15, 0.05, 0.02, 0.005)
"""Shares of the promising pixels that are changed at once, each tried exactly."""
KICK = 0.03
"""Share of pixels drawn anew where no change helps any more."""
PASSES = 3
"""Most rounds over single pixels, as long as they help."""
CHUNK = 256
"""Combinations asked about at a time when all are."""


def level_code(code: Encoder) -> LevelCode | None:
    """The code of levels that this code is or plays backwards; None where a pixel's spikes depend on others.

    Example:
        >>> from spikeproof.encoders import Direct, Latency
        >>> level_code(Reversed(Latency(4))), level_code(Direct(4))
        (Latency(steps=4, backward=TimeShift()), None)
    """
    inner = code.code if isinstance(code, Reversed) else code
    return inner if isinstance(inner, LevelCode) and inner.local and not inner.stochastic else None


class Reachable(NamedTuple):
    """What each pixel can be: levels with the pixel values that give them, duplicates included."""

    levels: Int64[Tensor, "M B *F"]
    pixels: Float[Tensor, "M B *F"]
    entries: Int64[Tensor, "B"]  # of each example, its own number; what follows repeats the last
    whole: Bool[Tensor, "B"]  # whether every level that a pixel can take is among them


def reachable(
    code: LevelCode,
    x: Float[Tensor, "B *F"],
    low: Float[Tensor, "B *F"],
    high: Float[Tensor, "B *F"],
    most: int,
    grid: int = 0,
) -> Reachable:
    """Levels that pixels can take within [low, high], at most so many each, among them the outermost.

    Of three or more, the level of the clean image is one, so that a search can start there.
    The level of the clean image keeps the clean pixel; every other level is taken at the value nearest to
    what it stands for, moved to a neighbouring multiple of 1/grid if one of these gives the same level.

    Example:
        >>> from spikeproof.encoders import Latency
        >>> found = reachable(Latency(4), *torch.tensor([[[0.3]], [[0.2]], [[0.6]]]), most=9)
        >>> found.levels.flatten().tolist(), found.pixels.flatten().tolist()
        ([1, 2, 3], [0.25, 0.30..., 0.60...])

    A value at the edge of a level, as 0.25 here, may leave it when an image is stored in 8 bits:

        >>> found = reachable(Latency(4), *torch.tensor([[[0.3]], [[0.2]], [[0.6]]]), most=9, grid=255)
        >>> round(found.pixels.flatten()[0].item() * 255, 3)
        63.0
    """
    first, last, own = code.level(low), code.level(high), code.level(x)
    if not x.numel():
        nothing = torch.ones(len(x), dtype=torch.int64, device=x.device)
        return Reachable(own[None], x[None], nothing, nothing > 0)
    span = (last - first).flatten(1).amax(1)
    count = (span + 1).clamp(max=most)  # its own for each example, whatever its company
    index = torch.arange(int(count.max()), device=x.device)[:, None]
    share = (index / (count - 1).clamp(min=1)).clamp(max=1).view(*index.shape[:1], -1, *[1] * (x.ndim - 1))
    levels = first + (share * (last - first)).round().long()
    if len(levels) > 2:  # where some are left out, that of the clean image takes the place of its neighbour
        beside = (levels[1:-1] - own).abs().argmin(0) + 1
        lacking = ~(levels == own).any(0)
        levels = torch.where(lacking, levels.scatter(0, beside[None], own[None]), levels)
    pixels = torch.maximum(torch.minimum(code.value(levels).to(x.dtype), high), low)
    if grid:
        inside = code.level(pixels.flatten(0, 1)).view(levels.shape) == levels
        for steps in ((pixels * grid).round(), (pixels * grid).floor(), (pixels * grid).ceil()):
            near = steps / grid
            same = code.level(near.flatten(0, 1)).view(levels.shape) == levels
            # once on the grid, the next candidates are no change
            fits = inside & same & (near >= low) & (near <= high) & ~_on(pixels, grid)
            pixels = torch.where(fits, near, pixels)
    keep = (levels == own) | (code.level(pixels.flatten(0, 1)).view(levels.shape) != levels)
    return Reachable(torch.where(keep, own, levels), torch.where(keep, x, pixels), count, span < most)


def _on(pixels: Tensor, grid: int) -> Tensor:
    """Whether pixels are multiples of 1/grid, to rounding."""
    return pixels == (pixels * grid).round() / grid


@dataclass(frozen=True)
class EncoderAware:
    r"""Search over reachable spike patterns.

    .. math:: n_i^* = \arg\max_{n \in N_i} \sum_t \frac{\partial L}{\partial s_i[t]}
              \left(s_n[t] - s_{n_i}[t]\right)

    with `N_i` the levels that pixel `i` reaches within the budget. Of these changes the most promising shares
    are tried, by exact evaluation; where none helps, some pixels are drawn anew; at the end single pixels are
    changed one by one. Where all combinations of all levels are few enough they are all tried, and then what
    stands is proved to stand.

    Args:
        threat: `Linf`, or a region of it.
        steps: gradients per restart, at least 1.
        restarts: number of runs, at least 1; the first starts at the clean image and follows the margin, the
            others start at random patterns and follow one other class each.
        refine: changes of single pixels tried at the end of each run, at least 0.
        most: levels per pixel, at least 2.
        exhaust: number of combinations up to which all are tried, at least 0.
        grid: changed pixels are multiples of 1/grid where that gives the same spikes, which images of 8 bits
            then keep; at least 0, with 0 for no grid.

    Raises:
        InputError: another threat, or settings out of range.

    Source:
        Ours.
    """

    threat: Threat
    steps: int = 20
    restarts: int = 3
    refine: int = 20
    most: int = 16
    exhaust: int = 4096
    grid: int = 255
    start: Callable[[Threat, Tensor, Key], Tensor] | None = None

    def __post_init__(self) -> None:
        if not boxed(self.threat):
            raise InputError(
                "EncoderAware searches boxes of pixels",
                repr(self.threat),
                instead(self.threat, "Use linf or a region of it, or another attack."),
            )
        if self.steps < 1 or self.restarts < 1 or self.refine < 0 or self.most < 2 or self.grid < 0:
            raise InputError(
                "EncoderAware needs steps >= 1, restarts >= 1, refine >= 0, most >= 2 and grid >= 0",
                f"steps={self.steps}, restarts={self.restarts}, refine={self.refine}, most={self.most}, "
                f"grid={self.grid}",
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
        """Attack `model`; gradients on the spikes may come from `through`.

        Raises:
            InputError: labels that do not belong to the images, or a model without a code of levels.
        """
        x = admit(model, self.threat, x, y, through)
        gradient_source = _coded(model if through is None else through)
        code = level_code(gradient_source.encoder)
        if code is None:
            raise InputError(
                "EncoderAware needs a deterministic code of levels, such as latency",
                repr(gradient_source.encoder),
                "Use pgd and square for this model.",
            )
        zeros = torch.zeros_like(x)
        low, high = (self.threat.project(x + side, x) for side in (zeros - 2, zeros + 2))
        choices = reachable(code, x, low, high, self.most, self.grid)
        search = _Search(self, model, gradient_source, code, x, y, choices, Best(x))
        few = combinations(choices.levels) <= self.exhaust
        for row in few.nonzero().flatten().tolist():
            here, pixels = slice(row, row + 1), choices.pixels[:, row]
            if not choices.whole[row]:
                every = reachable(code, x[here], low[here], high[here], self.exhaust, self.grid)
                few[row] = every.whole.all() and (combinations(every.levels) <= self.exhaust).all()
                pixels = every.pixels[:, 0]
            if few[row]:
                search.enumerate(row, pixels)
        search.trace(few.nonzero().flatten())
        search.begin = None if self.start is None else self.start(self.threat, x, key.fold("start"))
        for restart in range(self.restarts):
            search.run(restart, (search.best.fooled <= 0) & ~few, key.fold("restart", restart))
            search.pad(1 + (restart + 1) * (1 + self.steps + PASSES))
        best = search.best
        success = judge(model, best.x, y, key.fold("verdict"))
        trace = torch.stack(search.losses) if search.losses else x.new_zeros(0, len(x))
        share = search.zero / search.backward.clamp(min=1)
        return Result(
            best.x, success, trace, search.forward + 1, search.backward, share.to(x.dtype), best.fell
        )


def combinations(levels: Int64[Tensor, "M B *F"]) -> Float[Tensor, "B"]:
    """How many codes each image can have, given the levels of its pixels."""
    ordered = levels.sort(0).values
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    return distinct.flatten(1).double().log2().sum(1).exp2().round()


def _coded(model: object) -> Coded:
    """The model, or what it wraps."""
    inner = getattr(model, "model", model)
    for each in (model, inner):
        if isinstance(each, Coded):
            return each
    raise InputError(
        "EncoderAware looks between code and network of a spikeproof model",
        type(inner).__name__,
        "Use pgd and square for a foreign model.",
    )


class _Search:
    """One batch under attack."""

    def __init__(
        self,
        attack: EncoderAware,
        model: Model,
        gradient_source: Coded,
        code: LevelCode,
        x: Tensor,
        y: Tensor,
        choices: Reachable,
        best: Best,
    ) -> None:
        self.attack, self.model, self.gradient_source, self.code = attack, model, gradient_source, code
        self.x, self.y, self.choices, self.best = x, y, choices, best
        self.forward, self.backward, self.zero = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
        self.losses: list[Tensor] = []
        self.clean: Tensor | None = None  # logits, once a run asks for them
        self.begin: Tensor | None = None  # where a run before the others starts

    def enumerate(self, row: int, pixels: Float[Tensor, "M *F"]) -> None:
        """Ask about every code that one image can have."""
        options = [sorted(set(each.tolist())) for each in pixels.flatten(1).T]
        every = product(*options)
        while chunk := list(islice(every, CHUNK)):
            images = self.x.new_tensor(chunk).view(-1, *self.x.shape[1:])
            value, fooled = self.ask(images, torch.full((len(images),), row, device=self.x.device))
            pick = int((fooled * 1e9 + value.nan_to_num(torch.inf, torch.inf)).argmax())
            here = torch.tensor([row], device=self.x.device)
            self.offer(here, images[pick : pick + 1], fooled[pick : pick + 1], value[pick : pick + 1])

    def offer(self, rows: Tensor, images: Tensor, fooled: Tensor, value: Tensor) -> None:
        """Keep what is best, and note what fell, in the row of the trace that comes next."""
        self.best.offer(rows, images, fooled, value)
        self.best.fall(rows, fooled, len(self.losses))

    def trace(self, rows: Tensor) -> None:
        """A row of the trace: the best value so far."""
        row = self.x.new_full((len(self.x),), torch.nan)
        row[rows] = self.best.value[rows]
        self.losses.append(row)

    def ask(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Margin and verdict of the model itself."""
        with torch.no_grad():
            value, fooled = evaluator(self.model, Margin(), self.y[rows])(images, Key(("deterministic",)))
        self.forward.scatter_add_(0, rows, torch.ones_like(rows))
        return value, fooled

    def pad(self, length: int) -> None:
        """Empty rows of the trace, so that what comes next does not tell how long other examples took."""
        nothing = self.x.new_full((len(self.x),), torch.nan)
        self.losses += [nothing] * (length - len(self.losses))

    def run(self, restart: int, standing: Tensor, key: Key) -> None:
        rows = standing.nonzero().flatten()
        if not len(rows):
            return
        towards = self.towards(restart, rows)
        choice = self.start(restart, key)
        value, fooled = self.ask(self.images(choice[rows], rows), rows)
        self.offer(rows, self.images(choice[rows], rows), fooled, value)
        self.trace(rows)
        values = torch.full_like(self.best.value, -torch.inf)
        values[rows] = value
        for step in range(self.attack.steps):
            rows = rows[self.best.fooled[rows] <= 0]
            if not len(rows):
                return
            gain, index = self.promise(choice[rows], rows, towards).max(0)
            improved = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            found, height = choice[rows].clone(), values[rows].clone()
            ranked = _ranked(gain)
            for share in SHARES:
                trial = torch.where(_largest(gain, ranked, share), index, choice[rows])
                better = self.try_out(trial, rows, height)
                found[better], improved = trial[better], improved | better
            kicked = self.kick(found, rows, key.fold("kick", step).take(rows))
            stay = improved.view(-1, *[1] * (found.ndim - 1))
            choice[rows] = torch.where(stay, found, kicked)
            values[rows] = torch.where(improved, height, -torch.inf)
            self.trace(rows)
        for _ in range(PASSES):
            standing = self.refine(towards, standing)
            if not standing.any():
                return

    def start(self, restart: int, key: Key) -> Int64[Tensor, "B *F"]:
        if restart > (self.begin is not None):
            return _drawn(key.uniform(self.x.shape, 0, self.x.device), self.choices.entries)
        own = self.code.level(self.x if self.begin is None or restart else self.begin)
        return (self.choices.levels == own).long().argmax(0)

    def kick(self, choice: Tensor, rows: Tensor, key: Key) -> Tensor:
        draws = key.uniform((2, *choice.shape), 1, self.x.device)
        drawn = _drawn(draws[0], self.choices.entries[rows])
        return torch.where(draws[1] < max(KICK, 2 / choice[0].numel()), drawn, choice)

    def try_out(self, trial: Tensor, rows: Tensor, height: Tensor) -> Tensor:
        """Ask about a choice; where it is better than `height`, raise that."""
        images = self.images(trial, rows)
        value, fooled = self.ask(images, rows)
        self.offer(rows, images, fooled, value)
        better = value > height
        height[better] = value[better]
        return better

    def images(self, choice: Tensor, rows: Tensor) -> Tensor:
        picked: Tensor = self.choices.pixels[:, rows].gather(0, choice[None])[0]
        return picked

    def towards(self, restart: int, rows: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """What a run follows: the margin, or the lead of one class over the label."""
        if restart == 0:
            return lambda logits, rows: Margin()(logits, self.y[rows])
        if self.clean is None:  # later runs are about fewer rows
            with torch.no_grad():
                logits = self.model(self.x[rows], Key(("deterministic",)))
            self.clean = logits.new_zeros(len(self.x), logits.shape[1])
            self.clean[rows] = logits
            self.forward[rows] += 1
        logits = self.clean.scatter(1, self.y[:, None], -torch.inf)
        rank = (restart - 1) % max(logits.shape[1] - 1, 1)
        other = logits.argsort(dim=1, descending=True, stable=True)[:, rank]

        def lead(now: Tensor, rows: Tensor) -> Tensor:
            pair = torch.stack([other[rows], self.y[rows]], 1)
            ends = now.gather(1, pair)
            return ends[:, 0] - ends[:, 1]

        return lead

    def promise(
        self, choice: Tensor, rows: Tensor, towards: Callable[[Tensor, Tensor], Tensor]
    ) -> Float[Tensor, "M B *F"]:
        """What the gradient on the spikes promises for every level of every pixel."""
        levels = self.choices.levels[:, rows]
        patterns = self.patterns(levels)  # [T, M, B, *F]
        now = patterns.gather(1, choice[None, None].expand(len(patterns), 1, *choice.shape))[:, 0]
        spikes = now.to(self.x.dtype).requires_grad_()
        with torch.enable_grad():
            score = towards(self.gradient_source.read(spikes), rows)
            total = score.sum() + 0 * spikes.sum()  # an answer that does not depend on spikes has no slope
            grad = torch.autograd.grad(total, spikes)[0].nan_to_num(0.0, 0.0, 0.0)
        self.forward[rows] += 1
        self.backward[rows] += 1
        self.zero[rows] += (grad.transpose(0, 1).flatten(1) == 0).all(1).long()
        return torch.einsum("tmb...,tb...->mb...", patterns, grad) - (now * grad).sum(0)

    def patterns(self, levels: Tensor) -> Tensor:
        found = self.code.pattern(levels).to(self.x.dtype)
        return found.flip(0) if isinstance(self.gradient_source.encoder, Reversed) else found

    def refine(
        self, towards: Callable[[Tensor, Tensor], Tensor], standing: Bool[Tensor, "B"]
    ) -> Bool[Tensor, "B"]:
        """Single pixels of the best images so far, the most promising first; which images that helped."""
        improved = torch.zeros_like(standing)
        rows = (standing & (self.best.fooled <= 0)).nonzero().flatten()
        if not len(rows) or not self.attack.refine:
            return improved
        own = self.code.level(self.best.x)
        choice = (self.choices.levels == own).long().argmax(0)[rows]
        promise = self.promise(choice, rows, towards)
        promise = promise.scatter(0, choice[None], -torch.inf).transpose(0, 1).flatten(2)  # [B, M, pixels]
        spare = torch.arange(promise.shape[1], device=rows.device) >= self.choices.entries[rows, None]
        promise = promise.masked_fill(spare[..., None], -torch.inf)
        pixels = promise.shape[2]
        order = promise.flatten(1).argsort(dim=1, descending=True, stable=True)
        height = self.best.value[rows].clone()
        for turn in range(min(self.attack.refine, order.shape[1])):
            going = (self.best.fooled[rows] <= 0).nonzero().flatten()
            if not len(going):
                break
            here, level, pixel = choice[going], order[going, turn] // pixels, order[going, turn] % pixels
            trial = here.flatten(1).scatter(1, pixel[:, None], level[:, None]).view(here.shape)
            reached = height[going]
            better = self.try_out(trial, rows[going], reached)
            height[going] = reached
            improved[rows[going]] |= better
            choice[going] = torch.where(better.view(-1, *[1] * (here.ndim - 1)), trial, here)
        self.trace(rows)
        return improved


def _ranked(gain: Float[Tensor, "B *F"]) -> Int64[Tensor, "B P"]:
    """The place of each pixel when gains are sorted, the largest first."""
    return gain.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _drawn(uniform: Float[Tensor, "B *F"], count: Int64[Tensor, "B"]) -> Int64[Tensor, "B *F"]:
    """Random places in the list of levels of each example."""
    most = count.view(-1, *[1] * (uniform.ndim - 1))
    return torch.minimum((uniform * most).long(), most - 1)


def _largest(gain: Float[Tensor, "B *F"], ranked: Int64[Tensor, "B P"], share: float) -> Tensor:
    """The pixels with the largest positive gains: a share of them, at least one."""
    flat = gain.flatten(1)
    count = (share * (flat > 0).sum(1)).ceil().long().clamp(min=1)
    return ((ranked < count[:, None]) & (flat > 0)).view(gain.shape)


@dataclass(frozen=True, kw_only=True)
class EncoderAwareSearch(Recipe):
    """Encoder-aware attack: a search over the spike patterns that pixels can reach; for codes of levels.

    Args:
        steps: gradients per restart, at least 1.
        restarts: number of runs, at least 1.
        refine: single pixels tried at the end of each run, at least 0.
        grid: changed pixels are multiples of 1/grid where that gives the same spikes; 0 for no grid.
        near: whether, in a suite, the first run begins where members before came nearest; the second one then
            begins at the clean image.

    Source:
        Ours.
    """

    steps: int = 20
    restarts: int = 3
    refine: int = 20
    grid: int = 255
    near: bool = False

    @property
    def goes_on(self) -> bool:  # type: ignore[override]
        return self.near

    def suits(self, model: object) -> bool:
        encoder = getattr(model, "encoder", None)
        return encoder is not None and level_code(encoder) is not None

    def __call__(self, threat: Threat) -> EncoderAware:
        return EncoderAware(threat, self.steps, self.restarts, self.refine, grid=self.grid)

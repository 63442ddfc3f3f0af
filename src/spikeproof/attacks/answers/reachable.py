"""The encoder-aware attack: a search over the spike patterns that pixels can reach, instead of pixel values.

A deterministic encoder of levels maps the interval in which a pixel may lie to a short list of levels, each
with its own pattern of spikes, and the network receives nothing but these patterns. So the attack chooses a
pattern for each pixel. It ranks the patterns by the gradient with respect to the spikes, evaluates the choice
by a forward pass of the model, and refines it pixel by pixel. It returns real pixel values inside the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.updates import TOGETHER, Changed, updates_of
from spikeproof.attacks.parts.objectives import answers_margin
from spikeproof.attacks.recipe import Recipe
from spikeproof.attacks.search import Best, Result, admit, evaluator, instead, judge
from spikeproof.encoders import LevelCode, Reversed
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.protocols import Coded, Encoder, Model, Threat, attack_call
from spikeproof.threats import boxed

__all__ = [
    "DETERMINISTIC",
    "BySpikes",
    "EncoderAware",
    "EncoderAwareSearch",
    "Here",
    "Levels",
    "PatternSearch",
    "Ranking",
    "Reachable",
    "Towards",
    "coded",
    "known_code",
    "level_code",
    "reachable",
]

SHARES = (1.0, 0.4, 0.15, 0.05, 0.02, 0.005)
"""Shares of the promising pixels that are changed at once; each is tried by a forward pass."""
KICK = 0.03
"""Share of the pixels that are drawn anew where no change raises the objective any more."""
PASSES = 3
"""Largest number of rounds over single pixels, which go on while they help."""
CHUNK = 128
"""Largest batch of the forward passes: larger ones leave the processor's cache and take longer per image."""
PIXELS = 1 << 15
"""Pixels of a larger batch, of images so small that it holds more of them."""
WHOLE = 1024
"""Changed images that are made at once, where they are computed whole."""
ENUMERATED = 512
"""Patterns of one image that are compared at once."""
DETERMINISTIC = Key(("deterministic",))
"""The key of all forward passes: no model that is searched here draws."""


def level_code(code: Encoder) -> LevelCode | None:
    """The encoder of levels that this encoder is, or reverses in time; None where there is none.

    There is none where the spikes of a pixel are random or depend on other pixels.

    Example:
        >>> from spikeproof.encoders import Direct, Latency
        >>> level_code(Reversed(Latency(4))), level_code(Direct(4))
        (Latency(steps=4, backward=TimeShift()), None)
    """
    inner = code.code if isinstance(code, Reversed) else code
    return inner if isinstance(inner, LevelCode) and inner.local and not inner.stochastic else None


def known_code(model: object) -> LevelCode | None:
    """The code of levels of a model whose encoder is known; None where there is none."""
    encoder = getattr(model, "encoder", None)
    return None if encoder is None else level_code(encoder)


class Reachable(NamedTuple):
    """The levels that each pixel can reach, with pixel values that give them; duplicates are included."""

    levels: Int64[Tensor, "M B *F"]
    pixels: Float[Tensor, "M B *F"]
    entries: Int64[Tensor, "B"]  # number of entries of each example; later ones repeat the last
    whole: Bool[Tensor, "B"]  # whether the entries of an example hold every reachable level


class Levels(Protocol):
    """What maps pixel values to levels, each with a value that stands for it."""

    def level(self, x: Float[Tensor, "*F"]) -> Int64[Tensor, "*F"]:
        """The level of every value."""

    def value(self, level: Int64[Tensor, "*F"]) -> Float[Tensor, "*F"]:
        """A value of every level."""


def reachable(
    code: Levels,
    x: Float[Tensor, "B *F"],
    low: Float[Tensor, "B *F"],
    high: Float[Tensor, "B *F"],
    most: int,
    grid: int = 0,
) -> Reachable:
    """The levels that pixels can reach within [low, high], at most `most` for each pixel.

    The lowest and the highest level are always among them, and if there are three or more, so is the level of
    the clean image, so that a search can start there. The level of the clean image keeps the clean pixel
    value. Every other level has the pixel value in [low, high] nearest to the value that the level stands
    for, moved to a neighbouring multiple of 1/grid if that gives the same level.

    Example:
        >>> from spikeproof.encoders import Latency
        >>> found = reachable(Latency(4), *torch.tensor([[[0.3]], [[0.2]], [[0.6]]]), most=9)
        >>> found.levels.flatten().tolist(), found.pixels.flatten().tolist()
        ([1, 2, 3], [0.25, 0.30..., 0.60...])

    A value at the edge of a level, such as 0.25 here, may leave the level when an image is stored in 8 bits:

        >>> found = reachable(Latency(4), *torch.tensor([[[0.3]], [[0.2]], [[0.6]]]), most=9, grid=255)
        >>> round(found.pixels.flatten()[0].item() * 255, 3)
        63.0
    """
    first, last, own = code.level(low), code.level(high), code.level(x)
    if not x.numel():
        nothing = torch.ones(len(x), dtype=torch.int64, device=x.device)
        return Reachable(own[None], x[None], nothing, nothing > 0)
    span = (last - first).flatten(1).amax(1)
    count = (span + 1).clamp(max=most)  # for each example by itself, so that the batch does not matter
    index = torch.arange(int(count.max()), device=x.device)[:, None]
    share = (index / (count - 1).clamp(min=1)).clamp(max=1).view(*index.shape[:1], -1, *[1] * (x.ndim - 1))
    levels = first + (share * (last - first)).round().long()
    if len(levels) > 2:  # the level of the clean image replaces its neighbour if it was left out
        beside = (levels[1:-1] - own).abs().argmin(0) + 1
        lacking = ~(levels == own).any(0)
        levels = torch.where(lacking, levels.scatter(0, beside[None], own[None]), levels)
    pixels = torch.maximum(torch.minimum(code.value(levels).to(x.dtype), high), low)
    if grid:
        inside = code.level(pixels.flatten(0, 1)).view(levels.shape) == levels
        for steps in ((pixels * grid).round(), (pixels * grid).floor(), (pixels * grid).ceil()):
            near = steps / grid
            same = code.level(near.flatten(0, 1)).view(levels.shape) == levels
            # once a value lies on the grid, later candidates do not change it
            fits = inside & same & (near >= low) & (near <= high) & ~_on(pixels, grid)
            pixels = torch.where(fits, near, pixels)
    keep = (levels == own) | (code.level(pixels.flatten(0, 1)).view(levels.shape) != levels)
    return Reachable(torch.where(keep, own, levels), torch.where(keep, x, pixels), count, span < most)


def _on(pixels: Tensor, grid: int) -> Tensor:
    """Whether pixel values are multiples of 1/grid, up to rounding."""
    return pixels == (pixels * grid).round() / grid


@dataclass(frozen=True)
class EncoderAware:
    r"""Search over reachable spike patterns.

    .. math:: n_i^* = \arg\max_{n \in N_i} \sum_t \frac{\partial L}{\partial s_i[t]}
              \left(s_n[t] - s_{n_i}[t]\right)

    with :math:`N_i` the levels that pixel `i` reaches within the budget. Shares of the most promising changes
    are tried by forward passes; where none raises the objective, some pixels are drawn anew; at the end of a
    run single pixels are changed one by one. Where there are few enough combinations of levels, all of them
    are tried, and an example that no combination fools is proved robust within this budget.

    Args:
        threat: `Linf`, or a region of it.
        steps: gradients per restart, at least 1.
        restarts: number of runs, at least 1. The first starts at the clean image and maximises the margin;
            each other run starts at random patterns and maximises the lead of one other class over the label.
            Once every class has had its run, the runs of the next round start at the best patterns so far;
            rounds of both kinds take turns.
        refine: changes of single pixels tried at the end of each run, at least 0.
        most: largest number of levels per pixel, at least 2.
        exhaust: largest number of combinations of which all are tried, at least 0.
        grid: changed pixels are multiples of 1/grid where that gives the same spikes, so that images stored
            in 8 bits keep them; at least 0, and 0 means no grid.
        start: the function that gives the start of the first run, in place of the clean image.

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
        check_boxed("EncoderAware", self.threat)
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
        """Attack `model`; gradients with respect to the spikes may come from `through`.

        Raises:
            InputError: labels that do not fit the images, or a model without an encoder of levels.
        """
        x = admit(model, self.threat, x, y, through)
        gradient_source = coded(model if through is None else through)
        code = level_code(gradient_source.encoder)
        if code is None:
            raise InputError(
                "EncoderAware needs a deterministic encoder of levels, such as latency",
                repr(gradient_source.encoder),
                "Use pgd and square for this model.",
            )
        low, high = ends(self.threat, x)
        choices = reachable(code, x, low, high, self.most, self.grid)
        search = PatternSearch(self, model, code, x, y, choices, BySpikes(code, gradient_source))
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
        return search.result(key.fold("verdict"))


def check_boxed(name: str, threat: Threat) -> None:
    """Refuse a threat that does not leave an interval to every pixel.

    Raises:
        InputError: the threat is another one.
    """
    if not boxed(threat):
        raise InputError(
            f"{name} needs a threat that leaves an interval to every pixel",
            repr(threat),
            instead(threat, "Use linf or a region of it, or another attack."),
        )


def ends(threat: Threat, x: Float[Tensor, "B *F"]) -> tuple[Tensor, Tensor]:
    """The lowest and the highest value of every pixel within a threat that leaves intervals."""
    zeros = torch.zeros_like(x)
    return threat.project(x + (zeros - 2), x), threat.project(x + (zeros + 2), x)


def combinations(levels: Int64[Tensor, "M B *F"]) -> Float[Tensor, "B"]:
    """The number of spike patterns that each image can have, given the levels of its pixels."""
    ordered = levels.sort(0).values
    distinct = 1 + (ordered[1:] != ordered[:-1]).sum(0)
    return distinct.flatten(1).double().log2().sum(1).exp2().round()


def coded(model: object) -> Coded:
    """The model, or the model inside a wrapper, as one whose encoder and network are separate."""
    inner = getattr(model, "model", model)
    for each in (model, inner):
        if isinstance(each, Coded):
            return each
    raise InputError(
        "EncoderAware needs a spikeproof model, whose encoder and network it takes apart",
        type(inner).__name__,
        "Use pgd and square for a foreign model.",
    )


Towards = Callable[[Tensor, Tensor], Tensor]
"""What a run maximises: logits and the numbers of their examples -> objective `[B]`."""


class Ranking(Protocol):
    """How a search ranks the levels that pixels can reach."""

    def __call__(self, search: PatternSearch, here: Here, towards: Towards) -> Float[Tensor, "M B *F"]:
        """The rise of the objective that every level of every pixel promises, with its cost counted.

        Args:
            search: the search, with the reachable levels and the counts.
            here: the levels that the pixels have now.
            towards: the objective.
        """


class Here:
    """The levels that the pixels of some examples have now, and what changes of single pixels lead to.

    Args:
        search: the search.
        choice: the levels, as indices into the reachable levels.
        rows: the numbers of the examples.
    """

    def __init__(
        self, search: PatternSearch, choice: Int64[Tensor, "B *F"], rows: Int64[Tensor, "B"]
    ) -> None:
        self.search, self.choice, self.rows = search, choice.contiguous(), rows

    @cached_property
    def images(self) -> Float[Tensor, "B *F"]:
        return self.search.images(self.choice, self.rows).contiguous()

    @cached_property
    def currents(self) -> Float[Tensor, "T B H"]:
        """The currents of the first layer, where it is known."""
        return self._currents(torch.arange(len(self.rows), device=self.rows.device))

    def _currents(self, which: Int64[Tensor, "W"]) -> Float[Tensor, "T W H"]:
        assert self.search.updates is not None
        levels = self.search.choices.levels[:, self.rows[which]].gather(0, self.choice[which][None])[0]
        with torch.no_grad():
            return self.search.updates.currents(levels)

    def keep(self, which: Int64[Tensor, "W"], pixel: Int64[Tensor, "W"], entry: Int64[Tensor, "W"]) -> None:
        """Change one pixel of some examples for good."""
        if not len(which):
            return
        values = self.search.choices.pixels.flatten(2)[entry, self.rows[which], pixel]
        self.images.flatten(1)[which, pixel] = values
        self.choice.flatten(1)[which, pixel] = entry
        if self.search.updates is not None:
            self.currents[:, which] = self._currents(which)

    def evaluate(
        self,
        example: Int64[Tensor, "N"],
        image: Int64[Tensor, "C"],
        pixel: Int64[Tensor, "C"],
        entry: Int64[Tensor, "C"],
    ) -> tuple[Float[Tensor, "N"], Float[Tensor, "N"]]:
        """The margins of changed images, and whether they fool the model.

        Where the first layer is known, only its changes are computed. An image that seems to fool the model
        is then shown to the model itself, whose answer counts.

        Args:
            example: for each image, the example that it is a change of, as a position in the batch.
            image: for each change, the number of its image, in ascending order.
            pixel: for each change, the pixel.
            entry: for each change, the new level, as an index into the reachable levels.
        """
        search, rows = self.search, self.rows[example]
        if search.updates is None:
            whole = [
                search.evaluate(self.changed(example, image, pixel, entry, few), rows[few])
                for few in torch.split(torch.arange(len(example), device=example.device), WHOLE)
            ]
            value, fooled = (torch.cat(each) for each in zip(*whole, strict=True))
            return value, fooled
        levels = search.choices.levels.flatten(2)
        before, now = self.choice.flatten(1)[example[image], pixel], rows[image]
        changed = Changed(image, pixel, levels[before, now, pixel], levels[entry, now, pixel])
        found = []
        for start in range(0, len(example), TOGETHER):
            some = example[start : start + TOGETHER]
            ends = torch.searchsorted(image, torch.tensor([start, start + len(some)], device=image.device))
            part = slice(*ends.tolist())
            there = Changed(changed.image[part] - start, *(each[part] for each in changed[1:]))
            with torch.no_grad():
                y = search.y[self.rows[some]]
                found.append(search.updates.answers(self.currents, some, there, search.margin, y))
        value, fooled = (torch.cat(each).to(search.x.dtype) for each in zip(*found, strict=True))
        search.forward.scatter_add_(0, rows, torch.ones_like(rows))
        hits = (fooled > 0).nonzero().flatten()
        if len(hits):
            sure = search.evaluate(self.changed(example, image, pixel, entry, hits), rows[hits])
            value[hits], fooled[hits] = sure
        return value, fooled

    def changed(
        self, example: Tensor, image: Tensor, pixel: Tensor, entry: Tensor, which: Int64[Tensor, "W"]
    ) -> Float[Tensor, "W *F"]:
        """Some of the changed images."""
        flat = self.images.flatten(1)[example[which]]
        place = torch.full_like(example, -1).scatter(0, which, torch.arange(len(which), device=which.device))
        mine = place[image] >= 0
        at, pixel = place[image[mine]], pixel[mine]
        values = self.search.choices.pixels.flatten(2)
        flat[at, pixel] = values[entry[mine], self.rows[example[image[mine]]], pixel]
        return flat.view(-1, *self.images.shape[1:])


class PatternSearch:
    """The search on one batch, with its counts and its trace."""

    def __init__(
        self,
        attack: EncoderAware,
        model: Model,
        code: Levels,
        x: Tensor,
        y: Tensor,
        choices: Reachable,
        ranking: Ranking,
    ) -> None:
        self.attack, self.model, self.code, self.ranking = attack, model, code, ranking
        self.margin = answers_margin(model)
        self.updates = None
        if isinstance(code, LevelCode) and (own := known_code(model)) is not None and len(x):
            # gradients may come from a twin with another backward rule, but not from one with other spikes
            same = replace(own, backward=code.backward) == code
            self.updates = updates_of(model, own, x) if same else None
        self.x, self.y, self.choices, self.best = x, y, choices, Best(x)
        self.forward, self.backward, self.zero = torch.zeros(3, len(x), dtype=torch.int64, device=x.device)
        self.losses: list[Tensor] = []
        self.clean: Tensor | None = None  # logits of the clean images, once a run needs them
        self.begin: Tensor | None = None  # start of the first run, in place of the clean images

    def enumerate(self, row: int, pixels: Float[Tensor, "M *F"]) -> None:
        """Try every spike pattern that one image can have."""
        options = [sorted(set(each.tolist())) for each in pixels.flatten(1).T]
        every = product(*options)
        while chunk := list(islice(every, ENUMERATED)):
            images = self.x.new_tensor(chunk).view(-1, *self.x.shape[1:])
            value, fooled = self.evaluate(images, torch.full((len(images),), row, device=self.x.device))
            pick = int((fooled * 1e9 + value.nan_to_num(torch.inf, torch.inf)).argmax())
            here = torch.tensor([row], device=self.x.device)
            self.offer(here, images[pick : pick + 1], fooled[pick : pick + 1], value[pick : pick + 1])

    def offer(self, rows: Tensor, images: Tensor, fooled: Tensor, value: Tensor) -> None:
        """Keep the best images, and record which examples fell, under the next row of the trace."""
        self.best.offer(rows, images, fooled, value)
        self.best.fall(rows, fooled, len(self.losses))

    def trace(self, rows: Tensor) -> None:
        """Add a row to the trace: the best objective so far."""
        row = self.x.new_full((len(self.x),), torch.nan)
        row[rows] = self.best.value[rows]
        self.losses.append(row)

    def evaluate(self, images: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The margin, and whether the image fools the model, by a forward pass of the attacked model."""
        size = max(CHUNK, PIXELS // max(images[:1].numel(), 1))
        parts = zip(torch.split(images, size), torch.split(rows, size), strict=True)
        with torch.no_grad():
            found = [
                evaluator(self.model, self.margin, self.y[few])(part, DETERMINISTIC) for part, few in parts
            ]
        value, fooled = (torch.cat(each) for each in zip(*found, strict=True))
        self.forward.scatter_add_(0, rows, torch.ones_like(rows))
        return value, fooled

    def pad(self, length: int) -> None:
        """Fill the trace with empty rows, so that later row numbers do not depend on other examples."""
        nothing = self.x.new_full((len(self.x),), torch.nan)
        self.losses += [nothing] * (length - len(self.losses))

    def run(self, restart: int, unbroken: Tensor, key: Key) -> None:
        rows = unbroken.nonzero().flatten()
        if not len(rows):
            return
        towards = self.towards(restart, rows)
        choice = self.start(restart, key)
        value, fooled = self.evaluate(self.images(choice[rows], rows), rows)
        self.offer(rows, self.images(choice[rows], rows), fooled, value)
        self.trace(rows)
        values = torch.full_like(self.best.value, -torch.inf)
        values[rows] = value
        for step in range(self.attack.steps):
            rows = rows[self.best.fooled[rows] <= 0]
            if not len(rows):
                return
            here = Here(self, choice[rows], rows)
            gain, index = self.ranking(self, here, towards).max(0)
            improved = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
            found, height = choice[rows].clone(), values[rows].clone()
            ranked = _ranked(gain)
            picks = [torch.where(_largest(gain, ranked, share), index, choice[rows]) for share in SHARES]
            for trial, better in zip(picks, self.try_out(picks, here, height), strict=True):
                found[better], improved = trial[better], improved | better
            kicked = self.kick(found, rows, key.fold("kick", step).take(rows))
            stay = improved.view(-1, *[1] * (found.ndim - 1))
            choice[rows] = torch.where(stay, found, kicked)
            values[rows] = torch.where(improved, height, -torch.inf)
            self.trace(rows)
        for _ in range(PASSES):
            unbroken = self.refine(towards, unbroken)
            if not unbroken.any():
                return

    def start(self, restart: int, key: Key) -> Int64[Tensor, "B *F"]:
        """Patterns with which a run begins: given ones, clean ones, random ones, or the best so far."""
        if restart > (self.begin is not None) and not self.again(restart):
            return _drawn(key.uniform(self.x.shape, 0, self.x.device), self.choices.entries)
        images = self.x if self.begin is None or restart else self.begin
        own = self.code.level(self.best.x if self.again(restart) else images)
        return (self.choices.levels == own).long().argmax(0)

    def again(self, restart: int) -> bool:
        """Whether a run maximises the lead of a class that an odd number of earlier runs has maximised."""
        if restart == 0 or self.clean is None:
            return False
        return bool((restart - 1) // max(self.clean.shape[1] - 1, 1) % 2)

    def kick(self, choice: Tensor, rows: Tensor, key: Key) -> Tensor:
        draws = key.uniform((2, *choice.shape), 1, self.x.device)
        drawn = _drawn(draws[0], self.choices.entries[rows])
        return torch.where(draws[1] < max(KICK, 2 / choice[0].numel()), drawn, choice)

    def try_out(self, trials: Sequence[Tensor], here: Here, height: Tensor) -> list[Tensor]:
        """Evaluate choices together, and offer one after the other.

        Where the margin of a choice exceeds `height`, raises `height` to it. Returns where, for each choice.
        """
        rows, count = here.rows, len(here.rows)
        images = [self.images(trial, rows) for trial in trials]
        if self.updates is None:
            value, fooled = self.evaluate(torch.cat(images), rows.repeat(len(trials)))
        else:
            entries = torch.stack(list(trials)).flatten(0, 1).flatten(1)  # [trials x B, pixels]
            example = torch.arange(count, device=rows.device).repeat(len(trials))
            image, pixel = (entries != here.choice.flatten(1)[example]).nonzero(as_tuple=True)
            value, fooled = here.evaluate(example, image, pixel, entries[image, pixel])
        improved, parts = [], (torch.split(each, count) for each in (value, fooled))
        for each, now, wrong in zip(images, *parts, strict=True):
            self.offer(rows, each, wrong, now)
            better = now > height
            height[better] = now[better]
            improved.append(better)
        return improved

    def images(self, choice: Tensor, rows: Tensor) -> Tensor:
        picked: Tensor = self.choices.pixels[:, rows].gather(0, choice[None])[0]
        return picked

    def towards(self, restart: int, rows: Tensor) -> Towards:
        """What a run maximises: the margin, or the logit of one class minus the logit of the label."""
        if restart == 0:
            return lambda logits, rows: Margin()(logits, self.y[rows])
        if self.clean is None:  # later runs attack fewer rows
            with torch.no_grad():
                logits = self.model(self.x[rows], DETERMINISTIC)
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

    def result(self, verdict: Key) -> Result:
        """What the search found, judged by the model under a key that it has not used."""
        success = judge(self.model, self.best.x, self.y, verdict)
        trace = torch.stack(self.losses) if self.losses else self.x.new_zeros(0, len(self.x))
        share = (self.zero / self.backward.clamp(min=1)).to(self.x.dtype)
        return Result(self.best.x, success, trace, self.forward + 1, self.backward, share, self.best.fell)

    def refine(self, towards: Towards, unbroken: Bool[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """Change single pixels of the best images, the most promising first; returns which improved."""
        improved = torch.zeros_like(unbroken)
        rows = (unbroken & (self.best.fooled <= 0)).nonzero().flatten()
        if not len(rows) or not self.attack.refine:
            return improved
        own = self.code.level(self.best.x)
        here = Here(self, (self.choices.levels == own).long().argmax(0)[rows], rows)
        promise = self.ranking(self, here, towards)
        promise = promise.scatter(0, here.choice[None], -torch.inf)
        promise = promise.transpose(0, 1).flatten(2)  # [B, M, pixels]
        spare = torch.arange(promise.shape[1], device=rows.device) >= self.choices.entries[rows, None]
        promise = promise.masked_fill(spare[..., None], -torch.inf)
        pixels = promise.shape[2]
        order = promise.flatten(1).argsort(dim=1, descending=True, stable=True)
        height = self.best.value[rows].clone()
        for turn in range(min(self.attack.refine, order.shape[1])):
            going = (self.best.fooled[rows] <= 0).nonzero().flatten()
            if not len(going):
                break
            level, pixel = order[going, turn] // pixels, order[going, turn] % pixels
            every = torch.arange(len(going), device=rows.device)
            value, fooled = here.evaluate(going, every, pixel, level)
            self.offer(rows[going], here.changed(going, every, pixel, level, every), fooled, value)
            better = value > height[going]
            kept = going[better]
            height[kept], improved[rows[kept]] = value[better], True
            here.keep(kept, pixel[better], level[better])
        self.trace(rows)
        return improved


@dataclass(frozen=True)
class BySpikes:
    """Levels ranked by the gradient with respect to the spikes, where the code is known.

    Args:
        code: the code of the attacked model.
        gradient_source: the model whose gradients are followed.
    """

    code: LevelCode
    gradient_source: Coded

    def __call__(self, search: PatternSearch, here: Here, towards: Towards) -> Float[Tensor, "M B *F"]:
        """The rise of the objective for every level of every pixel, to first order in the spikes."""
        rows = here.rows
        patterns = self.patterns(search.choices.levels[:, rows], search.x.dtype)  # [T, M, B, *F]
        now = patterns.gather(1, here.choice[None, None].expand(len(patterns), 1, *here.choice.shape))[:, 0]
        spikes = now.clone().requires_grad_()
        with torch.enable_grad():
            score = towards(self.gradient_source.read(spikes), rows)
            total = score.sum() + 0 * spikes.sum()  # a model that ignores the spikes has gradient zero
            grad = torch.autograd.grad(total, spikes)[0].nan_to_num(0.0, 0.0, 0.0)
        search.forward[rows] += 1
        search.backward[rows] += 1
        search.zero[rows] += (grad.transpose(0, 1).flatten(1) == 0).all(1).long()
        return torch.einsum("tmb...,tb...->mb...", patterns, grad) - (now * grad).sum(0)

    def patterns(self, levels: Tensor, dtype: torch.dtype) -> Tensor:
        found = self.code.pattern(levels).to(dtype)
        return found.flip(0) if isinstance(self.gradient_source.encoder, Reversed) else found


def _ranked(gain: Float[Tensor, "B *F"]) -> Int64[Tensor, "B P"]:
    """The rank of each pixel by its gain, 0 for the largest."""
    return gain.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _drawn(uniform: Float[Tensor, "B *F"], count: Int64[Tensor, "B"]) -> Int64[Tensor, "B *F"]:
    """Random indices into the list of levels of each example."""
    most = count.view(-1, *[1] * (uniform.ndim - 1))
    return torch.minimum((uniform * most).long(), most - 1)


def _largest(gain: Float[Tensor, "B *F"], ranked: Int64[Tensor, "B P"], share: float) -> Tensor:
    """A mask of the pixels with the largest positive gains: a share of them, at least one."""
    flat = gain.flatten(1)
    count = (share * (flat > 0).sum(1)).ceil().long().clamp(min=1)
    return ((ranked < count[:, None]) & (flat > 0)).view(gain.shape)


@dataclass(frozen=True, kw_only=True)
class EncoderAwareSearch(Recipe):
    """Encoder-aware attack: a search over the spike patterns that pixels can reach; for encoders of levels.

    Args:
        steps: gradients per restart, at least 1.
        restarts: number of runs, at least 1: the first on the margin, each other run towards one class, in
            rounds that start at random patterns and at the best patterns so far in turn.
        refine: single pixels tried at the end of each run, at least 0.
        grid: changed pixels are multiples of 1/grid where that gives the same spikes; 0 means no grid.
        near: whether, in a suite, the first run begins at the best images of earlier members; the second run
            then begins at the clean image.

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
        return known_code(model) is not None

    def __call__(self, threat: Threat) -> EncoderAware:
        return EncoderAware(threat, self.steps, self.restarts, self.refine, grid=self.grid)

"""Minimum-norm attacks: the nearest image that fools the model, and its distance.

A search evaluates the model through its `SearchState`, which keeps the nearest adversarial image of each
example, the counts of passes and the trace. Within a threat a search is an attack like any other: an example
has fallen when an adversarial image was found within epsilon. Gradients may come from a substitute of the
model; whether an image fools the model is decided by the attacked model itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.oracles import slope
from spikeproof.attacks.recipe import GradientRecipe, Recipe
from spikeproof.attacks.search import Result, admit, evaluator, instead, judge, twins
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.gradients import Recollection
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin, finite
from spikeproof.protocols import Model, Threat, attack_call, moves_events
from spikeproof.threats import L0, L1, Linf

__all__ = [
    "DualNorm",
    "Face",
    "Minimum",
    "MinimumNorm",
    "NormRecipe",
    "SearchState",
    "SlopeRecipe",
    "dot",
    "per_row",
]

Name = int | str


class Minimum(NamedTuple):
    """The nearest adversarial image that a search found for each example, and the evidence about it."""

    x_adv: Float[
        Tensor, "B *F"
    ]  # the nearest adversarial image, or the image of the largest margin where none was found
    distance: Float[Tensor, "B"]  # in the norm of the threat, infinite where none was found
    losses: Float[Tensor, "S B"]  # margin, or minus the distance where decisions alone are used; else NaN
    queries: Int64[Tensor, "B"]
    backward_queries: Int64[Tensor, "B"]
    zero_gradients: Float[Tensor, "B"]
    path: Float[Tensor, "S B"]  # distance of the nearest adversarial image so far, for each row of `losses`
    evaluated: Bool[Tensor, "S B"]  # the examples that a row of `losses` evaluates

    @property
    def found(self) -> Bool[Tensor, "B"]:
        """Whether an adversarial image was found, at any distance."""
        return self.distance.isfinite()

    def fell(self, epsilon: float) -> Int64[Tensor, "B"]:
        """Evaluations of an example before an adversarial image within epsilon was found, -1 for none.

        Evaluations of other examples do not count, so the number does not depend on the batch.
        """
        within = self.path <= epsilon
        if not len(within):
            return torch.full_like(self.queries, -1)
        first = within.long().argmax(0, keepdim=True)
        return torch.where(within.any(0), self.evaluated.cumsum(0).gather(0, first)[0] - 1, -1)


def _counted(threat: Threat) -> bool:
    """Whether distances are numbers of changes, so that the way to the clean image cannot be bisected."""
    return isinstance(threat, L0) or moves_events(threat)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per example, in a shape that broadcasts over images."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each example of one batch with the same example of the other."""
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True)
class DualNorm:
    """The dual norm: the largest change of a linear function within a unit ball of another norm.

    Args:
        of: the threat with that other norm, `Linf`, `L2` or `L1`.
    """

    of: type[Threat]

    def __call__(self, w: Float[Tensor, "R *F"]) -> Float[Tensor, "R"]:
        flat = w.flatten(1)
        if self.of is Linf:
            return flat.abs().sum(1)
        top = flat.abs().amax(1)
        if self.of is L1:
            return top
        safe = top.clamp(min=torch.finfo(w.dtype).tiny)  # squares of small slopes would underflow
        length: Tensor = torch.linalg.vector_norm(flat / safe[:, None], dim=1)
        return length * top


class Face(NamedTuple):
    """The nearest decision boundary of the linearised model, `gap + w (z - x) = 0`."""

    gap: Float[Tensor, "R"]  # logit of the other class minus the logit of the label
    w: Float[Tensor, "R *F"]  # its gradient
    fooled: Bool[Tensor, "R"]


@dataclass
class SearchState:
    """The state of a search on one batch: nearest adversarial images, counts of passes, and the trace.

    A deterministic model has one forward pass per image, a stochastic model `draws` of them. Margins are then
    means over the draws, gradients are those of the mean logits, and an image fools the model if it does so
    in more than half of the draws.

    Args:
        model: the attacked model.
        gradient_source: the model that gives the gradients.
        threat: the norm, and the epsilon that the search is to reach.
        x: clean images.
        y: labels.
        key: randomness of the search.
        stop: whether the search stops on an example once an adversarial image within epsilon was found.
        draws: forward passes per image on a stochastic model.
    """

    model: Model
    gradient_source: Model
    threat: Threat
    x: Tensor
    y: Tensor
    key: Key
    stop: bool
    draws: int
    near: Tensor = field(init=False)
    distance: Tensor = field(init=False)
    losses: list[Tensor] = field(init=False, default_factory=list)
    path: list[Tensor] = field(init=False, default_factory=list)
    evaluated: list[Tensor] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self.recollection = Recollection(len(self.x))
        n, device = len(self.x), self.x.device
        self.near, self.height = self.x.clone(), self.x.new_full((n,), -torch.inf)
        self.clean = self.height.clone()  # margins of the clean images
        self.distance = torch.full((n,), torch.inf, dtype=torch.float64, device=device)
        self.counts = torch.zeros(3, n, dtype=torch.int64, device=device)  # forward, backward, zero
        self.stochastic = bool(getattr(self.model, "stochastic", False))
        self.forward_passes = self.draws if self.stochastic else 1
        self.alike = twins(self.model, self.gradient_source)

    @property
    def unit(self) -> Tensor:
        """The unit of margins: minus the margin of the clean image, or 1 where that is not positive.

        Sums of a margin and a distance then do not depend on the scale of the logits.
        """
        own = -self.clean
        return torch.where(own.isfinite() & (own > 0), own, torch.ones_like(own))

    @property
    def rows(self) -> Tensor:
        """The rows of the examples that the search still works on."""
        enough = self.distance == 0
        if self.stop and not self.stochastic:
            enough |= self.distance <= self.threat.epsilon
        return (~enough).nonzero().flatten()

    def boxed(self, images: Tensor) -> Tensor:
        """Images clipped to the box [0, 1]; events, which lie on their grid, are returned unchanged."""
        return images.detach() if moves_events(self.threat) else images.detach().clamp(0, 1)

    def left(self, rows: Tensor) -> Tensor:
        """A mask of the examples among these rows that the search still works on."""
        return torch.isin(rows, self.rows)

    def offer(self, rows: Tensor, images: Tensor, *names: Name, decision: bool = False) -> Bool[Tensor, "R"]:
        """Evaluate images, keep the nearest adversarial ones, and return whether each image fools the model.

        Args:
            rows: the examples of the images.
            images: one image per row; values outside the box are clipped.
            names: names of this evaluation, from which its randomness follows.
            decision: whether the search may use decisions alone; the trace then holds distances.
        """
        images = self.boxed(images)
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=self.x.device)
        with torch.no_grad():
            value, fooled = self._answer(self.model, rows, images, names)
        self.counts[0, rows] += self.forward_passes
        if decision:
            self.keep(rows, images, fooled, None)
            value = -self.distance[rows].to(value.dtype)
            self.note(rows, torch.where(value.isinf(), torch.nan, value))
        else:
            self.keep(rows, images, fooled, value)
            self.note(rows, value)
        return fooled

    def fools(self, rows: Tensor, images: Tensor, *names: Name) -> Bool[Tensor, "Q"]:
        """Whether images fool the model; rows may repeat, and nothing is kept or traced."""
        return self.trial(rows, images, *names)[1]

    def trial(self, rows: Tensor, images: Tensor, *names: Name) -> tuple[Tensor, Bool[Tensor, "Q"]]:
        """Margins, and whether images fool the model; rows may repeat, and nothing is kept or traced."""
        with torch.no_grad():
            value, fooled = self._answer(self.model, rows, self.boxed(images), names)
        self.counts[0].index_add_(0, rows, torch.full_like(rows, self.forward_passes))
        return value, fooled

    def _answer(
        self, model: Model, rows: Tensor, images: Tensor, names: tuple[Name, ...]
    ) -> tuple[Tensor, Tensor]:
        now, evaluate = self.key.fold("look", *names).take(rows), evaluator(model, Margin(), self.y[rows])
        answers = [
            evaluate(images, now.fold("draw", i) if self.stochastic else now)
            for i in range(self.forward_passes)
        ]
        value, share = (sum(part[1:], part[0]) / len(answers) for part in zip(*answers, strict=True))
        return value, share > 0.5

    def note(self, rows: Tensor, value: Tensor) -> None:
        """Add a row to the trace, after the images of this evaluation were kept."""
        trace = self.x.new_full((len(self.x),), torch.nan)
        trace[rows] = value.detach().to(trace.dtype)
        self.losses.append(trace)
        self.path.append(self.distance.clone())
        self.evaluated.append(torch.zeros_like(self.distance, dtype=torch.bool).index_fill(0, rows, True))

    def keep(self, rows: Tensor, images: Tensor, fooled: Tensor, value: Tensor | None) -> None:
        """Keep nearer adversarial images; for examples without one, the image of the largest margin."""
        far = self.threat.distance(images, self.x[rows]).double()
        nearer = fooled & (far < self.distance[rows])
        taken = rows[nearer]
        self.near[taken], self.distance[taken] = images[nearer], far[nearer]
        if value is not None:
            higher = ~fooled & self.distance[rows].isinf() & (value > self.height[rows])
            self.near[rows[higher]], self.height[rows[higher]] = images[higher], value[higher]

    def slope(
        self, rows: Tensor, images: Tensor, function: Callable[[Tensor, Tensor], Tensor], *names: Name
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A function of the logits, its gradient, and whether the model was fooled.

        Args:
            rows: the examples of the images.
            images: one image per row, in the box.
            function: `(logits [R, K], labels [R]) -> [R]`.
            names: names of this evaluation, from which its randomness follows.
        """
        logits, leaf = self._open(rows, images, names)
        value = function(logits, self.y[rows])
        grad = self._back(rows, value, leaf, last=True)
        fooled = self._close(rows, leaf, logits, names)
        return value.detach().to(leaf.dtype), grad, fooled

    def slopes(
        self, rows: Tensor, images: Tensor, classes: Int64[Tensor, "R N"], *names: Name
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, the gradient of one logit per column of classes, and whether the model was fooled."""
        logits, leaf = self._open(rows, images, names)
        count = classes.shape[1]
        chosen = logits.gather(1, classes)
        grads = [self._back(rows, chosen[:, i], leaf, last=i == count - 1) for i in range(count)]
        return logits.detach(), grads, self._close(rows, leaf, logits, names)

    def face(
        self,
        rows: Tensor,
        images: Tensor,
        others: Int64[Tensor, "R N"],
        dual: Callable[[Tensor], Tensor],
        *names: Name,
    ) -> Face:
        """The nearest boundary of the linearised model between the label and one of the other classes.

        Args:
            rows: the examples of the images.
            images: one image per row, in the box.
            others: the classes to consider, without the label.
            dual: the dual norm, which divides a difference of logits to give the distance.
            names: names of this evaluation, from which its randomness follows.
        """
        logits, leaf = self._open(rows, images, names)
        gaps = logits.gather(1, others) - logits.gather(1, self.y[rows][:, None])
        best, gap, w = None, gaps[:, 0].detach(), torch.zeros_like(leaf)
        for i in range(others.shape[1]):
            grad = self._back(rows, gaps[:, i], leaf, last=i == others.shape[1] - 1)
            height, steep = gaps[:, i].detach(), dual(grad)
            far = torch.where(steep > 0, height.abs() / steep, torch.inf).nan_to_num(torch.inf)
            better = far < (torch.inf if best is None else best)
            gap, w = torch.where(better, height, gap), torch.where(per_row(better, w) > 0, grad, w)
            best = far if best is None else torch.where(better, far, best)
        return Face(gap.to(w.dtype), w, self._close(rows, leaf, logits, names))

    def _open(self, rows: Tensor, images: Tensor, names: tuple[Name, ...]) -> tuple[Tensor, Tensor]:
        now = self.key.fold("look", *names).take(rows)
        leaf = self.boxed(images).requires_grad_()
        with torch.enable_grad(), self.recollection.serving(rows):
            answers = [
                self.gradient_source(leaf, now.fold("draw", i) if self.stochastic else now)
                for i in range(self.forward_passes)
            ]
            answers = [finite(each) for each in answers]
            logits = sum(answers[1:], answers[0]) / len(answers) if len(answers) > 1 else answers[0]
        self.counts[0, rows] += self.forward_passes
        return logits, leaf

    def _back(self, rows: Tensor, value: Tensor, leaf: Tensor, *, last: bool) -> Tensor:
        with torch.enable_grad():
            total = value.sum() + 0 * leaf.sum()  # a model that ignores the image has gradient zero
        grad = slope(total, leaf, again=not last)
        self.counts[1, rows] += self.forward_passes
        self.counts[2, rows] += (grad.flatten(1) == 0).all(1) * self.forward_passes
        return grad

    def _close(self, rows: Tensor, leaf: Tensor, logits: Tensor, names: tuple[Name, ...]) -> Tensor:
        """Whether the images fool the model; a further pass decides where the logits are no verdict."""
        images = leaf.detach()
        if not self.alike or self.stochastic:
            return self.offer(rows, images, *names, "verdict")
        value, fooled = Margin()(logits.detach(), self.y[rows]), decide(logits.detach()) != self.y[rows]
        value = value.to(self.x.dtype)
        self.keep(rows, images, fooled, value)
        self.note(rows, value)
        return fooled

    def classes(self, rows: Tensor) -> tuple[Int64[Tensor, "R K"], Tensor]:
        """The other classes of each example, the most likely first, and the logits of the clean images."""
        with torch.no_grad():
            logits = self.gradient_source(self.x[rows], self.key.fold("classes").take(rows)).detach()
        self.counts[0, rows] += 1
        if logits.shape[1] < 2:
            raise InputError("A search for the nearest boundary needs two classes", "one", "Check the model.")
        known = logits.nan_to_num(nan=-torch.inf)
        order = known.argsort(dim=1, descending=True, stable=True)
        others = order[order != self.y[rows][:, None]].view(len(rows), logits.shape[1] - 1)
        return others, logits

    def pull(self, steps: int) -> None:
        """Bisect, this many times, between each nearest adversarial image and the clean one."""
        if _counted(self.threat):
            return
        rows = torch.isin(self.rows, self.distance.isfinite().nonzero().flatten())
        rows = self.rows[rows]
        far = self.near[rows].clone()
        low, high = self.x.new_zeros(len(rows)), self.x.new_ones(len(rows))
        reach = (far - self.x[rows]).flatten(1).abs().amax(1) if len(rows) else low
        for i in range(steps):
            left = self.left(rows)
            if not left.any():
                return
            middle = (low + high) / 2
            step = far - self.x[rows]
            if isinstance(self.threat, Linf):
                edge = per_row(middle * reach, step)
                step = torch.maximum(torch.minimum(step, edge), -edge)
            else:
                step = per_row(middle, step) * step
            fooled = self.offer(rows[left], (self.x[rows] + step)[left], "pull", i)
            good = torch.zeros_like(left)
            good[left] = fooled
            high = torch.where(good, middle, high)
            low = torch.where(left & ~good, middle, low)

    def minimum(self) -> Minimum:
        """The nearest adversarial images, with counts and trace."""
        forward, backward, zero = self.counts
        share = (zero / backward.clamp(min=1)).to(self.x.dtype)
        if not self.losses:  # the batch was empty
            none = self.x.new_zeros(0, len(self.x))
            path = none.double()
            return Minimum(self.near, self.distance, none, forward, backward, share, path, none.bool())
        losses, path, evaluated = (torch.stack(part) for part in (self.losses, self.path, self.evaluated))
        return Minimum(self.near, self.distance, losses, forward, backward, share, path, evaluated)


class NormRecipe(Recipe):
    """A recipe that searches for the nearest adversarial image."""

    norms: ClassVar[tuple[type, ...]] = ()
    draws: ClassVar[int] = 8  # forward passes per image on a stochastic model
    minimal: ClassVar[bool] = True  # whether it minimises the distance, not only within a budget
    bisections: ClassVar[int] = 10  # bisections between the nearest image and the clean one, at the end

    def run(self, state: SearchState) -> None:
        """Search on the rows of `state`; the clean images have been evaluated before."""
        raise NotImplementedError(f"{type(self).__name__} defines no search")

    def check_threat(self, threat: Threat) -> None:
        """Refuse threats of another norm.

        Raises:
            InputError: the search is not defined for the norm of the threat.
        """
        if type(threat) not in self.norms:
            raise InputError(
                f"{type(self).__name__} is defined for the threats "
                + " and ".join(norm.__name__ for norm in self.norms),
                repr(threat),
                instead(threat, "Use one of these threats, or attack this threat with PGD."),
            )

    def __call__(self, threat: Threat) -> MinimumNorm:
        self.check_threat(threat)
        return MinimumNorm(threat, self)


@dataclass(frozen=True, kw_only=True)
class SlopeRecipe(NormRecipe, GradientRecipe):
    """A recipe for the nearest adversarial image that follows gradients of an objective of its own."""

    def __post_init__(self) -> None:
        if self.objective != LogitCrossEntropy():
            raise InputError(
                f"{type(self).__name__} has an objective of its own",
                repr(self.objective),
                "Leave out the option objective.",
            )


@dataclass(frozen=True)
class MinimumNorm:
    """A search for the nearest adversarial image, used as an attack within a budget.

    Where the nearest image found lies outside the budget, its projection onto the set of the threat is tried.
    The nearest image may fool a stochastic model by chance. So there the line from the clean image to it is
    also followed to the edge of the budget, and the image that fools the model more often is returned.

    Args:
        threat: norm and budget.
        recipe: the search.
        stop: whether the search stops on an example once an adversarial image within the budget was found.
            Without it the search does not use epsilon, so that one run serves all budgets.
    """

    threat: Threat
    recipe: NormRecipe
    stop: bool = True

    def search(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Minimum:
        """The nearest adversarial images; a clean image that the model misclassifies has distance 0.

        Args:
            model: the attacked model.
            x: images in [0, 1].
            y: labels.
            key: randomness.
            through: the gradient source, by default the model itself.

        Raises:
            InputError: labels that do not fit the images, images in half precision or outside [0, 1], a model
                in training mode, or a model that does not return logits.
        """
        x = admit(model, self.threat, x, y, through)
        state = SearchState(model, through or model, self.threat, x, y, key, self.stop, self.recipe.draws)
        rows = torch.arange(len(x), device=x.device)
        state.offer(rows, x, "clean")
        state.clean = state.height.clone()
        if len(state.rows):
            with torch.enable_grad():
                self.recipe.run(state)
            state.pull(self.recipe.bisections)
        return state.minimum()

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
        """Attack `model` within the budget of the threat, with gradients from `through`."""
        return self.within(self.search(model, x, y, key, through=through), model, x.detach(), y, key)

    def within(self, found: Minimum, model: Model, x: Tensor, y: Tensor, key: Key) -> Result:
        """The result of a search, as that of an attack within the budget."""
        near = found.distance <= self.threat.epsilon
        cut = torch.where(per_row(near, x) > 0, found.x_adv, self.threat.project(found.x_adv, x))
        forward, losses = found.queries, found.losses
        fell = found.fell(self.threat.epsilon)
        if bool(getattr(model, "stochastic", False)):
            cut, extra = self._further(model, x, cut, y, key)
            forward = forward + extra
        success = judge(model, cut, y, key.fold("verdict"))
        value = x.new_full((1, len(x)), torch.nan)
        if bool((success & (fell < 0)).any()):  # the projection of a too distant image fooled the model
            fell = torch.where(success & (fell < 0), found.evaluated.sum(0), fell)
            losses = torch.cat([losses, value])
        return Result(cut, success, losses, forward + 1, found.backward_queries, found.zero_gradients, fell)

    @torch.no_grad()
    def _further(self, model: Model, x: Tensor, cut: Tensor, y: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """The image, or the one at the edge of the budget on the line to it, whichever fools more often."""
        if _counted(self.threat):
            return cut, torch.zeros_like(y)
        far = self.threat.distance(cut, x).to(x.dtype)
        scale = (self.threat.epsilon / far.clamp(min=torch.finfo(x.dtype).tiny)).clamp(1, 1e6)
        end = self.threat.project(x + per_row(torch.where(far > 0, scale, 1.0), x) * (cut - x), x)
        evaluate, draws = evaluator(model, Margin(), y), self.recipe.draws
        better = []
        for name, images in (("near", cut), ("end", end)):
            answers = [evaluate(images, key.fold("further", name, i)) for i in range(draws)]
            better.append([sum(part[1:], part[0]) for part in zip(*answers, strict=True)])
        (value, share), (value_end, share_end) = better
        taken = (share_end > share) | ((share_end == share) & (value_end > value))
        return torch.where(per_row(taken, x) > 0, end, cut), torch.full_like(y, 2 * draws)

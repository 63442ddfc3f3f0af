"""Minimum-norm attacks: the nearest image that fools the model, and how far it is.

A search asks the model through a `Hunt`, which keeps the nearest adversarial image of each example, counts
and traces. Within a threat it serves as an attack like any other: an example has fallen when something was
found within epsilon. Gradients may come from a substitute of the model; what fools it is asked of the model
itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

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
    "Hunt",
    "Minimum",
    "MinimumNorm",
    "NormRecipe",
    "SlopeRecipe",
    "dot",
    "per_row",
]

Name = int | str


class Minimum(NamedTuple):
    """The nearest adversarial image of each example that a search found, and the evidence for it."""

    x_adv: Float[
        Tensor, "B *F"
    ]  # the nearest one; where none was found, the image of the largest margin seen
    distance: Float[Tensor, "B"]  # in the norm of the threat, infinite where none was found
    losses: Float[Tensor, "S B"]  # margin (decisions alone: minus the distance) per step, NaN where not asked
    queries: Int64[Tensor, "B"]
    backward_queries: Int64[Tensor, "B"]
    zero_gradients: Float[Tensor, "B"]
    path: Float[Tensor, "S B"]  # distance of the nearest one so far, row by row of `losses`
    asked: Bool[Tensor, "S B"]  # whose images a row of `losses` is about

    @property
    def found(self) -> Bool[Tensor, "B"]:
        """Whether anything adversarial was found, however far."""
        return self.distance.isfinite()

    def fell(self, epsilon: float) -> Int64[Tensor, "B"]:
        """Looks at an example before the one at which something within epsilon was found, -1 for none.

        Looks at other examples do not count, so it does not depend on the company in a batch.
        """
        within = self.path <= epsilon
        if not len(within):
            return torch.full_like(self.queries, -1)
        first = within.long().argmax(0, keepdim=True)
        return torch.where(within.any(0), self.asked.cumsum(0).gather(0, first)[0] - 1, -1)


def _counted(threat: Threat) -> bool:
    """Whether distances are numbers of changes, so that there is no half of a way."""
    return isinstance(threat, L0) or moves_events(threat)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """One value per example, in the axes of images."""
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each pair of examples."""
    return (a * b).flatten(1).sum(1)


@dataclass(frozen=True)
class DualNorm:
    """The norm that says how far a linear function changes within a ball of another one.

    Args:
        of: `Linf`, `L2` or `L1`.
    """

    of: type[Threat]

    def __call__(self, w: Float[Tensor, "R *F"]) -> Float[Tensor, "R"]:
        flat = w.flatten(1)
        if self.of is Linf:
            return flat.abs().sum(1)
        top = flat.abs().amax(1)
        if self.of is L1:
            return top
        safe = top.clamp(min=torch.finfo(w.dtype).tiny)  # squares of small slopes would vanish
        length: Tensor = torch.linalg.vector_norm(flat / safe[:, None], dim=1)
        return length * top


class Face(NamedTuple):
    """The boundary to another class that is nearest if the model were linear: `gap + w (z - x) = 0`."""

    gap: Float[Tensor, "R"]  # logit of the other class minus that of the label
    w: Float[Tensor, "R *F"]  # its gradient
    fooled: Bool[Tensor, "R"]


@dataclass
class Hunt:
    """Asks the model on behalf of a search and keeps the nearest image of each example that fooled it.

    A model without randomness is asked once per image. One with randomness is asked `draws` times; its logits
    are then means, and it is fooled by an image that fools it in more than half of the draws.

    Args:
        model: the attacked model.
        gradient_source: the model that gives the gradients.
        threat: the norm; its epsilon is the goal.
        x: clean images.
        y: labels.
        key: randomness of the search.
        stop: leave an example alone once something within epsilon was found.
        draws: looks per image at a stochastic model.
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
    asked: list[Tensor] = field(init=False, default_factory=list)

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
        """What margins are measured in: that of the clean image, or 1 where it has none of its own.

        Prices and sums of a margin and a distance then do not depend on the scale of the logits.
        """
        own = -self.clean
        return torch.where(own.isfinite() & (own > 0), own, torch.ones_like(own))

    @property
    def rows(self) -> Tensor:
        """The examples that are still searched for."""
        enough = self.distance == 0
        if self.stop and not self.stochastic:
            enough |= self.distance <= self.threat.epsilon
        return (~enough).nonzero().flatten()

    def boxed(self, images: Tensor) -> Tensor:
        """Images cut by the box [0, 1]; events, which a search keeps on their grid, as they are."""
        return images.detach() if moves_events(self.threat) else images.detach().clamp(0, 1)

    def left(self, rows: Tensor) -> Tensor:
        """Which of these examples are still searched for, as a mask."""
        return torch.isin(rows, self.rows)

    def offer(self, rows: Tensor, images: Tensor, *names: Name, decision: bool = False) -> Bool[Tensor, "R"]:
        """Ask the model about images in the box; whether each fooled it.

        Args:
            rows: whose images.
            images: one per row; values outside the box are cut.
            names: of this look, for its randomness.
            decision: only the decision may be known to the search, so that the trace holds distances.
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

    def ask(self, rows: Tensor, images: Tensor, *names: Name) -> Bool[Tensor, "Q"]:
        """Ask for decisions on images whose rows may repeat; nothing is kept or traced."""
        return self.trial(rows, images, *names)[1]

    def trial(self, rows: Tensor, images: Tensor, *names: Name) -> tuple[Tensor, Bool[Tensor, "Q"]]:
        """Ask for margins and decisions on images whose rows may repeat; nothing is kept or traced."""
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
        """A row of the trace, after what was seen was kept."""
        trace = self.x.new_full((len(self.x),), torch.nan)
        trace[rows] = value.detach().to(trace.dtype)
        self.losses.append(trace)
        self.path.append(self.distance.clone())
        self.asked.append(torch.zeros_like(self.distance, dtype=torch.bool).index_fill(0, rows, True))

    def keep(self, rows: Tensor, images: Tensor, fooled: Tensor, value: Tensor | None) -> None:
        """Keep what fooled the model from nearer than before; for want of such, the largest margin."""
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
            rows: whose images.
            images: one per row, in the box.
            function: `(logits [R, K], labels [R]) -> [R]`.
            names: of this look.
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
        """The nearest boundary to one of the other classes, by the linearised model.

        Args:
            rows: whose images.
            images: one per row, in the box.
            others: classes to consider, none the label.
            dual: how far a slope leads.
            names: of this look.
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
            total = (
                value.sum() + 0 * leaf.sum()
            )  # an answer that does not depend on the image has gradient zero
        (grad,) = torch.autograd.grad(total, leaf, retain_graph=not last)
        self.counts[1, rows] += self.forward_passes
        self.counts[2, rows] += (grad.flatten(1) == 0).all(1) * self.forward_passes
        return grad.nan_to_num(0.0, 0.0, 0.0)

    def _close(self, rows: Tensor, leaf: Tensor, logits: Tensor, names: tuple[Name, ...]) -> Tensor:
        """What the model says; asked again where the gradients were another model's or draws vary."""
        images = leaf.detach()
        if not self.alike or self.stochastic:
            return self.offer(rows, images, *names, "verdict")
        value, fooled = Margin()(logits.detach(), self.y[rows]), decide(logits.detach()) != self.y[rows]
        value = value.to(self.x.dtype)
        self.keep(rows, images, fooled, value)
        self.note(rows, value)
        return fooled

    def classes(self, rows: Tensor) -> tuple[Int64[Tensor, "R K"], Tensor]:
        """The other classes of each example, the most likely first, as the source sees the clean image."""
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
        """Bisect the way back from each nearest image to the clean one, a number of times."""
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
        """What was found."""
        forward, backward, zero = self.counts
        share = (zero / backward.clamp(min=1)).to(self.x.dtype)
        if not self.losses:  # nothing was asked for
            none = self.x.new_zeros(0, len(self.x))
            path = none.double()
            return Minimum(self.near, self.distance, none, forward, backward, share, path, none.bool())
        losses, path, asked = (torch.stack(part) for part in (self.losses, self.path, self.asked))
        return Minimum(self.near, self.distance, losses, forward, backward, share, path, asked)


class NormRecipe(Recipe):
    """A recipe that looks for the nearest adversarial image."""

    norms: ClassVar[tuple[type, ...]] = ()
    draws: ClassVar[int] = 8  # looks per image at a stochastic model
    minimal: ClassVar[bool] = True  # looks for a distance, and not only within a budget
    bisections: ClassVar[int] = 10  # of the way from the nearest image back to the clean one

    def run(self, hunt: Hunt) -> None:
        """Search, through the hunt, for its rows; the clean images were asked about before."""
        raise NotImplementedError(f"{type(self).__name__} searches nowhere")

    def check_threat(self, threat: Threat) -> None:
        """Refuse threats of another norm.

        Raises:
            InputError: this search knows nothing of the threat's norm.
        """
        if type(threat) not in self.norms:
            raise InputError(
                f"{type(self).__name__} knows the threats {' and '.join(n.__name__ for n in self.norms)}",
                repr(threat),
                instead(threat, "Use it with one of these, or attack this threat with PGD."),
            )

    def __call__(self, threat: Threat) -> MinimumNorm:
        self.check_threat(threat)
        return MinimumNorm(threat, self)


@dataclass(frozen=True, kw_only=True)
class SlopeRecipe(NormRecipe, GradientRecipe):
    """A recipe for the nearest adversarial image that follows gradients, its own objective among them."""

    def __post_init__(self) -> None:
        if self.objective != LogitCrossEntropy():
            raise InputError(
                f"{type(self).__name__} has an objective of its own", repr(self.objective), "Leave it out."
            )


@dataclass(frozen=True)
class MinimumNorm:
    """A search for the nearest adversarial image, used within a budget.

    Where the nearest one is too far, its projection onto the budget's set is tried as well.
    On a stochastic model, where the nearest image fools by luck, the way to it is also followed to the end
    of the budget, and whichever fools it more often is returned.

    Args:
        threat: norm and budget.
        recipe: the search.
        stop: leave an example alone once something within the budget was found; without it the search knows
            nothing of epsilon, so that one run serves all budgets.
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
        """The nearest adversarial images; what the model gets wrong as it is has distance 0.

        Args:
            model: the attacked model.
            x: images in [0, 1].
            y: labels.
            key: randomness.
            through: where gradients come from, the model itself by default.

        Raises:
            InputError: labels that do not belong to the images, images of half precision or outside [0, 1], a
                model in training mode, or one that does not answer logits.
        """
        x = admit(model, self.threat, x, y, through)
        hunt = Hunt(model, through or model, self.threat, x, y, key, self.stop, self.recipe.draws)
        rows = torch.arange(len(x), device=x.device)
        hunt.offer(rows, x, "clean")
        hunt.clean = hunt.height.clone()
        if len(hunt.rows):
            with torch.enable_grad():
                self.recipe.run(hunt)
            hunt.pull(self.recipe.bisections)
        return hunt.minimum()

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
        """Attack `model` within the threat's budget, with gradients from `through`."""
        return self.within(self.search(model, x, y, key, through=through), model, x.detach(), y, key)

    def within(self, found: Minimum, model: Model, x: Tensor, y: Tensor, key: Key) -> Result:
        """What a search found, cut to the budget."""
        near = found.distance <= self.threat.epsilon
        cut = torch.where(per_row(near, x) > 0, found.x_adv, self.threat.project(found.x_adv, x))
        forward, losses = found.queries, found.losses
        fell = found.fell(self.threat.epsilon)
        if bool(getattr(model, "stochastic", False)):
            cut, extra = self._further(model, x, cut, y, key)
            forward = forward + extra
        success = judge(model, cut, y, key.fold("verdict"))
        value = x.new_full((1, len(x)), torch.nan)
        if bool((success & (fell < 0)).any()):  # the projection of what was too far
            fell = torch.where(success & (fell < 0), found.asked.sum(0), fell)
            losses = torch.cat([losses, value])
        return Result(cut, success, losses, forward + 1, found.backward_queries, found.zero_gradients, fell)

    @torch.no_grad()
    def _further(self, model: Model, x: Tensor, cut: Tensor, y: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        """The image or, if that fools more often, the one at the end of the budget on the way to it."""
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

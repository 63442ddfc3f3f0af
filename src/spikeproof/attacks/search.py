"""The one loop behind every gradient attack: projection, the best example so far, the trace and the verdict.

A gradient may come from a substitute of the model; the verdict never does. Every returned example lies inside
the set of the threat, because the loop projects every iterate. Whether an attack succeeded is decided by the
model itself on the returned example, under a draw that the search has not used.

During the search, the forward pass of a gradient also says whether its image fools the model, but only where
its logits are the model's own to the bit: where the gradient source is the model or its twin. Every other
gradient source costs a forward pass of the model beside its own. On a model that draws, what one pass has
shown under the draws of the search decides nothing: runs are compared under new draws (`settle`).

Runs from several starts, or towards several classes, take their passes side by side where the examples that
are left of one run would fill a small part of a pass. What comes out is what they would give one after the
other, to the bit: once an example falls in a run, its later runs count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.oracles import Evaluate, Exact, Expectation, Oracle
from spikeproof.attacks.parts.schedules import Constant, Observation, Schedule
from spikeproof.attacks.parts.steps import Memory, Position, Steepest, Step
from spikeproof.attacks.parts.targets import Targets
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.gradients import Recollection
from spikeproof.keys import Key
from spikeproof.losses import KL, LogitCrossEntropy, Margin, Objective, Watching
from spikeproof.protocols import (
    Model,
    Seen,
    Threat,
    Watched,
    attack_call,
    check_range,
    in_training,
    moves_events,
    takes_events,
)

__all__ = [
    "UNRECORDED",
    "Best",
    "Bounded",
    "GradientAttack",
    "Jump",
    "Result",
    "admit",
    "answer",
    "check_batch",
    "check_threat",
    "evaluator",
    "instead",
    "judge",
    "show",
    "smallest_batch",
]


UNRECORDED = -2
"""Stands for the row at which an example fell, where an attack does not record it."""


class Result(NamedTuple):
    """The images that an attack returns, and the evidence about how it found them."""

    x_adv: Float[Tensor, "B *F"]  # inside the set of the threat
    success: Bool[Tensor, "B"]  # judged by the model itself
    losses: Float[Tensor, "S B"]  # objective per step, NaN where an example was no longer attacked
    queries: Int64[Tensor, "B"]  # forward passes per example
    backward_queries: Int64[Tensor, "B"]  # backward passes per example
    zero_gradients: Float[Tensor, "B"]  # share of backward passes whose gradient was zero everywhere
    # The row of `losses` at which an example first fooled the model (in a search for the nearest image: the
    # number of earlier queries on the example). It is -1 where none did, and UNRECORDED, or None for all
    # examples, where the attack does not record it.
    fell: Int64[Tensor, "B"] | None = None
    # Forward passes on an image outside [0, 1], which were answered for the nearest image inside; None for
    # an attack whose images never leave [0, 1].
    outside: Int64[Tensor, "B"] | None = None

    def taken(self, rows: Int64[Tensor, "R"]) -> Result:
        """The results of some of the examples."""
        return Result(
            self.x_adv[rows],
            self.success[rows],
            self.losses[:, rows],
            self.queries[rows],
            self.backward_queries[rows],
            self.zero_gradients[rows],
            None if self.fell is None else self.fell[rows],
            None if self.outside is None else self.outside[rows],
        )


@runtime_checkable
class Bounded(Protocol):
    """A model that says how many examples one pass takes at most; no answer depends on it."""

    @property
    def most(self) -> int | None:
        """The number of examples; None where any number may be passed."""


class Best:
    """The best image of each example so far, and the row at which the example first fell.

    An image that fools the model ranks before one that does not; among equals the larger objective decides.
    """

    def __init__(self, x: Float[Tensor, "B *F"]) -> None:
        self.x = x.clone()
        self.fooled = x.new_full((len(x),), -1.0)
        self.value = x.new_full((len(x),), -torch.inf)
        self.fell = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)

    def fall(self, rows: Tensor, fooled: Tensor, step: int) -> None:
        """Record a step for the examples that fell at it, unless they fell before."""
        now = rows[(fooled > 0) & (self.fell[rows] < 0)]
        self.fell[now] = step

    def offer(self, rows: Tensor, x: Tensor, fooled: Tensor, value: Tensor) -> Tensor:
        """Keep the images that are at least as good as the best so far; returns which ones were kept."""
        value = value.nan_to_num(torch.inf)  # an answer of NaN counts as an error of the model
        return self._keep(rows, x, fooled, value)

    def join(self, rows: Tensor, of: Best, others: Tensor, begun: int) -> None:
        """Keep what another search has found for these examples in its rows `others`.

        Args:
            rows: the examples.
            of: the best images of the other search, of which each was offered at least one.
            others: where they stand there.
            begun: the row of the trace at which the other search began.
        """
        self._keep(rows, of.x[others], of.fooled[others], of.value[others])
        fell = of.fell[others]
        new = (fell >= 0) & (self.fell[rows] < 0)
        self.fell[rows[new]] = begun + fell[new]

    def _keep(self, rows: Tensor, x: Tensor, fooled: Tensor, value: Tensor) -> Tensor:
        before, height = self.fooled[rows], self.value[rows]
        better = (fooled > before) | ((fooled == before) & (value >= height))
        taken = rows[better]
        self.x[taken], self.fooled[taken], self.value[taken] = x[better], fooled[better], value[better]
        return better


SETTLING = 8
"""Number of draws by which runs on a stochastic model are compared."""


def settle(
    model: Model, y: Int64[Tensor, "B"], key: Key, best: Best, run: Best, end: Float[Tensor, "B *F"]
) -> int:
    """Compare the best image of earlier runs with the best and the last image of this run, under new draws.

    This is for stochastic models. An image may have fooled the model once by chance, and a later, stronger
    image may have failed by chance. The image that fools the model in the largest share of new draws wins,
    and at equal shares the image with the larger margin.

    Args:
        model: the attacked model.
        y: labels.
        key: randomness of the new draws.
        best: best images of all runs; changed in place.
        run: best images of this run, by the draws of the run itself.
        end: the last iterates of this run.

    Returns:
        The number of forward passes on each example.
    """
    rows, evaluate = torch.arange(len(y), device=y.device), evaluator(model, Margin(), y)
    candidates = {"best": run.x, "end": end}
    with torch.no_grad():
        for name, here in candidates.items():
            answers = [evaluate(here, key.fold(name, i)) for i in range(SETTLING)]
            value, fooled = (torch.stack(part).mean(0) for part in zip(*answers, strict=True))
            best.offer(rows, here, fooled, value)
    best.fell = torch.where(best.fell < 0, run.fell, best.fell)
    return SETTLING * len(candidates)


def smallest_batch(*attacks: object) -> int | None:
    """The smallest batch size that the images of an attack depend on; None where no attack depends on one."""
    return min((size for attack in attacks if (size := getattr(attack, "batch", None))), default=None)


def check_batch(x: Tensor, y: Tensor) -> None:
    """Refuse labels that do not fit the images, and images whose precision is too coarse for a budget.

    Raises:
        InputError: there is not one integer label of at least 0 per image, or images are neither in single
            nor in double precision.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "An attack needs images in single or double precision, because coarser rounding exceeds a budget",
            str(x.dtype),
            "Pass images.float(), and let the model lower the precision itself.",
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64 or bool((y < 0).any()):
        raise InputError(
            f"An attack needs {len(x)} labels, integers from 0",
            f"shape {list(y.shape)}, {y.dtype}" + (f", least {int(y.min())}" if y.numel() else ""),
            "Pass class indices as an int64 tensor.",
        )


def check_mode(model: Model) -> None:
    """Refuse a model in training mode, whose batch statistics and dropout would be attacked.

    Raises:
        InputError: the model is in training mode.
    """
    if in_training(_inside(model)):
        raise InputError(
            "An attack needs a model in evaluation mode", "a model in training mode", "Call model.eval()."
        )


def check_threat(model: object, threat: Threat) -> None:
    """Refuse a threat on pixels for a model of events, and a threat on events for a model of images.

    A model that shows no encoder may take either.

    Raises:
        InputError: the threat is not defined on the inputs of the model.
    """
    while not hasattr(model, "encoder") and hasattr(model, "model"):
        model = model.model
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        return
    if moves_events(threat) and not takes_events(encoder):
        raise InputError(
            f"{type(threat).__name__} changes whole events and needs a model with the encoder events",
            f"a model with the encoder {encoder!r}",
            "Use linf, l2, l1 or l0, whose attacks go through the encoder.",
        )
    if takes_events(encoder) and not moves_events(threat):
        raise InputError(
            f"{type(threat).__name__} changes pixels by fractions, and this model takes whole events",
            f"a model with the encoder {encoder!r}",
            "Use the threats flips, additions, removals or shifts with the attack spike-search.",
        )


def admit(
    model: Model,
    threat: Threat,
    x: Float[Tensor, "B *F"],
    y: Int64[Tensor, "B"],
    *gradient_sources: Model | None,
) -> Float[Tensor, "B *F"]:
    """Check the inputs of an attack against each other, and return the images as the attack needs them.

    Args:
        model: the attacked model.
        threat: the set that the attack searches.
        x: images in [0, 1], or events where the threat moves events.
        y: labels.
        gradient_sources: the models that gradients come from; None stands for the model itself.

    Raises:
        InputError: labels that do not fit the images, images in half precision or outside [0, 1], a model in
            training mode, or a threat that is not defined on the inputs of the model.
    """
    check_batch(x, y)
    for each in (model, *gradient_sources):
        check_mode(model if each is None else each)
    check_threat(model, threat)
    if not moves_events(threat):
        check_range(x, "An attack on images")
    return x.detach().contiguous()  # sums over another memory layout round differently


def instead(threat: Threat, on_pixels: str) -> str:
    """The advice of an error message: what to use where an attack is not defined for this threat."""
    return "Use spike-search, or another attack on events." if moves_events(threat) else on_pixels


def judge(model: Model, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> Bool[Tensor, "B"]:
    """Whether the answer of the model under this key differs from the label; a tie counts as an error."""
    with torch.no_grad():
        return decide(answer(model, x, y, key)) != y


def unsearched(x_adv: Float[Tensor, "B *F"], success: Bool[Tensor, "B"]) -> Result:
    """The result of one forward pass on images that were made before, without a search."""
    once = torch.ones_like(success, dtype=torch.int64)
    return Result(
        x_adv,
        success,
        losses=x_adv.new_full((1, len(x_adv)), torch.nan),
        queries=once,
        backward_queries=0 * once,
        zero_gradients=x_adv.new_zeros(len(x_adv)),
        fell=success.long() - 1,
    )


def show(model: Model, x: Tensor, key: Key | None, potential: bool) -> Watched:
    """The output layer of a model over time.

    Raises:
        InputError: the model has no method `watch` that shows it.
    """
    watch = getattr(model, "watch", None)
    if watch is None:
        raise InputError(
            "An objective over time needs a model that shows the output layer at every time step",
            type(model).__name__,
            "Use an objective of logits, such as margin.",
        )
    seen: Watched = watch(x, key, potential=potential)
    return seen


def answer(model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
    """The logits of the model, once their shape fits images and labels."""
    return _checked(model(x, key), x, y)


def _checked(logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(x):
        raise InputError(
            f"A model returns logits [B, K] for {len(x)} images",
            f"shape {list(logits.shape)}",
            "Flatten or average over time inside the model.",
        )
    if logits.shape[1] < 2:
        raise InputError(
            "An attack needs a model with at least two classes",
            f"logits of shape {list(logits.shape)}",
            "Let it answer one score per class; one score s can become [0, s].",
        )
    if y.numel() and int(y.max()) >= logits.shape[1]:
        raise InputError(
            f"Labels below {logits.shape[1]}, the number of logits",
            f"label {int(y.max())}",
            "Check that model and data set have the same classes.",
        )
    return logits


def twins(model: Model, other: Model) -> bool:
    """Whether another model is a twin of this one: the same model with other gradients.

    Equal answers to some images prove nothing, so this rests on the lineage, which a twin made by
    `spikeproof.substitute` shares with its original. A model without it is another model, whose answers are
    no verdicts. A wrapper counts as the model in its field `model`.
    """
    ours, theirs = _inside(model), _inside(other)
    lineage = getattr(ours, "lineage", None)
    return ours is theirs or (lineage is not None and getattr(theirs, "lineage", None) is lineage)


def _inside(model: object) -> object:
    while not isinstance(model, torch.nn.Module) and hasattr(model, "model"):
        model = model.model
    return model


def evaluator(model: Model, objective: Objective, y: Int64[Tensor, "B"]) -> Evaluate:
    """The function that oracles call: the objective, and whether the model was fooled, for each example."""

    def evaluate(x: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        if isinstance(objective, Watching):
            seen = show(model, x, key, objective.wants_potential)
            logits = _checked(seen.decoder(seen.outputs), x, y)
            value = objective.over_time(seen, y)
        else:
            logits = answer(model, x, y, key)
            value = objective(logits, y)
        return value.to(x.dtype), (decide(logits.detach()) != y).to(x.dtype)

    return evaluate


@dataclass(frozen=True)
class _Aim:
    """An objective, with the clean logits or the targets that it needs besides logits and labels."""

    objective: Objective
    clean: Tensor | None = None  # logits
    target: Tensor | None = None

    def at(self, rows: Tensor) -> Objective:
        """The objective for the examples in these rows."""
        if isinstance(self.objective, KL) and self.clean is not None:
            return _Anchored(self.objective, self.clean[rows])
        if self.target is None:
            return self.objective
        if isinstance(self.objective, Watching):
            return _WatchingTowards(self.objective, self.target[rows])
        return _Towards(self.objective, self.target[rows])

    def beside(self, others: Sequence[_Aim], rows: Tensor) -> _Aim:
        """The aim of several runs on the examples in these rows, run after run; this is the first of them."""
        clean = None if self.clean is None else self.clean[rows].repeat(1 + len(others), 1)
        targets = [each.target[rows] for each in (self, *others) if each.target is not None]
        return _Aim(self.objective, clean, torch.cat(targets) if targets else None)


@dataclass(frozen=True)
class _Anchored(Objective):
    objective: KL
    clean: Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.objective.against(logits, self.clean)


@dataclass(frozen=True)
class _Towards(Objective):
    objective: Objective
    target: Tensor

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        return self.objective.towards(logits, y, self.target)


@dataclass(frozen=True)
class _WatchingTowards(Watching):
    objective: Watching
    target: Tensor

    @property
    def wants_potential(self) -> bool:  # type: ignore[override]
        return self.objective.wants_potential

    def over_time(self, seen: Watched, y: Tensor, target: Tensor | None = None) -> Tensor:
        return self.objective.over_time(seen, y, self.target)


@dataclass(frozen=True)
class Jump:
    """A random start: a step from the clean image in the steepest direction for normal noise.

    Args:
        length: length of the step, in epsilons, in (0, 1].
    """

    length: float = 1.0

    def __call__(self, threat: Threat, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        noise = key.normal(x.shape, 0, x.device).to(x.dtype)
        return threat.project(x + self.length * threat.epsilon * threat.steepest(noise), x)


@dataclass(frozen=True)
class GradientAttack:
    """Projected gradient ascent, assembled from a threat, an oracle, a step, a schedule and an objective.

    By default every step is the steepest step of the threat, has the same size, and is projected onto the
    set.

    Args:
        threat: the set of allowed images and its geometry.
        steps: number of steps, at least 0.
        step_size: `alpha`, in units of the threat's epsilon (pixel value).
        oracle: how gradients are computed.
        objective: the function that the attack maximises.
        restarts: number of runs, at least 1; the best image of all runs is returned.
        random_start: whether a run begins at a random member of the set instead of at the clean image.
        stop_when_fooled: whether the search stops on an example once the model misclassifies it. It has no
            effect on stochastic models, which a lucky draw may have fooled.
        step: how a gradient leads to the next iterate.
        schedule: sizes of the steps.
        best_start: whether runs after the first begin at the best image so far.
        start: the function that gives the start of a run, in place of a random member of the set.
        targets: target classes, each with as many runs as there are restarts.
        views: random views of the scene over which the objective is averaged, besides the image itself, for a
            threat that has views. Whether the model is fooled is decided on the image itself.

    Source:
        Madry et al. 2018, section 2.1.
    """

    threat: Threat
    steps: int
    step_size: float
    oracle: Oracle = Exact()
    objective: Objective = LogitCrossEntropy()
    restarts: int = 1
    random_start: bool = True
    stop_when_fooled: bool = True
    step: Step = Steepest()
    schedule: Schedule = Constant()
    best_start: bool = False
    start: Callable[[Threat, Tensor, Key], Tensor] | None = None
    targets: Targets | None = None
    views: int = 0

    def __post_init__(self) -> None:
        if self.views and not isinstance(self.threat, Seen):
            raise InputError(
                "Views are defined for threats of objects in a scene", repr(self.threat), "Leave out views."
            )
        if self.steps < 0 or self.restarts < 1 or not self.step_size >= 0:
            raise InputError(
                "A gradient attack needs steps >= 0, restarts >= 1 and a step size of at least 0",
                f"steps={self.steps}, restarts={self.restarts}, step_size={self.step_size}",
                "Try steps=20, restarts=1.",
            )
        if moves_events(self.threat) and not self.step.whole:
            raise InputError(
                "Steps along a gradient change values by fractions and need a threat on pixels",
                f"{self.threat!r}, whose members are whole events",
                instead(self.threat, ""),
            )
        if isinstance(self.objective, KL) and (
            self.targets is not None or not (self.random_start or self.start is not None)
        ):
            raise InputError(
                "KL has no target, and its gradient is zero at the clean image",
                "targets" if self.targets is not None else "a start at the clean image",
                "Use PGD, which starts at random.",
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
        """Attack `model`, with gradients from `through` (default: the model itself).

        A twin made by `substitute` has the answers of the model. Another model only gives the gradients and
        the trace, and whether an example fell is decided by forward passes of `model` itself.

        Raises:
            InputError: labels that do not fit the images, images in half precision or outside [0, 1], a model
                in training mode, or a model that does not return logits.
        """
        x = admit(model, self.threat, x, y, through)
        case = _Case(model, through or model, x, y)
        clean, turns = None, 1
        ledger = _Ledger(x, self.stop_when_fooled and not case.stochastic)
        if self.targets is not None or isinstance(self.objective, KL):
            with torch.no_grad():
                clean = answer(case.gradient_source, x, y, key.fold("clean"))
            ledger.forward += 1
            turns = self.targets.turns(clean.shape[1]) if self.targets is not None else 1
        best = Best(x)
        plans, runs = [], self.restarts * turns
        for restart in range(runs):
            aim = _Aim(self.objective, clean)
            if self.targets is not None and clean is not None:
                aim = _Aim(self.objective, target=self.targets(clean, y, restart % turns))
            plans.append((aim, key.fold("restart", restart)))
        while plans:
            many = self._side_by_side(case, ledger, key, len(plans))
            (aim, now), *others = plans[:many]
            plans = plans[many:]
            if others:
                self._abreast(case, ledger, best, [(aim, now), *others])
                continue
            run = _Run(self, case, ledger, aim, now, Best(x) if case.stochastic else best)
            end = run.walk(self._start(x, now, best))
            if case.stochastic:
                ledger.forward += settle(model, y, now.fold("settle"), best, run.best, end)
        return ledger.result(best, judge(model, best.x, y, key.fold("verdict")))

    def _side_by_side(self, case: _Case, ledger: _Ledger, key: Key, left: int) -> int:
        """How many of the runs that are left take their next passes side by side.

        As many as one pass of the model holds, where no run depends on another and nothing is drawn at their
        steps. Objectives over time add up in an order that depends on the examples beside one, so that last
        digits would change.
        """
        most, standing, oracle = case.most, len(ledger.standing), self.oracle
        while isinstance(oracle, Expectation):
            oracle = oracle.oracle
        drawn = self.step.draws or self.views or key.rows is None or moves_events(self.threat)
        drawn = drawn or case.stochastic or getattr(case.gradient_source, "stochastic", False)
        bound = self.best_start or isinstance(self.objective, Watching) or type(oracle) is not Exact
        if most is None or not standing or drawn or bound:
            return 1
        return max(1, min(left, most // standing))

    def _abreast(self, case: _Case, ledger: _Ledger, best: Best, plans: Sequence[tuple[_Aim, Key]]) -> None:
        """Take several runs side by side, and enter one after the other what they have found."""
        rows, ((aim, now), *others) = ledger.standing, plans
        copies = rows.repeat(len(plans))
        copied = _Case(case.model, case.gradient_source, case.x[copies], case.y[copies])
        found = _Abreast(copied.x, ledger.early, len(plans))
        aim = aim.beside([each for each, _ in others], rows)
        run = _Run(self, copied, found, aim, now.take(copies), Best(copied.x))
        run.walk(torch.cat([self._start(case.x, each, best)[rows] for _, each in plans]))
        for part in torch.arange(len(copies), device=rows.device).view(len(plans), -1):
            left = ~ledger.done[rows]
            if bool(left.any()):
                begun = ledger.enter(rows[left], found, part[left], run.best.fell)
                best.join(rows[left], run.best, part[left], begun)

    def _start(self, x: Tensor, key: Key, best: Best) -> Tensor:
        if self.best_start and bool((best.fooled >= 0).any()):
            return best.x.clone()
        if self.start is not None:
            return self.start(self.threat, x, key.fold("start"))
        return self.threat.start(x, key.fold("start")) if self.random_start else x.clone()


@dataclass(frozen=True)
class _Case:
    """One call of an attack: the examples with their labels, the attacked model, and the gradient source."""

    model: Model
    gradient_source: Model
    x: Float[Tensor, "B *F"]
    y: Int64[Tensor, "B"]

    @property
    def stochastic(self) -> bool:
        return bool(getattr(self.model, "stochastic", False))

    @property
    def most(self) -> int | None:
        """The number of examples that one pass takes at most; None where any number may be passed."""
        return self.model.most if isinstance(self.model, Bounded) else None

    def passes(self, rows: Int64[Tensor, "R"]) -> list[Int64[Tensor, "P"]]:
        """The positions of the examples of every pass that these rows take."""
        everything = torch.arange(len(rows), device=rows.device)
        return list(torch.split(everything, self.most or max(len(rows), 1)))

    @cached_property
    def verdict_model(self) -> Model | None:
        """The model that gives the verdict at every step; None where the gradient source has its answers."""
        return None if twins(self.model, self.gradient_source) else self.model


class _Ledger:
    """The counts and the trace of all runs of one attack, for each example; all runs write into one ledger.

    Args:
        x: the examples.
        early: whether the search stops on an example once the model misclassifies it.
    """

    def __init__(self, x: Float[Tensor, "B *F"], early: bool) -> None:
        count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        self.early = early
        self.done: Bool[Tensor, "B"] = count > 0
        self.forward: Int64[Tensor, "B"] = count.clone()
        self.backward: Int64[Tensor, "B"] = count.clone()
        self.zero: Int64[Tensor, "B"] = count.clone()  # backward passes whose gradient was zero everywhere
        self.losses: list[Float[Tensor, "B"]] = []
        self._nothing = x.new_full((len(x),), torch.nan)

    @property
    def standing(self) -> Int64[Tensor, "R"]:
        """The rows of the examples that are still attacked."""
        return (~self.done).nonzero().flatten()

    def add_forward(self, rows: Tensor, forward: int) -> None:
        """Count forward passes that no backward pass follows."""
        self.forward[rows] += forward

    def add_gradient(self, rows: Tensor, forward: int, backward: int, grad: Float[Tensor, "R *F"]) -> None:
        """Count the forward and backward passes of a gradient, and whether it was zero everywhere."""
        self.forward[rows] += forward
        self.backward[rows] += backward
        self.zero[rows] += (grad.flatten(1) == 0).all(1) * backward

    def add_row(self, rows: Tensor, value: Float[Tensor, "R"]) -> int:
        """Add a row to the trace of the objective; returns its number."""
        trace = self._nothing.clone()
        trace[rows] = value
        self.losses.append(trace)
        return len(self.losses) - 1

    def add_verdicts(self, rows: Tensor, fooled: Float[Tensor, "R"]) -> None:
        """Mark the examples that need no further attack, where the attack stops early."""
        if self.early:
            self.done[rows] = fooled > 0

    def enter(self, rows: Tensor, of: _Ledger, others: Tensor, fell: Int64[Tensor, "L"]) -> int:
        """Take over what a run beside others has counted for these examples, as if it had passed by itself.

        Args:
            rows: the examples.
            of: the ledger of the runs, in which the examples of one run after the other have rows.
            others: where they stand there.
            fell: the row of the trace at which each row of that ledger fell, or -1.

        Returns:
            The row of the trace at which the run begins.
        """
        for mine, theirs in ((self.forward, of.forward), (self.backward, of.backward), (self.zero, of.zero)):
            mine[rows] += theirs[others]
        begun, ends = len(self.losses), fell[others]
        length = int(ends.max()) + 1 if self.early and bool((ends >= 0).all()) else len(of.losses)
        for trace in of.losses[:length]:
            self.add_row(rows, trace[others])
        self.done[rows] = of.done[others]
        return begun

    def result(self, best: Best, success: Bool[Tensor, "B"]) -> Result:
        """The best images with their evidence; the forward pass of the verdict is counted."""
        trace = torch.stack(self.losses) if self.losses else self._nothing.new_zeros(0, len(self.done))
        share = self.zero / self.backward.clamp(min=1)
        return Result(best.x, success, trace, self.forward + 1, self.backward, share, best.fell)


class _Abreast(_Ledger):
    """The ledger of runs side by side, in which the examples of one run after the other have rows.

    Args:
        x: the examples of all runs.
        early: whether the search stops on an example once the model misclassifies it.
        runs: number of runs.
    """

    def __init__(self, x: Float[Tensor, "B *F"], early: bool, runs: int) -> None:
        super().__init__(x, early)
        self.runs = runs

    def add_verdicts(self, rows: Tensor, fooled: Float[Tensor, "R"]) -> None:
        """Mark the examples that need no further attack, and the same examples in later runs."""
        super().add_verdicts(rows, fooled)
        self.done = (self.done.view(self.runs, -1).cumsum(0) > 0).flatten()


@dataclass(frozen=True)
class _Run:
    """One run of an attack from one start, on the examples that are still attacked.

    Args:
        attack: the parts of the attack.
        case: examples, attacked model and gradient source.
        ledger: counts and trace of all runs; this run adds to them.
        aim: the objective of this run.
        key: randomness of this run.
        best: the best images, which this run improves: of all runs, or of this run alone on a stochastic
            model.
    """

    attack: GradientAttack
    case: _Case
    ledger: _Ledger
    aim: _Aim
    key: Key
    best: Best

    def walk(self, start: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """Take all steps from a start, and return the last iterates."""
        attack, x, at, rows = self.attack, self.case.x, start.clone(), self.ledger.standing
        memory, plan = attack.step.begin(x[rows]), attack.schedule.begin(x[rows])
        so_far = Recollection(len(x))  # statistics of adaptive gradient rules, for this run
        for step in range(attack.steps):
            if not len(rows):
                return at
            now = self.key.fold("step", step).take(rows)
            size = attack.step_size * plan["scale"]
            position = Position(attack.threat, x[rows], at[rows], size, plan["share"], now.fold("move"))
            point = attack.step.gradient_point(position, memory)
            value, grad = self.follow(rows, point, now, so_far)
            observation = Observation(step, attack.steps, position.x, position.here, value, grad)
            here, grad, plan = attack.schedule(observation, plan)
            position = position._replace(
                here=here, size=attack.step_size * plan["scale"], share=plan["share"]
            )
            at[rows], memory = attack.step(position, grad, memory)
            left = ~self.ledger.done[rows]
            rows, memory, plan = rows[left], _taken(memory, left), _taken(plan, left)
        if len(rows):
            self.finish(rows, at[rows], self.key.fold("step", attack.steps).take(rows))
        return at

    def follow(
        self, rows: Tensor, here: Float[Tensor, "R *F"], key: Key, so_far: Recollection
    ) -> tuple[Tensor, Tensor]:
        """Objective and gradient of some examples, entered into the ledger and the best images."""
        oracle, looks, answers = self.attack.oracle, 1 + self.attack.views, []
        for part in self.case.passes(rows):
            evaluate = self.in_views(self.case.gradient_source, rows[part])
            with so_far.serving(rows[part]):
                answers.append(oracle(evaluate, here[part], key.take(part)))
        value, grad, fooled = map(torch.cat, zip(*answers, strict=True))
        forward, backward = oracle.passes(here)
        self.ledger.add_gradient(rows, forward * looks, backward * looks, grad)
        self.note(rows, here, key, value, fooled)
        return value, grad

    def finish(self, rows: Tensor, here: Float[Tensor, "R *F"], key: Key) -> None:
        """Evaluate the objective without a gradient, which the last iterates of a run do not need."""
        value, fooled = self.answers(partial(self.in_views, self.case.gradient_source), rows, here, key)
        self.ledger.add_forward(rows, 1 + self.attack.views)
        self.note(rows, here, key, value, fooled)

    def note(self, rows: Tensor, here: Tensor, key: Key, value: Tensor, fooled: Tensor) -> None:
        """Enter an evaluation into the ledger and the best images.

        Where the gradient source is another model, its answer is no verdict, and the attacked model is
        evaluated as well.
        """
        row = self.ledger.add_row(rows, value)
        if self.case.verdict_model is not None:
            judged = partial(self.evaluator, self.case.verdict_model)
            value, fooled = self.answers(judged, rows, here, key.fold("verdict"))
            self.ledger.add_forward(rows, 1)
        self.best.offer(rows, here, fooled, value)
        self.best.fall(rows, fooled, row)
        self.ledger.add_verdicts(rows, fooled)

    @torch.no_grad()
    def answers(
        self, evaluate_at: Callable[[Tensor], Evaluate], rows: Tensor, here: Tensor, key: Key
    ) -> tuple[Tensor, Tensor]:
        """Objective and verdict of some examples, without a gradient."""
        found = [evaluate_at(rows[part])(here[part], key.take(part)) for part in self.case.passes(rows)]
        value, fooled = map(torch.cat, zip(*found, strict=True))
        return value, fooled

    def in_views(self, model: Model, rows: Tensor) -> Evaluate:
        """The mean objective over the image and its views, and whether the image itself fooled the model."""
        evaluate, attack = self.evaluator(model, rows), self.attack
        threat = attack.threat
        if not attack.views or not isinstance(threat, Seen):
            return evaluate

        def look(here: Tensor, key: Key) -> tuple[Tensor, Tensor]:
            value, fooled = evaluate(here, key)
            for i in range(attack.views):
                now = key.fold("view", i)
                value = value + evaluate(threat.seen(here, self.case.x[rows], now), now)[0]
            return value / (1 + attack.views), fooled

        return look

    def evaluator(self, model: Model, rows: Tensor) -> Evaluate:
        return evaluator(model, self.aim.at(rows), self.case.y[rows])


def _taken(memory: Memory, rows: Tensor) -> Memory:
    return {name: values[rows] for name, values in memory.items()}

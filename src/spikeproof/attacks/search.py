"""The one loop behind every gradient attack: it owns projection, best example so far, trace and verdict.

A gradient may come from a substitute of the model; the verdict never does. What an attack returns lies inside
its threat's set, because the loop projects every iterate, and success is what the model itself says about the
returned example under a draw of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.oracles import Evaluate, Exact, Oracle
from spikeproof.attacks.parts.schedules import Constant, Observation, Schedule
from spikeproof.attacks.parts.steps import Memory, Position, Steepest, Step
from spikeproof.attacks.parts.targets import Targets
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.gradients import Recollection
from spikeproof.keys import Key
from spikeproof.losses import KL, LogitCrossEntropy, Margin, Objective, Watching
from spikeproof.protocols import Model, Threat, Watched, attack_call, check_range, moves_events, takes_events

__all__ = [
    "UNRECORDED",
    "Best",
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
"""In position of the row at which an example fell, where an attack does not tell."""


class Result(NamedTuple):
    """What an attack found and the evidence for it."""

    x_adv: Float[Tensor, "B *F"]  # inside the threat's set
    success: Bool[Tensor, "B"]  # judged by the model itself
    losses: Float[Tensor, "S B"]  # objective per step, NaN where an example was no longer attacked
    queries: Int64[Tensor, "B"]  # forward passes per example
    backward_queries: Int64[Tensor, "B"]  # backward passes per example
    zero_gradients: Float[Tensor, "B"]  # share of looks whose gradient was zero everywhere
    # row of `losses` (in a search for the nearest image, looks at the example before) at which it first
    # fooled the model; -1 for none; UNRECORDED, or None for all, where the attack does not tell
    fell: Int64[Tensor, "B"] | None = None


class Best:
    """The best example so far: fooled before not fooled, then by objective; and when it first fell."""

    def __init__(self, x: Float[Tensor, "B *F"]) -> None:
        self.x = x.clone()
        self.fooled = x.new_full((len(x),), -1.0)
        self.value = x.new_full((len(x),), -torch.inf)
        self.fell = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)

    def fall(self, rows: Tensor, fooled: Tensor, step: int) -> None:
        """Note the rows that fell at a step, if it is their first."""
        now = rows[(fooled > 0) & (self.fell[rows] < 0)]
        self.fell[now] = step

    def offer(self, rows: Tensor, x: Tensor, fooled: Tensor, value: Tensor) -> Tensor:
        """Keep what is at least as good as what was there; returns where that was so."""
        value = value.nan_to_num(torch.inf)  # a model that answers NaN is broken there
        before, height = self.fooled[rows], self.value[rows]
        better = (fooled > before) | ((fooled == before) & (value >= height))
        taken = rows[better]
        self.x[taken], self.fooled[taken], self.value[taken] = x[better], fooled[better], value[better]
        return better


SETTLING = 8
"""Draws by which runs on a stochastic model are compared."""


def settle(
    model: Model, y: Int64[Tensor, "B"], key: Key, best: Best, run: Best, end: Float[Tensor, "B *F"]
) -> int:
    """On a model that draws: the best example of earlier runs, of this run and its last, judged by new draws.

    What fooled the model once may have done so by luck, and a later, stronger example may not have been
    lucky. The largest share of new draws that are fooled wins, then the margin.

    Args:
        model: what is attacked.
        y: labels.
        key: of the draws.
        best: over all runs; changed in position.
        run: of the last run, by its own draws.
        end: its last example.

    Returns:
        Looks at each example.
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
    """Examples at a time, where what some attack finds depends on that; None where nothing does."""
    return min((size for attack in attacks if (size := getattr(attack, "batch", None))), default=None)


def check_batch(x: Tensor, y: Tensor) -> None:
    """Refuse labels that do not belong to the images, and images too coarse for a budget.

    Raises:
        InputError: not one integer label of at least 0 per image, or images of half precision or no floats.
    """
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            "An attack needs images in single or double precision; coarser rounding exceeds a budget",
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
    if getattr(_inside(model), "training", False):
        raise InputError(
            "An attack needs a model in evaluation mode", "a model in training mode", "Call model.eval()."
        )


def check_threat(model: object, threat: Threat) -> None:
    """Refuse to change pixels of a model that takes events, and spikes of one that takes images.

    A model without an encoder to look at may take either.

    Raises:
        InputError: the threat is none on what the model takes.
    """
    while not hasattr(model, "encoder") and hasattr(model, "model"):
        model = model.model
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        return
    if moves_events(threat) and not takes_events(encoder):
        raise InputError(
            f"{type(threat).__name__} adds, removes or moves events, of a model with the encoder events",
            f"a model with the encoder {encoder!r}",
            "Use linf, l2, l1 or l0, whose attacks go through the code.",
        )
    if takes_events(encoder) and not moves_events(threat):
        raise InputError(
            f"{type(threat).__name__} changes pixels by fractions, and this model takes whole events",
            f"a model with the encoder {encoder!r}",
            "Use the threats flips, additions, removals or shifts with the attack spike-search.",
        )


def admit(
    model: Model, threat: Threat, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], *sources: Model | None
) -> Float[Tensor, "B *F"]:
    """The images as an attack works on them, once everything that it was given fits together.

    Args:
        model: the attacked model.
        threat: the set to search.
        x: images in [0, 1], or events where the threat moves events.
        y: labels.
        sources: where gradients come from, None for the model itself.

    Raises:
        InputError: labels that do not belong to the images, images of half precision or outside [0, 1], a
            model in training mode, or a threat that is none on what the model takes.
    """
    check_batch(x, y)
    for each in (model, *sources):
        check_mode(model if each is None else each)
    check_threat(model, threat)
    if not moves_events(threat):
        check_range(x, "An attack on images")
    return x.detach().contiguous()  # sums over other layouts round otherwise


def instead(threat: Threat, on_pixels: str) -> str:
    """What to use in position of an attack that does not know this threat."""
    return "Use spike-search, or another attack on events." if moves_events(threat) else on_pixels


def judge(model: Model, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> Bool[Tensor, "B"]:
    """Whether the model, under this key, does not answer the label; a tie is no answer."""
    with torch.no_grad():
        return decide(answer(model, x, y, key)) != y


def show(model: Model, x: Tensor, key: Key | None, potential: bool) -> Watched:
    """What a model's output layer does over time.

    Raises:
        InputError: a model that does not tell.
    """
    watch = getattr(model, "watch", None)
    if watch is None:
        raise InputError(
            "An objective over time needs a model that shows its outputs",
            type(model).__name__,
            "Use an objective of logits, such as margin.",
        )
    seen: Watched = watch(x, key, potential=potential)
    return seen


def answer(model: Model, x: Tensor, y: Tensor, key: Key) -> Tensor:
    return _checked(model(x, key), x, y)


def _checked(logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(x):
        raise InputError(
            f"A model answers with logits [B, K] for {len(x)} images",
            f"shape {list(logits.shape)}",
            "Flatten or average over time inside the model.",
        )
    if logits.shape[1] < 2:
        raise InputError(
            "A model that can be fooled has two classes at least",
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
    """Whether another model is this one with other gradients, which its descent says.

    Equal answers to some images prove nothing. A twin made by `spikeproof.substitute` has the lineage of
    its original; whatever has none is another model, whose answers are no verdict. Wrappers are looked
    into by their `model`.
    """
    ours, theirs = _inside(model), _inside(other)
    lineage = getattr(ours, "lineage", None)
    return ours is theirs or (lineage is not None and getattr(theirs, "lineage", None) is lineage)


def _inside(model: object) -> object:
    while not isinstance(model, torch.nn.Module) and hasattr(model, "model"):
        model = model.model
    return model


def evaluator(model: Model, objective: Objective, y: Int64[Tensor, "B"]) -> Evaluate:
    """Objective and share fooled, as oracles ask for them."""

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
    """An objective with what it needs besides logits and labels, example by example."""

    objective: Objective
    clean: Tensor | None = None  # logits
    target: Tensor | None = None

    def at(self, rows: Tensor) -> Objective:
        """The objective for some of the examples."""
        if isinstance(self.objective, KL) and self.clean is not None:
            return _Anchored(self.objective, self.clean[rows])
        if self.target is None:
            return self.objective
        if isinstance(self.objective, Watching):
            return _WatchingTowards(self.objective, self.target[rows])
        return _Towards(self.objective, self.target[rows])


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
    """A start in a random direction: the steepest one of normal noise.

    Args:
        length: in epsilons, in (0, 1].
    """

    length: float = 1.0

    def __call__(self, threat: Threat, x: Float[Tensor, "B *F"], key: Key) -> Float[Tensor, "B *F"]:
        noise = key.normal(x.shape, 0, x.device).to(x.dtype)
        return threat.project(x + self.length * threat.epsilon * threat.steepest(noise), x)


@dataclass(frozen=True)
class GradientAttack:
    """A search along gradients: threat, oracle, step, schedule and objective, each a part of its own.

    By default every step is the threat's steepest one, of one size, and projected back.

    Args:
        threat: the set and its geometry.
        steps: number of steps, at least 0.
        step_size: `alpha`, in units of the threat's epsilon (pixel value).
        oracle: where gradients come from.
        objective: what is maximised.
        restarts: number of runs, at least 1; the best example of all is returned.
        random_start: begin at a random member of the set instead of at the clean image.
        stop_when_fooled: leave an example alone once it is misclassified (no effect on stochastic models,
            which may have been fooled by a lucky draw).
        step: from a gradient to the next iterate.
        schedule: sizes of the steps.
        best_start: restarts after the first begin at the best example so far.
        start: where a run begins, in position of a random member of the set.
        targets: classes to aim at, each with as many runs as there are restarts.

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

    def __post_init__(self) -> None:
        if self.steps < 0 or self.restarts < 1 or not self.step_size >= 0:
            raise InputError(
                "A gradient attack needs steps >= 0, restarts >= 1 and a step size of at least 0",
                f"steps={self.steps}, restarts={self.restarts}, step_size={self.step_size}",
                "Try steps=20, restarts=1.",
            )
        if moves_events(self.threat) and not self.step.whole:
            raise InputError(
                "Steps along a gradient change values by fractions",
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

        A twin made by `substitute` answers as the model does; of any other model only gradients and the trace
        are taken, and whether an example fell is asked of `model` itself.

        Raises:
            InputError: labels that do not belong to the images, images of half precision or outside [0, 1], a
                model in training mode, or one that does not answer logits.
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
        for restart in range(self.restarts * turns):
            now = key.fold("restart", restart)
            aim = _Aim(self.objective, clean)
            if self.targets is not None and clean is not None:
                aim = _Aim(self.objective, target=self.targets(clean, y, restart % turns))
            run = _Run(self, case, ledger, aim, now, Best(x) if case.stochastic else best)
            end = run.walk(self._start(x, now, best))
            if case.stochastic:
                ledger.forward += settle(model, y, now.fold("settle"), best, run.best, end)
        return ledger.result(best, judge(model, best.x, y, key.fold("verdict")))

    def _start(self, x: Tensor, key: Key, best: Best) -> Tensor:
        if self.best_start and bool((best.fooled >= 0).any()):
            return best.x.clone()
        if self.start is not None:
            return self.start(self.threat, x, key.fold("start"))
        return self.threat.start(x, key.fold("start")) if self.random_start else x.clone()


@dataclass(frozen=True)
class _Case:
    """What is attacked: examples with their labels, who judges them and whose gradients are followed."""

    model: Model
    gradient_source: Model
    x: Float[Tensor, "B *F"]
    y: Int64[Tensor, "B"]

    @property
    def stochastic(self) -> bool:
        return bool(getattr(self.model, "stochastic", False))

    @cached_property
    def judge(self) -> Model | None:
        """Who is asked for verdicts at every step; None where the answers of the source are verdicts."""
        return None if twins(self.model, self.gradient_source) else self.model


class _Ledger:
    """What all runs of one attack have done to each example; every run writes into the same one.

    Args:
        x: the examples.
        early: leave an example alone once it is misclassified.
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
        """The rows that are still attacked."""
        return (~self.done).nonzero().flatten()

    def asked(self, rows: Tensor, forward: int) -> None:
        """Note forward passes alone."""
        self.forward[rows] += forward

    def followed(self, rows: Tensor, forward: int, backward: int, grad: Float[Tensor, "R *F"]) -> None:
        """Note the forward and backward passes that a gradient took."""
        self.forward[rows] += forward
        self.backward[rows] += backward
        self.zero[rows] += (grad.flatten(1) == 0).all(1) * backward

    def saw(self, rows: Tensor, value: Float[Tensor, "R"]) -> int:
        """Add a row to the trace of the objective; returns its number."""
        trace = self._nothing.clone()
        trace[rows] = value
        self.losses.append(trace)
        return len(self.losses) - 1

    def judged(self, rows: Tensor, fooled: Float[Tensor, "R"]) -> None:
        """Note which examples are done, where an attack stops early."""
        if self.early:
            self.done[rows] = fooled > 0

    def result(self, best: Best, success: Bool[Tensor, "B"]) -> Result:
        """The evidence beside the best examples, the forward pass of the verdict included."""
        trace = torch.stack(self.losses) if self.losses else self._nothing.new_zeros(0, len(self.done))
        share = self.zero / self.backward.clamp(min=1)
        return Result(best.x, success, trace, self.forward + 1, self.backward, share, best.fell)


@dataclass(frozen=True)
class _Run:
    """One run of an attack from one start, on the examples that are still standing.

    Args:
        attack: the parts of the attack.
        case: what is attacked.
        ledger: of all runs; written into.
        aim: the objective of this run.
        key: its randomness.
        best: the best examples, which this run improves: those of all runs, or its own where the model draws.
    """

    attack: GradientAttack
    case: _Case
    ledger: _Ledger
    aim: _Aim
    key: Key
    best: Best

    def walk(self, start: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        """Take all steps from a start; returns where each example ends."""
        attack, x, at, rows = self.attack, self.case.x, start.clone(), self.ledger.standing
        memory, plan = attack.step.begin(x[rows]), attack.schedule.begin(x[rows])
        so_far = Recollection(len(x))  # what gradients that adapt remember of this run
        for step in range(attack.steps):
            if not len(rows):
                return at
            now = self.key.fold("step", step).take(rows)
            size = attack.step_size * plan["scale"]
            position = Position(attack.threat, x[rows], at[rows], size, plan["share"], now.fold("move"))
            with so_far.serving(rows):
                value, grad = self.follow(rows, attack.step.gradient_point(position, memory), now)
            observation = Observation(step, attack.steps, position.x, position.here, value, grad)
            here, grad, plan = attack.schedule(observation, plan)
            position = position._replace(
                here=here, size=attack.step_size * plan["scale"], share=plan["share"]
            )
            at[rows], memory = attack.step(position, grad, memory)
            left = ~self.ledger.done[rows]
            rows, memory, plan = rows[left], _taken(memory, left), _taken(plan, left)
        if len(rows):
            self.ask(rows, at[rows], self.key.fold("step", attack.steps).take(rows))
        return at

    def follow(self, rows: Tensor, here: Float[Tensor, "R *F"], key: Key) -> tuple[Tensor, Tensor]:
        """Objective and gradient of some examples, noted in ledger and best examples."""
        oracle = self.attack.oracle
        value, grad, fooled = oracle(self.evaluator(self.case.gradient_source, rows), here, key)
        self.ledger.followed(rows, *oracle.passes(here), grad)
        self.note(rows, here, key, value, fooled)
        return value, grad

    def ask(self, rows: Tensor, here: Float[Tensor, "R *F"], key: Key) -> None:
        """The objective alone, noted in ledger and best examples: the end of a run needs no gradient."""
        with torch.no_grad():
            value, fooled = self.evaluator(self.case.gradient_source, rows)(here, key)
        self.ledger.asked(rows, 1)
        self.note(rows, here, key, value, fooled)

    def note(self, rows: Tensor, here: Tensor, key: Key, value: Tensor, fooled: Tensor) -> None:
        """File what was seen; where the source is another model, its answer is no verdict."""
        row = self.ledger.saw(rows, value)
        if self.case.judge is not None:
            with torch.no_grad():
                value, fooled = self.evaluator(self.case.judge, rows)(here, key.fold("verdict"))
            self.ledger.asked(rows, 1)
        self.best.offer(rows, here, fooled, value)
        self.best.fall(rows, fooled, row)
        self.ledger.judged(rows, fooled)

    def evaluator(self, model: Model, rows: Tensor) -> Evaluate:
        return evaluator(model, self.aim.at(rows), self.case.y[rows])


def _taken(memory: Memory, rows: Tensor) -> Memory:
    return {name: values[rows] for name, values in memory.items()}

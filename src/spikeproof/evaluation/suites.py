"""Suites: planned sequences of attacks without parameters, each on the examples that are still right.

The plan depends on the model (is it stochastic? does its encoder map pixels to levels?) and on the threat.
Cheap attacks come first, then other gradients, other objectives, more restarts and the search over spike
patterns. Attacks without gradients come last and start from the images of the largest margin so far. The
worst case per example counts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.foundlevels import LevelSearch
from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import PatchSearch, RectangleSearch, SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch, known_code
from spikeproof.attacks.events.eventsteps import Retiming, SpikeCompatible
from spikeproof.attacks.events.fewest import SDA
from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
from spikeproof.attacks.gradient.assembled import Assembled
from spikeproof.attacks.gradient.estimates import NES
from spikeproof.attacks.gradient.iterated import APGD, APGDL1, APGDT, SAPGD
from spikeproof.attacks.gradient.plain import EOTPGD, PGD, Through
from spikeproof.attacks.made_of.composite import (
    GradientSources,
    WidthSweep,
    gradient_sources_of,
    objectives_of,
    queries_of,
    sees_every_exit,
    steps_of,
)
from spikeproof.attacks.made_of.nested import Carried, going_on
from spikeproof.attacks.made_of.stand_in import StandIn
from spikeproof.attacks.nearest.linearised import FABT
from spikeproof.attacks.nearest.penalised import EAD
from spikeproof.attacks.nearest.sparse import OnePixel, SigmaZero
from spikeproof.attacks.parts.objectives import (
    FirstSpikeMargin,
    PotentialMargin,
    PrefixMean,
    answers_margin,
)
from spikeproof.attacks.parts.schedules import Halving
from spikeproof.attacks.parts.steps import StableAdaptive
from spikeproof.attacks.parts.targets import EveryOther
from spikeproof.attacks.physical.beamsearch import AdvLB
from spikeproof.attacks.physical.stickersearch import RP2, AdvHat
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.attacks.search import Result, check_threat, evaluator
from spikeproof.encoders import (
    BackwardRule,
    QuantisedDirect,
    SpikeCode,
    StraightThrough,
    TimeShift,
    with_backward,
)
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.asking.callables import answering
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.evaluation.columns import subset
from spikeproof.evaluation.interim import Interim
from spikeproof.evaluation.levels import LEVELS, Level
from spikeproof.evaluation.outcomes import (
    Attacked,
    AttackedMetrics,
    Clean,
    Contribution,
    ContributionEvidence,
    Untouched,
)
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import check_outcomes, evaluate_attack
from spikeproof.gradients import ASSG
from spikeproof.keys import Key
from spikeproof.losses import DLR, LogitCrossEntropy, Margin, Objective
from spikeproof.networks.architecture import MLP
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.networks.substitute import Substitutable
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.surrogates import ATan, Exponential, Rectangle, Triangle
from spikeproof.threats import L0, L1, L2, LaserBeam, Linf, Printed, Region, Shifts, SquarePatch

__all__ = ["Contribution", "Member", "Suite", "Suited", "SuitedMetrics", "evaluate_suite", "plan"]


class Member(NamedTuple):
    """One attack of a suite.

    Args:
        name: name of the member, as it is shown.
        recipe: the attack.
        after: the member that must have broken an example for this one to run; None if it always runs. If
            both have recipes of one kind, this one *repeats* it, perhaps for longer, which shows whether the
            search had ended.
        share: the share of its examples that the member `after` must have broken for this one to run, in
            [0, 1], unless a repeat of that member broke an example.
        few: number of examples of the member `after` up to which this one runs whatever that one broke, since
            so few do not tell a share.
    """

    name: str
    recipe: Recipe
    after: str | None = None
    share: float = 0.0
    few: int = 0


@dataclass(frozen=True, kw_only=True)
class Suite(Recipe):
    """A planned sequence of attacks, each on the examples that are still right; the worst case counts.

    Args:
        level: `quick`, `standard` or `extreme`.

    Raises:
        InputError: there is no such level, or no suite for the threat of a call.

    Source:
        Croce & Hein 2020 (AutoAttack), for the idea of a parameter-free ensemble; the members are those of
        spikeproof.
    """

    level: str = Level.STANDARD.value

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError("Expected a suite", repr(self.level), suggest(self.level, LEVELS))
        object.__setattr__(self, "level", Level(self.level).value)  # plain text, whichever of the two came

    def __call__(self, threat: Threat) -> Attack:
        if not (moves_events(threat) or isinstance(threat, LaserBeam)):
            _ball(threat)
        return _never


def _never(*_: object, **__: object) -> Result:
    raise InputError("Expected evaluate_suite() to run a suite", "a direct call", "Use evaluate_suite().")


def plan(level: str, model: Model | ModelSpec, threat: Threat) -> list[Member]:
    """The attacks of a suite on this model, in their order.

    Every suite for images contains the members of the next smaller one, under the same names and so with the
    same randomness. On a deterministic model, the gradient attacks of a larger suite therefore leave no more
    than those of a smaller one. Members that begin at the best images so far begin at others where more
    members ran before them, so the whole number may differ by an image either way. On events, the same
    members search for longer.

    Args:
        level: `quick`, `standard` or `extreme`.
        model: the model, or its spec; the plan does not depend on weights.
        threat: the threat with its budget.

    Raises:
        InputError: there is no such level, or no suite for this threat.

    Example:
        >>> [member.name for member in plan("quick", lambda x, key=None: x, Linf(0.1))]
        ['pgd', 'pgd-margin', 'noise', 'rectangles']
    """
    Suite(level=level)(threat)
    level = Level(level)
    check_threat(model, threat)
    kind = _Kind.of(model)
    if moves_events(threat):
        return _on_events(level, kind, threat)
    if isinstance(threat, LaserBeam):
        beams = [AdvLB(restarts=restarts) for restarts in (10, 50, 200)]
        return [Member("noise", NoiseSearch(draws=50)), *_longer(level, "adv-lb", *beams)]
    ball = _ball(threat)
    stages = [_quick, _standard, _extreme][: LEVELS.index(level) + 1]
    by_gradients = [member for stage in stages for member in stage(kind, ball)]
    members = [*by_gradients, *_without_gradients(level, kind, ball)]
    if ball == threat:
        return members
    if isinstance(threat, SquarePatch):
        patches = [PatchSearch(queries=queries) for queries in (500, 3000, 10_000)]
        members += _longer(level, "patch-search", *patches)
    if isinstance(threat, Printed):
        pictures = [RP2(views=0, steps=steps, objective=Margin()) for steps in (20, 100, 300)]
        smooth = [AdvHat(views=0, steps=steps) for steps in (20, 100, 300)]
        members += [*_longer(level, "rp2", *pictures), *_longer(level, "adv-hat", *smooth)]
    usable = [member for member in members if _allows(member.recipe, threat)]
    searched = any(m.recipe.gradient_free and not isinstance(m.recipe, NoiseSearch) for m in usable)
    return usable if searched else [*usable, *_estimated(level)]


def _ball(threat: Threat) -> Threat:
    """The ball whose attacks are used: of a region its own, L0 for a patch, Linf for a sticker."""
    if isinstance(threat, (Linf, L2, L1, L0)):
        return threat
    if isinstance(threat, Region):
        return threat.ball
    if isinstance(threat, SquarePatch):
        return L0(threat.epsilon**2)
    if isinstance(threat, Printed):
        return Linf(threat.epsilon)
    raise InputError(
        "There are suites for linf, l2, l1, l0, regions of these, objects in a scene, and threats on events",
        repr(threat),
        "List the attacks of this threat in a study instead.",
    )


def _allows(recipe: Recipe, threat: Threat) -> bool:
    try:
        recipe(threat)
    except InputError:
        return False
    return True


class _Kind(NamedTuple):
    """What a plan depends on: parts of the model, never its weights."""

    encoder: Any  # None if only the logits of the model are known
    spec: ModelSpec | None
    stochastic: bool
    foreign: Substitutable | None = None  # with neurons of another framework, which are known

    @classmethod
    def of(cls, model: Model | ModelSpec) -> _Kind:
        if isinstance(model, ModelSpec):
            return cls(model.encoder, model, model.encoder.stochastic)
        stochastic = bool(getattr(model, "stochastic", False))
        spec = model.spec if isinstance(model, Classifier) else None
        foreign = model if isinstance(model, Substitutable) and model.spiking else None
        return cls(getattr(model, "encoder", None), spec, stochastic, foreign)

    @property
    def known(self) -> ModelSpec | Substitutable | None:
        """The parts of the model; None if only its logits are known."""
        return self.foreign if self.spec is None else self.spec

    def pgd(self, draws: int = 4, **settings: Any) -> PGD:
        """Projected gradient descent, in expectation if the model is stochastic."""
        return EOTPGD(draws=draws, **settings) if self.stochastic else PGD(**settings)

    def in_expectation(self, draws: int = 4) -> dict[str, Any]:
        return {"draws": draws} if self.stochastic else {}

    def reads(self, objective: Objective) -> bool:
        """Whether an objective on the output layer is defined for the model."""
        return self.known is not None and PGD(objective=objective).reads(self.known)

    @property
    def exits(self) -> bool:
        """Whether the model has exits besides the one that is taken."""
        return self.reads(PrefixMean(Margin()))

    @property
    def spiking(self) -> bool:
        return self.foreign is not None or (self.spec is not None and self.spec.neuron.spiking)

    def adapts(self, threat: Threat) -> bool:
        """Whether ASSG, whose surrogate adapts to potentials, and SA-PGD are defined for the model."""
        if self.known is None or self.stochastic or not isinstance(threat, (Linf, L2)):
            return False
        try:
            _adaptive(0.425).check(self.known)
        except InputError:
            return False
        return True

    @property
    def counts(self) -> bool:
        """Whether logits are counts or times of spikes, on whose plateaus more attacks are needed."""
        if self.foreign is not None:
            return self.foreign.counts
        return self.spec is not None and self.spec.decoder.reads_spikes

    @property
    def classes(self) -> int:
        return 2 if self.known is None else self.known.classes


def _quick(kind: _Kind, threat: Threat) -> list[Member]:
    """The cheapest strong attacks: two gradient sources, two objectives, every exit, a short search."""
    adapts = kind.adapts(threat)
    members = [Member("pgd", PGD(steps=20))]
    if adapts:
        members.append(Member("sa-pgd-narrow", _adaptive(0.46, restarts=_runs(kind, threat, 4))))
    steps = 20 if kind.stochastic or (adapts and not kind.counts) else 50
    members.append(Member("pgd-margin", kind.pgd(steps=steps, objective=Margin())))
    if kind.exits:
        members.append(Member("pgd-prefixes", kind.pgd(steps=20, objective=PrefixMean(Margin()))))
    if _aware(kind, threat):
        members.append(Member("encoder-aware-brief", EncoderAwareSearch(steps=6, restarts=1, refine=0)))
    return members


def _standard(kind: _Kind, threat: Threat) -> list[Member]:
    """Other gradients, large and adaptive steps, the full search over spike patterns, every target class."""
    aware, adapts = _aware(kind, threat), kind.adapts(threat)
    restarts = 1 if kind.stochastic or aware else 2
    members = [Member("sa-pgd-wide", _adaptive(0.39, restarts=_runs(kind, threat, 2)))] if adapts else []
    if not adapts:
        members.append(Member("pgd-coarse", kind.pgd(steps=20, restarts=restarts, reach=10.0)))
    members += [*_backward_rules(kind, steps=20), *_surrogates(kind, threat, steps=20, every=False)]
    if not isinstance(threat, L0):
        steps = 20 if kind.stochastic or adapts else 50
        members.append(Member("apgd-ce", APGD(steps=steps, **kind.in_expectation())))
    if kind.exits:
        if not isinstance(threat, L0):
            adaptive = APGD(steps=20, objective=PrefixMean(), **kind.in_expectation())
            members.append(Member("apgd-prefixes", adaptive))
        for name, objective in (("first-spike", FirstSpikeMargin()), ("potential", PotentialMargin())):
            recipe = kind.pgd(steps=20, reach=5.0, objective=objective)
            members += [Member(f"pgd-{name}", recipe)] if kind.reads(objective) else []
    if aware:
        members.append(Member("encoder-aware", EncoderAwareSearch(restarts=1, refine=300, near=True)))
    elif not adapts and not isinstance(threat, L0):
        members += _every_class(kind, threat)
    elif kind.counts and not isinstance(threat, L0):
        members += _on_plateaus()
    return [*members, *_nearest(kind, threat)]


def _on_plateaus() -> list[Member]:
    """Target classes, and a third strength with more steps, for logits that are constant in many places.

    Where logits are constant, the gradient of a surrogate is right by luck, and so each run finds other
    examples; runs towards every class are made again until one of them finds none.
    """
    towards = APGDT(steps=20, targets=EveryOther(9), objective=Margin())
    adapted = Through(gradient=ASSG(0.46), attack=towards)
    steady = Member("sa-pgd-t", _adaptive_towards(restarts=1))
    return [
        Member("apgd-t", adapted),
        Member("sa-pgd-middle", _adaptive(0.425, steps=100)),
        steady,
        *_repeats(steady),
    ]


def _adaptive_towards(restarts: int) -> Recipe:
    """SA-PGD with the gradients of ASSG towards one other class after the other."""
    steps = 50
    steady = Assembled(
        steps=steps,
        reach=float(steps),
        step=StableAdaptive(),
        schedule=Halving(),
        targets=EveryOther(9),
        restarts=restarts,
    )
    return Through(gradient=ASSG(0.46), attack=steady)


def _adaptive(strength: float, steps: int = 50, restarts: int = 1) -> Recipe:
    """SA-PGD with the gradients of ASSG, which were published together."""
    return Through(gradient=ASSG(strength), attack=SAPGD(steps=steps, restarts=restarts))


def _runs(kind: _Kind, threat: Threat, on_counts: int) -> int:
    """Runs of SA-PGD: several on spike counts, which have plateaus, unless spike patterns are searched."""
    return on_counts if kind.counts and not _aware(kind, threat) else 1


def _every_class(kind: _Kind, threat: Threat) -> list[Member]:
    """Towards one target class after the other, and along the margin where there are no surrogates."""
    few, steps = (3, 10) if kind.stochastic else (4, 20)
    if kind.known is None:
        steep = not isinstance(threat, L1)
        members = [Member("apgd-margin", APGD(steps=50, objective=Margin(), **kind.in_expectation()))]
        members += [Member("sa-pgd", SAPGD(steps=100, **kind.in_expectation()))] if steep else []
        targets = EveryOther(few if kind.stochastic else 9)
        towards = APGDT(steps=steps, targets=targets, objective=Margin(), **kind.in_expectation(2))
        aimed = Member("apgd-t", towards)
        return [*members, aimed, *([] if kind.stochastic else _repeats(aimed))]
    members = []
    if not (kind.spiking or kind.stochastic or isinstance(threat, L1)):
        members.append(Member("apgd-margin", APGD(steps=100, restarts=2, objective=Margin())))
    if kind.classes > 3:
        towards = APGDT(steps=steps, targets=EveryOther(few), **kind.in_expectation(2))
        members.append(Member("apgd-t", towards))
    return members


def _extreme(kind: _Kind, threat: Threat) -> list[Member]:
    """The same attacks with many steps, restarts and draws."""
    draws, members = 20, []
    for name, objective in (("", LogitCrossEntropy()), ("-margin", Margin())):
        recipe = kind.pgd(draws, steps=40, restarts=5, reach=10.0, objective=objective)
        members.append(Member(f"pgd-coarse{name}-long", recipe))
    members.append(Member("pgd-margin-long", kind.pgd(draws, steps=100, objective=Margin())))
    if kind.adapts(threat):
        for strength in (0.35, 0.39, 0.425, 0.46, 0.48):
            members.append(Member(f"sa-pgd-{strength}", _adaptive(strength, steps=100)))
        if kind.counts and not isinstance(threat, L0):
            members.append(Member("sa-pgd-t-long", _adaptive_towards(restarts=5)))
    if not isinstance(threat, L0):
        members.append(Member("apgd-ce-long", APGD(steps=100, restarts=2, **kind.in_expectation(draws))))
        if kind.known is None or kind.classes > 3:
            aim = Margin() if kind.known is None else DLR()
            members.append(
                Member("apgd-t-long", APGDT(steps=40, objective=aim, **kind.in_expectation(draws)))
            )
    if kind.exits:
        prefixes = kind.pgd(draws, steps=100, objective=PrefixMean(Margin()))
        members.append(Member("pgd-prefixes-long", prefixes))
        if not isinstance(threat, L0):
            adaptive = APGD(steps=100, objective=PrefixMean(), **kind.in_expectation(draws))
            members.append(Member("apgd-prefixes-long", adaptive))
    if _aware(kind, threat):
        members.append(Member("encoder-aware-long", LONG_AWARE))
    return [*members, *_surrogates(kind, threat, steps=40, every=True), *_backward_rules(kind, steps=40)]


def _without_gradients(level: Level, kind: _Kind, threat: Threat) -> list[Member]:
    """Noise and random search, from the images of the largest margin and from clean images."""
    members = [Member("noise", NoiseSearch(draws=10))]
    if isinstance(threat, L1):
        return [*members, *_estimated(level)]
    if not isinstance(threat, (Linf, L2)):
        few = OnePixel(steps=10, population=20)
        return [*members, *_longer(level, "one-pixel", few, OnePixel(), OnePixel(steps=100, population=100))]
    short, long = (100, 300) if kind.spiking else (50, 150)
    if kind.known is None:
        short, long = 200, 2000
    elif kind.stochastic:
        short, long = 50, 100
    aware, searched = _aware(kind, threat), level is not Level.QUICK
    stepwise = isinstance(threat, Linf) and _may_be_stepwise(kind)
    if searched and stepwise and not aware:
        queries = 12_000 if kind.spec is None else 4000
        members.append(Member("level-search", LevelSearch(queries=queries, near=True)))
    if searched and kind.known is None:  # there is no twin with other gradients
        members.append(Member("stand-in", StandIn(queries=2000)))
    rectangles = [RectangleSearch(queries=queries) for queries in (short, long, 10_000)]
    near = _longer(level, "rectangles", *rectangles)
    members += near[:1] if searched and aware else near
    if searched and aware:
        members.append(Member("encoder-aware-again", _towards_every_class(kind)))
        if _begins_linear(kind) and level is not Level.EXTREME:  # there it is among the first
            members.append(Member("encoder-aware-long", LONG_AWARE))
        queries = 8000 if _begins_linear(kind) else 3000
        members.append(Member("level-search", LevelSearch(queries=queries, near=True)))
    elif searched and (kind.known is None or (kind.counts and not (kind.stochastic or stepwise))):
        queries = 1000 if kind.known is None else 400
        members.append(Member("square-long", SquareSearch(queries=queries)))
    members += [again for m in members if isinstance(m.recipe, LevelSearch) for again in _repeats(m)]
    if searched and stepwise:
        still = None if level is Level.EXTREME else "level-search"
        longer = LevelSearch(queries=24_000, near=True)
        anyway = FEW if _begins_linear(kind) else 0
        members.append(Member("level-search-long", longer, still, STILL_FINDING, anyway))
    if searched and aware:
        members += near[1:]
        if not _begins_linear(kind):
            members.append(Member("square-long", SquareSearch(queries=6000)))
    if level is Level.EXTREME:
        members.append(Member("stand-in-long", StandIn(queries=3000)))
        members.append(Member("square-longest", SquareSearch(queries=10_000)))
    return members


LONG_AWARE = EncoderAwareSearch(steps=40, restarts=10, refine=60)
"""The longest search over spike patterns, in place of Square where the first layer is linear."""

STILL_FINDING = 1 / 25
"""A search is run for longer if it broke at least this share of its examples, or a repeat of it any."""

FEW = 25
"""Examples up to which a search is run for longer in any case: none of so few says little of that share."""


def _begins_linear(kind: _Kind) -> bool:
    """Whether changes of few pixels cost little, as each changes the first layer by its weights alone."""
    return kind.spec is not None and isinstance(kind.spec.network, MLP)


def _repeats(member: Member) -> list[Member]:
    """The same search again from the best images so far, if it broke an example; and again, if that did."""
    again = f"{member.name}-again"
    return [Member(again, member.recipe, member.name), Member(f"{again}-2", member.recipe, again)]


def _may_be_stepwise(kind: _Kind) -> bool:
    """Whether pixels may be rounded to levels, by a code that is known or behind a function."""
    if kind.stochastic:
        return False
    return kind.spec is None or known_code(kind) is not None or isinstance(kind.encoder, QuantisedDirect)


def _towards_every_class(kind: _Kind) -> Recipe:
    """Short runs towards up to nine classes, from random patterns and then from the best patterns so far."""
    towards = min(max(kind.classes - 1, 1), 9)
    return EncoderAwareSearch(steps=6, restarts=1 + 2 * towards, refine=0, near=True)


def _estimated(level: Level) -> list[Member]:
    """Gradients estimated from answers, for threats without a random search."""
    sizes = ((10, 10), (20, 20), (100, 50))
    return _longer(level, "nes", *(NES(steps=steps, samples=samples) for steps, samples in sizes))


def _longer(level: Level, name: str, short: Recipe, long: Recipe, longest: Recipe) -> list[Member]:
    """A search, and at higher levels also longer searches of the same kind."""
    members = [Member(name, short)]
    if level is not Level.QUICK:
        members.append(Member(f"{name}-long", long))
    if level is Level.EXTREME:
        members.append(Member(f"{name}-longest", longest))
    return members


def _aware(kind: _Kind, threat: Threat) -> bool:
    return isinstance(threat, Linf) and EncoderAwareSearch().suits(kind)


def _nearest(kind: _Kind, threat: Threat) -> list[Member]:
    """Searches for the nearest image, for norms in which projected steps are weak."""
    if isinstance(threat, L1):
        sparse = APGDL1(steps=100, restarts=1, **kind.in_expectation())
        members = [Member("apgd-l1", sparse), Member("fab-t", FABT(steps=20, targets=3))]
        if not kind.stochastic:  # else EAD takes longer than all others together
            members.append(Member("ead", EAD(steps=50, searches=4)))
        return members
    if isinstance(threat, L0):
        steps, fewer = (100, 50) if kind.stochastic else (600, 400)
        small = SigmaZero(steps=fewer, step_size=0.5)
        return [Member("sigma-zero", SigmaZero(steps=steps)), Member("sigma-zero-small", small)]
    return []


def _on_events(level: Level, kind: _Kind, threat: Threat) -> list[Member]:
    """Attacks on spike trains: noise, published attacks, a search by gradients, a walk without gradients.

    Every level has an attack that follows gradients for long enough to count as a search (`ENOUGH_STEPS` of
    the audit); the few steps of the quick search alone do not count.
    """
    searches = {
        Level.QUICK: SpikeSearch(steps=6, restarts=1, width=8, refine=2),
        Level.STANDARD: SpikeSearch(),
        Level.EXTREME: SpikeSearch(steps=40, restarts=8, width=32, refine=20),
    }
    search = searches[level]
    members = [Member("noise", NoiseSearch(draws=10))]
    if isinstance(threat, Shifts):
        members.append(Member("retiming", Retiming(steps=20 if level is Level.QUICK else 40)))
    elif level is not Level.QUICK:
        members.append(Member("sda", SDA()))
    members.append(Member("spike-compatible", SpikeCompatible(objective=Margin())))
    members.append(Member("spike-search", search))
    if level is not Level.QUICK:
        brief = replace(search, restarts=1)
        entropy = replace(brief, objective=LogitCrossEntropy())
        members.append(Member("spike-search-entropy", entropy))
        if kind.spiking:
            for name, surrogate in (("wide", ATan(1.0)), ("sharp", ATan(6.0))):
                members.append(Member(f"spike-search-{name}", replace(brief, surrogate=surrogate)))
        prefixes = replace(brief, objective=PrefixMean(Margin()))
        if kind.exits:
            members.append(Member("spike-search-prefixes", prefixes))
    queries = {Level.QUICK: 100, Level.STANDARD: 500, Level.EXTREME: 5000}[level]
    return [*members, Member("spike-walk", SpikeWalkSearch(queries=queries))]


SURROGATES = (ATan(6.0), Triangle(0.5), Exponential(1.0, 2.0), Rectangle(4.0))
"""Surrogates of the gradients in standard suites: two narrow ones and two wide ones."""

BESIDE = (ATan(6.0), Exponential(1.0, 2.0))
"""Surrogates beside adaptive gradients: a narrow one and a wide one."""


def _surrogates(kind: _Kind, threat: Threat, steps: int, every: bool) -> list[Member]:
    """Attacks with the gradients of other surrogates, one after the other."""
    if not kind.spiking:
        return []
    if kind.stochastic:  # a sweep in expectation costs too much for what it finds
        draws, long = (20, "-long") if every else (2, "")
        chosen = {"wide": ATan(1.0), "sharp": ATan(6.0)} if every else {"wide": ATan(1.0)}
        return [
            Member(
                f"pgd-{name}{long}",
                kind.pgd(draws, steps=steps, surrogate=surrogate, reach=5.0, objective=Margin()),
            )
            for name, surrogate in chosen.items()
        ]
    attack = PGD(steps=steps, reach=5.0, objective=Margin())
    if every:
        return [Member("width-sweep-long", WidthSweep(attack=attack))]
    widths = BESIDE if kind.adapts(threat) and not kind.counts else SURROGATES
    return [Member("width-sweep", WidthSweep(attack=attack, surrogates=widths))]


def _backward_rules(kind: _Kind, steps: int) -> list[Member]:
    """Attacks with the gradients of other backward rules of the encoder."""
    if kind.known is None or not isinstance(kind.encoder, SpikeCode):
        return []
    own, long = kind.encoder.backward, "" if steps == 20 else "-long"
    members = []
    for name, rule in (("time-shift", TimeShift()), ("straight-through", StraightThrough())):
        if rule != own and _fits(kind.encoder, rule):
            recipe = kind.pgd(steps=steps, backward=rule, reach=5.0, objective=Margin())
            members.append(Member(f"pgd-{name}{long}", recipe))
    return members


def _fits(encoder: SpikeCode, rule: BackwardRule) -> bool:
    try:
        with_backward(encoder, rule)
    except InputError:
        return False
    return True


class SuitedMetrics(AttackedMetrics):
    """Headline numbers of a suite, with the contribution of each member."""

    members: list[Contribution]


@dataclass(frozen=True)
class Suited:
    """The outcome of a suite.

    Args:
        attacked: the worst case per example; its `losses` are empty.
        broken_by: per example, the position of the member whose image counts; -1 for the clean image.
        members: what each member did, in order.
    """

    attacked: Attacked
    broken_by: Int64[Tensor, "N"]
    members: Sequence[Contribution] = ()

    @property
    def accuracy(self) -> float:
        """Robust accuracy in the worst case over the members."""
        return float(self.attacked.right.double().mean())

    def metrics(self) -> SuitedMetrics:
        """Headline numbers, with the table of contributions; silent success is measured per member only."""
        found = self.attacked.metrics()
        return {**found, "losses": [], "silent_success_share": float("nan"), "members": list(self.members)}


InBlocks = Callable[[str, Callable[[slice], Attacked], int, int], Attacked]
"""(name of a member, measurement of some rows, batch, number of rows) -> outcome of all rows."""


def _at_once(name: str, measure: Callable[[slice], Attacked], batch: int, examples: int) -> Attacked:
    return measure(slice(examples))


def evaluate_suite(
    model: Model,
    level: str,
    threat: Threat,
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    clean: Clean,
    key: Key,
    *,
    batch_size: int = 100,
    draws: int = 10,
    members: Sequence[Member] | None = None,
    after: Suited | None = None,
    interim: Interim | None = None,
    on_member: Callable[[Interim, int], None] | None = None,
    in_blocks: InBlocks = _at_once,
) -> Suited:
    """The worst case per example over the members of a suite.

    Args:
        model: maps images to logits; in evaluation mode.
        level: `quick`, `standard` or `extreme`.
        threat: `Linf`, `L2`, `L1` or `L0`, or one on events.
        x: images in [0, 1], or events.
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: key of the randomness of attacks and draws.
        batch_size: examples per forward pass; does not change any number.
        draws: forward passes per verdict on a stochastic model.
        members: attacks that replace the attacks of the plan.
        after: an earlier outcome on the same examples, from which the members continue.
        interim: the state of this same suite when it was interrupted; the outcome is the same as without it.
        on_member: called after every member but the last with the state, which the next member changes, and
            with the number of members.
        in_blocks: measures one member on its examples, given its name, what measures the examples from one
            row to another, the batch size and their number; the outcome is the same as of all at once.

    Raises:
        InputError: in the cases of `plan` and `evaluate_attack`.
    """
    model = answering(model)
    check_outcomes(clean, x, y)
    worst = Attacked.before(Untouched(threat, x, clean)) if after is None else after.attacked
    none = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    broken = none if after is None else after.broken_by.clone()
    entries: list[Contribution] = [] if after is None else list(after.members)
    nearest = _Nearest(model, worst.x_adv.clone(), y, clean.example, batch_size)
    members, first = plan(level, model, threat) if members is None else members, len(entries)
    if interim is not None:
        worst, broken, entries = interim.worst, interim.broken_by.clone(), list(interim.members)
        nearest.images, nearest.height = interim.nearest.clone(), interim.height.clone()
    for position, member in enumerate(members, first):
        if position < len(entries):
            continue
        rows = (worst.right_selection > 0).nonzero().flatten()
        if not _called_for(member, entries):
            rows = rows[:0]
        began, gradient_source, found = time.perf_counter(), through(model, member.recipe), None
        before = worst
        if len(rows):
            attack = member.recipe(threat)
            if member.recipe.goes_on:
                attack = going_on(attack, nearest.carried)
            measure = functools.partial(
                _measured, model, attack, threat, x, y, clean, key.fold("member", member.name), rows
            )
            found = in_blocks(
                f"member {position + 1}, {member.name}",
                functools.partial(measure, through=gradient_source, batch_size=batch_size, draws=draws),
                getattr(attack, "batch", None) or batch_size,
                len(rows),
            )
            better = found.better_than(worst, rows)
            broken[rows[better]] = position
            worst = worst.worse(found, rows)
            nearest.learn(rows[~better], found.x_adv[~better], key.fold("nearest", member.name))
        entry = _contribution(member, gradient_source is None, found, before, worst, began)
        if found is not None and any(_repeated(member, m) for m in members):
            entry["repeats"] = True
        entries.append(entry)
        if on_member is not None and position + 1 < first + len(members):
            interim = Interim(worst, broken, tuple(entries), nearest.images, nearest.height)
            on_member(interim, first + len(members))
    return Suited(worst, broken, entries)


def _measured(
    model: Model,
    attack: Attack,
    threat: Threat,
    x: Tensor,
    y: Tensor,
    clean: Clean,
    key: Key,
    rows: Int64[Tensor, "R"],
    block: slice,
    *,
    through: Model | GradientSources | None,
    batch_size: int,
    draws: int,
) -> Attacked:
    """The outcome of a member on a block of the rows that it attacks."""
    here = rows[block]
    return evaluate_attack(
        model,
        attack,
        threat,
        x[here],
        y[here],
        subset(clean, here),
        key,
        through=through,
        batch_size=batch_size,
        draws=draws,
    )


class _Nearest:
    """For each example, the image of the largest margin so far, from which some members start."""

    def __init__(
        self, model: Model, x: Float[Tensor, "N *F"], y: Tensor, ids: Tensor, batch_size: int
    ) -> None:
        self.model, self.images, self.y, self.ids, self.size = Steady(model), x, y, ids, batch_size
        self.margin = answers_margin(self.model)
        self.height = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)

    @property
    def carried(self) -> Carried:
        return Carried(self.ids, self.images)

    @torch.no_grad()
    def learn(self, rows: Int64[Tensor, "R"], images: Float[Tensor, "R *F"], key: Key) -> None:
        """Keep each image whose margin is at least as large, measured in one forward pass per image."""
        for start in range(0, len(rows), self.size):
            here, tried = rows[start : start + self.size], images[start : start + self.size]
            now = key.for_rows(self.ids[here])
            value, _ = evaluator(self.model, self.margin, self.y[here])(tried, now)
            value = value.double().nan_to_num(torch.inf)
            better = value >= self.height[here]
            self.images[here[better]], self.height[here[better]] = tried[better], value[better]


def _contribution(
    member: Member, own: bool, found: Attacked | None, before: Attacked, worst: Attacked, began: float
) -> Contribution:
    """The contribution of one member.

    Args:
        member: the member.
        own: whether its gradients, if it uses any, are gradients of the model itself.
        found: its outcome; None if it did not run.
        before: the worst case before it.
        worst: the worst case after it.
        began: the time at which it began, in seconds.
    """
    recipe, free = member.recipe, member.recipe.gradient_free
    entry: Contribution = {
        "name": member.name,
        "attacked": 0 if found is None else len(found.example),
        **_evidence(found),
        "seconds": round(time.perf_counter() - began, 3),
        "broke": float(before.right.sum()) - float(worst.right.sum()),
        "left": float(worst.right.double().mean()),
        "gradient_free": free,
        "own_gradient": own and not free,
        "steps": steps_of(recipe),
        "draws": 1 if free else getattr(recipe, "draws", 1),
        "objectives": list(objectives_of(recipe)),
        "sources": list(gradient_sources_of(recipe)),
        "queries": 0.0 if found is None else queries_of(recipe, int(found.queries.sum()), len(found.example)),
    }
    if sees_every_exit(recipe):
        entry["every_exit"] = True
    return entry


def _evidence(found: Attacked | None) -> ContributionEvidence:
    if found is None:
        return {}
    metrics = found.metrics()
    return {
        "evidence": metrics,
        "forward_queries": metrics["forward_queries"],
        "backward_queries": metrics["backward_queries"],
    }


def _repeated(member: Member, earlier: Member) -> bool:
    """Whether a member is the search of an earlier one once more, perhaps for longer."""
    return member.after == earlier.name and type(member.recipe) is type(earlier.recipe)


def _called_for(member: Member, entries: Sequence[Contribution]) -> bool:
    """Whether what earlier members broke, in expectation if the model is stochastic, calls for a member."""
    if member.after is None:
        return True
    first = next((entry for entry in entries if entry["name"] == member.after), None)
    if first is None:
        return False
    if member.share == 0:
        return first["broke"] >= 1
    if 0 < first["attacked"] <= member.few:
        return True
    repeats = (e for e in entries if e.get("repeats") and e["name"].startswith(member.after))
    enough = max(1, member.share * first["attacked"])
    return first["broke"] >= enough or sum(repeat["broke"] for repeat in repeats) >= 1

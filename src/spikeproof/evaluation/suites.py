"""Suites: planned sequences of attacks without parameters, each run only on what the others left standing.

A suite looks at the model (does it draw? does it code pixels as levels?) and at the threat, and plans
accordingly: cheap attacks first, then other gradients, other objectives, more restarts, the search over
spike patterns, and at the end attacks that see no gradient, from where the others came nearest. What counts
is the worst case per example.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NotRequired, TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import PatchSearch, RectangleSearch, SquareSearch
from spikeproof.attacks.answers.reachable import EncoderAwareSearch
from spikeproof.attacks.events.eventsteps import Retiming, SpikeCompatible
from spikeproof.attacks.events.fewest import SDA
from spikeproof.attacks.events.spikesearch import SpikeSearch, SpikeWalkSearch
from spikeproof.attacks.gradient.estimates import NES
from spikeproof.attacks.gradient.iterated import APGD, APGDL1, APGDT, SAPGD
from spikeproof.attacks.gradient.plain import EOTPGD, PGD, Through
from spikeproof.attacks.made_of.composite import (
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
from spikeproof.attacks.nearest.sparse import JSMA, OnePixel, SigmaZero, SparseFool
from spikeproof.attacks.parts.objectives import FirstSpikeMargin, PotentialMargin, PrefixMean
from spikeproof.attacks.parts.targets import EveryOther
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.attacks.search import Result, check_threat, evaluator
from spikeproof.encoders import BackwardRule, SpikeCode, StraightThrough, TimeShift, with_backward
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation.columns import subset
from spikeproof.evaluation.interim import Interim
from spikeproof.evaluation.outcomes import Attacked, AttackedMetrics, Clean, Untouched
from spikeproof.evaluation.through import through
from spikeproof.evaluation.verdicts import Steady, evaluate_attack
from spikeproof.gradients import ASSG
from spikeproof.keys import Key
from spikeproof.losses import DLR, LogitCrossEntropy, Margin, Objective
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.surrogates import ATan, Exponential, Rectangle, Triangle
from spikeproof.threats import L0, L1, L2, Linf, Region, Shifts, SquarePatch

__all__ = ["LEVELS", "Contribution", "Member", "Suite", "Suited", "SuitedMetrics", "evaluate_suite", "plan"]

LEVELS = ("quick", "standard", "extreme")


class Member(NamedTuple):
    """One attack of a suite.

    Args:
        name: as it is shown.
        recipe: the attack.
        after: the member that must have broken something for this one to be run; None if it always is.
    """

    name: str
    recipe: Recipe
    after: str | None = None


@dataclass(frozen=True, kw_only=True)
class Suite(Recipe):
    """A planned sequence of attacks, each on the examples still standing; the worst case per example counts.

    Args:
        level: `quick`, `standard` or `extreme`.

    Raises:
        InputError: no such level, or a call with a threat for which there is no suite.

    Source:
        Croce & Hein 2020 (AutoAttack), for the idea of a parameter-free ensemble; the members are ours.
    """

    level: str = "standard"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError("Expected a suite", repr(self.level), suggest(self.level, LEVELS))

    def __call__(self, threat: Threat) -> Attack:
        if not moves_events(threat):
            _ball(threat)
        return _never


def _never(*_: object, **__: object) -> Result:
    raise InputError("A suite is run by evaluate_suite()", "a call of its own", "Use evaluate_suite().")


def plan(level: str, model: Model | ModelSpec, threat: Threat) -> list[Member]:
    """The attacks of a suite on this model, in their order.

    Every suite for images holds the members of the next smaller one, under the same names and so with the
    same randomness: on a deterministic model a larger suite never leaves more. On events the same members
    search for longer.

    Args:
        level: `quick`, `standard` or `extreme`.
        model: what is attacked; the plan looks at no weight, so the spec of a classifier has the same one.
        threat: its budget.

    Raises:
        InputError: no such suite, or none for this threat.

    Example:
        >>> [member.name for member in plan("quick", lambda x, key=None: x, Linf(0.1))]
        ['pgd', 'pgd-margin', 'noise', 'rectangles']
    """
    Suite(level=level)(threat)
    check_threat(model, threat)
    kind = _Kind.of(model)
    if moves_events(threat):
        return _on_events(level, kind, threat)
    ball = _ball(threat)
    stages = [_quick, _standard, _extreme][: LEVELS.index(level) + 1]
    slopes = [member for stage in stages for member in stage(kind, ball)]
    members = [*slopes, *_without_gradients(level, kind, ball)]
    if ball == threat:
        return members
    if isinstance(threat, SquarePatch):
        patches = [PatchSearch(queries=queries) for queries in (500, 3000, 10_000)]
        members += _longer(level, "patch-search", *patches)
    known = [member for member in members if _knows(member.recipe, threat)]
    searched = any(member.recipe.gradient_free and member.name != "noise" for member in known)
    return known if searched else [*known, *_guesses(level)]


def _ball(threat: Threat) -> Threat:
    """The ball whose attacks serve a threat: that of a region, and so many pixels in place of a square."""
    if isinstance(threat, (Linf, L2, L1, L0)):
        return threat
    if isinstance(threat, Region):
        return threat.ball
    if isinstance(threat, SquarePatch):
        return L0(threat.epsilon**2)
    raise InputError(
        "There are suites for linf, l2, l1, l0, regions of these, square patches, and the threats on events",
        repr(threat),
        "List the attacks of this threat in a study instead.",
    )


def _knows(recipe: Recipe, threat: Threat) -> bool:
    try:
        recipe(threat)
    except InputError:
        return False
    return True


class _Kind(NamedTuple):
    """What a plan depends on: parts of the model, never its weights."""

    encoder: Any  # None where the model shows nothing but logits
    spec: ModelSpec | None
    stochastic: bool

    @classmethod
    def of(cls, model: Model | ModelSpec) -> _Kind:
        if isinstance(model, ModelSpec):
            return cls(model.encoder, model, model.encoder.stochastic)
        stochastic = bool(getattr(model, "stochastic", False))
        spec = model.spec if isinstance(model, Classifier) else None
        return cls(getattr(model, "encoder", None), spec, stochastic)

    def pgd(self, draws: int = 4, **settings: Any) -> PGD:
        """Projected steps, in expectation where the model draws."""
        return EOTPGD(draws=draws, **settings) if self.stochastic else PGD(**settings)

    def often(self, draws: int = 4) -> dict[str, Any]:
        return {"draws": draws} if self.stochastic else {}

    def reads(self, objective: Objective) -> bool:
        """Whether an objective that looks at the output layer has anything to say."""
        return self.spec is not None and PGD(objective=objective).reads(self.spec)

    @property
    def exits(self) -> bool:
        """Whether there are exits that were not taken."""
        return self.reads(PrefixMean(Margin()))

    @property
    def spiking(self) -> bool:
        return self.spec is not None and self.spec.neuron.spiking

    def adapts(self, threat: Threat) -> bool:
        """Whether gradients that adapt to potentials are defined, and the steps that belong to them."""
        if self.spec is None or self.stochastic or not isinstance(threat, (Linf, L2)):
            return False
        try:
            _adaptive(0.425).check(self.spec)
        except InputError:
            return False
        return True

    @property
    def counts(self) -> bool:
        """Whether logits are numbers or times of spikes, on whose plateaus more has to be tried."""
        return self.spec is not None and self.spec.decoder.reads_spikes

    @property
    def classes(self) -> int:
        return 2 if self.spec is None else self.spec.classes


def _quick(kind: _Kind, threat: Threat) -> list[Member]:
    """The cheapest killers: two sources of gradients, two objectives, every exit, a short search."""
    adapts = kind.adapts(threat)
    members = [Member("pgd", PGD(steps=20))]
    if adapts:
        members.append(Member("sa-pgd-narrow", _adaptive(0.46)))
    steps = 20 if kind.stochastic or (adapts and not kind.counts) else 50
    members.append(Member("pgd-margin", kind.pgd(steps=steps, objective=Margin())))
    if kind.exits:
        members.append(Member("pgd-prefixes", kind.pgd(steps=20, objective=PrefixMean(Margin()))))
    if _aware(kind, threat):
        members.append(Member("encoder-aware-brief", EncoderAwareSearch(steps=6, restarts=1, refine=0)))
    return members


def _standard(kind: _Kind, threat: Threat) -> list[Member]:
    """Other gradients, long steps and steps that adapt, the whole search over spike patterns, every class."""
    aware, adapts = _aware(kind, threat), kind.adapts(threat)
    restarts = 1 if kind.stochastic or aware else 2
    members = [Member("sa-pgd-wide", _adaptive(0.39))] if adapts else []
    if not adapts:
        members.append(Member("pgd-coarse", kind.pgd(steps=20, restarts=restarts, reach=10.0)))
    members += [*_rules(kind, steps=20), *_surrogates(kind, threat, steps=20, every=False)]
    if not isinstance(threat, L0):
        steps = 20 if kind.stochastic or adapts else 50
        members.append(Member("apgd-ce", APGD(steps=steps, **kind.often())))
    if kind.exits:
        if not isinstance(threat, L0):
            adaptive = APGD(steps=20, objective=PrefixMean(), **kind.often())
            members.append(Member("apgd-prefixes", adaptive))
        for name, objective in (("first-spike", FirstSpikeMargin()), ("potential", PotentialMargin())):
            recipe = kind.pgd(steps=20, reach=5.0, objective=objective)
            members += [Member(f"pgd-{name}", recipe)] if kind.reads(objective) else []
    if aware:  # its runs after the first aim at a class, as the targeted search does elsewhere
        members.append(Member("encoder-aware", EncoderAwareSearch(restarts=2, near=True)))
    elif not adapts and not isinstance(threat, L0):
        members += _every_class(kind, threat)
    return [*members, *_nearest(kind, threat)]


def _adaptive(strength: float, steps: int = 50) -> Recipe:
    """SA-PGD with the gradients of ASSG, which were published together."""
    return Through(gradient=ASSG(strength), attack=SAPGD(steps=steps))


def _every_class(kind: _Kind, threat: Threat) -> list[Member]:
    """Towards one class after the other; of a foreign model, of unknown number of classes, by margin."""
    few, steps = (3, 10) if kind.stochastic else (4, 20)
    if kind.spec is None:
        steep = not isinstance(threat, L1)
        members = [Member("apgd-margin", APGD(steps=50, objective=Margin(), **kind.often()))]
        members += [Member("sa-pgd", SAPGD(steps=100, **kind.often()))] if steep else []
        towards = APGDT(steps=steps, targets=EveryOther(few), objective=Margin(), **kind.often(2))
        return [*members, Member("apgd-t", towards)]
    if kind.classes <= 3:
        return []
    return [Member("apgd-t", APGDT(steps=steps, targets=EveryOther(few), **kind.often(2)))]


def _extreme(kind: _Kind, threat: Threat) -> list[Member]:
    """The same once more, with many steps, restarts and draws."""
    draws, members = 20, []
    for name, objective in (("", LogitCrossEntropy()), ("-margin", Margin())):
        recipe = kind.pgd(draws, steps=40, restarts=5, reach=10.0, objective=objective)
        members.append(Member(f"pgd-coarse{name}-long", recipe))
    members.append(Member("pgd-margin-long", kind.pgd(draws, steps=100, objective=Margin())))
    if kind.adapts(threat):
        for strength in (0.35, 0.39, 0.425, 0.46, 0.48):
            members.append(Member(f"sa-pgd-{strength}", _adaptive(strength, steps=100)))
    if not isinstance(threat, L0):
        members.append(Member("apgd-ce-long", APGD(steps=100, restarts=2, **kind.often(draws))))
        if kind.spec is None or kind.classes > 3:
            aim = Margin() if kind.spec is None else DLR()
            members.append(Member("apgd-t-long", APGDT(steps=40, objective=aim, **kind.often(draws))))
    if kind.exits:
        prefixes = kind.pgd(draws, steps=100, objective=PrefixMean(Margin()))
        members.append(Member("pgd-prefixes-long", prefixes))
        if not isinstance(threat, L0):
            adaptive = APGD(steps=100, objective=PrefixMean(), **kind.often(draws))
            members.append(Member("apgd-prefixes-long", adaptive))
    if _aware(kind, threat):
        long = EncoderAwareSearch(steps=40, restarts=10, refine=60)
        members.append(Member("encoder-aware-long", long))
    return [*members, *_surrogates(kind, threat, steps=40, every=True), *_rules(kind, steps=40)]


def _without_gradients(level: str, kind: _Kind, threat: Threat) -> list[Member]:
    """Luck and random search: from where gradients came nearest and, where these say little, from afar."""
    members = [Member("noise", NoiseSearch(draws=10))]
    if isinstance(threat, L1):
        return [*members, *_guesses(level)]
    if not isinstance(threat, (Linf, L2)):
        few = OnePixel(steps=10, population=20)
        return [*members, *_longer(level, "one-pixel", few, OnePixel(), OnePixel(steps=100, population=100))]
    short, long = (100, 300) if kind.spiking else (50, 150)
    if kind.spec is None:
        short, long = 200, 2000
    elif kind.stochastic:
        short, long = 50, 100
    if level != "quick" and kind.spec is None:  # no substitute shows what a masked gradient hides
        members.append(Member("stand-in", StandIn(queries=2000)))
    near = [RectangleSearch(queries=queries) for queries in (short, long, 10_000)]
    members += _longer(level, "rectangles", *near)
    if level != "quick" and (kind.spec is None or (kind.counts and not kind.stochastic)):
        queries = 1000 if kind.spec is None else 400
        members.append(Member("square-long", SquareSearch(queries=queries)))
    if level == "extreme":
        members.append(Member("stand-in-long", StandIn(queries=3000)))
        members.append(Member("square-longest", SquareSearch(queries=5000)))
    return members


def _guesses(level: str) -> list[Member]:
    """Gradients estimated from answers, for threats that no random search was made for."""
    sizes = ((10, 10), (20, 20), (100, 50))
    return _longer(level, "nes", *(NES(steps=steps, samples=samples) for steps, samples in sizes))


def _longer(level: str, name: str, short: Recipe, long: Recipe, longest: Recipe) -> list[Member]:
    """One search, and at higher levels longer ones of the same kind, whatever the shorter ones found."""
    members = [Member(name, short)]
    if level != "quick":
        members.append(Member(f"{name}-long", long))
    if level == "extreme":
        members.append(Member(f"{name}-longest", longest))
    return members


def _aware(kind: _Kind, threat: Threat) -> bool:
    return isinstance(threat, Linf) and EncoderAwareSearch().suits(kind)


def _nearest(kind: _Kind, threat: Threat) -> list[Member]:
    """Searches for the nearest image, where projected steps are not at their best."""
    if isinstance(threat, L1):
        sparse = APGDL1(steps=100, restarts=1, **kind.often())
        members = [Member("apgd-l1", sparse), Member("fab-t", FABT(steps=20, targets=3))]
        if not kind.stochastic:  # there EAD takes longer than all others together, and finds nothing
            members.append(Member("ead", EAD(steps=50, searches=4)))
        return members
    if isinstance(threat, L0):
        zero = Member("sigma-zero", SigmaZero(steps=100 if kind.stochastic else 300))
        return [zero, Member("jsma", JSMA(targets=EveryOther(1))), Member("sparse-fool", SparseFool())]
    return []


def _on_events(level: str, kind: _Kind, threat: Threat) -> list[Member]:
    """Attacks on spike trains: luck, cheap ones of the literature, our search, a walk without gradients."""
    searches = {
        "quick": SpikeSearch(steps=6, restarts=1, width=8, refine=2),
        "standard": SpikeSearch(),
        "extreme": SpikeSearch(steps=40, restarts=8, width=32, refine=20),
    }
    search = searches[level]
    members = [Member("noise", NoiseSearch(draws=10))]
    if level != "quick":
        shifts = isinstance(threat, Shifts)
        members.append(Member("retiming", Retiming()) if shifts else Member("sda", SDA()))
        members.append(Member("spike-compatible", SpikeCompatible(objective=Margin())))
    members.append(Member("spike-search", search))
    if level != "quick":
        brief = replace(search, restarts=1)
        entropy = replace(brief, objective=LogitCrossEntropy())
        members.append(Member("spike-search-entropy", entropy))
        if kind.spiking:
            for name, surrogate in (("wide", ATan(1.0)), ("sharp", ATan(6.0))):
                members.append(Member(f"spike-search-{name}", replace(brief, surrogate=surrogate)))
        prefixes = replace(brief, objective=PrefixMean(Margin()))
        if kind.exits:
            members.append(Member("spike-search-prefixes", prefixes))
    queries = {"quick": 100, "standard": 500, "extreme": 5000}[level]
    return [*members, Member("spike-walk", SpikeWalkSearch(queries=queries))]


SURROGATES = (ATan(6.0), Triangle(0.5), Exponential(1.0, 2.0), Rectangle(4.0))
"""What standard suites look through: two narrow ones, and two wide ones."""

BESIDE = (ATan(6.0), Exponential(1.0, 2.0))
"""Beside gradients that adapt: a narrow one and a wide one."""


def _surrogates(kind: _Kind, threat: Threat, steps: int, every: bool) -> list[Member]:
    """Gradients of other surrogates, one after the other."""
    if not kind.spiking:
        return []
    if kind.stochastic:  # a sweep in expectation would cost more than it finds
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


def _rules(kind: _Kind, steps: int) -> list[Member]:
    """Gradients of other rules for the code."""
    if kind.spec is None or not isinstance(kind.encoder, SpikeCode):
        return []
    own, long = kind.encoder.backward, "" if steps == 20 else "-long"
    members = []
    for name, rule in (("time-shift", TimeShift()), ("straight-through", StraightThrough())):
        if rule != own and _fits(kind.encoder, rule):
            recipe = kind.pgd(steps=steps, backward=rule, reach=5.0, objective=Margin())
            members.append(Member(f"pgd-{name}{long}", recipe))
    return members


def _fits(code: SpikeCode, rule: BackwardRule) -> bool:
    try:
        with_backward(code, rule)
    except InputError:
        return False
    return True


class _Evidence(TypedDict, total=False):
    """What is there only where a member was run, or where its objective sees every exit."""

    evidence: AttackedMetrics
    forward_queries: int
    backward_queries: int
    every_exit: bool


class Contribution(_Evidence):
    """What one member of a suite did: how it was run, what it broke, and the evidence of its outcome.

    `attacked` counts the examples that it was run on; `broke` is how many of them it broke, in expectation
    where the model draws, and `left` the accuracy after it. `own_gradient` says whether it followed the
    gradient of the model itself; `steps` and `draws` are those of a gradient attack, `objectives` and
    `sources` name what it maximised and whose gradients it followed, and `queries` are those of a search
    without gradients, per example. `evidence` and its queries are there where it was run at all,
    `every_exit` where its objective sees every exit.
    """

    name: str
    attacked: int
    seconds: NotRequired[float]  # left out of what a cell stores, since the same seed gives others
    broke: float
    left: float
    gradient_free: bool
    own_gradient: bool
    steps: int
    draws: int
    objectives: list[str]
    sources: list[str]
    queries: float


class SuitedMetrics(AttackedMetrics):
    """Headline numbers of a suite, with what each member contributed."""

    members: list[Contribution]


@dataclass(frozen=True)
class Suited:
    """What a suite found.

    Args:
        attacked: the worst case per example; its `losses` are empty.
        broken_by: per example the place of the member whose image counts; -1 for the image as it is.
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
        """Headline numbers, with the table of contributions; silent success is a matter of each member."""
        found = self.attacked.metrics()
        return {**found, "losses": [], "silent_success_share": float("nan"), "members": list(self.members)}


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
) -> Suited:
    """The worst case per example over the members of a suite.

    Args:
        model: images to logits, in evaluation mode.
        level: `quick`, `standard` or `extreme`.
        threat: `Linf`, `L2`, `L1` or `L0`, or one on events.
        x: images in [0, 1], or events.
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: randomness of attacks and draws.
        batch_size: examples at a time; changes no number.
        draws: forward passes per verdict on a stochastic model.
        members: attacks in place of those of the plan.
        after: what was found before on the same examples; the members go on from there.
        interim: the state of this same suite when it was interrupted; it gives what it would have given.
        on_member: called after every member but the last with the state, which the next member changes, and
            the number of members.

    Raises:
        InputError: as `plan` and `evaluate_attack` say.
    """
    worst = Attacked.before(Untouched(threat, x, clean)) if after is None else after.attacked
    none = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    broken = none if after is None else after.broken_by.clone()
    entries: list[Contribution] = [] if after is None else list(after.members)
    nearest = _Nearest(model, worst.x_adv.clone(), y, clean.example, batch_size)
    members, first = plan(level, model, threat) if members is None else members, len(entries)
    if interim is not None:
        worst, broken, entries = interim.worst, interim.broken_by.clone(), list(interim.members)
        nearest.images, nearest.height = interim.nearest.clone(), interim.height.clone()
    for place, member in enumerate(members, first):
        if place < len(entries):
            continue
        rows = (worst.right_selection > 0).nonzero().flatten()
        if member.after is not None and not _broke(entries, member.after):
            rows = rows[:0]
        began, source, found = time.perf_counter(), through(model, member.recipe), None
        before = worst
        if len(rows):
            attack = member.recipe(threat)
            if member.recipe.goes_on:
                attack = going_on(attack, nearest.carried)
            found = evaluate_attack(
                model,
                attack,
                threat,
                x[rows],
                y[rows],
                subset(clean, rows),
                key.fold("member", member.name),
                through=source,
                batch_size=batch_size,
                draws=draws,
            )
            better = found.better_than(worst, rows)
            broken[rows[better]] = place
            worst = worst.worse(found, rows)
            nearest.learn(rows[~better], found.x_adv[~better], key.fold("nearest", member.name))
        entries.append(_contribution(member, source is None, found, before, worst, began))
        if on_member is not None and place + 1 < first + len(members):
            interim = Interim(worst, broken, tuple(entries), nearest.images, nearest.height)
            on_member(interim, first + len(members))
    return Suited(worst, broken, entries)


class _Nearest:
    """Of each example the image of the largest margin so far, where the members that go on begin."""

    def __init__(
        self, model: Model, x: Float[Tensor, "N *F"], y: Tensor, ids: Tensor, batch_size: int
    ) -> None:
        self.model, self.images, self.y, self.ids, self.size = Steady(model), x, y, ids, batch_size
        self.height = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)

    @property
    def carried(self) -> Carried:
        return Carried(self.ids, self.images)

    @torch.no_grad()
    def learn(self, rows: Int64[Tensor, "R"], images: Float[Tensor, "R *F"], key: Key) -> None:
        """Take over what is at least as near, by one look at each image."""
        for start in range(0, len(rows), self.size):
            here, tried = rows[start : start + self.size], images[start : start + self.size]
            now = key.for_rows(self.ids[here])
            value, _ = evaluator(self.model, Margin(), self.y[here])(tried, now)
            value = value.double().nan_to_num(torch.inf)
            better = value >= self.height[here]
            self.images[here[better]], self.height[here[better]] = tried[better], value[better]


def _contribution(
    member: Member, own: bool, found: Attacked | None, before: Attacked, worst: Attacked, began: float
) -> Contribution:
    """What a member did.

    Args:
        member: of the suite.
        own: whether gradients, if it takes any, are those of the model itself.
        found: its outcome; None where it was not run.
        before: the worst case before it.
        worst: the worst case after it.
        began: when it was begun.
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


def _evidence(found: Attacked | None) -> _Evidence:
    if found is None:
        return {}
    metrics = found.metrics()
    return {
        "evidence": metrics,
        "forward_queries": metrics["forward_queries"],
        "backward_queries": metrics["backward_queries"],
    }


def _broke(members: Sequence[Contribution], name: str) -> bool:
    """Whether a member broke one example at least, in expectation where the model draws."""
    return any(member["name"] == name and member["broke"] >= 1 for member in members)

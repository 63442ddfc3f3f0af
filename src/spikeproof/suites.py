"""Suites: planned sequences of attacks without parameters, each run only on what the others left standing.

A suite looks at the model (does it draw? does it code pixels as levels?) and at the threat, and plans
accordingly: cheap attacks first, then other gradients, other objectives, more restarts, the search over
spike patterns, and at the end attacks that see no gradient. What counts is the worst case per example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.composite import WidthSweep
from spikeproof.attacks.iterated import APGD, APGDT
from spikeproof.attacks.objectives import FirstSpikeMargin, PotentialMargin, PrefixMean, sees_every_exit
from spikeproof.attacks.recipes import EOTPGD, PGD, EncoderAwareSearch, NoiseSearch, Recipe, SquareSearch
from spikeproof.attacks.search import check_threat
from spikeproof.attacks.spikes import SpikeSearch, SpikeWalkSearch
from spikeproof.encoders import SpikeCode, StraightThrough, TimeShift, with_backward
from spikeproof.errors import InputError, suggest
from spikeproof.evaluation import Attacked, Clean, distances, evaluate_attack
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin
from spikeproof.network import Classifier
from spikeproof.neurons import ReLU
from spikeproof.protocols import Model, Threat, moves_events
from spikeproof.sources import through
from spikeproof.surrogates import ATan
from spikeproof.threats import L2, Linf

__all__ = ["LEVELS", "Member", "Suite", "Suited", "evaluate_suite", "plan"]

LEVELS = ("quick", "standard", "extreme")


class Member(NamedTuple):
    """One attack of a suite.

    Args:
        name: as it is shown.
        recipe: the attack.
    """

    name: str
    recipe: Recipe


@dataclass(frozen=True, kw_only=True)
class Suite(Recipe):
    """A planned sequence of attacks, each on the examples still standing; the worst case per example counts.

    Args:
        level: `quick`, `standard` or `extreme`.

    Raises:
        InputError: no such level.

    Source:
        Croce & Hein 2020 (AutoAttack), for the idea of a parameter-free ensemble; the members are ours.
    """

    level: str = "standard"

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise InputError("Expected a suite", repr(self.level), suggest(self.level, LEVELS))

    def __call__(self, threat: Threat) -> Any:
        return _never


def _never(*_: object, **__: object) -> Any:
    raise InputError("A suite is run by evaluate_suite()", "a call of its own", "Use evaluate_suite().")


_AWARE = {
    "quick": EncoderAwareSearch(steps=6, restarts=1, refine=0),
    "standard": EncoderAwareSearch(),
    "extreme": EncoderAwareSearch(steps=40, restarts=10, refine=60),
}


def plan(level: str, model: Model, threat: Threat) -> list[Member]:
    """The attacks of a suite on this model, in their order.

    Args:
        level: `quick`, `standard` or `extreme`.
        model: what is attacked.
        threat: its budget.

    Raises:
        InputError: no such suite, or none for this threat.

    Example:
        >>> [member.name for member in plan("quick", lambda x, key=None: x, Linf(0.1))]
        ['pgd', 'pgd-margin', 'noise', 'square']
    """
    Suite(level=level)
    check_threat(model, threat)
    if moves_events(threat):
        return _on_events(level, model)
    if not isinstance(threat, (Linf, L2)):
        raise InputError(
            "There are suites for the threats linf and l2, and for those on events",
            repr(threat),
            "List the attacks of this threat in a study instead.",
        )
    few, many = {"quick": (10, 20), "standard": (20, 50), "extreme": (40, 100)}[level]
    stochastic = bool(getattr(model, "stochastic", False))
    pgd: Any = EOTPGD if stochastic else PGD
    often: dict[str, Any] = {"draws": {"quick": 4, "standard": 8, "extreme": 20}[level]} if stochastic else {}
    members = [
        Member("pgd", PGD(steps=few)),
        Member("pgd-margin", pgd(steps=many, objective=Margin(), **often)),
    ]
    members += _exits(model, level, few, many, often, pgd)
    if isinstance(threat, Linf) and EncoderAwareSearch().suits(model):
        members.append(Member("encoder-aware", _AWARE[level]))
    if level != "quick":
        restarts = 2 if level == "standard" else 5
        members += [
            Member("pgd-coarse", pgd(steps=few, restarts=restarts, reach=10.0, **often)),
            Member(
                "pgd-coarse-margin",
                pgd(steps=few, restarts=restarts, reach=10.0, objective=Margin(), **often),
            ),
        ]
        members.append(Member("apgd-ce", APGD(steps=many, **often)))
        if _classes(model) > 3:
            members.append(Member("apgd-t", APGDT(steps=few, **often)))
    if isinstance(model, Classifier):
        members += _substitutes(model, level, few, often, pgd)
    members.append(Member("noise", NoiseSearch(draws=10)))
    queries = {"quick": 100, "standard": 500, "extreme": 5000}[level]
    members.append(Member("square", SquareSearch(queries=queries)))
    return members


def _on_events(level: str, model: Model) -> list[Member]:
    """Attacks on spike trains: luck, the search by several gradients, and a walk without gradients."""
    searches = {
        "quick": SpikeSearch(steps=6, restarts=1, width=8, refine=1),
        "standard": SpikeSearch(),
        "extreme": SpikeSearch(steps=40, restarts=8, width=32, refine=20),
    }
    search = searches[level]
    members = [Member("noise", NoiseSearch(draws=10)), Member("spike-search", search)]
    if level != "quick":
        brief = replace(search, restarts=1)
        entropy = replace(brief, objective=LogitCrossEntropy())
        members.append(Member("spike-search-entropy", entropy))
        if isinstance(model, Classifier) and model.spec.neuron.spiking:
            for name, surrogate in (("wide", ATan(1.0)), ("sharp", ATan(6.0))):
                members.append(Member(f"spike-search-{name}", replace(brief, surrogate=surrogate)))
        prefixes = replace(brief, objective=PrefixMean(Margin()))
        if isinstance(model, Classifier) and prefixes.reads(model):
            members.append(Member("spike-search-prefixes", prefixes))
    queries = {"quick": 100, "standard": 500, "extreme": 5000}[level]
    return [*members, Member("spike-walk", SpikeWalkSearch(queries=queries))]


def _exits(model: Model, level: str, few: int, many: int, often: dict[str, Any], pgd: Any) -> list[Member]:
    """Objectives that see more steps than the one at which an early exit was taken."""
    prefixes = pgd(steps=many, objective=PrefixMean(Margin()), **often)
    if not isinstance(model, Classifier) or not prefixes.reads(model):
        return []
    members = [Member("pgd-prefixes", prefixes)]
    if level != "quick":
        members.append(Member("apgd-prefixes", APGD(steps=many, objective=PrefixMean(), **often)))
        for name, objective in (("first-spike", FirstSpikeMargin()), ("potential", PotentialMargin())):
            recipe = pgd(steps=few, reach=5.0, objective=objective, **often)
            members += [Member(f"pgd-{name}", recipe)] if recipe.reads(model) else []
    return members


def _substitutes(model: Classifier, level: str, steps: int, often: dict[str, Any], pgd: Any) -> list[Member]:
    """Gradients of other surrogates and of other rules for the code."""
    if level == "quick":
        return []
    members = []
    if not isinstance(model.spec.neuron, ReLU) and model.spec.neuron.spiking:
        if not often:  # a sweep in expectation would cost more than it finds
            members.append(
                Member("width-sweep", WidthSweep(attack=PGD(steps=steps, reach=5.0, objective=Margin())))
            )
        for name, surrogate in (("wide", ATan(1.0)), ("sharp", ATan(6.0))) if often else ():
            recipe = pgd(steps=steps, surrogate=surrogate, reach=5.0, objective=Margin(), **often)
            members.append(Member(f"pgd-{name}", recipe))
    own = getattr(model.encoder, "backward", None)
    for name, rule in (("time-shift", TimeShift()), ("straight-through", StraightThrough())):
        if isinstance(model.encoder, SpikeCode) and rule != own and _fits(model, rule):
            recipe = pgd(steps=steps, backward=rule, reach=5.0, objective=Margin(), **often)
            members.append(Member(f"pgd-{name}", recipe))
    return members


def _fits(model: Classifier, rule: Any) -> bool:
    try:
        with_backward(model.encoder, rule)
    except InputError:
        return False
    return True


def _classes(model: Model) -> int:
    return model.spec.classes if isinstance(model, Classifier) else 2


@dataclass(frozen=True)
class Suited:
    """What a suite found.

    Args:
        attacked: the worst case per example; its `losses` are empty.
        broken_by: per example the place of the member whose image counts; -1 for the image as it is.
        members: what each member did, in order: examples it was run on, how many of them it broke, accuracy
            left after it, queries, and the evidence of `Attacked.metrics`.
    """

    attacked: Attacked
    broken_by: Int64[Tensor, "N"]
    members: Sequence[dict[str, Any]] = field(default_factory=list)

    def metrics(self) -> dict[str, Any]:
        """Headline numbers, with the table of contributions; silent success is a matter of each member."""
        nothing = {"losses": [], "silent_success_share": float("nan")}
        return {**self.attacked.metrics(), **nothing, "members": list(self.members)}


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
) -> Suited:
    """The worst case per example over the members of a suite.

    Args:
        model: images to logits, in evaluation mode.
        level: `quick`, `standard` or `extreme`.
        threat: `Linf` or `L2`.
        x: images in [0, 1].
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: randomness of attacks and draws.
        batch_size: examples at a time; changes no number.
        draws: forward passes per verdict on a stochastic model.
        members: attacks in place of those of the plan.
        after: what was found before on the same examples; the members go on from there.

    Raises:
        InputError: as `plan` and `evaluate_attack` say.
    """
    worst = _unattacked(threat, x, clean) if after is None else _copied(after.attacked)
    none = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
    broken = none if after is None else after.broken_by.clone()
    entries: list[dict[str, Any]] = [] if after is None else list(after.members)
    for place, member in enumerate(plan(level, model, threat) if members is None else members, len(entries)):
        rows = (worst.right_selection > 0).nonzero().flatten()
        before = float(worst.right.sum())
        entry: dict[str, Any] = {"name": member.name, "attacked": len(rows)}
        if len(rows):
            found = evaluate_attack(
                model,
                member.recipe(threat),
                threat,
                x[rows],
                y[rows],
                _subset(clean, rows),
                key.fold("member", member.name),
                through=through(model, member.recipe),
                batch_size=batch_size,
                draws=draws,
            )
            better = found.right_selection < worst.right_selection[rows]
            taken = rows[better]
            _merge(worst, found, rows, better)
            broken[taken] = place
            entry |= {"evidence": found.metrics()}
        entry |= {
            "broke": before - float(worst.right.sum()),
            "left": float(worst.right.double().mean()),
            "gradient_free": member.recipe.gradient_free,
            "steps": getattr(member.recipe, "steps", 0) if not member.recipe.gradient_free else 0,
            "draws": getattr(member.recipe, "draws", 1) if not member.recipe.gradient_free else 1,
        }
        if sees_every_exit(member.recipe):
            entry["every_exit"] = True
        entries.append(entry)
    return Suited(worst, broken, entries)


def _copied(found: Attacked) -> Attacked:
    columns: dict[str, Any] = {column.name: getattr(found, column.name) for column in fields(Attacked)}
    copies: dict[str, Any] = {n: v.clone() if isinstance(v, Tensor) else v for n, v in columns.items()}
    return Attacked(**copies)


def _unattacked(threat: Threat, x: Tensor, clean: Clean) -> Attacked:
    """The image as it is, before anything is tried."""
    count = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    return Attacked(
        example=clean.example,
        label=clean.label,
        right_clean=clean.right,
        right=clean.right.clone(),
        right_selection=clean.right_selection.clone(),
        prediction=clean.prediction.clone(),
        tie=clean.tie.clone(),
        silent=clean.silent.clone(),
        spikes=clean.spikes.clone(),
        exit=clean.exit.clone(),
        distance=threat.distance(x, x),
        within=torch.ones_like(count, dtype=torch.bool),
        moved=torch.zeros_like(count, dtype=torch.bool),
        queries=count.clone(),
        backward_queries=count.clone(),
        zero_gradients=torch.zeros_like(clean.right),
        fell=count - 1,
        right_rounded=clean.right.clone(),
        **distances(x, x),
        losses=x.new_zeros(0, len(x)),
        x_adv=x.clone(),
        voted=clean.voted.clone(),
        draws=clean.draws,
    )


def _subset(clean: Clean, rows: Tensor) -> Clean:
    columns: dict[str, Any] = {c.name: getattr(clean, c.name) for c in fields(clean)}
    part: dict[str, Any] = {n: v[rows] if isinstance(v, Tensor) else v for n, v in columns.items()}
    return Clean(**part)


def _merge(worst: Attacked, found: Attacked, rows: Tensor, better: Tensor) -> None:
    """Take over what a member did better; queries add up, broken budgets stay known."""
    taken = rows[better]
    for column in fields(Attacked):
        whole, part = getattr(worst, column.name), getattr(found, column.name)
        if column.name in ("queries", "backward_queries"):
            whole[rows] += part
        elif column.name == "within":
            whole[rows] &= part
        elif column.name == "zero_gradients":
            whole[rows] = torch.maximum(whole[rows], part)
        elif isinstance(whole, Tensor) and column.name not in ("example", "label", "right_clean", "losses"):
            whole[taken] = part[better].to(whole.dtype)

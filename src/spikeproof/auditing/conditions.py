"""The conditions of the checks: each a pure function from evidence to a sentence with numbers, or None.

A condition returns None where it is not met, and where the evidence that it reads was not measured. What
follows from a condition is written in the table of `spikeproof.auditing.checks`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spikeproof.auditing.evidence import (
    VOTES,
    AttackEvidence,
    ChosenOn,
    Diagnostics,
    Evidence,
    GradientSource,
)
from spikeproof.evaluation.levels import Level
from spikeproof.statistics import wilson

__all__ = [
    "ENOUGH_QUERIES",
    "ENOUGH_STEPS",
    "ENOUGH_SUM",
    "FAINT",
    "FLAT",
    "FOLLOWS",
    "HIDDEN",
    "STEADY",
    "Condition",
    "another_model_attacked",
    "attacks_missing",
    "attacks_too_few",
    "budget_violated",
    "by_its_call",
    "certificate_contradicted",
    "chosen_on_test",
    "dead_layers",
    "depends_on_history",
    "effect_lost_at_8_bits",
    "expectation_too_small",
    "expected_agreement",
    "few_values",
    "gradient_free_beats_gradient",
    "gradient_is_no_slope",
    "in_training_mode",
    "loss_still_rising",
    "nearer_image_known",
    "nested_budgets",
    "no_better_than_chance",
    "no_logits",
    "not_diagnosed",
    "not_differentiable",
    "of_diagnostics",
    "one_exit_attacked",
    "one_step_beats_many",
    "probabilities",
    "rises_with_epsilon",
    "safeguards_missing",
    "search_still_finding",
    "share_above",
    "silent_success",
    "stepwise_without_levels",
    "substitute_beats_training",
    "ties",
    "too_few_examples",
    "transfer_beats_white_box",
    "unbounded_attack_fails",
    "unstable_predictions",
    "zero_gradients",
]

Condition = Callable[[Evidence], str | None]

SLACK = 0.005
"""Differences in accuracy below half a point do not count against an attack."""
SUITE_SLACK = 0.02
"""Share of the examples that later members of a suite may break without doubt about the members before."""
SUBSTITUTE_SLACK = 0.05
"""The same for the gradients of substitutes, which are expected to break a few examples more."""
ENOUGH_STEPS, ENOUGH_SUM, ENOUGH_QUERIES = 20, 100, 1000
"""Least steps of a gradient attack that counts, of all such attacks together, and queries per example without
gradients."""
FEW_ZERO, FEW_TIES = 0.05, 0.05
"""Largest shares of examples with a zero gradient, and of tied images, that raise nothing."""
DEAD = 0.99
"""Share of neurons and time steps without a gradient above which a layer passes almost none back."""
SHAKEN = 0.5
"""Largest mean relative change of the loss under noise that raises nothing."""
ALL_BROKEN = 0.01
"""A robust accuracy up to this counts as zero where an attack is expected to break every example."""
STILL_GAINING, TRACE = 0.1, 8
"""Largest share of its gain that an attack may make in its last quarter, and the shortest trace judged."""
RESTORED = 0.1
"""Largest gain in accuracy from rounding to 8 bits that raises nothing."""
WIDE = 0.1
"""Largest half-width of an interval that raises nothing."""
COUNTED = 9
"""Most margins that raise a doubt about a model of unknown parts: those of counts of up to four spikes."""
REPEATED = 0.25
"""Largest share of the jumps along a pixel that may lie at the same value on another image."""
DISAGREE = 0.5
"""Two estimates of a gradient with a mean cosine below this are mostly noise."""
FOLLOWS = 0.75
"""Least cosine between the change of the loss and the predicted change, as a share of `steady`."""
STEADY = 0.3
"""Below this cosine between a change of the loss and the sum of its halves, the loss has no slope at all."""
HIDDEN, FAINT, FLAT = 0.1, 20.0, 0.5
"""Limits of the share of the loss's change that comes from pixels without a gradient, of the factor by which
the loss changes more than the gradient predicts, and of the share of images where the loss is constant."""


def of_diagnostics(test: Callable[[Diagnostics], str | None]) -> Condition:
    """A condition on the diagnostics of the model; it is not met where they were not measured."""
    return lambda evidence: None if evidence.diagnostics is None else test(evidence.diagnostics)


def share_above(name: str, limit: float, text: str) -> Condition:
    """A condition that is met where a share among the diagnostics is above its limit.

    Args:
        name: field of `Diagnostics`.
        limit: largest share that raises nothing, in [0, 1].
        text: the sentence, with a pair of braces in place of the share.
    """

    def test(diagnostics: Diagnostics) -> str | None:
        share: float | None = getattr(diagnostics, name)
        return text.format(_percent(share)) if share is not None and share > limit else None

    return of_diagnostics(test)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _each(evidence: Evidence, test: Callable[[AttackEvidence], str | None]) -> str | None:
    reasons = [reason for attack in evidence.attacks if (reason := test(attack)) is not None]
    return ", ".join(reasons) or None


# --- wrong evaluations ---


def budget_violated(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name} left its budget or the box on {_percent(a.violations)} of the examples"
            if a.violations
            else None
        ),
    )


def another_model_attacked(evidence: Evidence) -> str | None:
    def test(attack: AttackEvidence) -> str | None:
        named = attack.target and attack.gradient_source != GradientSource.TRANSFER
        return f"{attack.name} attacked {attack.target}" if named else None

    return _each(evidence, test)


def certificate_contradicted(evidence: Evidence) -> str | None:
    share = evidence.contradicted
    return f"{_percent(share)} of the examples are proved robust but were broken" if share else None


def chosen_on_test(evidence: Evidence) -> str | None:
    return "settings were chosen on the test part" if evidence.chosen_on == ChosenOn.TEST else None


def safeguards_missing(evidence: Evidence) -> str | None:
    return "; ".join(evidence.missing_safeguards) or None


def attacks_missing(evidence: Evidence) -> str | None:
    return "; ".join(evidence.missing_attacks) or None


# --- the model itself ---


def no_logits(diagnostics: Diagnostics) -> str | None:
    return diagnostics.failed


def in_training_mode(diagnostics: Diagnostics) -> str | None:
    return "the model was in training mode" if diagnostics.training else None


def depends_on_history(diagnostics: Diagnostics) -> str | None:
    """Everything that the answer to an image depends on besides the image."""
    reasons = [
        f"{_percent(share)} of the answers {how}"
        for share, how in (
            (
                diagnostics.state_leak,
                "changed after forward passes on other images, or while gradients were recorded",
            ),
            (diagnostics.order_leak, "changed when the batch came in the opposite order"),
            (diagnostics.copy_leak, "differed from those of a fresh copy of the model"),
        )
        if share
    ]
    reasons += [diagnostics.again] if diagnostics.again else []
    return "; ".join(reasons) or None


def not_differentiable(diagnostics: Diagnostics) -> str | None:
    return "no gradient reaches the image" if diagnostics.differentiable is False else None


def zero_gradients(evidence: Evidence) -> str | None:
    reasons = []
    found = evidence.diagnostics
    if found is not None and found.zero_gradients is not None and found.zero_gradients > FEW_ZERO:
        layers = ", ".join(_percent(share) for share in found.zero_by_layer)
        where = f" (share of zeros by layer: {layers})" if layers else ""
        reasons.append(
            f"the gradient at the image is zero for {_percent(found.zero_gradients)} of the examples{where}"
        )
    without = [
        a
        for a in evidence.attacks
        if not (a.gradient_free or a.target) and (a.zero_gradients or 0.0) > FEW_ZERO
    ]
    without.sort(key=lambda a: -(a.zero_gradients or 0.0))
    named = ", ".join(f"{a.name} {_percent(a.zero_gradients or 0.0)}" for a in without[:3])
    more = f" and {len(without) - 3} more attacks over {100 * FEW_ZERO:.0f} %" if without[3:] else ""
    if without:
        reasons.append(f"attacks computed gradients that were zero everywhere: {named}{more}")
    return "; ".join(reasons) or None


def dead_layers(diagnostics: Diagnostics) -> str | None:
    dead = [str(i) for i, share in enumerate(diagnostics.zero_by_layer, 1) if share > DEAD]
    if len(dead) < 2:
        return f"layer {dead[0]} passes almost no gradient back" if dead else None
    return f"layers {', '.join(dead)} pass almost no gradient back"


def probabilities(diagnostics: Diagnostics) -> str | None:
    return "the answer to each image sums to 1" if diagnostics.probabilities else None


def ties(evidence: Evidence) -> str | None:
    share, diagnostics = evidence.tie_share, evidence.diagnostics
    if share is None:
        share = None if diagnostics is None else diagnostics.ties
    if share is None or share <= FEW_TIES:
        return None
    otherwise = (
        ""
        if evidence.argmax_accuracy is None
        else "; if the first of the best classes were the answer, accuracy on the attacked images would be "
        f"{_percent(evidence.argmax_accuracy)}, which is no worst case, because the attacks stop at a tie"
    )
    return f"{_percent(share)} of the images end in a tie for the best class and count as errors{otherwise}"


def by_its_call(evidence: Evidence) -> str | None:
    if not evidence.by_call:
        return None
    return "the model has a hook, or a method of its own, and was attacked as a plain function of images"


def no_better_than_chance(evidence: Evidence) -> str | None:
    if not evidence.n or evidence.clean_accuracy != evidence.clean_accuracy:  # nothing was measured
        return None
    chance, constant = 1 / evidence.classes, evidence.commonest or 0.0
    if wilson(evidence.clean_accuracy * evidence.n, evidence.n).low > max(chance, constant):
        return None
    without = (
        f"one answer to all of them gives {_percent(constant)}"
        if constant > chance
        else f"guessing gives {_percent(chance)}"
    )
    return (
        f"{_percent(evidence.clean_accuracy)} of the {evidence.n} clean examples are classified correctly, "
        f"and {without}"
    )


def gradient_is_no_slope(diagnostics: Diagnostics) -> str | None:
    """Whether the loss changes as its gradient predicts, at all points where this was measured."""
    found = diagnostics
    if found.flat is None:
        return None
    if found.flat > FLAT:
        return f"around {_percent(found.flat)} of the examples the loss changes along no direction"
    if found.values is not None and found.values <= 2:
        how = "one value" if found.values == 1 else f"{found.values} values"
        return f"the margin takes only {how}, so no gradient can be its slope"
    if not found.slope_follows:
        return "no change of the loss along a direction is the sum of its changes along the two halves"
    shares = [a / b for a, b in zip(found.slope_follows, found.slope_steady, strict=True)]
    reasons = []
    if min(shares) < FOLLOWS:
        worst = shares.index(min(shares))
        reasons.append(
            f"the change of the loss has a cosine of {found.slope_follows[worst]:.2f} with the change that "
            f"the gradient predicts, but of {found.slope_steady[worst]:.2f} with the sum of the changes "
            "along two halves of each direction"
        )
    if (found.hidden_inputs or 0.0) > HIDDEN:
        reasons.append(
            f"{_percent(found.hidden_inputs or 0.0)} of the squared change of the loss comes from pixels "
            "without a gradient to speak of"
        )
    if (found.slope_factor or 0.0) > FAINT:
        reasons.append(f"the loss changes {found.slope_factor:,.0f} times as much as the gradient predicts")
    return "; ".join(reasons) or None


def few_values(evidence: Evidence) -> str | None:
    """Whether a model of unknown parts answers as the counts of very few spikes do."""
    found = evidence.diagnostics
    if found is None or found.values is None or found.levels_found is None or evidence.other_gradients:
        return None
    if not 2 < found.values <= COUNTED:
        return None
    return f"the margin takes only {found.values} values, and nothing is known of the model but its answers"


def stepwise_without_levels(diagnostics: Diagnostics) -> str | None:
    """Whether single pixels have levels that were not found, so that no attack could search them."""
    share = diagnostics.shared_steps
    if share is None or diagnostics.levels_found or share <= REPEATED:
        return None
    return (
        f"{_percent(share)} of the pixel values at which the answers jump are the same for other images, "
        "and no levels were found that all pixels have in common"
    )


def unstable_predictions(diagnostics: Diagnostics) -> str | None:
    if diagnostics.unstable is None or diagnostics.unstable <= SHAKEN:
        return None
    if diagnostics.slope_steady and min(diagnostics.slope_steady) >= STEADY:
        return None  # the loss changes much, but it has a slope
    return f"noise of half the usual budget changes the loss by {_percent(diagnostics.unstable)} on average"


def not_diagnosed(evidence: Evidence) -> str | None:
    if evidence.diagnostics is not None:
        return None
    return "the state, the randomness and the gradients of the model are not known"


# --- comparisons between attacks ---


def _best(attacks: Sequence[AttackEvidence]) -> AttackEvidence | None:
    return min(attacks, key=lambda a: a.accuracy, default=None)


def _beaten(winner: AttackEvidence | None, loser: AttackEvidence | None) -> str | None:
    if winner is None or loser is None or winner.accuracy >= loser.accuracy - SLACK:
        return None
    return f"{winner.name} {_percent(winner.accuracy)} is below {loser.name} {_percent(loser.accuracy)}"


def _alone(evidence: Evidence) -> Evidence:
    """The evidence without members of suites, which attack only what the members before them left."""
    return replace(evidence, attacks=[a for a in evidence.attacks if a.broke is None])


def _broke_after(
    evidence: Evidence, members: Sequence[AttackEvidence], others: str, slack: float
) -> str | None:
    """The examples that members of suites broke after members with gradients of the model had not."""
    inside = [a for a in evidence.attacks if a.broke is not None]
    own = [a for a in inside if _follows_the_model(a) and a.steps > 1]
    if not own:
        return None
    later = [a for a in members if a.broke and inside.index(a) > inside.index(own[0])]
    share = sum(a.broke or 0.0 for a in later)
    if share <= slack:
        return None
    names = ", ".join(a.name for a in later[:3])
    return f"{names} broke {_percent(share)} of the examples, which earlier attacks with {others} had not"


def _follows_the_model(attack: AttackEvidence) -> bool:
    return not attack.gradient_free and attack.gradient_source == GradientSource.MODEL


def _follows_a_substitute(attack: AttackEvidence) -> bool:
    return attack.gradient_source == GradientSource.SUBSTITUTE


def gradient_free_beats_gradient(evidence: Evidence) -> str | None:
    alone = _alone(evidence)
    free = [a for a in evidence.attacks if a.gradient_free]
    beaten = None
    if not searched(evidence):  # a suite does not rest on the attacks beside it
        beaten = _beaten(_best([a for a in alone.attacks if a.gradient_free]), _best(alone.white_box()))
    return beaten or _broke_after(evidence, free, "gradients", SUITE_SLACK)


def transfer_beats_white_box(evidence: Evidence) -> str | None:
    transfers = [a for a in evidence.attacks if a.gradient_source == GradientSource.TRANSFER]
    return _beaten(_best(transfers), _best(evidence.white_box()))


def searched(evidence: Evidence) -> bool:
    """Whether a standard suite or a larger one ran, which follows several gradient sources by itself."""
    return any(level != Level.QUICK for level in evidence.suites)


def substitute_beats_training(evidence: Evidence) -> str | None:
    return None if searched(evidence) else substitute_ahead(evidence)


def substitute_ahead_in_a_suite(evidence: Evidence) -> str | None:
    return substitute_ahead(evidence) if searched(evidence) else None


def substitute_ahead(evidence: Evidence) -> str | None:
    """By how much substitutes are ahead of the gradients of training, if they are."""
    substitutes = [a for a in evidence.white_box() if _follows_a_substitute(a)]
    if found := _broke_after(evidence, substitutes, "the gradients of training", SUBSTITUTE_SLACK):
        return found
    alone = _alone(evidence).white_box()
    best = _best([a for a in alone if _follows_the_model(a) and a.steps > 1])
    better = _best([a for a in alone if _follows_a_substitute(a)])
    if best is None or better is None or better.accuracy >= best.accuracy - SUBSTITUTE_SLACK:
        return None
    return _beaten(better, best)


def one_step_beats_many(evidence: Evidence) -> str | None:
    own = [a for a in evidence.white_box() if _follows_the_model(a)]
    return _beaten(_best([a for a in own if a.steps == 1]), _best([a for a in own if a.steps > 1]))


def rises_with_epsilon(evidence: Evidence) -> str | None:
    smaller = [point for point in evidence.curve if point.epsilon < evidence.epsilon]
    best = min(smaller, key=lambda p: p.accuracy, default=None)
    if best is None or evidence.accuracy <= best.accuracy + SLACK:
        return None
    return (
        f"{_percent(best.accuracy)} at {best.epsilon:.4g} but {_percent(evidence.accuracy)} "
        f"at {evidence.epsilon:.4g}"
    )


# --- how well each attack searched ---


def unbounded_attack_fails(evidence: Evidence) -> str | None:
    """An attack that may choose any image should break every example."""
    best = _best(evidence.white_box())
    if not evidence.unbounded or best is None or best.accuracy <= ALL_BROKEN:
        return None
    return f"{best.name} may choose any image, and the accuracy is still {_percent(best.accuracy)}"


def loss_still_rising(evidence: Evidence) -> str | None:
    if searched(evidence):  # members begin where others ended, so their gains have no common start
        return None
    iterated = [a for a in evidence.white_box() if a.steps > 1]
    strongest = min(iterated, key=lambda a: (a.accuracy, -a.steps), default=None)
    if strongest is None or strongest.accuracy <= ALL_BROKEN:
        return None
    gained = _gained_at_the_end(strongest.losses or ())
    if gained <= STILL_GAINING:
        return None
    return f"{strongest.name} made {_percent(gained)} of its gain in the last quarter of its steps"


def _gained_at_the_end(losses: Sequence[float]) -> float:
    """The share of the gain in the best loss so far that the last quarter of the steps made; 0 if unknown."""
    if len(losses) < TRACE:
        return 0.0
    best, path = -float("inf"), []
    for loss in losses:
        best = max(best, loss)
        path.append(best)
    last = len(path) // 4
    return (path[-1] - path[-1 - last]) / (path[-1] - path[0]) if path[-1] > path[0] else 0.0


def search_still_finding(evidence: Evidence) -> str | None:
    """Whether as much search again would lead out of the interval, if it found as the last of it did."""
    if not searched(evidence):
        return None
    members = _last_suite(evidence)
    below = evidence.accuracy - evidence.interval.low
    repeats = [i for i, member in enumerate(members) if member.repeats]
    if repeats:
        families: dict[int, list[int]] = {}
        for i in repeats:
            families.setdefault(_origin(members, i), []).append(i)
        searches = [
            [members[i] for i in dict.fromkeys((origin, *again))] for origin, again in families.items()
        ]
        late_from = max(3 * len(members) // 4, *(again[0] + 1 for again in families.values()))
        others = [member for i, member in enumerate(members) if i >= late_from and i not in repeats]
        late, beside = sum(map(_in_last_half, searches)), sum(member.broke or 0.0 for member in others)
        named = " and ".join(search[0].name for search in searches)
        whose = "its" if len(searches) == 1 else "their"
        said = f"the last half of {named} and {whose} repeats broke {_percent(late)}"
        said += f" and the members after it {_percent(beside)}" if beside else ""
        found = late + beside
    else:
        end = members[3 * len(members) // 4 :]
        found = sum(member.broke or 0.0 for member in end)
        said = f"the last {len(end)} of {len(members)} members of the suite broke {_percent(found)}"
    if len(members) < 2 or found <= below:
        return None
    return (
        f"{said} of the examples, and the lower end of the interval lies {_percent(below)} below the number"
    )


def _origin(members: Sequence[AttackEvidence], repeat: int) -> int:
    """The position of the member that a repeat, which has its name with an addition, is once more."""
    inside = (i for i in range(repeat) if not members[i].repeats)
    return max((i for i in inside if members[repeat].name.startswith(members[i].name)), default=repeat)


def _in_last_half(search: Sequence[AttackEvidence]) -> float:
    """The share of the examples that the last half of the forward passes of a repeated search broke."""
    if not all(member.passes for member in search):  # not known: what all repeats found
        return sum(member.broke or 0.0 for member in search[1:])
    left, found = sum(member.passes for member in search) / 2, 0.0
    for member in reversed(search):
        counted = min(member.passes, left)
        found += (member.broke or 0.0) * counted / member.passes
        left -= counted
    return found


def _last_suite(evidence: Evidence) -> list[AttackEvidence]:
    """The members of the suite that was run last; accuracy does not rise from member to member."""
    members = [a for a in evidence.attacks if a.broke is not None]
    starts = [i for i in range(1, len(members)) if members[i].accuracy > members[i - 1].accuracy + SLACK]
    return members[max(starts, default=0) :]


def silent_success(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name} passed an adversarial image for {_percent(a.silent_success)} more of the examples"
            if a.silent_success is not None and a.silent_success > SLACK
            else None
        ),
    )


def effect_lost_at_8_bits(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name}: {_percent(a.accuracy)} becomes {_percent(a.eight_bit_accuracy)} on 8-bit images"
            if a.eight_bit_accuracy is not None and a.eight_bit_accuracy > a.accuracy + RESTORED
            else None
        ),
    )


def one_exit_attacked(evidence: Evidence) -> str | None:
    if not evidence.dynamic_exit or not evidence.white_box() or evidence.epsilon == 0:
        return None
    if any(a.every_exit for a in evidence.white_box()):
        return None
    return "the time of the decision is not differentiable, and every objective includes only the exit taken"


def expectation_too_small(evidence: Evidence) -> str | None:
    if not evidence.stochastic:
        return None
    reasons = []
    if evidence.white_box() and not any((a.draws or 1) > 1 for a in evidence.white_box()):
        reasons.append("every gradient is computed from a single draw")
    most = max((a.draws or 1 for a in evidence.white_box()), default=1)
    agreement = None if evidence.diagnostics is None else evidence.diagnostics.gradient_agreement
    if agreement is not None and expected_agreement(agreement, most) < DISAGREE:
        reasons.append(
            f"two estimates of the gradient from {VOTES} draws each have a mean cosine of {agreement:.2f}, "
            f"and no attack used more than {most} draws per gradient"
        )
    return "; ".join(reasons) or None


def expected_agreement(agreement: float, draws: int) -> float:
    r"""The expected cosine of two estimates of a gradient from `draws` draws each.

    .. math:: c_D = \left(1 + \tfrac{V}{D}\,(1 / c_V - 1)\right)^{-1}

    The mean over `D` draws has the same expectation as one draw and `1/D` of its variance; `V` is the number
    of draws that the diagnostics use. An attack that uses fewer draws than `V` is treated as if it used `V`,
    because its steps average the gradient as well.

    Args:
        agreement: mean cosine that the diagnostics measured.
        draws: gradients per step of an attack.

    Example:
        >>> round(expected_agreement(0.4, 16), 2), round(expected_agreement(0.4, 64), 2)
        (0.4, 0.73)
    """
    if agreement <= 0:
        return agreement
    return 1 / (1 + VOTES / max(draws, VOTES) * (1 / agreement - 1))


def nearer_image_known(evidence: Evidence) -> str | None:
    share = evidence.nearer
    if not share:
        return None
    return f"an adversarial image within epsilon is known for {_percent(share)} of the examples that survived"


def nested_budgets(evidence: Evidence) -> str | None:
    if not evidence.nested:
        return None
    return "every attack began with the images of a smaller budget, so the accuracy could not rise"


# --- how much was measured ---


def too_few_examples(evidence: Evidence) -> str | None:
    low, high = evidence.interval
    half = (high - low) / 2
    if evidence.margin_claimed is not None and half > evidence.margin_claimed:
        return (
            f"an interval of ±{100 * half:.1f} points cannot show a difference of "
            f"{100 * evidence.margin_claimed:.1f} points"
        )
    different = evidence.n if evidence.different is None else evidence.different
    if different == evidence.n:
        return f"with n = {evidence.n} the interval is ±{100 * half:.1f} points" if half > WIDE else None
    low, high = wilson(evidence.accuracy * different, different)
    half = (high - low) / 2
    if half <= WIDE:
        return None
    return (
        f"the {evidence.n} examples are worth {different}, because some are nearly the same, and with n = "
        f"{different} the interval is ±{100 * half:.1f} points"
    )


def attacks_too_few(evidence: Evidence) -> str | None:
    """What the attacks lack in comparison with the standard suite."""
    if evidence.epsilon == 0 or searched(evidence):
        return None
    counted = [a for a in evidence.white_box() if a.steps >= ENOUGH_STEPS and not a.target]
    objectives = {objective for a in counted for objective in a.objectives}
    gradients = {name for a in counted for name in a.gradient_names}
    steps = sum(a.steps for a in counted)
    queries = sum(a.queries for a in evidence.attacks if a.gradient_free)
    lacking = []
    if not counted:
        lacking.append(f"no gradient attack of {ENOUGH_STEPS} steps or more")
    else:
        if steps < ENOUGH_SUM:
            lacking.append(f"{steps} of {ENOUGH_SUM} gradient steps")
        if len(objectives) < 2:
            lacking.append("only one objective")
        if len(gradients) < 2 and evidence.other_gradients:
            lacking.append("only one gradient source")
    if queries < ENOUGH_QUERIES:
        size = f"{queries:,.0f} of {ENOUGH_QUERIES:,} queries without gradients"
        lacking.append(size if queries else "no search without gradients")
    return ", ".join(lacking) or None

"""The checks: each a pure function from evidence to a sentence with numbers, or None.

`audit` runs them all. A *withheld* number rests on an evaluation that is wrong; a *doubtful* one shows signs that
the evaluation was too weak; a *preliminary* one shows none and was not searched enough to show them; a
*supported* one was. What every check means stands in `docs/audit.md`, which is written from here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from spikeproof.auditing.evidence import VOTES, AttackEvidence, Evidence, ProbeEvidence
from spikeproof.statistics import wilson

__all__ = [
    "CHECKS",
    "DOUBTFUL",
    "EVALUATE",
    "GRAVITY",
    "MARKS",
    "NOTE",
    "PRELIMINARY",
    "PYTHON",
    "STUDIES",
    "SUPPORTED",
    "WITHHELD",
    "Check",
    "Finding",
    "Verdict",
    "audit",
    "document",
]

SUPPORTED, PRELIMINARY, DOUBTFUL, WITHHELD = "supported", "preliminary", "doubtful", "withheld"
NOTE = "note"
"""What a check says that leaves the verdict as it is."""
GRAVITY = (WITHHELD, DOUBTFUL, PRELIMINARY, SUPPORTED)
"""All verdicts, the gravest first."""
MARKS = {DOUBTFUL: "?", PRELIMINARY: "~"}
"""What stands behind a number that is shown and not supported."""

STUDIES, EVALUATE, PYTHON = "studies", "`spikeproof evaluate`", "Python"
"""Where numbers come from."""
EVERYWHERE = (STUDIES, EVALUATE, PYTHON)

SLACK = 0.005
"""Differences in accuracy below half a point are not held against an attack."""
SUITE_SLACK = 0.02
"""Share of the examples that a kind of members of a suite may break after the others without being held against these."""
ENOUGH_STEPS, ENOUGH_SUM, ENOUGH_QUERIES = 20, 100, 1000
"""Steps of a gradient attack that counts, of all of them together, and queries without gradients per example."""
AS_GOOD_AS_ZERO = 0.025
"""A robust accuracy up to this, and within chance of 0, has no doubt that it is too high."""
FOLLOWS = 0.75
"""A slope should agree with changes of the loss this well, as a share of what they agree among themselves."""
STEADY = 0.3
"""A loss whose changes agree less among themselves is no slope at all."""
HIDDEN, FAINT, FLAT = 0.1, 20.0, 0.5
"""Limits of the loss's change by pixels without gradient, of its excess over the slope, of flat places."""


class Finding(NamedTuple):
    """One check that was raised."""

    check: str
    verdict: str
    why: str


class Verdict(NamedTuple):
    """What the evidence says about a number."""

    verdict: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()

    @property
    def why(self) -> str:
        """The reasons in one line, gravest first."""
        return "; ".join(f"{finding.check}: {finding.why}" for finding in self.findings)


@dataclass(frozen=True)
class Check:
    """One question to the evidence.

    Args:
        name: as shown; also its heading in the documentation.
        verdict: what it makes of a number, `preliminary`, `doubtful` or `withheld`, or `note` for nothing.
        test: evidence -> why it is raised, or None.
        raised_if: the condition, in words.
        matters: why it matters.
        remedy: what to do.
        source: where it comes from.
        where: whose numbers it can be raised for: `STUDIES`, `EVALUATE`, `PYTHON`.
        too_high: whether what it fears is a number that is too high, and so none that is as good as 0.
        only: why it cannot be raised for others.
    """

    name: str
    verdict: str
    test: Callable[[Evidence], str | None]
    raised_if: str
    matters: str
    remedy: str
    source: str
    where: tuple[str, ...] = EVERYWHERE
    too_high: bool = True
    only: str = ""


def audit(evidence: Evidence) -> Verdict:
    """The verdict on one headline number.

    Example:
        >>> from spikeproof.statistics import wilson
        >>> attack = AttackEvidence(name="fgsm", accuracy=0.8, steps=1)
        >>> number = Evidence(accuracy=0.8, interval=wilson(80, 100), n=100, clean_accuracy=0.9, classes=10,
        ...     epsilon=0.1, attacks=[attack])
        >>> verdict = audit(number)
        >>> verdict.verdict, [finding.check for finding in verdict.findings]
        ('doubtful', ['not probed', 'attacks too few'])
    """
    zero = _as_good_as_zero(evidence)
    raised = []
    for check in CHECKS:
        why = None if zero and check.too_high else check.test(evidence)
        if why is not None:
            raised.append(Finding(check.name, check.verdict, why))
    found = [finding for finding in raised if finding.verdict != NOTE]
    found.sort(key=lambda finding: GRAVITY.index(finding.verdict))
    notes = tuple(finding for finding in raised if finding.verdict == NOTE)
    return Verdict(found[0].verdict if found else SUPPORTED, tuple(found), notes)


def _as_good_as_zero(evidence: Evidence) -> bool:
    """Whether a number cannot be too high: what might be wrong with it is within chance of none."""
    if not evidence.n:
        return False
    return evidence.accuracy <= min(AS_GOOD_AS_ZERO, wilson(0, evidence.n).high)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _probed(test: Callable[[ProbeEvidence], str | None]) -> Callable[[Evidence], str | None]:
    return lambda evidence: None if evidence.probe is None else test(evidence.probe)


def _share(name: str, limit: float, text: str) -> Callable[[Evidence], str | None]:
    """Raised where a share of the probe is above its limit."""

    def test(probe: ProbeEvidence) -> str | None:
        share: float | None = getattr(probe, name)
        return text.format(_percent(share)) if share is not None and share > limit else None

    return _probed(test)


def _each(evidence: Evidence, test: Callable[[AttackEvidence], str | None]) -> str | None:
    reasons = [reason for attack in evidence.attacks if (reason := test(attack)) is not None]
    return ", ".join(reasons) or None


def _budget(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name} left its budget or the box on {_percent(a.violations)} of the examples"
            if a.violations
            else None
        ),
    )


def _other_model(evidence: Evidence) -> str | None:
    return _each(
        evidence, lambda a: f"{a.name} attacked {a.target}" if a.target and a.source != "transfer" else None
    )


def _contradicted(evidence: Evidence) -> str | None:
    share = evidence.contradicted
    return f"{_percent(share)} of the examples are proved robust and broken" if share else None


def _chosen_on_test(evidence: Evidence) -> str | None:
    return "settings were chosen on the test part" if evidence.chosen_on == "test" else None


def _failed(probe: ProbeEvidence) -> str | None:
    return probe.failed


def _training(probe: ProbeEvidence) -> str | None:
    return "the model was in training mode" if probe.training else None


def _remembers(probe: ProbeEvidence) -> str | None:
    """What an image's answer depends on besides the image."""
    reasons = [
        f"{_percent(share)} of the answers changed {when}"
        for share, when in (
            (probe.state_leak, "after other images were shown, or while gradients were recorded"),
            (probe.order_leak, "when the same images came in the opposite order"),
            (probe.copy_leak, "from those of a copy that had not been asked before"),
        )
        if share
    ]
    reasons += [probe.again] if probe.again else []
    return "; ".join(reasons) or None


def _slope(probe: ProbeEvidence) -> str | None:
    """Whether the loss moves as its gradient says, at the clean image, on an attack's way and at its end."""
    if probe.flat is None:
        return None
    if probe.flat > FLAT:
        return f"around {_percent(probe.flat)} of the examples the loss moves in no direction"
    if probe.values is not None and probe.values <= 2:
        return f"{probe.values} values of the margin are all that it takes, so no gradient is its slope"
    if not probe.slope_follows:
        return "the loss moves along every direction as by chance"
    shares = [a / b for a, b in zip(probe.slope_follows, probe.slope_steady, strict=True)]
    reasons = []
    if min(shares) < FOLLOWS:
        worst = shares.index(min(shares))
        reasons.append(
            f"the loss agrees with its gradient to a cosine of {probe.slope_follows[worst]:.2f}, and with "
            f"itself, halves of a step against the whole, to {probe.slope_steady[worst]:.2f}"
        )
    if (probe.hidden_inputs or 0.0) > HIDDEN:
        reasons.append(
            f"pixels without gradient make {_percent(probe.hidden_inputs or 0.0)} of its change, squared"
        )
    if (probe.slope_factor or 0.0) > FAINT:
        reasons.append(f"it moves {probe.slope_factor:,.0f} times as far as the gradient says")
    return "; ".join(reasons) or None


def _unstable(probe: ProbeEvidence) -> str | None:
    if probe.unstable is None or probe.unstable <= 0.5:
        return None
    if probe.slope_steady and min(probe.slope_steady) >= STEADY:
        return None  # it changes much, and as a slope would have it
    return f"the loss changes by {_percent(probe.unstable)} under noise of half the usual budget"


def _ties(evidence: Evidence) -> str | None:
    share, probe = evidence.tie_share, evidence.probe
    if share is None:
        share = None if probe is None else probe.ties
    if share is None or share <= 0.05:
        return None
    otherwise = (
        ""
        if evidence.argmax_accuracy is None
        else f"; with the first of the best classes for an answer, {_percent(evidence.argmax_accuracy)} would be right "
        "on images whose attack ended at a tie"
    )
    return f"{_percent(share)} of the images have no one best class and count as errors{otherwise}"


def _not_differentiable(probe: ProbeEvidence) -> str | None:
    return "no gradient reaches the image" if probe.differentiable is False else None


def _vanishing(evidence: Evidence) -> str | None:
    reasons = []
    probe = evidence.probe
    if probe is not None and probe.zero_gradients is not None and probe.zero_gradients > 0.05:
        layers = ", ".join(_percent(share) for share in probe.zero_by_layer)
        where = f" (zero in the layers: {layers})" if layers else ""
        reasons.append(f"the image gets none on {_percent(probe.zero_gradients)} of the examples{where}")
    blind = [
        a for a in evidence.attacks if not (a.gradient_free or a.target) and (a.zero_gradients or 0.0) > 0.05
    ]
    blind.sort(key=lambda a: -(a.zero_gradients or 0.0))
    named = ", ".join(
        f"{a.name} saw none in {_percent(a.zero_gradients or 0.0)} of its looks" for a in blind[:3]
    )
    more = f" and {len(blind) - 3} more attacks were blind on more than 5 %" if blind[3:] else ""
    return "; ".join([*reasons, *([named + more] if blind else [])]) or None


def _dead_layers(probe: ProbeEvidence) -> str | None:
    dead = [i for i, share in enumerate(probe.zero_by_layer, 1) if share > 0.99]
    return f"layer {', '.join(map(str, dead))} passes almost none back" if dead else None


def _best(attacks: Sequence[AttackEvidence]) -> AttackEvidence | None:
    return min(attacks, key=lambda a: a.accuracy, default=None)


def _beaten(evidence: Evidence, winner: AttackEvidence | None, loser: AttackEvidence | None) -> str | None:
    if winner is None or loser is None or winner.accuracy >= loser.accuracy - SLACK:
        return None
    return f"{winner.name} {_percent(winner.accuracy)} is below {loser.name} {_percent(loser.accuracy)}"


def _gradient_free_beats(evidence: Evidence) -> str | None:
    alone = _alone(evidence)
    return _beaten(
        evidence, _best([a for a in alone.attacks if a.gradient_free]), _best(alone.white_box())
    ) or _broke_after(evidence, [a for a in evidence.attacks if a.gradient_free], "gradients", SUITE_SLACK)


def _alone(evidence: Evidence) -> Evidence:
    """Without members of suites, which attack only what those before them left."""
    return replace(evidence, attacks=[a for a in evidence.attacks if a.broke is None])


def _broke_after(
    evidence: Evidence, members: Sequence[AttackEvidence], others: str, slack: float
) -> str | None:
    """What some members of suites broke that gradients of the model, before them, had not."""
    inside = [a for a in evidence.attacks if a.broke is not None]
    own = [a for a in inside if not a.gradient_free and a.source == "model" and a.steps > 1]
    if not own:
        return None
    later = [a for a in members if a.broke and inside.index(a) > inside.index(own[0])]
    share = sum(a.broke or 0.0 for a in later)
    if share <= slack:
        return None
    names = ", ".join(a.name for a in later[:3])
    return f"{names} broke {_percent(share)} of the examples that {others} before had left standing"


def _transfer_beats(evidence: Evidence) -> str | None:
    transfers = [a for a in evidence.attacks if a.source == "transfer"]
    return _beaten(evidence, _best(transfers), _best(evidence.white_box()))


def _substitute_beats(evidence: Evidence) -> str | None:
    substitutes = [a for a in evidence.white_box() if a.source == "substitute"]
    if found := _broke_after(evidence, substitutes, "those of training", 0.05):
        return found
    alone = _alone(evidence)
    own = [a for a in alone.white_box() if a.source == "model" and a.steps > 1]
    others = [a for a in alone.white_box() if a.source == "substitute"]
    best, better = _best(own), _best(others)
    if best is not None and better is not None and better.accuracy < best.accuracy - 0.05:
        return _beaten(evidence, better, best)
    return None


def _one_step_beats(evidence: Evidence) -> str | None:
    own = [a for a in evidence.white_box() if a.source == "model"]
    return _beaten(evidence, _best([a for a in own if a.steps == 1]), _best([a for a in own if a.steps > 1]))


def _rising(evidence: Evidence) -> str | None:
    smaller = [point for point in evidence.curve if point.epsilon < evidence.epsilon]
    best = min(smaller, key=lambda p: p.accuracy, default=None)
    if best is None or evidence.accuracy <= best.accuracy + SLACK:
        return None
    return (
        f"{_percent(best.accuracy)} at {best.epsilon:.4g} but {_percent(evidence.accuracy)} "
        f"at {evidence.epsilon:.4g}"
    )


def _unbounded(evidence: Evidence) -> str | None:
    """An attack that may paint any image leaves no example standing."""
    best = _best(evidence.white_box())
    if not evidence.unbounded or best is None or best.accuracy <= 0.01:
        return None
    return f"{best.name} may choose any image and leaves {_percent(best.accuracy)}"


def _still_rising(evidence: Evidence) -> str | None:
    def test(attack: AttackEvidence) -> str | None:
        if attack.losses is None or len(attack.losses) < 8:
            return None
        best, path = -float("inf"), []
        for loss in attack.losses:
            best = max(best, loss)
            path.append(best)
        if path[-1] <= path[0]:
            return None
        last = len(path) // 4
        gained = (path[-1] - path[-1 - last]) / (path[-1] - path[0])
        return (
            f"{attack.name} made {_percent(gained)} of its gain in its last quarter" if gained > 0.1 else None
        )

    iterated = [a for a in evidence.white_box() if a.steps > 1]
    strongest = min(iterated, key=lambda a: (a.accuracy, -a.steps), default=None)
    return None if strongest is None or strongest.accuracy <= 0.01 else test(strongest)


def _silent_success(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name} had fooled {_percent(a.silent_success)} more on its way"
            if a.silent_success is not None and a.silent_success > SLACK
            else None
        ),
    )


def _eight_bits(evidence: Evidence) -> str | None:
    return _each(
        evidence,
        lambda a: (
            f"{a.name}: {_percent(a.accuracy)} becomes {_percent(a.eight_bit_accuracy)} on 8-bit images"
            if a.eight_bit_accuracy is not None and a.eight_bit_accuracy > a.accuracy + 0.1
            else None
        ),
    )


def _too_few(evidence: Evidence) -> str | None:
    low, high = evidence.interval
    half = (high - low) / 2
    if evidence.margin_claimed is not None and half > evidence.margin_claimed:
        return f"±{100 * half:.1f} points cannot show {100 * evidence.margin_claimed:.1f}"
    return f"n = {evidence.n} leaves ±{100 * half:.1f} points" if half > 0.1 else None


def _too_weak(evidence: Evidence) -> str | None:
    """What the attacks lack of the standard suite's evidence."""
    if evidence.epsilon == 0 or any(level != "quick" for level in evidence.suites):
        return None
    counted = [a for a in evidence.white_box() if a.steps >= ENOUGH_STEPS and not a.target]
    objectives = {objective for a in counted for objective in a.objectives}
    sources = {source for a in counted for source in a.sources}
    steps = sum(a.steps for a in counted)
    queries = sum(a.queries for a in evidence.attacks if a.gradient_free)
    lacking = []
    if not counted:
        lacking.append(f"no gradient attack of {ENOUGH_STEPS} steps or more")
    else:
        if steps < ENOUGH_SUM:
            lacking.append(f"{steps} of {ENOUGH_SUM} steps along gradients")
        if len(objectives) < 2:
            lacking.append("one objective")
        if len(sources) < 2 and evidence.other_gradients:
            lacking.append("one source of gradients")
    if queries < ENOUGH_QUERIES:
        size = f"{queries:,.0f} of {ENOUGH_QUERIES:,} queries without gradients"
        lacking.append(size if queries else "no search without gradients")
    return ", ".join(lacking) or None


def _one_exit(evidence: Evidence) -> str | None:
    if not evidence.dynamic_exit or not evidence.white_box() or evidence.epsilon == 0:
        return None
    if any(a.every_exit for a in evidence.white_box()):
        return None
    return "the time of the decision has no derivative, and every gradient is that of the exit taken alone"


def _expectation(evidence: Evidence) -> str | None:
    if not evidence.stochastic:
        return None
    reasons = []
    if evidence.white_box() and not any((a.draws or 1) > 1 for a in evidence.white_box()):
        reasons.append("every gradient rests on a single draw")
    most = max((a.draws or 1 for a in evidence.white_box()), default=1)
    agreement = None if evidence.probe is None else evidence.probe.gradient_agreement
    if agreement is not None and expected_agreement(agreement, most) < 0.5:
        reasons.append(
            f"two estimates of the gradient from {VOTES} draws each agree to a cosine of {agreement:.2f}, "
            f"and no attack drew more than {most}"
        )
    return "; ".join(reasons) or None


def _nearer(evidence: Evidence) -> str | None:
    share = evidence.nearer
    return f"on {_percent(share)} of the examples a nearer adversarial image is known" if share else None


def _nested(evidence: Evidence) -> str | None:
    if not evidence.nested:
        return None
    return "every attack began with what a smaller budget had left, so accuracy could not rise"


def expected_agreement(agreement: float, draws: int) -> float:
    r"""Cosine to expect of two estimates from so many draws, from that of two probed ones.

    .. math:: c_D = \left(1 + \tfrac{V}{D}\,(1 / c_V - 1)\right)^{-1}

    A mean over `D` draws keeps the gradient and has `1/D` of the variance of one; `V` is the number that the
    probe takes. Fewer draws than it takes are not held against an attack, whose steps average as well.

    Args:
        agreement: cosine that the probe found.
        draws: gradients per step of an attack.

    Example:
        >>> round(expected_agreement(0.4, 16), 2), round(expected_agreement(0.4, 64), 2)
        (0.4, 0.73)
    """
    if agreement <= 0:
        return agreement
    return 1 / (1 + VOTES / max(draws, VOTES) * (1 / agreement - 1))


def _not_probed(evidence: Evidence) -> str | None:
    return "nothing is known of state, randomness and gradients" if evidence.probe is None else None


_MASK = "Athalye, Carlini & Wagner 2018, section 3.1"
_INDICATORS = "Pintor et al. 2022, section 3"

CHECKS: tuple[Check, ...] = (
    Check(
        "budget or box violated",
        WITHHELD,
        _budget,
        "an attack returned an image outside its budget or outside [0, 1].",
        "The number would belong to a larger budget than the one printed. spikeproof counts such images as not "
        "attacked, so the attack is also weaker than it could be.",
        "Project after the last change of the image; give pixels in [0, 1].",
        "Carlini et al. 2019, section 3.3",
        too_high=False,
    ),
    Check(
        "another model attacked",
        WITHHELD,
        _other_model,
        "the attack saw other time steps, another encoder or another decoder than the evaluation.",
        "Images made for another model measure transfer, which is far weaker.",
        "Attack the very model that is measured, or call it a transfer attack.",
        "Carlini et al. 2019, section 3.1; methods of rate-coded models are a known case",
        only="Its evidence names both models (`attack_evidence` with `model` and `through`). Studies, `evaluate` and "
        "`audit` attack the model that they measure, and call images that are made on any other a transfer.",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "certificate contradicted",
        WITHHELD,
        _contradicted,
        "an attack broke an example for which a certificate holds.",
        "One of the two is wrong; until it is known which, neither number can be used.",
        "Report it: this is a fault of spikeproof, or of the model's determinism.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "test data used for choosing",
        WITHHELD,
        _chosen_on_test,
        "settings of model or attack were chosen on the images that are reported.",
        "What was chosen to look good on these images looks better on them than it is.",
        "Choose on the validation part (`hold_out`).",
        "Carlini et al. 2019, section 5",
        only='Its evidence says `chosen_on="test"`. What a study '
        "chooses (`chosen`), it chooses on the validation part, and it is refused where that is too small; "
        "whether its file was written after a look at its results cannot be seen.",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "answers are no logits",
        WITHHELD,
        _probed(_failed),
        "the model answers NaN or infinity, the wrong shape, or raises an error on images in [0, 1].",
        "Comparisons with NaN are false, so a broken answer can count as a robust one.",
        "Mend the model.",
        "spikeproof",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "training mode",
        WITHHELD,
        _probed(_training),
        "the model is in training mode.",
        "Batch normalisation then uses the batch, dropout is on, and statistics change while one measures.",
        "Call `model.eval()`.",
        "Carlini et al. 2019, section 5",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "state leaks between calls",
        WITHHELD,
        _probed(_remembers),
        "the same image is answered otherwise after other images, in another order, while gradients are recorded, "
        "or than by a copy of the model that had not been asked before; the copy is also asked about images that "
        "are almost those the model has seen.",
        "Left-over membrane potential becomes part of every later answer, and an attack changes the model that "
        "it attacks; a cache answers an attacked image as it did the clean one.",
        "Reset all state before each call.",
        "spikeproof; a frequent fault of stateful layers",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "depends on batch companions",
        WITHHELD,
        _share("companions", 0.0, "{} of the answers changed when the image was shown alone"),
        "an image is answered otherwise alone than among others.",
        "Accuracy then depends on how images are grouped, and an attack on one image is undone by another.",
        "Remove normalisation over the batch, in the encoder as well.",
        "spikeproof; some libraries scale a code by the maximum of the batch",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "unaccounted randomness",
        WITHHELD,
        _share("randomness", 0.0, "{} of the answers changed although nothing was said to be random"),
        "one key gives two answers, or a model that calls itself deterministic depends on the key.",
        "Noise averages out gradients and lets examples survive by luck.",
        "Declare the model stochastic, draw from the key that is passed, and attack in expectation.",
        "Athalye, Carlini & Wagner 2018, section 4.2",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "non-differentiable link",
        WITHHELD,
        _probed(_not_differentiable),
        "no gradient reaches the image, because some operation on the way cuts it off.",
        "A gradient attack on such a model does nothing, and what it leaves standing says nothing.",
        "Give the operation a backward rule (straight-through, time-shift).",
        "Athalye, Carlini & Wagner 2018, section 4.1 (BPDA)",
        where=(PYTHON,),
    ),
    Check(
        "zero gradients",
        DOUBTFUL,
        _vanishing,
        "more than 5 % of the examples, or of an attack's looks, have a gradient that is zero everywhere.",
        "The attack stands still there, and standing still looks like robustness.",
        "Attack through a wider surrogate (`surrogate:`), with another objective (margin, DLR), or from random "
        "starts.",
        f"{_INDICATORS} (unavailable gradients)",
    ),
    Check(
        "layer without gradient",
        DOUBTFUL,
        _probed(_dead_layers),
        "a spiking layer passes back a gradient for less than 1 % of its neurons and steps.",
        "The surrogate is too narrow for the potentials that occur, so the image sees little of the loss.",
        "Use a wider surrogate for the attack; the sweep over widths shows which.",
        "methods of adaptive surrogate sharpness, arXiv 2512.22522",
    ),
    Check(
        "masked encoder gradient",
        DOUBTFUL,
        _share("masked_inputs", 0.5, "{} of the black pixels that matter have no gradient"),
        "most pixels that are black, and whose change alters the answer, get a gradient of exactly zero.",
        "A rule that is gated by emitted spikes hides the whole background from the attack.",
        "Attack with `backward: time-shift` or `straight-through`, and from random starts.",
        "spikeproof, on the published code of Ding et al. 2023",
    ),
    Check(
        "probabilities instead of logits",
        DOUBTFUL,
        _probed(lambda p: "each answer sums to 1" if p.probabilities else None),
        "the answers lie in [0, 1] and sum to 1.",
        "A soft-max in the model and another in the loss flatten every gradient.",
        "Return the scores before the soft-max.",
        "Croce & Hein 2020 (AutoAttack), checks",
        where=(PYTHON,),
    ),
    Check(
        "ties",
        NOTE,
        _ties,
        "more than 5 % of the attacked images have two or more best classes.",
        "Outputs that take few values tie. A tie counts as an error; whoever takes the first of the best classes "
        "has another number, which is told beside it.",
        "Use more steps, or a read-out that breaks ties by the membrane potential.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "silent outputs decoded as a class",
        WITHHELD,
        _share("silent_decided", 0.0, "{} of the examples are decided by an output layer that did nothing"),
        "the output layer is silent and the model answers a class all the same.",
        "A silent network then answers class 0, which may be right by accident and cannot be attacked further.",
        "Count silence as no answer.",
        "spikeproof; methods of first-spike decoding",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "gradient is no slope",
        DOUBTFUL,
        _probed(_slope),
        f"along random directions the loss does not move as its gradient says (cosine below {FOLLOWS} of what the "
        f"changes along two halves of a direction agree with the whole), or pixels without gradient make more than "
        f"{HIDDEN:.0%} of its change, or it moves more than {FAINT:.0f} times as far as the gradient says, or around "
        f"more than {FLAT:.0%} of the images not at all, or it takes no more than two values. Looked at on clean "
        "images, half-way and at the end of an attack.",
        "A gradient of the wrong sign, with noise on it, of one member or region alone, or of some other function "
        "leads an attack nowhere, and leading nowhere looks like robustness.",
        "Give every part a backward rule of its own; otherwise believe searches without gradients alone.",
        "spikeproof; Athalye, Carlini & Wagner 2018, section 3.1",
    ),
    Check(
        "unstable predictions",
        DOUBTFUL,
        _probed(_unstable),
        "noise of ±4/255 changes the loss by more than half of itself, and its changes along two halves of a "
        f"direction agree with the whole to a cosine below {STEADY}.",
        "A gradient at a point says little about a neighbourhood in which the loss jumps.",
        "Average gradients over noise, and use gradient-free attacks.",
        f"{_INDICATORS} (unstable predictions)",
    ),
    Check(
        "one exit attacked",
        DOUBTFUL,
        _one_exit,
        "the model exits early when its outputs have it so, and no gradient attack looks at other exits.",
        "When a decision comes has no derivative, so such an attack is blind to one that could come at another time.",
        "Add an attack with the objective `prefix-mean`; suites have one.",
        "spikeproof; Athalye, Carlini & Wagner 2018, section 4.1",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "gradient-free beats gradient",
        DOUBTFUL,
        _gradient_free_beats,
        "an attack that sees answers only leaves fewer examples standing than every gradient attack.",
        "Gradients are masked: who sees more should not do worse.",
        "Use other gradients (`surrogate`, `backward`), more steps and restarts; the worst case counts both.",
        _MASK,
    ),
    Check(
        "transfer beats white-box",
        DOUBTFUL,
        _transfer_beats,
        "images made for another model fool more than those made for this one.",
        "The same: gradients of the model itself are worse than those of a stranger.",
        "As above.",
        _MASK,
        where=(STUDIES, PYTHON),
    ),
    Check(
        "training rule weaker than substitutes",
        DOUBTFUL,
        _substitute_beats,
        "gradients of another surrogate or rule leave 5 points less standing than those of training.",
        "Published numbers are mostly made with the gradient of training.",
        "Report the worst case over several gradient sources.",
        "Xu et al. 2022 (arXiv 2209.03358)",
    ),
    Check(
        "one step beats many",
        DOUBTFUL,
        _one_step_beats,
        "FGSM leaves fewer examples standing than an iterative attack with the same gradients.",
        "Many small steps can do all that a large one does, unless gradients mislead.",
        "Larger steps against the bins of a code (`reach`), restarts, other gradients.",
        _MASK,
        where=(STUDIES, PYTHON),
    ),
    Check(
        "accuracy rises with epsilon",
        DOUBTFUL,
        _rising,
        "a larger budget leaves more examples standing than a smaller one.",
        "A larger budget contains the smaller, so the attack is not at its best.",
        "More steps and restarts at the larger budget; step size in proportion to it.",
        "Carlini et al. 2019, section 4.2",
    ),
    Check(
        "nested budgets",
        DOUBTFUL,
        _nested,
        "every attack at this budget began with the images found within a smaller one.",
        "Such a sweep is cheap, and it cannot show that an attack is weak: its accuracy never rises with epsilon.",
        "`sweep: afresh`, the default.",
        "spikeproof",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "nearer image known",
        DOUBTFUL,
        _nearer,
        "a search for the nearest adversarial image (`distances`) found one within epsilon where all attacks failed.",
        "The example is broken, and the number counts it as robust.",
        "Name that search among the attacks.",
        "spikeproof",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "unbounded attack fails",
        DOUBTFUL,
        _unbounded,
        "with every image allowed, the best gradient attack leaves more than 1 % standing.",
        "An attack that may paint another class over the image and does not is broken.",
        "Find out where its gradient is lost.",
        f"{_MASK}; {_INDICATORS}",
    ),
    Check(
        "loss still rising",
        DOUBTFUL,
        _still_rising,
        "the strongest iterative attack made more than a tenth of its gain in the last quarter of its steps.",
        "It was stopped too early.",
        "More steps.",
        f"{_INDICATORS} (incomplete optimisation)",
    ),
    Check(
        "silent success",
        DOUBTFUL,
        _silent_success,
        "an attack passed an image that fools the model and returned another one.",
        "The attack found more than it reports.",
        "Keep the best image of the whole path.",
        f"{_INDICATORS} (silent success)",
    ),
    Check(
        "expectation too small",
        DOUBTFUL,
        _expectation,
        "a stochastic model was attacked with one draw per gradient, or two estimates of its gradient, from as "
        "many draws as the attack takes, are expected to disagree (cosine below 0.5).",
        "The noise of the gradient is then larger than the gradient.",
        "EOT-PGD with more `draws`.",
        "Athalye, Carlini & Wagner 2018, section 4.2",
    ),
    Check(
        "effect lost at 8 bits",
        DOUBTFUL,
        _eight_bits,
        "rounding the attacked images to 8 bits restores more than 10 points.",
        "Where images are stored in 8 bits, the attack is weaker than its number.",
        "Say which images are meant; attack on the grid of 8 bits.",
        "Carlini et al. 2019, section 5",
    ),
    Check(
        "too few examples",
        DOUBTFUL,
        _too_few,
        "the interval is wider than ±10 points, or than the difference that is claimed.",
        "The number may be far off by the choice of test images alone.",
        "Measure more examples.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "attacks too few",
        PRELIMINARY,
        _too_weak,
        "the number rests neither on a suite of level standard or extreme nor on as much: gradient attacks of at "
        f"least {ENOUGH_STEPS} steps each and {ENOUGH_SUM} together, with two objectives and, of a spiking network, two "
        f"sources of gradients; and searches without gradients of {ENOUGH_QUERIES:,} queries per image together.",
        "A first look that finds nothing wrong does not show that there is nothing to find.",
        "`suite: standard`, or `spikeproof audit`.",
        "Carlini et al. 2019, section 4",
    ),
    Check(
        "not probed",
        DOUBTFUL,
        _not_probed,
        "the model itself was not probed.",
        "Leaking state, randomness and cut gradients do not show in accuracies.",
        "`spikeproof audit`.",
        "spikeproof",
        where=(STUDIES, PYTHON),
        too_high=False,
    ),
)
"""Every check, the graver first."""


_RULE = (
    "Every robust accuracy has one of four verdicts. Its reasons stand beside it wherever it is shown.",
    "",
    "| verdict | mark | when |",
    "|---|---|---|",
    "| supported | | no check was raised, and the number was searched as below |",
    "| preliminary | ~ | no check was raised, but this is a first look, not a search: an attack that nobody tried "
    "may leave less |",
    "| doubtful | ? | a check shows that the attacks may have been too weak |",
    "| withheld | no number | the evaluation is wrong |",
    "",
    "A number was **searched** when a suite of level `standard` or `extreme` ran at its budget, or when the attacks "
    "that ran",
    "are at least as much by these counts:",
    "",
    f"- gradient attacks of {ENOUGH_STEPS} steps or more, {ENOUGH_SUM} steps together, with at least two objectives "
    "and, where",
    "  the model spikes, at least two sources of gradients (its own, another surrogate, another rule for the code);",
    f"- searches without gradients of {ENOUGH_QUERIES:,} queries per image together. One draw of noise is one query.",
    "",
    "At epsilon 0 there is nothing to search. A robust accuracy of 0 cannot be too high: up to "
    f"{100 * AS_GOOD_AS_ZERO:.1f} %, where the",
    "95 % interval of the 0 reaches as far, no check is raised that fears a number too high. A *note* says what is "
    "worth",
    "knowing and leaves the verdict as it is.",
)


def document() -> str:
    """The text of `docs/audit.md`."""
    lines = [
        "# What the audit checks",
        "",
        "Written by `python -m spikeproof.auditing.checks`; the thresholds are those of the code.",
        "",
        *_RULE,
        "",
    ]
    for check in CHECKS:
        lines += [
            f"## {check.name[0].upper()}{check.name[1:]}",
            "",
            f"- **Verdict:** {check.verdict}",
            f"- **Raised if:** {check.raised_if}",
            f"- **Why it matters:** {check.matters}",
            f"- **What to do:** {check.remedy}",
            f"- **Source:** {check.source}",
            f"- **Can be raised in:** {', '.join(check.where)}{'. ' + check.only if check.only else ''}",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(document(), end="")  # noqa: T201

"""The table of checks, and the verdict that it gives to a number.

`audit` runs every check on the evidence of one number. A *withheld* number comes from an evaluation that is
wrong. A *doubtful* number shows signs that the attacks were too weak. A *preliminary* number shows none, but
the attacks did not search enough to show any. A *supported* number was searched enough. The module
`conditions` holds the conditions of the checks; `docs/audit.md`, which explains every check, is written from
this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from spikeproof.auditing import conditions as c
from spikeproof.auditing.evidence import Evidence
from spikeproof.statistics import wilson

__all__ = [
    "CHECKS",
    "DOUBTFUL",
    "EVALUATE",
    "GRAVITY",
    "MARKS",
    "MISSING_ATTACKS",
    "MISSING_SAFEGUARDS",
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
"""The severity of a check that does not change the verdict."""
GRAVITY = (WITHHELD, DOUBTFUL, PRELIMINARY, SUPPORTED)
"""All verdicts, the gravest first."""
MARKS = {DOUBTFUL: "?", PRELIMINARY: "~"}
"""The marks behind numbers that are shown but not supported."""

STUDIES, EVALUATE, PYTHON = "studies", "`spikeproof evaluate`", "Python"
"""Where numbers come from."""
EVERYWHERE = (STUDIES, EVALUATE, PYTHON)

AS_GOOD_AS_ZERO = 0.025
"""A robust accuracy up to this, and within chance of 0, cannot be too high by an amount that matters."""


class Finding(NamedTuple):
    """One check that was raised."""

    check: str
    verdict: str
    why: str


class Verdict(NamedTuple):
    """The verdict on a number, with the checks that were raised."""

    verdict: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...] = ()

    @property
    def why(self) -> str:
        """The reasons in one line, the gravest first."""
        return "; ".join(f"{finding.check}: {finding.why}" for finding in self.findings)


@dataclass(frozen=True)
class Check:
    """One rule of the audit that may be raised against a number.

    Args:
        name: as shown; also its heading in the documentation.
        verdict: the verdict on a number for which the check is raised: `preliminary`, `doubtful` or
            `withheld`, or `note` if the check does not change the verdict.
        test: evidence -> why the check is raised, or None.
        raised_if: the condition, in words.
        matters: why it matters.
        remedy: what to do.
        source: publication or program that the check comes from.
        where: whose numbers it can be raised for: `STUDIES`, `EVALUATE`, `PYTHON`.
        too_high: whether the check fears that a number is too high; such a check is not raised for a number
            that is as good as 0.
        only: why it cannot be raised for others.
    """

    name: str
    verdict: str
    test: c.Condition
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
        >>> from spikeproof.auditing.evidence import AttackEvidence
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
        spared = zero and check.too_high and (check.verdict != PRELIMINARY or evidence.accuracy == 0)
        why = None if spared else check.test(evidence)
        if why is not None:
            raised.append(Finding(check.name, check.verdict, why))
    found = [finding for finding in raised if finding.verdict != NOTE]
    found.sort(key=lambda finding: GRAVITY.index(finding.verdict))
    notes = tuple(finding for finding in raised if finding.verdict == NOTE)
    return Verdict(found[0].verdict if found else SUPPORTED, tuple(found), notes)


def _as_good_as_zero(evidence: Evidence) -> bool:
    """Whether a number cannot be too high by much, because it is within chance of 0."""
    if not evidence.n:
        return False
    return evidence.accuracy <= min(AS_GOOD_AS_ZERO, wilson(0, evidence.n).high)


_MASK = "Athalye, Carlini & Wagner 2018, section 3.1"
_INDICATORS = "Pintor et al. 2022, section 3"

MISSING_SAFEGUARDS = Check(
    "diagnostics or certificate missing",
    WITHHELD,
    c.safeguards_missing,
    "the study plans diagnostics of the model or a certificate at this budget, and the cell failed, is damaged or is not "
    "computed yet.",
    "Diagnostics and certificates can show that an evaluation is wrong. Without their result, a wrong number would be "
    "printed as if it had passed.",
    "Run `spikeproof run` again, which computes the cell; if the cell failed, mend the cause that the warning names.",
    "spikeproof",
    where=(STUDIES,),
    too_high=False,
)
"""The check of evidence that could have withheld a number."""

MISSING_ATTACKS = Check(
    "evidence missing",
    DOUBTFUL,
    c.attacks_missing,
    "the study plans an attack at this budget or at a smaller one, or a search for the nearest image, and the cell failed, "
    "is damaged or is not computed yet.",
    "The worst case is taken over the attacks that have a result. The missing result may lower it, or raise another check.",
    "Run `spikeproof run` again, which computes the cell; if the cell failed, mend the cause that the warning names.",
    "spikeproof",
    where=(STUDIES,),
    too_high=False,
)
"""The check of evidence that could have lowered a number, or made it doubtful."""

CHECKS: tuple[Check, ...] = (
    Check(
        "budget or box violated",
        WITHHELD,
        c.budget_violated,
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
        c.another_model_attacked,
        "the model that was attacked has another number of time steps, another encoder or another decoder than the "
        "model that was measured.",
        "Images made for another model measure transfer, which is far weaker.",
        "Attack the model that is measured, or call the attack a transfer attack.",
        "Carlini et al. 2019, section 3.1; published evaluations of rate-coded models are a known case",
        only="The evidence must name both models (`attack_evidence` with `model` and `through`). Studies, `evaluate` and "
        "`audit` attack the model that they measure, and call images that are made on any other a transfer.",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "certificate contradicted",
        WITHHELD,
        c.certificate_contradicted,
        "an attack broke an example for which a certificate holds.",
        "One of the two is wrong. Until it is known which, neither number can be used.",
        "Report it: this is a fault of spikeproof, or the model is not deterministic.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "test data used for choosing",
        WITHHELD,
        c.chosen_on_test,
        "settings of the model or of an attack were chosen on the images that are reported.",
        "Settings that were chosen for their result on these images have a better result on them than on others.",
        "Choose on the validation part (`hold_out`).",
        "Carlini et al. 2019, section 5",
        only='The evidence must say `chosen_on="test"`. A study chooses settings (`chosen`) on the validation part, and '
        "is refused where that part is too small. spikeproof cannot know whether its author wrote the study file after "
        "reading earlier results.",
        where=(PYTHON,),
        too_high=False,
    ),
    MISSING_SAFEGUARDS,
    Check(
        "answers are no logits",
        WITHHELD,
        c.of_diagnostics(c.no_logits),
        "the model answers images in [0, 1] with NaN or infinity or with the wrong shape, or it raises an error.",
        "Comparisons with NaN are false, so a broken answer can count as a robust one.",
        "Mend the model.",
        "spikeproof",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "training mode",
        WITHHELD,
        c.of_diagnostics(c.in_training_mode),
        "the model is in training mode.",
        "In training mode, batch normalisation uses the statistics of the batch, dropout is active, and every forward "
        "pass changes the running statistics.",
        "Call `model.eval()`.",
        "Carlini et al. 2019, section 5",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "state leaks between calls",
        WITHHELD,
        c.of_diagnostics(c.depends_on_history),
        "the answer to an image changes after forward passes on other images, in another order of the batch, or while "
        "gradients are recorded; or it differs from the answer of a copy of the model that has made no forward pass. The "
        "copy is compared on images close to those of earlier forward passes as well.",
        "Left-over membrane potential becomes part of every later answer, so an attack changes the model that it "
        "attacks. A cache may return the answer to the clean image for an attacked one.",
        "Reset all state before each forward pass.",
        "spikeproof; a frequent fault of stateful layers",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "depends on batch companions",
        WITHHELD,
        c.share_above("companions", 0.0, "{} of the answers depend on the other images of the batch"),
        "the model answers an image alone otherwise than in a batch, or otherwise after a white image joins the batch.",
        "Accuracy then depends on how images are grouped into batches, and an attack on one image can be undone by "
        "another image.",
        "Remove normalisation over the batch, in the encoder as well.",
        "spikeproof; some libraries scale the encoder's input by the maximum of the batch",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "unaccounted randomness",
        WITHHELD,
        c.share_above(
            "randomness", 0.0, "{} of the answers changed although the model declares no such randomness"
        ),
        "two forward passes under one key give different answers, or the answer of a model that declares itself "
        "deterministic depends on the key.",
        "Noise averages out gradients, and examples survive an attack by luck.",
        "Declare the model stochastic, draw from the key that is passed, and attack in expectation.",
        "Athalye, Carlini & Wagner 2018, section 4.2",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "non-differentiable link",
        WITHHELD,
        c.of_diagnostics(c.not_differentiable),
        "no gradient reaches the image, because an operation between image and logits has no derivative.",
        "A gradient attack on such a model does nothing, and the accuracy under it shows nothing.",
        "Give the operation a backward rule (straight-through, time-shift).",
        "Athalye, Carlini & Wagner 2018, section 4.1 (BPDA)",
        where=(PYTHON,),
    ),
    Check(
        "zero gradients",
        DOUBTFUL,
        c.zero_gradients,
        "more than 5 % of the examples, or of an attack's backward passes, have a gradient that is zero everywhere.",
        "A gradient attack leaves such images unchanged, and unchanged images look robust.",
        "Attack through a wider surrogate (`surrogate:`), with another objective (margin, DLR), or from random "
        "starts.",
        f"{_INDICATORS} (unavailable gradients)",
    ),
    Check(
        "layer without gradient",
        DOUBTFUL,
        c.of_diagnostics(c.dead_layers),
        "a spiking layer passes back a gradient for less than 1 % of its neurons and time steps.",
        "The surrogate is too narrow for the potentials that occur, so hardly any gradient of the loss reaches the image.",
        "Use a wider surrogate for the attack; the sweep over widths shows which.",
        "literature on adaptive surrogate sharpness, arXiv 2512.22522",
    ),
    Check(
        "masked encoder gradient",
        DOUBTFUL,
        c.share_above("masked_inputs", 0.5, "{} of the black pixels that matter have no gradient"),
        "most of the black pixels whose change alters the answer have a gradient of exactly zero.",
        "A backward rule that is gated by emitted spikes hides the whole background from a gradient attack.",
        "Attack with `backward: time-shift` or `straight-through`, and from random starts.",
        "spikeproof, on the published code of Ding et al. 2023",
    ),
    Check(
        "probabilities instead of logits",
        DOUBTFUL,
        c.of_diagnostics(c.probabilities),
        "the answers lie in [0, 1] and sum to 1.",
        "A soft-max in the model and another one in the loss flatten every gradient.",
        "Return the logits before the soft-max.",
        "Croce & Hein 2020 (AutoAttack), checks",
        where=(PYTHON,),
    ),
    Check(
        "ties",
        NOTE,
        c.ties,
        "more than 5 % of the attacked images have two or more best classes.",
        "Outputs that take few values tie. A tie counts as an error. Counting the first of the best classes as the answer "
        "gives another number, which stands beside it.",
        "Use more time steps, or a decoder that breaks ties by the membrane potential.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "measured by its call",
        NOTE,
        c.by_its_call,
        "the model is a `Classifier` with a hook, or with a method of its own in place of one of ours.",
        "Its layers may not be what its call answers. So there are no twins, no certificate and no search over its code, "
        "which find more where they can be used, and the number may be some points higher.",
        "Remove hooks that change nothing, such as those of a profiler.",
        "spikeproof",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "no better than chance",
        NOTE,
        c.no_better_than_chance,
        "the 95 % interval of the clean accuracy holds the accuracy of guessing, one in as many as there are classes, or, "
        "in Python, the share of the commonest label.",
        "A model that has learned nothing has nothing to lose, so its robust accuracy says nothing about robustness.",
        "Train the model for longer, and see whether it was trained on data in the same range and order of classes. If most "
        "outputs tie, read `clean_argmax` as well.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "silent outputs decoded as a class",
        WITHHELD,
        c.share_above(
            "silent_decided", 0.0, "{} of the examples get a class although the output layer is silent"
        ),
        "the output layer is silent and the model answers a class all the same.",
        "A silent network then answers class 0, which may be right by accident and cannot be attacked further.",
        "Count silence as no answer.",
        "spikeproof; a known fault of first-spike decoding",
        where=(PYTHON,),
        too_high=False,
    ),
    Check(
        "gradient is no slope",
        DOUBTFUL,
        c.of_diagnostics(c.gradient_is_no_slope),
        "along random directions the loss does not change as its gradient predicts: the cosine between the two changes is "
        f"below {c.FOLLOWS} of the cosine between the change along a direction and the sum of the changes along its two "
        f"halves; or pixels without a gradient, or with next to none, make more than {c.HIDDEN:.0%} of the change; or the loss changes more than "
        f"{c.FAINT:.0f} times as much as the gradient predicts; or around more than {c.FLAT:.0%} of the images it does not "
        "change at all; or the margin takes no more than two values. The loss is measured around clean images, half-way "
        "through an attack and at its end.",
        "A gradient does not lead an attack to adversarial images if it has the wrong sign, is noisy, or belongs to a "
        "part of the model, to some of the pixels or to another function. The images that survive then look robust.",
        "Give every part its own backward rule. Otherwise, trust only searches without gradients.",
        "spikeproof; Athalye, Carlini & Wagner 2018, section 3.1",
    ),
    Check(
        "few values",
        DOUBTFUL,
        c.few_values,
        f"the margin takes no more than {c.COUNTED} values around the images that are examined, and nothing is known of the "
        "model but its answers.",
        "So few values are those of very few spikes. Between them the gradient is that of one surrogate, and no attack can "
        "exchange a surrogate inside a function: on digits, attacks that can broke a third to three fifths of the images that were left.",
        "Pass the network itself, or wrap it with `sp.wrap`, so that its neurons are known.",
        "spikeproof; docs/results/suite-members.md",
    ),
    Check(
        "unstable predictions",
        DOUBTFUL,
        c.of_diagnostics(c.unstable_predictions),
        "noise of ±4/255 changes the loss by more than half of its value, and the change of the loss along a direction "
        f"has a cosine below {c.STEADY} with the sum of its changes along the two halves.",
        "Where the loss jumps, the gradient at a point says little about the neighbourhood of the point.",
        "Average gradients over noise, and use gradient-free attacks.",
        f"{_INDICATORS} (unstable predictions)",
    ),
    Check(
        "steps without known levels",
        DOUBTFUL,
        c.of_diagnostics(c.stepwise_without_levels),
        "the code of the model is not known, its answers jump along single pixels, more than "
        f"{c.REPEATED:.0%} of the jumps lie at the same pixel value on images that have nothing else in common, and no "
        "levels were found that all pixels have in common.",
        "Pixels are rounded, and each may have levels of its own. A gradient does not show where they end, and the search "
        "over levels needs to know them.",
        "Move what rounds the pixels into an encoder of spikeproof, or wrap the model so that its code is known.",
        "spikeproof",
        where=(PYTHON,),
        only="Studies and `evaluate` measure models whose code is known.",
    ),
    Check(
        "one exit attacked",
        DOUBTFUL,
        c.one_exit_attacked,
        "the model exits early depending on its outputs, and the objective of every gradient attack includes only the exit "
        "that is taken.",
        "The time of the decision is not differentiable, so such an attack does not find images for which the model would "
        "decide at another time.",
        "Add an attack with the objective `prefix-mean`; suites have one.",
        "spikeproof; Athalye, Carlini & Wagner 2018, section 4.1",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "gradient-free beats gradient",
        DOUBTFUL,
        c.gradient_free_beats_gradient,
        "accuracy under an attack that uses answers only is lower than under every gradient attack, and no standard suite "
        "ran; or members of a suite that use answers only broke at least 2 % of the examples after all gradient attacks.",
        "The gradients are masked: an attack that uses gradients as well should not be weaker.",
        "Use other gradients (`surrogate`, `backward`), more steps and restarts; the worst case counts both.",
        _MASK,
    ),
    Check(
        "transfer beats white-box",
        DOUBTFUL,
        c.transfer_beats_white_box,
        "images that were made on another model fool this one more often than images made on this one.",
        "The gradients are masked: those of the model itself are less useful than those of another model.",
        "Use other gradients (`surrogate`, `backward`), more steps and restarts; the worst case counts both.",
        _MASK,
        where=(STUDIES, PYTHON),
    ),
    Check(
        "training rule weaker than substitutes",
        DOUBTFUL,
        c.substitute_beats_training,
        "with the gradients of another surrogate or gradient rule, accuracy is at least 5 points lower than with the "
        "gradients of training, and no standard suite ran, which follows several gradient sources.",
        "Most published numbers use the gradients of training alone.",
        "Run the suite `standard`, and report the worst case over several gradient sources.",
        "Xu et al. 2022 (arXiv 2209.03358)",
    ),
    Check(
        "substitutes needed",
        NOTE,
        c.substitute_ahead_in_a_suite,
        "in a suite `standard` or `extreme`, attacks with the gradients of other surrogates or gradient rules broke at least "
        "5 % of the examples that the gradients of training had not.",
        "The number counts these attacks. An evaluation of this model with the gradients of training alone gives a higher "
        "one.",
        "Compare with other evaluations only if they follow several gradient sources, too.",
        "Xu et al. 2022 (arXiv 2209.03358)",
        too_high=False,
    ),
    Check(
        "one step beats many",
        DOUBTFUL,
        c.one_step_beats_many,
        "accuracy under FGSM is lower than under an iterated attack with the same gradients.",
        "Many small steps can reach every image that one large step reaches, unless the gradients mislead them.",
        "Use steps large enough to cross the bins of the encoder (`reach`), restarts, or other gradients.",
        _MASK,
        where=(STUDIES, PYTHON),
    ),
    Check(
        "accuracy rises with epsilon",
        DOUBTFUL,
        c.rises_with_epsilon,
        "accuracy at a larger budget is higher than at a smaller one.",
        "A larger budget contains the smaller one, so the attack at the larger budget missed images that it could reach.",
        "Use more steps and restarts at the larger budget, and a step size in proportion to it.",
        "Carlini et al. 2019, section 4.2",
    ),
    Check(
        "nested budgets",
        DOUBTFUL,
        c.nested_budgets,
        "every attack at this budget began with the images found within a smaller one.",
        "Such a sweep is cheap, but it cannot show that an attack is weak, because its accuracy never rises with epsilon.",
        "Use `sweep: afresh`, the default.",
        "spikeproof",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "nearer image known",
        DOUBTFUL,
        c.nearer_image_known,
        "a search for the nearest adversarial image (`distances`) found an image within epsilon where all attacks failed.",
        "The number counts an example as robust although an adversarial image is known.",
        "Name that search among the attacks.",
        "spikeproof",
        where=(STUDIES, PYTHON),
    ),
    Check(
        "unbounded attack fails",
        DOUBTFUL,
        c.unbounded_attack_fails,
        "the threat allows every image, and accuracy under the best gradient attack is still above 1 %.",
        "An attack that may replace the image by an image of another class should break every example.",
        "Find the operation that loses the gradient.",
        f"{_MASK}; {_INDICATORS}",
    ),
    Check(
        "loss still rising",
        DOUBTFUL,
        c.loss_still_rising,
        "the strongest iterated attack made more than a tenth of its gain in the last quarter of its steps, and no standard "
        "suite ran, whose members begin where others ended.",
        "The attack was stopped too early.",
        "Use more steps.",
        f"{_INDICATORS} (incomplete optimisation)",
    ),
    Check(
        "search still finding",
        DOUBTFUL,
        c.search_still_finding,
        "the end of a suite `standard` or `extreme` broke a larger share of the examples than lies between the number and the lower "
        "end of its interval. The end is the last half of the forward passes of every search that is repeated, with the last "
        "quarter of the members as far as they come after the first repeats.",
        "As much search again, if it found as much again, would lead out of the interval that is printed.",
        "Use the suite `extreme`.",
        "spikeproof",
    ),
    Check(
        "silent success",
        DOUBTFUL,
        c.silent_success,
        "an attack passed an image that the model misclassifies and returned another one.",
        "The attack found more adversarial images than it returned.",
        "Return the best image of the whole attack.",
        f"{_INDICATORS} (silent success)",
    ),
    Check(
        "expectation too small",
        DOUBTFUL,
        c.expectation_too_small,
        "a stochastic model was attacked with one draw per gradient; or two estimates of its gradient, from as many draws "
        "as the attack uses, are expected to disagree (cosine below 0.5).",
        "The noise of the gradient is then larger than the gradient.",
        "Use EOT-PGD with more `draws`.",
        "Athalye, Carlini & Wagner 2018, section 4.2",
    ),
    Check(
        "effect lost at 8 bits",
        NOTE,
        c.effect_lost_at_8_bits,
        "rounding the attacked images to 8 bits raises accuracy by more than 10 points.",
        "Where images are stored in 8 bits, the attack is weaker than its number says. The number holds for images of any "
        "precision, and is not too high for these.",
        "Say which images are meant, or attack on the grid of 8 bits.",
        "Carlini et al. 2019, section 5",
        too_high=False,
    ),
    MISSING_ATTACKS,
    Check(
        "too few examples",
        DOUBTFUL,
        c.too_few_examples,
        "the interval is wider than ±10 points, or wider than the difference that is claimed; images that are nearly the "
        "same count as one.",
        "The choice of test images alone may move the number by this much.",
        "Measure more examples.",
        "spikeproof",
        too_high=False,
    ),
    Check(
        "attacks too few",
        PRELIMINARY,
        c.attacks_too_few,
        "no suite of level standard or extreme ran, and the attacks that ran are fewer than: gradient attacks of at "
        f"least {c.ENOUGH_STEPS} steps each and {c.ENOUGH_SUM} together, with two objectives and, for a spiking network, "
        f"two gradient sources; and searches without gradients of {c.ENOUGH_QUERIES:,} queries per image together.",
        "If a few attacks raise no check, this does not show that there is nothing to find.",
        "Use `suite: standard`, or `spikeproof audit`.",
        "Carlini et al. 2019, section 4",
    ),
    Check(
        "not probed",
        DOUBTFUL,
        c.not_diagnosed,
        "there are no diagnostics of the model itself.",
        "Accuracies do not show state that leaks, randomness or gradients that are cut off.",
        "Run `spikeproof audit`.",
        "spikeproof",
        where=(STUDIES, PYTHON),
        too_high=False,
    ),
)
"""Every check, the graver first."""


_RULE = f"""\
Every robust accuracy has one of four verdicts. The reasons stand beside the number wherever it is shown.

| verdict | mark | when |
|---|---|---|
| supported | | no check was raised, and the attacks searched as much as stated below |
| preliminary | ~ | no check was raised, but the attacks searched less: an attack that did not run may lower the number |
| doubtful | ? | a check shows that the attacks may have been too weak |
| withheld | no number | the evaluation is wrong |

A number was **searched** if a suite of level `standard` or `extreme` ran at its budget, or if the attacks that ran
amount to at least:

- gradient attacks of {c.ENOUGH_STEPS} steps or more, {c.ENOUGH_SUM} steps together, with at least two objectives and, if the model
  spikes, at least two gradient sources (its own gradient, another surrogate, another backward rule of the encoder);
- searches without gradients of {c.ENOUGH_QUERIES:,} queries per image together. One draw of noise is one query.

At epsilon 0 there is nothing to search. A robust accuracy of 0 cannot be too high, and one within chance of it by little: up to
{100 * AS_GOOD_AS_ZERO:.1f} %, if the 95 % interval of 0 reaches as far, no check that fears a number too high makes it doubtful. Above 0 it is
preliminary until it was searched, since a further attack may still break the last examples. A *note* gives further information
and does not change the verdict."""


def document() -> str:
    """The text of `docs/audit.md`."""
    lines = [
        "# What the audit checks",
        "",
        "Written by `python -m spikeproof.auditing.checks`; the thresholds are those of the code.",
        "",
        _RULE,
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

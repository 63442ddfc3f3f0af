"""A museum of broken models and evaluations, each with one planted fault, beside sound twins.

All are built from weights trained on real digits. `python tests/museum/exhibits.py` prints the matrix of
faults and checks that stands in `docs/results/museum.md`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import faults
import grid
import torch
from torch import nn

from spikeproof.attacks.answers.noise import NoiseSearch
from spikeproof.attacks.answers.queries import SquareSearch
from spikeproof.attacks.gradient.plain import EOTPGD, FGSM, PGD
from spikeproof.attacks.made_of.transfer import Transfer
from spikeproof.attacks.nearest.linearised import DeepFool
from spikeproof.attacks.parts.objectives import PrefixMean
from spikeproof.attacks.search import Result
from spikeproof.auditing import slopes
from spikeproof.auditing.assess import assess, attack_evidence, suite_evidence
from spikeproof.auditing.checks import CHECKS, audit
from spikeproof.auditing.evidence import CurvePoint, Evidence
from spikeproof.datasets import Digits
from spikeproof.decoders import ConfidenceExit, Count, FixedExit, MeanPotential
from spikeproof.encoders import Bernoulli, Direct, Latency, SpikeGated
from spikeproof.evaluation.certificates import BernoulliSmoothing
from spikeproof.evaluation.distances import evaluate_distances
from spikeproof.evaluation.levels import Level
from spikeproof.evaluation.suites import Member, evaluate_suite
from spikeproof.evaluation.through import made_on
from spikeproof.evaluation.verdicts import evaluate_attack, evaluate_clean, evaluate_sweep
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.losses import Margin
from spikeproof.networks.architecture import MLP, ConvNet
from spikeproof.networks.classifier import ModelSpec
from spikeproof.networks.substitute import substitute
from spikeproof.neurons import LIF, ReLU
from spikeproof.statistics import wilson
from spikeproof.surrogates import ATan, Rectangle
from spikeproof.threats import Linf

KEY = Key.of(0)
EPSILON = 0.1
ATTACKS = (FGSM(), PGD(steps=20), PGD(steps=20, restarts=2, reach=8), SquareSearch(queries=40))
IN_EXPECTATION = (*ATTACKS, EOTPGD(steps=10, draws=4))


@functools.cache
def digits():
    return Digits().load(None)


def images(count=120):
    return digits().test.images[:count], digits().test.labels[:count]


@functools.cache
def trained(code=Direct(4), decoder=MeanPotential(), network=MLP((40,)), neuron=LIF()):
    spec = ModelSpec(code, network, neuron, ATan(), decoder, (1, 8, 8), 10)
    model = spec.build(Key.of(0))
    BPTT(epochs=5, lr=0.01).train(model, digits(), Key.of(0))
    return model.eval()


@functools.cache
def hooked():
    model = copy.deepcopy(trained())
    model.register_forward_hook(lambda module, given, logits: None)
    return model


def untrained():
    spec = ModelSpec(Direct(4), MLP((40,)), LIF(), ATan(), MeanPotential(), (1, 8, 8), 10)
    return spec.build(Key.of(0)).eval()


class Wrapped(nn.Module):
    """A model with something done to images before, or to logits after."""

    stochastic = False

    def __init__(self, inner, before=None, after=None):
        super().__init__()
        self.inner, self.before, self.after = inner, before, after
        self.eval()

    def forward(self, x, key=None):
        logits = self.inner(self.before(x) if self.before else x, key)
        return self.after(logits, x) if self.after else logits


class Leaky(Wrapped):
    """A model whose logits include a decaying trace of its previous call."""

    left = 0.0

    def forward(self, x, key=None):
        logits = self.inner(x, key) + self.left
        self.left = 0.5 * logits.mean(0, keepdim=True).detach()
        return logits


class Reverse(torch.autograd.Function):
    """The identity with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Undeclared(Wrapped):
    """A stochastic encoder in a model that declares itself deterministic."""


class Talkative(Wrapped):
    """Answers class 0 where its output layer is silent."""

    def forward(self, x, key=None):
        return self.inner(x, key) - 1e-3 * torch.arange(10)

    def infer(self, x, key=None):
        seen = self.inner.infer(x, key)
        return seen._replace(logits=seen.logits - 1e-3 * torch.arange(10))


def leaves_the_budget(threat):
    """The published EOT-FGSM: noise, then a full step from the noisy image, and no way back."""

    def attack(model, x, y, key, *, through=None):
        noisy = (x + threat.epsilon / 2 * key.fold("noise").normal(x.shape, 0)).clamp(0, 1)
        noisy.requires_grad_()
        loss = nn.functional.cross_entropy(model(noisy, key), y, reduction="none")
        grad = torch.autograd.grad(loss.sum(), noisy)[0]
        x_adv = (noisy.detach() + threat.epsilon * grad.sign()).clamp(0, 1)
        ones = torch.ones(len(x), dtype=torch.int64)
        return Result(
            x_adv, model(x_adv, key).argmax(1) != y, loss.detach()[None], ones, ones, 0 * loss.detach()
        )

    return attack


@functools.cache
def measured(model, attacks, epsilon, count, _directions) -> Evidence:
    """The evidence, made once for each number of directions of the test of slopes."""
    x, y = images(count)
    return assess(model, attacks, [Linf(epsilon)], x, y, KEY, classes=10)[-1].evidence


def evidence(model, attacks=ATTACKS, epsilon=EPSILON, count=120, **changes) -> Evidence:
    """The evidence of the usual evaluation of a model."""
    return replace(measured(model, attacks, epsilon, count, slopes.DIRECTIONS), **changes)


def with_attack(base: Evidence, name, attack, recipe, model, *, through=None, **changes) -> Evidence:
    """Evidence with one attack more."""
    x, y = images()
    clean = evaluate_clean(model, x, y, KEY)
    metrics = evaluate_attack(model, attack, Linf(base.epsilon), x, y, clean, KEY, through=through).metrics()
    more = replace(attack_evidence(name, recipe, metrics, model, through), **changes)
    lowest = min(base.accuracy, more.accuracy)
    interval = wilson(lowest * base.n, base.n)
    return replace(base, accuracy=lowest, interval=interval, attacks=[*base.attacks, more])


@dataclass(frozen=True)
class Exhibit:
    """A planted fault, or none.

    Args:
        name: what was done.
        check: the check that must be raised; None for a sound twin, for which none may that finds a fault.
        evidence: makes the evidence.
    """

    name: str
    check: str | None
    evidence: Callable[[], Evidence]


def reversed_gradient():
    return Wrapped(trained(), before=Reverse.apply)


def rises() -> Evidence:
    """A fixed, small step size serves small budgets only."""
    x, y = images()
    weak, strong = PGD(steps=20, reach=0.02), PGD(steps=20)
    low, high = (
        assess(trained(), [recipe], [Linf(epsilon)], x, y, KEY, classes=10)[0].evidence
        for recipe, epsilon in ((strong, 0.1), (weak, 0.3))
    )
    return replace(high, curve=[*low.curve, *high.curve])


def nested_sweep() -> Evidence:
    """The same step size, each budget begun with what the one before it had left: accuracy does not rise."""
    model, (x, y) = trained(), images()
    clean = evaluate_clean(model, x, y, KEY)
    low, high = evaluate_sweep(
        model, PGD(steps=20, reach=0.5), [Linf(0.1), Linf(0.3)], x, y, clean, KEY, nested=True
    )
    curve = [CurvePoint(e, float(o.right.mean())) for e, o in ((0.1, low), (0.3, high))]
    assert high.nested
    assert not low.nested
    assert curve[1].accuracy <= curve[0].accuracy
    return replace(evidence(model), curve=curve, epsilon=0.3, nested=high.nested)


def nearer_known() -> Evidence:
    """FGSM and noise fail on images that DeepFool fools within the same budget."""
    model, (x, y), threat = trained(), images(), Linf(EPSILON)
    clean = evaluate_clean(model, x, y, KEY)
    left = evaluate_attack(model, FGSM()(threat), threat, x, y, clean, KEY).right
    distance = evaluate_distances(model, DeepFool(), threat, x, y, clean, KEY).distance
    share = float(((distance <= EPSILON) & (left > 0.5)).float().mean())
    return evidence(model, (FGSM(), NoiseSearch()), nearer=share)


def silent_success() -> Evidence:
    """An attack that returns its last image instead of its best, watched on its way."""
    model, (x, y), threat = trained(), images(), Linf(EPSILON)
    base = evidence(model)
    x_adv, fooled = x.clone(), torch.zeros(len(x), dtype=torch.bool)
    for step in range(9):
        grad = torch.autograd.grad(
            nn.functional.cross_entropy(model(x_adv.requires_grad_()), y, reduction="sum"), x_adv
        )[0]
        x_adv = threat.project(x_adv.detach() + (-1) ** step * EPSILON * grad.sign(), x)
        with torch.no_grad():
            wrong = model(x_adv).argmax(1) != y
        fooled |= wrong
    missed = float((fooled & ~wrong).float().mean())
    return replace(
        base, attacks=[*base.attacks, replace(base.attacks[0], name="last iterate", silent_success=missed)]
    )


def shaken():
    """Logits with a wave on them that is faster than a grey level."""

    def wave(logits, x):
        pixels = x.flatten(1)
        return logits + 3 * torch.sin(1e3 * pixels[:, :10] + 700 * pixels.sum(1, keepdim=True))

    return Wrapped(trained(), after=wave)


def eight_bits() -> Evidence:
    """Changes below half a grey level vanish when the image is stored."""
    model, (x, y), threat = shaken(), images(), Linf(0.4 / 255)
    x = (x * 255).round() / 255
    base = evidence(model, epsilon=threat.epsilon)
    found = PGD(steps=20)(threat)(model, x, y, KEY).x_adv
    with torch.no_grad():
        stored = (found * 255).round() / 255
        before, after = (float((model(z).argmax(1) == y).float().mean()) for z in (found, stored))
    attack = replace(base.attacks[1], name="pgd", accuracy=before, eight_bit_accuracy=after)
    return replace(base, attacks=[*base.attacks, attack])


def contradicted(model) -> Evidence:
    """The published radius of rate codes, without 1/T, taken for one of Linf."""
    (x, y), base, threat = images(), evidence(model, IN_EXPECTATION), Linf(EPSILON)
    keys = KEY.for_rows(range(len(x)))
    proved = BernoulliSmoothing(draws=60, published=True).prove(model, x, y, threat, keys).certified
    clean = evaluate_clean(model, x, y, KEY)
    attacked = evaluate_attack(model, EOTPGD(steps=10, draws=4)(threat), threat, x, y, clean, KEY)
    return replace(base, contradicted=float((proved & (attacked.right < 0.5)).float().mean()))


def purified():
    model, nearest = trained(), faults.nearest_of(digits().train.images[:200])
    return faults.Answers(lambda x: model(nearest(x)), model)


def narrow(width, network=MLP((40,))):
    return substitute(trained(network=network), spike=Rectangle(width))


def attacked_as(**parts):
    """Images made with the same weights in a model of other parts, and measured on the model itself."""
    model, pgd = trained(), PGD(steps=20)
    other = replace(model.spec, **parts).build(KEY)
    other.load_state_dict(model.state_dict())
    base = evidence(model)
    return with_attack(base, "pgd elsewhere", pgd(Linf(EPSILON)), pgd, model, through=other.eval())


def as_function(model):
    """A model of which nothing but its answers is known."""
    return lambda x, key=None: model(x, KEY)


def own_levels():
    """A model whose code is hidden and whose pixels are scaled before it, each by another factor."""
    scale = 0.5 + 0.5 * KEY.fold("scale").uniform((1, 1, 8, 8))
    return Wrapped(trained(Latency(16)), before=lambda x: x * scale)


def still_finding() -> Evidence:
    """A suite whose members take two steps each, so that every one of them finds what the others left."""
    model, (x, y) = trained(), images()
    clean, threat = evaluate_clean(model, x, y, KEY), Linf(EPSILON)
    brief = [Member(f"pgd-{i}", PGD(steps=2, reach=0.05 * (1 + i))) for i in range(9)]
    found = evaluate_suite(model, "standard", threat, x, y, clean, KEY, members=brief)
    return replace(
        evidence(model),
        accuracy=found.accuracy,
        interval=wilson(found.accuracy * len(x), len(x)),
        attacks=suite_evidence(found.metrics()),
        suites=[Level.STANDARD],
    )


EXHIBITS = (
    Exhibit("direct code, sound", None, lambda: evidence(trained())),
    Exhibit("latency code, sound", None, lambda: evidence(trained(Latency(6)))),
    Exhibit("counted spikes, sound", None, lambda: evidence(trained(Direct(8), Count()))),
    Exhibit("ReLU twin, sound", None, lambda: evidence(trained(Direct(1), neuron=ReLU()))),
    Exhibit("convolutions, sound", None, lambda: evidence(trained(network=ConvNet((8,))))),
    Exhibit("Bernoulli code, sound", None, lambda: evidence(trained(Bernoulli(6)), IN_EXPECTATION)),
    Exhibit("declared wrapper, sound", None, lambda: evidence(Wrapped(trained()))),
    Exhibit("a hook that changes nothing", "measured by its call", lambda: evidence(hooked())),
    Exhibit("state kept between calls", "state leaks between calls", lambda: evidence(Leaky(trained()))),
    Exhibit(
        "images scaled by the maximum of their batch",
        "depends on batch companions",
        lambda: evidence(Wrapped(trained(), before=lambda x: x / x.amax() * 0.9 + 0.1 * x.mean())),
    ),
    Exhibit(
        "batch normalisation left in training mode",
        "training mode",
        lambda: evidence(copy.deepcopy(trained(network=ConvNet((8,)))).train()),
    ),
    Exhibit(
        "Bernoulli code, called deterministic",
        "unaccounted randomness",
        lambda: evidence(Undeclared(trained(Bernoulli(6)))),
    ),
    Exhibit(
        "noise from the global generator",
        "unaccounted randomness",
        lambda: evidence(Wrapped(trained(), after=lambda z, x: z + 0.3 * torch.randn_like(z))),
    ),
    Exhibit(
        "pixels rounded without a backward rule",
        "non-differentiable link",
        lambda: evidence(Wrapped(trained(), before=lambda x: (x * 15).round().detach() / 15)),
    ),
    Exhibit("surrogate of no width", "zero gradients", lambda: evidence(narrow(1e-5))),
    Exhibit(
        "narrow surrogate, two layers",
        "layer without gradient",
        lambda: evidence(narrow(2e-3, MLP((40, 40)))),
    ),
    Exhibit(
        "narrow surrogate, wide one beside it",
        "training rule weaker than substitutes",
        lambda: evidence(narrow(0.02), (*ATTACKS, PGD(steps=20, surrogate=ATan(2.0)))),
    ),
    Exhibit(
        "the same, after a standard suite",
        "substitutes needed",
        lambda: evidence(
            narrow(0.02), (*ATTACKS, PGD(steps=20, surrogate=ATan(2.0))), suites=[Level.STANDARD]
        ),
    ),
    Exhibit(
        "latency code with the spike-gated gradient",
        "masked encoder gradient",
        lambda: evidence(substitute(trained(Latency(6)), backward=SpikeGated())),
    ),
    Exhibit(
        "soft-max inside the model",
        "probabilities instead of logits",
        lambda: evidence(Wrapped(trained(), after=lambda z, x: z.softmax(1))),
    ),
    Exhibit("a network that was never trained", "no better than chance", lambda: evidence(untrained())),
    Exhibit("one step, spikes counted", "ties", lambda: evidence(trained(Direct(1), Count()))),
    Exhibit(
        "silence answered with class 0",
        "silent outputs decoded as a class",
        lambda: evidence(Talkative(trained(Direct(2), Count()))),
    ),
    Exhibit(
        "gradient with three times its size of noise",
        "gradient is no slope",
        lambda: evidence(faults.noise(trained(), 3.0).faulty),
    ),
    Exhibit(
        "ensemble whose strong member is detached",
        "gradient is no slope",
        lambda: evidence(faults.detached_member(trained(), 3.0, trained(network=MLP((8,)))).faulty),
    ),
    Exhibit(
        "pixels of 4 bits beside a faint path of another function",
        "gradient is no slope",
        lambda: evidence(faults.faint_bypass(trained(), 1e-3).faulty),
    ),
    Exhibit(
        "one-hot answers with a gradient on 5 of 8 columns",
        "gradient is no slope",
        lambda: evidence(faults.one_hot(trained(), 3).faulty),
    ),
    Exhibit(
        "nearest training image in place of each",
        "gradient is no slope",
        lambda: evidence(purified()),
    ),
    Exhibit(
        "cache of answers to near duplicates",
        "state leaks between calls",
        lambda: evidence(faults.near_cache(trained(), most=500), count=50),
    ),
    Exhibit("logits shaken by a fast wave", "unstable predictions", lambda: evidence(shaken())),
    Exhibit(
        "gradient of the wrong sign", "gradient-free beats gradient", lambda: evidence(reversed_gradient())
    ),
    Exhibit(
        "gradient of the wrong sign, every image allowed",
        "unbounded attack fails",
        lambda: evidence(reversed_gradient(), (PGD(steps=20),), epsilon=1.0),
    ),
    Exhibit(
        "gradient of the wrong sign, transfer from the original",
        "transfer beats white-box",
        lambda: with_attack(
            evidence(reversed_gradient()),
            "transfer",
            Transfer(attack=PGD(steps=20))(Linf(EPSILON)),
            Transfer(attack=PGD(steps=20)),
            reversed_gradient(),
            through=made_on(trained(), Transfer(attack=PGD(steps=20))),
        ),
    ),
    Exhibit(
        "iterative attack with tiny steps",
        "one step beats many",
        lambda: evidence(trained(), (FGSM(), PGD(steps=20, reach=0.02), SquareSearch(queries=60))),
    ),
    Exhibit("step size fixed for the smallest budget", "accuracy rises with epsilon", rises),
    Exhibit("the same, in a nested sweep", "nested budgets", nested_sweep),
    Exhibit("weak attacks beside DeepFool's distances", "nearer image known", nearer_known),
    Exhibit(
        "attack stopped half-way",
        "loss still rising",
        lambda: evidence(trained(), (PGD(steps=20, reach=0.4), SquareSearch(queries=60))),
    ),
    Exhibit(
        "counts of four spikes, as a plain function",
        "few values",
        lambda: evidence(as_function(trained(Direct(4), Count()))),
    ),
    Exhibit("suite that was cut short", "search still finding", still_finding),
    Exhibit("last iterate returned", "silent success", silent_success),
    Exhibit(
        "attack that does not project",
        "budget or box violated",
        lambda: with_attack(
            evidence(trained()), "eot-fgsm", leaves_the_budget(Linf(EPSILON)), FGSM(), trained()
        ),
    ),
    Exhibit(
        "stochastic model, one draw per gradient",
        "expectation too small",
        lambda: evidence(trained(Bernoulli(6))),
    ),
    Exhibit(
        "levels of their own for all pixels", "steps without known levels", lambda: evidence(own_levels())
    ),
    Exhibit("hidden latency code, sound", None, lambda: evidence(Wrapped(trained(Latency(6))))),
    Exhibit("hidden counted spikes, sound", None, lambda: evidence(Wrapped(trained(Direct(8), Count())))),
    Exhibit("changes below a grey level", "effect lost at 8 bits", eight_bits),
    Exhibit("twenty test images", "too few examples", lambda: evidence(trained(), count=20)),
    Exhibit(
        "settings chosen on the test part",
        "test data used for choosing",
        lambda: evidence(trained(), chosen_on="test"),
    ),
    Exhibit(
        "attacked with 2 steps, measured with 4",
        "another model attacked",
        lambda: attacked_as(encoder=Direct(2)),
    ),
    Exhibit(
        "attacked through another code",
        "another model attacked",
        lambda: attacked_as(encoder=Latency(4)),
    ),
    Exhibit(
        "attacked through another read-out",
        "another model attacked",
        lambda: attacked_as(decoder=FixedExit(MeanPotential(), 2)),
    ),
    Exhibit(
        "attacked through another surrogate, sound",
        None,
        lambda: with_attack(
            evidence(trained()),
            "pgd elsewhere",
            PGD(steps=20)(Linf(EPSILON)),
            PGD(steps=20, surrogate=ATan(1.0)),
            trained(),
            through=substitute(trained(), spike=ATan(1.0)),
        ),
    ),
    Exhibit(
        "a radius that is no certificate",
        "certificate contradicted",
        lambda: contradicted(trained(Bernoulli(6))),
    ),
    Exhibit(
        "early exit attacked at its exit alone",
        "one exit attacked",
        lambda: evidence(trained(Direct(4), ConfidenceExit(MeanPotential(), 0.8))),
    ),
    Exhibit(
        "early exit attacked at every exit",
        None,
        lambda: evidence(
            trained(Direct(4), ConfidenceExit(MeanPotential(), 0.8)),
            (*ATTACKS, PGD(steps=20, objective=PrefixMean(Margin()))),
        ),
    ),
    Exhibit("FGSM alone", "attacks too few", lambda: evidence(trained(), (FGSM(),))),
    Exhibit(
        "answers NaN",
        "answers are no logits",
        lambda: evidence(Wrapped(trained(), after=lambda z, x: z / (z > 0).float() * (z > 0).float())),
    ),
    Exhibit(
        "eight logits for ten classes",
        "answers are no logits",
        lambda: evidence(Wrapped(trained(), after=lambda z, x: z[:, :8])),
    ),
    Exhibit("no diagnostics", "not probed", lambda: evidence(trained(), diagnostics=None)),
    Exhibit(
        "planned attack that failed",
        "evidence missing",
        lambda: evidence(trained(), missing_attacks=["the attack square at 0.1 failed: out of memory"]),
    ),
    Exhibit(
        "certificate that cannot be read",
        "diagnostics or certificate missing",
        lambda: evidence(trained(), missing_safeguards=["the certify cell is not there"]),
    ),
)


def matrix() -> str:
    """Faults x checks, in Markdown."""
    names = [check.name for check in CHECKS]
    lines = [
        "# The museum: faults and the checks that find them",
        "",
        "Written by `python tests/museum/exhibits.py > docs/results/museum.md`. Every exhibit is built from",
        "weights trained on the real digits of the package; a sound twin raises nothing but that the attacks",
        "are too few. W withholds the number, D makes it doubtful, P preliminary, N is a note. The check",
        "that the fault was planted for is in bold.",
        "",
        "| exhibit | verdict | raised |",
        "|---|---|---|",
    ]
    raised_ever = set()
    for exhibit in EXHIBITS:
        verdict = audit(exhibit.evidence())
        raised_ever |= {f.check for f in (*verdict.findings, *verdict.notes)}
        raised = ", ".join(
            f"**{f.check}** ({f.verdict[0].upper()})"
            if f.check == exhibit.check
            else f"{f.check} ({f.verdict[0].upper()})"
            for f in (*verdict.findings, *verdict.notes)
        )
        lines.append(f"| {exhibit.name} | {verdict.verdict} | {raised or 'nothing'} |")
    lines += ["", f"{len(raised_ever)} of {len(names)} checks are raised by some exhibit.", "", *laws()]
    return "\n".join(lines) + "\n"


MASKED = 60
"""Images of each cell of the grid."""


def laws() -> list[str]:
    """The grid of faults and strengths, in Markdown."""
    lines = [
        "## The laws of masking",
        "",
        "Every fault below keeps a model's answers and spoils its gradient, or keeps something between",
        "calls. The standard suite attacks the plain model and the one with the fault as foreign",
        f"functions of images, on {MASKED} digits at linf {EPSILON}. The law: the number with the fault is",
        f"at most {100 * grid.POINTS:.0f} points above that of the plain model, or it is not supported.",
        "",
        "The strength is, in this order, the noise in sizes of the gradient; the share of pixels with the",
        "wrong sign; the number of columns, of 8, without a gradient; the mean brightness above which an",
        "image gets the gradient of a stranger; the weight of the detached member; the number of columns",
        "without a gradient; the levels of the logits; the size of the faint path, twice; the size of the",
        "stranger's gradient; the scale of the logits.",
    ]
    x, y = images(MASKED)
    plain = faults.Answers(trained(), trained())
    rows = list(grid.cells(plain, trained(network=MLP((8,))), digits().train.images, x, y))
    broken = sum(not row.holds for row in rows)
    return [*lines, "", *grid.table(rows), "", f"The law is broken in {broken} cells."]


if __name__ == "__main__":
    print(matrix(), end="")

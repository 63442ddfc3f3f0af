"""Adversarial training: on the images of an attack on the model as it is, with a watch for overfitting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.gradient.universal import Universal
from spikeproof.attacks.made_of.composite import Chosen, Ensemble, members_of
from spikeproof.attacks.made_of.stored_images import StoredImages
from spikeproof.attacks.made_of.transfer import Transfer, to_the_end
from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.physical.onepatch import UniversalPatch
from spikeproof.attacks.recipe import Attack, Recipe
from spikeproof.attacks.search import GradientAttack, check_threat, evaluator
from spikeproof.datasets import ClassProportional, Dataset, Split, floats
from spikeproof.decoders import decide
from spikeproof.defences.defended import Defended, at_least, evaluating
from spikeproof.errors import InputError
from spikeproof.evaluation.suites import Suite
from spikeproof.evaluation.through import through
from spikeproof.gradients import GradientRule
from spikeproof.keys import Key
from spikeproof.learning.rule import Lesson, LossOf, Watch
from spikeproof.losses import KL, LogitCrossEntropy
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.substitute import substitute
from spikeproof.protocols import Threat, moves_events
from spikeproof.threats import Linf, check_budget

__all__ = ["TRADES", "Adversarial", "FastAdversarial", "Guarded", "OverfittingWatch", "crafted"]


@dataclass(frozen=True)
class OverfittingWatch:
    r"""A watch for catastrophic overfitting: the model withstands the attack of its training and no other.

    After every epoch the same held-out images are attacked by the attack of the training and by PGD, and

    .. math:: acc_{weak} - acc_{strong} > gap

    counts as catastrophic overfitting.

    Args:
        images: number of images of the validation part, at least 1, in which each class has its share; all
            of them where there are fewer.
        steps: steps of PGD, at least 2.
        gap: largest difference of the two accuracies that is no overfitting, in (0, 1).
        stop: whether an overfitted epoch ends the training with the weights of the epoch before it; otherwise
            the epoch is only marked.

    Raises:
        InputError: a setting is out of range.

    Source:
        Wong, Rice & Kolter 2020, section 5.4, who stop where the accuracy under PGD falls by 0.2;
        Andriushchenko & Flammarion 2020 compare it with the accuracy under FGSM.
    """

    images: int = 256
    steps: int = 10
    gap: float = 0.2
    stop: bool = True

    def __post_init__(self) -> None:
        if self.images < 1 or self.steps < 2 or not 0 < self.gap < 1:
            raise InputError(
                "OverfittingWatch needs at least one image, two steps and a gap in (0, 1)",
                f"images={self.images}, steps={self.steps}, gap={self.gap}",
                "Try the defaults.",
            )


@dataclass(frozen=True)
class Guarded(Defended):
    """A defence against one threat, which may watch for catastrophic overfitting."""

    threat: Threat = Linf(8 / 255)
    watch: OverfittingWatch | None = None

    @property
    def stops(self) -> bool:  # type: ignore[override]
        return self.watch is not None and self.watch.stop

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_threat(model, self.threat)
        check_budget(self.threat, model.spec.input_shape)
        self.threat.start(_blank(model), Key.of(0))  # a mask or a window may not fit the examples
        if self.watch is not None:
            with said(
                "The watch for catastrophic overfitting, which is left out with watch: null, attacks by PGD"
            ):
                check_steps(PGD(steps=self.watch.steps)(self.threat), model)

    def begin(self, model: Classifier, data: Dataset) -> None:
        if self.watch is not None and not len(data.validation):
            raise InputError(
                "A watch for catastrophic overfitting needs held-out images",
                f"{data.name} without a validation part",
                "Hold some out, or set watch: null.",
            )

    def watched(self, model: Classifier, part: Split, key: Key) -> Watch | None:
        if self.watch is None:
            return None
        few = ClassProportional()(part, min(self.watch.images, len(part)))
        device = next(model.parameters()).device
        x, y = floats(few.images.to(device)), few.labels.to(device)
        lesson = Lesson(model, x, y, key.fold("verdict"), 1.0, model, model.outputs)
        weak = self.hostile(lesson, key.fold("weak"))
        pgd = PGD(steps=self.watch.steps)(self.threat)
        strong = pgd(model, x, y, key.fold("strong")).x_adv
        before, after = (_right(model, images, y, lesson.key) for images in (weak, strong))
        return Watch(before, after, before - after > self.watch.gap)

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        """The images of the training's attack; the model is in evaluation mode."""
        return lesson.images


@torch.no_grad()
def _right(model: Classifier, x: Tensor, y: Int64[Tensor, "B"], key: Key) -> float:
    """The accuracy on these images."""
    return float((decide(model(x, key)) == y).float().mean())


def crafted(attack: Recipe, threat: Threat, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
    """The images that an attack on the model makes of those of a lesson.

    An attack by gradients takes all of its steps on every image. One that stops once the model errs would
    leave most of its strength unused and train on the weakest images that fool the model.

    Args:
        attack: the recipe, which also says where gradients come from.
        threat: its budget.
        lesson: images and labels, and the model in evaluation mode.
        key: randomness of the attack.
    """
    source, search = through(lesson.model, attack), to_the_end(attack(threat))
    return search(lesson.model, lesson.images, lesson.labels, key, through=source).x_adv


def check_steps(search: Attack, model: Classifier) -> None:
    """Refuse a search along gradients within a threat in which no step leads from member to member.

    Raises:
        InputError: the threat has no projection.
    """
    if isinstance(search, Ensemble):
        for each in search.attacks:
            check_steps(each, model)
    if isinstance(search, GradientAttack):
        search.threat.project(_blank(model), _blank(model))


@contextmanager
def said(expected: str) -> Iterator[None]:
    """Say in front of an error what needed the thing that was refused."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{expected}: {error.expected}", error.got, error.try_) from error


def _blank(model: Classifier) -> Float[Tensor, "1 *F"]:
    return torch.zeros(1, *model.spec.example_shape)


def check_attack(defence: Guarded, attack: Recipe, model: Classifier) -> None:
    """Refuse an attack that cannot be run on every batch of a training of this model.

    Raises:
        InputError: the attack needs more than the model and a batch, or is not defined on the model.
    """
    others = (Suite, Transfer, Chosen, StoredImages, Universal, UniversalPatch)
    if any(isinstance(member, others) for member in [attack, *members_of([attack])]):
        raise InputError(
            f"{type(defence).__name__} needs an attack on the trained model alone, run on every batch",
            repr(attack),
            "Try pgd with few steps.",
        )
    check_steps(attack(defence.threat), model)  # refuses a threat that it is not defined within
    attack.check(model)
    if not attack.suits(model):
        raise InputError(
            f"{type(defence).__name__} needs an attack that is defined on the model", repr(attack), "Try pgd."
        )


@dataclass(frozen=True)
class Adversarial(Guarded):
    r"""Adversarial training: every batch is replaced by the images of an attack on the model as it is.

    .. math:: \min_w\ \mathbb{E}\ \max_{\|\delta\| \le \epsilon} L(f_w(x + \delta), y)

    Every recipe may make the images, with gradients from any source, such as another surrogate or gradient
    rule. The attack is on the model in evaluation mode and takes all of its steps. Of the images that an
    attack by gradients passes through, the one with the largest objective among those that fool the model is
    used. With `epsilon` 0 the rule is the one inside, to the bit.

    Args:
        of: the learning rule that trains on these images; a conversion trains its ANN on them.
        threat: the threat with its budget.
        watch: a watch for catastrophic overfitting, or None.
        attack: the recipe.

    Raises:
        InputError: the attack is not defined on the model, within the threat or on single batches, or the
            learning rule does not train on batches of images.

    Example:
        >>> rule = Adversarial(attack=PGD(steps=3))
        >>> rule.epochs, rule.threat
        (10, Linf(epsilon=0.03137...))

    Source:
        Madry et al. 2018, section 2.1. The published code of robust spiking networks attacks in training mode
        of the spikes and evaluation mode of batch normalisation; here both are in evaluation mode.
    """

    attack: Recipe = PGD(steps=7)

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_attack(self, self.attack, model)

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return self.hostile(lesson, key)

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return crafted(self.attack, self.threat, lesson, key)


@dataclass(frozen=True)
class TRADES(Guarded):
    r"""TRADES: the loss on clean images, and the divergence of the answers to adversarial images from theirs.

    .. math:: L(f(x), y) + \beta\,\vartheta^2\,
              \mathrm{KL}\left(p(x)\,\|\,p(x')\right), \quad p = \mathrm{softmax}(z / \vartheta)

    The attack maximises the divergence, without the label, on the model in evaluation mode. Both answers are
    differentiated, as in the published code. With `beta` 0 the rule is the one inside, to the bit.

    Args:
        of: the learning rule, whose loss is computed on the clean images.
        threat: the threat with its budget.
        watch: a watch for catastrophic overfitting, or None.
        attack: the recipe that makes x'; published: ten steps of 0.23 epsilon from a tiny normal
            displacement, here from a random member of the threat's set.
        beta: weight of the divergence, at least 0.
        temperature: of the soft-max in the divergence, positive; its square keeps the size of the gradient.

    Raises:
        InputError: a setting is out of range, or a reason of `Adversarial`.

    Example:
        >>> TRADES().beta
        6.0

    Source:
        Zhang et al. 2019, eq. (5) and algorithm 1; the published code of ASSG uses a temperature of 2.
    """

    adds_loss: ClassVar[bool] = True

    attack: Recipe = PGD(steps=10, objective=KL())
    beta: float = 6.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, 0, beta=self.beta)
        if not self.temperature > 0:
            raise InputError(
                "TRADES needs a positive temperature", f"temperature={self.temperature}", "Try 1.0."
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        check_attack(self, self.attack, model)

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return crafted(self.attack, self.threat, lesson, key)

    def loss(self, lesson: Lesson, plain: LossOf) -> Float[Tensor, ""]:
        if not self.beta:
            return plain(lesson)
        with evaluating(lesson.model):
            moved = self.hostile(lesson, lesson.key.fold("trades"))
        natural = plain(lesson)
        apart = divergence(lesson.logits(lesson.images), lesson.logits(moved), self.temperature)
        return natural + self.beta * apart


def divergence(
    clean: Float[Tensor, "B K"], moved: Float[Tensor, "B K"], temperature: float = 1.0
) -> Float[Tensor, ""]:
    """The mean divergence of answers from the clean ones, times the square of the temperature.

    Example:
        >>> z = torch.tensor([[1.0, 0.0]])
        >>> round(divergence(z, -z).item(), 4), divergence(z, z, 2.0).item()
        (0.4621, 0.0)
    """
    before, now = ((z / temperature).log_softmax(-1) for z in (clean, moved))
    return temperature**2 * F.kl_div(now, before, reduction="batchmean", log_target=True)


@dataclass(frozen=True)
class FastAdversarial(Guarded):
    r"""Fast adversarial training: one large signed step from a random start, for a third of the cost of PGD.

    .. math:: \delta_0 \sim U(S_\epsilon), \quad
              \delta = \Pi\left(\delta_0 + \alpha\,\epsilon\,\mathrm{steepest}(\nabla_x L)\right)

    Such a training can overfit catastrophically within an epoch: the model withstands single steps and
    nothing else. The watch compares both after every epoch; it marks the epoch, and ends the training with
    the weights of the epoch before it.

    Args:
        of: the learning rule that trains on these images.
        threat: the threat with its budget.
        watch: the watch for catastrophic overfitting, or None.
        step: `alpha`, length of the step, in epsilons, positive; above 1 the step is projected back.
        gradient: the gradient rule that the step is taken through, or None for the model's own gradient.

    Raises:
        InputError: the step is not positive, the threat moves whole events, or the gradient rule is not
            defined for the neuron.

    Example:
        >>> FastAdversarial().watch
        OverfittingWatch(images=256, steps=10, gap=0.2, stop=True)

    Source:
        Wong, Rice & Kolter 2020, algorithm 3, with alpha = 1.25 epsilon.
    """

    watch: OverfittingWatch | None = OverfittingWatch()
    step: float = 1.25
    gradient: GradientRule | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.step < float("inf"):
            raise InputError("FastAdversarial needs a positive step", f"step={self.step}", "Try 1.25.")
        if moves_events(self.threat):
            raise InputError(
                "FastAdversarial takes a step along the gradient, which needs a threat on pixels",
                repr(self.threat),
                "Use linf, or adversarial with an attack on events.",
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        self.threat.project(_blank(model), _blank(model))
        if self.gradient is not None:
            self.gradient.check(model.spec.neuron)

    def moved(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        return self.hostile(lesson, key)

    def hostile(self, lesson: Lesson, key: Key) -> Float[Tensor, "B *F"]:
        x, threat, source = lesson.images, self.threat, lesson.model
        if self.gradient is not None:
            source = substitute(source, unroll=self.gradient)
        start = threat.start(x, key.fold("start"))
        answer = Exact()(evaluator(source, LogitCrossEntropy(), lesson.labels), start, key.fold("step"))
        return threat.project(start + self.step * threat.epsilon * threat.steepest(answer.grad), x)

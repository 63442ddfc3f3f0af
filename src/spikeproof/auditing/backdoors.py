"""Backdoors: how well a known trigger works, and whether a model shows signs of an unknown one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import answering
from spikeproof.evaluation.asking.steady import Steady
from spikeproof.keys import Key
from spikeproof.protocols import Keep, Model, unkept
from spikeproof.statistics import wilson

__all__ = ["LEAST_CLASSES", "BackdoorMetrics", "MarginTest", "Suspicion", "backdoor_metrics", "margin_test"]

DRAWN = 2000
"""Number of sets of margins by which a p-value is corrected."""

LEAST_CLASSES = 4
"""Fewest classes whose margins can be compared."""


class BackdoorMetrics(TypedDict):
    """What a trigger does to a model; shares are of the test images of other classes than the target."""

    target: int
    others: int
    target_share: float
    target_share_triggered: float
    triggered_low: float
    triggered_high: float
    accuracy_triggered: float


class Suspicion(TypedDict):
    """What the test without data says of a model: the most suspect class, and the p-value of its margin."""

    suspect: int
    p_value: float


@torch.no_grad()
def backdoor_metrics(
    model: Model | Callable[[Tensor], Tensor],
    x: Float[Tensor, "N C H W"],
    triggered: Float[Tensor, "N C H W"],
    y: Int64[Tensor, "N"],
    target: int,
    key: Key = Key.of(0),
    *,
    batch_size: int = 100,
    keep: Keep = unkept,
) -> BackdoorMetrics:
    """How many images get the target class, with a trigger and without it.

    Only images of other classes count, because an image of the target class shows nothing. The share with the
    trigger is the attack success rate, with its 95 % Wilson interval; the share without it is the rate at
    which the model makes this error anyway.

    Args:
        model: maps images to logits, in evaluation mode.
        x: test images in [0, 1].
        triggered: the same images with the trigger.
        y: labels.
        target: the target class.
        key: randomness of a stochastic model; one draw per image, the same with and without trigger.
        batch_size: images per forward pass, at least 1; changes no number.
        keep: keeps the answers to a batch.

    Raises:
        InputError: sizes that do not fit, or no image of another class.

    Example:
        >>> x, y = torch.eye(3), torch.tensor([0, 1, 2])
        >>> found = backdoor_metrics(lambda images: images, x, x + torch.tensor([2.0, 0, 0]), y, 0)
        >>> found["target_share"], found["target_share_triggered"]
        (0.0, 1.0)
    """
    if x.shape != triggered.shape or len(x) != len(y) or batch_size < 1 or not bool((y != target).any()):
        raise InputError(
            "Equally many images with and without the trigger, some of them not of the target class",
            f"{list(x.shape)}, {list(triggered.shape)}, {len(y)} labels, target={target}",
            "Pass test images of all classes.",
        )
    steady = Steady(answering(model))

    def answer(images: Tensor, few: Tensor) -> Tensor:
        return decide(steady(images[few], key.fold("backdoor").for_rows(few)))

    def answers(images: Tensor, name: str) -> Tensor:
        rows = torch.arange(len(images))
        return torch.cat(
            [
                keep(f"{name} from {int(few[0])} to {int(few[-1])}", functools.partial(answer, images, few))
                for few in rows.split(batch_size)  # type: ignore[no-untyped-call]
            ]
        )

    others = y != target
    plain, with_trigger = answers(x, "plain")[others], answers(triggered, "triggered")[others]
    hits, many = int((with_trigger == target).sum()), int(others.sum())
    low, high = wilson(float(hits), many)
    return {
        "target": target,
        "others": many,
        "target_share": float((plain == target).double().mean()),
        "target_share_triggered": hits / many,
        "triggered_low": low,
        "triggered_high": high,
        "accuracy_triggered": float((with_trigger == y[others]).double().mean()),
    }


@dataclass(frozen=True)
class MarginTest:
    """The largest margin of every class over the box of all images, and how odd the largest of them is.

    Args:
        margins: largest margin found for each class, at least 0.
        suspect: the class with the largest margin.
        p_value: probability of so large a margin if it belonged with those of the other classes.
    """

    margins: tuple[float, ...]
    suspect: int
    p_value: float

    @property
    def found(self) -> bool:
        """Whether the test sees a backdoor, at a level of 5 %."""
        return self.p_value < 0.05


def margin_test(
    model: Model | Callable[[Tensor], Tensor],
    shape: tuple[int, int, int],
    classes: int,
    key: Key = Key.of(0),
    *,
    through: Model | None = None,
    starts: int = 30,
    steps: int = 100,
    device: torch.device | str = "cpu",
) -> MarginTest:
    r"""MM-BD: a test of a model for backdoors that needs no data and knows no trigger.

    .. math:: r_c = \max_{x \in [0, 1]^n} \bigl(f_c(x) - \max_{k \ne c} f_k(x)\bigr), \qquad
        p = 1 - G(\max_c r_c)^K

    A backdoor makes the model very sure of its target class somewhere in the box, whatever the trigger looks
    like. G is the gamma distribution with mean and variance of the margins of all classes but the largest.
    Leaving out the largest makes this p too small: of 10 margins of one gamma distribution, 27 % of sets have
    a p below 5 %. What is reported is therefore how often a p as small comes from margins of one gamma
    distribution, by 2,000 seeded draws. The margins are found by ascent along the sign of the gradient from
    random images, and they are those of the model itself; gradients may come from a substitute.

    The test can show that one class has a far larger margin than its share, which a backdoor causes. It
    cannot show that there is no backdoor. A backdoor with several targets hides among the other margins;
    logits that are bounded or counted (spike counts of at most T) leave no room for a large margin; and an
    ascent along poor gradients does not find it. A class that is easier than others may also stand out. With
    few classes the distribution rests on few margins, and the p-value is rough.

    Args:
        model: maps images to logits, in evaluation mode; it need not be a network of spikeproof.
        shape: channels, height and width of its images.
        classes: number of classes, at least 4.
        key: randomness of the first images and of a stochastic model.
        through: the model that gradients come from; None for the model itself.
        starts: random first images per class, at least 1.
        steps: steps from each, at least 1.
        device: on which the model takes its images; the first images are the same on all.

    Raises:
        InputError: fewer than 4 classes, settings out of range, or logits of another number of classes.

    Example:
        >>> weights = torch.eye(5).repeat(1, 2)
        >>> weights[3] *= 20
        >>> found = margin_test(lambda x: x.flatten(1) @ weights.T, (1, 2, 5), 5, starts=2, steps=20)
        >>> found.suspect, found.found
        (3, True)

    Source:
        Wang et al. 2023 (arXiv 2205.06900), section 3. The paper fits the gamma distribution by maximum
        likelihood, which has no solution where margins are equal or zero; here it has their mean and
        variance. The correction of the p-value is ours.
    """
    if classes < LEAST_CLASSES or starts < 1 or steps < 1:
        raise InputError(
            "The margins of at least 4 classes, with at least 1 start and 1 step",
            f"classes={classes}, starts={starts}, steps={steps}",
            "Try starts=30, steps=100.",
        )
    judge = answering(model)
    source = judge if through is None else through
    margins = []
    for label in range(classes):
        x = key.fold("start", label).uniform((starts, *shape)).to(device)
        best = x.new_zeros(starts)
        for step in range(steps + 1):
            now = key.fold("class", label).fold("step", step)
            with torch.no_grad():
                best = torch.maximum(best, _margin(judge(x, now), label, classes).nan_to_num(0.0).to(best))
            if step == steps:  # the last images are only judged
                break
            at = x.clone().requires_grad_()
            with torch.enable_grad():
                (grad,) = torch.autograd.grad(
                    _margin(source(at, now), label, classes).sum() + 0 * at.sum(), at
                )
            x = (x + (1 - step / (steps + 1)) * 4 / steps * grad.nan_to_num(0.0).sign()).clamp(0, 1)
        margins.append(float(best.max()))
    largest = torch.tensor(margins, dtype=torch.float64)
    suspect = int(largest.argmax())
    return MarginTest(tuple(margins), suspect, _chance(largest, suspect, key.fold("null")))


def _margin(logits: Float[Tensor, "B K"], label: int, classes: int) -> Float[Tensor, "B"]:
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise InputError(f"Logits of {classes} classes", f"shape {list(logits.shape)}", "Check classes.")
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.amax(1)


def _chance(margins: Float[Tensor, "K"], suspect: int, key: Key) -> float:
    """The share of sets of margins without an odd one in which the largest stands out as much."""
    rest = torch.cat([margins[:suspect], margins[suspect + 1 :]])
    mean, variance = float(rest.mean()), float(rest.var(correction=0))
    if variance <= 1e-12 * max(mean, 1e-300) ** 2:  # a distribution of one point
        return 1.0 if float(margins[suspect]) <= mean * (1 + 1e-6) else 0.0
    chance = np.random.Generator(np.random.PCG64(key.seed()))
    drawn = torch.from_numpy(chance.gamma(mean**2 / variance, size=(DRAWN, len(margins))))
    usual = _surprise(drawn)
    return float((1 + (usual <= _surprise(margins[None])).sum()) / (1 + DRAWN))


def _surprise(margins: Float[Tensor, "N K"]) -> Float[Tensor, "N"]:
    """The p-value of the paper: of the largest margin, under the gamma distribution of all others."""
    ordered = margins.sort(1).values
    most, rest = ordered[:, -1], ordered[:, :-1]
    mean, variance = rest.mean(1), rest.var(1, correction=0).clamp(min=1e-300)
    below = torch.special.gammainc(mean.square() / variance, most * mean / variance)
    found: Tensor = 1 - below ** margins.shape[1]
    return found

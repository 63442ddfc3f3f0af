"""Refusals of models whose answers depend on more than the image and the key.

A number is of a function only if an image gets the same answer whatever was asked before and whatever stands
beside it in a batch. Here are the models for which that is not so: those that keep a state over calls or over
the passes of an attack, those that look at the other images of a batch or at its size, those that draw
without the key, those that change their images, and those whose clean outcomes are another model's. A few
images are asked twice for each refusal; rounding, and for stochastic models chance, refuse nobody.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.errors import InputError, of_the_machine
from spikeproof.evaluation.asking.steady import Steady, answers_of, batches, is_stochastic
from spikeproof.evaluation.outcomes import Answers, Clean
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier, Inference
from spikeproof.protocols import BLOCK, Model, Threat, moves_events

__all__ = [
    "LeakError",
    "check_among_clean",
    "check_company",
    "check_keeps_images",
    "check_repeats",
    "check_same_model",
    "left_as_it_was",
    "unlike",
]

ALIKE = 1e-3
"""Largest relative difference between logits that rounding can explain."""

CHECKED = 4
"""Number of images on which a model is checked before it is measured."""

ROUNDING, NUDGES = 2.0**-12, 4
"""Largest change of a pixel that does to a model what rounding may do, and the number of such changes."""

NEAR = 0.05
"""Largest change of the pixels of the images whose answers are compared before and after an attack."""

AMONG_CLEAN = 4
"""Number of attacked images of a batch that are classified once more among clean ones."""

BEYOND, FEW_DRAWS = 5.0, 8
"""Standard deviations by which shares of draws differ if that is not due to chance, twice as many by which
mean logits do, and number of draws below which mean logits are not compared."""


class LeakError(InputError):
    """A model whose answers depend on earlier forward passes, or on randomness that no key controls."""


def unlike(a: Float[Tensor, "B *K"], b: Float[Tensor, "B *K"]) -> Bool[Tensor, "B"]:
    """Which images have answers that differ by more than rounding, beside the largest finite one.

    Example:
        >>> unlike(torch.tensor([[1.0, 2.0], [1.0, 2.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.1]])).tolist()
        [False, True]
        >>> low = -torch.inf
        >>> unlike(torch.tensor([[1.0, low], [1.0, low]]), torch.tensor([[1.0, low], [2.0, low]])).tolist()
        [False, True]
    """
    a, b = (answer.reshape(len(answer), -1) for answer in (a, b))
    size = torch.maximum(a.abs(), b.abs())
    scale = size.where(size.isfinite(), 0).amax().clamp(min=torch.finfo(torch.float32).tiny)
    apart = ((a - b).abs() > ALIKE * scale) | (a.isnan() != b.isnan())  # equal infinities have no difference
    return apart.any(1)


@torch.no_grad()
def check_keeps_images(model: Model, x: Float[Tensor, "B *F"], key: Key) -> None:
    """Refuse a model that changes its images in place, because it is then measured on other images.

    Raises:
        InputError: a call changes the images.

    Example:
        >>> check_keeps_images(lambda images, key=None: images.mul_(2), torch.ones(1, 2), Key.of(0))
        Traceback (most recent call last):
        spikeproof.errors.InputError: A model leaves its images as they are: got images that a call has
        changed in place. Work on a copy: `x = x - mean` in place of `x -= mean`, or `x.clone()` first.
    """
    few = x[:CHECKED].clone()
    try:
        model(few, key.fold("repeat", "kept").for_rows(range(len(few))))
    except Exception as raised:  # the measurement itself reports what is wrong with the answers
        if of_the_machine(raised):
            raise
        return
    if not torch.equal(few.nan_to_num(), x[:CHECKED].nan_to_num()):
        raise InputError(
            "A model leaves its images as they are",
            "images that a call has changed in place",
            "Work on a copy: `x = x - mean` in place of `x -= mean`, or `x.clone()` first.",
        )


@torch.no_grad()
def check_repeats(model: Model, x: Float[Tensor, "B *F"], key: Key) -> None:
    """Refuse a model that answers equal calls differently, because its numbers would depend on their order.

    A few images are passed forward twice under one key, with other images in between.

    Raises:
        LeakError: the second answer differs by more than rounding, or the second call fails.

    Example:
        >>> check_repeats(lambda images, key=None: images, torch.eye(3), Key.of(0))
    """
    few = x[:CHECKED]
    rows = key.fold("repeat").for_rows(range(len(few)))
    try:
        first = model(few, rows)
    except Exception as raised:  # the measurement itself reports what is wrong with the answers
        if of_the_machine(raised):
            raise
        return
    try:
        model(few.flip(0).roll(1, -1), rows)
        second = model(few, rows)
    except Exception as raised:  # a foreign model may raise any error
        if of_the_machine(raised):
            raise
        error = raised.__cause__ or raised
        raise LeakError(
            "A model answers every call as if it were the first",
            f"{type(error).__name__} at the second call: {error}",
            "Reset its state at the beginning of every call.",
        ) from error
    if not isinstance(first, Tensor) or first.shape != second.shape or first.ndim < 1:
        return  # not logits, which the measurement itself refuses
    if differs := int(unlike(first, second).sum()):
        raise LeakError(
            "A model answers equal calls equally",
            f"different logits for {differs} of {len(few)} images in a second forward pass",
            "Reset its state (membrane potentials, running statistics, caches) at the start of every call. "
            "If it draws random numbers, let it take them from the key and declare `stochastic = True`.",
        )


def check_company(
    model: Model, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], together: Answers, key: Key
) -> None:
    """Refuse a model that answers an image otherwise in a smaller batch.

    Rounding depends on the size of a batch, on an accelerator for instance, and may move a spike. So another
    answer to an image counts only if changes of the image that are larger than rounding, in batches of one
    size, leave its answer as it is. A stochastic model may draw for a whole batch at once; then its shares of
    right answers or its mean logits have to differ by more than chance.

    Raises:
        LeakError: it does so for more than one image.
    """
    size = BLOCK
    while size < len(y):
        apart = functools.partial(_in_batches, model, size, y)
        first = apart(x, key, 1)
        changed = unlike(together.inferences[0].logits, first.inferences[0].logits)
        if changed.sum() > 1 and is_stochastic(model):
            changed &= _answers_differ(together, apart(x, key, len(together.inferences)))
        elif changed.sum() > 1:
            changed &= ~_sensitive(apart, x, first, key)
        if (differs := int(changed.sum())) > 1:
            raise LeakError(
                "A model answers an image equally in every batch",
                f"different logits for {differs} of {len(y)} images in batches of {size} and of {len(y)}",
                "Remove what depends on the size of a batch, or on the other images in it.",
            )
        size *= 2


@contextmanager
def left_as_it_was(model: Model, x: Float[Tensor, "N *F"], threat: Threat, key: Key) -> Iterator[None]:
    """Refuse a model that answers a few images otherwise after what is done inside, an attack, than before.

    Raises:
        LeakError: an answer to the same image differs by more than rounding.
    """
    asked = _asked(model, x, threat, key)
    before = _logits_or_none(model, asked, key)
    yield
    after = _logits_or_none(model, asked, key)
    if before is not None and after is not None and (differs := int(unlike(before, after).sum())):
        raise LeakError(
            "A model answers equal calls equally",
            f"different logits for {differs} of {len(before)} images after an attack than before it",
            "Reset its state (counters, caches, running statistics) at the start of every call.",
        )


def _asked(model: Model, x: Float[Tensor, "N *F"], threat: Threat, key: Key) -> Tensor | None:
    """A few clean images and a few close to them, whose answers no attack should change; None for our own."""
    if isinstance(model, Classifier) and not model.altered:
        return None
    few = x[:CHECKED]
    if moves_events(threat):
        return few
    noise = key.fold("repeat", "near").for_rows(range(len(few))).uniform(few.shape, 0, x.device) - 0.5
    return torch.cat([few, (few + 2 * NEAR * noise.to(x.dtype)).clamp(0, 1)])


@torch.no_grad()
def _logits_or_none(model: Model, images: Tensor | None, key: Key) -> Tensor | None:
    if images is None:
        return None
    return Steady(model)(images, key.fold("repeat").for_rows(range(len(images)))).clone()


def check_same_model(clean: Clean, fresh: Answers, untouched: Bool[Tensor, "B"]) -> None:
    """Refuse clean outcomes of another model, which answered images otherwise that no attack has changed.

    Raises:
        LeakError: a quarter of these images or more, and three at least, have another class.
    """
    others = int((clean.prediction.to(fresh.prediction) != fresh.prediction)[untouched].sum())
    if others > 2 and 4 * others >= int(untouched.sum()):
        raise LeakError(
            "The clean outcomes are of the model that is attacked, which answers equal calls equally",
            f"another class for {others} of {int(untouched.sum())} clean images",
            "Pass what evaluate_clean gives for this model, and let its randomness depend on the key alone.",
        )


def check_among_clean(
    model: Model, x: Float[Tensor, "B *F"], x_adv: Float[Tensor, "B *F"], y: Tensor, fresh: Answers, key: Key
) -> None:
    """Refuse a model that answers an attacked image otherwise among clean images than among attacked ones.

    A few images that the attack did not break are classified once more, each with clean images only. Rounding
    and chance are told apart as in `check_company`.

    Raises:
        LeakError: two of these images get another answer.
    """
    standing = ((x_adv != x).flatten(1).any(1) & (fresh.right > 0)).nonzero().flatten()
    tried = standing[torch.linspace(0, len(standing) - 1, min(len(standing), AMONG_CLEAN)).long()]
    if is_stochastic(model) and len(tried):  # under the same keys once more, and not those of the verdict
        key = key.fold("repeat")
        fresh = answers_of(model, x_adv, y, key, len(fresh.inferences))
    other = 0
    for row in tried.tolist() if len(x) > 1 else ():
        there = Answers([_row(each, row) for each in fresh.inferences], y[row : row + 1])
        among = functools.partial(_among, model, x, y, row, key)
        here = among(x_adv[row : row + 1], key, len(fresh.inferences))
        changed = unlike(there.inferences[0].logits, here.inferences[0].logits)
        if changed.any() and is_stochastic(model):
            changed &= _answers_differ(there, here)
        elif changed.any():
            changed &= ~_sensitive(among, x_adv[row : row + 1], here, key.take(torch.tensor([row])))
        other += int(changed.sum())
    if other > 1:
        raise LeakError(
            "A model answers an image equally in every batch",
            f"different logits for {other} of {len(tried)} attacked images among clean ones",
            "Remove what depends on the other images in a batch.",
        )


def _among(
    model: Model, x: Tensor, y: Tensor, row: int, key: Key, image: Tensor, _: Key, draws: int
) -> Answers:
    """The answers to an image that stands in the place of one of these, whatever the key for the image."""
    others = torch.tensor([i for i in range(len(x)) if i != row][: BLOCK - 1])
    rows = torch.cat([torch.tensor([row]), others])
    images = torch.cat([image, x[others.to(x.device)]])
    found = answers_of(model, images, y[rows.to(y.device)], key.take(rows), draws)
    return Answers([_row(each, 0) for each in found.inferences], y[row : row + 1])


def _row(inference: Inference, row: int) -> Inference:
    return Inference(*(part[row : row + 1] for part in inference))


def _in_batches(model: Model, size: int, y: Tensor, x: Tensor, key: Key, draws: int) -> Answers:
    """The answers to images in batches of one size."""
    found = [
        answers_of(model, x[rows], y[rows], key.take(torch.arange(len(y))[rows]), draws).inferences
        for rows in batches(len(y), size)
    ]
    return Answers(
        [Inference(*map(_joined, zip(*parts, strict=True))) for parts in zip(*found, strict=True)], y
    )


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts))


def _sensitive(
    apart: Callable[[Tensor, Key, int], Answers], x: Tensor, first: Answers, key: Key
) -> Bool[Tensor, "B"]:
    """Whether changes of an image that are a little larger than rounding change its answer.

    A model that refuses such images, because its examples are whole events, has no answer that they change.
    """
    found, most = torch.zeros(len(x), dtype=torch.bool, device=x.device), max(1.0, float(x.max()))
    for draw in range(NUDGES):
        noise = 2 * ROUNDING * (key.fold("nudge", draw).uniform(x.shape, 0, x.device) - 0.5).to(x.dtype)
        for near in (x + noise, x - noise):  # on both sides of a threshold through the image
            try:
                answers = apart(near.clamp(0, most), key, 1)  # counts of events exceed 1
            except InputError:
                return torch.zeros_like(found)
            found |= unlike(answers.inferences[0].logits, first.inferences[0].logits)
    return found


def _answers_differ(one: Answers, other: Answers) -> Bool[Tensor, "B"]:
    """Whether stochastic answers differ by more than chance, in shares of right draws or in mean logits."""
    draws = len(one.inferences)
    mean = (one.right + other.right) / 2
    variance = 2 * mean * (1 - mean) / draws
    by_image = (one.right - other.right).abs() > BEYOND * variance.clamp(min=0.25 / draws).sqrt()
    together = (one.right - other.right).sum().abs() > BEYOND * variance.sum().clamp(min=0.25 / draws).sqrt()
    if draws < FEW_DRAWS:
        return by_image | together
    first, second = (torch.stack([i.logits for i in each.inferences]).double() for each in (one, other))
    apart = (first.mean(0) - second.mean(0)).abs()
    chance = ((first.var(0) + second.var(0)) / draws).sqrt()
    size = torch.maximum(first.abs().amax((0, 2)), second.abs().amax((0, 2)))[:, None]
    return by_image | together | (apart > 2 * BEYOND * chance + ALIKE * size).any(1)

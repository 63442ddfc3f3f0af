"""Evaluation: the answers of a model to clean and to attacked images, example by example.

Three properties hold whatever the attack does. Every returned image is checked against the budget; an image
outside it counts as not attacked and is reported. Verdicts come from the model itself, on draws that the
attack has not used. And no number depends on the batch size: the randomness belongs to the examples, and
batches are padded to whole blocks, because floating-point sums over the rows of an incomplete block run in
another order.

For a stochastic model, accuracy is the mean over fresh draws. The accuracy of the majority vote of these
draws and the share of examples that are right in all of them are reported beside it. If an attacker may
choose among images (the clean one included), the choice is made on one set of draws and measured on another,
so that luck in the choice does not lower the number. The first set is large, so that luck rarely makes a weak
adversarial image the choice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from spikeproof.attacks.made_of.composite import GradientSources
from spikeproof.attacks.made_of.nested import Carried, Nested
from spikeproof.attacks.recipe import Attack, Recipe, made
from spikeproof.attacks.search import GradientAttack, Result, check_threat
from spikeproof.corruptions import Corruption
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.evaluation.asking.callables import answering
from spikeproof.evaluation.asking.leaks import (
    check_among_clean,
    check_company,
    check_keeps_images,
    check_repeats,
    check_same_model,
    left_as_it_was,
)
from spikeproof.evaluation.asking.steady import Steady, answers_of, batches, is_stochastic, whole
from spikeproof.evaluation.columns import joined, subset
from spikeproof.evaluation.outcomes import (
    UNSEEN,
    Answers,
    Attacked,
    AttackedBatch,
    Clean,
    CleanBatch,
    Untouched,
    content,
    distances,
)
from spikeproof.evaluation.through import through as gradient_source_of
from spikeproof.gradients import GradientRule
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import (
    BLOCK,
    Model,
    Seen,
    Threat,
    check_key,
    check_kind_of_threat,
    check_tensors,
    in_training,
    moves_events,
)
from spikeproof.threats import check_budget

__all__ = [
    "Attacked",
    "Clean",
    "check_examples",
    "check_outcomes",
    "distances",
    "evaluate_attack",
    "evaluate_clean",
    "evaluate_corrupted",
    "evaluate_sweep",
]

CHOOSING = 32
"""Least number of draws with which an attacker chooses among images, for a stochastic model."""

TOGETHER = 8
"""Batches at most whose examples one search attacks together."""

NUMBERS = 1 << 22
"""Pixels at most of the examples that one search attacks together, unless one batch has more."""


def evaluate_clean(
    model: Model | Callable[[Tensor], Tensor],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    key: Key = Key.of(0),
    *,
    ids: Int64[Tensor, "N"] | None = None,
    batch_size: int = 100,
    draws: int = 10,
) -> Clean:
    """Accuracy on clean images.

    Args:
        model: maps images to logits, in evaluation mode; a stochastic callable takes a key after the images.
        x: images in [0, 1].
        y: labels.
        key: key of the draws of a stochastic model.
        ids: identities of the examples, which select their randomness; default 0..N-1.
        batch_size: examples per forward pass, at least 1; does not change any number.
        draws: forward passes per example of a stochastic model, at least 1.

    Raises:
        InputError: there are no examples, a setting is out of range, or the model does not answer one row of
            logits per image without NaN.
        LeakError: the model answers equal calls differently.

    Example:
        >>> model = lambda images, key=None: images
        >>> clean = evaluate_clean(model, torch.eye(3), torch.arange(3), Key.of(0))
        >>> clean.metrics()["clean_accuracy"]
        1.0
    """
    model = answering(model)
    ids = _check(model, x, y, ids, batch_size, draws)
    check_key(key)
    check_repeats(Steady(model), x, key)
    check_keeps_images(model, x, key)
    draws = draws if is_stochastic(model) else 1
    measured: list[CleanBatch] = []
    for rows in batches(len(x), whole(batch_size)):
        labels, batch_ids = y[rows], ids[rows]
        fresh = answers_of(model, x[rows], labels, key.fold("clean").for_rows(batch_ids), draws, clean=True)
        chosen = fresh
        if is_stochastic(model):
            many = max(draws, CHOOSING)
            chosen = answers_of(
                model, x[rows], labels, key.fold("clean", "selection").for_rows(batch_ids), many
            )
        if not measured and len(labels) > BLOCK and not isinstance(model, Classifier):
            check_company(model, x[rows], labels, fresh, key.fold("clean").for_rows(batch_ids))
        measured.append(CleanBatch(batch_ids, labels, fresh, chosen, x[rows]))
    return Clean(**joined(Clean, measured), draws=draws)


def evaluate_corrupted(
    model: Model | Callable[[Tensor], Tensor],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    corruption: Corruption,
    severity: int,
    key: Key = Key.of(0),
    *,
    ids: Int64[Tensor, "N"] | None = None,
    batch_size: int = 100,
    draws: int = 10,
) -> Clean:
    """Accuracy on examples that a natural corruption has changed; there is no attacker.

    The model draws the same samples as in `evaluate_clean` with this key, so that the outcomes are paired.

    Args:
        model: maps images to logits, in evaluation mode; a stochastic callable takes a key after the images.
        x: clean images in [0, 1], or recordings of events, as the corruption takes them.
        y: labels.
        corruption: what changes the examples.
        severity: from 1, the mildest, to 5.
        key: key of the draws of the corruption and of a stochastic model.
        ids: identities of the examples, which select their randomness; default 0..N-1.
        batch_size: examples per forward pass, at least 1; does not change any number.
        draws: forward passes per example of a stochastic model, at least 1.

    Raises:
        InputError: the severity is not one of the five, the corruption is not defined for the examples, or
            as `evaluate_clean` raises it.
        LeakError: the model answers equal calls differently.

    Example:
        >>> from spikeproof.corruptions import Contrast
        >>> x, y = torch.eye(3).view(3, 1, 1, 3), torch.arange(3)
        >>> found = evaluate_corrupted(lambda images: images.flatten(1), x, y, Contrast(), 5)
        >>> found.metrics()["clean_accuracy"]
        1.0
    """
    check_tensors(images=x, labels=y)
    check_key(key)
    if not isinstance(corruption, Corruption):
        raise InputError("Expected a corruption", repr(corruption)[:80], "Try GaussianCorruption().")
    ids = torch.arange(len(x)) if ids is None else ids
    draw = key.fold("corruption", type(corruption).__name__).for_rows(ids)
    changed = corruption(x, severity, draw)
    return evaluate_clean(model, changed, y, key, ids=ids, batch_size=batch_size, draws=draws)


def evaluate_attack(
    model: Model | Callable[[Tensor], Tensor],
    attack: Attack | Recipe,
    threat: Threat,
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    clean: Clean | None = None,
    key: Key = Key.of(0),
    *,
    through: Model | GradientSources | None = None,
    batch_size: int = 100,
    draws: int = 10,
) -> Attacked:
    """Accuracy on the images that an attack returns.

    Examples that a deterministic model misclassifies without an attack are not attacked; they count as
    errors.

    Args:
        model: maps images to logits, in evaluation mode; a stochastic callable takes a key after the images.
        attack: a recipe, or `attack(model, x, y, key, through=...) -> Result`. An attack whose result depends
            on the batch size declares its batch size as `batch`.
        threat: the threat that every returned image is checked against.
        x: images in [0, 1].
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples; None to measure them here.
        key: key of the randomness of attack and draws.
        through: gradient source, or one for each member of an ensemble; None for the gradient source that the
            recipe names, which is the model itself unless the recipe has a surrogate or a gradient rule.
        batch_size: examples per forward pass, at least 1; does not change any number.
        draws: forward passes per verdict on a stochastic model, at least 1.

    Raises:
        InputError: there are no examples, the clean outcomes are of other examples, a setting is out of
            range, the attack was made for another budget, the budget is larger than the box, or a substitute
            does not fit the model.
        LeakError: the model answers equal calls differently.

    Example:
        >>> from spikeproof.attacks.gradient.plain import FGSM
        >>> from spikeproof.threats import Linf
        >>> x, y = torch.tensor([[0.6, 0.4], [0.9, 0.1]]), torch.tensor([0, 0])
        >>> evaluate_attack(lambda images: images, FGSM(), Linf(0.2), x, y).right.tolist()
        [0.0, 1.0]
    """
    model = answering(model)
    ids = _check(model, x, y, None, batch_size, draws)
    check_key(key)
    check_kind_of_threat(threat)
    if clean is not None:
        check_outcomes(clean, x, y)
        ids = clean.example.to(x.device)
    if isinstance(attack, type) or not callable(attack):
        raise InputError("Expected an attack or a recipe", repr(attack)[:80], "Try PGD().")
    if clean is None:
        clean = evaluate_clean(model, x, y, key.fold("clean"), ids=ids, batch_size=batch_size, draws=draws)
    check_threat(model, threat)
    if not moves_events(threat):
        check_budget(threat, x.shape[1:])
    check_repeats(Steady(model), x, key)
    attack = attack(threat) if isinstance(attack, Recipe) else attack
    through = _gradient_source(model, attack, threat) if through is None else _source(through)
    draws = draws if is_stochastic(model) else 1
    batch_size = getattr(attack, "batch", None) or whole(batch_size)
    target, origin = Steady(model, batch_size), _steady(through, batch_size)
    together = batch_size * _batches_together(attack, through, x[:batch_size])
    attacked: list[AttackedBatch] = []
    with left_as_it_was(model, x, threat, key):
        for some in batches(len(x), together):
            begun, right = key.for_rows(ids[some]), clean.right_selection[some] > 0
            found = _searched(attack, target, origin, x[some], y[some], right, begun)
            for rows in batches(len(x[some]), batch_size):
                here = slice(some.start + rows.start, min(some.start + rows.stop, some.stop))
                examples = Untouched(threat, x[here], subset(clean, here))
                part = None if found is None else found.part(rows)
                attacked.append(_attacked(part, model, examples, y[here], key.for_rows(ids[here]), draws))
    nested = bool(getattr(attack, "nested", False))
    return Attacked(**joined(Attacked, attacked), draws=draws, nested=nested)


def evaluate_sweep(
    model: Model,
    recipe: Recipe,
    threats: Sequence[Threat],
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    clean: Clean,
    key: Key,
    *,
    nested: bool = False,
    through: Model | GradientSources | None = None,
    batch_size: int = 100,
    draws: int = 10,
) -> list[Attacked]:
    """Accuracy under one attack at several budgets, each afresh or from the images of the budget before.

    A nested sweep is cheaper, because broken examples are not attacked again. But its accuracy cannot rise
    with epsilon, so it cannot show in this way that an attack is weak. Its outcomes are marked `nested`.

    Args:
        model: maps images to logits; in evaluation mode.
        recipe: the attack.
        threats: one threat at several budgets.
        x: images in [0, 1].
        y: labels.
        clean: outcomes of `evaluate_clean` on the same examples.
        key: key of the randomness of attack and draws.
        nested: whether each budget but the smallest begins with the images of the budget before.
        through: as in `evaluate_attack`.
        batch_size: examples per forward pass, at least 1; does not change any number.
        draws: forward passes per verdict on a stochastic model, at least 1.

    Returns:
        One outcome per budget, in rising order of epsilon.

    Raises:
        InputError: the threats are of several kinds, whose budgets cannot be ordered.
    """
    for threat in threats:
        check_kind_of_threat(threat)
    if len({type(threat) for threat in threats}) > 1:
        raise InputError(
            "A sweep is over the budgets of one threat",
            ", ".join(map(repr, threats)),
            "Make one sweep for each kind of threat.",
        )
    found: list[Attacked] = []
    for threat in sorted(threats, key=lambda each: each.epsilon):
        attack = recipe(threat)
        if nested and found:
            attack = Nested(attack, Carried(clean.example, found[-1].x_adv))
        found.append(
            evaluate_attack(
                model, attack, threat, x, y, clean, key,
                through=through, batch_size=batch_size, draws=draws,
            )
        )  # fmt: skip
    return found


class _Found(NamedTuple):
    """What an attack has found for some of the examples."""

    rows: Int64[Tensor, "R"]
    result: Result

    def part(self, of: slice) -> _Found | None:
        """The same of the examples from one row to another, whose rows then count from the first of them."""
        inside = ((self.rows >= of.start) & (self.rows < of.stop)).nonzero().flatten()
        return _Found(self.rows[inside] - of.start, self.result.taken(inside)) if len(inside) else None


def _batches_together(
    attack: Attack, through: Model | GradientSources | None, batch: Float[Tensor, "B *F"]
) -> int:
    """The number of batches whose examples one search attacks, so that those still standing fill passes.

    Searched batch by batch, the few that are left of each batch would be padded to a block of their own.
    Adaptive gradient rules keep statistics of every layer for every example, so with them each batch is
    searched by itself.
    """
    inner = attack.attack if isinstance(attack, Nested) else attack
    rules = isinstance(through, torch.nn.Module) and any(
        isinstance(getattr(layer, "unroll", None), GradientRule) for layer in through.modules()
    )
    known = through is None or isinstance(through, Classifier)
    if not isinstance(inner, GradientAttack) or not known or rules:
        return 1
    return max(1, min(TOGETHER, NUMBERS // max(batch.numel(), 1)))


def _searched(
    attack: Attack,
    model: Steady,
    gradient_source: Steady | GradientSources | None,
    x: Float[Tensor, "N *F"],
    y: Int64[Tensor, "N"],
    right: Bool[Tensor, "N"],
    key: Key,
) -> _Found | None:
    """Attack the examples that are right; None if there are none."""
    rows = right.nonzero().flatten()
    if not len(rows):
        return None
    now = key.fold("attack").take(rows)
    result = attack(model, x[rows], y[rows], now, through=gradient_source)
    if not isinstance(result, Result):
        raise InputError(
            "An attack returns a Result, with the images and what it cost",
            type(result).__name__,
            "Return what an attack of spikeproof returns, with the images replaced.",
        )
    return _Found(rows, result)


def _source(through: Model | GradientSources) -> Model | GradientSources:
    """What gradients come from, as a model that is called with a key."""
    return through if isinstance(through, GradientSources) else answering(through)


def _attacked(
    found: _Found | None, model: Model, examples: Untouched, y: Int64[Tensor, "B"], key: Key, draws: int
) -> AttackedBatch:
    """Check the budget of what an attack has found for a batch, and classify the images again."""
    x, images = examples.images, examples.images.clone()
    rows, result = (y.new_zeros(0), None) if found is None else found
    if result is not None:
        images[rows] = result.x_adv.to(x.dtype)
    within = examples.threat.contains(images, x)
    x_adv = torch.where(within.view(-1, *[1] * (x.ndim - 1)), images, x)
    fresh = answers_of(model, x_adv, y, key.fold("measure"), draws)
    chosen = fresh
    if is_stochastic(model):
        chosen = answers_of(model, x_adv, y, key.fold("selection"), max(draws, CHOOSING))
    if not is_stochastic(model):
        check_same_model(examples.clean, fresh, (images == x).flatten(1).all(1))
    if not isinstance(model, Classifier):
        check_among_clean(model, x, x_adv, y, fresh, key.fold("measure"))
    left = examples.clean.right_selection < chosen.right
    seen = _in_views(model, examples.threat, x_adv, x, y, key.fold("views"))
    seen_clean = _in_views(model, examples.threat, x, x, y, key.fold("views"))
    rounded = _rounded(model, x_adv, y, key.fold("eight-bit"), draws, fresh)
    return AttackedBatch(
        examples.threat, x, examples.clean, rows, result, within, x_adv, fresh, chosen,
        rounded=torch.where(_is_image(x_adv), torch.where(left, examples.clean.right, rounded), torch.nan),
        seen=seen, seen_clean=seen_clean,
    )  # fmt: skip


def _in_views(
    model: Model, threat: Threat, x_adv: Float[Tensor, "B *F"], x: Float[Tensor, "B *F"], y: Tensor, key: Key
) -> Float[Tensor, "B"]:
    """Share of seeded views in which the answer is the label; NaN for a threat without views."""
    if not isinstance(threat, Seen):
        return x.new_full((len(x),), torch.nan)
    keys = [key.fold(i) for i in range(threat.views)]
    shares = [answers_of(model, threat.seen(x_adv, x, now), y, now.fold("answer"), 1).right for now in keys]
    return torch.stack(shares).mean(0).to(x.dtype)


def _is_image(x: Float[Tensor, "B *F"]) -> Bool[Tensor, "B"]:
    flat = x.flatten(1)
    return ((flat >= 0) & (flat <= 1)).all(1)


def _rounded(
    model: Model, x_adv: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key, draws: int, fresh: Answers
) -> Float[Tensor, "B"]:
    """Share of draws in which the answer to the image rounded to 8 bits is the label."""
    grid, right = (x_adv.clamp(0, 1) * 255).round() / 255, fresh.right.clone()
    moved = (grid != x_adv).flatten(1).any(1).nonzero().flatten()
    if len(moved):
        keys = [key.take(moved).fold("draw", i) for i in range(draws)]
        with torch.no_grad():
            answers = torch.stack([decide(Steady(model)(grid[moved], now)) for now in keys])
        right[moved] = (answers == y[moved]).to(right.dtype).mean(0)
    return right


def _gradient_source(model: Model, attack: Attack, threat: Threat) -> Model | GradientSources | None:
    """The gradient source that the recipe of an attack names; None for the model itself.

    Raises:
        InputError: the attack was made for another threat.
    """
    origin = made(attack)
    meant = origin.threat if origin is not None else getattr(attack, "threat", threat)
    if meant != threat:
        raise InputError(
            f"Expected an attack made for the threat of the evaluation, {threat!r}",
            f"one made for {meant!r}",
            "Pass the recipe itself, such as PGD(), or make the attack with this threat.",
        )
    return None if origin is None else gradient_source_of(model, origin.recipe)


def _steady(through: Model | GradientSources | None, most: int) -> Steady | GradientSources | None:
    if isinstance(through, GradientSources):
        return GradientSources(tuple(_steady(each, most) for each in through.models))
    return None if through is None else Steady(through, most)


def check_outcomes(clean: Clean, x: Float[Tensor, "N *F"], y: Int64[Tensor, "N"]) -> None:
    """Refuse clean outcomes of other examples, whose images may only be in another order.

    Raises:
        InputError: a label or an image is not that of the outcome in its place.

    Example:
        >>> x, y = torch.eye(3), torch.zeros(3, dtype=torch.int64)
        >>> clean = evaluate_clean(lambda images: images, x, y)
        >>> check_outcomes(clean, x.flip(0), y)
        Traceback (most recent call last):
        spikeproof.errors.InputError: The clean outcomes are of the examples that are attacked, in this order:
        got 2 of 3 with another image. Pass what evaluate_clean gives for these images and labels.
    """
    if len(clean.label) != len(y) or len(x) != len(y):
        what = f"{len(clean.label)} outcomes, {len(x)} images and {len(y)} labels"
    elif labels := int((clean.label != y.to(clean.label)).sum()):
        what = f"{labels} of {len(y)} with another label"
    else:
        known = clean.content != UNSEEN
        images = int((known & (clean.content != content(x).to(clean.content.device))).sum())
        what = f"{images} of {len(y)} with another image" if images else ""
    if what:
        raise InputError(
            "The clean outcomes are of the examples that are attacked, in this order",
            what,
            "Pass what evaluate_clean gives for these images and labels.",
        )


def check_examples(x: Float[Tensor, "N *F"], y: Int64[Tensor, "N"]) -> None:
    """Refuse what are no examples.

    Raises:
        InputError: there is not one label per image, or labels are no class indices.

    Example:
        >>> check_examples(torch.rand(2, 1, 4, 4), torch.eye(10)[:2])
        Traceback (most recent call last):
        spikeproof.errors.InputError: There is one label per image: got 2 images and labels of shape [2, 10].
        If the labels are one-hot, try labels.argmax(1).
    """
    check_tensors(images=x, labels=y)
    if y.ndim != 1:
        instead = (
            "If the labels are one-hot, try labels.argmax(1)."
            if y.shape[-1:] != (1,)
            else "Try labels.flatten()."
        )
        raise InputError(
            "There is one label per image",
            f"{len(x) if x.ndim else 0} images and labels of shape {list(y.shape)}",
            instead,
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise InputError("Labels are whole numbers", str(y.dtype), "Try labels.long().")
    if not x.ndim or not len(x) or len(x) != len(y):
        raise InputError(
            "Evaluation needs at least one example, with one label each",
            f"{len(x) if x.ndim else 0} images and {len(y)} labels",
            "Pass the images and labels of the same split.",
        )
    if int(y.min()) < 0:
        raise InputError(
            "Labels are class indices from 0",
            f"label {int(y.min())}",
            "Leave out the examples without a label.",
        )


def _check(
    model: Model, x: Tensor, y: Tensor, ids: Tensor | None, batch_size: int, draws: int
) -> Int64[Tensor, "N"]:
    check_examples(x, y)
    if ids is not None and len(ids) != len(x):
        raise InputError(
            "Every example has an identity",
            f"{len(x)} images, {len(ids)} identities",
            "Pass the images and ids of the same split.",
        )
    if not all(isinstance(each, int) and each >= 1 for each in (batch_size, draws)):
        raise InputError(
            "batch_size and draws are whole numbers of at least 1",
            f"batch_size={batch_size}, draws={draws}",
            "Try batch_size=100, draws=10.",
        )
    if in_training(model):
        raise InputError(
            "Evaluation needs a model in evaluation mode", "a model in training mode", "Call model.eval()."
        )
    return torch.arange(len(x), device=x.device) if ids is None else ids.to(x.device)

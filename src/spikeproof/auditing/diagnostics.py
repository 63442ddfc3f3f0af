"""Diagnostics of a model that accuracies do not show: state, dependence on the batch, randomness, gradients.

The diagnostics take some hundred forward passes and restore the model afterwards. They require nothing of the
model but the call `model(images) -> logits` or `model(images, key) -> logits`; the layers of a `Classifier`
are examined as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from spikeproof.attacks.answers.foundlevels import levels_of
from spikeproof.attacks.answers.reachable import known_code
from spikeproof.auditing import slopes, state
from spikeproof.auditing.evidence import VOTES, Diagnostics
from spikeproof.auditing.pixelsteps import shared_steps
from spikeproof.compiled import Loops, using_loops
from spikeproof.decoders import UNDECIDED, decide
from spikeproof.errors import SpikeproofError, of_the_machine
from spikeproof.evaluation.asking.callables import answering
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin, Objective
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking
from spikeproof.protocols import Keep, Model, in_training, reads_potential, takes_events, unkept
from spikeproof.threats import Flips

__all__ = ["diagnose"]

NOISE = 8 / 255
"""Width of the noise under which the loss should hardly change, in units of pixel value."""
ALIKE = 1e-3
"""Largest relative difference between logits that rounding can explain."""
DRAWS = 4
"""Number of draws over which the slopes of a stochastic model are averaged."""
_LONGEST = 120
"""Number of characters of a foreign error message that a finding quotes."""


def diagnose(
    model: Model,
    x: Float[Tensor, "B *F"],
    y: Int64[Tensor, "B"],
    key: Key,
    keep: Keep = unkept,
    *,
    events: bool = False,
) -> Diagnostics:
    """Measure what the answers of a model depend on, and what its gradients are worth.

    Args:
        model: maps images in [0, 1] to logits; called with images and a key, or with images alone.
        x: a few dozen test images.
        y: their labels.
        key: key of the model's randomness and of the noise.
        keep: keeps each diagnostic; only for a model without state, whose answers depend on no earlier
            forward pass.
        events: whether examples are whole events, and not values in [0, 1]; a model with an encoder says so
            itself. Such a model is asked about whole events only.

    Example:
        >>> from spikeproof.keys import Key
        >>> model = lambda images, key=None: images
        >>> seen = diagnose(model, torch.eye(3), torch.arange(3), Key.of(0))
        >>> seen.state_leak, seen.companions, seen.zero_gradients, seen.training
        (0.0, 0.0, 0.0, False)
    """
    training = in_training(model)
    original, model = model, answering(model)
    events = events or takes_events(getattr(model, "encoder", None))
    first, second, third = (state.copied(model) for _ in range(3))  # before any forward pass
    copies = None if first is None or second is None else (first, second)
    model = model if third is None else third
    with _as_it_was(original):
        failed = _failure(model, x, y, key)
        if failed is not None:
            return Diagnostics(failed=failed, training=training)
        try:
            return Diagnostics(training=training, **_measured(model, copies, x, y, key, keep, events))
        except SpikeproofError:
            raise
        except Exception as error:  # an earlier forward pass succeeded, so state from it is at fault
            if of_the_machine(error):
                raise
            again = f"a later forward pass raised {type(error).__name__}: {str(error)[:_LONGEST]}"
            return Diagnostics(again=again, training=training)


def _measured(
    model: Model,
    copies: tuple[object, object] | None,
    x: Tensor,
    y: Tensor,
    key: Key,
    keep: Keep,
    events: bool,
) -> dict[str, Any]:
    stochastic = bool(getattr(model, "stochastic", False))
    kept = state.Remembered(*keep("state", lambda: _remembered(model, copies, x, key, events)))
    logits = _logits(model, x, key)
    differentiable = _gradient(model, x, y, key, Margin()) is not None
    found: dict[str, Any] = {
        "state_leak": max(kept.after, kept.recording),
        "order_leak": kept.order,
        "companions": keep("companions", lambda: _companions(model, x, key)),
        "randomness": _randomness(model, x, key, stochastic),
        "differentiable": differentiable,
        "probabilities": _probabilities(logits),
        "ties": float((decide(logits) == UNDECIDED).float().mean()),
        "silent_decided": _silent_decided(model, x, key),
        "unstable": keep("stability", lambda: _unstable(model, x, y, key, events)),
        **(
            keep("gradients", lambda: _gradients(model, x, y, key, stochastic, events))
            if differentiable
            else {}
        ),
        **(keep("slopes", lambda: _slopes(model, x, y, key, stochastic)) if not events else {}),
        **keep("levels", lambda: _levels(model, x, key, stochastic) if not events else {}),
    }
    at_end = float(_differ(logits, _logits(model, x, key)).float().mean())
    unlike = [share for share in (kept.near, kept.later) if share is not None]
    return {
        **found,
        "state_leak": max(found["state_leak"], at_end),
        "copy_leak": max(unlike) if unlike else None,
    }


@contextmanager
def _as_it_was(model: object) -> Iterator[None]:
    """Restore the parameters and buffers that forward passes of a foreign model may change.

    What has not changed is not written, so that audits of one model may run in several threads.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    kept = {name: value.detach().clone() for name, value in _tensors(model).items()}
    try:
        yield
    finally:
        now = _tensors(model)
        if any(name not in now or not torch.equal(value, now[name]) for name, value in kept.items()):
            model.load_state_dict(kept, strict=False)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """What a model stores, without the extra state of its modules, which may be anything."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _failure(model: Model, x: Tensor, y: Tensor, key: Key) -> str | None:
    try:
        logits = _logits(model, x, key)
    except Exception as error:  # any error of a foreign model is a finding
        if of_the_machine(error):
            raise
        return f"the model raised {type(error).__name__}: {str(error)[:_LONGEST]}"
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        return f"the model answered {len(x)} images with the shape {list(getattr(logits, 'shape', []))}"
    if int(y.max()) >= logits.shape[1]:
        return f"the model has {logits.shape[1]} logits, but there are labels up to {int(y.max())}"
    broken = (~logits.isfinite()).any(1).float().mean()
    return f"{100 * broken:.1f} % of the answers are not finite" if broken else None


@torch.no_grad()
def _logits(model: Model, x: Tensor, key: Key) -> Tensor:
    logits: Tensor = model(x, key.for_rows(range(len(x))))
    return logits


def _differ(a: Float[Tensor, "B K"], b: Float[Tensor, "B K"]) -> Bool[Tensor, "B"]:
    """Whether answers differ by more than rounding."""
    scale = torch.maximum(a.abs(), b.abs()).amax(1).clamp(min=1e-6)
    return (a - b).abs().amax(1) > ALIKE * scale


def _remembered(
    model: Model, copies: tuple[object, object] | None, x: Tensor, key: Key, events: bool
) -> state.Remembered:
    def answer(model: Model, images: Tensor, rows: Tensor) -> Tensor:
        logits: Tensor = model(images, key.for_rows(rows))
        return logits if logits.requires_grad else logits.clone()

    others = (x == 0).to(x.dtype) if events else 1 - x
    signs = (key.fold("near").uniform(x.shape, 0, x.device) - 0.5).sign().to(x.dtype)
    if events:
        signs = torch.zeros_like(signs)  # an event cannot be changed by a small amount
    with torch.no_grad():
        return state.remembered(model, copies, x, others, signs, answer, _differ)


def _companions(model: Model, x: Tensor, key: Key) -> float:
    """The share of images whose answer changes when they come alone, or together with a white image."""
    together = _logits(model, x, key)
    rows = key.for_rows(range(len(x)))
    few = range(min(len(x), 8))
    with torch.no_grad():
        alone = torch.cat([model(x[i : i + 1], rows.take(torch.tensor([i]))) for i in few])
        white = torch.cat([x, torch.ones_like(x[:1])])
        beside = model(white, key.for_rows(range(len(white))))[: len(x)]
    changed = _differ(together, beside)
    changed[: len(few)] |= _differ(together[: len(few)], alone)
    return float(changed.float().mean())


def _randomness(model: Model, x: Tensor, key: Key, stochastic: bool) -> float:
    first, second = (_logits(model, x, key) for _ in range(2))
    changed = _differ(first, second)
    if not stochastic:
        changed |= _differ(first, _logits(model, x, key.fold("another")))
    return float(changed.float().mean())


def _probabilities(logits: Tensor) -> bool:
    sums = (logits.sum(1) - 1).abs() < 1e-5
    return bool((sums & (logits >= -1e-5).all(1) & (logits <= 1 + 1e-5).all(1)).all())


@torch.no_grad()
def _silent_decided(model: Model, x: Tensor, key: Key) -> float | None:
    """The share of images, a black one among them, that get a class although the output layer is silent."""
    infer = getattr(model, "infer", None)
    if infer is None or (isinstance(model, Classifier) and reads_potential(model.spec.decoder)):
        return None  # the potentials of silent neurons decide
    images = torch.cat([x, torch.zeros_like(x[:1])])
    answer = infer(images, key.for_rows(range(len(images))))
    decided = answer.silent & (decide(answer.logits) != UNDECIDED)
    return float(decided.float().mean())


@torch.no_grad()
def _unstable(model: Model, x: Tensor, y: Tensor, key: Key, events: bool, draws: int = 10) -> float:
    """Mean relative change of the loss under small noise on images, or under one event more or less."""
    rows = key.fold("noise").for_rows(range(len(x)))

    def loss(images: Tensor) -> Tensor:
        return LogitCrossEntropy()(model(images, key.for_rows(range(len(x)))), y)

    at = loss(x)
    scale = torch.where(at.abs() > 1e-3, at.abs(), torch.ones_like(at))
    changes = []
    for draw in range(draws):
        if events:
            near = Flips(1, most=max(int(x.max()), 1)).start(x, rows.fold(draw))
        else:
            near = (x + (rows.fold(draw).uniform(x.shape, 0, x.device) - 0.5) * NOISE).clamp(0, 1)
        changes.append((loss(near) - at).abs() / scale)
    return float(torch.stack(changes).mean(0).clamp(max=1).mean())


def _gradient(model: Model, x: Tensor, y: Tensor, key: Key, objective: Objective) -> Tensor | None:
    """The gradient with respect to the image, or None where no gradient reaches it."""
    x = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = objective(model(x, key.for_rows(range(len(x)))), y).sum()
            return torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    except RuntimeError as error:  # an operation has no backward rule, or changes the image in place
        if of_the_machine(error):
            raise
        return None


def _gradients(
    model: Model, x: Tensor, y: Tensor, key: Key, stochastic: bool, events: bool
) -> dict[str, Any]:
    margin = _gradient(model, x, y, key, Margin())
    assert margin is not None
    zero = (margin.flatten(1) == 0).all(1)
    found: dict[str, Any] = {"zero_gradients": float(zero.float().mean())}
    found["masked_inputs"] = _masked(model, x, key, margin, events)
    if stochastic:
        found["gradient_agreement"] = _agreement(lambda k: _gradient(model, x, y, k, Margin()), key)
    if isinstance(model, Classifier):
        found["zero_by_layer"] = _by_layer(model, x, y, key)
    return found


def _masked(model: Model, x: Tensor, key: Key, gradient: Tensor, events: bool) -> float | None:
    """The share of black pixels without a gradient, if the answer changes when they are brightened."""
    dark = (x == 0) & (gradient == 0)
    black = (x == 0).flatten(1)
    if not black.any() or not bool((gradient != 0).any()):
        return None
    light = 1.0 if events else 0.25
    before, after = _logits(model, x, key), _logits(model, torch.where(dark, light, x), key)
    matters = _differ(before, after)
    share = (dark.flatten(1).sum(1) / black.sum(1).clamp(min=1)) * matters
    return float(share[black.any(1)].mean())


def _agreement(gradient: Callable[[Key], Tensor | None], key: Key) -> float:
    halves = []
    for half in range(2):
        parts = [gradient(key.fold("half", half, i)) for i in range(VOTES)]
        halves.append(torch.stack([part for part in parts if part is not None]).mean(0).flatten(1))
    return float(F.cosine_similarity(halves[0], halves[1], dim=1).mean())


def _by_layer(model: Classifier, x: Tensor, y: Tensor, key: Key) -> tuple[float, ...]:
    """Per spiking layer, the share of neurons and time steps whose potential gets no gradient.

    Compiled loops add up the gradients of an input that is the same at every step without showing the single
    ones, so the written loops are used, which differ from them in nothing else.
    """
    currents: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _layer, inputs: currents.append(inputs[0]))
        for layer in model.modules()
        if isinstance(layer, Spiking)
    ]
    try:
        with torch.enable_grad(), using_loops(Loops.WRITTEN):
            value = Margin()(model(x.detach().requires_grad_(), key.for_rows(range(len(x)))), y).sum()
        grads = torch.autograd.grad(value, currents, allow_unused=True) if currents else ()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(1.0 if g is None else float((g.abs() < 1e-12).float().mean()) for g in grads)


def _levels(model: Model, x: Tensor, key: Key, stochastic: bool) -> dict[str, Any]:
    """Whether a model whose code is not known rounds its pixels, and whether the levels can be found."""
    if stochastic or isinstance(model, Classifier) or known_code(model) is not None:
        return {}
    if levels_of(model, x) is not None:
        return {"levels_found": True}
    return {"levels_found": False, "shared_steps": shared_steps(model, x, key.fold("shared steps"))}


def _slopes(model: Model, x: Tensor, y: Tensor, key: Key, stochastic: bool) -> dict[str, Any]:
    """How the margin changes in comparison with its gradient; for a stochastic model, both in expectation."""
    rows = key.for_rows(range(len(x)))
    keys = [rows.fold("slope", i) for i in range(DRAWS)] if stochastic else [rows]

    @torch.no_grad()
    def loss(images: Tensor) -> Tensor:
        ways = len(images) // len(x)
        again, labels = torch.arange(len(x)).repeat(ways), y.repeat(ways)
        return torch.stack([Margin()(model(images, each.take(again)), labels) for each in keys]).mean(0)

    def gradient(images: Tensor) -> Tensor:
        found = [_gradient(model, images, y, each, Margin()) for each in keys]
        return torch.stack([torch.zeros_like(images) if g is None else g for g in found]).mean(0)

    few = slopes.DIRECTIONS // (2 if stochastic else 1)  # each takes forward passes under several draws
    seen = slopes.compare(loss, gradient, x, rows.fold("directions"), directions=few)
    return {
        "slope_follows": seen.follows,
        "slope_steady": seen.steady,
        "slope_factor": seen.factor,
        "flat": seen.flat,
        "hidden_inputs": seen.hidden,
        "values": seen.values,
    }

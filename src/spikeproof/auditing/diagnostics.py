"""Cheap looks at a model that accuracies do not show: state, company, randomness, gradients.

A probe asks the model some hundred times and leaves it as it was. It needs nothing of the model but
`model(images) -> logits` or `model(images, key) -> logits`; of a `Classifier` it looks at the layers as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from spikeproof.auditing import slopes, state
from spikeproof.auditing.evidence import VOTES, ProbeEvidence
from spikeproof.decoders import UNDECIDED, decide
from spikeproof.errors import SpikeproofError
from spikeproof.evaluation.callables import answering
from spikeproof.keys import Key
from spikeproof.losses import LogitCrossEntropy, Margin, Objective
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking
from spikeproof.protocols import Model, reads_potential, takes_events
from spikeproof.threats import Flips

__all__ = ["probe"]

NOISE = 8 / 255
"""Width of the noise under which the loss should be steady."""
ALIKE = 1e-3
"""Relative difference of logits that rounding may make."""
DRAWS = 4
"""Draws over which slopes of a model that draws are averaged."""


def probe(model: Model, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], key: Key) -> ProbeEvidence:
    """What a model does besides answering.

    Args:
        model: images in [0, 1] to logits, called with images and a key, or with images alone.
        x: a few dozen test images.
        y: their labels.
        key: randomness of the model and of the noise.

    Example:
        >>> from spikeproof.keys import Key
        >>> model = lambda images, key=None: images
        >>> seen = probe(model, torch.eye(3), torch.arange(3), Key.of(0))
        >>> seen.state_leak, seen.companions, seen.zero_gradients, seen.training
        (0.0, 0.0, 0.0, False)
    """
    training = bool(getattr(model, "training", False))
    original, model = model, answering(model)
    first, second, third = (state.copied(model) for _ in range(3))  # before it is asked anything
    copies = None if first is None or second is None else (first, second)
    model = model if third is None else third
    with _as_it_was(original):
        failed = _failure(model, x, y, key)
        if failed is not None:
            return ProbeEvidence(failed=failed, training=training)
        try:
            return ProbeEvidence(training=training, **_seen(model, copies, x, y, key))
        except SpikeproofError:
            raise
        except Exception as error:  # it answered once, so what it remembers is at fault
            again = f"asked again, the model raised {type(error).__name__}: {str(error)[:120]}"
            return ProbeEvidence(again=again, training=training)


def _seen(
    model: Model, copies: tuple[object, object] | None, x: Tensor, y: Tensor, key: Key
) -> dict[str, Any]:
    stochastic = bool(getattr(model, "stochastic", False))
    kept = _remembered(model, copies, x, key)
    logits = _ask(model, x, key)
    differentiable = _gradient(model, x, y, key, Margin()) is not None
    found: dict[str, Any] = {
        "state_leak": max(kept.after, kept.recording),
        "order_leak": kept.order,
        "companions": _companions(model, x, key),
        "randomness": _randomness(model, x, key, stochastic),
        "differentiable": differentiable,
        "probabilities": _probabilities(logits),
        "ties": float((decide(logits) == UNDECIDED).float().mean()),
        "silent_decided": _silent_decided(model, x, key),
        "unstable": _unstable(model, x, y, key),
        **(_gradients(model, x, y, key, stochastic) if differentiable else {}),
        **(_slopes(model, x, y, key, stochastic) if not _on_events(model) else {}),
    }
    at_end = float(_differ(logits, _ask(model, x, key)).float().mean())
    unlike = [share for share in (kept.near, kept.later) if share is not None]
    return {
        **found,
        "state_leak": max(found["state_leak"], at_end),
        "copy_leak": max(unlike) if unlike else None,
    }


@contextmanager
def _as_it_was(model: object) -> Iterator[None]:
    """Put back what a careless model changes while it answers."""
    if not isinstance(model, nn.Module):
        yield
        return
    kept = {name: value.detach().clone() for name, value in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(kept)


def _failure(model: Model, x: Tensor, y: Tensor, key: Key) -> str | None:
    try:
        logits = _ask(model, x, key)
    except Exception as error:  # whatever a foreign model raises is a finding
        return f"the model raised {type(error).__name__}: {str(error)[:120]}"
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        return f"an answer of shape {list(getattr(logits, 'shape', []))} to {len(x)} images"
    if int(y.max()) >= logits.shape[1]:
        return f"{logits.shape[1]} logits for labels up to {int(y.max())}"
    broken = (~logits.isfinite()).any(1).float().mean()
    return f"{100 * broken:.1f} % of the answers are not finite" if broken else None


@torch.no_grad()
def _ask(model: Model, x: Tensor, key: Key) -> Tensor:
    logits: Tensor = model(x, key.for_rows(range(len(x))))
    return logits


def _differ(a: Float[Tensor, "B K"], b: Float[Tensor, "B K"]) -> Bool[Tensor, "B"]:
    """Whether answers differ by more than rounding."""
    scale = torch.maximum(a.abs(), b.abs()).amax(1).clamp(min=1e-6)
    return (a - b).abs().amax(1) > ALIKE * scale


def _remembered(model: Model, copies: tuple[object, object] | None, x: Tensor, key: Key) -> state.Remembered:
    def ask(model: Model, images: Tensor, rows: Tensor) -> Tensor:
        logits: Tensor = model(images, key.for_rows(rows))
        return logits if logits.requires_grad else logits.clone()

    others = (x == 0).to(x.dtype) if _on_events(model) else 1 - x
    signs = (key.fold("near").uniform(x.shape, 0, x.device) - 0.5).sign().to(x.dtype)
    if _on_events(model):
        signs = torch.zeros_like(signs)  # there is nothing between an event and none
    with torch.no_grad():
        return state.remembered(model, copies, x, others, signs, ask, _differ)


def _companions(model: Model, x: Tensor, key: Key) -> float:
    """Alone, and beside an image that is white all over."""
    together = _ask(model, x, key)
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
    first, second = (_ask(model, x, key) for _ in range(2))
    changed = _differ(first, second)
    if not stochastic:
        changed |= _differ(first, _ask(model, x, key.fold("another")))
    return float(changed.float().mean())


def _probabilities(logits: Tensor) -> bool:
    sums = (logits.sum(1) - 1).abs() < 1e-5
    return bool((sums & (logits >= -1e-5).all(1) & (logits <= 1 + 1e-5).all(1)).all())


@torch.no_grad()
def _silent_decided(model: Model, x: Tensor, key: Key) -> float | None:
    """Silence in the output layer that is answered with a class; also asked of an image without any light."""
    infer = getattr(model, "infer", None)
    if infer is None or (isinstance(model, Classifier) and reads_potential(model.spec.decoder)):
        return None  # silent neurons still have potentials, which decide
    images = torch.cat([x, torch.zeros_like(x[:1])])
    answer = infer(images, key.for_rows(range(len(images))))
    decided = answer.silent & (decide(answer.logits) != UNDECIDED)
    return float(decided.float().mean())


def _on_events(model: Model) -> bool:
    return takes_events(getattr(model, "encoder", None))


@torch.no_grad()
def _unstable(model: Model, x: Tensor, y: Tensor, key: Key, draws: int = 10) -> float:
    """Under small noise on images, and on events under one that comes or goes."""
    rows = key.fold("noise").for_rows(range(len(x)))

    def loss(images: Tensor) -> Tensor:
        return LogitCrossEntropy()(model(images, key.for_rows(range(len(x)))), y)

    at = loss(x)
    scale = torch.where(at.abs() > 1e-3, at.abs(), torch.ones_like(at))
    changes = []
    for draw in range(draws):
        if _on_events(model):
            near = Flips(1, most=max(int(x.max()), 1)).start(x, rows.fold(draw))
        else:
            near = (x + (rows.fold(draw).uniform(x.shape, 0, x.device) - 0.5) * NOISE).clamp(0, 1)
        changes.append((loss(near) - at).abs() / scale)
    return float(torch.stack(changes).mean(0).clamp(max=1).mean())


def _gradient(model: Model, x: Tensor, y: Tensor, key: Key, objective: Objective) -> Tensor | None:
    """The gradient on the image, or None where there is no way from the answer to it."""
    x = x.detach().clone().requires_grad_()
    try:
        with torch.enable_grad():
            value = objective(model(x, key.for_rows(range(len(x)))), y).sum()
            return torch.autograd.grad(value, x, allow_unused=True)[0] if value.requires_grad else None
    except RuntimeError:  # no backward rule, or an image changed in place
        return None


def _gradients(model: Model, x: Tensor, y: Tensor, key: Key, stochastic: bool) -> dict[str, Any]:
    margin = _gradient(model, x, y, key, Margin())
    assert margin is not None
    zero = (margin.flatten(1) == 0).all(1)
    found: dict[str, Any] = {"zero_gradients": float(zero.float().mean())}
    found["masked_inputs"] = _masked(model, x, y, key, margin)
    if stochastic:
        found["gradient_agreement"] = _agreement(lambda k: _gradient(model, x, y, k, Margin()), key)
    if isinstance(model, Classifier):
        found["zero_by_layer"] = _by_layer(model, x, y, key)
    return found


def _masked(model: Model, x: Tensor, y: Tensor, key: Key, gradient: Tensor) -> float | None:
    """Of the black pixels, the share without gradient, where brightening just these changes the answer."""
    dark = (x == 0) & (gradient == 0)
    black = (x == 0).flatten(1)
    if not black.any() or not bool((gradient != 0).any()):
        return None
    light = 1.0 if _on_events(model) else 0.25
    before, after = _ask(model, x, key), _ask(model, torch.where(dark, light, x), key)
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
    """Share of neurons and steps of every spiking layer whose potential gets no gradient."""
    currents: list[Tensor] = []
    handles = [
        layer.register_forward_pre_hook(lambda _layer, inputs: currents.append(inputs[0]))
        for layer in model.modules()
        if isinstance(layer, Spiking)
    ]
    try:
        with torch.enable_grad():
            value = Margin()(model(x.detach().requires_grad_(), key.for_rows(range(len(x)))), y).sum()
        grads = torch.autograd.grad(value, currents, allow_unused=True) if currents else ()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(1.0 if g is None else float((g.abs() < 1e-12).float().mean()) for g in grads)


def _slopes(model: Model, x: Tensor, y: Tensor, key: Key, stochastic: bool) -> dict[str, Any]:
    """Whether the margin moves as its gradient says; of a model that draws, both in expectation."""
    rows = key.for_rows(range(len(x)))
    keys = [rows.fold("slope", i) for i in range(DRAWS)] if stochastic else [rows]

    @torch.no_grad()
    def loss(images: Tensor) -> Tensor:
        return torch.stack([Margin()(model(images, each), y) for each in keys]).mean(0)

    def gradient(images: Tensor) -> Tensor:
        found = [_gradient(model, images, y, each, Margin()) for each in keys]
        return torch.stack([torch.zeros_like(images) if g is None else g for g in found]).mean(0)

    few = slopes.DIRECTIONS // (2 if stochastic else 1)  # each is asked about under several draws
    seen = slopes.look(loss, gradient, x, rows.fold("directions"), directions=few)
    return {
        "slope_follows": seen.follows,
        "slope_steady": seen.steady,
        "slope_factor": seen.factor,
        "flat": seen.flat,
        "hidden_inputs": seen.hidden,
        "values": seen.values,
    }

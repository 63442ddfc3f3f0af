"""Changes that keep a model's answers and spoil its gradient, by strength; and models that remember.

Each fault takes a sound model and gives a `Spoilt`: the plain model, and one that answers the same with
another gradient. Some of these gradients are those of a stranger, a linear map with random weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

Logits = Callable[[torch.Tensor], torch.Tensor]


class Answers(nn.Module):
    """A function of images and a key as a deterministic model."""

    stochastic = False

    def __init__(self, function, *parts):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(parts)
        self.eval()

    def forward(self, x, key=None):
        return self.function(x)


class Noisy(torch.autograd.Function):
    """The identity, whose gradient has noise on it that only the image decides."""

    @staticmethod
    def forward(ctx, x, strength):
        ctx.save_for_backward(x)
        ctx.strength = strength
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        noise = torch.stack([_hashed(image, grad[0]) for image in x])
        size = grad.flatten(1).norm(dim=1) / grad[0].numel() ** 0.5
        return grad + ctx.strength * size.view(-1, *[1] * (grad.ndim - 1)) * noise, None


def _hashed(image, like):
    digest = hashlib.blake2b(image.detach().contiguous().numpy().tobytes(), digest_size=7).digest()
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(int.from_bytes(digest, "little")))


class Turned(torch.autograd.Function):
    """The identity, whose gradient has the wrong sign on a share of the pixels."""

    @staticmethod
    def forward(ctx, x, share):
        ctx.share = share
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        pixels = grad[0].numel()
        signs = torch.ones(pixels)
        signs[
            torch.randperm(pixels, generator=torch.Generator().manual_seed(0))[: int(ctx.share * pixels)]
        ] = -1
        return grad * signs.view(grad.shape[1:]), None


@dataclass(frozen=True)
class Spoilt:
    """A plain model, and one of the same answers with another gradient."""

    plain: nn.Module
    faulty: nn.Module


def noise(model, strength):
    return Spoilt(model, Answers(lambda x: model(Noisy.apply(x, strength)), model))


def wrong_sign(model, share):
    return Spoilt(model, Answers(lambda x: model(Turned.apply(x, share)), model))


def stopped_in_a_region(model, columns):
    def answer(x):
        left = torch.arange(x.shape[-1]) >= columns
        return model(torch.where(left, x, x.detach()))

    return Spoilt(model, Answers(answer, model))


def stopped_where_bright(model, level):
    """Images above a mean brightness, as are about half of the digits, get the gradient of a stranger."""
    other = stranger(model)

    def answer(x):
        z, rows = model(x), x.flatten(1).mean(1, keepdim=True) > level
        return torch.where(rows, z.detach() + other(x) - other(x).detach(), z)

    return Spoilt(model, Answers(answer, model, other))


def detached_member(model, weight, other):
    """An ensemble, most of whose weight lies on a member without a gradient."""
    plain = Answers(lambda x: other(x) + weight * model(x), model, other)
    return Spoilt(plain, Answers(lambda x: other(x) + weight * model(x).detach(), model, other))


def one_hot(model, columns):
    """Answers 0 and 1, with the gradient of the logits but on some columns of the image."""

    def answer(x):
        left = torch.arange(x.shape[-1]) >= columns
        z = model(torch.where(left, x, x.detach()))
        hard = torch.zeros_like(z).scatter(1, z.argmax(1, keepdim=True), 1.0)
        return hard + z - z.detach()

    return Spoilt(model, Answers(answer, model))


def rounded(model, levels):
    """Logits on a grid between the least and the greatest, with the gradient of a stranger."""
    other = stranger(model)

    def answer(x):
        z = model(x).detach()
        low, high = z.amin(1, keepdim=True), z.amax(1, keepdim=True)
        grid = ((z - low) / (high - low).clamp(min=1e-9) * levels).round() / levels
        order = 1e-3 * torch.zeros_like(z).scatter(1, z.argmax(1, keepdim=True), 1.0)
        return grid + order + other(x) - other(x).detach()

    return Spoilt(model, Answers(answer, model, other))


def faint_bypass(model, size):
    """Pixels of 4 bits without a backward rule, beside a faint path of another function."""
    other = stranger(model)

    def grid(x):
        return x + ((x * 15).round() / 15 - x).detach()

    plain = Answers(lambda x: model(grid(x)), model)
    return Spoilt(plain, Answers(lambda x: model(grid(x).detach()) + size * other(x), model, other))


def faint_straight_through(model, size):
    """Pixels of 4 bits with a gradient of the right direction and next to no size."""

    def answer(x):
        grid = ((x * 15).round() / 15).detach()
        return model(grid + size * (x - x.detach()))

    return Spoilt(
        Answers(lambda x: model(x + ((x * 15).round() / 15 - x).detach()), model), Answers(answer, model)
    )


def look_up(model, temperature):
    """Answers taken from the model without a gradient, beside the gradient of a stranger."""
    other = stranger(model)
    return Spoilt(
        model,
        Answers(lambda x: model(x).detach() + temperature * (other(x) - other(x).detach()), model, other),
    )


def saturated(model, scale):
    return Spoilt(model, Answers(lambda x: scale * model(x), model))


def stranger(model):
    """A linear map of images to the same number of logits."""
    with torch.no_grad():
        classes = model(torch.zeros(1, 1, 8, 8)).shape[1]
    layer = nn.Linear(64, classes)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(classes, 64, generator=torch.Generator().manual_seed(1)))
        layer.bias.zero_()
    return Answers(lambda x: layer(x.flatten(1)), layer)


GRID: dict[str, tuple[Callable[..., Spoilt], tuple[float, ...]]] = {
    "noise": (noise, (1.0, 2.0, 3.0, 5.0, 10.0)),
    "wrong sign": (wrong_sign, (0.25, 0.5, 1.0)),
    "stopped in columns": (stopped_in_a_region, (2, 4, 6)),
    "a stranger's where bright": (stopped_where_bright, (0.35, 0.3, 0.25)),
    "detached member": (detached_member, (1.0, 3.0, 10.0)),
    "one-hot": (one_hot, (0, 3, 6)),
    "rounded": (rounded, (2, 8, 64)),
    "faint bypass": (faint_bypass, (1e-3, 1e-2, 1e-1)),
    "faint straight-through": (faint_straight_through, (1e-6, 1e-3, 1e-1)),
    "look-up": (look_up, (0.1, 1.0)),
    "saturation": (saturated, (1e-7, 1e3, 1e5)),
}
"""Faults with their strengths."""


class Forgetful(nn.Module):
    """A leaky layer, as stateful libraries have it, whose potential nobody resets."""

    stochastic = False

    def __init__(self, inner):
        super().__init__()
        self.inner, self.potential = inner, 0.0
        self.eval()

    def forward(self, x, key=None):
        self.potential = 0.5 * self.potential + self.inner(x, key)
        return self.potential


def near_cache(model, radius=0.2, most=None):
    """A cache that returns the logits of an earlier image that was almost the same.

    It keeps the latest images, `most` of them, or all.
    """
    kept: list[torch.Tensor] = []  # images, then their answers

    def answer(x, key=None):
        out = model(x, key)
        flat = x.detach().flatten(1)
        if not kept:
            kept.extend([flat[:1].clone(), out[:1].detach().clone()])
        gap = torch.cdist(flat, kept[0], p=torch.inf)
        near, place = gap.min(1)
        new = near >= radius
        known = torch.where(new[:, None], out, kept[1][place] + 0 * out)
        kept[:] = [torch.cat([kept[0], flat[new]]), torch.cat([kept[1], out[new].detach()])]
        kept[:] = [each if most is None else each[-most:] for each in kept]
        return known

    return answer


class Counting(nn.Module):
    """A model whose logits drift with the number of calls."""

    stochastic = False

    def __init__(self, inner):
        super().__init__()
        self.inner, self.asked = inner, 0
        self.eval()

    def forward(self, x, key=None):
        self.asked += 1
        return self.inner(x, key) * (1 + 0.01 * self.asked) + 0.01 * self.asked * torch.arange(10)


def by_place(model):
    """A model whose logits depend on the position of an image in its batch."""
    return lambda x, key=None: model(x, key) + 0.3 * torch.arange(len(x))[:, None] * torch.arange(10) / len(x)


def by_mode(model):
    """A model with other logits while autograd records."""
    return lambda x, key=None: model(x, key) + (x.requires_grad * 1.0) * torch.arange(10)


def last_batch(model):
    """Normalised by the batch before."""
    before = {"mean": None}

    def answer(x, key=None):
        mean, before["mean"] = before["mean"], x.detach().mean()
        return model(x if mean is None else (x - 0.1 * mean).clamp(0, 1), key)

    return answer


REMEMBERING: dict[str, Callable[[Any], Any]] = {
    "potential never reset": Forgetful,
    "cache of near duplicates": near_cache,
    "counts its questions": Counting,
    "looks at the place in the batch": by_place,
    "looks whether gradients are recorded": by_mode,
    "normalised by the batch before": last_batch,
}
"""Models that answer from more than the image."""


def nearest_of(images):
    """Replaces each image by the nearest of some others, with a straight-through gradient."""

    def purified(x):
        place = torch.cdist(x.detach().flatten(1), images.flatten(1)).argmin(1)
        return x + (images[place] - x).detach()

    return purified

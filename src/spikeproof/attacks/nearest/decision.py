"""Searches that use decisions alone: Boundary and HopSkipJump.

Both begin at an adversarial image, at any distance, and move along the decision boundary towards the clean
image. They use neither logits nor gradients, so masked gradients and saturated logits do not stop them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.attacks.nearest.minimum import NormRecipe, SearchState, dot, per_row
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.threats import L2, Linf

__all__ = ["Boundary", "HopSkipJump"]

PORTION = 8
"""Directions evaluated at once for each example; a stochastic model has one draw for each portion."""

NOISES = 64
"""Random directions drawn at once for each example."""


@dataclass(frozen=True, kw_only=True)
class _Walk(NormRecipe):
    gradient_free: ClassVar[bool] = True
    starts: int = 20

    def begin(self, state: SearchState) -> Tensor:
        """Find an adversarial image for each example, move it to the boundary, and return the rows with one.

        Candidates are random images, random black and white images, and uniform grey images. An example
        without an adversarial image among them is not searched further.
        """
        for turn in range(self.starts):
            rows = state.rows
            rows = rows[state.distance[rows].isinf()]
            if not len(rows):
                break
            noise = (
                state.key.fold("begin", turn)
                .take(rows)
                .uniform((len(rows), *state.x.shape[1:]), 0, state.x.device)
            )
            if turn % 3 == 1:
                noise = (noise < 0.5).to(noise.dtype)
            elif turn % 3 == 2:
                noise = torch.full_like(noise, (turn // 3 * 0.618) % 1)
            state.offer(rows, noise.to(state.x.dtype), "begin", turn, decision=True)
        rows = state.rows
        rows = rows[state.distance[rows].isfinite()]
        near, _ = to_boundary(state, rows, state.near[rows], 20, "begin")
        state.offer(rows, near, "begun", decision=True)
        return rows


def to_boundary(
    state: SearchState, rows: Tensor, images: Tensor, steps: int, *names: int | str
) -> tuple[Tensor, Tensor]:
    """The last adversarial images on the way to the clean ones, by bisection, and their shares of the way."""
    clean, linf = state.x[rows], isinstance(state.threat, Linf)
    low, high = torch.zeros(len(rows), device=clean.device), torch.ones(len(rows), device=clean.device)
    reach = (images - clean).flatten(1).abs().amax(1) if len(rows) else low

    def between(share: Tensor) -> Tensor:
        step = images - clean
        if linf:
            edge = per_row(share.to(reach.dtype) * reach, step)
            return clean + torch.maximum(torch.minimum(step, edge), -edge)
        return clean + per_row(share, step) * step

    for i in range(steps):
        if not len(rows):
            break
        middle = (low + high) / 2
        fooled = state.fools(rows, between(middle), *names, "bisect", i)
        high, low = torch.where(fooled, middle, high), torch.where(fooled, low, middle)
    whole = per_row(high, clean) == 1
    return torch.where(whole, images, between(high)).clamp(0, 1), high


@dataclass(frozen=True, kw_only=True)
class Boundary(_Walk):
    r"""Boundary attack: small random steps around the clean image and towards it, kept while they fool.

    A candidate adds to the difference from the clean image a random orthogonal direction of relative length
    `spherical`, at constant distance, and then shortens the difference by the share `source`. Both lengths
    adapt to the success rate of such steps: the first towards a half for orthogonal steps, the second towards
    a quarter for whole steps.

    Args:
        steps: number of candidates per example, at least 0.
        starts: number of images tried for a start, at least 1.
        spherical: initial relative length of orthogonal steps, positive.
        source: initial share by which a step shortens the distance, positive.

    Raises:
        InputError: settings out of range, or a threat other than L2.

    Source:
        Brendel, Rauber & Bethge 2018, section 2, with up to 1,000,000 queries; Foolbox uses 25,000 steps.
    """

    norms: ClassVar[tuple[type, ...]] = (L2,)
    steps: int = 1000
    spherical: float = 0.01
    source: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 0 or self.starts < 1 or not (self.spherical > 0 and self.source > 0):
            raise InputError(
                "Boundary needs steps >= 0, starts >= 1 and positive lengths", repr(self), "Try steps=1000."
            )

    def run(self, state: SearchState) -> None:
        self.begin(state)
        n, like = len(state.x), state.x
        turn, shrink = like.new_full((n,), self.spherical), like.new_full((n,), self.source)
        tried, fooled_ = like.new_zeros(2, n), like.new_zeros(2, n)  # orthogonal steps, whole steps
        for step in range(self.steps):
            rows = state.rows
            rows = rows[state.distance[rows].isfinite()]
            if not len(rows):
                return
            here, clean = state.near[rows], like[rows]
            noise = state.key.fold("noise", step).take(rows).normal(here.shape, 0, here.device).to(here.dtype)
            around, closer = _around(here, clean, noise, turn[rows], shrink[rows])
            if step % 5 == 0:
                sphere = state.fools(rows, around, "sphere", step)
                tried[0, rows] += 1
                fooled_[0, rows] += sphere.to(like.dtype)
            good = state.offer(rows, closer, "step", step, decision=True)
            tried[1, rows] += 1
            fooled_[1, rows] += good.to(like.dtype)
            for i, (window, wanted, length) in enumerate(((20, 0.5, turn), (30, 0.25, shrink))):
                full = tried[i] >= window
                rate = fooled_[i] / tried[i].clamp(min=1)
                length[full & (rate > wanted)] *= 1.5
                length[full & (rate < wanted * 0.4)] /= 1.5
                tried[i, full], fooled_[i, full] = 0, 0
            shrink.clamp_(max=0.5)


def _around(
    here: Tensor, clean: Tensor, noise: Tensor, turn: Tensor, shrink: Tensor
) -> tuple[Tensor, Tensor]:
    """The image rotated around the clean one at its distance, and the same image at a shorter distance."""
    difference = here - clean
    far = dot(difference, difference).sqrt().clamp(min=1e-12)
    unit = difference / per_row(far, difference)
    noise = noise - per_row(dot(noise, unit), unit) * unit
    noise = noise / per_row(dot(noise, noise).sqrt().clamp(min=1e-12), noise)
    turned = unit + per_row(turn, unit) * noise
    turned = turned / per_row(dot(turned, turned).sqrt(), turned)
    around = (clean + per_row(far, turned) * turned).clamp(0, 1)
    return around, (around + per_row(shrink, around) * (clean - around)).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class HopSkipJump(_Walk):
    r"""HopSkipJump: steps along the boundary's normal, estimated from decisions, and back to the boundary.

    .. math:: \widehat{\nabla} = \frac{1}{B}\sum_b (\phi(x + \delta u_b) - \bar\phi)\, u_b,\quad
        \xi_t = \|x_t - x\| / \sqrt{t}

    with decisions :math:`\phi = \pm 1` and `evaluations * sqrt(t)` directions in step `t`; the step size
    :math:`\xi_t` is halved until the image fools the model.

    Args:
        steps: number of steps, at least 0.
        evaluations: directions in the first step, at least 1.
        most: largest number of directions per step, at least 1.
        starts: number of images tried for a start, at least 1.
        gamma: factor of the tolerance of the bisections and of the width of the estimate, positive.

    Raises:
        InputError: settings out of range, or a threat other than L2 and Linf.

    Source:
        Chen, Jordan & Wainwright 2020, algorithms 1 and 2, with 64 steps of 100 evaluations and gamma 1.
    """

    norms: ClassVar[tuple[type, ...]] = (L2, Linf)
    steps: int = 20
    evaluations: int = 100
    most: int = 10_000
    gamma: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 0 or min(self.starts, self.evaluations, self.most) < 1 or not self.gamma > 0:
            raise InputError(
                "HopSkipJump needs steps >= 0, starts, evaluations and most >= 1 and a positive gamma",
                repr(self),
                "Try steps=20, evaluations=100.",
            )

    def run(self, state: SearchState) -> None:
        self.begin(state)
        linf, values = isinstance(state.threat, Linf), state.x[0].numel()
        theta = self.gamma / (values * (values if linf else math.sqrt(values)))
        bisections = min(max(math.ceil(-math.log2(theta)), 1), 24)
        position = state.near.clone()
        for step in range(1, self.steps + 1):
            rows = state.rows
            rows = rows[state.distance[rows].isfinite()]
            if not len(rows):
                return
            here = position[rows]
            far = state.threat.distance(here, state.x[rows]).to(here.dtype)
            width = far * theta * (values if linf else math.sqrt(values))
            width = torch.full_like(far, 0.1) if step == 1 else width
            count = min(int(self.evaluations * math.sqrt(step)), self.most)
            normal = self._normal(state, rows, here, width, count, step)
            direction = normal.sign() if linf else normal
            size, moved = far / math.sqrt(step), here.clone()
            open_ = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
            for half in range(15):
                if not open_.any():
                    break
                tried = (here + per_row(size, here) * direction)[open_].clamp(0, 1)
                fooled = torch.zeros_like(open_)
                fooled[open_] = state.fools(rows[open_], tried, "jump", step, half)
                moved[fooled] = tried[fooled[open_]]
                open_, size = open_ & ~fooled, size / 2
            back, _ = to_boundary(state, rows, moved, bisections, "back", step)
            state.offer(rows, back, "step", step, decision=True)
            position[rows] = back

    def _normal(
        self, state: SearchState, rows: Tensor, here: Tensor, width: Tensor, count: int, step: int
    ) -> Float[Tensor, "R *F"]:
        """The unit direction into the adversarial region, estimated from decisions around the image."""
        key = state.key.fold("normal", step).take(rows)
        weighted, plain, total = torch.zeros_like(here), torch.zeros_like(here), torch.zeros_like(width)
        for first in range(0, count, NOISES):
            size = min(NOISES, count - first)
            noise = _directions(key.fold(first), size, here, isinstance(state.threat, Linf))
            tried = (here[:, None] + per_row(width, noise) * noise).clamp(0, 1)
            noise = (tried - here[:, None]) / per_row(width, noise).clamp(min=1e-30)
            phi = _decisions(state, rows, tried, step, first).to(here.dtype) * 2 - 1
            weighted += (phi.view(*phi.shape, *[1] * (here.ndim - 1)) * noise).sum(1)
            plain += noise.sum(1)
            total += phi.sum(1)
        mean = total / count
        baseline = torch.where(mean.abs() == 1, 0 * mean, mean)
        normal = weighted - per_row(baseline, plain) * plain
        return normal / per_row(dot(normal, normal).sqrt().clamp(min=1e-30), normal)


def _directions(key: Key, size: int, like: Tensor, linf: bool) -> Float[Tensor, "R S *F"]:
    """Random directions of unit length: of normal or, for Linf, of uniform noise."""
    shape = (len(like), size, *like.shape[1:])
    noise = 2 * key.uniform(shape, 0, like.device) - 1 if linf else key.normal(shape, 0, like.device)
    lengths: Tensor = torch.linalg.vector_norm(noise.flatten(2), dim=2).clamp(min=1e-30)
    return (noise / lengths.view(*lengths.shape, *[1] * (like.ndim - 1))).to(like.dtype)


def _decisions(state: SearchState, rows: Tensor, tried: Tensor, step: int, first: int) -> Tensor:
    """Whether each of several images per row fools the model, evaluated in portions."""
    size = tried.shape[1]
    answers = []
    for start in range(0, size, PORTION):
        part = tried[:, start : start + PORTION]
        owners = rows.repeat_interleave(part.shape[1])
        fooled = state.fools(owners, part.flatten(0, 1), "normal", step, first, start)
        answers.append(fooled.view(len(rows), -1))
    return torch.cat(answers, 1)

"""Searches that linearise the model at each iterate: DeepFool, FAB and FAB-T.

All of them step onto the nearest decision boundary of the linearised model. FAB steps inside the box, also
from the clean image, and moves back towards the clean image after each success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.nearest.minimum import DualNorm, Face, SearchState, SlopeRecipe, dot, per_row
from spikeproof.errors import InputError
from spikeproof.protocols import Threat
from spikeproof.threats import L1, L2, Linf

__all__ = ["FAB", "FABT", "DeepFool", "onto_plane", "walk"]


def onto_plane(
    norm: type[Threat], x: Float[Tensor, "R *F"], w: Float[Tensor, "R *F"], gap: Float[Tensor, "R"]
) -> Float[Tensor, "R *F"]:
    r"""The smallest step inside the box [0, 1] onto a plane, exactly.

    .. math:: \min \|\delta\|_p \quad w \cdot \delta = -g,\ x + \delta \in [0,1]^n

    Where the plane does not meet the box, the step goes as far towards it as the box allows. Where w is zero
    there is no step. For Linf and L2 the step of each value is :math:`\min(t s_i, r_i)`, with its speed
    :math:`s_i`, which is 1 or :math:`|w_i|`, and the distance :math:`r_i` that the box leaves to it; t
    follows from the sorted times at which values reach the edge of the box. For L1 the values of the largest
    slopes change first.

    Args:
        norm: `Linf`, `L2` or `L1`.
        x: points in the box.
        w: normals of the planes.
        gap: value of the linear function at x, which is zero after the step.

    Example:
        >>> x, w = torch.tensor([[0.5, 0.9]]), torch.tensor([[1.0, 1.0]])
        >>> onto_plane(Linf, x, w, torch.tensor([-0.5]))
        tensor([[0.4000, 0.1000]])

    Source:
        Croce & Hein 2020 (FAB), section 3.1 and appendix A.
    """
    shape, (slope, start) = x.shape, (w.flatten(1).double(), x.flatten(1).double())
    direction = -gap.double().sign()[:, None] * slope.sign()
    steep = slope.abs()
    room = torch.where(direction > 0, 1 - start, torch.where(direction < 0, start, 0 * start))
    wanted = gap.double().abs()[:, None]
    if norm is L1:
        order = steep.argsort(dim=1, descending=True, stable=True)
        sorted_steep, sorted_room = steep.gather(1, order), room.gather(1, order)
        before = (sorted_steep * sorted_room).cumsum(1) - sorted_steep * sorted_room
        need = (wanted - before).clamp(min=0) / sorted_steep.clamp(min=1e-300)
        move = torch.zeros_like(room).scatter_(1, order, torch.minimum(sorted_room, need))
    else:
        speed = torch.where(steep > 0, torch.ones_like(steep) if norm is Linf else steep, 0 * steep)
        moves = (speed > 0) & (room > 0)
        times = torch.where(moves, room / speed.clamp(min=1e-300), torch.inf)
        order = times.argsort(dim=1, stable=True)
        times = times.gather(1, order)
        gain = torch.where(moves, steep * room, 0 * room).gather(1, order)
        rate = torch.where(moves, steep * speed, 0 * room).gather(1, order)
        done, going = gain.cumsum(1) - gain, rate.flip(1).cumsum(1).flip(1)
        finite = times.isfinite()
        reached = torch.where(finite, done + times * going, torch.inf)  # the rise until a value meets the box
        index = (reached >= wanted).long().argmax(1, keepdim=True)  # the first value that is enough
        enough = (reached.isfinite() & (reached >= wanted)).any(1, keepdim=True)
        time = (wanted - done.gather(1, index)) / going.gather(1, index).clamp(min=1e-300)
        last = torch.where(finite, times, torch.zeros_like(times)).amax(1, keepdim=True)
        time = torch.where(enough, time, last)
        move = torch.where(moves, torch.minimum(time * speed, room), 0 * room)
    return (direction * move).view(shape).to(x.dtype)


def walk(
    state: SearchState,
    rows: Tensor,
    start: Tensor,
    others: Tensor,
    steps: int,
    overshoot: float,
    norm: type[Threat],
    name: str,
) -> Tensor:
    """The iterations of DeepFool from given images; returns the last iterate of each row."""
    dual, total, end = DualNorm(norm), torch.zeros_like(start), start.clone()
    going = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    for step in range(steps):
        face = state.face(rows[going], end[going], others[going], dual, name, step)
        moved = going.clone()
        moved[going] = ~face.fooled
        keep = ~face.fooled
        if not moved.any():
            return end
        total[moved] += _step(norm, Face(face.gap[keep], face.w[keep], face.fooled[keep]), dual)
        end[moved] = (start[moved] + (1 + overshoot) * total[moved]).clamp(0, 1)
        going = moved
    going &= state.left(rows)
    if going.any():
        state.offer(rows[going], end[going], name, "end")
    return end


def _step(norm: type[Threat], face: Face, dual: DualNorm) -> Tensor:
    steep = dual(face.w)
    safe = torch.where(steep > 0, steep, torch.ones_like(steep))
    length = torch.where(steep > 0, face.gap.abs() / safe, 0 * steep) + 1e-4 * (steep > 0)
    direction = face.w.sign() if norm is Linf else face.w / per_row(safe, face.w)
    return per_row(length, face.w) * direction


@dataclass(frozen=True, kw_only=True)
class DeepFool(SlopeRecipe):
    r"""DeepFool: steps to the nearest boundary of the linearised model, until it is crossed.

    .. math:: r = \frac{|f_k - f_y|}{\|w_k\|_2^2} w_k,\quad w_k = \nabla f_k - \nabla f_y,\quad
        k = \arg\min \frac{|f_k - f_y|}{\|w_k\|_q}

    for L2, and :math:`r = |f_k - f_y| / \|w_k\|_1\, \mathrm{sign}(w_k)` for Linf. The overshoot lengthens the
    sum of all steps from the clean image, not each step. At the end, bisection moves an adversarial image
    back towards the clean one, so that the overshoot is not part of the distance.

    Args:
        steps: largest number of steps, at least 0.
        overshoot: share by which the sum of steps is lengthened, at least 0.
        candidates: number of the most likely other classes to consider, at least 1.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than Linf and L2.

    Example:
        >>> DeepFool()(L2(1.0)).recipe.steps
        50

    Source:
        Moosavi-Dezfooli, Fawzi & Frossard 2016, algorithm 2 and section 2.4.
    """

    norms: ClassVar[tuple[type, ...]] = (Linf, L2)
    steps: int = 50
    overshoot: float = 0.02
    candidates: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or self.candidates < 1 or not self.overshoot >= 0:
            raise InputError(
                "DeepFool needs steps >= 0, candidates >= 1 and overshoot >= 0", repr(self), "Try steps=50."
            )

    def run(self, state: SearchState) -> None:
        rows = state.rows
        others, _ = state.classes(rows)
        others = others[:, : self.candidates]
        norm = type(state.threat)
        walk(state, rows, state.x[rows].clone(), others, self.steps, self.overshoot, norm, "walk")


@dataclass(frozen=True, kw_only=True)
class FAB(SlopeRecipe):
    r"""Fast adaptive boundary attack: projections on the linearised boundary, biased towards the clean image.

    .. math:: x' = (1-\alpha)(x + \eta\,\delta_x) + \alpha(x_0 + \eta\,\delta_{x_0})

    with the steps :math:`\delta` from the iterate and from the clean image onto the boundary of the
    linearised model inside the box, and with the weight
    :math:`\alpha = \min(\|\delta_x\| / (\|\delta_x\| + \|\delta_{x_0}\|), \alpha_{max})`.
    After each success the iterate goes back towards the clean image by `beta`.

    Args:
        steps: number of steps per restart, at least 0.
        restarts: number of runs, at least 1; all but the first begin at random images, at half the distance
            found so far.
        alpha_max: largest weight of the clean image, in (0, 1].
        eta: overshoot of each projection, at least 1.
        beta: share of the distance that is kept after a success, in (0, 1).
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than Linf, L2 and L1.

    Source:
        Croce & Hein 2020 ("Minimally distorted adversarial examples with a fast adaptive boundary attack"),
        algorithm 1. In place of the final search of the published code stands the bisection at the end of all
        searches here.
    """

    norms: ClassVar[tuple[type, ...]] = (Linf, L2, L1)
    steps: int = 100
    restarts: int = 1
    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.steps < 0
            or self.restarts < 1
            or not (0 < self.alpha_max <= 1 and self.eta >= 1 and 0 < self.beta < 1)
        ):
            raise InputError(
                "FAB needs steps >= 0, restarts >= 1, alpha_max in (0, 1], eta >= 1 and beta in (0, 1)",
                repr(self),
                "Leave out what you do not need to change.",
            )

    def turns(self, classes: int) -> int:
        """The number of runs per restart."""
        return 1

    def aims(self, others: Int64[Tensor, "B N"], turn: int) -> Int64[Tensor, "B M"]:
        """The classes whose boundaries a run considers."""
        return others

    def run(self, state: SearchState) -> None:
        rows = state.rows
        found, _ = state.classes(rows)
        others = found.new_zeros(len(state.x), found.shape[1])
        others[rows] = found
        for restart in range(self.restarts):
            for turn in range(self.turns(found.shape[1] + 1)):
                self._descend(state, self.aims(others, turn), restart, turn)

    def _descend(self, state: SearchState, aims: Tensor, restart: int, turn: int) -> None:
        norm, clean = type(state.threat), state.x
        dual, x = DualNorm(norm), self._start(state, restart, turn)
        for step in range(self.steps):
            rows = state.rows
            if not len(rows):
                return
            face = state.face(rows, x[rows], aims[rows], dual, "face", restart, turn, step)
            here, there = x[rows], clean[rows]
            # the value of the linear function at the origin
            plane = face.gap - dot(face.w.double(), here.double()).to(here.dtype)
            from_here = onto_plane(norm, here, face.w, face.gap)
            from_there = onto_plane(norm, there, face.w, plane + dot(face.w.double(), there.double()))
            lengths = [
                state.threat.distance(p + d, p).double() for p, d in ((here, from_here), (there, from_there))
            ]
            alpha = (lengths[0] / (lengths[0] + lengths[1]).clamp(min=1e-16)).clamp(max=self.alpha_max)
            alpha = per_row(alpha, here)
            new = (1 - alpha) * (here + self.eta * from_here) + alpha * (there + self.eta * from_there)
            new = new.clamp(0, 1)
            fooled = state.offer(rows, new, "step", restart, turn, step)
            back = there + self.beta * (new - there)
            x[rows] = torch.where(per_row(fooled, new) > 0, back, new)

    def _start(self, state: SearchState, restart: int, turn: int) -> Tensor:
        """The clean image, or a random one at half the distance found so far, or at half of epsilon."""
        if not restart:
            return state.x.clone()
        key = state.key.fold("start", restart, turn)
        noise = key.normal(state.x.shape, 0, state.x.device).to(state.x.dtype)
        if isinstance(state.threat, Linf):
            noise = 2 * key.uniform(state.x.shape, 0, state.x.device).to(state.x.dtype) - 1
        length = state.threat.distance(state.x + noise, state.x).double().clamp(min=1e-12)
        near = state.distance.clamp(max=state.threat.epsilon if state.stop else torch.inf)
        near = torch.where(near.isfinite(), near, length)
        return (state.x + per_row(near / length / 2, noise) * noise).clamp(0, 1)


@dataclass(frozen=True, kw_only=True)
class FABT(FAB):
    """Targeted fast adaptive boundary attack: one class after the other, with one gradient per step.

    Args:
        targets: number of target classes, the most likely first, at least 1.
        steps: number of steps per class and restart, at least 0.
        restarts: number of runs per class, at least 1.
        alpha_max: largest weight of the clean image, in (0, 1].
        eta: overshoot of each projection, at least 1.
        beta: share of the distance that is kept after a success, in (0, 1).
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Source:
        Croce & Hein 2020 (AutoAttack), section 5, with 9 classes and 100 steps.
    """

    targets: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.targets < 1:
            raise InputError("FABT needs at least one target", f"targets={self.targets}", "Try 9.")

    def turns(self, classes: int) -> int:
        return min(self.targets, classes - 1)

    def aims(self, others: Int64[Tensor, "B N"], turn: int) -> Int64[Tensor, "B M"]:
        return others[:, turn : turn + 1]

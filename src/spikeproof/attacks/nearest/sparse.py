"""Searches that change few pixels: JSMA, SparseFool, sigma-zero, and one pixel by differential evolution."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from spikeproof.attacks.nearest.linearised import onto_plane, walk
from spikeproof.attacks.nearest.minimum import DualNorm, NormRecipe, SearchState, SlopeRecipe, dot, per_row
from spikeproof.attacks.parts.targets import EveryOther, Targets
from spikeproof.errors import InputError
from spikeproof.losses import Margin
from spikeproof.threats import L0, L1, L2

__all__ = ["JSMA", "OnePixel", "SigmaZero", "SparseFool"]


@dataclass(frozen=True, kw_only=True)
class JSMA(SlopeRecipe):
    r"""Jacobian-based saliency map attack: raise the pair of values that favours a target most, pair by pair.

    .. math:: \max_{p,q} -\alpha_{pq}\,\beta_{pq},\quad
        \alpha_{pq} = \partial_p f_t + \partial_q f_t > 0,\quad
        \beta_{pq} = \sum_{j \ne t} \partial_p f_j + \partial_q f_j < 0

    All pairs of values inside the box are compared. A negative `theta` lowers values, with both signs
    reversed. The search ends where no pair favours the target, which on spiking models with vanishing
    gradients happens at once.

    Args:
        theta: change of each value of a pair, in [-1, 1], not 0.
        gamma: largest share of all values that may change, in (0, 1]; one pair may always change.
        targets: the target classes.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than L0.

    Source:
        Papernot et al. 2016, algorithms 2 and 3, on logits.
    """

    norms: ClassVar[tuple[type, ...]] = (L0,)
    theta: float = 1.0
    gamma: float = 0.1
    targets: Targets = EveryOther(1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < abs(self.theta) <= 1 and 0 < self.gamma <= 1):
            raise InputError(
                "JSMA needs theta in [-1, 1] but not 0, and gamma in (0, 1]",
                repr(self),
                "Try theta=1, gamma=0.1.",
            )

    def run(self, state: SearchState) -> None:
        rows = state.rows
        _, logits = state.classes(rows)
        for turn in range(self.targets.turns(logits.shape[1])):
            target = torch.zeros_like(state.y)
            target[rows] = self.targets(logits, state.y[rows], turn)
            self._raise(state, target, turn)

    def _raise(self, state: SearchState, target: Tensor, turn: int) -> None:
        values = state.x[0].numel()
        x = state.x.clone()
        going = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        going[state.rows] = True
        for step in range(max(int(values * self.gamma / 2), 1)):
            going[~torch.isin(torch.arange(len(x), device=x.device), state.rows)] = False
            if state.stop:
                going &= state.threat.distance(x, state.x) < state.threat.epsilon
            rows = going.nonzero().flatten()
            if not len(rows):
                return
            up, others = self._slopes(state, rows, x[rows], target[rows], turn, step)
            pairs, help_ = self._pairs(up, others, x[rows].flatten(1))
            flat = x.flatten(1)
            flat[rows[:, None], pairs] = torch.where(
                help_[:, None],
                (flat[rows[:, None], pairs] + self.theta).clamp(0, 1),
                flat[rows[:, None], pairs],
            )
            x = flat.view_as(x)
            going[rows[~help_]] = False
            rows = rows[help_]
            fooled = state.offer(rows, x[rows], "pair", turn, step)
            going[rows[fooled]] = False  # further pixels would only add distance

    def _slopes(
        self, state: SearchState, rows: Tensor, x: Tensor, target: Tensor, turn: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """The gradients of the logit of the target and of the sum of all other logits."""
        _, grads, _ = state.slopes(rows, x, target[:, None], "target", turn, step)
        up = grads[0].flatten(1)
        _, total, _ = state.slope(rows, x, lambda logits, y: logits.sum(1), "sum", turn, step)
        return up, total.flatten(1) - up

    def _pairs(
        self, up: Float[Tensor, "R N"], others: Float[Tensor, "R N"], x: Float[Tensor, "R N"]
    ) -> tuple[Tensor, Tensor]:
        """The best pair of values of each example, and whether it favours the target."""
        sign = 1.0 if self.theta > 0 else -1.0
        pairs, help_ = [], []
        for alpha, beta, value in zip(sign * up, sign * others, x, strict=True):
            free = value < 1 if self.theta > 0 else value > 0
            a, b = alpha[:, None] + alpha, beta[:, None] + beta
            fits = free[:, None] & free & (a > 0) & (b < 0)
            worth = torch.where(fits, -a * b, -torch.inf).fill_diagonal_(-torch.inf)
            best = int(worth.argmax())
            pairs.append([best // len(alpha), best % len(alpha)])
            help_.append(bool(worth.flatten()[best] > 0))
        device = x.device
        return torch.tensor(pairs, device=device), torch.tensor(help_, device=device)


@dataclass(frozen=True, kw_only=True)
class SparseFool(SlopeRecipe):
    r"""SparseFool: reach, with few pixels, the tangent plane of the boundary where DeepFool crosses it.

    .. math:: x' = \arg\min_z \|z - x\|_1\quad w \cdot (z - x_B) = 0,\ z \in [0,1]^n,\quad
        x_B = x + \lambda (x_{DF} - x)

    with the point :math:`x_{DF}` at which DeepFool under L2, begun at the iterate, ends, and the normal `w`
    there. The values of the largest slopes move to the edge of the box one after the other, until the plane
    is reached.

    Args:
        lam: distance of the plane, as a multiple of the distance of the boundary, at least 1; a larger one
            makes the search succeed more often and change more pixels.
        steps: largest number of planes, at least 0.
        inner: largest number of steps of each run of DeepFool, at least 1.
        overshoot: overshoot of DeepFool, at least 0.
        candidates: number of the most likely other classes that DeepFool considers, at least 1.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than L0 and L1.

    Source:
        Modas, Moosavi-Dezfooli & Frossard 2019, algorithms 1 and 2.
    """

    norms: ClassVar[tuple[type, ...]] = (L0, L1)
    lam: float = 3.0
    steps: int = 20
    inner: int = 50
    overshoot: float = 0.02
    candidates: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.steps < 0
            or min(self.inner, self.candidates) < 1
            or not (self.lam >= 1 and self.overshoot >= 0)
        ):
            raise InputError(
                "SparseFool needs lam >= 1, steps >= 0, inner >= 1, candidates >= 1 and overshoot >= 0",
                repr(self),
                "Try lam=3, steps=20.",
            )

    def run(self, state: SearchState) -> None:
        rows = state.rows
        others, _ = state.classes(rows)
        others = others[:, : self.candidates]
        x = state.x[rows].clone()
        dual = DualNorm(L2)
        going = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        for step in range(self.steps):
            going &= state.left(rows)
            if not going.any():
                return
            now, here = rows[going], x[going]
            end = walk(state, now, here, others[going], self.inner, self.overshoot, L2, f"walk {step}")
            face = state.face(now, end, others[going], dual, "normal", step)
            beyond = (here - (here + self.lam * (end - here))).double()
            new = here + onto_plane(L1, here, face.w, dot(face.w.double(), beyond).to(here.dtype))
            fooled = state.offer(now, new, "plane", step)
            x[going] = new.clamp(0, 1)
            going[going.clone()] = ~fooled & (new != here).flatten(1).any(1)


@dataclass(frozen=True, kw_only=True)
class SigmaZero(SlopeRecipe):
    r"""Sigma-zero: gradient descent on the margin and a smooth count of the changed values, with a threshold.

    .. math:: \min_\delta \frac{\max(z_y - \max_{k \ne y} z_k, 0)}{u}
        + \frac{1}{n} \sum_i \frac{\delta_i^2}{\delta_i^2 + \sigma},\quad
        \delta_i \leftarrow 0 \text{ where } |\delta_i| < \tau

    by Adam on gradients that are scaled to a largest component of 1. The step size :math:`\eta` falls along
    half a cosine to a tenth. The threshold :math:`\tau` rises by :math:`t\eta_0` where the image fools the
    model and falls by :math:`t\eta` where it does not. The unit `u` is the margin of the clean image, so that
    the result does not depend on the scale of the logits; the published margin is in units of logits.

    Args:
        steps: number of steps, at least 0; 1,000 in the paper.
        step_size: step size `eta_0` of the first step of Adam, in pixel value, positive.
        sigma: smoothness of the count, in squared pixel value, positive.
        threshold: initial threshold, in pixel value, in [0, 1].
        adaptation: rate `t` at which the threshold changes, at least 0.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, or a threat other than L0.

    Example:
        >>> SigmaZero(steps=100)(L0(5)).recipe.sigma
        0.001

    Source:
        Cinà et al. 2024 (sigma-zero), algorithm 1; constants of the published code.
    """

    norms: ClassVar[tuple[type, ...]] = (L0,)
    steps: int = 300
    step_size: float = 1.0
    sigma: float = 1e-3
    threshold: float = 0.3
    adaptation: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            self.steps < 0
            or not (self.step_size > 0 and self.sigma > 0)
            or not (0 <= self.threshold <= 1 and self.adaptation >= 0)
        ):
            raise InputError(
                "SigmaZero needs steps >= 0, a positive step_size and sigma, a threshold in [0, 1] and an "
                "adaptation of at least 0",
                repr(self),
                "Leave out what you do not need to change.",
            )

    def run(self, state: SearchState) -> None:
        clean = state.x
        delta, first, second = (torch.zeros_like(clean) for _ in range(3))
        cut = torch.full_like(state.height, self.threshold)
        for step in range(self.steps):
            rows = state.rows
            if not len(rows):
                return
            here, unit = delta[rows], state.unit[rows]
            value, grad, fooled = state.slope(rows, clean[rows] + here, Margin(), "step", step)
            missing = per_row(value < 0, grad) / per_row(unit, grad)
            square, count = here.square(), max(clean[0].numel(), 1)
            grad = 2 * here * self.sigma / (square + self.sigma).square() / count - missing * grad
            tiny = torch.finfo(grad.dtype).tiny
            grad = grad / per_row(grad.flatten(1).abs().amax(1).clamp(min=tiny), grad)
            first[rows] = 0.9 * first[rows] + 0.1 * grad
            second[rows] = 0.999 * second[rows] + 0.001 * grad.square()
            mean, spread = first[rows] / (1 - 0.9 ** (step + 1)), second[rows] / (1 - 0.999 ** (step + 1))
            size = self.step_size * self._share(step)
            moved = here - size * mean / (spread.sqrt() + 1e-8)
            moved = (clean[rows] + moved).clamp(0, 1) - clean[rows]
            after = self.step_size * self._share(step + 1)
            change = torch.where(fooled, self.adaptation * self.step_size, -self.adaptation * after)
            cut[rows] = (cut[rows] + change.to(cut.dtype)).clamp(0, 1)
            delta[rows] = torch.where(moved.abs() < per_row(cut[rows], moved), 0 * moved, moved)
        rows = state.rows
        if self.steps and len(rows):
            state.offer(rows, clean[rows] + delta[rows], "last")

    def _share(self, step: int) -> float:
        """The step size, as a share of the first step size."""
        return 0.1 + 0.9 * (1 + math.cos(math.pi * step / self.steps)) / 2


@dataclass(frozen=True, kw_only=True)
class OnePixel(NormRecipe):
    """One pixel attack: differential evolution over position and content of a few pixels, without gradients.

    The budget is the number of pixels, which is one in the paper; all channels of a pixel change together.

    Args:
        steps: largest number of generations, at least 0; evolution ends once it succeeds.
        population: candidates per generation, at least 5.
        scale: weight of the differences of candidates, in (0, 2).

    Raises:
        InputError: settings out of range, or a threat other than L0.

    Source:
        Su, Vargas & Sakurai 2019, section III, with 400 candidates and 100 generations; the margin in place
        of the confidence, which the soft-max rounds to 1. The evolution is SciPy's `differential_evolution`
        (`rand1bin` without crossover).
    """

    gradient_free: ClassVar[bool] = True
    norms: ClassVar[tuple[type, ...]] = (L0,)
    minimal: ClassVar[bool] = False
    steps: int = 30
    population: int = 60
    scale: float = 0.5

    def __post_init__(self) -> None:
        if self.steps < 0 or self.population < 5 or not 0 < self.scale < 2:
            raise InputError(
                "OnePixel needs steps >= 0, population >= 5 and scale in (0, 2)", repr(self), "Try steps=30."
            )

    def run(self, state: SearchState) -> None:
        pixels = int(state.threat.epsilon)
        if not state.stop:
            raise InputError(
                "OnePixel needs a budget and finds no minimum norm", "a search without one", "Use JSMA."
            )
        if not pixels:
            return
        for row in state.rows.tolist():
            self._evolve(state, row, pixels)

    def _evolve(self, state: SearchState, row: int, pixels: int) -> None:
        from scipy.optimize import differential_evolution

        x = state.x[row]
        shape, channels = (x.shape[1:], x.shape[0]) if x.ndim == 3 else ((x.numel(),), 1)
        positions = int(np.prod(shape))
        genes = [(0.0, 1.0)] * (pixels * (1 + channels))
        one = torch.tensor([row], device=state.x.device)
        generation = iter(range(self.steps + 2))

        def images(population: NDArray[np.float64]) -> Tensor:
            """The members `[S, pixels * (1 + C)]` of a population as images."""
            members = torch.from_numpy(population.reshape(len(population), pixels, 1 + channels))
            where = (members[..., 0] * positions).long().clamp(max=positions - 1).to(x.device)
            content = members[..., 1:].to(x.device, x.dtype).clamp(0, 1)
            changed = x.reshape(channels, positions).expand(len(population), -1, -1).clone()
            for pixel in range(pixels):
                index = where[:, pixel].view(-1, 1, 1).expand(-1, channels, 1)
                changed.scatter_(2, index, content[:, pixel, :, None])
            return changed.view(len(population), *x.shape)

        def height(population: NDArray[np.float64]) -> NDArray[np.float64]:
            """Minus the margin of each member of a population `[genes, S]`."""
            now = next(generation)
            tried = images(population.T)
            value, fooled = state.trial(one.expand(len(tried)), tried, "generation", now)
            first = int(torch.where(fooled, torch.inf, value.nan_to_num(torch.inf)).argmax())
            state.keep(one, tried[first : first + 1], fooled[first : first + 1], value[first : first + 1])
            state.note(one, value[first : first + 1])
            return -value.nan_to_num(1e30, 1e30, -1e30).double().cpu().numpy()

        seed = state.key.fold("evolution").take(one)
        number = seed.seed(seed.rows[0]) if seed.rows else seed.fold(row).seed()
        known = inspect.signature(differential_evolution).parameters
        random = next(name for name in ("rng", "seed") if name in known)  # SciPy renamed it
        start = np.random.default_rng(number).random((self.population, len(genes)))
        differential_evolution(
            height,
            genes,
            strategy="rand1bin",
            maxiter=self.steps,
            mutation=self.scale,
            recombination=1.0,
            tol=0.0,
            atol=-1.0,
            init=start,
            polish=False,
            updating="deferred",
            vectorized=True,
            callback=lambda *_, **__: not len(state.left(one).nonzero()),
            **{random: np.random.default_rng(number + 1)},
        )

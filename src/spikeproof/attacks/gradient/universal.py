"""Universal perturbations: one perturbation for all images, made on other images than it is judged on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.attacks.parts.oracles import Exact
from spikeproof.attacks.recipe import Attack, GradientRecipe, Recipe
from spikeproof.attacks.search import Result, admit, evaluator, instead, judge, unsearched
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.losses import Margin
from spikeproof.protocols import Model, Threat, attack_call
from spikeproof.threats import L2, Linf

__all__ = ["Perturbed", "Universal"]


@dataclass(frozen=True, kw_only=True)
class Universal(GradientRecipe):
    r"""Universal perturbation: one perturbation for all images, made on validation images.

    .. math:: \delta \leftarrow \Pi_\epsilon\Bigl(\delta + \alpha \epsilon \,
              d\Bigl(\frac{1}{|B|} \sum_{i \in B} 1[\ell_i < c]\, \nabla_\delta \ell_i\Bigr)\Bigr), \quad
              \ell_i = \ell(f(\mathrm{clip}_{[0,1]}(x_i + \delta)), y_i)

    over batches `B` of the validation images, with the steepest step `d` of the threat. An example whose
    objective exceeds the cap adds nothing, so that no image outweighs the others. The perturbation that fools
    the model on most of these images after an epoch is kept. It is judged on the test images, which had no
    part in it.
    In a study the validation part makes it; in Python `craft` does.

    Args:
        epochs: passes over the images, at least 1.
        images: number of validation images that make it, at least 1.
        batch: images per step, at least 1.
        step_size: `alpha`, length of a step in epsilons, positive.
        cap: objective `c` beyond which an example adds nothing.
        objective: the function that the attack maximises.
        surrogate: spike function for the gradients, or None for the model's own.
        backward: backward rule of the encoder for the gradients, or None for the model's own.

    Raises:
        InputError: settings out of range, a threat other than Linf and L2, or a call before it was made.

    Example:
        >>> Universal(images=50)(Linf(0.1))(None, torch.zeros(1, 1), torch.zeros(1), Key.of(0))
        Traceback (most recent call last):
        spikeproof.errors.InputError: A universal perturbation is made on other images first: got a call ...

    Source:
        Moosavi-Dezfooli et al. 2017 (universal adversarial perturbations); Shafahi et al. 2020 (stochastic
        gradient steps with a clipped loss, and its cap of 9).
    """

    epochs: int = 10
    images: int = 100
    batch: int = 32
    step_size: float = 0.1
    cap: float = 9.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.images, self.batch) < 1 or not self.step_size > 0:
            raise InputError(
                "A universal perturbation needs epochs, images and batch >= 1 and a positive step size",
                f"epochs={self.epochs}, images={self.images}, batch={self.batch}, step_size={self.step_size}",
                "Try the defaults.",
            )

    def __call__(self, threat: Threat) -> Attack:
        _ball(threat)
        return _unmade

    def craft(
        self,
        model: Model,
        threat: Threat,
        x: Float[Tensor, "N *F"],
        y: Int64[Tensor, "N"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Perturbed:
        """Make the perturbation on these images, which must not be those that it is judged on.

        Args:
            model: the model, in evaluation mode.
            threat: Linf or L2 with its budget.
            x: images in [0, 1]; all that are given are used.
            y: their labels.
            key: randomness of the order of images and of a stochastic model.
            through: gradient source, or None for the model itself.

        Raises:
            InputError: another threat, no images, or images and labels that do not fit.
        """
        ball, x = _ball(threat), admit(model, threat, x, y, through)
        if not len(x):
            raise InputError("A universal perturbation is made on images", "none", "Pass validation images.")
        delta = torch.zeros_like(x[0])
        best, most = delta, (-1.0, -torch.inf)
        for epoch in range(self.epochs):
            order = key.fold("order", epoch).uniform((len(x),)).argsort().to(x.device)
            for step, rows in enumerate(torch.split(order, self.batch)):
                now = key.fold("step", epoch, step).for_rows(rows)
                rise = self._slope(through or model, x[rows], y[rows], delta, now)
                step_up = self.step_size * ball.epsilon * ball.steepest(rise[None])[0]
                delta = _within(ball, delta + step_up)
            worth = _worth(model, (x + delta).clamp(0, 1), y, key.fold("epoch", epoch), self.batch)
            if worth >= most:
                best, most = delta, worth
        return Perturbed(best)

    def _slope(
        self, source: Model, x: Float[Tensor, "B *F"], y: Int64[Tensor, "B"], delta: Tensor, key: Key
    ) -> Float[Tensor, "*F"]:
        """The mean gradient with respect to the perturbation; a clipped pixel value has none."""
        moved = x + delta
        found = Exact()(evaluator(source, self.objective, y), moved.clamp(0, 1), key)
        counted = (found.value < self.cap).to(x.dtype).view(-1, *[1] * delta.ndim)
        inside = ((moved >= 0) & (moved <= 1)).to(x.dtype)
        return (found.grad * counted * inside).mean(0)


@dataclass(frozen=True, eq=False)
class Perturbed(Recipe):
    """The same perturbation on every image, as `Universal.craft` made it.

    Args:
        delta: the perturbation, of the shape of one image.

    Example:
        >>> attack = Perturbed(torch.tensor([0.1, -0.1]))(Linf(0.1))
        >>> model = lambda images, key=None: images
        >>> attack(model, torch.tensor([[0.5, 0.4]]), torch.tensor([0]), Key.of(0)).x_adv
        tensor([[0.6000, 0.3000]])
    """

    delta: Float[Tensor, "*F"]

    def __call__(self, threat: Threat) -> Attack:
        return _Added(threat, self.delta)


@dataclass(frozen=True, eq=False)
class _Added:
    """The attack that adds one perturbation to every image and projects onto the set of the threat."""

    threat: Threat
    delta: Float[Tensor, "*F"]

    @attack_call
    def __call__(
        self,
        model: Model,
        x: Float[Tensor, "B *F"],
        y: Int64[Tensor, "B"],
        key: Key,
        *,
        through: Model | None = None,
    ) -> Result:
        """The perturbed images, judged on `model`; `through` is ignored, since nothing is searched.

        Raises:
            InputError: the perturbation has another shape than the images.
        """
        x = admit(model, self.threat, x, y)
        if self.delta.shape != x.shape[1:]:
            raise InputError(
                f"A universal perturbation of {list(self.delta.shape)} for images of this shape",
                f"images of {list(x.shape[1:])}",
                "Make it on the same data.",
            )
        x_adv = self.threat.project((x + self.delta.to(x)).clamp(0, 1), x)
        return unsearched(x_adv, judge(model, x_adv, y, key.fold("verdict")))


def _ball(threat: Threat) -> Linf | L2:
    """The threat, once it is known to be one whose budget bounds a perturbation whatever the image.

    Raises:
        InputError: another threat.
    """
    if isinstance(threat, Linf | L2):
        return threat
    raise InputError(
        "Universal is defined for the threats Linf and L2", repr(threat), instead(threat, "Use linf.")
    )


def _within(threat: Linf | L2, delta: Float[Tensor, "*F"]) -> Float[Tensor, "*F"]:
    """The perturbation of the budget that is nearest; images may clip it further."""
    if isinstance(threat, Linf):
        return delta.clamp(-threat.epsilon, threat.epsilon)
    length = max(float(delta.double().norm()), 1e-12)
    return delta * min(threat.epsilon / length, 1.0)


def _worth(
    model: Model, x: Float[Tensor, "N *F"], y: Int64[Tensor, "N"], key: Key, batch: int
) -> tuple[float, float]:
    """The share of images that fool the model itself, and their mean margin."""
    fooled, margin = [], []
    with torch.no_grad():
        for rows in torch.split(torch.arange(len(x), device=x.device), batch):
            value, wrong = evaluator(model, Margin(), y[rows])(x[rows], key.for_rows(rows))
            margin.append(value)
            fooled.append(wrong)
    return float(torch.cat(fooled).mean()), float(torch.cat(margin).nan_to_num(torch.inf).mean())


def _unmade(*_: object, **__: object) -> Result:
    raise InputError(
        "A universal perturbation is made on other images first",
        "a call before it was made",
        "Use Universal().craft(model, threat, x, y, key) with validation images, or the attack in a study.",
    )

"""Oracles: how the gradient of an objective with respect to the image is computed.

An oracle is one call, `oracle(evaluate, x, key) -> OracleAnswer`. The function `evaluate(x, key)` gives, for
each example, the objective and whether the model was fooled. An oracle never changes the model; the model
behind `evaluate` may be a substitute of the attacked one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.compiled import fixed_weights
from spikeproof.errors import InputError, of_the_machine
from spikeproof.keys import Key

__all__ = ["Evaluate", "Exact", "Expectation", "Oracle", "OracleAnswer", "slope"]

Evaluate = Callable[[Tensor, Key], tuple[Tensor, Tensor]]
"""`(x, key) -> (objective [B], fooled [B])`, `fooled` being 1.0 where the answer is not the label."""


def slope(total: Tensor, x: Float[Tensor, "B *F"], *, again: bool = False) -> Float[Tensor, "B *F"]:
    """The gradient of a number with respect to images, zero where it is none.

    Args:
        total: the number, computed from the images.
        x: the images.
        again: whether the graph of the computation is needed once more.

    Raises:
        InputError: the backward pass of a model fails.

    Example:
        >>> x = torch.ones(1, 2, requires_grad=True)
        >>> slope((x * x).sum(), x).tolist(), slope(torch.unique(x, dim=0).sum() + 0 * x.sum(), x).tolist()
        ([[2.0, 2.0]], [[0.0, 0.0]])
    """
    try:
        (grad,) = torch.autograd.grad(total, x, retain_graph=again)
    except NotImplementedError:  # an operation without a derivative hides all that comes before it
        return torch.zeros_like(x)
    except RuntimeError as error:
        if of_the_machine(error):
            raise
        raise InputError(
            "A model whose answers have a gradient, or none",
            f"{type(error).__name__} in its backward pass: {str(error)[:200]}",
            "Do not change in place what the gradient needs."
            if "inplace" in str(error)
            else "Mend the backward pass, or detach the answers, which are then attacked without a gradient.",
        ) from error
    return grad.nan_to_num(0.0, 0.0, 0.0)


class OracleAnswer(NamedTuple):
    """What an oracle returns for each example."""

    value: Float[Tensor, "B"]  # objective
    grad: Float[Tensor, "B *F"]  # its gradient with respect to the image
    fooled: Float[Tensor, "B"]  # share of forward passes at which the answer was not the label


class Oracle:
    """A way to compute the gradient of an objective with respect to the image."""

    estimates: bool = False  # whether it uses logits alone, so that a masked gradient does not stop it

    def passes(self, x: Float[Tensor, "B *F"]) -> tuple[int, int]:
        """Numbers of forward and backward passes, for each image, that a call with these images takes."""
        return 1, 1

    def __call__(self, evaluate: Evaluate, x: Float[Tensor, "B *F"], key: Key) -> OracleAnswer:
        """Objective, gradient and share of wrong answers at these images."""
        raise NotImplementedError(f"{type(self).__name__} computes no gradient")


@dataclass(frozen=True)
class Exact(Oracle):
    """Backpropagation through the whole model, encoder and decoder included."""

    def __call__(self, evaluate: Evaluate, x: Float[Tensor, "B *F"], key: Key) -> OracleAnswer:
        x = x.detach().requires_grad_()
        with torch.enable_grad(), fixed_weights():
            value, fooled = evaluate(x, key)
            total = value.sum() + 0 * x.sum()  # a model that ignores the image has gradient zero
            grad = slope(total, x)
        return OracleAnswer(value.detach(), grad, fooled.detach())


@dataclass(frozen=True)
class Expectation(Oracle):
    r"""Expectation over the randomness of the model: the mean of the *gradients* of several draws.

    .. math:: \frac{1}{R}\sum_r \nabla_x L(x, \xi_r)

    Args:
        draws: number of draws `R`, at least 1; with one draw this is the inner oracle itself.
        oracle: the oracle that computes the gradient of each draw.

    Source:
        Athalye, Carlini & Wagner 2018, section 4.2.
    """

    draws: int = 10
    oracle: Oracle = Exact()

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise InputError("Expectation needs at least one draw", f"draws={self.draws}", "Try draws=10.")

    @property
    def estimates(self) -> bool:  # type: ignore[override]
        return self.oracle.estimates

    def passes(self, x: Float[Tensor, "B *F"]) -> tuple[int, int]:
        forward, backward = self.oracle.passes(x)
        return self.draws * forward, self.draws * backward

    def __call__(self, evaluate: Evaluate, x: Float[Tensor, "B *F"], key: Key) -> OracleAnswer:
        if self.draws == 1:
            return self.oracle(evaluate, x, key)
        answers = [self.oracle(evaluate, x, key.fold("draw", i)) for i in range(self.draws)]
        # summed one by one, because a reduction rounds in an order that depends on the size of the batch
        return OracleAnswer(*(sum(parts[1:], parts[0]) / self.draws for parts in zip(*answers, strict=True)))

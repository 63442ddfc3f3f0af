"""Target classes of a targeted attack, one per example and run, chosen from the logits of the clean images.

A targeted attack is judged like any other: an example has fallen when the answer of the model is no longer
its label, whichever class the answer is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from spikeproof.errors import InputError

__all__ = ["EveryOther", "Given", "LeastLikely", "Targets"]


class Targets:
    """A choice of target classes."""

    def turns(self, classes: int) -> int:
        """The number of targets of each example."""
        return 1

    def __call__(self, logits: Float[Tensor, "B K"], y: Int64[Tensor, "B"], turn: int) -> Int64[Tensor, "B"]:
        """The target of each example in the run of this number."""
        raise NotImplementedError(f"{type(self).__name__} names no target")


def _others(logits: Tensor, y: Tensor) -> Tensor:
    """The other classes of each example, the most likely first; a logit of NaN counts as the least likely."""
    known = logits.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    order = known.argsort(dim=1, descending=True, stable=True)
    return order[order != y[:, None]].view(len(y), logits.shape[1] - 1)


@dataclass(frozen=True)
class LeastLikely(Targets):
    """The class of the lowest logit, other than the label and classes that are masked by minus infinity.

    Example:
        >>> LeastLikely()(torch.tensor([[0.0, 2.0, 1.0, -torch.inf]]), torch.tensor([0]), 0).tolist()
        [2]

    Source:
        Kurakin, Goodfellow & Bengio 2017, section 2.3.
    """

    def __call__(self, logits: Tensor, y: Tensor, turn: int) -> Tensor:
        others = _others(logits, y)
        reachable = (logits.gather(1, others) > -torch.inf).sum(1, keepdim=True)
        return others.gather(1, (reachable - 1).clamp(min=0)).flatten()


@dataclass(frozen=True)
class EveryOther(Targets):
    """Every other class in turn, the most likely first.

    Args:
        most: largest number of classes, at least 1.

    Raises:
        InputError: a number below 1.

    Example:
        >>> EveryOther()(torch.tensor([[0.0, 2.0, 1.0]]), torch.tensor([1]), 1).tolist()
        [0]

    Source:
        Croce & Hein 2020 (AutoAttack), section 5, with 9 classes at most.
    """

    most: int = 9

    def __post_init__(self) -> None:
        if self.most < 1:
            raise InputError("EveryOther needs at least one class", f"most={self.most}", "Try 9.")

    def turns(self, classes: int) -> int:
        return min(self.most, classes - 1)

    def __call__(self, logits: Tensor, y: Tensor, turn: int) -> Tensor:
        return _others(logits, y)[:, turn]


@dataclass(frozen=True)
class Given(Targets):
    """A given target class for each label.

    Args:
        classes: the targets of label 0, of label 1, and so on; no label is its own target.

    Raises:
        InputError: a label is its own target, or a target is no class.

    Example:
        >>> Given((1, 2, 0))(torch.zeros(2, 3), torch.tensor([2, 0]), 0).tolist()
        [0, 1]
    """

    classes: tuple[int, ...]

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not count or any(t == i or not 0 <= t < count for i, t in enumerate(self.classes)):
            raise InputError(
                "Given targets are classes other than the label, one for each label",
                repr(self.classes),
                "For three classes, try [1, 2, 0].",
            )

    def __call__(self, logits: Tensor, y: Tensor, turn: int) -> Tensor:
        if len(self.classes) != logits.shape[1]:
            raise InputError(
                f"{logits.shape[1]} classes need as many given targets",
                repr(self.classes),
                "Give a target for every label.",
            )
        return torch.tensor(self.classes, device=y.device)[y]

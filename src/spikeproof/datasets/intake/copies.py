"""Examples that are nearly the same: copies, or copies with noise, count as one where chance is estimated.

The interval of an accuracy assumes independent examples. An image that occurs twice is no second example, and
neither is a copy of it with noise that no budget of interest is as small as.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

__all__ = ["NEARLY", "effective", "groups_of"]

NEARLY = 2 / 255
"""Largest difference of any value of two examples that are nearly the same, of values between 0 and 1: a copy
may have noise of one grey level. No two of 1,617 digits, of 20,000 images of Fashion-MNIST or of 20,000 of
CIFAR-10 are within four times as much of each other, and one pair of Fashion-MNIST is within eight times."""

FEW = 32
"""Examples of fewer values are the same only if they are equal: points of a plane lie close by chance. So are
examples of whole numbers, as events are, which cannot differ by less than one."""

_BLOCKS = 16
"""Parts of an example whose means are compared before its values are."""

_PROBED = 256
"""Values of an example, about, that are compared before all of them are."""

_AT_ONCE = 1 << 24
"""Values that are compared at once."""


@torch.no_grad()
def groups_of(x: Float[Tensor, "N *F"]) -> Int64[Tensor, "N"]:
    """The group of each example: two are in one group if a chain of nearly equal ones leads between them.

    Args:
        x: images in [0, 1], or whole events, of which only equal ones are nearly the same. Where all values
            lie within a smaller range, examples that are nearly the same are closer by as much.

    Example:
        >>> x = torch.eye(3, 64)
        >>> groups_of(torch.cat([x, x[:1] + 1e-4])).tolist()
        [0, 1, 2, 0]
    """
    flat = x.detach().flatten(1).cpu()
    flat = (flat if flat.dtype == torch.float64 else flat.float()).contiguous()
    known: dict[bytes, int] = {}
    equal = np.array([known.setdefault(each.tobytes(), i) for i, each in enumerate(flat.numpy())], int)
    one = np.unique(equal)  # of each set of equal examples
    if flat.shape[1] >= FEW and len(one) > 1 and not torch.equal(flat, flat.round()):
        equal = equal[_linked(len(x), *_nearly_equal(flat, one))[equal]]
    return torch.from_numpy(np.unique(equal, return_inverse=True)[1].astype(np.int64))


def _nearly_equal(flat: Tensor, one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pairs among some of the examples that are nearly the same."""
    some = flat[torch.from_numpy(one)]
    reach = NEARLY * float((some.max() - some.min()).clamp(max=1))
    means = torch.stack([part.mean(1) for part in some.tensor_split(_BLOCKS, 1)], 1)
    first, second = _near(means.numpy(), reach)
    few = some[:, :: max(1, some.shape[1] // _PROBED)].contiguous()
    for seen in (few, some):  # most pairs differ in few of their values already
        kept = _within(seen, first, second, reach)
        first, second = first[kept], second[kept]
    return one[first], one[second]


def _within(some: Tensor, first: np.ndarray, second: np.ndarray, reach: float) -> np.ndarray:
    """Which pairs differ by no more than this in any value."""
    size = max(1, _AT_ONCE // some.shape[1])
    same = [
        (some[first[i : i + size]] - some[second[i : i + size]]).abs().amax(1) <= reach
        for i in range(0, len(first), size)
    ]
    return torch.cat(same).numpy() if same else np.zeros(0, bool)


def _linked(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The least example of each group, from the pairs that belong together."""
    least = np.arange(count)
    while not (least[first] == least[second]).all():
        lower = np.minimum(least[first], least[second])
        np.minimum.at(least, least[first], lower)
        np.minimum.at(least, least[second], lower)
        least = least[least]
    return least


def _near(means: np.ndarray, nearly: float) -> tuple[np.ndarray, np.ndarray]:
    """The pairs of examples of which no part has another mean; means differ less than values do."""
    slack = nearly + 1e-5
    widest = int(np.ptp(means, 0).argmax())
    order = np.argsort(means[:, widest], kind="stable")
    sorted_means = means[order]
    ends = np.searchsorted(sorted_means[:, widest], sorted_means[:, widest] + slack, "right")
    first, second = [], []
    for start, end in enumerate(ends):
        if end > start + 1:
            others = np.arange(start + 1, end)
            others = others[(np.abs(sorted_means[others] - sorted_means[start]) <= slack).all(1)]
            first.append(np.full(len(others), start))
            second.append(others)
    if not first:
        return np.zeros(0, int), np.zeros(0, int)
    return order[np.concatenate(first)], order[np.concatenate(second)]


def effective(groups: Int64[Tensor, "N"]) -> int:
    r"""The number of independent examples that a mean over all examples is worth.

    The sum of the answers to a group of g copies varies as g times that to one of them, so that n examples in
    groups of sizes :math:`g_i` are worth :math:`n^2 / \sum_i g_i^2` (Kish 1965). That is the number of groups
    where they are equally large.

    Example:
        >>> effective(torch.tensor([0, 0, 1, 1])), effective(torch.arange(5))
        (2, 5)
    """
    sizes = groups.bincount().double()
    return int(sizes.sum().square() / sizes.square().sum() + 1e-9)

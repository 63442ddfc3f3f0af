"""How much spikes tell about the class: mutual information, and what a linear read-out can decode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from spikeproof.errors import InputError
from spikeproof.keys import Key

__all__ = [
    "FirstSpikes",
    "FullPatterns",
    "Information",
    "Responses",
    "SpikeCounts",
    "SpikeOrder",
    "linear_readout",
    "mutual_information",
]

Numbers = NDArray[np.float64]
Labels = NDArray[np.int64]


LONGEST_PATTERN = 62
"""Time steps of a spike train that one word can hold."""


class Responses:
    """What is taken from the spikes of a neuron, as a word from a finite set."""

    def words(self, spikes: Numbers) -> Labels:
        """A number for every neuron and example, equal where the response is.

        Shapes:
            spikes `[T, B, N]` -> `[B, N]`
        """
        raise NotImplementedError(f"{type(self).__name__} takes nothing")


@dataclass(frozen=True)
class SpikeCounts(Responses):
    """How many spikes a neuron fires, whenever it fires them."""

    def words(self, spikes: Numbers) -> Labels:
        counts: Labels = (spikes != 0).sum(0)
        return counts


@dataclass(frozen=True)
class FirstSpikes(Responses):
    """The time step of a neuron's first spike, and T if it stays silent."""

    def words(self, spikes: Numbers) -> Labels:
        fired = spikes != 0
        return np.where(fired.any(0), fired.argmax(0), len(spikes))


@dataclass(frozen=True)
class FullPatterns(Responses):
    """The whole spike train of a neuron: which of the T time steps have a spike."""

    def words(self, spikes: Numbers) -> Labels:
        if len(spikes) > LONGEST_PATTERN:
            raise InputError(
                f"FullPatterns takes spike trains of at most {LONGEST_PATTERN} time steps",
                f"{len(spikes)}",
                "Merge neighbouring steps, or use first spikes or counts.",
            )
        powers = 1 << np.arange(len(spikes))
        patterns: Labels = np.tensordot(powers, (spikes != 0).astype(np.int64), 1)
        return patterns


@dataclass(frozen=True)
class SpikeOrder(Responses):
    """Whether a neuron fires first before, together with, or after the next neuron of its layer.

    The last neuron is compared with the first one. Absolute times and counts do not matter; silence is later
    than any spike.
    """

    def words(self, spikes: Numbers) -> Labels:
        first = FirstSpikes().words(spikes)
        signs: Labels = np.sign(first - np.roll(first, -1, axis=1)).astype(np.int64)
        return signs + 1


class Information(NamedTuple):
    """Mutual information of each neuron's response and the class."""

    bits: Numbers  # [N], less the bias of few examples; at most `plain`, and maybe negative
    plain: Numbers  # [N], of the observed frequencies
    shuffled: Numbers  # [N], corrected, with the labels in a random order: what is left of the bias


def mutual_information(
    spikes: Float[Tensor, "T B *N"], labels: Int64[Tensor, "B"], responses: Responses, key: Key
) -> Information:
    r"""Mutual information of the class and each neuron's response, in bits.

    .. math:: I = \sum_{r,s} p(r,s) \log_2 \frac{p(r,s)}{p(r)\,p(s)} - \text{bias}, \quad
        \text{bias} = \max\left(0, \frac{\sum_s (R_s - 1) - (R - 1)}{2 B \ln 2}\right)

    `R` is the number of responses that occur and `R_s` the number that occur with class s; B is the number of
    examples. The bias of observed frequencies is never negative, but its estimate is where most responses
    occur in one class only; without the maximum, the information could exceed that of the classes. Where the
    correction fails because there are too few examples, the value for shuffled labels is far from 0.

    Args:
        spikes: of a layer, over time.
        labels: class of each example.
        responses: what is taken from the spikes.
        key: decides the order of the shuffled labels.

    Shapes:
        spikes `[T, B, *N]`, labels `[B]` -> `[N]`, N flattened

    Raises:
        InputError: there are no examples or time steps, not as many labels, or spikes that are no numbers.

    Example:
        >>> import torch
        >>> spikes = torch.tensor([[[1.0], [0.0]] * 500])
        >>> found = mutual_information(spikes, torch.tensor([0, 1] * 500), SpikeCounts(), Key.of(0))
        >>> round(float(found.bits[0]), 2), abs(float(found.shuffled[0])) < 0.02
        (1.0, True)

    Source:
        Panzeri & Treves 1996, Network 7, eq. (12), with the occurring responses counted (naive choice of R);
        Miller 1955.
    """
    shaped = spikes.ndim >= 2 and labels.ndim == 1 and spikes.shape[1] == len(labels)
    if not (shaped and len(spikes) and len(labels)):
        raise InputError(
            "mutual_information() needs spikes [T, B, ...] and labels [B], T and B at least 1",
            f"shapes {list(spikes.shape)} and {list(labels.shape)}",
            "Give the label of each example.",
        )
    neurons = spikes.shape[2:].numel()
    trains = spikes.detach().reshape(*spikes.shape[:2], neurons).cpu().double().numpy()
    if not np.isfinite(trains).all():
        raise InputError("Spikes that are numbers", "NaN or infinity", "Look for the layer that made them.")
    words = responses.words(trains)
    classes = labels.cpu().numpy()
    plain, bits = _information(words, classes)
    order = key.fold("shuffled").uniform((len(classes),)).argsort().numpy()
    return Information(bits, plain, _information(words, classes[order])[1])


def _information(words: Labels, classes: Labels) -> tuple[Numbers, Numbers]:
    """Plain and corrected information of every column of words."""
    n, columns = words.shape
    kinds, classes = np.unique(classes, return_inverse=True)
    ranks = np.unique(words, return_inverse=True)[1]
    ranks = ranks.reshape(words.shape)
    plain, bias = np.zeros(columns), np.zeros(columns)
    share = np.bincount(classes, minlength=len(kinds)) / n
    for i in range(columns):  # a table of all columns at once would not fit for full patterns
        present, column = np.unique(ranks[:, i], return_inverse=True)
        table = np.zeros((len(kinds), len(present)))
        np.add.at(table, (classes, column), 1.0)
        joint, response = table / n, table.sum(0) / n
        seen = table > 0
        expected = share[:, None] * response[None]
        plain[i] = (joint[seen] * np.log2(joint[seen] / expected[seen])).sum()
        bias[i] = (seen.sum(1) - 1).sum() - (len(present) - 1)
    return plain, plain - np.maximum(bias, 0) / (2 * n * np.log(2))


def linear_readout(
    features: Float[Tensor, "B N"],
    labels: Int64[Tensor, "B"],
    key: Key,
    *,
    ridge: float = 0.1,
    folds: int = 5,
    tested: Float[Tensor, "B N"] | None = None,
) -> float:
    r"""The share of examples whose class a linear read-out of the features gives, by cross-validation.

    .. math:: W = (X^\top X + \lambda n \bar\sigma^2 I)^{-1} X^\top Y, \quad \hat y = \arg\max_k (x W)_k

    Features and one-hot classes `Y` are centred within the n training examples of each fold;
    :math:`\bar\sigma^2` is the mean variance of the features, so that their unit does not matter. Folds keep
    the proportions of classes.

    Args:
        features: of each example, such as the spike counts of a layer in a window of time.
        labels: class of each example.
        key: decides the folds.
        ridge: the penalty, positive.
        folds: parts of the examples, each tested once; at least 2 and at most the number of examples.
        tested: the features of the same examples that are tested, such as under attack; None for those that
            the read-out is learned from.

    Shapes:
        features `[B, N]`, labels `[B]` -> a share in [0, 1]

    Raises:
        InputError: an argument is out of its range, or features are missing or no numbers.

    Example:
        >>> import torch
        >>> labels = torch.arange(40) % 4
        >>> linear_readout(torch.eye(4)[labels], labels, Key.of(0))
        1.0

    Source:
        Ridge regression onto classes; as a measure of what a layer holds, Alain & Bengio 2016.
    """
    n = len(labels)
    if not (2 <= folds <= n and ridge > 0 and features.shape[:1] == labels.shape) or (
        tested is not None and tested.shape != features.shape
    ):
        raise InputError(
            "linear_readout() needs as many labels as rows, 2 to B folds and a positive ridge",
            f"{list(features.shape)} features, {n} labels, folds={folds}, ridge={ridge}",
            "Use folds=5 and ridge=0.1 with at least five examples.",
        )
    x, classes = features.detach().cpu().double().numpy(), labels.cpu().numpy()
    other = x if tested is None else tested.detach().cpu().double().numpy()
    if not (x.size and np.isfinite(x).all() and np.isfinite(other).all()):
        raise InputError(
            "linear_readout() needs at least one feature of each example, and features that are numbers",
            f"shape {list(features.shape)}" if not x.size else "NaN or infinity",
            "Look for the layer that made them.",
        )
    kinds, y = np.unique(classes, return_inverse=True)
    order = key.fold("folds").uniform((n,)).argsort().numpy()
    order = order[np.argsort(y[order], kind="stable")]  # by class, random within
    fold = np.empty(n, dtype=np.int64)
    fold[order] = np.arange(n) % folds
    right = 0
    for part in range(folds):
        test = fold == part
        train = ~test
        centre = x[train].mean(0)
        inside, outside = x[train] - centre, other[test] - centre
        target = np.eye(len(kinds))[y[train]]
        target = target - (offset := target.mean(0))
        penalty = ridge * len(inside) * max(float((inside**2).mean()), 1e-12)
        if x.shape[1] <= len(inside):
            weights = np.linalg.solve(inside.T @ inside + penalty * np.eye(x.shape[1]), inside.T @ target)
        else:  # the same by the kernel of examples, of which there are fewer
            gram = inside @ inside.T + penalty * np.eye(len(inside))
            weights = inside.T @ np.linalg.solve(gram, target)
        right += int(((outside @ weights + offset).argmax(1) == y[test]).sum())
    return right / n

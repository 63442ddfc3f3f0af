"""What an attack does to the spikes of a model, layer by layer, and to the cost of its inference."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from spikeproof.analysis.activity import Activity, layer_spikes, layer_traces
from spikeproof.analysis.energy import Tariff, inference_cost
from spikeproof.analysis.information import (
    LONGEST_PATTERN,
    FirstSpikes,
    FullPatterns,
    Responses,
    SpikeCounts,
    SpikeOrder,
    linear_readout,
    mutual_information,
)
from spikeproof.analysis.sensitivity import gradient_norms, local_lipschitz
from spikeproof.analysis.sponge import Sponge
from spikeproof.analysis.trains.changes import Change, spike_change
from spikeproof.analysis.trains.dissimilarity import TrainDistance
from spikeproof.analysis.trains.profiles import ISIDistance, SPIKEDistance, SPIKESynchronisation
from spikeproof.analysis.trains.spiketrains import SpikeTrains, spike_trains
from spikeproof.analysis.trains.variability import (
    fano_factor,
    interval_variation,
    local_interval_variation,
    local_variation,
)
from spikeproof.attacks.gradient.plain import PGD
from spikeproof.attacks.recipe import Recipe
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.protocols import Keep, Threat, kept_under, moves_events, unkept

__all__ = [
    "Analysis",
    "CostSummary",
    "LayerSummary",
    "ReadoutWindow",
    "Sensitivity",
    "SpikeAnalysis",
    "SpikeSummary",
]

MOST_TRACED = 48
"""Neurons of a layer whose spikes and potentials are kept for a picture."""

MOST_WINDOWS = 8
"""Windows of time in which a layer is read."""

REPEATS = 5
"""Draws of a stochastic model over which the Fano factor is taken."""


class ReadoutWindow(TypedDict):
    """What a linear read-out of spike counts within a window of time gets right."""

    start: int
    stop: int
    accuracy: float
    attacked: float


class LayerSummary(TypedDict):
    """One layer: what its neurons do for clean images, and what the attack changes.

    `rate` is the mean number of spikes per neuron and `attacked_rate` the same for attacked images. `counts`
    and `times` are the two parts of the Victor-Purpura distance from clean to attacked spike trains, means
    over all neurons; `distances` are means over the trains that spike in either, null where none does. `cv`,
    `cv2` and `lv` are means over the clean trains with enough intervals, `fano` the mean over neurons for
    repeated draws of the same image, and `attacked_cv` to `attacked_fano` the same for attacked images; null
    where there are none. `bits` is the mean information per neuron about the class by response, and
    `shuffled` what is left of its bias. Cells that are older than the numbers for attacked trains lack them.
    """

    layer: str
    neurons: int
    rate: float
    attacked_rate: float
    counts: float
    times: float
    distances: dict[str, float | None]
    cv: float | None
    cv2: float | None
    lv: float | None
    fano: float | None
    attacked_cv: NotRequired[float | None]
    attacked_cv2: NotRequired[float | None]
    attacked_lv: NotRequired[float | None]
    attacked_fano: NotRequired[float | None]
    bits: dict[str, float]
    shuffled: dict[str, float]
    windows: list[ReadoutWindow]


class CostSummary(TypedDict):
    """The mean cost of an inference, up to the decision."""

    accumulates: float
    multiplies: float
    picojoules: float
    spikes: float
    steps: float


class Sensitivity(TypedDict):
    """How fast the answers change around a clean image.

    `gradient_l1` and `gradient_l2` are mean norms of the gradient of the cross-entropy on the image, through
    the surrogates; `lipschitz` is the mean of the steepest change of the logits that samples within the
    budget show, and null where the threat gives whole events.
    """

    inputs: int
    gradient_l1: float | None
    gradient_l2: float | None
    lipschitz: float | None


class SpikeSummary(TypedDict):
    """What an analysis of spikes found; a tie counts as an error, as in every accuracy."""

    n: int
    clean_accuracy: float
    attacked_accuracy: float
    layers: list[LayerSummary]
    cost: CostSummary
    attacked_cost: CostSummary
    sensitivity: Sensitivity


class Analysis:
    """What a study may find out about a model beside its accuracy."""


@dataclass(frozen=True)
class SpikeAnalysis(Analysis):
    r"""What an attack changes in the spikes of every layer, what they tell of the class, and what they cost.

    .. math:: D_q = D_0 + (D_q - D_0)

    Clean images and the images that the attack returns are run through the model, and their spike trains are
    compared layer by layer: how many spikes the attack adds and removes (:math:`D_0`), how far it moves the
    others (:math:`D_q - D_0`), how irregular the trains are, how much they tell about the class by their
    counts, first spikes, order and full patterns, from when on a linear read-out finds the class, and how
    many operations the inference takes.

    Args:
        attack: makes the images that are compared with the clean ones.
        sponge: makes them instead of the attack, if it is given: images that cost more.
        cost: q of the Victor-Purpura distance, per time step, at least 0.
        distances: further distances of clean and attacked trains.
        neurons: most neurons per layer of which distances and information are measured, drawn at random.
        tariff: energy of each operation.

    Raises:
        InputError: an option is out of its range.

    Example:
        >>> SpikeAnalysis(cost=0.5).attack
        PGD(...)

    Source:
        Victor & Purpura 1997 (distance); Panzeri & Treves 1996 (information); Horowitz 2014 (energy).
    """

    attack: Recipe = PGD()
    cost: float = 1.0
    distances: tuple[TrainDistance, ...] = (ISIDistance(), SPIKEDistance(), SPIKESynchronisation())
    neurons: int = 256
    tariff: Tariff = Tariff()
    sponge: Sponge | None = None

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and math.isfinite(self.cost) and self.neurons >= 1):
            raise InputError(
                "SpikeAnalysis needs a cost of at least 0 and at least one neuron",
                f"cost={self.cost}, neurons={self.neurons}",
                "Try the defaults.",
            )

    def check(self, threat: Threat) -> None:
        """Refuse a threat within which the images that are compared cannot be made."""
        if self.sponge is None:
            self.attack(threat)
        else:
            self.sponge.check(threat)

    def __call__(
        self,
        model: Classifier,
        clean: Float[Tensor, "B C H W"],
        attacked: Float[Tensor, "B C H W"],
        labels: Int64[Tensor, "B"],
        key: Key,
        threat: Threat,
        *,
        batch_size: int = 128,
        keep: Keep = unkept,
    ) -> SpikeSummary:
        """Compare what a model does with clean and with attacked images.

        Args:
            model: whose spikes are compared; an ANN has a cost and no layers.
            clean: images in [0, 1].
            attacked: the same images after the attack.
            labels: their classes.
            key: decides the draws of a stochastic model, the neurons and the folds of read-outs.
            threat: within which the logits are sampled.
            batch_size: images per forward pass; changes no number.
            keep: keeps every measurement of a layer, and of a batch.

        Raises:
            InputError: there are no images, or not as many attacked ones and labels.
        """
        if not len(clean) or clean.shape != attacked.shape or len(labels) != len(clean):
            raise InputError(
                "SpikeAnalysis compares clean images with the same images after an attack",
                f"shapes {list(clean.shape)} and {list(attacked.shape)}, {len(labels)} labels",
                "Give as many of each, at least one.",
            )
        draws = key.fold("draws").for_rows(range(len(clean)))
        costs, right = list[CostSummary](), list[float]()
        for name, images in (("clean", clean), ("attacked", attacked)):
            under = kept_under(keep, f"cost of {name} images")
            cost, accuracy = self._cost(model, images, labels, draws, batch_size, under)
            costs.append(cost)
            right.append(accuracy)
        layers = list(self._layers(model, clean, attacked, labels, draws, key, batch_size, keep))
        return {
            "n": len(clean),
            "clean_accuracy": right[0],
            "attacked_accuracy": right[1],
            "layers": layers,
            "cost": costs[0],
            "attacked_cost": costs[1],
            "sensitivity": _sensitivity(
                model, clean, labels, threat, key, batch_size, kept_under(keep, "sensitivity")
            ),
        }

    def traces(
        self, model: Classifier, clean: Float[Tensor, "B C H W"], attacked: Float[Tensor, "B C H W"], key: Key
    ) -> dict[str, Tensor]:
        """Spikes and potentials of one image in every layer, without and with the attack, for a picture.

        The image is the first that the attack changed, and the neurons of a layer are at most
        `MOST_TRACED`: those whose spikes differ most, in the order of their indices.

        Args:
            model: as for a call.
            clean: images in [0, 1].
            attacked: the same images after the attack.
            key: as for a call.

        Returns:
            By the number of the layer, `0.spikes` and `0.attacked_spikes` [T, F] of zeros and ones, and
            `0.potential` and `0.attacked_potential` [T, F] where the neurons have one; `image`, the number of
            the image in the batch. Nothing for an ANN.
        """
        if not model.spec.neuron.spiking:
            return {}
        changed = (clean != attacked).flatten(1).any(1)
        place = int(changed.to(torch.uint8).argmax())
        draws = key.fold("draws").for_rows(range(len(clean))).take(torch.tensor([place]))
        found = {"image": torch.tensor([place])}
        pairs = zip(
            layer_traces(model, clean[place : place + 1], draws),
            layer_traces(model, attacked[place : place + 1], draws),
            strict=True,
        )
        for number, (before, after) in enumerate(pairs):
            x, y = (each.spikes.flatten(1).ne(0) for each in (before, after))
            differing = (x != y).sum(0) * len(x) + (x | y).sum(0)
            few = differing.argsort(descending=True, stable=True)[:MOST_TRACED].sort().values
            found |= {f"{number}.spikes": x[:, few].byte(), f"{number}.attacked_spikes": y[:, few].byte()}
            if before.potential is not None and after.potential is not None:
                found[f"{number}.potential"] = before.potential.flatten(1)[:, few].float()
                found[f"{number}.attacked_potential"] = after.potential.flatten(1)[:, few].float()
        return {name: each.cpu().contiguous() for name, each in found.items()}

    def _cost(
        self, model: Classifier, images: Tensor, labels: Tensor, key: Key, size: int, keep: Keep
    ) -> tuple[CostSummary, float]:
        def sums(rows: Tensor) -> list[float]:
            found = inference_cost(model, images[rows], key.take(rows), self.tariff)
            numbers = (found.accumulates, found.multiplies, found.picojoules, found.spikes, found.steps)
            right = (found.answers == labels[rows]).sum()
            return [float(each.double().sum()) for each in (*numbers, right)]

        totals, right = np.zeros(5), 0.0
        for rows in torch.split(torch.arange(len(images)), size):
            *numbers, hits = keep(_rows(rows), functools.partial(sums, rows))
            totals += np.array(numbers)
            right += hits
        mean = [float(total) for total in totals / len(images)]
        cost: CostSummary = {
            "accumulates": mean[0],
            "multiplies": mean[1],
            "picojoules": mean[2],
            "spikes": mean[3],
            "steps": mean[4],
        }
        return cost, right / len(images)

    def _layers(
        self,
        model: Classifier,
        clean: Tensor,
        attacked: Tensor,
        labels: Tensor,
        draws: Key,
        key: Key,
        size: int,
        keep: Keep,
    ) -> Iterator[LayerSummary]:
        if not model.spec.neuron.spiking:
            return
        pairs = zip(_run(model, clean, draws, size), _run(model, attacked, draws, size), strict=True)
        again = [
            [_run(model, images, draws.fold("again", i), size) for images in (clean, attacked)]
            for i in range(REPEATS - 1 if model.stochastic else 0)
        ]
        for index, (before, after) in enumerate(pairs):
            trials = [[run[index].spikes for run in draw] for draw in again]
            under = kept_under(keep, f"layer {index + 1}:")
            yield self._layer(before, after.spikes, labels, trials, key.fold(before.layer), under)

    def _layer(
        self,
        before: Activity,
        after: Tensor,
        labels: Tensor,
        trials: list[list[Tensor]],
        key: Key,
        keep: Keep,
    ) -> LayerSummary:
        """One layer; `trials` are its spikes in further draws, each for clean and for attacked images."""
        x, y = before.spikes.flatten(2), after.flatten(2)
        chosen = key.fold("neurons").uniform((x.shape[2],)).argsort()[: self.neurons].sort().values
        few, fewer = x[..., chosen], y[..., chosen]
        change = Change(*keep("change", lambda: spike_change(few, fewer, self.cost)))
        firing = ((few != 0) | (fewer != 0)).any(0).flatten()
        a, b = (spike_trains(spikes.flatten(1)[:, firing]) for spikes in (few, fewer))
        bits, shuffled = _information_in(few, labels, key, keep)
        fano = [
            _fano([spikes, *(_flat(draw[side])[..., chosen] for draw in trials)])
            for side, spikes in enumerate((few, fewer))
        ]
        return {
            "layer": before.layer,
            "neurons": x.shape[2],
            "rate": float((x != 0).sum(0).double().mean()),
            "attacked_rate": float((y != 0).sum(0).double().mean()),
            "counts": change.counts,
            "times": change.times,
            "distances": {
                distance.title: keep(distance.title, functools.partial(_mean_distance, distance, a, b))
                for distance in self.distances
            },
            "cv": keep("CV", lambda: _mean(interval_variation(a))),
            "cv2": keep("CV2", lambda: _mean(local_interval_variation(a))),
            "lv": keep("LV", lambda: _mean(local_variation(a))),
            "fano": fano[0],
            "attacked_cv": keep("CV, attacked", lambda: _mean(interval_variation(b))),
            "attacked_cv2": keep("CV2, attacked", lambda: _mean(local_interval_variation(b))),
            "attacked_lv": keep("LV, attacked", lambda: _mean(local_variation(b))),
            "attacked_fano": fano[1],
            "bits": bits,
            "shuffled": shuffled,
            "windows": _windows(x, y, labels, key, keep),
        }


def _run(model: Classifier, images: Tensor, key: Key, size: int) -> list[Activity]:
    """The spikes of all images, layer by layer."""
    parts = [
        layer_spikes(model, images[rows], key.take(rows))
        for rows in torch.split(torch.arange(len(images)), size)
    ]
    return [
        Activity(same[0].layer, torch.cat([part.spikes for part in same], 1))
        for same in zip(*parts, strict=True)
    ]


def _sensitivity(
    model: Classifier, images: Tensor, labels: Tensor, threat: Threat, key: Key, size: int, keep: Keep
) -> Sensitivity:
    inputs = images[0].numel()
    if moves_events(threat):
        return {"inputs": inputs, "gradient_l1": None, "gradient_l2": None, "lipschitz": None}
    draws = key.fold("slopes").for_rows(range(len(images)))

    def sums(rows: Tensor) -> tuple[float, float, float]:
        norms = gradient_norms(model, images[rows], labels[rows], draws.take(rows))
        steepest = local_lipschitz(model, images[rows], threat, draws.take(rows))
        return float(norms.l1.double().sum()), float(norms.l2.double().sum()), float(steepest.double().sum())

    l1, l2, slopes = 0.0, 0.0, 0.0
    for rows in torch.split(torch.arange(len(images)), size):
        first, second, steepest = keep(_rows(rows), functools.partial(sums, rows))
        l1, l2, slopes = l1 + first, l2 + second, slopes + steepest
    n = len(images)
    return {"inputs": inputs, "gradient_l1": l1 / n, "gradient_l2": l2 / n, "lipschitz": slopes / n}


def _flat(spikes: Tensor) -> Tensor:
    return spikes.flatten(2)


def _rows(rows: Tensor) -> str:
    """The rows of a batch in words, as the name of a part."""
    return f"{int(rows[0])} to {int(rows[-1])}"


def _mean_distance(distance: TrainDistance, a: SpikeTrains, b: SpikeTrains) -> float | None:
    return _mean(distance(a, b))


def _information_in(
    spikes: Tensor, labels: Tensor, key: Key, keep: Keep
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean information per neuron by response, and the same for shuffled labels."""
    responses: dict[str, Responses] = {
        "counts": SpikeCounts(),
        "first spikes": FirstSpikes(),
        "order": SpikeOrder(),
    }
    if len(spikes) <= LONGEST_PATTERN:
        responses["full patterns"] = FullPatterns()

    def means(response: Responses) -> tuple[float, float]:
        found = mutual_information(spikes, labels, response, key)
        return float(found.bits.mean()), float(found.shuffled.mean())

    found = {
        name: keep(f"information of {name}", functools.partial(means, each))
        for name, each in responses.items()
    }
    return {name: bits for name, (bits, _) in found.items()}, {
        name: rest for name, (_, rest) in found.items()
    }


def _windows(spikes: Tensor, attacked: Tensor, labels: Tensor, key: Key, keep: Keep) -> list[ReadoutWindow]:
    """What a linear read-out of counts gets right up to a time, and in each part of the time alone."""
    folds = min(5, len(labels))
    if folds < 2:
        return []
    total = len(spikes)
    edges = sorted({round(total * i / min(total, MOST_WINDOWS)) for i in range(min(total, MOST_WINDOWS) + 1)})
    spans = dict.fromkeys([*((0, stop) for stop in edges[1:]), *pairwise(edges)])

    def window(start: int, stop: int) -> ReadoutWindow:
        counts, moved = _counts(spikes[start:stop]), _counts(attacked[start:stop])
        return {
            "start": start,
            "stop": stop,
            "accuracy": linear_readout(counts, labels, key, folds=folds),
            "attacked": linear_readout(counts, labels, key, folds=folds, tested=moved),
        }

    return [keep(f"steps {start} to {stop}", functools.partial(window, start, stop)) for start, stop in spans]


def _fano(trials: list[Tensor]) -> float | None:
    """The mean Fano factor over images and neurons, of the spikes `[T, B, F]` of several draws."""
    if len(trials) < 2:
        return None
    return _mean(fano_factor(np.stack([_counts(spikes).cpu().numpy() for spikes in trials])))


def _counts(spikes: Tensor) -> Tensor:
    return spikes.ne(0).sum(0).double()


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the values that are numbers; None for none."""
    numbers = values[np.isfinite(values)]
    return float(numbers.mean()) if numbers.size else None

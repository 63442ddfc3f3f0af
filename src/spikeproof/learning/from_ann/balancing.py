"""Conversions that choose scales after the training: from weights, from activations, or from spikes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import ClassVar

import numpy as np
import torch

from spikeproof.datasets import Split
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.from_ann.conversion import Conversion
from spikeproof.learning.from_ann.folding import Affine
from spikeproof.learning.from_ann.scalegraph import ScaleGraph, activity, passes, scale_graph, seen
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import IF

__all__ = ["Cao", "DataBased", "ModelBased", "Rueckauer", "SpikeNorm"]


@dataclass(frozen=True)
class Cao(Conversion):
    r"""Cao et al.: the weights of a rectified network without biases are copied unchanged.

    .. math:: \lambda_l = 1

    Rates saturate where activations exceed one spike per step. The paper resets to zero, which loses the
    excess over the threshold; here either reset may be used.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images on which the loss of the last report is measured, at least 1.

    Source:
        Cao, Chen & Khosla 2015, section 3.
    """

    biased: ClassVar[bool] = False

    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        return [1.0] * (len(scale_graph(ann.network).groups) - 1)


@dataclass(frozen=True)
class ModelBased(Conversion):
    r"""Diehl et al., model-based: no input whatsoever can drive a neuron beyond one spike per step.

    .. math:: \lambda_l = \max_i \Big(\lambda_{l-1} \sum_j \max(W_{ij}, 0) + b_i\Big), \quad \lambda_0 = 1

    and the sum of these bounds where several currents drive a layer. Without biases this is the paper's
    division by the largest sum of positive weights; biases and folded batch normalisation are our extension.
    The conversion is safe and slow: rates are far lower than they could be.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images on which the loss of the last report is measured, at least 1.

    Raises:
        InputError: in training, if the model normalises its input, because the bound does not hold then.

    Source:
        Diehl et al. 2015, algorithm 1.
    """

    def _check_spec(self, spec: ModelSpec) -> None:
        super()._check_spec(spec)
        if spec.normalise is not None:
            raise InputError(
                "ModelBased needs inputs in [0, 1], without normalisation",
                f"{spec.normalise!r}",
                "Leave normalise out, or use data-based or rueckauer.",
            )

    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        graph, largest = scale_graph(ann.network), [1.0]
        for layer in range(1, len(graph.groups)):
            into = [
                affine.bounds(_of_group(graph, largest, link.before) * link.terms)
                for link, affine in zip(graph.links, maps, strict=True)
                if link.behind == layer
            ]
            together = torch.stack(torch.broadcast_tensors(*into)).sum(0)  # type: ignore[no-untyped-call]
            largest.append(max(float(together.max()), 0.0) or 1.0)
        return largest[1:]


def _of_group(graph: ScaleGraph, scales: list[float], layer: int) -> float:
    """The largest scale so far of the layers that share one with this layer."""
    return max(scale for i, scale in enumerate(scales) if graph.groups[i] == graph.groups[layer])


@dataclass(frozen=True)
class DataBased(Conversion):
    r"""Diehl et al., data-based: the largest activation seen in training data becomes one spike per step.

    .. math:: \lambda_l = \max(\max a_l, \max W_l)

    The largest weight is included, so that a single spike cannot make a neuron fire twice.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images whose activations are measured, at least 1.

    Source:
        Diehl et al. 2015, algorithm 2.
    """

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        scales = [float(activations.max()) for activations in activity(ann, images, key)]
        for link, affine in zip(scale_graph(ann.network).links, maps, strict=True):
            scales[link.behind - 1] = max(scales[link.behind - 1], float(affine.weight.max()))
        return scales


@dataclass(frozen=True)
class Rueckauer(Conversion):
    r"""Rueckauer et al.: a high percentile of the activations becomes one spike per step.

    .. math:: \lambda_l = \mathrm{percentile}_p(a_l)

    over all units and calibration images, zeros included. The percentile is robust against outliers, whose
    rates saturate. Biases are scaled with the weights, batch normalisation is folded into the weights, and
    the excess over the threshold is kept.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images whose activations are measured, at least 1.
        percentile: `p`, above 0 and at most 100.

    Source:
        Rueckauer et al. 2017, sections 2.1 and 2.2.
    """

    percentile: float = 99.9

    subtracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile <= 100:
            raise InputError(
                "Rueckauer needs a percentile above 0 and at most 100",
                f"percentile={self.percentile}",
                "Try 99.9.",
            )

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        found = (activations.clamp(min=0).cpu().numpy() for activations in activity(ann, images, key))
        return [float(np.percentile(activations, self.percentile)) for activations in found]


@dataclass(frozen=True)
class SpikeNorm(Conversion):
    r"""Spike-norm: each threshold is the largest current that spikes actually cause in the layer.

    .. math:: v_l = \max_{t, i} (W_l\,s_{l-1}[t] + b_l / \lambda_{l-1})_i, \quad \lambda_l = v_l \lambda_{l-1}

    The layers are normalised one after the other, with the spikes of the layers before them after their own
    normalisation, and with the model's own encoder and number of time steps. Biases are our extension. In a
    residual network the current is that of both paths together, and the identity of a shortcut becomes a
    scaled one (Hu, Tang & Pan 2018). Layers whose spikes are added share the largest threshold, which the
    paper does not treat. Every layer is measured once, before its threshold is raised to the shared one: a
    spike stands for more afterwards and comes more rarely, but its current relative to a spike is as large
    as before, so a second measurement would raise the threshold again, and so on until the layer is silent.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images whose spikes are measured, at least 1.

    Source:
        Sengupta et al. 2019, algorithm 1.
    """

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        assert isinstance(model.spec.neuron, IF)
        theta, graph = model.spec.neuron.threshold, scale_graph(model.network)
        pairs = list(zip(graph.links, maps, strict=True))
        scales = [1.0] * len(graph.groups)
        for layer in range(1, len(scales)):
            into = [(link, affine) for link, affine in pairs if link.behind == layer]
            unit = scales[into[0][0].before]  # the activation for which a current of 1 stands
            for link, affine in into:
                link.weights.write(affine.scaled(scales[link.before] / unit, 1 / unit))
            found = unit * (max(_largest_current(model, images, key, layer), 0.0) or 1.0)
            sharing = [i for i in range(1, layer) if graph.groups[i] == graph.groups[layer]]
            scales[layer] = max([found, *(scales[i] for i in sharing)])
            for i in sharing:
                scales[i] = scales[layer]
            for link, affine in pairs:
                if link.behind <= layer:
                    gain = theta / scales[link.behind]
                    link.weights.write(affine.scaled(scales[link.before] * gain, gain))
        return scales[1:]


def _largest_current(model: Classifier, images: Split, key: Key, layer: int) -> float:
    """The largest current over time into one layer of neurons, of all its inputs together."""
    largest, target_device = -math.inf, next(model.parameters()).device
    for x, ids in zip(torch.split(images.images, 100), torch.split(images.ids, 100), strict=True):
        spikes = [seen(model, x.to(target_device), key.for_rows(ids))]
        heard = next(islice(passes(model.network.layers, spikes), layer - 1, None))
        largest = max(largest, float(heard.current[0].max()))
    return largest

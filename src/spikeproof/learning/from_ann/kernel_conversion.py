r"""Conversion to single spikes whose time is the value: T2FSNN, with kernels that are fitted to each layer.

A layer encodes its normalised activations x by the kernel :math:`\varepsilon(t) = e^{-(t - t_d)/\tau}` at
the whole step t of a neuron's only spike, and the next layer reads :math:`\hat x = \varepsilon(t)`. A large
`tau` is precise and leaves small activations without a spike, since the kernel has not fallen to them by the
last step. A `t_d` above 0 makes room for activations above 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from spikeproof.datasets import Split
from spikeproof.encoders import KernelCode
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.from_ann.conversion import Conversion
from spikeproof.learning.from_ann.scalegraph import neurons_of, passes, scale_graph, seen
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import ConvertedT2FSNN, Neuron, Spiking
from spikeproof.protocols import reads_current

__all__ = ["KernelLosses", "T2FSNNConversion", "kernel_losses", "spike_times"]

SMALL = 0.02
"""The share of the positive activations of an image that lies below the one that counts as the smallest."""


class KernelLosses(NamedTuple):
    """The three losses of a kernel, each the mean of squared differences, halved."""

    precision: Float[Tensor, ""]
    smallest: Float[Tensor, ""]
    largest: Float[Tensor, ""]


def spike_times(
    x: Float[Tensor, "..."], tau: Float[Tensor, ""], delay: Float[Tensor, ""], last: int
) -> Float[Tensor, "..."]:
    """The first step at which the kernel has fallen to a value, and infinity where it has not by `last`.

    Example:
        >>> tau, delay = torch.tensor(4.0), torch.tensor(0.0)
        >>> spike_times(torch.tensor([2.0, 1.0, 0.5, 0.01]), tau, delay, 10).tolist()
        [0.0, 0.0, 3.0, inf]
    """
    late = (delay - tau * x.clamp(min=0).log()).ceil().clamp(min=0)
    return torch.where(late <= last, late, torch.inf)


def kernel_losses(
    x: Float[Tensor, "N F"], tau: Float[Tensor, ""], delay: Float[Tensor, ""], last: int
) -> KernelLosses:
    r"""How well a kernel stands for the activations of a layer, differentiable in its constants.

    .. math:: L_{prec} = \tfrac12 \langle (x - \hat x)^2 \rangle, \quad
              L_{min} = \tfrac12 \langle (x_{min} - e^{-(T' - t_d)/\tau})^2 \rangle, \quad
              L_{max} = \tfrac12 \langle (x_{max} - e^{t_d/\tau})^2 \rangle

    `T'` is the last step with a spike. The precision is a mean over neurons that spike, the other two are
    means over images. Spike times are constants in the gradient. The first two losses train `tau` and the
    third one `t_d`.

    Args:
        x: activations, of which the positive ones are encoded, per image.
        tau: time constant of the kernel, in steps.
        delay: `t_d`, in steps.
        last: `T'`.

    Source:
        Park et al. 2020 (T2FSNN), gradient-based optimisation, and the authors' public code
        (TensorFlow-SNNs). There the mean of the first loss is over those neurons alone that raise `tau`;
        `x_min` is a percentile of all activations, zeros included, and here one of the positive ones; and
        `x_max` is the value of the earliest spike, so that `t_d` can only fall. Here it is the largest
        activation.
    """
    times = spike_times(x, tau.detach(), delay.detach(), last)
    fires = times.isfinite()
    decoded = torch.exp(-(torch.where(fires, times, 0.0) - delay.detach()) / tau)
    precision = ((x - decoded).square() * fires).sum() / fires.sum().clamp(min=1) / 2
    positive = torch.where(x > 0, x, torch.nan)
    least, most = positive.nanquantile(SMALL, dim=1), x.amax(1)
    alive = (most > 0).to(x.dtype)
    smallest = (least.nan_to_num() - torch.exp(-(last - delay.detach()) / tau)).square()
    largest = (most - torch.exp(delay / tau.detach())).square()
    images = alive.sum().clamp(min=1)
    return KernelLosses(
        precision, (smallest * alive).sum() / images / 2, (largest * alive).sum() / images / 2
    )


@dataclass(frozen=True)
class T2FSNNConversion(Conversion):
    r"""T2FSNN: each activation of the ANN becomes the time of a single spike, under a kernel for each layer.

    .. math:: t = \lceil t_d - \tau \ln(a / \lambda) \rceil, \quad
              \hat a = \lambda\,e^{-(t - t_d)/\tau} \in (a\,e^{-1/\tau}, a]

    The weights are balanced as in `rueckauer`, with a percentile of the activations for `lambda`. Then `tau`
    and `t_d` of each layer are fitted to its activations by gradient descent (Adam) on three losses
    (`kernel_losses`), from the constants of the neuron. The encoder `kernel-code` is the kernel of the input,
    which keeps its constants. Layers fire one phase after the other, or earlier where the neuron says so.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images whose activations are measured, at least 1.
        percentile: of the activations, which a spike at `t_d` stands for, above 0 and at most 100.
        tuning: passes over the calibration images for each kernel, 0 or more; 0 keeps the neuron's constants.
        lr: learning rate of the kernels' constants, in steps, positive.

    Raises:
        InputError: in training, if the model has another neuron or encoder, or normalises its input.

    Source:
        Park et al. 2020 (T2FSNN: deep spiking neural networks with time-to-first-spike coding).
    """

    percentile: float = 99.9
    tuning: int = 5
    lr: float = 0.2

    batch: ClassVar[int] = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.percentile <= 100 or self.tuning < 0 or not 0 < self.lr < math.inf:
            raise InputError(
                "T2FSNNConversion needs a percentile above 0 and at most 100, tuning of at least 0 and a "
                "positive lr",
                f"percentile={self.percentile}, tuning={self.tuning}, lr={self.lr}",
                "Try the defaults.",
            )

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, ConvertedT2FSNN):
            raise InputError(
                "T2FSNNConversion needs neurons that send their potential in one spike",
                f"the neuron {neuron!r}",
                "Use the neuron t2fsnn-converted with the encoder kernel-code.",
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        neuron, graph = model.spec.neuron, scale_graph(model.network)
        assert isinstance(neuron, ConvertedT2FSNN)
        several = any(len(graph.into(layer)) > 1 for layer in range(1, len(graph.groups)))
        if neuron.early and (several or any(link.terms > 1 for link in graph.links)):
            raise InputError(
                "Early firing needs layers one after the other, whose phases overlap in pairs",
                f"{model.spec.network!r} with early={neuron.early}",
                "Use early: 0, or mlp, convnet or a vgg.",
            )

    def _check_spec(self, spec: ModelSpec) -> None:
        super()._check_spec(spec)
        code, steps = spec.encoder, getattr(spec.neuron, "steps", 0)
        if not isinstance(code, KernelCode) or code.steps != steps or spec.normalise is not None:
            raise InputError(
                f"T2FSNNConversion needs single spikes of a kernel in {steps} steps, without normalisation",
                f"{code!r}, normalise={spec.normalise!r}",
                "Use the encoder kernel-code with the steps of the neuron, and leave normalise out.",
            )

    @torch.no_grad()
    def convert(self, ann: Classifier, model: Classifier, images: Split, key: Key) -> None:
        """Give the model weights and kernels with which its spikes stand for the activations of the ANN."""
        neuron = model.spec.neuron
        assert isinstance(neuron, ConvertedT2FSNN)
        graph = scale_graph(model.network)
        maps = [link.weights.folded() for link in scale_graph(ann.network).links]
        activations = self._activations(ann, images, key)
        ranked = (np.percentile(each.clamp(min=0).cpu().numpy(), self.percentile) for each in activations)
        scales = graph.shared([float(scale) for scale in ranked])
        units = [neuron.threshold / scale for scale in scales]
        if not model.spec.decoder.reads_spikes:
            units[-1] = float(neuron.steps) if reads_current(model.spec.decoder) else 1.0
        for link, affine in zip(graph.links, maps, strict=True):
            unit = units[link.behind]
            link.weights.write(affine.scaled(scales[link.before] * unit, unit / neuron.steps))
        layers = zip(neurons_of(model.network.layers), activations, scales[1:], strict=True)
        for i, (layer, found, scale) in enumerate(layers):
            if isinstance(layer, Spiking):
                self._fit(layer, found / scale, key.fold("kernel", i))

    def _activations(self, ann: Classifier, images: Split, key: Key) -> list[Float[Tensor, "N F"]]:
        """The activations of each layer of units, output layer included, per image."""
        target_device = next(ann.parameters()).device
        parts = zip(torch.split(images.images, 100), torch.split(images.ids, 100), strict=True)
        batches = [seen(ann, x.to(target_device), key.for_rows(ids)) for x, ids in parts]
        heard = passes(ann.network.layers, batches)
        return [torch.cat([answer[0].flatten(1) for answer in each.answer]) for each in heard]

    @torch.enable_grad()
    def _fit(self, layer: Spiking, x: Float[Tensor, "N F"], key: Key) -> None:
        """Fit the kernel of one layer to its activations, relative to what a spike at `t_d` stands for."""
        neuron = layer.neuron
        assert isinstance(neuron, ConvertedT2FSNN)
        constants = [layer.get_parameter(name) for name in ("tau", "delay")]
        for value, first in zip(constants, (neuron.tau, neuron.delay), strict=True):
            value.data.fill_(first)
        tau, delay = (value.detach().clone().to(x).requires_grad_() for value in constants)
        optimiser = torch.optim.Adam([tau, delay], lr=self.lr)
        for i in range(self.tuning):
            order = torch.randperm(len(x), generator=key.fold(i).generator()).to(x.device)
            for rows in torch.split(order, self.batch):
                losses = kernel_losses(x[rows], tau, delay, neuron.steps - 2)
                optimiser.zero_grad()
                torch.stack(losses).sum().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                with torch.no_grad():
                    tau.clamp_(min=1.0)
                    delay.clamp_(min=0.0, max=float(neuron.steps - 2))
        for value, fitted in zip(constants, (tau, delay), strict=True):
            value.data.copy_(fitted.detach())

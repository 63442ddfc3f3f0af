r"""Conversion: an ANN is trained, and its weights make a spiking network whose rates are its activations.

Every learning rule here trains the ANN twin of the model, which has the same layers with other units, by
backpropagation, and then scales its weights. In a network of integrate-and-fire neurons with reset by
subtraction, a layer with activations `a` should fire at the rates `a / lambda`. A spike counts one and every
threshold is `theta`, so the weights between the neurons `k` and the neurons `l` become

.. math:: W'_{kl} = \theta\,\frac{\lambda_k}{\lambda_l} W_{kl}, \quad b'_l = \frac{\theta}{\lambda_l} b_l

The learning rules differ in their choice of `lambda`. In this way each layer's own threshold is folded into
its weights. All currents that drive the same neurons, as those of the two paths of a residual block, have the
scale of these neurons, and the identity of a shortcut becomes a scaled one,
:math:`\theta \lambda_k / \lambda_l`. Layers of neurons whose spikes are added, as in SEW-ResNet, share one
`lambda`, the largest. An output layer that never fires is scaled such that its logits are those of the ANN
when all rates are exact. Calibration uses training images only.

The ANN sees the image itself where the code of the model has the shape of the image. The encoder should then
present the image as a current or as rates; with another encoder the rates are another function of the image,
which may be intended. Where the code has other channels, as fused and population codes have, or takes events,
the ANN sees the mean over time of the code, which is what rates are made of.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import nn

from spikeproof.datasets import Dataset, Split, floats
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.learning.checkpoints import Later
from spikeproof.learning.from_ann.folding import Affine, Stage
from spikeproof.learning.from_ann.scalegraph import ScaleGraph, scale_graph
from spikeproof.learning.from_ann.twins import analogue
from spikeproof.learning.rule import Defence, EpochReport, History, Perturb, Rule
from spikeproof.networks.architecture import SpikingNetwork
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.networks.deep import Residual, expect_gains
from spikeproof.neurons import IF, BySubtraction, Neuron, Spiking
from spikeproof.protocols import output_width, reads_current, reads_potential

__all__ = ["Conversion"]


@dataclass(frozen=True)
class Conversion(Rule):
    """A conversion: train the ANN twin, scale its weights, and report on the spiking network."""

    ann: Rule = BPTT()
    calibration: int = 1000

    subtracts: ClassVar[bool] = False
    biased: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.ann, BPTT):
            raise InputError(
                f"{type(self).__name__} trains its ANN by backpropagation",
                f"ann={self.ann!r}",
                "Try ann: {bptt: {epochs: 5}}.",
            )
        if self.calibration < 1:
            raise InputError(
                f"{type(self).__name__} needs at least one image for calibration",
                f"calibration={self.calibration}",
                "Try 1000.",
            )

    @property
    def backprop(self) -> BPTT:
        """The learning rule of the ANN."""
        assert isinstance(self.ann, BPTT)
        return self.ann

    @property
    def epochs(self) -> int:
        """The epochs of the ANN, and one that stands for the conversion."""
        return self.backprop.epochs + 1

    def admit(self, defence: Defence) -> None:
        self.backprop.admit(defence)

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, IF) or neuron.synapse is not None:
            raise InputError(
                f"{type(self).__name__} needs integrate-and-fire neurons without leak or synapse",
                f"the neuron {neuron!r}",
                "Use the neuron if.",
            )
        if self.subtracts and not isinstance(neuron.reset, BySubtraction):
            raise InputError(
                f"{type(self).__name__} needs neurons with reset by subtraction",
                f"the neuron {neuron!r}",
                "Use the neuron if with reset: by-subtraction.",
            )

    def check_model(self, model: Classifier) -> None:
        super().check_model(model)
        self._check_spec(model.spec)
        for link in scale_graph(model.network).links:
            if not self.biased and isinstance(link.weights, Stage) and link.weights.norm is not None:
                raise InputError(
                    f"{type(self).__name__} trains a network without biases and batch normalisation",
                    f"{model.spec.network!r}",
                    "Use a network with batch_norm: false, or another conversion, such as rueckauer.",
                )
        with torch.device("meta"):
            ann = analogue(model.spec).build(Key.of(0))
        self.backprop.check_model(ann)

    def train(
        self,
        model: Classifier,
        data: Dataset,
        key: Key,
        *,
        device: torch.device | str | None = None,
        checkpoint: Path | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        on_batch: Callable[[int, int], None] | None = None,
        perturb: Perturb | None = None,
        defences: Sequence[Defence] = (),
    ) -> History:
        """Train the ANN and convert it; the last report is on the spiking network, all others on the ANN.

        Args:
            model: a freshly built model, whose weights the ANN starts with.
            data: its training part is used to train and to calibrate.
            key: decides the order of examples, and all draws.
            device: the device to train on; None for the model's own.
            checkpoint: a file from which an interrupted training resumes, written after every epoch of the
                ANN, and twice a minute during one, during a second stage, and while the model is measured.
            on_epoch: called after every epoch of the ANN, and after the conversion.
            on_batch: called after every iteration of the ANN's training.
            perturb: makes the images that the ANN is trained on from each batch, after all defences.
            defences: what else the training of the ANN does; attacks are on the ANN.

        Raises:
            InputError: the model cannot be converted, the data do not fit it, the checkpoint is of another
                training, or a loss or weight of the ANN is no longer finite.
        """
        self.check_model(model)
        target_device = torch.device(device or next(model.parameters()).device)
        model.to(target_device).eval()
        ann = self.twin(model)
        history = self.backprop.train(
            ann,
            data,
            key.fold("ann"),
            device=target_device,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            on_batch=on_batch,
            perturb=perturb,
            defences=defences,
        )
        started, spent = time.perf_counter(), time.process_time()
        later = Later(checkpoint, hashlib.sha256(repr((self, key)).encode()).hexdigest())
        self.tune(ann, data, key.fold("tuning"), later)
        chosen = _chosen(data.train, self.calibration, key.fold("calibration"))
        self.convert(ann, model, chosen, key.fold("calibration"))
        spent = time.process_time() - spent
        report = EpochReport(
            len(history.epochs) + 1,
            self._loss(model, chosen, key.fold("loss")),
            accuracy(
                model,
                data.validation,
                key.fold("validation"),
                self.backprop.batch_size,
                later.counted,
                later.keep,
            ),
            time.perf_counter() - started,
            spent,
        )
        if on_epoch is not None:
            on_epoch(report)
        return History((*history.epochs, report))

    def twin(self, model: Classifier) -> Classifier:
        """The ANN with the model's layers and weights, before its training.

        Raises:
            InputError: the model has layers that cannot be converted.
        """
        ann = analogue(model.spec).build(Key.of(0))
        weights = model.state_dict()
        expect_gains(ann, weights)
        ann.load_state_dict({name: weights[name] for name in ann.state_dict()})
        graph = scale_graph(ann.network)
        for link in graph.links:
            stage = link.weights
            if not self.biased and isinstance(stage, Stage) and stage.layer.bias is not None:
                nn.init.zeros_(stage.layer.bias).requires_grad_(False)
        self._exchange(ann.network, graph, {}, 1)
        return ann

    def _exchange(
        self, network: SpikingNetwork, graph: ScaleGraph, made: dict[int, nn.Module], first: int
    ) -> int:
        """Exchange rectifiers for units of the ANN, one for each group; returns the number of the next."""
        for i, layer in enumerate(network.layers):
            if isinstance(layer, Residual):
                first = self._exchange(layer, graph, made, first)
                first = self._exchange(layer.shortcut, graph, made, first)
            elif isinstance(layer, Spiking):
                group = graph.groups[first]
                network.layers[i] = made[group] = made.get(group) or self.unit(layer)
                first += 1
        return first

    def unit(self, rectifier: Spiking) -> nn.Module:
        """The units of the ANN in place of a layer of plain rectifiers."""
        return rectifier

    def tune(self, ann: Classifier, data: Dataset, key: Key, later: Later) -> None:
        """Further training before the weights are scaled; most conversions have none.

        Args:
            ann: the trained ANN, which is changed in place.
            data: its training part is used.
            key: decides the order of examples, and all draws.
            later: what an earlier process kept of this, and where to keep more.
        """
        later.resume(None)

    @torch.no_grad()
    def convert(self, ann: Classifier, model: Classifier, images: Split, key: Key) -> None:
        """Give the model weights with which its rates correspond to the activations of the trained ANN."""
        assert isinstance(model.spec.neuron, IF)
        theta = model.spec.neuron.threshold
        graph = scale_graph(model.network)
        maps = [link.weights.folded() for link in scale_graph(ann.network).links]
        scales = graph.shared(self.scales(ann, model, maps, images, key))
        units = [theta / scale for scale in scales]
        if not model.spec.decoder.reads_spikes:
            units[-1] = _readout_gain(model.spec)
        for link, affine in zip(graph.links, maps, strict=True):
            unit = units[link.behind]
            link.weights.write(affine.scaled(scales[link.before] * unit, unit))

    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> list[float]:
        """The activation for which one spike per step stands, for each layer of neurons, output included.

        Args:
            ann: the trained ANN.
            model: the spiking network, whose weights may be written on the way.
            maps: the affine map of each link of the graph of scales.
            images: on which to calibrate.
            key: randomness of the encoder.
        """
        raise NotImplementedError(f"{type(self).__name__} scales nothing")

    def _check_spec(self, spec: ModelSpec) -> None:
        if output_width(spec.decoder, spec.classes) != spec.classes or reads_potential(spec.decoder):
            raise InputError(
                f"{type(self).__name__} trains an ANN with one output per class",
                repr(spec.decoder),
                "Use a decoder with one output neuron per class, such as count or mean-current.",
            )

    @torch.no_grad()
    def _loss(self, model: Classifier, images: Split, key: Key) -> float:
        total, size = 0.0, self.backprop.batch_size
        parts = (torch.split(part, size) for part in (images.images, images.labels, images.ids))
        target_device = next(model.parameters()).device
        for x, y, ids in zip(*parts, strict=True):
            outputs = model.outputs(x.to(target_device), key.for_rows(ids))
            losses = self.backprop.loss(outputs, model.spec.decoder(outputs), y.to(target_device))
            total += float(losses.sum())
        return total / len(images)


def _chosen(part: Split, count: int, key: Key) -> Split:
    rows = torch.randperm(len(part), generator=key.generator())[:count]
    return Split(floats(part.images[rows]), part.labels[rows], part.ids[rows])


def _readout_gain(spec: ModelSpec) -> float:
    """The scale of the output weights: a constant current of 1 has the mean potential (T + 1) / 2."""
    return 1.0 if reads_current(spec.decoder) else 2 / (spec.encoder.steps + 1)

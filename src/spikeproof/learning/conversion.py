r"""Conversion: an ANN is trained, and its weights make a spiking network whose rates are its activations.

Every learning rule here trains the ANN twin of the model, which has the same layers with other units, by
backpropagation, and then scales its weights. In a network of integrate-and-fire neurons with reset by
subtraction, a layer with activations `a` should fire at the rates `a / lambda`. A spike counts one and every
threshold is `theta`, so the weights become

.. math:: W'_l = \theta\,\frac{\lambda_{l-1}}{\lambda_l} W_l, \quad b'_l = \frac{\theta}{\lambda_l} b_l

The learning rules differ in their choice of `lambda`. In this way each layer's own threshold is folded into
its weights. An output layer that never fires is scaled such that its logits are those of the ANN when all
rates are exact. Calibration uses training images only. The model's encoder should present the image as a
current or as rates; with another encoder the rates are another function of the image, which may be intended.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.datasets import Dataset, Split, floats
from spikeproof.decoders import MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.activations import Quantised, RateNorm
from spikeproof.learning.backprop import BPTT, accuracy
from spikeproof.learning.folding import Affine, activity, seen, stages
from spikeproof.learning.rule import Defence, EpochReport, History, Perturb, Rule
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import IF, BySubtraction, Neuron, PrimedIF, ReLU, Spiking
from spikeproof.protocols import encoded_shape, example_shape, output_width, reads_current, reads_potential

__all__ = [
    "QCFS",
    "Cao",
    "Conversion",
    "DataBased",
    "ModelBased",
    "RateNormLayer",
    "Rueckauer",
    "SpikeNorm",
]

Scales = list[tuple[float, float]]
"""Per layer: the activation for which a rate of 1 stands, before the layer and after it."""


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
        for stage in stages(model.network):
            if not self.biased and stage.norm is not None:
                raise InputError(
                    f"{type(self).__name__} trains a network without biases and batch normalisation",
                    f"{model.spec.network!r}",
                    "Use batch_norm: false, or another conversion, such as rueckauer.",
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
            checkpoint: a file written after every epoch of the ANN, from which an interrupted training
                resumes.
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
        self.tune(ann, data, key.fold("tuning"))
        chosen = _chosen(data.train, self.calibration, key.fold("calibration"))
        self.convert(ann, model, chosen, key.fold("calibration"))
        spent = time.process_time() - spent
        report = EpochReport(
            len(history.epochs) + 1,
            self._loss(model, chosen, key.fold("loss")),
            accuracy(model, data.validation, key.fold("validation"), self.backprop.batch_size),
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
        ann.load_state_dict(model.state_dict())
        for stage in stages(ann.network):
            if not self.biased and stage.layer.bias is not None:
                nn.init.zeros_(stage.layer.bias).requires_grad_(False)
        for i, layer in enumerate(ann.network.layers):
            if isinstance(layer, Spiking):
                ann.network.layers[i] = self.unit(layer)
        return ann

    def unit(self, rectifier: Spiking) -> nn.Module:
        """The units of the ANN in place of a layer of plain rectifiers."""
        return rectifier

    def tune(self, ann: Classifier, data: Dataset, key: Key) -> None:
        """Further training before the weights are scaled; most conversions have none."""

    def convert(self, ann: Classifier, model: Classifier, images: Split, key: Key) -> None:
        """Give the model weights with which its rates correspond to the activations of the trained ANN."""
        spec = model.spec
        assert isinstance(spec.neuron, IF)
        maps = [stage.folded() for stage in stages(ann.network)]
        scales = self.scales(ann, model, maps, images, key)
        units = [spec.neuron.threshold / behind for _, behind in scales]
        if not spec.decoder.reads_spikes:
            units[-1] = _readout_gain(spec)
        for stage, affine, (before, _), unit in zip(stages(model.network), maps, scales, units, strict=True):
            stage.write(affine.scaled(before * unit, unit))

    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> Scales:
        """The activations for which a rate of 1 stands, before and after each layer."""
        raise NotImplementedError(f"{type(self).__name__} scales nothing")

    def _check_spec(self, spec: ModelSpec) -> None:
        shape = spec.input_shape
        if encoded_shape(spec.encoder, shape) != shape or example_shape(spec.encoder, shape) != shape:
            raise InputError(
                f"{type(self).__name__} trains an ANN on the image itself",
                f"{spec.encoder!r}, whose output has another shape",
                "Use direct coding or rate coding.",
            )

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


def analogue(spec: ModelSpec) -> ModelSpec:
    """The ANN twin: the same layers, on the image itself.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.networks.architecture import MLP
        >>> from spikeproof.surrogates import ATan
        >>> analogue(ModelSpec(Direct(8), MLP((4,)), IF(), ATan(), Count(), (1, 8, 8), 10)).neuron
        ReLU()
    """
    return replace(spec, encoder=Direct(1), neuron=ReLU(), decoder=MeanPotential())


def _chosen(part: Split, count: int, key: Key) -> Split:
    rows = torch.randperm(len(part), generator=key.generator())[:count]
    return Split(floats(part.images[rows]), part.labels[rows], part.ids[rows])


def _readout_gain(spec: ModelSpec) -> float:
    """The scale of the output weights: a constant current of 1 has the mean potential (T + 1) / 2."""
    return 1.0 if reads_current(spec.decoder) else 2 / (spec.encoder.steps + 1)


def _chain(behind: list[float]) -> Scales:
    """Scales from the scale after each layer; a layer without positive activations keeps a scale of 1."""
    usable = [scale if scale > 0 and math.isfinite(scale) else 1.0 for scale in behind]
    return list(zip([1.0, *usable[:-1]], usable, strict=True))


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
    ) -> Scales:
        return _chain([1.0] * len(maps))


@dataclass(frozen=True)
class ModelBased(Conversion):
    r"""Diehl et al., model-based: no input whatsoever can drive a neuron beyond one spike per step.

    .. math:: \lambda_l = \max_i \Big(\lambda_{l-1} \sum_j \max(W_{ij}, 0) + b_i\Big), \quad \lambda_0 = 1

    Without biases this is the paper's division by the largest sum of positive weights; biases and folded
    batch normalisation are our extension. The conversion is safe and slow: rates are far lower than they
    could be.

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
    ) -> Scales:
        bounds, largest = [], 1.0
        for affine in maps:
            largest = max(affine.bound(largest), 0.0) or 1.0
            bounds.append(largest)
        return _chain(bounds)


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
    ) -> Scales:
        answers = activity(ann, images.images.to(next(ann.parameters()).device))
        return _chain(
            [max(float(a.max()), float(affine.weight.max())) for a, affine in zip(answers, maps, strict=True)]
        )


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
    ) -> Scales:
        answers = activity(ann, images.images.to(next(ann.parameters()).device))
        return _chain([float(np.percentile(a.clamp(min=0).cpu().numpy(), self.percentile)) for a in answers])


@dataclass(frozen=True)
class SpikeNorm(Conversion):
    r"""Spike-norm: each threshold is the largest current that spikes actually cause in the layer.

    .. math:: v_l = \max_{t, i} (W_l\,s_{l-1}[t] + b_l / \lambda_{l-1})_i, \quad \lambda_l = v_l \lambda_{l-1}

    The layers are normalised one after the other, with the spikes of the layers before them after their own
    normalisation, and with the model's own encoder and number of time steps. Biases are our extension.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images whose spikes are measured, at least 1.

    Source:
        Sengupta et al. 2019, algorithm 1.
    """

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> Scales:
        assert isinstance(model.spec.neuron, IF)
        theta, behind, scale = model.spec.neuron.threshold, [], 1.0
        for i, (stage, affine) in enumerate(zip(stages(model.network), maps, strict=True)):
            stage.write(affine.scaled(1.0, 1 / scale))
            largest = max(_largest_current(model, images, key, i), 0.0) or 1.0
            stage.write(affine.scaled(theta / largest, theta / (largest * scale)))
            scale *= largest
            behind.append(scale)
        return _chain(behind)


def _largest_current(model: Classifier, images: Split, key: Key, stage: int) -> float:
    """The largest current over time into the neurons of one layer."""
    largest, target_device = -math.inf, next(model.parameters()).device
    for x, ids in zip(torch.split(images.images, 100), torch.split(images.ids, 100), strict=True):
        signal = seen(model, x.to(target_device), key.for_rows(ids))
        for layer in model.network.layers[: 2 * stage + 1]:
            signal = layer(signal)
        largest = max(largest, float(signal.max()))
    return largest


@dataclass(frozen=True)
class QCFS(Conversion):
    r"""Quantisation clip-floor-shift: the ANN is trained with the rounding that a few time steps cause.

    .. math:: y = \frac{\lambda}{L} \left\lfloor L\,\mathrm{clip}(x / \lambda, 0, 1) + \frac12 \right\rfloor

    with a learned bound `lambda` per layer. For a constant input, a neuron that starts at half its threshold
    fires at exactly this rate when `T = L`, and for other T the expected error is zero; use the neuron
    `primed-if`.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images that determine the scale of a firing output layer, at least 1.
        levels: number of levels `L`, at least 1.
        bound: initial value of `lambda`, positive.

    Source:
        Bu et al. 2022, sections 4.1 and 4.2, theorems 1 and 2.
    """

    levels: int = 8
    bound: float = 8.0

    subtracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels < 1 or not (self.bound > 0 and math.isfinite(self.bound)):
            raise InputError(
                "QCFS needs at least one level and a positive bound",
                f"levels={self.levels}, bound={self.bound}",
                "Try levels: 8 and bound: 8.0.",
            )

    def check(self, neuron: Neuron) -> None:
        super().check(neuron)
        if not isinstance(neuron, PrimedIF) or neuron.initial != 0.5:
            raise InputError(
                "QCFS needs neurons that start at half their threshold",
                f"the neuron {neuron!r}",
                "Use the neuron primed-if with initial: 0.5.",
            )

    def unit(self, rectifier: Spiking) -> nn.Module:
        return Quantised(self.levels, self.bound)

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> Scales:
        bounds = [float(unit.bound) for unit in ann.network.layers if isinstance(unit, Quantised)]
        if min(bounds, default=1.0) <= 0:
            raise InputError(
                "QCFS needs learned bounds that stay positive",
                f"{min(bounds):.3g}",
                "Lower lr, or start with a larger bound.",
            )
        return _chain([*bounds, _largest_logit(ann, images)])


def _largest_logit(ann: Classifier, images: Split) -> float:
    *_, logits = activity(ann, images.images.to(next(ann.parameters()).device))
    return float(logits.max())


@dataclass(frozen=True)
class RateNormLayer(Conversion):
    r"""Rate norm layer: the ANN is trained with rates in [0, 1], and then each threshold is lowered.

    .. math:: r = \mathrm{clip}(x / \theta, 0, 1), \quad \theta = p \max x; \qquad
              L = 1 - \cos(y, y^*) + \frac{\kappa}{l} \sum_l \frac{\sum r_l}{\sum r_l^2}

    First the weights are trained with `p = 1`. Then `p` alone is trained with the loss `L`, whose last term
    bounds how slowly rates converge to the activations; the outputs `y*` are taken before this second stage.
    In the authors' code `y*` comes from the network that is being tuned, so the cosine is always 1 and does
    not hold the outputs, and the best stage is chosen on the test images. Neither is the case here.

    Args:
        ann: how the ANN is trained.
        calibration: number of training images that determine the scale of a firing output layer, at least 1.
        tuning: passes over the training part in the second stage, 0 or more; they are not checkpointed.
        speed: weight `kappa` of the last term of the loss, at least 0.
        share: initial value of `p` in the second stage, in (0, 1).
        lr: learning rate (Adam) of the second stage, positive.

    Source:
        Ding et al. 2021 (Optimal ANN-SNN conversion), sections 3.2 to 3.4.
    """

    tuning: int = 1
    speed: float = 0.1
    share: float = 0.98
    lr: float = 0.01

    subtracts: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tuning < 0 or self.speed < 0 or not 0 < self.share < 1 or not 0 < self.lr < math.inf:
            raise InputError(
                "RateNormLayer needs tuning and speed of at least 0, a share in (0, 1) and a positive lr",
                f"tuning={self.tuning}, speed={self.speed}, share={self.share}, lr={self.lr}",
                "Try the defaults.",
            )

    def unit(self, rectifier: Spiking) -> nn.Module:
        return RateNorm()

    def tune(self, ann: Classifier, data: Dataset, key: Key) -> None:
        """The second stage: lower the thresholds and hold the outputs."""
        units = [unit for unit in ann.network.layers if isinstance(unit, RateNorm)]
        if not units or not self.tuning:
            return
        target_device, size = next(ann.parameters()).device, self.backprop.batch_size
        teacher = copy.deepcopy(ann)
        logit = math.log(self.share / (1 - self.share))
        shares = [nn.Parameter(torch.tensor(logit, device=target_device)) for _ in units]
        for unit, share in zip(units, shares, strict=True):
            unit.share = share
        optimiser = torch.optim.Adam(shares, lr=self.lr)
        for epoch in range(self.tuning):
            order = torch.randperm(len(data.train), generator=key.fold("epoch", epoch).generator())
            for rows in torch.split(order, size):
                x = floats(data.train.images[rows]).to(target_device)
                with torch.no_grad():
                    wanted = teacher(x)
                *answers, outputs = _answers(ann, x)
                rates = [answer / unit.bound for answer, unit in zip(answers, units, strict=True)]
                apart = 1 - F.cosine_similarity(outputs.mean(0), wanted, dim=1).mean()
                slowness = sum((_slowness(r) for r in rates), torch.zeros((), device=target_device)) / len(
                    rates
                )
                optimiser.zero_grad(set_to_none=True)
                grads = torch.autograd.grad(apart + self.speed * slowness, shares)
                for share, grad in zip(shares, grads, strict=True):
                    share.grad = grad
                optimiser.step()

    @torch.no_grad()
    def scales(
        self, ann: Classifier, model: Classifier, maps: list[Affine], images: Split, key: Key
    ) -> Scales:
        thresholds = [float(unit.bound) for unit in ann.network.layers if isinstance(unit, RateNorm)]
        return _chain([*thresholds, _largest_logit(ann, images)])


def _answers(ann: Classifier, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
    """The activations of each layer of units, output layer included."""
    signal, answers = seen(ann, images), []
    for i, layer in enumerate(ann.network.layers):
        signal = layer(signal)
        if i % 2:
            answers.append(signal)
    return answers


def _slowness(rates: Tensor) -> Tensor:
    """A measure of slow convergence, which is smallest where rates are zero or one."""
    return rates.sum() / (rates.square().sum() + 1e-5)

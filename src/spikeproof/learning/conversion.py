r"""Conversion: an ANN is trained, and its weights make a spiking network whose rates are its activations.

Every rule here trains the ANN twin of the model, the same layers with other units, by backpropagation, and
then scales its weights. In a network of integrate-and-fire neurons with reset by subtraction, a layer with
activations `a` should fire at the rates `a / lambda`; a spike counts one and every threshold is `theta`:

.. math:: W'_l = \theta\,\frac{\lambda_{l-1}}{\lambda_l} W_l, \quad b'_l = \frac{\theta}{\lambda_l} b_l

The rules differ in how they come to `lambda`. So a threshold per layer is folded into its weights. A read-out
that never fires is scaled such that its logits are those of the ANN when all rates are exact. Data for
calibration are training images, never others. The model's code should present the image as a current or as
rates; with another code the rates are another function of the image, which may be what one wants to see.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
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
from spikeproof.learning.rule import EpochReport, History, Perturb, Rule
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import IF, BySubtraction, Neuron, PrimedIF, ReLU, Spiking
from spikeproof.protocols import encoded_shape, example_shape, output_width, reads_potential

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
"""Per layer: activations per rate before it and behind it."""


@dataclass(frozen=True)
class Conversion(Rule):
    """What conversions share: train the twin, scale its weights, report the spiking network."""

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
        """The rule of the ANN."""
        assert isinstance(self.ann, BPTT)
        return self.ann

    @property
    def epochs(self) -> int:
        """Those of the ANN, and one that stands for the conversion."""
        return self.backprop.epochs + 1

    def check(self, neuron: Neuron) -> None:
        if not isinstance(neuron, IF) or neuron.synapse is not None:
            raise InputError(
                f"{type(self).__name__} makes networks of integrate-and-fire neurons without leak or synapse",
                f"the neuron {neuron!r}",
                "Use the neuron if.",
            )
        if self.subtracts and not isinstance(neuron.reset, BySubtraction):
            raise InputError(
                f"{type(self).__name__} is defined for reset by subtraction",
                f"the neuron {neuron!r}",
                "Use the neuron if with reset: by-subtraction.",
            )

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
    ) -> History:
        """Train the ANN and convert it; the last report is the spiking network's, those before are the ANN's.

        Args:
            model: a freshly built model, whose weights the ANN starts with.
            data: its training part is learned and calibrated with.
            key: decides the order of examples, and all draws.
            device: where to train; where the model is, if None.
            checkpoint: a file written after every epoch of the ANN, from which an interrupted one goes on.
            on_epoch: called after every epoch of the ANN, and after the conversion.
            on_batch: called after every iteration of the ANN's training.
            perturb: makes the images to train on from each batch.

        Raises:
            InputError: a model that cannot be converted, data that do not fit it, a checkpoint of another
                training, or a loss or weight of the ANN that is no longer finite.
        """
        self.check(model.spec.neuron)
        self._check_spec(model.spec)
        place = torch.device(device or next(model.parameters()).device)
        model.to(place).eval()
        ann = self.twin(model)
        history = self.backprop.train(
            ann,
            data,
            key.fold("ann"),
            device=place,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
            on_batch=on_batch,
            perturb=perturb,
        )
        started = time.perf_counter()
        self.tune(ann, data, key.fold("tuning"))
        chosen = _chosen(data.train, self.calibration, key.fold("calibration"))
        self.convert(ann, model, chosen, key.fold("calibration"))
        report = EpochReport(
            len(history.epochs) + 1,
            self._loss(model, chosen, key.fold("loss")),
            accuracy(model, data.validation, key.fold("validation"), self.backprop.batch_size),
            time.perf_counter() - started,
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
            if not self.biased and stage.norm is not None:
                raise InputError(
                    f"{type(self).__name__} trains a network without biases, and so without normalisation",
                    f"{model.spec.network!r}",
                    "Use batch_norm: false, or another conversion, such as rueckauer.",
                )
            if not self.biased and stage.layer.bias is not None:
                nn.init.zeros_(stage.layer.bias).requires_grad_(False)
        for i, layer in enumerate(ann.network.layers):
            if isinstance(layer, Spiking):
                ann.network.layers[i] = self.unit(layer)
        return ann

    def unit(self, rectifier: Spiking) -> nn.Module:
        """The units of the ANN, given a layer of plain rectifiers."""
        return rectifier

    def tune(self, ann: Classifier, data: Dataset, key: Key) -> None:
        """What is left to learn before weights are scaled: nothing, for most."""

    def convert(self, ann: Classifier, model: Classifier, images: Split, key: Key) -> None:
        """Give the model the weights that make its rates the activations of a trained ANN."""
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
        """Activations per rate around each layer."""
        raise NotImplementedError(f"{type(self).__name__} scales nothing")

    def _check_spec(self, spec: ModelSpec) -> None:
        shape = spec.input_shape
        if encoded_shape(spec.encoder, shape) != shape or example_shape(spec.encoder, shape) != shape:
            raise InputError(
                f"{type(self).__name__} trains an ANN on the image itself",
                f"the code {spec.encoder!r}, from which the network sees something of another shape",
                "Use the code direct, or one of rates.",
            )

        if output_width(spec.decoder, spec.classes) != spec.classes or reads_potential(spec.decoder):
            raise InputError(
                f"{type(self).__name__} trains an ANN with one output per class",
                repr(spec.decoder),
                "Use a decoder with one output neuron per class, such as count or mean-potential.",
            )

    @torch.no_grad()
    def _loss(self, model: Classifier, images: Split, key: Key) -> float:
        total, size = 0.0, self.backprop.batch_size
        parts = (torch.split(part, size) for part in (images.images, images.labels, images.ids))
        place = next(model.parameters()).device
        for x, y, ids in zip(*parts, strict=True):
            outputs = model.outputs(x.to(place), key.for_rows(ids))
            losses = self.backprop.loss(outputs, model.spec.decoder(outputs), y.to(place))
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
    """Logits of the ANN per unit of weight: a constant current of 1 has the mean potential (T + 1) / 2."""
    return 2 / (spec.encoder.steps + 1)


def _chain(behind: list[float]) -> Scales:
    """Scales from what lies behind each layer; a layer that never answers keeps its own."""
    usable = [scale if scale > 0 and math.isfinite(scale) else 1.0 for scale in behind]
    return list(zip([1.0, *usable[:-1]], usable, strict=True))


@dataclass(frozen=True)
class Cao(Conversion):
    r"""Cao et al.: weights are copied as they are, from a rectified network without biases.

    .. math:: \lambda_l = 1

    Rates saturate where activations exceed one spike per step. The source resets to zero, which loses
    what exceeds the threshold; either reset may be used.

    Args:
        ann: how the ANN is trained.
        calibration: training images that the last report's loss is measured on, at least 1.

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

    Without biases this is the source's division by the largest sum of positive weights; the bias is our
    extension, and so is a folded batch normalisation. Safe and slow: rates are far below what they could be.

    Args:
        ann: how the ANN is trained.
        calibration: training images that the last report's loss is measured on, at least 1.

    Raises:
        InputError: in training, a model that normalises its input, for which the bound does not hold.

    Source:
        Diehl et al. 2015, algorithm 1.
    """

    def _check_spec(self, spec: ModelSpec) -> None:
        super()._check_spec(spec)
        if spec.normalise is not None:
            raise InputError(
                "ModelBased bounds rates for inputs in [0, 1]",
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

    The largest weight counts as well, lest a single spike make a neuron fire twice.

    Args:
        ann: how the ANN is trained.
        calibration: training images whose activations are looked at, at least 1.

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

    over all units and calibration images, zeros included. Robust against outliers, whose rates saturate.
    Biases are scaled along, batch normalisation is folded into weights, excess over the threshold is kept.

    Args:
        ann: how the ANN is trained.
        calibration: training images whose activations are looked at, at least 1.
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
    r"""Spike-norm: each threshold is the largest weighted input that spikes really bring to the layer.

    .. math:: v_l = \max_{t, i} (W_l\,s_{l-1}[t] + b_l / \lambda_{l-1})_i, \quad \lambda_l = v_l \lambda_{l-1}

    One layer after the other, with the spikes of the layers before it as they are after their own
    normalisation, and with the model's own code and number of steps. Biases are our extension.

    Args:
        ann: how the ANN is trained.
        calibration: training images whose spikes are looked at, at least 1.

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
    largest, place = -math.inf, next(model.parameters()).device
    for x, ids in zip(torch.split(images.images, 100), torch.split(images.ids, 100), strict=True):
        signal = seen(model, x.to(place), key.for_rows(ids))
        for layer in model.network.layers[: 2 * stage + 1]:
            signal = layer(signal)
        largest = max(largest, float(signal.max()))
    return largest


@dataclass(frozen=True)
class QCFS(Conversion):
    r"""Quantisation clip-floor-shift: the ANN learns with the rounding that a few time steps will do.

    .. math:: y = \frac{\lambda}{L} \left\lfloor L\,\mathrm{clip}(x / \lambda, 0, 1) + \frac12 \right\rfloor

    with a learned bound `lambda` per layer. For a constant input, a neuron that starts at half its threshold
    fires at exactly this rate when `T = L`, and for other T the expected error is zero; use the neuron
    `primed-if`.

    Args:
        ann: how the ANN is trained.
        calibration: training images that the scale of a firing read-out is taken from, at least 1.
        levels: `L`, at least 1.
        bound: `lambda` before training, positive.

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
                "QCFS rounds as neurons do that start at half their threshold",
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
                "The bounds that QCFS learns stay positive",
                f"{min(bounds):.3g}",
                "Lower lr, or begin with a larger bound.",
            )
        return _chain([*bounds, _largest_logit(ann, images)])


def _largest_logit(ann: Classifier, images: Split) -> float:
    *_, logits = activity(ann, images.images.to(next(ann.parameters()).device))
    return float(logits.max())


@dataclass(frozen=True)
class RateNormLayer(Conversion):
    r"""Rate norm layer: the ANN learns with rates in [0, 1], and then how low each threshold may be.

    .. math:: r = \mathrm{clip}(x / \theta, 0, 1), \quad \theta = p \max x; \qquad
              L = 1 - \cos(y, y^*) + \frac{\kappa}{l} \sum_l \frac{\sum r_l}{\sum r_l^2}

    First the weights are learned with `p = 1`, then `p` alone with the second loss, whose last part bounds
    how slowly rates come near the activations; the outputs `y*` are those before this second stage. In the
    authors' code `y*` comes from the very network that is being tuned, so that the cosine is always 1 and
    nothing holds the outputs; and the best stage is chosen on the test images. Here neither is so.

    Args:
        ann: how the ANN is trained.
        calibration: training images that the scale of a firing read-out is taken from, at least 1.
        tuning: passes over the training part in the second stage, 0 or more; they are not checkpointed.
        speed: `kappa`, at least 0.
        share: `p` before the second stage, in (0, 1).
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
        """The second stage: lower thresholds, the outputs held."""
        units = [unit for unit in ann.network.layers if isinstance(unit, RateNorm)]
        if not units or not self.tuning:
            return
        place, size = next(ann.parameters()).device, self.backprop.batch_size
        teacher = copy.deepcopy(ann)
        logit = math.log(self.share / (1 - self.share))
        shares = [nn.Parameter(torch.tensor(logit, device=place)) for _ in units]
        for unit, share in zip(units, shares, strict=True):
            unit.share = share
        optimiser = torch.optim.Adam(shares, lr=self.lr)
        for epoch in range(self.tuning):
            order = torch.randperm(len(data.train), generator=key.fold("epoch", epoch).generator())
            for rows in torch.split(order, size):
                x = floats(data.train.images[rows]).to(place)
                with torch.no_grad():
                    wanted = teacher(x)
                *told, outputs = _answers(ann, x)
                rates = [answer / unit.bound for answer, unit in zip(told, units, strict=True)]
                apart = 1 - F.cosine_similarity(outputs.mean(0), wanted, dim=1).mean()
                slowness = sum((_slowness(r) for r in rates), torch.zeros((), device=place)) / len(rates)
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
    """What each layer of units answers, read-out included."""
    signal, answers = seen(ann, images), []
    for i, layer in enumerate(ann.network.layers):
        signal = layer(signal)
        if i % 2:
            answers.append(signal)
    return answers


def _slowness(rates: Tensor) -> Tensor:
    """Least where rates are zero or one, which spikes show at once."""
    return rates.sum() / (rates.square().sum() + 1e-5)

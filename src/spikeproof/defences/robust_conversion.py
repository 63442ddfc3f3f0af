"""Conversion of a robust ANN into a spiking network, which is then trained on adversarial images itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.attacks.gradient.iterated import RFGSM
from spikeproof.datasets import ClassProportional, Dataset, floats
from spikeproof.defences.adversarial import TRADES, Adversarial
from spikeproof.defences.defended import Defended
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.backprop import BPTT
from spikeproof.learning.from_ann.balancing import SpikeNorm
from spikeproof.learning.from_ann.conversion import Conversion
from spikeproof.learning.from_ann.scalegraph import scale_graph
from spikeproof.learning.rule import Defence, EpochReport, History, Perturb, Rule
from spikeproof.losses import KL
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Neuron
from spikeproof.threats import Linf

__all__ = ["RobustConversion", "lower_thresholds", "renormalise"]

SEEN = 256
"""Number of training images, drawn class by class, on which batch normalisation is measured again."""


@dataclass(frozen=True)
class RobustConversion(Rule):
    r"""Conversion of a robust ANN: its weights, lower thresholds, and fine-tuning on adversarial images.

    .. math:: \theta_l = s\,\max_{t, i} I_{l, i}[t], \quad s = 0.3

    First the ANN is trained with a defence and converted, with the largest current that spikes cause in a
    layer for its threshold (`spike-norm`). Then all thresholds are lowered by the factor s, since few time
    steps leave high thresholds silent, and the spiking network is trained further. A threshold is folded into
    weights and bias of its layer, which training changes; the paper trains thresholds as well, a redundant
    scale. Batch normalisation gets the statistics of the spiking network before the fine-tuning, measured on
    256 training images, in which each class has its share.

    Args:
        conversion: a conversion within a defence, which trains the ANN.
        tuning: how the spiking network is trained further; published: TRADES with beta 2, images by R+FGSM
            within 2/255, for 60 epochs with a learning rate of 0.001.
        scale: `s`, in (0, 1].

    Raises:
        InputError: a setting is out of range, there is no conversion inside, or a reason of either rule.

    Example:
        >>> RobustConversion().epochs
        21

    Source:
        Oezdenizci & Legenstein 2024 (RobustSNNConversion), section 4, and its published code.
    """

    conversion: Rule = Adversarial(SpikeNorm(BPTT()), Linf(2 / 255))
    tuning: Rule = TRADES(BPTT(), Linf(2 / 255), attack=RFGSM(objective=KL()), beta=2.0)
    scale: float = 0.3

    def __post_init__(self) -> None:
        inner = self.conversion
        while isinstance(inner, Defended):
            inner = inner.of
        if not isinstance(inner, Conversion) or not 0 < self.scale <= 1:
            raise InputError(
                "RobustConversion needs a conversion, with or without defences, and a scale in (0, 1]",
                f"conversion={self.conversion!r}, scale={self.scale}",
                "Try conversion: {adversarial: {of: spike-norm}} and scale: 0.3.",
            )

    @property
    def epochs(self) -> int:
        """The epochs of the ANN, one that stands for the conversion, and those of the fine-tuning."""
        parts = (self.conversion, self.tuning)
        return sum(int(getattr(rule, "epochs", 0)) for rule in parts)

    def check(self, neuron: Neuron) -> None:
        self.conversion.check(neuron)
        self.tuning.check(neuron)

    def check_model(self, model: Classifier) -> None:
        self.conversion.check_model(model)
        self.tuning.check_model(model)

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
        """Train and convert the ANN, and train the spiking network further; the epochs count on.

        Args:
            model: a freshly built model, whose weights the ANN starts with.
            data: its training part is used for both trainings and for the conversion.
            key: decides the order of examples, and all draws.
            device: the device to train on; None for the model's own.
            checkpoint: the file of the fine-tuning; that of the ANN lies beside it until the end.
            on_epoch: called after every epoch of either training, and after the conversion.
            on_batch: called after every iteration, with counts of the training that it belongs to.
            perturb: makes images to train on, in both trainings.
            defences: further defences of both trainings.

        Raises:
            InputError: the model cannot be converted, or a reason of either training.
        """
        self.check_model(model)
        first = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.name}-ann")
        before = self.conversion.train(
            model,
            data,
            key.fold("conversion"),
            device=device,
            checkpoint=first,
            on_epoch=on_epoch,
            on_batch=on_batch,
            perturb=perturb,
            defences=defences,
        )
        seen = key.fold("statistics")
        few = ClassProportional(seed=seen.seed())(data.train, min(SEEN, len(data.train)))
        images = floats(few.images).to(next(model.parameters()).device)
        lower_thresholds(model, self.scale)
        renormalise(model, images, seen.for_rows(few.ids))
        done = len(before.epochs)

        def counted_on(report: EpochReport) -> None:
            if on_epoch is not None:
                on_epoch(replace(report, epoch=report.epoch + done))

        after = self.tuning.train(
            model,
            data,
            key.fold("tuning"),
            device=device,
            checkpoint=checkpoint,
            on_epoch=counted_on,
            on_batch=on_batch,
            perturb=perturb,
            defences=defences,
        )
        if first is not None:
            first.unlink(missing_ok=True)
        later = (replace(report, epoch=report.epoch + done) for report in after.epochs)
        return History((*before.epochs, *later))


@torch.no_grad()
def lower_thresholds(model: Classifier, scale: float) -> None:
    """Multiply the threshold of every firing layer, by dividing its weights and biases instead.

    Args:
        model: a converted network, in place.
        scale: factor of the thresholds, positive.
    """
    graph = scale_graph(model.network)
    silent = None if model.spec.decoder.reads_spikes else len(graph.groups) - 1
    for link in graph.links:
        if link.behind != silent:
            link.weights.write(link.weights.folded().scaled(1 / scale, 1 / scale))


@torch.no_grad()
def renormalise(model: Classifier, images: Float[Tensor, "N C H W"], key: Key) -> None:
    """Give batch normalisation the statistics of its input, such that no answer of the model changes.

    Args:
        model: in place; it stays in evaluation mode.
        images: on which the statistics are measured.
        key: randomness of the encoder.
    """
    norms = [layer for layer in model.network.modules() if isinstance(layer, nn.BatchNorm2d)]
    inputs: dict[nn.Module, Tensor] = {}

    def see(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        inputs[layer] = given[0].double()

    hooks = [norm.register_forward_pre_hook(see) for norm in norms]
    try:
        model.eval()(images, key)
    finally:
        for hook in hooks:
            hook.remove()
    for norm in norms:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        gain = norm.weight / (norm.running_var + norm.eps).sqrt()
        shift = norm.bias - gain * norm.running_mean
        var, mean = torch.var_mean(inputs[norm], dim=(0, 2, 3), correction=0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(var)
        norm.weight.copy_(gain * (var + norm.eps).sqrt())
        norm.bias.copy_(shift + gain * mean)

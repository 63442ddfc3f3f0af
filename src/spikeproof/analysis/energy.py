"""What an inference costs: operations of the synapses, and the energy that is customarily given for them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from spikeproof.analysis.activity import listening
from spikeproof.decoders import decide
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.architecture import PooledConv2d
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.recurrent import is_recurrent

__all__ = ["Cost", "LayerCost", "Tariff", "inference_cost"]


@dataclass(frozen=True)
class Tariff:
    """The energy of one operation.

    Args:
        accumulate: of one addition of a synapse that a spike reaches, in pJ, at least 0.
        multiply: of one multiplication and addition, in pJ, at least 0.

    Raises:
        InputError: an energy is negative or not a number.

    Source:
        Horowitz 2014 (ISSCC), 32-bit floating point in 45 nm: 0.9 pJ for an addition, 3.7 pJ for a
        multiplication. Memory traffic, which costs more than either, is not counted.
    """

    accumulate: float = 0.9
    multiply: float = 4.6

    def __post_init__(self) -> None:
        if not all(value >= 0 and math.isfinite(value) for value in (self.accumulate, self.multiply)):
            raise InputError("Energies are at least 0 pJ", f"{self}", "Try accumulate=0.9, multiply=4.6.")


class LayerCost(NamedTuple):
    """Operations of one linear layer, for each example."""

    layer: str
    accumulates: Int64[Tensor, "B"]
    multiplies: Int64[Tensor, "B"]


class Cost(NamedTuple):
    """Operations and energy of an inference, for each example, up to the decision, and the answer."""

    layers: list[LayerCost]
    accumulates: Int64[Tensor, "B"]
    multiplies: Int64[Tensor, "B"]
    spikes: Float[Tensor, "B"]
    steps: Float[Tensor, "B"]  # until the decision
    picojoules: Float[Tensor, "B"]
    answers: Int64[Tensor, "B"]  # -1 for a tie


@torch.no_grad()
def inference_cost(
    model: Classifier,
    images: Float[Tensor, "B C H W"],
    key: Key | None = None,
    tariff: Tariff = Tariff(),
) -> Cost:
    r"""Operations of all synapses for each image, until the decision, and their energy.

    .. math:: E = E_{AC} \sum_{l,t,i} s_i^l[t]\, f_i^l + E_{MAC} \sum_{l'} \text{MAC}_{l'}

    :math:`f_i^l` is the number of synapses that leave input i of the linear layer l, counted exactly, so
    fewer at the edge of an image. A layer whose input consists of spikes accumulates: one addition for each
    synapse that a spike reaches, n for a count of n spikes. A layer with any other input, such as an image
    under direct coding, a filtered spike train or a mean over channels, multiplies: once for every synapse,
    and once for all time steps if its input is the same at each. A convolution followed by average pooling is
    the one convolution that it is computed as; batch normalisation is part of the weights; the neurons
    themselves cost nothing here. With an early exit, steps after the decision do not count. Whether the input
    of a layer consists of spikes is judged image by image, so that no cost depends on other images.

    Args:
        model: whose inference is counted.
        images: in [0, 1].
        key: as for a call of the model.
        tariff: energy of each operation.

    Raises:
        InputError: there are no images, the model is none of ours, it computes with spike times instead of
            time steps, or it has recurrent synapses, which are not counted.

    Example:
        >>> from spikeproof import Count, Latency, LIF, ATan, MLP, ModelSpec
        >>> model = ModelSpec(Latency(4), MLP(()), LIF(), ATan(), Count(), (1, 2, 2), 3).build(Key.of(0))
        >>> cost = inference_cost(model, torch.tensor([[[[1.0, 0.5], [0.2, 0.0]]]]))
        >>> cost.accumulates.tolist(), cost.multiplies.tolist()
        ([9], [0])

    Source:
        Rueckauer et al. 2017; Kundu et al. 2021 (HIRE-SNN), section 4.4, and later tables of synaptic
        operations, which multiply layer averages instead of counting.
    """
    if not isinstance(model, Classifier) or not len(images):
        raise InputError(
            "inference_cost() needs a model of ours and at least one image",
            f"{type(model).__name__}, {len(images)} images",
            "Build one with ModelSpec.build, or read one with spikeproof.load.",
        )
    if getattr(model.encoder, "timed", False):
        raise InputError(
            "Operations are counted per time step",
            f"the encoder {model.encoder!r}, which gives spike times",
            "Count spikes instead.",
        )
    if is_recurrent(model.spec.network, model.spec.neuron):
        raise InputError(
            "Operations are counted in networks without recurrent synapses",
            f"{model.spec.network!r} with {model.spec.neuron!r}",
            "Count spikes instead.",
        )
    linear: dict[str, nn.Module] = {
        name: module
        for name, module in model.network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d))
    }
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    encoded = model.encode(images, key)
    with listening(linear, heard):
        inference = model.infer(images, key)
    batch, total = len(images), len(encoded)
    decided = torch.where(inference.exit.isnan(), float(total), inference.exit)
    used = torch.arange(total, device=images.device)[:, None] < decided
    layers = list[LayerCost]()
    for name, module in linear.items():
        if name not in heard:
            continue
        given = heard[name][0]
        if not layers:  # the encoded input, without the normalisation that weights would absorb
            once = len(given) == batch and total > 1
            given = (encoded[:1] if once else encoded).reshape(given.shape)
        steps = len(given) // batch
        spiking = _spikes(given, batch) if layers or model.encoder.spiking else torch.zeros_like(used[0])
        reached = _reached(module, given).view(steps, batch).round().long()
        times = total // steps  # a constant input arrives at every step
        counted = torch.where(used, reached.repeat(times, 1), 0).sum(0)
        dense = _reached(module, torch.ones_like(given[:1])).round().long()
        often = decided.long() if steps > 1 else torch.ones_like(decided).long()
        layers.append(
            LayerCost(name, torch.where(spiking, counted, 0), torch.where(spiking, 0, dense * often))
        )
    none = torch.zeros(batch, dtype=torch.int64, device=images.device)
    accumulates = sum((layer.accumulates for layer in layers), none)
    multiplies = sum((layer.multiplies for layer in layers), none)
    energy = accumulates.double() * tariff.accumulate + multiplies.double() * tariff.multiply
    answers = decide(inference.logits)
    return Cost(layers, accumulates, multiplies, inference.spikes, decided, energy.float(), answers)


def _spikes(values: Tensor, batch: int) -> Tensor:
    """Whether the values of each example, at every step, are numbers of spikes, `[B]`."""
    whole = (values >= 0) & (values == values.round())
    return whole.reshape(len(values) // batch, batch, -1).all(2).all(0)


def _reached(module: nn.Module, spikes: Tensor) -> Tensor:
    """Synapses that the spikes reach, a spike counted as often as its value says, for each row."""
    spikes = spikes.double()
    if isinstance(module, nn.Linear):
        return spikes.reshape(len(spikes), -1).sum(1) * module.out_features
    assert isinstance(module, nn.Conv2d)
    size: tuple[int, int] = (4, 4) if isinstance(module, PooledConv2d) else module.kernel_size  # type: ignore[assignment]
    stride = (2, 2) if isinstance(module, PooledConv2d) else module.stride
    padding = (1, 1) if isinstance(module, PooledConv2d) else module.padding
    together = spikes.sum(1, keepdim=True)  # every input channel of a group reaches all of its outputs
    ones = spikes.new_ones(1, 1, *size)
    covered = F.conv2d(together, ones, None, stride, padding, module.dilation)
    return covered.sum((1, 2, 3)) * (module.out_channels // module.groups)

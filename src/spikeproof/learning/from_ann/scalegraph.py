r"""The graph of scales: between which layers of neurons the weights lie, and which layers share a scale.

Every layer of neurons has a scale, the activation for which one spike per step stands. Weights lie between
the scale of what they receive and the scale of the neurons that their current drives. Several currents may
drive the same neurons, as in a residual block, and then all of them have one output scale. Where the spikes
of several layers are summed, as in a block of SEW-ResNet, these layers share one scale. Pooling and
flattening commute with a positive factor, so they lie on the edges.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.datasets import Split
from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.learning.from_ann.activations import Quantised, RateNorm
from spikeproof.learning.from_ann.folding import Identity, Stage, Weights
from spikeproof.networks.architecture import Observed, OverTime, SpikingNetwork
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.deep import GlobalPool, Residual
from spikeproof.networks.pooling import GatedMaxPool
from spikeproof.neurons import Integrator, Spiking

__all__ = ["Heard", "Link", "ScaleGraph", "activity", "neurons_of", "passes", "scale_graph", "seen"]

NEURONS = (Spiking, Integrator, Observed, Quantised, RateNorm)
"""Layers of neurons of a spiking network, and layers of units of an ANN."""


@dataclass(frozen=True)
class Link:
    """Weights between two scales.

    Args:
        weights: of the link.
        before: the layer of neurons whose scale the input has, counted from 1; 0 for the network's input.
        behind: the layer of neurons that the current drives.
        terms: how many trains of spikes are summed in the input.
    """

    weights: Weights
    before: int
    behind: int
    terms: int = 1


@dataclass(frozen=True)
class ScaleGraph:
    """The links of a network, and the groups of layers of neurons that share a scale.

    Args:
        links: in the order of the forward pass.
        groups: for the input and every layer of neurons, the first layer of its group.
    """

    links: tuple[Link, ...]
    groups: tuple[int, ...]

    def into(self, layer: int) -> list[Link]:
        """The links whose currents drive this layer of neurons."""
        return [link for link in self.links if link.behind == layer]

    def shared(self, scales: Sequence[float]) -> list[float]:
        """Scales of the input and of all layers, the largest in each group.

        Args:
            scales: of each layer of neurons; one that is not positive and finite becomes 1.
        """
        usable = [1.0, *(scale if scale > 0 and math.isfinite(scale) else 1.0 for scale in scales)]
        members = enumerate(self.groups)
        largest: dict[int, float] = {}
        for layer, group in members:
            largest[group] = max(largest.get(group, 0.0), usable[layer])
        return [largest[group] for group in self.groups]


@dataclass(frozen=True)
class _Signal:
    """What a layer passes on: spikes with a scale, or, with open links, a current."""

    scale: int
    terms: int = 1
    links: tuple[Link, ...] = ()
    real: bool = False  # activations of an ANN, which have no time


@dataclass
class _Tracer:
    """The way through a network, layer by layer."""

    links: list[Link] = field(default_factory=list)
    groups: list[int] = field(default_factory=lambda: [0])

    def through(self, layers: Iterable[nn.Module], signal: _Signal) -> _Signal:
        for layer in layers:
            if isinstance(layer, Residual):
                branch = self.through(layer.layers, signal)
                signal = self.joined(layer, branch, self.through(layer.shortcut.layers, signal))
            elif isinstance(layer, OverTime):
                signal = self.still(list(layer.children()), signal)
            elif isinstance(layer, GatedMaxPool) and not signal.links:
                pass
            elif isinstance(layer, NEURONS):
                signal = self.neurons(layer, signal)
            else:
                raise _refused(f"the layer {type(layer).__name__}")
        return signal

    def still(self, parts: Sequence[nn.Module], signal: _Signal) -> _Signal:
        """Layers without memory."""
        for i, part in enumerate(parts):
            match part:
                case nn.Linear() | nn.Conv2d():
                    if signal.links:
                        raise _refused(f"{type(part).__name__} behind another layer with weights")
                    following = parts[i + 1] if i + 1 < len(parts) else None
                    norm = following if isinstance(following, nn.BatchNorm2d) else None
                    link = Link(Stage(part, norm), signal.scale, 0, signal.terms)
                    signal = _Signal(0, 1, (link,))
                case nn.BatchNorm2d() if i and isinstance(parts[i - 1], nn.Conv2d):
                    pass
                case nn.Flatten() | nn.AvgPool2d() | GlobalPool():
                    pass
                case nn.MaxPool2d() if signal.real and not signal.links:
                    pass
                case nn.MaxPool2d():
                    raise InputError(
                        "Conversion needs pooling whose rates are those of the ANN's",
                        "max pooling of the spikes of each step, whose rate exceeds the largest one",
                        "Use pool: gated-max or average; for a residual network stem: large-gated or small.",
                    )
                case _:
                    raise _refused(type(part).__name__)
        return signal

    def neurons(self, layer: nn.Module, signal: _Signal) -> _Signal:
        if not signal.links:
            raise _refused(f"{type(layer).__name__} without weights before it")
        number = len(self.groups)
        self.links += [replace(link, behind=number) for link in signal.links]
        self.groups.append(number)
        unit = getattr(layer, "neuron", None)
        return _Signal(number, real=unit is None or not unit.spiking)

    def joined(self, block: Residual, branch: _Signal, shortcut: _Signal) -> _Signal:
        if block.join is not torch.add:
            raise InputError(
                "Conversion needs blocks whose two paths are added",
                "a block that multiplies spikes; the mean of a product depends on when spikes coincide, and "
                "not on the rates of the two paths alone",
                "Use sew-resnet with connect: add, or resnet18.",
            )
        if branch.links and not shortcut.links:
            link = Link(Identity(block), shortcut.scale, 0, shortcut.terms)
            return _Signal(0, 1, (*branch.links, link))
        if branch.links:
            return _Signal(0, 1, (*branch.links, *shortcut.links))
        if shortcut.links or 0 in (self.groups[branch.scale], self.groups[shortcut.scale]):
            raise _refused("a residual block that adds spikes of neurons to something else")
        self.share(branch.scale, shortcut.scale)
        return _Signal(branch.scale, branch.terms + shortcut.terms, real=branch.real)

    def share(self, one: int, other: int) -> None:
        first, second = sorted((self.groups[one], self.groups[other]))
        self.groups = [first if group == second else group for group in self.groups]


def scale_graph(network: SpikingNetwork) -> ScaleGraph:
    """The graph of scales of a network or of its ANN twin, whose graphs are the same.

    Raises:
        InputError: the network has layers that a conversion has no meaning for.

    Example:
        >>> from spikeproof import ATan, Count, Direct, IF, Key, ModelSpec, ResNet18
        >>> spec = ModelSpec(Direct(), ResNet18((1, 1, 1, 1), 0.05), IF(), ATan(), Count(), (1, 8, 8), 10)
        >>> graph = scale_graph(spec.build(Key.of(0)).network)
        >>> [(link.before, link.behind) for link in graph.links][:4]
        [(0, 1), (1, 2), (2, 3), (1, 3)]
    """
    tracer = _Tracer()
    end = tracer.through(network.layers, _Signal(0))
    if end.links:
        raise _refused("a network that ends with weights")
    return ScaleGraph(tuple(tracer.links), tuple(tracer.groups))


def _refused(got: str) -> InputError:
    return InputError(
        "Conversion needs layers with weights, each followed by neurons, and pooling",
        got,
        "Use mlp, convnet, a vgg, resnet18, resnet19 or sew-resnet with neurons that have no synapse.",
    )


def neurons_of(layers: Iterable[nn.Module]) -> list[nn.Module]:
    """The layers of neurons or units in the order in which the graph counts them, from 1."""
    found = list[nn.Module]()
    for layer in layers:
        if isinstance(layer, Residual):
            found += [*neurons_of(layer.layers), *neurons_of(layer.shortcut.layers)]
        elif isinstance(layer, NEURONS):
            found.append(layer)
    return found


class Heard(NamedTuple):
    """A layer of neurons, the current into it and what it answers, batch by batch."""

    layer: nn.Module
    current: list[Tensor]
    answer: list[Tensor]


def passes(
    layers: Iterable[nn.Module], batches: list[Float[Tensor, "T B *F"]]
) -> Generator[Heard, None, list[Tensor]]:
    """A forward pass that stops at every layer of neurons, in the order in which the graph counts them."""
    for layer in layers:
        if isinstance(layer, Residual):
            branch = yield from passes(layer.layers, batches)
            shortcut = yield from passes(layer.shortcut.layers, batches)
            batches = [layer.joined(*paths) for paths in zip(branch, shortcut, strict=True)]
            continue
        answers = [layer(batch) for batch in batches]
        if isinstance(layer, NEURONS):
            yield Heard(layer, batches, answers)
        batches = answers
    return batches


def activity(ann: Classifier, images: Split, key: Key) -> Iterator[Float[Tensor, "M"]]:
    """The activations of each layer of units in turn, output layer included, in no particular order."""
    target_device, size = next(ann.parameters()).device, 100
    parts = zip(torch.split(images.images, size), torch.split(images.ids, size), strict=True)
    batches = [seen(ann, x.to(target_device), key.for_rows(ids)) for x, ids in parts]
    for heard in passes(ann.network.layers, batches):
        yield torch.cat([answer.flatten() for answer in heard.answer])


def seen(model: Classifier, images: Float[Tensor, "B *F"], key: Key | None = None) -> Float[Tensor, "T B *G"]:
    """The input of the network's first layer over time."""
    encoded = model.encoder(images, key).to(next(model.network.parameters()).dtype)
    return model.spec.normalise(encoded) if model.spec.normalise else encoded

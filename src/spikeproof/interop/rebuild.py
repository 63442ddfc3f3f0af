"""A wrapped network rebuilt with our layers, where its neurons have exact twins here.

Which layers follow each other is seen in one forward pass. The result is compared with the network itself on
data, so that a twin that is none is refused and never measured.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.decoders import Count, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.interop.frameworks.adapters import Adapter, Layout, NoTwinError, Twin, derives
from spikeproof.interop.frameworks.wrapped import AsItIs, TheirEncoder, Wrapped
from spikeproof.keys import Key
from spikeproof.networks.architecture import Architecture, OverTime, Parts, SpikingNetwork
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import Integrator, LinearUnit, Spiking
from spikeproof.protocols import Decoder
from spikeproof.surrogates import ATan

__all__ = ["Chain", "rebuilt"]


@dataclass(frozen=True)
class Chain(Architecture):
    """The layers of a network that was trained elsewhere, one after the other.

    Args:
        layers: over time.
    """

    layers: tuple[nn.Module, ...]

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        return SpikingNetwork(copy.deepcopy(self.layers))

    def __repr__(self) -> str:
        return f"Chain of {len(self.layers)} layers"


class _Called(NamedTuple):
    """A layer in the order of a forward pass."""

    module: nn.Module
    given: Tensor
    answer: Tensor


def rebuilt(model: Wrapped, x: Float[Tensor, "N C H W"]) -> Classifier:
    """The network with our layers, its weights shared where they are not scaled.

    Args:
        model: a wrapped network of layers one after the other: linear, convolution, pooling, batch
            normalisation, flattening, and integrate-and-fire neurons with or without leak.
        x: images on which logits must agree to the bit.

    Raises:
        InputError: layers that have no twin, operations between layers, or other logits; the message has
            the difference.
    """
    if len(model.reading.shape) != 3:
        _refuse("images [B, C, H, W]", f"examples of shape {list(model.reading.shape)}")
    chain = _chain(model, x)
    layers, twins = _layers(chain, model.adapters)
    if not twins:
        _refuse("neurons that spike", "none")
    steps = (
        len(model.respond(model.encode(x[:1], _key(1)), _key(1))) if _over_time(model) else _steps(model, x)
    )
    encoder = Direct(steps) if isinstance(model.encoder, AsItIs) else model.encoder
    if isinstance(encoder, TheirEncoder):
        _refuse("an encoder of ours", repr(encoder))
    expected = model(x, _key(len(x))).detach()
    mean: Decoder = MeanPotential()
    if not isinstance(layers[-1], Spiking):
        mean = MeanCurrent()
        layers.append(Integrator(LinearUnit()))
    readers: list[Decoder] = [mean, Count()]
    if _over_time(model):
        readers = [mean if isinstance(model.decoder, MeanPotential) else model.decoder]
    found = []
    for decoder in readers:
        channels, height, width = model.reading.shape
        shape, network = (channels, height, width), Chain(tuple(layers))
        spec = ModelSpec(encoder, network, twins[0].neuron, ATan(), decoder, shape, model.classes)
        made = Classifier(spec, SpikingNetwork(layers)).eval()
        with torch.no_grad():
            logits = made(x, _key(len(x)))
        if torch.equal(logits, expected):
            return made
        found.append(logits)
    distance, rows = min((float((each - expected).abs().max()), _unlike(each, expected)) for each in found)
    raise InputError(
        "A network whose logits are those of its twin in our layers, to the bit",
        f"a difference of up to {distance:.3g}, on {rows} of {len(x)} examples",
        "Leave out convert: the wrapped network answers as in its own framework.",
    )


def _unlike(a: Tensor, b: Tensor) -> int:
    return int((a != b).any(1).sum())


def _key(n: int) -> Key:
    return Key.of(0).for_rows(range(n))


def _over_time(model: Wrapped) -> bool:
    """Whether the outputs of every step are seen."""
    return model.reading.axes is not None


def _refuse(expected: str, got: str) -> NoReturn:
    raise InputError(
        f"To be rebuilt, a network needs {expected}", got, "Leave out convert, and measure it as it is."
    )


@torch.no_grad()
def _chain(model: Wrapped, x: Tensor) -> list[_Called]:
    """The layers in the order of the first time step.

    Raises:
        InputError: something besides layers works between them.
    """
    seen: list[_Called] = []
    with _noting(model, seen):
        model(x[:2], _key(2))
    first = next((i for i, each in enumerate(seen) if i and each.module is seen[0].module), len(seen))
    chain = seen[:first]
    if not chain:
        _refuse("layers that are modules", "none")
    for before, after in pairwise(chain):
        if before.answer.data_ptr() != after.given.data_ptr() or before.answer.numel() != after.given.numel():
            between = f"{type(before.module).__name__} and {type(after.module).__name__}"
            _refuse("layers one after the other", f"an operation between {between}")
    return chain


@contextmanager
def _noting(model: Wrapped, seen: list[_Called]) -> Iterator[None]:
    """Note every call of a layer: a module without modules inside, or a neuron."""
    spots = {id(spot.module) for spot in model.spots()}
    within = {id(part) for spot in model.spots() for part in spot.module.modules()} - spots

    def note(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor | tuple[Tensor, ...]) -> None:
        first = answer[0] if isinstance(answer, tuple) else answer
        seen.append(_Called(module, given[0], first))

    leaves = [
        module
        for module in model.nets.modules()
        if id(module) not in within and (id(module) in spots or not list(module.children()))
    ]
    handles = [module.register_forward_hook(note) for module in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _steps(model: Wrapped, x: Tensor) -> int:
    """Number of time steps of a network in which time passes inside."""
    if model.reading.layout is not Layout.INSIDE:
        return model.encoder.steps
    seen: list[_Called] = []
    with torch.no_grad(), _noting(model, seen):
        model(x[:2], _key(2))
    last = seen[-1]
    for adapter in model.adapters:
        extent = adapter.extent(last.module, last.given)
        if extent is not None:
            return extent[0] * sum(each.module is last.module for each in seen)
    _refuse("neurons in its last layer", type(last.module).__name__)


def _layers(chain: Sequence[_Called], adapters: Sequence[Adapter]) -> tuple[list[nn.Module], list[Twin]]:
    """Our layers in place of theirs."""
    layers, twins, waiting = list[nn.Module](), list[Twin](), list[nn.Module]()
    for place, each in enumerate(chain):
        twin = _twin(each.module, adapters)
        if twin is not None:
            layers += [OverTime(*_scaled(waiting, twin.gain)), Spiking(twin.neuron, ATan())]
            twins.append(twin)
            waiting = []
            continue
        if place == 0 and isinstance(each.module, nn.Linear):
            waiting.append(nn.Flatten())
        waiting += _plain(each.module, chain[place - 1].answer if place else each.given, each.given)
    if waiting:
        layers.append(OverTime(*waiting))
    return layers, twins


def _plain(module: nn.Module, before: Tensor, given: Tensor) -> list[nn.Module]:
    """A layer without memory as PyTorch has it, with the same weights."""
    flattened = [nn.Flatten()] if isinstance(module, nn.Linear) and before.ndim > given.ndim else []
    match module:
        case nn.Linear():
            new: nn.Module = nn.Linear(module.in_features, module.out_features, module.bias is not None)
        case nn.Conv2d() if isinstance(module.padding, tuple) or module.padding:
            new = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                module.dilation,  # type: ignore[arg-type]
                module.groups,
                module.bias is not None,
                module.padding_mode,
            )
        case nn.AvgPool2d():
            new = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, module.ceil_mode)
        case nn.MaxPool2d() if not module.return_indices:
            windows = (module.kernel_size, module.stride, module.padding, module.dilation)
            new = nn.MaxPool2d(*windows, ceil_mode=module.ceil_mode)
        case nn.BatchNorm2d():
            new = nn.BatchNorm2d(module.num_features, module.eps)
        case nn.Flatten():
            return [nn.Flatten()]
        case nn.Dropout() | nn.Dropout2d() | nn.Identity():
            return []
        case _:
            if type(module).__name__.startswith("Dropout") and derives(module, "spikingjelly"):
                return []
            _refuse("layers that we have as well", type(module).__name__)
    for name, weight in module.named_parameters():
        new.register_parameter(name, nn.Parameter(weight.detach(), weight.requires_grad))
    for name, buffer in module.named_buffers():
        new.register_buffer(name, buffer)
    return [*flattened, new.eval()]


def _scaled(layers: list[nn.Module], gain: float) -> list[nn.Module]:
    """Layers whose output is multiplied, by the weights of the last that has any."""
    if gain == 1:
        return layers
    weighted = [layer for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d, nn.BatchNorm2d))]
    if not weighted:
        _refuse("weights before each neuron whose input is scaled", "none")
    for parameter in weighted[-1].parameters():
        parameter.data = parameter.data * gain
    return layers


def _twin(module: nn.Module, adapters: Sequence[Adapter]) -> Twin | None:
    """The neuron of ours with the same equation; None for layers without memory.

    Raises:
        InputError: a neuron that has none.
    """
    try:
        twins = [adapter.twin(module) for adapter in adapters]
    except NoTwinError as why:
        _refuse(why.expected, why.got)
    return next((twin for twin in twins if twin is not None), None)

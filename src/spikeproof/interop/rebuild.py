"""A wrapped network rebuilt with our layers, where its neurons have exact twins here.

Which layers follow each other is seen in one forward pass. The result is compared with the network itself on
data, so that a twin that is none is refused and never measured.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.decoders import Count, MeanCurrent, MeanPotential
from spikeproof.encoders import Direct
from spikeproof.errors import InputError
from spikeproof.interop.frameworks.adapters import Layout, derives
from spikeproof.interop.frameworks.wrapped import AsItIs, TheirEncoder, Wrapped
from spikeproof.keys import Key
from spikeproof.networks.architecture import Architecture, OverTime, Parts, SpikingNetwork
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import IF, LIF, IntegrateAndFire, Integrator, LinearUnit, Spiking
from spikeproof.neurons.parts.resets import BySubtraction, Reset, ToZero
from spikeproof.protocols import Decoder
from spikeproof.surrogates import ATan

__all__ = ["ByAmount", "Chain", "rebuilt"]


@dataclass(frozen=True)
class ByAmount(Reset):
    """Reset by subtraction of an amount that is not the threshold.

    snnTorch subtracts the threshold one step late, when the rest of the potential has leaked: with a decay
    `b` it is `threshold / b` that goes at once.

    Args:
        amount: in units of potential.

    Example:
        >>> ByAmount(2.0)(torch.tensor([3.0, 0.5]), torch.tensor([1.0, 0.0]), 1.0).tolist()
        [1.0, 0.5]
    """

    amount: float

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.sub(v, z, alpha=self.amount, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, -self.amount


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


class _Twin(NamedTuple):
    """A neuron of ours, and what its input is multiplied by."""

    neuron: IntegrateAndFire
    gain: float


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
    layers, twins = _layers(chain)
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


def _refuse(expected: str, got: str) -> None:
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

    def note(module: nn.Module, given: tuple[Any, ...], answer: Any) -> None:
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
        looks = adapter.looks(last.module, last.given)
        if looks is not None:
            return looks[0] * sum(each.module is last.module for each in seen)
    _refuse("neurons in its last layer", type(last.module).__name__)
    return 0


def _layers(chain: Sequence[_Called]) -> tuple[list[nn.Module], list[_Twin]]:
    """Our layers in place of theirs."""
    layers, twins, waiting = list[nn.Module](), list[_Twin](), list[nn.Module]()
    for place, each in enumerate(chain):
        twin = _twin(each.module)
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
            return []
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


def _twin(module: nn.Module) -> _Twin | None:
    """The neuron of ours with the same equation; None for layers without memory.

    Raises:
        InputError: a neuron that has none.
    """
    if derives(module, "spikingjelly", "BaseNode"):
        return _of_spikingjelly(module)
    if derives(module, "snntorch", "SpikingNeuron"):
        return _of_snntorch(module)
    if derives(module, "norse", "SNN", "SNNCell", "SNNRecurrent", "SNNRecurrentCell"):
        _refuse("neurons with a twin here", f"{type(module).__name__} of Norse, whose current has a leak too")
    if derives(module, "sinabs", "StatefulLayer"):
        _refuse("neurons with a twin here", f"{type(module).__name__} of sinabs")
    return None


def _neuron(decay: float, threshold: float, reset: Reset, detach: bool) -> IntegrateAndFire:
    if decay == 1:
        return IF(threshold, reset, detach)
    return LIF(threshold, reset, detach, tau=-1.0 / math.log(decay), dt=1.0)


def _of_spikingjelly(module: Any) -> _Twin:
    known = sys.modules["spikingjelly.activation_based.neuron"]
    kinds: dict[type, Callable[[], tuple[float, float]]] = {
        known.IFNode: lambda: (1.0, 1.0),
        known.LIFNode: lambda: _leak(1 / module.tau, module.decay_input),
        known.ParametricLIFNode: lambda: _leak(float(module.w.detach().sigmoid()), module.decay_input),
    }
    if type(module) not in kinds or module.v_reset not in (None, 0.0):
        _refuse("neurons with a twin here", f"{type(module).__name__}(v_reset={module.v_reset})")
    decay, gain = kinds[type(module)]()
    reset = BySubtraction() if module.v_reset is None else ToZero()
    return _Twin(_neuron(decay, module.v_threshold, reset, module.detach_reset), gain)


def _leak(lost: float, decay_input: bool) -> tuple[float, float]:
    """Decay of the potential, and gain of the input."""
    return 1 - lost, lost if decay_input else 1.0


def _of_snntorch(module: Any) -> _Twin:
    snn = sys.modules["snntorch"]
    plain = module.threshold.numel() == module.beta.numel() == 1 and float(module.graded_spikes_factor) == 1
    if type(module) is not snn.Leaky or not plain or module.inhibition or module.state_quant:
        _refuse("neurons with a twin here", f"{type(module).__name__} with such options")
    if not module.reset_delay:  # a potential twice above the threshold is reset before it is compared
        _refuse("neurons with a twin here", f"{type(module).__name__}(reset_delay=False)")
    decay, theta = float(module.beta.detach().clamp(0, 1)), module.threshold.detach()
    if decay <= 0:
        _refuse("neurons with a memory", f"beta={decay}")
    above = float(torch.nextafter(theta, torch.full_like(theta, torch.inf)))  # it fires above, ours at
    resets: dict[str, Reset] = {
        "subtract": ByAmount(float(theta) / decay),
        "zero": ToZero(),
    }
    if module.reset_mechanism not in resets:
        _refuse("neurons that are reset", f"reset_mechanism={module.reset_mechanism!r}")
    return _Twin(_neuron(decay, above, resets[module.reset_mechanism], True), 1.0)

"""What every layer of a model does on a batch: its spike trains, and what reaches its linear layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.keys import Key
from spikeproof.networks.classifier import Classifier
from spikeproof.neurons import Spiking, potentials

__all__ = ["Activity", "Traces", "layer_spikes", "layer_traces"]


class Activity(NamedTuple):
    """The spikes of one layer."""

    layer: str  # "input", "hidden 1", ..., "output"
    spikes: Float[Tensor, "T B *F"]


class Traces(NamedTuple):
    """The spikes of one layer and the membrane potentials behind them."""

    layer: str
    spikes: Float[Tensor, "T B *F"]
    potential: Float[Tensor, "T B *F"] | None  # after input and leak and before spike and reset


@contextmanager
def listening(modules: dict[str, nn.Module], heard: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Note input and output of modules by name, with their gradients; afterwards nothing is attached."""

    def note(name: str) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
            heard[name] = given[0], found

        return modules[name].register_forward_hook(hook)

    handles = [note(name) for name in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _spiking(model: Classifier) -> list[nn.Module]:
    """The layers of spiking neurons, in order.

    Raises:
        InputError: there are none, or the network computes with spike times.
    """
    layers: list[nn.Module] = [
        module for module in model.network.modules() if isinstance(module, Spiking) and module.neuron.spiking
    ]
    if not layers or getattr(model.encoder, "timed", False):
        raise InputError(
            "Spikes are those of a model with spiking neurons in steps of time",
            f"a model of {model.spec.neuron!r} with the encoder {model.encoder!r}",
            "Analyse a spiking model.",
        )
    return layers


def sounding(
    model: Classifier, images: Float[Tensor, "B C H W"], key: Key | None = None
) -> list[Float[Tensor, "T B *F"]]:
    """The spikes of the input, if its code has spikes, and of every layer, with their gradients.

    Args:
        model: a spiking model.
        images: in [0, 1].
        key: as for a call of the model.

    Raises:
        InputError: the model has no spiking layer.
    """
    layers = {str(i): layer for i, layer in enumerate(_spiking(model))}
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    encoded = model.encode(images, key)
    with listening(layers, heard):
        model.respond(encoded)
    found = [heard[name][1] for name in layers]
    return [encoded, *found] if model.encoder.spiking else found


@torch.no_grad()
def layer_spikes(
    model: Classifier, images: Float[Tensor, "B C H W"], key: Key | None = None
) -> list[Activity]:
    """The spikes of the input, if its code has spikes, and of every layer of spiking neurons, in order.

    Args:
        model: a spiking model.
        images: in [0, 1].
        key: as for a call of the model.

    Raises:
        InputError: the model has no spiking layer, as an ANN.

    Example:
        >>> from spikeproof import Count, Latency, LIF, ATan, MLP, ModelSpec
        >>> model = ModelSpec(Latency(4), MLP((5,)), LIF(), ATan(), Count(), (1, 2, 2), 3).build(Key.of(0))
        >>> [(name, list(spikes.shape)) for name, spikes in layer_spikes(model, torch.rand(2, 1, 2, 2))]
        [('input', [4, 2, 1, 2, 2]), ('hidden 1', [4, 2, 5]), ('output', [4, 2, 3])]
    """
    return [Activity(*pair) for pair in zip(_names(model), sounding(model, images, key), strict=True)]


def _names(model: Classifier) -> list[str]:
    """The names of the input, if its code has spikes, and of every layer of spiking neurons, in order."""
    names = [f"hidden {i}" for i in range(1, len(_spiking(model)) + 1)]
    names = [*names[:-1], "output"] if model.spec.decoder.reads_spikes else names
    return ["input", *names] if model.encoder.spiking else names


@torch.no_grad()
def layer_traces(model: Classifier, images: Float[Tensor, "B C H W"], key: Key | None = None) -> list[Traces]:
    """The spikes of the layers that `layer_spikes` names, with the potentials of their neurons.

    The input has no potential, and neither have neurons whose state is something else.

    Args:
        model: a spiking model.
        images: in [0, 1].
        key: as for a call of the model.

    Raises:
        InputError: the model has no spiking layer, as an ANN.

    Example:
        >>> from spikeproof import Count, Latency, IF, ATan, MLP, ModelSpec
        >>> model = ModelSpec(Latency(4), MLP((5,)), IF(), ATan(), Count(), (1, 2, 2), 3).build(Key.of(0))
        >>> _, hidden, _ = layer_traces(model, torch.rand(2, 1, 2, 2))
        >>> bool((hidden.spikes == (hidden.potential >= 1)).all())
        True
    """
    layers = {str(i): layer for i, layer in enumerate(_spiking(model))}
    heard: dict[str, tuple[Tensor, Tensor]] = {}
    encoded = model.encode(images, key)
    with listening(layers, heard):
        model.respond(encoded)
    found: list[tuple[Tensor, Tensor | None]] = [(encoded, None)] if model.encoder.spiking else []
    found += [(heard[name][1], _potential(layer, heard[name][0])) for name, layer in layers.items()]
    return [Traces(name, *pair) for name, pair in zip(_names(model), found, strict=True)]


def _potential(layer: nn.Module, current: Tensor) -> Tensor | None:
    """The potentials of a layer, or None where its neurons have none."""
    try:
        return potentials(layer, current) if isinstance(layer, Spiking) else None
    except InputError:
        return None

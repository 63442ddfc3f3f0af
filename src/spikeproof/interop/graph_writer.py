"""Models of ours as graphs of NIR, which other frameworks and neuromorphic hardware read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.errors import InputError
from spikeproof.interop.graphs import Node, nir_package
from spikeproof.networks.architecture import OverTime, PooledConv2d, SpikingNetwork
from spikeproof.networks.classifier import Classifier
from spikeproof.networks.deep import Residual
from spikeproof.networks.pooling import GatedMaxPool
from spikeproof.neurons import IF, LIF, CuBaLIF, Integrator, LinearUnit, Recurrent, Spiking, ToZero

__all__ = ["to_nir"]


def to_nir(model: Classifier, *, dt: float = 1e-4) -> object:
    r"""The network of a model as a graph of NIR, which `nir.write(path, graph)` puts into a file.

    The graph holds what lies between encoder and decoder. Its equations give the spikes of the model with
    Euler's method and the step `dt`: where a share `d` is left after a step, `tau = dt / (1 - d)` and
    `r = tau / dt`. NIR has neurons fire above their threshold alone and ours fire at it, so `v_threshold` is
    the next smaller number of single precision. Batch normalisation becomes part of the convolution before
    it.

    Args:
        model: made of Linear, Conv2d, average pooling, Flatten, IF, LIF, CuBaLIF, recurrent layers of these,
            and integrators; neurons are reset to zero, as NIR resets them. With the decoder mean-current the
            graph ends with the last weights.
        dt: length of one step [s], positive, with which the graph is to be read; a leak is the same share
            of the potential in a step whatever it is.

    Raises:
        InputError: a part of the model has no counterpart in NIR, or the model is no `Classifier`.

    Example:
        >>> from spikeproof.decoders import Count
        >>> from spikeproof.encoders import Events
        >>> from spikeproof.interop.graphs import from_nir
        >>> from spikeproof.keys import Key
        >>> from spikeproof.networks import MLP, ModelSpec
        >>> from spikeproof.surrogates import ATan
        >>> spec = ModelSpec(Events(4), MLP((8,)), LIF(reset=ToZero()), ATan(), Count(), (5, 1, 1), 3)
        >>> model = spec.build(Key.of(0)).eval(); x = torch.ones(2, 4, 5, 1, 1)
        >>> torch.equal(from_nir(to_nir(model), encoder=Events(4))(x), model(x))
        True
    """
    nir = nir_package()
    if not isinstance(model, Classifier):
        raise InputError(
            "A model of spikeproof",
            type(model).__name__,
            "Export the network with its own framework, or wrap it with convert=True.",
        )
    if model.training:
        raise InputError("A model in evaluation mode", "one in training mode", "Call model.eval().")
    if model.spec.normalise is not None:
        raise InputError(
            "A network whose input is what the encoder makes",
            f"{model.spec.normalise!r}",
            "Normalise before the model, or fold it into the first weights.",
        )
    if not (dt > 0 and math.isfinite(dt)):
        raise InputError("A step of time has a positive length", f"dt={dt}", "Try dt=1e-4.")
    writer = _Writer(nir, dt)
    shape = model.spec.encoded_shape
    x = torch.zeros(1, 1, *shape, dtype=next(model.parameters()).dtype)
    nodes: dict[str, Node] = {"input": nir.Input(input_type={"input": np.array(shape)})}
    edges: list[tuple[str, str]] = []
    last = "input"
    for layer in _leaves(model.network):
        for node, loop in writer.nodes(layer, x):
            name = str(len(nodes))
            nodes[name] = node
            edges.append((last, name))
            last = name
            if loop is not None:
                nodes[f"{name}-back"] = loop
                edges += [(name, f"{name}-back"), (f"{name}-back", name)]
        with torch.no_grad():
            x = layer(x)
    nodes["output"] = nir.Output(output_type={"output": np.array(x.shape[2:])})
    return nir.NIRGraph(nodes=nodes, edges=[*edges, (last, "output")])


def _leaves(network: SpikingNetwork) -> Iterator[nn.Module]:
    """The layers over time, with those of inner networks in their place."""
    for layer in network.layers:
        if isinstance(layer, Residual):
            raise InputError(
                "A network whose layers come one after the other",
                "a residual block, which has two paths",
                "Use mlp, convnet or a vgg.",
            )
        if isinstance(layer, SpikingNetwork):
            yield from _leaves(layer)
        else:
            yield layer


@dataclass(frozen=True)
class _Writer:
    """Layers to nodes, with a step of time."""

    nir: ModuleType
    dt: float

    def nodes(self, layer: nn.Module, x: Float[Tensor, "T B *F"]) -> Iterator[tuple[Node, Node | None]]:
        """The nodes of one layer for an input, each with its recurrent weights or None.

        Raises:
            InputError: there is no counterpart.
        """
        if isinstance(layer, GatedMaxPool):
            raise _no_maximum(layer)
        if isinstance(layer, OverTime):
            parts = list(layer)
            now = x[0]
            for place, part in enumerate(parts):
                after = parts[place + 1] if place + 1 < len(parts) else None
                norm = after if isinstance(after, nn.BatchNorm2d) else None
                if not (isinstance(part, nn.BatchNorm2d) and place and _weighs(parts[place - 1])):
                    for node in self._still(part, norm, now):
                        yield node, None
                with torch.no_grad():
                    now = part(now)
        elif isinstance(layer, Integrator) and isinstance(layer.neuron, LinearUnit):
            return  # the graph ends with the weights, whose current is read
        elif isinstance(layer, Spiking | Integrator):
            yield self._neurons(layer, tuple(x.shape[2:]))
        else:
            raise _unwritten(layer)

    def _still(
        self, layer: nn.Module, norm: nn.BatchNorm2d | None, x: Float[Tensor, "B *F"]
    ) -> Iterator[Node]:
        """The nodes of a layer without memory."""
        if isinstance(layer, nn.Linear):
            weight = _numbers(layer.weight)
            yield (
                self.nir.Linear(weight)
                if layer.bias is None
                else self.nir.Affine(weight, _numbers(layer.bias))
            )
        elif isinstance(layer, nn.Conv2d):
            yield self._convolution(layer, norm, (int(x.shape[2]), int(x.shape[3])))
            if isinstance(layer, PooledConv2d):
                two = np.array([2, 2])
                yield self.nir.AvgPool2d(kernel_size=two, stride=two, padding=np.array([0, 0]))
        elif isinstance(layer, nn.AvgPool2d):
            size, stride, padding = (
                np.array(v if isinstance(v, tuple) else (v, v))
                for v in (layer.kernel_size, layer.stride, layer.padding)
            )
            if layer.ceil_mode or layer.divisor_override not in (None, 1):
                raise _unwritten(layer)
            kind = self.nir.SumPool2d if layer.divisor_override == 1 else self.nir.AvgPool2d
            yield kind(kernel_size=size, stride=stride, padding=padding)
        elif isinstance(layer, nn.MaxPool2d):
            raise _no_maximum(layer)
        elif isinstance(layer, nn.Flatten):
            begin, end = layer.start_dim, layer.end_dim
            yield self.nir.Flatten(
                input_type={"input": np.array(x.shape[1:])},
                start_dim=begin - (begin > 0),
                end_dim=end - (end > 0),
            )
        else:
            raise _unwritten(layer)

    def _convolution(self, layer: nn.Conv2d, norm: nn.BatchNorm2d | None, size: tuple[int, int]) -> Node:
        weight = layer.weight.detach().double()
        bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
        if layer.padding_mode != nn.Conv2d(1, 1, 1).padding_mode:
            raise _unwritten(layer)
        if norm is not None:
            if norm.running_mean is None or norm.running_var is None:
                raise _unwritten(norm)
            scale = (norm.running_var.double() + norm.eps).rsqrt()
            if norm.affine:
                scale = scale * norm.weight.detach().double()
            bias = (bias - norm.running_mean.double()) * scale
            if norm.affine:
                bias = bias + norm.bias.detach().double()
            weight = weight * scale.view(-1, 1, 1, 1)
        return self.nir.Conv2d(
            input_shape=size,
            weight=weight.float().numpy(),
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=bias.float().numpy(),
        )

    def _neurons(self, layer: Spiking | Integrator, shape: tuple[int, ...]) -> tuple[Node, Node | None]:
        neuron, loop = layer.neuron, None
        if isinstance(neuron, Recurrent):
            loop = self.nir.Linear(_numbers(layer.get_parameter("recurrent")))
            neuron = neuron.neuron
        if type(neuron) not in (IF, LIF, CuBaLIF) or getattr(neuron, "synapse", None) is not None:
            raise _unwritten(neuron)
        assert isinstance(neuron, IF | LIF | CuBaLIF)
        one = np.ones(shape)
        if isinstance(layer, Integrator) and isinstance(neuron, CuBaLIF):
            raise _unwritten(layer)
        decay = neuron.decay
        dynamics = {"r": one / self.dt}
        if isinstance(neuron, LIF | CuBaLIF):
            dynamics = {"tau": one * self.dt / (1 - decay), "r": one / (1 - decay), "v_leak": 0 * one}
        if isinstance(layer, Integrator):
            return (self.nir.I if isinstance(neuron, IF) else self.nir.LI)(**dynamics), None
        if not isinstance(neuron.reset, ToZero):
            raise InputError(
                "Neurons that are reset to zero after a spike, as those of NIR are",
                f"{neuron!r}",
                "Train with reset=ToZero(); a graph with another reset would give other spikes elsewhere.",
            )
        least = np.nextafter(np.float32(neuron.threshold), np.float32(-np.inf))
        dynamics |= {"v_threshold": one * float(least), "v_reset": 0 * one}
        if isinstance(neuron, IF):
            return self.nir.IF(**dynamics), loop
        if isinstance(neuron, LIF):
            return self.nir.LIF(**dynamics), loop
        fading = math.exp(-neuron.dt / neuron.tau_syn)
        dynamics |= {"tau_mem": dynamics.pop("tau"), "tau_syn": one * self.dt / (1 - fading), "w_in": one}
        return self.nir.CubaLIF(**dynamics), loop


def _weighs(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d)


def _numbers(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found


def _no_maximum(part: nn.Module) -> InputError:
    return InputError(
        "Pooling that NIR has a node for, which max pooling has not", f"{part!r}", "Use average pooling."
    )


def _unwritten(part: object) -> InputError:
    return InputError(
        "Layers and neurons that NIR has nodes for",
        f"{part!r}",
        "Use Linear, Conv2d, average pooling, Flatten, IF, LIF and CuBaLIF without a synapse.",
    )

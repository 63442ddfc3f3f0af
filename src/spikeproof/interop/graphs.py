"""Models from graphs of NIR, the neuromorphic intermediate representation, whose files many frameworks write.

A graph of NIR holds equations in continuous time and no step of time, and exporters put their own discrete
neurons into it in their own ways. So a graph alone does not say which spikes its network gives; with the
convention of who wrote it, it does. A node becomes a layer of ours only where that layer computes the same;
everything else is refused by the name of the node and of the parameter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import ClassVar, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from spikeproof.decoders import Count, MeanCurrent, MeanPotential
from spikeproof.errors import InputError, suggest
from spikeproof.networks.architecture import (
    Architecture,
    Observed,
    OverTime,
    Parts,
    SpikingNetwork,
)
from spikeproof.networks.classifier import Classifier, ModelSpec
from spikeproof.neurons import (
    IF,
    LIF,
    CuBaLIF,
    Integrator,
    LinearUnit,
    Recurrent,
    Spiking,
    ToZero,
)
from spikeproof.neurons.integrate import IntegrateAndFire
from spikeproof.neurons.parts.neuron import Never, State
from spikeproof.neurons.parts.resets import Reset
from spikeproof.protocols import Decoder, Encoder, reads_current, reads_potential
from spikeproof.regularfiles import open_regular
from spikeproof.surrogates import ATan, Surrogate

__all__ = ["CONVENTIONS", "Convention", "Node", "Subtraction", "from_nir", "nir_package"]

LARGEST = 1 << 31
"""Bytes of all arrays of a file."""
DEEPEST = 16
"""Groups inside each other in a file."""
MOST = 100_000
"""Groups and arrays of a file."""


class Subtraction(Enum):
    """Whether neurons subtract their threshold after a spike, where their file says that they are reset."""

    NEVER = "never"
    AT_ONCE = "at once"
    AFTER_LEAK = "after the leak of the next step"


@dataclass(frozen=True)
class Convention:
    r"""How the nodes of a graph stand for discrete neurons.

    With the share `d` of a potential that is left after a step and the gain `g` of a current,

    .. math:: v[t] = d\,v[t-1] + g\,I[t] + (1-d)\,v_{leak}, \quad d = 1 - dt/\tau, \quad g = (1-d)\,r

    which is one step of Euler's method; `IF` has `d = 1` and `g = r dt`. A synaptic current of `CubaLIF` has
    the same equation with `tau_syn` and `w_in` in place of `r`, and enters the potential in the step in which
    it rises.

    Args:
        dt: length of one step, in the unit of the time constants [s], positive.
        exponential: whether `d` is `exp(-dt / tau)`.
        per_step: whether `r` of `IF` and `w_in` are gains of one step, so that `g = r`.
        products: whether time constants were written as `tau dt`.
        unscaled: nodes whose `g` is 1 whatever they say, by the names of their types.
        strict: whether a neuron fires above its threshold alone, and not at it.
        subtraction: what neurons do after a spike in place of what the file says.
        many: whether a neuron fires as often in a step as its potential holds its threshold.
        unlike: types of nodes that stand for neurons of another equation, which are refused.
        feedback: whether neurons with recurrent connections follow the equation too.

    Raises:
        InputError: a step without a positive length.
    """

    dt: float = 1e-4
    exponential: bool = False
    per_step: bool = False
    products: bool = False
    unscaled: tuple[str, ...] = ()
    strict: bool = True
    subtraction: Subtraction = Subtraction.NEVER
    many: bool = False
    unlike: tuple[str, ...] = ()
    feedback: bool = True

    def __post_init__(self) -> None:
        if not (self.dt > 0 and math.isfinite(self.dt)):
            raise InputError("A step of time has a positive length", f"dt={self.dt}", "Try dt=1e-4.")

    def decay(self, tau: float) -> float:
        """The share of a potential that is left after a step."""
        ratio = self.dt**2 / tau if self.products else self.dt / tau
        return math.exp(-ratio) if self.exponential else 1 - ratio


CONVENTIONS: Mapping[str, Convention] = {
    "nir": Convention(),
    "norse": Convention(dt=1e-3, per_step=True, products=True),
    "sinabs": Convention(
        dt=1.0,
        exponential=True,
        per_step=True,
        unscaled=("LI",),
        strict=False,
        subtraction=Subtraction.AT_ONCE,
        many=True,
    ),
    "snntorch-subtract": Convention(subtraction=Subtraction.AFTER_LEAK),
    "snntorch-zero": Convention(unlike=("CubaLIF",), feedback=False),
    "spikingjelly": Convention(strict=False),
}
"""The exporters of NIR 1.0.8 whose files were tried. What a file does not say, the name says.

`snntorch` 1.0 writes a reset to zero whatever `reset_mechanism` is; with `zero`, its `Synaptic` and recurrent
neurons lose the input of the step after a spike, which no equation of NIR says. `sinabs` 3.1 writes time
constants in steps and neither subtraction, nor several spikes in a step, nor `norm_input`: these are the
defaults of its layers. `norse` 1.1 writes `tau dt` in place of `tau`. `spikingjelly` 2.0 writes what it
computes.
"""


Node = object
"""A node of a graph of the package `nir`, whose parameters are attributes."""


@dataclass(frozen=True)
class _LateSubtraction(Reset):
    """Reset by subtraction after the leak of the next step, which is more than the threshold before it."""

    amount: float

    def __call__(self, v: Tensor, z: Tensor, threshold: float, out: Tensor | None = None) -> Tensor:
        return torch.sub(v, z, alpha=self.amount, out=out)

    def slope(self, v: Tensor, z: Tensor, threshold: float) -> tuple[Tensor | float, Tensor | float]:
        return 1.0, -self.amount


@dataclass(frozen=True)
class _ManySpikes(IntegrateAndFire):
    """Neurons that fire as often in a step as their potential holds the threshold; the rest is kept.

    The gradient is that of the first spike.
    """

    binary: ClassVar[bool] = False
    left: float = 1.0

    @property
    def decay(self) -> float:
        return self.left

    def step(
        self, current: Float[Tensor, "B *F"], state: State, spike: Surrogate
    ) -> tuple[Float[Tensor, "B *F"], State]:
        v = self.decay * state.v + current
        if isinstance(spike, Never):
            return torch.zeros_like(v), State(v)
        first = spike(v - self.threshold)
        whole = torch.div(v, self.threshold, rounding_mode="trunc").clamp(min=0)
        z = first + (whole - first).detach()
        return z, State(v - self.threshold * z)


class _Scale(nn.Module):
    """Currents times a constant, plus another one."""

    offset: Tensor | None

    def __init__(self, gain: float, offset: Tensor | None = None) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("offset", offset)

    def forward(self, x: Float[Tensor, "B *F"]) -> Float[Tensor, "B *F"]:
        scaled = self.gain * x
        return scaled if self.offset is None else scaled + self.offset


@dataclass(frozen=True)
class _Graph(Architecture):
    """The layers of a graph, which come with their weights.

    Args:
        nodes: types of the nodes, in order.
        written_by: the convention that they were read in.
        recurrent: whether there are recurrent connections.
    """

    nodes: tuple[str, ...]
    written_by: Convention
    recurrent: bool

    @property
    def remembers(self) -> bool:  # type: ignore[override]
        return self.recurrent

    def build(self, inputs: tuple[int, int, int], classes: int, parts: Parts) -> SpikingNetwork:
        raise InputError(
            "A graph of NIR has weights of its own", "a request for new ones", "Use sp.from_nir(graph)."
        )


def nir_package() -> ModuleType:
    """The package `nir`.

    Raises:
        InputError: it cannot be imported.
    """
    try:
        import nir
    except ImportError as error:
        raise InputError(
            "Graphs of NIR need the package nir", str(error), "Run: pip install 'spikeproof[nir]'."
        ) from error
    module: ModuleType = nir
    return module


def from_nir(
    graph: object,
    *,
    encoder: Encoder,
    written_by: str | Convention = "nir",
    decoder: Decoder | None = None,
    surrogate: Surrogate = ATan(),
    input_shape: Sequence[int] | None = None,
) -> Classifier:
    r"""A model of our layers with the weights of a graph of NIR, in evaluation mode.

    Conv2d, Linear, Affine, AvgPool2d, SumPool2d, Flatten, Scale, IF, LIF, CubaLIF, LI, I and Linear or Affine
    weights from a layer of neurons back to itself, one after the other. Units are those of `Convention`: time
    constants and `dt` in seconds where the exporter writes seconds; `v_threshold`, `v_reset` and `v_leak` in
    units of potential. Neurons start at `v_leak`. A threshold that has to be exceeded is the next larger
    number of single precision.

    Args:
        graph: a graph of the package `nir`, or the path of a file of one.
        encoder: what makes spikes or currents of inputs, such as `Events(steps)`; a graph has none.
        written_by: a name of `CONVENTIONS`, or how the nodes are to be read.
        decoder: from outputs over time to logits; by default `Count()` of neurons that fire and
            `MeanPotential()` of those that only integrate, and `MeanCurrent()` of a graph that ends with
            weights.
        surrogate: the spike function whose derivative stands in for that of the spike.
        input_shape: inputs, or channels, height and width, of one step; by default what the graph says. Some
            exporters count the batch of their sample. Images are flattened for a graph that begins with a
            Linear or Affine node of as many inputs.

    Raises:
        InputError: the file is none of NIR, or a node, a connection or a parameter has no exact counterpart.

    Example:
        >>> import nir, numpy as np
        >>> from spikeproof.encoders import Events
        >>> one, weight = np.ones(3), np.eye(3)
        >>> graph = nir.NIRGraph.from_list(
        ...     nir.Linear(weight), nir.LIF(tau=2e-4 * one, r=2 * one, v_leak=0 * one, v_threshold=one)
        ... )
        >>> from_nir(graph, encoder=Events(4))(2 * torch.ones(1, 4, 3, 1, 1)).tolist()
        [[4.0, 4.0, 4.0]]

    Source:
        Pedersen et al. 2024, "Neuromorphic intermediate representation".
    """
    if isinstance(written_by, str) and written_by not in CONVENTIONS:
        raise InputError(
            "Expected who wrote the graph", repr(written_by), suggest(written_by, CONVENTIONS.keys())
        )
    convention = CONVENTIONS[written_by] if isinstance(written_by, str) else written_by
    nir = nir_package()
    if isinstance(graph, str | Path):
        graph = _read(Path(graph), nir)
    if not isinstance(graph, nir.NIRGraph):
        raise InputError("A graph of NIR", type(graph).__name__, "Pass a nir.NIRGraph or the path of a file.")
    begin, path, loops = _chain(*_flat(graph, nir), nir)
    shape = _input_shape(begin if input_shape is None else input_shape)
    reader = _Reader(nir, convention, surrogate)
    rows = len(shape) == 1 or _takes_rows(path[0][1], math.prod(shape))
    layers: list[nn.Module] = [nn.Flatten()] if rows else []
    for name, node in path:
        layers += reader.layers(name, node, loops.get(name))
    name, node = path[-1]
    if isinstance(layers[-1], nn.Linear):
        layers.append(Integrator(LinearUnit()))
    last = layers[-1]
    if not isinstance(last, Spiking | Integrator):
        raise InputError(
            "The last node of a classifier is a layer of neurons, or of weights whose current is read",
            f"{name!r}, {_kind(node)}",
            "End the graph with IF, LIF, CubaLIF, LI, I, Linear or Affine.",
        )
    decoder = decoder if decoder is not None else _reader(last)
    if (decoder.reads_spikes, reads_current(decoder)) != (isinstance(last, Spiking), _is_current(last)):
        raise InputError(
            "The decoder reads spikes of neurons that fire, potentials of neurons that only integrate, and "
            "the current where the graph ends with weights",
            f"{decoder!r} after {name!r}, {_kind(node)}",
            "Leave out the decoder.",
        )
    if isinstance(last, Spiking) and reads_potential(decoder):
        layers[-1] = Observed(last)
    network = SpikingNetwork(_over_time(layers)).eval()
    full = cast(tuple[int, int, int], (*shape, 1, 1)[:3])
    if not any(True for _ in network.parameters()):
        raise InputError("A layer with weights", "none in the graph", "Export the whole network.")
    classes = _width(network, full)
    neuron = next(layer.neuron for layer in layers if isinstance(layer, Spiking | Integrator))
    architecture = _Graph(tuple(_kind(node) for _, node in path), convention, bool(loops))
    spec = ModelSpec(encoder, architecture, neuron, surrogate, decoder, full, classes)
    if spec.encoded_shape != full:
        raise InputError(
            f"The graph takes {list(shape)} at every step",
            f"{encoder!r}, which makes {list(spec.encoded_shape)} of it",
            "Use an encoder that keeps the shape.",
        )
    return Classifier(spec, network).eval()


def _is_current(last: Spiking | Integrator) -> bool:
    """Whether the output layer gives its current as it is."""
    return isinstance(last.neuron, LinearUnit)


def _reader(last: Spiking | Integrator) -> Decoder:
    """The decoder of an output layer for which none was named."""
    if isinstance(last, Spiking):
        return Count()
    return MeanCurrent() if _is_current(last) else MeanPotential()


def _takes_rows(node: Node, size: int) -> bool:
    """Whether the first node multiplies rows of as many numbers as an input has."""
    weight = getattr(node, "weight", None)
    return weight is not None and np.ndim(weight) == 2 and np.shape(weight)[1] == size


def _kind(node: Node) -> str:
    return type(node).__name__


def _width(network: SpikingNetwork, shape: tuple[int, int, int]) -> int:
    """The number of outputs, if the layers fit each other.

    Raises:
        InputError: they do not, or the outputs are no row of numbers.
    """
    try:
        with torch.no_grad():
            out = network(torch.zeros(1, 1, *shape))
    except (RuntimeError, IndexError, ValueError) as error:
        raise InputError(
            "Nodes whose shapes fit each other", str(error).splitlines()[0], "Export the graph again."
        ) from error
    if out.ndim != 3:
        raise InputError(
            "The last node of a classifier has one neuron per class",
            f"outputs of shape {list(out.shape[2:])}",
            "Flatten them before the last weights.",
        )
    return int(out.shape[-1])


def _over_time(layers: Sequence[nn.Module]) -> list[nn.Module]:
    """Neighbouring layers without memory in one, for all steps at once."""
    found: list[nn.Module] = []
    held: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, Spiking | Integrator | Observed):
            found += [OverTime(*held), layer] if held else [layer]
            held = []
        else:
            held.append(layer)
    return found


def _input_shape(given: Node | Sequence[int]) -> tuple[int, ...]:
    """Inputs, or channels, height and width, as given or as the input of a graph says.

    Raises:
        InputError: it is neither.
    """
    said = given if isinstance(given, Sequence) else given.input_type["input"]  # type: ignore[attr-defined]
    shape = tuple(int(n) for n in np.atleast_1d(np.asarray(said)))
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise InputError(
            "Inputs of a shape [inputs] or [channels, height, width]",
            f"{list(shape)}",
            "Give input_shape, without the axes of time and batch.",
        )
    return shape


def _flat(graph: Node, nir: ModuleType, prefix: str = "") -> tuple[dict[str, Node], list[tuple[str, str]]]:
    """All nodes and edges of a graph, with those of the graphs in it in their place."""
    nodes: dict[str, Node] = {}
    edges = [(prefix + a, prefix + b) for a, b in graph.edges]  # type: ignore[attr-defined]
    for name, node in graph.nodes.items():  # type: ignore[attr-defined]
        here = prefix + name
        if not isinstance(node, nir.NIRGraph):
            nodes[here] = node
            continue
        inner, between = _flat(node, nir, here + ".")
        doors: dict[type, str] = {}
        for kind in (nir.Input, nir.Output):
            found = [n for n, each in inner.items() if isinstance(each, kind)]
            if len(found) != 1:
                raise InputError(
                    "A graph in a graph has one Input and one Output",
                    f"{len(found)} of {kind.__name__} in {here!r}",
                    "Export its layers one by one.",
                )
            doors[kind] = found[0]
        nodes |= inner
        edges = [
            (doors[nir.Output] if a == here else a, doors[nir.Input] if b == here else b) for a, b in edges
        ] + between
    inside = [n for n, node in nodes.items() if prefix == "" and "." in n and _is_door(node, nir)]
    for door in inside:  # what goes in comes out
        before, after = [a for a, b in edges if b == door], [b for a, b in edges if a == door]
        edges = [e for e in edges if door not in e] + [(a, b) for a in before for b in after]
        del nodes[door]
    return nodes, edges


def _is_door(node: Node, nir: ModuleType) -> bool:
    return isinstance(node, nir.Input | nir.Output)


def _chain(
    nodes: Mapping[str, Node], edges: Sequence[tuple[str, str]], nir: ModuleType
) -> tuple[Node, list[tuple[str, Node]], dict[str, Node]]:
    """The input, the nodes one after the other, and recurrent weights by the name of their neurons.

    Raises:
        InputError: the graph branches, or its ends are not one Input and one Output.
    """
    ends = [[n for n, node in nodes.items() if isinstance(node, kind)] for kind in (nir.Input, nir.Output)]
    if [len(each) for each in ends] != [1, 1]:
        raise InputError(
            "A graph with one Input and one Output",
            f"{len(ends[0])} and {len(ends[1])}",
            "Export a network with one input and one output.",
        )
    if unknown := [name for edge in edges for name in edge if name not in nodes]:
        raise InputError("Edges between nodes", f"one to {unknown[0]!r}", "Export the graph again.")
    pairs = set(edges)
    loops: dict[str, Node] = {}
    for neuron, weights in sorted(pairs):
        if (weights, neuron) in pairs and isinstance(nodes[weights], nir.Linear | nir.Affine):
            if neuron in loops:
                raise InputError(
                    "Neurons with one set of recurrent weights", f"two at {neuron!r}", "Add them up."
                )
            loops[neuron] = nodes[weights]
            pairs -= {(neuron, weights), (weights, neuron)}
    path, here = [], ends[0][0]
    while True:
        after = [b for a, b in sorted(pairs) if a == here]
        if len(after) != 1 or sum(b == after[0] for _, b in pairs) != 1:
            raise InputError(
                "Nodes one after the other, besides weights from neurons to themselves",
                f"{len(after)} nodes after {here!r}"
                if len(after) != 1
                else f"several nodes before {after[0]!r}",
                "Use sp.wrap with the network itself.",
            )
        here = after[0]
        if here == ends[1][0]:
            break
        path.append((here, nodes[here]))
        pairs = {edge for edge in pairs if edge[1] != here}
    if not path:
        raise InputError("A graph of layers", "an Input and an Output alone", "Export the network again.")
    return nodes[ends[0][0]], path, loops


@dataclass(frozen=True)
class _Reader:
    """Nodes to layers, in one convention."""

    nir: ModuleType
    convention: Convention
    surrogate: Surrogate

    def layers(self, name: str, node: Node, loop: Node | None) -> list[nn.Module]:
        """The layers of one node.

        Raises:
            InputError: there is no exact counterpart of it.
        """
        place = _Place(name, node)
        kinds = {
            self.nir.Linear: self._linear,
            self.nir.Affine: self._linear,
            self.nir.Scale: self._scale,
            self.nir.Conv2d: self._conv,
            self.nir.AvgPool2d: self._pool,
            self.nir.SumPool2d: self._pool,
            self.nir.Flatten: self._flatten,
        }
        neurons = {
            self.nir.IF: self._integrate_and_fire,
            self.nir.LIF: self._leaky,
            self.nir.CubaLIF: self._current_based,
            self.nir.LI: self._leaky,
            self.nir.I: self._integrate_and_fire,
        }
        if loop is not None and type(node) not in neurons:
            raise place.refused("A connection back to itself belongs to a layer of neurons", "a loop")
        if type(node) in kinds:
            return kinds[type(node)](place)
        if type(node) not in neurons:
            raise InputError(
                "Nodes " + ", ".join(kind.__name__ for kind in (*kinds, *neurons)),
                f"{name!r}, {_kind(node)}",
                "Use sp.wrap with the network itself.",
            )
        if _kind(node) in self.convention.unlike or (loop is not None and not self.convention.feedback):
            raise place.refused(
                "Neurons that do what their equation says",
                "neurons of another equation" if loop is None else "recurrent neurons of another equation",
            )
        return self._fed_back(place, neurons[type(node)](place), loop)

    def _linear(self, place: _Place) -> list[nn.Module]:
        weight = place.array("weight")
        if weight.ndim != 2:
            raise place.refused("A matrix of weights", f"weight of shape {list(weight.shape)}")
        bias = place.array("bias") if isinstance(place.node, self.nir.Affine) else None
        outputs, inputs = weight.shape
        layer = nn.Linear(inputs, outputs, bias=bias is not None)
        return [_filled(layer, weight, bias)]

    def _scale(self, place: _Place) -> list[nn.Module]:
        return [_Scale(place.number("scale"))]

    def _conv(self, place: _Place) -> list[nn.Module]:
        weight, groups = place.array("weight"), place.whole("groups")[0]
        if weight.ndim != 4:
            raise place.refused("Weights [out, in, height, width]", f"weight of shape {list(weight.shape)}")
        padding = place.padding()
        layer = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            cast(tuple[int, int], tuple(weight.shape[2:])),
            place.whole("stride"),
            padding,
            place.whole("dilation"),
            groups,
        )
        return [_filled(layer, weight, place.array("bias"))]

    def _pool(self, place: _Place) -> list[nn.Module]:
        summed = isinstance(place.node, self.nir.SumPool2d)
        size, stride, padding = (place.whole(name) for name in ("kernel_size", "stride", "padding"))
        return [nn.AvgPool2d(size, stride, padding, divisor_override=1 if summed else None)]

    def _flatten(self, place: _Place) -> list[nn.Module]:
        begin, end = (int(getattr(place.node, name)) for name in ("start_dim", "end_dim"))
        return [nn.Flatten(begin + (begin >= 0), end + (end >= 0))]  # behind the axis of the batch

    def _integrate_and_fire(self, place: _Place) -> tuple[float, nn.Module]:
        r = place.number("r")
        gain = r if self.convention.per_step else r * self.convention.dt
        if isinstance(place.node, self.nir.I):
            return gain, Integrator(IF())
        threshold = self._threshold(place, place.number("v_reset"))
        return gain, self._spiking(IF(threshold, self._reset(place, 1.0)), 1.0)

    def _leaky(self, place: _Place) -> tuple[float, nn.Module]:
        decay = self._decay(place, "tau")
        gain = 1.0 if _kind(place.node) in self.convention.unscaled else (1 - decay) * place.number("r")
        tau = _time_constant(place, "tau", decay, self.convention.dt)
        if isinstance(place.node, self.nir.LI):
            place.equal("v_leak", 0.0, "a leak potential of 0 in neurons whose potentials are read")
            return gain, Integrator(LIF(tau=tau, dt=self.convention.dt))
        rest = place.equal("v_leak", place.number("v_reset"), "v_leak equal to v_reset")
        neuron = LIF(self._threshold(place, rest), self._reset(place, decay), tau=tau, dt=self.convention.dt)
        return gain, self._spiking(neuron, decay)

    def _current_based(self, place: _Place) -> tuple[float, nn.Module]:
        if self.convention.many:
            raise place.refused("Neurons that fire once in a step", "several spikes in a step")
        decay, fading = self._decay(place, "tau_mem"), self._decay(place, "tau_syn")
        rise = place.number("w_in") * (1 if self.convention.per_step else 1 - fading)
        gain = rise * (1 - decay) * place.number("r") / (1 - fading)
        dt = self.convention.dt
        rest = place.equal("v_leak", place.number("v_reset"), "v_leak equal to v_reset")
        neuron = CuBaLIF(
            self._threshold(place, rest),
            self._reset(place, decay),
            tau=_time_constant(place, "tau_mem", decay, dt),
            dt=dt,
            tau_syn=_time_constant(place, "tau_syn", fading, dt),
        )
        return gain, self._spiking(neuron, decay)

    def _decay(self, place: _Place, name: str) -> float:
        tau = place.number(name)
        decay = self.convention.decay(tau) if tau > 0 else -1.0
        if not 0 <= decay < 1:
            raise place.refused(
                f"A time constant of at least one step of {self.convention.dt:g}", f"{name}={tau:g}"
            )
        return decay

    def _threshold(self, place: _Place, rest: float) -> float:
        """The least potential above rest at which a neuron fires, in single precision."""
        above = np.float32(place.number("v_threshold") - rest)
        if not above > 0:
            raise place.refused("A threshold above v_reset", f"v_threshold={place.number('v_threshold'):g}")
        return float(np.nextafter(above, np.float32(np.inf)) if self.convention.strict else above)

    def _reset(self, place: _Place, decay: float) -> Reset:
        if self.convention.subtraction is Subtraction.NEVER:
            return ToZero()
        place.equal("v_reset", 0.0, "v_reset of 0 in neurons that subtract their threshold")
        if self.convention.subtraction is Subtraction.AFTER_LEAK:
            if decay == 0:
                raise place.refused("A potential that outlasts a step", "a leak of all of it")
            return _LateSubtraction(place.number("v_threshold") / decay)
        return _LateSubtraction(place.number("v_threshold"))

    def _spiking(self, neuron: IF | LIF | CuBaLIF, decay: float) -> Spiking:
        if self.convention.many:
            return Spiking(_ManySpikes(neuron.threshold, left=decay), self.surrogate)
        return Spiking(neuron, self.surrogate)

    def _fed_back(self, place: _Place, made: tuple[float, nn.Module], loop: Node | None) -> list[nn.Module]:
        gain, layer = made
        offset: Tensor | None = None
        if loop is not None:
            if not isinstance(layer, Spiking):
                raise place.refused("Recurrent weights of neurons that fire", "those of an integrator")
            back = _Place(place.name, loop)
            weight = torch.from_numpy(back.array("weight")).float()
            layer = Spiking(Recurrent(layer.neuron), self.surrogate, features=len(weight))
            layer.get_parameter("recurrent").data = gain * weight
            if isinstance(loop, self.nir.Affine):
                offset = gain * torch.from_numpy(back.array("bias")).float()
        if np.float32(gain) == 1 and offset is None:
            return [layer]
        return [_Scale(gain, offset), layer]


@dataclass(frozen=True)
class _Place:
    """A node with its name, whose parameters are read and refused by name."""

    name: str
    node: Node

    def refused(self, expected: str, got: str) -> InputError:
        return InputError(
            expected,
            f"{got} at node {self.name!r}, {_kind(self.node)}",
            "Use sp.wrap with the network itself.",
        )

    def array(self, name: str) -> np.ndarray:
        """A parameter of real numbers."""
        try:
            value = np.array(getattr(self.node, name), dtype=np.float64)
        except (AttributeError, TypeError, ValueError):
            raise self.refused("Numbers", f"{name} that are none") from None
        if not np.isfinite(value).all():
            raise self.refused("Finite numbers", f"{name} with others")
        return value

    def number(self, name: str) -> float:
        """A parameter that is the same for all neurons."""
        value = self.array(name)
        if not value.size or (value != value.flat[0]).any():
            raise self.refused("One value for all neurons of a layer", f"{name} that differs between neurons")
        return float(value.flat[0])

    def equal(self, name: str, value: float, expected: str) -> float:
        """A parameter that has to have a value."""
        found = self.number(name)
        if found != value:
            raise self.refused(expected[0].upper() + expected[1:], f"{name}={found:g}")
        return found

    def whole(self, name: str) -> tuple[int, int]:
        """One or two whole numbers, as two."""
        value = self.array(name)
        if value.size not in (1, 2) or (value != value.round()).any() or (value < 0).any():
            raise self.refused("One or two whole numbers", f"{name}={value.tolist()}")
        return int(value.flat[0]), int(value.flat[-1])

    def padding(self) -> str | tuple[int, int]:
        """The padding of a convolution, which may be a word."""
        value = getattr(self.node, "padding", 0)
        return value if isinstance(value, str) else self.whole("padding")


def _filled(layer: nn.Linear | nn.Conv2d, weight: np.ndarray, bias: np.ndarray | None) -> nn.Module:
    layer.weight.data = torch.from_numpy(weight).float()
    if bias is not None and layer.bias is not None:
        layer.bias.data = torch.from_numpy(bias).float()
    return layer


def _time_constant(place: _Place, name: str, decay: float, dt: float) -> float:
    """The time constant of our neurons, which leak exponentially, for a share that is left after a step."""
    tau = -dt / math.log(decay) if decay > 0 else dt / 1000
    if np.float32(math.exp(-dt / tau)) != np.float32(decay):
        raise place.refused("A leak that single precision holds", f"{name}={place.number(name):g}")
    return tau


def _read(path: Path, nir: ModuleType) -> object:
    """The graph in a file.

    Raises:
        InputError: the file is none of NIR, leads outside itself, or is larger than any network.
    """
    import h5py  # a dependency of nir

    try:
        with open_regular(path) as plain:
            with h5py.File(plain, "r") as file:
                for size in _sizes(file, h5py, path):
                    if size > LARGEST:
                        raise InputError(f"{path}: arrays of at most {LARGEST} bytes", f"{size}", _AGAIN)
            plain.seek(0)
            return nir.read(plain)
    except InputError:
        raise
    except Exception as error:  # what a broken graph meets inside nir is of any kind
        raise InputError(
            f"{path}: expected a file of NIR",
            f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            _AGAIN,
        ) from error


_AGAIN = "Write it again with nir.write(path, graph)."


def _sizes(file: object, h5py: ModuleType, path: Path) -> Iterator[int]:
    """The bytes of all arrays so far, without reading any.

    Raises:
        InputError: there is a link, a reference or storage elsewhere, or too much inside each other.
    """
    total, seen, stack = 0, 0, [(file, 0)]
    while stack:
        group, depth = stack.pop()
        for name in group:  # type: ignore[attr-defined]
            seen += 1
            link = group.get(name, getlink=True)  # type: ignore[attr-defined]
            if not isinstance(link, h5py.HardLink) or depth > DEEPEST or seen > MOST:
                raise InputError(
                    f"{path}: expected groups and arrays of one file",
                    f"{name!r}, which is a link, or too many of them",
                    _AGAIN,
                )
            item = group[name]  # type: ignore[index]
            if isinstance(item, h5py.Group):
                stack.append((item, depth + 1))
                continue
            if item.external or item.is_virtual or h5py.check_ref_dtype(item.dtype) is not None:
                raise InputError(f"{path}: expected arrays of its own", f"{name!r} elsewhere", _AGAIN)
            total += int(item.size) * int(item.dtype.itemsize)
            yield total
